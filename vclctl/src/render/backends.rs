//! Backend instances.

use super::events;
use super::table::{maybe, quiet};
use super::{Facts, Table, Tone, text};
use std::fmt::Write as _;
use vcl_types::api::{BackendView, CapabilityView, FindingLevel};

fn state(backend: &BackendView) -> (String, Tone) {
    if !backend.reachable {
        return ("does not answer".into(), Tone::Bad);
    }
    match backend.findings.iter().map(|finding| finding.level).max() {
        Some(FindingLevel::Error) => ("has problems".into(), Tone::Bad),
        Some(FindingLevel::Warning) => ("has warnings".into(), Tone::Busy),
        _ => ("ready".into(), Tone::Good),
    }
}

fn lacks(backend: &BackendView) -> impl Iterator<Item = (&CapabilityView, &str)> {
    backend.capabilities.iter().filter_map(|one| Some((one, one.lacks.as_deref()?)))
}

/// All of them, a line each.
#[must_use]
pub fn list(backends: &[BackendView]) -> String {
    let mut table = Table::new(
        &["BACKEND", "TYPE", "STATE", "VERSION", "COMPUTERS", "JOBS", "LACKS"],
        "vcld.toml has no [backend.NAME]",
    );
    for backend in backends {
        let lacks: Vec<&str> = lacks(backend).map(|(one, _)| one.name.as_str()).collect();
        table.row([
            quiet(&backend.name),
            quiet(&backend.kind),
            state(backend),
            maybe(backend.version.as_ref()),
            quiet(backend.computers),
            quiet(backend.max_jobs),
            quiet(lacks.join(" ")),
        ]);
    }
    table.text()
}

/// All that is known of each.
#[must_use]
pub fn each(backends: &[BackendView]) -> String {
    let one = |backend: &BackendView| {
        let mut facts = Facts::default();
        facts.add("backend", &backend.name).add("type", &backend.kind).add("state", state(backend).0);
        facts.maybe("version", backend.version.as_ref());
        facts.maybe("host", backend.host.as_ref());
        facts.add("shared", if backend.shared { "with other nodes" } else { "no" });
        facts.add("computers", backend.computers).add("jobs at once", backend.max_jobs);
        facts.maybe("captures end", backend.end_state.as_ref());
        let can = backend.capabilities.iter().filter(|one| one.lacks.is_none());
        facts.add("can", can.map(|one| one.name.as_str()).collect::<Vec<_>>().join(" "));
        let mut shown = facts.text() + "\n";
        for (one, why) in lacks(backend) {
            let _ = writeln!(shown, "- {}: {}", text::one_line(&one.name), text::one_line(why));
        }
        shown + &events::findings(&backend.findings)
    };
    backends.iter().map(one).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcl_types::api::Finding;

    fn backends() -> Vec<BackendView> {
        let capability = |name: &str, lacks: Option<&str>| CapabilityView {
            name: name.into(),
            what: "does something".into(),
            lacks: lacks.map(str::to_owned),
        };
        let finding = |level, found: &str, way_out: Option<&str>| Finding {
            what: "backend kvm1: libvirt".into(),
            level,
            found: found.into(),
            way_out: way_out.map(str::to_owned),
        };
        let kvm = BackendView {
            name: "kvm1".parse().unwrap(),
            kind: "libvirt".into(),
            reachable: true,
            version: Some("libvirt 9.0.0, qemu 7.2.11".into()),
            host: Some("qemu:///system".into()),
            shared: false,
            max_jobs: 4,
            computers: 40,
            end_state: Some("off".into()),
            capabilities: vec![capability("imaging", None), capability("capture", None)],
            findings: vec![finding(FindingLevel::Ok, "qemu:///system", None)],
        };
        let pcs = BackendView {
            name: "pcs".parse().unwrap(),
            kind: "lab".into(),
            version: None,
            host: None,
            shared: true,
            end_state: None,
            capabilities: vec![capability("imaging", None), capability("capture", Some("lent as it is"))],
            ..kvm.clone()
        };
        let gone = BackendView {
            name: "kvm2".parse().unwrap(),
            reachable: false,
            version: None,
            findings: vec![finding(FindingLevel::Error, "nobody answers", Some("start it"))],
            ..kvm.clone()
        };
        vec![kvm, gone, pcs]
    }

    #[test]
    fn a_list() {
        insta::assert_snapshot!(list(&backends()));
    }
    #[test]
    fn each_on_its_own() {
        insta::assert_snapshot!(each(&backends()));
    }
}
