//! `bulkhead connect`: a private stack's libvirt connection on standard input and output, for libvirt's `ext` transport; and
//! `bulkhead keep`, the process behind it that has the stack open.
//!
//! libvirt ends the program of a connection by a signal, so the stack can't live in it. The first to connect starts a process
//! that keeps it; all that are connected hold a shared lock, which the kernel drops however they end; and the keeper leaves
//! when it gets that lock alone, nothing runs, and it stayed so for a while. Whoever comes while it leaves waits for the lock,
//! and starts the next one.

use crate::options::Options;
use crate::{builder, output, uri};
use anyhow::{Context, Result, bail};
use bulkhead::{Connection, Which};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Held, shared, by all that are connected.
const CONNECTED: &str = "connected.lock";
/// Held by who starts the keeper.
const STARTING: &str = "keeper.lock";
/// The keeper's word that the stack serves.
const READY: &str = "ready\n";
/// Time in which it comes.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Bytes that are copied at once.
const CHUNK: usize = 64 << 10;
/// `VIR_CONNECT_LIST_DOMAINS_ACTIVE`.
const ACTIVE: u32 = 1;

/// The root that the options name.
fn root(options: &Options) -> Result<PathBuf> {
    let uri = uri(options)?;
    match bulkhead::Uri::parse(&uri)?.stack {
        Which::Embed(root) => Ok(root),
        _ => bail!("{uri} names no private stack: give --root DIR"),
    }
}

/// Writes a program that takes a connection on its standard input and output.
pub(crate) fn make_command(options: &Options, file: &Path) -> Result<ExitCode> {
    let root = root(options)?;
    let quoted = |path: &Path| -> Result<String> {
        let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        Ok(format!("'{}'", text.replace('\'', r"'\''")))
    };
    let program = quoted(&std::env::current_exe()?)?;
    let libexec = match &options.libexec {
        Some(folder) => format!(" --libexec {}", quoted(&std::path::absolute(folder)?)?),
        None => String::new(),
    };
    let text = format!(
        "#!/bin/sh\n# A libvirt connection to the private stack below this root, on standard input and output.\nexec {program} --root {}{libexec} connect\n",
        quoted(&root)?
    );
    // Whole or not at all: somebody may be using the one before.
    let sibling = file.with_extension("new");
    let write = || -> io::Result<()> {
        let mut written =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o700).open(&sibling)?;
        written.write_all(text.as_bytes())?;
        written.set_permissions(PermissionsExt::from_mode(0o755))?;
        std::fs::rename(&sibling, file)
    };
    write().with_context(|| file.display().to_string())?;
    let command = std::path::absolute(file)?;
    let command = command.to_str().with_context(|| format!("{} is not UTF-8", file.display()))?;
    let out = output::Output { json: options.json };
    out.line(&format!("qemu+ext:///session?command={}", output::percent_encode(command)))?;
    Ok(ExitCode::SUCCESS)
}

fn lock_file(run: &Path, name: &str) -> Result<File> {
    let path = run.join(name);
    let open = || {
        DirBuilder::new().recursive(true).mode(0o700).create(run)?;
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)
    };
    open().with_context(|| path.display().to_string())
}

async fn lock(run: &Path, name: &str, how: FlockArg) -> Result<Flock<File>> {
    let file = lock_file(run, name)?;
    let locked = tokio::task::spawn_blocking(move || Flock::lock(file, how)).await?;
    locked.map_err(|(_, errno)| errno).with_context(|| run.join(name).display().to_string())
}

fn reach(run: &Path) -> io::Result<UnixStream> {
    // Through its folder: whatever the root's name is, it is short enough.
    let folder = File::open(run)?;
    let short = format!("/proc/self/fd/{}/libvirt-sock", std::os::fd::AsRawFd::as_raw_fd(&folder));
    UnixStream::connect(short)
}

/// Takes the connection on standard input and output to the stack, which is opened for it if it is not open.
pub(crate) async fn connect(options: &Options) -> Result<ExitCode> {
    let root = root(options)?;
    let run = root.join("run");
    let _connected = lock(&run, CONNECTED, FlockArg::LockShared).await?;
    let stack = match reach(&run) {
        Ok(stack) => stack,
        Err(_) => {
            let _starting = lock(&run, STARTING, FlockArg::LockExclusive).await?;
            match reach(&run) {
                Ok(stack) => stack,
                Err(_) => {
                    timeout(READY_WITHIN, start_keeper(options, &root)).await.with_context(|| {
                        format!("the stack below {} did not begin in time", root.display())
                    })??;
                    reach(&run).with_context(|| run.join("libvirt-sock").display().to_string())?
                }
            }
        }
    };
    let (input, output) =
        (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    let (to, from) = (stack.try_clone()?, stack);
    tokio::task::spawn_blocking(move || {
        let copied = copy(&mut File::from(input), &mut &to);
        // What it said is served; what is answered still goes out.
        let _ = to.shutdown(Shutdown::Write);
        copied
    });
    tokio::task::spawn_blocking(move || copy(&mut &from, &mut File::from(output))).await??;
    Ok(ExitCode::SUCCESS)
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Starts the process that has the stack open, and waits until it serves.
async fn start_keeper(options: &Options, root: &Path) -> Result<()> {
    let (mut said, says) = io::pipe()?;
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("--root").arg(root);
    if let Some(libexec) = &options.libexec {
        command.arg("--libexec").arg(libexec);
    }
    command.arg("keep");
    command.stdin(Stdio::null()).stdout(says.try_clone()?).stderr(says);
    // Not waited for: it outlives this process.
    command.spawn()?;
    drop(command);
    let said = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        said.read_to_string(&mut text).map(|_| text)
    });
    let said = said.await??;
    if said.ends_with(READY) {
        return Ok(());
    }
    bail!("{}", said.trim().trim_start_matches("error: "))
}

/// Has the stack open while somebody is connected or something runs.
pub(crate) async fn keep(options: &Options, idle: Duration) -> Result<ExitCode> {
    // Of no terminal and no session any more. It can only fail for who has a session already.
    let _ = nix::unistd::setsid();
    let root = root(options)?;
    let run = root.join("run");
    let stack = builder(options, &uri(options)?).gateway(true).open().await?;
    stack.domains().connect_list_all_domains(0, 0).await?;
    io::stdout().write_all(READY.as_bytes())?;
    io::stdout().flush()?;
    // Whoever started this reads to the end.
    let null = OwnedFd::from(OpenOptions::new().read(true).write(true).open("/dev/null")?);
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    tokio::select! {
        // Somebody else has ended it.
        () = stack.ended() => {}
        // The lock is held to the end: who comes now finds either this stack or none.
        alone = unused(&run, &stack, idle) => {
            let _alone = alone?;
            stack.stop().await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until nobody needs the stack, and nobody did for a while; gives the lock that says so.
async fn unused(run: &Path, stack: &Connection, idle: Duration) -> Result<Flock<File>> {
    loop {
        drop(lock(run, CONNECTED, FlockArg::LockExclusive).await?);
        sleep(idle).await;
        let alone = Flock::lock(lock_file(run, CONNECTED)?, FlockArg::LockExclusiveNonblock);
        if let Ok(alone) = alone
            && !is_used(stack).await
        {
            return Ok(alone);
        }
    }
}

/// Does a guest run? A stack that can't say so is of no more use.
async fn is_used(stack: &Connection) -> bool {
    let running = stack.domains().connect_list_all_domains(0, ACTIVE).await;
    match running {
        Ok(running) => running.count > 0,
        // Its driver is out of service for a while, maybe; its guests are not.
        Err(_) => stack.status().await.is_ok_and(|status| !status.helpers.is_empty()),
    }
}
