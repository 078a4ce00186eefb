//! The secrets of a guest that starts: fetched from the secret driver, and handed to QEMU and the TPM's emulator.
//!
//! QEMU gets the values in its arguments, each encrypted with a key that is made for this one start and that QEMU alone
//! reads, from a file in memory. Nothing of it is on disk, and this driver forgets both when they are handed over.

use super::Guest;
use crate::args::builder::MASTER_KEY;
use crate::args::{CommandLine, SecretSource};
use crate::base64::base64;
use aes::Aes256;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::{Driver, secret};
use bulkhead_wire::types::secret::{SecretLookup, SecretValue};
use cbc::Encryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeEncrypt, KeyIvInit};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;
use zeroize::Zeroizing;

/// Bytes of QEMU's key, and of what each value's encryption begins with.
const KEY_BYTES: usize = 32;
const VECTOR_BYTES: usize = 16;

impl Guest {
    /// Puts the values of all secrets into the arguments; the key that they are under, if there are any, for QEMU to inherit.
    pub(super) async fn give_secrets(
        &self,
        command: &mut CommandLine,
    ) -> Result<Option<(String, Vec<Descriptor>)>, Error> {
        if command.secrets.is_empty() {
            return Ok(None);
        }
        let key = self.random::<KEY_BYTES>()?;
        for used in std::mem::take(&mut command.secrets) {
            let value = match &used.source {
                SecretSource::Stored { lookup, usage_type } => {
                    self.secret(lookup.clone(), *usage_type).await?
                }
                SecretSource::Text(text) => SecretValue::new(text.clone().into_bytes()),
            };
            let vector = self.random::<VECTOR_BYTES>()?;
            command.seal(&used, &base64(&seal(&key, &vector, value.expose())), &base64(&*vector));
        }
        Ok(Some((MASTER_KEY.to_owned(), vec![self.in_memory(&*key)?])))
    }

    /// A secret's value. Without one the guest does not start, and the error says which it is.
    pub(super) async fn secret(&self, lookup: SecretLookup, usage_type: i32) -> Result<SecretValue, Error> {
        let value = async {
            let driver = secret::Client(self.environment.stack.peer_on_demand(Driver::Secret).await?);
            driver.secret_value_for(lookup, usage_type).await
        };
        value.await.map_err(|error| self.named(&error))
    }

    /// A file in memory that holds this and has no name.
    pub(super) fn in_memory(&self, bytes: &[u8]) -> Result<Descriptor, Error> {
        let made = || {
            let file = File::from(memfd_create("secret", MFdFlags::MFD_CLOEXEC)?);
            // Where it is read from stays its beginning.
            file.write_all_at(bytes, 0)?;
            Ok(Descriptor::new(file.into()))
        };
        made()
            .map_err(|error| Error::system(Origin::QEMU, format!("Domain '{}': a secret", self.name), &error))
    }

    fn random<const BYTES: usize>(&self) -> Result<Zeroizing<[u8; BYTES]>, Error> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        getrandom::fill(&mut *bytes).map_err(|error| {
            let message = format!("Domain '{}': no random bytes for its master key: {error}", self.name);
            Error::new(Code::INTERNAL, Origin::QEMU, message)
        })?;
        Ok(bytes)
    }
}

fn seal(key: &[u8; KEY_BYTES], vector: &[u8; VECTOR_BYTES], value: &[u8]) -> Vec<u8> {
    Encryptor::<Aes256>::new(key.into(), vector.into()).encrypt_padded_vec::<Pkcs7>(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_sealed_as_qemu_opens_it() {
        // Computed with OpenSSL: `openssl enc -aes-256-cbc -K 0001..1f -iv a0a1..af`.
        let key = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let vector = std::array::from_fn(|index| 0xa0 + u8::try_from(index).unwrap());
        assert_eq!(base64(&seal(&key, &vector, b"pass1234")), "enbaGpPqBruboQ2zUEmonw==");
        // A whole block is followed by one of padding alone.
        assert_eq!(seal(&key, &vector, &[7; 16]).len(), 32);
    }
}
