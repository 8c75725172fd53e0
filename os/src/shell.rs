//! Text that a POSIX shell reads as exactly what was meant.

/// One word, whatever is in it. A NUL cannot be in a word and is left out.
pub(crate) fn quote(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=+@%,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\0', "").replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_reads_back_exactly_what_was_quoted() {
        for word in [
            "",
            "plain",
            "a b",
            "it's",
            "'",
            "''",
            "$(id)",
            "`id`",
            "a\nb",
            "\\",
            "-n",
            "*",
            "~",
            "ä€😀",
            "\u{1}\u{7f}",
            "!x",
            "a\\'b",
            "#",
        ] {
            let script = format!("printf %s {}", quote(word));
            let out = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word, "{script}");
        }
    }
}
