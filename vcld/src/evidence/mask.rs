//! Takes secrets out of text that is kept. It errs on the side of taking out too much: an admin who misses a word can
//! look at the machine, and a password in a database stays there.

/// What stands in a secret's place.
const MASK: &str = "[masked]";
/// Words in a name that make its value a secret.
const SECRET_WORDS: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "private_key",
    "authorization",
];
/// How crypt(3) hashes begin, each kind of them.
const HASHES: [&str; 7] = ["$1$", "$2a$", "$2b$", "$5$", "$6$", "$y$", "$argon2"];

/// The text without what looks like a secret, and without these.
#[must_use]
pub(crate) fn masked(text: &str, known: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in known.iter().filter(|s| s.len() >= 6) {
        text = text.replace(secret.as_str(), MASK);
    }
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        if in_key {
            in_key = !line.contains("-----END");
            continue;
        }
        if let Some(at) = line.find("-----BEGIN").filter(|at| line[*at..].contains("PRIVATE KEY")) {
            out.push_str(&line[..at]);
            out.push_str("[private key masked]\n");
            in_key = !line[at..].contains("-----END");
            continue;
        }
        out.push_str(&url_masked(&hash_masked(&value_masked(line))));
    }
    out
}

/// `password=x`, `"secret": "x"`, `passwd='x'`, `Authorization: Bearer x`: everything up to the value's end goes.
fn value_masked(line: &str) -> String {
    // Byte for byte as long as the line, so that a place in one is a place in the other.
    let lower = line.to_ascii_lowercase();
    let mut out = String::new();
    let mut from = 0;
    while let Some((begin, word)) = next_word(&lower, from) {
        let after = begin + word.len();
        let name_end = after
            + lower[after..]
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-')
                .unwrap_or(lower.len() - after);
        let rest = &line[name_end..];
        let unquoted = rest.trim_start_matches(['"', '\'']);
        let spaced = unquoted.trim_start_matches([' ', '\t']);
        let Some(value) = spaced.strip_prefix([':', '=']) else {
            out.push_str(&line[from..name_end]);
            from = name_end;
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let at = line.len() - value.len();
        out.push_str(&line[from..at]);
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        let length = match quote {
            Some(quote) => 1 + value[1..].find(quote).map_or_else(|| value[1..].trim_end().len(), |n| n + 1),
            // A header's value has spaces; anything else ends at one.
            None if word == "authorization" => value.trim_end().len(),
            None => {
                value.find(|c: char| c.is_whitespace() || matches!(c, '&' | ',' | ';')).unwrap_or(value.len())
            }
        };
        if length > 0 {
            out.push_str(MASK);
        }
        from = at + length;
    }
    out.push_str(&line[from..]);
    out
}

fn next_word(lower: &str, from: usize) -> Option<(usize, &'static str)> {
    let found = SECRET_WORDS.iter().filter_map(|word| lower[from..].find(word).map(|at| (from + at, *word)));
    found.min_by_key(|(at, word)| (*at, std::cmp::Reverse(word.len())))
}

fn hash_masked(line: &str) -> String {
    let mut line = line.to_owned();
    for hash in HASHES {
        let mut from = 0;
        while let Some(at) = line[from..].find(hash).map(|at| from + at) {
            let rest = &line[at + hash.len()..];
            let length = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && !"./$=+,".contains(c))
                .unwrap_or(rest.len());
            // `$1$` alone is a shell's, too; a hash has a salt and twenty characters behind it.
            if length >= 20 {
                line.replace_range(at..at + hash.len() + length, MASK);
                from = at + MASK.len();
            } else {
                from = at + hash.len();
            }
        }
    }
    line
}

/// `scheme://user:secret@host`.
fn url_masked(line: &str) -> String {
    let mut line = line.to_owned();
    let mut from = 0;
    while let Some(at) = line[from..].find("://").map(|at| from + at + 3) {
        let end = line[at..]
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\''))
            .map_or(line.len(), |n| at + n);
        let authority = &line[at..end];
        from = match (authority.find(':'), authority.rfind('@')) {
            (Some(colon), Some(host)) if colon < host => {
                line.replace_range(at + colon + 1..at + host, MASK);
                at + colon + 1 + MASK.len()
            }
            _ => at,
        };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_taken_out_and_the_rest_stays() {
        let cases = [
            ("login as root\n", "login as root\n"),
            ("password=hunter2 next=1\n", "password=[masked] next=1\n"),
            ("DB_PASSWORD: 'hunter 2' # x", "DB_PASSWORD: [masked] # x"),
            ("{\"api_key\": \"abc\", \"a\": 1}", "{\"api_key\": [masked], \"a\": 1}"),
            ("<graphics type='vnc' passwd='x1'/>", "<graphics type='vnc' passwd=[masked]/>"),
            ("Authorization: Bearer abc def\n", "Authorization: [masked]\n"),
            ("a token is needed", "a token is needed"),
            ("password for root: ", "password for root: "),
            ("secret_a=1&token=2", "secret_a=[masked]&token=[masked]"),
            ("root:$6$salt$0123456789abcdefghij:1:", "root:[masked]:1:"),
            ("echo $1$2", "echo $1$2"),
            ("mysql://vcl:pw@db/vcl and http://a/b:c@d", "mysql://vcl:[masked]@db/vcl and http://a/b:c@d"),
            ("password=", "password="),
            ("passwort = über; password = \"ünendlich", "passwort = über; password = [masked]"),
        ];
        for (text, expected) in cases {
            assert_eq!(masked(text, &[]), expected);
        }
    }

    #[test]
    fn private_keys_and_known_secrets_go_whole() {
        let text = "a\n-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\nBBBB\n-----END OPENSSH PRIVATE KEY-----\nb hunter22 c\n";
        let masked = masked(text, &["hunter22".into(), "a".into()]);
        assert_eq!(masked, "a\n[private key masked]\nb [masked] c\n");
        // A key that is cut off shows nothing of its rest.
        assert_eq!(super::masked("-----BEGIN PRIVATE KEY-----\nAAAA", &[]), "[private key masked]\n");
        // Nor does one that is on a single line take what follows with it.
        assert_eq!(
            super::masked("k -----BEGIN RSA PRIVATE KEY-----x-----END RSA PRIVATE KEY-----\nnext", &[]),
            "k [private key masked]\nnext"
        );
    }
}
