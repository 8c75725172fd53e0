//! People: users, groups, grants, tokens, the record of deeds.

use crate::cli::{GrantVerb, GroupVerb, ImageGroupVerb, KeyVerb, MemberVerb, TokenVerb, UserVerb};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::render::people as shown;
use crate::screen::Screen;
use serde_json::json;
use vcl_types::api::*;
use vcl_types::people::Via;

/// Says that something was done that has no answer of its own.
fn done(screen: &mut Screen, sentence: &str) -> Result<()> {
    screen.answer(&json!({ "done": sentence }), |_, _| sentence.to_owned())
}

/// Asks before something goes for good; false when it is not to.
fn sure(screen: &mut Screen, yes: bool, what: &str) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !screen.interactive {
        let context = format!("{what} would be gone for good; add --yes where nobody can be asked");
        return Err(Error::new(ErrorKind::Usage, context));
    }
    let sure = screen.ask(&format!("delete {what} for good?"))?;
    if !sure {
        screen.say("nothing was deleted");
    }
    Ok(sure)
}

/// What is wanted of users.
pub(super) async fn users(verb: UserVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        UserVerb::List => screen.answer(&client.users().await?, |all, clock| shown::users(all, clock)),
        UserVerb::Show { name } => screen.answer(&client.user(name.as_str()).await?, shown::user),
        UserVerb::Add { name, source, full_name, mail } => {
            let new = NewUser { name, source, full_name, mail };
            screen.answer(&client.add_user(&new).await?, |user, _| {
                let name = &user.name;
                format!("user {name} is made; a password: vclctl user set {name} --password; a group: vclctl group member add GROUP {name}")
            })
        }
        UserVerb::Set { name, source, full_name, mail, uid, password, password_stdin, no_password } => {
            let name = name.as_str();
            if password || no_password {
                let prompt = format!("present password of {name}: ");
                let proves = proves(client, name).await?;
                let ask = |screen: &Screen| super::login::password(screen, password_stdin, &prompt).map(Some);
                // Who is asked says it first; in a script it is the line after the new one.
                let mut old = if proves && !password_stdin { ask(screen)? } else { None };
                let new =
                    if password { Some(super::login::new_password(screen, password_stdin)?) } else { None };
                if proves && password_stdin {
                    old = ask(screen)?;
                }
                client.set_password(name, new, old).await?;
            }
            if source.is_some() || full_name.is_some() || mail.is_some() || uid.is_some() {
                let change = UserChange { source, full_name, mail, uid, ..UserChange::default() };
                return screen.answer(&client.change_user(name, &change).await?, shown::user);
            }
            if !password && !no_password {
                let context = format!("what is to be different about {name}? vclctl user set --help");
                return Err(Error::new(ErrorKind::Usage, context));
            }
            done(
                screen,
                &format!("the password of {name} is {}", if password { "set" } else { "taken away" }),
            )
        }
        UserVerb::Disable { name } => disable(client, screen, name.as_str(), true).await,
        UserVerb::Enable { name } => disable(client, screen, name.as_str(), false).await,
        UserVerb::Delete { name, yes } => {
            if !sure(screen, yes, &format!("user {name}"))? {
                return Ok(());
            }
            client.delete_user(name.as_str()).await?;
            done(screen, &format!("user {name} is deleted"))
        }
        UserVerb::Key(KeyVerb::Add { name, file }) => {
            let path = file.display();
            let unreadable = |cause: std::io::Error| {
                Error::caused(ErrorKind::Local, format!("no key can be read from `{path}`"), cause)
            };
            let text = std::fs::read_to_string(&file).map_err(unreadable)?;
            if text.contains("PRIVATE KEY") {
                let context = format!(
                    "`{path}` is a private key, which stays where it is; give the .pub file beside it"
                );
                return Err(Error::new(ErrorKind::Usage, context));
            }
            screen.answer(&client.add_key(name.as_str(), text.trim()).await?, shown::user)
        }
        UserVerb::Key(KeyVerb::Remove { name, text }) => {
            let before = client.user(name.as_str()).await?.ssh_keys;
            let keys: Vec<String> = before.iter().filter(|key| !key.contains(&text)).cloned().collect();
            if keys.len() == before.len() {
                let context = format!("no key of {name} has `{text}` in it: vclctl user show {name}");
                return Err(Error::new(ErrorKind::NotFound, context));
            }
            let change = UserChange { ssh_keys: Some(keys), ..UserChange::default() };
            screen.answer(&client.change_user(name.as_str(), &change).await?, shown::user)
        }
    }
}

async fn disable(client: &Client, screen: &mut Screen, name: &str, disabled: bool) -> Result<()> {
    let change = UserChange { disabled: Some(disabled), ..UserChange::default() };
    screen.answer(&client.change_user(name, &change).await?, |user, _| {
        format!("user {} is {}", user.name, if user.disabled { "let in nowhere" } else { "let in again" })
    })
}

/// What is wanted of groups.
pub(super) async fn groups(verb: GroupVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        GroupVerb::List => screen.answer(&client.groups().await?, |all, clock| shown::groups(all, clock)),
        GroupVerb::Show { name } => screen.answer(&client.group(name.as_str()).await?, shown::group),
        GroupVerb::Add { name, note } => {
            screen.answer(&client.add_group(&NewGroup { name, note }).await?, |group, _| {
                format!("group {0} is made; who is in it: vclctl group member add {0} USER", group.name)
            })
        }
        GroupVerb::Delete { name, yes } => {
            if !sure(screen, yes, &format!("group {name}"))? {
                return Ok(());
            }
            client.delete_group(name.as_str()).await?;
            done(screen, &format!("group {name} is deleted"))
        }
        GroupVerb::Member(MemberVerb::Add { group, users }) => {
            for user in &users {
                client.set_member(group.as_str(), user.as_str(), true).await?;
            }
            screen.answer(&client.group(group.as_str()).await?, shown::group)
        }
        GroupVerb::Member(MemberVerb::Remove { group, users }) => {
            for user in &users {
                client.set_member(group.as_str(), user.as_str(), false).await?;
            }
            screen.answer(&client.group(group.as_str()).await?, shown::group)
        }
    }
}

/// What is wanted of groups of images.
pub(super) async fn image_groups(verb: ImageGroupVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    let list = async |client: &Client, screen: &mut Screen| {
        let all = client.image_groups().await?;
        screen.answer(&all, |all, clock| shown::image_groups(all, clock))
    };
    match verb {
        ImageGroupVerb::List => list(client, screen).await,
        ImageGroupVerb::Create { name, note } => {
            screen.answer(&client.add_image_group(&NewGroup { name, note }).await?, |group, _| {
                format!(
                    "group of images {0} is made; what is in it: vclctl image-group add {0} IMAGE",
                    group.name
                )
            })
        }
        ImageGroupVerb::Delete { name, yes } => {
            if !sure(screen, yes, &format!("group of images {name}, with the grants on it,"))? {
                return Ok(());
            }
            client.delete_image_group(name.as_str()).await?;
            done(screen, &format!("group of images {name} is deleted; the images stay"))
        }
        ImageGroupVerb::Add { group, images } => {
            for image in &images {
                client.set_image_in_group(group.as_str(), image.as_str(), true).await?;
            }
            list(client, screen).await
        }
        ImageGroupVerb::Remove { group, images } => {
            for image in &images {
                client.set_image_in_group(group.as_str(), image.as_str(), false).await?;
            }
            list(client, screen).await
        }
    }
}

/// What is wanted of grants.
pub(super) async fn grants(verb: GrantVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        GrantVerb::List => screen.answer(&client.grants().await?, |all, clock| shown::grants(all, clock)),
        GrantVerb::Add { group, verb, scope } => {
            screen.answer(&client.add_grant(&NewGrant { group, verb, scope }).await?, |grant, _| {
                format!("{} may `{}` on {} (grant {})", grant.group, grant.verb, grant.scope, grant.id)
            })
        }
        GrantVerb::Remove { id } => {
            client.delete_grant(id).await?;
            done(screen, &format!("grant {id} is taken back"))
        }
    }
}

/// Whether the present password has to be told to change this user's: of whoever is that user and has a token alone.
async fn proves(client: &Client, name: &str) -> Result<bool> {
    let who = client.whoami().await?;
    Ok(who.name == name && who.via == Via::Token && client.user(name).await?.has_password)
}

/// What is wanted of tokens.
pub(super) async fn tokens(verb: TokenVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        TokenVerb::List { owner, all } => {
            let owner = owner.as_ref().map(AsRef::as_ref);
            screen.answer(&client.tokens(owner, all).await?, |all, clock| shown::tokens(all, clock))
        }
        TokenVerb::Create { label, scopes, owner, days } => {
            let scopes = (!scopes.is_empty()).then(|| scopes.into_iter().collect());
            let seconds = Some(u64::from(days) * 86_400);
            let made = client.add_token(&NewToken { label, owner, scopes, seconds }).await?;
            screen.say("this is shown once; put it where only its user reads it, as VCLD_TOKEN:");
            screen.answer(&made, |made, _| made.secret.clone())
        }
        TokenVerb::Revoke { id } => {
            client.revoke_token(&id).await?;
            done(screen, &format!("token {id} is taken back"))
        }
    }
}
