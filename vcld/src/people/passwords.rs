//! Passwords of users that vcld's own table vouches for: argon2id, two at a time, so that signing in takes bounded memory
//! whoever tries.

use crate::node::{Node, Refusal, RefusalKind};
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use vcl_types::Secret;

/// How many digests are computed at once; each takes 19 MiB.
const AT_ONCE: usize = 2;
/// How long somebody waits for a turn.
const TURN: Duration = Duration::from_secs(10);
/// What a password may have, in bytes.
pub(crate) const LENGTHS: std::ops::RangeInclusive<usize> = 12..=1024;

/// The turns.
pub(crate) struct Hashing(Arc<Semaphore>);

impl Default for Hashing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// What a digest costs: OWASP's figures of 19 MiB and two rounds; less in tests of this crate, which are unoptimised.
fn argon() -> Argon2<'static> {
    let (memory, rounds) = if cfg!(test) { (64, 1) } else { (19 * 1024, 2) };
    let params = Params::new(memory, rounds, 1, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn broken(e: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Internal, format!("a password's digest cannot be computed: {e}"))
}

impl Hashing {
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = tokio::time::timeout(TURN, self.0.clone().acquire_owned()).await;
        let busy = || Refusal::new(RefusalKind::Unavailable, "too many people sign in at once; try again");
        let turn = turn.map_err(|_| busy())?.map_err(broken)?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(broken)?
    }
}

impl Node {
    /// A password's digest, to be kept.
    ///
    /// # Errors
    /// [`RefusalKind::Invalid`] for one that is too short or too long.
    pub(crate) async fn digest_password(&self, password: Secret) -> Result<String, Refusal> {
        if !LENGTHS.contains(&password.expose().len()) {
            let (short, long) = (LENGTHS.start(), LENGTHS.end());
            let message = format!("a password has {short} to {long} bytes; a few words with spaces do");
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
        let salt = super::tokens::random(16)?;
        self.people
            .hashing
            .run(move || {
                let salt = SaltString::encode_b64(salt.as_bytes()).map_err(broken)?;
                let digest = argon().hash_password(password.expose().as_bytes(), &salt).map_err(broken)?;
                Ok(digest.to_string())
            })
            .await
    }

    /// Whether it is a user's password. Whether there is such a user shows neither in the answer nor in how long it takes.
    ///
    /// # Errors
    /// The database does not answer, or too many sign in at once.
    pub(crate) async fn is_password_of(&self, name: &str, password: Secret) -> Result<bool, Refusal> {
        let kept = self.queue.password_of(name).await?;
        self.people
            .hashing
            .run(move || {
                let Some(kept) = kept else {
                    let salt = SaltString::encode_b64(b"nobody has this one").map_err(broken)?;
                    let _ = argon().hash_password(password.expose().as_bytes(), &salt).map_err(broken)?;
                    return Ok(false);
                };
                let kept = PasswordHash::new(&kept).map_err(broken)?;
                Ok(argon().verify_password(password.expose().as_bytes(), &kept).is_ok())
            })
            .await
    }
}
