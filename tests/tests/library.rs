//! The library over libvirt's protocol: a daemon in session mode, and what an application sees of it.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::wire::error::{Code, Origin};
use bulkhead::wire::types::{DomainEvent, DomainRef, State, Uuid};
use bulkhead::{Connection, Error};
use bulkhead_tests::daemon::{daemon, reach};
use bulkhead_tests::fixture::{
    Root, SERIAL_PTY, domain, driver, guest_files, kill, libexec, skip, ticker_xml, wait_for,
};
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

/// A daemon, its owner's connection, and one that speaks libvirt's protocol.
struct Served {
    stack: Connection,
    owner: Connection,
    daemon: Child,
    home: Root,
}

impl Served {
    async fn new() -> Self {
        let home = Root::new();
        std::fs::create_dir_all(home.path()).unwrap();
        let daemon = daemon(home.path());
        let owner = reach(home.path()).await;
        let stack = open(&uri(home.path())).await;
        Self { stack, owner, daemon, home }
    }

    fn definition(&self, name: &str, files: &Path) -> String {
        let disk = self.home.path().join(format!("{name}.img"));
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        ticker_xml(name, &disk, SERIAL_PTY)
    }

    async fn running(&self, name: &str, files: &Path) -> DomainRef {
        let domains = self.stack.domains();
        let guest = domains.domain_define_xml_flags(self.definition(name, files), 0).await.unwrap();
        domains.domain_create_with_flags(guest, 0).await.unwrap()
    }
}

fn uri(home: &Path) -> String {
    format!("qemu:///session?socket={}", home.join("run/libvirt/libvirt-sock").display())
}

async fn open(uri: &str) -> Connection {
    wait_for("the daemon serves", SOON, || async {
        Connection::open(uri).await.map_err(|error| error.to_string())
    })
    .await
}

fn files() -> Option<PathBuf> {
    let files = guest_files();
    if files.is_none() {
        skip("no guest files; tools/guest/build makes them");
    }
    files
}

/// The next event of a kind.
async fn next<T>(events: &mut mpsc::Receiver<DomainEvent>, wanted: impl Fn(&DomainEvent) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = wanted(&events.recv().await.unwrap()) {
                return found;
            }
        }
    };
    timeout(SOON, found).await.unwrap()
}

fn lifecycle(event: &DomainEvent) -> Option<(String, i32, i32)> {
    match event {
        DomainEvent::Lifecycle { domain, event, detail } => Some((domain.name.clone(), *event, *detail)),
        _ => None,
    }
}

#[tokio::test]
async fn a_guest_lives_its_life_over_libvirts_protocol() {
    let Some(files) = files() else { return };
    let served = Served::new().await;
    let domains = served.stack.domains();
    assert_eq!(domains.connect_get_type().await.unwrap(), "QEMU");
    let mut events = served.stack.domain_events().await.unwrap();
    let mut second = served.stack.domain_events().await.unwrap();
    let guest = served.running("web", &files).await;
    assert!(guest.id > 0);
    assert_eq!(domain(&served.stack, "web").await.unwrap(), guest);
    assert_eq!(domains.domain_get_info(guest.clone()).await.unwrap().max_memory_kib, 16384);
    let statistics = domains.connect_get_all_domain_stats(Vec::new(), 1, 0).await.unwrap();
    assert_eq!(statistics.len(), 1);
    assert!(domains.domain_get_xml_desc(guest.clone(), 0).await.unwrap().contains("<name>web</name>"));
    domains.domain_suspend(guest.clone()).await.unwrap();
    assert_eq!(domains.domain_get_state(guest.clone(), 0).await.unwrap().state, State::Paused as i32);
    domains.domain_resume(guest.clone()).await.unwrap();
    // QEMU's own program, beside libvirt's.
    let said = domains.domain_monitor_command(guest.clone(), r#"{"execute":"query-name"}"#.to_owned(), 0);
    assert!(said.await.unwrap().contains("web"));
    domains.domain_destroy_flags(guest.clone(), 0).await.unwrap();
    domains.domain_undefine_flags(guest.clone(), 0).await.unwrap();
    assert_eq!(domains.connect_list_all_domains(1, 0).await.unwrap().count, 0);
    let expected = [(0, 0), (4, 0), (2, 0), (3, 0), (4, 0), (5, 1), (1, 0)];
    for events in [&mut events, &mut second] {
        for (event, detail) in expected {
            assert_eq!(next(events, lifecycle).await, ("web".to_owned(), event, detail));
        }
    }
    // What QEMU itself says comes too.
    let guest = served.running("two", &files).await;
    let told = |event: &DomainEvent| match event {
        DomainEvent::Monitor { domain, event, .. } if event == "RESUME" => Some(domain.uuid),
        _ => None,
    };
    assert_eq!(next(&mut events, told).await, guest.uuid);
    domains.domain_destroy_flags(guest.clone(), 0).await.unwrap();
}

#[tokio::test]
async fn errors_are_those_of_the_private_wire() {
    let Some(files) = files() else { return };
    let served = Served::new().await;
    let guest = served.running("web", &files).await;
    let nobody = DomainRef { name: "nobody".to_owned(), uuid: Uuid([9; 16]), id: -1 };
    let all = |stack: Connection| {
        let (guest, nobody) = (guest.clone(), nobody.clone());
        async move {
            let domains = stack.domains();
            let (pools, networks, secrets) = (stack.pools(), stack.networks(), stack.secrets());
            let wrong = "<domain type='kvm'><name/></domain>".to_owned();
            let errors: Vec<Error> = vec![
                domains.domain_lookup_by_name("nobody".to_owned()).await.unwrap_err(),
                domains.domain_get_info(nobody.clone()).await.unwrap_err(),
                domains.domain_create(guest.clone()).await.unwrap_err(),
                domains.domain_define_xml("<domain".to_owned()).await.unwrap_err(),
                domains.domain_define_xml(wrong).await.unwrap_err(),
                domains.domain_open_console(guest.clone(), Some("nothing".to_owned()), 0).await.unwrap_err(),
                domains.domain_get_hostname(guest.clone(), 0).await.unwrap_err(),
                domains.domain_get_state(guest.clone(), 99).await.unwrap_err(),
                pools.storage_pool_lookup_by_name("nobody".to_owned()).await.unwrap_err(),
                networks.network_lookup_by_name("nobody".to_owned()).await.unwrap_err(),
                secrets.secret_lookup_by_uuid(Uuid([9; 16])).await.unwrap_err(),
            ];
            errors
        }
    };
    let (public, private) = (all(served.stack.clone()).await, all(served.owner.clone()).await);
    assert_eq!(public, private);
    assert_eq!((public[0].code, public[0].origin), (Code::NO_DOMAIN, Origin::QEMU));
    served.stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
}

#[tokio::test]
async fn who_may_only_look_changes_nothing() {
    let Some(files) = files() else { return };
    let served = Served::new().await;
    let guest = served.running("web", &files).await;
    let looking = Connection::builder(&uri(served.home.path())).read_only().open().await.unwrap();
    let mut events = looking.domain_events().await.unwrap();
    let domains = looking.domains();
    assert_eq!(domains.domain_get_state(guest.clone(), 0).await.unwrap().state, State::Running as i32);
    let refused = [
        domains.domain_suspend(guest.clone()).await.unwrap_err(),
        domains.domain_destroy_flags(guest.clone(), 0).await.unwrap_err(),
        domains.domain_open_console(guest.clone(), None, 0).await.unwrap_err(),
        domains.domain_monitor_command(guest.clone(), "{}".to_owned(), 0).await.unwrap_err(),
    ];
    for error in &refused {
        assert_eq!(error.code, Code::OPERATION_DENIED);
        assert!(error.message.contains("read only access prevents"), "{error}");
    }
    // Nor over the way of what libvirt has no number for.
    let rotated = looking.secrets().secret_rotate_key().await.unwrap_err();
    assert_eq!(rotated.code, Code::OPERATION_DENIED);
    // The socket for those who only look makes them so, whatever they say.
    let uri = uri(served.home.path()).replace("libvirt-sock", "libvirt-sock-ro");
    let other = Connection::open(&uri).await.unwrap();
    let refused = other.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap_err();
    assert_eq!(refused.code, Code::OPERATION_DENIED);
    served.stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    assert_eq!(next(&mut events, lifecycle).await.1, 5);
}

#[tokio::test]
async fn a_console_goes_both_ways_and_ends_with_its_guest() {
    let Some(files) = files() else { return };
    let served = Served::new().await;
    let guest = served.running("web", &files).await;
    let domains = served.stack.domains();
    let opened = || async {
        let console = domains.domain_open_console(guest.clone(), None, 0).await?;
        Ok::<_, Error>(UnixStream::from(console.into_owned().unwrap()))
    };
    let console = opened().await.unwrap();
    // It has one holder, and is free when he has gone.
    let held = opened().await.unwrap_err();
    assert!(held.message.contains("Active console session exists"), "{held}");
    let read = |console: UnixStream| {
        tokio::task::spawn_blocking(move || {
            let (mut text, mut piece) = (String::new(), [0; 64]);
            while text.lines().filter(|line| line.trim().parse::<u64>().is_ok()).count() < 4 {
                let count = (&console).read(&mut piece).unwrap();
                assert!(count > 0, "the console ended: {text}");
                text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
            }
            // What is typed is taken, though this guest does nothing with it.
            (&console).write_all(b"\r").unwrap();
            console
        })
    };
    drop(timeout(SOON, read(console)).await.unwrap().unwrap());
    let again =
        wait_for("the console is free", SOON, || async { opened().await.map_err(|error| error.to_string()) })
            .await;
    let again = timeout(SOON, read(again)).await.unwrap().unwrap();
    domains.domain_destroy_flags(guest.clone(), 0).await.unwrap();
    let rest = tokio::task::spawn_blocking(move || (&again).read_to_end(&mut Vec::new()));
    timeout(SOON, rest).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn volumes_go_up_and_down_and_half_of_one_is_not_taken_for_all() {
    const BYTES: usize = 24 << 20;
    let served = Served::new().await;
    let images = served.home.path().join("images");
    std::fs::create_dir_all(&images).unwrap();
    let pools = served.stack.pools();
    let mut events = served.stack.pool_events().await.unwrap();
    let target = images.display();
    let xml = format!("<pool type='dir'><name>images</name><target><path>{target}</path></target></pool>");
    let pool = pools.storage_pool_create_xml(xml, 0).await.unwrap();
    assert!(timeout(SOON, events.recv()).await.unwrap().is_some());
    let xml = format!("<volume><name>disk</name><capacity>{BYTES}</capacity></volume>");
    let volume = pools.storage_vol_create_xml(pool, xml, 0).await.unwrap();
    let content: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();

    let stream = pools.storage_vol_upload(volume.clone(), 0, 0, 0).await.unwrap();
    let stream = UnixStream::from(stream.into_owned().unwrap());
    let given = content.clone();
    let written = tokio::task::spawn_blocking(move || {
        (&stream).write_all(&given).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // That nothing is said means that all is there.
        let mut said = String::new();
        (&stream).read_to_string(&mut said).unwrap();
        said
    });
    assert_eq!(timeout(SOON, written).await.unwrap().unwrap(), "");
    assert!(std::fs::read(images.join("disk")).unwrap() == content);

    let download = || async {
        let stream = pools.storage_vol_download(volume.clone(), 0, 0, 0).await.unwrap();
        UnixStream::from(stream.into_owned().unwrap())
    };
    let stream = download().await;
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        (&stream).read_to_end(&mut all).map(|_| all)
    });
    assert!(timeout(SOON, read).await.unwrap().unwrap().unwrap() == content);

    // Who does not read holds up nobody.
    let stream = download().await;
    for _ in 0..3 {
        timeout(SOON, pools.storage_vol_get_info(volume.clone())).await.unwrap().unwrap();
    }
    let (gateway, _) = driver(&served.owner, "gateway").await.unwrap();
    kill(gateway, Signal::SIGKILL);
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        ((&stream).read_to_end(&mut all).map_err(|error| error.kind()), all.len())
    });
    let (ended, bytes) = timeout(SOON, read).await.unwrap().unwrap();
    assert_eq!(ended, Err(ErrorKind::ConnectionReset), "after {bytes} of {BYTES} bytes");
    assert!(bytes < BYTES);
    pools.storage_vol_get_info(volume.clone()).await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_is_killed_and_replaced_is_reached_again() {
    let Some(files) = files() else { return };
    let mut served = Served::new().await;
    let guest = served.running("web", &files).await;
    let domains = served.stack.domains();
    let mut events = served.stack.domain_events().await.unwrap();
    // Calls are under way when it dies: one that may be repeated, and one that may not.
    let (gateway, _) = driver(&served.owner, "gateway").await.unwrap();
    kill(gateway, Signal::SIGSTOP);
    let (looking, resetting) = (domains.clone(), domains.clone());
    let (one, other) = (guest.clone(), guest.clone());
    let looks = tokio::spawn(async move { looking.domain_get_state(one, 0).await });
    let resets = tokio::spawn(async move { resetting.domain_reset(other, 0).await });
    // They are on their way when their frames lie in the socket; that they are is not to be seen from here.
    tokio::time::sleep(Duration::from_millis(200)).await;
    served.daemon.start_kill().unwrap();
    served.daemon.wait().await.unwrap();
    kill(gateway, Signal::SIGKILL);
    let lost = timeout(SOON, resets).await.unwrap().unwrap().unwrap_err();
    assert_eq!(lost.code, Code::OPERATION_FAILED);
    for part in ["domain_reset of domain 'web'", "libvirt-sock", "the state of domain 'web'"] {
        assert!(lost.message.contains(part), "{lost}");
    }
    let second = daemon(served.home.path());
    assert_eq!(timeout(SOON, looks).await.unwrap().unwrap().unwrap().state, State::Running as i32);
    next(&mut events, |event| matches!(event, DomainEvent::Lagged { .. }).then_some(())).await;
    // The events go on, on the new connection.
    domains.domain_suspend(guest.clone()).await.unwrap();
    assert_eq!(next(&mut events, lifecycle).await, ("web".to_owned(), 3, 0));
    // So does what only its owner may do, with the new one.
    assert_eq!(served.stack.status().await.unwrap().pid, second.id().unwrap());
    domains.domain_destroy_flags(guest, 0).await.unwrap();

    // Nobody comes any more: what can't be done says so in time.
    drop(second);
    wait_for("the daemon ends", SOON, || async {
        Connection::open(&uri(served.home.path())).await.err().map(drop).ok_or_else(|| "there".to_owned())
    })
    .await;
    let gone = domains.connect_get_hostname().await.unwrap_err();
    assert_eq!(gone.code, Code::OPERATION_TIMEOUT);
    assert!(gone.message.contains("can't be reached"), "{gone}");
}

#[tokio::test]
async fn what_libvirt_has_no_number_for_goes_over_the_control_socket() {
    let served = Served::new().await;
    let status = served.stack.status().await.unwrap();
    assert_eq!((status.mode.as_str(), status.pid), ("session", served.daemon.id().unwrap()));
    served.stack.hold(bulkhead::wire::table::Driver::Secret).await.unwrap();
    served.stack.release(bulkhead::wire::table::Driver::Secret).await.unwrap();
    assert!(served.stack.domains().domains_overview().await.unwrap().is_empty());
    // Whoever has the public socket alone is told what is missing.
    let elsewhere = served.home.path().join("elsewhere");
    std::fs::create_dir_all(&elsewhere).unwrap();
    let public = elsewhere.join("libvirt-sock");
    std::os::unix::fs::symlink(served.home.path().join("run/libvirt/libvirt-sock"), &public).unwrap();
    let other = Connection::open(&format!("qemu+unix:///session?socket={}", public.display())).await.unwrap();
    other.domains().connect_get_hostname().await.unwrap();
    for error in [other.status().await.unwrap_err(), other.domains().domains_overview().await.unwrap_err()] {
        assert_eq!(error.code, Code::NO_SUPPORT);
        assert!(error.message.contains("control socket") && error.message.contains("elsewhere"), "{error}");
    }
    // Nor is another stack's control socket taken for this one's.
    let stranger = Root::new();
    let stack = stranger.open().await.unwrap();
    let link = elsewhere.join("control.sock");
    std::os::unix::fs::symlink(stranger.path().join("run/control.sock"), link).unwrap();
    let refused = other.status().await.unwrap_err();
    assert!(refused.message.contains("belongs to process"), "{refused}");
    stack.close().await;
}

#[tokio::test]
async fn the_command_and_programs_without_a_runtime_find_the_daemon() {
    let Some(files) = files() else { return };
    let served = Served::new().await;
    let guest = served.running("web", &files).await;
    let command = |arguments: &[&str]| {
        let mut command = Command::new(libexec().join("bulkhead"));
        command.env("HOME", served.home.path()).env("XDG_RUNTIME_DIR", served.home.path().join("run"));
        command.env_remove("BULKHEAD_URI").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    };
    let text = |output: std::process::Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = command(&["-c", "qemu:///session", "list"]).output();
    assert!(text(timeout(SOON, said).await.unwrap().unwrap()).contains("web"));
    let said = command(&["status"]).env("BULKHEAD_URI", "qemu:///session").output();
    assert!(text(timeout(SOON, said).await.unwrap().unwrap()).contains("session stack"));

    let uri = uri(served.home.path());
    let blocking = tokio::task::spawn_blocking(move || {
        let stack = bulkhead::blocking::Connection::open(&uri).unwrap();
        let state = stack.wait(|stack| async move { stack.domains().domain_get_state(guest, 0).await });
        (state.unwrap().state, stack.status().unwrap().mode)
    });
    let (state, mode) = timeout(SOON, blocking).await.unwrap().unwrap();
    assert_eq!((state, mode.as_str()), (State::Running as i32, "session"));
    // Nobody at home.
    let nowhere = Connection::open("qemu:///session?socket=/nowhere/libvirt-sock").await.unwrap_err();
    assert!(nowhere.to_string().contains("No stack answers at /nowhere/libvirt-sock"), "{nowhere}");
    served
        .stack
        .domains()
        .domain_destroy_flags(domain(&served.stack, "web").await.unwrap(), 0)
        .await
        .unwrap();
}

/// What a person would do; each line is an action of the command.
const BY_HAND: &str = r#"
set -eu
bulkhead() { "$BULKHEAD" -c qemu:///system "$@"; }
bulkhead define "$1"
bulkhead start web
bulkhead list
bulkhead suspend web
bulkhead dumpxml web
bulkhead destroy web
bulkhead undefine web
bulkhead list --all
bulkhead status 2>&1 || true
bulkhead start web 2>&1 || true
"#;

#[tokio::test]
async fn stock_libvirt_is_reached_by_the_same_tables() {
    let Some(files) = files() else { return };
    let shared = std::env::var_os("BULKHEAD_SHARED").map(PathBuf::from);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let peer = shared.unwrap_or_else(|| repository.join("../shared")).join("tools/peer-run");
    if !peer.is_file() || !Path::new("/usr/sbin/libvirtd").is_file() || !nix::unistd::getuid().is_root() {
        return skip("no stock libvirtd that could be run privately");
    }
    let root = Root::new();
    std::fs::create_dir_all(root.path()).unwrap();
    let disk = root.path().join("web.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let xml = root.path().join("web.xml");
    std::fs::write(&xml, ticker_xml("web", &disk, "")).unwrap();
    let mut command = Command::new(peer);
    command.args(["sh", "-c", BY_HAND, "sh"]).arg(&xml).env("BULKHEAD", libexec().join("bulkhead"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = timeout(2 * SOON, command.output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "Domain 'web' started",
        "web   running",
        "<name>web</name>",
        "Domain 'web' undefined",
        // What is not libvirt's is not there, and what is there fails in stock's words.
        "is no call of libvirt's protocol",
        "Domain not found: no domain with matching name 'web'",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
}
