//! Processors compared with one another, and the best one that several have in common. What a model has is QEMU's answer; what
//! it switches by accelerator the tables tell.

use super::host_model::{Known, RENAMED, known_models, places};
use super::{Capabilities, Query, Reply, usual_name};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// A set of features, in libvirt's spelling.
pub(crate) type Features = BTreeSet<String>;

/// Most features that one document names.
const FEATURES_MAX: usize = 1024;

/// `virCPUCompareResult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// It can't be had.
    Incompatible,
    /// Exactly that.
    Identical,
    /// That and more.
    Superset,
}

/// A processor that a client describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) arch: Option<String>,
    pub(crate) mode: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) vendor: Option<String>,
    /// Must it be that and no more?
    strict: bool,
    wanted: Features,
    unwanted: Features,
    forbidden: Features,
}

pub(crate) fn failed(code: Code, message: impl Into<String>) -> Error {
    Error::new(code, Origin::CPU, message)
}

impl Described {
    /// Reads a `<cpu>`; also the one inside `<host>` of a document of capabilities, as clients pass it on.
    pub(crate) fn read(xml: &str) -> Result<Self, Error> {
        let document = bulkhead_xml::parse(xml.as_bytes(), bulkhead_xml::Limits::default(), "")
            .map_err(|error| failed(Code::XML_DETAIL, error.to_string()))?;
        if document.name != "cpu" {
            let message =
                format!("The document is a <{}>, and not the <cpu> that is expected", document.name);
            return Err(failed(Code::XML_ERROR, message));
        }
        let text = |name: &str| document.child_text(name).map(|text| text.trim().to_owned());
        let mut described = Self {
            arch: text("arch"),
            mode: document.attr("mode").map(str::to_owned),
            model: text("model").filter(|model| !model.is_empty()),
            vendor: text("vendor"),
            strict: document.attr("match") == Some("strict"),
            wanted: Features::new(),
            unwanted: Features::new(),
            forbidden: Features::new(),
        };
        for feature in document.all("feature").take(FEATURES_MAX) {
            let name = feature
                .attr("name")
                .filter(|name| !name.is_empty())
                .ok_or_else(|| failed(Code::XML_ERROR, "A <feature> of the <cpu> has no name; name it"))?;
            let set = match feature.attr("policy").unwrap_or("require") {
                "require" => &mut described.wanted,
                "disable" => &mut described.unwanted,
                "forbid" => &mut described.forbidden,
                "force" | "optional" => continue,
                other => {
                    let message = format!("Feature '{name}' of the <cpu>: there is no policy '{other}'");
                    return Err(failed(Code::CONFIG_UNSUPPORTED, message));
                }
            };
            set.insert(name.to_owned());
        }
        Ok(described)
    }

    /// What it has, when its model has this.
    pub(crate) fn features(&self, of_model: &Features) -> Features {
        let mut all: Features = of_model.union(&self.wanted).cloned().collect();
        all.retain(|name| !self.unwanted.contains(name) && !self.forbidden.contains(name));
        all
    }

    /// Compares it with what is to be had; answers why it can't be, too.
    pub(crate) fn compare(&self, of_model: &Features, host: &Features) -> (Comparison, String) {
        let forbidden: Vec<&str> = self.forbidden.intersection(host).map(String::as_str).collect();
        if !forbidden.is_empty() {
            let why =
                format!("the CPU that is to be had provides forbidden features: {}", forbidden.join(", "));
            return (Comparison::Incompatible, why);
        }
        let own = self.features(of_model);
        let missing: Vec<&str> = own.difference(host).map(String::as_str).collect();
        if !missing.is_empty() {
            let why = format!(
                "the CPU that is to be had does not provide required features: {}",
                missing.join(", ")
            );
            return (Comparison::Incompatible, why);
        }
        match host.difference(&own).next() {
            None => (Comparison::Identical, String::new()),
            Some(more) if self.strict => {
                let why =
                    format!("the CPU that is to be had provides more than a strict match allows: {more}");
                (Comparison::Incompatible, why)
            }
            Some(_) => (Comparison::Superset, String::new()),
        }
    }
}

/// Questions about what models have.
pub(crate) fn model_queries<'a>(models: impl IntoIterator<Item = &'a str>) -> Vec<Query> {
    let query = |name: &str| Query {
        command: "query-cpu-model-expansion",
        arguments: json!({"type": "full", "model": {"name": name}}),
    };
    models.into_iter().map(query).collect()
}

/// What a model has by QEMU's reply, as a processor of the host would.
pub(crate) fn model_features(name: &str, reply: &Reply) -> Result<Features, Error> {
    let unknown =
        || failed(Code::INTERNAL, format!("Unknown CPU model {name}; 'virsh cpu-models' lists those known"));
    let told = super::query::features(reply.as_ref().map_err(|_refused| unknown())?);
    let told = told.map_err(|error| failed(Code::INTERNAL, error.to_string()))?;
    let known = known_models().into_iter().find(|model| model.name == name);
    Ok(settled(told, known.as_ref()))
}

/// Puts the tables' word in the place of QEMU's, where QEMU's depends on the accelerator.
fn settled(told: BTreeSet<String>, known: Option<&Known>) -> Features {
    let places = places();
    let by_accelerator = |name: &str| super::host_model::is_by_accelerator(name);
    let mut has: BTreeSet<&str> = told.iter().map(String::as_str).collect();
    has.retain(|name| places.contains_key(name) && !by_accelerator(name));
    if let Some(known) = known {
        has.retain(|name| !known.lacks.contains(name));
        has.extend(known.has.iter().copied());
    }
    has.into_iter().map(|name| usual_name(name).to_owned()).collect()
}

/// The models that a processor of a vendor may be described as; nobody's vendor leaves all.
pub(crate) fn models_of(capabilities: &Capabilities, vendor: Option<&str>) -> Vec<&'static str> {
    let has: BTreeSet<&str> = capabilities.cpus.iter().map(|cpu| cpu.name.as_str()).collect();
    let fits = |known: &Known| vendor.is_none_or(|vendor| known.vendor.is_empty() || known.vendor == vendor);
    // A name with a version says the same as the one without, which more programs know.
    let versioned = |name: &str| {
        name.rsplit_once("-v").is_some_and(|(_, version)| version.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let models = known_models().into_iter().filter(fits).map(|known| known.name);
    models.filter(|name| has.contains(name) && !versioned(name)).collect()
}

/// Whose processors are of this model; nobody's of some.
pub(crate) fn vendor_of_model(name: &str) -> Option<&'static str> {
    let known = known_models().into_iter().find(|known| known.name == name)?;
    (!known.vendor.is_empty()).then_some(known.vendor)
}

/// A processor as a model and what is switched on it.
pub(crate) fn nearest<'a>(
    wanted: &Features,
    models: &'a BTreeMap<String, Features>,
    preferred: &[String],
) -> Option<(&'a str, &'a Features)> {
    // As for the host's own model: what would have to be switched off weighs three times as much.
    let weight = |name: &str, has: &Features| {
        let (more, less) = (wanted.difference(has).count(), has.difference(wanted).count());
        let rank = preferred.iter().position(|other| other == name).unwrap_or(preferred.len());
        (more + 3 * less, rank)
    };
    let best = models.iter().min_by_key(|(name, has)| weight(name, has));
    best.map(|(name, has)| (name.as_str(), has))
}

/// The `<cpu>` of a guest.
pub(crate) fn write(
    model: (&str, &Features),
    wanted: &Features,
    vendor: Option<&str>,
    fallback: &str,
    expanded: bool,
) -> String {
    let (name, has) = model;
    let mut cpu = Element::new("cpu").with("mode", "custom").with("match", "exact");
    cpu.push(Element::new("model").with("fallback", fallback).with_text(name));
    if let Some(vendor) = vendor {
        cpu.push(Element::new("vendor").with_text(vendor));
    }
    let mut listed: Vec<(&String, bool)> = if expanded {
        wanted.union(has).map(|name| (name, wanted.contains(name))).collect()
    } else {
        wanted.symmetric_difference(has).map(|name| (name, wanted.contains(name))).collect()
    };
    if !expanded {
        let places = places();
        let place = |name: &str| {
            let qemu = RENAMED.iter().find(|(_, usual)| *usual == name).map_or(name, |(qemu, _)| *qemu);
            places.get(qemu).copied()
        };
        listed.sort_by_key(|(name, on)| (!on, place(name)));
    }
    for (name, on) in listed {
        let policy = if on { "require" } else { "disable" };
        cpu.push(Element::new("feature").with("policy", policy).with("name", name.as_str()));
    }
    cpu.to_xml()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> Features {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn less_is_incompatible_more_is_a_superset_and_strict_wants_no_more() {
        let host = set(&["sse2", "pni", "avx"]);
        let compare = |xml: &str| Described::read(xml).unwrap().compare(&set(&["sse2", "pni"]), &host).0;
        assert_eq!(compare("<cpu><model>a</model></cpu>"), Comparison::Superset);
        assert_eq!(compare("<cpu><model>a</model><feature name='avx'/></cpu>"), Comparison::Identical);
        assert_eq!(compare("<cpu match='strict'><model>a</model></cpu>"), Comparison::Incompatible);
        let absent = "<cpu><model>a</model><feature policy='require' name='svm'/></cpu>";
        assert_eq!(compare(absent), Comparison::Incompatible);
        let forbidden = "<cpu><model>a</model><feature policy='forbid' name='avx'/></cpu>";
        let (result, why) = Described::read(forbidden).unwrap().compare(&set(&["sse2"]), &host);
        assert!(result == Comparison::Incompatible && why.contains("avx"), "{why}");
        let less = "<cpu><model>a</model><feature policy='disable' name='pni'/></cpu>";
        assert_eq!(compare(less), Comparison::Superset);
    }

    #[test]
    fn what_is_no_processor_is_refused_as_libvirt_refuses_it() {
        let code = |xml: &str| Described::read(xml).unwrap_err().code;
        assert_eq!(code("<cpu"), Code::XML_DETAIL);
        assert_eq!(code("<foo/>"), Code::XML_ERROR);
        assert_eq!(code("<cpu><feature/></cpu>"), Code::XML_ERROR);
        assert_eq!(code("<cpu><feature name='a' policy='b'/></cpu>"), Code::CONFIG_UNSUPPORTED);
    }

    #[test]
    fn the_nearest_model_is_one_that_promises_no_more_and_what_differs_is_written() {
        let models = BTreeMap::from([
            ("big".to_owned(), set(&["a", "b", "c", "d"])),
            ("small".to_owned(), set(&["a"])),
        ]);
        let wanted = set(&["a", "b", "c"]);
        let found = nearest(&wanted, &models, &[]).unwrap();
        assert_eq!(found.0, "small");
        let xml = write(found, &wanted, Some("AMD"), "allow", false);
        assert!(
            xml.contains("<model fallback='allow'>small</model>")
                && xml.contains("policy='require' name='b'")
        );
        let all = write(found, &wanted, None, "forbid", true);
        assert_eq!(all.matches("<feature").count(), 3);
    }

    #[test]
    fn qemus_word_about_the_accelerators_features_does_not_count() {
        let told: BTreeSet<String> =
            ["sse2", "hypervisor", "svm", "lahf-lm", "cmp-legacy", "min-level"].map(str::to_owned).into();
        let known = known_models().into_iter().find(|known| known.name == "qemu64");
        // By the table qemu64 has svm and lacks lahf-lm.
        assert_eq!(settled(told, known.as_ref()), set(&["sse2", "cmp_legacy", "svm"]));
    }
}
