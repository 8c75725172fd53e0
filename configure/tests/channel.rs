//! The connection to a target, with a shell of this machine as the target.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use camino::{Utf8Path, Utf8PathBuf};
use proptest::prelude::*;
use std::time::Duration;
use vcl_configure::channel::{Answer, Batch, Channel, Started};
use vcl_configure::target::Transport;
use vcl_configure::{ErrorKind, Result};

const LIMIT: Duration = Duration::from_secs(60);
const BOUNDARY: &str = "7f3a9c51d2e84b06";

struct Scene {
    _kept: tempfile::TempDir,
    base: Utf8PathBuf,
}

impl Scene {
    fn new() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let base = Utf8Path::from_path(kept.path()).unwrap().join("it's $HOME \"base\"");
        Self { _kept: kept, base }
    }
    async fn open(&self) -> Channel {
        Channel::open(&Transport::Local, self.base.as_str(), BOUNDARY).await.unwrap()
    }
    fn script(&self, name: &str, text: &[u8]) -> String {
        let file = self.base.join(name);
        std::fs::write(&file, text).unwrap();
        file.into_string()
    }
}

async fn run(channel: &Channel, script: &str) -> Result<Answer> {
    let mut batch = Batch::default();
    batch.run(&[], script);
    Ok(channel.send(batch, LIMIT).await?.remove(0))
}

#[tokio::test]
async fn scripts_run_and_say_what_they_say() {
    let scene = Scene::new();
    let channel = scene.open().await;
    let said = scene.script(
        "said",
        b"printf 'a\\n\\0\\377'; echo oops >&2; printf %s \"$__object_id\"; cat; exit 7; echo no",
    );
    let mut batch = Batch::default();
    let id = "it's a\n$(touch /tmp/never) `x` \\ *";
    batch.run(&[("__object_id", id.as_bytes())], &said);
    batch.run(&[], &scene.script("quiet", b"test -z \"$__object_id\"; true"));
    batch.run(&[], &scene.script("fails", b"false; echo not reached"));
    batch.run(&[], "/nonexistent");
    let answers = channel.send(batch, LIMIT).await.unwrap();
    let expected =
        Answer { code: 7, stdout: [b"a\n\0\xff", id.as_bytes()].concat(), stderr: b"oops\n".to_vec() };
    assert_eq!(answers[0], expected);
    assert_eq!(answers[1], Answer { code: 0, stdout: vec![], stderr: vec![] });
    assert_eq!((answers[2].code, answers[2].stdout.len()), (1, 0));
    assert!(answers[3].code != 0 && !answers[3].stderr.is_empty(), "{:?}", answers[3]);
    channel.close().await;
}

/// A shell whose `head` may take more of the stream than it was told to.
async fn with_shell(scene: &Scene, shell: &str) -> Channel {
    let wrapper = scene.base.with_file_name("wrapper");
    let text = format!(
        "#!/bin/sh\nl=${{2#\"exec /bin/sh -c '\"}}\nPATH={}:$PATH exec {shell} -c \"${{l%\\'}}\"\n",
        scene.base.with_file_name("bin")
    );
    std::fs::write(&wrapper, text).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let transport = Transport::Command { words: vec![wrapper.into_string()], host: "there".into() };
    Channel::open(&transport, scene.base.as_str(), BOUNDARY).await.unwrap()
}

#[tokio::test]
async fn other_shells_do_it_too_and_a_head_that_takes_too_much() {
    // `head` of the C library's streams, as on BSD: it reads a whole buffer.
    let greedy =
        "#!/usr/bin/python3\nimport os, sys\nsys.stdout.buffer.write(os.read(0, 65536)[:int(sys.argv[2])])\n";
    for (shell, head) in [("dash", ""), ("bash", ""), ("busybox sh", ""), ("dash", greedy)] {
        let scene = Scene::new();
        let bin = scene.base.with_file_name("bin");
        std::fs::create_dir(&bin).unwrap();
        if !head.is_empty() {
            std::fs::write(bin.join("head"), head).unwrap();
            std::fs::set_permissions(bin.join("head"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
        }
        let channel = with_shell(&scene, shell).await;
        let mut batch = Batch::default();
        let content: Vec<u8> = (0..40_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        batch.put(scene.base.join("file").as_str(), &content);
        batch.run(&[("V", b"it's $x")], &scene.script("v", b"printf %s \"$V\"; exit 3"));
        let answers = channel.send(batch, LIMIT).await.unwrap();
        assert_eq!((answers[0].code, answers[0].stdout.as_slice()), (3, b"it's $x".as_slice()), "{shell}");
        assert!(std::fs::read(scene.base.join("file")).unwrap() == content, "{shell}");
        channel.close().await;
    }
}

/// An account's own shell may be none of POSIX's: it is called with one line, and only that leads to `/bin/sh`.
#[tokio::test]
async fn a_login_shell_may_be_of_another_kind() {
    for shell in ["tcsh", "tcsh -f"] {
        let scene = Scene::new();
        let wrapper = scene.base.with_file_name("wrapper");
        std::fs::write(&wrapper, format!("#!/bin/sh\nexec {shell} -c \"$2\"\n")).unwrap();
        std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let transport = Transport::Command { words: vec![wrapper.into_string()], host: "there".into() };
        let channel = Channel::open(&transport, scene.base.as_str(), BOUNDARY).await.unwrap();
        let mut batch = Batch::default();
        batch.run(&[("V", b"it's ! $x `y`\n")], &scene.script("v", b"printf %s \"$V\"; exit 3"));
        let answers = channel.send(batch, LIMIT).await.unwrap();
        assert_eq!(
            (answers[0].code, answers[0].stdout.as_slice()),
            (3, b"it's ! $x `y`\n".as_slice()),
            "{shell}"
        );
        assert!(channel.kill().await, "{shell}: the line that ends it is understood too");
    }
}

#[tokio::test]
async fn files_arrive_whole_and_batches_in_order() {
    let scene = Scene::new();
    let channel = scene.open().await;
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let files: [(&str, &[u8]); 5] =
        [("empty", b""), ("small", b"it's\n$x"), ("nul", b"a\0b"), ("large", &large), ("after", b"end")];
    let mut sent = Vec::new();
    for (name, content) in files {
        let mut batch = Batch::default();
        batch.put("/nonexistent/directory/file", content);
        sent.push(channel.send(batch, LIMIT));
        let mut batch = Batch::default();
        batch.put(scene.base.join(name).as_str(), content);
        let after = scene.base.as_str().replace('\'', "'\\''");
        batch.line(format!("cat '{after}/after' 2>/dev/null || echo {name}").as_bytes(), name);
        sent.push(channel.send(batch, LIMIT));
    }
    let mut said = Vec::new();
    // All of them are sent before the first is answered.
    for answers in futures::future::join_all(sent).await {
        said.extend(answers.unwrap().into_iter().map(|answer| String::from_utf8(answer.stdout).unwrap()));
    }
    assert_eq!(said, ["empty\n", "small\n", "nul\n", "large\n", "end"]);
    for (name, content) in files {
        assert!(std::fs::read(scene.base.join(name)).unwrap() == content, "{name}");
    }
    channel.close().await;
}

#[tokio::test]
async fn what_hangs_is_ended_with_all_that_it_started() {
    let scene = Scene::new();
    let channel = scene.open().await;
    let marker = scene.base.join("alive");
    let fifo = scene.base.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // It holds the pipe open for writing until it is ended.
    let text =
        format!("touch \"{m}\"; ( trap '' TERM HUP; exec sleep 1000 ) >\"{f}\" & wait", m = "$1", f = "$2");
    let hangs = scene.script("hangs", text.replace("$1", "alive").replace("$2", "fifo").as_bytes());
    let mut batch = Batch::default();
    let quoted = scene.base.as_str().replace('\'', "'\\''");
    batch.line(format!("cd '{quoted}'; exec sh '{}'", hangs.replace('\'', "'\\''")).as_bytes(), "what hangs");
    let reader = tokio::task::spawn_blocking({
        let fifo = fifo.clone();
        move || std::fs::read(fifo).unwrap()
    });
    let error = channel.send(batch, Duration::from_millis(500)).await.unwrap_err();
    assert!(error.kind == ErrorKind::Deadline && error.context.contains("what hangs"), "{error}");
    assert!(marker.exists());
    channel.kill().await;
    // The pipe ends when nobody has it open any more.
    tokio::time::timeout(LIMIT, reader).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_time_is_one_scripts_and_not_all_of_them() {
    let scene = Scene::new();
    let channel = scene.open().await;
    let fifo = scene.base.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let quoted = scene.base.as_str().replace('\'', "'\\''");
    let mut batch = Batch::default();
    for n in 0..6 {
        batch.line(format!("read -r _ <'{quoted}/fifo'").as_bytes(), &format!("line {n}"));
    }
    // Each line takes two fifths of the limit, all of them more than twice the limit.
    let limit = Duration::from_secs(1);
    let begun = std::time::Instant::now();
    let (answers, ()) = tokio::join!(channel.send(batch, limit), async {
        for _ in 0..6 {
            tokio::time::sleep(limit * 2 / 5).await; // why: time that passes is what this is about
            tokio::fs::write(&fifo, "\n").await.unwrap();
        }
    });
    assert_eq!(answers.unwrap().len(), 6);
    assert!(begun.elapsed() > limit * 2);
    channel.close().await;
}

#[tokio::test]
async fn what_cannot_be_put_there_keeps_its_scripts_from_running() {
    let scene = Scene::new();
    let large = vec![0; 100_000];
    for (path, content) in
        [("/dev/full", &b"small"[..]), ("/nonexistent/x", b"small"), ("/nonexistent/x", &large)]
    {
        let channel = scene.open().await;
        let mut batch = Batch::default();
        batch.put(path, content).line(b"echo it runs", "it");
        let answer = channel.send(batch, LIMIT).await.unwrap().remove(0);
        let said = String::from_utf8(answer.stderr).unwrap();
        assert!(answer.code == 125 && answer.stdout.is_empty(), "{path}: {said}");
        assert_eq!(said, format!("cannot write {path}\n"));
        // The next batch is another's.
        let mut batch = Batch::default();
        batch.line(b"echo it runs", "it");
        assert_eq!(channel.send(batch, LIMIT).await.unwrap()[0].stdout, b"it runs\n");
        channel.close().await;
    }
    // A disk that is full in the middle of a file.
    let channel = scene.open().await;
    let mut batch = Batch::default();
    batch.put("/dev/full", &large).line(b"echo it runs", "it");
    let error = channel.send(batch, LIMIT).await.unwrap_err();
    assert!(error.kind == ErrorKind::Failed && error.context.contains("cannot write /dev/full"), "{error}");
}

#[tokio::test]
async fn too_much_is_no_answer_and_a_broken_connection_is_said() {
    let scene = Scene::new();
    let channel = scene.open().await;
    let error = run(&channel, &scene.script("much", b"head -c 20000000 /dev/zero")).await.unwrap_err();
    assert!(error.context.contains("16 MiB"), "{error}");
    channel.kill().await;

    let channel = scene.open().await;
    // The loop is its grandparent: the subshell that would be has become the script.
    let error = run(&channel, &scene.script("ends", b"kill -KILL $PPID")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert_eq!(run(&channel, "/dev/null").await.unwrap_err().kind, ErrorKind::Unreachable);

    let nobody = Transport::Command { words: vec!["false".into()], host: "nobody".into() };
    let error = Channel::open(&nobody, "/tmp/never", BOUNDARY).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unreachable && error.context.starts_with("nobody: "), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Whatever bytes a value, a file or its name has: they arrive as they are, and nothing of them runs.
    #[test]
    fn bytes_are_bytes(value in prop::collection::vec(1u8..=255, 0..200),
                       content in prop::collection::vec(any::<u8>(), 0..5000),
                       name in "[^/\0\n]{1,40}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let scene = Scene::new();
            let channel = scene.open().await;
            let path = scene.base.join("files").join(format!("f{name}"));
            std::fs::create_dir(scene.base.join("files")).unwrap();
            let mut batch = Batch::default();
            batch.put(path.as_str(), &content);
            batch.run(&[("V", &value)], &scene.script("v", b"printf %s \"$V\""));
            let answers = channel.send(batch, LIMIT).await.unwrap();
            assert_eq!(answers[0].stdout, value);
            assert_eq!(std::fs::read(&path).unwrap(), content);
            assert_eq!(std::fs::read_dir(scene.base.join("files")).unwrap().count(), 1);
            channel.close().await;
        });
    }
}

/// Two that wait for each other come to their ends; their answers stand in the order in which they were asked for.
#[tokio::test]
async fn scripts_run_beside_each_other_as_many_as_are_wanted() {
    let scene = Scene::new();
    let channel = scene.open().await;
    let meets = |name: &str, mine: &str, other: &str| {
        let text =
            format!("d=${{0%/*}}; touch \"$d/{mine}\"; until [ -e \"$d/{other}\" ]; do :; done; echo {name}");
        scene.script(name, text.as_bytes())
    };
    let scripts: Vec<_> = [("first", "a", "b"), ("second", "b", "a"), ("third", "c", "c")]
        .iter()
        .map(|(name, mine, other)| (Vec::new(), meets(name, mine, other)))
        .collect();
    let mut batch = Batch::default();
    batch.beside(&scripts, 2);
    let answers = channel.send(batch, LIMIT).await.unwrap();
    let said: Vec<&[u8]> = answers.iter().map(|answer| answer.stdout.as_slice()).collect();
    assert_eq!(said, [b"first\n".as_slice(), b"second\n", b"third\n"]);
    // Each has its own code and streams, also where a disk that is full takes nothing of what stands between them.
    let scripts: Vec<_> = (0..3)
        .map(|n| {
            (
                Vec::new(),
                scene.script(&format!("ends{n}"), format!("printf {n}; echo e{n} >&2; exit {n}").as_bytes()),
            )
        })
        .collect();
    for full in [&[][..], &[".mid1"], &[".end0"], &[".mid2", ".end2"]] {
        for name in full {
            let _ = std::fs::remove_file(scene.base.join(name));
            std::os::unix::fs::symlink("/dev/full", scene.base.join(name)).unwrap();
        }
        let mut batch = Batch::default();
        batch.beside(&scripts, 3).line(b"echo after", "after");
        let answers = channel.send(batch, LIMIT).await.unwrap();
        for (n, answer) in answers.iter().take(3).enumerate() {
            let expected = Answer {
                code: u8::try_from(n).unwrap(),
                stdout: n.to_string().into_bytes(),
                stderr: format!("e{n}\n").into_bytes(),
            };
            assert_eq!(*answer, expected, "{full:?}");
        }
        assert_eq!(answers[3].stdout, b"after\n", "{full:?}");
        for name in full {
            std::fs::remove_file(scene.base.join(name)).unwrap();
        }
    }
    // Which of those it is that does not end is not known; all are named.
    let hangs = scene.script("hangs", b"sleep 60");
    let mut batch = Batch::default();
    batch.beside(&[(Vec::new(), scripts[0].1.clone()), (Vec::new(), hangs.clone())], 2);
    let error = channel.send(batch, Duration::from_millis(500)).await.unwrap_err();
    assert!(error.kind == ErrorKind::Deadline && error.context.contains(&hangs), "{error}");
    channel.kill().await;
}

#[tokio::test]
async fn what_is_sent_in_a_sequence_ends_with_the_first_that_fails() {
    let scene = Scene::new();
    let channel = scene.open().await;
    let (well, fails) = (scene.script("well", b"echo well"), scene.script("fails", b"echo no >&2; exit 4"));
    let mut pending = Vec::new();
    for script in [&well, &fails, &well] {
        let mut batch = Batch::default();
        batch.run_in_sequence(&[], script);
        pending.push(channel.post(batch).unwrap());
    }
    let mut codes = Vec::new();
    for one in pending {
        let answer = one.answers(LIMIT).await.unwrap().remove(0);
        codes.push((
            answer.code,
            String::from_utf8(answer.stdout).unwrap(),
            String::from_utf8(answer.stderr).unwrap(),
        ));
    }
    let skipped = "what was to be done before has failed\n";
    let expected = [(0, "well\n", ""), (4, "", "no\n"), (125, "", skipped)];
    assert_eq!(codes, expected.map(|(code, out, err)| (code, out.to_owned(), err.to_owned())));
    // What is in no sequence runs all the same.
    assert_eq!(run(&channel, &well).await.unwrap().code, 0);
    channel.close().await;
}

/// The number of a loop that has ended may be another's by now.
#[tokio::test]
async fn only_what_a_loop_has_started_is_killed() {
    use std::os::unix::process::CommandExt as _;
    let scene = Scene::new();
    let channel = scene.open().await;
    let life = channel.started().line();
    let life = life.split_once(' ').unwrap().1;
    let mut other = std::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
    let started = Started::read(&format!("{} {life}", other.id())).unwrap();
    assert!(started.kill(&Transport::Local, scene.base.as_str()).await);
    assert!(other.try_wait().unwrap().is_none(), "somebody else was killed");
    // It is the loop's where the loop says so.
    std::fs::write(scene.base.join(".loop"), format!("{}\n", started.line())).unwrap();
    assert!(started.kill(&Transport::Local, scene.base.as_str()).await);
    assert!(!other.wait().unwrap().success());
    channel.close().await;
}
