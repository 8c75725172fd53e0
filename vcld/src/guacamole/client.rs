//! What is said to Guacamole: its web application's own REST interface, as its source has it (1.4 and later).
//!
//! A sign-in answers a token and the data source; `Guacamole-Token` carries it. 403 is said of a token that is none (any more)
//! and of what an account may not do, 404 of a user or connection that is not there, 400 of a name that is taken. A user who is
//! created without a password gets one that nobody knows, so that they come in by whatever else vouches for them.

use super::Wanted;
use crate::node::{Refusal, RefusalKind, chain};
use anyhow::Context as _;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use vcl_types::Secret;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// More than this is no list of connections.
const LONGEST: usize = 32 << 20;

/// Where it is and who signs in.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    user: String,
    password: Secret,
    source: Option<String>,
}

/// A sign-in.
pub(super) struct Session<'a> {
    client: &'a Client,
    token: String,
    source: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedIn {
    auth_token: String,
    data_source: String,
}

#[derive(Deserialize)]
struct Listed {
    identifier: String,
    name: String,
}

#[derive(Deserialize)]
struct Told {
    message: Option<String>,
}

/// What became of a connection.
pub(super) enum Put {
    /// It is there, and its users are let in.
    Done,
    /// One of that name has come to be there meanwhile.
    There,
}

/// What it answered, and what it said if that was a no.
enum Answer {
    Done(Vec<u8>),
    No(StatusCode, String),
}

fn unavailable(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, format!("Guacamole: {what}"))
}

impl Client {
    pub(super) fn new(gateway: &vcl_config::Guacamole, password: Secret) -> anyhow::Result<Self> {
        let _ = rustls::crypto::CryptoProvider::install_default(rustls::crypto::ring::default_provider());
        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER)
            .user_agent(concat!("vcld/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &gateway.ca {
            let pem = std::fs::read(path).with_context(|| format!("guacamole.ca = \"{path}\""))?;
            let ca = reqwest::Certificate::from_pem(&pem);
            http = http.tls_certs_only([ca.with_context(|| format!("guacamole.ca = \"{path}\""))?]);
        }
        let base = Url::parse(&gateway.url).context("guacamole.url")?;
        if base.scheme() == "http" {
            // What is not encrypted stays on this machine.
            http = http.no_proxy();
        }
        Ok(Self {
            http: http.build().context("guacamole")?,
            base,
            user: gateway.user.clone(),
            password,
            source: gateway.source.clone(),
        })
    }

    /// An address below `api`; each part is one of its own, whatever is in it.
    fn at(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("api").extend(parts);
        }
        url
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<Answer, Refusal> {
        // The address of a sign-out holds the token.
        let trouble = |e: reqwest::Error| unavailable(chain(&e.without_url()));
        let mut answer = request.send().await.map_err(trouble)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(trouble)? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST {
                return Err(unavailable(format!("it answers with more than {LONGEST} bytes")));
            }
        }
        if status.is_success() {
            return Ok(Answer::Done(body));
        }
        let told = serde_json::from_slice::<Told>(&body).ok().and_then(|told| told.message);
        let told: String = told.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
        Ok(Answer::No(status, told))
    }

    /// Signs in.
    ///
    /// # Errors
    /// It does not answer, or does not take the account.
    pub(super) async fn sign_in(&self) -> Result<Session<'_>, Refusal> {
        let form = [("username", self.user.as_str()), ("password", self.password.expose())];
        let request = self.http.post(self.at(&["tokens"])).form(&form);
        match self.ask(request).await? {
            Answer::Done(body) => {
                let signed: SignedIn = parsed(&body)?;
                let source = self.source.clone().unwrap_or(signed.data_source);
                Ok(Session { client: self, token: signed.auth_token, source })
            }
            Answer::No(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, _) => {
                Err(unavailable(format!("it does not take the account `{}` and its password", self.user)))
            }
            Answer::No(status, told) => {
                Err(unavailable(format!("the sign-in is answered {}: {told}", status.as_u16())))
            }
        }
    }
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|e| unavailable(format!("it answers what cannot be read; is its address right? {e}")))
}

/// Whether a name is of a connection of this mark's.
fn is_ours(name: &str, mark: &str) -> bool {
    let number = name.strip_suffix(')').and_then(|name| name.rsplit_once(" (")).map(|(_, inside)| inside);
    let number = number.and_then(|inside| inside.strip_prefix(mark)?.strip_prefix(' '));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

impl Session<'_> {
    async fn ask(&self, method: Method, parts: &[&str], body: Option<Value>) -> Result<Answer, Refusal> {
        let mut all = vec!["session", "data", self.source.as_str()];
        all.extend(parts);
        let request = self.client.http.request(method, self.client.at(&all));
        let request = request.header("guacamole-token", &self.token);
        self.client.ask(if let Some(body) = body { request.json(&body) } else { request }).await
    }

    /// Ends it. One that is left over ends by itself within the hour.
    pub(super) async fn sign_out(self) {
        let request = self.client.http.delete(self.client.at(&["tokens", &self.token]));
        if let Err(refusal) = self.client.ask(request).await {
            tracing::debug!(reason = refusal.message, "not signed out");
        }
    }

    /// The connections of a mark: what each is called, and what it is known by, the oldest first. Names at the top are not kept
    /// apart by all databases, so that two nodes can have made one each.
    pub(super) async fn connections(&self, mark: &str) -> Result<BTreeMap<String, Vec<String>>, Refusal> {
        match self.ask(Method::GET, &["connections"], None).await? {
            Answer::Done(body) => {
                let all: BTreeMap<String, Listed> = parsed(&body)?;
                let mut own: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for listed in all.into_values().filter(|listed| is_ours(&listed.name, mark)) {
                    own.entry(listed.name).or_default().push(listed.identifier);
                }
                own.values_mut().for_each(|ids| ids.sort_by_key(|id| (id.len(), id.clone())));
                Ok(own)
            }
            Answer::No(StatusCode::NOT_FOUND, _) => Err(unavailable(format!(
                "it has no data source `{}` that keeps connections; see guacamole.source",
                self.source
            ))),
            Answer::No(status, told) => {
                Err(unavailable(format!("its connections are not told: {}: {told}", status.as_u16())))
            }
        }
    }

    /// Removes a connection, and cuts off whoever has it open; `false` if the account may not do the latter. One that is gone
    /// already is fine.
    pub(super) async fn remove(&self, id: &str) -> Result<bool, Refusal> {
        let cut = self.cut(id).await?;
        match self.ask(Method::DELETE, &["connections", id], None).await? {
            Answer::Done(_) | Answer::No(StatusCode::NOT_FOUND, _) => Ok(cut),
            Answer::No(status, told) => {
                Err(unavailable(format!("connection {id} is not removed: {}: {told}", status.as_u16())))
            }
        }
    }

    /// Ends what is open of a connection. Only who administers the system may.
    async fn cut(&self, id: &str) -> Result<bool, Refusal> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Active {
            identifier: String,
            connection_identifier: Option<String>,
        }
        let Answer::Done(body) = self.ask(Method::GET, &["activeConnections"], None).await? else {
            return Ok(false);
        };
        let all: BTreeMap<String, Active> = parsed(&body)?;
        let open = all.into_values().filter(|one| one.connection_identifier.as_deref() == Some(id));
        let cut: Vec<Value> =
            open.map(|one| json!({"op": "remove", "path": format!("/{}", one.identifier)})).collect();
        if cut.is_empty() {
            return Ok(true);
        }
        let answer = self.ask(Method::PATCH, &["activeConnections"], Some(cut.into())).await?;
        Ok(matches!(answer, Answer::Done(_)))
    }

    /// Makes a connection, or changes the one that is there, and lets its users open it.
    pub(super) async fn put(&self, id: Option<&str>, name: &str, want: &Wanted) -> Result<Put, Refusal> {
        let body = json!({
            "parentIdentifier": "ROOT",
            "name": name,
            "protocol": want.protocol,
            "parameters": want.parameters,
            "attributes": {},
        });
        let made = match id {
            Some(id) => self.ask(Method::PUT, &["connections", id], Some(body)).await?,
            None => self.ask(Method::POST, &["connections"], Some(body)).await?,
        };
        let id = match (made, id) {
            (Answer::Done(_), Some(id)) => id.to_owned(),
            (Answer::Done(body), None) => parsed::<Listed>(&body)?.identifier,
            (Answer::No(StatusCode::BAD_REQUEST, told), None) if told.contains("already exists") => {
                return Ok(Put::There);
            }
            // It was removed meanwhile.
            (Answer::No(StatusCode::NOT_FOUND, _), Some(_)) => return Ok(Put::There),
            (Answer::No(status, told), _) => {
                let why = match status {
                    StatusCode::FORBIDDEN => "the account may not create connections".to_owned(),
                    _ => format!("{}: {told}", status.as_u16()),
                };
                return Err(unavailable(format!("`{name}` is not made: {why}")));
            }
        };
        let mut failed = Ok(Put::Done);
        for (user, known) in &want.users {
            if let Err(why) = self.let_in(&id, name, user, *known).await {
                failed = Err(why);
            }
        }
        failed
    }

    async fn let_in(&self, id: &str, name: &str, user: &str, known: bool) -> Result<(), Refusal> {
        if self.permit(id, user).await? {
            return Ok(());
        }
        if !known {
            return Err(unavailable(format!("`{name}`: neither it nor vcld knows a user `{user}`")));
        }
        let body = json!({"username": user, "attributes": {}});
        if let Answer::No(status, told) = self.ask(Method::POST, &["users"], Some(body)).await? {
            let why = match status {
                StatusCode::FORBIDDEN => "and the account may not create users".to_owned(),
                _ => format!("and they are not created: {}: {told}", status.as_u16()),
            };
            return Err(unavailable(format!("`{name}`: it does not know `{user}`, {why}")));
        }
        match self.permit(id, user).await? {
            true => Ok(()),
            false => Err(unavailable(format!("it has created `{user}` and does not know them"))),
        }
    }

    /// Lets the user open it; `false` if there is no such user.
    async fn permit(&self, id: &str, user: &str) -> Result<bool, Refusal> {
        let path = format!("/connectionPermissions/{id}");
        let patch = json!([{"op": "add", "path": path, "value": "READ"}]);
        match self.ask(Method::PATCH, &["users", user, "permissions"], Some(patch)).await? {
            Answer::Done(_) => Ok(true),
            Answer::No(StatusCode::NOT_FOUND, _) => Ok(false),
            Answer::No(status, told) => {
                let why = match status {
                    StatusCode::FORBIDDEN => "the account may not administer them".to_owned(),
                    _ => format!("{}: {told}", status.as_u16()),
                };
                Err(unavailable(format!("`{user}` is not let in: {why}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_what_bears_the_mark_is_ours() {
        for (name, ours) in [
            ("gis-01 ssh alice (vcld 12)", true),
            ("x (vcld 1)", true),
            ("gis-01 ssh alice (vcld-b 12)", false),
            ("gis-01 ssh alice (vcld )", false),
            ("gis-01 (vcld 12) old", false),
            ("our own (vcld)", false),
            ("vcld 12", false),
        ] {
            assert_eq!(is_ours(name, "vcld"), ours, "{name}");
        }
    }
}
