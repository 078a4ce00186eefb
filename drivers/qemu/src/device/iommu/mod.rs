//! `<iommu>`.

pub(crate) mod args;
