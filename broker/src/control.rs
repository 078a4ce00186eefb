//! The control socket: what only the stack's owner may ask. Serves the `stack` table to whoever may open the socket, which
//! lies in a folder of the owner's.

use crate::public::identity;
use crate::{Client, Handle, OpenError, WeakHandle};
use bulkhead_wire::channel::{self, Serve};
use bulkhead_wire::control::Identity;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::frame::Token;
use bulkhead_wire::link::LinkError;
use bulkhead_wire::table::stack::{channel_open, driver_hold, driver_release, stack_status, stack_stop};
use bulkhead_wire::table::{CallContext, CallInfo, Driver, find, stack};
use bulkhead_wire::types::StackStatus;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

/// The socket's file name below the run folder.
pub const SOCKET: &str = "control.sock";

/// Connections at one time; who comes then is turned away.
const CONNECTIONS_MAX: usize = 128;
/// Time in which a connection must say its first frame.
const HELLO_WITHIN: Duration = Duration::from_secs(3);

/// Largest arguments of a call: those of the table are a few numbers.
const BODY_MAX_BYTES: usize = 4 << 10;

/// One connection to the control socket.
struct Session {
    stack: Handle,
    identity: Identity,
    /// Clients that end with this connection.
    clients: Mutex<Vec<Client>>,
}

/// Makes the socket.
pub(crate) fn bind(run: &Path) -> Result<UnixListener, OpenError> {
    let failed = |source| OpenError::Control { path: PathBuf::from(run).join(SOCKET), source };
    let (path, _handle) = crate::root::short_socket_path(run, SOCKET).map_err(failed)?;
    // Ours to remove: the root's lock is held.
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).map_err(failed)
}

/// Accepts until the stack ends.
pub(crate) async fn accept(listener: UnixListener, stack: WeakHandle) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = listener.accept().await;
        let Ok((stream, _)) = accepted.inspect_err(|error| tracing::error!(%error, "control socket")) else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(identity) = identity(&stream, false) else { continue };
        if ![0, nix::unistd::getuid().as_raw()].contains(&identity.uid) {
            tracing::warn!(uid = identity.uid, "refused on the control socket");
            continue;
        }
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!(pid = identity.pid, "turned away: {CONNECTIONS_MAX} connections are open");
            continue;
        };
        let Some(stack) = stack.upgrade() else { return };
        let session = Arc::new(Session { stack, identity, clients: Mutex::default() });
        tokio::spawn(async move {
            let (Ok(stream), server) = (stream.into_std(), Arc::clone(&session)) else { return };
            match channel::serve_stranger(stream.into(), server, HELLO_WITHIN, BODY_MAX_BYTES).await {
                LinkError::Closed => {}
                error => tracing::warn!(pid = session.identity.pid, %error, "control connection ended"),
            }
            session.clients.lock().unwrap_or_else(PoisonError::into_inner).clear();
            drop(place);
        });
    }
}

impl Serve for Session {
    fn find(&self, operation: u16) -> Option<&'static CallInfo> {
        find(Driver::Broker, operation)
    }

    fn allow(&self, _info: &CallInfo, _token: Token) -> Result<(), Error> {
        // Who could open the socket is the owner; credentials were checked at accept.
        Ok(())
    }

    fn serve(self: &Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        stack::dispatch(Arc::clone(self), call, body, files)
    }
}

impl stack::Server for Session {
    async fn stack_status(&self, _: CallContext, _: stack_status::Arguments) -> Result<StackStatus, Error> {
        self.stack.status().await
    }

    async fn channel_open(
        &self,
        _: CallContext,
        wish: channel_open::Arguments,
    ) -> Result<(Descriptor, Token), Error> {
        let identity = Identity { read_only: wish.read_only, ..self.identity.clone() };
        let client = self.stack.client_up(identity).await?;
        let token = client.token();
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        let socket = self.stack.channel(token, wish.driver).await?.map_err(|reason| {
            let message = format!("The {} driver is out of service: {reason}", wish.driver);
            Error::new(Code::OPERATION_FAILED, Origin::RPC, message)
        })?;
        Ok((Descriptor::new(socket), token))
    }

    async fn driver_hold(&self, _: CallContext, wish: driver_hold::Arguments) -> Result<(), Error> {
        self.stack.hold(wish.driver).await
    }

    async fn driver_release(&self, _: CallContext, wish: driver_release::Arguments) -> Result<(), Error> {
        self.stack.release(wish.driver).await
    }

    async fn stack_stop(&self, _: CallContext, _: stack_stop::Arguments) -> Result<(), Error> {
        self.stack.stop().await;
        Ok(())
    }
}
