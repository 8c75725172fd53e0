//! Classes, maintenance windows, hosts.

use crate::cli::{ClassVerb, HostVerb, MaintenanceVerb};
use crate::client::Client;
use crate::error::Result;
use crate::render::classes;
use crate::screen::Screen;
use vcl_types::lending::{ClassRequest, MaintenanceRequest, Wish};

/// What is wanted of classes.
pub(super) async fn run(verb: ClassVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        ClassVerb::Add(asked) => {
            let request = ClassRequest {
                name: asked.name,
                image: asked.image,
                seats: asked.seats,
                weekly: asked.weekly,
                wish: Wish { tags: asked.tags, cpus: asked.cpus, memory: asked.memory, ..Wish::default() },
                group: asked.group,
                from: asked.from,
                until: asked.until,
                owner: asked.owner,
            };
            screen.answer(&client.add_class(&request).await?, classes::one)
        }
        ClassVerb::List => screen.answer(&client.classes().await?, |all, clock| classes::list(all, clock)),
        ClassVerb::Show { name } => screen.answer(&client.class(&name).await?, classes::one),
        ClassVerb::CallOff { name, start } => {
            screen.answer(&client.call_off_class(&name, start).await?, classes::one)
        }
        ClassVerb::Delete { name } => {
            client.delete_class(&name).await?;
            screen.answer(&serde_json::json!({ "deleted": name }), |_, _| format!("class {name} is over"))
        }
    }
}

/// What is wanted of maintenance windows.
pub(super) async fn maintenance(verb: MaintenanceVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        MaintenanceVerb::Add { computers, tags, start, end, reason } => {
            let request = MaintenanceRequest { computers, tags, start, end, reason };
            screen.answer(&client.add_maintenance(&request).await?, classes::window)
        }
        MaintenanceVerb::List => {
            screen.answer(&client.maintenance().await?, |all, clock| classes::windows(all, clock))
        }
        MaintenanceVerb::End { id } => screen.answer(&client.end_maintenance(id).await?, |window, _| {
            format!("maintenance window {} is over", window.id)
        }),
    }
}

/// What is wanted of hosts.
pub(super) async fn host(verb: HostVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        HostVerb::List => screen.answer(&client.hosts().await?, |all, clock| classes::hosts(all, clock)),
        HostVerb::Drain { backend, reason } => {
            screen.answer(&client.drain_host(&backend, reason).await?, |host, _| match host.busy.len() {
                0 => format!("the host of {} takes nothing new, and nobody is on it", host.backend),
                n => {
                    format!("the host of {} takes nothing new; {n} computers are still in use", host.backend)
                }
            })
        }
        HostVerb::Undrain { backend } => screen.answer(&client.undrain_host(&backend).await?, |host, _| {
            format!("the host of {} takes everything again", host.backend)
        }),
    }
}
