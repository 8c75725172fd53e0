//! Connections over ssh2 against a real sshd.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod sshd;

use sshd::{Sshd, keygen, until};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use vcl_os::ssh::{SshKey, SshRemotes, fingerprint};
use vcl_os::{Command, Error, ErrorKind, Remote, Remotes};
use vcl_types::Endpoint;

const LIMIT: Duration = Duration::from_secs(20);

async fn connect(remotes: &SshRemotes, to: &Endpoint) -> Result<Arc<dyn Remote>, Error> {
    remotes.connect(to, LIMIT, &CancellationToken::new()).await
}
async fn refusal(remotes: &SshRemotes, to: &Endpoint) -> Error {
    match connect(remotes, to).await {
        Ok(_) => panic!("it let us in"),
        Err(e) => e,
    }
}
/// A listener with nothing behind it.
async fn listener() -> (tokio::net::TcpListener, u16) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn a_command_s_output_error_status_and_input() {
    let sshd = Sshd::start();
    let remote = connect(&sshd.remotes(), &sshd.pinned(&["ed25519"])).await.unwrap();
    let out = remote.run(Command::new("cat; echo bad >&2; exit 7").input("hello\0\u{fe}")).await.unwrap();
    assert_eq!((out.status, &*out.stdout, &*out.stderr), (7, "hello\0\u{fe}".as_bytes(), &b"bad\n"[..]));
    let out = remote.run(Command::new("kill -9 $$")).await.unwrap();
    assert_eq!(out.status, 137);
    let out = remote.run(Command::new("kill -TERM $$")).await.unwrap();
    assert_eq!(out.status, 143);
    // Not read to its end, and not at all.
    let out = remote.run(Command::new("head -c 1").input(vec![b'x'; 8 << 20])).await.unwrap();
    assert_eq!((out.status, &*out.stdout), (0, &b"x"[..]));
    let out = remote.run(Command::new("exit 3").input(vec![b'x'; 8 << 20])).await.unwrap();
    assert_eq!(out.status, 3);
    assert_eq!(remote.host_key(), sshd.host_key("ed25519"));
}

#[tokio::test]
async fn much_in_and_much_out_at_the_same_time() {
    let sshd = Sshd::start();
    let remote = connect(&sshd.remotes(), &sshd.endpoint()).await.unwrap();
    let input: Vec<u8> = (0..20u32 << 20).map(|i| (i % 251) as u8).collect();
    let command = Command { keep: 64 << 20, ..Command::new("tee /dev/stderr") };
    let out = remote.run(command.input(input.clone()).limit(Duration::from_secs(120))).await.unwrap();
    assert!(out.stdout == input, "{} of {} came back", out.stdout.len(), input.len());
    assert!(out.stderr == input, "{} of {} came back", out.stderr.len(), input.len());
}

#[tokio::test]
async fn output_past_what_is_kept_is_read_and_dropped() {
    let sshd = Sshd::start();
    let remote = connect(&sshd.remotes(), &sshd.endpoint()).await.unwrap();
    let command = Command {
        keep: 1000,
        ..Command::new("head -c 9000000 /dev/zero; head -c 5000000 /dev/zero >&2; exit 4")
    };
    let out = remote.run(command).await.unwrap();
    assert_eq!((out.status, out.stdout.len(), out.stderr.len()), (4, 1000, 1000));
}

#[tokio::test]
async fn a_command_past_its_limit_ends_and_the_next_one_works() {
    let sshd = Sshd::start();
    let remotes = sshd.remotes();
    let remote = connect(&remotes, &sshd.endpoint()).await.unwrap();
    let began = Instant::now();
    let error = remote.run(Command::new("sleep 60").limit(Duration::from_millis(400))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Deadline, "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(remote.run(Command::new("echo again")).await.unwrap().text(), "again\n");
    assert_eq!(remotes.logins(), 2);
}

#[tokio::test]
async fn giving_up_returns_at_once() {
    let sshd = Sshd::start();
    let remotes = sshd.remotes();
    let remote = connect(&remotes, &sshd.endpoint()).await.unwrap();
    let marker = sshd.dir.join("began");
    let cancel = CancellationToken::new();
    let command = Command::new(format!("touch {marker}; sleep 60")).cancel(&cancel);
    let cancelled = async {
        until("the command has begun", || marker.exists()).await;
        cancel.cancel();
        Instant::now()
    };
    let (result, when) = tokio::join!(remote.run(command), cancelled);
    assert_eq!(result.unwrap_err().kind, ErrorKind::Cancelled);
    assert!(when.elapsed() < Duration::from_secs(1));

    // The same for a future that is dropped: its connection is cut, not left to its thread.
    std::fs::remove_file(&marker).unwrap();
    let running = remote.run(Command::new(format!("touch {marker}; sleep 60")));
    tokio::select! {
        _ = running => panic!("it ended"),
        () = until("the command has begun", || marker.exists()) => {}
    }
    drop(remote);
    until("the thread has ended", || remotes.open() == 0).await;
}

#[tokio::test]
async fn giving_up_a_connection_under_way_returns_at_once() {
    let sshd = Sshd::start();
    let (_listener, port) = listener().await;
    let to = Endpoint { port, ..sshd.endpoint() };
    let cancel = CancellationToken::new();
    let remotes = sshd.remotes();
    let connecting = remotes.connect(&to, LIMIT, &cancel);
    let (result, when) = tokio::join!(connecting, async {
        tokio::task::yield_now().await;
        cancel.cancel();
        Instant::now()
    });
    assert_eq!(result.err().unwrap().kind, ErrorKind::Cancelled);
    assert!(when.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn each_reason_why_a_guest_does_not_let_us_in_is_told_apart() {
    let sshd = Sshd::start();
    let remotes = sshd.remotes();

    keygen(&sshd.dir.join("other"), "ed25519");
    let other = SshKey::load(sshd.dir.join("other")).unwrap();
    let error = refusal(&SshRemotes::new(other.clone()), &sshd.endpoint()).await;
    assert_eq!(error.kind, ErrorKind::LoginRefused);
    let said = error.to_string();
    assert!(said.contains(&other.fingerprint()) && said.contains("ssh-copy-id"), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{}", sshd.port)), "{said}");

    let mut wrong = sshd.pinned(&["ed25519"]);
    wrong.host_keys.keys = vec![vcl_types::HostKey::parse(other.public_line().as_str()).unwrap()];
    let error = refusal(&remotes, &wrong).await;
    assert_eq!(error.kind, ErrorKind::HostKeyChanged);
    let said = error.to_string();
    let (shown, pinned) = (fingerprint(&sshd.host_key("ed25519")), fingerprint(&wrong.host_keys.keys[0]));
    assert!(said.contains(&shown) && said.contains(&pinned), "{said}");

    // Pinned to a kind of key that this server does not even have.
    keygen(&sshd.dir.join("rsa"), "rsa");
    let rsa = std::fs::read_to_string(sshd.dir.join("rsa.pub")).unwrap();
    wrong.host_keys.keys = vec![vcl_types::HostKey::parse(&rsa).unwrap()];
    assert_eq!(refusal(&remotes, &wrong).await.kind, ErrorKind::HostKeyChanged);

    let (closed, port) = listener().await;
    drop(closed);
    let error = refusal(&remotes, &Endpoint { port, ..sshd.endpoint() }).await;
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");

    // The kernel refuses to route to this one, as it does for a network that is gone.
    let nowhere = Endpoint { address: "255.255.255.255".parse().unwrap(), ..sshd.endpoint() };
    let error = refusal(&remotes, &nowhere).await;
    assert_eq!(error.kind, ErrorKind::NoRoute, "{error}");
}

/// An address that swallows everything cannot be had without a network to do it in; a listener whose queue is full
/// does the same: the kernel drops what would open a connection.
#[tokio::test]
async fn a_machine_that_does_not_answer_is_no_route() {
    let sshd = Sshd::start();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let to = Endpoint { port: full.local_addr().unwrap().port(), ..sshd.endpoint() };
    let mut held = Vec::new();
    loop {
        let one = tokio::net::TcpStream::connect(("127.0.0.1", to.port));
        match tokio::time::timeout(Duration::from_millis(300), one).await {
            Ok(stream) => held.push(stream.unwrap()),
            Err(_) => break,
        }
    }
    let limit = Duration::from_millis(500);
    let error = sshd.remotes().connect(&to, limit, &CancellationToken::new()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::NoRoute, "{error}");
}

#[tokio::test]
async fn what_accepts_and_is_no_ssh_server_is_a_handshake_that_failed() {
    let sshd = Sshd::start();
    let remotes = sshd.remotes();
    let (silent, port) = listener().await;
    let to = Endpoint { port, ..sshd.endpoint() };
    let began = Instant::now();
    let result = remotes.connect(&to, Duration::from_millis(500), &CancellationToken::new()).await;
    assert_eq!(result.err().unwrap().kind, ErrorKind::Handshake);
    assert!(began.elapsed() < Duration::from_secs(3));
    drop(silent);

    // Closes at once, as user networking does when nobody listens behind it; says something else; breaks off.
    for (says, expected) in
        [("", "without a greeting"), ("220 mail\r\n", "220 mail"), ("SSH-2.0-x\r\n", "broke off")]
    {
        let (listener, port) = listener().await;
        let server = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(says.as_bytes()).await.unwrap();
            if says.starts_with("220") {
                std::future::pending::<()>().await;
            }
        });
        let error = refusal(&remotes, &Endpoint { port, ..sshd.endpoint() }).await;
        assert_eq!(error.kind, ErrorKind::Handshake, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        server.abort();
    }
}

/// The first connection is one that a hypervisor accepted before the guest was there: it stays silent for ever.
#[tokio::test]
async fn a_connection_that_came_too_early_does_not_hold_up_the_next() {
    let sshd = Sshd::start();
    let (listener, port) = listener().await;
    let real = sshd.port;
    let server = tokio::spawn(async move {
        let (_first, _) = listener.accept().await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        let mut sshd = tokio::net::TcpStream::connect(("127.0.0.1", real)).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut second, &mut sshd).await;
    });
    let to = Endpoint { port, ..sshd.pinned(&["ed25519"]) };
    let remote = connect(&sshd.remotes(), &to).await.unwrap();
    assert_eq!(remote.run(Command::new("echo in")).await.unwrap().text(), "in\n");
    server.abort();
}

#[tokio::test]
async fn a_server_shows_the_kind_of_key_that_is_pinned() {
    let sshd = Sshd::start();
    for kind in ["ecdsa", "ed25519"] {
        let remote = connect(&sshd.remotes(), &sshd.pinned(&[kind])).await.unwrap();
        assert_eq!(remote.host_key(), sshd.host_key(kind));
    }
    let remote = connect(&sshd.remotes(), &sshd.pinned(&["ecdsa", "ed25519"])).await.unwrap();
    assert_eq!(remote.host_key(), sshd.host_key("ed25519"));
}

#[tokio::test]
async fn a_machine_that_dies_under_a_command_is_lost() {
    let mut sshd = Sshd::start();
    let remotes = sshd.remotes();
    let remote = connect(&remotes, &sshd.endpoint()).await.unwrap();
    let marker = sshd.dir.join("began");
    let running = tokio::spawn({
        let (remote, command) = (remote.clone(), Command::new(format!("touch {marker}; sleep 60")));
        async move { remote.run(command).await }
    });
    until("the command has begun", || marker.exists()).await;
    sshd.kill();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Lost, "{error}");
    // The guest may have begun that one, so it was not tried again; the next one finds nobody.
    assert_eq!(remote.run(Command::new("true")).await.unwrap_err().kind, ErrorKind::Refused);
}

#[tokio::test]
async fn connections_are_used_again_and_broken_ones_made_anew() {
    let mut sshd = Sshd::start();
    let remotes = sshd.remotes();
    let to = sshd.endpoint();
    for _ in 0..3 {
        connect(&remotes, &to).await.unwrap().run(Command::new("true")).await.unwrap();
    }
    assert_eq!((remotes.logins(), remotes.open()), (1, 1));
    // The same connection serves whoever pinned the key that it showed, and nobody who pinned another.
    drop(connect(&remotes, &sshd.pinned(&["ed25519"])).await.unwrap());
    assert_eq!(remotes.logins(), 1);
    drop(connect(&remotes, &sshd.pinned(&["ecdsa"])).await.unwrap());
    assert_eq!(remotes.logins(), 2);

    // Two at a time are two connections.
    let (a, b) = tokio::join!(connect(&remotes, &to), connect(&remotes, &to));
    let (a, b) = (a.unwrap(), b.unwrap());
    let meeting = sshd.dir.join("meeting");
    let wait = format!("echo x >> {meeting}; while [ $(wc -l < {meeting}) -lt 2 ]; do :; done");
    let (x, y) = tokio::join!(a.run(Command::new(wait.clone())), b.run(Command::new(wait)));
    assert_eq!((x.unwrap().status, y.unwrap().status), (0, 0));

    // One that broke while nobody used it is not noticed by the next user.
    sshd.restart();
    assert_eq!(a.run(Command::new("echo on")).await.unwrap().text(), "on\n");
    drop((a, b));
    remotes.forget(&to).await;
    assert_eq!(remotes.open(), 0);
}

#[tokio::test]
async fn a_broken_connection_is_never_replaced_by_one_to_another_machine() {
    let mut sshd = Sshd::start();
    let remotes = sshd.remotes();
    let remote = connect(&remotes, &sshd.endpoint()).await.unwrap();
    sshd.restart_with_new_keys();
    assert_eq!(remote.run(Command::new("true")).await.unwrap_err().kind, ErrorKind::HostKeyChanged);
}

#[tokio::test]
async fn forgetting_ends_what_is_under_way() {
    let sshd = Sshd::start();
    let remotes = sshd.remotes();
    let remote = connect(&remotes, &sshd.endpoint()).await.unwrap();
    let marker = sshd.dir.join("began");
    let (result, ()) = tokio::join!(remote.run(Command::new(format!("touch {marker}; sleep 60"))), async {
        until("the command has begun", || marker.exists()).await;
        remotes.forget(&sshd.endpoint()).await;
    });
    assert_eq!(result.unwrap_err().kind, ErrorKind::Lost);
}

#[tokio::test]
async fn idle_connections_close_and_make_room() {
    let (one, other) = (Sshd::start(), Sshd::start());
    std::fs::copy(one.dir.join("authorized_keys"), other.dir.join("authorized_keys")).unwrap();
    let remotes = SshRemotes::with(one.key(), 1, Duration::from_secs(60));
    drop(connect(&remotes, &one.endpoint()).await.unwrap());
    // The only place is taken by an idle connection, which goes.
    let held = connect(&remotes, &other.endpoint()).await.unwrap();
    // And now by one in use, which stays.
    let limit = Duration::from_millis(300);
    let error = remotes.connect(&one.endpoint(), limit, &CancellationToken::new()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Deadline, "{error}");
    drop(held);

    let remotes = SshRemotes::with(one.key(), 4, Duration::from_millis(50));
    let held = connect(&remotes, &one.endpoint()).await.unwrap();
    until("the idle connection is closed", || remotes.open() == 0).await;
    assert_eq!(held.run(Command::new("echo back")).await.unwrap().text(), "back\n");
}

#[tokio::test]
async fn files_are_written_whole_under_any_name() {
    let sshd = Sshd::start();
    let remote = connect(&sshd.remotes(), &sshd.endpoint()).await.unwrap();
    let content: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    for name in [
        "plain",
        "-n",
        "a b",
        "it's",
        "$(touch pwned)",
        "`x`",
        "new\nline",
        "ä€😀",
        "*",
        "\\",
        "\u{1}\u{7f}\"",
    ] {
        let path = sshd.dir.join(name);
        remote.put(path.as_str(), &content, 0o640).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == content, "{name:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o640);
    }
    remote.put(sshd.dir.join("plain").as_str(), b"", 0o600).await.unwrap();
    assert_eq!(std::fs::read(sshd.dir.join("plain")).unwrap(), b"");
    for bad in [sshd.dir.join("no/such/directory"), sshd.dir.clone(), "nul\0".into(), "".into()] {
        let error = remote.put(bad.as_str(), b"x", 0o600).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::CommandFailed, "{error}");
    }
    let left: Vec<_> = sshd.dir.read_dir_utf8().unwrap().map(|e| e.unwrap().file_name().to_owned()).collect();
    assert!(!left.iter().any(|n| n.starts_with(".vcld") || n == "pwned"), "{left:?}");
}
