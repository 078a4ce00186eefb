//! What an administrator can change while the stack runs. It outlives this process: a file in memory with it lies on the broker's
//! shelf.

use super::logs;
use crate::Shared;
use bulkhead_actors::logging;
use bulkhead_wire::codec;
use bulkhead_wire::error::{Error, Origin};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

/// The deposit's name.
const DEPOSIT: &str = "settings";
/// Longest form of them.
const MAX_BYTES: usize = 64 << 10;

/// Connections at one time, at most; the broker accepts no more in any case.
pub(crate) const CLIENTS_MAX: u32 = 5000;
/// Calls of one client that are served at one time, of each kind: as many as a channel to a driver takes.
pub(crate) const CALLS_MAX: u32 = 256;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Clients at one time.
    pub(crate) clients_max: u32,
    /// Of them, those that have not authenticated yet.
    pub(crate) anonymous_max: u32,
    /// Calls of one client that are served at one time and change something.
    pub(crate) changing_max: u32,
    /// And those that only look.
    pub(crate) looking_max: u32,
    /// What is logged, in libvirt's words.
    pub(crate) outputs: Option<String>,
    pub(crate) filters: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            clients_max: CLIENTS_MAX,
            anonymous_max: CLIENTS_MAX,
            changing_max: 16,
            looking_max: 16,
            outputs: None,
            filters: None,
        }
    }
}

impl Settings {
    /// As an earlier process left them.
    pub(crate) fn inherited(shared: &Shared) -> Self {
        shared.inherited(DEPOSIT).and_then(|file| Self::read(&file)).unwrap_or_default()
    }

    fn read(file: &File) -> Option<Self> {
        let length =
            usize::try_from(file.metadata().ok()?.len()).ok().filter(|length| *length <= MAX_BYTES)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0).ok()?;
        codec::decode(&bytes, Vec::new()).ok()
    }

    /// Has the next process find them.
    pub(crate) async fn keep(&self, shared: &Shared) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::system(Origin::RPC, "Settings", &error);
        let (bytes, _) =
            codec::encode(self).map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let file = memfd_create("settings", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed(errno.into()))?;
        File::from(file.try_clone().map_err(failed)?).write_all(&bytes).map_err(failed)?;
        shared.stack.deposit(DEPOSIT, file).await
    }

    /// Has logged what they say.
    pub(crate) fn log(&self, own_file: &str) {
        let mut levels = logging::levels();
        if let Some(Ok(level)) = self.outputs.as_deref().map(|outputs| logs::outputs(outputs, own_file)) {
            levels.usual = level;
        }
        if let Some(Ok(filters)) = self.filters.as_deref().map(logs::filters) {
            levels.filters = filters;
        }
        logging::set_levels(levels);
    }
}
