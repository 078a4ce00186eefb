//! Settings of the network namespace that the network driver asks for: it may not write them itself.

use crate::helpers::failed;
use bulkhead_wire::error::{Code, Error, Origin};
use std::{fs, io};

fn set(path: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{path}");
    // Writing what stands there already has effects, too.
    if fs::read_to_string(&path)?.trim() == value { Ok(()) } else { fs::write(path, value) }
}

/// Has packets passed on between interfaces.
pub(crate) fn forward(ipv6: bool) -> Result<(), Error> {
    let path = if ipv6 { "ipv6/conf/all/forwarding" } else { "ipv4/ip_forward" };
    set(path, "1").map_err(failed(format!("Setting net/{path}")))
}

/// Has a bridge speak IPv6, or not; in any case it listens to no other router.
pub(crate) fn bridge_ipv6(interface: &str, enable: bool) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if matches!(interface, "" | "." | ".." | "all" | "default") || !interface.bytes().all(plain) {
        let message = format!("'{}' is no name of a bridge", interface.escape_debug());
        return Err(Error::new(Code::OPERATION_DENIED, Origin::BROKER, message));
    }
    let settings = [("accept_ra", "0"), ("autoconf", "0"), ("disable_ipv6", if enable { "0" } else { "1" })];
    for (name, value) in settings {
        let path = format!("ipv6/conf/{interface}/{name}");
        match set(&path, value) {
            // A kernel without IPv6 need not be kept from speaking it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !enable => {}
            done => done.map_err(failed(format!("Setting net/{path}")))?,
        }
    }
    Ok(())
}
