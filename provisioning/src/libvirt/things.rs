//! What vcld has made on the host, for whoever looks for what nobody needs any more, and the power of all machines at
//! once.
//!
//! A domain is vcld's by its owner tag, a directory by where it lies: the backend's directory has nothing else in it.

use super::Libvirt;
use super::connection::CALL;
use super::description::Description;
use super::domain::state_of;
use crate::{Error, ErrorKind, Result};
use camino::Utf8Path;
use std::collections::BTreeMap;
use vcl_types::api::{PowerState, Thing};
use vcl_types::{ComputerName, JobId};
use virt::domain::DomainState;

const DOMAIN: &str = "domain";
const OVERLAYS: &str = "overlays";

/// The job whose throw-away machine bears this name: `capture-job12-token3`.
fn job_of(name: &str) -> Option<JobId> {
    let (job, token) = name.strip_prefix("capture-job")?.split_once("-token")?;
    token.parse::<i64>().ok()?;
    job.parse().ok()
}

impl Libvirt {
    /// The definition of a domain as it runs, or as it would. libvirt leaves passwords out of it.
    pub(super) async fn live_xml(&self, name: &str) -> Result<String> {
        let domain = name.to_owned();
        let what = format!("reading the XML of domain {name}");
        self.connection.call(what, CALL, move |c| c.lookup_domain_by_name(&domain)?.xml_desc(0)).await
    }

    pub(super) async fn made_things(&self) -> Result<Vec<Thing>> {
        let domains = self.connection.call("listing the machines", CALL, |c| {
            let seen = |d: &virt::domain::Domain| {
                Some((d.name().ok()?, d.xml_desc(virt::sys::VIR_DOMAIN_XML_INACTIVE).ok()?))
            };
            // One that vanishes while we look is not there.
            Ok(c.list_all_domains(0)?.iter().filter_map(seen).collect::<Vec<_>>())
        });
        let mut things = Vec::new();
        for (name, xml) in domains.await? {
            let Some(owner) = Description::parse(&xml).ok().and_then(|d| d.owner) else { continue };
            let job = name.strip_prefix("vcl-").and_then(job_of);
            let computer = owner.parse().ok().filter(|_| job.is_none());
            things.push(Thing { kind: DOMAIN.into(), name, computer, job, bytes: None });
        }
        let directory = &self.settings.directory;
        let failed =
            |e| Error::caused(ErrorKind::Failed, format!("reading the backend's directory {directory}"), e);
        for entry in directory.read_dir_utf8().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_owned();
            if name.starts_with('.') || !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            let job = job_of(&name);
            let computer = name.parse().ok().filter(|_| job.is_none());
            things.push(Thing {
                kind: OVERLAYS.into(),
                computer,
                job,
                bytes: Some(taken(entry.path())),
                name,
            });
        }
        things.sort();
        Ok(things)
    }

    pub(super) async fn unmake(&self, thing: &Thing) -> Result<()> {
        let name = &thing.name;
        match thing.kind.as_str() {
            // Only a domain with the owner tag is removed.
            DOMAIN => self.remove(name).await,
            OVERLAYS => {
                if name.is_empty() || name.starts_with('.') || name.contains('/') {
                    return Err(Error::new(
                        ErrorKind::Refused,
                        format!("`{name}` is not a directory of a machine"),
                    ));
                }
                let directory = self.settings.directory.join(name);
                let domain = format!("vcl-{name}");
                if self.domain_state(&domain).await?.is_some() {
                    let message = format!("domain {domain} lies over {directory}; delete the domain first");
                    return Err(Error::new(ErrorKind::Refused, message));
                }
                match tokio::fs::remove_dir_all(&directory).await {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        Err(Error::caused(ErrorKind::Failed, format!("removing {directory}"), e))
                    }
                    _ => Ok(()),
                }
            }
            kind => Err(Error::new(ErrorKind::Refused, format!("a libvirt backend makes no {kind}"))),
        }
    }

    /// One listing, and one small question a domain: its name tells whose it is.
    pub(super) async fn all_powers(&self) -> Result<BTreeMap<ComputerName, PowerState>> {
        let listed = self.connection.call("listing the machines", CALL, |c| {
            let seen = |d: &virt::domain::Domain| {
                let name = d.name().ok()?;
                let computer: ComputerName = name.strip_prefix("vcl-")?.parse().ok()?;
                Some((computer, state_of(d).ok()?))
            };
            Ok(c.list_all_domains(0)?.iter().filter_map(seen).collect::<Vec<_>>())
        });
        let power = |state| match state {
            DomainState::Shutoff | DomainState::Crashed | DomainState::NoState => PowerState::Off,
            DomainState::Paused | DomainState::PMSuspended => PowerState::Paused,
            _ => PowerState::On,
        };
        Ok(listed.await?.into_iter().map(|(name, state)| (name, power(state))).collect())
    }

    pub(super) fn free_here(&self) -> Result<Option<u64>> {
        let directory = &self.settings.directory;
        let stat = rustix::fs::statvfs(directory.as_std_path()).map_err(|e| {
            let what = format!("measuring the file system of {directory}");
            Error::caused(ErrorKind::Failed, what, std::io::Error::from(e))
        })?;
        Ok(Some(stat.f_bavail * stat.f_frsize))
    }

    /// What a computer's overlays take, where they are on this machine.
    pub(super) fn written_here(&self, name: &ComputerName) -> Option<u64> {
        let overlays = self.computer_directory(name);
        overlays.is_dir().then(|| taken(&overlays))
    }
}

/// What the files right in a directory take on disk.
fn taken(directory: &Utf8Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = directory.read_dir().into_iter().flatten().flatten();
    files.filter_map(|f| f.metadata().ok()).filter(std::fs::Metadata::is_file).map(|m| m.blocks() * 512).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throw_away_machine_tells_its_job() {
        assert_eq!(job_of("capture-job12-token3"), Some(JobId(12)));
        for other in ["capture-job12", "job12-token3", "capture-jobx-token3", "gis-01"] {
            assert_eq!(job_of(other), None, "{other}");
        }
    }
}
