//! `[page]`: the web page.

use crate::keys::{Key, Kind};
use crate::problem::shown;
use crate::section::Section;
use camino::Utf8PathBuf;

/// What `[page]` has.
pub(crate) const KEYS: &[Key] = &[
    Key::optional(
        "url",
        Kind::Text,
        "nobody signs in to the page by way of the provider",
        "Where browsers open the page, as in `https://vcld.example.org`. An OpenID Connect provider is told to lead back there: register `URL/sign-in/end` with it.",
    ),
    Key::optional(
        "texts",
        Kind::Path,
        "the page is in English",
        "A directory with the page's texts in other languages, or in words of the site's: `de.ftl`, `en.ftl`.",
    ),
];

/// The web page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Where browsers open it, without a `/` at its end.
    pub url: Option<String>,
    /// Where its texts in other languages are.
    pub texts: Option<Utf8PathBuf>,
}

pub(crate) fn read(table: &Section<'_>) -> Option<Page> {
    let url = table.optional("url", |table| {
        table.text("url").map(|url| url.trim_end_matches('/').to_owned()).filter(|url| {
            let host = url.split_once("://").map_or("", |(_, host)| host);
            let good = crate::notices::is_safe(url) && !host.contains(['/', '?', '#']);
            if !good {
                let message = format!("`{}` is not where a page can be", shown(url));
                table.report(
                    "url",
                    message,
                    "write \"https://host\", without a path; http:// only on this machine",
                );
            }
            good
        })
    });
    let texts = table.optional("texts", |table| table.path("texts"));
    Some(Page { url: url?, texts: texts? })
}

#[cfg(test)]
mod tests {
    use crate::{Known, parse};

    #[test]
    fn the_page_is_at_the_top_of_a_host() {
        let read = |lines: &str| {
            let text = format!("[library]\npath = \"/srv/vcl\"\n[page]\n{lines}");
            parse(&text, "t", &Known::default()).map(|config| config.page).map_err(|no| no.to_string())
        };
        assert_eq!(read("").unwrap().url, None);
        assert_eq!(
            read("url = \"https://vcld.example:8443/\"").unwrap().url.unwrap(),
            "https://vcld.example:8443"
        );
        assert_eq!(read("texts = \"/etc/vcld/texts\"").unwrap().texts.unwrap(), "/etc/vcld/texts");
        for wrong in ["http://vcld.example", "https://vcld.example/vcld", "vcld.example", "https://"] {
            let no = read(&format!("url = \"{wrong}\"")).unwrap_err();
            assert!(no.contains("page.url") && no.contains("https://host"), "{no}");
        }
    }
}
