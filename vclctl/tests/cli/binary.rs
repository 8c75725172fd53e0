//! The real binary: what it prints where, and how it ends.

use crate::fake::{Asked, End, Fake, Reply, computer, event, job, ok, problem};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn vclctl(directory: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vclctl"));
    command.args(words).current_dir(directory).env_clear().env("TZ", "UTC").env("TERM", "xterm");
    command.env("VCLD_SOCKET", directory.join("vcld.sock")).stdin(Stdio::null());
    command
}
fn run(directory: &Path, words: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = vclctl(directory, words).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A load that runs through, or ends as `state` says.
fn loads(state: &'static str) -> impl Fn(&Asked) -> Reply + Send + Sync {
    move |asked| match asked.what.as_str() {
        "POST /v1/jobs" => Reply::Json(202, json!({ "job": 12 })),
        "POST /v1/plan" => ok(json!({ "title": "load b debian", "steps": [
            { "name": "create overlay", "what": "b.qcow2 on debian@2" } ] })),
        "GET /v1/jobs/12" => ok(job(
            state,
            &[("create overlay", "done"), ("start", if state == "failed" { "failed" } else { "done" })],
        )),
        "GET /v1/stream?job=12" => Reply::Events(vec![event("job-done", "done")], End::Open),
        "GET /v1/computers/b" => ok(computer()),
        _ => problem(404, "not-found", "there is nothing of that name"),
    }
}

#[test]
fn a_load_in_a_pipe_is_plain_lines_and_one_result() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(directory.path(), loads("done"));
    let (code, out, err) = run(directory.path(), &["load", "b", "debian"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "loaded debian@2 on b (ssh -p 40022 root@127.0.0.1) 12.1 s\n"),
        "{err}"
    );
    assert_eq!(err, "12:03:00 job 12 create overlay … done 0.3 s\n12:03:00 job 12 start … done 0.3 s\n");
    let submitted = fake.asked().into_iter().find(|asked| asked.what == "POST /v1/jobs").unwrap();
    assert_eq!(submitted.body, json!({ "kind": "load", "computer": "b", "image": "debian" }));
}

#[test]
fn a_load_as_json_is_the_job_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let _fake = Fake::start(directory.path(), loads("done"));
    let (code, out, _) = run(directory.path(), &["load", "b", "debian", "--json"]);
    let printed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &printed["state"], &printed["result"]), (0, &json!("done"), &json!("debian@2")));
}

#[test]
fn a_load_that_fails_says_why_and_ends_with_1() {
    for (state, words) in
        [("failed", "failed: no space left on kvm1"), ("cancelled", "was cancelled"), ("stuck", "is stuck")]
    {
        let directory = tempfile::tempdir().unwrap();
        let _fake = Fake::start(directory.path(), loads(state));
        let (code, out, err) = run(directory.path(), &["load", "b", "debian"]);
        let last = err.lines().last().unwrap();
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(last.starts_with("error: job 12 (load b debian)") && last.contains(words), "{err}");
        let (code, out, _) = run(directory.path(), &["load", "b", "debian", "--json"]);
        assert_eq!((code, &serde_json::from_str::<Value>(&out).unwrap()["state"]), (1, &json!(state)));
    }
}

#[test]
fn who_does_not_want_to_wait_gets_the_number_and_who_does_not_want_it_done_the_steps() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(directory.path(), loads("running"));
    assert_eq!(
        run(directory.path(), &["load", "b", "debian", "--detach"]),
        (0, "12\n".into(), String::new())
    );
    let queued = fake.count("POST /v1/jobs");
    let plan = "would load b debian:\n  1 create overlay  b.qcow2 on debian@2\n";
    assert_eq!(run(directory.path(), &["load", "b", "debian", "--dry-run"]), (0, plan.into(), String::new()));
    assert_eq!(fake.count("POST /v1/jobs"), queued, "a dry run queues nothing");
}

#[test]
fn ctrl_c_leaves_the_job_to_itself() {
    for json in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let fake = Fake::start(directory.path(), loads("running"));
        let mut words = vec!["load", "b", "debian"];
        words.extend(json.then_some("--json"));
        let mut child =
            vclctl(directory.path(), &words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        err.read_line(&mut line).unwrap();
        assert!(line.contains("create overlay … done"), "{line}");
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let Output { status, stdout, .. } = child.wait_with_output().unwrap();
        let mut rest = String::new();
        err.read_to_string(&mut rest).unwrap();
        let out = String::from_utf8(stdout).unwrap();
        assert_eq!(status.code(), Some(0), "{rest}");
        let told = "detached: job 12 goes on; vclctl job watch 12\n";
        if json {
            assert!(rest.ends_with(told), "{rest}");
            assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["state"], "running");
        } else {
            assert_eq!(out, told);
        }
        assert_eq!(fake.count("POST /v1/jobs/12/cancel"), 0);
    }
}

#[test]
fn exit_codes_tell_refused_from_mistyped_from_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let (code, out, err) = run(directory.path(), &["status"]);
    assert_eq!((code, out.as_str()), (3, ""));
    let socket = directory.path().join("vcld.sock");
    let expected = format!(
        "error: cannot reach vcld on {}: there is no such socket; is vcld running? (systemctl status vcld)\n",
        socket.display()
    );
    assert_eq!(err, expected);

    let _fake = Fake::start(directory.path(), |_| problem(409, "busy", "b is being loaded; wait for job 11"));
    let refused = run(directory.path(), &["unload", "b"]);
    assert_eq!(refused, (1, String::new(), "error: b is being loaded; wait for job 11\n".into()));
    assert_eq!(run(directory.path(), &["load", "b"]).0, 2);
    assert_eq!(run(directory.path(), &["image", "delete", "debian@1"]).0, 2, "nobody can be asked");
    assert_eq!(run(directory.path(), &["frobnicate"]).0, 2);
    assert_eq!(run(directory.path(), &["report", "usage", "--csv", "--json"]).0, 2, "not both");
    assert_eq!(run(directory.path(), &["--help"]).0, 0);
}

#[test]
fn a_socket_that_is_closed_to_us_names_who_may_use_it() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt as _;
    // Only root can be somebody else, and only somebody else is refused.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let fake = Fake::start(directory.path(), loads("done"));
    let binary = directory.path().join("vclctl");
    std::fs::copy(env!("CARGO_BIN_EXE_vclctl"), &binary).unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&fake.socket, PermissionsExt::from_mode(0o660)).unwrap();
    for (group, told) in [(0, "for root alone"), (1, "your user must be in group ")] {
        std::os::unix::fs::chown(&fake.socket, None, Some(group)).unwrap();
        let mut command = Command::new(&binary);
        command.arg("--socket").arg(&fake.socket).arg("status").uid(65_534).gid(65_534);
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{err}");
        assert!(err.contains(told), "{err}");
    }
}

#[test]
fn paths_are_made_absolute_and_looked_at_first() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(directory.path(), loads("done"));
    let here = directory.path().canonicalize().unwrap();
    for file in ["disk.qcow2", "vmlinuz", "there.raw"] {
        std::fs::write(here.join(file), "x").unwrap();
    }
    let import = ["image", "import", "debian", "disk.qcow2", "--detach"];
    assert_eq!(run(&here, &import).0, 0);
    let wanted = [
        "--kernel",
        "vmlinuz",
        "--cmdline",
        "ro quiet",
        "--cpus",
        "2",
        "--memory",
        "4G",
        "--firmware",
        "uefi",
    ];
    assert_eq!(run(&here, &[&import[..], &wanted[..]].concat()).0, 0);
    assert_eq!(run(&here, &["image", "export", "debian@2", "out.img", "--detach"]).0, 0);
    let bodies: Vec<String> = fake.asked().iter().map(|asked| asked.body.to_string()).collect();
    insta::assert_snapshot!(bodies.join("\n").replace(&*here.to_string_lossy(), "/HERE"));

    let before = fake.asked().len();
    for (words, told) in [
        (["image", "import", "debian", "none.qcow2"], "there is no file `"),
        (["image", "import", "debian", "."], "is a directory"),
        (["image", "export", "debian", "there.raw"], "exists already"),
    ] {
        let (code, _, err) = run(&here, &words);
        assert!(code == 1 && err.contains(told), "{code} {err}");
    }
    assert_eq!(fake.asked().len(), before, "the daemon was not asked");
}

#[test]
fn a_screenshot_becomes_a_file_or_goes_through_a_pipe() {
    const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n\xff\x00rest";
    let directory = tempfile::tempdir().unwrap();
    let _fake = Fake::start(directory.path(), |_| Reply::Bytes(PICTURE.to_vec()));
    let (code, out, err) = run(directory.path(), &["computer", "screenshot", "b"]);
    assert_eq!((code, out.as_str()), (0, "saved b.png (14 B)\n"), "{err}");
    assert_eq!(std::fs::read(directory.path().join("b.png")).unwrap(), PICTURE);
    let piped = vclctl(directory.path(), &["computer", "screenshot", "b", "-o", "-"]).output().unwrap();
    assert_eq!(piped.stdout, PICTURE);
}

#[test]
fn what_a_guest_prints_cannot_reach_the_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let _fake =
        Fake::start(directory.path(), |_| ok(json!({ "text": "login:\u{1b}[2J\u{9b}31m\r\nok\u{7}" })));
    let (_, out, _) = run(directory.path(), &["computer", "console", "b"]);
    assert_eq!(out, "login:31m\nok\n");
    let (_, out, _) = run(directory.path(), &["computer", "console", "b", "--json"]);
    assert!(!out.contains('\u{9b}') && !out.contains('\u{1b}') && out.contains("\\u009b"), "{out}");
}

#[test]
fn a_console_and_events_are_followed_until_ctrl_c() {
    for words in [
        &["computer", "console", "b", "-f"][..],
        &["events", "-f"],
        &["events", "-f", "--json", "--job", "12"],
    ] {
        let directory = tempfile::tempdir().unwrap();
        let text = std::sync::atomic::AtomicUsize::new(0);
        let fake = Fake::start(directory.path(), move |asked| {
            let mut first = event("forced-off", "first");
            first["id"] = json!(7);
            if asked.what.contains("console") {
                let more = text.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0;
                ok(json!({ "text": if more { "first\nsecond\n" } else { "first\n" } }))
            } else if asked.what.contains("stream") {
                let mut second = event("forced-off", "second");
                second["id"] = json!(8);
                Reply::Events(vec![first, second], End::Open)
            } else if asked.what.contains("after") {
                ok(json!([]))
            } else {
                ok(json!([first]))
            }
        });
        let mut child =
            vclctl(directory.path(), words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut lines = [String::new(), String::new()];
        for line in &mut lines {
            out.read_line(line).unwrap();
        }
        assert!(lines[0].contains("first") && lines[1].contains("second"), "{lines:?}");
        assert!(
            !words.contains(&"--json")
                || lines.iter().all(|line| serde_json::from_str::<Value>(line).is_ok())
        );
        std::thread::sleep(Duration::from_millis(50));
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!((child.wait().unwrap().code(), rest.trim()), (Some(0), ""), "{words:?}");
        drop(fake);
    }
}

#[test]
fn a_reader_who_has_enough_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let _fake = Fake::start(directory.path(), loads("done"));
    let mut child = vclctl(directory.path(), &["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn a_doctor_who_finds_something_wrong_ends_with_1() {
    for (level, code) in [("ok", 0), ("warning", 0), ("error", 1)] {
        let directory = tempfile::tempdir().unwrap();
        let finding = json!([{ "what": "kvm", "level": level, "found": "seen", "way_out": null }]);
        let _fake = Fake::start(directory.path(), move |_| ok(finding.clone()));
        assert_eq!(run(directory.path(), &["doctor"]).0, code);
    }
}

#[test]
fn completions_and_manual_pages_need_no_daemon() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run(directory.path(), &["completions", shell]);
        assert!(code == 0 && out.contains("screenshot"), "{shell}");
    }
    assert_eq!(run(directory.path(), &["man", "pages"]).0, 0);
    let mut pages: Vec<String> = std::fs::read_dir(directory.path().join("pages"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    insta::assert_snapshot!(pages.join("\n"));
}
