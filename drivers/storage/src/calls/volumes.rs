//! What is done to volumes.

use crate::Storage;
use crate::error::{error, invalid, no_flags, no_volume};
use crate::image::Format;
use crate::pool::worker::SOON;
use crate::pool::{Pool, State, View};
use crate::protocol::{Answer, Order};
use crate::volume::Volume;
use crate::volume::make::{self, CREATE_FLAGS, Source, qemu_name};
use bulkhead_wire::control::Access;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::types::storage::{PoolRef, VolumeRef};
use std::path::PathBuf;
use std::sync::Arc;

/// `virStorageVolResizeFlags`.
const RESIZE_ALLOCATE: u32 = 1;
const RESIZE_DELTA: u32 = 2;
const RESIZE_SHRINK: u32 = 4;
/// `VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM`, and that of downloads: holes may be told, and need not be.
const SPARSE_STREAM: u32 = 1;
/// `virStorageVolWipeAlgorithm`.
const WIPE_ZERO: u32 = 0;
const WIPE_LAST: u32 = 9;

type Known = (Arc<Pool>, Arc<View>, Arc<Volume>);

impl Storage {
    /// A volume as a client names it: by its pool and its name.
    pub(super) async fn volume(&self, named: &VolumeRef) -> Result<Known, Error> {
        let pool = self.pool_by_name(&named.pool)?;
        let (view, volume) = pool.volume(&named.name).await?;
        Ok((pool, view, volume))
    }

    /// A volume by its key, which is its path.
    pub(super) async fn volume_at(&self, by: &str, path: &str) -> Result<VolumeRef, Error> {
        for pool in self.environment.pools() {
            // Pools that are being started may have it.
            if pool.view.get().state == State::Starting {
                let _ = pool.active().await;
            }
        }
        let (pool, view, volume) = self.environment.volume_at(path).ok_or_else(|| no_volume(by, path))?;
        Ok(volume.to_ref(&pool.name, view.folder()))
    }

    pub(super) async fn make_volume(
        &self,
        pool: &PoolRef,
        xml: &str,
        flags: u32,
        source: Option<&VolumeRef>,
    ) -> Result<VolumeRef, Error> {
        no_flags(flags, CREATE_FLAGS)?;
        let pool = self.pool(pool)?;
        let source = match source {
            Some(named) => {
                let (pool, view, volume) = self.volume(named).await?;
                Some(Source { pool, view, volume })
            }
            None => None,
        };
        // Begun is done: whoever asked for it may go.
        let (environment, xml) = (Arc::clone(&self.environment), xml.to_owned());
        let making = tokio::spawn(async move {
            let volume = make::make(&environment, &pool, &xml, flags, source).await?;
            Ok(volume.to_ref(&pool.name, pool.view.get().folder()))
        });
        making
            .await
            .map_err(|cause| error(Code::INTERNAL, format!("The volume could not be made: {cause}")))?
    }

    /// Looks at one volume anew.
    async fn look_again(&self, pool: &Arc<Pool>, name: &str) -> Result<(), Error> {
        look_again(pool, name, self.environment.raw_of(pool.uuid).iter().any(|(raw, _)| raw == name)).await
    }

    pub(super) async fn delete_volume(&self, named: &VolumeRef) -> Result<(), Error> {
        let (pool, _, _) = self.volume(named).await?;
        let _taken = pool.take(&named.name, "being removed")?;
        pool.worker()?.ask(Order::Remove { name: named.name.clone() }, Some(SOON)).await?;
        pool.set_volume(&named.name, None);
        Ok(())
    }

    pub(super) async fn resize_volume(&self, named: &VolumeRef, given: u64, flags: u32) -> Result<(), Error> {
        no_flags(flags, RESIZE_ALLOCATE | RESIZE_DELTA | RESIZE_SHRINK)?;
        let (pool, view, volume) = self.volume(named).await?;
        let taken = pool.take(&named.name, "being resized")?;
        let name = &named.name;
        let refused = |why: String| error(Code::INVALID_ARG, format!("Volume '{name}': {why}"));
        let (shrink, allocate) = (flags & RESIZE_SHRINK != 0, flags & RESIZE_ALLOCATE != 0);
        let present = volume.capacity_bytes();
        let capacity_bytes = match (flags & RESIZE_DELTA != 0, shrink) {
            (false, _) => given,
            (true, true) => present.saturating_sub(given),
            (true, false) => present
                .checked_add(given)
                .ok_or_else(|| refused(format!("{given} bytes more are too many")))?,
        };
        let allocated = volume.info(false).allocation_bytes;
        if volume.found.folder || volume.found.link {
            return Err(refused("neither folders nor links are resized".to_owned()));
        }
        if capacity_bytes < allocated && volume.found.image.format == Format::Raw {
            return Err(refused(format!(
                "{capacity_bytes} bytes are less than the {allocated} that are in it"
            )));
        }
        if capacity_bytes < present && !shrink {
            return Err(refused(format!(
                "{capacity_bytes} bytes are less than its {present}, and what lies behind them would be lost; use the flag SHRINK for that"
            )));
        }
        let more = capacity_bytes.saturating_sub(present);
        if more > view.sizes.available_bytes {
            let message = format!(
                "Volume '{name}': {more} bytes more do not fit into the {} that are free in pool '{}'",
                view.sizes.available_bytes, pool.name
            );
            return Err(error(Code::OPERATION_FAILED, message));
        }
        match volume.found.image.format {
            Format::Raw => {
                let order = Order::Resize { name: name.clone(), capacity_bytes, allocate };
                pool.worker()?.ask(order, None).await?;
            }
            _ if allocate => {
                let message = format!("Volume '{name}': what is added can be allocated in raw volumes alone");
                return Err(error(Code::ARGUMENT_UNSUPPORTED, message));
            }
            format => {
                let path = volume.path(view.folder());
                let mut arguments = vec!["resize", "-q", "-f", qemu_name(format)];
                if shrink {
                    arguments.push("--shrink");
                }
                let size = capacity_bytes.to_string();
                arguments.extend([path.as_str(), size.as_str()]);
                let arguments = arguments.into_iter().map(str::to_owned).collect();
                let files = vec![(PathBuf::from(&path), Access::ReadWrite)];
                self.environment.qemu_img(&pool.name, arguments, files).await?;
            }
        }
        let looked = self.look_again(&pool, name).await;
        drop(taken);
        looked
    }

    pub(super) async fn wipe_volume(&self, named: &VolumeRef, algorithm: u32) -> Result<(), Error> {
        if algorithm > WIPE_LAST {
            return Err(error(
                Code::INVALID_ARG,
                format!("{algorithm} is no algorithm for wiping; try zero"),
            ));
        }
        let (pool, _, volume) = self.volume(named).await?;
        if algorithm != WIPE_ZERO {
            let message = format!("Volume '{}' can be wiped with zeros alone", named.name);
            return Err(error(Code::ARGUMENT_UNSUPPORTED, message));
        }
        if volume.found.folder || volume.found.link {
            return Err(invalid(format!("Volume '{}': neither folders nor links are wiped", named.name)));
        }
        let taken = pool.take(&named.name, "being wiped")?;
        pool.worker()?.ask(Order::Wipe { name: named.name.clone() }, None).await?;
        let looked = self.look_again(&pool, &named.name).await;
        drop(taken);
        looked
    }

    pub(super) async fn upload_volume(
        &self,
        named: &VolumeRef,
        offset: u64,
        length: u64,
        flags: u32,
    ) -> Result<Descriptor, Error> {
        no_flags(flags, SPARSE_STREAM)?;
        let (pool, _, _) = self.volume(named).await?;
        let taken = pool.take(&named.name, "being uploaded")?;
        let worker = pool.worker()?;
        let name = named.name.clone();
        let order = Order::Open { name: name.clone(), write: true, offset, length };
        let Answer::Opened(file) = worker.ask(order, Some(SOON)).await? else {
            return Err(error(Code::INTERNAL, "A worker answered something else than an open file"));
        };
        let raw = self.environment.raw_of(pool.uuid).iter().any(|(raw, _)| *raw == name);
        tokio::spawn(async move {
            // The lock on the file is free when the last holder of the descriptor has closed it, however he ended.
            let released = worker.ask(Order::Released { name: name.clone() }, None).await;
            let looked = match released {
                Ok(_) => look_again(&pool, &name, raw).await,
                Err(cause) => Err(cause),
            };
            if let Err(cause) = looked {
                tracing::warn!(pool = pool.name, volume = name, %cause, "after an upload");
            }
            drop(taken);
        });
        Ok(file)
    }

    pub(super) async fn download_volume(
        &self,
        named: &VolumeRef,
        offset: u64,
        length: u64,
        flags: u32,
    ) -> Result<Descriptor, Error> {
        no_flags(flags, SPARSE_STREAM)?;
        let (pool, _, _) = self.volume(named).await?;
        let _reading = pool.share(&named.name)?;
        let order = Order::Open { name: named.name.clone(), write: false, offset, length };
        match pool.worker()?.ask(order, Some(SOON)).await? {
            Answer::Opened(file) => Ok(file),
            _ => Err(error(Code::INTERNAL, "A worker answered something else than an open file")),
        }
    }
}

async fn look_again(pool: &Arc<Pool>, name: &str, raw: bool) -> Result<(), Error> {
    match pool.worker()?.ask(Order::Look { name: name.to_owned(), raw }, Some(SOON)).await? {
        Answer::File(found) => {
            pool.set_volume(name, Some(Volume { found: *found, made: None }));
            Ok(())
        }
        _ => Err(error(Code::INTERNAL, "A worker answered something else than a file")),
    }
}
