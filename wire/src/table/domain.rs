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
    /// From now on this channel carries the driver's events.
    50 events_subscribe() -> ()
        { permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Statistics of many domains, or of all; `stats` are `virDomainStatsTypes`, `flags` `virConnectGetAllDomainStatsFlags`.
    500 connect_get_all_domain_stats(domains: Vec<DomainRef>, stats: u32, flags: u32) -> Vec<DomainStats>
        { remote: Some(344), permission: Permission::Read, class: Class::Query, repeatable: true, body_max_bytes: 8 << 20 }
    /// What the guest says of its memory.
    501 domain_memory_stats(domain: DomainRef, max: u32, flags: u32) -> Vec<MemoryStat>
        { remote: Some(159), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What a disk has done.
    502 domain_block_stats(domain: DomainRef, path: String) -> BlockStats
        { remote: Some(64), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What a disk has done, in named values.
    503 domain_block_stats_flags(domain: DomainRef, path: String, count: i32, flags: u32) -> ParameterList
        { remote: Some(243), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What an interface has done.
    504 domain_interface_stats(domain: DomainRef, device: String) -> InterfaceStats
        { remote: Some(65), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The sizes of a disk.
    505 domain_get_block_info(domain: DomainRef, path: String, flags: u32) -> BlockInfo
        { remote: Some(194), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// CPU time: of the whole guest (`start_cpu` -1), or on each of the host's CPUs.
    506 domain_get_cpu_stats(domain: DomainRef, count: u32, start_cpu: i32, cpus: u32, flags: u32) -> ParameterList
        { remote: Some(262), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Virtual CPUs: what they do, and where they may do it.
    507 domain_get_vcpus(domain: DomainRef, max: i32, map_bytes: i32) -> Vcpus
        { remote: Some(20), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// How many virtual CPUs it may have.
    509 domain_get_max_vcpus(domain: DomainRef) -> i32
        { remote: Some(18), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// How many virtual CPUs it has or may have; `flags` are `virDomainVcpuFlags`.
    510 domain_get_vcpus_flags(domain: DomainRef, flags: u32) -> i32
        { remote: Some(200), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Does its monitor answer?
    511 domain_get_control_info(domain: DomainRef, flags: u32) -> ControlInfo
        { remote: Some(229), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// How far lasting work has come, or how the last came to its end.
    512 domain_get_job_stats(domain: DomainRef, flags: u32) -> JobStats
        { remote: Some(298), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The guest's clock, by its agent.
    513 domain_get_time(domain: DomainRef, flags: u32) -> GuestTime
        { remote: Some(337), class: Class::Query, repeatable: true }
    /// Sets the guest's clock, by its agent.
    514 domain_set_time(domain: DomainRef, seconds: i64, nanoseconds: u32, flags: u32) -> ()
        { remote: Some(338), repeatable: true }
    /// The title, description, or an element of another namespace.
    520 domain_get_metadata(domain: DomainRef, kind: i32, uri: Option<String>, flags: u32) -> String
        { remote: Some(265), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets the title, description, or an element of another namespace; nothing removes it.
    521 domain_set_metadata(domain: DomainRef, kind: i32, metadata: Option<String>, key: Option<String>, uri: Option<String>, flags: u32) -> ()
        { remote: Some(264), repeatable: true }
    /// Gives a domain that does not run another name.
    522 domain_rename(domain: DomainRef, new_name: Option<String>, flags: u32) -> i32
        { remote: Some(358) }
    /// The guest's own name, by its agent.
    525 domain_get_hostname(domain: DomainRef, flags: u32) -> String
        { remote: Some(277), class: Class::Query, repeatable: true }
    /// How the host schedules it.
    526 domain_get_scheduler_type(domain: DomainRef) -> SchedulerType
        { remote: Some(56), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The parameters of that.
    527 domain_get_scheduler_parameters(domain: DomainRef, count: i32) -> Vec<Parameter>
        { remote: Some(57), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The parameters of that, live or persistent.
    528 domain_get_scheduler_parameters_flags(domain: DomainRef, count: i32, flags: u32) -> Vec<Parameter>
        { remote: Some(223), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets parameters of that.
    529 domain_set_scheduler_parameters(domain: DomainRef, parameters: Vec<Parameter>) -> ()
        { remote: Some(58), repeatable: true }
    /// Sets parameters of that, live or persistent.
    530 domain_set_scheduler_parameters_flags(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(219), repeatable: true }
    /// Sets the number of virtual CPUs.
    531 domain_set_vcpus(domain: DomainRef, count: u32) -> ()
        { remote: Some(32), repeatable: true }
    /// Sets the number of virtual CPUs; `flags` are `virDomainVcpuFlags`.
    532 domain_set_vcpus_flags(domain: DomainRef, count: u32, flags: u32) -> ()
        { remote: Some(199), repeatable: true }
    /// Sets the memory of a guest that runs, in KiB.
    533 domain_set_memory(domain: DomainRef, memory: u64) -> ()
        { remote: Some(31), repeatable: true }
    /// Sets the memory, in KiB; `flags` are `virDomainMemoryModFlags`.
    534 domain_set_memory_flags(domain: DomainRef, memory: u64, flags: u32) -> ()
        { remote: Some(204), repeatable: true }
    /// Sets the most memory that it may have, in KiB.
    535 domain_set_max_memory(domain: DomainRef, memory: u64) -> ()
        { remote: Some(30), repeatable: true }
    /// Has the balloon ask the guest for its statistics every so many seconds.
    536 domain_set_memory_stats_period(domain: DomainRef, period: i32, flags: u32) -> ()
        { remote: Some(308), repeatable: true }
    /// Where virtual CPUs may run.
    537 domain_get_vcpu_pin_info(domain: DomainRef, cpus: i32, map_bytes: i32, flags: u32) -> CpuMaps
        { remote: Some(230), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Says where a virtual CPU may run.
    538 domain_pin_vcpu(domain: DomainRef, vcpu: u32, map: ByteString) -> ()
        { remote: Some(26), repeatable: true }
    /// Says where a virtual CPU may run, live or persistent.
    539 domain_pin_vcpu_flags(domain: DomainRef, vcpu: u32, map: ByteString, flags: u32) -> ()
        { remote: Some(225), repeatable: true }
    /// Where QEMU's other threads may run.
    540 domain_get_emulator_pin_info(domain: DomainRef, map_bytes: i32, flags: u32) -> CpuMaps
        { remote: Some(280), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Says where QEMU's other threads may run.
    541 domain_pin_emulator(domain: DomainRef, map: ByteString, flags: u32) -> ()
        { remote: Some(279), repeatable: true }
    /// Limits of memory.
    542 domain_get_memory_parameters(domain: DomainRef, count: i32, flags: u32) -> ParameterList
        { remote: Some(198), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets limits of memory.
    543 domain_set_memory_parameters(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(197), repeatable: true }
    /// Shares and limits of disk throughput on the host.
    544 domain_get_blkio_parameters(domain: DomainRef, count: i32, flags: u32) -> ParameterList
        { remote: Some(206), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets shares of disk throughput on the host.
    545 domain_set_blkio_parameters(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(205), repeatable: true }
    /// From which of the host's NUMA nodes it has its memory.
    546 domain_get_numa_parameters(domain: DomainRef, count: i32, flags: u32) -> ParameterList
        { remote: Some(255), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Says from which of the host's NUMA nodes it has its memory.
    547 domain_set_numa_parameters(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(254), repeatable: true }
    /// Presses keys; `code_set` is a `virKeycodeSet`.
    560 domain_send_key(domain: DomainRef, code_set: u32, hold_ms: u32, codes: Vec<u32>, flags: u32) -> ()
        { remote: Some(226) }
    /// Sends a non-maskable interrupt.
    561 domain_inject_nmi(domain: DomainRef, flags: u32) -> ()
        { remote: Some(210) }
    /// Reads a guest's memory; `flags` are `virDomainMemoryFlags`.
    562 domain_memory_peek(domain: DomainRef, offset: u64, size: u32, flags: u32) -> ByteString
        { remote: Some(104), class: Class::Query, repeatable: true }
    /// Gives a disk another size.
    563 domain_block_resize(domain: DomainRef, disk: String, size: u64, flags: u32) -> ()
        { remote: Some(251), repeatable: true }
    /// Limits of a disk's throughput.
    564 domain_get_block_io_tune(domain: DomainRef, disk: Option<String>, count: i32, flags: u32) -> ParameterList
        { remote: Some(253), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets limits of a disk's throughput.
    565 domain_set_block_io_tune(domain: DomainRef, disk: String, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(252), repeatable: true }
    /// Disks that failed.
    566 domain_get_disk_errors(domain: DomainRef, max: u32, flags: u32) -> DiskErrors
        { remote: Some(263), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The definition in the stored state that the next start goes on from.
    567 domain_managed_save_get_xml_desc(domain: DomainRef, flags: u32) -> String
        { remote: Some(388), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// File systems in the guest, by its agent.
    580 domain_get_fsinfo(domain: DomainRef, flags: u32) -> FileSystems
        { remote: Some(349), class: Class::Query, repeatable: true }
    /// Has the guest hold its file systems still, by its agent.
    581 domain_fsfreeze(domain: DomainRef, mount_points: Vec<String>, flags: u32) -> i32
        { remote: Some(335) }
    /// Lets the guest's file systems go on, by its agent.
    582 domain_fsthaw(domain: DomainRef, mount_points: Vec<String>, flags: u32) -> i32
        { remote: Some(336) }
    /// Has the guest give back free room of its file systems, by its agent.
    583 domain_fstrim(domain: DomainRef, mount_point: Option<String>, minimum: u64, flags: u32) -> ()
        { remote: Some(294) }
    /// Addresses of a guest's interfaces; `source` is a `virDomainInterfaceAddressesSource`.
    584 domain_interface_addresses(domain: DomainRef, source: u32, flags: u32) -> Vec<GuestInterface>
        { remote: Some(353), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets a user's password in the guest, by its agent.
    585 domain_set_user_password(domain: DomainRef, user: Option<String>, password: Option<String>, flags: u32) -> ()
        { remote: Some(357), repeatable: true }
    /// What the guest says of itself, by its agent; `types` are `virDomainGuestInfoTypes`.
    586 domain_get_guest_info(domain: DomainRef, types: u32, flags: u32) -> Vec<Parameter>
        { remote: Some(418), class: Class::Query, repeatable: true }
    /// I/O threads, and where they may run.
    587 domain_get_iothread_info(domain: DomainRef, flags: u32) -> IoThreads
        { remote: Some(351), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Makes an I/O thread.
    588 domain_add_iothread(domain: DomainRef, id: u32, flags: u32) -> ()
        { remote: Some(355) }
    /// Ends an I/O thread.
    589 domain_del_iothread(domain: DomainRef, id: u32, flags: u32) -> ()
        { remote: Some(356) }
    /// Begins to measure how fast the guest writes to its memory.
    590 domain_start_dirty_rate_calc(domain: DomainRef, seconds: i32, flags: u32) -> ()
        { remote: Some(427) }
    /// What measures and secures a confidential guest; nothing of a guest that is none.
    591 domain_get_launch_security_info(domain: DomainRef, flags: u32) -> Vec<Parameter>
        { remote: Some(396), class: Class::Query, repeatable: true }
    /// Which of the host's performance counters count for it.
    592 domain_get_perf_events(domain: DomainRef, flags: u32) -> Vec<Parameter>
        { remote: Some(365), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Free pages of the host by size (in KiB) and NUMA node.
    605 node_get_free_pages(pages: Vec<u32>, start_cell: i32, cells: u32, flags: u32) -> Vec<u64>
        { remote: Some(340), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// CPU models that guests of an architecture may have.
    606 connect_get_cpu_model_names(arch: String, need_results: i32, flags: u32) -> CpuModels
        { remote: Some(312), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Adds a device, in the form without flags.
    620 domain_attach_device(domain: DomainRef, xml: String) -> ()
        { remote: Some(8), deadline: Duration::from_secs(60) }
    /// Takes a device away, in the form without flags.
    621 domain_detach_device(domain: DomainRef, xml: String) -> ()
        { remote: Some(13), deadline: Duration::from_secs(60) }
    /// Adds a device; `flags` are `virDomainDeviceModifyFlags`.
    622 domain_attach_device_flags(domain: DomainRef, xml: String, flags: u32) -> ()
        { remote: Some(160), deadline: Duration::from_secs(60) }
    /// Takes a device away; a guest that runs may take its time over it.
    623 domain_detach_device_flags(domain: DomainRef, xml: String, flags: u32) -> ()
        { remote: Some(161), deadline: Duration::from_secs(60) }
    /// Changes a device: its medium, its link, its password.
    624 domain_update_device_flags(domain: DomainRef, xml: String, flags: u32) -> ()
        { remote: Some(174), deadline: Duration::from_secs(60) }
    /// Takes away the device of an alias.
    625 domain_detach_device_alias(domain: DomainRef, alias: String, flags: u32) -> ()
        { remote: Some(392), deadline: Duration::from_secs(60) }
    /// Opens a channel of a guest; the descriptor is a connection to it. `flags` are `virDomainChannelFlags`.
    640 domain_open_channel(domain: DomainRef, channel: Option<String>, flags: u32) -> Descriptor
        { remote: Some(296), repeatable: true, stream: true }
    /// Lets a client of the guest's display in, over a socket that it brings; `flags` are `virDomainOpenGraphicsFlags`.
    641 domain_open_graphics(domain: DomainRef, display: u32, flags: u32, socket: Descriptor) -> ()
        { remote: Some(249) }
    /// Lets a client of the guest's display in, over a socket that it is given.
    642 domain_open_graphics_fd(domain: DomainRef, display: u32, flags: u32) -> Descriptor
        { remote: Some(343) }
    /// Stores a guest's memory and devices in a file and ends it.
    700 domain_save(domain: DomainRef, file: String) -> ()
        { remote: Some(55), class: Class::Job, deadline: Duration::ZERO }
    /// Stores a guest's memory and devices in a file and ends it; `xml` is the definition that it is to go on with.
    701 domain_save_flags(domain: DomainRef, file: String, xml: Option<String>, flags: u32) -> ()
        { remote: Some(232), class: Class::Job, deadline: Duration::ZERO, body_max_bytes: 8 << 20 }
    /// The same, with everything in named values.
    702 domain_save_params(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(440), class: Class::Job, deadline: Duration::ZERO, body_max_bytes: 8 << 20 }
    /// Has a guest go on from a file.
    703 domain_restore(file: String) -> ()
        { remote: Some(54), class: Class::Job, deadline: Duration::ZERO }
    /// Has a guest go on from a file; `xml` is the definition that it goes on with.
    704 domain_restore_flags(file: String, xml: Option<String>, flags: u32) -> ()
        { remote: Some(233), class: Class::Job, deadline: Duration::ZERO, body_max_bytes: 8 << 20 }
    /// The same, with everything in named values.
    705 domain_restore_params(parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(441), class: Class::Job, deadline: Duration::ZERO, body_max_bytes: 8 << 20 }
    /// The definition in a file that a guest can go on from.
    706 domain_save_image_get_xml_desc(file: String, flags: u32) -> String
        { remote: Some(235), class: Class::Query, repeatable: true }
    /// Changes it.
    707 domain_save_image_define_xml(file: String, xml: String, flags: u32) -> ()
        { remote: Some(236), repeatable: true, deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Changes the definition in the stored state that the next start goes on from.
    708 domain_managed_save_define_xml(domain: DomainRef, xml: Option<String>, flags: u32) -> ()
        { remote: Some(389), repeatable: true, deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Writes a guest's memory into a file; `flags` are `virDomainCoreDumpFlags`.
    709 domain_core_dump(domain: DomainRef, file: String, flags: u32) -> ()
        { remote: Some(53), class: Class::Job, deadline: Duration::ZERO }
    /// Writes a guest's memory into a file; `format` is a `virDomainCoreDumpFormat`.
    710 domain_core_dump_with_format(domain: DomainRef, file: String, format: u32, flags: u32) -> ()
        { remote: Some(334), class: Class::Job, deadline: Duration::ZERO }
    /// Wants the domain's lasting work to end; `flags` are `virDomainAbortJobFlagsValues`.
    711 domain_abort_job_flags(domain: DomainRef, flags: u32) -> ()
        { remote: Some(442), repeatable: true }
    /// Reads from a disk of a domain.
    712 domain_block_peek(domain: DomainRef, path: String, offset: u64, size: u32, flags: u32) -> ByteString
        { remote: Some(103), class: Class::Query, repeatable: true }
    /// Has an event sent when a disk's image has been written up to a place.
    713 domain_set_block_threshold(domain: DomainRef, device: String, threshold: u64, flags: u32) -> ()
        { remote: Some(386), repeatable: true }
    /// Makes a group of disks that share limits of throughput, or gives it other limits.
    714 domain_set_throttle_group(domain: DomainRef, group: String, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(451), repeatable: true }
    /// Removes a group that no disk is in.
    715 domain_del_throttle_group(domain: DomainRef, group: Option<String>, flags: u32) -> ()
        { remote: Some(452) }
    /// Limits of an interface's throughput.
    716 domain_get_interface_parameters(domain: DomainRef, device: String, count: i32, flags: u32) -> ParameterList
        { remote: Some(257), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Sets limits of an interface's throughput.
    717 domain_set_interface_parameters(domain: DomainRef, device: String, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(256), repeatable: true }
    /// Says which of the host's performance counters count for it.
    718 domain_set_perf_events(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(366), repeatable: true }
    /// Says where an I/O thread may run.
    719 domain_pin_iothread(domain: DomainRef, thread: u32, map: ByteString, flags: u32) -> ()
        { remote: Some(352), repeatable: true }
    /// Says how an I/O thread polls.
    720 domain_set_iothread_params(domain: DomainRef, thread: u32, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(402), repeatable: true }
    /// Plugs virtual CPUs, or takes them away.
    721 domain_set_vcpu(domain: DomainRef, map: String, state: i32, flags: u32) -> ()
        { remote: Some(384), repeatable: true }
    /// Virtual CPUs as the guest sees them, by its agent.
    722 domain_get_guest_vcpus(domain: DomainRef, flags: u32) -> Vec<Parameter>
        { remote: Some(371), class: Class::Query, repeatable: true }
    /// Switches virtual CPUs in the guest, by its agent.
    723 domain_set_guest_vcpus(domain: DomainRef, map: String, state: i32, flags: u32) -> ()
        { remote: Some(372), repeatable: true }
    /// How long the guest's agent is waited for.
    724 domain_agent_set_response_timeout(domain: DomainRef, timeout: i32, flags: u32) -> i32
        { remote: Some(420), repeatable: true }
    /// Keys that a user of the guest may log in with, by its agent.
    725 domain_authorized_ssh_keys_get(domain: DomainRef, user: String, flags: u32) -> Vec<String>
        { remote: Some(424), class: Class::Query, repeatable: true }
    /// Sets, adds or removes keys that a user of the guest may log in with, by its agent.
    726 domain_authorized_ssh_keys_set(domain: DomainRef, user: String, keys: Vec<String>, flags: u32) -> ()
        { remote: Some(425), repeatable: true, body_max_bytes: 1 << 20 }
    /// Has the guest go to sleep, by its agent; `target` is a `virNodeSuspendTarget`.
    727 domain_pm_suspend_for_duration(domain: DomainRef, target: u32, seconds: u64, flags: u32) -> ()
        { remote: Some(261) }
    /// Wakes a guest that sleeps.
    728 domain_pm_wakeup(domain: DomainRef, flags: u32) -> ()
        { remote: Some(267) }
    /// What follows when the guest powers off, reboots or crashes.
    729 domain_set_lifecycle_action(domain: DomainRef, kind: u32, action: u32, flags: u32) -> ()
        { remote: Some(390), repeatable: true }
    /// Puts a secret into a confidential guest before it runs.
    730 domain_set_launch_security_state(domain: DomainRef, parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(439), sensitive: true }
    /// Has a display read its certificates again.
    731 domain_graphics_reload(domain: DomainRef, kind: u32, flags: u32) -> ()
        { remote: Some(448), repeatable: true }
    /// Starts it with the host once.
    732 domain_set_autostart_once(domain: DomainRef, autostart: i32) -> ()
        { remote: Some(450), repeatable: true }
    /// Compares a CPU with the host's; the answer is a `virCPUCompareResult`.
    740 connect_compare_cpu(xml: String, flags: u32) -> i32
        { remote: Some(158), permission: Permission::Read, class: Class::Query, repeatable: true,
          deadline: Duration::from_secs(60), body_max_bytes: 1 << 20 }
    /// The best CPU that all of these have.
    741 connect_baseline_cpu(cpus: Vec<String>, flags: u32) -> String
        { remote: Some(162), permission: Permission::Read, class: Class::Query, repeatable: true,
          deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Compares a CPU with what an emulator can give.
    742 connect_compare_hypervisor_cpu(
        emulator: Option<String>, arch: Option<String>, machine: Option<String>, accelerator: Option<String>, xml: String, flags: u32,
    ) -> i32
        { remote: Some(393), class: Class::Query, repeatable: true, deadline: Duration::from_secs(60), body_max_bytes: 1 << 20 }
    /// The best CPU that an emulator can give on hosts with all of these.
    743 connect_baseline_hypervisor_cpu(
        emulator: Option<String>, arch: Option<String>, machine: Option<String>, accelerator: Option<String>, cpus: Vec<String>, flags: u32,
    ) -> String
        { remote: Some(394), class: Class::Query, repeatable: true, deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// What the host's firmware says of the host, as XML.
    744 connect_get_sysinfo(flags: u32) -> String
        { remote: Some(203), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Has the host go to sleep.
    745 node_suspend_for_duration(target: u32, seconds: u64, flags: u32) -> ()
        { remote: Some(250) }
    /// How the host shares equal pages of memory.
    746 node_get_memory_parameters(count: i32, flags: u32) -> ParameterList
        { remote: Some(289), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Says how it does that.
    747 node_set_memory_parameters(parameters: Vec<Parameter>, flags: u32) -> ()
        { remote: Some(288), repeatable: true }
    /// Reserves huge pages of the host, or gives them back.
    748 node_alloc_pages(sizes: Vec<u32>, counts: Vec<u64>, start_cell: i32, cells: u32, flags: u32) -> i32
        { remote: Some(347), repeatable: true }
    /// What the host can do for confidential guests.
    749 node_get_sev_info(count: i32, flags: u32) -> ParameterList
        { remote: Some(395), class: Class::Query, repeatable: true }
    /// A command for QEMU's monitor; `flags` are `virDomainQemuMonitorCommandFlags`.
    593 domain_monitor_command(domain: DomainRef, command: String, flags: u32) -> String
        { qemu: Some(1) }
    /// A command for the guest's agent, which gets so many seconds; -2 waits long, -1 as long as usual, 0 not at all.
    594 domain_agent_command(domain: DomainRef, command: String, timeout: i32, flags: u32) -> Option<String>
        { qemu: Some(3), deadline: Duration::from_secs(60) }
    /// All domains at a glance.
    51 domains_overview() -> Vec<DomainOverview>
        { permission: Permission::Read, class: Class::Query, repeatable: true }
}
