//! What vcld has made on the host, for whoever looks for what nobody needs any more, and the power of all machines at
//! once.
//!
//! A domain is vcld's by its owner tag, a directory by where it lies: the backend's directory has nothing else in it. A
//! volume is vcld's by its name.

use super::Libvirt;
use super::connection::CALL;
use super::description::Description;
use super::domain::state_of;
use super::pool::named::{Named, halves};
use super::pool::{IMAGE, MACHINE, machine_of, present};
use crate::{Error, ErrorKind, Result};
use camino::Utf8Path;
use std::collections::BTreeMap;
use vcl_types::api::{PowerState, Thing};
use vcl_types::{ComputerName, JobId};
use virt::domain::DomainState;
use virt::error::ErrorNumber;

const DOMAIN: &str = "domain";
const OVERLAYS: &str = "overlays";
/// A copy of a revision's file in a pool.
const COPY: &str = "copy";

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
        if self.pool.is_some() {
            self.pool_things(&mut things).await?;
            things.sort();
            return Ok(things);
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

    /// What is vcld's among the volumes of the pool. A copy that is whole and of use is nobody's leftover, whatever job
    /// has sent it.
    async fn pool_things(&self, things: &mut Vec<Thing>) -> Result<()> {
        let volumes = self.volumes().await?;
        let mut machines: BTreeMap<&str, u64> = BTreeMap::new();
        for volume in &volumes {
            if let Some((machine, _)) = volume.name.strip_prefix(MACHINE).and_then(|n| n.split_once('.')) {
                *machines.entry(machine).or_default() += volume.taken;
            }
        }
        for (name, bytes) in machines {
            let job = job_of(name);
            let computer = name.parse().ok().filter(|_| job.is_none());
            things.push(Thing {
                kind: OVERLAYS.into(),
                computer,
                job,
                bytes: Some(bytes),
                name: name.into(),
            });
        }
        for half in halves(&volumes) {
            let job = Named::parse(&half.name).map(|n| n.job);
            let (name, bytes) = (half.name.clone(), Some(half.taken));
            things.push(Thing { kind: COPY.into(), name, computer: None, job, bytes });
        }
        for copy in self.idle_copies(&volumes).await?.into_iter().filter(|copy| !copy.at_home) {
            let bytes = Some(copy.taken);
            things.push(Thing { kind: COPY.into(), name: copy.name, computer: None, job: None, bytes });
        }
        Ok(())
    }

    /// What libvirt says of all domains, whoever's they are: as they run, and as they would. A volume that stands nowhere
    /// in it is no machine's.
    ///
    /// # Errors
    /// Also if one of them cannot be read: nobody knows then what it names.
    pub(super) async fn all_domains(&self) -> Result<Vec<String>> {
        let listed = self.connection.call("listing the machines", CALL, |c| {
            let domains = c.list_all_domains(0)?;
            let texts = [0, virt::sys::VIR_DOMAIN_XML_INACTIVE]
                .map(|how| domains.iter().map(move |d| d.xml_desc(how)));
            present(texts.into_iter().flatten(), ErrorNumber::NoDomain)
        });
        listed.await
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
                let directory = self.place(name);
                let domain = format!("vcl-{name}");
                if self.domain_state(&domain).await?.is_some() {
                    let message = format!("domain {domain} lies over {directory}; delete the domain first");
                    return Err(Error::new(ErrorKind::Refused, message));
                }
                if self.pool.is_some() {
                    let volumes = self.volumes().await?;
                    let of_it = machine_of(&volumes, name).map(|v| v.name.clone()).collect();
                    return self.delete_volumes(of_it).await;
                }
                match tokio::fs::remove_dir_all(&directory).await {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        Err(Error::caused(ErrorKind::Failed, format!("removing {directory}"), e))
                    }
                    _ => Ok(()),
                }
            }
            COPY if name.starts_with(IMAGE) => self.drop_copy(name).await,
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
}

/// What the files right in a directory take on disk.
pub(super) fn taken(directory: &Utf8Path) -> u64 {
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
