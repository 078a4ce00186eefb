//! Where the keys are: a file of this driver's own, outside the folder of values, or what the service manager gives.

use crate::seal::{Key, Keys};
use bulkhead_actors::state::Folder;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// The key file's name, without its ending.
const NAME: &str = "master";
/// Larger is no key file.
const FILE_MAX_BYTES: u64 = 64 << 10;

/// The keys and where they come from.
pub(crate) struct Keyring {
    folder: Folder,
    /// Given by the service manager: never written.
    credential: bool,
    /// The keys, or why they can't be had.
    keys: Result<Keys, String>,
}

impl Keyring {
    /// Reads the keys. None at all are no error yet: they are made with the first value.
    pub(crate) fn open(folder: Folder, credential: Option<File>) -> Self {
        let mut ring = Self { folder, credential: credential.is_some(), keys: Ok(Keys::default()) };
        match credential {
            Some(file) => {
                let parsed = read(file).and_then(|text| Keys::parse(&text));
                ring.keys = parsed.map_err(|error| format!("the credential with the key: {error}"));
            }
            None => ring.load(),
        }
        ring
    }

    fn path(&self) -> PathBuf {
        self.folder.path_of(NAME)
    }

    /// Reads the key file again: its owner may have put another one there.
    pub(crate) fn load(&mut self) {
        if !self.credential {
            self.keys =
                self.read_file().map_err(|error| format!("the key file {}: {error}", self.path().display()));
        }
    }

    fn read_file(&self) -> Result<Keys, String> {
        let text = |error: std::io::Error| error.to_string();
        // What a crash left beside it.
        self.folder.names().map_err(text)?;
        let file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Keys::default()),
            Err(error) => return Err(text(error)),
        };
        let mode = file.metadata().map_err(text)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(format!(
                "its mode {:03o} lets others read it; make it 600, and exchange the key if somebody did",
                mode & 0o777
            ));
        }
        read(file).and_then(|text| Keys::parse(&text))
    }

    /// The keys.
    pub(crate) fn keys(&self) -> Result<&Keys, String> {
        self.keys.as_ref().map_err(Clone::clone)
    }

    /// A sentence's end: where the keys are.
    pub(crate) fn place(&self) -> String {
        if self.credential {
            "the service manager's credential".to_owned()
        } else {
            self.path().display().to_string()
        }
    }

    /// Makes a key, the one to seal with from now on.
    pub(crate) fn make(&mut self) -> Result<(), String> {
        let key = Key::random()?;
        self.change(|keys| keys.push_current(key))
    }

    /// Makes a new key the one to seal with; the older ones stay until [`Keyring::forget_older`]. A rotation that was cut short
    /// goes on with the key that it made; a credential's keys are its owner's, who puts the new one first.
    pub(crate) fn begin_rotation(&mut self) -> Result<(), String> {
        if self.credential || self.keys()?.len() > 1 {
            return Ok(());
        }
        self.make()
    }

    /// Forgets all keys but the one to seal with.
    pub(crate) fn forget_older(&mut self) -> Result<(), String> {
        if self.credential || self.keys()?.len() < 2 {
            return Ok(());
        }
        self.change(Keys::forget_older)
    }

    fn change(&mut self, change: impl FnOnce(&mut Keys)) -> Result<(), String> {
        let keys = self.keys.as_mut().map_err(|reason| reason.clone())?;
        change(keys);
        let written = self.folder.write(NAME, keys.to_text().as_bytes());
        if written.is_err() {
            // What is in memory must not run ahead of what is on disk.
            self.load();
        }
        written.map_err(|error| format!("the key file {}: {error}", self.path().display()))
    }
}

fn read(file: File) -> Result<Zeroizing<Vec<u8>>, String> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    if size > FILE_MAX_BYTES {
        return Err(format!("it has {size} bytes, which no key file has"));
    }
    // Whole at once: growing leaves parts behind.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1));
    file.take(FILE_MAX_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn open(path: &Path, credential: Option<File>) -> Keyring {
        Keyring::open(Folder::open(path, "secret_key", ".key").unwrap(), credential)
    }

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("bulkhead-keyring-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_key_is_made_once_and_kept() {
        let path = folder("made");
        let mut ring = open(&path, None);
        assert!(ring.keys().unwrap().current().is_none());
        ring.make().unwrap();
        let id = ring.keys().unwrap().current().unwrap().id();
        assert_eq!(fs::metadata(ring.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let mut ring = open(&path, None);
        assert_eq!(ring.keys().unwrap().current().unwrap().id(), id);
        ring.begin_rotation().unwrap();
        ring.begin_rotation().unwrap();
        assert_eq!(ring.keys().unwrap().len(), 2, "a rotation that was cut short goes on");
        ring.forget_older().unwrap();
        assert_ne!(open(&path, None).keys().unwrap().current().unwrap().id(), id);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_key_file_that_is_wrong_is_refused_and_left_alone() {
        let path = folder("wrong");
        let ring = open(&path, None);
        fs::write(ring.path(), "nonsense").unwrap();
        fs::set_permissions(ring.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(open(&path, None).keys().err().unwrap().contains("644"));
        fs::set_permissions(ring.path(), fs::Permissions::from_mode(0o600)).unwrap();
        let complaint = open(&path, None).keys().err().unwrap();
        assert!(complaint.contains("master.key") && complaint.contains("64 hexadecimal"), "{complaint}");
        assert!(!complaint.contains("nonsense"));
        assert_eq!(fs::read_to_string(ring.path()).unwrap(), "nonsense");
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_credential_is_used_and_never_written() {
        let path = folder("credential");
        fs::create_dir_all(&path).unwrap();
        let text = format!("{}\n{}\n", "ab".repeat(32), "cd".repeat(32));
        fs::write(path.join("given"), &text).unwrap();
        let mut ring = open(&path, Some(File::open(path.join("given")).unwrap()));
        ring.begin_rotation().unwrap();
        ring.forget_older().unwrap();
        assert_eq!(ring.keys().unwrap().len(), 2);
        assert!(!ring.path().exists());
        assert_eq!(fs::read_to_string(path.join("given")).unwrap(), text);
        fs::remove_dir_all(&path).unwrap();
    }
}
