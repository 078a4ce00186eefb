//! Sets of small numbers as libvirt writes them (`0-3,^2,8`).

use std::collections::BTreeSet;

/// Numbers above this are refused: a set is never larger than a host.
const MAXIMUM: u32 = 16383;

/// Reads a set; `None` if it is none, or names no number at all.
pub(crate) fn parse(text: &str) -> Option<BTreeSet<u32>> {
    let mut set = BTreeSet::new();
    for part in text.split(',') {
        let part = part.trim();
        if let Some(excluded) = part.strip_prefix('^') {
            set.remove(&number(excluded)?);
        } else if let Some((first, last)) = part.split_once('-') {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            set.extend(first..=last);
        } else {
            set.insert(number(part)?);
        }
    }
    (!set.is_empty()).then_some(set)
}

fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| *number <= MAXIMUM)
}

/// The usual spelling of a set: ascending, runs as ranges.
pub(crate) fn format(set: &BTreeSet<u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in set {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let words: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_get_their_usual_spelling() {
        let usual = |text| parse(text).map(|set| format(&set));
        assert_eq!(usual("1-4,^3,8").as_deref(), Some("1-2,4,8"));
        assert_eq!(usual("3,1,2").as_deref(), Some("1-3"));
        assert_eq!(usual("0,^0"), None);
        assert_eq!(usual("4-2"), None);
        assert_eq!(usual("1-99999999"), None);
    }
}
