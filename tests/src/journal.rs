//! A daemon's journal as another process sees it, and a gate in it that stops the daemon at a chosen record.
//!
//! The database is read through `sqlite3`, so nothing here goes through the program under test. What it shows is durable:
//! a reader in WAL mode sees what was committed and nothing else.
//!
//! Killing "when a record is there" alone is a race: a fast step is over before the signal arrives. So a test may close a
//! gate: a trigger that lets a job write so many records and not one more. The daemon then hangs inside the transaction of
//! the next one: everything that its step does in the world has been done, and nothing of it is recorded. [`Journal::is_held`]
//! says when it is there. Records of child processes are not counted: every life of a step writes its own.

use anyhow::{Context, Result, bail, ensure};
use camino::Utf8Path;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use vcl_job::Record;
use vcl_types::JobId;

/// How long a database may be held without a commit before it is taken for held by the gate.
const HELD: Duration = Duration::from_millis(250);
const END: &str = "-- end of the answer --";

/// The view spins for ever: a trigger that reads it never returns. SQLite has no sleep.
const GATE: &str = "
CREATE TABLE IF NOT EXISTS test_gate (job INTEGER NOT NULL, most INTEGER NOT NULL);
CREATE VIEW IF NOT EXISTS test_for_ever AS
  WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) AS x FROM n;
CREATE TRIGGER IF NOT EXISTS test_gate_closed BEFORE INSERT ON journal
  WHEN NEW.record NOT LIKE '{\"record\":\"process\"%' AND EXISTS (SELECT 1 FROM test_gate WHERE job = NEW.job_id
    AND most <= (SELECT count(*) FROM journal WHERE job_id = NEW.job_id AND record NOT LIKE '{\"record\":\"process\"%'))
  BEGIN SELECT x FROM test_for_ever; END;";

/// A view of a daemon's journal.
#[derive(Debug)]
pub struct Journal {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Journal {
    /// Opens the SQLite database of a daemon that has been started at least once.
    ///
    /// # Errors
    ///
    /// When `sqlite3` is not installed or cannot open it.
    pub fn open(database: &Utf8Path) -> Result<Self> {
        ensure!(database.exists(), "there is no database {database}");
        let mut child = Command::new("sh")
            .args(["-c", "exec sqlite3 -batch -list -noheader \"$1\" 2>&1", "sh", database.as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting sqlite3")?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut journal = Self { child, input, output };
        journal.tell(".timeout 20000")?;
        Ok(journal)
    }

    fn ask(&mut self, sql: &str) -> Result<Vec<String>> {
        writeln!(self.input, "{sql}\n.print \"{END}\"")?;
        self.input.flush()?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "sqlite3 ended: {lines:?}");
            let line = line.trim_end_matches('\n');
            if line == END {
                return Ok(lines);
            }
            lines.push(line.to_owned());
        }
    }

    fn tell(&mut self, sql: &str) -> Result<()> {
        let said = self.ask(sql)?;
        ensure!(said.is_empty(), "sqlite3 said {said:?} to {sql}");
        Ok(())
    }

    fn number(&mut self, sql: &str) -> Result<i64> {
        let said = self.ask(sql)?;
        let [line] = said.as_slice() else { bail!("sqlite3 said {said:?} to {sql}") };
        line.parse().with_context(|| format!("sqlite3 said {line} to {sql}"))
    }

    /// Everything the job has recorded, in order, in all its attempts.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn records(&mut self, job: JobId) -> Result<Vec<Record>> {
        let sql = format!("SELECT record FROM journal WHERE job_id = {job} ORDER BY attempt, seq;");
        let lines = self.ask(&sql)?;
        lines.iter().map(|l| serde_json::from_str(l).with_context(|| format!("reading {l}"))).collect()
    }

    /// In which end state `pre_capture` left the guest of a capture: `off`, `reboot` or `on`.
    ///
    /// # Errors
    ///
    /// When the job did not come as far as that, or the database cannot be read.
    pub fn end_state(&mut self, job: JobId) -> Result<String> {
        let finish = self.records(job)?.into_iter().find_map(|record| match record {
            Record::Started { key, intent, .. } if key == "capture/pre_capture/finish" => Some(intent),
            _ => None,
        });
        let finish = finish.with_context(|| format!("job {job} did not come to the end of pre_capture"))?;
        Ok(finish.as_str().with_context(|| format!("its intent is {finish}"))?.to_owned())
    }

    /// How many records it has, those of child processes left out.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn count(&mut self, job: JobId) -> Result<usize> {
        let n = self.number(&format!(
            "SELECT count(*) FROM journal WHERE job_id = {job} AND record NOT LIKE '{{\"record\":\"process\"%';"
        ))?;
        Ok(usize::try_from(n)?)
    }

    /// The number that the next job will get.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn next_job(&mut self) -> Result<JobId> {
        Ok(JobId(
            self.number("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'jobs'), 0) + 1;")?,
        ))
    }

    /// Lets a job write this many records, and holds the daemon in the transaction of the one after.
    ///
    /// # Errors
    ///
    /// When the database cannot be written.
    pub fn gate(&mut self, job: JobId, most: usize) -> Result<()> {
        self.tell(GATE)?;
        self.tell(&format!(
            "BEGIN IMMEDIATE; DELETE FROM test_gate; INSERT INTO test_gate VALUES ({job}, {most}); COMMIT;"
        ))
    }

    /// Takes the gate away.
    ///
    /// # Errors
    ///
    /// When the database cannot be written.
    pub fn open_gate(&mut self) -> Result<()> {
        self.tell(
            "DROP TRIGGER IF EXISTS test_gate_closed; DROP VIEW IF EXISTS test_for_ever; DROP TABLE IF EXISTS test_gate;",
        )
    }

    /// Whether the gate holds the daemon now: nobody else gets to write, and that for longer than any commit takes.
    ///
    /// # Errors
    ///
    /// When the database cannot be asked.
    pub fn is_held(&mut self) -> Result<bool> {
        self.tell(".timeout 0")?;
        let began = Instant::now();
        let held = loop {
            let said = self.ask("BEGIN IMMEDIATE; ROLLBACK;")?;
            if !said.iter().any(|line| line.contains("locked")) {
                break false;
            }
            if began.elapsed() > HELD {
                break true;
            }
            std::thread::sleep(Duration::from_millis(5)); // why: a lock tells nobody how long it is held
        };
        self.tell(".timeout 20000")?;
        Ok(held)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A record in a few words, for a table of points: `started load/define domain`.
#[must_use]
pub fn describe(record: &Record) -> String {
    match record {
        Record::Begun { flow, .. } => format!("begun {flow}"),
        Record::Started { key, .. } => format!("started {key}"),
        Record::Process { key, .. } => format!("process {key}"),
        Record::Done { key, .. } => format!("done {key}"),
        Record::Failed { key, .. } => format!("failed {key}"),
        Record::Unwinding { .. } => "unwinding".into(),
        Record::Undone { key } => format!("undone {key}"),
        Record::Finished { .. } => "finished".into(),
        Record::Stuck { key, .. } => format!("stuck {key}"),
    }
}
