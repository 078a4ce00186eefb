//! The guest's firmware: what is given is matched against the host's images, what is left open is chosen from them.

use super::context::Context;
use super::host::Firmware;
use super::refuse;
use crate::device::schema::{Shape, one_of, shape, text, yes_no};
use crate::device::source;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

const LOADER: Shape = shape(
    "loader",
    &[
        yes_no("readonly"),
        yes_no("secure"),
        one_of("type", &["rom", "pflash"]),
        yes_no("stateless"),
        one_of("format", &["raw", "qcow2"]),
    ],
    &[],
);

const NVRAM: Shape = shape(
    "nvram",
    &[
        text("template"),
        one_of("templateFormat", &["raw", "qcow2"]),
        one_of("type", &["file", "block", "network", "volume", "dir"]),
        one_of("format", &["raw", "qcow2"]),
    ],
    &[],
);

const FEATURE: Shape = shape(
    "feature",
    &[yes_no("enabled").required(), one_of("name", &["enrolled-keys", "secure-boot"]).required()],
    &[],
);

/// Pairs of image and template that are known without the host's list.
const KNOWN_PAIRS: &[(&str, &str)] = &[
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    ("/usr/share/AAVMF/AAVMF32_CODE.fd", "/usr/share/AAVMF/AAVMF32_VARS.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];

/// What a definition says of its firmware.
struct Wanted {
    kind: Option<String>,
    loader: Option<Element>,
    path: Option<String>,
    nvram: Option<Element>,
    features: Vec<(String, bool)>,
    smm: Option<bool>,
}

impl Wanted {
    fn read(input: &Element, given: &Element, os: &Element) -> Result<Self, Error> {
        let mut features = Vec::new();
        for feature in given.child("firmware").iter().flat_map(|list| list.all("feature")) {
            let feature = FEATURE.read(feature)?;
            let name = feature.attr("name").unwrap_or_default().to_owned();
            features.push((name, feature.attr("enabled") == Some("yes")));
        }
        let loader = given.child("loader").map(|loader| LOADER.read(loader)).transpose()?;
        let path = given.child_text("loader").filter(|path| !path.is_empty());
        Ok(Self {
            kind: os.attr("firmware").map(str::to_owned),
            loader,
            path,
            nvram: given.child("nvram").map(read_nvram).transpose()?,
            features,
            smm: input.at("features/smm").map(|smm| smm.attr("state") != Some("off")),
        })
    }

    fn loader_attr(&self, name: &str) -> Option<&str> {
        self.loader.as_ref().and_then(|loader| loader.attr(name))
    }

    fn feature(&self, name: &str) -> Option<bool> {
        self.features.iter().find(|(known, _)| known == name).map(|(_, enabled)| *enabled)
    }

    /// Whether an image of the host is what the definition asks for.
    fn fits(&self, firmware: &Firmware, context: &Context) -> bool {
        let has = |name: &str| firmware.features.iter().any(|feature| feature == name);
        let secure = match self.loader_attr("secure") {
            Some("yes") => Some(true),
            Some(_) => Some(false),
            None => None,
        };
        let template = self.nvram.as_ref().and_then(|nvram| nvram.attr("template"));
        let format = |value: Option<&str>| value.is_none_or(|format| format == firmware.format);
        self.kind.as_ref().is_none_or(|kind| *kind == firmware.kind)
            && firmware.arch == context.arch
            && firmware.machines.iter().any(|machine| matches(machine, &context.machine))
            && self.path.as_ref().is_none_or(|path| *path == firmware.loader)
            && template.is_none_or(|template| firmware.template.as_deref() == Some(template))
            && secure.is_none_or(|secure| secure == has("secure-boot"))
            && self.features.iter().all(|(name, enabled)| *enabled == has(name))
            && self.loader_attr("stateless") != Some("yes")
            && self.loader_attr("type").is_none_or(|kind| kind == firmware.loader_type)
            && self.loader_attr("readonly") != Some("no")
            && format(self.loader_attr("format"))
            && format(self.nvram.as_ref().and_then(|nvram| nvram.attr("templateFormat")))
            && format(self.nvram.as_ref().and_then(|nvram| nvram.attr("format")))
            && !(has("requires-smm") && self.smm == Some(false))
    }
}

fn matches(pattern: &str, machine: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => machine.starts_with(start),
        None => machine == pattern,
    }
}

fn read_nvram(given: &Element) -> Result<Element, Error> {
    let mut nvram = NVRAM.read(given)?;
    match nvram.attr("type").map(str::to_owned) {
        Some(kind) => {
            if let Some(given) = given.child("source")
                && let Some(source) = source::read(&kind, given)?
            {
                nvram.push(source);
            }
        }
        None => {
            let path = given.text();
            if !path.is_empty() {
                nvram.set_text(path);
            }
        }
    }
    Ok(nvram)
}

/// Adds firmware, loader and variables to `os`; answers whether the machine needs SMM for it.
pub(super) fn complete(
    input: &Element,
    given: &Element,
    os: &mut Element,
    name: &str,
    context: &Context,
) -> Result<bool, Error> {
    let variables = &format!("{}/nvram/{name}_VARS.fd", context.host.state_folder);
    let mut wanted = Wanted::read(input, given, os)?;
    check(&wanted)?;
    if wanted.kind.is_none() && wanted.loader.is_none() && wanted.nvram.is_none() {
        return Ok(false);
    }
    // The type that is printed for a loader whose type is not given.
    let untyped = wanted.loader_attr("type").is_none();
    let automatic = wanted.kind.is_some();
    // None of the host's images is made for encrypted guests with nested paging.
    let impossible = input.path_attr("launchSecurity", "type") == Some("sev-snp");
    if !automatic
        && untyped
        && let Some(loader) = &mut wanted.loader
    {
        loader.set("type", "rom");
    }
    if let Some(firmware) = (!impossible && (automatic || wanted.loader_attr("type") == Some("pflash")))
        .then(|| context.host.firmware.iter().find(|firmware| wanted.fits(firmware, context)))
        .flatten()
    {
        let needs_smm = apply(firmware, wanted, os, variables);
        return Ok(needs_smm && automatic);
    }
    if let Some(kind) = &wanted.kind {
        return Err(Error::new(
            Code::OPERATION_FAILED,
            Origin::QEMU,
            format!(
                "No '{kind}' firmware of this host fits machine type '{}' of {} and what <os> asks for",
                context.machine, context.arch
            ),
        ));
    }
    as_given(wanted, untyped, os, variables)?;
    Ok(false)
}

fn check(wanted: &Wanted) -> Result<(), Error> {
    if wanted.feature("enrolled-keys") == Some(true) && wanted.feature("secure-boot") == Some(false) {
        return Err(refuse::detail(
            "<firmware>: 'enrolled-keys' needs 'secure-boot'; enable both or neither",
        ));
    }
    if wanted.kind.as_deref() == Some("bios") && wanted.loader_attr("stateless") == Some("no") {
        return Err(refuse::detail("Only EFI firmware keeps variables; remove stateless='no'"));
    }
    if wanted.kind.is_none() {
        if !wanted.features.is_empty() {
            return Err(refuse::detail(
                "<firmware> has features, but no firmware is to be chosen; set firmware='efi' in <os>",
            ));
        }
        if wanted.loader.is_some() && wanted.path.is_none() {
            return Err(refuse::detail("<loader> names no file; name one or set firmware='efi' in <os>"));
        }
    }
    if wanted.nvram.is_some() {
        let efi = match &wanted.kind {
            Some(kind) => kind == "efi",
            None => wanted.loader_attr("type") == Some("pflash") || wanted.loader_attr("type").is_none(),
        };
        if !efi {
            return Err(refuse::detail("<nvram> is for EFI firmware alone; remove it"));
        }
        if wanted.loader_attr("stateless") == Some("yes") {
            return Err(refuse::detail("<nvram> and a stateless <loader> exclude each other"));
        }
    }
    if wanted.kind.is_none() && wanted.loader_attr("secure") == Some("yes") {
        if wanted.smm != Some(true) {
            return Err(refuse::unsupported_by_qemu(
                "A secure <loader> needs SMM; add <smm state='on'/> to <features>",
            ));
        }
        if wanted.loader_attr("type") != Some("pflash") {
            return Err(refuse::unsupported_by_qemu("A secure <loader> needs type 'pflash'"));
        }
    }
    Ok(())
}

fn apply(firmware: &Firmware, wanted: Wanted, os: &mut Element, variables: &str) -> bool {
    let has = |name: &str| firmware.features.iter().any(|feature| feature == name);
    os.set("firmware", firmware.kind.as_str());
    let mut nvram = wanted.nvram.unwrap_or_else(|| Element::new("nvram"));
    let remote = nvram.attr("type") == Some("network");
    let mut features = Element::new("firmware");
    for feature in ["enrolled-keys", "secure-boot"] {
        // Keys lie in the variables' template, which a remote place does not get.
        if feature == "secure-boot" || !remote {
            features.push(
                Element::new("feature")
                    .with("enabled", if has(feature) { "yes" } else { "no" })
                    .with("name", feature),
            );
        }
    }
    os.push(features);
    let mut loader = wanted.loader.unwrap_or_else(|| Element::new("loader"));
    loader.set("readonly", "yes");
    if has("secure-boot") {
        loader.set("secure", "yes");
    }
    loader.set("type", firmware.loader_type.as_str());
    loader.set("format", firmware.format.as_str());
    loader.set_text(firmware.loader.as_str());
    LOADER.arrange(&mut loader);
    os.push(loader);
    if let Some(template) = &firmware.template {
        if !remote {
            nvram.set("template", template.as_str());
            nvram.set("templateFormat", firmware.format.as_str());
        }
        nvram.set("format", firmware.format.as_str());
        complete_path(&mut nvram, variables);
        NVRAM.arrange(&mut nvram);
        os.push(nvram);
    }
    has("requires-smm")
}

/// The variables of a guest lie under its name unless another place is given.
fn complete_path(nvram: &mut Element, variables: &str) {
    if nvram.children.is_empty() && nvram.attr("type").is_none() {
        nvram.set_text(variables);
    }
}

/// A loader that the host's list does not know.
fn as_given(wanted: Wanted, untyped: bool, os: &mut Element, variables: &str) -> Result<(), Error> {
    let Some(mut loader) = wanted.loader else {
        return Err(refuse::detail("<nvram> needs a <loader> or firmware='efi' in <os>"));
    };
    let path = wanted.path.unwrap_or_default();
    let flash = loader.attr("type") == Some("pflash");
    if (flash || untyped) && loader.attr("format").is_none() {
        loader.set("format", "raw");
    }
    loader.set_text(path.as_str());
    LOADER.arrange(&mut loader);
    let writable = loader.attr("readonly") != Some("yes");
    let stateless = loader.attr("stateless") == Some("yes");
    os.push(loader);
    let mut nvram = wanted.nvram.unwrap_or_else(|| Element::new("nvram"));
    if flash && !writable && !stateless {
        if nvram.attr("template").is_none() {
            let known = KNOWN_PAIRS.iter().find(|(image, _)| *image == path);
            if let Some((_, template)) = known {
                nvram.set("template", *template);
            }
        }
        let known =
            nvram.attr("template").is_some_and(|template| KNOWN_PAIRS.contains(&(path.as_str(), template)));
        if known {
            nvram.set("templateFormat", "raw");
        }
        if nvram.attr("format").is_none() {
            nvram.set("format", "raw");
        }
        complete_path(&mut nvram, variables);
    }
    NVRAM.arrange(&mut nvram);
    if !nvram.attributes.is_empty() || !nvram.children.is_empty() {
        os.push(nvram);
    }
    Ok(())
}
