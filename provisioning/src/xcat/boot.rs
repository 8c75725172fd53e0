//! From a node that boots its disk to a guest that is ready: its address, its ssh server, `post_load`.

use super::Xcat;
use super::away::STEP;
use crate::{Result, Target};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use vcl_job::{Error, Job, Kind, Step, TRANSIENT};
use vcl_types::{Endpoint, HostKeys};

/// Waits that have a limit of their own from the configuration get this much from the executor.
pub(super) const LONG: Duration = Duration::from_secs(7 * 24 * 3600);
const SSH: u16 = 22;

pub(super) const ADDRESS: Step<Xcat, String> = Step::new("find address").deadline(STEP).retry(TRANSIENT);
pub(super) const WAIT_FOR_SSH: Step<Xcat, String> = Step::new("wait for ssh").deadline(LONG);

impl Xcat {
    /// Waits until the guest is ready. xCAT has no console to read keys from: the first connection's are taken.
    pub(super) async fn boot(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        let node = self.node(&target.computer.name);
        let fixed = target.computer.management().and_then(|nic| nic.address);
        let address = job
            .step(self, &ADDRESS, node)
            .run(async |node, _| {
                if let Some(address) = fixed {
                    return Ok(address);
                }
                let known = self.waiting(|| self.client.attributes(&node)).await?;
                known.ip.parse::<IpAddr>().map_err(|_| {
                    let message = format!(
                        "{node} has no address: neither in the configuration (address = \"…\") nor as its `ip` in xCAT"
                    );
                    Error::new(Kind::Refused, message)
                })
            })
            .await?;
        let limit = target.limits.boot;
        job.step(self, &WAIT_FOR_SSH, format!("{address}:{SSH}"))
            .run(async |at, cx| {
                let deadline = tokio::time::Instant::now() + limit;
                loop {
                    let Err(why) = banner(address).await else { return Ok(()) };
                    if tokio::time::Instant::now() >= deadline {
                        let seconds = limit.as_secs();
                        let message =
                            format!("no ssh server spoke at {at} within {seconds} s (the last try: {why})");
                        return Err(Error::new(Kind::Deadline, message));
                    }
                    tokio::select! {
                        () = cx.stopped() => return Err(cx.stop_error()),
                        () = tokio::time::sleep(Duration::from_millis(500)) => {} // why: a booting guest announces itself to nobody
                    }
                }
            })
            .await?;
        let endpoint =
            Endpoint { address, port: SSH, user: target.user.to_owned(), host_keys: HostKeys::first_use() };
        let guest = target.guest(&endpoint);
        target.os.post_load(&mut job.part("post_load"), guest).await
    }
}

/// Whether an ssh server speaks there.
async fn banner(address: IpAddr) -> Result<(), String> {
    let read = async {
        let mut stream = tokio::net::TcpStream::connect((address, SSH)).await?;
        let mut first = [0u8; 4];
        stream.read_exact(&mut first).await?;
        Ok::<_, std::io::Error>(first)
    };
    match tokio::time::timeout(Duration::from_secs(5), read).await {
        Ok(Ok(first)) if &first == b"SSH-" => Ok(()),
        Ok(Ok(_)) => Err("something that is not an ssh server answered".into()),
        Ok(Err(e)) => Err(e.to_string().to_lowercase()),
        Err(_) => Err("nobody answered".into()),
    }
}
