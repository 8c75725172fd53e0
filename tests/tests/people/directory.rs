//! A real OpenLDAP server, over TLS.

use super::*;
use std::process::Child;

/// slapd with a few people in it.
struct Slapd {
    child: Option<Child>,
    directory: Utf8PathBuf,
    plain: u16,
    tls: u16,
}

const PEOPLE: &str = "dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=org
objectClass: organizationalUnit
ou: groups

dn: uid=alice,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: alice
cn: Alice Smith
sn: Smith
mail: alice@example.org
departmentNumber: geography
userPassword: alice's password

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: Bob
userPassword: bob's password

dn: cn=vcld,dc=example,dc=org
objectClass: applicationProcess
objectClass: simpleSecurityObject
cn: vcld
userPassword: vcld's password

dn: cn=gis-course,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: gis-course
member: uid=alice,ou=people,dc=example,dc=org
member: uid=carol,ou=people,dc=example,dc=org
";

impl Slapd {
    /// In a directory that has `ca.pem`, `server.pem` and `server.key`.
    fn start(directory: &Utf8Path) -> Result<Self> {
        let home = directory.join("slapd");
        std::fs::create_dir_all(home.join("db"))?;
        let (plain, tls) = (free_port()?, free_port()?);
        let config = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             pidfile {home}/pid\nTLSCACertificateFile {directory}/ca.pem\nTLSCertificateFile {directory}/server.pem\n\
             TLSCertificateKeyFile {directory}/server.key\nsecurity simple_bind=128\n\
             database mdb\nmaxsize 10485760\nsuffix \"dc=example,dc=org\"\nrootdn \"cn=root,dc=example,dc=org\"\n\
             rootpw root\ndirectory {home}/db\n\
             access to attrs=userPassword by anonymous auth by self write by * none\naccess to * by users read by anonymous auth\n"
        );
        std::fs::write(home.join("slapd.conf"), config)?;
        std::fs::write(home.join("people.ldif"), PEOPLE)?;
        let conf = home.join("slapd.conf");
        let added = Command::new("/usr/sbin/slapadd")
            .args(["-f", conf.as_str(), "-l", home.join("people.ldif").as_str()])
            .output()
            .context("slapadd: is slapd installed?")?;
        ensure!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let mut slapd = Self { child: None, directory: directory.to_owned(), plain, tls };
        slapd.up()?;
        Ok(slapd)
    }
    fn up(&mut self) -> Result<()> {
        let conf = self.directory.join("slapd/slapd.conf");
        let urls = format!("ldap://127.0.0.1:{} ldaps://127.0.0.1:{}", self.plain, self.tls);
        let log = std::fs::File::create(self.directory.join("slapd/out"))?;
        let mut child = Command::new("/usr/sbin/slapd")
            .args(["-d", "0", "-f", conf.as_str(), "-h", &urls])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        wait_for(self.tls, &mut child)?;
        self.child = Some(child);
        Ok(())
    }
    fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
    /// Changes an entry, as LDIF says.
    fn modify(&self, ldif: &str) -> Result<()> {
        let mut command = Command::new("ldapmodify");
        command
            .env("LDAPTLS_CACERT", self.directory.join("ca.pem"))
            .args(["-x", "-H", &format!("ldaps://127.0.0.1:{}", self.tls)])
            .args(["-D", "cn=root,dc=example,dc=org", "-w", "root"]);
        let done = fed(command, ldif)?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.down();
    }
}

fn groups(site: &Site, name: &str) -> Result<Vec<String>> {
    let user = site.root(&["user", "show", name])?;
    let all = user["groups"].as_array().unwrap().iter();
    Ok(all.map(|g| format!("{} ({})", g["name"].as_str().unwrap(), g["source"].as_str().unwrap())).collect())
}

#[test]
fn a_directory_vouches_for_its_people_and_their_groups_are_what_it_says_now() -> Result<()> {
    let mut started = None;
    let mut site = Site::new("", |directory, _| {
        let slapd = Slapd::start(directory).unwrap();
        std::fs::write(directory.join("credentials/ldap"), "vcld's password\n").unwrap();
        let table = format!(
            "[api.ldap]\nurl = \"ldaps://127.0.0.1:{}\"\nca = \"{directory}/ca.pem\"\n\
             bind_dn = \"cn=vcld,dc=example,dc=org\"\nbind_password = {{ credential = \"ldap\" }}\n\
             base = \"ou=people,dc=example,dc=org\"\ngroup_base = \"ou=groups,dc=example,dc=org\"\n\
             group_attribute = \"departmentNumber\"\n",
            slapd.tls
        );
        started = Some(slapd);
        table
    })?;
    let mut slapd = started.unwrap();
    site.root(&["group", "add", "gis-course"])?;
    site.root(&["grant", "add", "gis-course", "look", "computers:b12"])?;

    let output = site.login("alice", "Alice", "alice's password")?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let alice = site.root(&["user", "show", "alice"])?;
    assert_eq!(alice["source"], "ldap");
    assert_eq!((&alice["full_name"], &alice["mail"]), (&"Alice Smith".into(), &"alice@example.org".into()));
    assert_eq!(groups(&site, "alice")?, ["geography (ldap)", "gis-course (ldap)"]);
    assert_eq!(names(&site.json("alice", &["computer", "list"])?, "/computer/name"), ["a"]);

    // Whoever is not she, and what a directory could mistake for her.
    for (name, password) in [
        ("alice", "bob's password"),
        ("alice", ""),
        ("*", "alice's password"),
        ("alice)(uid=*", "alice's password"),
        ("nobody", "x"),
        ("vcld", "vcld's password"),
    ] {
        let output = site.login("eve", name, password)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("is wrong"), "{name}: {said}");
    }
    site.nowhere("alice's password")?;
    site.nowhere("vcld's password")?;

    // What is said here of her groups stays, what the directory says is what it says now.
    site.root(&["group", "add", "staff"])?;
    site.root(&["group", "member", "add", "staff", "alice"])?;
    site.root(&["group", "member", "add", "gis-course", "alice"])?;
    slapd.modify(
        "dn: cn=gis-course,ou=groups,dc=example,dc=org\nchangetype: modify\ndelete: member\n\
         member: uid=alice,ou=people,dc=example,dc=org\n",
    )?;
    assert!(site.login("alice", "alice", "alice's password")?.status.success());
    assert_eq!(groups(&site, "alice")?, ["geography (ldap)", "gis-course (local)", "staff (local)"]);
    site.root(&["group", "member", "remove", "gis-course", "alice"])?;
    assert_eq!(names(&site.json("alice", &["computer", "list"])?, "/computer/name"), Vec::<&str>::new());

    // One whom vcld's own table vouches for is not the directory's, and the other way round.
    site.user("carol", "carol's own password", &[])?;
    assert!(site.login("carol", "carol", "carol's own password")?.status.success());
    site.root(&["user", "disable", "alice"])?;
    let output = site.login("alice", "alice", "alice's password")?;
    assert!(String::from_utf8_lossy(&output.stderr).contains("alice is disabled here"));
    assert_eq!(site.refused("alice", &["whoami"])?.0, 3);

    // While the directory is away, that is said, and others come in as before.
    slapd.down();
    let output = site.login("bob", "bob", "bob's password")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the directory ldaps://127.0.0.1") && said.contains("cannot be reached"), "{said}");
    assert!(site.login("carol", "carol", "carol's own password")?.status.success());
    slapd.up()?;
    assert!(site.login("bob", "bob", "bob's password")?.status.success());
    site.daemon.stop()
}

#[test]
fn starttls_comes_before_the_password_and_only_to_whom_the_authority_names() -> Result<()> {
    for (ca, good) in [("ca.pem", true), ("other/ca.pem", false)] {
        let mut started = None;
        let mut site = Site::new("", |directory, _| {
            std::fs::create_dir(directory.join("other")).unwrap();
            certificates(&directory.join("other")).unwrap();
            let slapd = Slapd::start(directory).unwrap();
            let table = format!(
                "[api.ldap]\nurl = \"ldap://127.0.0.1:{}\"\nca = \"{directory}/{ca}\"\n\
                 user_dn = \"uid={{}},ou=people,dc=example,dc=org\"\n",
                slapd.plain
            );
            started = Some(slapd);
            table
        })?;
        let output = site.login("alice", "alice", "alice's password")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), good, "{said}");
        if !good {
            assert!(said.contains("cannot be reached"), "{said}");
        }
        site.daemon.stop()?;
        drop(started);
    }
    Ok(())
}
