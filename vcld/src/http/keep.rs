//! Keeping revisions: production, why one stays, the trash.

use super::access::Requester;
use super::problem::{Answer, Path};
use crate::node::Node;
use axum::extract::State;
use std::sync::Arc;
use vcl_types::api::{Problem, RevisionView, TrashView, WhyKept};
use vcl_types::{ImageName, ImageRef};

/// Put a revision in production: nothing deletes it then.
#[utoipa::path(post, path = "/v1/images/{name}/{revision}/promote",
    params(("name" = String, Path, description = "The image"), ("revision" = u32, Path, description = "The revision")),
    responses((status = 200, body = RevisionView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn promote(
    State(node): State<Arc<Node>>,
    Requester(requester): Requester,
    Path((name, revision)): Path<(ImageName, u32)>,
) -> Answer<RevisionView> {
    node.promote(&ImageRef::new(name, revision), &requester).await.into()
}

/// Why a revision cannot be deleted.
#[utoipa::path(get, path = "/v1/images/{name}/{revision}/why",
    params(("name" = String, Path, description = "The image"), ("revision" = u32, Path, description = "The revision")),
    responses((status = 200, body = WhyKept), (status = 404, body = Problem)))]
pub(super) async fn why_kept(
    State(node): State<Arc<Node>>,
    Path((name, revision)): Path<(ImageName, u32)>,
) -> Answer<WhyKept> {
    node.why_kept(&ImageRef::new(name, revision)).await.into()
}

/// What is in this node's trash.
#[utoipa::path(get, path = "/v1/trash", responses((status = 200, body = [TrashView]), (status = 503, body = Problem)))]
pub(super) async fn trash(State(node): State<Arc<Node>>) -> Answer<Vec<TrashView>> {
    node.trash().await.into()
}
