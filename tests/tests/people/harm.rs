//! Callers who mean harm: the daemon's memory stays bounded, and others are served meanwhile.

use super::*;
use std::io::Read as _;
use std::os::unix::net::UnixStream;

/// What the daemon has of memory that is its own, in bytes.
fn pss(site: &Site) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", site.daemon.pid().unwrap()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

/// How long somebody else waits for an answer.
fn served(site: &Site) -> Result<Duration> {
    let began = Instant::now();
    site.root(&["computer", "list"])?;
    Ok(began.elapsed())
}

const MIB: u64 = 1 << 20;

#[test]
fn large_bodies_slow_callers_and_nonsense_do_no_harm() -> Result<()> {
    let mut site = Site::new("", |_, _| String::new())?;
    let before = pss(&site)?;
    let socket = site.daemon.directory().join("vcld.sock");

    // Ten megabytes, twenty times, with and without a length, with and without somebody who says who he is.
    let large = site.directory.join("large.json");
    std::fs::write(&large, format!("{{\"kind\":\"{}\"}}", "x".repeat(10 << 20)))?;
    let data = format!("@{large}");
    for n in 0..20 {
        let mut words =
            vec!["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", socket.as_str()];
        words.extend(["-H", "Content-Type: application/json", "--data-binary", &data, "http://x/v1/jobs"]);
        if n % 2 == 1 {
            words.extend(["-H", "Transfer-Encoding: chunked", "-H", "Expect:"]);
        }
        if n % 4 >= 2 {
            words.extend(["-H", "Idempotency-Key: large"]);
        }
        let output = Command::new("curl").args(words).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said == "413" || said == "000",
            "{said}: a connection may be closed on whoever goes on sending"
        );
    }
    let (status, _) =
        site.curl("/v1/jobs", &["-H", "Content-Type: application/json", "--data-binary", &data])?;
    assert!(matches!(status, 401 | 413 | 0), "{status}");

    // Heads and bodies that do not come to their end.
    let mut slow = Vec::new();
    for n in 0..400 {
        let mut stream = UnixStream::connect(&socket)?;
        let text = match n % 2 {
            0 => "GET /v1/status HTTP/1.1\r\nhost: x\r\nx-slow: ".to_owned(),
            _ => "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{".to_owned(),
        };
        stream.write_all(text.as_bytes())?;
        slow.push(stream);
    }
    for _ in 0..5 {
        let took = served(&site)?;
        assert!(took < Duration::from_secs(5), "{took:?} with 400 slow callers");
    }
    // The heads are given up.
    let mut first = slow.swap_remove(0);
    first.set_read_timeout(Some(Duration::from_secs(40)))?;
    let mut left = Vec::new();
    let gone = first.read_to_end(&mut left);
    assert!(gone.is_ok(), "a head that does not come to its end is not waited for: {gone:?}");
    drop(slow);

    // What is no HTTP, no UTF-8, no JSON.
    let raw = |bytes: &[u8]| -> Result<String> {
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // A connection may be closed on whoever goes on sending.
        let _ = stream.write_all(bytes);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
    };
    let json = "host: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let with_body = |body: &[u8]| {
        [format!("POST /v1/jobs HTTP/1.1\r\n{json}content-length: {}\r\n\r\n", body.len()).as_bytes(), body]
            .concat()
    };
    for (bytes, statuses) in [
        (b"GET /v1/computers/%ff%fe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), &["400", "404"][..]),
        (b"GET /v1/jobs?state=%ff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), &["400"]),
        (b"GET /v1/\xff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), &["400", "404"]),
        (b"GET /v1/status HTTP/1.1\r\nhost: x\r\nauthorization: Bearer \xff\xfe\r\nconnection: close\r\n\r\n".to_vec(), &["401"]),
        (b"GET /v1/status HTTP/1.1\r\nhost: x\r\nx-request-id: \xff\r\nconnection: close\r\n\r\n".to_vec(), &["200"]),
        (with_body(b"\xff\xfe"), &["400"]),
        (with_body(b"{\"kind\":\"load\",\"computer\":\"\xff\"}"), &["400", "422"]),
        (with_body("[".repeat(100_000).as_bytes()), &["400", "422"]),
        (vec![0; 4096], &["400", ""]),
        ([&b"GET /v1/status HTTP/1.1\r\n"[..], "x: y\r\n".repeat(50_000).as_bytes()].concat(), &["431", "400", ""]),
    ] {
        let said = raw(&bytes)?;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let status = said.split(' ').nth(1).unwrap_or_default();
        assert!(statuses.contains(&status), "{shown}: {said}");
    }
    let after = pss(&site)?;
    assert!(after < before + 64 * MIB, "from {} to {} MiB", before / MIB, after / MIB);
    println!("PSS: {} MiB before, {} MiB after", before / MIB, after / MIB);
    assert!(served(&site)? < Duration::from_secs(5));
    site.daemon.stop()
}

#[test]
fn subscribers_that_never_read_cost_no_memory_and_nobody_else_anything() -> Result<()> {
    let mut site = Site::new("", |_, _| String::new())?;
    let disk = site.directory.join("tiny.qcow2");
    let made =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", disk.as_str(), "8M"]).status()?;
    assert!(made.success());
    site.root(&["image", "import", "tiny", disk.as_str()])?;
    let before = pss(&site)?;
    let socket = site.daemon.directory().join("vcld.sock");
    let mut deaf = Vec::new();
    for _ in 0..100 {
        let mut stream = UnixStream::connect(&socket)?;
        stream.write_all(b"GET /v1/stream?after=0 HTTP/1.1\r\nhost: x\r\n\r\n")?;
        deaf.push(stream);
    }
    let mut most = Duration::ZERO;
    for _ in 0..30 {
        for computer in ["a", "b"] {
            site.root(&["load", computer, "tiny"])?;
            site.root(&["unload", computer])?;
        }
        most = most.max(served(&site)?);
    }
    let after = pss(&site)?;
    println!("PSS: {} MiB before, {} MiB after; others waited {most:?} at most", before / MIB, after / MIB);
    assert!(after < before + 64 * MIB, "from {} to {} MiB", before / MIB, after / MIB);
    assert!(most < Duration::from_secs(5), "{most:?}");
    drop(deaf);
    site.daemon.stop()
}
