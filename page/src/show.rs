//! Numbers, times and states as readers read them.
//!
//! Times go to the browser as they are and are shown there in the reader's zone; without a script they stand in UTC.

use crate::texts::Texts;
use askama::filters::Safe;
use chrono::{DateTime, Utc};
use std::borrow::Borrow;
use vcl_types::ByteSize;
use vcl_types::state::{computer, job, reservation};

fn element(at: DateTime<Utc>, kind: &str, words: &str) -> Safe<String> {
    let stamp = at.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    Safe(format!("<time datetime=\"{stamp}\" data-as=\"{kind}\">{words}</time>"))
}

/// A moment: its day and its minute.
#[must_use]
pub fn at(at: impl Borrow<DateTime<Utc>>) -> Safe<String> {
    let at = *at.borrow();
    element(at, "at", &at.format("%Y-%m-%d %H:%M UTC").to_string())
}
/// A moment of these days: its weekday and its minute.
#[must_use]
pub fn day(at: impl Borrow<DateTime<Utc>>) -> Safe<String> {
    let at = *at.borrow();
    element(at, "day", &at.format("%a %-d %b %H:%M UTC").to_string())
}
/// A moment of today: its second.
#[must_use]
pub fn clock(at: impl Borrow<DateTime<Utc>>) -> Safe<String> {
    let at = *at.borrow();
    element(at, "clock", &at.format("%H:%M:%S").to_string())
}
/// A moment of a day that stands before it: its minute.
#[must_use]
pub fn hour(at: impl Borrow<DateTime<Utc>>) -> Safe<String> {
    let at = *at.borrow();
    element(at, "hour", &at.format("%H:%M").to_string())
}
/// How long it is until then; it counts down in the browser.
#[must_use]
pub fn left(at: impl Borrow<DateTime<Utc>>, now: impl Borrow<DateTime<Utc>>) -> Safe<String> {
    let (at, now) = (*at.borrow(), *now.borrow());
    element(at, "left", &span((at - now).num_seconds().max(0).unsigned_abs()))
}
/// How long ago that was; it counts up in the browser.
#[must_use]
pub fn since(at: impl Borrow<DateTime<Utc>>, now: impl Borrow<DateTime<Utc>>) -> Safe<String> {
    let (at, now) = (*at.borrow(), *now.borrow());
    element(at, "since", &span((now - at).num_seconds().max(0).unsigned_abs()))
}

/// A length of time, in seconds, as the browser writes it too.
#[must_use]
pub fn span(s: impl Borrow<u64>) -> String {
    let s = *s.borrow();
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{}:{:02} min", s / 60, s % 60),
        3600..172_800 => format!("{}:{:02} h", s / 3600, s / 60 % 60),
        _ => format!("{} d", s / 86_400),
    }
}

/// A length of time in milliseconds: tenths of a second as long as they count.
#[must_use]
pub fn took(ms: impl Borrow<u64>) -> String {
    let ms = *ms.borrow();
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => span((ms + 500) / 1000),
    }
}

/// How long something took.
#[must_use]
pub fn between(start: impl Borrow<DateTime<Utc>>, end: impl Borrow<DateTime<Utc>>) -> String {
    took((*end.borrow() - *start.borrow()).num_milliseconds().max(0).unsigned_abs())
}

/// A number of bytes.
#[must_use]
pub fn bytes(n: impl Borrow<u64>) -> String {
    ByteSize(*n.borrow()).to_string()
}

/// From when to when a wait usually ends, in words.
#[must_use]
pub fn wait<'a>(
    texts: impl Borrow<Texts<'a>>,
    p10_s: impl Borrow<Option<u64>>,
    p90_s: impl Borrow<Option<u64>>,
) -> String {
    let texts = *texts.borrow();
    match (*p10_s.borrow(), *p90_s.borrow()) {
        (Some(from), Some(to)) if span(from) == span(to) => texts.of("wait-about", span(to)),
        (Some(from), Some(to)) => texts.with("wait-between", &[("from", &span(from)), ("to", &span(to))]),
        (None, Some(to)) => texts.of("wait-at-most", span(to)),
        (Some(from), None) => texts.of("wait-at-least", span(from)),
        (None, None) => texts.say("wait-unknown").into_owned(),
    }
}

/// How a state looks: its class in the style sheet.
pub trait Tone {
    /// One of `free`, `busy`, `moving`, `bad`, `off`.
    fn tone(&self) -> &'static str;
    /// The family of its words in the catalogue.
    fn family(&self) -> &'static str;
    /// Its word.
    fn word(&self) -> &'static str;
}
impl Tone for computer::State {
    fn tone(&self) -> &'static str {
        use computer::State;
        match self {
            State::Available => "free",
            State::Loading => "moving",
            State::Reserved | State::InUse => "busy",
            State::Broken => "bad",
            State::Maintenance => "off",
        }
    }
    fn family(&self) -> &'static str {
        "computer"
    }
    fn word(&self) -> &'static str {
        self.as_str()
    }
}
impl Tone for job::State {
    fn tone(&self) -> &'static str {
        use job::State;
        match self {
            State::Queued | State::Waiting | State::Cancelled => "off",
            State::Running => "moving",
            State::Done => "free",
            State::Failed | State::Stuck => "bad",
        }
    }
    fn family(&self) -> &'static str {
        "job"
    }
    fn word(&self) -> &'static str {
        self.as_str()
    }
}
impl Tone for reservation::State {
    fn tone(&self) -> &'static str {
        use reservation::State;
        match self {
            State::Scheduled | State::Queued | State::Ended => "off",
            State::Loading | State::Ending => "moving",
            State::Ready => "free",
            State::InUse => "busy",
        }
    }
    fn family(&self) -> &'static str {
        "reservation"
    }
    fn word(&self) -> &'static str {
        self.as_str()
    }
}

/// A state as it stands everywhere: its word, with its colour and its shape.
#[must_use]
pub fn state<'a>(texts: impl Borrow<Texts<'a>>, state: &impl Tone) -> Safe<String> {
    badge(state.tone(), texts.borrow().word(state.family(), state.word()))
}

/// Something that looks like a state.
#[must_use]
pub fn badge(tone: &str, words: impl AsRef<str>) -> Safe<String> {
    Safe(format!("<span class=\"state {tone}\">{}</span>", escaped(words.as_ref())))
}

/// A text as it stands between tags or in an attribute.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#x27;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A text as it stands in a part of a path or of a query.
#[must_use]
pub fn segment(text: impl std::fmt::Display) -> String {
    let mut safe = String::new();
    for byte in text.to_string().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'@' => {
                safe.push(char::from(byte));
            }
            other => safe.push_str(&format!("%{other:02X}")),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_clocks_write_them() {
        for (seconds, words) in
            [(0, "0 s"), (59, "59 s"), (61, "1:01 min"), (3600, "1:00 h"), (7265, "2:01 h"), (172_800, "2 d")]
        {
            assert_eq!(span(seconds), words);
        }
        assert_eq!(
            (took(1234), took(9_999), took(61_400)),
            ("1.2 s".into(), "9.9 s".into(), "1:01 min".into())
        );
    }
    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(escaped("<a b='c' d=\"e\">&"), "&lt;a b=&#x27;c&#x27; d=&quot;e&quot;&gt;&amp;");
        assert_eq!(segment("a/b c?ü"), "a%2Fb%20c%3F%C3%BC");
    }
}
