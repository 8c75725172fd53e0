//! Making a computer what a manifest, or a playbook, says: as a job of its own, and as the last thing of a load.
//!
//! One step is one run. What it runs is a program of its own, `vclctl configure` for manifests: scripts of a site run without
//! the daemon's environment and secrets, in a process group that the journal knows, so that they end when the step does,
//! and before the next life begins it again. The run's own notes lie in a directory that is the step's intent: a run that is begun
//! again goes on with them, and does nothing twice.
//!
//! A computer is not given back by this: what was changed on it when a job of its own fails or is called off stays, and it counts as
//! used, so that it goes to nobody else as it is. A load that
//! cannot configure its computer is undone like any other that fails, so nobody gets half of what a manifest says.

mod recipe;
mod seen;

pub(crate) use recipe::{Named, Recipe};

use super::{Made, Running};
use crate::node::Node;
use camino::{Utf8Path, Utf8PathBuf};
use seen::Seen;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::time::Duration;
use vcl_config::CredentialName;
use vcl_job::{Cx, Error, Job, Kind, Process, Result, Step, TRANSIENT, minutes};
use vcl_queue::Part;
use vcl_types::{Computer, ComputerName, Endpoint, ManifestName, ObjectReport, ObjectState, RunReport};

/// What a configure job starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ConfigureInput {
    computer: Computer,
    endpoint: Endpoint,
    recipe: Named,
    dry_run: bool,
}

/// A run, with where its files are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Configured {
    computer: ComputerName,
    endpoint: Endpoint,
    tags: Vec<String>,
    recipe: Named,
    dry_run: bool,
    directory: Utf8PathBuf,
}

/// How long it may take to end what a run has left on its computer.
const END: Duration = Duration::from_secs(30);
/// How often it is looked whether a connection is closed.
const HUNG_UP: Duration = Duration::from_millis(20);
/// The largest report that is kept, in bytes.
const LARGEST: usize = 512 * 1024;
/// The largest that is read.
const MOST_READ: usize = 64 * 1024 * 1024;
/// Where programs are, where nothing says so.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How many events tell of single objects.
const TOLD: usize = 200;

/// Runs it. What one may take is limited by `configure.deadline`. Undone, nothing of it runs any more, and its files are gone.
pub(super) const CONFIGURE: Step<Running, Configured> = Step::new("configure")
    .deadline(minutes(31 * 24 * 60))
    .undo(|run, configured| Box::pin(async move { run.node.end_run(&configured).await }));

/// Says that the computer is no longer what was loaded.
pub(super) const CHANGED: Step<Running, ComputerName> = Step::new("mark as changed").retry(TRANSIENT);

impl Running {
    pub(super) async fn begin_configure(
        &self,
        name: &ComputerName,
        manifest: &ManifestName,
        dry_run: bool,
    ) -> Result<ConfigureInput> {
        let row = self.node.queue.computer(name).await?;
        let Some(loaded) = row.loaded else {
            let message = format!("{name} holds no image; load one first: vclctl load {name} IMAGE");
            return Err(Error::new(Kind::Refused, message));
        };
        let os = self.node.queue.manifest(&loaded.image).await?.os;
        let recipe = self.node.recipe_for(manifest, &loaded.image, os)?;
        Ok(ConfigureInput { computer: row.computer, endpoint: loaded.endpoint, recipe, dry_run })
    }

    pub(super) async fn configure(&self, mut job: Job, input: ConfigureInput) -> Result<Made> {
        let ConfigureInput { computer, endpoint, recipe, dry_run } = input;
        // What a playbook does in a dry run nobody knows.
        if !dry_run || !matches!(recipe.recipe, Recipe::Manifest(_)) {
            job.step(self, &CHANGED, computer.name.clone())
                .run(async |name, _| Ok(self.node.queue.taint(&self.claim, &name).await?))
                .await?;
        }
        self.configured(&mut job, (&computer, &endpoint), (recipe, "job"), dry_run).await.map(Some)
    }

    /// Configures a computer by one manifest after the other.
    pub(super) async fn configured_by(
        &self,
        job: &mut Job,
        at: (&Computer, &Endpoint),
        recipes: Vec<Named>,
    ) -> Result<()> {
        for (n, recipe) in recipes.into_iter().enumerate() {
            self.configured(job, at, (recipe, &n.to_string()), false).await?;
        }
        Ok(())
    }
    /// Configures a computer as its reservation wants it.
    pub(super) async fn configured_as_wanted(
        &self,
        job: &mut Job,
        at: (&Computer, &Endpoint),
        recipe: Named,
    ) -> Result<()> {
        self.configured(&mut job.part("wanted"), at, (recipe, "wanted"), false).await.map(drop)
    }

    async fn configured(
        &self,
        job: &mut Job,
        (computer, endpoint): (&Computer, &Endpoint),
        (recipe, place): (Named, &str),
        dry_run: bool,
    ) -> Result<String> {
        let runs = self.node.config.configure.directory.join("runs");
        let configured = Configured {
            computer: computer.name.clone(),
            endpoint: endpoint.clone(),
            tags: computer.tags.clone(),
            // Short, for there are sockets below it; and no attempt takes up the notes of another, whose computer is another.
            directory: runs.join(format!("job{}.{}-{place}", job.number(), self.claim.job.attempt)),
            dry_run,
            recipe,
        };
        let (name, directory) = (configured.recipe.name.clone(), configured.directory.clone());
        let said = job
            .step(self, &CONFIGURE, configured)
            .key(name)
            .run(async |configured, cx| self.run_recipe(&configured, &cx).await)
            .await?;
        // Once it is known that it is done, and not before.
        clear(&directory);
        Ok(said)
    }

    async fn run_recipe(&self, configured: &Configured, cx: &Cx) -> Result<String> {
        let Configured { computer, directory, recipe, .. } = configured;
        if !cx.again() {
            clear(directory);
        }
        self.node.prepare_run(configured)?;
        let said = match &recipe.recipe {
            Recipe::Manifest(manifest) => self.run_manifest(configured, manifest, cx).await?,
            Recipe::Ansible(_) | Recipe::Program(_) => {
                let said = self.run_playbook(configured, cx).await;
                hang_up(directory, computer).await;
                said?
            }
        };
        cx.event("configured", format!("{computer} by {}: {said}", recipe.name));
        Ok(said)
    }

    async fn run_manifest(&self, configured: &Configured, manifest: &Utf8Path, cx: &Cx) -> Result<String> {
        let Configured { computer, directory, recipe, dry_run, tags, .. } = configured;
        let settings = &self.node.config.configure;
        let seen = Seen::of(&self.node, computer, &recipe.name);
        let report = directory.join("report");
        // Its end was told to nobody: the daemon died then.
        if let Some(told @ RunReport { error: None, .. }) = read(&report) {
            return Ok(self.ended_well(told, &recipe.name, &seen, *dry_run).await);
        }
        let _ = fs::remove_file(&report);
        seen.make_room().map_err(|e| failed(format!("preparing {}", seen.directory), e))?;
        let mut words = self.node.words(configured);
        for tag in tags {
            words.extend(["--tag".to_owned(), tag.clone()]);
        }
        for conf in self.node.configuration() {
            words.extend(["--conf".to_owned(), conf.into_string()]);
        }
        let seconds = settings.deadline.as_secs().max(1).to_string();
        words.extend(
            ["--manifest", manifest.as_str(), "--within", &seconds, "--deadline", &seconds]
                .map(str::to_owned),
        );
        words.extend(["--report", report.as_str(), "--lines"].map(str::to_owned));
        if !dry_run {
            words.extend(["--keep".to_owned(), seen.next().into_string()]);
        }
        words.extend(dry_run.then(|| "--dry-run".to_owned()));
        words.extend(settings.jobs.into_iter().flat_map(|jobs| ["--jobs".to_owned(), jobs.to_string()]));
        for name in &settings.secrets {
            words.extend(["--secret".to_owned(), format!("{name}={}", credential(name)?)]);
        }
        if settings.memo {
            words.extend(["--memo".to_owned(), settings.directory.join("memo").into_string()]);
        }
        let mut told = 0;
        let ended = self
            .process(configured, &words)
            .run(cx, |line| {
                told += 1;
                if told <= TOLD {
                    cx.event("configure", line);
                }
            })
            .await;
        let error = match read(&report) {
            Some(told @ RunReport { error: None, .. }) if ended.is_ok() => {
                return Ok(self.ended_well(told, &recipe.name, &seen, *dry_run).await);
            }
            Some(told) => {
                let error = told.error.clone();
                self.tell_of(&recipe.name, told).await;
                error
            }
            None => None,
        };
        match (ended, error) {
            (Err(e), _) if e.kind.ends_the_job() => Err(e),
            (_, Some(error)) => Err(Error::new(
                kind_of(&error.kind),
                format!("manifest `{}`: {}", recipe.name, error.message),
            )),
            (Err(e), None) => Err(e),
            (Ok(_), None) => Err(Error::new(Kind::Fatal, format!("{report} does not say how the run ended"))),
        }
    }

    /// What a run has done that came to its end, in words; the rest is kept.
    async fn ended_well(
        &self,
        told: RunReport,
        manifest: &ManifestName,
        seen: &Seen,
        dry_run: bool,
    ) -> String {
        let said = in_words(&told.objects, dry_run);
        self.tell_of(manifest, told).await;
        self.settle(seen, dry_run);
        said
    }

    /// Keeps what a run says of its objects.
    async fn tell_of(&self, manifest: &ManifestName, report: RunReport) {
        match written(report) {
            Some(text) => self.keep(manifest, "json", "application/json", text).await,
            None => tracing::warn!(job = self.job().0, %manifest, "a run's report is too large to be kept"),
        }
    }

    /// Puts what a run has found where the next is compared with it. That this fails makes no computer another.
    fn settle(&self, seen: &Seen, dry_run: bool) {
        if !dry_run && let Err(e) = seen.settle() {
            tracing::warn!(job = self.job().0, directory = %seen.directory, error = %e, "a run is not kept");
        }
    }

    async fn run_playbook(&self, configured: &Configured, cx: &Cx) -> Result<String> {
        let Configured { computer, directory, recipe, dry_run, tags, .. } = configured;
        let inventory = directory.join("inventory");
        let common = format!("-F {}", directory.join("ssh_config"));
        let line =
            format!("{computer} ansible_ssh_common_args='{common}' ansible_scp_extra_args='{common}'\n");
        write(&inventory, &line)?;
        let words = match &recipe.recipe {
            Recipe::Ansible(path) => {
                let check = dry_run.then_some("--check");
                let words = ["ansible-playbook", "-i", inventory.as_str(), path.as_str()];
                words.into_iter().chain(check).map(str::to_owned).collect()
            }
            Recipe::Program(path) | Recipe::Manifest(path) => vec![path.to_string()],
        };
        let variables = [
            ("VCLD_COMPUTER", computer.to_string()),
            ("VCLD_SSH_CONFIG", directory.join("ssh_config").into_string()),
            ("VCLD_INVENTORY", inventory.into_string()),
            ("VCLD_TAGS", tags.join(" ")),
            ("VCLD_DRY_RUN", if *dry_run { "1".to_owned() } else { String::new() }),
        ];
        // Ansible looks for it where it is called from, which is no place of a site's.
        let settings = match &recipe.recipe {
            Recipe::Ansible(path) => Some(path.with_file_name("ansible.cfg")).filter(|path| path.is_file()),
            Recipe::Program(_) | Recipe::Manifest(_) => None,
        };
        let settings = settings.map(|path| ("ANSIBLE_CONFIG", path.into_string()));
        let assignments: Vec<String> =
            variables.into_iter().chain(settings).map(|(name, value)| format!("{name}={value}")).collect();
        let mut said = String::new();
        let process = self.process(configured, &[assignments, words].concat());
        let process = process.limit(self.node.config.configure.deadline);
        let ended = process
            .run(cx, |line| {
                if said.len() < LARGEST {
                    let _ = writeln!(said, "{line}");
                }
            })
            .await;
        let mut all = said;
        match &ended {
            Ok(output) => all.push_str(&output.stderr),
            Err(e) => all.push_str(&vcl_job::chain(e)),
        }
        let all = crate::evidence::cleaned(&all).into_bytes();
        self.keep(&recipe.name, "txt", "text/plain", all).await;
        ended.map_err(|e| {
            if e.kind.ends_the_job() { e } else { e.within(format!("playbook `{}`", recipe.name)) }
        })?;
        Ok("the playbook has ended well".to_owned())
    }

    /// A program that knows nothing of the daemon but what it is told.
    fn process(&self, configured: &Configured, words: &[String]) -> Process {
        let path = std::env::var("PATH").unwrap_or_else(|_| PATH.into());
        Process::new("env")
            .args(["-i", "LANG=C.UTF-8", "LC_ALL=C.UTF-8"])
            .arg(format!("PATH={path}"))
            .arg(format!("HOME={}", configured.directory))
            .args(words)
    }

    /// Keeps what a run says with its job. That it cannot be kept is no reason to fail.
    async fn keep(&self, recipe: &ManifestName, suffix: &str, media_type: &str, bytes: Vec<u8>) {
        // As long as the name of a piece of evidence may be.
        let name: String = format!("configure-{recipe}").chars().take(62 - suffix.len()).collect();
        let name = format!("{name}.{suffix}");
        let part = Part { name, media_type: media_type.to_owned(), bytes };
        if let Err(e) = self.node.queue.keep_evidence(&self.claim, vec![part]).await {
            tracing::warn!(job = self.job().0, error = %e, "what a configuration run says was not kept");
        }
    }
}

impl Node {
    /// Makes a run's directory, with how its computer is reached.
    fn prepare_run(&self, configured: &Configured) -> Result<()> {
        let Configured { computer, endpoint, directory, .. } = configured;
        let (keys, notes) = (directory.join("known_hosts"), directory.join("notes"));
        let mut private = fs::DirBuilder::new();
        let private = private.recursive(true).mode(0o700);
        private.create(&notes).map_err(|e| failed(format!("making {notes}"), e))?;
        let known: String = endpoint.host_keys.keys.iter().map(|key| format!("{computer} {key}\n")).collect();
        // Of a machine whose keys nobody knows the first are taken, and no others in this run.
        let strict = if known.is_empty() { "accept-new" } else { "yes" };
        if !known.is_empty() || !keys.exists() {
            write(&keys, &known)?;
        }
        let Endpoint { address, port, user, .. } = endpoint;
        let config = format!(
            "Host {computer}\n  HostName {address}\n  Port {port}\n  User {user}\n  IdentityFile \"{}\"\n  IdentitiesOnly yes\n  \
             HostKeyAlias {computer}\n  UserKnownHostsFile {keys}\n  GlobalKnownHostsFile /dev/null\n  \
             StrictHostKeyChecking {strict}\n  BatchMode yes\n  ConnectTimeout 15\n  ServerAliveInterval 15\n",
            self.identity()?
        );
        write(&directory.join("ssh_config"), &config)
    }

    /// The file of the key that computers are logged in to with.
    fn identity(&self) -> Result<Utf8PathBuf> {
        match &self.config.ssh.key {
            vcl_config::KeySource::File(path) => Ok(path.clone()),
            vcl_config::KeySource::Credential(name) => credential(name),
        }
    }

    /// How `vclctl configure` is called for a run, as far as where it goes.
    fn words(&self, configured: &Configured) -> Vec<String> {
        let Configured { computer, directory, .. } = configured;
        let beside = std::env::current_exe().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
        let beside =
            beside.and_then(|path| Some(path.parent()?.join("vclctl"))).filter(|path| path.is_file());
        let program = beside.map_or_else(|| "vclctl".to_owned(), Utf8PathBuf::into_string);
        let ssh = format!("-F {}", directory.join("ssh_config"));
        let words = ["configure", "--host", computer.as_str(), "--ssh", &ssh, "--state"];
        let state = directory.join("notes").into_string();
        std::iter::once(program).chain(words.map(str::to_owned)).chain([state]).collect()
    }

    /// Ends what a run may have left on its computer, and removes its files. A computer that does not answer has nothing that
    /// could be ended.
    async fn end_run(&self, configured: &Configured) -> Result<()> {
        let directory = &configured.directory;
        if !directory.exists() {
            return Ok(());
        }
        if matches!(configured.recipe.recipe, Recipe::Manifest(_)) {
            let words = self.words(configured);
            let (program, words) =
                words.split_first().ok_or_else(|| Error::new(Kind::Fatal, "no program"))?;
            let mut command = tokio::process::Command::new(program);
            command.args(words).arg("--end").kill_on_drop(true).env_clear().env("HOME", directory);
            command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()));
            command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
            match tokio::time::timeout(END, command.output()).await {
                Ok(Ok(output)) if output.status.success() => {}
                ended => {
                    let computer = &configured.computer;
                    tracing::warn!(%computer, ?ended, "what a configuration run has begun there may still run");
                }
            }
        }
        hang_up(directory, &configured.computer).await;
        clear(directory);
        Ok(())
    }
}

/// Ends the connections that Ansible keeps open for a minute after its end, in case there is more to do. Nothing of a run is
/// there when somebody gets the computer.
async fn hang_up(directory: &Utf8Path, computer: &ComputerName) {
    let Ok(sockets) = directory.join(".ansible/cp").read_dir_utf8() else { return };
    for socket in sockets.filter_map(std::result::Result::ok) {
        let path = socket.path();
        let mut command = tokio::process::Command::new("ssh");
        command.args(["-F", "none", "-O", "exit", "-S", path.as_str(), computer.as_str()]);
        command.kill_on_drop(true).stdin(std::process::Stdio::null());
        let ended = async {
            let output = command.output().await?;
            // It says yes at once, and removes its socket once the connection is closed.
            while output.status.success() && path.exists() {
                tokio::time::sleep(HUNG_UP).await; // why: no call waits for the end of another's child
            }
            Ok::<_, std::io::Error>(output)
        };
        match tokio::time::timeout(END, ended).await {
            // One that is over already does not answer.
            Ok(Ok(_)) => {}
            ended => tracing::warn!(%computer, ?ended, "a playbook's connection may still be open"),
        }
    }
}

/// The file that systemd has put a credential in.
fn credential(name: &CredentialName) -> Result<Utf8PathBuf> {
    let file = vcl_config::credentials::directory().map(|directory| directory.join(name.as_str()));
    let none = || {
        Error::new(Kind::Refused, format!("there is no credential {name}: see LoadCredential of the unit"))
    };
    file.filter(|file| file.is_file()).ok_or_else(none)
}

/// Removes a run's files. What is left there keeps no computer from anybody.
fn clear(directory: &Utf8Path) {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%directory, error = %e, "the files of a configuration run are left");
        }
        _ => {}
    }
}

/// How a run has ended, where it says so.
fn read(report: &Utf8Path) -> Option<RunReport> {
    let largest = u64::try_from(MOST_READ).unwrap_or(u64::MAX);
    let file = fs::metadata(report).ok().filter(|data| data.len() <= largest)?;
    let text = file.is_file().then(|| fs::read(report).ok()).flatten()?;
    serde_json::from_slice(&text).ok()
}

/// A report as it is kept: without what scripts have said, then without parameters and so on, where it is too large.
fn written(mut report: RunReport) -> Option<Vec<u8>> {
    let thin: [fn(&mut ObjectReport); 5] = [
        |_| (),
        |object| object.output.clear(),
        |object| object.parameters.clear(),
        |object| object.messages.clear(),
        |object| object.defined_in.clear(),
    ];
    thin.into_iter().find_map(|thin| {
        report.objects.iter_mut().for_each(thin);
        serde_json::to_vec_pretty(&report).ok().filter(|text| text.len() <= LARGEST)
    })
}

fn write(path: &Utf8Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| failed(format!("writing {path}"), e))
}

fn failed(what: String, error: std::io::Error) -> Error {
    let kind = if error.kind() == std::io::ErrorKind::StorageFull { Kind::NoSpace } else { Kind::Fatal };
    Error::caused(kind, what, error)
}

/// What is to be done about an error of a run.
fn kind_of(word: &str) -> Kind {
    match word {
        "unreachable" => Kind::Unreachable,
        "deadline" => Kind::Deadline,
        // What a manifest says is no fault of the computer's.
        _ => Kind::Refused,
    }
}

fn in_words(objects: &[ObjectReport], dry_run: bool) -> String {
    let done = || objects.iter().filter(|object| object.state == ObjectState::Done);
    let (all, changed) = (done().count(), done().filter(|object| object.changed).count());
    let of_them = if all == 1 { "object" } else { "objects" };
    format!("{all} {of_them}, {changed} {}", if dry_run { "would change" } else { "changed" })
}
