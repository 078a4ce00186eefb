//! The turns of a network's life: start, stop, recovery, changes while it is active.
//!
//! What is to be in the kernel is on disk before; so whoever comes after a death knows what may be there, and completes or
//! removes it.

use super::{Network, STARTED, STOPPED, View};
use crate::definition::forward::Mode;
use crate::definition::{Command, Definition, Section};
use crate::environment::{Environment, Phase};
use crate::error::{error, invalid};
use crate::kernel::{self, Lack, Seen, bridge_of};
use bulkhead_actors::fault;
use bulkhead_wire::error::{Code, Error};
use std::sync::Arc;

/// Asks the kernel, which may keep us waiting behind other changes of interfaces; heartbeats must go on.
async fn asked<R: Send + 'static>(
    definition: &Arc<Definition>,
    bridge: &str,
    work: impl FnOnce(&Definition, &str) -> Result<R, Error> + Send + 'static,
) -> Result<R, Error> {
    let (definition, bridge) = (Arc::clone(definition), bridge.to_owned());
    let done = tokio::task::spawn_blocking(move || work(&definition, &bridge)).await;
    done.unwrap_or_else(|cause| Err(error(Code::INTERNAL, format!("Asking the kernel ended: {cause}"))))
}

/// Several errors in one, that of the first.
fn together(errors: Vec<Error>) -> Result<(), Error> {
    let mut errors = errors.into_iter();
    let Some(mut first) = errors.next() else { return Ok(()) };
    for other in errors {
        first.message.push_str("; ");
        first.message.push_str(&other.message);
    }
    Err(first)
}

impl Network {
    /// Starts it.
    pub(crate) async fn start(self: &Arc<Self>, environment: &Arc<Environment>) -> Result<(), Error> {
        let view = self.view.get();
        if view.active {
            return Err(invalid(format!("Network '{}' is active already", self.name)));
        }
        let definition = &view.definition;
        if let Some(bridge) = bridge_of(definition) {
            let services = self.services(environment)?;
            asked(definition, bridge, kernel::check).await?;
            environment.write_record(&self.name, &view.record(Phase::Starting)).await?;
            fault::point("network_start", "after_record");
            let started = async {
                self.set_up(environment, definition, bridge).await?;
                match &services {
                    Some(services) => self.serve(environment, services).await,
                    None => Ok(()),
                }
            };
            if let Err(cause) = started.await {
                for other in self.take_down(environment, definition).await {
                    tracing::error!(network = self.name, %other, "after a failed start");
                }
                environment.remove_record(&self.name).await?;
                return Err(cause);
            }
            fault::point("network_start", "before_running");
        }
        environment.write_record(&self.name, &view.record(Phase::Running)).await?;
        self.change(|view| {
            view.active = true;
            view.next = view.persistent.then(|| Arc::clone(&view.definition));
            view.degraded = None;
        });
        self.plug_again().await;
        self.tell(environment, STARTED);
        Ok(())
    }

    /// Makes what it has in the kernel.
    async fn set_up(
        &self,
        environment: &Environment,
        definition: &Arc<Definition>,
        bridge: &str,
    ) -> Result<(), Error> {
        asked(definition, bridge, kernel::make_bridge).await?;
        fault::point("network_start", "after_bridge");
        self.furnish(environment, definition, bridge).await
    }

    /// Completes what it has in the kernel.
    async fn furnish(
        &self,
        environment: &Environment,
        definition: &Arc<Definition>,
        bridge: &str,
    ) -> Result<(), Error> {
        let has = |ipv4: bool| definition.ips.iter().any(|ip| ip.address.is_ipv4() == ipv4);
        let named =
            |cause: Error| Error { message: format!("Network '{}': {}", self.name, cause.message), ..cause };
        environment.stack.bridge_ipv6(bridge, has(false) || definition.ipv6).await.map_err(named)?;
        asked(definition, bridge, kernel::furnish).await?;
        if definition.forward.mode != Mode::None {
            for ipv6 in [false, true] {
                if has(!ipv6) {
                    environment.stack.forward_packets(ipv6).await.map_err(named)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what it has, whatever of it is there; goes on after an error.
    async fn take_down(&self, environment: &Environment, definition: &Arc<Definition>) -> Vec<Error> {
        let mut errors: Vec<Error> = self.end_services(environment).await.err().into_iter().collect();
        fault::point("network_stop", "after_services");
        if let Some(bridge) = bridge_of(definition) {
            let removed =
                asked(definition, bridge, |definition, bridge| Ok(kernel::remove(definition, bridge)));
            errors.extend(removed.await.unwrap_or_else(|cause| vec![cause]));
        }
        errors
    }

    /// Stops it. One that does not outlive that is gone then: true.
    pub(crate) async fn stop(self: &Arc<Self>, environment: &Arc<Environment>) -> Result<bool, Error> {
        let view = self.view.get();
        if !view.active {
            return Err(invalid(format!("Network '{}' is not active", self.name)));
        }
        environment.write_record(&self.name, &view.record(Phase::Stopping)).await?;
        fault::point("network_stop", "after_record");
        let errors = self.take_down(environment, &view.definition).await;
        environment.remove_record(&self.name).await?;
        fault::point("network_stop", "before_told");
        // Ports of guests that run are plugged in again when it starts; those that nobody holds end.
        for port in view.ports.values().filter(|port| !view.persistent || port.tap.is_none()) {
            environment.remove_port(self, port.uuid).await?;
        }
        self.change(|view| {
            let persistent = view.persistent;
            let mut ports = std::mem::take(Arc::make_mut(&mut view.ports));
            ports.retain(|_, port| persistent && port.tap.is_some());
            let definition = view.next.take().unwrap_or_else(|| Arc::clone(&view.definition));
            *view = View { ports: Arc::new(ports), ..View::inactive(definition, persistent, view.autostart) };
        });
        self.tell(environment, STOPPED);
        together(errors)?;
        Ok(!view.persistent)
    }

    /// Takes over what an earlier process left: completes it, or removes what was not finished. `serves` tells whether what
    /// serves its guests still runs. False if it is not active.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        environment: &Arc<Environment>,
        phase: Phase,
        seen: &Seen,
        serves: bool,
        first: bool,
    ) -> Result<bool, Error> {
        let view = self.view.get();
        let definition = &view.definition;
        let Some(bridge) = bridge_of(definition) else {
            return Ok(phase == Phase::Running);
        };
        let lack = match phase {
            Phase::Running => seen.lack(definition, bridge),
            Phase::Starting | Phase::Stopping => Lack::Bridge,
        };
        // With a stack that is opened anew a bridge that is not there went with the machine.
        if phase != Phase::Running || first && lack == Lack::Bridge {
            together(self.take_down(environment, definition).await)?;
            environment.remove_record(&self.name).await?;
            return Ok(false);
        }
        match lack {
            Lack::Nothing => {}
            Lack::Furniture => self.furnish(environment, definition, bridge).await?,
            Lack::Bridge => self.set_up(environment, definition, bridge).await?,
        }
        if lack == Lack::Bridge {
            self.plug_again().await;
        }
        if !serves && let Some(services) = self.services(environment)? {
            self.serve(environment, &services).await?;
        }
        Ok(true)
    }

    /// Puts back what somebody else has removed, if it is still missing when its turn comes.
    pub(crate) async fn mend(self: &Arc<Self>, environment: &Arc<Environment>) -> Result<(), Error> {
        let view = self.view.get();
        let Some(bridge) = bridge_of(&view.definition).filter(|_| view.active) else { return Ok(()) };
        let seen = asked(&view.definition, bridge, |_, _| Seen::look()).await?;
        let lack = seen.lack(&view.definition, bridge);
        if lack == Lack::Nothing {
            return Ok(());
        }
        tracing::warn!(network = self.name, ?lack, "somebody else has removed a part of it; it is put back");
        // What served at a bridge that is gone follows to the next one by itself.
        self.adopt(environment, Phase::Running, &seen, true, false).await.map(drop)
    }

    /// Changes a part of it: now, from its next start on, or both.
    pub(crate) async fn update(
        self: &Arc<Self>,
        environment: &Arc<Environment>,
        change: Change,
    ) -> Result<(), Error> {
        let Change { command, section, parent, xml, live, config } = change;
        let view = self.view.get();
        if live && !view.active {
            return Err(invalid(format!("Network '{}' is not active; change its configuration", self.name)));
        }
        if config && !view.persistent {
            return Err(invalid(format!("Network '{}' is transient: it has no configuration", self.name)));
        }
        let updated = |definition: &Definition| {
            let updated = definition.updated(command, section, parent, &xml)?;
            updated.agrees()?;
            Ok::<_, Error>(Arc::new(updated))
        };
        let (mut now, mut next) = (None, None);
        if live {
            now = Some(updated(&view.definition)?);
        }
        if config {
            next = Some(updated(view.configured())?);
        }
        if let (Section::ForwardInterface, Command::Delete, Some(now)) = (section, command, &now) {
            let used = view
                .ports
                .values()
                .any(|port| port.device(&view.definition).is_some() && port.device(now).is_none());
            if used {
                let message =
                    format!("Network '{}': ports use this interface; it can't be removed now", self.name);
                return Err(invalid(message));
            }
        }
        if let Some(next) = &next {
            environment.write_definition(&self.name, next.to_xml()).await?;
        }
        if let Some(now) = &now {
            let record = View { definition: Arc::clone(now), ..View::clone(&view) }.record(Phase::Running);
            environment.write_record(&self.name, &record).await?;
        }
        self.change(|view| {
            if let Some(now) = now.clone() {
                view.definition = now;
            }
            match (next, view.active) {
                (Some(next), true) => view.next = Some(next),
                (Some(next), false) => view.definition = next,
                (None, _) => {}
            }
        });
        let Some(now) = now else { return Ok(()) };
        let Some(bridge) = bridge_of(&now) else { return Ok(()) };
        if section == Section::ForwardInterface {
            asked(&now, bridge, kernel::set_rules).await?;
        }
        let grows = matches!(command, Command::AddFirst | Command::AddLast);
        self.serve_changed(environment, &view.definition, section, grows).await
    }
}

/// A change of a part of a network.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) command: Command,
    pub(crate) section: Section,
    pub(crate) parent: i32,
    pub(crate) xml: String,
    pub(crate) live: bool,
    pub(crate) config: bool,
}
