//! What happens while the gateway is away is told to those who were connected before, as ordinary events.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::wire::table::Driver;
use bulkhead_tests::fixture::{domain, driver, guest_files, skip, ticker_xml, wait_for};
use bulkhead_tests::served::{Served, has};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

async fn until(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let found = line.contains(text);
            seen.push(line);
            if found {
                return;
            }
        }
    };
    let came = timeout(SOON, found).await;
    assert!(came.is_ok(), "no '{text}' comes; seen: {seen:?}");
    seen
}

#[tokio::test]
async fn a_listener_hears_what_happened_while_the_gateway_was_out_of_service() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    if !has(&[("virsh", "libvirt-clients"), ("stdbuf", "coreutils")]) {
        return;
    }
    let served = Served::new().await;
    let domains = served.stack.domains();
    for name in ["stays", "goes"] {
        let disk = served.root.path().join(format!("{name}.img"));
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        domains.domain_define_xml_flags(ticker_xml(name, &disk, ""), 0).await.unwrap();
    }
    let mut command = served.command("stdbuf");
    command.args(["-oL", "virsh", "event", "--loop", "--event", "lifecycle"]);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // It says nothing about its registration: what comes shows that it is there.
    let probe = async || {
        let goes = domain(&served.stack, "goes").await.unwrap();
        domains.domain_create_with_flags(goes.clone(), 0).await.unwrap();
        domains.domain_destroy_flags(goes, 0).await.unwrap();
    };
    probe().await;
    while timeout(Duration::from_millis(500), lines.next_line()).await.is_err() {
        probe().await;
    }
    let goes = domain(&served.stack, "goes").await.unwrap();
    domains.domain_create_with_flags(goes.clone(), 1).await.unwrap();
    until(&mut lines, "'goes': Suspended Paused").await;
    let stays = domain(&served.stack, "stays").await.unwrap();
    for round in 1..=2 {
        served.stack.hold(Driver::Gateway).await.unwrap();
        wait_for("the gateway is out of service", SOON, || async {
            let status = served.stack.status().await.map_err(|error| error.to_string())?;
            let gateway = status.drivers.into_iter().find(|driver| driver.name == "gateway").unwrap();
            (gateway.state == "held").then_some(()).ok_or(gateway.state)
        })
        .await;
        if round == 1 {
            domains.domain_create_with_flags(stays.clone(), 0).await.unwrap();
            domains.domain_destroy_flags(goes.clone(), 0).await.unwrap();
            domains.domain_undefine_flags(goes.clone(), 0).await.unwrap();
        } else {
            domains.domain_suspend(domain(&served.stack, "stays").await.unwrap()).await.unwrap();
        }
        served.stack.release(Driver::Gateway).await.unwrap();
        wait_for("the gateway serves", SOON, || driver(&served.stack, "gateway")).await;
        if round == 1 {
            let (mut seen, mut left) =
                (Vec::new(), vec!["'goes': Stopped", "'goes': Undefined", "'stays': Started"]);
            while !left.is_empty() {
                seen.extend(until(&mut lines, "event 'lifecycle'").await);
                left.retain(|text| !seen.iter().any(|line| line.contains(text)));
            }
            assert_eq!(seen.len(), 3, "{seen:?}");
        } else {
            let seen = until(&mut lines, "'stays': Suspended").await;
            assert_eq!(seen.len(), 1, "nothing is told twice: {seen:?}");
        }
    }
    child.start_kill().unwrap();
    let stays = domain(&served.stack, "stays").await.unwrap();
    domains.domain_destroy_flags(stays, 0).await.unwrap();
    served.stack.stop().await.unwrap();
}
