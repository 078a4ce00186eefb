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
    /// The title, description, or an element of another namespace.
    320 domain_get_metadata(domain: DomainRef, kind: i32, uri: Option<String>, flags: u32) -> String
        { remote: Some(265), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets the title, description, or an element of another namespace; nothing removes it.
    321 domain_set_metadata(domain: DomainRef, kind: i32, metadata: Option<String>, key: Option<String>, uri: Option<String>, flags: u32) -> ()
        { remote: Some(264), repeatable: true }
    /// Gives a domain that does not run another name.
    322 domain_rename(domain: DomainRef, new_name: Option<String>, flags: u32) -> i32
        { remote: Some(358) }
    /// The OS type (`hvm`).
    323 domain_get_os_type(domain: DomainRef) -> String
        { remote: Some(19), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Has the definition changed since the guest was started?
    324 domain_is_updated(domain: DomainRef) -> i32
        { remote: Some(202), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The guest's own name, by its agent.
    325 domain_get_hostname(domain: DomainRef, flags: u32) -> String
        { remote: Some(277), class: Class::Query, repeatable: true }
    /// How the host schedules it.
    326 domain_get_scheduler_type(domain: DomainRef) -> SchedulerType
        { remote: Some(56), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The parameters of that.
    327 domain_get_scheduler_parameters(domain: DomainRef, count: i32) -> Vec<Parameter>
        { remote: Some(57), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The parameters of that, live or persistent.
    328 domain_get_scheduler_parameters_flags(domain: DomainRef, count: i32, flags: u32) -> Vec<Parameter>
        { remote: Some(223), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets parameters of that.
    329 domain_set_scheduler_parameters(domain: DomainRef, parameters: Vec<Parameter>) -> ()
        { remote: Some(58), repeatable: true }
    /// Sets parameters of that, live or persistent.
    330 domain_set_scheduler_parameters_flags(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(219), repeatable: true }
    /// Sets the number of virtual CPUs.
    331 domain_set_vcpus(domain: DomainRef, count: u32) -> ()
        { remote: Some(32), repeatable: true }
    /// Sets the number of virtual CPUs; `flags` are `virDomainVcpuFlags`.
    332 domain_set_vcpus_flags(domain: DomainRef, count: u32, flags: u32) -> ()
        { remote: Some(199), repeatable: true }
    /// Sets the memory of a guest that runs, in KiB.
    333 domain_set_memory(domain: DomainRef, memory: u64) -> ()
        { remote: Some(31), repeatable: true }
    /// Sets the memory, in KiB; `flags` are `virDomainMemoryModFlags`.
    334 domain_set_memory_flags(domain: DomainRef, memory: u64, flags: u32) -> ()
        { remote: Some(204), repeatable: true }
    /// Sets the most memory that it may have, in KiB.
    335 domain_set_max_memory(domain: DomainRef, memory: u64) -> ()
        { remote: Some(30), repeatable: true }
    /// Has the balloon ask the guest for its statistics every so many seconds.
    336 domain_set_memory_stats_period(domain: DomainRef, period: i32, flags: u32) -> ()
        { remote: Some(308), repeatable: true }
    /// Where virtual CPUs may run.
    337 domain_get_vcpu_pin_info(domain: DomainRef, cpus: i32, map_bytes: i32, flags: u32) -> CpuMaps
        { remote: Some(230), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Says where a virtual CPU may run.
    338 domain_pin_vcpu(domain: DomainRef, vcpu: u32, map: Bytes) -> ()
        { remote: Some(26), repeatable: true }
    /// Says where a virtual CPU may run, live or persistent.
    339 domain_pin_vcpu_flags(domain: DomainRef, vcpu: u32, map: Bytes, flags: u32) -> ()
        { remote: Some(225), repeatable: true }
    /// Where QEMU's other threads may run.
    340 domain_get_emulator_pin_info(domain: DomainRef, map_bytes: i32, flags: u32) -> CpuMaps
        { remote: Some(280), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Says where QEMU's other threads may run.
    341 domain_pin_emulator(domain: DomainRef, map: Bytes, flags: u32) -> ()
        { remote: Some(279), repeatable: true }
    /// Limits of memory.
    342 domain_get_memory_parameters(domain: DomainRef, count: i32, flags: u32) -> ParameterList
        { remote: Some(198), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets limits of memory.
    343 domain_set_memory_parameters(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(197), repeatable: true }
    /// Shares and limits of disk throughput on the host.
    344 domain_get_blkio_parameters(domain: DomainRef, count: i32, flags: u32) -> ParameterList
        { remote: Some(206), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets shares of disk throughput on the host.
    345 domain_set_blkio_parameters(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(205), repeatable: true }
    /// From which of the host's NUMA nodes it has its memory.
    346 domain_get_numa_parameters(domain: DomainRef, count: i32, flags: u32) -> ParameterList
        { remote: Some(255), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Says from which of the host's NUMA nodes it has its memory.
    347 domain_set_numa_parameters(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(254), repeatable: true }
    /// Presses keys; `code_set` is a `virKeycodeSet`.
    360 domain_send_key(domain: DomainRef, code_set: u32, hold_ms: u32, codes: Vec<u32>, flags: u32) -> ()
        { remote: Some(226) }
    /// Sends a non-maskable interrupt.
    361 domain_inject_nmi(domain: DomainRef, flags: u32) -> ()
        { remote: Some(210) }
    /// Reads a guest's memory; `flags` are `virDomainMemoryFlags`.
    362 domain_memory_peek(domain: DomainRef, offset: u64, size: u32, flags: u32) -> Bytes
        { remote: Some(104), class: Class::Query, repeatable: true }
    /// Gives a disk another size.
    363 domain_block_resize(domain: DomainRef, disk: String, size: u64, flags: u32) -> ()
        { remote: Some(251), repeatable: true }
    /// Limits of a disk's throughput.
    364 domain_get_block_io_tune(domain: DomainRef, disk: Option<String>, count: i32, flags: u32) -> ParameterList
        { remote: Some(253), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets limits of a disk's throughput.
    365 domain_set_block_io_tune(domain: DomainRef, disk: String, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(252), repeatable: true }
    /// Disks that failed.
    366 domain_get_disk_errors(domain: DomainRef, max: u32, flags: u32) -> DiskErrors
        { remote: Some(263), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The definition in the stored state that the next start goes on from.
    367 domain_managed_save_get_xml_desc(domain: DomainRef, flags: u32) -> String
        { remote: Some(388), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// File systems in the guest, by its agent.
    380 domain_get_fsinfo(domain: DomainRef, flags: u32) -> FileSystems
        { remote: Some(349), class: Class::Query, repeatable: true }
    /// Has the guest hold its file systems still, by its agent.
    381 domain_fsfreeze(domain: DomainRef, mount_points: Vec<String>, flags: u32) -> i32
        { remote: Some(335) }
    /// Lets the guest's file systems go on, by its agent.
    382 domain_fsthaw(domain: DomainRef, mount_points: Vec<String>, flags: u32) -> i32
        { remote: Some(336) }
    /// Has the guest give back free room of its file systems, by its agent.
    383 domain_fstrim(domain: DomainRef, mount_point: Option<String>, minimum: u64, flags: u32) -> ()
        { remote: Some(294) }
    /// Addresses of a guest's interfaces; `source` is a `virDomainInterfaceAddressesSource`.
    384 domain_interface_addresses(domain: DomainRef, source: u32, flags: u32) -> Vec<GuestInterface>
        { remote: Some(353), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets a user's password in the guest, by its agent.
    385 domain_set_user_password(domain: DomainRef, user: Option<String>, password: Option<String>, flags: u32) -> ()
        { remote: Some(357), repeatable: true }
    /// What the guest says of itself, by its agent; `types` are `virDomainGuestInfoTypes`.
    386 domain_get_guest_info(domain: DomainRef, types: u32, flags: u32) -> Vec<Parameter>
        { remote: Some(418), class: Class::Query, repeatable: true }
    /// I/O threads, and where they may run.
    387 domain_get_iothread_info(domain: DomainRef, flags: u32) -> IoThreads
        { remote: Some(351), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Makes an I/O thread.
    388 domain_add_iothread(domain: DomainRef, id: u32, flags: u32) -> ()
        { remote: Some(355) }
    /// Ends an I/O thread.
    389 domain_del_iothread(domain: DomainRef, id: u32, flags: u32) -> ()
        { remote: Some(356) }
    /// Begins to measure how fast the guest writes to its memory.
    390 domain_start_dirty_rate_calc(domain: DomainRef, seconds: i32, flags: u32) -> ()
        { remote: Some(427) }
    /// What measures and secures a confidential guest; nothing of a guest that is none.
    391 domain_get_launch_security_info(domain: DomainRef, flags: u32) -> Vec<Parameter>
        { remote: Some(396), class: Class::Query, repeatable: true }
    /// Which of the host's performance counters count for it.
    392 domain_get_perf_events(domain: DomainRef, flags: u32) -> Vec<Parameter>
        { remote: Some(365), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// CPU time of the host, of one of its CPUs or (-1) of all.
    400 node_get_cpu_stats(cpu: i32, count: i32, flags: u32) -> HostStats
        { remote: Some(227), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Memory of the host, of one of its NUMA nodes or (-1) of all.
    401 node_get_memory_stats(count: i32, cell: i32, flags: u32) -> HostStats
        { remote: Some(228), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Free memory of the host, in bytes.
    402 node_get_free_memory() -> u64
        { remote: Some(102), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Free memory of the host's NUMA nodes, in bytes.
    403 node_get_cells_free_memory(start_cell: i32, max_cells: i32) -> Vec<u64>
        { remote: Some(101), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The host's CPUs.
    404 node_get_cpu_map(need_map: i32, need_online: i32, flags: u32) -> HostCpuMap
        { remote: Some(293), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Free pages of the host by size (in KiB) and NUMA node.
    405 node_get_free_pages(pages: Vec<u32>, start_cell: i32, cells: u32, flags: u32) -> Vec<u64>
        { remote: Some(340), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// CPU models that guests of an architecture may have.
    406 connect_get_cpu_model_names(arch: String, need_results: i32, flags: u32) -> CpuModels
        { remote: Some(312), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// A command for QEMU's monitor; `flags` are `virDomainQemuMonitorCommandFlags`.
    393 domain_monitor_command(domain: DomainRef, command: String, flags: u32) -> String
        { qemu: Some(1) }
    /// A command for the guest's agent, which gets so many seconds; -2 waits long, -1 as long as usual, 0 not at all.
    394 domain_agent_command(domain: DomainRef, command: String, timeout: i32, flags: u32) -> Option<String>
        { qemu: Some(3), deadline: Duration::from_secs(60) }
}
