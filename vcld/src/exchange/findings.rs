//! What is wrong with the exchange.

use super::Exchange;
use std::time::Duration;
use vcl_types::api::{Finding, FindingLevel};

/// How long before its end a certificate is spoken of, in days.
const SOON: i64 = 30;
/// How long a node may take to answer the doctor.
const ANSWER: Duration = Duration::from_secs(15);

impl Exchange {
    /// The certificate, its name, and whether each other node answers.
    pub(crate) async fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.certificate()];
        if !self.identity.names.iter().any(|name| name.eq_ignore_ascii_case(&self.name)) {
            let names = self.identity.names.join(", ");
            findings.push(Finding {
                what: "exchange".into(),
                level: FindingLevel::Error,
                found: format!("the certificate is for {names}, and this node is called {}", self.name),
                way_out: Some(format!(
                    "make one with the DNS name {} (see several-nodes.md), or set node.name",
                    self.name
                )),
            });
        }
        let peers = match self.peers().await {
            Ok(peers) => peers,
            Err(e) => {
                let (level, way_out) = (FindingLevel::Warning, Some("look at the database".to_owned()));
                findings.push(Finding {
                    what: "exchange".into(),
                    level,
                    found: e.failure().message,
                    way_out,
                });
                return findings;
            }
        };
        let asked = peers.iter().map(|(node, address)| async move {
            let answer = tokio::time::timeout(ANSWER, self.greet(node, address)).await;
            let (level, found, way_out) = match answer {
                Ok(Ok(said)) => (FindingLevel::Ok, format!("{node} answers at {address}: {said}"), None),
                Ok(Err(e)) => (
                    FindingLevel::Warning,
                    e.failure().message,
                    Some(format!(
                        "is vcld running on {node}, with [exchange], and is {address} right and let through?"
                    )),
                ),
                Err(_) => (
                    FindingLevel::Warning,
                    format!("{node} does not answer at {address} within {} s", ANSWER.as_secs()),
                    Some(format!("is {address} right, and let through by firewalls?")),
                ),
            };
            Finding { what: "exchange".into(), level, found, way_out }
        });
        findings.extend(futures::future::join_all(asked).await);
        findings
    }

    fn certificate(&self) -> Finding {
        let expires = self.identity.expires;
        let day = expires.format("%Y-%m-%d %H:%M UTC");
        let left = (expires - chrono::Utc::now()).num_days();
        let renew = "make a new one (see several-nodes.md), then: systemctl restart vcld";
        let (level, found, way_out) = if expires <= chrono::Utc::now() {
            (
                FindingLevel::Error,
                format!("the certificate ended on {day}: no node is answered"),
                Some(renew.to_owned()),
            )
        } else if left < SOON {
            (
                FindingLevel::Warning,
                format!("the certificate ends in {left} days, on {day}"),
                Some(renew.to_owned()),
            )
        } else {
            (FindingLevel::Ok, format!("the certificate of {} is good until {day}", self.name), None)
        };
        Finding { what: "exchange".into(), level, found, way_out }
    }
}
