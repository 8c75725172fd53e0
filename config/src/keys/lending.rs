//! The keys of `[reservations]`, `[group.NAME]` and `[image.NAME]`.

use super::{Key, Kind};

const SPAN: Kind = Kind::Duration { min: 1000 };
const COUNT: Kind = Kind::Integer { min: 0, max: 100_000 };

/// `[reservations]`.
pub const RESERVATIONS: &[Key] = &[
    Key::default(
        "acknowledge",
        SPAN,
        "15m",
        "How long a ready computer waits for its user to say that they come.",
    ),
    Key::default("connect", SPAN, "15m", "How long it then waits for a connection."),
    Key::default("inactivity", SPAN, "15m", "How long it waits for its user to come back."),
    Key::default(
        "notices",
        Kind::Text,
        "14d 7d 2d 1d 10m 5m",
        "How long before its end the user of a reservation is told of it.",
    ),
    Key::default(
        "unwatched_from",
        SPAN,
        "1d",
        "Reservations of at least this length do not end because nobody is connected.",
    ),
    Key::default("check", SPAN, "5m", "How often it is looked who is connected."),
    Key::default(
        "ahead",
        SPAN,
        "35m",
        "How long before the start of a reservation its computer is loaded, at the earliest.",
    ),
    Key::default("length", SPAN, "4h", "The length of a reservation that names none."),
    Key::default("longest", SPAN, "30d", "The longest a reservation may be, extensions included."),
    Key::optional("at_once", COUNT, "no limit", "How many computers one user may have at once."),
    Key::optional(
        "hours_per_week",
        COUNT,
        "no limit",
        "How many hours of computers one user may have in seven days, what is booked included.",
    ),
    Key::default(
        "servers",
        Kind::Boolean,
        "true",
        "Whether whoever may reserve a computer may have it as a server, without an end and unwatched; else that takes `operate` on it.",
    ),
    Key::default(
        "open_to",
        Kind::Word(&["address", "everybody"]),
        "address",
        "Whom a lent computer lets in before the address of its user is known: nobody, or everybody.",
    ),
    Key::default(
        "methods",
        Kind::Text,
        "ssh:22",
        "How users come to a Linux guest: words such as `ssh:22`, `rdp:3389:xrdp` or `NAME:PORT:SERVICE:SCRIPT` with blanks between them. The service is started for it, the script of the hooks' `method.d` run. Windows guests have `rdp:3389` unless their image says otherwise.",
    ),
    Key::optional(
        "management_networks",
        Kind::Text,
        "only the connection that vcld has at that moment",
        "Networks that no lent computer ever shuts out, as in `10.0.0.0/24 192.0.2.7/32`: where the management nodes are.",
    ),
    Key::default(
        "after_use",
        Kind::Word(&["nothing", "same", "most-used", "booked-next"]),
        "booked-next",
        "What a computer is loaded with when it is given back and no warm pool wants it: nothing; the image it had; the one most used of late; the one it is booked for next, or else the most used.",
    ),
    Key::default(
        "timezone",
        Kind::Text,
        "UTC",
        "The time zone that classes and hours of the week are meant in, as in `Europe/Berlin`.",
    ),
    Key::default(
        "promote_needs_test",
        Kind::Boolean,
        "false",
        "Whether a revision has to have passed `image test` before it can be made production.",
    ),
    Key::optional(
        "tests",
        Kind::Path,
        "only what vcld tests itself",
        "A directory of the site's own test scripts, which `image test` runs on both clones.",
    ),
];

const OVER: &str = "what [reservations] says";

/// `[group.NAME]`.
pub const GROUP: &[Key] = &[
    Key::optional("acknowledge", SPAN, OVER, "As in [reservations], for reservations of this group."),
    Key::optional("connect", SPAN, OVER, "As in [reservations]."),
    Key::optional("inactivity", SPAN, OVER, "As in [reservations]."),
    Key::optional("notices", Kind::Text, OVER, "As in [reservations]."),
    Key::optional("unwatched_from", SPAN, OVER, "As in [reservations]."),
    Key::optional("check", SPAN, OVER, "As in [reservations]."),
    Key::optional("ahead", SPAN, OVER, "As in [reservations]."),
    Key::optional("length", SPAN, OVER, "As in [reservations]."),
    Key::optional("longest", SPAN, OVER, "As in [reservations]."),
    Key::optional("at_once", COUNT, OVER, "How many computers a member may have at once."),
    Key::optional("hours_per_week", COUNT, OVER, "How many hours a member may have in seven days."),
    Key::optional("servers", Kind::Boolean, OVER, "Whether members may have computers as servers."),
    Key::optional(
        "group_at_once",
        COUNT,
        "no limit",
        "How many computers all members together may have at once.",
    ),
];

/// `[image.NAME]`.
pub const IMAGE: &[Key] = &[
    Key::optional("acknowledge", SPAN, OVER, "As in [reservations], for reservations of this image."),
    Key::optional("connect", SPAN, OVER, "As in [reservations]."),
    Key::optional("inactivity", SPAN, OVER, "As in [reservations]."),
    Key::optional("notices", Kind::Text, OVER, "As in [reservations]."),
    Key::optional("unwatched_from", SPAN, OVER, "As in [reservations]."),
    Key::optional("check", SPAN, OVER, "As in [reservations]."),
    Key::optional("ahead", SPAN, OVER, "As in [reservations]."),
    Key::optional("length", SPAN, OVER, "As in [reservations]."),
    Key::optional("longest", SPAN, OVER, "As in [reservations]."),
    Key::optional("methods", Kind::Text, OVER, "As in [reservations]."),
    Key::optional(
        "concurrent",
        COUNT,
        "no limit",
        "How many computers may hold it for somebody at once: as many as there are licences.",
    ),
    Key::optional(
        "warm",
        COUNT,
        "none",
        "How many computers are kept loaded with it and unassigned, so that a reservation is usable at once.",
    ),
    Key::optional(
        "warm_most",
        COUNT,
        "what `warm` says, whatever is asked for",
        "By demand so many of them at most: as many as were asked for at once in the past hour, or on average in this hour of the past four weeks, and `warm` at least.",
    ),
    crate::configure::manifest(
        "The manifest, or playbook, by which a computer is configured whenever this image is loaded on it, before anybody gets it.",
    ),
    Key::optional("warm_hours", Kind::Text, "always", "When they are kept, as in `Mon-Fri 8-18`."),
    Key::optional(
        "warm_on",
        Kind::Tags,
        "any computer",
        "They are taken from computers with all of these tags.",
    ),
];
