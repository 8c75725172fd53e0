//! The XML of pools and volumes.

use super::super::definition::{W, element, leaf, text};
use quick_xml::Writer;
use std::io;

/// A volume as libvirt describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Volume {
    pub(in super::super) name: String,
    /// Its path on the host.
    pub(in super::super) path: String,
    /// What it takes on its file system, in bytes.
    pub(in super::super) taken: u64,
    /// What it lies on.
    pub(in super::super) backing: Option<String>,
    /// When it was last written, in seconds since 1970.
    pub(in super::super) written: u64,
}

/// A volume to be made.
#[derive(Debug, Clone)]
pub(in super::super) struct NewVolume {
    pub(in super::super) name: String,
    /// `None` for as much as what it lies on shows.
    pub(in super::super) size: Option<u64>,
    /// What it lies on, and the format of that; it is a qcow2 then.
    pub(in super::super) over: Option<(String, String)>,
    /// Whether everybody on the host may read it.
    pub(in super::super) readable: bool,
}

mod raw {
    use serde::Deserialize;
    #[derive(Deserialize)]
    pub struct Volume {
        pub name: String,
        pub target: Target,
        pub allocation: Option<Amount>,
        #[serde(rename = "backingStore")]
        pub backing: Option<Backing>,
    }
    #[derive(Deserialize)]
    pub struct Amount {
        #[serde(rename = "$text", default)]
        pub value: u64,
    }
    #[derive(Deserialize)]
    pub struct Target {
        pub path: Option<String>,
        pub timestamps: Option<Timestamps>,
    }
    #[derive(Deserialize)]
    pub struct Timestamps {
        pub mtime: Option<String>,
    }
    #[derive(Deserialize)]
    pub struct Backing {
        pub path: Option<String>,
    }
    #[derive(Deserialize)]
    pub struct Pool {
        #[serde(rename = "@type")]
        pub kind: Option<String>,
        pub target: Option<Target>,
    }
}

fn written(build: impl FnOnce(&mut W) -> io::Result<()>) -> String {
    let mut w = Writer::new_with_indent(Vec::new(), b' ', 2);
    // Writing into memory does not fail, and what is written is text.
    let _ = build(&mut w);
    String::from_utf8_lossy(&w.into_inner()).into_owned()
}

/// A directory as a pool. Machines' files may be opened by name, and nobody but root lists them.
pub(super) fn pool(name: &str, path: &str) -> String {
    written(|w| {
        element(w, "pool", &[("type", "dir")], |w| {
            text(w, "name", &[], name)?;
            element(w, "target", &[], |w| {
                text(w, "path", &[], path)?;
                element(w, "permissions", &[], |w| text(w, "mode", &[], "0711"))
            })
        })
    })
}

impl NewVolume {
    pub(super) fn xml(&self) -> String {
        written(|w| {
            element(w, "volume", &[], |w| {
                text(w, "name", &[], &self.name)?;
                if let Some(size) = self.size {
                    text(w, "capacity", &[("unit", "bytes")], &size.to_string())?;
                }
                text(w, "allocation", &[], "0")?;
                element(w, "target", &[], |w| {
                    leaf(w, "format", &[("type", if self.over.is_some() { "qcow2" } else { "raw" })])?;
                    let mode = if self.readable { "0644" } else { "0600" };
                    element(w, "permissions", &[], |w| text(w, "mode", &[], mode))
                })?;
                let Some((path, format)) = &self.over else { return Ok(()) };
                element(w, "backingStore", &[], |w| {
                    text(w, "path", &[], path)?;
                    leaf(w, "format", &[("type", format)])
                })
            })
        })
    }
}

/// Reads a volume's XML; `None` for what is no file.
pub(super) fn volume(xml: &str) -> Option<Volume> {
    let raw: raw::Volume = quick_xml::de::from_str(xml).ok()?;
    let mtime = raw.target.timestamps.and_then(|t| t.mtime);
    let seconds = mtime.and_then(|t| t.split('.').next()?.parse().ok());
    Some(Volume {
        name: raw.name,
        path: raw.target.path?,
        taken: raw.allocation.map_or(0, |a| a.value),
        backing: raw.backing.and_then(|b| b.path),
        written: seconds.unwrap_or(0),
    })
}

/// The directory of a pool that is one.
pub(super) fn directory(xml: &str) -> Option<String> {
    let raw: raw::Pool = quick_xml::de::from_str(xml).ok()?;
    raw.kind.filter(|kind| matches!(kind.as_str(), "dir" | "fs" | "netfs"))?;
    raw.target?.path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_written_and_one_of_libvirt_s_is_read() {
        let over = NewVolume {
            name: "vcl-machine.a.disk0.qcow2".into(),
            size: None,
            over: Some(("/pool/vcl-image.a@1.disk0.qcow2.ff.job1-token1".into(), "qcow2".into())),
            readable: false,
        };
        let xml = over.xml();
        assert!(xml.contains("<format type=\"qcow2\"/>") && xml.contains("<mode>0600</mode>"), "{xml}");
        assert!(!xml.contains("capacity"), "{xml}");
        let read = volume(
            "<volume type='file'><name>n&amp;m</name><key>/p/n</key><capacity unit='bytes'>10</capacity>\
             <allocation unit='bytes'>7</allocation><physical unit='bytes'>8</physical><target><path>/p/n</path>\
             <format type='qcow2'/><permissions><mode>0600</mode></permissions><timestamps><atime>1.5</atime>\
             <mtime>1700000001.25</mtime></timestamps></target><backingStore><path>/p/b</path><format type='qcow2'/>\
             </backingStore></volume>",
        );
        let expected = Volume {
            name: "n&m".into(),
            path: "/p/n".into(),
            taken: 7,
            backing: Some("/p/b".into()),
            written: 1_700_000_001,
        };
        assert_eq!(read, Some(expected));
        assert_eq!(volume("<volume>"), None);
    }

    #[test]
    fn only_a_directory_is_a_pool_for_us() {
        assert_eq!(directory(&pool("vcl", "/srv/p")).as_deref(), Some("/srv/p"));
        assert_eq!(directory(&pool("vcl", "/srv/p").replace("\"dir\"", "\"logical\"")), None);
    }
}
