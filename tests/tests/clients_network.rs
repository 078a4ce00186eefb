//! `virsh net-*`, unmodified, against a stack in a network namespace of the test's own.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead_tests::fixture::{Root, libexec, skip};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

struct Served {
    root: Root,
    stack: Connection,
}

impl Served {
    /// A stack with a gateway; none where the machine lacks what it takes.
    async fn new() -> Option<Self> {
        let tools = ["/usr/bin/virsh", "/usr/sbin/dnsmasq", "/usr/sbin/ip"];
        if !nix::unistd::geteuid().is_root() || tools.iter().any(|tool| !Path::new(tool).exists()) {
            skip("virsh's networks take root, virsh, dnsmasq and ip");
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let root = Root::new();
        let builder = Connection::builder(&root.uri()).libexec(libexec()).gateway(true);
        let stack = builder.open().await.unwrap();
        Some(Self { root, stack })
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.root.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn said(&self, arguments: &[&str]) -> (String, bool) {
        let socket = self.root.path().join("run/libvirt-sock");
        let mut command = Command::new("virsh");
        command.env("LIBVIRT_DEFAULT_URI", format!("qemu+unix:///session?socket={}", socket.display()));
        command.env("LC_ALL", "C").args(arguments).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = timeout(SOON, command.output()).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (text, output.status.success())
    }

    async fn virsh(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (text, well) = self.said(&words).await;
        assert!(well, "virsh {line}: {text}");
        text
    }

    async fn fails(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (text, well) = self.said(&words).await;
        assert!(!well, "virsh {line}: {text}");
        text
    }
}

const DEFAULT: &str = "<network><name>default</name><forward mode='nat'/><ip address='10.77.1.1' netmask='255.255.255.0'>\
    <dhcp><range start='10.77.1.2' end='10.77.1.254'/></dhcp></ip></network>";

#[tokio::test]
async fn virsh_takes_a_network_through_its_life() {
    let Some(served) = Served::new().await else { return };
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
    served.stack.close().await;
}

#[tokio::test]
async fn virsh_makes_transient_networks_and_ports() {
    let Some(served) = Served::new().await else { return };
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
    served.stack.close().await;
}

#[tokio::test]
async fn a_definition_that_would_become_something_else_is_refused() {
    let Some(served) = Served::new().await else { return };
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
    served.stack.close().await;
}
