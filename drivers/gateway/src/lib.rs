//! The gateway: libvirt's RPC on one side, typed calls on the other.
//!
//! Owns: the conversations with libvirt's clients – frames, the few procedures that are about the connection itself, signs
//! of life, event registrations, streams. Never does: parse XML, open a file, decide who may do what: a client's token says
//! who it is, and the driver that serves the call decides. A procedure needs no code here: what the tables in `wire` say is
//! enough.

mod admin;
mod client;
mod console;
mod events;
mod following;
mod journal;
mod known;
mod monitor;
mod network_events;
mod outbox;
mod pool_events;
mod secret_events;
mod special;
mod state;
mod stream;

use bulkhead_actors::driver::{Connection, DriverLogic, Leave, Start};
use bulkhead_actors::stack::Stack;
use bulkhead_wire::channel::Caller;
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::Error;
use bulkhead_wire::frame::Token;
use bulkhead_wire::table::{CallContext, Driver, unsupported};
use bulkhead_wire::types::Busy;
use client::Client;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OnceCell, Semaphore, mpsc, watch};

/// KiB of long frames, of all clients together, that may be in memory at one time.
const LONG_FRAMES_KIB: usize = 512 << 10;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) stack: Stack,
    /// `system`, `session` or `embed`.
    pub(crate) mode: String,
    pub(crate) clients: Mutex<HashMap<Token, Arc<Client>>>,
    pub(crate) followings: following::Followings,
    /// The channel to the secret driver, once it was asked for.
    secret_driver: OnceCell<Caller>,
    pub(crate) long_frames: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) consoles: console::Consoles,
    pub(crate) settings: Mutex<admin::Settings>,
    pub(crate) counts: admin::Counts,
    /// What an earlier process left, by name.
    inheritance: Mutex<HashMap<String, OwnedFd>>,
    /// The clients of an earlier process that are still to be handed over.
    pub(crate) expected: watch::Sender<HashSet<Token>>,
    /// Where what this process logs is found.
    pub(crate) log_file: String,
    /// The highest number that a client has.
    pub(crate) last_number: AtomicU64,
}

impl Shared {
    /// The channel to a driver.
    pub(crate) fn caller(&self, driver: Driver) -> Caller {
        self.stack.peer(driver)
    }

    /// A file that an earlier process left.
    pub(crate) fn inherited(&self, name: &str) -> Option<File> {
        lock(&self.inheritance).remove(name).map(File::from)
    }

    /// This client is here, or has gone already.
    pub(crate) fn handed_over(&self, token: Token) {
        self.expected.send_if_modified(|expected| expected.remove(&token) && expected.is_empty());
    }

    /// The channel to a driver that may have to begin first.
    pub(crate) async fn caller_on_demand(&self, driver: Driver) -> Result<Caller, Error> {
        if driver == Driver::Secret {
            // Asked once: whatever becomes of the driver then, the broker starts it again.
            self.secret_driver.get_or_try_init(|| self.stack.peer_on_demand(driver)).await.cloned()
        } else {
            Ok(self.caller(driver))
        }
    }
}

/// A lock that a panic elsewhere does not poison: what these protect is valid at all times.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The driver.
pub struct Gateway {
    shared: Arc<Shared>,
}

impl DriverLogic for Gateway {
    const DRIVER: Driver = Driver::Gateway;

    async fn recover(start: Start) -> Result<Arc<Self>, Error> {
        let deposits = start.welcome.deposits.into_iter();
        let inheritance = deposits.filter_map(|(name, file)| Some((name, file.into_owned()?)));
        let shared = Arc::new(Shared {
            stack: start.stack,
            mode: start.welcome.mode,
            clients: Mutex::default(),
            followings: following::Followings::default(),
            secret_driver: OnceCell::new(),
            long_frames: Arc::new(Semaphore::new(LONG_FRAMES_KIB)),
            streams: Arc::new(Semaphore::new(stream::STREAMS_OF_ALL)),
            consoles: console::Consoles::default(),
            settings: Mutex::default(),
            counts: admin::Counts::default(),
            inheritance: Mutex::new(inheritance.collect()),
            expected: watch::Sender::new(start.clients.tokens().into_iter().collect()),
            log_file: start.welcome.layout.log.join("gateway.driver.log").display().to_string(),
            last_number: AtomicU64::new(0),
        });
        let settings = admin::Settings::inherited(&shared);
        settings.log(&shared.log_file);
        *lock(&shared.settings) = settings;
        // The domains' are followed in any case: what was known before a client asks tells what it missed later.
        drop(following::begin(&shared, events::Kind::Domain));
        tokio::spawn(welcome(Arc::clone(&shared), start.connections));
        Ok(Arc::new(Self { shared }))
    }

    fn dispatch(self: Arc<Self>, call: CallContext, _body: Vec<u8>, _files: Vec<OwnedFd>) -> Answer {
        Box::pin(async move { Err(unsupported(call.info)) })
    }

    fn busy(&self) -> Vec<Busy> {
        lock(&self.shared.clients).values().filter_map(|client| client.busy()).collect()
    }

    async fn leave(&self, _reason: Leave) {}
}

async fn welcome(shared: Arc<Shared>, mut connections: mpsc::Receiver<Connection>) {
    while let Some(connection) = connections.recv().await {
        tokio::spawn(client::serve(Arc::clone(&shared), connection));
    }
}
