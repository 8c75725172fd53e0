//! A real vcld with a directory and a configuration of its own, asked through the real vclctl.
//!
//! Both binaries are those that were built beside the running one. The daemon is a child process: it can be killed,
//! stopped and started again on the same directory, and it ends with its [`Daemon`].

use crate::guest::{Guest, Kind};
use crate::journal::Journal;
use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use vcl_types::api::{ComputerView, EventView, ImageView, JobView};
use vcl_types::{Endpoint, JobId};

/// What a test's daemon is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where everything of it lies.
    pub directory: Utf8PathBuf,
    /// The private key that guests let in.
    pub key: Utf8PathBuf,
    /// The computers, by name.
    pub computers: Vec<String>,
    /// What stands under `[network.net]`.
    pub network: String,
    /// More lines of `[api]`.
    pub api: String,
    /// Further lines of the configuration, such as `[deadlines]`.
    pub more: String,
    /// Further lines of `[computers]`, for those of other backends.
    pub more_computers: String,
    /// Where the library is, if not in the directory.
    pub library: Option<Utf8PathBuf>,
    /// The database's URL, if it is not a file in the directory. Two daemons of one world may name one server.
    pub database: Option<String>,
    /// The node's name: jobs that it has claimed carry it.
    pub node: String,
    /// How long the daemon waits for running steps when it is told to stop.
    pub drain: String,
    /// Where the machines' files are, if not in the directory: daemons that share a host share it.
    pub machines: Option<Utf8PathBuf>,
    /// libvirt's URI.
    pub uri: String,
    /// What stands under `[backend.kvm]`, where it is neither libvirt's nor sim's.
    pub backend: Option<String>,
    /// Whether the machines are simulated.
    pub simulated: Option<Simulated>,
    /// Whether it shares machines, library and database with other nodes. It has a password for the database then, in
    /// `password` in its directory, and a lease of so long.
    pub shared: Option<Shared>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
}

/// What a node that has others beside it is told.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The database's password.
    pub password: String,
    /// The node's lease, such as `3s`.
    pub lease: String,
}

/// Simulated machines under `machines` in the directory.
#[derive(Debug, Clone)]
pub struct Simulated {
    /// How many jobs run at once.
    pub at_once: u32,
    /// How long each step takes, such as `0s`.
    pub delay: &'static str,
}

impl Setup {
    /// Computers on user networking under the system libvirt of the world.
    #[must_use]
    pub fn new(directory: &Utf8Path, key: &Utf8Path, computers: &[&str]) -> Self {
        Self {
            directory: directory.to_owned(),
            key: key.to_owned(),
            computers: computers.iter().map(|c| (*c).to_owned()).collect(),
            network: "user = true".into(),
            api: String::new(),
            more: String::new(),
            more_computers: String::new(),
            library: None,
            database: None,
            node: "test".into(),
            drain: "5s".into(),
            machines: None,
            uri: "qemu:///system".into(),
            backend: None,
            simulated: None,
            shared: None,
            environment: Vec::new(),
        }
    }

    fn database_url(&self) -> String {
        self.database.clone().unwrap_or_else(|| format!("sqlite:{}/vcld.db", self.directory))
    }

    fn machines_directory(&self) -> Utf8PathBuf {
        self.machines.clone().unwrap_or_else(|| self.directory.join("machines"))
    }

    fn configuration(&self) -> String {
        let Self { directory, key, network, api, more, uri, node, drain, .. } = self;
        let database = self.database_url();
        let machines = self.machines_directory();
        let library = self.library.clone().unwrap_or_else(|| directory.join("library"));
        let mut computers: String = self
            .computers
            .iter()
            .map(|name| {
                format!("\"{name}\" = {{ backend = \"kvm\", memory = \"256M\", networks = [\"net\"] }}\n")
            })
            .collect();
        computers.push_str(&self.more_computers);
        let (jobs, backend) = match &self.simulated {
            None if self.backend.is_some() => (String::new(), self.backend.clone().unwrap_or_default()),
            None => {
                (String::new(), format!("type = \"libvirt\"\nuri = \"{uri}\"\ndirectory = \"{machines}\""))
            }
            Some(Simulated { at_once, delay }) => {
                let jobs = format!("max_jobs = {at_once}\n");
                let delays = format!("delay_min = \"{delay}\"\ndelay_max = \"{delay}\"");
                let backend = format!("type = \"sim\"\ndirectory = \"{machines}\"\n{jobs}{delays}");
                (jobs, backend)
            }
        };
        let (sharing, password, lease) = match &self.shared {
            None => ("", String::new(), String::new()),
            Some(shared) => {
                let file = directory.join("password");
                let password = format!("password = {{ file = \"{file}\" }}\n");
                ("shared = true\n", password, format!("lease = \"{}\"\n", shared.lease))
            }
        };
        format!(
            "[library]\npath = \"{library}\"\nkeep_free = \"0\"\n{sharing}\n[database]\nurl = \"{database}\"\n{password}\n\
             [api]\nsocket = \"{directory}/vcld.sock\"\n{api}\n[ssh]\nkey = {{ file = \"{key}\" }}\n\n\
             [hooks]\ndirectory = \"{directory}/hooks\"\n\n\
             [configure]\ndirectories = \"{directory}/conf\"\ndirectory = \"{directory}/configure\"\n\n[node]\nname = \"{node}\"\ndrain = \"{drain}\"\n{lease}{jobs}\n{more}\n\
             [backend.kvm]\n{sharing}{backend}\n\n\
             [network.net]\n{network}\n\n[computers]\n{computers}"
        )
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    setup: Setup,
    child: Option<Child>,
}

/// The directory with the binaries that were built with this one: `target/release` or `target/debug`.
fn binaries() -> Result<Utf8PathBuf> {
    let this = Utf8PathBuf::try_from(std::env::current_exe()?)?;
    let directory = this.parent().context("the binary lies nowhere")?;
    // A test's binary lies one deeper.
    Ok(if directory.ends_with("deps") { directory.join("..") } else { directory.to_owned() })
}

/// The path of one of the workspace's binaries.
///
/// # Errors
///
/// When it has not been built.
pub fn binary(name: &str) -> Result<Utf8PathBuf> {
    let path = binaries()?.join(name);
    ensure!(path.exists(), "{path} is not there; build it first: cargo build --workspace --bins");
    Ok(path)
}

impl Daemon {
    /// Writes the configuration and starts a daemon on it; returns when it answers.
    ///
    /// # Errors
    ///
    /// When it does not come up; its log is in the error.
    pub fn start(setup: Setup) -> Result<Self> {
        let mut daemon = Self::prepare(setup)?;
        daemon.up()?;
        Ok(daemon)
    }

    /// Writes the configuration and makes the directories, and starts nothing.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn prepare(setup: Setup) -> Result<Self> {
        fs::create_dir_all(setup.directory.join("hooks"))?;
        if setup.library.is_none() {
            fs::create_dir_all(setup.directory.join("library"))?;
        }
        if let Some(shared) = &setup.shared {
            fs::write(setup.directory.join("password"), &shared.password)?;
        }
        fs::write(setup.directory.join("vcld.toml"), setup.configuration())?;
        Ok(Self { setup, child: None })
    }

    /// Starts it again on the same directory, after it was killed or stopped.
    ///
    /// # Errors
    ///
    /// When it does not come up; its log is in the error.
    pub fn up(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut child = Command::new(binary("vcld")?)
            .args(["--config", self.setup.directory.join("vcld.toml").as_str()])
            .env("RUST_LOG", "info,vcl_job=debug,vcl_os=debug")
            .envs(self.setup.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting vcld")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("vcld ended at once ({status}); its log:\n{}", self.log_tail());
            }
            if self.vclctl(&["--json", "job", "list"])?.status.success() {
                self.child = Some(child);
                return Ok(());
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!("vcld does not answer; its log:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20)); // why: without systemd nobody is told that it is ready
        }
    }

    /// Kills it as a power cut would.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("vcld does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops it as systemd would, and waits for its end.
    ///
    /// # Errors
    ///
    /// When it does not run, or ends badly.
    pub fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("vcld does not run")?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let status = child.wait()?;
        ensure!(status.success(), "vcld ended with {status}; its log:\n{}", self.log_tail());
        Ok(())
    }

    /// Sends it a signal and does not wait: what comes of it is [`wait_stopped`](Self::wait_stopped)'s to tell.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("vcld does not run")?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Waits for its end after a signal and says how long it took.
    ///
    /// # Errors
    ///
    /// When it does not run, ends badly, or not within `limit`.
    pub fn wait_stopped(&mut self, limit: Duration) -> Result<Duration> {
        let mut child = self.child.take().context("vcld does not run")?;
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "vcld ended with {status}; its log:\n{}", self.log_tail());
                return Ok(began.elapsed());
            }
            if began.elapsed() > limit {
                self.child = Some(child);
                bail!("vcld has not ended within {limit:?}; its log:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10)); // why: the standard library waits without a limit
        }
    }

    /// The variables that its next start has in its environment.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.setup.environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    }

    /// The journal in its own SQLite database.
    ///
    /// # Errors
    ///
    /// When its database is another's, or cannot be opened.
    pub fn journal(&self) -> Result<Journal> {
        let url = self.setup.database_url();
        let path = url.strip_prefix("sqlite:").with_context(|| format!("{url} is not SQLite"))?;
        Journal::open(Utf8Path::new(path))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Utf8Path {
        &self.setup.directory
    }
    /// The key that it logs in with.
    #[must_use]
    pub fn key(&self) -> &Utf8Path {
        &self.setup.key
    }
    /// What it was made of.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }
    /// Its library.
    #[must_use]
    pub fn library(&self) -> Utf8PathBuf {
        self.setup.library.clone().unwrap_or_else(|| self.setup.directory.join("library"))
    }
    /// Its log.
    #[must_use]
    pub fn log(&self) -> Utf8PathBuf {
        self.setup.directory.join("vcld.log")
    }
    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// A vclctl command for it.
    ///
    /// # Errors
    ///
    /// When vclctl has not been built.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("vclctl")?);
        command
            .arg("--socket")
            .arg(self.setup.directory.join("vcld.sock"))
            .args(arguments)
            .stdin(Stdio::null());
        Ok(command)
    }
    /// Runs vclctl.
    ///
    /// # Errors
    ///
    /// When it cannot be run. That it says no is not an error here.
    pub fn vclctl(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments)?.output()?)
    }
    /// Runs vclctl with `--json` and reads its answer.
    ///
    /// # Errors
    ///
    /// When it says no; what it said and the daemon's log are in the error.
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let all: Vec<_> = ["--json"].iter().chain(arguments).copied().collect();
        let output = self.vclctl(&all)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "vclctl {} failed: {said}\nvcld's log:\n{}",
            arguments.join(" "),
            self.log_tail()
        );
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("vclctl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stdout))
        })
    }
    /// Runs a verb that must fail and answers what it said on standard error.
    ///
    /// # Errors
    ///
    /// When it succeeds.
    pub fn refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.vclctl(arguments)?;
        ensure!(!output.status.success(), "vclctl {} succeeded", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
    /// Imports a guest as the next revision of an image, with this behind its kernel's command line.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn import(&self, guest: &Guest, image: &str, cmdline: &str) -> Result<JobView> {
        let words = import_arguments(guest, image, cmdline)?;
        self.json(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }
    /// Queues a job and does not wait for it.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn queue(&self, arguments: &[&str]) -> Result<JobId> {
        let all: Vec<_> = arguments.iter().chain(&["--detach"]).copied().collect();
        let submitted: vcl_types::api::Submitted = self.json(&all)?;
        Ok(submitted.job)
    }
    /// A job.
    ///
    /// # Errors
    ///
    /// When there is none of that number.
    pub fn job(&self, id: JobId) -> Result<JobView> {
        self.json(&["job", "show", &id.to_string()])
    }
    /// Waits until a job looks as wanted.
    ///
    /// # Errors
    ///
    /// When it does not within `limit`, or ends otherwise.
    pub fn wait_job(&self, id: JobId, limit: Duration, wanted: impl Fn(&JobView) -> bool) -> Result<JobView> {
        let deadline = Instant::now() + limit;
        loop {
            let job = self.job(id)?;
            if wanted(&job) {
                return Ok(job);
            }
            let ended = job.state.is_final();
            if ended || Instant::now() > deadline {
                bail!(
                    "job {id} is {} and not as wanted: {job:#?}\nvcld's log:\n{}",
                    job.state,
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(30)); // why: the test looks through vclctl, as a person would
        }
    }
    /// Waits until a job has ended, however.
    ///
    /// # Errors
    ///
    /// When it has not within `limit`.
    pub fn wait_end(&self, id: JobId, limit: Duration) -> Result<JobView> {
        self.wait_job(id, limit, |job| job.state.is_final())
    }
    /// As [`wait_end`](Self::wait_end), showing each look at the job to somebody.
    ///
    /// # Errors
    ///
    /// When it has not ended within `limit`.
    pub fn wait_end_with(
        &self,
        id: JobId,
        limit: Duration,
        mut look: impl FnMut(&JobView),
    ) -> Result<JobView> {
        let look = std::cell::RefCell::new(&mut look);
        self.wait_job(id, limit, |job| {
            (look.borrow_mut())(job);
            job.state.is_final()
        })
    }
    /// A computer.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn computer(&self, name: &str) -> Result<ComputerView> {
        self.json(&["computer", "show", name])
    }
    /// An image.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn image(&self, name: &str) -> Result<ImageView> {
        self.json(&["image", "show", name])
    }
    /// The events of a job.
    ///
    /// # Errors
    ///
    /// When the daemon does not answer.
    pub fn events(&self, job: JobId) -> Result<Vec<EventView>> {
        self.json(&["events", "--job", &job.to_string(), "--limit", "1000"])
    }
    /// Where a loaded computer answers.
    ///
    /// # Errors
    ///
    /// When it is not loaded.
    pub fn endpoint(&self, computer: &str) -> Result<Endpoint> {
        Ok(self.computer(computer)?.loaded.with_context(|| format!("{computer} is not loaded"))?.endpoint)
    }

    /// Runs a command in a loaded computer over OpenSSH, which insists on the host keys that vcld has pinned.
    ///
    /// # Errors
    ///
    /// When it cannot log in or the command fails.
    pub fn ssh(&self, computer: &str, command: &str) -> Result<String> {
        let endpoint = self.endpoint(computer)?;
        let known = self.setup.directory.join(format!("known-{computer}"));
        let lines: String = endpoint
            .host_keys
            .keys
            .iter()
            .map(|key| format!("[{}]:{} {key}\n", endpoint.address, endpoint.port))
            .collect();
        ensure!(!lines.is_empty(), "vcld has pinned no host key of {computer}");
        // OpenSSH writes a host at port 22 without brackets.
        let lines =
            if endpoint.port == 22 { lines.replace(['[', ']'], "").replace(":22 ", " ") } else { lines };
        fs::write(&known, lines)?;
        let output = Command::new("ssh")
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
                "IdentitiesOnly=yes",
            ])
            .args(["-o", &format!("UserKnownHostsFile={known}"), "-o", "ConnectTimeout=20"])
            .args(["-i", self.setup.key.as_str(), "-p", &endpoint.port.to_string()])
            .arg(format!("{}@{}", endpoint.user, endpoint.address))
            .arg(command)
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "`{command}` on {computer} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// What is left of jobs in the library and among the machines' files: staging directories, overlays.
    ///
    /// # Errors
    ///
    /// When a directory cannot be read.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for directory in
            [self.library().join(".staging"), self.library().join(".trash"), self.setup.machines_directory()]
        {
            let Ok(entries) = directory.read_dir_utf8() else { continue };
            for entry in entries {
                left.push(entry?.path().to_string());
            }
        }
        Ok(left)
    }
}

/// The words of the verb that imports a guest as the next revision of an image, with this behind its kernel's command
/// line.
///
/// # Errors
///
/// When the guest's files cannot be read.
pub fn import_arguments(guest: &Guest, image: &str, cmdline: &str) -> Result<Vec<String>> {
    let disk = guest.disk();
    let mut words: Vec<String> =
        ["image", "import", image, disk.as_str(), "--memory", "256M"].map(Into::into).into();
    if let Some(boot) = guest.direct_boot()? {
        let line = format!("{} {cmdline}", boot.cmdline);
        let files =
            ["--kernel", boot.kernel.as_str(), "--initrd", boot.initrd.as_str(), "--cmdline", line.trim()];
        words.extend(files.map(str::to_owned));
    }
    if guest.kind() == Kind::Uefi {
        words.extend(["--firmware", "uefi"].map(str::to_owned));
    }
    Ok(words)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
