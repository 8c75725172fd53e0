//! Nodes with certificates and libraries on 127.0.0.1, and a wire between them that can be cut.

use crate::exchange::{Configured, Exchange, Identity, serve};
use camino::{Utf8Path, Utf8PathBuf};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use vcl_images::{Library, Progress};
use vcl_job::{Cx, MemoryJournal};
use vcl_types::{ByteSize, DiskRecord, Hardware, ImageRef, JobId, Manifest, OsName};

pub(crate) const MIB: usize = 1 << 20;

/// An authority for certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }
    /// A certificate for that name, in files; `ca` is what the other end is checked against.
    pub(crate) fn files(&self, directory: &Utf8Path, name: &str, ca: &Authority) -> vcl_config::Exchange {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| directory.join(format!("{name}.{end}"));
        std::fs::write(at("ca"), &ca.pem).unwrap();
        std::fs::write(at("pem"), certificate.pem()).unwrap();
        std::fs::write(at("key"), key.serialize_pem()).unwrap();
        vcl_config::Exchange {
            listen: "127.0.0.1:0".parse().unwrap(),
            address: None,
            ca: at("ca"),
            certificate: at("pem"),
            key: vcl_config::KeySource::File(at("key")),
            peers: [].into(),
        }
    }
}

pub(crate) fn identity(files: &vcl_config::Exchange) -> Identity {
    let vcl_config::KeySource::File(key) = &files.key else { panic!() };
    Identity::read(files, &std::fs::read(key).unwrap()).unwrap()
}

/// Some nodes of one authority.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) authority: Authority,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), authority: Authority::new() }
    }
    pub(crate) fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.directory.path()).unwrap()
    }
    pub(crate) fn library(&self, name: &str) -> Library {
        let path: Utf8PathBuf = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Library::open(&path).unwrap()
    }
    /// An end with a certificate for its name, which knows these.
    pub(crate) fn end(&self, name: &str, peers: &[(&str, SocketAddr)]) -> Arc<Exchange> {
        self.end_of(&self.authority, name, peers)
    }
    /// One whose certificate is of that authority, and which trusts the world's.
    pub(crate) fn end_of(&self, of: &Authority, name: &str, peers: &[(&str, SocketAddr)]) -> Arc<Exchange> {
        let identity = identity(&of.files(self.path(), name, &self.authority));
        let peers = peers.iter().map(|(name, at)| ((*name).to_owned(), at.to_string())).collect();
        let silence = Duration::from_secs(20);
        Arc::new(Exchange::new(name, identity, Arc::new(Configured(peers)), silence, ByteSize(0)))
    }
    /// Serves a library at an address of its own.
    pub(crate) async fn serve(&self, end: Arc<Exchange>, library: &Library, ip: &str) -> Served {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = CancellationToken::new();
        tokio::spawn(serve(end, library.clone(), listener, closing.clone()));
        Served { address, _closing: closing.drop_guard() }
    }
}

pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    _closing: tokio_util::sync::DropGuard,
}

pub(crate) fn cx() -> Cx {
    Cx::detached(Arc::new(MemoryJournal::default()), CancellationToken::new(), Duration::from_secs(300))
}

pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Publishes a revision with a disk of so many bytes, its chunk digests, and a kernel.
pub(crate) async fn publish(library: &Library, image: &str, bytes: usize, seed: u64) -> Manifest {
    let image: ImageRef = image.parse().unwrap();
    let staging = library.staging("job7-token1").unwrap();
    let raw = staging.path("raw").unwrap();
    std::fs::write(&raw, noise(bytes.next_multiple_of(512), seed)).unwrap();
    let made = std::process::Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&raw, &staging.disk(0)])
        .status()
        .unwrap();
    assert!(made.success());
    std::fs::remove_file(raw).unwrap();
    std::fs::write(staging.path("disk0.chunks").unwrap(), noise(64, seed)).unwrap();
    std::fs::write(staging.path("kernel").unwrap(), noise(5000, seed)).unwrap();
    let file = vcl_images::digest::file(&cx(), &staging.disk(0), &Progress::none()).await.unwrap();
    let disk = DiskRecord {
        file: "disk0.qcow2".into(),
        format: "qcow2".into(),
        virtual_size: ByteSize(8 << 20),
        file_size: ByteSize(file.size),
        file_digest: file.digest.clone(),
        content_digest: file.digest,
        over: None,
    };
    let boot = vcl_types::DirectBoot { kernel: "kernel".into(), initrd: None, cmdline: String::new() };
    let manifest = Manifest {
        version: 1,
        image: image.name.clone(),
        revision: image.revision.unwrap(),
        parent: None,
        os: OsName::Linux,
        generalised: true,
        hardware: Hardware::default(),
        disks: vec![disk],
        firmware: None,
        boot: Some(boot),
        boot_files: Vec::new(),
        backend: None,
        job: Some(JobId(7)),
        created: "2026-11-21T10:00:00Z".parse().unwrap(),
        note: None,
    };
    library.publish(&cx(), "job7-token1", &manifest).await.unwrap();
    manifest
}

/// Changes bytes of a published file, as a bad disk would: same length, same name.
pub(crate) fn spoil(library: &Library, image: &str, at: u64) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let revision = library.get(&image.parse().unwrap()).unwrap();
    let path = revision.path("disk0.qcow2");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(b"spoiled", at).unwrap();
}

/// All that a revision's directory has, by name.
pub(crate) fn files(library: &Library, image: &str) -> Vec<(String, Vec<u8>)> {
    let revision = library.get(&image.parse().unwrap()).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(revision.directory)
        .unwrap()
        .map(|f| f.unwrap())
        .map(|f| (f.file_name().into_string().unwrap(), std::fs::read(f.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// A wire to a server: each connection is cut after so many bytes towards the client, as the plan says; after the
/// plan's end they go through whole, or none does.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    /// Bytes that came through towards the client.
    pub(crate) through: Arc<AtomicU64>,
    /// What is called at each cut.
    _closing: tokio_util::sync::DropGuard,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Then {
    Whole,
    Nothing,
}

impl Wire {
    pub(crate) async fn to(
        server: SocketAddr,
        plan: &[u64],
        then: Then,
        at_cut: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.3:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let through = Arc::new(AtomicU64::new(0));
        let plan = Arc::new(Mutex::new(VecDeque::from(plan.to_vec())));
        let closing = CancellationToken::new();
        let (counted, at_cut, closed) = (through.clone(), Arc::new(at_cut), closing.clone());
        tokio::spawn(async move {
            loop {
                let (near, _) = tokio::select! {
                    near = listener.accept() => near.unwrap(),
                    () = closed.cancelled() => return,
                };
                let limit = plan.lock().unwrap().pop_front();
                if limit.is_none() && then == Then::Nothing {
                    continue;
                }
                let (counted, at_cut) = (counted.clone(), at_cut.clone());
                tokio::spawn(async move {
                    let far = TcpStream::connect(server).await.unwrap();
                    if one(near, far, limit, &counted).await {
                        at_cut();
                    }
                });
            }
        });
        Self { address, through, _closing: closing.drop_guard() }
    }
    pub(crate) fn through(&self) -> u64 {
        self.through.load(Ordering::SeqCst)
    }
}

/// Whether it was cut.
async fn one(near: TcpStream, far: TcpStream, limit: Option<u64>, through: &AtomicU64) -> bool {
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let asking = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut near_in, &mut far_out).await;
    });
    let (mut left, mut piece) = (limit.unwrap_or(u64::MAX), vec![0; 64 * 1024]);
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let Ok(n @ 1..) = far_in.read(&mut piece[..most]).await else { break };
        if near_out.write_all(&piece[..n]).await.is_err() {
            break;
        }
        left -= n as u64;
        through.fetch_add(n as u64, Ordering::SeqCst);
    }
    asking.abort();
    left == 0
}
