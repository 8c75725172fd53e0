//! `vcld check-config` names every problem at once, through the real binary.

use anyhow::Result;
use std::process::Command;
use vcl_tests::daemon::binary;

#[test]
fn every_problem_is_named_with_its_place_and_the_way_out() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("vcld.toml");
    std::fs::write(
        &file,
        "[library]\npath = \"here\"\n[backend.k]\ntype = \"libvirt\"\nmax_job = 3\n[typo]\n",
    )?;
    let output = Command::new(binary("vcld")?).arg("check-config").arg(&file).output()?;
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    for part in ["vcld.toml:2:", "vcld.toml:5:", "vcld.toml:6:", "max_jobs", "absolute"] {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
    std::fs::write(&file, "[library]\npath = \"/srv/vcl\"\n")?;
    let output = Command::new(binary("vcld")?).args(["--config"]).arg(&file).arg("check-config").output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
