//! `<tpm>`.

pub(crate) mod args;

use super::chardev::{self, SocketPath};
use super::common;
use super::refusal;
use super::schema::{Shape, attribute, flag, number, one_of, place, shape, text, yes_no};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const TPM: Shape = shape(
    "tpm",
    &[one_of("model", &["tpm-tis", "tpm-crb", "tpm-spapr", "tpm-spapr-proxy"])],
    &[place("backend")],
);

const TYPE: Shape =
    shape("backend", &[one_of("type", &["passthrough", "emulator", "external"]).required()], &[]);

const PASSTHROUGH: Shape =
    shape("backend", &[attribute("type", Kind::Text)], &[shape("device", &[text("path")], &[])]);

const EMULATOR: Shape = shape(
    "backend",
    &[
        attribute("type", Kind::Text),
        one_of("version", &["default", "1.2", "2.0"]),
        yes_no("persistent_state").unless("no"),
        number("debug"),
    ],
    &[
        shape("encryption", &[attribute("secret", Kind::Uuid)], &[]),
        shape("active_pcr_banks", &[], &[flag("sha1"), flag("sha256"), flag("sha384"), flag("sha512")]),
        shape("source", &[one_of("type", &["file", "dir"]), text("path")], &[]),
        shape(
            "profile",
            &[text("source"), one_of("removeDisabled", &["check", "fips-host"]), text("name")],
            &[],
        ),
    ],
);

/// What the rest of the driver asks about a TPM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// The model (`tpm-crb`).
    pub(crate) fn model(self) -> &'a str {
        self.0.attr("model").unwrap_or_default()
    }
}

/// The canonical form of a TPM.
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut tpm = TPM.read(input)?;
    match input.all("backend").count() {
        0 => return Err(refusal::xml(input, "it needs a <backend>")),
        1 => {}
        _ => return Err(refusal::xml(input, "it has several <backend>; keep one")),
    }
    let Some(given) = input.child("backend") else {
        return Ok(tpm);
    };
    let kind = TYPE.read(given)?.unset("type").unwrap_or_default();
    let model = model_of(&tpm, context);
    tpm.set("model", model);
    let backend = match kind.as_str() {
        "passthrough" => passthrough(given)?,
        "emulator" => emulator(given, model, context)?,
        _ => external(given)?,
    };
    tpm.push(backend);
    common::append(input, &mut tpm, common::PLAIN)?;
    Ok(tpm)
}

fn model_of(tpm: &Element, context: &Context<'_>) -> &'static str {
    match tpm.attr("model") {
        Some("tpm-crb") => "tpm-crb",
        Some("tpm-spapr") => "tpm-spapr",
        Some("tpm-spapr-proxy") => "tpm-spapr-proxy",
        Some(_) => "tpm-tis",
        None if context.arch.starts_with("ppc64") => "tpm-spapr",
        None => "tpm-tis",
    }
}

fn passthrough(given: &Element) -> Result<Element, Error> {
    let mut backend = PASSTHROUGH.read(given)?;
    if backend.path_attr("device", "path").is_none() {
        backend.child_or_insert("device").set("path", "/dev/tpm0");
    }
    Ok(backend)
}

fn emulator(given: &Element, model: &str, context: &Context<'_>) -> Result<Element, Error> {
    let mut backend = EMULATOR.read(given)?;
    if backend.attr("version").is_none_or(|version| version == "default") {
        let oldest = context.is_x86() && model == "tpm-tis";
        backend.set("version", if oldest { "1.2" } else { "2.0" });
    }
    if backend.attr("version") == Some("1.2") && backend.child("active_pcr_banks").is_some() {
        return Err(refusal::xml(given, "only version 2.0 has PCR banks; remove <active_pcr_banks>"));
    }
    EMULATOR.arrange(&mut backend);
    Ok(backend)
}

fn external(given: &Element) -> Result<Element, Error> {
    let mut backend = Element::new("backend").with("type", "external");
    let kind = given.path_attr("source", "type");
    if kind != Some("unix") {
        return Err(refusal::xml(given, "an external TPM needs <source type='unix'>"));
    }
    let mut connection = Element::new("backend");
    chardev::append(given, &mut connection, "unix", SocketPath::Given)?;
    if let Some(source) = connection.take("source") {
        let mut typed = Element::new("source").with("type", "unix");
        typed.attributes.extend(source.attributes);
        typed.children = source.children;
        backend.push(typed);
    }
    Ok(backend)
}

/// Whether architecture and version suit the model.
pub(crate) fn check(tpm: &Element, context: &Context<'_>) -> Result<(), Error> {
    let arch = context.arch.as_str();
    let model = View(tpm).model();
    let fits = match model {
        "tpm-crb" => context.is_x86(),
        "tpm-spapr" | "tpm-spapr-proxy" => arch.starts_with("ppc64"),
        _ => true,
    };
    if !fits {
        return Err(refusal::unsupported_by_qemu(
            tpm,
            format!("TPM model '{model}' does not exist on {arch}"),
        ));
    }
    if tpm.path_attr("backend", "version") == Some("1.2") && model != "tpm-tis" {
        return Err(refusal::unsupported_by_qemu(
            tpm,
            format!("version 1.2 can't be had with model '{model}'; use 'tpm-tis'"),
        ));
    }
    Ok(())
}
