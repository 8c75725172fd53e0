//! What else does such work: ansible-core, ansible-core with Mitogen, pyinfra. Each as it comes, but for what its own manual says
//! about speed: Ansible with pipelining and with the interpreter named. Facts are gathered, which is what a playbook does.

use super::site::Site;
use super::{Side, manifests};
use crate::command::output_of;
use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::process::Command;

/// What is installed, as `pip` has it; [`Side::name`] says the same.
const PACKAGES: [&str; 3] = ["ansible-core==2.19.14", "mitogen==0.3.54", "pyinfra==3.10.0"];
const FILES: usize = 100;

fn venv(people: &Utf8Path) -> Utf8PathBuf {
    people.join("configure-peers-venv")
}

/// Installs them, unless they are there.
pub(super) fn install(people: &Utf8Path) -> Result<()> {
    let (venv, noted, wanted) = (venv(people), people.join("configure-peers"), PACKAGES.join(" "));
    if fs::read_to_string(&noted).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    eprintln!("installing {wanted} into {venv}");
    output_of(Command::new("python3").args(["-m", "venv", "--clear", venv.as_str()]))?;
    let pip = ["install", "--quiet", "--disable-pip-version-check"];
    output_of(Command::new(venv.join("bin/pip")).args(pip).args(PACKAGES))?;
    fs::write(&noted, wanted).with_context(|| format!("failed to write {noted}"))
}

/// What makes the files on a host; `None` for whoever takes manifests.
pub(super) fn command(site: &Site, side: Side, host: &str) -> Result<Option<Command>> {
    let venv = venv(&site.people);
    let mut command = match side {
        Side::Ours | Side::Cdist => return Ok(None),
        Side::Ansible | Side::Mitogen => {
            let playbook = site.directory.join("files.yml");
            fs::write(&playbook, manifests::playbook(FILES))?;
            let mut command = site.program(&venv.join("bin/ansible-playbook"));
            command.args(["-i", &format!("{host},"), playbook.as_str()]);
            command.env("ANSIBLE_PIPELINING", "1").env("ANSIBLE_HOST_KEY_CHECKING", "0");
            command.env("ANSIBLE_PYTHON_INTERPRETER", "/usr/bin/python3");
            command
        }
        Side::Pyinfra => {
            let deploy = site.directory.join("files.py");
            fs::write(&deploy, manifests::deploy(FILES))?;
            let key = site.directory.join("id");
            let mut command = site.program(&venv.join("bin/pyinfra"));
            command.args(["-y", "--ssh-user", "root", "--ssh-key", key.as_str(), host, deploy.as_str()]);
            command
        }
    };
    if side == Side::Mitogen {
        command.env("ANSIBLE_STRATEGY_PLUGINS", strategies(&venv)?).env("ANSIBLE_STRATEGY", "mitogen_linear");
    }
    Ok(Some(command))
}

fn strategies(venv: &Utf8Path) -> Result<Utf8PathBuf> {
    for entry in venv.join("lib").read_dir_utf8()? {
        let plugins = entry?.path().join("site-packages/ansible_mitogen/plugins/strategy");
        if plugins.is_dir() {
            return Ok(plugins);
        }
    }
    bail!("{venv} has no Mitogen: remove it, and it is installed again")
}
