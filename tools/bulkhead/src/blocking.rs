//! The same, for programs without a runtime of their own.
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let stack = bulkhead::blocking::Connection::open("qemu:///embed?root=/srv/guests")?;
//! let version = stack.wait(|stack| async move { stack.domains().connect_get_version().await })?;
//! println!("QEMU {}.{}", version / 1_000_000, version / 1_000 % 1_000);
//! # Ok(())
//! # }
//! ```

use crate::{Builder, Error, OpenError};
use bulkhead_wire::types::StackStatus;
use std::future::Future;

/// An open stack whose calls wait.
#[derive(Debug)]
pub struct Connection {
    // Dropped before the runtime that its channels run in.
    connection: crate::Connection,
    runtime: tokio::runtime::Runtime,
}

impl Connection {
    /// Opens the stack that a URI names.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(uri: &str) -> Result<Self, OpenError> {
        Self::open_with(crate::Connection::builder(uri))
    }

    /// Opens a stack with more than its URI.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_with(builder: Builder) -> Result<Self, OpenError> {
        // One thread of its own keeps channels up while the application does something else.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("bulkhead-client")
            .enable_all()
            .build()
            .map_err(bulkhead_broker::OpenError::Thread)?;
        let connection = runtime.block_on(builder.open())?;
        Ok(Self { connection, runtime })
    }

    /// Has something done with the connection and waits for it:
    /// `stack.wait(|stack| async move { stack.domains().connect_get_version().await })`.
    pub fn wait<F: Future>(&self, work: impl FnOnce(crate::Connection) -> F) -> F::Output {
        self.runtime.block_on(work(self.connection.clone()))
    }

    /// The whole stack's state.
    ///
    /// # Errors
    /// A stack that has been closed.
    pub fn status(&self) -> Result<StackStatus, Error> {
        self.runtime.block_on(self.connection.status())
    }

    /// Drops the connection; see [`crate::Connection::close`].
    pub fn close(self) {
        self.runtime.block_on(self.connection.close());
    }
}
