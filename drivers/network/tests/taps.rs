//! Taps in network namespaces that end with the test.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's helpers may do what the test itself may"
)]

use bulkhead_network::open;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::network::tap_open::Arguments;
use bulkhead_wire::types::Tap;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Runs a test on a thread whose network is its own, with nothing in it.
fn alone(test: impl FnOnce() + Send + 'static) {
    // A process that another test starts has all descriptors until it executes its program, and with them the taps.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        println!("skipped: taps take root and /dev/net/tun");
        return;
    }
    if Command::new("ip").arg("-V").output().is_err() {
        println!("skipped: the program 'ip' prepares the test");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) -> Vec<u8> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {complaint}");
    output.stdout
}

/// All interfaces but the loopback, as `ip` sees them.
fn links() -> Vec<Value> {
    let links: Vec<Value> = serde_json::from_slice(&ip("-details -json link show")).unwrap();
    links.into_iter().filter(|link| link["ifname"] != "lo").collect()
}

fn link(name: &str) -> Option<Value> {
    links().into_iter().find(|link| link["ifname"] == name)
}

fn is_up(link: &Value) -> bool {
    link["flags"].as_array().unwrap().contains(&"UP".into())
}

/// What is a tap's own, and not of those who use it now: these make its carrier, and the form of their frames.
fn own(name: &str) -> Value {
    let mut link = link(name).unwrap();
    let up = is_up(&link);
    let fields = link.as_object_mut().unwrap();
    fields.retain(|key, _| !matches!(key.as_str(), "flags" | "operstate" | "qdisc"));
    fields.insert("up".to_owned(), up.into());
    let about = link["linkinfo"].as_object_mut().unwrap();
    // The bridge's view of it: forwarding or not.
    about.remove("info_slave_data");
    let tun = about["info_data"].as_object_mut().unwrap();
    tun.retain(|key, _| !matches!(key.as_str(), "vnet_hdr" | "numqueues" | "numdisabled"));
    link
}

fn new(name: Option<&str>, bridge: Option<&str>, queues: u16) -> Result<Tap, Error> {
    open(&Arguments {
        name: name.map(str::to_owned),
        managed: true,
        bridge: bridge.map(str::to_owned),
        mac: "52:54:00:12:34:56".to_owned(),
        queues,
    })
}

fn in_advance(name: &str, queues: u16) -> Result<Tap, Error> {
    open(&Arguments {
        name: Some(name.to_owned()),
        managed: false,
        bridge: None,
        mac: "52:54:00:12:34:56".to_owned(),
        queues,
    })
}

/// Is it refused with these numbers, and does the text say so?
fn refused(result: Result<Tap, Error>, code: Code, origin: Origin, errno: i32, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!((error.code, error.origin, error.int1), (code, origin, errno), "{error}");
    for word in words {
        assert!(error.message.contains(word), "'{word}' is not in: {error}");
    }
}

#[test]
fn a_new_tap_is_set_up_and_ends_with_its_descriptor() {
    alone(|| {
        let tap = new(None, None, 1).unwrap();
        assert_eq!((tap.name.as_str(), tap.queues.len()), ("vnet0", 1));
        let seen = link("vnet0").unwrap();
        assert_eq!(seen["address"], "fe:54:00:12:34:56");
        assert!(is_up(&seen));
        let tun = &seen["linkinfo"]["info_data"];
        assert_eq!((&tun["type"], &tun["persist"]), (&"tap".into(), &false.into()));
        assert_eq!((&tun["vnet_hdr"], &tun["multi_queue"]), (&true.into(), &false.into()));
        drop(tap);
        assert_eq!(links(), [Value::Null; 0]);
    });
}

#[test]
fn names_are_the_lowest_free_ones_or_those_asked_for() {
    alone(|| {
        let first = new(None, None, 1).unwrap();
        let second = new(Some("vnet%d"), None, 1).unwrap();
        assert_eq!((first.name.as_str(), second.name.as_str()), ("vnet0", "vnet1"));
        drop(first);
        let again = new(None, None, 1).unwrap();
        assert_eq!(again.name, "vnet0");
        let web = new(Some("web%d-in"), None, 1).unwrap();
        assert_eq!(web.name, "web0-in");
        let named = new(Some("fifteen-bytes-0"), None, 1).unwrap();
        assert_eq!(named.name, "fifteen-bytes-0");
        assert!(link("fifteen-bytes-0").is_some());
        let exists = new(Some("vnet1"), None, 1);
        refused(exists, Code::OPERATION_INVALID, Origin::NONE, 0, &["vnet1", "exists", "managed='no'"]);
        // The one that was there is not harmed by that.
        assert!(link("vnet1").is_some());
        let long = new(Some("sixteen-bytes-00"), None, 1);
        refused(long, Code::SYSTEM_ERROR, Origin::NONE, libc::ERANGE, &["sixteen-bytes-00"]);
        assert_eq!(links().len(), 4);
    });
}

#[test]
fn a_port_of_a_bridge_has_its_mtu_and_its_frames() {
    alone(|| {
        ip("link add br0 mtu 1400 up type bridge");
        let [first, second] = [(); 2].map(|()| new(None, Some("br0"), 1).unwrap());
        for tap in [&first, &second] {
            let seen = link(&tap.name).unwrap();
            assert_eq!((&seen["master"], &seen["mtu"]), (&"br0".into(), &1400.into()));
            assert_eq!(seen["address"], "fe:54:00:12:34:56");
            assert!(is_up(&seen));
        }
        assert_eq!(link("br0").unwrap()["mtu"], 1400);
        // A virtio header, to all, from one, of a type that nobody else sends.
        let mut frame = vec![0; 10];
        frame.extend([0xff; 6]);
        frame.extend([0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x88, 0xb5]);
        frame.extend([7; 50]);
        file(first).write_all(&frame).unwrap();
        let mut second = file(second);
        let mut buffer = [0; 2048];
        loop {
            let ready = poll(&mut [PollFd::new(second.as_fd(), PollFlags::POLLIN)], 10_000_u16).unwrap();
            assert_eq!(ready, 1, "no frame came through the bridge");
            let count = second.read(&mut buffer).unwrap();
            // The kernel has things of its own to say (IPv6).
            if buffer[22..24] == [0x88, 0xb5] {
                assert_eq!(buffer[10..count], frame[10..]);
                break;
            }
        }
    });
}

fn file(tap: Tap) -> File {
    let descriptor = tap.queues.into_iter().next().unwrap();
    Descriptor::into_owned(descriptor).unwrap().into()
}

#[test]
fn what_is_no_bridge_is_refused_and_leaves_no_tap() {
    alone(|| {
        ip("tuntap add dev other mode tap");
        refused(
            new(None, Some("br0"), 1),
            Code::SYSTEM_ERROR,
            Origin::NONE,
            libc::ENODEV,
            &["'br0'", "does not exist", "type bridge"],
        );
        refused(
            new(None, Some("other"), 1),
            Code::SYSTEM_ERROR,
            Origin::NONE,
            libc::EOPNOTSUPP,
            &["'other'", "is no bridge"],
        );
        assert_eq!(links().len(), 1);
    });
}

#[test]
fn a_tap_made_in_advance_is_used_as_it_is() {
    alone(|| {
        ip("link add br0 type bridge");
        ip("tuntap add dev down mode tap user 1000");
        ip("tuntap add dev ready mode tap group 1001 multi_queue");
        ip("link set dev ready mtu 1300 address 02:00:00:00:00:01 master br0");
        ip("link set dev ready up");
        ip("link set br0 up");
        for name in ["down", "ready"] {
            let before = own(name);
            let tap = in_advance(name, 1).unwrap();
            assert_eq!((tap.name.as_str(), tap.queues.len()), (name, 1));
            assert_eq!(own(name), before);
            drop(tap);
            assert_eq!(own(name), before);
            // And again, as the next start of the guest does.
            drop(in_advance(name, 1).unwrap());
        }
    });
}

#[test]
fn a_tap_made_in_advance_that_does_not_fit_is_refused() {
    alone(|| {
        ip("link add br0 type bridge");
        ip("tuntap add dev single mode tap");
        ip("tuntap add dev multi mode tap multi_queue");
        ip("tuntap add dev tun0 mode tun");
        let missing = in_advance("nowhere", 1);
        refused(
            missing,
            Code::INTERNAL,
            Origin::DOMAIN,
            0,
            &["'nowhere'", "does not exist", "ip tuntap add"],
        );
        let system = |name: &str, queues: u16, errno: i32, words: &[&str]| {
            let mut words = words.to_vec();
            words.push(name);
            refused(in_advance(name, queues), Code::SYSTEM_ERROR, Origin::NONE, errno, &words);
        };
        system("br0", 1, libc::EINVAL, &["bridge, not a tap", "ip tuntap add"]);
        system("lo", 1, libc::EINVAL, &["not a tap"]);
        system("tun0", 1, libc::EINVAL, &["without frames"]);
        system("single", 2, libc::EINVAL, &["one queue", "multi_queue"]);
        system("vnet%d", 1, libc::EINVAL, &[]);
        let new = new(None, None, 2).unwrap();
        system("vnet0", 2, libc::EBUSY, &["belongs to the process"]);
        drop(new);
        for name in ["single", "multi"] {
            let held = in_advance(name, 1).unwrap();
            system(name, 1, libc::EBUSY, &["somebody uses it already"]);
            drop(held);
            in_advance(name, 1).unwrap();
        }
        let bridged = open(&Arguments {
            name: Some("single".to_owned()),
            managed: false,
            bridge: Some("br0".to_owned()),
            mac: String::new(),
            queues: 1,
        });
        refused(bridged, Code::CONFIG_UNSUPPORTED, Origin::DOMAIN, 0, &["'single'", "'br0'"]);
        let nameless =
            open(&Arguments { name: None, managed: false, bridge: None, mac: String::new(), queues: 1 });
        refused(nameless, Code::INTERNAL, Origin::DOMAIN, 0, &["managed='no'"]);
        assert_eq!(links().len(), 4);
    });
}

#[test]
fn each_queue_has_a_descriptor() {
    alone(|| {
        ip("tuntap add dev multi mode tap multi_queue");
        let new = new(None, None, 64).unwrap();
        let advance = in_advance("multi", 2).unwrap();
        for (tap, queues) in [(&new, 64), (&advance, 2)] {
            assert_eq!(tap.queues.len(), queues);
            let tun = &link(&tap.name).unwrap()["linkinfo"]["info_data"];
            assert_eq!(tun["numqueues"], queues, "{}", tap.name);
        }
        let name = new.name.clone();
        drop(new);
        assert!(link(&name).is_none());
    });
}

#[test]
fn queues_and_addresses_that_can_not_be_are_refused() {
    alone(|| {
        for queues in [0, 65, u16::MAX] {
            refused(new(None, None, queues), Code::CONFIG_UNSUPPORTED, Origin::NETWORK, 0, &["1 to 64"]);
        }
        let group = open(&Arguments {
            name: None,
            managed: true,
            bridge: None,
            mac: "ff:ff:ff:ff:ff:ff".to_owned(),
            queues: 1,
        });
        refused(group, Code::INVALID_ARG, Origin::NETWORK, 0, &["ff:ff:ff:ff:ff:ff"]);
        assert_eq!(links(), [Value::Null; 0]);
    });
}
