//! The qemu driver's calls.

use super::{CallInfo, Class, Driver, Permission, calls};
use crate::descriptor::Descriptor;
use crate::types::*;
use std::time::Duration;

calls! {
    driver: Qemu;

    /// Version of the hypervisor: major * 1,000,000 + minor * 1,000 + release.
    1 connect_get_version() -> u64
        { remote: Some(4), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What host and hypervisor can do, as XML.
    2 connect_get_capabilities() -> String
        { remote: Some(7), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The host's name.
    3 connect_get_hostname() -> String
        { remote: Some(59), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Defines a domain, or gives one a new definition.
    10 domain_define_xml_flags(xml: String, flags: u32) -> DomainRef
        { remote: Some(350), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Removes a definition.
    11 domain_undefine_flags(domain: DomainRef, flags: u32) -> ()
        { remote: Some(231), deadline: Duration::from_secs(60) }
    /// Starts a defined domain.
    12 domain_create_with_flags(domain: DomainRef, flags: u32) -> DomainRef
        // Long, since a guest may go on from a large stored state; each step of it has a bound of its own.
        { remote: Some(196), deadline: Duration::from_secs(900) }
    /// Starts a domain that is gone when it stops.
    13 domain_create_xml(xml: String, flags: u32) -> DomainRef
        { remote: Some(10), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Finds a domain by its name.
    20 domain_lookup_by_name(name: String) -> DomainRef
        { remote: Some(23), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds a domain by its uuid.
    21 domain_lookup_by_uuid(uuid: Uuid) -> DomainRef
        { remote: Some(24), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds a running domain by its number.
    22 domain_lookup_by_id(id: i32) -> DomainRef
        { remote: Some(22), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Lists domains; `flags` are `virConnectListAllDomainsFlags`.
    23 connect_list_all_domains(need_results: i32, flags: u32) -> DomainList
        { remote: Some(273), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// State and reason.
    24 domain_get_state(domain: DomainRef, flags: u32) -> DomainState
        { remote: Some(212), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// State, memory, CPUs and CPU time.
    25 domain_get_info(domain: DomainRef) -> DomainInfo
        { remote: Some(16), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The definition; `flags` are `virDomainXMLFlags`.
    26 domain_get_xml_desc(domain: DomainRef, flags: u32) -> String
        { remote: Some(14), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Does it run?
    27 domain_is_active(domain: DomainRef) -> i32
        { remote: Some(150), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Does its definition outlive it?
    28 domain_is_persistent(domain: DomainRef) -> i32
        { remote: Some(151), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Is it started with the stack?
    29 domain_get_autostart(domain: DomainRef) -> i32
        { remote: Some(15), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Starts it with the stack, or no longer.
    30 domain_set_autostart(domain: DomainRef, autostart: i32) -> ()
        { remote: Some(29), repeatable: true }
    /// Stops its CPUs.
    31 domain_suspend(domain: DomainRef) -> ()
        { remote: Some(34), repeatable: true }
    /// Lets its CPUs run.
    32 domain_resume(domain: DomainRef) -> ()
        { remote: Some(28), repeatable: true }
    /// Asks the guest to shut down; `flags` are `virDomainShutdownFlagValues`.
    33 domain_shutdown_flags(domain: DomainRef, flags: u32) -> ()
        { remote: Some(258) }
    /// Asks the guest to shut down and start again; `flags` are `virDomainRebootFlagValues`.
    34 domain_reboot(domain: DomainRef, flags: u32) -> ()
        { remote: Some(27) }
    /// Resets the guest's hardware.
    35 domain_reset(domain: DomainRef, flags: u32) -> ()
        { remote: Some(245) }
    /// Ends the guest; `flags` are `virDomainDestroyFlagsValues`. Needs no cooperation of anybody.
    36 domain_destroy_flags(domain: DomainRef, flags: u32) -> ()
        { remote: Some(234) }
    /// Opens a console or serial port; the descriptor is the terminal itself.
    40 domain_open_console(domain: DomainRef, device: Option<String>, flags: u32) -> Descriptor
        { remote: Some(201), repeatable: true }
    /// Takes a picture of a screen.
    41 domain_screenshot(domain: DomainRef, screen: u32, flags: u32) -> Stream
        { remote: Some(211), class: Class::Mutate, repeatable: true }
    /// The command line that a definition would become.
    42 connect_domain_xml_to_native(format: String, xml: String, flags: u32) -> String
        { remote: Some(136), class: Class::Query, repeatable: true, body_max_bytes: 8 << 20 }
    /// Stores a guest's memory and devices beside its definition and ends it; its next start goes on from there.
    /// `flags` are `virDomainSaveRestoreFlags`.
    200 domain_managed_save(domain: DomainRef, flags: u32) -> ()
        { remote: Some(182), class: Class::Job, deadline: Duration::ZERO }
    /// Is a state stored that the next start goes on from?
    201 domain_has_managed_save_image(domain: DomainRef, flags: u32) -> i32
        { remote: Some(183), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Removes the stored state: the next start boots.
    202 domain_managed_save_remove(domain: DomainRef, flags: u32) -> ()
        { remote: Some(184), repeatable: true }
    /// How far the domain's lasting work has come.
    203 domain_get_job_info(domain: DomainRef) -> JobInfo
        { remote: Some(163), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Wants the domain's lasting work to end; whoever waits for it is told what became of it.
    204 domain_abort_job(domain: DomainRef) -> ()
        { remote: Some(164), repeatable: true }
    /// From now on this channel carries the driver's events.
    50 events_subscribe() -> ()
        { permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Statistics of many domains, or of all; `stats` are `virDomainStatsTypes`, `flags` `virConnectGetAllDomainStatsFlags`.
    300 connect_get_all_domain_stats(domains: Vec<DomainRef>, stats: u32, flags: u32) -> Vec<DomainStats>
        { remote: Some(344), permission: Permission::Read, class: Class::Query, repeatable: true, body_max_bytes: 8 << 20 }
    /// What the guest says of its memory.
    301 domain_memory_stats(domain: DomainRef, max: u32, flags: u32) -> Vec<MemoryStat>
        { remote: Some(159), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What a disk has done.
    302 domain_block_stats(domain: DomainRef, path: String) -> BlockStats
        { remote: Some(64), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What a disk has done, in named values.
    303 domain_block_stats_flags(domain: DomainRef, path: String, count: i32, flags: u32) -> ParameterList
        { remote: Some(243), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What an interface has done.
    304 domain_interface_stats(domain: DomainRef, device: String) -> InterfaceStats
        { remote: Some(65), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The sizes of a disk.
    305 domain_get_block_info(domain: DomainRef, path: String, flags: u32) -> BlockInfo
        { remote: Some(194), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// CPU time: of the whole guest (`start_cpu` -1), or on each of the host's CPUs.
    306 domain_get_cpu_stats(domain: DomainRef, count: u32, start_cpu: i32, cpus: u32, flags: u32) -> ParameterList
        { remote: Some(262), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Virtual CPUs: what they do, and where they may do it.
    307 domain_get_vcpus(domain: DomainRef, max: i32, map_bytes: i32) -> Vcpus
        { remote: Some(20), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// How much memory it may have, in KiB.
    308 domain_get_max_memory(domain: DomainRef) -> u64
        { remote: Some(17), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// How many virtual CPUs it may have.
    309 domain_get_max_vcpus(domain: DomainRef) -> i32
        { remote: Some(18), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// How many virtual CPUs it has or may have; `flags` are `virDomainVcpuFlags`.
    310 domain_get_vcpus_flags(domain: DomainRef, flags: u32) -> i32
        { remote: Some(200), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Does its monitor answer?
    311 domain_get_control_info(domain: DomainRef, flags: u32) -> ControlInfo
        { remote: Some(229), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// How far lasting work has come, or how the last came to its end.
    312 domain_get_job_stats(domain: DomainRef, flags: u32) -> JobStats
        { remote: Some(298), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The guest's clock, by its agent.
    313 domain_get_time(domain: DomainRef, flags: u32) -> GuestTime
        { remote: Some(337), class: Class::Query, repeatable: true }
    /// Sets the guest's clock, by its agent.
    314 domain_set_time(domain: DomainRef, seconds: i64, nanoseconds: u32, flags: u32) -> ()
        { remote: Some(338), repeatable: true }
}
