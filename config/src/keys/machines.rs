//! What may stand in the tables of what there is to lend: backends, networks, computers and their interfaces.

use super::{JOBS, Key, Kind, MIB};

/// What every `[backend.NAME]` has.
pub const BACKEND: &[Key] = &[
    Key::required("type", Kind::BackendType, "What kind of backend it is."),
    Key::default("max_jobs", JOBS, "4", "How many jobs it is given at once."),
    Key::optional(
        "shared",
        Kind::Boolean,
        "what its type says; a hypervisor on this machine is not shared",
        "Whether other management nodes have the same backend under this name and reach the same machines. Only then do they go on with this node's jobs when it dies.",
    ),
];

/// What a `[backend.NAME]` of the type `libvirt` has besides.
pub const LIBVIRT: &[Key] = &[
    Key::default("uri", Kind::Text, "qemu:///system", "The libvirt connection."),
    Key::default(
        "directory",
        Kind::Path,
        "/var/lib/vcld/NAME",
        "Where it keeps overlays, consoles and firmware variables.",
    ),
    Key::default(
        "accelerator",
        Kind::Word(&["auto", "kvm", "tcg"]),
        "auto",
        "How processors are run: `kvm`, emulated (`tcg`), or what the host can do.",
    ),
    Key::optional(
        "local",
        Kind::Boolean,
        "true if the uri names no host",
        "Whether the hypervisor is this machine.",
    ),
    Key::optional(
        "pool",
        Kind::Text,
        "none: the host shares this node's file system",
        "A storage pool of the host (type dir, fs or netfs) for a host that does not share this node's file system: \
         revisions are sent there once, and machines' disks are made there instead of in `directory`. For vcld alone.",
    ),
    Key::optional(
        "pool_path",
        Kind::Path,
        "none: a pool that is missing is an error",
        "A directory of the host: where the pool is made when the host has none of that name.",
    ),
];

/// `[network.NAME]`.
pub const NETWORK: &[Key] = &[
    Key::optional(
        "bridge",
        Kind::Text,
        "one of the four has to be there",
        "A bridge of the hypervisor host.",
    ),
    Key::optional(
        "libvirt",
        Kind::Text,
        "one of the four has to be there",
        "A libvirt network, by its name. For libvirt backends.",
    ),
    Key::optional(
        "portgroup",
        Kind::Text,
        "one of the four has to be there",
        "A port group of a VMware host or of a distributed switch, by its name. For vmware and esx backends.",
    ),
    Key::optional(
        "user",
        Kind::True,
        "one of the four has to be there",
        "qemu's user networking, with the machine's ssh forwarded to a port on 127.0.0.1. For trials, and for libvirt backends.",
    ),
    Key::optional(
        "address",
        Kind::Word(&["lease", "agent", "static", "hook"]),
        "lease; on a user network nothing",
        "Where a machine's address comes from: the DHCP lease of its MAC, the guest agent, this file, or the executable `hook`.",
    ),
    Key::optional(
        "hook",
        Kind::Path,
        "no hook",
        "With `address = \"hook\"`: the executable that prints a machine's address.",
    ),
];

/// An entry of `[computers]`.
pub const COMPUTER: &[Key] = &[
    Key::required("backend", Kind::Backend, "The backend that provisions it."),
    Key::required(
        "networks",
        Kind::Interfaces(INTERFACE),
        "Its interfaces, each the name of a network or a table. The first is the management interface unless another has that role.",
    ),
    Key::optional(
        "cpus",
        Kind::Integer { min: 1, max: 512 },
        "as many as the image was made with",
        "Virtual processors.",
    ),
    Key::optional("memory", Kind::Size { min: 64 * MIB }, "as much as the image was made with", "Memory."),
    Key::optional("tags", Kind::Tags, "no tags", "Words that it can be selected by."),
    Key::optional(
        "nat",
        Kind::Text,
        "users reach it by itself",
        "The [nat.NAME] through whose ports users come to it.",
    ),
    Key::optional(
        "mac",
        Kind::Mac,
        "derived from the computer's name",
        "The MAC address of its management interface. For an entry of one computer.",
    ),
    Key::optional(
        "address",
        Kind::Address,
        "none; on a static network it has to be there",
        "The address of its management interface, on a static network. An entry for several computers has a pattern with as many addresses.",
    ),
];

/// An interface of a computer, where it is written as a table.
pub const INTERFACE: &[Key] = &[
    Key::required("network", Kind::Network, "The network it is plugged into."),
    Key::optional(
        "role",
        Kind::Word(&["management", "public"]),
        "management for the first, public for the others",
        "What it is for.",
    ),
    Key::optional(
        "mac",
        Kind::Mac,
        "derived from the computer's name",
        "Its MAC address. For an entry of one computer.",
    ),
    Key::optional(
        "address",
        Kind::Address,
        "none; on a static network it has to be there",
        "Its address, on a static network.",
    ),
];
