//! A helper's control groups: where the kernel counts and limits what it uses. One folder for each hierarchy of the host,
//! of version 1, version 2 or both, below the group that the stack itself is in.
//!
//! The trampoline makes them and enters them before it confines itself, so that nothing of the helper runs outside. Where
//! they can't be made there are none, and whoever asks for a limit is told so.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The controllers that limits of guests are made of.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "blkio", "io"];
/// What names of groups begin with: no other group is opened or removed here.
const PREFIX: &str = "bulkhead-";

/// One hierarchy that has a controller of those.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// Nothing in version 2, whose group is named with no controller.
    controllers: Vec<String>,
}

/// The hierarchies that `/proc/self/mountinfo` tells of.
fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let mut words = right.split(' ');
        let (kind, options) = (words.next(), words.nth(1).unwrap_or_default());
        let controllers: Vec<String> = match kind {
            Some("cgroup2") => Vec::new(),
            Some("cgroup") => {
                options.split(',').filter(|word| CONTROLLERS.contains(word)).map(str::to_owned).collect()
            }
            _ => continue,
        };
        let is_second = kind == Some("cgroup2");
        let known = found.iter().any(|other| other.controllers == controllers);
        if (is_second || !controllers.is_empty()) && !known {
            found.push(Hierarchy { mount: PathBuf::from(mount), controllers });
        }
    }
    found
}

/// The group that a text of `/proc/PID/cgroup` names for a hierarchy.
fn group_in(text: &str, hierarchy: &Hierarchy) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let fits = match hierarchy.controllers.first() {
            None => number == "0" && controllers.is_empty(),
            Some(first) => controllers.split(',').any(|controller| controller == first),
        };
        fits.then_some(path)
    })?;
    let inside = hierarchy.mount.join(path.trim_start_matches('/'));
    // Of a host's tree a container sees its own part alone, under names that the kernel counts from the host's.
    Some(if inside.is_dir() { inside } else { hierarchy.mount.clone() })
}

fn own_hierarchies() -> Vec<(Hierarchy, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = hierarchies(&mounts).into_iter();
    groups.filter_map(|hierarchy| group_in(&own, &hierarchy).map(|group| (hierarchy, group))).collect()
}

/// The name of the group of a helper.
fn name_of(key: &str, pid: u32) -> String {
    format!("{PREFIX}{key}-{pid}")
}

/// Makes the groups of the calling process, and enters them. What can't be made is left out.
pub fn enter(key: &str) {
    let pid = std::process::id();
    for (hierarchy, own) in own_hierarchies() {
        let made = if hierarchy.controllers.is_empty() {
            second(&own, &name_of(key, pid))
        } else {
            first(&own, &name_of(key, pid), &hierarchy)
        };
        if let Some(group) = made
            && fs::write(group.join("cgroup.procs"), pid.to_string()).is_err()
        {
            let _ = fs::remove_dir(group);
        }
    }
}

/// A group of version 1.
fn first(own: &Path, name: &str, hierarchy: &Hierarchy) -> Option<PathBuf> {
    let group = own.join(name);
    fs::create_dir(&group).ok()?;
    if hierarchy.controllers.iter().any(|controller| controller == "cpuset") {
        // Nobody may enter one that names no processors and no memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let of_parent = fs::read_to_string(own.join(file)).unwrap_or_default();
            let _ = fs::write(group.join(file), of_parent.trim());
        }
    }
    Some(group)
}

/// A group of version 2. One that has processes can't hand on controllers, unless it is the root: the next one above can.
fn second(own: &Path, name: &str) -> Option<PathBuf> {
    for above in own.ancestors().take(2).filter(|above| above.join("cgroup.procs").exists()) {
        for controller in CONTROLLERS {
            // Of those that the host does not have, or has elsewhere, nothing comes.
            let _ = fs::write(above.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let group = above.join(name);
        if fs::create_dir(&group).is_err() {
            continue;
        }
        let has = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
        if has.split_whitespace().any(|controller| CONTROLLERS.contains(&controller)) {
            return Some(group);
        }
        let _ = fs::remove_dir(group);
    }
    None
}

/// Removes the groups of a helper that has ended.
pub fn remove(key: &str, pid: u32) {
    for (_, own) in own_hierarchies() {
        for above in own.ancestors().take(2) {
            let group = above.join(name_of(key, pid));
            // Parts of it, for some of its threads, go first.
            for part in fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(part.path());
            }
            let _ = fs::remove_dir(group);
        }
    }
}

fn is_plain(file: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_');
    file.bytes().all(plain)
        && file.split_once('.').is_some_and(|(controller, _)| CONTROLLERS.contains(&controller))
}

/// There is no such group, or file of it. With its number, by which whoever asks tries another version's.
fn absent() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

/// Opens a file of a helper's group (`memory.max`), or of a part of the group for some of its threads (`vcpu0/cpu.max`), for
/// reading and writing. The part is made when it is first named with a thread, which is put into it.
///
/// # Errors
/// A name that is none of a limit, a thread that is not the helper's, and a group that there is not.
pub fn open(pid: u32, file: &str, thread: Option<u32>) -> io::Result<OwnedFd> {
    let (part, name) = file.split_once('/').map_or((None, file), |(part, name)| (Some(part), name));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_plain(name) || part.is_some_and(|part| !plain(part)) || (thread.is_some() && part.is_none()) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let theirs = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let groups = hierarchies(&mounts)
        .into_iter()
        .filter_map(|hierarchy| group_in(&theirs, &hierarchy).map(|group| (hierarchy, group)));
    let is_helpers = |group: &&Path| {
        group.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
    };
    // Its first thread may be in a part.
    let mut groups = groups.filter_map(|(hierarchy, group)| {
        let group = group.ancestors().take(2).find(is_helpers)?.to_path_buf();
        group.join(name).exists().then_some((hierarchy, group))
    });
    let (hierarchy, group) = groups.next().ok_or_else(absent)?;
    let folder = part.map_or_else(|| group.clone(), |part| group.join(part));
    if let Some(thread) = thread {
        if !Path::new(&format!("/proc/{pid}/task/{thread}")).exists() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        make_part(&hierarchy, &group, &folder, thread)?;
    }
    Ok(fs::OpenOptions::new().read(true).write(true).open(folder.join(name))?.into())
}

/// Makes a part of a group, unless it is there, and puts a thread into it.
fn make_part(hierarchy: &Hierarchy, group: &Path, part: &Path, thread: u32) -> io::Result<()> {
    let second = hierarchy.controllers.is_empty();
    if !part.exists() {
        fs::create_dir(part)?;
        if second {
            // Only such a one may have some of a process's threads, and the controller that counts by threads.
            fs::write(part.join("cgroup.type"), "threaded")?;
            fs::write(group.join("cgroup.subtree_control"), "+cpu")?;
        }
    }
    fs::write(part.join(if second { "cgroup.threads" } else { "tasks" }), thread.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn the_hierarchies_of_a_host_are_found_with_what_each_controls() {
        let found: Vec<(PathBuf, Vec<String>)> =
            hierarchies(HYBRID).into_iter().map(|one| (one.mount, one.controllers)).collect();
        assert_eq!(
            found,
            [
                (PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"), vec!["cpu".to_owned()]),
                (PathBuf::from("/sys/fs/cgroup/memory"), vec!["memory".to_owned()]),
                (PathBuf::from("/sys/fs/cgroup/unified"), Vec::new()),
            ]
        );
        assert!(hierarchies("1 2 0:3 / / rw - ext4 /dev/sda rw\n").is_empty());
    }

    #[test]
    fn each_hierarchy_has_its_own_group_and_a_containers_is_its_mount() {
        let root = std::env::temp_dir().join(format!("bh-group-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        let hierarchy = |controllers: &[&str]| Hierarchy {
            mount: root.clone(),
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
        };
        let text = "4:memory:/a/b\n1:cpu,cpuacct:/nowhere\n0::/a\n";
        assert_eq!(group_in(text, &hierarchy(&["memory"])), Some(root.join("a/b")));
        assert_eq!(group_in(text, &hierarchy(&["cpu"])), Some(root.clone()));
        assert_eq!(group_in(text, &hierarchy(&[])), Some(root.join("a")));
        assert_eq!(group_in(text, &hierarchy(&["blkio"])), None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_group_of_version_two_is_made_where_controllers_are_handed_on() {
        let root = std::env::temp_dir().join(format!("bh-group-two-{}", std::process::id()));
        let own = root.join("service/main");
        fs::create_dir_all(&own).unwrap();
        for above in [&own, &root.join("service")] {
            fs::write(above.join("cgroup.procs"), "").unwrap();
        }
        // A folder of an ordinary file system has no controllers of its own: nothing is left behind.
        assert_eq!(second(&own, "bulkhead-x-1"), None);
        assert!(!own.join("bulkhead-x-1").exists() && !root.join("service/bulkhead-x-1").exists());
        let asked = fs::read_to_string(root.join("service/cgroup.subtree_control")).unwrap();
        assert_eq!(asked, "+io");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn only_files_of_limits_are_opened_and_only_of_helpers() {
        for file in
            ["cgroup.procs", "devices.allow", "memory", "../memory.max", "memory.max/x", "cpu.", "MEMORY.max"]
        {
            assert!(!is_plain(file) || file == "cpu.", "{file}");
        }
        assert!(is_plain("memory.max") && is_plain("blkio.throttle.read_bps_device"));
        // This test is in no helper's group.
        for (file, thread) in [
            ("memory.max", None),
            ("memory.max", Some(1)),
            ("vcpu0/cpu.max", Some(1)),
            ("../x/cpu.max", None),
        ] {
            assert!(open(std::process::id(), file, thread).is_err(), "{file}");
        }
    }
}
