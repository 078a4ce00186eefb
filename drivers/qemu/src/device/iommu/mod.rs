//! `<iommu>`.
