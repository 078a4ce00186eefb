//! What a definition gets that names none, in the light of the networks that there are: a bridge and its address. Pure.

use crate::definition::{Bridge, Definition};
use crate::error::error;
use crate::name::Mac;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::types::Uuid;

/// The highest number in the name of a bridge, as stock has it.
const BRIDGES_MAX: u32 = 256;

/// Another network, as far as it matters here.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Is it active?
    pub active: bool,
    /// Bridges that are its own, now or after its next start.
    pub bridges: Vec<String>,
}

impl Known {
    /// Of a definition.
    #[must_use]
    pub fn of(definition: &Definition, active: bool) -> Self {
        let bridges = definition.bridge.name.iter().cloned().collect();
        Self { name: definition.name.clone(), uuid: definition.uuid, active, bridges }
    }
}

/// Completes a definition: its bridge's name and address, where it has a bridge of its own and names none. `exists` tells
/// whether the host has an interface of that name.
///
/// # Errors
/// A name or uuid that is another network's, or a bridge that is.
pub fn complete(
    definition: &mut Definition,
    others: &[Known],
    exists: &dyn Fn(&str) -> bool,
    random: impl FnOnce() -> [u8; 3],
) -> Result<(), Error> {
    let (name, uuid) = (definition.name.clone(), definition.uuid);
    if definition.forward.mode.is_own() {
        let taken = |bridge: &str| {
            others
                .iter()
                .find(|other| other.name != name && other.bridges.iter().any(|known| known == bridge))
        };
        let Bridge { name: bridge, .. } = &mut definition.bridge;
        match bridge.as_deref() {
            Some(given) if !given.contains("%d") => {
                if let Some(other) = taken(given) {
                    let message = format!(
                        "Network '{name}': bridge '{given}' is that of network '{}'; choose another",
                        other.name
                    );
                    return Err(error(Code::INTERNAL, message));
                }
            }
            template => {
                let template = template.filter(|template| template.matches('%').count() == 1);
                let template = template.unwrap_or("virbr%d");
                let free = (0..=BRIDGES_MAX)
                    .map(|number| template.replacen("%d", &number.to_string(), 1))
                    .find(|name| taken(name).is_none() && !exists(name));
                let free = free.ok_or_else(|| {
                    let message =
                        format!("Network '{name}': all bridges '{template}' up to {BRIDGES_MAX} are taken");
                    error(Code::INTERNAL, message)
                })?;
                *bridge = Some(free);
            }
        }
        if definition.mac.is_none() {
            let [a, b, c] = random();
            definition.mac = Some(Mac([0x52, 0x54, 0, a, b, c]));
        }
    }
    let refuse = |message: String| Err(error(Code::OPERATION_FAILED, message));
    for other in others {
        if other.uuid == uuid && other.name != name {
            return refuse(format!("Uuid {uuid} is that of network '{}' already", other.name));
        }
        if other.name == name && other.uuid != uuid {
            return refuse(format!("Network '{name}' exists already, with uuid {}", other.uuid));
        }
    }
    Ok(())
}
