//! The error that every call may answer with: libvirt's code and domain, so that programs can tell them apart,
//! and a text that names object, cause and remedy, so that people can act on it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// libvirt's error number (`virErrorNumber`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Code(pub i32);

/// The part of the system an error comes from (`virErrorDomain`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin(pub i32);

macro_rules! numbers {
    ($type:ident { $($(#[$doc:meta])* $name:ident = $number:literal,)* }) => {
        impl $type {
            $($(#[$doc])* pub const $name: Self = Self($number);)*
        }
    };
}

numbers!(Code {
    /// A fault of our own.
    INTERNAL = 1,
    /// The driver has no such call.
    NO_SUPPORT = 3,
    /// No driver takes the URI.
    NO_CONNECT = 5,
    /// A bad argument value.
    INVALID_ARG = 8,
    /// The operation could not be done, e.g. an object of that name with another UUID exists.
    OPERATION_FAILED = 9,
    /// The guest's OS type, architecture or machine is not to be had.
    OS_TYPE = 16,
    /// Read-only client, or a call that this client was not granted.
    OPERATION_DENIED = 29,
    /// Well-formed XML with wrong content.
    XML_ERROR = 27,
    /// XML that is not well-formed.
    XML_DETAIL = 35,
    /// The operating system refused; `int1` is the errno.
    SYSTEM_ERROR = 38,
    /// A client that could not say who it is.
    AUTH_FAILED = 45,
    /// A fault of the protocol.
    RPC = 39,
    /// An object without a name.
    NO_NAME = 21,
    /// A MAC address that is none.
    INVALID_MAC = 44,
    /// No such domain.
    NO_DOMAIN = 42,
    /// No such network.
    NO_NETWORK = 43,
    /// No such pool.
    NO_STORAGE_POOL = 49,
    /// No such volume.
    NO_STORAGE_VOL = 50,
    /// The object is in the wrong state for the call.
    OPERATION_INVALID = 55,
    /// A secret that is not given to whoever asked.
    INVALID_SECRET = 65,
    /// No such secret, or one without a value.
    NO_SECRET = 66,
    /// The definition asks for something that host or hypervisor lacks.
    CONFIG_UNSUPPORTED = 67,
    /// The deadline passed.
    OPERATION_TIMEOUT = 68,
    /// A known argument that can't be done here.
    ARGUMENT_UNSUPPORTED = 74,
    /// The operation was cancelled.
    OPERATION_ABORTED = 78,
    /// A domain without that kind of metadata.
    NO_DOMAIN_METADATA = 80,
    /// A number out of range.
    OVERFLOW = 82,
    /// A known call that can't be done here.
    OPERATION_UNSUPPORTED = 84,
    /// The guest agent is absent or silent.
    AGENT_UNRESPONSIVE = 86,
    /// Somebody else holds it.
    RESOURCE_BUSY = 87,
    /// A volume of that name is there already.
    STORAGE_VOL_EXIST = 90,
    /// A network without that kind of metadata.
    NO_NETWORK_METADATA = 111,
    /// A port of that uuid is there already.
    NETWORK_PORT_EXIST = 106,
    /// No such port of a network.
    NO_NETWORK_PORT = 107,
    /// Guest and host CPU do not fit.
    CPU_INCOMPATIBLE = 91,
    /// XML that the schema does not allow.
    XML_INVALID_SCHEMA = 92,
    /// No such server of a daemon.
    NO_SERVER = 95,
    /// No such client of a daemon.
    NO_CLIENT = 96,
    /// No such device.
    DEVICE_MISSING = 99,
});

numbers!(Origin {
    /// Nobody in particular.
    NONE = 0,
    /// The XML reader.
    XML = 5,
    /// The protocol.
    RPC = 7,
    /// The qemu driver.
    QEMU = 10,
    /// Interfaces and their shaping.
    NET = 11,
    /// Pools and volumes.
    STORAGE = 18,
    /// Devices of the host.
    NODE_DEVICE = 22,
    /// Interfaces of the host.
    INTERFACE = 26,
    /// Secrets.
    SECRET = 30,
    /// Network filters.
    NETWORK_FILTER = 33,
    /// Streams.
    STREAMS = 38,
    /// What is for a daemon's administrator.
    ADMIN = 62,
    /// The network driver.
    NETWORK = 19,
    /// What hypervisor drivers share, domain XML above all.
    DOMAIN = 20,
    /// Leases of disks.
    LOCKING = 51,
    /// Device handling (addresses, for one).
    DEVICE = 49,
    /// CPU models.
    CPU = 31,
    /// Capabilities of host and hypervisor.
    CAPABILITIES = 44,
    /// The supervisor and its channels; libvirt has no number for these, so its thread domain is not reused:
    /// clients read "RPC".
    BROKER = 7,
});

/// Why a call failed. Crosses every channel; the gateway passes it on to libvirt's clients unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// libvirt's code.
    pub code: Code,
    /// libvirt's domain.
    pub origin: Origin,
    /// One sentence for a person.
    pub message: String,
    /// libvirt's `int1`: the errno of a system error, else 0.
    pub int1: i32,
}

impl Error {
    /// An error of that code and origin.
    #[must_use]
    pub fn new(code: Code, origin: Origin, message: impl Into<String>) -> Self {
        Self { code, origin, message: message.into(), int1: 0 }
    }

    /// A failed system call: the message is what was tried, the errno's own text follows it.
    #[must_use]
    pub fn system(origin: Origin, what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self {
            code: Code::SYSTEM_ERROR,
            origin,
            message: format!("{what}: {error}"),
            int1: error.raw_os_error().unwrap_or(0),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
