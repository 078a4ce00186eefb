//! The application of `src/bin/app.rs`, as the tests see it.

use crate::fixture::libexec;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A running application; killed when this is dropped.
#[derive(Debug)]
pub struct App {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The child that it forked, if it did.
    pub child: Option<u32>,
}

impl App {
    /// Starts it and waits until it is ready. `prepare` may say more about the process.
    ///
    /// # Errors
    /// What it says that opening said.
    pub fn start(
        root: &Path,
        mode: &str,
        xml: Option<&str>,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Self, String> {
        let mut command = Command::new(libexec().join("bulkhead-test-app"));
        command.arg(root).arg(mode).args(xml);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        prepare(&mut command);
        let mut process = command.spawn().map_err(|error| error.to_string())?;
        let output = process.stdout.take().ok_or("no output")?;
        let mut app = Self { process, lines: BufReader::new(output).lines(), child: None };
        loop {
            let line = app.line()?;
            if line == "ready" {
                return Ok(app);
            }
            if let Some(error) = line.strip_prefix("error ") {
                return Err(error.to_owned());
            }
            app.child = line.strip_prefix("child ").and_then(|pid| pid.parse().ok()).or(app.child);
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let line = self.lines.next().ok_or("the application has ended")?;
        line.map_err(|error| error.to_string())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends its input; returns what it says until it has closed the stack.
    ///
    /// # Errors
    /// An application that ends without saying that it has closed.
    pub fn close(mut self) -> Result<Vec<String>, String> {
        drop(self.process.stdin.take());
        let mut said = Vec::new();
        loop {
            match self.line()? {
                line if line == "closed" => return Ok(said),
                line => said.push(line),
            }
        }
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.kill();
        if let Some(child) = self.child.take().and_then(|pid| i32::try_from(pid).ok()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Does this process run? One that has ended and is not reaped does not.
#[must_use]
pub fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(!stat.rsplit_once(") ")?.1.starts_with('Z')))
        .unwrap_or(false)
}

/// Waits until none of these runs.
///
/// # Panics
/// When one still does after that time.
pub fn wait_gone(pids: &[u32], within: Duration) {
    let deadline = Instant::now() + within;
    while let Some(pid) = pids.iter().find(|pid| runs(**pid)) {
        assert!(Instant::now() < deadline, "process {pid} still runs after {within:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The drivers of a root, as its broker wrote them down.
#[must_use]
pub fn drivers(root: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(root.join("run/broker/drivers"));
    let pid = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    entries.into_iter().flatten().flatten().filter_map(pid).collect()
}
