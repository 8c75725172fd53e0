//! What is there of vcld's at the server and in the directory on this node, and how it is taken away by hand.
//!
//! Machines and what grows tell their job or their computer. Templates and images are caches of what is in the library:
//! they are told once nobody has used them for [`UNUSED`].

use super::images::{growing_of, is_entry, no_image};
use super::machines::{
    BECOMING, FILE, IMAGE as TAG, JOB, TEMPLATE as TEMPLATES, Whose, tag, tags, unless_others, whose,
};
use super::properties::Object;
use super::{Site, Watcher};
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use vcl_types::api::Thing;
use vcl_types::{ComputerName, JobId};

const MACHINE: &str = "machine";
const TEMPLATE: &str = "template";
const DIRECTORY: &str = "directory";
const GROWING: &str = "growing-image";
const IMAGE: &str = "image";
const RAW: &str = "raw-copy";
/// After how long without use a template or an image is told as one that nobody needs. Every load of it counts.
const UNUSED: chrono::TimeDelta = chrono::TimeDelta::days(30);

impl Site {
    pub(crate) async fn made_things(&self) -> Result<Vec<Thing>> {
        let machines = self.machines(&["name", "config.extraConfig", FILE]).await?;
        let mut things = Vec::new();
        let mut lived_in = BTreeSet::new();
        for machine in &machines {
            let directory = self.directory_of(machine);
            // The first directory of the path, and the one that it lies in.
            lived_in.extend(directory.iter().filter_map(|d| Some(d.split('/').next()?.to_owned())));
            lived_in.extend(directory.clone());
            let Some(name) = machine.text("name") else { continue };
            let tags = tags(machine.get("config.extraConfig"));
            let made = |computer, job| thing(MACHINE, name, computer, job);
            match whose(self.settings.name.as_str(), name, &tags) {
                Whose::Ours(owner) if tag(&tags, TAG) == Some(BECOMING) => {
                    let job = tag(&tags, JOB).and_then(|n| n.parse().ok()).filter(|n| *n > 0).map(JobId);
                    things.push(made(owner.parse().ok(), job));
                }
                Whose::Ours(owner) => things.push(made(owner.parse().ok(), None)),
                Whose::Shared => {
                    if let Some(directory) = directory
                        && self.is_unused(&directory).await?
                    {
                        things.push(thing(TEMPLATE, name, None, None));
                    }
                }
                Whose::Of(_) | Whose::Foreign => {}
            }
        }
        for found in self.list("", &Watcher::doing()).await?.unwrap_or_default() {
            let computer = found.name.strip_prefix("vcl-").and_then(|name| name.parse::<ComputerName>().ok());
            if computer.is_none() || found.name == self.settings.images || lived_in.contains(&found.name) {
                continue;
            }
            things.push(thing(DIRECTORY, &found.name, computer, None));
        }
        for found in self.image_directories().await? {
            let name = found.name.as_str();
            if let Some((job, computer)) = growing_of(name) {
                things.push(thing(GROWING, name, computer, job));
            } else if is_entry(name)
                && !lived_in.contains(&self.image(name))
                && self.is_unused(&self.image(name)).await?
            {
                things.push(thing(IMAGE, name, None, None));
            }
        }
        for entry in self.settings.directory.read_dir_utf8().into_iter().flatten().flatten() {
            // Raw copies are named after what they become.
            if let Some((job, computer)) = entry.file_name().strip_suffix(".raw").and_then(growing_of) {
                let bytes = entry.metadata().ok().map(|m| m.len());
                things.push(Thing { bytes, ..thing(RAW, entry.file_name(), computer, job) });
            }
        }
        things.sort();
        Ok(things)
    }

    /// The directory of this datastore in which a machine lies.
    fn directory_of(&self, machine: &Object) -> Option<String> {
        let (directory, _) = self.name_of(machine.text(FILE)?)?.rsplit_once('/')?;
        Some(directory.to_owned())
    }
    async fn is_unused(&self, directory: &str) -> Result<bool> {
        let used = self.last_used(directory).await?;
        Ok(used.is_some_and(|used| chrono::Utc::now() - used > UNUSED))
    }

    pub(crate) async fn unmake(&self, thing: &Thing) -> Result<()> {
        let (name, watcher) = (thing.name.as_str(), Watcher::doing());
        let plain = !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
        let refuse = |message: String| Err(Error::new(ErrorKind::Refused, message));
        match thing.kind.as_str() {
            MACHINE if !name.starts_with(TEMPLATES) => {
                self.remove_machine(name, &watcher).await?;
                if name.starts_with("vcl-") && plain { self.clear(name, &watcher).await } else { Ok(()) }
            }
            TEMPLATE if plain && name.starts_with(TEMPLATES) => {
                let Some(template) = self.ours(name).await? else { return Ok(()) };
                self.remove_machine(name, &watcher).await?;
                // What is left there of the image is no use to anybody. It is vcld's own directory or none.
                let directory = self.name_of(&template.file).and_then(|file| file.rsplit_once('/'));
                let own = |d: &str| d.starts_with(&self.image("")) || d.starts_with("vcl-");
                match directory {
                    // Templates for several kinds of hardware lie over one image.
                    Some((directory, _)) if own(directory) => {
                        unless_others(self.clear(directory, &watcher).await)
                    }
                    _ => Ok(()),
                }
            }
            DIRECTORY if plain && name.starts_with("vcl-") && name != self.settings.images => {
                self.clear(name, &watcher).await
            }
            GROWING if plain && growing_of(name).is_some() => self.delete(&self.image(name), &watcher).await,
            IMAGE if is_entry(name) => self.clear(&self.image(name), &watcher).await,
            RAW if plain && name.strip_suffix(".raw").and_then(growing_of).is_some() => {
                let path = self.settings.directory.join(name);
                match tokio::fs::remove_file(&path).await {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        Err(Error::caused(ErrorKind::Failed, format!("removing {path}"), e))
                    }
                    _ => Ok(()),
                }
            }
            GROWING | IMAGE => Err(no_image(name)),
            kind => refuse(format!("a VMware backend makes no {kind} of the name `{name}`")),
        }
    }
}

fn thing(kind: &str, name: &str, computer: Option<ComputerName>, job: Option<JobId>) -> Thing {
    Thing { kind: kind.into(), name: name.to_owned(), computer, job, bytes: None }
}
