//! Disks with bytes in them, and the files around them.

use std::fs;
use std::time::Duration;

use camino::Utf8Path;
use vcl_tests::vcsim::{Mode, PutRange, Vcsim};

use crate::client::{Client, Ended};

/// A disk image of a few megabytes with a hole in it.
fn image(directory: &Utf8Path) -> Vec<u8> {
    let mut bytes = vec![0; 5 << 20];
    fastrand::Rng::with_seed(7).fill(&mut bytes[..1 << 20]);
    bytes[(4 << 20) + 5] = 9;
    fs::write(directory.join("image.raw"), &bytes).unwrap();
    bytes
}

fn flat(double: &Vcsim, name: &str) -> Vec<u8> {
    fs::read(double.datastore_directory().join(format!("{name}-flat.vmdk"))).unwrap()
}

fn scratch() -> (tempfile::TempDir, camino::Utf8PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = camino::Utf8PathBuf::try_from(directory.path().to_owned()).unwrap();
    (directory, path)
}

fn make_directory(client: &Client<'_>, name: &str) -> crate::client::Reply {
    let files = client.of_content("fileManager");
    let datacenter = client.datacenter_reference();
    client.call(&format!(
        "<MakeDirectory xmlns='urn:vim25'><_this type='FileManager'>{files}</_this>\
         <name>[LocalDS_0] {name}</name><datacenter type='Datacenter'>{datacenter}</datacenter>\
         <createParentDirectories>true</createParentDirectories></MakeDirectory>"
    ))
}

#[test]
fn a_copied_disk_has_the_bytes_and_names_its_own_extent() {
    let (_keep, directory) = scratch();
    let bytes = image(&directory);
    for mode in [Mode::VCenter, Mode::Esx] {
        let double = Vcsim::start(mode).unwrap();
        let client = Client::of(&double);
        let base = double.put_disk("images/base", &directory.join("image.raw")).unwrap();
        assert_eq!(
            client.run(&client.copy_disk(&base, "[LocalDS_0] one/one.vmdk", "")),
            Ended::Badly("FileNotFound".into()),
            "a directory was made by copying into it"
        );
        assert_eq!(make_directory(&client, "one").status, 200);
        assert_eq!(make_directory(&client, "one").fault().as_deref(), Some("FileAlreadyExists"));
        let copy = client.copy_disk(&base, "[LocalDS_0] one/one.vmdk", "");
        client.done(&copy);
        assert_eq!(flat(&double, "one/one"), bytes);
        let text = fs::read_to_string(double.datastore_directory().join("one/one.vmdk")).unwrap();
        assert!(text.contains("RW 10240 VMFS \"one-flat.vmdk\""), "{text}");
        assert_eq!(client.run(&copy), Ended::Badly("FileAlreadyExists".into()));

        let thin = "<destSpec xsi:type='VirtualDiskSpec'><diskType>thin</diskType>\
                    <adapterType>lsiLogic</adapterType></destSpec>";
        let ended = client.run(&client.copy_disk(&base, "[LocalDS_0] one/two.vmdk", thin));
        if mode == Mode::Esx {
            assert_eq!(ended, Ended::Well(String::new()));
            assert_eq!(flat(&double, "one/two"), bytes);
        } else {
            assert_eq!(ended, Ended::Badly("NotImplemented".into()));
        }
    }
}

#[test]
fn a_disk_that_no_host_would_open_is_not_opened() {
    let (_keep, directory) = scratch();
    image(&directory);
    let double = Vcsim::start(Mode::Esx).unwrap();
    let client = Client::of(&double);
    let base = double.put_disk("base", &directory.join("image.raw")).unwrap();
    let file = double.datastore_directory().join("base.vmdk");
    let good = fs::read_to_string(&file).unwrap();
    for (bad, fault) in [
        (good.replace("\"vmfs\"", "\"monolithicSparse\""), "InvalidDiskFormat"),
        (good.replace("RW 10240", "RW 10241"), "InvalidDiskFormat"),
        (good.replace("base-flat", "other-flat"), "FileNotFound"),
        ("KDMV\u{1}".to_owned(), "InvalidDiskFormat"),
    ] {
        fs::write(&file, &bad).unwrap();
        let copied = client.run(&client.copy_disk(&base, "[LocalDS_0] copy.vmdk", ""));
        assert_eq!(copied, Ended::Badly(fault.into()), "{bad}");
        let adopted = client.run(&client.create("one", &base, "02:00:00:00:00:01"));
        assert_eq!(adopted, Ended::Badly(fault.into()), "{bad}");
    }
    fs::write(&file, &good).unwrap();
    client.done(&client.create("one", &base, "02:00:00:00:00:01"));
}

#[test]
fn a_disk_is_locked_while_its_machine_is_on() {
    let (_keep, directory) = scratch();
    let bytes = image(&directory);
    let double = Vcsim::start(Mode::Esx).unwrap();
    let client = Client::of(&double);
    let base = double.put_disk("base", &directory.join("image.raw")).unwrap();
    client.done(&client.create("one", &base, "02:00:00:00:00:01"));
    client.done(&client.create("two", &base, "02:00:00:00:00:02"));
    let (one, two) = (double.machine("one").unwrap().unwrap(), double.machine("two").unwrap().unwrap());
    client.done(&Client::of_machine("PowerOnVM_Task", &one.id));
    let copy = client.copy_disk(&base, "[LocalDS_0] copy.vmdk", "");
    assert_eq!(client.run(&copy), Ended::Badly("FileLocked".into()));
    let start = Client::of_machine("PowerOnVM_Task", &two.id);
    assert_eq!(client.run(&start), Ended::Badly("FileLocked".into()), "two machines write to one disk");
    assert_eq!(client.curl(&[&client.file("base-flat.vmdk")]).status, 500);
    assert_eq!(client.curl(&[&client.file("base.vmdk")]).status, 200);
    client.done(&Client::of_machine("PowerOffVM_Task", &one.id));
    client.done(&copy);
    assert_eq!(flat(&double, "copy"), bytes);
}

fn clone(client: &Client<'_>, source: &str, name: &str, template: bool) -> String {
    let (folder, pool) = (client.folder(), client.pool());
    let location = if template {
        "<location/>".to_owned()
    } else {
        format!("<location><pool type='ResourcePool'>{pool}</pool></location>")
    };
    format!(
        "<CloneVM_Task xmlns='urn:vim25'><_this type='VirtualMachine'>{source}</_this>\
         <folder type='Folder'>{folder}</folder><name>{name}</name><spec>{location}<template>{template}</template>\
         <powerOn>false</powerOn></spec></CloneVM_Task>"
    )
}

#[test]
fn a_clone_is_a_copy_and_leaves_its_source_as_it_was() {
    let (_keep, directory) = scratch();
    let bytes = image(&directory);
    let double = Vcsim::start(Mode::VCenter).unwrap();
    let client = Client::of(&double);
    let base = double.put_disk("base/base", &directory.join("image.raw")).unwrap();
    client.done(&client.create("one", &base, "02:00:00:00:00:01"));
    let one = double.machine("one").unwrap().unwrap();
    client.done(&clone(&client, &one.id, "golden", true));
    let golden = double.machine("golden").unwrap().unwrap();
    assert!(golden.template);
    assert_eq!(golden.disks, ["[LocalDS_0] golden/golden.vmdk"]);
    assert_eq!(flat(&double, "golden/golden"), bytes);
    assert_eq!(
        client.call(&Client::of_machine("PowerOnVM_Task", &golden.id)).status,
        200,
        "that is the task's to refuse"
    );
    assert_eq!(
        client.run(&Client::of_machine("PowerOnVM_Task", &golden.id)),
        Ended::Badly("InvalidState".into())
    );

    let two = client.done(&clone(&client, &golden.id, "two", false));
    assert_eq!(flat(&double, "two/two"), bytes);
    assert_eq!(client.run(&clone(&client, &golden.id, "two", false)), Ended::Badly("DuplicateName".into()));
    assert_eq!(double.machine("one").unwrap().unwrap(), one, "the source was changed");
    assert_eq!(double.machine("golden").unwrap().unwrap(), golden, "the template was changed");
    let made = double.machine("two").unwrap().unwrap();
    assert_eq!((made.id.as_str(), made.template), (two.as_str(), false));
    let size = client.property("VirtualMachine", &made.id, "config.hardware.device");
    assert!(size.body.contains("<capacityInKB>5120</capacityInKB>"), "{}", size.body);

    client.done(&Client::of_machine("Destroy_Task", &made.id));
    assert!(!double.datastore_directory().join("two").exists());
    assert_eq!(flat(&double, "golden/golden"), bytes);
}

#[test]
fn a_copy_tells_its_progress_and_can_be_called_off() {
    let (_keep, directory) = scratch();
    image(&directory);
    let double = Vcsim::start(Mode::Esx).unwrap();
    double.task_time("CopyVirtualDisk_Task", Duration::from_secs(20)).unwrap();
    let client = Client::of(&double);
    let base = double.put_disk("base", &directory.join("image.raw")).unwrap();
    let task = client.task(&client.copy_disk(&base, "[LocalDS_0] copy.vmdk", ""));
    let mut seen = Vec::new();
    while seen.len() < 3 {
        if let Some(percent) = client.property("Task", &task, "info.progress").text("val") {
            let percent: u8 = percent.parse().unwrap();
            if seen.last() != Some(&percent) {
                seen.push(percent);
            }
        }
    }
    assert!(seen.is_sorted() && seen[2] < 100, "{seen:?}");
    client.call(&format!("<CancelTask xmlns='urn:vim25'><_this type='Task'>{task}</_this></CancelTask>"));
    assert_eq!(client.wait(&task), Ended::Badly("RequestCanceled".into()));
    assert!(!double.datastore_directory().join("copy.vmdk").exists());
    assert!(!double.datastore_directory().join("copy-flat.vmdk").exists());
    assert_eq!(double.datastore_directory().read_dir_utf8().unwrap().count(), 2, "something is left");
}

#[test]
fn files_go_both_ways_for_those_who_are_let_in() {
    let (_keep, directory) = scratch();
    let bytes = image(&directory);
    let upload = directory.join("image.raw");
    for mode in [Mode::VCenter, Mode::Esx] {
        let double = Vcsim::start(mode).unwrap();
        let client = Client::of(&double);
        let url = client.file("a/b.bin");
        let stranger = Client::new(&double);
        for arguments in [vec![&*url], vec!["-T", upload.as_str(), &url]] {
            assert_eq!(stranger.curl(&arguments).status, 401);
        }
        assert_eq!(client.curl(&["-T", upload.as_str(), &url]).status, 404, "no directory");
        make_directory(&client, "a");
        assert_eq!(client.curl(&["-T", upload.as_str(), &url]).status, 201);
        assert_eq!(client.curl(&["-T", upload.as_str(), &url]).status, 200);
        let file = double.datastore_directory().join("a/b.bin");
        assert_eq!(fs::read(&file).unwrap(), bytes);
        let down = directory.join("down");
        let login = format!("{}:{}", double.user(), double.password());
        assert_eq!(stranger.curl(&["-u", &login, "-o", down.as_str(), "-r", "1048570-", &url]).status, 206);
        assert_eq!(fs::read(&down).unwrap(), bytes[1_048_570..]);
        let no_datacenter = url.replace(&format!("dcPath={}&", double.datacenter()), "");
        let status = if mode == Mode::Esx { 200 } else { 404 };
        assert_eq!(client.curl(&["-I", &no_datacenter]).status, status);
        assert_eq!(client.curl(&["-I", &url.replace("LocalDS_0", "Nowhere")]).status, 404);
        assert_eq!(client.curl(&["-X", "DELETE", &url]).status, 200);
        assert!(!file.exists());
    }
}

#[test]
fn a_part_of_a_file_is_put_only_where_that_is_said() {
    for (range, status, content) in [
        (PutRange::Refused, 400, "01234567"),
        (PutRange::Ignored, 200, "abcd"),
        (PutRange::Honoured, 200, "0123abcd"),
    ] {
        let double = Vcsim::builder(Mode::Esx).put_range(range).start().unwrap();
        let client = Client::of(&double);
        let url = client.file("probe");
        assert_eq!(client.curl(&["-X", "PUT", "--data-binary", "01234567", &url]).status, 201);
        let part = ["-X", "PUT", "-H", "Content-Range: bytes 4-7/8", "--data-binary", "abcd", &url];
        assert_eq!(client.curl(&part).status, status);
        assert_eq!(fs::read_to_string(double.datastore_directory().join("probe")).unwrap(), content);
    }
}
