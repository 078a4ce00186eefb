//! Helpers: what a driver may ask for, and how a wish becomes a process that outlives the driver.
//!
//! A captured driver must not command the broker. A request names a class; the class has a ceiling: programs that
//! the host's owner listed, and files that are never given. The broker opens the files itself, checks what it really
//! opened, and hands on descriptors.

use crate::ceiling::{open_checked, open_output};
use crate::launcher::process;
use crate::launcher::{self, Command};
use crate::{programs, root};
use bulkhead_sandbox::ceiling::{CEILINGS, PORT_MIN, is_fit_variable};
use bulkhead_sandbox::profile::{FileRule, Place};
use bulkhead_sandbox::{Access as Rights, profiles};
use bulkhead_wire::control::{Access, HelperRequest, Layout};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::Driver;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// What is on disk about a running helper: enough to find it again after the broker has died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) key: String,
    pub(crate) class: String,
    pub(crate) owner: String,
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) autodestroy: bool,
    pub(crate) confinement: Vec<String>,
    /// Whose deposit of which name is the other end of its standard error.
    #[serde(default)]
    pub(crate) heard_by: Option<(Driver, String)>,
}

/// A helper that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) record: Record,
    pub(crate) pidfd: OwnedFd,
}

pub(crate) fn refused(key: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Code::OPERATION_DENIED, Origin::BROKER, format!("Helper '{key}' is refused: {why}"))
}

/// What the system refuses, as an error about something.
pub(crate) fn failed<E: Into<io::Error>>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Error {
    move |error| Error::system(Origin::BROKER, what, &error.into())
}

/// A key becomes a file name.
fn check_key(key: &str) -> Result<(), Error> {
    let fits = !key.is_empty()
        && key.len() <= 64
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if fits { Ok(()) } else { Err(refused("?", "its key is no plain name")) }
}

/// Connects to a socket that a helper listens on, in its guest's folder. The folder is the helper's: what lies there under
/// this name may be a way to anywhere, and whoever listens may never accept.
///
/// # Errors
/// A socket that is not there, is none, or does not take the connection at once.
pub(crate) fn connect(layout: &Layout, key: &str, name: &str) -> Result<OwnedFd, Error> {
    let what = || format!("Socket {name} of {key}");
    if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
        return Err(refused(key, "a socket's name is no plain file name"));
    }
    let folder = File::open(layout.guest(key)).map_err(failed(what()))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = File::from(openat2(&folder, name, how).map_err(failed(what()))?);
    if !file.metadata().map_err(failed(what()))?.file_type().is_socket() {
        return Err(refused(key, format!("{name} in its folder is no socket")));
    }
    let socket =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
            .map_err(failed(what()))?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str());
    address
        .and_then(|address| nix::sys::socket::connect(socket.as_raw_fd(), &address))
        .map_err(failed(what()))?;
    Ok(socket)
}

/// Makes a listening socket in a helper's guest folder.
///
/// # Errors
/// A name that leads elsewhere; what the disk says.
pub(crate) fn listener(layout: &Layout, key: &str, name: &str) -> Result<OwnedFd, Error> {
    if name.is_empty() || name.contains('/') || name.len() > 64 {
        return Err(refused(key, "a socket's name is no plain file name"));
    }
    let folder = layout.guest(key);
    let made = root::short_socket_path(&folder, name).and_then(|(path, _handle)| {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(&path)
    });
    let listener = made.map_err(failed(format!("Socket {name} of {key}")))?;
    Ok(listener.into())
}

/// The number under which the trampoline finds its profile.
const PROFILE_NUMBER: RawFd = 255;
/// The number under which a helper itself keeps the other end of its standard error: what it says while there is no broker is
/// heard by the next one.
const HEARD_NUMBER: RawFd = 254;
/// Numbers for files that rules name; a driver may choose those below.
const RULE_NUMBERS: RawFd = 256;
/// So many files fit between them and where the launcher parks.
const FILES_MAX: usize = 255;

/// Starts a helper; so many of its class run already. A wish that is refused leaves nothing behind.
///
/// # Errors
/// A wish above the ceiling; files that are not there; a program that does not start.
pub(crate) fn start(
    layout: &Layout,
    libexec: &Path,
    owner: &str,
    running: usize,
    request: HelperRequest,
    heard_by: Option<(Driver, String)>,
) -> Result<Running, Error> {
    check_key(&request.key)?;
    let guest = layout.guest(&request.key);
    let fresh = !guest.exists();
    begin(layout, libexec, owner, running, request, heard_by).inspect_err(|_| {
        if fresh {
            let _ = fs::remove_dir_all(guest);
        }
    })
}

fn begin(
    layout: &Layout,
    libexec: &Path,
    owner: &str,
    running: usize,
    request: HelperRequest,
    heard_by: Option<(Driver, String)>,
) -> Result<Running, Error> {
    let key = request.key;
    let ceiling = CEILINGS
        .iter()
        .find(|ceiling| ceiling.class == request.class)
        .ok_or_else(|| refused(&key, "there is no such class"))?;
    let program = match ceiling.own {
        Some(own) => libexec.join(own),
        None => programs::check(layout, &key, ceiling, &request.program).map(|()| request.program)?,
    };
    if request.network && !ceiling.network {
        return Err(refused(&key, format!("class '{}' has no network", ceiling.class)));
    }
    if running >= ceiling.instances_max || request.files.len() > FILES_MAX {
        let most = format!("{} helpers with {FILES_MAX} files each", ceiling.instances_max);
        return Err(refused(&key, format!("class '{}' has at most {most}", ceiling.class)));
    }
    let guest = layout.guest(&key);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&guest)
        .map_err(failed(format!("Folder {}", guest.display())))?;

    let network =
        request.network.then(|| "the guest has user networking or a display on the network".to_owned());
    let mut profile = profiles::helper(ceiling.class, &program, network)
        .ok_or_else(|| refused(&key, "its class has no profile"))?;
    profile.group = (ceiling.class == "qemu").then(|| key.clone());
    for port in &request.ports {
        if *port < PORT_MIN || !request.network {
            return Err(refused(&key, format!("port {port} is not for guests")));
        }
        profile.bind_ports.push((*port, "a display of the guest".to_owned()));
    }
    let mut descriptors: Vec<(RawFd, OwnedFd)> = Vec::new();
    for (number, (path, access)) in (RULE_NUMBERS..).zip(&request.files) {
        let file = open_checked(ceiling.class, &key, layout, path, *access)?;
        let access = match access {
            Access::Read => Rights::Read,
            Access::ReadWrite => Rights::ReadWrite,
            Access::Folder => Rights::Manage,
        };
        profile.files.push(FileRule {
            place: if profile.hide { Place::Shown(number, path.clone()) } else { Place::Opened(number) },
            access,
            reason: path.display().to_string(),
        });
        descriptors.push((number, file));
    }
    let mut taken = vec![0, 2, HEARD_NUMBER, PROFILE_NUMBER];
    let mut claim = |number: RawFd| {
        let free = number > 0 && number < PROFILE_NUMBER && !taken.contains(&number);
        taken.push(number);
        if free {
            Ok(())
        } else {
            Err(refused(&key, format!("descriptor number {number} is taken or out of range")))
        }
    };
    for (name, number) in &request.listeners {
        claim(*number)?;
        descriptors.push((*number, listener(layout, &key, name)?));
    }
    for (number, path, append) in &request.outputs {
        claim(*number)?;
        descriptors.push((*number, open_output(&key, layout, path, *append)?));
    }
    for (number, file) in request.descriptors {
        claim(number)?;
        let file = file.into_owned().ok_or_else(|| refused(&key, "a descriptor did not come"))?;
        descriptors.push((number, file));
    }

    let text =
        profile.to_json().map_err(|error| Error::new(Code::INTERNAL, Origin::BROKER, error.to_string()))?;
    descriptors
        .push((PROFILE_NUMBER, memory_file("profile", &text).map_err(failed("Can't make a memory file"))?));
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let null = null.map_err(failed("Can't open /dev/null"))?;
    let copy = || null.try_clone().map_err(failed("Can't open /dev/null"));
    if !descriptors.iter().any(|(number, _)| *number == 1) {
        descriptors.push((1, copy()?));
    }
    let errors = request.errors.and_then(Descriptor::into_owned).map_or_else(copy, Ok)?;
    descriptors.push((0, null));
    let behind = format!("/proc/self/fd/{}", errors.as_raw_fd());
    if heard_by.is_some() {
        let other = reading_end(behind.as_ref()).map_err(failed("Can't open a pipe's other end"))?;
        descriptors.push((HEARD_NUMBER, other));
    }
    descriptors.push((2, errors));

    // The trampoline gets none of it: what steers a loader would take effect before the confinement does.
    if let Some((name, _)) = request.environment.iter().find(|(name, _)| !is_fit_variable(name)) {
        return Err(refused(&key, format!("the environment variable '{name}' is never given to a helper")));
    }
    let text_of = |text: &std::ffi::OsStr| {
        CString::new(text.as_bytes()).map_err(|_| refused(&key, "a zero byte in its arguments"))
    };
    let mut arguments = vec![
        text_of(PROFILE_NUMBER.to_string().as_ref())?,
        text_of(request.environment.len().to_string().as_ref())?,
    ];
    for (name, value) in &request.environment {
        arguments.push(text_of(format!("{name}={value}").as_ref())?);
    }
    arguments.push(text_of(program.as_os_str())?);
    for argument in &request.arguments {
        arguments.push(text_of(argument.as_ref())?);
    }
    let launcher = libexec.join("bulkhead-launch");
    let process =
        launcher::launch(&Command { program: &launcher, arguments, environment: Vec::new(), descriptors })
            .map_err(failed(format!("Can't start {}", launcher.display())))?;
    let record = Record {
        start_ticks: process::start_ticks(process.pid).unwrap_or(0),
        pid: process.pid,
        class: request.class,
        owner: owner.to_owned(),
        autodestroy: request.autodestroy,
        confinement: profile.summary(),
        heard_by,
        key,
    };
    let running = Running { record, pidfd: process.pidfd };
    if let Err(error) = write_record(layout, &running.record) {
        // A helper that could not be found again must not live.
        process::signal(&running.pidfd, libc::SIGKILL);
        return Err(Error::system(Origin::BROKER, "Can't record the helper", &error));
    }
    Ok(running)
}

/// Opens the reading end of a pipe, in whoever's hands it is.
fn reading_end(pipe: &Path) -> io::Result<OwnedFd> {
    if !fs::metadata(pipe)?.file_type().is_fifo() {
        return Err(io::Error::other("it is no pipe"));
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    Ok(OpenOptions::new().read(true).custom_flags(flags).open(pipe)?.into())
}

/// The other end of a helper's standard error, for the shelf of a broker that found the helper running.
pub(crate) fn heard(helper: &Record) -> io::Result<OwnedFd> {
    reading_end(format!("/proc/{}/fd/{HEARD_NUMBER}", helper.pid).as_ref())
}

/// A file in memory with this content, read from its beginning.
pub(crate) fn memory_file(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    let file = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

fn record_path(layout: &Layout, key: &str) -> PathBuf {
    layout.run.join("broker/helpers").join(key)
}

fn write_record(layout: &Layout, record: &Record) -> io::Result<()> {
    root::write_file(&record_path(layout, &record.key), &serde_json::to_vec(record)?)
}

/// Forgets a helper that has ended, and removes its folder.
pub(crate) fn forget(layout: &Layout, key: &str, pid: u32) {
    clear(&layout.guest(key), pid);
    let group = key.to_owned();
    tokio::task::spawn_blocking(move || bulkhead_sandbox::group::remove(&group, pid));
    let _ = fs::remove_file(record_path(layout, key));
    // Most helpers leave nothing in theirs; what is in there stays.
    let _ = fs::remove_dir(layout.guest(key));
}

/// Removes a helper's folder. Moved away first, since the next helper of this name may come at once: what lies there is the
/// helper's doing, and removing it may take as long as that helper wished.
fn clear(folder: &Path, number: u32) {
    // No helper's key begins like this.
    let ended = folder.with_file_name(format!(".ended-{number}"));
    if fs::rename(folder, &ended).is_ok() {
        tokio::task::spawn_blocking(move || fs::remove_dir_all(ended));
    }
}

fn driver_path(layout: &Layout, name: &str) -> PathBuf {
    layout.run.join("broker/drivers").join(name)
}

/// Writes down which process a driver is, so that a later broker can tell whether it is still there.
pub(crate) fn record_driver(layout: &Layout, name: &str, pid: u32) -> io::Result<()> {
    let ticks = process::start_ticks(pid).unwrap_or(0);
    root::write_file(&driver_path(layout, name), format!("{pid} {ticks}").as_bytes())
}

/// Forgets a driver that has ended.
pub(crate) fn forget_driver(layout: &Layout, name: &str) {
    let _ = fs::remove_file(driver_path(layout, name));
}

/// The files in a folder of records, if there are any.
fn records(layout: &Layout, folder: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(layout.run.join(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// A process that was written down, if it is still that one.
fn same_process(pid: u32, start_ticks: u64) -> Option<OwnedFd> {
    // The descriptor first, the comparison second: so they speak of the same process.
    let pidfd = process::open(pid).ok()?;
    (process::start_ticks(pid) == Some(start_ticks)).then_some(pidfd)
}

/// Drivers of an earlier broker that are still there. What is written down about them is removed.
pub(crate) fn drivers(layout: &Layout) -> Vec<OwnedFd> {
    let process = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        let (pid, ticks) = text.split_once(' ')?;
        same_process(pid.parse().ok()?, ticks.parse().ok()?)
    };
    records(layout, "broker/drivers").filter_map(process).collect()
}

/// Finds the helpers of an earlier broker: those of which pid and start time are still the same process. The records of
/// others are removed.
pub(crate) fn adopt(layout: &Layout) -> Vec<Running> {
    let mut running = Vec::new();
    for path in records(layout, "broker/helpers") {
        let record: Option<Record> = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        // Of one that has ended; nothing is removed that a living one is in.
        if let Some(record) = &record {
            bulkhead_sandbox::group::remove(&record.key, record.pid);
        }
        let helper = record.and_then(|record| {
            same_process(record.pid, record.start_ticks).map(|pidfd| Running { record, pidfd })
        });
        match helper {
            Some(helper) => running.push(helper),
            None => drop(fs::remove_file(path)),
        }
    }
    // Folders of those that ended while nobody looked.
    let lives = |path: &Path| running.iter().any(|helper: &Running| path.ends_with(&helper.record.key));
    for (number, folder) in (0..).zip(records(layout, "guests")) {
        if !lives(&folder) {
            clear(&folder, number);
        }
    }
    running
}

/// Are these ports free to be listened on?
///
/// # Errors
/// Names the first that is not.
pub(crate) fn ports_free(ports: &[u16]) -> Result<(), Error> {
    for port in ports.iter().take(64) {
        if let Err(error) = std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, *port)) {
            let message =
                format!("TCP port {port} can't be listened on: {error}; choose another, or autoport='yes'");
            return Err(Error::new(Code::RESOURCE_BUSY, Origin::BROKER, message));
        }
    }
    Ok(())
}

/// Opens a terminal that a helper made: the helper must hold the other side of exactly this one.
///
/// # Errors
/// A path that is no terminal of this helper.
pub(crate) fn terminal(helper: &Record, path: &Path) -> Result<OwnedFd, Error> {
    let denied = || refused(&helper.key, format!("{} is no terminal of this guest", path.display()));
    let number: u32 =
        path.strip_prefix("/dev/pts").ok().and_then(|rest| rest.to_str()?.parse().ok()).ok_or_else(denied)?;
    let entries = fs::read_dir(format!("/proc/{}/fdinfo", helper.pid))
        .map_err(failed(format!("Can't look at guest {}", helper.key)))?;
    let line = format!("tty-index:\t{number}");
    let owns = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .any(|text| text.lines().any(|found| found == line));
    if !owns {
        return Err(denied());
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        // As the helper sees it: its terminals are in an instance of its own.
        .open(format!("/proc/{}/root/dev/pts/{number}", helper.pid))
        .map(Into::into)
        .map_err(failed(format!("Can't open {}", path.display())))
}
