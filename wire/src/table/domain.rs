//! The qemu driver's calls.

use super::{CallInfo, Class, Driver, Permission, calls};
use crate::descriptor::Descriptor;
use crate::types::{
    ControlInfo, CpuMap, DomainInfo, DomainList, DomainOverview, DomainRef, DomainState, DomainStatistics,
    JobInfo, MemoryStatistic, NodeInfo, NodeStatistics, SecurityLabel, SecurityLabels, SecurityModel, Stream,
    Uuid,
};
use std::time::Duration;

calls! {
    driver: Qemu;

    /// Version of the hypervisor: major * 1,000,000 + minor * 1,000 + release.
    1 connect_get_version() -> u64
        { remote: Some(4), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What host and hypervisor can do, as XML.
    2 connect_get_capabilities() -> String
        // The first time every emulator of the host is asked.
        { remote: Some(7), permission: Permission::Read, class: Class::Query, repeatable: true,
          deadline: Duration::from_secs(120) }
    /// What a domain of an emulator, machine and accelerator may ask for, as XML.
    4 connect_get_domain_capabilities(
        emulator: Option<String>, arch: Option<String>, machine: Option<String>, accelerator: Option<String>, flags: u32,
    ) -> String
        { remote: Some(342), class: Class::Query, repeatable: true,
          deadline: Duration::from_secs(30) }
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
        { remote: Some(201), repeatable: true, stream: true }
    /// Takes a picture of a screen.
    41 domain_screenshot(domain: DomainRef, screen: u32, flags: u32) -> Stream
        { remote: Some(211), stream: true, class: Class::Mutate, repeatable: true }
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
    /// What serves: `QEMU`.
    300 connect_get_type() -> String
        { remote: Some(3), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The version of libvirt's API that is served, in the form of the hypervisor's version.
    301 connect_get_lib_version() -> u64
        { remote: Some(157), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Can nobody read along? Over a unix socket nobody can.
    302 connect_is_secure() -> i32
        { remote: Some(149), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Most virtual CPUs of a guest.
    303 connect_get_max_vcpus(kind: Option<String>) -> i32
        { remote: Some(5), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// How many domains run.
    304 connect_num_of_domains() -> i32
        { remote: Some(51), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The numbers of those that run.
    305 connect_list_domains(count_max: i32) -> Vec<i32>
        { remote: Some(37), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// How many domains are defined and do not run.
    306 connect_num_of_defined_domains() -> i32
        { remote: Some(25), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Their names.
    307 connect_list_defined_domains(count_max: i32) -> Vec<String>
        { remote: Some(21), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The host's processors and memory.
    308 node_get_info() -> NodeInfo
        { remote: Some(6), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The host's free memory, in bytes.
    309 node_get_free_memory() -> u64
        { remote: Some(102), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Free memory of each of the host's NUMA nodes, in bytes.
    310 node_get_cells_free_memory(first: i32, count_max: i32) -> Vec<u64>
        { remote: Some(101), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What the host's processors did, in ns.
    311 node_get_cpu_stats(cpu: i32, count: i32, flags: u32) -> NodeStatistics
        { remote: Some(227), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The host's memory, in KiB.
    312 node_get_memory_stats(count: i32, node: i32, flags: u32) -> NodeStatistics
        { remote: Some(228), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Which of the host's processors are there.
    313 node_get_cpu_map(need_map: i32, need_online: i32, flags: u32) -> CpuMap
        { remote: Some(293), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Who labels guests: nobody, as far as libvirt knows models.
    314 node_get_security_model() -> SecurityModel
        { remote: Some(122), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Starts a defined domain, in the form without flags.
    320 domain_create(domain: DomainRef) -> ()
        { remote: Some(9), deadline: Duration::from_secs(900) }
    /// Defines a domain, in the form without flags.
    321 domain_define_xml(xml: String) -> DomainRef
        { remote: Some(11), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Ends the guest, in the form without flags.
    322 domain_destroy(domain: DomainRef) -> ()
        { remote: Some(12) }
    /// Asks the guest to shut down, in the form without flags.
    323 domain_shutdown(domain: DomainRef) -> ()
        { remote: Some(33) }
    /// Removes a definition, in the form without flags.
    324 domain_undefine(domain: DomainRef) -> ()
        { remote: Some(35), deadline: Duration::from_secs(60) }
    /// What the guest sees: `hvm`.
    325 domain_get_os_type(domain: DomainRef) -> String
        { remote: Some(19), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Memory that the guest may have, in KiB.
    326 domain_get_max_memory(domain: DomainRef) -> u64
        { remote: Some(17), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Most virtual CPUs that the guest may have.
    327 domain_get_max_vcpus(domain: DomainRef) -> i32
        { remote: Some(18), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Its virtual CPUs; `flags` are `virDomainVcpuFlags`.
    328 domain_get_vcpus_flags(domain: DomainRef, flags: u32) -> i32
        { remote: Some(200), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Was its definition changed while it runs?
    329 domain_is_updated(domain: DomainRef) -> i32
        { remote: Some(202), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Is it started with the host once?
    330 domain_get_autostart_once(domain: DomainRef) -> i32
        { remote: Some(449), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What is to be said about it.
    331 domain_get_messages(domain: DomainRef, flags: u32) -> Vec<String>
        { remote: Some(426), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Its security label: none.
    332 domain_get_security_label(domain: DomainRef) -> SecurityLabel
        { remote: Some(121), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Its security labels: none.
    333 domain_get_security_label_list(domain: DomainRef) -> SecurityLabels
        { remote: Some(278), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What the way to its hypervisor is doing.
    334 domain_get_control_info(domain: DomainRef, flags: u32) -> ControlInfo
        { remote: Some(229), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Title, description or an element of its metadata.
    335 domain_get_metadata(domain: DomainRef, kind: i32, uri: Option<String>, flags: u32) -> String
        { remote: Some(265), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Numbers about its memory.
    336 domain_memory_stats(domain: DomainRef, count_max: u32, flags: u32) -> Vec<MemoryStatistic>
        { remote: Some(159), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Statistics of many domains; `stats` are `virDomainStatsTypes`, `flags` those of the list of domains and more.
    337 connect_get_all_domain_stats(domains: Vec<DomainRef>, stats: u32, flags: u32) -> Vec<DomainStatistics>
        { remote: Some(344), permission: Permission::Read, class: Class::Query, repeatable: true, body_max_bytes: 8 << 20 }
    /// From now on this channel carries the driver's events.
    50 events_subscribe() -> ()
        { permission: Permission::Read, class: Class::Query, repeatable: true }
    /// All domains at a glance.
    51 domains_overview() -> Vec<DomainOverview>
        { permission: Permission::Read, class: Class::Query, repeatable: true }
}
