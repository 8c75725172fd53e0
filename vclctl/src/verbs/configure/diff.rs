//! `configure diff`: what changed from one run to the next.

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::render::text;
use crate::screen::Screen;
use camino::Utf8Path;
use vcl_types::ComputerName;
use vcl_types::api::{ConfigurationChange, ConfiguredView};

pub(super) async fn run(
    older: &str,
    newer: Option<&Utf8Path>,
    client: &Client,
    screen: &mut Screen,
) -> Result<()> {
    let Some(newer) = newer else {
        let computer: ComputerName = older.parse().map_err(|bad: vcl_types::InvalidName| {
            Error::new(ErrorKind::Local, format!("{bad}; of two directories both are named"))
        })?;
        let all = client.configured(&computer).await?;
        return screen.answer(&all, |all, clock| {
            let mut text = String::new();
            for view in all {
                let ConfiguredView { manifest, at, before, changes } = view;
                let since = before.map_or_else(
                    || "; it is the only run that is kept".to_owned(),
                    |before| format!(", the one before {}", clock.ago(before)),
                );
                text.push_str(&format!("{manifest}: last run {}{since}\n", clock.ago(*at)));
                if before.is_some() {
                    text.push_str(&listed(changes));
                }
            }
            if text.is_empty() { format!("{computer} was not configured by this node\n") } else { text }
        });
    };
    let changes = vcl_configure::compare::compare(Utf8Path::new(older), newer)
        .map_err(|error| Error::new(ErrorKind::Local, error.chain()))?;
    let changes: Vec<ConfigurationChange> = changes
        .into_iter()
        .map(|change| ConfigurationChange {
            object: change.object,
            part: change.part,
            before: change.before,
            after: change.after,
        })
        .collect();
    screen.answer(&changes, |changes, _| listed(changes))
}

/// A line for what is there or is not, two for what is another.
fn listed(changes: &[ConfigurationChange]) -> String {
    if changes.is_empty() {
        return "  nothing has changed\n".to_owned();
    }
    let mut lines = String::new();
    for ConfigurationChange { object, part, before, after } in changes {
        let of = if object.is_empty() { "the machine" } else { object };
        let what = if part.is_empty() { of.to_owned() } else { format!("{of} {part}") };
        let what = match (part.is_empty(), before, after) {
            (true, None, _) => format!("+ {what}"),
            (true, _, None) => format!("- {what}"),
            _ => format!("~ {what}"),
        };
        lines.push_str(&format!("{}\n", text::one_line(&what)));
        if !part.is_empty() {
            for (sign, value) in [("-", before), ("+", after)] {
                if let Some(value) = value {
                    lines.push_str(&format!("    {sign} {}\n", text::one_line(value)));
                }
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_what_is_gone_and_what_is_another() {
        let change =
            |object: &str, part: &str, before: Option<&str>, after: Option<&str>| ConfigurationChange {
                object: object.into(),
                part: part.into(),
                before: before.map(Into::into),
                after: after.map(Into::into),
            };
        let all = [
            change("", "explorer/os", Some("debian"), Some("devuan\u{1b}[2J")),
            change("__file/etc/motd", "", None, Some("defined")),
            change("__line/x", "", Some("defined"), None),
            change("__line/y", "code-remote", None, Some("sed")),
        ];
        insta::assert_snapshot!(listed(&all));
        assert_eq!(listed(&[]), "  nothing has changed\n");
    }
}
