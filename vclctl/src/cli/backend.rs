//! Backend instances.

use clap::Subcommand;
use vcl_types::BackendName;

/// What can be asked about backends.
#[derive(Debug, Subcommand)]
pub enum BackendVerb {
    /// List the backends of vcld.toml: their types, whether they answer, their versions, what is wrong with them.
    #[command(after_help = "Example: vclctl backend list")]
    List,
    /// Look at backends thoroughly: what each can do and cannot, and every problem with the way out. Fails if one will not
    /// work.
    #[command(after_help = "Examples:\n  vclctl backend validate\n  vclctl backend validate kvm1")]
    Validate {
        /// The backends, as in `[backend.NAME]` of vcld.toml; without any, all of them.
        names: Vec<BackendName>,
    },
}
