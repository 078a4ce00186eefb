//! The network driver's calls.

use super::{CallInfo, Class, Driver, Permission, calls};
use crate::types::network::{
    LeaseList, NetworkList, NetworkOverview, NetworkRef, PortList, PortRef, PortTap,
};
use crate::types::{InterfaceStats, Parameter, ParameterList, Tap, Uuid};
use std::time::Duration;

calls! {
    driver: Network;

    /// Opens a tap for a guest: one made in advance (`managed` false: nothing about it is changed), or a new one,
    /// plugged into `bridge` if that is named.
    1 tap_open(name: Option<String>, managed: bool, bridge: Option<String>, mac: String, queues: u16) -> Tap
        { permission: Permission::Driver }
    /// Removes a tap that `tap_open` made. One that is gone already is no error.
    2 tap_close(name: String) -> ()
        { permission: Permission::Driver, repeatable: true }
    /// What has gone through an interface, as the host counts it: received is what came out of the guest.
    3 interface_counters(name: String) -> InterfaceStats
        { permission: Permission::Driver, class: Class::Query, repeatable: true, deadline: Duration::from_secs(2) }

    /// Plugs a guest's interface into a network: makes a port of it from its XML, which says no plug, and a tap.
    4 port_open(network: String, xml: String, name: Option<String>, queues: u16) -> PortTap
        { permission: Permission::Driver, body_max_bytes: 256 << 10 }

    /// Number of networks that are active.
    10 connect_num_of_networks() -> i32
        { remote: Some(52), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Names of active networks, so many at most.
    11 connect_list_networks(max_names: i32) -> Vec<String>
        { remote: Some(38), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Number of networks that are defined and not active.
    12 connect_num_of_defined_networks() -> i32
        { remote: Some(50), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Names of networks that are defined and not active, so many at most.
    13 connect_list_defined_networks(max_names: i32) -> Vec<String>
        { remote: Some(36), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Lists networks; `flags` are `virConnectListAllNetworksFlags`.
    14 connect_list_all_networks(need_results: i32, flags: u32) -> NetworkList
        { remote: Some(283), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds a network by its name.
    15 network_lookup_by_name(name: String) -> NetworkRef
        { remote: Some(46), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds a network by its uuid.
    16 network_lookup_by_uuid(uuid: Uuid) -> NetworkRef
        { remote: Some(47), permission: Permission::Read, class: Class::Query, repeatable: true }

    /// Defines a network, or gives one a new definition.
    20 network_define_xml(xml: String) -> NetworkRef
        { remote: Some(41), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// The same. `flags`: 1 refuses what the schema does not know.
    21 network_define_xml_flags(xml: String, flags: u32) -> NetworkRef
        { remote: Some(432), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Starts a network that is gone when it stops.
    22 network_create_xml(xml: String) -> NetworkRef
        { remote: Some(40), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// The same. `flags`: 1 refuses what the schema does not know.
    23 network_create_xml_flags(xml: String, flags: u32) -> NetworkRef
        { remote: Some(437), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Starts a defined network.
    24 network_create(network: NetworkRef) -> ()
        { remote: Some(39), deadline: Duration::from_secs(60) }
    /// Stops a network.
    25 network_destroy(network: NetworkRef) -> ()
        { remote: Some(42), deadline: Duration::from_secs(60) }
    /// Removes the definition of a network; one that is active is gone when it stops.
    26 network_undefine(network: NetworkRef) -> ()
        { remote: Some(49), deadline: Duration::from_secs(60) }
    /// The definition; `flags`: 1 asks for what the next start uses.
    27 network_get_xml_desc(network: NetworkRef, flags: u32) -> String
        { remote: Some(43), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The name of its bridge.
    28 network_get_bridge_name(network: NetworkRef) -> String
        { remote: Some(45), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Is it started with the stack?
    29 network_get_autostart(network: NetworkRef) -> i32
        { remote: Some(44), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Starts it with the stack, or no longer.
    30 network_set_autostart(network: NetworkRef, autostart: i32) -> ()
        { remote: Some(48), repeatable: true }
    /// Is it active?
    31 network_is_active(network: NetworkRef) -> i32
        { remote: Some(152), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Does its definition outlive it?
    32 network_is_persistent(network: NetworkRef) -> i32
        { remote: Some(153), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Changes a part of a network: `virNetworkUpdateCommand`, `virNetworkUpdateSection`, `virNetworkUpdateFlags`.
    33 network_update(network: NetworkRef, command: u32, section: u32, parent: i32, xml: String, flags: u32) -> ()
        { remote: Some(291), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Who has which address, of one or all.
    34 network_get_dhcp_leases(network: NetworkRef, mac: Option<String>, need_results: i32, flags: u32) -> LeaseList
        { remote: Some(341), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets what people and programs keep with a network; `kind` is `virNetworkMetadataType`.
    35 network_set_metadata(
        network: NetworkRef, kind: i32, metadata: Option<String>, key: Option<String>, uri: Option<String>, flags: u32,
    ) -> ()
        { remote: Some(444), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// What people and programs keep with a network.
    36 network_get_metadata(network: NetworkRef, kind: i32, uri: Option<String>, flags: u32) -> String
        { remote: Some(445), permission: Permission::Read, class: Class::Query, repeatable: true }

    /// Lists the ports of a network.
    40 network_list_all_ports(network: NetworkRef, need_results: i32, flags: u32) -> PortList
        { remote: Some(404), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds a port by its uuid.
    41 network_port_lookup_by_uuid(network: NetworkRef, uuid: Uuid) -> PortRef
        { remote: Some(405), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Makes a port; `flags` are `virNetworkPortCreateFlags`.
    42 network_port_create_xml(network: NetworkRef, xml: String, flags: u32) -> PortRef
        { remote: Some(406), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// A port's bandwidth.
    43 network_port_get_parameters(port: PortRef, count: i32, flags: u32) -> ParameterList
        { remote: Some(407), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Changes a port's bandwidth.
    44 network_port_set_parameters(port: PortRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(408), repeatable: true }
    /// A port as XML.
    45 network_port_get_xml_desc(port: PortRef, flags: u32) -> String
        { remote: Some(409), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Removes a port.
    46 network_port_delete(port: PortRef, flags: u32) -> ()
        { remote: Some(410) }

    /// From now on this channel carries the driver's events.
    90 events_subscribe() -> ()
        { permission: Permission::Read, class: Class::Query, repeatable: true }
    /// All networks at a glance, for those who keep a picture of them.
    91 networks_overview() -> Vec<NetworkOverview>
        { permission: Permission::Read, class: Class::Query, repeatable: true }
}
