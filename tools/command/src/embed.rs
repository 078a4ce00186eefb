//! `bulkhead embed`: a private stack for as long as a command runs, for it and for every libvirt program below it.

use crate::options::Options;
use crate::{builder, output, uri};
use anyhow::{Context, Result, bail};
use bulkhead::{Connection, Which};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::io::AsyncReadExt;

/// Longest path of a unix socket that libvirt's clients take.
const SOCKET_PATH_MAX_BYTES: usize = 107;
/// `VIR_CONNECT_LIST_DOMAINS_ACTIVE`.
const ACTIVE: u32 = 1;

pub(crate) async fn embed(options: &Options, command: &[String], keep: bool) -> Result<ExitCode> {
    let uri = uri(options)?;
    let Which::Embed(root) = bulkhead::Uri::parse(&uri)?.stack else {
        bail!("{uri} names no private stack: give --root DIR");
    };
    let stack = builder(options, &uri).gateway(!command.is_empty()).open().await?;
    // The drivers are ready before the command is.
    stack.domains().connect_list_all_domains(0, 0).await?;
    let code = match command.split_first() {
        Some((program, arguments)) => {
            let code = run(program, arguments, &uri, &root).await;
            if !keep {
                end_guests(&stack).await;
            }
            code?
        }
        None => {
            output::complain("the stack is open until end of input");
            let mut ignored = [0; 256];
            while tokio::io::stdin().read(&mut ignored).await? > 0 {}
            0
        }
    };
    stack.stop().await?;
    Ok(ExitCode::from(code))
}

/// Runs the command; gives its exit code as a shell would.
async fn run(program: &str, arguments: &[String], uri: &str, root: &Path) -> Result<u8> {
    let socket = Socket::of(root)?;
    let libvirt = format!("qemu+unix:///session?socket={}", output::percent_encode(&socket.path));
    let mut command = std::process::Command::new(program);
    command.args(arguments).env("BULKHEAD_URI", uri).env("LIBVIRT_DEFAULT_URI", libvirt);
    let program = program.to_owned();
    let status = tokio::task::spawn_blocking(move || command.status().with_context(|| program)).await??;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The public socket, by a name that is short enough for libvirt's clients.
struct Socket {
    path: String,
    /// Holds a link to the run folder, where the real name is too long.
    alias: Option<PathBuf>,
}

impl Socket {
    fn of(root: &Path) -> Result<Self> {
        let run = root.join("run");
        let real = run.join("libvirt-sock");
        if real.as_os_str().len() <= SOCKET_PATH_MAX_BYTES {
            return Ok(Self { path: real.display().to_string(), alias: None });
        }
        let folder = nix::unistd::mkdtemp(&std::env::temp_dir().join("bulkhead-XXXXXX"))?;
        let alias =
            Self { path: folder.join("run/libvirt-sock").display().to_string(), alias: Some(folder.clone()) };
        std::os::unix::fs::symlink(run, folder.join("run"))?;
        if alias.path.len() > SOCKET_PATH_MAX_BYTES {
            bail!("{}: no short name can be made for it; choose a shorter root or TMPDIR", real.display());
        }
        Ok(alias)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(folder) = &self.alias {
            let _ = std::fs::remove_file(folder.join("run"));
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// The stack was the command's: what it started ends with it.
async fn end_guests(stack: &Connection) {
    let domains = stack.domains();
    let Ok(running) = domains.connect_list_all_domains(1, ACTIVE).await else { return };
    for domain in running.domains {
        let name = domain.name.clone();
        if let Err(error) = domains.domain_destroy_flags(domain, 0).await {
            output::complain(&format!("domain '{name}': {error}"));
        }
    }
}
