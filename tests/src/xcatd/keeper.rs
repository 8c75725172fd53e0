//! One thread a node: it owns the node's qemu, and boots what the node is armed with.
//!
//! qemu ends with the thread that started it, so that thread lives as long as the node. It takes orders from the BMC's side,
//! and qemu's own events from a second thread that reads its control socket. A reset by the guest ends qemu
//! (`-no-reboot`) and starts it again, because what a machine boots from the network may be something else by then.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;
use tokio::sync::oneshot;

use super::faults::{self, Flaw};
use super::state::{Shared, State};
use super::{Boot, MachineSetup};
use crate::guest::Genesis;

/// How long a BMC may take to switch a machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What plays a node.
const PLAYED: &str = include_str!("played.sh");
/// How a node sees the machine it runs on.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// What a machine is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Power on; nothing if it is.
    On,
    /// Power off at once, as by pulling the plug.
    Off,
    /// Off and on, if it is on.
    Reset,
    /// Press the power button.
    Button,
    /// Nobody's: the system on it starts again by itself.
    Reboots,
}

#[derive(Debug)]
enum Message {
    Order(Order, oneshot::Sender<Result<(), String>>),
    /// A line of this start's qemu.
    Said(u64, Value),
    /// The end of them.
    Ended(u64),
    Quit,
}

/// Where a machine takes orders.
#[derive(Debug, Clone)]
pub(super) struct Orders(Sender<Message>);

impl Orders {
    /// Gives an order and waits until it is done. The error is what the BMC says.
    pub(super) async fn send(&self, order: Order) -> Result<(), String> {
        let (sender, done) = oneshot::channel();
        let gone = || "ERROR: Node busy".to_owned();
        self.0.send(Message::Order(order, sender)).map_err(|_| gone())?;
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(Ok(done)) => done,
            _ => Err(gone()),
        }
    }
}

/// A node's thread. Its machine ends with it.
#[derive(Debug)]
pub(super) struct Keeper {
    name: String,
    console: Utf8PathBuf,
    sender: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread; the machine is off.
    pub(super) fn start(
        shared: Arc<Shared>,
        name: &str,
        machine: MachineSetup,
        genesis: Option<Genesis>,
        directory: &Utf8Path,
        port: u16,
    ) -> Result<Self> {
        let console = directory.join(format!("{name}.console"));
        File::create(&console).with_context(|| format!("failed to write {console}"))?;
        let (sender, messages) = mpsc::channel();
        let own = Own {
            shared,
            name: name.to_owned(),
            machine,
            genesis,
            console: console.clone(),
            port,
            sender: sender.clone(),
            starts: 0,
            running: None,
        };
        let thread = std::thread::Builder::new()
            .name(format!("node {name}"))
            .spawn(move || own.run(&messages))
            .context("failed to start a node's thread")?;
        Ok(Self { name: name.to_owned(), console, sender, thread: Some(thread) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn orders(&self) -> Orders {
        Orders(self.sender.clone())
    }

    /// Has its system start again, and waits until that is under way.
    pub(super) fn reboots(&self) -> Result<()> {
        let (sender, done) = oneshot::channel();
        self.sender.send(Message::Order(Order::Reboots, sender)).ok().context("the node has ended")?;
        done.blocking_recv().context("the node has ended")?.map_err(anyhow::Error::msg)
    }

    pub(super) fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.sender.send(Message::Quit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A qemu that runs.
struct Running {
    number: u64,
    qemu: Child,
    control: ChildStdin,
    /// Whether the guest's last word was that it starts again.
    resets: bool,
}

/// What the thread has.
struct Own {
    shared: Arc<Shared>,
    name: String,
    machine: MachineSetup,
    genesis: Option<Genesis>,
    console: Utf8PathBuf,
    port: u16,
    sender: Sender<Message>,
    starts: u64,
    running: Option<Running>,
}

/// What is booted, and how.
struct Plan {
    boot: Boot,
    /// The imaging environment's command line.
    cmdline: String,
    /// What the installer has to put on the disk.
    source: Option<Utf8PathBuf>,
}

impl Own {
    fn run(mut self, messages: &Receiver<Message>) {
        for message in messages {
            match message {
                Message::Order(order, done) => {
                    let result = self.obey(&order).map_err(|error| format!("ERROR: {error:#}"));
                    let _ = done.send(result);
                }
                Message::Said(number, said) => self.hear(number, &said),
                Message::Ended(number) => self.ended(number),
                Message::Quit => break,
            }
        }
        self.stop();
    }

    fn obey(&mut self, order: &Order) -> Result<()> {
        match order {
            Order::On if self.running.is_none() => self.boot(),
            Order::Reset if self.running.is_some() => {
                self.stop();
                self.boot()
            }
            Order::Off => {
                self.stop();
                Ok(())
            }
            Order::Button => match &mut self.running {
                Some(running) => {
                    running.control.write_all(b"{\"execute\":\"system_powerdown\"}\n").context("no control")
                }
                None => Ok(()),
            },
            Order::Reboots => match &mut self.running {
                Some(running) if self.machine.played => {
                    running.control.write_all(b"{\"execute\":\"system_reset\"}\n").context("no control")
                }
                _ => anyhow::bail!("{} is off, or its guest is not ours to reboot", self.name),
            },
            Order::On | Order::Reset => Ok(()),
        }
    }

    fn node(&self, change: impl FnOnce(&mut super::state::Node)) {
        self.shared.with(|state| state.nodes.get_mut(&self.name).map(change));
    }

    fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            // It fails if qemu has ended, and then nothing is left to do.
            let _ = running.qemu.kill();
            let _ = running.qemu.wait();
        }
        self.node(|node| {
            node.on = false;
            node.heard = false;
        });
    }

    fn hear(&mut self, number: u64, said: &Value) {
        if let Some(running) = self.running.as_mut().filter(|running| running.number == number)
            && said["event"] == "SHUTDOWN"
        {
            running.resets = said["data"]["reason"] == "guest-reset";
        }
    }

    /// A qemu has ended, by itself: the guest powered off, or starts again.
    fn ended(&mut self, number: u64) {
        let Some(running) = self.running.as_ref().filter(|running| running.number == number) else { return };
        let resets = running.resets;
        self.stop();
        if resets && let Err(error) = self.boot() {
            self.note(&format!("did not start again: {error:#}"));
        }
    }

    fn note(&self, text: &str) {
        if let Ok(mut console) = OpenOptions::new().append(true).open(&self.console) {
            let _ = writeln!(console, "\n[{}] {text}", self.name);
        }
    }

    /// What the node boots now, by its boot state and what goes wrong.
    fn plan(&self, state: &mut State) -> Plan {
        let Some(node) = state.nodes.get_mut(&self.name) else {
            return Plan { boot: Boot::Disk, cmdline: String::new(), source: None };
        };
        let armed = node.attribute("currstate").to_owned();
        let from_disk = node.next_boot.take() == Some("Hard Drive");
        let word = armed.split([' ', '=']).next().unwrap_or_default();
        let from_network = !matches!(word, "" | "boot" | "offline" | "shutdown");
        if !from_network || from_disk || faults::netboot_fails(state, &self.name) {
            return Plan { boot: Boot::Disk, cmdline: String::new(), source: None };
        }
        let master = format!("xcatd={HOST}:{}", self.port);
        if ["install", "netboot", "statelite", "sysclone"].contains(&word) {
            let image = state.nodes.get(&self.name).map(|node| node.attribute("provmethod").to_owned());
            let source =
                image.and_then(|image| state.osimages.get(&image)).and_then(|image| image.disk.clone());
            return Plan { boot: Boot::Installer, cmdline: format!("{master} destiny=install"), source };
        }
        let flaw = faults::of_genesis(state, &self.name).map_or("none", Flaw::word);
        let cmdline = format!("{master} destiny={armed} flaw={flaw}");
        Plan { boot: Boot::Genesis, cmdline, source: None }
    }

    fn boot(&mut self) -> Result<()> {
        let plan = self.shared.with(|state| self.plan(state));
        self.starts += 1;
        let number = self.starts;
        self.note(&format!("boot {number}: {:?} {}", plan.boot, plan.cmdline));
        let mut qemu =
            self.command(&plan)?.spawn().context("failed to run setpriv or unshare (package util-linux)")?;
        let mut control = qemu.stdin.take().context("qemu has no standard input")?;
        let output = qemu.stdout.take().context("qemu has no standard output")?;
        control.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").context("qemu ended at once")?;
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(said) = serde_json::from_str(&line) {
                    let _ = sender.send(Message::Said(number, said));
                }
            }
            let _ = sender.send(Message::Ended(number));
        });
        self.running = Some(Running { number, qemu, control, resets: false });
        let tells = self.machine.tells_booted;
        let mut watch = false;
        self.node(|node| {
            node.on = true;
            node.heard = false;
            node.boots.push(plan.boot);
            // An installer says itself that what it installed will tell.
            node.will_tell |= tells;
            watch = plan.boot == Boot::Disk && std::mem::replace(&mut node.will_tell, tells);
        });
        if watch {
            self.watch();
        }
        Ok(())
    }

    /// Says for the system on the disk that it is up, once it is: that stands for the postscript of an installed system.
    fn watch(&self) {
        let (shared, name, address) = (self.shared.clone(), self.name.clone(), self.machine.address);
        let boots = self.shared.with(|state| state.nodes.get(&name).map_or(0, |node| node.boots.len()));
        std::thread::spawn(move || {
            let same = |state: &mut State| {
                state.nodes.get(&name).is_some_and(|node| node.on && node.boots.len() == boots)
            };
            while shared.with(same) {
                if greets(address) {
                    shared.with(|state| {
                        if same(state)
                            && let Some(node) = state.nodes.get_mut(&name)
                        {
                            node.set_status("booted");
                        }
                    });
                    return;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    }

    fn command(&self, plan: &Plan) -> Result<Command> {
        let Self { machine, console, .. } = self;
        if machine.played {
            return self.played(plan);
        }
        let log = OpenOptions::new().append(true).open(console)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args([
                "-accel",
                "tcg",
                "-machine",
                "pc",
                "-cpu",
                "max",
                "-smp",
                "1",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-m", &machine.memory.to_string()])
            .args(["-drive", &drive(&machine.disk, "discard=unmap,detect-zeroes=unmap")?])
            .args(["-netdev", &format!("user,id=n0,hostfwd=tcp:{}:22-:22", machine.address)])
            .args(["-device", &format!("virtio-net-pci,netdev=n0,romfile=,mac={}", self.mac())])
            .args(["-device", "virtio-rng-pci"])
            .args(["-chardev", &format!("file,id=console,path={console},append=on")])
            .args(["-serial", "chardev:console", "-monitor", "none", "-qmp", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        if let Some(source) = &plan.source {
            command.args(["-drive", &drive(source, "readonly=on")?]);
        }
        let (direct, cmdline) = match plan.boot {
            Boot::Disk => (machine.direct_boot.as_ref(), ""),
            Boot::Genesis | Boot::Installer => {
                let genesis = self.genesis.as_ref().context("no imaging environment")?;
                (Some(genesis.boot()), plan.cmdline.as_str())
            }
        };
        if let Some(direct) = direct {
            command.args(["-kernel", direct.kernel.as_str(), "-initrd", direct.initrd.as_str()]);
            command.args(["-append", &format!("{} {cmdline}", direct.cmdline)]);
        }
        Ok(command)
    }

    /// The processes that play a node, which speak as qemu does.
    fn played(&self, plan: &Plan) -> Result<Command> {
        let Self { machine, console, .. } = self;
        let word = |name: &str| {
            let mut words = plan.cmdline.split(' ');
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_owned()
        };
        anyhow::ensure!(word("flaw") != "digests", "a node that is played cannot have wrong digests");
        let (kind, what) = match plan.boot {
            Boot::Disk => ("disk", machine.address.to_string()),
            Boot::Genesis => ("genesis", word("destiny")),
            Boot::Installer => anyhow::bail!("a node that is played has no installer"),
        };
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
                "-c",
                PLAYED,
                "node",
            ])
            .args([
                kind,
                machine.disk.as_str(),
                console.as_str(),
                &what,
                &self.port.to_string(),
                &word("flaw"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(OpenOptions::new().append(true).open(console)?);
        Ok(command)
    }

    fn mac(&self) -> String {
        let mac = self.shared.with(|state| Some(state.nodes.get(&self.name)?.attribute("mac").to_owned()));
        mac.filter(|mac| !mac.is_empty()).unwrap_or_else(|| "52:54:00:00:02:00".into())
    }
}

/// qemu's words for a disk; its format is what its first bytes say.
fn drive(disk: &Utf8Path, more: &str) -> Result<String> {
    let mut magic = [0; 4];
    let mut file = File::open(disk).with_context(|| format!("failed to open {disk}"))?;
    file.read_exact(&mut magic).with_context(|| format!("failed to read {disk}"))?;
    let format = if &magic == b"QFI\xfb" { "qcow2" } else { "raw" };
    Ok(format!("if=virtio,format={format},file={disk},{more}"))
}

/// Whether sshd answers there. Patient, because each connection that is given up costs the guest a process.
fn greets(address: Ipv4Addr) -> bool {
    let Ok(mut stream) = TcpStream::connect((address, 22)) else { return false };
    let mut start = [0; 4];
    stream.set_read_timeout(Some(PATIENCE)).is_ok()
        && stream.read_exact(&mut start).is_ok()
        && &start == b"SSH-"
}
