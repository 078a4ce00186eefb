//! Taps: for guests' interfaces, with a network behind them or without.

use crate::Networks;
use crate::error::{error, system};
use crate::netlink::link::Netlink;
use crate::network::Network;
use crate::port::Port;
use crate::{name, open};
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::table::network::{port_open, tap_open};
use bulkhead_wire::types::network::PortTap;
use bulkhead_wire::types::{InterfaceStats, Tap};
use std::sync::Arc;

impl Networks {
    /// A caller that stops waiting drops the answer: its descriptors are closed, and a new tap is gone with them.
    pub(super) async fn open_tap(&self, arguments: tap_open::Arguments) -> Result<Tap, Error> {
        self.taps
            .run("tap_open", |()| {
                Box::pin(async move {
                    // The kernel may keep us waiting behind other changes of interfaces; heartbeats must go on.
                    tokio::task::spawn_blocking(move || open(&arguments)).await.unwrap_or_else(|cause| {
                        Err(error(Code::INTERNAL, format!("Opening a tap ended unexpectedly: {cause}")))
                    })
                })
            })
            .await?
    }

    /// The kernel removes a tap that was made, and unplugs it, when its last descriptor is closed: by the guest's end,
    /// or by the caller, who must do that first. A name alone must not remove anything, for it may have passed to another
    /// guest's tap since; and what was made in advance stays. A port that had the tap goes with it.
    pub(super) async fn close_tap(&self, name: &str) -> Result<(), Error> {
        name::check(name)?;
        for network in self.environment.networks() {
            let ports = Arc::clone(&network.view.get().ports);
            let of_tap = ports.values().find(|port| port.tap.as_deref() == Some(name));
            if let Some(port) = of_tap.map(|port| port.uuid) {
                network
                    .turn(&self.environment, "close port", move |network, environment| async move {
                        network.drop_port(&environment, port).await
                    })
                    .await?;
            }
        }
        Ok(())
    }

    /// Makes a port of a network, and a tap for it.
    pub(super) async fn open_port(&self, arguments: port_open::Arguments) -> Result<PortTap, Error> {
        let port_open::Arguments { network, xml, name, queues } = arguments;
        let network = self.environment.by_name(&network).ok_or_else(|| {
            error(Code::NO_NETWORK, format!("Network not found: none has the name '{network}'"))
        })?;
        let port = Port::read(&xml, Some(self.environment.fresh_uuid()))?;
        let mac = port.mac.to_string();
        let port = network
            .turn(&self.environment, "open port", move |network, environment| async move {
                network.add_port(&environment, port, false).await
            })
            .await?;
        let opened = self.open_for(&network, &port, name, mac, queues).await;
        let uuid = port.uuid;
        let kept = match opened {
            Ok((tap, bridge)) => {
                let port = Port { tap: Some(tap.name.clone()), ..Port::clone(&port) };
                let kept = network.turn(&self.environment, "keep port", |network, environment| async move {
                    network.keep_port(&environment, port).await
                });
                kept.await.map(|_| PortTap { tap, bridge, port: uuid })
            }
            Err(cause) => Err(cause),
        };
        if kept.is_err() {
            let undone =
                network.turn(&self.environment, "close port", move |network, environment| async move {
                    network.drop_port(&environment, uuid).await
                });
            if let Err(cause) = undone.await {
                tracing::warn!(network = network.name, %cause, "a port of a tap that could not be made");
            }
        }
        kept
    }

    async fn open_for(
        &self,
        network: &Network,
        port: &Port,
        name: Option<String>,
        mac: String,
        queues: u16,
    ) -> Result<(Tap, String), Error> {
        let bridge = network.bridge_for(port)?;
        let arguments =
            tap_open::Arguments { name, managed: true, bridge: Some(bridge.clone()), mac, queues };
        let tap = self.open_tap(arguments).await?;
        if port.isolated == Some(true) {
            let name = tap.name.clone();
            let isolated = tokio::task::spawn_blocking(move || {
                let mut netlink = Netlink::open()?;
                match netlink.find(&name)? {
                    Some(link) => netlink.isolate(link.index),
                    None => Err(std::io::Error::from_raw_os_error(libc::ENODEV)),
                }
            });
            let isolated = isolated.await.map_err(std::io::Error::other).and_then(|done| done);
            isolated.map_err(|cause| {
                system(format!("Network '{}': tap '{}' can't be isolated", network.name, tap.name), &cause)
            })?;
        }
        Ok((tap, bridge))
    }
}

/// What has gone through an interface.
pub(super) async fn counted(name: String) -> Result<InterfaceStats, Error> {
    name::check(&name)?;
    tokio::task::spawn_blocking(move || counters(&name)).await.unwrap_or_else(|cause| {
        Err(error(Code::INTERNAL, format!("Counting an interface ended unexpectedly: {cause}")))
    })
}

fn counters(name: &str) -> Result<InterfaceStats, Error> {
    let link = Netlink::open()
        .and_then(|mut netlink| netlink.find(name))
        .map_err(|cause| system(format!("Interface {name}"), &cause))?;
    let counters = link.and_then(|link| link.counters).ok_or_else(|| {
        let message = format!("Interface '{name}' is not there, so that it counts nothing");
        error(Code::INTERNAL, message)
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
