//! What a device needs to know of the guest that it belongs to.

/// The guest of a device.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The architecture (`x86_64`).
    pub(crate) arch: String,
    /// The machine's canonical name (`pc-q35-10.0`).
    pub(crate) machine: String,
}
