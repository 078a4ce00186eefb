//! Stock libvirt, in a private daemon, asked by its own client, which also takes the time.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running client.
pub(crate) struct Stock {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Stock {
    /// Starts daemon and client; `None` where they are not installed.
    pub(crate) fn start() -> Result<Option<Self>> {
        let Some(runner) = runner() else { return Ok(None) };
        let mut process = Command::new(runner)
            .args(["virsh", "--timing"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?).lines();
        Ok(Some(Self { process, input, output }))
    }

    fn run(&mut self, command: &str) -> Result<f64> {
        writeln!(self.input, "{command}")?;
        self.input.flush()?;
        for line in self.output.by_ref() {
            let line = line?;
            if let Some(time) = line.strip_prefix("(Time: ") {
                return Ok(time.trim_end_matches(" ms)").parse()?);
            }
            if line.starts_with("error:") {
                bail!("stock libvirt: {line}");
            }
        }
        bail!("stock libvirt's client ended at '{command}'");
    }

    /// Starts a guest paused; milliseconds.
    pub(crate) fn create(&mut self, xml: &Path) -> Result<f64> {
        self.run(&format!("create {} --paused", xml.display()))
    }

    /// Destroys a guest; milliseconds.
    pub(crate) fn destroy(&mut self, name: &str) -> Result<f64> {
        self.run(&format!("destroy {name}"))
    }

    /// Ends client and daemon.
    pub(crate) fn quit(mut self) -> Result<()> {
        writeln!(self.input, "quit")?;
        drop(self.input);
        self.process.wait()?;
        Ok(())
    }
}

/// The script that starts a private daemon, in the shared folder beside the repository.
fn runner() -> Option<PathBuf> {
    let shared = std::env::var_os("BULKHEAD_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let runner = shared.join("tools/peer-run");
    (runner.is_file() && Path::new("/usr/sbin/libvirtd").is_file() && nix::unistd::getuid().is_root())
        .then_some(runner)
}
