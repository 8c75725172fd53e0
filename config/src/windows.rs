//! `[windows]`: how Windows guests are logged in to, set up and activated.

use crate::problem::shown;
use crate::section::Section;
use crate::values::CredentialName;
use camino::Utf8PathBuf;

/// What holds for every Windows guest of the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// The account the daemon logs in to, an administrator.
    pub user: String,
    /// The key server that activates them, if there is one.
    pub kms_host: Option<String>,
    /// Its port, where it is not the usual one.
    pub kms_port: Option<u16>,
    /// The credential with the product key they are given, if they are.
    pub product_key: Option<CredentialName>,
    /// Whether a guest that cannot be activated is a failed load.
    pub require_activation: bool,
    /// Their time zone, as Windows calls it.
    pub timezone: String,
    /// Their language and formats.
    pub locale: String,
    /// A file in place of the built-in unattend file, absolute.
    pub unattend: Option<Utf8PathBuf>,
    /// Whether Sysprep leaves the counter of the licence alone.
    pub skip_rearm: bool,
}

pub(crate) fn read(table: &Section<'_>) -> Option<Windows> {
    let user = table.text("user").filter(|user| {
        // What Windows does not take in an account's name, and what would not get through an ssh login.
        let bad =
            user.contains(['"', '/', '\\', '[', ']', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@']);
        if bad || user.chars().count() > 20 {
            let message = format!("`{}` is not the name of a local account of Windows", shown(user));
            table.report(
                "user",
                message,
                "write it as Windows shows it, as in \"Administrator\"; it has at most 20 characters",
            );
        }
        !bad && user.chars().count() <= 20
    });
    let (kms_host, kms_port) = match table.has("kms_host") {
        false => (Some(None), None),
        true => match table.text("kms_host").map(|text| (host_and_port(&text), text)) {
            Some((Some((host, port)), _)) => (Some(Some(host)), port),
            Some((None, text)) => {
                let message = format!("`{}` is not a host, with or without a port", shown(&text));
                table.report(
                    "kms_host",
                    message,
                    "write it as in \"kms.example.org\" or \"kms.example.org:1688\"",
                );
                (None, None)
            }
            None => (None, None),
        },
    };
    let product_key = match table.has("product_key") {
        false => Some(None),
        true => table.credential("product_key").map(Some),
    };
    let unattend = match table.has("unattend") {
        false => Some(None),
        true => table.path("unattend").map(Some),
    };
    let locale = table.text("locale").filter(|locale| {
        let ok =
            locale.len() <= 32 && locale.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:;".contains(&b));
        if !ok {
            let message = format!("`{}` is not a language of Windows", shown(locale));
            table.report("locale", message, "write it as in \"de-DE\"");
        }
        ok
    });
    let (require_activation, timezone) = (table.boolean("require_activation"), table.text("timezone"));
    let skip_rearm = table.boolean("skip_rearm");
    Some(Windows {
        user: user?,
        kms_host: kms_host?,
        kms_port,
        product_key: product_key?,
        require_activation: require_activation?,
        timezone: timezone?,
        locale: locale?,
        unattend: unattend?,
        skip_rearm: skip_rearm?,
    })
}

fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        None => (text, None),
        Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
    };
    let label = |part: &str| {
        !part.is_empty() && part.len() <= 63 && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (host.len() <= 253 && host.split('.').all(label)).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use crate::{Known, parse};

    fn windows(text: &str) -> Result<super::Windows, String> {
        let text = format!("[library]\npath = \"/srv/vcl\"\n{text}");
        let known = Known { backend_types: &[] };
        parse(&text, "test.toml", &known)
            .map(|config| config.windows)
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_file_that_says_nothing_of_it_has_the_defaults() {
        let windows = windows("").unwrap();
        assert_eq!((windows.user.as_str(), windows.timezone.as_str()), ("Administrator", "UTC"));
        assert!(windows.kms_host.is_none() && windows.product_key.is_none() && !windows.require_activation);
    }

    #[test]
    fn a_key_server_has_a_port_or_none() {
        let with = windows("[windows]\nkms_host = \"kms.example.org:1689\"\n").unwrap();
        assert_eq!((with.kms_host.as_deref(), with.kms_port), (Some("kms.example.org"), Some(1689)));
        let without =
            windows("[windows]\nkms_host = \"kms\"\nproduct_key = { credential = \"windows-key\" }\n")
                .unwrap();
        assert_eq!(
            (without.kms_port, without.product_key.unwrap().to_string()),
            (None, "windows-key".to_owned())
        );
        for wrong in ["kms host", "kms:0", "kms:x", ":1", "a..b"] {
            let said = windows(&format!("[windows]\nkms_host = \"{wrong}\"\n")).unwrap_err();
            assert!(said.contains("windows.kms_host"), "{wrong}: {said}");
        }
    }

    #[test]
    fn a_product_key_does_not_stand_in_the_file() {
        let said = windows("[windows]\nproduct_key = \"AAAAA-BBBBB-CCCCC-DDDDD-EEEEE\"\n").unwrap_err();
        assert!(said.contains("windows.product_key") && !said.contains("BBBBB"), "{said}");
        for wrong in ["user = \"CORP\\\\bob\"", "locale = \"de DE\"", "unattend = \"unattend.xml\""] {
            assert!(windows(&format!("[windows]\n{wrong}\n")).is_err(), "{wrong}");
        }
    }
}
