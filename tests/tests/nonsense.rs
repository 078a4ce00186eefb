//! A driver that answers nonsense: to its broker, or to the driver that calls it. That link ends, it is logged, the supervisor
//! does its part, and everything else serves.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead_tests::fixture::{
    Root, SERIAL_PTY, domain, driver, guest_files, libexec, skip, ticker_xml, wait_for,
};
use bulkhead_wire::table::Driver;
use bulkhead_wire::types::State;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A folder of the real programs, but for the network driver.
fn programs(root: &Root) -> std::path::PathBuf {
    let folder = root.path().join("libexec");
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(libexec()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("bulkhead-") && entry.path().is_file() && !name.ends_with(".d") {
            let real = if name == "bulkhead-network" { "nonsense-driver" } else { name.as_str() };
            std::os::unix::fs::symlink(libexec().join(real), folder.join(&name)).unwrap();
        }
    }
    folder
}

async fn open(root: &Root, says: &str) -> Connection {
    let folder = programs(root);
    std::fs::write(folder.join("nonsense"), says).unwrap();
    Connection::builder(&root.uri()).libexec(folder).open().await.unwrap()
}

/// The guest's XML, with an interface that the network driver must open a tap for.
fn with_tap(xml: &str) -> String {
    xml.replace(
        "<memballoon",
        "<interface type='ethernet'><mac address='52:54:00:00:00:01'/></interface><memballoon",
    )
}

async fn network(stack: &Connection) -> (String, String) {
    let status = stack.status().await.unwrap();
    let network = status.drivers.into_iter().find(|driver| driver.name == "network").unwrap();
    (network.state, network.reason.unwrap_or_default())
}

#[tokio::test]
async fn a_driver_that_tells_its_broker_nonsense_is_restarted_and_then_held() {
    let Some(files) = guest_files() else { return skip("no guest files; tools/guest/build makes them") };
    let cases = [
        ("garbage", "not a frame"),
        ("oversized", "at most 33554432"),
        ("revision", "revision"),
        ("body", "does not decode"),
        ("kind", "Cancel on the control link"),
        ("descriptors", "descriptors"),
    ];
    for (what, said) in cases {
        let root = Root::new();
        let stack = open(&root, &format!("control {what}")).await;
        let disk = root.path().join("disk.img");
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        let xml = ticker_xml("web", &disk, SERIAL_PTY);
        let guest = stack.domains().domain_create_xml(xml, 0).await.unwrap();
        wait_for(what, SOON, || async {
            match network(&stack).await {
                (state, reason) if state == "held" && reason.contains("5 times") && reason.contains(said) => {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let (pid, incarnation) = driver(&stack, "qemu").await.unwrap();
        let state = stack.domains().domain_get_state(guest.clone(), 0).await.unwrap();
        assert_eq!((state.state, incarnation), (State::Running as i32, 1), "{what}");
        let second = with_tap(&ticker_xml("second", Path::new("/nowhere"), SERIAL_PTY));
        let refusal = stack.domains().domain_create_xml(second, 0).await.unwrap_err();
        assert!(!refusal.message.is_empty());
        // A command brings it back, and it is held again.
        stack.release(Driver::Network).await.unwrap();
        wait_for(what, SOON, || async {
            let (state, _) = network(&stack).await;
            (state == "held").then_some(()).ok_or(state)
        })
        .await;
        stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
        assert_eq!(driver(&stack, "qemu").await, Ok((pid, 1)), "{what}");
        stack.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_driver_that_answers_its_caller_nonsense_loses_the_channel_and_the_rest_serves() {
    let Some(files) = guest_files() else { return skip("no guest files; tools/guest/build makes them") };
    let cases = [
        ("garbage", "not a frame"),
        ("oversized", "at most 33554432"),
        ("revision", "revision"),
        ("body", "reply of the network driver"),
        ("id", "never made"),
        ("descriptors", "descriptors"),
    ];
    for (what, said) in cases {
        let root = Root::new();
        let stack = open(&root, &format!("channel {what}")).await;
        let disk = root.path().join("disk.img");
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        let xml = ticker_xml("web", &disk, SERIAL_PTY);
        let guest = stack.domains().domain_create_xml(xml.clone(), 0).await.unwrap();
        let tapped = root.path().join("tapped.img");
        std::fs::copy(files.join("ticker.img"), &tapped).unwrap();
        let second = with_tap(&ticker_xml("tapped", &tapped, SERIAL_PTY));
        for _ in 0..2 {
            let refusal = stack.domains().domain_create_xml(second.clone(), 0).await.unwrap_err();
            assert!(refusal.message.contains("network driver"), "{what}: {refusal}");
            assert!(domain(&stack, "tapped").await.is_err(), "{what}: nothing is left of it");
        }
        let log = std::fs::read_to_string(root.path().join("log/qemu.driver.log")).unwrap();
        assert!(log.contains("channel ended") && log.contains(said), "{what}: {log}");
        let state = stack.domains().domain_get_state(guest.clone(), 0).await.unwrap();
        assert_eq!(state.state, State::Running as i32, "{what}");
        assert_eq!(driver(&stack, "qemu").await.unwrap().1, 1, "{what}");
        assert_eq!(root.helpers().len(), 1, "{what}");
        stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
        stack.stop().await.unwrap();
    }
}
