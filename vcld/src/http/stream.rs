//! The stream of what happens, as server-sent events.

use super::problem::Query;
use super::seen;
use crate::node::Node;
use crate::rights::Who;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::wrappers::BroadcastStream;
use utoipa::IntoParams;
use vcl_types::JobId;
use vcl_types::api::StreamItem;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamAsked {
    /// Only what belongs to this job
    job: Option<i64>,
    /// Begin with the kept events after this number
    after: Option<i64>,
}

/// What happens from now on: each message's data is a `StreamItem`.
#[utoipa::path(get, path = "/v1/stream", params(StreamAsked),
    responses((status = 200, content_type = "text/event-stream", body = StreamItem)))]
pub(super) async fn stream(
    State(node): State<Arc<Node>>,
    who: Who,
    Query(asked): Query<StreamAsked>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let job = asked.job.map(JobId);
    // Subscribed before the kept ones are read, so that nothing falls between; what comes twice is dropped by number.
    let live = BroadcastStream::new(node.queue.subscribe());
    let kept = match asked.after {
        Some(after) => node.events(Some(after), job, 1000).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let last = kept.last().map_or(asked.after.unwrap_or(0), |e| e.id);
    let kept = stream::iter(kept).map(StreamItem::Event);
    // A subscriber that is too slow loses what it missed, not the daemon its memory.
    let live = live.map(|item| item.unwrap_or(StreamItem::Missed)).filter(move |item| {
        let wanted = match item {
            StreamItem::Event(event) => event.id > last && (job.is_none() || event.job == job),
            StreamItem::Progress { job: of, .. } | StreamItem::Changed { job: of } => {
                job.is_none_or(|job| job == *of)
            }
            StreamItem::Missed => true,
        };
        std::future::ready(wanted)
    });
    let (ending, jobs) = (seen::until_changed(node.clone(), who.clone()), seen::Jobs::default());
    let seen = stream::unfold(
        (Box::pin(kept.chain(live)), node, who, jobs),
        async |(mut items, node, who, mut jobs)| {
            loop {
                let item = items.next().await?;
                if jobs.has_item(&node, &who, &item).await {
                    return Some((item, (items, node, who, jobs)));
                }
            }
        },
    );
    let messages = seen.take_until(ending).map(|item| {
        let event = Event::default();
        let event = match &item {
            StreamItem::Event(e) => event.id(e.id.to_string()),
            _ => event,
        };
        Ok(event.json_data(&item).unwrap_or_else(|_| Event::default().comment("unreadable")))
    });
    Sse::new(messages).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}
