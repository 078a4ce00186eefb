//! A guest's TPM: its state on disk, made before the first start, and the emulator beside QEMU.
//!
//! Emulator and QEMU are given the two ends of one pair of sockets: there is no path by which anybody else could reach the
//! TPM, and the emulator ends with its guest.

use super::{Guest, Process, start};
use crate::driver::Environment;
use bulkhead_actors::fault;
use bulkhead_actors::state::Folder;
use bulkhead_wire::control::{Access, HelperRequest};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::secret::{SecretLookup, SecretValue};
use bulkhead_xml::Element;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time to make a TPM: keys of some thousand bits, on a loaded host.
const SETUP_WITHIN: Duration = Duration::from_secs(60);
/// Time in which an emulator ends by itself after its QEMU.
const END_WITHIN: Duration = Duration::from_secs(2);
/// What the key of a guest's emulator ends in, behind the guest's.
const KEY_ENDING: &str = "-swtpm";
/// The emulator's number for its end of the pair.
const CONTROL: i32 = 3;
/// Its number for its log.
const LOG: i32 = 4;
/// Its numbers for the passphrase of its state: what it stores, and what it sends to another host. Each is read to its end.
const KEY: i32 = 5;
const MIGRATION_KEY: i32 = 6;
/// `VIR_SECRET_USAGE_TYPE_VTPM`.
const USAGE_VTPM: i32 = 5;

/// The TPM of a guest that starts.
pub(super) struct Tpm {
    /// The device's alias.
    pub(super) alias: String,
    /// QEMU's end of the pair.
    pub(super) socket: Descriptor,
    /// The emulator.
    pub(super) process: Process,
}

/// What becomes of a TPM's state when its guest's definition is removed (`VIR_DOMAIN_UNDEFINE_TPM`, `_KEEP_TPM`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateOf {
    /// As its XML says.
    Xml,
    /// It goes.
    Removed,
    /// It stays.
    Kept,
}

/// The key of a guest's emulator.
pub(crate) fn key_of(guest: &str) -> String {
    format!("{guest}{KEY_ENDING}")
}

/// The emulated TPM of a domain.
fn emulated(root: &Element) -> Option<(&Element, &Element)> {
    let tpms = root.child("devices").into_iter().flat_map(|devices| devices.all("tpm"));
    let mut with_backend = tpms.filter_map(|tpm| Some((tpm, tpm.child("backend")?)));
    with_backend.rfind(|(_, backend)| backend.attr("type") == Some("emulator"))
}

/// Does a TPM's state outlive a guest without a definition?
fn is_lasting(root: &Element) -> bool {
    emulated(root).is_some_and(|(_, backend)| backend.attr("persistent_state") == Some("yes"))
}

/// The folder of all states of a guest's TPM.
fn folder_of(environment: &Environment, guest: &str) -> PathBuf {
    Path::new(&environment.host.state_folder).join("swtpm").join(guest)
}

impl Guest {
    /// Starts the emulator, if the guest has an emulated TPM; makes the TPM if it has none yet.
    pub(super) async fn start_tpm(
        &self,
        live: &Element,
        autodestroy: bool,
        setup: &mut Option<String>,
    ) -> Result<Option<Tpm>, Error> {
        self.check_tpms(live)?;
        let Some((tpm, backend)) = emulated(live) else {
            return Ok(None);
        };
        let is_new = backend.attr("version") != Some("1.2");
        let passphrase = match backend.path_attr("encryption", "secret") {
            Some(uuid) => {
                let uuid = Uuid::parse(uuid).ok_or_else(|| self.invalid("its TPM's secret has no UUID"))?;
                Some(self.secret(SecretLookup::Uuid(uuid), USAGE_VTPM).await?)
            }
            None => None,
        };
        let passphrase = passphrase.as_ref();
        let folder = folder_of(&self.environment, &self.key());
        let state = folder.join(if is_new { "tpm2" } else { "tpm1.2" });
        self.make_tpm(&folder, &state, is_new, passphrase, setup).await?;
        if let Some(banks) = backend.child("active_pcr_banks").filter(|_| is_new) {
            let banks: Vec<&str> = banks.elements().map(|bank| bank.name.as_str()).collect();
            let words = ["--tpm2", "--reconfigure", "--pcr-banks", &banks.join(",")].map(str::to_owned);
            self.run_setup(&folder, &state, words.to_vec(), passphrase, setup).await?;
        }
        fault::point("tpm", "before_helper");

        let system =
            |errno: nix::errno::Errno| Error::system(Origin::QEMU, self.tpm_text("sockets"), &errno.into());
        let (ours, its) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(system)?;
        let mut arguments = vec!["socket".to_owned(), "--ctrl".to_owned()];
        arguments.push(format!("type=unixio,clientfd={CONTROL}"));
        arguments.extend(["--tpmstate".to_owned(), format!("dir={},mode=0600", state.display())]);
        let mut descriptors = vec![(CONTROL, Descriptor::new(its))];
        let errors = self.open_log(&self.tpm_log()).await.0.and_then(Descriptor::into_owned);
        // The emulator closes its standard error when it is told where to log.
        let log = errors.as_ref().and_then(|pipe| pipe.try_clone().ok());
        if let (Some(level), Some(log)) = (backend.attr("debug"), log) {
            arguments.extend(["--log".to_owned(), format!("fd={LOG},level={level}")]);
            descriptors.push((LOG, Descriptor::new(log)));
        }
        if let Some(passphrase) = passphrase {
            for (option, number) in [("--key", KEY), ("--migration-key", MIGRATION_KEY)] {
                arguments.extend([option.to_owned(), format!("pwdfd={number},mode=aes-256-cbc")]);
                descriptors.push((number, self.in_memory(passphrase.expose())?));
            }
        }
        arguments.push("--terminate".to_owned());
        if is_new {
            arguments.push("--tpm2".to_owned());
        }
        let request = HelperRequest {
            key: key_of(&self.key()),
            class: "swtpm".to_owned(),
            program: PathBuf::from("/usr/bin/swtpm"),
            arguments,
            environment: Vec::new(),
            files: vec![(folder, Access::Folder)],
            listeners: Vec::new(),
            outputs: Vec::new(),
            descriptors,
            ports: Vec::new(),
            network: false,
            errors: errors.map(Descriptor::new),
            autodestroy,
        };
        let helper =
            self.environment.stack.start_helper(request).await.map_err(|error| self.named(&error))?;
        let (_, process) = start::process(helper)?;
        let alias = tpm.path_attr("alias", "name").unwrap_or_default().to_owned();
        Ok(Some(Tpm { alias, socket: Descriptor::new(ours), process }))
    }

    /// What of a TPM can't be had is refused before anything is made.
    fn check_tpms(&self, live: &Element) -> Result<(), Error> {
        let tpms = live.child("devices").into_iter().flat_map(|devices| devices.all("tpm"));
        for backend in tpms.filter_map(|tpm| tpm.child("backend")) {
            let refused = match backend.attr("type") {
                Some("passthrough") => {
                    "no guest gets the host's own (<backend type='passthrough'>); use type='emulator'"
                }
                Some("external") => {
                    "nobody connects to a TPM that somebody else runs (<backend type='external'>); use type='emulator'"
                }
                _ if backend.child("source").is_some() => {
                    "its state lies in the stack's own folder; remove <source>"
                }
                _ if backend.child("profile").is_some() => {
                    "it is made with its emulator's own profile; remove <profile>"
                }
                _ => continue,
            };
            let message = format!("Domain '{}': TPM: {refused}", self.name);
            return Err(Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, message));
        }
        Ok(())
    }

    fn tpm_log(&self) -> String {
        format!("{}-swtpm", self.name)
    }

    fn tpm_text(&self, what: &str) -> String {
        format!("Domain '{}': TPM: {what}", self.name)
    }

    /// Makes the TPM's keys and certificates, the first time. In a folder beside: half a TPM is none.
    async fn make_tpm(
        &self,
        folder: &Path,
        state: &Path,
        is_new: bool,
        passphrase: Option<&SecretValue>,
        setup: &mut Option<String>,
    ) -> Result<(), Error> {
        // The emulator's options know no way to write these.
        let text = state.to_string_lossy();
        if text.contains([',', '\n']) {
            let message = self.tpm_text(&format!("its folder {text:?} has a comma or a line break in its name; open the stack below another root"));
            return Err(Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, message));
        }
        let (fresh, made) = (folder.join("unfinished"), state.to_owned());
        let is_there = self
            .environment
            .on_disk(&self.tpm_text("folder of its state"), {
                let fresh = fresh.clone();
                move || {
                    if made.exists() {
                        return Ok(true);
                    }
                    if fresh.exists() {
                        std::fs::remove_dir_all(&fresh)?;
                    }
                    std::fs::create_dir_all(&fresh).map(|()| false)
                }
            })
            .await?;
        if is_there {
            return Ok(());
        }
        let mut words: Vec<String> = if is_new { vec!["--tpm2".to_owned()] } else { Vec::new() };
        words.extend(["--vmid".to_owned(), format!("{}:{}", self.name, self.uuid)]);
        let rest =
            ["--createek", "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--not-overwrite"];
        words.extend(rest.map(str::to_owned));
        self.run_setup(folder, &fresh, words, passphrase, setup).await?;
        let (folder, state) = (folder.to_owned(), state.to_owned());
        self.environment
            .on_disk(&self.tpm_text("state"), move || {
                std::fs::rename(&fresh, &state)?;
                std::fs::File::open(&folder)?.sync_all()
            })
            .await
    }

    /// Runs the program that makes and changes TPMs, and waits for its end.
    async fn run_setup(
        &self,
        folder: &Path,
        state: &Path,
        words: Vec<String>,
        passphrase: Option<&SecretValue>,
        setup: &mut Option<String>,
    ) -> Result<(), Error> {
        let environment = &self.environment;
        let key = format!("{}{KEY_ENDING}-setup-{}", self.key(), environment.next_number());
        let authority = Path::new(&environment.host.state_folder).join("swtpm/authority");
        environment
            .on_disk(&self.tpm_text("certificate authority"), {
                let authority = authority.clone();
                move || write_authority(&authority)
            })
            .await?;
        let mut arguments = vec!["--tpm-state".to_owned(), state.display().to_string()];
        arguments.extend(["--config".to_owned(), authority.join("setup.conf").display().to_string()]);
        arguments.extend(words);
        let mut descriptors = Vec::new();
        if let Some(passphrase) = passphrase {
            let words = ["--pwdfile-fd", &KEY.to_string(), "--cipher", "aes-256-cbc"].map(str::to_owned);
            arguments.extend(words);
            descriptors.push((KEY, self.in_memory(passphrase.expose())?));
        }
        let (errors, said_from) = self.open_log(&self.tpm_log()).await;
        let request = HelperRequest {
            key: key.clone(),
            class: "swtpm-setup".to_owned(),
            program: PathBuf::from("/usr/bin/swtpm_setup"),
            arguments,
            environment: vec![
                ("PATH".to_owned(), "/usr/bin".to_owned()),
                ("LC_ALL".to_owned(), "C".to_owned()),
            ],
            files: [folder, &authority].map(|path| (path.to_owned(), Access::Folder)).to_vec(),
            listeners: Vec::new(),
            outputs: Vec::new(),
            descriptors,
            ports: Vec::new(),
            network: false,
            errors,
            autodestroy: true,
        };
        *setup = Some(key.clone());
        let ended = environment.end_of(&key);
        environment.stack.start_helper(request).await.map_err(|error| self.named(&error))?;
        let status = tokio::time::timeout(SETUP_WITHIN, ended).await;
        *setup = status.is_err().then(|| key.clone());
        let said = match status {
            Ok(Some(0)) => return Ok(()),
            Ok(status) => {
                let said = environment.tail(&self.tpm_log(), said_from).await;
                format!(
                    "swtpm_setup ended with {}: {said}",
                    status.map_or("?".to_owned(), |code| code.to_string())
                )
            }
            Err(_elapsed) => {
                format!("swtpm_setup is not done within {} s", SETUP_WITHIN.as_secs())
            }
        };
        Err(Error::new(Code::INTERNAL, Origin::QEMU, self.tpm_text(&said)))
    }

    /// The guest's QEMU is gone: its emulator follows by itself, and is made to if it does not.
    pub(super) async fn end_tpm(&self, process: Option<Process>) {
        let Some(process) = process else { return };
        if tokio::time::timeout(END_WITHIN, process.readable()).await.is_ok() {
            return;
        }
        tracing::warn!(domain = self.name, "its TPM outlives it and is ended");
        let _ = self.environment.stack.kill_helper(&key_of(&self.key())).await;
        let _ = tokio::time::timeout(END_WITHIN, process.readable()).await;
    }

    /// Removes the TPM's state with the last of its guest, unless it is to stay.
    pub(super) async fn drop_tpm(&self, root: &Element, asked: StateOf) {
        let stays = match asked {
            StateOf::Xml => is_lasting(root),
            StateOf::Removed => false,
            StateOf::Kept => true,
        };
        let folder = folder_of(&self.environment, &self.key());
        if stays {
            return;
        }
        let what = self.tpm_text("its state is left behind");
        let removed = self.environment.on_disk(&what, move || match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        if let Err(error) = removed.await {
            tracing::error!(%error, "state of a TPM");
        }
    }
}

/// The stack's own certificate authority: who signs the certificates of its TPMs, and how that is told to `swtpm_setup`.
fn write_authority(folder: &Path) -> std::io::Result<()> {
    let files = Folder::open(folder, "authority", ".conf")?;
    let place = |name: &str| folder.join(name).display().to_string();
    let authority = format!(
        "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
        folder.display(),
        place("signkey.pem"),
        place("issuercert.pem"),
        place("certserial")
    );
    files.write("authority", authority.as_bytes())?;
    let setup = format!(
        "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\n\
         create_certs_tool_options = /etc/swtpm-localca.options\nactive_pcr_banks = sha256\n",
        place("authority.conf")
    );
    files.write("setup", setup.as_bytes())
}
