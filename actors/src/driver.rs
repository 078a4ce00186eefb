//! A driver's life: confined in its first line, welcomed, recovered, ready, serving, and gone when its owner is.

use crate::clients::Clients;
use crate::deadline;
use crate::fault;
use crate::logging;
use crate::stack::Stack;
use bulkhead_sandbox::{Profile, Report, confine};
use bulkhead_wire::channel::{self, Serve};
use bulkhead_wire::codec;
use bulkhead_wire::control::{FromDriver, Identity, Side, ToDriver, Welcome};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::frame::{Header, Kind, Token};
use bulkhead_wire::link::{self, LinkError, LinkReader};
use bulkhead_wire::table::{CallContext, CallInfo, Driver, Permission, REVISION, find};
use bulkhead_wire::types::Busy;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;

/// Time that a driver gives itself to leave in order.
const LEAVE_WITHIN: Duration = Duration::from_millis(800);
/// Ends of helpers that wait to be handled.
const ENDS: usize = 4096;
/// Connections on their way from the control link to the gateway's own task.
const CONNECTIONS: usize = 64;

/// Why a driver leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It was asked to.
    Stop,
    /// The process that owns the stack has gone.
    OwnerGone,
}

/// The end of a helper: its key, its process id, and its exit code or minus its signal.
pub type HelperEnd = (String, u32, Option<i32>);

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// Its token.
    pub token: Token,
    /// Who it is.
    pub identity: Identity,
    /// The socket.
    pub socket: OwnedFd,
    /// What an earlier process of this driver left for the next one.
    pub state: OwnedFd,
}

/// What a driver begins with.
#[derive(Debug)]
pub struct Start {
    /// What the broker said.
    pub welcome: Welcome,
    /// The way to the broker and to other drivers.
    pub stack: Stack,
    /// The clients that may call this driver.
    pub clients: Arc<Clients>,
    /// Ends of this driver's helpers.
    pub helper_ends: mpsc::Receiver<HelperEnd>,
    /// Connections of clients; they come to the gateway alone.
    pub connections: mpsc::Receiver<Connection>,
}

/// A driver.
pub trait DriverLogic: Send + Sync + Sized + 'static {
    /// Which.
    const DRIVER: Driver;
    /// The origin of errors about waiting for its objects.
    const ORIGIN: Origin = Origin::NONE;

    /// Reads what is on disk, finds what runs, and is ready.
    fn recover(start: Start) -> impl Future<Output = Result<Arc<Self>, Error>> + Send;

    /// Serves a call: the table's `dispatch`.
    fn dispatch(self: Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer;

    /// What its objects are busy with.
    fn busy(&self) -> Vec<Busy>;

    /// Does what must be done before the process ends.
    fn leave(&self, reason: Leave) -> impl Future<Output = ()> + Send;
}

/// The whole of a driver's `main`.
#[must_use]
pub fn driver_main<D: DriverLogic>() -> ExitCode {
    // The first line: nothing from outside has been read yet but what the broker itself wrote.
    let (socket, report) = match begin() {
        Ok(begun) => begun,
        Err(message) => {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("{}: {message}\n", D::DRIVER).as_bytes(),
            );
            return ExitCode::from(2);
        }
    };
    logging::begin();
    let runtime =
        match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "no runtime");
                return ExitCode::FAILURE;
            }
        };
    let ended = runtime.block_on(run::<D>(socket, report));
    // What still runs in the background is not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "driver ends");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Result<(OwnedFd, Report), String> {
    let [link, profile] = inherited();
    let mut text = Vec::new();
    std::fs::File::from(profile).read_to_end(&mut text).map_err(|error| format!("profile: {error}"))?;
    let profile = Profile::from_json(&text).map_err(|error| format!("profile: {error}"))?;
    let report = confine(&profile, &[3]).map_err(|error| error.to_string())?;
    Ok((link, report))
}

/// The two descriptors that every driver is born with: its control link and its profile.
fn inherited() -> [OwnedFd; 2] {
    bulkhead_sandbox::inherited([3, 4])
}

/// What the channels of this process share.
struct Serving<D> {
    driver: OnceLock<Arc<D>>,
    clients: Arc<Clients>,
}

/// One channel's server: knows who is at the other end.
struct Served<D> {
    serving: Arc<Serving<D>>,
    peer: Driver,
    client: bool,
}

impl<D: DriverLogic> Serve for Served<D> {
    fn find(&self, operation: u16) -> Option<&'static CallInfo> {
        find(D::DRIVER, operation)
    }

    fn allow(&self, info: &CallInfo, token: Token) -> Result<(), Error> {
        if self.is_early(token) { Ok(()) } else { self.permit(info, token) }
    }

    fn serve(self: &Arc<Self>, mut call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        let Some(driver) = self.serving.driver.get().cloned() else {
            return Box::pin(async {
                Err(Error::new(Code::INTERNAL, Origin::RPC, "The driver is not ready"))
            });
        };
        let peer = (!self.client).then_some(self.peer);
        (call.caller, call.speaker) =
            if call.token == Token::default() { (peer, None) } else { (None, peer) };
        let early = self.is_early(call.token).then(|| Arc::clone(self));
        Box::pin(async move {
            if let Some(served) = early {
                served.serving.clients.arrival(call.token).await;
                served.permit(call.info, call.token)?;
            }
            let name = call.info.name;
            fault::point(name, "before");
            let time_left = call.time_left;
            let answer = deadline::scope(time_left, D::ORIGIN, driver.dispatch(call, body, files)).await;
            fault::point(name, "after");
            answer
        })
    }
}

impl<D: DriverLogic> Served<D> {
    /// Does another driver speak for a client of whom the broker has not told yet? Its word comes over another link.
    fn is_early(&self, token: Token) -> bool {
        !self.client && token != Token::default() && !self.serving.clients.is_there(token)
    }

    fn permit(&self, info: &CallInfo, token: Token) -> Result<(), Error> {
        let denied = |why: &str| {
            Err(Error::new(Code::OPERATION_DENIED, Origin::RPC, format!("{} is refused: {why}", info.name)))
        };
        if !self.client && token == Token::default() {
            // Another driver in its own name.
            return match info.permission {
                Permission::Driver | Permission::Read => Ok(()),
                _ => denied("it is not for drivers"),
            };
        }
        let Some(identity) = self.serving.clients.identity(token) else {
            return denied("the client's token is not, or no longer, valid");
        };
        match info.permission {
            Permission::Read => Ok(()),
            Permission::Write if identity.read_only => {
                let message = format!("operation forbidden: read only access prevents {}", info.name);
                Err(Error::new(Code::OPERATION_DENIED, info.driver.origin(), message))
            }
            Permission::Write => Ok(()),
            Permission::Driver | Permission::Owner => denied("it is not for clients"),
        }
    }
}

async fn run<D: DriverLogic>(socket: OwnedFd, report: Report) -> Result<(), String> {
    let (mut reader, mut writer) = link::open(socket, REVISION).await.map_err(|error| error.to_string())?;
    let (outbox, mut queue) = mpsc::channel::<(Vec<u8>, Vec<OwnedFd>)>(256);
    tokio::spawn(async move {
        while let Some((body, files)) = queue.recv().await {
            if writer.write(Header::new(Kind::Control), &body, &files).await.is_err() {
                break;
            }
        }
    });
    let stack = Stack::new(outbox);
    stack.say(&FromDriver::Confined { in_force: report.in_force, missing: report.missing }).await;
    let (mut deposits, mut helpers) = (Vec::new(), Vec::new());
    let mut welcome = loop {
        match next(&mut reader).await.map_err(|error| error.to_string())? {
            ToDriver::Inheritance { deposits: more, helpers: running } => {
                deposits.extend(more);
                helpers.extend(running);
            }
            ToDriver::Welcome(welcome) => break *welcome,
            other => return Err(format!("expected a welcome, got {other:?}")),
        }
    };
    (welcome.deposits, welcome.helpers) = (deposits, helpers);
    let rules = welcome.faults.drain(..).map(|rule| fault::Rule {
        point: rule.point,
        nth: rule.nth,
        effect: if rule.hang { fault::Effect::Hang } else { fault::Effect::Crash },
    });
    fault::arm(rules.collect());
    let owner = welcome.owner.take().and_then(Descriptor::into_owned).ok_or("the welcome names no owner")?;
    let owner = link::watch(owner).map_err(|error| format!("the owner can't be watched: {error}"))?;
    let clients = Arc::new(Clients::new(std::mem::take(&mut welcome.clients)));
    let serving = Arc::new(Serving { driver: OnceLock::new(), clients: Arc::clone(&clients) });
    let (ends, helper_ends) = mpsc::channel(ENDS);
    let (arrivals, connections) = mpsc::channel(CONNECTIONS);
    let mut recovering = tokio::spawn(recover::<D>(
        Start { welcome, stack: stack.clone(), clients, helper_ends, connections },
        Arc::clone(&serving),
    ));
    let mut recovered = false;
    let reason = loop {
        // A message half read is lost with the link, and the link with the process: nothing else reads it.
        tokio::select! {
            message = next(&mut reader) => match message {
                Ok(message) => match heard(message, &stack, &serving, &ends, &arrivals).await {
                    Some(reason) => break reason,
                    None => continue,
                },
                Err(error) => {
                    tracing::warn!(%error, "control link ended");
                    break Leave::OwnerGone;
                }
            },
            _ = owner.readable() => break Leave::OwnerGone,
            done = &mut recovering, if !recovered => match done {
                Ok(Ok(())) => recovered = true,
                Ok(Err(error)) => return Err(format!("recovery failed: {error}")),
                Err(error) => return Err(format!("recovery failed: {error}")),
            },
        }
    };
    if let Some(driver) = serving.driver.get() {
        let _ = tokio::time::timeout(LEAVE_WITHIN, driver.leave(reason)).await;
    }
    Ok(())
}

async fn recover<D: DriverLogic>(start: Start, serving: Arc<Serving<D>>) -> Result<(), Error> {
    let stack = start.stack.clone();
    let driver = D::recover(start).await?;
    let _ = serving.driver.set(driver);
    stack.say(&FromDriver::Ready).await;
    Ok(())
}

async fn next(reader: &mut LinkReader) -> Result<ToDriver, LinkError> {
    let frame = reader.read().await?;
    codec::decode(&frame.body, frame.descriptors).map_err(|error| LinkError::Violation(error.to_string()))
}

/// Does what the broker says; returns why to leave, if that is what it says.
async fn heard<D: DriverLogic>(
    message: ToDriver,
    stack: &Stack,
    serving: &Arc<Serving<D>>,
    ends: &mpsc::Sender<HelperEnd>,
    arrivals: &mpsc::Sender<Connection>,
) -> Option<Leave> {
    match message {
        ToDriver::Welcome(_) | ToDriver::Inheritance { .. } => tracing::warn!("welcomed twice"),
        ToDriver::ChannelUp { peer, side, client, socket } => {
            let socket = socket.into_owned()?;
            match side {
                Side::Serve => {
                    let served = Served { serving: Arc::clone(serving), peer, client: client.is_some() };
                    tokio::spawn(async move {
                        let served = Arc::new(served);
                        match channel::serve(socket, Arc::clone(&served)).await {
                            LinkError::Closed => {}
                            error => {
                                tracing::warn!(peer = %served.peer, client = served.client, %error, "channel ended");
                            }
                        }
                    });
                }
                Side::Call => {
                    let caller = stack.peer(peer);
                    tokio::spawn(async move {
                        let error = caller.run(socket, Token::default()).await;
                        if error.is_breach() {
                            tracing::warn!(%peer, %error, "channel ended");
                            // Its next incarnation brings the next channel; until then nobody waits for this one.
                            caller.hold(format!("{error}; its restart ends that"));
                        } else {
                            tracing::info!(%peer, %error, "channel ended");
                        }
                    });
                }
            }
        }
        ToDriver::ChannelHeld { peer, reason } => stack.peer(peer).hold(reason),
        ToDriver::Connection { token, identity, socket, state } => {
            let (socket, state) = (socket.into_owned()?, state.into_owned()?);
            // The gateway takes each at once; whoever else is sent one drops it.
            drop(arrivals.send(Connection { token, identity, socket, state }).await);
        }
        ToDriver::ClientUp { token, identity } => serving.clients.came(token, identity),
        ToDriver::ClientDown { token } => serving.clients.went(token),
        ToDriver::Heartbeat { number } => {
            let busy = serving.driver.get().map(|driver| driver.busy()).unwrap_or_default();
            stack.say(&FromDriver::Beat { number, busy: busy.into_iter().take(64).collect() }).await;
        }
        ToDriver::Answer { id, result } => stack.answered(id, result),
        ToDriver::HelperEnded { key, pid, status } => {
            if ends.try_send((key, pid, status)).is_err() {
                tracing::error!("too many helpers ended at once; the next start finds out about the rest");
            }
        }
        ToDriver::Stop => return Some(Leave::Stop),
    }
    None
}
