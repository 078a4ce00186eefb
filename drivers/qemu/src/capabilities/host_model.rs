//! The host's processor as a named model with features switched on and off, which a guest with `<cpu mode='host-model'>` gets.
//!
//! QEMU says which features its best processor has here, and which each named model has. The nearest model is taken; what it
//! has too much or too little is switched. The tables say what QEMU does not: which features it switches by accelerator,
//! and in which order features are told.

use super::query::features;
use super::{Capabilities, Query, Reply, ReplyError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const FEATURES: &str = include_str!("tables/features.txt");
const MODELS: &str = include_str!("tables/models.txt");

/// Features that QEMU gives or takes by accelerator, whatever the model: the table alone says whether a model has them.
const BY_ACCELERATOR: [&str; 8] =
    ["vme", "x2apic", "monitor", "svm", "npt", "nrip-save", "svme-addr-chk", "vnmi"];
/// What tells a guest that it is one; no processor has it.
const BY_EVERY_ACCELERATOR: &str = "hypervisor";
/// A feature that no guest has after it was moved: it is told, and not given.
pub(crate) const NOT_MOVABLE: &str = "invtsc";
/// Whether a guest has it follows from its topology under KVM.
const BY_TOPOLOGY: &str = "topoext";

/// Features that libvirt names otherwise than QEMU does: QEMU's name and libvirt's.
pub(super) const RENAMED: &[(&str, &str)] = &[
    ("cmp-legacy", "cmp_legacy"),
    ("ds-cpl", "ds_cpl"),
    ("fxsr-opt", "fxsr_opt"),
    ("lahf-lm", "lahf_lm"),
    ("nodeid-msr", "nodeid_msr"),
    ("pclmulqdq", "pclmuldq"),
    ("perfctr-core", "perfctr_core"),
    ("perfctr-nb", "perfctr_nb"),
    ("tsc-adjust", "tsc_adjust"),
];

/// What libvirt calls a feature.
pub(crate) fn usual_name(name: &str) -> &str {
    RENAMED.iter().find(|(qemu, _)| *qemu == name).map_or(name, |(_, usual)| usual)
}

/// The host's CPU as a named model and what to switch on it, in QEMU's spelling.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostModel {
    /// The model.
    pub name: String,
    /// Whose processors are of this model (`AMD`); empty if nobody's.
    pub vendor: String,
    /// Features to switch on or off: what is switched on first, each in the order of the processor's registers.
    pub features: Vec<(String, bool)>,
}

impl HostModel {
    /// Features to switch for a guest.
    pub fn given(&self) -> impl Iterator<Item = (&str, bool)> {
        let all = self.features.iter().map(|(name, on)| (name.as_str(), *on));
        all.filter(|(name, _)| *name != NOT_MOVABLE)
    }
}

/// What the table says of one model.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) vendor: &'static str,
    pub(super) name: &'static str,
    pub(super) has: Vec<&'static str>,
    pub(super) lacks: Vec<&'static str>,
}

/// Does QEMU switch this by accelerator?
pub(super) fn is_by_accelerator(name: &str) -> bool {
    name == BY_EVERY_ACCELERATOR || BY_ACCELERATOR.contains(&name)
}

fn lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().filter(|line| !line.starts_with('#'))
}

/// The models of the table, in its order.
pub(super) fn known_models() -> Vec<Known> {
    let mut models = Vec::new();
    for line in lines(MODELS) {
        let Some((vendor, rest)) = line.split_once(" [") else { continue };
        let Some((differs, names)) = rest.split_once(']') else { continue };
        let (lacks, has): (Vec<_>, Vec<_>) =
            differs.split_whitespace().partition(|word| word.starts_with('-'));
        let lacks: Vec<_> = lacks.into_iter().map(|word| word.trim_start_matches('-')).collect();
        for name in names.split_whitespace() {
            let vendor = if vendor == "-" { "" } else { vendor };
            models.push(Known { vendor, name, has: has.clone(), lacks: lacks.clone() });
        }
    }
    models
}

/// Places of features in the order of the processor's registers; features that software alone knows have none.
pub(super) fn places() -> BTreeMap<&'static str, usize> {
    let registers = lines(FEATURES).filter_map(|line| line.split_once(": "));
    registers
        .flat_map(|(_, names)| names.split_whitespace())
        .enumerate()
        .map(|(at, name)| (name, at))
        .collect()
}

/// What a processor calls itself, and the vendor's usual name.
const VENDORS: [(&str, &str); 3] =
    [("AuthenticAMD", "AMD"), ("GenuineIntel", "Intel"), ("HygonGenuine", "Hygon")];

/// The usual name of the vendor whose processors call themselves so.
pub(crate) fn usual_vendor(own: &str) -> Option<&'static str> {
    VENDORS.iter().find(|(known, _)| *known == own).map(|(_, usual)| *usual)
}

/// What QEMU says of one model.
struct Expanded {
    vendor: &'static str,
    signature: (u64, u64),
    features: BTreeSet<String>,
}

impl Expanded {
    fn read(reply: &Value) -> Result<Self, ReplyError> {
        let properties = &reply["model"]["props"];
        let number = |name: &str| properties[name].as_u64().unwrap_or(0);
        let vendor = properties["vendor"].as_str().unwrap_or_default();
        Ok(Self {
            vendor: usual_vendor(vendor).unwrap_or_default(),
            signature: (number("family"), number("model")),
            features: features(reply)?,
        })
    }
}

fn expansion(model: &Value) -> Query {
    Query { command: "query-cpu-model-expansion", arguments: json!({"type": "full", "model": model}) }
}

/// The models that may describe the host, of those that this QEMU has.
fn candidates(capabilities: &Capabilities) -> Vec<Known> {
    if !matches!(capabilities.target.as_str(), "x86_64" | "i386") {
        return Vec::new();
    }
    let has: BTreeSet<&str> = capabilities.cpus.iter().map(|cpu| cpu.name.as_str()).collect();
    let mut models = known_models();
    models.retain(|model| {
        has.contains(model.name) && (capabilities.vendor.is_empty() || capabilities.vendor == model.vendor)
    });
    models
}

/// The questions whose answers tell the host's model, once it is known what this QEMU is; none where it has no such models.
#[must_use]
pub fn host_model_queries(capabilities: &Capabilities) -> Vec<Query> {
    let models = candidates(capabilities);
    if models.is_empty() {
        return Vec::new();
    }
    // Also what keeps a guest from being moved is told.
    let best = expansion(&json!({"name": "max", "props": {"migratable": false}}));
    let models = models.iter().map(|model| expansion(&json!({"name": model.name})));
    std::iter::once(best).chain(models).collect()
}

impl Capabilities {
    /// Reads the replies to [`host_model_queries`], one for each, in order.
    ///
    /// # Errors
    /// Replies that are missing or of another shape than documented.
    pub fn read_host_model(&mut self, replies: &[Reply]) -> Result<(), ReplyError> {
        let models = candidates(self);
        let expected = if models.is_empty() { 0 } else { models.len() + 1 };
        if replies.len() != expected {
            return Err(ReplyError::Count { expected, found: replies.len() });
        }
        // A model that QEMU has no answer about is none that describes the host.
        let [Ok(best), replies @ ..] = replies else {
            return Ok(());
        };
        let (best, places) = (Expanded::read(best)?, places());
        let told = |features: &BTreeSet<String>| -> BTreeSet<String> {
            features.iter().filter(|name| places.contains_key(name.as_str())).cloned().collect()
        };
        let wanted = told(&best.features);
        let mut nearest: Option<((bool, usize), &Known, BTreeSet<String>)> = None;
        for (model, reply) in models.iter().zip(replies) {
            let Ok(reply) = reply else { continue };
            let expanded = Expanded::read(reply)?;
            let mut has = told(&expanded.features);
            if self.kvm && !wanted.contains(BY_TOPOLOGY) {
                has.remove(BY_TOPOLOGY);
            }
            // What only QEMU says of the model is told in any case, on or off: an older QEMU may say otherwise.
            has.retain(|name| {
                let name = name.as_str();
                let doubtful = BY_ACCELERATOR.contains(&name) || model.lacks.contains(&name);
                name != BY_EVERY_ACCELERATOR && !(doubtful && wanted.contains(name))
            });
            has.extend(model.has.iter().map(|name| (*name).to_owned()));
            let (more, less) = (wanted.difference(&has).count(), has.difference(&wanted).count());
            // The model of this very processor comes first. A feature that the host lacks weighs three times as much as one
            // that has no place in the model, as software expects of a model what it is known for; with this weight stock
            // libvirt's choices come out on the hosts that were compared.
            let weight = (expanded.signature != best.signature, more + 3 * less);
            if nearest.as_ref().is_none_or(|(least, ..)| weight < *least) {
                nearest = Some((weight, model, has));
            }
        }
        self.host_model = nearest.map(|(_, model, has)| {
            let mut switched: Vec<(String, bool)> =
                wanted.symmetric_difference(&has).map(|name| (name.clone(), wanted.contains(name))).collect();
            switched.sort_by_key(|(name, on)| (!on, places.get(name.as_str()).copied()));
            HostModel { name: model.name.to_owned(), vendor: best.vendor.to_owned(), features: switched }
        });
        Ok(())
    }
}

/// The usual name of the vendor that an expanded model names; empty if it is none of those known.
pub(super) fn vendor_of(reply: &Value) -> String {
    Expanded::read(reply).map(|expanded| expanded.vendor.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::queries;
    use super::*;

    const COMMAND: &str = "query-cpu-definitions";

    fn capabilities(models: &[&str], vendor: &str) -> Capabilities {
        let mut replies: Vec<Reply> = queries().iter().map(|_| Ok(json!([]))).collect();
        let at = |command: &str| queries().iter().position(|query| query.command == command).unwrap();
        replies[at("query-version")] = Ok(json!({"qemu": {"major": 10, "minor": 0, "micro": 2}}));
        replies[at("query-target")] = Ok(json!({"arch": "x86_64"}));
        replies[at(COMMAND)] = Ok(models.iter().map(|name| json!({"name": name})).collect());
        replies[at("query-cpu-model-expansion")] = Ok(model(vendor, 0, &[]));
        Capabilities::from_replies(&replies).unwrap()
    }

    fn model(vendor: &str, family: u64, features: &[&str]) -> Value {
        let mut properties = json!({"vendor": vendor, "family": family, "model": 1, "tcg-cpuid": true});
        for feature in features {
            properties[*feature] = json!(true);
        }
        json!({"model": {"name": "x", "props": properties}})
    }

    #[test]
    fn the_tables_are_read_whole() {
        let (places, models) = (places(), known_models());
        let words =
            lines(FEATURES).flat_map(|line| line.split_whitespace().filter(|word| !word.ends_with(':')));
        assert!(places.len() > 250 && words.count() > places.len());
        assert!(models.iter().any(|model| model.name == "EPYC-Milan" && model.vendor == "AMD"));
        for model in &models {
            let features = model.has.iter().chain(&model.lacks);
            for feature in features {
                assert!(places.contains_key(feature), "{}: {feature}", model.name);
            }
        }
        let names: BTreeSet<&str> = models.iter().map(|model| model.name).collect();
        assert_eq!(names.len(), models.len());
    }

    #[test]
    fn only_the_vendors_models_are_asked_about() {
        let asked = |vendor| {
            let all = ["EPYC", "Haswell", "qemu64", "EPYC-Unheard-of"];
            let queries = host_model_queries(&capabilities(&all, vendor));
            let name = |query: &Query| query.arguments["model"]["name"].as_str().unwrap().to_owned();
            queries.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(asked("AuthenticAMD"), ["max", "EPYC"]);
        assert_eq!(asked("GenuineIntel"), ["max", "Haswell"]);
        let mut other = capabilities(&["EPYC"], "");
        other.target = "aarch64".to_owned();
        assert!(host_model_queries(&other).is_empty());
        assert_eq!(other.read_host_model(&[]), Ok(()));
    }

    #[test]
    fn what_the_host_lacks_weighs_more_than_what_the_model_lacks() {
        let mut capabilities = capabilities(&["Opteron_G1", "Opteron_G3"], "AuthenticAMD");
        let best = model("AuthenticAMD", 0, &["sse2", "x2apic", "lahf-lm", "hypervisor"]);
        let first = model("AuthenticAMD", 15, &["sse2", "hypervisor"]);
        let third = model("AuthenticAMD", 16, &["sse2", "lahf-lm", "abm", "monitor", "hypervisor"]);
        let replies = [Ok(best), Ok(first.clone()), Ok(third.clone())];
        capabilities.read_host_model(&replies).unwrap();
        let found = capabilities.host_model.clone().unwrap();
        assert_eq!((found.name.as_str(), found.vendor.as_str()), ("Opteron_G1", "AMD"));
        let features: Vec<(&str, bool)> =
            found.features.iter().map(|(name, on)| (name.as_str(), *on)).collect();
        assert_eq!(features, [("x2apic", true), ("hypervisor", true), ("lahf-lm", true)]);
        // The very processor goes before the nearest.
        let best = model("AuthenticAMD", 16, &["sse2", "invtsc"]);
        capabilities.read_host_model(&[Ok(best), Ok(first), Ok(third)]).unwrap();
        let found = capabilities.host_model.unwrap();
        assert_eq!(found.name, "Opteron_G3");
        let given: Vec<(&str, bool)> = found.given().collect();
        assert_eq!(given, [("monitor", false), ("lahf-lm", false), ("svm", false), ("abm", false)]);
        assert!(found.features.contains(&("invtsc".to_owned(), true)));
    }

    #[test]
    fn answers_without_sense_are_refused_and_none_is_no_harm() {
        let mut capabilities = capabilities(&["EPYC"], "AuthenticAMD");
        let refused = || Err("no".to_owned());
        assert!(matches!(capabilities.read_host_model(&[]), Err(ReplyError::Count { .. })));
        assert!(capabilities.read_host_model(&[Ok(json!("x")), refused()]).is_err());
        let best = model("AuthenticAMD", 0, &["sse2"]);
        assert!(capabilities.read_host_model(&[Ok(best.clone()), Ok(json!({}))]).is_err());
        capabilities.read_host_model(&[refused(), refused()]).unwrap();
        capabilities.read_host_model(&[Ok(best), refused()]).unwrap();
        assert_eq!(capabilities.host_model, None);
    }
}
