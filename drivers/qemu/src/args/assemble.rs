//! The order of everything.

use super::{CommandLine, Paths, alias};
use crate::capabilities::Capabilities;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// The command line of a complete definition (`<domain>` as an inactive dump prints it; missing aliases are derived).
///
/// # Errors
/// What the definition asks for and this QEMU, or we, can't do; text that no option may carry.
pub fn build(root: &Element, capabilities: &Capabilities, paths: &Paths) -> Result<CommandLine, Error> {
    let mut root = root.clone();
    alias::assign(&mut root);
    let _ = (capabilities, paths);
    let program = root
        .at("devices/emulator")
        .map(Element::text)
        .filter(|path| path.starts_with('/'))
        .ok_or_else(|| {
            Error::new(
                Code::XML_ERROR,
                Origin::DOMAIN,
                "The definition has no <emulator> with an absolute path",
            )
        })?;
    Ok(CommandLine {
        program,
        arguments: Vec::new(),
        environment: Vec::new(),
        descriptors: Vec::new(),
    })
}
