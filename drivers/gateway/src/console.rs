//! Who holds which console or channel: each has one reader, or its readers take the text from each other.

use crate::lock;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::remote::undecodable;
use bulkhead_wire::table::{CallInfo, domain};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::xdr;
use serde::de::DeserializeOwned;
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

/// Which console or channel of which domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Which {
    domain: Uuid,
    channel: bool,
    device: Option<String>,
}

type Held = HashMap<Which, Weak<Console>>;

/// All consoles that clients have open.
#[derive(Debug, Default)]
pub(crate) struct Consoles(Mutex<Held>);

impl Consoles {
    /// Before a console is opened: nobody may have it, or he loses it if the call says so. For other calls nothing.
    pub(crate) fn claim(&self, info: &CallInfo, payload: &[u8]) -> Result<Option<Arc<Console>>, Error> {
        let (domain, channel, device, flags) = if info.remote == domain::domain_open_console::INFO.remote {
            let arguments = arguments::<domain::domain_open_console::Arguments>(payload)?;
            (arguments.domain, false, arguments.device, arguments.flags)
        } else if info.remote == domain::domain_open_channel::INFO.remote {
            let arguments = arguments::<domain::domain_open_channel::Arguments>(payload)?;
            (arguments.domain, true, arguments.channel, arguments.flags)
        } else {
            return Ok(None);
        };
        let mut held = lock(&self.0);
        held.retain(|_, console| console.strong_count() > 0);
        let key = Which { domain: domain.uuid, channel, device };
        if let Some(holder) = held.get(&key).and_then(Weak::upgrade) {
            if flags & FORCE == 0 {
                let what = if channel { "channel stream" } else { "console session" };
                let message = format!(
                    "operation failed: Active {what} exists for domain '{}'; take it over with --force",
                    domain.name
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

fn arguments<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    xdr::decode(payload, Vec::new()).map(|(arguments, _)| arguments).map_err(|_error| undecodable())
}
