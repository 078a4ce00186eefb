//! Events as they travel in libvirt's protocol: registered for kind by kind, each kind a message of its own.

use super::caller::Caller;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::remote::program::{QEMU, REMOTE};
use bulkhead_wire::types::network::{NetworkEvent, NetworkRef};
use bulkhead_wire::types::secret::{SecretEvent, SecretRef};
use bulkhead_wire::types::storage::{PoolEvent, PoolRef};
use bulkhead_wire::types::{DomainEvent, DomainRef};
use bulkhead_wire::xdr;
use serde::de::DeserializeOwned;
use std::future::Future;

/// Procedures that register for events of all objects of a kind.
const DOMAIN: i32 = 316;
const NETWORK: i32 = 313;
const POOL: i32 = 368;
const SECRET: i32 = 380;
/// The same for what QEMU's monitor tells, in its own program; and the message of that.
const MONITOR: i32 = 4;
const MONITOR_EVENT: i32 = 6;
/// Domain events that have a form in this library, by number, with the procedure of their message.
const DOMAIN_EVENTS: [(i32, i32); 7] =
    [(0, 318), (1, 319), (3, 321), (10, 328), (15, 333), (19, 354), (22, 367)];

/// The events of one kind of object.
pub(crate) trait Heard: Sized {
    /// Is this message one of them?
    fn is_about(program: u32, procedure: i32) -> bool;

    /// The event in a message.
    fn read(program: u32, procedure: i32, payload: &[u8]) -> Option<Self>;

    /// Registers for all of them that the daemon has.
    fn register(caller: &Caller) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What follows the number of the registration.
fn body<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    xdr::decode::<(i32, T)>(payload, Vec::new()).ok().map(|((_registration, body), _)| body)
}

/// Registers for each of these; the first must be there, others a daemon of another time may not know.
async fn register_all<O: serde::Serialize + Sync>(
    caller: &Caller,
    procedure: i32,
    events: &[i32],
) -> Result<(), Error> {
    for (index, event) in events.iter().enumerate() {
        let registered = caller.register(REMOTE, procedure, &(event, None::<&O>)).await;
        if index == 0 { content(registered)? } else { tolerated(registered)? }
    }
    Ok(())
}

/// A registration that is there already is one.
fn content(registered: Result<(), Error>) -> Result<(), Error> {
    registered.or_else(|error| if error.code == Code::INVALID_ARG { Ok(()) } else { Err(error) })
}

/// What the daemon does not have, or does not give to this client, does not come.
fn tolerated(registered: Result<(), Error>) -> Result<(), Error> {
    let absent = [Code::INTERNAL, Code::NO_SUPPORT, Code::OPERATION_DENIED];
    content(registered).or_else(|error| if absent.contains(&error.code) { Ok(()) } else { Err(error) })
}

impl Heard for DomainEvent {
    fn is_about(program: u32, procedure: i32) -> bool {
        match program {
            QEMU => procedure == MONITOR_EVENT,
            _ => program == REMOTE && DOMAIN_EVENTS.iter().any(|(_, message)| *message == procedure),
        }
    }

    fn read(program: u32, procedure: i32, payload: &[u8]) -> Option<Self> {
        if program == QEMU {
            let (domain, event, seconds, micros, details) = body(payload)?;
            return Some(Self::Monitor { domain, event, seconds, micros, details });
        }
        Some(match procedure {
            318 => {
                let (domain, event, detail) = body(payload)?;
                Self::Lifecycle { domain, event, detail }
            }
            319 => Self::Reboot { domain: body(payload)? },
            321 => {
                let (domain, action) = body(payload)?;
                Self::Watchdog { domain, action }
            }
            328 => {
                let (domain, alias, reason) = body(payload)?;
                Self::TrayChange { domain, alias, reason }
            }
            333 => {
                let (domain, alias) = body(payload)?;
                Self::DeviceRemoved { domain, alias }
            }
            354 => {
                let (domain, alias) = body(payload)?;
                Self::DeviceAdded { domain, alias }
            }
            367 => {
                let (domain, alias) = body(payload)?;
                Self::DeviceRemovalFailed { domain, alias }
            }
            _ => return None,
        })
    }

    async fn register(caller: &Caller) -> Result<(), Error> {
        register_all::<DomainRef>(caller, DOMAIN, &DOMAIN_EVENTS.map(|(event, _)| event)).await?;
        let all = (None::<DomainRef>, None::<String>, 0_u32);
        tolerated(caller.register(QEMU, MONITOR, &all).await)
    }
}

impl Heard for NetworkEvent {
    fn is_about(program: u32, procedure: i32) -> bool {
        program == REMOTE && matches!(procedure, 315 | 446)
    }

    fn read(_program: u32, procedure: i32, payload: &[u8]) -> Option<Self> {
        Some(match procedure {
            315 => {
                let (network, event, detail) = body(payload)?;
                Self::Lifecycle { network, event, detail }
            }
            446 => {
                let (network, kind, uri) = body(payload)?;
                Self::Metadata { network, kind, uri }
            }
            _ => return None,
        })
    }

    async fn register(caller: &Caller) -> Result<(), Error> {
        register_all::<NetworkRef>(caller, NETWORK, &[0, 1]).await
    }
}

impl Heard for PoolEvent {
    fn is_about(program: u32, procedure: i32) -> bool {
        program == REMOTE && matches!(procedure, 370 | 373)
    }

    fn read(_program: u32, procedure: i32, payload: &[u8]) -> Option<Self> {
        Some(match procedure {
            370 => {
                let (pool, event, detail) = body(payload)?;
                Self::Lifecycle { pool, event, detail }
            }
            373 => Self::Refresh { pool: body(payload)? },
            _ => return None,
        })
    }

    async fn register(caller: &Caller) -> Result<(), Error> {
        register_all::<PoolRef>(caller, POOL, &[0, 1]).await
    }
}

impl Heard for SecretEvent {
    fn is_about(program: u32, procedure: i32) -> bool {
        program == REMOTE && matches!(procedure, 382 | 383)
    }

    fn read(_program: u32, procedure: i32, payload: &[u8]) -> Option<Self> {
        Some(match procedure {
            382 => {
                let (secret, event, detail) = body(payload)?;
                Self::Lifecycle { secret, event, detail }
            }
            383 => Self::ValueChanged { secret: body(payload)? },
            _ => return None,
        })
    }

    async fn register(caller: &Caller) -> Result<(), Error> {
        register_all::<SecretRef>(caller, SECRET, &[0, 1]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_wire::types::Uuid;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let domain = DomainRef { name: "web".to_owned(), uuid: Uuid([7; 16]), id: 3 };
        let written = xdr::encode(&(5_i32, (&domain, 2_i32, 0_i32))).expect("it has a form").0;
        let read = DomainEvent::read(REMOTE, 318, &written);
        assert_eq!(read, Some(DomainEvent::Lifecycle { domain: domain.clone(), event: 2, detail: 0 }));
        // Half of it is none.
        assert_eq!(DomainEvent::read(REMOTE, 318, &written[..20]), None);
        let details = Some("{}".to_owned());
        let written =
            xdr::encode(&(9_i32, (&domain, "STOP", 1_i64, 2_u32, &details))).expect("it has a form").0;
        assert!(DomainEvent::is_about(QEMU, MONITOR_EVENT) && !DomainEvent::is_about(REMOTE, 370));
        let event = "STOP".to_owned();
        let read = DomainEvent::read(QEMU, MONITOR_EVENT, &written);
        assert_eq!(read, Some(DomainEvent::Monitor { domain, event, seconds: 1, micros: 2, details }));
    }
}
