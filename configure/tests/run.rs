//! Whole runs against a shell of this machine, with types that leave what they do in a directory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_configure::conf::Conf;
use vcl_configure::environment::Host;
use vcl_configure::run::{Progress, Report, Wish, run};
use vcl_configure::target::Transport;
use vcl_configure::tree::State;
use vcl_configure::{ErrorKind, Result};

struct Site {
    kept: tempfile::TempDir,
}

impl Site {
    /// With a type that makes a file what it is told, one that uses it, and one of which there is one.
    fn new() -> Self {
        let site = Self { kept: tempfile::tempdir().unwrap() };
        site.write("conf/explorer/here", "pwd; echo \"$__target_host\"\n");
        site.write("conf/type/__text/parameter/required", "content\n");
        site.write("conf/type/__text/explorer/now", "cat \"$OUT/$__object_id\" 2>/dev/null || echo absent\n");
        let gencode = "now=$(cat \"$__object/explorer/now\"); content=$(cat \"$__object/parameter/content\")\n\
                       [ \"$now\" = \"$content\" ] && exit 0\n\
                       echo changed >> \"$__messages_out\"\n\
                       echo 'cat \"$__object/parameter/content\" > \"$OUT/$__object_id\"'\n";
        site.write("conf/type/__text/gencode-remote", gencode);
        site.write("conf/type/__pair/parameter/optional", "left\n");
        site.write("conf/type/__pair/parameter/default/left", "l\n");
        let manifest = "__text \"$__object_id-left\" --content \"$(cat \"$__object/parameter/left\")\"\n\
                        require=__text/\"$__object_id-left\" __text \"$__object_id-right\" --content r\n";
        site.write("conf/type/__pair/manifest", manifest);
        site.write("conf/type/__copied/singleton", "");
        let local = "printf 'echo from here > \"%s/source\"\\n' \"$__global\"\n\
                     echo '$__remote_copy \"$__global/source\" \"$__target_host:$OUT/copied\"'\n\
                     echo '$__remote_exec \"$__target_host\" \"cat >$OUT/streamed\" <\"$__global/source\"'\n";
        site.write("conf/type/__copied/gencode-local", local);
        site
    }
    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.kept.path()).unwrap()
    }
    fn out(&self) -> Utf8PathBuf {
        let out = self.path().join("out");
        fs::create_dir_all(&out).unwrap();
        out
    }
    fn write(&self, file: &str, text: &str) {
        let file = self.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        // What writes where this test looks is told so by its text.
        fs::write(&file, text.replace("$OUT", self.path().join("out").as_str())).unwrap();
    }
    fn wish(&self, name: &str, manifest: &str) -> Wish {
        self.out();
        self.write("init", manifest);
        let directory = self.path().join(name);
        fs::create_dir(&directory).unwrap();
        Wish {
            host: Host {
                name: "target".into(),
                hostname: "target".into(),
                fqdn: "target.example".into(),
                tags: vec![],
            },
            transport: Transport::Local,
            conf: Conf::layer(&[self.path().join("conf")]).unwrap(),
            manifest: self.path().join("init"),
            directory,
            base: self.path().join("base").into_string(),
            command: env!("CARGO_BIN_EXE_vcl-emulator").into(),
            jobs: 4,
            dry_run: false,
            install: false,
            limit: Duration::from_secs(30),
            within: None,
            memo: None,
            secrets: Default::default(),
            patience: Duration::from_secs(30),
            stop: CancellationToken::new(),
            progress: None,
        }
    }
    async fn run(&self, name: &str, manifest: &str) -> Result<Report> {
        run(self.wish(name, manifest)).await
    }
    fn made(&self, file: &str) -> String {
        fs::read_to_string(self.path().join("out").join(file)).unwrap()
    }
}

fn changed(report: &Report) -> Vec<String> {
    report.objects.iter().filter(|done| done.changed).map(|done| done.object.to_string()).collect()
}

const PAIR: &str = "require=__pair/a __text last --content \"it's \\$1\"\n__pair a --left 'two words'\n__text b --content b\n";

#[tokio::test]
async fn a_machine_is_made_what_its_manifest_says_and_stays_so() {
    let site = Site::new();
    let report = site.run("first", PAIR).await.unwrap();
    assert_eq!(changed(&report), ["__text/b", "__text/a-left", "__text/a-right", "__text/last"]);
    assert_eq!((site.made("a-left"), site.made("a-right")), ("two words\n".into(), "r\n".into()));
    assert_eq!(site.made("last"), "it's $1\n");
    let data = site.path().join("first/data");
    let read = |file: &str| fs::read_to_string(data.join(file)).unwrap();
    assert_eq!(read("explorer/here"), "/\ntarget\n");
    assert_eq!(read("messages").lines().count(), 4);
    assert_eq!(read("typeorder"), "__text/last\n__pair/a\n__text/b\n__text/a-left\n__text/a-right\n");
    let again = site.run("second", PAIR).await.unwrap();
    assert!(again.objects.len() == 5 && changed(&again).is_empty(), "{again:?}");
}

#[tokio::test]
async fn files_and_streams_go_to_the_target_by_the_commands_that_types_use() {
    let site = Site::new();
    let report = site.run("first", "__copied\n").await.unwrap();
    assert_eq!(changed(&report), ["__copied/"]);
    assert_eq!((site.made("copied"), site.made("streamed")), ("from here\n".into(), "from here\n".into()));
    let mode = fs::metadata(site.path().join("out/copied")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "as its source, which is private as all that scripts make");
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let site = Site::new();
    let wish = Wish { dry_run: true, ..site.wish("dry", PAIR) };
    let report = run(wish).await.unwrap();
    assert_eq!(changed(&report).len(), 4);
    assert_eq!(fs::read_dir(site.out()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_fails_says_where_and_ends_the_run() {
    let site = Site::new();
    site.write("conf/type/__bad/parameter/required", "at\n");
    for (script, text) in [
        ("manifest", "[ \"$(cat \"$__object/parameter/at\")\" != manifest ] || { echo oops >&2; exit 3; }\n"),
        (
            "gencode-local",
            "[ \"$(cat \"$__object/parameter/at\")\" != gencode-local ] || { echo oops >&2; exit 3; }\n",
        ),
        (
            "gencode-remote",
            "[ \"$(cat \"$__object/parameter/at\")\" != code-remote ] || echo 'echo oops >&2; exit 3'\n",
        ),
        (
            "explorer/x",
            "[ \"$(cat \"$__object/parameter/at\")\" != explorer ] || { echo oops >&2; exit 3; }\n",
        ),
    ] {
        site.write(&format!("conf/type/__bad/{script}"), text);
    }
    for at in ["manifest", "gencode-local", "code-remote", "explorer"] {
        let manifest = format!(
            "__text before --content {at}\nrequire=__text/before __bad x --at {at}\nrequire=__bad/x __text after --content {at}\n"
        );
        let error = site.run(at, &manifest).await.unwrap_err();
        let said = error.chain();
        assert!(
            error.kind == ErrorKind::Failed && said.contains("__bad/x") && said.contains("oops"),
            "{at}: {said}"
        );
        assert!(said.contains(at) && said.contains('3'), "{at}: {said}");
        assert_eq!(site.made("before"), format!("{at}\n"));
        assert!(!site.out().join("after").exists());
    }
    let cases = [
        ("wrong", "__text x\n", "the following arguments are required: --content"),
        ("nosuch", "require=__text/never __text x --content x\n", "__text/never, which nothing defines"),
        (
            "ring",
            "require=__text/y __text x --content x\nrequire=__text/x __text y --content y\n",
            "wait for each other",
        ),
        ("twice", "__text x --content x\n__text x --content y\n", "with other parameters"),
    ];
    for (name, manifest, why) in cases {
        let error = site.run(name, manifest).await.unwrap_err();
        assert!(error.chain().contains(why), "{name}: {}", error.chain());
    }
}

#[tokio::test]
async fn what_does_not_end_is_ended() {
    let site = Site::new();
    site.write("conf/type/__slow/parameter/required", "at\n");
    site.write(
        "conf/type/__slow/manifest",
        "[ \"$(cat \"$__object/parameter/at\")\" != here ] || exec sleep 1000\n",
    );
    site.write("conf/type/__slow/gencode-remote", "echo 'exec sleep 1000'\n");
    for at in ["here", "there"] {
        let wish = Wish { limit: Duration::from_secs(1), ..site.wish(at, &format!("__slow x --at {at}\n")) };
        assert_eq!(run(wish).await.unwrap_err().kind, ErrorKind::Deadline, "{at}");
    }
    let wish = site.wish("called-off", "echo begun > $OUT/begun; exec sleep 1000\n");
    let (stop, begun) = (wish.stop.clone(), site.out().join("begun"));
    let (ended, ()) = tokio::join!(run(wish), async {
        while !begun.exists() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    });
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled);
}

/// A type whose code leaves a line in a log, and that leaves files where it generates code, as many do.
fn logged(site: &Site) {
    site.write("conf/type/__logged/explorer/there", "[ ! -e \"$OUT/$__object_id\" ] || echo yes\n");
    site.write(
        "conf/type/__logged/manifest",
        "mkdir \"$__object/files\"; echo m > \"$__object/files/of-manifest\"\n",
    );
    let local = "[ -e \"$__object/files/of-manifest\" ] || exit 9\nmkdir \"$__object/files/more\"\n[ -z \"$(cat \"$__object/explorer/there\")\" ] || exit 0\n\
                 echo content > \"$__object/files/more/x\"; echo applied >> \"$__messages_out\"\n\
                 echo \"$__remote_copy \\\"$__object/files/more/x\\\" \\\"$__target_host:$OUT/$__object_id.new\\\"\"\n";
    site.write("conf/type/__logged/gencode-local", local);
    let remote = "[ -z \"$(cat \"$__object/explorer/there\")\" ] || exit 0\n\
                  echo 'mv \"$OUT/$__object_id.new\" \"$OUT/$__object_id\"; echo \"$__object_id\" >> \"$OUT/log\"'\n";
    site.write("conf/type/__logged/gencode-remote", remote);
}

const LOGGED: &str = "__logged a\nrequire=__logged/a __logged b\n__pair a\nrequire=__pair/a __logged c\n__text t --content x\n";

fn check_logged(site: &Site, report: &Report, how: &str) {
    let mut names: Vec<String> = report.objects.iter().map(|done| done.object.to_string()).collect();
    names.sort();
    let all =
        ["__logged/a", "__logged/b", "__logged/c", "__pair/a", "__text/a-left", "__text/a-right", "__text/t"];
    assert_eq!(names, all, "{how}");
    let mut log: Vec<String> = fs::read_to_string(site.path().join("out/log"))
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect();
    let lines = log.len();
    log.sort();
    log.dedup();
    assert_eq!(log.len(), lines, "{how}: something was done twice: {log:?}");
    for (file, content) in
        [("a", "content\n"), ("b", "content\n"), ("c", "content\n"), ("a-left", "l\n"), ("t", "x\n")]
    {
        assert_eq!(site.made(file), content, "{how}");
    }
}

/// The first connection ends after so many bytes of what the target says, at each place of a run.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_anywhere_is_made_again_and_nothing_is_done_twice() {
    let mut whole = 0;
    for cut in 0.. {
        let at = if cut == 0 { u64::MAX >> 1 } else { 130 + 61 * (cut - 1) };
        if cut > 1 && at > whole {
            break;
        }
        let site = Site::new();
        logged(&site);
        // As an sshd has it, the shell has a session of its own, and nobody keeps the stream open when it was cut off.
        let link = "shift; if mkdir \"$OUT/../first\" 2>/dev/null; then exec 3<&0; { setsid sh -c \"$1\" <&3 | dd bs=1 count=AT 2>/dev/null | \
                    tee \"$OUT/../said\"; } & exec >&- 2>&-; wait; else exec setsid -w sh -c \"$1\"; fi\n";
        site.write("link", &link.replace("AT", &at.to_string()));
        let words = vec!["sh".into(), site.path().join("link").into_string()];
        let (progress, mut told) = tokio::sync::mpsc::unbounded_channel();
        let transport = Transport::Command { words, host: "h".into() };
        let wish = Wish { transport, progress: Some(progress), ..site.wish("run", LOGGED) };
        let report = run(wish).await.unwrap_or_else(|error| panic!("cut at {at}: {}", error.chain()));
        check_logged(&site, &report, &format!("cut at {at}"));
        let lost = std::iter::from_fn(|| told.try_recv().ok())
            .filter(|progress| matches!(progress, Progress::Lost { .. }))
            .count();
        assert_eq!(lost, usize::from(cut > 0), "cut at {at}");
        if cut == 0 {
            whole = fs::metadata(site.path().join("said")).unwrap().len();
            assert!(whole > 1000, "{whole}");
        }
    }
}

/// A run is dropped wherever it waits, again and again, and another goes on with what it has noted.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_dropped_anywhere_is_gone_on_with() {
    let site = Site::new();
    logged(&site);
    let wish = site.wish("run", LOGGED);
    let mut report = None;
    for tries in 1..500_u64 {
        // Each try has a little more time than the one before, so that one of them comes to the end.
        let within = Duration::from_millis(20 + tries * 7);
        if let Ok(ended) = tokio::time::timeout(within, run(wish.clone())).await {
            report = Some(ended.unwrap());
            break;
        }
    }
    check_logged(&site, &report.unwrap(), "dropped");
    // Nobody else's run goes on with it, however far it has come.
    for defined in [true, false] {
        if !defined {
            fs::remove_file(wish.directory.join("defined")).unwrap();
        }
        let other = Wish { manifest: site.path().join("other"), ..wish.clone() };
        let error = run(other).await.unwrap_err();
        assert!(error.kind == ErrorKind::Conflict && error.context.contains("of another run"), "{error}");
    }
}

/// Killed before its objects were defined, with what a process leaves that had no time to remove anything.
#[tokio::test]
async fn a_run_that_was_killed_early_begins_again() {
    let site = Site::new();
    let wish = site.wish("run", PAIR);
    fs::create_dir_all(wish.directory.join("data/object/__text/half")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(wish.directory.join("socket")).unwrap());
    let report = run(wish).await.unwrap();
    assert_eq!(changed(&report).len(), 4);
}

#[tokio::test]
async fn a_run_has_a_time_of_its_own() {
    let site = Site::new();
    let wish = Wish { within: Some(Duration::from_secs(1)), ..site.wish("slow", "sleep 20; sleep 20\n") };
    let error = run(wish).await.unwrap_err();
    assert!(
        error.kind == ErrorKind::Deadline && error.context.contains("the run has not ended after 1 s"),
        "{error}"
    );
}

#[tokio::test]
async fn what_was_generated_is_generated_again_only_when_something_has_changed() {
    let site = Site::new();
    // Each time that code is generated is noted.
    for (script, more) in [
        ("gencode-local", ""),
        (
            "gencode-remote",
            "cat \"$__object/explorer/now\"; echo told >> \"$__messages_out\"; echo \"# $__object\"\n",
        ),
    ] {
        site.write(
            &format!("conf/type/__seen/{script}"),
            &format!("echo \"$__object_id\" >> $OUT/generated\n{more}"),
        );
    }
    site.write("conf/type/__seen/explorer/now", "echo \"# $(cat $OUT/now 2>/dev/null || echo never)\"\n");
    site.write("conf/type/__seen/parameter/optional", "source\n");
    site.write(
        "conf/type/__leaves/gencode-local",
        "echo \"$__object_id\" >> $OUT/generated\nmkdir \"$__object/files\"\n",
    );
    let source = site.path().join("source");
    fs::write(&source, "one").unwrap();
    let manifest = format!("__seen a\n__seen b --source {source}\n__leaves c\n");
    let mut times = 0;
    let mut generated = async |manifest: &str| {
        let _ = fs::remove_file(site.path().join("out/generated"));
        times += 1;
        let wish = site.wish(&format!("run-{times}"), manifest);
        let report = run(Wish { memo: Some(site.path().join("memo")), jobs: 1, ..wish }).await.unwrap();
        // Whoever generated it: the code is there, with this run's paths, and so are the messages.
        let object = site.path().join(format!("run-{times}/data/object/__seen/a"));
        let object = object.read_dir_utf8().unwrap().next().unwrap().unwrap().path().to_owned();
        let code = fs::read_to_string(object.join("code-remote")).unwrap();
        assert!(code.ends_with(&format!("# {object}\n")), "{code}");
        let messages = fs::read_to_string(site.path().join(format!("run-{times}/data/messages"))).unwrap();
        assert_eq!(messages, "__seen/a:told\n__seen/b:told\n");
        assert_eq!(report.objects[0].messages, ["told"]);
        fs::read_to_string(site.path().join("out/generated")).unwrap()
    };
    assert_eq!(generated(&manifest).await, "a\na\nb\nb\nc\n");
    // What leaves files is generated each time.
    assert_eq!(generated(&manifest).await, "c\n");
    fs::write(&source, "two").unwrap();
    assert_eq!(generated(&manifest).await, "b\nb\nc\n");
    fs::write(site.path().join("out/now"), "changed").unwrap();
    assert_eq!(generated(&manifest).await, "a\na\nb\nb\nc\n");
    assert_eq!(generated(&manifest).await, "c\n");
    site.write("conf/type/__seen/files/more", "of the type's\n");
    assert_eq!(generated(&manifest).await, "a\na\nb\nb\nc\n");
    assert_eq!(fs::metadata(site.path().join("memo")).unwrap().permissions().mode() & 0o777, 0o700);
}

/// As skonfig has it: manifests and what generates code may be directories, and types come in sets.
#[tokio::test]
async fn directories_of_scripts_and_sets_of_types_are_understood() {
    let site = Site::new();
    site.write(
        "conf/set/base/type/__made/manifest/10-first",
        "__text \"$__object_id-1\" --content one\nprintf told >>\"$__messages_out\"\n",
    );
    site.write("conf/set/base/type/__made/manifest/20-second", "__text \"$__object_id-2\" --content two\n");
    site.write("conf/set/base/type/__made/gencode-remote/a", "printf 'echo a >>\"$OUT/made\"'\n");
    site.write("conf/set/base/type/__made/gencode-remote/b", "echo 'echo b >>\"$OUT/made\"'\n");
    site.write("conf/set/base/type/__pair/manifest", "exit 7 # what is above the sets goes before\n");
    site.write("conf/set/more/type/__made/manifest", "exit 8 # the first set goes before\n");
    site.write("inits/init", "__made it\nbasename \"$__cdist_manifest\" >\"$OUT/by\"\n__pair p\n");
    site.write("inits/other", "exit 9\n");
    let wish = Wish { manifest: site.path().join("inits"), ..site.wish("run", "") };
    let report = run(wish).await.unwrap();
    assert_eq!(report.objects.len(), 6, "{report:?}");
    assert_eq!((site.made("it-1"), site.made("it-2")), ("one\n".into(), "two\n".into()));
    assert_eq!((site.made("made"), site.made("by")), ("a\nb\n".into(), "init\n".into()));
    site.write("conf/set/base/type/__made/gencode-remote/b", "echo oh >&2; exit 4\n");
    let wish = Wish { manifest: site.path().join("inits"), ..site.wish("again", "") };
    let error = run(wish).await.unwrap_err().context;
    assert!(error.contains("gencode-remote/b: exit status: 4: oh"), "{error}");
    fs::create_dir(site.path().join("nothing")).unwrap();
    let wish = Wish { manifest: site.path().join("nothing"), ..site.wish("nobody", "") };
    let error = run(wish).await.unwrap_err();
    assert!(error.kind == ErrorKind::Invalid && error.context.contains("without a script"), "{error}");
}

/// A run that fails tells of each object how far it came, what it waits for, where it is defined, and what its scripts said.
#[tokio::test]
async fn what_became_of_each_object_is_told_of_a_run_that_fails_too() {
    let site = Site::new();
    let talks = "echo thinking >&2; echo 'echo doing; echo hm >&2'\n\
                 yes \"much $(cat \"$__vcl_secrets/db\")\" 2>/dev/null | head -c 500000 >&2; echo last >&2\n";
    site.write("conf/type/__talks/gencode-remote", talks);
    site.write("conf/type/__fails/parameter/optional", "with\n");
    site.write("conf/type/__fails/gencode-remote", "echo 'echo \"no such thing\" >&2; exit 3'\n");
    let manifest = "__talks first\n__pair a --left 'two words'\nrequire=__pair/a __fails it --with \"$(cat \"$__vcl_secrets/db\")\"\n\
                    require=__fails/it __text last --content x\n";
    site.write("password", "not for you\n");
    let secrets = [("db".to_owned(), site.path().join("password"))].into_iter().collect();
    let (listener, mut told) = tokio::sync::mpsc::unbounded_channel();
    let wish = Wish { progress: Some(listener), secrets, ..site.wish("run", manifest) };
    let error = run(wish).await.unwrap_err().context;
    assert!(error.contains("with --with <secret db>") && error.contains("init:3"), "{error}");
    let mut all = Vec::new();
    while let Some(progress) = told.recv().await {
        if let Progress::Over(outcomes) = progress {
            all = outcomes;
        }
    }
    let of = |name: &str| all.iter().find(|one| one.object.to_string() == name).unwrap();
    let states: Vec<_> =
        all.iter().map(|one| (one.object.to_string(), one.state, one.failed, one.changed)).collect();
    let last = states.last().unwrap();
    assert_eq!((last.0.as_str(), last.1, last.2), ("__text/last", State::Defined, false), "{states:?}");
    assert!(states.contains(&("__fails/it".into(), State::Prepared, true, false)), "{states:?}");
    assert!(states.contains(&("__text/a-right".into(), State::Done, false, true)), "{states:?}");
    assert_eq!(states.len(), 6);
    let names =
        |all: &[vcl_configure::name::ObjectName]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&of("__pair/a").defines), ["__text/a-left", "__text/a-right"]);
    assert_eq!(names(&of("__fails/it").requires), ["__pair/a"]);
    assert_eq!(of("__fails/it").defined_in, [format!("{}:3", site.path().join("init"))]);
    assert_eq!(of("__fails/it").parameters["with"], "<secret db>");
    assert_eq!(of("__fails/it").output["code-remote"], "no such thing\n");
    assert_eq!(of("__talks/first").output["code-remote"], "doing\nhm\n");
    let much = &of("__talks/first").output["gencode-remote"];
    assert!(much.starts_with("thinking\nmuch <secret db>\n") && much.ends_with("last\n"), "{much}");
    assert!(much.len() < 3000 && !much.contains("for you") && much.contains(" … "), "{much}");
    assert_eq!(of("__text/a-left").messages, ["changed"]);
}

/// What a manifest reads of a secret gets where it is to go, and stands in nothing that leaves the run.
#[tokio::test]
async fn secrets_come_to_the_machine_and_to_nobody_else() {
    let site = Site::new();
    let password = "it's $secret";
    site.write("password", &format!("{password}\n"));
    let manifest = "__text told --content \"$(cat \"$__vcl_secrets/db\")\"\n";
    let secrets = [("db".to_owned(), site.path().join("password"))];
    let (progress, mut told) = tokio::sync::mpsc::unbounded_channel();
    let memo = Some(site.path().join("memo"));
    let (secrets, progress) = (secrets.into_iter().collect(), Some(progress));
    site.write(
        "conf/type/__text/gencode-local",
        "echo \"says $(cat \"$__object/parameter/content\")\" >> \"$__messages_out\"",
    );
    let wish = Wish { secrets, progress, memo, ..site.wish("run", manifest) };
    let report = run(wish.clone()).await.unwrap();
    assert_eq!(site.made("told"), format!("{password}\n"));
    assert_eq!(report.objects[0].messages, ["says <secret db>", "changed"]);
    drop(wish.progress);
    let mut all = String::new();
    while let Ok(progress) = told.try_recv() {
        all.push_str(&format!("{progress:?}"));
    }
    assert!(all.contains("says <secret db>") && !all.contains("$secret"), "{all}");
    let holds = |directory: &str| {
        let grep = std::process::Command::new("grep").args(["-rlF", "$secret", directory]).output().unwrap();
        String::from_utf8(grep.stdout).unwrap()
    };
    let data = wish.directory.join("data");
    assert!(data.join("object/__text/told").exists());
    for directory in [data, site.path().join("base"), site.path().join("memo")] {
        assert_eq!(holds(directory.as_str()), "");
    }
    // An error has it as little.
    site.write(
        "conf/type/__text/gencode-local",
        "echo \"no to $(cat \"$__object/parameter/content\")\" >&2; exit 1",
    );
    fs::remove_file(site.path().join("out/told")).unwrap();
    let (secrets, progress) = (wish.secrets.clone(), None);
    let error = run(Wish { secrets, progress, ..site.wish("again", manifest) }).await.unwrap_err();
    assert!(
        error.context.contains("no to <secret db>") && !error.context.contains("$secret"),
        "{}",
        error.context
    );
    // A run that is gone on with has those that it began with: what it has noted has them in it.
    site.write("password", "rotated in between\n");
    let directory = site.path().join("again");
    let secrets = wish.secrets.clone();
    let others = Wish { secrets, progress: None, ..site.wish("unused", manifest) };
    let error = run(Wish { directory, ..others }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    // A name stands everywhere.
    let named = "__text \"$(cat \"$__vcl_secrets/db\" | tr ' ' _)\" --content x\n";
    site.write("password", "rotated_in_between\n");
    let secrets = wish.secrets.clone();
    let error = run(Wish { secrets, progress: None, ..site.wish("named", named) }).await.unwrap_err();
    assert!(
        error.context.contains("in an object's id") && !error.context.contains("rotated"),
        "{}",
        error.context
    );
}
