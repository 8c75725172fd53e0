//! Paths about people: users, groups, groups of images, grants, tokens, the record of deeds.

use super::access::About;
use super::once::ToldOnce;
use super::pages::{self, Page};
use super::problem::{Answer, Body, Path, Query};
use crate::node::{Node, Refusal, RefusalKind};
use crate::people::tokens::Wanted;
use crate::rights::{Subject, Who};
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{TimeDelta, Utc};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use vcl_queue::DeedFilter;
use vcl_types::Secret;
use vcl_types::api::*;
use vcl_types::people::{GroupName, ImagePattern, Scope, UserName, Verb, Via};

type Daemon = State<Arc<Node>>;

/// How long a token is good where that is not said: a year.
const YEAR: u64 = 365 * 86_400;
/// How long one may be: ten years.
const LONGEST: u64 = 10 * YEAR;

fn forbidden(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Forbidden, message)
}

/// Something new, with what the record calls it.
fn made<T: serde::Serialize>(result: Result<T, Refusal>, about: String) -> Response {
    let mut answer = match result {
        Ok(value) => (StatusCode::CREATED, Json(value)).into_response(),
        Err(no) => no.into_response(),
    };
    answer.extensions_mut().insert(About(about));
    answer
}

/// Nothing to say, or the no.
fn done(result: Result<(), Refusal>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(no) => no.into_response(),
    }
}

/// Whether the caller is the one he asks about, or looks after people.
fn own_or_people(who: &Who, name: &str) -> Result<(), Refusal> {
    if who.name == name { who.may(Verb::Look, &own(who)) } else { who.may(Verb::People, &Subject::Nothing) }
}

fn own(who: &Who) -> Subject {
    Subject::Reservation { owner: who.name.clone(), computer: None, image: None }
}

/// Refuses to touch whoever has more rights than the caller: by taking his place, one would get them.
async fn not_above(node: &Node, who: &Who, groups: impl Iterator<Item = &str>) -> Result<(), Refusal> {
    who.may(Verb::People, &Subject::Nothing)?;
    let rights = node.rights().await?;
    let groups = groups.filter_map(|group| group.parse::<GroupName>().ok()).collect();
    let more = rights.of(&groups).find(|grant| !who.has_to_give(grant.verb, &grant.scope));
    match more {
        None => Ok(()),
        Some(grant) => {
            let (group, verb, scope) = (&grant.group, grant.verb, &grant.scope);
            Err(forbidden(format!(
                "group {group} has `{verb}` on {scope}, which {} has not: it takes somebody who has it, or an administrator",
                who.name
            )))
        }
    }
}

async fn not_above_user(node: &Node, who: &Who, name: &str) -> Result<UserView, Refusal> {
    who.may(Verb::People, &Subject::Nothing)?;
    let user = node.queue.user(name).await?;
    not_above(node, who, user.groups.iter().map(|m| m.name.as_str())).await?;
    Ok(user)
}

/// Refuses what gives a name to somebody that is an administrator's account on this machine, unless one of them asks:
/// whoever has the name has what is its owner's.
async fn not_reserved(node: &Node, who: &Who, name: &UserName) -> Result<(), Refusal> {
    if !who.admin && node.reserved(name).await? {
        return Err(forbidden(format!(
            "{name} is the account of an administrator of vcld's node, where alone this can be done, over the socket"
        )));
    }
    Ok(())
}

/// Who one is and what one may.
#[utoipa::path(get, path = "/v1/whoami", responses((status = 200, body = WhoAmI)))]
pub(super) async fn whoami(who: Who) -> Json<WhoAmI> {
    Json(WhoAmI {
        administrator: who.can(Verb::Administer, &Subject::Nothing),
        groups: who.groups.iter().map(ToString::to_string).collect(),
        grants: who.grant_views(),
        via: who.via,
        expires: who.expires,
        scopes: who.scopes,
        name: who.name,
    })
}

/// All users.
#[utoipa::path(get, path = "/v1/users", params(Page), responses((status = 200, body = [UserView])))]
pub(super) async fn users(State(node): Daemon, uri: Uri, Query(page): Query<Page>) -> Response {
    let users = node.queue.users_of_vcld(page.after(), page.limit()).await.map_err(Refusal::from);
    pages::full(users, page.limit(), ("after", |user: &UserView| user.name.to_string()), &uri)
}

/// Make a user.
#[utoipa::path(post, path = "/v1/users", request_body = NewUser, responses((status = 201, body = UserView), (status = 409, body = Problem)))]
pub(super) async fn add_user(State(node): Daemon, who: Who, Body(new): Body<NewUser>) -> Response {
    let name = new.name.clone();
    let result = async {
        not_reserved(&node, &who, &name).await?;
        node.queue.add_user(new).await?;
        Ok(node.queue.user(name.as_str()).await?)
    };
    made(result.await, name.to_string())
}

/// One user.
#[utoipa::path(get, path = "/v1/users/{name}", params(("name" = String, Path, description = "The user")),
    responses((status = 200, body = UserView), (status = 404, body = Problem)))]
pub(super) async fn user(State(node): Daemon, who: Who, Path(name): Path<UserName>) -> Answer<UserView> {
    if let Err(no) = own_or_people(&who, name.as_str()) {
        return Answer::Err(no);
    }
    node.queue.user(name.as_str()).await.map_err(Refusal::from).into()
}

/// Change a user. Everybody changes his own name, mail address and keys; the rest takes `people`.
#[utoipa::path(patch, path = "/v1/users/{name}", params(("name" = String, Path, description = "The user")), request_body = UserChange,
    responses((status = 200, body = UserView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn change_user(
    State(node): Daemon,
    who: Who,
    Path(name): Path<UserName>,
    Body(change): Body<UserChange>,
) -> Answer<UserView> {
    let result = async {
        // Whose files somebody has on a file server is not his to say.
        let harmless = change.source.is_none() && change.disabled.is_none() && change.uid.is_none();
        if who.name == name.as_str() && harmless {
            // A token that is for looking alone changes nothing.
            who.may(Verb::Reserve, &own(&who))?;
        } else {
            not_reserved(&node, &who, &name).await?;
            not_above_user(&node, &who, name.as_str()).await?;
        }
        node.queue.change_user(name.as_str(), change).await?;
        Ok::<_, Refusal>(node.queue.user(name.as_str()).await?)
    };
    result.await.into()
}

/// Forget a user, with his memberships and tokens.
#[utoipa::path(delete, path = "/v1/users/{name}", params(("name" = String, Path, description = "The user")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn delete_user(State(node): Daemon, who: Who, Path(name): Path<UserName>) -> Response {
    let result = async {
        not_above_user(&node, &who, name.as_str()).await?;
        Ok::<_, Refusal>(node.queue.delete_user(name.as_str()).await?)
    };
    done(result.await)
}

/// Set a user's password, or take it away. The user's tokens are taken back, but for the one that this is asked with.
/// Whoever changes their own with a token says the present one too, where there is one.
#[utoipa::path(put, path = "/v1/users/{name}/password", params(("name" = String, Path, description = "The user")), request_body = NewPassword,
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn set_password(
    State(node): Daemon,
    who: Who,
    Path(name): Path<UserName>,
    Body(new): Body<NewPassword>,
) -> Response {
    let result = async {
        not_reserved(&node, &who, &name).await?;
        if who.name == name.as_str() {
            // By a password one gets tokens without a limit.
            if who.scopes.is_some() {
                return Err(forbidden("this token is limited, and sets no password; sign in: vclctl login"));
            }
            if who.via == Via::Token {
                node.prove_password(&name, new.old.map(Secret::new), who.from).await?;
            }
        } else {
            not_above_user(&node, &who, name.as_str()).await?;
        }
        let digest = match new.password {
            Some(password) => Some(node.digest_password(Secret::new(password)).await?),
            None => None,
        };
        Ok::<_, Refusal>(node.queue.set_password(name.as_str(), digest, who.token.as_deref()).await?)
    };
    done(result.await)
}

/// Add a public ssh key to a user.
#[utoipa::path(post, path = "/v1/users/{name}/keys", params(("name" = String, Path, description = "The user")), request_body = NewKey,
    responses((status = 200, body = UserView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn add_key(
    State(node): Daemon,
    who: Who,
    Path(name): Path<UserName>,
    Body(new): Body<NewKey>,
) -> Answer<UserView> {
    let result = async {
        if who.name == name.as_str() {
            who.may(Verb::Reserve, &own(&who))?;
        } else {
            not_above_user(&node, &who, name.as_str()).await?;
        }
        node.queue.add_ssh_key(name.as_str(), &new.key).await?;
        Ok::<_, Refusal>(node.queue.user(name.as_str()).await?)
    };
    result.await.into()
}

/// All groups, with what they may.
#[utoipa::path(get, path = "/v1/groups", params(Page), responses((status = 200, body = [GroupView])))]
pub(super) async fn groups(State(node): Daemon, uri: Uri, Query(page): Query<Page>) -> Response {
    let result = async {
        let (mut groups, rights) = (node.queue.groups().await?, node.rights().await?);
        for group in &mut groups {
            group.grants = rights.of(&[group.name.clone()].into()).cloned().collect();
        }
        Ok::<_, Refusal>(groups)
    };
    page.of(result.await, |item| item.name.to_string(), &uri)
}

/// Make a group.
#[utoipa::path(post, path = "/v1/groups", request_body = NewGroup, responses((status = 201, body = GroupView), (status = 409, body = Problem)))]
pub(super) async fn add_group(State(node): Daemon, Body(new): Body<NewGroup>) -> Response {
    let name = new.name.clone();
    let result = async {
        node.queue.add_group(new).await?;
        one_group(&node, &name).await
    };
    made(result.await, name.to_string())
}

async fn one_group(node: &Node, name: &GroupName) -> Result<GroupView, Refusal> {
    let mut group = node.queue.group(name).await?;
    group.grants = node.rights().await?.of(&[name.clone()].into()).cloned().collect();
    Ok(group)
}

/// One group, with who is in it and what it may.
#[utoipa::path(get, path = "/v1/groups/{name}", params(("name" = String, Path, description = "The group")),
    responses((status = 200, body = GroupView), (status = 404, body = Problem)))]
pub(super) async fn group(State(node): Daemon, who: Who, Path(name): Path<GroupName>) -> Answer<GroupView> {
    if !who.groups.contains(&name)
        && let Err(no) = who.may(Verb::People, &Subject::Nothing)
    {
        return Answer::Err(no);
    }
    one_group(&node, &name).await.into()
}

/// Forget a group, with its members and what it may.
#[utoipa::path(delete, path = "/v1/groups/{name}", params(("name" = String, Path, description = "The group")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn delete_group(State(node): Daemon, who: Who, Path(name): Path<GroupName>) -> Response {
    let result = async {
        not_above(&node, &who, [name.as_str()].into_iter()).await?;
        Ok::<_, Refusal>(node.queue.delete_group(&name).await?)
    };
    done(result.await)
}

async fn set_member(
    node: &Node,
    who: &Who,
    (name, user): (GroupName, UserName),
    is: bool,
) -> Result<(), Refusal> {
    not_above(node, who, [name.as_str()].into_iter()).await?;
    Ok(node.queue.set_member(&name, &user, is).await?)
}

/// Put a user into a group.
#[utoipa::path(put, path = "/v1/groups/{name}/members/{user}",
    params(("name" = String, Path, description = "The group"), ("user" = String, Path, description = "The user")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn add_member(
    State(node): Daemon,
    who: Who,
    Path(which): Path<(GroupName, UserName)>,
) -> Response {
    done(set_member(&node, &who, which, true).await)
}

/// Take a user out of a group.
#[utoipa::path(delete, path = "/v1/groups/{name}/members/{user}",
    params(("name" = String, Path, description = "The group"), ("user" = String, Path, description = "The user")),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn remove_member(
    State(node): Daemon,
    who: Who,
    Path(which): Path<(GroupName, UserName)>,
) -> Response {
    done(set_member(&node, &who, which, false).await)
}

/// Groups of images.
#[utoipa::path(get, path = "/v1/image-groups", params(Page), responses((status = 200, body = [ImageGroupView])))]
pub(super) async fn image_groups(
    State(node): Daemon,
    who: Who,
    uri: Uri,
    Query(page): Query<Page>,
) -> Response {
    let result = async {
        let mut groups = node.queue.rights().await?.image_groups;
        if !who.can(Verb::People, &Subject::Nothing) {
            let on: Vec<Scope> = who.grant_views().into_iter().map(|grant| grant.scope).collect();
            groups.retain(|group| {
                on.contains(&Scope::Images(group.name.clone())) || on.contains(&Scope::Everything)
            });
        }
        Ok::<_, Refusal>(groups)
    };
    page.of(result.await, |item| item.name.to_string(), &uri)
}

/// Make a group of images.
#[utoipa::path(post, path = "/v1/image-groups", request_body = NewGroup, responses((status = 201, body = ImageGroupView), (status = 409, body = Problem)))]
pub(super) async fn add_image_group(State(node): Daemon, Body(new): Body<NewGroup>) -> Response {
    let view = ImageGroupView { name: new.name.clone(), note: new.note.clone(), images: Vec::new() };
    let about = new.name.to_string();
    made(node.queue.add_image_group(new).await.map(|()| view).map_err(Refusal::from), about)
}

/// Forget a group of images, with every grant that is on it. The images stay.
#[utoipa::path(delete, path = "/v1/image-groups/{name}", params(("name" = String, Path, description = "The group of images")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn delete_image_group(State(node): Daemon, Path(name): Path<GroupName>) -> Response {
    done(node.queue.delete_image_group(&name).await.map_err(Refusal::from))
}

/// Put images into a group of images.
#[utoipa::path(put, path = "/v1/image-groups/{name}/images/{pattern}",
    params(("name" = String, Path, description = "The group of images"), ("pattern" = String, Path, description = "An image, `gis-*`, or `*`")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn add_image(
    State(node): Daemon,
    Path((name, pattern)): Path<(GroupName, ImagePattern)>,
) -> Response {
    done(node.queue.set_image_in_group(&name, &pattern, true).await.map_err(Refusal::from))
}

/// Take images out of a group of images.
#[utoipa::path(delete, path = "/v1/image-groups/{name}/images/{pattern}",
    params(("name" = String, Path, description = "The group of images"), ("pattern" = String, Path, description = "As it was put in")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove_image(
    State(node): Daemon,
    Path((name, pattern)): Path<(GroupName, ImagePattern)>,
) -> Response {
    done(node.queue.set_image_in_group(&name, &pattern, false).await.map_err(Refusal::from))
}

/// What groups may: of all groups, or for whoever does not look after people of his own.
#[utoipa::path(get, path = "/v1/grants", params(Page), responses((status = 200, body = [GrantView])))]
pub(super) async fn grants(State(node): Daemon, who: Who, uri: Uri, Query(page): Query<Page>) -> Response {
    if !who.can(Verb::People, &Subject::Nothing) {
        return page.of(Ok(who.grant_views()), |item| format!("{:020}", item.id), &uri);
    }
    let all = node.queue.rights().await.map(|rows| rows.grants).map_err(Refusal::from);
    page.of(all, |item| format!("{:020}", item.id), &uri)
}

/// Give a group a right.
#[utoipa::path(post, path = "/v1/grants", request_body = NewGrant, responses((status = 201, body = GrantView), (status = 404, body = Problem)))]
pub(super) async fn add_grant(State(node): Daemon, who: Who, Body(new): Body<NewGrant>) -> Response {
    let about = format!("{} {} {}", new.group, new.verb, new.scope);
    let result = async {
        who.may(Verb::People, &Subject::Nothing)?;
        if !who.has_to_give(new.verb, &new.scope) {
            let (verb, scope) = (new.verb, &new.scope);
            return Err(forbidden(format!(
                "{} has not `{verb}` on {scope}, and nobody gives more than he has; ask an administrator",
                who.name
            )));
        }
        Ok(node.queue.add_grant(new, &who.name).await?)
    };
    made(result.await, about)
}

/// Take a right back.
#[utoipa::path(delete, path = "/v1/grants/{id}", params(("id" = i64, Path, description = "The grant's number")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn delete_grant(State(node): Daemon, who: Who, Path(id): Path<i64>) -> Response {
    let result = async {
        who.may(Verb::People, &Subject::Nothing)?;
        let all = node.queue.rights().await?.grants;
        if let Some(grant) = all.iter().find(|grant| grant.id == id)
            && !who.has_to_give(grant.verb, &grant.scope)
        {
            let message = format!("{} has not this right, so it is not {0}'s to take", who.name);
            return Err(forbidden(message));
        }
        node.queue.delete_grant(id).await?;
        Ok(())
    };
    done(result.await)
}

/// Whose tokens are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TokensAsked {
    /// Of this user; one's own, if not said
    owner: Option<String>,
    /// Of everybody
    #[serde(default)]
    all: bool,
    /// Those after this one
    after: Option<String>,
    /// How many; 100 if not said, 1000 at most
    limit: Option<u32>,
}

/// Tokens, without their secrets.
#[utoipa::path(get, path = "/v1/tokens", params(TokensAsked), responses((status = 200, body = [TokenView])))]
pub(super) async fn tokens(
    State(node): Daemon,
    who: Who,
    uri: Uri,
    Query(asked): Query<TokensAsked>,
) -> Response {
    let limit = asked.limit.unwrap_or(100).clamp(1, 1000);
    let result = async {
        let owner = asked.owner.as_deref().unwrap_or(&who.name);
        let owner = if asked.all { None } else { Some(owner) };
        if owner != Some(who.name.as_str()) {
            who.may(Verb::People, &Subject::Nothing)?;
        }
        Ok::<_, Refusal>(node.queue.tokens(owner, asked.after.as_deref(), limit).await?)
    };
    pages::full(result.await, limit, ("after", |token: &TokenView| token.id.clone()), &uri)
}

/// Make a token. Its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/tokens", request_body = NewToken, responses((status = 201, body = TokenMade), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn add_token(State(node): Daemon, who: Who, Body(new): Body<NewToken>) -> Response {
    let about = format!("{} {}", new.owner.as_ref().map_or(who.name.as_str(), UserName::as_str), new.label);
    let mut answer = made(token(&node, &who, new).await, about);
    if answer.status().is_success() {
        answer.extensions_mut().insert(ToldOnce);
    }
    answer
}

async fn token(node: &Node, who: &Who, new: NewToken) -> Result<TokenMade, Refusal> {
    let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
    // What it made would outlive its being taken back.
    if who.scopes.is_some() {
        return Err(forbidden("this token is limited, and makes no other; sign in: vclctl login"));
    }
    let owner = match new.owner {
        Some(owner) if owner.as_str() != who.name => {
            who.may(Verb::Administer, &Subject::Nothing)?;
            owner
        }
        _ => who.name.parse().map_err(|e| {
            invalid(format!(
                "{e}; as an administrator make one for a user: vclctl token create LABEL --owner USER"
            ))
        })?,
    };
    if node.queue.standing_of(owner.as_str()).await?.is_none() {
        let message = format!("there is no user {owner}, and a token is a user's: vclctl user add {owner}");
        return Err(Refusal::new(RefusalKind::NotFound, message));
    }
    if new.scopes.as_ref().is_some_and(std::collections::BTreeSet::is_empty) {
        return Err(invalid(
            "scopes is empty; leave it out for no limit, or name what the token is for".into(),
        ));
    }
    let seconds = new.seconds.unwrap_or(YEAR);
    if !(60..=LONGEST).contains(&seconds) {
        return Err(invalid(format!("a token is good for 60 to {LONGEST} seconds, not {seconds}")));
    }
    let end = Utc::now() + TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::MAX));
    // A token makes none that is good for longer than it is.
    let expires = Some(who.expires.map_or(end, |limit| limit.min(end)));
    node.make_token(Wanted { owner, label: new.label, scopes: new.scopes, expires }).await
}

/// Take a token back.
#[utoipa::path(delete, path = "/v1/tokens/{id}", params(("id" = String, Path, description = "What the token is called")),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn revoke_token(State(node): Daemon, who: Who, Path(id): Path<String>) -> Response {
    let result = async {
        let own = node.queue.token(&id).await?.is_some_and(|row| row.view.owner.as_str() == who.name);
        // One that is limited takes itself back and no other.
        let limited = who.scopes.is_some() && who.token.as_deref() != Some(&id);
        if !own || limited {
            who.may(Verb::People, &Subject::Nothing)?;
        }
        node.queue.revoke_token(&id).await?;
        Ok::<_, Refusal>(())
    };
    done(result.await)
}

/// Take back the token that this is asked with.
#[utoipa::path(post, path = "/v1/sign-out", responses((status = 204), (status = 409, body = Problem)))]
pub(super) async fn sign_out(State(node): Daemon, who: Who) -> Response {
    let result = async {
        let Some(id) = &who.token else {
            let message = "nobody is signed in with a token of vcld's here";
            return Err(Refusal::new(RefusalKind::Refused, message));
        };
        node.queue.revoke_token(id).await?;
        Ok(())
    };
    done(result.await)
}

/// Which deeds are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeedsAsked {
    /// Only of this one
    who: Option<String>,
    /// Only to this
    subject: Option<String>,
    /// Only before this number: for the next page
    before: Option<i64>,
    /// How many; 100 if not said, 1000 at most
    limit: Option<u32>,
}

/// Who did what to what, newest first.
#[utoipa::path(get, path = "/v1/audit", params(DeedsAsked), responses((status = 200, body = [AuditView])))]
pub(super) async fn audit(State(node): Daemon, uri: Uri, Query(asked): Query<DeedsAsked>) -> Response {
    let filter = DeedFilter {
        who: asked.who,
        subject: asked.subject,
        before: asked.before,
        limit: asked.limit.unwrap_or(100).clamp(1, 1000),
    };
    let deeds = node.queue.deeds(&filter).await.map_err(Refusal::from);
    pages::full(deeds, filter.limit, ("before", |deed: &AuditView| deed.id.to_string()), &uri)
}
