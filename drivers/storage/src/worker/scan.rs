//! What is in the folder.

use super::failure;
use super::folder::{Folder, kind_of, status_of};
use crate::image::{Format, Image};
use crate::protocol::{Content, Failure, Found, Status, UNFINISHED, VOLUMES_MAX};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::statvfs::fstatvfs;
use std::collections::HashMap;
use std::path::{Component, Path};
use std::sync::PoisonError;

impl Folder {
    /// One entry as a volume; `None` for what is none.
    pub(super) fn found(
        &self,
        name: &str,
        stat: &FileStat,
        link: bool,
        raw: bool,
    ) -> Result<Option<Found>, Errno> {
        let status = status_of(stat);
        let folder = kind_of(stat) == SFlag::S_IFDIR;
        let image = match kind_of(stat) {
            SFlag::S_IFDIR if !link => Image { format: Format::Dir, ..Image::default() },
            SFlag::S_IFREG if raw => Image::default(),
            SFlag::S_IFREG => self.image(name, stat, link)?,
            _ => return Ok(None),
        };
        let backing = image.backing.as_ref().and_then(|backing| self.backing(&backing.name));
        Ok(Some(Found { name: name.to_owned(), status, folder, link, image, backing }))
    }

    /// What an image stands on, if that is a file of this folder. Nothing else is looked at on a header's word.
    fn backing(&self, name: &str) -> Option<(Status, Format)> {
        let path = Path::new(name);
        let inside = if path.is_absolute() { path.strip_prefix(&self.path).ok()? } else { path };
        let mut parts = inside.components();
        let (Some(Component::Normal(entry)), None) = (parts.next(), parts.next()) else {
            return None;
        };
        let entry = entry.to_str()?;
        let (stat, link) = self.stat(entry).ok()?;
        if kind_of(&stat) != SFlag::S_IFREG {
            return None;
        }
        let image = self.image(entry, &stat, link).ok()?;
        Some((status_of(&stat), image.format))
    }

    pub(super) fn scan(&self, raw: &[(String, u64)]) -> Result<Content, Failure> {
        let failed = |errno| failure(format_args!("Can't look into {}", self.path), errno);
        let raw: HashMap<&str, u64> = raw.iter().map(|(name, inode)| (name.as_str(), *inode)).collect();
        let sizes = fstatvfs(&self.handle).map_err(failed)?;
        let unit: u64 = sizes.fragment_size();
        let mut content = Content {
            status: status_of(&fstat(&self.handle).map_err(failed)?),
            capacity_bytes: sizes.blocks().saturating_mul(unit),
            available_bytes: sizes.blocks_free().saturating_mul(unit),
            ..Content::default()
        };
        // A second description of the folder: reading names moves its position.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let listed = openat(&self.handle, ".", flags, Mode::empty()).map_err(failed)?;
        let mut entries = Dir::from_fd(listed).map_err(failed)?;
        let mut before = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let mut now = HashMap::new();
        for entry in entries.iter() {
            let entry = entry.map_err(failed)?;
            let name = match entry.file_name().to_str() {
                Ok("." | "..") => continue,
                Ok(name) if name.chars().any(char::is_control) => {
                    content.unnamable += 1;
                    continue;
                }
                Ok(name) => name,
                Err(_not_text) => {
                    content.unnamable += 1;
                    continue;
                }
            };
            if name.starts_with(UNFINISHED) || content.files.len() >= VOLUMES_MAX {
                continue;
            }
            // What has gone meanwhile, and links that lead nowhere or out of here, are no volumes.
            let Ok((stat, link)) = self.stat(name) else { continue };
            let is_raw = raw.get(name) == Some(&stat.st_ino);
            let same = before.remove(name).filter(|known| {
                let status = status_of(&stat);
                (known.status.inode, known.status.changed, known.status.size_bytes)
                    == (status.inode, status.changed, status.size_bytes)
                    && known.link == link
                    && known.backing.is_none()
                    && (!is_raw || known.image == Image::default())
            });
            let found = match same {
                Some(known) => Some(Found { status: status_of(&stat), ..known }),
                None => self.found(name, &stat, link, is_raw).unwrap_or(None),
            };
            if let Some(found) = found {
                now.insert(found.name.clone(), found.clone());
                content.files.push(found);
            }
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(content)
    }
}
