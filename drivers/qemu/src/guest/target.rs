//! Where a guest's state is stored: beside its definition, or in a file that a client named.

use super::Guest;
use super::image::{Image, Place};
use super::live::Phase;
use super::save::{self, Stored};
use crate::domain::Definition;
use crate::driver::Environment;
use bulkhead_wire::control::FilePurpose;
use bulkhead_wire::error::{Code, Error, Origin};
use std::fs::File;
use std::path::Path;

/// A place for a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Beside the definition.
    Managed,
    /// In a file of a client's.
    File(String),
}

impl Target {
    /// What is on disk while a state is on its way there.
    pub(super) fn phase(&self, was_running: bool) -> Phase {
        let file = match self {
            Self::Managed => None,
            Self::File(path) => Some(path.clone()),
        };
        Phase::Saving { was_running, file }
    }
}

impl From<Option<String>> for Target {
    fn from(file: Option<String>) -> Self {
        file.map_or(Self::Managed, Self::File)
    }
}

impl Guest {
    /// Makes the file, or empties it.
    pub(super) async fn begin_image(&self, target: &Target) -> Result<File, Error> {
        match target {
            Target::Managed => self.on_image(Place::begin).await,
            Target::File(path) => {
                self.environment.open_file(&self.image_name(), path, FilePurpose::Fill).await
            }
        }
    }

    /// The file is filled: it is on the disk, and in its place, when this returns.
    pub(super) async fn finish_image(&self, target: &Target, file: File) -> Result<(), Error> {
        match target {
            Target::Managed => self.on_image(move |place| place.finish(&file)).await,
            Target::File(_) => {
                self.environment.on_disk(&self.image_name(), move || Image::complete(&file)).await
            }
        }
    }

    /// Removes what was not finished.
    pub(super) async fn abandon(&self, target: &Target) -> Result<(), Error> {
        match target {
            Target::Managed => self.on_image(Place::abandon).await,
            Target::File(path) => self.environment.stack.remove_file(Path::new(path)).await,
        }
    }

    /// Is the state stored there, whole?
    pub(super) async fn is_complete(&self, target: &Target) -> bool {
        match target {
            Target::Managed => self.place().is_stored(),
            Target::File(path) => self.environment.read_image(path).await.is_ok(),
        }
    }
}

impl Environment {
    async fn read_image(&self, path: &str) -> Result<(Image, File, u64), Error> {
        let what = format!("Stored state {path}");
        let file = self.open_file(&what, path, FilePurpose::Read).await?;
        let read = tokio::task::spawn_blocking(move || save::read(file)).await;
        let failed = |why: String| Error::new(Code::OPERATION_FAILED, Origin::QEMU, format!("{what}: {why}"));
        read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
    }

    /// The definition in a file that a guest can go on from.
    pub(crate) async fn image_definition(&self, path: &str) -> Result<Definition, Error> {
        let (image, ..) = self.read_image(path).await?;
        self.read(image.xml.as_bytes()).await.map(|(definition, _)| definition)
    }

    /// Opens a file that a guest can go on from. The guest goes on with another definition, if one is given.
    pub(crate) async fn open_image(
        &self,
        path: &str,
        xml: Option<&str>,
        runs: Option<bool>,
    ) -> Result<(Definition, Stored), Error> {
        let (image, file, offset) = self.read_image(path).await?;
        let (mut definition, _) = self.read(image.xml.as_bytes()).await?;
        if let Some(xml) = xml {
            let (wanted, _) = self.read(xml.as_bytes()).await?;
            super::stable::check(&definition.root, &wanted.root)?;
            definition = wanted;
        }
        Ok((definition, Stored { runs: runs.unwrap_or(image.runs), file, offset }))
    }

    /// Changes the definition in a file that a guest can go on from.
    pub(crate) async fn amend_image(
        &self,
        path: &str,
        xml: Option<String>,
        runs: Option<bool>,
    ) -> Result<(), Error> {
        let (image, ..) = self.read_image(path).await?;
        let amended = self.amended_image(image, xml, runs).await?;
        let what = format!("Stored state {path}");
        let file = self.open_file(&what, path, FilePurpose::Change).await?;
        self.on_disk(&what, move || amended.replace(&file)).await
    }

    /// A head with another definition, which the state behind it must fit.
    pub(super) async fn amended_image(
        &self,
        image: Image,
        xml: Option<String>,
        runs: Option<bool>,
    ) -> Result<Image, Error> {
        let (definition, _) = self.read(image.xml.as_bytes()).await?;
        let text = match xml {
            Some(xml) => {
                let (wanted, _) = self.read(xml.as_bytes()).await?;
                super::stable::check(&definition.root, &wanted.root)?;
                wanted.root.to_xml()
            }
            None => image.xml,
        };
        Ok(Image { xml: text, runs: runs.unwrap_or(image.runs) })
    }
}
