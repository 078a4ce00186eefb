//! What is forbidden to whom, as data: the deny tests are generated from it. What is allowed has a reason, and the list of
//! that may only shrink.

/// A process with a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The qemu driver.
    QemuDriver,
    /// The network driver.
    NetworkDriver,
    /// The log driver.
    LogDriver,
    /// The secret driver.
    SecretDriver,
    /// The lock driver.
    LockDriver,
    /// The gateway.
    GatewayDriver,
    /// The storage driver.
    StorageDriver,
    /// A guest's QEMU without a network of the host's.
    Qemu,
    /// A guest's QEMU with user networking or a display on the network.
    QemuNetworked,
    /// The QEMU that is asked what it can do.
    QemuProbe,
    /// A guest's TPM.
    Swtpm,
    /// What makes a TPM before a guest's first start.
    SwtpmSetup,
    /// What looks into a pool's folder.
    Pool,
    /// What serves names and addresses to a network's guests.
    Dnsmasq,
}

/// A thing that must not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// Open `/etc/shadow`.
    OpenShadow,
    /// Open a file outside that any user may read.
    ReadOutside,
    /// Read another driver's state.
    ReadOtherState,
    /// Read another guest's folder.
    ReadOtherGuest,
    /// Make a file outside.
    MakeOutside,
    /// Write to a file outside.
    WriteOutside,
    /// Change the mode of a file outside, by any of the calls.
    ChmodOutside,
    /// Change a file's times or extended attributes outside.
    AttributesOutside,
    /// Have a hard link to a file outside.
    LinkOutside,
    /// Open a file outside through a link in a folder of its own or `/proc`.
    ThroughLink,
    /// Learn that a file outside exists.
    SeeOutside,
    /// Connect over TCP.
    TcpOut,
    /// Send over UDP.
    UdpOut,
    /// Connect to a unix socket by its path.
    UnixConnect,
    /// Send a datagram to a unix socket by its path.
    UnixDatagram,
    /// Bind a TCP port.
    BindTcp,
    /// Make a unix socket with a name.
    BindUnix,
    /// Execute a program of the host.
    Exec,
    /// Execute a file of its own making.
    ExecOwn,
    /// Have a second process.
    Fork,
    /// Trace a neighbour, or read its memory.
    Trace,
    /// Take a descriptor from a neighbour: another driver's channel.
    OtherChannel,
    /// Use a descriptor that its parent forgot to close.
    Inherited,
    /// Send the broker a signal.
    SignalBroker,
    /// Change limits or priority of the broker.
    LimitBroker,
    /// Mount.
    Mount,
    /// Have new namespaces.
    Unshare,
    /// Load a program into the kernel.
    Bpf,
    /// `io_uring`, `userfaultfd`, performance counters, keys.
    Kernel,
    /// Have memory that can be executed.
    ExecutableMemory,
    /// Open somebody else's terminal.
    OtherTerminal,
    /// Make a device node.
    MakeDevice,
    /// Become another user.
    OtherUser,
}

/// A thing that a driver must not get by asking its broker for it. No driver gets any of these, so there are no exceptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A program that its class does not list, or that anybody else than root could have written.
    OtherProgram,
    /// A helper of a class that is not its own.
    OtherClass,
    /// A file of the host's that is never given.
    HostFile,
    /// State of another driver or of the broker.
    OtherState,
    /// A disk, a socket or the folder of another guest.
    OtherGuest,
    /// A forbidden file by a name that leads there: `..`, links, `/proc`.
    OtherName,
    /// A forbidden file by a link that is exchanged while the broker looks.
    SwappedLink,
    /// A forbidden file by a hard link.
    HardLink,
    /// A device node that is no guest's.
    DeviceNode,
    /// A file made or emptied where no guest writes.
    OutputOutside,
    /// An environment that steers the loader or the program into running somebody's code.
    SteeringEnvironment,
    /// Descriptor numbers that are taken, out of range, named twice, or without a file.
    DescriptorNumber,
    /// The network, or its ports, for a class or an instance without it.
    Network,
    /// A key that leads out of the guests' folder.
    OddKey,
    /// Anything with the helper of another driver.
    OtherHelper,
    /// A connection to a socket that is not a guest of its own's, or that never answers.
    OtherSocket,
    /// A terminal that its guest did not make.
    OtherTerminal,
    /// More helpers than its class may have.
    TooManyHelpers,
    /// Wishes of a size that nobody needs.
    TooMuch,
    /// More deposits than its manifest allows.
    TooManyDeposits,
    /// A channel to a driver that its manifest does not name.
    OtherChannel,
}

/// What the matrix says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It fails, whatever the machine lacks.
    Denied,
    /// It fails where there are namespaces; without, it is possible for this reason.
    AllowedBare(&'static str),
    /// It is possible, for this reason.
    Allowed(&'static str),
    /// The trampoline can't decide it; what does, and is tested there.
    Elsewhere(&'static str),
}

/// All processes.
pub const PROCESSES: &[Process] = &[
    Process::QemuDriver,
    Process::NetworkDriver,
    Process::LogDriver,
    Process::SecretDriver,
    Process::LockDriver,
    Process::GatewayDriver,
    Process::StorageDriver,
    Process::Qemu,
    Process::QemuNetworked,
    Process::QemuProbe,
    Process::Swtpm,
    Process::SwtpmSetup,
    Process::Pool,
    Process::Dnsmasq,
];

/// All forbidden things.
pub const THINGS: &[Forbidden] = &[
    Forbidden::OpenShadow,
    Forbidden::ReadOutside,
    Forbidden::ReadOtherState,
    Forbidden::ReadOtherGuest,
    Forbidden::MakeOutside,
    Forbidden::WriteOutside,
    Forbidden::ChmodOutside,
    Forbidden::AttributesOutside,
    Forbidden::LinkOutside,
    Forbidden::ThroughLink,
    Forbidden::SeeOutside,
    Forbidden::TcpOut,
    Forbidden::UdpOut,
    Forbidden::UnixConnect,
    Forbidden::UnixDatagram,
    Forbidden::BindTcp,
    Forbidden::BindUnix,
    Forbidden::Exec,
    Forbidden::ExecOwn,
    Forbidden::Fork,
    Forbidden::Trace,
    Forbidden::OtherChannel,
    Forbidden::Inherited,
    Forbidden::SignalBroker,
    Forbidden::LimitBroker,
    Forbidden::Mount,
    Forbidden::Unshare,
    Forbidden::Bpf,
    Forbidden::Kernel,
    Forbidden::ExecutableMemory,
    Forbidden::OtherTerminal,
    Forbidden::MakeDevice,
    Forbidden::OtherUser,
];

/// The drivers, each of which is tried as the one that was captured.
pub const DRIVERS: &[Process] = &[Process::QemuDriver, Process::NetworkDriver, Process::LogDriver];

/// All wishes that must not be granted.
pub const WISHES: &[Wish] = &[
    Wish::OtherProgram,
    Wish::OtherClass,
    Wish::HostFile,
    Wish::OtherState,
    Wish::OtherGuest,
    Wish::OtherName,
    Wish::SwappedLink,
    Wish::HardLink,
    Wish::DeviceNode,
    Wish::OutputOutside,
    Wish::SteeringEnvironment,
    Wish::DescriptorNumber,
    Wish::Network,
    Wish::OddKey,
    Wish::OtherHelper,
    Wish::OtherSocket,
    Wish::OtherTerminal,
    Wish::TooManyHelpers,
    Wish::TooMuch,
    Wish::TooManyDeposits,
    Wish::OtherChannel,
];

/// Everything that is not simply denied.
pub const EXCEPTIONS: &[(Process, Forbidden, Verdict)] = &[
    (Process::QemuDriver, Forbidden::SeeOutside, Verdict::AllowedBare(NAMES)),
    (Process::NetworkDriver, Forbidden::SeeOutside, Verdict::AllowedBare(NAMES)),
    (Process::LogDriver, Forbidden::SeeOutside, Verdict::AllowedBare(NAMES)),
    (Process::SecretDriver, Forbidden::SeeOutside, Verdict::AllowedBare(NAMES)),
    (Process::LockDriver, Forbidden::SeeOutside, Verdict::AllowedBare(NAMES)),
    (Process::GatewayDriver, Forbidden::SeeOutside, Verdict::AllowedBare(NAMES)),
    (Process::StorageDriver, Forbidden::SeeOutside, Verdict::AllowedBare(NAMES)),
    (Process::Pool, Forbidden::SeeOutside, Verdict::AllowedBare(NAMES)),
    (Process::Pool, Forbidden::Inherited, Verdict::Elsewhere(LAUNCHER)),
    (Process::Pool, Forbidden::ExecutableMemory, Verdict::Allowed(MAPS)),
    (Process::Qemu, Forbidden::SeeOutside, Verdict::Allowed(OPENED)),
    (Process::QemuNetworked, Forbidden::SeeOutside, Verdict::Allowed(OPENED)),
    (Process::QemuProbe, Forbidden::SeeOutside, Verdict::Allowed(OPENED)),
    (Process::Swtpm, Forbidden::SeeOutside, Verdict::Allowed(OPENED)),
    (Process::SwtpmSetup, Forbidden::SeeOutside, Verdict::AllowedBare(NAMES)),
    (Process::Qemu, Forbidden::ExecutableMemory, Verdict::Allowed(TCG)),
    (Process::QemuNetworked, Forbidden::ExecutableMemory, Verdict::Allowed(TCG)),
    (Process::QemuProbe, Forbidden::ExecutableMemory, Verdict::Allowed(TCG)),
    (Process::QemuNetworked, Forbidden::TcpOut, Verdict::Allowed(NETWORK)),
    (Process::QemuNetworked, Forbidden::UdpOut, Verdict::Allowed(NETWORK)),
    (Process::QemuNetworked, Forbidden::BindTcp, Verdict::Allowed(LISTENS)),
    (Process::Qemu, Forbidden::OtherTerminal, Verdict::AllowedBare(TERMINALS)),
    (Process::QemuNetworked, Forbidden::OtherTerminal, Verdict::AllowedBare(TERMINALS)),
    (Process::Qemu, Forbidden::Inherited, Verdict::Elsewhere(LAUNCHER)),
    (Process::QemuNetworked, Forbidden::Inherited, Verdict::Elsewhere(LAUNCHER)),
    (Process::QemuProbe, Forbidden::Inherited, Verdict::Elsewhere(LAUNCHER)),
    (Process::Swtpm, Forbidden::Inherited, Verdict::Elsewhere(LAUNCHER)),
    (Process::SwtpmSetup, Forbidden::Inherited, Verdict::Elsewhere(LAUNCHER)),
    (Process::Swtpm, Forbidden::ExecutableMemory, Verdict::Allowed(MAPS)),
    (Process::SwtpmSetup, Forbidden::ExecutableMemory, Verdict::Allowed(MAPS)),
    (Process::SwtpmSetup, Forbidden::Fork, Verdict::Allowed(PARTS)),
    (Process::Dnsmasq, Forbidden::SeeOutside, Verdict::Allowed(CHANGING)),
    (Process::Dnsmasq, Forbidden::Inherited, Verdict::Elsewhere(LAUNCHER)),
    (Process::Dnsmasq, Forbidden::ExecutableMemory, Verdict::Allowed(MAPS)),
    (Process::Dnsmasq, Forbidden::Fork, Verdict::Allowed(QUESTIONS)),
    (Process::Dnsmasq, Forbidden::TcpOut, Verdict::Allowed(PASSES_ON)),
    (Process::Dnsmasq, Forbidden::UdpOut, Verdict::Allowed(PASSES_ON)),
    (Process::Dnsmasq, Forbidden::BindTcp, Verdict::Allowed(SERVES)),
];

const NAMES: &str = "Landlock does not hide names; a view of its own takes a mount namespace";
const OPENED: &str =
    "its files are named by descriptors, which a view of its own can't show at their paths yet";
const TCG: &str = "TCG translates the guest's code into memory that it then executes";
const MAPS: &str = "its libraries are mapped by a loader that this filter can't tell from the program";
const PARTS: &str =
    "swtpm_setup is made of several programs; Landlock names them, a process namespace ends them together";
const CHANGING: &str =
    "the host's resolv.conf is replaced as networks come and go, which a view of its own would not follow";
const QUESTIONS: &str =
    "a question over TCP may last, and is answered by a process of its own that ends with it";
const PASSES_ON: &str = "guests' questions are passed on to the host's name servers";
const SERVES: &str = "guests ask it over TCP too";
const NETWORK: &str = "user networking opens the guest's connections";
const LISTENS: &str = "displays and forwarded ports are listened on";
const TERMINALS: &str = "terminals of its own take a mount namespace; without, it may open its user's";
const LAUNCHER: &str = "the trampoline keeps what the broker passes; the broker's launcher closes the rest";

/// What the matrix says about a process and a thing.
#[must_use]
pub fn verdict(process: Process, thing: Forbidden) -> Verdict {
    EXCEPTIONS
        .iter()
        .find(|(whose, what, _)| *whose == process && *what == thing)
        .map_or(Verdict::Denied, |(_, _, verdict)| *verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_only_become_fewer_and_name_each_pair_once() {
        // It grows with the processes alone: names can't be hidden from any of them without namespaces.
        assert!(EXCEPTIONS.len() <= 45, "an exception was added; take another way");
        for (index, (process, thing, _)) in EXCEPTIONS.iter().enumerate() {
            let mut later = EXCEPTIONS.iter().skip(index + 1);
            assert!(later.all(|(whose, what, _)| (whose, what) != (process, thing)));
        }
    }
}
