//! What groups may: the tables `grants`, `image_groups` and `image_group_images`.

use crate::database::{Db, DbRow, now, parsed, time};
use crate::engine::{insert, numbered};
use crate::names;
use crate::people::{known_group, raise, short, version};
use crate::{Error, Kind, Queue, Result};
use futures::FutureExt;
use sqlx::Row;
use std::collections::BTreeMap;
use vcl_types::api::{GrantView, ImageGroupView, NewGrant, NewGroup};
use vcl_types::people::{GroupName, ImagePattern, Scope};

/// How many patterns one group of images may have.
const PATTERNS: usize = 1000;

/// Everything that rights are decided by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RightsRows {
    /// As [`Queue::people_version`] had it before the rest was read.
    pub version: i64,
    /// All grants.
    pub grants: Vec<GrantView>,
    /// All groups of images.
    pub image_groups: Vec<ImageGroupView>,
}

fn grant(row: &DbRow) -> Result<GrantView> {
    Ok(GrantView {
        id: row.try_get("id")?,
        group: parsed(row, "people")?,
        verb: row.try_get::<&str, _>("verb")?.parse().map_err(|e: String| Error::corrupt("a `verb`", e))?,
        scope: row
            .try_get::<&str, _>("scope")?
            .parse()
            .map_err(|e: String| Error::corrupt("a `scope`", e))?,
        by: row.try_get("given_by")?,
        since: time(row.try_get("since")?),
    })
}

async fn grants(db: &mut Db) -> Result<Vec<GrantView>> {
    let rows = sqlx::query("SELECT * FROM grants ORDER BY id").fetch_all(db).await?;
    rows.iter().map(grant).collect()
}

async fn image_groups(db: &mut Db) -> Result<Vec<ImageGroupView>> {
    let rows = sqlx::query("SELECT name, pattern FROM image_group_images ORDER BY name, pattern");
    let mut images: BTreeMap<String, Vec<ImagePattern>> = BTreeMap::new();
    for row in rows.fetch_all(&mut *db).await? {
        images.entry(row.try_get("name")?).or_default().push(parsed(&row, "pattern")?);
    }
    let rows = sqlx::query("SELECT name, note FROM image_groups ORDER BY name").fetch_all(db).await?;
    let view = |row: &DbRow| {
        let name: GroupName = parsed(row, "name")?;
        let images = images.remove(name.as_str()).unwrap_or_default();
        Ok(ImageGroupView { note: row.try_get("note")?, images, name })
    };
    rows.iter().map(view).collect()
}

async fn known_images(db: &mut Db, name: &GroupName) -> Result<()> {
    let all: Vec<String> =
        sqlx::query_scalar("SELECT name FROM image_groups ORDER BY name").fetch_all(db).await?;
    if all.iter().any(|group| group == name.as_str()) {
        return Ok(());
    }
    let hint = names::hint(name.as_str(), &all, "vclctl image-group list");
    Err(Error::new(Kind::NotFound, format!("there is no group of images {name}; {hint}")))
}

impl Queue {
    /// Everything that rights are decided by.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn rights(&self) -> Result<RightsRows> {
        self.read(|db| {
            async move {
                // First the number: what changes meanwhile makes the copy look older than it is, never newer.
                let version = version(&mut *db).await?;
                let grants = grants(&mut *db).await?;
                Ok(RightsRows { version, grants, image_groups: image_groups(db).await? })
            }
            .boxed()
        })
        .await
    }

    /// Gives a group a right. One that it has already is answered as it is.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a group, of people or images, that is not there.
    pub async fn add_grant(&self, new: NewGrant, by: &str) -> Result<GrantView> {
        let by = by.to_owned();
        self.write(move |db| {
            Box::pin(async move {
                known_group(&mut *db, &new.group).await?;
                if let Scope::Images(group) = &new.scope {
                    known_images(&mut *db, group).await?;
                }
                let scope = new.scope.to_string();
                let there = sqlx::query("SELECT * FROM grants WHERE people = ? AND verb = ? AND scope = ?");
                let there = there.bind(new.group.as_str()).bind(new.verb.as_str()).bind(&scope);
                if let Some(row) = there.fetch_optional(&mut *db).await? {
                    return grant(&row);
                }
                let at = now();
                let row = sqlx::query(numbered!(
                    db,
                    "INSERT INTO grants (people, verb, scope, given_by, since) VALUES (?, ?, ?, ?, ?)"
                ));
                let row = row.bind(new.group.as_str()).bind(new.verb.as_str()).bind(&scope);
                let id = insert(&mut *db, row.bind(&by).bind(at)).await?;
                raise(db).await?;
                let NewGrant { group, verb, scope } = new;
                Ok(GrantView { id, group, verb, scope, by, since: time(at) })
            })
        })
        .await
    }

    /// Takes a right back, and answers what it was.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn delete_grant(&self, id: i64) -> Result<GrantView> {
        self.write(move |db| {
            Box::pin(async move {
                let row = sqlx::query("SELECT * FROM grants WHERE id = ?").bind(id);
                let Some(row) = row.fetch_optional(&mut *db).await? else {
                    let message = format!("there is no grant {id}; `vclctl grant list` shows what there is");
                    return Err(Error::new(Kind::NotFound, message));
                };
                sqlx::query("DELETE FROM grants WHERE id = ?").bind(id).execute(&mut *db).await?;
                raise(db).await?;
                grant(&row)
            })
        })
        .await
    }

    /// Makes a group of images.
    ///
    /// # Errors
    /// [`Kind::Exists`].
    pub async fn add_image_group(&self, new: NewGroup) -> Result<()> {
        let note = short("note", new.note)?;
        self.write(move |db| {
            Box::pin(async move {
                let there =
                    sqlx::query("SELECT name FROM image_groups WHERE name = ?").bind(new.name.as_str());
                if there.fetch_optional(&mut *db).await?.is_some() {
                    let message = format!("there is a group of images {} already", new.name);
                    return Err(Error::new(Kind::Exists, message));
                }
                let row = sqlx::query("INSERT INTO image_groups (name, note, created_at) VALUES (?, ?, ?)");
                row.bind(new.name.as_str()).bind(note).bind(now()).execute(&mut *db).await?;
                raise(db).await
            })
        })
        .await
    }

    /// Forgets a group of images, with every grant that is on it. The images stay.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn delete_image_group(&self, name: &GroupName) -> Result<()> {
        let name = name.clone();
        self.write(move |db| {
            Box::pin(async move {
                known_images(&mut *db, &name).await?;
                let scope = Scope::Images(name.clone()).to_string();
                sqlx::query("DELETE FROM grants WHERE scope = ?").bind(scope).execute(&mut *db).await?;
                for sql in [
                    "DELETE FROM image_group_images WHERE name = ?",
                    "DELETE FROM image_groups WHERE name = ?",
                ] {
                    sqlx::query(sql).bind(name.as_str()).execute(&mut *db).await?;
                }
                raise(db).await
            })
        })
        .await
    }

    /// Puts images into a group of images, or out of it again.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a group that is not there, or a pattern that is to go and is not there.
    pub async fn set_image_in_group(&self, name: &GroupName, pattern: &ImagePattern, is: bool) -> Result<()> {
        let (name, pattern) = (name.clone(), pattern.clone());
        self.write(move |db| {
            Box::pin(async move {
                known_images(&mut *db, &name).await?;
                let rows: Vec<String> =
                    sqlx::query_scalar("SELECT pattern FROM image_group_images WHERE name = ?")
                        .bind(name.as_str())
                        .fetch_all(&mut *db)
                        .await?;
                let there = rows.iter().any(|row| row == pattern.as_str());
                let sql = match (there, is) {
                    (true, true) => return Ok(()),
                    (false, true) if rows.len() >= PATTERNS => {
                        let message = format!("a group of images has at most {PATTERNS} of them; use gis-*");
                        return Err(Error::new(Kind::Refused, message));
                    }
                    (false, true) => "INSERT INTO image_group_images (name, pattern) VALUES (?, ?)",
                    (true, false) => "DELETE FROM image_group_images WHERE name = ? AND pattern = ?",
                    (false, false) => {
                        return Err(Error::new(Kind::NotFound, format!("{pattern} is not in {name}")));
                    }
                };
                sqlx::query(sql).bind(name.as_str()).bind(pattern.as_str()).execute(&mut *db).await?;
                raise(db).await
            })
        })
        .await
    }
}
