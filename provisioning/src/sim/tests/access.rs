//! What is granted in a simulated guest, who gets in by it, and that nothing of it stays.

use super::*;
use std::os::unix::fs::PermissionsExt as _;
use vcl_os::{Guest, Os as _};
use vcl_types::{Access, Account, ConnectMethod, Reach, ReservationId, Secret};

const MACHINE: &str = "vcl-gis-01";

fn access(accounts: &[&str], from: Reach) -> Access {
    let account =
        |name: &&str| Account { name: name.parse().unwrap(), ssh_keys: Vec::new(), sudo: false, uid: None };
    Access {
        reservation: ReservationId(1),
        accounts: accounts.iter().map(account).collect(),
        methods: vec![ConnectMethod { name: "ssh".into(), port: 22, service: None, script: None }],
        from,
        keep: Vec::new(),
        facts: Default::default(),
        user_data: None,
    }
}

struct Seat {
    bench: Bench,
    computer: Computer,
    endpoint: Endpoint,
    remotes: MockRemotes,
    hooks: Option<camino::Utf8PathBuf>,
}

impl Seat {
    async fn loaded() -> Self {
        let bench = Bench::new();
        let revision = bench.revision("debian.qcow2", true);
        let Outcome::Done(endpoint) = bench.load("gis-01", &revision).await else { panic!() };
        let computer = bench.computer("gis-01");
        Self { bench, computer, endpoint, remotes: MockRemotes::new(), hooks: None }
    }
    fn guest(&self) -> Guest<'_> {
        Guest {
            computer: &self.computer,
            endpoint: &self.endpoint,
            remotes: &self.remotes,
            hooks: self.hooks.as_deref(),
            limits: vcl_os::Limits::default(),
            generalised: true,
        }
    }
    async fn grant(&self, access: &Access) -> Outcome<()> {
        self.bench
            .job(async |sim, job| sim.os.grant(&mut job.part("grant"), self.guest(), access).await)
            .await
    }
    async fn sanitize(&self) -> Outcome<()> {
        self.bench.job(async |sim, job| sim.os.sanitize(&mut job.part("sanitize"), self.guest()).await).await
    }
    fn world(&self) -> &World {
        &self.bench.sim.world
    }
    async fn there(&self) -> Vec<String> {
        let sessions = self.bench.sim.os.sessions(self.guest()).await.unwrap();
        sessions
            .into_iter()
            .map(|s| format!("{} {} {}", s.account.unwrap(), s.method, s.from.unwrap()))
            .collect()
    }
}

fn user(account: &str, from: &str) -> User {
    User { account: account.into(), method: "ssh".into(), from: from.parse().unwrap() }
}

#[tokio::test]
async fn who_was_let_in_is_seen_and_nobody_else() {
    let seat = Seat::loaded().await;
    seat.world().connect(MACHINE, &user("alice", "10.0.0.9")).unwrap();
    assert_eq!(seat.there().await, Vec::<String>::new(), "nothing was granted");
    assert_eq!(seat.grant(&access(&["alice", "bob"], Reach::Everybody)).await, Outcome::Done(()));
    seat.world().connect(MACHINE, &user("bob", "10.0.0.8")).unwrap();
    seat.world().connect(MACHINE, &user("eve", "10.0.0.7")).unwrap();
    assert_eq!(seat.there().await, ["alice ssh 10.0.0.9", "bob ssh 10.0.0.8"]);

    // His address is known now.
    let narrow = access(&["alice", "bob"], Reach::Only(vec!["10.0.0.9/32".parse().unwrap()]));
    assert_eq!(seat.grant(&narrow).await, Outcome::Done(()));
    assert_eq!(seat.there().await, ["alice ssh 10.0.0.9"]);
    let before = seat.world().log(MACHINE).unwrap().len();
    assert_eq!(seat.grant(&narrow).await, Outcome::Done(()));
    let log = seat.world().log(MACHINE).unwrap();
    assert!(log[before..].iter().all(|l| l.effect == Effect::Taken), "granting again changes nothing");

    // Another process sees the same, and a shell may have written it.
    let other = World::open(seat.world().directory()).unwrap();
    other.disconnect(MACHINE, "alice").unwrap();
    assert_eq!(seat.there().await, Vec::<String>::new());
    let file = seat.world().directory().join(format!("machines/{MACHINE}.users"));
    std::fs::write(&file, "nonsense\nalice ssh 10.0.0.9 more\nalice ssh nowhere\n").unwrap();
    assert_eq!(seat.there().await, ["alice ssh 10.0.0.9"]);
}

#[tokio::test]
async fn sanitizing_leaves_nothing_of_anybody() {
    let mut seat = Seat::loaded().await;
    let hooks = seat.bench.directory.path().join("hooks");
    for hook in ["reserve.d/10-home", "method.d/vnc"] {
        let file = hooks.join(hook);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    seat.hooks = Some(camino::Utf8PathBuf::try_from(hooks).unwrap());
    seat.bench.write(MACHINE, "/srv/of-the-image", "stays").await;
    let before = seat.world().machine(MACHINE).await.unwrap().content().unwrap().clone();

    let mut wanted = access(&["alice"], Reach::Everybody);
    wanted.methods[0].script = Some("vnc".into());
    assert_eq!(seat.grant(&wanted).await, Outcome::Done(()));
    seat.bench.write(MACHINE, "/home/alice/work", "mine").await;
    seat.world().connect(MACHINE, &user("alice", "10.0.0.9")).unwrap();
    let os = &seat.bench.sim.os;
    os.password(seat.guest(), &"alice".parse().unwrap(), &Secret::new("x".into())).await.unwrap();
    os.tell(seat.guest(), "ten minutes left").await.unwrap();
    let content = seat.world().machine(MACHINE).await.unwrap().content().unwrap().clone();
    for hook in ["/var/lib/vcld-hooks/reserve/10-home", "/var/lib/vcld-hooks/method/vnc"] {
        assert!(content.files.contains_key(hook), "{hook}: {content:?}");
    }

    assert_eq!(seat.sanitize().await, Outcome::Done(()));
    assert_eq!(seat.world().machine(MACHINE).await.unwrap().content().unwrap(), &before);
    assert!(seat.world().users(MACHINE).unwrap().is_empty());
    assert_eq!(seat.sanitize().await, Outcome::Done(()));
    let nobody = os.password(seat.guest(), &"alice".parse().unwrap(), &Secret::new("x".into())).await;
    assert!(nobody.is_err());
    assert_eq!(seat.world().differing().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_world_refuses_what_a_guest_would() {
    let seat = Seat::loaded().await;
    let failed = async |access: &Access, part: &str| match seat.grant(access).await {
        Outcome::RolledBack(failure) => assert!(failure.message.contains(part), "{}", failure.message),
        other => panic!("{other:?}"),
    };
    let mut wanted = access(&["alice"], Reach::Everybody);
    wanted.methods[0].script = Some("nowhere".into());
    failed(&wanted, "method.d/nowhere").await;
    seat.bench.write(MACHINE, "/home/alice/old", "of the image").await;
    failed(&access(&["alice"], Reach::Everybody), "of its own").await;
    seat.world().by_hand(MACHINE, Effect::CutPower).await.unwrap();
    failed(&access(&["bob"], Reach::Everybody), "is not up").await;
    assert!(seat.bench.sim.os.sessions(seat.guest()).await.is_err());
    assert!(seat.bench.sim.os.tell(seat.guest(), "hello").await.is_err());
}

/// An image has nobody's account in it, and each load begins without any.
#[tokio::test]
async fn a_capture_and_a_load_take_it_away_too() {
    let seat = Seat::loaded().await;
    assert_eq!(seat.grant(&access(&["alice"], Reach::Everybody)).await, Outcome::Done(()));
    let revision = seat.bench.revision("debian.qcow2", true);
    let staging = seat.bench.staging("job1");
    let captured = seat.bench.capture("gis-01", &revision, &seat.endpoint, &staging).await;
    assert!(matches!(captured, Outcome::Done(_)), "{captured:?}");
    let machine = seat.world().machine(MACHINE).await.unwrap();
    assert!(machine.content().is_none_or(|content| content.access.is_none()));
}

#[tokio::test]
async fn clones_have_nothing_in_common_unless_somebody_puts_it_back() {
    let bench = Bench::new();
    let revision = bench.revision("debian.qcow2", true);
    let mut identities = Vec::new();
    for name in ["gis-01", "gis-02"] {
        let Outcome::Done(endpoint) = bench.load(name, &revision).await else { panic!() };
        let (computer, remotes) = (bench.computer(name), MockRemotes::new());
        let target = bench.target(&computer, &revision, &remotes, Some(&endpoint));
        let before = bench.sim.os.identity(target.guest(&endpoint)).await.unwrap();
        bench.write(&format!("vcl-{name}"), "/etc/machine-id", "4444eeee4444eeee4444eeee4444eeee").await;
        identities.push((before, bench.sim.os.identity(target.guest(&endpoint)).await.unwrap()));
    }
    assert_eq!(identities[0].0.shared(&identities[1].0), []);
    let shared = identities[0].1.shared(&identities[1].1);
    assert_eq!(
        shared.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["machine-id 4444eeee4444eeee4444eeee4444eeee"]
    );
}
