//! The ways in, and the steps of each.

use serde::{Deserialize, Serialize};

/// Which ways to sign in there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaysIn {
    /// Whether a name and a password do.
    pub password: bool,
    /// The OpenID Connect provider's issuer, where there is one.
    pub oidc: Option<String>,
}

/// A sign-in with a browser, to be begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BeginCode {
    /// Where the browser brings the code: an address of the caller's own machine, as `http://127.0.0.1:41000/`.
    pub redirect: String,
}

/// A sign-in with a browser that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CodeBegun {
    /// Where the browser is to go.
    pub url: String,
    /// What this sign-in is called; the browser brings it back.
    pub state: String,
}

/// The end of a sign-in with a browser. It has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndCode {
    /// What the sign-in is called.
    pub state: String,
    /// What the browser brought.
    pub code: String,
    /// What the token is to be called in lists.
    #[serde(default)]
    pub label: Option<String>,
}

/// A sign-in on another device that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceBegun {
    /// Where to go with a browser, on whatever device.
    pub url: String,
    /// What to type there.
    pub code: String,
    /// The same address with the code in it, where the provider has one.
    #[serde(default)]
    pub complete_url: Option<String>,
    /// What this sign-in is called.
    pub state: String,
    /// How long it may take, in seconds.
    pub seconds: u64,
    /// How often to ask whether it is done, in seconds.
    pub interval: u64,
}

/// The end of a sign-in on another device. It has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndDevice {
    /// What the sign-in is called.
    pub state: String,
    /// What the token is to be called in lists.
    #[serde(default)]
    pub label: Option<String>,
}
