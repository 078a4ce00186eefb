//! An error as libvirt's clients read it.

use crate::error::{Code, Error, Origin};
use crate::types::DomainRef;
use serde::{Deserialize, Serialize};

/// What every error that a client can see is: level "error".
const LEVEL: i32 = 2;

/// The payload of a failed call or stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkError {
    /// `virErrorNumber`.
    pub code: i32,
    /// `virErrorDomain`.
    pub domain: i32,
    /// The text.
    pub message: Option<String>,
    /// How bad it is.
    pub level: i32,
    /// Never there.
    pub object: Option<DomainRef>,
    /// The format of the text.
    pub str1: Option<String>,
    /// What fills it.
    pub str2: Option<String>,
    /// Never there.
    pub str3: Option<String>,
    /// The errno of a system error, else -1.
    pub int1: i32,
    /// -1.
    pub int2: i32,
    /// Never there.
    pub network: Option<(String, crate::types::Uuid)>,
}

impl From<&Error> for NetworkError {
    fn from(error: &Error) -> Self {
        Self {
            code: error.code.0,
            domain: error.origin.0,
            message: Some(error.message.clone()),
            level: LEVEL,
            object: None,
            str1: Some("%s".to_owned()),
            str2: Some(error.message.clone()),
            str3: None,
            int1: if error.code == Code::SYSTEM_ERROR { error.int1 } else { -1 },
            int2: -1,
            network: None,
        }
    }
}

impl From<NetworkError> for Error {
    fn from(error: NetworkError) -> Self {
        let (code, origin) = (Code(error.code), Origin(error.domain));
        let message = error.message.unwrap_or_else(|| format!("error {} without a text", error.code));
        // As libvirt's own clients have it: what a daemon has never heard of is what it does not support.
        let unknown = code == Code::RPC && origin == Origin::RPC && message.starts_with("unknown procedure");
        let int1 = if code == Code::SYSTEM_ERROR { error.int1 } else { 0 };
        Self { code: if unknown { Code::NO_SUPPORT } else { code }, origin, message, int1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_back_as_it_was() {
        let gone = std::io::Error::from_raw_os_error(2);
        for error in [
            Error::new(Code::NO_DOMAIN, Origin::QEMU, "Domain not found: no domain with matching name 'x'"),
            Error::system(Origin::STORAGE, "cannot open /x", &gone),
        ] {
            assert_eq!(Error::from(NetworkError::from(&error)), error);
        }
        let unknown = Error::new(Code::RPC, Origin::RPC, "unknown procedure: 4711");
        assert_eq!(Error::from(NetworkError::from(&unknown)).code, Code::NO_SUPPORT);
    }
}
