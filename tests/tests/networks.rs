//! Virtual networks that run, in a network namespace of the test's own: what is in the kernel, who serves guests, and what is
//! left after deaths.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead::wire::types::network::NetworkRef;
use bulkhead_tests::fixture::{Root, driver, figure, kill, libexec, wait_for};
use bulkhead_tests::lab::{Guest, alone, dhcp, kernel, ran, run};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

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

#[tokio::test]
async fn networks_start_and_stop_without_waiting_for_anybody() {
    if !alone() {
        return;
    }
    let root = Root::new();
    let stack = Connection::builder(&root.uri()).libexec(libexec()).open().await.unwrap();
    let network = defined(&stack, NAT).await;
    let networks = stack.networks();
    let (mut starts, mut updates, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..5 {
        let began = Instant::now();
        networks.network_create(network.clone()).await.unwrap();
        starts.push(began.elapsed());
        let host = format!("<host mac='52:54:00:aa:01:0{round}' ip='10.99.7.6{round}'/>");
        let began = Instant::now();
        networks.network_update(network.clone(), 3, 4, 0, host, 1).await.unwrap();
        updates.push(began.elapsed());
        let began = Instant::now();
        networks.network_destroy(network.clone()).await.unwrap();
        stops.push(began.elapsed());
    }
    for (what, mut times) in [("start", starts), ("a host more", updates), ("stop", stops)] {
        times.sort();
        figure(&format!("nat with addresses and names: {what} {} ms", times[2].as_micros() as f64 / 1000.0));
        // None waits for anything that takes its time; how quick they are is for a bench to say.
        assert!(times[2] < Duration::from_secs(5), "{what}: {times:?}");
    }
    stack.stop().await.unwrap();
}
