//! A private stack with a gateway, and libvirt's own programs that are pointed at it.

use crate::fixture::{Root, SERIAL_PTY, libexec, skip, ticker_xml};
use bulkhead::Connection;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// Longer than any of these programs takes.
pub const SOON: Duration = Duration::from_secs(60);
/// Where Debian puts the interpreter for which it has libvirt's module.
pub const PYTHON: &str = "/usr/bin/python3";

/// A stack below a root of its own, and what libvirt's clients are told.
#[derive(Debug)]
pub struct Served {
    /// Its root.
    pub root: Root,
    /// The owner's connection.
    pub stack: Connection,
}

impl Served {
    /// Opens one.
    ///
    /// # Panics
    /// When it can't be opened.
    #[expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]
    pub async fn new() -> Self {
        let root = Root::new();
        std::fs::create_dir_all(root.path().join("images")).unwrap();
        let builder = Connection::builder(&root.uri()).libexec(libexec()).gateway(true);
        let stack = builder.open().await.unwrap();
        Self { root, stack }
    }

    /// A public socket.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.root.path().join("run").join(name)
    }

    /// What libvirt's clients open.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.socket("libvirt-sock").display())
    }

    /// A folder for images, beside the stack's own: pools take folders that hold nothing of the stack.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.path().join("images")
    }

    /// A program that will find the stack and nothing of this user's.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LIBVIRT_DEFAULT_URI", self.uri())
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", self.root.path())
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What it prints, and whether it was content.
    ///
    /// # Panics
    /// When it can't be started, or takes too long.
    #[expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]
    pub async fn said(&self, program: &str, arguments: &[&str]) -> (String, bool) {
        let output = timeout(SOON, self.command(program).args(arguments).output()).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (text.concat(), output.status.success())
    }

    /// What a program prints that has to be content.
    ///
    /// # Panics
    /// When it is not.
    pub async fn does(&self, program: &str, arguments: &[&str]) -> String {
        let (text, well) = self.said(program, arguments).await;
        assert!(well, "{program} {arguments:?}: {text}");
        text
    }

    /// What a program prints that has to fail.
    ///
    /// # Panics
    /// When it does not.
    pub async fn fails(&self, program: &str, arguments: &[&str]) -> String {
        let (text, well) = self.said(program, arguments).await;
        assert!(!well, "{program} {arguments:?}: {text}");
        text
    }

    /// `virsh`, content.
    ///
    /// # Panics
    /// When it is not.
    pub async fn virsh(&self, arguments: &[&str]) -> String {
        self.does("virsh", arguments).await
    }

    /// `virsh`, that has to fail.
    ///
    /// # Panics
    /// When it does not.
    pub async fn virsh_fails(&self, arguments: &[&str]) -> String {
        self.fails("virsh", arguments).await
    }

    /// The XML of a guest that counts, in a file.
    ///
    /// # Panics
    /// When the file can't be made.
    #[must_use]
    pub fn definition(&self, name: &str, files: &Path) -> String {
        let disk = self.ticker_disk(&format!("{name}.img"), files);
        self.file(&format!("{name}.xml"), &ticker_xml(name, &disk, SERIAL_PTY))
    }

    /// A file in the root.
    ///
    /// # Panics
    /// When it can't be written.
    #[must_use]
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.root.path().join(name);
        std::fs::write(&path, text).expect("a file of the root can be written");
        path.display().to_string()
    }

    /// A disk in the images' folder that counts on its guest's serial port.
    ///
    /// # Panics
    /// When it can't be written.
    #[must_use]
    pub fn ticker_disk(&self, name: &str, files: &Path) -> PathBuf {
        let path = self.images().join(name);
        std::fs::copy(files.join("ticker.img"), &path).expect("the image can be copied");
        path
    }
}

/// Are these programs installed? Else the test is skipped, with the package that has them.
#[must_use]
pub fn has(programs: &[(&str, &str)]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing = programs
        .iter()
        .find(|(program, _)| !found(program) && !Path::new("/usr/sbin").join(program).is_file());
    if let Some((program, package)) = missing {
        skip(&format!("no {program}; the package {package} has it"));
    }
    missing.is_none()
}
