//! Two daemons on one MariaDB and one simulated site: a queue full of jobs, and everything dies once while it is worked off.
//!
//! A chain of jobs is queued for each computer: load, unload, load … half of them through each node, most while both are
//! drained. Then the nodes claim, and one is killed, one stands still for longer than its lease while it holds locks of the
//! database, the database is killed, and one is stopped and comes back as the next version, each time with jobs under way
//! and more coming. In the end every job is done, the world is what its log says, no lease came back after another had
//! followed it, and what the queue believes of each computer is what there is.
//!
//! `VCL_FULL=1`: a thousand computers and ten thousand jobs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};
use vcl_provisioning::sim::{Effect, World};
use vcl_queue::testing::MariaDbServer;
use vcl_queue::{JobFilter, Queue};
use vcl_tests::daemon::{Daemon, Setup, Shared, Simulated};
use vcl_types::api::{JobView, NodeView};
use vcl_types::state::{computer, job, node};
use vcl_types::{ImageRef, JobRequest};
use vclctl::Client;

/// How much of everything.
struct Size {
    computers: usize,
    /// How many jobs each computer gets, before each of the four troubles and after the last: an odd sum ends loaded, an
    /// even one unloaded.
    rounds: [usize; 5],
    lease: u64,
    /// How long the database is away.
    away: Duration,
}

struct Site {
    size: Size,
    /// How many jobs each computer has had.
    jobs: usize,
    daemons: BTreeMap<&'static str, Daemon>,
    server: MariaDbServer,
    queue: Queue,
    world: std::sync::Arc<World>,
    directory: Utf8PathBuf,
    began: Instant,
    _directory: tempfile::TempDir,
}

impl Site {
    async fn new(size: Size) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("vcl-nodes-").tempdir()?;
        let path = Utf8Path::from_path(directory.path()).unwrap().to_owned();
        let (key, disk) = (path.join("id"), path.join("tiny.qcow2"));
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
        ensure!(Command::new("ssh-keygen").args(words).status()?.success());
        let words = ["create", "-q", "-f", "qcow2", disk.as_str(), "8M"];
        ensure!(Command::new("qemu-img").args(words).status()?.success());
        std::fs::create_dir_all(path.join("library"))?;
        let server = MariaDbServer::start()?;
        let database = server.database().await;
        let mut daemons = BTreeMap::new();
        let computers = format!("sim-[0001-{:04}]", size.computers);
        for name in ["a", "b"] {
            let home = path.join(name);
            std::fs::create_dir_all(&home)?;
            let mut setup = Setup::new(&home, &key, &[&computers]);
            setup.node = name.into();
            setup.database = Some(database.url.clone());
            setup.library = Some(path.join("library"));
            setup.machines = Some(path.join("machines"));
            setup.simulated = Some(Simulated { at_once: 20, delay: "20ms" });
            setup.shared = Some(Shared {
                password: MariaDbServer::password().expose().to_owned(),
                lease: format!("{}s", size.lease),
            });
            daemons.insert(name, Daemon::start(setup)?);
        }
        let queue = Queue::connect(&database).await?;
        let world = World::open(path.join("machines"))?;
        let imported: JobView = daemons["a"].json(&["image", "import", "tiny", disk.as_str()])?;
        ensure!(imported.state == job::State::Done, "{imported:?}");
        let (directory, _directory) = (path, directory);
        Ok(Self {
            size,
            jobs: 0,
            daemons,
            server,
            queue,
            world,
            directory,
            began: Instant::now(),
            _directory,
        })
    }
    fn client(&self, node: &str) -> Result<Client> {
        Ok(Client::new(self.directory.join(node).join("vcld.sock").as_std_path())?)
    }
    fn daemon(&mut self, node: &str) -> &mut Daemon {
        self.daemons.get_mut(node).unwrap()
    }
    fn total(&self) -> u64 {
        (self.size.computers * self.jobs) as u64
    }
    fn say(&self, what: &str) {
        eprintln!("{:7.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// Queues some more jobs for every computer, each computer's through one of these nodes.
    async fn submit(&mut self, rounds: usize, via: [&'static str; 2]) -> Result<()> {
        let image: ImageRef = "tiny".parse()?;
        let mut tasks = tokio::task::JoinSet::new();
        for part in 0..8 {
            let client = self.client(via[part % 2])?;
            let (computers, had, image) = (self.size.computers, self.jobs, image.clone());
            tasks.spawn(async move {
                for n in (0..computers).filter(|n| n % 8 == part) {
                    for round in had..had + rounds {
                        let computer = format!("sim-{:04}", n + 1).parse()?;
                        let request = match round % 2 {
                            0 => JobRequest::Load { computer, image: image.clone() },
                            _ => JobRequest::Unload { computer },
                        };
                        client.submit_as(&request, true).await?;
                    }
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        self.jobs += rounds;
        Ok(())
    }
    /// Waits until some of the newest jobs are over, and most are not.
    async fn until_under_way(&self) -> Result<()> {
        let newest = (self.size.computers / 8) as u64;
        self.until_done(self.total() - self.size.computers as u64 + newest).await
    }
    async fn drain(&self, drained: bool) -> Result<()> {
        for name in self.daemons.keys() {
            self.client("a")?.drain(name, drained).await?;
        }
        Ok(())
    }
    /// How many jobs are over, not counting the import; `None` while nobody can say.
    async fn done(&self) -> Option<u64> {
        for name in self.daemons.keys() {
            let asked = tokio::time::timeout(Duration::from_secs(3), self.client(name).ok()?.status()).await;
            if let Ok(Ok(status)) = asked {
                // The status has no numbers of what is over.
                let open = ["queued", "running", "waiting", "stuck"];
                let open = status.jobs.iter().filter(|count| open.contains(&&*count.name));
                return Some(self.total().saturating_sub(open.map(|count| count.count).sum()));
            }
        }
        None
    }
    async fn until_done(&self, wanted: u64) -> Result<()> {
        let mut newest = (Instant::now(), 0);
        loop {
            if let Some(done) = self.done().await {
                if done >= wanted {
                    return Ok(());
                }
                if done > newest.1 {
                    newest = (Instant::now(), done);
                }
            }
            ensure!(
                newest.0.elapsed() < Duration::from_secs(120),
                "no job has ended for two minutes; {} of {} are done; a's log:\n{}\nb's log:\n{}",
                newest.1,
                self.total(),
                self.daemons["a"].log_tail(),
                self.daemons["b"].log_tail()
            );
            tokio::time::sleep(Duration::from_millis(200)).await; // why: the test looks as a person would
        }
    }
    /// Waits until a node asked at another looks as wanted, and says how long it took.
    async fn until_node(&self, at: &str, of: &str, wanted: impl Fn(&NodeView) -> bool) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let row = self.client(at)?.node(of).await;
            if row.as_ref().is_ok_and(&wanted) {
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < Duration::from_secs(90), "node {of} is {row:?}");
            tokio::time::sleep(Duration::from_millis(100)).await; // why: as above
        }
    }

    /// Stops `a`, in the middle of a transaction if it can be met there, where it keeps locks that the other needs for
    /// everything. Answers whether it was.
    async fn freeze_holding_locks(&mut self) -> Result<bool> {
        for _ in 0..500 {
            self.daemon("a").signal(Signal::STOP)?;
            let mut looks = 0;
            // The other's transactions come and go: only one that stays is a's.
            while looks < 20 && self.server.standing().await? > 0 {
                looks += 1;
            }
            if looks == 20 {
                return Ok(true);
            }
            self.daemon("a").signal(Signal::CONT)?;
        }
        self.daemon("a").signal(Signal::STOP)?;
        Ok(false)
    }

    /// What must hold when all jobs are over.
    async fn holds(&self) -> Result<()> {
        let all = JobFilter { limit: 1_000_000, ..JobFilter::default() };
        let jobs = self.queue.jobs(&all).await?;
        assert_eq!(jobs.len() as u64, self.total() + 1, "with the import");
        for job in &jobs {
            assert_eq!(job.state, job::State::Done, "{job:?}");
        }
        assert_eq!(self.world.differing()?, Vec::<String>::new());
        assert_eq!(self.world.refusals()?, []);
        let world = self.world.snapshot()?;
        let loads = self.jobs.div_ceil(2);
        for row in self.queue.computers().await? {
            let name = format!("vcl-{}", row.computer.name);
            let loaded = self.jobs % 2 == 1;
            let state = if loaded { computer::State::Reserved } else { computer::State::Available };
            assert_eq!((row.state, row.job), (state, None), "{name}");
            assert_eq!(row.loaded.is_some(), loaded, "{name}");
            assert_eq!(world.contains_key(&name), loaded, "what the queue believes of {name} is so");
            let log = self.world.log(&name)?;
            // Each job's work is one piece of the log, and none begins twice.
            let mut order: Vec<&str> = log.iter().filter_map(|l| Some(&*l.hand.as_ref()?.job)).collect();
            order.dedup();
            assert_eq!(order.len(), self.jobs, "{name}: {order:?}");
            let defined = log.iter().filter(|line| matches!(line.effect, Effect::Define { .. })).count();
            assert_eq!(defined, loads, "{name} was made once for each load");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_end_every_job_once_whatever_dies() -> Result<()> {
    let full = std::env::var_os("VCL_FULL").is_some();
    let size = match full {
        true => Size { computers: 1000, rounds: [6, 1, 1, 1, 1], lease: 15, away: Duration::from_secs(25) },
        false => Size { computers: 120, rounds: [1, 1, 1, 1, 1], lease: 6, away: Duration::from_secs(10) },
    };
    let rounds = size.rounds;
    let mut site = Site::new(size).await?;
    site.say("two nodes are up");
    site.drain(true).await?;
    site.submit(rounds[0], ["a", "b"]).await?;
    site.say(&format!("{} jobs are queued", site.total()));
    site.drain(false).await?;
    let working = Instant::now();

    site.until_done(site.total() / 8).await?;
    site.daemon("b").kill()?;
    let took = site.until_node("a", "b", |row| row.state == node::State::Dead).await?;
    site.say(&format!("b was killed, and given up after {took:.1?}"));
    site.submit(rounds[1], ["a", "a"]).await?;
    site.daemon("b").up()?;
    site.until_node("a", "b", |row| row.state == node::State::Alive).await?;
    site.say("b is back");

    site.until_under_way().await?;
    let holding = if site.freeze_holding_locks().await? { "with" } else { "without" };
    let took = site.until_node("b", "a", |row| row.state == node::State::Dead).await?;
    site.say(&format!("a stands still {holding} locks in its hands, and was given up after {took:.1?}"));
    site.submit(rounds[2], ["b", "b"]).await?;
    site.until_under_way().await?;
    site.daemon("a").signal(Signal::CONT)?;
    let took = site.until_node("b", "a", |row| row.state == node::State::Alive).await?;
    site.say(&format!("a goes on, and has joined again after {took:.1?}"));

    site.submit(rounds[3], ["a", "b"]).await?;
    site.until_under_way().await?;
    site.server.kill();
    site.say("the database is killed");
    tokio::time::sleep(site.size.away).await; // why: it is to be away for so long
    tokio::task::block_in_place(|| site.server.start_again())?;
    let back = Instant::now();
    site.until_done(site.total()).await.context("after the database's return")?;
    site.say(&format!("all of them ended {:.1?} after the database's return", back.elapsed()));

    site.submit(rounds[4], ["a", "b"]).await?;
    site.until_under_way().await?;
    site.daemon("b").stop()?;
    let next = [(vcl_queue::testing::SCHEMA, "next")];
    site.daemon("b").set_environment(&next);
    site.daemon("b").up()?;
    site.until_node("a", "b", |row| row.state == node::State::Alive).await?;
    site.say("b is back as the next version");

    site.until_done(site.total()).await?;
    let (seconds, total) = (working.elapsed().as_secs_f64(), site.total());
    site.say(&format!("{total} jobs in {seconds:.0} s, with all that: {:.1}/s", total as f64 / seconds));
    site.holds().await?;
    for name in ["a", "b"] {
        site.daemon(name).stop()?;
    }
    Ok(())
}
