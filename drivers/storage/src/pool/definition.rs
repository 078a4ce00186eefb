//! A pool's definition: XML read, checked and completed, and written again.

use super::kind::{self, Kind, Name, Target};
use crate::error::{error, unsupported, wrong_frame, wrong_xml};
use crate::protocol::Permissions;
use crate::xml::{self, clean_path, leaf, permissions_of, text_of};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::storage::PoolRef;
use bulkhead_xml::{Element, Node};

/// Namespaces whose elements a pool may have: prefix, name, type of pool, element and its children.
const NAMESPACES: &[(&str, &str, &[&str], &str)] = &[
    ("fs", "http://libvirt.org/schemas/storagepool/fs/1.0", &["fs", "netfs"], "mount_opts"),
    ("rbd", "http://libvirt.org/schemas/storagepool/rbd/1.0", &["rbd"], "config_opts"),
];
/// Longest name of a pool: it becomes the name of a file.
const NAME_MAX_BYTES: usize = 240;

/// What a pool is.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Its type.
    pub kind: &'static Kind,
    /// Where it is shown.
    pub target: Option<String>,
    /// Owner and mode of its folder.
    pub permissions: Permissions,
    label: Option<String>,
    source: Element,
    features: Option<Element>,
    extra: Option<(&'static str, &'static str, Element)>,
}

/// Sizes of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes that are used.
    pub allocation_bytes: u64,
    /// Bytes that are free.
    pub available_bytes: u64,
}

impl Definition {
    /// Reads a definition. `fresh` makes the uuid of one that names none.
    ///
    /// # Errors
    /// XML that is none of a pool.
    pub fn read(text: &str, fresh: impl FnOnce() -> Uuid) -> Result<Self, Error> {
        let root = xml::read(text, "pool")?;
        let kind = root.attr("type").ok_or_else(|| wrong_frame("<pool> lacks its attribute 'type'"))?;
        let kind = kind::of(kind)
            .ok_or_else(|| wrong_frame(format!("<pool type='{kind}'> is no type of pool; try 'dir'")))?;
        let empty = Element::new("source");
        let given = root.child("source").unwrap_or(&empty);
        let source_name = text_of(given, "name");
        let name = text_of(&root, "name").or_else(|| source_name.clone());
        let name = name.ok_or_else(|| wrong_xml("The pool has no <name>"))?;
        check_name(&name)?;
        let uuid = match text_of(&root, "uuid") {
            Some(text) => {
                Uuid::parse(&text).ok_or_else(|| wrong_xml(format!("<uuid> is no uuid: '{text}'")))?
            }
            None => fresh(),
        };
        let source_name = match kind.source_name {
            Name::No => source_name,
            Name::OrPool => source_name.or_else(|| Some(name.clone())),
            Name::Needed => Some(source_name.ok_or_else(|| {
                wrong_xml(format!("A pool of type '{}' needs a <name> in its <source>", kind.name))
            })?),
        };
        let source = source(kind, given, source_name.as_deref())?;
        let target = target(kind, root.child("target"), source_name.as_deref())?;
        let (permissions, label) = permissions_of(root.child("target"))?;
        let features = root.child("features").and_then(features).transpose()?;
        let extra = NAMESPACES
            .iter()
            .find(|(_, _, kinds, _)| kinds.contains(&kind.name))
            .and_then(|(prefix, namespace, _, element)| extra(&root, prefix, namespace, element));
        Ok(Self { name, uuid, kind, target, permissions, label, source, features, extra })
    }

    /// Itself in a few words.
    #[must_use]
    pub fn to_ref(&self) -> PoolRef {
        PoolRef { name: self.name.clone(), uuid: self.uuid }
    }

    /// The whole XML.
    #[must_use]
    pub fn to_xml(&self, sizes: Sizes, found: Option<Permissions>) -> String {
        let mut root = Element::new("pool").with("type", self.kind.name);
        if let Some((prefix, namespace, _)) = &self.extra {
            root.set(&format!("xmlns:{prefix}"), *namespace);
        }
        root.push(leaf("name", &self.name));
        root.push(leaf("uuid", self.uuid.to_string()));
        root.push(xml::size("capacity", sizes.capacity_bytes));
        root.push(xml::size("allocation", sizes.allocation_bytes));
        root.push(xml::size("available", sizes.available_bytes));
        root.children.extend(self.features.clone().map(Node::Element));
        let mut source = self.source.clone();
        if source.children.is_empty() {
            // As stock lays an empty one out.
            source.children.push(Node::Raw("\n  ".to_owned()));
        }
        root.push(source);
        if let Some(path) = &self.target {
            let mut target = Element::new("target").with_child(leaf("path", path));
            let permissions = xml::permissions(found.unwrap_or(self.permissions), self.label.as_deref());
            target.children.extend(permissions.map(Node::Element));
            root.push(target);
        }
        root.children.extend(self.extra.clone().map(|(_, _, element)| Node::Element(element)));
        root.to_xml()
    }

    /// Do both stand on the same?
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        if self.kind.name != other.kind.name {
            return self.kind.driven && other.kind.driven && self.target == other.target;
        }
        let same = |path: &str, attribute: &str| {
            let ours = self.source.path_attr(path, attribute);
            ours.is_some() && ours == other.source.path_attr(path, attribute)
        };
        let devices = |of: &Self| -> Vec<String> {
            of.source.all("device").filter_map(|device| device.attr("path").map(str::to_owned)).collect()
        };
        match self.kind.name {
            "dir" | "mpath" => self.target == other.target,
            "netfs" | "gluster" => {
                same("host", "name")
                    && same("dir", "path")
                    && self.source.child_text("name") == other.source.child_text("name")
            }
            "iscsi" | "iscsi-direct" => {
                let initiator = self.source.path_attr("initiator/iqn", "name");
                same("host", "name")
                    && same("device", "path")
                    && initiator == other.source.path_attr("initiator/iqn", "name")
            }
            "scsi" => self.source.child("adapter") == other.source.child("adapter"),
            "fs" | "disk" => devices(self).iter().any(|device| devices(other).contains(device)),
            _ => self.source.child_text("name") == other.source.child_text("name"),
        }
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.contains('/') {
        return Err(wrong_xml(format!("The pool's name '{name}' holds a '/', which no name of a pool may")));
    }
    if name.chars().any(char::is_control) {
        let message =
            format!("The pool's name {name:?} holds a control character, which no name of a pool may");
        return Err(Error::new(Code::XML_DETAIL, Origin::XML, message));
    }
    if name.len() > NAME_MAX_BYTES || name.starts_with('.') {
        return Err(wrong_xml(format!(
            "The pool's name '{name}' begins with a dot, or has more than {NAME_MAX_BYTES} bytes"
        )));
    }
    Ok(())
}

fn needed(kind: &Kind, what: &str) -> Error {
    wrong_xml(format!("A pool of type '{}' needs {what}", kind.name))
}

/// Attributes of an element, those that are there, in this order.
fn copy(from: &Element, name: &str, attributes: &[&str]) -> Element {
    let mut element = Element::new(name);
    for attribute in attributes {
        if let Some(value) = from.attr(attribute) {
            element.set(attribute, value);
        }
    }
    element
}

/// The source in the order in which it is written.
fn source(kind: &Kind, given: &Element, name: Option<&str>) -> Result<Element, Error> {
    let mut source = Element::new("source");
    if kind.name == "dir" {
        // It stands on its target alone.
        return Ok(source);
    }
    for host in given.all("host") {
        if host.attr("name").is_none() {
            return Err(wrong_xml("<host> in <source> lacks its attribute 'name'"));
        }
        source.push(copy(host, "host", &["name", "port"]));
    }
    if kind.host && source.children.is_empty() {
        return Err(needed(kind, "a <host name=''> in its <source>"));
    }
    let devices = given.all("device").filter(|device| device.attr("path").is_some());
    let devices: Vec<Element> =
        devices.map(|device| copy(device, "device", &["path", "part_separator"])).collect();
    if kind.device && devices.is_empty() {
        return Err(needed(kind, "a <device path=''> in its <source>"));
    }
    source.children.extend(devices.into_iter().map(Node::Element));
    match given.path_attr("dir", "path") {
        Some(path) => source.push(Element::new("dir").with("path", clean_path(path))),
        None if kind.name == "gluster" => source.push(Element::new("dir").with("path", "/")),
        None if kind.dir => return Err(needed(kind, "a <dir path=''> in its <source>")),
        None => {}
    }
    if kind.adapter {
        let adapter = given.child("adapter").ok_or_else(|| needed(kind, "an <adapter> in its <source>"))?;
        source.push(adapter_of(adapter)?);
    }
    if let Some(name) = name.filter(|_| kind.source_name != Name::No || given.child("name").is_some()) {
        source.push(leaf("name", name));
    }
    match given.path_attr("initiator/iqn", "name") {
        Some(name) => {
            source.push(Element::new("initiator").with_child(Element::new("iqn").with("name", name)));
        }
        None if kind.initiator => {
            return Err(unsupported(format!(
                "A pool of type '{}' needs an <initiator><iqn name=''/></initiator> in its <source>",
                kind.name
            )));
        }
        None => {}
    }
    if let Some(auth) = given.child("auth") {
        source.push(auth_of(auth)?);
    }
    for element in ["vendor", "product"] {
        if let Some(named) = given.child(element) {
            source.push(copy(named, element, &["name"]));
        }
    }
    if let Some(default) = kind.default_format {
        let format = given.path_attr("format", "type").unwrap_or(default);
        if !kind.formats.contains(&format) {
            let known = kind.formats.join(", ");
            return Err(unsupported(format!(
                "'{format}' is no format of a pool of type '{}'; those are {known}",
                kind.name
            )));
        }
        source.push(Element::new("format").with("type", format));
    }
    if let Some(version) = given.path_attr("protocol", "ver") {
        source.push(Element::new("protocol").with("ver", version));
    }
    Ok(source)
}

/// A world wide name: 16 hexadecimal digits.
fn check_wwn(wwn: &str) -> Result<(), Error> {
    if wwn.len() == 16 && wwn.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(Error::new(Code::INTERNAL, Origin::NONE, format!("'{wwn}' is no world wide name of 16 digits")))
}

fn adapter_of(given: &Element) -> Result<Element, Error> {
    let kind = given.attr("type").unwrap_or("scsi_host");
    let mut adapter = Element::new("adapter").with("type", kind);
    match kind {
        "fc_host" => {
            let names =
                ["parent", "parent_wwnn", "parent_wwpn", "parent_fabric_wwn", "managed", "wwnn", "wwpn"];
            for name in ["wwnn", "wwpn"] {
                let wwn = given.attr(name);
                check_wwn(wwn.ok_or_else(|| wrong_xml(format!("<adapter type='fc_host'> lacks '{name}'")))?)?;
            }
            for name in ["parent_wwnn", "parent_wwpn", "parent_fabric_wwn"] {
                given.attr(name).map_or(Ok(()), check_wwn)?;
            }
            adapter.attributes.extend(copy(given, "adapter", &names).attributes);
        }
        "scsi_host" => match (given.attr("name"), given.child("parentaddr")) {
            (Some(name), _) => adapter.set("name", name),
            (None, Some(parent)) => {
                let mut address = copy(parent, "parentaddr", &["unique_id"]);
                if let Some(place) = parent.child("address") {
                    address.push(copy(place, "address", &["domain", "bus", "slot", "function"]));
                }
                adapter.push(address);
            }
            (None, None) => {
                return Err(wrong_xml("<adapter type='scsi_host'> names neither itself nor its parent"));
            }
        },
        other => {
            return Err(wrong_xml(format!("<adapter type='{other}'> is none; try scsi_host or fc_host")));
        }
    }
    Ok(adapter)
}

fn auth_of(given: &Element) -> Result<Element, Error> {
    let kind = given.attr("type").ok_or_else(|| wrong_xml("<auth> lacks its attribute 'type'"))?;
    if !matches!(kind, "chap" | "ceph") {
        return Err(wrong_xml(format!("<auth type='{kind}'> is none; try chap or ceph")));
    }
    let user = given.attr("username").ok_or_else(|| wrong_xml("<auth> lacks its attribute 'username'"))?;
    let secret = given.child("secret").map(|secret| copy(secret, "secret", &["type", "usage", "uuid"]));
    let secret = secret.ok_or_else(|| wrong_xml("<auth> lacks its <secret>"))?;
    if secret.attr("usage").is_none() && secret.attr("uuid").is_none() {
        return Err(wrong_xml("<secret> of <auth> has neither 'uuid' nor 'usage'"));
    }
    Ok(Element::new("auth").with("type", kind).with("username", user).with_child(secret))
}

fn target(kind: &Kind, given: Option<&Element>, source_name: Option<&str>) -> Result<Option<String>, Error> {
    match kind.target {
        Target::No => Ok(None),
        Target::Below(folder) => Ok(Some(format!("{folder}/{}", source_name.unwrap_or_default()))),
        Target::Path => {
            let path = given.and_then(|target| text_of(target, "path"));
            path.map(|path| Some(clean_path(&path))).ok_or_else(|| needed(kind, "a <path> in its <target>"))
        }
    }
}

fn features(given: &Element) -> Option<Result<Element, Error>> {
    let state = given.child("cow")?.attr("state").unwrap_or_default();
    if !matches!(state, "yes" | "no") {
        return Some(Err(wrong_xml(format!("<cow state='{state}'> is neither 'yes' nor 'no'"))));
    }
    Some(Ok(Element::new("features").with_child(Element::new("cow").with("state", state))))
}

/// What a namespace adds.
fn extra(
    root: &Element,
    prefix: &'static str,
    namespace: &'static str,
    name: &str,
) -> Option<(&'static str, &'static str, Element)> {
    let local = |element: &Element| element.name.rsplit(':').next().map(str::to_owned);
    let given = root.elements().find(|element| {
        element.namespace.as_deref() == Some(namespace) && local(element).as_deref() == Some(name)
    })?;
    let mut element = Element::new(&format!("{prefix}:{name}"));
    for option in given.elements().filter(|option| local(option).as_deref() == Some("option")) {
        element.push(copy(option, &format!("{prefix}:option"), &["name", "value"]));
    }
    Some((prefix, namespace, element))
}

/// The error for a pool that is of no use to a call in its present state.
#[must_use]
pub fn not_driven(definition: &Definition, what: &str) -> Error {
    let message = format!(
        "Pool '{}' is of type '{}', which is not supported yet: it can be defined, and {what} takes one of type 'dir'",
        definition.name, definition.kind.name
    );
    error(Code::NO_SUPPORT, message)
}
