//! Lives: the application's, its drivers' and its guests'.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use bulkhead::Connection;
use bulkhead::wire::types::{DomainRef, State};
use bulkhead_tests::app::{App, drivers, runs, wait_gone};
use bulkhead_tests::fixture::{Root, SERIAL_PTY, domain, guest_files, libexec, skip, ticker_xml};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A guest's XML with a disk below the root; nothing where the guest files are missing.
fn ticker(root: &Root) -> Option<String> {
    let Some(files) = guest_files() else {
        skip("no guest files; tools/guest/build makes them");
        return None;
    };
    std::fs::create_dir_all(root.path()).unwrap();
    let disk = root.path().join("disk.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    Some(ticker_xml("web", &disk, SERIAL_PTY))
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn guest_of(root: &Root) -> u32 {
    let helpers = root.helpers();
    assert_eq!(helpers.len(), 1, "{helpers:?}");
    helpers[0]
}

async fn state(stack: &Connection, guest: &DomainRef) -> i32 {
    let state = stack.domains().domain_get_state(guest.clone(), 0).await;
    state.unwrap().state
}

/// The guest is the one that ran before, and answers.
async fn is_adopted(root: &Root, pid: u32) {
    let stack = root.open().await.unwrap();
    let guest = domain(&stack, "web").await.unwrap();
    assert_eq!(state(&stack, &guest).await, State::Running as i32);
    let status = stack.status().await.unwrap();
    assert_eq!(status.helpers.iter().map(|helper| helper.pid).collect::<Vec<_>>(), [pid]);
    let domains = stack.domains();
    let console = domains.domain_open_console(guest.clone(), None, 0).await.unwrap();
    assert!(console.into_owned().is_some());
    // The monitor is attached to in the background.
    bulkhead_tests::fixture::wait_for("suspend of an adopted guest", 5 * SECOND, || async {
        domains.domain_suspend(guest.clone()).await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(state(&stack, &guest).await, State::Paused as i32);
    domains.domain_destroy_flags(guest, 0).await.unwrap();
    stack.close().await;
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_killed_application_leaves_its_guest_and_the_next_one_adopts_it() {
    let root = Root::new();
    let Some(xml) = ticker(&root) else { return };
    let mut app = App::start(root.path(), "plain", Some(&xml), |_| {}).unwrap();
    let (drivers, guest) = (drivers(root.path()), guest_of(&root));
    // Log, network and qemu, and the lock driver, which began with the guest.
    assert_eq!(drivers.len(), 4);
    app.kill();
    wait_gone(&drivers, SECOND);
    assert!(runs(guest));
    is_adopted(&root, guest).await;
}

#[tokio::test]
async fn a_forked_child_keeps_neither_drivers_nor_root() {
    let root = Root::new();
    let Some(xml) = ticker(&root) else { return };
    let mut app = App::start(root.path(), "fork", Some(&xml), |_| {}).unwrap();
    let (drivers, guest) = (drivers(root.path()), guest_of(&root));
    let child = app.child.unwrap();
    app.kill();
    wait_gone(&drivers, SECOND);
    assert!(runs(child) && runs(guest));
    is_adopted(&root, guest).await;
    assert!(runs(child));
}

#[tokio::test]
async fn the_root_may_be_opened_before_the_drivers_of_the_killed_application_have_gone() {
    let root = Root::new();
    let Some(xml) = ticker(&root) else { return };
    let mut app = App::start(root.path(), "plain", Some(&xml), |_| {}).unwrap();
    let (drivers, guest) = (drivers(root.path()), guest_of(&root));
    // One that hangs does not leave by itself.
    drivers.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    app.kill();
    is_adopted(&root, guest).await;
    assert!(drivers.iter().all(|pid| !runs(*pid)));
}

#[tokio::test]
async fn a_guest_that_is_to_end_with_its_application_is_quit() {
    let root = Root::new();
    let Some(xml) = ticker(&root) else { return };
    let mut app = App::start(root.path(), "autodestroy", Some(&xml), |_| {}).unwrap();
    let (drivers, guest) = (drivers(root.path()), guest_of(&root));
    app.kill();
    wait_gone(&drivers, SECOND);
    wait_gone(&[guest], SECOND);
    let stack = root.open().await.unwrap();
    assert!(domain(&stack, "web").await.is_err());
    stack.close().await;
}

#[tokio::test]
async fn one_that_hangs_is_ended_at_the_next_open_or_at_the_close() {
    let root = Root::new();
    let Some(xml) = ticker(&root) else { return };
    let mut app = App::start(root.path(), "autodestroy", Some(&xml), |_| {}).unwrap();
    let (drivers, guest) = (drivers(root.path()), guest_of(&root));
    send(guest, Signal::SIGSTOP);
    app.kill();
    wait_gone(&drivers, SECOND);
    assert!(runs(guest));
    let stack = root.open().await.unwrap();
    assert!(domain(&stack, "web").await.is_err());
    assert!(!runs(guest) && root.helpers_gone());
    stack.close().await;

    let app = App::start(root.path(), "autodestroy", Some(&xml), |_| {}).unwrap();
    let guest = guest_of(&root);
    send(guest, Signal::SIGSTOP);
    assert_eq!(app.close().unwrap(), Vec::<String>::new());
    assert!(!runs(guest) && root.helpers_gone());
}

#[tokio::test]
async fn a_second_application_is_refused_and_told_the_holder() {
    let root = Root::new();
    let app = App::start(root.path(), "plain", None, |_| {}).unwrap();
    let refusal = root.open().await.unwrap_err().to_string();
    assert!(
        refusal.contains(&format!("process {}", app.pid()))
            && refusal.contains(&*root.path().to_string_lossy()),
        "{refusal}"
    );
    // By another name it is the same root.
    let alias = Root::new();
    std::os::unix::fs::symlink(root.path(), alias.path()).unwrap();
    let refusal = alias.open().await.unwrap_err().to_string();
    assert!(refusal.contains(&format!("process {}", app.pid())), "{refusal}");
    std::fs::remove_file(alias.path()).unwrap();
    app.close().unwrap();
    root.open().await.unwrap().close().await;
}

#[tokio::test]
async fn applications_that_take_children_for_themselves_disturb_nothing() {
    for mode in ["ignore", "reap"] {
        let root = Root::new();
        let Some(xml) = ticker(&root) else { return };
        let app = App::start(root.path(), mode, Some(&xml), |_| {}).unwrap();
        let stack = Connection::attach(root.path()).await.unwrap();
        let guest = guest_of(&root);
        send(guest, Signal::SIGKILL);
        bulkhead_tests::fixture::wait_for("the guest's end is noticed", 2 * SECOND, || async {
            match domain(&stack, "web").await {
                Ok(_) => Err(format!("{mode}: it is still listed")),
                Err(_) => Ok(()),
            }
        })
        .await;
        drop(stack);
        assert_eq!(app.close().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn nothing_of_the_application_is_touched_and_nothing_is_written_elsewhere() {
    let root = Root::new();
    let Some(xml) = ticker(&root) else { return };
    let elsewhere = Root::new();
    let places = ["HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"];
    let folder = |name: &str| elsewhere.path().join(name);
    for name in places.iter().chain(&["cwd"]) {
        std::fs::create_dir_all(folder(name)).unwrap();
    }
    let app = App::start(root.path(), "autodestroy", Some(&xml), |command| {
        command.current_dir(folder("cwd"));
        command.envs(places.map(|name| (name, folder(name))));
    })
    .unwrap();
    assert_eq!(app.close().unwrap(), Vec::<String>::new());
    for name in places.iter().chain(&["cwd"]) {
        let left: Vec<_> = std::fs::read_dir(folder(name)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}

#[tokio::test]
async fn connections_to_one_root_share_a_stack_and_roots_are_independent() {
    let (one, other) = (Root::new(), Root::new());
    let first = one.open().await.unwrap();
    let network = Connection::builder(&format!("network:///embed?root={}", one.path().display()))
        .libexec(libexec())
        .open()
        .await
        .unwrap();
    let second = other.open().await.unwrap();
    for stack in [&first, &second] {
        stack.domains().connect_list_all_domains(0, 0).await.unwrap();
    }
    let (shared, own) = (drivers(one.path()), drivers(other.path()));
    assert_eq!((shared.len(), own.len()), (3, 3));
    first.close().await;
    // Somebody still has it open.
    assert_eq!(drivers(one.path()), shared);
    assert!(shared.iter().all(|pid| runs(*pid)));
    network.close().await;
    assert!(shared.iter().all(|pid| !runs(*pid)));
    second.domains().connect_list_all_domains(0, 0).await.unwrap();
    second.close().await;
}

#[tokio::test]
async fn a_read_only_connection_is_refused_by_the_driver_that_serves() {
    let root = Root::new();
    let writer = root.open().await.unwrap();
    let reader = Connection::builder(&root.uri()).libexec(libexec()).read_only().open().await.unwrap();
    reader.domains().connect_list_all_domains(0, 0).await.unwrap();
    let refused = reader.domains().domain_define_xml_flags("<domain/>".to_owned(), 0).await;
    assert_eq!(refused.unwrap_err().code.0, 29);
    // The other's token is its own.
    let refused = writer.domains().domain_define_xml_flags("<domain/>".to_owned(), 0).await;
    assert_ne!(refused.unwrap_err().code.0, 29);
    reader.close().await;
    writer.close().await;
}

fn count(folder: &str) -> usize {
    std::fs::read_dir(Path::new("/proc/self").join(folder)).unwrap().count()
}

/// In a process of its own: other tests' descriptors and threads come and go.
#[test]
fn opening_and_closing_leaks_nothing_and_runtimes_may_change() {
    const MARK: &str = "BULKHEAD_TEST_LEAKS";
    if std::env::var_os(MARK).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "opening_and_closing_leaks_nothing_and_runtimes_may_change",
                "--test-threads=1",
            ])
            .env(MARK, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let root = Root::new();
    // The first runtime of a process makes what all share.
    drop(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let before = (count("fd"), count("task"));
    for round in 0..12 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stack = runtime.block_on(async {
            let stack = root.open().await.unwrap();
            stack.domains().connect_list_all_domains(0, 0).await.unwrap();
            stack
        });
        drop(runtime);
        // Another runtime takes the connection over.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { stack.domains().connect_list_all_domains(0, 0).await.unwrap() });
        if round % 2 == 0 {
            runtime.block_on(stack.close());
        } else {
            let drivers = drivers(root.path());
            assert_eq!(drivers.len(), 3);
            // Without any runtime.
            drop(runtime);
            drop(stack);
            wait_gone(&drivers, 2 * SECOND);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { root.open().await.unwrap().close().await });
        }
    }
    // Threads that have said their last word need a moment to be gone.
    let deadline = std::time::Instant::now() + 2 * SECOND;
    while count("fd") > before.0 || count("task") > before.1 {
        assert!(
            std::time::Instant::now() < deadline,
            "descriptors and threads: {before:?} before, {:?} after",
            (count("fd"), count("task"))
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
