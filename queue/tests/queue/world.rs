//! A database of its own for each test, with three computers and an image, on the engine of the suite.

use super::ENGINE;
use chrono::{DateTime, Utc};
use vcl_queue::testing::MariaDbServer;
use vcl_queue::{
    Assignment, Claim, ClaimLimits, ClassRow, Engine, Lending, MariaDb, NewJob, NewReservation, Places,
    Queue, Result,
};
use vcl_types::lending::{Purpose, ReservationRequest, Times, Wish};
use vcl_types::state::job::Event;
use vcl_types::{
    After, CaptureInto, Computer, ComputerName, DiskRecord, Hardware, JobId, JobRequest, Loaded, Manifest,
    OsName, ReservationId,
};

pub const NODE: &str = "node-1";

pub struct World {
    pub queue: Queue,
    pub dir: tempfile::TempDir,
    /// The file's path or the server's URL.
    pub address: String,
}

/// Opens a database by its address.
pub async fn open(address: &str) -> Result<Queue> {
    match ENGINE {
        Engine::Sqlite => Queue::open(address).await,
        Engine::MariaDb => Queue::connect(&server(address)).await,
    }
}
pub fn server(address: &str) -> MariaDb {
    MariaDb::new(address).password(Some(MariaDbServer::password()))
}

impl World {
    /// Nothing in it.
    pub async fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = match ENGINE {
            Engine::Sqlite => dir.path().join("vcl.db").display().to_string(),
            Engine::MariaDb => MariaDbServer::shared().database().await.url,
        };
        Self { queue: open(&address).await.unwrap(), dir, address }
    }
    /// Computers `a`, `b` and `c`; image `debian` with revision 1.
    pub async fn new() -> Self {
        let world = Self::empty().await;
        let computers = ["a", "b", "c"].map(|name| computer(name, "kvm1"));
        world.queue.apply_computers(&computers, false).await.unwrap();
        world.queue.rebuild_from(&[manifest("debian", 1)]).await.unwrap();
        world
    }
    /// As if the process had ended and another one had begun.
    pub async fn reopen(&mut self) {
        self.queue.close().await;
        self.queue = open(&self.address).await.unwrap();
    }
    pub async fn submit(&self, request: JobRequest) -> Result<JobId> {
        self.queue.submit(NewJob { request, requester: "ann".into(), backend: None, host: None }).await
    }
    pub async fn claim(&self) -> Option<Claim> {
        self.queue.claim(NODE, &ClaimLimits::default()).await.unwrap()
    }
    /// A job that runs.
    pub async fn running(&self, request: JobRequest) -> Claim {
        let id = self.submit(request).await.unwrap();
        let claim = self.claim().await.unwrap();
        assert_eq!(claim.id(), id);
        claim
    }
    pub async fn done(&self, claim: &Claim) {
        self.queue.finish(claim, Event::Done, None, None).await.unwrap();
    }
}

pub fn name(name: &str) -> ComputerName {
    name.parse().unwrap()
}

pub fn computer(name: &str, backend: &str) -> Computer {
    Computer {
        name: name.parse().unwrap(),
        backend: backend.parse().unwrap(),
        cpus: None,
        memory: None,
        nics: Vec::new(),
        tags: Vec::new(),
    }
}

pub fn load(computer: &str, image: &str) -> JobRequest {
    JobRequest::Load { computer: name(computer), image: image.parse().unwrap() }
}
pub fn unload(computer: &str) -> JobRequest {
    JobRequest::Unload { computer: name(computer) }
}
pub fn capture(computer: &str, into: CaptureInto) -> JobRequest {
    JobRequest::Capture {
        computer: name(computer),
        into,
        after: After::Release,
        power_on: false,
        note: None,
        whole: false,
    }
}
pub fn import(image: &str) -> JobRequest {
    JobRequest::Import {
        image: image.parse().unwrap(),
        path: "/tmp/disk.qcow2".into(),
        boot: None,
        hardware: None,
        os: OsName::Linux,
        note: None,
    }
}
pub fn delete(image: &str) -> JobRequest {
    JobRequest::DeleteImage { image: image.parse().unwrap(), now: false }
}

pub fn manifest(image: &str, revision: u32) -> Manifest {
    let digest = vcl_types::Digest::from_bytes([7; 32]);
    Manifest {
        version: 1,
        image: image.parse().unwrap(),
        revision,
        parent: None,
        os: OsName::Linux,
        generalised: false,
        hardware: Hardware::default(),
        disks: vec![DiskRecord {
            file: "disk0.qcow2".into(),
            format: "qcow2".into(),
            virtual_size: vcl_types::ByteSize::gibibytes(1),
            file_size: vcl_types::ByteSize::mebibytes(300),
            file_digest: digest.clone(),
            content_digest: digest,
            over: None,
        }],
        firmware: None,
        boot: None,
        boot_files: Vec::new(),
        backend: None,
        job: None,
        created: chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
        note: None,
    }
}

pub fn loaded(image: &str) -> Loaded {
    Loaded {
        image: image.parse().unwrap(),
        endpoint: vcl_types::Endpoint {
            address: "192.0.2.7".parse().unwrap(),
            port: 22,
            user: "root".into(),
            host_keys: vcl_types::HostKeys::first_use(),
        },
        since: chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
    }
}

/// The whole chain of an error, as a person sees it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        text = format!("{text}: {e}");
        next = e.source();
    }
    text
}

/// A reservation of an hour, for Ann, from now on.
pub fn new(now: DateTime<Utc>) -> NewReservation {
    let asked: ReservationRequest = serde_json::from_value(serde_json::json!({ "image": "debian" })).unwrap();
    NewReservation {
        owner: "ann".into(),
        group: None,
        purpose: Purpose::Use,
        class: None,
        asked,
        times: Times::default(),
        now,
        start: now,
        end: None,
        length_s: Some(3600),
        booked: None,
        shown: None,
        hours: None,
    }
}

/// A class of three seats on a Monday; anybody may take them.
pub fn class(now: DateTime<Utc>) -> ClassRow {
    ClassRow {
        id: 0,
        name: "maps".into(),
        image: "debian".parse().unwrap(),
        seats: 3,
        weekly: "Mon 10-12".parse().unwrap(),
        wish: Wish { cpus: Some(4), ..Wish::default() },
        group: None,
        owner: "teacher".into(),
        from: now,
        until: None,
    }
}

pub async fn reserved(world: &World, now: DateTime<Utc>) -> ReservationId {
    world.queue.reserve(new(now)).await.unwrap()
}

pub async fn assigned(
    world: &World,
    id: ReservationId,
    computer: &ComputerName,
    now: DateTime<Utc>,
) -> JobId {
    let assignment = Assignment {
        reservation: id,
        computer: computer.clone(),
        image: "debian@1".parse().unwrap(),
        now,
        end: world.queue.reservation(id).await.unwrap().end,
        places: Places::default(),
        host: None,
    };
    world.queue.assign(assignment).await.unwrap()
}

pub async fn claimed(world: &World, job: JobId) -> Claim {
    let claim = world.claim().await.unwrap();
    assert_eq!(claim.id(), job);
    claim
}

/// Its computer is loaded for it and usable; the job that did it is not over.
pub async fn ready(world: &World, id: ReservationId, computer: &ComputerName, now: DateTime<Utc>) -> Claim {
    let claim = loading(world, id, computer, now).await;
    world.queue.usable(&claim, "usable", id, now).await.unwrap();
    claim
}

/// Its computer is loaded for it, and not handed over yet.
pub async fn loading(world: &World, id: ReservationId, computer: &ComputerName, now: DateTime<Utc>) -> Claim {
    let queue = &world.queue;
    let claim = claimed(world, assigned(world, id, computer, now).await).await;
    queue.begin_lending(&claim, "give", id, computer, Lending::Load).await.unwrap();
    queue.filled(&claim, "fill", computer, &loaded("debian@1"), false).await.unwrap();
    queue.taint(&claim, computer).await.unwrap();
    claim
}
