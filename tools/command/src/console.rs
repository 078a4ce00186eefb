//! A console on this terminal: raw while attached, restored whatever happens.

use anyhow::Result;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Write};
use std::os::fd::OwnedFd;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;

/// Ctrl-]: leaves.
const LEAVE: u8 = 0x1d;

/// The terminal's earlier settings, put back when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Result<Self> {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(&input)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&input, SetArg::TCSANOW, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// Copies both ways until the guest hangs up or Ctrl-] is typed.
pub(crate) async fn attach(terminal: OwnedFd) -> Result<()> {
    fcntl(&terminal, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let terminal = bulkhead::wire::link::watch(terminal)?;
    let interactive = std::io::stdin().is_terminal();
    let _raw = Raw::enter()?;
    let mut input = tokio::io::stdin();
    let (mut typed, mut shown) = ([0; 1024], [0; 16384]);
    let mut open = true;
    loop {
        // Reading the terminal loses nothing when dropped; what standard input gave is written before the next turn.
        tokio::select! {
            count = read(&terminal, &mut shown) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                let mut out = std::io::stdout().lock();
                out.write_all(shown.get(..count).unwrap_or_default())?;
                out.flush()?;
            }
            count = input.read(&mut typed), if open => {
                let bytes = typed.get(..count?).unwrap_or_default();
                if bytes.is_empty() {
                    open = false;
                    continue;
                }
                if let Some(end) = bytes.iter().position(|byte| interactive && *byte == LEAVE) {
                    write(&terminal, bytes.get(..end).unwrap_or_default()).await?;
                    return Ok(());
                }
                write(&terminal, bytes).await?;
            }
        }
    }
}

/// Zero at the end: a terminal whose other side has gone says EIO.
async fn read(terminal: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> Result<usize> {
    loop {
        let mut ready = terminal.readable().await?;
        match nix::unistd::read(terminal.get_ref(), buffer) {
            Ok(count) => return Ok(count),
            Err(nix::errno::Errno::EIO) => return Ok(0),
            Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn write(terminal: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let mut ready = terminal.writable().await?;
        match nix::unistd::write(terminal.get_ref(), bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
            // A terminal, or a socket, whose other side has gone.
            Err(nix::errno::Errno::EIO | nix::errno::Errno::EPIPE) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
