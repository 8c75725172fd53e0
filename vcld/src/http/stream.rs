//! The stream of what happens, as server-sent events.

use super::problem::Query;
use super::seen;
use crate::node::{Node, Refusal};
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
use vcl_types::api::{EventView, StreamItem};

/// How many kept events a stream begins with at most.
const KEPT: usize = 1000;

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
        Some(after) => node.events(Some(after), job, KEPT as u32).await,
        None => Ok(Vec::new()),
    };
    let (kept, last) = beginning(kept, asked.after);
    let kept = stream::iter(kept);
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
                if let Some(item) = jobs.seen(&node, &who, item).await {
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

/// What a stream begins with, and the number of the last event in it. Where not all that was kept is in it, the reader is
/// told to read the list.
fn beginning(kept: Result<Vec<EventView>, Refusal>, after: Option<i64>) -> (Vec<StreamItem>, i64) {
    let (kept, all) = match kept {
        Ok(kept) => (kept, true),
        Err(no) => {
            tracing::warn!(error = no.message, "a stream begins without the events that are kept");
            (Vec::new(), false)
        }
    };
    let (last, all) = (kept.last().map_or(after.unwrap_or(0), |e| e.id), all && kept.len() < KEPT);
    let missed = (!all).then_some(StreamItem::Missed);
    (kept.into_iter().map(StreamItem::Event).chain(missed).collect(), last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::RefusalKind;

    #[test]
    fn who_misses_kept_events_is_told_so() {
        let events = |n: usize| -> Vec<EventView> {
            let event = |id: usize| EventView {
                id: id as i64,
                at: chrono::Utc::now(),
                kind: "x".into(),
                job: None,
                computer: None,
                message: String::new(),
            };
            (5..5 + n).map(event).collect()
        };
        let missed = |items: &[StreamItem]| matches!(items.last(), Some(StreamItem::Missed));
        let (items, last) = beginning(Ok(events(3)), Some(4));
        assert_eq!((items.len(), last, missed(&items)), (3, 7, false));
        let (items, last) = beginning(Ok(events(KEPT)), Some(4));
        assert_eq!((items.len(), last, missed(&items)), (KEPT + 1, 1004, true));
        let (items, last) = beginning(Err(Refusal::new(RefusalKind::Unavailable, "away")), Some(4));
        assert_eq!((items.len(), last, missed(&items)), (1, 4, true));
        assert_eq!(beginning(Ok(Vec::new()), None), (Vec::new(), 0));
    }
}
