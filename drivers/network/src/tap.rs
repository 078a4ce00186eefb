//! Attaching to a tap: the one thing about interfaces that netlink can't do.
#![expect(unsafe_code, reason = "TUNSETIFF is an ioctl, and those have no safe wrapper")]

use crate::name::NAME_BYTES;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Where taps come from.
pub(crate) const DEVICE: &str = "/dev/net/tun";

/// The part of `struct ifreq` that TUNSETIFF reads and writes, padded to the size of the whole.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

/// Reads and writes an `ifreq`, whatever its number says.
const TUNSETIFF: nix::sys::ioctl::ioctl_num_type =
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>());

nix::ioctl_readwrite_bad!(
    /// Binds an open [`DEVICE`] to an interface.
    tun_set_interface,
    TUNSETIFF,
    Request
);

/// What a tap is attached as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attach {
    /// One of several queues; must agree with what the tap was made as.
    pub(crate) multi_queue: bool,
    /// The interface must not exist yet.
    pub(crate) exclusive: bool,
}

/// Opens the device that all taps come from.
pub(crate) fn open_device() -> io::Result<File> {
    // Non-blocking is what QEMU expects of a descriptor that it is given.
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)
}

/// Attaches to a tap, which is made unless it exists; returns the name it has, chosen by the kernel for a template.
///
/// Frames carry a virtio header as QEMU's own taps do: QEMU looks whether they do, and strips it for guests' cards that
/// know nothing of it.
pub(crate) fn attach(device: File, name: &[u8], attach: Attach) -> io::Result<(OwnedFd, Vec<u8>)> {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if attach.multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    if attach.exclusive {
        flags |= libc::IFF_TUN_EXCL;
    }
    let mut request = Request {
        name: [0; NAME_BYTES],
        flags: u16::try_from(flags).map_err(io::Error::other)?,
        rest: [0; 22],
    };
    // One byte is left for the zero at the end.
    match request.name.get_mut(..name.len()) {
        Some(place) if name.len() < NAME_BYTES => place.copy_from_slice(name),
        _ => return Err(io::Error::from_raw_os_error(libc::ERANGE)),
    }
    // SAFETY: the descriptor is open, and the request is as large as the `ifreq` that the kernel reads and writes back.
    unsafe { tun_set_interface(device.as_raw_fd(), &raw mut request) }?;
    let name = request.name.into_iter().take_while(|byte| *byte != 0).collect();
    Ok((device.into(), name))
}

// The kernel copies a whole `ifreq` both ways.
const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());
