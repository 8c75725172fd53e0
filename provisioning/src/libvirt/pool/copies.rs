//! Copies of revisions in the host's pool: sent once, used by every overlay, removed when nothing needs them.
//!
//! What they are called is told in [`named`](super::named). Who sends one has it to himself in this process, whatever
//! instance or job he sends it for; another node may send the same at the same time under a name of its own, and both
//! are good. Nor does another node know what is about to be used here: whoever removes a copy takes away its mark and
//! looks once more, whoever uses one makes what keeps it and looks for the mark.

use super::super::Libvirt;
use super::super::connection::Broken;
use super::named::{
    Named, Unneeded, WHOLE, counterpart, files, halves, image_of, kept_by, stands, unneeded, whole, whole_of,
};
use super::stream::Source;
use super::{IMAGE, Pool, Volume, read_back, send, xml::NewVolume};
use crate::away::PATIENCE;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use vcl_job::{Cx, Job, Kind, Step, doing};
use vcl_types::{ByteSize, Digest, ImageRef, JobId};

/// Sending has no limit but that it moves; and a host that is away is waited for.
const LONG: Duration = Duration::from_secs(24 * 3600).saturating_add(PATIENCE);
/// How often it is looked whether the pool has room again.
const LOOK: Duration = Duration::from_secs(2);
/// Every which of these looks is for copies that have become idle: it reads all volumes and all domains.
const IDLE_EVERY: u32 = 5;
/// By how much room has to have grown before it is tried again.
const GROWN: u64 = 16 << 20;

/// A file of a revision that the host is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Wanted {
    /// What every copy of it is called, before who sent it.
    pub(in super::super) copy: String,
    /// The file here, absolute.
    pub(in super::super) path: String,
    pub(in super::super) size: u64,
    /// SHA-256 of the file as it lies here.
    pub(in super::super) digest: Option<Digest>,
    /// The path on the host of what it lies on.
    pub(in super::super) over: Option<String>,
}

/// Sends a file of a revision, if the host has no copy of it.
pub(in super::super) const SEND: Step<Libvirt, Wanted> = Step::<Libvirt, Wanted>::new("send to host")
    .deadline(LONG)
    .undo(|host, wanted| Box::pin(async move { host.unsend(&wanted.copy).await }))
    .holds(|host, wanted, output| {
        Box::pin(async move {
            let turn = host.pool()?.desk.turn(&wanted.copy);
            let _turn = wait_for(&turn).await?;
            let there = host.waiting(|| host.copy_of(&wanted.copy)).await?;
            Ok(there.is_some_and(|there| serde_json::Value::String(there.path) == output))
        })
    });

/// What says that a copy is whole.
fn mark_of(name: &str) -> NewVolume {
    NewVolume { name: format!("{name}{WHOLE}"), size: Some(0), over: None, readable: false }
}

/// Who sends what, and what is about to be needed, in this process: one for every pool, whatever instances name it.
#[derive(Debug, Default)]
pub(in super::super) struct Desk {
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    held: Mutex<BTreeMap<String, usize>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// That of a pool.
    pub(in super::super) fn of(uri: &str, pool: &str) -> Arc<Self> {
        type Desks = Mutex<HashMap<(String, String), Arc<Desk>>>;
        static DESKS: OnceLock<Desks> = OnceLock::new();
        let mut desks = lock(DESKS.get_or_init(Desks::default));
        desks.entry((uri.to_owned(), pool.to_owned())).or_default().clone()
    }
    pub(super) fn turn(&self, copy: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        if let Some(turn) = turns.get(copy).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(copy.to_owned(), Arc::downgrade(&turn));
        turn
    }
    fn is_held(&self, copy: &str) -> bool {
        lock(&self.held).contains_key(copy)
    }
}

/// Waits for a turn until the step is to stop.
async fn wait_for(turn: &tokio::sync::Mutex<()>) -> vcl_job::Result<tokio::sync::MutexGuard<'_, ()>> {
    let Some(doing) = doing() else { return Ok(turn.lock().await) };
    tokio::select! {
        turn = turn.lock() => Ok(turn),
        () = doing.stopped() => Err(doing.stop_error()),
    }
}

/// Keeps copies from being removed until there is an overlay on them.
#[derive(Debug)]
pub(in super::super) struct Hold {
    desk: Arc<Desk>,
    copy: String,
}
impl Hold {
    fn on(desk: &Arc<Desk>, copy: &str) -> Self {
        *lock(&desk.held).entry(copy.to_owned()).or_default() += 1;
        Self { desk: desk.clone(), copy: copy.to_owned() }
    }
}
impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = lock(&self.desk.held);
        if let Some(n) = held.get_mut(&self.copy) {
            *n -= 1;
            if *n == 0 {
                held.remove(&self.copy);
            }
        }
    }
}

impl Pool {
    /// Whether this node's library has the file that a copy is of, with the bytes that it was made from.
    fn has_at_home(&self, image: &ImageRef, copy: &str) -> bool {
        let Ok(library) = vcl_images::Library::open(&self.library) else { return true };
        let Ok(chain) = library.ancestry(image) else {
            // One that is there and cannot be read is not one that is gone.
            return !matches!(library.get(image), Err(e) if e.kind == vcl_images::ErrorKind::NotFound);
        };
        let manifests: Vec<_> = chain.into_iter().map(|r| r.manifest).collect();
        files(&manifests).iter().any(|f| f.copy == copy)
    }
    pub(in super::super) fn hold(&self, copy: &str) -> Hold {
        Hold::on(&self.desk, copy)
    }
}

impl Libvirt {
    /// [`whole_of`] what is there now.
    pub(in super::super) async fn copy_of(&self, copy: &str) -> Result<Option<Volume>> {
        Ok(whole_of(&self.volumes().await?, copy).cloned())
    }

    /// The host has a whole copy of the file when this is done; answers its path there.
    pub(in super::super) async fn send_step(
        &self,
        job: &mut Job,
        key: &str,
        wanted: Wanted,
    ) -> vcl_job::Result<String> {
        job.step(self, &SEND, wanted)
            .key(key)
            .run(async |wanted, cx| {
                let turn = self.pool()?.desk.turn(&wanted.copy);
                // Another job that sends it is as good as this one.
                let _turn = wait_for(&turn).await?;
                if cx.again() {
                    // What an earlier life of this job has begun. It has another name, so that who stood still and goes
                    // on does not write into what is sent now.
                    self.unsend(&wanted.copy).await?;
                }
                if let Some(there) = self.waiting(|| self.copy_of(&wanted.copy)).await? {
                    return Ok(there.path);
                }
                self.send_copy(&cx, &wanted).await
            })
            .await
    }

    async fn send_copy(&self, cx: &Cx, wanted: &Wanted) -> vcl_job::Result<String> {
        let doing = doing().map_or((0, 0), |d| (d.job, d.token));
        let name = format!("{}.job{}-token{}", wanted.copy, doing.0, doing.1);
        let unread = |e: Broken| self.replaced(wanted).unwrap_or_else(|| unread(&wanted.path, &e));
        let source = Source::open(Path::new(&wanted.path), wanted.over.as_deref());
        let source = Arc::new(source.map_err(unread)?);
        let (stop, hashed) = (cx.token().clone(), source.clone());
        let digests = tokio::task::spawn_blocking(move || hashed.digests(|| stop.is_cancelled())).await;
        cx.check().await?;
        let digests = digests.map_err(|e| vcl_job::Error::caused(Kind::Fatal, "digesting", e))?;
        let (here, there) = digests.map_err(unread)?;
        if wanted.digest.as_ref().is_some_and(|digest| *digest != here) {
            let context = format!(
                "{} is not what its manifest says (SHA-256 {here}); see: vclctl image verify",
                wanted.path
            );
            let corrupt = || vcl_job::Error::new(Kind::Corrupt, context);
            return Err(self.replaced(wanted).unwrap_or_else(corrupt));
        }
        self.with_pool_room(cx, source.length, || async {
            let sent = self.send_whole(cx, &name, &source, &there).await;
            if let Err(e) = &sent
                && !matches!(e.kind, Kind::Cancelled | Kind::LeaseLost)
            {
                // What is there of it holds room, and nobody goes on with it.
                self.waiting(|| self.delete_volumes(vec![name.clone()])).await?;
            }
            sent
        })
        .await
    }

    /// Whether the library has something else by now under the name of a file that was to be sent.
    pub(super) fn replaced(&self, wanted: &Wanted) -> Option<vcl_job::Error> {
        let image = image_of(&wanted.copy)?;
        let same = self.pool.as_ref().is_none_or(|pool| pool.has_at_home(&image, &wanted.copy));
        (!same).then(|| {
            let context = format!("{image} was rewritten or removed before it was sent; load it again");
            vcl_job::Error::new(Kind::Busy, context)
        })
    }

    async fn send_whole(
        &self,
        cx: &Cx,
        name: &str,
        source: &Arc<Source>,
        digest: &Digest,
    ) -> vcl_job::Result<String> {
        cx.check().await?;
        let new = NewVolume { name: name.to_owned(), size: Some(source.length), over: None, readable: true };
        let path = self.waiting(|| self.make_volume(new.clone())).await?;
        let (confirmed, length) = (Arc::new(AtomicU64::new(0)), source.length);
        let stopped = |e: vcl_job::Error| if cx.token().is_cancelled() { cx.stop_error() } else { e };
        self.waiting(|| {
            let (pool, source, confirmed) = (self.pool(), source.clone(), confirmed.clone());
            let (volume, what) = (name.to_owned(), format!("sending {name}"));
            let progress = |done: u64| cx.progress(done.min(length), length);
            async move {
                let pool = pool?.clone();
                let flow = move |c: &_, pulse: &_| send(c, &pool, &volume, &source, &confirmed, pulse);
                self.connection.stream(what, cx.token(), progress, flow).await
            }
        })
        .await
        .map_err(stopped)?;
        let (found, long) = self
            .waiting(|| {
                let (pool, volume, what) = (self.pool(), name.to_owned(), format!("reading {name} back"));
                async move {
                    let pool = pool?.clone();
                    let flow = move |c: &_, pulse: &_| read_back(c, &pool, &volume, pulse);
                    self.connection.stream(what, cx.token(), |_| {}, flow).await
                }
            })
            .await
            .map_err(stopped)?;
        if (long, &found) != (length, digest) {
            let context = format!(
                "{name} was sent and reads back as {long} bytes with SHA-256 {found}, not {length} with {digest}"
            );
            return Err(vcl_job::Error::new(Kind::Corrupt, context));
        }
        // From here on it may be used. Only who still has the job says so.
        cx.check().await?;
        self.waiting(|| self.make_volume(mark_of(name))).await?;
        cx.event(
            "sent",
            format!("{name}: {} sent to {} and read back", ByteSize(length), self.connection.uri()),
        );
        Ok(path)
    }

    /// Removes what this job has sent of a copy and is not whole. A whole one stays: it is everybody's.
    async fn unsend(&self, copy: &str) -> vcl_job::Result<()> {
        let job = JobId(doing().map_or(0, |d| d.job));
        let volumes = self.waiting(|| self.volumes()).await?;
        let of_this = |name: &str| Named::parse(name).is_some_and(|n| n.copy == copy && n.job == job);
        let halves = halves(&volumes).map(|v| v.name.clone());
        let halves: Vec<_> =
            halves.filter(|name| of_this(name) && kept_by(&volumes, &[], name).is_none()).collect();
        // One may look like half a copy because its mark could not be read just now.
        self.waiting(|| self.delete_halves(halves.clone())).await
    }

    /// Copies that no machine needs, in the order in which they can go.
    pub(in super::super) async fn idle_copies(&self, volumes: &[Volume]) -> Result<Vec<Unneeded>> {
        let domains = self.all_domains().await?;
        let pool = self.pool()?;
        Ok(unneeded(
            volumes,
            &domains,
            |copy| pool.desk.is_held(copy),
            |named| pool.has_at_home(&named.image, named.copy),
        ))
    }

    /// Removes a copy that nothing needs, whole or half: first what says that it is whole. Nobody finds it whole then, and
    /// it is looked once more whether somebody had before and has made an overlay on it since. Whoever makes one looks for
    /// the mark afterwards ([`still_there`](Self::still_there)): of two processes or nodes one sees the other.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when something lies on it, [`ErrorKind::Busy`] when somebody has its turn, and whatever
    /// keeps from knowing that nothing does.
    pub(in super::super) async fn drop_copy(&self, name: &str) -> Result<()> {
        let name = name.strip_suffix(WHOLE).unwrap_or(name);
        let copy = Named::parse(name).map_or(name, |named| named.copy);
        let turn = self.pool()?.desk.turn(copy);
        let volumes = self.every_volume().await?;
        let is_whole = whole(&volumes).contains_key(name);
        // Half a copy is nobody's turn: who sends it now does so under another name, and may take hours.
        let turn = is_whole.then(|| turn.try_lock()).transpose();
        let _turn = turn.map_err(|_| {
            let message = format!("{copy} is being looked for or sent; try again when that is over");
            Error::new(ErrorKind::Busy, message)
        })?;
        self.needs_nobody(name, is_whole, &volumes).await?;
        let mark = counterpart(name);
        if volumes.iter().any(|v| v.name == mark) {
            self.delete_volumes(vec![mark.clone()]).await?;
        }
        if !volumes.iter().any(|v| v.name == name) {
            return Ok(());
        }
        if is_whole && let Err(e) = self.still_needs_nobody(name).await {
            self.make_volume(mark_of(name)).await?;
            return Err(e);
        }
        self.delete_volumes(vec![name.to_owned()]).await
    }

    pub(super) async fn still_needs_nobody(&self, name: &str) -> Result<()> {
        self.needs_nobody(name, true, &self.every_volume().await?).await
    }

    /// That the copies at these paths are still there, whole, with all that they lie on. To be asked when what was made
    /// keeps them: until then another node, which knows nothing of this one's jobs, may have removed them. Of what is no
    /// copy nothing is said.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`], naming one.
    pub(in super::super) async fn still_there(&self, paths: &[&str]) -> Result<()> {
        let copies =
            paths.iter().filter(|p| p.rsplit('/').next().is_some_and(|name| name.starts_with(IMAGE)));
        let copies: Vec<_> = copies.collect();
        if copies.is_empty() {
            return Ok(());
        }
        let volumes = self.volumes().await?;
        match copies.into_iter().find(|path| !stands(&volumes, path)) {
            None => Ok(()),
            Some(path) => {
                let message = format!(
                    "{path} was removed while it was about to be used; load it again, and it is sent again"
                );
                Err(Error::new(ErrorKind::Busy, message))
            }
        }
    }

    /// That nothing lies on a copy, by all volumes there are.
    async fn needs_nobody(&self, name: &str, is_whole: bool, volumes: &[Volume]) -> Result<()> {
        let domains = self.all_domains().await?;
        let copy = Named::parse(name).map_or(name, |named| named.copy);
        // Who holds one is sending another half, or has found one that is whole.
        let held =
            (is_whole && self.pool()?.desk.is_held(copy)).then(|| "a job is about to use it".to_owned());
        match kept_by(volumes, &domains, name).or(held) {
            None => Ok(()),
            Some(why) => Err(Error::new(ErrorKind::Refused, format!("{name} is needed: {why}"))),
        }
    }

    /// Does something that writes into the pool. Where there is no room for it, copies that nothing needs make way, one
    /// after the other; then it is waited until somebody else makes room. `work` removes what it had written before it
    /// answers [`Kind::NoSpace`].
    pub(in super::super) async fn with_pool_room<T, Fut>(
        &self,
        cx: &Cx,
        needs: u64,
        work: impl Fn() -> Fut + Send,
    ) -> vcl_job::Result<T>
    where
        Fut: Future<Output = vcl_job::Result<T>> + Send,
    {
        let (began, mut told) = (tokio::time::Instant::now(), false);
        loop {
            let free = self.waiting(|| self.pool_room()).await?;
            let error = if free < needs {
                let (free, needs) = (ByteSize(free), ByteSize(needs));
                vcl_job::Error::new(Kind::NoSpace, format!("{free} are free and {needs} are needed"))
            } else {
                match work().await {
                    Err(e) if e.kind == Kind::NoSpace => e,
                    result => {
                        if told {
                            let waited = began.elapsed().as_secs();
                            cx.event("space-back", format!("the host has room again, after {waited} s"));
                        }
                        return result;
                    }
                }
            };
            if self.make_way(cx).await? {
                continue;
            }
            let pool = &self.pool()?.name;
            if !told {
                told = true;
                let uri = self.connection.uri();
                let why = error.failure();
                let message =
                    format!("no room in the storage pool {pool} of {uri}; goes on when there is ({why})");
                cx.event("no-space", message);
            }
            let enough = needs.max(free + GROWN);
            for look in 1.. {
                tokio::select! {
                    () = cx.stopped() => return Err(cx.stop_error()),
                    () = tokio::time::sleep(LOOK) => {} // why: a pool tells nobody that it has room
                }
                // What a machine lay on may be nobody's any more, however much room it left itself.
                let way = look % IDLE_EVERY == 0 && self.make_way(cx).await?;
                if way || self.waiting(|| self.pool_room()).await? >= enough {
                    break;
                }
            }
        }
    }
}

impl Libvirt {
    /// Removes one copy that nothing needs; whether there was one. That another job was faster, or that nobody can tell
    /// now, is no error: it is looked again.
    async fn make_way(&self, cx: &Cx) -> vcl_job::Result<bool> {
        cx.check().await?;
        let again = |e: &vcl_job::Error| matches!(e.kind, Kind::Refused | Kind::Busy | Kind::Fatal);
        let idle = self.waiting(|| async { self.idle_copies(&self.every_volume().await?).await }).await;
        let idle = match idle {
            Err(e) if again(&e) => {
                tracing::info!(error = %e.failure(), "which copies are idle cannot be told now");
                return Ok(false);
            }
            idle => idle?,
        };
        for copy in idle {
            cx.check().await?;
            match self.waiting(|| self.drop_copy(&copy.name)).await {
                Err(e) if again(&e) => {
                    tracing::info!(copy = copy.name, error = %e.failure(), "a copy does not make way");
                }
                dropped => {
                    dropped?;
                    let name = copy.name;
                    let message = format!("{name} made way for what needs the room: no machine lies on it");
                    cx.event("copy-removed", message);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn unread(path: &str, e: &Broken) -> vcl_job::Error {
    match e {
        Broken::Stopped => vcl_job::Error::new(Kind::Cancelled, "told to stop"),
        Broken::Io(e) => vcl_job::Error::new(Kind::Fatal, format!("reading {path}: {e}")),
        Broken::Wrong(why) => vcl_job::Error::new(Kind::Corrupt, format!("{path}: {why}")),
        Broken::Virt(e) => vcl_job::Error::new(Kind::Fatal, format!("reading {path}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_sends_at_a_time_and_what_is_held_is_known() {
        let desk = Desk::of("qemu:///x", "p");
        let other = Desk::of("qemu:///x", "p");
        let turn = desk.turn("c");
        let first = turn.lock().await;
        assert!(other.turn("c").try_lock().is_err() && other.turn("d").try_lock().is_ok());
        drop(first);
        assert!(other.turn("c").try_lock().is_ok());
        let (one, two) = (Hold::on(&desk, "c"), Hold::on(&other, "c"));
        drop(one);
        assert!(desk.is_held("c"));
        drop(two);
        assert!(!desk.is_held("c"));
    }
}
