//! All secrets: what is known of them in memory, and their records, on disk or, of ephemeral ones, on the broker's shelf.
//!
//! Memory holds definitions and no values: a value is opened for the one who asks and wiped when it was given. A secret is one
//! record with definition and value, replaced whole; one that becomes ephemeral, or no longer is, stands in both places for a
//! moment, and the higher generation counts.

use crate::definition::{Definition, usage_name};
use crate::keyring::Keyring;
use crate::record::Record;
use crate::seal::{Key, KeyId, Keys, random_uuid};
use bulkhead_actors::fault;
use bulkhead_actors::stack::Stack;
use bulkhead_actors::state::Folder;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::secret::VALUE_MAX_BYTES;
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::secret::{SecretLookup, SecretRef, SecretValue};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Secrets that are there at one time; libvirt's lists hold no more.
const SECRETS_MAX: usize = 16_384;
/// A record on the shelf is no larger.
const RECORD_MAX_BYTES: u64 = 4 << 20;

/// What memory holds of a secret.
#[derive(Debug, Clone)]
struct Known {
    definition: Definition,
    generation: u64,
    /// The key that its value is sealed with, if it has one.
    sealed: Option<KeyId>,
    /// An ephemeral secret's record, its value sealed like any other.
    record: Option<Vec<u8>>,
}

#[derive(Default)]
struct Index {
    secrets: BTreeMap<Uuid, Known>,
    by_usage: HashMap<(i32, String), Uuid>,
    /// Files that are there and can't be read, with the reason.
    damaged: BTreeMap<Uuid, String>,
}

/// All secrets.
pub(crate) struct Store {
    folder: Folder,
    stack: Stack,
    index: RwLock<Index>,
    keys: RwLock<Keyring>,
}

fn error(code: Code, message: impl Into<String>) -> Error {
    Error::new(code, Origin::SECRET, message)
}

fn not_found(uuid: Uuid) -> Error {
    error(Code::NO_SECRET, format!("There is no secret with uuid {uuid}"))
}

impl Store {
    /// Finds what is on disk and on the shelf.
    pub(crate) async fn recover(
        folder: Folder,
        keys: Keyring,
        stack: Stack,
        shelf: Vec<(Uuid, File)>,
    ) -> Result<Self, Error> {
        if let Err(reason) = keys.keys() {
            tracing::error!(reason, "values of secrets can't be had");
        }
        let store = Self { folder, stack, index: RwLock::default(), keys: RwLock::new(keys) };
        let system = |error| Error::system(Origin::SECRET, "The folder of secrets", &error);
        for (number, name) in store.folder.names().map_err(system)?.into_iter().enumerate() {
            let Some(uuid) = Uuid::parse(&name).filter(|uuid| uuid.to_string() == name) else {
                tracing::warn!(file = %store.folder.path_of(&name).display(), "no secret has this name");
                continue;
            };
            let read = store.folder.read(&name).map_err(|error| error.to_string());
            match read.and_then(|bytes| Record::parse(uuid, &bytes.unwrap_or_default())) {
                Ok(record) => store.note(&record, None),
                Err(reason) => {
                    tracing::error!(file = %store.folder.path_of(&name).display(), reason, "secret can't be read");
                    store.write_index().damaged.insert(uuid, reason);
                }
            }
            // The heart must beat whatever their number.
            if number % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        for (uuid, file) in shelf {
            if let Err(reason) = store.adopt(uuid, &file).await {
                tracing::error!(%uuid, reason, "ephemeral secret can't be read");
            }
        }
        Ok(store)
    }

    /// Takes a record from the shelf, unless a later one is on disk.
    async fn adopt(&self, uuid: Uuid, file: &File) -> Result<(), String> {
        let size = file.metadata().map_err(|error| error.to_string())?.len();
        if size > RECORD_MAX_BYTES {
            return Err(format!("its record has {size} bytes"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(|error| error.to_string())?;
        let record = Record::parse(uuid, &bytes)?;
        let on_disk = self.read_index().secrets.get(&uuid).map(|known| known.generation);
        if on_disk.is_some_and(|generation| generation >= record.generation) {
            let _ = self.stack.withdraw(&uuid.to_string()).await;
            return Ok(());
        }
        self.folder.remove(&uuid.to_string()).map_err(|error| error.to_string())?;
        self.note(&record, Some(bytes));
        Ok(())
    }

    fn read_index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_index(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, record: &Record, bytes: Option<Vec<u8>>) {
        let definition = record.definition.clone();
        let (uuid, usage) = (definition.uuid, (definition.usage_type, definition.usage_id.clone()));
        let sealed = record.value.as_ref().map(|value| value.key);
        let known = Known { definition, generation: record.generation, sealed, record: bytes };
        let mut index = self.write_index();
        if let Some(before) = index.secrets.insert(uuid, known) {
            index.by_usage.remove(&(before.definition.usage_type, before.definition.usage_id));
        }
        if usage.0 != 0 {
            index.by_usage.insert(usage, uuid);
        }
    }

    /// Definitions that pass a filter, in the order of their uuids.
    pub(crate) fn list(&self, wanted: impl Fn(&Definition) -> bool) -> Vec<SecretRef> {
        let index = self.read_index();
        let definitions = index.secrets.values().map(|known| &known.definition);
        definitions.filter(|definition| wanted(definition)).map(Definition::to_ref).collect()
    }

    pub(crate) fn definition(&self, uuid: Uuid) -> Result<Definition, Error> {
        self.known(uuid).map(|known| known.definition)
    }

    fn known(&self, uuid: Uuid) -> Result<Known, Error> {
        let index = self.read_index();
        if let Some(known) = index.secrets.get(&uuid) {
            return Ok(known.clone());
        }
        Err(index.damaged.get(&uuid).map_or_else(|| not_found(uuid), |reason| self.damaged(uuid, reason)))
    }

    fn damaged(&self, uuid: Uuid, reason: &str) -> Error {
        let path = self.folder.path_of(&uuid.to_string());
        let message = format!(
            "Secret {uuid}: its file {} can't be read ({reason}); put a good copy there, or move it away, and start the driver anew",
            path.display()
        );
        error(Code::NO_SECRET, message)
    }

    pub(crate) fn by_usage(&self, usage_type: i32, usage_id: &str) -> Result<Definition, Error> {
        let index = self.read_index();
        let found = index.by_usage.get(&(usage_type, usage_id.to_owned()));
        found.and_then(|uuid| index.secrets.get(uuid)).map(|known| known.definition.clone()).ok_or_else(
            || {
                let kind = usage_name(usage_type).unwrap_or("unknown");
                error(Code::NO_SECRET, format!("There is no secret for the {kind} '{usage_id}'"))
            },
        )
    }

    fn record(&self, uuid: Uuid) -> Result<Record, Error> {
        let known = self.known(uuid)?;
        let bytes = match known.record {
            Some(bytes) => Some(bytes),
            None => {
                let system = |error| Error::system(Origin::SECRET, format!("Secret {uuid}"), &error);
                self.folder.read(&uuid.to_string()).map_err(system)?
            }
        };
        let bytes = bytes.ok_or_else(|| self.damaged(uuid, "it has been removed"))?;
        Record::parse(uuid, &bytes).map_err(|reason| self.damaged(uuid, &reason))
    }

    /// Has something done with the keys; if it fails, once more with the key file read anew.
    fn with_keys<R>(&self, uuid: Uuid, work: impl Fn(&mut Keyring) -> Result<R, String>) -> Result<R, Error> {
        let mut ring = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut ring).or_else(|_| {
            ring.load();
            work(&mut ring)
        });
        done.map_err(|reason| {
            let message = format!(
                "The value of secret {uuid} can't be had: {reason} (keys are read from {})",
                ring.place()
            );
            error(Code::OPERATION_FAILED, message)
        })
    }

    fn open(&self, record: &Record) -> Result<Option<SecretValue>, Error> {
        let Some(sealed) = &record.value else { return Ok(None) };
        let uuid = record.definition.uuid;
        self.with_keys(uuid, |ring| ring.keys()?.open(record.place(), sealed)).map(Some)
    }

    fn seal(&self, record: &mut Record, value: &SecretValue) -> Result<(), Error> {
        let uuid = record.definition.uuid;
        let sealed = self.with_keys(uuid, |ring| {
            if ring.keys()?.current().is_none() {
                self.may_make_key(ring.keys()?)?;
                ring.make()?;
            }
            ring.keys()?.current().ok_or("there is no key")?.seal(record.place(), value)
        })?;
        record.value = Some(sealed);
        Ok(())
    }

    /// A new key beside values that are sealed with a lost one would hide that it is lost.
    fn may_make_key(&self, keys: &Keys) -> Result<(), String> {
        let sealed = || self.read_index().secrets.values().any(|known| known.sealed.is_some());
        if keys.current().is_none() && sealed() {
            return Err("the key is missing and there are values sealed with it; put it back".to_owned());
        }
        Ok(())
    }

    /// Stores a record, in its place and no other.
    async fn store(&self, record: &Record) -> Result<(), Error> {
        let uuid = record.definition.uuid;
        let name = uuid.to_string();
        let before = self.read_index().secrets.get(&uuid).map(|known| known.record.is_some());
        let bytes = record.to_bytes().map_err(|reason| error(Code::INTERNAL, reason))?;
        let system = |what: &'static str| {
            move |failed: std::io::Error| {
                Error::system(Origin::SECRET, format!("Secret {uuid}: {what}"), &failed)
            }
        };
        if record.definition.ephemeral {
            fault::point("shelf", "before_deposit");
            let file = memory_file(&bytes).map_err(system("no memory for it"))?;
            self.stack.deposit(&name, file).await?;
            fault::point("shelf", "after_deposit");
            if before == Some(false) {
                self.folder.remove(&name).map_err(system("its file can't be removed"))?;
            }
            self.note(record, Some(bytes));
        } else {
            self.folder.write(&name, &bytes).map_err(system("it can't be written"))?;
            if before == Some(true) {
                fault::point("shelf", "before_withdraw");
                self.stack.withdraw(&name).await?;
                fault::point("shelf", "after_withdraw");
            }
            self.note(record, None);
        }
        Ok(())
    }

    /// Defines a secret or gives it another definition; its value stays.
    pub(crate) async fn define(&self, text: &[u8], strict: bool) -> Result<SecretRef, Error> {
        let fresh = || random_uuid().map_err(|reason| error(Code::INTERNAL, reason));
        let definition = Definition::read(text, strict, fresh)?;
        let uuid = definition.uuid;
        let before = match self.known(uuid) {
            Ok(known) => Some(known),
            Err(_) if !self.read_index().damaged.contains_key(&uuid) => None,
            Err(damaged) => return Err(damaged),
        };
        self.check(&definition, before.as_ref().map(|known| &known.definition))?;
        let reference = definition.to_ref();
        let mut record = Record::new(definition, before.as_ref().map_or(1, |known| known.generation + 1));
        if before.is_some()
            && let Some(value) = self.open(&self.record(uuid)?)?
        {
            // The definition is sealed with the value, so a new one takes a new sealing.
            self.seal(&mut record, &value)?;
        }
        self.store(&record).await?;
        Ok(reference)
    }

    fn check(&self, definition: &Definition, before: Option<&Definition>) -> Result<(), Error> {
        let refuse = |message: String| Err(error(Code::INTERNAL, message));
        let uuid = definition.uuid;
        if let Some(before) = before {
            if before.usage_id != definition.usage_id {
                return refuse(format!(
                    "Secret {uuid} is for '{}', not for '{}'; undefine it first",
                    before.usage_id, definition.usage_id
                ));
            }
            if before.private && !definition.private {
                return refuse(format!(
                    "Secret {uuid} is private, which can't be taken back; undefine it first"
                ));
            }
        } else if self.read_index().secrets.len() >= SECRETS_MAX {
            return refuse(format!("There are {SECRETS_MAX} secrets already; undefine some"));
        }
        if definition.usage_type != 0
            && let Ok(other) = self.by_usage(definition.usage_type, &definition.usage_id)
            && other.uuid != uuid
        {
            return refuse(format!(
                "Secret {} is for '{}' already; undefine it first",
                other.uuid, other.usage_id
            ));
        }
        Ok(())
    }

    /// Removes a secret with its value.
    pub(crate) async fn undefine(&self, uuid: Uuid) -> Result<SecretRef, Error> {
        let known = self.known(uuid)?;
        if known.record.is_some() {
            fault::point("shelf", "before_withdraw");
            self.stack.withdraw(&uuid.to_string()).await?;
            fault::point("shelf", "after_withdraw");
        } else {
            let removed = self.folder.remove(&uuid.to_string());
            removed
                .map_err(|error| Error::system(Origin::SECRET, format!("Secret {uuid}: its file"), &error))?;
        }
        let mut index = self.write_index();
        index.secrets.remove(&uuid);
        index.by_usage.remove(&(known.definition.usage_type, known.definition.usage_id.clone()));
        Ok(known.definition.to_ref())
    }

    /// Gives a secret a value. One whose present value can't be opened keeps it: its owner may still find the key.
    pub(crate) async fn set_value(&self, uuid: Uuid, value: SecretValue) -> Result<SecretRef, Error> {
        if value.expose().len() > VALUE_MAX_BYTES {
            let size = value.expose().len();
            let message =
                format!("Secret {uuid}: a value of {size} bytes; at most {VALUE_MAX_BYTES} are allowed");
            return Err(error(Code::INVALID_ARG, message));
        }
        let before = self.record(uuid)?;
        drop(self.open(&before)?);
        let mut record = Record::new(before.definition, before.generation + 1);
        self.seal(&mut record, &value)?;
        drop(value);
        self.store(&record).await?;
        Ok(record.definition.to_ref())
    }

    /// The value, for a client.
    pub(crate) fn value(&self, uuid: Uuid) -> Result<SecretValue, Error> {
        let record = self.record(uuid)?;
        if record.definition.private {
            let message = format!("Secret {uuid} is private: its value is given to no client");
            return Err(error(Code::INVALID_SECRET, message));
        }
        self.opened(&record)
    }

    /// The value, for a driver that was granted this use.
    pub(crate) fn value_for(&self, lookup: &SecretLookup, usage_type: i32) -> Result<SecretValue, Error> {
        let uuid = match lookup {
            SecretLookup::Uuid(uuid) => *uuid,
            SecretLookup::Usage(usage) => self.by_usage(usage_type, usage)?.uuid,
        };
        let record = self.record(uuid)?;
        if record.definition.usage_type != usage_type {
            let name = |number| usage_name(number).unwrap_or("unknown");
            let (has, wants) = (name(record.definition.usage_type), name(usage_type));
            let message = format!("Secret {uuid} is of usage type '{has}', and '{wants}' is needed here");
            return Err(Error::new(Code::INVALID_ARG, Origin::NONE, message));
        }
        self.opened(&record)
    }

    fn opened(&self, record: &Record) -> Result<SecretValue, Error> {
        self.open(record)?.ok_or_else(|| {
            let uuid = record.definition.uuid;
            error(Code::NO_SECRET, format!("Secret {uuid} has no value yet; set one"))
        })
    }

    /// Begins a rotation: from now on values are sealed with another key. The secrets that are to be sealed anew.
    pub(crate) fn begin_rotation(&self) -> Result<Vec<Uuid>, Error> {
        self.rotation(Keyring::begin_rotation)?;
        let current = self.current_key();
        let index = self.read_index();
        let old = index.secrets.iter().filter(|(_, known)| known.sealed.is_some() && known.sealed != current);
        Ok(old.map(|(uuid, _)| *uuid).collect())
    }

    /// Ends a rotation after which nothing is sealed with an older key.
    pub(crate) fn end_rotation(&self) -> Result<(), Error> {
        self.rotation(Keyring::forget_older)
    }

    fn rotation(&self, work: impl FnOnce(&mut Keyring) -> Result<(), String>) -> Result<(), Error> {
        let mut ring = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        ring.load();
        let allowed = ring.keys().and_then(|keys| self.may_make_key(keys));
        let done = allowed.and_then(|()| work(&mut ring));
        done.map_err(|reason| error(Code::OPERATION_FAILED, format!("The key can't be exchanged: {reason}")))
    }

    fn current_key(&self) -> Option<KeyId> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.keys().ok().and_then(|keys| keys.current().map(Key::id))
    }

    /// Seals a secret's value with the present key.
    pub(crate) async fn reseal(&self, uuid: Uuid) -> Result<(), Error> {
        let before = self.record(uuid)?;
        let Some(value) = self.open(&before)? else { return Ok(()) };
        let mut record = Record::new(before.definition, before.generation + 1);
        self.seal(&mut record, &value)?;
        drop(value);
        self.store(&record).await
    }
}

fn memory_file(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("secret", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}
