//! The URIs that name a stack: `qemu:///system`, `qemu:///session`, `qemu:///embed?root=/path`.

use bulkhead_wire::table::Driver;
use std::path::PathBuf;

/// A stack, and the driver of it that a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// The driver.
    pub driver: Driver,
    /// The stack.
    pub stack: Which,
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
            "/system" | "/session" if !query.is_empty() => {
                Err(wrong(format!("'{query}' means nothing for this path")))
            }
            "/system" => Ok(Self { driver, stack: Which::System }),
            "/session" => Ok(Self { driver, stack: Which::Session }),
            "/embed" => Ok(Self { driver, stack: Which::Embed(root(query).map_err(wrong)?) }),
            other => Err(wrong(format!("the path '{other}' must be /system, /session or /embed"))),
        }
    }
}

fn root(query: &str) -> Result<PathBuf, String> {
    let mut root = None;
    for (name, value) in query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
    {
        match name {
            "root" if root.is_none() => root = Some(decode(value)?),
            "root" => return Err("'root' is given twice".to_owned()),
            other => return Err(format!("the parameter '{other}' is unknown")),
        }
    }
    let root = root
        .filter(|root| !root.is_empty())
        .ok_or("'root' is missing: name the folder, as in '?root=/path'")?;
    if !root.starts_with('/') {
        return Err(format!("the root '{root}' must be an absolute path"));
    }
    Ok(PathBuf::from(root))
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
    String::from_utf8(out).map_err(|_| "the root is not UTF-8".to_owned())
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
            ("qemu:///elsewhere", "must be /system"),
        ] {
            let error = Uri::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(text), "{error}");
        }
    }
}
