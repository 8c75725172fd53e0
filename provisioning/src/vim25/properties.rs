//! Reading objects' properties: of some, of all of a type, and as they change.
//!
//! Only leaf properties are asked for, never whole objects.

use super::client::{CALL, Client, Session, fault_of, is_over};
use super::dom::Element;
use super::request::{Reference, Request, Xml};
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How many objects come in one answer.
const PAGE: u32 = 200;
/// How long a server holds an answer back in which nothing has changed.
const HELD: Duration = Duration::from_secs(20);

/// What was read of an object. A property that it has not is not in it.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) reference: Reference,
    pub(crate) properties: BTreeMap<String, Element>,
}

impl Object {
    pub(crate) fn get(&self, name: &str) -> Option<&Element> {
        self.properties.get(name)
    }
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(|e| e.text.as_str())
    }
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|text| text.trim() == "true" || text.trim() == "1")
    }
    pub(crate) fn reference(&self, name: &str) -> Option<Reference> {
        self.get(name)?.reference()
    }
}

fn filter(x: &mut Xml, name: &str, of: &str, paths: &[&str], objects: impl FnOnce(&mut Xml)) {
    x.element(name, |x| {
        x.element("propSet", |x| {
            x.text("type", of);
            for path in paths {
                x.text("pathSet", path);
            }
        });
        objects(x);
    });
}

fn objects(answer: &Element) -> impl Iterator<Item = Object> {
    answer.child("returnval").into_iter().flat_map(|r| r.all("objects")).filter_map(|object| {
        let properties = object.all("propSet");
        let properties =
            properties.filter_map(|p| Some((p.text_at("name")?.to_owned(), p.child("val")?.clone())));
        Some(Object { reference: object.reference_at("obj")?, properties: properties.collect() })
    })
}

impl Client {
    /// Properties of one object. [`ErrorKind::NotFound`] when it is gone.
    pub(crate) async fn read(&self, object: &Reference, paths: &[&str]) -> Result<Object> {
        let what = format!("reading {object}");
        let answer = self
            .call(&what, |content| {
                Request::new("RetrievePropertiesEx", &content.properties, |x| {
                    filter(x, "specSet", &object.kind, paths, |x| {
                        x.element("objectSet", |x| {
                            x.reference("obj", object).text("skip", false);
                        });
                    });
                    x.element("options", |_| {});
                })
            })
            .await?;
        let found = objects(&answer).next();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{what}: it is not there")))
    }

    /// Properties of all objects of a type below another.
    pub(crate) async fn list(
        &self,
        below: Option<&Reference>,
        of: &str,
        paths: &[&str],
    ) -> Result<Vec<Object>> {
        let what = format!("listing every {of}");
        let view = self
            .call(&what, |content| {
                Request::new("CreateContainerView", &content.views, |x| {
                    x.reference("container", below.unwrap_or(&content.root));
                    x.text("type", of).text("recursive", true);
                })
            })
            .await?;
        let missing = || Error::new(ErrorKind::Corrupt, format!("{what}: the server answers with no view"));
        let view = view.reference_at("returnval").ok_or_else(missing)?;
        let listed = self.list_in(&what, &view, of, paths).await;
        // Left alone it would be there until the session ends.
        let _ = self.call("closing a view", |_| Request::new("DestroyView", &view, |_| {})).await;
        listed
    }

    async fn list_in(&self, what: &str, view: &Reference, of: &str, paths: &[&str]) -> Result<Vec<Object>> {
        let mut answer = self
            .call(what, |content| {
                Request::new("RetrievePropertiesEx", &content.properties, |x| {
                    filter(x, "specSet", of, paths, |x| {
                        x.element("objectSet", |x| {
                            x.reference("obj", view).text("skip", true);
                            x.typed("selectSet", "TraversalSpec", |x| {
                                x.text("name", "view").text("type", "ContainerView");
                                x.text("path", "view").text("skip", false);
                            });
                        });
                    });
                    x.element("options", |x| {
                        x.text("maxObjects", PAGE);
                    });
                })
            })
            .await?;
        let mut found = Vec::new();
        loop {
            found.extend(objects(&answer));
            let Some(token) = answer.text_at("returnval/token").map(str::to_owned) else { return Ok(found) };
            answer = self
                .call(what, |content| {
                    Request::new("ContinueRetrievePropertiesEx", &content.properties, |x| {
                        x.text("token", &token);
                    })
                })
                .await?;
        }
    }

    /// Watches properties of an object.
    pub(super) fn watch<'a>(&'a self, object: &'a Reference, paths: &'a [&'a str]) -> Watch<'a> {
        Watch { client: self, object, paths, collector: None, renewed: false }
    }
}

/// An object that is watched. What it watches with lives in a session, and is made again in the next one.
pub(super) struct Watch<'a> {
    client: &'a Client,
    object: &'a Reference,
    paths: &'a [&'a str],
    collector: Option<Collector>,
    renewed: bool,
}

struct Collector {
    session: Arc<Session>,
    reference: Reference,
    version: String,
}

impl Watch<'_> {
    /// What has changed since the last time, everything the first time; nothing when nothing did for a while.
    pub(super) async fn next(&mut self) -> Result<BTreeMap<String, Option<Element>>> {
        loop {
            match self.once().await {
                // The object itself may be gone, or only what we watched it with.
                Err(e) if is_over(&e) || (fault_of(&e) == Some("ManagedObjectNotFound") && !self.renewed) => {
                    if self.renewed {
                        return Err(e);
                    }
                    self.renewed = true;
                    let old = self.collector.take();
                    if let Some(old) = old.filter(|_| is_over(&e)) {
                        self.client.renew(&old.session).await?;
                    }
                }
                Err(e) => {
                    self.collector = None;
                    return Err(self.client.outlast(e).await);
                }
                Ok(changed) => {
                    self.renewed = false;
                    return Ok(changed);
                }
            }
        }
    }

    async fn once(&mut self) -> Result<BTreeMap<String, Option<Element>>> {
        let what = format!("watching {}", self.object);
        if self.collector.is_none() {
            self.collector = Some(self.begin(&what).await?);
        }
        let Some(collector) = &mut self.collector else { return Ok(BTreeMap::new()) };
        let request = Request::new("WaitForUpdatesEx", &collector.reference, |x| {
            x.text("version", &collector.version);
            x.element("options", |x| {
                x.text("maxWaitSeconds", HELD.as_secs());
            });
        });
        let answer = self.client.call_in(&what, &collector.session, &request, HELD + CALL).await?;
        let Some(update) = answer.child("returnval") else { return Ok(BTreeMap::new()) };
        if let Some(version) = update.text_at("version") {
            collector.version = version.to_owned();
        }
        let mut changed = BTreeMap::new();
        for object in update.all("filterSet").flat_map(|f| f.all("objectSet")) {
            if object.text_at("kind") == Some("leave") {
                let message = format!("{what}: it is not there any more");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            for change in object.all("changeSet") {
                if let Some(name) = change.text_at("name") {
                    changed.insert(name.to_owned(), change.child("val").cloned());
                }
            }
        }
        Ok(changed)
    }

    async fn begin(&self, what: &str) -> Result<Collector> {
        let mut session = self.client.session().await?;
        let make =
            |session: &Session| Request::new("CreatePropertyCollector", &session.content.properties, |_| {});
        let made = match self.client.call_in(what, &session, &make(&session), CALL).await {
            Err(e) if is_over(&e) => {
                session = self.client.renew(&session).await?;
                self.client.call_in(what, &session, &make(&session), CALL).await?
            }
            made => made?,
        };
        let missing =
            || Error::new(ErrorKind::Corrupt, format!("{what}: the server answers with no collector"));
        let reference = made.reference_at("returnval").ok_or_else(missing)?;
        let request = Request::new("CreateFilter", &reference, |x| {
            filter(x, "spec", &self.object.kind, self.paths, |x| {
                x.element("objectSet", |x| {
                    x.reference("obj", self.object).text("skip", false);
                });
            });
            x.text("partialUpdates", false);
        });
        self.client.call_in(what, &session, &request, CALL).await?;
        Ok(Collector { session, reference, version: String::new() })
    }

    /// Ends it.
    pub(super) async fn close(mut self) {
        if let Some(collector) = self.collector.take() {
            let request = Request::new("DestroyPropertyCollector", &collector.reference, |_| {});
            let _ = self.client.call_in("ending a watch", &collector.session, &request, CALL).await;
        }
    }
}
