use super::*;
use crate::descriptor::Descriptor;
use crate::types::{ByteString, DomainInfo, DomainList, DomainRef, Parameter, ParameterValue, Stream, Uuid};
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

fn bytes<T: Serialize>(message: &T) -> Vec<u8> {
    encode(message).unwrap().0
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, XdrError> {
    decode(bytes, Vec::new()).map(|(message, _)| message)
}

fn web() -> DomainRef {
    DomainRef { name: "web".to_owned(), uuid: Uuid([7; 16]), id: -1 }
}

#[test]
fn a_domain_is_its_name_padded_its_uuid_and_its_number() {
    let mut expected = b"\0\0\0\x03web\0".to_vec();
    expected.extend([7; 16]);
    expected.extend([0xff; 4]);
    assert_eq!(bytes(&web()), expected);
    assert_eq!(decode(&expected, Vec::new()), Ok((web(), 28)));
}

#[test]
fn narrow_numbers_take_four_bytes_and_must_fit() {
    let info = DomainInfo { state: 5, max_memory_kib: 1 << 40, memory_kib: 2, vcpus: 3, cpu_time_ns: 4 };
    let encoded = bytes(&info);
    assert_eq!(encoded.len(), 4 + 8 + 8 + 4 + 8);
    assert_eq!(read(&encoded), Ok(info));
    assert!(read::<u8>(&[0, 0, 1, 0]).is_err());
    assert_eq!(read::<i16>(&[0xff, 0xff, 0xff, 0xfe]), Ok(-2));
}

#[test]
fn optional_values_lists_and_truth_are_a_word_first() {
    assert_eq!(bytes(&None::<String>), [0; 4]);
    assert_eq!(bytes(&Some("ab".to_owned())), b"\0\0\0\x01\0\0\0\x02ab\0\0");
    assert_eq!(bytes(&vec![true, false]), [0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0]);
    let wrong = XdrError::Value { what: "flag of an optional value", value: 2 };
    assert_eq!(read::<Option<u32>>(&[0, 0, 0, 2, 0, 0, 0, 0]), Err(wrong));
}

#[test]
fn a_typed_parameter_is_its_name_a_number_from_one_and_the_value() {
    for (value, number, rest) in [
        (ParameterValue::Int(-2), 1, vec![0xff, 0xff, 0xff, 0xfe]),
        (ParameterValue::UnsignedLong(3), 4, vec![0, 0, 0, 0, 0, 0, 0, 3]),
        (ParameterValue::Double(1.5), 5, vec![0x3f, 0xf8, 0, 0, 0, 0, 0, 0]),
        (ParameterValue::Boolean(true), 6, vec![0, 0, 0, 1]),
        (ParameterValue::Text("ab".to_owned()), 7, b"\0\0\0\x02ab\0\0".to_vec()),
    ] {
        let parameter = Parameter::new("x", value);
        let mut expected = b"\0\0\0\x01x\0\0\0\0\0\0".to_vec();
        expected.push(number);
        expected.extend(rest);
        assert_eq!(bytes(&parameter), expected);
        assert_eq!(read(&expected), Ok(parameter));
    }
    for number in [0, 8, 0xff] {
        let wrong = [&b"\0\0\0\x01x\0\0\0\0\0\0"[..], &[number, 0, 0, 0, 0]].concat();
        assert!(read::<Parameter>(&wrong).is_err(), "{number}");
    }
}

#[test]
fn bytes_are_counted_and_padded() {
    assert_eq!(bytes(&ByteString(vec![1, 2, 3])), [0, 0, 0, 3, 1, 2, 3, 0]);
    assert_eq!(read(&[0, 0, 0, 1, 9, 0, 0, 0]), Ok(ByteString(vec![9])));
}

#[test]
fn what_libvirts_peers_overlook_is_overlooked() {
    // Padding that is not zero, text behind a zero byte, bytes that follow.
    assert_eq!(decode::<String>(b"\0\0\0\x03a\0bX____", Vec::new()), Ok(("a".to_owned(), 8)));
}

#[test]
fn bounds_hold_before_anything_is_read() {
    let long = (u32::try_from(STRING_MAX_BYTES).unwrap() + 1).to_be_bytes();
    assert!(matches!(read::<String>(&long), Err(XdrError::TooLong { .. })));
    let many = (u32::try_from(LIST_MAX).unwrap() + 1).to_be_bytes();
    assert!(matches!(read::<Vec<u32>>(&many), Err(XdrError::TooLong { .. })));
    // A list of things without bytes can't be counted up for nothing.
    assert_eq!(read::<Vec<()>>(&[0, 0, 0, 9]), Err(XdrError::Truncated(4)));
    assert!(matches!(encode(&vec![0u32; LIST_MAX + 1]), Err(XdrError::TooLong { .. })));
    assert_eq!(read::<String>(b"\0\0\0\x02a"), Err(XdrError::Truncated(5)));
    assert_eq!(read::<String>(b"\0\0\0\x01\xff\0\0\0"), Err(XdrError::Text));
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
enum Choice {
    One,
}

#[test]
fn types_without_a_form_are_refused() {
    assert_eq!(encode(&Choice::One).unwrap_err(), XdrError::Unsupported("an enum"));
    assert_eq!(read::<Choice>(&[0; 4]), Err(XdrError::Unsupported("an enum")));
    assert_eq!(encode(&BTreeMap::<u32, u32>::new()).unwrap_err(), XdrError::Unsupported("a map"));
}

#[test]
fn descriptors_travel_beside_the_bytes() {
    let open = || Descriptor::new(std::fs::File::open("/dev/null").unwrap().into());
    let (encoded, files) = encode(&open()).unwrap();
    assert_eq!((encoded.len(), files.len()), (0, 1));
    let picture = Stream { mime: Some("image/png".to_owned()), file: open() };
    let (encoded, files) = encode(&(picture, open())).unwrap();
    assert_eq!(encoded, b"\0\0\0\x01\0\0\0\x09image/png\0\0\0");
    let numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let ((picture, other), _): ((Stream, Descriptor), usize) = decode(&encoded, files).unwrap();
    let came = [picture.file, other].map(|file| file.into_owned().unwrap().as_raw_fd());
    assert_eq!(numbers, came);
    assert!(matches!(decode::<Descriptor>(&[], Vec::new()), Err(XdrError::Custom(_))));
    let spare = vec![std::fs::File::open("/dev/null").unwrap().into()];
    let refused = decode::<u32>(&[0; 4], spare);
    assert_eq!(refused, Err(XdrError::Descriptors { taken: 0, carried: 1 }));
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        domains in proptest::collection::vec(("[a-z\u{e4}]{0,9}", any::<[u8; 16]>(), any::<i32>()), 0..20),
        count in any::<u32>(),
    ) {
        let domains = domains.into_iter().map(|(name, uuid, id)| DomainRef { name, uuid: Uuid(uuid), id });
        let list = DomainList { domains: domains.collect(), count };
        let encoded = bytes(&list);
        prop_assert_eq!(encoded.len() % 4, 0);
        prop_assert_eq!(decode(&encoded, Vec::new()), Ok((list, encoded.len())));
    }
}
