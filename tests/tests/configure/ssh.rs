//! `vclctl configure` over ssh, as people call it, and what becomes of a run whose connection breaks or that is killed.

use crate::{block_on, vclctl};
use anyhow::{Context as _, Result, ensure};
use camino::Utf8Path;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

/// An sshd of this world's own, which lets root in by a key.
struct Sshd {
    child: std::process::Child,
    /// What `vclctl --ssh` is told.
    options: String,
}

impl Sshd {
    fn start(directory: &Utf8Path) -> Result<Self> {
        vcl_tests::pc::keygen(&directory.join("host"))?;
        vcl_tests::pc::keygen(&directory.join("id"))?;
        fs::create_dir_all("/run/sshd")?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nListenAddress 127.0.0.2\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/id.pub\n\
             StrictModes no\nPidFile none\nUsePAM no\nPermitRootLogin yes\n"
        );
        fs::write(directory.join("config"), text)?;
        let child =
            Command::new("/usr/sbin/sshd").args(["-D", "-f", directory.join("config").as_str()]).spawn()?;
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(std::time::Instant::now() < until, "sshd does not listen");
            std::thread::yield_now();
        }
        let options = format!(
            "-F none -p {port} -i {directory}/id -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        );
        Ok(Self { child, options })
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A newcomer's command, against a real sshd: files, a directory, and what goes through the commands that types use.
#[test]
fn the_command_line_configures_over_ssh() -> Result<()> {
    block_on("ssh::the_command_line_configures_over_ssh", async |site| {
        let directory = site.directory.join("ssh");
        fs::create_dir(&directory)?;
        let sshd = Sshd::start(&directory)?;
        let out = site.directory.join("out");
        fs::create_dir(&out)?;
        let manifest = format!(
            "for n in 1 2 3; do echo \"content $n\" | __file {out}/f$n --source - --mode 0640; done\n\
             __directory {out}/d --mode 0711\n__rsync {out}/copied --source {directory}\n"
        );
        fs::write(site.directory.join("site.manifest"), manifest)?;
        let run = |more: &[&str]| {
            let conf = site.conf().unwrap();
            Command::new(vclctl())
                .args(["configure", "--host", "root@127.0.0.1", "--ssh", &sshd.options, "-c", conf.as_str()])
                .args([
                    "-i",
                    site.directory.join("site.manifest").as_str(),
                    "--base",
                    out.join("base").as_str(),
                ])
                .args(more)
                .output()
        };
        let changed = |output: &std::process::Output| -> Result<Vec<String>> {
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let view: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            let objects = view["objects"].as_array().context("objects")?.iter();
            Ok(objects
                .filter(|o| o["changed"] == true)
                .map(|o| o["object"].as_str().unwrap_or("").to_owned())
                .collect())
        };
        let all = ["f1", "f2", "f3", "d"]
            .map(|name| format!("{}{out}/{name}", if name == "d" { "__directory" } else { "__file" }));
        let all = [&all[..], &[format!("__rsync{out}/copied")]].concat();
        ensure!(changed(&run(&["--json", "--dry-run"])?)? == all, "a dry run");
        ensure!(!out.join("f1").exists(), "a dry run has changed something");
        let kept = site.directory.join("kept");
        ensure!(changed(&run(&["--json", "--keep", kept.as_str()])?)? == all, "the first run");
        ensure!(changed(&run(&["--json"])?)?.is_empty(), "the second run");
        ensure!(fs::read_to_string(out.join("f3"))? == "content 3\n");
        ensure!(fs::metadata(out.join("f3"))?.permissions().mode() & 0o777 == 0o640);
        ensure!(fs::read(out.join("copied/id.pub"))? == fs::read(directory.join("id.pub"))?);
        ensure!(kept.join("explorer/os").is_file() && kept.join("typeorder").is_file());
        let again = run(&["--keep", kept.as_str()])?;
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        ensure!(again.status.code() == Some(1) && said.contains("it is there already"), "{said}");
        // Text for people has what changed, and one line on stdout.
        fs::remove_file(out.join("f2"))?;
        let output = run(&[])?;
        let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(said.starts_with("root@127.0.0.1: 7 objects, 1 changed, "), "{said}");
        ensure!(told.contains(&format!("changed  __file{out}/f2")), "{told}");
        // Scripts know it by a name that no resolver has, and reach it all the same.
        fs::remove_dir_all(out.join("copied"))?;
        let named = changed(&run(&["--json", "--name", "gis-01.example.org"])?)?;
        ensure!(named == [format!("__rsync{out}/copied")], "{named:?}");
        // The connection breaks in the middle of code: that is begun again, and the run comes to its end.
        let more = site.directory.join("more");
        fs::create_dir_all(more.join("type/__breaks/parameter"))?;
        fs::create_dir_all(more.join("type/__breaks/explorer"))?;
        fs::write(more.join("type/__breaks/explorer/there"), format!("[ -e {out}/whole ] || echo no"))?;
        let gencode = format!(
            "[ -n \"$(cat \"$__object/explorer/there\")\" ] || exit 0\n\
             echo 'echo x >>{out}/tries; if [ \"$(wc -l <{out}/tries)\" -lt 3 ]; then kill -KILL $(ps -o ppid= -p $PPID); sleep 1000; fi; touch {out}/whole'"
        );
        fs::write(more.join("type/__breaks/gencode-remote"), gencode)?;
        fs::write(
            site.directory.join("site.manifest"),
            format!("__breaks here\n__file {out}/after --state exists\n"),
        )?;
        let broken = run(&["--json", "-c", more.as_str()])?;
        let told = String::from_utf8_lossy(&broken.stderr).into_owned();
        ensure!(changed(&broken)? == ["__breaks/here".to_owned(), format!("__file{out}/after")], "{told}");
        ensure!(told.matches("the connection is gone; connecting again").count() == 2, "{told}");
        ensure!(fs::read_to_string(out.join("tries"))?.lines().count() == 3);
        // A run that was killed is gone on with by the next one that is told of its notes.
        for name in ["tries", "whole", "after"] {
            fs::remove_file(out.join(name))?;
        }
        let state = site.directory.join("state");
        fs::write(
            more.join("type/__breaks/gencode-remote"),
            format!("echo 'echo x >>{out}/tries; sleep 1000'"),
        )?;
        let mut killed = Command::new(vclctl())
            .args([
                "configure",
                "--host",
                "root@127.0.0.1",
                "--ssh",
                &sshd.options,
                "-c",
                site.conf()?.as_str(),
            ])
            .args(["-c", more.as_str(), "-i", site.directory.join("site.manifest").as_str()])
            .args(["--base", out.join("base").as_str(), "--state", state.as_str()])
            .spawn()?;
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while !out.join("tries").exists() {
            ensure!(std::time::Instant::now() < until, "the code is not begun");
            std::thread::yield_now();
        }
        let second = run(&["-c", more.as_str()])?;
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        ensure!(second.status.code() == Some(1) && said.contains("another run is at work in"), "{said}");
        killed.kill()?;
        killed.wait()?;
        fs::write(more.join("type/__breaks/gencode-remote"), format!("echo 'touch {out}/whole'"))?;
        let gone_on = run(&["--json", "-c", more.as_str(), "--state", state.as_str()])?;
        ensure!(changed(&gone_on)? == ["__breaks/here".to_owned(), format!("__file{out}/after")]);
        ensure!(out.join("whole").exists() && out.join("after").exists() && !state.exists());
        let other = run(&["--state", out.as_str()])?;
        let said = String::from_utf8_lossy(&other.stderr).into_owned();
        ensure!(
            other.status.code() == Some(1) && said.contains("something else in it than a run's notes"),
            "{said}"
        );
        // What hangs there is ended there.
        fs::create_dir_all(more.join("type/__hangs/parameter"))?;
        fs::write(
            more.join("type/__hangs/gencode-remote"),
            format!("echo 'echo $$ >{out}/pid; sleep 1000'"),
        )?;
        fs::write(site.directory.join("site.manifest"), "__hangs here\n")?;
        let output = run(&["-c", more.as_str(), "--deadline", "3"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1) && said.contains("code-remote has not ended after 3 s"),
            "{said}"
        );
        let pid = fs::read_to_string(out.join("pid"))?;
        ensure!(!Utf8Path::new("/proc").join(pid.trim()).exists(), "it still runs");
        Ok(())
    })
}

/// Several machines, one of which nobody answers for; and what changed from one run to the next.
#[test]
fn several_machines_are_configured_and_two_runs_compared() -> Result<()> {
    block_on("ssh::several_machines_are_configured_and_two_runs_compared", async |site| {
        let directory = site.directory.join("ssh");
        fs::create_dir(&directory)?;
        let sshd = Sshd::start(&directory)?;
        let out = site.directory.join("out");
        fs::create_dir(&out)?;
        let manifest = site.directory.join("site.manifest");
        let run = |more: &[&str]| {
            let conf = site.conf().unwrap();
            // They are one machine, so one after the other.
            Command::new(vclctl())
                .args(["--json", "configure", "--ssh", &sshd.options, "-c", conf.as_str(), "-p", "1"])
                .args(["-i", manifest.as_str(), "--base", out.join("base").as_str()])
                .args(more)
                .output()
        };
        let list = site.directory.join("hosts");
        fs::write(
            &list,
            "# the lab\nroot@127.0.0.1\n\nroot@127.0.0.2 # beside it\nroot@127.0.0.3\nroot@127.0.0.1\n",
        )?;
        fs::write(
            &manifest,
            format!("echo \"$__target_host\" | __file {out}/$__target_host --source - --mode 0600\n"),
        )?;
        let monday = site.directory.join("monday");
        let report = site.directory.join("report");
        let output = run(&["--file", list.as_str(), "--keep", monday.as_str(), "--report", report.as_str()])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && said.contains("1 of 3 failed: root@127.0.0.3"), "{said}");
        ensure!(said.contains(&format!("root@127.0.0.2: changed  __file{out}/127.0.0.2")), "{said}");
        let views: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let of = |at: usize, key: &str| views[at][key].as_str().unwrap_or_default().to_owned();
        let targets = [of(0, "target"), of(1, "target"), of(2, "target")];
        ensure!(targets == ["root@127.0.0.1", "root@127.0.0.2", "root@127.0.0.3"], "{views}");
        ensure!(views[2]["error"]["kind"] == "unreachable" && views[1].get("error").is_none(), "{views}");
        ensure!(serde_json::from_str::<serde_json::Value>(&fs::read_to_string(&report)?)? == views);
        for host in ["127.0.0.1", "127.0.0.2"] {
            ensure!(fs::read_to_string(out.join(host))? == format!("{host}\n"));
        }
        // On Tuesday the manifest is another.
        fs::write(&manifest, format!("__file {out}/127.0.0.1 --mode 0644\n__directory {out}/new\n"))?;
        let tuesday = site.directory.join("tuesday");
        let output = run(&["--host", "root@127.0.0.1", "--keep", tuesday.as_str()])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let older = monday.join("root@127.0.0.1");
        let diff =
            Command::new(vclctl()).args(["configure", "diff", older.as_str(), tuesday.as_str()]).output()?;
        let told = String::from_utf8(diff.stdout)?;
        let parts = [
            format!("+ __directory{out}/new\n"),
            format!("~ __file{out}/127.0.0.1 parameter/mode\n    - 0600\n    + 0644\n"),
            format!("~ __file{out}/127.0.0.1 explorer/type\n    - none\n    + file\n"),
        ];
        for part in parts {
            ensure!(told.contains(&part), "{part} is not in {told}");
        }
        let same =
            Command::new(vclctl()).args(["configure", "diff", older.as_str(), older.as_str()]).output()?;
        ensure!(String::from_utf8(same.stdout)? == "  nothing has changed\n");
        let none =
            Command::new(vclctl()).args(["configure", "diff", older.as_str(), out.as_str()]).output()?;
        let said = String::from_utf8_lossy(&none.stderr).into_owned();
        ensure!(none.status.code() == Some(1) && said.contains("has nothing of a run"), "{said}");
        Ok(())
    })
}
