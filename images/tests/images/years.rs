//! Years of a library in a few seconds: captures, rewriting whole, deleting, bringing back, pruning, loading and
//! verifying in any order, some of them at once. No loaded computer ever sees another byte, and no child loses what it
//! lies on.

use crate::deltas::{image, overlay, qemu_io, shows, whole};
use crate::fixture::{MIB, Shelf, cx, manifest, noise};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vcl_images::qemu_img::{ConvertFrom, ConvertOptions, convert, convert_over};
use vcl_images::retention::{Kept, Rules, prune, why};
use vcl_images::{
    Discarded, ErrorKind, Format, Library, Progress, StagedDisk, TrashName, copy_whole, seal, with_disks,
};
use vcl_types::{Digest, ImageRef, JobId, Manifest};

#[derive(Debug, Clone)]
enum Act {
    Load(prop::sample::Index),
    Unload(prop::sample::Index),
    Write(prop::sample::Index, u64),
    Capture(prop::sample::Index, bool),
    /// Rewrites one whole while another is verified and a computer is captured.
    Flatten(prop::sample::Index, prop::sample::Index, prop::sample::Index),
    Delete(prop::sample::Index),
    Undelete(prop::sample::Index),
    Prune(u32),
    Verify(prop::sample::Index),
}

fn act() -> impl Strategy<Value = Act> {
    let any = any::<prop::sample::Index>;
    prop_oneof![
        3 => any().prop_map(Act::Load),
        1 => any().prop_map(Act::Unload),
        3 => (any(), 0..16u64).prop_map(|(which, at)| Act::Write(which, at)),
        5 => (any(), prop::bool::weighted(0.2)).prop_map(|(which, whole)| Act::Capture(which, whole)),
        3 => (any(), any(), any()).prop_map(|(a, b, c)| Act::Flatten(a, b, c)),
        3 => any().prop_map(Act::Delete),
        2 => any().prop_map(Act::Undelete),
        1 => (1..4u32).prop_map(Act::Prune),
        1 => any().prop_map(Act::Verify),
    ]
}

struct Computer {
    on: ImageRef,
    overlay: PathBuf,
    sees: Digest,
}

struct Years {
    shelf: Shelf,
    computers: Vec<Computer>,
    /// What each revision showed when it was published.
    showed: BTreeMap<ImageRef, Digest>,
    jobs: i64,
    newest: u32,
}

fn scratch(shelf: &Shelf) -> &Path {
    shelf.dir.path()
}

/// A capture of an overlay, over its revision or whole.
async fn capture(
    library: &Library,
    job: i64,
    on: &ImageRef,
    disk: &Path,
    number: u32,
    whole: bool,
) -> Manifest {
    let name = vcl_images::staging_name(JobId(job), 1);
    let mut staging = library.staging(&name).unwrap();
    if whole {
        let from = ConvertFrom { path: disk, format: Format::Qcow2 };
        let usual = ConvertOptions::default();
        convert(&cx(), from, &staging.disk(0), Format::Qcow2, &Progress::none(), &usual).await.unwrap();
    } else {
        staging = staging.over(library.base(on).unwrap());
        let (reference, _) = staging.base().unwrap().disk(0).unwrap();
        convert_over(&cx(), disk, &staging.disk(0), &reference, &Progress::none()).await.unwrap();
    }
    let disks = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap();
    let version = Manifest::version_for(&disks);
    let made =
        Manifest { version, parent: Some(on.clone()), ..manifest(&format!("debian@{number}"), job, disks) };
    library.publish(&cx(), &name, &made).await.unwrap();
    made
}

/// As the job does it, each step twice.
async fn flatten(library: &Library, job: i64, image: &ImageRef) {
    let revision = library.get(image).unwrap();
    if revision.manifest.lies_on().is_none() {
        return;
    }
    let name = vcl_images::staging_name(JobId(job), 1);
    let staging = library.staging(&name).unwrap();
    copy_whole(&cx(), &revision, 0, &staging, &Progress::none()).await.unwrap();
    let disks = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap();
    let new = with_disks(&revision.manifest, disks).unwrap();
    library.swap(&cx(), &name, &new).await.unwrap();
    library.swap(&cx(), &name, &new).await.unwrap();
    let trash = trash_name(image, Discarded::Exchanged, job);
    assert!(library.retire(&name, &trash).await.unwrap());
    assert!(library.retire(&name, &trash).await.unwrap());
}

async fn verify(library: &Library, image: &ImageRef) {
    let revision = library.get(image).unwrap();
    let found = library.verify(&cx(), &revision, &Progress::none()).await.unwrap();
    assert!(found.is_empty(), "{image}: {found:?}");
}

fn trash_name(image: &ImageRef, why: Discarded, job: i64) -> TrashName {
    let at = chrono::DateTime::from_timestamp(1_700_000_000 + job, 0).unwrap();
    TrashName { image: image.clone(), why, at, job: JobId(job) }
}

impl Years {
    async fn begin() -> Self {
        let shelf = Shelf::new();
        let made = whole(&shelf, "debian@1", 24 * MIB + 512, &[(MIB, noise(6 << 20, 5))]).await;
        let digest = made.manifest.disks[0].content_digest.clone();
        Self {
            shelf,
            computers: Vec::new(),
            showed: [(image("debian@1"), digest)].into(),
            jobs: 0,
            newest: 1,
        }
    }

    fn library(&self) -> &Library {
        &self.shelf.library
    }
    fn there(&self) -> Vec<ImageRef> {
        let scan = self.library().revisions().unwrap();
        assert_eq!(scan.findings, []);
        scan.revisions.iter().map(|r| r.manifest.image_ref()).collect()
    }
    /// What the daemon knows from its database.
    fn kept(&self) -> Vec<Kept> {
        let revisions = self.library().revisions().unwrap().revisions;
        let kept = revisions.into_iter().map(|r| Kept {
            image: r.manifest.image_ref(),
            created: r.manifest.created,
            owner: None,
            size: r.manifest.disks[0].file_size,
            lies_on: r.manifest.lies_on().cloned(),
            production: false,
            loaded: (self.computers.iter().filter(|c| c.on == r.manifest.image_ref()))
                .map(|_| "a".parse().unwrap())
                .collect(),
            readers: Vec::new(),
        });
        kept.collect()
    }
    fn job(&mut self) -> i64 {
        self.jobs += 1;
        self.jobs
    }
    fn number(&mut self) -> u32 {
        self.newest += 1;
        self.newest
    }

    async fn act(&mut self, act: &Act) {
        let there = self.there();
        match act {
            Act::Load(which) if !there.is_empty() && self.computers.len() < 3 => {
                let on = which.get(&there).clone();
                let revision = self.library().get(&on).unwrap();
                let made = overlay(&self.shelf, &revision, None).await;
                let number = self.job();
                let disk = self.shelf.path(&format!("computer{number}.qcow2"));
                std::fs::rename(made, &disk).unwrap();
                self.computers.push(Computer { sees: self.showed[&on].clone(), overlay: disk, on });
            }
            Act::Unload(which) if !self.computers.is_empty() => {
                let n = which.index(self.computers.len());
                std::fs::remove_file(self.computers.remove(n).overlay).unwrap();
            }
            Act::Write(which, at) if !self.computers.is_empty() => {
                let n = which.index(self.computers.len());
                let (disk, byte) = (self.computers[n].overlay.clone(), (self.job() % 251) as u8);
                let zero = format!("write -z {}k 512k", at * 1500);
                qemu_io(&disk, &[&format!("write -P {byte} {}k 96k", at * 1400 + 7), &zero]);
                self.computers[n].sees = shows(&disk, scratch(&self.shelf)).await;
            }
            Act::Capture(which, whole) if !self.computers.is_empty() => {
                let (job, number) = (self.job(), self.number());
                let computer = which.get(&self.computers);
                let made =
                    capture(self.library(), job, &computer.on, &computer.overlay, number, *whole).await;
                assert_eq!(made.disks[0].content_digest, computer.sees);
                let sees = computer.sees.clone();
                self.showed.insert(made.image_ref(), sees);
            }
            Act::Flatten(which, verified, captured) if !there.is_empty() => {
                let (one, two, number) = (self.job(), self.job(), self.number());
                let computer = (!self.computers.is_empty()).then(|| captured.get(&self.computers));
                let library = self.library();
                let capturing = async {
                    match computer {
                        Some(c) => Some(capture(library, two, &c.on, &c.overlay, number, false).await),
                        None => None,
                    }
                };
                let ((), (), made) = tokio::join!(
                    flatten(library, one, which.get(&there)),
                    verify(library, verified.get(&there)),
                    capturing
                );
                if let (Some(made), Some(computer)) = (made, computer) {
                    assert_eq!(made.disks[0].content_digest, computer.sees);
                    let sees = computer.sees.clone();
                    self.showed.insert(made.image_ref(), sees);
                }
            }
            Act::Delete(which) if !there.is_empty() => {
                let gone = which.get(&there).clone();
                if why(&self.kept(), &gone).is_empty() {
                    let name = trash_name(&gone, Discarded::Deleted, self.job());
                    assert!(self.library().discard(&name).await.unwrap());
                }
            }
            Act::Undelete(which) => {
                let trash = self.library().trash().unwrap();
                let deleted: Vec<ImageRef> = (trash.into_iter().filter_map(|t| t.name))
                    .filter(|n| n.why == Discarded::Deleted)
                    .map(|n| n.image)
                    .collect();
                if deleted.is_empty() {
                    return;
                }
                let (name, manifest) = self.library().discarded(which.get(&deleted)).unwrap();
                match self.library().bring_back(&name, &manifest).await {
                    Ok(()) => verify(self.library(), &name.image).await,
                    Err(e) => {
                        assert_eq!(e.kind, ErrorKind::Refused, "{e}");
                        assert!(self.library().get(manifest.lies_on().unwrap()).is_err());
                    }
                }
            }
            Act::Prune(keep) => {
                let rules = Rules { keep: Some(*keep), ..Rules::default() };
                let now = "2027-01-01T00:00:00Z".parse().unwrap();
                for gone in prune(&self.kept(), &"debian".parse().unwrap(), &rules, now).goes {
                    assert_eq!(why(&self.kept(), &gone), [], "{gone} is free when its turn comes");
                    let name = trash_name(&gone, Discarded::Deleted, self.job());
                    assert!(self.library().discard(&name).await.unwrap());
                }
            }
            Act::Verify(which) if !there.is_empty() => verify(self.library(), which.get(&there)).await,
            _ => {}
        }
    }

    async fn holds(&self) {
        for computer in &self.computers {
            let sees = shows(&computer.overlay, scratch(&self.shelf)).await;
            assert_eq!(sees, computer.sees, "a computer on {} sees other bytes", computer.on);
        }
        for revision in self.library().revisions().unwrap().revisions {
            let image = revision.manifest.image_ref();
            assert_eq!(revision.manifest.disks[0].content_digest, self.showed[&image], "{image}");
        }
        assert!(self.library().leftovers().unwrap().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_order_of_work_breaks_a_loaded_computer_or_a_child(
            first in any::<prop::sample::Index>(),
            acts in prop::collection::vec(act(), 8..22),
        ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut years = Years::begin().await;
            years.act(&Act::Load(first)).await;
            for act in &acts {
                years.act(act).await;
                years.holds().await;
            }
            for image in years.there() {
                verify(years.library(), &image).await;
            }
        });
    }
}
