//! The log driver: what guests' QEMU processes write to their standard error, in bounded, rotated files.
//!
//! Owns: the log folder. A guest writes into a pipe; the reading end is on the broker's shelf, so neither this driver's death nor
//! a slow disk is felt by the guest for as long as the pipe has room, and nothing that was written is lost.

mod file;

use bulkhead_actors::driver::{DriverLogic, Leave, Start};
use bulkhead_actors::stack::Stack;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::{CallContext, Driver, log};
use bulkhead_wire::types::Busy;
use file::LogFile;
use nix::fcntl::OFlag;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Smallest and largest size of one log file.
const FILE_BYTES: std::ops::RangeInclusive<u64> = 4096..=1 << 30;
/// Most rotated files of one log.
const KEEP_MAX: u32 = 100;

/// All logs of a stack.
pub struct Logs {
    folder: PathBuf,
    stack: Stack,
    /// Pipes per log: several writers of one log share its file.
    open: Arc<Mutex<HashMap<String, usize>>>,
}

impl DriverLogic for Logs {
    const DRIVER: Driver = Driver::Log;

    async fn recover(start: Start) -> Result<Arc<Self>, Error> {
        let logs =
            Arc::new(Self { folder: start.welcome.layout.log, stack: start.stack, open: Arc::default() });
        for (deposit, file) in start.welcome.deposits {
            match (Pipe::parse(&deposit), file.into_owned()) {
                (Some(pipe), Some(file)) => logs.follow(pipe, deposit, file)?,
                _ => tracing::warn!(deposit, "unknown deposit"),
            }
        }
        Ok(logs)
    }

    fn dispatch(self: Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        log::dispatch(self, call, body, files)
    }

    fn busy(&self) -> Vec<Busy> {
        Vec::new()
    }

    async fn leave(&self, _reason: Leave) {}
}

/// A pipe as its deposit's name tells it: `NUMBER MAX KEEP NAME`.
struct Pipe {
    max_bytes: u64,
    keep: u32,
    name: String,
}

impl Pipe {
    fn parse(deposit: &str) -> Option<Self> {
        let mut words = deposit.splitn(4, ' ').skip(1);
        let max_bytes = words.next()?.parse().ok()?;
        let keep = words.next()?.parse().ok()?;
        Some(Self { max_bytes, keep, name: words.next()?.to_owned() })
    }
}

impl Logs {
    /// Copies a pipe into its log until all writers have gone.
    fn follow(&self, pipe: Pipe, deposit: String, reading: OwnedFd) -> Result<(), Error> {
        let system =
            |error: std::io::Error| Error::system(Origin::NONE, format!("Log {}", pipe.name), &error);
        let mut reading = pipe::Receiver::from_owned_fd(reading).map_err(system)?;
        let mut file = LogFile::open(&self.folder, &pipe.name, pipe.max_bytes, pipe.keep).map_err(system)?;
        let (stack, open, name) = (self.stack.clone(), Arc::clone(&self.open), pipe.name);
        *open.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default() += 1;
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 << 10];
            loop {
                match reading.read(&mut buffer).await {
                    Ok(0) => break,
                    Ok(count) => {
                        // A full disk must not stop the guest: what can't be written is dropped.
                        if let Err(error) = file.append(buffer.get(..count).unwrap_or_default()) {
                            tracing::error!(name, %error, "log can't be written");
                        }
                    }
                    Err(error) => {
                        tracing::error!(name, %error, "pipe");
                        break;
                    }
                }
            }
            {
                let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(count) = open.get_mut(&name) {
                    *count -= 1;
                    if *count == 0 {
                        open.remove(&name);
                    }
                }
            }
            let _ = stack.withdraw(&deposit).await;
        });
        Ok(())
    }
}

impl log::Server for Logs {
    async fn log_tail(
        &self,
        _call: CallContext,
        arguments: log::log_tail::Arguments,
    ) -> Result<String, Error> {
        let log::log_tail::Arguments { name, max_bytes } = arguments;
        if !file::is_plain(&name) {
            let message = format!("'{name}' is no name of a log");
            return Err(Error::new(Code::INVALID_ARG, Origin::NONE, message));
        }
        file::tail(&self.folder.join(&name), u64::from(max_bytes.min(TAIL_MAX_BYTES)))
            .map_err(|error| Error::system(Origin::NONE, format!("Log {name}"), &error))
    }

    async fn log_open(
        &self,
        _call: CallContext,
        arguments: log::log_open::Arguments,
    ) -> Result<Descriptor, Error> {
        let log::log_open::Arguments { name, max_bytes, keep } = arguments;
        if !file::is_plain(&name) || !FILE_BYTES.contains(&max_bytes) || keep > KEEP_MAX {
            let message = format!(
                "Log '{name}' of {max_bytes} bytes with {keep} old files: not a name and bounds of a log"
            );
            return Err(Error::new(Code::INVALID_ARG, Origin::NONE, message));
        }
        let system = |error: std::io::Error| Error::system(Origin::NONE, format!("Log {name}"), &error);
        let (reading, writing) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| system(errno.into()))?;
        let number = nix::sys::stat::fstat(&reading).map_err(|errno| system(errno.into()))?.st_ino;
        let deposit = format!("{number} {max_bytes} {keep} {name}");
        self.stack.deposit(&deposit, reading.try_clone().map_err(system)?).await?;
        nonblocking(&reading).map_err(system)?;
        self.follow(Pipe { max_bytes, keep, name: name.clone() }, deposit, reading)?;
        Ok(Descriptor::new(writing))
    }
}

/// Bytes of a log that are told at most.
const TAIL_MAX_BYTES: u32 = 64 << 10;

fn nonblocking(file: &OwnedFd) -> std::io::Result<()> {
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}
