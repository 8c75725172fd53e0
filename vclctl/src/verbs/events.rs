//! What happened, and what happens.

use crate::cli::EventsArguments;
use crate::client::Client;
use crate::error::Result;
use crate::outage::{Outage, Patience};
use crate::render::events;
use crate::screen::Screen;
use vcl_types::JobId;
use vcl_types::api::{EventView, StreamItem};

/// The most events that are asked for at once.
const PAGE: u32 = 1000;

/// `events`.
pub(super) async fn run(asked: EventsArguments, client: &Client, screen: &mut Screen) -> Result<()> {
    let newest = client.events(asked.job, None, asked.limit).await?;
    let last = newest.last().map(|event| event.id);
    if !asked.follow {
        return screen.answer(&newest, |events, clock| events::list(events, clock));
    }
    let mut follower = Follower { client, screen, job: asked.job, last: last.unwrap_or(0) };
    for event in newest {
        follower.print(&event)?;
    }
    tokio::select! {
        ended = follower.run() => ended,
        // Ctrl-C is how such a list ends.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

fn belongs(event: &EventView, job: Option<JobId>) -> bool {
    job.is_none() || event.job == job
}

struct Follower<'a> {
    client: &'a Client,
    screen: &'a mut Screen,
    job: Option<JobId>,
    last: i64,
}

impl Follower<'_> {
    fn print(&mut self, event: &EventView) -> Result<()> {
        if self.screen.json {
            self.screen.print_json_line(event)
        } else {
            let line = events::line(event, &self.screen.clock);
            self.screen.print(&line)
        }
    }
    /// Prints an event unless it was printed, so that what comes twice after a reconnect is shown once.
    fn show(&mut self, event: &EventView) -> Result<()> {
        if event.id <= self.last {
            return Ok(());
        }
        self.last = event.id;
        if belongs(event, self.job) { self.print(event) } else { Ok(()) }
    }
    async fn run(&mut self) -> Result<()> {
        let mut outage = Outage::new(Patience::default());
        loop {
            if let Err(error) = self.connected(&mut outage).await {
                let told = error.line();
                if outage.begins(error)? {
                    self.screen.say(&format!("{told}; waiting for it"));
                }
            }
            outage.pause().await;
        }
    }
    async fn connected(&mut self, outage: &mut Outage) -> Result<()> {
        let mut stream = self.client.stream(self.job, Some(self.last)).await?;
        self.catch_up().await?;
        if outage.over() {
            self.screen.say("vcld is back");
        }
        while let Some(item) = stream.next().await? {
            match item {
                StreamItem::Event(event) => self.show(&event)?,
                StreamItem::Missed => self.catch_up().await?,
                StreamItem::Changed { .. } | StreamItem::Progress { .. } => {}
            }
        }
        Ok(())
    }
    async fn catch_up(&mut self) -> Result<()> {
        loop {
            let page = self.client.events(self.job, Some(self.last), PAGE).await?;
            let full = page.len() >= PAGE as usize;
            for event in page {
                self.show(&event)?;
            }
            if !full {
                return Ok(());
            }
        }
    }
}
