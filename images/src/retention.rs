//! Which revisions may go: a pure decision over what is known of all of them.
//!
//! Some stay whatever the rules say: the revision in production, those that computers are loaded from, those that a job
//! under way reads, and those that lie under one that stays. The others go by the rules: all but the newest few, older
//! than so long, made by this account.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use vcl_types::{ByteSize, ComputerName, ImageName, ImageRef, JobId};

/// What is known of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub image: ImageRef,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// Who made it, where that is known.
    pub owner: Option<String>,
    /// What its files take.
    pub size: ByteSize,
    /// The revision it is stored over.
    pub lies_on: Option<ImageRef>,
    /// Whether it is the image's revision in production.
    pub production: bool,
    /// The computers that are loaded from it.
    pub loaded: Vec<ComputerName>,
    /// The jobs under way that read it.
    pub readers: Vec<JobId>,
}

/// The rules. What is not said does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// How many of an image's newest revisions stay.
    pub keep: Option<u32>,
    /// Only what is older goes.
    pub older_than: Option<TimeDeltaSeconds>,
    /// Only what this account made goes.
    pub owner: Option<String>,
}

/// A length of time in seconds, as it stands in requests and journals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeDeltaSeconds(pub u64);

impl Rules {
    /// Whether they say nothing: then nothing goes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a revision stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stays {
    /// It is the image's revision in production.
    Production,
    /// Computers are loaded from it.
    Loaded(Vec<ComputerName>),
    /// Revisions that stay are stored over it.
    Under(Vec<ImageRef>),
    /// A job under way reads it.
    Read(Vec<JobId>),
    /// It is one of the newest so many.
    Newest(u32),
    /// It is not old enough.
    Young,
    /// Somebody else made it.
    Owner(Option<String>),
    /// No rule says that it goes.
    NoRule,
}

impl Stays {
    /// Whether no rule can make it go.
    #[must_use]
    pub fn always(&self) -> bool {
        matches!(self, Self::Production | Self::Loaded(_) | Self::Under(_) | Self::Read(_))
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Production => f.write_str("in production"),
            Self::Loaded(computers) => write!(f, "loaded on {}", list(computers)),
            Self::Under(children) => write!(f, "parent of {}", list(children)),
            Self::Read(jobs) => write!(f, "read by job {}", list(jobs)),
            Self::Newest(n) => write!(f, "one of the newest {n}"),
            Self::Young => f.write_str("not old enough"),
            Self::Owner(Some(owner)) => write!(f, "made by {owner}"),
            Self::Owner(None) => f.write_str("made by nobody knows whom"),
            Self::NoRule => f.write_str("no rule says that it goes"),
        }
    }
}

/// What goes and what stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruning {
    /// What goes, children before what they lie on.
    pub goes: Vec<ImageRef>,
    /// What that frees.
    pub freed: ByteSize,
    /// What stays, and why.
    pub stays: Vec<(ImageRef, Vec<Stays>)>,
}

/// Why a revision cannot go, whatever the rules say. Empty when it can.
#[must_use]
pub fn why(all: &[Kept], image: &ImageRef) -> Vec<Stays> {
    let Some(kept) = all.iter().find(|k| k.image == *image) else { return Vec::new() };
    let mut reasons = fixed(kept);
    let children: Vec<ImageRef> =
        all.iter().filter(|k| k.lies_on.as_ref() == Some(image)).map(|k| k.image.clone()).collect();
    if !children.is_empty() {
        reasons.push(Stays::Under(children));
    }
    reasons
}

fn fixed(kept: &Kept) -> Vec<Stays> {
    let mut reasons = Vec::new();
    if kept.production {
        reasons.push(Stays::Production);
    }
    if !kept.loaded.is_empty() {
        reasons.push(Stays::Loaded(kept.loaded.clone()));
    }
    if !kept.readers.is_empty() {
        reasons.push(Stays::Read(kept.readers.clone()));
    }
    reasons
}

/// Decides for one image. `all` is what is known of every image's revisions: those of other images may lie on these.
#[must_use]
pub fn prune(all: &[Kept], image: &ImageName, rules: &Rules, now: DateTime<Utc>) -> Pruning {
    let mut of_image: Vec<&Kept> = all.iter().filter(|k| k.image.name == *image).collect();
    of_image.sort_by_key(|k| std::cmp::Reverse(k.image.revision));
    let mut reasons: BTreeMap<&ImageRef, Vec<Stays>> = BTreeMap::new();
    for (n, kept) in of_image.iter().enumerate() {
        let why = reasons.entry(&kept.image).or_insert_with(|| fixed(kept));
        if rules.is_empty() {
            why.push(Stays::NoRule);
        }
        if let Some(keep) = rules.keep.filter(|keep| n < *keep as usize) {
            why.push(Stays::Newest(keep));
        }
        let age =
            |limit: TimeDeltaSeconds| TimeDelta::seconds(i64::try_from(limit.0).unwrap_or(i64::MAX / 1000));
        if rules.older_than.is_some_and(|limit| now.signed_duration_since(kept.created) <= age(limit)) {
            why.push(Stays::Young);
        }
        if rules.owner.is_some() && kept.owner != rules.owner {
            why.push(Stays::Owner(kept.owner.clone()));
        }
    }
    let mut goes: BTreeSet<&ImageRef> =
        reasons.iter().filter(|(_, why)| why.is_empty()).map(|(image, _)| *image).collect();
    // What lies under one that stays stays, and so on down.
    loop {
        let under: Vec<(&ImageRef, Vec<ImageRef>)> = goes
            .iter()
            .filter_map(|image| {
                let stay =
                    all.iter().filter(|k| k.lies_on.as_ref() == Some(*image) && !goes.contains(&k.image));
                let stay: Vec<ImageRef> = stay.map(|k| k.image.clone()).collect();
                (!stay.is_empty()).then_some((*image, stay))
            })
            .collect();
        if under.is_empty() {
            break;
        }
        for (image, children) in under {
            goes.remove(image);
            reasons.entry(image).or_default().push(Stays::Under(children));
        }
    }
    let mut pruning = Pruning::default();
    for kept in &of_image {
        if goes.contains(&kept.image) {
            pruning.freed = ByteSize(pruning.freed.bytes().saturating_add(kept.size.bytes()));
        } else {
            let why = reasons.remove(&kept.image).unwrap_or_default();
            pruning.stays.push((kept.image.clone(), why));
        }
    }
    // Children first: each is gone before what it lies on.
    let mut left: Vec<&Kept> = of_image.into_iter().filter(|k| goes.contains(&k.image)).collect();
    while !left.is_empty() {
        let free = |k: &Kept| !left.iter().any(|other| other.lies_on.as_ref() == Some(&k.image));
        let at = left.iter().position(|k| free(k)).unwrap_or(0);
        pruning.goes.push(left.remove(at).image.clone());
    }
    pruning
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    fn kept(image: &str, days: i64, lies_on: Option<&str>) -> Kept {
        Kept {
            image: image.parse().unwrap(),
            created: now() - TimeDelta::days(days),
            owner: Some("ada".into()),
            size: ByteSize(100),
            lies_on: lies_on.map(|p| p.parse().unwrap()),
            production: false,
            loaded: Vec::new(),
            readers: Vec::new(),
        }
    }
    fn now() -> DateTime<Utc> {
        "2026-11-22T00:00:00Z".parse().unwrap()
    }
    fn names(images: &[ImageRef]) -> Vec<String> {
        images.iter().map(ToString::to_string).collect()
    }
    fn pruned(all: &[Kept], rules: &Rules) -> Pruning {
        prune(all, &"debian".parse().unwrap(), rules, now())
    }

    #[test]
    fn children_go_before_what_they_lie_on_and_what_lies_under_one_that_stays_stays() {
        let mut all = vec![
            kept("debian@1", 90, None),
            kept("debian@2", 60, Some("debian@1")),
            kept("debian@3", 50, None),
            kept("debian@4", 40, Some("debian@3")),
            kept("debian@5", 1, Some("debian@4")),
        ];
        let keep = |n| Rules { keep: Some(n), ..Rules::default() };
        let two = pruned(&all, &keep(1));
        assert_eq!(names(&two.goes), ["debian@2", "debian@1"]);
        assert_eq!(two.freed, ByteSize(200));
        assert_eq!(two.stays[1].1, [Stays::Under(vec!["debian@5".parse().unwrap()])]);
        assert_eq!(two.stays[2].1, [Stays::Under(vec!["debian@4".parse().unwrap()])]);
        // Another image's revision keeps it, too.
        all.push(kept("gis@1", 1, Some("debian@2")));
        assert!(pruned(&all, &keep(1)).goes.is_empty());
        assert_eq!(why(&all, &"debian@2".parse().unwrap()), [Stays::Under(vec!["gis@1".parse().unwrap()])]);
    }

    #[test]
    fn production_loaded_and_read_revisions_stay_whatever_the_rules_say() {
        let mut all: Vec<_> = (1..=5).map(|n| kept(&format!("debian@{n}"), 100 - n, None)).collect();
        all[0].production = true;
        all[1].loaded = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        all[2].readers = vec![JobId(12)];
        let rules = Rules { keep: Some(0), ..Rules::default() };
        let done = pruned(&all, &rules);
        assert_eq!(names(&done.goes), ["debian@5", "debian@4"]);
        let said: Vec<String> = done.stays.iter().map(|(_, why)| why[0].to_string()).collect();
        assert_eq!(said, ["read by job 12", "loaded on a, b", "in production"]);
        assert!(done.stays.iter().all(|(_, why)| why[0].always()));
    }

    #[test]
    fn rules_add_up_and_no_rule_lets_nothing_go() {
        let mut all: Vec<_> = (1..=4).map(|n| kept(&format!("debian@{n}"), 10 * (5 - n), None)).collect();
        all[0].owner = None;
        assert!(pruned(&all, &Rules::default()).goes.is_empty());
        let old = Rules { older_than: Some(TimeDeltaSeconds(25 * 86400)), ..Rules::default() };
        assert_eq!(names(&pruned(&all, &old).goes), ["debian@2", "debian@1"]);
        let hers = Rules { owner: Some("ada".into()), ..old.clone() };
        assert_eq!(names(&pruned(&all, &hers).goes), ["debian@2"]);
        let kept = Rules { keep: Some(3), ..old };
        assert_eq!(names(&pruned(&all, &kept).goes), ["debian@1"]);
    }
}
