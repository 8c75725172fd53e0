//! Disturbances that a test orders.

use std::fs;
use std::time::Duration;

use vcl_tests::vcsim::{Fault, Mode, Vcsim};

use crate::client::{Client, Ended};

const NOW: &str =
    "<CurrentTime xmlns='urn:vim25'><_this type='ServiceInstance'>ServiceInstance</_this></CurrentTime>";

#[test]
fn a_fault_comes_as_an_answer_or_as_a_failed_task_and_as_often_as_ordered() {
    let double = Vcsim::builder(Mode::VCenter)
        .fault(Fault::on("CreateVM_Task").soap("TaskInProgress").times(2))
        .fault(Fault::on("CreateVM_Task").task("NoDiskSpace"))
        .fault(Fault::on("CurrentTime").soap("NotAuthenticated").after(1))
        .start()
        .unwrap();
    let client = Client::of(&double);
    let create = client.create("one", "", "02:00:00:00:00:01");
    for _ in 0..2 {
        assert_eq!(client.call(&create).fault().as_deref(), Some("TaskInProgress"));
    }
    assert_eq!(client.run(&create), Ended::Badly("NoDiskSpace".into()));
    assert!(double.machines().unwrap().is_empty());
    client.done(&create);
    assert_eq!(client.call(NOW).status, 200);
    assert_eq!(client.call(NOW).fault().as_deref(), Some("NotAuthenticated"));
    assert_eq!(client.call(NOW).status, 200);
    assert_eq!(double.count("CreateVM_Task").unwrap(), 4);

    double.inject(Fault::on("CurrentTime").soap("FileLocked").always()).unwrap();
    for _ in 0..3 {
        assert_eq!(client.call(NOW).fault().as_deref(), Some("FileLocked"));
    }
    double.clear_faults().unwrap();
    assert_eq!(client.call(NOW).status, 200);
}

#[test]
fn a_connection_is_cut_before_the_work_or_in_place_of_the_answer() {
    let double = Vcsim::start(Mode::Esx).unwrap();
    let client = Client::of(&double);
    let create = client.create("one", "", "02:00:00:00:00:01");
    double.inject(Fault::on("CreateVM_Task").drop_connection()).unwrap();
    assert_eq!(client.call(&create).status, 0);
    assert!(double.machines().unwrap().is_empty());
    double.inject(Fault::on("CreateVM_Task").lose_answer()).unwrap();
    assert_eq!(client.call(&create).status, 0);
    // The task runs beside the call that it was lost with; a second one finds the name taken once it is done.
    let ended = client.run(&create);
    assert_eq!(ended, Ended::Badly("DuplicateName".into()));
    let outcomes: Vec<_> =
        double.calls().unwrap().into_iter().filter(|call| call.method == "CreateVM_Task").collect();
    assert_eq!(
        outcomes.iter().map(|call| call.outcome.as_str()).collect::<Vec<_>>(),
        ["dropped", "lost", "ok"]
    );
    double.inject(Fault::on("CurrentTime").expire_sessions()).unwrap();
    assert_eq!(client.call(NOW).status, 200);
    assert_eq!(client.call(NOW).fault().as_deref(), Some("NotAuthenticated"));
}

#[test]
fn a_transfer_breaks_off_where_it_was_ordered_to() {
    let directory = tempfile::tempdir().unwrap();
    let upload = directory.path().join("up");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    fs::write(&upload, &bytes).unwrap();
    let (upload, down) = (upload.to_str().unwrap(), directory.path().join("down"));
    let double = Vcsim::start(Mode::Esx).unwrap();
    let client = Client::of(&double);
    let url = client.file("file");
    let stored = double.datastore_directory().join("file");

    double.inject(Fault::on("PUT").drop_after(1_000_000)).unwrap();
    assert_eq!(client.curl(&["-T", upload, &url]).status, 0);
    assert_eq!(fs::read(&stored).unwrap(), bytes[..1_000_000], "what arrived is there");
    double.inject(Fault::on("PUT").status(507)).unwrap();
    assert_eq!(client.curl(&["-T", upload, &url]).status, 507);
    assert_eq!(client.curl(&["-T", upload, &url]).status, 200);
    assert_eq!(fs::read(&stored).unwrap(), bytes);

    double.inject(Fault::on("GET").drop_after(1_500_000)).unwrap();
    assert_eq!(client.curl(&["-o", down.to_str().unwrap(), &url]).status, 0);
    assert_eq!(fs::read(&down).unwrap(), bytes[..1_500_000]);
}

#[test]
fn a_datastore_fills_up() {
    let directory = tempfile::tempdir().unwrap();
    let upload = directory.path().join("up");
    fs::write(&upload, vec![7; 6 << 20]).unwrap();
    let upload = camino::Utf8Path::from_path(&upload).unwrap();
    let double = Vcsim::builder(Mode::Esx).capacity(10 << 20).start().unwrap();
    let client = Client::of(&double);
    let base = double.put_disk("base", upload).unwrap();
    let copy = client.copy_disk(&base, "[LocalDS_0] copy.vmdk", "");
    assert_eq!(client.run(&copy), Ended::Badly("NoDiskSpace".into()));
    assert!(!double.datastore_directory().join("copy-flat.vmdk").exists());
    assert_eq!(client.curl(&["-T", upload.as_str(), &client.file("more")]).status, 507);
    let datastores = client.property("Datacenter", &client.datacenter_reference(), "datastore");
    let datastore = datastores.text("ManagedObjectReference").unwrap();
    let free = client.property("Datastore", &datastore, "summary.freeSpace").text("val").unwrap();
    assert!(free.parse::<u64>().unwrap() < 4 << 20, "{free} bytes are free");
}

#[test]
fn a_copy_fails_half_way_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    fs::write(&image, vec![7; 2 << 20]).unwrap();
    let double = Vcsim::builder(Mode::Esx)
        .task_time(Duration::from_millis(500))
        .fault(Fault::on("CopyVirtualDisk_Task").task("NoDiskSpace"))
        .start()
        .unwrap();
    let client = Client::of(&double);
    let base = double.put_disk("base", camino::Utf8Path::from_path(&image).unwrap()).unwrap();
    let copy = client.copy_disk(&base, "[LocalDS_0] copy.vmdk", "");
    assert_eq!(client.run(&copy), Ended::Badly("NoDiskSpace".into()));
    assert_eq!(double.datastore_directory().read_dir_utf8().unwrap().count(), 2);
    client.done(&copy);
}

#[test]
fn twenty_machines_at_once_do_not_get_into_each_others_way() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let bytes = vec![7; 1 << 20];
    fs::write(&image, &bytes).unwrap();
    let double = Vcsim::builder(Mode::VCenter).task_time(Duration::from_millis(300)).start().unwrap();
    let client = Client::of(&double);
    let base = double.put_disk("base", camino::Utf8Path::from_path(&image).unwrap()).unwrap();
    let template = client.done(&client.create("golden", &base, "02:00:00:00:00:99"));
    client.call(&Client::of_machine("MarkAsTemplate", &template));
    let golden = double.machine("golden").unwrap().unwrap();
    let (folder, pool) = (client.folder(), client.pool());
    std::thread::scope(|scope| {
        for number in 0..20 {
            let (client, template, folder, pool) = (&client, &template, &folder, &pool);
            scope.spawn(move || {
                let id = client.done(&format!(
                    "<CloneVM_Task xmlns='urn:vim25'><_this type='VirtualMachine'>{template}</_this>\
                     <folder type='Folder'>{folder}</folder><name>m{number}</name>\
                     <spec><location><pool type='ResourcePool'>{pool}</pool></location><template>false</template>\
                     <powerOn>false</powerOn></spec></CloneVM_Task>"
                ));
                client.done(&Client::of_machine("PowerOnVM_Task", &id));
                if number % 2 == 0 {
                    client.done(&Client::of_machine("PowerOffVM_Task", &id));
                    client.done(&Client::of_machine("Destroy_Task", &id));
                }
            });
        }
    });
    let machines = double.machines().unwrap();
    assert_eq!(machines.len(), 11, "{machines:?}");
    assert_eq!(double.machine("golden").unwrap().unwrap(), golden);
    for machine in machines.iter().filter(|machine| !machine.template) {
        let flat = double.datastore_directory().join(format!("{0}/{0}-flat.vmdk", machine.name));
        assert_eq!(fs::read(flat).unwrap(), bytes, "{}", machine.name);
    }
}
