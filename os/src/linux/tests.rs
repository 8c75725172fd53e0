//! Who calls whom, and the scripts.

mod scripts;
mod tree;

use super::Linux;
use crate::mock::{MockRemote, MockRemotes};
use crate::{Command, EndState, Error, ErrorKind, Guest, Limits, Os, Output, Remote};
use camino::Utf8PathBuf;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_job::{
    Control, Failure, Flow, Job, Kind, MemoryJournal, Outcome, Owners, Record, Run, Silent, execute,
};
use vcl_types::{Computer, Endpoint, HostKey, HostKeys, KeySource};

const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIold";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItold";
const NEW: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAInew";

fn key(line: &str) -> HostKey {
    HostKey::parse(line).unwrap()
}
fn endpoint(keys: &[&str], source: KeySource) -> Endpoint {
    let host_keys = HostKeys { keys: keys.iter().map(|k| key(k)).collect(), source };
    Endpoint { address: "10.0.0.5".parse().unwrap(), port: 22, user: "root".into(), host_keys }
}
fn computer() -> Computer {
    Computer {
        name: "gis-01".parse().unwrap(),
        backend: "kvm1".parse().unwrap(),
        cpus: None,
        memory: None,
        nics: Vec::new(),
        tags: Vec::new(),
    }
}
fn said(text: &str) -> Result<Output, Error> {
    Ok(Output { status: 0, stdout: format!("{text}done\n").into(), stderr: Vec::new() })
}
fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "as the test wants it")
}

/// What a guest did, in order: `connect KEYS`, `run SCRIPT`, `forget KEYS`.
type Log = Arc<Mutex<Vec<String>>>;

/// A guest that answers each connect and each run as the test says, in order.
struct World {
    log: Log,
    remotes: MockRemotes,
}

impl World {
    fn new(
        connects: Vec<Result<&'static str, ErrorKind>>,
        answers: impl Fn(&str, &Command) -> Result<Output, Error> + Send + Sync + Clone + 'static,
    ) -> Self {
        let log = Log::default();
        let mut remotes = MockRemotes::new();
        let connects = Mutex::new(connects.into_iter());
        let seen = log.clone();
        remotes.expect_connect().returning(move |to, _, _| {
            seen.lock().unwrap().push(format!("connect {}", keys_of(to)));
            let shows = connects.lock().unwrap().next().expect("one connection more than expected");
            let shows = shows.map_err(error)?;
            let (seen, answers) = (seen.clone(), answers.clone());
            let mut remote = MockRemote::new();
            remote.expect_host_key().returning(move || key(shows));
            remote.expect_run().returning(move |command| {
                let what = script_of(&command);
                seen.lock().unwrap().push(format!("run {what}"));
                answers(&what, &command)
            });
            Ok(Arc::new(remote) as Arc<dyn Remote>)
        });
        let seen = log.clone();
        remotes.expect_forget().returning(move |to| {
            seen.lock().unwrap().push(format!("forget {}", keys_of(to)));
        });
        Self { log, remotes }
    }
    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

fn keys_of(to: &Endpoint) -> String {
    let short = |k: &HostKey| k.key[k.key.len() - 3..].to_owned();
    to.host_keys.keys.iter().map(short).collect::<Vec<_>>().join("+")
}

/// The script that a command runs, by its first comment and its parameters.
fn script_of(command: &Command) -> String {
    let input = String::from_utf8_lossy(&command.input).into_owned();
    let parameter = |name: &str| {
        let line = input.lines().find_map(|l| l.strip_prefix(&format!("{name}="))).unwrap_or_default();
        line.trim_matches('\'').to_owned()
    };
    for (name, beginning) in [
        ("identity", "# Makes a new identity beside"),
        ("setup", "# Makes a loaded guest ready"),
        ("generalise", "# Takes everything out"),
        ("finish", "# Takes the last"),
        ("sanitize", "# Takes a user's traces"),
    ] {
        if input.contains(beginning) {
            let more = match name {
                "setup" => parameter("NAME"),
                "finish" => format!("{} {}", parameter("IDENTITY"), parameter("END")),
                "generalise" => parameter("DRY"),
                _ => String::new(),
            };
            assert_eq!(command.line, "sh -s");
            return format!("{name} {more}").trim().to_owned();
        }
    }
    "hook".to_owned()
}

const FLOW: Flow = Flow { name: "test", version: 1, deadline: None };

async fn job<T>(
    records: Vec<Record>,
    work: impl AsyncFnOnce(Job) -> Result<T, vcl_job::Error>,
) -> Outcome<T> {
    let run = Run {
        journal: Arc::new(MemoryJournal::of(records)),
        observer: Arc::new(Silent),
        control: Control::default(),
        owners: Owners { flow: &Linux, parts: &[] },
    };
    execute(run, FLOW, async { Ok(()) }, |job, ()| work(job)).await
}

struct Case {
    world: World,
    computer: Computer,
    endpoint: Endpoint,
    hooks: Option<Utf8PathBuf>,
    generalised: bool,
    records: Vec<Record>,
}

impl Case {
    fn new(world: World) -> Self {
        Self {
            world,
            computer: computer(),
            endpoint: endpoint(&[ED], KeySource::Pinned),
            hooks: None,
            generalised: true,
            records: Vec::new(),
        }
    }
    fn guest(&self) -> Guest<'_> {
        Guest {
            computer: &self.computer,
            endpoint: &self.endpoint,
            remotes: &self.world.remotes,
            hooks: self.hooks.as_deref(),
            limits: Limits::default(),
            generalised: self.generalised,
        }
    }
    async fn post_load(&self) -> Outcome<Endpoint> {
        job(self.records.clone(), async |mut job| Linux.post_load(&mut job, self.guest()).await).await
    }
    async fn pre_capture(&self, end: EndState) -> Outcome<()> {
        job(self.records.clone(), async |mut job| Linux.pre_capture(&mut job, self.guest(), end).await).await
    }
}

fn failure<T: std::fmt::Debug>(outcome: Outcome<T>) -> Failure {
    match outcome {
        Outcome::RolledBack(failure) => failure,
        other => panic!("{other:?}"),
    }
}

const KEYS: &str = "hostkey\tssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIold root@x\n\
    hostkey\tecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItold root@x\n";

#[tokio::test(start_paused = true)]
async fn a_load_waits_sets_up_and_pins_every_key() {
    use ErrorKind::{Handshake, NoRoute, Refused};
    let connects = vec![Err(NoRoute), Err(Refused), Err(Handshake), Ok(ED), Ok(ED)];
    let mut case = Case::new(World::new(connects, |_, _| said(KEYS)));
    case.endpoint = endpoint(&[], KeySource::FirstUse);
    let Outcome::Done(loaded) = case.post_load().await else { panic!() };
    assert_eq!(loaded, endpoint(&[ED, ECDSA], KeySource::Pinned));
    // One command. That the second connect is the first connection again is the pool's business.
    let polls = ["connect ", "connect ", "connect ", "connect ", "connect old", "run setup gis-01"];
    assert_eq!(case.world.log(), polls);
}

#[tokio::test(start_paused = true)]
async fn keys_from_the_console_stay_keys_from_the_console() {
    let mut case = Case::new(World::new(vec![Ok(ECDSA), Ok(ECDSA)], |_, _| said("")));
    case.endpoint = endpoint(&[ECDSA], KeySource::Console);
    let Outcome::Done(loaded) = case.post_load().await else { panic!() };
    assert_eq!(loaded, endpoint(&[ECDSA], KeySource::Console));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_cannot_make_itself_an_identity_is_given_one_while_both_are_known() {
    let answers = |what: &str, _: &Command| match what {
        "identity" => said(&format!("hostkey\t{NEW} root@x\n")),
        _ => said(&format!("identity\tnew\nhostkey\t{NEW} root@x\n")),
    };
    // The server shows its old key for a moment longer.
    let connects =
        vec![Ok(ED), Ok(ED), Ok(ED), Err(ErrorKind::HostKeyChanged), Err(ErrorKind::Refused), Ok(NEW)];
    let mut case = Case::new(World::new(connects, answers));
    case.generalised = false;
    let Outcome::Done(loaded) = case.post_load().await else { panic!() };
    assert_eq!(loaded, endpoint(&[NEW], KeySource::Pinned));
    let expected = [
        "connect old",
        "connect old",
        "run identity",
        "connect old+new",
        "run setup gis-01",
        "forget old+new",
        "connect new",
        "connect new",
        "connect new",
    ];
    assert_eq!(case.world.log(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_capture_runs_its_steps_in_order_and_leaves_the_end_state() {
    for (end, word) in [(EndState::Off, "off"), (EndState::Reboot, "reboot"), (EndState::On, "on")] {
        let case =
            Case::new(World::new(vec![Ok(ED), Ok(ED), Ok(ED)], |_, _| said("changed\tmachine-id\tx\n")));
        assert_eq!(case.pre_capture(end).await, Outcome::Done(()));
        let finish = format!("run finish take {word}");
        let mut expected =
            vec!["connect old", "run generalise", "connect old", finish.as_str(), "forget old"];
        if end == EndState::On {
            // Proof that it still lets us in.
            expected.push("connect old");
        }
        assert_eq!(case.world.log(), expected);
    }
}

fn begun_finish(end: &str) -> Vec<Record> {
    let null = serde_json::Value::Null;
    let begun = |key: &str, intent| Record::Started { key: key.into(), intent, at: None };
    let done = |key: &str, output| Record::Done { key: key.into(), output };
    vec![
        Record::Begun { flow: "test".into(), version: 1, input: null.clone(), at: None },
        begun("run pre_capture hooks", serde_json::json!([])),
        done("run pre_capture hooks", null.clone()),
        begun("generalise", null),
        done("generalise", serde_json::json!([])),
        begun("finish", serde_json::json!(end)),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_was_told_to_go_and_is_gone_has_finished() {
    use ErrorKind::{Handshake, HostKeyChanged, LoginRefused, NoRoute, Refused};
    for (end, word, found, expected) in [
        (EndState::Off, "off", Refused, Ok(())),
        (EndState::Off, "off", NoRoute, Ok(())),
        (EndState::Off, "off", Handshake, Ok(())),
        (EndState::Off, "off", HostKeyChanged, Err(Kind::Auth)),
        (EndState::Off, "off", LoginRefused, Err(Kind::Auth)),
        (EndState::Reboot, "reboot", Refused, Ok(())),
        (EndState::Reboot, "reboot", HostKeyChanged, Ok(())),
        (EndState::On, "on", Refused, Err(Kind::Unreachable)),
    ] {
        let mut case = Case::new(World::new(vec![Err(found); 2000], |_, _| panic!("nobody is there")));
        case.records = begun_finish(word);
        match (case.pre_capture(end).await, expected) {
            (Outcome::Done(()), Ok(())) => {}
            (Outcome::RolledBack(f), Err(kind)) if f.kind == kind => {}
            (other, _) => panic!("{end:?} {found}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_still_runs_after_a_crash_is_told_again() {
    let mut case = Case::new(World::new(vec![Ok(ED)], |_, _| said("")));
    case.records = begun_finish("off");
    assert_eq!(case.pre_capture(EndState::Off).await, Outcome::Done(()));
    assert_eq!(case.world.log(), ["connect old", "run finish take off", "forget old"]);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_was_never_told_and_is_gone_is_an_error() {
    let mut connects = vec![Ok(ED)];
    connects.extend(vec![Err(ErrorKind::NoRoute); 2000]);
    let case = Case::new(World::new(connects, |_, _| said("")));
    let failure = failure(case.pre_capture(EndState::Off).await);
    assert_eq!(failure.kind, Kind::Unreachable);
    assert!(failure.message.contains("did not let us in within 120 s"), "{}", failure.message);
}

/// The machine takes the connection down with it, or just stops answering.
#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_under_finish_is_looked_into() {
    for kind in [ErrorKind::Lost, ErrorKind::Deadline] {
        let answers = move |what: &str, _: &Command| match what {
            "generalise" => said(""),
            _ => Err(error(kind)),
        };
        let mut connects = vec![Ok(ED), Ok(ED)];
        connects.extend(vec![Err(ErrorKind::Refused); 2000]);
        let case = Case::new(World::new(connects, answers));
        assert_eq!(case.pre_capture(EndState::Off).await, Outcome::Done(()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_state_that_cannot_be_reached_is_an_error() {
    let answers = |what: &str, _: &Command| match what {
        "generalise" => said(""),
        _ => Ok(Output { status: 4, stdout: Vec::new(), stderr: b"it has no command poweroff\n".to_vec() }),
    };
    let case = Case::new(World::new(vec![Ok(ED), Ok(ED)], answers));
    let failure = failure(case.pre_capture(EndState::Off).await);
    assert_eq!(failure.kind, Kind::Refused);
    assert_eq!(failure.message, "finish on root@10.0.0.5:22 failed: it has no command poweroff");

    let mut connects = vec![Ok(ED), Ok(ED)];
    connects.extend(vec![Err(ErrorKind::Refused); 2000]);
    let case = Case::new(World::new(connects, |_, _| said("")));
    let Outcome::RolledBack(failure) = case.pre_capture(EndState::On).await else { panic!() };
    assert_eq!(failure.kind, Kind::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn a_script_whose_connection_broke_is_sent_again() {
    let times = Arc::new(Mutex::new(0));
    let counted = times.clone();
    let answers = move |what: &str, _: &Command| {
        let mut times = counted.lock().unwrap();
        *times += 1;
        if what == "generalise" && *times == 1 { Err(error(ErrorKind::Lost)) } else { said("") }
    };
    let case = Case::new(World::new(vec![Ok(ED), Ok(ED), Ok(ED)], answers));
    assert_eq!(case.pre_capture(EndState::Off).await, Outcome::Done(()));
    assert_eq!(*times.lock().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_will_not_pass_is_told_at_once_and_what_may_is_given_its_time() {
    let wait = async |connects: Vec<Result<&'static str, ErrorKind>>| {
        let began = tokio::time::Instant::now();
        let case = Case::new(World::new(connects, |_, _| said("")));
        let result = Linux.wait_ready(case.guest(), &CancellationToken::new()).await;
        (result.map_err(|e| e.kind), began.elapsed())
    };
    let (result, took) = wait(vec![Err(ErrorKind::HostKeyChanged)]).await;
    assert_eq!((result.unwrap_err(), took), (ErrorKind::HostKeyChanged, Duration::ZERO));
    // The account's keys may come a little later than the server.
    let (result, _) = wait(vec![Err(ErrorKind::LoginRefused), Err(ErrorKind::LoginRefused), Ok(ED)]).await;
    assert!(result.is_ok());
    let (result, took) = wait(vec![Err(ErrorKind::LoginRefused); 100]).await;
    assert_eq!((result.unwrap_err(), took), (ErrorKind::LoginRefused, Duration::from_secs(30)));
    let (result, took) = wait(vec![Err(ErrorKind::Refused); 5000]).await;
    assert_eq!(result.unwrap_err(), ErrorKind::Refused);
    assert!(took > Duration::from_secs(599) && took <= Duration::from_secs(600), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn waiting_is_given_up_at_once() {
    let case = Case::new(World::new(vec![Err(ErrorKind::Refused); 5000], |_, _| said("")));
    let cancel = CancellationToken::new();
    let guest = case.guest();
    let (result, ()) = tokio::join!(Linux.wait_ready(guest, &cancel), async {
        // why: somewhere in the middle of the waiting, which says nothing of itself
        tokio::time::sleep(Duration::from_secs(5)).await;
        cancel.cancel();
    });
    assert_eq!(result.unwrap_err().kind, ErrorKind::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn power_takes_no_identity() {
    let case = Case::new(World::new(vec![Ok(ED), Ok(ED)], |_, _| said("")));
    Linux.shutdown(case.guest()).await.unwrap();
    Linux.reboot(case.guest()).await.unwrap();
    let expected = ["connect old", "run finish keep off", "connect old", "run finish keep reboot"];
    assert_eq!(case.world.log(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_survey_counts() {
    let answers = |what: &str, _: &Command| {
        assert_eq!(what, "generalise 1");
        said(
            "changed\tmachine-id\tx\nchanged\tssh host key\ta\nchanged\tssh host key\tb\nkeep\tuser alice\nnote\tlook\n",
        )
    };
    let case = Case::new(World::new(vec![Ok(ED)], answers));
    let survey = Linux.survey(case.guest()).await.unwrap();
    assert_eq!(survey.would_change, ["machine-id", "2 ssh host keys"]);
    assert_eq!(survey.would_keep, ["user alice", "look"]);
}

/// Hooks that are run here, with the guest's folder for them somewhere else.
fn hooked(hooks: &[(&str, u32, &str)], stage: &str) -> (Case, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(format!("{stage}.d"));
    std::fs::create_dir(&folder).unwrap();
    for (name, mode, text) in hooks {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(*mode)).unwrap();
    }
    let guest_folder = dir.path().join("guest").to_str().unwrap().to_owned();
    let answers = move |what: &str, command: &Command| {
        if what != "hook" {
            return said(KEYS);
        }
        use std::io::Write as _;
        let line = command.line.replace("/var/lib/vcld", &guest_folder);
        let mut child = std::process::Command::new("sh")
            .args(["-c", &line])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&command.input).unwrap();
        drop(stdin);
        let out = child.wait_with_output().unwrap();
        Ok(Output { status: out.status.code().unwrap_or(-1), stdout: out.stdout, stderr: out.stderr })
    };
    let mut case = Case::new(World::new(vec![Ok(ED); 10], answers));
    case.hooks = Some(Utf8PathBuf::try_from(dir.path().to_owned()).unwrap());
    (case, dir)
}

#[tokio::test(start_paused = true)]
async fn hooks_run_in_order_and_leave_nothing() {
    let show = |dir: &str| format!("#!/bin/sh\necho $0 $VCLD_STAGE $VCLD_COMPUTER >>{dir}/ran\n");
    let (case, dir) = hooked(&[], "post_load");
    let folder = dir.path().join("post_load.d");
    let text = show(dir.path().to_str().unwrap());
    for (name, mode) in
        [("20-b", 0o755), ("10-a", 0o755), ("README", 0o644), ("30-c.bak", 0o755), (".x", 0o755)]
    {
        std::fs::write(folder.join(name), &text).unwrap();
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    assert!(matches!(case.post_load().await, Outcome::Done(_)));
    let ran = std::fs::read_to_string(dir.path().join("ran")).unwrap();
    assert_eq!(ran.lines().count(), 2, "{ran}");
    assert!(ran.lines().all(|l| l.ends_with(" post_load gis-01")), "{ran}");
    assert_eq!(std::fs::read_dir(dir.path().join("guest")).unwrap().count(), 0);
    assert_eq!(case.world.log().iter().filter(|l| *l == "run hook").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_fails_fails_the_step_with_its_last_words() {
    let (case, _dir) = hooked(
        &[
            (
                "10-bad",
                0o755,
                "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; done; exit 3\n",
            ),
            ("20-never", 0o755, "#!/bin/sh\nexit 0\n"),
        ],
        "pre_capture",
    );
    let failure = failure(case.pre_capture(EndState::Off).await);
    assert_eq!(failure.kind, Kind::Fatal);
    let expected = "10-bad failed with status 3 on root@10.0.0.5:22: line 3 / line 4";
    assert!(failure.message.contains(expected), "{}", failure.message);
    assert!(failure.message.ends_with("line 12"), "{}", failure.message);
    assert_eq!(case.world.log(), ["connect old", "run hook"]);
}

#[tokio::test(start_paused = true)]
async fn the_plan_names_the_steps_that_are_run() {
    let names = |end| Linux.plan(end).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(None), ["wait for ssh", "give identity", "set up guest", "run post_load hooks"]);
    assert_eq!(names(Some(EndState::Off)), ["run pre_capture hooks", "generalise", "finish"]);
    for name in names(None).into_iter().chain(names(Some(EndState::On))).chain(["sanitize"]) {
        assert!(super::STEPS.iter().any(|step| step.name() == name), "{name}");
    }
}
