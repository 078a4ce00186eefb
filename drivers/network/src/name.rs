//! What names and MAC addresses an interface may have.

use bulkhead_wire::error::{Code, Error, Origin};
use std::fmt;

/// Bytes of a name, the zero at its end among them.
pub(crate) const NAME_BYTES: usize = 16;
/// What a tap is called that the caller did not name.
pub(crate) const GENERATED: &str = "vnet%d";

/// Checks a name that something goes by already.
///
/// # Errors
/// Whatever the kernel would not take as a name.
pub(crate) fn check(name: &str) -> Result<(), Error> {
    let refuse = |errno: i32, why: &str| {
        let message = format!("'{}' is no name of an interface: {why}", name.escape_debug());
        let mut error = Error::new(Code::SYSTEM_ERROR, Origin::NONE, message);
        error.int1 = errno;
        Err(error)
    };
    if name.is_empty() || name == "." || name == ".." {
        return refuse(libc::EINVAL, "use letters and digits");
    }
    if name == "all" || name == "default" {
        return refuse(libc::EINVAL, "the kernel's settings (sysctl) use it for something else; use another");
    }
    if name.len() >= NAME_BYTES {
        return refuse(
            libc::ERANGE,
            &format!(
                "it has {} bytes, and the kernel takes {} at most; use a shorter one",
                name.len(),
                NAME_BYTES - 1
            ),
        );
    }
    let forbidden =
        |letter: char| matches!(letter, '/' | ':') || letter.is_whitespace() || letter.is_control();
    if let Some(letter) = name.chars().find(|letter| forbidden(*letter)) {
        return refuse(
            libc::EINVAL,
            &format!(
                "leave out '{}'; slashes, colons, blanks and control characters can't stand in one",
                letter.escape_debug()
            ),
        );
    }
    if name.contains('%') {
        return refuse(
            libc::EINVAL,
            "a percent sign can only stand in the name of a tap that is to be made, once and as %d, for the lowest \
             free number",
        );
    }
    Ok(())
}

/// Checks a name for a new tap: a plain one, or a template with one `%d`.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_new(name: &str) -> Result<(), Error> {
    match name.split_once("%d") {
        // The number is at least one digit, so what is left of the template must be a name with a digit in that place.
        Some((before, after)) => check(&format!("{before}0{after}")).and_then(|()| {
            // The kernel looks at the template's own length too.
            if name.len() < NAME_BYTES { Ok(()) } else { check(name) }
        }),
        None => check(name),
    }
}

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub(crate) [u8; 6]);

impl Mac {
    /// Reads `52:54:00:12:34:56`.
    ///
    /// # Errors
    /// Other text, and addresses that can't belong to one card.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            let message = format!("MAC address '{}': {why}", text.escape_debug());
            Error::new(Code::INVALID_ARG, Origin::NETWORK, message)
        };
        let mac = Self::read(text).ok_or_else(|| refuse("write six bytes like 52:54:00:12:34:56"))?;
        if mac.is_group() {
            return Err(refuse("it is for groups; use one whose first byte is even"));
        }
        Ok(mac)
    }

    /// Reads six bytes, whatever they are for.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut words = text.split(':');
        for byte in &mut bytes {
            let word = words.next().filter(|word| {
                matches!(word.len(), 1 | 2) && word.bytes().all(|digit| digit.is_ascii_hexdigit())
            })?;
            *byte = u8::from_str_radix(word, 16).ok()?;
        }
        words.next().is_none().then_some(Self(bytes))
    }

    /// Is it for groups, and not for one card?
    pub(crate) fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The tap's address that goes with a guest's. It must be another one, lest the kernel takes the guest's frames for its
    /// own; and a high one, because a bridge takes the lowest of its ports' for itself and would change it with each guest.
    pub(crate) fn of_tap(self) -> Self {
        let [first, rest @ ..] = self.0;
        let first = if first == 0xfe { 0xfa } else { 0xfe };
        let [second, third, fourth, fifth, sixth] = rest;
        Self([first, second, third, fourth, fifth, sixth])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_kernel_takes() {
        for good in ["vnet0", "tap-web.1", "a", "fifteen-bytes-0", "é"] {
            check(good).unwrap();
            check_new(good).unwrap();
        }
        for (bad, errno) in [
            ("", libc::EINVAL),
            (".", libc::EINVAL),
            ("..", libc::EINVAL),
            ("all", libc::EINVAL),
            ("default", libc::EINVAL),
            ("a/b", libc::EINVAL),
            ("a:1", libc::EINVAL),
            ("a b", libc::EINVAL),
            ("a\n", libc::EINVAL),
            ("a\0", libc::EINVAL),
            ("a\u{a0}b", libc::EINVAL),
            ("web%", libc::EINVAL),
            ("web%s", libc::EINVAL),
            ("sixteen-bytes-00", libc::ERANGE),
            ("ééééééé-8", libc::ERANGE),
        ] {
            for error in [check(bad).unwrap_err(), check_new(bad).unwrap_err()] {
                assert_eq!((error.code, error.int1), (Code::SYSTEM_ERROR, errno), "{bad:?}");
                assert!(error.message.contains(&bad.escape_debug().to_string()), "{error}");
            }
        }
    }

    #[test]
    fn templates_are_for_new_taps_only() {
        for template in ["vnet%d", "%d", "web%d-in", GENERATED] {
            check_new(template).unwrap();
            check(template).unwrap_err();
        }
        for bad in ["%d%d", "web%d%", "a/%d", "%d:", "fifteen-bytes-%d"] {
            check_new(bad).unwrap_err();
        }
    }

    #[test]
    fn a_tap_gets_another_address_than_its_guest() {
        let tap = |text: &str| Mac::parse(text).unwrap().of_tap().to_string();
        assert_eq!(tap("52:54:00:12:34:56"), "fe:54:00:12:34:56");
        assert_eq!(tap("FE:54:0:12:34:56"), "fa:54:00:12:34:56");
    }

    #[test]
    fn what_is_no_address_of_a_card_is_refused() {
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52:54:00:12:34:",
            "52:54:00:12:34:+5",
            "52:54:00:12:34:5g",
            "525400123456",
            "01:00:5e:00:00:01",
        ] {
            assert_eq!(Mac::parse(bad).unwrap_err().code, Code::INVALID_ARG, "{bad:?}");
        }
    }
}
