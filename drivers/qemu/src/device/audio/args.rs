//! `<audio>`: backends on the host.

use crate::args::builder::{Builder, attr, number_attr, switch};
use crate::args::json::Object;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// One backend.
pub(crate) fn build(builder: &mut Builder<'_>, audio: &Element) -> Result<(), Error> {
    let kind = attr(audio, "type")?;
    let driver = match kind {
        "pulseaudio" => "pa",
        "file" => "wav",
        "coreaudio" => "coreaudio",
        other => other,
    };
    let mut object = Object::new()
        .with("id", format!("audio{}", attr(audio, "id")?))
        .with("driver", driver)
        .with_some("timer-period", number_attr(audio, "timerPeriod")?);
    object
        .set_some("path", audio.attr("path"))
        .set_some("server", audio.attr("serverName"))
        .set_some("try-mmap", switch(audio, "tryMMap"))
        .set_some("exclusive", switch(audio, "exclusive"))
        .set_some("dsp-policy", number_attr(audio, "dspPolicy")?);
    for (element, property) in [("input", "in"), ("output", "out")] {
        if let Some(side) = audio.child(element) {
            let side = stream(side, kind)?;
            if !side.is_empty() {
                object.set(property, side);
            }
        }
    }
    builder.json("-audiodev", &object);
    Ok(())
}

fn stream(side: &Element, kind: &str) -> Result<Object, Error> {
    let mut object = Object::new();
    object
        .set_some("mixing-engine", switch(side, "mixingEngine"))
        .set_some("fixed-settings", switch(side, "fixedSettings"))
        .set_some("voices", number_attr(side, "voices")?)
        .set_some("buffer-length", number_attr(side, "bufferLength")?);
    if let Some(settings) = side.child("settings") {
        object
            .set_some("frequency", number_attr(settings, "frequency")?)
            .set_some("channels", number_attr(settings, "channels")?)
            .set_some("format", settings.attr("format"));
    }
    let name = if kind == "jack" { "client-name" } else { "name" };
    object
        .set_some(if kind == "jack" { "server-name" } else { "server" }, side.attr("serverName"))
        .set_some("client-name", side.attr("clientName"))
        .set_some("connect-ports", side.attr("connectPorts"))
        .set_some("exact-name", switch(side, "exactName"))
        .set_some("dev", side.attr("dev"))
        .set_some("buffer-count", number_attr(side, "bufferCount")?)
        .set_some("try-poll", switch(side, "tryPoll"))
        .set_some(name, side.attr("name"))
        .set_some("stream-name", side.attr("streamName"))
        .set_some("latency", number_attr(side, "latency")?);
    Ok(object)
}

/// The variables that some backends take their settings from.
pub(crate) fn environment(builder: &Builder<'_>) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for audio in builder.devices("audio") {
        match audio.attr("type") {
            Some("sdl") => {
                if let Some(driver) = audio.attr("driver") {
                    variables.push(("SDL_AUDIODRIVER".to_owned(), driver.to_owned()));
                }
            }
            Some("pipewire") => {
                if let Some(folder) = audio.attr("runtimeDir") {
                    variables.push(("PIPEWIRE_RUNTIME_DIR".to_owned(), folder.to_owned()));
                }
            }
            _ => {}
        }
    }
    variables
}
