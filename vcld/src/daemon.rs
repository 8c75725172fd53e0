//! Starting and stopping.
//!
//! Order at the start: configuration (all its problems at once), logs, library, database, backends, socket; then
//! the node joins: an earlier life of it is over, and what that left is put back; systemd is told that we are ready, and
//! the worker begins.
//!
//! Order at the end (SIGTERM or SIGINT): nothing new is begun and the socket closes; jobs stop at their next journaled
//! boundary within `node.drain`; then running steps are told to stop too. A second signal ends the process at once:
//! what was under way goes on at the next start.

use crate::backends::{Factory, Making, networks};
use crate::cli::{Arguments, BackupsVerb, Verb};
use crate::exchange::{Exchange, Identity, Joined};
use crate::node::Node;
use crate::worker::{self, Stop};
use crate::{backup, http, notify, telemetry};
use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use vcl_config::{BackendType, Config, Known};
use vcl_images::Library;
use vcl_os::Remotes;
use vcl_os::ssh::{SshKey, SshRemotes};
use vcl_queue::Queue;

/// What a worker thread may use of its stack, in bytes. Only what is used takes memory.
const STACK: usize = 8 << 20;

/// The daemon.
pub struct Vcld;

/// A daemon being put together.
#[derive(Default)]
pub struct Builder {
    factories: Vec<Factory>,
}

impl Vcld {
    /// A daemon without backends.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// Adds a type of backend.
    #[must_use]
    pub fn backend(mut self, factory: Factory) -> Self {
        self.factories.retain(|f| f.kind.name != factory.kind.name);
        self.factories.push(factory);
        self
    }

    /// Adds the backends that vcld was built with.
    #[must_use]
    pub fn with_shipped_backends(self) -> Self {
        let this = self;
        #[cfg(feature = "libvirt")]
        let this = this.backend(crate::backends::LIBVIRT);
        #[cfg(feature = "lab")]
        let this = this.backend(crate::backends::LAB);
        #[cfg(feature = "vmware")]
        let this = this.backend(crate::backends::VMWARE);
        #[cfg(feature = "esx")]
        let this = this.backend(crate::backends::ESX);
        #[cfg(feature = "sim")]
        let this = this.backend(crate::backends::SIM);
        #[cfg(feature = "xcat")]
        let this = this.backend(crate::backends::XCAT);
        this
    }

    /// Does what the command line says, and answers how it went: 0, or 1 with the reason on standard error, or 2 for a
    /// configuration that does not hold.
    #[must_use]
    pub fn run(self, arguments: Arguments) -> ExitCode {
        let types: Vec<BackendType> = self.factories.iter().map(|f| f.kind).collect();
        let known = Known { backend_types: &types };
        match &arguments.command {
            Some(Verb::CheckConfig { file }) => {
                return check(file.as_ref().unwrap_or(&arguments.config), &known);
            }
            Some(Verb::ConfigSchema) => {
                return print(&format!("{:#}", vcl_config::schema(&known)));
            }
            Some(Verb::Openapi) => {
                return print(&http::openapi());
            }
            Some(Verb::Backups(verb)) => return backups(verb),
            Some(Verb::Restore { .. }) | None => {}
        }
        let config = match vcl_config::load(&arguments.config, &known) {
            Ok(config) => config,
            Err(e) => {
                eprintln!("{}", explain(&e));
                return ExitCode::from(2);
            }
        };
        if let Some(Verb::Restore { directory, snapshot, merge }) = arguments.command {
            return put_back(&config, backup::Restore { directory, snapshot, merge });
        }
        match self.serve(config, arguments.config, types) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("error: {e:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn serve(self, config: Config, path: Utf8PathBuf, types: Vec<BackendType>) -> anyhow::Result<()> {
        telemetry::start(&config.log)?;
        // A whole job is one future; where nothing is optimised it is a large one.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().thread_stack_size(STACK).enable_all().build()?;
        let result = runtime.block_on(self.live(config, path, types));
        // A thread that is stuck in a foreign library must not keep the process.
        runtime.shutdown_timeout(Duration::from_secs(2));
        result
    }

    async fn live(self, config: Config, path: Utf8PathBuf, types: Vec<BackendType>) -> anyhow::Result<()> {
        let node = Arc::new(self.node(config, path, types).await?);
        // First of all: another daemon may live under this name, and nothing is touched before that is clear.
        let new = node.as_member();
        let joined = node.queue.join(&new).await;
        let (member, resumed) = joined.with_context(|| format!("joining as node {}", node.name))?;
        let applied = node.queue.apply_computers_of(&node.site(), &node.config.computers, false).await?;
        for kept in &applied.kept {
            tracing::warn!(kept, "a computer of the configuration stays as it was");
        }
        node.rescan_at_start()
            .await
            .map_err(|e| anyhow::anyhow!("comparing database and library: {}", e.failure()))?;
        let telling = crate::notices::Sender::new(&node.config)?;
        let doors = http::Doors::open(&node.config, listener(&node.config.api)?).await?;
        for job in resumed {
            tracing::info!(job = job.0, "a job of an earlier life goes on");
        }
        let stop = Stop::default();
        let closing = CancellationToken::new();
        let server = tokio::spawn(http::serve(node.clone(), doors, closing.clone()));
        let exchanging = match (&node.exchange, &node.config.exchange) {
            (Some(exchange), Some(table)) => {
                let listener = tokio::net::TcpListener::bind(table.listen).await;
                let listener = listener.with_context(|| format!("exchange.listen = \"{}\"", table.listen))?;
                let (exchange, library) = (exchange.clone(), node.library.clone());
                Some(tokio::spawn(crate::exchange::serve(exchange, library, listener, closing.clone())))
            }
            _ => None,
        };
        let minding = match (&node.inbox, &node.config.inbox) {
            (Some(boxes), Some(table)) => {
                let listener = tokio::net::TcpListener::bind(table.listen).await;
                let listener = listener.with_context(|| format!("inbox.listen = \"{}\"", table.listen))?;
                Some(tokio::spawn(crate::inbox::serve(boxes.clone(), listener, closing.clone())))
            }
            _ => None,
        };
        let feeding = tokio::spawn({
            let (queue, closing) = (node.queue.clone(), closing.clone());
            notify::watchdog(closing, queue)
        });
        let (naming, starting) = (node.clone(), closing.clone());
        let looking_once =
            tokio::spawn(async move { starting.run_until_cancelled(naming.log_backends()).await });
        let mut looking = tokio::spawn(crate::reconcile::run(node.clone(), closing.clone()));
        let mut lending = tokio::spawn(crate::lending::run(node.clone(), closing.clone()));
        let mut telling = tokio::spawn(crate::notices::run(node.clone(), telling, closing.clone()));
        let keeping = tokio::spawn(crate::reconcile::replicas::keep(node.clone(), closing.clone()));
        let mut working = tokio::spawn(worker::work(node.clone(), member, stop.clone()));
        node.insight.see_recovered();
        tracing::info!(node = node.name, socket = %node.config.api.socket, "vcld is ready");
        notify::tell(&[NotifyState::Ready, NotifyState::Status("ready")]);

        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            ended = &mut working => match ended {
                Ok(Err(e)) => return Err(e),
                ended => anyhow::bail!("the worker ended by itself: {ended:?}"),
            },
            // Nobody would see that nothing is lent any more: who starts the daemon again is to.
            ended = &mut lending => anyhow::bail!("the scheduler ended by itself: {ended:?}"),
            ended = &mut looking => anyhow::bail!("the reconcilers ended by themselves: {ended:?}"),
            ended = &mut telling => anyhow::bail!("the sender of notices ended by itself: {ended:?}"),
        }
        node.insight.see_stopping();
        let drain = node.config.node.drain;
        tracing::info!(drain_s = drain.as_secs(), "stopping: jobs stop at their next step");
        notify::tell(&[NotifyState::Stopping, NotifyState::Status("waiting for jobs to reach a step's end")]);
        stop.drain.cancel();
        let second = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let orderly = async {
            if tokio::time::timeout(drain, &mut working).await.is_err() {
                tracing::info!("running steps are told to stop; they run again at the next start");
                stop.now.cancel();
                let _ = tokio::time::timeout(Duration::from_secs(30), &mut working).await;
            }
        };
        tokio::select! {
            () = orderly => {}
            () = second => tracing::warn!("a second signal: stopping at once"),
        }
        closing.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(3), server).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), feeding).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), looking_once).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), looking).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), lending).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), keeping).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), telling).await;
        if let Some(minding) = minding {
            let _ = tokio::time::timeout(Duration::from_secs(1), minding).await;
        }
        if let Some(exchanging) = exchanging {
            let _ = tokio::time::timeout(Duration::from_secs(1), exchanging).await;
        }
        for backend in node.backends.values() {
            let _ = tokio::time::timeout(Duration::from_secs(5), backend.close()).await;
        }
        node.queue.close().await;
        tracing::info!("vcld has stopped");
        Ok(())
    }

    async fn node(
        self,
        config: Config,
        config_path: Utf8PathBuf,
        known: Vec<BackendType>,
    ) -> anyhow::Result<Node> {
        let library = Library::open(&config.library.path)
            .with_context(|| format!("library.path = \"{}\"", config.library.path))?;
        let queue = database(&config).await?;
        let key = ssh_key(&config)?;
        let public_key = key.public_line();
        let name = node_name(&config);
        let inbox = match &config.inbox {
            None => None,
            Some(table) => {
                let by_name = || format!("http://{name}:{}", table.listen.port());
                let url = table.url.clone().unwrap_or_else(by_name);
                Some(Arc::new(crate::inbox::Boxes::new(&table.directory, &url)?))
            }
        };
        let networks = networks(&config);
        let mut backends = BTreeMap::new();
        for (name, table) in &config.backends {
            let factory = self.factories.iter().find(|f| f.kind.name == table.kind);
            let factory = factory
                .with_context(|| format!("backend.{name}: no type `{}` in this binary", table.kind))?;
            let making = Making { name, table, networks: &networks, config: &config, inbox: inbox.as_ref() };
            let backend = (factory.make)(making).with_context(|| format!("backend.{name}"))?;
            backends.insert(name.clone(), backend);
        }
        let windows = Node::windows(&config).context("windows.product_key")?;
        let remotes: Arc<dyn Remotes> = Arc::new(SshRemotes::new(key));
        let gates = crate::nat::Gates::new(&config, &remotes)?;
        let guacamole = crate::guacamole::Guacamole::new(&config)?;
        let exchange = exchange(&config, &name, &queue)?.map(Arc::new);
        Ok(Node {
            name,
            config_path,
            queue,
            library,
            backends,
            known,
            remotes,
            gates,
            guacamole,
            public_key,
            linux: Node::linux(),
            windows,
            exchange,
            inbox,
            since: chrono::Utc::now(),
            clock: crate::clock::Clock::default(),
            insight: crate::reconcile::Insight::default(),
            people: crate::people::People::default(),
            config,
        })
    }
}

/// Opens the database that the configuration names.
pub(crate) async fn database(config: &Config) -> anyhow::Result<Queue> {
    match &config.database {
        vcl_config::Database::Sqlite { path } => {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)
                    .with_context(|| format!("making {parent} for the database"))?;
            }
            Queue::open(path).await.with_context(|| format!("opening the database {path}"))
        }
        vcl_config::Database::MariaDb { url, password } => {
            let password = match password {
                None => None,
                Some(vcl_config::KeySource::Credential(name)) => Some(config.credential(name)?),
                Some(vcl_config::KeySource::File(path)) => {
                    let text = std::fs::read_to_string(path)
                        .with_context(|| format!("reading the database's password from {path}"))?;
                    Some(vcl_types::Secret::new(text.trim_end_matches(['\n', '\r']).to_owned()))
                }
            };
            let server = vcl_queue::MariaDb::new(url).password(password);
            Queue::connect(&server).await.with_context(|| format!("opening the database {url}"))
        }
    }
}

/// What this node is called.
fn node_name(config: &Config) -> String {
    match &config.node.name {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    }
}

/// Runs something that needs no daemon, and answers how it went.
fn offline(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let done = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match done.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(work)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn put_back(config: &Config, what: backup::Restore) -> ExitCode {
    offline(async {
        println!("{}", backup::restore(config, &node_name(config), &what).await?);
        Ok(())
    })
}

fn backups(verb: &BackupsVerb) -> ExitCode {
    offline(async {
        match verb {
            BackupsVerb::List { directory } => print!("{}", backup::list(directory)?),
            BackupsVerb::Verify { directory, snapshot } => {
                let wrong = backup::verify(directory, snapshot.as_deref()).await?;
                for line in &wrong {
                    println!("{line}");
                }
                anyhow::ensure!(
                    wrong.is_empty(),
                    "{} things are not what they were; take a new backup",
                    wrong.len()
                );
                println!("everything is what it was");
            }
        }
        Ok(())
    })
}

/// Everything that is wrong with a configuration, or why it could not be read.
pub(crate) fn explain(e: &vcl_config::Error) -> String {
    e.problems().map_or_else(|| crate::node::chain(e), ToString::to_string)
}

/// Prints a document. A reader that has seen enough of it and goes away is no error.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn check(file: &Utf8Path, known: &Known<'_>) -> ExitCode {
    match vcl_config::load(file, known) {
        Ok(config) => {
            if let Err(e) = crate::notices::check(&config) {
                eprintln!("{file}: {e:#}");
                return ExitCode::from(2);
            }
            let (computers, backends) = (config.computers.len(), config.backends.len());
            println!(
                "{file} holds: {backends} backends, {} networks, {computers} computers",
                config.networks.len()
            );
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{}", explain(&e));
            ExitCode::from(2)
        }
    }
}

/// This node's end of the exchange, where the configuration has one.
fn exchange(config: &Config, name: &str, queue: &Queue) -> anyhow::Result<Option<Exchange>> {
    let Some(table) = &config.exchange else { return Ok(None) };
    let key = match &table.key {
        vcl_config::KeySource::File(path) => {
            std::fs::read(path).with_context(|| format!("exchange.key: {path}"))?
        }
        vcl_config::KeySource::Credential(name) => config.credential(name)?.expose().as_bytes().to_vec(),
    };
    let identity = Identity::read(table, &key)?;
    let peers = Arc::new(Joined { queue: queue.clone(), configured: table.peers.clone() });
    let (silence, keep_free) = (config.deadlines.no_progress, config.library.keep_free);
    Ok(Some(Exchange::new(name, identity, peers, silence, keep_free)))
}

fn ssh_key(config: &Config) -> anyhow::Result<SshKey> {
    match &config.ssh.key {
        vcl_config::KeySource::File(path) => SshKey::load(path).with_context(|| {
            format!("ssh.key: {path}; make one with: ssh-keygen -t ed25519 -N '' -f {path}")
        }),
        vcl_config::KeySource::Credential(name) => {
            let secret = config.credential(name)?;
            SshKey::from_text(secret).with_context(|| format!("ssh.key: credential {name}"))
        }
    }
}

/// The socket: systemd's, or one that we make, for the configured group alone.
fn listener(api: &vcl_config::Api) -> anyhow::Result<tokio::net::UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let (path, group) = (&api.socket, &api.group);
    if let Some(listener) = notify::listener()? {
        listener.set_nonblocking(true)?;
        return Ok(tokio::net::UnixListener::from_std(listener)?);
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("making {parent} for the socket"))?;
    }
    // A socket that nobody listens on is left from an earlier life; one that answers is another daemon's.
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            anyhow::bail!(
                "another vcld listens on {path}; stop it first, or give this one its own api.socket"
            );
        }
        std::fs::remove_file(path).with_context(|| format!("removing the old socket {path}"))?;
    }
    let listener =
        std::os::unix::net::UnixListener::bind(path).with_context(|| format!("listening on {path}"))?;
    match uzers::get_group_by_name(group) {
        Some(found) => {
            std::os::unix::fs::chown(path, None, Some(found.gid()))
                .with_context(|| format!("giving {path} to group {group}"))?;
            // Two groups cannot have one socket: who is let in is asked of whoever comes.
            let mode = if api.users_group.is_some() { 0o666 } else { 0o660 };
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        None => {
            tracing::warn!(group, "there is no such group: only this user and root may use the socket");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        }
    }
    listener.set_nonblocking(true)?;
    Ok(tokio::net::UnixListener::from_std(listener)?)
}
