//! Guests of the corpus really started: what their QEMU was given, read from `/proc`, is what the driver answers for the
//! same definition, and what stock libvirt answered.
//!
//! Taken are the domains that use listed features only and that a machine without networks of its own and without swtpm
//! can start under TCG; files that they name are replaced by small ones in the root. Four differences are meant and left
//! out of the comparison: sockets are inherited descriptors and not paths, a guest's secrets come without a master key,
//! `domainXMLToNative` answers for taps whatever an interface is connected to, and that an image is the last of its
//! chain is known only when it was looked at.

#![expect(clippy::unwrap_used, reason = "helpers of a test, which may fail")]

#[path = "../../drivers/qemu/tests/probe/canonical.rs"]
mod canonical;
#[path = "../../drivers/qemu/tests/probe/listed.rs"]
mod listed;

use bulkhead::Connection;
use bulkhead_tests::fixture::{Root, figure, guest_files, skip};
use bulkhead_xml::{Element, Limits, parse};
use canonical::{Canonical, split};
use listed::Listed;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long guests are started; those that are left then are counted.
const BUDGET: Duration = Duration::from_secs(50);
/// Started paused.
const PAUSED: u32 = 1;
/// Undefined with the variables of its firmware.
const WITH_NVRAM: u32 = 4;
/// No guest of the sample has more memory, in KiB, or vCPUs.
const MOST_MEMORY: u64 = 4 << 20;
const MOST_VCPUS: u32 = 16;

/// A domain that is made fit for this machine, and what stands for what in it.
struct Fitted {
    document: Element,
    /// The file that is there, and the file that the case named.
    files: Vec<(String, String)>,
}

/// Why a domain is not in the sample.
fn unfit(root: &Element) -> Option<&'static str> {
    let kilobytes =
        |name: &str| root.child_text(name).and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    if root.attr("type") != Some("qemu") {
        return Some("KVM");
    }
    if kilobytes("memory") > MOST_MEMORY {
        return Some("memory");
    }
    if root
        .child_text("vcpu")
        .is_some_and(|text| text.trim().parse::<u32>().is_ok_and(|count| count > MOST_VCPUS))
    {
        return Some("vCPUs");
    }
    let os = root.child("os")?;
    if os.elements().any(|part| matches!(part.name.as_str(), "bios" | "loader" | "nvram")) {
        return Some("firmware of its own");
    }
    let foreign = !matches!(root.path_attr("os/type", "arch"), None | Some("x86_64" | "i686"));
    if foreign && os.child("kernel").is_some() {
        return Some("a kernel of another architecture");
    }
    for device in root.child("devices").into_iter().flat_map(Element::elements) {
        let kind = device.attr("type");
        let why = match device.name.as_str() {
            "interface" => (kind != Some("user")).then_some("a network"),
            "tpm" => Some("swtpm"),
            "disk" => (kind != Some("file")).then_some("a block device"),
            "serial" | "console" | "parallel" => {
                (!matches!(kind, Some("pty" | "null"))).then_some("a port elsewhere")
            }
            "rng" => {
                (device.path_attr("backend", "model") != Some("random")).then_some("a source of randomness")
            }
            "graphics" => (device.attr("autoport") != Some("yes") && device.attr("port") != Some("-1"))
                .then_some("a display of a fixed port"),
            _ => None,
        };
        if why.is_some() {
            return why;
        }
    }
    None
}

fn fit(mut document: Element, root: &Path, guest: &Path) -> Fitted {
    let folder = root.join("disks");
    std::fs::create_dir_all(&folder).unwrap();
    let mut files = Vec::new();
    for (name, file) in [("kernel", "vmlinuz"), ("initrd", "initramfs-tiny.cpio.gz")] {
        if let Some(part) = document.child_mut("os").and_then(|os| os.child_mut(name)) {
            let ours = guest.join(file).display().to_string();
            files.push((ours.clone(), part.text().trim().to_owned()));
            part.set_text(ours);
        }
    }
    for disk in document.child_mut("devices").into_iter().flat_map(Element::elements_mut) {
        if disk.name == "channel"
            && let Some(source) = disk.child_mut("source")
        {
            source.unset("path");
        }
        if disk.name == "interface" {
            // In the answer interfaces are placed anew, and nobody boots from them.
            disk.take("address");
            disk.take("boot");
        }
        if disk.name != "disk" {
            continue;
        }
        let format = disk.path_attr("driver", "type").unwrap_or("raw").to_owned();
        disk.take("backingStore");
        let number = files.len();
        let Some(source) = disk.child_mut("source") else { continue };
        if let Some(theirs) = source.attr("file").map(str::to_owned) {
            let ours = folder.join(format!("{number}.{format}"));
            make_disk(&ours, &format);
            source.set("file", ours.display().to_string());
            files.push((ours.display().to_string(), theirs));
        }
    }
    Fitted { document, files }
}

fn make_disk(path: &Path, format: &str) {
    let _ = std::fs::remove_file(path);
    if format == "raw" {
        std::fs::File::create(path).unwrap().set_len(1 << 20).unwrap();
        return;
    }
    let made =
        Command::new("qemu-img").args(["create", "-q", "-f", format]).arg(path).arg("1M").status().unwrap();
    assert!(made.success(), "qemu-img makes no {format}");
}

/// The words of a command line from its program on, without what differs on purpose.
fn comparable(words: Vec<String>, places: &[(String, String)]) -> Canonical {
    let words = words
        .into_iter()
        .skip_while(|word| !word.starts_with('/'))
        .map(|word| places.iter().fold(word, |word, (ours, theirs)| word.replace(ours.as_str(), theirs)));
    let mut kept = Vec::new();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let value = words.peek().cloned().unwrap_or_default();
        match word.as_str() {
            "-object" if value.contains("masterKey0") => drop(words.next()),
            "-netdev" | "-add-fd" => drop(words.next()),
            "-blockdev" => {
                words.next();
                kept.extend([word, value.replace("\"backing\":null,", "").replace(",\"backing\":null", "")]);
            }
            "-chardev" if value.starts_with("socket,") => {
                words.next();
                let properties: Vec<&str> = value
                    .split(',')
                    .filter(|part| !part.starts_with("path=") && !part.starts_with("fd="))
                    .collect();
                kept.extend([word, properties.join(",")]);
            }
            _ => kept.push(word),
        }
    }
    Canonical::new(&kept, &BTreeSet::new())
}

/// What became of one domain.
enum Outcome {
    NotStarted(String),
    Started { like_native: Result<(), String>, like_stock: Option<Result<(), String>> },
}

fn equal(running: &Canonical, other: &Canonical) -> Result<(), String> {
    if running == other { Ok(()) } else { Err(running.difference(other)) }
}

async fn start(stack: &Connection, root: &Root, fitted: &Fitted, stock: Option<&str>) -> Outcome {
    let domains = stack.domains();
    let xml = fitted.document.to_xml();
    let native = match domains.connect_domain_xml_to_native("qemu-argv".to_owned(), xml.clone(), 0).await {
        Ok(native) => native,
        Err(error) => return Outcome::NotStarted(error.to_string()),
    };
    let domain = match domains.domain_define_xml_flags(xml, 0).await {
        Ok(domain) => domain,
        Err(error) => return Outcome::NotStarted(error.to_string()),
    };
    let outcome = match domains.domain_create_with_flags(domain.clone(), PAUSED).await {
        Err(error) => Outcome::NotStarted(error.to_string()),
        Ok(_) => {
            let helpers = root.helpers();
            assert_eq!(helpers.len(), 1, "one guest runs");
            let line = std::fs::read(format!("/proc/{}/cmdline", helpers[0])).unwrap();
            let words: Vec<String> =
                String::from_utf8_lossy(&line).split_terminator('\0').map(str::to_owned).collect();
            let uuid = domain.uuid.to_string();
            let text = |path: PathBuf| path.display().to_string();
            let name = &domain.name;
            let private = vec![
                (text(root.path().join(format!("run/guests/{uuid}"))), "PRIVATE".to_owned()),
                (text(root.path().join(format!("lib/qemu/domain--1-{name}"))), "PRIVATE".to_owned()),
                (text(root.path().join("lib/qemu")), "/var/lib/libvirt/qemu".to_owned()),
            ];
            let running = comparable(words.clone(), &private);
            let like_native = equal(&running, &comparable(split(&native), &private));
            let like_stock = stock.map(|stock| {
                let stock_words = split(stock);
                let home =
                    stock_words.iter().find_map(|word| word.strip_prefix("HOME=")).unwrap_or("-").to_owned();
                let mut places = private.clone();
                places.extend(fitted.files.iter().cloned());
                equal(&comparable(words, &places), &comparable(stock_words, &[(home, "PRIVATE".to_owned())]))
            });
            domains.domain_destroy_flags(domain.clone(), 0).await.unwrap();
            Outcome::Started { like_native, like_stock }
        }
    };
    domains.domain_undefine_flags(domain, WITH_NVRAM).await.unwrap();
    outcome
}

#[tokio::test]
async fn started_guests_have_the_command_lines_that_were_answered() {
    let shared = std::env::var_os("BULKHEAD_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let Ok(expected) = std::fs::read(shared.join("corpus/expected.json")) else {
        return skip("no corpus at hand");
    };
    let Some(guest) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let listed = Listed::new();
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let began = Instant::now();
    let (mut sample, mut started, mut native, mut stock_lines, mut stock_equal) = (0, 0, 0, 0, 0);
    for (name, case) in expected["cases"].as_object().unwrap() {
        let Some(stock) = case["steps"]["native"]["out"].as_str().filter(|_| name.starts_with("domain/"))
        else {
            continue;
        };
        let input = std::fs::read(shared.join(format!("corpus/{name}.xml"))).unwrap();
        let document = parse(&input, Limits::default(), "domain/metadata").unwrap();
        let program = split(stock).into_iter().find(|word| word.starts_with('/')).unwrap_or_default();
        if listed.stranger(&document).is_some()
            || unfit(&document).is_some()
            || !Path::new(&program).is_file()
        {
            continue;
        }
        sample += 1;
        if began.elapsed() > BUDGET {
            continue;
        }
        // Chains of images are looked up when a guest starts, so a case that names its own is not stock's line any more.
        let chained = document
            .child("devices")
            .is_some_and(|d| d.all("disk").any(|d| d.child("backingStore").is_some()));
        let fitted = fit(document, root.path(), &guest);
        match start(&stack, &root, &fitted, Some(stock).filter(|_| !chained)).await {
            Outcome::NotStarted(why) => println!("{name} is not started: {why}"),
            Outcome::Started { like_native, like_stock } => {
                started += 1;
                native += usize::from(like_native.is_ok());
                if let Err(difference) = like_native {
                    println!("{name}: not as answered: {difference}");
                }
                if let Some(like_stock) = like_stock {
                    stock_lines += 1;
                    stock_equal += usize::from(like_stock.is_ok());
                    if let Err(difference) = like_stock {
                        println!("{name}: not as stock: {difference}");
                    }
                }
            }
        }
    }
    figure(&format!(
        "of {sample} domains {started} were started in {:.0} s: {native} as answered, {stock_equal} of {stock_lines} as stock",
        began.elapsed().as_secs_f64()
    ));
    stack.stop().await.unwrap();
    // Guests that get the CPU of the machine which the corpus was recorded on have another one here.
    assert!(started > 0 && native == started, "{native} of {started} are as answered");
    assert!(stock_equal * 100 >= stock_lines * 88, "{stock_equal} of {stock_lines} are as stock");
}
