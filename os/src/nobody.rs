//! Nobody at home: an OS module for machines without a guest.

use crate::{Command, EndState, Error, ErrorKind, Guest, Os, Output, Result, Survey};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use vcl_job::{Job, Undo, undo_in};
use vcl_types::{Access, Endpoint, OsName, Session};

/// An OS module for machines in which nobody answers: every guest is ready at once, and nothing is done in it. A backend
/// that is being written, or whose machines are toys, answers it from `Provisioning::os` until there is a guest.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

fn nobody<T>(guest: Guest<'_>) -> Result<T> {
    Err(Error::new(ErrorKind::NoRoute, format!("{} does not answer: it has no guest", guest.endpoint)))
}

#[async_trait]
impl Undo for Nobody {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        undo_in(&[], self, step, intent).await
    }
}

#[async_trait]
impl Os for Nobody {
    fn name(&self) -> OsName {
        OsName::Linux
    }
    fn plan(&self, _: Option<EndState>) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }
    async fn post_load(&self, _: &mut Job, guest: Guest<'_>) -> Result<Endpoint, vcl_job::Error> {
        Ok(guest.endpoint.clone())
    }
    async fn pre_capture(&self, _: &mut Job, _: Guest<'_>, _: EndState) -> Result<(), vcl_job::Error> {
        Ok(())
    }
    async fn sanitize(&self, _: &mut Job, _: Guest<'_>) -> Result<(), vcl_job::Error> {
        Ok(())
    }
    async fn grant(&self, _: &mut Job, _: Guest<'_>, _: &Access) -> Result<(), vcl_job::Error> {
        Ok(())
    }
    async fn sessions(&self, _: Guest<'_>) -> Result<Vec<Session>> {
        Ok(Vec::new())
    }
    async fn tell(&self, _: Guest<'_>, _: &str) -> Result<()> {
        Ok(())
    }
    async fn shutdown(&self, guest: Guest<'_>) -> Result<()> {
        nobody(guest)
    }
    async fn reboot(&self, guest: Guest<'_>) -> Result<()> {
        nobody(guest)
    }
    async fn wait_ready(&self, guest: Guest<'_>, _: &CancellationToken) -> Result<Endpoint> {
        Ok(guest.endpoint.clone())
    }
    async fn exec(&self, guest: Guest<'_>, _: Command) -> Result<Output> {
        nobody(guest)
    }
    async fn survey(&self, guest: Guest<'_>) -> Result<Survey> {
        nobody(guest)
    }
}
