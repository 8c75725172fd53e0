//! Lists in parts: `limit` says how many, `after` where to go on, and a `Link` header with `rel="next"` where the next part
//! is. Without either a list is whole, as it was before there were parts.

use super::problem::Answer;
use crate::node::Refusal;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// The most that one part holds.
const MOST: u32 = 1000;

/// Which part of a list is wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Only what comes after this one, as the `Link` header of the part before has it
    pub(super) after: Option<String>,
    /// How many, 1000 at most
    pub(super) limit: Option<u32>,
}

impl Page {
    /// How many at most, where a list is never whole.
    pub(super) fn limit(&self) -> u32 {
        self.limit.unwrap_or(100).clamp(1, MOST)
    }
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// The part of a whole list that is wanted. `key` names an item, uniquely and in the order of the parts.
    pub(super) fn of<T: Serialize>(
        &self,
        all: Result<Vec<T>, Refusal>,
        key: impl Fn(&T) -> String,
        uri: &Uri,
    ) -> Response {
        let mut all = match all {
            Ok(all) => all,
            Err(no) => return no.into_response(),
        };
        let next = self.cut(&mut all, key);
        linked(all, next.as_deref(), "after", uri)
    }
    /// Leaves the part of a whole list that is wanted, and answers after which the next part begins, where there is one.
    pub(super) fn cut<T>(&self, all: &mut Vec<T>, key: impl Fn(&T) -> String) -> Option<String> {
        if self.after.is_none() && self.limit.is_none() {
            return None;
        }
        all.sort_by_key(&key);
        if let Some(after) = &self.after {
            all.retain(|item| key(item) > *after);
        }
        let limit = self.limit() as usize;
        let more = all.len() > limit;
        all.truncate(limit);
        all.last().filter(|_| more).map(&key)
    }
}

/// A part of a list that ends with the last one of these, and goes on if it is full.
pub(super) fn full<T: Serialize>(
    part: Result<Vec<T>, Refusal>,
    limit: u32,
    (parameter, key): (&str, impl Fn(&T) -> String),
    uri: &Uri,
) -> Response {
    match part {
        Ok(part) => {
            let next = part.last().filter(|_| part.len() >= limit as usize).map(key);
            linked(part, next.as_deref(), parameter, uri)
        }
        Err(no) => no.into_response(),
    }
}

/// A part of a list that goes on after `next`.
pub(super) fn linked<T: Serialize>(part: T, next: Option<&str>, parameter: &str, uri: &Uri) -> Response {
    let mut answer = Answer::Ok(part).into_response();
    let url = next.and_then(|next| link(uri, parameter, next));
    if let Some(value) = url.and_then(|url| HeaderValue::from_str(&format!("<{url}>; rel=\"next\"")).ok()) {
        answer.headers_mut().insert(header::LINK, value);
    }
    answer
}

/// The request's own address with another value of a parameter.
fn link(uri: &Uri, parameter: &str, value: &str) -> Option<String> {
    let mut url = reqwest::Url::parse("http://vcld").ok()?.join(uri.path()).ok()?;
    let before: Vec<(String, String)> =
        reqwest::Url::parse(&format!("http://vcld/?{}", uri.query().unwrap_or_default()))
            .ok()?
            .query_pairs()
            .filter(|(key, _)| key != parameter)
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
    url.query_pairs_mut().extend_pairs(before).append_pair(parameter, value);
    Some(format!("{}?{}", url.path(), url.query()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_the_same_question_from_further_on() {
        let uri: Uri = "/v1/jobs?state=done&before=9&limit=2".parse().unwrap();
        assert_eq!(link(&uri, "before", "7").as_deref(), Some("/v1/jobs?state=done&limit=2&before=7"));
        let uri: Uri = "/v1/groups".parse().unwrap();
        assert_eq!(link(&uri, "after", "a b&c").as_deref(), Some("/v1/groups?after=a+b%26c"));
    }
    #[test]
    fn the_parts_are_the_whole_in_order_and_nothing_twice() {
        let all: Vec<String> = (0..25).map(|n| format!("c{:02}", (n * 7) % 25)).collect();
        let (mut seen, mut after, mut parts) = (Vec::new(), None, 0);
        loop {
            let page = Page { after: after.clone(), limit: Some(10) };
            let uri: Uri = "/x?limit=10".parse().unwrap();
            let answer = page.of(Ok(all.clone()), Clone::clone, &uri);
            let next = answer.headers().get(header::LINK).map(|link| link.to_str().unwrap().to_owned());
            let body =
                futures::executor::block_on(axum::body::to_bytes(answer.into_body(), 1 << 16)).unwrap();
            let part: Vec<String> = serde_json::from_slice(&body).unwrap();
            after = part.last().cloned();
            seen.extend(part);
            parts += 1;
            match next {
                Some(link) => assert!(link.contains(&format!("after={}", after.as_ref().unwrap())), "{link}"),
                None => break,
            }
        }
        let mut sorted = all.clone();
        sorted.sort();
        assert_eq!((seen, parts), (sorted, 3));
    }
}
