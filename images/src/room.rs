//! A file system that is full in the middle: not the end of a job, but something to wait for.

use crate::Store;
use crate::store::Directory;
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use vcl_job::{Cx, Kind, Result};
use vcl_types::ByteSize;

/// How often it is looked whether there is room again.
const LOOK: Duration = Duration::from_millis(500);
/// By how much the room has to grow before a try whose size nobody knows is worth another.
const GROWN: u64 = 1 << 20;

/// Does something that writes below `directory` and, when that finds no room, waits until there is and does it again.
///
/// `work` removes what it had written before it answers [`Kind::NoSpace`], so that a job that waits does not hold the
/// room that it waits for. `needs` says how many bytes it is going to write in all, where anybody knows; it is asked only
/// when there was no room. That it waits, for what and since when stands in the job's events. What ends the wait
/// otherwise: the job is called off, the daemon stops, or the step's deadline.
///
/// # Errors
/// Those of `work` but [`Kind::NoSpace`]; told to stop.
pub async fn with_room<T, Fut, Need>(
    cx: &Cx,
    directory: &Path,
    needs: impl Fn() -> Need + Send,
    work: impl Fn() -> Fut + Send,
) -> Result<T>
where
    Fut: Future<Output = Result<T>> + Send,
    Need: Future<Output = Option<u64>> + Send,
{
    let began = Instant::now();
    let mut told = false;
    loop {
        let error = match work().await {
            Err(e) if e.kind == Kind::NoSpace => e,
            result => {
                if told {
                    let (directory, waited) = (directory.display(), began.elapsed().as_secs());
                    cx.event("space-back", format!("there is room in {directory} again, after {waited} s"));
                }
                return result;
            }
        };
        // Without an answer nobody can tell when to go on.
        let Ok(space) = Directory.space(directory) else { return Err(error) };
        let needs = needs().await;
        let enough = needs.filter(|n| *n > space.free).unwrap_or(space.free + GROWN);
        if !told {
            told = true;
            let (since, free) = (chrono::Utc::now().format("%Y-%m-%d %H:%M:%S UTC"), ByteSize(space.free));
            let about = needs.map_or_else(String::new, |n| format!(", about {} are needed", ByteSize(n)));
            let message = format!(
                "no room in {} since {since}: {free} are free{about}; goes on when there is room ({})",
                directory.display(),
                error.failure()
            );
            cx.event("no-space", message);
        }
        loop {
            tokio::select! {
                () = cx.stopped() => return Err(cx.stop_error()),
                () = tokio::time::sleep(LOOK) => {} // why: a file system tells nobody that it has room
            }
            match Directory.space(directory) {
                Ok(space) if space.free >= enough => break,
                Ok(_) => {}
                Err(_) => return Err(error),
            }
        }
    }
}
