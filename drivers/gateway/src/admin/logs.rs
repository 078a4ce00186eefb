//! Filters and outputs of the log, in libvirt's words: `1:client 3:events`, and `2:stderr`.

use bulkhead_actors::logging::Levels;
use bulkhead_wire::error::{Code, Error, Origin};
use tracing::Level;

/// Filters at one time.
const FILTERS_MAX: usize = 64;

/// libvirt numbers levels from debugging to errors.
const LEVELS: [(char, Level); 4] =
    [('1', Level::DEBUG), ('2', Level::INFO), ('3', Level::WARN), ('4', Level::ERROR)];

fn level(text: &str) -> Option<Level> {
    LEVELS.iter().find(|(number, _)| text.strip_prefix(*number) == Some("")).map(|(_, level)| *level)
}

fn number(wanted: Level) -> char {
    LEVELS.iter().find(|(_, level)| *level == wanted).map_or('1', |(number, _)| *number)
}

fn invalid(message: String) -> Error {
    Error::new(Code::INVALID_ARG, Origin::NONE, message)
}

/// Reads filters: a level and a part of a module's name each.
pub(crate) fn filters(text: &str) -> Result<Vec<(String, Level)>, Error> {
    let one = |word: &str| {
        let parts = word.split_once(':').and_then(|(number, name)| Some((level(number)?, name)));
        match parts {
            // A plus asks for a stack trace with each message, which are not written here; stars are what is meant anyway.
            Some((level, name)) if !name.trim_matches(['+', '*']).is_empty() => {
                Ok((name.trim_matches(['+', '*']).to_owned(), level))
            }
            _ => Err(invalid(format!("invalid argument: Malformed format for filter '{word}'"))),
        }
    };
    let filters = text.split_whitespace().map(one).collect::<Result<Vec<_>, _>>()?;
    if filters.len() > FILTERS_MAX {
        return Err(invalid(format!(
            "invalid argument: {} filters, at most {FILTERS_MAX} are kept",
            filters.len()
        )));
    }
    Ok(filters)
}

/// Reads outputs: the one that there is, this driver's own file, and the level from which it is written.
pub(crate) fn outputs(text: &str, own_file: &str) -> Result<Level, Error> {
    let word = text.trim();
    let malformed = || invalid(format!("invalid argument: Malformed format for log output '{word}'"));
    let (number, place) = word.split_once(':').ok_or_else(malformed)?;
    let level = level(number).ok_or_else(malformed)?;
    if place == "stderr" || place.strip_prefix("file:") == Some(own_file) {
        return Ok(level);
    }
    Err(Error::new(
        Code::OPERATION_UNSUPPORTED,
        Origin::NONE,
        format!(
            "Operation not supported: the log goes to {own_file} and nowhere else; say {number}:file:{own_file}"
        ),
    ))
}

/// The filters in force, and how many they are.
pub(crate) fn filters_of(levels: &Levels) -> (Option<String>, u32) {
    let words: Vec<String> =
        levels.filters.iter().map(|(name, level)| format!("{}:*{name}*", number(*level))).collect();
    let count = u32::try_from(words.len()).unwrap_or(u32::MAX);
    ((!words.is_empty()).then(|| words.join(" ")), count)
}

/// The output in force.
pub(crate) fn outputs_of(levels: &Levels, own_file: &str) -> (String, u32) {
    (format!("{}:file:{own_file}", number(levels.usual)), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_written_as_libvirts_are() {
        let filters = filters("1:client 4:*events*").unwrap();
        assert_eq!(filters, [("client".to_owned(), Level::DEBUG), ("events".to_owned(), Level::ERROR)]);
        let levels = Levels { usual: Level::WARN, filters };
        assert_eq!(filters_of(&levels), (Some("1:*client* 4:*events*".to_owned()), 2));
        assert_eq!(outputs_of(&levels, "/l/g.log"), ("3:file:/l/g.log".to_owned(), 1));
        for wrong in ["bogus", "5:client", "1:", "1:**", ":client"] {
            let error = super::filters(wrong).unwrap_err();
            assert!(error.message.contains("Malformed format for filter"), "{error}");
        }
    }

    #[test]
    fn the_one_output_is_the_drivers_own_file() {
        assert_eq!(outputs("1:stderr", "/l/g.log").unwrap(), Level::DEBUG);
        assert_eq!(outputs("4:file:/l/g.log", "/l/g.log").unwrap(), Level::ERROR);
        assert_eq!(outputs("1:file:/etc/passwd", "/l/g.log").unwrap_err().code, Code::OPERATION_UNSUPPORTED);
        assert_eq!(outputs("bogus", "/l/g.log").unwrap_err().code, Code::INVALID_ARG);
    }
}
