//! Who is let in, and what is refused to whom.

use std::time::Duration;

use vcl_tests::vcsim::{Fault, Mode, Vcsim};

use crate::client::{Client, Ended};

const NOW: &str =
    "<CurrentTime xmlns='urn:vim25'><_this type='ServiceInstance'>ServiceInstance</_this></CurrentTime>";

#[test]
fn it_says_which_server_it_is_and_its_certificate_is_its_own() {
    for (mode, kind) in [(Mode::VCenter, "VirtualCenter"), (Mode::Esx, "HostAgent")] {
        let double = Vcsim::start(mode).unwrap();
        let client = Client::new(&double);
        assert_eq!(client.of_content("apiType"), kind);
        let trusted_by_the_system =
            std::process::Command::new("curl").args(["-s", &double.url()]).status().unwrap();
        assert_eq!(trusted_by_the_system.code(), Some(60), "curl knows the authority");
        let shown = std::process::Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in", double.ca_file().as_str()])
            .output()
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert_eq!(shown.trim().split_once('=').unwrap().1, double.sha256());
        assert_eq!(double.sha1().len(), 59);
    }
}

#[test]
fn nothing_is_told_without_a_session() {
    let double = Vcsim::builder(Mode::VCenter).login("vcl", "right").start().unwrap();
    let mut client = Client::new(&double);
    assert_eq!(client.call(NOW).fault().as_deref(), Some("NotAuthenticated"));
    assert_eq!(
        client.property("Folder", "group-d1", "name").fault().as_deref(),
        Some("NotAuthenticated"),
        "properties are read without a session"
    );
    assert_eq!(client.login("vcl", "wrong").fault().as_deref(), Some("InvalidLogin"));
    assert_eq!(client.login("vcl", "right").status, 200);
    assert_eq!(client.call(NOW).status, 200);
    assert_eq!(double.sessions().unwrap(), 1);
    let manager = client.of_content("sessionManager");
    client
        .call(&format!("<Logout xmlns='urn:vim25'><_this type='SessionManager'>{manager}</_this></Logout>"));
    assert_eq!(client.call(NOW).fault().as_deref(), Some("NotAuthenticated"));
    assert_eq!(double.sessions().unwrap(), 0);
}

#[test]
fn a_session_ends_when_idle_and_when_told_and_its_tasks_do_not() {
    let double = Vcsim::builder(Mode::Esx).idle(Duration::from_millis(400)).start().unwrap();
    let mut client = Client::of(&double);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(client.call(NOW).fault().as_deref(), Some("NotAuthenticated"));

    let double = Vcsim::builder(Mode::Esx).task_time(Duration::from_secs(2)).start().unwrap();
    client = Client::of(&double);
    let task = client.task(&client.create("one", "", "02:00:00:00:00:01"));
    assert_eq!(client.property("Task", &task, "info.state").text("val").as_deref(), Some("running"));
    double.expire_sessions().unwrap();
    assert_eq!(client.property("Task", &task, "info.state").fault().as_deref(), Some("NotAuthenticated"));
    let again = Client::of(&double);
    assert!(matches!(again.wait(&task), Ended::Well(_)));
    assert!(double.machine("one").unwrap().is_some());
}

#[test]
fn who_waits_for_updates_learns_that_the_session_is_over() {
    let double = Vcsim::start(Mode::VCenter).unwrap();
    let client = Client::of(&double);
    let collector = client.of_content("propertyCollector");
    let wait = format!(
        "<WaitForUpdatesEx xmlns='urn:vim25'><_this type='PropertyCollector'>{collector}</_this>\
         <version>-</version><options><maxWaitSeconds>60</maxWaitSeconds></options></WaitForUpdatesEx>"
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.call(&wait));
        // It is on its way once the double has it; there is nothing to see of that, so both orders must do.
        std::thread::sleep(Duration::from_millis(300));
        double.expire_sessions().unwrap();
        assert_eq!(waiting.join().unwrap().fault().as_deref(), Some("NotAuthenticated"));
    });
}

#[test]
fn a_host_alone_supports_nothing_that_takes_a_vcenter() {
    let double = Vcsim::start(Mode::Esx).unwrap();
    let client = Client::of(&double);
    client.done(&client.create("one", "", "02:00:00:00:00:01"));
    let machine = double.machine("one").unwrap().unwrap();
    let clone = format!(
        "<CloneVM_Task xmlns='urn:vim25'><_this type='VirtualMachine'>{}</_this>\
         <folder type='Folder'>ha-folder-vm</folder><name>two</name>\
         <spec><location/><template>false</template><powerOn>false</powerOn></spec></CloneVM_Task>",
        machine.id
    );
    for body in [clone, Client::of_machine("MarkAsTemplate", &machine.id)] {
        assert_eq!(client.call(&body).fault().as_deref(), Some("NotSupported"), "{body}");
    }
    assert_eq!(double.machines().unwrap().len(), 1);
}

#[test]
fn a_licence_for_reading_refuses_changes_and_nothing_else() {
    let double = Vcsim::builder(Mode::Esx).read_only_licence().start().unwrap();
    let client = Client::of(&double);
    assert_eq!(client.call(NOW).status, 200);
    let files = client.of_content("fileManager");
    let delete = format!(
        "<DeleteDatastoreFile_Task xmlns='urn:vim25'><_this type='FileManager'>{files}</_this><name></name>\
         </DeleteDatastoreFile_Task>"
    );
    let create = client.create("one", "", "02:00:00:00:00:01");
    for body in [&delete, &create] {
        assert_eq!(client.call(body).fault().as_deref(), Some("RestrictedVersion"), "{body}");
    }
    let whole = Vcsim::start(Mode::Esx).unwrap();
    assert_eq!(Client::of(&whole).call(&delete).fault().as_deref(), Some("InvalidDatastorePath"));
}

#[test]
fn names_are_taken_once_and_unknown_datastores_are_told() {
    for mode in [Mode::VCenter, Mode::Esx] {
        let double = Vcsim::start(mode).unwrap();
        let client = Client::of(&double);
        let create = client.create("one", "", "02:00:00:00:00:01");
        client.done(&create);
        assert_eq!(client.run(&create), Ended::Badly("DuplicateName".into()));
        let elsewhere = client.create("two", "", "02:00:00:00:00:02").replace("[LocalDS_0]", "[Nowhere]");
        assert_eq!(client.run(&elsewhere), Ended::Badly("InvalidDatastore".into()));
        let lost = client.create("two", "", "02:00:00:00:00:02").replace("VM Network", "No Network");
        assert_eq!(client.run(&lost), Ended::Badly("InvalidDeviceBacking".into()));
        assert_eq!(double.machines().unwrap().len(), 1);
        // The simulator would have died of each of them.
        client.done(&client.create("two", "", "02:00:00:00:00:02"));
        let taken = client.create("three", "", "02:00:00:00:00:03").replace("three/three.vmx", "two");
        client.done(&taken);
        assert_eq!(double.machine("three").unwrap().unwrap().path, "[LocalDS_0] two_1/three.vmx");
    }
}

#[test]
fn elements_have_an_order() {
    let double = Vcsim::start(Mode::VCenter).unwrap();
    let client = Client::of(&double);
    let right = client.create("one", "", "02:00:00:00:00:01");
    let wrong = right.replace(
        "<numCPUs>1</numCPUs><memoryMB>256</memoryMB>",
        "<memoryMB>256</memoryMB><numCPUs>1</numCPUs>",
    );
    let reply = client.call(&wrong);
    assert_eq!(reply.fault().as_deref(), Some("InvalidRequest"));
    assert!(reply.body.contains("Unexpected element tag &#34;numCPUs&#34; seen"), "{}", reply.body);
    let unknown = right.replace("<numCPUs>1</numCPUs>", "<numCpu>1</numCpu>");
    assert_eq!(client.call(&unknown).fault().as_deref(), Some("InvalidRequest"));
    client.done(&right);
}

#[test]
fn a_guest_without_tools_is_not_shut_down() {
    let double = Vcsim::start(Mode::Esx).unwrap();
    let client = Client::of(&double);
    client.done(&client.create("one", "", "02:00:00:00:00:01"));
    let id = double.machine("one").unwrap().unwrap().id;
    let shutdown = Client::of_machine("ShutdownGuest", &id);
    assert_eq!(client.call(&shutdown).fault().as_deref(), Some("InvalidPowerState"));
    client.done(&Client::of_machine("PowerOnVM_Task", &id));
    assert_eq!(client.call(&shutdown).fault().as_deref(), Some("ToolsUnavailable"));
    assert_eq!(
        client.run(&Client::of_machine("PowerOnVM_Task", &id)),
        Ended::Badly("InvalidPowerState".into())
    );
    assert_eq!(double.machine("one").unwrap().unwrap().power, "poweredOn");
    client.done(&Client::of_machine("PowerOffVM_Task", &id));
    assert_eq!(double.machine("one").unwrap().unwrap().power, "poweredOff");
    assert!(double.inject(Fault::on("CurrentTime").soap("NoSuchFault")).is_err());
}

#[test]
fn updates_of_a_task_and_a_directory_s_files_are_told() {
    let double = Vcsim::builder(Mode::VCenter).task_time(Duration::from_secs(1)).start().unwrap();
    let client = Client::of(&double);
    let task = client.task(&client.create("one", "", "02:00:00:00:00:01"));
    let collector = client.of_content("propertyCollector");
    let filtered = client.call(&format!(
        "<CreateFilter xmlns='urn:vim25'><_this type='PropertyCollector'>{collector}</_this><spec>\
         <propSet><type>Task</type><pathSet>info.state</pathSet><pathSet>info.progress</pathSet></propSet>\
         <objectSet><obj type='Task'>{task}</obj></objectSet></spec><partialUpdates>true</partialUpdates></CreateFilter>"
    ));
    assert_eq!(filtered.status, 200, "{}", filtered.body);
    let (mut version, mut seen) = (String::new(), String::new());
    while !seen.contains(">success<") {
        let reply = client.call(&format!(
            "<WaitForUpdatesEx xmlns='urn:vim25'><_this type='PropertyCollector'>{collector}</_this>\
             <version>{version}</version><options><maxWaitSeconds>20</maxWaitSeconds></options></WaitForUpdatesEx>"
        ));
        version = reply.text("version").unwrap_or_else(|| panic!("no update: {}\n{seen}", reply.body));
        seen.push_str(&reply.body);
    }
    assert!(seen.contains(">running<") && seen.contains("info.progress"), "{seen}");

    let datastores = client.property("Datacenter", &client.datacenter_reference(), "datastore");
    let datastore = datastores.text("ManagedObjectReference").unwrap();
    let browser = client.property("Datastore", &datastore, "browser").text("val").unwrap();
    let search = client.task(&format!(
        "<SearchDatastore_Task xmlns='urn:vim25'><_this type='HostDatastoreBrowser'>{browser}</_this>\
         <datastorePath>[LocalDS_0] one</datastorePath></SearchDatastore_Task>"
    ));
    assert!(matches!(client.wait(&search), Ended::Well(_)));
    let found = client.property("Task", &search, "info.result");
    assert!(found.body.contains("<path>one.vmx</path>"), "{}", found.body);
}
