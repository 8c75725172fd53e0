//! The name of the backing file in a qcow2's header.
//!
//! A delta of the library names its parent's file relative to its own directory. On the host the parent's copy lies
//! elsewhere, so the copy of the delta says otherwise there. That is the one difference between a copy and its
//! original: it is made in the first bytes as they are sent, and counted in the digest of what is read back.

/// How much of a file has to be at hand: no cluster of a header is larger than what is changed in it.
pub(super) const FIRST: usize = 64 * 1024;
const MAGIC: [u8; 4] = *b"QFI\xfb";
/// qemu takes no longer name.
const LONGEST: usize = 1023;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Writes another name of the backing file into the first bytes of a qcow2 that has one.
///
/// # Errors
/// What is wrong with it, or that there is no room for the name.
pub(super) fn retarget(first: &mut [u8], backing: &str) -> Result<(), String> {
    let broken = || "it is no qcow2 with a backing file".to_owned();
    if first.get(..4) != Some(&MAGIC) {
        return Err(broken());
    }
    let at = u64::from_be_bytes(number(first, 8).ok_or_else(broken)?);
    let old = u32::from_be_bytes(number(first, 16).ok_or_else(broken)?) as usize;
    let bits = u32::from_be_bytes(number(first, 20).ok_or_else(broken)?);
    let at = usize::try_from(at).ok().filter(|at| *at >= 72).ok_or_else(broken)?;
    let cluster = 1usize.checked_shl(bits).filter(|_| (9..=21).contains(&bits)).ok_or_else(broken)?;
    let room = cluster.min(first.len());
    // What a header says may be anything.
    let end = at.checked_add(backing.len()).ok_or_else(broken)?;
    if backing.len() > LONGEST || end > room {
        return Err(format!("its header has no room for the name {backing}"));
    }
    let old_end = at.checked_add(old).filter(|end| *end <= room && old > 0).ok_or_else(broken)?;
    if end > old_end && first[old_end..end].iter().any(|b| *b != 0) {
        return Err("its header has something behind the name of its backing file".into());
    }
    first[at..old_end].fill(0);
    first[at..end].copy_from_slice(backing.as_bytes());
    let length = u32::try_from(backing.len()).map_err(|_| broken())?;
    first[16..20].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn img(args: &[&str]) -> String {
        let out = Command::new("qemu-img").args(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn qemu_reads_the_new_name_whether_it_is_longer_or_shorter() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (base, delta) = (path("base.qcow2"), path("delta.qcow2"));
        img(&["create", "-q", "-f", "qcow2", &base, "16M"]);
        let long = format!("/var/lib/libvirt/{}/x.qcow2", "a-long-name".repeat(20));
        for name in [long.as_str(), "/b"] {
            img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &delta]);
            let mut bytes = std::fs::read(&delta).unwrap();
            retarget(&mut bytes, name).unwrap();
            std::fs::write(&delta, &bytes).unwrap();
            let said = img(&["info", "-U", "--output=json", "-f", "qcow2", &delta]);
            let info: serde_json::Value = serde_json::from_str(&said).unwrap();
            assert_eq!(
                (&info["backing-filename"], &info["backing-filename-format"]),
                (&name.into(), &"qcow2".into())
            );
        }
    }

    #[test]
    fn what_is_no_delta_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("whole.qcow2");
        img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "16M"]);
        let mut whole = std::fs::read(&path).unwrap();
        assert!(retarget(&mut whole, "/b").is_err());
        assert!(retarget(&mut [0; 10], "/b").is_err());
        let mut lying = whole.clone();
        lying[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
        assert!(retarget(&mut lying, "/b").is_err());
    }
}
