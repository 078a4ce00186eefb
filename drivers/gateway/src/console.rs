//! Who holds which console: a terminal has one reader, or its readers take the text from each other.

use crate::lock;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::remote::undecodable;
use bulkhead_wire::table::{CallInfo, domain};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::xdr;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::Notify;

/// `VIR_DOMAIN_CONSOLE_FORCE`.
const FORCE: u32 = 1;

/// A held console; it is free when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Console {
    /// Told when somebody takes it.
    pub(crate) taken: Notify,
}

type Held = HashMap<(Uuid, Option<String>), Weak<Console>>;

/// All consoles that clients have open.
#[derive(Debug, Default)]
pub(crate) struct Consoles(Mutex<Held>);

impl Consoles {
    /// Before a console is opened: nobody may have it, or he loses it if the call says so. For other calls nothing.
    pub(crate) fn claim(&self, info: &CallInfo, payload: &[u8]) -> Result<Option<Arc<Console>>, Error> {
        if info.remote != domain::domain_open_console::INFO.remote {
            return Ok(None);
        }
        let arguments = xdr::decode::<domain::domain_open_console::Arguments>(payload, Vec::new());
        let arguments = arguments.map_err(|_error| undecodable())?.0;
        let mut held = lock(&self.0);
        held.retain(|_, console| console.strong_count() > 0);
        let key = (arguments.domain.uuid, arguments.device);
        if let Some(holder) = held.get(&key).and_then(Weak::upgrade) {
            if arguments.flags & FORCE == 0 {
                let message = format!(
                    "operation failed: Active console session exists for domain '{}'; take it over with --force",
                    arguments.domain.name
                );
                return Err(Error::new(Code::OPERATION_FAILED, Origin::QEMU, message));
            }
            holder.taken.notify_one();
        }
        let console = Arc::new(Console::default());
        held.insert(key, Arc::downgrade(&console));
        Ok(Some(console))
    }
}
