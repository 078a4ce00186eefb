//! The rules that ARCHITECTURE.md states about the sources themselves: what may depend on what, and where a few dangerous
//! things may stand. A rule that does not hold everywhere has a table of exceptions, each with its reason; an exception that is
//! no longer needed fails too, so that the tables only shrink.
#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

use bulkhead_wire::table::Driver;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files of the project, relative to its root: those that git knows, or, without git, those that are there.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(repository())
        .output();
    let mut files: Vec<String> = match listed {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout).unwrap().split_terminator('\0').map(str::to_owned).collect()
        }
        _ => {
            let mut found = Vec::new();
            walk(repository(), &mut found);
            found
        }
    };
    files.retain(|file| repository().join(file).is_file());
    files.sort();
    assert!(files.iter().any(|file| file == "Cargo.toml"), "{files:?}");
    files
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let path = entry.path();
        if path.is_dir() {
            if name != "target" && (!name.starts_with('.') || name == ".ci") {
                walk(&path, found);
            }
        } else {
            found.push(path.strip_prefix(repository()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

/// All Rust files with their code: comments and the content of strings and characters are gone.
fn sources() -> BTreeMap<String, String> {
    let rust = files().into_iter().filter(|file| file.ends_with(".rs"));
    let sources: BTreeMap<_, _> = rust.map(|file| (file.clone(), code(&read(&file)))).collect();
    assert!(sources.len() > 50);
    sources
}

/// A source without its comments, strings and characters; lines stay lines.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let before = out.chars().next_back();
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest, before) {
            length
        } else if letter == '"' {
            quoted(rest, '"')
        } else if letter == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        };
        let lines = rest[..skipped].matches('\n').count();
        out.extend(std::iter::repeat_n('\n', lines));
        out.push(' ');
        rest = &rest[skipped..];
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a raw string that begins here (`r"`, `br#"`), if one does.
fn raw_string(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
        return None;
    }
    let opening = text.trim_start_matches(['b', 'c']);
    let hashes = opening.strip_prefix('r')?;
    let content = hashes.trim_start_matches('#');
    let count = hashes.len() - content.len();
    let content = content.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    let begin = text.len() - content.len();
    Some(content.find(&end).map_or(text.len(), |at| begin + at + end.len()))
}

/// The length of a string or character that begins here.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Is this the beginning of a character, not of a lifetime?
fn is_character(text: &str) -> bool {
    let mut letters = text.chars().skip(1);
    letters.next() == Some('\\') || letters.next() == Some('\'')
}

/// Does this text hold that word, not as a part of a longer one?
fn has_word(text: &str, word: &str) -> bool {
    let part = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part)
            && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// Asserts that what was found is what the table of exceptions names, no more and no less.
fn assert_exactly(rule: &str, found: &BTreeSet<String>, exceptions: &[(&str, &str)]) {
    let allowed: BTreeSet<String> = exceptions.iter().map(|(file, _reason)| (*file).to_owned()).collect();
    let more: Vec<_> = found.difference(&allowed).collect();
    assert!(more.is_empty(), "{rule}: also in {more:?}");
    let less: Vec<_> = allowed.difference(found).collect();
    assert!(less.is_empty(), "{rule}: no longer in {less:?}; take the exception out");
}

/// Files whose code is only run by those who test or measure.
fn is_test(file: &str) -> bool {
    file.split('/').any(|part| matches!(part, "tests" | "benches" | "examples" | "tests.rs"))
}

/// One crate of the workspace.
struct Member {
    name: String,
    folder: PathBuf,
    /// Name, and whether it is for tests only.
    dependencies: Vec<(String, bool)>,
}

impl Member {
    /// The crates of ours that it stands on.
    fn ours(&self, tests: bool) -> impl Iterator<Item = &str> {
        self.dependencies
            .iter()
            .filter(move |(name, for_tests)| name.starts_with("bulkhead") && *for_tests == tests)
            .map(|(name, _)| name.as_str())
    }

    fn is_driver(&self) -> bool {
        (self.folder.starts_with("drivers") && self.name != "bulkhead-xml")
            || self.folder.starts_with("lockd")
    }
}

fn members() -> Vec<Member> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let root = PathBuf::from(metadata["workspace_root"].as_str().unwrap());
    let member = |package: &Value| {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let dependency = |dependency: &Value| {
            let name = dependency["name"].as_str().unwrap().to_owned();
            (name, dependency["kind"] == "dev")
        };
        Member {
            name: package["name"].as_str().unwrap().to_owned(),
            folder: manifest.parent().unwrap().strip_prefix(&root).unwrap().to_owned(),
            dependencies: package["dependencies"].as_array().unwrap().iter().map(dependency).collect(),
        }
    };
    metadata["packages"].as_array().unwrap().iter().map(member).collect()
}

/// What each crate of ours may stand on; drivers have a rule of their own.
const BELOW: &[(&str, &[&str])] = &[
    ("bulkhead-xml", &[]),
    ("bulkhead-wire", &[]),
    ("bulkhead-sandbox", &[]),
    ("bulkhead-base", &[]),
    ("bulkhead-actors", &["bulkhead-base", "bulkhead-wire", "bulkhead-sandbox"]),
    ("bulkhead-broker", &["bulkhead-base", "bulkhead-wire", "bulkhead-sandbox"]),
    ("bulkhead", &["bulkhead-broker", "bulkhead-sandbox", "bulkhead-wire"]),
];
const BELOW_A_DRIVER: &[&str] = &["bulkhead-actors", "bulkhead-wire", "bulkhead-xml"];
/// Its tests may open a stack around it and confine it, which is never another driver.
const BELOW_A_DRIVERS_TESTS: &[&str] = &["bulkhead-broker", "bulkhead-sandbox"];

#[test]
fn dependencies_point_down() {
    let members = members();
    for (name, _) in BELOW {
        assert!(members.iter().any(|member| member.name == *name), "{name} is no crate");
    }
    for member in &members {
        let above_all = ["tools/command", "tools/bench", "tools/fuzzer"]
            .iter()
            .any(|folder| member.folder.starts_with(folder))
            || member.folder.starts_with("tests");
        let allowed: &[&str] = match BELOW.iter().find(|(name, _)| *name == member.name) {
            Some((_, below)) => below,
            None if member.is_driver() => BELOW_A_DRIVER,
            None if above_all => continue,
            None => panic!("{} has no place in the order of crates: see BELOW", member.name),
        };
        for below in member.ours(false) {
            assert!(allowed.contains(&below), "{} must not depend on {below}", member.name);
        }
        for below in member.ours(true) {
            let allowed =
                allowed.contains(&below) || member.is_driver() && BELOW_A_DRIVERS_TESTS.contains(&below);
            assert!(allowed, "the tests of {} must not depend on {below}", member.name);
        }
    }
}

/// Names of packages that a package of the lock file stands on, directly or not.
fn closure(package: &str) -> BTreeSet<String> {
    let lock = read("Cargo.lock");
    let mut direct: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for block in lock.split("[[package]]").skip(1) {
        let mut quoted = block.lines().filter_map(|line| line.split('"').nth(1));
        let name = quoted.next().unwrap();
        let listed = block.split_once("dependencies = [").map_or("", |(_, rest)| rest);
        let listed = listed.lines().filter_map(|line| line.split('"').nth(1)?.split(' ').next());
        direct.entry(name).or_default().extend(listed);
    }
    assert!(direct.contains_key(package), "{package} is not in the lock file");
    let mut found = BTreeSet::new();
    let mut next = vec![package];
    while let Some(name) = next.pop() {
        for below in direct.get(name).into_iter().flatten() {
            if found.insert((*below).to_owned()) {
                next.push(below);
            }
        }
    }
    found
}

#[test]
fn the_broker_knows_no_xml_no_xdr_and_no_driver() {
    let below = closure("bulkhead-broker");
    let wrong = below.iter().find(|name| name.contains("xml") || name.contains("xdr"));
    assert_eq!(wrong, None);
    for driver in members().iter().filter(|member| member.is_driver()) {
        assert!(!below.contains(&driver.name), "{}", driver.name);
    }
}

#[test]
fn what_is_pure_knows_no_runtime() {
    for package in ["bulkhead-xml", "bulkhead-sandbox", "bulkhead-base"] {
        assert!(!closure(package).contains("tokio"), "{package}");
    }
    let supervisor = code(&read("broker/src/supervisor.rs"));
    for word in ["tokio", "std::fs", "std::process", "SystemTime", "elapsed"] {
        assert!(!supervisor.contains(word), "the supervisor's decisions use {word}");
    }
}

/// Files whose code holds one of these words, as a whole word.
fn files_with(words: &[&str], also: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let holds = |(file, text): (String, String)| {
        (also(&file) && words.iter().any(|word| has_word(&text, word))).then_some(file)
    };
    sources().into_iter().filter_map(holds).collect()
}

#[test]
fn one_file_knows_the_encoding() {
    let found = files_with(&["bincode"], |_| true);
    assert_exactly("bincode", &found, &[("wire/src/codec.rs", "so that it can be exchanged")]);
    // bincode can't carry what these make.
    let banned = ["skip_serializing_if", "flatten", "untagged"];
    for (file, text) in sources().iter().filter(|(file, _)| file.starts_with("wire/")) {
        let mut attributes = text.lines().filter(|line| line.contains("serde("));
        let wrong = attributes.find(|line| banned.iter().any(|word| has_word(line, word)));
        assert_eq!(wrong, None, "{file}");
    }
}

#[test]
fn each_table_is_served_by_a_crate_of_its_own() {
    let members = members();
    for (driver, _) in bulkhead_wire::table::TABLES {
        let name = match driver {
            Driver::Broker => "bulkhead-broker".to_owned(),
            driver => format!("bulkhead-{driver}"),
        };
        assert!(members.iter().any(|member| member.name == name), "nothing serves {driver}");
    }
}

/// Where `unsafe` stands, tests aside.
const UNSAFE: &[(&str, &str)] = &[
    ("broker/src/launcher/mod.rs", "clone, and what a child may do before exec"),
    ("broker/src/launcher/process.rs", "pidfd_send_signal and pidfd_open, which have no safe wrapper"),
    ("drivers/network/src/tap.rs", "TUNSETIFF: the one thing about taps that netlink can't do"),
    ("sandbox/src/confine.rs", "descriptors that a process is born with; close_range; Landlock's version"),
    ("wire/src/link.rs", "received descriptors become owned ones"),
];
/// The same in tests.
const UNSAFE_IN_TESTS: &[(&str, &str)] = &[
    ("tests/src/bin/app.rs", "an application that forks"),
    ("tests/src/bin/escape-probe.rs", "tries what is forbidden, call by call"),
];

#[test]
fn unsafe_stands_in_few_named_files() {
    let of = |tests| files_with(&["unsafe", "unsafe_code"], |file| is_test(file) == tests);
    assert_exactly("unsafe", &of(false), UNSAFE);
    assert_exactly("unsafe in tests", &of(true), UNSAFE_IN_TESTS);
    assert!(read("Cargo.toml").contains("unsafe_code = \"deny\""));
}

/// Where processes are made or replaced, or the calls that do that are named; tests aside.
const PROCESSES: &[(&str, &str)] = &[
    ("sandbox/src/confine.rs", "a helper that starts programs goes on as the first process of a namespace"),
    ("broker/src/launcher/mod.rs", "the one place where a process begins"),
    ("sandbox/src/bin/launch.rs", "the trampoline becomes the helper"),
    ("sandbox/src/filter.rs", "names the calls in order to refuse them"),
    ("tools/bench/src/memory.rs", "benches start what they measure"),
    ("tools/bench/src/raw.rs", "benches start what they measure"),
    ("tools/bench/src/stock.rs", "benches start what they measure"),
    ("tools/command/src/connect.rs", "`bulkhead connect`: the process that keeps the stack open"),
    ("tools/command/src/embed.rs", "`bulkhead embed -- COMMAND`: the user's own command"),
];

#[test]
fn processes_begin_in_one_place() {
    let words = [
        "Command::new",
        "fork",
        "vfork",
        "clone3",
        "posix_spawn",
        "execv",
        "execve",
        "execvp",
        "fexecve",
        "SYS_fork",
        "SYS_vfork",
        "SYS_clone",
        "SYS_clone3",
        "SYS_execve",
        "SYS_execveat",
    ];
    assert_exactly("processes", &files_with(&words, |file| !is_test(file)), PROCESSES);
}

#[test]
fn nothing_queues_without_bound() {
    let words = ["unbounded_channel", "unbounded", "UnboundedSender", "UnboundedReceiver"];
    let mut found = files_with(&words, |_| true);
    // The standard library's channel without a size.
    found.extend(
        sources()
            .into_iter()
            .filter(|(_, text)| text.contains("mpsc::channel()") || text.contains("mpsc::channel::<()>()"))
            .map(|(file, _)| file),
    );
    assert_exactly("unbounded queues", &found, &[]);
}

#[test]
fn files_stay_readable() {
    for file in files().iter().filter(|file| file.ends_with(".rs")) {
        let lines = read(file).lines().count();
        assert!(lines <= 900, "{file} has {lines} lines: split it");
    }
}

#[test]
fn the_broker_stays_small() {
    let mut lines = 0;
    for file in files().iter().filter(|file| file.starts_with("broker/src/") && file.ends_with(".rs")) {
        let text = read(file);
        // Tests stand at the end of their file.
        let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        lines += shipped.lines().filter(is_code).count();
    }
    println!("figure: the broker has {lines} lines of code");
    // About 3,000: one person reads it in an afternoon. What explains it does not make that longer.
    assert!((500..3100).contains(&lines), "the broker has {lines} lines");
}

#[test]
fn files_name_no_place_of_their_making() {
    // Put together here, so that this file does not hold what it looks for.
    let strangers: Vec<String> = [
        ["/wo", "rk/"],
        ["static.cra", "tes.io"],
        ["index.cra", "tes.io"],
        ["pypi", ".org"],
        ["npmjs", ".org"],
        ["proxy.go", "lang.org"],
        ["deb.deb", "ian.org"],
        ["artifac", "tory"],
    ]
    .iter()
    .map(|parts| parts.concat())
    .collect();
    for file in files() {
        let Ok(text) = std::fs::read_to_string(repository().join(&file)) else {
            // Not a text.
            continue;
        };
        for stranger in &strangers {
            assert!(!text.contains(stranger.as_str()), "{file} names {stranger}");
        }
    }
}

/// The lines of a section of a manifest, `[dependencies]` say.
fn section(manifest: &str, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = wanted(line.trim());
        } else if inside {
            lines.push(line);
        }
    }
    lines
}

fn entry(line: &str) -> Option<&str> {
    let name = line.split(['=', '.']).next()?.trim();
    (!name.is_empty() && !line.starts_with('#')).then_some(name)
}

#[test]
fn dependencies_have_one_version_a_reason_and_a_user() {
    let mut used = BTreeSet::new();
    let sources = sources();
    for member in members() {
        let manifest = read(member.folder.join("Cargo.toml").to_str().unwrap());
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}: lints", member.name);
        for line in section(&manifest, |header| header.ends_with("dependencies]")) {
            let Some(name) = entry(line) else { continue };
            let from_workspace = line.contains("workspace = true");
            assert!(from_workspace, "{}: '{line}' has a version of its own", member.name);
            used.insert(name.to_owned());
            let word = name.replace('-', "_");
            // A crate may lie in the folder of another one.
            let own = |file: &str| {
                let nested = member.folder == Path::new("actors") && file.starts_with("actors/base");
                Path::new(file).starts_with(&member.folder) && !nested
            };
            let named = sources.iter().any(|(file, text)| own(file) && has_word(text, &word));
            assert!(named, "{} does not use {name}", member.name);
        }
    }
    let workspace = read("Cargo.toml");
    let mut above: Option<&str> = None;
    let mut reason = false;
    for line in section(&workspace, |header| header == "[workspace.dependencies]") {
        let Some(name) = entry(line) else {
            (reason, above) = (line.starts_with("# ") && line.len() > 10, None);
            continue;
        };
        // One comment may speak for a family: `clap`, `clap_complete`.
        let family = |name: &str| name.split(['-', '_']).next().unwrap_or_default().to_owned();
        let related = above.is_none_or(|above| family(above) == family(name));
        assert!(reason && related, "{name}: say what it is for in a comment above it");
        assert!(used.contains(name), "no crate uses {name}");
        above = Some(name);
    }
}

/// What stands between backquotes in a text.
fn quoted_words(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with("    ")).flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn the_documents_name_what_exists() {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = read(document);
        let files = files();
        for word in quoted_words(&text) {
            let path = word.split(" :: ").next().unwrap_or_default();
            let is_path = path.contains('/') && !path.contains([' ', '*', '<', '{', '?', '$']);
            let ours = [
                "wire", "sandbox", "actors", "broker", "drivers", "tools", "tests", "lockd", "./tools", ".ci",
            ];
            if is_path
                && ours.contains(&path.split('/').next().filter(|first| *first != ".").unwrap_or("./tools"))
            {
                let path = path.trim_start_matches("./").trim_end_matches('/');
                let exists = files.iter().any(|file| file == path || file.starts_with(&format!("{path}/")));
                assert!(exists, "{document} names {word}, which does not exist");
            }
        }
    }
}

#[test]
fn each_invariant_names_its_test() {
    let text = read("ARCHITECTURE.md");
    let invariants = text.split_once("\n## Invariants\n").expect("a chapter of that name").1;
    let invariants = invariants.split("\n## ").next().unwrap_or_default();
    let mut numbered = 0;
    for paragraph in invariants.split("\n\n").flat_map(split_items) {
        let Some(number) = paragraph.split('.').next().and_then(|number| number.parse::<usize>().ok()) else {
            continue;
        };
        numbered += 1;
        assert_eq!(number, numbered, "the numbers of the invariants");
        let mut named = 0;
        let one_line = paragraph.replace('\n', " ");
        for word in one_line.split('`').skip(1).step_by(2) {
            let Some((file, test)) = word.split_once(" :: ") else {
                continue;
            };
            named += 1;
            let source = read(file.trim());
            assert!(has_word(&source, &format!("fn {}", test.trim())), "{number}: no test {test} in {file}");
        }
        assert!(named > 0, "invariant {number} names no test");
    }
    assert!(numbered >= 10, "{numbered} invariants");
}

/// The items of a numbered list.
fn split_items(block: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for line in block.lines() {
        if line.starts_with(|letter: char| letter.is_ascii_digit()) || items.is_empty() {
            items.push(line.to_owned());
        } else if let Some(item) = items.last_mut() {
            item.push(' ');
            item.push_str(line.trim());
        }
    }
    items
}

#[test]
fn code_is_told_from_comments_and_strings() {
    let text = "let a = \"unsafe // \\\" x\"; // unsafe\n/* unsafe /* */ */ let b = 'u'; let c: &'static str = r#\"unsafe\"#; '\"' x";
    let code = code(text);
    assert!(!code.contains("unsafe"), "{code}");
    for kept in ["let a", "let b", "&'static str", " x"] {
        assert!(code.contains(kept), "{kept}: {code}");
    }
    assert_eq!(code.lines().count(), 2);
    assert!(has_word("an unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
}
