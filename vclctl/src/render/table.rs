//! Tables and lists of facts: no lines, upper-case headers, two spaces between columns.

use super::text;
use comfy_table::{Cell, Color, presets};

/// How a cell is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Under way, or worth a look.
    Busy,
    /// Not as it should be.
    Bad,
    /// Nothing special.
    Quiet,
}

/// A table that is being filled. What is put in is made safe to print.
#[derive(Debug)]
pub struct Table {
    table: comfy_table::Table,
    empty: &'static str,
}

impl Table {
    /// A table with these headers, or the sentence `empty` where it stays without rows.
    #[must_use]
    pub fn new(headers: &[&str], empty: &'static str) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_header(headers);
        if cfg!(test) {
            table.force_no_tty();
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table, empty }
    }
    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [(String, Tone); N]) {
        self.table.add_row(cells.map(|(content, tone)| {
            let content = text::one_line(&content);
            let cell = Cell::new(if content.is_empty() { "-".to_owned() } else { content });
            match tone {
                Tone::Good => cell.fg(Color::Green),
                Tone::Busy => cell.fg(Color::Yellow),
                Tone::Bad => cell.fg(Color::Red),
                Tone::Quiet => cell,
            }
        }));
    }
    /// The table as text.
    #[must_use]
    pub fn text(&self) -> String {
        if self.table.is_empty() { self.empty.to_owned() } else { self.table.trim_fmt() }
    }
}

/// A cell with nothing special about it.
pub(super) fn quiet(content: impl ToString) -> (String, Tone) {
    (content.to_string(), Tone::Quiet)
}

/// What a name or a number is that may not be there.
pub(super) fn maybe<T: ToString>(content: Option<T>) -> (String, Tone) {
    quiet(content.map(|content| content.to_string()).unwrap_or_default())
}

/// One thing, told as a list of named facts.
#[derive(Debug, Default)]
pub struct Facts(Vec<(&'static str, String)>);

impl Facts {
    /// Adds a fact.
    pub fn add(&mut self, name: &'static str, fact: impl ToString) -> &mut Self {
        self.0.push((name, text::one_line(&fact.to_string())));
        self
    }
    /// Adds a fact where it is known.
    pub fn maybe<T: ToString>(&mut self, name: &'static str, fact: Option<T>) -> &mut Self {
        if let Some(fact) = fact {
            self.add(name, fact);
        }
        self
    }
    /// The facts as text, one a line; a name that repeats the one before it is left out.
    #[must_use]
    pub fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut before = "";
        let mut lines = Vec::new();
        for (name, fact) in &self.0 {
            let shown = if *name == before { "" } else { name };
            lines.push(format!("{shown:width$}  {fact}").trim_end().to_owned());
            before = name;
        }
        lines.join("\n")
    }
}
