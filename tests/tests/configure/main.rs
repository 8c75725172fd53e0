//! vcl-configure against cdist 7.0.0: the same configuration directories, the same manifests, two copies of one Debian. What
//! either has noted of its objects is compared, and what the two Debians are afterwards. As root; `VCL_FULL=1` has each type alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod debian;
mod manifests;
mod ssh;
mod stand_ins;
mod stock;

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_configure::conf::Conf;
use vcl_configure::environment::Host;
use vcl_configure::run::{Report, Wish, run};
use vcl_configure::target::Transport;
use vcl_tests::guest::{self, Guest, Kind};
use vcl_tests::world::World;

const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");
/// What people call, and what types' commands are links to.
fn vclctl() -> Utf8PathBuf {
    Utf8Path::new(VCL_WORLD).with_file_name("vclctl")
}
const BASE: &str = "/var/lib/cdist";
/// Called as ssh and scp are, with a root directory as the host.
const EXEC: &str =
    "#!/bin/sh\nwhile [ \"$1\" = -l ]; do shift 2; done; shift\nexec chroot \"$TARGET\" /bin/sh -c \"$*\"\n";
/// As scp has it, a new file has its source's mode; cdist's own mask is not the target's.
const COPY: &str = "#!/bin/sh\numask 022\nfor to; do :; done\nset -f\nfor from; do\n[ \"$from\" = \"$to\" ] || cp -RL \"$from\" \"$TARGET${to#*:}\" || exit\ndone\n";

/// What has the time in it that it was written at.
const TIMES: [&str; 3] = ["./var/log/", "./var/cache/", "./tmp/"];

const TABLE: &str = "# Types of cdist's, and what vcl-configure makes of them\n\n\
    Written by a test that has cdist 7.0.0 and vcl-configure do each manifest twice, on a copy of one Debian each. The same: what\n\
    either has noted of its objects (parameters, requirements, what explorers and scripts said, generated code, messages), every\n\
    file that was changed with its mode, owner and content, and that the second run changes nothing.\n\n\
    | case | manifest | result |\n|---|---|---|\n";

/// One Debian, and as many copies as are wanted.
struct Site {
    directory: Utf8PathBuf,
    cdist: Utf8PathBuf,
}

/// A copy of the Debian, and the layer that has what was changed.
struct Target {
    root: Utf8PathBuf,
    changed: Utf8PathBuf,
}

impl Site {
    fn new() -> Result<Self> {
        let cache = guest::cache_directory();
        Self::of(|debian| Guest::unpack(Kind::Fast, &cache, debian))
    }
    fn of(unpack: impl FnOnce(&Utf8Path) -> Result<()>) -> Result<Self> {
        // In the own /run of the world.
        let directory = Utf8PathBuf::from("/run/site");
        fs::create_dir(&directory)?;
        done(Command::new("mount").args(["-t", "tmpfs", "tmpfs", directory.as_str()]))?;
        let debian = directory.join("debian");
        fs::create_dir(&debian)?;
        unpack(&debian)?;
        let cdist = guest::cache_directory().with_file_name("people").join("cdist-venv");
        ensure!(
            cdist.join("bin/cdist").is_file(),
            "there is no {cdist}/bin/cdist: .ci/people-tools {}",
            cdist.parent().unwrap()
        );
        for (name, text) in [("exec", EXEC), ("copy", COPY)] {
            fs::write(directory.join(name), text)?;
            fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { directory, cdist })
    }
    /// cdist's own configuration.
    fn conf(&self) -> Result<Utf8PathBuf> {
        let mut libraries = self.cdist.join("lib").read_dir_utf8()?;
        let python = libraries.next().context("a venv has a library")??;
        Ok(python.path().join("site-packages/cdist/conf"))
    }
    fn target(&self, name: &str) -> Result<Target> {
        let at = self.directory.join(name);
        let (root, changed, work) = (at.join("root"), at.join("changed"), at.join("work"));
        for directory in [&root, &changed, &work] {
            fs::create_dir_all(directory)?;
        }
        let layers = format!("lowerdir={}/debian,upperdir={changed},workdir={work}", self.directory);
        done(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers, root.as_str()]))?;
        done(Command::new("mount").args(["--bind", "/dev"]).arg(root.join("dev")))?;
        done(Command::new("mount").args(["-t", "proc", "proc"]).arg(root.join("proc")))?;
        Ok(Target { root, changed })
    }
    /// cdist's run: how it ended, and the tree that it kept.
    fn theirs(&self, target: &Target, manifest: &Utf8Path) -> Result<(bool, Utf8PathBuf, String)> {
        let home = self.directory.join("home");
        let _ = fs::remove_dir_all(&home);
        fs::create_dir(&home)?;
        let output = Command::new(self.cdist.join("bin/cdist"))
            .args(["config", "-i", manifest.as_str(), "-C", "kept"])
            .args(["--remote-exec", self.directory.join("exec").as_str()])
            .args(["--remote-copy", self.directory.join("copy").as_str(), "localhost"])
            .env("HOME", &home)
            .env("TARGET", &target.root)
            .output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Ok((output.status.success(), home.join(".cdist/cache/kept"), said))
    }
    /// Ours, the same.
    async fn ours(
        &self,
        target: &Target,
        manifest: &Utf8Path,
    ) -> Result<(Result<Report, String>, Utf8PathBuf)> {
        let directory = self.directory.join("run");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory)?;
        let name = "localhost".to_owned();
        let wish = Wish {
            host: Host { name: name.clone(), hostname: name.clone(), fqdn: name, tags: Vec::new() },
            transport: Transport::Chroot(target.root.clone()),
            conf: Conf::layer(&[self.conf()?])?,
            manifest: manifest.to_owned(),
            directory: directory.clone(),
            base: BASE.into(),
            command: vclctl(),
            jobs: 2,
            dry_run: false,
            install: false,
            limit: Duration::from_secs(120),
            within: None,
            memo: None,
            secrets: Default::default(),
            patience: Duration::from_secs(30),
            stop: CancellationToken::new(),
            progress: None,
        };
        Ok((run(wish).await.map_err(|error| error.chain()), directory.join("data")))
    }
    /// Has both do it twice, and says in what they differ.
    async fn compare(&self, name: &str, text: &str) -> Result<Vec<String>> {
        let manifest = self.directory.join("manifest");
        fs::write(&manifest, text)?;
        let (a, b) = (self.target(&format!("{name}-theirs"))?, self.target(&format!("{name}-ours"))?);
        let mut differ = Vec::new();
        // They are on one kernel, and each has its own idea of what that is called.
        let mut called = [hostname()?, hostname()?];
        for round in 1..=2 {
            name_host(&called[0])?;
            let (ended, theirs, said) = self.theirs(&a, &manifest)?;
            let is = std::mem::replace(&mut called[0], hostname()?);
            name_host(if round == 1 { &is } else { &called[1] })?;
            let (report, ours) = self.ours(&b, &manifest).await?;
            called[1] = hostname()?;
            let report = match (ended, report) {
                (true, Ok(report)) => report,
                (_, report) => {
                    differ.push(format!(
                        "{name}, run {round}: cdist ended well: {ended}, ours: {report:?}\n{said}"
                    ));
                    return Ok(differ);
                }
            };
            if round == 2 && report.objects.iter().any(|done| done.changed) {
                differ.push(format!("{name}: the second run changes something: {:?}", report.objects));
            }
            let (theirs, ours) = (noted(&theirs, &a)?, noted(&ours, &b)?);
            ensure!(theirs.len() > 15, "cdist has noted {} files", theirs.len());
            for file in theirs.keys().chain(ours.keys().filter(|file| !theirs.contains_key(*file))) {
                let [theirs, ours] =
                    [&theirs, &ours].map(|all| all.get(file).map(|t| String::from_utf8_lossy(t)));
                if theirs != ours {
                    differ.push(format!("{name}, run {round}: {file}\n  cdist {theirs:?}\n  ours  {ours:?}"));
                }
            }
        }
        let (theirs, ours) = (changes(&a)?, changes(&b)?);
        ensure!(!theirs.is_empty(), "{name} changes nothing");
        for (path, what) in &theirs {
            if ours.get(path) != Some(what) {
                differ.push(format!("{name}: {path}\n  cdist {what}\n  ours  {:?}", ours.get(path)));
            }
        }
        differ.extend(
            ours.keys()
                .filter(|path| !theirs.contains_key(*path))
                .map(|path| format!("{name}: ours has {path}")),
        );
        for target in [&a, &b] {
            for part in ["proc", "dev", ""] {
                done(Command::new("umount").arg(target.root.join(part)))?;
            }
        }
        Ok(differ)
    }
}

fn hostname() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}
fn name_host(name: &str) -> Result<()> {
    Ok(fs::write("/proc/sys/kernel/hostname", name)?)
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What a run has noted, but for what is one run's: paths, process ids, the marker. What is a list without an order is sorted;
/// a file that is there and empty is none, since cdist makes those that it may need.
fn noted(data: &Utf8Path, target: &Target) -> Result<BTreeMap<String, Vec<u8>>> {
    let marker = fs::read_to_string(data.join("object_marker"))?.trim().to_owned();
    let words = [
        (regex::escape(&marker), "MARKER"),
        (regex::escape(target.root.as_str()), "TARGET"),
        (r"/[\w./-]+/data/(conf|object)".into(), "DATA/$1"),
        (r"/[^\s']+/(vcl-remote-copy|site/copy)\b".into(), "COPY"),
        (r"/[^\s']+/(vcl-remote-exec|site/exec)\b".into(), "EXEC"),
        (r"(cdist\.MARKER\.)\d+".into(), "${1}PID"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+".into(), "TIME"),
    ];
    let words = words.map(|(what, to)| (regex::bytes::Regex::new(&what).unwrap(), to));
    let mut all = BTreeMap::new();
    for part in ["explorer", "object", "messages", "typeorder"] {
        for file in files(&data.join(part))? {
            let name = file.strip_prefix(data)?.as_str().replace(&marker, "MARKER");
            // What rsync says of a peer whose script has ended is said by whoever is quicker.
            if name.ends_with(".lock") || (name.contains("/__rsync/") && name.ends_with("/stderr/code-local"))
            {
                continue;
            }
            let mut text = fs::read(&file)?;
            for (what, to) in &words {
                text = what.replace_all(&text, to.as_bytes()).into_owned();
            }
            let lists = ["require", "autorequire", "children", "parents", "typeorder", "messages"];
            if lists.contains(&file.file_name().unwrap_or_default()) {
                let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
                lines.sort_unstable();
                text = lines.concat();
            }
            if !text.is_empty() {
                all.insert(name, text);
            }
        }
    }
    Ok(all)
}

fn files(at: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    if !at.is_dir() {
        return Ok(vec![at.to_owned()]);
    }
    let mut all = Vec::new();
    for entry in at.read_dir_utf8()? {
        all.extend(files(entry?.path())?);
    }
    Ok(all)
}

/// What was changed of the Debian: each path with its kind, mode, owner and content, but for what either keeps there for itself.
fn changes(target: &Target) -> Result<BTreeMap<String, String>> {
    let listed = Command::new("find")
        .args([".", "-printf", "%p\\t%y %m %U %G %l\\n"])
        .current_dir(&target.changed)
        .output()?;
    let mut all = BTreeMap::new();
    for line in String::from_utf8(listed.stdout)?.lines() {
        let (path, what) = line.split_once('\t').context("find says path and what")?;
        if path.starts_with(&format!(".{BASE}")) || TIMES.iter().any(|part| path.starts_with(part)) {
            continue;
        }
        // A key is another each time.
        let content = if path.starts_with("./etc/ssl/") {
            let (kind, _) = what.split_once(' ').unwrap_or_default();
            ensure!(kind != "f" || fs::metadata(target.changed.join(path))?.len() > 500, "{path} is no key");
            Vec::new()
        } else if what.starts_with('f') {
            fs::read(target.changed.join(path))?
        } else {
            Vec::new()
        };
        let text = String::from_utf8_lossy(&content);
        // crontab notes in its file when that was.
        let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("# (- installed on "));
        all.insert(path.to_owned(), format!("{what} {}", lines.collect::<String>()));
    }
    Ok(all)
}

fn block_on(test: &str, of: impl AsyncFnOnce(Site) -> Result<()>) -> Result<()> {
    let Some(_world) = World::around_test(VCL_WORLD, test)? else { return Ok(()) };
    // Some types name the machine, and a root directory has no name of its own.
    #[expect(
        deprecated,
        reason = "a thread with a name of its own for the machine is sound; it is sharing files that is not"
    )]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWUTS)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(of(Site::new()?))
}

#[test]
fn objects_of_many_types_are_what_cdist_makes_of_them() -> Result<()> {
    block_on("objects_of_many_types_are_what_cdist_makes_of_them", async |site| {
        let n = if full() { 27 } else { 2 };
        let differ = site.compare("mixed", &manifests::mixed(n)).await?;
        ensure!(differ.is_empty(), "{}", differ.join("\n"));
        Ok(())
    })
}

#[test]
fn each_type_is_what_cdist_makes_of_it() -> Result<()> {
    if !full() {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return Ok(());
    }
    let stock = debian::tree(&guest::cache_directory())?;
    block_on("each_type_is_what_cdist_makes_of_it", async |small| {
        let mut differ = Vec::new();
        let mut table = String::from(TABLE);
        done(Command::new("umount").arg(&small.directory))?;
        fs::remove_dir(&small.directory)?;
        let unpack =
            |debian: &Utf8Path| done(Command::new("tar").args(["-xpf", stock.as_str(), "-C"]).arg(debian));
        let large = Site::of(unpack)?;
        for (name, manifest) in manifests::ONE_TYPE.iter().chain(manifests::MORE) {
            let found = large.compare(name, manifest).await?;
            let result = if found.is_empty() { "the same" } else { "differs" };
            println!("{name}: {result}");
            let shown = manifest.trim_end().replace('\n', "<br>").replace('|', "\\|");
            table.push_str(&format!("| {name} | `{shown}` | {result} |\n"));
            differ.extend(found);
        }
        ensure!(differ.is_empty(), "{}", differ.join("\n"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configure-types.md"), table)?;
        }
        Ok(())
    })
}

/// Each of cdist's own types: its manifest and what generates its code run, and those of all that it defines. Those that share a
/// claim share a run, but for what cannot run with cdist either.
#[test]
fn every_type_of_cdist_runs_dry() -> Result<()> {
    block_on("every_type_of_cdist_runs_dry", async |site| {
        stand_ins::stand_in(site.directory.join("debian"))?;
        let conf = site.conf()?;
        let known: Vec<String> = conf
            .join("type")
            .read_dir_utf8()?
            .map(|entry| Ok(entry?.file_name().to_owned()))
            .collect::<Result<_>>()?;
        let called: Vec<&str> = stock::EVERY_TYPE.iter().map(|row| row.0).collect();
        for name in known.iter().filter(|name| name.starts_with("__")) {
            ensure!(called.contains(&name.as_str()), "nothing calls {name}");
        }
        let (target, claimed) = (site.target("stock")?, site.directory.join("claimed"));
        let mut runs: Vec<(stock::Claim, bool, String, Vec<&str>, &str)> = Vec::new();
        for (name, manifest, claim, refusal) in stock::EVERY_TYPE {
            let install = conf.join("type").join(name).join("install").exists();
            let same = runs.iter_mut().find(|run| run.0 == *claim && run.1 == install && run.4.is_empty());
            match same.filter(|_| refusal.is_empty()) {
                Some((.., text, names, _)) => {
                    text.push_str(manifest);
                    names.push(name);
                }
                None => runs.push((claim, install, (*manifest).to_owned(), vec![name], refusal)),
            }
        }
        for (claim, install, text, names, refusal) in runs {
            let _ = fs::remove_dir_all(&claimed);
            stand_ins::claim(claim, &claimed)?;
            let manifest = site.directory.join("site.manifest");
            fs::write(&manifest, text)?;
            let output = Command::new(vclctl())
                .args([
                    "configure",
                    "--chroot",
                    target.root.as_str(),
                    "-c",
                    conf.as_str(),
                    "-c",
                    claimed.as_str(),
                ])
                .args(["-i", manifest.as_str(), "--dry-run", "--json", "-j", "2"])
                .args(install.then_some("--install"))
                .output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if !refusal.is_empty() {
                ensure!(!output.status.success() && said.contains(refusal), "{names:?}: {said}");
                continue;
            }
            ensure!(output.status.success(), "{names:?}: {said}");
            let view: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            let objects = view["objects"].as_array().context("objects")?;
            let done: Vec<&str> = objects.iter().filter_map(|object| object["object"].as_str()).collect();
            for name in names {
                ensure!(
                    done.iter().any(|object| object.starts_with(&format!("{name}/"))),
                    "{name} is not among {done:?}"
                );
            }
        }
        Ok(())
    })
}

/// The manual page's own manifest, in a dry run: there is no network for its package.
#[test]
fn the_ten_lines_of_the_manual_hold() -> Result<()> {
    block_on("the_ten_lines_of_the_manual_hold", async |site| {
        let page = include_str!("../../../docs/configure.md");
        let (_, rest) = page.split_once("<<'X'\n").context("the page has a manifest")?;
        let (text, _) = rest.split_once("\nX\n").context("the manifest has an end")?;
        let (manifest, target) = (site.directory.join("site.manifest"), site.target("manual")?);
        fs::write(&manifest, text)?;
        let output = Command::new(vclctl())
            .args(["configure", "--chroot", target.root.as_str(), "-c", site.conf()?.as_str()])
            .args(["-i", manifest.as_str(), "--dry-run", "--json"])
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let view: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let objects = view["objects"].as_array().context("objects")?;
        let names: Vec<&str> = objects.iter().filter_map(|object| object["object"].as_str()).collect();
        for name in ["__file/etc/motd", "__directory/srv/lab", "__file/srv/lab/rules", "__package/tmux"] {
            ensure!(names.contains(&name), "{names:?}");
        }
        Ok(())
    })
}

fn full() -> bool {
    std::env::var_os("VCL_FULL").is_some_and(|full| !full.is_empty() && full != "0")
}
