//! `<iommu>`.

pub(crate) mod args;

use super::common;
use super::refusal;
use super::schema::{Shape, attribute, on_off, one_of, shape};
use super::value::Kind;
use crate::device::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const IOMMU: Shape = shape(
    "iommu",
    &[one_of("model", &["intel", "smmuv3", "virtio"]).required()],
    &[shape(
        "driver",
        &[
            on_off("intremap"),
            on_off("caching_mode"),
            on_off("eim"),
            on_off("iotlb"),
            attribute("aw_bits", Kind::Number(0, u32::MAX as u64)),
            on_off("dma_translation"),
        ],
        &[],
    )],
);

/// The canonical form of the guest's IOMMU.
pub(crate) fn complete(input: &Element, context: &Context) -> Result<Element, Error> {
    let mut iommu = IOMMU.read(input)?;
    let model = iommu.attr("model").unwrap_or_default();
    let (arch, machine) = (context.arch.as_str(), context.machine.as_str());
    let q35 = arch == "x86_64" && (machine == "q35" || machine.starts_with("pc-q35"));
    let arm_virt = arch == "aarch64" && (machine == "virt" || machine.starts_with("virt-"));
    let (fits, where_it_does) = match model {
        "intel" => (q35, "q35"),
        "smmuv3" => (arm_virt, "virt of aarch64"),
        _ => (q35 || arm_virt, "q35, and virt of aarch64"),
    };
    if !fits {
        return Err(refusal::unsupported_by_qemu(
            input,
            format!("IOMMU '{model}' exists on machine {where_it_does} only, not on '{machine}'"),
        ));
    }
    if model != "intel" && iommu.child("driver").is_some() {
        return Err(refusal::unsupported(
            input,
            format!("IOMMU '{model}' has no <driver> options; remove them"),
        ));
    }
    common::append(input, &mut iommu, common::PLAIN)?;
    Ok(iommu)
}
