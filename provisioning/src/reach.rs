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
