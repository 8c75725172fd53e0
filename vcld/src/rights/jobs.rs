//! What a job takes: by its kind, the computer and the image it names, and the files of the node that it would read or write.

use super::{Subject, Tagged, Who};
use crate::node::{Node, Refusal, RefusalKind};
use std::path::{Component, Path, PathBuf};
use vcl_types::api::Action;
use vcl_types::people::Verb;
use vcl_types::{CaptureInto, ComputerName, JobId, JobRequest};

/// Whether a path is, as it is written, one below a directory.
pub(crate) fn is_below(files: &Path, path: &Path) -> bool {
    let below = |files: &Path| {
        let rest = path.strip_prefix(files).map(Path::components);
        rest.is_ok_and(|mut rest| {
            rest.clone().next().is_some() && rest.all(|part| matches!(part, Component::Normal(_)))
        })
    };
    below(files) || files.canonicalize().is_ok_and(|files| below(&files))
}

/// A file, or one that is to be made, by its path without links; none where a link leads out of the directory.
pub(crate) fn real_below(files: &Path, path: &Path) -> std::io::Result<Option<PathBuf>> {
    let real = match path.canonicalize() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !path.is_symlink() => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
            parent.canonicalize()?.join(name)
        }
        real => real?,
    };
    Ok(real.starts_with(files.canonicalize()?).then_some(real))
}

impl Node {
    async fn tagged(&self, name: &ComputerName) -> Result<Tagged, Refusal> {
        Ok(Tagged::of(name, &*self.tags().await?))
    }

    /// Whether somebody may ask for a job.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`], which says what is missing.
    pub async fn may_submit(&self, who: &Who, request: &JobRequest) -> Result<(), Refusal> {
        let everything = Subject::Nothing;
        if who.can(Verb::Administer, &everything) {
            return Ok(());
        }
        match request {
            JobRequest::Load { computer, image } | JobRequest::Prepare { computer, image } => {
                who.may(Verb::Operate, &Subject::Computer(self.tagged(computer).await?))?;
                who.may(Verb::Look, &Subject::Image(image.name.clone()))
            }
            JobRequest::Unload { computer } | JobRequest::Configure { computer, .. } => {
                who.may(Verb::Operate, &Subject::Computer(self.tagged(computer).await?))
            }
            JobRequest::Capture { computer, into, .. } => {
                let tagged = self.tagged(computer).await?;
                who.may(Verb::Imaging, &Subject::Computer(tagged.clone()))?;
                let image = match into {
                    CaptureInto::New(image) => Some(image.clone()),
                    CaptureInto::Next => {
                        let row = self.queue.computer(computer).await?;
                        row.loaded.map(|loaded| loaded.image.name)
                    }
                };
                // What holds nothing is refused for that, by whoever begins the job.
                image.map_or(Ok(()), |image| who.may(Verb::Imaging, &Subject::Both(tagged, image)))
            }
            JobRequest::Import { image, path, boot, .. } => {
                who.may(Verb::Images, &Subject::Image(image.clone()))?;
                let boot = boot.iter().flat_map(|boot| std::iter::once(&boot.kernel).chain(&boot.initrd));
                boot.chain([path]).try_for_each(|path| self.may_use_file(who, path))
            }
            JobRequest::Export { image, path, .. } => {
                who.may(Verb::Images, &Subject::Image(image.name.clone()))?;
                self.may_use_file(who, path)
            }
            JobRequest::Verify { image }
            | JobRequest::TestImage { image, .. }
            | JobRequest::DeleteImage { image, .. }
            | JobRequest::Undelete { image }
            | JobRequest::Flatten { image }
            | JobRequest::Fetch { image, .. } => who.may(Verb::Images, &Subject::Image(image.name.clone())),
            JobRequest::Prune { image, .. } => who.may(Verb::Images, &Subject::Image(image.clone())),
            // A machine of the backend's that may be anybody's, the whole of the database, and what the daemon alone asks
            // for in a reservation's name.
            JobRequest::CreateFromVm { .. }
            | JobRequest::Backup { .. }
            | JobRequest::Lend { .. }
            | JobRequest::Admit { .. }
            | JobRequest::Return { .. }
            | JobRequest::Unknown(_) => who.may(Verb::Administer, &everything),
        }
    }

    /// Files of this node are read and written by the daemon, which may more than whoever asks: those who are no
    /// administrators have one directory for it.
    fn may_use_file(&self, who: &Who, path: &str) -> Result<(), Refusal> {
        let place = &self.config.api.files;
        let (files, asked) = (place.as_std_path(), Path::new(path));
        if is_below(files, asked) && matches!(real_below(files, asked), Ok(Some(_))) {
            return Ok(());
        }
        let name = &who.name;
        let message =
            format!("{path} is not in {place}, where files are that {name} may import from and export to");
        Err(Refusal::new(RefusalKind::Forbidden, message))
    }

    /// Whether somebody may do something that is no job.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`], which says what is missing.
    pub(crate) async fn may_act(&self, who: &Who, action: &Action) -> Result<(), Refusal> {
        match action {
            Action::Cancel { job } => self.may_cancel(who, *job).await,
            Action::Retry { job } | Action::Undo { job } | Action::Abandon { job } => {
                who.may(Verb::Operate, &self.job_touched(*job).await?)
            }
            Action::Power { computer, .. } => {
                who.may(Verb::Operate, &Subject::Computer(self.tagged(computer).await?))
            }
        }
    }

    /// Whether somebody may call a job off: whoever asked for it, and whoever may look after what it is about.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`], which says what is missing.
    pub(crate) async fn may_cancel(&self, who: &Who, job: JobId) -> Result<(), Refusal> {
        let touched = self.job_touched(job).await?;
        if let Subject::Job { requester, .. } = &touched
            && *requester == who.name
            && who.can(Verb::Look, &touched)
            // A token that is for looking alone calls nothing off.
            && Verb::ALL.iter().any(|verb| *verb != Verb::Look && who.in_scopes(*verb))
        {
            return Ok(());
        }
        who.may(Verb::Operate, &touched)
    }

    /// A job as rights see it; nothing for one that is not there.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn job_touched(&self, id: JobId) -> Result<Subject, Refusal> {
        match self.queue.job(id).await {
            Ok(row) => Ok(super::job_subject(&row.requester, &row.request, &*self.tags().await?)),
            Err(e) if e.kind == vcl_queue::Kind::NotFound => Ok(Subject::Nothing),
            Err(e) => Err(e.into()),
        }
    }
}
