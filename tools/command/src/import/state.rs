//! State files that are taken along: copies, whole or not there, that belong to whom the stack's own files belong to.

use anyhow::{Context, Result};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, fchown};
use std::path::{Path, PathBuf};

/// Copies a file, or all files of a folder that has no folders in it, to where there is none yet. `base` is there and has the owner
/// that the copies are to have; `made` gets their names.
pub(super) fn copy(source: &Path, base: &Path, target: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    let mut files = vec![(source.to_owned(), target.to_owned())];
    if source.is_dir() {
        files.clear();
        for entry in fs::read_dir(source).with_context(|| source.display().to_string())? {
            let entry = entry?;
            // Locks are nobody's any more.
            if entry.file_type()?.is_file() && entry.file_name() != ".lock" {
                files.push((entry.path(), target.join(entry.file_name())));
            }
        }
    }
    for (source, target) in files {
        let copied = fill(&source, base, &target);
        copied.with_context(|| format!("copying {} to {}", source.display(), target.display()))?;
        made.push(target);
    }
    Ok(())
}

fn fill(source: &Path, base: &Path, target: &Path) -> io::Result<()> {
    let mut source = File::open(source)?;
    let folder = target.parent().unwrap_or(base);
    let owner = fs::metadata(base)?;
    make_folders(base, folder)?;
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".importing");
    let sibling = target.with_file_name(name);
    let filled = (|| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let mut file = options.open(&sibling)?;
        io::copy(&mut source, &mut file)?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        file.sync_all()?;
        // Unlike a rename, this replaces nothing: what lies there already may be another guest's.
        fs::hard_link(&sibling, target)
    })();
    let removed = fs::remove_file(&sibling);
    filled.and(removed)?;
    File::open(folder)?.sync_all()
}

/// Makes the folders between, as the stack makes its own.
fn make_folders(base: &Path, folder: &Path) -> io::Result<()> {
    let owner = fs::metadata(base)?;
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|above| *above != base && !above.exists()).collect();
    for folder in missing.into_iter().rev() {
        DirBuilder::new().mode(0o700).create(folder)?;
        chown(folder, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}
