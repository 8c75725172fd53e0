//! `cargo xtask new-backend`: a crate of its own for a backend, with a toy machine that works and passes the conformance
//! kit. What is in it is what its author goes on from.
//!
//! The templates are ordinary source texts in which `toy` and `Toy` stand for the backend's name. They take the crates
//! of this checkout by path.

use anyhow::{Context, Result, ensure};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};

/// What is made, from what, with `toy` and `Toy` in the place of the name.
const FILES: [(&str, &str); 4] = [
    ("src/lib.rs", include_str!("new_backend/lib.rs.in")),
    ("src/main.rs", include_str!("new_backend/main.rs.in")),
    ("tests/conformance.rs", include_str!("new_backend/conformance.rs.in")),
    (".gitignore", "/target\n"),
];

/// What the crate depends on of ours, and with which options.
const OURS: [(&str, &str); 4] =
    [("vcl-config", "config"), ("vcl-job", "job"), ("vcl-provisioning", "provisioning"), ("vcld", "vcld")];
/// And of others: those that the templates use, in versions that the workspace has.
const OTHERS: [&str; 4] = ["clap", "serde", "serde_json", "tokio"];

/// The workspace's, so that what both need is built once where they share a target directory.
const PROFILE: &str = r#"[profile.dev]
debug = "line-tables-only"

[profile.dev.package."*"]
debug = false

# Bulk copies and digests dominate the tests' time.
[profile.dev.package.libssh2-sys]
opt-level = 3
[profile.dev.package.sha2]
opt-level = 3
"#;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The backend's name: a word of small letters and digits, as in `type = "NAME"`.
    name: String,
    /// The directory in which the crate's own is made; without it, the one beside this checkout.
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// Makes the crate.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let name = &arguments.name;
    let small = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    ensure!(
        small && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 30,
        "`{name}` is not a backend's name: it has small letters and digits, as in `openstack`"
    );
    let above = match &arguments.path {
        Some(path) => path.clone(),
        None => root.parent().context("this checkout lies nowhere")?.to_owned(),
    };
    let directory = above.join(name);
    ensure!(!directory.exists(), "{} exists already; name another backend, or --path", directory.display());
    let large: String = name[..1].to_ascii_uppercase() + &name[1..];
    for (path, text) in FILES {
        write(&directory.join(path), &text.replace("toy", name).replace("Toy", &large))?;
    }
    write(&directory.join("Cargo.toml"), &manifest(root, name)?)?;
    for same in ["Cargo.lock", "rustfmt.toml", "rust-toolchain.toml"] {
        let text = fs::read_to_string(root.join(same)).with_context(|| format!("reading {same}"))?;
        write(&directory.join(same), &text)?;
    }
    let shown = directory.display();
    println!("{shown} is a backend of type \"{name}\" that lends directories. Go on from there:");
    println!("  cd {shown} && cargo test    the conformance kit, and its table");
    println!("  cargo run -- --config FILE  a vcld with it");
    println!("  docs/adding-a-backend.md    what each part is for");
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().context("a file lies nowhere")?;
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The crate's manifest. The versions of others are the workspace's, so that its lock file fits.
fn manifest(root: &Path, name: &str) -> Result<String> {
    let workspace =
        fs::read_to_string(root.join("Cargo.toml")).context("reading the workspace's Cargo.toml")?;
    let line = |wanted: &str| {
        let found = workspace.lines().find(|line| line.split(' ').next() == Some(wanted));
        found.with_context(|| format!("the workspace has no dependency {wanted}"))
    };
    let root = root.display();
    let mut text = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
         # A workspace of its own, wherever it lies.\n[workspace]\n\n[dependencies]\n"
    );
    for other in OTHERS {
        text += &format!("{}\n", line(other)?);
    }
    for (ours, path) in OURS {
        // Without the backends that vcld comes with; `features = [\"libvirt\"]` takes one along.
        let bare = if ours == "vcld" { ", default-features = false" } else { "" };
        text += &format!("{ours} = {{ path = \"{root}/{path}\"{bare} }}\n");
    }
    text += &format!(
        "\n[dev-dependencies]\n{}\nvcl-provisioning = {{ path = \"{root}/provisioning\", features = [\"conformance\"] }}\n\n{PROFILE}",
        line("tempfile")?
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(name: &str, path: &Path) -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
        run(root, &Arguments { name: name.into(), path: Some(path.to_owned()) })
    }

    #[test]
    fn a_backend_has_its_name_everywhere() -> Result<()> {
        let directory = tempfile::tempdir()?;
        make("racks", directory.path())?;
        for (path, _) in FILES {
            let text = fs::read_to_string(directory.path().join("racks").join(path))?;
            assert!(!text.to_lowercase().contains("toy"), "{path}: {text}");
        }
        let main = fs::read_to_string(directory.path().join("racks/src/main.rs"))?;
        assert!(main.contains("racks::FACTORY"), "{main}");
        assert!(make("racks", directory.path()).is_err(), "what is there is not written over");
        Ok(())
    }

    #[test]
    fn what_is_no_name_is_refused() -> Result<()> {
        let directory = tempfile::tempdir()?;
        for wrong in ["", "My", "my-backend", "../x", "7up"] {
            assert!(make(wrong, directory.path()).is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn an_author_writes_little() {
        let written = FILES.iter().filter(|(path, _)| path.ends_with(".rs"));
        let written: usize = written.map(|(_, text)| text.lines().count()).sum();
        assert!(written <= 150, "{written} lines");
        assert!(FILES.iter().all(|(_, text)| !text.contains("macro_rules!")));
    }
}
