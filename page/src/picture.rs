//! Pictures that are drawn here: a step against its usual, an image's lineage, charts of days.
//!
//! They are SVG without a style of their own: the style sheet knows their classes.

use crate::show::escaped;
use askama::filters::Safe;
use std::collections::HashMap;
use std::fmt::Write as _;
use vcl_types::api::{ImageView, Usual};

/// How long something took against how long it usually takes: a bar, with a mark at the median and a band up to the 95th
/// percentile.
#[must_use]
pub fn against_usual(took_ms: u64, usual: Usual) -> Safe<String> {
    let whole = took_ms.max(usual.p95_ms + usual.p95_ms / 8).max(1);
    // Tenths of a percent, of a picture 1000 wide.
    let x = |ms: u64| ms * 1000 / whole;
    let late = if took_ms > usual.p95_ms { "usual-late" } else { "usual-now" };
    let (p50, p95, now) = (x(usual.p50_ms), x(usual.p95_ms), x(took_ms));
    Safe(format!(
        "<svg viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect class=\"usual-back\" width=\"1000\" height=\"10\"/>\
         <rect class=\"usual-band\" x=\"{p50}\" width=\"{}\" height=\"10\"/>\
         <rect class=\"{late}\" y=\"2\" width=\"{now}\" height=\"6\"/>\
         <path class=\"usual-mark\" d=\"M{p50} 0v10\" vector-effect=\"non-scaling-stroke\"/></svg>",
        p95.saturating_sub(p50)
    ))
}

const BOX: (usize, usize) = (150, 40);
const BETWEEN: (usize, usize) = (36, 14);

/// Which revisions of an image came of which, from the left to the right. A parent that is another image's stands at the left
/// of what came of it.
#[must_use]
pub fn lineage(image: &ImageView, label: &str) -> Safe<String> {
    // Where each stands: a column after its parent's, each in a row of its own unless it goes on where its parent's ends.
    let mut places: HashMap<String, (usize, usize)> = HashMap::new();
    let mut continued: HashMap<String, bool> = HashMap::new();
    let (mut rows, mut columns) = (0, 0);
    let (mut boxes, mut lines) = (String::new(), String::new());
    let mut put = |name: &str, parent: Option<&str>, places: &mut HashMap<String, (usize, usize)>| {
        let place = match parent.and_then(|parent| places.get(parent).copied().map(|place| (parent, place))) {
            Some((parent, (column, row))) => {
                let taken = continued.insert(parent.to_owned(), true).is_some();
                if taken {
                    rows += 1;
                    (column + 1, rows - 1)
                } else {
                    (column + 1, row)
                }
            }
            None => {
                rows += 1;
                (0, rows - 1)
            }
        };
        columns = columns.max(place.0 + 1);
        places.insert(name.to_owned(), place);
        place
    };
    let corner =
        |(column, row): (usize, usize)| (column * (BOX.0 + BETWEEN.0) + 2, row * (BOX.1 + BETWEEN.1) + 2);
    let mut draw = |place, class: &str, name: &str, below: &str| {
        let (x, y) = corner(place);
        // A box shows the end of a name: that is where the revisions of one image differ.
        let letters: Vec<char> = name.chars().collect();
        let shown: String = match letters.len() > 18 {
            true => std::iter::once('…').chain(letters[letters.len() - 17..].iter().copied()).collect(),
            false => name.to_owned(),
        };
        let _ = write!(
            boxes,
            "<g class=\"{class}\"><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"5\"/>\
             <text x=\"{}\" y=\"{}\">{}</text><text class=\"soft\" x=\"{}\" y=\"{}\">{}</text></g>",
            escaped(name),
            BOX.0,
            BOX.1,
            x + 9,
            y + 16,
            escaped(&shown),
            x + 9,
            y + 32,
            escaped(below)
        );
    };
    for revision in &image.revisions {
        let name = revision.manifest.image_ref().to_string();
        let parent = revision.manifest.parent.as_ref().map(ToString::to_string);
        if let Some(parent) = &parent
            && !places.contains_key(parent)
        {
            let place = put(parent, None, &mut places);
            draw(place, "gone", parent, "");
        }
        let place = put(&name, parent.as_deref(), &mut places);
        let class = if revision.production { "production" } else { "revision" };
        draw(place, class, &name, &revision.size.to_string());
        if let Some(from) = parent.and_then(|parent| places.get(&parent).copied()) {
            let (x1, y1) = (corner(from).0 + BOX.0, corner(from).1 + BOX.1 / 2);
            let (x2, y2) = (corner(place).0, corner(place).1 + BOX.1 / 2);
            let middle = (x1 + x2) / 2;
            let _ = write!(lines, "<path d=\"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}\"/>");
        }
    }
    let width = columns.max(1) * (BOX.0 + BETWEEN.0) - BETWEEN.0 + 4;
    let height = rows.max(1) * (BOX.1 + BETWEEN.1) - BETWEEN.1 + 4;
    Safe(format!(
        "<svg class=\"lineage\" role=\"img\" aria-label=\"{}\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">{lines}{boxes}</svg>",
        escaped(label)
    ))
}

/// How a row of values is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// A line with a dot at each value.
    Line,
    /// A second, dashed one.
    Dashed,
    /// A block for each value.
    Blocks,
    /// A line with what is below it filled.
    Area,
}

impl Drawn {
    /// Its class in the style sheet.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Self::Line | Self::Area => "one",
            Self::Dashed => "two",
            Self::Blocks => "block",
        }
    }
}

/// A row of values, one for each day.
#[derive(Debug)]
pub struct Series {
    /// How it is drawn.
    pub drawn: Drawn,
    /// The values; none where nothing is known.
    pub values: Vec<Option<f64>>,
}

const SIZE: (f64, f64) = (520.0, 180.0);
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 22.0;
const TOP: f64 = 8.0;

/// What an axis counts, which decides what its steps are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Tens.
    Things,
    /// Powers of 1024.
    Bytes,
    /// Minutes and hours.
    Seconds,
}

/// Steps of time that are more than tens of seconds: minutes, hours, and days.
const TIMES: [f64; 12] =
    [30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14_400.0, 21_600.0, 43_200.0];

/// A step of an axis that people count in, so that about four of them reach a value.
fn step(most: f64, counted: Counted) -> f64 {
    let rough = (most / 4.0).max(f64::MIN_POSITIVE);
    match counted {
        Counted::Seconds if rough > 20.0 => {
            let day = 86_400.0;
            return TIMES
                .into_iter()
                .find(|step| *step >= rough)
                .unwrap_or_else(|| (rough / day).ceil() * day);
        }
        Counted::Bytes if rough >= 1024.0 => {
            let unit = 1024_f64.powf(rough.log(1024.0).floor());
            return (unit * step(most / unit, Counted::Things)).min(unit * 1024.0);
        }
        _ => {}
    }
    let power = 10_f64.powf(rough.log10().floor());
    let of = rough / power;
    power
        * if of <= 1.0 {
            1.0
        } else if of <= 2.0 {
            2.0
        } else if of <= 5.0 {
            5.0
        } else {
            10.0
        }
}

/// A chart of days. `unit` writes a value of the axis.
#[must_use]
pub fn chart(
    label: &str,
    days: &[String],
    series: &[Series],
    (counted, unit): (Counted, &dyn Fn(f64) -> String),
) -> Safe<String> {
    let values = series.iter().flat_map(|s| s.values.iter().flatten().copied());
    let most = values.fold(0.0_f64, f64::max);
    let step = step(if most > 0.0 { most } else { 1.0 }, counted);
    let steps = (most / step).ceil().max(1.0);
    let top = steps * step;
    let (width, height) = (SIZE.0 - LEFT - 8.0, SIZE.1 - TOP - BOTTOM);
    let count = days.len().max(1) as f64;
    let x = |n: usize| LEFT + width * (n as f64 + 0.5) / count;
    let y = |value: f64| TOP + height * (1.0 - value / top);
    let mut text = format!(
        "<svg class=\"chart\" role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {} {}\">",
        escaped(label),
        SIZE.0,
        SIZE.1
    );
    for n in 0..=(steps as u32) {
        let value = f64::from(n) * step;
        let at = y(value);
        let _ = write!(
            text,
            "<path class=\"axis\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            SIZE.0 - 8.0,
            LEFT - 6.0,
            at + 4.0,
            escaped(&unit(value))
        );
    }
    // As many days are written as there is room for.
    let every = days.len().div_ceil(6).max(1);
    for (n, day) in days.iter().enumerate().filter(|(n, _)| n % every == 0) {
        let _ = write!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(n),
            SIZE.1 - 6.0,
            escaped(day)
        );
    }
    for series in series {
        draw(&mut text, series, (&x, &y), width / count);
    }
    text.push_str("</svg>");
    Safe(text)
}

fn draw(text: &mut String, series: &Series, (x, y): (&dyn Fn(usize) -> f64, &dyn Fn(f64) -> f64), room: f64) {
    let known = || series.values.iter().enumerate().filter_map(|(n, value)| value.map(|value| (n, value)));
    if series.drawn == Drawn::Blocks {
        let wide = (room * 0.7).max(1.0);
        for (n, value) in known().filter(|(_, value)| *value > 0.0) {
            let (left, top) = (x(n) - wide / 2.0, y(value));
            let _ = write!(
                text,
                "<rect class=\"block\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{wide:.1}\" height=\"{:.1}\"/>",
                (y(0.0) - top).max(0.5)
            );
        }
        return;
    }
    let mut line = String::new();
    let mut before = None;
    for (n, value) in known() {
        // Days of which nothing is known leave a gap.
        let pen = if before.is_some_and(|before: usize| before + 1 == n) { 'L' } else { 'M' };
        let _ = write!(line, "{pen}{:.1} {:.1}", x(n), y(value));
        before = Some(n);
    }
    let (first, last) = (known().next().map(|(n, _)| n), known().next_back().map(|(n, _)| n));
    if let (Drawn::Area, Some(first), Some(last)) = (series.drawn, first, last) {
        let down = y(0.0);
        let _ = write!(
            text,
            "<path class=\"area\" d=\"{line}L{:.1} {down:.1}L{:.1} {down:.1}Z\"/>",
            x(last),
            x(first)
        );
    }
    let _ = write!(text, "<path class=\"{}\" d=\"{line}\"/>", series.drawn.class());
    let dots = if series.drawn == Drawn::Dashed { "dot-two" } else { "dot-one" };
    for (n, value) in known() {
        let _ =
            write!(text, "<circle class=\"{dots}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.2\"/>", x(n), y(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_axis_goes_in_steps_that_people_count_in() {
        let (things, bytes, seconds) = (Counted::Things, Counted::Bytes, Counted::Seconds);
        let gib = 1024.0 * 1024.0 * 1024.0;
        for (most, counted, wanted) in [
            (1.0, things, 0.5),
            (3.9, things, 1.0),
            (7.0, things, 2.0),
            (100.0, things, 50.0),
            (4321.0, things, 2000.0),
            (700.0, bytes, 200.0),
            (6.0 * gib, bytes, 2.0 * gib),
            (3900.0 * gib, bytes, 1000.0 * gib),
            (12.0, seconds, 5.0),
            (100.0, seconds, 30.0),
            (1500.0, seconds, 600.0),
            (90_000.0, seconds, 43_200.0),
            (1e6, seconds, 3.0 * 86_400.0),
        ] {
            let got = step(most, counted);
            assert!((got - wanted).abs() < 1e-9, "{most} {counted:?}: {got}");
        }
    }
    #[test]
    fn a_step_within_its_usual_looks_otherwise_than_one_beyond() {
        let usual = Usual { p50_ms: 1000, p95_ms: 2000, runs: 9 };
        assert!(against_usual(1500, usual).0.contains("usual-now"));
        assert!(against_usual(2500, usual).0.contains("usual-late"));
        assert!(against_usual(0, Usual { p50_ms: 0, p95_ms: 0, runs: 3 }).0.contains("width=\"0\""));
    }
    #[test]
    fn days_of_which_nothing_is_known_leave_a_gap_and_names_are_no_markup() {
        let days: Vec<String> = (1..=4).map(|n| format!("{n}<")).collect();
        let series = [Series { drawn: Drawn::Line, values: vec![Some(1.0), None, Some(2.0), Some(3.0)] }];
        let picture = chart("a \"b\"", &days, &series, (Counted::Things, &|value| format!("{value}")));
        let line = picture.0.split("class=\"one\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!((line.matches('M').count(), line.matches('L').count()), (2, 1), "{line}");
        assert!(picture.0.contains("&lt;") && picture.0.contains("a &quot;b&quot;"));
        assert!(chart("", &[], &[], (Counted::Things, &|_| String::new())).0.ends_with("</svg>"));
    }
    #[test]
    fn a_lineage_has_a_row_for_each_branch() {
        let revision = |n: u32, parent: Option<&str>| {
            json!({
                "manifest": { "version": 1, "image": "gis", "revision": n, "parent": parent, "os": "linux", "generalised": true,
                    "hardware": serde_json::to_value(vcl_types::Hardware::default()).unwrap(), "disks": [], "firmware": null,
                    "boot": null, "backend": null, "job": null, "created": "2026-01-01T00:00:00Z", "note": null },
                "size": 1024, "used_by": [], "here": true, "production": n == 2,
            })
        };
        let image: ImageView = serde_json::from_value(json!({ "name": "gis", "revisions": [
            revision(1, None), revision(2, Some("gis@1")), revision(3, Some("gis@1")), revision(4, Some("old@7")),
        ] }))
        .unwrap();
        let picture = lineage(&image, "").0;
        assert_eq!(picture.matches("<rect").count(), 5, "four and a parent of another image's");
        assert_eq!(picture.matches("<path").count(), 3);
        assert_eq!(picture.matches("class=\"production\"").count(), 1);
        assert!(picture.contains("height=\"152\""), "{picture}");
    }
}
