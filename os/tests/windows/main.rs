//! The dialogue with a Windows guest, through a real ssh server whose PowerShell answers as written in
//! `transcripts/windows`. What a real Windows answers is not known here; see the README there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod access;
#[path = "../sshd/mod.rs"]
mod sshd;

use base64::Engine as _;
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;
use sshd::{Sshd, keygen, until};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vcl_job::{Control, Flow, Job, Kind, MemoryJournal, Observer, Outcome, Owners, Record, Run, execute};
use vcl_os::windows::Settings;
use vcl_os::{EndState, Guest, Limits, Os, Remotes, SshRemotes, Windows};
use vcl_types::{Computer, Endpoint, HostKey, KeySource, Secret};

/// The answers of a guest's PowerShell, laid out as files, and what it was asked.
struct Fake {
    dir: Utf8PathBuf,
    _temporary: tempfile::TempDir,
}

const POWERSHELL: &str = r#"#!/bin/sh
# Stands in the place of powershell.exe: notes what it is sent, and answers the next of what was written for that script.
d=@DIR@
n=$(($(cat "$d/asked") + 1)) && echo "$n" >"$d/asked.new" && mv "$d/asked.new" "$d/asked"
tr -d '\n' | base64 -d >"$d/asked.$n" 2>/dev/null
name=$(sed -n 's/^{"name":"\([a-z-]*\)".*/\1/p' "$d/asked.$n")
printf '%s\n' "$name" >>"$d/log"
e=$d/part$(cat "$d/part")
k=$(($(cat "$e/$name.count" 2>/dev/null || echo 0) + 1)) && echo "$k" >"$e/$name.count"
while [ "$k" -gt 0 ] && [ ! -d "$e/$name.$k" ]; do k=$((k - 1)); done
[ "$k" -gt 0 ] || { echo "nobody wrote an answer for $name" >&2; exit 97; }
a=$e/$name.$k
if [ -e "$a/cut" ]; then
    p=$$
    while read -r stat <"/proc/$p/stat"; do
        case $stat in *"(sshd"*) kill -KILL "$p" && exit ;; esac
        set -- ${stat##*) } && p=$2
    done
fi
cat "$a/out"
cat "$a/err" >&2
if [ -e "$a/later" ]; then (sleep 0.2; : >"$d/later") </dev/null >/dev/null 2>&1 & fi
exit "$(cat "$a/status")"
"#;

impl Fake {
    /// Lays out a transcript; what stands between braces is replaced.
    fn new(transcript: &str, words: &[(&str, String)]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::try_from(temporary.path().to_owned()).unwrap();
        let file =
            Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts/windows").join(transcript);
        let mut text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        for (word, value) in words {
            text = text.replace(word, value);
        }
        let (mut part, mut counts) = (-1, BTreeMap::<String, u32>::new());
        let mut at: Option<Utf8PathBuf> = None;
        for line in text.lines() {
            let append = |name: &str, line: &str| {
                let path = at.as_ref().unwrap().join(name);
                let mut old = std::fs::read_to_string(&path).unwrap_or_default();
                writeln!(old, "{line}").unwrap();
                std::fs::write(path, old).unwrap();
            };
            if line.starts_with("== ") {
                part += 1;
                counts.clear();
                std::fs::create_dir(dir.join(format!("part{part}"))).unwrap();
            } else if let Some(name) = line.strip_prefix(">> ") {
                let count = counts.entry(name.to_owned()).or_default();
                *count += 1;
                let answer = dir.join(format!("part{part}/{name}.{count}"));
                std::fs::create_dir(&answer).unwrap();
                for (file, text) in [("out", ""), ("err", ""), ("status", "0")] {
                    std::fs::write(answer.join(file), text).unwrap();
                }
                at = Some(answer);
            } else if let Some(text) = line.strip_prefix("!err ") {
                append("err", text);
            } else if let Some(status) = line.strip_prefix("!status ") {
                std::fs::write(at.as_ref().unwrap().join("status"), status).unwrap();
            } else if let Some(word) = line.strip_prefix('!') {
                std::fs::write(at.as_ref().unwrap().join(word), "").unwrap();
            } else {
                append("out", line);
            }
        }
        std::fs::write(dir.join("asked"), "0").unwrap();
        std::fs::write(dir.join("part"), "0").unwrap();
        let powershell = dir.join("powershell.exe");
        std::fs::write(&powershell, POWERSHELL.replace("@DIR@", dir.as_str())).unwrap();
        std::fs::set_permissions(&powershell, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, _temporary: temporary }
    }
    /// What an ssh server's configuration needs to find it.
    fn path(&self) -> String {
        format!("SetEnv PATH={}:/usr/bin:/bin SHLVL=2", self.dir)
    }
    /// Which scripts were run, in order; the same one several times in a row counts once.
    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        // One that was cut off before it was sent whole has no name, and did nothing.
        let mut names: Vec<String> = text.lines().filter(|n| !n.is_empty()).map(str::to_owned).collect();
        names.dedup();
        names
    }
    /// The parameters of each run of that script.
    fn sent(&self, name: &str) -> Vec<Value> {
        let count: u32 = std::fs::read_to_string(self.dir.join("asked")).unwrap().trim().parse().unwrap();
        let read = |n| -> Option<Value> {
            // One whose connection went while it began has noted nothing.
            serde_json::from_slice(&std::fs::read(self.dir.join(format!("asked.{n}"))).ok()?).ok()
        };
        (1..=count).filter_map(read).filter(|v| v["name"] == name).map(|v| v["parameters"].clone()).collect()
    }
    /// Waits for the guest to say that it restarts.
    async fn later(&self) {
        self.restarts().await;
        self.restarted();
    }
    async fn restarts(&self) {
        until("the guest restarts", || self.dir.join("later").exists()).await;
    }
    /// From now on it has another boot.
    fn restarted(&self) {
        std::fs::write(self.dir.join("part"), "1").unwrap();
    }
}

fn hostkeys(keys: &[HostKey]) -> String {
    keys.iter()
        .map(|k| format!("hostkey\t{} {} made here", k.algorithm, k.key))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What a job told.
#[derive(Default)]
struct Told(Mutex<Vec<(String, String)>>);
impl Observer for Told {
    fn recorded(&self, _: &Record) {}
    fn progress(&self, _: &str, _: u64, _: u64) {}
    fn event(&self, kind: &str, message: &str) {
        self.0.lock().unwrap().push((kind.to_owned(), message.to_owned()));
    }
}
impl Told {
    fn of(&self, kind: &str) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|(k, _)| k == kind).map(|(_, m)| m.clone()).collect()
    }
}

/// Everything that one job on one guest takes.
struct World {
    fake: Fake,
    sshd: Sshd,
    computer: Computer,
    endpoint: Endpoint,
    remotes: SshRemotes,
    hooks: Option<Utf8PathBuf>,
    generalised: bool,
    boot: Duration,
    windows: Windows,
    told: Arc<Told>,
    journal: Arc<MemoryJournal>,
}

impl World {
    fn new(transcript: &str) -> Self {
        Self::with(transcript, &[], Settings::default())
    }
    fn with(transcript: &str, words: &[(&str, String)], settings: Settings) -> Self {
        let fake = Fake::new(transcript, words);
        let sshd = Sshd::with(&fake.path());
        let keys = hostkeys(&[sshd.host_key("ed25519"), sshd.host_key("ecdsa")]);
        for part in ["part0", "part1"] {
            for entry in fake.dir.join(part).read_dir_utf8().into_iter().flatten().flatten() {
                let out = entry.path().join("out");
                let text = std::fs::read_to_string(&out).unwrap();
                std::fs::write(out, text.replace("{KEYS}", &keys)).unwrap();
            }
        }
        Self {
            computer: Computer {
                name: "gis-01".parse().unwrap(),
                backend: "kvm1".parse().unwrap(),
                cpus: None,
                memory: None,
                nics: Vec::new(),
                tags: Vec::new(),
            },
            endpoint: sshd.endpoint(),
            remotes: sshd.remotes(),
            fake,
            sshd,
            hooks: None,
            generalised: true,
            boot: Duration::from_secs(30),
            windows: Windows::new(settings).paced(Duration::from_millis(20), Duration::from_millis(300)),
            told: Arc::default(),
            journal: Arc::default(),
        }
    }
    fn guest(&self) -> Guest<'_> {
        Guest {
            computer: &self.computer,
            endpoint: &self.endpoint,
            remotes: &self.remotes,
            hooks: self.hooks.as_deref(),
            limits: Limits { boot: self.boot, command: Duration::from_secs(30) },
            generalised: self.generalised,
        }
    }
    async fn job<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(Job) -> Result<T, vcl_job::Error>,
    ) -> Outcome<T> {
        let run = Run {
            journal: self.journal.clone(),
            observer: self.told.clone(),
            control: Control::default(),
            owners: Owners { flow: &self.windows, parts: &[] },
        };
        let flow = Flow { name: "test", version: 1, deadline: None };
        execute(run, flow, async { Ok(()) }, |job, ()| work(job)).await
    }
    async fn load(&self) -> Outcome<Endpoint> {
        self.job(async |mut job: Job| self.windows.post_load(&mut job, self.guest()).await).await
    }
    async fn capture(&self, end: EndState) -> Outcome<()> {
        self.job(async |mut job: Job| self.windows.pre_capture(&mut job, self.guest(), end).await).await
    }
    async fn journal(&self) -> String {
        use vcl_job::Journal as _;
        format!("{:?}", self.journal.read().await.unwrap())
    }
}

fn failure<T: std::fmt::Debug>(outcome: Outcome<T>) -> vcl_job::Failure {
    match outcome {
        Outcome::RolledBack(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_sets_itself_up_gets_its_name_and_is_pinned() {
    let mut world = World::new("load.txt");
    let hooks = world.fake.dir.join("hooks");
    std::fs::create_dir_all(hooks.join("post_load.d")).unwrap();
    std::fs::write(hooks.join("post_load.d/10-licence.ps1"), "net use L: \\\\server\\licence\n").unwrap();
    std::fs::write(hooks.join("post_load.d/20-linux"), "#!/bin/sh\n").unwrap();
    std::fs::write(hooks.join("post_load.d/a b.cmd"), "rem\n").unwrap();
    world.hooks = Some(hooks);
    let directory = world.fake.dir.clone();
    let mut sshd = std::mem::replace(&mut world.sshd, Sshd::start());
    let keys = [sshd.host_key("ed25519"), sshd.host_key("ecdsa")];
    let restart = async {
        world.fake.later().await;
        sshd.restart();
    };
    let (outcome, ()) = tokio::join!(world.load(), restart);
    let Outcome::Done(endpoint) = outcome else { panic!("{outcome:?} {directory:?}") };
    assert_eq!(endpoint.host_keys.source, KeySource::Pinned);
    assert_eq!(endpoint.host_keys.keys, keys);
    assert_eq!(world.fake.log(), ["state", "setup", "power", "state", "hook"]);
    let setup = &world.fake.sent("setup")[0];
    assert_eq!((&setup["name"], &setup["generalised"]), (&"gis-01".into(), &true.into()));
    assert_eq!(world.fake.sent("power")[0]["boot"], "b1");
    let hook = &world.fake.sent("hook")[0];
    assert_eq!((&hook["name"], &hook["stage"]), (&"10-licence.ps1".into(), &"post_load".into()));
    let content =
        base64::engine::general_purpose::STANDARD.decode(hook["content"].as_str().unwrap()).unwrap();
    assert_eq!(content, b"net use L: \\\\server\\licence\n");
    assert!(world.told.of("hook-skipped")[0].contains("a b.cmd"));
    // The first is what a phase is called while it goes on, and no failure.
    let setup = world.told.of("windows-setup");
    assert!(setup[0].contains("UNDEPLOYABLE") && setup[1].contains("SPECIALIZE"), "{setup:?}");
    assert_eq!(world.told.of("restarting").len(), 1);
    drop(sshd);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_guest_is_given_new_keys_and_only_they_are_pinned() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::try_from(temporary.path().to_owned()).unwrap();
    let new: Vec<HostKey> = ["ed25519", "ecdsa"]
        .iter()
        .map(|kind| {
            keygen(&dir.join(kind), kind);
            HostKey::parse(&std::fs::read_to_string(dir.join(format!("{kind}.pub"))).unwrap()).unwrap()
        })
        .collect();
    let mut world = World::with("load-imported.txt", &[("{NEW}", hostkeys(&new))], Settings::default());
    world.generalised = false;
    let mut sshd = std::mem::replace(&mut world.sshd, Sshd::start());
    let restart = async {
        world.fake.restarts().await;
        // Nobody sees another boot by a server of the one before.
        sshd.kill();
        world.fake.restarted();
        for kind in ["ed25519", "ecdsa"] {
            std::fs::copy(dir.join(kind), sshd.dir.join(format!("host_{kind}"))).unwrap();
            std::fs::copy(dir.join(format!("{kind}.pub")), sshd.dir.join(format!("host_{kind}.pub")))
                .unwrap();
        }
        sshd.restart();
    };
    let (outcome, ()) = tokio::join!(world.load(), restart);
    let Outcome::Done(endpoint) = outcome else { panic!("{outcome:?}") };
    assert_eq!(endpoint.host_keys.keys, new);
    assert_eq!(world.fake.log(), ["state", "identity", "setup", "power", "state"]);
    // And with what is pinned it lets us in.
    let token = tokio_util::sync::CancellationToken::new();
    let remote = world.remotes.connect(&endpoint, Duration::from_secs(10), &token).await.unwrap();
    assert!(new.contains(&remote.host_key()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_that_failed_is_told_with_its_log() {
    let world = World::new("load-undeployable.txt");
    let failure = failure(world.load().await);
    assert_eq!(failure.kind, Kind::Fatal);
    for part in ["IMAGE_STATE_UNDEPLOYABLE", "exit code 80220005", "Failure during specialize pass"] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_that_does_not_end_is_told_with_how_far_it_was() {
    let mut world = World::new("load.txt");
    for later in 3..=5 {
        std::fs::remove_dir_all(world.fake.dir.join(format!("part0/state.{later}"))).unwrap();
    }
    world.boot = Duration::from_secs(1);
    let failure = failure(world.load().await);
    assert_eq!(failure.kind, Kind::Deadline);
    assert!(
        failure.message.contains("IMAGE_STATE_SPECIALIZE_RESEAL_TO_OOBE, SystemSetupInProgress"),
        "{}",
        failure.message
    );
    assert!(failure.message.contains("deadlines.boot"), "{}", failure.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_licence_that_is_not_to_be_had_is_an_event_or_a_failure_and_the_key_is_in_neither() {
    const KEY: &str = "AAAAA-BBBBB-CCCCC-DDDDD-EEEEE";
    for required in [false, true] {
        let settings = Settings {
            product_key: Some(Secret::new(KEY.into())),
            kms_host: Some("kms.example.org".into()),
            kms_port: Some(1688),
            require_activation: required,
            ..Settings::default()
        };
        let world = World::with("load-licence.txt", &[], settings);
        let outcome = world.load().await;
        let said = match (required, outcome) {
            (false, Outcome::Done(_)) => world.told.of("not-activated").join(""),
            (true, outcome) => failure(outcome).message,
            (false, other) => panic!("{other:?}"),
        };
        assert!(said.contains("0xC004C003") && said.contains("*****"), "{said}");
        let sent = &world.fake.sent("activate")[0];
        assert_eq!(
            (&sent["key"], &sent["host"], &sent["port"]),
            (&KEY.into(), &"kms.example.org".into(), &1688.into())
        );
        let journal = world.journal().await;
        let told = format!("{:?} {journal}", world.told.0.lock().unwrap());
        assert!(!told.contains(KEY) && !said.contains(KEY), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sysprep_is_the_last_step_and_a_connection_that_breaks_is_part_of_it() {
    let mut world = World::new("capture.txt");
    let hooks = world.fake.dir.join("hooks");
    std::fs::create_dir_all(hooks.join("pre_capture.d")).unwrap();
    std::fs::write(hooks.join("pre_capture.d/10-leave.cmd"), "rem\r\n").unwrap();
    world.hooks = Some(hooks);
    let outcome = world.capture(EndState::Off).await;
    assert_eq!(outcome, Outcome::Done(()), "{:?}", world.fake.log());
    assert_eq!(world.fake.log(), ["hook", "check", "clean", "sysprep", "sysprep-look"]);
    assert_eq!(world.fake.sent("sysprep").len(), 1, "begun once");
    let sent = &world.fake.sent("sysprep")[0];
    assert_eq!(sent["end"], "off");
    // No password leaves us: the guest makes one.
    assert!(sent["unattend"].as_str().unwrap().contains("<Value>@PASSWORD@</Value>"));
    assert!(sent["worker"].as_str().unwrap().contains("/generalize"));
    let notes = world.told.of("capture-note");
    assert_eq!(notes, ["its licence can be re-armed 3 more times", "7 files are in use and stay"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_state_is_the_guests_to_reach() {
    for (end, word) in [(EndState::On, "on"), (EndState::Reboot, "reboot")] {
        let world = World::new("capture.txt");
        assert_eq!(world.capture(end).await, Outcome::Done(()));
        assert_eq!(world.fake.sent("sysprep")[0]["end"], word);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sysprep_that_failed_is_told_with_its_logs_and_a_way_out() {
    let world = World::new("capture-failed.txt");
    let failure = failure(world.capture(EndState::Off).await);
    assert_eq!(failure.kind, Kind::Fatal);
    let package = "Microsoft.BingNews_4.55.62231.0_x64__8wekyb3d8bbwe";
    for part in [
        "status 2147500037",
        &format!("Remove-AppxPackage -AllUsers -Package {package}"),
        "setuperr.log: ",
        "dwRet = 0x3cf2",
    ] {
        assert!(failure.message.contains(part), "{part}: {}", failure.message);
    }
    assert_eq!(world.told.of("sysprep-error").len(), 4);
    assert!(world.told.of("sysprep-log")[0].contains("Sysprep has been shut down"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sysprep_would_refuse_is_found_before_anything_is_changed() {
    let world = World::new("capture-refused.txt");
    let failure = failure(world.capture(EndState::Off).await);
    assert_eq!(failure.kind, Kind::Refused);
    assert!(
        failure.message.contains("windows.skip_rearm") && failure.message.contains("updates wait"),
        "{failure:?}"
    );
    assert_eq!(world.fake.log(), ["check"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_cannot_begin_it_says_why() {
    let world = World::new("capture-died.txt");
    let failure = failure(world.capture(EndState::Off).await);
    assert!(failure.message.contains("Access is denied."), "{failure:?}");
}

/// After it was begun, a guest that is not there any more is what was wanted; one that was to stay on is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_goes_while_nobody_looks_has_gone_where_it_was_sent() {
    for (end, gone) in [(EndState::Off, true), (EndState::Reboot, true), (EndState::On, false)] {
        let mut world = World::new("capture.txt");
        std::fs::remove_dir_all(world.fake.dir.join("part0/sysprep-look.4")).unwrap();
        let mut sshd = std::mem::replace(&mut world.sshd, Sshd::start());
        let count = world.fake.dir.join("part0/sysprep-look.count");
        let cut = async {
            until("it is looked at", || std::fs::read_to_string(&count).is_ok_and(|n| n.trim() == "3")).await;
            sshd.kill();
        };
        let (outcome, ()) = tokio::join!(world.capture(end), cut);
        if gone {
            assert_eq!(outcome, Outcome::Done(()));
            assert!(world.told.of("capture-note").iter().any(|n| n.contains("as it should be")));
        } else {
            assert_eq!(failure(outcome).kind, Kind::Unreachable);
        }
    }
}

/// A life that ends while Sysprep runs: the next one finds that it goes on and does not begin it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_while_sysprep_runs_finds_it_again() {
    let world = World::new("capture-twice.txt");
    let count = world.fake.dir.join("part0/sysprep-look.count");
    tokio::select! {
        outcome = world.capture(EndState::Off) => panic!("{outcome:?}"),
        () = until("it is looked at", || std::fs::read_to_string(&count).is_ok_and(|n| n.trim() == "2")) => {}
    }
    std::fs::write(world.fake.dir.join("part"), "1").unwrap();
    assert_eq!(world.capture(EndState::Off).await, Outcome::Done(()));
    assert_eq!(world.fake.sent("clean").len(), 1, "what was done stays done");
    assert_eq!(world.fake.log()[..3], ["check", "clean", "sysprep"]);
}

/// The same, and the machine has been restarted since and shows other keys: that is who it was to become.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_back_as_somebody_else_was_restarted() {
    for (end, done) in [(EndState::Reboot, true), (EndState::Off, false)] {
        let mut world = World::new("capture-twice.txt");
        world.endpoint = world.sshd.pinned(&["ed25519", "ecdsa"]);
        let count = world.fake.dir.join("part0/sysprep-look.count");
        tokio::select! {
            outcome = world.capture(end) => panic!("{outcome:?}"),
            () = until("it is looked at", || std::fs::read_to_string(&count).is_ok_and(|n| n.trim() == "2")) => {}
        }
        world.sshd.restart_with_new_keys();
        world.remotes = world.sshd.remotes();
        let outcome = world.capture(end).await;
        if done {
            assert_eq!(outcome, Outcome::Done(()));
        } else {
            assert_eq!(failure(outcome).kind, Kind::Auth);
        }
    }
}
