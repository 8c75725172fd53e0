//! The connection of a run, and the one that takes its place when it breaks.
//!
//! Whoever finds it broken asks for another ([`Link::again`]): what the broken one has left running on the target is ended first,
//! since nobody would hear of it, and it would go on beside what is done next.

use crate::channel::Channel;
use crate::error::{Error, ErrorKind, Result};
use crate::scripts::token;
use crate::target::Transport;
use std::sync::{Arc, PoisonError, RwLock};

/// A way to a target.
#[derive(Debug)]
pub struct Link {
    transport: Transport,
    base: String,
    now: RwLock<Arc<Channel>>,
}

impl Link {
    /// Connects: see [`Channel::open`].
    ///
    /// # Errors
    /// As there.
    pub async fn open(transport: &Transport, base: &str) -> Result<Self> {
        let channel = Channel::open(transport, base, &token()?).await?;
        Ok(Self { transport: transport.clone(), base: base.to_owned(), now: RwLock::new(Arc::new(channel)) })
    }
    /// What it was made with.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }
    /// The connection that there is now.
    #[must_use]
    pub fn now(&self) -> Arc<Channel> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Ends what there is and connects once more.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`]: the target is not there. It may be asked again.
    pub async fn again(&self) -> Result<()> {
        if !self.now().kill().await {
            let context = format!("{}: it cannot be reached", self.transport.name());
            return Err(Error::new(ErrorKind::Unreachable, context));
        }
        let channel = Channel::open(&self.transport, &self.base, &token()?).await?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(channel);
        Ok(())
    }
}
