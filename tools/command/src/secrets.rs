//! The actions on secrets.

use crate::domains::read_xml;
use crate::output::Output;
use anyhow::{Context, Result};
use bulkhead::Connection;
use bulkhead::Secrets;
use bulkhead::wire::table::secret::VALUE_MAX_BYTES;
use bulkhead::wire::types::Uuid;
use bulkhead::wire::types::secret::{SecretRef, SecretValue};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
#[expect(clippy::enum_variant_names, reason = "they stand among the actions on domains")]
pub(crate) enum SecretAction {
    /// Define a secret, or give it a new definition
    SecretDefine {
        /// Its XML
        file: PathBuf,
        /// Refuse what the schema does not have
        #[arg(long)]
        validate: bool,
    },
    /// List secrets
    SecretList {
        /// Only those that are never stored on disk
        #[arg(long, conflicts_with = "no_ephemeral")]
        ephemeral: bool,
        /// Only those that are stored on disk
        #[arg(long)]
        no_ephemeral: bool,
        /// Only those whose value is given to no client
        #[arg(long, conflicts_with = "no_private")]
        private: bool,
        /// Only those whose value may be read
        #[arg(long)]
        no_private: bool,
    },
    /// Give a secret a value: the bytes of a file, or of standard input
    SecretSetValue {
        #[command(flatten)]
        secret: NamedSecret,
        /// Where the value is; an argument would be seen by everybody
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Write a secret's value to standard output, byte for byte
    SecretGetValue(NamedSecret),
    /// Remove a secret with its value
    SecretUndefine(NamedSecret),
    /// Print a secret's XML, which never holds its value
    SecretDumpxml(NamedSecret),
    /// Store all values under a new key
    SecretRotateKey,
}

#[derive(Debug, Args)]
pub(crate) struct NamedSecret {
    /// The secret's uuid, or what it is for
    secret: String,
}

/// Names of `virSecretUsageType`.
const USAGES: [&str; 6] = ["none", "volume", "ceph", "iscsi", "tls", "vtpm"];

fn usage(secret: &SecretRef) -> &'static str {
    usize::try_from(secret.usage_type)
        .ok()
        .and_then(|number| USAGES.get(number))
        .copied()
        .unwrap_or("unknown")
}

/// A secret by uuid, or by the one thing of any kind that it is for.
async fn find(secrets: &Secrets, named: &NamedSecret) -> Result<SecretRef> {
    if let Some(uuid) = Uuid::parse(&named.secret) {
        return Ok(secrets.secret_lookup_by_uuid(uuid).await?);
    }
    for kind in 1..i32::try_from(USAGES.len())? {
        if let Ok(secret) = secrets.secret_lookup_by_usage(kind, named.secret.clone()).await {
            return Ok(secret);
        }
    }
    anyhow::bail!("no secret has the uuid '{0}' or is for '{0}'", named.secret)
}

fn read_value(file: &Path) -> Result<SecretValue> {
    // One byte more than is allowed tells that there is too much; nothing grows, so nothing is left behind.
    let mut bytes = Vec::with_capacity(VALUE_MAX_BYTES + 1);
    let limit = u64::try_from(VALUE_MAX_BYTES)? + 1;
    let read = if file == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    let value = SecretValue::new(bytes);
    read.with_context(|| file.display().to_string())?;
    Ok(value)
}

pub(crate) async fn act(stack: &Connection, action: SecretAction, output: &Output) -> Result<()> {
    let secrets = stack.secrets();
    match action {
        SecretAction::SecretDefine { file, validate } => {
            let secret = secrets.secret_define_xml(read_xml(&file)?, u32::from(validate)).await?;
            report(output, &secret, "defined")
        }
        SecretAction::SecretList { ephemeral, no_ephemeral, private, no_private } => {
            let flags = u32::from(ephemeral)
                | u32::from(no_ephemeral) << 1
                | u32::from(private) << 2
                | u32::from(no_private) << 3;
            let list = secrets.connect_list_all_secrets(1, flags).await?.secrets;
            if output.json {
                let value = |secret: &SecretRef| json!({ "uuid": secret.uuid.to_string(), "usage": usage(secret), "id": secret.usage_id });
                return output.value(&list.iter().map(value).collect::<Vec<_>>());
            }
            let row = |secret: &SecretRef| {
                vec![secret.uuid.to_string(), format!("{} {}", usage(secret), secret.usage_id)]
            };
            output.table(&["UUID", "Usage"], &list.iter().map(row).collect::<Vec<_>>())
        }
        SecretAction::SecretSetValue { secret, file } => {
            let secret = find(&secrets, &secret).await?;
            secrets.secret_set_value(secret.clone(), read_value(&file)?, 0).await?;
            report(output, &secret, "has a new value")
        }
        SecretAction::SecretGetValue(secret) => {
            let secret = find(&secrets, &secret).await?;
            let value = secrets.secret_get_value(secret, 0).await?;
            if output.json {
                output.value(&json!({ "value": value.expose() }))
            } else {
                output.raw(value.expose())
            }
        }
        SecretAction::SecretUndefine(secret) => {
            let secret = find(&secrets, &secret).await?;
            secrets.secret_undefine(secret.clone()).await?;
            report(output, &secret, "undefined")
        }
        SecretAction::SecretDumpxml(secret) => {
            let secret = find(&secrets, &secret).await?;
            let xml = secrets.secret_get_xml_desc(secret, 0).await?;
            if output.json { output.value(&json!({ "xml": xml })) } else { output.raw(xml.as_bytes()) }
        }
        SecretAction::SecretRotateKey => {
            let done = secrets.secret_rotate_key().await?;
            if output.json {
                return output.value(&done);
            }
            output.line(&format!("{} values are stored under the new key", done.values))?;
            for uuid in done.unopened {
                output.line(&format!("the value of {uuid} could not be opened and stays as it is"))?;
            }
            Ok(())
        }
    }
}

fn report(output: &Output, secret: &SecretRef, done: &str) -> Result<()> {
    if output.json {
        output.value(&json!({ "uuid": secret.uuid.to_string(), "usage": usage(secret), "id": secret.usage_id, "done": done }))
    } else {
        output.line(&format!("Secret {} {done}", secret.uuid))
    }
}
