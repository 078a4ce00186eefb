//! `-numa`.

use super::builder::{Builder, attr, bytes, invalid, number_attr};
use super::memory::Backend;
use super::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;
use std::collections::BTreeSet;

/// Most nodes that QEMU takes.
const MOST_CELLS: usize = 128;
/// More CPUs or nodes than any machine has.
const MOST_MEMBERS: u64 = 1 << 16;

/// The members of a set like `0-3,^2,8`, in order.
pub(crate) fn cpu_set(text: &str) -> Result<Vec<u64>, Error> {
    let mut members = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (exclude, part) = match part.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, part),
        };
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bound = |text: &str| {
            text.trim()
                .parse::<u64>()
                .ok()
                .filter(|number| *number < MOST_MEMBERS)
                .ok_or_else(|| invalid(format!("'{text}' in the set '{part}' is not a small number")))
        };
        for member in bound(first)?..=bound(last)? {
            if exclude {
                members.remove(&member);
            } else {
                members.insert(member);
            }
        }
    }
    Ok(members.into_iter().collect())
}

/// The members as ranges, `0-3` or `8`.
fn ranges(members: &[u64]) -> Vec<String> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for member in members {
        match found.last_mut() {
            Some((_, last)) if *last + 1 == *member => *last = *member,
            _ => found.push((*member, *member)),
        }
    }
    found
        .into_iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect()
}

impl Builder<'_> {
    pub(crate) fn numa(&mut self) -> Result<(), Error> {
        let root = self.root;
        let Some(numa) = root.at("cpu/numa") else {
            return Ok(());
        };
        let cells: Vec<&Element> = numa.all("cell").collect();
        let hmat =
            numa.child("interconnects").is_some() || cells.iter().any(|cell| cell.child("cache").is_some());
        if cells.len() > MOST_CELLS {
            return Err(invalid(format!(
                "{} NUMA cells are more than the {MOST_CELLS} that QEMU takes",
                cells.len()
            )));
        }
        // The oldest form, without an object, is what these machine types have always had.
        let backends = self.cells_have_backends();
        for cell in &cells {
            self.cell(cell, numa, hmat, backends)?;
        }
        self.distances(&cells)?;
        if hmat {
            self.interconnects(numa)?;
            for cell in &cells {
                self.caches(cell)?;
            }
        }
        Ok(())
    }

    /// Whether the cells' memory stands in objects.
    pub(crate) fn cells_have_backends(&self) -> bool {
        let cells = self.cells();
        !cells.is_empty()
            && (self.machine().is_none_or(|machine| !machine.numa)
                || cells.iter().any(|cell| cell.attr("memAccess").is_some())
                || self.root.at("numatune/memnode").is_some())
    }

    fn cell(&mut self, cell: &Element, numa: &Element, hmat: bool, backends: bool) -> Result<(), Error> {
        let id = number_attr(cell, "id")?.unwrap_or(0);
        let size = self.cell_size(cell)?;
        let name = format!("ram-node{id}");
        if backends {
            let backend = self.backend(&Backend {
                id: &name,
                file: &name,
                size,
                access: cell.attr("memAccess"),
                discard: cell.attr("discard"),
                node: Some(id),
                nodes: None,
                path: None,
                device: None,
            })?;
            self.object(&backend.object());
        }
        let mut list = KeyValues::new("node");
        list.set("nodeid", id);
        if let Some(cpus) = cell.attr("cpus") {
            for range in ranges(&cpu_set(cpus)?) {
                list.set("cpus", range);
            }
        }
        if hmat {
            list.set_some("initiator", initiator(cell, numa, id)?);
        }
        if backends {
            list.set("memdev", name);
        } else {
            list.set("mem", size >> 20);
        }
        self.option("-numa", list)
    }

    fn distances(&mut self, cells: &[&Element]) -> Result<(), Error> {
        if !cells.iter().any(|cell| cell.child("distances").is_some()) {
            return Ok(());
        }
        let ids: Vec<u64> = (0..).take(cells.len()).collect();
        let mut given = std::collections::BTreeMap::new();
        for cell in cells {
            let from = number_attr(cell, "id")?.unwrap_or(0);
            for sibling in cell.child("distances").into_iter().flat_map(|all| all.all("sibling")) {
                attr(sibling, "id")?;
                let to = number_attr(sibling, "id")?.unwrap_or(0);
                given.insert((from, to), number_attr(sibling, "value")?.unwrap_or(0));
            }
        }
        for from in &ids {
            for to in &ids {
                let value = given
                    .get(&(*from, *to))
                    .or_else(|| given.get(&(*to, *from)))
                    .copied()
                    .unwrap_or(if from == to { 10 } else { 20 });
                let list = KeyValues::new("dist").with("src", from).with("dst", to).with("val", value);
                self.option("-numa", list)?;
            }
        }
        Ok(())
    }

    fn interconnects(&mut self, numa: &Element) -> Result<(), Error> {
        for link in numa.child("interconnects").into_iter().flat_map(Element::elements) {
            let latency = link.name == "latency";
            let mut list = KeyValues::new("hmat-lb");
            list.set("initiator", attr(link, "initiator")?).set("target", attr(link, "target")?);
            let hierarchy = match number_attr(link, "cache")?.unwrap_or(0) {
                0 => "memory",
                1 => "first-level",
                2 => "second-level",
                _ => "third-level",
            };
            list.set("hierarchy", hierarchy);
            let kind = attr(link, "type")?;
            let value = number_attr(link, "value")?.unwrap_or(0);
            if latency {
                list.set("data-type", format!("{kind}-latency")).set("latency", value);
            } else {
                let kibibytes = bytes(link, value)? >> 10;
                list.set("data-type", format!("{kind}-bandwidth")).set("bandwidth", format!("{kibibytes}K"));
            }
            self.option("-numa", list)?;
        }
        Ok(())
    }

    fn caches(&mut self, cell: &Element) -> Result<(), Error> {
        let id = number_attr(cell, "id")?.unwrap_or(0);
        for cache in cell.all("cache") {
            let size = |name: &str| match cache.child(name) {
                Some(size) => bytes(size, number_attr(size, "value")?.unwrap_or(0)),
                None => Ok(0),
            };
            let associativity = match cache.attr("associativity") {
                Some("full") => "complex",
                Some(other) => other,
                None => "none",
            };
            let policy = match cache.attr("policy") {
                Some("writeback") => "write-back",
                Some("writethrough") => "write-through",
                Some(other) => other,
                None => "none",
            };
            let list = KeyValues::new("hmat-cache")
                .with("node-id", id)
                .with("size", format!("{}K", size("size")? >> 10))
                .with("level", attr(cache, "level")?)
                .with("associativity", associativity)
                .with("policy", policy)
                .with("line", size("line")?);
            self.option("-numa", list)?;
        }
        Ok(())
    }
}

/// The node whose CPUs reach this one's memory best: itself if it has CPUs, else the one with the lowest latency or
/// the highest bandwidth.
fn initiator(cell: &Element, numa: &Element, id: u64) -> Result<Option<u64>, Error> {
    if cell.attr("cpus").is_some_and(|cpus| !cpus.is_empty()) {
        return Ok(Some(id));
    }
    let with_cpus: Vec<u64> = numa
        .all("cell")
        .filter(|cell| cell.attr("cpus").is_some_and(|cpus| !cpus.is_empty()))
        .filter_map(|cell| number_attr(cell, "id").ok().flatten())
        .collect();
    let mut best: Option<(u64, u64)> = None;
    let links = |name: &'static str| {
        numa.child("interconnects")
            .into_iter()
            .flat_map(move |all| all.elements().filter(move |link| link.name == name))
    };
    for (kind, want_high) in [("latency", false), ("bandwidth", true)] {
        for link in links(kind) {
            let target = number_attr(link, "target")?;
            let cache = number_attr(link, "cache")?.unwrap_or(0);
            let Some(from) = number_attr(link, "initiator")?.filter(|from| with_cpus.contains(from)) else {
                continue;
            };
            if target != Some(id) || cache != 0 || !matches!(link.attr("type"), Some("access" | "read")) {
                continue;
            }
            let value = number_attr(link, "value")?.unwrap_or(0);
            if best.is_none_or(|(_, found)| if want_high { value > found } else { value < found }) {
                best = Some((from, value));
            }
        }
        if let Some((from, _)) = best {
            return Ok(Some(from));
        }
    }
    Ok(with_cpus.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_become_ranges() {
        assert_eq!(ranges(&cpu_set("0-3,^2,8").unwrap()), ["0-1", "3", "8"]);
        assert!(cpu_set("0-99999999").is_err());
        assert!(cpu_set("a").is_err());
        assert!(cpu_set("").unwrap().is_empty());
    }
}
