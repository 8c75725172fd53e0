//! Reservations: asked for, waited for, connected to.

use crate::cli::{ConnectArguments, ExtendArguments, ReservationVerb, ReserveArguments};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::outage::Patience;
use crate::render::reservations;
use crate::screen::Screen;
use std::io::Write as _;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use vcl_types::api::StreamItem;
use vcl_types::lending::{
    AccessChange, Connect, Connection, Extend, Purpose, Release, ReservationRequest, ReservationView, Wish,
};
use vcl_types::state::reservation::State;
use vcl_types::{JobId, ReservationId};

/// How long nothing may be heard of a reservation before it is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long to wait at least between two looks: first so long, then that much longer each time, up to the pace.
const EAGER: Duration = Duration::from_millis(100);
const PACE: Duration = Duration::from_secs(1);

fn unreadable(path: &std::path::Path) -> impl Fn(std::io::Error) -> Error + use<'_> {
    move |cause| Error::caused(ErrorKind::Local, format!("cannot read {}", path.display()), cause)
}

fn read_keys(paths: &[std::path::PathBuf]) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path).map_err(unreadable(path))?;
        keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    Ok(keys)
}

fn request(asked: &ReserveArguments) -> Result<ReservationRequest> {
    let keys = read_keys(&asked.keys)?;
    let user_data = match &asked.user_data {
        Some(path) => Some(std::fs::read_to_string(path).map_err(unreadable(path))?),
        None => None,
    };
    Ok(ReservationRequest {
        image: asked.image.clone(),
        wish: Wish {
            computer: asked.on.clone(),
            cpus: asked.cpus,
            memory: asked.memory,
            tags: asked.tags.clone(),
            any_of: Vec::new(),
            devices: asked.devices.iter().cloned().collect(),
        },
        purpose: match (asked.server, asked.imaging) {
            (true, _) => Purpose::Server,
            (_, true) => Purpose::Imaging,
            _ => Purpose::Use,
        },
        start: asked.start,
        length_s: asked.length,
        owner: asked.owner.clone(),
        group: asked.group.clone(),
        from: asked.from,
        with: asked.with.clone(),
        keys,
        sudo: asked.sudo,
        user_data,
        configure: asked.configure.clone(),
        dry_run: asked.dry_run,
    })
}

/// `reserve`.
pub(super) async fn reserve(asked: ReserveArguments, client: &Client, screen: &mut Screen) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|cause| Error::caused(ErrorKind::Local, "cannot listen for Ctrl-C", cause))?;
    let grabbed = client.reserve(&request(&asked)?).await?;
    let Some(view) = &grabbed.reservation else {
        return screen.answer(&grabbed, reservations::tried);
    };
    let id = view.id;
    if asked.detach {
        return screen.answer(view, |view, _| view.id.to_string());
    }
    if view.state == State::Scheduled {
        return screen.answer(view, |view, clock| {
            let start = view.start.map(|at| clock.full(at)).unwrap_or_default();
            let kept = view.booked.as_ref().map(|c| format!("; {c} is kept for it")).unwrap_or_default();
            format!("reservation {id} begins at {start}{kept}")
        });
    }
    let waited = tokio::select! {
        waited = until_usable(id, client, screen) => Some(waited?),
        _ = interrupt.recv() => None,
    };
    let Some(view) = waited else {
        screen.say(&format!("detached: reservation {id} goes on; vclctl reservation show {id}"));
        return if screen.json { screen.print_json(&client.reservation(id).await?) } else { Ok(()) };
    };
    screen.answer(&view, |view, clock| {
        let on = view.computer.as_ref().map(ToString::to_string).unwrap_or_default();
        let ends = view.end.map(|at| format!(", until {}", clock.full(at))).unwrap_or_default();
        format!("reservation {id}: {} is ready on {on}{ends}\nconnect: vclctl connect {id}", view.image)
    })
}

/// Waits until a reservation can be used, and tells what happens.
async fn until_usable(id: ReservationId, client: &Client, screen: &mut Screen) -> Result<ReservationView> {
    let (mut stream, mut newest) = (None, JobId(0));
    let mut told = String::new();
    for looks in 1.. {
        // Opened before the look: nothing happens between the two that nobody hears of.
        if stream.is_none() {
            stream = client.stream(None, None).await.ok();
        }
        let looked = Instant::now();
        let view = client.reservation(id).await?;
        let mut over = false;
        match view.state {
            State::Ready | State::InUse => return Ok(view),
            State::Ending | State::Ended => {
                let why = view.ended_because.unwrap_or_else(|| "it has ended".into());
                return Err(Error::new(ErrorKind::Job, format!("reservation {id} cannot be used: {why}")));
            }
            State::Loading => {
                if let Some(job) = view.job {
                    let mut display = screen.display(job);
                    let follower =
                        crate::follow::Follower::new(client, job, display.as_mut(), Patience::default());
                    let _ = follower.run().await?;
                    over = true;
                }
            }
            State::Scheduled | State::Queued => {
                let line = view.waiting.as_ref().map_or_else(|| "it waits".into(), reservations::waiting);
                if line != told {
                    screen.say(&format!("reservation {id} is {line}"));
                    told = line;
                }
            }
        }
        // Something happens to it, or nobody tells.
        while !over {
            let heard = async {
                match &mut stream {
                    Some(stream) => stream.next().await,
                    None => std::future::pending().await,
                }
            };
            match tokio::time::timeout_at(looked + LOOK, heard).await {
                Ok(Ok(Some(item))) => over = concerns(&item, &view, &mut newest),
                Ok(Err(_) | Ok(None)) => stream = None,
                Err(_) => over = true,
            }
        }
        // A site at which much happens is not asked more often than a quiet one.
        tokio::time::sleep_until(looked + EAGER.saturating_mul(looks).min(PACE)).await;
    }
    Err(Error::new(
        ErrorKind::Job,
        format!("reservation {id} is not usable yet; vclctl reservation show {id}"),
    ))
}

/// Whether what has happened may have changed this reservation. While no job works for it each new one may be its; `newest` is
/// the newest that was heard of.
fn concerns(item: &StreamItem, view: &ReservationView, newest: &mut JobId) -> bool {
    let job = match item {
        StreamItem::Missed => return true,
        StreamItem::Progress { .. } => return false,
        StreamItem::Changed { job } => Some(*job),
        StreamItem::Event(event) => {
            let own = event.computer.is_some() && event.computer == view.computer;
            if own || event.kind.starts_with("reservation-") {
                return true;
            }
            event.job
        }
    };
    let Some(job) = job else { return false };
    let new = job > *newest;
    *newest = job.max(*newest);
    view.job == Some(job) || (view.job.is_none() && new)
}

/// `extend`.
pub(super) async fn extend(asked: ExtendArguments, client: &Client, screen: &mut Screen) -> Result<()> {
    let wish = Extend { by_s: asked.by, until: asked.until };
    screen.answer(&client.extend(asked.id, &wish).await?, |view, clock| match view.end {
        Some(end) => format!("reservation {} lasts until {}", view.id, clock.full(end)),
        None => format!("reservation {} has no end", view.id),
    })
}

/// `release`.
pub(super) async fn release(
    id: ReservationId,
    discard: bool,
    client: &Client,
    screen: &mut Screen,
) -> Result<()> {
    screen.answer(&client.release(id, &Release { discard }).await?, |view, _| match (view.state, view.job) {
        (State::Ended, _) => format!("reservation {id} is over"),
        (_, Some(job)) => {
            format!("reservation {id} ends; its computer is taken back: vclctl job watch {job}")
        }
        _ => format!("reservation {id} ends"),
    })
}

/// `connect`.
pub(super) async fn connect(asked: ConnectArguments, client: &Client, screen: &mut Screen) -> Result<()> {
    let wish = Connect { from: asked.from, password: asked.password };
    let connection = client.connect(asked.id, &wish).await?;
    if let Some(path) = &asked.rdp {
        let Some(text) = connection.rdp() else {
            let ways: Vec<&str> = connection.methods.iter().map(|way| way.method.as_str()).collect();
            let message = format!("reservation {} has no remote desktop, but: {}", asked.id, ways.join(", "));
            return Err(Error::new(ErrorKind::Refused, message));
        };
        let unwritable =
            |cause| Error::caused(ErrorKind::Local, format!("cannot write {}", path.display()), cause);
        std::fs::write(path, text).map_err(unwritable)?;
        return screen.answer(&connection, |c, clock| {
            format!("{} is written\n{}", path.display(), reservations::connection(c, clock))
        });
    }
    let ssh = connection.methods.iter().find(|way| way.method == "ssh").map(|way| way.port);
    match ssh {
        Some(port) if !asked.print && !asked.password && !screen.json => {
            open_ssh(&connection, port, &asked.ssh)
        }
        _ => screen.answer(&connection, reservations::connection),
    }
}

/// Runs an ssh that knows the machine's host keys and no others, and ends as it does.
fn open_ssh(connection: &Connection, port: u16, more: &[String]) -> Result<()> {
    let local = |what: &'static str| move |cause| Error::caused(ErrorKind::Local, what, cause);
    let mut known = tempfile::Builder::new()
        .prefix("vclctl-known-hosts-")
        .tempfile()
        .map_err(local("cannot make a file for the host keys"))?;
    for line in &connection.host_keys {
        writeln!(known, "{line}").map_err(local("cannot write the host keys"))?;
    }
    let strict = if connection.host_keys.is_empty() { "accept-new" } else { "yes" };
    let mut ssh = std::process::Command::new("ssh");
    ssh.arg("-p").arg(port.to_string());
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known.path().display()));
    ssh.arg("-o").arg(format!("StrictHostKeyChecking={strict}"));
    ssh.arg("-l").arg(&connection.account).args(more).arg(connection.address.to_string());
    let ended = ssh.status().map_err(local("cannot run ssh"))?;
    match ended.code() {
        Some(0) => Ok(()),
        _ => Err(Error::new(ErrorKind::Job, format!("ssh ended with {ended}"))),
    }
}

/// What is wanted of reservations.
pub(super) async fn run(verb: ReservationVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        ReservationVerb::List { all, owner, limit } => {
            let list = client.reservations(owner.as_deref(), all, limit).await?;
            screen.answer(&list, |list, clock| reservations::list(list, clock))
        }
        ReservationVerb::Show { id } => screen.answer(&client.reservation(id).await?, reservations::one),
        ReservationVerb::Reload { id, yes } => {
            let view = client.reservation(id).await?;
            let on = view.computer.map(|c| c.to_string()).unwrap_or_default();
            if !yes && !screen.ask(&format!("Load {on} anew? Everything on it is lost."))? {
                return screen.print("nothing was done");
            }
            let job = client.reload(id).await?.job;
            super::jobs::watch(client, screen, job, interrupt()?, Patience::default()).await
        }
        ReservationVerb::Reboot { id, hard } => screen.answer(&client.reboot(id, hard).await?, |view, _| {
            let on = view.computer.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{on} starts anew")
        }),
        ReservationVerb::Access { id, with, alone, keys } => {
            let with = (alone || !with.is_empty()).then_some(with);
            let keys = if keys.is_empty() { None } else { Some(read_keys(&keys)?) };
            let change = AccessChange { with, keys };
            screen.answer(&client.change_access(id, &change).await?, reservations::one)
        }
        ReservationVerb::Checkpoint { id, yes } => {
            let view = client.reservation(id).await?;
            let on = view.computer.map(|c| c.to_string()).unwrap_or_default();
            let question = format!(
                "Capture {on}? It is shut down and started again, and its users' accounts are made anew: what is in their \
                 homes is lost."
            );
            if !yes && !screen.ask(&question)? {
                return screen.print("nothing was done");
            }
            let job = client.checkpoint(id).await?.job;
            super::jobs::watch(client, screen, job, interrupt()?, Patience::default()).await
        }
    }
}

fn interrupt() -> Result<tokio::signal::unix::Signal> {
    signal(SignalKind::interrupt())
        .map_err(|cause| Error::caused(ErrorKind::Local, "cannot listen for Ctrl-C", cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_happens_to_others_is_no_reason_to_look() {
        let mut view: ReservationView = serde_json::from_value(json!({
            "id": 7, "owner": "alice", "group": null, "purpose": "use", "class": null, "computer": null,
            "booked": null, "image": "gis", "state": "queued",
            "since": "2026-11-23T08:00:00Z", "start": null, "end": null, "length_s": null, "usable": null,
            "acknowledged": null, "connected": null, "seen": null, "from": null, "waiting": null, "job": null,
            "connect": [], "ended": null, "ended_because": null,
        }))
        .unwrap();
        let changed = |job| StreamItem::Changed { job: JobId(job) };
        let event = |kind: &str, job: Option<i64>, computer: Option<&str>| {
            let event = json!({
                "type": "event", "id": 1, "at": "2026-11-23T08:00:00Z", "kind": kind, "job": job, "computer": computer,
                "message": "",
            });
            serde_json::from_value::<StreamItem>(event).unwrap()
        };
        let mut newest = JobId(0);
        // It waits: a job that is new may be its, once.
        let mut heard = Vec::new();
        for item in [changed(3), changed(3), changed(2), event("job-failed", Some(3), None), changed(4)] {
            heard.push(concerns(&item, &view, &mut newest));
        }
        assert_eq!(heard, [true, false, false, false, true]);
        assert!(concerns(&event("reservation-ended", None, None), &view, &mut newest));
        assert!(!concerns(&event("host-drained", None, Some("c1")), &view, &mut newest));
        // A job works for it: others are others'.
        (view.job, view.computer) = (Some(JobId(4)), Some("c1".parse().unwrap()));
        assert!(concerns(&changed(4), &view, &mut newest) && !concerns(&changed(9), &view, &mut newest));
        assert!(concerns(&event("power-lost", None, Some("c1")), &view, &mut newest));
        assert!(concerns(&StreamItem::Missed, &view, &mut newest));
    }
}
