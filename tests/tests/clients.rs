//! libvirt's own clients, unmodified, against a stack in a private root; and clients that are none.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{driver, guest_files, kill, skip, ticker_xml, wait_for};
use bulkhead_tests::served::{PYTHON, Served, has};
use bulkhead_wire::remote::{Header, Kind, Status, frame, program};
use bulkhead_wire::xdr;
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

/// `virsh event --loop`, once it is registered.
async fn events(served: &Served) -> Events {
    let mut child = served
        .command("stdbuf")
        .args(["-oL", "virsh", "event", "--loop", "--event", "lifecycle"])
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut events = Events { lines, seen: Vec::new(), _child: child };
    // It says nothing about its registration: what comes shows that it is there.
    let probe = served.root.path().join("probe.xml");
    let disk = served.root.path().join("none.img");
    std::fs::write(&probe, ticker_xml("probe", &disk, "")).unwrap();
    wait_for("virsh listens", SOON, || async {
        served.virsh(&["define", probe.to_str().unwrap()]).await;
        served.virsh(&["undefine", "probe"]).await;
        Ok::<(), String>(())
    })
    .await;
    while timeout(Duration::from_millis(500), events.until("'probe': Undefined")).await.is_err() {
        served.virsh(&["define", probe.to_str().unwrap()]).await;
        served.virsh(&["undefine", "probe"]).await;
    }
    events.seen.clear();
    events
}

struct Events {
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    seen: Vec<String>,
    _child: Child,
}

impl Events {
    /// Reads until a line holds this text.
    async fn until(&mut self, text: &str) {
        while let Some(line) = self.lines.next_line().await.unwrap() {
            let found = line.contains(text);
            self.seen.push(line);
            if found {
                return;
            }
        }
        panic!("virsh event ended before '{text}'; it saw {:?}", self.seen);
    }

    async fn soon(&mut self, text: &str) {
        let found = timeout(SOON, self.until(text)).await;
        assert!(found.is_ok(), "no event '{text}' came; seen: {:?}", self.seen);
    }
}

/// The guests' files, if virsh is there too.
fn ready() -> Option<PathBuf> {
    if !has(&[("virsh", "libvirt-clients"), ("stdbuf", "coreutils")]) {
        return None;
    }
    let files = guest_files();
    if files.is_none() {
        skip("no guest files; tools/guest/build makes them");
    }
    files
}

#[tokio::test]
async fn virsh_takes_a_guest_through_its_life() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    let xml = served.definition("web", &files);
    assert!(served.virsh(&["version"]).await.contains("Running hypervisor: QEMU"));
    assert!(served.virsh(&["nodeinfo"]).await.contains("Memory size:"));
    assert!(!served.virsh(&["hostname"]).await.trim().is_empty());
    served.virsh(&["define", &xml]).await;
    assert!(served.virsh(&["list", "--all"]).await.contains("-    web    shut off"));
    let mut events = events(&served).await;

    served.virsh(&["start", "web"]).await;
    assert_eq!(served.virsh(&["domstate", "web", "--reason"]).await.trim(), "running (booted)");
    let id = served.virsh(&["domid", "web"]).await.trim().to_owned();
    let uuid = served.virsh(&["domuuid", &id]).await.trim().to_owned();
    assert_eq!(served.virsh(&["domname", &uuid]).await.trim(), "web");
    let info = served.virsh(&["dominfo", "web"]).await;
    for line in
        ["State:          running", "Persistent:     yes", "Managed save:   no", "Security model: none"]
    {
        assert!(info.contains(line), "{info}");
    }
    assert!(served.virsh(&["dumpxml", "web"]).await.contains("<alias name='serial0'/>"));
    assert!(served.virsh(&["domstats", "web"]).await.contains("balloon.current=16384"));
    served.virsh(&["suspend", "web"]).await;
    assert_eq!(served.virsh(&["domstate", "web"]).await.trim(), "paused");
    assert!(served.virsh(&["list", "--state-paused"]).await.contains("web"));
    assert!(!served.virsh(&["list", "--state-running"]).await.contains("web"));
    served.virsh(&["resume", "web"]).await;
    served.virsh(&["reset", "web"]).await;
    served.virsh(&["autostart", "web"]).await;
    assert!(served.virsh(&["list", "--autostart", "--name"]).await.contains("web"));
    assert!(served.virsh_fails(&["start", "web"]).await.contains("already active"));
    served.virsh(&["shutdown", "web"]).await;
    served.virsh(&["destroy", "web"]).await;
    assert!(served.virsh_fails(&["suspend", "web"]).await.contains("not running"));
    served.virsh(&["undefine", "web"]).await;
    assert_eq!(served.virsh(&["list", "--all", "--name"]).await.trim(), "");
    assert!(served.virsh_fails(&["dominfo", "web"]).await.contains("failed to get domain 'web'"));
    // What nobody serves is named.
    assert!(served.virsh_fails(&["nwfilter-list"]).await.contains("virConnectNumOfNWFilters"));

    events.soon("Undefined Removed").await;
    let kinds: Vec<&str> =
        events.seen.iter().filter_map(|line| line.split_once("'web': ").map(|(_, kind)| kind)).collect();
    let expected = [
        "Resumed Unpaused",
        "Started Booted",
        "Suspended Paused",
        "Resumed Unpaused",
        "Stopped Destroyed",
        "Undefined Removed",
    ];
    assert_eq!(kinds, expected);
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn virsh_console_goes_both_ways_and_has_one_holder() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    served.virsh(&["define", &served.definition("web", &files)]).await;
    served.virsh(&["start", "web"]).await;
    let attach = |arguments: &str| {
        // virsh wants a terminal of its own, which `script` is.
        let mut console = served.command("script");
        console.args(["-qfc", &format!("virsh console web {arguments}"), "/dev/null"]);
        console.stdin(Stdio::piped()).spawn().unwrap()
    };
    let mut console = attach("");
    let mut lines = BufReader::new(console.stdout.take().unwrap()).lines();
    let counting = async {
        let mut numbers = 0;
        while let Some(line) = lines.next_line().await.unwrap() {
            numbers += u32::from(line.trim().parse::<u64>().is_ok());
            if numbers == 5 {
                return;
            }
        }
        panic!("the console ended");
    };
    timeout(SOON, counting).await.unwrap();
    let refused = served.command("script").args(["-qfc", "virsh console web", "/dev/null"]).output();
    let refused = timeout(SOON, refused).await.unwrap().unwrap();
    assert!(String::from_utf8(refused.stdout).unwrap().contains("Active console session exists"));
    // Ctrl-] finishes the stream; virsh waits for the answer.
    console.stdin.take().unwrap().write_all(b"\x1d").await.unwrap();
    assert!(timeout(SOON, console.wait()).await.unwrap().unwrap().success());
    let mut second = attach("--force");
    let mut text = [0; 64];
    assert!(timeout(SOON, second.stdout.take().unwrap().read(&mut text)).await.unwrap().unwrap() > 0);
    second.start_kill().unwrap();
    served.virsh(&["destroy", "web"]).await;
    served.stack.stop().await.unwrap();
}

/// What a script of an administrator's would do; it fails on the first thing that is not as libvirt has it.
const SCRIPT: &str = r#"
import libvirt, sys, threading, time

libvirt.registerErrorHandler(lambda context, error: None, None)
libvirt.virEventRegisterDefaultImpl()
def loop():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=loop, daemon=True).start()

connection = libvirt.open(None)
assert connection.getType() == "QEMU"
assert connection.isAlive() and connection.isSecure()
assert connection.getLibVersion() == 11003000
assert connection.getInfo()[0] and connection.getMaxVcpus("qemu") >= 1
assert connection.getFreeMemory() > 0 and connection.getCPUMap()[0] >= 1
assert connection.getMemoryStats(-1)["total"] > 0 and connection.getCPUStats(-1)["user"] > 0

seen = []
def lifecycle(connection, domain, event, detail, opaque):
    seen.append((domain.name(), event, detail, domain.ID()))
connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
connection.setKeepAlive(5, 3)

domain = connection.defineXML(open(sys.argv[1]).read())
assert connection.numOfDefinedDomains() == 1 and connection.listDefinedDomains() == ["py"]
assert domain.isPersistent() and not domain.isActive() and domain.ID() == -1
domain.create()
assert domain.ID() > 0 and connection.listDomainsID() == [domain.ID()] and connection.numOfDomains() == 1
assert connection.lookupByID(domain.ID()).UUIDString() == domain.UUIDString()
assert domain.state() == [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED]
assert domain.info()[1] == 16384 and domain.maxMemory() == 16384
assert domain.OSType() == "hvm" and domain.maxVcpus() == 1 and domain.vcpusFlags() == 1
# Without a balloon there is no "actual".
assert set(domain.memoryStats()) == {"rss"}
assert domain.controlInfo()[0] in (0, 2) and domain.jobInfo()[0] == 0
assert "<alias name='serial0'/>" in domain.XMLDesc()
stats = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BLOCK)
assert [(who.name(), what["state.state"], what["block.count"]) for who, what in stats] == [("py", 1, 1)]

def fails(code, domain_number, call, *arguments):
    try:
        call(*arguments)
    except libvirt.libvirtError as error:
        assert (error.get_error_code(), error.get_error_domain()) == (code, domain_number), error.err
        assert error.get_error_level() == 2 and error.get_error_message()
    else:
        raise AssertionError("%s did not fail" % call)
fails(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_FROM_QEMU, connection.lookupByName, "nobody")
fails(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_QEMU, domain.create)
fails(libvirt.VIR_ERR_XML_DETAIL, libvirt.VIR_FROM_DOMAIN, connection.defineXML, "<domain")
fails(libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_FROM_DOMAIN, domain.snapshotNum)
fails(libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_FROM_DOMAIN, domain.metadata, 1, None)

stream = connection.newStream()
domain.openConsole(None, stream)
text = b""
while text.count(b"\n") < 3:
    text += stream.recv(1024)
stream.finish()
picture = connection.newStream()
assert domain.screenshot(picture, 0) == "image/png"
assert picture.recv(8)[1:4] == b"PNG"
picture.abort()

domain.suspend()
domain.resume()
domain.destroy()
domain.undefine()
deadline = time.monotonic() + 20
while len(seen) < 7 and time.monotonic() < deadline:
    time.sleep(0.01)
assert [event[1] for event in seen] == [0, 4, 2, 3, 4, 5, 1], seen
assert seen[-1][3] == -1 and seen[2][3] > 0, seen
readonly = libvirt.openReadOnly(sys.argv[2])
assert readonly.numOfDomains() == 0
fails(libvirt.VIR_ERR_OPERATION_DENIED, libvirt.VIR_FROM_DOMAIN, readonly.defineXML, open(sys.argv[1]).read())
print("content")
"#;

#[tokio::test]
async fn python_does_what_scripts_do() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    if !served.said(PYTHON, &["-c", "import libvirt"]).await.1 {
        return skip("no libvirt for python; python3-libvirt has it");
    }
    let xml = served.definition("py", &files);
    // With a screen, to have a picture of it.
    let with_screen = std::fs::read_to_string(&xml)
        .unwrap()
        .replace("</devices>", "<video><model type='vga'/></video></devices>");
    std::fs::write(&xml, with_screen).unwrap();
    let reading = format!("qemu+unix:///session?socket={}", served.socket("libvirt-sock-ro").display());
    let (text, well) = served.said(PYTHON, &["-c", SCRIPT, &xml, &reading]).await;
    assert!(well && text.contains("content"), "{text}");
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn who_may_only_look_changes_nothing() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    let xml = served.definition("web", &files);
    served.virsh(&["define", &xml]).await;
    let reading = format!("qemu+unix:///session?socket={}", served.socket("libvirt-sock-ro").display());
    assert!(served.virsh(&["-c", &reading, "list", "--all"]).await.contains("web"));
    assert!(served.virsh(&["-c", &reading, "dumpxml", "web"]).await.contains("<name>web</name>"));
    for change in [&["start", "web"][..], &["undefine", "web"], &["define", &xml], &["autostart", "web"]] {
        let arguments = [&["-c", &reading], change].concat();
        assert!(served.virsh_fails(&arguments).await.contains("read only access"), "{change:?}");
        // So does a client of the other socket that asks for it.
        assert!(
            served.virsh_fails(&[&["-r"], change].concat()).await.contains("read only access"),
            "{change:?}"
        );
    }
    assert!(served.virsh(&["list", "--all"]).await.contains("shut off"));
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn an_event_loop_outlives_the_qemu_driver() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    served.virsh(&["define", &served.definition("web", &files)]).await;
    let mut events = events(&served).await;
    served.virsh(&["start", "web"]).await;
    events.soon("Started").await;
    let (before, _) = driver(&served.stack, "qemu").await.unwrap();
    kill(before, Signal::SIGKILL);
    wait_for("the next incarnation", SOON, || async {
        let (now, _) = driver(&served.stack, "qemu").await?;
        (now != before).then_some(()).ok_or("the old one".to_owned())
    })
    .await;
    served.virsh(&["suspend", "web"]).await;
    events.soon("'web': Suspended").await;
    served.virsh(&["destroy", "web"]).await;
    events.soon("'web': Stopped").await;
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn an_event_loop_and_an_idle_client_outlive_the_gateway() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    served.virsh(&["define", &served.definition("web", &files)]).await;
    let mut events = events(&served).await;
    let mut idle = Raw::open(&served).await;
    for round in 1..=3 {
        // Whoever is answered now shows that the gateway has done with what came before: it is at rest when it dies.
        served.virsh(&["list"]).await;
        let (before, _) = driver(&served.stack, "gateway").await.unwrap();
        kill(before, Signal::SIGKILL);
        wait_for("the next incarnation", SOON, || async {
            let (now, _) = driver(&served.stack, "gateway").await?;
            (now != before).then_some(()).ok_or("the old one".to_owned())
        })
        .await;
        idle.call(4, round, &[]).await;
        let (header, _) = idle.answer().await;
        assert_eq!((header.serial, header.status), (round, Status::Ok as i32));
        served.virsh(&["start", "web"]).await;
        events.soon("'web': Started").await;
        served.virsh(&["destroy", "web"]).await;
        events.soon("'web': Stopped").await;
    }
    // Who waits for an answer, or whose frame came half, is told by the end of the connection.
    let mut half = Raw::open(&served).await;
    half.0.write_all(&[0, 0, 0, 28, 0x20, 0]).await.unwrap();
    idle.call(4, 9, &[]).await;
    idle.answer().await;
    served.virsh(&["list"]).await;
    let (before, _) = driver(&served.stack, "gateway").await.unwrap();
    kill(before, Signal::SIGKILL);
    assert!(half.ended().await);
    idle.call(4, 10, &[]).await;
    assert_eq!(idle.answer().await.0.serial, 10);
    served.stack.stop().await.unwrap();
}

/// A client that speaks the protocol by hand.
struct Raw(UnixStream);

impl Raw {
    async fn connect(served: &Served) -> Self {
        Self(UnixStream::connect(served.socket("libvirt-sock")).await.unwrap())
    }

    /// One that has opened its connection.
    async fn open(served: &Served) -> Self {
        let mut raw = Self::connect(served).await;
        raw.call(66, 0, &[]).await;
        assert_eq!(raw.answer().await.0.serial, 0);
        let (name, _) = xdr::encode(&(Some("qemu:///session"), 0_u32)).unwrap();
        raw.call(1, 1, &name).await;
        assert_eq!(raw.answer().await.0.status, Status::Ok as i32);
        raw
    }

    async fn call(&mut self, procedure: i32, serial: u32, payload: &[u8]) {
        self.send(program::REMOTE, procedure, Kind::Call, serial, payload).await;
    }

    async fn send(&mut self, program: u32, procedure: i32, kind: Kind, serial: u32, payload: &[u8]) {
        let header = Header { program, version: 1, procedure, kind: Some(kind), serial, status: 0 };
        self.0.write_all(&frame(header, payload).unwrap()).await.unwrap();
    }

    async fn answer(&mut self) -> (Header, Vec<u8>) {
        let read = async {
            let length = self.0.read_u32().await.unwrap() as usize;
            let mut bytes = vec![0; length - 4];
            self.0.read_exact(&mut bytes).await.unwrap();
            let payload = bytes.split_off(24);
            (Header::from_bytes(&bytes.try_into().unwrap()), payload)
        };
        timeout(SOON, read).await.expect("an answer comes")
    }

    /// Has the other side hung up?
    async fn ended(&mut self) -> bool {
        let mut rest = Vec::new();
        timeout(SOON, self.0.read_to_end(&mut rest)).await.is_ok()
    }
}

fn error_of(payload: &[u8]) -> (i32, i32) {
    let (error, _) = xdr::decode::<bulkhead_wire::remote::NetworkError>(payload, Vec::new()).unwrap();
    (error.code, error.domain)
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_no_other() {
    let served = Served::new().await;
    served.stack.domains().connect_list_all_domains(0, 0).await.unwrap();
    let mut good = Raw::open(&served).await;
    for garbage in [&[0_u8; 64][..], &[0xff; 64], b"GET / HTTP/1.1\r\n\r\n", &[0, 0, 0, 27], &[2, 0, 0, 5]] {
        let mut bad = Raw::connect(&served).await;
        bad.0.write_all(garbage).await.unwrap();
        assert!(bad.ended().await, "{garbage:?}");
    }
    // A frame that is announced and does not come takes no memory and holds nobody up.
    let mut waiting = Raw::connect(&served).await;
    waiting.0.write_all(&[2, 0, 0, 4, 0x20, 0, 0x80, 0x86]).await.unwrap();
    good.call(4, 7, &[]).await;
    let (header, _) = good.answer().await;
    assert_eq!((header.serial, header.status), (7, Status::Ok as i32));
    // What is wrong inside of a frame is answered.
    for (program, procedure, payload, code) in [
        (1, 1, &[][..], (39, 7)),
        (program::REMOTE, 9999, &[], (39, 7)),
        (program::REMOTE, -1, &[], (39, 7)),
        (program::REMOTE, 23, &[0xff, 0xff, 0xff, 0xff], (39, 7)),
        (program::REMOTE, 23, &[], (39, 7)),
        (program::REMOTE, 23, &[0, 0, 0, 1, b'x', 0, 0, 0, 9, 9, 9], (42, 10)),
        (program::REMOTE, 178, &[], (3, 20)),
        (program::QEMU, 1, &[], (39, 7)),
        (program::QEMU, 2, &[], (3, 0)),
    ] {
        good.send(program, procedure, Kind::Call, 9, payload).await;
        let (header, payload) = good.answer().await;
        assert_eq!((header.program, header.procedure, header.serial), (program, procedure, 9));
        assert_eq!((header.status, error_of(&payload)), (Status::Error as i32, code), "{procedure}");
    }
    let mut stranger = Raw::connect(&served).await;
    stranger.call(4, 0, &[]).await;
    assert_eq!(error_of(&stranger.answer().await.1), (39, 7));
    stranger.call(66, 1, &[]).await;
    assert_eq!(stranger.answer().await.1, [0, 0, 0, 1, 0, 0, 0, 0]);
    stranger.call(4, 2, &[]).await;
    assert_eq!(error_of(&stranger.answer().await.1), (1, 7));
    // After its close nothing more is said.
    good.call(2, 10, &[]).await;
    assert_eq!(good.answer().await.0.serial, 10);
    assert!(good.ended().await);
    let gateway = driver(&served.stack, "gateway").await.unwrap();
    assert_eq!(gateway.1, 1, "the gateway has not been restarted");
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn calls_that_wait_hold_up_neither_signs_of_life_nor_others() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    served.virsh(&["define", &served.definition("web", &files)]).await;
    served.virsh(&["start", "web"]).await;
    let qemu = served.root.helpers().into_iter().next().unwrap();
    let mut slow = Raw::open(&served).await;
    kill(qemu, Signal::SIGSTOP);
    let domain = served.stack.domains().domain_lookup_by_name("web".to_owned()).await.unwrap();
    let (domain, _) = xdr::encode(&domain).unwrap();
    for serial in 2..1002 {
        slow.call(34, serial, &domain).await;
    }
    slow.send(program::KEEPALIVE, 1, Kind::Message, 0, &[]).await;
    let (header, _) = slow.answer().await;
    assert_eq!((header.program, header.procedure), (program::KEEPALIVE, 2), "the pong comes first");
    // Looking is answered too, to this client and to others.
    slow.call(212, 5000, &[&domain[..], &[0; 4]].concat()).await;
    assert_eq!(slow.answer().await.0.serial, 5000);
    assert!(served.virsh(&["list"]).await.contains("running"));
    kill(qemu, Signal::SIGCONT);
    drop(slow);
    served.virsh(&["destroy", "web"]).await;
    served.stack.stop().await.unwrap();
}
