//! An OpenID Connect provider that vouches for people: by tokens that programs bring, by the authorization code flow with
//! PKCE, and by the device flow for machines without a browser.
//!
//! vcld speaks to the provider itself, so a client needs to know nothing of it, and a secret stays here. Discovery and keys
//! are kept for an hour, and for a day where the provider does not answer; a token of an unknown key makes us look again, at
//! most every few seconds. What is believed is what
//! is signed with a key of the provider's by an asymmetric algorithm, from the issuer, for us, and not over.

use super::tokens;
use crate::node::{Refusal, RefusalKind};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use vcl_queue::{Arrival, MOST_GROUPS};
use vcl_types::Secret;
use vcl_types::people::{Source, UserName};

/// How long the provider may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How large an answer of its may be.
const LARGEST: usize = 1 << 20;
/// How long what it says of itself is good.
const KEPT: Duration = Duration::from_secs(3600);
/// How long it is good while the provider does not answer.
const STALE: Duration = Duration::from_secs(86_400);
/// How often keys are looked for that are not known, and a provider is asked that did not answer.
const AGAIN: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 5 });
/// How long somebody may take to sign in.
const FLOW: Duration = Duration::from_secs(600);
/// How many may be about to, of all and from one address. The oldest makes room.
const FLOWS: (usize, usize) = (1000, 20);
/// How much clocks may differ, in seconds.
const LEEWAY: i64 = 60;
/// The algorithms that are believed: those whose key to check with is no key to sign with.
const BELIEVED: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

#[derive(Debug, Clone, Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    device_authorization_endpoint: Option<String>,
}

struct Known {
    discovery: Discovery,
    keys: JwkSet,
    at: Instant,
}

/// What is known of the provider.
#[derive(Default)]
struct Memory {
    known: Option<Known>,
    /// When it was last asked in vain, and what came of it.
    failed: Option<(Instant, String)>,
}

/// A sign-in that was begun.
#[derive(Clone)]
enum Flow {
    Code { verifier: String, nonce: String, redirect: String },
    Device { code: String },
}

struct Begun {
    at: Instant,
    /// From where, as far as it is one caller's.
    from: Option<String>,
    flow: Flow,
}

/// The provider.
pub(crate) struct Provider {
    table: vcl_config::Oidc,
    http: reqwest::Client,
    secret: Option<Secret>,
    memory: tokio::sync::Mutex<Memory>,
    flows: Mutex<HashMap<String, Begun>>,
}

/// What a token says, as far as it is read. A claim of another type than its own makes the token unreadable.
#[derive(Deserialize)]
struct Claims {
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    iat: Option<i64>,
    iss: String,
    aud: OneOrMore,
    #[serde(default)]
    azp: Option<String>,
    #[serde(default)]
    nonce: Option<String>,
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
}

#[derive(Deserialize)]
struct NoTokens {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

/// A device flow as it begins.
#[derive(Deserialize)]
pub(crate) struct Device {
    device_code: String,
    pub(crate) user_code: String,
    pub(crate) verification_uri: String,
    #[serde(default)]
    pub(crate) verification_uri_complete: Option<String>,
    pub(crate) expires_in: u64,
    #[serde(default)]
    pub(crate) interval: Option<u64>,
}

/// How far somebody is who signs in elsewhere.
pub(crate) enum Outcome {
    /// He has.
    Done(Arrival),
    /// Not yet.
    Pending,
}

fn away(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, format!("the sign-in provider {what}"))
}
fn no(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Forbidden, format!("the sign-in provider's word is not taken: {what}"))
}

impl Provider {
    pub(crate) fn new(table: vcl_config::Oidc, secret: Option<Secret>) -> Result<Self, Refusal> {
        let tls = super::ldap::client_config(table.ca.as_deref())?;
        let http = reqwest::Client::builder()
            .use_preconfigured_tls(tls)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER)
            .https_only(true)
            .user_agent(concat!("vcld/", env!("CARGO_PKG_VERSION")))
            .build();
        let http = http.map_err(|e| away(format!("cannot be spoken to: {e}")))?;
        Ok(Self { table, http, secret, memory: tokio::sync::Mutex::default(), flows: Mutex::default() })
    }

    async fn read(&self, mut answer: reqwest::Response) -> Result<(bool, Vec<u8>), Refusal> {
        let good = answer.status().is_success();
        let mut body = Vec::new();
        while let Some(piece) =
            answer.chunk().await.map_err(|e| away(format!("was cut off: {}", e.without_url())))?
        {
            if body.len() + piece.len() > LARGEST {
                return Err(away("answers with more than a mebibyte"));
            }
            body.extend_from_slice(&piece);
        }
        Ok((good, body))
    }
    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, Refusal> {
        let answer = self.http.get(url).send().await.map_err(|e| away(format!("does not answer: {e}")))?;
        let status = answer.status();
        let (good, body) = self.read(answer).await?;
        if !good {
            return Err(away(format!("answers {status} at {url}")));
        }
        serde_json::from_slice(&body).map_err(|e| away(format!("answers something else at {url}: {e}")))
    }
    async fn post(&self, url: &str, mut form: Vec<(&str, String)>) -> Result<(bool, Vec<u8>), Refusal> {
        form.push(("client_id", self.table.client_id.clone()));
        if let Some(secret) = &self.secret {
            form.push(("client_secret", secret.expose().to_owned()));
        }
        let body = form.iter().fold(Url::parse("form:").ok(), |url, (key, value)| {
            let mut url = url?;
            url.query_pairs_mut().append_pair(key, value);
            Some(url)
        });
        let body = body.and_then(|url| url.query().map(str::to_owned)).unwrap_or_default();
        let request =
            self.http.post(url).header("content-type", "application/x-www-form-urlencoded").body(body);
        // The error's text has the URL and not the form.
        let answer = request.send().await.map_err(|e| away(format!("does not answer: {e}")))?;
        self.read(answer).await
    }

    /// What the provider says of itself, and a key of it; looked for again when the key is not known.
    async fn known<T>(
        &self,
        key: Option<&str>,
        then: impl FnOnce(&Discovery, Option<&Jwk>) -> T,
    ) -> Result<T, Refusal> {
        let memory = tokio::time::timeout(ANSWER, self.memory.lock()).await;
        let mut memory = memory.map_err(|_| away("is slow; try again"))?;
        let has = |known: &Known| key.is_none_or(|key| known.keys.find(key).is_some());
        let good = memory.known.as_ref().is_some_and(|k| {
            let age = k.at.elapsed();
            age < KEPT && (has(k) || age < AGAIN)
        });
        if !good {
            let lately = memory.failed.as_ref().filter(|(at, _)| at.elapsed() < AGAIN);
            let asked = match lately {
                Some((_, why)) => Err(Refusal::new(RefusalKind::Unavailable, why.clone())),
                None => self.ask().await,
            };
            match asked {
                Ok(known) => *memory = Memory { known: Some(known), failed: None },
                Err(no) => {
                    if lately.is_none() {
                        memory.failed = Some((Instant::now(), no.message.clone()));
                    }
                    // What it said before is good for a while yet, if it is enough.
                    if !memory.known.as_ref().is_some_and(|k| has(k) && k.at.elapsed() < STALE) {
                        return Err(no);
                    }
                }
            }
        }
        let known = memory.known.as_ref().ok_or_else(|| away("is not known"))?;
        Ok(then(&known.discovery, key.and_then(|key| known.keys.find(key))))
    }
    /// What the provider says of itself now.
    async fn ask(&self) -> Result<Known, Refusal> {
        let issuer = self.table.issuer.trim_end_matches('/');
        let discovery: Discovery = self.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
        if discovery.issuer.trim_end_matches('/') != issuer {
            return Err(away(format!("calls itself {}, not {issuer}", discovery.issuer)));
        }
        let keys = self.keys(&discovery.jwks_uri).await?;
        Ok(Known { discovery, keys, at: Instant::now() })
    }
    /// The keys; one of a kind that is not understood is left out.
    async fn keys(&self, url: &str) -> Result<JwkSet, Refusal> {
        #[derive(Deserialize)]
        struct Raw {
            keys: Vec<Value>,
        }
        let raw: Raw = self.get(url).await?;
        let keys = raw.keys.into_iter().take(100).filter_map(|key| serde_json::from_value(key).ok());
        Ok(JwkSet { keys: keys.collect() })
    }

    /// Reads a token: signed by the provider, for `audience`, good now.
    async fn claims(&self, token: &str, audience: &str) -> Result<Claims, Refusal> {
        let header = jsonwebtoken::decode_header(token).map_err(|e| no(format!("it is no token ({e})")))?;
        if !BELIEVED.contains(&header.alg) {
            return Err(no(format!("it is signed with {:?}", header.alg)));
        }
        let id = header.kid.ok_or_else(|| no("it does not name its key"))?;
        let (issuer, key) = self
            .known(Some(&id), |known, key| (known.issuer.clone(), key.map(DecodingKey::from_jwk)))
            .await?;
        let key = key.ok_or_else(|| no("it is signed with a key that is not the provider's"))?;
        let key = key.map_err(|e| no(format!("its key is unusable ({e})")))?;
        // Signature alone; what it says is looked at below, where a claim of a wrong type cannot be one that is left out.
        let mut only_signed = Validation::new(header.alg);
        only_signed.required_spec_claims.clear();
        only_signed.validate_exp = false;
        only_signed.validate_aud = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &only_signed)
            .map_err(|e| no(format!("it does not hold ({e})")))?
            .claims;
        let now = chrono::Utc::now().timestamp();
        if claims.exp + LEEWAY <= now {
            return Err(no("it is over"));
        }
        if claims.nbf.is_some_and(|from| from > now + LEEWAY)
            || claims.iat.is_some_and(|at| at > now + LEEWAY)
        {
            return Err(no("it is of the future"));
        }
        if claims.iss != issuer {
            return Err(no(format!("it is from {}", claims.iss.escape_debug())));
        }
        let (for_us, several) = match &claims.aud {
            OneOrMore::One(one) => (one == audience, false),
            OneOrMore::More(all) => (all.iter().any(|one| one == audience), all.len() > 1),
        };
        if !for_us {
            return Err(no(format!("it is not for {audience}")));
        }
        if several && claims.azp.as_ref().is_some_and(|azp| *azp != self.table.client_id && *azp != audience)
        {
            return Err(no("it was given to another program"));
        }
        Ok(claims)
    }

    fn arrival(&self, claims: &Claims) -> Result<Arrival, Refusal> {
        let text = |name: &str| claims.others.get(name).and_then(Value::as_str);
        let name = text(&self.table.user_claim).ok_or_else(|| {
            no(format!("it does not say who it is: there is no `{}`", self.table.user_claim))
        })?;
        // Of ASCII alone: other letters become these by lower case, and would take another's name.
        let name: UserName = name.to_ascii_lowercase().parse().map_err(no)?;
        let groups = claims.others.get(&self.table.groups_claim).map(|value| match value {
            Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Value::String(one) => vec![one.clone()],
            _ => Vec::new(),
        });
        let groups = groups.map(|all: Vec<String>| {
            all.iter().take(MOST_GROUPS).filter_map(|group| group.parse().ok()).collect::<BTreeSet<_>>()
        });
        let short = |name: &str| text(name).filter(|text| text.len() <= 255).map(str::to_owned);
        Ok(Arrival {
            name,
            source: Source::Oidc,
            full_name: short("name"),
            mail: short("email"),
            groups,
            uid: None,
        })
    }

    /// Whom a token is of that a program brings, and when it ends.
    pub(crate) async fn bearer(&self, token: &str) -> Result<(Arrival, i64), Refusal> {
        let claims = self.claims(token, &self.table.audience).await?;
        Ok((self.arrival(&claims)?, claims.exp))
    }

    fn flows(&self) -> std::sync::MutexGuard<'_, HashMap<String, Begun>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn remember(&self, flow: Flow, from: Option<IpAddr>) -> Result<String, Refusal> {
        let state = tokens::random(16)?;
        let from = from.map(super::slow::caller);
        let mut flows = self.flows();
        flows.retain(|_, begun| begun.at.elapsed() < FLOW);
        let theirs = |begun: &Begun| from.is_some() && begun.from == from;
        if flows.values().filter(|begun| theirs(begun)).count() >= FLOWS.1 {
            forget_oldest(&mut flows, theirs);
        } else if flows.len() >= FLOWS.0 {
            forget_oldest(&mut flows, |_| true);
        }
        flows.insert(state.clone(), Begun { at: Instant::now(), from, flow });
        Ok(state)
    }
    /// A sign-in that was begun and is not over.
    fn begun(&self, state: &str) -> Result<Flow, Refusal> {
        let flows = self.flows();
        let found = flows.get(state).filter(|begun| begun.at.elapsed() < FLOW);
        let gone = || {
            Refusal::new(
                RefusalKind::NotFound,
                "this sign-in is not known, or over; begin again: vclctl login",
            )
        };
        found.map(|begun| begun.flow.clone()).ok_or_else(gone)
    }
    fn forget(&self, state: &str) {
        self.flows().remove(state);
    }

    /// Begins the code flow: where the browser goes, and what this sign-in is called.
    pub(crate) async fn begin_code(
        &self,
        redirect: &str,
        from: Option<IpAddr>,
    ) -> Result<(String, String), Refusal> {
        let url = Url::parse(redirect).ok();
        let local = url.as_ref().is_some_and(|url| {
            url.scheme() == "http" && matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"))
        });
        if !local {
            let message = "the redirect is to lead to the caller's own machine: http://127.0.0.1:PORT/";
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
        self.begin_code_to(redirect, from).await
    }

    /// The same, to an address that is known to be good.
    pub(crate) async fn begin_code_to(
        &self,
        redirect: &str,
        from: Option<IpAddr>,
    ) -> Result<(String, String), Refusal> {
        let (verifier, nonce) = (tokens::random(32)?, tokens::random(16)?);
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        let authorize = self.known(None, |known, _| known.authorization_endpoint.clone()).await?;
        let mut url =
            Url::parse(&authorize).map_err(|e| away(format!("has no address to sign in at: {e}")))?;
        let flow = Flow::Code { verifier, nonce: nonce.clone(), redirect: redirect.to_owned() };
        let state = self.remember(flow, from)?;
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.table.client_id)
            .append_pair("redirect_uri", redirect)
            .append_pair("scope", &self.table.scopes)
            .append_pair("state", &state)
            .append_pair("nonce", &nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok((url.into(), state))
    }

    /// Ends the code flow with the code that the browser brought.
    pub(crate) async fn end_code(&self, state: &str, code: &str) -> Result<Arrival, Refusal> {
        let Flow::Code { verifier, nonce, redirect } = self.begun(state)? else {
            return Err(no("this sign-in was begun on another way"));
        };
        // A code is good once, and so is what is asked with it.
        self.forget(state);
        let form = vec![
            ("grant_type", "authorization_code".to_owned()),
            ("code", code.to_owned()),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        let url = self.known(None, |known, _| known.token_endpoint.clone()).await?;
        match self.post(&url, form).await? {
            (true, body) => self.id_token(&body, Some(&nonce)).await,
            (false, body) => Err(no(explain(&body).1)),
        }
    }

    async fn id_token(&self, body: &[u8], nonce: Option<&str>) -> Result<Arrival, Refusal> {
        let tokens: Tokens = serde_json::from_slice(body)
            .map_err(|e| away(format!("gives something else than tokens: {e}")))?;
        let token =
            tokens.id_token.ok_or_else(|| away("gives no ID token; is `openid` among the scopes?"))?;
        let claims = self.claims(&token, &self.table.client_id).await?;
        if nonce.is_some() && claims.nonce.as_deref() != nonce {
            return Err(no("it is of another sign-in"));
        }
        self.arrival(&claims)
    }

    /// Begins the device flow, and answers what this sign-in is called.
    pub(crate) async fn begin_device(&self, from: Option<IpAddr>) -> Result<(Device, String), Refusal> {
        let url = self.known(None, |known, _| known.device_authorization_endpoint.clone()).await?;
        let url = url.ok_or_else(|| {
            Refusal::new(
                RefusalKind::Refused,
                "the provider has no device flow; sign in with a browser: vclctl login",
            )
        })?;
        let (good, body) = self.post(&url, vec![("scope", self.table.scopes.clone())]).await?;
        if !good {
            return Err(no(explain(&body).1));
        }
        let device: Device =
            serde_json::from_slice(&body).map_err(|e| away(format!("begins no device flow: {e}")))?;
        let state = self.remember(Flow::Device { code: device.device_code.clone() }, from)?;
        Ok((device, state))
    }

    /// Asks whether somebody has signed in on his other device. A provider that does not answer now is asked again.
    pub(crate) async fn end_device(&self, state: &str) -> Result<Outcome, Refusal> {
        let Flow::Device { code } = self.begun(state)? else {
            return Err(no("this sign-in was begun on another way"));
        };
        let form = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code".to_owned()),
            ("device_code", code),
        ];
        let url = self.known(None, |known, _| known.token_endpoint.clone()).await?;
        let (good, body) = self.post(&url, form).await?;
        if good {
            self.forget(state);
            return self.id_token(&body, None).await.map(Outcome::Done);
        }
        match explain(&body) {
            (error, _) if matches!(error.as_str(), "authorization_pending" | "slow_down") => {
                Ok(Outcome::Pending)
            }
            // A gateway's error page, and no word of the provider's.
            (error, said) if error.is_empty() => Err(away(said)),
            (_, said) => {
                self.forget(state);
                Err(no(said))
            }
        }
    }
}

fn forget_oldest(flows: &mut HashMap<String, Begun>, of: impl Fn(&Begun) -> bool) {
    let oldest = flows.iter().filter(|(_, begun)| of(begun)).min_by_key(|(_, begun)| begun.at);
    if let Some(state) = oldest.map(|(state, _)| state.clone()) {
        flows.remove(&state);
    }
}

/// What the provider says why not.
fn explain(body: &[u8]) -> (String, String) {
    let Ok(NoTokens { error, error_description }) = serde_json::from_slice::<NoTokens>(body) else {
        return (String::new(), "it gives no tokens and does not say why".into());
    };
    let said: String = error_description.unwrap_or_else(|| error.clone()).chars().take(200).collect();
    (error, said.escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> Provider {
        let table = vcl_config::Oidc {
            // Nobody listens there.
            issuer: "https://127.0.0.1:1".into(),
            client_id: "vcld".into(),
            client_secret: None,
            ca: None,
            audience: "vcld".into(),
            user_claim: "preferred_username".into(),
            groups_claim: "groups".into(),
            scopes: "openid".into(),
        };
        Provider::new(table, None).unwrap()
    }
    fn device() -> Flow {
        Flow::Device { code: "x".into() }
    }
    fn discovery() -> Discovery {
        let text = r#"{"issuer":"i","authorization_endpoint":"a","token_endpoint":"t","jwks_uri":"j"}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn who_begins_many_sign_ins_keeps_nobody_else_from_it() {
        let provider = provider();
        let at = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        let mine = provider.remember(device(), at(1)).unwrap();
        let theirs: Vec<String> = (0..50).map(|_| provider.remember(device(), at(2)).unwrap()).collect();
        assert_eq!(provider.flows().len(), 1 + FLOWS.1);
        assert!(provider.begun(&mine).is_ok() && provider.begun(&theirs[0]).is_err());
        assert!(provider.begun(&theirs[49]).is_ok());
        for n in 0..2000 {
            provider.remember(device(), at(1000 + n)).unwrap();
        }
        assert_eq!(provider.flows().len(), FLOWS.0);
    }
    #[tokio::test]
    async fn a_sign_in_outlives_a_provider_that_does_not_answer() {
        let provider = provider();
        let state = provider.remember(device(), None).unwrap();
        let Err(no) = provider.end_device(&state).await else { panic!("nobody answers") };
        assert_eq!(no.kind, RefusalKind::Unavailable);
        assert!(provider.begun(&state).is_ok());
        assert!(provider.memory.lock().await.failed.is_some());
    }
    #[tokio::test]
    async fn what_a_provider_said_is_good_for_a_while_when_it_does_not_answer() {
        let provider = provider();
        let asked = async |hours: u64, key: Option<&str>| {
            let at = Instant::now().checked_sub(Duration::from_secs(hours * 3600))?;
            let known = Known { discovery: discovery(), keys: JwkSet { keys: Vec::new() }, at };
            *provider.memory.lock().await = Memory { known: Some(known), failed: None };
            Some(provider.known(key, |known, _| known.token_endpoint.clone()).await.map_err(|no| no.kind))
        };
        let known =
            |said: Option<Result<String, RefusalKind>>| said.is_none_or(|said| said == Ok("t".into()));
        assert!(known(asked(0, None).await) && known(asked(2, None).await));
        // A key that is not among what was said may be a new one.
        let away = |said: Option<_>| said.is_none_or(|said| said == Err(RefusalKind::Unavailable));
        assert!(away(asked(2, Some("new")).await) && away(asked(25, None).await));
    }
}
