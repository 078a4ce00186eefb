//! A network's ports.

use super::{Network, View};
use crate::environment::{Environment, must_be_active};
use crate::error::{error, invalid, unsupported};
use crate::netlink::link::{Change, Netlink};
use crate::port::{Plug, Port, check_floor};
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::types::Uuid;
use std::sync::Arc;

/// Ports of one network; libvirt's protocol can't list more.
const PORTS_MAX: usize = 16_384;

/// The floors of all ports but one.
fn floors(view: &View, but: Uuid) -> u64 {
    let others = view.ports.values().filter(|port| port.uuid != but);
    let floors = others.filter_map(|port| port.bandwidth?.inbound).map(|rate| rate.floor);
    floors.fold(0, u64::saturating_add)
}

impl Network {
    /// A port of it.
    pub(crate) fn port(&self, uuid: Uuid) -> Result<Arc<Port>, Error> {
        self.view.get().ports.get(&uuid).cloned().ok_or_else(|| {
            error(Code::NO_NETWORK_PORT, format!("Network '{}' has no port with uuid {uuid}", self.name))
        })
    }

    /// Adds a port. One that is reclaimed says itself where it is plugged in.
    pub(crate) async fn add_port(
        &self,
        environment: &Environment,
        mut port: Port,
        reclaim: bool,
    ) -> Result<Arc<Port>, Error> {
        let view = self.view.get();
        must_be_active(&view)?;
        if reclaim == (port.plug == Plug::None) {
            let message = if reclaim {
                "a port that is reclaimed needs a <plug>"
            } else {
                "a new port has no <plug>: the network chooses it; reclaim one that is plugged in already"
            };
            return Err(error(Code::INVALID_ARG, format!("Network '{}': {message}", self.name)));
        }
        if view.ports.contains_key(&port.uuid) {
            let message = format!("Network '{}' has a port with uuid {} already", self.name, port.uuid);
            return Err(error(Code::NETWORK_PORT_EXIST, message));
        }
        if view.ports.len() >= PORTS_MAX {
            return Err(invalid(format!("Network '{}' has {PORTS_MAX} ports already", self.name)));
        }
        if reclaim {
            if matches!(port.plug, Plug::Direct { .. } | Plug::Pci { .. })
                && port.device(&view.definition).is_none()
            {
                let message =
                    format!("Network '{}' has not the device that the port is plugged into", self.name);
                return Err(error(Code::INTERNAL, message));
            }
        } else {
            port.plug_into(&view.definition, &view.usage().devices)?;
            check_floor(&view.definition, &port, port.bandwidth, floors(&view, port.uuid))?;
        }
        self.keep_port(environment, port).await
    }

    pub(crate) async fn keep_port(&self, environment: &Environment, port: Port) -> Result<Arc<Port>, Error> {
        environment.write_port(self, &port).await?;
        let port = Arc::new(port);
        let kept = Arc::clone(&port);
        self.change(|view| drop(Arc::make_mut(&mut view.ports).insert(kept.uuid, kept)));
        Ok(port)
    }

    /// Removes a port.
    pub(crate) async fn drop_port(&self, environment: &Environment, uuid: Uuid) -> Result<(), Error> {
        self.port(uuid)?;
        environment.remove_port(self, uuid).await?;
        self.change(|view| drop(Arc::make_mut(&mut view.ports).remove(&uuid)));
        Ok(())
    }

    /// Gives a port another bandwidth.
    pub(crate) async fn shape_port(
        &self,
        environment: &Environment,
        uuid: Uuid,
        bandwidth: Option<crate::definition::shaping::Bandwidth>,
    ) -> Result<(), Error> {
        let view = self.view.get();
        must_be_active(&view)?;
        let mut port = Port::clone(&*self.port(uuid)?);
        check_floor(&view.definition, &port, bandwidth, floors(&view, uuid))?;
        port.bandwidth = bandwidth;
        self.keep_port(environment, port).await.map(drop)
    }

    /// The bridge that a port's tap is plugged into.
    pub(crate) fn bridge_for(&self, port: &Port) -> Result<String, Error> {
        match &port.plug {
            Plug::Bridge { name, .. } => Ok(name.clone()),
            _ => Err(unsupported(format!(
                "Network '{}' plugs guests next to an interface of the host or gives them a device, which this version can't; use \
                 a network with a bridge",
                self.name
            ))),
        }
    }

    /// Forgets ports whose taps ended while nobody looked.
    pub(crate) async fn forget_ports(&self, environment: &Environment) -> Result<(), Error> {
        let ports = Arc::clone(&self.view.get().ports);
        for port in ports.values() {
            let Some(tap) = port.tap.clone() else { continue };
            let there = tokio::task::spawn_blocking(move || crate::kernel::exists(&tap)).await;
            if !there.unwrap_or(true) {
                self.drop_port(environment, port.uuid).await?;
            }
        }
        Ok(())
    }

    /// Plugs guests that run into the network's bridge again, which was made anew.
    pub(super) async fn plug_again(&self) {
        let view = self.view.get();
        let taps: Vec<(String, String, bool)> = view
            .ports
            .values()
            .filter_map(|port| {
                let tap = port.tap.clone()?;
                Some((tap, self.bridge_for(port).ok()?, port.isolated == Some(true)))
            })
            .collect();
        if taps.is_empty() {
            return;
        }
        let name = self.name.clone();
        let plugged = tokio::task::spawn_blocking(move || {
            for (tap, bridge, isolated) in taps {
                if let Err(cause) = plug(&tap, &bridge, isolated) {
                    tracing::error!(network = name, tap, %cause, "can't be plugged in again");
                }
            }
        });
        drop(plugged.await);
    }
}

/// Plugs a tap that is there into a bridge.
fn plug(tap: &str, bridge: &str, isolated: bool) -> std::io::Result<()> {
    let mut netlink = Netlink::open()?;
    let (tap, bridge) = (netlink.find(tap)?, netlink.find(bridge)?);
    let (Some(tap), Some(bridge)) = (tap, bridge) else { return Ok(()) };
    if tap.bridge != Some(bridge.index) {
        netlink.change(tap.index, Change { bridge: Some(bridge.index), ..Change::default() })?;
    }
    if isolated { netlink.isolate(tap.index) } else { Ok(()) }
}
