//! Images.

use super::jobs;
use crate::cli::{FormatWord, ImageVerb, ImportArguments, PromoteArguments, PruneArguments, Submission};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::render::{images, keep, text, vms};
use crate::screen::Screen;
use std::io;
use std::path::Path;
use vcl_types::api::{ImageView, RevisionView};
use vcl_types::{ByteSize, DirectBoot, Hardware, ImageRef, JobRequest};

/// What is wanted of images.
pub(super) async fn run(verb: ImageVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        ImageVerb::Create { name, from_vm: (backend, vm), submission, .. } if submission.dry_run => {
            let preview = client.preview(&backend, &vm).await?;
            screen.answer(&preview, |preview, _| vms::preview(&name, preview))
        }
        ImageVerb::Create { name, from_vm: (backend, vm), os, note, submission } => {
            let request = JobRequest::CreateFromVm { image: name, backend, vm, os: os.into(), note };
            jobs::submit(client, screen, request, submission).await
        }
        ImageVerb::Import(asked) => {
            let submission = asked.submission;
            jobs::submit(client, screen, import(*asked)?, submission).await
        }
        ImageVerb::Export { image, file, format, submission } => {
            let format = format.unwrap_or_else(|| format_of(&file)).as_str().to_owned();
            let path = absolute(&file)?;
            if file.exists() {
                return Err(Error::new(
                    ErrorKind::Local,
                    format!("`{path}` exists already; export writes a new file"),
                ));
            }
            jobs::submit(client, screen, JobRequest::Export { image, path, format }, submission).await
        }
        ImageVerb::List => screen.answer(&client.images().await?, |all, clock| images::list(all, clock)),
        ImageVerb::Show { image } => {
            let view = client.image(&image.name).await?;
            match image.revision {
                None => screen.answer(&view, images::revisions),
                Some(number) => screen.answer(revision(&view, number)?, images::revision),
            }
        }
        ImageVerb::Verify { image, submission } => {
            jobs::submit(client, screen, JobRequest::Verify { image }, submission).await
        }
        ImageVerb::Delete { image, now, yes, submission } => {
            delete(client, screen, image, now, yes, submission).await
        }
        ImageVerb::Undelete { image, submission } => {
            jobs::submit(client, screen, JobRequest::Undelete { image }, submission).await
        }
        ImageVerb::Trash => screen.answer(&client.trash().await?, |all, clock| keep::trash(all, clock)),
        ImageVerb::Prune(asked) => prune(client, screen, asked).await,
        ImageVerb::Why { image } => screen.answer(&client.why_kept(&image).await?, |why, _| keep::why(why)),
        ImageVerb::Test { image, submission } => {
            super::image_test::run(client, screen, image, submission).await
        }
        ImageVerb::Promote(asked) => promote(client, screen, asked).await,
        ImageVerb::Flatten { image, submission } => {
            jobs::submit(client, screen, JobRequest::Flatten { image }, submission).await
        }
        ImageVerb::Fetch { image, to, submission } => {
            jobs::submit(client, screen, JobRequest::Fetch { image, node: to }, submission).await
        }
    }
}

/// `promote`.
pub(super) async fn promote(client: &Client, screen: &mut Screen, asked: PromoteArguments) -> Result<()> {
    screen.answer(&client.promote(&asked.image, asked.force).await?, |now, _| {
        format!("{} is in production", now.manifest.image_ref())
    })
}

fn revision(image: &ImageView, number: u32) -> Result<&RevisionView> {
    image.revisions.iter().find(|revision| revision.manifest.revision == number).ok_or_else(|| {
        let there: Vec<String> =
            image.revisions.iter().map(|one| format!("@{}", one.manifest.revision)).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(" ") };
        Error::new(ErrorKind::NotFound, format!("{} has no revision {number}; it has {there}", image.name))
    })
}

async fn delete(
    client: &Client,
    screen: &mut Screen,
    image: ImageRef,
    now: bool,
    yes: bool,
    submission: Submission,
) -> Result<()> {
    let for_good = if now { " for good" } else { "" };
    if !yes && !submission.dry_run {
        if !screen.interactive {
            let context = format!("{image} would be deleted{for_good}; add --yes where nobody can be asked");
            return Err(Error::new(ErrorKind::Usage, context));
        }
        let view = client.image(&image.name).await?;
        let size = image.revision.and_then(|number| revision(&view, number).ok()).map(|one| one.size);
        let size = size.map(|size: ByteSize| format!(" ({size})")).unwrap_or_default();
        if !screen.ask(&format!("delete {image}{size}{for_good}?"))? {
            screen.say("nothing was deleted");
            return Ok(());
        }
    }
    jobs::submit(client, screen, JobRequest::DeleteImage { image, now }, submission).await
}

/// One job an image, so that each holds its own image alone and one that is stopped goes on where it was.
async fn prune(client: &Client, screen: &mut Screen, asked: PruneArguments) -> Result<()> {
    if asked.keep.is_none() && asked.older_than.is_none() && asked.owner.is_none() {
        let context = "say what may go: --keep N, --older-than AGE or --owner USER";
        return Err(Error::new(ErrorKind::Usage, context));
    }
    let images = if asked.images.is_empty() {
        client.images().await?.into_iter().map(|image| image.name).collect()
    } else {
        asked.images
    };
    let request = |image| JobRequest::Prune {
        image,
        keep: asked.keep,
        older_than_s: asked.older_than,
        owner: asked.owner.clone(),
        now: asked.now,
    };
    if !asked.yes && !asked.submission.dry_run {
        if !screen.interactive {
            let context =
                "revisions would be deleted; look with --dry-run, then add --yes where nobody can be asked";
            return Err(Error::new(ErrorKind::Usage, context));
        }
        let names: Vec<&str> = images.iter().map(|image| image.as_str()).collect();
        if !screen.ask(&format!("delete what these rules let go of {}?", names.join(", ")))? {
            screen.say("nothing was deleted");
            return Ok(());
        }
    }
    for image in images {
        jobs::submit(client, screen, request(image), asked.submission).await?;
    }
    Ok(())
}

fn import(asked: ImportArguments) -> Result<JobRequest> {
    let path = existing(&asked.file)?;
    let boot = match &asked.kernel {
        Some(kernel) => Some(DirectBoot {
            kernel: existing(kernel)?,
            initrd: asked.initrd.as_deref().map(existing).transpose()?,
            cmdline: asked.cmdline.clone().unwrap_or_default(),
        }),
        None => None,
    };
    let hardware = hardware(&asked);
    Ok(JobRequest::Import { image: asked.name, path, boot, hardware, os: asked.os.into(), note: asked.note })
}

/// The hardware that was asked for; `None` leaves all of it to the daemon.
fn hardware(asked: &ImportArguments) -> Option<Hardware> {
    let usual = Hardware::default();
    let wanted = Hardware {
        machine: asked.machine.clone().unwrap_or_else(|| usual.machine.clone()),
        firmware: asked.firmware.map_or(usual.firmware, Into::into),
        tpm: usual.tpm,
        disk_bus: asked.disk_bus.map_or(usual.disk_bus, Into::into),
        nic_model: asked.nic_model.map_or(usual.nic_model, Into::into),
        cpus: asked.cpus.unwrap_or(usual.cpus),
        memory: asked.memory.unwrap_or(usual.memory),
    };
    (wanted != usual).then_some(wanted)
}

fn format_of(file: &Path) -> FormatWord {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("raw" | "img") => FormatWord::Raw,
        Some("vmdk") => FormatWord::Vmdk,
        _ => FormatWord::Qcow2,
    }
}

/// A path as the daemon can use it: it runs elsewhere in the file system, on the same machine.
fn absolute(path: &Path) -> Result<String> {
    let shown = text::one_line(&path.to_string_lossy());
    let absolute = std::path::absolute(path)
        .map_err(|cause| Error::caused(ErrorKind::Local, format!("cannot make `{shown}` absolute"), cause))?;
    absolute.into_os_string().into_string().map_err(|_| {
        Error::new(
            ErrorKind::Local,
            format!("`{shown}` is not UTF-8, and vcld takes no such path; rename it"),
        )
    })
}

/// As [`absolute`], of a file that must be there. One that we may not look at is left to the daemon, which may.
fn existing(path: &Path) -> Result<String> {
    let absolute = absolute(path)?;
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            Err(Error::new(ErrorKind::Local, format!("`{absolute}` is a directory, not a file")))
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::Local, format!("there is no file `{absolute}`")))
        }
        Ok(_) | Err(_) => Ok(absolute),
    }
}
