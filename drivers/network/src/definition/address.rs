//! Addresses and ranges of them.

use bulkhead_wire::error::{Code, Error, Origin};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads an address in numbers, in any of the forms that the C library takes: `10.1` is `10.0.0.1`.
pub(crate) fn parse(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok().map(IpAddr::V6);
    }
    parse_v4(text).map(IpAddr::V4)
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = text.split('.').map(part).collect::<Option<_>>()?;
    let (last, leading) = parts.split_last()?;
    if leading.len() > 3 {
        return None;
    }
    let rest_bits = 8 * (4 - u32::try_from(leading.len()).ok()?);
    if u64::from(*last) >= 1 << rest_bits || leading.iter().any(|byte| *byte > 255) {
        return None;
    }
    let mut bits = *last;
    for (byte, shift) in leading.iter().zip([24, 16, 8]) {
        bits |= byte << shift;
    }
    Some(Ipv4Addr::from_bits(bits))
}

/// A number as C writes it: `0x1f`, `017`, `15`.
fn part(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let plain = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    if plain { u32::from_str_radix(digits, radix).ok() } else { None }
}

/// An address as the C library writes it: IPv4 within IPv6 keeps its dots.
#[must_use]
pub fn text(address: IpAddr) -> String {
    match address {
        IpAddr::V6(six) if six.to_bits() >> 32 == 0 && six.to_bits() > 0xffff => {
            format!("::{}", Ipv4Addr::from_bits(u32::try_from(six.to_bits()).unwrap_or_default()))
        }
        other => other.to_string(),
    }
}

/// The bits of an address that a prefix of that length keeps; an address whole for one that is too long.
#[must_use]
pub fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

/// The mask of IPv4 for a prefix.
#[must_use]
pub fn mask_of(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

/// The prefix of a mask, if its bits are in one piece.
#[must_use]
pub fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    (bits.checked_shl(ones).unwrap_or(0) == 0).then(|| u8::try_from(ones).ok()).flatten()
}

/// The prefix that an address had before there were prefixes.
#[must_use]
pub fn prefix_by_class(address: IpAddr) -> Option<u8> {
    match address {
        IpAddr::V4(address) => match address.octets()[0] {
            0..128 => Some(8),
            128..192 => Some(16),
            192..224 => Some(24),
            _ => None,
        },
        IpAddr::V6(_) => Some(64),
    }
}

/// The highest address of a network of IPv4.
#[must_use]
pub fn broadcast_of(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() | !mask_of(prefix).to_bits())
}

/// Checks a range and counts its addresses. Within a network, if there is one, whose prefix may be unknown.
pub(crate) fn count(start: IpAddr, end: IpAddr, within: Option<(IpAddr, Option<u8>)>) -> Result<u32, Error> {
    let refuse =
        |why: String| Err(Error::new(Code::INTERNAL, Origin::NONE, format!("Range {start} to {end} {why}")));
    if start.is_ipv4() != end.is_ipv4() {
        return refuse("begins in one family of addresses and ends in another".to_owned());
    }
    if let Some((network, prefix)) = within {
        if start.is_ipv4() != network.is_ipv4() {
            return refuse(format!("is of another family than its network {network}"));
        }
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let Some(prefix) = prefix.filter(|prefix| *prefix <= bits) else {
            return refuse(format!("has a network {network} whose prefix makes no sense"));
        };
        let base = network_of(network, prefix);
        if network_of(start, prefix) != base || network_of(end, prefix) != base {
            return refuse(format!("is not entirely within network {network}/{prefix}"));
        }
        if let IpAddr::V4(base) = base {
            if start == IpAddr::V4(base) {
                return refuse(format!("begins with the address of network {network}/{prefix} itself"));
            }
            if end == IpAddr::V4(broadcast_of(base, prefix)) {
                return refuse(format!("ends with the broadcast address of network {network}/{prefix}"));
            }
        }
    }
    let (high, first, last) = match (start, end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => {
            let (start, end) = (start.to_bits(), end.to_bits());
            (start >> 16 == end >> 16, start & 0xffff, end & 0xffff)
        }
        (IpAddr::V6(start), IpAddr::V6(end)) => {
            let ([.., first], [.., last]) = (start.segments(), end.segments());
            (start.to_bits() >> 16 == end.to_bits() >> 16, u32::from(first), u32::from(last))
        }
        _ => (false, 0, 0),
    };
    if !high {
        return refuse("is too large (more than 65535 addresses)".to_owned());
    }
    if last < first {
        return refuse("is reversed; name its lowest address first".to_owned());
    }
    Ok(last - first + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_c_library_reads_them() {
        for (text, address) in [
            ("192.168.1.2", Some("192.168.1.2")),
            ("10.1", Some("10.0.0.1")),
            ("0x7f.1", Some("127.0.0.1")),
            ("010.0.0.1", Some("8.0.0.1")),
            ("3232235777", Some("192.168.1.1")),
            ("fe80::1", Some("fe80::1")),
            ("300.1.2.3", None),
            ("1.2.3.4.5", None),
            ("1.2.3.", None),
            ("", None),
            ("host", None),
            ("1.2.3.4/24", None),
            ("+1.2.3.4", None),
        ] {
            assert_eq!(parse(text), address.map(|address| address.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn networks_have_masks_and_prefixes() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(network_of(address("10.1.2.3"), 20), address("10.1.0.0"));
        assert_eq!(network_of(address("10.1.2.3"), 0), address("0.0.0.0"));
        assert_eq!(network_of(address("fd00:1::1"), 16), address("fd00::"));
        assert_eq!(prefix_of(mask_of(23)), Some(23));
        assert_eq!(prefix_of(Ipv4Addr::new(255, 0, 255, 0)), None);
        assert_eq!(broadcast_of(Ipv4Addr::new(10, 0, 0, 1), 30), Ipv4Addr::new(10, 0, 0, 3));
        assert_eq!([0, 32].map(|prefix| prefix_of(mask_of(prefix))), [Some(0), Some(32)]);
    }

    #[test]
    fn ranges_lie_within_their_network() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let within = Some((address("192.168.1.1"), Some(24)));
        let range = |start: &str, end: &str| count(address(start), address(end), within);
        assert_eq!(range("192.168.1.2", "192.168.1.254").unwrap(), 253);
        assert_eq!(range("192.168.1.2", "192.168.1.2").unwrap(), 1);
        for (start, end, why) in [
            ("192.168.1.9", "192.168.1.2", "reversed"),
            ("192.168.1.9", "192.168.2.2", "within"),
            ("192.168.1.0", "192.168.1.2", "itself"),
            ("192.168.1.2", "192.168.1.255", "broadcast"),
            ("fd00::1", "fd00::2", "family"),
            ("192.168.1.2", "fd00::2", "family"),
        ] {
            let error = range(start, end).unwrap_err();
            assert!(error.message.contains(why) && error.code == Code::INTERNAL, "{error}");
        }
        let wide = count(address("10.0.0.1"), address("10.1.0.1"), Some((address("10.0.0.1"), Some(8))));
        assert!(wide.unwrap_err().message.contains("too large"));
        assert_eq!(count(address("fd00::1"), address("fd00::ff"), None).unwrap(), 255);
    }
}
