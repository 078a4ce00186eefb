//! What broker and driver say to one another over a driver's control link. The only link a driver has at birth.

use crate::descriptor::{DESCRIPTORS_MAX, Descriptor};
use crate::error::Error;
use crate::frame::Token;
use crate::table::Driver;
use crate::types::Busy;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The folders of a stack. A driver's own are `etc/NAME`, `lib/NAME`, `run/NAME`, `cache/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Definitions.
    pub etc: PathBuf,
    /// What must outlive a reboot and is no definition.
    pub lib: PathBuf,
    /// Live state and sockets.
    pub run: PathBuf,
    /// Logs.
    pub log: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
}

impl Layout {
    /// Those below the root of an embedded stack.
    #[must_use]
    pub fn embed(root: &Path) -> Self {
        let [etc, lib, run, log, cache] = ["etc", "lib", "run", "log", "cache"].map(|name| root.join(name));
        Self { etc, lib, run, log, cache }
    }

    /// Those of a user's own stack.
    #[must_use]
    pub fn session(home: &Path, runtime: &Path) -> Self {
        Self {
            etc: home.join(".config/bulkhead"),
            lib: home.join(".local/share/bulkhead"),
            run: runtime.join("bulkhead"),
            log: home.join(".local/state/bulkhead/log"),
            cache: home.join(".cache/bulkhead"),
        }
    }

    /// Those of the host's stack.
    #[must_use]
    pub fn system() -> Self {
        Self {
            etc: "/etc/bulkhead".into(),
            lib: "/var/lib/bulkhead".into(),
            run: "/run/bulkhead".into(),
            log: "/var/log/bulkhead".into(),
            cache: "/var/cache/bulkhead".into(),
        }
    }

    /// The folder in which a guest's sockets and live files are.
    #[must_use]
    pub fn guest(&self, key: &str) -> PathBuf {
        self.run.join("guests").join(key)
    }
}

/// Who a client is, as the broker read it from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id.
    pub pid: u32,
    /// May it only look?
    pub read_only: bool,
}

/// Which side of a channel a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// It answers the calls.
    Serve,
    /// It makes the calls.
    Call,
}

/// What a helper may do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Open for reading.
    Read,
    /// Open for reading and writing.
    ReadWrite,
    /// A folder in which it may do everything but make device nodes.
    Folder,
}

/// What a file that a client named is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilePurpose {
    /// To read what is in it.
    Read,
    /// To change what is in it.
    Change,
    /// To fill it: it is made, or emptied.
    Fill,
    /// To write behind what is in it: it is made if it is not there.
    Append,
    /// To have it removed: what it was filled with is worth nothing.
    Remove,
}

/// A driver's wish for a helper. A wish: the class's ceiling in the manifest decides.
#[derive(Debug, Serialize, Deserialize)]
pub struct HelperRequest {
    /// The helper's name within the stack, unique (`guest UUID`).
    pub key: String,
    /// The class (`qemu`), which has a ceiling.
    pub class: String,
    /// The program, which the class must list.
    pub program: PathBuf,
    /// Arguments after the program's name.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Files it may open.
    pub files: Vec<(PathBuf, Access)>,
    /// Listening unix sockets that the broker makes in the guest's folder: file name, and number in the helper.
    pub listeners: Vec<(String, i32)>,
    /// Files that it writes to, which the broker makes and opens: number in the helper, path, and whether what the file
    /// holds stays.
    pub outputs: Vec<(i32, PathBuf, bool)>,
    /// Open files that the driver gives: number in the helper, file.
    pub descriptors: Vec<(i32, Descriptor)>,
    /// TCP ports that it may listen on.
    pub ports: Vec<u16>,
    /// May it use the network of the stack? Else it gets an empty one.
    pub network: bool,
    /// Where its standard error goes, if anywhere.
    pub errors: Option<Descriptor>,
    /// Is it ended when the driver's client (the application) goes away?
    pub autodestroy: bool,
}

/// A helper that runs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Helper {
    /// Its key.
    pub key: String,
    /// Its process id.
    pub pid: u32,
    /// What tells it from a later process of the same id: field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
    /// It, exactly: readable when it ends.
    pub process: Descriptor,
}

/// What a driver asks of the broker.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Start a helper.
    HelperStart(Box<HelperRequest>),
    /// Start a driver that this one calls, unless it runs.
    Want {
        /// Which.
        peer: Driver,
    },
    /// Are these TCP ports free?
    PortsFree {
        /// Which.
        ports: Vec<u16>,
    },
    /// End a helper at once.
    HelperKill {
        /// Its key.
        key: String,
    },
    /// Connect to a helper's unix socket in its guest folder.
    Connect {
        /// The helper's key.
        key: String,
        /// The socket's file name.
        socket: String,
    },
    /// Make a listening unix socket in a helper's guest folder.
    Listen {
        /// The helper's key.
        key: String,
        /// The socket's file name.
        socket: String,
    },
    /// Open a terminal that a helper made (`/dev/pts/4`).
    Terminal {
        /// The helper's key.
        key: String,
        /// Its path, as the helper named it.
        path: PathBuf,
    },
    /// Open a file for a helper that runs, as far as its class's ceiling lets it have the file.
    Open {
        /// The helper's key.
        key: String,
        /// Which.
        path: PathBuf,
        /// What for.
        purpose: FilePurpose,
    },
    /// Keep a descriptor for the next incarnation.
    Deposit {
        /// Its name, unique within the driver.
        name: String,
        /// The open file.
        file: Descriptor,
    },
    /// Drop a deposited descriptor.
    Withdraw {
        /// Its name.
        name: String,
    },
    /// Open a file that a client named, which the driver itself can't.
    File {
        /// Which.
        path: PathBuf,
        /// What for.
        purpose: FilePurpose,
    },
    /// Open a file of the control group of a helper, for reading and writing.
    Group {
        /// The helper's key.
        key: String,
        /// The file's name (`memory.max`), with that of a part of the group for some of its threads (`vcpu0/cpu.max`).
        file: String,
        /// A thread to be put into that part.
        thread: Option<u32>,
    },
    /// Make a pool's folder with those above it, or remove it if it is empty.
    PoolFolder {
        /// Which.
        path: PathBuf,
        /// Make it? Else remove it.
        make: bool,
    },
    /// Have packets passed on between the interfaces of the stack's network namespace.
    Forward {
        /// Those of IPv6? Else of IPv4.
        ipv6: bool,
    },
    /// Have a bridge speak IPv6, or not; in any case it listens to no other router.
    BridgeIpv6 {
        /// Its name.
        interface: String,
        /// Does it?
        enable: bool,
    },
    /// The driver is about to adopt this object: should it die now, the object is to blame.
    Adopting {
        /// The object's name within the driver; empty: no longer adopting.
        object: String,
    },
    /// An object that was set aside has been made anew: adopt it again.
    Reinstate {
        /// Its name within the driver.
        object: String,
    },
}

/// What the broker answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    /// Done.
    Done,
    /// The helper runs.
    Helper(Helper),
    /// The open file.
    File(Descriptor),
}

/// From the broker to a driver.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToDriver {
    /// After the driver has confined itself, ahead of the welcome: what belongs into it and takes more descriptors than one
    /// message carries.
    Inheritance {
        /// As [`Welcome::deposits`].
        deposits: Vec<(String, Descriptor)>,
        /// As [`Welcome::helpers`].
        helpers: Vec<Helper>,
    },
    /// The first message but for what is inherited.
    Welcome(Box<Welcome>),
    /// One end of a channel.
    ChannelUp {
        /// Who is at the other end.
        peer: Driver,
        /// Which side this driver has.
        side: Side,
        /// The client, if the other end is one and not a driver: what its own token stands for.
        client: Option<Identity>,
        /// The socket.
        socket: Descriptor,
    },
    /// A peer can't be had: calls to it fail at once with this reason.
    ChannelHeld {
        /// Who.
        peer: Driver,
        /// Why.
        reason: String,
    },
    /// A client of libvirt's protocol, for the gateway: its accepted connection.
    Connection {
        /// Its token, known already to the drivers that the gateway calls.
        token: Token,
        /// Who it is.
        identity: Identity,
        /// The connection.
        socket: Descriptor,
        /// A file in memory, in which the gateway's next process finds what this one left there.
        state: Descriptor,
    },
    /// From now on this token may be used.
    ClientUp {
        /// The token.
        token: Token,
        /// Whose it is.
        identity: Identity,
    },
    /// A client has gone; its token is void.
    ClientDown {
        /// The token.
        token: Token,
    },
    /// Answer with a beat of the same number.
    Heartbeat {
        /// Its number.
        number: u64,
    },
    /// The answer to a request.
    Answer {
        /// The request's id.
        id: u64,
        /// The answer.
        result: Result<Response, Error>,
    },
    /// A helper has ended.
    HelperEnded {
        /// Its key.
        key: String,
        /// Its process id: a later helper of the same key is another one.
        pid: u32,
        /// Exit code, or minus the signal; `None` if somebody else reaped it.
        status: Option<i32>,
    },
    /// Leave in order.
    Stop,
}

/// Deposits, and helpers, that one message carries: each half of the descriptors that a frame can.
const INHERITED_AT_ONCE: usize = DESCRIPTORS_MAX / 2;

impl ToDriver {
    /// What is on the shelf and what runs, in as many messages as its descriptors need.
    #[must_use]
    pub fn inheritance(mut deposits: Vec<(String, Descriptor)>, mut helpers: Vec<Helper>) -> Vec<Self> {
        let mut parts = Vec::new();
        while !deposits.is_empty() || !helpers.is_empty() {
            let some = |left: usize| ..left.min(INHERITED_AT_ONCE);
            let deposits = deposits.drain(some(deposits.len())).collect();
            let helpers = helpers.drain(some(helpers.len())).collect();
            parts.push(Self::Inheritance { deposits, helpers });
        }
        parts
    }
}

/// What a driver needs to know to begin.
#[derive(Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// Which start of this driver it is, from 1.
    pub incarnation: u64,
    /// Tells this opening of the stack from all others.
    pub opening: u64,
    /// The stack's folders.
    pub layout: Layout,
    /// `system`, `session` or `embed`.
    pub mode: String,
    /// The process whose end is the driver's end too (the application, the broker).
    pub owner: Option<Descriptor>,
    /// What earlier incarnations deposited. On the link it comes as [`ToDriver::Inheritance`].
    pub deposits: Vec<(String, Descriptor)>,
    /// Helpers of this driver that run. On the link they come as [`ToDriver::Inheritance`].
    pub helpers: Vec<Helper>,
    /// Objects not to be adopted.
    pub set_aside: Vec<String>,
    /// Programs that the host's owner allows for each class of helper.
    pub programs: Vec<(String, PathBuf)>,
    /// What each driver that calls this one may be given, in this driver's words.
    pub grants: Vec<(Driver, Vec<String>)>,
    /// Clients whose tokens other drivers may use when they call.
    pub clients: Vec<(Token, Identity)>,
    /// Faults to make, if the stack was opened for it.
    pub faults: Vec<FaultRule>,
}

/// The n-th time that a point of a driver's code is reached, the driver fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRule {
    /// The driver.
    pub driver: Driver,
    /// The point (`definition.before_rename`, `domain_create_with_flags.before`).
    pub point: String,
    /// Which time, from 1, in the driver's first incarnation; 0 is every time in every incarnation.
    pub nth: u32,
    /// Hangs instead of ending at once.
    pub hang: bool,
}

/// From a driver to the broker.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromDriver {
    /// Confined; what is really in force and what is missing.
    Confined {
        /// In force, in a few words each.
        in_force: Vec<String>,
        /// Missing, each with the consequence.
        missing: Vec<String>,
    },
    /// State is recovered; channels may come.
    Ready,
    /// The answer to a heartbeat.
    Beat {
        /// Its number.
        number: u64,
        /// What its objects are busy with, 64 at most.
        busy: Vec<Busy>,
    },
    /// A client's connection has ended, and so have its calls.
    ClientGone {
        /// Its token.
        token: Token,
    },
    /// A request.
    Ask {
        /// Its id.
        id: u64,
        /// What is asked.
        request: Request,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn any_number_of_deposits_and_helpers_is_inherited_in_messages_that_can_be_sent() {
        let file = || Descriptor::new(std::fs::File::open("/dev/null").unwrap().into());
        let deposits: Vec<_> = (0..150).map(|number| (number.to_string(), file())).collect();
        let helper = |pid: u32| Helper { key: pid.to_string(), pid, start_ticks: 0, process: file() };
        let (mut deposited, mut running) = (0, 0);
        for part in ToDriver::inheritance(deposits, (0..70).map(helper).collect()) {
            let (body, files) = codec::encode(&part).unwrap();
            match codec::decode(&body, files).unwrap() {
                ToDriver::Inheritance { deposits, helpers } => {
                    deposited += deposits.len();
                    running += helpers.len();
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((deposited, running), (150, 70));
    }
}
