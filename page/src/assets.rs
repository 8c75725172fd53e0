//! What the page is made of beside HTML: style sheet, scripts, icon. All of it is in the program and comes from it.
//!
//! Each has its digest in its address, so a browser keeps it for ever and never uses an old one.
//! `htmx.min.js` is htmx 2.0.11 and `idiomorph-ext.min.js` idiomorph 0.7.4, both as npm has them, both under the Zero-Clause
//! BSD licence; everything else is vcld's own.

use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

/// One of them.
#[derive(Debug)]
pub struct Asset {
    /// Its name, such as `vcld.css`.
    pub name: &'static str,
    /// What it is.
    pub media_type: &'static str,
    /// What is in it.
    pub bytes: &'static [u8],
    /// Where it is: `/assets/DIGEST/NAME`.
    pub path: String,
}

macro_rules! assets {
    ($(($name:literal, $kind:literal)),+ $(,)?) => {
        vec![$(Asset::new($name, $kind, include_bytes!(concat!("../assets/", $name)))),+]
    };
}

static ALL: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    assets![
        ("vcld.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("htmx.min.js", "text/javascript; charset=utf-8"),
        ("idiomorph-ext.min.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ]
});

impl Asset {
    fn new(name: &'static str, media_type: &'static str, bytes: &'static [u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { name, media_type, bytes, path: format!("/assets/{short}/{name}") }
    }
}

/// The one at a path.
#[must_use]
pub fn at(path: &str) -> Option<&'static Asset> {
    ALL.iter().find(|asset| asset.path == path)
}

/// Where the one of a name is. One that there is none of is nowhere, which a test sees.
#[must_use]
pub fn path(name: &str) -> &'static str {
    ALL.iter().find(|asset| asset.name == name).map_or("/assets/none", |asset| &asset.path)
}
