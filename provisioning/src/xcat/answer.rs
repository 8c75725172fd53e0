//! What xCAT's REST service answers, and what its refusals mean.
//!
//! Everything that xcatd itself refuses comes as 403, whatever the reason, with a list of texts; what the CGI in front of
//! it refuses comes with one text. So the texts are what tells a wrong node's name from a dead service processor.

use crate::{Error, ErrorKind};
use serde_json::Value;
use vcl_job::Kind;

/// What kind of trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The management node does not answer.
    Away,
    /// It does not let us in.
    Login,
    /// The node's service processor does not answer, or not now.
    Bmc,
    /// The service processor does not let xCAT in, or so xCAT says.
    BmcLogin,
    /// There is no such node.
    NoNode,
    /// The osimage is not there, or not complete.
    NoImage,
    /// The imaging task's URL does not answer the management node.
    NoTask,
    /// The service processor cannot do that.
    BmcCannot,
    /// Anything else that is refused.
    Refused,
    /// An answer that makes no sense.
    Nonsense,
    /// It was not asked: the job was told to stop.
    Stopped,
    /// It was not asked: the job is not ours any more.
    NotOurs,
}

/// Why a call did not do what it should.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) trouble: Trouble,
    /// What was being done, and the way out.
    pub(super) what: String,
    /// xCAT's own words, or the transport's.
    pub(super) said: String,
}

/// xCAT's own words as the cause of an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

impl Fault {
    fn kind(&self) -> ErrorKind {
        match self.trouble {
            Trouble::Away | Trouble::Bmc => ErrorKind::Unreachable,
            Trouble::NoNode => ErrorKind::NotFound,
            Trouble::NoImage | Trouble::NoTask | Trouble::BmcCannot | Trouble::Login => ErrorKind::Refused,
            Trouble::BmcLogin | Trouble::Refused | Trouble::Nonsense => ErrorKind::Failed,
            Trouble::Stopped => ErrorKind::Cancelled,
            Trouble::NotOurs => ErrorKind::LeaseLost,
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::caused(fault.kind(), fault.what, Said(fault.said))
    }
}

impl From<Fault> for vcl_job::Error {
    fn from(fault: Fault) -> Self {
        let kind = match fault.trouble {
            Trouble::Away | Trouble::Bmc => Kind::Unreachable,
            Trouble::Login | Trouble::BmcLogin => Kind::Auth,
            Trouble::NoNode => Kind::NotFound,
            Trouble::NoImage | Trouble::NoTask | Trouble::BmcCannot => Kind::Refused,
            Trouble::Refused => Kind::Fatal,
            Trouble::Nonsense => Kind::Corrupt,
            Trouble::Stopped => Kind::Cancelled,
            Trouble::NotOurs => Kind::LeaseLost,
        };
        Self::caused(kind, fault.what, Said(fault.said))
    }
}

/// The texts of a refusal: xcatd sends a list, the CGI one text.
pub(super) fn texts(body: &str) -> String {
    let error =
        serde_json::from_str::<Value>(body).ok().and_then(|mut v| v.get_mut("error").map(Value::take));
    let said = match error {
        Some(Value::String(one)) => one,
        Some(Value::Array(many)) => {
            let lines: Vec<_> = many.iter().filter_map(Value::as_str).map(str::trim).collect();
            lines.join("; ")
        }
        _ => body.to_owned(),
    };
    said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect::<String>().trim().to_owned()
}

/// Whether xcatd itself refused, which sends a list, and not the CGI that asks it.
pub(super) fn of_xcatd(body: &str) -> bool {
    serde_json::from_str::<Value>(body).is_ok_and(|v| v.get("error").is_some_and(Value::is_array))
}

/// What a refusal's texts mean. `xcatd` says that they are xcatd's own: it is there, and who refuses a connection is a node's
/// service processor.
pub(super) fn trouble(status: u16, said: &str, xcatd: bool) -> Trouble {
    let said = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    match status {
        401 => Trouble::Login,
        500..=599 => Trouble::Away,
        _ if has(&["invalid nodes and/or groups", "of type 'node'"]) => Trouble::NoNode,
        _ if has(&["cannot wget url"]) => Trouble::NoTask,
        _ if has(&["os image", "osimage", "install image not found", "genimage", "packimage"]) => {
            Trouble::NoImage
        }
        _ if has(&["incorrect password", "incorrect username", "unauthorized name"]) => Trouble::BmcLogin,
        _ if has(&["invalid data field", "unsupported command"]) => Trouble::BmcCannot,
        _ if has(&["timeout", "timed out", "node busy", "no route to host", "insufficient resources"]) => {
            Trouble::Bmc
        }
        _ if has(&["unable to connect to", "connection refused"]) => match xcatd {
            true => Trouble::Bmc,
            false => Trouble::Away,
        },
        _ if has(&["xcatd"]) && !xcatd => Trouble::Away,
        _ => Trouble::Refused,
    }
}

/// The way out, where there is one to be told.
pub(super) fn way_out(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Login => {
            "; is the account in xCAT's passwd table, and does its policy allow this? (tabdump passwd, lsdef -t policy)"
        }
        Trouble::Bmc => "; does the node's service processor answer?",
        Trouble::BmcLogin => {
            "; look at bmcusername and bmcpassword (xCAT says this also of a service processor whose cipher suites it does not share)"
        }
        Trouble::NoTask => "; the management node must reach inbox.url",
        Trouble::NoNode => {
            "; is it defined in xCAT, and is it named under `nodes` if it has another name there?"
        }
        Trouble::Away
        | Trouble::NoImage
        | Trouble::BmcCannot
        | Trouble::Refused
        | Trouble::Nonsense
        | Trouble::Stopped
        | Trouble::NotOurs => "",
    }
}

/// One attribute of one node: `{"n1":{"power":"on"}}`.
pub(super) fn of_node<'v>(answer: &'v Value, node: &str, name: &str) -> Option<&'v str> {
    answer.get(node)?.get(name)?.as_str()
}

/// Names in a list. xCAT says in words, in the same list, that there are none.
pub(super) fn names(answer: &Value) -> Vec<String> {
    let texts = answer.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.filter(|text| !text.is_empty() && !text.contains(' ')).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `STATUS BODY` a line, as the service answers, with what it means.
    #[test]
    fn refusals_are_told_apart_by_their_texts() {
        let recorded = include_str!("fixtures/refusals.txt");
        let mut seen = 0;
        for line in recorded.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let (meaning, rest) = line.split_once(' ').unwrap();
            let (status, body) = rest.split_once(' ').unwrap();
            let said = texts(body);
            let trouble = trouble(status.parse().unwrap(), &said, of_xcatd(body));
            assert_eq!(format!("{trouble:?}"), meaning, "{said}");
            assert!(!said.contains('{') && !said.is_empty(), "{said}");
            seen += 1;
        }
        assert!(seen >= 15);
    }

    #[test]
    fn a_node_that_refuses_a_connection_is_no_absent_management_node() {
        let of = |body: &str| trouble(403, &texts(body), of_xcatd(body));
        assert_eq!(of(r#"{"error":["n5: Error: Connection refused"],"errorcode":"1"}"#), Trouble::Bmc);
        assert_eq!(of(r#"{"error":"Unable to connect to xcatd: Connection refused"}"#), Trouble::Away);
        assert_eq!(of(r#"{"error":["n5: xcatd has no plugin for it"]}"#), Trouble::Refused);
    }

    #[test]
    fn a_body_that_is_no_json_is_told_in_short() {
        assert_eq!(texts("<html>\nBad Gateway</html>"), "<html> Bad Gateway</html>");
        assert_eq!(texts(&"x".repeat(10_000)).len(), 600);
        assert_eq!(texts("{\"error\":[1,\"a \",\"b\\n\"]}"), "a; b");
    }

    #[test]
    fn lists_and_attributes_are_read() {
        let list = |text: &str| names(&serde_json::from_str(text).unwrap());
        assert_eq!(list(r#"["n1","n2"]"#), ["n1", "n2"]);
        assert!(list(r#"["Could not find any object definitions to display."]"#).is_empty());
        assert!(list("{}").is_empty());
        let answer = serde_json::json!({ "n1": { "power": "on", "status": "" } });
        assert_eq!(of_node(&answer, "n1", "power"), Some("on"));
        assert_eq!(of_node(&answer, "n2", "power"), None);
    }
}
