//! What is printed: a table for people, JSON for programs.

use anyhow::Result;
use serde::Serialize;
use std::io::Write;

pub(crate) struct Output {
    pub(crate) json: bool,
}

/// Prints to standard error. An error that can't be printed can't be told to anybody.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl Output {
    /// Bytes as they are.
    pub(crate) fn raw(&self, text: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text)?;
        out.flush()?;
        Ok(())
    }

    /// A line for people.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// A value for programs.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result<()> {
        self.raw(format!("{}\n", serde_json::to_string(value)?).as_bytes())
    }

    /// Rows under a heading, columns as wide as they must be.
    pub(crate) fn table(&self, heading: &[&str], rows: &[Vec<String>]) -> Result<()> {
        let mut widths: Vec<usize> = heading.iter().map(|word| word.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let heading: Vec<String> = heading.iter().map(|word| (*word).to_owned()).collect();
        for row in std::iter::once(&heading).chain(rows) {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// A path as it stands in a URI.
pub(crate) fn percent_encode(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~+,:@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
