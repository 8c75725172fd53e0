//! Requests: a method on a managed object, its arguments in the order of the WSDL.
//!
//! A real server takes elements in the order of the schema's sequences only; whoever adds one here looks it up there.
//! All text is escaped: a name can never become an element.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Display, Write as _};

/// A managed object on the server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Reference {
    /// Its type, such as `VirtualMachine`.
    pub(crate) kind: String,
    /// Its id, such as `vm-42`.
    pub(crate) id: String,
}

impl Reference {
    pub(crate) fn new(kind: &str, id: &str) -> Self {
        Self { kind: kind.to_owned(), id: id.to_owned() }
    }
}
impl Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

/// XML that grows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Xml(String);

impl Xml {
    /// `<name>text</name>`
    pub(crate) fn text(&mut self, name: &str, value: impl Display) -> &mut Self {
        let value = value.to_string();
        let _ = write!(self.0, "<{name}>{}</{name}>", quick_xml::escape::escape(value.as_str()));
        self
    }
    /// A value whose declared type says too little, such as `xsd:string`.
    pub(crate) fn value(&mut self, name: &str, of: &str, value: impl Display) -> &mut Self {
        let value = value.to_string();
        let _ = write!(
            self.0,
            "<{name} xsi:type=\"{of}\">{}</{name}>",
            quick_xml::escape::escape(value.as_str())
        );
        self
    }
    /// An element with others in it.
    pub(crate) fn element(&mut self, name: &str, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let _ = write!(self.0, "<{name}>");
        inner(self);
        let _ = write!(self.0, "</{name}>");
        self
    }
    /// The same, of a type that extends the declared one.
    pub(crate) fn typed(&mut self, name: &str, of: &str, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let _ = write!(self.0, "<{name} xsi:type=\"{of}\">");
        inner(self);
        let _ = write!(self.0, "</{name}>");
        self
    }
    /// A managed object.
    pub(crate) fn reference(&mut self, name: &str, to: &Reference) -> &mut Self {
        let escape = |text: &str| quick_xml::escape::escape(text).into_owned();
        let _ = write!(self.0, "<{name} type=\"{}\">{}</{name}>", escape(&to.kind), escape(&to.id));
        self
    }
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    arguments: Xml,
}

impl Request {
    /// A method of an object, with its arguments.
    pub(crate) fn new(method: &'static str, this: &Reference, arguments: impl FnOnce(&mut Xml)) -> Self {
        let mut xml = Xml::default();
        xml.reference("_this", this);
        arguments(&mut xml);
        Self { method, arguments: xml }
    }
    /// The whole envelope.
    pub(crate) fn envelope(&self) -> String {
        let (method, arguments) = (self.method, &self.arguments.0);
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\
             <soapenv:Body><{method} xmlns=\"urn:vim25\">{arguments}</{method}></soapenv:Body></soapenv:Envelope>"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vim25::dom::Element;

    #[test]
    fn no_text_of_ours_can_become_an_element() {
        let this = Reference::new("FileManager", "a\"><b");
        let request = Request::new("MakeDirectory", &this, |x| {
            x.text("name", "[ds] </name><evil/>&").typed("spec", "Spec", |x| {
                x.value("v", "xsd:string", "<");
            });
        });
        let read = Element::parse(&request.envelope()).unwrap();
        let call = read.at("Body/MakeDirectory").unwrap();
        assert_eq!(call.text_at("name"), Some("[ds] </name><evil/>&"));
        assert_eq!(call.reference_at("_this"), Some(this));
        assert_eq!(call.children.len(), 3);
        assert_eq!(call.child("spec").unwrap().xsi_type.as_deref(), Some("Spec"));
    }
}
