//! The page in one process: who is let in, what is refused, what is offered to whom, and that nothing in a name is markup.

use super::super::access::Peer;
use super::super::tests::Site;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use tower::ServiceExt as _;
use vcl_types::people::Verb;

const PASSWORD: &str = "correct horse battery";

/// A browser that keeps its cookies.
#[derive(Default)]
struct Browser {
    cookies: Vec<(String, String)>,
}

struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn leads_to(&self) -> &str {
        self.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default()
    }
}

impl Browser {
    fn with_token(token: &str) -> Self {
        Self { cookies: vec![("__Host-vcld".into(), token.into())] }
    }
    async fn ask(
        &mut self,
        site: &Site,
        method: Method,
        path: &str,
        form: &str,
        headers: &[(&str, &str)],
    ) -> Seen {
        let cookies: Vec<String> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "vcld.example")
            .header(header::COOKIE, cookies.join("; "))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer = Peer::Remote("192.0.2.7".parse().unwrap());
        let request = request.extension(peer).body(Body::from(form.to_owned())).unwrap();
        let answer = site.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        for cookie in parts.headers.get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let body = match parts.headers.get(header::CONTENT_TYPE) {
            Some(kind) if kind == "text/event-stream" => String::new(),
            _ => String::from_utf8(axum::body::to_bytes(body, 1 << 24).await.unwrap().to_vec()).unwrap(),
        };
        Seen { status: parts.status, headers: parts.headers, body }
    }
    async fn get(&mut self, site: &Site, path: &str) -> Seen {
        self.ask(site, Method::GET, path, "", &[]).await
    }
    async fn post(&mut self, site: &Site, path: &str, form: &str) -> Seen {
        self.ask(site, Method::POST, path, form, &[("sec-fetch-site", "same-origin")]).await
    }
}

/// Somebody who can sign in with [`PASSWORD`].
async fn somebody(site: &Site, name: &str, grants: &[(Verb, &str)]) {
    site.user(name, grants).await;
    let body = serde_json::json!({ "password": PASSWORD }).to_string();
    let set = site.as_root(Method::PUT, &format!("/v1/users/{name}/password"), &body).await;
    assert_eq!(set.0, StatusCode::NO_CONTENT, "{}", set.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_signs_in_reads_and_signs_out() {
    let site = Site::new().await;
    somebody(&site, "alice", &[]).await;
    let mut browser = Browser::default();
    let turned = browser.get(&site, "/wall?tag=b12").await;
    assert_eq!(
        (turned.status, turned.leads_to()),
        (StatusCode::SEE_OTHER, "/sign-in?next=%2Fwall%3Ftag%3Db12")
    );
    let wrong = browser.post(&site, "/sign-in", "name=alice&password=wrong&next=/wall").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert!(
        wrong.body.contains("the name or the password is wrong") && wrong.body.contains("value=\"alice\"")
    );
    assert!(browser.cookies.is_empty());
    let form = format!("name=alice&password={}&next=%2Fwall%3Ftag%3Db12", PASSWORD.replace(' ', "+"));
    let right = browser.post(&site, "/sign-in", &form).await;
    assert_eq!((right.status, right.leads_to()), (StatusCode::SEE_OTHER, "/wall?tag=b12"));
    let cookie = right.headers.get(header::SET_COOKIE).unwrap().to_str().unwrap();
    for part in ["__Host-vcld=", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
        assert!(cookie.contains(part), "{part}: {cookie}");
    }
    assert_eq!(browser.get(&site, "/wall").await.status, StatusCode::OK);
    // Nothing but the page takes the cookie: no other site can make a browser ask the API.
    assert_eq!(browser.get(&site, "/v1/status").await.status, StatusCode::UNAUTHORIZED);

    let kept = browser.cookies.clone();
    assert_eq!(browser.post(&site, "/sign-out", "").await.leads_to(), "/sign-in");
    assert!(browser.cookies.iter().all(|(name, _)| name != "__Host-vcld"));
    let mut thief = Browser { cookies: kept };
    assert_eq!(thief.get(&site, "/wall").await.status, StatusCode::SEE_OTHER, "the token was taken back");

    // A way on that leads to another site leads home.
    let form = format!("name=alice&password={}&next=%2F%2Fevil.example%2F", PASSWORD.replace(' ', "+"));
    assert_eq!(browser.post(&site, "/sign-in", &form).await.leads_to(), "/");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_one_has_lets_one_in_and_another_does_not() {
    let site = Site::new().await;
    let token = site.user("alice", &[]).await;
    let mut browser = Browser::default();
    for wrong in ["nonsense", "vcld_x_y", "a%0Db", "%C3%BC", ""] {
        let no = browser.post(&site, "/sign-in/token", &format!("token={wrong}")).await;
        assert_eq!(no.status, StatusCode::UNAUTHORIZED, "{wrong}");
        assert!(no.body.contains("This token is not good"), "{wrong}");
    }
    let right = browser.post(&site, "/sign-in/token", &format!("token=+{token}+")).await;
    assert_eq!(right.leads_to(), "/");
    assert_eq!(browser.get(&site, "/").await.leads_to(), "/reservations");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_site_asks_for_is_not_done() {
    let (site, [alice, _]) = Site::lived_in().await;
    let mut browser = Browser::with_token(&alice);
    for headers in [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
    ] {
        let no = browser.ask(&site, Method::POST, "/reservations/4/release", "", headers).await;
        assert_eq!(no.status, StatusCode::FORBIDDEN, "{headers:?}");
    }
    let state = async || site.node.queue.reservation(vcl_types::ReservationId(4)).await.unwrap().state;
    let before = state().await;
    let done = browser.post(&site, "/reservations/4/release", "").await;
    assert_eq!((done.status, done.leads_to()), (StatusCode::SEE_OTHER, "/reservations/4"));
    assert_ne!(state().await, before);
    // What came of it is said once.
    let said = browser.get(&site, "/reservations/4").await;
    assert!(said.body.contains("The reservation ends."), "{}", said.body);
    assert!(!browser.get(&site, "/reservations/4").await.body.contains("The reservation ends."));
}

/// The proxy's address is for whoever knows its secret, the way in among the rest; and what the proxy vouches for no other site
/// makes a browser do.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxys_door_is_the_proxys() {
    let site = Site::new().await;
    let secret = Some(crate::people::tokens::digest("between us"));
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(Method::POST).uri(path).header(header::HOST, "vcld");
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.extension(Peer::Proxy { secret: secret.clone() });
        let request = request.body(Body::from("name=alice&password=x")).unwrap();
        site.router.clone().oneshot(request).await.unwrap().status()
    };
    let other = [("x-vcld-proxy", "a guess"), ("x-forwarded-for", "198.51.100.7")];
    for headers in [&[][..], &other] {
        assert_eq!(ask("/sign-in", headers).await, StatusCode::UNAUTHORIZED);
    }
    let bodies =
        site.node.queue.deeds(&vcl_queue::DeedFilter { limit: 9, ..Default::default() }).await.unwrap();
    assert!(bodies.is_empty(), "nothing of it is recorded: {bodies:?}");
    let sent = [("x-vcld-proxy", "between us"), ("sec-fetch-site", "cross-site")];
    assert_eq!(ask("/v1/jobs/1/cancel", &sent).await, StatusCode::FORBIDDEN);
    assert_eq!(
        ask("/v1/jobs/1/cancel", &sent[..1]).await,
        StatusCode::UNAUTHORIZED,
        "a program says nothing of it"
    );
}

/// All views that show something of a site that is lived in.
const VIEWS: [&str; 21] = [
    "/wall",
    "/wall?tag=b12&state=available&q=a",
    "/computers/a",
    "/reservations",
    "/reserve?image=debian",
    "/reservations/3",
    "/reservations/4/release",
    "/queue",
    "/queue?state=done&before=3",
    "/jobs/1",
    "/jobs/3/cancel",
    "/images",
    "/images/debian",
    "/images/debian/1/promote",
    "/images/debian/prune",
    "/images/new",
    "/classes",
    "/classes/class%20of%20alice",
    "/classes/class%20of%20alice/delete",
    "/charts?days=7&by=owner",
    "/operations/maintenance",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_view_is_whole_and_forbids_a_browser_what_it_does_not_need() {
    let (site, _) = Site::lived_in().await;
    let boss = site.user("boss", &[(Verb::Administer, "all")]).await;
    let mut browser = Browser::with_token(&boss);
    let more = ["/operations", "/operations/orphans", "/operations/audit", "/operations/hosts/kvm/drain"];
    for view in VIEWS.iter().chain(&more) {
        let seen = browser.get(&site, view).await;
        assert_eq!(seen.status, StatusCode::OK, "{view}: {}", seen.body);
        let policy = seen.headers.get(header::CONTENT_SECURITY_POLICY).unwrap().to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(seen.headers.get(header::CACHE_CONTROL).unwrap(), "no-store", "{view}");
        for inline in ["<script>", " style=", " onclick=", "javascript:", "<style"] {
            assert!(!seen.body.contains(inline), "{view} has {inline}");
        }
        assert!(seen.body.ends_with("</html>\n") || seen.body.ends_with("</html>"), "{view}");
        assert_eq!(seen.body.matches("<h1").count(), 1, "{view} has one heading of the first rank");
        // Whatever is named exists.
        for asset in seen.body.split("\"/assets/").skip(1) {
            let path = format!("/assets/{}", asset.split('"').next().unwrap());
            let asset = Browser::default().get(&site, &path).await;
            assert_eq!(asset.status, StatusCode::OK, "{path}");
            assert!(
                asset.headers.get(header::CACHE_CONTROL).unwrap().to_str().unwrap().contains("immutable")
            );
        }
    }
    for nowhere in
        ["/jobs/999", "/computers/zz", "/images/none", "/reservations/77/release", "/jobs/1/explode"]
    {
        let seen = browser.get(&site, nowhere).await;
        assert_eq!(seen.status, StatusCode::NOT_FOUND, "{nowhere}");
        assert!(seen.body.contains("<html"), "{nowhere}");
    }
    // How the provider is led to is a link: a form's way may not lead to another site.
    assert_eq!(
        browser.get(&site, "/reservations/3/rdp").await.status,
        StatusCode::METHOD_NOT_ALLOWED,
        "a look changes nothing"
    );
    let ways = Browser::default().get(&site, "/sign-in/end?state=x&error=y&error_description=call+us").await;
    assert!(!ways.body.contains("call us"), "what nobody asked for is not repeated");
    assert_eq!(browser.get(&site, "/live").await.status, StatusCode::OK);
    assert_eq!(Browser::default().get(&site, "/live").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_not_do_is_not_offered_and_not_done() {
    let (site, [alice, _]) = Site::lived_in().await;
    let mut browser = Browser::with_token(&alice);
    let home = browser.get(&site, "/reservations").await;
    assert!(
        home.body.contains("/reservations/3") && !home.body.contains("/reservations/1\""),
        "{}",
        home.body
    );
    assert!(!home.body.contains("href=\"/operations\"") && !home.body.contains("action=\"/reserve\""));
    for (view, status) in [
        ("/operations", StatusCode::FORBIDDEN),
        ("/operations/orphans", StatusCode::FORBIDDEN),
        ("/operations/audit", StatusCode::FORBIDDEN),
        ("/reservations/1", StatusCode::FORBIDDEN),
        ("/images/gis-1", StatusCode::FORBIDDEN),
        ("/computers/a", StatusCode::FORBIDDEN),
        ("/jobs/3", StatusCode::FORBIDDEN),
        ("/jobs/3/cancel", StatusCode::FORBIDDEN),
    ] {
        let seen = browser.get(&site, view).await;
        assert_eq!(seen.status, status, "{view}");
        assert!(seen.body.contains("That is not for you"), "{view}");
    }
    for (path, form) in [
        ("/jobs/3/cancel", ""),
        ("/computers/a/load", "image=gis-1"),
        ("/images/debian/1/promote", ""),
        ("/operations/hosts/kvm/drain", "reason=x"),
        ("/operations/orphans/delete", "id=kvm/domain/x"),
    ] {
        let no = browser.post(&site, path, form).await;
        assert_eq!(no.status, StatusCode::SEE_OTHER, "{path}");
        let said = browser.get(&site, "/reservations").await;
        assert!(said.body.contains("has no right to"), "{path}: {}", said.body);
    }
    // She looks after a room: what is in it is hers to load, and nothing else is offered.
    let carol = site.user("carol", &[(Verb::Operate, "computers:b12")]).await;
    let mut browser = Browser::with_token(&carol);
    let wall = browser.get(&site, "/wall").await;
    assert!(wall.body.contains("id=\"c-a\"") && !wall.body.contains("id=\"c-b\""));
    assert!(browser.get(&site, "/jobs/3").await.body.contains("verb-cancel"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_name_is_markup() {
    let (site, _) = Site::lived_in().await;
    let boss = site.user("boss", &[(Verb::Administer, "all")]).await;
    let evil = "<img src=x onerror=alert(1)>\"'&";
    let mut browser = Browser::with_token(&boss);
    let encoded = vcl_page::show::segment(evil);
    let class = format!("name={encoded}&image=debian&seats=1&weekly=Mon+10-12&until=");
    let made = browser.post(&site, "/classes", &class).await;
    assert_eq!(made.status, StatusCode::SEE_OTHER, "{}", made.body);
    let window = format!("computers=b&reason={encoded}&zone=Europe/Berlin&start=2099-01-01T10:00");
    let made = browser.post(&site, "/operations/maintenance", &window).await;
    assert_eq!(made.status, StatusCode::SEE_OTHER, "{}", made.body);
    let wall = format!("/wall?q={encoded}&tag={encoded}&state={encoded}");
    let queries = [
        wall.as_str(),
        "/classes",
        &format!("/classes/{encoded}"),
        "/operations/maintenance",
        &format!("/operations/audit?who={encoded}&subject={encoded}"),
        &format!("/reserve?image={encoded}&keys={encoded}&with={encoded}&zone={encoded}"),
        &format!("/images/new?image={encoded}&path={encoded}&note={encoded}"),
        &format!("/sign-in?next={encoded}"),
        &format!("/jobs/{encoded}"),
        &format!("/images/{encoded}"),
        &format!("/computers/{encoded}"),
    ];
    for path in queries {
        let seen = browser.get(&site, path).await;
        assert!(!seen.body.contains("<img src=x"), "{path}: {}", seen.body);
        assert!(!seen.body.contains("=\"<"), "{path}");
    }
    // What is typed and cannot be had stands in the form again, and what is wrong beside it.
    let no = browser
        .post(&site, "/reserve", &format!("image=debian&hours=1&tags={encoded}&memory={encoded}"))
        .await;
    assert_eq!(no.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(no.body.contains("Memory: `&lt;img") || no.body.contains("Memory: `&#60;img"), "{}", no.body);
    assert!(!no.body.contains("<img src=x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_tried_and_then_meant() {
    let (site, _) = Site::lived_in().await;
    let dora = site.user("dora", &[(Verb::Reserve, "all")]).await;
    let mut browser = Browser::with_token(&dora);
    let day = (site.node.clock.now() + chrono::TimeDelta::days(8)).format("%Y-%m-%d");
    let form = format!("image=debian&hours=2&start={day}T10:00&zone=Asia/Tokyo&tags=c3&purpose=use");
    let tried = browser.post(&site, "/reserve", &format!("{form}&do=try")).await;
    assert_eq!(tried.status, StatusCode::OK, "{}", tried.body);
    assert!(tried.body.contains("id=\"prospect\""), "{}", tried.body);
    let open = async || site.node.queue.reservations_open().await.unwrap().len();
    let before = open().await;
    let no = browser.post(&site, "/reserve", "image=debian&hours=forever").await;
    assert!(no.body.contains("Hours: `forever`"), "{}", no.body);
    assert_eq!(open().await, before);
    let meant = browser.post(&site, "/reserve", &form).await;
    let at = meant.leads_to().to_owned();
    assert!(at.starts_with("/reservations/"), "{} {}", meant.status, meant.body);
    assert_eq!(open().await, before + 1);
    let id: i64 = at.rsplit('/').next().unwrap().parse().unwrap();
    let row = site.node.queue.reservation(vcl_types::ReservationId(id)).await.unwrap();
    assert_eq!(
        row.start.unwrap().to_rfc3339(),
        format!("{day}T01:00:00+00:00"),
        "on the clock of whoever asked"
    );
    assert_eq!((row.owner.as_str(), row.length_s), ("dora", Some(7200)));
    assert!(browser.get(&site, &at).await.body.contains("verb-release"));
}
