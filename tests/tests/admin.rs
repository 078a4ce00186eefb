//! libvirt's `virt-admin`, unmodified, against the gateway of a private stack.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{driver, kill, skip, wait_for};
use bulkhead_tests::served::Served;
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

fn ready() -> bool {
    let found = ["virt-admin", "virsh"]
        .iter()
        .all(|program| std::process::Command::new(program).arg("--version").output().is_ok());
    if !found {
        skip("no virt-admin; libvirt-clients has it");
    }
    found
}

async fn said(served: &Served, arguments: &[&str]) -> (String, bool) {
    let uri = format!("libvirtd+unix:///system?socket={}", served.socket("libvirt-admin-sock").display());
    served.said("virt-admin", &[&["-c", &uri], arguments].concat()).await
}

async fn admin(served: &Served, arguments: &[&str]) -> String {
    let (text, well) = said(served, arguments).await;
    assert!(well, "virt-admin {arguments:?}: {text}");
    text
}

async fn admin_fails(served: &Served, arguments: &[&str]) -> String {
    let (text, well) = said(served, arguments).await;
    assert!(!well, "virt-admin {arguments:?}: {text}");
    text
}

/// A figure of a list of names and figures.
fn figure(text: &str, name: &str) -> u32 {
    let found = text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name));
    found.unwrap_or_else(|| panic!("no {name} in {text}")).1.trim().parse().unwrap()
}

/// A virsh that has its connection open.
async fn shell(served: &Served) -> Child {
    let mut child = served.command("virsh").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"uri\n").await.unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let open = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("session?socket=") {
                return;
            }
        }
    };
    timeout(SOON, open).await.unwrap();
    child
}

/// The numbers of the clients that are listed.
async fn listed(served: &Served, server: &str) -> Vec<String> {
    let list = admin(served, &["client-list", server]).await;
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let numbers = list.lines().filter(|line| line.contains("unix")).filter_map(first);
    numbers.collect()
}

#[tokio::test]
async fn clients_are_listed_described_and_cut_off() {
    if !ready() {
        return;
    }
    let served = Served::new().await;
    let mode = std::fs::metadata(served.socket("libvirt-admin-sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "its owner's alone");
    let servers = admin(&served, &["srv-list"]).await;
    assert!(servers.contains("libvirtd") && servers.contains("admin"), "{servers}");
    assert!(admin(&served, &["version"]).await.contains("11.3.0"));
    assert_eq!(listed(&served, "libvirtd").await, Vec::<String>::new());
    let mut one = shell(&served).await;
    let other = shell(&served).await;
    let numbers = listed(&served, "libvirtd").await;
    assert_eq!(numbers.len(), 2);
    assert_eq!(listed(&served, "admin").await.len(), 1, "who asks is a client there");
    let info = admin(&served, &["client-info", "libvirtd", &numbers[0]]).await;
    assert!(info.contains(&format!("unix_process_id: {}", one.id().unwrap())), "{info}");
    let uid = format!("unix_user_id   : {}", nix::unistd::getuid());
    assert!(info.contains(&uid) && info.contains("readonly       : no"), "{info}");
    assert!(
        admin_fails(&served, &["client-info", "libvirtd", "999"])
            .await
            .contains("No client with matching ID '999'")
    );
    assert!(admin_fails(&served, &["client-list", "nobody"]).await.contains("No server named 'nobody'"));

    // Numbers stay when the gateway is another process.
    let (before, _) = driver(&served.stack, "gateway").await.unwrap();
    kill(before, Signal::SIGKILL);
    wait_for("the next incarnation", SOON, || async {
        let (now, _) = driver(&served.stack, "gateway").await?;
        (now != before).then_some(()).ok_or("the old one".to_owned())
    })
    .await;
    assert_eq!(listed(&served, "libvirtd").await, numbers);
    // The one that is cut off is told by its library; the other goes on.
    admin(&served, &["client-disconnect", "libvirtd", &numbers[0]]).await;
    wait_for("one is left", SOON, || async {
        let left = listed(&served, "libvirtd").await;
        (left == numbers[1..]).then_some(()).ok_or(format!("{left:?}"))
    })
    .await;
    drop(one.stdin.take());
    let output = timeout(SOON, one.wait_with_output()).await.unwrap().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("Disconnected from"), "{text}");
    drop(other);
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn limits_hold_and_outlive_the_gateway() {
    if !ready() {
        return;
    }
    let served = Served::new().await;
    let limits = admin(&served, &["srv-clients-info", "libvirtd"]).await;
    assert_eq!((figure(&limits, "nclients_max"), figure(&limits, "nclients")), (5000, 0));
    admin(&served, &["srv-clients-set", "libvirtd", "--max-clients", "1", "--max-unauth-clients", "1"]).await;
    let first = shell(&served).await;
    let (text, well) = served.said("virsh", &["list"]).await;
    // A client that is closed before its first word has no words for it: it is ended by the pipe's signal.
    assert!(!well && (text.is_empty() || text.contains("error")), "{text}");
    // The administrator is not one of them.
    let limits = admin(&served, &["srv-clients-info", "libvirtd"]).await;
    assert_eq!((figure(&limits, "nclients_max"), figure(&limits, "nclients")), (1, 1));
    let (before, _) = driver(&served.stack, "gateway").await.unwrap();
    kill(before, Signal::SIGKILL);
    wait_for("the next incarnation", SOON, || async {
        let (now, _) = driver(&served.stack, "gateway").await?;
        (now != before).then_some(()).ok_or("the old one".to_owned())
    })
    .await;
    assert!(!served.said("virsh", &["list"]).await.1);
    admin(&served, &["srv-clients-set", "libvirtd", "--max-clients", "50"]).await;
    served.virsh(&["list"]).await;
    drop(first);

    admin(&served, &["srv-threadpool-set", "libvirtd", "--max-workers", "3", "--priority-workers", "7"])
        .await;
    let places = admin(&served, &["srv-threadpool-info", "libvirtd"]).await;
    assert_eq!((figure(&places, "maxWorkers"), figure(&places, "prioWorkers")), (3, 7));
    assert_eq!((figure(&places, "nWorkers"), figure(&places, "jobQueueDepth")), (0, 0));
    for wrong in [
        &["srv-threadpool-set", "libvirtd", "--max-workers", "0"][..],
        &["srv-threadpool-set", "libvirtd", "--min-workers", "2"],
        &["srv-clients-set", "libvirtd", "--max-clients", "100000"],
        &["srv-clients-set", "admin", "--max-clients", "10"],
    ] {
        assert!(admin_fails(&served, wrong).await.contains("error"), "{wrong:?}");
    }
    served.virsh(&["list"]).await;
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn the_log_says_what_is_wanted() {
    if !ready() {
        return;
    }
    let served = Served::new().await;
    let log = served.root.path().join("log/gateway.driver.log");
    let outputs = admin(&served, &["daemon-log-outputs"]).await;
    assert!(outputs.contains(&format!("2:file:{}", log.display())), "{outputs}");
    assert!(!admin(&served, &["daemon-log-filters"]).await.contains('1'));
    admin(&served, &["daemon-log-filters", "4:client"]).await;
    assert!(admin(&served, &["daemon-log-filters"]).await.contains("4:*client*"));
    // What ends a connection badly is a warning of that module.
    let garbage = || async {
        let mut bad = tokio::net::UnixStream::connect(served.socket("libvirt-sock")).await.unwrap();
        bad.write_all(&[0; 64]).await.unwrap();
        let mut rest = Vec::new();
        drop(timeout(SOON, tokio::io::AsyncReadExt::read_to_end(&mut bad, &mut rest)).await.unwrap());
    };
    let warnings = || std::fs::read_to_string(&log).unwrap().matches("connection ends").count();
    garbage().await;
    admin(&served, &["daemon-log-filters", ""]).await;
    assert_eq!(warnings(), 0);
    garbage().await;
    wait_for("the warning", SOON, || async { (warnings() == 1).then_some(()).ok_or("none".to_owned()) })
        .await;
    admin(&served, &["daemon-log-outputs", "4:stderr"]).await;
    garbage().await;
    assert!(admin(&served, &["daemon-log-outputs"]).await.contains("4:file:"));
    assert_eq!(warnings(), 1);
    for (wrong, says) in [
        (&["daemon-log-filters", "bogus"][..], "Malformed format for filter 'bogus'"),
        (&["daemon-log-outputs", "bogus"], "Malformed format for log output 'bogus'"),
        (&["daemon-log-outputs", "1:file:/etc/motd"], "nowhere else"),
    ] {
        let text = admin_fails(&served, wrong).await;
        assert!(text.contains(says), "{text}");
    }
    // Nobody comes to the admin program by the public door, or the other way round.
    let uri = format!("libvirtd+unix:///system?socket={}", served.socket("libvirt-sock").display());
    assert!(served.said("virt-admin", &["-c", &uri, "srv-list"]).await.0.contains("Cannot find program"));
    let uri = format!("qemu+unix:///session?socket={}", served.socket("libvirt-admin-sock").display());
    assert!(served.said("virsh", &["-c", &uri, "list"]).await.0.contains("Cannot find program"));
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn the_names_of_stocks_single_daemons_lead_to_the_same_stack() {
    if !ready() {
        return;
    }
    let served = Served::new().await;
    for daemon in ["virtqemud", "virtstoraged", "virtsecretd", "virtnetworkd"] {
        for ending in ["sock", "sock-ro"] {
            let socket = served.socket(&format!("{daemon}-{ending}"));
            let uri = format!("qemu+unix:///session?socket={}", socket.display());
            let (text, well) = served.said("virsh", &["-c", &uri, "list", "--all"]).await;
            assert!(well, "{}: {text}", socket.display());
        }
        let socket = served.socket(&format!("{daemon}-admin-sock"));
        let uri = format!("libvirtd+unix:///system?socket={}", socket.display());
        assert!(served.said("virt-admin", &["-c", &uri, "srv-list"]).await.1);
    }
    served.stack.stop().await.unwrap();
}
