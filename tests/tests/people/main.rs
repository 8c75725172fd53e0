//! People against a real daemon: over the socket as other accounts, over TLS with tokens, through a real directory and a real
//! OpenID Connect provider; what a stolen database tells; and callers who mean harm. As root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod directory;
mod doors;
mod harm;
mod provider;
mod schema;

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use vcl_tests::certificates::certificates;
use vcl_tests::daemon::{Daemon, Setup, Simulated, binary};

/// A port of this machine that nobody has.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until somebody listens there.
fn wait_for(port: u16, child: &mut std::process::Child) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(child.try_wait()?.is_none(), "it ended before it listened on {port}");
        ensure!(Instant::now() < until, "nobody listens on {port}");
        std::thread::sleep(Duration::from_millis(20)); // why: nobody tells when it listens
    }
    Ok(())
}

/// A daemon on simulated machines with a TLS door, and the verbs of its people.
struct Site {
    daemon: Daemon,
    port: u16,
    directory: Utf8PathBuf,
    _kept: tempfile::TempDir,
}

impl Site {
    /// `api` are lines of `[api]`, `more` are tables of their own; it is told the directory and the TLS door's port.
    fn new(api: &str, more: impl FnOnce(&Utf8Path, u16) -> String) -> Result<Self> {
        let kept = tempfile::Builder::new().prefix("vcl-people-").tempdir()?;
        // Other accounts come to the socket in it.
        std::fs::set_permissions(kept.path(), std::fs::Permissions::from_mode(0o755))?;
        let directory = Utf8Path::from_path(kept.path()).unwrap().to_owned();
        let key = directory.join("id");
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
        ensure!(Command::new("ssh-keygen").args(words).status()?.success(), "ssh-keygen");
        certificates(&directory)?;
        std::fs::create_dir(directory.join("credentials"))?;
        let port = free_port()?;
        let mut setup = Setup::new(&directory, &key, &[]);
        setup.simulated = Some(Simulated { at_once: 20, delay: "0s" });
        setup.more_computers = ["a", "b"]
            .iter()
            .zip(["b12", "c3"])
            .map(|(name, tag)| {
                format!("\"{name}\" = {{ backend = \"kvm\", memory = \"256M\", networks = [\"net\"], tags = [\"{tag}\"] }}\n")
            })
            .collect();
        setup.api = format!(
            "listen = \"127.0.0.1:{port}\"\ncertificate = \"{directory}/server.pem\"\n\
             key = {{ file = \"{directory}/server.key\" }}\nfiles = \"{directory}\"\n{api}"
        );
        setup.more = more(&directory, port);
        setup.environment =
            vec![("CREDENTIALS_DIRECTORY".into(), directory.join("credentials").into_string())];
        let daemon = Daemon::start(setup)?;
        Ok(Self { daemon, port, directory, _kept: kept })
    }
    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
    /// As root over the socket.
    fn root(&self, arguments: &[&str]) -> Result<Value> {
        self.daemon.json(arguments)
    }
    /// vclctl over TLS, with a home of its own.
    fn remote(&self, home: &str) -> Result<Command> {
        let mut command = Command::new(binary("vclctl")?);
        let home = self.directory.join(home);
        std::fs::create_dir_all(&home)?;
        command
            .env_clear()
            .env("HOME", home)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("VCLD_URL", self.url())
            .env("VCLD_CA", self.directory.join("ca.pem"));
        Ok(command)
    }
    fn as_user(&self, home: &str, arguments: &[&str]) -> Result<Output> {
        Ok(self.remote(home)?.arg("--json").args(arguments).stdin(Stdio::null()).output()?)
    }
    /// What a user's verb answers, which must not be refused.
    fn json(&self, home: &str, arguments: &[&str]) -> Result<Value> {
        let output = self.as_user(home, arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {said}\n{}", self.daemon.log_tail());
        Ok(serde_json::from_slice(&output.stdout)?)
    }
    /// What a user is told whose verb is refused, and what vclctl ends with.
    fn refused(&self, home: &str, arguments: &[&str]) -> Result<(i32, String)> {
        let output = self.as_user(home, arguments)?;
        ensure!(!output.status.success(), "{arguments:?} succeeded");
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned()))
    }
    /// Signs a user in by password.
    fn login(&self, home: &str, name: &str, password: &str) -> Result<Output> {
        let mut command = self.remote(home)?;
        command.args(["--json", "login", "--user", name, "--password-stdin"]);
        fed(command, &format!("{password}\n"))
    }
    /// A user with a password, in a group with these grants.
    fn user(&self, name: &str, password: &str, grants: &[(&str, &str)]) -> Result<()> {
        self.root(&["user", "add", name])?;
        let mut command = self.daemon.command(&["user", "set", name, "--password", "--password-stdin"])?;
        command.stdin(Stdio::piped());
        let set = fed(command, &format!("{password}\n"))?;
        ensure!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        let group = format!("{name}s");
        self.root(&["group", "add", &group])?;
        self.root(&["group", "member", "add", &group, name])?;
        for (verb, scope) in grants {
            self.root(&["grant", "add", &group, verb, scope])?;
        }
        Ok(())
    }
    /// Asks with curl, and answers the status and the body.
    fn curl(&self, path: &str, more: &[&str]) -> Result<(u16, String)> {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "60", "--cacert", self.directory.join("ca.pem").as_str()])
            .args(["-w", "\n%{http_code}"])
            .args(more)
            .arg(format!("{}{path}", self.url()))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').context("curl said nothing")?;
        let why = || format!("curl: {}", String::from_utf8_lossy(&output.stderr));
        Ok((status.parse().with_context(why)?, body.to_owned()))
    }
    /// Everything that the daemon has written: database, log, configuration.
    fn written(&self) -> Result<Vec<(Utf8PathBuf, Vec<u8>)>> {
        let mut all = Vec::new();
        for entry in self.directory.read_dir_utf8()? {
            let path = entry?.into_path();
            let name = path.file_name().unwrap_or_default();
            if path.is_file() && (name.starts_with("vcld.") || name.ends_with(".log")) {
                let bytes = std::fs::read(&path)?;
                all.push((path, bytes));
            }
        }
        ensure!(all.iter().any(|(path, _)| path.as_str().ends_with("vcld.db")), "there is no database");
        Ok(all)
    }
    /// That a secret stands nowhere.
    fn nowhere(&self, secret: &str) -> Result<()> {
        for (path, bytes) in self.written()? {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            ensure!(!found, "{path} holds the secret {secret}");
        }
        Ok(())
    }
}

/// Runs a command with this on its standard input.
fn fed(mut command: Command, input: &str) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().unwrap().write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

/// The names in a list of JSON objects.
fn names<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().filter_map(|item| item.pointer(key)?.as_str()).collect()
}

/// Where `./check` puts what comes from npm and PyPI.
fn tools() -> Utf8PathBuf {
    let cache = std::env::var("VCL_CACHE").map_or_else(
        |_| Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(".cache"),
        Utf8PathBuf::from,
    );
    cache.join("people")
}
