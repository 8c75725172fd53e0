//! The kit on the lab backend. Where no guest is wanted, a PC is an address at which something speaks as an ssh server does;
//! the guest is a PC of `vcl_tests::pc`, with a real sshd and the Linux module.

use crate::{VCL_WORLD, banner, cx, record};
use anyhow::Result;
use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use vcl_images::Library;
use vcl_os::{Linux, SshKey, SshRemotes};
use vcl_provisioning::conformance::{self, GuestImage, Offer, World as Kit};
use vcl_provisioning::lab::{Lab, Settings};
use vcl_provisioning::{Limits, Provisioning};
use vcl_tests::manifest::linux;
use vcl_tests::pc::{self, Pc};
use vcl_tests::world::World;
use vcl_types::{Computer, ComputerName, Nic, NicRole};

struct LabWorld {
    pc: Pc,
    key: Utf8PathBuf,
    _directory: tempfile::TempDir,
}

impl LabWorld {
    fn new() -> Result<Self> {
        banner("0.0.0.0:22")?;
        let directory = tempfile::Builder::new().prefix("vcl-lab-").tempdir()?;
        let path = Utf8Path::from_path(directory.path()).unwrap();
        let key = path.join("id");
        pc::keygen(&key)?;
        let at = Pc::made(path, &path.join("id.pub"))?;
        Ok(Self { pc: Pc::start(&at)?, key, _directory: directory })
    }
    fn plugged(name: ComputerName, address: IpAddr) -> Computer {
        let (network, role) = ("lab".parse().unwrap(), NicRole::Management);
        let nic = Nic { network, role, mac: "52:54:00:4a:00:01".into(), address: Some(address) };
        let backend = "pcs".parse().unwrap();
        Computer { name, backend, cpus: None, memory: None, nics: vec![nic], tags: Vec::new() }
    }
}

#[async_trait]
impl Kit for LabWorld {
    fn name(&self) -> &str {
        "lab"
    }
    async fn open(&self) -> conformance::Result<Arc<dyn Provisioning>> {
        let wake = [10, 99, 0, 255].into();
        Ok(Arc::new(Lab::new(Settings { name: "pcs".parse()?, domain: None, port: 22, wake })))
    }
    fn only(&self) -> Option<Vec<ComputerName>> {
        Some(["p", "2", "lab-03", "lab-04", &"z".repeat(63)].map(|name| name.parse().unwrap()).into())
    }
    fn computer(&self, name: ComputerName) -> Computer {
        let place = self.only().unwrap().iter().position(|known| *known == name).unwrap();
        Self::plugged(name, [127, 2, 0, u8::try_from(place + 1).unwrap()].into())
    }
    fn guest_computer(&self, name: ComputerName) -> Computer {
        Self::plugged(name, pc::ADDRESS.into())
    }
    /// What a user left that is to go, and what was left of the scripts that ran in it.
    async fn left(&self) -> conformance::Result<Vec<String>> {
        let mut left = Vec::new();
        for place in ["tmp", "root"] {
            for file in self.pc.kept(place).read_dir_utf8()? {
                left.push(format!("/{place}/{}", file?.file_name()));
            }
        }
        left.sort();
        Ok(left)
    }
    async fn guest(&self, library: &Library) -> conformance::Result<Option<GuestImage>> {
        let manifest = linux("installed", 1, Vec::new())?;
        library.staging("installed")?;
        let minute = Duration::from_secs(60);
        Ok(Some(GuestImage {
            revision: library.publish(&cx(), "installed", &manifest).await?,
            os: Some(Arc::new(Linux)),
            remotes: Arc::new(SshRemotes::new(SshKey::load(&self.key)?)),
            user: "root".into(),
            limits: Limits { boot: 2 * minute, shutdown: minute, copy: minute, command: 2 * minute },
        }))
    }
    async fn source(&self) -> conformance::Result<Option<String>> {
        Ok(Some(pc::ADDRESS.to_string()))
    }
    fn why_not(&self, what: Offer) -> String {
        match what {
            Offer::Unreachable => {
                "there is no host: each PC answers for itself, and is off if it does not".into()
            }
            Offer::Secrets => "it has no credential but the key that guests let in".into(),
            other => other.lacking().into(),
        }
    }
}

#[test]
fn lab_does_what_a_backend_has_to() -> Result<()> {
    if World::around_test(VCL_WORLD, "lab::lab_does_what_a_backend_has_to")?.is_none() {
        return Ok(());
    }
    let world = LabWorld::new()?;
    conformance::check(async { world }, Some(&record("lab.json")));
    Ok(())
}
