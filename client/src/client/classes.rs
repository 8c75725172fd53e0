//! Classes, maintenance windows, hosts.

use super::{Client, QUICK, SLOW};
use crate::error::Result;
use chrono::{DateTime, Utc};
use reqwest::Method;
use vcl_types::BackendName;
use vcl_types::lending::{
    CallOff, ClassRequest, ClassView, DrainHost, HostView, MaintenanceRequest, MaintenanceView,
};

impl Client {
    /// All classes.
    pub async fn classes(&self) -> Result<Vec<ClassView>> {
        self.get(&["classes"], &[], QUICK).await
    }
    /// One class.
    pub async fn class(&self, name: &str) -> Result<ClassView> {
        self.get(&["classes", name], &[], QUICK).await
    }
    /// Makes or changes a class.
    pub async fn add_class(&self, request: &ClassRequest) -> Result<ClassView> {
        self.post_once((&["classes"], &[], SLOW), request, ("the class", "made", "vclctl class list")).await
    }
    /// Calls one time of a class off.
    pub async fn call_off_class(&self, name: &str, start: DateTime<Utc>) -> Result<ClassView> {
        self.post(&["classes", name, "call-off"], &[], &CallOff { start }).await
    }
    /// Ends a class.
    pub async fn delete_class(&self, name: &str) -> Result<()> {
        let request = self.request(Method::DELETE, &["classes", name], &[])?.timeout(QUICK);
        self.send(request).await.map(drop)
    }
    /// Maintenance windows that are not over.
    pub async fn maintenance(&self) -> Result<Vec<MaintenanceView>> {
        self.get(&["maintenance"], &[], QUICK).await
    }
    /// Takes computers out of use for a time.
    pub async fn add_maintenance(&self, request: &MaintenanceRequest) -> Result<MaintenanceView> {
        self.post(&["maintenance"], &[], request).await
    }
    /// Ends a window.
    pub async fn end_maintenance(&self, id: u32) -> Result<MaintenanceView> {
        let request = self.request(Method::DELETE, &["maintenance", &id.to_string()], &[])?.timeout(QUICK);
        let answer = self.send(request).await?;
        self.read(answer).await
    }
    /// The hosts of all backends.
    pub async fn hosts(&self) -> Result<Vec<HostView>> {
        self.get(&["hosts"], &[], QUICK).await
    }
    /// Lets a backend's host take nothing new.
    pub async fn drain_host(&self, backend: &BackendName, reason: Option<String>) -> Result<HostView> {
        self.post(&["hosts", backend.as_str(), "drain"], &[], &DrainHost { reason }).await
    }
    /// Lets a backend's host take everything again.
    pub async fn undrain_host(&self, backend: &BackendName) -> Result<HostView> {
        self.post(&["hosts", backend.as_str(), "undrain"], &[], &()).await
    }
}
