//! The calls about networks, and the way to those about ports and metadata.

mod metadata;
mod ports;
mod taps;

use crate::Networks;
use crate::definition::{Command, Definition, Section};
use crate::environment::Environment;
use crate::error::{error, invalid, no_flags};
use crate::name::Mac;
use crate::network::{DEFINED, Network, UNDEFINED, View, life::Change};
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::table::{CallContext, network};
use bulkhead_wire::types::network::{
    LeaseList, NetworkList, NetworkOverview, NetworkRef, PortList, PortRef, PortTap,
};
use bulkhead_wire::types::{InterfaceStats, ParameterList, Tap};
use std::sync::Arc;

/// `VIR_NETWORK_DEFINE_VALIDATE` and `VIR_NETWORK_CREATE_VALIDATE`.
const VALIDATE: u32 = 1;
/// `VIR_NETWORK_XML_INACTIVE`.
const XML_INACTIVE: u32 = 1;
/// `virNetworkUpdateFlags`.
const LIVE: u32 = 1;
const CONFIG: u32 = 2;
/// `virConnectListAllNetworksFlags`, each with its opposite.
const LIST_STATES: [(u32, u32); 3] = [(2, 1), (4, 8), (16, 32)];

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// So many of them, if that is a number of things.
fn at_most(names: impl Iterator<Item = String>, most: i32) -> Result<Vec<String>, Error> {
    let most = usize::try_from(most)
        .map_err(|_| error(Code::INVALID_ARG, "A list of less than nothing was asked for"))?;
    Ok(names.take(most).collect())
}

/// Does a network pass `virConnectListAllNetworksFlags`?
fn passes(flags: u32, view: &View) -> bool {
    let states = [view.active, view.persistent, view.autostart];
    LIST_STATES.iter().zip(states).all(|((yes, no), is)| {
        let wanted = flags & (yes | no);
        wanted == 0 || wanted & if is { *yes } else { *no } != 0
    })
}

/// A definition, read where it keeps nobody waiting.
async fn read(environment: &Arc<Environment>, xml: String, strict: bool) -> Result<Definition, Error> {
    let environment = Arc::clone(environment);
    let read =
        tokio::task::spawn_blocking(move || Definition::read(&xml, strict, || environment.fresh_uuid()));
    read.await.map_err(|cause| error(Code::INTERNAL, cause.to_string()))?
}

impl Networks {
    fn names(&self, active: bool) -> impl Iterator<Item = String> {
        let networks = self.environment.networks().into_iter();
        networks
            .filter(move |network| network.view.get().active == active)
            .map(|network| network.name.clone())
    }

    fn network(&self, named: &NetworkRef) -> Result<Arc<Network>, Error> {
        self.environment.named(named)
    }

    async fn define(&self, xml: String, flags: u32) -> Result<NetworkRef, Error> {
        no_flags(flags, VALIDATE)?;
        let environment = &self.environment;
        let definition = read(environment, xml, flags & VALIDATE != 0).await?;
        let _registry = environment.registry.lock().await;
        let (definition, known) = environment.admit(definition).await?;
        let definition = Arc::new(definition);
        let network = match known {
            Some(network) => {
                let next = Arc::clone(&definition);
                network
                    .turn(environment, "define", |network, environment| async move {
                        environment.write_definition(&network.name, next.to_xml()).await?;
                        let was = network.view.get();
                        network.change(|view| {
                            view.persistent = true;
                            if view.active {
                                view.next = Some(next);
                            } else {
                                view.definition = next;
                            }
                        });
                        if was.active && !was.persistent {
                            environment.keep_persistent(&network).await?;
                        }
                        Ok(())
                    })
                    .await?;
                network
            }
            None => {
                environment.write_definition(&definition.name, definition.to_xml()).await?;
                let network = Network::new(View::inactive(Arc::clone(&definition), true, false));
                environment.insert(&network);
                network
            }
        };
        network.tell(environment, DEFINED);
        Ok(network.to_ref())
    }

    async fn create(&self, xml: String, flags: u32) -> Result<NetworkRef, Error> {
        no_flags(flags, VALIDATE)?;
        let environment = &self.environment;
        let definition = read(environment, xml, flags & VALIDATE != 0).await?;
        let network = {
            let _registry = environment.registry.lock().await;
            let (definition, known) = environment.admit(definition).await?;
            let definition = Arc::new(definition);
            match known {
                Some(network) if network.view.get().active => {
                    return Err(invalid(format!("Network '{}' is active already", network.name)));
                }
                // A start from XML: what it says holds for this run.
                Some(network) => {
                    network
                        .change(|view| view.next = Some(std::mem::replace(&mut view.definition, definition)));
                    network
                }
                None => {
                    let network = Network::new(View::inactive(definition, false, false));
                    environment.insert(&network);
                    network
                }
            }
        };
        let started = network.turn(environment, "start", |network, environment| async move {
            let before = network.view.get().next.clone();
            let started = network.start(&environment).await;
            network.change(|view| match (&started, before) {
                (Ok(()), Some(before)) => view.next = Some(before),
                (Err(_), Some(before)) => (view.definition, view.next) = (before, None),
                (_, None) => {}
            });
            started
        });
        if let Err(cause) = started.await {
            let _registry = environment.registry.lock().await;
            let view = network.view.get();
            if !view.persistent && !view.active {
                environment.forget(&network);
            }
            return Err(cause);
        }
        Ok(network.to_ref())
    }

    async fn destroy(&self, named: &NetworkRef) -> Result<(), Error> {
        let (environment, network) = (&self.environment, self.network(named)?);
        let stopped = network
            .turn(environment, "stop", |network, environment| async move { network.stop(&environment).await })
            .await;
        let _registry = environment.registry.lock().await;
        let view = network.view.get();
        if !view.persistent && !view.active {
            environment.forget(&network);
            environment.remove_services(&network).await;
        }
        stopped.map(drop)
    }

    async fn undefine(&self, named: &NetworkRef) -> Result<(), Error> {
        let (environment, network) = (&self.environment, self.network(named)?);
        let _registry = environment.registry.lock().await;
        network
            .turn(environment, "undefine", |network, environment| async move {
                let view = network.view.get();
                if !view.persistent {
                    let message = format!("Network '{}' is transient: it has no definition", network.name);
                    return Err(invalid(message));
                }
                environment.remove_definition(&network.name).await?;
                network.change(|view| {
                    (view.persistent, view.autostart, view.next) = (false, false, None);
                });
                if view.active {
                    environment.keep_persistent(&network).await?;
                } else {
                    environment.forget(&network);
                    for port in view.ports.values() {
                        environment.remove_port(&network, port.uuid).await?;
                    }
                    environment.remove_services(&network).await;
                }
                network.tell(&environment, UNDEFINED);
                Ok(())
            })
            .await
    }
}

impl network::Server for Networks {
    async fn tap_open(
        &self,
        _call: CallContext,
        arguments: network::tap_open::Arguments,
    ) -> Result<Tap, Error> {
        self.open_tap(arguments).await
    }

    async fn tap_close(
        &self,
        _call: CallContext,
        arguments: network::tap_close::Arguments,
    ) -> Result<(), Error> {
        self.close_tap(&arguments.name).await
    }

    async fn interface_counters(
        &self,
        _call: CallContext,
        arguments: network::interface_counters::Arguments,
    ) -> Result<InterfaceStats, Error> {
        taps::counted(arguments.name).await
    }

    async fn port_open(
        &self,
        _call: CallContext,
        arguments: network::port_open::Arguments,
    ) -> Result<PortTap, Error> {
        self.open_port(arguments).await
    }

    async fn connect_num_of_networks(
        &self,
        _call: CallContext,
        _arguments: network::connect_num_of_networks::Arguments,
    ) -> Result<i32, Error> {
        Ok(count(self.names(true).count()))
    }

    async fn connect_list_networks(
        &self,
        _call: CallContext,
        arguments: network::connect_list_networks::Arguments,
    ) -> Result<Vec<String>, Error> {
        at_most(self.names(true), arguments.max_names)
    }

    async fn connect_num_of_defined_networks(
        &self,
        _call: CallContext,
        _arguments: network::connect_num_of_defined_networks::Arguments,
    ) -> Result<i32, Error> {
        Ok(count(self.names(false).count()))
    }

    async fn connect_list_defined_networks(
        &self,
        _call: CallContext,
        arguments: network::connect_list_defined_networks::Arguments,
    ) -> Result<Vec<String>, Error> {
        at_most(self.names(false), arguments.max_names)
    }

    async fn connect_list_all_networks(
        &self,
        _call: CallContext,
        arguments: network::connect_list_all_networks::Arguments,
    ) -> Result<NetworkList, Error> {
        no_flags(arguments.flags, LIST_STATES.iter().fold(0, |all, (yes, no)| all | yes | no))?;
        let all = self.environment.networks();
        let passing = all.iter().filter(|network| passes(arguments.flags, &network.view.get()));
        let mut networks: Vec<_> = passing.map(|network| network.to_ref()).collect();
        let count = u32::try_from(networks.len()).unwrap_or(u32::MAX);
        if arguments.need_results == 0 {
            networks.clear();
        }
        Ok(NetworkList { networks, count })
    }

    async fn network_lookup_by_name(
        &self,
        _call: CallContext,
        arguments: network::network_lookup_by_name::Arguments,
    ) -> Result<NetworkRef, Error> {
        self.environment.by_name(&arguments.name).map(|network| network.to_ref()).ok_or_else(|| {
            let message = format!("Network not found: none has the name '{}'", arguments.name);
            error(Code::NO_NETWORK, message)
        })
    }

    async fn network_lookup_by_uuid(
        &self,
        _call: CallContext,
        arguments: network::network_lookup_by_uuid::Arguments,
    ) -> Result<NetworkRef, Error> {
        let named = NetworkRef { name: "?".to_owned(), uuid: arguments.uuid };
        self.network(&named).map(|network| network.to_ref())
    }

    async fn network_define_xml(
        &self,
        _call: CallContext,
        arguments: network::network_define_xml::Arguments,
    ) -> Result<NetworkRef, Error> {
        self.define(arguments.xml, 0).await
    }

    async fn network_define_xml_flags(
        &self,
        _call: CallContext,
        arguments: network::network_define_xml_flags::Arguments,
    ) -> Result<NetworkRef, Error> {
        self.define(arguments.xml, arguments.flags).await
    }

    async fn network_create_xml(
        &self,
        _call: CallContext,
        arguments: network::network_create_xml::Arguments,
    ) -> Result<NetworkRef, Error> {
        self.create(arguments.xml, 0).await
    }

    async fn network_create_xml_flags(
        &self,
        _call: CallContext,
        arguments: network::network_create_xml_flags::Arguments,
    ) -> Result<NetworkRef, Error> {
        self.create(arguments.xml, arguments.flags).await
    }

    async fn network_create(
        &self,
        _call: CallContext,
        arguments: network::network_create::Arguments,
    ) -> Result<(), Error> {
        let network = self.network(&arguments.network)?;
        network
            .turn(&self.environment, "start", |network, environment| async move {
                network.start(&environment).await
            })
            .await
    }

    async fn network_destroy(
        &self,
        _call: CallContext,
        arguments: network::network_destroy::Arguments,
    ) -> Result<(), Error> {
        self.destroy(&arguments.network).await
    }

    async fn network_undefine(
        &self,
        _call: CallContext,
        arguments: network::network_undefine::Arguments,
    ) -> Result<(), Error> {
        self.undefine(&arguments.network).await
    }

    async fn network_get_xml_desc(
        &self,
        _call: CallContext,
        arguments: network::network_get_xml_desc::Arguments,
    ) -> Result<String, Error> {
        no_flags(arguments.flags, XML_INACTIVE)?;
        let view = self.network(&arguments.network)?.view.get();
        Ok(if arguments.flags & XML_INACTIVE == 0 {
            view.definition.live_xml(&view.usage())
        } else {
            view.configured().to_xml()
        })
    }

    async fn network_get_bridge_name(
        &self,
        _call: CallContext,
        arguments: network::network_get_bridge_name::Arguments,
    ) -> Result<String, Error> {
        let view = self.network(&arguments.network)?.view.get();
        view.definition
            .bridge
            .name
            .clone()
            .ok_or_else(|| error(Code::INTERNAL, format!("Network '{}' has no bridge", view.definition.name)))
    }

    async fn network_get_autostart(
        &self,
        _call: CallContext,
        arguments: network::network_get_autostart::Arguments,
    ) -> Result<i32, Error> {
        Ok(i32::from(self.network(&arguments.network)?.view.get().autostart))
    }

    async fn network_set_autostart(
        &self,
        _call: CallContext,
        arguments: network::network_set_autostart::Arguments,
    ) -> Result<(), Error> {
        let (network, autostart) = (self.network(&arguments.network)?, arguments.autostart != 0);
        network
            .turn(&self.environment, "set autostart", move |network, environment| async move {
                if !network.view.get().persistent {
                    let message =
                        format!("Network '{}' is transient: it can't start by itself", network.name);
                    return Err(invalid(message));
                }
                environment.set_autostart(&network.name, autostart).await?;
                network.change(|view| view.autostart = autostart);
                Ok(())
            })
            .await
    }

    async fn network_is_active(
        &self,
        _call: CallContext,
        arguments: network::network_is_active::Arguments,
    ) -> Result<i32, Error> {
        Ok(i32::from(self.network(&arguments.network)?.view.get().active))
    }

    async fn network_is_persistent(
        &self,
        _call: CallContext,
        arguments: network::network_is_persistent::Arguments,
    ) -> Result<i32, Error> {
        Ok(i32::from(self.network(&arguments.network)?.view.get().persistent))
    }

    async fn network_update(
        &self,
        _call: CallContext,
        arguments: network::network_update::Arguments,
    ) -> Result<(), Error> {
        let network::network_update::Arguments { network, command, section, parent, xml, flags } = arguments;
        no_flags(flags, LIVE | CONFIG)?;
        let network = self.network(&network)?;
        let (command, section) = (Command::of(command)?, Section::of(section)?);
        network
            .turn(&self.environment, "update", move |network, environment| async move {
                let active = network.view.get().active;
                let (live, config) = match flags {
                    0 => (active, !active),
                    flags => (flags & LIVE != 0, flags & CONFIG != 0),
                };
                network.update(&environment, Change { command, section, parent, xml, live, config }).await
            })
            .await
    }

    async fn network_get_dhcp_leases(
        &self,
        _call: CallContext,
        arguments: network::network_get_dhcp_leases::Arguments,
    ) -> Result<LeaseList, Error> {
        no_flags(arguments.flags, 0)?;
        let wanted = match &arguments.mac {
            None => None,
            Some(mac) => Some(Mac::read(mac).map(|mac| mac.to_string()).ok_or_else(|| {
                error(Code::INVALID_MAC, format!("'{}' is no MAC address", mac.escape_debug()))
            })?),
        };
        let mut leases = self.network(&arguments.network)?.leases(&self.environment).await?;
        leases.retain(|lease| wanted.is_none() || lease.mac == wanted);
        let count = u32::try_from(leases.len()).unwrap_or(u32::MAX);
        if arguments.need_results == 0 {
            leases.clear();
        }
        Ok(LeaseList { leases, count })
    }

    async fn network_set_metadata(
        &self,
        _call: CallContext,
        arguments: network::network_set_metadata::Arguments,
    ) -> Result<(), Error> {
        self.set_metadata(arguments).await
    }

    async fn network_get_metadata(
        &self,
        _call: CallContext,
        arguments: network::network_get_metadata::Arguments,
    ) -> Result<String, Error> {
        self.metadata(&arguments)
    }

    async fn network_list_all_ports(
        &self,
        _call: CallContext,
        arguments: network::network_list_all_ports::Arguments,
    ) -> Result<PortList, Error> {
        self.list_ports(&arguments)
    }

    async fn network_port_lookup_by_uuid(
        &self,
        _call: CallContext,
        arguments: network::network_port_lookup_by_uuid::Arguments,
    ) -> Result<PortRef, Error> {
        let network = self.network(&arguments.network)?;
        network.port(arguments.uuid)?;
        crate::environment::must_be_active(&network.view.get())?;
        Ok(PortRef { network: network.to_ref(), uuid: arguments.uuid })
    }

    async fn network_port_create_xml(
        &self,
        _call: CallContext,
        arguments: network::network_port_create_xml::Arguments,
    ) -> Result<PortRef, Error> {
        self.create_port(arguments).await
    }

    async fn network_port_get_parameters(
        &self,
        _call: CallContext,
        arguments: network::network_port_get_parameters::Arguments,
    ) -> Result<ParameterList, Error> {
        self.port_parameters(&arguments)
    }

    async fn network_port_set_parameters(
        &self,
        _call: CallContext,
        arguments: network::network_port_set_parameters::Arguments,
    ) -> Result<(), Error> {
        self.set_port_parameters(arguments).await
    }

    async fn network_port_get_xml_desc(
        &self,
        _call: CallContext,
        arguments: network::network_port_get_xml_desc::Arguments,
    ) -> Result<String, Error> {
        no_flags(arguments.flags, 0)?;
        let network = self.network(&arguments.port.network)?;
        Ok(network.port(arguments.port.uuid)?.to_xml())
    }

    async fn network_port_delete(
        &self,
        _call: CallContext,
        arguments: network::network_port_delete::Arguments,
    ) -> Result<(), Error> {
        no_flags(arguments.flags, 0)?;
        let (network, uuid) = (self.network(&arguments.port.network)?, arguments.port.uuid);
        network
            .turn(&self.environment, "delete port", move |network, environment| async move {
                network.drop_port(&environment, uuid).await
            })
            .await
    }

    async fn events_subscribe(
        &self,
        call: CallContext,
        _arguments: network::events_subscribe::Arguments,
    ) -> Result<(), Error> {
        self.environment.events.subscribe(call.events);
        Ok(())
    }

    async fn networks_overview(
        &self,
        _call: CallContext,
        _arguments: network::networks_overview::Arguments,
    ) -> Result<Vec<NetworkOverview>, Error> {
        let overview = |network: Arc<Network>| {
            let view = network.view.get();
            NetworkOverview {
                network: network.to_ref(),
                active: view.active,
                persistent: view.persistent,
                degraded: view.degraded.clone(),
            }
        };
        Ok(self.environment.networks().into_iter().map(overview).collect())
    }
}
