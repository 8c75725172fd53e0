//! The webhook: a post of JSON, signed.
//!
//! `X-Vcld-Signature: sha256=HEX` is the HMAC-SHA256 of the seconds in `X-Vcld-Timestamp`, a dot, and the body, under the
//! secret that both ends know. `Idempotency-Key` is the notice's name, the same each time it is sent.

use super::Undelivered;
use super::texts::Text;
use crate::node::chain;
use anyhow::Context as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use vcl_config::{Config, Webhook};
use vcl_queue::NoticeRow;
use vcl_types::Secret;
use vcl_types::notices::Notice;

/// Where notices are posted to.
pub(super) struct Hook {
    http: reqwest::Client,
    url: String,
    secret: Secret,
}

/// The signature of a body that is posted at that second.
pub(super) fn signature(secret: &Secret, timestamp: i64, body: &[u8]) -> Option<String> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).ok()?;
    hmac.update(timestamp.to_string().as_bytes());
    hmac.update(b".");
    hmac.update(body);
    let digest: [u8; 32] = hmac.finalize().into_bytes().into();
    Some(format!("sha256={}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

impl Hook {
    /// Makes ready to post; nothing is dialled.
    pub(super) fn new(config: &Config, hook: &Webhook) -> anyhow::Result<Self> {
        let _ = rustls::crypto::CryptoProvider::install_default(rustls::crypto::ring::default_provider());
        let secret = config.credential(&hook.secret).context("notices.webhook.secret")?;
        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(super::SEND)
            .user_agent(concat!("vcld/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &hook.ca {
            let pem = std::fs::read(path).with_context(|| format!("notices.webhook.ca = \"{path}\""))?;
            let ca = reqwest::Certificate::from_pem(&pem);
            http = http.tls_certs_only([ca.with_context(|| format!("notices.webhook.ca = \"{path}\""))?]);
        }
        let http = http.build().context("notices.webhook")?;
        Ok(Self { http, url: hook.url.clone(), secret })
    }

    pub(super) async fn post(&self, row: &NoticeRow, text: &Text) -> Result<(), Undelivered> {
        let failed = |why: String, unwanted| Undelivered { why: format!("the webhook: {why}"), unwanted };
        let notice = Notice {
            id: row.name(),
            kind: row.kind,
            at: row.at,
            to: row.to.clone(),
            facts: row.facts.clone(),
            subject: text.subject.clone(),
            text: text.body.clone(),
        };
        let body = serde_json::to_vec(&notice).map_err(|e| failed(e.to_string(), true))?;
        let timestamp = chrono::Utc::now().timestamp();
        let signature = signature(&self.secret, timestamp, &body);
        let signature = signature.ok_or_else(|| failed("its secret signs nothing".into(), true))?;
        let post = self
            .http
            .post(&self.url)
            .header("content-type", "application/json")
            .header("idempotency-key", row.name())
            .header("x-vcld-timestamp", timestamp)
            .header("x-vcld-signature", signature)
            .body(body);
        // Its address may hold something secret, so errors do not show it.
        let answer = post.send().await.map_err(|e| failed(chain(&e.without_url()), false))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let later = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
        Err(failed(format!("it answered {status}"), !later))
    }
}
