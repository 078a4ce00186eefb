//! `bulkhead doctor`: what this machine has, what follows from what it lacks, and what helps.

use crate::output::Output;
use anyhow::Result;
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Failure,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    text: String,
}

pub(crate) fn examine(output: &Output) -> Result<ExitCode> {
    let findings = [kernel(), kvm(), user_namespaces(), landlock(), seccomp(), cgroups(), emulators()];
    if output.json {
        output.value(&findings)?;
    } else {
        for finding in &findings {
            let verdict = match finding.verdict {
                Verdict::Ok => "ok     ",
                Verdict::Warning => "warning",
                Verdict::Failure => "FAILURE",
            };
            output.line(&format!("{verdict}  {}: {}", finding.what, finding.text))?;
        }
    }
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Failure);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn finding(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
    Finding { what, verdict, text: text.into() }
}

fn kernel() -> Finding {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (5, 13) {
        finding("kernel", Verdict::Ok, release)
    } else {
        finding("kernel", Verdict::Failure, format!("{release} is older than 5.13; install a newer kernel"))
    }
}

fn kvm() -> Finding {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => finding("KVM", Verdict::Ok, "/dev/kvm opens"),
        Err(error) => {
            let text = format!(
                "/dev/kvm: {error}; guests are emulated, which is slow. Load kvm_intel or kvm_amd, join the group kvm"
            );
            finding("KVM", Verdict::Warning, text)
        }
    }
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn user_namespaces() -> Finding {
    let allowed = read_number("/proc/sys/user/max_user_namespaces").unwrap_or(0) > 0
        && read_number("/proc/sys/kernel/unprivileged_userns_clone").unwrap_or(1) > 0
        && read_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").unwrap_or(0) == 0;
    if allowed {
        finding("user namespaces", Verdict::Ok, "to be had without root")
    } else {
        let text = "not to be had without root: an ordinary user's drivers can see other users' sockets and file names. \
                    Set user.max_user_namespaces, or run as root";
        finding("user namespaces", Verdict::Warning, text)
    }
}

fn landlock() -> Finding {
    let listed = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if listed.split(',').any(|module| module.trim() == "landlock") {
        return finding("Landlock", Verdict::Ok, "in force");
    }
    // Where the list can't be read the kernel itself is asked.
    match bulkhead::landlock_version() {
        Some(version) => finding("Landlock", Verdict::Ok, format!("version {version}")),
        None => finding(
            "Landlock",
            Verdict::Warning,
            "not in this kernel: files are kept apart by mount namespaces alone. Boot with lsm=landlock,...",
        ),
    }
}

fn seccomp() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|line| line.starts_with("Seccomp:")) {
        finding("seccomp", Verdict::Ok, "filters can be installed")
    } else {
        finding(
            "seccomp",
            Verdict::Failure,
            "not in this kernel (CONFIG_SECCOMP_FILTER); drivers can't be confined",
        )
    }
}

fn cgroups() -> Finding {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        finding("cgroups", Verdict::Ok, "version 2")
    } else if Path::new("/sys/fs/cgroup").exists() {
        finding(
            "cgroups",
            Verdict::Warning,
            "version 1 or hybrid: limits of guests are set through the older interface",
        )
    } else {
        finding(
            "cgroups",
            Verdict::Warning,
            "not mounted: guests have no limits. Mount cgroup2 on /sys/fs/cgroup",
        )
    }
}

fn emulators() -> Finding {
    let mut found: Vec<String> = ["/usr/bin", "/usr/local/bin"]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("qemu-system-").map(str::to_owned))
        .collect();
    found.sort();
    found.dedup();
    if found.is_empty() {
        finding("QEMU", Verdict::Failure, "no qemu-system-* in /usr/bin; install a qemu-system package")
    } else {
        finding("QEMU", Verdict::Ok, found.join(" "))
    }
}
