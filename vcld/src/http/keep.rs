//! Keeping revisions: production, why one stays, the trash.

use super::access::About;
use super::pages::Page;
use super::problem::{Answer, Path, Query};
use crate::node::Node;
use crate::rights::{Subject, Who};
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use vcl_types::api::{Problem, RevisionView, TrashView, WhyKept};
use vcl_types::people::Verb;
use vcl_types::{ImageName, ImageRef};

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Promote {
    /// Although it has passed no test, where the site wants one; for administrators
    #[serde(default)]
    force: bool,
}

/// Put a revision in production: new reservations get it, and nothing deletes it then.
#[utoipa::path(post, path = "/v1/images/{name}/{revision}/promote",
    params(("name" = String, Path, description = "The image"), ("revision" = u32, Path, description = "The revision"), Promote),
    responses((status = 200, body = RevisionView), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn promote(
    State(node): State<Arc<Node>>,
    who: Who,
    Path((name, revision)): Path<(ImageName, u32)>,
    Query(Promote { force }): Query<Promote>,
) -> Response {
    let image = ImageRef::new(name, revision);
    let answer: Answer<RevisionView> = match who.may(Verb::Administer, &Subject::Nothing) {
        Err(no) if force => Answer::Err(no),
        _ => node.promote_as(&image, &who.name, force).await.into(),
    };
    let mut answer = answer.into_response();
    if force {
        answer.extensions_mut().insert(About(format!("{image}, by force")));
    }
    answer
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
#[utoipa::path(get, path = "/v1/trash", params(Page), responses((status = 200, body = [TrashView]), (status = 503, body = Problem)))]
pub(super) async fn trash(
    State(node): State<Arc<Node>>,
    who: Who,
    uri: Uri,
    Query(page): Query<Page>,
) -> Response {
    let key = |item: &TrashView| format!("{} {} {}", item.image, item.since.timestamp_millis(), item.why);
    page.of(super::seen::trash(&node, &who).await, key, &uri)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Site;
    use super::Verb;
    use axum::http::{Method, StatusCode};

    #[tokio::test]
    async fn only_an_administrator_promotes_what_has_passed_no_test_and_that_is_recorded() {
        let site = Site::new().await;
        let keeper = site.user("keeper", &[(Verb::Images, "all")]).await;
        let path = "/v1/images/debian/3/promote";
        let (plain, _) = site.with(&keeper, Method::POST, path, "").await;
        assert_eq!(plain, StatusCode::NOT_FOUND, "he may, and there is none");
        let forced = format!("{path}?force=true");
        assert_eq!(site.with(&keeper, Method::POST, &forced, "").await.0, StatusCode::FORBIDDEN);
        assert_eq!(site.as_root(Method::POST, &forced, "").await.0, StatusCode::NOT_FOUND);
        let filter = vcl_queue::DeedFilter { limit: 100, ..Default::default() };
        let deeds = site.node.queue.deeds(&filter).await.unwrap();
        let forced = deeds.iter().filter(|deed| deed.subject == "debian@3, by force");
        assert_eq!(forced.count(), 2, "{deeds:?}");
    }
}
