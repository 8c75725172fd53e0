//! Text that somebody else wrote, made safe to print: a guest's console, a machine's name, a note.

/// Whether a character may move the cursor, change the terminal, or turn the reading direction around.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// One line: escape sequences and control characters are taken out, line feeds and tabs become spaces.
#[must_use]
pub fn one_line(text: &str) -> String {
    let spaced = text.trim().replace(['\n', '\r', '\t'], " ");
    let stripped = anstream::adapter::strip_str(&spaced).to_string();
    stripped.chars().filter(|c| !is_control(*c)).collect()
}

/// Many lines: as [`one_line`], but line feeds and tabs stay.
#[must_use]
pub fn lines(text: &str) -> String {
    let stripped = anstream::adapter::strip_str(text).to_string();
    stripped.chars().filter(|c| matches!(c, '\n' | '\t') || !is_control(*c)).collect()
}

/// JSON that is safe to show: what [`one_line`] would take out is written as an escape, which means the same.
#[must_use]
pub fn escaped_json(json: &str) -> String {
    use std::fmt::Write as _;
    json.chars().fold(String::with_capacity(json.len()), |mut safe, c| {
        if c != '\n' && is_control(c) {
            // All of these lie in the basic plane, so that one escape is enough.
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
        safe
    })
}

/// `1 computer`, `2 computers`.
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_wrote_cannot_move_the_cursor() {
        let evil = "a\u{1b}[2J\u{1b}]0;title\u{7}b\u{9b}31mc\u{202e}d\u{8}\u{7f}";
        assert_eq!(one_line(evil), "ab31mcd");
        assert_eq!(lines("boot\r\n\tok\u{1b}[32m!\u{0}\n"), "boot\n\tok!\n");
        assert_eq!(one_line(" two\nlines "), "two lines");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "vm": "a\u{9b}b\u{202e}ä" });
        let shown = escaped_json(&value.to_string());
        assert_eq!(shown, r#"{"vm":"a\u009bb\u202eä"}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
