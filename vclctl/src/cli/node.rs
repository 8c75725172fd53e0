//! Management nodes, and what jobs hold.

use clap::Subcommand;

/// What can be wanted of management nodes.
#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// List the management nodes that share the database.
    #[command(after_help = "Example: vclctl node list")]
    List,
    /// Show one of them.
    #[command(after_help = "Example: vclctl node show node1")]
    Show {
        /// Its name.
        name: String,
    },
    /// Let a node take no new jobs, before it is stopped or upgraded. What it runs goes on.
    #[command(after_help = "Example: vclctl node drain node1")]
    Drain {
        /// Its name.
        name: String,
    },
    /// Let a drained node take jobs again.
    #[command(after_help = "Example: vclctl node undrain node1")]
    Undrain {
        /// Its name.
        name: String,
    },
}

/// What can be wanted of leases.
#[derive(Debug, Subcommand)]
pub enum LeaseVerb {
    /// List the computers and images that jobs have to themselves: who, what for, since when, and who waits.
    #[command(after_help = "Example: vclctl lease list")]
    List,
}
