//! Where text goes: results to stdout, the way there to stderr.

use crate::error::Result;
use crate::follow::Display;
use crate::render::{Clock, live::Live, plain::Plain, text};
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};
use vcl_types::JobId;

/// The two streams of a process, and what is known of who reads them.
pub struct Screen {
    out: Box<dyn Write + Send>,
    raw: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// Whether results are wanted as JSON.
    pub json: bool,
    /// Whether a person sits there to be asked.
    pub interactive: bool,
    /// Whether results go to a terminal, which binary data must not.
    pub out_is_terminal: bool,
    /// What time it is, and where.
    pub clock: Clock,
    live: bool,
}

impl Screen {
    /// The streams of this process. Colour is dropped where nobody would see it, and where `NO_COLOR` says so.
    #[must_use]
    pub fn of_this_process(json: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let err_is_terminal = io::stderr().is_terminal();
        Self {
            out: Box::new(anstream::stdout()),
            raw: Box::new(io::stdout()),
            err: Box::new(anstream::stderr()),
            json,
            interactive: io::stdin().is_terminal() && err_is_terminal,
            out_is_terminal: io::stdout().is_terminal(),
            clock: Clock::now(),
            live: err_is_terminal && !dumb,
        }
    }
    /// Streams that are kept, for tests.
    #[must_use]
    pub fn kept(json: bool, clock: Clock) -> (Self, Sink, Sink) {
        let (out, err) = (Sink::default(), Sink::default());
        let screen = Self {
            out: Box::new(out.clone()),
            raw: Box::new(out.clone()),
            err: Box::new(err.clone()),
            json,
            interactive: false,
            out_is_terminal: false,
            clock,
            live: false,
        };
        (screen, out, err)
    }
    /// Prints a result, with a line feed where it has none.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn print(&mut self, result: &str) -> Result<()> {
        let end = if result.is_empty() || result.ends_with('\n') { "" } else { "\n" };
        write!(self.out, "{result}{end}")?;
        Ok(self.out.flush()?)
    }
    /// Prints more of a text that goes on where it stopped.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn print_on(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }
    /// Prints binary data as it is: what drops colours from text would drop bytes of a picture.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn print_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.flush()?;
        self.raw.write_all(bytes)?;
        Ok(self.raw.flush()?)
    }
    /// Prints JSON. What could move a cursor or turn a line around is written as `\u` escapes.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn print_json<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let pretty = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.print(&text::escaped_json(&pretty))
    }
    /// One line of JSON, for lists that do not end.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn print_json_line<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let line = serde_json::to_string(value).map_err(io::Error::other)?;
        self.print(&text::escaped_json(&line))
    }
    /// Prints the answer as JSON if that is wanted, else what `readable` makes of it.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn answer<T: Serialize>(
        &mut self,
        value: &T,
        readable: impl FnOnce(&T, &Clock) -> String,
    ) -> Result<()> {
        if self.json {
            self.print_json(value)
        } else {
            let shown = readable(value, &self.clock);
            self.print(&shown)
        }
    }
    /// Says something about the way there. That nobody reads it is no reason to stop.
    pub fn say(&mut self, line: &str) {
        let _ = writeln!(self.err, "{}", text::one_line(line));
        let _ = self.err.flush();
    }
    /// Says what went wrong.
    pub fn complain(&mut self, line: &str) {
        let style = anstyle::AnsiColor::Red.on_default().bold();
        let _ = writeln!(self.err, "{style}error:{style:#} {}", text::one_line(line));
        let _ = self.err.flush();
    }
    /// Asks a yes-or-no question; anything but yes is no.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub fn ask(&mut self, question: &str) -> Result<bool> {
        let _ = write!(self.err, "{} [y/N] ", text::one_line(question));
        let _ = self.err.flush();
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
    /// What shows a job that goes on: bars on a terminal, lines elsewhere.
    pub fn display(&mut self, job: JobId) -> Box<dyn Display + '_> {
        if self.live {
            Box::new(Live::new(job, indicatif::ProgressDrawTarget::stderr()))
        } else {
            Box::new(Plain::new(job, &mut self.err, self.clock))
        }
    }
}

/// Text that was written, for tests to read.
#[derive(Debug, Clone, Default)]
pub struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    /// What was written so far.
    #[must_use]
    pub fn text(&self) -> String {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&written).into_owned()
    }
}
impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
