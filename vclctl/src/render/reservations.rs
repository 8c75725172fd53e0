//! Reservations.

use super::table::{maybe, quiet};
use super::text::one_line;
use super::{Clock, Facts, Table, Tone, took};
use chrono::TimeDelta;
use vcl_types::lending::{Connection, Grabbed, ReservationView, Waiting};
use vcl_types::state::reservation::State;

fn tone(state: State) -> Tone {
    match state {
        State::Ready | State::InUse => Tone::Good,
        State::Queued | State::Loading | State::Ending => Tone::Busy,
        State::Scheduled | State::Ended => Tone::Quiet,
    }
}

fn seconds(s: u64) -> String {
    took(TimeDelta::try_seconds(i64::try_from(s).unwrap_or(i64::MAX / 1000)).unwrap_or(TimeDelta::MAX))
}

/// `number 3 in the queue; such ones usually wait 5 min 00 s to 20 min 00 s`, and what it waits for where that is known.
#[must_use]
pub fn waiting(waiting: &Waiting) -> String {
    let usual = match (waiting.p10_s, waiting.p90_s) {
        (Some(low), Some(high)) => format!("; such ones usually wait {} to {}", seconds(low), seconds(high)),
        _ => "; how long is not known yet".to_owned(),
    };
    let because = waiting.because.as_deref().map(|why| format!("; {}", one_line(why))).unwrap_or_default();
    format!("number {} in the queue{usual}{because}", waiting.position)
}

/// All of them, a line each.
#[must_use]
pub fn list(reservations: &[ReservationView], clock: &Clock) -> String {
    let mut table = Table::new(
        &["ID", "STATE", "OWNER", "IMAGE", "COMPUTER", "BEGINS", "ENDS"],
        "there is no reservation",
    );
    for r in reservations {
        table.row([
            quiet(r.id),
            (r.state.to_string(), tone(r.state)),
            quiet(&r.owner),
            quiet(&r.image),
            maybe(r.computer.as_ref().or(r.booked.as_ref())),
            maybe(r.start.map(|at| clock.short(at))),
            maybe(r.ended.or(r.end).map(|at| clock.short(at))),
        ]);
    }
    table.text()
}

/// One of them.
#[must_use]
pub fn one(r: &ReservationView, clock: &Clock) -> String {
    let mut facts = Facts::default();
    facts.add("reservation", r.id).add("state", r.state).add("owner", &r.owner);
    facts.maybe("group", r.group.as_ref());
    facts.add("for", r.purpose);
    facts.maybe("class", r.class.as_ref());
    facts.add("image", &r.image);
    facts.maybe("computer", r.computer.as_ref());
    facts.maybe("kept for it", r.booked.as_ref());
    facts.add("asked for", clock.full(r.since));
    facts.maybe("begins", r.start.map(|at| clock.full(at)));
    facts.maybe("ends", r.end.filter(|_| r.ended.is_none()).map(|at| clock.full(at)));
    facts.maybe("usable since", r.usable.map(|at| clock.full(at)));
    facts.maybe("first connected", r.connected.map(|at| clock.full(at)));
    facts.maybe("last seen", r.seen.map(|at| clock.full(at)));
    facts.maybe("lets in", r.from.map(|from| from.to_string()));
    facts.maybe("waits", r.waiting.as_ref().map(waiting));
    facts.maybe("connect", (!r.connect.is_empty()).then(|| r.connect.join(", ")));
    facts.maybe("job", r.job.filter(|_| r.state != State::Ended));
    facts.maybe("ended", r.ended.map(|at| clock.full(at)));
    facts.maybe("because", r.ended_because.as_deref().map(one_line));
    facts.text()
}

/// What would come of asking.
#[must_use]
pub fn tried(grabbed: &Grabbed, _: &Clock) -> String {
    match (&grabbed.choice, &grabbed.waiting) {
        (Some(choice), _) => format!("it would be {}: {}", choice.computer, one_line(&choice.because)),
        (None, Some(wait)) => format!("no computer is free now: it would be {}", waiting(wait)),
        (None, None) => "no computer is free now".to_owned(),
    }
}

/// How to connect.
#[must_use]
pub fn connection(c: &Connection, clock: &Clock) -> String {
    let mut facts = Facts::default();
    let computer = c.reservation.computer.as_ref().map(ToString::to_string).unwrap_or_default();
    facts.add("computer", computer).add("address", c.address).add("account", &c.account);
    for way in &c.methods {
        match way.method.as_str() {
            "ssh" if way.port == 22 => facts.add("ssh", format!("ssh {}@{}", c.account, c.address)),
            "ssh" => facts.add("ssh", format!("ssh -p {} {}@{}", way.port, c.account, c.address)),
            other => facts.add("port", format!("{} ({})", way.port, one_line(other))),
        };
    }
    facts.maybe("browser", c.guacamole.as_ref().map(|at| one_line(at)));
    facts.maybe("password", c.password.as_ref());
    facts.maybe("ends", c.reservation.end.map(|at| clock.full(at)));
    facts.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_told_what_for() {
        let mut wait = Waiting { position: 3, p10_s: Some(300), p90_s: Some(1200), because: None };
        let usual = "number 3 in the queue; such ones usually wait 5 min 00 s to 20 min 00 s";
        assert_eq!(waiting(&wait), usual);
        wait.because = Some("alice has 2 of 2 computers\nat once".into());
        assert_eq!(waiting(&wait), format!("{usual}; {}", one_line("alice has 2 of 2 computers\nat once")));
        assert!(waiting(&wait).contains("alice has 2 of 2 computers"));
    }
}
