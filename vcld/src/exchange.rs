//! The library across nodes: a revision that this node lacks is had from one that holds it.
//!
//! ```text
//!  node1: flow/fetch ──► Exchange::fetch ──HTTP/1.1 over TLS, both ends with certificates──► node2: server ──► library
//! ```
//!
//! * Who may ask: whoever has a certificate of the configured authority that names a node that is known. Who is
//!   believed: whoever answers with a certificate for the name of the node that was dialled, wherever it was dialled.
//! * What is believed: nothing. A listing has to be of the manifest that the database has, and each file has to have
//!   its digest, before it counts ([`vcl_images::fetch`]).
//! * A connection that is cut is taken up where it was, with `Range`, and `If-Match` on the file's digest tells when
//!   the source is not what it was. One fetch at a time per revision on a node: who comes second waits for the first.
//!
//! An [`Exchange`] owns the node's certificate and the turns; who the other nodes are is asked of [`Peers`] each time.

mod client;
mod findings;
mod identity;
mod server;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use identity::Identity;
pub(crate) use server::serve;

use client::Client;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use vcl_images::Library;
use vcl_job::{Cx, Error, Kind, Result};
use vcl_types::{ByteSize, ImageRef, Manifest};

/// Which other nodes there are.
#[async_trait::async_trait]
pub trait Peers: Send + Sync {
    /// All other nodes by their names, each with what it is dialled at, as `host:port`.
    ///
    /// # Errors
    /// When nobody can say now.
    async fn peers(&self) -> Result<BTreeMap<String, String>>;
}

/// Those that the configuration names.
#[derive(Debug, Clone, Default)]
pub struct Configured(pub BTreeMap<String, String>);

#[async_trait::async_trait]
impl Peers for Configured {
    async fn peers(&self) -> Result<BTreeMap<String, String>> {
        Ok(self.0.clone())
    }
}

/// Those that joined and said where they are reached, and those that the configuration names, which go before.
pub struct Joined {
    /// Where the nodes are.
    pub queue: vcl_queue::Queue,
    /// What the configuration says.
    pub configured: BTreeMap<String, String>,
}

#[async_trait::async_trait]
impl Peers for Joined {
    async fn peers(&self) -> Result<BTreeMap<String, String>> {
        let mut peers = BTreeMap::new();
        match self.queue.nodes().await {
            Ok(rows) => peers.extend(rows.into_iter().filter_map(|row| Some((row.name, row.address?)))),
            // A node that the database knows must not be a stranger because the database is away.
            Err(error) if self.configured.is_empty() => {
                return Err(error.into());
            }
            // Whoever is in the configuration is known without asking.
            Err(error) => tracing::debug!(error = %error, "cannot ask for the nodes that joined"),
        }
        peers.extend(self.configured.clone());
        Ok(peers)
    }
}

/// This node's end of the exchange.
pub struct Exchange {
    /// This node's name.
    pub(crate) name: String,
    pub(crate) identity: Identity,
    peers: Arc<dyn Peers>,
    /// How long another node may say nothing.
    silence: Duration,
    /// How much is to stay free in the library, in bytes.
    keep_free: u64,
    turns: Mutex<HashMap<ImageRef, Weak<tokio::sync::Mutex<()>>>>,
}

impl Exchange {
    /// An end with this certificate.
    pub(crate) fn new(
        name: &str,
        identity: Identity,
        peers: Arc<dyn Peers>,
        silence: Duration,
        keep_free: ByteSize,
    ) -> Self {
        let keep_free = keep_free.bytes();
        Self { name: name.to_owned(), identity, peers, silence, keep_free, turns: Mutex::default() }
    }

    /// All other nodes.
    pub(crate) async fn peers(&self) -> Result<BTreeMap<String, String>> {
        let mut peers = self.peers.peers().await?;
        peers.remove(&self.name);
        Ok(peers)
    }

    /// Whether a node answers, and lets us in.
    pub(crate) async fn greet(&self, node: &str, address: &str) -> Result<String> {
        Client::new(self, node, address).await?.greet().await
    }

    /// Has a revision from whichever node gives it, those of `holders` asked first, and publishes it. Answers from
    /// which; `None` when it is here. May be called again, and goes on where it was.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when no node has it; [`Kind::Corrupt`] when those that do have something else under its name;
    /// [`Kind::Unreachable`] or [`Kind::Transient`] when one that might have it does not answer; [`Kind::NoSpace`].
    pub(crate) async fn fetch(
        &self,
        cx: &Cx,
        library: &Library,
        wanted: &Manifest,
        staging: &str,
        holders: &[String],
    ) -> Result<Option<String>> {
        let image = wanted.image_ref();
        let turn = self.turn(&image);
        let _turn = tokio::select! {
            turn = turn.lock() => turn,
            () = cx.stopped() => return Err(cx.stop_error()),
        };
        match library.get(&image) {
            Ok(there) if there.manifest == *wanted => return Ok(None),
            Ok(_) => {
                let message =
                    format!("another {image} than the database's is here; move it out of the library");
                return Err(Error::new(Kind::Exists, message));
            }
            Err(e) if e.kind == vcl_images::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        let Some(fetching) = library.fetching(staging)? else {
            return Err(Error::new(Kind::Busy, format!("another process of this node fetches {image}")));
        };
        let mut troubles = Vec::new();
        for (node, address) in self.in_order(holders).await? {
            match self.from(cx, library, &fetching, wanted, (&node, &address)).await {
                Ok(()) => {
                    library.publish(cx, staging, wanted).await?;
                    return Ok(Some(node));
                }
                Err(e) if e.kind.ends_the_job() || matches!(e.kind, Kind::NoSpace | Kind::Fatal) => {
                    return Err(e);
                }
                Err(e) => troubles.push((node, e)),
            }
        }
        Err(together(&image, &troubles))
    }

    async fn from(
        &self,
        cx: &Cx,
        library: &Library,
        fetching: &vcl_images::fetch::Fetching,
        wanted: &Manifest,
        (node, address): (&str, &str),
    ) -> Result<()> {
        let image = wanted.image_ref();
        let client = cx.within("dialling", self.silence, Client::new(self, node, address)).await??;
        let listing = cx.within("asking what there is", self.silence, client.listing(&image)).await??;
        listing.check(wanted)?;
        fetching.keep_only(&listing)?;
        let mut done = fetching.present(&listing);
        let (total, free) = (listing.size(), library.space()?.free);
        if total - done > free.saturating_sub(self.keep_free) {
            let (needed, free) = (ByteSize(total - done), ByteSize(free));
            let keep = ByteSize(self.keep_free);
            let message = format!(
                "{needed} of {image} are to come, and the library has {free} free of which {keep} are kept; delete revisions that nobody needs, or give it more room"
            );
            return Err(Error::new(Kind::NoSpace, message));
        }
        for file in &listing.files {
            if fetching.has(file) {
                continue;
            }
            client.file(cx, &image, fetching, file, &mut done, total).await?;
        }
        Ok(())
    }

    /// The nodes to ask: those that should have it, then the others.
    async fn in_order(&self, holders: &[String]) -> Result<Vec<(String, String)>> {
        let mut peers = self.peers().await?;
        let mut order: Vec<_> = holders.iter().filter_map(|node| peers.remove_entry(node)).collect();
        order.extend(peers);
        Ok(order)
    }

    fn turn(&self, image: &ImageRef) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(image).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(image.clone(), Arc::downgrade(&turn));
        turn
    }
}

/// What all nodes together said: what may pass by itself counts before what will not.
fn together(image: &ImageRef, troubles: &[(String, Error)]) -> Error {
    if troubles.is_empty() {
        let message = format!("{image} is not here, and no other node is known; see [exchange] peers");
        return Error::new(Kind::NotFound, message);
    }
    let passing = [Kind::Unreachable, Kind::Transient, Kind::Busy, Kind::Deadline];
    let order = [Kind::Corrupt, Kind::Auth, Kind::Refused];
    let has = |kind: &Kind| troubles.iter().any(|(_, e)| e.kind == *kind);
    let kind = if passing.iter().any(has) {
        Kind::Unreachable
    } else {
        order.into_iter().find(has).unwrap_or(Kind::NotFound)
    };
    let said: Vec<_> = troubles.iter().map(|(node, e)| format!("{node}: {}", e.failure().message)).collect();
    Error::new(kind, format!("no node gives {image}: {}", said.join("; ")))
}
