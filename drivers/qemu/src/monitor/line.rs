//! Framing: bytes in, lines out, never more than a bound in memory.

use super::options::Limits;
use std::borrow::Cow;

/// A line longer than its bound. What follows of it is skipped, so whoever tolerates that may read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overlong;

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    skipping: bool,
}

impl Lines {
    /// The next complete line of `input`, without its newline; nothing once `input` is used up. The bound is
    /// asked for anew for each line, since it depends on the lines before.
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        limit: usize,
    ) -> Option<Result<Cow<'a, [u8]>, Overlong>> {
        while !input.is_empty() {
            let mut parts = input.splitn(2, |byte| *byte == b'\n');
            let head = parts.next().unwrap_or_default();
            let rest = parts.next();
            *input = rest.unwrap_or_default();
            let complete = rest.is_some();
            if self.skipping {
                self.skipping = !complete;
            } else if self.partial.len().saturating_add(head.len()) > limit {
                self.partial = Vec::new();
                self.skipping = !complete;
                return Some(Err(Overlong));
            } else if !complete {
                self.partial.extend_from_slice(head);
            } else if self.partial.is_empty() {
                return Some(Ok(Cow::Borrowed(head)));
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(head);
                return Some(Ok(Cow::Owned(line)));
            }
        }
        None
    }

    /// How many bytes are held for a line that is not complete.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.partial.len()
    }
}

/// Checks depth and number of values before anything is allocated for them.
pub(super) fn check(line: &[u8], limits: &Limits) -> Result<(), String> {
    let (mut depth, mut values) = (0_usize, 1_usize);
    let (mut quoted, mut escaped) = (false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => {
                depth += 1;
                values += 1;
                if depth > limits.nesting {
                    return Err(format!("a line nests deeper than {} levels", limits.nesting));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
    }
    if values > limits.values {
        return Err(format!("a line holds more than {} values", limits.values));
    }
    Ok(())
}
