//! Where a node that boots says how far it is: xCAT's install monitor, on one port a node.
//!
//! The real one listens on port 3002 and knows a node by its address. User networking hides that, so here the port tells.
//! The dialogue is the recorded one: `ready`, a line, an answer, the end.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::destiny;
use super::state::Shared;

/// How long a node may take over its line.
const PATIENCE: Duration = Duration::from_secs(30);
const LONGEST_LINE: u64 = 4096;

/// Listens for one node, and returns the port.
pub(super) async fn listen(shared: Arc<Shared>, name: &str) -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("failed to listen for a node")?;
    let port = listener.local_addr()?.port();
    let name = name.to_owned();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (shared, name) = (shared.clone(), name.clone());
            tokio::spawn(async move {
                // What a node does not finish is its own loss: it asks again.
                let _ = timeout(PATIENCE, talk(&shared, &name, stream)).await;
            });
        }
    });
    Ok(port)
}

async fn talk(shared: &Shared, name: &str, stream: TcpStream) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    writer.write_all(b"ready\n").await?;
    let mut line = String::new();
    BufReader::new(reader.take(LONGEST_LINE)).read_line(&mut line).await?;
    let answer = shared.with(|state| destiny::heard(state, name, line.trim()));
    writer.write_all(format!("{answer}\n").as_bytes()).await?;
    writer.shutdown().await
}
