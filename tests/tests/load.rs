//! A loaded machine is no hung driver.

use bulkhead_tests::fixture::{Root, SERIAL_PTY, driver, figure, guest_files, skip, ticker_xml};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Processes that do nothing but run.
const BUSY: usize = 8;
const LASTS: Duration = Duration::from_secs(15);

/// Ended when this is dropped.
struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn no_driver_is_killed_for_a_load_of_eight() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let domains = stack.domains();
    let disk = root.path().join("disk.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let guest = domains.domain_define_xml_flags(ticker_xml("web", &disk, SERIAL_PTY), 0).await.unwrap();
    domains.domain_create_with_flags(guest.clone(), 0).await.unwrap();
    let mut before = Vec::new();
    for name in ["log", "network", "qemu"] {
        before.push(driver(&stack, name).await.unwrap());
    }
    let busy = || Busy(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap());
    let load: Vec<Busy> = (0..BUSY).map(|_| busy()).collect();
    let began = Instant::now();
    let (mut calls, mut slowest) = (0, Duration::ZERO);
    while began.elapsed() < LASTS {
        let call = Instant::now();
        assert_eq!(domains.connect_list_all_domains(1, 1).await.unwrap().count, 1);
        domains.domain_suspend(guest.clone()).await.unwrap();
        domains.domain_resume(guest.clone()).await.unwrap();
        domains.domain_get_info(guest.clone()).await.unwrap();
        slowest = slowest.max(call.elapsed());
        calls += 4;
    }
    drop(load);
    let mut after = Vec::new();
    for name in ["log", "network", "qemu"] {
        after.push(driver(&stack, name).await.unwrap());
    }
    assert_eq!(after, before, "the same processes, of the same incarnations");
    figure(&format!(
        "{BUSY} busy processes for {} s: {calls} calls, the slowest four together {} ms, no driver killed",
        LASTS.as_secs(),
        slowest.as_millis()
    ));
    domains.domain_destroy_flags(guest, 0).await.unwrap();
    stack.stop().await.unwrap();
}
