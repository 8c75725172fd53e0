//! Reservations.

use chrono::{DateTime, Days, Local, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use clap::{Args, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;
use vcl_types::{ByteSize, ComputerName, ImageRef, ManifestName, ReservationId};

/// A length such as `90m`, `4h`, `1h30m` or `2d`, in seconds.
pub(super) fn length(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no length of time; write it as in 90m, 4h, 1h30m or 2d");
    let mut total = 0u64;
    let mut digits = String::new();
    for c in text.trim().chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(bad()),
        };
        let count: u64 = digits.parse().map_err(|_| bad())?;
        total = count.checked_mul(unit).and_then(|s| total.checked_add(s)).ok_or_else(bad)?;
        digits.clear();
    }
    if total == 0 || !digits.is_empty() { Err(bad()) } else { Ok(total) }
}

/// A time such as `2026-11-24 10:00`, `10:00` (the next one), `+2h`, or RFC 3339; without a zone, of this machine.
pub(super) fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let bad = || {
        format!("`{text}` is no time; write it as in '2026-11-24 10:00', 10:00, +2h or 2026-11-24T10:00:00Z")
    };
    let text = text.trim();
    let local = |at: NaiveDateTime| {
        Local.from_local_datetime(&at).earliest().map(|at| at.with_timezone(&Utc)).ok_or_else(bad)
    };
    if let Some(rest) = text.strip_prefix('+') {
        let seconds = i64::try_from(length(rest)?).map_err(|_| bad())?;
        return Utc::now()
            .checked_add_signed(TimeDelta::try_seconds(seconds).ok_or_else(bad)?)
            .ok_or_else(bad);
    }
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.with_timezone(&Utc));
    }
    for form in ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d_%H:%M"] {
        if let Ok(at) = NaiveDateTime::parse_from_str(text, form) {
            return local(at);
        }
    }
    let time = NaiveTime::parse_from_str(text, "%H:%M").map_err(|_| bad())?;
    let now = Local::now().naive_local();
    let today = now.date().and_time(time);
    let day = if today > now { today } else { today.checked_add_days(Days::new(1)).ok_or_else(bad)? };
    local(day)
}

/// `gpu=1`, or `gpu`.
fn device(text: &str) -> Result<(String, u32), String> {
    let (name, count) = text.split_once('=').unwrap_or((text, "1"));
    match count.parse() {
        Ok(count) if !name.is_empty() && count > 0 => Ok((name.to_owned(), count)),
        _ => Err(format!("`{text}` is no device; write it as in gpu=1")),
    }
}

/// What is to be reserved.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct ReserveArguments {
    /// The image; without a revision the one in production, or else the newest.
    pub image: ImageRef,
    /// This computer and no other.
    #[arg(long, value_name = "COMPUTER")]
    pub on: Option<ComputerName>,
    /// A computer with this tag; several have to be there together.
    #[arg(short = 'l', long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// At least so many processors.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: Option<u32>,
    /// At least so much memory, as in 8G.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// At least so many of a device, as in gpu=1.
    #[arg(long = "device", value_name = "NAME=N", value_parser = device)]
    pub devices: Vec<(String, u32)>,
    /// When it begins: '2026-11-24 10:00', 10:00, +2h.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub start: Option<DateTime<Utc>>,
    /// How long it lasts: 90m, 4h, 2d.
    #[arg(long, value_name = "LENGTH", value_parser = length)]
    pub length: Option<u64>,
    /// A machine that runs for long: nobody has to be connected to it, and without --length it has no end.
    #[arg(long, conflicts_with = "imaging")]
    pub server: bool,
    /// To build an image on: at its end it is captured as the next revision.
    #[arg(long)]
    pub imaging: bool,
    /// For another user.
    #[arg(long = "for", value_name = "USER")]
    pub owner: Option<String>,
    /// The group whose times and limits it is to have.
    #[arg(long)]
    pub group: Option<String>,
    /// The address you will come from; nobody else's is let in.
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// Another user who gets an account on it.
    #[arg(long = "with", value_name = "USER")]
    pub with: Vec<String>,
    /// A file with an ssh public key that may log in, beside those that vcld knows of you.
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// Be able to become the machine's administrator.
    #[arg(long)]
    pub sudo: bool,
    /// A file that is put on the machine, at most 64 KiB.
    #[arg(long, value_name = "FILE")]
    pub user_data: Option<PathBuf>,
    /// The manifest, or playbook, of vcld's configuration by which it is configured before you get it.
    #[arg(long, value_name = "MANIFEST")]
    pub configure: Option<ManifestName>,
    /// Only say which computer it would be and why, or how long it would wait.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the reservation's number and leave.
    #[arg(long, conflicts_with = "dry_run")]
    pub detach: bool,
}

/// By how much.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("much").required(true)))]
pub struct ExtendArguments {
    /// The reservation's number.
    pub id: ReservationId,
    /// By so much beyond its present end: 90m, 4h, 2d.
    #[arg(long, value_name = "LENGTH", value_parser = length, group = "much")]
    pub by: Option<u64>,
    /// Until then: '2026-11-24 18:00', 18:00, +2h.
    #[arg(long, value_name = "TIME", value_parser = moment, group = "much")]
    pub until: Option<DateTime<Utc>>,
}

/// How to connect.
#[derive(Debug, Args)]
pub struct ConnectArguments {
    /// The reservation's number.
    pub id: ReservationId,
    /// The address you come from, if it is not this machine's.
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// Make a password and show it, once. It replaces one that was made before.
    #[arg(long)]
    pub password: bool,
    /// Write a file that remote desktop programs open.
    #[arg(long, value_name = "FILE")]
    pub rdp: Option<PathBuf>,
    /// Only say how to connect.
    #[arg(long, conflicts_with = "rdp")]
    pub print: bool,
    /// What ssh is given besides, as in `-- -L 8080:localhost:80`.
    #[arg(last = true, value_name = "SSH ARGUMENTS")]
    pub ssh: Vec<String>,
}

/// What can be wanted of reservations.
#[derive(Debug, Subcommand)]
pub enum ReservationVerb {
    /// List reservations.
    #[command(
        after_help = "Examples:\n  vclctl reservation list\n  vclctl reservation list --all --owner alice"
    )]
    List {
        /// Those that are over too.
        #[arg(long)]
        all: bool,
        /// Only this user's.
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show one of them.
    #[command(after_help = "Example: vclctl reservation show 12")]
    Show {
        /// Its number.
        id: ReservationId,
    },
    /// Load its computer anew, for the same user. Everything on it is lost.
    #[command(after_help = "Example: vclctl reservation reload 12 --yes")]
    Reload {
        /// Its number.
        id: ReservationId,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Start its computer anew.
    #[command(
        after_help = "Examples:\n  vclctl reservation reboot 12\n  vclctl reservation reboot 12 --hard  by its reset button"
    )]
    Reboot {
        /// Its number.
        id: ReservationId,
        /// Press its reset button, instead of asking its operating system.
        #[arg(long)]
        hard: bool,
    },
    /// Change who is let in on its computer.
    #[command(
        after_help = "Examples:\n  vclctl reservation access 12 --with bob --with carol   these two beside its owner\n  \
            vclctl reservation access 12 --alone                 nobody beside its owner\n  \
            vclctl reservation access 12 --key other.pub         another key of its owner's"
    )]
    #[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
    Access {
        /// Its number.
        id: ReservationId,
        /// Another user who has an account on it; those who are not named have none.
        #[arg(long = "with", value_name = "USER", group = "change")]
        with: Vec<String>,
        /// Nobody else has an account on it.
        #[arg(long, conflicts_with = "with", group = "change")]
        alone: bool,
        /// A file with an ssh public key that may log in, in place of those that were brought along before.
        #[arg(long = "key", value_name = "FILE", group = "change")]
        keys: Vec<PathBuf>,
    },
    /// Capture what is on its computer as the next revision of its image, and go on using it. The machine is shut down for it,
    /// and what its users have in their homes is lost: no image has people's accounts in it. Put what is to be in the image
    /// elsewhere, such as /opt, and what is yours on another machine.
    #[command(after_help = "Example: vclctl reservation checkpoint 12 --yes")]
    Checkpoint {
        /// Its number.
        id: ReservationId,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_times_are_written_as_people_write_them() {
        assert_eq!(length("1h30m").unwrap(), 5400);
        assert_eq!(length("2d").unwrap(), 172_800);
        for bad in ["", "h", "4", "4x", "0h", "99999999999999999999d"] {
            assert!(length(bad).unwrap_err().contains("1h30m"), "{bad}");
        }
        assert_eq!(moment("2026-11-24T10:00:00Z").unwrap().to_rfc3339(), "2026-11-24T10:00:00+00:00");
        let soon = moment("+2h").unwrap() - Utc::now();
        assert!((7100..=7200).contains(&soon.num_seconds()));
        assert!(moment("10:00").unwrap() > Utc::now());
        for bad in ["tomorrow", "25:00", "2026-13-01 10:00", "+", ""] {
            assert!(moment(bad).is_err(), "{bad}");
        }
        assert_eq!(device("gpu").unwrap(), ("gpu".to_owned(), 1));
        assert!(device("gpu=0").is_err());
    }
}
