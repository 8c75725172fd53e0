//! Tokens: the table `tokens`. A token's secret is 256 random bits that are told once; what is kept is its SHA-256, from
//! which nobody gets them back, so that a stolen database lets nobody in.

use crate::database::{DbRow, json, now, parsed, time, to_json};
use crate::people::raise;
use crate::{Error, Kind, Queue, Result};
use chrono::{DateTime, Utc};
use sqlx::Row;
use std::collections::BTreeSet;
use vcl_types::api::TokenView;
use vcl_types::people::{UserName, Verb};

/// How many tokens one user may have that are good.
const MOST: i64 = 1000;
/// `used` is written at most this often, in milliseconds.
const USED: i64 = 60_000;

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// What is shown of it.
    pub view: TokenView,
    /// SHA-256 of its secret, in hex.
    pub digest: String,
}

/// A token to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenToKeep {
    /// What it is called.
    pub id: String,
    /// SHA-256 of its secret, in hex.
    pub digest: String,
    /// Whose it is.
    pub owner: UserName,
    /// What it is for, at most 120 bytes.
    pub label: String,
    /// All it may be used for.
    pub scopes: Option<BTreeSet<Verb>>,
    /// When it ends.
    pub expires: Option<DateTime<Utc>>,
}

fn read(row: &DbRow) -> Result<TokenView> {
    let when = |column: &'static str| Ok::<_, Error>(row.try_get::<Option<i64>, _>(column)?.map(time));
    let scopes: Option<String> = row.try_get("scopes")?;
    Ok(TokenView {
        id: row.try_get("id")?,
        owner: parsed(row, "owner")?,
        label: row.try_get("label")?,
        scopes: scopes.map(|_| json(row, "scopes")).transpose()?,
        created: time(row.try_get("created_at")?),
        expires: when("expires_at")?,
        used: when("used_at")?,
        revoked: when("revoked_at")?,
    })
}

impl Queue {
    /// Keeps a token.
    ///
    /// # Errors
    /// [`Kind::Refused`] when its owner has too many, or its label is too long.
    pub async fn keep_token(&self, token: TokenToKeep) -> Result<TokenView> {
        let label = token.label.trim().to_owned();
        if label.is_empty() || label.len() > 120 || label.chars().any(char::is_control) {
            let message = "a token's label says what it is for, in 1 to 120 bytes without control characters";
            return Err(Error::new(Kind::Refused, message));
        }
        self.write(move |db| {
            Box::pin(async move {
                let at = now();
                let good: i64 = sqlx::query_scalar(
                    "SELECT COUNT(*) FROM tokens WHERE owner = ? AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)",
                )
                .bind(token.owner.as_str())
                .bind(at)
                .fetch_one(&mut *db)
                .await?;
                if good >= MOST {
                    let message =
                        format!("{} has {MOST} tokens already; revoke some: vclctl token list", token.owner);
                    return Err(Error::new(Kind::Refused, message));
                }
                let row = sqlx::query(
                    "INSERT INTO tokens (id, digest, owner, label, scopes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                );
                row.bind(&token.id)
                    .bind(&token.digest)
                    .bind(token.owner.as_str())
                    .bind(&label)
                    .bind(token.scopes.as_ref().map(to_json).transpose()?)
                    .bind(at)
                    .bind(token.expires.map(|t| t.timestamp_millis()))
                    .execute(&mut *db)
                    .await?;
                Ok(TokenView {
                    id: token.id,
                    owner: token.owner,
                    label,
                    scopes: token.scopes,
                    created: time(at),
                    expires: token.expires.map(|t| time(t.timestamp_millis())),
                    used: None,
                    revoked: None,
                })
            })
        })
        .await
    }

    /// A token; `None` for one nobody knows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn token(&self, id: &str) -> Result<Option<TokenRow>> {
        let row =
            sqlx::query("SELECT * FROM tokens WHERE id = ?").bind(id).fetch_optional(self.readers()).await?;
        row.map(|row| Ok(TokenRow { view: read(&row)?, digest: row.try_get("digest")? })).transpose()
    }

    /// Tokens, of one user or of all, by their ids, those after `after`, at most so many.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn tokens(
        &self,
        owner: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<TokenView>> {
        let rows =
            sqlx::query("SELECT * FROM tokens WHERE (? IS NULL OR owner = ?) AND id > ? ORDER BY id LIMIT ?");
        let rows = rows.bind(owner).bind(owner).bind(after.unwrap_or_default()).bind(i64::from(limit));
        rows.fetch_all(self.readers()).await?.iter().map(read).collect()
    }

    /// Takes a token back. One that was is not an error.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn revoke_token(&self, id: &str) -> Result<TokenView> {
        let id = id.to_owned();
        self.write(move |db| {
            Box::pin(async move {
                let set = sqlx::query("UPDATE tokens SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ?");
                set.bind(now()).bind(&id).execute(&mut *db).await?;
                let row = sqlx::query("SELECT * FROM tokens WHERE id = ?")
                    .bind(&id)
                    .fetch_optional(&mut *db)
                    .await?;
                let row = row.ok_or_else(|| {
                    let message = format!("there is no token {id}; `vclctl token list` shows what there is");
                    Error::new(Kind::NotFound, message)
                })?;
                raise(db).await?;
                read(&row)
            })
        })
        .await
    }

    /// Remembers that a token was used, if the last time was a while ago.
    ///
    /// # Errors
    /// When the database cannot be written to.
    pub async fn token_used(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.write_beside(
            move |db| {
                Box::pin(async move {
                    let at = now();
                    let set = sqlx::query(
                        "UPDATE tokens SET used_at = ? WHERE id = ? AND (used_at IS NULL OR used_at < ?)",
                    );
                    set.bind(at).bind(id).bind(at - USED).execute(db).await?;
                    Ok(())
                })
            },
            |value| value,
        )
        .await
    }
}
