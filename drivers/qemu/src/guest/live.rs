//! What is on disk about a running guest: enough to find it again after any crash.

use crate::domain::Definition;
use bulkhead_actors::state::Folder;
use bulkhead_wire::frame::Token;
use bulkhead_wire::types::Uuid;
use serde::{Deserialize, Serialize};
use std::io;

/// Written into every record; another number is refused whole.
const FORMAT: u32 = 1;

/// How far a start has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// The intent: QEMU may or may not exist. Undone after a crash.
    Starting,
    /// It runs. Adopted after a crash.
    Running,
    /// It runs, and its state is being stored. Adopted after a crash; a save without a complete file is undone.
    Saving {
        /// Did its CPUs run before?
        was_running: bool,
        /// Into which file of a client's; else beside the definition.
        #[serde(default)]
        file: Option<String>,
    },
    /// It runs, and its memory is being written to a file. Adopted after a crash, and goes on when QEMU is done.
    Dumping {
        /// Did its CPUs run before?
        was_running: bool,
    },
}

/// What is under way with the devices of a running guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Devices {
    /// QEMU was started with the network of the stack.
    pub(crate) network: bool,
    /// The next free number of a block node; 0 in the record of a guest that knows none.
    pub(crate) next_node: u32,
    /// What is being changed. Looked at after a crash: it is done, or is undone.
    pub(crate) change: Option<Change>,
    /// Aliases of devices that QEMU was told to give up.
    pub(crate) leaving: Vec<String>,
}

/// A change of devices that has begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// A device comes.
    Added {
        /// The device, as it will stand in the XML of the running guest.
        device: String,
        /// The definition with it, if it shall outlive the run.
        config: Option<String>,
        /// Taps that the network driver made for it.
        taps: Vec<String>,
    },
    /// A drive gets another medium.
    Medium {
        /// The drive with it.
        disk: String,
        /// The definition with it.
        config: Option<String>,
    },
}

/// One running guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    pub(crate) phase: Phase,
    pub(crate) id: i32,
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// Does a definition outlive the run?
    pub(crate) persistent: bool,
    pub(crate) autodestroy: bool,
    /// The client with whose connection it ends, if it is one that another driver speaks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Token>,
    pub(crate) state: i32,
    pub(crate) reason: i32,
    /// Taps that the network driver made for it.
    pub(crate) taps: Vec<String>,
    /// The definition that it was started from, with its secrets.
    pub(crate) definition: String,
    /// The XML as it runs.
    pub(crate) live: String,
    /// What is under way with its devices.
    #[serde(default)]
    pub(crate) devices: Devices,
}

impl Record {
    #[expect(clippy::too_many_arguments, reason = "a record is made in one place, from all its parts")]
    pub(crate) fn new(
        phase: Phase,
        id: i32,
        definition: &Definition,
        live: String,
        persistent: bool,
        autodestroy: bool,
        taps: Vec<String>,
        (state, reason): (i32, i32),
    ) -> Self {
        Self {
            format: FORMAT,
            phase,
            id,
            name: definition.root.child_text("name").unwrap_or_default(),
            uuid: definition.root.child_text("uuid").unwrap_or_default(),
            persistent,
            autodestroy,
            owner: None,
            state,
            reason,
            taps,
            definition: definition.root.to_xml(),
            live,
            devices: Devices::default(),
        }
    }

    /// The same, of a guest that ends with this client.
    pub(crate) fn owned_by(self, owner: Option<Token>) -> Self {
        Self { owner, ..self }
    }

    pub(crate) fn write(&self, folder: &Folder) -> io::Result<()> {
        folder.write(&self.uuid, &serde_json::to_vec(self)?)
    }

    pub(crate) fn uuid(&self) -> Option<Uuid> {
        Uuid::parse(&self.uuid)
    }
}

/// Reads the records of all guests; what is no record of this format is set aside.
pub(crate) fn read_all(folder: &Folder) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for (name, content) in folder.read_all()? {
        match serde_json::from_slice::<Record>(&content) {
            Ok(record) if record.format == FORMAT && record.uuid == name && record.uuid().is_some() => {
                records.push(record);
            }
            Ok(_) => folder.set_aside(&name, "a record of another format or place"),
            Err(error) => folder.set_aside(&name, &error.to_string()),
        }
    }
    Ok(records)
}
