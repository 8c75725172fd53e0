//! What a server says when it does not do a thing, sorted by what is to be done about it.

use super::dom::Element;
use crate::ErrorKind;

/// A fault: of a call, or of a task that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {message}")]
pub(crate) struct Fault {
    /// Its type, such as `FileLocked`.
    pub(crate) name: String,
    /// What the server says to it, bounded.
    pub(crate) message: String,
}

impl Fault {
    /// The fault of a SOAP answer, if it is one.
    pub(super) fn of_call(envelope: &Element) -> Option<Self> {
        let fault = envelope.at("Body/Fault")?;
        let detail = fault.child("detail").and_then(|d| d.children.first());
        let by_name = |e: &Element| e.name.strip_suffix("Fault").unwrap_or(&e.name).to_owned();
        let name = detail.map(|d| d.xsi_type.clone().unwrap_or_else(|| by_name(d)));
        let said = fault.text_at("faultstring").unwrap_or_default();
        let name = name.filter(|n| !n.is_empty()).unwrap_or_else(|| "RuntimeFault".to_owned());
        Some(Self { name, message: bounded(said) })
    }
    /// The error of a task: a `LocalizedMethodFault`.
    pub(super) fn of_task(error: &Element) -> Self {
        let name = error.child("fault").and_then(|f| f.xsi_type.clone());
        let said = error.text_at("localizedMessage").unwrap_or_default();
        Self { name: name.unwrap_or_else(|| "MethodFault".to_owned()), message: bounded(said) }
    }
    /// What is to be done about it.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self.name.as_str() {
            // Passes by itself: a machine that is going off, another copy of the same disk, a busy host.
            "FileLocked" | "TaskInProgress" | "ResourceInUse" | "ConcurrentAccess" => ErrorKind::Busy,
            "HostCommunication" | "HostNotConnected" | "HostNotReachable" | "Timedout" | "NoHost"
            | "DatabaseError" | "HostConnectFault"
            // One that is not mounted at the moment: what is on it is not gone.
            | "InvalidDatastore" | "InaccessibleDatastore" => ErrorKind::Unreachable,
            "NoDiskSpace" | "InsufficientStorageSpace" | "NoSpaceLeft" | "FileTooLarge" => ErrorKind::NoSpace,
            "NotSupported" | "NotImplemented" | "MethodNotFound" | "UnsupportedDatastore" => {
                ErrorKind::Unsupported
            }
            "FileNotFound" | "ManagedObjectNotFound" | "NotFound" => ErrorKind::NotFound,
            "FileAlreadyExists" | "DuplicateName" | "AlreadyExists" => ErrorKind::Exists,
            "InvalidLogin"
            | "NotAuthenticated"
            | "NoPermission"
            | "NoClientCertificate"
            | "InvalidLocale"
            | "PasswordExpired" => ErrorKind::Denied,
            "RequestCanceled" => ErrorKind::Cancelled,
            "RestrictedVersion"
            | "InvalidPowerState"
            | "InvalidState"
            | "InvalidArgument"
            | "InvalidDatastorePath"
            | "InvalidDiskFormat"
            | "InvalidRequest"
            | "NotEnoughLicenses"
            | "LicenseExpired"
            | "InsufficientResourcesFault"
            | "InvalidVmConfig"
            | "ToolsUnavailable" => ErrorKind::Refused,
            name if name.starts_with("Insufficient") => ErrorKind::Refused,
            name if name.starts_with("InvalidDevice") || name.starts_with("UnsupportedGuest") => {
                ErrorKind::Refused
            }
            _ => ErrorKind::Failed,
        }
    }
    /// What somebody can do about it, where a fault's name tells.
    pub(crate) fn way_out(&self) -> Option<&'static str> {
        Some(match self.name.as_str() {
            "RestrictedVersion" => {
                "the host's licence makes its API read-only (the free one does): it needs a paid licence"
            }
            "FileLocked" => {
                "a machine that is on, or another host, holds the file: see who does, and try again"
            }
            "NoDiskSpace" | "InsufficientStorageSpace" => {
                "make room on the datastore, or configure another one"
            }
            "InvalidLogin" => "look at `user` and at the credential that `password` names",
            "NoPermission" => "the account lacks a privilege: docs/vmware.md has the list",
            "InvalidDiskFormat" => "the host cannot run disks of that kind; it takes flat ones",
            _ => return None,
        })
    }
}

fn bounded(text: &str) -> String {
    let clean = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let text: String = clean.take(500).collect();
    if text.is_empty() { "without a word".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &str = r#"<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"
        xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><soapenv:Fault>
        <faultcode>ServerFaultCode</faultcode><faultstring>The session is not authenticated.</faultstring>
        <detail><NotAuthenticatedFault xmlns="urn:vim25" xsi:type="NotAuthenticated"><object type="Folder">ha</object>
        <privilegeId>System.View</privilegeId></NotAuthenticatedFault></detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>"#;

    #[test]
    fn a_fault_is_told_by_its_type_and_without_one_by_its_name() {
        let fault = Fault::of_call(&Element::parse(CALL).unwrap()).unwrap();
        assert_eq!(fault.to_string(), "NotAuthenticated: The session is not authenticated.");
        let untyped = CALL.replace(" xsi:type=\"NotAuthenticated\"", "");
        let fault = Fault::of_call(&Element::parse(&untyped).unwrap()).unwrap();
        assert_eq!((fault.name.as_str(), fault.kind()), ("NotAuthenticated", ErrorKind::Denied));
    }

    #[test]
    fn a_tasks_error_is_sorted() {
        let text = r#"<val xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="LocalizedMethodFault">
            <fault xsi:type="FileLocked"><file>[ds] a/b.vmdk</file></fault>
            <localizedMessage>Unable to access file since it is locked</localizedMessage></val>"#;
        let fault = Fault::of_task(&Element::parse(text).unwrap());
        assert_eq!(fault.kind(), ErrorKind::Busy);
        for (name, kind) in [
            ("TaskInProgress", ErrorKind::Busy),
            ("NoDiskSpace", ErrorKind::NoSpace),
            ("NotImplemented", ErrorKind::Unsupported),
            ("NotSupported", ErrorKind::Unsupported),
            ("RestrictedVersion", ErrorKind::Refused),
            ("FileNotFound", ErrorKind::NotFound),
            ("InvalidDatastore", ErrorKind::Unreachable),
            ("SomethingNew", ErrorKind::Failed),
        ] {
            assert_eq!(Fault { name: name.into(), message: String::new() }.kind(), kind, "{name}");
        }
    }
}
