//! A client just good enough to ask the double what it does: curl, and requests as text. It shares nothing with the
//! client that the double is there to test.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use regex::Regex;
use vcl_tests::vcsim::{Mode, Vcsim};

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// HTTP's status, or 0 when the connection broke.
    pub status: u16,
    pub body: String,
}

impl Reply {
    /// The name of the API's fault, if it is one.
    pub fn fault(&self) -> Option<String> {
        let found = Regex::new(r#"<detail><(\w+)Fault .*?xsi:type="(\w+)""#).unwrap();
        found.captures(&self.body).map(|words| words[2].to_owned())
    }

    /// The text of the first element of that name.
    pub fn text(&self, element: &str) -> Option<String> {
        text_in(&self.body, element)
    }
}

pub fn text_in(body: &str, element: &str) -> Option<String> {
    let found = Regex::new(&format!("<{element}(?: [^>]*)?>([^<]*)</{element}>")).unwrap();
    found.captures(body).map(|words| words[1].to_owned())
}

/// A session, or none.
pub struct Client<'a> {
    pub double: &'a Vcsim,
    pub cookie: Option<String>,
}

/// How a task ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Well, with this result's text.
    Well(String),
    /// With the API's fault of this name.
    Badly(String),
}

impl<'a> Client<'a> {
    pub fn new(double: &'a Vcsim) -> Self {
        Self { double, cookie: None }
    }

    /// One that has logged in.
    pub fn of(double: &'a Vcsim) -> Self {
        let mut client = Self::new(double);
        let reply = client.login(double.user(), double.password());
        assert_eq!(reply.status, 200, "{}", reply.body);
        client
    }

    pub fn login(&mut self, user: &str, password: &str) -> Reply {
        let manager = self.of_content("sessionManager");
        let dump = tempfile::NamedTempFile::new().unwrap();
        let reply = self.send(
            &["-D", dump.path().to_str().unwrap()],
            &format!(
                "<Login xmlns='urn:vim25'><_this type='SessionManager'>{manager}</_this>\
                 <userName>{user}</userName><password>{password}</password></Login>"
            ),
        );
        let headers = fs::read_to_string(dump.path()).unwrap();
        let found = Regex::new(r"(?im)^set-cookie: (vmware_soap_session=[^;\r]*)").unwrap();
        if let Some(words) = found.captures(&headers) {
            self.cookie = Some(words[1].to_owned());
        }
        reply
    }

    /// A reference in the server's content, such as `sessionManager`.
    pub fn of_content(&self, name: &str) -> String {
        let reply = self.call("<RetrieveServiceContent xmlns='urn:vim25'><_this type='ServiceInstance'>ServiceInstance</_this></RetrieveServiceContent>");
        reply.text(name).unwrap_or_else(|| panic!("no {name} in {}", reply.body))
    }

    /// Sends the body of a SOAP request.
    pub fn call(&self, body: &str) -> Reply {
        self.send(&[], body)
    }

    fn send(&self, more: &[&str], body: &str) -> Reply {
        let envelope = format!(
            "<?xml version='1.0'?><soapenv:Envelope xmlns:soapenv='http://schemas.xmlsoap.org/soap/envelope/' \
             xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xmlns:xsd='http://www.w3.org/2001/XMLSchema'>\
             <soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
        );
        let url = self.double.url();
        let mut arguments = vec!["--data-binary", &envelope, "-H", "Content-Type: text/xml", &url];
        arguments.extend(more);
        self.curl(&arguments)
    }

    /// Runs curl, which trusts the double's own certificate and no other.
    pub fn curl(&self, arguments: &[&str]) -> Reply {
        let mut command = Command::new("curl");
        command.args(["-s", "--cacert", self.double.ca_file().as_str(), "-w", "\n%{http_code}", "-m", "120"]);
        if let Some(cookie) = &self.cookie {
            command.args(["-H", &format!("Cookie: {cookie}")]);
        }
        let output = command.args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap();
        let status = if output.status.success() { status.parse().unwrap() } else { 0 };
        Reply { status, body: body.to_owned() }
    }

    /// The URL of a file of the first datastore.
    pub fn file(&self, path: &str) -> String {
        format!(
            "https://{}/folder/{path}?dcPath={}&dsName={}",
            self.double.address(),
            self.double.datacenter(),
            self.double.datastore()
        )
    }

    /// One property of one object, as text; its first value where it is a list.
    pub fn property(&self, kind: &str, id: &str, name: &str) -> Reply {
        let collector = self.of_content("propertyCollector");
        self.call(&format!(
            "<RetrievePropertiesEx xmlns='urn:vim25'><_this type='PropertyCollector'>{collector}</_this><specSet>\
             <propSet><type>{kind}</type><pathSet>{name}</pathSet></propSet>\
             <objectSet><obj type='{kind}'>{id}</obj></objectSet></specSet><options/></RetrievePropertiesEx>"
        ))
    }

    /// Calls a method that answers a task, and returns that.
    pub fn task(&self, body: &str) -> String {
        let reply = self.call(body);
        reply.text("returnval").unwrap_or_else(|| panic!("no task for {body}: {}", reply.body))
    }

    /// Waits until a task has ended.
    pub fn wait(&self, task: &str) -> Ended {
        let asked = Instant::now();
        let found = Regex::new(r#"<fault [^>]*:type="(\w+)""#).unwrap();
        loop {
            let state = self.property("Task", task, "info.state").text("val");
            match state.as_deref() {
                Some("success") => {
                    let result = self.property("Task", task, "info.result");
                    return Ended::Well(result.text("val").unwrap_or_default());
                }
                Some("error") => {
                    let error = self.property("Task", task, "info.error").body;
                    return Ended::Badly(found.captures(&error).unwrap()[1].to_owned());
                }
                _ => assert!(asked.elapsed() < Duration::from_secs(120), "{task} is {state:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Calls a method that answers a task and waits for its end.
    pub fn run(&self, body: &str) -> Ended {
        self.wait(&self.task(body))
    }

    /// The same, where nothing but success will do.
    pub fn done(&self, body: &str) -> String {
        match self.run(body) {
            Ended::Well(result) => result,
            Ended::Badly(fault) => panic!("{fault}: {body}\n{}", self.double.log()),
        }
    }

    /// `<_this>`, folder, pool and such of this inventory, for requests.
    pub fn datacenter_reference(&self) -> String {
        self.find("/DC0", "/ha-datacenter")
    }

    pub fn folder(&self) -> String {
        self.find("/DC0/vm", "/ha-datacenter/vm")
    }

    pub fn pool(&self) -> String {
        self.find("/DC0/host/DC0_H0/Resources", "/ha-datacenter/host/localhost.localdomain/Resources")
    }

    fn find(&self, vcenter: &str, esx: &str) -> String {
        let path = if self.double.mode() == Mode::Esx { esx } else { vcenter };
        let index = self.of_content("searchIndex");
        let reply = self.call(&format!(
            "<FindByInventoryPath xmlns='urn:vim25'><_this type='SearchIndex'>{index}</_this>\
             <inventoryPath>{path}</inventoryPath></FindByInventoryPath>"
        ));
        reply.text("returnval").unwrap_or_else(|| panic!("no {path}: {}", reply.body))
    }

    /// The request that copies a disk.
    pub fn copy_disk(&self, from: &str, to: &str, more: &str) -> String {
        let manager = self.of_content("virtualDiskManager");
        let datacenter = self.datacenter_reference();
        format!(
            "<CopyVirtualDisk_Task xmlns='urn:vim25'><_this type='VirtualDiskManager'>{manager}</_this>\
             <sourceName>{from}</sourceName><sourceDatacenter type='Datacenter'>{datacenter}</sourceDatacenter>\
             <destName>{to}</destName><destDatacenter type='Datacenter'>{datacenter}</destDatacenter>{more}\
             </CopyVirtualDisk_Task>"
        )
    }

    /// The request that makes a machine around a disk that is there.
    pub fn create(&self, name: &str, disk: &str, mac: &str) -> String {
        let (folder, pool, datastore) = (self.folder(), self.pool(), self.double.datastore());
        let disk = if disk.is_empty() {
            String::new()
        } else {
            format!(
                "<deviceChange><operation>add</operation><device xsi:type='ParaVirtualSCSIController'><key>1000</key>\
                 <busNumber>0</busNumber><sharedBus>noSharing</sharedBus></device></deviceChange>\
                 <deviceChange><operation>add</operation><device xsi:type='VirtualDisk'><key>-1</key>\
                 <backing xsi:type='VirtualDiskFlatVer2BackingInfo'><fileName>{disk}</fileName>\
                 <diskMode>persistent</diskMode></backing><controllerKey>1000</controllerKey>\
                 <unitNumber>0</unitNumber><capacityInKB>0</capacityInKB></device></deviceChange>"
            )
        };
        format!(
            "<CreateVM_Task xmlns='urn:vim25'><_this type='Folder'>{folder}</_this><config><name>{name}</name>\
             <guestId>otherLinux64Guest</guestId><files><vmPathName>[{datastore}] {name}/{name}.vmx</vmPathName></files>\
             <numCPUs>1</numCPUs><memoryMB>256</memoryMB>{disk}<deviceChange><operation>add</operation>\
             <device xsi:type='VirtualVmxnet3'><key>-2</key>\
             <backing xsi:type='VirtualEthernetCardNetworkBackingInfo'><deviceName>VM Network</deviceName></backing>\
             <addressType>manual</addressType><macAddress>{mac}</macAddress></device></deviceChange></config>\
             <pool type='ResourcePool'>{pool}</pool></CreateVM_Task>"
        )
    }

    /// A request that has nothing but the machine it is for.
    pub fn of_machine(method: &str, id: &str) -> String {
        format!("<{method} xmlns='urn:vim25'><_this type='VirtualMachine'>{id}</_this></{method}>")
    }
}
