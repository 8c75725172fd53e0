//! Who has files below a directory open for writing, watched from outside: the proof that two never write to one file.

use camino::{Utf8Path, Utf8PathBuf};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What was seen of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The most processes that had it open for writing at one moment.
    pub most: usize,
    /// All that ever had, by process id and start time.
    pub writers: BTreeSet<(i32, u64)>,
}

/// Looks at every process of this world, again and again, until it is dropped.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<Utf8PathBuf, Seen>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writers {
    /// Begins to watch the files below a directory whose names end so.
    #[must_use]
    pub fn watch(directory: &Utf8Path, ending: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let (until, into, directory) = (stop.clone(), seen.clone(), directory.to_owned());
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let now = look(&directory, ending);
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                for (file, writers) in now {
                    let entry: &mut Seen = seen.entry(file).or_default();
                    entry.most = entry.most.max(writers.len());
                    entry.writers.extend(writers);
                }
                drop(seen);
                std::thread::sleep(Duration::from_millis(3)); // why: nothing tells of another process's files
            }
        });
        Self { stop, seen, thread: Some(thread) }
    }

    /// What was seen so far, by file.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<Utf8PathBuf, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Who writes to what at this moment. One process that has a file open twice counts once; a thread is no process.
fn look(directory: &Utf8Path, ending: &str) -> BTreeMap<Utf8PathBuf, BTreeSet<(i32, u64)>> {
    let mut found: BTreeMap<Utf8PathBuf, BTreeSet<(i32, u64)>> = BTreeMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        for file in files.flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let Ok(target) = Utf8PathBuf::try_from(target) else { continue };
            if !target.starts_with(directory) || !target.as_str().ends_with(ending) {
                continue;
            }
            let info = process.path().join("fdinfo").join(file.file_name());
            let flags = fs::read_to_string(info).unwrap_or_default();
            let flags = flags.lines().find_map(|l| l.strip_prefix("flags:"));
            let mode = flags.and_then(|f| u32::from_str_radix(f.trim(), 8).ok()).map(|f| f & 0o3);
            // 1 is writing, 2 is both.
            if matches!(mode, Some(1 | 2)) {
                found.entry(target).or_default().insert((pid, vcl_job::start_time(pid).unwrap_or(0)));
            }
        }
    }
    found
}
