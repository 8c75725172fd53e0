//! The Debian that grub boots: what an installer would have set up beyond the packages.

use anyhow::Result;
use camino::Utf8Path;

use super::tree::Tree;

/// By MAC address and not by the DUID that machine-id gives: so a machine keeps its lease when it is loaded anew.
const NETWORK: &str = "\
[Match]
Name=en* eth*

[Network]
DHCP=ipv4

[DHCPv4]
ClientIdentifier=mac
";

/// Makes `tree` ask for its address and answer on the serial console. `/etc/fstab` and grub's menu come with the
/// disk, whose identifiers they name.
pub(super) fn prepare(tree: &Utf8Path) -> Result<()> {
    let tree = Tree(tree);
    tree.write("etc/systemd/network/20-dhcp.network", 0o644, NETWORK)?;
    for (target, unit) in [
        ("multi-user.target", "systemd-networkd.service"),
        ("sockets.target", "systemd-networkd.socket"),
        ("getty.target", "serial-getty@.service"),
    ] {
        let name = unit.replace("getty@", "getty@ttyS0");
        tree.link(
            &format!("etc/systemd/system/{target}.wants/{name}"),
            &format!("/lib/systemd/system/{unit}"),
        )?;
    }
    Ok(())
}
