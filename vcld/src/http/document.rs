//! What every endpoint may answer beside its own: put into the OpenAPI document once, here, and on none by hand.

use super::rules::{RULES, Rule};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};

/// Answers that any request may have.
const ANY: &[(&str, &str)] = &[
    ("400", "What was sent cannot be read"),
    ("401", "Nobody vouches for the caller"),
    ("403", "The caller has no right to it; the message says which is missing"),
    ("409", "Not possible as things are"),
    ("503", "Something that is needed does not answer; `Retry-After` says when to ask again"),
    ("504", "It took too long"),
];
/// And those that may have a body.
const BODY: &[(&str, &str)] = &[
    ("413", "The body is larger than any that makes sense"),
    ("415", "The body is not said to be JSON"),
    (
        "422",
        "The body is JSON and does not say what it should, or its `Idempotency-Key` was another request's",
    ),
];

fn problem(description: &str) -> RefOr<Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    RefOr::T(ResponseBuilder::new().description(description).content("application/json", content).build())
}

fn complete(operation: &mut Operation, path: &str, changes: bool) {
    let mut add = |status: &str, description: &str| {
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| problem(description));
    };
    for (status, description) in ANY {
        add(status, description);
    }
    if path.contains('{') || changes {
        add("404", "It is not there");
    }
    if changes {
        for (status, description) in BODY {
            add(status, description);
        }
    }
    if RULES.iter().any(|(_, open, rule)| *open == path && *rule == Rule::Open) {
        operation.security = Some(Vec::new());
    }
}

/// The document with what all endpoints have in common.
pub(super) fn completed(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        let changing = [&mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in changing.into_iter().flatten() {
            complete(operation, path, true);
        }
        if let Some(operation) = &mut item.get {
            complete(operation, path, false);
        }
    }
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let components = document.components.get_or_insert_default();
    components.security_schemes.insert("bearer".to_owned(), RefOr::T(bearer));
    document.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    document
}
