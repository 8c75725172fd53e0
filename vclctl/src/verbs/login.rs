//! Signing in and out, and who one is.

use crate::cli::LoginArguments;
use crate::client::{Client, tokens};
use crate::error::{Error, ErrorKind, Result};
use crate::render::people as shown;
use crate::screen::Screen;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use vcl_types::api::{CodeBegun, EndCode, EndDevice, SignIn, TokenMade};

/// How long somebody may take at the sign-in page.
const PATIENCE: Duration = Duration::from_secs(600);
/// How much of a browser's request is read.
const REQUEST: usize = 16 * 1024;

/// Signs in.
pub(super) async fn login(asked: LoginArguments, client: &Client, screen: &mut Screen) -> Result<()> {
    let label = asked.label.or_else(|| {
        let host = std::fs::read_to_string("/etc/hostname").ok()?;
        Some(format!("vclctl on {}", host.trim()))
    });
    let ways = client.ways_in().await?;
    let made = match (asked.user, ways.oidc) {
        (Some(name), _) => {
            let password = password(screen, asked.password_stdin, &format!("password of {name}: "))?;
            client.sign_in(&SignIn { name, password, label }).await?
        }
        (None, Some(_)) if asked.device => device(client, screen, label).await?,
        (None, Some(_)) => code(client, screen, label).await?,
        (None, None) => {
            let context = "this vcld has no sign-in page; say who you are: vclctl login --user NAME";
            return Err(Error::new(ErrorKind::Usage, context));
        }
    };
    let Some(file) = tokens::file() else {
        let context = "there is no home directory to keep the token in; make one with vclctl token create";
        return Err(Error::new(ErrorKind::Local, context));
    };
    tokens::keep(&file, client.place(), Some(&made.secret))?;
    screen.answer(&made.token, |token, clock| {
        let until = token.expires.map(|at| format!(" until {}", clock.full(at))).unwrap_or_default();
        format!("signed in as {}{until}", token.owner)
    })
}

/// Signs out: the token that was kept is taken back and forgotten; where none was, that of the environment is taken back.
pub(super) async fn logout(client: &Client, screen: &mut Screen) -> Result<()> {
    let file = tokens::file();
    let kept = match &file {
        Some(file) => tokens::kept(file, client.place())?,
        None => None,
    };
    if kept.is_none() && std::env::var_os(tokens::VARIABLE).is_none() {
        let context = format!("nobody is signed in to {} here", client.place());
        return Err(Error::new(ErrorKind::NotFound, context));
    }
    let taken = kept.is_some();
    let told = match kept {
        // The variable goes before the file, so the client given may have another token.
        Some(kept) => Client::at(client.place().clone(), Some(kept))?.sign_out().await,
        None => client.sign_out().await,
    };
    match told {
        // It was good no more.
        Err(e) if e.kind() != ErrorKind::Denied => return Err(e),
        _ => {}
    }
    if let Some(file) = file.filter(|_| taken) {
        tokens::keep(&file, client.place(), None)?;
        if std::env::var_os(tokens::VARIABLE).is_some() {
            screen.say(&format!("the token in {} is another, and stays good", tokens::VARIABLE));
        }
    }
    screen.answer(&serde_json::json!({ "done": "signed out" }), |_, _| "signed out".into())
}

/// Who one is.
pub(super) async fn whoami(client: &Client, screen: &mut Screen) -> Result<()> {
    screen.answer(&client.whoami().await?, shown::whoami)
}

fn unreadable(cause: std::io::Error) -> Error {
    Error::caused(ErrorKind::Local, "no password can be read", cause)
}

/// A password: asked for without showing it, or the first line of standard input.
pub(super) fn password(screen: &Screen, stdin: bool, prompt: &str) -> Result<String> {
    if stdin {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(unreadable)?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    if !screen.interactive {
        let context = "nobody can be asked for a password here; give it with --password-stdin";
        return Err(Error::new(ErrorKind::Usage, context));
    }
    rpassword::prompt_password(prompt).map_err(unreadable)
}

/// A new one, asked for twice.
pub(super) fn new_password(screen: &Screen, stdin: bool) -> Result<String> {
    let first = password(screen, stdin, "new password: ")?;
    if !stdin && password(screen, false, "the same again: ")? != first {
        return Err(Error::new(ErrorKind::Usage, "the two are not the same; nothing was changed"));
    }
    Ok(first)
}

/// Signs in with a browser on this machine.
async fn code(client: &Client, screen: &mut Screen, label: Option<String>) -> Result<TokenMade> {
    let local = |cause: std::io::Error| {
        Error::caused(ErrorKind::Local, "cannot wait for the browser on 127.0.0.1; try --device", cause)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(local)?;
    let port = listener.local_addr().map_err(local)?.port();
    let begun = client.begin_code(&format!("http://127.0.0.1:{port}/")).await?;
    screen.say("open this in a browser on this machine, and sign in there:");
    screen.say(&begun.url);
    let waiting = tokio::time::timeout(PATIENCE, brought(&listener, &begun));
    let code =
        waiting.await.map_err(|_| Error::new(ErrorKind::Refused, "nobody signed in within ten minutes"))?;
    client.end_code(&EndCode { state: begun.state, code: code.map_err(local)??, label }).await
}

/// The code that the browser brings. Whatever else comes to the port is answered and forgotten.
async fn brought(listener: &TcpListener, begun: &CodeBegun) -> std::io::Result<Result<String>> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let mut text = Vec::new();
        let head = async {
            let mut piece = [0; 2048];
            while text.len() < REQUEST && !text.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut piece).await? {
                    0 => break,
                    n => text.extend_from_slice(&piece[..n]),
                }
            }
            std::io::Result::Ok(())
        };
        if !matches!(tokio::time::timeout(Duration::from_secs(5), head).await, Ok(Ok(()))) {
            continue;
        }
        let text = String::from_utf8_lossy(&text);
        let answer = text.lines().next().and_then(|line| line.split(' ').nth(1)).map(parameters);
        let found = answer.unwrap_or_default();
        let get = |name: &str| found.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let ours = get("state").as_deref() == Some(begun.state.as_str());
        let said = if ours {
            "This can be closed; go on in the terminal."
        } else {
            "This is not what is waited for."
        };
        let page = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{said}",
            said.len()
        );
        let _ = stream.write_all(page.as_bytes()).await;
        let _ = stream.shutdown().await;
        if !ours {
            continue;
        }
        return Ok(get("code").ok_or_else(|| {
            let why = get("error_description").or_else(|| get("error")).unwrap_or_else(|| "no reason".into());
            Error::new(ErrorKind::Refused, format!("the sign-in page says no: {why}"))
        }));
    }
}

/// The parameters of a path's query.
fn parameters(path: &str) -> Vec<(String, String)> {
    let url = url::Url::parse("http://127.0.0.1").and_then(|base| base.join(path));
    url.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default()
}

/// Signs in on another device.
async fn device(client: &Client, screen: &mut Screen, label: Option<String>) -> Result<TokenMade> {
    let begun = client.begin_device().await?;
    screen.say(&format!("open {} on any device and type {}", begun.url, begun.code));
    if let Some(url) = &begun.complete_url {
        screen.say(&format!("or open {url}"));
    }
    let until = Instant::now() + Duration::from_secs(begun.seconds).min(PATIENCE);
    let asked = EndDevice { state: begun.state, label };
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(begun.interval)).await; // why: the provider says how often it may be asked
        if let Some(made) = client.end_device(&asked).await? {
            return Ok(made);
        }
    }
    Err(Error::new(ErrorKind::Refused, "nobody signed in in time; begin again: vclctl login --device"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_brings_is_read() {
        let found = parameters("/?code=a%2Fb+c&state=x&error_description=%E4");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(found, [pair("code", "a/b c"), pair("state", "x"), pair("error_description", "\u{fffd}")]);
        for nothing in ["/favicon.ico", "", "//", "http://["] {
            assert_eq!(parameters(nothing), [], "{nothing}");
        }
        assert_eq!(parameters("/?code=%zz%41%"), [pair("code", "%zzA%")]);
    }
}
