//! The inbox over real sockets, and the imaging task run for real against it, on files in a disk's place.

use super::*;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Client, Method, StatusCode};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_provisioning::inbox::{CHUNK, close, disk_list};
use vcl_types::Digest;

/// A listener that can be stopped and started again at the same address, as a daemon is.
struct World {
    directory: tempfile::TempDir,
    address: SocketAddr,
    boxes: Arc<Boxes>,
    serving: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let boxes = Self::boxes(&directory, address);
        let mut world = Self { directory, address, boxes, serving: None };
        world.serve(listener);
        world
    }
    fn boxes(directory: &tempfile::TempDir, address: SocketAddr) -> Arc<Boxes> {
        let root = Utf8PathBuf::from_path_buf(directory.path().join("inbox")).unwrap();
        Arc::new(Boxes::new(&root, &format!("http://{address}/")).unwrap())
    }
    fn serve(&mut self, listener: tokio::net::TcpListener) {
        let closing = CancellationToken::new();
        let task = tokio::spawn(serve(self.boxes.clone(), listener, closing.clone()));
        self.serving = Some((closing, task));
    }
    async fn stop(&mut self) {
        let (closing, task) = self.serving.take().unwrap();
        closing.cancel();
        task.await.unwrap();
    }
    async fn start(&mut self) {
        self.boxes = Self::boxes(&self.directory, self.address);
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }
    fn open(&self, disk: u64) -> (Place, Opened) {
        let place = self.boxes.place("x-n1-job7-token3").unwrap();
        let opened = self.boxes.open(&place, Takes { disk }).unwrap();
        (place, opened)
    }
}

fn mac(key: &str, text: &str) -> String {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    hmac.update(text.as_bytes());
    Digest::from_bytes(hmac.finalize().into_bytes().into()).into()
}

fn sha(bytes: &[u8]) -> String {
    Digest::from_bytes(Sha256::digest(bytes).into()).into()
}

async fn put(opened: &Opened, name: &str, range: &str, body: &[u8]) -> StatusCode {
    let digest = sha(body);
    let mac = mac(opened.key.expose(), &format!("PUT {name} {range} {digest}"));
    put_as(opened, name, range, body, &digest, &mac).await
}

async fn put_as(
    opened: &Opened,
    name: &str,
    range: &str,
    body: &[u8],
    digest: &str,
    mac: &str,
) -> StatusCode {
    let request = Client::new()
        .request(Method::PUT, format!("{}/{name}", opened.url.expose()))
        .header("Content-Range", range)
        .header("X-Vcl-Digest", digest)
        .header("X-Vcl-Mac", mac)
        .body(body.to_vec());
    request.send().await.unwrap().status()
}

async fn get(url: &str, range: Option<&str>) -> (StatusCode, Vec<u8>) {
    let mut request = Client::new().get(url);
    if let Some(range) = range {
        request = request.header("Range", range);
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.bytes().await.unwrap().to_vec())
}

fn setup() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[tokio::test]
async fn only_who_knows_the_url_gets_in_and_only_to_what_lies_there() {
    setup();
    let world = World::new().await;
    let (place, opened) = world.open(0);
    let noise = crate::exchange::tests::world::noise(CHUNK as usize + 5000, 1);
    std::fs::write(place.out().join("task.tgz"), &noise).unwrap();
    let url = opened.url.expose();
    let file = format!("{url}/task.tgz");
    let head = Client::new().head(&file).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], noise.len().to_string().as_str());
    assert!(!world.boxes.seen(&place).unwrap().fetched, "looking whether it is there is not fetching it");
    assert_eq!(get(&file, None).await, (StatusCode::OK, noise.clone()));
    assert!(world.boxes.seen(&place).unwrap().fetched);
    assert_eq!(get(&file, Some("bytes=10-19")).await, (StatusCode::PARTIAL_CONTENT, noise[10..20].to_vec()));
    let end = format!("bytes={}-", noise.len() - 3);
    assert_eq!(get(&file, Some(&end)).await.1, noise[noise.len() - 3..]);
    let past = format!("bytes={}-", noise.len());
    assert_eq!(get(&file, Some(&past)).await.0, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(get(&format!("{file}?chunk=1"), None).await.1, noise[CHUNK as usize..]);
    assert_eq!(get(&format!("{file}?chunk=2"), None).await.0, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(
        get(&format!("{file}?chunk=18446744073709551615"), None).await.0,
        StatusCode::RANGE_NOT_SATISFIABLE
    );
    let token = url.rsplit('/').next().unwrap();
    let wrong = url.replace(token, &"0".repeat(64));
    let none = format!("http://{}/inbox/other/{token}", world.address);
    let hidden = ["..%2f..%2fbox.json", "..%2fbox.json", "box.json", "%2e%2e", ".x", "absent", "in"];
    let bad = hidden.iter().map(|name| format!("{url}/{name}"));
    let bad = bad.chain([
        format!("{wrong}/task.tgz"),
        format!("{none}/task.tgz"),
        format!("http://{}/", world.address),
    ]);
    for url in bad {
        assert_eq!(get(&url, None).await.0, StatusCode::NOT_FOUND, "{url}");
    }
    assert!(!format!("{opened:?}").contains(token));
    close(&place).unwrap();
    close(&place).unwrap();
    assert_eq!(get(&file, None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(world.boxes.seen(&place).unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn what_is_left_counts_only_with_the_key_and_within_bounds() {
    setup();
    let world = World::new().await;
    let size = CHUNK + 512;
    let (place, opened) = world.open(size);
    let chunk = crate::exchange::tests::world::noise(CHUNK as usize, 2);
    let first = format!("bytes 0-{}/{size}", CHUNK - 1);
    let tail = format!("bytes {CHUNK}-{}/{size}", size - 1);
    // Another's key, another's range, another's name.
    let digest = sha(&chunk);
    let stranger = mac(&"0".repeat(64), &format!("PUT disk0 {first} {digest}"));
    assert_eq!(put_as(&opened, "disk0", &first, &chunk, &digest, &stranger).await, StatusCode::FORBIDDEN);
    let ours = mac(opened.key.expose(), &format!("PUT disk0 {first} {digest}"));
    assert_eq!(put_as(&opened, "disk0", &tail, &chunk, &digest, &ours).await, StatusCode::FORBIDDEN);
    assert_eq!(put_as(&opened, "at", &first, &chunk, &digest, &ours).await, StatusCode::FORBIDDEN);
    assert_eq!(put_as(&opened, "disk0", &first, &chunk, &digest, "").await, StatusCode::FORBIDDEN);
    // The key and another's bytes.
    let other: Vec<_> = chunk.iter().rev().copied().collect();
    let changed = put_as(&opened, "disk0", &first, &other, &digest, &ours).await;
    assert_eq!(changed, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(world.boxes.seen(&place).unwrap().wrong, 1);
    assert!(!place.disk().exists(), "nothing of that was stored");
    for (range, status) in [
        (format!("bytes 0-{}/{}", CHUNK - 1, size + 1), StatusCode::PAYLOAD_TOO_LARGE),
        (format!("bytes 1-{CHUNK}/{size}"), StatusCode::BAD_REQUEST),
        (format!("bytes 0-10/{size}"), StatusCode::BAD_REQUEST),
        ("bytes 0-18446744073709551615/18446744073709551615".into(), StatusCode::BAD_REQUEST),
        ("x".into(), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(put(&opened, "disk0", &range, &chunk).await, status, "{range}");
    }
    assert_eq!(put(&opened, "disk0", &first, &chunk[1..]).await, StatusCode::BAD_REQUEST);
    assert_eq!(put(&opened, "at", "-", &[b'1'; 5000]).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(put(&opened, "at", "-", b"nonsense").await, StatusCode::BAD_REQUEST);
    assert_eq!(put(&opened, "other", "-", b"x").await, StatusCode::NOT_FOUND);
    assert_eq!(put(&opened, "disk0", &first, &chunk).await, StatusCode::OK);
    let smaller = format!("bytes 0-{}/{CHUNK}", CHUNK - 1);
    assert_eq!(put(&opened, "disk0", &smaller, &chunk).await, StatusCode::CONFLICT);
    assert_eq!(put(&opened, "at", "-", b"4194304 4194816\n").await, StatusCode::OK);
    assert_eq!(put(&opened, "result", "-", b"result maybe\nwhat").await, StatusCode::BAD_REQUEST);
    let text = "result failed\ntext the disk\x07 is broken\n";
    assert_eq!(put(&opened, "result", "-", text.as_bytes()).await, StatusCode::OK);
    assert_eq!(put(&opened, "disk0", &first, &chunk).await, StatusCode::CONFLICT, "it is over");
    assert_eq!(put(&opened, "result", "-", b"result ok\n").await, StatusCode::OK);
    let seen = world.boxes.seen(&place).unwrap();
    let report = seen.report.unwrap();
    assert_eq!(
        (report.ok, report.text.as_str()),
        (false, "the disk is broken"),
        "what was said first stands"
    );
    assert_eq!(seen.progress, Some((4_194_304, 4_194_816)));
}

#[tokio::test]
async fn a_box_survives_the_daemon_and_a_line_that_it_did_not_get_to_finish() {
    setup();
    let mut world = World::new().await;
    let size = 3 * CHUNK;
    let (place, opened) = world.open(size);
    let chunk = crate::exchange::tests::world::noise(CHUNK as usize, 3);
    let range = |n: u64| format!("bytes {}-{}/{size}", n * CHUNK, (n + 1) * CHUNK - 1);
    assert_eq!(put(&opened, "disk0", &range(2), &chunk).await, StatusCode::OK);
    world.stop().await;
    let have = place.directory.join("in/have");
    let text = std::fs::read_to_string(&have).unwrap();
    std::fs::write(&have, format!("{text}0 {}", &sha(&chunk)[..20])).unwrap();
    world.start().await;
    let again = world.boxes.open(&place, Takes { disk: 1 }).unwrap();
    assert_eq!(again.url.expose(), opened.url.expose(), "it is found, not made");
    assert_eq!(put(&opened, "disk0", &range(1), &chunk).await, StatusCode::OK);
    let (_, lines) = get(&format!("{}/have", opened.url.expose()), None).await;
    let digest = sha(&chunk);
    assert_eq!(String::from_utf8(lines).unwrap(), format!("1 {digest}\n2 {digest}\n"));
    assert_eq!(world.boxes.boxes().unwrap(), std::slice::from_ref(&place));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(place.directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn who_says_nothing_is_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new().await;
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"GET /inbox/x HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "a connection that never says what it wants is held for ever");
}

#[cfg(feature = "xcat")]
mod task {
    use super::*;
    use vcl_provisioning::xcat::task::{FILE, Manners, Work, pack};

    /// What a service system has.
    #[derive(Clone, Copy, Debug)]
    enum Kit {
        /// bash, GNU wget and openssl: xCAT's.
        Genesis,
        /// busybox with curl.
        Busybox,
        /// dash, curl and sha256sum.
        Curl,
        /// xCAT's, with an openssl that lies about digests.
        Lying,
    }

    const BUSYBOX: &str = "/bin/busybox";

    /// A directory of tools, and the shell.
    fn tools(directory: &Utf8Path, kit: Kit) -> (Utf8PathBuf, &'static str) {
        let bin = directory.join(format!("bin-{kit:?}"));
        std::fs::create_dir_all(&bin).unwrap();
        let link = |name: &str, to: &str| {
            let _ = std::os::unix::fs::symlink(to, bin.join(name));
        };
        let basic = ["dd", "wc", "cat", "rm", "sleep", "tar", "gzip"];
        let (more, shell): (&[&str], _) = match kit {
            Kit::Genesis | Kit::Lying => (&["wget", "openssl"], "/bin/bash"),
            Kit::Curl => (&["curl", "sha256sum"], "/bin/dash"),
            Kit::Busybox => {
                for name in basic.iter().chain(&["sha256sum", "sh"]) {
                    link(name, BUSYBOX);
                }
                link("curl", "/usr/bin/curl");
                return (bin, BUSYBOX);
            }
        };
        for name in basic.iter().chain(more) {
            let there = ["/usr/bin", "/bin"].iter().map(|d| format!("{d}/{name}"));
            link(name, &there.into_iter().find(|p| Utf8Path::new(p).exists()).unwrap());
        }
        if matches!(kit, Kit::Lying) {
            std::fs::remove_file(bin.join("openssl")).unwrap();
            let lie = "#!/bin/bash\ncase \"$*\" in *-hmac*) exec /usr/bin/openssl \"$@\" ;; esac\n\
                       /usr/bin/openssl \"$@\" | /usr/bin/tr 0123 3210\n";
            std::fs::write(bin.join("openssl"), lie).unwrap();
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(bin.join("openssl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        (bin, shell)
    }

    struct Run {
        child: tokio::process::Child,
    }
    impl Drop for Run {
        /// As a node that loses its power: all of it at once.
        fn drop(&mut self) {
            if let Some(group) =
                self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
            {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
        }
    }
    impl Run {
        async fn end(mut self) -> bool {
            let ended = tokio::time::timeout(Duration::from_secs(120), self.child.wait()).await;
            ended.expect("the task does not end").unwrap().success()
        }
    }

    /// Fetches, unpacks and runs the task as a service system does.
    fn run(directory: &Utf8Path, kit: Kit, opened: &Opened) -> Run {
        let (bin, shell) = tools(directory, kit);
        let work = directory.join(format!("work-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&work).unwrap();
        let fetch = match kit {
            Kit::Curl | Kit::Busybox => "curl -s -O",
            _ => "wget -q",
        };
        let run = if matches!(kit, Kit::Busybox) { "sh ./runme.sh" } else { "./runme.sh" };
        let line = format!("{fetch} {}/{FILE} && tar xzf {FILE} && {run}", opened.url.expose());
        let mut command = tokio::process::Command::new(shell);
        if matches!(kit, Kit::Busybox) {
            command.arg("sh");
        }
        command.args(["-c", &line]).env_clear().env("PATH", &bin).current_dir(&work).process_group(0);
        Run { child: command.spawn().unwrap() }
    }

    const MANNERS: Manners = Manners { tries: 60, pause: Duration::from_secs(1), stay: Duration::ZERO };

    fn put_task(place: &Place, opened: &Opened, disk: &Utf8Path, work: Work<'_>) {
        let archive = pack(opened, Some(disk.as_str()), work, MANNERS).unwrap();
        std::fs::write(place.out().join(FILE), archive).unwrap();
    }

    /// Four chunks and a bit: noise, zeros, noise that begins with zeros, zeros, a tail.
    fn disk() -> Vec<u8> {
        let noise = crate::exchange::tests::world::noise;
        let chunk = CHUNK as usize;
        let mut bytes = vec![0; 4 * chunk + 1536];
        bytes[..chunk].copy_from_slice(&noise(chunk, 4));
        bytes[2 * chunk + 4096..3 * chunk].copy_from_slice(&noise(chunk - 4096, 5));
        bytes[4 * chunk..].copy_from_slice(&noise(1536, 6));
        bytes
    }

    fn chunks(bytes: &[u8]) -> Vec<[u8; 32]> {
        bytes.chunks(CHUNK as usize).map(|chunk| Sha256::digest(chunk).into()).collect()
    }

    fn utf8(world: &World) -> &Utf8Path {
        Utf8Path::from_path(world.directory.path()).unwrap()
    }

    #[tokio::test]
    async fn a_disk_is_captured_with_whatever_a_service_system_has() {
        setup();
        for kit in [Kit::Genesis, Kit::Busybox, Kit::Curl] {
            let world = World::new().await;
            let bytes = disk();
            let source = utf8(&world).join("disk.raw");
            std::fs::write(&source, &bytes).unwrap();
            let (place, opened) = world.open(1 << 30);
            put_task(&place, &opened, &source, Work::Capture(1 << 30));
            assert!(run(utf8(&world), kit, &opened).end().await, "{kit:?}");
            let seen = world.boxes.seen(&place).unwrap();
            let report = seen.report.unwrap();
            assert!(report.ok, "{kit:?}: {report:?}");
            assert_eq!(report.size, bytes.len() as u64);
            assert_eq!(report.digest, sha(disk_list(report.size, &chunks(&bytes)).as_bytes()), "{kit:?}");
            assert!(std::fs::read(place.disk()).unwrap() == bytes, "{kit:?}: the disk came as it was");
            let have: BTreeMap<_, _> = store::have(&place).unwrap();
            assert_eq!(have.keys().copied().collect::<Vec<_>>(), [0, 2, 4], "zeros are not sent");
            assert!(seen.progress.is_some_and(|(done, _)| done > 0));
        }
    }

    #[tokio::test]
    async fn a_capture_outlives_a_restart_of_the_daemon_and_does_not_send_twice() {
        setup();
        let mut world = World::new().await;
        let mut bytes = disk();
        let source = utf8(&world).join("disk.raw");
        std::fs::write(&source, &bytes).unwrap();
        let (place, opened) = world.open(1 << 30);
        put_task(&place, &opened, &source, Work::Capture(1 << 30));
        // The first node loses its power after a chunk.
        let first = run(utf8(&world), Kit::Genesis, &opened);
        while store::have(&place).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(first);
        // Something is written before it is started again, and the daemon is away in the meantime.
        bytes[2 * CHUNK as usize + 1] = 1;
        std::fs::write(&source, &bytes).unwrap();
        let second = run(utf8(&world), Kit::Genesis, &opened);
        world.stop().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.start().await;
        // A service system fetches again what it did not get; this one's wget ended with the daemon.
        if !second.end().await {
            assert!(run(utf8(&world), Kit::Genesis, &opened).end().await);
        }
        let report = world.boxes.seen(&place).unwrap().report.unwrap();
        assert!(report.ok, "{report:?}");
        assert_eq!(report.digest, sha(disk_list(report.size, &chunks(&bytes)).as_bytes()));
        assert!(std::fs::read(place.disk()).unwrap() == bytes);
        let lines = std::fs::read_to_string(place.directory.join("in/have")).unwrap();
        assert_eq!(
            lines.lines().filter(|l| l.starts_with("0 ")).count(),
            1,
            "what was there was not sent again:\n{lines}"
        );
    }

    #[tokio::test]
    async fn a_disk_is_restored_and_nothing_of_its_past_is_left() {
        setup();
        for kit in [Kit::Genesis, Kit::Busybox, Kit::Curl] {
            let world = World::new().await;
            let image = disk();
            let (place, opened) = world.open(0);
            std::fs::write(place.out().join("disk0"), &image).unwrap();
            // A larger disk, full of somebody's data.
            let larger = 7 * CHUNK as usize + 8192;
            let mut past = crate::exchange::tests::world::noise(larger, 7);
            past[..CHUNK as usize].copy_from_slice(&image[..CHUNK as usize]);
            let target = utf8(&world).join("target.raw");
            std::fs::write(&target, &past).unwrap();
            put_task(&place, &opened, &target, Work::Restore(image.len() as u64, &chunks(&image)));
            assert!(run(utf8(&world), kit, &opened).end().await, "{kit:?}");
            let report = world.boxes.seen(&place).unwrap().report.unwrap();
            assert!(report.ok, "{kit:?}: {report:?}");
            let now = std::fs::read(&target).unwrap();
            assert_eq!(now.len(), larger);
            assert!(now[..image.len()] == image, "{kit:?}: the image");
            assert!(now[image.len()..].iter().all(|b| *b == 0), "{kit:?}: what is beyond it");
            // Once more: all is there, so nothing is fetched.
            std::fs::remove_file(place.out().join("disk0")).unwrap();
            std::fs::remove_file(place.directory.join("in/result.json")).unwrap();
            assert!(run(utf8(&world), kit, &opened).end().await, "{kit:?}");
        }
    }

    #[tokio::test]
    async fn what_goes_wrong_at_a_node_is_told() {
        setup();
        let world = World::new().await;
        let image = disk();
        let small = utf8(&world).join("small.raw");
        std::fs::write(&small, &image[..CHUNK as usize]).unwrap();
        let absent = utf8(&world).join("absent");
        let large = utf8(&world).join("large.raw");
        std::fs::write(&large, &image).unwrap();
        let chunks = chunks(&image);
        for (disk, work, told) in [
            (&small, Work::Restore(image.len() as u64, &chunks), "needs a larger disk"),
            (&absent, Work::Capture(1 << 30), "there is no disk"),
            (&large, Work::Capture(1 << 20), "at most 1048576 are taken"),
            (&large, Work::Restore(image.len() as u64, &[[0; 32]]), "does not give chunk 0"),
        ] {
            let (place, opened) = world.open(1 << 30);
            put_task(&place, &opened, disk, work);
            let mut run = run(utf8(&world), Kit::Curl, &opened);
            assert!(!run.child.wait().await.unwrap().success());
            let report = world.boxes.seen(&place).unwrap().report.unwrap();
            assert!(!report.ok && report.text.contains(told), "{told}: {report:?}");
            close(&place).unwrap();
        }
        // A digest that is not that of what is sent is seen as that.
        let (place, opened) = world.open(1 << 30);
        put_task(&place, &opened, &large, Work::Capture(1 << 30));
        let run = run(utf8(&world), Kit::Lying, &opened);
        let seen = async {
            while world.boxes.seen(&place).unwrap().wrong < 3 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.unwrap();
        drop(run);
        assert!(!place.disk().exists());
    }
}
