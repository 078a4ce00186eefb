//! A private stack in a folder of its own, and everything of it gone afterwards, also when the test failed.

use bulkhead::Connection;
use bulkhead::wire::types::DomainRef;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Says why a test is not run; the runner counts these lines.
#[expect(clippy::print_stdout, reason = "the runner reads these lines")]
pub fn skip(why: &str) {
    println!("skipped: {why}");
}

/// The folder of the programs that this build made: the tests' own folder is one below it.
#[must_use]
pub fn libexec() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let folder = own.parent().map(Path::to_owned).unwrap_or_default();
    if folder.ends_with("deps") { folder.parent().map(Path::to_owned).unwrap_or(folder) } else { folder }
}

/// The repository's cache, where `tools/guest/build` puts kernel, initramfs and boot sector.
#[must_use]
pub fn guest_files() -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let cache = std::env::var_os("BULKHEAD_CACHE").map_or_else(|| repository.join(".cache"), PathBuf::from);
    let folder = cache.join("guest");
    (folder.join("vmlinuz").is_file() && folder.join("ticker.img").is_file()).then_some(folder)
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A root folder; removed with what is in it, after the guests below it were ended.
#[derive(Debug)]
pub struct Root(PathBuf);

impl Root {
    /// A fresh root with a short path.
    #[must_use]
    pub fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("bh-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The URI of the stack below it.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu:///embed?root={}", self.0.display())
    }

    /// Opens the stack.
    ///
    /// # Errors
    /// What opening says.
    pub async fn open(&self) -> Result<Connection, bulkhead::OpenError> {
        Connection::builder(&self.uri()).libexec(libexec()).open().await
    }

    /// Are all helpers gone? The broker hears of an end by itself, at the same time as the driver does: it has a moment.
    #[must_use]
    pub fn helpers_gone(&self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.helpers().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.helpers().is_empty()
    }

    /// Process ids of the helpers that the broker's records name.
    #[must_use]
    pub fn helpers(&self) -> Vec<u32> {
        // An embedded stack's records, and those of a session whose runtime folder is `run`.
        let folders = ["run/broker/helpers", "run/bulkhead/broker/helpers"];
        let entries =
            folders.iter().filter_map(|folder| std::fs::read_dir(self.0.join(folder)).ok()).flatten();
        let record = |entry: std::fs::DirEntry| -> Option<u32> {
            let text = std::fs::read(entry.path()).ok()?;
            let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
            u32::try_from(value.get("pid")?.as_u64()?).ok()
        };
        entries.flatten().filter_map(record).collect()
    }
}

impl Default for Root {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for pid in self.helpers() {
            // Only what still is a helper of this very root: its command line or environment may be anybody's by now.
            let maps = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if maps.contains("qemu") || maps.contains("swtpm") || maps.contains("bulkhead-launch") {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX));
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits for a state, with a deadline; panics with the last thing seen.
///
/// # Panics
/// When the deadline passes.
pub async fn wait_for<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => {
                assert!(Instant::now() < deadline, "{what}: not within {within:?}; last seen: {seen}");
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The XML of a guest that counts on its serial port from its boot sector: small, quick, and it never ends.
#[must_use]
pub fn ticker_xml(name: &str, disk: &Path, serial: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='hda' bus='ide'/></disk>{serial}<memballoon model='none'/></devices></domain>",
        disk.display()
    )
}

/// The XML of a small Linux guest; `mode` is what it does (`greet`, `count`, `shell`).
#[must_use]
pub fn linux_xml(name: &str, files: &Path, mode: &str, serial: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{0}/vmlinuz</kernel>\
         <initrd>{0}/initramfs-tiny.cpio.gz</initrd>\
         <cmdline>console=ttyS0 quiet panic=-1 bulkhead.mode={mode}</cmdline></os><features><acpi/></features>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{serial}<memballoon model='none'/></devices></domain>",
        files.display()
    )
}

/// A serial port that is a terminal, as most guests have one.
pub const SERIAL_PTY: &str = "<serial type='pty'/><console type='pty'><target type='serial'/></console>";

/// A domain of a stack, by its name.
///
/// # Errors
/// No such domain.
pub async fn domain(stack: &Connection, name: &str) -> Result<DomainRef, bulkhead::Error> {
    stack.domains().domain_lookup_by_name(name.to_owned()).await
}

/// A driver's process id and incarnation.
///
/// # Errors
/// The driver is not running.
pub async fn driver(stack: &Connection, name: &str) -> Result<(u32, u64), String> {
    let status = stack.status().await.map_err(|error| error.to_string())?;
    let driver = status.drivers.iter().find(|driver| driver.name == name).ok_or("no such driver")?;
    match (driver.pid, driver.state.as_str()) {
        (Some(pid), "ready") => Ok((pid, driver.incarnation)),
        _ => Err(format!("{name} is {}", driver.state)),
    }
}

/// Sends a signal to a process of a test's own stack.
///
/// # Panics
/// When there is no such process.
pub fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = i32::try_from(pid).expect("process ids are small");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("the process is there");
}

/// Prints a measured figure where the runner finds it.
#[expect(clippy::print_stdout, reason = "the runner reads these lines")]
pub fn figure(text: &str) {
    println!("figure: {text}");
}
