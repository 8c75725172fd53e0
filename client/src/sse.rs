//! Server-sent events: bytes in, the text of each `data:` out.

/// An event that is longer than this is not one of ours.
const LONGEST: usize = 1 << 20;

/// Takes an event stream apart as it comes in, however the bytes are cut.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    data: Option<String>,
}

/// The other side does not speak this protocol.
#[derive(Debug, thiserror::Error)]
#[error("an event of the stream is longer than a mebibyte")]
pub(crate) struct TooLong;

impl Parser {
    /// Takes bytes in.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() + self.data.as_ref().map_or(0, String::len) > LONGEST {
            Err(TooLong)
        } else {
            Ok(())
        }
    }
    /// The next event that is whole. Comments and the fields we have no use for are left out.
    pub(crate) fn next(&mut self) -> Option<String> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                if let Some(data) = self.data.take() {
                    return Some(data);
                }
                continue;
            }
            let Some(value) = line.strip_prefix("data:") else { continue };
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(chunks: &[&[u8]]) -> Vec<String> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.feed(chunk).unwrap();
            events.extend(std::iter::from_fn(|| parser.next()));
        }
        events
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let stream =
            ": keep-alive\n\nid: 4\nevent: x\ndata: {\"a\":\"ä\"}\n\ndata:1\r\ndata: 2\r\n\r\ndata: half"
                .as_bytes();
        let whole = events(&[stream]);
        assert_eq!(whole, ["{\"a\":\"ä\"}", "1\n2"]);
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(events(&bytes), whole);
        let threes: Vec<&[u8]> = stream.chunks(3).collect();
        assert_eq!(events(&threes), whole);
    }

    #[test]
    fn a_line_that_never_ends_is_refused() {
        let mut parser = Parser::default();
        let refused = (0..20).find_map(|_| parser.feed(&[b'x'; 1 << 16]).err());
        assert!(refused.is_some());
    }
}
