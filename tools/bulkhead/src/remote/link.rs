//! A connection in use: calls and their answers in any order, events, and signs of life.

use super::door::{Door, PING, PONG, Request, error_of, is_ping, sign};
use crate::lock;
use bulkhead_wire::channel::Bytes;
use bulkhead_wire::error::Error;
use bulkhead_wire::link::LinkError;
use bulkhead_wire::remote::{Encoded, Header, Incoming, Kind, Reader, Status, Writer};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Calls that are under way at one time; who comes later waits within his own deadline.
const CALLS: usize = 256;
/// Frames that wait to be written: those calls, and signs of life.
const OUTBOX: usize = 2 * CALLS;
/// Silence after which the daemon is asked for a sign of life; and how many questions may stay unanswered.
const PING_AFTER: Duration = Duration::from_secs(5);
const PINGS: u32 = 5;
/// Calls of one client after which libvirt's own daemon stops reading until one is answered: its silence means nothing then.
const READS_NO_MORE: usize = 5;

type Answered = Result<Encoded, Error>;

/// The connection ended before an answer came.
pub(super) enum Unanswered {
    /// And before the call went out.
    NotSent(Vec<OwnedFd>),
    /// And what became of the call nobody knows.
    Lost,
}

type Outgoing = (Bytes, Vec<OwnedFd>);

/// What is heard of something that nobody asked for.
#[derive(Debug)]
pub(crate) enum Told {
    /// An event.
    Event { program: u32, procedure: i32, payload: Vec<u8> },
    /// So many found no room.
    Missed(u64),
}

/// Who wants to hear of events, and of which.
#[derive(Debug)]
pub(super) struct Ear {
    pub(super) wants: fn(u32, i32) -> bool,
    pub(super) queue: mpsc::Sender<Told>,
    pub(super) missed: u64,
}

impl Ear {
    /// Nobody is waited for: what finds no room is counted, and told.
    fn tell(&mut self, frame: &Incoming) {
        let (program, procedure) = (frame.header.program, frame.header.procedure);
        if !(self.wants)(program, procedure) {
            return;
        }
        if self.missed > 0 && self.queue.try_send(Told::Missed(self.missed)).is_ok() {
            self.missed = 0;
        }
        let event = Told::Event { program, procedure, payload: frame.payload.clone() };
        if self.missed > 0 || self.queue.try_send(event).is_err() {
            self.missed += 1;
        }
    }
}

/// The side of a connection that calls are made on.
#[derive(Debug)]
pub(super) struct Link {
    outbox: mpsc::Sender<Outgoing>,
    /// By serial; `None` when the connection has ended.
    waiting: Mutex<Option<HashMap<u32, oneshot::Sender<Answered>>>>,
    serial: AtomicU32,
    places: Semaphore,
    /// The process that made the socket.
    pub(super) pid: Option<i32>,
}

/// What is to be written.
pub(super) struct Outbox {
    reader: Reader,
    writer: Writer,
    queue: mpsc::Receiver<Outgoing>,
}

/// Both sides of an open connection: one for calls, one to be run.
pub(super) fn begin(door: Door) -> (Link, Outbox) {
    let (outbox, queue) = mpsc::channel(OUTBOX);
    let link = Link {
        outbox,
        waiting: Mutex::new(Some(HashMap::new())),
        serial: AtomicU32::new(door.serial),
        places: Semaphore::new(CALLS),
        pid: door.pid,
    };
    (link, Outbox { reader: door.reader, writer: door.writer, queue })
}

/// A call that waits; when nobody wants its answer any more, nobody is told: the protocol has no word for that.
struct Waiting<'a>(&'a Link, u32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = lock(&self.0.waiting).as_mut() {
            waiting.remove(&self.1);
        }
    }
}

impl Link {
    /// Makes a call and waits for its answer.
    pub(super) async fn exchange(
        &self,
        request: &Request,
        files: Vec<OwnedFd>,
    ) -> Result<Answered, Unanswered> {
        let Ok(_place) = self.places.acquire().await else { return Err(Unanswered::NotSent(files)) };
        let (sender, answer) = oneshot::channel();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let listed = lock(&self.waiting).as_mut().map(|waiting| waiting.insert(serial, sender));
        if listed.is_none() {
            return Err(Unanswered::NotSent(files));
        }
        let _waiting = Waiting(self, serial);
        let frame = match request.frame(serial, files.len()) {
            Ok(frame) => frame,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(unsent) = self.outbox.send((frame, files)).await {
            return Err(Unanswered::NotSent(unsent.0.1));
        }
        answer.await.map_err(|_ended| Unanswered::Lost)
    }

    /// Serves the connection until it ends; says why.
    pub(super) async fn run(&self, outbox: Outbox, ears: &Mutex<Vec<Ear>>) -> String {
        let Outbox { mut reader, writer, queue } = outbox;
        let _ended = Ended(self);
        let reading = async {
            let mut unanswered = 0;
            loop {
                // Dropped half-way, it keeps what came.
                match timeout(PING_AFTER, reader.read()).await {
                    Ok(Ok(frame)) => {
                        unanswered = 0;
                        self.take(frame, ears);
                    }
                    Ok(Err(LinkError::Closed)) => return "it closed the connection".to_owned(),
                    Ok(Err(error)) => return error.to_string(),
                    Err(_silence) => {
                        let open = lock(&self.waiting).as_ref().map_or(0, HashMap::len);
                        if unanswered >= PINGS && open < READS_NO_MORE {
                            return "it gives no sign of life".to_owned();
                        }
                        unanswered += 1;
                        self.say(PING);
                    }
                }
            }
        };
        // Whichever ends first ends the connection.
        tokio::select! {
            reason = reading => reason,
            error = write(writer, queue) => error,
        }
    }

    fn say(&self, procedure: i32) {
        // No room means that the daemon does not read; that shows soon enough.
        drop(self.outbox.try_send((Bytes::new(sign(procedure), false), Vec::new())));
    }

    fn take(&self, frame: Incoming, ears: &Mutex<Vec<Ear>>) {
        let Header { kind, serial, status, .. } = frame.header;
        match kind {
            _ if is_ping(&frame.header) => self.say(PONG),
            Some(Kind::Reply | Kind::ReplyWithFiles) => {
                let waiting = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&serial));
                // Nobody waits for an answer that came after its deadline.
                let Some(waiting) = waiting else { return };
                let answer = if status == Status::Ok as i32 {
                    Ok((frame.payload, frame.files))
                } else {
                    Err(error_of(&frame))
                };
                drop(waiting.send(answer));
            }
            Some(Kind::Message) => {
                lock(ears).retain_mut(|ear| {
                    ear.tell(&frame);
                    !ear.queue.is_closed()
                });
            }
            // What a daemon of another time says is nothing to us.
            _ => {}
        }
    }
}

async fn write(mut writer: Writer, mut queue: mpsc::Receiver<Outgoing>) -> String {
    while let Some((bytes, files)) = queue.recv().await {
        if let Err(error) = writer.write(&bytes, &files).await {
            return error.to_string();
        }
    }
    "nobody uses it".to_owned()
}

/// However a connection's use ends, the calls on it learn of that.
struct Ended<'a>(&'a Link);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        drop(lock(&self.0.waiting).take());
        self.0.places.close();
    }
}
