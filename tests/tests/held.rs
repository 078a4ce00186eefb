//! A driver that dies again and again is held; an object that ends its driver is set aside.

use bulkhead::{Connection, FaultRule};
use bulkhead_tests::fixture::{Root, SERIAL_PTY, domain, driver, kill, libexec, ticker_xml, wait_for};
use bulkhead_wire::table::Driver;
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn five_deaths_hold_a_driver_others_serve_on_and_a_command_brings_it_back() {
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let (network, _) = wait_for("network driver", SOON, || driver(&stack, "network")).await;
    let mut last = 0;
    for _ in 0..5 {
        let (pid, incarnation) = wait_for("qemu driver", SOON, || async {
            let found = driver(&stack, "qemu").await?;
            (found.1 > last).then_some(found).ok_or("the one before".to_owned())
        })
        .await;
        last = incarnation;
        kill(pid, Signal::SIGKILL);
    }
    let reason = wait_for("the driver is held", SOON, || async {
        let status = stack.status().await.map_err(|error| error.to_string())?;
        let qemu = status.drivers.into_iter().find(|driver| driver.name == "qemu");
        let qemu = qemu.ok_or("no qemu driver")?;
        if qemu.state == "held" { Ok(qemu.reason.unwrap_or_default()) } else { Err(qemu.state) }
    })
    .await;
    assert!(reason.contains("5 times"), "{reason}");
    let refusal = wait_for("calls fail at once", SOON, || async {
        match stack.domains().connect_list_all_domains(1, 0).await {
            Ok(_) => Err("served".to_owned()),
            Err(error) if error.message.contains("out of service") => Ok(error.message),
            Err(error) => Err(error.message),
        }
    })
    .await;
    assert!(refusal.contains("qemu driver is out of service"), "{refusal}");
    assert_eq!(driver(&stack, "network").await.map(|(pid, _)| pid), Ok(network));
    stack.release(Driver::Qemu).await.unwrap();
    wait_for("it serves again", SOON, || async {
        let listed = stack.domains().connect_list_all_domains(1, 0).await;
        listed.map_err(|error| error.message)
    })
    .await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_definition_that_ends_the_driver_at_each_adoption_is_set_aside_and_the_rest_serves() {
    let root = Root::new();
    let fault = FaultRule { driver: Driver::Qemu, point: "adopt.bad".to_owned(), nth: 0, hang: false };
    let stack = Connection::builder(&root.uri()).libexec(libexec()).faults(vec![fault]).open().await.unwrap();
    for name in ["before", "bad", "later"] {
        let xml = ticker_xml(name, Path::new("/nowhere/disk.img"), SERIAL_PTY);
        stack.domains().domain_define_xml_flags(xml, 0).await.unwrap();
    }
    let (pid, _) = driver(&stack, "qemu").await.unwrap();
    kill(pid, Signal::SIGKILL);
    wait_for("the rest serves", SOON, || async {
        let (_, incarnation) = driver(&stack, "qemu").await?;
        if incarnation < 4 { Err(format!("incarnation {incarnation}")) } else { Ok(()) }
    })
    .await;
    assert!(domain(&stack, "before").await.is_ok());
    assert!(domain(&stack, "later").await.is_ok());
    assert!(domain(&stack, "bad").await.is_err());
    let status = stack.status().await.unwrap();
    let qemu = status.drivers.iter().find(|driver| driver.name == "qemu").unwrap();
    assert_eq!(qemu.set_aside, ["bad"]);
    assert_eq!(qemu.state, "ready");
    assert!(root.path().join("etc/qemu/bad.xml").is_file(), "a definition is never thrown away");
    stack.stop().await.unwrap();
}
