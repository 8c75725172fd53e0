//! What takes computers out of the scheduler's hands: maintenance windows, and hosts that take nothing new.
//!
//! A window never throws anybody out: who is on a computer when it begins finishes, and the computer goes to maintenance
//! when it is free.

use crate::database::{Db, DbRow, json, parsed, time, to_json};
use crate::engine::{insert, numbered};
use crate::{Error, Kind, Queue, Result};
use chrono::{DateTime, Utc};
use sqlx::Row;
use vcl_types::{BackendName, ComputerName};

/// A time in which computers are out of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintenanceWindow {
    /// Its number.
    pub id: i64,
    /// The computers.
    pub computers: Vec<ComputerName>,
    /// When it begins.
    pub start: DateTime<Utc>,
    /// When it ends; `None` until somebody ends it.
    pub end: Option<DateTime<Utc>>,
    /// Why.
    pub reason: String,
    /// Who has said so.
    pub who: String,
}

/// A backend whose host takes nothing new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainedHost {
    /// The backend instance.
    pub backend: BackendName,
    /// Who has said so.
    pub who: String,
    /// Why.
    pub reason: Option<String>,
    /// Since when.
    pub since: DateTime<Utc>,
}

fn window(row: &DbRow) -> Result<MaintenanceWindow> {
    Ok(MaintenanceWindow {
        id: row.try_get("id")?,
        computers: json(row, "computers")?,
        start: time(row.try_get("start_at")?),
        end: row.try_get::<Option<i64>, _>("end_at")?.map(time),
        reason: row.try_get("reason")?,
        who: row.try_get("who")?,
    })
}

impl Queue {
    /// Windows that are not over at that time, the earliest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn maintenance_windows(&self, now: DateTime<Utc>) -> Result<Vec<MaintenanceWindow>> {
        let rows = sqlx::query(
            "SELECT * FROM maintenance_windows WHERE ended_at IS NULL AND (end_at IS NULL OR end_at > ?) ORDER BY start_at, id",
        );
        rows.bind(now.timestamp_millis()).fetch_all(self.readers()).await?.iter().map(window).collect()
    }

    /// Adds a window and answers its number.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn add_maintenance(
        &self,
        computers: &[ComputerName],
        start: DateTime<Utc>,
        end: Option<DateTime<Utc>>,
        reason: &str,
        who: &str,
    ) -> Result<i64> {
        let (computers, reason, who) = (to_json(&computers)?, reason.to_owned(), who.to_owned());
        let queue = self.clone();
        let after = move |id| {
            queue.wake();
            id
        };
        self.write_map(
            move |db: &mut Db| {
                let (computers, reason, who) = (computers.clone(), reason.clone(), who.clone());
                Box::pin(async move {
                    let row = sqlx::query(numbered!(
                        db,
                        "INSERT INTO maintenance_windows (computers, start_at, end_at, reason, who) VALUES (?, ?, ?, ?, ?)"
                    ))
                    .bind(computers)
                    .bind(start.timestamp_millis())
                    .bind(end.map(|end| end.timestamp_millis()))
                    .bind(reason)
                    .bind(who);
                    insert(db, row).await
                })
            },
            after,
        )
        .await
    }

    /// Ends a window now.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for one that is not there or is over.
    pub async fn end_maintenance(&self, id: i64, now: DateTime<Utc>) -> Result<MaintenanceWindow> {
        let queue = self.clone();
        let after = move |window| {
            queue.wake();
            window
        };
        self.write_map(
            move |db: &mut Db| {
                Box::pin(async move {
                    let row =
                        sqlx::query("SELECT * FROM maintenance_windows WHERE id = ? AND ended_at IS NULL");
                    let row = row.bind(id).fetch_optional(&mut *db).await?;
                    let unknown =
                        || Error::new(Kind::NotFound, format!("there is no maintenance window {id}"));
                    let found = window(&row.ok_or_else(unknown)?)?;
                    let end = sqlx::query("UPDATE maintenance_windows SET ended_at = ? WHERE id = ?");
                    end.bind(now.timestamp_millis()).bind(id).execute(db).await?;
                    Ok(found)
                })
            },
            after,
        )
        .await
    }

    /// Backends whose host takes nothing new.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn drained_hosts(&self) -> Result<Vec<DrainedHost>> {
        let rows =
            sqlx::query("SELECT * FROM drained_hosts ORDER BY backend").fetch_all(self.readers()).await?;
        let read = |row: &DbRow| {
            Ok(DrainedHost {
                backend: parsed(row, "backend")?,
                who: row.try_get("who")?,
                reason: row.try_get("reason")?,
                since: time(row.try_get("since")?),
            })
        };
        rows.iter().map(read).collect()
    }

    /// Lets a backend's host take nothing new, or again everything.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn drain_host(
        &self,
        backend: &BackendName,
        drained: bool,
        who: &str,
        reason: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let (backend, who, reason) = (backend.clone(), who.to_owned(), reason.map(str::to_owned));
        let queue = self.clone();
        let after = move |()| queue.wake();
        self.write_map(
            move |db: &mut Db| {
                let (backend, who, reason) = (backend.clone(), who.clone(), reason.clone());
                Box::pin(async move {
                    let away = sqlx::query("DELETE FROM drained_hosts WHERE backend = ?");
                    away.bind(backend.as_str()).execute(&mut *db).await?;
                    if drained {
                        let add = sqlx::query(
                            "INSERT INTO drained_hosts (backend, who, reason, since) VALUES (?, ?, ?, ?)",
                        );
                        let add =
                            add.bind(backend.as_str()).bind(who).bind(reason).bind(now.timestamp_millis());
                        add.execute(db).await?;
                    }
                    Ok(())
                })
            },
            after,
        )
        .await
    }
}
