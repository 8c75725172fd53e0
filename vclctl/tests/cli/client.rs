//! The typed client: addresses, answers, refusals.

use crate::fake::{Fake, Reply, computer, job, ok, problem};
use serde_json::json;
use std::path::Path;
use vcl_types::api::{Applied, PowerAction};
use vcl_types::{JobId, JobRequest};
use vclctl::{Client, ErrorKind};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn every_request_goes_to_its_address() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(directory.path(), |asked| match asked.what.as_str() {
        "POST /v1/jobs" => Reply::Json(202, json!({ "job": 12 })),
        "POST /v1/plan" => ok(json!({ "title": "unload b", "steps": [] })),
        what if what.contains("/jobs/12") => ok(job("running", &[])),
        what if what.contains("apply") => ok(json!(Applied::default())),
        what if what.contains("console") => ok(json!({ "text": "login:" })),
        what if what.contains("screenshot") => Reply::Bytes(b"\x89PNG\r\n\x1a\nrest".to_vec()),
        what if what.contains("/computers/b") => ok(computer()),
        what if what.contains("/why") => ok(json!({ "image": "debian@2", "reasons": ["in production"] })),
        what if what.contains("/images/") => ok(json!({ "name": "debian", "revisions": [] })),
        _ => ok(json!([])),
    });
    let client = Client::new(&fake.socket).unwrap();
    let (b, kvm1) = ("b".parse().unwrap(), "kvm1".parse().unwrap());
    let unload = JobRequest::Unload { computer: "b".parse().unwrap() };
    block_on(async {
        client.computers().await.unwrap();
        assert_eq!(client.computer(&b).await.unwrap().loaded.unwrap().endpoint.port, 40022);
        client.power(&b, PowerAction::ForceOff).await.unwrap();
        assert_eq!(client.console(&b, 50).await.unwrap().text, "login:");
        client.screenshot(&b).await.unwrap();
        client.apply(true).await.unwrap();
        client.images().await.unwrap();
        client.image(&"debian".parse().unwrap()).await.unwrap();
        assert_eq!(client.why_kept(&"debian@2".parse().unwrap()).await.unwrap().reasons, ["in production"]);
        assert!(client.trash().await.unwrap().is_empty());
        client.vms(&kvm1).await.unwrap();
        assert_eq!(client.submit(&unload).await.unwrap().job, JobId(12));
        client.plan(&unload).await.unwrap();
        client.jobs(Some(vcl_types::state::job::State::Failed), 5).await.unwrap();
        client.jobs(None, 5).await.unwrap();
        client.job(JobId(12)).await.unwrap();
        client.cancel(JobId(12)).await.unwrap();
        client.events(None, None, 7).await.unwrap();
        client.events(None, Some(3), 7).await.unwrap();
        client.stream(Some(JobId(12)), Some(3)).await.unwrap();
        client.doctor(false).await.unwrap();
    });
    let asked: Vec<String> =
        fake.asked().iter().map(|asked| format!("{} {}", asked.what, asked.body)).collect();
    insta::assert_snapshot!(asked.join("\n"));
}

#[test]
fn a_machines_name_stays_one_part_of_the_address() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(directory.path(), |_| problem(404, "not-found", "kvm1 has no such machine"));
    let client = Client::new(&fake.socket).unwrap();
    let kvm1 = "kvm1".parse().unwrap();
    block_on(async {
        for vm in ["a b/../c?d#e%2f", "ä", "..", ".", ""] {
            let error = client.preview(&kvm1, vm).await.unwrap_err();
            let expected = if vm.len() > 2 || vm == "ä" { ErrorKind::NotFound } else { ErrorKind::Usage };
            assert_eq!(error.kind(), expected, "{vm}");
        }
    });
    let asked: Vec<String> = fake.asked().into_iter().map(|asked| asked.what).collect();
    let expected = ["a%20b%2F..%2Fc%3Fd%23e%252f", "%C3%A4"];
    assert_eq!(asked, expected.map(|vm| format!("GET /v1/backends/kvm1/vms/{vm}/preview")));
}

#[test]
fn refusals_are_told_in_the_daemons_words() {
    let cases = [
        (problem(404, "not-found", "there is no job 12"), ErrorKind::NotFound, "there is no job 12"),
        (problem(409, "busy", "b is being loaded"), ErrorKind::Refused, "b is being loaded"),
        (problem(503, "unavailable", "vcld shuts down"), ErrorKind::Unavailable, "vcld shuts down"),
        (Reply::Json(502, json!("bad\u{1b}[2J gateway")), ErrorKind::Refused, "502 Bad Gateway"),
        (ok(json!({ "surprise": true })), ErrorKind::Malformed, "of one version?: missing field"),
    ];
    for (reply, kind, message) in cases {
        let directory = tempfile::tempdir().unwrap();
        let reply = std::sync::Mutex::new(Some(reply));
        let fake = Fake::start(directory.path(), move |_| reply.lock().unwrap().take().unwrap());
        let error = block_on(Client::new(&fake.socket).unwrap().job(JobId(12))).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (kind, 1), "{error:?}");
        assert!(error.line().contains(message), "{}", error.line());
        assert!(!error.line().contains('\u{1b}'), "{}", error.line());
    }
}

#[test]
fn a_daemon_that_is_not_there_is_named_by_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.sock");
    let silent = directory.path().join("silent.sock");
    drop(std::os::unix::net::UnixListener::bind(&silent).unwrap());
    for (socket, why) in [(&missing, "there is no such socket"), (&silent, "nobody listens there")] {
        let error = block_on(Client::new(socket).unwrap().status()).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Unreachable, 3));
        let line = error.line();
        assert!(line.contains(why) && line.contains("is vcld running?"), "{line}");
        assert!(line.contains(&*socket.to_string_lossy()), "{line}");
    }
}

#[test]
fn a_job_that_may_have_been_queued_is_not_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("vcld.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let cut = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
    });
    let unload = JobRequest::Unload { computer: "b".parse().unwrap() };
    let error = block_on(Client::new(&socket).unwrap().submit(&unload)).unwrap_err();
    cut.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.line().contains("may have been queued"), "{}", error.line());

    let nobody = block_on(Client::new(Path::new("/nonexistent/s")).unwrap().submit(&unload)).unwrap_err();
    assert!(!nobody.line().contains("may have been queued"), "{}", nobody.line());
}

#[test]
fn a_lost_answer_is_asked_for_again_under_the_same_key() {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("vcld.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let daemon = std::thread::spawn(move || {
        let mut keys = Vec::new();
        for answers in [false, true] {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).unwrap() > 2 {
                let (name, value) = line.trim().split_once(": ").unwrap_or_default();
                match name.to_lowercase().as_str() {
                    "idempotency-key" => keys.push(value.to_owned()),
                    "content-length" => length = value.parse().unwrap(),
                    _ => {}
                }
                line.clear();
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            if answers {
                let body = r#"{"job":7}"#;
                let head = format!("HTTP/1.1 202 Accepted\r\ncontent-length: {}\r\n\r\n", body.len());
                reader.get_mut().write_all(format!("{head}{body}").as_bytes()).unwrap();
            }
        }
        keys
    });
    let unload = JobRequest::Unload { computer: "b".parse().unwrap() };
    let made = block_on(Client::new(&socket).unwrap().submit(&unload)).unwrap();
    assert_eq!(made.job, JobId(7));
    let keys = daemon.join().unwrap();
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
    assert_eq!(keys[0].len(), 36);
}

#[test]
fn a_picture_that_is_none_is_not_saved() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(directory.path(), |_| Reply::Bytes(b"<html>".to_vec()));
    let error = block_on(Client::new(&fake.socket).unwrap().screenshot(&"b".parse().unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}
