//! What clumsy users and a full disk do: everything at once, things that are half there, and one thing too many.
#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

use bulkhead::{Connection, FaultRule};
use bulkhead_tests::fixture::{Root, SERIAL_PTY, domain, driver, kill, libexec, skip, wait_for};
use bulkhead_wire::channel::Caller;
use bulkhead_wire::error::Code;
use bulkhead_wire::frame::Token;
use bulkhead_wire::table::{Driver, stack};
use bulkhead_wire::types::State;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const PAUSED: u32 = 1;

/// A guest without a disk: it need not do anything.
fn xml(name: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>\
         <emulator>/usr/bin/qemu-system-x86_64</emulator>{SERIAL_PTY}<memballoon model='none'/></devices></domain>"
    )
}

/// A file system of its own that is soon full; gone with the test.
struct Small(PathBuf);

impl Small {
    fn mount(place: &Path) -> Option<Self> {
        std::fs::create_dir_all(place).unwrap();
        let options = Some("size=1m");
        nix::mount::mount(Some("none"), place, Some("tmpfs"), nix::mount::MsFlags::empty(), options).ok()?;
        Some(Self(place.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_what_it_can_not_hold_and_guests_are_served_on() {
    let place = Root::new();
    let Some(_small) = Small::mount(place.path()) else {
        return skip("mounting a small file system needs root");
    };
    let root = place.path().join("root");
    let uri = format!("qemu:///embed?root={}", root.display());
    let stack = Connection::builder(&uri).libexec(libexec()).open().await.unwrap();
    let domains = stack.domains();
    let web = domains.domain_define_xml_flags(xml("web"), 0).await.unwrap();
    let web = domains.domain_create_with_flags(web, PAUSED).await.unwrap();
    let fill = place.path().join("fill");
    let mut file = std::fs::File::create(&fill).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    let refused = domains.domain_define_xml_flags(xml("other"), 0).await.unwrap_err();
    assert!(refused.message.contains("'other'") && refused.message.contains("No space left"), "{refused}");
    assert!(domain(&stack, "other").await.is_err());
    // What can't be written down does not stop the guest, nor its driver.
    let before = driver(&stack, "qemu").await.unwrap();
    domains.domain_resume(web.clone()).await.unwrap();
    domains.domain_suspend(web.clone()).await.unwrap();
    domains.domain_destroy_flags(web.clone(), 0).await.unwrap();
    let refused = domains.domain_create_with_flags(web.clone(), PAUSED).await.unwrap_err();
    assert!(refused.message.contains("'web'") && refused.message.contains("No space left"), "{refused}");
    assert_eq!(domains.domain_get_state(web.clone(), 0).await.unwrap().state, State::Shutoff as i32);
    drop(file);
    std::fs::remove_file(fill).unwrap();
    domains.domain_create_with_flags(web.clone(), PAUSED).await.unwrap();
    domains.domain_destroy_flags(web, 0).await.unwrap();
    assert_eq!(driver(&stack, "qemu").await.unwrap(), before);
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn what_starts_with_the_stack_is_started_by_the_next_driver_if_the_first_dies_midway() {
    let root = Root::new();
    let stack = root.open().await.unwrap();
    for name in ["a", "b", "c"] {
        let defined = stack.domains().domain_define_xml_flags(xml(name), 0).await.unwrap();
        stack.domains().domain_set_autostart(defined, 1).await.unwrap();
    }
    stack.stop().await.unwrap();
    drop(stack);
    let fault =
        FaultRule { driver: Driver::Qemu, point: "start.before_helper".to_owned(), nth: 2, hang: false };
    let stack = Connection::builder(&root.uri()).libexec(libexec()).faults(vec![fault]).open().await.unwrap();
    let running = |wanted: usize| {
        let stack = &stack;
        wait_for("all run", SOON, move || async move {
            let listed =
                stack.domains().connect_list_all_domains(1, 16).await.map_err(|error| error.message)?;
            if listed.domains.len() == wanted { Ok(()) } else { Err(format!("{:?}", listed.domains)) }
        })
    };
    running(3).await;
    let (pid, incarnation) = driver(&stack, "qemu").await.unwrap();
    assert_eq!(incarnation, 2);
    // Each once: what was ended since is not started again.
    let a = domain(&stack, "a").await.unwrap();
    stack.domains().domain_destroy_flags(a, 0).await.unwrap();
    kill(pid, Signal::SIGKILL);
    wait_for("the next driver", SOON, || async {
        let (_, incarnation) = driver(&stack, "qemu").await?;
        if incarnation == 3 { Ok(()) } else { Err(incarnation.to_string()) }
    })
    .await;
    running(2).await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_definition_that_was_set_aside_and_is_made_anew_is_adopted_again() {
    let root = Root::new();
    let fault = FaultRule { driver: Driver::Qemu, point: "adopt.bad".to_owned(), nth: 0, hang: false };
    let stack = Connection::builder(&root.uri()).libexec(libexec()).faults(vec![fault]).open().await.unwrap();
    stack.domains().domain_define_xml_flags(xml("bad"), 0).await.unwrap();
    let (pid, _) = driver(&stack, "qemu").await.unwrap();
    kill(pid, Signal::SIGKILL);
    let set_aside = || async {
        let status = stack.status().await.map_err(|error| error.message)?;
        let qemu = status.drivers.into_iter().find(|driver| driver.name == "qemu").ok_or("no qemu driver")?;
        if qemu.state == "ready" && !qemu.set_aside.is_empty() { Ok(qemu.set_aside) } else { Err(qemu.state) }
    };
    assert_eq!(wait_for("it is set aside", SOON, set_aside).await, ["bad"]);
    stack.domains().domain_define_xml_flags(xml("bad"), 0).await.unwrap();
    assert!(set_aside().await.is_err(), "the mark has gone");
    stack.stop().await.unwrap();
    drop(stack);
    let stack = root.open().await.unwrap();
    assert!(domain(&stack, "bad").await.is_ok());
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_defines_starts_and_undefines_at_once_leaves_no_guest_that_nobody_finds() {
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let domains = stack.domains();
    let defined = domains.domain_define_xml_flags(xml("web"), 0).await.unwrap();
    let starts = (0..10).map(|_| {
        let (domains, web) = (domains.clone(), defined.clone());
        tokio::spawn(async move { domains.domain_create_with_flags(web, PAUSED).await.is_ok() })
    });
    let mut started = 0;
    for start in starts.collect::<Vec<_>>() {
        started += u32::from(start.await.unwrap());
    }
    assert_eq!(started, 1);
    domains.domain_destroy_flags(defined.clone(), 0).await.unwrap();
    let with_uuid = xml("web").replace("<memory", &format!("<uuid>{}</uuid><memory", defined.uuid));
    for _ in 0..6 {
        let (undefining, starting, defining) = (domains.clone(), domains.clone(), domains.clone());
        let (first, second, text) = (defined.clone(), defined.clone(), with_uuid.clone());
        let (undefined, started, redefined) = tokio::join!(
            tokio::spawn(async move { undefining.domain_undefine_flags(first, 0).await }),
            tokio::spawn(async move { starting.domain_create_with_flags(second, PAUSED).await }),
            tokio::spawn(async move { defining.domain_define_xml_flags(text, 0).await }),
        );
        let (started, redefined) = (started.unwrap(), redefined.unwrap());
        undefined.unwrap().unwrap();
        // Whatever order it was: what was told is so.
        redefined.unwrap();
        assert!(root.path().join("etc/qemu/web.xml").is_file());
        let found = domain(&stack, "web").await.unwrap();
        assert_eq!(started.is_ok(), !root.helpers().is_empty());
        assert_eq!(started.is_ok(), found.id > 0);
        if started.is_ok() {
            domains.domain_destroy_flags(found, 0).await.unwrap();
        }
    }
    domains.domain_undefine_flags(defined, 0).await.unwrap();
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn an_error_of_a_start_quotes_that_start_alone() {
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let disk = root.path().join("disk.img");
    std::fs::write(&disk, [0; 512]).unwrap();
    // An IDE disk can't be read-only.
    let refused_by_qemu = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='hda' bus='ide'/><readonly/></disk></devices>",
        disk.display()
    );
    let text = xml("web").replace("</devices>", &refused_by_qemu);
    std::fs::write(root.path().join("log/web.log"), "an older line\n").unwrap();
    let defined = stack.domains().domain_define_xml_flags(text, 0).await.unwrap();
    let error = stack.domains().domain_create_with_flags(defined, 0).await.unwrap_err();
    assert!(error.message.contains("read-only") && !error.message.contains("older"), "{error}");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_control_connection_opens_so_many_channels_and_no_more() {
    let root = Root::new();
    let stack = root.open().await.unwrap();
    driver(&stack, "log").await.ok();
    let socket = tokio::net::UnixStream::connect(root.path().join("run/control.sock")).await.unwrap();
    let caller = Caller::new(Driver::Broker);
    let link = caller.clone();
    let talking =
        tokio::spawn(async move { link.run(socket.into_std().unwrap().into(), Token::default()).await });
    let control = stack::Client(caller);
    let mut tokens = std::collections::HashSet::new();
    for _ in 0..256 {
        let (_channel, token) = control.channel_open(Driver::Log, false).await.unwrap();
        tokens.insert(token);
    }
    assert_eq!(tokens.len(), 1, "one client is one client, however many channels it has");
    let refused = control.channel_open(Driver::Log, false).await.unwrap_err();
    assert_eq!(refused.code, Code::OPERATION_DENIED);
    assert!(refused.message.contains("256 channels"), "{refused}");
    talking.abort();
    assert!(Connection::attach(root.path()).await.is_ok(), "others are served");
    stack.stop().await.unwrap();
}
