//! A simulated machine, and what may be done to it. No clock, no files: the same effects in the same order make the
//! same machine, so what a log says can be folded and compared with what the world holds.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vcl_os::EndState;
use vcl_types::{Access, AccountName};

/// Who is at work: the lease under which an effect happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hand {
    /// The job, as its journal tells it; empty where it does not.
    pub job: String,
    /// The fencing token of its lease.
    pub token: i64,
}

/// What makes a guest somebody: two machines must never have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// As in `/etc/machine-id`.
    pub machine_id: String,
    /// The public half of its ssh host key, base64.
    pub host_key: String,
}

impl Identity {
    /// The one that a machine makes itself at its `n`th time.
    #[must_use]
    pub fn of(machine: &str, n: u64) -> Self {
        let part = |salt: u64| super::chance::mix(super::chance::hash(machine) ^ n.wrapping_mul(31) ^ salt);
        let hex: String = (1..=3).map(|salt| format!("{:016x}", part(salt))).collect();
        // An ed25519 key in OpenSSH's base64 begins with its algorithm's name and has 43 more digits.
        Self {
            machine_id: hex[..32].to_owned(),
            host_key: format!("AAAAC3NzaC1lZDI1NTE5AAAAI{}", &hex[..43]),
        }
    }
}

/// What is on a disk, as far as anybody in this world cares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Content {
    /// What it was before vcld knew it: the content digest of the disk that was imported.
    pub base: String,
    /// The identity that lies on it.
    pub identity: Option<Identity>,
    /// Whether the guest makes itself a new identity when it next boots.
    pub generalised: bool,
    /// The hostname that was set.
    pub hostname: Option<String>,
    /// What users and hooks left on it, by path.
    pub files: BTreeMap<String, String>,
    /// What a reservation has been given in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

impl Content {
    /// Takes all of a reservation away: what its hooks did, and the homes of its accounts.
    fn revoke(&mut self) {
        let Some(access) = self.access.take() else { return };
        for account in &access.accounts {
            let home = format!("/home/{}/", account.name);
            self.files.retain(|path, _| !path.starts_with(&home));
        }
        let hook =
            |path: &str| ["reserve", "method"].iter().any(|s| path.starts_with(&format!("{HOOKS}/{s}/")));
        self.files.retain(|path, _| !hook(path));
    }
    /// Whether the image has somebody of that name: files in a home that no reservation made.
    fn has_user(&self, name: &str) -> bool {
        let ours = self.access.iter().flat_map(|a| &a.accounts).any(|a| a.name.as_str() == name);
        let home = format!("/home/{name}/");
        !ours && self.files.keys().any(|path| path.starts_with(&home))
    }
}

/// Where hooks that ran are noted.
const HOOKS: &str = "/var/lib/vcld-hooks";

/// An overlay: a machine's own layer over a file that is never written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// The file beneath.
    pub on: String,
    /// What the guest sees, in bytes.
    pub size: u64,
    /// What is on it, both layers together.
    pub content: Content,
}

/// A machine that is defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Which of the overlays are its disks, the system's first.
    pub disks: Vec<u32>,
    /// The owner tag; `None` for one that is not vcld's.
    pub owner: Option<String>,
    /// Whether it is on.
    pub running: bool,
    /// Who it is while it is on: taken from its disk when it booted. `None` while it is off or rebooting.
    pub booted: Option<Identity>,
}

/// A machine of the world, or the place of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Whether its directory is there.
    pub place: bool,
    /// Its overlays by number.
    pub overlays: BTreeMap<u32, Overlay>,
    /// The firmware variables it has of its own: the file that they were copied from.
    pub variables: Option<String>,
    /// Its definition.
    pub domain: Option<Domain>,
    /// The copies that are being made of its disks: the file each is written to, and by whom.
    pub copying: BTreeMap<String, Option<Hand>>,
    /// How often anything was done to it. Dice are thrown with it, so it is also how often failures were met.
    pub effects: u64,
    /// Under which lease it was last changed.
    pub hand: Option<Hand>,
    /// Under which leases it was changed before that, the latest last.
    pub past: Vec<Hand>,
}

/// How many earlier leases a machine remembers.
const REMEMBERED: usize = 64;

/// Something that is done to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "kebab-case")]
pub enum Effect {
    /// Its directory is made.
    MakePlace,
    /// Its directory goes, with all in it.
    RemovePlace,
    /// An overlay is made anew.
    MakeOverlay {
        /// Its number.
        disk: u32,
        /// The overlay.
        overlay: Overlay,
    },
    /// An overlay is deleted.
    DeleteOverlay {
        /// Its number.
        disk: u32,
    },
    /// Firmware variables are copied.
    CopyVariables {
        /// The revision's file.
        from: String,
    },
    /// They are deleted.
    DeleteVariables,
    /// It is defined.
    Define {
        /// Its disks.
        disks: Vec<u32>,
        /// Its owner tag.
        owner: Option<String>,
    },
    /// Its definition goes.
    Undefine,
    /// It is powered on.
    Start,
    /// Its power is cut.
    CutPower,
    /// The guest gets an identity of its own.
    GiveIdentity,
    /// The guest gets its hostname.
    SetUp {
        /// The name.
        hostname: String,
    },
    /// The guest gets a reservation's accounts, and its firewall lets them in.
    Grant {
        /// Who may come how and from where.
        access: Access,
    },
    /// An account of the reservation gets a password. Which one is not told.
    SetPassword {
        /// The account.
        account: AccountName,
    },
    /// The terminals of the guest show a notice.
    Tell {
        /// The notice.
        text: String,
    },
    /// A hook of the site runs in the guest.
    RunHook {
        /// `post_load`, `pre_capture`, `reserve` or `method`.
        stage: String,
        /// The hook's name.
        name: String,
    },
    /// A user writes a file in the guest.
    Write {
        /// Its path.
        path: String,
        /// What stands in it.
        text: String,
    },
    /// What names this machine is taken out of the guest, and it is told to make itself a new identity when it boots.
    Generalise,
    /// The guest goes into the state that its backend wants for the copy.
    Finish {
        /// Which.
        end: EndState,
    },
    /// The guest boots again.
    Reboot,
    /// Users' traces are taken off.
    Sanitize,
    /// A copy of a disk begins.
    BeginCopy {
        /// Its number.
        disk: u32,
        /// The file that is written.
        to: String,
    },
    /// The copy is whole, or given up.
    EndCopy {
        /// The file.
        to: String,
    },
    /// A failure from the dice.
    Failed {
        /// The step.
        step: String,
    },
    /// A lease has come to it and found nothing to change. Those before it may not come back all the same.
    Taken,
}

impl Machine {
    /// Whether nothing of it is there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        !self.place
            && self.overlays.is_empty()
            && self.variables.is_none()
            && self.domain.is_none()
            && self.copying.is_empty()
    }
    /// Whether it is another's: defined, without an owner tag.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.domain.as_ref().is_some_and(|d| d.owner.is_none())
    }
    /// Whether its guest is up: on, and not rebooting.
    fn is_up(&self) -> bool {
        self.domain.as_ref().is_some_and(|d| d.booted.is_some())
    }
    /// Whether it is on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.domain.as_ref().is_some_and(|d| d.running)
    }
    /// What is on its system disk.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        let first = self.domain.as_ref()?.disks.first()?;
        self.overlays.get(first).map(|o| &o.content)
    }

    /// Lets a lease at it. One that another has followed may not come back.
    ///
    /// # Errors
    /// Whose effects would be mixed with whose.
    pub fn admit(&mut self, hand: &Hand) -> Result<(), String> {
        if self.hand.as_ref() == Some(hand) {
            return Ok(());
        }
        if let Some(last) = &self.hand {
            let older = last.job == hand.job && !hand.job.is_empty() && hand.token < last.token;
            if older || self.past.contains(hand) {
                return Err(format!(
                    "token {} of job `{}` comes back after token {} of job `{}` has been at the machine",
                    hand.token, hand.job, last.token, last.job
                ));
            }
        }
        if let Some(last) = self.hand.replace(hand.clone()) {
            self.past.push(last);
            let much = self.past.len().saturating_sub(REMEMBERED);
            self.past.drain(..much);
        }
        Ok(())
    }

    /// Does it, if it can be done; says whether that changed anything. `name` is the machine's.
    ///
    /// # Errors
    /// Why a real machine would not have it. Nothing has changed then.
    pub fn apply(&mut self, name: &str, effect: &Effect) -> Result<bool, String> {
        let before = self.effects;
        let changed = self.change(name, effect)?;
        self.effects = before + u64::from(changed);
        Ok(changed)
    }

    fn change(&mut self, name: &str, effect: &Effect) -> Result<bool, String> {
        let running = self.is_running();
        match effect {
            Effect::MakePlace => Ok(!std::mem::replace(&mut self.place, true)),
            Effect::RemovePlace if running => Err("its files are deleted under the running machine".into()),
            Effect::RemovePlace if !self.copying.is_empty() => {
                Err("its files are deleted while they are copied".into())
            }
            Effect::RemovePlace => {
                let had = self.place || !self.overlays.is_empty() || self.variables.is_some();
                (self.place, self.variables) = (false, None);
                self.overlays.clear();
                Ok(had)
            }
            Effect::MakeOverlay { disk, .. } if running && self.uses(*disk) => {
                Err(format!("overlay {disk} is made anew under the running machine"))
            }
            Effect::MakeOverlay { .. } | Effect::CopyVariables { .. } if !self.place => {
                Err("its directory is not there".into())
            }
            Effect::MakeOverlay { disk, overlay } => {
                self.overlays.insert(*disk, overlay.clone());
                Ok(true)
            }
            Effect::DeleteOverlay { disk } if running && self.uses(*disk) => {
                Err(format!("overlay {disk} is deleted under the running machine"))
            }
            Effect::DeleteOverlay { disk } => Ok(self.overlays.remove(disk).is_some()),
            Effect::CopyVariables { from } => Ok(self.variables.replace(from.clone()).as_ref() != Some(from)),
            Effect::DeleteVariables => Ok(self.variables.take().is_some()),
            Effect::Define { disks, owner } => self.define(disks, owner.as_ref()),
            Effect::Undefine if running => Err("a running machine is undefined".into()),
            Effect::Undefine => Ok(self.domain.take().is_some()),
            Effect::Start => self.start(name),
            Effect::CutPower => Ok(self.off()),
            Effect::BeginCopy { disk, .. } if running && self.uses(*disk) => {
                Err(format!("disk {disk} is copied while the machine runs"))
            }
            Effect::BeginCopy { disk, to } => {
                if !self.overlays.contains_key(disk) {
                    return Err(format!("disk {disk} is copied and is not there"));
                }
                self.copying.insert(to.clone(), self.hand.clone());
                Ok(true)
            }
            Effect::EndCopy { to } => Ok(self.copying.remove(to).is_some()),
            Effect::Failed { .. } => Ok(true),
            Effect::Taken => Ok(false),
            Effect::Finish { .. } | Effect::Reboot if !running => {
                // It has gone that way already: nobody answers, which is what was wanted.
                if self.domain.is_some() { Ok(false) } else { Err("there is no machine".into()) }
            }
            // It is on its way down and up already.
            Effect::Finish { end: EndState::Reboot } if !self.is_up() => Ok(false),
            Effect::Finish { end: EndState::Off } => {
                self.inside(effect, name)?;
                Ok(self.off())
            }
            Effect::Reboot => self.reboot(name),
            inside => self.inside(inside, name),
        }
    }

    fn uses(&self, disk: u32) -> bool {
        self.domain.as_ref().is_some_and(|d| d.disks.contains(&disk))
    }

    fn define(&mut self, disks: &[u32], owner: Option<&String>) -> Result<bool, String> {
        if let Some(missing) = disks.iter().find(|d| !self.overlays.contains_key(d)) {
            return Err(format!("it is defined with disk {missing}, which is not there"));
        }
        match &self.domain {
            Some(there) if there.disks != disks => {
                Err(format!("it is defined with disks {:?} and again with {disks:?}", there.disks))
            }
            Some(_) => Ok(false),
            None => {
                self.domain = Some(Domain {
                    disks: disks.to_vec(),
                    owner: owner.cloned(),
                    running: false,
                    booted: None,
                });
                Ok(true)
            }
        }
    }

    fn start(&mut self, name: &str) -> Result<bool, String> {
        let Some(domain) = &self.domain else { return Err("it is started and not defined".into()) };
        if domain.running {
            return Ok(false);
        }
        if domain.disks.is_empty() {
            return Err("it is started without a disk".into());
        }
        if let Some(missing) = domain.disks.iter().find(|d| !self.overlays.contains_key(d)) {
            return Err(format!("it is started without its disk {missing}"));
        }
        if !self.copying.is_empty() {
            return Err("it is started while its disks are copied".into());
        }
        self.boot(name);
        Ok(true)
    }

    fn boot(&mut self, name: &str) {
        let fresh = Identity::of(name, self.effects);
        let Some(domain) = &mut self.domain else { return };
        domain.running = true;
        let Some(overlay) = domain.disks.first().and_then(|d| self.overlays.get_mut(d)) else { return };
        let content = &mut overlay.content;
        if content.generalised || content.identity.is_none() {
            content.identity = Some(fresh);
            content.generalised = false;
        }
        domain.booted = content.identity.clone();
    }

    fn reboot(&mut self, name: &str) -> Result<bool, String> {
        self.off();
        self.boot(name);
        Ok(true)
    }

    fn off(&mut self) -> bool {
        let Some(domain) = &mut self.domain else { return false };
        domain.booted = None;
        std::mem::replace(&mut domain.running, false)
    }

    /// What happens in the guest, which must be up for it.
    fn inside(&mut self, effect: &Effect, name: &str) -> Result<bool, String> {
        let fresh = Identity::of(name, self.effects);
        let up = self.domain.as_mut().filter(|d| d.booted.is_some());
        let Some(domain) = up else { return Err("something is done in the guest, and it is not up".into()) };
        let Some(overlay) = domain.disks.first().and_then(|d| self.overlays.get_mut(d)) else {
            return Err("something is done in a guest without a disk".into());
        };
        let content = &mut overlay.content;
        let was = (content.clone(), domain.booted.clone());
        match effect {
            Effect::GiveIdentity => {
                content.identity = Some(fresh.clone());
                domain.booted = Some(fresh);
            }
            Effect::SetUp { hostname } => {
                content.hostname = Some(hostname.clone());
                // A capture that was given up: the guest goes on as who it was.
                content.generalised = false;
                content.revoke();
            }
            Effect::RunHook { stage, name } => {
                content.files.insert(format!("{HOOKS}/{stage}/{name}"), "ran".into());
            }
            Effect::Grant { access } => {
                for gone in content.access.iter().flat_map(|was| &was.accounts) {
                    if access.accounts.iter().all(|account| account.name != gone.name) {
                        let home = format!("/home/{}/", gone.name);
                        content.files.retain(|path, _| !path.starts_with(&home));
                    }
                }
                if let Some(account) = access.accounts.iter().find(|a| content.has_user(a.name.as_str())) {
                    return Err(format!("its image has an account {} of its own", account.name));
                }
                content.access = Some(access.clone());
            }
            Effect::SetPassword { account } => {
                let known = |access: &Access| access.accounts.iter().any(|a| a.name == *account);
                if !content.access.as_ref().is_some_and(known) {
                    return Err(format!("{account} gets a password, and is no account of a reservation"));
                }
                // Otherwise than everything else it is another one each time.
                return Ok(true);
            }
            Effect::Tell { .. } => return Ok(true),
            Effect::Write { path, text } => {
                content.files.insert(path.clone(), text.clone());
            }
            Effect::Generalise => {
                content.generalised = true;
                content.hostname = None;
                content.revoke();
                content.files.retain(|path, _| !path.starts_with("/var/log/"));
            }
            Effect::Finish { end } => {
                if !content.generalised {
                    return Err("a guest that is not generalised is finished for a capture".into());
                }
                // One that stays on keeps the keys that it shows; a copy of it makes itself new ones.
                if *end != EndState::On {
                    content.identity = None;
                }
                if *end == EndState::Reboot {
                    // On its way down and up: its backend has until it is up again to take its disk.
                    domain.booted = None;
                }
            }
            Effect::Sanitize => {
                content.revoke();
                content.files.retain(|path, _| !path.starts_with("/home/"));
            }
            _ => return Err("that is not done in a guest".into()),
        }
        Ok(was != (overlay.content.clone(), domain.booted.clone()))
    }
}
