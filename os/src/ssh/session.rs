//! What a connection's thread does: handshake, host key, login, and commands one at a time. All of it blocks.

use super::key::{self, SshKey, fingerprint};
use crate::{Command, Error, ErrorKind, Output, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use ssh2::{BlockDirections, Channel, ErrorCode, MethodType, Session};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use vcl_types::{Endpoint, HostKey};

/// libssh2's numbers for what we tell apart.
mod code {
    pub(super) const TIMED_OUT: [i32; 2] = [-9, -30];
    pub(super) const LOGIN_REFUSED: [i32; 2] = [-18, -19];
    pub(super) const KEY_UNREADABLE: [i32; 2] = [-16, -17];
    pub(super) const REQUEST_DENIED: [i32; 2] = [-22, -32];
}

fn number(error: &ssh2::Error) -> i32 {
    match error.code() {
        ErrorCode::Session(n) | ErrorCode::SFTP(n) => n,
    }
}

/// What is left, as libssh2 takes it; 0 would be for ever.
fn left(until: Instant) -> u32 {
    let left = until.saturating_duration_since(Instant::now()).as_millis();
    u32::try_from(left).unwrap_or(u32::MAX).max(1)
}

/// A failed command, and whether the guest may have begun it.
pub(super) struct Failed {
    pub(super) sent: bool,
    pub(super) error: Error,
}

/// Handshake, host key check and login.
pub(super) fn open(
    stream: &TcpStream,
    to: &Endpoint,
    ours: &SshKey,
    until: Instant,
) -> Result<(Session, HostKey)> {
    let local = |e: ssh2::Error| Error::caused(ErrorKind::Local, "setting up libssh2", e);
    let clone = stream.try_clone().map_err(|e| Error::caused(ErrorKind::Local, "setting up a socket", e))?;
    let mut session = Session::new().map_err(local)?;
    session.set_tcp_stream(clone);
    session.set_timeout(left(until));
    session.method_pref(MethodType::HostKey, &wanted_keys(&to.host_keys.keys)).map_err(local)?;
    session.handshake().map_err(|e| {
        let n = number(&e);
        let (kind, what) = if code::TIMED_OUT.contains(&n) {
            (ErrorKind::Deadline, "greets and then does not finish the ssh handshake in time")
        } else {
            (
                ErrorKind::Handshake,
                "broke off the ssh handshake; a very old server has no algorithm in common with us",
            )
        };
        Error::caused(kind, format!("{to} {what}"), e)
    })?;
    let shown = session.host_key().and_then(|(bytes, _)| key::from_wire(bytes)).ok_or_else(|| {
        Error::new(ErrorKind::Handshake, format!("{to} showed no host key that can be read"))
    })?;
    if !accepts(to, &shown) {
        return Err(changed(to, &shown));
    }
    session.set_timeout(left(until));
    session.userauth_pubkey_memory(&to.user, None, ours.private(), None).map_err(|e| {
        let n = number(&e);
        // libssh2 gives a connection that is lost, or says nothing, in the middle of a login the number of a refusal.
        let cut = e.message().starts_with("Waiting for");
        if code::LOGIN_REFUSED.contains(&n) && !cut {
            let (print, how) = (ours.fingerprint(), ours.how_to_add(&to.user, to.address, to.port));
            let context = format!("{to} refused our key {print}; add it: {how}");
            Error::caused(ErrorKind::LoginRefused, context, e)
        } else if code::KEY_UNREADABLE.contains(&n) {
            let context = format!("our own key {} cannot be used to log in to {to}", ours.fingerprint());
            Error::caused(ErrorKind::Local, context, e)
        } else if code::TIMED_OUT.contains(&n) || (cut && Instant::now() >= until) {
            Error::caused(ErrorKind::Deadline, format!("{to} does not finish the login in time"), e)
        } else {
            Error::caused(ErrorKind::Lost, format!("{to} broke off while we logged in"), e)
        }
    })?;
    Ok((session, shown))
}

/// Whether a server that shows this key is the one that is meant.
pub(super) fn accepts(to: &Endpoint, shown: &HostKey) -> bool {
    let same = |k: &HostKey| {
        k.algorithm == shown.algorithm && k.key.trim_end_matches('=') == shown.key.trim_end_matches('=')
    };
    to.host_keys.keys.is_empty() || to.host_keys.keys.iter().any(same)
}

/// The algorithms to ask for, those of the pinned keys first: a server that has one of them then shows that one. The
/// others stay in the list, so that a machine with other keys can be told from one that cannot be talked to.
fn wanted_keys(pinned: &[HostKey]) -> String {
    const ALL: [(&str, &str); 5] = [
        ("ssh-ed25519", "ssh-ed25519"),
        ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
        ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
        ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
        ("ssh-rsa", "rsa-sha2-512,rsa-sha2-256"),
    ];
    let is_pinned = |name: &str| pinned.iter().any(|k| k.algorithm == name);
    let first = ALL.iter().filter(|(name, _)| is_pinned(name));
    let rest = ALL.iter().filter(|(name, _)| !is_pinned(name));
    first.chain(rest).map(|(_, methods)| *methods).collect::<Vec<_>>().join(",")
}

fn changed(to: &Endpoint, shown: &HostKey) -> Error {
    let show = |k: &HostKey| format!("{} {}", k.algorithm, fingerprint(k));
    let pinned: Vec<_> = to.host_keys.keys.iter().map(show).collect();
    let context = format!(
        "{to} showed the host key {}, and is pinned to {}: another machine answers at that address, or this one was \
         given new keys. Nothing was sent to it; a load pins the new ones",
        show(shown),
        pinned.join(", ")
    );
    Error::new(ErrorKind::HostKeyChanged, context)
}

/// How long a server may take to begin with a command, before the connection counts as broken.
const OPEN: Duration = Duration::from_secs(20);

/// Runs one command to its end.
pub(super) fn run(
    session: &Session,
    stream: &TcpStream,
    to: &Endpoint,
    command: &Command,
    until: Instant,
) -> Result<Output, Failed> {
    let failed = |sent: bool, e: ssh2::Error| {
        let n = number(&e);
        let (kind, context) = if code::TIMED_OUT.contains(&n) {
            (ErrorKind::Deadline, format!("{to} did not answer in time"))
        } else if code::REQUEST_DENIED.contains(&n) {
            (ErrorKind::CommandFailed, format!("{to} lets us in and refuses to run commands for us"))
        } else {
            (ErrorKind::Lost, format!("the connection to {to} broke"))
        };
        Failed { sent, error: Error::caused(kind, context, e) }
    };
    session.set_blocking(true);
    // A machine that was cut off while nobody used the connection answers nothing at all. Better to find out soon.
    session.set_timeout(left(until.min(Instant::now() + OPEN)));
    let mut channel = session.channel_session().map_err(|e| {
        let mut failed = failed(false, e);
        if failed.error.kind == ErrorKind::Deadline && Instant::now() < until {
            failed.error = failed.error.of_kind(ErrorKind::Lost);
        }
        failed
    })?;
    session.set_timeout(left(until));
    channel.exec(&command.line).map_err(|e| failed(true, e))?;
    session.set_blocking(false);
    let mut output = Output::default();
    exchange(session, stream, &mut channel, command, &mut output, until).map_err(|e| {
        let (kind, context) = if e.kind() == io::ErrorKind::TimedOut {
            (ErrorKind::Deadline, format!("the command took longer than {:?} on {to}", command.limit))
        } else {
            (ErrorKind::Lost, format!("the connection to {to} broke while a command ran"))
        };
        Failed { sent: true, error: Error::caused(kind, context, e) }
    })?;
    session.set_blocking(true);
    session.set_timeout(left(until));
    channel.wait_eof().map_err(|e| failed(true, e))?;
    channel.wait_close().map_err(|e| failed(true, e))?;
    let signal = channel.exit_signal().map_err(|e| failed(true, e))?.exit_signal;
    output.status = match signal {
        Some(name) => 128 + signal_number(&name),
        None => channel.exit_status().map_err(|e| failed(true, e))?,
    };
    Ok(output)
}

/// Writes the input and reads both outputs at the same time, until the other side has no more to say.
fn exchange(
    session: &Session,
    stream: &TcpStream,
    channel: &mut Channel,
    command: &Command,
    output: &mut Output,
    until: Instant,
) -> io::Result<()> {
    let mut stderr = channel.stderr();
    let mut buffer = vec![0; 64 * 1024];
    let mut input = &command.input[..];
    let mut writing = true;
    loop {
        let (mut moved, mut blocked_out) = (false, false);
        if writing {
            match send(channel, &mut input) {
                Ok(Sent::All) => (writing, moved) = (false, true),
                Ok(Sent::Some) => moved = true,
                // A full window opens when the guest reads; only a full socket is worth waiting for.
                Ok(Sent::Nothing) => blocked_out = channel.write_window().remaining > 0,
                // A program may end without reading its input. If the connection broke, reading will say so.
                Err(_) => writing = false,
            }
        }
        moved |= receive(channel, &mut buffer, &mut output.stdout, command.keep)?;
        moved |= receive(&mut stderr, &mut buffer, &mut output.stderr, command.keep)?;
        if channel.eof() && !moved {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !moved {
            wait(session, stream, blocked_out, until)?;
        }
    }
}

enum Sent {
    All,
    Some,
    Nothing,
}

fn send(channel: &mut Channel, input: &mut &[u8]) -> io::Result<Sent> {
    let sent = if input.is_empty() {
        channel.send_eof().map(|()| Sent::All).map_err(io::Error::from)
    } else {
        channel.write(input).map(|n| {
            *input = &input[n..];
            if n > 0 { Sent::Some } else { Sent::Nothing }
        })
    };
    match sent {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Nothing),
        sent => sent,
    }
}

/// Reads a piece; what is more than `keep` is dropped.
fn receive(from: &mut impl Read, buffer: &mut [u8], into: &mut Vec<u8>, keep: usize) -> io::Result<bool> {
    match from.read(buffer) {
        Ok(n) => {
            let room = keep.saturating_sub(into.len());
            into.extend_from_slice(&buffer[..n.min(room)]);
            Ok(n > 0)
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// Waits until the socket can do what is wanted. Shutting it down from another thread ends the wait.
fn wait(session: &Session, stream: &TcpStream, blocked_out: bool, until: Instant) -> io::Result<()> {
    let mut events = PollFlags::IN;
    let outbound = matches!(session.block_directions(), BlockDirections::Outbound | BlockDirections::Both);
    if blocked_out || outbound {
        events |= PollFlags::OUT;
    }
    let longest = Duration::from_secs(1);
    let time = until.saturating_duration_since(Instant::now()).min(longest);
    let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    match rustix::event::poll(&mut [PollFd::new(stream, events)], Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn signal_number(name: &str) -> i32 {
    match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "ABRT" => 6,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        _ => 127,
    }
}
