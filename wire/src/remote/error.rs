//! An error as libvirt's clients read it.

use crate::error::{Code, Error};
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
