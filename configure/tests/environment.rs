//! The table of the variables that each kind of script finds, as cdist 7.0.0 has it: asked of scripts that run.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use camino::{Utf8Path, Utf8PathBuf};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_configure::conf::Conf;
use vcl_configure::environment::Host;
use vcl_configure::run::{Wish, run};
use vcl_configure::target::Transport;

/// The kinds of script, as columns.
const KINDS: [&str; 7] =
    ["init", "manifest", "gencode", "code-local", "explorer", "type-explorer", "code-remote"];

/// A variable, with a letter for each kind that finds it. Those with other letters than `x` are told apart below.
const TABLE: &[(&str, &str)] = &[
    // The machine's names.
    ("__target_host", "xxxxxx-"),
    ("__target_hostname", "xxxxxx-"),
    ("__target_fqdn", "xxxxxx-"),
    ("__target_host_tags", "xxxxxx-"),
    // Where the run's files are.
    ("__global", "xxxx---"),
    ("__files", "xxxx---"),
    ("__manifest", "xx-----"),
    ("__explorer", "x---xx-"),
    ("__type", "-xx----"),
    ("__type_explorer", "-----x-"),
    // The object.
    ("__object", "-xxx-xx"),
    ("__object_id", "-xxx-xx"),
    ("__object_name", "-xx--x-"),
    ("__object_fq", "-----x-"),
    // What it tells others.
    ("__messages_in", "xxx----"),
    ("__messages_out", "xxx----"),
    // For the commands that types are.
    ("__cdist_manifest", "xx-----"),
    ("__cdist_type_base_path", "xx-----"),
    ("__cdist_colored_log", "xx-----"),
    ("__cdist_object_marker", "xxxx---"),
    ("__cdist_log_level", "xxxxxx-"),
    ("__cdist_log_level_name", "xxxxxx-"),
    // How to get there.
    ("__remote_exec", "xxxx---"),
    ("__remote_copy", "xxxx---"),
    // Ours alone.
    ("__vcl_socket", "xxxx---"),
    ("__vcl_secrets", "xxxx---"),
];

fn write(path: &Utf8Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What each kind of script says of its variables whose names begin with two underscores.
async fn found(root: &Utf8Path, dry_run: bool) -> BTreeMap<String, BTreeMap<String, String>> {
    let out = root.join(if dry_run { "dry" } else { "wet" });
    fs::create_dir(&out).unwrap();
    let dump = |kind: &str| format!("env | grep '^__' | sort >{out}/{kind}\n");
    let conf = root.join("conf");
    write(&conf.join("explorer/all"), &dump("explorer"));
    let of = conf.join("type/__probe");
    write(&of.join("parameter/optional"), "x\n");
    write(&of.join("explorer/all"), &dump("type-explorer"));
    write(&of.join("manifest"), &dump("manifest"));
    write(&of.join("gencode-local"), &format!("{}echo \"{}\"\n", dump("gencode"), dump("code-local").trim()));
    write(&of.join("gencode-remote"), &format!("echo \"{}\"\n", dump("code-remote").trim()));
    let manifest = root.join("init");
    write(&manifest, &format!("{}__probe of/it --x 1\n", dump("init")));
    let directory = root.join(format!("run-{dry_run}"));
    fs::create_dir(&directory).unwrap();
    let secret = root.join("secret");
    write(&secret, "long enough");
    let (host, fqdn) = ("there".to_owned(), "there.example".to_owned());
    run(Wish {
        host: Host { name: host.clone(), hostname: host, fqdn, tags: vec!["a".into(), "b".into()] },
        transport: Transport::Local,
        conf: Conf::layer(&[conf]).unwrap(),
        manifest,
        directory,
        base: root.join("base").into_string(),
        command: env!("CARGO_BIN_EXE_vcl-emulator").into(),
        jobs: 1,
        dry_run,
        install: false,
        limit: Duration::from_secs(30),
        within: None,
        memo: None,
        secrets: [("a".to_owned(), secret)].into_iter().collect(),
        patience: Duration::ZERO,
        stop: CancellationToken::new(),
        progress: None,
    })
    .await
    .unwrap();
    let read = |kind: &&str| {
        let text = fs::read_to_string(out.join(kind)).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        ((*kind).to_owned(), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    };
    KINDS.iter().map(read).collect()
}

#[tokio::test]
async fn each_kind_of_script_finds_what_cdist_gives_it() {
    let kept = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(kept.path().to_owned()).unwrap();
    let all = found(&root, false).await;
    for (at, kind) in KINDS.iter().enumerate() {
        let wanted = TABLE.iter().filter(|(_, kinds)| kinds.as_bytes()[at] == b'x');
        let wanted: BTreeSet<&str> = wanted.map(|(name, _)| *name).collect();
        let there: BTreeSet<&str> = all[*kind].keys().map(String::as_str).collect();
        assert_eq!(there, wanted, "{kind}");
    }
    let (global, base) = (root.join("run-false/data"), root.join("base"));
    let marker = all["init"]["__cdist_object_marker"].clone();
    let object = format!("{global}/object/__probe/of/it/{marker}");
    for (kind, name, value) in [
        // One name, two meanings: what the explorers said, and the explorers.
        ("init", "__explorer", format!("{global}/explorer")),
        ("explorer", "__explorer", format!("{base}/conf/explorer")),
        ("type-explorer", "__explorer", format!("{base}/conf/explorer")),
        ("type-explorer", "__type_explorer", format!("{base}/conf/type/__probe/explorer")),
        ("init", "__global", global.to_string()),
        ("init", "__files", format!("{global}/conf/files")),
        ("init", "__manifest", format!("{global}/conf/manifest")),
        ("manifest", "__type", format!("{global}/conf/type/__probe")),
        // Here and there.
        ("manifest", "__object", object.clone()),
        ("gencode", "__object", object.clone()),
        ("code-local", "__object", object),
        ("type-explorer", "__object", format!("{base}/object/__probe/of/it/{marker}")),
        ("code-remote", "__object", format!("{base}/object/__probe/of/it/{marker}")),
        ("code-remote", "__object_id", "of/it".into()),
        ("manifest", "__object_name", "__probe/of/it".into()),
        ("type-explorer", "__object_fq", format!("__probe/of/it/{marker}")),
        ("explorer", "__target_fqdn", "there.example".into()),
        ("explorer", "__target_host_tags", "a,b".into()),
    ] {
        assert_eq!(all[kind][name], value, "{name} of {kind}");
    }
    // A dry run says so to all that run in it; code does not.
    let dry = found(&root, true).await;
    for kind in KINDS {
        let says = dry[kind].get("__cdist_dry_run").map(String::as_str);
        let runs = !kind.starts_with("code-");
        assert_eq!(says, runs.then_some("1"), "{kind}");
    }
}
