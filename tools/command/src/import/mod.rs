//! `bulkhead import`: takes over what a host's libvirt knows. That libvirt's own files are read and nothing is changed there, so
//! it can be gone back to.

mod origin;
mod state;

use crate::output::Output;
use crate::{builder, open, options::Options, uri};
use anyhow::{Context, Result};
use bulkhead::wire::control::Layout;
use bulkhead::wire::types::Uuid;
use bulkhead::wire::types::secret::SecretValue;
use bulkhead::{Connection, Which};
use bulkhead_xml::{Element, Limits};
use origin::{Found, Origin};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// One thing, and what became of it.
#[derive(Debug, Serialize)]
struct Item {
    kind: &'static str,
    name: String,
    taken: bool,
    /// What came with it and what did not; for what was left, why.
    notes: Vec<String>,
}

/// Something that can be imported, for the same steps with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    Network,
    Pool,
    Domain,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Network => "network",
            Self::Pool => "pool",
            Self::Domain => "domain",
        }
    }

    /// Where libvirt keeps the definitions.
    const fn folder(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::Network => "qemu/networks",
            Self::Pool => "storage",
            Self::Domain => "qemu",
        }
    }
}

/// What there is in a stack already: names and uuids.
type Known = BTreeSet<String>;

struct Import<'a> {
    origin: Origin,
    /// Where definitions are made: the stack, or, if nothing is to change, one that goes afterwards.
    target: &'a Connection,
    /// Folder of the qemu driver's lasting state; `None` if nothing is to change.
    lib: Option<PathBuf>,
    items: Vec<Item>,
}

pub(crate) async fn import(
    options: &Options,
    from: Option<&Path>,
    dry_run: bool,
    output: &Output,
) -> Result<ExitCode> {
    let stack = bulkhead::Uri::parse(&uri(options)?)?.stack;
    let origin = match (from, &stack) {
        (Some(root), _) => Origin::host(root),
        (None, Which::Session) => Origin::session()?,
        (None, _) => Origin::host(Path::new("/")),
    };
    origin.check()?;
    let rehearsal = Rehearsal::new(dry_run)?;
    let known_to = if dry_run { open(options).await.ok() } else { Some(open(options).await?) };
    let target = match (&rehearsal, &known_to) {
        (None, Some(stack)) => stack.clone(),
        _ => rehearse(options, &rehearsal).await?,
    };
    let lib = match stack {
        Which::System => Layout::system(),
        Which::Session => bulkhead::session_layout()?,
        Which::Embed(root) => Layout::embed(&root),
    }
    .lib;
    let lib = (!dry_run).then(|| lib.join("qemu"));
    let mut import = Import { origin, target: &target, lib, items: Vec::new() };
    // What others name comes first.
    for kind in [Kind::Secret, Kind::Network, Kind::Pool, Kind::Domain] {
        let known = match &known_to {
            Some(stack) => known(stack, kind).await?,
            None => Known::new(),
        };
        import.all(kind, &known).await?;
    }
    for (kind, name, why) in import.origin.strange() {
        import.items.push(Item { kind, name, taken: false, notes: vec![why.to_owned()] });
    }
    let items = import.items;
    if rehearsal.is_some() {
        target.stop().await?;
    }
    report(output, &items, dry_run)?;
    Ok(ExitCode::SUCCESS)
}

/// A root for a stack in which it is tried what would be taken.
struct Rehearsal(PathBuf);

impl Rehearsal {
    fn new(wanted: bool) -> Result<Option<Self>> {
        if !wanted {
            return Ok(None);
        }
        let root = std::env::temp_dir().join(format!("bulkhead-import-{}", std::process::id()));
        // Nobody else's: it is made here, or there is an error.
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&root)
            .with_context(|| root.display().to_string())?;
        Ok(Some(Self(root)))
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn rehearse(options: &Options, rehearsal: &Option<Rehearsal>) -> Result<Connection> {
    let Rehearsal(root) = rehearsal.as_ref().context("there is no stack")?;
    let root = root.to_str().context("the folder for temporary files is not UTF-8")?;
    let uri = format!("qemu:///embed?root={}", crate::output::percent_encode(root));
    Ok(builder(options, &uri).open().await?)
}

/// What a stack has of a kind.
async fn known(stack: &Connection, kind: Kind) -> Result<Known> {
    let both = |name: String, uuid: Uuid| [name, uuid.to_string()];
    Ok(match kind {
        Kind::Secret => {
            let list = stack.secrets().connect_list_all_secrets(1, 0).await?.secrets;
            list.into_iter().map(|secret| secret.uuid.to_string()).collect()
        }
        Kind::Network => {
            let list = stack.networks().connect_list_all_networks(1, 0).await?.networks;
            list.into_iter().flat_map(|network| both(network.name, network.uuid)).collect()
        }
        Kind::Pool => {
            let list = stack.pools().connect_list_all_storage_pools(1, 0).await?.pools;
            list.into_iter().flat_map(|pool| both(pool.name, pool.uuid)).collect()
        }
        Kind::Domain => {
            let list = stack.domains().connect_list_all_domains(1, 0).await?.domains;
            list.into_iter().flat_map(|domain| both(domain.name, domain.uuid)).collect()
        }
    })
}

impl Import<'_> {
    async fn all(&mut self, kind: Kind, known: &Known) -> Result<()> {
        for found in self.origin.definitions(kind.folder())? {
            let name = found.name.clone();
            let (taken, notes) = match self.one(kind, found, known).await {
                Ok(notes) => (true, notes),
                Err(error) => (false, vec![format!("{error:#}")]),
            };
            self.items.push(Item { kind: kind.name(), name, taken, notes });
        }
        Ok(())
    }

    /// Takes one thing; gives what is to be said of it.
    async fn one(&self, kind: Kind, found: Found, known: &Known) -> Result<Vec<String>> {
        let root = found.root.map_err(anyhow::Error::msg)?;
        let uuid = root.child_text("uuid").map(|uuid| uuid.trim().to_lowercase());
        let there = [Some(&found.name), uuid.as_ref()].into_iter().flatten().any(|name| known.contains(name));
        anyhow::ensure!(!there, "this stack has one of that name or uuid already, which is left as it is");
        let mut notes = Vec::new();
        match kind {
            Kind::Secret => {
                let secret = self.target.secrets().secret_define_xml(root.to_xml(), 0).await?;
                match self.origin.secret(&found.file) {
                    Ok(Some(value)) => {
                        self.target.secrets().secret_set_value(secret, SecretValue::new(value), 0).await?;
                        notes.push("with its value".to_owned());
                    }
                    Ok(None) => notes.push("it has no value".to_owned()),
                    Err(error) => notes.push(format!("without its value: {error:#}")),
                }
            }
            Kind::Network => {
                let networks = self.target.networks();
                let network = networks.network_define_xml(root.to_xml()).await?;
                if found.autostart && self.lib.is_some() {
                    networks.network_set_autostart(network, 1).await?;
                }
            }
            Kind::Pool => {
                let pools = self.target.pools();
                let pool = pools.storage_pool_define_xml(root.to_xml(), 0).await?;
                if found.autostart && self.lib.is_some() {
                    pools.storage_pool_set_autostart(pool, 1).await?;
                }
                if !self.starts_pools(root.attr("type").unwrap_or_default()).await? {
                    notes.push("it can't be started yet: pools of its type are not served".to_owned());
                }
            }
            Kind::Domain => return self.domain(&found.name, root, found.autostart).await,
        }
        if found.autostart {
            notes.push("started with the stack".to_owned());
        }
        Ok(notes)
    }

    /// Does this stack serve pools of a type?
    async fn starts_pools(&self, kind: &str) -> Result<bool> {
        let text = self.target.pools().connect_get_storage_pool_capabilities(0).await?;
        let root = bulkhead_xml::parse(text.as_bytes(), Limits::default(), "")?;
        let served = root
            .all("pool")
            .find(|pool| pool.attr("type") == Some(kind))
            .and_then(|pool| pool.attr("supported"));
        Ok(served == Some("yes"))
    }

    async fn domain(&self, name: &str, mut root: Element, autostart: bool) -> Result<Vec<String>> {
        // It becomes part of files' names.
        anyhow::ensure!(!name.is_empty() && !name.contains('/'), "'{name}' is no name of a domain");
        if let Some(pid) = self.origin.process(name) {
            anyhow::bail!("it runs under libvirt (process {pid}); shut it down there and import again");
        }
        // Its state is there before it is: it could be started as soon as it is defined.
        let (mut notes, mut made) = (Vec::new(), Vec::new());
        let domains = self.target.domains();
        let taken = match self.take_state(name, &mut root, &mut made) {
            Ok(with) => {
                notes.extend(with.into_iter().map(|what| format!("with its {what}")));
                domains.domain_define_xml_flags(root.to_xml(), 0).await.map_err(anyhow::Error::from)
            }
            Err(error) => Err(error),
        };
        let domain = taken.inspect_err(|_| {
            for file in &made {
                let _ = std::fs::remove_file(file);
            }
        })?;
        let native = domains.connect_domain_xml_to_native("qemu-argv".to_owned(), root.to_xml(), 0).await;
        notes.extend(native.err().map(|error| format!("it can't be started yet: {error}")));
        for (folder, what) in [("snapshot", "snapshots"), ("checkpoint", "checkpoints")] {
            let count = self.origin.count(&Path::new("qemu").join(folder).join(name), "xml");
            if count > 0 {
                notes.push(format!(
                    "without its {count} {what}, which this stack does not serve; they stay in its images"
                ));
            }
        }
        if autostart {
            if self.lib.is_some() {
                domains.domain_set_autostart(domain, 1).await?;
            }
            notes.push("started with the stack".to_owned());
        }
        Ok(notes)
    }

    /// Copies what a guest has beside its definition, and has the definition name the copies. Gives what there is of it; `made`
    /// are the files to remove if the domain is left after all.
    fn take_state(
        &self,
        name: &str,
        root: &mut Element,
        made: &mut Vec<PathBuf>,
    ) -> Result<Vec<&'static str>> {
        let mut wanted = Vec::new();
        let own = |path: String| self.lib.as_ref().map(|lib| lib.join(path));
        if let Some(old) = self.rename_variables(root, name) {
            wanted.push(("firmware variables", old, own(format!("nvram/{name}_VARS.fd"))));
        }
        let saved = self.origin.state.join("qemu/save").join(format!("{name}.save"));
        wanted.push(("stored state", saved, own(format!("save/{name}.save"))));
        if let Some(uuid) = root.child_text("uuid").and_then(|uuid| Uuid::parse(uuid.trim())) {
            for version in ["tpm2", "tpm1.2"] {
                let old = self.origin.tpms.join(uuid.to_string()).join(version);
                wanted.push(("TPM", old, own(format!("swtpm/{uuid}/{version}"))));
            }
        }
        let mut with = Vec::new();
        for (what, old, new) in wanted.into_iter().filter(|(_, old, _)| old.exists()) {
            if let (Some(lib), Some(new)) = (&self.lib, new) {
                state::copy(&old, lib, &new, made)?;
            }
            with.push(what);
        }
        Ok(with)
    }

    /// Firmware variables that lie with libvirt are to lie with this stack; gives where they are now.
    fn rename_variables(&self, root: &mut Element, name: &str) -> Option<PathBuf> {
        let nvram = root.child_mut("os")?.child_mut("nvram")?;
        let named = match nvram.child("source") {
            Some(source) => source.attr("file")?.to_owned(),
            None => nvram.text(),
        };
        let old = self.origin.state_file(named.trim())?;
        let Some(lib) = &self.lib else { return Some(old) };
        let new = lib.join("nvram").join(format!("{name}_VARS.fd"));
        let new = new.to_str()?;
        match nvram.child_mut("source") {
            Some(source) => source.set("file", new),
            None => nvram.set_text(new),
        }
        Some(old)
    }
}

fn report(output: &Output, items: &[Item], dry_run: bool) -> Result<()> {
    if output.json {
        return output.value(&serde_json::json!({ "dry_run": dry_run, "items": items }));
    }
    let row = |item: &Item| {
        let verdict = if item.taken { "taken" } else { "left" };
        vec![verdict.to_owned(), item.kind.to_owned(), item.name.clone(), item.notes.join("; ")]
    };
    output.table(&["", "Kind", "Name", "Notes"], &items.iter().map(row).collect::<Vec<_>>())?;
    let taken = items.iter().filter(|item| item.taken).count();
    let would = if dry_run { "would be " } else { "" };
    output
        .line(&format!("{taken} {would}taken, {} left; nothing was changed in libvirt", items.len() - taken))
}
