//! A management node: what it has, and what can be asked of it.
//!
//! A `Node` owns nothing that changes but through the queue and the library; it is shared by the worker's tasks and by
//! the HTTP handlers.

use camino::Utf8PathBuf;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::sync::Arc;
use vcl_config::Config;
use vcl_images::Library;
use vcl_job::Undo;
use vcl_os::linux::Linux;
use vcl_os::windows::{Settings, Windows};
use vcl_os::{EndState, Os, Remotes};
use vcl_provisioning::{Capability, Limits, Provisioning, Target};
use vcl_queue::{NewNode, PROTOCOL, Process, Queue, Site};
use vcl_types::{BackendName, Computer, Endpoint, Manifest, OsName, Revision};

/// A management node.
pub struct Node {
    /// Its name: jobs it has claimed carry it.
    pub name: String,
    /// Where its configuration was read from, for reading it again.
    pub config_path: Utf8PathBuf,
    /// Its configuration as it was at the start.
    pub config: Config,
    /// Jobs, computers, images, events.
    pub queue: Queue,
    /// Its image library.
    pub library: Library,
    /// Its backend instances.
    pub backends: BTreeMap<BackendName, Arc<dyn Provisioning>>,
    /// The types of backend that this binary has, for reading the configuration again.
    pub known: Vec<vcl_config::BackendType>,
    /// Connections to guests.
    pub remotes: Arc<dyn Remotes>,
    /// The hosts through whose ports users come to computers behind them.
    pub gates: crate::nat::Gates,
    /// The Guacamole in which users open their computers, where there is one.
    pub guacamole: Option<crate::guacamole::Guacamole>,
    /// The public half of the key it logs in with, as `algorithm base64`, for messages.
    pub public_key: String,
    /// The OS module for Linux.
    pub linux: Arc<dyn Os>,
    /// The OS module for Windows.
    pub windows: Arc<dyn Os>,
    /// Its end of the exchange of revisions with other nodes, where it takes part.
    pub exchange: Option<Arc<crate::exchange::Exchange>>,
    /// Where machines fetch and leave things, where the configuration has such a place.
    pub inbox: Option<Arc<crate::inbox::Boxes>>,
    /// When the daemon started.
    pub since: DateTime<Utc>,
    /// What time it is for reservations.
    pub clock: crate::clock::Clock,
    /// What its reconcilers remember.
    pub insight: crate::reconcile::Insight,
    /// What it remembers of people and their rights.
    pub people: crate::people::People,
}

/// Why something that was asked for cannot be had. The HTTP API turns the kind into a status.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of no it is.
    pub kind: RefusalKind,
    /// What is wrong, naming the thing, and the way out.
    pub message: String,
}

/// The kinds of no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The thing is not there.
    NotFound,
    /// Not possible as things are.
    Refused,
    /// Somebody else has it.
    Busy,
    /// Whoever asks has no right to it.
    Forbidden,
    /// What was sent makes no sense.
    Invalid,
    /// Something that is needed does not answer.
    Unavailable,
    /// A fault of ours.
    Internal,
}

impl Refusal {
    /// A no.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

pub(crate) use vcl_job::chain;

impl From<vcl_queue::Error> for Refusal {
    fn from(e: vcl_queue::Error) -> Self {
        use vcl_queue::Kind;
        let kind = match e.kind {
            Kind::NotFound => RefusalKind::NotFound,
            Kind::Busy => RefusalKind::Busy,
            Kind::Refused | Kind::Exists => RefusalKind::Refused,
            Kind::Unavailable | Kind::NoSpace | Kind::LeaseLost => RefusalKind::Unavailable,
            Kind::Newer | Kind::Corrupt => RefusalKind::Internal,
        };
        Self::new(kind, chain(&e))
    }
}
impl From<vcl_provisioning::Error> for Refusal {
    fn from(e: vcl_provisioning::Error) -> Self {
        use vcl_provisioning::ErrorKind;
        let kind = match e.kind {
            ErrorKind::NotFound => RefusalKind::NotFound,
            ErrorKind::Refused | ErrorKind::Unsupported | ErrorKind::NotOurs => RefusalKind::Refused,
            ErrorKind::Unreachable | ErrorKind::Deadline => RefusalKind::Unavailable,
            _ => RefusalKind::Internal,
        };
        Self::new(kind, chain(&e))
    }
}
impl From<vcl_images::Error> for Refusal {
    fn from(e: vcl_images::Error) -> Self {
        use vcl_images::ErrorKind;
        let kind = match e.kind {
            ErrorKind::NotFound => RefusalKind::NotFound,
            ErrorKind::Exists | ErrorKind::InUse | ErrorKind::Refused => RefusalKind::Refused,
            ErrorKind::NoSpace => RefusalKind::Unavailable,
            _ => RefusalKind::Internal,
        };
        Self::new(kind, chain(&e))
    }
}

impl Node {
    /// The backend instance of that name.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`], naming those there are.
    pub fn backend(&self, name: &BackendName) -> Result<&Arc<dyn Provisioning>, Refusal> {
        self.backends.get(name).ok_or_else(|| {
            let known: Vec<_> = self.backends.keys().map(BackendName::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Refusal::new(
                RefusalKind::NotFound,
                format!("there is no backend `{name}`; the configuration has: {known}"),
            )
        })
    }

    /// The OS module that speaks to an operating system.
    ///
    /// # Errors
    /// [`RefusalKind::Refused`] for one that this version has no module for; it has one for each today.
    pub fn os(&self, name: OsName) -> Result<&Arc<dyn Os>, Refusal> {
        match name {
            OsName::Linux => Ok(&self.linux),
            OsName::Windows => Ok(&self.windows),
        }
    }

    /// The account that guests of an operating system are logged in to.
    #[must_use]
    pub fn user(&self, name: OsName) -> &str {
        match name {
            OsName::Linux => &self.config.ssh.user,
            OsName::Windows => &self.config.windows.user,
        }
    }

    /// Refuses to load a revision with disks where none are put on a computer, and one without disks where a computer is
    /// made of them.
    ///
    /// # Errors
    /// [`RefusalKind::Refused`], with the way out.
    pub(crate) fn check_imaging(&self, computer: &Computer, manifest: &Manifest) -> Result<(), Refusal> {
        let (backend, image) = (&computer.backend, manifest.image_ref());
        let lacks = self.backend(backend)?.capabilities().lacks(Capability::Imaging);
        let message = match (lacks, manifest.disks.is_empty()) {
            (None, false) | (Some(_), true) => return Ok(()),
            (None, true) => format!(
                "{image} has no disks: it says what is installed on a PC that is lent as it is; {computer} of backend {backend} needs an image with disks"
            ),
            (Some(why), false) => format!(
                "{image} has disks, and backend {backend} puts none on {computer}: {why}; load an image that says what is installed there: vclctl image create NAME --from-vm {backend}/{computer}"
            ),
        };
        Err(Refusal::new(RefusalKind::Refused, message))
    }

    /// What a backend is lent for a computer.
    ///
    /// # Errors
    /// As [`os`](Self::os).
    pub fn target<'a>(
        &'a self,
        computer: &'a Computer,
        revision: &'a Revision,
        endpoint: Option<&'a Endpoint>,
    ) -> Result<Target<'a>, Refusal> {
        Ok(Target {
            computer,
            revision,
            os: match self.backends.get(&computer.backend).and_then(|backend| backend.os()) {
                Some(own) => own,
                None => &**self.os(revision.manifest.os)?,
            },
            remotes: &*self.remotes,
            user: self.user(revision.manifest.os),
            hooks: Some(&self.config.hooks.directory),
            limits: self.limits(),
            endpoint,
        })
    }

    /// How long things may take, as configured.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let d = &self.config.deadlines;
        Limits { boot: d.boot, shutdown: d.shutdown, copy: d.copy, command: d.command }
    }

    /// As it joins the others.
    #[must_use]
    pub fn as_member(&self) -> NewNode {
        NewNode {
            name: self.name.clone(),
            lease: self.config.node.lease,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            process: Process::this(),
            address: self.address(),
            backends: self.sharing(),
            alone: self.alone(),
        }
    }

    /// What other nodes dial for this one's revisions: as configured, or else its name with the port it listens on.
    fn address(&self) -> Option<String> {
        let table = self.config.exchange.as_ref()?;
        let by_name = || format!("{}:{}", self.name, table.listen.port());
        Some(table.address.clone().unwrap_or_else(by_name))
    }

    /// Whether the database is this daemon's alone.
    #[must_use]
    pub fn alone(&self) -> bool {
        matches!(self.config.database, vcl_config::Database::Sqlite { .. })
    }

    /// The backends, and whether each is shared with other nodes: as the configuration says, or else as its type does.
    #[must_use]
    pub fn sharing(&self) -> BTreeMap<BackendName, bool> {
        let shared = |name: &BackendName, backend: &Arc<dyn Provisioning>| {
            let said = self.config.backends.get(name).and_then(|table| table.shared);
            said.unwrap_or_else(|| backend.is_shared())
        };
        self.backends.iter().map(|(name, backend)| (name.clone(), shared(name, backend))).collect()
    }

    /// What decides whose the computers of its configuration are.
    #[must_use]
    pub fn site(&self) -> Site {
        Site { node: self.name.clone(), backends: self.sharing(), alone: self.alone() }
    }

    /// The OS module for Linux as daemons have it.
    #[must_use]
    pub fn linux() -> Arc<dyn Os> {
        Arc::new(Linux)
    }

    /// The OS module for Windows with what a configuration says.
    ///
    /// # Errors
    /// The credential with the product key cannot be read.
    pub fn windows(config: &Config) -> Result<Arc<dyn Os>, vcl_config::Error> {
        let table = &config.windows;
        let product_key = table.product_key.as_ref().map(|name| config.credential(name)).transpose()?;
        Ok(Arc::new(Windows::new(Settings {
            kms_host: table.kms_host.clone(),
            kms_port: table.kms_port,
            product_key,
            require_activation: table.require_activation,
            timezone: table.timezone.clone(),
            locale: table.locale.clone(),
            unattend: table.unattend.clone(),
            skip_rearm: table.skip_rearm,
        })))
    }
}

/// Undoes the steps of OS modules. A job does not say whose guest it was about; where two modules have a step of one name,
/// it is the same thing that is done.
pub(crate) struct Guests<'a>(pub(crate) &'a Node);

#[async_trait::async_trait]
impl Undo for Guests<'_> {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        let linux =
            [None, Some(EndState::Off)].iter().flat_map(|end| Linux.plan(*end)).any(|(name, _)| name == step);
        if !linux && Windows::has_step(step) {
            self.0.windows.undo(step, intent).await
        } else {
            self.0.linux.undo(step, intent).await
        }
    }
}
