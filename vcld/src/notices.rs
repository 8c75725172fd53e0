//! Notices: people are told by mail and webhook what becomes of their reservations, administrators what needs them.
//!
//! What is to be told stands in the outbox (`vcl_queue::notices`), written by the transaction that made it true. This is
//! the other end: a reconciler takes what is due, makes a text of it, hands it to the mail server and posts it, and writes
//! down what came of it. What fails is tried again later and later, until `notices.give_up`. Every node of a site runs it; each
//! notice is taken by one. A node that dies between sending and writing it down sends again, under the same name: a mail has
//! the same `Message-ID` then, a post the same `Idempotency-Key`.
//!
//! | what | where |
//! |---|---|
//! | the texts | `texts` |
//! | the mail server | `mail` |
//! | the webhook | `webhook` |
//!
//! Texts know facts and no secrets: no password, token or key is ever among the facts of a notice.

mod mail;
mod texts;
mod webhook;

use crate::node::{Node, chain};
use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use futures::stream::{FuturesUnordered, StreamExt as _};
use mail::Mail;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use texts::{Text, Texts};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use vcl_config::{Config, Notices};
use vcl_queue::{NoticeRow, Sending};
use vcl_types::api::{Finding, FindingLevel};
use webhook::Hook;

/// How often it is looked whether something is due that nobody announced.
const LOOK: Duration = Duration::from_secs(2);
/// How long a server may take for one notice.
const SEND: Duration = Duration::from_secs(20);
/// For how long a node has what it took to itself: longer than both channels may take.
const HOLD: TimeDelta = TimeDelta::seconds(60);
/// How many are sent at once.
const AT_ONCE: u32 = 8;
/// How long the first wait is before one is tried again; each further one is twice as long, up to the longest.
const FIRST: TimeDelta = TimeDelta::seconds(5);
const LONGEST: TimeDelta = TimeDelta::minutes(30);
/// How soon one is tried again that the server does not want.
const UNWANTED: TimeDelta = TimeDelta::minutes(10);
/// How long what was settled is kept.
const KEPT: TimeDelta = TimeDelta::days(30);
/// How long what nobody sends is kept, where this node sends nothing.
const UNTOLD: TimeDelta = TimeDelta::hours(1);
/// How often old ones are forgotten.
const FORGET: Duration = Duration::from_secs(3600);

/// Why something was not delivered.
#[derive(Debug)]
struct Undelivered {
    why: String,
    /// Whether the server has understood and does not want it: the same again is hardly any better.
    unwanted: bool,
}

/// What sends notices.
pub(crate) struct Sender {
    table: Notices,
    texts: Texts,
    mail: Option<Mail>,
    hook: Option<Hook>,
    /// Who has a mail already that others are to get yet, by the notice: it is tried again for those alone, in this life of
    /// the daemon.
    have: Mutex<BTreeMap<i64, BTreeSet<String>>>,
}

impl Sender {
    /// What the configuration says; `None` where it has no `[notices]`.
    ///
    /// # Errors
    /// A text that is none, a credential or authority that is not there.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(table) = config.notices.clone() else { return Ok(None) };
        let texts = Texts::read(table.templates.as_deref(), config.lending.timezone)?;
        let mail = table.smtp.as_ref().map(|smtp| Mail::new(config, smtp)).transpose()?;
        let hook = table.webhook.as_ref().map(|hook| Hook::new(config, hook)).transpose()?;
        Ok(Some(Self { table, texts, mail, hook, have: Mutex::default() }))
    }
}

impl Sender {
    /// Mails a notice to one of its recipients. Answers why that did not work.
    async fn mail_one(&self, mail: &Mail, row: &NoticeRow, text: &Text, to: &str) -> Option<Undelivered> {
        let sent = mail.send(row, text, to).await;
        if sent.is_ok() {
            self.have().entry(row.id).or_default().insert(to.to_owned());
        }
        sent.err()
    }
    fn have(&self) -> MutexGuard<'_, BTreeMap<i64, BTreeSet<String>>> {
        self.have.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks through the texts of a configuration, for `vcld check-config`.
///
/// # Errors
/// The first text that is wrong, with its file.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    if let Some(table) = &config.notices {
        Texts::read(table.templates.as_deref(), config.lending.timezone).context("notices.templates")?;
    }
    Ok(())
}

/// Runs until the daemon closes.
pub(crate) async fn run(node: Arc<Node>, sender: Option<Sender>, closing: CancellationToken) {
    let sending = async {
        if let Err(e) = node.queue.resume_notices(&node.name).await {
            tracing::warn!(error = chain(&e), "notices of an earlier life wait a while");
        }
        let mut changes = node.queue.submitted();
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forget = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
            changes.borrow_and_update();
            if let Some(sender) = &sender {
                while node.send_notices(sender).await {}
            }
            if forget <= Instant::now() {
                forget = Instant::now() + FORGET;
                let forgotten = node.forget_notices(sender.is_some()).await;
                if let Err(e) = forgotten {
                    tracing::warn!(error = chain(&e), "old notices are forgotten later");
                }
            }
        }
    };
    closing.run_until_cancelled(sending).await;
}

/// How long to wait after a notice was tried so many times before.
fn pause(tries: u32, unwanted: bool) -> TimeDelta {
    let long = FIRST * 2_i32.saturating_pow(tries.min(12));
    let long = long.min(LONGEST);
    if unwanted { long.max(UNWANTED) } else { long }
}

impl Node {
    /// Sends what is due. Answers whether there may be more.
    pub(crate) async fn send_notices(&self, sender: &Sender) -> bool {
        let taken = match self.queue.take_notices(&self.name, HOLD, AT_ONCE).await {
            Ok(taken) => taken,
            Err(e) => {
                tracing::warn!(error = chain(&e), "nobody could look for notices; it is tried again");
                return false;
            }
        };
        let more = taken.len() >= AT_ONCE as usize;
        let mut sending: FuturesUnordered<_> =
            taken.iter().map(|row| self.send_notice(sender, row)).collect();
        while let Some(()) = sending.next().await {}
        more
    }

    async fn send_notice(&self, sender: &Sender, row: &NoticeRow) {
        let outcome = match self.try_notice(sender, row).await {
            Ok(()) => Sending::Sent,
            Err(e)
                if row.at + TimeDelta::from_std(sender.table.give_up).unwrap_or(TimeDelta::MAX)
                    < Utc::now() =>
            {
                tracing::warn!(notice = row.name(), kind = %row.kind, error = e.why, "a notice is given up");
                Sending::GivenUp { error: e.why }
            }
            Err(e) => {
                tracing::info!(notice = row.name(), kind = %row.kind, error = e.why, "a notice is sent later");
                Sending::Again { at: Utc::now() + pause(row.tries, e.unwanted), error: e.why }
            }
        };
        if !matches!(outcome, Sending::Again { .. }) {
            sender.have().remove(&row.id);
        }
        if let Err(e) = self.queue.notice_sending(row.id, outcome).await {
            // It is this node's for a while yet, and then sent again.
            tracing::warn!(
                notice = row.name(),
                error = chain(&e),
                "what came of a notice is not written down"
            );
        }
    }

    /// Tells it where it was not told yet. One way that does not work is no reason not to go the other.
    async fn try_notice(&self, sender: &Sender, row: &NoticeRow) -> Result<(), Undelivered> {
        if sender.table.leave_out.contains(&row.kind) {
            return Ok(());
        }
        let text = sender.texts.of(row).map_err(|why| Undelivered { why, unwanted: true })?;
        let mailed = self.mail_notice(sender, row, &text).await;
        let hooked = self.post_notice(sender, row, &text).await;
        for (channel, done) in [("mail", &mailed), ("webhook", &hooked)] {
            if !matches!(done, Ok(false)) {
                self.insight.metrics.noticed(channel, done.is_ok());
            }
        }
        match (mailed, hooked) {
            (Ok(_), Ok(_)) => Ok(()),
            (Err(e), Ok(_)) | (Ok(_), Err(e)) => Err(e),
            (Err(mail), Err(hook)) => Err(Undelivered {
                why: format!("{}; {}", mail.why, hook.why),
                unwanted: mail.unwanted && hook.unwanted,
            }),
        }
    }

    /// Mails it to each recipient. Answers whether there was anybody to mail it to. It is mailed when somebody has it and
    /// nobody is left but those whom the server does not want.
    async fn mail_notice(&self, sender: &Sender, row: &NoticeRow, text: &Text) -> Result<bool, Undelivered> {
        let Some(mail) = sender.mail.as_ref().filter(|_| !row.mailed) else { return Ok(false) };
        let recipients = self.recipients(sender, row).await?;
        let have = sender.have().get(&row.id).cloned().unwrap_or_default();
        let left = recipients.iter().filter(|to| !have.contains(*to));
        let mut sending: FuturesUnordered<_> = left.map(|to| sender.mail_one(mail, row, text, to)).collect();
        let mut refused = Vec::new();
        // All of it has the time of one notice.
        let all = async {
            while let Some(failed) = sending.next().await {
                refused.extend(failed);
            }
            Ok(())
        };
        deadline("the mail server", all).await?;
        let anybody = sender.have().contains_key(&row.id);
        let unwanted = refused.iter().all(|e| e.unwanted);
        let why: Vec<String> = refused.into_iter().map(|e| e.why).collect();
        let why = why.join("; ");
        let forgiven = anybody && unwanted;
        if !why.is_empty() && !forgiven {
            return Err(Undelivered { why, unwanted });
        }
        if !why.is_empty() {
            tracing::warn!(notice = row.name(), kind = %row.kind, error = why, "a notice has not reached everybody");
        }
        self.reached(row, true).await?;
        Ok(!recipients.is_empty())
    }

    async fn post_notice(&self, sender: &Sender, row: &NoticeRow, text: &Text) -> Result<bool, Undelivered> {
        let Some(hook) = sender.hook.as_ref().filter(|_| !row.hooked) else { return Ok(false) };
        deadline("the webhook", hook.post(row, text)).await?;
        self.reached(row, false).await?;
        Ok(true)
    }

    async fn reached(&self, row: &NoticeRow, by_mail: bool) -> Result<(), Undelivered> {
        let noted = self.queue.notice_reached(row.id, by_mail).await;
        noted.map_err(|e| Undelivered { why: chain(&e), unwanted: false })
    }

    /// The addresses that a notice goes to: none for a user who has none, wants none, or is let in nowhere.
    async fn recipients(&self, sender: &Sender, row: &NoticeRow) -> Result<Vec<String>, Undelivered> {
        let mut all = if row.kind.for_admins() { sender.table.admins.clone() } else { Vec::new() };
        let Some(user) = &row.to else { return Ok(all) };
        match self.queue.user(user).await {
            Ok(user) if user.notices && !user.disabled => all.extend(user.mail),
            Ok(_) => {}
            Err(e) if e.kind == vcl_queue::Kind::NotFound => {}
            Err(e) => return Err(Undelivered { why: chain(&e), unwanted: false }),
        }
        Ok(all)
    }

    async fn forget_notices(&self, sends: bool) -> vcl_queue::Result<()> {
        self.queue.forget_notices(Utc::now() - KEPT).await?;
        if !sends {
            self.queue.forget_untold(Utc::now() - UNTOLD).await?;
        }
        Ok(())
    }

    /// What is wrong with the telling.
    pub(crate) async fn notice_findings(&self) -> Vec<Finding> {
        let finding = |level, found: String, way_out: &str| Finding {
            what: "notices".into(),
            level,
            found,
            way_out: Some(way_out.to_owned()),
        };
        if self.config.notices.is_none() {
            return Vec::new();
        }
        let look = "look at [notices] and at the server; `journalctl -u vcld` says what it answers";
        let mut findings = Vec::new();
        if let Err(e) = check(&self.config) {
            findings.push(finding(FindingLevel::Error, format!("{e:#}"), "mend the text, and restart vcld"));
        }
        match self.queue.outbox().await {
            Ok(outbox) => {
                let why = outbox.error.map(|e| format!("; the last time: {e}")).unwrap_or_default();
                if outbox.given_up > 0 {
                    let found = format!("{} notices were given up{why}", outbox.given_up);
                    findings.push(finding(FindingLevel::Warning, found, look));
                }
                if let Some(since) = outbox.oldest.filter(|at| *at + TimeDelta::minutes(15) < Utc::now()) {
                    let found = format!(
                        "{} notices wait, the oldest since {}{why}",
                        outbox.waiting,
                        since.format("%Y-%m-%d %H:%M UTC")
                    );
                    findings.push(finding(FindingLevel::Warning, found, look));
                }
            }
            Err(e) => {
                findings.push(finding(FindingLevel::Error, chain(&e), "see whether the database answers"));
            }
        }
        findings
    }
}

async fn deadline(
    what: &str,
    sending: impl Future<Output = Result<(), Undelivered>>,
) -> Result<(), Undelivered> {
    match tokio::time::timeout(SEND, sending).await {
        Ok(done) => done,
        Err(_) => {
            let why = format!("{what} has not answered within {} s", SEND.as_secs());
            Err(Undelivered { why, unwanted: false })
        }
    }
}
