//! Management nodes, and what jobs hold.

use crate::cli::{LeaseVerb, NodeVerb};
use crate::client::Client;
use crate::error::Result;
use crate::render::nodes;
use crate::screen::Screen;

/// What is wanted of management nodes.
pub(super) async fn run(verb: NodeVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        NodeVerb::List => screen.answer(&client.nodes().await?, |all, clock| nodes::list(all, clock)),
        NodeVerb::Show { name } => screen.answer(&client.node(&name).await?, nodes::one),
        NodeVerb::Drain { name } => screen.answer(&client.drain(&name, true).await?, |node, _| {
            let name = &node.name;
            match node.running {
                0 => format!("node {name} takes no new jobs and runs none"),
                n => format!("node {name} takes no new jobs; it still runs {n}: vclctl node show {name}"),
            }
        }),
        NodeVerb::Undrain { name } => screen.answer(&client.drain(&name, false).await?, |node, _| {
            format!("node {} takes jobs again", node.name)
        }),
    }
}

/// What is wanted of leases.
pub(super) async fn leases(verb: LeaseVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        LeaseVerb::List => screen.answer(&client.leases().await?, |all, clock| nodes::leases(all, clock)),
    }
}
