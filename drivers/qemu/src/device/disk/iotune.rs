//! `<iotune>` of a disk: limits of throughput.

use super::super::refusal;
use super::super::value::decimal;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The limits, in the order in which they are printed; `group_name` stands before the last six.
const LIMITS: &[&str] = &[
    "total_bytes_sec",
    "read_bytes_sec",
    "write_bytes_sec",
    "total_iops_sec",
    "read_iops_sec",
    "write_iops_sec",
    "total_bytes_sec_max",
    "read_bytes_sec_max",
    "write_bytes_sec_max",
    "total_iops_sec_max",
    "read_iops_sec_max",
    "write_iops_sec_max",
    "size_iops_sec",
];

const LENGTHS: &[&str] = &[
    "total_bytes_sec_max_length",
    "read_bytes_sec_max_length",
    "write_bytes_sec_max_length",
    "total_iops_sec_max_length",
    "read_iops_sec_max_length",
    "write_iops_sec_max_length",
];

/// Reads the limits and appends those that are not zero.
pub(super) fn append(input: &Element, disk: &mut Element) -> Result<(), Error> {
    let mut limits = Element::new("iotune");
    let read = |names: &[&str], limits: &mut Element| -> Result<(), Error> {
        for name in names {
            let Some(text) = input.child_text(name) else {
                continue;
            };
            let number = decimal(&text)
                .ok_or_else(|| refusal::xml(input, format!("{name} '{text}' is not a number")))?;
            if number > 0 {
                limits.push(Element::new(name).with_text(number.to_string()));
            }
        }
        Ok(())
    };
    read(LIMITS, &mut limits)?;
    if let Some(group) = input.child_text("group_name") {
        limits.push(Element::new("group_name").with_text(group));
    }
    read(LENGTHS, &mut limits)?;
    check(input, &limits)?;
    if !limits.children.is_empty() {
        disk.push(limits);
    }
    Ok(())
}

fn check(input: &Element, limits: &Element) -> Result<(), Error> {
    for unit in ["bytes_sec", "iops_sec"] {
        for suffix in ["", "_max"] {
            let has = |direction: &str| limits.child(&format!("{direction}_{unit}{suffix}")).is_some();
            if has("total") && (has("read") || has("write")) {
                return Err(refusal::xml(
                    input,
                    format!(
                        "{unit}{suffix} has a total and one direction; give the total alone or both directions"
                    ),
                ));
            }
        }
    }
    Ok(())
}
