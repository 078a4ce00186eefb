//! The trampoline in front of a helper: confines itself by the profile that the broker passes, then becomes the program.
//!
//! `bulkhead-launch PROFILE_FD COUNT [NAME=VALUE ...] PROGRAM [ARGUMENT ...]`, with COUNT variables, the program's whole
//! environment. The trampoline's own is empty: a variable that steers the loader must not take effect in front of the
//! confinement.

use bulkhead_sandbox::{Place, Profile, confine};
use std::ffi::CString;
use std::io::Read;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

/// What the broker reads from the exit code: the program was never reached.
const NOT_LAUNCHED: u8 = 125;

fn main() -> ExitCode {
    match launch() {
        Ok(never) => match never {},
        Err(message) => {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("bulkhead-launch: {message}\n").as_bytes(),
            );
            ExitCode::from(NOT_LAUNCHED)
        }
    }
}

fn launch() -> Result<std::convert::Infallible, String> {
    let mut arguments = std::env::args_os().skip(1);
    let number: RawFd = arguments
        .next()
        .and_then(|number| number.to_str().and_then(|number| number.parse().ok()))
        .ok_or("the first argument is no descriptor number")?;
    let [profile] = bulkhead_sandbox::inherited([number]);
    let mut file = std::fs::File::from(profile);
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|error| format!("profile: {error}"))?;
    drop(file);
    let profile = Profile::from_json(&text).map_err(|error| format!("profile: {error}"))?;
    let count: usize = arguments
        .next()
        .and_then(|count| count.to_str().and_then(|count| count.parse().ok()))
        .ok_or("the second argument is no number of variables")?;
    let mut words: Vec<CString> = arguments
        .map(|argument| CString::new(argument.into_vec()).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    if words.len() <= count {
        return Err("no program named".to_owned());
    }
    let arguments = words.split_off(count);
    let environment = words;
    let program = arguments.first().cloned().ok_or("no program named")?;
    // Descriptors that are not close-on-exec are the program's; rules name some more that must last until they are used.
    let keep: Vec<RawFd> = open_descriptors().map_err(|error| format!("descriptors: {error}"))?;
    // Before it can't be done any more, and before there is anything to count.
    if let Some(key) = &profile.group {
        bulkhead_sandbox::group::enter(key);
    }
    confine(&profile, &keep).map_err(|error| error.to_string())?;
    for rule in &profile.files {
        if let Place::Opened(number) | Place::Shown(number, _) = rule.place {
            let _ = nix::unistd::close(number);
        }
    }
    nix::unistd::execve(&program, &arguments, &environment)
        .map_err(|error| format!("{}: {error}", program.to_string_lossy()))
}

fn open_descriptors() -> std::io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}
