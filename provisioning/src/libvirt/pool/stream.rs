//! Bytes to and from volumes, over libvirt's streams. Blocking: for the threads of the connection.

use super::super::connection::{Broken, Pulse};
use super::{Pool, find, header};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use vcl_types::Digest;
use virt::connect::Connect;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;
use virt::sys;

/// What goes over at once: libvirt's own limit for a packet.
const PIECE: usize = 256 * 1024 - 1024;
/// How much is confirmed at once: what was confirmed need not be sent again after a cut.
const SEGMENT: u64 = 64 << 20;

/// A file as it is sent: its own bytes, but another name of its backing file where it has one.
#[derive(Debug)]
pub(in super::super) struct Source {
    file: File,
    first: Vec<u8>,
    pub(in super::super) length: u64,
}

impl Source {
    /// Opens it. With `over` its header says that it lies on that path.
    pub(in super::super) fn open(path: &Path, over: Option<&str>) -> Result<Self, Broken> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut first = Vec::new();
        if let Some(over) = over {
            first = vec![0; usize::try_from(length).map_or(header::FIRST, |l| l.min(header::FIRST))];
            file.read_exact_at(&mut first, 0)?;
            header::retarget(&mut first, over).map_err(Broken::Wrong)?;
        }
        Ok(Self { file, first, length })
    }

    fn read(&self, at: u64, piece: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact_at(piece, at)?;
        if let Some(changed) = usize::try_from(at).ok().and_then(|at| self.first.get(at..)) {
            let n = changed.len().min(piece.len());
            piece[..n].copy_from_slice(&changed[..n]);
        }
        Ok(())
    }

    /// The digests of the file as it lies here, and as it is sent.
    pub(in super::super) fn digests(&self, stopped: impl Fn() -> bool) -> Result<(Digest, Digest), Broken> {
        let (mut here, mut there, mut at) = (Sha256::new(), Sha256::new(), 0);
        let mut piece = vec![0; 1 << 20];
        while at < self.length {
            if stopped() {
                return Err(Broken::Stopped);
            }
            let n = usize::try_from(self.length - at).map_or(piece.len(), |left| left.min(piece.len()));
            let piece = &mut piece[..n];
            self.file.read_exact_at(piece, at)?;
            here.update(&*piece);
            // Beyond the header both are the same; before it they are read apart.
            if !self.first.is_empty() {
                self.read(at, piece)?;
                there.update(&*piece);
            }
            at += n as u64;
        }
        let here = Digest::from_bytes(here.finalize().into());
        let there =
            if self.first.is_empty() { here.clone() } else { Digest::from_bytes(there.finalize().into()) };
        Ok((here, there))
    }
}

/// Sends a file into a volume, from where `confirmed` says that an earlier call got to.
pub(in super::super) fn send(
    c: &Connect,
    pool: &Pool,
    name: &str,
    source: &Source,
    confirmed: &AtomicU64,
    pulse: &Pulse,
) -> Result<(), Broken> {
    let volume = find(&pool.open(c)?, name)?;
    let mut piece = vec![0; PIECE];
    let mut at = confirmed.load(Ordering::Relaxed);
    pulse.beat(at)?;
    while at < source.length {
        let end = source.length.min(at + SEGMENT);
        let stream = Stream::new(c, 0)?;
        volume.upload(&stream, at, end - at, 0)?;
        let sent = flow_out(&stream, source, at..end, &mut piece, pulse);
        match sent {
            // The host has it only when it says so.
            Ok(()) => stream.finish()?,
            Err(e) => {
                let _ = stream.abort();
                return Err(e);
            }
        }
        at = end;
        confirmed.store(at, Ordering::Relaxed);
    }
    Ok(())
}

fn flow_out(
    stream: &Stream,
    source: &Source,
    range: std::ops::Range<u64>,
    piece: &mut [u8],
    pulse: &Pulse,
) -> Result<(), Broken> {
    let mut at = range.start;
    while at < range.end {
        let n = usize::try_from(range.end - at).map_or(piece.len(), |left| left.min(piece.len()));
        source.read(at, &mut piece[..n])?;
        let mut left = &piece[..n];
        while !left.is_empty() {
            let sent = usize::try_from(stream.send(left)?).unwrap_or(0).min(left.len());
            left = &left[sent..];
            pulse.beat(sent as u64)?;
        }
        at += n as u64;
    }
    Ok(())
}

/// What comes out of a stream.
enum Piece {
    Data(usize),
    Hole(u64),
    End,
}

/// The next bytes, or how long the hole is that comes next. The binding knows no holes.
#[expect(unsafe_code, reason = "holes of a stream are not in the binding")]
fn next(stream: &Stream, buffer: &mut [u8]) -> Result<Piece, Broken> {
    const AT_HOLE: i32 = -3;
    // SAFETY: the stream lives as long as it is borrowed, and the buffer is as long as is said.
    let n = unsafe {
        sys::virStreamRecvFlags(
            stream.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            sys::VIR_STREAM_RECV_STOP_AT_HOLE,
        )
    };
    match usize::try_from(n) {
        Ok(0) => Ok(Piece::End),
        Ok(n) if n <= buffer.len() => Ok(Piece::Data(n)),
        Err(_) if n == AT_HOLE => {
            let mut length = 0;
            // SAFETY: as above; the length is written before the call returns.
            let done = unsafe { sys::virStreamRecvHole(stream.as_ptr(), &raw mut length, 0) };
            match u64::try_from(length) {
                Ok(length) if done >= 0 => Ok(Piece::Hole(length)),
                _ => Err(virt::error::Error::last_error().into()),
            }
        }
        _ => Err(virt::error::Error::last_error().into()),
    }
}

/// Takes a hole in parts, so that a long one is seen to move and can be left. Answers where it ends.
fn through(
    mut at: u64,
    hole: u64,
    pulse: &Pulse,
    mut take: impl FnMut(u64, Result<&[u8], u64>) -> Result<(), Broken>,
) -> Result<u64, Broken> {
    let end = at.checked_add(hole).ok_or_else(|| Broken::Wrong("it never ends".into()))?;
    while at < end {
        let part = (end - at).min(SEGMENT);
        take(at, Err(part))?;
        at += part;
        pulse.beat(part)?;
    }
    Ok(end)
}

/// Reads a volume's file through, holes as holes, and hands each piece on with its place.
fn flow_in(
    c: &Connect,
    volume: &StorageVol,
    pulse: &Pulse,
    mut take: impl FnMut(u64, Result<&[u8], u64>) -> Result<(), Broken>,
) -> Result<u64, Broken> {
    let stream = Stream::new(c, 0)?;
    volume.download(&stream, 0, 0, sys::VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)?;
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    let mut flow = || -> Result<u64, Broken> {
        loop {
            match next(&stream, &mut buffer)? {
                Piece::End => return Ok(at),
                Piece::Data(n) => {
                    take(at, Ok(&buffer[..n]))?;
                    at += n as u64;
                    pulse.beat(n as u64)?;
                }
                Piece::Hole(n) => at = through(at, n, pulse, &mut take)?,
            }
        }
    };
    match flow() {
        Ok(length) => {
            stream.finish()?;
            Ok(length)
        }
        Err(e) => {
            let _ = stream.abort();
            Err(e)
        }
    }
}

/// The digest of what a volume's file holds on the host.
pub(in super::super) fn read_back(
    c: &Connect,
    pool: &Pool,
    name: &str,
    pulse: &Pulse,
) -> Result<(Digest, u64), Broken> {
    let volume = find(&pool.open(c)?, name)?;
    let mut hash = Sha256::new();
    let zeros = vec![0; 1 << 20];
    let length = flow_in(c, &volume, pulse, |_, piece| {
        match piece {
            Ok(bytes) => hash.update(bytes),
            Err(mut hole) => {
                while hole > 0 {
                    let n = usize::try_from(hole).map_or(zeros.len(), |hole| hole.min(zeros.len()));
                    hash.update(&zeros[..n]);
                    hole -= n as u64;
                }
            }
        }
        Ok(())
    })?;
    Ok((Digest::from_bytes(hash.finalize().into()), length))
}

/// Receives a volume, which must not be longer than `longest`, into a new file; holes stay holes. Says how long it is and
/// how much of it is data.
pub(in super::super) fn receive(
    c: &Connect,
    path: &str,
    to: &Path,
    longest: u64,
    pulse: &Pulse,
) -> Result<(u64, u64), Broken> {
    let volume = c.lookup_storage_vol_by_path(path)?;
    let mut file = File::create(to)?;
    let mut data = 0;
    let length = flow_in(c, &volume, pulse, |at, piece| {
        let n = piece.map_or_else(|hole| hole, |bytes| bytes.len() as u64);
        if at.saturating_add(n) > longest {
            return Err(Broken::Wrong(format!("it is longer than {longest} bytes")));
        }
        if let Ok(bytes) = piece {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(bytes)?;
            data += n;
        }
        Ok(())
    })?;
    file.set_len(length)?;
    Ok((length, data))
}

/// A few bytes of a volume.
pub(super) fn read(
    c: &Connect,
    volume: &StorageVol,
    from: u64,
    length: u64,
) -> Result<Vec<u8>, virt::error::Error> {
    let mut bytes = Vec::new();
    if length == 0 {
        return Ok(bytes);
    }
    let stream = Stream::new(c, 0)?;
    volume.download(&stream, from, length, 0)?;
    let mut buffer = vec![0; PIECE];
    while (bytes.len() as u64) < length {
        let n = usize::try_from(stream.recv(&mut buffer)?).unwrap_or(0);
        if n == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..n]);
    }
    // A console grows while it is read; what was asked for is here.
    let _ = stream.finish();
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_hole_is_taken_in_parts() {
        let (pulse, mut parts) = (Pulse::default(), Vec::new());
        let take = |at, hole: Result<&[u8], u64>| {
            parts.push((at, hole.unwrap_err()));
            Ok(())
        };
        assert_eq!(through(7, SEGMENT + 5, &pulse, take).unwrap(), SEGMENT + 12);
        assert_eq!(parts, [(7, SEGMENT), (SEGMENT + 7, 5)]);
        assert!(through(1, u64::MAX, &pulse, |_, _| Ok(())).is_err());
    }
}
