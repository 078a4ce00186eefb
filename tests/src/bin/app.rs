//! An application that embeds a stack, for the tests that kill it: `bulkhead-test-app ROOT MODE [GUEST-XML]`.
//!
//! Modes: `plain`; `autodestroy`; `fork` (a child that lives on, printed as `child PID`); `ignore` (SIGCHLD ignored);
//! `reap` (a thread that reaps whatever ends). Prints `ready` or `error TEXT`, then waits for the end of its input, closes
//! the stack and prints `closed`. Says `changed WHAT` about everything of the process that opening, starting or closing changed.
#![expect(clippy::disallowed_methods, reason = "an application that does what applications do")]
#![expect(clippy::print_stdout, reason = "the test reads these lines")]

use bulkhead::blocking::Connection;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, fork, pause};
use std::io::Read;
use std::path::Path;

const AUTODESTROY: u32 = 2;

/// What of a process a library must not touch.
fn own_state() -> Vec<(&'static str, String)> {
    let mask = umask(Mode::empty());
    umask(mask);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let signals = status
        .lines()
        .filter(|line| ["SigIgn", "SigCgt", "SigBlk"].iter().any(|name| line.starts_with(name)));
    vec![
        ("umask", format!("{mask:?}")),
        ("cwd", format!("{:?}", std::env::current_dir())),
        ("environment", format!("{:?}", std::env::vars_os().collect::<Vec<_>>())),
        ("signals", signals.collect::<Vec<_>>().join(" ")),
    ]
}

fn prepare(mode: &str) -> Result<(), Box<dyn std::error::Error>> {
    if mode == "ignore" {
        // SAFETY: no handler is installed that could run.
        #[expect(unsafe_code, reason = "ignoring a signal is what this mode is for")]
        unsafe {
            signal(Signal::SIGCHLD, SigHandler::SigIgn)?;
        }
    }
    if mode == "reap" {
        std::thread::spawn(|| {
            loop {
                if nix::sys::wait::wait().is_err() {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        });
    }
    Ok(())
}

fn leave_a_child() -> Result<(), Box<dyn std::error::Error>> {
    #[expect(unsafe_code, reason = "a child that has everything of its parent's but its threads")]
    // SAFETY: the child only sleeps.
    let forked = unsafe { fork() };
    match forked? {
        ForkResult::Child => loop {
            pause();
        },
        ForkResult::Parent { child } => println!("child {child}"),
    }
    Ok(())
}

fn work() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(mode)) = (arguments.next(), arguments.next()) else {
        return Err("ROOT MODE [GUEST-XML]".into());
    };
    prepare(&mode)?;
    // With its first thread the C library takes a signal of its own.
    let _ = std::thread::spawn(|| ()).join();
    let before = own_state();
    let program = std::env::current_exe()?;
    let libexec = program.parent().unwrap_or(Path::new("/"));
    let uri = format!("qemu:///embed?root={root}");
    let stack = Connection::open_with(bulkhead::Connection::builder(&uri).libexec(libexec))?;
    stack.wait(|stack| async move { stack.domains().connect_list_all_domains(0, 0).await })?;
    if let Some(xml) = arguments.next() {
        let flags = if mode == "autodestroy" { AUTODESTROY } else { 0 };
        stack.wait(|stack| async move { stack.domains().domain_create_xml(xml, flags).await })?;
    }
    if mode == "fork" {
        leave_a_child()?;
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    stack.close();
    for ((what, was), (_, is)) in before.iter().zip(own_state()) {
        if *was != is {
            println!("changed {what}: {was} -> {is}");
        }
    }
    println!("closed");
    Ok(())
}

fn main() {
    if let Err(error) = work() {
        println!("error {error}");
    }
}
