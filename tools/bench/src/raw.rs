//! A QEMU that is started without a stack: what nobody can be faster than.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A guest without a stack.
pub(crate) struct Raw {
    process: Child,
}

impl Raw {
    /// Starts this command line and returns when its monitor has answered. The listening socket that a stack hands to QEMU
    /// is handed over here too, as standard input.
    pub(crate) fn start(arguments: &[String], socket: &Path) -> Result<Self> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
        let (program, arguments) = arguments.split_first().context("an empty command line")?;
        let process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| program.clone())?;
        let guest = Self { process };
        guest.answered(socket)?;
        Ok(guest)
    }

    fn answered(&self, socket: &Path) -> Result<()> {
        let mut stream = UnixStream::connect(socket)?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let greeting = lines.next().context("QEMU ended before its greeting")??;
        if !greeting.contains("\"QMP\"") {
            bail!("QEMU greets with {greeting}");
        }
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        let answer = lines.next().context("QEMU ended before its first answer")??;
        if !answer.contains("\"return\"") {
            bail!("QEMU answers {answer}");
        }
        Ok(())
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

/// The command line of a running guest, made fit for a start without a stack: its monitor's socket is standard input.
pub(crate) fn command_line(pid: u32) -> Result<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let mut arguments: Vec<String> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let mut monitors = 0;
    for argument in &mut arguments {
        if argument.starts_with("socket,id=charmonitor,fd=") {
            *argument = "socket,id=charmonitor,fd=0,server=on,wait=off".to_owned();
            monitors += 1;
        }
    }
    if monitors != 1 {
        bail!("the guest's command line has {monitors} monitors that are descriptors");
    }
    Ok(arguments)
}
