//! What a call is about, for errors: they name the object, whatever the call is.

use crate::types::DomainRef;
use crate::types::network::{NetworkRef, PortRef};
use crate::types::secret::SecretRef;
use crate::types::storage::{PoolRef, VolumeRef};

/// The arguments of a call.
pub trait Object {
    /// What it is about: `domain 'web'`. `None` for the host, say, or for what is to be found.
    fn object(&self) -> Option<String>;
}

/// An argument that names an object.
pub trait Named {
    /// As a person calls it.
    fn named(&self) -> Option<String>;
}

/// Any other argument. A table's macro can't tell them apart by their types; the compiler can: it takes [`Named`] where
/// there is one, since that needs one reference less.
pub trait Unnamed {
    /// Nothing.
    fn named(&self) -> Option<String>;
}

impl<T> Unnamed for &T {
    fn named(&self) -> Option<String> {
        None
    }
}

macro_rules! named {
    ($($type:ident: |$object:ident| $($text:expr),+;)*) => {
        $(impl Named for $type {
            fn named(&self) -> Option<String> {
                let $object = self;
                Some(format!($($text),+))
            }
        })*
    };
}

named! {
    DomainRef: |domain| "domain '{}'", domain.name;
    NetworkRef: |network| "network '{}'", network.name;
    PortRef: |port| "port {} of network '{}'", port.uuid, port.network.name;
    PoolRef: |pool| "pool '{}'", pool.name;
    VolumeRef: |volume| "volume '{}' of pool '{}'", volume.name, volume.pool;
    SecretRef: |secret| "secret {}", secret.uuid;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{domain, storage};
    use crate::types::Uuid;

    #[test]
    fn a_call_tells_what_it_is_about() {
        let web = DomainRef { name: "web".to_owned(), uuid: Uuid([1; 16]), id: 1 };
        let suspend = domain::domain_suspend::Arguments { domain: web.clone() };
        assert_eq!(suspend.object().as_deref(), Some("domain 'web'"));
        assert_eq!(domain::connect_get_version::Arguments {}.object(), None);
        assert_eq!(domain::domain_lookup_by_id::Arguments { id: 7 }.object(), None);
        let pool = PoolRef { name: "images".to_owned(), uuid: Uuid([2; 16]) };
        let source = VolumeRef { pool: "images".to_owned(), name: "a".to_owned(), key: "k".to_owned() };
        let copy =
            storage::storage_vol_create_xml_from::Arguments { pool, xml: String::new(), source, flags: 0 };
        assert_eq!(copy.object().as_deref(), Some("pool 'images'"));
    }
}
