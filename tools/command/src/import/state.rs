//! State files that are taken along: copies, whole or not there, that belong to whom the stack's own files belong to.

use anyhow::{Context, Result};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Copies a file to where there is none yet; says whether it did. The folder it goes to lies below `base`, which is there.
pub(super) fn copy(source: &Path, base: &Path, target: &Path) -> Result<bool> {
    let named = || format!("copying {} to {}", source.display(), target.display());
    match File::open(source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        opened => opened.and_then(|file| fill(file, base, target)).with_context(named),
    }
}

/// Copies all files of a folder, which has no folders in it.
pub(super) fn copy_folder(source: &Path, base: &Path, target: &Path) -> Result<bool> {
    let entries = match fs::read_dir(source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.with_context(|| source.display().to_string())?,
    };
    let mut copied = false;
    for entry in entries {
        let entry = entry?;
        // Locks are nobody's any more.
        if entry.file_type()?.is_file() && entry.file_name() != ".lock" {
            copied |= copy(&entry.path(), base, &target.join(entry.file_name()))?;
        }
    }
    Ok(copied)
}

fn fill(mut source: File, base: &Path, target: &Path) -> io::Result<bool> {
    let folder = target.parent().unwrap_or(base);
    let owner = fs::metadata(base)?;
    make_folders(base, folder)?;
    if fs::symlink_metadata(target).is_ok() {
        return Ok(false);
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".importing");
    let sibling = target.with_file_name(name);
    let filled = (|| {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&sibling)?;
        io::copy(&mut source, &mut file)?;
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        file.sync_all()?;
        // Unlike a rename, this replaces nothing that has come meanwhile.
        fs::hard_link(&sibling, target)
    })();
    let removed = fs::remove_file(&sibling);
    filled.and(removed)?;
    File::open(folder)?.sync_all()?;
    Ok(true)
}

/// Makes the folders between, as the stack makes its own.
fn make_folders(base: &Path, folder: &Path) -> io::Result<()> {
    let owner = fs::metadata(base)?;
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|above| *above != base && !above.exists()).collect();
    for folder in missing.into_iter().rev() {
        DirBuilder::new().mode(0o700).create(folder)?;
        std::os::unix::fs::chown(folder, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}
