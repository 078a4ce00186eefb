//! The secret driver: definitions of secrets, and their values.
//!
//! Owns: the folder of secrets and the key that values are sealed with. A value is in the clear in memory only while it is on
//! its way; nothing that this driver prints, stores or says of a secret holds it.

pub mod definition;
mod keyring;
mod record;
mod seal;
mod store;

use bulkhead_actors::driver::{DriverLogic, Leave, Start};
use bulkhead_actors::events::Fanout;
use bulkhead_actors::object::Object;
use bulkhead_actors::state::Folder;
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::{CallContext, Driver, secret};
use bulkhead_wire::types::secret::{KeyRotation, SecretEvent, SecretList, SecretRef, SecretValue};
use bulkhead_wire::types::{Busy, Uuid};
use definition::{Definition, usage_name};
use keyring::Keyring;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use store::Store;

/// The credential that may hold the key; the broker puts it among the deposits.
const CREDENTIAL: &str = "bulkhead-secret-key";
/// Uuids that are named at most when values stay closed.
const UNOPENED_MAX: usize = 100;

/// `VIR_SECRET_DEFINE_VALIDATE`.
const VALIDATE: u32 = 1;
/// `virConnectListAllSecretsFlags`.
const EPHEMERAL: u32 = 1;
const NO_EPHEMERAL: u32 = 2;
const PRIVATE: u32 = 4;
const NO_PRIVATE: u32 = 8;
/// `virSecretEventLifecycleType`.
const DEFINED: i32 = 0;
const UNDEFINED: i32 = 1;

/// All secrets of a stack.
pub struct Secrets {
    store: Arc<Store>,
    /// Changes, one after the other.
    changes: Object<()>,
    events: Arc<Fanout>,
    /// The uses for which other drivers get values.
    grants: Vec<(Driver, Vec<String>)>,
}

impl DriverLogic for Secrets {
    const DRIVER: Driver = Driver::Secret;

    async fn recover(start: Start) -> Result<Arc<Self>, Error> {
        let Start { welcome, stack, .. } = start;
        let (mut credential, mut shelf) = (None, Vec::new());
        for (name, file) in welcome.deposits {
            match (file.into_owned().map(File::from), Uuid::parse(&name)) {
                (Some(file), _) if name == CREDENTIAL => credential = Some(file),
                (Some(file), Some(uuid)) => shelf.push((uuid, file)),
                _ => tracing::warn!(name, "unknown deposit"),
            }
        }
        let system = |error| Error::system(Origin::SECRET, "The folder of secrets", &error);
        let folder = Folder::open(&welcome.layout.lib.join("secret"), "secret", ".secret").map_err(system)?;
        let keys = Folder::open(&welcome.layout.etc.join("secret"), "secret_key", ".key").map_err(system)?;
        let keys = Keyring::open(keys, credential);
        let store = Store::recover(folder, keys, stack, shelf).await?;
        Ok(Arc::new(Self {
            store: Arc::new(store),
            changes: Object::spawn("secrets", |_| ()),
            events: Arc::default(),
            grants: welcome.grants,
        }))
    }

    fn dispatch(self: Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        secret::dispatch(self, call, body, files)
    }

    fn busy(&self) -> Vec<Busy> {
        self.changes.busy().into_iter().collect()
    }

    async fn leave(&self, _reason: Leave) {}
}

fn lagged(missed: u64) -> SecretEvent {
    SecretEvent::Lagged { missed }
}

fn no_flags(flags: u32, known: u32) -> Result<(), Error> {
    if flags & !known == 0 {
        return Ok(());
    }
    let message = format!("Flags {:#x} are not known to this call", flags & !known);
    Err(Error::new(Code::INVALID_ARG, Origin::SECRET, message))
}

/// Does a definition pass `virConnectListAllSecretsFlags`? Of each pair none or both let all pass.
fn passes(flags: u32, definition: &Definition) -> bool {
    let pair = |yes: u32, no: u32, is: bool| {
        let wanted = flags & (yes | no);
        wanted == 0 || wanted & if is { yes } else { no } != 0
    };
    pair(EPHEMERAL, NO_EPHEMERAL, definition.ephemeral) && pair(PRIVATE, NO_PRIVATE, definition.private)
}

impl Secrets {
    fn lifecycle(events: &Fanout, secret: SecretRef, event: i32) {
        events.publish(&SecretEvent::Lifecycle { secret, event, detail: 0 }, lagged);
    }
}

impl secret::Server for Secrets {
    async fn secret_define_xml(
        &self,
        _call: CallContext,
        arguments: secret::secret_define_xml::Arguments,
    ) -> Result<SecretRef, Error> {
        no_flags(arguments.flags, VALIDATE)?;
        let (store, events) = (Arc::clone(&self.store), Arc::clone(&self.events));
        let define = async move {
            let defined = store.define(arguments.xml.as_bytes(), arguments.flags & VALIDATE != 0).await?;
            Self::lifecycle(&events, defined.clone(), DEFINED);
            Ok(defined)
        };
        self.changes.run("define", move |()| Box::pin(define)).await?
    }

    async fn secret_undefine(
        &self,
        _call: CallContext,
        arguments: secret::secret_undefine::Arguments,
    ) -> Result<(), Error> {
        let (store, events) = (Arc::clone(&self.store), Arc::clone(&self.events));
        let undefine = async move {
            let undefined = store.undefine(arguments.secret.uuid).await?;
            Self::lifecycle(&events, undefined, UNDEFINED);
            Ok(())
        };
        self.changes.run("undefine", move |()| Box::pin(undefine)).await?
    }

    async fn secret_set_value(
        &self,
        _call: CallContext,
        arguments: secret::secret_set_value::Arguments,
    ) -> Result<(), Error> {
        let secret::secret_set_value::Arguments { secret, value, flags } = arguments;
        no_flags(flags, 0)?;
        let (store, events) = (Arc::clone(&self.store), Arc::clone(&self.events));
        let set = async move {
            let secret = store.set_value(secret.uuid, value).await?;
            events.publish(&SecretEvent::ValueChanged { secret }, lagged);
            Ok(())
        };
        self.changes.run("set value", move |()| Box::pin(set)).await?
    }

    async fn secret_get_value(
        &self,
        _call: CallContext,
        arguments: secret::secret_get_value::Arguments,
    ) -> Result<SecretValue, Error> {
        no_flags(arguments.flags, 0)?;
        self.store.value(arguments.secret.uuid)
    }

    async fn connect_num_of_secrets(
        &self,
        _call: CallContext,
        _arguments: secret::connect_num_of_secrets::Arguments,
    ) -> Result<i32, Error> {
        Ok(i32::try_from(self.store.list(|_| true).len()).unwrap_or(i32::MAX))
    }

    async fn connect_list_secrets(
        &self,
        _call: CallContext,
        arguments: secret::connect_list_secrets::Arguments,
    ) -> Result<Vec<String>, Error> {
        let most = usize::try_from(arguments.max_uuids).map_err(|_| {
            Error::new(Code::INVALID_ARG, Origin::SECRET, "A list of less than no secrets was asked for")
        })?;
        Ok(self.store.list(|_| true).into_iter().take(most).map(|secret| secret.uuid.to_string()).collect())
    }

    async fn connect_list_all_secrets(
        &self,
        _call: CallContext,
        arguments: secret::connect_list_all_secrets::Arguments,
    ) -> Result<SecretList, Error> {
        no_flags(arguments.flags, EPHEMERAL | NO_EPHEMERAL | PRIVATE | NO_PRIVATE)?;
        let mut secrets = self.store.list(|definition| passes(arguments.flags, definition));
        let count = u32::try_from(secrets.len()).unwrap_or(u32::MAX);
        if arguments.need_results == 0 {
            secrets.clear();
        }
        Ok(SecretList { secrets, count })
    }

    async fn secret_lookup_by_uuid(
        &self,
        _call: CallContext,
        arguments: secret::secret_lookup_by_uuid::Arguments,
    ) -> Result<SecretRef, Error> {
        self.store.definition(arguments.uuid).map(|definition| definition.to_ref())
    }

    async fn secret_lookup_by_usage(
        &self,
        _call: CallContext,
        arguments: secret::secret_lookup_by_usage::Arguments,
    ) -> Result<SecretRef, Error> {
        let found = self.store.by_usage(arguments.usage_type, &arguments.usage_id)?;
        Ok(found.to_ref())
    }

    async fn secret_get_xml_desc(
        &self,
        _call: CallContext,
        arguments: secret::secret_get_xml_desc::Arguments,
    ) -> Result<String, Error> {
        no_flags(arguments.flags, 0)?;
        self.store.definition(arguments.secret.uuid).map(|definition| definition.to_xml())
    }

    async fn secret_value_for(
        &self,
        call: CallContext,
        arguments: secret::secret_value_for::Arguments,
    ) -> Result<SecretValue, Error> {
        let secret::secret_value_for::Arguments { secret, usage_type } = arguments;
        let usage = usage_name(usage_type).unwrap_or("unknown");
        let granted = |(driver, usages): &(Driver, Vec<String>)| {
            Some(*driver) == call.caller && usages.iter().any(|granted| granted == usage)
        };
        if !self.grants.iter().any(granted) {
            let who =
                call.caller.map_or_else(|| "A client".to_owned(), |driver| format!("The {driver} driver"));
            let message = format!("{who} gets no secrets of usage type '{usage}': its manifest grants none");
            return Err(Error::new(Code::OPERATION_DENIED, Origin::SECRET, message));
        }
        self.store.value_for(&secret, usage_type)
    }

    async fn secret_rotate_key(
        &self,
        _call: CallContext,
        _arguments: secret::secret_rotate_key::Arguments,
    ) -> Result<KeyRotation, Error> {
        let store = Arc::clone(&self.store);
        let rotate = move |job: Arc<bulkhead_actors::job::Job>| async move {
            let secrets = store.begin_rotation()?;
            let total = secrets.len() as u64;
            let mut done = KeyRotation { values: 0, unopened: Vec::new() };
            for uuid in secrets {
                match store.reseal(uuid).await {
                    Ok(()) => done.values += 1,
                    Err(error) => {
                        tracing::error!(%uuid, %error, "value stays under its old key");
                        if done.unopened.len() < UNOPENED_MAX {
                            done.unopened.push(uuid.to_string());
                        }
                    }
                }
                job.report(done.values, total);
                tokio::task::yield_now().await;
            }
            if done.unopened.is_empty() {
                store.end_rotation()?;
            }
            Ok(done)
        };
        self.changes.run_job("rotate key", move |(), job| Box::pin(rotate(job))).await?
    }

    async fn events_subscribe(
        &self,
        call: CallContext,
        _arguments: secret::events_subscribe::Arguments,
    ) -> Result<(), Error> {
        self.events.subscribe(call.events);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_let_pass_what_stock_lets_pass() {
        let definition = |ephemeral, private| Definition {
            uuid: Uuid::default(),
            ephemeral,
            private,
            description: None,
            usage_type: 0,
            usage_id: String::new(),
        };
        // Two secrets that stay, one of them private: how many stock lists for each flag value.
        let secrets = [definition(false, false), definition(false, true)];
        let counts = [2, 0, 2, 2, 1, 0, 1, 1, 1, 0, 1, 1, 2, 0, 2, 2];
        for (flags, count) in (0..).zip(counts) {
            assert_eq!(secrets.iter().filter(|secret| passes(flags, secret)).count(), count, "{flags}");
        }
    }
}
