//! People and what they may: users, groups, grants, tokens, the record of who did what.
//!
//! A right is a [`Verb`] on a [`Scope`], and belongs to a group: a *grant*. Nobody has a right but through a group. What a
//! request touches (an image, a computer, both) has to lie in the scope of a grant of that verb, each thing for itself:
//! whoever is to load `gis` on the computers of a room needs the verb on the image and on the computers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

mod sign_in;

pub use sign_in::{BeginCode, CodeBegun, DeviceBegun, EndCode, EndDevice, WaysIn};

use crate::InvalidName;

macro_rules! text {
    ($(#[$doc:meta])* $type:ident, $what:literal, $good:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
        pub struct $type(String);

        impl $type {
            /// It as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                let good: fn(&str) -> bool = $good;
                if good(value) {
                    return Ok(Self(value.to_owned()));
                }
                Err(InvalidName { what: $what, value: value.chars().take(80).collect(), rule: $rule })
            }
        }
        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> {
                value.parse()
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

/// The longest name of a user or group, in bytes.
const LONGEST: usize = 120;

text!(
    /// A user's name. What a directory or a provider calls somebody is brought into this form, in lower case.
    UserName, "user name",
    |text| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._@+-".contains(&b);
        (1..=LONGEST).contains(&text.len())
            && text.bytes().all(plain)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    },
    "use 1 to 120 lower-case letters, digits and `._@+-`, beginning with a letter or digit, as in `alice` or `alice@example.org`"
);
text!(
    /// The name of a group of people or of images.
    GroupName, "group name",
    |text| {
        (1..=LONGEST).contains(&text.len())
            && text.trim() == text
            && !text.chars().any(char::is_control)
            // A path cannot hold these two as a part.
            && text != "."
            && text != ".."
    },
    "use 1 to 120 bytes without control characters or spaces at its ends, as in `gis-course`"
);
text!(
    /// Which images belong to a group of images: one by its name, all whose names begin alike (`gis-*`), or all (`*`).
    ImagePattern, "pattern of image names",
    |text| {
        let stem = text.strip_suffix('*').unwrap_or(text);
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        text.len() <= 64
            && stem.bytes().all(plain)
            && if stem.len() == text.len() { text.parse::<crate::ImageName>().is_ok() }
               else { stem.is_empty() || stem.starts_with(|c: char| c.is_ascii_alphanumeric()) }
    },
    "write an image's name, the beginning of names with `*` after it, or `*`, as in `gis-2026` or `gis-*`"
);

impl ImagePattern {
    /// Whether an image is among them.
    #[must_use]
    pub fn has(&self, image: &crate::ImageName) -> bool {
        match self.0.strip_suffix('*') {
            Some(stem) => image.as_str().starts_with(stem),
            None => image.as_str() == self.0,
        }
    }
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Verb {
    /// See that it is there and how it is. Every other verb implies it.
    Look,
    /// Reserve computers with images.
    Reserve,
    /// Make revisions of images: capture, checkpoint, new images.
    Imaging,
    /// Look after images: promote, test, delete, import, flatten, verify.
    Images,
    /// Look after computers: load, unload, power, consoles, maintenance, the jobs that are about them, orphans.
    Operate,
    /// Make classes, which reserve for many.
    Classes,
    /// Look after users, groups, grants and others' tokens; nobody gives more than he has.
    People,
    /// Everything.
    Administer,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Look,
        Self::Reserve,
        Self::Imaging,
        Self::Images,
        Self::Operate,
        Self::Classes,
        Self::People,
        Self::Administer,
    ];
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Reserve => "reserve",
            Self::Imaging => "imaging",
            Self::Images => "images",
            Self::Operate => "operate",
            Self::Classes => "classes",
            Self::People => "people",
            Self::Administer => "administer",
        }
    }
    /// Whether whoever has this one has `other` too.
    #[must_use]
    pub fn implies(self, other: Self) -> bool {
        self == other || self == Self::Administer || other == Self::Look
    }
}
impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl FromStr for Verb {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == word).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|verb| verb.as_str()).collect();
            format!("`{}` is no right; there are: {}", word.escape_debug(), all.join(", "))
        })
    }
}

/// What a right is on: written `all`, `images:GROUP` or `computers:TAG`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// Everything there is and will be.
    Everything,
    /// The images of a group of images.
    Images(GroupName),
    /// The computers that have a tag.
    Computers(String),
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for Scope {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("What a right is on: `all`, `images:GROUP` or `computers:TAG`."))
            .pattern(Some("^(all|images:.+|computers:[A-Za-z0-9_.:-]{1,63})$"))
            .into()
    }
}
#[cfg(feature = "openapi")]
impl utoipa::ToSchema for Scope {}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.pad("all"),
            Self::Images(group) => f.pad(&format!("images:{group}")),
            Self::Computers(tag) => f.pad(&format!("computers:{tag}")),
        }
    }
}
impl FromStr for Scope {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::Everything);
        }
        if let Some(group) = text.strip_prefix("images:") {
            return group.parse().map(Self::Images).map_err(|e: InvalidName| e.to_string());
        }
        if let Some(tag) = text.strip_prefix("computers:") {
            let plain = (1..=63).contains(&tag.len())
                && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
            return if plain {
                Ok(Self::Computers(tag.to_owned()))
            } else {
                Err(format!("`{}` is not a tag of computers, as in computers:room-b12", tag.escape_debug()))
            };
        }
        let shown: String = text.chars().take(80).collect();
        Err(format!(
            "`{}` says not what the right is on: all, images:GROUP or computers:TAG",
            shown.escape_debug()
        ))
    }
}
impl TryFrom<String> for Scope {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.to_string()
    }
}

/// Who says that a user is who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Source {
    /// vcld's own table, or this machine's accounts on its socket.
    Local,
    /// An OpenID Connect provider.
    Oidc,
    /// An LDAP directory.
    Ldap,
    /// A proxy that is trusted.
    Proxy,
}

impl Source {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Oidc => "oidc",
            Self::Ldap => "ldap",
            Self::Proxy => "proxy",
        }
    }
}
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl FromStr for Source {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let all = [Self::Local, Self::Oidc, Self::Ldap, Self::Proxy];
        all.into_iter()
            .find(|source| source.as_str() == word)
            .ok_or_else(|| format!("`{}` is none of local, oidc, ldap, proxy", word.escape_debug()))
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserView {
    /// The name.
    pub name: UserName,
    /// Who says that it is he.
    pub source: Source,
    /// What people call him.
    #[serde(default)]
    pub full_name: Option<String>,
    /// Where notices go.
    #[serde(default)]
    pub mail: Option<String>,
    /// Public keys that are put on computers reserved for him, each `algorithm base64 comment`.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// Whether he is let in nowhere.
    pub disabled: bool,
    /// Whether he has a password here.
    pub has_password: bool,
    /// The groups he is in, and who says so.
    #[serde(default)]
    pub groups: Vec<MembershipView>,
    /// When he was first seen or made.
    pub created: DateTime<Utc>,
    /// When he last came, to the hour.
    pub seen: Option<DateTime<Utc>>,
    /// Whether notices are mailed to him.
    #[serde(default = "yes")]
    pub notices: bool,
    /// The number that his files belong to on file servers, and his accounts in guests have; `null` where any will do.
    #[serde(default)]
    pub uid: Option<u32>,
}
fn yes() -> bool {
    true
}

/// That somebody is in a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MembershipView {
    /// The group, or in a group's view the user.
    pub name: String,
    /// Who says so: what a directory says counts until it says otherwise, at the next sign-in.
    pub source: Source,
}

/// A user to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewUser {
    /// The name.
    pub name: UserName,
    /// Who will say that it is he; vcld's own table if not said.
    #[serde(default = "local")]
    pub source: Source,
    /// What people call him.
    #[serde(default)]
    pub full_name: Option<String>,
    /// Where notices go.
    #[serde(default)]
    pub mail: Option<String>,
}
fn local() -> Source {
    Source::Local
}

/// What is to be different about a user; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserChange {
    /// Who says that it is he.
    #[serde(default)]
    pub source: Option<Source>,
    /// What people call him; an empty text takes it away.
    #[serde(default)]
    pub full_name: Option<String>,
    /// Where notices go; an empty text takes it away.
    #[serde(default)]
    pub mail: Option<String>,
    /// Whether he is let in nowhere.
    #[serde(default)]
    pub disabled: Option<bool>,
    /// All his public keys.
    #[serde(default)]
    pub ssh_keys: Option<Vec<String>>,
    /// Whether notices are mailed to him.
    #[serde(default)]
    pub notices: Option<bool>,
    /// The number that his files belong to, from 1000 on; 0 takes it away.
    #[serde(default)]
    pub uid: Option<u32>,
}

/// A public key to be added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewKey {
    /// As in a `.pub` file: `algorithm base64 comment`.
    pub key: String,
}

/// A password to be set. It has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewPassword {
    /// The password, 12 to 1024 bytes; `null` takes it away.
    pub password: Option<String>,
    /// The present one: for whoever changes their own with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
}

/// A name and password, to sign in with. It has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignIn {
    /// The name, as the directory or vcld's own table has it.
    pub name: String,
    /// The password.
    pub password: String,
    /// What the token is to be called in lists.
    #[serde(default)]
    pub label: Option<String>,
}

/// A group of people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupView {
    /// Its name.
    pub name: GroupName,
    /// What it is for.
    #[serde(default)]
    pub note: Option<String>,
    /// Who is in it; empty in lists.
    #[serde(default)]
    pub members: Vec<MembershipView>,
    /// How many are in it.
    pub size: u64,
    /// What it may.
    pub grants: Vec<GrantView>,
}

/// A group to be made, of people or of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewGroup {
    /// Its name.
    pub name: GroupName,
    /// What it is for.
    #[serde(default)]
    pub note: Option<String>,
}

/// A group of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageGroupView {
    /// Its name.
    pub name: GroupName,
    /// What it is for.
    #[serde(default)]
    pub note: Option<String>,
    /// Which images are in it.
    pub images: Vec<ImagePattern>,
}

/// That a group may do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GrantView {
    /// Its number.
    pub id: i64,
    /// Who.
    pub group: GroupName,
    /// What.
    pub verb: Verb,
    /// On what.
    pub scope: Scope,
    /// Who gave it.
    pub by: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// A right to be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewGrant {
    /// To whom.
    pub group: GroupName,
    /// What.
    pub verb: Verb,
    /// On what.
    pub scope: Scope,
}

/// A token, without its secret, which nobody knows but whoever was given it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenView {
    /// What it is called in commands.
    pub id: String,
    /// Whose it is.
    pub owner: UserName,
    /// What it is for.
    pub label: String,
    /// All it may be used for; `None` is whatever its owner may.
    pub scopes: Option<BTreeSet<Verb>>,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// When it ends; `None` is never.
    pub expires: Option<DateTime<Utc>>,
    /// When it was last used, to the minute.
    pub used: Option<DateTime<Utc>>,
    /// When it was taken back.
    pub revoked: Option<DateTime<Utc>>,
}

/// A token to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewToken {
    /// What it is for.
    pub label: String,
    /// Whose it is to be; whoever asks, if not said.
    #[serde(default)]
    pub owner: Option<UserName>,
    /// All it may be used for; whatever its owner may, if not said.
    #[serde(default)]
    pub scopes: Option<BTreeSet<Verb>>,
    /// For how many seconds it is good; a year if not said.
    #[serde(default)]
    pub seconds: Option<u64>,
}

/// A token with its secret, which is told once. It has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenMade {
    /// What goes behind `Authorization: Bearer`.
    pub secret: String,
    /// The rest of it.
    pub token: TokenView,
}

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Via {
    /// Over the unix socket, with the peer's account.
    Socket,
    /// With a token of vcld's.
    Token,
    /// With a token of the OpenID Connect provider.
    Oidc,
    /// Through the trusted proxy.
    Proxy,
    /// Without saying who it is.
    Nobody,
}

impl Via {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Token => "token",
            Self::Oidc => "oidc",
            Self::Proxy => "proxy",
            Self::Nobody => "nobody",
        }
    }
}
impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl FromStr for Via {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let all = [Self::Socket, Self::Token, Self::Oidc, Self::Proxy, Self::Nobody];
        all.into_iter()
            .find(|via| via.as_str() == word)
            .ok_or_else(|| format!("`{}` is no way in", word.escape_debug()))
    }
}

/// Who somebody is and what he may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WhoAmI {
    /// His name.
    pub name: String,
    /// How he came in.
    pub via: Via,
    /// Whether he may do everything.
    pub administrator: bool,
    /// His groups.
    pub groups: BTreeSet<String>,
    /// What they may.
    pub grants: Vec<GrantView>,
    /// All that the token may be used for; `None` is no limit.
    pub scopes: Option<BTreeSet<Verb>>,
    /// When the token ends.
    #[serde(default)]
    pub expires: Option<DateTime<Utc>>,
}

/// That somebody did something, or tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditView {
    /// Its number; they come in this order.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who, or under which name it was tried.
    pub who: String,
    /// How he came in.
    pub via: Via,
    /// From which address, where there is one.
    pub from: Option<String>,
    /// What: the method and the path, as `POST /v1/computers/{name}/power`.
    pub action: String,
    /// To what, such as `gis-01`.
    pub subject: String,
    /// How it ended, as HTTP's status.
    pub status: u16,
    /// The request's number, which the log has too.
    pub request: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_as_it_is_written() {
        for text in ["all", "images:gis images", "computers:room-b12", "images:/course/gis"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for wrong in ["", "everything", "images:", "computers:", "computers:a b", "computer:a", "images: x"] {
            let said = wrong.parse::<Scope>().unwrap_err();
            assert!(!said.is_empty(), "{wrong}");
        }
        assert_eq!(serde_json::to_string(&Scope::Everything).unwrap(), "\"all\"");
    }
    #[test]
    fn a_pattern_has_the_images_it_says() {
        let has = |pattern: &str, image: &str| {
            pattern.parse::<ImagePattern>().unwrap().has(&image.parse().unwrap())
        };
        assert!(has("*", "x") && has("gis-*", "gis-2") && has("gis", "gis"));
        assert!(!has("gis", "gis-2") && !has("gis-*", "gis"));
        for wrong in ["", "a*b", "**", "/x", "A*", "-*", "gis-"] {
            assert!(wrong.parse::<ImagePattern>().is_err(), "{wrong}");
        }
    }
    #[test]
    fn names_of_people_cannot_be_mistaken() {
        for good in ["alice", "alice@example.org", "_apt", "a.b+c-d", "1234"] {
            assert!(good.parse::<UserName>().is_ok(), "{good}");
        }
        for wrong in ["", "Alice", "a b", "-a", ".", "a/b", "ä", "a\n", &"x".repeat(121)] {
            assert!(wrong.parse::<UserName>().is_err(), "{wrong:?}");
        }
        for wrong in ["", " a", "a ", "a\nb", "..", &"x".repeat(121)] {
            assert!(wrong.parse::<GroupName>().is_err(), "{wrong:?}");
        }
        assert!("/course/GIS 101".parse::<GroupName>().is_ok());
    }
    #[test]
    fn every_verb_implies_looking_and_administering_implies_every_verb() {
        for verb in Verb::ALL {
            assert!(verb.implies(Verb::Look) && Verb::Administer.implies(verb) && verb.implies(verb));
            assert_eq!(verb.as_str().parse(), Ok(verb));
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.as_str());
        }
        assert!(!Verb::Operate.implies(Verb::Reserve) && "x".parse::<Verb>().is_err());
    }
}
