//! One log: a file of bounded size and the older ones behind it (`NAME`, `NAME.1`, `NAME.2`, ...).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Is this a name of a file in the log folder, and nothing else?
pub(crate) fn is_plain(name: &str) -> bool {
    // Room for the numbers of older files; and what drivers log is the broker's.
    !name.is_empty()
        && name.len() <= 250
        && !matches!(name, "." | "..")
        && !name.ends_with(".driver.log")
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
    /// Where the next that is appended will stand.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

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

/// The end of a file. A file that is shorter than `from` has been begun anew since, and is all new.
pub(crate) fn tail(path: &Path, from: u64, max_bytes: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = if from > length { 0 } else { from };
    file.seek(SeekFrom::Start(length.saturating_sub(max_bytes).max(from)))?;
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
    fn the_tail_is_of_what_was_written_since() {
        let folder = std::env::temp_dir().join(format!("bulkhead-tail-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("web.log");
        fs::write(&path, "old\nnew line\n").unwrap();
        let tail_of = |from, max_bytes| tail(&path, from, max_bytes).unwrap();
        assert_eq!(
            (tail_of(4, 100), tail_of(0, 5), tail_of(13, 100)),
            ("new line\n".into(), "line\n".into(), String::new())
        );
        assert_eq!(tail_of(1000, 100), "old\nnew line\n", "a file that was begun anew");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_log_names() {
        for bad in ["", ".", "..", "a/b", "a\nb", "qemu.driver.log", &"x".repeat(251)] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        for good in ["web server.log", ".hidden.log", &"x".repeat(244)] {
            assert!(is_plain(good), "{good:?}");
        }
    }
}
