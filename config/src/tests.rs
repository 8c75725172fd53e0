//! The parser as a whole: the examples, bad files with their messages, and files that nobody would write.

use crate::*;
use camino::Utf8Path;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;
use vcl_types::{Accelerator, AddressSource, NicRole};

mod database;
mod lending;

const EXAMPLES: [(&str, &str); 5] = [
    ("minimal.toml", include_str!("../examples/minimal.toml")),
    ("full.toml", include_str!("../examples/full.toml")),
    ("libvirt-lab.toml", include_str!("../examples/libvirt-lab.toml")),
    ("sim-1000.toml", include_str!("../examples/sim-1000.toml")),
    ("user-network.toml", include_str!("../examples/user-network.toml")),
];

fn good(text: &str) -> Config {
    parse(text, "vcld.toml", &Known::default()).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}
fn bad(text: &str) -> Problems {
    parse(text, "vcld.toml", &Known::default()).unwrap_err()
}
/// A file with a library, a backend, networks of each kind, and these lines.
fn with(lines: &str) -> String {
    format!(
        "library = {{ path = \"/srv/vcl\" }}\nbackend.kvm1.type = \"libvirt\"\n\
         network.lab.bridge = \"br20\"\nnetwork.fix = {{ bridge = \"br30\", address = \"static\" }}\n\
         network.trial.user = true\n{lines}\n"
    )
}

#[test]
fn every_example_is_read() {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap().count();
    assert_eq!(files, EXAMPLES.len(), "an example is not in the list");
    for (name, text) in EXAMPLES {
        parse(text, name, &Known::default()).unwrap_or_else(|problems| panic!("{problems}"));
    }
}

#[test]
fn the_full_example_has_every_key_and_is_what_it_says() {
    let (_, text) = EXAMPLES[1];
    let document: toml::Table = text.parse().unwrap();
    for table in keys::ROOT {
        let here = document.get(table.name).unwrap_or_else(|| panic!("{} is not in full.toml", table.name));
        let (keys, text) = match table.kind {
            Kind::Table(keys) => (keys.to_vec(), here.to_string()),
            Kind::Tables(keys) if table.name == "backend" => {
                (keys.iter().chain(keys::LIBVIRT).copied().collect(), here.to_string())
            }
            Kind::Tables(keys) => (keys.to_vec(), here.to_string()),
            Kind::Computers(keys) => {
                (keys.iter().chain(keys::INTERFACE).copied().collect(), here.to_string())
            }
            _ => panic!("{} is not a table", table.name),
        };
        for key in keys {
            let password = key.name == "password";
            assert!(password || text.contains(key.name), "{}.{} is not in full.toml", table.name, key.name);
        }
    }
    insta::assert_debug_snapshot!(Config { computers: good(text).computers.split_off(39), ..good(text) });
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = good("[library]\npath = \"/srv/vcl\"\n[backend.kvm1]\ntype = \"libvirt\"\n");
    assert_eq!(config.database, Database::Sqlite { path: "/srv/vcld.db".into() });
    assert_eq!(config.library.keep_free, vcl_types::ByteSize::gibibytes(1));
    let api = &config.api;
    assert_eq!((api.socket.as_str(), api.group.as_str()), ("/run/vcld/vcld.sock", "vcl"));
    assert_eq!((api.users_group.as_deref(), api.files.as_str()), (None, "/var/lib/vcld/exchange"));
    assert_eq!(config.ssh, Ssh { key: KeySource::File("/etc/vcld/id".into()), user: "root".into() });
    assert_eq!(config.hooks.pre_capture(), "/etc/vcld/hooks/pre_capture.d");
    assert_eq!(config.deadlines.copy, Duration::from_secs(6 * 3600));
    assert_eq!(
        config.node,
        Node {
            name: None,
            max_jobs: 8,
            drain: Duration::from_secs(30),
            lease: Duration::from_secs(15),
            upkeep: Upkeep::default()
        }
    );
    assert_eq!(config.log, Log { format: LogFormat::Auto, filter: "info".into() });
    let backend = config.backends.values().next().unwrap();
    assert_eq!(backend.max_jobs, 4);
    let libvirt = backend.libvirt().unwrap();
    assert_eq!((libvirt.uri.as_str(), libvirt.local), ("qemu:///system", true));
    assert_eq!(libvirt.directory, Utf8Path::new("/var/lib/vcld/kvm1"));
    assert_eq!(libvirt.accelerator, Accelerator::Auto);
}

#[test]
fn a_hypervisor_elsewhere_is_not_local_unless_it_says_so() {
    for (uri, more, local) in [
        ("qemu+ssh://root@kvm2/system", "", false),
        ("qemu+ssh://root@kvm2/system", ", local = true", true),
        ("qemu:///session", "", true),
        ("test:///default", ", local = false", false),
    ] {
        let config = good(&with(&format!("backend.x = {{ type = \"libvirt\", uri = \"{uri}\"{more} }}")));
        assert_eq!(config.backends[&"x".parse().unwrap()].libvirt().unwrap().local, local, "{uri}{more}");
    }
}

#[test]
fn a_host_that_shares_no_files_has_a_pool() {
    let table = |more: &str| {
        with(&format!("backend.x = {{ type = \"libvirt\", uri = \"qemu+ssh://root@kvm2/system\", {more} }}"))
    };
    let read = |more: &str| {
        let config = good(&table(more));
        let libvirt = config.backends[&"x".parse().unwrap()].libvirt().unwrap();
        (libvirt.pool, libvirt.pool_path.map(String::from))
    };
    assert_eq!(read("pool = \"vcl\""), (Some("vcl".into()), None));
    assert_eq!(
        read("pool = \"vcl\", pool_path = \"/srv/vcl-pool\""),
        (Some("vcl".into()), Some("/srv/vcl-pool".into()))
    );
    for (more, way_out) in [
        ("pool = \"a b\"", "is not the name of a storage pool"),
        ("pool = \"\"", "pool"),
        ("pool_path = \"/srv/vcl-pool\"", "there is no `pool` that could be made there"),
    ] {
        let problems = bad(&table(more)).to_string();
        assert!(problems.contains(way_out), "{more}: {problems}");
    }
}

#[test]
fn the_management_interface_comes_first_and_keeps_the_mac_of_its_place() {
    let config = good(&with(
        "[computers]\na = { backend = \"kvm1\", networks = [{ network = \"fix\", role = \"public\", address = \"10.0.0.9\" }, \"lab\"] }\n\
         b = { backend = \"kvm1\", networks = [\"lab\", { network = \"fix\", role = \"management\" }], address = \"10.0.0.7\", mac = \"52-54-00-AA-00-01\" }",
    ));
    let [a, b] = config.computers.as_slice() else { panic!() };
    let nics = |computer: &vcl_types::Computer| -> Vec<(String, NicRole)> {
        computer.nics.iter().map(|nic| (nic.network.to_string(), nic.role)).collect()
    };
    assert_eq!(nics(a), [("lab".to_owned(), NicRole::Management), ("fix".to_owned(), NicRole::Public)]);
    assert_eq!(nics(b), [("fix".to_owned(), NicRole::Management), ("lab".to_owned(), NicRole::Public)]);
    assert_eq!(a.nics[0].mac, derived_mac(&a.name, 1));
    assert_eq!((b.nics[0].mac.as_str(), b.nics[0].address), ("52:54:00:aa:00:01", "10.0.0.7".parse().ok()));
    assert_eq!(b.nics[1].mac, derived_mac(&b.name, 0));
    // What machines have today they must have after an upgrade.
    assert_eq!(derived_mac(&"gis-01".parse().unwrap(), 0), "52:5b:29:5e:38:d5");
}

#[test]
fn networks_are_read() {
    let config =
        good(&with("[network.campus]\nlibvirt = \"default\"\naddress = \"hook\"\nhook = \"/usr/bin/ip-of\""));
    let network = |name: &str| &config.networks[&name.parse().unwrap()];
    assert_eq!(
        network("lab"),
        &Network { link: Link::Bridge("br20".into()), address: Some(AddressSource::Lease), hook: None }
    );
    assert_eq!(network("trial"), &Network { link: Link::User, address: None, hook: None });
    assert_eq!(network("campus").hook.as_deref(), Some(Utf8Path::new("/usr/bin/ip-of")));
}

const SIM_KEYS: &[Key] = &[
    Key::required("host", Kind::HostName, "The host."),
    Key::default("wait", Kind::Duration { min: 1000 }, "10s", "How long to wait."),
    Key::optional("password", Kind::Credential, "none", "The password."),
];

fn read_sim(table: &Section<'_>) -> Option<(String, Duration)> {
    let host = table.text("host");
    let wait = table.duration("wait");
    let _ = table.credential("password");
    if host.as_deref() == Some("localhost") {
        table.report("host", "`localhost` cannot be simulated", "name another");
        return None;
    }
    Some((host?, wait?))
}

const SIM: BackendType = BackendType {
    name: "sim",
    keys: Some(SIM_KEYS),
    check: |table| {
        let _ = read_sim(table);
    },
    libvirt_networks: false,
};
const OPAQUE: BackendType =
    BackendType { name: "opaque", keys: None, check: |_| {}, libvirt_networks: false };
const KNOWN: Known<'static> = Known { backend_types: &[BackendType::LIBVIRT, SIM, OPAQUE] };

#[test]
fn a_backends_author_brings_keys_and_a_reader() {
    let text = "library.path = \"/srv/vcl\"\n[backend.s]\ntype = \"sim\"\nhost = \"a.example\"\nmax_jobs = 2\n\
                [backend.o]\ntype = \"opaque\"\nanything = [1, { x = 1979-05-27 }]\nhost = 7\n";
    let config = parse(text, "vcld.toml", &KNOWN).unwrap();
    let sim = &config.backends[&"s".parse().unwrap()];
    assert_eq!((sim.kind.as_str(), sim.max_jobs), ("sim", 2));
    assert_eq!(sim.read(SIM_KEYS, read_sim).unwrap(), ("a.example".to_owned(), Duration::from_secs(10)));
    let opaque = &config.backends[&"o".parse().unwrap()];
    assert_eq!(opaque.table()["anything"][1]["x"].to_string(), "1979-05-27");
    assert_eq!(
        format!("{opaque:?}"),
        "BackendConfig { name: BackendName(\"o\"), kind: \"opaque\", max_jobs: 4, keys: [\"type\", \"anything\", \"host\"] }"
    );
    insta::assert_snapshot!(opaque.read(SIM_KEYS, read_sim).unwrap_err());

    let text = "library.path = \"/srv/vcl\"\nnetwork.trial.user = true\n\
                [backend.s]\ntype = \"sim\"\nhost = \"localhost\"\nwiat = \"1s\"\npassword = \"hunter2\"\n\
                [backend.o]\ntype = \"opaque\"\napi_token = \"hunter2\"\n\
                [computers]\na = { backend = \"s\", networks = [\"trial\"] }\n";
    insta::assert_snapshot!(parse(text, "vcld.toml", &KNOWN).unwrap_err());
}

/// A table of keys and all those inside it.
fn tables(keys: &'static [Key]) -> Vec<&'static [Key]> {
    let inside = |key: &'static Key| match key.kind {
        Kind::Table(keys) | Kind::Tables(keys) | Kind::Computers(keys) | Kind::Interfaces(keys) => {
            tables(keys)
        }
        _ => Vec::new(),
    };
    std::iter::once(keys).chain(keys.iter().flat_map(inside)).collect()
}

#[test]
fn every_default_is_of_its_kind() {
    for keys in tables(keys::ROOT).into_iter().chain([keys::LIBVIRT, crate::LAB_KEYS, crate::SIM_KEYS]) {
        for key in keys.iter().filter(|key| matches!(key.presence, Presence::Default(_))) {
            let findings = problem::Findings::new("default");
            let place = (String::new(), Position { line: 1, column: 1 });
            let section = Section::unchecked(&findings, place, &[], [keys, &[]]);
            let read = match key.kind {
                Kind::Text | Kind::Account | Kind::HostName | Kind::Word(_) => {
                    section.text(key.name).is_some()
                }
                Kind::Path => section.path(key.name).is_some(),
                Kind::Size { .. } => section.size(key.name).is_some(),
                Kind::Duration { .. } => section.duration(key.name).is_some(),
                Kind::Integer { .. } => section.integer(key.name).is_some(),
                Kind::Fraction => section.fraction(key.name).is_some(),
                Kind::Boolean => section.boolean(key.name).is_some(),
                Kind::KeySource => section.field(key.name).unwrap().key_source().is_some(),
                other => panic!("{} has a default and is {}", key.name, other.noun()),
            };
            assert!(read, "the default of {} cannot be read", key.name);
        }
    }
}

#[test]
fn every_key_is_documented_once() {
    for keys in tables(keys::ROOT).into_iter().chain([keys::LIBVIRT, crate::LAB_KEYS, crate::SIM_KEYS]) {
        let names: BTreeSet<_> = keys.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), keys.len());
        for key in keys {
            assert!(key.doc.ends_with('.'), "{}", key.name);
        }
    }
}

#[test]
fn every_word_is_a_variant() {
    fn words(name: &str, keys: &'static [Key]) -> &'static [&'static str] {
        match keys.iter().find(|key| key.name == name).unwrap().kind {
            Kind::Word(words) => words,
            other => panic!("{name} is {}", other.noun()),
        }
    }
    for word in words("format", keys::LOG) {
        good(&with(&format!("log.format = \"{word}\"")));
    }
    for word in words("accelerator", keys::LIBVIRT) {
        good(&with(&format!("backend.x = {{ type = \"libvirt\", accelerator = \"{word}\" }}")));
    }
    for word in words("address", keys::NETWORK) {
        let hook = if *word == "hook" { ", hook = \"/x\"" } else { "" };
        good(&with(&format!("network.x = {{ bridge = \"b\", address = \"{word}\"{hook} }}")));
    }
    for word in words("role", keys::INTERFACE) {
        let networks = format!("[\"lab\", {{ network = \"lab\", role = \"{word}\" }}]");
        good(&with(&format!("computers.a = {{ backend = \"kvm1\", networks = {networks} }}")));
    }
}

/// Compares a generated file with the one in the repository; `UPDATE=1` writes it.
fn golden(name: &str, content: &str) {
    let path = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, content).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(there, content, "{name} is not what the table of keys makes; run this test with UPDATE=1");
}

#[test]
fn the_schema_and_the_reference_are_what_the_table_of_keys_makes() {
    golden(
        "schema.json",
        &format!("{}\n", serde_json::to_string_pretty(&schema(&Known::default())).unwrap()),
    );
    golden("reference.md", &reference(&Known::default()));
}

#[test]
fn every_example_has_the_form_that_the_schema_asks_for() {
    let validator = jsonschema::validator_for(&schema(&Known::default())).unwrap();
    let json = |text: &str| serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
    for (name, text) in EXAMPLES {
        let errors: Vec<String> = validator.iter_errors(&json(text)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
    for text in [
        "",
        "library.path = \"srv\"",
        &with("library.kep_free = \"1G\"")
            .replace("library = { path = \"/srv/vcl\" }", "library.path = \"/x\""),
        &with("node.max_jobs = 0"),
        &with("log.format = \"xml\""),
        &with("database.password = \"hunter2\""),
        &with("backend.x = { type = \"libvirt\", urri = \"x\" }"),
        &with("backend.x = { type = \"vmware\" }"),
        &with("computers.a = { backend = \"kvm1\", networks = [] }"),
    ] {
        assert!(!validator.is_valid(&json(text)), "{text}");
        bad(text);
    }
    let validator = jsonschema::validator_for(&schema(&KNOWN)).unwrap();
    assert!(validator.is_valid(&json(&with(
        "backend.s = { type = \"sim\", host = \"x\" }\nbackend.o = { type = \"opaque\", a = 1 }"
    ))));
}

#[test]
fn bad_files() {
    let cases: &[(&str, &str)] = &[
        ("many_problems_in_one_file", include_str!("tests/many.toml")),
        ("nothing", ""),
        ("typing_mistakes", include_str!("tests/typing.toml")),
        ("wrong_types", include_str!("tests/types.toml")),
        ("values", include_str!("tests/values.toml")),
        ("secrets", include_str!("tests/secrets.toml")),
        ("networks", include_str!("tests/networks.toml")),
        ("backends", include_str!("tests/backends.toml")),
        ("computers", include_str!("tests/computers.toml")),
        ("syntax", include_str!("tests/syntax.toml")),
        (
            "unclosed_list",
            "[library]\npath = \"/srv/vcl\"\n[computers]\na = { backend = \"kvm1\", networks = [\"lab\" }\n\n[node]\nname = \"x\"\n",
        ),
        ("unclosed_text", "[library]\npath = \"\"\"/srv/vcl\nkeep_free = \"1G\"\n"),
        ("double", "[library]\npath = \"/a\"\npath = \"/b\"\n[library]\nx = 1\n"),
        ("control", "[library]\npath = \"/a\\u001b[31m\"\n\"\\u001b[2J\" = 1\n"),
        ("not_ascii", "[library]\n\"größe\" = 1\npath = \"/ä\"\nkeep_free = { ä = 1 }\n# ä\nö.x = 1\n"),
    ];
    for (name, text) in cases {
        let problems = bad(text);
        let shown = problems.to_string();
        assert!(!shown.contains("hunter2"), "a secret is shown: {shown}");
        assert!(problems.0.iter().all(|problem| !problem.way_out.is_empty()), "no way out: {shown}");
        assert!(problems.0.is_sorted_by_key(|problem| (problem.line, problem.column)));
        insta::assert_snapshot!(*name, shown);
    }
}

#[test]
fn a_place_is_that_of_the_value() {
    let text = "\u{feff}[library]\r\npath = \"/srv/vcl\"\r\nkeep_free = 'ä'\r\n";
    let problem = bad(text).0.remove(0);
    assert_eq!((problem.line, problem.column, problem.key.as_str()), (3, 13, "library.keep_free"));
    let problem = bad("\u{feff}x = 1\nlibrary = { path = \"/ä\", y = 2 }").0;
    assert_eq!(problem.iter().map(|p| (p.line, p.column)).collect::<Vec<_>>(), [(1, 1), (2, 26)]);
}

#[test]
fn ten_thousand_computers_are_the_limit_and_do_not_take_long() {
    let entry = |range: &str| format!("\"c[{range}]\" = {{ backend = \"kvm1\", networks = [\"lab\"] }}\n");
    let problems =
        bad(&with(&format!("[computers]\n{}{}", entry("1-9999"), entry("10000-10001")))).to_string();
    assert!(problems.contains("more than 10000 computers"), "{problems}");
    assert!(good(&with(&format!("[computers]\n{}", entry("1-1000")))).computers.len() == 1000);
}

/// Lines that are nearly right, so that a random file gets past the syntax.
fn lines() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        proptest::sample::select(vec![
            "path",
            "url",
            "password",
            "key",
            "user",
            "type",
            "uri",
            "bridge",
            "address",
            "hook",
            "mac",
            "cpus",
            "memory",
            "networks",
            "tags",
            "backend",
            "network",
            "computers",
            "a",
            "\"g-[1-3]\"",
            "\"g[\"",
            "role",
            "boot",
            "local",
        ])
        .prop_map(str::to_owned),
        "[a-z]{1,4}",
    ];
    let value = prop_oneof![
        proptest::sample::select(vec![
            "1",
            "-1",
            "true",
            "1.5",
            "inf",
            "[]",
            "{}",
            "\"\"",
            "\"/a\"",
            "\"kvm1\"",
            "\"lab\"",
            "[\"lab\"]",
            "\"4G\"",
            "{ credential = \"x\" }",
            "{ file = \"/x\" }",
            "[{ network = \"lab\", role = \"public\" }]",
            "1979-05-27",
            "{ backend = \"kvm1\", networks = [\"lab\"] }",
            "[[1], 2]",
            "99999999999999999999",
            "\"10.0.0.[1-3]\"",
            "{ type = \"libvirt\" }",
            "{ bridge = \"b\" }",
            "\"libvirt\"",
        ])
        .prop_map(str::to_owned),
        "\"[ -!#-~]{0,6}\"",
    ];
    let header = proptest::sample::select(vec![
        "[library]",
        "[database]",
        "[ssh]",
        "[node]",
        "[backend.kvm1]",
        "[network.lab]",
        "[computers]",
        "[computers.a]",
        "[[network]]",
        "[network]",
        "[backend]",
        "[computers.\"g-[1-2]\"]",
    ])
    .prop_map(str::to_owned);
    let line =
        prop_oneof![1 => header, 3 => (key, value).prop_map(|(key, value)| format!("{key} = {value}"))];
    proptest::collection::vec(line, 0..20).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = parse(&text, "vcld.toml", &KNOWN);
    }

    #[test]
    fn no_file_is_refused_without_a_reason(text in lines()) {
        if let Err(problems) = parse(&text, "vcld.toml", &KNOWN) {
            for problem in &problems.0 {
                prop_assert!(!problem.message.contains("no reason"), "{text}");
                prop_assert!(!problem.way_out.contains("mistake in vcld"), "{problems}\n{text}");
                prop_assert!(problem.line <= text.lines().count().max(1) + 1);
            }
        }
    }

    #[test]
    fn what_is_accepted_has_unique_names_and_macs(
        ranges in proptest::collection::btree_map("[a-z]{1,8}", (0u32..1000, 1u32..40, 1usize..4), 1..6)
    ) {
        let mut text = with("[computers]");
        let mut wanted = 0;
        for (prefix, (from, count, nics)) in &ranges {
            let networks = vec!["\"lab\""; *nics].join(", ");
            let to = from + count - 1;
            text += &format!("\"{prefix}-[{from:04}-{to:04}]\" = {{ backend = \"kvm1\", networks = [{networks}] }}\n");
            wanted += *count as usize;
        }
        match parse(&text, "vcld.toml", &Known::default()) {
            Ok(config) => {
                let names: BTreeSet<_> = config.computers.iter().map(|computer| &computer.name).collect();
                let nics = || config.computers.iter().flat_map(|computer| &computer.nics);
                let macs: BTreeSet<_> = nics().map(|nic| &nic.mac).collect();
                prop_assert_eq!(names.len(), wanted);
                prop_assert_eq!(config.computers.len(), wanted);
                prop_assert_eq!(macs.len(), nics().count());
                for computer in &config.computers {
                    prop_assert_eq!(computer.nics.iter().filter(|nic| nic.role == NicRole::Management).count(), 1);
                    prop_assert!(computer.management() == computer.nics.first());
                }
            }
            // 24 bits do collide now and then, and that is reported.
            Err(problems) => {
                for problem in &problems.0 {
                    prop_assert!(problem.message.contains("is the MAC address of both"), "{}", problem);
                }
            }
        }
    }
}
