//! Signing in: somebody proves who he is, to us or to whoever vouches for him, and gets a token.

use super::oidc::{Device, Outcome, Provider};
use super::tokens::{self, Wanted};
use crate::http::{Reserved, reserved};
use crate::node::{Node, Refusal, RefusalKind};
use chrono::{TimeDelta, Utc};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use vcl_queue::Arrival;
use vcl_types::Secret;
use vcl_types::api::{TokenMade, WaysIn};
use vcl_types::people::{Source, UserName};

/// How long a provider's token is taken without looking at it again.
const TAKEN: Duration = Duration::from_secs(300);
/// How long this machine's name service may take.
const ACCOUNTS: Duration = Duration::from_secs(10);
/// The longest token of a provider's.
const LONGEST: usize = 16 * 1024;

/// Why somebody is not signed in.
pub(crate) enum NotIn {
    /// The name or the password is wrong; it is not said which.
    Wrong,
    /// He has to wait first.
    Slow(Duration),
    /// Anything else.
    Refused(Refusal),
}

impl From<Refusal> for NotIn {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The user of a name as somebody types it.
pub(crate) fn named(name: &str) -> Option<UserName> {
    name.trim().to_ascii_lowercase().parse().ok()
}

/// A provider's token, or a word of the proxy's, that was looked at.
pub(crate) struct Taken {
    pub(super) user: String,
    pub(super) until: Instant,
    pub(super) ends: i64,
    /// What the proxy told of groups; it holds for the same word alone.
    pub(super) groups: String,
}

impl Node {
    /// Which ways to sign in there are.
    pub(crate) fn ways_in(&self) -> WaysIn {
        // vcld's own table is always there.
        WaysIn { password: true, oidc: self.config.api.oidc.as_ref().map(|oidc| oidc.issuer.clone()) }
    }

    /// Signs somebody in by name and password.
    ///
    /// # Errors
    /// [`NotIn`].
    pub(crate) async fn sign_in(
        &self,
        (name, password): (&str, Secret),
        from: Option<IpAddr>,
        label: Option<String>,
    ) -> Result<TokenMade, NotIn> {
        let name = named(name).ok_or(NotIn::Wrong)?;
        self.people.slow.begin(name.as_str(), from, Instant::now()).map_err(NotIn::Slow)?;
        if password.expose().len() > *super::passwords::LENGTHS.end() {
            return Err(NotIn::Wrong);
        }
        match self.vouched(&name, password).await {
            Ok(Some(arrival)) => {
                self.people.slow.succeeded(name.as_str(), from);
                self.arrived(arrival).await?;
                Ok(self.signed_in(name, label).await?)
            }
            Ok(None) => Err(NotIn::Wrong),
            Err(no) => {
                // A directory that is away makes nobody a guesser.
                self.people.slow.forgiven(name.as_str(), from);
                Err(no.into())
            }
        }
    }

    /// Asks whoever vouches for a user whether it is his password.
    async fn vouched(&self, name: &UserName, password: Secret) -> Result<Option<Arrival>, Refusal> {
        let known = self.queue.standing_of(name.as_str()).await?;
        let ours = known.as_ref().is_some_and(|standing| standing.source == Source::Local);
        match &self.config.api.ldap {
            Some(table) if !ours => {
                let bind = match &table.people {
                    vcl_config::LdapPeople::Search { bind: Some((_, credential)), .. } => {
                        let secret = self.config.credential(credential);
                        let unread = |e| Refusal::new(RefusalKind::Unavailable, crate::node::chain(&e));
                        Some(secret.map_err(unread)?)
                    }
                    _ => None,
                };
                super::ldap::sign_in(table, bind, name, &password).await
            }
            _ => {
                let right = self.is_password_of(name.as_str(), password).await?;
                let (full_name, mail, groups) = (None, None, None);
                let arrival =
                    Arrival { name: name.clone(), source: Source::Local, full_name, mail, groups, uid: None };
                Ok(right.then_some(arrival))
            }
        }
    }

    /// Whether somebody who has a token is who he says, by his present password; a user without one needs none.
    ///
    /// # Errors
    /// It is not his, or was not said; too many tries failed.
    pub(crate) async fn prove_password(
        &self,
        name: &UserName,
        old: Option<Secret>,
        from: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        if self.queue.password_of(name.as_str()).await?.is_none() {
            return Ok(());
        }
        let forbidden = |message: &str| Err(Refusal::new(RefusalKind::Forbidden, message));
        let Some(old) = old.filter(|old| old.expose().len() <= *super::passwords::LENGTHS.end()) else {
            return forbidden(
                "whoever changes their password with a token says the present one too, as `old`",
            );
        };
        self.people.slow.begin(name.as_str(), from, Instant::now()).map_err(|wait| {
            let seconds = wait.as_secs().max(1);
            Refusal::new(RefusalKind::Busy, format!("too many tries failed; try again in {seconds} s"))
        })?;
        let right = self.is_password_of(name.as_str(), old).await.inspect_err(|_| {
            // A database that is away makes nobody a guesser.
            self.people.slow.forgiven(name.as_str(), from);
        })?;
        if !right {
            return forbidden("the present password is wrong");
        }
        self.people.slow.succeeded(name.as_str(), from);
        Ok(())
    }

    async fn what_is(&self, name: &UserName) -> Result<Option<Reserved>, Refusal> {
        let (name, group) = (name.to_string(), self.config.api.group.clone());
        let asking = tokio::task::spawn_blocking(move || reserved(&name, &group));
        match tokio::time::timeout(ACCOUNTS, asking).await {
            Ok(Ok(found)) => Ok(found),
            _ => {
                let message = "the accounts of vcld's node cannot be looked up; try again";
                Err(Refusal::new(RefusalKind::Unavailable, message))
            }
        }
    }
    /// Whether a name is that of an administrator's account on this machine.
    ///
    /// # Errors
    /// The name service does not answer.
    pub(crate) async fn reserved(&self, name: &UserName) -> Result<bool, Refusal> {
        Ok(self.what_is(name).await?.is_some())
    }

    /// Takes somebody in whom another vouches for. The name of an administrator of this machine is for whom one of them
    /// has made a user of it, who is vouched for by the same.
    async fn arrived(&self, arrival: Arrival) -> Result<(), Refusal> {
        let forbidden = |message| Err(Refusal::new(RefusalKind::Forbidden, message));
        let (name, source) = (&arrival.name, arrival.source);
        match self.what_is(name).await? {
            Some(Reserved::Machine) if source != Source::Local => {
                return forbidden(format!(
                    "{name} is an account of this machine's system, and nobody else's name"
                ));
            }
            Some(Reserved::Administrator) if self.queue.standing_of(name.as_str()).await?.is_none() => {
                return forbidden(format!(
                    "{name} is an administrator's account on vcld's node; if they are one and the same, there: \
                     vclctl user add {name} --source {source}"
                ));
            }
            _ => {}
        }
        self.queue.arrive(arrival).await.map_err(|e| match e.kind {
            vcl_queue::Kind::Refused => Refusal::new(RefusalKind::Forbidden, e.context),
            _ => e.into(),
        })
    }

    async fn signed_in(&self, owner: UserName, label: Option<String>) -> Result<TokenMade, Refusal> {
        let good = TimeDelta::from_std(self.config.api.sign_in).unwrap_or(TimeDelta::hours(12));
        let label = label.filter(|label| !label.trim().is_empty()).unwrap_or_else(|| "sign-in".into());
        self.make_token(Wanted { owner, label, scopes: None, expires: Some(Utc::now() + good) }).await
    }

    /// The provider, where there is one; spoken to for the first time when it is first needed.
    pub(crate) fn provider(&self) -> Result<&Provider, Refusal> {
        let Some(table) = &self.config.api.oidc else {
            let message =
                "vcld has no OpenID Connect provider; sign in with a password: vclctl login --user NAME";
            return Err(Refusal::new(RefusalKind::Refused, message));
        };
        if let Some(provider) = self.people.provider.get() {
            return Ok(provider);
        }
        let secret = table.client_secret.as_ref().map(|name| self.config.credential(name)).transpose();
        let secret = secret.map_err(|e| Refusal::new(RefusalKind::Unavailable, crate::node::chain(&e)))?;
        let provider = Provider::new(table.clone(), secret)?;
        Ok(self.people.provider.get_or_init(|| provider))
    }

    /// Begins the code flow: where the browser goes, and what this sign-in is called.
    pub(crate) async fn begin_code(
        &self,
        redirect: &str,
        from: Option<IpAddr>,
    ) -> Result<(String, String), Refusal> {
        self.provider()?.begin_code(redirect, from).await
    }
    /// Begins the code flow for the page, to which the browser comes back.
    ///
    /// # Errors
    /// It is not known where the page is, there is no provider, or it does not answer.
    pub(crate) async fn begin_page_code(&self, from: Option<IpAddr>) -> Result<(String, String), Refusal> {
        let Some(url) = &self.config.page.url else {
            let message = "the page cannot lead to the provider, because it is not known where it is itself; say so: [page] url = \"https://…\"";
            return Err(Refusal::new(RefusalKind::Refused, message));
        };
        self.provider()?.begin_code_to(&format!("{url}/sign-in/end"), from).await
    }
    /// Ends it.
    pub(crate) async fn end_code(
        &self,
        state: &str,
        code: &str,
        label: Option<String>,
    ) -> Result<TokenMade, Refusal> {
        let arrival = self.provider()?.end_code(state, code).await?;
        let name = arrival.name.clone();
        self.arrived(arrival).await?;
        self.signed_in(name, label).await
    }
    /// Begins the device flow.
    pub(crate) async fn begin_device(&self, from: Option<IpAddr>) -> Result<(Device, String), Refusal> {
        self.provider()?.begin_device(from).await
    }
    /// Ends it; `None` while he has not signed in.
    pub(crate) async fn end_device(
        &self,
        state: &str,
        label: Option<String>,
    ) -> Result<Option<TokenMade>, Refusal> {
        let Outcome::Done(arrival) = self.provider()?.end_device(state).await? else { return Ok(None) };
        let name = arrival.name.clone();
        self.arrived(arrival).await?;
        Ok(Some(self.signed_in(name, label).await?))
    }

    /// Whom a provider's token is of, and when it ends.
    ///
    /// # Errors
    /// It is not good, or the provider does not answer.
    pub(crate) async fn by_provider(&self, token: &str) -> Result<(String, i64), Refusal> {
        if token.len() > LONGEST {
            return Err(Refusal::new(RefusalKind::Forbidden, "such a long token is nobody's"));
        }
        let key = tokens::digest(token);
        let now = Utc::now().timestamp();
        if let Some(taken) = self.people.taken().get(&key)
            && taken.until > Instant::now()
            && taken.ends > now
        {
            return Ok((taken.user.clone(), taken.ends));
        }
        let (arrival, ends) = self.provider()?.bearer(token).await?;
        let user = arrival.name.to_string();
        self.arrived(arrival).await?;
        let taken = Taken { user: user.clone(), until: Instant::now() + TAKEN, ends, groups: String::new() };
        super::bounded(&mut self.people.taken(), &key, taken);
        Ok((user, ends))
    }

    /// Somebody of whom a trusted proxy says who he is.
    ///
    /// # Errors
    /// The name is none, or the user of that name is another's.
    pub(crate) async fn by_proxy(&self, name: &str, groups: &str) -> Result<String, Refusal> {
        let name: UserName = name.trim().to_ascii_lowercase().parse().map_err(|e| {
            Refusal::new(RefusalKind::Forbidden, format!("the proxy's word is not taken: {e}"))
        })?;
        let user = name.to_string();
        // No digest of a token has a blank in it.
        let key = format!("proxy {user}");
        let same = |taken: &Taken| taken.until > Instant::now() && taken.groups == groups;
        if self.people.taken().get(&key).is_some_and(same) {
            return Ok(user);
        }
        let each = groups.split([';', ',']).map(str::trim).filter(|group| !group.is_empty());
        let told = Some(each.filter_map(|group| group.parse().ok()).collect());
        let arrival =
            Arrival { name, source: Source::Proxy, full_name: None, mail: None, groups: told, uid: None };
        self.arrived(arrival).await?;
        let (until, groups) = (Instant::now() + TAKEN, groups.to_owned());
        let taken = Taken { user: user.clone(), until, ends: i64::MAX, groups };
        super::bounded(&mut self.people.taken(), &key, taken);
        Ok(user)
    }
}
