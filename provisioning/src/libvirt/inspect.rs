//! Looking at the host: its machines, consoles, displays, and what is wrong with it.

use super::Libvirt;
use super::connection::CALL;
use super::console::last_lines;
use super::description::Description;
use crate::{Error, ErrorKind, Plug, Result};
use std::io::Cursor;
use std::time::Duration;
use vcl_types::api::{Finding, FindingLevel, PowerState, VmDisk, VmView};
use vcl_types::{Accelerator, ByteSize, ComputerName};
use virt::connect::Connect;
use virt::domain::{Domain, DomainState};
use virt::stream::Stream;

type VirtResult<T> = Result<T, virt::error::Error>;

/// What is read of one domain in one visit to the libvirt thread.
struct Seen {
    name: String,
    state: DomainState,
    xml: String,
    disks: Vec<(String, Option<u64>, Option<u64>)>,
}

fn see(domain: &Domain) -> VirtResult<Seen> {
    let xml = domain.xml_desc(virt::sys::VIR_DOMAIN_XML_INACTIVE)?;
    let mut disks = Vec::new();
    for disk in Description::parse(&xml).map(|d| d.disks).unwrap_or_default() {
        let info = domain.block_info(&disk.path, 0).ok();
        disks.push((disk.path, info.as_ref().map(|i| i.capacity), info.as_ref().map(|i| i.allocation)));
    }
    Ok(Seen { name: domain.name()?, state: super::domain::state_of(domain)?, xml, disks })
}

fn view(seen: Seen) -> VmView {
    let state = match seen.state {
        DomainState::Running | DomainState::Blocked => "running",
        DomainState::Paused | DomainState::PMSuspended => "paused",
        DomainState::Shutdown => "shutting down",
        DomainState::Crashed => "crashed",
        DomainState::Shutoff => "shut off",
        DomainState::NoState => "unknown",
    };
    let parsed = Description::parse(&seen.xml).ok();
    let formats: Vec<_> = parsed.iter().flat_map(|d| d.disks.iter().map(|d| d.format.clone())).collect();
    let disks =
        seen.disks.into_iter().zip(formats).map(|((source, virtual_size, allocated), format)| VmDisk {
            source,
            format,
            virtual_size: virtual_size.map(ByteSize),
            allocated: allocated.map(ByteSize),
        });
    VmView {
        managed: parsed
            .as_ref()
            .and_then(|d| d.owner.as_deref())
            .and_then(|o| o.parse::<ComputerName>().ok()),
        state: state.into(),
        disks: disks.collect(),
        hardware: parsed.map(|d| d.hardware).unwrap_or_default(),
        name: seen.name,
    }
}

impl Libvirt {
    pub(super) async fn list_vms(&self) -> Result<Vec<VmView>> {
        let what = "listing the machines";
        let mut vms = self
            .connection
            .call(what, CALL, |c| {
                // One that vanishes while we look is not there.
                Ok(c.list_all_domains(0)?.iter().filter_map(|d| see(d).ok()).map(view).collect::<Vec<_>>())
            })
            .await?;
        vms.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(vms)
    }

    pub(super) async fn view(&self, vm: &str) -> Result<VmView> {
        let name = vm.to_owned();
        let what = format!("looking at {vm}");
        self.connection.call(what, CALL, move |c| see(&c.lookup_domain_by_name(&name)?)).await.map(view)
    }

    pub(super) async fn console_tail(&self, computer: &ComputerName, lines: usize) -> Result<String> {
        let console = Self::console_file(&self.computer_place(computer));
        match self.read_console(&console, 256 * 1024).await? {
            Some(text) => Ok(last_lines(&text, lines)),
            None => {
                Err(Error::new(ErrorKind::NotFound, format!("{computer} has no console: it is not loaded")))
            }
        }
    }

    /// Whether a host that is not this one can run KVM guests: libvirt lists KVM wherever /dev/kvm is, and without the
    /// processor's flag guests hang on it.
    pub(super) async fn host_has_kvm(&self) -> Result<bool> {
        let asked = self.connection.call("asking what the host can do", CALL, |c| {
            let text = c.capabilities()?;
            let start = text.find("<cpu>").zip(text.find("</cpu>"));
            // A model of libvirt's may have the flag in it without saying so.
            let all = start.and_then(|(from, to)| {
                let flags = virt::sys::VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES;
                c.baseline_cpu(&[text.get(from..to + "</cpu>".len())?], flags).ok()
            });
            Ok((text, all.unwrap_or_default()))
        });
        let (host, all) = asked.await?;
        let flag = |text: &str| ["vmx", "svm"].iter().any(|f| text.contains(&format!("feature name='{f}'")));
        Ok(host.contains("<domain type='kvm'") && (flag(&host) || flag(&all)))
    }

    pub(super) async fn display(&self, domain: &str) -> Result<Vec<u8>> {
        let name = domain.to_owned();
        let picture = self
            .connection
            .call(format!("taking a screenshot of {domain}"), CALL, move |c| take(c, &name))
            .await;
        let picture = match picture {
            Err(e) if e.kind == ErrorKind::NotFound => {
                let context = format!("there is no domain {domain}: the computer is not loaded");
                return Err(Error::new(e.kind, context));
            }
            Err(_) if self.power_state(domain).await? == PowerState::Off => {
                let context = format!("domain {domain} is off; its display is dark");
                return Err(Error::new(ErrorKind::Refused, context));
            }
            result => result?,
        };
        // qemu gives a PPM; a person wants a PNG.
        let read = image::load_from_memory(&picture)
            .map_err(|e| Error::caused(ErrorKind::Failed, "reading qemu's picture", e))?;
        let mut png = Cursor::new(Vec::new());
        read.write_to(&mut png, image::ImageFormat::Png)
            .map_err(|e| Error::caused(ErrorKind::Failed, "writing the picture", e))?;
        Ok(png.into_inner())
    }

    pub(super) async fn look(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let uri = self.connection.uri().to_owned();
        let mut add = |what: &str, level, found: String, way_out: Option<String>| {
            findings.push(Finding {
                what: format!("backend {}: {what}", self.settings.name),
                level,
                found,
                way_out,
            });
        };
        let asked = self.ask_version().await;
        let reachable = asked.is_ok();
        match asked {
            Ok(version) => add("libvirt", FindingLevel::Ok, format!("{uri}: {version}"), None),
            Err(e) => {
                let way_out =
                    "start it (systemctl start libvirtd), or let vcld's user into the group libvirt";
                add("libvirt", FindingLevel::Error, e.chain(), Some(way_out.into()));
            }
        }
        match (self.kvm().await, self.settings.accelerator) {
            (Ok(true), _) => {
                add("processor", FindingLevel::Ok, "KVM".into(), None);
            }
            (Ok(false), Accelerator::Tcg) => {
                add("processor", FindingLevel::Ok, "emulated, as configured".into(), None);
            }
            (Ok(false), _) => {
                let way_out = "turn virtualisation on in the firmware, or enable nested virtualisation where this is a guest itself";
                add(
                    "processor",
                    FindingLevel::Warning,
                    "emulated: ten times slower than KVM".into(),
                    Some(way_out.into()),
                );
            }
            (Err(e), _) => {
                add("processor", FindingLevel::Error, e.chain(), Some("set accelerator = \"auto\"".into()));
            }
        }
        let directory = &self.settings.directory;
        match &self.pool {
            Some(_) if !reachable => {}
            Some(pool) => match self.pool_well().await {
                Ok(found) => add("pool", FindingLevel::Ok, found, None),
                Err(e) => {
                    let way_out = format!(
                        "make it on the host (virsh pool-define-as {0} dir --target DIRECTORY; virsh pool-start {0}), or write pool_path = \"DIRECTORY\"",
                        pool.name
                    );
                    add("pool", FindingLevel::Error, e.chain(), Some(way_out));
                }
            },
            None => match tempfile_in(directory) {
                Ok(()) => add("directory", FindingLevel::Ok, directory.to_string(), None),
                Err(e) => {
                    let way_out = format!("make it writable for vcld's user: chown vcld {directory}");
                    add(
                        "directory",
                        FindingLevel::Error,
                        format!("{directory} cannot be written: {e}"),
                        Some(way_out),
                    );
                }
            },
        }
        if reachable {
            for (name, network) in &self.settings.networks {
                let (found, way_out) = match &network.plug {
                    Plug::Libvirt(libvirt) => {
                        (self.network_active(libvirt).await, format!("virsh net-start {libvirt}"))
                    }
                    // Only the host itself sees its bridges.
                    Plug::Bridge(_) if !self.settings.local => continue,
                    Plug::Bridge(bridge) => {
                        let there = camino::Utf8Path::new("/sys/class/net").join(bridge).exists();
                        (
                            there.then_some(()).ok_or_else(|| format!("bridge {bridge} is not there")),
                            format!("ip link add {bridge} type bridge"),
                        )
                    }
                    // No computer of ours is on it.
                    Plug::PortGroup(_) => continue,
                    Plug::User => (Ok(()), String::new()),
                };
                match found {
                    Ok(()) => add(&format!("network {name}"), FindingLevel::Ok, "there".into(), None),
                    Err(e) => add(&format!("network {name}"), FindingLevel::Error, e, Some(way_out)),
                }
            }
        }
        findings
    }

    pub(super) async fn ask_version(&self) -> Result<String> {
        let quick = Duration::from_secs(10);
        let ask = |c: &Connect| Ok((c.lib_version()?, c.hyp_version()?));
        let (lib, qemu) = self.connection.call("asking for its version", quick, ask).await?;
        let version = |n: u32| format!("{}.{}.{}", n / 1_000_000, n / 1000 % 1000, n % 1000);
        Ok(format!("libvirt {}, qemu {}", version(lib), version(qemu)))
    }

    async fn network_active(&self, network: &str) -> Result<(), String> {
        let name = network.to_owned();
        let what = format!("looking at network {network}");
        let asked =
            self.connection.call(what, CALL, move |c: &Connect| c.lookup_network_by_name(&name)?.is_active());
        match asked.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("libvirt's network {network} is not active")),
            Err(e) => Err(e.chain()),
        }
    }
}

fn take(c: &Connect, name: &str) -> VirtResult<Vec<u8>> {
    let domain = c.lookup_domain_by_name(name)?;
    let stream = Stream::new(c, 0)?;
    domain.screenshot(&stream, 0, 0)?;
    let mut picture = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    // A display of 8 K is 100 MB; nothing larger is believed.
    while picture.len() < 128 * 1024 * 1024 {
        let n = usize::try_from(stream.recv(&mut buffer)?).unwrap_or(0);
        if n == 0 {
            stream.finish()?;
            return Ok(picture);
        }
        picture.extend_from_slice(&buffer[..n]);
    }
    stream.abort()?;
    Ok(picture)
}

fn tempfile_in(directory: &camino::Utf8Path) -> std::io::Result<()> {
    let probe = directory.join(format!(".probe-{}", std::process::id()));
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(probe)
}
