//! Single values: what they may be, and how they are read from text. Nothing here knows where the text stands.

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest duration a file may ask for: 30 days. What waits longer waits for ever.
pub(crate) const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The name of a systemd credential. It names a secret and is none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialName(String);

/// Text that cannot be the name of a credential. It is not repeated, since it might be the secret itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a credential's name is 1 to 255 letters, digits, `-`, `_` and `.`, and does not start with `.`")]
pub struct InvalidCredentialName;

impl CredentialName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for CredentialName {
    type Err = InvalidCredentialName;
    fn from_str(text: &str) -> Result<Self, InvalidCredentialName> {
        let ok = (1..=255).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if ok { Ok(Self(text.to_owned())) } else { Err(InvalidCredentialName) }
    }
}
impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where a private key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file.
    File(Utf8PathBuf),
    /// A systemd credential.
    Credential(CredentialName),
}

/// Reads `90s`, `10m`, `1h30m`, `250ms`, `2d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let milliseconds = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(milliseconds)?))?;
        rest = rest[letters..].trim_start();
    }
    Some(total)
}

/// A duration as [`duration`] reads it.
pub(crate) fn duration_text(duration: Duration) -> String {
    let all = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if all >= size && all.is_multiple_of(size) {
            return format!("{}{unit}", all / size);
        }
    }
    format!("{all}ms")
}

/// An absolute path in its plainest form: single slashes, no `.`, none at the end.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn absolute(text: &str) -> Result<Utf8PathBuf, &'static str> {
    let path = Utf8Path::new(text);
    if !path.is_absolute() {
        return Err("is not an absolute path");
    }
    if text.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    if path.components().any(|part| part == Utf8Component::ParentDir) {
        return Err("holds `..`");
    }
    if text.len() > 4095 || path.components().any(|part| part.as_str().len() > 255) {
        return Err("is longer than a path can be");
    }
    Ok(path.components().collect())
}

/// A MAC address in lower case with colons.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn mac(text: &str) -> Result<String, &'static str> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let bytes: Option<Vec<u8>> = parts
        .iter()
        .map(|part| {
            let plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            if plain { u8::from_str_radix(part, 16).ok() } else { None }
        })
        .collect();
    let bytes = bytes.filter(|bytes| bytes.len() == 6).ok_or("is not a MAC address")?;
    if bytes[0] & 1 == 1 {
        return Err("is a group's MAC address, not a machine's");
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return Err("is no machine's MAC address");
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
}

/// Whether an account or group can be called that.
pub(crate) fn is_account(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

/// Whether a host can be called that.
pub(crate) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Whether a key is called as secrets are.
pub(crate) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "passwd", "passphrase", "secret", "token", "private_key", "api_key"]
        .iter()
        .any(|word| key.contains(word))
}

/// Whether a URL holds a password before its host.
pub(crate) fn has_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    // A password may hold any of `/?#` where somebody forgot to encode it, so the last `@` counts.
    rest.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, milliseconds) in [
            ("90s", 90_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("1h 30min", 5_400_000),
            ("250ms", 250),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in [
            "",
            " ",
            "10",
            "m",
            "10x",
            "-1s",
            "1.5h",
            "10 m 5",
            "99999999999999999999s",
            "18446744073709551615d",
            "s10",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        for text in ["90s", "10m", "2h", "30d", "1500ms", "0ms"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        assert_eq!(absolute("/srv//vcl/./x/").unwrap(), "/srv/vcl/x");
        for bad in ["", "srv", "./srv", "~/vcl", "/srv/../etc", "/a\nb", "/a\0"] {
            absolute(bad).unwrap_err();
        }
    }

    #[test]
    fn macs_are_one_machines() {
        assert_eq!(mac("52-54-00-AB-cd-01").unwrap(), "52:54:00:ab:cd:01");
        for bad in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0g",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "52:54:00:ab:cd:+1",
        ] {
            mac(bad).unwrap_err();
        }
    }

    #[test]
    fn a_password_in_a_url_is_noticed() {
        for url in ["mysql://vcl:hunter2@db1/vcl", "esx://root:p/w@host/", "x://:p@h"] {
            assert!(has_password(url), "{url}");
        }
        for url in
            ["mysql://vcl@db1/vcl", "qemu:///system", "qemu+ssh://root@host:22/system", "sqlite:/a@b:c"]
        {
            assert!(!has_password(url), "{url}");
        }
    }
}
