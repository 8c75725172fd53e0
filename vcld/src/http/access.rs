//! The door: who asks is found out, the rule of what is asked for decides, and what was changed is recorded.
//!
//! Nobody reaches a handler but through here, and a request whose method and path have no rule reaches none.

use super::once;
use super::problem::{respond, unauthorized};
use super::rules::{self, Rule};
use crate::node::{Node, Refusal, RefusalKind};
use crate::people::tokens;
use crate::rights::Who;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use vcl_queue::{Arrival, Deed};
use vcl_types::people::{Source, UserName, Via};

/// The header with a request's number, both ways.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// What is at the other end of a connection. Whoever accepts one says so, and every request of it has it as an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    /// An account of this machine, over the unix socket.
    Local {
        /// Its name, or `uid N`.
        name: String,
        /// What it is here.
        standing: Local,
    },
    /// Somebody over TCP, at this address.
    Remote(IpAddr),
    /// The trusted proxy, which brings others.
    Proxy {
        /// The SHA-256, in hex, of what it has to send; `None` where the kernel has said that it is the proxy.
        secret: Option<String>,
    },
}

/// What an account of this machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    /// Root, the daemon's own account, or in `api.group`.
    Administrator,
    /// In `api.users_group`.
    User,
    /// Neither.
    Stranger,
}

impl Peer {
    /// An account of this machine, by what the kernel says of the process at the other end. It asks the name service,
    /// which may ask the network: not to be called where nothing may wait.
    pub(crate) fn local(credentials: Option<(u32, u32)>, group: &str, users: Option<&str>) -> Self {
        let Some((uid, gid)) = credentials else {
            return Self::Local { name: "somebody".into(), standing: Local::Stranger };
        };
        let user = uzers::get_user_by_uid(uid);
        let name = user.as_ref().map(|user| user.name().to_string_lossy().into_owned());
        let standing = if administers(uid, gid, name.as_deref(), group) {
            Local::Administrator
        } else if users.is_some_and(|users| within(name.as_deref(), gid, users)) {
            Local::User
        } else {
            Local::Stranger
        };
        Self::Local { name: name.unwrap_or_else(|| format!("uid {uid}")), standing }
    }
}

fn within(name: Option<&str>, gid: u32, group: &str) -> bool {
    let Some(wanted) = uzers::get_group_by_name(group) else { return false };
    let groups = || uzers::get_user_groups(name?, gid);
    wanted.gid() == gid || groups().is_some_and(|groups| groups.iter().any(|g| g.gid() == wanted.gid()))
}

/// Whether the kernel's word that it is this machine's own: root, or the account that the daemon has.
pub(super) fn of_the_machine(uid: u32) -> bool {
    uid == 0 || uid == uzers::get_current_uid()
}

fn administers(uid: u32, gid: u32, name: Option<&str>, group: &str) -> bool {
    of_the_machine(uid) || within(name, gid, group)
}

/// What a name is on this machine, if it is an administrator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserved {
    /// Root, or the daemon's own account.
    Machine,
    /// In `api.group`.
    Administrator,
}

/// What a name is on this machine; `None` for one that is no administrator's. It asks the name service, as
/// [`Peer::local`] does.
pub(crate) fn reserved(name: &str, group: &str) -> Option<Reserved> {
    let Some(user) = uzers::get_user_by_name(name) else {
        return (name == "root").then_some(Reserved::Machine);
    };
    let (uid, gid) = (user.uid(), user.primary_group_id());
    if of_the_machine(uid) {
        return Some(Reserved::Machine);
    }
    within(Some(name), gid, group).then_some(Reserved::Administrator)
}

/// The header with which the proxy proves itself where it comes over TCP.
const PROXY: &str = "x-vcld-proxy";
/// How long an answer waits for its record.
const RECORD: Duration = Duration::from_secs(5);
/// The header with the addresses that a request came by.
const FORWARDED: &str = "x-forwarded-for";

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let who = parts.extensions.get::<Self>().filter(|who| who.via != Via::Nobody);
        who.cloned().ok_or_else(unauthorized)
    }
}

/// What a changing request was about, where the path does not say; a handler puts it into its answer. One that has it is
/// recorded whatever its method.
#[derive(Debug, Clone)]
pub(super) struct About(pub(super) String);

/// Whether a change is asked for by the page itself, as far as a browser tells: it tells where a request comes from, whatever
/// the site says that sends it. What is no browser tells nothing, and is nobody whom another site could send.
pub(super) fn from_here(headers: &HeaderMap, page: Option<&str>) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("sec-fetch-site") {
        Some(site) => matches!(site, "same-origin" | "none"),
        None => match text("origin") {
            // A proxy may ask for another host than the browser did.
            Some(origin) if Some(origin) == page => true,
            Some(origin) => {
                let host = origin.split_once("://").map(|(_, host)| host);
                host.is_some() && host == text("host")
            }
            None => !headers.contains_key("origin"),
        },
    }
}

/// Who asks, where the page has found that out already. Nothing that comes from outside can bring one: it is no header.
#[derive(Debug, Clone)]
pub(super) struct Vouched(pub(super) Who);

/// A request's number: the caller's where it is sound, else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let sound = |id: &&str| (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    id.filter(sound).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// Finds out who asks, refuses what the rules refuse, records what changed something.
pub(super) async fn door(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let began = std::time::Instant::now();
    let (mut parts, body) = request.into_parts();
    let id = request_id(&parts.headers);
    let template = parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = parts.method.clone();
    let named = match RawPathParams::from_request_parts(&mut parts, &()).await {
        Ok(named) => named.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        Err(_) => HashMap::new(),
    };
    let rule = template.as_deref().and_then(|path| rules::of(&method, path));
    let vouched = parts.extensions.remove::<Vouched>();
    // A browser sends along what the proxy or the machine knows it by, whoever asked it to; a token it does not.
    let brought = vouched.is_none() && !parts.headers.contains_key(header::AUTHORIZATION);
    let changes = method != Method::GET && method != Method::HEAD;
    let identified = match (vouched, rule) {
        _ if brought && changes && !from_here(&parts.headers, node.config.page.url.as_deref()) => {
            let message = "another site asked for this, and it was not done".to_owned();
            Err(Box::new(respond(StatusCode::FORBIDDEN, "forbidden", message)))
        }
        (Some(Vouched(who)), _) => Ok(who),
        // Whoever is about to say who he is may bring a word that is good no more.
        (None, Some(Rule::Open)) => newcomer(&node, &parts),
        (None, _) => identify(&node, &parts).await,
    };
    let (who, mut answer) = match identified {
        Ok(who) => {
            let who = Who { request: id.clone(), from: from(&parts).or(who.from), ..who };
            match admit(&node, &who, (&method, template.as_deref()), rule, &named).await {
                Ok(()) => {
                    parts.extensions.insert(who.clone());
                    let key = parts
                        .headers
                        .get(once::KEY)
                        .filter(|_| method == Method::POST && who.via != Via::Nobody);
                    let key = key.map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
                    let request = Request::from_parts(parts, body);
                    let answer = match key {
                        Some(key) => once::once(node.clone(), &who, &key, request, next).await,
                        None => next.run(request).await,
                    };
                    (who, answer)
                }
                Err(no) => (who, *no),
            }
        }
        Err(no) => (Who { request: id.clone(), from: from(&parts), ..Who::nobody() }, *no),
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        answer.headers_mut().insert(REQUEST_ID, value);
    }
    let status = answer.status().as_u16();
    node.insight.metrics.answered(method.as_str(), template.as_deref(), status, began.elapsed());
    let about = answer.extensions().get::<About>().map(|About(about)| about.clone());
    if (about.is_some() || (method != Method::GET && method != Method::HEAD))
        && let Some(template) = template
    {
        // Whoever is nobody fills the record with nothing but tries to sign in, and of these no more than he may make.
        let tried = about.is_some() && answer.status() != StatusCode::TOO_MANY_REQUESTS;
        if who.via != Via::Nobody || tried {
            let about = about.unwrap_or_else(|| subject(&named));
            record(&node, &who, format!("{method} {template}"), about, answer.status()).await;
        }
    }
    answer
}

fn from(parts: &Parts) -> Option<IpAddr> {
    match parts.extensions.get::<Peer>() {
        Some(Peer::Remote(address)) => Some(*address),
        // The last one is the proxy's own word, the others are the caller's.
        Some(Peer::Proxy { .. }) => {
            let said = parts.headers.get_all(FORWARDED).iter().next_back()?.to_str().ok()?;
            said.rsplit(',').next()?.trim().parse().ok()
        }
        _ => None,
    }
}

/// Lets somebody on to the handler, or answers why not.
async fn admit(
    node: &Node,
    who: &Who,
    (method, template): (&Method, Option<&str>),
    rule: Option<Rule>,
    named: &HashMap<String, String>,
) -> Result<(), Box<Response>> {
    if rule == Some(Rule::Open) {
        return Ok(());
    }
    if who.via == Via::Nobody {
        return Err(Box::new(unauthorized()));
    }
    let Some(template) = template else { return Ok(()) }; // there is nothing there, and that is what is answered
    let Some(rule) = rule else {
        if !rules::RULES.iter().any(|(_, path, _)| *path == template) {
            tracing::error!(%method, template, "an endpoint without a rule: it is closed; this is a fault of vcld's");
            let message = "nobody may do this: vcld has no rule for it, which is a fault of vcld's".into();
            return Err(Box::new(respond(StatusCode::FORBIDDEN, "forbidden", message)));
        }
        return Ok(()); // the path is there and does not take the method, and that is what is answered
    };
    rules::check(node, who, rule, named).await.map_err(|no| Box::new(no.into_response()))
}

/// Refuses whoever comes to the proxy's address and is not the proxy.
fn genuine(parts: &Parts) -> Result<(), Box<Response>> {
    let Some(Peer::Proxy { secret: Some(secret) }) = parts.extensions.get::<Peer>() else { return Ok(()) };
    if one(&parts.headers, PROXY)?.is_none_or(|said| tokens::digest(said) != *secret) {
        tracing::warn!("somebody who is not the proxy came to its address");
        return Err(Box::new(unauthorized()));
    }
    Ok(())
}

/// Nobody yet. An account that may not use the socket does not sign in over it either.
fn newcomer(node: &Node, parts: &Parts) -> Result<Who, Box<Response>> {
    genuine(parts)?;
    match parts.extensions.get::<Peer>() {
        Some(Peer::Local { name, standing: Local::Stranger }) => Err(stranger(node, name)),
        _ => Ok(Who::nobody()),
    }
}

/// The no for an account of this machine that is in none of the groups. It stands in the log, which somebody limits.
fn stranger(node: &Node, account: &str) -> Box<Response> {
    tracing::warn!(account, "an account of this machine that may not use vcld came to its socket");
    let api = &node.config.api;
    let group = api.users_group.as_ref().unwrap_or(&api.group);
    let message = format!("you may not use vcld; let an administrator add you: usermod -aG {group} USER");
    Box::new(Refusal::new(RefusalKind::Forbidden, message).into_response())
}

/// Who reads the page: by the proxy's word where there is one, else by the token of the page's cookie.
///
/// # Errors
/// Whoever comes to the proxy's address and is not the proxy is refused as [`Unread::Refused`]; a word that is good no more is
/// [`Unread::Stale`].
pub(super) async fn reader(node: &Arc<Node>, parts: &Parts, token: Option<&str>) -> Result<Who, Unread> {
    genuine(parts).map_err(Unread::Refused)?;
    let who = known(node, parts, token).await.map_err(|no| match no.status() {
        StatusCode::UNAUTHORIZED => Unread::Stale,
        _ => Unread::Refused(no),
    })?;
    Ok(Who { from: from(parts), ..who })
}

/// Why it is not known who reads the page.
pub(super) enum Unread {
    /// What he has is good no more, or never was.
    Stale,
    /// He may not come, or nobody can tell.
    Refused(Box<Response>),
}

async fn known(node: &Arc<Node>, parts: &Parts, token: Option<&str>) -> Result<Who, Box<Response>> {
    let who = identify(node, parts).await?;
    let who = match token {
        Some(token) if who.via == Via::Nobody => by_token(node, token).await?,
        _ => who,
    };
    Ok(who)
}

/// Who has a token.
///
/// # Errors
/// It is not good, or that cannot be found out.
pub(super) async fn holder(node: &Arc<Node>, token: &str) -> Result<Who, Box<Response>> {
    by_token(node, token).await
}

/// Somebody who reads the page and is nobody yet.
pub(super) fn nobody(parts: &Parts) -> Who {
    Who { from: from(parts), ..Who::nobody() }
}

/// Who asks. That nobody says who he is is no error; that he says something wrong is.
async fn identify(node: &Arc<Node>, parts: &Parts) -> Result<Who, Box<Response>> {
    let refused = |no: Refusal| Box::new(no.into_response());
    let peer = parts.extensions.get::<Peer>();
    genuine(parts)?;
    // What the proxy was shown by whoever it brings is no token of ours.
    let proxied = matches!(peer, Some(Peer::Proxy { .. }));
    if let Some(token) = bearer(&parts.headers, proxied)? {
        return by_token(node, token).await;
    }
    match peer {
        Some(Peer::Local { name, standing: Local::Administrator }) => Ok(Who::administrator(name)),
        Some(Peer::Local { name, standing: Local::User }) => by_account(node, name).await.map_err(refused),
        Some(Peer::Local { name, standing: Local::Stranger }) => Err(stranger(node, name)),
        Some(Peer::Proxy { .. }) => {
            let Some(table) = &node.config.api.proxy else { return Ok(Who::nobody()) };
            let Some(name) = one(&parts.headers, &table.user_header)? else { return Ok(Who::nobody()) };
            // Of whom no group is told, he is in none there any more.
            let groups = one(&parts.headers, &table.groups_header)?.unwrap_or_default();
            let name = node.by_proxy(name, groups).await.map_err(refused)?;
            by_name(node, &name, Via::Proxy).await
        }
        Some(Peer::Remote(_)) | None => Ok(Who::nobody()),
    }
}

/// A header of the proxy's, if it has something in it. One that is there twice may have been added by whoever is behind
/// the proxy, and nothing of such a request is believed, nor of one that is no text.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Box<Response>> {
    let mut all = headers.get_all(name).iter();
    let Some(first) = all.next() else { return Ok(None) };
    match (all.next(), std::str::from_utf8(first.as_bytes())) {
        (None, Ok(text)) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        _ => {
            tracing::warn!(name, "a header of the proxy's came twice or is no text, and is not believed");
            Err(Box::new(unauthorized()))
        }
    }
}

/// A user whom somebody else has vouched for.
async fn by_name(node: &Arc<Node>, name: &str, via: Via) -> Result<Who, Box<Response>> {
    let refused = |no: Refusal| Box::new(no.into_response());
    let rights = node.rights().await.map_err(refused)?;
    let standing = node.user_standing(name, &rights).await.map_err(refused)?;
    let source = if via == Via::Oidc { Source::Oidc } else { Source::Proxy };
    match standing.filter(|standing| !standing.disabled && standing.source == source) {
        Some(standing) => Ok(Who { groups: standing.groups, via, rights, ..Who::nobody() }.named(name)),
        None => Err(Box::new(unauthorized())),
    }
}

/// The token of a request, if it brings one.
fn bearer(headers: &HeaderMap, others: bool) -> Result<Option<&str>, Box<Response>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    match text {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ if others => Ok(None),
        _ => Err(Box::new(unauthorized())),
    }
}

async fn by_token(node: &Arc<Node>, token: &str) -> Result<Who, Box<Response>> {
    let refused = |no: Refusal| Box::new(no.into_response());
    let Some((id, secret)) = tokens::parts(token) else {
        if node.config.api.oidc.is_none() || token.split('.').count() != 3 {
            return Err(Box::new(unauthorized()));
        }
        let (name, ends) = node.by_provider(token).await.map_err(|no| match no.kind {
            RefusalKind::Unavailable => refused(no),
            _ => {
                tracing::info!(why = no.message, "a provider's token is not taken");
                Box::new(unauthorized())
            }
        })?;
        let who = by_name(node, &name, Via::Oidc).await?;
        return Ok(Who { expires: chrono::DateTime::from_timestamp(ends, 0), ..who });
    };
    let rights = node.rights().await.map_err(refused)?;
    let row = node.token_row(id, &rights).await.map_err(refused)?;
    // Digests are compared, of which how far they agree says nothing of the secret.
    let row =
        row.filter(|row| row.digest == tokens::digest(secret)).ok_or_else(|| Box::new(unauthorized()))?;
    let view = row.view;
    if view.revoked.is_some() || view.expires.is_some_and(|end| end <= chrono::Utc::now()) {
        return Err(Box::new(unauthorized()));
    }
    let standing = node.user_standing(view.owner.as_str(), &rights).await.map_err(refused)?;
    let Some(standing) = standing.filter(|standing| !standing.disabled) else {
        return Err(Box::new(unauthorized()));
    };
    node.note_use(&view);
    Ok(Who {
        name: view.owner.to_string(),
        groups: standing.groups,
        via: Via::Token,
        scopes: view.scopes,
        token: Some(view.id),
        expires: view.expires,
        rights,
        ..Who::nobody()
    })
}

/// A user by his account on this machine: made when he first comes.
async fn by_account(node: &Arc<Node>, name: &str) -> Result<Who, Refusal> {
    let forbidden = |message: String| Refusal::new(RefusalKind::Forbidden, message);
    let user: UserName = name.parse().map_err(|e| forbidden(format!("you may not use vcld: {e}")))?;
    let mut rights = node.rights().await?;
    let mut standing = node.user_standing(name, &rights).await?;
    if standing.is_none() {
        let arrival = Arrival {
            name: user,
            source: Source::Local,
            full_name: None,
            mail: None,
            groups: None,
            uid: None,
        };
        node.queue.arrive(arrival).await?;
        rights = node.rights().await?;
        standing = node.user_standing(name, &rights).await?;
    }
    // A directory's users are this machine's accounts where it has both; a provider's may be anybody.
    match standing {
        Some(standing) if standing.disabled => Err(forbidden(format!("{name} is disabled here"))),
        Some(standing) if !matches!(standing.source, Source::Local | Source::Ldap) => Err(forbidden(
            format!("{name} signs in with {}, and not over this socket: vclctl login", standing.source),
        )),
        Some(standing) => {
            Ok(Who { groups: standing.groups, via: Via::Socket, rights, ..Who::nobody() }.named(name))
        }
        None => {
            Err(Refusal::new(RefusalKind::Unavailable, format!("{name} has just been removed; ask again")))
        }
    }
}

/// Records what was done, or tried. That it cannot be recorded is no reason to say it was not done.
async fn record(node: &Node, who: &Who, action: String, subject: String, status: StatusCode) {
    let deed = Deed {
        who: if who.name.is_empty() { "-".to_owned() } else { who.name.clone() },
        via: who.via,
        from: who.from.map(|address| address.to_string()),
        action,
        subject,
        status: status.as_u16(),
        request: who.request.clone(),
    };
    // One that is late is written all the same; nobody is kept waiting for it.
    let error = match tokio::time::timeout(RECORD, node.queue.record_deed(deed)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => vcl_job::chain(&error),
        Err(late) => late.to_string(),
    };
    tracing::error!(error, request = who.request, "a deed is not recorded, or late");
}

/// What the path says a request is about.
fn subject(named: &HashMap<String, String>) -> String {
    let order = ["name", "revision", "vm", "id", "user", "pattern"];
    let parts: Vec<&str> = order.iter().filter_map(|key| named.get(*key)).map(String::as_str).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_comes_twice_is_not_believed_and_one_that_is_empty_is_none() {
        let headers = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-groups", HeaderValue::from_bytes(value).unwrap());
            }
            one(&headers, "x-groups").map(|text| text.map(str::to_owned)).map_err(|no| no.status())
        };
        assert_eq!(headers(&[]), Ok(None));
        assert_eq!(headers(&[b" "]), Ok(None));
        assert_eq!(headers(&["Gruppe f\u{fc}r x".as_bytes()]), Ok(Some("Gruppe f\u{fc}r x".into())));
        assert_eq!(headers(&[b"a", b"b"]), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(headers(&[b"a\xff"]), Err(StatusCode::UNAUTHORIZED));
    }
    #[test]
    fn a_name_is_reserved_that_is_an_administrators_here() {
        assert_eq!(reserved("root", "no such group"), Some(Reserved::Machine));
        // Every system has this account, in a group of its own.
        assert_eq!(reserved("daemon", "daemon"), Some(Reserved::Administrator));
        assert_eq!(reserved("daemon", "no such group"), None);
        assert_eq!(reserved("nobody of this name", "daemon"), None);
    }
}
