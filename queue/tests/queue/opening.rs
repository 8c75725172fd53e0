use super::world::{World, chain, load, unload};
use sqlx::Connection;
use std::os::unix::fs::PermissionsExt;
use vcl_queue::{Kind, Queue};

#[tokio::test]
async fn a_new_database_is_the_owners_alone_and_is_there_after_reopening() {
    let mut world = World::new().await;
    let id = world.submit(load("a", "debian")).await.unwrap();
    for file in ["vcl.db", "vcl.db-wal", "vcl.db-shm", "vcl.db.lock"] {
        let mode = std::fs::metadata(world.dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    world.reopen().await;
    assert_eq!(world.queue.job(id).await.unwrap().request, load("a", "debian"));
    assert_eq!(world.queue.computers().await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_both_versions_and_the_way_out() {
    let world = World::new().await;
    world.queue.close().await;
    let url = format!("sqlite://{}", super::path(&world).display());
    let mut db = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("INSERT INTO schema_version VALUES (99, 'future', '9.9.9', 0, 50)")
        .execute(&mut db)
        .await
        .unwrap();
    db.close().await.unwrap();
    let before = std::fs::read(super::path(&world)).unwrap();
    let error = Queue::open(super::path(&world)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Newer);
    for part in ["schema 99", "9.9.9", "from schema 50 on", "schemas up to", "run vcld 9.9.9 or newer"] {
        assert!(error.context.contains(part), "{part}: {error}");
    }
    assert_eq!(std::fs::read(super::path(&world)).unwrap(), before, "nothing was changed");
}

#[tokio::test]
async fn two_daemons_on_one_database_are_refused_and_the_first_is_named() {
    let world = World::new().await;
    let error = Queue::open(super::path(&world)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Busy);
    assert!(error.context.contains(&format!("process {}", std::process::id())), "{error}");
    world.queue.close().await;
    Queue::open(super::path(&world)).await.unwrap();
}

#[tokio::test]
async fn what_was_sent_before_closing_is_written_and_nothing_after_it() {
    let mut world = World::new().await;
    let queue = world.queue.clone();
    world.queue.post_event("noted", None, None, "before");
    world.reopen().await;
    assert_eq!(world.queue.last_events(1).await.unwrap()[0].message, "before");
    for error in [
        queue.computers().await.unwrap_err(),
        queue.event("noted", None, None, "after").await.unwrap_err(),
        queue.cancel_wish(vcl_types::JobId(1)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, Kind::Unavailable, "{}", chain(&error));
    }
    queue.close().await;
    assert!(world.submit(unload("a")).await.is_ok(), "closing a closed handle does not close the new one");
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let error = Queue::open("/nonexistent/vcl.db").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(chain(&error).contains("/nonexistent/vcl.db"), "{}", chain(&error));
}

#[tokio::test]
async fn a_newer_schema_that_lets_this_version_in_is_worked_with() {
    let world = World::new().await;
    let id = world.submit(load("a", "debian")).await.unwrap();
    world.queue.close().await;
    vcl_queue::testing::open_next(super::path(&world)).await.unwrap().close().await;
    let queue = Queue::open(super::path(&world)).await.unwrap();
    let claim = queue.claim("n", &vcl_queue::ClaimLimits::default()).await.unwrap().unwrap();
    assert_eq!(claim.id(), id);
    queue.event("noted", Some(id), None, "x").await.unwrap();
    queue.close().await;
    vcl_queue::testing::open_next(super::path(&world)).await.unwrap();
}

#[tokio::test]
async fn a_request_of_a_newer_program_is_shown_and_left_alone() {
    let world = World::new().await;
    let id = world.submit(super::world::import("x")).await.unwrap();
    world.queue.close().await;
    let url = format!("sqlite://{}", super::path(&world).display());
    let mut db = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let newer = "UPDATE jobs SET kind = 'dream', request = '{\"kind\":\"dream\",\"of\":\"sheep\"}', protocol = 9, \
                 lane = '9|||', holds_image = NULL";
    sqlx::query(newer).execute(&mut db).await.unwrap();
    sqlx::Connection::close(db).await.unwrap();
    let queue = vcl_queue::Queue::open(super::path(&world)).await.unwrap();
    let job = queue.job(id).await.unwrap();
    assert_eq!(job.request.to_string(), "dream (of a newer vcld)");
    let view = serde_json::to_value(job.view(Vec::new())).unwrap();
    assert_eq!(view["request"], serde_json::json!({"kind": "dream", "of": "sheep"}));
    let back: vcl_types::api::JobView = serde_json::from_value(view).unwrap();
    assert_eq!(back.title, "dream (of a newer vcld)");
    assert_eq!(queue.claim("n1", &vcl_queue::ClaimLimits::default()).await.unwrap(), None);
}
