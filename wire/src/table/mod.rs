//! Every call, once.
//!
//! One line or a few for each call: name, arguments, reply, the driver that serves it, the permission it needs, its
//! class, deadline and, where it is public, its libvirt procedure number. The macro below makes everything else from
//! it: argument types (which encode to bincode and, unchanged, to libvirt's XDR), the server trait whose default answer
//! is "not supported", the dispatch, the typed client.
//!
//! Adding a call: one entry here and one method in one driver.

#![expect(
    clippy::allow_attributes,
    reason = "expanded code can't know which of its allowances a table needs"
)]

pub mod domain;
pub mod lock;
pub mod log;
pub mod network;
mod object;
pub mod secret;
pub mod stack;
pub mod storage;

pub use object::Object;
#[doc(hidden)]
pub use object::{Named, Unnamed};

use crate::frame::Token;
use std::time::Duration;

/// The parts of a stack that serve or make calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// The supervisor itself (its control socket).
    Broker,
    /// Domains.
    Qemu,
    /// Taps, bridges and virtual networks.
    Network,
    /// Pools and volumes.
    Storage,
    /// Secrets.
    Secret,
    /// Disk leases.
    Lock,
    /// Guests' logs.
    Log,
    /// libvirt's RPC.
    Gateway,
}

impl Driver {
    /// The name that people and files use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Qemu => "qemu",
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Secret => "secret",
            Self::Lock => "lock",
            Self::Log => "log",
            Self::Gateway => "gateway",
        }
    }
}

impl Driver {
    /// The part of libvirt that its objects belong to, as errors tell it that concern none of them in particular.
    #[must_use]
    pub const fn origin(self) -> crate::error::Origin {
        use crate::error::Origin;
        match self {
            Self::Qemu => Origin::DOMAIN,
            Self::Network => Origin::NETWORK,
            Self::Storage => Origin::STORAGE,
            Self::Secret => Origin::SECRET,
            Self::Broker | Self::Lock | Self::Log | Self::Gateway => Origin::RPC,
        }
    }
}

impl std::fmt::Display for Driver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a client must be allowed to do for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Everybody who may connect, read-only clients too.
    Read,
    /// Read-write clients.
    Write,
    /// Only other drivers of the stack.
    Driver,
    /// Only the owner of the stack, over the control socket.
    Owner,
}

/// What a call does to its caller and its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Looks only; may be answered from a snapshot.
    Query,
    /// Changes something.
    Mutate,
    /// Lasts: no deadline, with progress and cancel.
    Job,
}

/// Everything about a call that is not its types.
#[derive(Debug, Clone, Copy)]
pub struct CallInfo {
    /// Number in its driver's table; never used again for something else within one revision.
    pub operation: u16,
    /// Name, also in error texts.
    pub name: &'static str,
    /// Who serves it.
    pub driver: Driver,
    /// Who may call it.
    pub permission: Permission,
    /// What it does.
    pub class: Class,
    /// May it be sent again when the driver died before it answered?
    pub repeatable: bool,
    /// How long a caller waits; zero for class `Job`.
    pub deadline: Duration,
    /// Procedure number in libvirt's `remote` program.
    pub remote: Option<u32>,
    /// Procedure number in libvirt's `qemu` program.
    pub qemu: Option<u32>,
    /// Is the descriptor in its reply, for libvirt's clients, a stream?
    pub stream: bool,
    /// Bytes that the arguments may have.
    pub body_max_bytes: u32,
    /// Do arguments or reply hold what must not stay in memory? Their bytes are wiped after use.
    pub sensitive: bool,
}

impl CallInfo {
    /// What holds unless the entry says otherwise.
    pub const DEFAULT: Self = Self {
        operation: 0,
        name: "",
        driver: Driver::Broker,
        permission: Permission::Write,
        class: Class::Mutate,
        repeatable: false,
        deadline: Duration::from_secs(10),
        remote: None,
        qemu: None,
        stream: false,
        body_max_bytes: 64 << 10,
        sensitive: false,
    };
}

/// How a call reached its server.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The call's entry in the table.
    pub info: &'static CallInfo,
    /// Who it is made for, as the caller says; the server checks it against what the broker told it.
    pub token: Token,
    /// Follows the request through all processes.
    pub trace: u32,
    /// How long the caller still waits; `None` is a job.
    pub time_left: Option<Duration>,
    /// The driver that calls in its own name; `None` for a client, and for a driver that speaks for one.
    pub caller: Option<Driver>,
    /// The driver that speaks for a client which has no channel of its own; `None` for a client that has, and for a driver in
    /// its own name.
    pub speaker: Option<Driver>,
    /// Leads back to the caller's channel, for calls that subscribe.
    #[cfg(feature = "link")]
    pub events: crate::channel::EventSink,
}

/// Something that is done for each call, with its types: encoding, checking, fuzzing.
pub trait EachCall {
    /// One call.
    fn call<A, R>(&mut self, info: &'static CallInfo)
    where
        A: serde::Serialize + serde::de::DeserializeOwned,
        R: serde::Serialize + serde::de::DeserializeOwned;
}

/// Goes through the calls of all tables, in their order.
pub fn each_call(visitor: &mut impl EachCall) {
    domain::each_call(visitor);
    network::each_call(visitor);
    log::each_call(visitor);
    storage::each_call(visitor);
    secret::each_call(visitor);
    lock::each_call(visitor);
    stack::each_call(visitor);
}

/// Numbers the text of a table, so that two builds with different tables can't be taken for one another.
#[must_use]
pub const fn fingerprint(text: &str, seed: u64) -> u64 {
    // FNV-1a; stable by definition, unlike the standard library's hashers.
    let bytes = text.as_bytes();
    let mut hash = seed;
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    hash
}

/// The revision of the whole private wire: all tables and all types in them.
pub const REVISION: u64 = {
    let mut hash = fingerprint(concat!("bulkhead ", env!("CARGO_PKG_VERSION")), 0xcbf2_9ce4_8422_2325);
    hash = fingerprint(domain::TEXT, hash);
    hash = fingerprint(network::TEXT, hash);
    hash = fingerprint(log::TEXT, hash);
    hash = fingerprint(storage::TEXT, hash);
    hash = fingerprint(secret::TEXT, hash);
    hash = fingerprint(lock::TEXT, hash);
    hash = fingerprint(stack::TEXT, hash);
    hash = fingerprint(include_str!("../types.rs"), hash);
    hash = fingerprint(include_str!("../types/network.rs"), hash);
    hash = fingerprint(include_str!("../types/storage.rs"), hash);
    hash = fingerprint(include_str!("../types/secret.rs"), hash);
    hash = fingerprint(include_str!("../types/lock.rs"), hash);
    hash = fingerprint(include_str!("../types/guest.rs"), hash);
    hash = fingerprint(include_str!("../types/parameters.rs"), hash);
    fingerprint(include_str!("../control.rs"), hash)
};

/// All tables.
pub const TABLES: &[(Driver, &[CallInfo])] = &[
    (Driver::Qemu, domain::CALLS),
    (Driver::Network, network::CALLS),
    (Driver::Log, log::CALLS),
    (Driver::Storage, storage::CALLS),
    (Driver::Secret, secret::CALLS),
    (Driver::Lock, lock::CALLS),
    (Driver::Broker, stack::CALLS),
];

/// Finds a call in a driver's table.
#[must_use]
pub fn find(driver: Driver, operation: u16) -> Option<&'static CallInfo> {
    let (_, calls) = TABLES.iter().find(|(served_by, _)| *served_by == driver)?;
    calls.iter().find(|call| call.operation == operation)
}

/// The answer to a call that a driver does not serve.
#[must_use]
pub fn unsupported(info: &CallInfo) -> crate::error::Error {
    use crate::error::{Code, Error, Origin};
    Error::new(
        Code::NO_SUPPORT,
        Origin::RPC,
        format!("This {} driver does not support {}", info.driver, info.name),
    )
}

/// Expands one driver's table. See the module's text.
macro_rules! calls {
    (
        driver: $driver:ident;
        $(
            $(#[doc = $doc:literal])+
            $operation:literal $name:ident ( $($argument:ident : $type:ty),* $(,)? ) -> $reply:ty
            { $($key:ident : $value:expr),* $(,)? }
        )*
    ) => {
        /// The table's text, for the revision.
        pub(crate) const TEXT: &str = stringify!($($operation $name ($($argument : $type),*) -> $reply)*);

        $(
            $(#[doc = $doc])+
            pub mod $name {
                #[allow(unused_imports, reason = "a call without types of ours needs none of them")]
                use super::*;

                /// The entry of this call.
                pub const INFO: CallInfo = CallInfo {
                    operation: $operation,
                    name: stringify!($name),
                    driver: Driver::$driver,
                    $($key: $value,)*
                    ..CallInfo::DEFAULT
                };

                /// Its arguments, in libvirt's order where it is libvirt's call.
                #[derive(Debug, serde::Serialize, serde::Deserialize)]
                pub struct Arguments {
                    $(
                        #[allow(missing_docs, reason = "the call's text says what its arguments are")]
                        pub $argument: $type,
                    )*
                }

                impl crate::table::Object for Arguments {
                    #[allow(clippy::needless_borrow, reason = "which of the two is meant depends on it")]
                    fn object(&self) -> Option<String> {
                        #[allow(unused_imports, reason = "a call may have arguments of one kind alone")]
                        use crate::table::{Named, Unnamed};
                        None$(.or_else(|| (&self.$argument).named()))*
                    }
                }

                /// Its reply.
                pub type Reply = $reply;
            }
        )*

        /// All entries of this table.
        pub const CALLS: &[crate::table::CallInfo] = &[$($name::INFO),*];

        /// All of them, between libvirt's encoding and ours.
        #[allow(dead_code, reason = "a table may have no public call")]
        pub(crate) const TRANSLATIONS: &[crate::remote::Translation] = &[$(crate::remote::Translation {
            info: &$name::INFO,
            arguments: crate::remote::arguments::<$name::Arguments>,
            reply: crate::remote::reply::<$name::Reply>,
        }),*];

        /// Goes through the calls of this table.
        pub fn each_call(visitor: &mut impl crate::table::EachCall) {
            $(visitor.call::<$name::Arguments, $name::Reply>(&$name::INFO);)*
        }

        /// What serves this table. A call that is not implemented answers "not supported".
        pub trait Server: Send + Sync + 'static {
            $(
                $(#[doc = $doc])+
                fn $name(
                    &self,
                    call: crate::table::CallContext,
                    arguments: $name::Arguments,
                ) -> impl Future<Output = Result<$name::Reply, crate::error::Error>> + Send {
                    let _ = (call, arguments);
                    async { Err(crate::table::unsupported(&$name::INFO)) }
                }
            )*
        }

        /// Decodes a call, has it served and encodes the reply.
        pub fn dispatch<S: Server>(
            server: std::sync::Arc<S>,
            call: crate::table::CallContext,
            body: Vec<u8>,
            descriptors: Vec<std::os::fd::OwnedFd>,
        ) -> crate::dispatch::Answer {
            match call.info.operation {
                $(
                    $operation => Box::pin(async move {
                        let arguments = crate::dispatch::arguments(&call, body, descriptors)?;
                        let info = call.info;
                        let reply = server.$name(call, arguments).await?;
                        crate::dispatch::reply(info, &reply)
                    }),
                )*
                _ => Box::pin(async move { Err(crate::table::unsupported(call.info)) }),
            }
        }

        /// Makes the calls of this table.
        #[cfg(feature = "link")]
        #[derive(Debug, Clone)]
        pub struct Client<C = crate::channel::Caller>(pub C);

        #[cfg(feature = "link")]
        impl<C: crate::channel::Calls> Client<C> {
            $(
                $(#[doc = $doc])+
                ///
                /// # Errors
                /// What the driver answers; a deadline that passed; a driver that is gone or held.
                #[allow(clippy::too_many_arguments, reason = "the arguments are libvirt's")]
                pub async fn $name(&self, $($argument: $type),*) -> Result<$name::Reply, crate::error::Error> {
                    self.0.call(&$name::INFO, $name::Arguments { $($argument),* }).await
                }
            )*
        }
    };
}
pub(crate) use calls;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_and_libvirt_numbers_are_unique() {
        let mut numbers = std::collections::HashSet::new();
        for (driver, calls) in TABLES {
            let mut operations = std::collections::HashSet::new();
            for call in *calls {
                assert!(operations.insert(call.operation), "{driver}: {} shares its number", call.name);
                assert_eq!(call.driver, *driver);
                for number in [("remote", call.remote), ("qemu", call.qemu)] {
                    assert!(
                        number.1.is_none() || numbers.insert(number),
                        "procedure {number:?} stands twice"
                    );
                }
            }
        }
    }

    #[test]
    fn only_jobs_wait_for_ever_and_only_queries_are_for_readers() {
        for call in TABLES.iter().flat_map(|(_, calls)| *calls) {
            assert_eq!(call.deadline.is_zero(), call.class == Class::Job, "{}", call.name);
            if call.permission == Permission::Read {
                assert_eq!(call.class, Class::Query, "{}", call.name);
            }
        }
    }
}
