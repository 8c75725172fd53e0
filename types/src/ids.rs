//! Names that people give and numbers that the queue gives.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A name that cannot be one. The message says which rule it breaks and shows a name that would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {what}: {rule}")]
pub struct InvalidName {
    /// What kind of name was wanted (`computer name`, …).
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// The rule that it breaks, with an example.
    pub rule: &'static str,
}

fn check(what: &'static str, value: &str, extra: &str, rule: &'static str) -> Result<(), InvalidName> {
    let ok = (1..=63).contains(&value.len())
        && value
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || extra.contains(c))
        && value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value.ends_with(|c: char| c.is_ascii_alphanumeric());
    if ok { Ok(()) } else { Err(InvalidName { what, value: value.chars().take(80).collect(), rule }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $extra:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                check($what, value, $extra, $rule)?;
                Ok(Self(value.to_owned()))
            }
        }
        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> { value.parse() }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String { name.0 }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(&self.0) }
        }
    };
}

name!(
    /// A computer's name; it becomes the guest's hostname, so it is one DNS label.
    ComputerName, "computer name", "",
    "use 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end, as in `gis-01`"
);
name!(
    /// An image's name. It is a directory of the library, so it holds nothing a path could mean something by.
    ImageName, "image name", "._",
    "use 1 to 63 lower-case letters, digits, `-`, `.` and `_`, starting and ending with a letter or digit, as in `debian-12`"
);
name!(
    /// The name of a backend instance, as it stands in `[backend.NAME]`.
    BackendName, "backend name", "",
    "use 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end, as in `kvm1`"
);
name!(
    /// The name of a network, as it stands in `[network.NAME]`.
    NetworkName, "network name", "",
    "use 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end, as in `lab`"
);
name!(
    /// The name of a NAT host, as it stands in `[nat.NAME]`.
    NatName, "NAT host's name", "",
    "use 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end, as in `campus`"
);

name!(
    /// The name of a manifest, or of a playbook, in a node's configuration directories.
    ManifestName, "manifest's name", "._",
    "use 1 to 63 lower-case letters, digits, `-`, `.` and `_`, starting and ending with a letter or digit, as in `lab`"
);

macro_rules! number {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = i64))]
        pub struct $type(pub i64);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(&self.0, f) }
        }
        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                match value.parse::<i64>() {
                    Ok(n) if n > 0 => Ok(Self(n)),
                    _ => Err(InvalidName { what: $what, value: value.chars().take(80).collect(), rule: "it is a number, as in `12`" }),
                }
            }
        }
    };
}

number!(
    /// A job's number: short enough to be typed, unique in a database.
    JobId, "job number"
);
number!(
    /// A reservation's number, unique in a database.
    ReservationId, "reservation number"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_mean_something_to_a_path_or_a_shell_are_refused() {
        for bad in ["", "-a", "a-", "a b", "../x", "a/b", "A", "ä", "a\0", "a;b", "$(x)", &"x".repeat(64)] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
            assert!(bad.parse::<ComputerName>().is_err(), "{bad:?}");
        }
        assert!("..".parse::<ImageName>().is_err());
        assert!("debian-12.1_x".parse::<ImageName>().is_ok());
        assert!("debian_12".parse::<ComputerName>().is_err());
        let message = "Gis 1".parse::<ComputerName>().unwrap_err().to_string();
        assert!(message.contains("Gis 1") && message.contains("gis-01"), "{message}");
    }

    #[test]
    fn a_name_is_checked_when_it_is_read_from_json_too() {
        assert!(serde_json::from_str::<ComputerName>("\"../etc\"").is_err());
        assert!("0".parse::<JobId>().is_err() && "x".parse::<JobId>().is_err());
        assert_eq!("12".parse::<JobId>(), Ok(JobId(12)));
    }
}
