//! Events of pools over libvirt's protocol, and registrations for what has none.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{driver, kill, skip, wait_for};
use bulkhead_tests::served::{PYTHON, Served};
use nix::sys::signal::Signal;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

/// Prints what it is told, until its input ends.
const LISTENER: &str = r#"
import libvirt, sys, threading
libvirt.registerErrorHandler(lambda context, error: None, None)
libvirt.virEventRegisterDefaultImpl()
def loop():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=loop, daemon=True).start()
connection = libvirt.openReadOnly(None)
def lifecycle(connection, pool, event, detail, opaque):
    print("lifecycle", pool.name(), event, flush=True)
def refresh(connection, pool, opaque):
    print("refresh", pool.name(), flush=True)
def never(*arguments):
    print("something", flush=True)
ids = [
    connection.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE, lifecycle, None),
    connection.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH, refresh, None),
]
network = connection.networkEventRegisterAny(None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, never, None)
device = connection.nodeDeviceEventRegisterAny(None, libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE, never, None)
try:
    connection.storagePoolEventRegisterAny(None, 9, never, None)
except libvirt.libvirtError:
    pass
else:
    raise AssertionError("there is no such event")
print("listening", flush=True)
sys.stdin.read()
for id in ids:
    connection.storagePoolEventDeregisterAny(id)
connection.networkEventDeregisterAny(network)
connection.nodeDeviceEventDeregisterAny(device)
print("content", flush=True)
"#;

async fn killed(served: &Served, name: &str) {
    let (before, _) = driver(&served.stack, name).await.unwrap();
    kill(before, Signal::SIGKILL);
    wait_for("the next incarnation", SOON, || async {
        let (now, _) = driver(&served.stack, name).await?;
        (now != before).then_some(()).ok_or("the old one".to_owned())
    })
    .await;
}

#[tokio::test]
async fn what_becomes_of_pools_is_told_over_the_deaths_of_driver_and_gateway() {
    let served = Served::new().await;
    if !served.said(PYTHON, &["-c", "import libvirt"]).await.1 {
        return skip("no libvirt for python; python3-libvirt has it");
    }
    let images = served.root.path().join("images");
    std::fs::create_dir_all(&images).unwrap();
    let images = images.display().to_string();
    let mut child = served.command(PYTHON);
    let mut child = child.args(["-c", LISTENER]).stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert_eq!(next().await, "listening");
    served.virsh(&["pool-define-as", "images", "dir", "--target", &images]).await;
    assert_eq!(next().await, "lifecycle images 0");
    served.virsh(&["pool-start", "images"]).await;
    assert_eq!(next().await, "lifecycle images 2");
    served.virsh(&["pool-refresh", "images"]).await;
    while next().await != "refresh images" {}
    killed(&served, "storage").await;
    served.virsh(&["pool-destroy", "images"]).await;
    while next().await != "lifecycle images 3" {}
    killed(&served, "gateway").await;
    served.virsh(&["pool-undefine", "images"]).await;
    assert_eq!(next().await, "lifecycle images 1");
    child.stdin.take().unwrap().shutdown().await.unwrap();
    assert_eq!(next().await, "content");
    assert!(timeout(SOON, child.wait()).await.unwrap().unwrap().success());
    served.stack.stop().await.unwrap();
}
