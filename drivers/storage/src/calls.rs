//! The calls about pools, and the way to those about volumes.

mod volumes;

use crate::Storage;
use crate::capabilities;
use crate::environment::must_be_inactive;
use crate::error::{error, exclusive, no_flags};
use crate::event;
use crate::pool::definition::{Definition, Sizes};
use crate::pool::life::{BUILD_FLAGS, CREATE_FLAGS};
use crate::pool::{Pool, View, kind};
use crate::xml::clean_path;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::table::{CallContext, storage};
use bulkhead_wire::types::storage::{
    PoolInfo, PoolList, PoolOverview, PoolRef, VolumeInfo, VolumeList, VolumeRef,
};
use std::sync::Arc;

/// `VIR_STORAGE_POOL_DEFINE_VALIDATE`.
const VALIDATE: u32 = 1;
/// `VIR_STORAGE_XML_INACTIVE`.
const XML_INACTIVE: u32 = 1;
/// `virConnectListAllStoragePoolsFlags`, each with its opposite.
const LIST_STATES: [(u32, u32); 3] = [(2, 1), (4, 8), (16, 32)];

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// So many of them, if that is a number of things.
fn at_most(names: impl Iterator<Item = String>, most: i32) -> Result<Vec<String>, Error> {
    let most = usize::try_from(most)
        .map_err(|_| error(Code::INVALID_ARG, "A list of less than nothing was asked for"))?;
    Ok(names.take(most).collect())
}

impl Storage {
    fn pool(&self, named: &PoolRef) -> Result<Arc<Pool>, Error> {
        self.environment.by_uuid(named.uuid).ok_or_else(|| {
            let message = format!("Storage pool not found: none has uuid {} ({})", named.uuid, named.name);
            error(Code::NO_STORAGE_POOL, message)
        })
    }

    fn pool_by_name(&self, name: &str) -> Result<Arc<Pool>, Error> {
        self.environment.by_name(name).ok_or_else(|| {
            error(Code::NO_STORAGE_POOL, format!("Storage pool not found: none has the name '{name}'"))
        })
    }

    fn names(&self, active: bool) -> impl Iterator<Item = String> {
        let pools = self.environment.pools().into_iter();
        pools.filter(move |pool| pool.view.get().is_active() == active).map(|pool| pool.name.clone())
    }

    /// Has something done to a pool in its turn.
    async fn turn<R, F>(
        &self,
        pool: &Arc<Pool>,
        operation: &'static str,
        work: impl FnOnce(Arc<Pool>, Arc<crate::environment::Environment>) -> F,
    ) -> Result<R, Error>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, Error>> + Send + 'static,
    {
        let work = work(Arc::clone(pool), Arc::clone(&self.environment));
        pool.object.run(operation, move |()| Box::pin(work)).await?
    }

    /// A pool that did not outlive its run is gone.
    async fn drop_if(&self, pool: &Pool, gone: bool) {
        if gone {
            let _registry = self.environment.registry.lock().await;
            if !pool.view.get().persistent {
                self.environment.forget(pool);
                if let Err(cause) = self.environment.remove_raw(pool).await {
                    tracing::warn!(%cause, "state of a pool that is gone");
                }
            }
        }
    }

    async fn define(&self, xml: &str) -> Result<PoolRef, Error> {
        let environment = &self.environment;
        let definition = Arc::new(Definition::read(xml, || environment.fresh_uuid())?);
        let _registry = environment.registry.lock().await;
        let known = environment.admit(&definition)?;
        let text = definition.to_xml(Sizes::default(), None);
        let pool = match known {
            Some(pool) => {
                let (name, next) = (pool.name.clone(), Arc::clone(&definition));
                self.turn(&pool, "define", move |pool, environment| async move {
                    environment.write_definition(&name, text).await?;
                    pool.change(|view| {
                        view.persistent = true;
                        if view.is_active() {
                            view.next = Some(next);
                        } else {
                            view.definition = next;
                        }
                    });
                    Ok(())
                })
                .await?;
                pool
            }
            None => {
                environment.write_definition(&definition.name, text).await?;
                let pool = Pool::new(View::inactive(Arc::clone(&definition), true, false));
                environment.insert(&pool);
                pool
            }
        };
        environment.tell(&event::lifecycle(pool.to_ref(), event::DEFINED));
        Ok(pool.to_ref())
    }

    async fn create(&self, xml: &str, flags: u32) -> Result<PoolRef, Error> {
        let environment = &self.environment;
        let definition = Arc::new(Definition::read(xml, || environment.fresh_uuid())?);
        let pool = {
            let _registry = environment.registry.lock().await;
            match environment.admit(&definition)? {
                // A start from XML: what it says holds for this run.
                Some(pool) => {
                    must_be_inactive(&pool)?;
                    let next = Arc::clone(&definition);
                    pool.change(|view| {
                        if view.persistent {
                            view.next = Some(Arc::clone(&view.definition));
                        }
                        view.definition = next;
                    });
                    pool
                }
                None => {
                    let pool = Pool::new(View::inactive(Arc::clone(&definition), false, false));
                    environment.insert(&pool);
                    pool
                }
            }
        };
        let started = self.turn(&pool, "start", move |pool, environment| async move {
            pool.start(&environment, flags).await
        });
        if let Err(cause) = started.await {
            self.drop_if(&pool, !pool.view.get().persistent && !pool.view.get().is_active()).await;
            return Err(cause);
        }
        Ok(pool.to_ref())
    }
}

/// Does a pool pass `virConnectListAllStoragePoolsFlags`?
fn passes(flags: u32, view: &View) -> bool {
    let states = [view.is_active(), view.persistent, view.autostart];
    let all = LIST_STATES.iter().zip(states).all(|((yes, no), is)| {
        let wanted = flags & (yes | no);
        wanted == 0 || wanted & if is { *yes } else { *no } != 0
    });
    let kinds = kind::KINDS.iter().fold(0, |all, kind| all | kind.list_flag);
    all && (flags & kinds == 0 || flags & view.definition.kind.list_flag != 0)
}

impl storage::Server for Storage {
    async fn connect_num_of_storage_pools(
        &self,
        _call: CallContext,
        _arguments: storage::connect_num_of_storage_pools::Arguments,
    ) -> Result<i32, Error> {
        Ok(count(self.names(true).count()))
    }

    async fn connect_list_storage_pools(
        &self,
        _call: CallContext,
        arguments: storage::connect_list_storage_pools::Arguments,
    ) -> Result<Vec<String>, Error> {
        at_most(self.names(true), arguments.max_names)
    }

    async fn connect_num_of_defined_storage_pools(
        &self,
        _call: CallContext,
        _arguments: storage::connect_num_of_defined_storage_pools::Arguments,
    ) -> Result<i32, Error> {
        Ok(count(self.names(false).count()))
    }

    async fn connect_list_defined_storage_pools(
        &self,
        _call: CallContext,
        arguments: storage::connect_list_defined_storage_pools::Arguments,
    ) -> Result<Vec<String>, Error> {
        at_most(self.names(false), arguments.max_names)
    }

    async fn connect_list_all_storage_pools(
        &self,
        _call: CallContext,
        arguments: storage::connect_list_all_storage_pools::Arguments,
    ) -> Result<PoolList, Error> {
        let storage::connect_list_all_storage_pools::Arguments { need_results, flags } = arguments;
        let states = LIST_STATES.iter().fold(0, |all, (yes, no)| all | yes | no);
        no_flags(flags, kind::KINDS.iter().fold(states, |all, kind| all | kind.list_flag))?;
        let pools = self.environment.pools();
        let mut pools: Vec<_> =
            pools.iter().filter(|pool| passes(flags, &pool.view.get())).map(|pool| pool.to_ref()).collect();
        let count = u32::try_from(pools.len()).unwrap_or(u32::MAX);
        if need_results == 0 {
            pools.clear();
        }
        Ok(PoolList { pools, count })
    }

    async fn connect_get_storage_pool_capabilities(
        &self,
        _call: CallContext,
        arguments: storage::connect_get_storage_pool_capabilities::Arguments,
    ) -> Result<String, Error> {
        no_flags(arguments.flags, 0)?;
        Ok(capabilities::to_xml())
    }

    async fn connect_find_storage_pool_sources(
        &self,
        _call: CallContext,
        arguments: storage::connect_find_storage_pool_sources::Arguments,
    ) -> Result<String, Error> {
        no_flags(arguments.flags, 0)?;
        let kind = &arguments.kind;
        if kind::of(kind).is_none() {
            return Err(error(Code::INTERNAL, format!("'{kind}' is no type of pool; try 'dir'")));
        }
        Err(error(Code::NO_SUPPORT, format!("Sources of pools of type '{kind}' can't be looked for")))
    }

    async fn storage_pool_create_xml(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_create_xml::Arguments,
    ) -> Result<PoolRef, Error> {
        no_flags(arguments.flags, CREATE_FLAGS)?;
        self.create(&arguments.xml, arguments.flags).await
    }

    async fn storage_pool_define_xml(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_define_xml::Arguments,
    ) -> Result<PoolRef, Error> {
        no_flags(arguments.flags, VALIDATE)?;
        self.define(&arguments.xml).await
    }

    async fn storage_pool_create(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_create::Arguments,
    ) -> Result<(), Error> {
        let storage::storage_pool_create::Arguments { pool, flags } = arguments;
        no_flags(flags, CREATE_FLAGS)?;
        let pool = self.pool(&pool)?;
        self.turn(
            &pool,
            "start",
            move |pool, environment| async move { pool.start(&environment, flags).await },
        )
        .await
    }

    async fn storage_pool_build(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_build::Arguments,
    ) -> Result<(), Error> {
        let storage::storage_pool_build::Arguments { pool, flags } = arguments;
        no_flags(flags, BUILD_FLAGS)?;
        exclusive(flags, BUILD_FLAGS)?;
        let pool = self.pool(&pool)?;
        self.turn(&pool, "build", move |pool, environment| async move {
            must_be_inactive(&pool)?;
            pool.build(&environment).await
        })
        .await
    }

    async fn storage_pool_destroy(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_destroy::Arguments,
    ) -> Result<(), Error> {
        let pool = self.pool(&arguments.pool)?;
        let gone = self
            .turn(&pool, "stop", move |pool, environment| async move { pool.stop(&environment).await })
            .await?;
        self.drop_if(&pool, gone).await;
        Ok(())
    }

    async fn storage_pool_delete(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_delete::Arguments,
    ) -> Result<(), Error> {
        no_flags(arguments.flags, 0)?;
        let pool = self.pool(&arguments.pool)?;
        self.turn(&pool, "delete", move |pool, environment| async move { pool.delete(&environment).await })
            .await
    }

    async fn storage_pool_undefine(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_undefine::Arguments,
    ) -> Result<(), Error> {
        let pool = self.pool(&arguments.pool)?;
        let _registry = self.environment.registry.lock().await;
        self.turn(&pool, "undefine", move |pool, environment| async move {
            must_be_inactive(&pool)?;
            environment.remove_definition(&pool).await?;
            environment.forget(&pool);
            environment.tell(&event::lifecycle(pool.to_ref(), event::UNDEFINED));
            Ok(())
        })
        .await
    }

    async fn storage_pool_refresh(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_refresh::Arguments,
    ) -> Result<(), Error> {
        no_flags(arguments.flags, 0)?;
        let pool = self.pool(&arguments.pool)?;
        self.turn(&pool, "refresh", move |pool, environment| async move { pool.refresh(&environment).await })
            .await
    }

    async fn storage_pool_lookup_by_name(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_lookup_by_name::Arguments,
    ) -> Result<PoolRef, Error> {
        self.pool_by_name(&arguments.name).map(|pool| pool.to_ref())
    }

    async fn storage_pool_lookup_by_uuid(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_lookup_by_uuid::Arguments,
    ) -> Result<PoolRef, Error> {
        self.pool(&PoolRef { name: "?".to_owned(), uuid: arguments.uuid }).map(|pool| pool.to_ref())
    }

    async fn storage_pool_lookup_by_volume(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_lookup_by_volume::Arguments,
    ) -> Result<PoolRef, Error> {
        self.pool_by_name(&arguments.volume.pool).map(|pool| pool.to_ref())
    }

    async fn storage_pool_lookup_by_target_path(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_lookup_by_target_path::Arguments,
    ) -> Result<PoolRef, Error> {
        let path = clean_path(&arguments.path);
        let found = self.environment.pools().into_iter().find(|pool| {
            let view = pool.view.get();
            view.is_active() && view.folder() == path
        });
        found.map(|pool| pool.to_ref()).ok_or_else(|| {
            error(Code::NO_STORAGE_POOL, format!("Storage pool not found: no active one shows '{path}'"))
        })
    }

    async fn storage_pool_get_info(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_get_info::Arguments,
    ) -> Result<PoolInfo, Error> {
        let view = self.pool(&arguments.pool)?.view.get();
        let Sizes { capacity_bytes, allocation_bytes, available_bytes } = view.sizes;
        Ok(PoolInfo { state: view.state.number(), capacity_bytes, allocation_bytes, available_bytes })
    }

    async fn storage_pool_get_xml_desc(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_get_xml_desc::Arguments,
    ) -> Result<String, Error> {
        no_flags(arguments.flags, XML_INACTIVE)?;
        let view = self.pool(&arguments.pool)?.view.get();
        Ok(match &view.next {
            Some(next) if arguments.flags & XML_INACTIVE != 0 => next.to_xml(view.sizes, None),
            _ if arguments.flags & XML_INACTIVE != 0 => view.definition.to_xml(view.sizes, None),
            _ => view.definition.to_xml(view.sizes, view.permissions),
        })
    }

    async fn storage_pool_get_autostart(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_get_autostart::Arguments,
    ) -> Result<i32, Error> {
        self.pool(&arguments.pool).map(|pool| pool.view.get().autostart.into())
    }

    async fn storage_pool_set_autostart(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_set_autostart::Arguments,
    ) -> Result<(), Error> {
        let autostart = arguments.autostart != 0;
        let pool = self.pool(&arguments.pool)?;
        self.turn(&pool, "set autostart", move |pool, environment| async move {
            if !pool.view.get().persistent {
                let message = format!("Pool '{}' is gone when it stops; define it first", pool.name);
                return Err(error(Code::INVALID_ARG, message));
            }
            environment.set_autostart(&pool.name, autostart).await?;
            pool.change(|view| view.autostart = autostart);
            Ok(())
        })
        .await
    }

    async fn storage_pool_is_active(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_is_active::Arguments,
    ) -> Result<i32, Error> {
        self.pool(&arguments.pool).map(|pool| pool.view.get().is_active().into())
    }

    async fn storage_pool_is_persistent(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_is_persistent::Arguments,
    ) -> Result<i32, Error> {
        self.pool(&arguments.pool).map(|pool| pool.view.get().persistent.into())
    }

    async fn storage_pool_num_of_volumes(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_num_of_volumes::Arguments,
    ) -> Result<i32, Error> {
        let view = self.pool(&arguments.pool)?.active().await?;
        Ok(count(view.volumes.len()))
    }

    async fn storage_pool_list_volumes(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_list_volumes::Arguments,
    ) -> Result<Vec<String>, Error> {
        let view = self.pool(&arguments.pool)?.active().await?;
        at_most(view.volumes.keys().cloned(), arguments.max_names)
    }

    async fn storage_pool_list_all_volumes(
        &self,
        _call: CallContext,
        arguments: storage::storage_pool_list_all_volumes::Arguments,
    ) -> Result<VolumeList, Error> {
        no_flags(arguments.flags, 0)?;
        let pool = self.pool(&arguments.pool)?;
        let view = pool.active().await?;
        let count = u32::try_from(view.volumes.len()).unwrap_or(u32::MAX);
        let volumes = view.volumes.values().filter(|_| arguments.need_results != 0);
        Ok(VolumeList {
            volumes: volumes.map(|volume| volume.to_ref(&pool.name, view.folder())).collect(),
            count,
        })
    }

    async fn storage_vol_create_xml(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_create_xml::Arguments,
    ) -> Result<VolumeRef, Error> {
        let storage::storage_vol_create_xml::Arguments { pool, xml, flags } = arguments;
        self.make_volume(&pool, &xml, flags, None).await
    }

    async fn storage_vol_create_xml_from(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_create_xml_from::Arguments,
    ) -> Result<VolumeRef, Error> {
        let storage::storage_vol_create_xml_from::Arguments { pool, xml, source, flags } = arguments;
        self.make_volume(&pool, &xml, flags, Some(&source)).await
    }

    async fn storage_vol_delete(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_delete::Arguments,
    ) -> Result<(), Error> {
        no_flags(arguments.flags, 0)?;
        self.delete_volume(&arguments.volume).await
    }

    async fn storage_vol_resize(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_resize::Arguments,
    ) -> Result<(), Error> {
        let storage::storage_vol_resize::Arguments { volume, capacity, flags } = arguments;
        self.resize_volume(&volume, capacity, flags).await
    }

    async fn storage_vol_wipe(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_wipe::Arguments,
    ) -> Result<(), Error> {
        no_flags(arguments.flags, 0)?;
        self.wipe_volume(&arguments.volume, 0).await
    }

    async fn storage_vol_wipe_pattern(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_wipe_pattern::Arguments,
    ) -> Result<(), Error> {
        no_flags(arguments.flags, 0)?;
        self.wipe_volume(&arguments.volume, arguments.algorithm).await
    }

    async fn storage_vol_upload(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_upload::Arguments,
    ) -> Result<Descriptor, Error> {
        let storage::storage_vol_upload::Arguments { volume, offset, length, flags } = arguments;
        self.upload_volume(&volume, offset, length, flags).await
    }

    async fn storage_vol_download(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_download::Arguments,
    ) -> Result<Descriptor, Error> {
        let storage::storage_vol_download::Arguments { volume, offset, length, flags } = arguments;
        self.download_volume(&volume, offset, length, flags).await
    }

    async fn storage_vol_lookup_by_name(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_lookup_by_name::Arguments,
    ) -> Result<VolumeRef, Error> {
        let pool = self.pool(&arguments.pool)?;
        let (view, volume) = pool.volume(&arguments.name).await?;
        Ok(volume.to_ref(&pool.name, view.folder()))
    }

    async fn storage_vol_lookup_by_key(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_lookup_by_key::Arguments,
    ) -> Result<VolumeRef, Error> {
        self.volume_at("key", &arguments.key).await
    }

    async fn storage_vol_lookup_by_path(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_lookup_by_path::Arguments,
    ) -> Result<VolumeRef, Error> {
        self.volume_at("path", &arguments.path).await
    }

    async fn storage_vol_get_info(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_get_info::Arguments,
    ) -> Result<VolumeInfo, Error> {
        let (_, _, volume) = self.volume(&arguments.volume).await?;
        Ok(volume.info(false))
    }

    async fn storage_vol_get_info_flags(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_get_info_flags::Arguments,
    ) -> Result<VolumeInfo, Error> {
        no_flags(arguments.flags, 1)?;
        let (_, _, volume) = self.volume(&arguments.volume).await?;
        Ok(volume.info(arguments.flags & 1 != 0))
    }

    async fn storage_vol_get_xml_desc(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_get_xml_desc::Arguments,
    ) -> Result<String, Error> {
        no_flags(arguments.flags, 0)?;
        let (_, view, volume) = self.volume(&arguments.volume).await?;
        Ok(volume.to_xml(view.folder()))
    }

    async fn storage_vol_get_path(
        &self,
        _call: CallContext,
        arguments: storage::storage_vol_get_path::Arguments,
    ) -> Result<String, Error> {
        let (_, view, volume) = self.volume(&arguments.volume).await?;
        Ok(volume.path(view.folder()))
    }

    async fn events_subscribe(
        &self,
        call: CallContext,
        _arguments: storage::events_subscribe::Arguments,
    ) -> Result<(), Error> {
        self.environment.events.subscribe(call.events);
        Ok(())
    }

    async fn pools_overview(
        &self,
        _call: CallContext,
        _arguments: storage::pools_overview::Arguments,
    ) -> Result<Vec<PoolOverview>, Error> {
        let overview = |pool: Arc<Pool>| {
            let view = pool.view.get();
            PoolOverview { pool: pool.to_ref(), active: view.is_active(), persistent: view.persistent }
        };
        Ok(self.environment.pools().into_iter().map(overview).collect())
    }
}
