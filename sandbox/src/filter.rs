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
    libc::SYS_close, libc::SYS_lseek, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_fstat,
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

/// What no helper needs: other processes, other namespaces, the kernel itself.
#[rustfmt::skip]
const HELPER_NEVER: &[c_long] = &[
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open, libc::SYS_kcmp, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot,
    libc::SYS_move_mount, libc::SYS_open_tree, libc::SYS_fsopen, libc::SYS_fsmount, libc::SYS_mount_setattr,
    libc::SYS_unshare, libc::SYS_setns, libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_keyctl, libc::SYS_add_key,
    libc::SYS_request_key, libc::SYS_userfaultfd, libc::SYS_init_module, libc::SYS_finit_module,
    libc::SYS_delete_module, libc::SYS_kexec_load, libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff,
    libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_adjtimex, libc::SYS_sethostname,
    libc::SYS_setdomainname, libc::SYS_acct, libc::SYS_quotactl, libc::SYS_syslog, libc::SYS_fanotify_init,
    libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at, libc::SYS_personality, libc::SYS_setuid,
    libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid,
    libc::SYS_setgroups, libc::SYS_fchmodat, libc::SYS_fchownat, libc::SYS_mknodat, libc::SYS_io_uring_setup,
];

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Option<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value).ok()
}

fn when(conditions: impl IntoIterator<Item = Option<SeccompCondition>>) -> Vec<SeccompRule> {
    let conditions: Option<Vec<_>> = conditions.into_iter().collect();
    conditions
        .and_then(|conditions| SeccompRule::new(conditions).ok())
        .into_iter()
        .collect()
}

fn equals(argument: u8, values: &[u64]) -> Vec<SeccompRule> {
    values
        .iter()
        .flat_map(|value| when([condition(argument, SeccompCmpOp::Eq, *value)]))
        .collect()
}

/// `PROT_EXEC`.
const EXECUTABLE: u64 = 4;
/// `CLONE_THREAD`: a clone with it is a thread, without it a process.
const THREAD: u64 = 0x1_0000;
const AF_UNIX: u64 = 1;
const AF_NETLINK: u64 = 16;

/// `FIONBIO`, `FIONREAD`, `FIOCLEX`, `TCGETS`: what the runtime and the standard library ask of descriptors.
const DRIVER_IOCTLS: &[u64] = &[0x5421, 0x541b, 0x5451, 0x5401];
/// `TUNSETIFF`: attaches to a tap. Everything else about interfaces goes through netlink.
const TAP_IOCTLS: &[u64] = &[0x4004_54ca];
/// `NETLINK_ROUTE`, whose number as an address family's protocol is zero.
const NETLINK_ROUTE: u64 = 0;

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
        SystemCalls::Helper { sockets, programs } => {
            let mut rules: Rules = HELPER_NEVER.iter().map(|call| (*call, Vec::new())).collect();
            if sockets.is_none() {
                for call in [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind] {
                    rules.insert(call, Vec::new());
                }
            }
            if programs.is_none() {
                // The trampoline's own exec is still to come, so exec itself is left to Landlock, which lets nothing but
                // the program and its loader be executed; new processes are refused here.
                #[cfg(target_arch = "x86_64")]
                for call in [libc::SYS_fork, libc::SYS_vfork] {
                    rules.insert(call, Vec::new());
                }
                rules.insert(
                    libc::SYS_clone,
                    when([condition(0, SeccompCmpOp::MaskedEq(THREAD), 0)]),
                );
            }
            let mut filters = vec![program(rules, SeccompAction::Allow, errno(libc::EPERM))?];
            if programs.is_none() {
                let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
                filters.insert(0, program(rules, SeccompAction::Allow, errno(libc::ENOSYS))?);
            }
            Ok(filters)
        }
    }
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
    let mut rules: Rules = DRIVER
        .iter()
        .chain(DRIVER_LEGACY)
        .map(|call| (*call, Vec::new()))
        .collect();
    let not_executable = || when([condition(2, SeccompCmpOp::MaskedEq(EXECUTABLE), 0)]);
    rules.insert(libc::SYS_mmap, not_executable());
    rules.insert(libc::SYS_mprotect, not_executable());
    rules.insert(
        libc::SYS_clone,
        when([condition(0, SeccompCmpOp::MaskedEq(THREAD), THREAD)]),
    );
    rules.insert(libc::SYS_socketpair, equals(0, &[AF_UNIX]));
    rules.insert(libc::SYS_tgkill, equals(0, &[u64::from(std::process::id())]));
    // PR_SET_NAME, PR_GET_NAME, PR_SET_VMA.
    rules.insert(libc::SYS_prctl, equals(0, &[15, 16, 0x5356_4d41]));
    rules.insert(libc::SYS_prlimit64, equals(2, &[0]));
    let mut ioctls = DRIVER_IOCTLS.to_vec();
    for (extra, _reason) in extras {
        match extra {
            Extra::Interfaces => {
                ioctls.extend(TAP_IOCTLS);
                let route_netlink = when([
                    condition(0, SeccompCmpOp::Eq, AF_NETLINK),
                    condition(2, SeccompCmpOp::Eq, NETLINK_ROUTE),
                ]);
                rules.insert(libc::SYS_socket, route_netlink);
            }
        }
    }
    // An ioctl's number is 32 bits wide; libraries differ in what they leave above.
    let by_number = ioctls.iter().flat_map(|number| {
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *number).ok();
        when([condition])
    });
    rules.insert(libc::SYS_ioctl, by_number.collect());
    rules
}
