//! What a backend can do, as it declares it.
//!
//! Every backend loads computers and takes them back. Whatever else there is, is a [`Capability`]: a backend has all of
//! them but those that it says it lacks, each with the reason. The daemon refuses what a backend lacks before anything
//! is begun; the conformance kit tries everything else.
//!
//! ```
//! use vcl_provisioning::{Capabilities, Capability};
//! const CAPABILITIES: Capabilities = Capabilities::all()
//!     .without(Capability::Console, "nothing is connected to its serial port");
//! assert!(CAPABILITIES.has(Capability::Capture));
//! assert_eq!(CAPABILITIES.lacks(Capability::Console), Some("nothing is connected to its serial port"));
//! ```

use crate::{Error, ErrorKind, Result};
use std::fmt;

/// Something that backends may be able to do besides loading a computer and taking it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// A load puts the revision's disks on the computer. Without it the computer is lent with what is on it.
    Imaging,
    /// [`capture`](crate::Provisioning::capture) and [`resume`](crate::Provisioning::resume).
    Capture,
    /// [`vms`](crate::Provisioning::vms): machines that are not vcld's are listed too.
    Vms,
    /// [`preview_vm`](crate::Provisioning::preview_vm) and [`capture_vm`](crate::Provisioning::capture_vm).
    CaptureVm,
    /// [`power`](crate::Provisioning::power) works from outside, whatever the guest does. Without it the guest is asked
    /// to shut down and to reboot.
    Power,
    /// [`console`](crate::Provisioning::console).
    Console,
    /// [`screenshot`](crate::Provisioning::screenshot).
    Screenshot,
    /// [`description`](crate::Provisioning::description).
    Description,
    /// [`things`](crate::Provisioning::things) and [`remove_thing`](crate::Provisioning::remove_thing): whatever it made
    /// can be found again and removed.
    Things,
    /// [`free_space`](crate::Provisioning::free_space).
    FreeSpace,
    /// [`written`](crate::Provisioning::written).
    Written,
    /// A load tells a guest's host keys from another source than the first connection to it.
    HostKeys,
}

impl Capability {
    /// All there are.
    pub const ALL: [Self; 12] = [
        Self::Imaging,
        Self::Capture,
        Self::Vms,
        Self::CaptureVm,
        Self::Power,
        Self::Console,
        Self::Screenshot,
        Self::Description,
        Self::Things,
        Self::FreeSpace,
        Self::Written,
        Self::HostKeys,
    ];
    /// Its name, as in tables and in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imaging => "imaging",
            Self::Capture => "capture",
            Self::Vms => "vms",
            Self::CaptureVm => "capture-vm",
            Self::Power => "power",
            Self::Console => "console",
            Self::Screenshot => "screenshot",
            Self::Description => "description",
            Self::Things => "things",
            Self::FreeSpace => "free-space",
            Self::Written => "written",
            Self::HostKeys => "host-keys",
        }
    }
    /// What it is to be able to do that, for people.
    #[must_use]
    pub const fn explained(self) -> &'static str {
        match self {
            Self::Imaging => "puts an image's disks on a computer",
            Self::Capture => "makes a computer's disks the next revision of an image",
            Self::Vms => "lists machines that are not vcld's",
            Self::CaptureVm => "makes an image of a machine that is not vcld's",
            Self::Power => "turns a computer on and off from outside",
            Self::Console => "reads a computer's serial console",
            Self::Screenshot => "shows a computer's display",
            Self::Description => "describes a computer's machine for the evidence of a failed job",
            Self::Things => "finds and removes what a lost job left behind",
            Self::FreeSpace => "knows how much room is left for what machines write",
            Self::Written => "knows how much a machine has written",
            Self::HostKeys => "knows a guest's ssh host keys before the first connection to it",
        }
    }
}
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a backend can do, and for what it cannot, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Why not, in the order of [`Capability::ALL`].
    lacks: [Option<&'static str>; Capability::ALL.len()],
}

impl Capabilities {
    /// Everything.
    #[must_use]
    pub const fn all() -> Self {
        Self { lacks: [None; Capability::ALL.len()] }
    }
    /// These alone, and one reason for all others.
    #[must_use]
    pub const fn only(these: &[Capability], why: &'static str) -> Self {
        let mut all = Self { lacks: [Some(why); Capability::ALL.len()] };
        let mut n = 0;
        while n < these.len() {
            all.lacks[these[n] as usize] = None;
            n += 1;
        }
        all
    }
    /// The same without one, and why: half a sentence, lower case, about this type of backend.
    #[must_use]
    pub const fn without(mut self, what: Capability, why: &'static str) -> Self {
        self.lacks[what as usize] = Some(why);
        self
    }
    /// Whether it can do that.
    #[must_use]
    pub const fn has(&self, what: Capability) -> bool {
        self.lacks[what as usize].is_none()
    }
    /// Why it cannot; `None` if it can.
    #[must_use]
    pub const fn lacks(&self, what: Capability) -> Option<&'static str> {
        self.lacks[what as usize]
    }
    /// Refuses what it cannot do.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], naming the backend (as in `backend pcs`), what is lacking and why.
    pub fn require(&self, what: Capability, backend: &str) -> Result<()> {
        let Some(why) = self.lacks(what) else { return Ok(()) };
        let context = format!("{backend} lacks `{what}` ({}): {why}", what.explained());
        Err(Error::new(ErrorKind::Unsupported, context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_few_is_all_without_the_others() {
        let few = Capabilities::only(&[Capability::Vms, Capability::Imaging], "it is a toy");
        let had: Vec<_> = Capability::ALL.into_iter().filter(|what| few.has(*what)).collect();
        assert_eq!(had, [Capability::Imaging, Capability::Vms]);
        assert_eq!(few.lacks(Capability::Capture), Some("it is a toy"));
    }

    #[test]
    fn each_capability_stands_at_its_own_place() {
        for (n, what) in Capability::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, n, "{what}");
            let lacking = Capabilities::all().without(what, "so it is");
            let others = Capability::ALL.into_iter().filter(|other| lacking.has(*other));
            assert_eq!(others.count(), Capability::ALL.len() - 1, "{what}");
            assert!(lacking.require(what, "backend pcs").unwrap_err().context.ends_with("so it is"));
        }
    }
}
