//! One domain: looking at it, defining, starting, stopping and removing it. Every function may be called again.

use super::Libvirt;
use super::connection::{CALL, is, maybe};
use super::definition::Definition;
use super::description::Description;
use crate::{Error, ErrorKind, Result};
use std::time::Duration;
use vcl_job::{Cx, Kind};
use vcl_types::Firmware;
use vcl_types::api::{PowerAction, PowerState};
use virt::domain::{Domain, DomainPausedReason, DomainState, DomainStateReason};
use virt::enumutil::Enum;
use virt::error::ErrorNumber;
use virt::sys;

/// How often a power state is asked for while it is waited for.
const POLL: Duration = Duration::from_millis(150);

/// The binding answers a state that there is not, instead of the error, when libvirt could not be asked. Taken for off, a
/// running machine would be copied or counted as shut down.
pub(super) fn state_of(domain: &Domain) -> Result<DomainState, virt::error::Error> {
    use DomainPausedReason::StartingUp;
    match domain.state()? {
        // libvirt starts each machine stopped and lets it go a moment later: it is on its way on, and nobody paused it.
        (
            Enum::Known(DomainState::Paused),
            Enum::Known(DomainStateReason::Paused(Enum::Known(StartingUp))),
        ) => Ok(DomainState::Running),
        (Enum::Known(state), _) => Ok(state),
        (Enum::Unknown(_), _) => Err(virt::error::Error::last_error()),
    }
}

impl Libvirt {
    /// A domain's state; `None` when there is no such domain.
    pub(super) async fn domain_state(&self, name: &str) -> Result<Option<DomainState>> {
        let domain = name.to_owned();
        let what = format!("looking at domain {name}");
        maybe(self.connection.call(what, CALL, move |c| state_of(&c.lookup_domain_by_name(&domain)?)).await)
    }

    pub(super) async fn power_state(&self, name: &str) -> Result<PowerState> {
        Ok(match self.domain_state(name).await? {
            None => PowerState::Absent,
            Some(DomainState::Shutoff | DomainState::Crashed | DomainState::NoState) => PowerState::Off,
            Some(DomainState::Paused | DomainState::PMSuspended) => PowerState::Paused,
            // A domain that is shutting down is still running.
            Some(_) => PowerState::On,
        })
    }

    /// A domain's description; `None` when there is no such domain.
    pub(super) async fn describe(&self, name: &str) -> Result<Option<Description>> {
        let Some(xml) = self.domain_xml(name).await? else { return Ok(None) };
        Description::parse(&xml)
            .map(Some)
            .map_err(|e| Error::caused(ErrorKind::Failed, format!("reading the XML of domain {name}"), e))
    }

    pub(super) async fn domain_xml(&self, name: &str) -> Result<Option<String>> {
        let domain = name.to_owned();
        // The persistent definition: what it will be when it is next started, without run-time additions.
        let read = self
            .connection
            .call(format!("reading the XML of domain {name}"), CALL, move |c| {
                c.lookup_domain_by_name(&domain)?.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)
            })
            .await;
        maybe(read)
    }

    /// The description of a domain of ours, `None` when there is none of that name. A domain that vcld did not make is
    /// refused: it is never touched.
    pub(super) async fn ours(&self, name: &str) -> Result<Option<Description>> {
        match self.describe(name).await? {
            Some(d) if d.owner.is_none() => Err(Error::new(
                ErrorKind::NotOurs,
                format!(
                    "domain {name} is there and vcld did not make it; rename it (virsh domrename) or rename the computer"
                ),
            )),
            found => Ok(found),
        }
    }

    /// As [`remove`](Self::remove), for what is taken back: a domain of another is why it is, and stays as it is.
    pub(super) async fn remove_if_ours(&self, name: &str) -> Result<()> {
        match self.remove(name).await {
            Err(e) if e.kind == ErrorKind::NotOurs => Ok(()),
            result => result,
        }
    }

    async fn uuid(&self, name: &str) -> Result<Option<String>> {
        let domain = name.to_owned();
        let what = format!("looking at domain {name}");
        maybe(
            self.connection.call(what, CALL, move |c| c.lookup_domain_by_name(&domain)?.uuid_string()).await,
        )
    }

    pub(super) async fn define(&self, definition: &Definition) -> Result<()> {
        let name = definition.domain.clone();
        // One of ours may be there: this step was begun before. Under its name libvirt takes its identity only.
        let uuid = match self.ours(&name).await? {
            Some(_) => self.uuid(&name).await?,
            None => None,
        };
        let xml = definition
            .xml(uuid.as_deref())
            .map_err(|e| Error::caused(ErrorKind::Failed, format!("writing the XML of domain {name}"), e))?;
        let what = format!("defining domain {name}");
        self.connection.call(what, CALL, move |c| c.define_domain_xml(&xml).map(drop)).await
    }

    /// Starts a domain; `false` when it ran already.
    pub(super) async fn start(&self, name: &str) -> Result<bool> {
        let domain = name.to_owned();
        let started = self
            .connection
            .call(format!("starting domain {name}"), Duration::from_secs(180), move |c| {
                let domain = c.lookup_domain_by_name(&domain)?;
                if domain.is_active()? {
                    return Ok(false);
                }
                match domain.create() {
                    // Somebody else was faster.
                    Err(_) if domain.is_active()? => Ok(false),
                    result => result.map(|()| true),
                }
            })
            .await;
        started.map_err(explain_start)
    }

    /// Cuts a domain's power; no domain, or one that is off, is well.
    pub(super) async fn cut_power(&self, name: &str) -> Result<()> {
        let domain = name.to_owned();
        let cut = self
            .connection
            .call(format!("cutting the power of domain {name}"), CALL, move |c| {
                let domain = c.lookup_domain_by_name(&domain)?;
                if !domain.is_active()? {
                    return Ok(());
                }
                match domain.destroy() {
                    // It was off at that moment, by itself or by somebody else; whoever turns it on after that has the
                    // last word.
                    Err(e) if is(&e, ErrorNumber::OperationInvalid) => Ok(()),
                    Err(_) if !domain.is_active()? => Ok(()),
                    result => result,
                }
            })
            .await;
        maybe(cut).map(|_| ())
    }

    /// Removes a domain of ours with its firmware variables and TPM state; no domain is well. One that runs is cut
    /// off first.
    pub(super) async fn remove(&self, name: &str) -> Result<()> {
        let Some(description) = self.ours(name).await? else { return Ok(()) };
        self.cut_power(name).await?;
        let domain = name.to_owned();
        let removed = self
            .connection
            .call(format!("removing domain {name}"), CALL, move |c| {
                let mut flags =
                    sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
                if description.hardware.firmware != Firmware::Bios {
                    flags |= sys::VIR_DOMAIN_UNDEFINE_NVRAM;
                }
                c.lookup_domain_by_name(&domain)?.undefine_flags(flags)
            })
            .await;
        maybe(removed).map(|_| ())
    }

    /// Waits until the power is off. `false` when it still is on after `limit`.
    pub(super) async fn wait_off(&self, name: &str, cx: &Cx, limit: Duration) -> vcl_job::Result<bool> {
        let mut deadline = tokio::time::Instant::now() + limit;
        loop {
            let asked = tokio::time::Instant::now();
            match self.waiting(|| self.power_state(name)).await? {
                PowerState::Off | PowerState::Absent => return Ok(true),
                _ if asked >= deadline => return Ok(false),
                _ => {}
            }
            // The guest's time does not run while nobody can look at it.
            deadline += asked.elapsed();
            tokio::select! {
                () = cx.stopped() => return Err(cx.stop_error()),
                // why: polling keeps us right when libvirtd restarts and would have lost our event subscription
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Waits until the power is off, and cuts it after `limit`, which an event tells.
    pub(super) async fn wait_off_or_cut(
        &self,
        name: &str,
        cx: &Cx,
        limit: Duration,
    ) -> vcl_job::Result<bool> {
        if self.wait_off(name, cx, limit).await? {
            return Ok(false);
        }
        cx.event(
            "forced-off",
            format!(
                "{name} was still on {} s after it was told to shut down; its power is cut",
                limit.as_secs()
            ),
        );
        cx.check().await?;
        self.waiting(|| self.cut_power(name)).await?;
        if self.wait_off(name, cx, Duration::from_secs(60)).await? {
            return Ok(true);
        }
        Err(vcl_job::Error::new(Kind::Fatal, format!("{name} is still on a minute after its power was cut")))
    }

    pub(super) async fn change_power(&self, name: &str, action: PowerAction) -> Result<PowerState> {
        if self.ours(name).await?.is_none() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no domain {name}: the computer is not loaded"),
            ));
        }
        match action {
            PowerAction::On => {
                self.start(name).await?;
            }
            PowerAction::ForceOff => self.cut_power(name).await?,
            PowerAction::Off | PowerAction::Reset => {
                let domain = name.to_owned();
                let off = action == PowerAction::Off;
                self.connection
                    .call(format!("changing the power of domain {name}"), CALL, move |c| {
                        let domain = c.lookup_domain_by_name(&domain)?;
                        match (off, domain.is_active()?) {
                            (true, true) => domain.shutdown(),
                            (true, false) => Ok(()),
                            (false, _) => domain.reset(),
                        }
                    })
                    .await?;
            }
        }
        self.power_state(name).await
    }
}

/// The commonest reasons why qemu does not start, with the way out.
fn explain_start(e: Error) -> Error {
    let text = e.chain();
    let hint = if text.contains("Could not set up host forwarding") {
        "its forwarded port was taken in between; load it again"
    } else if text.contains("Permission denied") {
        "qemu may not read one of its files: look at the owner and mode of the library and the backend's directory"
    } else if text.contains("Cannot allocate memory") || text.contains("cannot set up guest memory") {
        "the host has not enough free memory"
    } else if text.contains("KVM") || text.contains("/dev/kvm") {
        "the host has no working KVM; set accelerator = \"tcg\" for this backend"
    } else {
        return e;
    };
    Error::new(e.kind, format!("{text} ({hint})"))
}
