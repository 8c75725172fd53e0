//! Charts, for where people would rather look than read.

use super::ask::Asked;
use super::reader::{Query, Reader};
use super::{Site, failed, shown};
use axum::extract::State;
use axum::response::Response;
use chrono::{SecondsFormat, TimeDelta};
use serde::Deserialize;
use vcl_page::Place;
use vcl_page::charts::Charts;
use vcl_page::show::segment;
use vcl_types::usage::{Trends, UsageBy, UsageReport};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ChartsAsked {
    days: String,
    by: String,
}

pub(super) async fn charts(State(page): Site, reader: Reader, Query(asked): Query<ChartsAsked>) -> Response {
    let days = asked.days.parse::<u32>().unwrap_or(30).clamp(1, 400);
    let by = asked.by.parse::<UsageBy>().unwrap_or(UsageBy::Image);
    let ask = reader.ask(&page);
    let trends: Asked<Trends> = ask.get(&format!("/v1/trends?days={days}")).await;
    let from = page.node.clock.now() - TimeDelta::days(i64::from(days));
    let from = segment(from.to_rfc3339_opts(SecondsFormat::Secs, true));
    let usage: Option<UsageReport> = ask.get(&format!("/v1/usage?by={by}&from={from}")).await.ok();
    match trends {
        Ok(trends) => shown(&Charts::new(reader.frame(&page, Place::Charts), &trends, usage.as_ref())),
        Err(no) => failed(&page, &reader, Place::Charts, &no),
    }
}
