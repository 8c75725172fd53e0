//! A daemon that answers what a script says.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;

/// What was asked: `GET /v1/status`, and the body where there was one.
#[derive(Debug, Clone)]
pub struct Asked {
    pub what: String,
    pub body: Value,
}

/// What is answered.
pub enum Reply {
    Json(u16, Value),
    Bytes(Vec<u8>),
    /// Server-sent events; the stream stays open after the last of them, or ends.
    Events(Vec<Value>, End),
}
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Open,
    Closed,
}

pub fn ok(value: Value) -> Reply {
    Reply::Json(200, value)
}
pub fn problem(status: u16, kind: &str, message: &str) -> Reply {
    Reply::Json(status, json!({ "kind": kind, "message": message }))
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A fake daemon; it stops, with all its connections, when it is dropped.
pub struct Fake {
    pub socket: PathBuf,
    asked: Arc<Mutex<Vec<Asked>>>,
    runtime: Option<Runtime>,
}

impl Fake {
    pub fn start(directory: &Path, script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let socket = directory.join("vcld.sock");
        let _ = std::fs::remove_file(&socket);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&asked));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::bind(&socket).unwrap()
        };
        let router = Router::new()
            .fallback(move |request: Request| answer(request, Arc::clone(&script), Arc::clone(&log)));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { socket, asked, runtime: Some(runtime) }
    }
    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
    /// How often something was asked.
    pub fn count(&self, what: &str) -> usize {
        self.asked().iter().filter(|asked| asked.what == what).count()
    }
}
impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn answer(request: Request, script: Arc<Script>, log: Arc<Mutex<Vec<Asked>>>) -> Response {
    let what = format!("{} {}", request.method(), request.uri());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let asked = Asked { what, body: serde_json::from_slice(&body).unwrap_or(Value::Null) };
    log.lock().unwrap().push(asked.clone());
    match script(&asked) {
        Reply::Json(status, value) => {
            Response::builder().status(status).body(Body::from(value.to_string())).unwrap()
        }
        Reply::Bytes(bytes) => Response::new(Body::from(bytes)),
        Reply::Events(items, end) => {
            let items = items.into_iter().map(|item| format!(": comment\nid: 1\ndata: {item}\n\n"));
            let sent = futures::stream::iter(items).map(|text| Ok::<_, std::io::Error>(Bytes::from(text)));
            let open = futures::stream::pending().take(if end == End::Open { 1 } else { 0 });
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(Body::from_stream(sent.chain(open)))
                .unwrap()
        }
    }
}

/// Job 12: a load in some state, with steps given as `(name, state)`.
pub fn job(state: &str, steps: &[(&str, &str)]) -> Value {
    let steps: Vec<Value> = steps
        .iter()
        .map(|(name, state)| {
            let ended = matches!(*state, "done" | "failed" | "undone");
            json!({
                "name": name, "state": state, "started": (*state != "planned").then_some("2026-03-01T12:03:00Z"),
                "ended": ended.then_some("2026-03-01T12:03:00.300Z"), "progress": null,
                "error": (*state == "failed").then_some("no space left")
            })
        })
        .collect();
    let ended = matches!(state, "done" | "failed" | "cancelled" | "stuck");
    json!({
        "id": 12, "kind": "load", "title": "load b debian", "state": state,
        "reason": (state == "failed").then_some("no space left on kvm1; delete a revision"), "requester": "alice",
        "request": { "kind": "load", "computer": "b", "image": "debian" },
        "submitted": "2026-03-01T12:02:59Z", "started": "2026-03-01T12:03:00Z",
        "ended": ended.then_some("2026-03-01T12:03:12.100Z"), "result": (state == "done").then_some("debian@2"),
        "steps": steps
    })
}

pub fn event(kind: &str, message: &str) -> Value {
    json!({ "type": "event", "id": 1, "at": "2026-03-01T12:03:00Z", "kind": kind, "job": 12, "computer": "b",
        "message": message })
}

/// Computer b, loaded.
pub fn computer() -> Value {
    json!({
        "computer": { "name": "b", "backend": "kvm1", "cpus": null, "memory": null, "nics": [], "tags": [] },
        "state": "reserved", "reason": null, "job": null, "reservation": null, "power": "on",
        "loaded": { "image": "debian@2", "since": "2026-03-01T12:03:12Z", "endpoint": {
            "address": "127.0.0.1", "port": 40022, "user": "root",
            "host_keys": { "keys": [], "source": "first-use" } } }
    })
}
