//! Machines that are on are real guests.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use vcl_tests::guest::{Guest, Kind, cache_directory, cached_key};
use vcl_tests::vcsim::{Guests, Mode, Vcsim};

use crate::client::{Client, Ended};

const PATIENCE: Duration = Duration::from_secs(600);

fn ssh(key: &Utf8Path, address: Ipv4Addr, command: &str) -> Option<String> {
    let mut words = vec!["-F", "none", "-i", key.as_str()];
    for option in [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "ConnectTimeout=20",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
    ] {
        words.extend(["-o", option]);
    }
    let host = format!("root@{address}");
    let output = Command::new("ssh").args(words).args([&host, command]).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// Waits until `found` finds something.
fn wait_for<T>(what: &str, double: &Vcsim, mut found: impl FnMut() -> Option<T>) -> T {
    let asked = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(asked.elapsed() < PATIENCE, "no {what}:\n{}", double.log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn made(kind: Kind) -> (Guest, Utf8PathBuf) {
    let cache = cache_directory();
    let key = cached_key(&cache).unwrap();
    let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
    (Guest::make(kind, &cache, &public, &mut |_| ()).unwrap(), key)
}

#[test]
fn a_machine_that_is_powered_on_boots_its_disk_and_is_off_when_its_guest_is() {
    let (guest, key) = made(Kind::Fast);
    let (mac, address) = ("02:00:00:00:00:01", Ipv4Addr::new(127, 77, 1, 1));
    let guests = Guests::of(&guest).unwrap().at(mac, address);
    let double = Vcsim::builder(Mode::Esx).guests(guests).start().unwrap();
    let client = Client::of(&double);
    let base = double.put_disk("images/base", &guest.disk()).unwrap();
    std::fs::create_dir(double.datastore_directory().join("one")).unwrap();
    let disk = "[LocalDS_0] one/one.vmdk";
    client.done(&client.copy_disk(&base, disk, ""));
    let id = client.done(&client.create("one", disk, mac));
    let on = Client::of_machine("PowerOnVM_Task", &id);
    client.done(&on);
    let machine = double.machine("one").unwrap().unwrap();
    let seen = wait_for("login", &double, || ssh(&key, address, "cat /sys/class/net/eth0/address"));
    assert_eq!(seen.trim(), mac);
    assert_eq!(
        client.run(&client.copy_disk(disk, "[LocalDS_0] early.vmdk", "")),
        Ended::Badly("FileLocked".into())
    );

    // What the guest writes is in the datastore's own file once it is off, and its end is the machine's.
    ssh(&key, address, "echo here I was >/etc/marker && sync").unwrap();
    ssh(&key, address, "systemctl poweroff");
    wait_for("end", &double, || {
        (double.machine("one").unwrap().unwrap().power == "poweredOff").then_some(())
    });
    client.done(&client.copy_disk(disk, "[LocalDS_0] images/next.vmdk", ""));
    client.done(&Client::of_machine("Destroy_Task", &id));

    // Power is pulled under a second machine, from the captured disk.
    let next = "[LocalDS_0] images/next.vmdk";
    let id = client.done(&client.create("two", next, mac));
    client.done(&Client::of_machine("PowerOnVM_Task", &id));
    let marker = wait_for("login", &double, || ssh(&key, address, "cat /etc/marker"));
    assert_eq!(marker, "here I was\n");
    client.done(&Client::of_machine("PowerOffVM_Task", &id));
    assert_eq!(double.machine("two").unwrap().unwrap().power, "poweredOff");
    assert!(ssh(&key, address, "true").is_none());
    assert!(machine.console.exists());
}

#[test]
fn an_ordinary_guest_boots_from_its_disk_and_is_reset() {
    if !std::env::var_os("VCL_FULL").is_some_and(|full| !full.is_empty() && full != "0") {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return;
    }
    let (guest, key) = made(Kind::Grub);
    let (mac, address) = ("02:00:00:00:00:02", Ipv4Addr::new(127, 77, 1, 2));
    let guests = Guests::of(&guest).unwrap().at(mac, address);
    let double = Vcsim::builder(Mode::VCenter).guests(guests).start().unwrap();
    let client = Client::of(&double);
    let disk = double.put_disk("one/one", &guest.disk()).unwrap();
    let id = client.done(&client.create("one", &disk, mac).replace(">256<", ">512<"));
    client.done(&Client::of_machine("PowerOnVM_Task", &id));
    let boot = || ssh(&key, address, "cat /proc/sys/kernel/random/boot_id");
    let first = wait_for("login", &double, boot);
    client.done(&Client::of_machine("ResetVM_Task", &id));
    wait_for("another boot", &double, || boot().filter(|boot| *boot != first));
    assert_eq!(double.machine("one").unwrap().unwrap().power, "poweredOn");
    client.done(&Client::of_machine("PowerOffVM_Task", &id));
    assert!(boot().is_none());
}
