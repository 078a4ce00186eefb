//! The search for values of secrets where none may be.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use std::fs;
use std::path::Path;

/// The forms in which a value could lie about: itself, hexadecimal, and the middle of its base64 at each alignment.
#[must_use]
pub fn forms(value: &[u8]) -> Vec<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![value.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    for skipped in 0..3 {
        let whole = value[skipped..].chunks_exact(3).flat_map(|three| {
            let bits = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
            [18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize])
        });
        forms.push(whole.collect());
    }
    // As JSON writes bytes.
    forms.push(value.iter().map(u8::to_string).collect::<Vec<_>>().join(",").into_bytes());
    forms
}

/// Is one of them in there?
#[must_use]
pub fn is_in(content: &[u8], forms: &[Vec<u8>]) -> bool {
    forms.iter().any(|form| content.windows(form.len()).any(|window| window == form))
}

/// Searches all files below a folder: how many there are, and in which of them something was found.
///
/// # Panics
/// When something can't be read.
pub fn search(folder: &Path, forms: &[Vec<u8>], searched: &mut (usize, Vec<String>)) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            search(&path, forms, searched);
        } else if kind.is_file() {
            searched.0 += 1;
            let content = fs::read(&path).unwrap();
            if is_in(&content, forms) {
                searched.1.push(path.display().to_string());
            }
        }
    }
}
