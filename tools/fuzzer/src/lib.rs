//! What is fed with hostile bytes: one function for each decoder, the seeds that it begins with, and the changes made to them.
//!
//! A function panics where a rule is broken, and says whether the bytes were accepted. `fuzz/` gives the same functions to
//! libFuzzer; [`runner`] runs them on a stable toolchain.

pub mod messages;
pub mod peers;
pub mod runner;
pub mod seeds;
pub mod texts;

/// One decoder.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is that of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Feeds it; true if the bytes were accepted.
    pub run: fn(&[u8]) -> bool,
    /// What it accepts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "header", run: messages::header, seeds: seeds::headers },
    Target { name: "message", run: messages::message, seeds: seeds::messages },
    Target { name: "call", run: messages::call, seeds: seeds::calls },
    Target { name: "xdr", run: messages::xdr, seeds: seeds::xdr },
    Target { name: "translate", run: messages::translate, seeds: seeds::translate },
    Target { name: "link", run: peers::link, seeds: seeds::frames },
    Target { name: "server", run: peers::server, seeds: seeds::frames },
    Target { name: "caller", run: peers::caller, seeds: seeds::answers },
    Target { name: "remote", run: peers::remote_frames, seeds: seeds::remote },
    Target { name: "xml", run: texts::xml, seeds: seeds::xml },
    Target { name: "domain", run: texts::domain, seeds: seeds::xml },
    Target { name: "capabilities", run: texts::capabilities, seeds: seeds::capabilities },
    Target { name: "monitor", run: peers::monitor, seeds: seeds::monitor },
];

/// The target of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
