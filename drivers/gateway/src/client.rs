//! One client's connection: reads frames, has calls served, and knows when it is over.

use crate::admin::{self, Settings};
use crate::outbox::{self, Outbox};
use crate::special::{Session, Special};
use crate::state::{Busy, Left, Record, State};
use crate::stream::Streams;
use crate::{Shared, events, following, lock};
use bulkhead_actors::driver::Connection;
use bulkhead_wire::channel::Bytes;
use bulkhead_wire::control::Identity;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::frame::Token;
use bulkhead_wire::link::LinkError;
use bulkhead_wire::remote::{
    self, Header, Incoming, Kind, QEMU_NAMES, REMOTE_NAMES, Reader, Status, Translation, origin_of, program,
};
use bulkhead_wire::table::{CallInfo, Class, Permission, storage};
use bulkhead_wire::types::Busy as BusyWith;
use bulkhead_wire::xdr;
use nix::sys::socket::{UnixAddr, getsockname};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Time from the connection to its authentication.
const AUTHENTICATE_WITHIN: Duration = Duration::from_secs(30);
/// Time from a frame's first bytes to its last.
const FRAME_WITHIN: Duration = Duration::from_secs(30);
/// Silence of a client with signs of life after which it is asked for one; and how many questions may stay unanswered.
const PING_AFTER: Duration = Duration::from_secs(5);
const PINGS: u32 = 5;
/// The socket for administrators, by which name it was bound.
const ADMIN_SOCKET: &str = "libvirt-admin-sock";
/// KiB of calls of one client that are read and wait: more are left in the socket.
const WAITING_KIB: usize = 64 << 10;
/// What a call takes of that at least, in KiB.
const CALL_KIB: u32 = 16;
/// Frames longer than this take a place among all clients' long ones.
const LONG_BYTES: usize = 64 << 10;

/// A client.
pub(crate) struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) token: Token,
    pub(crate) identity: Identity,
    pub(crate) door: Door,
    /// Its number among this stack's clients.
    pub(crate) number: u64,
    /// When it came, in seconds since 1970.
    pub(crate) since_seconds: i64,
    pub(crate) place: admin::Place,
    pub(crate) outbox: Outbox,
    pub(crate) callbacks: Mutex<events::Callbacks>,
    pub(crate) streams: Streams,
    pub(crate) state: Arc<State>,
    /// Places for calls that change something, and for those that only look.
    changing: Arc<Semaphore>,
    looking: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    open: AtomicU32,
    /// Told when the client is to be cut off.
    cut: watch::Sender<Option<&'static str>>,
}

/// How a client came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// For libvirt's API.
    Public,
    /// For the stack's administrator.
    Admin,
}

impl Door {
    /// The broker bound the sockets, each by its own name: which one this came over, the kernel knows.
    fn of(socket: &OwnedFd) -> Self {
        let address = getsockname::<UnixAddr>(socket.as_raw_fd());
        let name =
            address.ok().and_then(|address| address.path()?.file_name().map(|name| name == ADMIN_SOCKET));
        if name == Some(true) { Self::Admin } else { Self::Public }
    }
}

/// What a frame takes while it is in memory: of the client's own room, and of that for long ones.
type Places = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// Why a connection is over.
#[derive(Debug)]
enum Over {
    /// The client said so, or hung up.
    Orderly,
    /// Something else.
    Because(String),
}

impl From<LinkError> for Over {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Closed => Self::Orderly,
            error => Self::Because(error.to_string()),
        }
    }
}

/// Serves a connection until it is over.
pub(crate) async fn serve(shared: Arc<Shared>, connection: Connection) {
    let Connection { token, identity, socket, state } = connection;
    let (state, left) = State::open(state);
    let door = Door::of(&socket);
    let Record { mut session, mut callbacks } = match left {
        Left::New => {
            if let Err(reason) = admin::admits(&shared, door) {
                tracing::warn!(pid = identity.pid, uid = identity.uid, reason, "turned away");
                shared.handed_over(token);
                return shared.stack.client_gone(token).await;
            }
            let mut record = Record::default();
            // Whoever may open the administrator's socket is one.
            record.session.authenticated = door == Door::Admin;
            record.session.number = shared.last_number.fetch_add(1, Ordering::Relaxed) + 1;
            record.session.since_seconds = now_seconds();
            record
        }
        Left::Resting(record) => *record,
        // What it waits for does not come; the end of its connection tells it so.
        Left::Busy => {
            tracing::warn!(
                pid = identity.pid,
                "a connection ends: this driver ended while it was busy with it"
            );
            let socket = std::os::unix::net::UnixStream::from(socket);
            drop(socket.shutdown(std::net::Shutdown::Both));
            shared.handed_over(token);
            return shared.stack.client_gone(token).await;
        }
    };
    shared.last_number.fetch_max(session.number, Ordering::Relaxed);
    callbacks.arm_all();
    let followed = [events::Kind::Network, events::Kind::Pool, events::Kind::Secret];
    for kind in followed.into_iter().filter(|kind| callbacks.concern(*kind)) {
        drop(following::begin(&shared, kind));
    }
    let (outbox, queue) = Outbox::new(&state);
    let (mut reader, writer) = match remote::split(socket) {
        Ok(halves) => halves,
        Err(error) => {
            tracing::error!(%error, "connection");
            shared.handed_over(token);
            return shared.stack.client_gone(token).await;
        }
    };
    let settings = lock(&shared.settings).clone();
    let client = Arc::new(Client {
        shared: Arc::clone(&shared),
        token,
        identity,
        door,
        number: session.number,
        since_seconds: session.since_seconds,
        place: admin::Place::take(&shared, door, session.authenticated),
        outbox,
        callbacks: Mutex::new(callbacks),
        streams: Streams::default(),
        state,
        changing: places(settings.changing_max),
        looking: places(settings.looking_max),
        waiting: Arc::new(Semaphore::new(WAITING_KIB)),
        open: AtomicU32::new(0),
        cut: watch::Sender::new(None),
    });
    lock(&shared.clients).insert(token, Arc::clone(&client));
    shared.handed_over(token);
    let mut writing = tokio::spawn(outbox::write(writer, queue));
    let over = tokio::select! {
        // Whichever is first ends the connection; nothing is read after it.
        over = client.converse(&mut session, &mut reader) => over,
        written = &mut writing => Over::Because(format!("writing: {written:?}")),
        reason = cut_off(&client) => Over::Because(reason.to_owned()),
    };
    lock(&shared.clients).remove(&token);
    client.streams.clear();
    client.callbacks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    match over {
        Over::Orderly => {
            // What was asked is answered, or at least done.
            let _ = client.waiting.acquire_many(u32::try_from(WAITING_KIB).unwrap_or(u32::MAX)).await;
        }
        Over::Because(reason) => {
            tracing::warn!(pid = client.identity.pid, uid = client.identity.uid, reason, "connection ends");
            writing.abort();
        }
    }
    drop(client);
    drop(reader);
    let _ = writing.await;
    shared.stack.client_gone(token).await;
}

impl Client {
    /// Has the connection ended, by somebody who must not wait.
    pub(crate) fn cut_off(&self, reason: &'static str) {
        self.cut.send_replace(Some(reason));
    }

    /// Calls that are open, served or not.
    pub(crate) fn open(&self) -> usize {
        usize::try_from(self.open.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Calls that are being served.
    pub(crate) fn served(&self) -> usize {
        let settings = lock(&self.shared.settings).clone();
        taken(&self.changing, settings.changing_max) + taken(&self.looking, settings.looking_max)
    }

    /// Calls that are being served and change something.
    pub(crate) fn changing_now(&self) -> usize {
        taken(&self.changing, lock(&self.shared.settings).changing_max)
    }

    /// Gives its calls more places, or fewer when those that are taken are free again.
    pub(crate) fn resize(&self, before: &Settings, after: &Settings) {
        resize(&self.changing, before.changing_max, after.changing_max);
        resize(&self.looking, before.looking_max, after.looking_max);
    }

    /// What it waits for, if it waits.
    pub(crate) fn busy(&self) -> Option<BusyWith> {
        let open = self.open.load(Ordering::Relaxed);
        (open > 0).then(|| BusyWith {
            object: format!("client {}", self.identity.pid),
            operation: "calls".to_owned(),
            since_ms: 0,
            waiting: open,
            progress: None,
        })
    }

    async fn converse(self: &Arc<Self>, session: &mut Session, reader: &mut Reader) -> Over {
        let deadline = Instant::now() + AUTHENTICATE_WITHIN;
        let mut pings = 0;
        loop {
            let next = async {
                if session.authenticated {
                    reader.ready().await.map(Some)
                } else {
                    timeout_at(deadline, reader.ready()).await.map_or(Ok(None), |ready| ready.map(Some))
                }
            };
            let ready = if session.pinged {
                match timeout(PING_AFTER, next).await {
                    Ok(ready) => ready,
                    Err(_silence) if pings < PINGS => {
                        pings += 1;
                        drop(self.outbox.message(keepalive(PING), &[]));
                        continue;
                    }
                    Err(_silence) => return Over::Because("it gives no sign of life".to_owned()),
                }
            } else {
                next.await
            };
            pings = 0;
            match ready {
                Ok(Some(())) => {}
                Ok(None) => return Over::Because("it did not authenticate in time".to_owned()),
                Err(error) => return error.into(),
            }
            // Nothing has been read yet: from here on something would be lost with this process.
            let busy = self.state.busy();
            let (header, length) = match timeout(FRAME_WITHIN, reader.peek()).await {
                Ok(Ok(peeked)) => peeked,
                Ok(Err(error)) => return error.into(),
                Err(_elapsed) => return Over::Because("half a frame came".to_owned()),
            };
            let Ok(place) = self.place(length).await else {
                return Over::Orderly;
            };
            let frame = match timeout(FRAME_WITHIN, reader.read()).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(error)) => return error.into(),
                Err(_elapsed) => {
                    return Over::Because(format!("a frame of {length} bytes did not come whole"));
                }
            };
            match (header.program, header.kind) {
                (program::KEEPALIVE, Some(Kind::Message)) if header.procedure == PING => {
                    drop(self.outbox.message(keepalive(PONG), &[]));
                }
                (_, Some(Kind::Call | Kind::CallWithFiles)) => {
                    let said = self.call(session, frame, (place, busy)).await;
                    if said.is_break() {
                        return Over::Orderly;
                    }
                }
                (_, Some(Kind::Stream | Kind::StreamHole)) => self.streams.heard(frame).await,
                // As stock: what a client does not send is nothing.
                _ => {}
            }
        }
    }

    /// Takes the places that a frame needs while it is in memory.
    async fn place(&self, length: usize) -> Result<Places, ()> {
        let kib = u32::try_from(length >> 10).unwrap_or(u32::MAX);
        let waiting = Arc::clone(&self.waiting).acquire_many_owned(kib.saturating_add(CALL_KIB)).await;
        let long = if length > LONG_BYTES {
            let long = Arc::clone(&self.shared.long_frames).acquire_many_owned(kib).await;
            Some(long.map_err(drop)?)
        } else {
            None
        };
        Ok((waiting.map_err(drop)?, long))
    }

    /// Serves a call, or has it served. Breaks when the connection is to end.
    async fn call(
        self: &Arc<Self>,
        session: &mut Session,
        frame: Incoming,
        held: (Places, Busy),
    ) -> std::ops::ControlFlow<()> {
        if self.door == Door::Admin {
            return self.administer(session, frame).await;
        }
        let header = frame.header;
        let served = match self.admit(session, header) {
            Ok(Served::Here(special)) => return self.special(session, special, frame).await,
            Ok(Served::By(translation)) => Ok(translation),
            Err(error) => Err(error),
        };
        let translation = match served {
            Ok(translation) => translation,
            Err(error) => {
                self.outbox.answer(header, Err(error)).await;
                return std::ops::ControlFlow::Continue(());
            }
        };
        let client = Arc::clone(self);
        self.open.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let looks = translation.info.class == Class::Query;
            let turn = if looks { &client.looking } else { &client.changing };
            if let Ok(_turn) = turn.acquire().await {
                client.serve_translated(translation, frame).await;
            }
            client.open.fetch_sub(1, Ordering::Relaxed);
            drop(held);
        });
        std::ops::ControlFlow::Continue(())
    }

    /// Finds who serves a call, or why nobody does.
    fn admit(&self, session: &Session, header: Header) -> Result<Served, Error> {
        let fault = |message: String| Err(Error::new(Code::RPC, Origin::RPC, message));
        let names = match (header.program, header.version) {
            (program::REMOTE, 1) => REMOTE_NAMES,
            (program::QEMU, 1) => QEMU_NAMES,
            (program, version) => return fault(format!("Cannot find program {program} version {version}")),
        };
        if header.status != Status::Ok as i32 {
            return fault(format!("Unexpected message status {}", header.status));
        }
        let number = u32::try_from(header.procedure).unwrap_or(0);
        let Some((_, name)) = names.iter().find(|(known, _)| *known == number) else {
            return fault(format!("unknown procedure: {}", header.procedure));
        };
        let remote = header.program == program::REMOTE;
        let special = Special::of(header.program, number);
        if !session.authenticated && !special.is_some_and(Special::authenticates) {
            return fault("authentication required".to_owned());
        }
        if let Some(special) = special {
            return Ok(Served::Here(special));
        }
        if session.uri.is_none() {
            return Err(Error::new(Code::INTERNAL, Origin::RPC, "hypervisor connection not open"));
        }
        let found = if remote { remote::find(number) } else { remote::find_qemu(number) };
        let Some(translation) = found else {
            let message = format!("this function is not supported by the connection driver: {name}");
            return Err(Error::new(Code::NO_SUPPORT, origin_of(name), message));
        };
        // Who wanted only to look is held to it; whom the socket allows no more is refused by the driver.
        if session.read_only && translation.info.permission != Permission::Read {
            let message = format!("operation forbidden: read only access prevents {name}");
            return Err(Error::new(Code::OPERATION_DENIED, translation.info.driver.origin(), message));
        }
        Ok(Served::By(translation))
    }

    async fn serve_translated(self: &Arc<Self>, translation: &'static Translation, frame: Incoming) {
        let header = frame.header;
        let Incoming { payload, files, .. } = frame;
        let console = match self.shared.consoles.claim(translation.info, &payload) {
            Ok(console) => console,
            Err(error) => return self.outbox.answer(header, Err(error)).await,
        };
        let sparse = is_sparse(translation.info, &payload);
        let answer = self.translated(translation, payload, files).await;
        match answer {
            Ok((reply, mut files)) if translation.info.stream => match files.pop() {
                Some(file) => self.streams.open(self, header, reply, (file, sparse), console).await,
                None => self.outbox.answer(header, Err(no_file(translation))).await,
            },
            answer => self.outbox.answer_with(header, answer, translation.info.sensitive).await,
        }
    }

    async fn translated(
        &self,
        translation: &'static Translation,
        payload: Vec<u8>,
        files: Vec<OwnedFd>,
    ) -> Result<remote::Encoded, Error> {
        let sensitive = translation.info.sensitive;
        let payload = Bytes::new(payload, sensitive);
        let (body, files) = (translation.arguments)(&payload, files)?;
        drop(payload);
        let caller = self.shared.caller_on_demand(translation.info.driver).await?.with_token(self.token);
        let (body, files) = caller.call_encoded(translation.info, body, files).await?;
        (translation.reply)(&Bytes::new(body, sensitive), files)
    }
}

/// Does the call ask for a stream on which holes are spoken of (`VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM` and its like)?
fn is_sparse(info: &CallInfo, payload: &[u8]) -> bool {
    const SPARSE: u32 = 1;
    let flags = if info.remote == storage::storage_vol_upload::INFO.remote {
        xdr::decode::<storage::storage_vol_upload::Arguments>(payload, Vec::new()).map(|(call, _)| call.flags)
    } else if info.remote == storage::storage_vol_download::INFO.remote {
        xdr::decode::<storage::storage_vol_download::Arguments>(payload, Vec::new())
            .map(|(call, _)| call.flags)
    } else {
        return false;
    };
    flags.is_ok_and(|flags| flags & SPARSE != 0)
}

fn no_file(translation: &Translation) -> Error {
    Error::new(Code::INTERNAL, Origin::RPC, format!("{}: no stream came", translation.info.name))
}

fn places(count: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS)))
}

fn taken(places: &Semaphore, all: u32) -> usize {
    usize::try_from(all).unwrap_or(0).saturating_sub(places.available_permits())
}

fn resize(places: &Arc<Semaphore>, before: u32, after: u32) {
    if after >= before {
        places.add_permits(usize::try_from(after - before).unwrap_or(0));
        return;
    }
    let places = Arc::clone(places);
    tokio::spawn(async move {
        if let Ok(given_back) = places.acquire_many_owned(before - after).await {
            given_back.forget();
        }
    });
}

fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Waits until somebody wants the client to be cut off; why.
async fn cut_off(client: &Client) -> &'static str {
    let mut cut = client.cut.subscribe();
    let wanted = cut.wait_for(Option::is_some).await;
    wanted.ok().and_then(|reason| *reason).unwrap_or_default()
}

/// Who serves a call.
enum Served {
    /// This process: it is about the connection itself.
    Here(Special),
    /// A driver.
    By(&'static Translation),
}

/// Procedures of the keepalive program.
const PING: i32 = 1;
const PONG: i32 = 2;

fn keepalive(procedure: i32) -> Header {
    Header {
        program: program::KEEPALIVE,
        version: 1,
        procedure,
        kind: Some(Kind::Message),
        serial: 0,
        status: Status::Ok as i32,
    }
}
