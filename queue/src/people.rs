//! Users, groups of them, and who is in which: the tables `users`, `people` and `members`.
//!
//! Each change of who may do what raises a number in the same transaction, in `people_version`: whoever keeps a copy of the
//! rights asks for the number and knows whether the copy is good, whichever node made the change.

use crate::database::{Db, DbRow, json, now, parsed, time, to_json};
use crate::engine::{flag, locked, number_or_null};
use crate::names;
use crate::{Error, Kind, Queue, Result};
use futures::FutureExt;
use sqlx::Row;
use std::collections::{BTreeSet, HashMap};
use vcl_types::api::{GroupView, MembershipView, NewGroup, NewUser, UserChange, UserView};
use vcl_types::people::{GroupName, Source, UserName};

/// How many of a directory's groups are kept for one user.
pub const MOST_GROUPS: usize = 500;
/// How many public keys one user may have, and how long each may be.
const KEYS: (usize, usize) = (20, 4096);
/// `seen` is written at most this often, in milliseconds.
const SEEN: i64 = 3_600_000;

/// What decides whether a user is let in, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserStanding {
    /// Who says that it is he.
    pub source: Source,
    /// Whether he is let in nowhere.
    pub disabled: bool,
    /// His groups, whoever says so.
    pub groups: BTreeSet<GroupName>,
}

/// Somebody who was let in, as the one who vouches for him tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// His name.
    pub name: UserName,
    /// Who vouches.
    pub source: Source,
    /// What people call him, where that was told.
    pub full_name: Option<String>,
    /// His address, where that was told.
    pub mail: Option<String>,
    /// All his groups there; `None` where nothing was said of groups.
    pub groups: Option<BTreeSet<GroupName>>,
    /// The number that his files belong to, where that was told.
    pub uid: Option<u32>,
}

/// Says that copies of the rights are not good any more.
pub(crate) async fn raise(db: &mut Db) -> Result<()> {
    let done = sqlx::query("UPDATE people_version SET version = version + 1 WHERE id = 1");
    if done.execute(&mut *db).await?.rows_affected() == 0 {
        sqlx::query("INSERT INTO people_version (id, version) VALUES (1, 1)").execute(db).await?;
    }
    Ok(())
}

pub(crate) async fn version(db: &mut Db) -> Result<i64> {
    let version = sqlx::query_scalar("SELECT version FROM people_version WHERE id = 1");
    Ok(version.fetch_optional(db).await?.unwrap_or(0))
}

fn membership(row: &DbRow, name: &'static str) -> Result<MembershipView> {
    Ok(MembershipView { name: row.try_get(name)?, source: parsed(row, "source")? })
}

fn view(row: &DbRow, groups: Vec<MembershipView>) -> Result<UserView> {
    let name: UserName = parsed(row, "name")?;
    let seen: Option<i64> = row.try_get("seen_at")?;
    Ok(UserView {
        source: parsed(row, "source")?,
        full_name: row.try_get("full_name")?,
        mail: row.try_get("mail")?,
        ssh_keys: json(row, "ssh_keys")?,
        disabled: flag(row, "disabled")?,
        has_password: row.try_get::<Option<String>, _>("password")?.is_some(),
        groups,
        created: time(row.try_get("created_at")?),
        seen: seen.map(time),
        notices: flag(row, "notices")?,
        uid: number_or_null(row, "uid")?,
        name,
    })
}

async fn known_user(db: &mut Db, name: &str) -> Result<DbRow> {
    let row = sqlx::query(locked!(db, "SELECT * FROM users WHERE name = ?"));
    if let Some(row) = row.bind(name).fetch_optional(&mut *db).await? {
        return Ok(row);
    }
    let all = sqlx::query_scalar("SELECT name FROM users ORDER BY name LIMIT 10000").fetch_all(db).await?;
    let hint = names::hint(name, &all, "vclctl user list");
    Err(Error::new(Kind::NotFound, format!("there is no user {name}; {hint}")))
}

/// Refuses when there is no such group of people.
pub(crate) async fn known_group(db: &mut Db, name: &GroupName) -> Result<()> {
    let all: Vec<String> = sqlx::query_scalar("SELECT name FROM people ORDER BY name").fetch_all(db).await?;
    if all.iter().any(|group| group == name.as_str()) {
        return Ok(());
    }
    let hint = names::hint(name.as_str(), &all, "vclctl group list");
    Err(Error::new(Kind::NotFound, format!("there is no group {name}; {hint}")))
}

/// A text of at most 255 bytes in a column; an empty one is none.
pub(crate) fn short(what: &str, text: Option<String>) -> Result<Option<String>> {
    match text {
        Some(text) if text.len() > 255 || text.chars().any(char::is_control) => {
            let message = format!("a {what} has at most 255 bytes and no control characters");
            Err(Error::new(Kind::Refused, message))
        }
        other => Ok(other.filter(|text| !text.trim().is_empty())),
    }
}

/// Public keys as they are kept: one line each, safe in an `authorized_keys`.
fn checked_keys(keys: &[String]) -> Result<Vec<String>> {
    let (most, longest) = KEYS;
    let refused = |message: String| Err(Error::new(Kind::Refused, message));
    if keys.len() > most {
        return refused(format!("a user has at most {most} ssh keys"));
    }
    let mut checked = Vec::with_capacity(keys.len());
    for key in keys {
        match vcl_types::ssh_key(key) {
            Ok(key) if key.len() <= longest => checked.push(key),
            Ok(_) => return refused(format!("a public ssh key has at most {longest} bytes")),
            Err(e) => return refused(format!("this is not a public ssh key: {e}")),
        }
    }
    Ok(checked)
}

impl Queue {
    /// The number that each change of who may do what raises.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn people_version(&self) -> Result<i64> {
        self.read(|db| version(db).boxed()).await
    }

    /// Users by name, those after a name, at most so many.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn users_of_vcld(&self, after: Option<&str>, limit: u32) -> Result<Vec<UserView>> {
        let mut db = self.readers().acquire().await?;
        let rows = sqlx::query("SELECT * FROM users WHERE name > ? ORDER BY name LIMIT ?");
        let rows = rows.bind(after.unwrap_or_default()).bind(i64::from(limit)).fetch_all(&mut *db).await?;
        let name = |row: Option<&DbRow>| row.map_or(Ok(String::new()), |row| row.try_get("name"));
        let (first, last) = (name(rows.first())?, name(rows.last())?);
        let members = sqlx::query(
            "SELECT member, people, source FROM members WHERE member >= ? AND member <= ? ORDER BY people, source",
        );
        let mut groups: HashMap<String, Vec<MembershipView>> = HashMap::new();
        for row in &members.bind(first).bind(last).fetch_all(&mut *db).await? {
            groups.entry(row.try_get("member")?).or_default().push(membership(row, "people")?);
        }
        rows.iter().map(|row| view(row, groups.remove(&name(Some(row))?).unwrap_or_default())).collect()
    }

    /// A user.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming near ones.
    pub async fn user(&self, name: &str) -> Result<UserView> {
        let mut db = self.readers().acquire().await?;
        let row = sqlx::query("SELECT * FROM users WHERE name = ?").bind(name);
        match row.fetch_optional(&mut *db).await? {
            Some(row) => {
                let groups = sqlx::query(
                    "SELECT people, source FROM members WHERE member = ? ORDER BY people, source",
                );
                let groups = groups.bind(name).fetch_all(&mut *db).await?;
                view(&row, groups.iter().map(|row| membership(row, "people")).collect::<Result<_>>()?)
            }
            None => known_user(&mut db, name).await.and(Err(Error::new(Kind::NotFound, "no such user"))),
        }
    }

    /// What decides whether a user is let in, and as what; `None` for one nobody knows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn standing_of(&self, name: &str) -> Result<Option<UserStanding>> {
        let name = name.to_owned();
        self.read(move |db| {
            let name = name.clone();
            async move {
                let row = sqlx::query("SELECT source, disabled FROM users WHERE name = ?").bind(&name);
                let Some(row) = row.fetch_optional(&mut *db).await? else { return Ok(None) };
                let groups = sqlx::query("SELECT DISTINCT people FROM members WHERE member = ?").bind(&name);
                let groups = groups.fetch_all(db).await?;
                Ok(Some(UserStanding {
                    source: parsed(&row, "source")?,
                    disabled: flag(&row, "disabled")?,
                    groups: groups.iter().map(|row| parsed(row, "people")).collect::<Result<_>>()?,
                }))
            }
            .boxed()
        })
        .await
    }

    /// Makes a user.
    ///
    /// # Errors
    /// [`Kind::Exists`].
    pub async fn add_user(&self, new: NewUser) -> Result<()> {
        let (full_name, mail) = (short("name", new.full_name)?, short("mail address", new.mail)?);
        self.write(move |db| {
            Box::pin(async move {
                let there = sqlx::query("SELECT name FROM users WHERE name = ?").bind(new.name.as_str());
                if there.fetch_optional(&mut *db).await?.is_some() {
                    let message = format!("there is a user {} already", new.name);
                    return Err(Error::new(Kind::Exists, message));
                }
                insert(&mut *db, &new.name, new.source, full_name, mail, None).await?;
                raise(db).await
            })
        })
        .await
    }

    /// Changes what is known of a user.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Refused`] for what is no key, or too long.
    pub async fn change_user(&self, name: &str, change: UserChange) -> Result<()> {
        let ssh_keys = change.ssh_keys.as_deref().map(checked_keys).transpose()?;
        if let Some(uid) = change.uid.filter(|uid| *uid != 0 && !vcl_types::is_person(*uid)) {
            let message = format!("`{uid}` is no user id of a person: use one from 1000 on, or 0 for none");
            return Err(Error::new(Kind::Refused, message));
        }
        let (named, mailed) = (change.full_name.is_some(), change.mail.is_some());
        let (full_name, mail) = (short("name", change.full_name)?, short("mail address", change.mail)?);
        let name = name.to_owned();
        self.write(move |db| {
            Box::pin(async move {
                let row = known_user(&mut *db, &name).await?;
                let source = change.source.map_or_else(|| row.try_get("source"), |s| Ok(s.as_str().to_owned()))?;
                let was: Option<String> = row.try_get("full_name")?;
                let mail_was: Option<String> = row.try_get("mail")?;
                let keys = match &ssh_keys {
                    Some(keys) => to_json(keys)?,
                    None => row.try_get("ssh_keys")?,
                };
                let disabled = change.disabled.map_or_else(|| flag(&row, "disabled"), Ok)?;
                let notices = change.notices.map_or_else(|| flag(&row, "notices"), Ok)?;
                let uid = change.uid.map_or_else(|| number_or_null(&row, "uid"), |uid| Ok(Some(uid)))?;
                sqlx::query(
                    "UPDATE users SET source = ?, full_name = ?, mail = ?, ssh_keys = ?, disabled = ?, notices = ?, uid = ? \
                     WHERE name = ?",
                )
                .bind(source)
                .bind(if named { full_name } else { was })
                .bind(if mailed { mail } else { mail_was })
                .bind(keys)
                .bind(i64::from(disabled))
                .bind(i64::from(notices))
                .bind(uid.filter(|uid| *uid != 0).map(i64::from))
                .bind(&name)
                .execute(&mut *db)
                .await?;
                raise(db).await
            })
        })
        .await
    }

    /// Adds a public key, once.
    ///
    /// # Errors
    /// As [`change_user`](Self::change_user).
    pub async fn add_ssh_key(&self, name: &str, key: &str) -> Result<()> {
        let (name, new) = (name.to_owned(), checked_keys(&[key.to_owned()])?);
        self.write(move |db| {
            Box::pin(async move {
                let row = known_user(&mut *db, &name).await?;
                let mut keys: Vec<String> = json(&row, "ssh_keys")?;
                for key in new {
                    if !keys.contains(&key) {
                        keys.push(key);
                    }
                }
                if keys.len() > KEYS.0 {
                    return Err(Error::new(Kind::Refused, format!("a user has at most {} ssh keys", KEYS.0)));
                }
                let set = sqlx::query("UPDATE users SET ssh_keys = ? WHERE name = ?");
                set.bind(to_json(&keys)?).bind(&name).execute(db).await?;
                Ok(())
            })
        })
        .await
    }

    /// Forgets a user, with his memberships and tokens.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn delete_user(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.write(move |db| {
            Box::pin(async move {
                known_user(&mut *db, &name).await?;
                for sql in [
                    "DELETE FROM members WHERE member = ?",
                    "DELETE FROM tokens WHERE owner = ?",
                    "DELETE FROM users WHERE name = ?",
                ] {
                    sqlx::query(sql).bind(&name).execute(&mut *db).await?;
                }
                raise(db).await
            })
        })
        .await
    }

    /// Sets the digest of a user's password, or takes it away, and takes the user's tokens back, but for `keep`: whoever
    /// came in by the old password is let in no more.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Refused`] for one whom somebody else vouches for.
    pub async fn set_password(&self, name: &str, digest: Option<String>, keep: Option<&str>) -> Result<()> {
        let (name, keep) = (name.to_owned(), keep.unwrap_or_default().to_owned());
        self.write(move |db| {
            Box::pin(async move {
                let source: Source = parsed(&known_user(&mut *db, &name).await?, "source")?;
                if source != Source::Local && digest.is_some() {
                    let message = format!("{name} signs in with {source}, where the password is changed");
                    return Err(Error::new(Kind::Refused, message));
                }
                let set = sqlx::query("UPDATE users SET password = ? WHERE name = ?");
                set.bind(digest).bind(&name).execute(&mut *db).await?;
                let others = sqlx::query(
                    "UPDATE tokens SET revoked_at = ? WHERE owner = ? AND id <> ? AND revoked_at IS NULL",
                );
                others.bind(now()).bind(&name).bind(&keep).execute(&mut *db).await?;
                raise(db).await
            })
        })
        .await
    }

    /// The digest of a user's password; `None` where he has none or is not known.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn password_of(&self, name: &str) -> Result<Option<String>> {
        let mut db = self.readers().acquire().await?;
        let row =
            sqlx::query("SELECT password FROM users WHERE name = ? AND source = 'local' AND disabled = 0");
        let row = row.bind(name).fetch_optional(&mut *db).await?;
        Ok(row.map(|row| row.try_get("password")).transpose()?.flatten())
    }

    /// Somebody was let in: makes the user if he is new, and has his groups as the one who vouches for him says. What was
    /// said here of his groups stays.
    ///
    /// # Errors
    /// [`Kind::Refused`] when he is disabled, or when somebody else vouches for the user of that name.
    pub async fn arrive(&self, arrival: Arrival) -> Result<()> {
        let (full_name, mail) = (short("name", arrival.full_name)?, short("mail address", arrival.mail)?);
        self.write(move |db| {
            Box::pin(async move {
                let (name, source, at) = (arrival.name, arrival.source, now());
                let row = sqlx::query(locked!(db, "SELECT * FROM users WHERE name = ?")).bind(name.as_str());
                let uid = arrival.uid.filter(|uid| vcl_types::is_person(*uid)).map(i64::from);
                let changed = match row.fetch_optional(&mut *db).await? {
                    None => {
                        insert(&mut *db, &name, source, full_name, mail, Some(at)).await?;
                        true
                    }
                    Some(row) => {
                        admit(&row, &name, source)?;
                        sqlx::query(
                            "UPDATE users SET full_name = COALESCE(?, full_name), mail = COALESCE(?, mail), seen_at = ? \
                             WHERE name = ?",
                        )
                        .bind(full_name)
                        .bind(mail)
                        .bind(at)
                        .bind(name.as_str())
                        .execute(&mut *db)
                        .await?;
                        false
                    }
                };
                if uid.is_some() {
                    let set = sqlx::query("UPDATE users SET uid = ? WHERE name = ?");
                    set.bind(uid).bind(name.as_str()).execute(&mut *db).await?;
                }
                let moved = match arrival.groups {
                    Some(groups) => regroup(&mut *db, &name, source, groups).await?,
                    None => false,
                };
                if changed || moved { raise(db).await } else { Ok(()) }
            })
        })
        .await
    }

    /// Remembers that a user came, if the last time was a while ago.
    ///
    /// # Errors
    /// When the database cannot be written to.
    pub async fn user_seen(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.write_beside(
            move |db| {
                Box::pin(async move {
                    let at = now();
                    let set = sqlx::query(
                        "UPDATE users SET seen_at = ? WHERE name = ? AND (seen_at IS NULL OR seen_at < ?)",
                    );
                    set.bind(at).bind(name).bind(at - SEEN).execute(db).await?;
                    Ok(())
                })
            },
            |value| value,
        )
        .await
    }

    /// All groups of people, by name, without their members and what they may.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn groups(&self) -> Result<Vec<GroupView>> {
        let rows = sqlx::query(
            "SELECT name, note, (SELECT COUNT(DISTINCT member) FROM members WHERE people = name) AS size \
             FROM people ORDER BY name",
        );
        rows.fetch_all(self.readers()).await?.iter().map(group).collect()
    }

    /// A group, with its members and without what it may.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming near ones.
    pub async fn group(&self, name: &GroupName) -> Result<GroupView> {
        let mut db = self.readers().acquire().await?;
        known_group(&mut db, name).await?;
        let row = sqlx::query(
            "SELECT name, note, (SELECT COUNT(DISTINCT member) FROM members WHERE people = name) AS size \
             FROM people WHERE name = ?",
        );
        let mut view = group(&row.bind(name.as_str()).fetch_one(&mut *db).await?)?;
        let members =
            sqlx::query("SELECT member, source FROM members WHERE people = ? ORDER BY member LIMIT 10000");
        let members = members.bind(name.as_str()).fetch_all(&mut *db).await?;
        view.members = members.iter().map(|row| membership(row, "member")).collect::<Result<_>>()?;
        Ok(view)
    }

    /// Makes a group of people.
    ///
    /// # Errors
    /// [`Kind::Exists`].
    pub async fn add_group(&self, new: NewGroup) -> Result<()> {
        let note = short("note", new.note)?;
        self.write(move |db| {
            Box::pin(async move {
                let there = sqlx::query("SELECT name FROM people WHERE name = ?").bind(new.name.as_str());
                if there.fetch_optional(&mut *db).await?.is_some() {
                    let message = format!("there is a group {} already", new.name);
                    return Err(Error::new(Kind::Exists, message));
                }
                let row = sqlx::query("INSERT INTO people (name, note, created_at) VALUES (?, ?, ?)");
                row.bind(new.name.as_str()).bind(note).bind(now()).execute(&mut *db).await?;
                raise(db).await
            })
        })
        .await
    }

    /// Forgets a group, with its members and what it may.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn delete_group(&self, name: &GroupName) -> Result<()> {
        let name = name.clone();
        self.write(move |db| {
            Box::pin(async move {
                known_group(&mut *db, &name).await?;
                for sql in [
                    "DELETE FROM grants WHERE people = ?",
                    "DELETE FROM members WHERE people = ?",
                    "DELETE FROM people WHERE name = ?",
                ] {
                    sqlx::query(sql).bind(name.as_str()).execute(&mut *db).await?;
                }
                raise(db).await
            })
        })
        .await
    }

    /// Puts a user into a group, or out of it again. What a directory says of him stays.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a group, or a user to be put in, that is not there; [`Kind::Refused`] when only a directory
    /// says that he is in it.
    pub async fn set_member(&self, name: &GroupName, user: &UserName, is: bool) -> Result<()> {
        let (name, user) = (name.clone(), user.clone());
        self.write(move |db| {
            Box::pin(async move {
                known_group(&mut *db, &name).await?;
                let rows = sqlx::query("SELECT source FROM members WHERE people = ? AND member = ?");
                let rows = rows.bind(name.as_str()).bind(user.as_str()).fetch_all(&mut *db).await?;
                let sources =
                    rows.iter().map(|row| parsed(row, "source")).collect::<Result<Vec<Source>>>()?;
                let ours = sources.contains(&Source::Local);
                if is {
                    known_user(&mut *db, user.as_str()).await?;
                    if ours {
                        return Ok(());
                    }
                    put(&mut *db, &name, &user, Source::Local).await?;
                } else if ours {
                    let gone = "DELETE FROM members WHERE people = ? AND member = ? AND source = 'local'";
                    sqlx::query(gone).bind(name.as_str()).bind(user.as_str()).execute(&mut *db).await?;
                } else if let Some(other) = sources.first() {
                    let message =
                        format!("{user} is in {name} because {other} says so; take him out of it there");
                    return Err(Error::new(Kind::Refused, message));
                } else {
                    return Err(Error::new(Kind::NotFound, format!("{user} is not in {name}")));
                }
                raise(db).await
            })
        })
        .await
    }
}

fn group(row: &DbRow) -> Result<GroupView> {
    let size: i64 = row.try_get("size")?;
    Ok(GroupView {
        name: parsed(row, "name")?,
        note: row.try_get("note")?,
        members: Vec::new(),
        size: size.unsigned_abs(),
        grants: Vec::new(),
    })
}

/// Refuses whom the database says something else of.
fn admit(row: &DbRow, name: &UserName, source: Source) -> Result<()> {
    if flag(row, "disabled")? {
        return Err(Error::new(Kind::Refused, format!("{name} is disabled here")));
    }
    let known: Source = parsed(row, "source")?;
    if known != source {
        let message = format!(
            "there is a user {name} of {known} already, and {source} says it has one; if they are one and the same: \
             vclctl user set {name} --source {source}"
        );
        return Err(Error::new(Kind::Refused, message));
    }
    Ok(())
}

async fn insert(
    db: &mut Db,
    name: &UserName,
    source: Source,
    full_name: Option<String>,
    mail: Option<String>,
    seen: Option<i64>,
) -> Result<()> {
    let row = sqlx::query(
        "INSERT INTO users (name, source, full_name, mail, ssh_keys, created_at, seen_at) VALUES (?, ?, ?, ?, '[]', ?, ?)",
    );
    let row = row.bind(name.as_str()).bind(source.as_str()).bind(full_name).bind(mail).bind(now()).bind(seen);
    row.execute(db).await?;
    Ok(())
}

async fn put(db: &mut Db, group: &GroupName, user: &UserName, source: Source) -> Result<()> {
    let row = sqlx::query("INSERT INTO members (people, member, source, since) VALUES (?, ?, ?, ?)");
    row.bind(group.as_str()).bind(user.as_str()).bind(source.as_str()).bind(now()).execute(db).await?;
    Ok(())
}

/// Makes a user's memberships of a source what it says, and answers whether that changed any.
async fn regroup(db: &mut Db, user: &UserName, source: Source, says: BTreeSet<GroupName>) -> Result<bool> {
    let rows = sqlx::query("SELECT people FROM members WHERE member = ? AND source = ?");
    let rows = rows.bind(user.as_str()).bind(source.as_str()).fetch_all(&mut *db).await?;
    let had = rows.iter().map(|row| parsed(row, "people")).collect::<Result<BTreeSet<GroupName>>>()?;
    let says: BTreeSet<GroupName> = says.into_iter().take(MOST_GROUPS).collect();
    for gone in had.difference(&says) {
        let row = sqlx::query("DELETE FROM members WHERE people = ? AND member = ? AND source = ?");
        row.bind(gone.as_str()).bind(user.as_str()).bind(source.as_str()).execute(&mut *db).await?;
    }
    for new in says.difference(&had) {
        put(&mut *db, new, user, source).await?;
    }
    Ok(had != says)
}
