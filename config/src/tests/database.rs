//! Which database: a file, or a server.

use super::*;

#[test]
fn sqlite_is_named_by_a_path() {
    for url in ["sqlite:/var/x.db", "sqlite:///var/x.db"] {
        let config = good(&with(&format!("database.url = \"{url}\"")));
        assert_eq!(config.database, Database::Sqlite { path: "/var/x.db".into() });
    }
    for url in [
        "sqlite:x.db",
        "sqlite://x.db",
        "sqlite:",
        "sqlite:/",
        "sqlite::memory:",
        "/var/x.db",
        "postgres://x/y",
    ] {
        assert_eq!(bad(&with(&format!("database.url = \"{url}\""))).0.len(), 1, "{url}");
    }
}

#[test]
fn a_server_is_named_by_a_url_and_its_password_stands_elsewhere() {
    let url = "mysql://vcl@db1:3307/vcl?ssl-mode=verify_ca&ssl-ca=/etc/ssl/db.pem";
    let config =
        good(&with(&format!("database = {{ url = \"{url}\", password = {{ credential = \"db\" }} }}")));
    let password = Some(KeySource::Credential("db".parse().unwrap()));
    assert_eq!(config.database, Database::MariaDb { url: url.into(), password });
    let config = good(&with(
        "database = { url = \"mariadb://vcl@localhost/vcl?socket=/run/db\", password = { file = \"/x\" } }",
    ));
    assert!(matches!(config.database, Database::MariaDb { password: Some(KeySource::File(_)), .. }));
    let config = good(&with("database.url = \"mysql://vcl@db1/vcl\""));
    assert!(matches!(config.database, Database::MariaDb { password: None, .. }));
    for url in [
        "mysql://vcl@db1",
        "mysql://vcl@db1/",
        "mysql:vcl",
        "mysql:///vcl",
        "mysql://h/a/b",
        "mysql://vcl:pw@db1/vcl",
    ] {
        assert_eq!(bad(&with(&format!("database.url = \"{url}\""))).0.len(), 1, "{url}");
    }
    let problems =
        bad(&with("database = { url = \"mysql://vcl@db1/vcl\", password = \"hunter2\" }")).to_string();
    assert!(
        problems.contains("credential = \"database-password\"") && !problems.contains("hunter2"),
        "{problems}"
    );
}
