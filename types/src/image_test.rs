//! What `image test` found out about a revision: whether two clones of it that ran side by side were two machines.

use crate::{ComputerName, JobId, SharedItem};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The result of one test of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageTest {
    /// The job that tested it.
    pub job: JobId,
    /// When.
    pub at: DateTime<Utc>,
    /// Whether it passed: both clones were loaded, nothing is shared, every script ended with status 0.
    pub passed: bool,
    /// The computers that the clones were on.
    pub computers: Vec<ComputerName>,
    /// What was compared, by name.
    #[serde(default)]
    pub compared: Vec<ComparedItem>,
    /// What both clones had and only one should.
    #[serde(default)]
    pub shared: Vec<SharedItem>,
    /// The site's own test scripts, in the order in which they ran, for each clone.
    #[serde(default)]
    pub scripts: Vec<ScriptRun>,
    /// What else kept it from passing: a clone that was not loaded, a guest that did not answer.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// An item of the clones' identities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ComparedItem {
    /// The item, such as `machine-id`.
    pub item: String,
    /// How many values of it the first clone has.
    pub first: u32,
    /// How many the second has.
    pub second: u32,
}

/// One run of a test script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScriptRun {
    /// The script's file name.
    pub name: String,
    /// On which clone.
    pub computer: ComputerName,
    /// The status it ended with; 124 when it took too long.
    pub status: i32,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The end of what it said, cleaned for a terminal. All that was kept is in the job's evidence.
    pub said: String,
}

impl ImageTest {
    /// Why it did not pass, in one line for people; `None` when it did. It names the first few of what is wrong.
    #[must_use]
    pub fn verdict(&self) -> Option<String> {
        const NAMED: usize = 5;
        if self.passed {
            return None;
        }
        let shared = self
            .shared
            .iter()
            .map(|shared| format!("both clones have {}: {}", item_in_words(&shared.item), shared.value));
        let scripts = self.scripts.iter().filter(|run| run.status != 0).map(|run| {
            let ScriptRun { name, computer, status, said, .. } = run;
            let last = said.lines().rev().find(|line| !line.trim().is_empty());
            let last = last.map(|line| format!(": {}", line.trim())).unwrap_or_default();
            match status {
                124 => format!("the script {name} took too long on {computer}{last}"),
                _ => format!("the script {name} failed on {computer} with status {status}{last}"),
            }
        });
        let all: Vec<String> = self.problems.iter().cloned().chain(shared).chain(scripts).collect();
        let more = all.len().saturating_sub(NAMED);
        let mut text = all.into_iter().take(NAMED).collect::<Vec<_>>().join("; ");
        if more > 0 {
            text.push_str(&format!("; and {more} more"));
        }
        Some(text)
    }
}

/// What an item of an identity is called in a sentence: `the machine-id`. One that has no other words is its own.
#[must_use]
pub fn item_in_words(item: &str) -> &str {
    match item {
        "machine-id" => "the machine-id",
        "hostname" => "the hostname",
        "ssh-host-key" => "an ssh host key",
        "random-seed" => "the seed of the random number generator",
        "systemd-credential-secret" => "systemd's credential secret",
        "networkmanager-secret-key" => "NetworkManager's secret key",
        "dhcp-client-id" => "the DHCP client id",
        "dhcp-lease" => "a DHCP lease",
        "iscsi-initiator" => "the name of the iSCSI initiator",
        "nvme-host" => "the NVMe host's name",
        "host-id" => "the host id",
        "mac-in-file" => "a MAC address in a file",
        "cloud-init-instance" => "cloud-init's instance id",
        "root-ssh-key" => "root's own ssh key",
        "registration" => "a registration with a service",
        "mac" => "the MAC address of a network card",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test() -> ImageTest {
        ImageTest {
            job: JobId(7),
            at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            passed: false,
            computers: vec!["a".parse().unwrap(), "b".parse().unwrap()],
            compared: vec![],
            shared: vec![SharedItem { item: "machine-id".into(), value: "3f".into() }],
            scripts: vec![],
            problems: vec![],
        }
    }

    #[test]
    fn a_verdict_names_what_is_shared_and_what_failed_and_not_all_of_a_hundred() {
        let mut test = test();
        assert_eq!(test.verdict().unwrap(), "both clones have the machine-id: 3f");
        test.scripts = vec![ScriptRun {
            name: "10-licence".into(),
            computer: "b".parse().unwrap(),
            status: 3,
            took_ms: 5,
            said: "looking\nno licence\n\n".into(),
        }];
        assert_eq!(
            test.verdict().unwrap(),
            "both clones have the machine-id: 3f; the script 10-licence failed on b with status 3: no licence"
        );
        test.problems = (0..100).map(|n| format!("problem {n}")).collect();
        assert!(test.verdict().unwrap().ends_with("problem 4; and 97 more"), "{:?}", test.verdict());
        test.passed = true;
        assert_eq!(test.verdict(), None);
    }
}
