//! What every part of the command line is built with: the definition, its context, and the list that grows.

use super::boot::BootOrder;
use super::json::Object;
use super::nodes::NodeNumbers;
use super::option::KeyValues;
use super::{DescriptorUse, Paths, Purpose, Rendering, SecretSource, SecretUse};
use crate::capabilities::{Capabilities, Machine};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::secret::SecretLookup;
use bulkhead_xml::Element;

/// The id of the key under which QEMU is given values of secrets.
pub(crate) const MASTER_KEY: &str = "masterKey0";

/// The first number of an inherited descriptor: below are standard input, output and error.
const FIRST_DESCRIPTOR: u32 = 3;

/// The command line under construction.
pub(crate) struct Builder<'a> {
    pub(crate) root: &'a Element,
    pub(crate) capabilities: &'a Capabilities,
    pub(crate) paths: &'a Paths,
    /// The guest's architecture, in libvirt's spelling.
    pub(crate) arch: &'a str,
    /// The machine type as the definition has it.
    pub(crate) machine_name: &'a str,
    pub(crate) boot: BootOrder,
    pub(crate) nodes: NodeNumbers,
    arguments: Vec<String>,
    descriptors: Vec<DescriptorUse>,
    secrets: Vec<SecretUse>,
    /// Where the master key's place is among the arguments.
    master_key: usize,
    /// Sets of descriptors so far.
    sets: u32,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(
        root: &'a Element,
        capabilities: &'a Capabilities,
        paths: &'a Paths,
    ) -> Result<Self, Error> {
        let kind = root.at("os/type").ok_or_else(|| invalid("The definition has no <os><type>"))?;
        Ok(Self {
            root,
            capabilities,
            paths,
            arch: attr(kind, "arch")?,
            machine_name: attr(kind, "machine")?,
            // The firmware of a guest that runs has made its choice of those that <os> means.
            boot: BootOrder::new(root, paths.rendering != Rendering::Plug)?,
            nodes: NodeNumbers::new(root),
            arguments: Vec::new(),
            descriptors: Vec::new(),
            secrets: Vec::new(),
            master_key: 0,
            sets: 0,
        })
    }

    pub(crate) fn finish(mut self) -> (Vec<String>, Vec<DescriptorUse>, Vec<SecretUse>) {
        if !self.secrets.is_empty() {
            let number = self.descriptor(Purpose::MasterKey);
            let key = master_key_object(format!("/proc/self/fd/{number}")).to_string();
            self.arguments.splice(self.master_key..self.master_key, ["-object".to_owned(), key]);
            for secret in &mut self.secrets {
                secret.argument += 2;
            }
        }
        (self.arguments, self.descriptors, self.secrets)
    }

    /// The machine type's facts, if this QEMU has it.
    pub(crate) fn machine(&self) -> Option<&'a Machine> {
        self.capabilities.machine(self.machine_name)
    }

    /// Whether the machine type is one of a family: its short name or any version of it.
    pub(crate) fn is_machine(&self, family: &str) -> bool {
        is_family(self.machine_name, family)
    }

    pub(crate) fn is_x86(&self) -> bool {
        matches!(self.arch, "x86_64" | "i686")
    }

    pub(crate) fn is_q35(&self) -> bool {
        self.is_x86() && self.is_machine("q35")
    }

    pub(crate) fn is_i440fx(&self) -> bool {
        self.is_x86() && (self.is_machine("pc") || self.machine_name.starts_with("pc-i440fx"))
    }

    pub(crate) fn is_pseries(&self) -> bool {
        self.arch.starts_with("ppc64") && self.is_machine("pseries")
    }

    /// All devices of one name.
    pub(crate) fn devices(&self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Element> + use<'a> {
        self.root.child("devices").into_iter().flat_map(move |devices| devices.all(name))
    }

    /// Refuses what needs a device's property that this QEMU's device lacks.
    pub(crate) fn require(&self, device: &str, property: &str, wanted: &str) -> Result<(), Error> {
        let known = &self.capabilities.properties;
        if known.contains_key(device) && !self.capabilities.has_property(device, property) {
            let version = self.capabilities.version;
            return Err(unsupported(format!(
                "{wanted} needs {device}'s property {property}, which QEMU {}.{} does not have; use a newer QEMU",
                version.major, version.minor
            )));
        }
        Ok(())
    }

    /// A word without a value (`-S`).
    pub(crate) fn flag(&mut self, name: &str) {
        self.arguments.push(name.to_owned());
    }

    /// An option and its value, which must be one line of text.
    pub(crate) fn option(&mut self, name: &str, value: impl Into<String>) -> Result<(), Error> {
        let value = value.into();
        if value.chars().any(char::is_control) {
            return Err(invalid(format!(
                "The value of QEMU's option {name} has control characters: {value:?}; remove them from the definition"
            )));
        }
        self.arguments.push(name.to_owned());
        self.arguments.push(value);
        Ok(())
    }

    /// An option whose value is JSON, which carries any text safely.
    pub(crate) fn json(&mut self, name: &str, value: &Object) {
        self.arguments.push(name.to_owned());
        self.arguments.push(value.to_string());
    }

    pub(crate) fn device(&mut self, value: &Object) {
        self.json("-device", value);
    }

    pub(crate) fn object(&mut self, value: &Object) {
        self.json("-object", value);
    }

    /// Passes an argument on as it is.
    pub(crate) fn verbatim(&mut self, argument: String) {
        self.arguments.push(argument);
    }

    pub(crate) fn launches(&self) -> bool {
        matches!(self.paths.rendering, Rendering::Launch | Rendering::Plug)
    }

    /// Is a device added to a guest that runs?
    pub(crate) fn plugs(&self) -> bool {
        self.paths.rendering == Rendering::Plug
    }

    /// The number under which QEMU inherits something; in the native form a number of the same look that
    /// nothing stands behind.
    pub(crate) fn descriptor(&mut self, purpose: Purpose) -> u32 {
        let used = u32::try_from(self.descriptors.len()).unwrap_or(u32::MAX);
        let number = FIRST_DESCRIPTOR.saturating_add(used);
        self.descriptors.push(DescriptorUse { purpose, number });
        number
    }

    /// A path by which an option that knows paths only opens an inherited file.
    pub(crate) fn descriptor_path(&mut self, purpose: Purpose, name: &str) -> Result<String, Error> {
        let number = self.descriptor(purpose);
        let set = self.sets;
        self.sets += 1;
        let list = KeyValues::empty().with("set", set).with("fd", number).with("opaque", name);
        self.option("-add-fd", list)?;
        Ok(format!("/dev/fdset/{set}"))
    }

    /// The key under which values of secrets are given to QEMU stands here: in a guest that starts, if it has any.
    pub(crate) fn master_key(&mut self) {
        if self.launches() {
            self.master_key = self.arguments.len();
        } else {
            let key = master_key_object(format!("{}/master-key.aes", self.paths.guest));
            self.object(&key);
        }
    }

    /// A secret that a block node or another object reads its key from. Its value is put in when the line is whole.
    pub(crate) fn secret(&mut self, id: &str, source: Option<SecretSource>) -> Result<(), Error> {
        self.object(&secret_object(id, "", ""));
        if self.launches() {
            let source =
                source.ok_or_else(|| invalid(format!("QEMU's {id} needs a <secret>, and none is named")))?;
            let argument = self.arguments.len().saturating_sub(1);
            self.secrets.push(SecretUse { object: id.to_owned(), source, argument });
        }
        Ok(())
    }

    /// The credentials of one TLS connection.
    pub(crate) fn certificates(&mut self, id: &str, server: bool, verify: bool, password: Option<&str>) {
        let object = Object::new()
            .with("qom-type", "tls-creds-x509")
            .with("id", id)
            .with("dir", self.paths.certificates.as_str())
            .with("endpoint", if server { "server" } else { "client" })
            .with("verify-peer", verify)
            .with_some("passwordid", password);
        self.object(&object);
    }
}

fn master_key_object(file: String) -> Object {
    Object::new().with("qom-type", "secret").with("id", MASTER_KEY).with("format", "raw").with("file", file)
}

/// A secret with its value under the master key, both in base64.
pub(super) fn secret_object(id: &str, value: &str, vector: &str) -> Object {
    Object::new()
        .with("qom-type", "secret")
        .with("id", id)
        .with("data", value)
        .with("keyid", MASTER_KEY)
        .with("iv", vector)
        .with("format", "base64")
}

/// The secret that an element with `uuid` or `usage` names.
pub(crate) fn stored(secret: Option<&Element>, usage_type: i32) -> Option<SecretSource> {
    let secret = secret?;
    let lookup = match (secret.attr("uuid").and_then(Uuid::parse), secret.attr("usage")) {
        (Some(uuid), _) => SecretLookup::Uuid(uuid),
        (None, usage) => SecretLookup::Usage(usage?.to_owned()),
    };
    Some(SecretSource::Stored { lookup, usage_type })
}

/// Whether a machine type is a family's short name or one of its versions.
pub(crate) fn is_family(machine: &str, family: &str) -> bool {
    let machine = machine.strip_prefix("pc-").filter(|_| family == "q35").unwrap_or(machine);
    machine == family
        || machine
            .strip_prefix(family)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit() || letter == 'r'))
}

/// A definition that can't be right.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::XML_ERROR, Origin::QEMU, message)
}

/// A definition that is right, but not for this QEMU or not for us.
pub(crate) fn unsupported(message: impl Into<String>) -> Error {
    Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, message)
}

/// An attribute that must be there.
pub(crate) fn attr<'a>(element: &'a Element, name: &str) -> Result<&'a str, Error> {
    element.attr(name).ok_or_else(|| invalid(format!("<{}> has no attribute {name}", element.name)))
}

/// The device's alias.
pub(crate) fn alias(element: &Element) -> Result<&str, Error> {
    element.path_attr("alias", "name").ok_or_else(|| invalid(format!("<{}> has no alias", element.name)))
}

/// Whether a switch's value means on.
pub(crate) fn is_on(value: &str) -> bool {
    matches!(value, "on" | "yes")
}

/// An attribute of on/off or yes/no, if it is set.
pub(crate) fn switch(element: &Element, name: &str) -> Option<bool> {
    match element.attr(name)? {
        "on" | "yes" => Some(true),
        "off" | "no" => Some(false),
        _ => None,
    }
}

/// A decimal or `0x` number.
pub(crate) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The number in an attribute, if the attribute is set.
pub(crate) fn number_attr(element: &Element, name: &str) -> Result<Option<u64>, Error> {
    element
        .attr(name)
        .map(|text| {
            number(text).ok_or_else(|| {
                invalid(format!("Attribute {name} of <{}> is not a number: '{text}'", element.name))
            })
        })
        .transpose()
}

/// The number in an element's text.
pub(crate) fn number_text(element: &Element) -> Result<u64, Error> {
    let text = element.text();
    number(&text).ok_or_else(|| invalid(format!("<{}> is not a number: '{text}'", element.name)))
}

/// A size with the unit that the attribute `unit` names (KiB if there is none), in bytes.
pub(crate) fn bytes(element: &Element, value: u64) -> Result<u64, Error> {
    let factor: u64 = match element.attr("unit").unwrap_or("KiB") {
        "b" | "B" | "byte" | "bytes" => 1,
        "KB" => 1000,
        "k" | "K" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "P" | "PiB" => 1 << 50,
        unit => {
            return Err(invalid(format!("<{}> has an unknown unit '{unit}'", element.name)));
        }
    };
    value.checked_mul(factor).ok_or_else(|| invalid(format!("The size in <{}> is too large", element.name)))
}

/// The size in an element's text, in bytes.
pub(crate) fn size_text(element: &Element) -> Result<u64, Error> {
    bytes(element, number_text(element)?)
}
