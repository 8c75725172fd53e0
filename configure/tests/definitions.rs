//! What commands of types define, call by call; the effects and exit codes are those of cdist 7.0.0, but where it says otherwise.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use camino::{Utf8Path, Utf8PathBuf};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use vcl_configure::definition::Type;
use vcl_configure::emulator::{Call, Emulator, NEEDED};
use vcl_configure::tree::{List, State, Tree, Types};
use vcl_configure::{Error, ErrorKind, order::Graph};

const MARKER: &str = ".cdist-abcdefgh";

struct Scene {
    kept: tempfile::TempDir,
    emulator: Emulator,
}

impl Scene {
    /// A site with a type of each sort.
    fn new() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let types = Utf8Path::from_path(kept.path()).unwrap().join("type");
        let write = |of: &str, file: &str, text: &str| {
            let file = types.join(of).join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("__all", "parameter/required", "text\n\n  target \n");
        write("__all", "parameter/required_multiple", "each\n");
        write("__all", "parameter/optional", "mode\nmodel\nempty\n");
        write("__all", "parameter/optional_multiple", "also\nlater");
        write("__all", "parameter/boolean", "force\n");
        write("__all", "parameter/default/mode", "  0644\n\n");
        write("__all", "parameter/default/empty", "");
        write("__all", "parameter/default/later", "one\ntwo\n");
        write("__all", "parameter/default/text", "a required one has none");
        write("__all", "parameter/deprecated/model", "use --mode\n");
        write("__one", "singleton", "");
        write("__one", "parameter/optional", "value\n");
        write("__o", "parameter/optional", "value\n");
        write("__o", "parameter/boolean", "flag\n");
        let mut all = Types::new();
        for name in ["__all", "__one", "__o"] {
            all.insert(name.into(), Arc::new(Type::read(name, &types.join(name)).unwrap()));
        }
        let global = Utf8Path::from_path(kept.path()).unwrap().join("data");
        fs::create_dir(&global).unwrap();
        Self { emulator: Emulator::new(Tree::new(global, MARKER.into(), Arc::new(all))), kept }
    }
    fn tree(&self) -> &Tree {
        self.emulator.tree()
    }
    fn with(
        &self,
        name: &str,
        arguments: &[&[u8]],
        variables: &[(&str, &str)],
    ) -> Result<Utf8PathBuf, Error> {
        let needed = NEEDED.map(|name| (name.to_owned(), format!("of {name}")));
        let mut variables: BTreeMap<String, String> =
            needed.into_iter().chain(variables.iter().map(|(k, v)| ((*k).into(), (*v).into()))).collect();
        variables.insert("__cdist_manifest".into(), "/m/init".into());
        let call =
            Call { name: name.into(), arguments: arguments.iter().map(|a| a.to_vec()).collect(), variables };
        let (definition, stdin) = self.emulator.define(&call)?;
        self.emulator.connect(&definition)?;
        Ok(stdin)
    }
    fn call(&self, line: &[&str]) -> Result<Utf8PathBuf, Error> {
        self.in_(&[], line)
    }
    fn in_(&self, variables: &[(&str, &str)], line: &[&str]) -> Result<Utf8PathBuf, Error> {
        let arguments: Vec<&[u8]> = line[1..].iter().map(|word| word.as_bytes()).collect();
        self.with(line[0], &arguments, variables)
    }
    fn parameters(&self, object: &str) -> BTreeMap<String, String> {
        let all = self.tree().parameters(&self.tree().named(object).unwrap()).unwrap();
        all.into_iter().map(|(name, text)| (name, String::from_utf8(text).unwrap())).collect()
    }
    fn list(&self, object: &str, list: List) -> Vec<String> {
        self.tree().list(&self.tree().named(object).unwrap(), list).unwrap()
    }
    /// The objects, when the manifests that define them have ended.
    fn graph(&self) -> Graph {
        self.emulator.manifest_ended(None).unwrap();
        for parent in ["__o/p", "__o/b"] {
            self.emulator.manifest_ended(Some(&self.tree().named(parent).unwrap())).unwrap();
        }
        Graph::read(self.tree()).unwrap()
    }
    /// What a call that is refused is refused with; nothing of it is left.
    fn refused(&self, line: &[&str]) -> (u8, String) {
        let before = self.files();
        let error = self.call(line).unwrap_err();
        assert_eq!(self.files(), before, "{line:?} is refused and has left something");
        (error.exit_code(), error.context)
    }
    fn files(&self) -> Vec<Utf8PathBuf> {
        fn below(directory: &Utf8Path, all: &mut Vec<Utf8PathBuf>) {
            for entry in directory.read_dir_utf8().unwrap().flatten() {
                all.push(entry.path().to_owned());
                if entry.file_type().unwrap().is_dir() {
                    below(entry.path(), all);
                }
            }
        }
        let mut all = Vec::new();
        below(Utf8Path::from_path(self.kept.path()).unwrap(), &mut all);
        all.sort();
        all
    }
}

#[test]
fn parameters_are_files_as_cdist_writes_them() {
    let scene = Scene::new();
    scene
        .call(&[
            "__all",
            "a",
            "--text",
            "two\nlines",
            "--target",
            "",
            "--each",
            "x",
            "--each",
            "y z",
            "--force",
        ])
        .unwrap();
    let expected = [
        ("each", "x\ny z\n"),
        ("empty", ""),
        ("force", ""),
        ("later", "one\ntwo\n"),
        ("mode", "0644\n"),
        ("target", ""),
        ("text", "two\nlines\n"),
    ];
    assert_eq!(scene.parameters("__all/a"), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    // What is given takes the place of a default, also where there may be several.
    let words =
        ["__all", "b", "--text", "a\n", "--target", "t", "--each", "x", "--later", "three", "--mode=1=2"];
    scene.call(&words).unwrap();
    let b = scene.parameters("__all/b");
    assert_eq!((b["later"].as_str(), b["mode"].as_str(), b["text"].as_str()), ("three\n", "1=2\n", "a\n"));
    assert!(!b.contains_key("force") && !b.contains_key("also"), "{b:?}");
}

#[test]
fn arguments_are_taken_as_argparse_takes_them() {
    let good: [(&[&str], &str, &str); 11] = [
        (&["x", "--value", "v"], "__o/x", "v\n"),
        (&["--value", "v", "x"], "__o/x", "v\n"),
        (&["--va", "v", "x"], "__o/x", "v\n"),
        (&["--value=v", "--", "x"], "__o/x", "v\n"),
        (&["x", "--value", "-"], "__o/x", "-\n"),
        (&["x", "--value", "-5"], "__o/x", "-5\n"),
        (&["x", "--value", "-.5"], "__o/x", "-.5\n"),
        (&["x", "--value", "-x y"], "__o/x", "-x y\n"),
        (&["x", "--value=-x"], "__o/x", "-x\n"),
        (&["--value", "1", "x", "--value", "2", "--fl"], "__o/x", "2\n"),
        (&["--value", "v", "--", "-x"], "__o/-x", "v\n"),
    ];
    for (words, object, value) in good {
        let scene = Scene::new();
        let line: Vec<&str> = ["__o"].iter().chain(words).copied().collect();
        scene.call(&line).unwrap();
        assert_eq!(scene.parameters(object)["value"], value, "{words:?}");
    }
    let bad: [(&[&str], &str); 12] = [
        (&["__o"], "the following arguments are required: object_id"),
        (&["__o", "x", "y"], "unrecognized arguments: y"),
        (&["__o", "x", "--nosuch"], "unrecognized arguments: --nosuch"),
        (&["__o", "x", "-v"], "unrecognized arguments: -v"),
        (&["__o", "x", "--value"], "argument --value: expected one argument"),
        (&["__o", "x", "--value", "-x"], "argument --value: expected one argument"),
        (&["__o", "x", "--value", "--flag"], "argument --value: expected one argument"),
        (&["__o", "--value", "--", "x"], "argument --value: expected one argument"),
        (&["__o", "x", "--flag=1"], "argument --flag: ignored explicit argument '1'"),
        (&["__all", "x", "--mo", "1"], "ambiguous option: --mo could match --mode, --model"),
        (&["__all", "x", "--each", "1"], "the following arguments are required: --text, --target"),
        (&["__one", "x"], "unrecognized arguments: x"),
    ];
    let scene = Scene::new();
    for (line, why) in bad {
        let (code, said) = scene.refused(line);
        assert!(
            code == 2 && said.contains(why) && said.starts_with(&format!("usage: {}", line[0])),
            "{line:?}: {said}"
        );
    }
    // An option of which another is the beginning is meant by its whole name.
    scene
        .call(&["__all", "x", "--mode", "1", "--model", "2", "--te", "t", "--ta", "t", "--each", "e"])
        .unwrap();
    assert_eq!(scene.parameters("__all/x")["model"], "2\n");
}

#[test]
fn ids_are_ids() {
    let scene = Scene::new();
    for (id, name) in
        [("/etc/x", "__o/etc/x"), ("etc/x/", "__o/etc/x"), ("a b$*'\"", "__o/a b$*'\""), ("...", "__o/...")]
    {
        scene.call(&["__o", id]).unwrap();
        assert_eq!(
            scene.list(name, List::Source),
            ["/m/init"].repeat(if id == "etc/x/" { 2 } else { 1 }),
            "{id}"
        );
    }
    scene.call(&["__one", "--value", "1"]).unwrap();
    assert!(scene.tree().global().join("object/__one").join(MARKER).join("parameter/value").is_file());
    for (id, why) in [
        ("a//b", "two slashes"),
        (".", "names nothing"),
        ("/", "names nothing"),
        ("", "requires an object id"),
        ("a/.cdist-abcdefgh/b", "marker"),
        ("..", "out of the tree"),
        ("../../x", "out of the tree"),
        ("/../x", "out of the tree"),
        ("a/..", "out of the tree"),
        ("./", "names nothing"),
        ("a/./b", "two ids"),
        ("a\nb", "newline"),
    ] {
        let (code, said) = scene.refused(&["__o", id]);
        assert!(code == 1 && said.contains(why), "`{id}`: {said}");
    }
    let error = scene.with("__o", &[b"\xff"], &[]).unwrap_err();
    assert!(error.kind == ErrorKind::Invalid && error.context.contains("UTF-8"), "{error}");
}

#[test]
fn what_is_defined_again_is_the_same_or_refused() {
    let scene = Scene::new();
    scene.call(&["__o", "x", "--value", "a\nb"]).unwrap();
    scene.call(&["__o", "/x", "--value", "a\nb"]).unwrap();
    assert_eq!(scene.list("__o/x", List::Source), ["/m/init", "/m/init"]);
    let (code, said) = scene.refused(&["__o", "x", "--value", "a", "--flag"]);
    assert_eq!(code, 1);
    assert!(said.contains("--flag was not given and is ``; --value was `a\\nb` and is `a`"), "{said}");
    // With CDIST_OVERRIDE the new ones take the place of all.
    scene.in_(&[("CDIST_OVERRIDE", "")], &["__o", "x", "--flag"]).unwrap();
    assert_eq!(scene.parameters("__o/x"), [("flag".to_owned(), String::new())].into());
    // The order of several counts.
    let line = |a, b| ["__all", "m", "--text", "t", "--target", "t", "--each", a, "--each", b];
    scene.call(&line("1", "2")).unwrap();
    scene.refused(&line("2", "1"));
    // Values are any bytes.
    scene.with("__o", &[b"bytes", b"--value", b"\xff\xfe\x01"], &[]).unwrap();
    let bytes = scene.tree().parameters(&scene.tree().named("__o/bytes").unwrap()).unwrap();
    assert_eq!(bytes["value"], b"\xff\xfe\x01\n");
}

/// As manifests that run beside each other do it.
#[test]
fn what_is_defined_by_many_at_the_same_time_is_defined_once() {
    let scene = Scene::new();
    for n in 0..50 {
        let id = format!("x{n}");
        let refused = std::thread::scope(|threads| {
            let calls: Vec<_> = ["a", "a", "b", "b"]
                .map(|value| {
                    threads.spawn({
                        let (scene, id) = (&scene, &id);
                        move || scene.call(&["__o", id, "--value", value]).is_err()
                    })
                })
                .into();
            calls.into_iter().map(|call| call.join().unwrap()).filter(|refused| *refused).count()
        });
        // Whose value it has is who came first; both of the others are told so.
        assert_eq!(refused, 2, "{id}");
        assert_eq!(scene.list(&format!("__o/{id}"), List::Source).len(), 2);
    }
    scene.emulator.manifest_ended(None).unwrap();
    assert_eq!(scene.tree().objects().unwrap().len(), 50);
}

#[test]
fn requirements_are_noted_as_names_that_can_be() {
    let scene = Scene::new();
    scene.in_(&[("require", "__o//b\t__one \n __one/  __nosuch")], &["__o", "a"]).unwrap_err();
    assert!(!scene.tree().exists(&scene.tree().named("__o/a").unwrap()));
    scene.in_(&[("require", "__o//b/\t__one \n __one/")], &["__o", "a"]).unwrap();
    assert_eq!(scene.list("__o/a", List::Require), ["__o/b", "__one/", "__one/"]);
    for (require, why) in [("__o", "object id"), ("__nosuch/x", "no type __nosuch"), ("__one/x", "too much")]
    {
        let error = scene.in_(&[("require", require)], &["__o", "b"]).unwrap_err();
        assert!(error.exit_code() == 1 && error.chain().contains(why), "{require}: {error}");
    }
    // A manifest's object waits for what it defines, but for what waits for it.
    scene.in_(&[("__object_name", "__o/a")], &["__o", "child"]).unwrap();
    scene.in_(&[("__object_name", "__o/a"), ("require", "__o/a")], &["__o", "after"]).unwrap();
    assert_eq!(scene.list("__o/a", List::Autorequire), ["__o/child"]);
    assert_eq!(scene.list("__o/a", List::Children), ["__o/child", "__o/after"]);
    assert_eq!(scene.list("__o/child", List::Parents), ["__o/a"]);
    assert_eq!(scene.list("__o/a", List::Typeorder), ["__o/child", "__o/after"]);
    let missing = Call { name: "__o".into(), arguments: vec![b"x".to_vec()], variables: BTreeMap::new() };
    let error = scene.emulator.define(&missing).unwrap_err();
    assert!(error.exit_code() == 1 && error.context.contains("__global"), "{error}");
}

#[test]
fn one_follows_the_other_as_long_as_that_is_wanted() {
    let scene = Scene::new();
    let on = [("CDIST_ORDER_DEPENDENCY", "")];
    let require = |name: &str| scene.list(name, List::Require);
    scene.in_(&on, &["__o", "a"]).unwrap();
    scene.in_(&on, &["__o", "b"]).unwrap();
    scene.in_(&[on[0], ("require", "__o/a")], &["__o", "c"]).unwrap();
    scene.in_(&[on[0], ("CDIST_OVERRIDE", "1")], &["__o", "b", "--flag"]).unwrap();
    assert_eq!((require("__o/a"), require("__o/b")), (vec![], vec!["__o/a".to_owned()]));
    assert_eq!(require("__o/c"), ["__o/a", "__o/b"]);
    // A manifest in between has an order of its own.
    scene.in_(&[on[0], ("__object_name", "__o/a")], &["__o", "d"]).unwrap();
    scene.in_(&[on[0], ("__object_name", "__o/a")], &["__o", "e"]).unwrap();
    assert_eq!((require("__o/d"), require("__o/e")), (vec![], vec!["__o/d".to_owned()]));
    scene.call(&["__o", "f"]).unwrap();
    scene.in_(&on, &["__o", "g"]).unwrap();
    scene.emulator.manifest_ended(None).unwrap();
    scene.in_(&on, &["__o", "h"]).unwrap();
    assert_eq!([require("__o/f"), require("__o/g"), require("__o/h")].concat(), Vec::<String>::new());
    // The same object twice does not wait for itself.
    scene.in_(&on, &["__o", "h"]).unwrap();
    assert_eq!(require("__o/h"), Vec::<String>::new());
}

#[test]
fn objects_are_done_in_the_order_of_their_definition_as_far_as_they_can() {
    let scene = Scene::new();
    scene.in_(&[("require", "__o/b")], &["__o", "z"]).unwrap();
    scene.call(&["__o", "b"]).unwrap();
    scene.call(&["__o", "a"]).unwrap();
    let tree = scene.tree();
    let named = |name: &str| tree.named(name).unwrap();
    let graph = || scene.graph();
    let names = |objects: Vec<&vcl_configure::name::ObjectName>| {
        objects.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(graph().preparable()), ["__o/b", "__o/a"]);
    tree.set_state(&named("__o/b"), State::Prepared).unwrap();
    assert_eq!(names(graph().runnable()), ["__o/b"]);
    scene.in_(&[("__object_name", "__o/b")], &["__o", "c"]).unwrap();
    assert_eq!(names(graph().runnable()), Vec::<String>::new());
    assert_eq!(names(graph().preparable()), ["__o/a", "__o/c"]);
    for name in ["__o/a", "__o/b", "__o/c", "__o/z"] {
        assert!(!graph().is_done_but(|_| false));
        tree.set_state(&named(name), State::Done).unwrap();
    }
    assert!(graph().is_done_but(|_| false) && graph().check().is_ok());
}

#[test]
fn rings_and_what_nobody_defines_are_named() {
    let scene = Scene::new();
    for (object, require) in [("x", "__o/a"), ("a", "__o/b"), ("b", "__o/c __o/nothing"), ("c", "__o/a")] {
        scene.in_(&[("require", require)], &["__o", object]).unwrap();
    }
    let error = scene.graph().check().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unresolvable);
    let ring = "objects wait for each other: __o/a requires __o/b requires __o/c requires __o/a";
    assert_eq!(error.context, ring);
    let stuck = scene.graph().stuck().context;
    assert!(stuck.contains("__o/b waits for __o/c and __o/nothing, which nothing defines"), "{stuck}");

    let scene = Scene::new();
    scene.call(&["__o", "p"]).unwrap();
    scene.in_(&[("__object_name", "__o/p"), ("require", "__o/q")], &["__o", "child"]).unwrap();
    scene.in_(&[("require", "__o/p")], &["__o", "q"]).unwrap();
    let error = scene.graph().check().unwrap_err();
    assert!(
        error.context.contains("__o/p defines, and so waits for, __o/child requires __o/q requires __o/p"),
        "{error}"
    );
}

#[test]
fn a_chain_of_ten_thousand_is_no_ring() {
    let mut graph = Graph::default();
    let scene = Scene::new();
    let named = |n: usize| scene.tree().named(&format!("__o/{n}")).unwrap();
    for n in 0..10_000 {
        let require = if n == 9_999 { Vec::new() } else { vec![named(n + 1)] };
        graph.push(
            named(n),
            vcl_configure::order::Needs { state: State::Defined, require, autorequire: Vec::new() },
        );
    }
    graph.check().unwrap();
    assert_eq!(graph.preparable(), [&named(9_999)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever a command is called with, it defines something below the tree of objects, or is refused and leaves nothing.
    #[test]
    fn nothing_leads_out_of_the_tree(words in prop::collection::vec(prop::collection::vec(prop::sample::select(
        b"-=/.a \n$*'\"\xffvalue".to_vec()), 0..9), 0..4)) {
        let scene = Scene::new();
        let before = scene.files();
        let arguments: Vec<&[u8]> = words.iter().map(Vec::as_slice).filter(|word| !word.contains(&0)).collect();
        match scene.with("__o", &arguments, &[]) {
            Ok(stdin) => {
                let objects = scene.tree().global().join("object/__o");
                prop_assert!(stdin.starts_with(&objects) && !stdin.as_str().contains("/../"));
                for file in scene.files().iter().filter(|file| !before.contains(file)) {
                    let inside = file.starts_with(scene.tree().global().join("object")) || file.file_name() == Some("typeorder");
                    prop_assert!(inside, "{file}");
                }
                scene.emulator.manifest_ended(None).unwrap();
                prop_assert_eq!(scene.tree().objects().unwrap().len(), 1);
            }
            Err(error) => {
                prop_assert!(matches!(error.kind, ErrorKind::Usage | ErrorKind::Invalid), "{error}");
                prop_assert_eq!(scene.files(), before);
            }
        }
    }
}
