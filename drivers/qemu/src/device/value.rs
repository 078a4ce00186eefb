//! Values of attributes and texts: what is accepted, and how it is spelled afterwards.

use bulkhead_wire::error::{Code, Error, Origin};

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Anything.
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of these words, refused as an unsupported configuration otherwise.
    Supported(&'static [&'static str]),
    /// A decimal number from the first to the second.
    Number(u64, u64),
    /// A number in any base, printed in hexadecimal with that many digits at least, up to the maximum.
    Hex(usize, u64),
    /// A number in any base, printed in decimal, up to the maximum.
    AnyBase(u64),
    /// A UUID.
    Uuid,
    /// A MAC address of six bytes.
    Mac,
    /// An IPv4 or IPv6 address.
    Ip,
    /// Another kind, refused with a code and an origin of its own.
    As(Code, Origin, &'static Kind),
}

/// Why a value is refused; the place is added by whoever knows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    code: Code,
    origin: Origin,
    message: String,
}

impl Fault {
    fn new(code: Code, origin: Origin, message: String) -> Self {
        Self { code, origin, message }
    }

    /// The error that a caller sees.
    pub(crate) fn into_error(self, place: &str) -> Error {
        Error::new(self.code, self.origin, format!("{place}: {}", self.message))
    }
}

impl Kind {
    /// The canonical spelling of a value.
    pub(crate) fn read(self, value: &str) -> Result<String, Fault> {
        match self {
            Self::Text => Ok(value.to_owned()),
            Self::OneOf(words) => word(value, words)
                .ok_or_else(|| Fault::new(Code::XML_ERROR, Origin::XML, expected(value, words))),
            Self::Supported(words) => word(value, words)
                .ok_or_else(|| Fault::new(Code::CONFIG_UNSUPPORTED, Origin::DOMAIN, expected(value, words))),
            Self::Number(minimum, maximum) => decimal(value)
                .filter(|number| (minimum..=maximum).contains(number))
                .map(|number| number.to_string())
                .ok_or_else(|| {
                    Fault::new(
                        Code::XML_ERROR,
                        Origin::XML,
                        format!("'{value}' is not a number from {minimum} to {maximum}"),
                    )
                }),
            Self::Hex(digits, maximum) => any_base(value)
                .filter(|number| *number <= maximum)
                .map(|number| format!("{number:#0width$x}", width = digits + 2))
                .ok_or_else(|| {
                    Fault::new(
                        Code::XML_ERROR,
                        Origin::XML,
                        format!("'{value}' is not a number up to {maximum:#x}"),
                    )
                }),
            Self::AnyBase(maximum) => any_base(value)
                .filter(|number| *number <= maximum)
                .map(|number| number.to_string())
                .ok_or_else(|| {
                    Fault::new(
                        Code::XML_ERROR,
                        Origin::XML,
                        format!("'{value}' is not a number up to {maximum}"),
                    )
                }),
            Self::Uuid => uuid(value)
                .ok_or_else(|| Fault::new(Code::XML_ERROR, Origin::XML, format!("'{value}' is not a UUID"))),
            Self::Ip => value.parse::<std::net::IpAddr>().map(|_| value.to_owned()).map_err(|_| {
                Fault::new(Code::XML_ERROR, Origin::DOMAIN, format!("'{value}' is not an IP address"))
            }),
            Self::As(code, origin, kind) => {
                kind.read(value).map_err(|fault| Fault::new(code, origin, fault.message))
            }
            Self::Mac => mac(value).ok_or_else(|| {
                Fault::new(
                    Code::XML_ERROR,
                    Origin::DOMAIN,
                    format!("'{value}' is not a MAC address; write six bytes as 52:54:00:12:34:56"),
                )
            }),
        }
    }
}

fn word(value: &str, words: &[&str]) -> Option<String> {
    words.contains(&value).then(|| value.to_owned())
}

fn expected(value: &str, words: &[&str]) -> String {
    format!("'{value}' is not among {}", words.join(", "))
}

/// A number as `strtoul` reads it in base 10: blanks and a plus sign may come first.
pub(crate) fn decimal(value: &str) -> Option<u64> {
    digits(value, 10)
}

/// A number in base 16 if it begins with `0x`, 8 if it begins with `0`, else 10.
pub(crate) fn any_base(value: &str) -> Option<u64> {
    let bare = value.trim_start();
    let bare = bare.strip_prefix('+').unwrap_or(bare);
    if let Some(rest) = bare.strip_prefix("0x").or_else(|| bare.strip_prefix("0X")) {
        digits(rest, 16)
    } else if bare.len() > 1 && bare.starts_with('0') {
        digits(bare, 8)
    } else {
        digits(bare, 10)
    }
}

fn digits(value: &str, base: u32) -> Option<u64> {
    let bare = value.trim_start();
    let bare = bare.strip_prefix('+').unwrap_or(bare);
    // The standard parser takes a sign of its own.
    bare.starts_with(|first: char| first.is_digit(base))
        .then(|| u64::from_str_radix(bare, base).ok())
        .flatten()
}

/// A set of small numbers (`0-3,^2,8`) in its shortest spelling.
pub(crate) fn number_set(text: &str) -> Option<String> {
    const LARGEST: u64 = 4095;
    let mut numbers = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let part = part.trim();
        let (remove, part) = part.strip_prefix('^').map_or((false, part), |rest| (true, rest));
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (decimal(first)?, decimal(last)?);
        if first > last || last > LARGEST {
            return None;
        }
        for number in first..=last {
            if remove {
                numbers.remove(&number);
            } else {
                numbers.insert(number);
            }
        }
    }
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let spelled: Vec<String> = ranges
        .into_iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    (!spelled.is_empty()).then(|| spelled.join(","))
}

/// A UUID in its usual spelling; dashes may stand anywhere between bytes or be absent.
pub(crate) fn uuid(value: &str) -> Option<String> {
    let mut digits = String::with_capacity(32);
    let mut since_dash = 0_usize;
    for character in value.trim().chars() {
        match character {
            '-' if since_dash.is_multiple_of(2) => since_dash = 0,
            _ if character.is_ascii_hexdigit() && digits.len() < 32 => {
                digits.push(character.to_ascii_lowercase());
                since_dash += 1;
            }
            _ => return None,
        }
    }
    if digits.len() != 32 {
        return None;
    }
    let parts =
        [digits.get(..8)?, digits.get(8..12)?, digits.get(12..16)?, digits.get(16..20)?, digits.get(20..)?];
    Some(parts.join("-"))
}

/// A MAC address in lower case with two digits for each byte.
pub(crate) fn mac(value: &str) -> Option<String> {
    let bytes: Vec<String> = value
        .split(':')
        .map(|byte| {
            (matches!(byte.len(), 1 | 2) && byte.chars().all(|digit| digit.is_ascii_hexdigit()))
                .then(|| format!("{:0>2}", byte.to_ascii_lowercase()))
        })
        .collect::<Option<_>>()?;
    (bytes.len() == 6).then(|| bytes.join(":"))
}

/// Bytes in a unit of libvirt's sizes (`KiB`, `MB`, `b`, ...).
pub(crate) fn unit(name: &str) -> Option<u64> {
    if matches!(name, "b" | "byte" | "bytes") {
        return Some(1);
    }
    let mut characters = name.chars();
    let letter = characters.next()?.to_ascii_lowercase();
    let power = 1 + u32::try_from("kmgtpe".find(letter)?).ok()?;
    match characters.as_str() {
        "" | "iB" | "ib" => 1024_u64.checked_pow(power),
        "B" | "b" => 1000_u64.checked_pow(power),
        _ => None,
    }
}

/// Bytes of a size: its digits and its unit, or the unit that it has without one.
pub(crate) fn bytes(
    value: &str,
    unit_name: Option<&str>,
    default_unit: u64,
    place: &str,
) -> Result<u64, Error> {
    let number = decimal(value.trim_end()).ok_or_else(|| {
        Error::new(Code::XML_ERROR, Origin::DOMAIN, format!("{place}: '{value}' is not a size"))
    })?;
    let factor = match unit_name {
        None => default_unit,
        Some(name) => unit(name).ok_or_else(|| {
            Error::new(
                Code::INVALID_ARG,
                Origin::NONE,
                format!("{place}: unit '{name}' is unknown; KiB, MiB and GiB are the usual ones"),
            )
        })?,
    };
    number.checked_mul(factor).ok_or_else(|| {
        Error::new(Code::OVERFLOW, Origin::NONE, format!("{place}: {value} is too large for its unit"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_strtoul_reads_them() {
        assert_eq!(decimal(" +17"), Some(17));
        assert_eq!(decimal("-1"), None);
        assert_eq!(decimal("+-1"), None);
        assert_eq!(decimal("1x"), None);
        assert_eq!(any_base("0x1f"), Some(31));
        assert_eq!(any_base("010"), Some(8));
        assert_eq!(any_base("0"), Some(0));
        assert_eq!(any_base("99999999999999999999"), None);
        assert_eq!(Kind::Hex(4, 0xffff).read("1").ok().as_deref(), Some("0x0001"));
        assert!(Kind::Hex(4, 0xffff).read("0x10000").is_err());
    }

    #[test]
    fn uuids_and_macs_get_their_usual_spelling() {
        assert_eq!(
            uuid("C7A5FDBDEDAF94559 26AD65C16DB1809".replace(' ', "").as_str()).as_deref(),
            Some("c7a5fdbd-edaf-9455-926a-d65c16db1809")
        );
        assert_eq!(uuid("c7a5fdbd-edaf"), None);
        assert_eq!(mac("52:54:0:AA:bb:c").as_deref(), Some("52:54:00:aa:bb:0c"));
        assert_eq!(mac("52:54:00:aa:bb"), None);
    }

    #[test]
    fn sets_get_their_shortest_spelling() {
        assert_eq!(number_set("0-3,^2,8,9").as_deref(), Some("0-1,3,8-9"));
        assert_eq!(number_set("0-0").as_deref(), Some("0"));
        assert_eq!(number_set("x"), None);
        assert_eq!(number_set("0-99999999999"), None);
    }

    #[test]
    fn sizes_are_scaled_by_their_unit() {
        assert_eq!(bytes("2", Some("MiB"), 1, "x").ok(), Some(2 << 20));
        assert_eq!(bytes("2", Some("KB"), 1, "x").ok(), Some(2000));
        assert_eq!(bytes("2", None, 1024, "x").ok(), Some(2048));
        assert_eq!(bytes("2", Some("parsec"), 1, "x").map_err(|e| e.code), Err(Code::INVALID_ARG));
        assert_eq!(bytes("99999999999999", Some("EiB"), 1, "x").map_err(|e| e.code), Err(Code::OVERFLOW));
    }
}
