//! Charts: how long loads and captures take, how much the computers are used, how long people wait, how the library grows.

use crate::picture::{self, Counted, Drawn, Series};
use crate::show;
use crate::{Frame, Texts};
use askama::Template;
use askama::filters::Safe;
use vcl_types::usage::{DayTrend, Trends, UsageReport};

/// What a line or a block of a chart stands for.
#[derive(Debug)]
pub struct Key {
    /// How it is drawn.
    pub class: &'static str,
    /// Its key in the catalogue.
    pub text: &'static str,
}

/// A day's values, for who would rather read them.
pub struct Row {
    /// The day.
    pub day: String,
    /// What each line has there.
    pub values: Vec<String>,
}

/// One chart.
pub struct Chart {
    /// Its title's key in the catalogue.
    pub title: &'static str,
    /// Whether there is nothing to draw.
    pub empty: bool,
    /// It.
    pub picture: Safe<String>,
    /// What is what.
    pub keys: Vec<Key>,
    /// The same as a table.
    pub rows: Vec<Row>,
}

/// All of them.
#[derive(Template)]
#[template(path = "charts.html")]
pub struct Charts<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// Whether only what is the reader's own is in them.
    pub own: bool,
    /// Of how many days they are.
    pub days: u32,
    /// They.
    pub charts: Vec<Chart>,
    /// How the computers were used.
    pub usage: Option<&'a UsageReport>,
}

type Value = fn(&DayTrend) -> Option<f64>;
type Write = fn(f64) -> String;

fn chosen(one: &str, usage: &UsageReport) -> bool {
    usage.by.as_str() == one
}
fn seconds(value: f64) -> String {
    if value < 10.0 && value > 0.0 { format!("{value:.1} s") } else { show::span(value.round() as u64) }
}
fn hours(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 { format!("{value:.1} h") } else { format!("{value:.0} h") }
}
fn count(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { String::new() }
}
fn bytes(value: f64) -> String {
    show::bytes(value as u64)
}

/// A chart of some lines.
fn chart(
    texts: Texts<'_>,
    title: &'static str,
    days: &[DayTrend],
    lines: &[(Drawn, &'static str, Value)],
    (counted, write): (Counted, Write),
) -> Chart {
    let names: Vec<String> = days.iter().map(|day| day.day.format("%-d %b").to_string()).collect();
    let series: Vec<Series> = lines
        .iter()
        .map(|(drawn, _, value)| Series { drawn: *drawn, values: days.iter().map(value).collect() })
        .collect();
    let row = |day: &DayTrend| Row {
        day: day.day.to_string(),
        values: lines.iter().map(|(_, _, value)| value(day).map(write).unwrap_or_default()).collect(),
    };
    Chart {
        title,
        empty: !series.iter().flat_map(|series| series.values.iter().flatten()).any(|value| *value > 0.0),
        picture: picture::chart(&texts.say(title), &names, &series, (counted, &write)),
        keys: lines.iter().map(|(drawn, text, _)| Key { class: drawn.class(), text }).collect(),
        rows: days.iter().rev().map(row).collect(),
    }
}

impl<'a> Charts<'a> {
    /// From what the API says.
    #[must_use]
    pub fn new(frame: Frame<'a>, trends: &Trends, usage: Option<&'a UsageReport>) -> Self {
        let (texts, days) = (frame.texts, &trends.days);
        let mut charts = Vec::new();
        if !trends.own {
            charts.push(chart(
                texts,
                "charts-loads",
                days,
                &[
                    (Drawn::Line, "charts-p50", |day| day.load_p50_s),
                    (Drawn::Dashed, "charts-p95", |day| day.load_p95_s),
                ],
                (Counted::Seconds, seconds),
            ));
            charts.push(chart(
                texts,
                "charts-captures",
                days,
                &[
                    (Drawn::Line, "charts-p50", |day| day.capture_p50_s),
                    (Drawn::Dashed, "charts-p95", |day| day.capture_p95_s),
                ],
                (Counted::Seconds, seconds),
            ));
        }
        charts.push(chart(
            texts,
            "charts-use",
            days,
            &[(Drawn::Blocks, "charts-hours", |day| Some(day.hours))],
            (Counted::Things, hours),
        ));
        charts.push(chart(
            texts,
            "charts-many",
            days,
            &[(Drawn::Blocks, "charts-reservations", |day| Some(day.reservations as f64))],
            (Counted::Things, count),
        ));
        charts.push(chart(
            texts,
            "charts-waits",
            days,
            &[
                (Drawn::Line, "charts-p50", |day| day.wait_p50_s),
                (Drawn::Dashed, "charts-p90", |day| day.wait_p90_s),
            ],
            (Counted::Seconds, seconds),
        ));
        if !trends.own {
            charts.push(chart(
                texts,
                "charts-library",
                days,
                &[(Drawn::Area, "charts-bytes", |day| day.library.map(|size| size.0 as f64))],
                (Counted::Bytes, bytes),
            ));
        }
        let days = u32::try_from(days.len()).unwrap_or(u32::MAX);
        Self { own: trends.own, days, charts, usage, frame }
    }
}
