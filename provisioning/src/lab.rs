//! The lab backend: a PC that is on, or wakes, and is lent as it is.
//!
//! ```text
//!  load      find it ─► wake it ─► wait for ssh ─► Os::sanitize ─► Os::post_load ─► Endpoint
//!  unload    Os::sanitize where it answers; it stays on
//! ```
//!
//! There is no imaging: what is on the PC stays on it. An image of a lab is a record without disks that says which OS is
//! installed there; `image create --from-vm LAB/PC` makes one. Traces of a user are taken off when the PC is taken
//! back and, since it may not have answered then, again before it is lent.
//!
//! The backend keeps nothing: a PC is told by its name or its static address, and its power by whether it answers.

use crate::{
    Capabilities, Capability, Captured, Error, ErrorKind, Provisioning, Result, Target, VmTarget, Work,
    ssh_speaks,
};
use async_trait::async_trait;
use std::net::IpAddr;
use std::time::Duration;
use vcl_images::Staging;
use vcl_job::{AnyStep, Cx, Job, Kind, Step, TRANSIENT, Undo, minutes, undo_in};
use vcl_types::api::{Finding, FindingLevel, PlannedStep, PowerAction, PowerState, VmPreview, VmView};
use vcl_types::{BackendName, Computer, Endpoint, Hardware, HostKeys};

/// How long names and sockets of this machine may take.
const QUICK: Duration = Duration::from_secs(10);
/// The port that wake-on-LAN packets are sent to. Cards look at the bytes alone.
const DISCARD: u16 = 9;
const AS_IT_IS: &str = "a lab PC is lent as it is, and what is on it stays there";
const CAPABILITIES: Capabilities = Capabilities::all()
    .without(Capability::Imaging, AS_IT_IS)
    .without(Capability::Capture, AS_IT_IS)
    .without(Capability::Vms, "it knows no PCs but those that are configured as computers")
    .without(Capability::Power, "nobody but the PC itself reaches its power switch")
    .without(Capability::Console, "nothing is connected to a lab PC's serial port")
    .without(Capability::Screenshot, "a lab PC's screen is its own")
    .without(Capability::Description, "nobody describes a lab PC but itself")
    .without(Capability::Things, "it makes nothing that could be left behind")
    .without(Capability::FreeSpace, AS_IT_IS)
    .without(Capability::Written, AS_IT_IS)
    .without(Capability::HostKeys, "the first connection of each load is trusted");

/// What a lab backend instance is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance's name.
    pub name: BackendName,
    /// What is put behind a computer's name to look its address up.
    pub domain: Option<String>,
    /// Where the PCs' ssh servers listen.
    pub port: u16,
    /// Where wake-on-LAN packets go.
    pub wake: IpAddr,
}

/// A lab as a backend.
#[derive(Debug)]
pub struct Lab {
    settings: Settings,
}

const FIND: Step<Lab, String> = Step::new("find address").retry(TRANSIENT);
const WAKE: Step<Lab, Option<String>> = Step::new("wake").retry(TRANSIENT);
const READY: Step<Lab, Endpoint> = Step::new("wait for ssh").deadline(minutes(120));
const LOOK: Step<Lab, Endpoint> = Step::new("look for it");
/// Every step of the backend. Nothing is made, so there is nothing to undo.
const STEPS: &[&dyn AnyStep<Lab>] = &[&FIND, &WAKE, &READY, &LOOK];

impl Lab {
    /// A backend with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    async fn lookup(&self, name: &str) -> Result<IpAddr> {
        let host = match &self.settings.domain {
            Some(domain) => format!("{name}.{domain}"),
            None => name.to_owned(),
        };
        let asked = tokio::time::timeout(QUICK, tokio::net::lookup_host((host.as_str(), self.settings.port)));
        let why = match asked.await {
            Ok(Ok(mut found)) => match found.next() {
                Some(found) => return Ok(found.ip()),
                None => "it has none".to_owned(),
            },
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no answer within {} s", QUICK.as_secs()),
        };
        let context = format!(
            "looking up the address of {host}: {why}; let a name server or /etc/hosts know it, or put {name} on a network with address = \"static\""
        );
        Err(Error::new(ErrorKind::NotFound, context))
    }
    async fn address(&self, computer: &Computer) -> Result<IpAddr> {
        match computer.management().and_then(|nic| nic.address) {
            Some(address) => Ok(address),
            None => self.lookup(computer.name.as_str()).await,
        }
    }

    /// Sends the packet that a sleeping network card waits for, some times: nobody acknowledges it.
    async fn wake(&self, mac: &str) -> Result<()> {
        let to = self.settings.wake;
        let bytes: Vec<u8> = mac.split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
        let packet = [vec![0xff; 6], bytes.repeat(16)].concat();
        let send = async {
            let from: IpAddr =
                if to.is_ipv4() { [0, 0, 0, 0].into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
            let socket = tokio::net::UdpSocket::bind((from, 0)).await?;
            socket.set_broadcast(true)?;
            for _ in 0..3 {
                socket.send_to(&packet, (to, DISCARD)).await?;
            }
            Ok(())
        };
        let failed = |e: std::io::Error| {
            Error::caused(ErrorKind::Failed, format!("sending the wake-on-LAN packet for {mac} to {to}"), e)
        };
        send.await.map_err(failed)
    }

    /// A PC that was found, awake, and lets us in; its host key is pinned.
    async fn reach(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        let computer = target.computer;
        let address = job
            .step(self, &FIND, computer.name.to_string())
            .run(async |_, _| Ok(self.address(computer).await?))
            .await?;
        let port = self.settings.port;
        job.step(self, &WAKE, own_mac(computer).map(str::to_owned))
            .run(async |mac, cx: Cx| {
                if let (Some(mac), Err(_)) = (mac, ssh_speaks(address, port).await) {
                    cx.check().await?;
                    self.wake(&mac).await?;
                    cx.event(
                        "woken",
                        format!("{computer} did not answer; a wake-on-LAN packet went to {mac}"),
                    );
                }
                Ok(())
            })
            .await?;
        let to = Endpoint { address, port, user: target.user.to_owned(), host_keys: HostKeys::first_use() };
        job.step(self, &READY, to)
            .run(async |to, cx: Cx| Ok(target.os.wait_ready(target.guest(&to), cx.token()).await?))
            .await
    }
}

/// A computer's MAC address where the configuration gives it. One that was derived from its name is locally
/// administered, and no network card sleeps under it.
fn own_mac(computer: &Computer) -> Option<&str> {
    let mac = &computer.management()?.mac;
    let first = u8::from_str_radix(mac.get(..2)?, 16).ok()?;
    (first & 0b10 == 0).then_some(mac.as_str())
}

/// What there is to say of a machine that an image is made from.
fn pc(name: &str) -> VmView {
    let hardware = Hardware { machine: "lab".into(), ..Hardware::default() };
    VmView { name: name.into(), state: "running".into(), disks: Vec::new(), hardware, managed: None }
}

#[async_trait]
impl Undo for Lab {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

#[async_trait]
impl Provisioning for Lab {
    fn kind(&self) -> &'static str {
        "lab"
    }
    /// Every node reaches the same PCs over the network.
    fn is_shared(&self) -> bool {
        true
    }
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }
    fn plan(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        let step = |name: &str, what: &str| PlannedStep { name: name.into(), what: what.into() };
        let reach = [
            step(FIND.name(), &format!("of {}", target.computer)),
            step(WAKE.name(), "if it does not answer and its MAC address is known"),
            step(READY.name(), "and take its host key"),
        ];
        let sanitize = step("sanitize/sanitize", "end what a user runs and remove what it left");
        let loaded =
            target.os.plan(None).into_iter().map(|(name, what)| step(&format!("post_load/{name}"), what));
        match work {
            Work::Load => reach.into_iter().chain([sanitize]).chain(loaded).collect(),
            Work::Unload => vec![step(LOOK.name(), "whether it answers"), sanitize],
            Work::Capture | Work::Resume => Vec::new(),
        }
    }

    async fn load(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        let endpoint = self.reach(job, target).await?;
        target.os.sanitize(&mut job.part("sanitize"), target.guest(&endpoint)).await?;
        target.os.post_load(&mut job.part("post_load"), target.guest(&endpoint)).await
    }
    async fn sanitize(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<()> {
        let Some(endpoint) = target.endpoint else { return Ok(()) };
        let answers = job
            .step(self, &LOOK, endpoint.clone())
            .run(async |at, _| Ok(ssh_speaks(at.address, at.port).await.is_ok()))
            .await?;
        if !answers {
            job.event(
                "not-sanitized",
                format!("{} does not answer; that is done before it is lent again", target.computer),
            );
            return Ok(());
        }
        target.os.sanitize(&mut job.part("sanitize"), target.guest(endpoint)).await
    }
    async fn unload(&self, _: &mut Job, _: &Computer) -> vcl_job::Result<()> {
        Ok(())
    }

    async fn power(&self, computer: &Computer, action: PowerAction) -> Result<PowerState> {
        if action != PowerAction::On {
            return Err(self.lacking(Capability::Power));
        }
        let Some(mac) = own_mac(computer) else {
            let context = format!("{computer} cannot be woken: its entry in the configuration has no `mac`");
            return Err(Error::new(ErrorKind::Refused, context));
        };
        self.wake(mac).await?;
        self.state(computer).await
    }
    async fn state(&self, computer: &Computer) -> Result<PowerState> {
        let address = self.address(computer).await?;
        let answers = ssh_speaks(address, self.settings.port).await.is_ok();
        Ok(if answers { PowerState::On } else { PowerState::Off })
    }

    async fn preview_vm(&self, target: VmTarget<'_>) -> Result<VmPreview> {
        let address = self.lookup(target.vm).await?;
        let missing = ssh_speaks(address, self.settings.port).await.err();
        let missing =
            missing.map(|why| format!("an answer of its ssh server at {address}: {why}; turn it on"));
        Ok(VmPreview {
            vm: pc(target.vm),
            to_copy: Default::default(),
            free: Default::default(),
            would_change: Vec::new(),
            would_keep: Vec::new(),
            missing: missing.into_iter().collect(),
            notes: vec!["the image has no disks: it says what is installed on PCs like this one".into()],
        })
    }
    /// Nothing is copied: the image is a record of what is installed on PCs like this one.
    async fn capture_vm(
        &self,
        job: &mut Job,
        target: VmTarget<'_>,
        _: &Staging,
    ) -> vcl_job::Result<Captured> {
        let found = job.step(self, &FIND, target.vm.to_owned());
        let address = found.run(async |name, _| Ok(self.lookup(&name).await?)).await?;
        if let Err(why) = ssh_speaks(address, self.settings.port).await {
            let context = format!("no ssh server speaks on {} ({address}): {why}; turn it on", target.vm);
            return Err(vcl_job::Error::new(Kind::Unreachable, context));
        }
        Ok(Captured { disks: Vec::new(), firmware: None, boot: None, hardware: pc(target.vm).hardware })
    }

    async fn findings(&self) -> Vec<Finding> {
        let what = format!("backend {}", self.settings.name);
        let found =
            format!("PCs that are lent as they are; wake-on-LAN packets go to {}", self.settings.wake);
        vec![Finding { what, level: FindingLevel::Ok, found, way_out: None }]
    }
}
