//! What a driver is given when it begins, beside its link and profile: its log, its credential, what others may get from it.

use crate::manifest::{MANIFESTS, Manifest};
use crate::root::Mode;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::table::Driver;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// What the service manager keeps for a driver, as a deposit under the credential's name. An application's own credentials
/// are not for an embedded stack.
pub(crate) fn credential(manifest: &Manifest, mode: Mode) -> io::Result<Option<(String, Descriptor)>> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|_| mode != Mode::Embed);
    let (Some(folder), Some(name)) = (folder, manifest.credential) else { return Ok(None) };
    match fs::File::open(Path::new(&folder).join(name)) {
        Ok(file) => Ok(Some((name.to_owned(), Descriptor::new(file.into())))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What each driver that calls this one may be given.
pub(crate) fn grants(giver: Driver) -> Vec<(Driver, Vec<String>)> {
    let grants = MANIFESTS.iter().flat_map(|caller| caller.grants.iter().map(|grant| (caller.driver, grant)));
    grants
        .filter(|(_, (of, _))| *of == giver)
        .map(|(caller, (_, words))| (caller, words.iter().map(|word| (*word).to_owned()).collect()))
        .collect()
}

/// Opens a driver's log. The folder is the log driver's too, which may have put something else under this name.
pub(crate) fn open_log(path: &Path) -> io::Result<fs::File> {
    let open = || {
        let mut options = OpenOptions::new();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = options.append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.nlink() == 1 {
            Ok(file)
        } else {
            Err(io::Error::other("something else than a log stands in its place"))
        }
    };
    open().or_else(|error| {
        tracing::error!(path = %path.display(), %error, "driver's log");
        let _ = fs::remove_file(path);
        // Whatever happens to logs, drivers are started.
        open().or_else(|_| OpenOptions::new().write(true).open("/dev/null"))
    })
}
