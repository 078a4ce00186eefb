//! The file that a guest's state is stored in: a head, the definition, and behind them what QEMU writes.
//!
//! It is libvirt's format of version 2, so that tools which look into such files find what they expect. Numbers are in the
//! host's byte order; observed in files that libvirt 11.3 wrote.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"LibvirtQemudSave";
/// Stands there while what follows is not complete.
const PARTIAL: &[u8; 16] = b"LibvirtQemudPart";
/// Room for a definition to grow when somebody changes it in the file.
const ROOM_BYTES: usize = 64 << 10;
const VERSION: u32 = 2;
/// The magic, five numbers, and room for fourteen more.
const HEAD_BYTES: usize = 16 + 4 * 5 + 4 * 14;
/// Longer definitions are refused when they come from a client.
const DEFINITION_MAX_BYTES: u32 = 16 << 20;

/// What stands before QEMU's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// The definition that the guest ran with, with its secrets.
    pub(super) xml: String,
    /// Do its CPUs run again after the next start?
    pub(super) runs: bool,
}

impl Image {
    /// The head and the definition as they are written, with room behind it; marked as incomplete.
    pub(super) fn encode(&self) -> Vec<u8> {
        let length = (self.xml.len() + 1 + ROOM_BYTES).next_multiple_of(4096) - HEAD_BYTES;
        let mut bytes = self.encode_within(length);
        if let Some(magic) = bytes.get_mut(..PARTIAL.len()) {
            magic.copy_from_slice(PARTIAL);
        }
        bytes
    }

    /// The head and the definition in so many bytes, which are enough for it.
    fn encode_within(&self, length: usize) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [VERSION, u32::try_from(length).unwrap_or(u32::MAX), u32::from(self.runs)] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        bytes.resize(HEAD_BYTES, 0);
        bytes.extend_from_slice(self.xml.as_bytes());
        bytes.resize(HEAD_BYTES + length, 0);
        bytes
    }

    /// Marks what was written as complete, once it is on the disk.
    pub(super) fn complete(file: &File) -> io::Result<()> {
        file.sync_all()?;
        file.write_all_at(MAGIC, 0)?;
        file.sync_all()
    }

    /// Puts this in the place of the head and the definition that a file has; what is QEMU's stays where it is.
    pub(super) fn replace(&self, file: &File) -> io::Result<()> {
        let (_, offset) = Self::decode(&mut &*file)?;
        let length = usize::try_from(offset).unwrap_or(usize::MAX).saturating_sub(HEAD_BYTES);
        if self.xml.len() >= length {
            let why = format!("the definition has {} bytes, and the file room for {length}", self.xml.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        file.write_all_at(&self.encode_within(length), 0)?;
        file.sync_all()
    }

    /// Reads head and definition; what follows is QEMU's, and begins at the returned offset.
    pub(super) fn decode(source: &mut impl Read) -> io::Result<(Self, u64)> {
        let nonsense = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let mut head = [0; HEAD_BYTES];
        source.read_exact(&mut head)?;
        if head.starts_with(PARTIAL) {
            return Err(nonsense("incomplete: whoever stored this state did not come to its end"));
        }
        if !head.starts_with(MAGIC) {
            return Err(nonsense("not the stored state of a guest"));
        }
        let number = |index: usize| {
            let bytes = head.get(16 + 4 * index..).and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
        };
        let (version, length, runs, compression) = (number(0), number(1), number(2), number(3));
        if version != VERSION {
            return Err(nonsense("stored in a format other than version 2"));
        }
        if compression != 0 {
            let known = ["raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse"];
            let name = usize::try_from(compression).ok().and_then(|number| known.get(number)).copied();
            let name = name.unwrap_or("an unknown form");
            return Err(nonsense(&format!("stored as {name}; only raw ones can be gone on from here")));
        }
        if length > DEFINITION_MAX_BYTES {
            return Err(nonsense("the definition in it is longer than any definition"));
        }
        let mut text = vec![0; length as usize];
        source.read_exact(&mut text)?;
        // What follows the first NUL is filling, or libvirt's notes to itself.
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let xml =
            String::from_utf8(text.to_vec()).map_err(|_error| nonsense("the definition is not UTF-8"))?;
        Ok((Self { xml, runs: runs != 0 }, HEAD_BYTES as u64 + u64::from(length)))
    }
}

/// Where a domain's state is stored, and where while it is being written.
#[derive(Debug, Clone)]
pub(super) struct Place {
    complete: PathBuf,
    partial: PathBuf,
}

impl Place {
    /// The place of this domain, below the folder of the driver's lasting state.
    pub(super) fn new(state: &Path, name: &str) -> Self {
        let folder = state.join("save");
        Self {
            complete: folder.join(format!("{name}.save")),
            partial: folder.join(format!("{name}.save.new")),
        }
    }

    /// Is a state stored?
    pub(super) fn is_stored(&self) -> bool {
        self.complete.exists()
    }

    /// Opens a file to be filled, with nothing in it.
    pub(super) fn begin(&self) -> io::Result<File> {
        if let Some(folder) = self.partial.parent() {
            std::fs::create_dir_all(folder)?;
        }
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.partial)
    }

    /// The file is filled: it is on the disk and in its place when this returns.
    pub(super) fn finish(&self, file: &File) -> io::Result<()> {
        Image::complete(file)?;
        std::fs::rename(&self.partial, &self.complete)?;
        self.sync()
    }

    /// Removes what was not finished.
    pub(super) fn abandon(&self) -> io::Result<()> {
        remove(&self.partial)
    }

    /// Removes the stored state, and what was not finished.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.abandon()?;
        if remove(&self.complete).is_ok() && self.complete.parent().is_some_and(Path::exists) {
            return self.sync();
        }
        remove(&self.complete)
    }

    /// Moves the stored state, if there is one, to another place in the same folder.
    pub(super) fn rename_to(&self, other: &Self) -> io::Result<()> {
        if !self.is_stored() {
            return Ok(());
        }
        std::fs::rename(&self.complete, &other.complete)?;
        self.sync()
    }

    /// The file of a stored state.
    pub(super) fn path(&self) -> &Path {
        &self.complete
    }

    /// Opens the stored state.
    pub(super) fn open(&self) -> io::Result<File> {
        File::open(&self.complete)
    }

    /// Opens the stored state, to change the definition in it.
    pub(super) fn open_to_change(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.complete)
    }

    fn sync(&self) -> io::Result<()> {
        self.complete.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

/// Removes a file; one that is gone already is no error.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a file has it once it is complete.
    fn complete(image: &Image) -> Vec<u8> {
        let mut bytes = image.encode();
        assert!(Image::decode(&mut bytes.as_slice()).is_err(), "incomplete ones are refused");
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_the_rest_is_qemus() {
        let image = Image { xml: "<domain><name>wéb</name></domain>".to_owned(), runs: true };
        let mut bytes = complete(&image);
        let own = bytes.len() as u64;
        bytes.extend_from_slice(b"QEVM");
        assert_eq!(Image::decode(&mut bytes.as_slice()).unwrap(), (image, own));
    }

    #[test]
    fn what_libvirt_writes_behind_the_definition_is_passed_over() {
        let mut bytes = Image { xml: "<domain/>".to_owned(), runs: false }.encode_within(10);
        let filling = b"<cookie/>\0\0\0\0";
        bytes.extend_from_slice(filling);
        let length = u32::try_from("<domain/>\0".len() + filling.len()).unwrap();
        bytes[20..24].copy_from_slice(&length.to_ne_bytes());
        let (image, offset) = Image::decode(&mut bytes.as_slice()).unwrap();
        assert_eq!((image.xml.as_str(), offset), ("<domain/>", bytes.len() as u64));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let good = Image { xml: "<domain/>".to_owned(), runs: false }.encode_within(10);
        for (place, value) in [(0, b'l'), (16, 3), (23, 0xff), (28, 1)] {
            let mut bytes = good.clone();
            bytes[place] = value;
            assert!(Image::decode(&mut bytes.as_slice()).is_err(), "byte {place}");
        }
        for length in 0..good.len() {
            assert!(Image::decode(&mut &good[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_definition_is_changed_in_its_place_as_long_as_it_fits() {
        let path = std::env::temp_dir().join(format!("bh-image-{}", std::process::id()));
        let image = Image { xml: "<domain/>".to_owned(), runs: false };
        let mut bytes = complete(&image);
        bytes.extend_from_slice(b"QEVM");
        std::fs::write(&path, &bytes).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let longer = Image { xml: format!("<domain>{}</domain>", "x".repeat(1000)), runs: true };
        longer.replace(&file).unwrap();
        let after = std::fs::read(&path).unwrap();
        assert_eq!(Image::decode(&mut after.as_slice()).unwrap().0, longer);
        assert!(after.len() == bytes.len() && after.ends_with(b"QEVM"));
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let much = Image { xml: "x".repeat(bytes.len()), runs: true };
        assert!(much.replace(&file).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), after);
        std::fs::remove_file(path).unwrap();
    }
}
