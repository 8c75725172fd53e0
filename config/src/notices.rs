//! `[notices]`: how people are told what becomes of their reservations, and administrators what needs them.

use crate::keys::{Key, Kind};
use crate::problem::shown;
use crate::section::Section;
use crate::values::CredentialName;
use camino::Utf8PathBuf;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;
use vcl_types::notices::NoticeKind;

/// What `[notices]` has.
pub(crate) const KEYS: &[Key] = &[
    Key::optional(
        "smtp",
        Kind::Table(SMTP),
        "nothing is mailed",
        "The mail server that notices are handed to.",
    ),
    Key::optional(
        "webhook",
        Kind::Table(WEBHOOK),
        "no program is told",
        "Where every notice is posted to as JSON, for programs.",
    ),
    Key::optional(
        "admins",
        Kind::Text,
        "nobody",
        "The addresses, with blanks between them, that hear of stuck jobs, computers taken out of use and classes without seats.",
    ),
    Key::optional(
        "templates",
        Kind::Path,
        "the built-in texts",
        "A directory with texts of the site's own: `KIND.txt`, or `GROUP/KIND.txt` for the reservations of a group. The first line is the subject.",
    ),
    Key::optional(
        "leave_out",
        Kind::Text,
        "everything is told",
        "Kinds that nobody is told of, with blanks between them: `ready`, `not-acknowledged`, `not-connected`, `inactive`, `ends-soon`, `ended`, `given-up`, `seats-missing`, `captured`, `promoted`, `job-stuck`, `maintenance`.",
    ),
    Key::default(
        "give_up",
        Kind::Duration { min: 60_000 },
        "3d",
        "For how long a notice that cannot be delivered is tried again. What was given up is a finding of `vclctl doctor`.",
    ),
];

/// `[notices.smtp]`.
const SMTP: &[Key] = &[
    Key::required("server", Kind::HostName, "The server's name, or its address."),
    Key::optional(
        "port",
        Kind::Integer { min: 1, max: 65_535 },
        "587 with STARTTLS, 465 with TLS, 25 with none",
        "Its port.",
    ),
    Key::default(
        "security",
        Kind::Word(&["starttls", "tls", "none"]),
        "starttls",
        "`starttls` begins in the clear and goes on encrypted, or not at all; `tls` is encrypted from the start; `none` is for a server on this machine or a network that is trusted.",
    ),
    Key::optional("ca", Kind::Path, "the system's authorities", "The server's authority, in PEM."),
    Key::required("from", Kind::Text, "The sender: `vcl@example.org` or `VCL <vcl@example.org>`."),
    Key::optional("user", Kind::Text, "no sign-in", "The account at the server."),
    Key::optional("password", Kind::Credential, "no sign-in", "Its password."),
];

/// `[notices.webhook]`.
const WEBHOOK: &[Key] = &[
    Key::required("url", Kind::Text, "Where to: `https://…`, or `http://…` on this machine."),
    Key::required(
        "secret",
        Kind::Credential,
        "What the posts are signed with: `X-Vcld-Signature` is the HMAC-SHA256 of the time in `X-Vcld-Timestamp`, a dot and the body.",
    ),
    Key::optional("ca", Kind::Path, "the system's authorities", "The server's authority, in PEM."),
];

/// `[metrics]`.
pub(crate) const METRICS: &[Key] = &[Key::optional(
    "listen",
    Kind::Text,
    "only the API has them, at `/metrics`",
    "An address and port of this machine's loopback that answers `/metrics`, `/healthz` and `/readyz` without asking who it is.",
)];

/// How people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notices {
    /// The mail server.
    pub smtp: Option<Smtp>,
    /// Where programs are told.
    pub webhook: Option<Webhook>,
    /// The administrators' addresses.
    pub admins: Vec<String>,
    /// The directory of the site's own texts.
    pub templates: Option<Utf8PathBuf>,
    /// What nobody is told of.
    pub leave_out: BTreeSet<NoticeKind>,
    /// For how long one is tried again.
    pub give_up: Duration,
}

/// A mail server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smtp {
    /// Its name or address.
    pub server: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    pub security: Security,
    /// Its authority, in PEM.
    pub ca: Option<Utf8PathBuf>,
    /// The sender.
    pub from: String,
    /// The account there, and its password.
    pub login: Option<(String, CredentialName)>,
}

/// How a mail server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// In the clear at first, then encrypted.
    StartTls,
    /// Encrypted.
    Tls,
    /// In the clear.
    None,
}

/// Where notices are posted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The address.
    pub url: String,
    /// What posts are signed with.
    pub secret: CredentialName,
    /// The server's authority, in PEM.
    pub ca: Option<Utf8PathBuf>,
}

/// Whether a text may be an address. What a server takes only the server knows.
fn is_address(text: &str) -> bool {
    let bare = text.rsplit_once('<').map_or(text, |(_, rest)| rest.trim_end().trim_end_matches('>'));
    bare.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && !domain.is_empty()
            && !bare.contains(char::is_whitespace)
            && !domain.contains('@')
    })
}

/// Whether nobody on the way can read what goes to this address: `https`, or on this machine.
pub(crate) fn is_safe(url: &str) -> bool {
    // What stands before an `@` is no host.
    let authority = url.strip_prefix("http://").and_then(|rest| rest.split(['/', '?', '#']).next());
    let host = authority.filter(|a| !a.contains(['@', '\\'])).and_then(|a| a.split(':').next());
    let here = host.is_some_and(|host| matches!(host, "localhost" | "127.0.0.1"));
    here || url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty())
}

fn smtp(table: &Section<'_>) -> Option<Smtp> {
    let (server, security) = (table.text("server"), table.choice::<Security>("security"));
    let port = table.optional("port", |table| table.integer("port"));
    let ca = table.optional("ca", |table| table.path("ca"));
    let user = table.optional("user", |table| table.text("user"));
    let password = table.optional("password", |table| table.credential("password"));
    let from = table.text("from").filter(|from| {
        let good = is_address(from);
        if !good {
            let message = format!("`{}` is not a mail address", shown(from));
            table.report("from", message, "write it as in \"vcl@example.org\"");
        }
        good
    });
    let (server, security, port, user, password) = (server?, security?, port?, user?, password?);
    let login = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => {
            table.report(
                "user",
                "there is no password for it",
                "add password = { credential = \"smtp-password\" }",
            );
            return None;
        }
        (None, Some(_)) => {
            table.report("password", "there is no account for it", "add user = \"…\"");
            return None;
        }
    };
    let local = matches!(server.as_str(), "localhost" | "127.0.0.1" | "::1");
    if login.is_some() && security == Security::None && !local {
        let message = format!("the password would go to {server} in the clear");
        table.report("security", message, "write security = \"starttls\" or \"tls\"");
        return None;
    }
    let usual = match security {
        Security::StartTls => 587,
        Security::Tls => 465,
        Security::None => 25,
    };
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(usual);
    Some(Smtp { server, port, security, ca: ca?, from: from?, login })
}

fn webhook(table: &Section<'_>) -> Option<Webhook> {
    let url = table.text("url").filter(|url| {
        let good = is_safe(url);
        if !good {
            let message = format!("`{}` is no address that notices may go to", shown(url));
            table.report("url", message, "write \"https://host/path\"; http:// only on this machine");
        }
        good
    });
    let secret = table.credential("secret");
    let ca = table.optional("ca", |table| table.path("ca"));
    Some(Webhook { url: url?, secret: secret?, ca: ca? })
}

pub(crate) fn read(table: &Section<'_>) -> Option<Notices> {
    let smtp = table.optional("smtp", |table| table.section("smtp").and_then(|table| smtp(&table)));
    let webhook =
        table.optional("webhook", |table| table.section("webhook").and_then(|table| webhook(&table)));
    let admins = table.optional("admins", |table| {
        let all: Vec<String> = table.text("admins")?.split_whitespace().map(str::to_owned).collect();
        if let Some(wrong) = all.iter().find(|text| !is_address(text)) {
            let message = format!("`{}` is not a mail address", shown(wrong));
            table.report("admins", message, "write addresses with blanks between them");
            return None;
        }
        Some(all)
    });
    let templates = table.optional("templates", |table| table.path("templates"));
    let leave_out = table.optional("leave_out", |table| {
        let mut all = BTreeSet::new();
        for word in table.text("leave_out")?.split_whitespace() {
            match word.parse::<NoticeKind>() {
                Ok(kind) => drop(all.insert(kind)),
                Err(why) => {
                    table.report("leave_out", shown(&why), "write words of these with blanks between them");
                    return None;
                }
            }
        }
        Some(all)
    });
    let give_up = table.duration("give_up");
    Some(Notices {
        smtp: smtp?,
        webhook: webhook?,
        admins: admins?.unwrap_or_default(),
        templates: templates?,
        leave_out: leave_out?.unwrap_or_default(),
        give_up: give_up?,
    })
}

/// The address that answers for metrics, which has to be this machine's alone.
pub(crate) fn metrics(table: &Section<'_>) -> Option<Option<std::net::SocketAddr>> {
    table.optional("listen", |table| {
        let text = table.text("listen")?;
        let address = text.parse::<std::net::SocketAddr>().ok().filter(|address| address.ip().is_loopback());
        if address.is_none() {
            let message = format!("`{}` is not a loopback address with a port", shown(&text));
            table.report(
                "listen",
                message,
                "write it as in \"127.0.0.1:9464\"; from elsewhere they are had over the API",
            );
        }
        address
    })
}

#[cfg(test)]
mod tests {
    use super::Security;
    use crate::{Known, parse};

    const BASE: &str = "[library]\npath = \"/srv/vcl\"\n";

    #[test]
    fn notices_are_read_with_their_defaults() {
        let text = format!(
            "{BASE}[notices]\nadmins = \"a@x.org b@x.org\"\nleave_out = \"ready ended\"\n[notices.smtp]\n\
             server = \"mail.x.org\"\nfrom = \"VCL <vcl@x.org>\"\nuser = \"vcl\"\n\
             password = {{ credential = \"smtp\" }}\n[notices.webhook]\nurl = \"https://x.org/hook\"\n\
             secret = {{ credential = \"hook\" }}\n[metrics]\nlisten = \"127.0.0.1:9464\"\n"
        );
        let config = parse(&text, "t", &Known::default()).unwrap();
        let notices = config.notices.unwrap();
        let smtp = notices.smtp.unwrap();
        assert_eq!((smtp.port, smtp.security), (587, Security::StartTls));
        assert_eq!(smtp.login.unwrap().0, "vcl");
        assert_eq!((notices.admins.len(), notices.leave_out.len()), (2, 2));
        assert_eq!(notices.give_up.as_secs(), 3 * 86_400);
        assert_eq!(config.metrics, Some("127.0.0.1:9464".parse().unwrap()));
        let none = parse(BASE, "t", &Known::default()).unwrap();
        assert_eq!((none.notices, none.metrics), (None, None));
    }

    #[test]
    fn what_cannot_be_sent_or_would_be_overheard_is_named() {
        let smtp = "[notices.smtp]\nserver = \"mail.x.org\"\n";
        for (lines, named) in [
            (format!("{smtp}from = \"nobody\""), "nobody"),
            (format!("{smtp}from = \"a@x\"\nuser = \"vcl\""), "password"),
            (
                format!(
                    "{smtp}from = \"a@x\"\nuser = \"v\"\npassword = {{ credential = \"p\" }}\nsecurity = \"none\""
                ),
                "in the clear",
            ),
            ("[notices]\nadmins = \"root\"".into(), "root"),
            ("[notices]\nleave_out = \"everything\"".into(), "everything"),
            (
                "[notices.webhook]\nurl = \"http://x.org/\"\nsecret = { credential = \"h\" }".into(),
                "http://x.org/",
            ),
            (
                "[notices.webhook]\nurl = \"http://localhost:x@x.org/\"\nsecret = { credential = \"h\" }"
                    .into(),
                "x.org",
            ),
            ("[metrics]\nlisten = \"0.0.0.0:9464\"".into(), "0.0.0.0"),
        ] {
            let problems =
                parse(&format!("{BASE}{lines}\n"), "t", &Known::default()).unwrap_err().to_string();
            assert!(problems.contains(named), "{lines}: {problems}");
        }
    }
}
