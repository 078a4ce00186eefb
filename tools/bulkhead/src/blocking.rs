//! The same, for programs without a runtime of their own.

use crate::{Builder, Error, OpenError};
use bulkhead_wire::types::StackStatus;
use std::future::Future;

/// An open stack whose calls wait.
#[derive(Debug)]
pub struct Connection {
    connection: Option<crate::Connection>,
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
        Ok(Self {
            connection: Some(connection),
            runtime,
        })
    }

    /// Has something done with the connection and waits for it:
    /// `stack.wait(|stack| async move { stack.domains().connect_get_version().await })`.
    pub fn wait<F: Future>(&self, work: impl FnOnce(crate::Connection) -> F) -> Option<F::Output> {
        let connection = self.connection.clone()?;
        Some(self.runtime.block_on(work(connection)))
    }

    /// The whole stack's state.
    ///
    /// # Errors
    /// A stack that has been closed.
    pub fn status(&self) -> Result<StackStatus, Error> {
        match &self.connection {
            Some(connection) => self.runtime.block_on(connection.status()),
            None => unreachable!("only drop takes the connection"),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.connection.take();
    }
}
