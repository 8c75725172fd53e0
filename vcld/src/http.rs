//! The HTTP API: REST under `/v1`, on a unix socket, for the people of one group.
//!
//! Handlers only translate: a request becomes a call of [`Node`], its answer JSON. Who asks is known from the socket's
//! peer credentials; whoever is neither root, nor the daemon's own user, nor in the configured group is refused.

mod access;
mod handlers;
mod insight;
mod keep;
mod problem;
mod stream;

use crate::node::Node;
use access::Peer;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// A request's body: the largest is an import with its hardware, well under this.
const LARGEST_BODY: usize = 256 * 1024;
/// How long a request may take that is not a stream. A graceful power-off or a busy libvirt may take most of it.
const LONGEST_REQUEST: Duration = Duration::from_secs(120);

#[derive(OpenApi)]
#[openapi(info(
    title = "vcld",
    description = "Lends machines: loads images on computers, captures them, takes them back.",
    license(name = "Apache-2.0", identifier = "Apache-2.0")
))]
struct Document;

fn api() -> OpenApiRouter<Arc<Node>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(handlers::status))
        .routes(routes!(handlers::doctor))
        .routes(routes!(handlers::computers))
        .routes(routes!(handlers::computer))
        .routes(routes!(handlers::power))
        .routes(routes!(handlers::console))
        .routes(routes!(handlers::screenshot))
        .routes(routes!(handlers::apply))
        .routes(routes!(handlers::leases))
        .routes(routes!(handlers::nodes))
        .routes(routes!(handlers::management_node))
        .routes(routes!(handlers::drain_node))
        .routes(routes!(handlers::undrain_node))
        .routes(routes!(handlers::images))
        .routes(routes!(handlers::image))
        .routes(routes!(keep::promote))
        .routes(routes!(keep::why_kept))
        .routes(routes!(keep::trash))
        .routes(routes!(handlers::backends))
        .routes(routes!(handlers::backend))
        .routes(routes!(handlers::vms))
        .routes(routes!(handlers::preview))
        .routes(routes!(handlers::jobs, handlers::submit))
        .routes(routes!(handlers::job))
        .routes(routes!(handlers::cancel))
        .routes(routes!(handlers::retry))
        .routes(routes!(handlers::abandon))
        .routes(routes!(handlers::plan))
        .routes(routes!(insight::evidence))
        .routes(routes!(insight::evidence_part))
        .routes(routes!(insight::why_job))
        .routes(routes!(insight::why_computer))
        .routes(routes!(insight::why_reservation))
        .routes(routes!(insight::undo))
        .routes(routes!(insight::plan_action))
        .routes(routes!(insight::orphans, insight::orphan))
        .routes(routes!(handlers::events))
        .routes(routes!(handlers::openapi))
}

/// The OpenAPI document, as it is checked in at `docs/openapi.json`.
#[must_use]
pub fn openapi() -> String {
    let (_, document) = api().routes(routes!(stream::stream)).split_for_parts();
    document.to_pretty_json().unwrap_or_default()
}

/// Answers requests until told to stop.
pub(crate) async fn serve(
    node: Arc<Node>,
    listener: UnixListener,
    closing: CancellationToken,
) -> std::io::Result<()> {
    let (quick, _) = api().split_for_parts();
    let (streams, _) = OpenApiRouter::<Arc<Node>>::new().routes(routes!(stream::stream)).split_for_parts();
    let quick = quick.layer(tower_http::timeout::TimeoutLayer::with_status_code(
        axum::http::StatusCode::GATEWAY_TIMEOUT,
        LONGEST_REQUEST,
    ));
    let router = quick
        .merge(streams)
        .fallback(problem::nowhere)
        .method_not_allowed_fallback(problem::not_so)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(node.clone(), access::only_the_group))
        .with_state(node);
    let service = router.into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, service).with_graceful_shutdown(async move { closing.cancelled().await }).await
}
