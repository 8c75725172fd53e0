//! `acceptance`: tries on a site's own machine everything that cannot be tried where vcld is made, over the API that
//! everybody uses, and writes a report that can be sent on.
//!
//! ```text
//!  look → load → capture as a new image, resume → verify → take back → load the copy → compare → capture the copy, keep it off
//!  → take back → delete the new image
//! ```
//!
//! Each thing is a check. One that fails ends the trying; what was made is tidied up all the same, and what could not be is
//! named. The image that is tried is never written to.

mod mask;
mod report;

use crate::cli::AcceptanceArguments;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::Follower;
use crate::outage::Patience;
use crate::screen::Screen;
use chrono::Utc;
use report::{Check, Failed, Files, Report};
use std::time::Instant;
use vcl_types::api::{ComputerView, FindingLevel, JobView, PowerState};
use vcl_types::state::{computer, job};
use vcl_types::{After, CaptureInto, HostKey, ImageName, ImageRef, JobId, JobRequest, OsName, ReservationId};

/// How much of each text that was kept of a failure goes into the report: its end.
const EVIDENCE: usize = 16 * 1024;

/// What cannot be asked for over the API, and so is not tried.
const NOT_TRIED: [&str; 3] = [
    "other end states than the one that the backend asks for: the plans of the captures show which one that is",
    "sanitize: no job does it on its own",
    "an interruption of the daemon in the middle of a job",
];

pub(super) async fn run(asked: AcceptanceArguments, client: &Client, screen: &mut Screen) -> Result<()> {
    let began = Utc::now();
    let name = format!("acceptance-{}-{}", asked.computer, began.format("%Y%m%d-%H%M%S"));
    let files = Files::create(asked.report.as_deref().unwrap_or(std::path::Path::new(&name)))?;
    let copy: ImageName = format!("acceptance-{}", began.format("%Y%m%d-%H%M%S"))
        .parse()
        .map_err(|_| Error::new(ErrorKind::Local, "the clock gives no name for an image"))?;
    let report = Report {
        report: "vcld acceptance".to_owned(),
        version: 1,
        vclctl: env!("CARGO_PKG_VERSION").to_owned(),
        os: OsName::from(asked.os),
        computer: asked.computer.clone(),
        image: asked.image.clone(),
        began,
        ended: began,
        passed: false,
        checks: Vec::new(),
        not_tried: NOT_TRIED.iter().map(|s| (*s).to_owned()).collect(),
    };
    let mut trial = Trial { asked, client, screen, report, copy, reservation: None, captured: Vec::new() };
    let passed = trial.everything().await.is_some();
    let tidy = trial.tidy().await.is_some();
    let Trial { mut report, screen, asked, .. } = trial;
    (report.passed, report.ended) = (passed && tidy, Utc::now());
    report.mask();
    files.write(&report)?;
    if screen.json {
        screen.print_json(&report)?;
    } else {
        screen.print(&report.text())?;
    }
    screen.say(&format!("the report is in {files}; read it before it is sent on"));
    if report.passed {
        return Ok(());
    }
    let wrong = report.checks.iter().filter(|check| check.failed.is_some()).map(|check| check.name.as_str());
    let wrong = wrong.collect::<Vec<_>>().join(", ");
    Err(Error::new(ErrorKind::Job, format!("{} does not pass: {wrong}", asked.computer)))
}

struct Trial<'a> {
    asked: AcceptanceArguments,
    client: &'a Client,
    screen: &'a mut Screen,
    report: Report,
    /// The throw-away image.
    copy: ImageName,
    /// The reservation that our last load began.
    reservation: Option<ReservationId>,
    /// The revisions of the throw-away image that there are, oldest first.
    captured: Vec<ImageRef>,
}

/// What a check found out: lines for the report.
type Found = Vec<String>;

impl Trial<'_> {
    /// Everything in order; `None` when something failed.
    async fn everything(&mut self) -> Option<()> {
        let original = self.asked.image.clone();
        self.look().await?;
        let load = self.load(original.clone());
        self.plan("plan of the load", &load).await?;
        self.load_it("load", load).await?;
        let first = self.ready("ready after the load", &original, &[]).await?;
        let capture = self.capture(CaptureInto::New(self.copy.clone()), After::Resume);
        self.plan("plan of the capture", &capture).await?;
        let made = self.job("capture as a new image, and resume", capture).await?;
        let copy = self.made("the new image", &made)?;
        // It was generalised, and made itself new keys when it was started again.
        let second = self.ready("ready after the capture, as somebody else", &original, &[&first]).await?;
        self.job("read the new image again", JobRequest::Verify { image: copy.clone() }).await?;
        self.take_back("take the computer back").await?;
        self.free("the computer holds nothing again").await?;
        let load = self.load(copy.clone());
        self.load_it("load the copy", load).await?;
        self.ready("ready as a copy, with an identity of its own", &copy, &[&first, &second]).await?;
        let capture = self.capture(CaptureInto::Next, After::KeepOff);
        let made = self.job("capture the copy, and keep it off", capture).await?;
        self.made("its next revision", &made)?;
        self.off("off after the capture").await?;
        self.take_back("take the computer back again").await
    }

    /// Gives back what was taken and removes what was made. Every part of it is tried.
    async fn tidy(&mut self) -> Option<()> {
        let mut well = Some(());
        // Nobody keeps the computer for us between two jobs: it may be somebody else's by now.
        if let Some(ours) = self.reservation {
            let (client, name) = (self.client, self.asked.computer.clone());
            let mut held = true;
            let looked = self.check("tidy up: look who has the computer", async {
                let view = client.computer(&name).await?;
                held = view.loaded.is_some() && view.reservation == Some(ours);
                Ok(match view.reservation {
                    Some(other) if other != ours => {
                        vec![format!("it is somebody else's by now: reservation {other}")]
                    }
                    _ => Vec::new(),
                })
            });
            if looked.await.is_none()
                || (held && self.take_back("tidy up: take the computer back").await.is_none())
            {
                well = None;
            }
        }
        if self.asked.keep {
            return well;
        }
        // The newest first: it may lie on the one before it.
        for image in std::mem::take(&mut self.captured).into_iter().rev() {
            let name = format!("tidy up: delete {image}");
            if self.job(&name, JobRequest::DeleteImage { image, now: true }).await.is_none() {
                well = None;
            }
        }
        well
    }

    async fn look(&mut self) -> Option<()> {
        let (client, os, asked) = (self.client, self.report.os, self.asked.image.clone());
        self.check("the daemon and its findings", async {
            let status = client.status().await?;
            let mut found = vec![format!("vcld {} on {}", status.version, status.node)];
            for finding in client.doctor(false).await? {
                if finding.level != FindingLevel::Ok {
                    let level = serde_json::to_value(finding.level).unwrap_or_default();
                    let level = level.as_str().unwrap_or_default().to_owned();
                    let way_out = finding.way_out.map(|w| format!("; {w}")).unwrap_or_default();
                    found.push(format!("{level}: {}: {}{way_out}", finding.what, finding.found));
                }
            }
            Ok(found)
        })
        .await?;
        self.free("the computer holds nothing").await?;
        self.check("the image is of that operating system", async {
            let image = client.image(&asked.name).await?;
            let revision = match asked.revision {
                Some(number) => image.revisions.iter().find(|r| r.manifest.revision == number),
                None => image.revisions.last(),
            };
            let Some(revision) = revision else {
                return refuse(format!("there is no {asked}: vclctl image show {}", asked.name));
            };
            let manifest = &revision.manifest;
            if manifest.os != os {
                let is = manifest.os;
                return refuse(format!(
                    "{} is an image of {is}: vclctl acceptance {is} …",
                    manifest.image_ref()
                ));
            }
            let was = if manifest.generalised { "generalised" } else { "imported as it was" };
            Ok(vec![format!("{}, {was}, {}, {}", manifest.image_ref(), manifest.hardware, revision.size)])
        })
        .await
    }

    /// Whether the computer can be had: it is loaded and captured here.
    async fn free(&mut self, check: &str) -> Option<()> {
        let (client, name) = (self.client, self.asked.computer.clone());
        self.check(check, async {
            let view = client.computer(&name).await?;
            let backend = &view.computer.backend;
            if view.state != computer::State::Available || view.loaded.is_some() {
                let state = view.state;
                return refuse(format!(
                    "{name} is {state}; it is loaded and captured here, so it has to be free: vclctl unload {name}"
                ));
            }
            Ok(vec![format!("{name} on backend {backend}")])
        })
        .await
    }

    fn load(&self, image: ImageRef) -> JobRequest {
        JobRequest::Load { computer: self.asked.computer.clone(), image }
    }
    fn capture(&self, into: CaptureInto, after: After) -> JobRequest {
        let computer = self.asked.computer.clone();
        let note = Some("made by vclctl acceptance; to be deleted".to_owned());
        JobRequest::Capture { computer, into, after, power_on: false, note, whole: false }
    }

    /// Loads, and notes which reservation that began: what is given back in the end is this one and no other.
    async fn load_it(&mut self, name: &str, load: JobRequest) -> Option<()> {
        self.job(name, load).await?;
        let (client, computer) = (self.client, self.asked.computer.clone());
        let mut began = None;
        self.check(&format!("{name}: its reservation"), async {
            began = client.computer(&computer).await?.reservation;
            match began {
                Some(id) => Ok(vec![format!("reservation {id}")]),
                None => refuse(format!("{computer} is not reserved after its load")),
            }
        })
        .await?;
        self.reservation = began;
        Some(())
    }

    async fn take_back(&mut self, name: &str) -> Option<()> {
        self.job(name, JobRequest::Unload { computer: self.asked.computer.clone() }).await.map(drop)
    }

    async fn plan(&mut self, name: &str, request: &JobRequest) -> Option<()> {
        let client = self.client;
        self.check(name, async {
            let plan = client.plan(request).await?;
            if let Some(hindrance) = plan.hindrance {
                return refuse(hindrance);
            }
            Ok(plan.steps.into_iter().map(|step| format!("{}: {}", step.name, step.what)).collect())
        })
        .await
    }

    /// It is on, lets vcld in with keys that are pinned, and none of its keys is one that it must not have.
    async fn ready(&mut self, name: &str, holds: &ImageRef, others: &[&[HostKey]]) -> Option<Vec<HostKey>> {
        let (client, computer) = (self.client, self.asked.computer.clone());
        let mut keys = Vec::new();
        self.check(name, async {
            let view: ComputerView = client.computer(&computer).await?;
            let Some(loaded) = view.loaded else { return refuse(format!("{computer} holds nothing")) };
            let same = loaded.image.name == holds.name
                && holds.revision.is_none_or(|r| loaded.image.revision == Some(r));
            if !same {
                return refuse(format!("{computer} holds {} and not {holds}", loaded.image));
            }
            if view.power != Some(PowerState::On) {
                return refuse(format!("{computer} is not on"));
            }
            keys = loaded.endpoint.host_keys.keys;
            if keys.is_empty() {
                return refuse(format!("no ssh host key of {computer} is pinned"));
            }
            if let Some(key) = keys.iter().find(|key| others.iter().any(|other| other.contains(key))) {
                return refuse(format!(
                    "{computer} still has the host key {} of the machine it is a copy of",
                    short(key)
                ));
            }
            let source = serde_json::to_value(loaded.endpoint.host_keys.source).unwrap_or_default();
            let mut found = vec![format!("keys known from: {}", source.as_str().unwrap_or_default())];
            found.extend(keys.iter().map(|key| format!("host key {}", short(key))));
            Ok(found)
        })
        .await?;
        Some(keys)
    }

    async fn off(&mut self, name: &str) -> Option<()> {
        let (client, computer) = (self.client, self.asked.computer.clone());
        self.check(name, async {
            match client.computer(&computer).await?.power {
                Some(PowerState::Off) => Ok(Vec::new()),
                power => refuse(format!("{computer} is {power:?} and not off")),
            }
        })
        .await
    }

    /// Notes a revision that a job made.
    fn made(&mut self, name: &str, job: &JobView) -> Option<ImageRef> {
        let made = job.result.as_deref().and_then(|text| text.parse::<ImageRef>().ok());
        let failed = match &made {
            Some(image) => {
                self.captured.push(image.clone());
                None
            }
            None => Some(Failed {
                why: format!("job {} does not say what it made", job.id),
                evidence: Vec::new(),
            }),
        };
        let found = made.iter().map(ToString::to_string).collect();
        self.note(Check { name: name.to_owned(), took_s: 0.0, found, job: None, failed });
        made
    }

    /// Does one thing that is no job, and notes how it went.
    async fn check(&mut self, name: &str, work: impl Future<Output = Result<Found>>) -> Option<()> {
        let began = Instant::now();
        let (found, failed) = match work.await {
            Ok(found) => (found, None),
            Err(e) => (Vec::new(), Some(Failed { why: e.line(), evidence: Vec::new() })),
        };
        let passed = failed.is_none();
        self.note(Check {
            name: name.to_owned(),
            took_s: began.elapsed().as_secs_f64(),
            found,
            job: None,
            failed,
        });
        passed.then_some(())
    }

    /// Does a job, and notes its steps and, when it failed, what was kept of that.
    async fn job(&mut self, name: &str, request: JobRequest) -> Option<JobView> {
        let began = Instant::now();
        self.screen.say(name);
        let ended = self.done(&request).await;
        let took_s = began.elapsed().as_secs_f64();
        let (job, failed) = match ended {
            Ok(job) if job.state == job::State::Done => (Some(job), None),
            Ok(job) => {
                let why = job.reason.clone().unwrap_or_else(|| format!("it is {}", job.state));
                let evidence = self.evidence(job.id).await;
                (Some(job), Some(Failed { why, evidence }))
            }
            Err(e) => (None, Some(Failed { why: e.line(), evidence: Vec::new() })),
        };
        let mut found = Vec::new();
        if let Some(job) = &job {
            found = self.events(job.id).await;
        }
        let passed = failed.is_none();
        self.note(Check { name: name.to_owned(), took_s, found, job: job.clone(), failed });
        job.filter(|_| passed)
    }

    async fn done(&mut self, request: &JobRequest) -> Result<JobView> {
        let id = self.client.submit(request).await?.job;
        let mut display = self.screen.display(id);
        Follower::new(self.client, id, display.as_mut(), Patience::default()).run().await
    }

    /// What a job told beside its steps.
    async fn events(&self, id: JobId) -> Vec<String> {
        let events = self.client.events(Some(id), None, 200).await.unwrap_or_default();
        let own = |kind: &str| !kind.starts_with("job-") && !kind.starts_with("step-");
        events.into_iter().filter(|e| own(&e.kind)).map(|e| format!("{}: {}", e.kind, e.message)).collect()
    }

    /// The texts that were kept of a failure.
    async fn evidence(&self, id: JobId) -> Vec<(String, String)> {
        let mut kept = Vec::new();
        for part in self.client.evidence(id).await.unwrap_or_default() {
            if !part.media_type.starts_with("text/") {
                continue;
            }
            if let Ok(bytes) = self.client.evidence_part(id, &part.name, Some(part.attempt)).await {
                let from = bytes.len().saturating_sub(EVIDENCE);
                kept.push((part.name, String::from_utf8_lossy(&bytes[from..]).into_owned()));
            }
        }
        kept
    }

    fn note(&mut self, check: Check) {
        let how = match &check.failed {
            None => "passed".to_owned(),
            Some(failed) => format!("FAILED: {}", mask::masked(&failed.why)),
        };
        self.screen.say(&format!("{}: {how}", check.name));
        self.report.checks.push(check);
    }
}

fn refuse<T>(why: String) -> Result<T> {
    Err(Error::new(ErrorKind::Refused, why))
}

/// A key as a report shows it: enough to tell two apart.
fn short(key: &HostKey) -> String {
    let from = key.key.len().saturating_sub(12);
    format!("{} …{}", key.algorithm, key.key.get(from..).unwrap_or_default())
}
