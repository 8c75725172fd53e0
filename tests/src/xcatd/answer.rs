//! What goes back over the wire, and how Perl's JSON writes it.

use serde_json::{Value, json};

/// What a call is answered: a status, and a body that may be empty under the content type of JSON all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Option<Value>,
}

impl Answer {
    pub(super) fn with(body: Value) -> Self {
        Self { status: 200, body: Some(body) }
    }

    pub(super) fn empty() -> Self {
        Self { status: 200, body: None }
    }

    pub(super) fn created() -> Self {
        Self { status: 201, body: None }
    }

    /// What the CGI program itself finds wrong.
    pub(super) fn cgi(status: u16, text: &str) -> Self {
        Self { status, body: Some(json!({"error": text, "errorcode": "2"})) }
    }

    /// No token, a wrong one, a wrong password, and a right one that the policy does not let through.
    pub(super) fn unauthorized() -> Self {
        Self::cgi(401, "Authentication failure")
    }

    /// The body's text.
    pub(super) fn text(&self, pretty: bool) -> String {
        match &self.body {
            None => String::new(),
            Some(body) if pretty => format!("{}\n\n", indented(body, 0)),
            Some(body) => format!("{body}\n"),
        }
    }
}

/// What xcatd finds wrong, whatever it is: 403, and lines that a client has to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused(pub(super) Vec<String>);

impl Refused {
    pub(super) fn line(line: impl Into<String>) -> Self {
        Self(vec![line.into()])
    }
}

/// What a command of xcatd ends with.
pub(super) type Outcome = Result<Answer, Refused>;

impl From<Refused> for Answer {
    fn from(Refused(lines): Refused) -> Self {
        Self { status: 403, body: Some(json!({"error": lines, "errorcode": "1"})) }
    }
}

/// As `JSON->indent(1)` writes it: three blanks, none after a colon.
fn indented(value: &Value, depth: usize) -> String {
    let (open, close, items): (_, _, Vec<String>) = match value {
        Value::Object(object) => (
            '{',
            '}',
            object
                .iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), indented(value, depth + 1)))
                .collect(),
        ),
        Value::Array(array) => ('[', ']', array.iter().map(|value| indented(value, depth + 1)).collect()),
        plain => return plain.to_string(),
    };
    if items.is_empty() {
        return format!("{open}{close}");
    }
    let (inner, outer) = ("   ".repeat(depth + 1), "   ".repeat(depth));
    format!("{open}\n{inner}{}\n{outer}{close}", items.join(&format!(",\n{inner}")))
}
