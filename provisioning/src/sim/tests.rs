//! Whole jobs on simulated machines, what their world refuses, and what it keeps when processes die and meet.

mod access;

use super::hand::By;
use super::*;
use camino::Utf8Path;
use std::sync::Mutex;
use std::time::Duration;
use vcl_images::Library;
use vcl_job::{Control, Flow, MemoryJournal, Outcome, Owners, Run, Silent, execute};
use vcl_os::mock::MockRemotes;
use vcl_types::{ByteSize, Digest, DiskRecord, Hardware, Manifest, Nic, NicRole, OsName, Revision};

struct Bench {
    sim: Sim,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(Chance::default(), EndState::Off)
    }
    fn with(chance: Chance, end: EndState) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            name: "sim".parse().unwrap(),
            directory: Utf8Path::from_path(directory.path()).unwrap().join("world"),
            shared: false,
            chance,
            end,
        };
        let image = directory.path().join("debian.qcow2");
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "8M"])
            .status();
        assert!(made.unwrap().success());
        Self { sim: Sim::new(settings).unwrap(), directory }
    }
    fn computer(&self, name: &str) -> Computer {
        let nic = Nic {
            network: "net".parse().unwrap(),
            role: NicRole::Management,
            mac: "52:54:00:00:00:01".into(),
            address: None,
        };
        Computer {
            name: name.parse().unwrap(),
            backend: "sim".parse().unwrap(),
            cpus: None,
            memory: None,
            nics: vec![nic],
            tags: Vec::new(),
        }
    }
    /// A revision whose disk is that file of the bench's directory.
    fn revision(&self, file: &str, generalised: bool) -> Revision {
        let digest = Digest::from_bytes([7; 32]);
        let disk = DiskRecord {
            file: file.into(),
            format: "qcow2".into(),
            virtual_size: ByteSize(8 << 20),
            file_size: ByteSize(1),
            file_digest: digest.clone(),
            content_digest: digest,
            over: None,
        };
        let manifest = Manifest {
            version: 1,
            image: "debian".parse().unwrap(),
            revision: 1,
            parent: None,
            os: OsName::Linux,
            generalised,
            hardware: Hardware::default(),
            disks: vec![disk],
            firmware: None,
            boot: None,
            backend: None,
            job: None,
            created: "2026-01-01T00:00:00Z".parse().unwrap(),
            note: None,
            boot_files: Vec::new(),
        };
        Revision { manifest, directory: self.directory.path().to_str().unwrap().into() }
    }
    fn staging(&self, name: &str) -> Staging {
        let root = self.directory.path().join("library");
        std::fs::create_dir_all(&root).unwrap();
        Library::open(&root).unwrap().staging(name).unwrap()
    }
    async fn job<T: Send>(&self, work: impl AsyncFnOnce(&Sim, &mut Job) -> vcl_job::Result<T>) -> Outcome<T> {
        let parts: [(&str, &dyn Undo); 3] =
            [("work", &self.sim), ("post_load", &self.sim.os), ("pre_capture", &self.sim.os)];
        let run = Run {
            journal: Arc::new(MemoryJournal::default()),
            observer: Arc::new(Silent),
            control: Control::default(),
            owners: Owners { flow: &self.sim, parts: &parts },
        };
        let work = async |mut job: Job, ()| work(&self.sim, &mut job.part("work")).await;
        execute(run, Flow { name: "test", version: 1, deadline: None }, async { Ok(()) }, work).await
    }
    async fn load(&self, name: &str, revision: &Revision) -> Outcome<Endpoint> {
        let (computer, remotes) = (self.computer(name), MockRemotes::new());
        let target = self.target(&computer, revision, &remotes, None);
        self.job(async |sim, job| sim.load(job, target).await).await
    }
    async fn capture(
        &self,
        name: &str,
        revision: &Revision,
        at: &Endpoint,
        to: &Staging,
    ) -> Outcome<Captured> {
        let (computer, remotes) = (self.computer(name), MockRemotes::new());
        let target = self.target(&computer, revision, &remotes, Some(at));
        self.job(async |sim, job| sim.capture(job, target, to).await).await
    }
    fn target<'a>(
        &'a self,
        computer: &'a Computer,
        revision: &'a Revision,
        remotes: &'a MockRemotes,
        endpoint: Option<&'a Endpoint>,
    ) -> Target<'a> {
        let limits = crate::Limits::default();
        Target { computer, revision, os: &self.sim.os, remotes, user: "root", hooks: None, limits, endpoint }
    }
    async fn write(&self, machine: &str, path: &str, text: &str) {
        let effect = Effect::Write { path: path.into(), text: text.into() };
        assert!(self.sim.world.by_hand(machine, effect).await.unwrap());
    }
    /// The world holds together, and nothing impossible was tried.
    fn sound(&self) {
        assert_eq!(self.sim.world.differing().unwrap(), Vec::<String>::new());
        assert_eq!(self.sim.world.refusals().unwrap(), []);
    }
}

fn done<T: std::fmt::Debug>(outcome: Outcome<T>) -> T {
    match outcome {
        Outcome::Done(value) => value,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_written_on_a_computer_is_on_every_computer_that_its_capture_is_loaded_on() {
    for end in [EndState::Off, EndState::On, EndState::Reboot] {
        let bench = Bench::with(Chance::default(), end);
        let imported = bench.revision("debian.qcow2", false);
        let first = done(bench.load("a", &imported).await);
        bench.write("vcl-a", "/home/alice/thesis", "chapter one").await;
        let staging = bench.staging("job1-token1");
        let captured = done(bench.capture("a", &imported, &first, &staging).await);
        assert_eq!(captured.disks[0].file, "disk0.qcow2");
        assert_eq!(bench.sim.state(&bench.computer("a")).await.unwrap(), PowerState::Off);
        std::fs::rename(staging.disk(0), bench.directory.path().join("second.qcow2")).unwrap();

        let second = bench.revision("second.qcow2", true);
        let (b, c) = (done(bench.load("b", &second).await), done(bench.load("c", &second).await));
        assert!(b.host_keys.keys != c.host_keys.keys && b.host_keys.keys != first.host_keys.keys);
        for name in ["b", "c"] {
            let machine = bench.sim.machine(&format!("vcl-{name}")).await.unwrap();
            let content = machine.content().unwrap();
            assert_eq!(content.files["/home/alice/thesis"], "chapter one", "{end:?}");
            assert_eq!(content.hostname.as_deref(), Some(name));
            assert_eq!(content.base, imported.manifest.disks[0].content_digest.as_str());
        }
        for name in ["a", "b", "c"] {
            let computer = bench.computer(name);
            done(bench.job(async |sim, job| sim.unload(job, &computer).await).await);
        }
        let left: Vec<_> = bench.sim.world.snapshot().unwrap().into_keys().collect();
        assert_eq!(left, ["old-web", "template", "two-disks"]);
        bench.sound();
    }
}

#[tokio::test]
async fn the_same_content_makes_the_same_bytes_and_other_content_others() {
    let bench = Bench::new();
    let revision = bench.revision("debian.qcow2", false);
    let mut copies = Vec::new();
    for (name, text) in [("a", "one"), ("b", "one"), ("c", "two")] {
        let at = done(bench.load(name, &revision).await);
        bench.write(&format!("vcl-{name}"), "/home/alice/x", text).await;
        let staging = bench.staging(&format!("job-{name}"));
        done(bench.capture(name, &revision, &at, &staging).await);
        copies.push(std::fs::read(staging.disk(0)).unwrap());
    }
    assert!(copies[0] == copies[1] && copies[0] != copies[2]);
    bench.sound();
}

#[tokio::test]
async fn a_resumed_computer_is_who_it_was_not_and_keeps_what_is_on_it() {
    let bench = Bench::new();
    let revision = bench.revision("debian.qcow2", true);
    let first = done(bench.load("a", &revision).await);
    bench.write("vcl-a", "/home/alice/x", "kept").await;
    done(bench.capture("a", &revision, &first, &bench.staging("job1")).await);
    let (computer, remotes) = (bench.computer("a"), MockRemotes::new());
    let target = bench.target(&computer, &revision, &remotes, Some(&first));
    let again = done(bench.job(async |sim, job| sim.resume(job, target).await).await);
    assert_ne!(again.host_keys, first.host_keys);
    assert_eq!(bench.sim.machine("vcl-a").await.unwrap().content().unwrap().files["/home/alice/x"], "kept");
    bench.sound();
}

#[tokio::test]
async fn an_image_of_a_foreign_machine_leaves_it_as_it_was() {
    let bench = Bench::new();
    let before = bench.sim.world.snapshot().unwrap();
    let names: Vec<_> = bench.sim.vms().await.unwrap().into_iter().map(|v| (v.name, v.state)).collect();
    let expected = [("old-web", "running"), ("template", "shut off"), ("two-disks", "shut off")];
    assert_eq!(names, expected.map(|(n, s)| (n.to_owned(), s.to_owned())));
    let remotes = MockRemotes::new();
    let target = |vm| VmTarget {
        vm,
        os: &bench.sim.os,
        remotes: &remotes,
        user: "root",
        hooks: None,
        limits: crate::Limits::default(),
    };
    let preview = bench.sim.preview_vm(target("old-web")).await.unwrap();
    assert_eq!(preview.would_keep, ["user alice"]);
    for (vm, disks) in [("old-web", 1), ("two-disks", 2)] {
        let staging = bench.staging(&format!("of-{vm}"));
        let target = target(vm);
        let captured = done(bench.job(async |sim, job| sim.capture_vm(job, target, &staging).await).await);
        assert_eq!(captured.disks.len(), disks);
        let path = Utf8PathBuf::try_from(staging.disk(0)).unwrap();
        let content = disk::content(&path, "qcow2", "").unwrap();
        assert!(content.generalised && content.identity.is_none() && !content.files.is_empty());
    }
    assert_eq!(bench.sim.world.snapshot().unwrap(), before);
    assert_eq!(bench.sim.things().await.unwrap(), []);
    let gone = bench.sim.preview_vm(target("nobody")).await.unwrap_err();
    assert!(gone.kind == ErrorKind::NotFound && gone.context.contains("vclctl vm list sim"), "{gone}");
    bench.sound();
}

/// Every order that a real host would refuse, on a machine that is loaded and runs.
#[tokio::test]
async fn what_no_real_machine_does_is_refused_and_written_down() {
    let bench = Bench::new();
    done(bench.load("a", &bench.revision("debian.qcow2", true)).await);
    let world = &bench.sim.world;
    let overlay = Overlay { on: "x".into(), size: 1, content: Content::default() };
    let copy = |to: &str| Effect::BeginCopy { disk: 0, to: to.into() };
    let refused = async |effect: Effect, why: &str| {
        let before = world.snapshot().unwrap();
        let error = world.effect_by(By::default(), "vcl-a", effect.clone()).await.unwrap_err();
        assert!(error.context.contains(why), "{effect:?}: {error}");
        assert_eq!(error.kind, vcl_job::Kind::Fatal);
        assert_eq!(world.snapshot().unwrap(), before, "{effect:?}");
    };
    refused(Effect::RemovePlace, "under the running machine").await;
    refused(Effect::DeleteOverlay { disk: 0 }, "under the running machine").await;
    refused(Effect::MakeOverlay { disk: 0, overlay: overlay.clone() }, "under the running machine").await;
    refused(Effect::Undefine, "a running machine is undefined").await;
    refused(copy("/tmp/x"), "while the machine runs").await;
    refused(Effect::Finish { end: EndState::Off }, "not generalised").await;
    world.effect_by(By::default(), "vcl-a", Effect::MakeOverlay { disk: 1, overlay }).await.unwrap();
    refused(Effect::Define { disks: vec![1], owner: None }, "and again with [1]").await;
    world.effect_by(By::default(), "vcl-a", Effect::CutPower).await.unwrap();
    refused(Effect::Generalise, "not up").await;
    refused(Effect::GiveIdentity, "not up").await;
    world.effect_by(By::default(), "vcl-a", Effect::DeleteOverlay { disk: 0 }).await.unwrap();
    refused(Effect::Start, "without its disk 0").await;
    refused(copy("/tmp/x"), "disk 0 is copied and is not there").await;
    world.effect_by(By::default(), "vcl-a", Effect::Undefine).await.unwrap();
    refused(Effect::Start, "not defined").await;
    refused(Effect::Define { disks: vec![0], owner: None }, "disk 0, which is not there").await;
    world.effect_by(By::default(), "vcl-a", Effect::RemovePlace).await.unwrap();
    assert_eq!(world.refusals().unwrap().len(), 13);
    assert_eq!(world.differing().unwrap(), Vec::<String>::new());
    let findings = bench.sim.findings().await;
    assert!(findings.iter().any(|f| f.found.contains("13 times something was tried")), "{findings:?}");
}

#[tokio::test]
async fn a_copy_whose_file_another_process_still_writes_is_refused() {
    use std::io::Read as _;
    let bench = Bench::new();
    done(bench.load("a", &bench.revision("debian.qcow2", true)).await);
    let world = &bench.sim.world;
    world.effect_by(By::default(), "vcl-a", Effect::CutPower).await.unwrap();
    let to = bench.directory.path().join("staged.qcow2");
    std::fs::copy(bench.directory.path().join("debian.qcow2"), &to).unwrap();
    let mut writer = std::process::Command::new("qemu-io")
        .args(["-f", "qcow2", to.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its prompt comes when it has the file open.
    writer.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
    let begin = Effect::BeginCopy { disk: 0, to: to.to_str().unwrap().into() };
    let error = world.effect_by(By::default(), "vcl-a", begin.clone()).await.unwrap_err();
    assert!(error.context.contains("would have two writers"), "{error}");
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(world.effect_by(By::default(), "vcl-a", begin).await.unwrap());
}

#[test]
fn a_lease_that_another_has_followed_does_not_come_back() {
    let hand = |job: &str, token| Hand { job: job.into(), token };
    let mut machine = Machine::default();
    for good in [hand("1", 1), hand("1", 1), hand("1", 2), hand("2", 1), hand("3", 5)] {
        machine.admit(&good).unwrap();
    }
    for bad in [hand("1", 1), hand("1", 2), hand("2", 1), hand("3", 4)] {
        let why = machine.admit(&bad).unwrap_err();
        assert!(why.contains("comes back after token 5 of job `3`"), "{why}");
    }
    machine.admit(&hand("3", 6)).unwrap();
}

#[tokio::test]
async fn a_world_is_the_same_for_all_who_have_it_open() {
    let bench = Bench::new();
    done(bench.load("a", &bench.revision("debian.qcow2", true)).await);
    let here = &bench.sim.world;
    let there = World::open(here.directory()).unwrap();
    for n in 0..50 {
        let world = if n % 2 == 0 { here } else { &there };
        let effect = if n % 4 < 2 { Effect::CutPower } else { Effect::Start };
        let changed = world.effect_by(By::default(), "vcl-a", effect).await.unwrap();
        assert_eq!(changed, n % 2 == 0, "what one has done the other finds done");
    }
    assert_eq!(here.snapshot().unwrap(), there.snapshot().unwrap());
    assert_eq!(here.machine("vcl-a").await.unwrap(), there.machine("vcl-a").await.unwrap());
    bench.sound();
}

#[tokio::test]
async fn a_process_that_dies_in_the_middle_of_an_effect_leaves_all_of_it_or_nothing() {
    let bench = Bench::new();
    done(bench.load("a", &bench.revision("debian.qcow2", true)).await);
    let directory = bench.sim.world.directory().join("machines");
    let (log, state) = (directory.join("vcl-a.log"), directory.join("vcl-a.json"));
    let whole = bench.sim.machine("vcl-a").await.unwrap();
    let text = std::fs::read(&log).unwrap();
    let newest = World::open(bench.sim.world.directory()).unwrap();
    assert_eq!(newest.machine("vcl-a").await.unwrap(), whole, "as the state file has it");
    // The state is behind, missing, torn, or of two ages at once.
    let stored = std::fs::read_to_string(&state).unwrap();
    for bad in ["", "{}", &stored[..stored.len() / 2], &stored.replace("\"applied\":", "\"applied\":1")] {
        std::fs::write(&state, bad).unwrap();
        let world = World::open(bench.sim.world.directory()).unwrap();
        assert_eq!(world.machine("vcl-a").await.unwrap(), whole, "after {bad:?}");
    }
    // The log's last line is cut anywhere: it has not happened, and the next effect comes after what has.
    let last = text[..text.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let before = fold("vcl-a", bench.sim.world.log("vcl-a").unwrap().split_last().unwrap().1).unwrap();
    for cut in [last, last + 1, last + 20, text.len() - 1] {
        let _ = std::fs::remove_file(&state);
        std::fs::write(&log, &text[..cut]).unwrap();
        let world = World::open(bench.sim.world.directory()).unwrap();
        assert_eq!(world.machine("vcl-a").await.unwrap(), before, "cut at {cut}");
        assert!(world.effect_by(By::default(), "vcl-a", Effect::CutPower).await.unwrap());
        assert_eq!(world.differing().unwrap(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_is_the_same_history() {
    let run = async |seed| {
        let chance = Chance {
            seed,
            delay_min: Duration::from_secs(1),
            delay_max: Duration::from_secs(5),
            failure_rate: 0.2,
            failures: Failures::Transient,
        };
        let bench = Bench::with(chance, EndState::Off);
        let start = tokio::time::Instant::now();
        let revision = bench.revision("debian.qcow2", true);
        let mut ends = Vec::new();
        for n in 0..10 {
            ends.push(matches!(bench.load(&format!("c{n}"), &revision).await, Outcome::Done(_)));
        }
        bench.sound();
        let mut history = Vec::new();
        for name in bench.sim.world.names().unwrap() {
            let log = bench.sim.world.log(&name).unwrap();
            history.extend(log.into_iter().map(|line| (name.clone(), line.effect)));
        }
        let failed = history.iter().filter(|(_, e)| matches!(e, Effect::Failed { .. })).count();
        // Overlays name the bench's directory.
        for (_, effect) in &mut history {
            if let Effect::MakeOverlay { overlay, .. } = effect {
                overlay.on.clear();
            }
        }
        (start.elapsed(), ends, failed, history)
    };
    let (one, again, other) = (run(3).await, run(3).await, run(4).await);
    assert_eq!((&one.1, one.2, &one.3), (&again.1, again.2, &again.3));
    assert!(one.0.abs_diff(again.0) < Duration::from_secs(1), "{:?} and {:?}", one.0, again.0);
    assert_ne!((one.2, &one.3), (other.2, &other.3));
    assert!(one.2 > 5, "{} failures", one.2);
    // Nine steps of 1 to 5 s each, ten times.
    assert!(one.0 > Duration::from_secs(90), "{:?}", one.0);
}

#[tokio::test]
async fn the_hook_sees_every_effect_before_and_after_and_may_keep_it_from_happening() {
    let bench = Bench::new();
    let seen: Arc<Mutex<Vec<Moment>>> = Arc::default();
    let told = seen.clone();
    bench.sim.world.on_effect(Arc::new(move |moment, _, effect| {
        told.lock().unwrap().push(moment);
        let stop = moment == Moment::Before && matches!(effect, Effect::Start);
        Box::pin(async move {
            if stop { Err(vcl_job::Error::new(vcl_job::Kind::Fatal, "not today")) } else { Ok(()) }
        })
    }));
    let outcome = bench.load("a", &bench.revision("debian.qcow2", true)).await;
    assert!(matches!(&outcome, Outcome::RolledBack(f) if f.message.contains("not today")), "{outcome:?}");
    assert!(bench.sim.things().await.unwrap().is_empty(), "everything is undone");
    let seen = seen.lock().unwrap();
    let count = |moment| seen.iter().filter(|m| **m == moment).count();
    assert_eq!(count(Moment::Before), count(Moment::After) + 1);
    bench.sound();
}

#[tokio::test]
async fn a_machine_can_be_looked_at() {
    let bench = Bench::new();
    let computer = bench.computer("a");
    assert_eq!(bench.sim.state(&computer).await.unwrap(), PowerState::Absent);
    assert_eq!(bench.sim.power(&computer, PowerAction::On).await.unwrap_err().kind, ErrorKind::NotFound);
    let at = done(bench.load("a", &bench.revision("debian.qcow2", true)).await);
    let console = bench.sim.console(&computer, 50).await.unwrap();
    assert!(console.contains(&at.host_keys.keys[0].key) && console.ends_with("a login: "), "{console}");
    assert_eq!(bench.sim.console(&computer, 1).await.unwrap(), "a login: ");
    let picture = bench.sim.screenshot(&computer).await.unwrap();
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));
    assert!(bench.sim.description(&computer).await.unwrap().contains("\"running\": true"));
    let things = bench.sim.things().await.unwrap();
    assert_eq!(things.len(), 1);
    assert_eq!((things[0].kind.as_str(), things[0].computer.as_ref()), ("domain", Some(&computer.name)));
    for (action, state) in [
        (PowerAction::Reset, PowerState::On),
        (PowerAction::Off, PowerState::Off),
        (PowerAction::Off, PowerState::Off),
        (PowerAction::On, PowerState::On),
    ] {
        assert_eq!(bench.sim.power(&computer, action).await.unwrap(), state);
    }
    bench.sim.remove_thing(&things[0]).await.unwrap();
    bench.sim.remove_thing(&things[0]).await.unwrap();
    assert_eq!(bench.sim.state(&computer).await.unwrap(), PowerState::Absent);
    let theirs = Thing { name: "old-web".into(), ..things[0].clone() };
    assert_eq!(bench.sim.remove_thing(&theirs).await.unwrap_err().kind, ErrorKind::NotOurs);
    bench.sound();
}

#[tokio::test]
async fn what_happens_outside_of_a_step_is_refused_and_what_happens_in_one_names_it() {
    let bench = Bench::new();
    let error = bench.sim.world.effect("vcl-a", Effect::MakePlace).await.unwrap_err();
    assert!(error.context.contains("outside of any step"), "{error}");
    assert_eq!(error.kind, vcl_job::Kind::Fatal);
    assert_eq!(bench.sim.world.refusals().unwrap().len(), 1);
    done(bench.load("a", &bench.revision("debian.qcow2", true)).await);
    let keys: Vec<_> =
        bench.sim.world.log("vcl-a").unwrap().into_iter().map(|line| line.key.unwrap()).collect();
    let steps = ["prepare host", "create overlay[0]", "define domain", "start", "post_load/set up guest"];
    assert_eq!(keys, steps.map(|step| format!("work/{step}")));
}

#[tokio::test]
async fn two_leases_are_never_mixed_on_a_machine() {
    let bench = Bench::new();
    let world = &bench.sim.world;
    let of = |job: &str, token| By { hand: Some(Hand { job: job.into(), token }), ..By::default() };
    assert!(world.effect_by(of("7", 1), "vcl-a", Effect::MakePlace).await.unwrap());
    assert!(world.effect_by(of("7", 2), "vcl-a", Effect::RemovePlace).await.unwrap());
    let late = world.effect_by(of("7", 1), "vcl-a", Effect::MakePlace).await.unwrap_err();
    assert!(late.context.contains("token 1 of job `7` comes back after token 2"), "{late}");
    assert!(world.effect_by(of("8", 1), "vcl-a", Effect::MakePlace).await.unwrap());
    assert!(world.effect_by(of("7", 2), "vcl-a", Effect::RemovePlace).await.is_err());
    let refusals = world.refusals().unwrap();
    assert_eq!(refusals.len(), 2);
    assert_eq!(refusals[0].line.hand, Some(Hand { job: "7".into(), token: 1 }));
    assert_eq!(world.differing().unwrap(), Vec::<String>::new());
}
