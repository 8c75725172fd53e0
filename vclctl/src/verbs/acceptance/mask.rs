//! What must not be in a report that is sent on. The daemon has masked what it kept; this is for everything else.

/// A text without what looks like a secret: product keys, what follows `password` and its like, private keys.
pub(super) fn masked(text: &str) -> String {
    let mut lines = Vec::new();
    let mut private = false;
    let mut follows = false;
    for line in text.split('\n') {
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
            private = true;
            lines.push("[a private key was here]".to_owned());
        } else if private {
            private = !line.contains("-----END");
        } else if std::mem::take(&mut follows) {
            lines.push("[masked]".to_owned());
        } else {
            let (line, nothing) = without_words(&without_product_keys(line));
            follows = nothing;
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// Five times five letters and digits.
fn without_product_keys(line: &str) -> String {
    const LENGTH: usize = 29;
    let is_key = |bytes: &[u8]| {
        bytes.iter().enumerate().all(|(n, b)| if n % 6 == 5 { *b == b'-' } else { b.is_ascii_alphanumeric() })
    };
    let (bytes, mut out, mut from, mut at) = (line.as_bytes(), String::new(), 0, 0);
    while at + LENGTH <= bytes.len() {
        let alone = |n: Option<&u8>| n.is_none_or(|b| !b.is_ascii_alphanumeric());
        let before = at.checked_sub(1).and_then(|n| bytes.get(n));
        if is_key(&bytes[at..at + LENGTH]) && alone(before) && alone(bytes.get(at + LENGTH)) {
            out.push_str(&line[from..at]);
            out.push_str("*****-*****-*****-*****-*****");
            at += LENGTH;
            from = at;
        } else {
            at += 1;
        }
    }
    out.push_str(&line[from..]);
    out
}

/// And whether what would have been masked is not in this line: `<Password>` alone, with its value in the next.
fn without_words(line: &str) -> (String, bool) {
    let low = line.to_ascii_lowercase();
    let mut cut = None;
    for word in ["password", "passwd", "passphrase", "secret", "token", "productkey", "product key"] {
        for (at, _) in low.match_indices(word) {
            let rest = low[at + word.len()..].trim_start_matches(['"', '\'', ' ', '>']);
            let skipped = low.len() - rest.len();
            let assigned = rest.starts_with(['=', ':']) || low[at + word.len()..].starts_with('>');
            let ends = low[..at]
                .rfind('<')
                .is_some_and(|open| low[open..].starts_with("</") && !low[open..at].contains('>'));
            if assigned && !ends && cut.is_none_or(|known| skipped < known) {
                cut = Some(skipped);
            }
        }
    }
    let Some(at) = cut else { return (line.to_owned(), false) };
    let shown = line[..at].trim_end_matches(['=', ':', ' ']);
    match line[at..].trim_matches(['=', ':', ' ', '\r']).is_empty() {
        true => (line.to_owned(), true),
        false => (format!("{shown} [masked]"), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (text, expected) in [
            ("key AAAAA-BBBBB-CCCCC-DDDDD-EEEEE is blocked", "key *****-*****-*****-*****-***** is blocked"),
            ("AAAAA-BBBBB-CCCCC-DDDDD-EEEEEF", "AAAAA-BBBBB-CCCCC-DDDDD-EEEEEF"),
            ("a\nAdministratorPassword: hunter2\nb", "a\nAdministratorPassword [masked]\nb"),
            ("x password=hunter2 y", "x password [masked]"),
            ("the password was set", "the password was set"),
            ("<Password><Value>x</Value>", "<Password> [masked]"),
            ("<Password>\n<Value>x</Value>\n</Password>\na", "<Password>\n[masked]\n</Password>\na"),
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\nafter",
                "[a private key was here]\nafter",
            ),
            ("ä€ 8f14e45f-ceea-467f-a0e6-dd1f4b6a8c11", "ä€ 8f14e45f-ceea-467f-a0e6-dd1f4b6a8c11"),
            ("Ä PASSWORD = ä", "Ä PASSWORD [masked]"),
        ] {
            assert_eq!(masked(text), expected);
        }
    }
}
