//! Computers.

use crate::cli::ComputerVerb;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::outage::{Outage, Patience};
use crate::render::{computers, text};
use crate::screen::Screen;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcl_types::api::Action;
use vcl_types::{ByteSize, ComputerName};

/// How often a console that is followed is read.
const LOOK: Duration = Duration::from_millis(700);
/// How many lines are read of it, so that the next reading overlaps this one.
const WINDOW: u32 = 2000;

/// What is wanted of computers.
pub(super) async fn run(verb: ComputerVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        ComputerVerb::List => {
            screen.answer(&client.computers().await?, |all, clock| computers::list(all, clock))
        }
        ComputerVerb::Show { name } => screen.answer(&client.computer(&name).await?, computers::one),
        ComputerVerb::Apply { dry_run } => {
            screen.answer(&client.apply(dry_run).await?, |applied, _| computers::applied(applied, dry_run))
        }
        ComputerVerb::Console { name, follow: false, lines } => {
            screen.answer(&client.console(&name, lines).await?, |console, _| text::lines(&console.text))
        }
        ComputerVerb::Console { name, follow: true, lines } => {
            if screen.json {
                return Err(Error::new(
                    ErrorKind::Usage,
                    "a console that is followed has no JSON; leave out -f or --json",
                ));
            }
            tokio::select! {
                ended = follow(client, screen, &name, lines) => ended,
                // Ctrl-C is how it ends.
                _ = tokio::signal::ctrl_c() => screen.print(""),
            }
        }
        ComputerVerb::Screenshot { name, output } => screenshot(client, screen, &name, output).await,
        ComputerVerb::Power { computer: None, action, chosen, dry_run } => {
            super::many::power(client, screen, &chosen, action.into(), dry_run).await
        }
        ComputerVerb::Power { computer: Some(computer), action, dry_run: true, .. } => {
            super::jobs::would(client, screen, Action::Power { computer, power: action.into() }).await
        }
        ComputerVerb::Power { computer: Some(name), action, dry_run: false, .. } => {
            screen.answer(&client.power(&name, action.into()).await?, |view, _| computers::powered(view))
        }
    }
}

async fn screenshot(
    client: &Client,
    screen: &mut Screen,
    name: &ComputerName,
    output: Option<PathBuf>,
) -> Result<()> {
    let file = output.unwrap_or_else(|| PathBuf::from(format!("{name}.png")));
    let to_stdout = file == Path::new("-");
    if to_stdout && (screen.out_is_terminal || screen.json) {
        return Err(Error::new(
            ErrorKind::Usage,
            "a picture cannot go to a terminal, nor beside JSON; name a file with -o",
        ));
    }
    let picture = client.screenshot(name).await?;
    if to_stdout {
        return screen.print_raw(&picture);
    }
    let shown = file.display().to_string();
    std::fs::write(&file, &picture)
        .map_err(|cause| Error::caused(ErrorKind::Local, format!("cannot write `{shown}`"), cause))?;
    let saved = serde_json::json!({ "file": shown, "bytes": picture.len() });
    screen.answer(&saved, |_, _| format!("saved {shown} ({})", ByteSize(picture.len() as u64)))
}

async fn follow(client: &Client, screen: &mut Screen, name: &ComputerName, lines: u32) -> Result<()> {
    let mut outage = Outage::new(Patience::default());
    let mut before: Option<String> = None;
    loop {
        match client.console(name, lines.max(WINDOW)).await {
            Ok(console) => {
                if outage.over() {
                    screen.say("vcld is back");
                }
                let now = text::lines(&console.text);
                let new = match &before {
                    None => newest(&now, lines as usize),
                    Some(before) => appended(before, &now).unwrap_or_else(|| {
                        screen.say("the console began anew, or was too fast to be read whole");
                        &now
                    }),
                };
                screen.print_on(new)?;
                before = Some(now);
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => {
                let told = error.line();
                if outage.begins(error)? {
                    screen.say(&format!("{told}; waiting for it"));
                }
                outage.pause().await;
            }
        }
    }
}

/// The last `lines` lines of a text.
fn newest(text: &str, lines: usize) -> &str {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let start = body.rmatch_indices('\n').nth(lines.saturating_sub(1)).map_or(0, |(at, _)| at + 1);
    &text[start..]
}

/// What a window onto the end of a growing text shows now that it did not show before; `None` when the two have
/// nothing in common.
#[must_use]
pub fn appended<'a>(before: &str, now: &'a str) -> Option<&'a str> {
    if before.is_empty() {
        return Some(now);
    }
    let starts = std::iter::once(0).chain(before.match_indices('\n').map(|(at, _)| at + 1));
    starts
        .map(|start| &before[start..])
        .filter(|rest| !rest.is_empty())
        .find_map(|rest| now.strip_prefix(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_goes_on_is_printed_once() {
        let cases = [
            ("", "a\n", Some("a\n")),
            ("a\nb\n", "a\nb\n", Some("")),
            ("a\nb\n", "a\nb\nc", Some("c")),
            ("a\nb", "a\nbc\n", Some("c\n")),
            ("a\nb\nc\n", "b\nc\nd\n", Some("d\n")),
            ("a\nb\nlogin:", "b\nlogin: root", Some(" root")),
            ("a\nb\n", "x\ny\n", None),
            ("a\nb\n", "", None),
        ];
        for (before, now, new) in cases {
            assert_eq!(appended(before, now), new, "{before:?} {now:?}");
        }
    }

    #[test]
    fn the_newest_lines() {
        assert_eq!(newest("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(newest("a\nb\nc", 1), "c");
        assert_eq!(newest("a\n", 5), "a\n");
        assert_eq!(newest("", 5), "");
    }
}
