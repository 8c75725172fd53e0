//! A disk of 1 GiB to a VMware datastore and back, against `curl` doing the same to the same server.
//!
//! The server is the double of an ESXi host on this machine, so there is no network to hide behind: what is measured is what
//! each side costs. The disk's bytes do not compress and none of them are zeros that could be skipped. Ours answers the
//! digest of what a guest sees, which it makes meanwhile; the peer has to make one too, with `openssl dgst -sha256`. What curl
//! takes without any digest is a line of its own.

use super::Line;
use crate::command::output_of;
use crate::vcsim::{Mode, Vcsim};
use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use vcl_provisioning::vim25::{Datastore, Server, Settings, Trust};
use vcl_types::Secret;

/// The cases, and what each is.
pub const CASES: [(&str, &str); 2] =
    [("upload", "a disk of 1 GiB from this machine to the datastore"), ("download", "the same back")];

const RUNS: usize = 7;
const MIB: usize = 1024;
/// Where on the datastore.
const DIRECTORY: &str = "bench";

struct World {
    double: Vcsim,
    datastore: Datastore,
    runtime: tokio::runtime::Runtime,
    disk: Utf8PathBuf,
    directory: Utf8PathBuf,
    _directory: tempfile::TempDir,
}

/// Runs one case, or both.
///
/// # Errors
///
/// When there is no such case, or the double or a tool fails.
pub fn run(case: Option<&str>) -> Result<()> {
    if let Some(case) = case.filter(|case| CASES.iter().all(|(name, _)| name != case)) {
        bail!("the bench transfer has no case {case}; it has upload, download, and both without a word");
    }
    let world = World::new()?;
    if case != Some("download") {
        world.upload()?;
    }
    if case != Some("upload") {
        world.download()?;
    }
    world.runtime.block_on(world.datastore.close());
    Ok(())
}

impl World {
    fn new() -> Result<Self> {
        let target = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target");
        fs::create_dir_all(&target)?;
        let own = tempfile::Builder::new().prefix("bench-transfer-").tempdir_in(target)?;
        let directory = Utf8PathBuf::try_from(own.path().to_owned())?;
        let disk = directory.join("disk.raw");
        let count = format!("count={MIB}");
        output_of(Command::new("dd").args([
            "if=/dev/urandom",
            &format!("of={disk}"),
            "bs=1M",
            &count,
            "iflag=fullblock",
            "status=none",
        ]))?;
        let double = Vcsim::start(Mode::Esx)?;
        fs::create_dir(double.datastore_directory().join(DIRECTORY))?;
        let settings = Settings {
            name: "esx".parse()?,
            server: Server {
                address: double.address().to_string(),
                user: double.user().to_owned(),
                password: Secret::new(double.password().to_owned()),
                trust: Trust::Ca(double.ca_file()),
            },
            datacenter: None,
            cluster: None,
            folder: None,
            datastore: double.datastore().to_owned(),
            images: "vcl-images".to_owned(),
            directory: directory.join("scratch"),
            parallel: 4,
            networks: vcl_provisioning::Networks::default(),
        };
        let datastore = Datastore::of_host(settings)?;
        let runtime = tokio::runtime::Runtime::new()?;
        output_of(&mut Command::new("sync"))?;
        Ok(Self { double, datastore, runtime, disk, directory, _directory: own })
    }

    /// curl with what every request needs: whom to trust, who asks, and which file.
    fn curl(&self, name: &str, more: &[&str]) -> Result<Duration> {
        let (address, datacenter, datastore) =
            (self.double.address(), self.double.datacenter(), self.double.datastore());
        let url = format!("https://{address}/folder/{name}?dcPath={datacenter}&dsName={datastore}");
        let login = format!("{}:{}", self.double.user(), self.double.password());
        let begun = Instant::now();
        let ca = self.double.ca_file();
        let basic = ["--silent", "--show-error", "--fail", "--http1.1", "--cacert", ca.as_str()];
        output_of(Command::new("curl").args(basic).args(["--user", &login]).args(more).arg(url))?;
        Ok(begun.elapsed())
    }

    fn upload(&self) -> Result<()> {
        let (mut ours, mut peer, mut alone) = (vec![], vec![], vec![]);
        for n in 0..=RUNS {
            eprintln!("upload: run {n} of {RUNS}");
            let name = format!("{DIRECTORY}/ours-{n}-flat.vmdk");
            let begun = Instant::now();
            let content = self.runtime.block_on(self.datastore.upload(self.disk.as_std_path(), &name))?;
            let our_time = begun.elapsed();
            ensure!(content.virtual_size == (MIB as u64) << 20, "{content:?}");
            self.arrived(&name, n == 0)?;

            let name = format!("{DIRECTORY}/theirs-{n}-flat.vmdk");
            let digest = digest(&self.disk)?;
            let sent = self.curl(&name, &["--upload-file", self.disk.as_str()])?;
            self.arrived(&name, n == 0)?;
            // The first of each warms the caches.
            if n > 0 {
                ours.push(our_time.as_secs_f64());
                peer.push((digest + sent).as_secs_f64());
                alone.push(sent.as_secs_f64());
            }
        }
        Line::pair("transfer", "upload", "openssl dgst -sha256 && curl", &mut ours, &mut peer).print();
        Line::pair("transfer", "upload_undigested", "curl alone", &mut ours, &mut alone).print();
        Ok(())
    }

    /// What came is taken away again; first it is compared, if it is to be.
    fn arrived(&self, name: &str, compare: bool) -> Result<()> {
        let path = self.double.datastore_directory().join(name);
        let length = fs::metadata(&path).with_context(|| format!("{path} did not arrive"))?.len();
        ensure!(length == (MIB as u64) << 20, "{length} bytes arrived at {path}");
        if compare {
            output_of(Command::new("cmp").args([self.disk.as_str(), path.as_str()]))?;
        }
        fs::remove_file(&path)?;
        settled()
    }

    fn download(&self) -> Result<()> {
        let name = format!("{DIRECTORY}/source-flat.vmdk");
        fs::copy(&self.disk, self.double.datastore_directory().join(&name))?;
        settled()?;
        let (mut ours, mut peer, mut alone) = (vec![], vec![], vec![]);
        for n in 0..=RUNS {
            eprintln!("download: run {n} of {RUNS}");
            let to = self.directory.join("ours.raw");
            let begun = Instant::now();
            self.runtime.block_on(self.datastore.download(&name, to.as_std_path()))?;
            let our_time = begun.elapsed();
            self.fetched(&to, n == 0)?;

            let to = self.directory.join("theirs.raw");
            let fetched = self.curl(&name, &["--output", to.as_str()])?;
            let digest = digest(&to)?;
            self.fetched(&to, n == 0)?;
            if n > 0 {
                ours.push(our_time.as_secs_f64());
                peer.push((digest + fetched).as_secs_f64());
                alone.push(fetched.as_secs_f64());
            }
        }
        Line::pair("transfer", "download", "curl && openssl dgst -sha256", &mut ours, &mut peer).print();
        Line::pair("transfer", "download_undigested", "curl alone", &mut ours, &mut alone).print();
        Ok(())
    }

    fn fetched(&self, path: &Utf8Path, compare: bool) -> Result<()> {
        let length = fs::metadata(path)?.len();
        ensure!(length == (MIB as u64) << 20, "{length} bytes were fetched");
        if compare {
            output_of(Command::new("cmp").args([self.disk.as_str(), path.as_str()]))?;
        }
        fs::remove_file(path)?;
        settled()
    }
}

/// What one run has written is not written to the disk beside the next one.
fn settled() -> Result<()> {
    output_of(&mut Command::new("sync")).map(drop)
}

fn digest(path: &Utf8Path) -> Result<Duration> {
    let begun = Instant::now();
    output_of(Command::new("openssl").args(["dgst", "-sha256", path.as_str()]))?;
    Ok(begun.elapsed())
}
