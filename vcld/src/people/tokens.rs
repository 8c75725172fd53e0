//! Tokens: `vcl_ID_SECRET`. The ID names the row, the secret is 256 random bits, of which the row has the SHA-256.
//!
//! No slow digest: what is random in 256 bits is guessed from no digest, and each request computes it.

use crate::node::{Node, Refusal, RefusalKind};
use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use vcl_queue::TokenToKeep;
use vcl_types::api::TokenMade;
use vcl_types::people::{UserName, Verb};

/// What tokens of ours begin with: by it they are told from a provider's, and found where they should not be.
pub(crate) const PREFIX: &str = "vcl_";

/// So many random bytes, in hex.
///
/// # Errors
/// The system has no random bytes.
pub(crate) fn random(bytes: usize) -> Result<String, Refusal> {
    let mut raw = vec![0; bytes];
    getrandom::fill(&mut raw).map_err(|e| {
        Refusal::new(RefusalKind::Unavailable, format!("the system has no random bytes: {e}"))
    })?;
    Ok(hex(&raw))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 in hex.
pub(crate) fn digest(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// A token's two parts, if it is one of ours.
pub(crate) fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    (id.len() == 16 && secret.len() == 64 && plain(id) && plain(secret)).then_some((id, secret))
}

/// A token to be made.
pub(crate) struct Wanted {
    pub(crate) owner: UserName,
    pub(crate) label: String,
    pub(crate) scopes: Option<BTreeSet<Verb>>,
    pub(crate) expires: Option<DateTime<Utc>>,
}

impl Node {
    /// Makes a token. Its secret is in the answer, and nowhere else.
    ///
    /// # Errors
    /// The label is none, the owner has too many, or the database does not answer.
    pub(crate) async fn make_token(&self, wanted: Wanted) -> Result<TokenMade, Refusal> {
        let (id, secret) = (random(8)?, random(32)?);
        let Wanted { owner, label, scopes, expires } = wanted;
        let keep = TokenToKeep { digest: digest(&secret), id: id.clone(), owner, label, scopes, expires };
        let token = self.queue.keep_token(keep).await?;
        Ok(TokenMade { secret: format!("{PREFIX}{id}_{secret}"), token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_apart_and_nothing_else_is() {
        let (id, secret) = (random(8).unwrap(), random(32).unwrap());
        assert_eq!(parts(&format!("vcl_{id}_{secret}")), Some((id.as_str(), secret.as_str())));
        for wrong in [
            "",
            "vcl_",
            "vcl_a_b",
            "eyJhbGciOi.J9.x",
            &format!("vcl_{id}_{secret}0"),
            &format!("xcl_{id}_{secret}"),
        ] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
        assert_ne!(random(32).unwrap(), random(32).unwrap());
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
