//! Mocks of the traits, for tests of who calls whom and when.

#![expect(missing_docs, reason = "mockall writes these types; the traits are documented where they stand")]

use crate::{Command, EndState, Guest, Os, Output, Remote, Remotes, Result, Survey};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_job::{Job, Undo};
use vcl_types::{Access, AccountName, Endpoint, HostKey, Identity, OsName, Secret, Session};

mockall::mock! {
    /// A mock of an OS module: `expect_post_load` and its like take what the method of [`Os`] of that name takes.
    pub Os {
        pub fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()>;
        pub fn name(&self) -> OsName;
        pub fn plan(&self, end: Option<EndState>) -> Vec<(&'static str, &'static str)>;
        pub fn post_load<'g>(&self, job: &mut Job, guest: Guest<'g>) -> Result<Endpoint, vcl_job::Error>;
        pub fn pre_capture<'g>(&self, job: &mut Job, guest: Guest<'g>, end: EndState) -> Result<(), vcl_job::Error>;
        pub fn sanitize<'g>(&self, job: &mut Job, guest: Guest<'g>) -> Result<(), vcl_job::Error>;
        pub fn plan_grant(&self) -> Vec<(&'static str, &'static str)>;
        pub fn grant<'g>(&self, job: &mut Job, guest: Guest<'g>, access: &Access) -> Result<(), vcl_job::Error>;
        pub fn password<'g>(&self, guest: Guest<'g>, account: &AccountName, password: &Secret) -> Result<()>;
        pub fn sessions<'g>(&self, guest: Guest<'g>) -> Result<Vec<Session>>;
        pub fn tell<'g>(&self, guest: Guest<'g>, text: &str) -> Result<()>;
        pub fn identity<'g>(&self, guest: Guest<'g>) -> Result<Identity>;
        pub fn shutdown<'g>(&self, guest: Guest<'g>) -> Result<()>;
        pub fn reboot<'g>(&self, guest: Guest<'g>) -> Result<()>;
        pub fn wait_ready<'g>(&self, guest: Guest<'g>, cancel: &CancellationToken) -> Result<Endpoint>;
        pub fn exec<'g>(&self, guest: Guest<'g>, command: Command) -> Result<Output>;
        pub fn survey<'g>(&self, guest: Guest<'g>) -> Result<Survey>;
    }
}

// mockall cannot mock an async method that takes a struct with a lifetime, so these pass their calls on.
#[async_trait]
impl Undo for MockOs {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        MockOs::undo(self, step, intent)
    }
}

#[async_trait]
impl Os for MockOs {
    fn name(&self) -> OsName {
        MockOs::name(self)
    }
    fn plan(&self, end: Option<EndState>) -> Vec<(&'static str, &'static str)> {
        MockOs::plan(self, end)
    }
    async fn post_load(&self, job: &mut Job, guest: Guest<'_>) -> Result<Endpoint, vcl_job::Error> {
        MockOs::post_load(self, job, guest)
    }
    async fn pre_capture(
        &self,
        job: &mut Job,
        guest: Guest<'_>,
        end: EndState,
    ) -> Result<(), vcl_job::Error> {
        MockOs::pre_capture(self, job, guest, end)
    }
    async fn sanitize(&self, job: &mut Job, guest: Guest<'_>) -> Result<(), vcl_job::Error> {
        MockOs::sanitize(self, job, guest)
    }
    fn plan_grant(&self) -> Vec<(&'static str, &'static str)> {
        MockOs::plan_grant(self)
    }
    async fn grant(&self, job: &mut Job, guest: Guest<'_>, access: &Access) -> Result<(), vcl_job::Error> {
        MockOs::grant(self, job, guest, access)
    }
    async fn password(&self, guest: Guest<'_>, account: &AccountName, password: &Secret) -> Result<()> {
        MockOs::password(self, guest, account, password)
    }
    async fn sessions(&self, guest: Guest<'_>) -> Result<Vec<Session>> {
        MockOs::sessions(self, guest)
    }
    async fn tell(&self, guest: Guest<'_>, text: &str) -> Result<()> {
        MockOs::tell(self, guest, text)
    }
    async fn identity(&self, guest: Guest<'_>) -> Result<Identity> {
        MockOs::identity(self, guest)
    }
    async fn shutdown(&self, guest: Guest<'_>) -> Result<()> {
        MockOs::shutdown(self, guest)
    }
    async fn reboot(&self, guest: Guest<'_>) -> Result<()> {
        MockOs::reboot(self, guest)
    }
    async fn wait_ready(&self, guest: Guest<'_>, cancel: &CancellationToken) -> Result<Endpoint> {
        MockOs::wait_ready(self, guest, cancel)
    }
    async fn exec(&self, guest: Guest<'_>, command: Command) -> Result<Output> {
        MockOs::exec(self, guest, command)
    }
    async fn survey(&self, guest: Guest<'_>) -> Result<Survey> {
        MockOs::survey(self, guest)
    }
}

mockall::mock! {
    pub Remote {}

    #[async_trait]
    impl Remote for Remote {
        async fn run(&self, command: Command) -> Result<Output>;
        async fn put(&self, path: &str, content: &[u8], mode: u32) -> Result<()>;
        fn host_key(&self) -> HostKey;
    }
}

mockall::mock! {
    pub Remotes {}

    #[async_trait]
    impl Remotes for Remotes {
        async fn connect(&self, endpoint: &Endpoint, limit: Duration, cancel: &CancellationToken) -> Result<Arc<dyn Remote>>;
        async fn forget(&self, endpoint: &Endpoint);
    }
}
