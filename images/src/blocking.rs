//! Work for the blocking threads: hashing, flushing, walking directories.

use crate::{Error, ErrorKind, Result};

/// Runs it on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::caused(ErrorKind::Fatal, "working on a blocking thread", e)),
    }
}
