//! What a computer is configured by: a manifest of cdist's, or a playbook that a site has instead.

use crate::node::{Node, Refusal, RefusalKind};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use vcl_types::{Computer, ImageRef, ManifestName, OsName};

/// What a computer is configured by, as it was found when its job began.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: ManifestName,
    pub(crate) recipe: Recipe,
}

/// What is done with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Recipe {
    /// cdist's stages, beginning with this manifest.
    Manifest(Utf8PathBuf),
    /// `ansible-playbook` with this file.
    Ansible(Utf8PathBuf),
    /// This program.
    Program(Utf8PathBuf),
}

impl Recipe {
    /// In words, for plans.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Manifest(path) => format!("cdist's stages, beginning with {path}"),
            Self::Ansible(path) => format!("ansible-playbook {path}"),
            Self::Program(path) => path.to_string(),
        }
    }
}

impl Node {
    /// The configuration directories that there are.
    pub(crate) fn configuration(&self) -> Vec<Utf8PathBuf> {
        self.config.configure.directories.iter().filter(|directory| directory.is_dir()).cloned().collect()
    }

    /// By what a computer is configured when this image is loaded on it.
    ///
    /// # Errors
    /// As of [`Self::recipe_for`].
    pub(crate) fn recipes(
        &self,
        computer: &Computer,
        image: &ImageRef,
        os: OsName,
    ) -> Result<Vec<Named>, Refusal> {
        let settings = &self.config.configure;
        let mut manifests = settings.manifests(&image.name, &computer.tags);
        // A tag's is for those of its computers that it can be for; what an image's own says is meant.
        if os != OsName::Linux {
            manifests.retain(|name| settings.of_image(&image.name) == Some(name));
        }
        manifests.iter().map(|name| self.recipe_for(name, image, os)).collect()
    }

    /// What a name stands for, for computers that hold this image.
    ///
    /// # Errors
    /// Nothing has that name, or the image is of a system that is not configured.
    pub(crate) fn recipe_for(
        &self,
        name: &ManifestName,
        image: &ImageRef,
        os: OsName,
    ) -> Result<Named, Refusal> {
        if os != OsName::Linux {
            let message = format!("{image} is of {os}, and only Linux is configured: manifest `{name}`");
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        Ok(Named { name: name.clone(), recipe: self.recipe(name)? })
    }

    /// What a name stands for: that of the last directory that has it, and there a manifest before a playbook.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`], with the names that there are.
    pub(crate) fn recipe(&self, name: &ManifestName) -> Result<Recipe, Refusal> {
        let directories = self.configuration();
        directories.iter().rev().find_map(|directory| of(directory, name.as_str())).ok_or_else(|| {
            let names: BTreeSet<String> = directories.iter().flat_map(|directory| names(directory)).collect();
            let there = if names.is_empty() {
                let all: Vec<&str> =
                    self.config.configure.directories.iter().map(|path| path.as_str()).collect();
                format!("there is none in {}", all.join(" and "))
            } else {
                format!("there are: {}", names.into_iter().collect::<Vec<_>>().join(", "))
            };
            let message =
                format!("there is no manifest or playbook `{name}` in the node's configuration; {there}");
            Refusal::new(RefusalKind::NotFound, message)
        })
    }
}

fn of(directory: &Utf8Path, name: &str) -> Option<Recipe> {
    let [manifest, playbook, program] =
        [format!("manifest/{name}"), format!("playbook/{name}.yml"), format!("playbook/{name}")]
            .map(|path| directory.join(path));
    // A directory that has an `init` is one too; without it, it may be what others are made of.
    if manifest.is_file() || manifest.join("init").is_file() {
        Some(Recipe::Manifest(manifest))
    } else if playbook.is_file() {
        Some(Recipe::Ansible(playbook))
    } else {
        is_executable(&program).then_some(Recipe::Program(program))
    }
}

fn is_executable(path: &Utf8Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// All names that stand for something there.
fn names(directory: &Utf8Path) -> Vec<String> {
    let entries = ["manifest", "playbook"].map(|kind| directory.join(kind).read_dir_utf8());
    let entries = entries.into_iter().flatten().flatten().flatten();
    let bare = entries.map(|entry| entry.file_name().trim_end_matches(".yml").to_owned());
    bare.filter(|name| name.parse::<ManifestName>().is_ok() && of(directory, name).is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_manifest_or_a_playbook_or_a_program() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        for (path, mode) in [
            ("manifest/lab", 0o644),
            ("playbook/lab", 0o755),
            ("playbook/site.yml", 0o644),
            ("playbook/run", 0o755),
            ("playbook/notes", 0o644),
            ("manifest/Bad Name", 0o644),
        ] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(of(root, "lab"), Some(Recipe::Manifest(root.join("manifest/lab"))));
        assert_eq!(of(root, "site"), Some(Recipe::Ansible(root.join("playbook/site.yml"))));
        assert_eq!(of(root, "run"), Some(Recipe::Program(root.join("playbook/run"))));
        assert_eq!(of(root, "notes"), None);
        let all: BTreeSet<String> = names(root).into_iter().collect();
        assert_eq!(all.into_iter().collect::<Vec<_>>(), ["lab", "run", "site"]);
    }
}
