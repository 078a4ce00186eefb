//! Size of the broker, whose whole point is that one person can read it.

use crate::figure::Figure;
use std::path::Path;

pub(crate) fn measure() -> Option<Figure> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../broker/src");
    let lines = count(&sources)?;
    let figure = Figure::new("broker without tests [lines]", Some("about 3000 at most"));
    Some(figure.side("stack", vec![f64::from(lines)]))
}

fn count(folder: &Path) -> Option<u32> {
    let mut lines = 0;
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            lines += count(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_stem().is_none_or(|stem| stem != "tests")
        {
            lines += without_tests(&std::fs::read_to_string(path).ok()?);
        }
    }
    Some(lines)
}

/// Lines before the module of tests, which ends a file.
fn without_tests(source: &str) -> u32 {
    let kept = source.lines().take_while(|line| *line != "#[cfg(test)]").count();
    u32::try_from(kept).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count() {
        assert_eq!(without_tests("one\ntwo\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(without_tests("one\n"), 1);
    }
}
