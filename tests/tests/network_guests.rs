//! Guests at a virtual network: they get their addresses, and what they were plugged into goes with them, whoever dies.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead::wire::types::network::NetworkRef;
use bulkhead_tests::fixture::{Root, driver, guest_files, kill, libexec, linux_xml, skip, wait_for};
use bulkhead_tests::lab::{alone, kernel, ran, run};
use nix::sys::signal::Signal;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

const LAB: &str = "<network><name>lab</name><bridge name='bhlab'/><ip address='10.99.8.1' prefix='24'><dhcp>\
    <range start='10.99.8.10' end='10.99.8.20'/><host mac='52:54:00:aa:08:01' ip='10.99.8.50'/></dhcp></ip></network>";

async fn ports(stack: &Connection, network: &NetworkRef) -> usize {
    stack.networks().network_list_all_ports(network.clone(), 1, 0).await.unwrap().ports.len()
}

async fn killed(stack: &Connection, name: &str) {
    let (pid, incarnation) = driver(stack, name).await.unwrap();
    kill(pid, Signal::SIGKILL);
    wait_for("the next incarnation", SOON, || async {
        let (_, now) = driver(stack, name).await?;
        if now > incarnation { Ok(()) } else { Err("the old one".to_owned()) }
    })
    .await;
}

/// What the command shows of the stack.
async fn shown(root: &Root, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(libexec().join("bulkhead"));
    command.arg("--root").arg(root.path()).args(arguments).stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(SOON, command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_guest_gets_its_address_and_leaves_nothing_whoever_died() {
    let Some(files) = guest_files() else { return skip("no guest files; ./mk guest makes them") };
    if !alone() {
        return;
    }
    let root = Root::new();
    let stack = Connection::builder(&root.uri()).libexec(libexec()).open().await.unwrap();
    let network = stack.networks().network_define_xml(LAB.to_owned()).await.unwrap();
    let output = root.path().join("serial.txt");
    let devices = format!(
        "<serial type='file'><source path='{}'/></serial><interface type='network'><mac address='52:54:00:aa:08:01'/>\
         <source network='lab'/><model type='virtio'/></interface>",
        output.display()
    );
    let domains = stack.domains();
    let guest = domains.domain_define_xml_flags(linux_xml("web", &files, "net", &devices), 0).await.unwrap();

    let before = kernel();
    let refused = domains.domain_create_with_flags(guest.clone(), 0).await.unwrap_err();
    assert!(refused.message.contains("Network 'lab' is not active"), "{refused}");
    assert_eq!((kernel(), ports(&stack, &network).await), (before.clone(), 0));

    stack.networks().network_create(network.clone()).await.unwrap();
    domains.domain_create_with_flags(guest.clone(), 0).await.unwrap();
    let live = domains.domain_get_xml_desc(guest.clone(), 0).await.unwrap();
    assert!(live.contains("network='lab'") && live.contains("bridge='bhlab'"), "{live}");
    let port = live.split("portid='").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    let listed = stack.networks().network_list_all_ports(network.clone(), 1, 0).await.unwrap();
    assert_eq!(listed.ports[0].uuid.to_string(), port);
    let plugged = || ran("ip -o link show master bhlab").lines().count();
    assert_eq!(plugged(), 1);
    // Of the definition nothing of that is part.
    let inactive = domains.domain_get_xml_desc(guest.clone(), 2).await.unwrap();
    assert!(!inactive.contains("portid") && !inactive.contains("bhlab"), "{inactive}");
    for name in ["network", "qemu"] {
        killed(&stack, name).await;
        assert_eq!((ports(&stack, &network).await, plugged()), (1, 1), "{name}");
    }
    let said = wait_for("the guest has an address", SOON, || async {
        let text = std::fs::read_to_string(&output).unwrap_or_default();
        match text.lines().find(|line| line.starts_with("Bulkhead guest has ")) {
            Some(line) => Ok(line.trim_end().to_owned()),
            None => Err(text),
        }
    })
    .await;
    assert_eq!(said, "Bulkhead guest has address: 10.99.8.50/24");

    let shown = shown(&root, &["net", "leases", "lab"]).await;
    assert!(shown.contains("10.99.8.50/24") && shown.contains("52:54:00:aa:08:01"), "{shown}");
    let shown = self::shown(&root, &["net", "ports", "lab"]).await;
    assert!(shown.contains(port) && shown.contains("web") && shown.contains("bhlab"), "{shown}");
    let shown = self::shown(&root, &["net", "list"]).await;
    assert!(shown.contains("lab") && shown.contains("active"), "{shown}");

    // Where the bridge is made again, the guest is plugged in again.
    ran("ip link del bhlab");
    wait_for("the guest is plugged in again", SOON, || async {
        match run("ip -o link show master bhlab") {
            (text, true) if text.lines().count() == 1 => Ok(()),
            (text, _) => Err(text),
        }
    })
    .await;
    domains.domain_destroy_flags(guest.clone(), 0).await.unwrap();
    assert_eq!((ports(&stack, &network).await, plugged()), (0, 0));

    // One that ends by itself goes as cleanly, and one that ended while its drivers were away.
    domains.domain_create_with_flags(guest.clone(), 0).await.unwrap();
    assert_eq!((ports(&stack, &network).await, plugged()), (1, 1));
    let status = stack.status().await.unwrap();
    let of = |class: &str| status.helpers.iter().find(|helper| helper.class == class).unwrap().pid;
    kill(of("qemu"), Signal::SIGKILL);
    wait_for("the port is gone", SOON, || async {
        let left = (ports(&stack, &network).await, plugged());
        if left == (0, 0) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    stack.networks().network_destroy(network).await.unwrap();
    assert_eq!(kernel(), before);
    stack.stop().await.unwrap();
}
