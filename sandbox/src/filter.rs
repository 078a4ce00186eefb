//! The seccomp filters: a driver gets the calls that are listed, a helper all but those that are listed.
//!
//! What is refused answers EPERM: a library that probes for something new must not die of it, and a panic gets through
//! to the log. What must not happen does not happen either way.

use crate::profile::{Extra, SystemCalls};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls without which no driver runs, and which reach nothing that Landlock, the view and the descriptors in hand do
/// not grant already.
#[rustfmt::skip]
const DRIVER: &[c_long] = &[
    // Descriptors in hand.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_close, libc::SYS_lseek, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fstat,
    libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_ftruncate, libc::SYS_pipe2, libc::SYS_splice, libc::SYS_memfd_create,
    // Files, within Landlock.
    libc::SYS_openat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_getdents64, libc::SYS_mkdirat,
    libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_readlinkat,
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_getcwd, libc::SYS_statfs, libc::SYS_fstatfs,
    // Channels.
    libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_shutdown,
    libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_getsockname, libc::SYS_getpeername,
    // The runtime.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2,
    libc::SYS_ppoll, libc::SYS_futex, libc::SYS_sched_yield, libc::SYS_clock_gettime, libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_gettimeofday, libc::SYS_getrandom,
    libc::SYS_restart_syscall, libc::SYS_membarrier, libc::SYS_sched_getaffinity, libc::SYS_getcpu,
    // Memory and threads.
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_brk, libc::SYS_madvise, libc::SYS_set_robust_list,
    libc::SYS_rseq, libc::SYS_set_tid_address, libc::SYS_sigaltstack, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_clone3,
    // Who am I.
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_umask,
];

/// The older names of some of the above, which exist on x86 only.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const DRIVER_LEGACY: &[c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_mkdir, libc::SYS_rmdir,
    libc::SYS_unlink, libc::SYS_rename, libc::SYS_link, libc::SYS_symlink, libc::SYS_readlink, libc::SYS_poll,
    libc::SYS_epoll_wait, libc::SYS_dup2, libc::SYS_getrlimit, libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const DRIVER_LEGACY: &[c_long] = &[];

/// What no helper needs: other processes, other namespaces, the attributes of files, the kernel itself.
#[rustfmt::skip]
const HELPER_NEVER: &[c_long] = &[
    // Other processes.
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_process_madvise,
    libc::SYS_process_mrelease, libc::SYS_pidfd_getfd, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_kcmp,
    libc::SYS_tkill, libc::SYS_migrate_pages, libc::SYS_move_pages, libc::SYS_setpriority, libc::SYS_ioprio_set,
    libc::SYS_sched_setaffinity, libc::SYS_sched_setattr, libc::SYS_sched_setparam, libc::SYS_sched_setscheduler,
    // Other namespaces, other roots.
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_move_mount, libc::SYS_open_tree,
    libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick, libc::SYS_mount_setattr, libc::SYS_unshare,
    libc::SYS_setns, libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at,
    // Attributes of files: neither Landlock nor a descriptor that is open for reading keeps an owner from them.
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchmodat2, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_mknodat,
    libc::SYS_utimensat, libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_removexattr,
    libc::SYS_lremovexattr, libc::SYS_fremovexattr, SYS_SETXATTRAT, SYS_REMOVEXATTRAT, SYS_FILE_SETATTR,
    // The kernel.
    libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key,
    libc::SYS_userfaultfd, libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_kexec_load,
    libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_settimeofday, libc::SYS_clock_settime,
    libc::SYS_adjtimex, libc::SYS_clock_adjtime, libc::SYS_sethostname, libc::SYS_setdomainname, libc::SYS_acct,
    libc::SYS_quotactl, libc::SYS_quotactl_fd, libc::SYS_syslog, libc::SYS_fanotify_init, libc::SYS_personality,
    libc::SYS_vhangup, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register,
    // Other identities.
    libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid,
    libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_setgroups, libc::SYS_capset,
];

/// Calls that are too new for the C library's table; from here on all machines have the same numbers.
const SYS_SETXATTRAT: c_long = 463;
const SYS_REMOVEXATTRAT: c_long = 466;
const SYS_FILE_SETATTR: c_long = 469;

/// The older names of some of the above, and what reaches hardware, which exist on x86 only.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const HELPER_NEVER_LEGACY: &[c_long] = &[
    libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_mknod, libc::SYS_utime, libc::SYS_utimes,
    libc::SYS_futimesat, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_kexec_file_load,
];
#[cfg(not(target_arch = "x86_64"))]
const HELPER_NEVER_LEGACY: &[c_long] = &[];

/// Changes of a file's mode. The process's umask makes every file its user's alone, so there is nothing to change.
#[cfg(target_arch = "x86_64")]
const MODES: &[c_long] = &[libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchmodat2, libc::SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const MODES: &[c_long] = &[libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchmodat2];

/// Becoming somebody else. The profile has said already who the process is and what it may do.
const IDENTITIES: &[c_long] = &[libc::SYS_setgid, libc::SYS_setgroups];

/// `FS_IOC_SETFLAGS`, `FS_IOC_FSSETXATTR`: attributes again. `TIOCSTI`, `TIOCLINUX`, `TIOCSCTTY`: typing into a terminal that
/// somebody else reads from. `FIOSETOWN`, `SIOCSPGRP`: signals to others.
const HELPER_NEVER_IOCTLS: &[u64] = &[0x4008_6602, 0x401c_5820, 0x5412, 0x541c, 0x540e, 0x8901, 0x8902];

/// `F_SETOWN`, `F_SETSIG`, `F_SETOWN_EX`: have the kernel send signals to others.
const SIGNALLING_FCNTLS: &[u64] = &[8, 10, 15];

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Option<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value).ok()
}

/// Of an argument that the kernel reads as 32 bits: what stands above them is nobody's business.
fn condition32(argument: u8, operator: SeccompCmpOp, value: u64) -> Option<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).ok()
}

fn when(conditions: impl IntoIterator<Item = Option<SeccompCondition>>) -> Vec<SeccompRule> {
    let conditions: Option<Vec<_>> = conditions.into_iter().collect();
    conditions.and_then(|conditions| SeccompRule::new(conditions).ok()).into_iter().collect()
}

fn equals(argument: u8, values: &[u64]) -> Vec<SeccompRule> {
    values.iter().flat_map(|value| when([condition(argument, SeccompCmpOp::Eq, *value)])).collect()
}

fn equals32(argument: u8, values: &[u64]) -> Vec<SeccompRule> {
    values.iter().flat_map(|value| when([condition32(argument, SeccompCmpOp::Eq, *value)])).collect()
}

/// The bits of a socket's type that are no flags.
const SOCKET_TYPE: u64 = 0xf;
const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
/// `PROT_EXEC`.
const EXECUTABLE: u64 = 4;
/// `CLONE_THREAD`: a clone with it is a thread, without it a process.
const THREAD: u64 = 0x1_0000;
/// `CLONE_NEWNS`, `CLONE_NEWCGROUP`, `CLONE_NEWUTS`, `CLONE_NEWIPC`, `CLONE_NEWUSER`, `CLONE_NEWPID`, `CLONE_NEWNET`.
const NAMESPACES: &[u64] =
    &[0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;

/// `FIONBIO`, `FIONREAD`, `FIOCLEX`, `TCGETS`: what the runtime and the standard library ask of descriptors.
const DRIVER_IOCTLS: &[u64] = &[0x5421, 0x541b, 0x5451, 0x5401];
/// `TUNSETIFF`: attaches to a tap. Everything else about interfaces goes through netlink.
const TAP_IOCTLS: &[u64] = &[0x4004_54ca];
/// `NETLINK_ROUTE`, whose number as an address family's protocol is zero, and `NETLINK_NETFILTER`.
const NETLINK_ROUTE: u64 = 0;
const NETLINK_NETFILTER: u64 = 12;

/// Makes the programs for a profile, in the order in which they are to be installed.
pub(crate) fn programs(calls: &SystemCalls) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    match calls {
        SystemCalls::Driver(extras) => Ok(vec![
            // A C library falls back to clone, whose flags a filter can see, only if clone3 does not exist.
            program(
                Rules::from([(libc::SYS_clone3, Vec::new())]),
                SeccompAction::Allow,
                errno(libc::ENOSYS),
            )?,
            program(driver_rules(extras), errno(libc::EPERM), SeccompAction::Allow)?,
        ]),
        SystemCalls::Helper { sockets, programs, modes, owners, identities } => {
            let mut refused = helper_rules(sockets.is_some(), programs.is_some());
            if owners.is_some() {
                // By descriptors alone: what can't be opened can't be changed.
                refused.remove(&libc::SYS_fchown);
                refused.remove(&libc::SYS_fchmod);
            }
            let mut filters = Vec::new();
            if modes.is_some() {
                let done: Rules = MODES.iter().filter_map(|call| refused.remove_entry(call)).collect();
                filters.push(program(done, SeccompAction::Allow, errno(0))?);
            }
            if identities.is_some() {
                let done: Rules = IDENTITIES.iter().filter_map(|call| refused.remove_entry(call)).collect();
                filters.push(program(done, SeccompAction::Allow, errno(0))?);
            }
            // As for drivers: the flags of clone can be seen, and decide.
            let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
            filters.push(program(rules, SeccompAction::Allow, errno(libc::ENOSYS))?);
            filters.push(program(refused, SeccompAction::Allow, errno(libc::EPERM))?);
            filters.extend(other_interface());
            Ok(filters)
        }
    }
}

/// x86 has a second set of numbers for the same calls (x32), which a list of what is refused would miss.
#[cfg(target_arch = "x86_64")]
fn other_interface() -> Option<BpfProgram> {
    /// `__X32_SYSCALL_BIT`.
    const OTHER: u32 = 0x4000_0000;
    // BPF_LD | BPF_W | BPF_ABS: the call's number, at the beginning of what a filter sees.
    const LOAD: u16 = 0x20;
    // BPF_JMP | BPF_JGE | BPF_K.
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    // BPF_RET | BPF_K.
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let instruction = |code, jt, k| seccompiler::sock_filter { code, jt, jf: 0, k };
    Some(vec![
        instruction(LOAD, 0, 0),
        instruction(JUMP_IF_AT_LEAST, 1, OTHER),
        instruction(RETURN, 0, ALLOW),
        instruction(RETURN, 0, ERRNO | libc::EPERM.unsigned_abs()),
    ])
}

#[cfg(not(target_arch = "x86_64"))]
fn other_interface() -> Option<BpfProgram> {
    None
}

/// What is refused to a helper.
fn helper_rules(sockets: bool, programs: bool) -> Rules {
    let mut rules: Rules =
        HELPER_NEVER.iter().chain(HELPER_NEVER_LEGACY).map(|call| (*call, Vec::new())).collect();
    if sockets {
        // Unix sockets reach whoever listens on this host, whatever the network namespace is.
        let families = [AF_INET, AF_INET6, AF_NETLINK];
        let mut refused = when(families.map(|family| condition32(0, SeccompCmpOp::Ne, family)));
        refused.extend(when([
            condition32(0, SeccompCmpOp::Eq, AF_NETLINK),
            condition32(2, SeccompCmpOp::Ne, NETLINK_ROUTE),
        ]));
        rules.insert(libc::SYS_socket, refused);
    } else {
        for call in [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind] {
            rules.insert(call, Vec::new());
        }
    }
    // A pair of datagram sockets needs no `connect` to reach a third one by its path.
    rules.insert(
        libc::SYS_socketpair,
        when([condition32(1, SeccompCmpOp::MaskedEq(SOCKET_TYPE), SOCK_DGRAM)]),
    );
    // Signals and limits of its own only. The trampoline's process is the program's.
    let own = u64::from(std::process::id());
    let mut signals = vec![libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo];
    if !programs {
        // Whoever starts programs ends them too; it reaches no others (process namespace, Landlock).
        signals.push(libc::SYS_kill);
    }
    for call in signals {
        rules.insert(call, when([condition32(0, SeccompCmpOp::Ne, own)]));
    }
    rules
        .insert(libc::SYS_prlimit64, when([0, own].map(|process| condition32(0, SeccompCmpOp::Ne, process))));
    rules.insert(libc::SYS_fcntl, equals32(1, SIGNALLING_FCNTLS));
    rules.insert(libc::SYS_ioctl, equals32(1, HELPER_NEVER_IOCTLS));
    if programs {
        let flags = NAMESPACES.iter();
        let refused =
            flags.flat_map(|flag| when([condition(0, SeccompCmpOp::MaskedEq(*flag), *flag)])).collect();
        rules.insert(libc::SYS_clone, refused);
    } else {
        // The trampoline's own exec is still to come, so exec itself is left to Landlock, which lets nothing but the program
        // and its loader be executed; new processes are refused here.
        #[cfg(target_arch = "x86_64")]
        for call in [libc::SYS_fork, libc::SYS_vfork] {
            rules.insert(call, Vec::new());
        }
        rules.insert(libc::SYS_clone, when([condition(0, SeccompCmpOp::MaskedEq(THREAD), 0)]));
    }
    rules
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

fn program(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, matched, architecture)?.try_into()
}

fn driver_rules(extras: &[(Extra, String)]) -> Rules {
    let mut rules: Rules = DRIVER.iter().chain(DRIVER_LEGACY).map(|call| (*call, Vec::new())).collect();
    let not_executable = || when([condition(2, SeccompCmpOp::MaskedEq(EXECUTABLE), 0)]);
    rules.insert(libc::SYS_mmap, not_executable());
    rules.insert(libc::SYS_mprotect, not_executable());
    rules.insert(libc::SYS_clone, when([condition(0, SeccompCmpOp::MaskedEq(THREAD), THREAD)]));
    // Streams alone: a pair of datagram sockets needs no `connect` to reach a third one by its path.
    rules.insert(
        libc::SYS_socketpair,
        when([
            condition32(0, SeccompCmpOp::Eq, AF_UNIX),
            condition32(1, SeccompCmpOp::MaskedEq(SOCKET_TYPE), SOCK_STREAM),
        ]),
    );
    let not_signalling = SIGNALLING_FCNTLS.iter().map(|number| condition32(1, SeccompCmpOp::Ne, *number));
    rules.insert(libc::SYS_fcntl, when(not_signalling));
    rules.insert(libc::SYS_tgkill, equals(0, &[u64::from(std::process::id())]));
    // PR_SET_NAME, PR_GET_NAME, PR_SET_VMA.
    rules.insert(libc::SYS_prctl, equals(0, &[15, 16, 0x5356_4d41]));
    rules.insert(libc::SYS_prlimit64, equals(2, &[0]));
    let mut ioctls = DRIVER_IOCTLS.to_vec();
    for (extra, _reason) in extras {
        match extra {
            Extra::Affinity => drop(rules.insert(libc::SYS_sched_setaffinity, Vec::new())),
            Extra::Interfaces => {
                ioctls.extend(TAP_IOCTLS);
                let netlink = [NETLINK_ROUTE, NETLINK_NETFILTER].into_iter().flat_map(|protocol| {
                    when([
                        condition(0, SeccompCmpOp::Eq, AF_NETLINK),
                        condition(2, SeccompCmpOp::Eq, protocol),
                    ])
                });
                rules.insert(libc::SYS_socket, netlink.collect());
            }
        }
    }
    rules.insert(libc::SYS_ioctl, equals32(1, &ioctls));
    rules
}
