//! `[guacamole]`: the gateway by which users come to their computers in a browser.

use crate::keys::{Key, Kind};
use crate::problem::shown;
use crate::section::Section;
use crate::values::CredentialName;
use camino::Utf8PathBuf;
use std::net::IpAddr;

/// What `[guacamole]` has.
pub(crate) const KEYS: &[Key] = &[
    Key::required(
        "url",
        Kind::Text,
        "Where users open it, as in `https://desk.example.org/guacamole`; `http://…` only on this machine.",
    ),
    Key::required(
        "user",
        Kind::Text,
        "The account there that vcld signs in with. It needs the permission to create connections, to administer users whom it lets in, and to create users where vcld has to.",
    ),
    Key::required("password", Kind::Credential, "Its password."),
    Key::required(
        "guacd",
        Kind::Text,
        "The addresses, with blanks between them, from which its guacd connects to computers. The firewalls of lent computers let them in.",
    ),
    Key::optional(
        "source",
        Kind::Text,
        "what the sign-in answers",
        "The data source that keeps connections: `mysql`, `postgresql`, `sqlserver`.",
    ),
    Key::optional("ca", Kind::Path, "the system's authorities", "The server's authority, in PEM."),
    Key::default(
        "mark",
        Kind::Text,
        "vcld",
        "What vcld's connections there are known by: their names end with `(MARK NUMBER)`. Sites that share a Guacamole have a word of their own each.",
    ),
];

/// A Guacamole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guacamole {
    /// Where users open it, without a `/` at its end.
    pub url: String,
    /// The account that is signed in with.
    pub user: String,
    /// Its password.
    pub password: CredentialName,
    /// From where connections come to computers.
    pub guacd: Vec<IpAddr>,
    /// The data source; `None` is that of the account.
    pub source: Option<String>,
    /// The server's authority, in PEM.
    pub ca: Option<Utf8PathBuf>,
    /// What its connections are known by.
    pub mark: String,
}

fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=40).contains(&text.len()) && text.chars().all(plain)
}

fn word(table: &Section<'_>, key: &str) -> Option<String> {
    let text = table.text(key)?;
    if !is_word(&text) {
        let message = format!("`{}` is not a word", shown(&text));
        table.report(key, message, "use 1 to 40 letters, digits, `-` and `_`");
        return None;
    }
    Some(text)
}

pub(crate) fn read(table: &Section<'_>) -> Option<Guacamole> {
    let url = table.text("url").filter(|url| {
        let good = crate::notices::is_safe(url) && !url.contains(['?', '#']);
        if !good {
            let message = format!("`{}` is no address that users' connections may go by", shown(url));
            table.report("url", message, "write \"https://host/guacamole\"; http:// only on this machine");
        }
        good
    });
    let user = table.text("user");
    let guacd = table.text("guacd").and_then(|text| {
        let mut all = Vec::new();
        for word in text.split_whitespace() {
            match word.parse::<IpAddr>() {
                Ok(address) if !address.is_unspecified() && !address.is_multicast() => all.push(address),
                _ => {
                    let message = format!("`{}` is not a host's address", shown(word));
                    table.report("guacd", message, "write addresses with blanks between them");
                    return None;
                }
            }
        }
        Some(all)
    });
    let password = table.credential("password");
    let source = if table.has("source") { word(table, "source").map(Some) } else { Some(None) };
    let ca = if table.has("ca") { table.path("ca").map(Some) } else { Some(None) };
    let mark = word(table, "mark");
    let url = url?.trim_end_matches('/').to_owned();
    Some(Guacamole {
        url,
        user: user?,
        password: password?,
        guacd: guacd?,
        source: source?,
        ca: ca?,
        mark: mark?,
    })
}

#[cfg(test)]
mod tests {
    use crate::{Config, Known, parse};

    const WHOLE: &str = "url = \"https://desk.example.org/guacamole/\"\nuser = \"vcld\"\n\
                         password = { credential = \"guacamole\" }\nguacd = \"10.0.0.9 fd00::9\"\n";

    fn read(lines: &str) -> Result<Config, String> {
        let text = format!("[library]\npath = \"/srv/vcl\"\n[guacamole]\n{lines}");
        parse(&text, "vcld.toml", &Known::default()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_gateway_has_an_address_an_account_and_where_it_connects_from() {
        let gateway = read(WHOLE).unwrap().guacamole.unwrap();
        assert_eq!(gateway.url, "https://desk.example.org/guacamole");
        assert_eq!((gateway.guacd.len(), gateway.mark.as_str(), gateway.source), (2, "vcld", None));
    }

    #[test]
    fn what_would_not_work_is_told_with_the_way_out() {
        for (line, said) in [
            ("url = \"http://desk.example.org/guacamole\"", "http:// only on this machine"),
            ("guacd = \"gateway\"", "guacamole.guacd: `gateway` is not a host's address"),
            ("guacd = \" \"", "guacamole.guacd: this is empty"),
            ("mark = \"our vcld\"", "guacamole.mark: `our vcld` is not a word"),
            ("source = \"../mysql\"", "guacamole.source"),
            ("password = \"hunter2\"", "guacamole.password"),
        ] {
            let key = line.split(" =").next().unwrap();
            let rest: String =
                WHOLE.lines().filter(|l| !l.starts_with(key)).map(|l| format!("{l}\n")).collect();
            let problems = read(&format!("{rest}{line}\n")).unwrap_err();
            assert!(problems.contains(said) && !problems.contains("hunter2"), "{line}: {problems}");
        }
    }
}
