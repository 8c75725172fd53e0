//! What a `qemu-img` that reads a foreign file may use.

use std::time::Duration;

/// Limits of one child process. A crafted image must not take the node's memory, its processors or its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Address space, in bytes.
    pub memory: u64,
    /// Processor time.
    pub cpu: Duration,
    /// How long a file it writes may become, in bytes.
    pub file_size: u64,
}

impl Limits {
    /// For a look at a foreign file: 1 GiB, two minutes of processor time, and nothing may be written.
    pub const LOOK: Self = Self { memory: 1 << 30, cpu: Duration::from_secs(120), file_size: 0 };

    /// For copying a foreign disk that shows its guest so many bytes: an hour of processor time and 10 s more per GiB; the
    /// copy may be that large and an eighth, for the format's own tables.
    #[must_use]
    pub fn copy(virtual_size: u64) -> Self {
        Self {
            memory: 2 << 30,
            cpu: Duration::from_secs(3600 + 10 * (virtual_size >> 30)),
            file_size: virtual_size.saturating_add(virtual_size / 8).saturating_add(16 << 20),
        }
    }

    /// Arguments of `prlimit`, up to the program's name.
    pub(super) fn args(&self) -> Vec<String> {
        vec![
            format!("--as={}", self.memory),
            format!("--cpu={}", self.cpu.as_secs()),
            format!("--fsize={}", self.file_size),
            "--core=0".into(),
            "--nofile=256".into(),
            "--".into(),
        ]
    }
}
