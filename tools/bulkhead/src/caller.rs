//! Who makes the calls of a connection.

use crate::remote;
use bulkhead_wire::channel::{self, Calls};
use bulkhead_wire::error::Error;
use bulkhead_wire::table::{CallInfo, Object};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Makes a connection's calls, whatever way they go: over a channel to the driver that serves them, or in libvirt's
/// protocol. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller(pub(crate) Way);

/// How calls go.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// To the driver itself.
    Channel(channel::Caller),
    /// To a daemon that speaks libvirt's protocol.
    Remote(remote::Caller),
}

impl Calls for Caller {
    async fn call<A: Serialize + Object + Send, R: DeserializeOwned + Send>(
        &self,
        info: &'static CallInfo,
        arguments: A,
    ) -> Result<R, Error> {
        match &self.0 {
            Way::Channel(caller) => caller.call(info, arguments).await,
            Way::Remote(caller) => caller.call(info, arguments).await,
        }
    }
}
