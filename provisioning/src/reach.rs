//! Whether somebody is there.

use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Whether an ssh server speaks there, within three seconds; the error is why not. A port that takes a connection says
/// little: qemu's user networking takes them long before the guest does.
///
/// # Errors
/// What was there instead, for people.
pub async fn ssh_speaks(address: IpAddr, port: u16) -> Result<(), String> {
    let limit = Duration::from_secs(3);
    let read = async {
        let mut stream = tokio::net::TcpStream::connect((address, port)).await?;
        let mut first = [0u8; 4];
        stream.read_exact(&mut first).await?;
        Ok::<_, std::io::Error>(first)
    };
    match tokio::time::timeout(limit, read).await {
        Ok(Ok(first)) if &first == b"SSH-" => Ok(()),
        Ok(Ok(_)) => Err("something that is not an ssh server answered".into()),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err("the connection was closed at once".into())
        }
        Ok(Err(e)) => Err(e.to_string().to_lowercase()),
        Err(_) => Err("nothing was said".into()),
    }
}

/// How long a site's address hook may take.
#[cfg(any(feature = "libvirt", feature = "vim25"))]
const HOOK_LIMIT: Duration = vcl_job::minutes(5);

/// Asks a site's executable for an address: it gets the machine's name and its MAC as arguments and prints one line.
///
/// # Errors
/// There is no hook, it fails, or what it prints is no address.
#[cfg(any(feature = "libvirt", feature = "vim25"))]
pub(crate) async fn ask_hook(
    cx: &vcl_job::Cx,
    hook: Option<&str>,
    machine: &str,
    mac: &str,
) -> vcl_job::Result<IpAddr> {
    use vcl_job::{Error, Kind};
    let hook =
        hook.ok_or_else(|| Error::new(Kind::Refused, "the network's address is a hook and it names none"))?;
    let process = vcl_job::Process::new(hook).args([machine, mac]);
    let output = cx.within("the address hook", HOOK_LIMIT, process.run(cx, |_| {})).await??;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|e| {
        let said: String = text.trim().chars().take(80).collect();
        Error::caused(Kind::Corrupt, format!("{hook} printed `{said}`, which is no address"), e)
    })
}
