//! How a volume is made: under a name that is no volume's, with the intent on disk; it gets its own name when it is whole.

use super::{Volume, Wanted, path_of};
use crate::environment::Environment;
use crate::error::{error, invalid};
use crate::image::{Compat, Format};
use crate::pool::worker::{SOON, Worker};
use crate::pool::{InUse, Pool, View};
use crate::protocol::{Answer, Found, Order, Permissions};
use bulkhead_actors::fault;
use bulkhead_wire::control::Access;
use bulkhead_wire::error::{Code, Error};
use nix::errno::Errno;
use std::path::PathBuf;
use std::sync::Arc;

/// `VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA`, `_REFLINK`, `_VALIDATE`.
const PREALLOC_METADATA: u32 = 1;
const REFLINK: u32 = 2;
const VALIDATE: u32 = 4;
/// All of them.
pub const CREATE_FLAGS: u32 = PREALLOC_METADATA | REFLINK | VALIDATE;
/// Images that stand on one another.
const CHAIN_MAX: usize = 32;

/// What a volume is made of.
struct Making {
    environment: Arc<Environment>,
    pool: Arc<Pool>,
    view: Arc<View>,
    worker: Arc<Worker>,
    wanted: Wanted,
    unfinished: String,
    _taken: InUse,
}

/// Where the content of a new volume comes from.
pub struct Source {
    /// Its pool.
    pub pool: Arc<Pool>,
    /// That pool's view.
    pub view: Arc<View>,
    /// The volume.
    pub volume: Arc<Volume>,
}

/// Makes a volume in a pool, with the content of another one if that is named.
///
/// # Errors
/// A name that is taken, and what can't be made.
pub async fn make(
    environment: &Arc<Environment>,
    pool: &Arc<Pool>,
    xml: &str,
    flags: u32,
    source: Option<Source>,
) -> Result<Volume, Error> {
    let view = pool.active().await?;
    let wanted = Wanted::read(xml)?;
    if flags & REFLINK != 0 {
        let message =
            "Blocks can't be shared on request yet: a copy shares them by itself where the file system can";
        return Err(error(Code::ARGUMENT_UNSUPPORTED, message));
    }
    let exists = || {
        let message = format!(
            "Pool '{}' has a volume '{}' already; delete that, or take another name",
            pool.name, wanted.name
        );
        error(Code::STORAGE_VOL_EXIST, message)
    };
    if view.volume(&wanted.name).is_some() {
        return Err(exists());
    }
    let taken = pool.take(&wanted.name, "being made").map_err(|_busy| exists())?;
    let name = wanted.name.clone();
    let making = Making {
        environment: Arc::clone(environment),
        pool: Arc::clone(pool),
        worker: pool.worker()?,
        view,
        unfinished: environment.unfinished(),
        wanted,
        _taken: taken,
    };
    let found = match &source {
        Some(source) => making.copy(source).await?,
        None => making.create(flags).await?,
    };
    if found.image.format == Format::Raw && !found.folder {
        environment.remember_one_raw(pool.uuid, &name, found.status.inode);
    }
    let volume = Volume { found, made: Some(Box::new(making.wanted)) };
    pool.set_volume(&name, Some(volume.clone()));
    Ok(volume)
}

impl Making {
    fn permissions(&self) -> Permissions {
        Permissions { mode: Some(self.wanted.permissions.mode.unwrap_or(0o600)), ..self.wanted.permissions }
    }

    fn path(&self) -> String {
        path_of(self.view.folder(), &self.unfinished)
    }

    async fn create(&self, flags: u32) -> Result<Found, Error> {
        let wanted = &self.wanted;
        let preallocate = flags & PREALLOC_METADATA != 0;
        if preallocate && wanted.format != Format::Qcow2 {
            let message =
                format!("Volume '{}': metadata can be allocated in advance in qcow2 alone", wanted.name);
            return Err(error(Code::CONFIG_UNSUPPORTED, message));
        }
        if preallocate && wanted.backing.is_some() {
            let message = format!(
                "Volume '{}': metadata can't be allocated in advance where it stands on another file",
                wanted.name
            );
            return Err(error(Code::CONFIG_UNSUPPORTED, message));
        }
        if wanted.format == Format::Dir {
            let order = Order::MakeFolder { name: wanted.name.clone(), permissions: self.permissions() };
            return found(self.worker.ask(order, Some(SOON)).await.map_err(|cause| self.exists(cause))?);
        }
        let capacity_bytes = self.capacity().await?;
        let allocation_bytes = wanted.allocation_bytes.unwrap_or(capacity_bytes);
        self.whole(async {
            if wanted.format == Format::Raw {
                return self
                    .order(Order::Make {
                        unfinished: self.unfinished.clone(),
                        capacity_bytes,
                        allocation_bytes,
                    })
                    .await;
            }
            self.empty().await?;
            let preallocation = match preallocate {
                false => None,
                true if allocation_bytes == capacity_bytes => Some("falloc"),
                true => Some("metadata"),
            };
            let mut arguments = vec!["create".to_owned(), "-q".to_owned()];
            arguments.extend(["-f".to_owned(), qemu_name(wanted.format).to_owned()]);
            if let Some(backing) = &wanted.backing {
                // Opened by nobody: whether it is there was looked at already.
                arguments.push("-u".to_owned());
                arguments.extend(["-F".to_owned(), qemu_name(backing.format).to_owned()]);
                arguments.extend(["-b".to_owned(), backing.path.clone()]);
            }
            self.options(preallocation, &mut arguments);
            arguments.push(self.path());
            arguments.push(format!("{}K", capacity_bytes.div_ceil(1024)));
            let files = vec![(PathBuf::from(self.path()), Access::ReadWrite)];
            self.environment.qemu_img(&self.pool.name, arguments, files).await
        })
        .await
    }

    /// Options of qcow2.
    fn options(&self, preallocation: Option<&str>, arguments: &mut Vec<String>) {
        let wanted = &self.wanted;
        if wanted.format != Format::Qcow2 {
            return;
        }
        let (lazy, extended) = wanted.features.unwrap_or_default();
        let compat = wanted.compat.clone().unwrap_or_else(|| Compat::V11.name().to_owned());
        let mut options = vec![format!("compat={compat}")];
        options.extend(wanted.cluster_bytes.map(|bytes| format!("cluster_size={bytes}")));
        options.extend(lazy.then(|| "lazy_refcounts=on".to_owned()));
        options.extend(extended.then(|| "extended_l2=on".to_owned()));
        options.extend(preallocation.map(|how| format!("preallocation={how}")));
        arguments.extend(["-o".to_owned(), options.join(",")]);
    }

    /// Bytes that a guest is to see: those of what it stands on unless it says otherwise. That must be there.
    async fn capacity(&self) -> Result<u64, Error> {
        let wanted = &self.wanted;
        let below = match &wanted.backing {
            Some(backing) => Some(self.backing(&backing.path).await?),
            None => None,
        };
        let below = below.map(|volume| volume.capacity_bytes());
        wanted.capacity_bytes.or(below).ok_or_else(|| {
            crate::error::wrong_xml(format!(
                "Volume '{}' has neither <capacity> nor <backingStore>",
                wanted.name
            ))
        })
    }

    async fn backing(&self, path: &str) -> Result<Arc<Volume>, Error> {
        if let Some((_, _, volume)) = self.environment.volume_at(path) {
            return Ok(volume);
        }
        // Made by somebody else since the pool was looked at.
        let name = path.strip_prefix(self.view.folder()).map(|rest| rest.trim_start_matches('/'));
        if let Some(name) = name.filter(|name| !name.is_empty() && !name.contains('/')) {
            let order = Order::Look { name: name.to_owned(), raw: false };
            if let Ok(Answer::File(found)) = self.worker.ask(order, Some(SOON)).await {
                return Ok(Arc::new(Volume { found: *found, made: None }));
            }
        }
        let message = format!(
            "Volume '{}' can't stand on '{path}', which is no volume of an active pool; start or refresh the pool it is in",
            self.wanted.name
        );
        let mut cause = error(Code::SYSTEM_ERROR, message);
        cause.int1 = Errno::ENOENT as i32;
        Err(cause)
    }

    async fn copy(&self, source: &Source) -> Result<Found, Error> {
        let (wanted, from) = (&self.wanted, &source.volume);
        if wanted.format == Format::Dir || from.found.folder {
            return Err(invalid(format!("Volume '{}': a folder can't be copied", wanted.name)));
        }
        let _reading = source.pool.share(&from.found.name)?;
        let capacity_bytes = wanted.capacity_bytes.unwrap_or(0).max(from.capacity_bytes());
        let format = from.found.image.format;
        let worker = source.pool.worker()?;
        self.whole(async {
            if wanted.format == Format::Raw && format == Format::Raw {
                let name = from.found.name.clone();
                let open = Order::Open { name, write: false, offset: 0, length: 0 };
                let Answer::Opened(opened) = worker.ask(open, Some(SOON)).await? else {
                    return Err(error(Code::INTERNAL, "A worker answered something else than an open file"));
                };
                let unfinished = self.unfinished.clone();
                return self.order(Order::Copy { unfinished, source: opened, capacity_bytes }).await;
            }
            self.empty().await?;
            let mut arguments = vec!["convert".to_owned(), "-q".to_owned()];
            arguments.extend(["-f", qemu_name(format), "-O", qemu_name(wanted.format)].map(str::to_owned));
            let mut files = vec![(PathBuf::from(self.path()), Access::ReadWrite)];
            if let Some(backing) = &wanted.backing {
                self.backing(&backing.path).await?;
                arguments.extend(["-F".to_owned(), qemu_name(backing.format).to_owned()]);
                arguments.extend(["-B".to_owned(), backing.path.clone()]);
                files.extend(self.chain(&backing.path));
            }
            self.options(None, &mut arguments);
            let path = from.path(source.view.folder());
            files.extend(self.chain(&path));
            arguments.extend([path, self.path()]);
            self.environment.qemu_img(&self.pool.name, arguments, files).await?;
            if capacity_bytes > from.capacity_bytes() {
                let size = format!("{capacity_bytes}");
                let arguments = ["resize", "-q", "-f", qemu_name(wanted.format), &self.path(), &size];
                let files = vec![(PathBuf::from(self.path()), Access::ReadWrite)];
                self.environment
                    .qemu_img(&self.pool.name, arguments.map(str::to_owned).to_vec(), files)
                    .await?;
            }
            Ok(())
        })
        .await
    }

    /// The file and those that it stands on, as far as they are volumes.
    fn chain(&self, path: &str) -> Vec<(PathBuf, Access)> {
        let mut files = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next.take().filter(|_| files.len() < CHAIN_MAX) {
            let Some((_, view, volume)) = self.environment.volume_at(&path) else { break };
            files.push((PathBuf::from(path), Access::Read));
            next = volume.backing_path(view.folder());
        }
        files
    }

    async fn order(&self, order: Order) -> Result<(), Error> {
        self.worker.ask(order, None).await.map(drop)
    }

    /// A file for qemu-img to write to.
    async fn empty(&self) -> Result<(), Error> {
        let unfinished = self.unfinished.clone();
        self.order(Order::Make { unfinished, capacity_bytes: 0, allocation_bytes: 0 }).await
    }

    /// Does the work under the unfinished name, and gives the volume its own, or removes what there is of it.
    async fn whole(&self, work: impl Future<Output = Result<(), Error>>) -> Result<Found, Error> {
        self.environment.intend(&self.pool, &self.unfinished).await?;
        fault::point("volume_make", "before_content");
        let made = async {
            work.await?;
            fault::point("volume_make", "before_name");
            let order = Order::Finish {
                unfinished: self.unfinished.clone(),
                name: self.wanted.name.clone(),
                permissions: self.permissions(),
                raw: self.wanted.format == Format::Raw,
            };
            let answer = self.worker.ask(order, Some(SOON)).await.map_err(|cause| self.exists(cause))?;
            fault::point("volume_make", "after_name");
            found(answer)
        };
        let made = made.await;
        if made.is_err() {
            let unfinished = self.unfinished.clone();
            if let Err(cause) = self.worker.ask(Order::Discard { unfinished }, Some(SOON)).await {
                tracing::warn!(%cause, "an unfinished file stays until its pool starts again");
                return made;
            }
        }
        // The volume is whole either way: an intent that stays is looked at by the next start.
        if let Err(cause) = self.environment.intended(&self.pool, &self.unfinished).await {
            tracing::warn!(%cause, "an intent stays until the pool starts again");
        }
        made
    }

    /// A name that turned out to be taken by something that is no volume, or is one since a moment ago.
    fn exists(&self, cause: Error) -> Error {
        if cause.int1 != Errno::EEXIST as i32 {
            return cause;
        }
        let message = format!(
            "Pool '{}' has a '{}' already, which was not there when it was looked at; refresh the pool, or take another name",
            self.pool.name, self.wanted.name
        );
        error(Code::STORAGE_VOL_EXIST, message)
    }
}

fn found(answer: Answer) -> Result<Found, Error> {
    match answer {
        Answer::File(found) => Ok(*found),
        _ => Err(error(Code::INTERNAL, "A worker answered something else than a file")),
    }
}

/// What qemu-img calls a format.
#[must_use]
pub fn qemu_name(format: Format) -> &'static str {
    match format {
        // A CD is what is in it.
        Format::Iso | Format::Dir => "raw",
        Format::Vhd => "vpc",
        format => format.name(),
    }
}
