//! Classes, maintenance windows, hosts.

use super::table::{maybe, quiet};
use super::{Clock, Facts, Table, Tone, text};
use vcl_types::lending::{ClassTime, ClassView, HostView, MaintenanceView};

fn seats(class: &ClassView, time: &ClassTime) -> (String, Tone) {
    if time.called_off {
        return ("called off".into(), Tone::Busy);
    }
    let said = format!("{} of {}", time.booked, class.seats);
    (said, if time.missing == 0 { Tone::Good } else { Tone::Bad })
}

/// All of them, a line each.
#[must_use]
pub fn list(classes: &[ClassView], clock: &Clock) -> String {
    let mut table =
        Table::new(&["CLASS", "IMAGE", "WEEKLY", "NEXT", "SEATS", "GROUP", "OWNER"], "there is no class");
    for class in classes {
        let next = class.times.iter().find(|time| !time.called_off);
        table.row([
            quiet(&class.name),
            quiet(&class.image),
            quiet(&class.weekly),
            maybe(next.map(|time| clock.short(time.start))),
            next.map_or_else(|| quiet(class.seats), |time| seats(class, time)),
            maybe(class.group.as_ref()),
            quiet(&class.owner),
        ]);
    }
    table.text()
}

/// One of them, with its times.
#[must_use]
pub fn one(class: &ClassView, clock: &Clock) -> String {
    let mut facts = Facts::default();
    facts.add("class", &class.name).add("image", &class.image).add("seats", class.seats);
    facts.add("weekly", &class.weekly);
    facts.maybe("group", class.group.as_ref()).add("owner", &class.owner);
    facts.add("from", clock.full(class.from)).maybe("until", class.until.map(|at| clock.full(at)));
    let mut table =
        Table::new(&["BEGINS", "ENDS", "KEPT", "TAKEN"], "it does not take place within the next two weeks");
    for time in &class.times {
        table.row([
            quiet(clock.full(time.start)),
            quiet(clock.full(time.end)),
            seats(class, time),
            quiet(time.taken),
        ]);
    }
    format!("{}\n\n{}", facts.text(), table.text())
}

fn names<T: ToString>(all: &[T]) -> String {
    const SHOWN: usize = 6;
    let shown: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = all.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    shown.join(" ") + &more
}

/// Windows, a line each.
#[must_use]
pub fn windows(windows: &[MaintenanceView], clock: &Clock) -> String {
    let mut table = Table::new(
        &["WINDOW", "BEGINS", "ENDS", "COMPUTERS", "STILL USED", "REASON", "BY"],
        "no computer is to be out of use",
    );
    for window in windows {
        table.row([
            quiet(window.id),
            quiet(clock.short(window.start)),
            maybe(window.end.map(|at| clock.short(at))),
            quiet(names(&window.computers)),
            maybe(Some(window.in_the_way.len()).filter(|n| *n > 0)),
            quiet(&window.reason),
            quiet(&window.who),
        ]);
    }
    table.text()
}

/// One window.
#[must_use]
pub fn window(window: &MaintenanceView, clock: &Clock) -> String {
    let mut facts = Facts::default();
    facts.add("window", window.id).add("begins", clock.full(window.start));
    let end = window.end.map(|at| clock.full(at));
    facts.add("ends", end.unwrap_or_else(|| format!("with vclctl maintenance end {}", window.id)));
    facts.add("computers", names(&window.computers)).add("reason", &window.reason).add("by", &window.who);
    if !window.in_the_way.is_empty() {
        let waits = text::counted(window.in_the_way.len() as u64, "reservation");
        facts.add("waits for", format!("{waits}: {}", names(&window.in_the_way)));
    }
    facts.text()
}

/// Hosts, a line each.
#[must_use]
pub fn hosts(hosts: &[HostView], clock: &Clock) -> String {
    let mut table = Table::new(
        &["HOST OF", "TAKES", "SINCE", "COMPUTERS", "IN USE", "BY", "REASON"],
        "there is no backend",
    );
    for host in hosts {
        let takes = match &host.drained_by {
            Some(_) => ("nothing new".to_owned(), Tone::Busy),
            None => ("everything".to_owned(), Tone::Good),
        };
        table.row([
            quiet(&host.backend),
            takes,
            maybe(host.drained_since.map(|at| clock.ago(at))),
            quiet(host.computers),
            quiet(names(&host.busy)),
            maybe(host.drained_by.as_ref()),
            maybe(host.reason.as_ref()),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures::clock;
    use serde_json::{from_value, json};

    #[test]
    fn what_is_lacking_is_seen() {
        let class: ClassView = from_value(json!({
            "name": "GIS 101", "image": "gis", "seats": 40, "weekly": "Mon 10-12", "wish": {}, "group": null,
            "owner": "teacher", "from": "2026-03-01T00:00:00Z", "until": null, "times": [
                { "start": "2026-03-02T10:00:00Z", "end": "2026-03-02T12:00:00Z", "called_off": true,
                  "booked": 0, "taken": 0, "missing": 0 },
                { "start": "2026-03-09T10:00:00Z", "end": "2026-03-09T12:00:00Z", "called_off": false,
                  "booked": 38, "taken": 1, "missing": 2 } ],
        }))
        .unwrap();
        let shown = one(&class, &clock());
        assert!(shown.contains("2026-03-02 10:00:00  2026-03-02 12:00:00  called off  0"), "{shown}");
        assert!(shown.contains("2026-03-09 10:00:00  2026-03-09 12:00:00  38 of 40    1"), "{shown}");
        assert!(list(&[class], &clock()).contains("03-09 10:00  38 of 40"));
    }

    #[test]
    fn whom_a_window_waits_for_is_told() {
        let view: MaintenanceView = from_value(json!({
            "id": 3, "computers": ["a", "b"], "start": "2026-03-01T12:00:00Z", "end": null, "reason": "new fans",
            "who": "root", "in_the_way": [7],
        }))
        .unwrap();
        let shown = window(&view, &clock());
        assert!(shown.contains("waits for  1 reservation: 7"), "{shown}");
        assert!(shown.contains("vclctl maintenance end 3"));
        let host: HostView = from_value(json!({
            "backend": "kvm", "computers": 9, "busy": ["a", "b", "c", "d", "e", "f", "g", "h"], "drained_by": "root",
            "drained_since": "2026-03-01T12:00:00Z", "reason": null,
        }))
        .unwrap();
        assert!(hosts(&[host], &clock()).contains("a b c d e f and 2 more"));
    }
}
