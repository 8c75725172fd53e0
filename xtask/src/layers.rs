//! Who may depend on whom.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata};

/// Each crate of the workspace, and which others of it it may know. ARCHITECTURE.md says why.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("vcl-types", &[]),
    ("vcl-page", &["vcl-types"]),
    ("vcl-job", &["vcl-types"]),
    ("vcl-config", &["vcl-types"]),
    ("vcl-configure", &[]),
    ("vcl-queue", &["vcl-types", "vcl-job"]),
    ("vcl-os", &["vcl-types", "vcl-job"]),
    ("vcl-images", &["vcl-types", "vcl-job"]),
    ("vcl-provisioning", &["vcl-types", "vcl-job", "vcl-os", "vcl-images"]),
    (
        "vcld",
        &[
            "vcl-types",
            "vcl-page",
            "vcl-job",
            "vcl-config",
            "vcl-configure",
            "vcl-queue",
            "vcl-os",
            "vcl-images",
            "vcl-provisioning",
        ],
    ),
    ("vcl-client", &["vcl-types"]),
    ("vclctl", &["vcl-types", "vcl-client", "vcl-configure"]),
    ("vcl-tests", EVERYTHING),
    ("xtask", &[]),
];

const EVERYTHING: &[&str] = &[
    "vcl-types",
    "vcl-page",
    "vcl-job",
    "vcl-config",
    "vcl-configure",
    "vcl-queue",
    "vcl-os",
    "vcl-images",
    "vcl-provisioning",
    "vcld",
    "vcl-client",
    "vclctl",
];

/// Crates from outside that only these may use: foreign code and foreign protocols have one door each.
const DOORS: &[(&str, &[&str])] = &[
    ("ssh2", &["vcl-os"]),
    ("libssh2-sys", &["ssh2"]),
    ("virt", &["vcl-provisioning"]),
    ("virt-sys", &["virt"]),
    ("sqlx", &["vcl-queue"]),
    ("axum", &["vcld", "utoipa-axum"]),
];

/// Features of crates of the workspace that these must not turn on.
const CLOSED: &[(&str, &str, &str)] = &[("vcl-provisioning", "vcl-os", "ssh")];

/// Who uses whom. Uses in tests alone count for the layers and not for the doors.
#[derive(Debug, Clone, PartialEq)]
struct Use {
    who: String,
    whom: String,
    tests_alone: bool,
}

/// What is against the rules in a workspace's dependencies.
pub(crate) fn problems(metadata: &Metadata) -> Result<Vec<String>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolved nothing")?;
    let mut uses = Vec::new();
    for node in &resolve.nodes {
        for dependency in &node.deps {
            let kinds = &dependency.dep_kinds;
            uses.push(Use {
                who: metadata[&node.id].name.to_string(),
                whom: metadata[&dependency.pkg].name.to_string(),
                tests_alone: kinds.iter().all(|k| k.kind == DependencyKind::Development),
            });
        }
    }
    let members: Vec<&str> = metadata.workspace_packages().iter().map(|p| p.name.as_str()).collect();
    let mut problems = judge(&members, &uses);
    problems.extend(closed_features(metadata));
    Ok(problems)
}

fn judge(members: &[&str], uses: &[Use]) -> Vec<String> {
    let mut problems = BTreeSet::new();
    for member in members.iter().filter(|member| !MAY_KNOW.iter().any(|(who, _)| who == *member)) {
        problems.insert(format!("{member} has no place in the layers: give it one in xtask/src/layers.rs"));
    }
    for Use { who, whom, tests_alone } in uses {
        let known = MAY_KNOW.iter().find(|(name, _)| name == who).map(|(_, known)| *known);
        if let Some(known) = known
            && members.contains(&whom.as_str())
            && !known.contains(&whom.as_str())
        {
            problems.insert(format!("{who} must not depend on {whom}; it may know {known:?}"));
        }
        let door = DOORS.iter().find(|(name, _)| name == whom).map(|(_, users)| *users);
        if let Some(users) = door
            && !tests_alone
            && !users.contains(&who.as_str())
        {
            problems.insert(format!("{who} must not use {whom}; that is for {users:?}"));
        }
    }
    problems.into_iter().collect()
}

fn closed_features(metadata: &Metadata) -> Vec<String> {
    let mut problems = Vec::new();
    for (who, whom, feature) in CLOSED {
        for package in metadata.workspace_packages().into_iter().filter(|p| p.name == *who) {
            let mut dependencies = package.dependencies.iter().filter(|d| d.name == *whom);
            let by_dependency = dependencies
                .any(|d| d.kind != DependencyKind::Development && d.features.iter().any(|f| f == feature));
            let by_feature = package.features.values().flatten().any(|f| *f == format!("{whom}/{feature}"));
            if by_dependency || by_feature {
                problems.push(format!("{who} must not turn on the feature {feature} of {whom}"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(list: &[(&str, &str, bool)]) -> Vec<Use> {
        let each = list.iter();
        each.map(|&(who, whom, tests_alone)| Use { who: who.into(), whom: whom.into(), tests_alone })
            .collect()
    }

    #[test]
    fn wrong_directions_are_found() {
        let members = ["vcl-types", "vcl-os", "vcl-queue", "vcl-provisioning", "vcl-tests", "vcld"];
        let fine = uses(&[
            ("vcl-provisioning", "vcl-os", false),
            ("vcl-provisioning", "virt", false),
            ("vcl-queue", "axum", true),
            ("serde", "anything", false),
        ]);
        assert_eq!(judge(&members, &fine), Vec::<String>::new());

        for (who, whom, tests_alone) in [
            ("vcl-types", "vcl-os", false),
            ("vcl-os", "vcl-queue", true),
            ("vcld", "vcl-tests", true),
            ("vcl-provisioning", "ssh2", false),
            ("somebody", "libssh2-sys", false),
            ("vcl-provisioning", "sqlx", false),
        ] {
            let found = judge(&members, &uses(&[(who, whom, tests_alone)]));
            assert_eq!(found.len(), 1, "{who} -> {whom}: {found:?}");
            assert!(found[0].contains(who) && found[0].contains(whom), "{found:?}");
        }
        assert_eq!(judge(&["vcl-new"], &[]).len(), 1);
    }
}
