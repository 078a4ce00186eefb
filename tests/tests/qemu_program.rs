//! What only QEMU has: libvirt's `qemu` program through virsh.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{driver, guest_files, kill, skip, wait_for};
use bulkhead_tests::served::Served;
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

fn ready() -> Option<PathBuf> {
    if std::process::Command::new("virsh").arg("--version").output().is_err() {
        skip("no virsh; libvirt-clients has it");
        return None;
    }
    let files = guest_files();
    if files.is_none() {
        skip("no guest files; tools/guest/build makes them");
    }
    files
}

#[tokio::test]
async fn the_monitor_does_what_it_is_told_by_who_may_change_things() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    served.virsh(&["define", &served.definition("web", &files)]).await;
    assert!(served.virsh_fails(&["qemu-monitor-command", "web", "{}"]).await.contains("not running"));
    served.virsh(&["start", "web"]).await;
    let status = r#"{"execute":"query-status","id":"mine"}"#;
    let said = served.virsh(&["qemu-monitor-command", "web", status]).await;
    assert!(said.contains("\"status\":\"running\"") && said.contains("\"mine\""), "{said}");
    let said = served.virsh(&["qemu-monitor-command", "web", "--pretty", "--return-value", status]).await;
    assert!(said.contains("\"running\": true"), "{said}");
    assert!(
        served
            .virsh(&["qemu-monitor-command", "web", "--hmp", "info status"])
            .await
            .contains("VM status: running")
    );
    let said = served.virsh(&["qemu-monitor-command", "web", r#"{"execute":"no-such"}"#]).await;
    assert!(said.contains("CommandNotFound"), "{said}");
    for command in [&["qemu-monitor-command", "web", status][..], &["qemu-agent-command", "web", "{}"]] {
        let refused = served.virsh_fails(&[&["-r"], command].concat()).await;
        assert!(refused.contains("read only access"), "{refused}");
    }
    assert!(served.virsh_fails(&["qemu-agent-command", "web", "{}"]).await.contains("agent"));
    assert!(served.virsh_fails(&["qemu-attach", "1"]).await.contains("not supported"));
    served.virsh(&["destroy", "web"]).await;
    served.stack.stop().await.unwrap();
}

/// `virsh qemu-monitor-event --loop`.
struct Events {
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Events {
    fn open(served: &Served, arguments: &[&str]) -> Self {
        let mut command = served.command("stdbuf");
        command.args(["-oL", "virsh", "qemu-monitor-event", "--loop"]).args(arguments);
        let mut child = command.spawn().unwrap();
        Self { lines: BufReader::new(child.stdout.take().unwrap()).lines(), child }
    }

    /// Reads until a line holds this text; gives what came before.
    async fn until(&mut self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        let found = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(text) {
                    return;
                }
                seen.push(line);
            }
            panic!("virsh ended before '{text}'");
        };
        timeout(SOON, found).await.unwrap_or_else(|_| panic!("no '{text}' comes"));
        seen
    }
}

#[tokio::test]
async fn the_monitors_own_events_come_to_those_who_asked_over_the_death_of_the_driver() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    served.virsh(&["define", &served.definition("web", &files)]).await;
    served.virsh(&["start", "web"]).await;
    let mut all = Events::open(&served, &[]);
    let mut resumes = Events::open(&served, &["--domain", "web", "--event", "RESUME"]);
    let turn = || async {
        served.virsh(&["suspend", "web"]).await;
        served.virsh(&["resume", "web"]).await;
    };
    // Neither says when it is registered: what comes shows that it is there.
    for events in [&mut all, &mut resumes] {
        wait_for("an event", SOON, || async {
            turn().await;
            Ok::<(), String>(())
        })
        .await;
        while timeout(Duration::from_millis(500), events.lines.next_line()).await.is_err() {
            turn().await;
        }
    }
    served.virsh(&["qemu-monitor-command", "web", "--hmp", "rtc-reset-reinjection"]).await;
    turn().await;
    all.until("event STOP at").await;
    let (before, _) = driver(&served.stack, "qemu").await.unwrap();
    kill(before, Signal::SIGKILL);
    wait_for("the next incarnation", SOON, || async {
        let (now, _) = driver(&served.stack, "qemu").await?;
        (now != before).then_some(()).ok_or("the old one".to_owned())
    })
    .await;
    served.virsh(&["destroy", "web"]).await;
    served.virsh(&["start", "web"]).await;
    served.virsh(&["reset", "web"]).await;
    all.until("event RESET at").await;
    turn().await;
    let others = resumes.until("event RESUME at").await;
    assert!(others.iter().all(|line| line.contains("RESUME")), "{others:?}");
    let pattern = served.virsh_fails(&["qemu-monitor-event", "--event", "S.*", "--regex"]).await;
    assert!(pattern.contains("matches no patterns"), "{pattern}");
    drop((all.child, resumes.child));
    served.virsh(&["destroy", "web"]).await;
    served.stack.stop().await.unwrap();
}
