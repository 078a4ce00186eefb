//! The network driver: the only process of a stack that may touch taps.
//!
//! Owns nothing that outlives a call: a tap that it made lives for as long as the descriptors that it handed over, and one
//! that was made in advance is its maker's. So this driver's death is not felt by any guest, and there is nothing to recover.
//! Interfaces are asked for and changed through netlink, taps attached through `/dev/net/tun`; no program is run.

pub mod catalog;
pub mod definition;
mod error;
mod firewall;
mod name;
mod netlink;
mod open;
mod tap;

pub use open::open;

use bulkhead_actors::driver::{DriverLogic, Leave, Start};
use bulkhead_actors::object::Object;
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::{CallContext, Driver, network};
use bulkhead_wire::types::{Busy, InterfaceStats, Tap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The driver.
pub struct Network {
    /// Taps are opened one after the other: two calls for one tap made in advance must not both find it unused. Nothing is
    /// lost by that, for the kernel changes interfaces one after the other anyway.
    taps: Object<()>,
}

impl DriverLogic for Network {
    const DRIVER: Driver = Driver::Network;

    async fn recover(_start: Start) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { taps: Object::spawn("taps", |_| ()) }))
    }

    fn dispatch(self: Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        network::dispatch(self, call, body, files)
    }

    fn busy(&self) -> Vec<Busy> {
        self.taps.busy().into_iter().collect()
    }

    async fn leave(&self, _reason: Leave) {}
}

impl network::Server for Network {
    async fn tap_open(
        &self,
        _call: CallContext,
        arguments: network::tap_open::Arguments,
    ) -> Result<Tap, Error> {
        // A caller that stops waiting drops the answer: its descriptors are closed, and a new tap is gone with them.
        self.taps
            .run("tap_open", |()| {
                Box::pin(async move {
                    // The kernel may keep us waiting behind other changes of interfaces; heartbeats must go on.
                    tokio::task::spawn_blocking(move || open(&arguments)).await.unwrap_or_else(|error| {
                        let message = format!("Opening a tap ended unexpectedly: {error}");
                        Err(Error::new(Code::INTERNAL, Origin::NETWORK, message))
                    })
                })
            })
            .await?
    }

    /// The kernel removes a tap that `tap_open` made, and unplugs it, when its last descriptor is closed: by the guest's end,
    /// or by the caller, who must do that first. A name alone must not remove anything, for it may have passed to another
    /// guest's tap since; and what was made in advance stays.
    async fn tap_close(
        &self,
        _call: CallContext,
        arguments: network::tap_close::Arguments,
    ) -> Result<(), Error> {
        name::check(&arguments.name)
    }

    async fn interface_counters(
        &self,
        _call: CallContext,
        arguments: network::interface_counters::Arguments,
    ) -> Result<InterfaceStats, Error> {
        name::check(&arguments.name)?;
        tokio::task::spawn_blocking(move || counters(&arguments.name)).await.unwrap_or_else(|error| {
            let message = format!("Counting an interface ended unexpectedly: {error}");
            Err(Error::new(Code::INTERNAL, Origin::NETWORK, message))
        })
    }
}

/// What has gone through an interface.
fn counters(name: &str) -> Result<InterfaceStats, Error> {
    let link = netlink::link::Netlink::open()
        .and_then(|mut netlink| netlink.find(name))
        .map_err(|error| Error::system(Origin::NETWORK, format!("Interface {name}"), &error))?;
    let counters = link.and_then(|link| link.counters).ok_or_else(|| {
        let message = format!("Interface '{name}' is not there, so that it counts nothing");
        Error::new(Code::INTERNAL, Origin::NETWORK, message)
    })?;
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let [received_bytes, sent_bytes] = counters.bytes.map(signed);
    let [received_packets, sent_packets] = counters.packets.map(signed);
    let [received_errors, sent_errors] = counters.errors.map(signed);
    let [received_drops, sent_drops] = counters.drops.map(signed);
    Ok(InterfaceStats {
        received_bytes,
        received_packets,
        received_errors,
        received_drops,
        sent_bytes,
        sent_packets,
        sent_errors,
        sent_drops,
    })
}
