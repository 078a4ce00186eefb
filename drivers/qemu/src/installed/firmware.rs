//! Firmware as its descriptors say: files of QEMU's format for that, put there by packages and by the host's owner.

use crate::domain::host::Firmware;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where descriptors are. A file of the owner's stands for the packages' one of the same name, an empty one for none.
const FOLDERS: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];
/// Descriptors are small and few.
const LONGEST: u64 = 64 << 10;
const MOST: usize = 256;

/// When the folders were last changed.
pub(super) type Age = [Option<SystemTime>; 2];

pub(super) fn age() -> Age {
    FOLDERS.map(|folder| fs::metadata(folder).and_then(|metadata| metadata.modified()).ok())
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Descriptor {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "device", rename_all = "kebab-case")]
enum Mapping {
    #[serde(rename_all = "kebab-case")]
    Flash {
        mode: Option<String>,
        executable: File,
        nvram_template: Option<File>,
    },
    Memory {
        filename: String,
    },
    Kernel {},
}

#[derive(Deserialize)]
struct File {
    filename: String,
    #[serde(default = "raw")]
    format: String,
}

fn raw() -> String {
    "raw".to_owned()
}

#[derive(Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

/// The firmware that is installed, in the order of preference.
pub(super) fn installed() -> Vec<Firmware> {
    let folders = FOLDERS.map(PathBuf::from);
    read(&folders)
}

fn read(folders: &[PathBuf]) -> Vec<Firmware> {
    let mut files = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if Path::new(&name).extension().is_some_and(|ending| ending == "json") {
                files.insert(name, entry.path());
            }
        }
    }
    let mut firmware = Vec::new();
    for path in files.values().take(MOST) {
        match read_one(path) {
            Ok(mut found) => firmware.append(&mut found),
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "this descriptor of firmware is left out");
            }
        }
    }
    firmware
}

fn read_one(path: &Path) -> Result<Vec<Firmware>, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LONGEST).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let descriptor: Descriptor = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(describe(&descriptor))
}

fn describe(descriptor: &Descriptor) -> Vec<Firmware> {
    let (image, loader_type, template) = match &descriptor.mapping {
        Mapping::Flash { mode, executable, nvram_template } => {
            // Others have no variables, or would have every guest write to the one image.
            let split = mode.as_deref().is_none_or(|mode| mode == "split");
            let Some(template) = nvram_template.as_ref().filter(|_| split) else {
                return Vec::new();
            };
            let image = (executable.filename.clone(), executable.format.clone());
            (image, "pflash", Some(template.filename.clone()))
        }
        Mapping::Memory { filename } => ((filename.clone(), raw()), "rom", None),
        Mapping::Kernel {} => return Vec::new(),
    };
    let kind = descriptor.interface_types.iter().find_map(|kind| match kind.as_str() {
        "uefi" => Some("efi"),
        "bios" => Some("bios"),
        _ => None,
    });
    let Some(kind) = kind else { return Vec::new() };
    let of = |target: &Target| Firmware {
        kind: kind.to_owned(),
        arch: match target.architecture.as_str() {
            "i386" => "i686".to_owned(),
            "arm" => "armv7l".to_owned(),
            other => other.to_owned(),
        },
        machines: target.machines.clone(),
        loader: image.0.clone(),
        format: image.1.clone(),
        loader_type: loader_type.to_owned(),
        template: template.clone(),
        features: descriptor.features.clone(),
    };
    descriptor.targets.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flash(name: &str, arch: &str) -> String {
        format!(
            r#"{{"description":"x","interface-types":["uefi"],"mapping":{{"device":"flash",
            "executable":{{"filename":"/fw/{name}","format":"raw"}},
            "nvram-template":{{"filename":"/fw/vars","format":"raw"}}}},
            "targets":[{{"architecture":"{arch}","machines":["pc-q35-*"]}}],"features":["secure-boot"],"tags":[]}}"#
        )
    }

    #[test]
    fn the_owners_descriptors_stand_for_the_packages_and_nonsense_is_left_out() {
        let root = std::env::temp_dir().join(format!("bh-firmware-{}", std::process::id()));
        let (packages, owners) = (root.join("share"), root.join("etc"));
        for folder in [&packages, &owners] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(packages.join("50-a.json"), flash("a", "x86_64")).unwrap();
        fs::write(packages.join("60-b.json"), flash("b", "x86_64")).unwrap();
        fs::write(packages.join("70-c.json"), flash("c", "i386")).unwrap();
        fs::write(packages.join("80-d.json"), "nonsense").unwrap();
        fs::write(packages.join("README"), "none").unwrap();
        fs::write(owners.join("60-b.json"), "").unwrap();
        fs::write(owners.join("10-own.json"), flash("own", "x86_64")).unwrap();
        fs::write(
            owners.join("90-e.json"),
            r#"{"interface-types":["bios"],"mapping":{"device":"memory","filename":"/fw/bios"},
            "targets":[{"architecture":"x86_64","machines":["pc-*"]}]}"#,
        )
        .unwrap();
        let found = read(&[packages, owners]);
        fs::remove_dir_all(&root).unwrap();
        let loaders: Vec<&str> = found.iter().map(|firmware| firmware.loader.as_str()).collect();
        assert_eq!(loaders, ["/fw/own", "/fw/a", "/fw/c", "/fw/bios"]);
        let own = &found[0];
        assert_eq!(
            (own.kind.as_str(), own.loader_type.as_str(), own.arch.as_str()),
            ("efi", "pflash", "x86_64")
        );
        assert_eq!(
            (own.template.as_deref(), own.features.as_slice()),
            (Some("/fw/vars"), &["secure-boot".to_owned()][..])
        );
        assert_eq!((found[2].arch.as_str(), found[3].loader_type.as_str()), ("i686", "rom"));
    }
}
