//! Names with numbers in brackets: `gis-[01-40]`, `lab-[1-3,7]`, `10.0.0.[11-50]`.

use crate::problem::shown;

/// How many computers a file may have.
pub const MOST_COMPUTERS: usize = 10_000;

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadPattern {
    pub message: String,
    pub way_out: String,
}

/// Numbers from `from` up to and including `to`, with zeros before them up to `width` digits.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: u32,
    to: u32,
    width: usize,
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Numbers(Vec<Span>),
}

/// Reads a pattern and writes all its names, in order. Text without brackets is one name.
///
/// # Errors
///
/// The pattern is malformed, or it stands for more than [`MOST_COMPUTERS`] names.
pub(crate) fn expand(pattern: &str) -> Result<Vec<String>, BadPattern> {
    let parts = parts(pattern)?;
    let count = parts.iter().fold(1u64, |count, part| match part {
        Part::Literal(_) => count,
        Part::Numbers(spans) => {
            count.saturating_mul(spans.iter().map(|span| u64::from(span.to - span.from) + 1).sum())
        }
    });
    if count > MOST_COMPUTERS as u64 {
        return Err(BadPattern {
            message: format!("`{}` stands for {count} names, more than {MOST_COMPUTERS}", shown(pattern)),
            way_out: "check the numbers in the brackets".to_owned(),
        });
    }
    let mut names = vec![String::new()];
    for part in &parts {
        names = match part {
            Part::Literal(text) => names.into_iter().map(|name| name + text).collect(),
            Part::Numbers(spans) => names
                .iter()
                .flat_map(|name| {
                    spans.iter().flat_map(move |span| {
                        (span.from..=span.to)
                            .map(move |number| format!("{name}{number:0width$}", width = span.width))
                    })
                })
                .collect(),
        };
    }
    Ok(names)
}

fn parts(pattern: &str) -> Result<Vec<Part>, BadPattern> {
    let bad = |message: &str| BadPattern {
        message: format!("`{}`: {message}", shown(pattern)),
        way_out: "write a range as in `gis-[01-40]`, or several as in `gis-[1-3,7]`".to_owned(),
    };
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('[') {
        let (inside, after) = after.split_once(']').ok_or_else(|| bad("`[` has no `]`"))?;
        if before.contains(']') {
            return Err(bad("`]` has no `[` before it"));
        }
        parts.push(Part::Literal(before.to_owned()));
        parts.push(Part::Numbers(
            inside.split(',').map(|span| numbers(span.trim(), &bad)).collect::<Result<_, _>>()?,
        ));
        rest = after;
    }
    if rest.contains(']') {
        return Err(bad("`]` has no `[` before it"));
    }
    parts.push(Part::Literal(rest.to_owned()));
    Ok(parts)
}

fn numbers(text: &str, bad: &impl Fn(&str) -> BadPattern) -> Result<Span, BadPattern> {
    let (from, to) = text.split_once('-').map_or((text, text), |(from, to)| (from.trim(), to.trim()));
    let number = |digits: &str| {
        let plain = (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        if plain { digits.parse::<u32>().ok() } else { None }
            .ok_or_else(|| bad(&format!("`{}` is not a number or a range of numbers", shown(text))))
    };
    let span = Span { from: number(from)?, to: number(to)?, width: from.len() };
    if span.from > span.to {
        return Err(bad(&format!("`{}` counts down", shown(text))));
    }
    if to.len() != from.len() && (to.starts_with('0') || to.len() < from.len()) {
        return Err(bad(&format!("`{}` has zeros before only one of its numbers", shown(text))));
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_expanded_in_order_and_padded_as_they_are_written() {
        for (pattern, names) in [
            ("gis", vec!["gis"]),
            ("gis-[08-11]", vec!["gis-08", "gis-09", "gis-10", "gis-11"]),
            ("g[8-11]x", vec!["g8x", "g9x", "g10x", "g11x"]),
            ("g[1-2, 7]", vec!["g1", "g2", "g7"]),
            ("r[1-2]s[1-2]", vec!["r1s1", "r1s2", "r2s1", "r2s2"]),
            ("10.0.0.[9-10]", vec!["10.0.0.9", "10.0.0.10"]),
            ("g[099-100]", vec!["g099", "g100"]),
        ] {
            assert_eq!(expand(pattern).unwrap(), names, "{pattern}");
        }
    }

    #[test]
    fn what_is_not_a_range_is_refused() {
        let bad = [
            "g[", "g]", "g[]", "g[1-]", "g[-1]", "g[a-b]", "g[4-1]", "g[1-03]", "g[01-3]", "g[1-2-3]",
            "a]b[1]",
        ];
        let many = ["g[1-10001]", "g[0-999999999]", "g[1-999][1-999]", "g[1-9999999999]"];
        for pattern in bad.iter().chain(&many) {
            expand(pattern).unwrap_err();
        }
        assert_eq!(expand("g[1-10000]").unwrap().len(), MOST_COMPUTERS);
    }
}
