//! One log: a file of bounded size and the older ones behind it (`NAME`, `NAME.1`, `NAME.2`, ...).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Is this a name of a file in the log folder, and nothing else?
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && !name.chars().any(|letter| letter == '/' || letter.is_control())
}

#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    max_bytes: u64,
    keep: u32,
}

impl LogFile {
    pub(crate) fn open(folder: &Path, name: &str, max_bytes: u64, keep: u32) -> io::Result<Self> {
        let path = folder.join(name);
        let file = append_to(&path)?;
        let size_bytes = file.metadata()?.len();
        Ok(Self { path, file, size_bytes, max_bytes, keep })
    }

    /// Appends; a file that is full is put behind the others first.
    pub(crate) fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let added = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if self.size_bytes > 0 && self.size_bytes.saturating_add(added) > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(text)?;
        self.size_bytes += added;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        if self.keep == 0 {
            self.file.set_len(0)?;
        } else {
            for number in (1..self.keep).rev() {
                match fs::rename(numbered(number), numbered(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.path, numbered(1))?;
            self.file = append_to(&self.path)?;
        }
        self.size_bytes = 0;
        Ok(())
    }
}

/// The end of a file, from the beginning of a line if one begins there.
pub(crate) fn tail(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max_bytes)))?;
    let mut text = Vec::new();
    file.take(max_bytes).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_moves_on_and_the_oldest_is_dropped() {
        let folder = std::env::temp_dir().join(format!("bulkhead-log-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut log = LogFile::open(&folder, "web.log", 10, 2).unwrap();
        for text in ["first....", "second...", "third....", "fourth..."] {
            log.append(text.as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(
            (read("web.log"), read("web.log.1"), read("web.log.2")),
            ("fourth...".into(), "third....".into(), "second...".into())
        );
        assert!(!folder.join("web.log.3").exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_log_names() {
        for bad in ["", "..", ".hidden", "a/b", "a\nb"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        assert!(is_plain("web server.log"));
    }
}
