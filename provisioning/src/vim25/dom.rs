//! Answers as a small tree: read by path, with `xsi:type` told by its namespace and not by a prefix.
//!
//! What a server sends is untrusted: a document is bounded in size before it gets here, and in depth here.

use super::request::Reference;
use crate::{Error, ErrorKind, Result};
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::reader::NsReader;

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// How deep elements may lie in one another. The deepest answers that are asked for have a dozen levels.
const DEEPEST: usize = 64;

/// One element with what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Element {
    /// Its name without a prefix.
    pub(crate) name: String,
    /// The type that `xsi:type` says it has, without a prefix.
    pub(crate) xsi_type: Option<String>,
    /// The attribute `type`, which a reference to a managed object has.
    pub(crate) of: Option<String>,
    /// Its text.
    pub(crate) text: String,
    /// The elements in it, in order.
    pub(crate) children: Vec<Element>,
}

impl Element {
    /// Reads a document.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut reader = NsReader::from_str(text);
        let mut open: Vec<Element> = Vec::new();
        loop {
            let bad = |e: quick_xml::Error| Error::caused(ErrorKind::Corrupt, "reading a server's XML", e);
            let event = reader.read_event().map_err(bad)?;
            let ended = match event {
                Event::Start(start) => {
                    if open.len() >= DEEPEST {
                        let message = format!("a server's XML is nested more than {DEEPEST} deep");
                        return Err(Error::new(ErrorKind::Corrupt, message));
                    }
                    open.push(begin(&reader, &start));
                    None
                }
                Event::Empty(start) => Some(begin(&reader, &start)),
                Event::End(_) => open.pop(),
                Event::Text(text) => {
                    if let Some(top) = open.last_mut() {
                        top.text.push_str(&text.xml10_content());
                    }
                    None
                }
                Event::CData(text) => {
                    if let Some(top) = open.last_mut() {
                        top.text.push_str(&text.xml10_content());
                    }
                    None
                }
                Event::GeneralRef(name) => {
                    let c = match name.resolve_char_ref().map_err(bad)? {
                        Some(c) => Some(c),
                        None => named(&name.xml10_content()),
                    };
                    if let (Some(top), Some(c)) = (open.last_mut(), c) {
                        top.text.push(c);
                    }
                    None
                }
                Event::Eof => {
                    return Err(Error::new(ErrorKind::Corrupt, "a server's XML ends in the middle"));
                }
                Event::Decl(_) | Event::PI(_) | Event::DocType(_) | Event::Comment(_) => None,
            };
            if let Some(mut element) = ended {
                if !element.children.is_empty() {
                    // Only the white space between them.
                    element.text.clear();
                }
                match open.last_mut() {
                    Some(parent) => parent.children.push(element),
                    None => return Ok(element),
                }
            }
        }
    }
    /// The first element of that name in it.
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|c| c.name == name)
    }
    /// All elements of that name in it.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |c| c.name == name)
    }
    /// The element at a path such as `backing/fileName`, the first one of each name.
    pub(crate) fn at(&self, path: &str) -> Option<&Element> {
        path.split('/').try_fold(self, |element, name| element.child(name))
    }
    /// The text at a path.
    pub(crate) fn text_at(&self, path: &str) -> Option<&str> {
        self.at(path).map(|e| e.text.as_str())
    }
    /// The number at a path.
    pub(crate) fn number_at(&self, path: &str) -> Option<u64> {
        self.text_at(path)?.trim().parse().ok()
    }
    /// The managed object that it refers to.
    pub(crate) fn reference(&self) -> Option<Reference> {
        let kind = self.of.clone()?;
        (!self.text.is_empty()).then(|| Reference { kind, id: self.text.clone() })
    }
    /// The managed object that the element at a path refers to.
    pub(crate) fn reference_at(&self, path: &str) -> Option<Reference> {
        self.at(path)?.reference()
    }
}

fn begin(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Element {
    let mut element = Element { name: start.local_name().into_inner().to_owned(), ..Element::default() };
    for attribute in start.attributes().flatten() {
        let value = || attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).unwrap_or_default();
        match reader.resolver().resolve_attribute(attribute.key) {
            (ResolveResult::Bound(Namespace(XSI)), local) if local.as_ref() == "type" => {
                let value = value();
                let plain = value.rsplit_once(':').map_or(&*value, |(_, plain)| plain);
                element.xsi_type = Some(plain.to_owned());
            }
            (ResolveResult::Unbound, local) if local.as_ref() == "type" => {
                element.of = Some(value().into_owned());
            }
            _ => {}
        }
    }
    element
}

/// The five entities that XML has by itself. Others are none of vim25's.
fn named(name: &str) -> Option<char> {
    Some(match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_told_by_its_namespace_whatever_the_prefix() {
        let text = r#"<a xmlns:q="http://www.w3.org/2001/XMLSchema-instance" xmlns:v="urn:vim25">
            <obj type="VirtualMachine" q:type="v:ManagedObjectReference">vm-7</obj>
            <val q:type="xsd:string">a &lt;b&gt; &amp; c&#33;</val><empty/>
        </a>"#;
        let read = Element::parse(text).unwrap();
        let object = read.child("obj").unwrap();
        assert_eq!(object.xsi_type.as_deref(), Some("ManagedObjectReference"));
        assert_eq!(
            object.reference().unwrap(),
            Reference { kind: "VirtualMachine".into(), id: "vm-7".into() }
        );
        assert_eq!(read.text_at("val"), Some("a <b> & c!"));
        assert_eq!(read.text_at("empty"), Some(""));
        assert_eq!(read.at("val/none"), None);
    }

    #[test]
    fn what_is_no_document_is_an_error_and_no_panic() {
        let deep = "<a>".repeat(200);
        for bad in ["", "<a>", "<a></b>", "hello", deep.as_str(), "<a b=>"] {
            assert!(Element::parse(bad).is_err(), "{bad}");
        }
    }
}
