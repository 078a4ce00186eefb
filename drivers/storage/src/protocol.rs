//! What the driver and a pool's worker say to one another: frames of the private wire over the socket that the worker is born
//! with. The worker reads what guests wrote; what it says is checked as a stranger's word.

use crate::image::{Format, Image};
use bulkhead_wire::descriptor::Descriptor;
use serde::{Deserialize, Serialize};

/// The worker's end of the socket, in the worker.
pub const SOCKET_NUMBER: i32 = 3;
/// What the names of files begin with that are still being made; they are no volumes.
pub const UNFINISHED: &str = "bulkhead-new-";
/// Volumes of one pool that are looked at; a folder that holds more is shown in part.
pub const VOLUMES_MAX: usize = 100_000;

/// Owner, group and mode; what is not named stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// The permission bits.
    pub mode: Option<u32>,
    /// User id.
    pub owner: Option<u32>,
    /// Group id.
    pub group: Option<u32>,
}

/// Something that the worker is to do in its folder.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Look at everything. Files of these names and inodes are raw, whatever is in them.
    Scan {
        /// Names with their inodes.
        raw: Vec<(String, u64)>,
    },
    /// Look at one file.
    Look {
        /// Its name.
        name: String,
        /// Is it raw, whatever is in it?
        raw: bool,
    },
    /// Make an unfinished file of that size, with so many bytes of it allocated.
    Make {
        /// Its name.
        unfinished: String,
        /// Its size.
        capacity_bytes: u64,
        /// Bytes to allocate.
        allocation_bytes: u64,
    },
    /// Make an unfinished file with the bytes of another one, whose holes stay holes.
    Copy {
        /// Its name.
        unfinished: String,
        /// The other one.
        source: Descriptor,
        /// The size that it has at least.
        capacity_bytes: u64,
    },
    /// Give an unfinished file its owner, mode and name.
    Finish {
        /// Its name until now.
        unfinished: String,
        /// Its name from now on; nothing may have it yet.
        name: String,
        /// Owner and mode.
        permissions: Permissions,
        /// Is it raw, whatever is in it?
        raw: bool,
    },
    /// Remove an unfinished file, if it is there.
    Discard {
        /// Its name.
        unfinished: String,
    },
    /// Make a folder.
    MakeFolder {
        /// Its name.
        name: String,
        /// Owner and mode.
        permissions: Permissions,
    },
    /// Remove a file, or an empty folder.
    Remove {
        /// Its name.
        name: String,
    },
    /// Change a raw file's size.
    Resize {
        /// Its name.
        name: String,
        /// Its size from now on.
        capacity_bytes: u64,
        /// Allocate what it grows by?
        allocate: bool,
    },
    /// Overwrite what is allocated with zeros.
    Wipe {
        /// Its name.
        name: String,
    },
    /// Open a file for somebody else, and say when he has closed it.
    Open {
        /// Its name.
        name: String,
        /// For writing? Else for reading.
        write: bool,
        /// Where he begins.
        offset: u64,
        /// How far he may go; zero is to the end.
        length: u64,
    },
    /// Wait until nobody has a file open that `Open` opened for writing.
    Released {
        /// Its name.
        name: String,
    },
    /// Give the folder itself owner and mode.
    Own {
        /// Owner and mode.
        permissions: Permissions,
    },
}

/// An order with its number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The answer has the same.
    pub id: u64,
    /// What is to be done.
    pub order: Order,
}

/// A moment: seconds and nanoseconds since 1970.
pub type Moment = (i64, i64);

/// What the file system says of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its size.
    pub size_bytes: u64,
    /// Bytes that it takes.
    pub allocated_bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// User id.
    pub owner: u32,
    /// Group id.
    pub group: u32,
    /// When it was read last.
    pub accessed: Moment,
    /// When its content changed last.
    pub modified: Moment,
    /// When anything about it changed last.
    pub changed: Moment,
    /// The file itself.
    pub inode: u64,
}

/// A file in the folder that may be a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// What the file system says.
    pub status: Status,
    /// Is it a folder?
    pub folder: bool,
    /// Is it a link to a file in the same folder? Those are read, and never written to.
    pub link: bool,
    /// What its header says.
    pub image: Image,
    /// What the file system says of the file that it stands on, if that is in the same folder.
    pub backing: Option<(Status, Format)>,
}

/// What is in the folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The folder itself.
    pub status: Status,
    /// Bytes of its file system.
    pub capacity_bytes: u64,
    /// Bytes that are free.
    pub available_bytes: u64,
    /// What may be a volume.
    pub files: Vec<Found>,
    /// Names that are no text, or hold control characters.
    pub unnamable: u64,
}

/// What came of an order.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// The whole folder.
    Content(Box<Content>),
    /// One file.
    File(Box<Found>),
    /// An open file.
    Opened(Descriptor),
}

/// Why an order could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was tried, and what the system said.
    pub message: String,
    /// The errno, or 0.
    pub errno: i32,
}

/// An answer with its request's number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// The answer.
    pub result: Result<Answer, Failure>,
}
