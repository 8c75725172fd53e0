//! Connections at a Guacamole. The double answers as the web application's source says that it does; a real one needs a servlet
//! container and a database.

use super::scene::Scene;
use crate::guacamole::Guacamole;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use vcl_types::api::NewUser;
use vcl_types::people::Source;
use vcl_types::{OsName, Reach, Secret};

#[derive(Default)]
struct Desk {
    away: bool,
    creates_users: bool,
    /// Whether vcld's account administers the system, without which it ends nothing that is open.
    administers: bool,
    keeps_connections: bool,
    tokens: BTreeSet<String>,
    signed_in: usize,
    made: usize,
    connections: BTreeMap<String, Value>,
    users: BTreeMap<String, BTreeSet<String>>,
    /// What is open: of which connection.
    open: BTreeMap<String, String>,
    writes: usize,
}

type Shared = Arc<Mutex<Desk>>;

fn no(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(json!({"message": message}))).into_response()
}

async fn answer(
    State(desk): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut desk = desk.lock().unwrap();
    let desk = &mut *desk;
    if desk.away {
        return no(StatusCode::BAD_GATEWAY, "the servlet container starts");
    }
    let path: Vec<&str> = uri.path().trim_start_matches("/guacamole/api/").split('/').collect();
    match (&method, path.as_slice()) {
        (&Method::POST, ["tokens"]) => {
            if *body != *b"username=vcld&password=s+e%26cret" {
                return no(StatusCode::FORBIDDEN, "Permission Denied.");
            }
            desk.signed_in += 1;
            let token = format!("T{}", desk.signed_in);
            desk.tokens.insert(token.clone());
            return axum::Json(json!({"authToken": token, "username": "vcld", "dataSource": "mysql",
                "availableDataSources": ["mysql"]}))
            .into_response();
        }
        (&Method::DELETE, ["tokens", token]) => {
            desk.tokens.remove(*token);
            return StatusCode::NO_CONTENT.into_response();
        }
        _ => {}
    }
    let token = headers.get("guacamole-token").and_then(|token| token.to_str().ok());
    if !token.is_some_and(|token| desk.tokens.contains(token)) {
        return no(StatusCode::FORBIDDEN, "Permission Denied.");
    }
    let ["session", "data", "mysql", rest @ ..] = path.as_slice() else {
        return no(StatusCode::NOT_FOUND, "Not found.");
    };
    if method != Method::GET {
        desk.writes += 1;
    }
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let taken = |name: &Value, but: &str| {
        desk.connections.iter().any(|(id, other)| id != but && other["name"] == *name)
    };
    match (&method, rest) {
        (&Method::GET, ["connections"]) => axum::Json(&desk.connections).into_response(),
        (&Method::POST, ["connections"]) => {
            if taken(&said["name"], "") {
                let message = format!("The connection {} already exists.", said["name"]);
                return no(StatusCode::BAD_REQUEST, &message);
            }
            desk.made += 1;
            let id = desk.made.to_string();
            let mut made = said;
            made["identifier"] = id.clone().into();
            desk.connections.insert(id, made.clone());
            axum::Json(made).into_response()
        }
        (&Method::PUT, ["connections", id]) if desk.connections.contains_key(*id) => {
            if taken(&said["name"], id) {
                return no(StatusCode::BAD_REQUEST, "The connection already exists.");
            }
            let mut made = said;
            made["identifier"] = (*id).into();
            desk.connections.insert((*id).to_owned(), made);
            StatusCode::NO_CONTENT.into_response()
        }
        (&Method::DELETE, ["connections", _]) if desk.keeps_connections => {
            no(StatusCode::INTERNAL_SERVER_ERROR, "The database is read-only.")
        }
        (&Method::DELETE, ["connections", id]) if desk.connections.contains_key(*id) => {
            desk.connections.remove(*id);
            desk.users.values_mut().for_each(|may| may.retain(|known| known.as_str() != *id));
            StatusCode::NO_CONTENT.into_response()
        }
        (&Method::GET, ["activeConnections"]) => {
            let all: BTreeMap<&String, Value> = desk
                .open
                .iter()
                .map(|(id, of)| (id, json!({"identifier": id, "connectionIdentifier": of})))
                .collect();
            axum::Json(all).into_response()
        }
        (&Method::PATCH, ["activeConnections"]) if !desk.administers => {
            no(StatusCode::FORBIDDEN, "Permission Denied.")
        }
        (&Method::PATCH, ["activeConnections"]) => {
            for cut in said.as_array().unwrap() {
                assert_eq!(cut["op"], "remove");
                desk.open.remove(cut["path"].as_str().unwrap().trim_start_matches('/'));
            }
            StatusCode::NO_CONTENT.into_response()
        }
        (&Method::POST, ["users"]) => {
            if !desk.creates_users {
                return no(StatusCode::FORBIDDEN, "Permission Denied.");
            }
            assert!(said.get("password").is_none());
            desk.users.insert(said["username"].as_str().unwrap().to_owned(), BTreeSet::new());
            axum::Json(said).into_response()
        }
        (&Method::PATCH, ["users", user, "permissions"]) if desk.users.contains_key(*user) => {
            for add in said.as_array().unwrap() {
                assert_eq!((&add["op"], &add["value"]), (&json!("add"), &json!("READ")));
                let id = add["path"].as_str().unwrap().strip_prefix("/connectionPermissions/").unwrap();
                assert!(desk.connections.contains_key(id));
                desk.users.entry((*user).to_owned()).or_default().insert(id.to_owned());
            }
            StatusCode::NO_CONTENT.into_response()
        }
        _ => no(StatusCode::NOT_FOUND, "No such object."),
    }
}

struct Site {
    scene: Scene,
    desk: Shared,
    guacamole: Guacamole,
    serving: tokio::task::JoinHandle<()>,
}

impl Site {
    async fn new() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Shared::default();
        desk.lock().unwrap().users.insert("alice".into(), BTreeSet::new());
        let app = axum::Router::new().fallback(answer).with_state(desk.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let lines = format!(
            "[reservations]\nafter_use = \"nothing\"\n[guacamole]\nurl = \"http://127.0.0.1:{}/guacamole\"\n\
             user = \"vcld\"\npassword = {{ credential = \"guacamole\" }}\nguacd = \"10.0.0.9\"\n",
            address.port()
        );
        let scene = Scene::with(2, &lines).await;
        let gateway = scene.node.config.guacamole.clone().unwrap();
        let guacamole = Guacamole::with(&gateway, Secret::new("s e&cret".to_owned())).unwrap();
        Self { scene, desk, guacamole, serving }
    }

    /// A daemon that was started anew remembers nothing.
    fn forget(&mut self) {
        let gateway = self.scene.node.config.guacamole.clone().unwrap();
        self.guacamole = Guacamole::with(&gateway, Secret::new("s e&cret".to_owned())).unwrap();
    }

    async fn look(&self) -> Result<(), String> {
        self.guacamole.look(&self.scene.node).await.map_err(|refusal| refusal.message)
    }

    fn names(&self) -> Vec<String> {
        let desk = self.desk.lock().unwrap();
        desk.connections.values().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn close(self) {
        self.scene.close().await;
        self.serving.abort();
    }
}

#[tokio::test]
async fn a_connection_is_there_as_long_as_the_computer_may_be_used() {
    let mut site = Site::new().await;
    site.desk.lock().unwrap().connections.extend([
        ("900".to_owned(), json!({"identifier": "900", "name": "somebody's (vcld)"})),
        ("901".to_owned(), json!({"identifier": "901", "name": "c2 ssh bob (other 1)"})),
        ("902".to_owned(), json!({"identifier": "902", "name": "c2 ssh bob (vcld 4711)"})),
    ]);
    let id = site.scene.reserve(site.scene.wish(), "alice").await;
    site.look().await.unwrap();
    let name = format!("c1 ssh alice (vcld {id})");
    assert_eq!(site.names(), [name.as_str(), "somebody's (vcld)", "c2 ssh bob (other 1)"]);
    let endpoint = site.scene.computer("c1").await.loaded.unwrap().endpoint;
    {
        let desk = site.desk.lock().unwrap();
        let made = &desk.connections["1"];
        let leads_to = json!({"hostname": endpoint.address.to_string(), "port": endpoint.port.to_string(),
            "username": "alice"});
        assert_eq!(
            (&made["protocol"], &made["parameters"], &made["parentIdentifier"]),
            (&json!("ssh"), &leads_to, &json!("ROOT"))
        );
        assert_eq!(desk.users["alice"], BTreeSet::from(["1".to_owned()]));
        assert!(desk.tokens.is_empty(), "it has signed out");
    }
    let connection = site.scene.node.connection(id, false).await.unwrap();
    assert!(connection.guacamole.unwrap().ends_with("/guacamole/"));

    // Nothing has changed: nothing is said. After a start all of it is said again, and nothing made twice.
    let (before, signed_in) = {
        let desk = site.desk.lock().unwrap();
        (desk.writes, desk.signed_in)
    };
    site.look().await.unwrap();
    assert_eq!(site.desk.lock().unwrap().signed_in, signed_in);
    site.forget();
    site.look().await.unwrap();
    assert_eq!(site.desk.lock().unwrap().writes, before + 2);
    assert_eq!(site.names().len(), 3);

    // Two nodes have made it at the same moment: the older one stays.
    {
        let mut desk = site.desk.lock().unwrap();
        let mut second = desk.connections["1"].clone();
        second["identifier"] = "950".into();
        desk.connections.insert("950".into(), second);
    }
    site.forget();
    site.look().await.unwrap();
    assert_eq!(site.names().len(), 3);
    assert!(site.desk.lock().unwrap().connections.contains_key("1"));

    // What is open is cut off with the end.
    site.desk.lock().unwrap().administers = true;
    site.desk.lock().unwrap().open = [("o1".into(), "1".into()), ("o2".into(), "900".into())].into();
    site.scene.node.release(id, false, "alice").await.unwrap();
    site.scene.quiet().await;
    site.look().await.unwrap();
    assert_eq!(site.names(), ["somebody's (vcld)", "c2 ssh bob (other 1)"]);
    {
        let desk = site.desk.lock().unwrap();
        assert_eq!(desk.open.keys().collect::<Vec<_>>(), ["o2"]);
        assert!(desk.users["alice"].is_empty());
    }
    site.close().await;
}

#[tokio::test]
async fn a_gateway_that_is_away_or_refuses_holds_up_nobody_and_is_told() {
    let site = Site::new().await;
    site.desk.lock().unwrap().away = true;
    let mut wish = site.scene.wish();
    wish.with = vec!["bob".into()];
    let id = site.scene.reserve(wish, "alice").await;
    assert_eq!(site.scene.reservation(id).await.state, vcl_types::state::reservation::State::Ready);
    let why = site.look().await.unwrap_err();
    assert!(why.contains("502") && why.contains("the servlet container starts"), "{why}");
    site.desk.lock().unwrap().away = false;
    // It is left alone for a while, whatever is asked for.
    site.look().await.unwrap();
    assert_eq!(site.desk.lock().unwrap().signed_in, 0);

    // One that it does not know keeps out nobody else, and not even is everything said again for them.
    site.guacamole.a_minute_later();
    let why = site.look().await.unwrap_err();
    assert!(why.contains("neither it nor vcld knows a user `bob`"), "{why}");
    assert_eq!(site.desk.lock().unwrap().users["alice"].len(), 1);
    let writes = site.desk.lock().unwrap().writes;
    site.look().await.unwrap();
    assert_eq!(site.desk.lock().unwrap().writes, writes);
    let (name, source) = ("bob".parse().unwrap(), Source::Local);
    site.scene.node.queue.add_user(NewUser { name, source, full_name: None, mail: None }).await.unwrap();
    site.guacamole.a_minute_later();
    let why = site.look().await.unwrap_err();
    assert!(why.contains("does not know `bob`, and the account may not create users"), "{why}");
    site.desk.lock().unwrap().creates_users = true;
    site.guacamole.a_minute_later();
    site.look().await.unwrap();
    let both = [format!("c1 ssh alice (vcld {id})"), format!("c1 ssh bob (vcld {id})")];
    let mut names = site.names();
    names.sort();
    assert_eq!(names, both);
    assert_eq!(site.desk.lock().unwrap().users["bob"].len(), 1);

    // What could not be removed is not forgotten.
    site.desk.lock().unwrap().keeps_connections = true;
    site.scene.node.release(id, false, "alice").await.unwrap();
    site.scene.quiet().await;
    let why = site.look().await.unwrap_err();
    assert!(why.contains("is not removed: 500: The database is read-only."), "{why}");
    site.desk.lock().unwrap().keeps_connections = false;
    site.guacamole.a_minute_later();
    site.look().await.unwrap();
    assert!(site.names().is_empty());
    site.close().await;
}

#[tokio::test]
async fn users_whose_names_come_to_one_account_have_one_connection() {
    let site = Site::new().await;
    site.desk.lock().unwrap().users.insert("alice@b".into(), BTreeSet::new());
    let mut wish = site.scene.wish();
    wish.with = vec!["alice@b".into()];
    let id = site.scene.reserve(wish, "alice").await;
    site.look().await.unwrap();
    assert_eq!(site.names(), [format!("c1 ssh alice (vcld {id})")]);
    {
        let desk = site.desk.lock().unwrap();
        assert_eq!(desk.users["alice"], desk.users["alice@b"]);
        assert_eq!(desk.users["alice"].len(), 1);
    }
    site.close().await;
}

#[tokio::test]
async fn a_guest_lets_the_gateway_in_as_well() {
    let site = Site::new().await;
    let id = site.scene.reserve(site.scene.wish(), "alice").await;
    let row = site.scene.node.queue.reservation(id).await.unwrap();
    let mut access = site.scene.node.access_of(&row, OsName::Linux).await.unwrap();
    let gateway: ipnet::IpNet = "10.0.0.9/32".parse().unwrap();
    for (from, opened) in [
        (Reach::Nobody, Reach::Only(vec![gateway])),
        (Reach::Everybody, Reach::Everybody),
        (
            Reach::Only(vec!["192.0.2.1/32".parse().unwrap()]),
            Reach::Only(vec!["192.0.2.1/32".parse().unwrap(), gateway]),
        ),
    ] {
        access.from = from;
        assert_eq!(site.scene.node.with_gateway(access.clone()).from, opened);
    }
    // By ways that it does not have nobody comes from there.
    access.methods.iter_mut().for_each(|method| method.name = "jupyter".into());
    access.from = Reach::Nobody;
    assert_eq!(site.scene.node.with_gateway(access).from, Reach::Nobody);
    site.close().await;
}
