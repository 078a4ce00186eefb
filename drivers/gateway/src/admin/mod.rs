//! The admin program: what libvirt's `virt-admin` asks of a daemon, on a socket of its own that only the stack's owner may
//! open. It is about the gateway: its clients, its limits, its log.
//!
//! There are no workers here: each call is a task. What libvirt calls workers are the places that one client's calls have,
//! those of the priority pool the places for calls that only look.

mod logs;
mod settings;

use crate::client::{Client, Door};
use crate::special::Session;
use crate::{Shared, lock};
use bulkhead_actors::logging;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::remote::{Header, Incoming, Status, program, undecodable};
use bulkhead_wire::types::Parameter;
use bulkhead_wire::types::ParameterValue::UnsignedInt;
use bulkhead_wire::xdr;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
pub(crate) use settings::Settings;
use settings::{CALLS_MAX, CLIENTS_MAX};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The procedures.
mod procedure {
    pub(super) const OPEN: i32 = 1;
    pub(super) const CLOSE: i32 = 2;
    pub(super) const LIB_VERSION: i32 = 3;
    pub(super) const LIST_SERVERS: i32 = 4;
    pub(super) const LOOKUP_SERVER: i32 = 5;
    pub(super) const GET_WORKERS: i32 = 6;
    pub(super) const SET_WORKERS: i32 = 7;
    pub(super) const LIST_CLIENTS: i32 = 8;
    pub(super) const LOOKUP_CLIENT: i32 = 9;
    pub(super) const CLIENT_INFO: i32 = 10;
    pub(super) const CLIENT_CLOSE: i32 = 11;
    pub(super) const GET_LIMITS: i32 = 12;
    pub(super) const SET_LIMITS: i32 = 13;
    pub(super) const GET_OUTPUTS: i32 = 14;
    pub(super) const GET_FILTERS: i32 = 15;
    pub(super) const SET_FILTERS: i32 = 17;
    pub(super) const UPDATE_TLS: i32 = 18;
    pub(super) const SET_TIMEOUT: i32 = 19;
    pub(super) const SHUTDOWN: i32 = 20;
}

/// The version of libvirt's API that is served.
const LIB_VERSION: u64 = 11_003_000;
/// Local connections (`VIR_CLIENT_TRANS_UNIX`).
const UNIX: u32 = 0;

/// The doors as libvirt names them: what serves its API, and what serves this.
const SERVERS: [(&str, Door); 2] = [("libvirtd", Door::Public), ("admin", Door::Admin)];

/// A client as libvirt tells of it.
#[derive(Debug, Serialize, Deserialize)]
struct ClientRef {
    server: String,
    id: u64,
    /// When it connected, in seconds since 1970.
    since: i64,
    transport: u32,
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    xdr::decode(payload, Vec::new()).map(|(value, _)| value).map_err(|_error| undecodable())
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let encoded = xdr::encode(value).map(|(bytes, _)| bytes);
    encoded.map_err(|error| Error::new(Code::RPC, Origin::RPC, error.to_string()))
}

fn fault(message: String) -> Error {
    Error::new(Code::RPC, Origin::RPC, message)
}

fn invalid(what: &str) -> Error {
    Error::new(Code::INVALID_ARG, Origin::ADMIN, format!("invalid argument: {what}"))
}

fn unsupported(what: &str) -> Error {
    Error::new(Code::OPERATION_UNSUPPORTED, Origin::ADMIN, format!("Operation not supported: {what}"))
}

fn no_flags(flags: u32) -> Result<(), Error> {
    match flags {
        0 => Ok(()),
        flags => Err(Error::new(Code::INVALID_ARG, Origin::ADMIN, format!("unsupported flags ({flags:#x})"))),
    }
}

fn door(server: &str) -> Result<Door, Error> {
    let found = SERVERS.iter().find(|(name, _)| *name == server);
    found.map(|(_, door)| *door).ok_or_else(|| {
        Error::new(Code::NO_SERVER, Origin::RPC, format!("Server not found: No server named '{server}'"))
    })
}

/// Which settings of the public door a server's are; the other has none.
fn public(server: &str) -> Result<(), Error> {
    match door(server)? {
        Door::Public => Ok(()),
        Door::Admin => Err(unsupported("the admin server has fixed limits")),
    }
}

fn clients(shared: &Shared, door: Door) -> Vec<Arc<Client>> {
    let mut clients: Vec<_> =
        lock(&shared.clients).values().filter(|client| client.door == door).cloned().collect();
    clients.sort_by_key(|client| client.number);
    clients
}

fn client(shared: &Shared, server: &str, id: u64) -> Result<Arc<Client>, Error> {
    let door = door(server)?;
    let found =
        lock(&shared.clients).values().find(|client| client.door == door && client.number == id).cloned();
    found.ok_or_else(|| {
        let message = format!("Client not found: No client with matching ID '{id}'");
        Error::new(Code::NO_CLIENT, Origin::RPC, message)
    })
}

fn reference(server: &str, client: &Client) -> ClientRef {
    ClientRef { server: server.to_owned(), id: client.number, since: client.since_seconds, transport: UNIX }
}

fn count<T>(all: &[T]) -> u32 {
    u32::try_from(all.len()).unwrap_or(u32::MAX)
}

/// How many have come by the public door and are there.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    all: AtomicU32,
    anonymous: AtomicU32,
}

/// A client's place among them, which is free again when this is dropped.
pub(crate) struct Place {
    shared: Arc<Shared>,
    door: Door,
    anonymous: AtomicBool,
}

impl Place {
    /// Takes one; whoever has authenticated already had it in an earlier process.
    pub(crate) fn take(shared: &Arc<Shared>, door: Door, authenticated: bool) -> Self {
        if door == Door::Public {
            shared.counts.all.fetch_add(1, Ordering::Relaxed);
            shared.counts.anonymous.fetch_add(u32::from(!authenticated), Ordering::Relaxed);
        }
        let anonymous = AtomicBool::new(door == Door::Public && !authenticated);
        Self { shared: Arc::clone(shared), door, anonymous }
    }

    /// It is known now who that is.
    pub(crate) fn authenticate(&self) {
        if self.anonymous.swap(false, Ordering::Relaxed) {
            self.shared.counts.anonymous.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.authenticate();
        if self.door == Door::Public {
            self.shared.counts.all.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Is there room for one more? Not asked for those whom an earlier process served already.
pub(crate) fn admits(shared: &Shared, door: Door) -> Result<(), String> {
    let (clients, anonymous) = {
        let settings = lock(&shared.settings);
        (settings.clients_max, settings.anonymous_max)
    };
    if door == Door::Public && shared.counts.all.load(Ordering::Relaxed) >= clients {
        return Err(format!("{clients} clients are connected already"));
    }
    if door == Door::Public && shared.counts.anonymous.load(Ordering::Relaxed) >= anonymous {
        return Err(format!("{anonymous} clients that have not authenticated are connected already"));
    }
    Ok(())
}

impl Client {
    /// Serves a call on the admin socket. Breaks after the last word of a connection.
    pub(crate) async fn administer(
        self: &Arc<Self>,
        session: &mut Session,
        frame: Incoming,
    ) -> ControlFlow<()> {
        let header = frame.header;
        let answer = self.administered(session, header, &frame.payload).await;
        if answer.is_ok() {
            self.state.write(session, &lock(&self.callbacks));
        }
        self.outbox.answer(header, answer.map(|reply| (reply, Vec::new()))).await;
        if header.procedure == procedure::CLOSE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    async fn administered(
        &self,
        session: &mut Session,
        header: Header,
        payload: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let Header { program, version, procedure, status, .. } = header;
        if (program, version) != (program::ADMIN, 1) {
            return Err(fault(format!("Cannot find program {program} version {version}")));
        }
        if status != Status::Ok as i32 {
            return Err(fault(format!("Unexpected message status {status}")));
        }
        match procedure {
            procedure::OPEN => {
                no_flags(decode(payload)?)?;
                if session.uri.is_some() {
                    return Err(Error::new(Code::INTERNAL, Origin::ADMIN, "connection already open"));
                }
                session.uri = Some(String::new());
                Ok(Vec::new())
            }
            procedure::CLOSE => Ok(Vec::new()),
            procedure::LIB_VERSION..=procedure::SHUTDOWN if session.uri.is_none() => {
                Err(Error::new(Code::INTERNAL, Origin::ADMIN, "no admin connection object"))
            }
            procedure::LIB_VERSION => encode(&LIB_VERSION),
            procedure::LIST_SERVERS..=procedure::LOOKUP_SERVER => servers(procedure, payload),
            procedure::GET_WORKERS | procedure::SET_WORKERS => self.workers(procedure, payload).await,
            procedure::GET_LIMITS | procedure::SET_LIMITS => self.limits(procedure, payload).await,
            procedure::LIST_CLIENTS..=procedure::CLIENT_CLOSE => self.clients(procedure, payload),
            procedure::GET_OUTPUTS..=procedure::SET_FILTERS => self.log(procedure, payload).await,
            procedure::UPDATE_TLS => {
                let message = "internal error: no tls service found, unable to update tls files";
                Err(Error::new(Code::INTERNAL, Origin::RPC, message))
            }
            procedure::SET_TIMEOUT | procedure::SHUTDOWN => Err(unsupported(
                "the stack's owner ends it: its service manager, or the application that opened it",
            )),
            procedure => Err(fault(format!("unknown procedure: {procedure}"))),
        }
    }

    fn clients(&self, procedure: i32, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let shared = &self.shared;
        match procedure {
            procedure::LIST_CLIENTS => {
                let (server, need_results, flags): (String, u32, u32) = decode(payload)?;
                no_flags(flags)?;
                let clients = clients(shared, door(&server)?);
                let count = count(&clients);
                let told = if need_results == 0 { &[][..] } else { &clients };
                let list: Vec<_> = told.iter().map(|client| reference(&server, client)).collect();
                encode(&(list, count))
            }
            procedure::LOOKUP_CLIENT => {
                let (server, id, flags): (String, u64, u32) = decode(payload)?;
                no_flags(flags)?;
                encode(&reference(&server, &*client(shared, &server, id)?))
            }
            procedure::CLIENT_INFO => {
                let (asked, flags): (ClientRef, u32) = decode(payload)?;
                no_flags(flags)?;
                let identity = client(shared, &asked.server, asked.id)?.identity.clone();
                let number = |value: u32| i32::try_from(value).unwrap_or(-1);
                // Names of users are in files that this process can't see.
                encode(&vec![
                    Parameter::new("readonly", identity.read_only),
                    Parameter::new("unix_user_id", number(identity.uid)),
                    Parameter::new("unix_group_id", number(identity.gid)),
                    Parameter::new("unix_process_id", number(identity.pid)),
                ])
            }
            _ => {
                let (asked, flags): (ClientRef, u32) = decode(payload)?;
                no_flags(flags)?;
                client(shared, &asked.server, asked.id)?.cut_off("its administrator wanted it");
                Ok(Vec::new())
            }
        }
    }

    async fn workers(&self, procedure: i32, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let shared = &self.shared;
        if procedure == procedure::GET_WORKERS {
            let (server, flags): (String, u32) = decode(payload)?;
            no_flags(flags)?;
            let clients = clients(shared, door(&server)?);
            let settings = lock(&shared.settings).clone();
            let served: usize = clients.iter().map(|client| client.served()).sum();
            let open: usize = clients.iter().map(|client| client.open()).sum();
            let busiest = clients.iter().map(|client| client.changing_now()).max().unwrap_or(0);
            let number = |value: usize| UnsignedInt(u32::try_from(value).unwrap_or(u32::MAX));
            let places = usize::try_from(settings.changing_max).unwrap_or(usize::MAX);
            let all = [
                ("minWorkers", UnsignedInt(0)),
                ("maxWorkers", UnsignedInt(settings.changing_max)),
                ("nWorkers", number(served)),
                ("freeWorkers", number(places.saturating_sub(busiest))),
                ("prioWorkers", UnsignedInt(settings.looking_max)),
                ("jobQueueDepth", number(open.saturating_sub(served))),
            ];
            return encode(&all.map(|(name, value)| Parameter::new(name, value)).to_vec());
        }
        let (server, parameters, flags): (String, Vec<Parameter>, u32) = decode(payload)?;
        no_flags(flags)?;
        public(&server)?;
        self.change(|settings| {
            for parameter in parameters {
                match (parameter.field.as_str(), parameter.value) {
                    ("minWorkers", UnsignedInt(0)) => {}
                    ("minWorkers", UnsignedInt(_)) => {
                        return Err(unsupported("calls are tasks: no workers are kept waiting for them"));
                    }
                    ("maxWorkers", UnsignedInt(value)) => settings.changing_max = places(value)?,
                    ("prioWorkers", UnsignedInt(value)) => settings.looking_max = places(value)?,
                    (name, value) => return Err(unknown(name, &value)),
                }
            }
            Ok(())
        })
        .await
    }

    async fn limits(&self, procedure: i32, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let shared = &self.shared;
        if procedure == procedure::GET_LIMITS {
            let (server, flags): (String, u32) = decode(payload)?;
            no_flags(flags)?;
            let clients = clients(shared, door(&server)?);
            let settings = lock(&shared.settings).clone();
            // Who may administer needs not say who he is.
            let public = door(&server)? == Door::Public;
            let waiting = if public { shared.counts.anonymous.load(Ordering::Relaxed) } else { 0 };
            let all = [
                ("nclients_max", settings.clients_max),
                ("nclients", count(&clients)),
                ("nclients_unauth_max", settings.anonymous_max),
                ("nclients_unauth", waiting),
            ];
            return encode(&all.map(|(name, value)| Parameter::new(name, UnsignedInt(value))).to_vec());
        }
        let (server, parameters, flags): (String, Vec<Parameter>, u32) = decode(payload)?;
        no_flags(flags)?;
        public(&server)?;
        self.change(|settings| {
            for parameter in parameters {
                match (parameter.field.as_str(), parameter.value) {
                    ("nclients_max", UnsignedInt(value)) if (1..=CLIENTS_MAX).contains(&value) => {
                        settings.clients_max = value;
                        // One alone may be given: the other follows, as long as it was not said.
                        settings.anonymous_max = settings.anonymous_max.min(value);
                    }
                    ("nclients_max", UnsignedInt(_)) => {
                        return Err(invalid(&format!("nclients_max must be from 1 to {CLIENTS_MAX}")));
                    }
                    ("nclients_unauth_max", UnsignedInt(value)) => settings.anonymous_max = value,
                    (name, value) => return Err(unknown(name, &value)),
                }
            }
            if settings.anonymous_max == 0 || settings.anonymous_max > settings.clients_max {
                return Err(invalid("nclients_unauth_max must be from 1 to nclients_max"));
            }
            Ok(())
        })
        .await
    }

    async fn log(&self, procedure: i32, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let own_file = &self.shared.log_file;
        match procedure {
            procedure::GET_OUTPUTS => {
                no_flags(decode(payload)?)?;
                encode(&logs::outputs_of(&logging::levels(), own_file))
            }
            procedure::GET_FILTERS => {
                no_flags(decode(payload)?)?;
                encode(&logs::filters_of(&logging::levels()))
            }
            procedure::SET_FILTERS => {
                let (text, flags): (Option<String>, u32) = decode(payload)?;
                no_flags(flags)?;
                let text = text.unwrap_or_default();
                logs::filters(&text)?;
                self.change(|settings| {
                    settings.filters = Some(text);
                    Ok(())
                })
                .await
            }
            _ => {
                let (text, flags): (Option<String>, u32) = decode(payload)?;
                no_flags(flags)?;
                // Nothing said is what held at first.
                let text =
                    text.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| "2:stderr".to_owned());
                logs::outputs(&text, own_file)?;
                self.change(|settings| {
                    settings.outputs = Some(text);
                    Ok(())
                })
                .await
            }
        }
    }

    /// Changes the settings, for this process and the next.
    async fn change(
        &self,
        change: impl FnOnce(&mut Settings) -> Result<(), Error>,
    ) -> Result<Vec<u8>, Error> {
        let shared = &self.shared;
        let (before, after) = {
            let mut settings = lock(&shared.settings);
            let before = settings.clone();
            let mut changed = before.clone();
            change(&mut changed)?;
            *settings = changed.clone();
            (before, changed)
        };
        for client in clients(shared, Door::Public) {
            client.resize(&before, &after);
        }
        after.log(&shared.log_file);
        after.keep(shared).await?;
        Ok(Vec::new())
    }
}

fn servers(procedure: i32, payload: &[u8]) -> Result<Vec<u8>, Error> {
    if procedure == procedure::LIST_SERVERS {
        let (need_results, flags): (u32, u32) = decode(payload)?;
        no_flags(flags)?;
        let names: Vec<&str> = SERVERS.iter().map(|(name, _)| *name).filter(|_| need_results != 0).collect();
        return encode(&(names, count(&SERVERS)));
    }
    let (name, flags): (String, u32) = decode(payload)?;
    no_flags(flags)?;
    door(&name)?;
    encode(&name)
}

fn places(value: u32) -> Result<u32, Error> {
    if (1..=CALLS_MAX).contains(&value) {
        return Ok(value);
    }
    Err(invalid(&format!("{value} places for a client's calls; from 1 to {CALLS_MAX} can be had")))
}

fn unknown(name: &str, value: &bulkhead_wire::types::ParameterValue) -> Error {
    let message =
        format!("argument unsupported: parameter '{name}' of type '{}' not supported", value.kind());
    Error::new(Code::ARGUMENT_UNSUPPORTED, Origin::NONE, message)
}
