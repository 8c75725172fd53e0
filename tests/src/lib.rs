//! Real guests, real sshd, real libvirtd: the proof that vcld works.
//!
//! - [`world`]: a private libvirtd with its own processes, mounts and network; `vcl-world` runs a command in one.
//! - [`mod@bench`]: what vcld costs against the same work by hand; `vcl-bench` runs them.
//! - [`browser`]: a headless Chromium, driven by chromedriver.
//! - [`certificates`]: a site's own certificate authority.
//! - [`daemon`]: a real vcld with a configuration of its own, asked through the real vclctl.
//! - [`journal`]: a daemon's journal as another process sees it, and a gate that stops the daemon at a chosen record.
//! - [`manifest`]: manifests of revisions that tests publish by themselves.
//! - [`pc`]: a PC of a lab, with a real sshd.
//! - [`writers`]: who has which file open for writing.
//! - [`xcatd`]: an xCAT management node as it was recorded, whose nodes are real guests.
//! - [`vcsim`]: a vCenter or an ESXi host to test against, with real guests behind it.
//! - [`guest`]: bootable test guests made from Debian packages; `vcl-guest` makes and boots them by hand.

mod command;

pub mod bench;
pub mod browser;
pub mod certificates;
pub mod daemon;
pub mod guest;
pub mod journal;
pub mod manifest;
pub mod pc;
pub mod vcsim;
pub mod world;
pub mod writers;
pub mod xcatd;
