//! Puts a profile in force, step by step. The order matters; each step says why it stands where it stands.
//!
//! The process must have one thread, and must not have read a byte from outside.
#![expect(unsafe_code, reason = "closing inherited descriptors takes a call that no safe wrapper offers")]

use crate::filter;
use crate::profile::{Access, FileRule, Limits, Place, Profile, SystemCalls};
use crate::view;
use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::sched::{CloneFlags, unshare};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What is really in force, and what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In a few words each.
    pub in_force: Vec<String>,
    /// Each with the consequence.
    pub missing: Vec<String>,
}

/// A step that failed. Nothing is done in a process that could not be confined.
#[derive(Debug, thiserror::Error)]
#[error("confining {name}: {step} failed: {cause}")]
pub struct ConfineError {
    name: String,
    step: &'static str,
    cause: String,
}

/// What a report says of a process with a view of its own.
const VIEW: &str = "mount namespace: own files only";
/// What a report says of a process that may start others.
const PROCESSES: &str = "process namespace";

/// The landlock version that the rules are written for.
const LANDLOCK: ABI = ABI::V6;

/// Confines this process. `keep` are the descriptors that stay open besides 0, 1 and 2.
///
/// # Errors
/// A step that failed although the machine has it. What the machine lacks is in the report instead.
pub fn confine(profile: &Profile, keep: &[RawFd]) -> Result<Report, ConfineError> {
    let failed =
        |step: &'static str| move |cause: String| ConfineError { name: profile.name.clone(), step, cause };
    let mut report = Report::default();
    // Most of what follows binds the calling thread alone.
    if fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        let cause = "there are other threads already, which would stay as they are".to_owned();
        return Err(failed("looking for threads")(cause));
    }
    // Before anything can leak into what follows.
    #[expect(clippy::disallowed_methods, reason = "this process is ours alone")]
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    close_others(keep).map_err(|error| failed("closing descriptors")(error.to_string()))?;
    limit(&profile.limits).map_err(|error| failed("limits")(error.to_string()))?;
    if let Some(reason) = &profile.locked {
        lock_memory(reason, &mut report);
    }
    // Everything below needs it, and nothing can undo it.
    nix::sys::prctl::set_no_new_privs().map_err(|error| failed("no_new_privs")(error.to_string()))?;
    report.in_force.push("no_new_privs".to_owned());
    // Needs rights that are dropped further down.
    namespaces(profile, &mut report).map_err(|error| failed("namespaces")(error.to_string()))?;
    // After the last privileged call.
    capabilities(profile, &mut report).map_err(failed("capabilities"))?;
    nix::sys::prctl::set_dumpable(false).map_err(|error| failed("dumpable")(error.to_string()))?;
    // Binds this thread and its later children, so it precedes every other thread.
    landlock(profile, &mut report).map_err(failed("landlock"))?;
    // After all that needs the caller's own process, before the filter, which knows its process by number.
    if report.in_force.iter().any(|words| words == PROCESSES) {
        go_on_as_first().map_err(|error| failed("process namespace")(error.to_string()))?;
    }
    // The very last: it forbids what the steps above need.
    let programs =
        filter::programs(&profile.system_calls).map_err(|error| failed("seccomp")(error.to_string()))?;
    for program in &programs {
        seccompiler::apply_filter(program).map_err(|error| failed("seccomp")(error.to_string()))?;
    }
    report.in_force.push(match &profile.system_calls {
        SystemCalls::Driver(_) => "seccomp: listed calls only".to_owned(),
        SystemCalls::Helper { .. } => "seccomp: harmful calls refused".to_owned(),
    });
    Ok(report)
}

/// The version of Landlock that this kernel has, if any.
#[must_use]
pub fn landlock_version() -> Option<i64> {
    // LANDLOCK_CREATE_RULESET_VERSION.
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no memory and makes no descriptor.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    (version > 0).then_some(version)
}

/// Takes over descriptors that a parent put under fixed numbers before this program began.
#[must_use]
pub fn inherited<const N: usize>(numbers: [RawFd; N]) -> [OwnedFd; N] {
    // SAFETY: whoever starts this program, the broker or a service manager, does so with exactly these numbers open, and
    // nothing has used them before its first line, where this is called.
    numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Keeps every page out of swap from the moment it is first used. Only without a limit: with one, an allocation that crosses it
/// would end the process at a bad moment.
fn lock_memory(reason: &str, report: &mut Report) {
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let locked = setrlimit(Resource::RLIMIT_MEMLOCK, libc::RLIM_INFINITY, libc::RLIM_INFINITY)
        .and_then(|()| mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault));
    match locked {
        Ok(()) => report.in_force.push("memory locked".to_owned()),
        Err(error) => report.missing.push(format!(
            "memory is not locked ({error}): {reason}; raise the limit of locked memory, or encrypt swap"
        )),
    }
}

fn close_others(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|number| u32::try_from(*number).ok()).collect();
    keep.extend([0, 1, 2]);
    keep.sort_unstable();
    keep.dedup();
    let mut first = 0;
    for number in keep.into_iter().chain([u32::MAX]) {
        if number > first {
            let last = if number == u32::MAX { number } else { number - 1 };
            // SAFETY: close_range takes numbers only; this runs before anything in this process owns a descriptor beyond
            // those that are kept.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        first = number.saturating_add(1);
    }
    Ok(())
}

/// Goes on as the first process of the namespace that was made for its children. The caller stays behind to pass the end on:
/// its own ends all others in there.
#[expect(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "this process is ours alone, has one thread, and is nothing but a program's forerunner"
)]
fn go_on_as_first() -> io::Result<()> {
    let (alone, watched) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            drop(watched);
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // The one who stays behind may have ended before that took effect.
            let mut ends = [nix::poll::PollFd::new(alone.as_fd(), nix::poll::PollFlags::POLLIN)];
            if nix::poll::poll(&mut ends, nix::poll::PollTimeout::ZERO)? != 0 {
                return Err(io::Error::other("the process was ended"));
            }
            Ok(())
        }
        nix::unistd::ForkResult::Parent { child } => {
            // Ends of sockets and pipes are the program's to close.
            close_others(&[watched.as_raw_fd()])?;
            let code = loop {
                match nix::sys::wait::waitpid(child, None) {
                    Ok(nix::sys::wait::WaitStatus::Exited(_, code)) => break code,
                    Ok(nix::sys::wait::WaitStatus::Signaled(_, signal, _)) => break 128 + signal as i32,
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            };
            std::process::exit(code)
        }
    }
}

fn limit(limits: &Limits) -> io::Result<()> {
    let wanted = [
        (Resource::RLIMIT_NOFILE, limits.open_files),
        (Resource::RLIMIT_CORE, limits.core_bytes),
        (Resource::RLIMIT_AS, limits.address_space_bytes),
    ];
    for (resource, value) in wanted {
        let Some(value) = value else { continue };
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let value = value.min(hard);
        setrlimit(resource, value, value)?;
    }
    Ok(())
}

fn namespaces(profile: &Profile, report: &mut Report) -> io::Result<()> {
    let mut wanted = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    if profile.hide || profile.terminals.is_some() {
        wanted |= CloneFlags::CLONE_NEWNS;
    }
    if profile.network.is_none() {
        wanted |= CloneFlags::CLONE_NEWNET;
    }
    let starts = matches!(&profile.system_calls, SystemCalls::Helper { programs: Some(_), .. });
    if starts {
        wanted |= CloneFlags::CLONE_NEWPID;
    }
    let (uid, gid) = (Uid::current(), Gid::current());
    if unshare(wanted).is_err() {
        if unshare(CloneFlags::CLONE_NEWUSER | wanted).is_err() {
            report.missing.push(
                "namespaces: neither root nor unprivileged user namespaces; sockets and file names of others can be seen"
                    .to_owned(),
            );
            return Ok(());
        }
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        report.in_force.push("user namespace".to_owned());
    }
    report.in_force.push("ipc, uts namespaces".to_owned());
    if starts {
        report.in_force.push(PROCESSES.to_owned());
    }
    if profile.network.is_none() {
        report.in_force.push("empty network namespace".to_owned());
    }
    if profile.terminals.is_some() {
        match view::own_terminals() {
            Ok(()) => report.in_force.push("own terminals".to_owned()),
            Err(error) if uid.is_root() => return Err(error),
            Err(error) => {
                report.missing.push(format!("own terminals ({error}); this user's others can be opened"));
            }
        }
    }
    if profile.hide {
        match view::enter(profile) {
            Ok(()) => report.in_force.push(VIEW.to_owned()),
            Err(error) if uid.is_root() => return Err(error),
            Err(error) => {
                report.missing.push(format!("mount namespace ({error}); file names of others can be seen"));
            }
        }
    }
    Ok(())
}

fn capabilities(profile: &Profile, report: &mut Report) -> Result<(), String> {
    let wanted: CapsHashSet = profile
        .capabilities
        .iter()
        .map(|(name, _reason)| name.parse::<Capability>().map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    let text = |error: caps::errors::CapsError| error.to_string();
    let held = caps::read(None, CapSet::Permitted).map_err(text)?;
    let kept: CapsHashSet = wanted.intersection(&held).copied().collect();
    for capability in wanted.difference(&held) {
        report.missing.push(format!("{capability} (not root): what needs it is refused"));
    }
    if held.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all() {
            if !kept.contains(&capability)
                && caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false)
            {
                caps::drop(None, CapSet::Bounding, capability).map_err(text)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(text)?;
    caps::set(None, CapSet::Effective, &kept).map_err(text)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(text)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(text)?;
    report.in_force.push(if kept.is_empty() {
        "no capabilities".to_owned()
    } else {
        let mut names: Vec<_> = kept.iter().map(ToString::to_string).collect();
        names.sort_unstable();
        format!("capabilities: {}", names.join(" "))
    });
    Ok(())
}

fn landlock(profile: &Profile, report: &mut Report) -> Result<(), String> {
    let text = |error: landlock::RulesetError| error.to_string();
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .map_err(text)?
        .scope(Scope::AbstractUnixSocket)
        .map_err(text)?
        .scope(Scope::Signal)
        .map_err(text)?;
    // A helper with a network may connect and listen: which ports, its user and the guest's users decide.
    let networked = matches!(&profile.system_calls, SystemCalls::Helper { sockets: Some(_), .. });
    if !networked {
        ruleset = ruleset.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp).map_err(text)?;
    }
    let mut ruleset = ruleset.create().map_err(text)?;
    for FileRule { place, access, .. } in &profile.files {
        ruleset = match place {
            Place::Path(path) => match PathFd::new(path) {
                Ok(file) => {
                    let rights = rights(*access, path.is_dir());
                    ruleset.add_rule(PathBeneath::new(file, rights)).map_err(text)?
                }
                // As in the view: what does not exist grants nothing.
                Err(_) => ruleset,
            },
            Place::Opened(number) | Place::Shown(number, _) => {
                // SAFETY: the broker passes every descriptor that a profile names, and `confine` kept it open.
                let file = unsafe { BorrowedFd::borrow_raw(*number) };
                let folder = nix::sys::stat::fstat(file)
                    .is_ok_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFDIR);
                ruleset.add_rule(PathBeneath::new(file, rights(*access, folder))).map_err(text)?
            }
        };
    }
    // Only a folder that is nobody else's.
    if profile.scratch.is_some() && report.in_force.iter().any(|words| words == VIEW) {
        let folder = PathFd::new(view::SCRATCH).map_err(|error| error.to_string())?;
        ruleset = ruleset.add_rule(PathBeneath::new(folder, rights(Access::Manage, true))).map_err(text)?;
    }
    for (port, _reason) in profile.bind_ports.iter().filter(|_| !networked) {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp)).map_err(text)?;
    }
    let status = ruleset.restrict_self().map_err(text)?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => report.in_force.push("landlock".to_owned()),
        RulesetStatus::PartiallyEnforced => {
            report.in_force.push("landlock (part)".to_owned());
            report
                .missing
                .push("landlock: the kernel knows only some of the rules (TCP ports, signals)".to_owned());
        }
        RulesetStatus::NotEnforced => {
            report.missing.push(
                "landlock: not in this kernel; files are kept apart by the mount namespace alone".to_owned(),
            );
        }
    }
    Ok(())
}

fn rights(access: Access, folder: bool) -> BitFlags<AccessFs> {
    let rights = match access {
        Access::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Access::Execute => AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute,
        Access::ReadWrite => {
            AccessFs::ReadFile
                | AccessFs::ReadDir
                | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::IoctlDev
        }
        Access::Manage => {
            AccessFs::from_all(LANDLOCK)
                & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::IoctlDev)
        }
    };
    if folder { rights } else { rights & AccessFs::from_file(LANDLOCK) }
}
