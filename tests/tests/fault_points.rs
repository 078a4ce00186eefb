//! The table of fault points and the code say the same: no point that the table does not explain, none that is nowhere.
#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

use bulkhead_base::points::{CALL_MOMENTS, FILE_KINDS, FILE_MOMENTS, OBJECT_POINTS, POINTS};
use std::collections::BTreeSet;
use std::path::Path;

/// The shipped sources, without their tests.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | "tests" | "benches" | "examples" | ".git" | ".cache") {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
            found.push((path.display().to_string(), shipped));
        }
    }
}

/// The arguments of each call of that function in the text.
fn calls(text: &str, function: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(function) {
        let (mut depth, mut quoted) = (0, false);
        let mut arguments = vec![String::new()];
        for letter in text[at + function.len()..].chars() {
            match letter {
                '"' => quoted = !quoted,
                '(' if !quoted => depth += 1,
                ')' if !quoted && depth == 0 => break,
                ')' if !quoted => depth -= 1,
                ',' if !quoted && depth == 0 => {
                    arguments.push(String::new());
                    continue;
                }
                _ => {}
            }
            arguments.last_mut().unwrap().push(letter);
        }
        found.push(arguments.into_iter().map(|argument| argument.trim().to_owned()).collect());
    }
    found
}

fn literal(argument: &str) -> Option<String> {
    Some(argument.strip_prefix('"')?.strip_suffix('"')?.to_owned())
}

#[test]
fn each_point_of_the_code_is_explained_and_each_explained_one_is_in_the_code() {
    let mut files = Vec::new();
    sources(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(), &mut files);
    let (mut points, mut objects) = (BTreeSet::new(), BTreeSet::new());
    let (mut file_moments, mut call_moments, mut kinds) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (path, text) in &files {
        for arguments in calls(text, "fault::point(") {
            let [subject, moment] = &arguments[..] else { panic!("{path}: {arguments:?}") };
            match (literal(subject), literal(moment)) {
                (Some(subject), Some(moment)) => drop(points.insert((subject, moment))),
                (Some(subject), None) => drop(objects.insert(subject)),
                (None, Some(moment)) if path.ends_with("actors/base/src/state.rs") => {
                    file_moments.insert(moment);
                }
                (None, Some(moment)) if path.ends_with("actors/src/driver.rs") => {
                    call_moments.insert(moment);
                }
                _ => panic!("{path}: a point whose name can't be read here: {arguments:?}"),
            }
        }
        for arguments in calls(text, "Folder::open(") {
            kinds.insert(literal(&arguments[1]).unwrap_or_else(|| panic!("{path}: {arguments:?}")));
        }
    }
    let owned = |text: &str| text.to_owned();
    let table = |moments: &[(&str, &str)]| moments.iter().map(|(moment, _)| owned(moment)).collect();
    let of_table: BTreeSet<_> =
        POINTS.iter().map(|point| (owned(point.subject), owned(point.moment))).collect();
    assert_eq!(points, of_table, "POINTS");
    assert_eq!(objects, OBJECT_POINTS.iter().map(|point| owned(point.subject)).collect(), "OBJECT_POINTS");
    assert_eq!(kinds, FILE_KINDS.iter().map(|kind| owned(kind.subject)).collect(), "FILE_KINDS");
    assert_eq!(file_moments, table(FILE_MOMENTS), "FILE_MOMENTS");
    assert_eq!(call_moments, table(CALL_MOMENTS), "CALL_MOMENTS");
}

#[test]
fn each_point_has_one_name_and_a_sentence() {
    let mut names = BTreeSet::new();
    for point in POINTS {
        assert!(names.insert((point.subject, point.moment)), "{point:?}");
    }
    for kind in FILE_KINDS {
        assert!(POINTS.iter().all(|point| point.subject != kind.subject), "{kind:?}");
    }
    let texts = POINTS.iter().chain(OBJECT_POINTS).map(|point| point.text);
    let moments = FILE_MOMENTS.iter().chain(CALL_MOMENTS).map(|(_, text)| *text);
    for text in texts.chain(moments) {
        assert!(text.ends_with('.') && text.len() > 20, "'{text}' is no sentence");
    }
    assert!(FILE_MOMENTS.iter().all(|(_, text)| text.contains("FILE")));
    assert!(CALL_MOMENTS.iter().all(|(_, text)| text.contains("CALL")));
}

#[test]
fn calls_are_read_as_they_are_written() {
    let text = "fault::point( \"a\",\n \"b, c)\" ); Folder::open(&etc.join(\"x\"), \"y\", \".z\")";
    assert_eq!(calls(text, "fault::point("), [["\"a\"", "\"b, c)\""]]);
    assert_eq!(calls(text, "Folder::open("), [["&etc.join(\"x\")", "\"y\"", "\".z\""]]);
}
