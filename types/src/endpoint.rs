//! Where a loaded machine can be reached, and how we know that it is that machine.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// One public ssh host key, as OpenSSH writes it: algorithm and base64 of the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostKey {
    /// The algorithm's name, such as `ssh-ed25519`.
    pub algorithm: String,
    /// The key's bytes in base64, as in an OpenSSH `.pub` file.
    pub key: String,
}

impl HostKey {
    /// Reads `algorithm base64 [comment]`, as a `.pub` file or a `known_hosts` line after its host has it.
    /// Answers `None` for anything else; what a guest prints is untrusted.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (algorithm, key) = (words.next()?, words.next()?);
        let known =
            algorithm.starts_with("ssh-") || algorithm.starts_with("ecdsa-") || algorithm.starts_with("sk-");
        let base64 = key.len() >= 16
            && key.len() <= 4096
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
        (known && algorithm.len() <= 64 && base64)
            .then(|| Self { algorithm: algorithm.to_owned(), key: key.to_owned() })
    }
}
impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, self.key)
    }
}

/// Where a host key was learnt. Only the first four are better than hoping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum KeySource {
    /// Printed by the guest on its serial console, which only the hypervisor can write to.
    Console,
    /// Asked of the guest agent.
    Agent,
    /// Put into the machine by the backend before it was started.
    Injected,
    /// Recorded by an earlier, authenticated connection of the same load.
    Pinned,
    /// Taken from the first connection: trust on first use.
    FirstUse,
}

/// The host keys of a loaded machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostKeys {
    /// The keys; empty means that none is known yet and the first connection decides.
    pub keys: Vec<HostKey>,
    /// Where they come from.
    pub source: KeySource,
}

impl HostKeys {
    /// No key known: the first connection's is taken.
    #[must_use]
    pub fn first_use() -> Self {
        Self { keys: Vec::new(), source: KeySource::FirstUse }
    }
}

/// Where a machine's ssh server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Endpoint {
    /// Its address.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The account vcld logs in as.
    pub user: String,
    /// The keys its ssh server must show.
    pub host_keys: HostKeys,
}

impl Endpoint {
    /// The command that connects to it with OpenSSH.
    #[must_use]
    pub fn ssh_command(&self) -> String {
        let (user, address) = (&self.user, self.address);
        if self.port == 22 {
            format!("ssh {user}@{address}")
        } else {
            format!("ssh -p {} {user}@{address}", self.port)
        }
    }
}
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(a) => write!(f, "{}@{a}:{}", self.user, self.port),
            IpAddr::V6(a) => write!(f, "{}@[{a}]:{}", self.user, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_key_is_read_only_from_what_looks_like_one() {
        let good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1s7 root@debian";
        assert_eq!(HostKey::parse(good).unwrap().to_string(), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1s7");
        for bad in
            ["", "ssh-ed25519", "hello AAAAC3NzaC1lZDI1NTE5AAAA", "ssh-ed25519 AAAA;rm -rf / aaaaaaaaaaaaa"]
        {
            assert_eq!(HostKey::parse(bad), None, "{bad}");
        }
    }
}
