//! What passes in each mode of a network, between guests, the host and others: the same before and after the driver's death.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead_tests::fixture::{Root, driver, figure, kill, libexec, wait_for};
use bulkhead_tests::lab::{Guest, alone, ran, settled};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// Longer than a packet takes; what is kept is refused at once, but for what is dropped elsewhere.
const WITHIN: Duration = Duration::from_millis(700);
const PORT: u16 = 7077;

/// The network with two guests, and another one behind the host.
struct Lab {
    guests: [Guest; 2],
    other: Guest,
}

fn addresses(guest: u8) -> [IpAddr; 2] {
    [format!("10.98.1.{guest}").parse().unwrap(), format!("fd98:1::{guest}").parse().unwrap()]
}

fn host() -> [IpAddr; 2] {
    ["10.98.1.1".parse().unwrap(), "fd98:1::1".parse().unwrap()]
}

fn outside() -> [IpAddr; 2] {
    ["192.0.2.2".parse().unwrap(), "2001:db8:2::2".parse().unwrap()]
}

/// Answers over TCP and UDP with the address that asked.
fn answer() {
    // Somebody in this namespace may do so already.
    let (Ok(tcp), Ok(udp)) = (TcpListener::bind(("::", PORT)), UdpSocket::bind(("::", PORT))) else { return };
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let mut stream: TcpStream = stream;
            let from = stream.peer_addr().map(|from| from.ip().to_canonical().to_string());
            let _ = stream.write_all(from.unwrap_or_default().as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(from.ip().to_canonical().to_string().as_bytes(), from);
        }
    });
}

/// Who is seen at that address, over TCP and over UDP; nothing if nothing passes.
fn ask(address: IpAddr) -> [Option<String>; 2] {
    let to = SocketAddr::new(address, PORT);
    let tcp = TcpStream::connect_timeout(&to, WITHIN).ok().and_then(|mut stream| {
        stream.set_read_timeout(Some(WITHIN)).ok()?;
        let mut seen = String::new();
        stream.read_to_string(&mut seen).ok()?;
        Some(seen)
    });
    let udp = || {
        let socket = UdpSocket::bind((if address.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).ok()?;
        socket.set_read_timeout(Some(WITHIN)).ok()?;
        socket.connect(to).ok()?;
        socket.send(b"?").ok()?;
        let mut buffer = [0; 64];
        let count = socket.recv(&mut buffer).ok()?;
        String::from_utf8(buffer.get(..count)?.to_vec()).ok()
    };
    [tcp, udp()]
}

impl Lab {
    fn new() -> Self {
        let guests = [11_u8, 12].map(|number| {
            let guest = Guest::new("bhpack", &format!("52:54:00:98:00:{number}"));
            guest.run(move || {
                ran(&format!("ip addr add 10.98.1.{number}/24 dev eth0"));
                ran(&format!("ip addr add fd98:1::{number}/64 dev eth0 nodad"));
                ran("ip route add default via 10.98.1.1");
                ran("ip route add default via fd98:1::1");
                answer();
            });
            guest
        });
        settled();
        ran("ip link add uplink type bridge");
        ran("ip addr add 192.0.2.1/24 dev uplink");
        ran("ip addr add 2001:db8:2::1/64 dev uplink nodad");
        ran("ip link set uplink up");
        let other = Guest::new("uplink", "52:54:00:98:00:99");
        other.run(|| {
            ran("ip addr add 192.0.2.2/24 dev eth0");
            ran("ip addr add 2001:db8:2::2/64 dev eth0 nodad");
            ran("ip route add 10.98.1.0/24 via 192.0.2.1");
            ran("ip route add fd98:1::/64 via 2001:db8:2::1");
            answer();
        });
        answer();
        Self { guests, other }
    }

    /// What passes: guest to guest, guest to host, host to guest, guest to others, others to guest; of IPv4 and IPv6.
    fn passes(&self) -> Vec<(&'static str, [[Option<String>; 2]; 2])> {
        let both = |ask: &dyn Fn(IpAddr) -> [Option<String>; 2], to: [IpAddr; 2]| to.map(ask);
        let from = |guest: &Guest, to: [IpAddr; 2]| both(&|to| guest.run(move || ask(to)), to);
        vec![
            ("guest to guest", from(&self.guests[0], addresses(12))),
            ("guest to host", from(&self.guests[0], host())),
            ("host to guest", both(&ask, addresses(11))),
            ("guest to others", from(&self.guests[0], outside())),
            ("others to guest", from(&self.other, addresses(11))),
        ]
    }
}

/// What is to pass, by the address that is seen.
fn expected(mode: &str) -> Vec<(&'static str, [Option<&'static str>; 2])> {
    let (guest, host) = (["10.98.1.11", "fd98:1::11"], ["10.98.1.1", "fd98:1::1"]);
    let all = |seen: [&'static str; 2]| seen.map(Some);
    let others = match mode {
        "none" => ([None, None], [None, None]),
        // IPv6 keeps its addresses unless the definition says otherwise.
        "nat" => ([Some("192.0.2.1"), Some("fd98:1::11")], [None, Some("2001:db8:2::2")]),
        "nat6" => ([Some("192.0.2.1"), Some("2001:db8:2::1")], [None, None]),
        _ => (all(guest), all(["192.0.2.2", "2001:db8:2::2"])),
    };
    vec![
        ("guest to guest", all(guest)),
        ("guest to host", all(guest)),
        ("host to guest", all(host)),
        ("guest to others", others.0),
        ("others to guest", others.1),
    ]
}

fn check(mode: &str, lab: &Lab, when: &str) -> usize {
    let mut count = 0;
    for ((what, seen), (_, wanted)) in lab.passes().into_iter().zip(expected(mode)) {
        for (seen, wanted) in seen.iter().zip(wanted) {
            for seen in seen {
                count += 1;
                assert_eq!(seen.as_deref(), wanted, "{mode}, {what}, {when}");
            }
        }
    }
    count
}

async fn mode(mode: &str, forward: &str) -> usize {
    let root = Root::new();
    let stack = Connection::builder(&root.uri()).libexec(libexec()).open().await.unwrap();
    let xml = format!(
        "<network><name>pack</name>{forward}<bridge name='bhpack'/><ip address='10.98.1.1' prefix='24'/>\
         <ip family='ipv6' address='fd98:1::1' prefix='64'/></network>"
    );
    let networks = stack.networks();
    let network = networks.network_create_xml(xml).await.unwrap();
    // An isolated network does not have it; what keeps its packets in must be its rules.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    let lab = Lab::new();
    let mut count = check(mode, &lab, "at first");
    let (pid, before) = driver(&stack, "network").await.unwrap();
    kill(pid, Signal::SIGKILL);
    count += check(mode, &lab, "without the driver");
    wait_for("the driver is back", SOON, || async {
        let (_, now) = driver(&stack, "network").await?;
        if now > before { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    count += check(mode, &lab, "with the next driver");
    networks.network_destroy(network).await.unwrap();
    stack.stop().await.unwrap();
    count
}

#[tokio::test]
async fn an_isolated_network_keeps_its_packets() {
    if alone() {
        figure(&format!("isolated: {} ways are as they shall be", mode("none", "").await));
    }
}

#[tokio::test]
async fn nat_shows_the_hosts_address_and_lets_nobody_in() {
    if alone() {
        figure(&format!("nat: {} ways are as they shall be", mode("nat", "<forward mode='nat'/>").await));
    }
}

#[tokio::test]
async fn nat_of_ipv6_is_had_on_demand() {
    if alone() {
        let forward = "<forward mode='nat'><nat ipv6='yes'/></forward>";
        figure(&format!("nat of both: {} ways are as they shall be", mode("nat6", forward).await));
    }
}

#[tokio::test]
async fn routes_and_open_networks_let_packets_through() {
    if alone() {
        let routed = mode("route", "<forward mode='route'/>").await;
        ran("ip link del uplink");
        figure(&format!("route: {routed} ways are as they shall be"));
        figure(&format!("open: {} ways are as they shall be", mode("open", "<forward mode='open'/>").await));
    }
}
