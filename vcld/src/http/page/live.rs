//! The stream by which a view knows when to look again: topics, and nothing else.
//!
//! Each message has the topics of what has just happened, with blanks between: `jobs` and `job:12` when a job reads
//! differently, `computers` and `computer:gis-01` when something is about a computer, `all` when something was missed. Only what
//! the reader may see is told.

use super::super::seen;
use super::super::serve::Seat;
use super::Site;
use super::reader::Reader;
use crate::node::Node;
use crate::rights::Who;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream::{self, Stream, StreamExt as _};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::wrappers::BroadcastStream;
use vcl_types::api::StreamItem;

/// How many items are told in one message at most.
const AT_ONCE: usize = 256;
/// How many views one reader has open at once that look again by themselves.
const EACH: usize = 64;
/// How often something is sent when nothing happens, so that a connection that is gone is noticed.
const ALIVE: Duration = Duration::from_secs(25);

/// The topics of what happened.
fn topics(item: &StreamItem, into: &mut BTreeSet<String>) {
    match item {
        StreamItem::Changed { job } => {
            into.insert(format!("job:{job}"));
            into.insert("jobs".into());
        }
        // Only the job's own view shows bytes.
        StreamItem::Progress { job, .. } => {
            into.insert(format!("job:{job}"));
        }
        StreamItem::Event(event) => {
            if let Some(job) = event.job {
                into.insert(format!("job:{job}"));
            }
            if let Some(computer) = &event.computer {
                into.insert(format!("computer:{computer}"));
                into.insert("computers".into());
            }
            into.insert("jobs".into());
        }
        StreamItem::Missed => {
            into.insert("all".into());
        }
    }
}

/// What happens from now on.
pub(super) async fn live(State(page): Site, reader: Reader) -> Response {
    let Some(seat) = page.readers.enter(reader.who.name.clone(), EACH) else {
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "10")]).into_response();
    };
    stream_of(page.node.clone(), reader.who, seat).into_response()
}

fn stream_of(
    node: Arc<Node>,
    who: Who,
    seat: Seat<String>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ending = seen::until_changed(node.clone(), who.clone());
    // What happens in one moment is told at once.
    let items = BroadcastStream::new(node.queue.subscribe()).map(|item| item.unwrap_or(StreamItem::Missed));
    let items = Box::pin(items.ready_chunks(AT_ONCE));
    let told = stream::unfold(
        (items, node, who, seen::Jobs::default()),
        async |(mut items, node, who, mut jobs)| {
            loop {
                let mut told = BTreeSet::new();
                for item in items.next().await? {
                    if let Some(item) = jobs.seen(&node, &who, item).await {
                        topics(&item, &mut told);
                    }
                }
                if !told.is_empty() {
                    let text = told.into_iter().collect::<Vec<_>>().join(" ");
                    return Some((Ok(Event::default().data(text)), (items, node, who, jobs)));
                }
            }
        },
    );
    // The seat is kept for as long as the stream is.
    let told = told.map(move |told| {
        let _kept = &seat;
        told
    });
    Sse::new(told.take_until(ending)).keep_alive(KeepAlive::new().interval(ALIVE))
}

#[cfg(test)]
mod unit {
    use super::*;
    use vcl_types::JobId;

    #[test]
    fn what_happens_in_one_moment_is_told_once() {
        let mut told = BTreeSet::new();
        let progress = vcl_types::api::Progress { done: 1, total: 2 };
        topics(&StreamItem::Progress { job: JobId(7), step: "copy".into(), progress }, &mut told);
        assert_eq!(told.iter().map(String::as_str).collect::<Vec<_>>(), ["job:7"]);
        topics(&StreamItem::Changed { job: JobId(7) }, &mut told);
        topics(&StreamItem::Changed { job: JobId(7) }, &mut told);
        let event = serde_json::from_value(
            serde_json::json!({ "type": "event", "id": 1, "at": "2026-01-01T00:00:00Z",
            "kind": "x", "job": 8, "computer": "c1", "message": "" }),
        );
        topics(&event.unwrap(), &mut told);
        assert_eq!(
            told.into_iter().collect::<Vec<_>>(),
            ["computer:c1", "computers", "job:7", "job:8", "jobs"].map(String::from)
        );
    }
}
