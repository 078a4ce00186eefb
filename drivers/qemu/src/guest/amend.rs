//! Changes of a domain's description: of the guest as it runs, of its definition, or of both.
//!
//! Everything is worked out and checked first, so that what is refused changes nothing. A change of a running guest goes
//! into what it was started from too: a guest that goes on from a stored state goes on with it.

use super::live::Phase;
use super::{Guest, not_running};
use crate::domain::Definition;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::{Element, Limits, Node};
use std::sync::Arc;

/// Of the guest as it runs (`VIR_DOMAIN_AFFECT_LIVE`).
pub(crate) const LIVE: u32 = 1;
/// Of the definition (`VIR_DOMAIN_AFFECT_CONFIG`). Neither is what there is: the guest if it runs.
pub(crate) const CONFIG: u32 = 2;

/// The elements of a domain in their order.
const ORDER: &[&str] = &[
    "name",
    "uuid",
    "genid",
    "title",
    "description",
    "metadata",
    "maxMemory",
    "memory",
    "currentMemory",
    "blkiotune",
    "memtune",
    "memoryBacking",
    "vcpu",
    "vcpus",
    "iothreads",
    "iothreadids",
    "defaultiothread",
    "throttlegroups",
    "cputune",
    "numatune",
    "resource",
];

/// Which descriptions are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sides {
    pub(crate) live: bool,
    pub(crate) config: bool,
}

/// A change that was worked out.
pub(crate) struct Amended {
    live: Option<(Element, Definition)>,
    config: Option<Definition>,
}

impl Amended {
    /// A new definition, and nothing else.
    pub(crate) fn of_config(definition: Definition) -> Self {
        Self { live: None, config: Some(definition) }
    }
}

/// Puts an element of a domain into its place, instead of the one that is there.
pub(crate) fn place(root: &mut Element, element: Element) {
    let rank = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    root.take(&element.name);
    let own = rank(&element.name);
    let later = |node: &Node| matches!(node, Node::Element(other) if rank(&other.name) > own);
    let index = root.children.iter().position(later).unwrap_or(root.children.len());
    root.children.insert(index, Node::Element(element));
}

/// Reads what an earlier incarnation, or a change, wrote: a tree that is complete already.
pub(crate) fn tree(text: &str) -> Result<Element, Error> {
    bulkhead_xml::parse(text.as_bytes(), Limits::default(), "domain/metadata")
        .map_err(|error| Error::new(Code::XML_ERROR, Origin::QEMU, error.to_string()))
}

impl Guest {
    /// Which descriptions flags mean.
    pub(crate) fn sides(&self, flags: u32) -> Result<Sides, Error> {
        let (live, config) = (flags & LIVE != 0, flags & CONFIG != 0);
        let runs = self.running.is_some();
        if live && !runs {
            return Err(not_running(&self.name));
        }
        let sides = if live || config { Sides { live, config } } else { Sides { live: runs, config: !runs } };
        if sides.config && self.persistent.is_none() {
            let message = format!("Domain '{}': it is transient: it has no definition to change", self.name);
            return Err(Error::new(Code::OPERATION_INVALID, Origin::DOMAIN, message));
        }
        Ok(sides)
    }

    /// Works out a change.
    pub(crate) async fn amended(
        &self,
        sides: Sides,
        edit: impl Fn(&mut Element) -> Result<(), Error> + Send,
    ) -> Result<Amended, Error> {
        let mut amended = Amended { live: None, config: None };
        if sides.live {
            let running = self.active()?;
            let (mut root, mut definition) = (Element::clone(&running.live), running.definition.clone());
            edit(&mut root)?;
            edit(&mut definition.root)?;
            amended.live = Some((root, definition));
        }
        if sides.config
            && let Some(definition) = &self.persistent
        {
            let mut root = definition.root.clone();
            edit(&mut root)?;
            let (definition, _) = self.environment.read(root.to_xml().as_bytes()).await?;
            amended.config = Some(definition);
        }
        Ok(amended)
    }

    /// Makes a change hold.
    pub(crate) async fn apply(&mut self, amended: Amended) -> Result<(), Error> {
        if let Some((root, definition)) = amended.live
            && let Some(running) = &mut self.running
        {
            running.live = Arc::new(root);
            running.definition = definition;
            self.publish();
            self.record(Phase::Running).await?;
        }
        if let Some(definition) = amended.config {
            let (folder, name, text) =
                (self.environment.definitions.clone(), self.name.clone(), definition.root.to_xml());
            self.environment
                .on_disk(&format!("Definition of domain '{name}'"), move || {
                    folder.write(&name, text.as_bytes())
                })
                .await?;
            self.persistent = Some(Arc::new(definition));
            self.publish();
        }
        Ok(())
    }

    /// Works out a change and makes it hold.
    pub(crate) async fn amend(
        &mut self,
        sides: Sides,
        edit: impl Fn(&mut Element) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let amended = self.amended(sides, edit).await?;
        self.apply(amended).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_goes_where_libvirt_prints_it() {
        let mut root = tree("<domain><name>a</name><uuid/><memory/><vcpu/><os/></domain>").unwrap();
        place(&mut root, Element::new("title").with_text("x"));
        place(&mut root, Element::new("cputune"));
        place(&mut root, Element::new("vcpu").with_text("2"));
        let names: Vec<&str> = root.elements().map(|element| element.name.as_str()).collect();
        assert_eq!(names, ["name", "uuid", "title", "memory", "vcpu", "cputune", "os"]);
    }
}
