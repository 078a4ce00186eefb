//! The daemon in session mode: it may die and be replaced while guests run.

use bulkhead::Connection;
use bulkhead::wire::types::State;
use bulkhead_tests::fixture::{
    Root, SERIAL_PTY, domain, driver, guest_files, libexec, skip, ticker_xml, wait_for,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::Duration;
use tokio::process::{Child, Command};

fn daemon(home: &Path) -> Child {
    let run = home.join("run");
    std::fs::create_dir_all(&run).expect("the runtime folder can be made");
    Command::new(libexec().join("bulkheadd"))
        .arg("--session")
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", run)
        .kill_on_drop(true)
        .spawn()
        .expect("the daemon can be started")
}

async fn reach(home: &Path) -> Connection {
    // The same folders as the daemon's, named without touching this process's own environment.
    let layout = bulkhead::session_layout_of(home, &home.join("run"));
    wait_for("the daemon answers", Duration::from_secs(10), || async {
        Connection::attach_to(&layout).await.map_err(|error| error.to_string())
    })
    .await
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
    let guest = domains.domain_define_xml_flags(ticker_xml("web", &disk, SERIAL_PTY), 0).await.unwrap();
    domains.domain_create_with_flags(guest.clone(), 0).await.unwrap();
    let helper =
        stack.status().await.unwrap().helpers.into_iter().find(|helper| helper.class == "qemu").unwrap();
    let (old_driver, _) = driver(&stack, "qemu").await.unwrap();
    drop(stack);

    first.start_kill().unwrap();
    first.wait().await.unwrap();
    wait_for("the drivers leave", Duration::from_secs(2), || async {
        let alive = Path::new(&format!("/proc/{old_driver}/exe")).exists();
        if alive { Err("still there".to_owned()) } else { Ok(()) }
    })
    .await;

    let mut second = daemon(home.path());
    let stack = reach(home.path()).await;
    let domains = stack.domains();
    let adopted = domain(&stack, "web").await.unwrap();
    assert_eq!(adopted.uuid, guest.uuid);
    assert_eq!(domains.domain_get_state(adopted.clone(), 0).await.unwrap().state, State::Running as i32);
    let again =
        stack.status().await.unwrap().helpers.into_iter().find(|helper| helper.class == "qemu").unwrap();
    assert_eq!(again.pid, helper.pid);
    wait_for("the monitor is attached", Duration::from_secs(10), || async {
        domains.domain_suspend(adopted.clone()).await.map_err(|error| error.to_string())
    })
    .await;
    domains.domain_destroy_flags(adopted, 0).await.unwrap();

    // An orderly end.
    kill(Pid::from_raw(i32::try_from(second.id().unwrap()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(second.wait().await.unwrap().success());
}
