//! The xcat backend against a service that answers what it is told to, over real TLS: how it logs in, what it asks, what it
//! makes of refusals. What a management node and its nodes really do is played by the double in `vcl-tests`.

#![cfg(feature = "xcat")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use vcl_provisioning::xcat::{Settings, Xcat};
use vcl_provisioning::{ErrorKind, Provisioning};
use vcl_types::api::{FindingLevel, PowerAction, PowerState};
use vcl_types::{ByteSize, Computer, Secret};

const TOKEN: &str =
    r#"{"token":{"id":"ecdd3e76-4395-4f83-96bd-c32b60b2b7d4","expire":"2026-11-22 19:33:9"}}"#;
const NO: &str = r#"{"error":"Authentication failure","errorcode":"2"}"#;

/// What was asked: method and path, and the body.
type Asked = Arc<Mutex<Vec<(String, String)>>>;
/// What is answered to whom: `METHOD PATH`, the status, the body, in order.
type Script = Arc<Mutex<VecDeque<(&'static str, u16, String)>>>;

struct Service {
    address: SocketAddr,
    ca: String,
    asked: Asked,
    script: Script,
}

impl Service {
    /// A service that answers this, in this order, and nothing else.
    async fn new(script: &[(&'static str, u16, &str)]) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let issuer = Issuer::new(params, ca_key);
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(leaf.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script: VecDeque<_> =
            script.iter().map(|(to, status, body)| (*to, *status, (*body).to_owned())).collect();
        let service =
            Self { address, ca: ca.pem(), asked: Asked::default(), script: Arc::new(Mutex::new(script)) };
        let (asked, script) = (service.asked.clone(), service.script.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, asked, script) = (acceptor.clone(), asked.clone(), script.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let mut stream = BufReader::new(stream);
                    while let Some((line, token, body)) = request(&mut stream).await {
                        assert!(
                            line.starts_with("POST /xcatws/tokens") != token,
                            "{line} with a token: {token}"
                        );
                        let line = line.replace("/xcatws", "");
                        asked.lock().unwrap().push((line.clone(), body));
                        let next = script.lock().unwrap().pop_front();
                        let (status, body) = match next {
                            Some((to, status, body)) if to == line => (status, body),
                            other => (500, format!("{line} and not {other:?}")),
                        };
                        let answer = format!(
                            "HTTP/1.1 {status} x\r\nContent-Type: application/json; charset=ISO-8859-1\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        service
    }

    fn settings(&self) -> Settings {
        Settings {
            name: "x".parse().unwrap(),
            url: format!("https://localhost:{}/xcatws", self.address.port()),
            ca: self.ca.clone().into_bytes(),
            user: "wsuser".into(),
            password: Secret::new("hunter2".into()),
            nodes: [("lab-01".to_owned(), "n4".to_owned())].into(),
            osimages: [("rocky9".to_owned(), "rocky9.4-x86_64-install-compute".to_owned())].into(),
            computers: vec!["n1".parse().unwrap(), "lab-01".parse().unwrap()],
            inbox: None,
            disk: None,
            largest_disk: ByteSize::gibibytes(1),
            net_boot: true,
            power_off: true,
            poll: Duration::from_millis(10),
            call: Duration::from_secs(20),
            contact: Duration::from_secs(20),
            no_progress: Duration::from_secs(20),
            install: Duration::from_secs(20),
        }
    }
    fn backend(&self) -> Xcat {
        Xcat::new(self.settings()).unwrap()
    }
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }
    fn all_answered(&self) {
        let left = self.script.lock().unwrap();
        assert!(left.is_empty(), "not asked for: {left:?}");
    }
}

/// One request: `METHOD PATH`, whether it has a token, its body.
async fn request(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<(String, bool, String)> {
    let (mut line, mut length, mut token) = (String::new(), 0, false);
    stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "x-auth-token" => token = true,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let line = line.rsplit_once(' ')?.0.to_owned();
    Some((line, token, String::from_utf8(body).unwrap()))
}

fn computer(name: &str) -> Computer {
    Computer {
        name: name.parse().unwrap(),
        backend: "x".parse().unwrap(),
        cpus: None,
        memory: None,
        nics: Vec::new(),
        tags: Vec::new(),
    }
}

#[tokio::test]
async fn one_login_does_for_many_calls_and_is_renewed_when_it_is_refused() {
    let service = Service::new(&[
        ("POST /tokens", 201, TOKEN),
        ("GET /nodes/n1/power", 200, r#"{"n1":{"power":"off"}}"#),
        ("GET /nodes/n4/power", 200, r#"{"n4":{"power":"on"}}"#),
        ("GET /nodes/n1/power", 401, NO),
        ("POST /tokens", 201, &TOKEN.replace("ecdd", "bce0")),
        ("GET /nodes/n1/power", 200, r#"{"n1":{"power":"on"}}"#),
    ])
    .await;
    let backend = service.backend();
    assert_eq!(backend.state(&computer("n1")).await.unwrap(), PowerState::Off);
    assert_eq!(backend.state(&computer("lab-01")).await.unwrap(), PowerState::On, "its node is n4");
    assert_eq!(backend.state(&computer("n1")).await.unwrap(), PowerState::On);
    service.all_answered();
    let logins: Vec<_> =
        service.asked.lock().unwrap().iter().filter(|(l, _)| l.starts_with("POST")).cloned().collect();
    let sent: serde_json::Value = serde_json::from_str(&logins[0].1).unwrap();
    assert_eq!(sent, serde_json::json!({ "userName": "wsuser", "userPW": "hunter2" }));
}

#[tokio::test]
async fn who_is_not_let_in_is_told_so_and_not_the_password() {
    let service = Service::new(&[("POST /tokens", 401, NO), ("POST /tokens", 401, NO)]).await;
    let backend = service.backend();
    let error = backend.state(&computer("n1")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    let text = error.chain();
    assert!(text.contains("passwd table") && text.contains("Authentication failure"), "{text}");
    let findings = backend.findings().await;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].level, FindingLevel::Error);
    assert!(!format!("{text}{findings:?}{:?}", service.settings()).contains("hunter2"));
    service.all_answered();
}

#[tokio::test]
async fn only_the_configured_authority_is_believed() {
    let (service, other) = (Service::new(&[]).await, Service::new(&[]).await);
    let settings = Settings { ca: other.ca.clone().into_bytes(), ..service.settings() };
    let error = Xcat::new(settings).unwrap().state(&computer("n1")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.chain().contains("certificate"), "{}", error.chain());
    assert!(service.asked().is_empty(), "nothing was sent to it");
    let none = Settings { ca: b"no certificate".to_vec(), ..service.settings() };
    assert!(Xcat::new(none).is_err());
}

#[tokio::test]
async fn a_service_processor_that_does_not_answer_is_asked_again_a_few_times() {
    let timeout = r#"{"error":["n1: ERROR: timeout"],"errorcode":"1"}"#;
    let service = Service::new(&[
        ("POST /tokens", 201, TOKEN),
        ("GET /nodes/n1/power", 403, timeout),
        ("GET /nodes/n1/power", 200, r#"{"n1":{"power":"on"}}"#),
        ("GET /nodes/n1/power", 403, timeout),
        ("GET /nodes/n1/power", 403, timeout),
        ("GET /nodes/n1/power", 403, timeout),
    ])
    .await;
    let backend = service.backend();
    assert_eq!(backend.state(&computer("n1")).await.unwrap(), PowerState::On);
    let error = backend.state(&computer("n1")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.chain().contains("n1: ERROR: timeout"), "{}", error.chain());
    service.all_answered();
}

#[tokio::test]
async fn a_reset_of_a_node_that_is_off_switches_it_on() {
    let service = Service::new(&[
        ("POST /tokens", 201, TOKEN),
        ("GET /nodes/n1/power", 200, r#"{"n1":{"power":"off"}}"#),
        ("PUT /nodes/n1/power", 200, ""),
        ("GET /nodes/n1/power", 200, r#"{"n1":{"power":"off"}}"#),
        ("GET /nodes/n1/power", 200, r#"{"n1":{"power":"on"}}"#),
    ])
    .await;
    let state = service.backend().power(&computer("n1"), PowerAction::Reset).await.unwrap();
    assert_eq!(state, PowerState::On);
    let asked = service.asked.lock().unwrap().clone();
    assert_eq!(asked[2].1, r#"{"action":"on"}"#);
    service.all_answered();
}

#[tokio::test]
async fn a_node_that_is_not_there_is_named() {
    let service = Service::new(&[
        ("POST /tokens", 201, TOKEN),
        (
            "GET /nodes/n1/power",
            403,
            r#"{"errorcode":"1","error":["Invalid nodes and/or groups in noderange: n1"]}"#,
        ),
        ("GET /nodes", 200, r#"["n4","n5"]"#),
        ("GET /osimages", 200, r#"["Could not find any object definitions to display."]"#),
    ])
    .await;
    let backend = service.backend();
    assert_eq!(backend.state(&computer("n1")).await.unwrap_err().kind, ErrorKind::NotFound);
    let findings = backend.findings().await;
    let errors: Vec<_> =
        findings.iter().filter(|f| f.level == FindingLevel::Error).map(|f| f.found.as_str()).collect();
    assert_eq!(
        errors,
        ["n1: xCAT has no node n1", "rocky9: xCAT has no osimage rocky9.4-x86_64-install-compute"]
    );
    assert!(findings.iter().any(|f| f.what == "inbox" && f.level == FindingLevel::Warning));
    service.all_answered();
}

#[tokio::test]
async fn what_is_armed_is_found_and_a_definition_hides_its_secrets() {
    let armed = "http://10.0.0.1:8481/inbox/x-n1-job12-token3/0123456789abcdef/task.tgz";
    let states = format!(
        r#"{{"n1":{{"currstate":"runimage={armed}"}},"n4":{{"currstate":"boot"}},"n5":{{"currstate":"runimage=http://other/x.tgz"}}}}"#
    );
    let node =
        format!(r#"{{"n1":{{"bmcpassword":"secret1","bmc":"n1-bmc","currstate":"runimage={armed}"}}}}"#);
    let service = Service::new(&[
        ("POST /tokens", 201, TOKEN),
        ("GET /nodes", 200, r#"["n1","n4","n5"]"#),
        ("GET /nodes/n1,n4,n5/attrs/currstate", 200, &states),
        ("GET /nodes/n1", 200, &node),
        ("GET /nodes", 200, r#"["n1","n4","n5"]"#),
        ("GET /nodes/n1,n4,n5/attrs/currstate", 200, &states),
        ("PUT /nodes/n1/bootstate", 200, ""),
    ])
    .await;
    let backend = service.backend();
    let things = backend.things().await.unwrap();
    assert_eq!(things.len(), 1);
    assert_eq!((things[0].name.as_str(), things[0].job), ("n1", Some(vcl_types::JobId(12))));
    let text = backend.description(&computer("n1")).await.unwrap();
    assert!(
        text.contains("bmc=n1-bmc") && !text.contains("secret1") && !text.contains("0123456789abcdef"),
        "{text}"
    );
    backend.remove_thing(&things[0]).await.unwrap();
    assert_eq!(service.asked.lock().unwrap().last().unwrap().1, r#"{"state":"boot"}"#);
    service.all_answered();
}
