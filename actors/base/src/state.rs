//! State files. A file is written whole beside its place, synced, renamed over it, and the folder synced: after any crash
//! there is the old content or the new one. Each write has a fault point on each side of each step.

use crate::fault;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Ending of files that are being written; what is left of them after a crash is removed.
const UNFINISHED: &str = ".new";
/// Ending of files that could not be read: kept for a person, and no longer looked at.
const ASIDE: &str = ".unreadable";
/// Larger files are not ours.
const FILE_MAX_BYTES: u64 = 64 << 20;

/// A folder of state files of one kind.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    kind: &'static str,
    ending: &'static str,
}

impl Folder {
    /// Opens the folder, making it if it is not there. `kind` names the fault points, `ending` the files (`.xml`).
    ///
    /// # Errors
    /// A folder that can't be made.
    pub fn open(path: &Path, kind: &'static str, ending: &'static str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self { path: path.to_owned(), kind, ending })
    }

    /// The path of a file.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}{}", self.ending))
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// What the disk says; the old content is then still there.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let place = self.path_of(name);
        let sibling = self.path.join(format!("{name}{}{UNFINISHED}", self.ending));
        fault::point(self.kind, "before_write");
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&sibling)?;
            file.write_all(content)?;
            fault::point(self.kind, "before_sync");
            file.sync_all()
        })();
        if let Err(error) = written {
            let _ = fs::remove_file(&sibling);
            return Err(error);
        }
        fault::point(self.kind, "before_rename");
        fs::rename(&sibling, &place)?;
        fault::point(self.kind, "after_rename");
        self.sync()?;
        fault::point(self.kind, "after_write");
        Ok(())
    }

    /// Removes a file. One that is gone already is no error.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        fault::point(self.kind, "before_remove");
        let removed = fs::remove_file(self.path_of(name));
        fault::point(self.kind, "after_remove");
        match removed {
            Ok(()) => self.sync(),
            // Most domains have no mark in most folders: nothing has changed, so nothing has to reach the disk.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads one file; `None` if there is none.
    ///
    /// # Errors
    /// What the disk says.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path_of(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of all files, sorted. What a crash left half-written is removed.
    ///
    /// # Errors
    /// A folder that can't be listed.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Ok(file_name) = entry.file_name().into_string() else {
                continue;
            };
            if file_name.ends_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
                continue;
            }
            let Some(name) = file_name.strip_suffix(self.ending) else {
                continue;
            };
            if entry.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= FILE_MAX_BYTES) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Reads all files, sorted by name. What a crash left half-written is removed.
    ///
    /// # Errors
    /// A folder that can't be listed. A file that can't be read is set aside.
    pub fn read_all(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        for name in self.names()? {
            match fs::read(self.path_of(&name)) {
                Ok(content) => files.push((name, content)),
                Err(error) => self.set_aside(&name, &error.to_string()),
            }
        }
        Ok(files)
    }

    /// Puts a file that makes no sense where it disturbs nobody and a person finds it.
    pub fn set_aside(&self, name: &str, why: &str) {
        let from = self.path_of(name);
        let mut to = self.path.join(format!("{name}{}{ASIDE}", self.ending));
        let mut number = 1;
        while to.exists() {
            number += 1;
            to = self.path.join(format!("{name}{}{ASIDE}-{number}", self.ending));
        }
        let moved = fs::rename(&from, &to);
        tracing::error!(file = %from.display(), to = %to.display(), why, ?moved, "state file is set aside");
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("bulkhead-state-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Folder::open(&path, "test", ".xml").unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_leftovers_are_removed() {
        let folder = folder("read");
        folder.write("b", b"two").unwrap();
        folder.write("a", b"one").unwrap();
        folder.write("a", b"one again").unwrap();
        fs::write(folder.path.join("c.xml.new"), b"half").unwrap();
        let files = folder.read_all().unwrap();
        assert_eq!(files, [("a".to_owned(), b"one again".to_vec()), ("b".to_owned(), b"two".to_vec())]);
        assert!(!folder.path.join("c.xml.new").exists());
        folder.remove("a").unwrap();
        folder.remove("a").unwrap();
        assert_eq!(folder.read("a").unwrap(), None);
        fs::remove_dir_all(&folder.path).unwrap();
    }

    #[test]
    fn an_unreadable_file_is_kept_for_a_person() {
        let folder = folder("aside");
        folder.write("a", b"nonsense").unwrap();
        folder.set_aside("a", "does not parse");
        folder.write("a", b"nonsense again").unwrap();
        folder.set_aside("a", "does not parse");
        assert!(folder.read_all().unwrap().is_empty());
        assert_eq!(fs::read(folder.path.join("a.xml.unreadable")).unwrap(), b"nonsense");
        assert_eq!(fs::read(folder.path.join("a.xml.unreadable-2")).unwrap(), b"nonsense again");
        fs::remove_dir_all(&folder.path).unwrap();
    }
}
