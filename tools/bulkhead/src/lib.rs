//! Open a stack and call its drivers.
//!
//! ```no_run
//! # async fn example() -> Result<(), bulkhead::OpenError> {
//! let stack = bulkhead::Connection::open("qemu:///embed?root=/srv/guests").await?;
//! for domain in stack.domains().connect_list_all_domains(1, 0).await?.domains {
//!     println!("{}", domain.name);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An embedded stack's drivers are children of this process and leave with it, however it ends; its guests live on and are
//! found again when the root is opened again, but for those that were started to be destroyed with their application. No
//! signal handler, logger, environment variable, working directory or umask of the application is touched, and nothing is
//! written outside the root.
//!
//! Several connections of a process to one root share one stack, which ends, in order, with the last of them; connections
//! to different roots have nothing in common. Another process is refused, and told who has the root open.
//!
//! More than a URI is said with a [`Builder`]:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let stack = bulkhead::Connection::builder("qemu:///embed?root=/srv/guests")
//!     .libexec("/opt/app/libexec")
//!     .open()
//!     .await?;
//! let xml = std::fs::read_to_string("guest.xml")?;
//! let guest = stack.domains().domain_create_xml(xml, 0).await?;
//! println!("{} runs with id {}", guest.name, guest.id);
//! stack.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! `qemu:///system` and `qemu:///session` are reached over libvirt's protocol, so the daemon may be of any version, or
//! stock libvirt; `?socket=/path` names its socket where it is not at its usual place. A daemon that ends and is replaced
//! is reached again by itself: calls that may be repeated are, others fail with what is known. What libvirt's protocol does
//! not have ([`Connection::status`], say) goes over the stack's control socket, where this process may reach it.
//!
//! A call that opens a stream gives a descriptor. In libvirt's protocol that is one end of a socket pair: a download, or a
//! picture, that did not come whole ends with "connection reset", not as a file ends; after an upload, who shuts down writing
//! and reads to the end finds nothing if all was written, and else why it was not.
//!
//! Programs without a runtime of their own use [`blocking`].

pub mod blocking;
mod caller;
mod embed;
mod events;
mod owner;
mod remote;
mod uri;

pub use bulkhead_broker::manifest::Intensity;
pub use bulkhead_sandbox::landlock_version;
pub use bulkhead_wire as wire;
pub use bulkhead_wire::control::FaultRule;
pub use bulkhead_wire::error::Error;
pub use caller::Caller;
pub use uri::{Uri, UriError, Which};

use bulkhead_broker::control::SOCKET;
use bulkhead_broker::{Handle, manifest, root};
use bulkhead_wire::channel;
use bulkhead_wire::control::{Identity, Layout};
use bulkhead_wire::error::{Code, Origin};
use bulkhead_wire::frame::Token;
use bulkhead_wire::table::{Driver, domain, lock, network, secret, stack, storage};
use bulkhead_wire::types::network::NetworkEvent;
use bulkhead_wire::types::secret::SecretEvent;
use bulkhead_wire::types::storage::PoolEvent;
use bulkhead_wire::types::{DomainEvent, StackStatus};
use caller::Way;
use owner::Owner;
use remote::{Failure, Place};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// The qemu driver's calls.
pub type Domains = domain::Client<Caller>;
/// The network driver's calls.
pub type Networks = network::Client<Caller>;
/// The storage driver's calls.
pub type Pools = storage::Client<Caller>;
/// The secret driver's calls.
pub type Secrets = secret::Client<Caller>;
/// The lock driver's calls over a connection.
pub type Locks = lock::Client<Caller>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these hold is whole at all times.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a stack can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URI is wrong.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The embedded stack can't be opened.
    #[error(transparent)]
    Stack(#[from] bulkhead_broker::OpenError),
    /// An embedded stack does not have this driver.
    #[error(
        "The {0} driver can't be embedded; open qemu, network, secret or storage:///embed, or reach the host's with {0}:///system"
    )]
    NotEmbeddable(Driver),
    /// Nobody serves the stack that was named.
    #[error("No stack answers at {}: {source}", .path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A user's stack needs a home and a runtime folder.
    #[error("The session's folders are unknown: {0} is not set")]
    NoHome(&'static str),
    /// A first call failed.
    #[error(transparent)]
    Call(#[from] Error),
}

/// How a stack is opened.
#[derive(Debug, Clone)]
pub struct Builder {
    uri: String,
    libexec: Option<PathBuf>,
    intensity: Intensity,
    faults: Vec<FaultRule>,
    read_only: bool,
    gateway: bool,
}

impl Builder {
    /// The folder of the drivers' programs; by default beside this executable, then the install prefix.
    #[must_use]
    pub fn libexec(mut self, folder: impl Into<PathBuf>) -> Self {
        self.libexec = Some(folder.into());
        self
    }

    /// How often a driver may die before it is taken out of service. Counts for the connection that opens the stack; later
    /// ones of this process share what it has.
    #[must_use]
    pub fn restart_intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = intensity;
        self
    }

    /// Faults to make, to see how an application takes them. As with [`Builder::restart_intensity`], the first counts.
    #[must_use]
    pub fn faults(mut self, faults: Vec<FaultRule>) -> Self {
        self.faults = faults;
        self
    }

    /// Programs that speak libvirt's protocol are served too, at `ROOT/run/libvirt-sock` and, for those who only look,
    /// `ROOT/run/libvirt-sock-ro`. As with [`Builder::restart_intensity`], the first counts.
    #[must_use]
    pub fn gateway(mut self, wanted: bool) -> Self {
        self.gateway = wanted;
        self
    }

    /// Calls that change something are refused, by the driver that serves them.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Opens the stack. The drivers start in the background: the first call waits for its driver.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(self) -> Result<Connection, OpenError> {
        let uri = Uri::parse(&self.uri)?;
        match uri.stack {
            Which::Embed(root) => {
                if manifest::of(uri.driver).is_none() {
                    return Err(OpenError::NotEmbeddable(uri.driver));
                }
                let libexec = self.libexec.unwrap_or_else(default_libexec);
                let hold = embed::open(&root, libexec, self.intensity, self.faults, self.gateway).await?;
                // The one that the caller waits for comes first. Others start when they are first needed.
                let wanted: &[Driver] = match uri.driver {
                    Driver::Secret => &[Driver::Secret],
                    driver => &[driver, Driver::Network, Driver::Log],
                };
                hold.handle.want(wanted).await?;
                let client = hold.handle.client_up(identity(self.read_only)).await?;
                Ok(Connection::new(
                    Backend::Embedded { client, hold },
                    Some(uri.driver),
                    self.read_only,
                    Arc::default(),
                ))
            }
            Which::System | Which::Session => Connection::reach(&uri, self.read_only).await,
        }
    }
}

fn default_libexec() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
    let candidates = [
        beside.clone(),
        beside.as_ref().map(|folder| folder.join("../libexec/bulkhead")),
        Some(PathBuf::from("/usr/libexec/bulkhead")),
    ];
    let found = candidates.into_iter().flatten().find(|folder| folder.join("bulkhead-launch").is_file());
    found.or(beside).unwrap_or_else(|| PathBuf::from("/usr/libexec/bulkhead"))
}

/// The folders of this user's own stack.
///
/// # Errors
/// No home or runtime folder in the environment.
pub fn session_layout() -> Result<Layout, OpenError> {
    let variable =
        |name: &'static str| std::env::var_os(name).map(PathBuf::from).ok_or(OpenError::NoHome(name));
    Ok(Layout::session(&variable("HOME")?, &variable("XDG_RUNTIME_DIR")?))
}

fn identity(read_only: bool) -> Identity {
    Identity {
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        pid: std::process::id(),
        read_only,
    }
}

#[derive(Debug)]
enum Backend {
    /// The broker lives in this process.
    Embedded {
        // The client first: its token is void before the stack may end.
        client: bulkhead_broker::Client,
        hold: Arc<embed::Hold>,
    },
    /// It lives elsewhere and is reached over its control socket.
    Attached { control: stack::Client, _link: Task },
    /// A daemon, reached over libvirt's protocol.
    Remote { caller: remote::Caller, task: Mutex<Task> },
}

/// Where channels come from. Keeps no stack open.
#[derive(Debug, Clone)]
enum Source {
    Embedded(Handle, Token),
    Attached(stack::Client),
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An open stack. Cheap to clone; an embedded stack ends, in order, with the last connection of this process to it.
#[derive(Debug, Clone)]
pub struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // Dropped before the backend: nobody asks for channels of a stack that is left.
    callers: Mutex<HashMap<Driver, (channel::Caller, Task)>>,
    backend: Backend,
    read_only: bool,
    events: Arc<events::Listeners<DomainEvent>>,
    network_events: Arc<events::Listeners<NetworkEvent>>,
    pool_events: Arc<events::Listeners<PoolEvent>>,
    secret_events: Arc<events::Listeners<SecretEvent>>,
    /// Becomes true, or goes away, when nothing more will come.
    closed: Arc<watch::Sender<bool>>,
    /// Where the channels' tasks run, for calls of threads that are in no runtime.
    runtime: tokio::runtime::Handle,
}

impl Connection {
    /// How to open a stack with more than its URI.
    #[must_use]
    pub fn builder(uri: &str) -> Builder {
        Builder {
            uri: uri.to_owned(),
            libexec: None,
            intensity: Intensity::default(),
            faults: Vec::new(),
            read_only: false,
            gateway: false,
        }
    }

    /// Opens the stack that a URI names.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(uri: &str) -> Result<Self, OpenError> {
        Self::builder(uri).open().await
    }

    /// Reaches an embedded stack that another process of this user has open.
    ///
    /// # Errors
    /// Nobody has it open, or it is of another revision.
    pub async fn attach(root: &Path) -> Result<Self, OpenError> {
        Self::attach_to(&Layout::embed(root)).await
    }

    /// Reaches the stack with these folders.
    ///
    /// # Errors
    /// Nobody serves it, or it is of another revision.
    pub async fn attach_to(layout: &Layout) -> Result<Self, OpenError> {
        Ok(Self::attach_at(layout, Some(Driver::Qemu), false).await?.0)
    }

    /// Reaches a daemon over libvirt's protocol.
    async fn reach(uri: &Uri, read_only: bool) -> Result<Self, OpenError> {
        let place = Place::find(uri, read_only)?;
        let usual = match uri.stack {
            Which::System => Some(Layout::system()),
            _ => session_layout().ok(),
        };
        let run = usual.as_ref().map(|layout| layout.run.clone());
        let run = remote::run_folder(&place.path, run, uri.socket.is_some());
        let path = place.path.clone();
        match remote::Caller::open(place, Owner::new(run, read_only)).await {
            Ok((caller, door)) => {
                let task = tokio::spawn(remote::keep_up(caller.clone(), Some(door)));
                let task = Mutex::new(Task(task.abort_handle()));
                Ok(Self::new(Backend::Remote { caller, task }, None, read_only, Arc::default()))
            }
            Err(Failure::Unreached(source)) => {
                let not_running = OpenError::NotRunning { path, source };
                // A stack that serves none of libvirt's clients is there for its owner all the same.
                let Some(layout) = usual.filter(|_| uri.socket.is_none()) else { return Err(not_running) };
                match Self::attach_at(&layout, Some(uri.driver), read_only).await {
                    Ok((connection, _)) => Ok(connection),
                    Err(OpenError::NotRunning { .. }) => Err(not_running),
                    Err(error) => Err(error),
                }
            }
            Err(Failure::Lost(reason)) => {
                Err(OpenError::NotRunning { path, source: io::Error::other(reason) })
            }
            Err(Failure::Refused(error)) => Err(error.into()),
        }
    }

    /// Also tells the process that made the socket.
    async fn attach_at(
        layout: &Layout,
        driver: Option<Driver>,
        read_only: bool,
    ) -> Result<(Self, Option<i32>), OpenError> {
        let path = layout.run.join(SOCKET);
        let not_running = |source| OpenError::NotRunning { path: path.clone(), source };
        let (short, _handle) = root::short_socket_path(&layout.run, SOCKET).map_err(not_running)?;
        let stream = tokio::net::UnixStream::connect(short).await.map_err(not_running)?;
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let socket = OwnedFd::from(stream.into_std().map_err(not_running)?);
        let caller = channel::Caller::new(Driver::Broker);
        let closed = Arc::new(watch::Sender::new(false));
        let (task_caller, task_closed) = (caller.clone(), Arc::clone(&closed));
        let link = tokio::spawn(async move {
            let error = task_caller.run(socket, Token::default()).await;
            task_caller.hold(error.to_string());
            task_closed.send_replace(true);
        });
        let control = stack::Client(caller);
        let backend = Backend::Attached { control: control.clone(), _link: Task(link.abort_handle()) };
        let connection = Self::new(backend, driver, read_only, closed);
        // Speaks of the revision, if that is what is wrong.
        control.stack_status().await?;
        Ok((connection, pid))
    }

    fn new(
        backend: Backend,
        driver: Option<Driver>,
        read_only: bool,
        closed: Arc<watch::Sender<bool>>,
    ) -> Self {
        let inner = Inner {
            callers: Mutex::default(),
            backend,
            read_only,
            events: Arc::default(),
            network_events: Arc::default(),
            pool_events: Arc::default(),
            secret_events: Arc::default(),
            closed,
            runtime: tokio::runtime::Handle::current(),
        };
        let connection = Self(Arc::new(inner));
        if let Some(driver) = driver {
            let _first = connection.caller(driver);
        }
        connection
    }

    fn runtime(&self) -> tokio::runtime::Handle {
        tokio::runtime::Handle::try_current().unwrap_or_else(|_| self.0.runtime.clone())
    }

    fn is_closed(&self) -> bool {
        *self.0.closed.borrow()
    }

    /// What makes the calls of a driver: its channel, or the connection to the daemon. Either is kept up over deaths for as long
    /// as this connection lives, by the runtime that this was first called in. When that runtime has gone, the next call of
    /// this moves it to the current one.
    #[must_use]
    pub fn caller(&self, driver: Driver) -> Caller {
        let source = match &self.0.backend {
            Backend::Remote { caller, task } => {
                let mut task = lock(task);
                if task.0.is_finished() {
                    *task = Task(self.runtime().spawn(remote::keep_up(caller.clone(), None)).abort_handle());
                }
                return Caller(Way::Remote(caller.clone()));
            }
            Backend::Embedded { client, hold } => Source::Embedded(hold.handle.clone(), client.token()),
            Backend::Attached { control, .. } => Source::Attached(control.clone()),
        };
        let start = |caller: channel::Caller| {
            let work = keep_up(source, driver, caller, self.0.read_only, Arc::clone(&self.0.closed));
            Task(self.runtime().spawn(work).abort_handle())
        };
        let mut callers = lock(&self.0.callers);
        let caller = match callers.get_mut(&driver) {
            Some((caller, task)) => {
                if task.0.is_finished() {
                    *task = start(caller.clone());
                }
                caller.clone()
            }
            None => {
                let caller = channel::Caller::new(driver);
                callers.insert(driver, (caller.clone(), start(caller.clone())));
                caller
            }
        };
        Caller(Way::Channel(caller))
    }

    /// The qemu driver's calls.
    #[must_use]
    pub fn domains(&self) -> Domains {
        domain::Client(self.caller(Driver::Qemu))
    }

    /// The storage driver's calls.
    #[must_use]
    pub fn pools(&self) -> Pools {
        storage::Client(self.caller(Driver::Storage))
    }

    /// The network driver's calls.
    #[must_use]
    pub fn networks(&self) -> Networks {
        network::Client(self.caller(Driver::Network))
    }

    /// Events of domains, from now on and until the connection ends. `Lagged` tells that some may be missing: a slow reader
    /// holds nobody up, and after the qemu driver died the subscription is made again.
    ///
    /// # Errors
    /// A driver that can't be had.
    pub async fn domain_events(&self) -> Result<mpsc::Receiver<DomainEvent>, Error> {
        self.listen(&self.0.events, Driver::Qemu).await
    }

    /// Events of networks, as [`Connection::domain_events`] has those of domains.
    ///
    /// # Errors
    /// A driver that can't be had.
    pub async fn network_events(&self) -> Result<mpsc::Receiver<NetworkEvent>, Error> {
        self.listen(&self.0.network_events, Driver::Network).await
    }

    /// Events of pools, as [`Connection::domain_events`] has those of domains.
    ///
    /// # Errors
    /// A driver that can't be had.
    pub async fn pool_events(&self) -> Result<mpsc::Receiver<PoolEvent>, Error> {
        self.listen(&self.0.pool_events, Driver::Storage).await
    }

    async fn listen<E: events::Event>(
        &self,
        listeners: &Arc<events::Listeners<E>>,
        driver: Driver,
    ) -> Result<mpsc::Receiver<E>, Error> {
        listeners.listen(self.caller(driver), self.0.closed.subscribe(), &self.runtime()).await
    }

    /// The secret driver's calls. An embedded stack starts that driver when it is first needed.
    #[must_use]
    pub fn secrets(&self) -> Secrets {
        secret::Client(self.caller(Driver::Secret))
    }

    /// The lock driver's calls: who has which disk. That driver is started when it is first needed.
    #[must_use]
    pub fn locks(&self) -> Locks {
        lock::Client(self.caller(Driver::Lock))
    }

    /// Events of secrets, as [`Connection::domain_events`] has those of domains.
    ///
    /// # Errors
    /// A driver that can't be had.
    pub async fn secret_events(&self) -> Result<mpsc::Receiver<SecretEvent>, Error> {
        self.listen(&self.0.secret_events, Driver::Secret).await
    }

    /// The broker's calls; `what` is wanted of it.
    async fn control(&self, what: &str) -> Result<stack::Client, Error> {
        match &self.0.backend {
            Backend::Remote { caller, .. } => caller.owner().control(what, caller.pid()).await,
            _ => self.own_control(what),
        }
    }

    fn own_control(&self, what: &str) -> Result<stack::Client, Error> {
        match &self.0.backend {
            Backend::Attached { control, .. } => Ok(control.clone()),
            _ => Err(Error::new(
                Code::NO_SUPPORT,
                Origin::RPC,
                format!("{what}: this stack has no control socket"),
            )),
        }
    }

    /// The whole stack's state.
    ///
    /// # Errors
    /// A stack that has been closed.
    pub async fn status(&self) -> Result<StackStatus, Error> {
        match &self.0.backend {
            Backend::Embedded { hold, .. } => hold.handle.status().await,
            _ => self.control("stack_status").await?.stack_status().await,
        }
    }

    /// Takes a driver out of service.
    ///
    /// # Errors
    /// A stack that has been closed.
    pub async fn hold(&self, driver: Driver) -> Result<(), Error> {
        match &self.0.backend {
            Backend::Embedded { hold, .. } => hold.handle.hold(driver).await,
            _ => self.control("driver_hold").await?.driver_hold(driver).await,
        }
    }

    /// Brings a held driver back.
    ///
    /// # Errors
    /// A stack that has been closed.
    pub async fn release(&self, driver: Driver) -> Result<(), Error> {
        match &self.0.backend {
            Backend::Embedded { hold, .. } => hold.handle.release(driver).await,
            _ => self.control("driver_release").await?.driver_release(driver).await,
        }
    }

    /// Ends the drivers of the stack, whoever else uses it, and returns when they are gone. Guests live on, but for those
    /// that were started to be destroyed with their application.
    ///
    /// # Errors
    /// A stack that has been closed.
    pub async fn stop(&self) -> Result<(), Error> {
        match &self.0.backend {
            Backend::Embedded { hold, .. } => {
                hold.handle.leave();
                hold.ended.clone().wait().await;
                Ok(())
            }
            _ => self.control("stack_stop").await?.stack_stop().await,
        }
    }

    /// Waits until the stack has ended, whoever wanted that.
    pub async fn ended(&self) {
        match &self.0.backend {
            Backend::Embedded { hold, .. } => hold.ended.clone().wait().await,
            // That its connection is gone is all that can be seen of it from here.
            Backend::Attached { .. } => drop(self.0.closed.subscribe().wait_for(|closed| *closed).await),
            Backend::Remote { caller, .. } => caller.ended().await,
        }
    }

    /// Drops the connection. If it was the last of this process to an embedded stack, returns when the drivers have gone and
    /// the root is free.
    pub async fn close(self) {
        let ending = match &self.0.backend {
            Backend::Embedded { hold, .. } => Some((Arc::downgrade(hold), hold.ended.clone())),
            Backend::Attached { .. } | Backend::Remote { .. } => None,
        };
        drop(self);
        if let Some((hold, ended)) = ending
            && hold.strong_count() == 0
        {
            ended.wait().await;
        }
    }
}

/// Time until a driver that broke the protocol gets another channel.
const NONSENSE_PAUSE: Duration = Duration::from_millis(500);

/// Gives a caller its link, again and again, until the stack is closed.
async fn keep_up(
    source: Source,
    driver: Driver,
    caller: channel::Caller,
    read_only: bool,
    closed: Arc<watch::Sender<bool>>,
) {
    // One receiver for all rounds: it remembers which change it has seen.
    let mut changes = match &source {
        Source::Embedded(handle, _) => Some(handle.clone()),
        Source::Attached(_) => None,
    };
    while !*closed.borrow() {
        let channel = match &source {
            Source::Embedded(handle, token) => {
                let channel = handle.channel(*token, driver).await;
                channel.map(|channel| channel.map(|socket| (socket, *token)))
            }
            Source::Attached(control) => match control.channel_open(driver, read_only).await {
                Ok((socket, token)) => match socket.into_owned() {
                    Some(socket) => Ok(Ok((socket, token))),
                    None => Err(Error::new(Code::INTERNAL, Origin::RPC, "The broker sent no channel")),
                },
                Err(error) => Ok(Err(error.message)),
            },
        };
        match channel {
            Ok(Ok((socket, token))) => {
                let error = caller.run(socket, token).await;
                if error.is_breach() {
                    tracing::warn!(%driver, %error, "channel ended");
                    // A driver that talks nonsense will do so on the next channel too: calls fail until then.
                    caller.hold(error.to_string());
                    tokio::time::sleep(NONSENSE_PAUSE).await;
                    caller.wait_for_link();
                }
            }
            Ok(Err(reason)) => {
                caller.hold(reason);
                match &mut changes {
                    Some(stack) => {
                        if stack.driver_changed().await.is_err() {
                            break;
                        }
                    }
                    // Another process's stack tells nobody when a driver is back: it is asked.
                    None => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            }
            Err(error) => {
                caller.hold(error.message);
                break;
            }
        }
    }
    closed.send_replace(true);
}
