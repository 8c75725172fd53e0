//! Backups of real queues and libraries, put back elsewhere.

use super::{Restore, list, restore, verify};
use crate::backup::store::Store;
use crate::node::Node;
use crate::testing::{self, disk, image, import, run, run_all};
use camino::{Utf8Path, Utf8PathBuf};
use std::sync::Arc;
use vcl_config::{Config, Database, KeySource};
use vcl_job::Record;
use vcl_provisioning::MockProvisioning;
use vcl_queue::testing::MariaDbServer;
use vcl_queue::{ClaimLimits, NewJob};
use vcl_types::JobRequest;
use vcl_types::api::PowerState;
use vcl_types::state::{computer, job};

struct Place {
    _directory: tempfile::TempDir,
    root: Utf8PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::try_from(directory.path().to_owned()).unwrap();
        Self { _directory: directory, root }
    }
    async fn node(&self, name: &str) -> Arc<Node> {
        let path = self.root.join(name);
        std::fs::create_dir_all(&path).unwrap();
        let mut backend = MockProvisioning::default();
        backend.calls.expect_state().returning(|_| PowerState::Absent);
        testing::node(&path, name, backend, None).await
    }
    fn backup(&self) -> Utf8PathBuf {
        self.root.join("backup")
    }
    fn request(&self) -> JobRequest {
        JobRequest::Backup { directory: self.backup().into(), node: None }
    }
    fn what(&self, merge: bool) -> Restore {
        Restore { directory: self.backup(), snapshot: None, merge }
    }
}

async fn import_of(node: &Arc<Node>, name: &str, source: &Utf8Path) {
    let job = run(node, import(name, source)).await;
    assert_eq!(job.state, job::State::Done, "{:?}", job.reason);
}

async fn done(node: &Arc<Node>, request: JobRequest) -> String {
    let job = run(node, request).await;
    assert_eq!(job.state, job::State::Done, "{:?}", job.reason);
    job.result.unwrap_or_default()
}

fn objects(backup: &Utf8Path) -> usize {
    std::fs::read_dir(backup.join("objects")).unwrap().count()
}

/// The drill: taken while jobs run, put back on an empty machine, and that works.
#[tokio::test]
async fn a_backup_under_load_is_restored_on_an_empty_machine_and_works_there() {
    let place = Place::new();
    let one = place.node("one").await;
    let sources: Vec<_> = (1..=4).map(|n| disk(&place.root, n)).collect();
    import_of(&one, "debian", &sources[0]).await;
    // Two imports and the backup at the same time.
    let jobs =
        run_all(&one, vec![import("debian", &sources[1]), place.request(), import("gis", &sources[2])]).await;
    assert!(jobs.iter().all(|j| j.state == job::State::Done), "{jobs:?}");
    assert!(one.library.leftovers().unwrap().is_empty());
    assert_eq!(verify(&place.backup(), None).await.unwrap(), Vec::<String>::new());
    // Again: what is there is not copied again.
    let first = objects(&place.backup());
    done(&one, place.request()).await;
    let said = done(&one, place.request()).await;
    assert!(said.contains("0 files") && said.contains("3 revisions"), "{said}");
    assert!(objects(&place.backup()) >= first);
    let shown = list(&place.backup()).unwrap();
    assert_eq!(shown.lines().count(), 3, "{shown}");

    let config = testing::config(&place.root.join("two"));
    let report = restore(&config, "two", &place.what(false)).await.unwrap();
    assert!(report.database && report.restored.len() == 3 && report.lacking.is_empty(), "{report}");
    // The backup's own job had not ended then.
    assert_eq!(report.jobs.len(), 1, "{report}");
    let two = place.node("two").await;
    for name in ["debian@1", "debian@2", "gis@1"] {
        assert_eq!(
            two.library.get(&image(name)).unwrap().manifest,
            one.library.get(&image(name)).unwrap().manifest
        );
        done(&two, JobRequest::Verify { image: image(name) }).await;
    }
    import_of(&two, "debian", &sources[3]).await;
    let out = place.root.join("out.raw");
    done(&two, JobRequest::Export { image: image("gis"), path: out.to_string(), format: "raw".into() }).await;
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&sources[2]).unwrap());
    assert!(two.rescan_findings().await.iter().all(|f| f.found.contains("say the same")));
}

/// A configuration whose database is an empty one of a server's.
async fn on_a_server(path: &Utf8Path) -> Config {
    let mut config = testing::config(path);
    let password = path.join("password");
    std::fs::write(&password, MariaDbServer::password().expose()).unwrap();
    let url = MariaDbServer::shared().database().await.url;
    config.database = Database::MariaDb { url, password: Some(KeySource::File(password)) };
    config
}

async fn node_on(name: &str, config: &Config) -> Arc<Node> {
    let mut backend = MockProvisioning::default();
    backend.calls.expect_state().returning(|_| PowerState::Absent);
    let queue = crate::daemon::database(config).await.unwrap();
    let library = vcl_images::Library::open(&config.library.path).unwrap();
    testing::node_of(name, config.clone(), queue, library, backend, None).await
}

#[tokio::test]
async fn a_backup_of_either_engine_is_restored_into_the_other() {
    let place = Place::new();
    let server = on_a_server(&place.root.join("one")).await;
    let one = node_on("one", &server).await;
    import_of(&one, "debian", &disk(&place.root, 1)).await;
    done(&one, place.request()).await;
    // A server's into a file.
    let file = testing::config(&place.root.join("two"));
    let report = restore(&file, "two", &place.what(false)).await.unwrap();
    assert!(report.database && report.restored == [image("debian@1")], "{report}");
    let two = node_on("two", &file).await;
    done(&two, JobRequest::Verify { image: image("debian@1") }).await;
    import_of(&two, "debian", &disk(&place.root, 2)).await;
    done(&two, place.request()).await;
    // The file's into another server's; into one that is not empty only with `merge`, and then it stays.
    let other = on_a_server(&place.root.join("three")).await;
    let report = restore(&other, "three", &place.what(false)).await.unwrap();
    assert!(report.database && report.restored.len() == 2, "{report}");
    let e = restore(&other, "three", &place.what(false)).await.unwrap_err();
    assert!(format!("{e}").contains("is not empty") && format!("{e}").contains("--merge"), "{e}");
    assert!(!restore(&other, "three", &place.what(true)).await.unwrap().database);
    let three = node_on("three", &other).await;
    for name in ["debian@1", "debian@2"] {
        done(&three, JobRequest::Verify { image: image(name) }).await;
    }
    import_of(&three, "debian", &disk(&place.root, 3)).await;
    assert_eq!(three.queue.next_revision(&"debian".parse().unwrap()).await.unwrap(), 4);
    for node in [one, two, three] {
        node.queue.close().await;
    }
}

#[tokio::test]
async fn what_is_damaged_or_not_complete_is_found() {
    let place = Place::new();
    let one = place.node("one").await;
    import_of(&one, "debian", &disk(&place.root, 1)).await;
    done(&one, place.request()).await;
    // A snapshot that was cut short does not count.
    std::fs::create_dir(place.backup().join("snapshots/2999-01-01T00-00-00Z-job9")).unwrap();
    assert!(list(&place.backup()).unwrap().contains("not complete"));
    let store = Store::open(&place.backup()).unwrap();
    let snapshot = store.snapshots().unwrap().remove(0);
    let listing = store.listings(&snapshot).await.unwrap().remove(0);
    let file = listing.files.iter().find(|f| f.name == "disk0.qcow2").unwrap();
    let object = place.backup().join("objects").join(file.digest.as_str());
    let sound = std::fs::read(&object).unwrap();
    let mut bytes = sound.clone();
    bytes[1000] ^= 1;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&object, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&object, bytes).unwrap();
    let wrong = verify(&place.backup(), None).await.unwrap();
    assert!(wrong.len() == 1 && wrong[0].contains("disk0.qcow2 of debian@1"), "{wrong:?}");
    let config = testing::config(&place.root.join("two"));
    let e = restore(&config, "two", &place.what(false)).await.unwrap_err();
    assert!(format!("{e:#}").contains("damaged"), "{e:#}");
    assert!(
        vcl_images::Library::open(&config.library.path).unwrap().revisions().unwrap().revisions.is_empty()
    );
    // With the object as it was, the same goes on.
    std::fs::write(&object, sound).unwrap();
    restore(&config, "two", &place.what(true)).await.unwrap();
    // A list of revisions that somebody changed.
    std::fs::write(snapshot.directory.join("revisions.json"), "[]").unwrap();
    assert!(verify(&place.backup(), None).await.unwrap()[0].contains("revisions.json"));
    // Something else's directory, and one in the library.
    std::fs::write(place.root.join("note"), "").unwrap();
    for (directory, why) in
        [(place.root.clone(), "holds something else"), (place.root.join("one/library/x"), "in the library")]
    {
        let job = run(&one, JobRequest::Backup { directory: directory.into(), node: None }).await;
        assert!(
            job.state == job::State::Failed && job.reason.as_ref().unwrap().contains(why),
            "{:?}",
            job.reason
        );
    }
}

/// Jobs that had not ended do not go on, and what they were at is set aside.
#[tokio::test]
async fn jobs_of_a_backup_do_not_go_on() {
    let place = Place::new();
    let one = place.node("one").await;
    import_of(&one, "debian", &disk(&place.root, 1)).await;
    let new = |request| NewJob { request, requester: "tester".into(), backend: None, host: None };
    let load = JobRequest::Load { computer: "a".parse().unwrap(), image: image("debian") };
    let loading = one.queue.submit(new(load)).await.unwrap();
    let claim = one.queue.claim("one", &ClaimLimits::default()).await.unwrap().unwrap();
    assert_eq!(claim.id(), loading);
    let record = Record::Undone { key: "take computer".into() };
    one.queue.journal(&claim).append(&record).await.unwrap();
    let queued = one.queue.submit(new(JobRequest::Verify { image: image("debian") })).await.unwrap();
    // Only the backup is worked on: the others stay as they are.
    let elsewhere = JobRequest::Backup { directory: place.backup().into(), node: Some("one".into()) };
    let backup = one.submit(elsewhere, "tester").await.unwrap().job;
    one.queue.cancel(queued).await.unwrap();
    let waiting =
        one.queue.submit(new(JobRequest::DeleteImage { image: image("debian@1"), now: true })).await;
    assert!(waiting.is_err(), "the load reads it");
    let stop = crate::worker::Stop::default();
    let mut changes = one.queue.submitted();
    let (member, _) = one.queue.join(&one.as_member()).await.unwrap();
    let working = tokio::spawn(crate::worker::work(one.clone(), member, stop.clone()));
    while !one.job(backup).await.unwrap().state.is_final() {
        changes.changed().await.unwrap();
    }
    stop.drain.cancel();
    working.await.unwrap().unwrap();
    let config = testing::config(&place.root.join("two"));
    let report = restore(&config, "two", &place.what(false)).await.unwrap();
    assert_eq!((report.jobs, report.computers), (vec![loading, backup], vec!["a".to_owned()]));
    let two = place.node("two").await;
    let ended = two.job(loading).await.unwrap();
    assert_eq!(ended.state, job::State::Failed);
    assert!(ended.reason.unwrap().contains("the world has moved on"));
    let a = two.computer(&"a".parse().unwrap()).await.unwrap();
    assert_eq!((a.state, a.job), (computer::State::Maintenance, None));
    assert!(a.reason.unwrap().contains("vclctl unload a"));
    assert_eq!(two.queue.recover("two").await.unwrap(), []);
}

/// An older database with a newer library, and the other way round: both end consistent, and it is said what is missing.
#[tokio::test]
async fn a_database_and_a_library_of_different_times_are_reconciled() {
    let place = Place::new();
    let one = place.node("one").await;
    import_of(&one, "debian", &disk(&place.root, 1)).await;
    import_of(&one, "debian", &disk(&place.root, 2)).await;
    done(&one, place.request()).await;
    import_of(&one, "debian", &disk(&place.root, 3)).await;
    done(&one, JobRequest::DeleteImage { image: image("debian@1"), now: true }).await;
    one.queue.close().await;

    // The library is newer: the database was lost.
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.root.join(format!("one/vcld.db{end}")));
    }
    let config = testing::config(&place.root.join("one"));
    let e = restore(&config, "one", &place.what(false)).await.unwrap_err();
    assert!(format!("{e}").contains("--merge"), "{e}");
    let report = restore(&config, "one", &place.what(true)).await.unwrap();
    assert_eq!((report.added, report.restored), (vec![image("debian@3")], vec![image("debian@1")]));
    assert!(report.database && report.lacking.is_empty());
    let one = place.node("one").await;
    assert_eq!(one.image(&"debian".parse().unwrap()).await.unwrap().revisions.len(), 3);
    assert_eq!(one.queue.next_revision(&"debian".parse().unwrap()).await.unwrap(), 4);

    // The database is newer: the library was lost, and the snapshot has not all of it.
    std::fs::remove_dir_all(place.root.join("one/library")).unwrap();
    one.queue.close().await;
    let config = testing::config(&place.root.join("one"));
    let e = restore(&config, "one", &place.what(false)).await.unwrap_err();
    assert!(format!("{e}").contains("--merge"), "{e}");
    let report = restore(&config, "one", &place.what(true)).await.unwrap();
    assert!(!report.database && report.jobs.is_empty());
    assert_eq!((report.restored.len(), report.lacking), (2, vec![image("debian@3")]));
    let one = place.node("one").await;
    one.rescan_at_start().await.unwrap();
    let events = one.queue.last_events(50).await.unwrap();
    assert!(events.iter().any(|e| e.kind == "revision-lost" && e.message.contains("debian@3")));
    let findings = one.rescan_findings().await;
    assert!(
        findings
            .iter()
            .any(|f| f.found.contains("debian@3") && f.way_out.as_ref().unwrap().contains("restore"))
    );
    // A load of what is lost says why it cannot be; one of what is here goes on. Giving it up ends it.
    let verify = JobRequest::Verify { image: image("debian@2") };
    done(&one, verify).await;
    done(&one, JobRequest::DeleteImage { image: image("debian@3"), now: true }).await;
    assert!(one.rescan_findings().await.iter().all(|f| f.found.contains("say the same")));
    // A revision whose files were put there by hand gets its row.
    let other = place.node("other").await;
    import_of(&other, "gis", &disk(&place.root, 5)).await;
    std::process::Command::new("cp")
        .args(["-a", place.root.join("other/library/gis").as_str(), place.root.join("one/library/").as_str()])
        .status()
        .unwrap();
    let findings = one.rescan_findings().await;
    assert!(findings.iter().any(|f| f.found.contains("gis@1 was in the library")), "{findings:?}");
    done(&one, JobRequest::Verify { image: image("gis@1") }).await;
}
