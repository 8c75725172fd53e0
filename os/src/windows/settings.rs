//! What a site sets for its Windows guests, and the unattend file that is made of it.

use crate::{Error, ErrorKind, Result};
use camino::Utf8PathBuf;
use vcl_types::Secret;

/// What a site sets for its Windows guests: `[windows]` of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The key server that activates them, if there is one.
    pub kms_host: Option<String>,
    /// Its port, where it is not the usual one.
    pub kms_port: Option<u16>,
    /// The product key they are given, if they are.
    pub product_key: Option<Secret>,
    /// Whether a guest that cannot be activated is a failed load; otherwise it is an event.
    pub require_activation: bool,
    /// Their time zone, as Windows calls it: `W. Europe Standard Time`.
    pub timezone: String,
    /// Their language and formats: `de-DE`.
    pub locale: String,
    /// A file on the management node in place of the built-in unattend file, absolute.
    pub unattend: Option<Utf8PathBuf>,
    /// Whether Sysprep is told to leave the counter of the licence alone.
    pub skip_rearm: bool,
}

impl Default for Settings {
    /// UTC, English, no activation, the built-in unattend file.
    fn default() -> Self {
        Self {
            kms_host: None,
            kms_port: None,
            product_key: None,
            require_activation: false,
            timezone: "UTC".to_owned(),
            locale: "en-US".to_owned(),
            unattend: None,
            skip_rearm: false,
        }
    }
}

/// The largest that is sent to a guest.
const LARGEST: usize = 256 * 1024;

impl Settings {
    /// Whether there is anything to activate with.
    #[must_use]
    pub fn activates(&self) -> bool {
        self.kms_host.is_some() || self.product_key.is_some()
    }
    /// The unattend file's text, as far as it can be filled in here: its password and the processor are the guest's to add.
    ///
    /// # Errors
    /// `Local`: the site's own file cannot be read or is too large.
    pub(super) async fn unattend_for(&self, user: &str) -> Result<String> {
        let template = match &self.unattend {
            None => include_str!("unattend.xml").to_owned(),
            Some(path) => {
                let what = format!("reading windows.unattend = \"{path}\"");
                let failed = |e| Error::caused(ErrorKind::Local, what.clone(), e);
                let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
                if text.len() > LARGEST {
                    let context = format!("{what}: {} bytes are more than {LARGEST}", text.len());
                    return Err(Error::new(ErrorKind::Local, context));
                }
                text
            }
        };
        let skip = if self.skip_rearm { "1" } else { "0" };
        Ok(template
            .replace("@USER@", &escaped(user))
            .replace("@TIMEZONE@", &escaped(&self.timezone))
            .replace("@LOCALE@", &escaped(&self.locale))
            .replace("@SKIP_REARM@", skip))
    }
}

/// Text as it stands in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The name a computer has in Windows: its own, or where that is longer than the 15 characters that Windows takes, the
/// beginning of it and four digits made of the whole, so that two long names do not become one. A name of digits alone, which
/// Windows does not take either, gets a `PC-` before it.
#[must_use]
pub fn windows_name(computer: &str) -> String {
    const MOST: usize = 15;
    let computer = computer.split('.').next().unwrap_or(computer);
    let numbered = format!("PC-{computer}");
    let computer = if computer.bytes().all(|b| b.is_ascii_digit()) { &numbered } else { computer };
    if computer.len() <= MOST {
        return computer.to_owned();
    }
    // FNV-1a: the same on every node and in every version.
    let hash = computer.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let folded = (hash >> 16) ^ (hash & 0xffff);
    let head: String = computer.chars().take(MOST - 5).collect();
    format!("{}-{folded:04x}", head.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_shortened_to_one_of_its_own() {
        assert_eq!(windows_name("gis-01"), "gis-01");
        assert_eq!(windows_name("fifteen-letters"), "fifteen-letters");
        assert_eq!(windows_name("1234"), "PC-1234");
        let (one, two) = (windows_name("building-7-room-12-pc-01"), windows_name("building-7-room-12-pc-02"));
        assert_ne!(one, two);
        assert!(one.len() <= 15 && one.starts_with("building-7"), "{one}");
        assert_eq!(one, windows_name("building-7-room-12-pc-01"));
    }

    #[tokio::test]
    async fn the_unattend_file_is_filled_in_and_keeps_its_password_for_the_guest() {
        let settings = Settings {
            timezone: "A & B <x>".into(),
            locale: "de-DE".into(),
            skip_rearm: true,
            ..Settings::default()
        };
        let text = settings.unattend_for("Bob \"B\"").await.unwrap();
        assert!(text.contains("<TimeZone>A &amp; B &lt;x&gt;</TimeZone>"));
        assert!(text.contains("<UserLocale>de-DE</UserLocale>") && text.contains("<SkipRearm>1<"));
        assert!(text.contains("Bob &quot;B&quot;"));
        let left: Vec<_> = ["@PASSWORD@", "@ARCH@", "@USER@", "@TIMEZONE@", "@LOCALE@", "@SKIP_REARM@"]
            .into_iter()
            .filter(|w| text.contains(w))
            .collect();
        assert_eq!(left, ["@PASSWORD@", "@ARCH@"]);
        for pass in ["generalize", "specialize", "oobeSystem"] {
            assert!(text.contains(&format!("<settings pass=\"{pass}\">")), "{pass}");
        }
    }

    #[tokio::test]
    async fn a_sites_own_file_is_used_and_a_missing_one_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(dir.path().join("own.xml")).unwrap();
        let settings = Settings { unattend: Some(path.clone()), ..Settings::default() };
        let error = settings.unattend_for("x").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Local);
        assert!(error.to_string().contains("windows.unattend"), "{error}");
        std::fs::write(&path, "<unattend>@LOCALE@ @PASSWORD@</unattend>").unwrap();
        assert_eq!(settings.unattend_for("x").await.unwrap(), "<unattend>en-US @PASSWORD@</unattend>");
    }
}
