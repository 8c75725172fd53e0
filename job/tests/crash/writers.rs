//! A world in which real processes write: two at once would ruin the file.

use async_trait::async_trait;
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use vcl_job::faults::{Ended, FaultyJournal, Fence, Life, Points, Scene};
use vcl_job::*;

pub(crate) struct Writers {
    /// Those that were let to write.
    writing: Mutex<Vec<Child>>,
    copied: Mutex<bool>,
    broken: Mutex<Vec<String>>,
    fence: Fence,
    points: Points,
    journal: Arc<MemoryJournal>,
}

const COPY: Step<Writers, ()> = Step::new("copy").undo(|on, ()| {
    Box::pin(async move {
        doing().unwrap().check().await?;
        on.nobody_writes("taken back");
        on.points.effect("disk", "delete", async || on.set(false)).await
    })
});
#[async_trait]
impl Undo for Writers {
    async fn undo(&self, step: &str, intent: Value) -> Result<()> {
        undo_in(&[&COPY], self, step, intent).await
    }
}

impl Writers {
    pub(crate) fn new(points: Points) -> Self {
        let (journal, broken) = (Arc::default(), Mutex::default());
        Self {
            writing: Mutex::default(),
            copied: Mutex::new(false),
            broken,
            fence: Fence::default(),
            points,
            journal,
        }
    }
    fn set(&self, copied: bool) -> Result<()> {
        self.fence.enter("disk")?;
        *self.copied.lock().unwrap() = copied;
        Ok(())
    }
    fn nobody_writes(&self, what: &str) {
        if self.writing.lock().unwrap().iter_mut().any(|w| w.try_wait().unwrap().is_none()) {
            self.broken.lock().unwrap().push(format!("{what} while a process still writes"));
        }
    }
    async fn copy(&self, cx: Cx) -> Result<()> {
        cx.check().await?;
        self.nobody_writes("written to");
        // At a gate until its group is on record, as `Process` has it; unlike that one's it outlives this task.
        let mut child = Command::new("sh")
            .args(["-c", "read -r go && exec sleep 1000"])
            .stdin(Stdio::piped())
            .process_group_of_its_own()
            .spawn()
            .unwrap();
        let group = child.id().cast_signed();
        let gate = child.stdin.take().unwrap();
        if let Err(e) = cx.record_process(group, start_time(group).unwrap()).await {
            drop(gate);
            child.wait().unwrap();
            return Err(e);
        }
        // Whoever has the job by now may have ended it at the gate.
        let _ = std::io::Write::write_all(&mut &gate, b"go\n");
        self.writing.lock().unwrap().push(child);
        cx.check().await?;
        self.points.effect("disk", "write", async || self.set(true)).await?;
        end_group(group, start_time(group).unwrap_or(0)).await.unwrap();
        Ok(())
    }
}

trait OfItsOwn {
    fn process_group_of_its_own(&mut self) -> &mut Self;
}
impl OfItsOwn for Command {
    fn process_group_of_its_own(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}

#[async_trait]
impl Scene for Writers {
    async fn live(&self, life: &Life) -> Ended {
        let run = Run {
            journal: Arc::new(FaultyJournal::new(life.claim(self.journal.clone()), self.points.clone())),
            observer: Arc::new(Silent),
            control: life.control.clone(),
            owners: Owners { flow: self, parts: &[] },
        };
        let flow = Flow { name: "copy", version: 1, deadline: None };
        let work = async |mut job: Job, (): ()| {
            job.step(self, &COPY, ()).run(async |(), cx| self.copy(cx).await).await
        };
        execute(run, flow, async { Ok(()) }, work).await.into()
    }
    async fn world(&self) -> Value {
        json!(*self.copied.lock().unwrap())
    }
    async fn left(&self, _: &Ended) -> Vec<String> {
        self.nobody_writes("ended");
        self.broken.lock().unwrap().clone()
    }
    async fn records(&self) -> Result<Vec<Record>> {
        self.journal.read().await
    }
}
impl Drop for Writers {
    fn drop(&mut self) {
        for writer in self.writing.lock().unwrap().iter_mut() {
            let _ = writer.kill();
            let _ = writer.wait();
        }
    }
}
