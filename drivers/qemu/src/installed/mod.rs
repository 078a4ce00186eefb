//! The host that definitions are read against, as it is: the emulators among the programs that the host's owner allows, with
//! the machines that they say they have, and the firmware that is installed.
//!
//! Nothing is asked before a definition needs it. An emulator that can't be asked counts as the one of the built-in table.

mod firmware;

use crate::capabilities::Capabilities;
use crate::domain::Host;
use crate::domain::host::{Emulator, Machine};
use crate::node;
use crate::probe::{self, Probes};
use bulkhead_xml::Element;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Architectures whose usual machine is `virt`, whatever QEMU takes when none is named.
const USUALLY_VIRT: [&str; 6] = ["aarch64", "armv6l", "armv7l", "loongarch64", "riscv32", "riscv64"];

/// What a definition says of the emulator that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    arch: String,
    emulator: String,
    kvm: bool,
}

/// The host as it is.
#[derive(Debug)]
pub(crate) struct Installed {
    /// What does not change.
    base: Host,
    /// The built-in table, read when somebody needs it.
    table: OnceLock<BTreeMap<String, Emulator>>,
    /// The programs that may be run.
    programs: Vec<PathBuf>,
    probes: Arc<Probes>,
    known: Mutex<Known>,
}

/// What was found out, for as long as it holds.
#[derive(Debug, Default)]
struct Known {
    /// Firmware was read when its folders were so old.
    firmware: firmware::Age,
    kvm: bool,
    /// All usual emulators, none asked.
    usual: Option<Arc<Host>>,
    hosts: HashMap<Wanted, Arc<Host>>,
}

impl Installed {
    /// A host with these programs; `base` is what else there is to know.
    pub(crate) fn new(base: Host, programs: Vec<PathBuf>, probes: Arc<Probes>) -> Self {
        Self { base, table: OnceLock::new(), programs, probes, known: Mutex::default() }
    }

    fn table(&self) -> &BTreeMap<String, Emulator> {
        self.table.get_or_init(Host::emulators_of_qemu_10_0)
    }

    /// Is this one of the programs that may be run?
    pub(crate) fn is_installed(&self, program: &str) -> bool {
        self.programs.iter().any(|known| known.as_os_str() == program)
    }

    /// Is there a program of this name among them?
    pub(crate) fn has_program(&self, name: &str) -> bool {
        self.programs.iter().any(|program| program.ends_with(name))
    }

    /// The program that emulates an architecture: the table's, else one of its name elsewhere.
    fn usual_program(&self, arch: &str, emulator: &Emulator) -> Option<String> {
        let named = |wanted: &Path| {
            let mut programs = self.programs.iter();
            programs.find(|program| program.file_name() == wanted.file_name())
        };
        let usual = Path::new(&emulator.path);
        let found = if self.is_installed(&emulator.path) {
            Some(emulator.path.clone())
        } else {
            named(usual).map(|program| program.display().to_string())
        };
        // The narrow processors are in the wide ones.
        let wider = self.table().get("x86_64").filter(|_| arch == "i686");
        found.or_else(|| self.usual_program("x86_64", wider?))
    }

    /// Hosts that were made before, unless the host has changed since.
    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (firmware, kvm) = (firmware::age(), node::has_kvm());
        if known.firmware != firmware || known.kvm != kvm {
            *known = Known { firmware, kvm, ..Known::default() };
        }
        known
    }

    /// The host with the usual emulator of each architecture, none of which is asked.
    pub(crate) fn usual(&self) -> Arc<Host> {
        let mut known = self.known();
        let kvm = known.kvm;
        let make = || {
            let mut host = self.base.clone();
            host.firmware = firmware::installed();
            for (arch, emulator) in self.table() {
                if let Some(path) = self.usual_program(arch, emulator) {
                    let kvm = kvm && emulator.kvm;
                    host.emulators.insert(arch.clone(), Emulator { path, kvm, ..emulator.clone() });
                }
            }
            Arc::new(host)
        };
        Arc::clone(known.usual.get_or_insert_with(make))
    }

    /// The architecture that a program emulates, by its name; the host's own if it emulates several.
    pub(crate) fn architecture_of(&self, program: &str) -> Option<String> {
        if !self.is_installed(program) {
            return None;
        }
        let host = self.usual();
        let name = Path::new(program).file_name();
        let emulates = |arch: &str| {
            let usual = self.table().get(arch).map(|emulator| Path::new(&emulator.path).file_name());
            usual == Some(name)
        };
        if emulates(&host.arch) {
            return Some(host.arch.clone());
        }
        self.table().keys().find(|arch| emulates(arch)).cloned()
    }

    /// What a definition is for.
    fn wanted(&self, root: &Element) -> Wanted {
        let given = root.at("devices/emulator").map(Element::text).filter(|path| !path.is_empty());
        let usual = self.usual();
        let arch = root.path_attr("os/type", "arch").map(str::to_owned);
        let arch = arch.or_else(|| self.architecture_of(given.as_ref()?));
        let arch = arch.unwrap_or_else(|| crate::domain::architecture(root, &usual));
        let emulator = given.or_else(|| Some(usual.emulator(&arch)?.path.clone())).unwrap_or_default();
        Wanted { arch, emulator, kvm: root.attr("type") == Some("kvm") }
    }

    /// The host for a definition: with the emulator that it names as that of its architecture, which has said what it can do.
    pub(crate) async fn for_definition(&self, root: &Element) -> Arc<Host> {
        self.asked(self.wanted(root)).await
    }

    /// The host with this emulator as that of its architecture.
    pub(crate) async fn with(&self, arch: &str, emulator: &str, kvm: bool) -> Arc<Host> {
        self.asked(Wanted { arch: arch.to_owned(), emulator: emulator.to_owned(), kvm }).await
    }

    async fn asked(&self, mut wanted: Wanted) -> Arc<Host> {
        let usual = self.usual();
        let table = self.table().get(&wanted.arch);
        // What is not there is told by who reads the definition.
        let Some(table) = table.filter(|_| self.is_installed(&wanted.emulator)) else {
            return usual;
        };
        wanted.kvm &= node::has_kvm() && table.kvm;
        if let Some(host) = self.known().hosts.get(&wanted) {
            return Arc::clone(host);
        }
        let answered = self.probes.of(&wanted.emulator, probe::host_facts(wanted.kvm)).await;
        let mut emulator =
            Emulator { path: wanted.emulator.clone(), kvm: table.kvm && node::has_kvm(), ..table.clone() };
        let mut host = Host::clone(&usual);
        match answered {
            Ok(capabilities) => take(&mut emulator, &wanted.arch, &capabilities),
            Err(error) => {
                tracing::warn!(emulator = wanted.emulator, %error, "counts as the one of the built-in table");
                host.emulators.insert(wanted.arch, emulator);
                // Perhaps it can be asked next time.
                return Arc::new(host);
            }
        }
        host.emulators.insert(wanted.arch.clone(), emulator);
        let host = Arc::new(host);
        self.known().hosts.insert(wanted, Arc::clone(&host));
        host
    }
}

/// Takes over what an emulator says of itself.
fn take(emulator: &mut Emulator, arch: &str, capabilities: &Capabilities) {
    let mut machines = BTreeMap::new();
    for machine in capabilities.machines.iter().filter(|machine| machine.name != "none") {
        let of = |canonical: Option<String>| Machine { canonical, maximum_vcpus: machine.cpu_max };
        machines.insert(machine.name.clone(), of(None));
        if let Some(alias) = &machine.alias {
            machines.insert(alias.clone(), of(Some(machine.name.clone())));
        }
    }
    let usual = capabilities.machine("virt").filter(|_| USUALLY_VIRT.contains(&arch));
    let default = usual.or_else(|| capabilities.machines.iter().find(|machine| machine.default));
    if let Some(default) = default {
        emulator.default_machine = default.name.clone();
    }
    emulator.machines = machines;
}
