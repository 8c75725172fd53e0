//! Who may ask: the peer credentials of the socket decide.

use super::problem::Answer;
use crate::node::{Node, Refusal, RefusalKind};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use std::sync::Arc;
use tokio::net::UnixListener;

/// The process at the other end of a connection, as the kernel names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(Option<(u32, u32)>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|c| (c.uid(), c.gid())))
    }
}

/// The name of whoever asks, for the record.
pub(super) struct Requester(pub(super) String);

impl<S: Sync> FromRequestParts<S> for Requester {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let uid = parts
            .extensions
            .get::<ConnectInfo<Peer>>()
            .and_then(|ConnectInfo(Peer(ids))| ids.map(|(uid, _)| uid));
        let name = uid.map_or_else(
            || "somebody".to_owned(),
            |uid| {
                uzers::get_user_by_uid(uid)
                    .map_or_else(|| format!("uid {uid}"), |u| u.name().to_string_lossy().into_owned())
            },
        );
        Ok(Self(name))
    }
}

/// Lets root, the daemon's own user and the configured group in.
pub(super) async fn only_the_group(
    State(node): State<Arc<Node>>,
    ConnectInfo(Peer(ids)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let group = &node.config.api.group;
    if let Some((uid, gid)) = ids
        && (uid == 0 || uid == uzers::get_current_uid() || in_group(uid, gid, group))
    {
        return next.run(request).await;
    }
    let message = format!("you may not use vcld; let an administrator add you: usermod -aG {group} USER");
    Answer::<()>::Err(Refusal::new(RefusalKind::Refused, message)).into_forbidden().into_response()
}

fn in_group(uid: u32, gid: u32, group: &str) -> bool {
    let Some(wanted) = uzers::get_group_by_name(group) else { return false };
    if wanted.gid() == gid {
        return true;
    }
    let Some(user) = uzers::get_user_by_uid(uid) else { return false };
    uzers::get_user_groups(user.name(), gid)
        .is_some_and(|groups| groups.iter().any(|g| g.gid() == wanted.gid()))
}
