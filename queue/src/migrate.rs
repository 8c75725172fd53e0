//! The schema's versions. The table `schema_version` is this module's.
//!
//! **Two versions of vcld share a database while nodes are upgraded one by one**: N+1 brings the schema to its own, and
//! N goes on working with it. So each migration says with `readable_from` which program's schema can still work with
//! what it makes, and a program opens a newer schema that allows it. For that a migration *adds*: tables, indexes,
//! columns that are nullable or have a default and that N may leave as they are. It never renames, drops, narrows or gives
//! another meaning to what N reads or writes, nor puts values into N's columns that N does not understand. What
//! has to go is dropped one release later, when `readable_from` may rise over N. One that cannot do so sets
//! `readable_from` to its own version, and all nodes are stopped for it.
//!
//! On SQLite a migration is one transaction, and the file is copied first. On a server DDL commits by itself, so a
//! migration that was killed half-way is run again: statement by statement, and one that fails because its work is done
//! already (the table, column or key is there, or is gone) is passed over. A migration's other statements have to bear
//! running twice. A named lock keeps two nodes from migrating at the same time.

use crate::database::Db;
use crate::engine::mysql_code;
use crate::{Error, Kind, Result};
use sqlx::{AssertSqlSafe, Connection, Row};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One version of the schema and how to get there from the one before.
#[derive(Clone, Copy)]
pub(crate) struct Migration {
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    /// The oldest program, by its own newest schema, that can work with this one.
    pub(crate) readable_from: i64,
    /// For SQLite.
    pub(crate) sqlite: &'static str,
    /// For MariaDB and MySQL; each statement ends with a semicolon at the end of its line.
    pub(crate) mariadb: &'static str,
}

macro_rules! migration {
    ($version:literal, $name:literal, readable_from: $from:literal, $file:literal) => {
        Migration {
            version: $version,
            name: $name,
            readable_from: $from,
            sqlite: include_str!(concat!("../migrations/sqlite/", $file)),
            mariadb: include_str!(concat!("../migrations/mariadb/", $file)),
        }
    };
}

/// All of them, oldest first. One that was released is never changed.
pub(crate) const MIGRATIONS: &[Migration] = &[
    migration!(1, "initial", readable_from: 1, "0001_initial.sql"),
    migration!(2, "insight", readable_from: 1, "0002_insight.sql"),
    migration!(3, "retention", readable_from: 3, "0003_retention.sql"),
    migration!(4, "holdings", readable_from: 4, "0004_holdings.sql"),
    migration!(5, "nodes", readable_from: 5, "0005_nodes.sql"),
    migration!(6, "reservations", readable_from: 6, "0006_reservations.sql"),
    migration!(7, "people", readable_from: 6, "0007_people.sql"),
    migration!(8, "image_tests", readable_from: 6, "0008_image_tests.sql"),
    migration!(9, "notices", readable_from: 6, "0009_notices.sql"),
    migration!(10, "nat_ports", readable_from: 6, "0010_nat_ports.sql"),
    migration!(11, "user_ids", readable_from: 6, "0011_user_ids.sql"),
];

/// The migrations of this program.
pub(crate) fn migrations() -> &'static [Migration] {
    #[cfg(feature = "testing")]
    if crate::testing::is_next() {
        return next_migrations();
    }
    MIGRATIONS
}

/// This program's, and one more, as the next version of vcld would have it.
#[cfg(feature = "testing")]
pub(crate) fn next_migrations() -> &'static [Migration] {
    static NEXT: std::sync::OnceLock<Vec<Migration>> = std::sync::OnceLock::new();
    NEXT.get_or_init(|| {
        let known = MIGRATIONS.last().map_or(0, |m| m.version);
        let next = Migration {
            version: known + 1,
            name: "next",
            readable_from: known,
            sqlite: "ALTER TABLE jobs ADD COLUMN next_note TEXT;\n\
                     CREATE TABLE next_things (id INTEGER NOT NULL PRIMARY KEY, thing TEXT NOT NULL);\n",
            mariadb: "ALTER TABLE jobs ADD COLUMN next_note MEDIUMTEXT;\n\
                      CREATE TABLE next_things (id BIGINT NOT NULL PRIMARY KEY, thing MEDIUMTEXT NOT NULL);\n",
        };
        MIGRATIONS.iter().copied().chain([next]).collect()
    })
}

const PROGRAM: &str = env!("CARGO_PKG_VERSION");
/// How long another node's migration is waited for, in seconds.
const OTHERS: i64 = 60;

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Have {
    version: i64,
    readable_from: i64,
    program: String,
}

/// The newest schema the database was brought to.
pub(crate) async fn version(db: &mut Db) -> Result<i64> {
    Ok(have(db).await?.version)
}

async fn have(db: &mut Db) -> Result<Have> {
    let newest = sqlx::query(
        "SELECT version, program, readable_from FROM schema_version ORDER BY version DESC LIMIT 1",
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = newest else { return Ok(Have { version: 0, readable_from: 0, program: String::new() }) };
    let version = row.try_get("version")?;
    // The first ones did not say.
    let readable_from: Option<i64> = row.try_get("readable_from")?;
    Ok(Have { version, readable_from: readable_from.unwrap_or(version), program: row.try_get("program")? })
}

/// The migrations that are to be made, unless the database is too new.
fn missing(
    have: &Have,
    migrations: &'static [Migration],
    name: &str,
    back: &str,
) -> Result<impl Iterator<Item = &'static Migration> + use<>> {
    let Have { version, readable_from, program } = have;
    let known = migrations.last().map_or(0, |m| m.version);
    if *version > known && *readable_from > known {
        return Err(Error::new(
            Kind::Newer,
            format!(
                "the database {name} has schema {version}, written by vcld {program}, which vcld can work with from schema \
                 {readable_from} on; this is vcld {PROGRAM}, which knows schemas up to {known}: run vcld {program} or \
                 newer, or put back {back}"
            ),
        ));
    }
    if *version > known {
        tracing::info!(
            schema = version,
            program = program,
            "the database has a newer schema than this vcld, which can work with it"
        );
    }
    let version = *version;
    Ok(migrations.iter().filter(move |m| m.version > version))
}

async fn record(db: &mut Db, migration: &Migration) -> Result<()> {
    sqlx::query(
        "INSERT INTO schema_version (version, name, program, applied_at, readable_from) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(migration.version)
    .bind(migration.name)
    .bind(PROGRAM)
    .bind(chrono::Utc::now().timestamp_millis())
    .bind(migration.readable_from)
    .execute(db)
    .await?;
    tracing::info!(version = migration.version, name = migration.name, "database schema brought up");
    Ok(())
}

/// Brings a SQLite file to the newest schema. One that has data is copied first, beside itself.
pub(crate) async fn migrate_file(db: &mut Db, path: &Path, migrations: &'static [Migration]) -> Result<()> {
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL PRIMARY KEY, name VARCHAR(63) NOT NULL, \
         program VARCHAR(63) NOT NULL, applied_at BIGINT NOT NULL, readable_from INTEGER)",
    )
    .execute(&mut *db)
    .await?;
    let columns: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM pragma_table_info('schema_version') WHERE name = 'readable_from'",
    )
    .fetch_one(&mut *db)
    .await?;
    if columns == 0 {
        sqlx::query("ALTER TABLE schema_version ADD COLUMN readable_from INTEGER").execute(&mut *db).await?;
    }
    let known = migrations.last().map_or(0, |m| m.version);
    let shown = path.display().to_string();
    let have = have(db).await?;
    let back = format!("the copy {shown}.schema-{known} from before the upgrade");
    let missing = missing(&have, migrations, &shown, &back)?;
    if have.version > 0 && have.version < known {
        copy(db, path, have.version).await?;
    }
    for migration in missing {
        let mut transaction = db.begin().await?;
        sqlx::raw_sql(migration.sqlite).execute(&mut *transaction).await?;
        record(&mut transaction, migration).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// Brings a server's database to the newest schema, one node at a time.
pub(crate) async fn migrate_server(
    db: &mut Db,
    name: &str,
    collation: &'static str,
    migrations: &'static [Migration],
) -> Result<()> {
    // The lock is the server's; its name has the database's in it, and is at most 64 letters long.
    let locking =
        sqlx::query_scalar("SELECT GET_LOCK(CONCAT('vcld-', LEFT(DATABASE(), 48)), ?)").bind(OTHERS);
    let waiting = Duration::from_secs(OTHERS.unsigned_abs() + 10);
    let locked: Option<i64> = tokio::time::timeout(waiting, locking.fetch_one(&mut *db))
        .await
        .map_err(|e| Error::caused(Kind::Unavailable, format!("locking the database {name}"), e))??;
    if locked != Some(1) {
        return Err(Error::new(
            Kind::Unavailable,
            format!(
                "another node has been bringing the schema of {name} up for {OTHERS} s; start this one again later"
            ),
        ));
    }
    let migrated = migrate_locked(&mut *db, name, collation, migrations).await;
    let unlock = sqlx::query("DO RELEASE_LOCK(CONCAT('vcld-', LEFT(DATABASE(), 48)))");
    unlock.execute(db).await?;
    migrated
}

async fn migrate_locked(
    db: &mut Db,
    name: &str,
    collation: &'static str,
    migrations: &'static [Migration],
) -> Result<()> {
    let versions = "CREATE TABLE schema_version (version BIGINT NOT NULL PRIMARY KEY, name VARCHAR(63) NOT NULL, \
                    program VARCHAR(63) NOT NULL, applied_at BIGINT NOT NULL, readable_from BIGINT);\n";
    statements(&mut *db, versions, collation).await?;
    let have = have(&mut *db).await?;
    for migration in missing(&have, migrations, name, "a backup from before the upgrade")? {
        let done = statements(&mut *db, migration.mariadb, collation).await;
        done.map_err(|e| {
            let (version, name) = (migration.version, migration.name);
            Error::caused(e.kind, format!("bringing the database's schema to version {version} ({name})"), e)
        })?;
        record(&mut *db, migration).await?;
    }
    Ok(())
}

/// Runs statements one by one; those whose work is done already are passed over.
async fn statements(db: &mut Db, sql: &'static str, collation: &'static str) -> Result<()> {
    for statement in split(sql) {
        let table = if statement.starts_with("CREATE TABLE") {
            format!(" ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {collation}")
        } else {
            String::new()
        };
        let run = sqlx::raw_sql(AssertSqlSafe(format!("{statement}{table}"))).execute(&mut *db).await;
        match run {
            // The table, column or key is there already, or there is no such column or key any more.
            Err(sqlx::Error::Database(e))
                if matches!(mysql_code(e.as_ref()), Some(1050 | 1060 | 1061 | 1091 | 1826)) => {}
            other => {
                other?;
            }
        }
    }
    Ok(())
}

/// Statements without their comments.
fn split(sql: &str) -> Vec<String> {
    let lines = sql.lines().map(|line| line.split_once("--").map_or(line, |(code, _)| code).trim_end());
    let text: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let text = text.join("\n");
    let statements = text.split(";\n").map(|s| s.trim().trim_end_matches(';').to_owned());
    statements.filter(|s| !s.is_empty()).collect()
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

    /// The newest schema of this program.
    const KNOWN: i64 = MIGRATIONS[MIGRATIONS.len() - 1].version;
    const NEXT: Migration = Migration {
        version: KNOWN + 1,
        name: "more",
        readable_from: KNOWN + 1,
        sqlite: "ALTER TABLE events ADD COLUMN more TEXT; CREATE TABLE more (id INTEGER PRIMARY KEY);",
        mariadb: "ALTER TABLE events ADD COLUMN more TEXT;\nCREATE TABLE more (id BIGINT PRIMARY KEY);\n",
    };
    const BAD: Migration = Migration {
        version: KNOWN + 2,
        name: "bad",
        readable_from: KNOWN + 2,
        sqlite: "CREATE TABLE bad (id INTEGER); SELECT * FROM nowhere;",
        mariadb: "CREATE TABLE bad (id BIGINT);\nSELECT * FROM nowhere;\n",
    };
    /// This program's and more; they are compiled in, and so stay.
    fn and(more: &[Migration]) -> &'static [Migration] {
        Vec::leak([MIGRATIONS, more].concat())
    }

    async fn tables(path: &Path) -> Vec<String> {
        let url = format!("sqlite://{}", path.display());
        let mut db = Db::connect(&url).await.unwrap();
        let tables = sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
        let tables = tables.fetch_all(&mut db).await.unwrap();
        db.close().await.unwrap();
        tables
    }

    #[test]
    fn no_migration_shuts_the_version_before_it_out_unsaid() {
        for m in MIGRATIONS {
            assert!((1..=m.version).contains(&m.readable_from), "{}", m.name);
            assert!(
                split(m.mariadb).iter().all(|s| !s.contains(';')),
                "{}: a statement a line's end",
                m.name
            );
        }
    }

    #[test]
    fn each_file_is_a_version_and_each_version_a_file() {
        let known: Vec<String> =
            MIGRATIONS.iter().map(|m| format!("{:04}_{}.sql", m.version, m.name)).collect();
        for engine in ["sqlite", "mariadb"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(engine);
            let files = std::fs::read_dir(dir).unwrap();
            let mut files: Vec<String> =
                files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
            files.sort_unstable();
            assert_eq!(files, known, "{engine}");
        }
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
        assert!(!copy(0).exists() && !copy(KNOWN).exists());

        let two = and(&[NEXT]);
        // What an upgrade that broke off has left.
        std::fs::write(copy(KNOWN), "half a copy").unwrap();
        let queue = Queue::open_with(&path, two).await.unwrap();
        assert_eq!(queue.events(0, 9).await.unwrap()[0].message, "before");
        queue.close().await;
        assert!(tables(&path).await.contains(&"more".to_owned()));
        assert_eq!(std::fs::metadata(copy(KNOWN)).unwrap().permissions().mode() & 0o777, 0o600);

        let three = and(&[NEXT, BAD]);
        let error = Queue::open_with(&path, three).await.unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(!tables(&path).await.contains(&"bad".to_owned()));

        let error = Queue::open(&path).await.unwrap_err();
        assert_eq!(error.kind, Kind::Newer);
        assert!(error.context.contains(&format!("vcl.db.schema-{KNOWN}")), "{error}");
        // The way out that the refusal names.
        std::fs::rename(copy(KNOWN), &path).unwrap();
        let queue = Queue::open(&path).await.unwrap();
        assert_eq!(queue.events(0, 9).await.unwrap()[0].message, "before");
        queue.close().await;
    }
}
