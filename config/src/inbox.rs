//! `[inbox]`: where machines fetch imaging tasks and leave the bytes of their disks.

use crate::keys::{Key, Kind};
use crate::problem::shown;
use crate::section::Section;
use camino::Utf8PathBuf;
use std::net::SocketAddr;

/// What `[inbox]` has.
pub(crate) const KEYS: &[Key] = &[
    Key::default(
        "listen",
        Kind::Text,
        "0.0.0.0:8481",
        "The address and port it listens on, plain HTTP: let it be one of the provisioning network.",
    ),
    Key::optional(
        "url",
        Kind::Text,
        "http:// with this node's name and the port",
        "What machines and the provisioning server reach it at, as in `http://10.0.0.1:8481`.",
    ),
    Key::default(
        "directory",
        Kind::Path,
        "/var/lib/vcld/inbox",
        "Where it keeps what is fetched and what comes: it needs room for the disks that are captured or restored at once.",
    ),
];

/// Where machines fetch and leave things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbox {
    /// Where it listens, plain HTTP.
    pub listen: SocketAddr,
    /// What machines reach it at, without a slash at its end; `None` is the node's name with the port it listens on.
    pub url: Option<String>,
    /// Where its boxes are, absolute.
    pub directory: Utf8PathBuf,
}

pub(crate) fn read(table: &Section<'_>) -> Option<Inbox> {
    let listen = table.text("listen").and_then(|text| {
        let address = text.parse().ok();
        if address.is_none() {
            let message = format!("`{}` is not an address with a port", shown(&text));
            table.report("listen", message, "write it as in \"10.0.0.1:8481\" or \"0.0.0.0:8481\"");
        }
        address
    });
    let url = match table.has("url") {
        false => Some(None),
        true => table.text("url").and_then(|text| {
            let text = text.trim_end_matches('/').to_owned();
            if is_url(&text, "http") {
                return Some(Some(text));
            }
            let message = format!("`{}` is not the URL of a plain HTTP server", shown(&text));
            table.report("url", message, "write it as in \"http://10.0.0.1:8481\"");
            None
        }),
    };
    Some(Inbox { listen: listen?, url: url?, directory: table.path("directory")? })
}

/// Whether a text is `SCHEME://HOST[:PORT][/PATH]` with nothing in it that a shell, or a list with commas, takes for
/// something else, and without an account.
pub(crate) fn is_url(text: &str, scheme: &str) -> bool {
    let Some(rest) = text.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) else {
        return false;
    };
    let fine = |b: u8| b.is_ascii_alphanumeric() || b".-_:/[]~".contains(&b);
    !rest.is_empty() && !rest.starts_with(['/', ':']) && rest.bytes().all(fine)
}

#[cfg(test)]
mod tests {
    use crate::{Known, parse};

    const BASE: &str = "[library]\npath = \"/srv/vcl\"\n";

    #[test]
    fn an_inbox_is_read_with_its_defaults() {
        assert_eq!(parse(BASE, "t", &Known::default()).unwrap().inbox, None);
        let inbox = parse(&format!("{BASE}[inbox]\n"), "t", &Known::default()).unwrap().inbox.unwrap();
        assert_eq!(inbox.listen, "0.0.0.0:8481".parse().unwrap());
        assert_eq!((inbox.url, inbox.directory.as_str()), (None, "/var/lib/vcld/inbox"));
        let text = format!("{BASE}[inbox]\nurl = \"http://10.0.0.1:8481/\"\n");
        let inbox = parse(&text, "t", &Known::default()).unwrap().inbox.unwrap();
        assert_eq!(inbox.url.as_deref(), Some("http://10.0.0.1:8481"));
    }

    #[test]
    fn what_a_machine_could_not_reach_is_named() {
        for (line, named) in [
            ("listen = \"8481\"", "8481"),
            ("url = \"https://node:1\"", "https://node:1"),
            ("url = \"http://\"", "http://"),
            ("url = \"http://a,b\"", "http://a,b"),
            ("url = \"http://a/$(x)\"", "$(x)"),
        ] {
            let problems = parse(&format!("{BASE}[inbox]\n{line}\n"), "t", &Known::default()).unwrap_err();
            assert!(problems.to_string().contains(named), "{line}: {problems}");
        }
    }
}
