//! The broker: the only process that starts processes, in no data path, parsing nothing a stranger wrote.
//!
//! Owns: the [`supervisor`]'s decisions, the drivers' processes and control links, channels between them, clients' tokens,
//! deposited descriptors, helpers, the root's lock and the control socket. Never does: libvirt's XML or RPC, any
//! driver's job. Used by: the library with which an application embeds a stack.

mod birth;
mod ceiling;
pub mod control;
mod helpers;
mod launcher;
pub mod manifest;
mod programs;
mod public;
pub mod root;
mod shelf;
mod stack;
pub mod supervisor;
mod sysctl;
mod talk;

pub use public::Sockets;
pub use root::{Mode, RootError};
pub use stack::Config;

use bulkhead_wire::control::{Identity, Layout};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::frame::Token;
use bulkhead_wire::table::Driver;
use bulkhead_wire::types::StackStatus;
use root::Root;
use shelf::Shelf;
use stack::{Order, Stack};
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Why a stack can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The root can't be had.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The drivers' programs are not there.
    #[error("The program {} is not there; set the folder of the drivers' programs", .0.display())]
    Libexec(PathBuf),
    /// A socket can't be made.
    #[error("Can't listen on {}: {source}", .path.display())]
    Control {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No thread or runtime.
    #[error("Can't start the supervisor")]
    Thread(#[source] io::Error),
}

/// A running stack. The stack ends, in order, when the last handle is dropped. All that is asked of one that has been closed
/// fails, and says so.
#[derive(Debug, Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    shared: Shared,
}

/// What handles of all kinds have.
#[derive(Debug, Clone)]
struct Shared {
    changed: watch::Receiver<u64>,
    leaving: watch::Sender<bool>,
    layout: Layout,
}

/// A registered client. Its token is void, everywhere, once this is dropped.
#[derive(Debug)]
pub struct Client {
    token: Token,
    _here: oneshot::Sender<Infallible>,
}

impl Client {
    /// What it speaks with.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }
}

/// Tells when a stack has ended and its root is free.
#[derive(Debug, Clone)]
pub struct Ended(watch::Receiver<bool>);

impl Ended {
    /// Has it?
    #[must_use]
    pub fn is_ended(&self) -> bool {
        // A supervisor that did not live to say so has ended too.
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until it has.
    pub async fn wait(mut self) {
        let _ = self.0.wait_for(|ended| *ended).await;
    }
}

/// A handle that does not keep the stack alive.
pub(crate) struct WeakHandle {
    orders: mpsc::WeakSender<Order>,
    shared: Shared,
}

impl WeakHandle {
    pub(crate) fn upgrade(&self) -> Option<Handle> {
        Some(Handle { orders: self.orders.upgrade()?, shared: self.shared.clone() })
    }
}

/// Time for what is still being removed from the disk when a stack has ended.
const LEFT_WITHIN: Duration = Duration::from_secs(1);
/// Orders that wait for the stack's task; who gives more waits.
const ORDERS: usize = 256;

/// Opens a stack and supervises it on a thread of its own.
///
/// # Errors
/// See [`OpenError`].
pub fn open(mut config: Config, layout: Layout) -> Result<(Handle, Ended), OpenError> {
    if config.mode == Mode::Embed {
        root::check(&config.root)?;
    }
    // Who serves no client of libvirt's needs no gateway.
    let needed = |program: &&str| config.sockets.is_some() || *program != "bulkhead-gateway";
    for program in manifest::programs().filter(needed) {
        let program = config.libexec.join(program);
        if !program.is_file() {
            return Err(OpenError::Libexec(program));
        }
    }
    let root = Root::open(&config.root, layout)?;
    let layout = root.layout.clone();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(OpenError::Thread)?;
    let (listener, connected) = {
        let _inside = runtime.enter();
        let bind = |sockets| public::bind(sockets, config.mode, config.kept.as_mut());
        let public = config.sockets.as_ref().map_or(Ok(Vec::new()), bind)?;
        (control::bind(&layout.run)?, public::accept(public))
    };
    let (orders, received) = mpsc::channel(ORDERS);
    let (changed, watched) = watch::channel(0);
    let (ending, ended) = watch::channel(false);
    let leaving = watch::Sender::new(false);
    let leave = leaving.subscribe();
    let handle = Handle { orders, shared: Shared { changed: watched, leaving, layout } };
    // The control socket must not keep the stack alive: it holds no handle while nobody is connected.
    let weak = WeakHandle { orders: handle.orders.downgrade(), shared: handle.shared.clone() };
    let shelf = Shelf::new(config.kept.take()).map_err(OpenError::Thread)?;
    std::thread::Builder::new()
        .name("bulkhead-broker".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let accepting = tokio::spawn(control::accept(listener, weak));
                Stack::run(config, root, shelf, received, connected, leave, changed).await;
                accepting.abort();
            });
            // Everything of the stack is gone now, its lock too. What hangs in the kernel is not waited for.
            runtime.shutdown_timeout(LEFT_WITHIN);
            ending.send_replace(true);
        })
        .map_err(OpenError::Thread)?;
    Ok((handle, Ended(ended)))
}

fn gone<E>(_error: E) -> Error {
    Error::new(Code::OPERATION_INVALID, Origin::BROKER, "The stack has been closed")
}

impl Handle {
    /// The stack's folders.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    async fn order(&self, order: Order) -> Result<(), Error> {
        self.orders.send(order).await.map_err(gone)
    }

    /// Starts drivers, unless they run.
    pub async fn want(&self, drivers: &[Driver]) -> Result<(), Error> {
        self.order(Order::Want(drivers.to_vec())).await
    }

    /// Registers a client.
    pub async fn client_up(&self, identity: Identity) -> Result<Client, Error> {
        let (reply, answer) = oneshot::channel();
        let (here, life) = oneshot::channel();
        self.order(Order::ClientUp(identity, life, reply)).await?;
        let token = answer.await.map_err(gone)?;
        Ok(Client { token, _here: here })
    }

    /// A channel to a driver, as soon as it serves; the inner error is the reason why it is out of service.
    pub async fn channel(&self, token: Token, driver: Driver) -> Result<Result<OwnedFd, String>, Error> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Channel(token, driver, reply)).await?;
        answer.await.map_err(gone)
    }

    /// Waits until some driver has changed its state.
    pub async fn driver_changed(&mut self) -> Result<(), Error> {
        self.shared.changed.changed().await.map_err(gone)
    }

    /// The whole state.
    pub async fn status(&self) -> Result<StackStatus, Error> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Status(reply)).await?;
        answer.await.map_err(gone)
    }

    /// Takes a driver out of service.
    pub async fn hold(&self, driver: Driver) -> Result<(), Error> {
        self.order(Order::Hold(driver)).await
    }

    /// Brings a held driver back.
    pub async fn release(&self, driver: Driver) -> Result<(), Error> {
        self.order(Order::Release(driver)).await
    }

    /// Has the drivers ended in order, whoever else has a handle; returns at once, and needs no runtime.
    pub fn leave(&self) {
        self.shared.leaving.send_replace(true);
    }

    /// Is the stack about to end, or has it?
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        *self.shared.leaving.borrow()
    }

    /// Ends the drivers in order and returns when they are gone and the root is free. Guests live on.
    pub async fn stop(&self) {
        self.leave();
        self.orders.closed().await;
    }
}
