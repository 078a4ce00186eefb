//! The programs that helpers may be: those of this machine's folders for programs, and the emulators elsewhere that the host's
//! owner listed.

use crate::helpers::{failed, refused};
use bulkhead_sandbox::ceiling::{CEILINGS, Ceiling, PROGRAM_FOLDERS};
use bulkhead_wire::control::Layout;
use bulkhead_wire::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The emulators in `etc/broker/emulators`, one path a line; no driver may write there.
fn listed_by_owner(layout: &Layout) -> Vec<PathBuf> {
    let text = fs::read_to_string(layout.etc.join("broker/emulators")).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with('/'));
    lines.map(PathBuf::from).collect()
}

/// May a helper of this class be this program?
///
/// # Errors
/// A program that is none of the class, or that others could change.
pub(crate) fn check(layout: &Layout, key: &str, ceiling: &Ceiling, program: &Path) -> Result<(), Error> {
    let named = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let folder = program.parent().and_then(Path::to_str).unwrap_or_default();
    let usual = PROGRAM_FOLDERS.contains(&folder);
    // What drivers write to is no place for programs, whoever lists it.
    let ours =
        [&layout.run, &layout.log, &layout.cache, &layout.lib].map(|folder| program.starts_with(folder));
    let listed = || !ours.contains(&true) && listed_by_owner(layout).iter().any(|path| path == program);
    if !ceiling.lists(named) || !(usual || listed()) {
        let why = format!("{} is not among the programs of class '{}'", program.display(), ceiling.class);
        return Err(refused(key, why));
    }
    let metadata =
        fs::metadata(program).map_err(failed::<io::Error>(format!("Program {}", program.display())))?;
    if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err(refused(key, format!("{} can be changed by others than root", program.display())));
    }
    Ok(())
}

/// The programs on this machine of those classes.
pub(crate) fn of(layout: &Layout, classes: &[&str]) -> Vec<(String, PathBuf)> {
    let ceilings = || CEILINGS.iter().filter(|ceiling| classes.contains(&ceiling.class));
    // Most drivers have no helpers; the folders hold thousands of names.
    if ceilings().next().is_none() {
        return Vec::new();
    }
    let folders = PROGRAM_FOLDERS.iter().filter_map(|folder| fs::read_dir(folder).ok());
    let usual = folders.flatten().flatten().map(|entry| entry.path());
    let mut found = Vec::new();
    for path in usual.chain(listed_by_owner(layout)) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for ceiling in ceilings().filter(|ceiling| ceiling.lists(name)) {
            if check(layout, "-", ceiling, &path).is_ok() {
                found.push((ceiling.class.to_owned(), path.clone()));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulator_elsewhere_is_one_if_the_owner_lists_it() {
        let root = std::env::temp_dir().join(format!("bh-programs-{}", std::process::id()));
        let layout = Layout::embed(&root);
        let (own, driven) = (root.join("qemu-system-own"), layout.lib.join("qemu-system-own"));
        for folder in [&layout.etc.join("broker"), &layout.lib] {
            fs::create_dir_all(folder).unwrap();
        }
        for program in [&own, &driven] {
            fs::write(program, "x").unwrap();
        }
        let qemu = CEILINGS.iter().find(|ceiling| ceiling.class == "qemu").unwrap();
        let is = |program: &Path| {
            let checked = check(&layout, "key", qemu, program);
            // Who is not root can't make programs that are root's, and sees why they are refused.
            checked.map_or_else(|error| error.message.contains("changed by others"), |()| true)
        };
        assert!(!is(&own));
        let list =
            format!("# ours\n{}\n{}\n{}\n", own.display(), driven.display(), root.join("sh").display());
        fs::write(layout.etc.join("broker/emulators"), list).unwrap();
        assert!(is(&own) && !is(&driven) && !is(&root.join("sh")) && !is(&root.join("qemu-system-else")));
        fs::remove_dir_all(&root).unwrap();
    }
}
