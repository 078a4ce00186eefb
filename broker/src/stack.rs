//! The shell around the supervisor: one task that owns all of a stack's processes, links and helpers.
//!
//! Everything reaches it as a message and nothing waits for anybody in here: links are written by tasks of their own, and
//! a driver that does not read its link is a driver that hangs.

mod clients;
mod report;
mod wishes;

use crate::birth;
use crate::helpers::{self, Running};
use crate::launcher::process;
use crate::launcher::{self, Command};
use crate::manifest::{self, Intensity, MANIFESTS};
use crate::public::{Connected, Sockets};
use crate::root::{Mode, Root};
use crate::shelf::Shelf;
use crate::supervisor::{Action, Event, Phase, Supervisor};
use crate::talk::talk;
use bulkhead_sandbox::profiles;
use bulkhead_wire::codec;
use bulkhead_wire::control::{FaultRule, FromDriver, Helper, Identity, Side, ToDriver, Welcome};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::Error;
use bulkhead_wire::frame::Token;
use bulkhead_wire::link::LinkError;
use bulkhead_wire::table::Driver;
use bulkhead_wire::types::{Busy, StackStatus};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use wishes::{Outcome, Starting, Wish};

/// How a stack is opened.
#[derive(Debug)]
pub struct Config {
    /// Which way it runs.
    pub mode: Mode,
    /// The root, for messages; the folders follow from it and the mode.
    pub root: PathBuf,
    /// Where the drivers' programs are.
    pub libexec: PathBuf,
    /// How often a driver may die.
    pub intensity: Intensity,
    /// Where libvirt's clients find it, if they are to.
    pub sockets: Option<Sockets>,
    /// Faults to make. Empty for every stack that is not there to be tested.
    pub faults: Vec<FaultRule>,
    /// Descriptors of the service manager, with their names: what it kept for an earlier daemon, and sockets on which it listens
    /// for this one. `None`: no service manager is to be told of any, be it there or not.
    pub kept: Option<Vec<(String, OwnedFd)>>,
}

/// Where a channel, or the reason why there is none, is awaited.
type ChannelReply = oneshot::Sender<Result<OwnedFd, String>>;

/// What the stack is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Start these drivers unless they run.
    Want(Vec<Driver>),
    /// A client has come: make it a token.
    ClientUp(Identity, oneshot::Receiver<Infallible>, oneshot::Sender<Token>),
    /// A channel to a driver, as soon as it serves.
    Channel(Token, Driver, ChannelReply),
    /// The whole state.
    Status(oneshot::Sender<StackStatus>),
    /// Take a driver out of service.
    Hold(Driver),
    /// Bring it back.
    Release(Driver),
}

/// What reaches the stack's task from its own small tasks.
#[derive(Debug)]
pub(crate) enum Happening {
    Said(Driver, u64, Box<FromDriver>),
    LinkEnded(Driver, u64, LinkError),
    DriverEnded(Driver, u64, Option<i32>),
    HelperEnded(String, u32, Option<i32>),
    Done(Wish, Result<Outcome, Error>),
    ClientGone(Token),
}

/// A driver's process, while there is one.
#[derive(Debug)]
struct Alive {
    incarnation: u64,
    pid: u32,
    pidfd: OwnedFd,
    outbox: mpsc::Sender<(Vec<u8>, Vec<OwnedFd>)>,
    welcomed: bool,
    in_force: Vec<String>,
    missing: Vec<String>,
    /// What its objects were busy with, and when it said so.
    busy: (Instant, Vec<Busy>),
    /// Since when so many of its wishes were refused.
    refused: (Instant, u32),
    /// Room for wishes that are done beside the stack's task.
    beside: Arc<Semaphore>,
}

impl Alive {
    /// Another wish is refused: is it to be logged? A flood of wishes must not be one of the log too.
    fn is_logged(&mut self) -> bool {
        if self.refused.0.elapsed() > Duration::from_secs(1) {
            self.refused = (Instant::now(), 0);
        }
        self.refused.1 += 1;
        self.refused.1 <= REFUSALS_LOGGED
    }

    fn busy(&self) -> Vec<Busy> {
        let age = u64::try_from(self.busy.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = |busy: &Busy| Busy { since_ms: busy.since_ms.saturating_add(age), ..busy.clone() };
        self.busy.1.iter().map(now).collect()
    }
}

/// Messages to one driver that wait to be written.
const OUTBOX: usize = 512;
/// Happenings that wait for the stack's task; the tasks that report them wait in turn.
const HAPPENINGS: usize = 256;
/// Time in which the last words of a driver that has ended are read. Nobody else should hold its end of the link.
const DRAIN_WITHIN: Duration = Duration::from_millis(200);
/// Time that drivers of an earlier broker have to leave by themselves.
const PREDECESSORS_WITHIN: Duration = Duration::from_secs(1);
/// Time that a guest has to quit when it is to end with its application, and, killed, to be gone.
const AUTODESTROY_WITHIN: Duration = Duration::from_secs(1);
/// Refused wishes of one driver that are logged in a second.
const REFUSALS_LOGGED: u32 = 256;
/// Wishes of one driver that are done at one time beside the stack's task.
const BESIDE_MAX: usize = 64;
/// Time that is given to the last of them when the stack ends.
const BESIDE_WITHIN: Duration = Duration::from_secs(1);
/// Longest name of a deposit or an object.
const NAME_MAX_BYTES: usize = 256;
/// Clients of libvirt's protocol, all and of one user who is not root.
const CONNECTIONS_MAX: usize = 5000;
const CONNECTIONS_OF_USER_MAX: usize = 1024;
/// Wishes of one driver, and requests of clients, that wait.
const WAITING_MAX: usize = 4096;

/// A connection of a client of libvirt's protocol.
struct Connection {
    socket: OwnedFd,
    /// What the gateway's next process has to know of it, in the gateway's own words.
    state: OwnedFd,
    /// Has the gateway's present process got it?
    handed_over: bool,
}

pub(crate) struct Stack {
    config: Config,
    root: Root,
    began: Instant,
    opening: u64,
    supervisor: Supervisor,
    alive: BTreeMap<Driver, Alive>,
    clients: HashMap<Token, Identity>,
    /// Those of the clients that came over a public socket. The gateway's death does not close them.
    connections: HashMap<Token, Connection>,
    waiting: Vec<(Token, Driver, ChannelReply)>,
    /// Clients that have gone, of whom the drivers are still to be told.
    departed: Vec<Token>,
    shelf: Shelf,
    helpers: BTreeMap<String, Running>,
    starting: BTreeMap<String, Starting>,
    happenings: mpsc::Sender<Happening>,
    changed: watch::Sender<u64>,
}

impl Stack {
    /// Runs until all drivers have ended after a stop.
    pub(crate) async fn run(
        config: Config,
        root: Root,
        shelf: Shelf,
        mut orders: mpsc::Receiver<Order>,
        mut connected: mpsc::Receiver<Connected>,
        mut leave: watch::Receiver<bool>,
        changed: watch::Sender<u64>,
    ) {
        let (happenings, mut received) = mpsc::channel(HAPPENINGS);
        let supervisor = Supervisor::new(MANIFESTS, config.intensity);
        let mut stack = Self {
            config,
            root,
            began: Instant::now(),
            opening: SystemTime::UNIX_EPOCH
                .elapsed()
                .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0)),
            supervisor,
            alive: BTreeMap::new(),
            clients: HashMap::new(),
            connections: HashMap::new(),
            waiting: Vec::new(),
            departed: Vec::new(),
            shelf,
            helpers: BTreeMap::new(),
            starting: BTreeMap::new(),
            happenings,
            changed,
        };
        stack.outlive_predecessors().await;
        stack.adopt_helpers();
        stack.wait_for_autodestroyed(&mut received).await;
        if stack.config.sockets.is_some() {
            stack.step(Event::Want(Driver::Storage));
            stack.step(Event::Want(Driver::Gateway));
        }
        let mut stopping = false;
        loop {
            let wakeup =
                stack.supervisor.next_wakeup().map(|at| tokio::time::Instant::from_std(stack.began + at));
            // All may be dropped half-way: receiving and sleeping lose nothing.
            let leaves = tokio::select! {
                order = orders.recv(), if !stopping => match order {
                    Some(order) => { stack.obey(order); false }
                    // The last handle has gone: the stack has no owner any more.
                    None => true,
                },
                Some(client) = connected.recv(), if !stopping && stack.takes_connections() => {
                    stack.connected(client);
                    false
                }
                left = leave.wait_for(|leave| *leave), if !stopping => { drop(left); true }
                Some(happening) = received.recv() => { stack.happened(happening); stack.tell_departed(); false }
                () = sleep_until(wakeup) => { stack.step(Event::Tick); false }
            };
            if leaves {
                stopping = true;
                stack.step(Event::Stop);
            }
            if stopping && stack.alive.is_empty() {
                break;
            }
        }
        // Whoever wished for a helper that only begins now is not there to want it.
        stack.wait_while(BESIDE_WITHIN, &mut received, |stack| !stack.starting.is_empty()).await;
        stack.end_autodestroyed(&mut received).await;
    }

    /// Drivers of an application that was killed leave by themselves within a moment; until then they may still be writing.
    /// One that hangs never would.
    async fn outlive_predecessors(&self) {
        let left = helpers::drivers(&self.root.layout);
        for kill in [false, true] {
            let deadline = tokio::time::Instant::now() + PREDECESSORS_WITHIN;
            for pidfd in &left {
                if kill {
                    process::signal(pidfd, libc::SIGKILL);
                }
                if let Ok(pidfd) = pidfd.try_clone() {
                    let _ = tokio::time::timeout_at(deadline, process::ended(pidfd)).await;
                }
            }
        }
    }

    /// Guests that were to end with their application have been asked to by their driver; one that hangs is not asked twice.
    async fn end_autodestroyed(&mut self, received: &mut mpsc::Receiver<Happening>) {
        for kill in [false, true] {
            for helper in self.helpers.values().filter(|helper| kill && helper.record.autodestroy) {
                process::signal(&helper.pidfd, libc::SIGKILL);
            }
            self.wait_for_autodestroyed(received).await;
        }
    }

    async fn wait_for_autodestroyed(&mut self, received: &mut mpsc::Receiver<Happening>) {
        let lives = |stack: &Self| stack.helpers.values().any(|helper| helper.record.autodestroy);
        self.wait_while(AUTODESTROY_WITHIN, received, lives).await;
    }

    async fn wait_while(
        &mut self,
        within: Duration,
        received: &mut mpsc::Receiver<Happening>,
        holds: impl Fn(&Self) -> bool,
    ) {
        let deadline = tokio::time::Instant::now() + within;
        while holds(self) {
            match tokio::time::timeout_at(deadline, received.recv()).await {
                Ok(Some(happening)) => self.happened(happening),
                _ => break,
            }
        }
    }

    fn adopt_helpers(&mut self) {
        for helper in helpers::adopt(&self.root.layout) {
            // Its application has gone, and its driver could not make it quit: it hangs.
            if helper.record.autodestroy {
                process::signal(&helper.pidfd, libc::SIGKILL);
            }
            if let Some((driver, name)) =
                helper.record.heard_by.clone().filter(|owner| !self.shelf.contains(owner))
            {
                match helpers::heard(&helper.record) {
                    Ok(pipe) => self.shelf.insert(driver, name, pipe),
                    Err(error) => tracing::warn!(helper.record.key, %error, "is not heard any more"),
                }
            }
            self.watch_helper(&helper);
            self.helpers.insert(helper.record.key.clone(), helper);
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Want(drivers) => {
                for driver in drivers {
                    self.step(Event::Want(driver));
                }
            }
            Order::ClientUp(identity, life, reply) => match self.token() {
                Ok(token) => {
                    self.clients.insert(token, identity);
                    let _ = reply.send(token);
                    let happenings = self.happenings.clone();
                    tokio::spawn(async move {
                        // Nothing is ever sent: it ends when the client does.
                        let _ = life.await;
                        let _ = happenings.send(Happening::ClientGone(token)).await;
                    });
                }
                Err(error) => tracing::error!(%error, "no random bytes for a client's token"),
            },
            Order::Channel(token, driver, reply) => self.client_channel(token, driver, reply),
            Order::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Order::Hold(driver) => self.step(Event::Hold(driver)),
            Order::Release(driver) => self.step(Event::Release(driver)),
        }
    }

    fn token(&self) -> io::Result<Token> {
        let mut token = Token::default();
        io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut token.0)?;
        Ok(token)
    }

    fn step(&mut self, event: Event) {
        for action in self.supervisor.step(self.now(), event) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Launch(driver) => {
                if let Err(error) = self.launch(driver) {
                    tracing::error!(%driver, %error, "driver can't be started");
                    self.step(Event::Ended(driver, format!("can't be started: {error}")));
                }
            }
            Action::Kill(driver) => {
                if let Some(alive) = self.alive.get(&driver) {
                    process::signal(&alive.pidfd, libc::SIGKILL);
                }
            }
            Action::AskStop(driver) => self.tell(driver, &ToDriver::Stop),
            Action::Heartbeat(driver) => self.tell(driver, &ToDriver::Heartbeat { number: 0 }),
            Action::Serve(driver) => {
                self.connect_peers(driver);
                self.hand_over();
                // Who was told that it is out of service asks again.
                self.changed.send_modify(|generation| *generation += 1);
            }
            Action::Held(driver, reason) => {
                tracing::error!(%driver, %reason, "driver is out of service");
                let callers = MANIFESTS.iter().filter(|manifest| manifest.calls.contains(&driver));
                // Who does not serve yet is told when it does.
                for caller in callers
                    .map(|manifest| manifest.driver)
                    .filter(|caller| self.serves(*caller))
                    .collect::<Vec<_>>()
                {
                    self.tell(caller, &ToDriver::ChannelHeld { peer: driver, reason: reason.clone() });
                }
                for (_, _, reply) in self.waiting.extract_if(.., |(_, wanted, _)| *wanted == driver) {
                    let _ = reply.send(Err(reason.clone()));
                }
                self.changed.send_modify(|generation| *generation += 1);
            }
            Action::SetAside(driver, object) => {
                tracing::error!(%driver, %object, "object is set aside: its adoption ended the driver");
                let _ = fs::write(self.aside(driver).join(file_name(&object)), object.as_bytes());
            }
        }
    }

    fn aside(&self, driver: Driver) -> PathBuf {
        let folder = self.root.layout.run.join("broker/aside").join(driver.name());
        let _ = fs::create_dir_all(&folder);
        folder
    }

    /// The marks of objects that were set aside, and the objects.
    fn set_aside(&self, driver: Driver) -> Vec<(PathBuf, String)> {
        let Ok(entries) = fs::read_dir(self.root.layout.run.join("broker/aside").join(driver.name())) else {
            return Vec::new();
        };
        let paths = entries.flatten().map(|entry| entry.path());
        paths.filter_map(|path| fs::read_to_string(&path).ok().map(|object| (path, object))).collect()
    }

    fn launch(&mut self, driver: Driver) -> io::Result<()> {
        let manifest =
            manifest::of(driver).ok_or_else(|| io::Error::other("this stack has no such driver"))?;
        let incarnation = self.supervisor.life(driver).map_or(1, |life| life.incarnation);
        let folders = self.root.driver_folders(driver.name())?;
        let profile = profiles::of_driver(driver.name(), &folders)
            .ok_or_else(|| io::Error::other("it has no profile"))?;
        let (ours, theirs) = pair()?;
        let log = birth::open_log(&self.root.layout.log.join(format!("{driver}.driver.log")))?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let program = self.config.libexec.join(manifest.program);
        let process = launcher::launch(&Command {
            program: &program,
            arguments: Vec::new(),
            environment: vec![c"LC_ALL=C".to_owned(), c"RUST_BACKTRACE=1".to_owned()],
            descriptors: vec![
                (0, null.into()),
                (1, log.try_clone()?.into()),
                (2, log.into()),
                (3, theirs),
                (4, helpers::memory_file("profile", &profile.to_json()?)?),
            ],
        })
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
        helpers::record_driver(&self.root.layout, driver.name(), process.pid)?;
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let talking = tokio::spawn(talk(driver, incarnation, ours, queue, self.happenings.clone()));
        let (watched, happenings) = (process.pidfd.try_clone()?, self.happenings.clone());
        tokio::spawn(async move {
            let status = process::ended(watched).await.ok().flatten();
            // What it said last is heard before its end is judged: it may name the object that is to blame.
            let _ = tokio::time::timeout(DRAIN_WITHIN, talking).await;
            let _ = happenings.send(Happening::DriverEnded(driver, incarnation, status)).await;
        });
        let alive = Alive {
            incarnation,
            pid: process.pid,
            pidfd: process.pidfd,
            outbox,
            welcomed: false,
            in_force: Vec::new(),
            missing: Vec::new(),
            busy: (Instant::now(), Vec::new()),
            refused: (Instant::now(), 0),
            beside: Arc::new(Semaphore::new(BESIDE_MAX)),
        };
        self.alive.insert(driver, alive);
        Ok(())
    }

    /// Tells a driver news. One that has not been welcomed yet learns from its welcome, which must be the first message.
    fn tell_welcomed(&mut self, driver: Driver, message: &ToDriver) {
        if self.alive.get(&driver).is_some_and(|alive| alive.welcomed) {
            self.tell(driver, message);
        }
    }

    /// Sends a message to a driver. One that does not read its link is treated as hung.
    fn tell(&mut self, driver: Driver, message: &ToDriver) {
        let Some(alive) = self.alive.get(&driver) else {
            return;
        };
        let told = codec::encode(message).map(|encoded| alive.outbox.try_send(encoded));
        let what = match told {
            Ok(Err(TrySendError::Full(_))) => "does not read its control link".to_owned(),
            Ok(_) => return,
            Err(error) => format!("can't be told what it has to know: {error}"),
        };
        tracing::error!(%driver, what, "driver is ended");
        self.step(Event::Violation(driver, what));
    }

    fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Said(driver, incarnation, message) => {
                if self.alive.get(&driver).is_some_and(|alive| alive.incarnation == incarnation) {
                    self.said(driver, *message);
                }
            }
            Happening::LinkEnded(driver, incarnation, error) => {
                let current = self.alive.get(&driver).is_some_and(|alive| alive.incarnation == incarnation);
                if current && error.is_breach() {
                    tracing::error!(%driver, %error, "driver broke the protocol");
                    self.step(Event::Violation(driver, format!("broke the protocol: {error}")));
                }
            }
            Happening::DriverEnded(driver, incarnation, status) => {
                if self.alive.get(&driver).is_some_and(|alive| alive.incarnation == incarnation) {
                    self.alive.remove(&driver);
                    if driver == Driver::Gateway {
                        self.connections.values_mut().for_each(|connection| connection.handed_over = false);
                    }
                    helpers::forget_driver(&self.root.layout, driver.name());
                    self.step(Event::Ended(driver, process::describe_end(status)));
                    self.changed.send_modify(|generation| *generation += 1);
                }
            }
            Happening::ClientGone(token) => self.client_gone(token),
            Happening::Done(wish, outcome) => self.done(wish, outcome),
            Happening::HelperEnded(key, pid, status) => self.helper_ended(key, pid, status),
        }
    }

    /// What was a helper's is cleared away, once.
    fn helper_ended(&mut self, key: String, pid: u32, status: Option<i32>) {
        if self.helpers.get(&key).is_none_or(|helper| helper.record.pid != pid) {
            return;
        }
        helpers::forget(&self.root.layout, &key, pid);
        let owner = self.helpers.remove(&key).map(|helper| helper.record.owner);
        if let Some(owner) =
            MANIFESTS.iter().find(|manifest| Some(manifest.driver.name()) == owner.as_deref())
        {
            self.tell_welcomed(owner.driver, &ToDriver::HelperEnded { key, pid, status });
        }
    }

    fn said(&mut self, driver: Driver, message: FromDriver) {
        match message {
            FromDriver::ClientGone { token } => {
                if driver == Driver::Gateway && self.connections.contains_key(&token) {
                    self.client_gone(token);
                }
            }
            FromDriver::Confined { in_force, missing } => {
                if let Some(alive) = self.alive.get_mut(&driver) {
                    alive.in_force = in_force;
                    alive.missing = missing;
                    if std::mem::replace(&mut alive.welcomed, true) {
                        self.step(Event::Violation(driver, "said twice that it is confined".to_owned()));
                        return;
                    }
                }
                if let Err(error) = self.welcome(driver) {
                    tracing::error!(%driver, %error, "driver can't be welcomed");
                    self.step(Event::Violation(driver, format!("can't be welcomed: {error}")));
                }
            }
            FromDriver::Ready => {
                self.step(Event::Ready(driver));
                self.changed.send_modify(|generation| *generation += 1);
            }
            FromDriver::Beat { mut busy, .. } => {
                busy.truncate(64);
                if let Some(alive) = self.alive.get_mut(&driver) {
                    alive.busy = (Instant::now(), busy);
                }
                self.step(Event::Beat(driver));
                if driver == Driver::Gateway {
                    self.hand_over();
                }
            }
            FromDriver::Ask { id, request } => {
                let incarnation = self.alive.get(&driver).map_or(0, |alive| alive.incarnation);
                self.wished(Wish { driver, incarnation, id, key: None }, request);
            }
        }
    }

    fn welcome(&mut self, driver: Driver) -> io::Result<()> {
        let deposit =
            |(name, file): (&str, &OwnedFd)| Ok((name.to_owned(), Descriptor::new(file.try_clone()?)));
        let mut deposits = self.shelf.of(driver).map(deposit).collect::<io::Result<Vec<_>>>()?;
        let manifest = manifest::of(driver).ok_or_else(|| io::Error::other("it has no manifest"))?;
        deposits.extend(birth::credential(manifest, self.config.mode)?);
        let helpers = self
            .helpers
            .values()
            .filter(|helper| helper.record.owner == driver.name())
            .map(describe)
            .collect::<io::Result<Vec<_>>>()?;
        for part in ToDriver::inheritance(deposits, helpers) {
            self.tell(driver, &part);
        }
        let first = self.supervisor.life(driver).is_none_or(|life| life.incarnation == 1);
        let welcome = Welcome {
            incarnation: self.supervisor.life(driver).map_or(1, |life| life.incarnation),
            opening: self.opening,
            layout: self.root.layout.clone(),
            mode: self.config.mode.name().to_owned(),
            owner: Some(Descriptor::new(process::open(std::process::id())?)),
            deposits: Vec::new(),
            helpers: Vec::new(),
            set_aside: self.set_aside(driver).into_iter().map(|(_, object)| object).collect(),
            clients: self.clients_of_gateway(driver),
            programs: crate::programs::of(&self.root.layout, manifest.helpers),
            grants: birth::grants(driver),
            // Only the first incarnation fails, but for rules that say always: what is tested is how the next one finds
            // things.
            faults: self
                .config
                .faults
                .iter()
                .filter(|rule| rule.driver == driver && (rule.nth == 0 || first))
                .cloned()
                .collect(),
        };
        self.tell(driver, &ToDriver::Welcome(Box::new(welcome)));
        Ok(())
    }

    /// The clients that this driver hears of from the gateway; for the gateway itself, those that it is handed over.
    fn clients_of_gateway(&self, driver: Driver) -> Vec<(Token, Identity)> {
        let called = manifest::of(Driver::Gateway)
            .is_some_and(|gateway| gateway.driver == driver || gateway.calls.contains(&driver));
        let identity = |token: &Token| self.clients.get(token).map(|identity| (*token, identity.clone()));
        self.connections.keys().filter(|_| called).filter_map(identity).collect()
    }

    fn watch_helper(&self, helper: &Running) {
        let (key, pid, happenings) = (helper.record.key.clone(), helper.record.pid, self.happenings.clone());
        match helper.pidfd.try_clone() {
            Ok(pidfd) => {
                tokio::spawn(async move {
                    let status = process::ended(pidfd).await.ok().flatten();
                    let _ = happenings.send(Happening::HelperEnded(key, pid, status)).await;
                });
            }
            Err(error) => tracing::error!(%error, key, "helper can't be watched"),
        }
    }

    fn serves(&self, driver: Driver) -> bool {
        self.supervisor.life(driver).is_some_and(|life| matches!(life.phase, Phase::Ready { .. }))
    }

    /// A driver serves now: pairs for it and each peer that serves too, and for the clients that wait.
    fn connect_peers(&mut self, driver: Driver) {
        let edges: Vec<(Driver, Driver)> = MANIFESTS
            .iter()
            .flat_map(|manifest| manifest.calls.iter().map(|called| (manifest.driver, *called)))
            .filter(|(caller, called)| *caller == driver || *called == driver)
            .collect();
        for (caller, called) in edges {
            if self.serves(caller) && self.serves(called) {
                match pair() {
                    Ok((calling, served)) => {
                        self.tell(called, &channel(caller, Side::Serve, None, served));
                        self.tell(caller, &channel(called, Side::Call, None, calling));
                    }
                    Err(error) => tracing::error!(%error, "no channel between {caller} and {called}"),
                }
            } else if let Some(Phase::Held { reason }) =
                self.supervisor.life(called).map(|life| life.phase.clone())
            {
                self.tell(caller, &ToDriver::ChannelHeld { peer: called, reason });
            }
        }
        let waiting: Vec<_> = self.waiting.extract_if(.., |(_, wanted, _)| *wanted == driver).collect();
        for (token, driver, reply) in waiting {
            self.client_channel(token, driver, reply);
        }
    }

    fn client_channel(&mut self, token: Token, driver: Driver, reply: ChannelReply) {
        let Some(identity) = self.clients.get(&token).cloned() else {
            let _ = reply.send(Err("the client has gone".to_owned()));
            return;
        };
        match self.supervisor.life(driver).map(|life| life.phase.clone()) {
            None => {
                let _ = reply.send(Err("this stack has no such driver".to_owned()));
            }
            Some(Phase::Held { reason }) => {
                let _ = reply.send(Err(reason));
            }
            Some(Phase::Ready { .. }) => match pair() {
                Ok((calling, served)) => {
                    self.tell(driver, &ToDriver::ClientUp { token, identity: identity.clone() });
                    self.tell(driver, &channel(Driver::Broker, Side::Serve, Some(identity), served));
                    let _ = reply.send(Ok(calling));
                }
                Err(error) => {
                    let _ = reply.send(Err(format!("no channel: {error}")));
                }
            },
            Some(phase) => {
                if self.waiting.len() >= WAITING_MAX {
                    let _ = reply.send(Err("too many clients wait already".to_owned()));
                    return;
                }
                self.waiting.push((token, driver, reply));
                if phase == Phase::Down {
                    self.step(Event::Want(driver));
                }
            }
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

fn channel(peer: Driver, side: Side, client: Option<Identity>, socket: OwnedFd) -> ToDriver {
    ToDriver::ChannelUp { peer, side, client, socket: Descriptor::new(socket) }
}

fn describe(helper: &Running) -> io::Result<Helper> {
    Ok(Helper {
        key: helper.record.key.clone(),
        pid: helper.record.pid,
        start_ticks: helper.record.start_ticks,
        process: Descriptor::new(helper.pidfd.as_fd().try_clone_to_owned()?),
    })
}

/// A file name for an object: another one for each, whatever letters it has.
fn file_name(object: &str) -> String {
    let mut hash = DefaultHasher::new();
    object.hash(&mut hash);
    format!("{:016x}", hash.finish())
}
