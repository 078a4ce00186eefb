//! Opening a tap: one made in advance, or a new one.

use crate::name::{self, GENERATED, Mac};
use crate::netlink::link::{Change, Link, Netlink, Tun};
use crate::tap::{self, Attach, DEVICE};
use bulkhead_wire::descriptor::{DESCRIPTORS_MAX, Descriptor};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::network::tap_open::Arguments;
use bulkhead_wire::types::Tap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

/// What an ordinary user can do instead of what takes a right that he lacks.
const WITHOUT_RIGHTS: &str = "have an administrator make a tap in advance (ip tuntap add dev NAME mode tap user USER) and name \
                              it with managed='no', or use an interface of type 'user'";

/// Opens a tap in the thread's network namespace.
///
/// A new one lives for as long as one of the descriptors: what fails half-way leaves nothing behind.
///
/// # Errors
/// Names that are none, taps made in advance that are missing or not for us, rights that are lacking; each says what to do.
pub fn open(arguments: &Arguments) -> Result<Tap, Error> {
    let Arguments { name, managed, bridge, mac, queues } = arguments;
    let queues = *queues;
    if queues == 0 || usize::from(queues) > DESCRIPTORS_MAX {
        let message = format!("A tap with {queues} queues can't be opened; ask for 1 to {DESCRIPTORS_MAX}");
        return Err(Error::new(Code::CONFIG_UNSUPPORTED, Origin::NETWORK, message));
    }
    let mut netlink =
        Netlink::open().map_err(|error| refuse("Route netlink can't be reached", &error, ""))?;
    let (name, queues) = match (managed, name) {
        (true, name) => {
            let name = name.as_deref().unwrap_or(GENERATED);
            make(&mut netlink, name, bridge.as_deref(), Mac::parse(mac)?, queues)?
        }
        (false, Some(name)) => {
            if let Some(bridge) = bridge {
                let message = format!(
                    "Tap '{name}' with managed='no' can't be plugged into bridge '{bridge}', for nothing about it is changed; \
                     plug it in yourself and use an interface of type 'ethernet'"
                );
                return Err(Error::new(Code::CONFIG_UNSUPPORTED, Origin::DOMAIN, message));
            }
            (name.clone(), take(&mut netlink, name, queues)?)
        }
        (false, None) => {
            let message =
                "A tap with managed='no' has no name; give the name of one that was made in advance";
            return Err(Error::new(Code::INTERNAL, Origin::DOMAIN, message));
        }
    };
    Ok(Tap { name, queues: queues.into_iter().map(Descriptor::new).collect() })
}

/// Attaches to a tap that was made in advance.
fn take(netlink: &mut Netlink, name: &str, queues: u16) -> Result<Vec<OwnedFd>, Error> {
    name::check(name)?;
    let Some(link) = find(netlink, name)? else {
        return Err(missing(name));
    };
    let tun = suitable(name, &link, queues)?;
    let attach = Attach {
        // A tap made for several queues takes a single one too, if it is called one of several.
        multi_queue: tun.multi_queue,
        exclusive: false,
    };
    let mut files = Vec::with_capacity(usize::from(queues));
    for _ in 0..queues {
        let (file, _name) = tap::attach(open_device()?, name.as_bytes(), attach)
            .map_err(|error| not_attached(name, &tun, &error))?;
        files.push(file);
    }
    // Had it been removed since it was looked at, the kernel would have made a new one, which ends with the descriptors.
    match find(netlink, name)? {
        Some(now) if now.index == link.index => Ok(files),
        _ => Err(missing(name)),
    }
}

/// Is this interface a tap that was made in advance and that nobody uses?
fn suitable(name: &str, link: &Link, queues: u16) -> Result<Tun, Error> {
    let invalid = |cause: String, errno: i32| {
        let mut error = Error::new(
            Code::SYSTEM_ERROR,
            Origin::NONE,
            format!("Interface '{name}' can't be used with managed='no': {cause}"),
        );
        error.int1 = errno;
        Err(error)
    };
    let remedy = format!(
        "name a tap, made for instance with: ip tuntap add dev NAME mode tap{}",
        if queues > 1 { " multi_queue" } else { "" }
    );
    match &link.tun {
        None => {
            let kind = link.kind.as_deref().unwrap_or("hardware interface");
            invalid(format!("it is a {kind}, not a tap; {remedy}"), libc::EINVAL)
        }
        Some(tun) if !tun.tap => {
            invalid(format!("it is a tun, which carries packets without frames; {remedy}"), libc::EINVAL)
        }
        // It ends with somebody's descriptor: another guest's, a VPN's.
        Some(tun) if !tun.persistent => invalid(
            format!("it belongs to the process that made it and ends with that; {remedy}"),
            libc::EBUSY,
        ),
        Some(tun) if queues > 1 && !tun.multi_queue => invalid(
            format!("it has one queue and {queues} are asked for; ask for one, or {remedy}"),
            libc::EINVAL,
        ),
        // The kernel would let a second guest have queues of its own; each would miss what the other gets.
        Some(tun) if tun.queues > 0 => invalid(
            format!("somebody uses it already ({} queues are open); end that, or name another", tun.queues),
            libc::EBUSY,
        ),
        Some(tun) => Ok(tun.clone()),
    }
}

fn missing(name: &str) -> Error {
    let message = format!(
        "Tap '{name}' with managed='no' does not exist; make it first (ip tuntap add dev {name} mode tap user USER), or leave \
         managed='no' out to have it made"
    );
    Error::new(Code::INTERNAL, Origin::DOMAIN, message)
}

/// Why the kernel would not let us have a tap, in the light of what it says about it.
fn not_attached(name: &str, tun: &Tun, error: &io::Error) -> Error {
    let what = format!("Tap '{name}' can't be opened");
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            refuse(format!("{what}, somebody uses it already"), error, "end that, or name another tap")
        }
        Some(libc::EPERM | libc::EACCES) => {
            let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
            let belongs = tun
                .owner
                .and_then(|owner| another("user", owner, user.as_raw()))
                .or_else(|| tun.group.and_then(|owners| another("group", owners, group.as_raw())))
                .unwrap_or_else(|| "another user or group".to_owned());
            refuse(
                format!("{what} by user {user}, it belongs to {belongs}"),
                error,
                &format!(
                    "have an administrator make one for this user: ip tuntap add dev NAME mode tap user {user}"
                ),
            )
        }
        _ => refuse(&what, error, ""),
    }
}

/// Whom a tap belongs to, if not to us: by number, unless this user namespace has none for it.
fn another(what: &str, id: u32, ours: u32) -> Option<String> {
    /// What the kernel says instead (`overflowuid`).
    const UNKNOWN: u32 = 65_534;
    match id {
        _ if id == ours => None,
        UNKNOWN => Some(format!("another {what}")),
        _ => Some(format!("{what} {id}")),
    }
}

/// Makes a tap, plugs it in and sets it up.
fn make(
    netlink: &mut Netlink,
    name: &str,
    bridge: Option<&str>,
    mac: Mac,
    queues: u16,
) -> Result<(String, Vec<OwnedFd>), Error> {
    name::check_new(name)?;
    let bridge = match bridge {
        Some(bridge) => Some((bridge, find_bridge(netlink, bridge)?)),
        None => None,
    };
    let mut attach = Attach { multi_queue: queues > 1, exclusive: true };
    let (first, given) = tap::attach(open_device()?, name.as_bytes(), attach)
        .map_err(|error| not_made(name, bridge.as_ref().map(|(bridge, _)| *bridge), &error))?;
    // From here on it exists; every return drops the descriptors, and with them the tap.
    let given = String::from_utf8_lossy(&given).into_owned();
    let failed = |what: &str, error: &io::Error| refuse(format!("Tap '{given}' {what}"), error, "");
    let mut files = Vec::with_capacity(usize::from(queues));
    files.push(first);
    attach.exclusive = false;
    for number in 1..queues {
        let (file, _name) = tap::attach(open_device()?, given.as_bytes(), attach)
            .map_err(|error| failed(&format!("can't have queue {}", number + 1), &error))?;
        files.push(file);
    }
    let Some(link) = find(netlink, &given)? else {
        let message = format!("Tap '{given}' was removed by somebody else while it was made; try again");
        return Err(Error::new(Code::OPERATION_FAILED, Origin::NETWORK, message));
    };
    let mac = mac.of_tap();
    let mut set = |what: String, change: Change| {
        netlink.change(link.index, change).map_err(|error| failed(&what, &error))
    };
    set(format!("can't have the MAC address {mac}"), Change { mac: Some(mac), ..Change::default() })?;
    if let Some((bridge, port_of)) = bridge {
        // Before it is plugged in: a bridge follows the smallest of its ports.
        set(
            format!("can't have the MTU {} of bridge '{bridge}'", port_of.mtu),
            Change { mtu: Some(port_of.mtu), ..Change::default() },
        )?;
        set(
            format!("can't be plugged into bridge '{bridge}'"),
            Change { bridge: Some(port_of.index), ..Change::default() },
        )?;
    }
    set("can't be set up".to_owned(), Change { up: true, ..Change::default() })?;
    Ok((given, files))
}

fn find_bridge(netlink: &mut Netlink, name: &str) -> Result<Link, Error> {
    name::check(name)?;
    let refuse = |errno: i32, cause: &str| {
        let mut error = Error::new(Code::SYSTEM_ERROR, Origin::NONE, format!("Bridge '{name}' {cause}"));
        error.int1 = errno;
        error
    };
    match find(netlink, name)? {
        None => Err(refuse(
            libc::ENODEV,
            "does not exist; make it first (ip link add NAME type bridge), or name another",
        )),
        Some(link) => match link.kind.as_deref() {
            Some("bridge") => Ok(link),
            kind => Err(refuse(
                libc::EOPNOTSUPP,
                &format!("is no bridge but a {}; name a bridge", kind.unwrap_or("hardware interface")),
            )),
        },
    }
}

/// Why a tap could not be made.
fn not_made(name: &str, bridge: Option<&str>, error: &io::Error) -> Error {
    let what = match bridge {
        Some(bridge) => format!("Tap '{name}' can't be made and plugged into bridge '{bridge}'"),
        None => format!("Tap '{name}' can't be made"),
    };
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => refuse(
            format!("{what}, the network driver lacks CAP_NET_ADMIN over this network"),
            error,
            WITHOUT_RIGHTS,
        ),
        Some(libc::EBUSY | libc::EEXIST) => {
            let message = format!(
                "{what}: an interface of that name exists; name another, or if it is a tap made in advance for this guest, \
                 add managed='no'"
            );
            Error::new(Code::OPERATION_INVALID, Origin::NONE, message)
        }
        Some(libc::ENFILE | libc::ENAMETOOLONG) => {
            refuse(format!("{what}, no number is free for it"), error, "use another name")
        }
        _ => refuse(&what, error, ""),
    }
}

fn open_device() -> Result<std::fs::File, Error> {
    tap::open_device().map_err(|error| {
        let remedy = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                "load the kernel's module 'tun', or use an interface of type 'user'"
            }
            Some(libc::EPERM | libc::EACCES) => {
                "give this user the right to read and write it, or use an interface of type 'user'"
            }
            _ => "",
        };
        refuse(format!("{DEVICE} can't be opened, so there are no taps"), &error, remedy)
    })
}

fn find(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, Error> {
    netlink.find(name).map_err(|error| refuse(format!("Interface '{name}' can't be looked up"), &error, ""))
}

/// A refusal of the system, with what can be done about it.
fn refuse(what: impl fmt::Display, error: &io::Error, remedy: &str) -> Error {
    let mut refusal = Error::system(Origin::NONE, what, error);
    if !remedy.is_empty() {
        refusal.message.push_str("; ");
        refusal.message.push_str(remedy);
    }
    refusal
}
