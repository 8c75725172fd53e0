//! Who reads, and what his browser says: language, theme, where he is, what is to be said to him once.

use super::Page;
use super::ask::{Asker, No};
use crate::rights::{Subject, Who};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::sync::Arc;
use vcl_page::{Frame, Place, Powers, Said};
use vcl_types::people::{Verb, Via};

/// The cookie with the token. A browser takes one of this name over TLS alone, for this host alone.
pub(super) const TOKEN: &str = "__Host-vcld";
/// The cookie with what is to be said once.
pub(super) const SAID: &str = "__Host-vcld-said";
/// The cookie with the theme.
pub(super) const THEME: &str = "vcld-theme";
/// How much is said at most, in letters: a cookie has its bounds.
const LONGEST: usize = 700;

/// Whoever reads a view.
pub(super) struct Reader {
    pub(super) who: Who,
    theme: Option<&'static str>,
    said: Option<Said>,
    /// The path that is asked for, with its query.
    pub(super) here: String,
    languages: String,
    referer: Option<String>,
    /// Whether he came with the cookie.
    pub(super) cookie: bool,
    /// The key of the form that was sent: each time a form is shown it has another.
    once: Option<String>,
}

#[derive(Deserialize)]
struct Once {
    once: Option<String>,
}

/// A cookie's value.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

/// Has the browser keep a cookie, that is for this host, over TLS, and for no script.
pub(super) fn keep(answer: &mut Response, name: &str, value: &str, seconds: Option<i64>) {
    let age = seconds.map(|s| format!("; Max-Age={s}")).unwrap_or_default();
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax{age}");
    if let Ok(value) = HeaderValue::from_str(&text) {
        answer.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// Has something said in the next view.
pub(super) fn tell(answer: &mut Response, bad: bool, text: &str) {
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    let kind = if bad { 'b' } else { 'g' };
    keep(answer, SAID, &format!("{kind}{}", URL_SAFE_NO_PAD.encode(short)), Some(60));
}

fn heard(value: &str) -> Option<Said> {
    let (bad, text) = match value.split_at_checked(1)? {
        ("b", text) => (true, text),
        ("g", text) => (false, text),
        _ => return None,
    };
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    Some(Said { bad, text })
}

/// The themes that can be chosen.
pub(super) fn theme(word: &str) -> Option<&'static str> {
    ["light", "dark"].into_iter().find(|theme| *theme == word)
}

impl FromRequestParts<Arc<Page>> for Reader {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &Arc<Page>) -> Result<Self, Infallible> {
        let text = |name: header::HeaderName| {
            parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let said = cookie(&parts.headers, SAID).and_then(heard);
        let live = parts.headers.contains_key("hx-request");
        let safe = parts.method.is_safe();
        let referer = parts.headers.get(header::REFERER).and_then(|value| value.to_str().ok());
        let referer = referer.map(ToOwned::to_owned);
        Ok(Self {
            who: parts.extensions.get::<Who>().cloned().unwrap_or_else(Who::nobody),
            theme: cookie(&parts.headers, THEME).and_then(theme),
            // A part of a view that is asked for again does not have what is said once.
            said: said.filter(|_| !live),
            // What a change is answered with stands where the form was.
            here: match safe {
                true => parts.uri.path_and_query().map_or_else(|| "/".into(), ToString::to_string),
                false => referer.as_deref().and_then(own_path).unwrap_or_else(|| "/".into()),
            },
            languages: text(header::ACCEPT_LANGUAGE),
            referer,
            cookie: cookie(&parts.headers, TOKEN).is_some(),
            once: axum::extract::Query::<Once>::try_from_uri(&parts.uri)
                .ok()
                .and_then(|axum::extract::Query(Once { once })| once)
                .filter(|_| !safe),
        })
    }
}

/// Parts of the path. A path whose parts are no such things leads nowhere, which is said in a view.
pub(super) struct Path<T>(pub(super) T);
/// What is asked for behind the path. What cannot be read is said in a view.
pub(super) struct Query<T>(pub(super) T);
/// What was filled in. What cannot be read is said in a view.
pub(super) struct Form<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Page>> for Form<T> {
    type Rejection = Response;
    async fn from_request(request: Request, page: &Arc<Page>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let request = Request::from_parts(parts.clone(), body);
        let no = match axum::extract::Form::<T>::from_request(request, page).await {
            Ok(axum::extract::Form(value)) => return Ok(Self(value)),
            Err(e) => No::new(e.status(), "invalid", e.body_text()),
        };
        Err(unread(&mut parts, page, &no).await)
    }
}

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Page>> for Path<T> {
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, page: &Arc<Page>) -> Result<Self, Response> {
        match axum::extract::Path::<T>::from_request_parts(parts, page).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(_) => Err(unread(parts, page, &No::nowhere()).await),
        }
    }
}
impl<T: DeserializeOwned> FromRequestParts<Arc<Page>> for Query<T> {
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, page: &Arc<Page>) -> Result<Self, Response> {
        // What is read is given on at once: it need not be such that it can wait.
        let no = match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => return Ok(Self(value)),
            Err(e) => No::invalid(e.body_text()),
        };
        Err(unread(parts, page, &no).await)
    }
}

async fn unread(parts: &mut Parts, page: &Arc<Page>, no: &No) -> Response {
    match Reader::from_request_parts(parts, page).await {
        Ok(reader) => super::failed(page, &reader, Place::Elsewhere, no),
        Err(never) => match never {},
    }
}

impl Reader {
    /// What is around a view.
    pub(super) fn frame<'a>(&self, page: &'a Page, place: Place) -> Frame<'a> {
        Frame {
            texts: self.texts(page),
            reader: (self.who.via != Via::Nobody).then(|| self.who.name.clone()),
            powers: self.powers(),
            may_leave: self.cookie && matches!(self.who.via, Via::Token | Via::Oidc),
            place,
            theme: self.theme,
            said: self.said.clone(),
            here: self.here.clone(),
            now: page.node.clock.now(),
            key: uuid::Uuid::now_v7().to_string(),
            node: &page.node.name,
        }
    }
    /// The texts in his language.
    pub(super) fn texts<'a>(&self, page: &'a Page) -> vcl_page::Texts<'a> {
        page.texts.read_by(&self.languages)
    }
    /// The API as he sees it.
    pub(super) fn ask(&self, page: &Page) -> Asker {
        Asker::new(page.api.clone(), self.who.clone()).once(self.once.as_deref())
    }
    /// Where he came from, on this site.
    pub(super) fn back(&self) -> String {
        let path = self.referer.as_deref().and_then(own_path);
        path.filter(|path| *path != self.here).unwrap_or_else(|| "/".into())
    }
    fn powers(&self) -> Powers {
        let who = &self.who;
        let everywhere = |verb| who.can(verb, &Subject::Nothing);
        let somewhere = |verb: Verb| {
            let scoped =
                who.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(|scope| scope.implies(verb)));
            everywhere(verb) || (scoped && who.grant_views().iter().any(|grant| grant.verb.implies(verb)))
        };
        Powers {
            look: everywhere(Verb::Look),
            operate: everywhere(Verb::Operate),
            operates: somewhere(Verb::Operate),
            administer: everywhere(Verb::Administer),
            people: everywhere(Verb::People),
            classes: somewhere(Verb::Classes),
            images: somewhere(Verb::Images) || somewhere(Verb::Imaging),
        }
    }
}

/// The path of an address, where it leads to a view of this page.
fn own_path(address: &str) -> Option<String> {
    let (_, rest) = address.split_once("://")?;
    let at = rest.find('/')?;
    Some(rest[at..].to_owned()).filter(|path| is_here(path))
}

/// Whether a path leads to a view of this page and nowhere else.
pub(super) fn is_here(path: &str) -> bool {
    path.starts_with('/')
        && !path.starts_with("//")
        && !path.contains('\\')
        && !path.contains(char::is_control)
}

#[cfg(test)]
mod unit {
    use super::*;
    use axum::response::IntoResponse as _;

    #[test]
    fn what_is_said_once_comes_back_as_it_was_and_nothing_else_does() {
        let mut answer = ().into_response();
        tell(&mut answer, true, "no „x“; = , \u{202e}");
        let cookies = answer.headers().get(header::SET_COOKIE).unwrap().to_str().unwrap().to_owned();
        assert!(cookies.contains("; Secure; HttpOnly; SameSite=Lax"), "{cookies}");
        let value = cookies.split(';').next().unwrap().split_once('=').unwrap().1;
        assert_eq!(heard(value), Some(Said { bad: true, text: "no „x“; = , \u{202e}".into() }));
        for wrong in ["", "x", "b*", "zYQ", "b_w"] {
            assert_eq!(heard(wrong), None, "{wrong}");
        }
        let mut long = ().into_response();
        tell(&mut long, false, &"ü".repeat(5000));
        assert!(long.headers().get(header::SET_COOKIE).unwrap().len() < 4096);
    }
    #[test]
    fn a_way_on_leads_to_no_other_site() {
        for good in ["/", "/jobs/1", "/wall?q=a//b"] {
            assert!(is_here(good), "{good}");
        }
        for bad in
            ["", "//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:x", "/a\r\nb: c"]
        {
            assert!(!is_here(bad), "{bad}");
        }
    }
    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; __Host-vcld=t.o=k; b=2"));
        assert_eq!(cookie(&headers, TOKEN), Some("t.o=k"));
        assert_eq!((cookie(&headers, "b"), cookie(&headers, "c")), (Some("2"), None));
    }
}
