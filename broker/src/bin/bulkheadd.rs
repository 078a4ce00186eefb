//! The broker as a daemon: one stack for the host or for a user, supervised until it is told to end.
//!
//! `bulkheadd --system|--session [--libexec DIR]`. Drivers leave with it; guests live on, and the next one finds them.

use bulkhead_broker::manifest::{Intensity, MANIFESTS};
use bulkhead_broker::{Config, Handle, Mode, Sockets};
use bulkhead_sandbox::inherited;
use bulkhead_wire::control::Layout;
use bulkhead_wire::table::Driver;
use sd_notify::NotifyState;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "bulkheadd: {message}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    // First of all: nothing has used their numbers yet.
    let kept = kept().map_err(|error| format!("descriptors of the service manager: {error}"))?;
    let (mut config, layout) = arguments()?;
    config.kept = Some(kept);
    // What drivers and the supervisor have to say goes where the daemon's own standard error goes.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_target(false)
        // What can't be logged is lost. Saying so to the same place would fail too, which is a panic.
        .log_internal_errors(false)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    // Without sockets there is nobody for the gateway to serve.
    let served = |driver: &Driver| config.sockets.is_some() || *driver != Driver::Gateway;
    let drivers = MANIFESTS.iter().map(|manifest| manifest.driver).filter(served).collect();
    let (stack, _ended) = bulkhead_broker::open(config, layout).map_err(|error| error.to_string())?;
    runtime.block_on(supervise(stack, drivers))
}

/// What the service manager hands on: descriptors that an earlier daemon gave it to keep.
fn kept() -> std::io::Result<Vec<(String, OwnedFd)>> {
    let numbers = sd_notify::listen_fds_with_names()?;
    Ok(numbers.map(|(number, name)| (name, inherited([number]))).map(|(name, [file])| (name, file)).collect())
}

fn arguments() -> Result<(Config, Layout), String> {
    let usage = "usage: bulkheadd --system|--session [--libexec DIR] [--sockets DIR] [--group GID]";
    let (mut mode, mut libexec, mut folder, mut group) = (None, None, None, None);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--system") => mode = Some(Mode::System),
            Some("--session") => mode = Some(Mode::Session),
            Some("--libexec") => libexec = Some(PathBuf::from(arguments.next().ok_or(usage)?)),
            Some("--sockets") => folder = Some(PathBuf::from(arguments.next().ok_or(usage)?)),
            Some("--group") => group = Some(number(arguments.next()).ok_or(usage)?),
            _ => return Err(usage.to_owned()),
        }
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or(format!("{name} is not set"));
    let mode = mode.ok_or(usage)?;
    let layout = match mode {
        Mode::System => Layout::system(),
        _ => Layout::session(&variable("HOME")?, &variable("XDG_RUNTIME_DIR")?),
    };
    // A user's clients look here by themselves; the host's only where they are told to, since libvirt may be there.
    let folder =
        folder.or_else(|| Some(layout.run.parent()?.join("libvirt")).filter(|_| mode == Mode::Session));
    let sockets = folder.map(|folder| Sockets { folder, group });
    let beside = || std::env::current_exe().ok().and_then(|program| program.parent().map(PathBuf::from));
    let libexec = libexec.or_else(beside).ok_or(usage)?;
    let root = layout.run.clone();
    let config = Config {
        mode,
        root,
        libexec,
        intensity: Intensity::default(),
        sockets,
        faults: Vec::new(),
        kept: None,
    };
    Ok((config, layout))
}

fn number(text: Option<std::ffi::OsString>) -> Option<u32> {
    text?.to_str()?.parse().ok()
}

async fn supervise(stack: Handle, drivers: Vec<Driver>) -> Result<(), String> {
    let text = |error: bulkhead_wire::error::Error| error.to_string();
    stack.want(&drivers).await.map_err(text)?;
    ready(&stack, &drivers).await.map_err(text)?;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let failed = |error: std::io::Error| format!("signals: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let watchdog = sd_notify::watchdog_enabled().map(|every| every / 2);
    loop {
        // Signals and time lose nothing when dropped.
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = pause(watchdog) => {
                // The supervisor's own answer is what shows that it is alive.
                if tokio::time::timeout(Duration::from_secs(5), stack.status()).await.is_ok_and(|status| status.is_ok()) {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                }
            }
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    stack.stop().await;
    Ok(())
}

async fn pause(every: Option<Duration>) {
    match every {
        Some(every) => tokio::time::sleep(every).await,
        None => std::future::pending().await,
    }
}

/// Waits until each of the drivers serves or is out of service.
async fn ready(stack: &Handle, drivers: &[Driver]) -> Result<(), bulkhead_wire::error::Error> {
    let mut changes = stack.clone();
    loop {
        let status = stack.status().await?;
        let settled = |state: &str| matches!(state, "ready" | "held");
        let wanted = |name: &str| drivers.iter().any(|driver| driver.name() == name);
        if status.drivers.iter().all(|driver| settled(&driver.state) || !wanted(&driver.name)) {
            return Ok(());
        }
        changes.driver_changed().await?;
    }
}
