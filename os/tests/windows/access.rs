//! Who is let in and who is there: what a guest is sent, and what is made of what it says.

use super::*;
use vcl_types::Access;

fn access(script: Option<&str>) -> Access {
    serde_json::from_value(serde_json::json!({
        "reservation": 7,
        "accounts": [{ "name": "alice", "sudo": true }, { "name": "bob" }],
        "methods": [{ "name": "rdp", "port": 3389, "script": script }],
        "from": { "only": ["10.0.0.9/32"] },
        "facts": { "owner": "O'Neil; $(calc)" },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in_is_told_and_asked_for() {
    let mut world = World::with("access.txt", &[("{USER}", sshd::user())], Settings::default());
    let grant = async |mut job: Job| world.windows.grant(&mut job, world.guest(), &access(None)).await;
    assert_eq!(world.job(grant).await, Outcome::Done(()));
    assert_eq!(world.fake.log(), ["grant"], "without hooks it is one round trip");
    let sent = &world.fake.sent("grant")[0];
    assert_eq!((&sent["do"], &sent["from"]), (&"accounts open".into(), &"only".into()));

    let alice = "alice".parse().unwrap();
    world.windows.password(world.guest(), &alice, &Secret::new("hunter2 '$(calc)".into())).await.unwrap();
    assert_eq!(world.fake.sent("password")[0]["password"], "hunter2 '$(calc)");
    assert!(!world.journal().await.contains("hunter2"));
    let sessions = world.windows.sessions(world.guest()).await.unwrap();
    let show = |s: &vcl_types::Session| format!("{:?} {} {}", s.account, s.method, s.from.unwrap());
    let shown: Vec<String> = sessions.iter().map(show).collect();
    assert_eq!(shown, ["Some(\"alice\") rdp 10.0.0.9", "None rdp 10.0.0.8"]);
    world.windows.tell(world.guest(), "ten\u{7} minutes").await.unwrap();
    assert_eq!(world.fake.sent("tell")[0]["text"], "ten  minutes");
    let identity = world.windows.identity(world.guest()).await.unwrap();
    assert_eq!(identity.shared(&identity.clone()).len(), 3);
    world.journal = Arc::default();
    let sanitize = async |mut job: Job| world.windows.sanitize(&mut job, world.guest()).await;
    assert_eq!(world.job(sanitize).await, Outcome::Done(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_keeps_the_firewall_shut() {
    let mut world = World::with("access.txt", &[("{USER}", sshd::user())], Settings::default());
    let hooks = world.fake.dir.join("hooks");
    for (path, text) in
        [("reserve.d/10-a.ps1", "x"), ("reserve.d/10-a.ps1.secret", "pass"), ("method.d/desk.cmd", "y")]
    {
        std::fs::create_dir_all(hooks.join(path).parent().unwrap()).unwrap();
        std::fs::write(hooks.join(path), text).unwrap();
    }
    world.hooks = Some(hooks);
    let wanted = access(Some("desk"));
    let grant = async |mut job: Job| world.windows.grant(&mut job, world.guest(), &wanted).await;
    let failure = failure(world.job(grant).await);
    assert!(failure.message.contains("desk.cmd failed with status 5"), "{}", failure.message);
    assert!(failure.message.contains("no licence"), "{}", failure.message);
    assert_eq!(world.fake.log(), ["grant", "access-hook"]);
    assert_eq!(world.fake.sent("grant")[0]["do"], "shut accounts");
    let sent = world.fake.sent("access-hook");
    assert_eq!((&sent[0]["name"], &sent[0]["secret"]), (&"1.10-a.ps1".into(), &"cGFzcw==".into()));
    assert_eq!((&sent[1]["name"], &sent[1]["stage"]), (&"2.rdp.desk.cmd".into(), &"method".into()));
    let decode = |text: &str| {
        let (name, value) = text.split_once('=').unwrap();
        let value = base64::engine::general_purpose::STANDARD.decode(value).unwrap();
        format!("{name}={}", String::from_utf8(value).unwrap())
    };
    let environment: Vec<String> =
        sent[1]["environment"].as_array().unwrap().iter().map(|v| decode(v.as_str().unwrap())).collect();
    for expected in ["VCLD_OWNER=O'Neil; $(calc)", "VCLD_ACCOUNTS=alice bob", "VCLD_PORT=3389"] {
        assert!(environment.iter().any(|v| v == expected), "{expected}: {environment:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_windows_does_not_take_is_refused_before_anything_is_done() {
    let world = World::new("access.txt");
    let mut wanted = access(None);
    wanted.accounts[0].name = "a-name-of-more-than-twenty".parse().unwrap();
    let grant = async |mut job: Job| world.windows.grant(&mut job, world.guest(), &wanted).await;
    let failure = failure(world.job(grant).await);
    assert_eq!(failure.kind, Kind::Refused);
    assert!(failure.message.contains("20 characters"), "{}", failure.message);
    assert_eq!(world.fake.log(), Vec::<String>::new());
}
