//! The HTTP API: REST under `/v1`.
//!
//! Handlers only translate: a request becomes a call of [`Node`], its answer JSON. Who asks is found out at the `access`
//! door before any of them runs: on the socket by the peer's credentials, elsewhere by a token. What the request takes
//! stands in `rules`, and whether he has it is decided in `rights`.

mod access;
mod classes;
mod document;
mod handlers;
mod insight;
mod keep;
mod observe;
mod once;
mod page;
mod pages;
mod people;
mod problem;
mod reservations;
mod rules;
mod seen;
mod serve;
mod sign_in;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use crate::node::Node;
use access::Peer;
pub(crate) use access::{Reserved, reserved};
use anyhow::Context as _;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use vcl_config::Config;

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
        .routes(routes!(insight::configured))
        .routes(routes!(insight::why_reservation))
        .routes(routes!(reservations::reservations, reservations::reserve))
        .routes(routes!(reservations::reservation))
        .routes(routes!(reservations::extend))
        .routes(routes!(reservations::release))
        .routes(routes!(reservations::connect))
        .routes(routes!(reservations::reload))
        .routes(routes!(reservations::checkpoint))
        .routes(routes!(reservations::access))
        .routes(routes!(reservations::reboot))
        .routes(routes!(insight::undo))
        .routes(routes!(insight::plan_action))
        .routes(routes!(insight::orphans, insight::orphan))
        .routes(routes!(handlers::events))
        .routes(routes!(sign_in::ways, sign_in::password))
        .routes(routes!(sign_in::begin_code))
        .routes(routes!(sign_in::end_code))
        .routes(routes!(sign_in::begin_device))
        .routes(routes!(sign_in::end_device))
        .routes(routes!(people::set_password))
        .routes(routes!(classes::classes, classes::add_class))
        .routes(routes!(classes::class, classes::delete_class))
        .routes(routes!(classes::call_off))
        .routes(routes!(classes::maintenance, classes::add_maintenance))
        .routes(routes!(classes::end_maintenance))
        .routes(routes!(classes::hosts))
        .routes(routes!(classes::drain_host))
        .routes(routes!(classes::undrain_host))
        .routes(routes!(people::whoami))
        .routes(routes!(people::sign_out))
        .routes(routes!(people::users, people::add_user))
        .routes(routes!(people::user, people::change_user, people::delete_user))
        .routes(routes!(people::add_key))
        .routes(routes!(people::groups, people::add_group))
        .routes(routes!(people::group, people::delete_group))
        .routes(routes!(people::add_member, people::remove_member))
        .routes(routes!(people::image_groups, people::add_image_group))
        .routes(routes!(people::delete_image_group))
        .routes(routes!(people::add_image, people::remove_image))
        .routes(routes!(people::grants, people::add_grant))
        .routes(routes!(people::delete_grant))
        .routes(routes!(people::tokens, people::add_token))
        .routes(routes!(people::revoke_token))
        .routes(routes!(people::audit))
        .routes(routes!(observe::usage))
        .routes(routes!(observe::trends))
        .routes(routes!(observe::metrics))
        .routes(routes!(observe::healthz))
        .routes(routes!(observe::readyz))
        .routes(routes!(handlers::openapi))
}

/// The OpenAPI document, as it is checked in at `docs/openapi.json`.
#[must_use]
pub fn openapi() -> String {
    let (_, document) = api().routes(routes!(stream::stream)).split_for_parts();
    document::completed(document).to_pretty_json().unwrap_or_default()
}

/// Everything that answers, behind the door.
fn router(node: Arc<Node>) -> Router {
    let api = api_router(node.clone());
    page::router(node, api)
}

/// The API, behind its door.
fn api_router(node: Arc<Node>) -> Router {
    let (quick, _) = api().split_for_parts();
    let (streams, _) = OpenApiRouter::<Arc<Node>>::new().routes(routes!(stream::stream)).split_for_parts();
    let quick = quick.layer(tower_http::timeout::TimeoutLayer::with_status_code(
        axum::http::StatusCode::GATEWAY_TIMEOUT,
        LONGEST_REQUEST,
    ));
    quick
        .merge(streams)
        .fallback(problem::nowhere)
        .method_not_allowed_fallback(problem::not_so)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(node.clone(), access::door))
        .with_state(node)
}

/// The doors: opened before the daemon says that it is ready, so that what keeps one shut is said in time.
pub(crate) struct Doors {
    unix: UnixListener,
    tls: Option<(vcl_config::ApiTls, TcpListener, rustls::ServerConfig)>,
    proxy_socket: Option<(UnixListener, u32)>,
    proxy_address: Option<(TcpListener, Peer)>,
    metrics: Option<TcpListener>,
}

impl Doors {
    /// Opens what the configuration has beside the socket.
    ///
    /// # Errors
    /// An address or path that cannot be listened on; a certificate, credential or account that is not there.
    pub(crate) async fn open(config: &Config, unix: UnixListener) -> anyhow::Result<Self> {
        // LDAP and OIDC clients ask for it; another one that is installed already is the same.
        let _ = rustls::crypto::CryptoProvider::install_default(rustls::crypto::ring::default_provider());
        let bind = async |key: &str, address: std::net::SocketAddr| {
            TcpListener::bind(address).await.with_context(|| format!("{key} = \"{address}\""))
        };
        let tls = match &config.api.tls {
            None => None,
            Some(table) => {
                let identity = tls::identity(config, table)?;
                Some((table.clone(), bind("api.listen", table.listen).await?, identity))
            }
        };
        let proxy = config.api.proxy.as_ref();
        let proxy_socket = match proxy.and_then(|proxy| proxy.socket.as_ref()) {
            None => None,
            Some((path, account)) => {
                let uid = uzers::get_user_by_name(account).map(|user| user.uid());
                let uid = uid.with_context(|| format!("api.proxy.account: there is no account {account}"))?;
                Some((
                    proxy_socket(path, uid).with_context(|| format!("api.proxy.socket = \"{path}\""))?,
                    uid,
                ))
            }
        };
        let proxy_address = match proxy.and_then(|proxy| proxy.listen.as_ref()) {
            None => None,
            Some((address, secret)) => {
                let secret = crate::people::tokens::digest(config.credential(secret)?.expose());
                Some((bind("api.proxy.listen", *address).await?, Peer::Proxy { secret: Some(secret) }))
            }
        };
        let metrics = match config.metrics {
            Some(address) => Some(bind("metrics.listen", address).await?),
            None => None,
        };
        Ok(Self { unix, tls, proxy_socket, proxy_address, metrics })
    }
}

/// A socket for one account: it alone may open it, and the kernel is asked who is there all the same.
fn proxy_socket(path: &camino::Utf8Path, uid: u32) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // A daemon that may not give files away has a proxy that is in its group, or one that runs as itself.
    let mode = match std::os::unix::fs::chown(path, Some(uid), None) {
        Ok(()) => 0o600,
        Err(_) => 0o666,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Answers requests until told to stop.
pub(crate) async fn serve(node: Arc<Node>, doors: Doors, closing: CancellationToken) {
    let (router, config) = (router(node.clone()), &node.config);
    let (group, users) = (config.api.group.clone(), config.api.users_group.clone());
    let local = move |credentials| Peer::local(credentials, &group, users.as_deref());
    let unix =
        serve::unix(router.clone(), doors.unix, local, |uid| !access::of_the_machine(uid), closing.clone());
    let tls = async {
        if let Some((table, listener, identity)) = doors.tls {
            tls::serve(router.clone(), (config.clone(), table), listener, identity, closing.clone()).await;
        }
    };
    let proxy_socket = async {
        if let Some((listener, uid)) = doors.proxy_socket {
            let who = move |credentials: Option<(u32, u32)>| match credentials {
                Some((peer, _)) if peer == uid => Peer::Proxy { secret: None },
                _ => Peer::Local { name: "somebody".into(), standing: access::Local::Stranger },
            };
            // It brings everybody.
            serve::unix(router.clone(), listener, who, move |peer| peer != uid, closing.clone()).await;
        }
    };
    let proxy_address = async {
        if let Some((listener, peer)) = doors.proxy_address {
            tls::loopback(router.clone(), listener, peer, closing.clone()).await;
        }
    };
    let metrics = async {
        if let Some(listener) = doors.metrics {
            let loopback = Peer::Remote(std::net::Ipv4Addr::LOCALHOST.into());
            tls::loopback(observe::router(node.clone()), listener, loopback, closing.clone()).await;
        }
    };
    tokio::join!(unix, tls, proxy_socket, proxy_address, metrics);
}
