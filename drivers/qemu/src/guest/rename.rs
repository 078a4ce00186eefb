//! Another name for a domain. What is kept under the name goes with it.

use super::{Guest, lifecycle};
use bulkhead_wire::error::Error;
use std::path::Path;
use std::sync::Arc;

impl Guest {
    /// Takes another name, which the caller has made sure is free.
    ///
    /// The new definition is written first and the old one removed last: whatever a crash leaves, one of them is whole.
    pub(crate) async fn rename(&mut self, name: String) -> Result<(), Error> {
        if self.running.is_some() {
            let mut error = self.invalid("cannot rename a domain that runs; shut it down first");
            error.origin = bulkhead_wire::error::Origin::QEMU;
            return Err(error);
        }
        let Some(definition) = &self.persistent else {
            return Err(self.invalid("a transient domain can't be renamed"));
        };
        let mut root = definition.root.clone();
        root.child_or_insert("name").set_text(name.clone());
        // Firmware variables are kept under the name as long as nobody chose another file for them.
        let variables = self.environment.variables_folder();
        let (old, new) =
            (variables.join(format!("{}_VARS.fd", self.name)), variables.join(format!("{name}_VARS.fd")));
        let moves = root.at("os/nvram").is_some_and(|nvram| Path::new(nvram.text().trim()) == old);
        if moves && let Some(nvram) = root.child_mut("os").and_then(|os| os.child_mut("nvram")) {
            nvram.set_text(new.display().to_string());
        }
        let (definition, _) = self.environment.read(root.to_xml().as_bytes()).await?;
        let (before, after) =
            (self.place(), super::image::Place::new(Path::new(&self.environment.host.state_folder), &name));
        let definitions = self.environment.definitions.clone();
        let marks = [
            (self.environment.autostart.clone(), self.autostart),
            (self.environment.autostart_once.clone(), self.autostart_once),
        ];
        let (from, to, text) = (self.name.clone(), name.clone(), definition.root.to_xml());
        self.environment
            .on_disk(&format!("Renaming domain '{from}'"), move || {
                definitions.write(&to, text.as_bytes())?;
                for (marks, _) in marks.iter().filter(|(_, marked)| *marked) {
                    marks.write(&to, b"")?;
                }
                before.rename_to(&after)?;
                if moves && old.exists() {
                    std::fs::rename(&old, &new)?;
                }
                marks.iter().try_for_each(|(marks, _)| marks.remove(&from))?;
                definitions.remove(&from)
            })
            .await?;
        self.emit(lifecycle::UNDEFINED_RENAMED);
        self.name = name;
        self.persistent = Some(Arc::new(definition));
        self.publish();
        self.emit(lifecycle::DEFINED_RENAMED);
        Ok(())
    }
}
