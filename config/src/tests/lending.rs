//! Times, and ways to connect.

use super::*;

#[test]
fn who_says_nothing_gets_no_more_than_may_be_had() {
    let lines = "[reservations]\nlength = \"4h\"\nlongest = \"10h\"\n[group.short]\nlongest = \"1h\"";
    let lending = good(&with(lines)).lending;
    let image = "gis".parse().unwrap();
    let (usual, short) = (lending.times(&image, None), lending.times(&image, Some("short")));
    assert_eq!((usual.length_s, usual.longest_s), (4 * 3600, 10 * 3600));
    assert_eq!((short.length_s, short.longest_s), (3600, 3600));
}

#[test]
fn a_way_to_connect_is_named_once() {
    let lines = |methods| with(&format!("[reservations]\nmethods = \"{methods}\""));
    good(&lines("ssh:22 other:2222"));
    let problems = bad(&lines("ssh:22 rdp ssh:2222")).to_string();
    assert!(problems.contains("`ssh:2222` is there twice"), "{problems}");
}
