//! Images and templates at the server: a cache, in which people delete by hand, and which is told when nobody uses it.

use crate::bench::{Bench, Way, done, failed, flat, template};
use crate::curl::Client;
use camino::Utf8Path;
use std::time::{Duration, SystemTime};
use vcl_job::Kind;
use vcl_provisioning::vmware::CaptureTo;
use vcl_types::{Firmware, Hardware};

const CLONE: Way = Way::Clone(CaptureTo::Template);

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_has_lost_a_part_is_sent_again() {
    for part in ["disk-flat.vmdk", "disk.vmdk"] {
        let bench = Bench::new(Way::Esx);
        let first = bench.import("debian").await;
        done(bench.load("a", &first).await);
        let content = first.manifest.disks[0].content_digest.to_string();
        let images = bench.double.datastore_directory().join("vcl-images");
        std::fs::remove_file(images.join(&content).join(part)).unwrap();
        done(bench.load("b", &first).await);
        bench.same("b", &first);
        bench.unload("a").await;
        bench.unload("b").await;
        bench.nothing_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_somebody_has_deleted_whole_or_in_part_is_made_anew() {
    let bench = Bench::new(CLONE);
    let first = bench.import("debian").await;
    let content = first.manifest.disks[0].content_digest.to_string();
    let template = template(&content, &first.manifest.hardware);
    done(bench.load("a", &first).await);
    let made = bench.double.machine(&template).unwrap().unwrap();
    // Its disk alone, as the datastore's browser lets one do.
    std::fs::remove_file(flat(&bench.double.datastore_directory(), &made.disks[0])).unwrap();
    done(bench.load("b", &first).await);
    bench.same("b", &first);
    assert_eq!(bench.events("template-broken").len(), 1);
    // All of it; the server deletes its disk with it.
    let made = bench.double.machine(&template).unwrap().unwrap();
    Client::of(&bench.double).done(&Client::of_machine("Destroy_Task", &made.id));
    bench.unload("a").await;
    done(bench.load("a", &first).await);
    bench.same("a", &first);
    assert!(bench.double.machine(&template).unwrap().unwrap().template);
    bench.unload("a").await;
    bench.unload("b").await;
    bench.nothing_left().await;
}

/// Lets all files of a directory be that old.
fn age(directory: &Utf8Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 24 * 3600);
    for file in directory.read_dir_utf8().unwrap() {
        std::fs::File::open(file.unwrap().path()).unwrap().set_modified(then).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_used_for_a_month_is_told_and_can_be_removed() {
    for (way, kind) in [(Way::Esx, "image"), (CLONE, "template")] {
        let bench = Bench::new(way);
        let first = bench.import("debian").await;
        let content = first.manifest.disks[0].content_digest.to_string();
        let directory = bench.double.datastore_directory().join("vcl-images").join(&content);
        done(bench.load("a", &first).await);
        bench.unload("a").await;
        age(&directory, 29);
        assert_eq!(bench.backend.things().await.unwrap(), []);
        // A load of it counts, even where nothing is sent and no template is made.
        age(&directory, 31);
        done(bench.load("a", &first).await);
        bench.unload("a").await;
        assert_eq!(bench.backend.things().await.unwrap(), []);
        age(&directory, 31);
        let things = bench.backend.things().await.unwrap();
        let told: Vec<_> = things.iter().map(|t| (t.kind.as_str(), t.name.as_str())).collect();
        let template = template(&content, &first.manifest.hardware);
        let name = if kind == "template" { &template } else { &content };
        assert_eq!(told, [(kind, name.as_str())], "{things:?}");
        for _ in 0..2 {
            bench.backend.remove_thing(&things[0]).await.unwrap();
            bench.nothing_left().await;
            assert!(!directory.exists());
            assert_eq!(bench.double.machines().unwrap(), []);
        }
        done(bench.load("a", &first).await);
        bench.same("a", &first);
        bench.unload("a").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_which_somebodys_machine_lies_is_not_cleared() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    // An admin has given a machine of vcld's another name and made it his own; its directory keeps its name.
    let blank = Utf8Path::from_path(bench.directory.path()).unwrap().join("blank");
    std::fs::write(&blank, vec![7; 1 << 20]).unwrap();
    let disk = bench.double.put_disk("vcl-a/kept", &blank).unwrap();
    let client = Client::of(&bench.double);
    let request = client.create("kept", &disk, "02:00:00:00:02:02");
    client.done(&request.replace("kept/kept.vmx", "vcl-a/kept.vmx"));
    let failure = failed(bench.load("a", &first).await);
    assert_eq!(failure.kind, Kind::Exists);
    assert!(failure.message.contains("the machine kept lies in [LocalDS_0] vcl-a"), "{failure}");
    assert_eq!(bench.backend.things().await.unwrap(), []);
    assert_eq!(std::fs::read(flat(&bench.double.datastore_directory(), &disk)).unwrap(), vec![7; 1 << 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_firmware_is_cloned_from_a_template_of_its_own() {
    let bench = Bench::new(CLONE);
    let bios = bench.import("bios").await;
    let hardware = Hardware { firmware: Firmware::Uefi, ..Hardware::default() };
    let uefi = bench.import_for("uefi", hardware).await;
    assert_eq!(bios.manifest.disks[0].content_digest, uefi.manifest.disks[0].content_digest);
    done(bench.load("a", &bios).await);
    done(bench.load("b", &uefi).await);
    let client = Client::of(&bench.double);
    for (name, revision, firmware) in [("vcl-a", &bios, "bios"), ("vcl-b", &uefi, "efi")] {
        let machine = bench.double.machine(name).unwrap().unwrap();
        let found = client.property("VirtualMachine", &machine.id, "config.firmware").text("val");
        assert_eq!(found.as_deref(), Some(firmware), "{name}");
        bench.same(name.strip_prefix("vcl-").unwrap(), revision);
    }
    bench.unload("a").await;
    bench.unload("b").await;
    bench.nothing_left().await;
    // Both lie over one image; that of the one is no hindrance to removing the other.
    let content = bios.manifest.disks[0].content_digest.to_string();
    let directory = bench.double.datastore_directory().join("vcl-images").join(&content);
    age(&directory, 31);
    let things = bench.backend.things().await.unwrap();
    assert_eq!(things.iter().map(|t| t.kind.as_str()).collect::<Vec<_>>(), ["template"; 2]);
    for thing in &things {
        bench.backend.remove_thing(thing).await.unwrap();
    }
    bench.nothing_left().await;
    assert!(!directory.exists());
    assert_eq!(bench.double.machines().unwrap(), []);
}
