//! Guests that end with the connection of the client that started them, whatever ends that connection and whoever dies meanwhile.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{driver, guest_files, kill, skip, wait_for};
use bulkhead_tests::served::Served;
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
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

/// A virsh that keeps its connection and does what it is told.
struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    fn open(served: &Served) -> Self {
        let mut child = served.command("virsh").stdin(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, lines }
    }

    /// Has a command done, and waits for what it says when it has done it.
    async fn does(&mut self, command: &str, says: &str) {
        self.input.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let heard = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(says) {
                    return;
                }
            }
            panic!("virsh ended before it said '{says}'");
        };
        timeout(SOON, heard).await.unwrap_or_else(|_| panic!("{command}: '{says}' does not come"));
    }

    /// Leaves in order.
    async fn quit(mut self) {
        self.input.write_all(b"quit\n").await.unwrap();
        assert!(timeout(SOON, self.child.wait()).await.unwrap().unwrap().success());
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }
}

async fn runs(served: &Served, name: &str) -> bool {
    served.virsh(&["list", "--name"]).await.lines().any(|line| line.trim() == name)
}

async fn ends(served: &Served, name: &str) {
    wait_for("the guest ends", SOON, || async {
        (!runs(served, name).await).then_some(()).ok_or(format!("{name} runs"))
    })
    .await;
    assert!(served.root.helpers_gone(), "its process is gone too");
}

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
async fn a_guest_ends_with_the_client_that_started_it_and_with_no_other() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    served.virsh(&["define", &served.definition("kept", &files)]).await;
    served.virsh(&["define", &served.definition("web", &files)]).await;
    let passing = served.definition("passing", &files);
    let mut shell = Shell::open(&served);
    shell.does("start web --autodestroy", "started").await;
    shell.does(&format!("create {passing} --autodestroy"), "created").await;
    shell.does("start kept", "started").await;
    // Another client comes and goes.
    assert!(runs(&served, "web").await && runs(&served, "passing").await);
    shell.quit().await;
    wait_for("the guests end", SOON, || async {
        let gone = !runs(&served, "web").await && !runs(&served, "passing").await;
        gone.then_some(()).ok_or("they run".to_owned())
    })
    .await;
    assert_eq!(served.virsh(&["domstate", "web", "--reason"]).await.trim(), "shut off (destroyed)");
    assert!(served.virsh_fails(&["domstate", "passing"]).await.contains("failed to get domain"));
    assert!(runs(&served, "kept").await);
    // The next run is nobody's.
    served.virsh(&["start", "web"]).await;
    killed(&served, "qemu").await;
    assert!(runs(&served, "web").await && runs(&served, "kept").await);
    served.virsh(&["destroy", "web"]).await;
    served.virsh(&["destroy", "kept"]).await;
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn it_ends_with_a_client_that_is_killed_after_both_drivers_were() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    served.virsh(&["define", &served.definition("web", &files)]).await;
    let mut shell = Shell::open(&served);
    shell.does("start web --autodestroy", "started").await;
    killed(&served, "qemu").await;
    killed(&served, "gateway").await;
    shell.does("domstate web", "running").await;
    kill(shell.pid(), Signal::SIGKILL);
    ends(&served, "web").await;
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn it_ends_with_a_client_that_goes_while_the_qemu_driver_is_away() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    served.virsh(&["define", &served.definition("web", &files)]).await;
    let mut shell = Shell::open(&served);
    shell.does("start web --autodestroy", "started").await;
    served.stack.hold(bulkhead_wire::table::Driver::Qemu).await.unwrap();
    let guest = served.root.helpers();
    kill(shell.pid(), Signal::SIGKILL);
    assert!(!shell.child.wait().await.unwrap().success());
    wait_for("the driver is out of service", SOON, || async {
        let status = served.stack.status().await.map_err(|error| error.to_string())?;
        let qemu = status.drivers.iter().find(|driver| driver.name == "qemu");
        qemu.is_some_and(|qemu| qemu.state == "held").then_some(()).ok_or(format!("{qemu:?}"))
    })
    .await;
    assert_eq!(served.root.helpers(), guest, "nobody is there who could end it");
    served.stack.release(bulkhead_wire::table::Driver::Qemu).await.unwrap();
    wait_for("the driver serves", SOON, || driver(&served.stack, "qemu")).await;
    ends(&served, "web").await;
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn it_ends_with_a_connection_that_the_gateway_could_not_take_over() {
    let Some(files) = ready() else { return };
    let served = Served::new().await;
    served.virsh(&["define", &served.definition("web", &files)]).await;
    let mut shell = Shell::open(&served);
    shell.does("start web --autodestroy", "started").await;
    // Its console is a stream, which dies with the gateway's process and takes the connection with it.
    let mut other = served.command("script");
    other.args(["-qfc", "virsh", "/dev/null"]).stdin(Stdio::piped());
    let mut other = other.spawn().unwrap();
    let xml = served.definition("side", &files);
    let mut input = other.stdin.take().unwrap();
    let commands = format!("create {xml} --autodestroy\nconsole side\n");
    input.write_all(commands.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let counting = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.trim().parse::<u64>().is_ok() {
                return;
            }
        }
    };
    timeout(SOON, counting).await.unwrap();
    killed(&served, "gateway").await;
    wait_for("the guest ends", SOON, || async {
        (!runs(&served, "side").await).then_some(()).ok_or("it runs".to_owned())
    })
    .await;
    assert!(runs(&served, "web").await, "whose client was at rest");
    drop(input);
    other.start_kill().unwrap();
    shell.quit().await;
    ends(&served, "web").await;
    served.stack.stop().await.unwrap();
}
