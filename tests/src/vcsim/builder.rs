//! How a double is started.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

use super::{Facts, Fault, Guests, Mode, PutRange, Vcsim, milliseconds, program};

/// What a double is started with.
#[derive(Debug)]
pub struct Builder {
    mode: Mode,
    user: String,
    password: String,
    idle: Duration,
    task_time: Duration,
    put_range: PutRange,
    capacity: u64,
    read_only: bool,
    datastores: u32,
    faults: Vec<Fault>,
    guests: Option<Guests>,
}

impl Builder {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            user: "user".to_owned(),
            password: "pass".to_owned(),
            idle: Duration::ZERO,
            task_time: Duration::ZERO,
            put_range: PutRange::Refused,
            capacity: 0,
            read_only: false,
            datastores: 1,
            faults: Vec::new(),
            guests: None,
        }
    }

    /// The one login that is let in.
    #[must_use]
    pub fn login(mut self, user: &str, password: &str) -> Self {
        (self.user, self.password) = (user.to_owned(), password.to_owned());
        self
    }

    /// After how long without a call a session expires; at first, never.
    #[must_use]
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// How long every task takes at least.
    #[must_use]
    pub fn task_time(mut self, time: Duration) -> Self {
        self.task_time = time;
        self
    }

    /// What a PUT of a part of a file meets; [`PutRange::Refused`] unless said.
    #[must_use]
    pub fn put_range(mut self, put_range: PutRange) -> Self {
        self.put_range = put_range;
        self
    }

    /// How many bytes each datastore holds; unless said, what the file system does.
    #[must_use]
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = bytes;
        self
    }

    /// A licence that lets nothing be changed through the API, as free ESXi's.
    #[must_use]
    pub fn read_only_licence(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// How many datastores there are: `LocalDS_0`, `LocalDS_1` …
    #[must_use]
    pub fn datastores(mut self, count: u32) -> Self {
        self.datastores = count;
        self
    }

    /// A fault from the start.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// Real guests boot when machines are powered on.
    #[must_use]
    pub fn guests(mut self, guests: Guests) -> Self {
        self.guests = Some(guests);
        self
    }

    /// Builds the program if need be, and starts it.
    ///
    /// # Errors
    ///
    /// When Go, the program or a file fails; the message ends with what the program said.
    pub fn start(self) -> Result<Vcsim> {
        let program = program()?;
        let directory = tempfile::Builder::new().prefix("vcsim-").tempdir()?;
        let path = Utf8PathBuf::try_from(directory.path().to_owned())?;
        let log = File::create(path.join("log"))?;
        let mut child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to run {program}"))?;
        let mut input = child.stdin.take().context("the double has no standard input")?;
        let output = child.stdout.take().context("the double has no standard output")?;
        let order = self.order(&path);
        let mut double = Vcsim {
            mode: self.mode,
            user: self.user,
            password: self.password,
            child,
            input: None,
            path,
            facts: Facts::default(),
            _directory: directory,
        };
        let mut line = String::new();
        let written = writeln!(input, "{order}");
        double.input = Some(input);
        BufReader::new(output).read_line(&mut line)?;
        double.facts = written
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(serde_json::from_str(&line)?))
            .with_context(|| format!("the double did not start; it says:\n{}", double.log()))?;
        Ok(double)
    }

    fn order(&self, directory: &Utf8Path) -> Value {
        let guests = self.guests.as_ref().map(|guests| {
            let boot = guests.boot.as_ref();
            let addresses: serde_json::Map<String, Value> = guests
                .addresses
                .iter()
                .map(|(mac, address)| (mac.clone(), address.to_string().into()))
                .collect();
            json!({
                "kernel": boot.map_or("", |boot| boot.kernel.as_str()),
                "initrd": boot.map_or("", |boot| boot.initrd.as_str()),
                "cmdline": boot.map_or("", |boot| boot.cmdline.as_str()),
                "addresses": addresses,
                "only": guests.only,
                "tools": guests.tools,
            })
        });
        json!({
            "esx": self.mode == Mode::Esx,
            "directory": directory,
            "user": self.user,
            "password": self.password,
            "idle": milliseconds(self.idle),
            "task_time": milliseconds(self.task_time),
            "put_range": match self.put_range {
                PutRange::Refused => "refused",
                PutRange::Ignored => "ignored",
                PutRange::Honoured => "honoured",
            },
            "capacity": self.capacity,
            "read_only": self.read_only,
            "datastores": self.datastores,
            "faults": self.faults,
            "guests": guests,
        })
    }
}
