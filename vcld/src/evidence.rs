//! What is kept of a job's failure, taken before anything is cleaned up.
//!
//! A step has failed; its undo will remove the machine, and with it the console, the display and the guest's journal. So
//! the executor stops here first. Everything is asked for at once, each part with a deadline of its own, so that a dead
//! guest or a dead hypervisor costs seconds; what could not be had is said in `notes.txt`. What comes from a guest or its
//! console is untrusted: it is bounded, cleaned of control characters and of what looks like a secret.

mod mask;

use crate::node::{Node, chain};
use mask::masked;
use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;
use vcl_job::{Failure, Record};
use vcl_os::{Command, Windows};
use vcl_queue::{Claim, Part};
use vcl_types::api::StepState;
use vcl_types::{Computer, Endpoint, OsName};

/// How many bytes of one text are kept: its end, where the failure is.
const TEXT: usize = 256 * 1024;
/// How many bytes a picture may have.
const PICTURE: usize = 1024 * 1024;
/// How long one question to the backend may take.
const ASK: Duration = Duration::from_secs(10);
/// How long the guest may take to hand its journal over.
const GUEST: Duration = Duration::from_secs(12);
/// How long all of it may take, writing included.
const ALL: Duration = Duration::from_secs(25);
/// What the guest is asked for.
const JOURNAL: &str = "journalctl -b --no-pager -n 300 2>&1 || dmesg 2>&1 | tail -n 300";

/// What was gathered so far.
struct Gathered {
    parts: Vec<Part>,
    notes: String,
    known: Vec<String>,
}

impl Gathered {
    fn text(&mut self, name: &str, media_type: &str, text: &str) {
        let bytes = clean(text, &self.known).into_bytes();
        self.parts.push(Part { name: name.into(), media_type: media_type.into(), bytes });
    }
    fn note(&mut self, name: &str, why: &str) {
        let _ = writeln!(self.notes, "{name}: {}", clean(why, &self.known).trim());
    }
    fn take(&mut self, name: &str, got: Result<String, String>) {
        match got {
            Ok(text) if text.trim().is_empty() => self.note(name, "it is empty"),
            Ok(text) => {
                self.text(name, if name.ends_with(".xml") { "application/xml" } else { "text/plain" }, &text);
            }
            Err(why) => self.note(name, &why),
        }
    }
}

/// Keeps what an admin will want to see of a failure; answers whether anything was kept. Never fails: a job has better
/// to do than to fail at explaining why it failed.
pub(crate) async fn collect(node: &Node, claim: &Claim, key: &str, failure: &Failure) -> bool {
    let id = claim.id();
    match tokio::time::timeout(ALL, gather_and_keep(node, claim, key, failure)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(job = id.0, error = %error, "the evidence of a failure was not kept");
            false
        }
        Err(_) => {
            tracing::warn!(job = id.0, "gathering the evidence of a failure took too long and was given up");
            false
        }
    }
}

async fn gather_and_keep(node: &Node, claim: &Claim, key: &str, failure: &Failure) -> vcl_queue::Result<()> {
    let mut gathered = Gathered { parts: Vec::new(), notes: String::new(), known: known_secrets() };
    let step = if key.is_empty() { "between two steps" } else { key };
    let told = format!("step: {step}\nkind: {}\n\n{}\n", failure.kind, failure.message);
    gathered.text("failure.txt", "text/plain", &told);
    gathered.take("timings.txt", timings(node, claim).await);
    if let Some(name) = claim.job.request.computer() {
        match node.queue.computer(name).await {
            Ok(row) => {
                let image = claim.job.revision.clone().or(row.loaded.as_ref().map(|l| l.image.clone()));
                let held = image.and_then(|image| node.library.get(&image).ok());
                let os = held.map(|revision| revision.manifest.os).unwrap_or_default();
                let endpoint = endpoint(node, claim).await.or(row.loaded.map(|l| l.endpoint));
                of_machine(node, &row.computer, (endpoint, os), &mut gathered).await;
            }
            Err(error) => gathered.note("machine", &chain(&error)),
        }
    }
    if !gathered.notes.is_empty() {
        let notes = std::mem::take(&mut gathered.notes);
        gathered.text("notes.txt", "text/plain", &notes);
    }
    node.queue.keep_evidence(claim, gathered.parts).await
}

async fn of_machine(
    node: &Node,
    computer: &Computer,
    (endpoint, os): (Option<Endpoint>, OsName),
    gathered: &mut Gathered,
) {
    let backend = match node.backend(&computer.backend) {
        Ok(backend) => backend,
        Err(refusal) => return gathered.note("machine", &refusal.message),
    };
    let journal = async {
        match &endpoint {
            Some(endpoint) => within(GUEST, guest_journal(node, endpoint, os)).await,
            None => Err("the guest has not let us in, so it could not be asked".into()),
        }
    };
    let (console, screen, description, journal) = tokio::join!(
        within(ASK, async { backend.console(computer, 2000).await.map_err(|e| e.chain()) }),
        within(ASK, async { backend.screenshot(computer).await.map_err(|e| e.chain()) }),
        within(ASK, async { backend.description(computer).await.map_err(|e| e.chain()) }),
        journal,
    );
    gathered.take("console.txt", console);
    gathered.take("machine.xml", description);
    gathered.take("guest-journal.txt", journal);
    match screen {
        Ok(png) if png.len() <= PICTURE => {
            gathered.parts.push(Part {
                name: "screen.png".into(),
                media_type: "image/png".into(),
                bytes: png,
            });
        }
        Ok(png) => gathered.note("screen.png", &format!("{} bytes are too many to be kept", png.len())),
        Err(why) => gathered.note("screen.png", &why),
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}

async fn guest_journal(node: &Node, endpoint: &Endpoint, os: OsName) -> Result<String, String> {
    let cancel = tokio_util::sync::CancellationToken::new();
    let _ends_it = cancel.clone().drop_guard();
    let remote =
        node.remotes.connect(endpoint, Duration::from_secs(6), &cancel).await.map_err(|e| chain(&e))?;
    let command = match os {
        OsName::Linux => Command::new(JOURNAL),
        OsName::Windows => Windows::journal(),
    };
    let mut command = command.limit(GUEST).cancel(&cancel);
    command.keep = TEXT;
    let output = remote.run(command).await.map_err(|e| chain(&e))?;
    Ok(output.text())
}

/// Where the machine answers, as far as this attempt of the job has found out: the newest endpoint in its journal.
async fn endpoint(node: &Node, claim: &Claim) -> Option<Endpoint> {
    let records = node.queue.journal(claim).read().await.ok()?;
    records.into_iter().rev().find_map(|record| match record {
        Record::Done { output, .. } => serde_json::from_value::<Endpoint>(output).ok(),
        _ => None,
    })
}

async fn timings(node: &Node, claim: &Claim) -> Result<String, String> {
    let steps = node.queue.steps(claim.id()).await.map_err(|e| chain(&e))?;
    let mut text = String::new();
    for step in steps {
        let took =
            step.started.zip(step.ended.or_else(|| Some(chrono::Utc::now()))).map(|(from, to)| to - from);
        let took = took.map_or_else(String::new, |t| format!("{:.1} s", t.as_seconds_f64()));
        let state = match step.state {
            StepState::Planned => "planned",
            // The step that fails has no record of it yet.
            StepState::Running => "under way",
            StepState::Done => "done",
            StepState::Failed => "failed",
            StepState::Undone => "undone",
        };
        let at = step.started.map(|at| at.to_rfc3339()).unwrap_or_default();
        let _ = writeln!(text, "{at}  {took:>10}  {state:<9}  {}", step.name);
    }
    Ok(text)
}

/// The secrets that this process was given by systemd.
fn known_secrets() -> Vec<String> {
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return Vec::new() };
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|f| std::fs::read_to_string(f.path()).ok()).map(|s| s.trim().to_owned()).collect()
}

/// A text as it may be kept: its end, without what could drive a terminal and without the daemon's secrets.
pub(crate) fn cleaned(text: &str) -> String {
    clean(text, &known_secrets())
}

/// The end of a text, without what could drive a terminal and without secrets.
fn clean(text: &str, known: &[String]) -> String {
    let plain: String = text.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect();
    // Masked before it is cut, so that no half of a secret escapes.
    let plain = masked(&plain, known);
    if plain.len() <= TEXT {
        return plain;
    }
    let from =
        (plain.len() - TEXT..plain.len()).find(|at| plain.is_char_boundary(*at)).unwrap_or(plain.len());
    let from = plain[from..].find('\n').map_or(from, |line| from + line + 1);
    format!("[the beginning is cut off]\n{}", &plain[from..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_its_beginning_and_cannot_drive_a_terminal() {
        let long = "line é\n".repeat(60_000) + "password=x\u{1b}[2J the end";
        let kept = clean(&long, &[]);
        assert!(
            kept.len() <= TEXT + 40 && kept.starts_with("[the beginning is cut off]\nline"),
            "{}",
            kept.len()
        );
        assert!(kept.ends_with("password=[masked] the end"), "{}", &kept[kept.len() - 60..]);
        assert_eq!(clean("a\u{7}\tb\r\nc", &[]), "a\tb\nc");
    }
}
