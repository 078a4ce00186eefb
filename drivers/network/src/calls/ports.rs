//! The calls about ports.

use crate::Networks;
use crate::definition::shaping::{Bandwidth, Rate};
use crate::error::{error, no_flags};
use crate::port::Port;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::table::network::{
    network_list_all_ports, network_port_create_xml, network_port_get_parameters, network_port_set_parameters,
};
use bulkhead_wire::types::network::{PortList, PortRef};
use bulkhead_wire::types::{Parameter, ParameterList, ParameterValue};

/// `VIR_NETWORK_PORT_CREATE_RECLAIM` and `VIR_NETWORK_PORT_CREATE_VALIDATE`.
const RECLAIM: u32 = 1;
const VALIDATE: u32 = 2;

/// The parameters of a port, with where they stand in a bandwidth: whether inbound, and which number.
const PARAMETERS: [(&str, bool, usize); 7] = [
    ("inbound.average", true, 0),
    ("inbound.peak", true, 1),
    ("inbound.floor", true, 3),
    ("inbound.burst", true, 2),
    ("outbound.average", false, 0),
    ("outbound.peak", false, 1),
    ("outbound.burst", false, 2),
];

fn numbers(rate: Rate) -> [u64; 4] {
    [rate.average, rate.peak, rate.burst, rate.floor]
}

fn rate([average, peak, burst, floor]: [u64; 4]) -> Option<Rate> {
    let rate = Rate { average, peak, burst, floor };
    (rate != Rate::default()).then_some(rate)
}

impl Networks {
    pub(super) fn list_ports(
        &self,
        arguments: &network_list_all_ports::Arguments,
    ) -> Result<PortList, Error> {
        no_flags(arguments.flags, 0)?;
        let network = self.environment.named(&arguments.network)?;
        let view = network.view.get();
        // Ports of a network that was stopped wait for its next start; nobody else sees them.
        let ports = view.ports.keys().filter(|_| view.active);
        let mut ports: Vec<_> =
            ports.map(|uuid| PortRef { network: network.to_ref(), uuid: *uuid }).collect();
        let count = u32::try_from(ports.len()).unwrap_or(u32::MAX);
        if arguments.need_results == 0 {
            ports.clear();
        }
        Ok(PortList { ports, count })
    }

    pub(super) async fn create_port(
        &self,
        arguments: network_port_create_xml::Arguments,
    ) -> Result<PortRef, Error> {
        let network_port_create_xml::Arguments { network, xml, flags } = arguments;
        no_flags(flags, RECLAIM | VALIDATE)?;
        let network = self.environment.named(&network)?;
        let port = Port::read(&xml, None)?;
        let uuid = port.uuid;
        network
            .turn(&self.environment, "create port", move |network, environment| async move {
                network.add_port(&environment, port, flags & RECLAIM != 0).await
            })
            .await?;
        Ok(PortRef { network: network.to_ref(), uuid })
    }

    pub(super) fn port_parameters(
        &self,
        arguments: &network_port_get_parameters::Arguments,
    ) -> Result<ParameterList, Error> {
        no_flags(arguments.flags, 0)?;
        let port = self.environment.named(&arguments.port.network)?.port(arguments.port.uuid)?;
        let mut parameters = Vec::new();
        for (name, inbound, place) in PARAMETERS {
            let bandwidth = port.bandwidth.unwrap_or_default();
            let given = if inbound { bandwidth.inbound } else { bandwidth.outbound };
            let Some(given) = given else { continue };
            let value = numbers(given).get(place).copied().unwrap_or_default();
            let value = ParameterValue::UnsignedInt(u32::try_from(value).unwrap_or(u32::MAX));
            parameters.push(Parameter { field: name.to_owned(), value });
        }
        Ok(ParameterList::answer(parameters, arguments.count))
    }

    pub(super) async fn set_port_parameters(
        &self,
        arguments: network_port_set_parameters::Arguments,
    ) -> Result<(), Error> {
        let network_port_set_parameters::Arguments { port, parameters, flags } = arguments;
        no_flags(flags, 0)?;
        let network = self.environment.named(&port.network)?;
        let known = network.port(port.uuid)?;
        let before = known.bandwidth.unwrap_or_default();
        let mut sides = [before.inbound, before.outbound].map(|side| numbers(side.unwrap_or_default()));
        let [inbound, outbound] = &mut sides;
        for parameter in parameters {
            let refuse = |why: &str| {
                error(Code::INVALID_ARG, format!("Parameter '{}' of a port: {why}", parameter.field))
            };
            let place = PARAMETERS.iter().find(|(name, ..)| *name == parameter.field);
            let (_, is_inbound, place) = place.ok_or_else(|| refuse("it is not known"))?;
            let ParameterValue::UnsignedInt(value) = parameter.value else {
                return Err(refuse("it is an unsigned number of 32 bits"));
            };
            let side = if *is_inbound { &mut *inbound } else { &mut *outbound };
            if let Some(number) = side.get_mut(*place) {
                *number = value.into();
            }
        }
        let wanted = Bandwidth { inbound: rate(*inbound), outbound: rate(*outbound) };
        let wanted = (wanted != Bandwidth::default()).then_some(wanted);
        network
            .turn(&self.environment, "set port parameters", move |network, environment| async move {
                network.shape_port(&environment, port.uuid, wanted).await
            })
            .await
    }
}
