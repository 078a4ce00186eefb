//! The firmware variables that a guest has of its own, when its definition goes.

use super::Guest;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;
use std::path::{Component, Path, PathBuf};

/// What is to become of the variables of a domain that is undefined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variables {
    /// Nobody said: a domain that has some is not undefined.
    Unsaid,
    /// They go with it.
    Removed,
    /// They stay.
    Kept,
}

/// Where the variables are, if they are a file.
fn file(root: &Element) -> Option<PathBuf> {
    let nvram = root.at("os/nvram")?;
    let path = match nvram.child("source") {
        Some(source) => source.attr("file")?.to_owned(),
        None => nvram.text(),
    };
    (!path.is_empty()).then(|| PathBuf::from(path))
}

/// Is it a file of this folder itself?
fn is_in(folder: &Path, path: &Path) -> bool {
    let mut rest = path.strip_prefix(folder).map(Path::components).into_iter().flatten();
    matches!((rest.next(), rest.next()), (Some(Component::Normal(_)), None))
}

impl Guest {
    /// Refuses to undefine what has variables about which nothing was said, and removes them if that was.
    ///
    /// The refusal does not depend on whether the file is there yet: a client can't see that, and shall get the same
    /// answer before the first start and after it.
    pub(super) async fn settle_variables(&self, root: &Element, asked: Variables) -> Result<(), Error> {
        let Some(path) = file(root).filter(|_| asked != Variables::Kept) else {
            return Ok(());
        };
        let what = format!("Domain '{}': firmware variables {}", self.name, path.display());
        if asked == Variables::Unsaid {
            return Err(self.invalid(&format!(
                "cannot undefine domain with nvram {}: say whether the file goes with it (flag \
                 VIR_DOMAIN_UNDEFINE_NVRAM, --nvram) or stays (VIR_DOMAIN_UNDEFINE_KEEP_NVRAM, --keep-nvram)",
                path.display()
            )));
        }
        if !is_in(&self.environment.variables_folder(), &path) {
            // No start has made it, and whether it is there can't be seen from here: it was a person's, and stays so.
            tracing::warn!("{what} were not made by this stack and are left where they are");
            return Ok(());
        }
        if let Some(other) = self.other_with(&path) {
            return Err(self.invalid(&format!(
                "firmware variables {} are those of domain '{other}' too and stay there: undefine this one with \
                 VIR_DOMAIN_UNDEFINE_KEEP_NVRAM, --keep-nvram",
                path.display()
            )));
        }
        let removal = move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        self.environment.on_disk(&what, removal).await
    }
}

impl Guest {
    /// Another domain that names this file.
    fn other_with(&self, path: &Path) -> Option<String> {
        let others = self.environment.all().into_iter().map(|guest| guest.view.get());
        let mut others = others.filter(|view| view.uuid != self.uuid && view.exists());
        others
            .find(|view| {
                let roots = [
                    view.persistent.as_ref().map(|known| &known.root),
                    view.live.as_ref().map(|live| &*live.root),
                ];
                roots.into_iter().flatten().any(|root| file(root).as_deref() == Some(path))
            })
            .map(|view| view.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_own_folder_are_ours() {
        let own = Path::new("/lib/nvram");
        assert!(is_in(own, Path::new("/lib/nvram/a_VARS.fd")));
        for other in ["/lib/nvram", "/lib/nvram/../shadow", "/lib/nvram/a/b", "/lib/nvram2/a", "a"] {
            assert!(!is_in(own, Path::new(other)), "{other}");
        }
    }

    #[test]
    fn variables_are_a_file_in_both_spellings() {
        let of = |nvram: &str| {
            let text = format!("<domain><os>{nvram}</os></domain>");
            file(&crate::domain::document(text.as_bytes()).unwrap())
        };
        assert_eq!(of("<nvram>/a</nvram>"), Some(PathBuf::from("/a")));
        assert_eq!(of("<nvram type='file'><source file='/a'/></nvram>"), Some(PathBuf::from("/a")));
        assert_eq!(of("<nvram type='network'><source protocol='nbd'/></nvram>"), None);
        assert_eq!(of("<nvram/>"), None);
    }
}
