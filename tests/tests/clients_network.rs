//! `virsh net-*`, unmodified, against a stack in a network namespace of the test's own.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{driver, kill, skip, wait_for};
use bulkhead_tests::served::{PYTHON, Served, has};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

/// Prints what it is told, until its input ends.
const LISTENER: &str = r#"
import libvirt, sys, threading
libvirt.virEventRegisterDefaultImpl()
def loop():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=loop, daemon=True).start()
connection = libvirt.openReadOnly(None)
def lifecycle(connection, network, event, detail, opaque):
    print("lifecycle", network.name(), event, flush=True)
id = connection.networkEventRegisterAny(None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, lifecycle, None)
print("listening", flush=True)
sys.stdin.read()
connection.networkEventDeregisterAny(id)
print("content", flush=True)
"#;

/// A stack with a gateway; none where the machine lacks what it takes.
struct Lab(Served);

impl Lab {
    async fn new() -> Option<Self> {
        let sbin = ["/usr/sbin/dnsmasq", "/usr/sbin/ip"].iter().all(|tool| Path::new(tool).exists());
        if !nix::unistd::geteuid().is_root() || !sbin {
            skip("virsh's networks take root, dnsmasq and ip");
            return None;
        }
        if !has(&[("virsh", "libvirt-clients")]) {
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Some(Self(Served::new().await))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.root.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn virsh(&self, line: &str) -> String {
        self.0.virsh(&line.split_whitespace().collect::<Vec<_>>()).await
    }

    async fn fails(&self, line: &str) -> String {
        self.0.virsh_fails(&line.split_whitespace().collect::<Vec<_>>()).await
    }

    async fn killed(&self, name: &str) {
        let (before, _) = driver(&self.0.stack, name).await.unwrap();
        kill(before, Signal::SIGKILL);
        wait_for("the next incarnation", SOON, || async {
            let (now, _) = driver(&self.0.stack, name).await?;
            (now != before).then_some(()).ok_or("the old one".to_owned())
        })
        .await;
    }
}

const DEFAULT: &str = "<network><name>default</name><forward mode='nat'/><ip address='10.77.1.1' netmask='255.255.255.0'>\
    <dhcp><range start='10.77.1.2' end='10.77.1.254'/></dhcp></ip></network>";

#[tokio::test]
async fn virsh_takes_a_network_through_its_life() {
    let Some(served) = Lab::new().await else { return };
    let file = served.file("net.xml", DEFAULT);
    assert!(served.virsh(&format!("net-define {file}")).await.contains("Network default defined"));
    served.virsh("net-autostart default").await;
    let all = served.virsh("net-list --all").await;
    let row = all.lines().find(|line| line.contains("default")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["default", "inactive", "yes", "yes"]);
    assert!(served.virsh("net-start default").await.contains("Network default started"));
    assert!(served.fails("net-start default").await.contains("active already"));
    let info = served.virsh("net-info default").await;
    for line in
        ["Active:         yes", "Persistent:     yes", "Autostart:      yes", "Bridge:         virbr0"]
    {
        assert!(info.contains(line), "{line}: {info}");
    }
    let xml = served.virsh("net-dumpxml default").await;
    assert!(xml.contains("<bridge name='virbr0' stp='on' delay='0'/>"), "{xml}");
    assert_eq!(served.virsh("net-uuid default").await.trim().len(), 36);
    // A change now, and from the next start on.
    let host = served.file("host.xml", "<host mac='52:54:00:00:00:01' name='web' ip='10.77.1.9'/>");
    let update = "net-update default --section ip-dhcp-host";
    served.virsh(&format!("{update} --command add-last --xml {host} --live --config")).await;
    assert!(
        served.fails(&format!("{update} --command add-last --xml {host} --live")).await.contains("already")
    );
    for which in ["net-dumpxml default", "net-dumpxml default --inactive"] {
        assert!(served.virsh(which).await.contains("ip='10.77.1.9'"), "{which}");
    }
    served.virsh(&format!("{update} --command delete --xml {host} --config")).await;
    assert!(!served.virsh("net-dumpxml default --inactive").await.contains("10.77.1.9"));
    assert!(served.virsh("net-dumpxml default").await.contains("10.77.1.9"));
    let bridge = served.file("bridge.xml", "<bridge name='x'/>");
    let refused = served.fails(&format!("net-update default modify bridge {bridge} --live")).await;
    assert!(refused.contains("piece by piece"), "{refused}");
    served.virsh("net-dhcp-leases default").await;
    served.virsh("net-desc default --live Lab").await;
    assert!(served.virsh("net-desc default").await.contains("Lab"));
    served.virsh("net-desc default --title --config Next").await;
    assert!(served.virsh("net-dumpxml default --inactive").await.contains("<title>Next</title>"));
    served.virsh("net-metadata default http://x/ --key a --set <b/>").await;
    assert!(served.virsh("net-metadata default http://x/").await.contains("<b/>"));
    // Undefined while it is active, it is gone when it stops.
    served.virsh("net-undefine default").await;
    assert!(served.virsh("net-info default").await.contains("Persistent:     no"));
    served.virsh("net-destroy default").await;
    assert!(served.fails("net-info default").await.contains("not found"));
    served.0.stack.close().await;
}

#[tokio::test]
async fn virsh_makes_transient_networks_and_ports() {
    let Some(served) = Lab::new().await else { return };
    let file = served.file("net.xml", &DEFAULT.replace("10.77.1", "10.77.2"));
    assert!(served.virsh(&format!("net-create {file}")).await.contains("created"));
    assert!(served.virsh("net-list --transient").await.contains("default"));
    assert!(served.fails("net-autostart default").await.contains("transient"));
    let port = served.file(
        "port.xml",
        "<networkport><uuid>9e6f5a4e-6d7f-4c2f-9a0e-1f6a4a1b2c3d</uuid><owner><name>web</name>\
         <uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid></owner><mac address='52:54:00:00:00:07'/></networkport>",
    );
    served.virsh(&format!("net-port-create default {port}")).await;
    assert!(served.virsh("net-port-list default").await.contains("9e6f5a4e-6d7f-4c2f-9a0e-1f6a4a1b2c3d"));
    let xml = served.virsh("net-port-dumpxml default 9e6f5a4e-6d7f-4c2f-9a0e-1f6a4a1b2c3d").await;
    assert!(xml.contains("<plug type='network' bridge='virbr0'/>"), "{xml}");
    assert!(served.virsh("net-dumpxml default").await.starts_with("<network connections='1'>"));
    assert!(served.fails(&format!("net-port-create default {port}")).await.contains("already"));
    served.virsh("net-port-delete default 9e6f5a4e-6d7f-4c2f-9a0e-1f6a4a1b2c3d").await;
    served.virsh("net-destroy default").await;
    assert!(!served.virsh("net-list --all").await.contains("default"));
    served.0.stack.close().await;
}

#[tokio::test]
async fn a_definition_that_would_become_something_else_is_refused() {
    let Some(served) = Lab::new().await else { return };
    for (number, inside) in [
        "<domain name='a&#10;dhcp-script=/x'/>",
        "<dns><txt name='a' value='b&#10;conf-file=/etc/shadow'/></dns>",
        "<bridge name='../x'/>",
    ]
    .iter()
    .enumerate()
    {
        let xml = DEFAULT.replace("</network>", &format!("{inside}</network>"));
        let file = served.file(&format!("bad{number}.xml"), &xml);
        served.fails(&format!("net-define {file}")).await;
    }
    assert!(!served.virsh("net-list --all").await.contains("default"));
    served.0.stack.close().await;
}

#[tokio::test]
async fn what_becomes_of_networks_is_told_over_the_deaths_of_driver_and_gateway() {
    let Some(served) = Lab::new().await else { return };
    if !served.0.said(PYTHON, &["-c", "import libvirt"]).await.1 {
        return skip("no libvirt for python; python3-libvirt has it");
    }
    let mut child = served.0.command(PYTHON);
    let mut child = child.args(["-c", LISTENER]).stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert_eq!(next().await, "listening");
    let file = served.file("net.xml", &DEFAULT.replace("10.77.1", "10.77.3"));
    served.virsh(&format!("net-define {file}")).await;
    assert_eq!(next().await, "lifecycle default 0");
    served.virsh("net-start default").await;
    assert_eq!(next().await, "lifecycle default 2");
    // The module for python does not know the other event; when virsh listens, it does not say.
    let mut told = served.0.command("virsh");
    let mut told =
        told.args(["net-event", "--network", "default", "--event", "metadata-change"]).spawn().unwrap();
    let said = loop {
        served.virsh("net-metadata default http://x/ --key a --set <b/>").await;
        if timeout(Duration::from_millis(300), told.wait()).await.is_ok() {
            let mut said = String::new();
            told.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
            break said;
        }
    };
    assert!(said.contains("'metadata-change' for network default") && said.contains("http://x/"), "{said}");
    served.killed("network").await;
    served.virsh("net-destroy default").await;
    assert_eq!(next().await, "lifecycle default 3");
    served.killed("gateway").await;
    served.virsh("net-undefine default").await;
    assert_eq!(next().await, "lifecycle default 1");
    child.stdin.take().unwrap().shutdown().await.unwrap();
    assert_eq!(next().await, "content");
    assert!(timeout(SOON, child.wait()).await.unwrap().unwrap().success());
    served.0.stack.stop().await.unwrap();
}
