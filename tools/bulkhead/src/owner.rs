//! What only the private wire has, for connections in libvirt's protocol: it goes over the control socket of the same stack,
//! where this process may reach it.

use crate::caller::Way;
use crate::{Connection, OpenError};
use bulkhead_wire::channel;
use bulkhead_wire::control::Layout;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::{Driver, stack};
use std::path::PathBuf;

/// The way to the control socket, which is gone only when it is needed.
#[derive(Debug)]
pub(crate) struct Owner {
    /// The folders of the stack, as far as they are known.
    run: Option<PathBuf>,
    read_only: bool,
    open: tokio::sync::Mutex<Option<Connection>>,
}

/// The service manager makes sockets for others.
const SERVICE_MANAGER: i32 = 1;

impl Owner {
    pub(crate) fn new(run: Option<PathBuf>, read_only: bool) -> Self {
        Self { run, read_only, open: tokio::sync::Mutex::default() }
    }

    /// The broker's calls, for `what`; `daemon` is who made the public socket.
    pub(crate) async fn control(&self, what: &str, daemon: Option<i32>) -> Result<stack::Client, Error> {
        self.reach(what, daemon).await?.own_control(what)
    }

    /// A channel to a driver.
    pub(crate) async fn channel(
        &self,
        driver: Driver,
        what: &str,
        daemon: Option<i32>,
    ) -> Result<channel::Caller, Error> {
        match self.reach(what, daemon).await?.caller(driver).0 {
            Way::Channel(caller) => Ok(caller),
            Way::Remote(_) => Err(not_here(what, "it speaks libvirt's protocol too")),
        }
    }

    async fn reach(&self, what: &str, daemon: Option<i32>) -> Result<Connection, Error> {
        let mut open = self.open.lock().await;
        if let Some(connection) = open.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let run = self.run.clone().ok_or_else(|| not_here(what, "where that is, is not known"))?;
        let layout = Layout { run, ..Layout::system() };
        let (connection, pid) = match Connection::attach_at(&layout, None, self.read_only).await {
            Ok(attached) => attached,
            Err(error @ OpenError::NotRunning { .. }) => {
                return Err(not_here(
                    what,
                    &format!("{error}; it is open to the stack's own user and to root"),
                ));
            }
            Err(error) => return Err(not_here(what, &error.to_string())),
        };
        let known = |pid: Option<i32>| pid.filter(|pid| *pid > SERVICE_MANAGER);
        if let (Some(daemon), Some(pid)) = (known(daemon), known(pid))
            && daemon != pid
        {
            let path = layout.run.join(bulkhead_broker::control::SOCKET);
            let why = format!(
                "the one at {} belongs to process {pid}, and the daemon that this connection reached is process {daemon}",
                path.display()
            );
            return Err(not_here(what, &why));
        }
        *open = Some(connection.clone());
        Ok(connection)
    }
}

fn not_here(what: &str, why: &str) -> Error {
    let message = format!(
        "{what} is no call of libvirt's protocol, in which this connection speaks; it takes the stack's control socket: {why}"
    );
    Error::new(Code::NO_SUPPORT, Origin::RPC, message)
}
