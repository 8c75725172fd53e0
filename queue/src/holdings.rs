//! Which node holds the files of which revision. Each node writes its own rows: all of them at its start, and one
//! when a revision comes or goes. They are a hint, and the node's answer has the last word.

use crate::database::{Db, DbRow, now, parsed, time};
use crate::{Claim, Error, Kind, Queue, Result, guard};
use chrono::{DateTime, Utc};
use futures::{FutureExt, TryFutureExt};
use sqlx::Row;
use std::collections::{BTreeMap, BTreeSet};
use vcl_types::{ImageName, ImageRef};

/// A node that holds a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The node's name.
    pub node: String,
    /// The revision, with its number.
    pub image: ImageRef,
    /// Since when it is known to.
    pub since: DateTime<Utc>,
}

impl Holding {
    fn read(row: &DbRow) -> Result<Self> {
        let name: ImageName = parsed(row, "image")?;
        let number: i64 = row.try_get("number")?;
        let number = u32::try_from(number).map_err(|e| Error::corrupt("a `number`", e))?;
        Ok(Self {
            node: row.try_get("node")?,
            image: ImageRef::new(name, number),
            since: time(row.try_get("since")?),
        })
    }
}

impl Queue {
    /// Records all that a node held at `looked`, and that it held nothing else. What was recorded since then stays.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn set_holdings(&self, node: &str, images: &[ImageRef], looked: DateTime<Utc>) -> Result<()> {
        let (node, images, looked) = (node.to_owned(), images.to_vec(), looked.timestamp_millis());
        self.write(move |db| {
            Box::pin(async move {
                let known = of_node(&mut *db, &node).await?;
                let wanted: BTreeSet<&ImageRef> = images.iter().collect();
                let before = |since: &i64| *since <= looked;
                let gone = known.iter().filter(|(image, since)| !wanted.contains(image) && before(since));
                for (image, _) in gone {
                    remove(&mut *db, &node, image).await?;
                }
                for new in wanted.into_iter().filter(|image| !known.contains_key(*image)) {
                    insert(&mut *db, &node, new).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Records that a node holds a revision. It may be said again.
    ///
    /// # Errors
    /// [`Kind::Refused`] without a number, or when the database cannot be used.
    pub async fn hold(&self, node: &str, image: &ImageRef) -> Result<()> {
        let (node, image) = (node.to_owned(), image.clone());
        self.write(move |db| {
            Box::pin(async move {
                if of_node(&mut *db, &node).await?.contains_key(&image) {
                    return Ok(());
                }
                insert(db, &node, &image).await
            })
        })
        .await
    }

    /// Records that a node does not hold a revision any more. It may be said again.
    ///
    /// # Errors
    /// [`Kind::Refused`] without a number, or when the database cannot be used.
    pub async fn holds_no_more(&self, node: &str, image: &ImageRef) -> Result<()> {
        let (node, image) = (node.to_owned(), image.clone());
        self.write(move |db| Box::pin(async move { remove(db, &node, &image).await })).await
    }

    /// As [`hold`](Self::hold), in a job's name: one that is another's by now changes nothing.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`], and as [`hold`](Self::hold).
    pub async fn hold_by(&self, claim: &Claim, node: &str, image: &ImageRef) -> Result<()> {
        let (claim, node, image) = (claim.clone(), node.to_owned(), image.clone());
        self.write(move |db| {
            Box::pin(async move {
                guard::check(&mut *db, &claim).await?;
                if of_node(&mut *db, &node).await?.contains_key(&image) {
                    return Ok(());
                }
                insert(db, &node, &image).await
            })
        })
        .await
    }

    /// As [`holds_no_more`](Self::holds_no_more), in a job's name: one that is another's by now changes nothing.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`], and as [`holds_no_more`](Self::holds_no_more).
    pub async fn holds_no_more_by(&self, claim: &Claim, node: &str, image: &ImageRef) -> Result<()> {
        let (claim, node, image) = (claim.clone(), node.to_owned(), image.clone());
        self.write(move |db| {
            Box::pin(async move {
                guard::check(&mut *db, &claim).await?;
                remove(db, &node, &image).await
            })
        })
        .await
    }

    /// Who holds what, by revision and node.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn holdings(&self) -> Result<Vec<Holding>> {
        let rows = sqlx::query("SELECT * FROM holdings ORDER BY image, number, node");
        rows.fetch_all(self.readers()).await?.iter().map(Holding::read).collect()
    }

    /// The nodes that hold a revision, those that have had it longest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn holders(&self, image: &ImageRef) -> Result<Vec<String>> {
        let (name, number) = (image.name.clone(), number(image)?);
        self.read(move |db| {
            let nodes = sqlx::query_scalar(
                "SELECT node FROM holdings WHERE image = ? AND number = ? ORDER BY since, node",
            );
            nodes.bind(name.as_str().to_owned()).bind(number).fetch_all(db).map_err(Error::from).boxed()
        })
        .await
    }
}

fn number(image: &ImageRef) -> Result<i64> {
    match image.revision {
        Some(number) => Ok(number.into()),
        None => Err(Error::new(Kind::Refused, format!("which revision of {image} is meant?"))),
    }
}

/// What a node holds, and since when.
async fn of_node(db: &mut Db, node: &str) -> Result<BTreeMap<ImageRef, i64>> {
    let rows = sqlx::query("SELECT * FROM holdings WHERE node = ?").bind(node).fetch_all(db).await?;
    let read = |row| Holding::read(row).map(|holding| (holding.image, holding.since.timestamp_millis()));
    rows.iter().map(read).collect()
}

async fn insert(db: &mut Db, node: &str, image: &ImageRef) -> Result<()> {
    sqlx::query("INSERT INTO holdings (node, image, number, since) VALUES (?, ?, ?, ?)")
        .bind(node)
        .bind(image.name.as_str())
        .bind(number(image)?)
        .bind(now())
        .execute(db)
        .await?;
    Ok(())
}

async fn remove(db: &mut Db, node: &str, image: &ImageRef) -> Result<()> {
    sqlx::query("DELETE FROM holdings WHERE node = ? AND image = ? AND number = ?")
        .bind(node)
        .bind(image.name.as_str())
        .bind(number(image)?)
        .execute(db)
        .await?;
    Ok(())
}
