//! The part of the client that is about people.

use crate::client::{Client, QUICK, SLOW};
use crate::error::Result;
use reqwest::{Method, StatusCode};
use vcl_types::api::*;

impl Client {
    /// Who one is and what one may.
    pub async fn whoami(&self) -> Result<WhoAmI> {
        self.get(&["whoami"], &[], QUICK).await
    }
    /// Which ways to sign in there are.
    pub async fn ways_in(&self) -> Result<WaysIn> {
        self.get(&["sign-in"], &[], QUICK).await
    }
    /// Signs in with a name and a password.
    pub async fn sign_in(&self, asked: &SignIn) -> Result<TokenMade> {
        self.post(&["sign-in"], &[], asked).await
    }
    /// Begins to sign in with a browser.
    pub async fn begin_code(&self, redirect: &str) -> Result<CodeBegun> {
        self.post(&["sign-in", "code"], &[], &BeginCode { redirect: redirect.to_owned() }).await
    }
    /// Ends it.
    pub async fn end_code(&self, asked: &EndCode) -> Result<TokenMade> {
        self.post(&["sign-in", "code", "end"], &[], asked).await
    }
    /// Begins to sign in on another device.
    pub async fn begin_device(&self) -> Result<DeviceBegun> {
        self.post(&["sign-in", "device"], &[], &()).await
    }
    /// Asks whether that is done.
    pub async fn end_device(&self, asked: &EndDevice) -> Result<Option<TokenMade>> {
        let request =
            self.request(Method::POST, &["sign-in", "device", "end"], &[])?.json(asked).timeout(SLOW);
        let answer = self.send(request).await?;
        if answer.status() == StatusCode::ACCEPTED {
            return Ok(None);
        }
        self.read(answer).await.map(Some)
    }
    /// Takes back the token that this is asked with.
    pub async fn sign_out(&self) -> Result<()> {
        self.done(Method::POST, &["sign-out"], None::<&()>).await
    }

    /// All users.
    pub async fn users(&self) -> Result<Vec<UserView>> {
        self.all(&["users"], "after", |user: &UserView| user.name.to_string()).await
    }
    /// One user.
    pub async fn user(&self, name: &str) -> Result<UserView> {
        self.get(&["users", name], &[], QUICK).await
    }
    /// Makes a user.
    pub async fn add_user(&self, new: &NewUser) -> Result<UserView> {
        self.post(&["users"], &[], new).await
    }
    /// Changes a user.
    pub async fn change_user(&self, name: &str, change: &UserChange) -> Result<UserView> {
        let request = self.request(Method::PATCH, &["users", name], &[])?.json(change).timeout(QUICK);
        let answer = self.send(request).await?;
        self.read(answer).await
    }
    /// Forgets a user.
    pub async fn delete_user(&self, name: &str) -> Result<()> {
        self.done(Method::DELETE, &["users", name], None::<&()>).await
    }
    /// Sets a user's password, or takes it away; `old` is the present one, which is wanted of whoever changes their own
    /// with a token.
    pub async fn set_password(
        &self,
        name: &str,
        password: Option<String>,
        old: Option<String>,
    ) -> Result<()> {
        self.done(Method::PUT, &["users", name, "password"], Some(&NewPassword { password, old })).await
    }
    /// Adds a public ssh key to a user.
    pub async fn add_key(&self, name: &str, key: &str) -> Result<UserView> {
        self.post(&["users", name, "keys"], &[], &NewKey { key: key.to_owned() }).await
    }

    /// All groups of people.
    pub async fn groups(&self) -> Result<Vec<GroupView>> {
        self.get(&["groups"], &[], QUICK).await
    }
    /// One group.
    pub async fn group(&self, name: &str) -> Result<GroupView> {
        self.get(&["groups", name], &[], QUICK).await
    }
    /// Makes a group.
    pub async fn add_group(&self, new: &NewGroup) -> Result<GroupView> {
        self.post(&["groups"], &[], new).await
    }
    /// Forgets a group.
    pub async fn delete_group(&self, name: &str) -> Result<()> {
        self.done(Method::DELETE, &["groups", name], None::<&()>).await
    }
    /// Puts a user into a group, or out of it.
    pub async fn set_member(&self, group: &str, user: &str, is: bool) -> Result<()> {
        let method = if is { Method::PUT } else { Method::DELETE };
        self.done(method, &["groups", group, "members", user], None::<&()>).await
    }

    /// Groups of images.
    pub async fn image_groups(&self) -> Result<Vec<ImageGroupView>> {
        self.get(&["image-groups"], &[], QUICK).await
    }
    /// Makes a group of images.
    pub async fn add_image_group(&self, new: &NewGroup) -> Result<ImageGroupView> {
        self.post(&["image-groups"], &[], new).await
    }
    /// Forgets a group of images.
    pub async fn delete_image_group(&self, name: &str) -> Result<()> {
        self.done(Method::DELETE, &["image-groups", name], None::<&()>).await
    }
    /// Puts images into a group of images, or out of it.
    pub async fn set_image_in_group(&self, group: &str, pattern: &str, is: bool) -> Result<()> {
        let method = if is { Method::PUT } else { Method::DELETE };
        self.done(method, &["image-groups", group, "images", pattern], None::<&()>).await
    }

    /// What groups may.
    pub async fn grants(&self) -> Result<Vec<GrantView>> {
        self.get(&["grants"], &[], QUICK).await
    }
    /// Gives a group a right.
    pub async fn add_grant(&self, new: &NewGrant) -> Result<GrantView> {
        self.post(&["grants"], &[], new).await
    }
    /// Takes a right back.
    pub async fn delete_grant(&self, id: i64) -> Result<()> {
        self.done(Method::DELETE, &["grants", &id.to_string()], None::<&()>).await
    }

    /// Tokens: of one user, of everybody, or one's own.
    pub async fn tokens(&self, owner: Option<&str>, all: bool) -> Result<Vec<TokenView>> {
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(owner.map(|owner| ("owner", owner.to_owned())));
        query.extend(all.then(|| ("all", "true".to_owned())));
        self.pages(&["tokens"], query, "after", |token: &TokenView| token.id.clone()).await
    }
    /// Makes a token.
    pub async fn add_token(&self, new: &NewToken) -> Result<TokenMade> {
        self.post(&["tokens"], &[], new).await
    }
    /// Takes a token back.
    pub async fn revoke_token(&self, id: &str) -> Result<()> {
        self.done(Method::DELETE, &["tokens", id], None::<&()>).await
    }
    /// Who did what to what, newest first.
    pub async fn audit(
        &self,
        who: Option<&str>,
        subject: Option<&str>,
        limit: u32,
    ) -> Result<Vec<AuditView>> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(who.map(|who| ("who", who.to_owned())));
        query.extend(subject.map(|subject| ("subject", subject.to_owned())));
        self.get(&["audit"], &query, QUICK).await
    }
}
