//! The daemon in session mode: it may die and be replaced while guests run.

use bulkhead::wire::types::State;
use bulkhead_tests::daemon::{daemon, reach};
use bulkhead_tests::fixture::{Root, domain, driver, guest_files, skip, ticker_xml, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::Duration;

/// The numbers of the complete lines.
fn numbers(text: &str) -> Vec<u64> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

async fn counts_beyond(lines: usize, counted: impl Fn() -> String) {
    wait_for("the guest counts", Duration::from_secs(20), || async {
        let now = numbers(&counted()).len();
        if now > lines { Ok(()) } else { Err(format!("{now} of {lines}")) }
    })
    .await;
}

#[tokio::test]
async fn a_new_daemon_adopts_the_guests_of_one_that_was_killed() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let home = Root::new();
    std::fs::create_dir_all(home.path()).unwrap();
    let disk = home.path().join("disk.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();

    let mut first = daemon(home.path());
    let stack = reach(home.path()).await;
    let domains = stack.domains();
    let output = home.path().join("serial.out");
    let serial = format!("<serial type='file'><source path='{}'/></serial>", output.display());
    let guest = domains.domain_define_xml_flags(ticker_xml("web", &disk, &serial), 0).await.unwrap();
    domains.domain_create_with_flags(guest.clone(), 0).await.unwrap();
    let helper =
        stack.status().await.unwrap().helpers.into_iter().find(|helper| helper.class == "qemu").unwrap();
    let (old_driver, _) = driver(&stack, "qemu").await.unwrap();
    drop(stack);

    let counted = || std::fs::read_to_string(&output).unwrap_or_default();
    counts_beyond(3, counted).await;
    first.start_kill().unwrap();
    first.wait().await.unwrap();
    wait_for("the drivers leave", Duration::from_secs(2), || async {
        let alive = Path::new(&format!("/proc/{old_driver}/exe")).exists();
        if alive { Err("still there".to_owned()) } else { Ok(()) }
    })
    .await;

    // Nobody is there but the guest, which counts on.
    let alone = numbers(&counted()).len();
    counts_beyond(alone + 3, counted).await;
    let mut second = daemon(home.path());
    let stack = reach(home.path()).await;
    let domains = stack.domains();
    let adopted = domain(&stack, "web").await.unwrap();
    assert_eq!(adopted.uuid, guest.uuid);
    assert_eq!(domains.domain_get_state(adopted.clone(), 0).await.unwrap().state, State::Running as i32);
    let again =
        stack.status().await.unwrap().helpers.into_iter().find(|helper| helper.class == "qemu").unwrap();
    assert_eq!(again.pid, helper.pid);
    let adopted_at = numbers(&counted()).len();
    counts_beyond(adopted_at + 3, counted).await;
    // The first command waits for the monitor.
    domains.domain_suspend(adopted.clone()).await.unwrap();
    let all = numbers(&counted());
    for pair in all.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "a number is missing or there twice");
    }
    domains.domain_destroy_flags(adopted, 0).await.unwrap();

    // An orderly end.
    kill(Pid::from_raw(i32::try_from(second.id().unwrap()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(second.wait().await.unwrap().success());
}
