//! The network driver: virtual networks, and the only process of a stack that may touch taps.
//!
//! Owns: definitions of networks, what of them is in the kernel (bridges, addresses, routes, rules), their ports and leases. A
//! tap that it made lives for as long as the descriptors that it handed over, and one that was made in advance is its maker's;
//! so this driver's death is not felt by any guest. Never does: run a program, write a setting of the kernel: what serves
//! names and addresses to guests (dnsmasq) is started by the broker, and outlives this process.

mod calls;
pub mod catalog;
pub mod definition;
mod environment;
mod error;
mod firewall;
mod kernel;
mod name;
mod netlink;
mod network;
mod open;
mod port;
mod services;
mod tap;

pub use open::open;

use bulkhead_actors::driver::{DriverLogic, Leave, Start};
use bulkhead_actors::object::Object;
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::{CallContext, Driver, network as table};
use bulkhead_wire::types::Busy;
use environment::{Environment, Phase, Recalled};
use kernel::{Lack, Seen};
use network::{Network, View};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether all of the active networks is still there.
const LOOKED_EVERY: Duration = Duration::from_millis(400);

/// The driver.
pub struct Networks {
    pub(crate) environment: Arc<Environment>,
    /// Taps are opened one after the other: two calls for one tap made in advance must not both find it unused. Nothing is
    /// lost by that, for the kernel changes interfaces one after the other anyway.
    pub(crate) taps: Object<()>,
}

impl DriverLogic for Networks {
    const DRIVER: Driver = Driver::Network;
    const ORIGIN: Origin = Origin::NETWORK;

    async fn recover(start: Start) -> Result<Arc<Self>, Error> {
        let Start { welcome, stack, helper_ends, .. } = start;
        let system = |cause| error::system("The driver's folders", &cause);
        let environment =
            Environment::open(stack.clone(), &welcome.layout, &welcome.programs).map_err(system)?;
        let environment = Arc::new(environment);
        let recalled = environment.recall().map_err(system)?;
        let serving: BTreeSet<String> = welcome.helpers.into_iter().map(|helper| helper.key).collect();
        recall(&environment, recalled, &serving, welcome.incarnation == 1).await;
        // What serves a network that is not there serves nobody.
        for key in serving {
            let wanted = environment
                .networks()
                .into_iter()
                .any(|network| network.view.get().active && network.services_key() == key);
            if !wanted {
                let _ = stack.kill_helper(&key).await;
            }
        }
        tokio::spawn(Arc::clone(&environment).watch_ends(helper_ends));
        tokio::spawn(watch(Arc::clone(&environment)));
        Ok(Arc::new(Self { environment, taps: Object::spawn("taps", |_| ()) }))
    }

    fn dispatch(self: Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        table::dispatch(self, call, body, files)
    }

    fn busy(&self) -> Vec<Busy> {
        let networks = self.environment.networks();
        self.taps
            .busy()
            .into_iter()
            .chain(networks.iter().filter_map(|network| network.object.busy()))
            .collect()
    }

    async fn leave(&self, _reason: Leave) {}
}

/// Takes over what is on disk: definitions, and networks that were active.
async fn recall(environment: &Arc<Environment>, recalled: Recalled, serving: &BTreeSet<String>, first: bool) {
    let Recalled { definitions, autostart, active, ports } = recalled;
    let looked = if active.is_empty() { None } else { Some(seen().await) };
    let mut views: BTreeMap<_, _> = definitions
        .into_iter()
        .map(|definition| {
            let starts = autostart.contains(&definition.name);
            (definition.uuid, (View::inactive(Arc::new(definition), true, starts), None))
        })
        .collect();
    for (definition, record) in active {
        let definition = Arc::new(definition);
        let (view, phase) = views
            .entry(definition.uuid)
            .or_insert_with(|| (View::inactive(Arc::clone(&definition), false, false), None));
        if view.persistent {
            view.next = Some(std::mem::replace(&mut view.definition, definition));
        }
        *phase = Some(record.phase);
    }
    for (network, port) in ports {
        if let Some((view, _)) = views.get_mut(&network) {
            Arc::make_mut(&mut view.ports).insert(port.uuid, Arc::new(port));
        }
    }
    for (view, phase) in views.into_values() {
        let (starts, transient) = (view.autostart && first, !view.persistent);
        let network = Network::new(view);
        environment.insert(&network);
        let adopted = match phase {
            None => Ok(false),
            Some(phase) => match &looked {
                Some(Ok(seen)) => adopt(environment, &network, (phase, seen), serving, first).await,
                Some(Err(cause)) => Err(cause.clone()),
                None => Ok(false),
            },
        };
        match adopted {
            Ok(true) => continue,
            Ok(false) => {}
            Err(cause) => {
                // It is shown as what it was, with the reason; whoever stops it removes what is left.
                tracing::error!(network = network.name, %cause, "can't be taken over");
                network.change(|view| {
                    view.active = true;
                    view.degraded = Some(cause.message);
                });
                continue;
            }
        }
        network.change(|view| {
            if let Some(next) = view.next.take() {
                view.definition = next;
            }
        });
        if transient {
            environment.forget(&network);
        } else if starts {
            let (network, environment) = (Arc::clone(&network), Arc::clone(environment));
            // In the background: a host whose interfaces take their time must keep nobody waiting.
            tokio::spawn(async move {
                let started = network.turn(&environment, "autostart", |network, environment| async move {
                    network.start(&environment).await
                });
                if let Err(cause) = started.await {
                    tracing::error!(network = network.name, %cause, "autostart");
                    network.change(|view| view.degraded = Some(cause.message));
                }
            });
        }
    }
}

/// Looks at what there is in the kernel, without keeping anybody waiting.
async fn seen() -> Result<Seen, Error> {
    let seen = tokio::task::spawn_blocking(Seen::look).await;
    seen.unwrap_or_else(|cause| Err(error::error(Code::INTERNAL, cause.to_string())))
}

/// Watches over active networks: what somebody else removes is put back.
async fn watch(environment: Arc<Environment>) {
    let mut looks = tokio::time::interval(LOOKED_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let bridged = |network: &Arc<Network>| {
            let view = network.view.get();
            let bridge = kernel::bridge_of(&view.definition).filter(|_| view.active)?.to_owned();
            Some((Arc::clone(network), Arc::clone(&view.definition), bridge))
        };
        let active: Vec<_> = environment.networks().iter().filter_map(bridged).collect();
        if active.is_empty() {
            continue;
        }
        let seen = match seen().await {
            Ok(seen) => seen,
            Err(cause) => {
                tracing::error!(%cause, "networks can't be watched");
                continue;
            }
        };
        for (network, definition, bridge) in active {
            if seen.lack(&definition, &bridge) == Lack::Nothing || network.object.busy().is_some() {
                continue;
            }
            let (ours, theirs) = (Arc::clone(&environment), Arc::clone(&network));
            let posted = network.object.post("mend", move |()| {
                Box::pin(async move {
                    if let Err(cause) = theirs.mend(&ours).await {
                        tracing::error!(network = theirs.name, %cause, "can't be mended");
                        theirs.change(|view| view.degraded = Some(cause.message));
                    }
                })
            });
            drop(posted);
        }
    }
}

async fn adopt(
    environment: &Arc<Environment>,
    network: &Arc<Network>,
    (phase, seen): (Phase, &Seen),
    serving: &BTreeSet<String>,
    first: bool,
) -> Result<bool, Error> {
    network.forget_ports(environment).await?;
    let serves = serving.contains(&network.services_key());
    let active = network.adopt(environment, phase, seen, serves, first).await?;
    network.change(|view| view.active = active);
    Ok(active)
}
