//! Every endpoint of the document, asked by somebody with each kind of grant.
//!
//! What opens an endpoint is said here a second time, and in other words than in the rules: a rule that is changed by mistake
//! differs from it.

use super::*;
use axum::http::Method;
use std::collections::BTreeMap;
use vcl_types::api::{ComputerView, EventView, ImageView, JobView, Status, Why};

/// The kinds of scope: everything, the images and the computers that are asked for, and others.
const SCOPES: [&str; 5] = ["all", "images:gis", "computers:b12", "images:others", "computers:c3"];

/// Who is let in to an endpoint.
enum Opens {
    /// Whoever is known.
    Everybody,
    /// Whoever has one of these verbs on one of these scopes; `administer` always does.
    With(&'static [&'static str], &'static [&'static str]),
}
use Opens::{Everybody, With};

const ANY: &[&str] = &["look", "reserve", "imaging", "images", "operate", "classes", "people"];
const ALL: &[&str] = &["all"];
const COMPUTER: &[&str] = &["all", "computers:b12"];
const IMAGE: &[&str] = &["all", "images:gis"];
const ADMINISTER: &[&str] = &[];

fn opens(method: &Method, path: &str) -> Opens {
    match (method.as_str(), path) {
        // Lists hold what one may see.
        ("GET", "/v1/status" | "/v1/computers" | "/v1/images" | "/v1/jobs" | "/v1/leases" | "/v1/trash") => {
            Everybody
        }
        ("GET", "/v1/events" | "/v1/stream" | "/v1/openapi.json" | "/v1/whoami") => Everybody,
        ("GET", "/v1/grants" | "/v1/image-groups" | "/v1/tokens") => Everybody,
        ("POST", "/v1/tokens" | "/v1/sign-out") => Everybody,
        (_, path) if path.starts_with("/v1/sign-in") => Everybody,
        // The site.
        ("GET", "/v1/doctor" | "/v1/nodes" | "/v1/nodes/{name}" | "/v1/backends" | "/v1/backends/{name}") => {
            With(&["look", "operate"], ALL)
        }
        ("GET", "/v1/backends/{name}/vms") | (_, "/v1/orphans") => With(&["operate"], ALL),
        ("GET", "/v1/backends/{name}/vms/{vm}/preview") => With(ADMINISTER, ALL),
        ("POST", "/v1/computers/apply" | "/v1/nodes/{name}/drain" | "/v1/nodes/{name}/undrain") => {
            With(ADMINISTER, ALL)
        }
        // One computer, one image.
        ("GET", "/v1/computers/{name}" | "/v1/computers/{name}/why") => With(ANY, COMPUTER),
        // What a manifest's parameters are.
        ("GET", "/v1/computers/{name}/configured") => With(ADMINISTER, ALL),
        (_, path) if path.starts_with("/v1/computers/{name}/") => With(&["operate"], COMPUTER),
        ("GET", "/v1/images/{name}" | "/v1/images/{name}/{revision}/why") => With(ANY, IMAGE),
        ("POST", "/v1/images/{name}/{revision}/promote") => With(&["images"], IMAGE),
        // A load of the computer that another asked for.
        ("GET", "/v1/jobs/{id}" | "/v1/jobs/{id}/why") => With(&["look", "operate"], COMPUTER),
        (_, path) if path.starts_with("/v1/jobs/{id}/") => With(&["operate"], COMPUTER),
        ("POST", "/v1/plan/action") => With(&["operate"], COMPUTER),
        // The same asked for anew: the image has to be covered too.
        ("POST", "/v1/jobs" | "/v1/plan") => With(&["operate"], ALL),
        // One grant has to cover the image and the computers.
        ("GET", "/v1/reservations") => Everybody,
        ("POST", "/v1/reservations") => With(&["reserve"], ALL),
        // Another's, with a computer.
        ("POST", "/v1/reservations/{id}/checkpoint") => With(ADMINISTER, ALL),
        ("GET", path) if path.starts_with("/v1/reservations/{id}") => With(&["look", "operate"], COMPUTER),
        ("POST", path) if path.starts_with("/v1/reservations/{id}/") => With(&["operate"], COMPUTER),
        ("GET", "/healthz" | "/readyz" | "/v1/usage" | "/v1/trends" | "/v1/classes" | "/v1/maintenance") => {
            Everybody
        }
        ("GET", "/metrics" | "/v1/hosts") => With(&["look", "operate"], ALL),
        ("POST", "/v1/classes") => With(&["classes"], ALL),
        // Another's.
        ("GET", "/v1/classes/{name}") => With(ANY, IMAGE),
        ("POST", "/v1/classes/{name}/call-off") | ("DELETE", "/v1/classes/{name}") => With(&["classes"], ALL),
        ("POST", "/v1/maintenance") => With(&["operate"], COMPUTER),
        (_, path) if path.starts_with("/v1/maintenance/") || path.starts_with("/v1/hosts/") => {
            With(&["operate"], ALL)
        }
        // People.
        ("DELETE", "/v1/image-groups/{name}") => With(ADMINISTER, ALL),
        (_, "/v1/image-groups/{name}/images/{pattern}") => With(ADMINISTER, ALL),
        (_, path)
            if ["/v1/users", "/v1/groups", "/v1/grants", "/v1/tokens/", "/v1/audit", "/v1/image-groups"]
                .iter()
                .any(|p| path.starts_with(p)) =>
        {
            With(&["people"], ALL)
        }
        (method, path) => panic!("nobody has said here who may {method} {path}"),
    }
}

fn uri(method: &Method, path: &str) -> String {
    let name = match path {
        _ if path.contains("/classes/") && method == Method::DELETE => "class%20that%20ends",
        _ if path.contains("/classes/") => "class%20of%20bob",
        _ if path.contains("/computers/") => "a",
        _ if path.starts_with("/v1/images/") => "gis-1",
        _ if path.contains("/nodes/") => "test",
        _ if path.contains("/backends/") || path.contains("/hosts/") => "kvm",
        _ => "nobody-there",
    };
    let id = match path {
        _ if path.starts_with("/v1/jobs/") => "3",
        _ if path.starts_with("/v1/reservations/") => "1",
        _ => "999",
    };
    let path = path.replace("{name}", name).replace("{revision}", "1").replace("{id}", id);
    path.replace("{vm}", "web").replace("{user}", "nobody-there").replace("{pattern}", "x")
}

/// A body that is as it should be, so that only the right is missing.
fn body(method: &Method, path: &str) -> &'static str {
    match (method.as_str(), path) {
        ("POST", "/v1/jobs" | "/v1/plan") => r#"{"kind":"load","computer":"a","image":"gis-1"}"#,
        ("POST", "/v1/reservations") => r#"{"image":"gis-1","dry_run":true}"#,
        // What is wrong with it shows after the right was looked at, so that nothing comes of it.
        ("POST", "/v1/classes") => r#"{"name":"","image":"gis-1","seats":1,"weekly":"Mon 10-12"}"#,
        ("POST", "/v1/classes/{name}/call-off") => r#"{"start":"2026-11-23T10:00:00Z"}"#,
        ("POST", "/v1/maintenance") => r#"{"computers":["a"],"reason":""}"#,
        ("POST", "/v1/hosts/{name}/drain") => "{}",
        ("POST", "/v1/plan/action") => r#"{"action":"cancel","job":3}"#,
        ("POST", "/v1/computers/{name}/power") => r#"{"action":"on"}"#,
        ("POST", "/v1/orphans") => r#"{"id":"kvm/domain/x","wish":"delete","dry_run":true}"#,
        ("PATCH", "/v1/users/{name}") => r#"{"mail":"a@b"}"#,
        ("PUT", "/v1/users/{name}/password") => r#"{"password":"correct horse battery"}"#,
        ("POST", "/v1/users/{name}/keys") => {
            r#"{"key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ x"}"#
        }
        ("POST", "/v1/users") => r#"{"name":"user-1"}"#,
        ("POST", "/v1/groups" | "/v1/image-groups") => r#"{"name":"group-1"}"#,
        ("POST", "/v1/grants") => r#"{"group":"nobody-there","verb":"look","scope":"all"}"#,
        ("POST", "/v1/tokens") => r#"{"label":"x"}"#,
        ("POST", "/v1/sign-in") => r#"{"name":"nobody-there","password":"x"}"#,
        ("POST", "/v1/sign-in/code") => r#"{"redirect":"http://127.0.0.1:1/"}"#,
        ("POST", "/v1/sign-in/code/end") => r#"{"state":"x","code":"x"}"#,
        ("POST", "/v1/sign-in/device/end") => r#"{"state":"x"}"#,
        _ => "",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_is_open_to_those_who_have_the_right_and_to_nobody_else() {
    let (site, _) = Site::lived_in().await;
    let everything = endpoints();
    let (mut asked, mut open) = (0, BTreeMap::<bool, u32>::new());
    let mut askers = vec![("nothing".to_owned(), None)];
    for verb in Verb::ALL {
        askers
            .extend(SCOPES.map(|scope| (format!("{verb}-{}", scope.replace(':', "-")), Some((verb, scope)))));
    }
    for (name, grant) in askers {
        let grants: Vec<(Verb, &str)> = grant.into_iter().collect();
        let token = site.user(&name, &grants).await;
        site.class("class that ends", "bob", "gis-1").await;
        for (method, path) in &everything {
            if path == "/v1/sign-out" {
                continue; // it would end the token that the others are asked with
            }
            let said = site.with(&token, method.clone(), &uri(method, path), body(method, path)).await;
            let wanted = match opens(method, path) {
                Everybody => true,
                With(verbs, scopes) => grant.is_some_and(|(verb, scope)| {
                    let scopes = if verb == Verb::Administer
                        && !scopes.contains(&"computers:b12")
                        && !scopes.contains(&"images:gis")
                    {
                        ALL
                    } else {
                        scopes
                    };
                    scopes.contains(&scope) && (verb == Verb::Administer || verbs.contains(&verb.as_str()))
                }),
            };
            let refused = said.0 == StatusCode::FORBIDDEN;
            assert_eq!(!refused, wanted, "{name}: {method} {path}: {} {}", said.0, said.1);
            assert_ne!(said.0, StatusCode::INTERNAL_SERVER_ERROR, "{name}: {method} {path}: {}", said.1);
            if refused {
                assert_eq!(kind(&said), "forbidden");
                assert!(
                    said.1.contains("vclctl grant add") || said.1.contains("nobody gives more"),
                    "{}",
                    said.1
                );
            }
            asked += 1;
            *open.entry(wanted).or_default() += 1;
        }
        // A reservation that waits has no computer: whoever looks after its image sees it, and ends it not.
        for (method, path, verbs, scopes) in [
            (Method::GET, "/v1/reservations/2", &["look", "images", "imaging"][..], IMAGE),
            (Method::GET, "/v1/reservations/2/why", &["look", "images", "imaging"][..], IMAGE),
            (Method::POST, "/v1/reservations/2/release", &[][..], ADMINISTER),
            (Method::POST, "/v1/reservations/2/access", &[][..], ADMINISTER),
        ] {
            let all = |verb: Verb| matches!(verb, Verb::Operate | Verb::Administer);
            let wanted = grant.is_some_and(|(verb, scope)| {
                let with = verb == Verb::Administer || verbs.contains(&verb.as_str());
                (scope == "all" && all(verb)) || (with && scopes.contains(&scope))
            });
            let said = site.with(&token, method.clone(), path, "").await;
            assert_eq!(said.0 != StatusCode::FORBIDDEN, wanted, "{name}: {method} {path}: {said:?}");
        }
    }
    assert!(asked > 2500 && open[&true] > 500 && open[&false] > 1500, "{asked} {open:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_looking_changes_nothing_whoever_owns_it() {
    let (site, _) = Site::lived_in().await;
    site.user("boss", &[(Verb::Administer, "all")]).await;
    let token = site.token("boss", Some([Verb::Look].into())).await;
    for (method, path) in endpoints() {
        let reading = method == Method::GET || path == "/v1/sign-out" || path.starts_with("/v1/sign-in");
        let special = ["/v1/doctor", "/v1/orphans", "/v1/users", "/v1/groups", "/v1/audit"];
        if reading && !special.contains(&path.as_str()) || path == "/v1/backends/{name}/vms" {
            continue;
        }
        if method == Method::GET {
            continue;
        }
        let said = site.with(&token, method.clone(), &uri(&method, &path), body(&method, &path)).await;
        assert_eq!(said.0, StatusCode::FORBIDDEN, "{method} {path}: {}", said.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_hold_what_one_may_see_and_nothing_else() {
    let site = Site::furnished().await;
    let of = async |token: &str, path: &str| site.with(token, Method::GET, path, "").await.1;
    let names = |body: String| -> Vec<String> {
        let all: Vec<ComputerView> = serde_json::from_str(&body).unwrap();
        all.iter().map(|view| view.computer.name.to_string()).collect()
    };
    let images = |body: String| -> Vec<String> {
        let all: Vec<ImageView> = serde_json::from_str(&body).unwrap();
        all.iter().map(|view| view.name.to_string()).collect()
    };
    let jobs = |body: String| serde_json::from_str::<Vec<JobView>>(&body).unwrap().len();
    let events = |body: String| serde_json::from_str::<Vec<EventView>>(&body).unwrap().len();

    let nothing = site.user("nothing", &[]).await;
    assert_eq!(
        (names(of(&nothing, "/v1/computers").await), images(of(&nothing, "/v1/images").await)),
        (vec![], vec![])
    );
    assert_eq!((jobs(of(&nothing, "/v1/jobs").await), events(of(&nothing, "/v1/events").await)), (0, 0));
    let status: Status = serde_json::from_str(&of(&nothing, "/v1/status").await).unwrap();
    assert!(status.computers.is_empty() && status.running.is_empty() && status.library.is_empty());

    let room = site.user("room", &[(Verb::Operate, "computers:b12")]).await;
    assert_eq!(names(of(&room, "/v1/computers").await), ["a"]);
    assert_eq!(images(of(&room, "/v1/images").await), Vec::<String>::new());
    assert_eq!(jobs(of(&room, "/v1/jobs").await), 1, "the load of a");
    assert!(events(of(&room, "/v1/events").await) >= 1);

    let gis = site.user("gis", &[(Verb::Images, "images:gis")]).await;
    assert_eq!(images(of(&gis, "/v1/images").await), ["gis-1"]);
    assert_eq!(jobs(of(&gis, "/v1/jobs").await), 1, "the import of gis-1, and not the load on a computer");

    // Who may use something sees it, and not what others do with it.
    let student =
        site.user("student", &[(Verb::Reserve, "images:gis"), (Verb::Reserve, "computers:b12")]).await;
    assert_eq!(names(of(&student, "/v1/computers").await), ["a"]);
    assert_eq!(jobs(of(&student, "/v1/jobs").await), 0);
    assert_eq!(site.with(&student, Method::GET, "/v1/jobs/3", "").await.0, StatusCode::FORBIDDEN);
    let flatten = r#"{"kind":"flatten","image":"gis-1"}"#;
    assert_eq!(site.as_root(Method::POST, "/v1/jobs", flatten).await.0, StatusCode::ACCEPTED);
    for (token, told) in [(&student, false), (&room, true)] {
        let computer: ComputerView = serde_json::from_str(&of(token, "/v1/computers/a").await).unwrap();
        let why: Why = serde_json::from_str(&of(token, "/v1/computers/a/why").await).unwrap();
        assert_eq!((computer.lease.is_some(), why.sentence.contains("(load")), (told, told), "{why:?}");
        assert!(why.sentence.contains("job 3") && !why.sentence.contains("no job"), "{why:?}");
    }
    for (token, told) in [(&student, false), (&gis, true)] {
        let image: ImageView = serde_json::from_str(&of(token, "/v1/images/gis-1").await).unwrap();
        assert_eq!(image.lease.is_some(), told);
    }

    let all = site.user("all", &[(Verb::Look, "all")]).await;
    assert_eq!((names(of(&all, "/v1/computers").await).len(), jobs(of(&all, "/v1/jobs").await)), (2, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_rights_that_he_has_not_by_way_of_others() {
    let site = Site::furnished().await;
    let boss = site.user("boss", &[(Verb::Administer, "all")]).await;
    let clerk = site.user("clerk", &[(Verb::People, "all"), (Verb::Operate, "computers:b12")]).await;
    let forbidden = async |method: Method, path: &str, body: &str| {
        let said = site.with(&clerk, method.clone(), path, body).await;
        assert_eq!(said.0, StatusCode::FORBIDDEN, "{method} {path} {body}: {}", said.1);
    };
    // Not more than the clerk has, to nobody.
    forbidden(Method::POST, "/v1/grants", r#"{"group":"of clerk","verb":"administer","scope":"all"}"#).await;
    forbidden(Method::POST, "/v1/grants", r#"{"group":"of clerk","verb":"operate","scope":"all"}"#).await;
    forbidden(Method::POST, "/v1/grants", r#"{"group":"of clerk","verb":"images","scope":"images:gis"}"#)
        .await;
    // Not by joining those who have more, nor by becoming one of them.
    forbidden(Method::PUT, "/v1/groups/of%20boss/members/clerk", "").await;
    forbidden(Method::DELETE, "/v1/groups/of%20boss/members/boss", "").await;
    forbidden(Method::DELETE, "/v1/groups/of%20boss", "").await;
    forbidden(Method::PUT, "/v1/users/boss/password", r#"{"password":"correct horse battery"}"#).await;
    forbidden(Method::PATCH, "/v1/users/boss", r#"{"disabled":true}"#).await;
    forbidden(Method::POST, "/v1/users/boss/keys", body(&Method::POST, "/v1/users/{name}/keys")).await;
    forbidden(Method::DELETE, "/v1/users/boss", "").await;
    forbidden(Method::POST, "/v1/tokens", r#"{"label":"x","owner":"boss"}"#).await;
    // Not by changing what a right is on.
    forbidden(Method::PUT, "/v1/image-groups/gis/images/*", "").await;
    // And what the clerk has can be given.
    let grant = r#"{"group":"of clerk","verb":"operate","scope":"computers:b12"}"#;
    assert_eq!(site.with(&clerk, Method::POST, "/v1/grants", grant).await.0, StatusCode::CREATED);
    // A token that is limited makes none.
    let small = site.token("boss", Some([Verb::Look, Verb::Reserve].into())).await;
    for scopes in ["", r#","scopes":["operate"]"#, r#","scopes":["look"]"#] {
        let body = format!("{{\"label\":\"x\"{scopes}}}");
        assert_eq!(site.with(&small, Method::POST, "/v1/tokens", &body).await.0.as_u16(), 403, "{body}");
    }
    assert_eq!(site.with(&boss, Method::DELETE, "/v1/groups/of%20clerk", "").await.0, StatusCode::NO_CONTENT);
    let refused = site.with(&clerk, Method::GET, "/v1/users", "").await;
    assert_eq!(refused.0, StatusCode::FORBIDDEN, "what was taken back counts at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_node_are_not_everybodys() {
    let site = Site::furnished().await;
    let files = site.node.config.api.files.clone();
    let (secret, inside) = (files.parent().unwrap().join("secret"), files.join("disk.raw"));
    for path in [&secret, &inside] {
        std::fs::write(path, "x").unwrap();
    }
    std::os::unix::fs::symlink(&secret, files.join("link.raw")).unwrap();
    std::os::unix::fs::symlink(&files, files.parent().unwrap().join("way")).unwrap();
    let gis = site.user("gis", &[(Verb::Images, "images:gis")]).await;
    let link = files.join("link.raw");
    let around = format!("{files}/../secret");
    // What leads there now leads elsewhere tomorrow.
    let way = files.parent().unwrap().join("way/disk.raw");
    for (path, status) in [
        (secret.as_str(), 403),
        (around.as_str(), 403),
        (link.as_str(), 403),
        (way.as_str(), 403),
        ("/etc/shadow", 403),
        ("", 403),
        (inside.as_str(), 202),
    ] {
        let body = format!(r#"{{"kind":"import","image":"gis-2","path":"{path}"}}"#);
        let said = site.with(&gis, Method::POST, "/v1/jobs", &body).await;
        assert_eq!(said.0.as_u16(), status, "{path}: {}", said.1);
    }
    let kernel = format!(
        r#"{{"kind":"import","image":"gis-3","path":"{inside}","boot":{{"kernel":"/etc/shadow","cmdline":""}}}}"#
    );
    assert_eq!(site.with(&gis, Method::POST, "/v1/jobs", &kernel).await.0, StatusCode::FORBIDDEN);
    let export = format!(r#"{{"kind":"export","image":"gis-1","path":"{secret}2","format":"raw"}}"#);
    assert_eq!(site.with(&gis, Method::POST, "/v1/jobs", &export).await.0, StatusCode::FORBIDDEN);
}

/// The link was put there after it was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_follows_no_link_out_of_the_files_that_are_everybodys() {
    let site = Site::new().await;
    let files = site.node.config.api.files.clone();
    let inside = crate::testing::disk(&files, 1);
    let outside = crate::testing::disk(files.parent().unwrap(), 2);
    for (link, to) in [("in.raw", &inside), ("out.raw", &outside)] {
        std::os::unix::fs::symlink(to, files.join(link)).unwrap();
    }
    std::os::unix::fs::symlink(files.parent().unwrap(), files.join("up")).unwrap();
    let import = |image: &str, path: &str| crate::testing::import(image, &files.join(path));
    let imports =
        vec![import("gis-1", "in.raw"), import("gis-2", "out.raw"), import("gis-3", "up/disk2.raw")];
    let jobs = crate::testing::run_all(&site.node, imports).await;
    let export = vcl_types::JobRequest::Export {
        image: "gis-1".parse().unwrap(),
        path: files.join("up/new.raw").to_string(),
        format: "raw".into(),
    };
    let exported = crate::testing::run_all(&site.node, vec![export]).await;
    let ended: Vec<_> = jobs.iter().chain(&exported).map(|job| job.state).collect();
    use vcl_types::state::job::State;
    assert_eq!(ended, [State::Done, State::Failed, State::Failed, State::Failed], "{jobs:?} {exported:?}");
    for job in jobs[1..].iter().chain(&exported) {
        assert!(job.reason.as_ref().unwrap().contains("leads out of"), "{job:?}");
    }
    assert!(!files.parent().unwrap().join("new.raw").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_is_done_once_and_answered_the_same() {
    let site = Site::furnished().await;
    let token = site.user("alice", &[(Verb::Operate, "all"), (Verb::Look, "all")]).await;
    let ask = async |key: &str, path: &str, body: &str| {
        let mut asked = request(Method::POST, path, Some(&token), body);
        asked.headers_mut().insert("idempotency-key", key.parse().unwrap());
        site.ask(Some(Peer::Remote("192.0.2.7".parse().unwrap())), asked).await
    };
    let unload = r#"{"kind":"load","computer":"b","image":"gis-1"}"#;
    let first = ask("one", "/v1/jobs", unload).await;
    assert_eq!(first.0, StatusCode::ACCEPTED, "{}", first.1);
    assert_eq!(ask("one", "/v1/jobs", unload).await, first);
    let other = ask("one", "/v1/jobs", r#"{"kind":"unload","computer":"b"}"#).await;
    assert_eq!(other.0, StatusCode::UNPROCESSABLE_ENTITY, "{}", other.1);
    // Under another key it is another wish, and the computer is busy now; that answer is kept as well.
    let second = ask("two", "/v1/jobs", unload).await;
    assert_eq!(second.0, StatusCode::CONFLICT);
    assert_eq!(ask("two", "/v1/jobs", unload).await, second);
    assert_eq!(ask("with a space", "/v1/jobs", unload).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let made = ask("three", "/v1/tokens", r#"{"label":"x"}"#).await;
    assert_eq!(made.0, StatusCode::CREATED);
    let again = ask("three", "/v1/tokens", r#"{"label":"x"}"#).await;
    assert_eq!(again.0, StatusCode::CONFLICT);
    assert!(again.1.contains("told once") && !again.1.contains("vcl_"), "{}", again.1);
    // Another caller's key is another key.
    let bob = site.user("bob", &[(Verb::Operate, "all")]).await;
    let mut asked = request(Method::POST, "/v1/jobs", Some(&bob), unload);
    asked.headers_mut().insert("idempotency-key", "one".parse().unwrap());
    let said = site.ask(Some(Peer::Remote("192.0.2.8".parse().unwrap())), asked).await;
    assert_eq!(said.0, StatusCode::CONFLICT, "{}", said.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_signs_in_and_a_wrong_one_gets_slow() {
    let site = Site::furnished().await;
    site.user("alice", &[]).await;
    let set = r#"{"password":"correct horse battery"}"#;
    assert_eq!(site.as_root(Method::PUT, "/v1/users/alice/password", set).await.0, StatusCode::NO_CONTENT);
    let from = |n: u8| Peer::Remote(std::net::IpAddr::from([192, 0, 2, n]));
    let sign_in = async |name: &str, password: &str, n: u8| {
        let body = serde_json::json!({ "name": name, "password": password }).to_string();
        site.ask(Some(from(n)), request(Method::POST, "/v1/sign-in", None, &body)).await
    };
    let said = sign_in("Alice", "correct horse battery", 1).await;
    assert_eq!(said.0, StatusCode::CREATED, "{}", said.1);
    let made: vcl_types::api::TokenMade = serde_json::from_str(&said.1).unwrap();
    assert_eq!(site.with(&made.secret, Method::GET, "/v1/whoami", "").await.0, StatusCode::OK);
    assert_eq!(site.with(&made.secret, Method::POST, "/v1/sign-out", "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(site.with(&made.secret, Method::GET, "/v1/whoami", "").await.0, StatusCode::UNAUTHORIZED);
    let mut told = Vec::new();
    for _ in 0..8 {
        told.push(sign_in("alice", "wrong", 2).await.0.as_u16());
    }
    assert_eq!(told, [401, 401, 401, 401, 401, 401, 429, 429]);
    assert_eq!(sign_in("alice", "correct horse battery", 2).await.0.as_u16(), 429);
    for (name, password) in [("nobody-there", "x"), ("../x", "x"), ("", ""), ("bob", &*"x".repeat(5000))] {
        assert_eq!(sign_in(name, password, 3).await.0.as_u16(), 401, "{name}");
    }
    let short = r#"{"password":"short"}"#;
    assert_eq!(
        site.as_root(Method::PUT, "/v1/users/alice/password", short).await.0,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}
