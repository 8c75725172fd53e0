//! A connection that takes time: what comes is passed on, in order, a while after it came. How much may be under way is not
//! limited, so it delays and does not throttle.
//!
//! By threads that sleep, whose clock is finer than the milliseconds of tokio's timers.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// A relay, which takes no new connections when this goes.
pub(super) struct Relay {
    at: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Relay {
    /// Listens at an address, and passes on what comes to another, and back, each way after a delay.
    pub(super) fn start(at: SocketAddr, to: SocketAddr, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind(at).with_context(|| format!("failed to listen on {at}"))?;
        let at = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        thread::spawn(move || {
            for near in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                if let Err(error) = near.and_then(|near| connect(near, to, delay)) {
                    eprintln!("the relay to {to}: {error}");
                }
            }
        });
        Ok(Self { at, over })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // It looks when somebody comes.
        let _ = TcpStream::connect(self.at);
    }
}

fn connect(near: TcpStream, to: SocketAddr, delay: Duration) -> std::io::Result<()> {
    let far = TcpStream::connect(to)?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    carry(near.try_clone()?, far.try_clone()?, delay);
    carry(far, near, delay);
    Ok(())
}

/// One way of a connection, its end included.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, chunks) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (due, bytes) in chunks {
            thread::sleep(due.saturating_duration_since(Instant::now())); // why: it is what the relay is for
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            // What has failed has ended.
            let read = from.read(&mut buffer).unwrap_or(0);
            let sent = sender.send((Instant::now() + delay, buffer[..read].to_vec()));
            if read == 0 || sent.is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_takes_its_time_and_nothing_is_lost() -> Result<()> {
        let delay = Duration::from_millis(20);
        let far = TcpListener::bind("127.0.0.1:0")?;
        let relay = Relay::start("127.0.0.1:0".parse()?, far.local_addr()?, delay)?;
        let echo = thread::spawn(move || -> std::io::Result<u64> {
            let (mut stream, _) = far.accept()?;
            let mut back = stream.try_clone()?;
            let copied = std::io::copy(&mut stream, &mut back)?;
            back.shutdown(Shutdown::Write)?;
            Ok(copied)
        });
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_be_bytes()[3]).collect();
        let begun = Instant::now();
        let mut stream = TcpStream::connect(relay.at)?;
        let mut writer = stream.try_clone()?;
        let bytes = sent.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&bytes)?;
            writer.shutdown(Shutdown::Write)
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received)?;
        assert!(begun.elapsed() >= 2 * delay, "{:?}", begun.elapsed());
        assert_eq!(received, sent);
        assert!(writing.join().is_ok_and(|written| written.is_ok()));
        assert!(echo.join().is_ok_and(|copied| copied.is_ok_and(|copied| copied == sent.len() as u64)));
        Ok(())
    }
}
