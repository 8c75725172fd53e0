//! `[api]`: the doors, and who vouches for those who come through them.

use crate::field::Field;
use crate::inbox::is_url;
use crate::keys::{Key, Kind};
use crate::problem::shown;
use crate::section::Section;
use crate::values::{CredentialName, KeySource};
use camino::Utf8PathBuf;
use std::net::SocketAddr;
use std::time::Duration;

/// What `[api]` has.
pub(crate) const KEYS: &[Key] = &[
    Key::default("socket", Kind::Path, "/run/vcld/vcld.sock", "The Unix socket the daemon listens on."),
    Key::default(
        "group",
        Kind::Account,
        "vcl",
        "Members of this group may do everything over the socket, and root and the daemon's own account.",
    ),
    Key::optional(
        "users_group",
        Kind::Account,
        "nobody else",
        "Members of this group may use the socket under their own names, with what grants give them. With `vcld.socket`, its `SocketMode=` has to let them in.",
    ),
    Key::default(
        "files",
        Kind::Path,
        "/var/lib/vcld/exchange",
        "The directory that people who are no administrators import from and export to: what they name elsewhere on this node is refused.",
    ),
    Key::optional(
        "listen",
        Kind::Text,
        "the sockets alone",
        "An address and port for TLS, as in `0.0.0.0:8444`: who comes there brings a token. It takes `certificate` and `key`.",
    ),
    Key::optional(
        "certificate",
        Kind::Path,
        "none",
        "The server's certificate, in PEM, with what stands between it and the authority after it. A new one counts within a minute.",
    ),
    Key::optional("key", Kind::KeySource, "none", "The certificate's private key, in PEM."),
    Key::default(
        "sign_in",
        Kind::Duration { min: 60_000 },
        "12h",
        "How long the token is good that somebody gets by signing in.",
    ),
    Key::default(
        "audit_days",
        Kind::Integer { min: 1, max: 36_500 },
        "365",
        "How many days the record of who did what stays.",
    ),
    Key::optional(
        "ldap",
        Kind::Table(LDAP),
        "no directory",
        "A directory that vouches for people by name and password.",
    ),
    Key::optional(
        "oidc",
        Kind::Table(OIDC),
        "no provider",
        "An OpenID Connect provider that vouches for people.",
    ),
    Key::optional(
        "proxy",
        Kind::Table(PROXY),
        "no proxy",
        "A proxy that has found out who somebody is, as a web server with Shibboleth does, and says so in headers.",
    ),
];

/// What `[api.ldap]` has.
pub(crate) const LDAP: &[Key] = &[
    Key::required(
        "url",
        Kind::Text,
        "The server: `ldaps://HOST`, or `ldap://HOST`, where StartTLS comes before anything else.",
    ),
    Key::optional("ca", Kind::Path, "the system's", "The certificate authority of the server, in PEM."),
    Key::optional(
        "user_dn",
        Kind::Text,
        "looked for, by `base` and `filter`",
        "Where people are, with `{}` for the name: `uid={},ou=people,dc=example,dc=org`.",
    ),
    Key::optional("bind_dn", Kind::Text, "nobody", "Whom to look for people as."),
    Key::optional("bind_password", Kind::Credential, "none", "The password of `bind_dn`."),
    Key::optional("base", Kind::Text, "none", "Below what to look for people."),
    Key::default("filter", Kind::Text, "(uid={})", "How to look for one, with `{}` for the name."),
    Key::optional(
        "group_attribute",
        Kind::Text,
        "none",
        "The attribute of a person that names groups, as `memberOf`. Of a DN the first part counts.",
    ),
    Key::optional("group_base", Kind::Text, "none", "Below what to look for the groups of a person."),
    Key::default(
        "group_filter",
        Kind::Text,
        "(member={dn})",
        "How to look for them, with `{dn}` for the person's DN and `{}` for the name.",
    ),
    Key::default("group_name", Kind::Text, "cn", "The attribute of a group that is its name."),
    Key::default("full_name", Kind::Text, "cn", "The attribute of a person that is what people call them."),
    Key::default("mail", Kind::Text, "mail", "The attribute of a person that is the mail address."),
    Key::optional(
        "uid",
        Kind::Text,
        "none",
        "The attribute of a person that is the user id of their accounts in guests, as `uidNumber`: what homes on a file server need.",
    ),
];

/// What `[api.oidc]` has.
pub(crate) const OIDC: &[Key] = &[
    Key::required("issuer", Kind::Text, "The provider's issuer, below which its discovery document lies."),
    Key::required("client_id", Kind::Text, "What the provider calls vcld."),
    Key::optional(
        "client_secret",
        Kind::Credential,
        "a public client",
        "The secret that vcld says who it is to the provider with.",
    ),
    Key::optional("ca", Kind::Path, "the system's", "The certificate authority of the provider, in PEM."),
    Key::optional(
        "audience",
        Kind::Text,
        "as `client_id`",
        "Whom tokens have to be for that programs bring from the provider.",
    ),
    Key::default("user_claim", Kind::Text, "preferred_username", "The claim that is the user's name."),
    Key::default("groups_claim", Kind::Text, "groups", "The claim that lists the user's groups."),
    Key::default("scopes", Kind::Text, "openid profile email", "The scopes that are asked for."),
];

/// What `[api.proxy]` has.
pub(crate) const PROXY: &[Key] = &[
    Key::optional("socket", Kind::Path, "none", "A Unix socket for the proxy alone."),
    Key::optional(
        "account",
        Kind::Account,
        "none",
        "The account that the proxy runs as: no other is let in at `socket`.",
    ),
    Key::optional(
        "listen",
        Kind::Text,
        "none",
        "A loopback address and port for it, plain HTTP, as in `127.0.0.1:8480`. It takes `secret`.",
    ),
    Key::optional(
        "secret",
        Kind::Credential,
        "none",
        "What the proxy sends in `X-Vcld-Proxy`: every account of this machine reaches a loopback address.",
    ),
    Key::default("user_header", Kind::Text, "X-Remote-User", "The header with the user's name."),
    Key::default(
        "groups_header",
        Kind::Text,
        "X-Remote-Groups",
        "The header with the groups, separated by `;` or `,`.",
    ),
];

/// How clients reach the daemon, and who vouches for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// The Unix socket, absolute and at most 107 bytes long.
    pub socket: Utf8PathBuf,
    /// The group whose members may do everything over it.
    pub group: String,
    /// The group whose members may use it as themselves, with what their grants give.
    pub users_group: Option<String>,
    /// The directory that people who are no administrators import from and export to, absolute.
    pub files: Utf8PathBuf,
    /// Where it listens with TLS.
    pub tls: Option<ApiTls>,
    /// How long a token from signing in is good.
    pub sign_in: Duration,
    /// How many days the record of deeds stays.
    pub audit_days: u32,
    /// The directory.
    pub ldap: Option<Ldap>,
    /// The provider.
    pub oidc: Option<Oidc>,
    /// The proxy.
    pub proxy: Option<Proxy>,
}

/// The door with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTls {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The certificate, in PEM.
    pub certificate: Utf8PathBuf,
    /// Its private key, in PEM.
    pub key: KeySource,
}

/// How people are found in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LdapPeople {
    /// By their name in a DN, where `{}` stands.
    Template(String),
    /// By looking for them.
    Search {
        /// Whom to look as, and the password.
        bind: Option<(String, CredentialName)>,
        /// Below what.
        base: String,
        /// With `{}` for the name.
        filter: String,
    },
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ldap {
    /// `ldaps://…` or `ldap://…`.
    pub url: String,
    /// The server's authority, in PEM.
    pub ca: Option<Utf8PathBuf>,
    /// How people are found.
    pub people: LdapPeople,
    /// The attribute of people that names groups.
    pub group_attribute: Option<String>,
    /// Below what to look for groups, and how.
    pub group_search: Option<(String, String)>,
    /// The attribute of a group that is its name.
    pub group_name: String,
    /// The attribute of a person that is what people call them.
    pub full_name: String,
    /// The attribute of a person that is the mail address.
    pub mail: String,
    /// The attribute of a person that is the user id of their accounts in guests.
    pub uid: Option<String>,
}

/// A provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oidc {
    /// Its issuer.
    pub issuer: String,
    /// What it calls vcld.
    pub client_id: String,
    /// vcld's secret there.
    pub client_secret: Option<CredentialName>,
    /// Its authority, in PEM.
    pub ca: Option<Utf8PathBuf>,
    /// Whom tokens are for that programs bring.
    pub audience: String,
    /// The claim that is the user's name.
    pub user_claim: String,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// What is asked for.
    pub scopes: String,
}

/// A proxy that says who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its socket, and the account that it runs as.
    pub socket: Option<(Utf8PathBuf, String)>,
    /// Its loopback address, and the credential with what it sends.
    pub listen: Option<(SocketAddr, CredentialName)>,
    /// The header with the user's name, in lower case.
    pub user_header: String,
    /// The header with the groups, in lower case.
    pub groups_header: String,
}

pub(crate) fn read(table: &Section<'_>) -> Option<Api> {
    let socket = socket(table, "socket");
    let group = table.text("group");
    let users_group = table.optional("users_group", |table| table.text("users_group"));
    let files = table.path("files");
    let tls = tls(table);
    let sign_in = table.duration("sign_in");
    let audit_days = table.integer("audit_days");
    let ldap = table.optional("ldap", |table| table.section("ldap").and_then(|table| ldap(&table)));
    let oidc = table.optional("oidc", |table| table.section("oidc").and_then(|table| oidc(&table)));
    let proxy = table.optional("proxy", |table| table.section("proxy").and_then(|table| proxy(&table)));
    Some(Api {
        socket: socket?,
        group: group?,
        users_group: users_group?,
        files: files?,
        tls: tls?,
        sign_in: sign_in?,
        audit_days: audit_days?,
        ldap: ldap?,
        oidc: oidc?,
        proxy: proxy?,
    })
}

fn socket(table: &Section<'_>, name: &str) -> Option<Utf8PathBuf> {
    table.path(name).filter(|path| {
        let fits = path.as_str().len() <= 107;
        if !fits {
            let message = format!(
                "`{}` is longer than the 107 bytes a Unix socket's path can have",
                shown(path.as_str())
            );
            table.report(name, message, "write a shorter path, as in \"/run/vcld/vcld.sock\"");
        }
        fits
    })
}

fn address(table: &Section<'_>, name: &str, example: &str) -> Option<SocketAddr> {
    let text = table.text(name)?;
    let address = text.parse().ok();
    if address.is_none() {
        let message = format!("`{}` is not an address with a port", shown(&text));
        table.report(name, message, format!("write it as in \"{example}\""));
    }
    address
}

fn tls(table: &Section<'_>) -> Option<Option<ApiTls>> {
    let key = table.field("key").map(|field: Field<'_>| field.key_source());
    let certificate = table.has("certificate").then(|| table.path("certificate"));
    if !table.has("listen") {
        return Some(None);
    }
    let listen = address(table, "listen", "0.0.0.0:8444");
    let (Some(certificate), Some(key)) = (certificate, key) else {
        let way_out = "add certificate = \"/etc/vcld/api.pem\" and key = { file = \"/etc/vcld/api.key\" }; behind a proxy with TLS of its own, use [api.proxy]";
        table.report("listen", "there is no TLS without a certificate and its key", way_out);
        return None;
    };
    Some(Some(ApiTls { listen: listen?, certificate: certificate?, key: key? }))
}

fn ldap(table: &Section<'_>) -> Option<Ldap> {
    let url = table.text("url").filter(|url| {
        let good = is_url(url, "ldaps") || is_url(url, "ldap");
        if !good {
            let message = format!("`{}` is not the URL of a directory", shown(url));
            table.report("url", message, "write it as in \"ldaps://ldap.example.org\"");
        }
        good
    });
    let text = |name: &'static str| table.optional(name, |table| table.text(name));
    let (template, bind_dn, base) = (text("user_dn"), text("bind_dn"), text("base"));
    let password = table.optional("bind_password", |table| table.credential("bind_password"));
    let (filter, group_filter) =
        (holding(table, "filter", &["{}"]), holding(table, "group_filter", &["{}", "{dn}"]));
    let (attribute, group_base, uid) = (text("group_attribute"), text("group_base"), text("uid"));
    let ca = table.optional("ca", |table| table.path("ca"));
    let [group_name, full_name, mail] = ["group_name", "full_name", "mail"].map(|key| table.text(key));
    let people = match (template?, base?) {
        (Some(_), Some(_)) => {
            table.report(
                "user_dn",
                "people are found by a DN or by looking for them",
                "leave out user_dn or base",
            );
            None
        }
        (Some(_), None) => holding(table, "user_dn", &["{}"]).map(LdapPeople::Template),
        (None, Some(base)) => {
            let bind = match (bind_dn?, password?) {
                (Some(dn), Some(password)) => Some(Some((dn, password))),
                (None, None) => Some(None),
                _ => {
                    table.report(
                        "bind_dn",
                        "a DN to bind as takes a password, and a password a DN",
                        "give both, or neither",
                    );
                    None
                }
            };
            Some(LdapPeople::Search { bind: bind?, base, filter: filter? })
        }
        (None, None) => {
            let way_out = "add user_dn = \"uid={},ou=people,dc=example,dc=org\", or base = \"ou=people,dc=example,dc=org\"";
            table.report("url", "nothing says where people are", way_out);
            None
        }
    };
    let group_filter = group_filter?;
    Some(Ldap {
        url: url?,
        ca: ca?,
        people: people?,
        group_attribute: attribute?,
        group_search: group_base?.map(|base| (base, group_filter)),
        group_name: group_name?,
        full_name: full_name?,
        mail: mail?,
        uid: uid?,
    })
}

/// A text with one of these in it.
fn holding(table: &Section<'_>, name: &str, parts: &[&str]) -> Option<String> {
    let text = table.text(name)?;
    if parts.iter().any(|part| text.contains(part)) {
        return Some(text);
    }
    let message = format!("`{}` is the same for everybody", shown(&text));
    table.report(name, message, format!("put {} where the name belongs", parts.join(" or ")));
    None
}

fn oidc(table: &Section<'_>) -> Option<Oidc> {
    let issuer = table.text("issuer").filter(|url| {
        let good = is_url(url, "https");
        if !good {
            let message = format!("`{}` is not the URL of an issuer", shown(url));
            table.report("issuer", message, "write it as in \"https://login.example.org/realms/site\"");
        }
        good
    });
    let client_id = table.text("client_id");
    let audience = table.optional("audience", |table| table.text("audience"));
    let secret = table.optional("client_secret", |table| table.credential("client_secret"));
    let ca = table.optional("ca", |table| table.path("ca"));
    let [user_claim, groups_claim, scopes] =
        ["user_claim", "groups_claim", "scopes"].map(|key| table.text(key));
    let client_id = client_id?;
    Some(Oidc {
        issuer: issuer?,
        client_secret: secret?,
        ca: ca?,
        audience: audience?.unwrap_or_else(|| client_id.clone()),
        client_id,
        user_claim: user_claim?,
        groups_claim: groups_claim?,
        scopes: scopes?,
    })
}

fn proxy(table: &Section<'_>) -> Option<Proxy> {
    let path = table.optional("socket", |table| socket(table, "socket"));
    let account = table.optional("account", |table| table.text("account"));
    let listen = table.optional("listen", |table| address(table, "listen", "127.0.0.1:8480"));
    let secret = table.optional("secret", |table| table.credential("secret"));
    let header = |name: &'static str| {
        let text = table.text(name)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if text.bytes().all(plain) {
            return Some(text.to_ascii_lowercase());
        }
        table.report(
            name,
            format!("`{}` is not a header's name", shown(&text)),
            "write it as in \"X-Remote-User\"",
        );
        None
    };
    let (user_header, groups_header) = (header("user_header"), header("groups_header"));
    let socket = match (path?, account?) {
        (Some(path), Some(account)) => Some(Some((path, account))),
        (None, None) => Some(None),
        _ => {
            table.report(
                "socket",
                "a socket for the proxy takes the account it runs as, and the other way round",
                "give both: socket and account",
            );
            None
        }
    };
    let listen = match (listen?, secret?) {
        (Some(address), Some(_)) if !address.ip().is_loopback() => {
            table.report(
                "listen",
                format!("`{address}` is reached from elsewhere, without TLS"),
                "use 127.0.0.1 or [::1], or api.listen with TLS",
            );
            None
        }
        (Some(address), Some(secret)) => Some(Some((address, secret))),
        (None, None) => Some(None),
        _ => {
            let way_out = "give both: listen, and secret = { credential = \"proxy-secret\" }; or use socket and account";
            table.report(
                "listen",
                "an address for the proxy takes a secret, and the other way round",
                way_out,
            );
            None
        }
    };
    let (socket, listen) = (socket?, listen?);
    if socket.is_none() && listen.is_none() {
        table.report(
            "socket",
            "nothing says where the proxy comes in",
            "give socket and account, or listen and secret",
        );
        return None;
    }
    Some(Proxy { socket, listen, user_header: user_header?, groups_header: groups_header? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Known, parse};

    const BASE: &str = "[library]\npath = \"/srv/vcl\"\n[api]\n";

    fn api(lines: &str) -> Api {
        parse(&format!("{BASE}{lines}"), "t", &Known::default()).unwrap().api
    }

    #[test]
    fn the_doors_are_read() {
        let api = api(
            "listen = \"0.0.0.0:8444\"\ncertificate = \"/e/a.pem\"\nkey = { file = \"/e/a.key\" }\nsign_in = \"8h\"\n\
             [api.ldap]\nurl = \"ldaps://l.example.org\"\nbase = \"dc=x\"\nbind_dn = \"cn=v\"\nbind_password = { credential = \"ldap\" }\ngroup_base = \"ou=g\"\n\
             [api.oidc]\nissuer = \"https://i.example.org/r\"\nclient_id = \"vcld\"\n\
             [api.proxy]\nsocket = \"/run/vcld/p.sock\"\naccount = \"www-data\"\n",
        );
        assert_eq!(api.tls.unwrap().listen.port(), 8444);
        assert_eq!(api.sign_in, Duration::from_secs(8 * 3600));
        let ldap = api.ldap.unwrap();
        assert_eq!(ldap.group_search, Some(("ou=g".into(), "(member={dn})".into())));
        assert!(matches!(ldap.people, LdapPeople::Search { bind: Some(_), .. }));
        assert_eq!(api.oidc.unwrap().audience, "vcld");
        assert_eq!(api.proxy.unwrap().user_header, "x-remote-user");
    }
    #[test]
    fn what_would_let_the_wrong_ones_in_is_named() {
        for (lines, named) in [
            ("listen = \"0.0.0.0:80\"\n", "no TLS without a certificate"),
            ("listen = \"80\"\ncertificate = \"/a\"\nkey = { file = \"/b\" }\n", "`80`"),
            ("[api.ldap]\nurl = \"http://x\"\nuser_dn = \"uid={}\"\n", "http://x"),
            ("[api.ldap]\nurl = \"ldap://x\"\nuser_dn = \"uid=all\"\n", "the same for everybody"),
            ("[api.ldap]\nurl = \"ldap://x\"\n", "where people are"),
            ("[api.ldap]\nurl = \"ldap://x\"\nbase = \"b\"\nbind_dn = \"d\"\n", "takes a password"),
            (
                "[api.ldap]\nurl = \"ldap://x\"\nbase = \"b\"\nbind_password = \"hunter2\"\n",
                "may not stand in this file",
            ),
            ("[api.oidc]\nissuer = \"http://x\"\nclient_id = \"v\"\n", "http://x"),
            ("[api.proxy]\n", "where the proxy comes in"),
            ("[api.proxy]\nlisten = \"127.0.0.1:1\"\n", "takes a secret"),
            (
                "[api.proxy]\nlisten = \"0.0.0.0:1\"\nsecret = { credential = \"s\" }\n",
                "reached from elsewhere",
            ),
            ("[api.proxy]\nsocket = \"/x\"\n", "takes the account"),
        ] {
            let problems = parse(&format!("{BASE}{lines}"), "t", &Known::default()).unwrap_err().to_string();
            assert!(problems.contains(named), "{lines}: {problems}");
            assert!(!problems.contains("hunter2"), "{problems}");
        }
    }
}
