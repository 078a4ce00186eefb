//! libvirt's `ext` transport: a program without arguments, made once, is all that a client needs for a private stack.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead_tests::fixture::{Root, guest_files, kill, libexec, skip, ticker_xml, wait_for};
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);

/// A root, and the URI by which libvirt's clients reach it.
struct Private {
    root: Root,
    program: PathBuf,
    uri: String,
}

impl Private {
    async fn new() -> Self {
        let root = Root::new();
        // Beside the root, in a folder whose name has to be quoted and encoded.
        let program = root.path().join("it's a folder");
        std::fs::create_dir_all(&program).unwrap();
        let program = program.join("connect");
        let mut command = Command::new(libexec().join("bulkhead"));
        command.arg("--root").arg(root.path()).arg("--libexec").arg(libexec());
        command.args(["embed", "--make-command"]).arg(&program);
        let made = command.output().await.unwrap();
        assert!(made.status.success(), "{made:?}");
        let uri = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        assert!(uri.starts_with("qemu+ext:///session?command=/"), "{uri}");
        assert_eq!(std::fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        Self { root, program, uri }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LIBVIRT_DEFAULT_URI", &self.uri).env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn output(&self, program: &str, arguments: &[&str]) -> Output {
        timeout(SOON, self.command(program).args(arguments).output()).await.unwrap().unwrap()
    }

    async fn virsh(&self, arguments: &[&str]) -> String {
        let output = self.output("virsh", arguments).await;
        assert!(output.status.success(), "virsh {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The process that has the root open, if there is one.
    fn keeper(&self) -> Option<u32> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let root = self.root.path().to_str().unwrap();
        pids.into_iter().find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.contains(&&b"keep"[..]) && words.contains(&root.as_bytes())
        })
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper() {
            kill(keeper, Signal::SIGKILL);
        }
    }
}

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

fn definition(private: &Private, files: &Path) -> String {
    let disk = private.root.path().join("web.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let path = private.root.path().join("web.xml");
    std::fs::write(&path, ticker_xml("web", &disk, "")).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn virsh_needs_nothing_but_the_program() {
    let Some(files) = ready() else { return };
    let private = Private::new().await;
    let xml = definition(&private, &files);
    // Some that come at once share one stack.
    let (one, other) = tokio::join!(private.virsh(&["version"]), private.virsh(&["nodeinfo"]));
    assert!(one.contains("Running hypervisor: QEMU") && other.contains("Memory size:"));
    let keeper = private.keeper().unwrap();
    private.virsh(&["define", &xml]).await;
    private.virsh(&["start", "web"]).await;
    // Each is a connection of its own, and the stack the same.
    assert!(private.virsh(&["list"]).await.contains("web"));
    assert_eq!(private.keeper(), Some(keeper));
    // So is what an application with the library sees.
    let stack = Connection::attach(private.root.path()).await.unwrap();
    assert_eq!(stack.domains().connect_list_all_domains(0, 1).await.unwrap().count, 1);
    drop(stack);
    // Who only wants to look is held to it over this transport too.
    let refused = private.output("virsh", &["-r", "destroy", "web"]).await;
    assert!(String::from_utf8(refused.stderr).unwrap().contains("read only access"));

    // One that ends with its client does so when libvirt ends the program of its connection.
    private.virsh(&["destroy", "web"]).await;
    let mut shell = private.command("virsh").stdin(Stdio::piped()).spawn().unwrap();
    let mut input = shell.stdin.take().unwrap();
    input.write_all(b"start web --autodestroy\n").await.unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    let started = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("started") {
                return;
            }
        }
        panic!("virsh ended");
    };
    timeout(SOON, started).await.unwrap();
    kill(shell.id().unwrap(), Signal::SIGKILL);
    wait_for("the guest ends", SOON, || async {
        let list = private.virsh(&["list", "--name"]).await;
        list.trim().is_empty().then_some(()).ok_or(list)
    })
    .await;
    private.virsh(&["undefine", "web"]).await;
}

#[tokio::test]
async fn the_stack_ends_when_nobody_needs_it_and_begins_again() {
    let Some(files) = ready() else { return };
    let private = Private::new().await;
    let xml = definition(&private, &files);
    let keep = || {
        let mut command = Command::new(libexec().join("bulkhead"));
        command.arg("--root").arg(private.root.path()).arg("--libexec").arg(libexec());
        command.args(["keep", "--idle", "0"]).stdout(Stdio::piped()).kill_on_drop(true);
        command.spawn().unwrap()
    };
    let began = |child: &mut tokio::process::Child| {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        async move { timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap() }
    };
    // Somebody is connected while it begins; a guest runs when he has gone; and then nothing does.
    let mut shell = private.command("virsh").stdin(Stdio::piped()).spawn().unwrap();
    let mut input = shell.stdin.take().unwrap();
    input.write_all(format!("create {xml}\n").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    let created = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("created") {
                return;
            }
        }
        panic!("virsh ended");
    };
    timeout(SOON, created).await.unwrap();
    // The stack's own keeper is killed: its guest goes on, and the next client's stack finds it.
    kill(private.keeper().unwrap(), Signal::SIGKILL);
    drop(input);
    timeout(SOON, shell.wait()).await.unwrap().unwrap();
    let mut keeper = keep();
    assert_eq!(began(&mut keeper).await, "ready");
    assert!(private.virsh(&["list"]).await.contains("web"));
    assert!(keeper.try_wait().unwrap().is_none(), "a guest runs");
    private.virsh(&["destroy", "web"]).await;
    assert!(timeout(SOON, keeper.wait()).await.unwrap().unwrap().success());
    assert!(private.root.helpers_gone());
    // Whoever comes next opens it anew.
    assert_eq!(private.virsh(&["list", "--all", "--name"]).await.trim(), "");
}

#[tokio::test]
async fn what_stands_in_the_way_is_said_to_the_client() {
    let Some(_files) = ready() else { return };
    let private = Private::new().await;
    // Another has the root open, and does not serve libvirt's clients.
    let stack = private.root.open().await.unwrap();
    let refused = private.output("virsh", &["list"]).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains(&format!("process {}", std::process::id())), "{said}");
    stack.close().await;
    assert!(private.program.is_file());
}
