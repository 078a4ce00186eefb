//! The documents in which clients read what the host and its emulators can do: `<capabilities>`, made of [`host`] and
//! [`guests`], and `<domainCapabilities>` of [`domain`].

pub(crate) mod domain;
pub(crate) mod guests;
pub(crate) mod host;

use crate::capabilities::Capabilities;
use crate::driver::Environment;
use crate::{node, probe};
use bulkhead_actors::state::Folder;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Uuid;
use bulkhead_xml::Element;
use std::path::Path;
use std::sync::Arc;

/// What a client says of the domain that it wants to know about; nothing is said of what is `None`.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) emulator: Option<String>,
    pub(crate) arch: Option<String>,
    pub(crate) machine: Option<String>,
    /// `kvm` or `qemu`.
    pub(crate) accelerator: Option<String>,
}

/// The `<capabilities>` of host and emulators.
pub(crate) async fn capabilities(environment: &Environment) -> Result<String, Error> {
    let host = environment.installed.usual();
    let mut guests = Vec::new();
    for (arch, emulator) in &host.emulators {
        let kvm = emulator.kvm;
        let answered = environment.probe(&emulator.path, probe::host_facts(kvm)).await;
        match answered {
            Ok(capabilities) => guests.push(guests::describe(arch, &emulator.path, &capabilities, kvm)),
            // One broken emulator does not take the others with it.
            Err(error) => tracing::warn!(emulator = emulator.path, %error, "has no part in the capabilities"),
        }
    }
    let uuid = host_uuid(environment).await?;
    let document = Element::new("capabilities").with_child(host::describe(&host.arch, &uuid));
    Ok(guests.into_iter().fold(document, Element::with_child).to_xml())
}

/// The `<domainCapabilities>` of what a client wants to know about.
pub(crate) async fn domain_capabilities(environment: &Environment, wanted: Wanted) -> Result<String, Error> {
    let host = environment.installed.usual();
    let invalid = |message: String| Error::new(Code::INVALID_ARG, Origin::QEMU, message);
    let arch = match (&wanted.arch, &wanted.emulator) {
        (Some(arch), _) => arch.clone(),
        (None, Some(path)) => environment.installed.architecture_of(path).ok_or_else(|| {
            invalid(format!(
                "'{path}' is not among the emulators of this host; 'virsh capabilities' lists them"
            ))
        })?,
        (None, None) => host.arch.clone(),
    };
    let emulator = host.emulator(&arch).ok_or_else(|| {
        invalid(format!("unknown architecture: {arch}; 'virsh capabilities' lists those known"))
    })?;
    let path = wanted.emulator.clone().unwrap_or_else(|| emulator.path.clone());
    if !environment.installed.is_installed(&path) {
        return Err(invalid(format!(
            "the emulator '{path}' of {arch} is not installed; install it, or choose another"
        )));
    }
    let can = emulator.kvm;
    let kvm = match wanted.accelerator.as_deref() {
        None => can,
        Some("qemu") => false,
        Some("kvm") if can => true,
        Some("kvm") => return Err(invalid(format!("KVM is not supported by '{path}' on this host"))),
        Some(other) => return Err(invalid(format!("unknown virttype: {other}; it is kvm or qemu"))),
    };
    let capabilities: Arc<Capabilities> = environment.probe(&path, probe::host_facts(kvm)).await?;
    let asked = environment.installed.with(&arch, &path, kvm).await;
    let usual = asked.emulator(&arch).map(|emulator| emulator.default_machine.as_str());
    let name = wanted.machine.as_deref().or(usual).unwrap_or_default();
    let machine = capabilities
        .machine(name)
        .ok_or_else(|| invalid(format!("the machine '{name}' is not supported by emulator '{path}'")))?;
    let subject = domain::Subject {
        arch: &arch,
        emulator: &path,
        machine,
        kvm,
        capabilities: &capabilities,
        firmware: &host.firmware,
        physical_bits: node::physical_bits(),
        tpm_emulator: environment.installed.has_program("swtpm"),
    };
    Ok(subject.describe().to_xml())
}

/// A number that tells this host from others, made up when it is asked for the first time.
async fn host_uuid(environment: &Environment) -> Result<String, Error> {
    let (state, made_up) = (environment.host.state_folder.clone(), environment.host.new_uuid());
    environment
        .on_disk("The host's uuid", move || {
            let folder = Folder::open(Path::new(&state), "host", "")?;
            let known = folder.read("host-uuid")?.and_then(|text| String::from_utf8(text).ok());
            if let Some(uuid) = known.and_then(|text| Uuid::parse(text.trim())) {
                return Ok(uuid.to_string());
            }
            folder.write("host-uuid", made_up.as_bytes())?;
            Ok(made_up)
        })
        .await
}

/// An element that holds nothing but text.
fn text(name: &str, content: impl Into<String>) -> Element {
    Element::new(name).with_text(content)
}

/// An element of that name and these children.
fn parent(name: &str, children: impl IntoIterator<Item = Element>) -> Element {
    children.into_iter().fold(Element::new(name), Element::with_child)
}

/// `yes` or `no`.
fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}
