//! `<cpu mode='host-model'>` of a guest that runs: the model and features that it stands for.

use crate::capabilities::{HostModel, usual_name};
use bulkhead_xml::Element;
use std::collections::BTreeMap;

/// Writes out the host's model, with the features that the definition wants otherwise. Nothing happens to other modes.
pub(crate) fn settle_host_model(root: &mut Element, host: &HostModel) {
    let Some(cpu) = root.child_mut("cpu").filter(|cpu| cpu.attr("mode") == Some("host-model")) else {
        return;
    };
    let asked = cpu.attr("check").unwrap_or("partial");
    let check = if asked == "none" { "none" } else { "full" };
    let mut settled = Element::new("cpu").with("mode", "custom").with("match", "exact").with("check", check);
    let mut model = cpu.take("model").unwrap_or_else(|| Element::new("model"));
    model.set("fallback", "forbid");
    model.set_text(host.name.as_str());
    settled.push(model);
    let vendor = cpu.take("vendor");
    let known = (!host.vendor.is_empty()).then(|| Element::new("vendor").with_text(host.vendor.as_str()));
    if let Some(vendor) = known.or(vendor) {
        settled.push(vendor);
    }
    let mut own = BTreeMap::new();
    while let Some(feature) = cpu.take("feature") {
        own.insert(feature.attr("name").unwrap_or_default().to_owned(), feature);
    }
    let numa = cpu.take("numa");
    for other in std::mem::take(&mut cpu.children) {
        settled.children.push(other);
    }
    for (name, on) in host.given() {
        let name = usual_name(name);
        let policy = if on { "require" } else { "disable" };
        let of_host = || Element::new("feature").with("policy", policy).with("name", name);
        settled.push(own.remove(name).unwrap_or_else(of_host));
    }
    own.into_values().chain(numa).for_each(|element| settled.push(element));
    *cpu = settled;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_runs_shows_the_model_and_its_own_wishes() {
        let features = [("cmp-legacy", true), ("invtsc", true), ("vme", false)];
        let host = HostModel {
            name: "EPYC".to_owned(),
            vendor: "AMD".to_owned(),
            features: features.map(|(name, on)| (name.to_owned(), on)).to_vec(),
        };
        let text = "<domain><cpu mode='host-model' check='partial'><topology sockets='1' cores='2' threads='1'/>\
            <feature policy='disable' name='cmp_legacy'/><feature policy='require' name='aes'/><numa/></cpu></domain>";
        let parse = |text: &str| crate::domain::document(text.as_bytes()).unwrap();
        let mut root = parse(text);
        settle_host_model(&mut root, &host);
        let expected = "<domain><cpu mode='custom' match='exact' check='full'><model fallback='forbid'>EPYC</model>\
            <vendor>AMD</vendor><topology sockets='1' cores='2' threads='1'/>\
            <feature policy='disable' name='cmp_legacy'/><feature policy='disable' name='vme'/>\
            <feature policy='require' name='aes'/><numa/></cpu></domain>";
        assert_eq!(root.to_xml(), parse(expected).to_xml());
        let mut other = parse("<domain><cpu mode='maximum'/></domain>");
        let before = other.to_xml();
        settle_host_model(&mut other, &host);
        assert_eq!(other.to_xml(), before);
    }
}
