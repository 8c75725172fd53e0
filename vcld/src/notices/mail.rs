//! The mail server.

use super::Undelivered;
use super::texts::Text;
use crate::node::chain;
use anyhow::Context as _;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use vcl_config::{Config, Security, Smtp};
use vcl_queue::NoticeRow;

/// A server and the sender's address.
pub(super) struct Mail {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mail {
    /// Makes ready to hand mails to it; nothing is dialled.
    pub(super) fn new(config: &Config, smtp: &Smtp) -> anyhow::Result<Self> {
        let _ = rustls::crypto::CryptoProvider::install_default(rustls::crypto::ring::default_provider());
        let from =
            smtp.from.parse::<Mailbox>().with_context(|| format!("notices.smtp.from = \"{}\"", smtp.from))?;
        let parameters = || {
            let mut tls = TlsParameters::builder(smtp.server.clone());
            if let Some(path) = &smtp.ca {
                let pem = std::fs::read(path).with_context(|| format!("notices.smtp.ca = \"{path}\""))?;
                let ca =
                    Certificate::from_pem(&pem).with_context(|| format!("notices.smtp.ca = \"{path}\""))?;
                tls = tls.add_root_certificate(ca);
            }
            tls.build().context("notices.smtp: TLS")
        };
        let tls = match smtp.security {
            Security::StartTls => Tls::Required(parameters()?),
            Security::Tls => Tls::Wrapper(parameters()?),
            Security::None => Tls::None,
        };
        let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.server);
        let mut transport = transport.port(smtp.port).tls(tls).timeout(Some(super::SEND));
        if let Some((user, password)) = &smtp.login {
            let password = config.credential(password).context("notices.smtp.password")?;
            transport = transport.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
        }
        Ok(Self { transport: transport.build(), from })
    }

    /// Hands over a mail for one recipient: who is refused keeps nobody else from having his.
    pub(super) async fn send(&self, row: &NoticeRow, text: &Text, to: &str) -> Result<(), Undelivered> {
        let message = self.message(row, text, to)?;
        let sent = self.transport.send(message).await;
        sent.map(drop).map_err(|e| Undelivered {
            unwanted: e.is_permanent(),
            why: format!("the mail server, of <{to}>: {}", chain(&e)),
        })
    }

    fn message(&self, row: &NoticeRow, text: &Text, to: &str) -> Result<Message, Undelivered> {
        let unwanted = |why: String| Undelivered { why, unwanted: true };
        let name = format!("<{}@{}>", row.name(), self.from.email.domain());
        let address = to.parse::<Mailbox>();
        let address = address.map_err(|e| unwanted(format!("`{to}` is no mail address: {e}")))?;
        let mail = Message::builder()
            .to(address)
            .message_id(Some(name))
            .date(row.at.into())
            .from(self.from.clone())
            .subject(text.subject.clone())
            .header(ContentType::TEXT_PLAIN);
        let mut mail =
            mail.body(text.body.clone()).map_err(|e| unwanted(format!("no mail can be made of it: {e}")))?;
        // Nobody's holiday message is to come back for it.
        for (name, value) in [("Auto-Submitted", "auto-generated"), ("X-Vcld-Kind", row.kind.as_str())] {
            let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|e| unwanted(e.to_string()))?;
            mail.headers_mut().insert_raw(HeaderValue::new(name, value.to_owned()));
        }
        Ok(mail)
    }
}
