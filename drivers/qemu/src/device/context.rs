//! What a device needs to know of the guest that it belongs to.

pub(crate) use crate::domain::context::Context;
