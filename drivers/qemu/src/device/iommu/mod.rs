//! `<iommu>`.

pub(crate) mod args;

use super::common;
use super::refusal;
use super::schema::{Shape, attribute, on_off, one_of, shape};
use super::value::{self, Kind};
use crate::domain::context::Context;
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
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut iommu = IOMMU.read(input)?;
    if context.is_q35() && iommu.attr("model") == Some("intel") && vcpus(context) > VCPUS_WITHOUT_EIM {
        let driver = iommu.child_or_insert("driver");
        for name in ["intremap", "eim"] {
            if driver.attr(name).is_none() {
                driver.set(name, "on");
            }
        }
        IOMMU.arrange(&mut iommu);
    }
    common::append(input, &mut iommu, common::PLAIN)?;
    Ok(iommu)
}

/// Interrupts of more vCPUs need the extended mode.
const VCPUS_WITHOUT_EIM: u64 = 255;

fn vcpus(context: &Context<'_>) -> u64 {
    context.document.child_text("vcpu").and_then(|count| value::decimal(count.trim_end())).unwrap_or(1)
}

/// Whether the machine has that IOMMU.
pub(crate) fn check(iommu: &Element, context: &Context<'_>) -> Result<(), Error> {
    let model = iommu.attr("model").unwrap_or_default();
    let machine = context.machine.as_str();
    let q35 = context.is_q35();
    let arm_virt = context.arch == "aarch64" && context.is_virt();
    let (fits, where_it_does) = match model {
        "intel" => (q35, "q35"),
        "smmuv3" => (context.is_arm() && context.is_virt(), "virt of Arm"),
        _ => (q35 || arm_virt, "q35, and virt of aarch64"),
    };
    if !fits {
        return Err(refusal::unsupported_by_qemu(
            iommu,
            format!("IOMMU '{model}' exists on machine {where_it_does} only, not on '{machine}'"),
        ));
    }
    if model != "intel" && iommu.child("driver").is_some() {
        return Err(refusal::xml(iommu, format!("IOMMU '{model}' has no <driver> options; remove them")));
    }
    Ok(())
}
