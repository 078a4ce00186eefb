//! Both ends of a channel between two processes: the caller's and the server's.
//!
//! The caller's end survives its server: when the server dies the owner attaches a new link, and calls that may be
//! repeated are sent again within their deadline. Nothing queues without bound: a channel has [`CREDIT`] calls in
//! flight, and who has no credit waits inside its own deadline.

use crate::codec;
use crate::error::{Code, Error, Origin};
use crate::frame::{Header, Kind, Token};
use crate::link::{self, Frame, LinkError, LinkReader, LinkWriter};
use crate::table::{CallContext, CallInfo, Driver, Object, REVISION};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use zeroize::Zeroize;

/// Calls that may be open on a channel at one time.
pub const CREDIT: usize = 256;

/// Frames waiting to be written: as many calls, and as many cancels of theirs, or replies and events.
const OUTBOX: usize = 2 * CREDIT;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not take down every later call; the tables under these locks are valid at all times.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes of a frame; those of a sensitive call are wiped when they are no longer needed.
#[derive(Debug, Clone, Default)]
pub struct Bytes {
    bytes: Vec<u8>,
    sensitive: bool,
}

impl Bytes {
    /// Takes them over.
    #[must_use]
    pub const fn new(bytes: Vec<u8>, sensitive: bool) -> Self {
        Self { bytes, sensitive }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if self.sensitive {
            self.bytes.zeroize();
        }
    }
}

/// A frame on its way out.
type Outgoing = (Header, Bytes, Vec<OwnedFd>);

async fn write_all(mut writer: LinkWriter, mut outbox: mpsc::Receiver<Outgoing>) -> Result<(), LinkError> {
    while let Some((header, body, files)) = outbox.recv().await {
        writer.write(header, &body.bytes, &files).await?;
    }
    Ok(())
}

/// An encoded reply and its descriptors.
type Body = (Vec<u8>, Vec<OwnedFd>);
type Answered = Result<Body, Error>;

/// One connection to one incarnation of a server.
#[derive(Debug)]
struct Connection {
    outbox: mpsc::Sender<Outgoing>,
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<Answered>>>>,
    credit: Semaphore,
    /// Ends the connection, with the reason.
    broken: Mutex<Option<oneshot::Sender<String>>>,
    /// What is spoken with on this connection by callers that have no token of their own.
    token: Token,
}

impl Connection {
    /// Its server answered what is no answer: nothing that it says is worth hearing.
    fn break_off(&self, reason: String) {
        if let Some(broken) = lock(&self.broken).take() {
            let _ = broken.send(reason);
        }
    }
}

/// What makes the calls of a table: a [`Caller`], or whatever else reaches who serves them.
pub trait Calls: Send + Sync {
    /// Makes a call.
    ///
    /// # Errors
    /// What the server answers; a deadline that passed; a server that is gone.
    fn call<A: Serialize + Object + Send, R: DeserializeOwned + Send>(
        &self,
        info: &'static CallInfo,
        arguments: A,
    ) -> impl Future<Output = Result<R, Error>> + Send;
}

impl Calls for Caller {
    async fn call<A: Serialize + Object + Send, R: DeserializeOwned + Send>(
        &self,
        info: &'static CallInfo,
        arguments: A,
    ) -> Result<R, Error> {
        Self::call(self, info, arguments).await
    }
}

/// What a caller knows of its server.
#[derive(Debug, Clone)]
enum Slot {
    /// Not there at the moment; one is on its way.
    Down,
    /// There.
    Up(Arc<Connection>),
    /// Not to be had.
    Held(String),
}

/// The calling end. Cheap to clone; clones share the link and differ in the token they speak with.
#[derive(Debug, Clone)]
pub struct Caller {
    shared: Arc<CallerShared>,
    token: Option<Token>,
}

#[derive(Debug)]
struct CallerShared {
    peer: Driver,
    slot: watch::Sender<Slot>,
    next_id: AtomicU64,
    events: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    links: watch::Sender<u64>,
}

impl Caller {
    /// A caller that waits for its first link.
    #[must_use]
    pub fn new(peer: Driver) -> Self {
        let shared = CallerShared {
            peer,
            slot: watch::Sender::new(Slot::Down),
            next_id: AtomicU64::new(1),
            events: Mutex::new(None),
            links: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared), token: None }
    }

    /// The same channel, speaking for the client of that token.
    #[must_use]
    pub fn with_token(&self, token: Token) -> Self {
        Self { shared: Arc::clone(&self.shared), token: Some(token) }
    }

    /// Delivers the bodies of event frames to this queue. A full queue loses events, which the server's own
    /// `Lagged` reports; it is never waited for.
    pub fn deliver_events(&self, queue: mpsc::Sender<Vec<u8>>) {
        *lock(&self.shared.events) = Some(queue);
    }

    /// Takes a new link into use, speaking with this token; earlier links are forgotten. Returns when it ends, with the reason.
    pub async fn run(&self, socket: OwnedFd, token: Token) -> LinkError {
        match link::open(socket, REVISION).await {
            Ok((reader, writer)) => self.serve_link(reader, writer, token).await,
            Err(error) => error,
        }
    }

    async fn serve_link(&self, mut reader: LinkReader, writer: LinkWriter, token: Token) -> LinkError {
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let (broken, mut broken_off) = oneshot::channel();
        let connection = Arc::new(Connection {
            outbox,
            pending: Mutex::new(Some(HashMap::new())),
            credit: Semaphore::new(CREDIT),
            broken: Mutex::new(Some(broken)),
            token,
        });
        self.shared.slot.send_replace(Slot::Up(Arc::clone(&connection)));
        self.shared.links.send_modify(|count| *count += 1);
        let mut writing = tokio::spawn(write_all(writer, queue));
        // Also when this future is dropped: else the writing task would keep the socket open.
        let in_use = InUse { shared: &self.shared, writing: writing.abort_handle(), connection };
        loop {
            // Whichever half ends first ends the link; reading may be dropped half-way.
            let frame = tokio::select! {
                frame = reader.read() => frame,
                ended = &mut writing => {
                    return match ended {
                        Ok(Err(error)) => error,
                        _ => LinkError::Closed,
                    };
                }
                Ok(reason) = &mut broken_off => return LinkError::Violation(reason),
            };
            match frame {
                Ok(frame) => {
                    if let Err(error) = self.accept(&in_use.connection, frame) {
                        return error;
                    }
                }
                Err(error) => return error,
            }
        }
    }

    fn accept(&self, connection: &Connection, frame: Frame) -> Result<(), LinkError> {
        let answer = match frame.header.kind {
            Kind::Reply => Ok((frame.body, frame.descriptors)),
            Kind::Failure => {
                let error = codec::decode::<Error>(&frame.body, frame.descriptors)
                    .map_err(|error| LinkError::Violation(error.to_string()))?;
                Err(error)
            }
            Kind::Event => {
                let events = lock(&self.shared.events).clone();
                if let Some(events) = events {
                    let _ = events.try_send(frame.body);
                }
                return Ok(());
            }
            kind => return Err(LinkError::Violation(format!("a server does not send {kind:?}"))),
        };
        if frame.header.id >= self.shared.next_id.load(Ordering::Relaxed) {
            return Err(LinkError::Violation(format!(
                "an answer to call {}, which was never made",
                frame.header.id
            )));
        }
        let waiting = lock(&connection.pending).as_mut().and_then(|pending| pending.remove(&frame.header.id));
        // Nobody waits for an answer that came after its deadline.
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
        Ok(())
    }

    /// Calls fail at once with this reason, until a link is attached.
    pub fn hold(&self, reason: String) {
        self.shared.slot.send_replace(Slot::Held(reason));
    }

    /// Calls wait, within their deadlines, until a link is attached.
    pub fn wait_for_link(&self) {
        self.shared.slot.send_if_modified(|slot| {
            let held = matches!(slot, Slot::Held(_));
            if held {
                *slot = Slot::Down;
            }
            held
        });
    }

    /// Makes a call.
    ///
    /// # Errors
    /// What the server answers; the deadline; a server that is gone or held.
    pub async fn call<A: Serialize, R: DeserializeOwned>(
        &self,
        info: &'static CallInfo,
        arguments: A,
    ) -> Result<R, Error> {
        let (body, files) = codec::encode(&arguments)
            .map_err(|error| Error::new(Code::RPC, Origin::RPC, format!("{}: {error}", info.name)))?;
        drop(arguments);
        let body = Bytes::new(body, info.sensitive);
        let deadline = (!info.deadline.is_zero()).then(|| Instant::now() + info.deadline);
        let ((reply, files), connection) = self.exchange(info, body, files, deadline).await?;
        let reply = Bytes::new(reply, info.sensitive);
        codec::decode(&reply.bytes, files).map_err(|error| {
            let reason = format!("{}: reply of the {} driver: {error}", info.name, self.shared.peer);
            connection.break_off(reason.clone());
            Error::new(Code::RPC, Origin::RPC, reason)
        })
    }

    /// Makes a call whose arguments are encoded already; gives the reply as it came.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_encoded(
        &self,
        info: &'static CallInfo,
        body: Vec<u8>,
        files: Vec<OwnedFd>,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let body = Bytes::new(body, info.sensitive);
        let deadline = (!info.deadline.is_zero()).then(|| Instant::now() + info.deadline);
        self.exchange(info, body, files, deadline).await.map(|(reply, _connection)| reply)
    }

    async fn exchange(
        &self,
        info: &'static CallInfo,
        body: Bytes,
        files: Vec<OwnedFd>,
        deadline: Option<Instant>,
    ) -> Result<(Body, Arc<Connection>), Error> {
        let attempts = self.attempts(info, body, files, deadline);
        let Some(deadline) = deadline else {
            return attempts.await;
        };
        match tokio::time::timeout_at(deadline, attempts).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Error::new(
                Code::OPERATION_TIMEOUT,
                Origin::RPC,
                format!(
                    "{} was not answered by the {} driver within {} ms",
                    info.name,
                    self.shared.peer,
                    info.deadline.as_millis()
                ),
            )),
        }
    }

    async fn attempts(
        &self,
        info: &'static CallInfo,
        body: Bytes,
        files: Vec<OwnedFd>,
        deadline: Option<Instant>,
    ) -> Result<(Body, Arc<Connection>), Error> {
        let has_files = !files.is_empty();
        let mut files = Some(files);
        loop {
            let connection = self.connection(info).await?;
            let Ok(_credit) = connection.credit.acquire().await else {
                self.replaced(&connection).await;
                continue;
            };
            let (sender, receiver) = oneshot::channel();
            let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
            let listed = lock(&connection.pending).as_mut().map(|pending| pending.insert(id, sender));
            if listed.is_none() {
                self.replaced(&connection).await;
                continue;
            }
            let mut guard = CancelGuard { connection: &connection, id, armed: true };
            let time_left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let header = Header {
                id,
                operation: info.operation,
                token: self.token.unwrap_or(connection.token),
                trace: u32::try_from(id & 0xffff_ffff).unwrap_or(0),
                time_left_ms: time_left
                    .map_or(0, |left| u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1)),
                ..Header::new(Kind::Call)
            };
            let sent = connection.outbox.send((header, body.clone(), files.take().unwrap_or_default())).await;
            if sent.is_ok()
                && let Ok(answer) = receiver.await
            {
                guard.armed = false;
                return answer.map(|body| (body, Arc::clone(&connection)));
            }
            guard.armed = false;
            if !info.repeatable || has_files {
                return Err(Error::new(
                    Code::OPERATION_FAILED,
                    Origin::RPC,
                    format!(
                        "The {} driver ended while it served {}; whether the call took effect shows in the object's state",
                        self.shared.peer, info.name
                    ),
                ));
            }
            self.replaced(&connection).await;
        }
    }

    /// Waits until a connection that has failed is no longer the one in use.
    async fn replaced(&self, failed: &Arc<Connection>) {
        let mut slot = self.shared.slot.subscribe();
        let same = |slot: &Slot| matches!(slot, Slot::Up(current) if Arc::ptr_eq(current, failed));
        let _ = slot.wait_for(|slot| !same(slot)).await;
    }

    async fn connection(&self, info: &CallInfo) -> Result<Arc<Connection>, Error> {
        let mut slot = self.shared.slot.subscribe();
        loop {
            match &*slot.borrow_and_update() {
                Slot::Up(connection) => return Ok(Arc::clone(connection)),
                Slot::Held(reason) => {
                    return Err(Error::new(
                        Code::OPERATION_FAILED,
                        Origin::RPC,
                        format!(
                            "The {} driver is out of service ({reason}): {} was not tried",
                            self.shared.peer, info.name
                        ),
                    ));
                }
                Slot::Down => {}
            }
            if slot.changed().await.is_err() {
                return Err(Error::new(Code::INTERNAL, Origin::RPC, "The channel was closed"));
            }
        }
    }

    /// Tells when a new link is in use: the server is another incarnation, and knows nothing of subscriptions.
    #[must_use]
    pub fn links(&self) -> watch::Receiver<u64> {
        self.shared.links.subscribe()
    }
}

/// A link in use; whatever ends its use, the socket is closed and the calls on it learn of that.
struct InUse<'a> {
    shared: &'a CallerShared,
    writing: AbortHandle,
    connection: Arc<Connection>,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.writing.abort();
        self.shared.slot.send_if_modified(|slot| {
            let ours = matches!(slot, Slot::Up(current) if Arc::ptr_eq(current, &self.connection));
            if ours {
                *slot = Slot::Down;
            }
            ours
        });
        // Dropping the senders tells every waiting call that its server has gone.
        drop(lock(&self.connection.pending).take());
        self.connection.credit.close();
    }
}

/// Tells the server when a caller loses interest.
struct CancelGuard<'a> {
    connection: &'a Arc<Connection>,
    id: u64,
    armed: bool,
}

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Some(pending) = lock(&self.connection.pending).as_mut() {
            pending.remove(&self.id);
        }
        let header = Header { id: self.id, ..Header::new(Kind::Cancel) };
        // A full outbox means that the server is not reading; its own deadline ends the call then.
        let _ = self.connection.outbox.try_send((header, Bytes::default(), Vec::new()));
    }
}

/// Sends events to the other end of a channel. Never waits: what a slow reader misses is counted and told.
#[derive(Debug, Clone)]
pub struct EventSink {
    outbox: mpsc::Sender<Outgoing>,
    missed: Arc<AtomicU64>,
}

impl EventSink {
    /// Does this one lead to the same channel?
    #[must_use]
    pub fn same_channel(&self, other: &Self) -> bool {
        self.outbox.same_channel(&other.outbox)
    }

    /// Sends an event, or counts it as missed. `lagged` makes the event that tells how many were missed.
    /// Returns false when the subscriber has gone.
    pub fn send<E: Serialize>(&self, event: &E, lagged: impl FnOnce(u64) -> E) -> bool {
        if self.outbox.is_closed() {
            return false;
        }
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 && !self.push(&lagged(missed)) {
            self.missed.fetch_add(missed + 1, Ordering::Relaxed);
            return true;
        }
        if !self.push(event) {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    fn push<E: Serialize>(&self, event: &E) -> bool {
        // Half of the outbox stays free for replies.
        if self.outbox.capacity() <= OUTBOX / 2 {
            return false;
        }
        codec::encode(event).is_ok_and(|(body, _)| {
            let frame = (Header::new(Kind::Event), Bytes::new(body, false), Vec::new());
            self.outbox.try_send(frame).is_ok()
        })
    }
}

/// What a server does with the calls of a channel.
pub trait Serve: Send + Sync + Sized + 'static {
    /// Finds a call in the server's table.
    fn find(&self, operation: u16) -> Option<&'static CallInfo>;

    /// Decides whether the other end, speaking with this token, may make the call.
    ///
    /// # Errors
    /// The refusal that is sent back.
    fn allow(&self, info: &CallInfo, token: Token) -> Result<(), Error>;

    /// Serves it.
    fn serve(
        self: &Arc<Self>,
        call: CallContext,
        body: Vec<u8>,
        files: Vec<OwnedFd>,
    ) -> crate::dispatch::Answer;
}

/// Serves a channel until it ends; says why it ended.
pub async fn serve<S: Serve>(socket: OwnedFd, server: Arc<S>) -> LinkError {
    match link::open(socket, REVISION).await {
        Ok((reader, writer)) => serve_link(reader, writer, server).await,
        Err(error) => error,
    }
}

/// Serves a channel whose other end anybody may have: its first frame must come within that time, and larger bodies
/// than that are not read.
pub async fn serve_stranger<S: Serve>(
    socket: OwnedFd,
    server: Arc<S>,
    within: Duration,
    body_max_bytes: usize,
) -> LinkError {
    match tokio::time::timeout(within, link::open(socket, REVISION)).await {
        Ok(Ok((mut reader, writer))) => {
            reader.limit_bodies(body_max_bytes);
            serve_link(reader, writer, server).await
        }
        Ok(Err(error)) => error,
        Err(_elapsed) => LinkError::Violation(format!("no first frame came within {} s", within.as_secs())),
    }
}

async fn serve_link<S: Serve>(mut reader: LinkReader, writer: LinkWriter, server: Arc<S>) -> LinkError {
    let (outbox, queue) = mpsc::channel(OUTBOX);
    let mut writing = tokio::spawn(write_all(writer, queue));
    let open: Arc<Mutex<HashMap<u64, AbortHandle>>> = Arc::default();
    let events = EventSink { outbox: outbox.clone(), missed: Arc::default() };
    let error = loop {
        // Whichever ends first ends the channel; a frame half read is dropped with the reader.
        let frame = tokio::select! {
            frame = reader.read() => frame,
            ended = &mut writing => {
                break match ended {
                    Ok(Err(error)) => error,
                    _ => LinkError::Closed,
                };
            }
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => break error,
        };
        match frame.header.kind {
            Kind::Call => {
                if let Err(error) = start(&server, frame, &outbox, &open, &events) {
                    break error;
                }
            }
            Kind::Cancel => {
                if let Some(call) = lock(&open).remove(&frame.header.id) {
                    call.abort();
                }
            }
            kind => break LinkError::Violation(format!("a caller does not send {kind:?}")),
        }
    };
    for (_, call) in lock(&open).drain() {
        call.abort();
    }
    writing.abort();
    error
}

fn start<S: Serve>(
    server: &Arc<S>,
    frame: Frame,
    outbox: &mpsc::Sender<Outgoing>,
    open: &Arc<Mutex<HashMap<u64, AbortHandle>>>,
    events: &EventSink,
) -> Result<(), LinkError> {
    let Frame { header, body, descriptors } = frame;
    let info = server
        .find(header.operation)
        .ok_or_else(|| LinkError::Violation(format!("call of unknown operation {}", header.operation)))?;
    {
        let open = lock(open);
        if open.len() >= CREDIT {
            return Err(LinkError::Violation(format!("more than {CREDIT} calls open at once")));
        }
        if open.contains_key(&header.id) {
            return Err(LinkError::Violation(format!("call id {} is in use", header.id)));
        }
    }
    let call = CallContext {
        info,
        token: header.token,
        trace: header.trace,
        time_left: (header.time_left_ms > 0).then(|| Duration::from_millis(u64::from(header.time_left_ms))),
        // Whoever serves the channel knows who is at its other end.
        caller: None,
        speaker: None,
        events: events.clone(),
    };
    let time_left = call.time_left;
    let answer = match server.allow(info, header.token) {
        Ok(()) => server.serve(call, body, descriptors),
        Err(refusal) => Box::pin(async move { Err(refusal) }),
    };
    let outbox = outbox.clone();
    let still_open = Arc::clone(open);
    // The task's first act waits for the gate, so that its own end can't come before it is listed.
    let (gate, listed) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let _ = listed.await;
        let answer = match time_left {
            Some(left) => tokio::time::timeout(left, answer).await.unwrap_or_else(|_elapsed| {
                Err(Error::new(
                    Code::OPERATION_TIMEOUT,
                    Origin::RPC,
                    format!(
                        "{} did not end within the {} ms that its caller waits",
                        info.name,
                        left.as_millis()
                    ),
                ))
            }),
            None => answer.await,
        };
        let outgoing = match answer {
            Ok((body, files)) => {
                let header = Header { id: header.id, ..Header::new(Kind::Reply) };
                (header, Bytes::new(body, info.sensitive), files)
            }
            Err(error) => {
                let body = codec::encode(&error).map(|(body, _)| body).unwrap_or_default();
                let header = Header { id: header.id, ..Header::new(Kind::Failure) };
                (header, Bytes::new(body, false), Vec::new())
            }
        };
        // The call is open until its answer has a place in the outbox: a caller that does not read can't pile up answers.
        let place = outbox.reserve().await;
        lock(&still_open).remove(&header.id);
        if let Ok(place) = place {
            place.send(outgoing);
        }
    });
    lock(open).insert(header.id, task.abort_handle());
    let _ = gate.send(());
    Ok(())
}
