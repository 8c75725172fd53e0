//! What copies of revisions are called, and which of them nothing needs. Pure functions over what the pool has.
//!
//! A copy is told by its revision, its file, and the digest of that file with those of everything it lies on: a revision
//! that was rewritten whole has another.

use super::{IMAGE, Volume};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use vcl_types::{ByteSize, Digest, ImageRef, JobId, Manifest};

/// The end of the name of a volume that says that a copy is whole.
pub(super) const WHOLE: &str = ".whole";

/// A revision's files as copies are called, the disks' whole chains among them: which, how long, by which digest. The
/// manifests are those of the chain, topmost first.
pub(in super::super) fn files(chain: &[Manifest]) -> Vec<Filed> {
    let mut filed: Vec<Filed> = Vec::new();
    for (at, manifest) in chain.iter().enumerate().rev() {
        for disk in &manifest.disks {
            let under = disk.over.as_ref().and_then(|over| {
                let below = filed.iter().rev().find(|f| f.file == over.file && f.image == over.image)?;
                Some(below.copy.clone())
            });
            filed.push(Filed::new(manifest, &disk.file, &disk.file_digest, disk.file_size, under, at));
        }
    }
    // Kernel and initrd are the topmost one's alone.
    let top = chain.first().into_iter();
    for (manifest, record) in top.flat_map(|m| m.boot_files.iter().map(move |r| (m, r))) {
        filed.push(Filed::new(manifest, &record.file, &record.digest, record.size, None, 0));
    }
    filed
}

/// A file of a chain of revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Filed {
    pub(in super::super) image: ImageRef,
    pub(in super::super) file: String,
    pub(in super::super) copy: String,
    pub(in super::super) size: u64,
    pub(in super::super) digest: Digest,
    /// What the copy lies on is called.
    pub(in super::super) under: Option<String>,
    /// How deep in the chain.
    pub(in super::super) depth: usize,
}

impl Filed {
    fn new(
        manifest: &Manifest,
        file: &str,
        digest: &Digest,
        size: ByteSize,
        under: Option<String>,
        depth: usize,
    ) -> Self {
        let image = manifest.image_ref();
        let mut hash = Sha256::new();
        hash.update(digest.as_str());
        hash.update(under.as_deref().unwrap_or_default());
        let id = Digest::from_bytes(hash.finalize().into());
        let copy = format!("{}{}", of_file(&image, file), &id.as_str()[..16]);
        Self { image, file: file.to_owned(), copy, size: size.bytes(), digest: digest.clone(), under, depth }
    }
}

/// What the copies of a revision's file begin with, whatever its digest is.
pub(in super::super) fn of_file(image: &ImageRef, file: &str) -> String {
    format!("{IMAGE}{image}.{file}.")
}

/// What a volume's name tells of a copy.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Named<'a> {
    /// Without who sent it.
    pub(in super::super) copy: &'a str,
    pub(in super::super) image: ImageRef,
    pub(in super::super) job: JobId,
}

impl<'a> Named<'a> {
    pub(in super::super) fn parse(name: &'a str) -> Option<Self> {
        let data = name.strip_suffix(WHOLE).unwrap_or(name);
        let (copy, sender) = data.rsplit_once(".job")?;
        let (job, token) = sender.split_once("-token")?;
        token.parse::<i64>().ok()?;
        Some(Self { copy, image: image_of(copy)?, job: job.parse().ok()? })
    }
}

/// Whose file a copy is of: IMAGE@N.FILE.DIGEST. Neither a revision nor a digest has a dot in it, and an image may.
pub(super) fn image_of(copy: &str) -> Option<ImageRef> {
    let rest = copy.strip_prefix(IMAGE)?;
    let (at, _) = rest.match_indices('@').next()?;
    let end = rest[at..].find('.')? + at;
    rest[..end].parse().ok()
}

/// The whole copies among volumes, by the name of the volume with their bytes.
pub(super) fn whole(volumes: &[Volume]) -> BTreeMap<&str, &Volume> {
    let marked: BTreeSet<&str> = volumes.iter().filter_map(|v| v.name.strip_suffix(WHOLE)).collect();
    let data = volumes.iter().filter(|v| marked.contains(v.name.as_str()));
    data.map(|v| (v.name.as_str(), v)).collect()
}

/// The whole copy of that name that lies on whole ones; the first one where several nodes have sent it.
pub(in super::super) fn whole_of<'v>(volumes: &'v [Volume], copy: &str) -> Option<&'v Volume> {
    let of_it = |v: &&Volume| Named::parse(&v.name).is_some_and(|n| n.copy == copy);
    whole(volumes).into_values().filter(of_it).find(|v| stands(volumes, &v.path))
}

/// Whether the copy at a path is there, whole, and all that it lies on likewise.
pub(in super::super) fn stands(volumes: &[Volume], path: &str) -> bool {
    let whole = whole(volumes);
    let mut path = path;
    // No chain is longer than there are volumes, unless it is a ring.
    for _ in volumes {
        let Some(volume) = volumes.iter().find(|v| v.path == path) else { return false };
        if !whole.contains_key(volume.name.as_str()) {
            return false;
        }
        // A disk without a format may have anything in its first bytes. What was sent lies on nothing but copies.
        match volume.backing.as_deref().filter(|_| under(volume).is_some_and(|name| name.starts_with(IMAGE)))
        {
            Some(next) => path = next,
            None => return true,
        }
    }
    false
}

/// The mark of a copy, the copy of a mark.
pub(super) fn counterpart(name: &str) -> String {
    name.strip_suffix(WHOLE).map_or_else(|| format!("{name}{WHOLE}"), str::to_owned)
}

/// What is there of copies that are not whole, and says nothing or of nothing that they are.
pub(in super::super) fn halves(volumes: &[Volume]) -> impl Iterator<Item = &Volume> {
    let whole = whole(volumes);
    volumes.iter().filter(move |v| {
        let data = v.name.strip_suffix(WHOLE).unwrap_or(&v.name);
        Named::parse(&v.name).is_some() && !whole.contains_key(data)
    })
}

/// The name of what a volume lies on.
fn under(volume: &Volume) -> Option<&str> {
    volume.backing.as_deref()?.rsplit('/').next()
}

/// Whether a domain's XML has the name of a volume anywhere in it. One too many stays.
fn mentioned(domains: &[String], name: &str) -> bool {
    domains.iter().any(|xml| xml.contains(name))
}

/// What keeps a copy, in words; nothing where nothing lies on it. `domains` is what libvirt says of them.
pub(super) fn kept_by(volumes: &[Volume], domains: &[String], name: &str) -> Option<String> {
    let over = volumes.iter().find(|v| under(v) == Some(name));
    let machine = || mentioned(domains, name).then(|| "a machine has it".to_owned());
    over.map(|v| format!("{} lies on it", v.name)).or_else(machine)
}

/// A copy that nothing lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Unneeded {
    pub(in super::super) name: String,
    pub(in super::super) taken: u64,
    pub(in super::super) written: u64,
    /// Whether this node's library still has what it is a copy of.
    pub(in super::super) at_home: bool,
}

/// The copies that no machine needs, those first that can go first: what the library has no longer, then the oldest.
/// `domains` is what libvirt says of them.
pub(super) fn unneeded(
    volumes: &[Volume],
    domains: &[String],
    held: impl Fn(&str) -> bool,
    at_home: impl Fn(&Named<'_>) -> bool,
) -> Vec<Unneeded> {
    let whole = whole(volumes);
    let by_name: HashMap<&str, &Volume> = volumes.iter().map(|v| (v.name.as_str(), v)).collect();
    // Whatever is no whole copy may be somebody's disk, or a copy that is being sent: it keeps what it lies on.
    let keeps = |v: &&Volume| {
        !whole.contains_key(v.name.as_str())
            || mentioned(domains, &v.name)
            || Named::parse(&v.name).is_none_or(|named| held(named.copy))
    };
    let mut todo: Vec<&str> = volumes.iter().filter(keeps).map(|v| v.name.as_str()).collect();
    let mut needed = BTreeSet::new();
    while let Some(name) = todo.pop() {
        if needed.insert(name) {
            todo.extend(by_name.get(name).and_then(|v| under(v)));
        }
    }
    let idle = whole.values().filter(|v| !needed.contains(v.name.as_str()));
    let mut idle: Vec<_> = idle
        .filter_map(|v| {
            let named = Named::parse(&v.name)?;
            Some(Unneeded {
                name: v.name.clone(),
                taken: v.taken,
                written: v.written,
                at_home: at_home(&named),
            })
        })
        .collect();
    // What another copy lies on goes after it.
    let over = idle.iter().filter_map(|u| under(whole.get(u.name.as_str())?));
    let under: BTreeSet<String> = over.map(str::to_owned).collect();
    idle.sort_by(|a, b| {
        let key = |u: &Unneeded| (under.contains(&u.name), u.at_home, u.written);
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    idle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, backing: Option<&str>, written: u64) -> Volume {
        let path = |name: &str| format!("/p/{name}");
        Volume { name: name.into(), path: path(name), taken: 5, backing: backing.map(path), written }
    }

    const OLD: &str = "vcl-image.win.x@1.disk0.qcow2.00aa.job3-token1";
    const NEW: &str = "vcl-image.win.x@2.disk0.qcow2.00bb.job4-token1";
    const IDLE: &str = "vcl-image.debian@7.disk0.qcow2.00cc.job5-token2";
    const HALF: &str = "vcl-image.debian@8.disk0.qcow2.00dd.job6-token1";

    #[test]
    fn a_copy_s_name_tells_what_it_is_of() {
        let named = Named::parse(OLD).unwrap();
        assert_eq!((named.copy, named.job), ("vcl-image.win.x@1.disk0.qcow2.00aa", JobId(3)));
        assert_eq!(named.image, "win.x@1".parse().unwrap());
        for other in
            ["vcl-machine.a.disk0.qcow2", "vcl-image.a@1.disk0.qcow2.00", "vcl-image.x.job1-token1", ""]
        {
            assert_eq!(Named::parse(other), None, "{other}");
        }
    }

    #[test]
    fn only_whole_copies_under_no_machine_can_go_and_deltas_before_what_they_lie_on() {
        let mark = |name: &str| volume(&format!("{name}{WHOLE}"), None, 9);
        let mut volumes = vec![
            volume(OLD, None, 1),
            mark(OLD),
            volume(NEW, Some(OLD), 2),
            mark(NEW),
            volume(IDLE, None, 3),
            mark(IDLE),
            volume(HALF, None, 4),
            volume("vcl-machine.a.disk0.qcow2", Some(NEW), 5),
        ];
        let names = |volumes: &[Volume], used: &[&str], held: &str, home: &str| {
            let used: Vec<_> = used.iter().map(|n| format!("<source file='/p/{n}'/>")).collect();
            let found = unneeded(volumes, &used, |c| c == held, |n| n.image.to_string() == home);
            found.into_iter().map(|u| u.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&volumes, &[], "", ""), [IDLE], "the machine's chain stays");
        assert_eq!(names(&volumes, &[IDLE], "", ""), [""; 0], "a domain names it");
        // The word that a copy is whole, without the copy.
        volumes.push(volume(&format!("vcl-image.debian@9.disk0.qcow2.00ee.job7-token1{WHOLE}"), None, 6));
        let half: Vec<_> = halves(&volumes).map(|v| v.name.as_str()).collect();
        assert_eq!(half.len(), 2, "{half:?}");
        volumes.pop();
        volumes.pop();
        assert_eq!(names(&volumes, &[], "", ""), [NEW, IDLE, OLD]);
        assert_eq!(names(&volumes, &[], "", "win.x@2"), [IDLE, NEW, OLD], "what is of no use goes first");
        assert_eq!(names(&volumes, &[], "vcl-image.debian@7.disk0.qcow2.00cc", ""), [NEW, OLD]);
        // What is held keeps what it lies on, and so does half a copy.
        assert_eq!(names(&volumes, &[], "vcl-image.win.x@2.disk0.qcow2.00bb", ""), [IDLE]);
        volumes.retain(|v| v.name != format!("{NEW}{WHOLE}"));
        assert_eq!(names(&volumes, &[], "", ""), [IDLE]);
    }

    #[test]
    fn a_copy_is_taken_only_with_all_that_it_lies_on() {
        let mark = |name: &str| volume(&format!("{name}{WHOLE}"), None, 9);
        let all = [volume(OLD, None, 1), mark(OLD), volume(NEW, Some(OLD), 2), mark(NEW)];
        let found = |volumes: &[Volume]| whole_of(volumes, "vcl-image.win.x@2.disk0.qcow2.00bb").is_some();
        assert!(found(&all));
        for gone in 0..all.len() {
            let mut rest = all.to_vec();
            rest.remove(gone);
            assert!(!found(&rest), "{}", all[gone].name);
        }
        let ring = [volume(OLD, Some(NEW), 1), mark(OLD), volume(NEW, Some(OLD), 2), mark(NEW)];
        assert!(!found(&ring));
        let strange = [volume(NEW, Some("etc"), 2), mark(NEW)];
        assert!(found(&strange), "what its bytes say of another file is nothing to us");
    }

    #[test]
    fn what_keeps_a_copy_is_said() {
        let volumes = [volume(OLD, None, 1), volume(NEW, Some(OLD), 2), volume(IDLE, None, 3)];
        assert_eq!(kept_by(&volumes, &[], OLD).unwrap(), format!("{NEW} lies on it"));
        assert_eq!(kept_by(&volumes, &[], NEW), None);
        let disk = format!("<disk type='volume'><source pool='p' volume='{IDLE}'/></disk>");
        assert!(kept_by(&volumes, &[disk], IDLE).is_some());
    }
}
