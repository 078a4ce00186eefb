//! Domain XML: reading, completing with libvirt's defaults, checking, addresses, aliases, writing.
//!
//! A definition is a normalised tree: what libvirt would print, element by element, in its order. Owns: everything
//! of a domain that is not one device's own business. Never does: I/O, running guests.

pub mod context;
pub mod host;

mod addresses;
mod basics;
mod clock;
mod cpu;
mod devices;
mod drives;
pub mod facilities;
mod features;
mod firmware;
mod fit;
mod host_cpu;
mod implicit;
mod machine;
mod namespace;
mod os;
mod place;
mod read;
mod refuse;
pub(crate) mod sets;
mod tuning;

pub use host::Host;
pub(crate) use host_cpu::settle_host_model;
pub(crate) use tuning::PERF_EVENTS;

use bulkhead_wire::error::Error;
use bulkhead_xml::{Element, Node};

/// What a document is read for; some checks belong to one purpose alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To keep a definition.
    Define,
    /// To start a guest that is not kept.
    Create,
    /// To show the command line.
    Native,
}

/// Reads a document, which need not be one of a domain.
///
/// # Errors
/// What is no XML, or more of it than is taken.
pub fn document(xml: &[u8]) -> Result<Element, Error> {
    read::document(xml)
}

/// The architecture of a document that names none.
pub(crate) fn architecture(document: &Element, host: &Host) -> String {
    machine::architecture(document, host)
}

/// A complete definition of a domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The tree, as libvirt prints an inactive domain with its secrets.
    pub root: Element,
}

impl Definition {
    /// Reads a document and completes it.
    ///
    /// # Errors
    /// What is no domain, contradicts itself, or can't be had on this host.
    pub fn read(xml: &[u8], host: &Host, _purpose: Purpose) -> Result<Self, Error> {
        Self::complete(document(xml)?, host)
    }

    /// Completes a document that was read.
    ///
    /// # Errors
    /// What is no domain, contradicts itself, or can't be had on this host.
    pub fn complete(document: Element, host: &Host) -> Result<Self, Error> {
        read::read(document, host).map(|root| Self { root })
    }

    /// Takes up a definition that was complete when it was written. It is read again, which shows whether somebody changed
    /// it into nonsense, and not compared with the host: a start will tell what has gone from there.
    ///
    /// # Errors
    /// What is no domain, or contradicts itself.
    pub fn recall(xml: &[u8], host: &Host) -> Result<Self, Error> {
        let document = document(xml)?;
        let host = host.as_told(&document);
        Self::complete(document, &host)
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.root.child_text("name").unwrap_or_default()
    }

    /// The domain's UUID in its usual spelling.
    #[must_use]
    pub fn uuid(&self) -> String {
        self.root.child_text("uuid").unwrap_or_default()
    }

    /// The domain's title, if it has one.
    #[must_use]
    pub fn title(&self) -> Option<String> {
        self.root.child_text("title")
    }

    /// The tree of the running guest of that number: with it and the aliases of devices.
    #[must_use]
    pub fn live(&self, id: u32) -> Element {
        let mut root = self.root.clone();
        root.attributes.retain(|(name, _)| name != "id");
        let place = usize::from(root.attr("type").is_some());
        root.attributes.insert(place, ("id".to_owned(), id.to_string()));
        crate::args::alias::assign(&mut root);
        root
    }

    /// What `domainXMLToNative` makes a command line of: interfaces reduced to taps, which are given addresses anew.
    ///
    /// # Errors
    /// What the host lacks, and devices for which there is no room once they are placed again.
    pub fn native(&self, host: &Host) -> Result<Element, Error> {
        read::check_facilities(&self.root, host)?;
        let mut root = self.root.clone();
        crate::args::reduce_interfaces(&mut root);
        drop_optional_volumes(&mut root);
        for device in root.child_mut("devices").into_iter().flat_map(Element::elements_mut) {
            if device.name == "interface" {
                device.take("address");
            }
        }
        read::place_again(&mut root, host)?;
        Ok(root)
    }

    /// The XML of the inactive domain; passwords only if `secure`.
    #[must_use]
    pub fn to_xml(&self, secure: bool) -> String {
        if secure {
            return self.root.to_xml();
        }
        let mut public = self.root.clone();
        if let Some(devices) = public.child_mut("devices") {
            for device in devices.elements_mut() {
                match device.name.as_str() {
                    "graphics" => drop(device.unset("passwd")),
                    "disk" => hide_cookies(device),
                    _ => {}
                }
            }
        }
        public.to_xml()
    }
}

/// Volumes that a guest can do without are left out while no pool has them.
fn drop_optional_volumes(root: &mut Element) {
    let Some(devices) = root.child_mut("devices") else {
        return;
    };
    let absent = |device: &Element| {
        device.name == "disk"
            && device.attr("type") == Some("volume")
            && device.path_attr("source", "startupPolicy") == Some("optional")
    };
    let fixed = |device: &Element| !matches!(device.attr("device"), Some("cdrom" | "floppy"));
    devices.children.retain(|node| !matches!(node, Node::Element(e) if absent(e) && fixed(e)));
    for drive in devices.elements_mut().filter(|device| absent(device)) {
        drive.take("source");
    }
}

/// Takes out what a disk's chain of sources says to web servers.
fn hide_cookies(element: &mut Element) {
    element.take("cookies");
    // A document is nested 255 deep at most.
    element.elements_mut().for_each(hide_cookies);
}
