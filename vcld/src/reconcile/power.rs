//! Computers whose power is not what the queue believes: loaded, in nobody's hands, and not on.
//!
//! One listing a backend and one query, so that a thousand computers cost what one does. What is seen once may be a
//! guest that reboots; what is seen twice is told: an event, and the computer's reason, which goes when it is on again.

use crate::node::{Node, Refusal};
use chrono::{DateTime, Local, Utc};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use vcl_provisioning::{Capability, Provisioning};
use vcl_queue::Stance;
use vcl_types::api::{PowerAction, PowerState};
use vcl_types::state::computer::State;
use vcl_types::{BackendName, ComputerName};

/// How long a backend may take to list its machines.
const LOOK: Duration = Duration::from_secs(30);

/// What was seen of computers that are not on.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    off: HashMap<ComputerName, (PowerState, DateTime<Utc>)>,
    /// Why the last one that was to be switched on could not be.
    failures: HashMap<ComputerName, String>,
}

/// What is to be said or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// It has not been on for two looks.
    Off { computer: ComputerName, power: PowerState, reason: String, old: Option<String> },
    /// It was said of it, and it is still so.
    Still { computer: ComputerName, power: PowerState },
    /// It is on again.
    On { computer: ComputerName, old: String },
}

fn word(power: PowerState) -> &'static str {
    match power {
        PowerState::Off => "off",
        PowerState::Paused => "paused",
        PowerState::Absent => "gone from its host",
        PowerState::On => "on",
    }
}

/// Whether a reason is one of this reconciler's, also of an earlier life of it.
fn is_ours(reason: &str) -> bool {
    ["off", "paused", "gone from its host"]
        .iter()
        .any(|word| reason.strip_prefix(word).is_some_and(|rest| rest.starts_with(" since ")))
}

impl Memory {
    /// Remembers why a computer could not be switched on. Answers whether that is news.
    fn failed(&mut self, computer: &ComputerName, why: Option<&str>) -> bool {
        match why {
            Some(why) => self.failures.insert(computer.clone(), why.to_owned()).as_deref() != Some(why),
            None => self.failures.remove(computer).is_some(),
        }
    }
    /// What there is to say after a look: `powers` has every machine of the backends that answered, `asked` the
    /// computers of these backends.
    pub(crate) fn look(
        &mut self,
        asked: &[Stance],
        powers: &BTreeMap<ComputerName, PowerState>,
        now: DateTime<Utc>,
    ) -> Vec<Word> {
        let mut words = Vec::new();
        for stance in asked {
            let name = &stance.computer;
            let ours = stance.reason.as_deref().filter(|r| is_ours(r));
            let watched =
                stance.loaded && !stance.held && matches!(stance.state, State::Reserved | State::InUse);
            if !watched {
                self.off.remove(name);
                continue;
            }
            let power = powers.get(name).copied().unwrap_or(PowerState::Absent);
            if power == PowerState::On {
                self.off.remove(name);
                if let Some(old) = ours {
                    words.push(Word::On { computer: name.clone(), old: old.to_owned() });
                }
                continue;
            }
            match self.off.get(name) {
                Some((seen, since)) if *seen == power => {
                    let said = ours.is_some_and(|r| r.starts_with(word(power)));
                    if said {
                        words.push(Word::Still { computer: name.clone(), power });
                    // Somebody else's reason stands.
                    } else if stance.reason.is_none() || ours.is_some() {
                        let at = since.with_timezone(&Local).format("%Y-%m-%d %H:%M");
                        let way = match power {
                            PowerState::Off => format!("power it on: vclctl computer power {name} on"),
                            PowerState::Paused => "resume it on its host".to_owned(),
                            _ => format!("take it back: vclctl unload {name}"),
                        };
                        let reason = format!("{} since {at}; {way}", word(power));
                        words.push(Word::Off {
                            computer: name.clone(),
                            power,
                            reason,
                            old: stance.reason.clone(),
                        });
                    }
                }
                _ => {
                    self.off.insert(name.clone(), (power, now));
                }
            }
        }
        words
    }
}

impl Node {
    /// Looks at the power of all computers once.
    pub(crate) async fn look_at_powers(&self) -> Result<(), Refusal> {
        let mut powers = BTreeMap::new();
        let mut answered: Vec<&BackendName> = Vec::new();
        for (name, backend) in &self.backends {
            match tokio::time::timeout(LOOK, self.powers_of(name, backend)).await {
                Ok(Ok(all)) => {
                    answered.push(name);
                    powers.extend(all);
                }
                Ok(Err(error)) => tracing::debug!(backend = %name, error = error.chain(), "no power states"),
                Err(_) => tracing::debug!(backend = %name, "no power states in time"),
            }
        }
        // Read after the world: what a job has changed since then is held by it, or was changed to what it now is.
        let mut asked = self.queue.stances().await?;
        asked.retain(|stance| answered.contains(&&stance.backend));
        let words = self.insight.power().look(&asked, &powers, Utc::now());
        for said in words {
            match said {
                Word::Off { computer, power, reason, old } => {
                    if !self.queue.note_computer(&computer, old.as_deref(), Some(&reason)).await? {
                        continue;
                    }
                    let message = format!("{computer} should be on and is {reason}");
                    self.queue.post_event("power-lost", None, Some(&computer), &message);
                    self.restart_stopped(&computer, power).await;
                }
                // The daemon may have died in between, or its host did not let it.
                Word::Still { computer, power } => self.restart_stopped(&computer, power).await,
                Word::On { computer, old } => {
                    if self.queue.note_computer(&computer, Some(&old), None).await? {
                        let message = format!("{computer} is on again");
                        self.queue.post_event("power-back", None, Some(&computer), &message);
                    }
                }
            }
        }
        Ok(())
    }

    /// The power states of a backend's loaded computers. One that lists no machines is asked for each, all at once.
    async fn powers_of(
        &self,
        name: &BackendName,
        backend: &Arc<dyn Provisioning>,
    ) -> vcl_provisioning::Result<BTreeMap<ComputerName, PowerState>> {
        if backend.capabilities().has(Capability::Vms) {
            return backend.powers().await;
        }
        let failed = |e| {
            let context = format!("reading which computers of {name} are loaded");
            vcl_provisioning::Error::caused(vcl_provisioning::ErrorKind::Failed, context, e)
        };
        let rows = self.queue.computers().await.map_err(failed)?;
        let mine = rows.into_iter().filter(|row| row.loaded.is_some() && row.computer.backend == *name);
        let ask = mine.map(|row| async move {
            // One that cannot be found is as good as off.
            let state = backend.state(&row.computer).await.unwrap_or(PowerState::Off);
            (row.computer.name, state)
        });
        Ok(futures::future::join_all(ask).await.into_iter().collect())
    }

    /// Switches a computer on that is off, where the configuration says so. It is tried again at each look; what is in the
    /// way is told once.
    async fn restart_stopped(&self, computer: &ComputerName, power: PowerState) {
        if !self.config.node.upkeep.restart_stopped || power != PowerState::Off {
            return;
        }
        let failure = match self.power(computer, PowerAction::On, "vcld (node.restart_stopped)").await {
            Ok(_) => None,
            Err(refusal) => Some(refusal.message),
        };
        let new = self.insight.power().failed(computer, failure.as_deref());
        if let Some(message) = failure.filter(|_| new) {
            self.queue.post_event("power-lost", None, Some(computer), &message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stance(state: State, reason: Option<&str>, held: bool) -> Stance {
        Stance {
            computer: "a".parse().unwrap(),
            backend: "kvm".parse().unwrap(),
            state,
            reason: reason.map(str::to_owned),
            loaded: true,
            held,
        }
    }
    fn power(power: Option<PowerState>) -> BTreeMap<ComputerName, PowerState> {
        power.map(|p| ("a".parse().unwrap(), p)).into_iter().collect()
    }
    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    #[test]
    fn what_is_seen_off_twice_is_told_once_and_taken_back_when_it_is_on() {
        let mut memory = Memory::default();
        let off = power(Some(PowerState::Off));
        let quiet = [stance(State::Reserved, None, false)];
        assert_eq!(memory.look(&quiet, &off, now()), []);
        let told = memory.look(&quiet, &off, now());
        let [Word::Off { reason, power: PowerState::Off, old: None, .. }] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert!(
            reason.starts_with("off since ") && reason.contains("vclctl computer power a on"),
            "{reason}"
        );
        let said = [stance(State::Reserved, Some(reason), false)];
        let still = [Word::Still { computer: "a".parse().unwrap(), power: PowerState::Off }];
        assert_eq!(memory.look(&said, &off, now()), still);
        // It vanishes altogether: that is news, when it has been seen twice.
        assert_eq!(memory.look(&said, &power(None), now()), []);
        let told = memory.look(&said, &power(None), now());
        assert!(
            matches!(told.as_slice(), [Word::Off { power: PowerState::Absent, old: Some(_), .. }]),
            "{told:?}"
        );
        let back = memory.look(&said, &power(Some(PowerState::On)), now());
        assert_eq!(back, [Word::On { computer: "a".parse().unwrap(), old: reason.clone() }]);
        assert!(memory.off.is_empty());
        // A daemon that was started in between knows its own words.
        let back = Memory::default().look(&said, &power(Some(PowerState::On)), now());
        assert!(matches!(back.as_slice(), [Word::On { .. }]), "{back:?}");
    }

    #[test]
    fn a_guest_that_reboots_and_a_computer_in_somebodys_hands_are_left_alone() {
        let off = power(Some(PowerState::Off));
        let mut memory = Memory::default();
        let quiet = [stance(State::Reserved, None, false)];
        assert_eq!(memory.look(&quiet, &off, now()), []);
        assert_eq!(memory.look(&quiet, &power(Some(PowerState::On)), now()), []);
        assert_eq!(memory.look(&quiet, &off, now()), []);
        for other in [
            stance(State::Reserved, None, true),
            stance(State::Maintenance, Some("disk errors"), false),
            Stance { loaded: false, ..stance(State::Available, None, false) },
        ] {
            let mut memory = Memory::default();
            for _ in 0..3 {
                assert_eq!(memory.look(std::slice::from_ref(&other), &off, now()), [], "{other:?}");
            }
        }
        // Somebody said something else of it: that stays.
        let mut memory = Memory::default();
        let noted = [stance(State::InUse, Some("kept off over the weekend"), false)];
        for _ in 0..3 {
            assert_eq!(memory.look(&noted, &off, now()), []);
        }
    }
}
