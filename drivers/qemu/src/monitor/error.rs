//! Why a request got no answer.

use bulkhead_wire::error::{Code, Error, Origin};
use std::time::Duration;
use thiserror::Error as ThisError;

/// Longest text of QEMU's that is repeated in an error.
const QUOTE_LIMIT: usize = 512;

/// Why a connection ended. Every call that was under way gets it.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum Cause {
    /// QEMU closed its end.
    #[error("QEMU closed its monitor, most likely because it ended; its log tells why")]
    EndOfFile,
    /// The socket failed.
    #[error("the monitor socket failed: {0}")]
    Socket(String),
    /// QEMU said something that the protocol forbids or that exceeds a bound, so nothing it says can be used.
    #[error("QEMU broke the monitor protocol: {0}; the guest must be ended without the monitor's help")]
    Offence(String),
    /// Every handle was dropped.
    #[error("the monitor was given up by its owner")]
    Abandoned,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum MonitorError {
    /// The connection is gone; whether QEMU has carried the command out is not known.
    #[error("monitor command '{command}' can't be answered: {cause}")]
    Closed {
        /// The command.
        command: String,
        /// Why the connection ended.
        cause: Cause,
    },
    /// QEMU did not answer in time; it may still carry the command out.
    #[error("QEMU did not answer monitor command '{command}' within {after:?}; it is hung or overloaded")]
    Deadline {
        /// The command.
        command: String,
        /// The time it was given.
        after: Duration,
    },
    /// QEMU refused the command.
    #[error("QEMU refused monitor command '{command}': {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's error class, such as `CommandNotFound`.
        class: String,
        /// QEMU's own text.
        description: String,
    },
    /// Too many requests have no reply yet.
    #[error(
        "monitor command '{command}' was not sent: {pending} earlier ones have no reply yet; QEMU is hung or overloaded"
    )]
    Busy {
        /// The command.
        command: String,
        /// How many wait.
        pending: usize,
    },
    /// QEMU's answer has not the form that the command's documentation promises.
    #[error("QEMU's answer to monitor command '{command}' can't be understood: {reason}")]
    Answer {
        /// The command.
        command: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The command can't be sent as it stands.
    #[error("monitor command '{command}' can't be sent: {reason}")]
    Unsendable {
        /// The command.
        command: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<&MonitorError> for Error {
    fn from(error: &MonitorError) -> Self {
        let code = match error {
            MonitorError::Closed { .. } => Code::OPERATION_FAILED,
            MonitorError::Deadline { .. } => Code::OPERATION_TIMEOUT,
            MonitorError::Busy { .. } => Code::RESOURCE_BUSY,
            MonitorError::Refused { .. } | MonitorError::Answer { .. } | MonitorError::Unsendable { .. } => {
                Code::INTERNAL
            }
        };
        Self::new(code, Origin::QEMU, error.to_string())
    }
}

/// The text of somebody who is not trusted, short and on one line, fit for an error.
pub(super) fn quote(text: &str) -> String {
    let mut quoted: String =
        text.chars().take(QUOTE_LIMIT).map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if text.chars().nth(QUOTE_LIMIT).is_some() {
        quoted.push('…');
    }
    quoted
}
