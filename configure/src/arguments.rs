//! The arguments of a type's command, `__file /etc/motd --source x`, as Python's argparse takes them, since manifests of
//! twenty years count on how it does.
//!
//! An option may be shortened as long as one only begins so; it may stand before or after the id; its value follows it or
//! stands behind `=`; `--` ends the options. What begins with a hyphen is no value, unless it is a negative number or has a
//! blank in it. Of a value that is given twice the last one counts.

use crate::definition::{Parameter, Takes, Type, Value};
use crate::error::{Error, ErrorKind, Result};

/// What a command was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The object's id; `None` for a singleton.
    pub id: Option<Vec<u8>>,
    /// The parameters that it has, defaults among them, in the order of the type's.
    pub parameters: Vec<(String, Value)>,
}

/// What an argument is, before it is known what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind<'a> {
    /// A word: an id or a value.
    Word,
    /// The first `--`.
    End,
    /// An option, and what stands behind its `=`.
    Option(&'a Parameter, Option<&'a [u8]>),
    /// It looks like an option and is none.
    Unknown,
}

/// Takes apart what follows the command's name.
///
/// # Errors
/// [`ErrorKind::Usage`], with the usage in its first lines.
pub fn parse(of: &Type, arguments: &[Vec<u8>]) -> Result<Given> {
    Parser { of, arguments }.parse().map_err(|why| {
        let context = format!("{}\n{}: error: {why}", usage(of), of.name);
        Error::new(ErrorKind::Usage, context)
    })
}

/// How a type is called.
#[must_use]
pub fn usage(of: &Type) -> String {
    let mut line = format!("usage: {}", of.name);
    for parameter in &of.parameters {
        let value = match parameter.takes {
            Takes::Nothing => String::new(),
            _ => format!(" {}", parameter.name.to_uppercase()),
        };
        let one = format!("--{}{value}", parameter.name);
        line.push_str(&if parameter.required { format!(" {one}") } else { format!(" [{one}]") });
    }
    if !of.singleton {
        line.push_str(" object_id");
    }
    line
}

struct Parser<'a> {
    of: &'a Type,
    arguments: &'a [Vec<u8>],
}

impl<'a> Parser<'a> {
    fn parse(&self) -> Result<Given, String> {
        let kinds = self.kinds()?;
        // Where the id stands, and what it is.
        let mut id: Option<(usize, Vec<u8>)> = None;
        let mut given: Vec<(&Parameter, Value)> = Vec::new();
        let mut extra: Vec<&[u8]> = Vec::new();
        let mut at = 0;
        while let (Some(kind), Some(argument)) = (kinds.get(at), self.arguments.get(at)) {
            match kind {
                Kind::Option(parameter, inline) => {
                    let value = match (parameter.takes, inline) {
                        (Takes::Nothing, None) => Value::Nothing,
                        (Takes::Nothing, Some(text)) => {
                            let text = String::from_utf8_lossy(text);
                            return Err(format!(
                                "argument --{}: ignored explicit argument '{text}'",
                                parameter.name
                            ));
                        }
                        (_, Some(text)) => Value::One(text.to_vec()),
                        (_, None) => {
                            at += 1;
                            let next = kinds.get(at).filter(|kind| **kind == Kind::Word);
                            let next = next.and(self.arguments.get(at));
                            let wanting = || format!("argument --{}: expected one argument", parameter.name);
                            Value::One(next.ok_or_else(wanting)?.clone())
                        }
                    };
                    put(&mut given, parameter, value);
                }
                Kind::Word if id.is_none() && !self.of.singleton => id = Some((at, argument.clone())),
                // The one that ends the options is no argument where an id stands beside it.
                Kind::End if id.as_ref().is_some_and(|(place, _)| place + 1 == at) => {}
                Kind::End if id.is_none() && !self.of.singleton && kinds.get(at + 1) == Some(&Kind::Word) => {
                }
                Kind::Word | Kind::Unknown | Kind::End => extra.push(argument),
            }
            at += 1;
        }
        self.complete(id.map(|(_, id)| id), given, &extra)
    }

    fn complete(
        &self,
        id: Option<Vec<u8>>,
        mut given: Vec<(&'a Parameter, Value)>,
        extra: &[&[u8]],
    ) -> Result<Given, String> {
        let has = |parameter: &Parameter| given.iter().any(|(p, _)| p.name == parameter.name);
        let mut lacking: Vec<String> = Vec::new();
        for parameter in self.of.parameters.iter().filter(|parameter| parameter.required && !has(parameter)) {
            lacking.push(format!("--{}", parameter.name));
        }
        if !self.of.singleton && id.is_none() {
            lacking.push("object_id".into());
        }
        if !lacking.is_empty() {
            return Err(format!("the following arguments are required: {}", lacking.join(", ")));
        }
        if !extra.is_empty() {
            let extra: Vec<_> = extra.iter().map(|argument| String::from_utf8_lossy(argument)).collect();
            return Err(format!("unrecognized arguments: {}", extra.join(" ")));
        }
        let mut parameters = Vec::new();
        for parameter in &self.of.parameters {
            let value =
                given.iter().position(|(p, _)| p.name == parameter.name).map(|at| given.swap_remove(at).1);
            if let Some(value) = value.or_else(|| parameter.default.clone()) {
                parameters.push((parameter.name.clone(), value));
            }
        }
        Ok(Given { id, parameters })
    }

    fn kinds(&self) -> Result<Vec<Kind<'a>>, String> {
        let mut ended = false;
        self.arguments
            .iter()
            .map(|argument| match argument.as_slice() {
                _ if ended => Ok(Kind::Word),
                b"--" => {
                    ended = true;
                    Ok(Kind::End)
                }
                argument => self.kind(argument),
            })
            .collect()
    }

    fn kind(&self, argument: &'a [u8]) -> Result<Kind<'a>, String> {
        if argument.first() != Some(&b'-') || argument.len() == 1 {
            return Ok(Kind::Word);
        }
        let (name, inline) = match argument.iter().position(|byte| *byte == b'=') {
            Some(at) => (&argument[..at], Some(&argument[at + 1..])),
            None => (argument, None),
        };
        if let Some(name) = name.strip_prefix(b"--") {
            // Whole, its `=` included, before it is taken apart: argparse looks it up so first.
            let whole = argument.strip_prefix(b"--").and_then(|whole| self.called(whole));
            if let Some(parameter) = whole {
                return Ok(Kind::Option(parameter, None));
            }
            if let Some(parameter) = self.called(name) {
                return Ok(Kind::Option(parameter, inline));
            }
            let begin: Vec<_> =
                self.of.parameters.iter().filter(|p| p.name.as_bytes().starts_with(name)).collect();
            match begin[..] {
                [] => {}
                [parameter] => return Ok(Kind::Option(parameter, inline)),
                _ => {
                    let names: Vec<_> = begin.iter().map(|p| format!("--{}", p.name)).collect();
                    let argument = String::from_utf8_lossy(argument);
                    return Err(format!("ambiguous option: {argument} could match {}", names.join(", ")));
                }
            }
        }
        let word = is_negative_number(argument) || argument.contains(&b' ');
        Ok(if word { Kind::Word } else { Kind::Unknown })
    }

    fn called(&self, name: &[u8]) -> Option<&'a Parameter> {
        self.of.parameters.iter().find(|parameter| parameter.name.as_bytes() == name)
    }
}

fn put<'a>(given: &mut Vec<(&'a Parameter, Value)>, parameter: &'a Parameter, value: Value) {
    let at = given.iter().position(|(p, _)| p.name == parameter.name);
    match (parameter.takes, value, at) {
        (Takes::Many, Value::One(value), Some(at)) => {
            if let Value::Many(values) = &mut given[at].1 {
                values.push(value);
            }
        }
        (Takes::Many, Value::One(value), None) => given.push((parameter, Value::Many(vec![value]))),
        (_, value, Some(at)) => given[at].1 = value,
        (_, value, None) => given.push((parameter, value)),
    }
}

/// `-5`, `-0.5`, `-.5`.
fn is_negative_number(argument: &[u8]) -> bool {
    let Some(number) = argument.strip_prefix(b"-") else { return false };
    let digits = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    match number.iter().position(|byte| *byte == b'.') {
        None => !number.is_empty() && digits(number),
        Some(at) => digits(&number[..at]) && at + 1 < number.len() && digits(&number[at + 1..]),
    }
}
