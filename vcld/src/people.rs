//! People as the daemon knows them: a copy of the rights, and the users and tokens that came lately.
//!
//! The database is the truth, and its number says whether the copy still is (`vcl_queue`'s `people`): each request asks for
//! it, so what was taken back on one node counts on all at once. A [`People`] owns the copies and nothing else; they are
//! bounded, and losing them costs a look into the database.

mod ldap;
pub(crate) mod oidc;
pub(crate) mod passwords;
pub(crate) mod sign_in;
mod slow;
pub(crate) mod tokens;

use crate::node::{Node, Refusal};
use crate::rights::{Rights, Tags};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vcl_queue::{TokenRow, UserStanding};

/// How many users and tokens are remembered.
const REMEMBERED: usize = 4096;
/// How old the computers' tags may be.
const TAGS: Duration = Duration::from_secs(1);

/// What was looked up.
#[derive(Default)]
struct Copies {
    rights: Arc<Rights>,
    /// Whether `rights` was ever read.
    read: bool,
    users: HashMap<String, Option<UserStanding>>,
    tokens: HashMap<String, TokenRow>,
}

/// The copies.
#[derive(Default)]
pub struct People {
    copies: Mutex<Copies>,
    tags: Mutex<Option<(Instant, Arc<Tags>)>>,
    /// Tokens of the provider's and words of the proxy's that were looked at lately.
    taken: Mutex<HashMap<String, sign_in::Taken>>,
    hashing: passwords::Hashing,
    slow: slow::Slow,
    provider: std::sync::OnceLock<oidc::Provider>,
}

fn bounded<T>(map: &mut HashMap<String, T>, key: &str, value: T) {
    if map.len() >= REMEMBERED {
        map.clear();
    }
    map.insert(key.to_owned(), value);
}

impl People {
    fn taken(&self) -> std::sync::MutexGuard<'_, HashMap<String, sign_in::Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn copies(&self) -> std::sync::MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// What groups may, as it is now.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn rights(&self) -> Result<Arc<Rights>, Refusal> {
        let version = self.queue.people_version().await?;
        {
            let copies = self.people.copies();
            if copies.read && copies.rights.version() == version {
                return Ok(copies.rights.clone());
            }
        }
        let rights = Arc::new(Rights::from(self.queue.rights().await?));
        *self.people.copies() = Copies { rights: rights.clone(), read: true, ..Copies::default() };
        Ok(rights)
    }

    /// What decides whether a user is let in; asked after [`rights`](Self::rights), whose number it is good for.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn user_standing(
        &self,
        name: &str,
        rights: &Rights,
    ) -> Result<Option<UserStanding>, Refusal> {
        if let Some(known) = self.people.copies().users.get(name) {
            return Ok(known.clone());
        }
        let found = self.queue.standing_of(name).await?;
        let mut copies = self.people.copies();
        if copies.rights.version() == rights.version() {
            bounded(&mut copies.users, name, found.clone());
        }
        Ok(found)
    }

    /// A token's row, in the same way.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn token_row(&self, id: &str, rights: &Rights) -> Result<Option<TokenRow>, Refusal> {
        if let Some(known) = self.people.copies().tokens.get(id) {
            return Ok(Some(known.clone()));
        }
        let found = self.queue.token(id).await?;
        let mut copies = self.people.copies();
        if let Some(row) = &found
            && copies.rights.version() == rights.version()
        {
            bounded(&mut copies.tokens, id, row.clone());
        }
        Ok(found)
    }

    /// The tags of all computers, a second old at most.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn tags(&self) -> Result<Arc<Tags>, Refusal> {
        let kept = self.people.tags.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, tags)) = kept
            && at.elapsed() < TAGS
        {
            return Ok(tags);
        }
        let all = self.queue.computers().await?;
        let tags: Tags = all.into_iter().map(|row| (row.computer.name, row.computer.tags)).collect();
        let tags = Arc::new(tags);
        *self.people.tags.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), tags.clone()));
        Ok(tags)
    }
}

impl Node {
    /// Remembers that a token and its owner came, without keeping anybody waiting for it.
    pub(crate) fn note_use(self: &Arc<Self>, token: &vcl_types::api::TokenView) {
        let now = chrono::Utc::now();
        if token.used.is_some_and(|used| now - used < chrono::TimeDelta::minutes(1)) {
            return;
        }
        if let Some(row) = self.people.copies().tokens.get_mut(&token.id) {
            row.view.used = Some(now);
        }
        let (node, id, owner) = (self.clone(), token.id.clone(), token.owner.to_string());
        // It ends by itself: with the database's answer.
        tokio::spawn(async move {
            let _ = node.queue.token_used(&id).await;
            let _ = node.queue.user_seen(&owner).await;
        });
    }
}
