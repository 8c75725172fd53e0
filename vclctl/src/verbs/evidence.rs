//! Evidence: listed, shown, saved.

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::render::{insight, text};
use crate::screen::Screen;
use std::path::{Path, PathBuf};
use vcl_types::{ByteSize, JobId};

/// Lists what was kept of a job, or shows or saves one piece of it.
pub(super) async fn run(
    client: &Client,
    screen: &mut Screen,
    id: JobId,
    name: Option<String>,
    output: Option<PathBuf>,
    attempt: Option<u32>,
) -> Result<()> {
    let Some(name) = name else {
        return screen
            .answer(&client.evidence(id).await?, |parts, clock| insight::evidence(id, parts, clock));
    };
    let bytes = client.evidence_part(id, &name, attempt).await?;
    let text = std::str::from_utf8(&bytes).ok();
    match (output, text) {
        (Some(file), _) if file != Path::new("-") => {
            let shown = file.display().to_string();
            std::fs::write(&file, &bytes)
                .map_err(|cause| Error::caused(ErrorKind::Local, format!("cannot write `{shown}`"), cause))?;
            let saved = serde_json::json!({ "file": shown, "bytes": bytes.len() });
            screen.answer(&saved, |_, _| format!("saved {shown} ({})", ByteSize(bytes.len() as u64)))
        }
        // A guest may have written it: what could drive a terminal is taken out once more.
        (None, Some(text)) => {
            let part = serde_json::json!({ "name": name, "text": text });
            screen.answer(&part, |_, _| text::lines(text))
        }
        (None, None) => {
            let message = format!("`{name}` is no text; save it: vclctl job evidence {id} {name} -o {name}");
            Err(Error::new(ErrorKind::Usage, message))
        }
        (Some(_), _) if screen.out_is_terminal || screen.json => {
            let message =
                "what is written as it is cannot go to a terminal, nor beside JSON; name a file with -o";
            Err(Error::new(ErrorKind::Usage, message))
        }
        (Some(_), _) => screen.print_raw(&bytes),
    }
}
