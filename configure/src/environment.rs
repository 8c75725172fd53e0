//! Which variables each kind of script finds: cdist's table, as its own probe types show it.
//!
//! Whatever a script of this machine finds besides is what whoever started the run has. A script on the target has the target's
//! own, and these. `__target_host_tags` is there even when it is empty.

use crate::name::ObjectName;
use crate::tree::Tree;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Whom a run is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// As it was named.
    pub name: String,
    /// The name that the resolver has for it.
    pub hostname: String,
    /// The first of its names with a domain's.
    pub fqdn: String,
    /// What it is, for manifests that look at it.
    pub tags: Vec<String>,
}

/// How long the resolver is waited for.
const RESOLVER: Duration = Duration::from_secs(10);

impl Host {
    /// One of this name, with what this machine's resolver makes of it. One that the resolver does not know has its own name for
    /// all of them, as an alias of `ssh_config` does.
    pub async fn resolved(name: &str, tags: &[String]) -> Self {
        let mut getent = Command::new("getent");
        getent.args(["hosts", "--", name]).stdin(Stdio::null()).kill_on_drop(true);
        let said = match tokio::time::timeout(RESOLVER, getent.output()).await {
            Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
            _ => String::new(),
        };
        let names: Vec<&str> = said.lines().next().unwrap_or_default().split_whitespace().skip(1).collect();
        let hostname = names.first().copied().unwrap_or(name);
        let fqdn = names.iter().find(|name| name.contains('.')).copied().unwrap_or(hostname);
        Self {
            name: name.to_owned(),
            hostname: hostname.to_owned(),
            fqdn: fqdn.to_owned(),
            tags: tags.to_vec(),
        }
    }
}

/// A script, by what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script<'a> {
    /// The manifest that a run begins with.
    InitialManifest(&'a Utf8Path),
    /// The manifest of an object's type.
    Manifest(&'a ObjectName),
    /// What generates code, for here or for the target.
    Gencode(&'a ObjectName),
    /// Code that runs here.
    CodeLocal(&'a ObjectName),
    /// What explores the machine.
    Explorer,
    /// What explores it for an object.
    TypeExplorer(&'a ObjectName),
    /// Code that runs on the target.
    CodeRemote(&'a ObjectName),
}

/// What the variables of a run are made of.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Whom it is for.
    pub host: Host,
    /// Its objects.
    pub tree: Tree,
    /// The directory on the target.
    pub base: String,
    /// Whether code is only generated.
    pub dry_run: bool,
    /// The command line that runs something on the target.
    pub remote_exec: String,
    /// The command line that copies something there.
    pub remote_copy: String,
    /// The run's socket.
    pub socket: Utf8PathBuf,
    /// Where the run's secrets are, if it has some.
    pub secrets: Option<Utf8PathBuf>,
    /// The search path of whoever started the run.
    pub path: String,
}

/// Variables, by their names.
pub type Variables = BTreeMap<&'static str, String>;

impl Environment {
    /// The variables that a script finds. `messages` are the paths that it reads and writes them at, where it may.
    #[must_use]
    pub fn of(&self, script: Script<'_>, messages: Option<(&Utf8Path, &Utf8Path)>) -> Variables {
        use Script::{CodeLocal, CodeRemote, Explorer, Gencode, InitialManifest, Manifest, TypeExplorer};
        let mut all = Variables::new();
        let global = self.tree.global();
        if !matches!(script, CodeRemote(_)) {
            all.insert("__target_host", self.host.name.clone());
            all.insert("__target_hostname", self.host.hostname.clone());
            all.insert("__target_fqdn", self.host.fqdn.clone());
            all.insert("__target_host_tags", self.host.tags.join(","));
            all.insert("__cdist_log_level", "30".into());
            all.insert("__cdist_log_level_name", "WARNING".into());
            if self.dry_run {
                all.insert("__cdist_dry_run", "1".into());
            }
        }
        match script {
            Explorer => {
                all.insert("__explorer", format!("{}/conf/explorer", self.base));
            }
            TypeExplorer(object) => {
                all.insert("__explorer", format!("{}/conf/explorer", self.base));
                all.insert("__type_explorer", format!("{}/conf/type/{}/explorer", self.base, object.of()));
                all.insert("__object_name", object.to_string());
                all.insert("__object_fq", self.below(object, ""));
            }
            CodeRemote(_) => {}
            InitialManifest(_) | Manifest(_) | Gencode(_) | CodeLocal(_) => {
                all.insert("__global", global.to_string());
                all.insert("__files", global.join("conf/files").into_string());
                all.insert("__cdist_object_marker", self.tree.marker().to_owned());
                all.insert("__remote_exec", self.remote_exec.clone());
                all.insert("__remote_copy", self.remote_copy.clone());
                all.insert(crate::command::SOCKET, self.socket.to_string());
                if let Some(secrets) = &self.secrets {
                    all.insert("__vcl_secrets", secrets.to_string());
                }
            }
        }
        match script {
            Manifest(object) | Gencode(object) | CodeLocal(object) => {
                all.insert("__object", self.tree.directory(object).into_string());
                all.insert("__object_id", object.id().to_owned());
            }
            TypeExplorer(object) | CodeRemote(object) => {
                all.insert("__object", self.below(object, &format!("{}/object/", self.base)));
                all.insert("__object_id", object.id().to_owned());
            }
            InitialManifest(_) | Explorer => {}
        }
        if let Manifest(object) | Gencode(object) = script {
            all.insert("__object_name", object.to_string());
            all.insert("__type", global.join("conf/type").join(object.of()).into_string());
        }
        let manifest = match script {
            InitialManifest(manifest) => Some(manifest.to_owned()),
            Manifest(object) => Some(global.join("conf/type").join(object.of()).join("manifest")),
            _ => None,
        };
        if let Some(manifest) = manifest {
            all.insert("__manifest", global.join("conf/manifest").into_string());
            all.insert("__cdist_manifest", manifest.into_string());
            all.insert("__cdist_type_base_path", global.join("conf/type").into_string());
            all.insert("__cdist_colored_log", "false".into());
            all.insert("PATH", format!("{}/bin:{}", global, self.path));
        }
        if let InitialManifest(_) = script {
            all.insert("__explorer", global.join("explorer").into_string());
        }
        if let Some((read, written)) = messages {
            all.insert("__messages_in", read.to_string());
            all.insert("__messages_out", written.to_string());
        }
        all
    }
    /// An object's directory below another: `__type/id/MARKER`.
    #[must_use]
    pub fn below(&self, object: &ObjectName, directory: &str) -> String {
        let id = if object.id().is_empty() { String::new() } else { format!("{}/", object.id()) };
        format!("{directory}{}/{id}{}", object.of(), self.tree.marker())
    }
}
