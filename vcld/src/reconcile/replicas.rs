//! As many nodes as `library.copies` says hold the revision of each image that is in production, or its newest where none is.
//!
//! Every node decides for itself, from the same rows and in the same way, so that no two of them fetch what one should:
//! which nodes are to hold a revision beside those that do follows from names alone.

use crate::node::Node;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_queue::{Holding, JobFilter};
use vcl_types::api::{Finding, FindingLevel};
use vcl_types::state::job::State;
use vcl_types::{ImageRef, JobRequest};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(30);
/// How long a fetch that failed is left alone.
const PAUSE: chrono::TimeDelta = chrono::TimeDelta::minutes(10);
/// As whom it asks for jobs.
const REQUESTER: &str = "vcld (library.copies)";

/// Which nodes should fetch which revisions, so that `copies` of `nodes` hold each of `wanted`. A fetch that is under
/// way counts as done.
pub(crate) fn missing(
    copies: usize,
    nodes: &BTreeSet<String>,
    wanted: &[ImageRef],
    held: &BTreeMap<ImageRef, BTreeSet<String>>,
    under_way: &BTreeSet<(String, ImageRef)>,
) -> BTreeSet<(String, ImageRef)> {
    let mut missing = BTreeSet::new();
    let nobody = BTreeSet::new();
    for image in wanted {
        let holders = held.get(image).unwrap_or(&nobody);
        // There is nothing to copy from.
        if holders.is_empty() {
            continue;
        }
        let has =
            |node: &String| holders.contains(node) || under_way.contains(&(node.clone(), image.clone()));
        let have = nodes.iter().filter(|node| has(node)).count();
        let mut free: Vec<_> = nodes.iter().filter(|node| !has(node)).collect();
        free.sort_by_key(|node| (rank(node, image), *node));
        let lack = copies.saturating_sub(have);
        missing.extend(free.into_iter().take(lack).map(|node| (node.clone(), image.clone())));
    }
    missing
}

/// The order in which nodes take a revision: another one for each, so that the load is spread.
fn rank(node: &str, image: &ImageRef) -> u64 {
    // FNV-1a, because it is the same in every version of every program.
    let text = format!("{node} {image}");
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn by_image(holdings: Vec<Holding>) -> BTreeMap<ImageRef, BTreeSet<String>> {
    let mut held: BTreeMap<ImageRef, BTreeSet<String>> = BTreeMap::new();
    for holding in holdings {
        held.entry(holding.image).or_default().insert(holding.node);
    }
    held
}

impl Node {
    async fn all_nodes(&self) -> Result<BTreeSet<String>, vcl_job::Error> {
        let mut nodes = BTreeSet::from([self.name.clone()]);
        if let Some(exchange) = &self.exchange {
            nodes.extend(exchange.peers().await?.into_keys());
        }
        Ok(nodes)
    }

    /// The revision of each image that most loads will want: the one in production, or the newest.
    async fn wanted(&self) -> Result<Vec<ImageRef>, vcl_job::Error> {
        let images = self.queue.images().await?;
        let wanted = images.iter().filter_map(|image| {
            image.revisions.iter().find(|r| r.production).or_else(|| image.revisions.last())
        });
        Ok(wanted.map(|row| row.manifest.image_ref()).collect())
    }

    /// Asks for what this node should fetch now. Answers what it asked for.
    pub(crate) async fn replicate(&self) -> Result<Vec<ImageRef>, vcl_job::Error> {
        let copies = self.config.library.copies;
        if copies < 2 || self.exchange.is_none() {
            return Ok(Vec::new());
        }
        let (nodes, wanted) = (self.all_nodes().await?, self.wanted().await?);
        let held = by_image(self.queue.holdings().await?);
        let (mut under_way, mut paused) = (BTreeSet::new(), BTreeSet::new());
        let filter = JobFilter { limit: 1000, ..JobFilter::default() };
        for row in self.queue.jobs(&filter).await? {
            let JobRequest::Fetch { image, node: Some(node) } = &row.request else { continue };
            let recent = row.ended.is_some_and(|at| chrono::Utc::now() - at < PAUSE);
            match row.state {
                State::Failed | State::Cancelled if recent => {
                    paused.insert((node.clone(), image.clone()));
                }
                State::Failed | State::Cancelled | State::Done => {}
                _ => {
                    under_way.insert((node.clone(), image.clone()));
                }
            }
        }
        let mut asked = Vec::new();
        for (node, image) in missing(copies, &nodes, &wanted, &held, &under_way) {
            if node != self.name || paused.contains(&(node.clone(), image.clone())) {
                continue;
            }
            let request = JobRequest::Fetch { image: image.clone(), node: Some(node) };
            match self.submit(request, REQUESTER).await {
                Ok(_) => asked.push(image),
                // It is being deleted, say. The next look sees how it is then.
                Err(e) => tracing::info!(%image, reason = %e, "a copy cannot be asked for now"),
            }
        }
        Ok(asked)
    }

    /// Revisions that fewer nodes hold than should.
    pub(crate) async fn replica_findings(&self) -> Vec<Finding> {
        let copies = self.config.library.copies;
        if copies < 2 {
            return Vec::new();
        }
        let warning = |found: String, way_out: &str| Finding {
            what: "copies".into(),
            level: FindingLevel::Warning,
            found,
            way_out: Some(way_out.to_owned()),
        };
        if self.exchange.is_none() {
            let found = format!("library.copies = {copies}, and this node takes no part in an exchange");
            return vec![warning(found, "add [exchange] to the configuration, or leave copies out")];
        }
        let looked = async {
            let held = by_image(self.queue.holdings().await?);
            Ok::<_, vcl_job::Error>((self.all_nodes().await?, self.wanted().await?, held))
        };
        let (nodes, wanted, held) = match looked.await {
            Ok(found) => found,
            Err(e) => return vec![warning(e.failure().message, "look at the database")],
        };
        let mut findings = Vec::new();
        if nodes.len() < copies {
            let found = format!("library.copies = {copies}, and {} nodes are known", nodes.len());
            findings.push(warning(found, "add nodes, or lower it"));
        }
        for image in wanted {
            let holders: Vec<_> =
                held.get(&image).into_iter().flatten().filter(|n| nodes.contains(*n)).cloned().collect();
            if holders.len() < copies.min(nodes.len()) {
                let have = if holders.is_empty() { "no node".to_owned() } else { holders.join(", ") };
                let found = format!("{image} should be on {copies} nodes and is on {have}");
                findings.push(warning(
                    found,
                    "it is fetched by itself; vclctl job list shows a fetch that fails",
                ));
            }
        }
        findings
    }
}

/// Looks again and again until told to stop.
pub(crate) async fn keep(node: Arc<Node>, closing: CancellationToken) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = closing.cancelled() => return,
        }
        if let Err(e) = node.replicate().await {
            tracing::warn!(error = %e.failure(), "which revisions lack copies cannot be told; looking again later");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(n: usize) -> BTreeSet<String> {
        (1..=n).map(|n| format!("node{n}")).collect()
    }
    fn image(n: u32) -> ImageRef {
        ImageRef::new("debian".parse().unwrap(), n)
    }

    #[test]
    fn what_has_no_holder_or_enough_of_them_is_left_alone() {
        let held = BTreeMap::from([(image(1), nodes(2)), (image(2), nodes(1)), (image(4), nodes(4))]);
        let wanted = [image(1), image(2), image(3), image(4)];
        let found = missing(2, &nodes(3), &wanted, &held, &BTreeSet::new());
        assert_eq!(found.iter().map(|(_, i)| i.clone()).collect::<Vec<_>>(), [image(2)]);
        // A holder that is no node any more does not count.
        let gone = BTreeMap::from([(image(2), BTreeSet::from(["away".to_owned()]))]);
        assert_eq!(missing(2, &nodes(3), &[image(2)], &gone, &BTreeSet::new()).len(), 2);
        // One that is under way does.
        assert!(
            missing(2, &nodes(3), &[image(2)], &held, &BTreeSet::from([("node3".into(), image(2))]))
                .is_empty()
        );
    }

    proptest! {
        #[test]
        fn nodes_that_decide_alone_end_with_just_enough(
            copies in 1_usize..6,
            count in 1_usize..7,
            start in proptest::collection::btree_set(0_usize..7, 1..4),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 20),
        ) {
            let all = nodes(count);
            let names: Vec<_> = all.iter().cloned().collect();
            let first: BTreeSet<String> = start.iter().map(|n| names[n % count].clone()).collect();
            let mut held = BTreeMap::from([(image(1), first.clone())]);
            let wanted = [image(1)];
            // Everybody looks at the same rows at once: no more are asked for than lack.
            let asked = missing(copies, &all, &wanted, &held, &BTreeSet::new());
            prop_assert_eq!(asked.len(), copies.min(count).saturating_sub(first.len()));
            // Or one after the other, in any order, each seeing what those before did.
            for turn in &order {
                let me = &names[turn.index(count)];
                for (node, image) in missing(copies, &all, &wanted, &held, &BTreeSet::new()) {
                    if node == *me {
                        held.entry(image).or_default().insert(node);
                    }
                }
            }
            for me in &names {
                for (node, image) in missing(copies, &all, &wanted, &held, &BTreeSet::new()) {
                    if node == *me {
                        held.entry(image).or_default().insert(node);
                    }
                }
            }
            prop_assert_eq!(held[&image(1)].len(), copies.min(count).max(first.len()));
            prop_assert!(missing(copies, &all, &wanted, &held, &BTreeSet::new()).is_empty());
        }
    }
}
