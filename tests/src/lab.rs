//! Machines at a virtual network, each a network namespace with one card, and what the kernel knows of a network.
#![expect(clippy::unwrap_used, reason = "parts of tests")]

use crate::fixture::skip;
use nix::sched::{CloneFlags, unshare};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A namespace of this thread's own, and of all that is started from here. Says why not, if not.
///
/// # Panics
/// Where root may not have one.
#[must_use]
pub fn alone() -> bool {
    let dnsmasq = std::path::Path::new("/usr/sbin/dnsmasq").exists();
    if !nix::unistd::geteuid().is_root() || !dnsmasq {
        skip("networks take root, and dnsmasq");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ran("ip link set lo up");
    true
}

/// Interfaces that are made from now on here use their addresses without asking around first, and take none from routers.
///
/// # Panics
/// Where the kernel has no IPv6.
pub fn settled() {
    for setting in ["accept_dad", "accept_ra"] {
        for which in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/{setting}"), "0").unwrap();
        }
    }
}

/// Runs a command; what it says, and whether it was content.
///
/// # Panics
/// When there is no such program.
#[must_use]
pub fn run(line: &str) -> (String, bool) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (text, output.status.success())
}

/// Runs a command that must be content.
///
/// # Panics
/// When it is not.
pub fn ran(line: &str) -> String {
    let (text, well) = run(line);
    assert!(well, "{line}: {text}");
    text
}

/// All that a network could leave behind.
#[must_use]
pub fn kernel() -> String {
    [ran("ip -o link"), ran("ip -o addr"), ran("ip route"), ran("nft list ruleset")].concat()
}

type Work = Box<dyn FnOnce() + Send>;

/// A machine at a bridge, as far as the network can tell: a namespace with one card.
#[derive(Debug)]
pub struct Guest {
    work: mpsc::SyncSender<Work>,
}

static GUESTS: AtomicU32 = AtomicU32::new(0);

impl Guest {
    /// Plugs one in.
    ///
    /// # Panics
    /// When the bridge is not there.
    #[must_use]
    pub fn new(bridge: &str, mac: &str) -> Self {
        let (work, given) = mpsc::sync_channel::<Work>(1);
        let (told, thread) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            // Its addresses are those that a test gives it, at once.
            settled();
            told.send(nix::unistd::gettid()).unwrap();
            while let Ok(work) = given.recv() {
                work();
            }
        });
        let thread = thread.recv().unwrap();
        let number = GUESTS.fetch_add(1, Ordering::Relaxed);
        ran(&format!("ip link add g{number} type veth peer name e{number}"));
        ran(&format!("ip link set e{number} netns {thread}"));
        ran(&format!("ip link set g{number} master {bridge} up"));
        let guest = Self { work };
        let mac = mac.to_owned();
        guest.run(move || {
            ran(&format!("ip link set e{number} name eth0 address {mac} up"));
            ran("ip link set lo up");
        });
        guest
    }

    /// Does something on that machine.
    ///
    /// # Panics
    /// When it takes too long.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, result) = mpsc::sync_channel(1);
        self.work.send(Box::new(move || drop(done.send(work())))).unwrap();
        result.recv_timeout(SOON).unwrap()
    }
}

/// A DHCP client that is just enough of one.
pub mod dhcp {
    use nix::sys::socket::{self, sockopt};
    use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
    use std::time::Duration;

    fn message(kind: u8, mac: [u8; 6], name: &str, wanted: Option<(Ipv4Addr, Ipv4Addr)>) -> Vec<u8> {
        let mut message = vec![1, 1, 6, 0];
        message.extend([7, 7, 7, 7, 0, 0, 0x80, 0]);
        message.extend([0; 16]);
        message.extend(mac);
        message.resize(236, 0);
        message.extend([99, 130, 83, 99, 53, 1, kind, 12, u8::try_from(name.len()).unwrap()]);
        message.extend(name.bytes());
        if let Some((address, server)) = wanted {
            message.extend([50, 4]);
            message.extend(address.octets());
            message.extend([54, 4]);
            message.extend(server.octets());
        }
        message.push(255);
        message
    }

    /// The address that a server gives, and the server's.
    fn heard(socket: &UdpSocket, kind: u8) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let mut buffer = [0; 1500];
        loop {
            let (count, from) = socket.recv_from(&mut buffer).ok()?;
            let message = buffer.get(..count)?;
            let std::net::IpAddr::V4(server) = from.ip() else { continue };
            if message.windows(3).any(|window| window == [53, 1, kind]) {
                let address: [u8; 4] = message.get(16..20)?.try_into().ok()?;
                return Some((address.into(), server));
            }
        }
    }

    /// Asks for an address over an interface.
    #[must_use]
    pub fn lease(interface: &str, mac: [u8; 6], name: &str) -> Option<Ipv4Addr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68)).ok()?;
        socket::setsockopt(&socket, sockopt::BindToDevice, &interface.into()).ok()?;
        socket.set_broadcast(true).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
        let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
        socket.send_to(&message(1, mac, name, None), everybody).ok()?;
        let offered = heard(&socket, 2)?;
        socket.send_to(&message(3, mac, name, Some(offered)), everybody).ok()?;
        heard(&socket, 5).map(|(address, _)| address)
    }
}
