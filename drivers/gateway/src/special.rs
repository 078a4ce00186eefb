//! The procedures that are about the connection itself.

use crate::client::Client;
use crate::events::{Filter, Kind};
use crate::{following, monitor};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::remote::{Incoming, program, undecodable};
use bulkhead_wire::types::DomainRef;
use bulkhead_wire::xdr;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Time in which a driver's events are subscribed to, when this process, or the driver, has just begun.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(10);

/// What was said on a connection so far.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Does the client know who we are, and we who it is?
    pub(crate) authenticated: bool,
    /// The URI that it opened.
    pub(crate) uri: Option<String>,
    /// Did it ask to be kept from changing things?
    pub(crate) read_only: bool,
    /// Does it give signs of life?
    pub(crate) pinged: bool,
    /// Its number among this stack's clients.
    pub(crate) number: u64,
    /// When it came, in seconds since 1970.
    pub(crate) since_seconds: i64,
}

/// One of these procedures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Open,
    Close,
    SupportsFeature,
    GetUri,
    AuthList,
    AuthOther,
    CloseCallback,
    RegisterLegacy,
    DeregisterLegacy,
    RegisterLegacyAny,
    DeregisterLegacyAny,
    Register(Kind),
    Deregister(Kind),
    RegisterMonitor,
    DeregisterMonitor,
}

impl Special {
    pub(crate) fn of(program: u32, number: u32) -> Option<Self> {
        if program == program::QEMU {
            return match number {
                4 => Some(Self::RegisterMonitor),
                5 => Some(Self::DeregisterMonitor),
                _ => None,
            };
        }
        Some(match number {
            1 => Self::Open,
            2 => Self::Close,
            60 => Self::SupportsFeature,
            66 => Self::AuthList,
            67..=70 => Self::AuthOther,
            105 => Self::RegisterLegacy,
            106 => Self::DeregisterLegacy,
            110 => Self::GetUri,
            167 => Self::RegisterLegacyAny,
            168 => Self::DeregisterLegacyAny,
            313 => Self::Register(Kind::Network),
            314 => Self::Deregister(Kind::Network),
            316 => Self::Register(Kind::Domain),
            317 => Self::Deregister(Kind::Domain),
            360 | 361 => Self::CloseCallback,
            368 => Self::Register(Kind::Pool),
            369 => Self::Deregister(Kind::Pool),
            374 => Self::Register(Kind::NodeDevice),
            375 => Self::Deregister(Kind::NodeDevice),
            380 => Self::Register(Kind::Secret),
            381 => Self::Deregister(Kind::Secret),
            _ => return None,
        })
    }

    /// May it be called before the client is authenticated?
    pub(crate) fn authenticates(self) -> bool {
        matches!(self, Self::AuthList | Self::AuthOther)
    }
}

/// `VIR_CONNECT_RO`.
const READ_ONLY: u32 = 1;
/// No authentication but the kernel's word on who the peer is.
const AUTH_NONE: i32 = 0;
/// The feature that tells of signs of life; asked for before the connection is open.
const KEEPALIVE: i32 = 10;
/// libvirt's features that this server has: a remote close callback, typed parameters with strings, event callbacks,
/// arguments of network updates in their right order, and descriptors.
const FEATURES: &[i32] = &[3, 8, 9, KEEPALIVE, 14, 15, 16];

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    xdr::decode(payload, Vec::new()).map(|(value, _)| value).map_err(|_error| undecodable())
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let encoded = xdr::encode(value).map(|(bytes, _)| bytes);
    encoded.map_err(|error| Error::new(Code::RPC, Origin::RPC, error.to_string()))
}

fn internal(message: impl Into<String>) -> Error {
    Error::new(Code::INTERNAL, Origin::RPC, message)
}

impl Client {
    /// Serves one of them. Breaks after the last word of a connection.
    pub(crate) async fn special(
        self: &Arc<Self>,
        session: &mut Session,
        special: Special,
        frame: Incoming,
    ) -> ControlFlow<()> {
        let (header, payload) = (frame.header, frame.payload);
        let open = session.uri.is_some();
        let asks = matches!(special, Special::SupportsFeature) && decode::<i32>(&payload) == Ok(KEEPALIVE);
        let first = asks || special.authenticates() || matches!(special, Special::Open | Special::Close);
        let answer = if open || first {
            self.specially(session, special, &payload).await
        } else {
            Err(internal("hypervisor connection not open"))
        };
        let registers = answer.as_ref().ok().and_then(|(_, registration)| *registration);
        // Before the client knows: whoever takes over knows what the client knows.
        self.state.write(session, &crate::lock(&self.callbacks));
        self.outbox.answer(header, answer.map(|(reply, _)| (reply, Vec::new()))).await;
        // Only now: an event that comes before the answer to its registration is lost on clients.
        if let Some(id) = registers {
            crate::lock(&self.callbacks).arm(id);
        }
        if special == Special::Close { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    async fn specially(
        &self,
        session: &mut Session,
        special: Special,
        payload: &[u8],
    ) -> Result<(Vec<u8>, Option<i32>), Error> {
        let mut registration = None;
        let reply = match special {
            Special::AuthList => {
                session.authenticated = true;
                self.place.authenticate();
                encode(&vec![AUTH_NONE])?
            }
            Special::AuthOther => {
                let message = "authentication failed: this socket uses none but the peer's credentials";
                return Err(Error::new(Code::AUTH_FAILED, Origin::RPC, message));
            }
            Special::SupportsFeature => {
                let feature: i32 = decode(payload)?;
                session.pinged |= feature == KEEPALIVE;
                encode(&i32::from(FEATURES.contains(&feature)))?
            }
            Special::Open => {
                let (name, flags): (Option<String>, u32) = decode(payload)?;
                session.uri = Some(self.open_uri(session.uri.take().as_deref(), name)?);
                session.read_only = flags & READ_ONLY != 0;
                Vec::new()
            }
            Special::Close | Special::CloseCallback => Vec::new(),
            Special::GetUri => encode(&session.uri)?.split_off(4),
            Special::Register(kind) => {
                let (event, object) = kind.decode(payload)?;
                let id = self.register(&Filter { kind, event, object, legacy: false }).await?;
                registration = Some(id);
                encode(&id)?
            }
            Special::Deregister(kind) => {
                let id: i32 = decode(payload)?;
                crate::lock(&self.callbacks).remove(kind, id)?;
                Vec::new()
            }
            Special::RegisterMonitor => {
                if session.read_only || self.identity.read_only {
                    let message = "operation forbidden: read only access prevents virConnectDomainQemuMonitorEventRegister";
                    return Err(Error::new(Code::OPERATION_DENIED, Origin::NONE, message));
                }
                let (domain, event, flags): (Option<DomainRef>, Option<String>, u32) = decode(payload)?;
                let filter = monitor::Filter::new(domain.map(|domain| domain.uuid), event, flags)?;
                let id = crate::lock(&self.callbacks).add_monitor(filter)?;
                self.events_come(Kind::Domain, id).await?;
                registration = Some(id);
                encode(&id)?
            }
            Special::DeregisterMonitor => {
                let id: i32 = decode(payload)?;
                crate::lock(&self.callbacks).remove_monitor(id)?;
                Vec::new()
            }
            Special::RegisterLegacy | Special::RegisterLegacyAny => {
                let lifecycle = special == Special::RegisterLegacy;
                let event: i32 = if lifecycle { 0 } else { decode(payload)? };
                let filter = Filter { kind: Kind::Domain, event, object: None, legacy: true };
                registration = Some(self.register(&filter).await?);
                if lifecycle { encode(&0_i32)? } else { Vec::new() }
            }
            Special::DeregisterLegacy | Special::DeregisterLegacyAny => {
                let lifecycle = special == Special::DeregisterLegacy;
                let event: i32 = if lifecycle { 0 } else { decode(payload)? };
                crate::lock(&self.callbacks).remove_legacy(event)?;
                if lifecycle { encode(&0_i32)? } else { Vec::new() }
            }
        };
        Ok((reply, registration))
    }

    async fn register(&self, filter: &Filter) -> Result<i32, Error> {
        let id = crate::lock(&self.callbacks).add(filter)?;
        self.events_come(filter.kind, id).await?;
        Ok(id)
    }

    /// Waits until the events of a new registration come, or takes it back.
    async fn events_come(&self, kind: Kind, id: i32) -> Result<(), Error> {
        // Whatever happens after the answer is to be told: the events come already, or this fails.
        let Some(mut subscribed) = following::begin(&self.shared, kind) else { return Ok(()) };
        let waited = timeout(SUBSCRIBED_WITHIN, subscribed.wait_for(|subscribed| *subscribed)).await;
        if waited.is_err() {
            crate::lock(&self.callbacks).drop_one(id);
            let message = format!(
                "The {} driver's events can't be had at the moment; try again when 'bulkhead status' shows it ready",
                kind.driver()
            );
            return Err(Error::new(Code::OPERATION_TIMEOUT, Origin::RPC, message));
        }
        Ok(())
    }

    /// Is this a URI that the stack serves? As stock, a second open leaves nothing open.
    fn open_uri(&self, before: Option<&str>, name: Option<String>) -> Result<String, Error> {
        if before.is_some() {
            return Err(internal("connection already open"));
        }
        let name = name.ok_or_else(|| internal("connection not open"))?;
        let system = self.shared.mode == "system";
        if name.is_empty() {
            return Ok(if system { "qemu:///system" } else { "qemu:///session" }.to_owned());
        }
        let no_driver = || {
            let message = format!(
                "no connection driver available for {name}: this stack serves qemu:///system, qemu:///session"
            );
            Error::new(Code::NO_CONNECT, Origin::NONE, message)
        };
        let rest = name.strip_prefix("qemu://").ok_or_else(no_driver)?;
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        match (path, self.shared.mode.as_str()) {
            ("/system", "system" | "embed") | ("/session" | "/embed", _) => Ok(name),
            ("/system", _) => Err(internal("unexpected qemu URI path '/system', try qemu:///session")),
            (path, _) if path.starts_with('/') => {
                Err(internal(format!("unexpected qemu URI path '{path}', try qemu:///system")))
            }
            _ => Err(no_driver()),
        }
    }
}
