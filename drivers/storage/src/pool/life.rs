//! The turns of a pool's life: start, stop, refresh, build, delete.

use super::definition::{Sizes, not_driven};
use super::worker::{SOON, Worker};
use super::{Pool, State, View};
use crate::environment::{Environment, Record};
use crate::error::{error, exclusive, invalid};
use crate::event;
use crate::image::Format;
use crate::protocol::{Answer, Content, Order, Permissions};
use crate::xml;
use bulkhead_actors::fault;
use bulkhead_wire::error::{Code, Error};
use std::path::PathBuf;
use std::sync::Arc;

/// `virStoragePoolCreateFlags`.
pub const WITH_BUILD: u32 = 1;
const WITH_BUILD_OVERWRITE: u32 = 2;
const WITH_BUILD_NO_OVERWRITE: u32 = 4;
/// All of them.
pub const CREATE_FLAGS: u32 = WITH_BUILD | WITH_BUILD_OVERWRITE | WITH_BUILD_NO_OVERWRITE;
/// `VIR_STORAGE_POOL_BUILD_NO_OVERWRITE` and `VIR_STORAGE_POOL_BUILD_OVERWRITE`.
pub const BUILD_FLAGS: u32 = 4 | 8;

impl Pool {
    /// Starts it. `persistent` is false for one that is gone when it stops.
    ///
    /// # Errors
    /// A pool that is active, or of a type that can't be driven; a folder that can't be looked into.
    pub async fn start(self: &Arc<Self>, environment: &Arc<Environment>, flags: u32) -> Result<(), Error> {
        exclusive(flags, WITH_BUILD_OVERWRITE | WITH_BUILD_NO_OVERWRITE)?;
        let view = self.view.get();
        if view.is_active() {
            return Err(invalid(format!("Pool '{}' is active already", self.name)));
        }
        if !view.definition.kind.driven {
            return Err(not_driven(&view.definition, "a start"));
        }
        if flags & CREATE_FLAGS != 0 {
            self.build(environment).await?;
        }
        let record = Record {
            uuid: self.uuid.to_string(),
            xml: view.definition.to_xml(Sizes::default(), None),
            persistent: view.persistent,
        };
        self.open(environment).await?;
        fault::point("pool_start", "before_record");
        if let Err(cause) = environment.write_record(&self.name, &record).await {
            self.change(|view| *view = View { next: None, ..closed(view) });
            return Err(cause);
        }
        environment.tell(&event::lifecycle(self.to_ref(), event::STARTED));
        Ok(())
    }

    /// Makes what was active before this process active again. What can't be reached stays known.
    ///
    /// # Errors
    /// A folder that can't be looked into.
    pub async fn reopen(self: &Arc<Self>, environment: &Arc<Environment>) -> Result<(), Error> {
        let opened = self.open(environment).await;
        if opened.is_err() {
            self.change(|view| view.state = State::Inaccessible);
        }
        opened
    }

    /// Has a worker look into its folder; afterwards it is active.
    pub(super) async fn open(self: &Arc<Self>, environment: &Arc<Environment>) -> Result<(), Error> {
        let view = self.view.get();
        let folder = PathBuf::from(view.folder());
        if !folder.is_absolute() {
            let message =
                format!("Pool '{}': its path '{}' does not begin with a slash", self.name, view.folder());
            return Err(invalid(message));
        }
        let worker = Worker::start(&environment.stack, environment.key("pool"), &self.name, &folder).await?;
        let content = self.scan(environment, &worker).await?;
        environment.clear_unfinished(self, &worker).await;
        self.show(content, Some(worker));
        Ok(())
    }

    async fn scan(&self, environment: &Arc<Environment>, worker: &Worker) -> Result<Content, Error> {
        self.begin_looking();
        let raw = environment.raw_of(self.uuid);
        match worker.ask(Order::Scan { raw }, Some(SOON)).await? {
            Answer::Content(content) => Ok(*content),
            _ => {
                Err(error(Code::INTERNAL, format!("Pool '{}': its worker answers something else", self.name)))
            }
        }
        .inspect(|content| {
            let raw = content.files.iter().filter(|file| file.image.format == Format::Raw && !file.folder);
            environment
                .remember_raw(self.uuid, raw.map(|file| (file.name.clone(), file.status.inode)).collect());
            if content.unnamable > 0 {
                tracing::warn!(
                    pool = self.name,
                    files = content.unnamable,
                    "names that are no text are not shown"
                );
            }
        })
    }

    fn show(&self, content: Content, worker: Option<Arc<Worker>>) {
        let Content { status, capacity_bytes, available_bytes, files, .. } = content;
        let volumes = self.merge(files);
        self.change(|view| {
            view.state = State::Running;
            view.volumes = Arc::new(volumes);
            view.permissions = Some(xml::found(&status));
            view.sizes = Sizes {
                capacity_bytes,
                allocation_bytes: capacity_bytes.saturating_sub(available_bytes),
                available_bytes,
            };
            if worker.is_some() {
                view.worker = worker;
            }
        });
    }

    /// Looks what is in it now. What can't be reached is kept as it was seen last.
    ///
    /// # Errors
    /// A pool that is not active, or can't be reached.
    pub async fn refresh(self: &Arc<Self>, environment: &Arc<Environment>) -> Result<(), Error> {
        let view = self.view.get();
        if !view.is_active() {
            return Err(invalid(format!("Pool '{}' is not active; start it first", self.name)));
        }
        let looked = match view.worker.clone().filter(|worker| !worker.is_gone()) {
            Some(worker) => self.scan(environment, &worker).await.map(|content| self.show(content, None)),
            None => self.open(environment).await,
        };
        if let Err(cause) = looked {
            self.change(|view| view.state = State::Inaccessible);
            return Err(cause);
        }
        environment.tell(&event::refresh(self.to_ref()));
        Ok(())
    }

    /// Stops it. A transient one is gone then: true.
    ///
    /// # Errors
    /// A pool that is not active, or of which a volume is in use.
    pub async fn stop(self: &Arc<Self>, environment: &Arc<Environment>) -> Result<bool, Error> {
        let view = self.view.get();
        if !view.is_active() {
            return Err(invalid(format!("Pool '{}' is not active", self.name)));
        }
        if let Some(volume) = self.in_use() {
            let message = format!(
                "Volume '{volume}' of pool '{}' is in use; stop the pool when that has ended",
                self.name
            );
            return Err(invalid(message));
        }
        environment.remove_record(&self.name).await?;
        fault::point("pool_stop", "after_record");
        self.change(|view| *view = closed(view));
        environment.tell(&event::lifecycle(self.to_ref(), event::STOPPED));
        Ok(!view.persistent)
    }

    /// Makes its folder.
    ///
    /// # Errors
    /// A folder that can't be made.
    pub async fn build(self: &Arc<Self>, environment: &Arc<Environment>) -> Result<(), Error> {
        let view = self.view.get();
        if !view.definition.kind.driven {
            return Err(not_driven(&view.definition, "a build"));
        }
        let folder = PathBuf::from(view.folder());
        let of_pool = |cause: Error| crate::environment::of_pool(&self.name, &cause);
        environment.stack.pool_folder(&folder, true).await.map_err(of_pool)?;
        let permissions = view.definition.permissions;
        if permissions != Permissions::default() {
            let worker =
                Worker::start(&environment.stack, environment.key("pool"), &self.name, &folder).await?;
            worker.ask(Order::Own { permissions }, Some(SOON)).await?;
        }
        environment.tell(&event::lifecycle(self.to_ref(), event::CREATED));
        Ok(())
    }

    /// Removes its folder, which must be empty.
    ///
    /// # Errors
    /// A folder that is not empty, or can't be removed.
    pub async fn delete(self: &Arc<Self>, environment: &Arc<Environment>) -> Result<(), Error> {
        let view = self.view.get();
        if view.is_active() {
            return Err(invalid(format!("Pool '{}' is active; stop it first", self.name)));
        }
        if !view.definition.kind.driven {
            return Err(not_driven(&view.definition, "a removal"));
        }
        let of_pool = |cause: Error| crate::environment::of_pool(&self.name, &cause);
        environment.stack.pool_folder(&PathBuf::from(view.folder()), false).await.map_err(of_pool)?;
        environment.tell(&event::lifecycle(self.to_ref(), event::DELETED));
        Ok(())
    }
}

/// The view of a pool that has been stopped.
fn closed(view: &View) -> View {
    let definition = view.next.clone().unwrap_or_else(|| Arc::clone(&view.definition));
    View::inactive(definition, view.persistent, view.autostart)
}
