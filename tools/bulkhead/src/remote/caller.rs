//! Calls in libvirt's protocol, over one connection that is made anew when its daemon is replaced.

use super::door::{self, Door, Failure, Request, protocol};
use super::link::{self, Ear, Link, Told, Unanswered};
use super::place::Place;
use super::stream;
use crate::lock;
use crate::owner::Owner;
use bulkhead_wire::channel::Bytes;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::remote::{Encoded, program};
use bulkhead_wire::table::{CallInfo, Object};
use bulkhead_wire::xdr;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// What a daemon gets beyond a call's own time: it says more about what it waited for than can be said here.
const GRACE: Duration = Duration::from_secs(2);
/// Time that a call of lasting work waits for a daemon to be there at all.
const REACHED_WITHIN: Duration = Duration::from_secs(30);
/// Time in which events are registered for.
const REGISTERED_WITHIN: Duration = Duration::from_secs(15);
/// Between two attempts to reach a daemon that has gone: soon at first.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(1);

/// The calling end of libvirt's protocol. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Caller(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    place: Place,
    slot: watch::Sender<Slot>,
    links: watch::Sender<u64>,
    ears: Mutex<Vec<Ear>>,
    /// The way of calls that libvirt has no number for.
    owner: Owner,
}

/// What is known of the daemon.
#[derive(Debug, Clone)]
enum Slot {
    /// It can't be reached at the moment; why.
    Down(String),
    /// It is there.
    Up(Arc<Link>),
    /// Nothing more will come.
    Over,
}

/// The procedure of a call, if it is one of libvirt's.
fn number(info: &CallInfo) -> Option<(u32, i32)> {
    let remote = info.remote.map(|number| (program::REMOTE, number));
    let (program, number) = remote.or(info.qemu.map(|number| (program::QEMU, number)))?;
    Some((program, i32::try_from(number).ok()?))
}

fn failed(message: String) -> Error {
    Error::new(Code::OPERATION_FAILED, Origin::RPC, message)
}

impl Caller {
    /// Reaches the daemon at that place. The connection is up as long as [`keep_up`] runs.
    pub(crate) async fn open(place: Place, owner: Owner) -> Result<(Self, Door), Failure> {
        let door = door::open(&place, true).await?;
        let shared = Shared {
            place,
            slot: watch::Sender::new(Slot::Down("nobody was asked yet".to_owned())),
            links: watch::Sender::new(0),
            ears: Mutex::default(),
            owner,
        };
        Ok((Self(Arc::new(shared)), door))
    }

    /// The way of what libvirt's protocol does not have.
    pub(crate) fn owner(&self) -> &Owner {
        &self.0.owner
    }

    /// Makes a call.
    pub(crate) async fn call<A: Serialize + Object + Send, R: DeserializeOwned + Send>(
        &self,
        info: &'static CallInfo,
        arguments: A,
    ) -> Result<R, Error> {
        let Some((program, procedure)) = number(info) else {
            let channel = self.0.owner.channel(info.driver, info.name, self.pid()).await?;
            return channel.call(info, arguments).await;
        };
        let object = arguments.object();
        let what = Doing { info, object: object.as_deref() };
        let (payload, files) =
            xdr::encode(&arguments).map_err(|error| protocol(format!("{}: {error}", what.named())))?;
        drop(arguments);
        let payload = Bytes::new(payload, info.sensitive);
        let request = Request { program, procedure, payload, sensitive: info.sensitive };
        let (reply, files) = self.answered(&what, request, files).await?;
        let reply = Bytes::new(reply, info.sensitive);
        let read = xdr::decode(&reply, files).map(|(reply, _)| reply);
        read.map_err(|error| protocol(format!("{}: reply of {}: {error}", what.named(), self.0.place)))
    }

    async fn answered(
        &self,
        what: &Doing<'_>,
        request: Request,
        files: Vec<OwnedFd>,
    ) -> Result<Encoded, Error> {
        let info = what.info;
        let deadline = (!info.deadline.is_zero()).then(|| Instant::now() + info.deadline + GRACE);
        let attempts = async {
            if info.stream {
                self.open_stream(what, &request).await
            } else {
                self.attempts(what, &request, files).await
            }
        };
        let Some(deadline) = deadline else { return attempts.await };
        match timeout_at(deadline, attempts).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(self.late(what)),
        }
    }

    fn late(&self, what: &Doing<'_>) -> Error {
        let (named, place) = (what.named(), &self.0.place);
        let message = match &*self.0.slot.borrow() {
            Slot::Down(why) => format!("{named} was not done: {place} can't be reached: {why}"),
            _ => format!("{named} was not answered by {place} within {} ms", what.info.deadline.as_millis()),
        };
        Error::new(Code::OPERATION_TIMEOUT, Origin::RPC, message)
    }

    async fn attempts(
        &self,
        what: &Doing<'_>,
        request: &Request,
        files: Vec<OwnedFd>,
    ) -> Result<Encoded, Error> {
        let repeatable = what.info.repeatable && files.is_empty();
        let mut files = files;
        loop {
            let link = self.link(what).await?;
            match link.exchange(request, std::mem::take(&mut files)).await {
                Ok(answer) => return answer,
                Err(Unanswered::NotSent(unsent)) => files = unsent,
                Err(Unanswered::Lost) if repeatable => {}
                Err(Unanswered::Lost) => return Err(self.lost(what)),
            }
            self.replaced(&link).await;
        }
    }

    /// A stream has a connection of its own: there it is held up by nobody, and holds nobody up, with the kernel's own
    /// back-pressure from end to end.
    async fn open_stream(&self, what: &Doing<'_>, request: &Request) -> Result<Encoded, Error> {
        loop {
            let link = self.link(what).await?;
            let failure = match stream::open(&self.0.place, request, what.info).await {
                Ok(opened) => return Ok(opened),
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Lost(_)) if !what.info.repeatable => return Err(self.lost(what)),
                Err(failure) => failure,
            };
            tracing::debug!(%failure, call = what.info.name, "again");
            // The daemon went, and the other connection notices too; or it lets nobody else in, which may pass.
            let _ = timeout(AGAIN_AFTER_MAX, self.replaced(&link)).await;
        }
    }

    fn lost(&self, what: &Doing<'_>) -> Error {
        let shows = match what.object {
            Some(object) => format!("the state of {object}"),
            None => "what is there now".to_owned(),
        };
        failed(format!(
            "{} ended while it served {}; whether the call took effect shows in {shows}",
            self.0.place,
            what.named()
        ))
    }

    /// The connection in use, as soon as there is one.
    async fn link(&self, what: &Doing<'_>) -> Result<Arc<Link>, Error> {
        let mut slot = self.0.slot.subscribe();
        // A call with a deadline of its own has a shorter one.
        let reached = timeout(REACHED_WITHIN, slot.wait_for(|slot| !matches!(slot, Slot::Down(_)))).await;
        match reached {
            Ok(Ok(slot)) => match &*slot {
                Slot::Up(link) => Ok(Arc::clone(link)),
                _ => Err(failed(format!("{} was not tried: the connection is closed", what.named()))),
            },
            Ok(Err(_gone)) => {
                Err(failed(format!("{} was not tried: the connection is closed", what.named())))
            }
            Err(_elapsed) => Err(self.late(what)),
        }
    }

    /// Waits until a connection that ended is no longer the one in use.
    async fn replaced(&self, ended: &Arc<Link>) {
        let mut slot = self.0.slot.subscribe();
        let same = |slot: &Slot| matches!(slot, Slot::Up(current) if Arc::ptr_eq(current, ended));
        drop(slot.wait_for(|slot| !same(slot)).await);
    }

    /// Tells when another connection is in use, on which nothing is registered.
    pub(crate) fn links(&self) -> watch::Receiver<u64> {
        self.0.links.subscribe()
    }

    /// Hears of events that are wanted, by program and procedure.
    pub(crate) fn hear(&self, wants: fn(u32, i32) -> bool, room: usize) -> mpsc::Receiver<Told> {
        let (queue, heard) = mpsc::channel(room);
        lock(&self.0.ears).push(Ear { wants, queue, missed: 0 });
        heard
    }

    /// Registers for events.
    pub(crate) async fn register<A: Serialize>(
        &self,
        program: u32,
        procedure: i32,
        arguments: &A,
    ) -> Result<(), Error> {
        let request = Request::of(program, procedure, arguments)?;
        let what = Doing { info: &REGISTER, object: None };
        let registered = timeout(REGISTERED_WITHIN, self.attempts(&what, &request, Vec::new())).await;
        registered.unwrap_or_else(|_elapsed| Err(self.late(&what))).map(drop)
    }

    /// Waits until the connection in use has ended.
    pub(crate) async fn ended(&self) {
        let mut slot = self.0.slot.subscribe();
        drop(slot.wait_for(|slot| !matches!(slot, Slot::Up(_))).await);
    }

    /// The process that made the daemon's socket.
    pub(crate) fn pid(&self) -> Option<i32> {
        match &*self.0.slot.borrow() {
            Slot::Up(link) => link.pid,
            _ => None,
        }
    }
}

/// What stands in for the entry of a registration, which is in no table.
static REGISTER: CallInfo =
    CallInfo { name: "events_subscribe", repeatable: true, deadline: REGISTERED_WITHIN, ..CallInfo::DEFAULT };

/// A call, for errors.
struct Doing<'a> {
    info: &'static CallInfo,
    object: Option<&'a str>,
}

impl Doing<'_> {
    fn named(&self) -> String {
        match self.object {
            Some(object) => format!("{} of {object}", self.info.name),
            None => self.info.name.to_owned(),
        }
    }
}

/// Keeps the connection up over its daemon's deaths. When this ends, all calls do.
pub(crate) async fn keep_up(caller: Caller, mut door: Option<Door>) {
    let shared = caller.0;
    let _over = Over(&shared);
    loop {
        let entered = match door.take() {
            Some(door) => door,
            None => reach(&shared).await,
        };
        let (link, outbox) = link::begin(entered);
        let link = Arc::new(link);
        shared.slot.send_replace(Slot::Up(Arc::clone(&link)));
        shared.links.send_modify(|count| *count += 1);
        let reason = link.run(outbox, &shared.ears).await;
        tracing::debug!(place = %shared.place, reason, "connection lost");
        shared.slot.send_replace(Slot::Down(reason));
    }
}

async fn reach(shared: &Shared) -> Door {
    let mut pause = AGAIN_AFTER;
    loop {
        match door::open(&shared.place, true).await {
            Ok(door) => return door,
            Err(failure) => drop(shared.slot.send_replace(Slot::Down(failure.to_string()))),
        }
        tokio::time::sleep(pause).await;
        pause = AGAIN_AFTER_MAX.min(pause * 2);
    }
}

struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.slot.send_replace(Slot::Over);
    }
}
