//! The URIs that name a stack: `qemu:///system`, `qemu:///session`, `qemu:///embed?root=/path`; the first two also with
//! `?socket=/path`, as libvirt has it.

use bulkhead_wire::table::Driver;
use std::path::PathBuf;

/// A stack, and the driver of it that a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// The driver.
    pub driver: Driver,
    /// The stack.
    pub stack: Which,
    /// Where the daemon of libvirt's protocol is, if that is said.
    pub socket: Option<PathBuf>,
}

/// Which stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The host's.
    System,
    /// This user's.
    Session,
    /// An application's own, below this root.
    Embed(PathBuf),
}

/// Why a text is no URI of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("URI '{uri}': {reason}")]
pub struct UriError {
    /// The text.
    pub uri: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Uri {
    /// Reads a URI.
    ///
    /// # Errors
    /// Says what is wrong: the scheme, the driver, the path, the root.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let wrong = |reason: String| UriError { uri: text.to_owned(), reason };
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| wrong("it has no scheme; try 'qemu:///embed?root=/path'".to_owned()))?;
        let (scheme, unix) = scheme.strip_suffix("+unix").map_or((scheme, false), |scheme| (scheme, true));
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err(wrong(format!("the scheme '{scheme}' must consist of the letters a to z")));
        }
        let driver = match scheme {
            "qemu" => Driver::Qemu,
            "network" => Driver::Network,
            "storage" => Driver::Storage,
            "secret" => Driver::Secret,
            "lock" => Driver::Lock,
            other => return Err(wrong(format!("there is no driver '{other}' that can be opened"))),
        };
        let rest = rest.strip_prefix("//").ok_or_else(|| wrong("'//' must follow the scheme".to_owned()))?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !host.is_empty() {
            return Err(wrong(format!("host '{host}': only stacks of this machine can be opened")));
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        match path {
            "/system" | "/session" => {
                let stack = if path == "/system" { Which::System } else { Which::Session };
                Ok(Self { driver, stack, socket: absolute("socket", query).map_err(wrong)? })
            }
            "/embed" if unix => Err(wrong("an embedded stack is reached over no transport".to_owned())),
            "/embed" => {
                let root = absolute("root", query).map_err(wrong)?;
                let root = root.ok_or_else(|| {
                    wrong("'root' is missing: name the folder, as in '?root=/path'".to_owned())
                })?;
                Ok(Self { driver, stack: Which::Embed(root), socket: None })
            }
            other => Err(wrong(format!("the path '{other}' must be /system, /session or /embed"))),
        }
    }
}

/// The one parameter that a URI may have: a path.
fn absolute(wanted: &str, query: &str) -> Result<Option<PathBuf>, String> {
    let mut found = None;
    for (name, value) in query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
    {
        match name {
            name if name != wanted => return Err(format!("the parameter '{name}' is unknown")),
            _ if found.is_none() => found = Some(decode(value)?),
            _ => return Err(format!("'{wanted}' is given twice")),
        }
    }
    let Some(path) = found.filter(|path| !path.is_empty()) else { return Ok(None) };
    if !path.starts_with('/') {
        return Err(format!("the {wanted} '{path}' must be an absolute path"));
    }
    Ok(Some(PathBuf::from(path)))
}

/// Resolves `%20` and the like. A lone percent sign stands for itself, as people type paths.
fn decode(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        let digit = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(index + 1), digit(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                index += 3;
            }
            _ => {
                out.push(*byte);
                index += 1;
            }
        }
    }
    String::from_utf8(out).map_err(|_| "the path is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_named() {
        let stack = |text| Uri::parse(text).unwrap().stack;
        assert_eq!(stack("qemu:///system"), Which::System);
        assert_eq!(stack("qemu:///session"), Which::Session);
        assert_eq!(stack("qemu:///embed?root=/a%20b/100%"), Which::Embed("/a b/100%".into()));
        assert_eq!(Uri::parse("network:///embed?root=/r").unwrap().driver, Driver::Network);
        assert_eq!(Uri::parse("qemu:///system").unwrap().socket, None);
        let named = Uri::parse("qemu+unix:///session?socket=/run/a%20b").unwrap();
        assert_eq!((named.stack, named.socket), (Which::Session, Some("/run/a b".into())));
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        for (text, reason) in [
            ("nonsense", "no scheme"),
            ("Qemu:///embed?root=/r", "letters a to z"),
            ("q3mu:///embed?root=/r", "letters a to z"),
            ("xen:///embed?root=/r", "no driver 'xen'"),
            ("log:///embed?root=/r", "no driver 'log'"),
            ("qemu://host/system", "host 'host'"),
            ("qemu:///embed", "'root' is missing"),
            ("qemu:///embed?root=", "'root' is missing"),
            ("qemu:///embed?root=r", "absolute"),
            ("qemu:///embed?root=/r&root=/s", "twice"),
            ("qemu:///embed?root=/r&x=1", "'x' is unknown"),
            ("qemu+unix:///embed?root=/r", "no transport"),
            ("qemu+tls:///system", "letters a to z"),
            ("qemu:///system?root=/r", "'root' is unknown"),
            ("qemu:///session?socket=s", "absolute"),
            ("qemu:///elsewhere", "must be /system"),
        ] {
            let error = Uri::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(text), "{error}");
        }
    }
}
