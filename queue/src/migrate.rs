//! The schema's versions. The table `schema_version` is this module's.

use crate::database::Db;
use crate::{Error, Kind, Result};
use sqlx::{Connection, Row};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// One version of the schema and how to get there from the one before.
#[derive(Clone, Copy)]
pub(crate) struct Migration {
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// All of them, oldest first. One that was released is never changed.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "initial", sql: include_str!("../migrations/0001_initial.sql") },
    Migration { version: 2, name: "holdings", sql: include_str!("../migrations/0002_holdings.sql") },
];

const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// Brings the database to the newest schema. A database that has data is copied first, beside itself.
pub(crate) async fn migrate(db: &mut Db, path: &Path, migrations: &'static [Migration]) -> Result<()> {
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL PRIMARY KEY, name VARCHAR(63) NOT NULL, \
         program VARCHAR(63) NOT NULL, applied_at BIGINT NOT NULL)",
    )
    .execute(&mut *db)
    .await?;
    let newest = sqlx::query("SELECT version, program FROM schema_version ORDER BY version DESC LIMIT 1")
        .fetch_optional(&mut *db)
        .await?;
    let (have, program): (i64, String) = match newest {
        Some(row) => (row.try_get("version")?, row.try_get("program")?),
        None => (0, String::new()),
    };
    let known = migrations.last().map_or(0, |m| m.version);
    if have > known {
        let path = path.display();
        return Err(Error::new(
            Kind::Newer,
            format!(
                "the database {path} has schema {have}, written by vcld {program}; this is vcld {PROGRAM}, which knows \
                 schemas up to {known}: run vcld {program} or newer, or put back the copy {path}.schema-{known} from \
                 before the upgrade"
            ),
        ));
    }
    if have > 0 && have < known {
        copy(db, path, have).await?;
    }
    for migration in migrations.iter().filter(|m| m.version > have) {
        let mut transaction = db.begin().await?;
        sqlx::raw_sql(migration.sql).execute(&mut *transaction).await?;
        sqlx::query("INSERT INTO schema_version (version, name, program, applied_at) VALUES (?, ?, ?, ?)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(PROGRAM)
            .bind(chrono::Utc::now().timestamp_millis())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        tracing::info!(version = migration.version, name = migration.name, "database schema brought up");
    }
    Ok(())
}

/// Copies the database as it is before an upgrade to `<db>.schema-<version>`.
async fn copy(db: &mut Db, path: &Path, version: i64) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".schema-{version}"));
    let copy = PathBuf::from(name);
    let failed = |e: std::io::Error| {
        let copy = copy.display();
        Error::caused(Kind::Unavailable, format!("copying the database to {copy} before its upgrade"), e)
    };
    // What an upgrade that broke off has left goes; SQLite writes into an empty file that is there.
    match std::fs::remove_file(&copy) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy).map_err(failed)?;
    let Some(text) = copy.to_str() else {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not UTF-8")));
    };
    sqlx::query("VACUUM INTO ?").bind(text).execute(db).await?;
    std::fs::File::open(&copy).and_then(|f| f.sync_all()).map_err(failed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;
    use crate::Queue;
    use std::os::unix::fs::PermissionsExt;

    const NEXT: Migration = Migration {
        version: 3,
        name: "more",
        sql: "ALTER TABLE events ADD COLUMN more TEXT; CREATE TABLE more (id INTEGER PRIMARY KEY);",
    };
    const BAD: Migration =
        Migration { version: 4, name: "bad", sql: "CREATE TABLE bad (id INTEGER); SELECT * FROM nowhere;" };

    async fn tables(path: &Path) -> Vec<String> {
        let url = format!("sqlite://{}", path.display());
        let mut db = Db::connect(&url).await.unwrap();
        let tables = sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
        let tables = tables.fetch_all(&mut db).await.unwrap();
        db.close().await.unwrap();
        tables
    }

    #[test]
    fn each_file_is_a_version_and_each_version_a_file() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut files: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        files.sort_unstable();
        let known: Vec<String> =
            MIGRATIONS.iter().map(|m| format!("{:04}_{}.sql", m.version, m.name)).collect();
        assert_eq!(files, known);
        assert!(MIGRATIONS.iter().map(|m| m.version).eq(1..=i64::try_from(known.len()).unwrap()));
    }

    #[tokio::test]
    async fn an_upgrade_keeps_the_data_and_a_copy_and_one_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcl.db");
        let copy = |n: i64| dir.path().join(format!("vcl.db.schema-{n}"));
        let queue = Queue::open(&path).await.unwrap();
        queue.event("noted", None, None, "before").await.unwrap();
        queue.close().await;
        assert!(!copy(0).exists() && !copy(2).exists());

        const TWO: &[Migration] = &[MIGRATIONS[0], MIGRATIONS[1], NEXT];
        // What an upgrade that broke off has left.
        std::fs::write(copy(2), "half a copy").unwrap();
        let queue = Queue::open_with(&path, TWO).await.unwrap();
        assert_eq!(queue.events(0, 9).await.unwrap()[0].message, "before");
        queue.close().await;
        assert!(tables(&path).await.contains(&"more".to_owned()));
        assert_eq!(std::fs::metadata(copy(2)).unwrap().permissions().mode() & 0o777, 0o600);

        const THREE: &[Migration] = &[MIGRATIONS[0], MIGRATIONS[1], NEXT, BAD];
        let error = Queue::open_with(&path, THREE).await.unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(!tables(&path).await.contains(&"bad".to_owned()));

        let error = Queue::open(&path).await.unwrap_err();
        assert_eq!(error.kind, Kind::Newer);
        assert!(error.context.contains("vcl.db.schema-2"), "{error}");
        // The way out that the refusal names.
        std::fs::rename(copy(2), &path).unwrap();
        let queue = Queue::open(&path).await.unwrap();
        assert_eq!(queue.events(0, 9).await.unwrap()[0].message, "before");
        queue.close().await;
    }
}
