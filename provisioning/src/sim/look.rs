//! Looking at machines of the world and pressing their buttons: power, console, display, what there is and how it is.

use super::Sim;
use super::machine::{Effect, Machine};
use crate::{Error, ErrorKind, Result};
use std::fmt::Write as _;
use vcl_types::api::{Finding, FindingLevel, PowerAction, PowerState, Thing};

/// Whether a machine runs.
pub(super) fn power_state(machine: &Machine) -> PowerState {
    match &machine.domain {
        None => PowerState::Absent,
        Some(domain) if domain.running => PowerState::On,
        Some(_) => PowerState::Off,
    }
}

impl Sim {
    pub(super) async fn change_power(&self, machine: &str, action: PowerAction) -> Result<PowerState> {
        if self.ours(machine).await?.domain.is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("{machine} is not loaded; it has no power")));
        }
        let effect = match action {
            PowerAction::On => Effect::Start,
            PowerAction::Off | PowerAction::ForceOff => Effect::CutPower,
            PowerAction::Reset => Effect::Reboot,
        };
        self.world.by_hand(machine, effect).await?;
        Ok(power_state(&self.machine(machine).await?))
    }

    /// What a machine's log amounts to, told as a guest would on its console.
    pub(super) async fn console_tail(&self, machine: &str, lines: usize) -> Result<String> {
        let failed = |e| Error::caused(ErrorKind::Failed, format!("reading the console of {machine}"), e);
        let log = self.world.log(machine).map_err(failed)?;
        if log.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("{machine} has never been started")));
        }
        let mut console = Vec::new();
        let mut machine_now = Machine::default();
        for line in log {
            // As it was applied then; a log that cannot be folded is a finding, not the console's business.
            let _ = machine_now.apply(machine, &line.effect);
            let key = machine_now.domain.as_ref().and_then(|d| d.booted.as_ref()).map(|i| i.host_key.clone());
            match (&line.effect, key) {
                (Effect::Start | Effect::Reboot, Some(key)) => {
                    console.clear();
                    console.push("[    0.000000] Simulated machine, simulated kernel".to_owned());
                    console.push("[    0.000001] systemd[1]: Reached target Multi-User System.".to_owned());
                    console.push(format!("vcld-host-key: ssh-ed25519 {key} root@localhost"));
                    console.push("localhost login: ".to_owned());
                }
                (Effect::SetUp { hostname }, _) => console.push(format!("{hostname} login: ")),
                (Effect::RunHook { stage, name }, _) => console.push(format!("vcld-hook: {stage} {name}")),
                (Effect::Generalise, _) => console.push("vcld: generalised".to_owned()),
                (Effect::Finish { .. } | Effect::CutPower, _) => {
                    console.push("[   99.000000] reboot: Power down".to_owned());
                }
                _ => {}
            }
        }
        Ok(console[console.len().saturating_sub(lines)..].join("\n"))
    }

    /// A picture of a screen: dark, and as many bright bars as the machine's name has letters.
    pub(super) async fn display(&self, machine: &str) -> Result<Vec<u8>> {
        if !self.machine(machine).await?.is_running() {
            return Err(Error::new(ErrorKind::Refused, format!("{machine} is off; its display is dark")));
        }
        let (width, height) = (160u32, 100u32);
        let bars = machine.len() as u32;
        let rows: Vec<u8> = (0..height)
            .flat_map(|y| {
                // Each row begins with its filter: none.
                std::iter::once(0).chain((0..width).map(move |x| {
                    let bar = x % 8 < 6 && x / 8 < bars && (40..60).contains(&y);
                    if bar { 0xc0 } else { 0x10 }
                }))
            })
            .collect();
        Ok(png(width, height, &rows))
    }

    pub(super) async fn describe(&self, machine: &str) -> Result<String> {
        let state = self.machine(machine).await?;
        if state.is_absent() {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no machine {machine}")));
        }
        serde_json::to_string_pretty(&state)
            .map_err(|e| Error::caused(ErrorKind::Failed, format!("describing {machine}"), e))
    }

    pub(super) async fn list_things(&self) -> Result<Vec<Thing>> {
        let mut things = Vec::new();
        for name in self.all_names()? {
            let machine = self.machine(&name).await?;
            let ours = name.starts_with("vcl-") && !machine.is_absent() && !machine.is_foreign();
            if !ours {
                continue;
            }
            let computer = name.strip_prefix("vcl-").and_then(|n| n.parse().ok());
            // A definition goes with its files; files without one are there after a load that died early.
            let kind = if machine.domain.is_some() { "domain" } else { "directory" };
            // Whichever job had a hand in it, it is the computer's, and stays when the job is done.
            things.push(Thing { kind: kind.into(), name, computer, job: None, bytes: None });
        }
        Ok(things)
    }

    pub(super) async fn remove_one(&self, thing: &Thing) -> Result<()> {
        let name = &thing.name;
        if !matches!(thing.kind.as_str(), "domain" | "directory") || !name.starts_with("vcl-") {
            let context = format!("the {} {name} is not one of this backend's", thing.kind);
            return Err(Error::new(ErrorKind::NotOurs, context));
        }
        self.ours(name).await?;
        for effect in [Effect::CutPower, Effect::Undefine] {
            self.world.by_hand(name, effect).await?;
        }
        for to in self.machine(name).await?.copying.into_keys() {
            self.world.by_hand(name, Effect::EndCopy { to }).await?;
        }
        self.world.by_hand(name, Effect::RemovePlace).await.map(drop)
    }

    pub(super) async fn look(&self) -> Vec<Finding> {
        let what = format!("backend {}", self.settings.name);
        let finding = |level, found: String, way_out: Option<String>| Finding {
            what: what.clone(),
            level,
            found,
            way_out,
        };
        let directory = &self.settings.directory;
        let mut findings = Vec::new();
        match self.world.names() {
            Ok(names) => {
                let mut found =
                    format!("a simulated world in {directory}, which has had {} machines", names.len());
                let chance = &self.settings.chance;
                if !chance.is_certain() {
                    let (min, max) = (chance.delay_min, chance.delay_max);
                    let _ = write!(
                        found,
                        "; steps take {min:?} to {max:?} and {} % of them fail (seed {})",
                        chance.failure_rate * 100.0,
                        chance.seed
                    );
                }
                findings.push(finding(FindingLevel::Ok, found, None));
            }
            Err(e) => findings.push(finding(
                FindingLevel::Error,
                format!("the simulated world in {directory} cannot be read: {e}"),
                Some("let vcld's user read and write that directory".into()),
            )),
        }
        match self.world.refusals() {
            Ok(refusals) => {
                if let Some(last) = refusals.last() {
                    findings.push(finding(
                        FindingLevel::Warning,
                        format!(
                            "{} times something was tried that no machine does; last, {}: {}",
                            refusals.len(),
                            last.machine,
                            last.why
                        ),
                        Some(format!("a fault of vcld's: report it with {directory}/refused.log; delete the file to forget it")),
                    ));
                }
            }
            Err(e) => findings.push(finding(
                FindingLevel::Error,
                format!("{directory}/refused.log cannot be read: {e}"),
                Some("let vcld's user read it, or delete it".into()),
            )),
        }
        findings
    }
}

/// A grey PNG, stored and not compressed: small enough, and it needs no library.
fn png(width: u32, height: u32, rows: &[u8]) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, 0, 0, 0, 0]);
    chunk(&mut out, b"IHDR", &header);
    let mut data = vec![0x78, 0x01];
    let mut blocks = rows.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        data.push(u8::from(blocks.peek().is_none()));
        data.extend(length.to_le_bytes());
        data.extend((!length).to_le_bytes());
        data.extend(block);
    }
    let (a, b) = rows.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    data.extend((b << 16 | a).to_be_bytes());
    chunk(&mut out, b"IDAT", &data);
    chunk(&mut out, b"IEND", &[]);
    out
}

fn chunk(out: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    out.extend((data.len() as u32).to_be_bytes());
    let from = out.len();
    out.extend(kind);
    out.extend(data);
    let crc = !out[from..].iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    out.extend(crc.to_be_bytes());
}
