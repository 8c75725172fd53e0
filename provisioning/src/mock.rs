//! A mock of [`Provisioning`], for tests of what calls a backend.
//!
//! mockall cannot mock an async method that takes both a reference and a struct of references, so what it mocks is
//! [`Calls`]: the same calls with what a test wants to see of them. [`MockProvisioning`] passes each on.

use crate::*;
use async_trait::async_trait;
use std::path::Path;
use vcl_images::Staging;
use vcl_job::{Job, Undo};
use vcl_types::api::{Finding, PlannedStep, PowerAction, PowerState, VmPreview, VmView};
use vcl_types::{Computer, ComputerName, Endpoint, ImageRef};

/// What a test expects of a backend.
#[mockall::automock]
pub trait Calls: Send + Sync {
    /// `load` was called.
    fn load(&self, computer: &ComputerName, image: &ImageRef) -> vcl_job::Result<Endpoint>;
    /// `capture` was called with this staging.
    fn capture(&self, computer: &ComputerName, staging: &Path) -> vcl_job::Result<Captured>;
    /// `resume` was called.
    fn resume(&self, computer: &ComputerName) -> vcl_job::Result<Endpoint>;
    /// `unload` was called.
    fn unload(&self, computer: &ComputerName) -> vcl_job::Result<()>;
    /// `state` was called.
    fn state(&self, computer: &ComputerName) -> PowerState;
}

/// A backend that does what a test tells it to.
#[derive(Default)]
pub struct MockProvisioning {
    /// What is expected of it.
    pub calls: MockCalls,
}

#[async_trait]
impl Undo for MockProvisioning {
    async fn undo(&self, _: &str, _: serde_json::Value) -> vcl_job::Result<()> {
        Ok(())
    }
}

fn unsupported<T>(what: &str) -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, format!("the mock has no {what}")))
}

#[async_trait]
impl Provisioning for MockProvisioning {
    fn kind(&self) -> &'static str {
        "mock"
    }
    fn plan(&self, _: Work, _: &Target<'_>) -> Vec<PlannedStep> {
        Vec::new()
    }
    async fn load(&self, _: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        self.calls.load(&target.computer.name, &target.revision.manifest.image_ref())
    }
    async fn capture(&self, _: &mut Job, target: Target<'_>, staging: &Staging) -> vcl_job::Result<Captured> {
        self.calls.capture(&target.computer.name, staging.directory())
    }
    async fn resume(&self, _: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        self.calls.resume(&target.computer.name)
    }
    async fn unload(&self, _: &mut Job, computer: &Computer) -> vcl_job::Result<()> {
        self.calls.unload(&computer.name)
    }
    async fn vms(&self) -> Result<Vec<VmView>> {
        unsupported("machines")
    }
    async fn preview_vm(&self, _: VmTarget<'_>) -> Result<VmPreview> {
        unsupported("machines")
    }
    async fn capture_vm(&self, _: &mut Job, _: VmTarget<'_>, _: &Staging) -> vcl_job::Result<Captured> {
        Ok(unsupported("machines")?)
    }
    async fn power(&self, _: &Computer, _: PowerAction) -> Result<PowerState> {
        unsupported("power switch")
    }
    async fn state(&self, computer: &Computer) -> Result<PowerState> {
        Ok(self.calls.state(&computer.name))
    }
    async fn console(&self, _: &Computer, _: usize) -> Result<String> {
        unsupported("console")
    }
    async fn screenshot(&self, _: &Computer) -> Result<Vec<u8>> {
        unsupported("display")
    }
    async fn findings(&self) -> Vec<Finding> {
        Vec::new()
    }
}
