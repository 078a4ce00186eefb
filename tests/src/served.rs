//! A stack that libvirt's own clients, unmodified, are run against.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use crate::fixture::{Root, SERIAL_PTY, libexec, ticker_xml};
use bulkhead::Connection;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);
/// Where Debian puts the interpreter for which it has libvirt's module.
pub const PYTHON: &str = "/usr/bin/python3";

/// Are these programs there?
#[must_use]
pub fn installed(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
    })
}

/// A stack with a gateway, and what libvirt's clients are told.
#[derive(Debug)]
pub struct Served {
    /// The root.
    pub root: Root,
    /// Its owner's connection.
    pub stack: Connection,
}

impl Served {
    /// Opens one.
    ///
    /// # Panics
    /// When it can't be opened.
    pub async fn new() -> Self {
        let root = Root::new();
        let builder = Connection::builder(&root.uri()).libexec(libexec()).gateway(true);
        let stack = builder.open().await.unwrap();
        Self { root, stack }
    }

    /// The path of one of its public sockets.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.root.path().join("run").join(name)
    }

    /// The URI by which clients reach it.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.socket("libvirt-sock").display())
    }

    /// A client that reaches it without being told where.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LIBVIRT_DEFAULT_URI", self.uri()).env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What it prints, and whether it was content.
    ///
    /// # Panics
    /// When it can't be run or does not end in time.
    pub async fn said(&self, program: &str, arguments: &[&str]) -> (String, bool) {
        let output = timeout(SOON, self.command(program).args(arguments).output()).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (text, output.status.success())
    }

    /// What a command of virsh's prints that is content.
    ///
    /// # Panics
    /// When it is not.
    pub async fn virsh(&self, arguments: &[&str]) -> String {
        let (text, well) = self.said("virsh", arguments).await;
        assert!(well, "virsh {arguments:?}: {text}");
        text
    }

    /// What a command of virsh's prints that fails.
    ///
    /// # Panics
    /// When it does not.
    pub async fn virsh_fails(&self, arguments: &[&str]) -> String {
        let (text, well) = self.said("virsh", arguments).await;
        assert!(!well, "virsh {arguments:?}: {text}");
        text
    }

    /// The XML of a guest of that name, in a file.
    ///
    /// # Panics
    /// When the file can't be made.
    #[must_use]
    pub fn definition(&self, name: &str, files: &Path) -> String {
        let disk = self.root.path().join(format!("{name}.img"));
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        let path = self.root.path().join(format!("{name}.xml"));
        std::fs::write(&path, ticker_xml(name, &disk, SERIAL_PTY)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
