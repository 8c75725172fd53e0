//! Where an instance works: the datacenter, the datastore, the resource pool that its settings name, and the networks.

use super::client::{Client, ServerKind, Session};
use super::properties::Object;
use super::request::Reference;
use super::{Settings, Site};
use crate::{Error, ErrorKind, Plug, Result};
use std::sync::Arc;
use vcl_types::NetworkName;

/// The managed objects that an instance works with.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) datacenter: Reference,
    /// The datacenter's path in the inventory, as datastore URLs have it.
    pub(crate) path: String,
    /// Where machines are made.
    pub(crate) folder: Reference,
    pub(crate) datastore: Reference,
    /// What searches the datastore.
    pub(crate) browser: Reference,
    pub(crate) pool: Reference,
}

/// What a network card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CardPlug {
    /// A port group of a host's own switch.
    Network { name: String, network: Reference },
    /// A port group of a distributed switch.
    Distributed { switch: String, key: String },
}

/// What an instance has found, for as long as the session in which it was found.
pub(super) type Found = Option<(Arc<Session>, Arc<Place>)>;

impl Site {
    /// Finds where the instance works, once a session.
    pub(crate) async fn place(&self) -> Result<Arc<Place>> {
        let session = self.client.session().await?;
        let mut slot = self.place.lock().await;
        if let Some((of, place)) = &*slot
            && Arc::ptr_eq(of, &session)
        {
            return Ok(place.clone());
        }
        let place = Arc::new(find(&self.client, &self.settings, &session).await?);
        *slot = Some((session, place.clone()));
        Ok(place)
    }

    /// What the cards on a network are plugged into.
    pub(crate) async fn card_plug(&self, network: &NetworkName) -> Result<CardPlug> {
        let name = self.port_group(network)?;
        let datacenter = &self.place().await?.datacenter;
        let named = |all: Vec<Object>| all.into_iter().find(|n| n.text("name") == Some(name));
        if let Some(found) = named(self.client.list(Some(datacenter), "Network", &["name"]).await?)
            && found.reference.kind != DISTRIBUTED
        {
            return Ok(CardPlug::Network { name: name.to_owned(), network: found.reference });
        }
        let key = ["name", "key", "config.distributedVirtualSwitch"];
        let found = match self.client.list(Some(datacenter), DISTRIBUTED, &key).await {
            Ok(all) => named(all),
            // A host of its own has no distributed switches.
            Err(e) if self.client.kind() == ServerKind::HostAgent => {
                tracing::debug!(error = e.chain(), "no distributed port groups");
                None
            }
            Err(e) => return Err(e),
        };
        let missing = || {
            let message = format!(
                "network {network}: there is no port group `{name}` at {}; make one, or correct [network.{network}]",
                self.client.address()
            );
            Error::new(ErrorKind::NotFound, message)
        };
        let found = found.ok_or_else(missing)?;
        let switch = found.reference("config.distributedVirtualSwitch").ok_or_else(missing)?;
        let switch = self.client.read(&switch, &["uuid"]).await?;
        let switch = switch.text("uuid").ok_or_else(missing)?.to_owned();
        Ok(CardPlug::Distributed { switch, key: found.text("key").ok_or_else(missing)?.to_owned() })
    }

    /// The name of the port group that a network is.
    pub(crate) fn port_group(&self, network: &NetworkName) -> Result<&str> {
        match self.network(network)?.plug {
            Plug::PortGroup(ref name) | Plug::Bridge(ref name) => Ok(name),
            Plug::Libvirt(_) | Plug::User => {
                let message = format!(
                    "network {network} is one of libvirt; a VMware host needs a port group: portgroup = \"VM Network\""
                );
                Err(Error::new(ErrorKind::Refused, message))
            }
        }
    }
}

const DISTRIBUTED: &str = "DistributedVirtualPortgroup";

async fn find(client: &Client, settings: &Settings, session: &Session) -> Result<Place> {
    let root = &session.content.root;
    let datacenters = client.list(None, "Datacenter", &["name", "vmFolder", "parent"]).await?;
    let datacenter = choose(client, "datacenter", settings.datacenter.as_deref(), &datacenters)?;
    let mut path = vec![datacenter.text("name").unwrap_or_default().to_owned()];
    let mut above = datacenter.reference("parent");
    // Datacenters may lie in folders; their names are part of the path.
    while let Some(folder) = above.filter(|f| f != root && path.len() < 32) {
        let read = client.read(&folder, &["name", "parent"]).await?;
        path.push(read.text("name").unwrap_or_default().to_owned());
        above = read.reference("parent");
    }
    path.reverse();
    let lacking = |what: &str| {
        Error::new(ErrorKind::Corrupt, format!("{} does not say where its {what} is", client.address()))
    };
    let mut folder = datacenter.reference("vmFolder").ok_or_else(|| lacking("folder of machines"))?;
    if let Some(wanted) = &settings.folder {
        for name in wanted.split('/').filter(|n| !n.is_empty()) {
            let inside = client.list(Some(&folder), "Folder", &["name", "parent"]).await?;
            let found = inside
                .into_iter()
                .find(|f| f.text("name") == Some(name) && f.reference("parent").as_ref() == Some(&folder));
            let missing = || {
                let message = format!(
                    "folder = \"{wanted}\": there is no folder of machines `{name}` at {}; make it there",
                    client.address()
                );
                Error::new(ErrorKind::NotFound, message)
            };
            folder = found.ok_or_else(missing)?.reference;
        }
    }
    let below = Some(&datacenter.reference);
    let datastores = client.list(below, "Datastore", &["name", "browser"]).await?;
    let datastore = choose(client, "datastore", Some(&settings.datastore), &datastores)?;
    // A cluster is one too.
    let mut computes = client.list(below, "ComputeResource", &["name", "resourcePool"]).await?;
    if client.kind() == ServerKind::VirtualCenter {
        let clusters = client.list(below, "ClusterComputeResource", &["name", "resourcePool"]).await?;
        computes.extend(
            clusters
                .into_iter()
                .filter(|c| !computes.iter().any(|o| o.reference == c.reference))
                .collect::<Vec<_>>(),
        );
    }
    let compute = choose(client, "cluster", settings.cluster.as_deref(), &computes)?;
    Ok(Place {
        path: path.join("/"),
        folder,
        browser: datastore.reference("browser").ok_or_else(|| lacking("datastore's browser"))?,
        datastore: datastore.reference.clone(),
        pool: compute.reference("resourcePool").ok_or_else(|| lacking("resource pool"))?,
        datacenter: datacenter.reference.clone(),
    })
}

/// The object of the name that the settings give, or the only one.
fn choose<'o>(client: &Client, key: &str, wanted: Option<&str>, all: &'o [Object]) -> Result<&'o Object> {
    let names = || all.iter().filter_map(|o| o.text("name")).collect::<Vec<_>>().join(", ");
    let (address, refuse) = (client.address(), |message| Error::new(ErrorKind::NotFound, message));
    match (wanted, all) {
        (Some(name), _) => all.iter().find(|o| o.text("name") == Some(name)).ok_or_else(|| {
            let names = names();
            refuse(format!("{key} = \"{name}\": there is none of that name at {address}; it has: {names}"))
        }),
        (None, [only]) => Ok(only),
        (None, []) => Err(refuse(format!(
            "no {key} can be seen at {address}; the account may lack the right to look at it"
        ))),
        (None, _) => {
            Err(refuse(format!("{address} has several of it; write {key} = \"…\", one of: {}", names())))
        }
    }
}
