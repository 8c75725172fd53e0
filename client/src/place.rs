//! Where a daemon is.

use crate::error::{Error, ErrorKind, Result};
use reqwest::Url;
use std::fmt;
use std::path::PathBuf;

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a unix socket of this machine.
    Socket(PathBuf),
    /// At a URL: `https://vcl.example.org:8444`, or of this machine alone `http://127.0.0.1:8480`.
    Url {
        /// The URL, without `/v1`.
        url: String,
        /// A file with the certificate authority, in PEM; the system's, if none is given.
        ca: Option<PathBuf>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Url { url, .. } => f.write_str(url),
        }
    }
}

impl Place {
    /// What requests are addressed to.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what is no URL, or one that a token would go to in the clear.
    pub(crate) fn base(&self) -> Result<Url> {
        let text = match self {
            Self::Socket(_) => "http://vcld",
            Self::Url { url, .. } => url.trim_end_matches('/'),
        };
        let wrong = |why: &str| {
            let context =
                format!("`{text}` is not where a vcld is: {why}, as in https://vcl.example.org:8444");
            Error::new(ErrorKind::Usage, context)
        };
        let url = Url::parse(&format!("{text}/v1")).map_err(|e| wrong(&e.to_string()))?;
        let here = matches!(self, Self::Socket(_))
            || matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
        match url.scheme() {
            "https" => Ok(url),
            "http" if here => Ok(url),
            "http" => Err(wrong("a token would be sent in the clear; use https")),
            _ => Err(wrong("use https")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_nowhere_in_the_clear() {
        let base = |url: &str| Place::Url { url: url.into(), ca: None }.base();
        assert_eq!(
            base("https://vcl.example.org:8444/").unwrap().as_str(),
            "https://vcl.example.org:8444/v1"
        );
        assert_eq!(base("http://127.0.0.1:8480").unwrap().path(), "/v1");
        // A machine may be called like the name that requests over the socket are addressed to.
        for wrong in ["http://vcld", "http://vcl.example.org", "vcl.example.org", "ftp://x", ""] {
            assert_eq!(base(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
        }
        assert_eq!(Place::Socket("/run/x".into()).base().unwrap().as_str(), "http://vcld/v1");
    }
}
