//! What is wrong with a file, and where.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

/// A place in a file. Both numbers count from 1; columns count characters, not bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file's name, as it was given to the parser.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key it is about, such as `computers."gis-[01-40]".memory`; empty for an error of syntax.
    pub key: String,
    /// What is wrong, with the value where it may be shown.
    pub message: String,
    /// What to write instead.
    pub way_out: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if !self.way_out.is_empty() {
            write!(f, "\n  help: {}", self.way_out)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration file, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
impl std::error::Error for Problems {}

/// Collects problems while a file is walked.
pub(crate) struct Findings {
    file: String,
    list: RefCell<Vec<Problem>>,
    /// The lines whose syntax is wrong. What the parser made of them is a guess, so nothing else is said of them.
    broken: BTreeSet<usize>,
}

impl Findings {
    pub fn new(file: &str) -> Self {
        Self { file: shown(file), list: RefCell::default(), broken: BTreeSet::new() }
    }
    /// An error of syntax; one a line is enough, the rest follow from it.
    pub fn syntax(&mut self, at: Position, message: String, way_out: String) {
        if !self.broken.contains(&at.line) {
            self.report(at, "", message, way_out);
            self.broken.insert(at.line);
        }
    }
    pub fn report(&self, at: Position, key: &str, message: impl Into<String>, way_out: impl Into<String>) {
        if self.broken.contains(&at.line) {
            return;
        }
        self.list.borrow_mut().push(Problem {
            file: self.file.clone(),
            line: at.line,
            column: at.column,
            key: key.to_owned(),
            message: message.into(),
            way_out: way_out.into(),
        });
    }
    /// A problem that might only be there because a line with wrong syntax was not read: something is missing.
    pub fn consequence(
        &self,
        at: Position,
        key: &str,
        message: impl Into<String>,
        way_out: impl Into<String>,
    ) {
        if self.broken.is_empty() {
            self.report(at, key, message, way_out);
        }
    }
    /// What the walk came to: its value if nothing was found wrong.
    pub fn outcome<T>(self, value: Option<T>) -> Result<T, Problems> {
        let mut list = self.list.into_inner();
        match value {
            Some(value) if list.is_empty() => Ok(value),
            _ => {
                if list.is_empty() {
                    list.push(Problem {
                        file: self.file,
                        line: 1,
                        column: 1,
                        key: String::new(),
                        message: "the file could not be used, and no reason was noted".to_owned(),
                        way_out: "this is a mistake in vcld; please report it with the file".to_owned(),
                    });
                }
                list.sort_by_key(|problem| (problem.line, problem.column));
                list.dedup();
                Err(Problems(list))
            }
        }
    }
}

/// Text of the file as a message may show it: short, and with nothing a terminal would obey.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut out = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == LONGEST {
            out.push('…');
            break;
        }
        let invisible = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if invisible { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// A key as TOML writes it after `parent`: quoted where it has to be.
pub(crate) fn dotted(parent: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let key = if bare { key.to_owned() } else { format!("\"{}\"", shown(key)) };
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}
