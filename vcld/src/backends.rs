//! Which types of backend a daemon has, and how an instance of each is made from its `[backend.NAME]`.

use std::sync::Arc;
use vcl_config::{BackendConfig, BackendType, Config};
use vcl_provisioning::{Networks, Provisioning};
use vcl_types::BackendName;

/// What a backend is made from.
pub struct Making<'a> {
    /// The instance's name.
    pub name: &'a BackendName,
    /// Its table of the configuration.
    pub table: &'a BackendConfig,
    /// The site's networks.
    pub networks: &'a Networks,
    /// The whole configuration: its computers, its credentials.
    pub config: &'a Config,
    /// The daemon's inbox, where it has one.
    pub inbox: Option<&'a Arc<crate::inbox::Boxes>>,
}

/// Makes instances of one type of backend.
#[derive(Clone, Copy)]
pub struct Factory {
    /// The type: its name, its keys and how they are checked when the configuration is read.
    pub kind: BackendType,
    /// Makes an instance. It must not wait for the backend: one that does not answer is a finding, not an error.
    pub make: fn(Making<'_>) -> anyhow::Result<Arc<dyn Provisioning>>,
}

/// The libvirt backend.
#[cfg(feature = "libvirt")]
pub(crate) const LIBVIRT: Factory = Factory { kind: BackendType::LIBVIRT, make: libvirt };

#[cfg(feature = "libvirt")]
fn libvirt(making: Making<'_>) -> anyhow::Result<Arc<dyn Provisioning>> {
    use vcl_provisioning::libvirt::{Libvirt, PoolSettings, Settings};
    let table = making.table.libvirt()?;
    Ok(Arc::new(Libvirt::new(Settings {
        name: making.name.clone(),
        uri: table.uri,
        local: table.local,
        directory: table.directory,
        pool: table.pool.map(|name| PoolSettings {
            name,
            path: table.pool_path,
            library: making.config.library.path.clone(),
        }),
        accelerator: table.accelerator,
        networks: making.networks.clone(),
    })?))
}

/// The lab backend.
#[cfg(feature = "lab")]
pub(crate) const LAB: Factory = Factory { kind: BackendType::LAB, make: lab };

#[cfg(feature = "lab")]
fn lab(making: Making<'_>) -> anyhow::Result<Arc<dyn Provisioning>> {
    use vcl_provisioning::lab::{Lab, Settings};
    let table = making.table.lab()?;
    Ok(Arc::new(Lab::new(Settings {
        name: making.name.clone(),
        domain: table.domain,
        port: table.port,
        wake: table.wake,
    })))
}

/// The vmware backend.
#[cfg(feature = "vmware")]
pub(crate) const VMWARE: Factory = Factory { kind: BackendType::VMWARE, make: vmware };

#[cfg(feature = "vmware")]
fn vmware(making: Making<'_>) -> anyhow::Result<Arc<dyn Provisioning>> {
    use vcl_config::{VmwareCapture, VmwareMethod};
    use vcl_provisioning::vim25::Settings;
    use vcl_provisioning::vmware::{CaptureTo, Method, Vmware};
    let table = making.table.vmware()?;
    let settings = Settings {
        datacenter: table.datacenter,
        cluster: table.cluster,
        folder: table.folder,
        ..vim25(&making, table.host)?
    };
    let method = match table.method {
        VmwareMethod::Clone => Method::Clone,
        VmwareMethod::Copy => Method::Copy,
    };
    let capture = match table.capture {
        VmwareCapture::Template => CaptureTo::Template,
        VmwareCapture::Disk => CaptureTo::Disk,
    };
    Ok(Arc::new(Vmware::new(settings, method, capture)?))
}

/// The esx backend.
#[cfg(feature = "esx")]
pub(crate) const ESX: Factory = Factory { kind: BackendType::ESX, make: esx };

#[cfg(feature = "esx")]
fn esx(making: Making<'_>) -> anyhow::Result<Arc<dyn Provisioning>> {
    let table = making.table.esx()?;
    Ok(Arc::new(vcl_provisioning::esx::Esx::new(vim25(&making, table)?)?))
}

/// What both VMware backends are made of.
#[cfg(any(feature = "vmware", feature = "esx"))]
fn vim25(making: &Making<'_>, table: vcl_config::Esx) -> anyhow::Result<vcl_provisioning::vim25::Settings> {
    use vcl_config::VmwareTrust;
    use vcl_provisioning::vim25::{Server, Settings, Trust};
    let trust = match table.trust {
        VmwareTrust::Ca(path) => Trust::Ca(path),
        VmwareTrust::Fingerprint(digits) => {
            Trust::Fingerprint(digits.parse().map_err(|rule| anyhow::anyhow!("fingerprint: {rule}"))?)
        }
    };
    let password = making.config.credential(&table.password)?;
    Ok(Settings {
        name: making.name.clone(),
        server: Server { address: table.server, user: table.user, password, trust },
        datacenter: None,
        cluster: None,
        folder: None,
        datastore: table.datastore,
        images: table.images,
        directory: table.directory,
        parallel: table.parallel,
        networks: making.networks.clone(),
    })
}

/// The sim backend.
#[cfg(feature = "sim")]
pub(crate) const SIM: Factory = Factory { kind: BackendType::SIM, make: sim };

#[cfg(feature = "sim")]
fn sim(making: Making<'_>) -> anyhow::Result<Arc<dyn Provisioning>> {
    use vcl_config::{SimEndState, SimFailures};
    use vcl_provisioning::sim::{Chance, Failures, Settings, Sim};
    let table = making.table.sim()?;
    Ok(Arc::new(Sim::new(Settings {
        name: making.name.clone(),
        directory: table.directory,
        shared: making.table.shared.unwrap_or(false),
        chance: Chance {
            seed: table.seed.into(),
            delay_min: table.delay_min,
            delay_max: table.delay_max,
            failure_rate: table.failure_rate,
            failures: match table.failures {
                SimFailures::Transient => Failures::Transient,
                SimFailures::Fatal => Failures::Fatal,
                SimFailures::Both => Failures::Both,
            },
        },
        end: match table.end_state {
            SimEndState::Off => vcl_os::EndState::Off,
            SimEndState::On => vcl_os::EndState::On,
            SimEndState::Reboot => vcl_os::EndState::Reboot,
        },
    })?))
}

/// The xcat backend.
#[cfg(feature = "xcat")]
pub(crate) const XCAT: Factory = Factory { kind: BackendType::XCAT, make: xcat };

#[cfg(feature = "xcat")]
fn xcat(making: Making<'_>) -> anyhow::Result<Arc<dyn Provisioning>> {
    use anyhow::Context as _;
    use vcl_provisioning::xcat::{Settings, Xcat};
    let table = making.table.xcat()?;
    let ca = std::fs::read(&table.ca).with_context(|| format!("ca = \"{}\"", table.ca))?;
    let computers = making.config.computers.iter().filter(|c| &c.backend == making.name);
    Ok(Arc::new(Xcat::new(Settings {
        name: making.name.clone(),
        url: table.url,
        ca,
        user: table.user,
        password: making.config.credential(&table.password)?,
        nodes: table.nodes,
        osimages: table.osimages,
        computers: computers.map(|c| c.name.clone()).collect(),
        inbox: making.inbox.map(|inbox| inbox.clone() as _),
        disk: table.disk.map(Into::into),
        largest_disk: table.largest_disk,
        net_boot: table.net_boot,
        power_off: table.power_off,
        poll: table.poll,
        call: table.call,
        contact: table.contact,
        no_progress: table.no_progress,
        install: table.install,
    })?))
}

/// The configuration's networks as backends know them.
pub(crate) fn networks(config: &Config) -> Networks {
    use vcl_config::Link;
    use vcl_provisioning::{Network, Plug};
    let network = |n: &vcl_config::Network| Network {
        plug: match &n.link {
            Link::Bridge(name) => Plug::Bridge(name.clone()),
            Link::Libvirt(name) => Plug::Libvirt(name.clone()),
            Link::PortGroup(name) => Plug::PortGroup(name.clone()),
            Link::User => Plug::User,
        },
        address: n.address.unwrap_or_default(),
        hook: n.hook.as_ref().map(ToString::to_string),
    };
    config.networks.iter().map(|(name, n)| (name.clone(), network(n))).collect()
}
