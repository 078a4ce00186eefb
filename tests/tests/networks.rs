//! Virtual networks that run, in a network namespace of the test's own: what is in the kernel, who serves guests, and what is
//! left after deaths.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead::wire::types::network::NetworkRef;
use bulkhead_tests::fixture::{Root, driver, kill, libexec, skip, wait_for};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A namespace of this thread's own, and of all that is started from here. Says why not, if not.
fn alone() -> bool {
    let dnsmasq = std::path::Path::new("/usr/sbin/dnsmasq").exists();
    if !nix::unistd::geteuid().is_root() || !dnsmasq {
        skip("networks take root, and dnsmasq");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ran("ip link set lo up");
    true
}

fn run(line: &str) -> (String, bool) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (text, output.status.success())
}

fn ran(line: &str) -> String {
    let (text, well) = run(line);
    assert!(well, "{line}: {text}");
    text
}

/// All that a network could leave behind.
fn kernel() -> String {
    [ran("ip -o link"), ran("ip -o addr"), ran("ip route"), ran("nft list ruleset")].concat()
}

const NAT: &str = "<network><name>lab</name><forward mode='nat'/><bridge name='bhlab'/><domain name='lab.test'/>\
    <ip address='10.99.7.1' prefix='24'><dhcp><range start='10.99.7.10' end='10.99.7.20'/>\
    <host mac='52:54:00:aa:00:01' name='known' ip='10.99.7.50'/></dhcp></ip>\
    <ip family='ipv6' address='fd99:7::1' prefix='64'/></network>";

async fn defined(stack: &Connection, xml: &str) -> NetworkRef {
    stack.networks().network_define_xml(xml.to_owned()).await.unwrap()
}

/// A helper that serves the network.
fn serving(root: &Root) -> Vec<u32> {
    root.helpers()
}

#[tokio::test]
async fn a_network_is_set_up_serves_and_is_taken_down_exactly() {
    if !alone() {
        return;
    }
    let root = Root::new();
    let stack = Connection::builder(&root.uri()).libexec(libexec()).open().await.unwrap();
    let before = kernel();
    let network = defined(&stack, NAT).await;
    let networks = stack.networks();
    networks.network_create(network.clone()).await.unwrap();
    let (links, addresses) = (ran("ip -d link show bhlab"), ran("ip addr show bhlab"));
    assert!(links.contains("bridge") && links.contains("stp_state 0"), "{links}");
    assert!(addresses.contains("10.99.7.1/24") && addresses.contains("fd99:7::1/64"), "{addresses}");
    let rules = ran("nft list ruleset");
    for part in ["table inet bulkhead_bhlab", "masquerade", "10.99.7.0/24", "reject"] {
        assert!(rules.contains(part), "{part}: {rules}");
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    assert_eq!(serving(&root).len(), 1);
    // A second one on the same network is told whose it is.
    let other = NAT.replace("lab", "two").replace("bhtwo", "bhother");
    let other = defined(&stack, &other).await;
    let refused = networks.network_create(other.clone()).await.unwrap_err();
    assert!(refused.message.contains("in use by interface bhlab"), "{refused}");
    networks.network_undefine(other).await.unwrap();
    networks.network_destroy(network.clone()).await.unwrap();
    assert_eq!(kernel(), before);
    assert!(serving(&root).is_empty());
    networks.network_undefine(network).await.unwrap();
    stack.close().await;
}

#[tokio::test]
async fn a_guest_gets_an_address_and_its_name_is_known() {
    if !alone() {
        return;
    }
    let root = Root::new();
    let stack = Connection::builder(&root.uri()).libexec(libexec()).open().await.unwrap();
    let network = defined(&stack, NAT).await;
    stack.networks().network_create(network.clone()).await.unwrap();
    let guest = Guest::new("bhlab", "52:54:00:aa:00:01");
    let lease = guest.run(|| dhcp::lease("eth0", [0x52, 0x54, 0, 0xaa, 0, 1], "web")).unwrap();
    assert_eq!(lease.to_string(), "10.99.7.50");
    let leases = wait_for("the lease is known", SOON, || async {
        let leases = stack.networks().network_get_dhcp_leases(network.clone(), None, 1, 0).await.unwrap();
        if leases.count == 1 { Ok(leases.leases) } else { Err(format!("{leases:?}")) }
    })
    .await;
    assert_eq!(leases[0].address, "10.99.7.50");
    assert_eq!(leases[0].mac.as_deref(), Some("52:54:00:aa:00:01"));
    stack.networks().network_destroy(network).await.unwrap();
    stack.close().await;
}

#[tokio::test]
async fn networks_go_on_over_deaths_and_what_others_removed_is_put_back() {
    if !alone() {
        return;
    }
    let root = Root::new();
    let stack = Connection::builder(&root.uri()).libexec(libexec()).open().await.unwrap();
    let network = defined(&stack, NAT).await;
    stack.networks().network_create(network.clone()).await.unwrap();
    let (whole, served) = (kernel(), serving(&root));
    let (pid, incarnation) = driver(&stack, "network").await.unwrap();
    kill(pid, Signal::SIGKILL);
    let again = || async {
        let (_, now) = driver(&stack, "network").await?;
        if now > incarnation { Ok(()) } else { Err("the driver is not back".to_owned()) }
    };
    wait_for("the driver is back", SOON, again).await;
    assert_eq!(stack.networks().network_is_active(network.clone()).await.unwrap(), 1);
    // Not a rule, not a process was touched.
    assert_eq!((kernel(), serving(&root)), (whole.clone(), served.clone()));
    kill(served[0], Signal::SIGKILL);
    wait_for("names are served again", SOON, || async {
        let now = serving(&root);
        if now.len() == 1 && now != served { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    ran("nft flush ruleset");
    wait_for("rules are back", SOON, || async {
        let now = ran("nft list ruleset");
        if now.contains("bulkhead_bhlab") && now.contains("masquerade") { Ok(()) } else { Err(now) }
    })
    .await;
    ran("ip link del bhlab");
    wait_for("the bridge is back", SOON, || async {
        let (now, _) = run("ip addr show bhlab");
        if now.contains("10.99.7.1/24") { Ok(()) } else { Err(now) }
    })
    .await;
    stack.networks().network_destroy(network).await.unwrap();
    stack.close().await;
}

type Work = Box<dyn FnOnce() + Send>;

/// A machine at a bridge, as far as the network can tell: a namespace with one card.
struct Guest {
    work: mpsc::SyncSender<Work>,
}

static GUESTS: AtomicU32 = AtomicU32::new(0);

impl Guest {
    fn new(bridge: &str, mac: &str) -> Self {
        let (work, given) = mpsc::sync_channel::<Work>(1);
        let (told, thread) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
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
    fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, result) = mpsc::sync_channel(1);
        self.work.send(Box::new(move || drop(done.send(work())))).unwrap();
        result.recv_timeout(SOON).unwrap()
    }
}

/// A DHCP client that is just enough of one.
mod dhcp {
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
    pub(super) fn lease(interface: &str, mac: [u8; 6], name: &str) -> Option<Ipv4Addr> {
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
