//! Asking another node.

use super::Exchange;
use crate::node::chain;
use axum::http::{StatusCode, header};
use std::time::Duration;
use vcl_images::fetch::{Fetching, ListedFile, Listing, Part};
use vcl_job::{Cx, Error, Kind, Result};
use vcl_types::ImageRef;

/// How long it may take until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);
/// How much comes together before it is written.
const PIECE: usize = 1 << 20;
/// How long an answer may be that is not a file, in bytes.
const LONGEST_ANSWER: usize = 4 << 20;

/// One other node.
pub(super) struct Client {
    node: String,
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// Makes ready to ask it. The certificate has to be for the node's name, whatever it is dialled at.
    pub(super) async fn new(exchange: &Exchange, node: &str, address: &str) -> Result<Self> {
        let unreachable = |why: String| {
            let message = format!("{node} cannot be reached at {address}: {why}");
            Error::new(Kind::Unreachable, message)
        };
        let found = tokio::time::timeout(CONNECT, tokio::net::lookup_host(address))
            .await
            .map_err(|_| unreachable("its name is not resolved".into()))?;
        let addresses: Vec<_> = found.map_err(|e| unreachable(e.to_string()))?.collect();
        let Some(port) = addresses.first().map(std::net::SocketAddr::port) else {
            return Err(unreachable("its name has no address".into()));
        };
        let name = node.to_ascii_lowercase();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(exchange.identity.client.clone())
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(exchange.silence)
            .resolve_to_addrs(&name, &addresses)
            .build()
            .map_err(|e| Error::caused(Kind::Fatal, "making an HTTP client", e))?;
        Ok(Self { node: node.to_owned(), base: format!("https://{name}:{port}/v1"), http })
    }

    /// Its name and version.
    pub(super) async fn greet(&self) -> Result<String> {
        let answer = self.send(self.http.get(format!("{}/node", self.base))).await?;
        Ok(String::from_utf8_lossy(&self.short(answer).await?).into_owned())
    }

    /// What it gives of a revision.
    pub(super) async fn listing(&self, image: &ImageRef) -> Result<Listing> {
        let answer = self.send(self.http.get(self.url(image))).await?;
        let bytes = self.short(answer).await?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::caused(Kind::Corrupt, format!("reading what {} says of {image}", self.node), e)
        })
    }

    /// Fetches one file, or what is missing of it. `done` counts bytes of the whole revision.
    pub(super) async fn file(
        &self,
        cx: &Cx,
        image: &ImageRef,
        fetching: &Fetching,
        file: &ListedFile,
        done: &mut u64,
        total: u64,
    ) -> Result<()> {
        let mut part = fetching.part(file, cx.token()).await?;
        let before = *done - part.at().min(*done);
        loop {
            if !part.is_whole() {
                cx.check().await?;
                let had = part.at();
                let cut;
                (part, cut) = self.rest(cx, image, file, part, before, total).await?;
                // Cut off: as long as something came, it is taken up again at once.
                if let Some(cut) = cut
                    && part.at() == had
                {
                    return Err(cut);
                }
                continue;
            }
            let again = match part.finish().await? {
                Ok(()) => {
                    *done = before + file.size;
                    return Ok(());
                }
                Err(again) => again,
            };
            let resumed = again.is_resumed();
            part = again.restart().await?;
            if !resumed {
                let (node, name) = (&self.node, &file.name);
                let message = format!(
                    "{name} of {image} on {node} is not what its manifest says; look at it there: vclctl image verify {image}"
                );
                return Err(Error::new(Kind::Corrupt, message));
            }
            // What an earlier life left may be what is wrong: a power cut leaves such files.
            tracing::info!(file = file.name, %image, "what was here of a file is not what it should be; it comes anew");
        }
    }

    /// Takes what comes, until the file is whole or the connection is cut.
    async fn rest(
        &self,
        cx: &Cx,
        image: &ImageRef,
        file: &ListedFile,
        mut part: Part,
        before: u64,
        total: u64,
    ) -> Result<(Part, Option<Error>)> {
        let at = part.at();
        let request = self
            .http
            .get(format!("{}/{}", self.url(image), file.name))
            .header(header::IF_MATCH, format!("\"{}\"", file.digest))
            .header(header::RANGE, format!("bytes={at}-"));
        let answer = tokio::select! {
            answer = self.send(request) => answer,
            () = cx.stopped() => return Err(cx.stop_error()),
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(e) if matches!(e.kind, Kind::Unreachable | Kind::Transient) => return Ok((part, Some(e))),
            Err(e) => return Err(e),
        };
        let range = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let expected = format!("bytes {at}-{}/{}", file.size - 1, file.size);
        if range != Some(expected.as_str()) {
            let (node, name) = (&self.node, &file.name);
            let message = format!("{node} answered with another range of {name} than was asked for");
            return Err(Error::new(Kind::Corrupt, message));
        }
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            let next = tokio::select! {
                next = answer.chunk() => next,
                () = cx.stopped() => {
                    part.add(piece).await?;
                    return Err(cx.stop_error());
                }
            };
            let cut = match next {
                Ok(Some(bytes)) => {
                    piece.extend_from_slice(&bytes);
                    if piece.len() < PIECE {
                        continue;
                    }
                    None
                }
                Ok(None) => Some(None),
                Err(e) => Some(Some(self.trouble(e))),
            };
            part = part.add(std::mem::replace(&mut piece, Vec::with_capacity(PIECE))).await?;
            cx.progress((before + part.at()).min(total), total);
            match cut {
                None => {}
                Some(None) if part.is_whole() => return Ok((part, None)),
                Some(None) => {
                    let message = format!("{} ended {} before its end", self.node, file.name);
                    return Ok((part, Some(Error::new(Kind::Transient, message))));
                }
                Some(Some(e)) => return Ok((part, Some(e))),
            }
        }
    }

    fn url(&self, image: &ImageRef) -> String {
        let number = image.revision.unwrap_or_default();
        format!("{}/revisions/{}/{number}", self.base, image.name)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let answer = request.send().await.map_err(|e| self.trouble(e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let kind = match status {
            StatusCode::NOT_FOUND => Kind::NotFound,
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Kind::Auth,
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::CONFLICT => {
                Kind::Corrupt
            }
            StatusCode::SERVICE_UNAVAILABLE => Kind::Transient,
            _ => Kind::Refused,
        };
        let text = self.short(answer).await.unwrap_or_default();
        let text: String =
            String::from_utf8_lossy(&text).chars().filter(|c| !c.is_control()).take(300).collect();
        Err(Error::new(kind, format!("{} answers {}: {text}", self.node, status.as_u16())))
    }

    async fn short(&self, mut answer: reqwest::Response) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.trouble(e))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LONGEST_ANSWER {
                let message = format!("{} answers with more than {LONGEST_ANSWER} bytes", self.node);
                return Err(Error::new(Kind::Corrupt, message));
            }
        }
        Ok(bytes)
    }

    /// An error of the connection: a certificate that is not accepted is none that passes.
    fn trouble(&self, error: reqwest::Error) -> Error {
        let text = chain(&error);
        let node = &self.node;
        // rustls says what was wrong with ours only as the alert that came back.
        let lower = text.to_ascii_lowercase();
        if lower.contains("certificate") || lower.contains("fatal alert") {
            let way_out = "both ends need certificates of one authority (exchange.ca), for the nodes' names";
            return Error::new(
                Kind::Auth,
                format!("{node} and this node do not trust each other: {text}; {way_out}"),
            );
        }
        let kind = if error.is_connect() { Kind::Unreachable } else { Kind::Transient };
        Error::caused(kind, format!("talking to {node}"), error)
    }
}
