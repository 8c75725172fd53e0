//! The API in one process: every endpoint has a rule, and every rule is kept, whoever asks.

mod matrix;
mod own;

use super::access::{Local, Peer};
use super::rules::{RULES, Rule};
use super::{openapi, router};
use crate::node::Node;
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use camino::Utf8Path;
use std::collections::BTreeSet;
use std::sync::Arc;
use tower::ServiceExt as _;
use vcl_provisioning::MockProvisioning;
use vcl_types::api::{NewGrant, NewGroup, NewUser, Problem, ReservationRequest};
use vcl_types::people::{Scope, Source, Verb};

pub(super) struct Site {
    pub(super) node: Arc<Node>,
    pub(super) router: Router,
    _directory: tempfile::TempDir,
}

fn backend() -> MockProvisioning {
    let mut backend = MockProvisioning::default();
    backend.calls.expect_state().returning(|_| vcl_types::api::PowerState::Absent);
    backend
}

/// What came of a request: the status and the body.
pub(super) type Said = (StatusCode, String);

impl Site {
    pub(super) async fn new() -> Self {
        Self::configured("").await
    }
    /// With more in its configuration.
    pub(super) async fn configured(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(directory.path()).unwrap();
        std::fs::create_dir_all(path.join("library")).unwrap();
        std::fs::create_dir_all(path.join("files")).unwrap();
        let text = format!(
            "[library]\npath = \"{path}/library\"\nkeep_free = \"1M\"\n[api]\nfiles = \"{path}/files\"\n\
             [backend.kvm]\ntype = \"libvirt\"\n[network.n]\nbridge = \"br0\"\n[computers]\n\
             \"a\" = {{ backend = \"kvm\", networks = [\"n\"], tags = [\"b12\"] }}\n\
             \"b\" = {{ backend = \"kvm\", networks = [\"n\"], tags = [\"c3\"] }}\n{more}"
        );
        let known = vcl_config::Known { backend_types: &[vcl_config::BackendType::LIBVIRT] };
        let config = vcl_config::parse(&text, "test.toml", &known).unwrap();
        let queue = vcl_queue::Queue::open(path.join("vcld.db")).await.unwrap();
        let library = vcl_images::Library::open(&config.library.path).unwrap();
        let node = crate::testing::node_of("test", config, queue, library, backend(), None).await;
        Self { router: router(node.clone()), node, _directory: directory }
    }
    /// With two images, a load that waits for a worker, and a group of images that has one of them.
    pub(super) async fn furnished() -> Self {
        let site = Self::new().await;
        let disk = crate::testing::disk(Utf8Path::from_path(site._directory.path()).unwrap(), 1);
        let imports = ["gis-1", "debian"].map(|image| crate::testing::import(image, &disk));
        for job in crate::testing::run_all(&site.node, imports.to_vec()).await {
            assert_eq!(job.state, vcl_types::state::job::State::Done, "{job:?}");
        }
        let load = r#"{"kind":"load","computer":"a","image":"gis-1"}"#;
        let said = site.as_root(Method::POST, "/v1/jobs", load).await;
        assert!(said.1.contains(":3"), "{said:?}");
        let name: vcl_types::people::GroupName = "gis".parse().unwrap();
        for group in ["gis", "others"] {
            let new = NewGroup { name: group.parse().unwrap(), note: None };
            site.node.queue.add_image_group(new).await.unwrap();
        }
        site.node.queue.set_image_in_group(&name, &"gis-*".parse().unwrap(), true).await.unwrap();
        site
    }
    /// [`furnished`](Self::furnished), with what is somebody's: reservation 1 of bob's, of gis-1 with a computer that is kept
    /// for it, and 2, which waits; 3 and 4 of alice's, of debian; a class of each. Answers their tokens, which are
    /// alice's first.
    pub(super) async fn lived_in() -> (Self, [String; 2]) {
        let site = Self::furnished().await;
        let tokens = [site.user("alice", &[]).await, site.user("bob", &[]).await];
        let now = site.node.clock.now();
        let things = [("bob", "gis-1", "a"), ("alice", "debian", "b")];
        for (owner, image, _) in things {
            site.class(&format!("class of {owner}"), owner, image).await;
        }
        for (owner, image, computer) in things {
            for booked in [Some(computer.parse().unwrap()), None] {
                // No computer is what the one that waits wants.
                let tags: &[&str] = if booked.is_some() { &[] } else { &["nowhere"] };
                let asked = serde_json::json!({ "image": image, "owner": owner, "wish": { "tags": tags } });
                let asked: ReservationRequest = serde_json::from_value(asked).unwrap();
                let start = if booked.is_some() { now + chrono::TimeDelta::days(1) } else { now };
                let new = vcl_queue::NewReservation {
                    owner: owner.into(),
                    group: None,
                    purpose: asked.purpose,
                    class: None,
                    times: site.node.config.lending.times(&asked.image.name, None),
                    now,
                    start,
                    end: booked.is_some().then(|| start + chrono::TimeDelta::hours(1)),
                    length_s: Some(3600),
                    booked,
                    shown: None,
                    hours: None,
                    asked,
                };
                site.node.queue.reserve(new).await.unwrap();
            }
        }
        (site, tokens)
    }
    /// A class of somebody's, so far away that no seat is booked.
    pub(super) async fn class(&self, name: &str, owner: &str, image: &str) {
        let class = serde_json::json!({
            "name": name, "image": image, "seats": 1, "weekly": "Mon 10-12",
            "from": self.node.clock.now() + chrono::TimeDelta::days(99)
        });
        self.node.add_class(serde_json::from_value(class).unwrap(), owner).await.unwrap();
    }
    pub(super) async fn ask(&self, peer: Option<Peer>, mut request: Request<Body>) -> Said {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        // A stream has no end: its head is what is looked at.
        let body = match answer.headers().get(header::CONTENT_TYPE) {
            Some(kind) if kind == "text/event-stream" => String::new(),
            _ => {
                let bytes = axum::body::to_bytes(answer.into_body(), 1 << 24).await.unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        };
        (status, body)
    }
    /// A user with a token, in a group of his own that has these rights.
    pub(super) async fn user(&self, name: &str, grants: &[(Verb, &str)]) -> String {
        let queue = &self.node.queue;
        let new = NewUser { name: name.parse().unwrap(), source: Source::Local, full_name: None, mail: None };
        queue.add_user(new).await.unwrap();
        let group: vcl_types::people::GroupName = format!("of {name}").parse().unwrap();
        queue.add_group(NewGroup { name: group.clone(), note: None }).await.unwrap();
        queue.set_member(&group, &name.parse().unwrap(), true).await.unwrap();
        for (verb, scope) in grants {
            let scope: Scope = scope.parse().unwrap();
            queue.add_grant(NewGrant { group: group.clone(), verb: *verb, scope }, "root").await.unwrap();
        }
        self.token(name, None).await
    }
    pub(super) async fn token(&self, name: &str, scopes: Option<BTreeSet<Verb>>) -> String {
        let wanted = crate::people::tokens::Wanted {
            owner: name.parse().unwrap(),
            label: "test".into(),
            scopes,
            expires: None,
        };
        self.node.make_token(wanted).await.unwrap().secret
    }
    pub(super) async fn with(&self, token: &str, method: Method, path: &str, body: &str) -> Said {
        let peer = Peer::Remote("192.0.2.7".parse().unwrap());
        self.ask(Some(peer), request(method, path, Some(token), body)).await
    }
    pub(super) async fn as_root(&self, method: Method, path: &str, body: &str) -> Said {
        self.ask(Some(root()), request(method, path, None, body)).await
    }
}

pub(super) fn root() -> Peer {
    Peer::Local { name: "root".into(), standing: Local::Administrator }
}

pub(super) fn request(method: Method, path: &str, token: Option<&str>, body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

pub(super) fn kind(said: &Said) -> String {
    serde_json::from_str::<Problem>(&said.1).map(|p| p.kind).unwrap_or_default()
}

/// All methods and paths of the document.
pub(super) fn endpoints() -> Vec<(Method, String)> {
    let document: serde_json::Value = serde_json::from_str(&openapi()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if let Ok(method) = method.to_uppercase().parse::<Method>() {
                all.push((method, path.clone()));
            }
        }
    }
    all
}

#[test]
fn every_endpoint_of_the_document_has_a_rule_and_every_rule_an_endpoint() {
    let named = |method: &Method, path: &str| format!("{method} {path}");
    let documented: BTreeSet<String> = endpoints().iter().map(|(m, p)| named(m, p)).collect();
    let ruled: BTreeSet<String> = RULES.iter().map(|(m, p, _)| named(m, p)).collect();
    assert_eq!(ruled.len(), RULES.len(), "a rule stands there twice");
    assert_eq!(documented.difference(&ruled).collect::<Vec<_>>(), Vec::<&String>::new(), "without a rule");
    assert_eq!(ruled.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new(), "for nothing");
    assert!(documented.len() > 60, "{}", documented.len());
}

/// A path with something in its places: a computer, image and job that are there.
fn filled(path: &str) -> String {
    let name = match path {
        _ if path.contains("/computers/") => "a",
        _ if path.contains("/nodes/") => "test",
        _ if path.contains("/backends/") => "kvm",
        _ if path.contains("/images/") => "debian",
        _ => "somebody-else",
    };
    path.replace("{name}", name)
        .replace("{revision}", "1")
        .replace("{id}", "1")
        .replace("{vm}", "web")
        .replace("{user}", "nobody")
        .replace("{pattern}", "x")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_say_who_he_is_reaches_nothing_but_the_door() {
    let site = Site::new().await;
    let stranger = Peer::Local { name: "eve".into(), standing: Local::Stranger };
    let remote = Peer::Remote("192.0.2.1".parse().unwrap());
    for (method, path, rule) in RULES {
        let uri = filled(path);
        for (peer, token, status) in [
            (None, None, 401),
            (Some(remote.clone()), None, 401),
            (Some(remote.clone()), Some("vcl_0000000000000000_00"), 401),
            (Some(stranger.clone()), None, 403),
            (Some(root()), Some("nonsense"), 401),
        ] {
            let said = site.ask(peer.clone(), request(method.clone(), &uri, token, "")).await;
            let open = *rule == Rule::Open && peer != Some(stranger.clone());
            if open {
                assert!(![401, 403].contains(&said.0.as_u16()), "{method} {uri}: {}", said.1);
            } else {
                assert_eq!(said.0.as_u16(), status, "{method} {uri} {peer:?} {token:?}: {}", said.1);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_over_or_taken_back_or_whose_owner_is_disabled_lets_nobody_in() {
    let site = Site::new().await;
    let token = site.user("alice", &[(Verb::Look, "all")]).await;
    let status = async |token: &str| site.with(token, Method::GET, "/v1/whoami", "").await.0.as_u16();
    assert_eq!(status(&token).await, 200);
    let disable = |yes: bool| format!("{{\"disabled\":{yes}}}");
    for (yes, wanted) in [(true, 401), (false, 200)] {
        let (said, body) = site.as_root(Method::PATCH, "/v1/users/alice", &disable(yes)).await;
        assert_eq!(said, StatusCode::OK, "{body}");
        assert_eq!(status(&token).await, wanted);
    }
    let id = token.split('_').nth(1).unwrap();
    assert_eq!(site.as_root(Method::DELETE, &format!("/v1/tokens/{id}"), "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(status(&token).await, 401);
    let wanted = crate::people::tokens::Wanted {
        owner: "alice".parse().unwrap(),
        label: "short".into(),
        scopes: None,
        expires: Some(chrono::Utc::now() - chrono::TimeDelta::seconds(1)),
    };
    let over = site.node.make_token(wanted).await.unwrap().secret;
    assert_eq!(status(&over).await, 401);
    // One letter of the secret is another.
    let good = site.token("alice", None).await;
    let last = if good.ends_with('0') { '1' } else { '0' };
    let bad = format!("{}{last}", &good[..good.len() - 1]);
    assert_eq!((status(&good).await, status(&bad).await), (200, 401));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_tells_who_did_what_and_who_tried() {
    let site = Site::new().await;
    let token = site.user("alice", &[]).await;
    assert_eq!(site.with(&token, Method::POST, "/v1/nodes/test/drain", "").await.0, StatusCode::FORBIDDEN);
    let load = r#"{"kind":"load","computer":"a","image":"debian"}"#;
    assert_eq!(site.as_root(Method::POST, "/v1/jobs", load).await.0, StatusCode::NOT_FOUND);
    // Looking is not recorded, unless rows are made by it.
    let boss = site.user("boss", &[(Verb::Look, "all")]).await;
    for (query, status) in [("", StatusCode::OK), ("?rescan=true", StatusCode::FORBIDDEN)] {
        assert_eq!(site.with(&boss, Method::GET, &format!("/v1/doctor{query}"), "").await.0, status);
    }
    assert_eq!(site.as_root(Method::HEAD, "/v1/doctor?rescan=true", "").await.0, StatusCode::OK);
    let said = site.as_root(Method::GET, "/v1/audit", "").await;
    let deeds: Vec<vcl_types::api::AuditView> = serde_json::from_str(&said.1).unwrap();
    let told: Vec<_> = deeds
        .iter()
        .map(|d| {
            format!("{} {} {:?} {} [{}] {}", d.who, d.via, d.from.as_deref(), d.action, d.subject, d.status)
        })
        .collect();
    assert_eq!(
        told,
        [
            "root socket None HEAD /v1/doctor [rescan] 200",
            "boss token Some(\"192.0.2.7\") GET /v1/doctor [rescan] 403",
            "root socket None POST /v1/jobs [load a debian] 404",
            "alice token Some(\"192.0.2.7\") POST /v1/nodes/{name}/drain [test] 403",
        ]
    );
    assert!(deeds.iter().all(|deed| !deed.request.is_empty()));
}
