//! Secrets: values that no step can record and no log can show.

use secrecy::{ExposeSecret, SecretString};
use std::fmt;

/// A password or a private key. It has no `Serialize`, its `Debug` shows nothing, and its memory is wiped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes a secret in; the caller should drop its own copy.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(SecretString::from(value))
    }
    /// The value, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
