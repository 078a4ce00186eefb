//! What a driver logs: which levels, of which of its modules. Can be changed while it runs.

use std::sync::{PoisonError, RwLock};
use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Which messages are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    /// Of modules that no filter names.
    pub usual: Level,
    /// Of modules whose name has this text in it. The first that fits decides.
    pub filters: Vec<(String, Level)>,
}

impl Levels {
    /// What holds until somebody says otherwise.
    const fn usual() -> Self {
        Self { usual: Level::INFO, filters: Vec::new() }
    }

    fn writes(&self, module: &str, level: Level) -> bool {
        let filter = self.filters.iter().find(|(text, _)| module.contains(text.as_str()));
        level <= filter.map_or(self.usual, |(_, level)| *level)
    }
}

static LEVELS: RwLock<Levels> = RwLock::new(Levels::usual());

/// Begins to write to standard error.
pub(crate) fn begin() {
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_target(false)
        // What can't be logged is lost. Saying so to the same place would fail too, which is a panic.
        .log_internal_errors(false);
    let filter = filter_fn(|metadata| {
        let levels = LEVELS.read().unwrap_or_else(PoisonError::into_inner);
        metadata.is_span() || levels.writes(metadata.target(), *metadata.level())
    });
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// What is written at present.
#[must_use]
pub fn levels() -> Levels {
    LEVELS.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Has something else written from now on.
pub fn set_levels(levels: Levels) {
    *LEVELS.write().unwrap_or_else(PoisonError::into_inner) = levels;
    // Each place that logs remembers whether it is to.
    tracing::callsite::rebuild_interest_cache();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_filter_that_fits_decides_and_else_the_usual_level() {
        let filters =
            vec![("gateway::client".to_owned(), Level::DEBUG), ("gateway".to_owned(), Level::ERROR)];
        let levels = Levels { usual: Level::INFO, filters };
        assert!(levels.writes("bulkhead_gateway::client", Level::DEBUG));
        assert!(!levels.writes("bulkhead_gateway::events", Level::WARN));
        assert!(levels.writes("bulkhead_actors::driver", Level::INFO));
        assert!(!levels.writes("bulkhead_actors::driver", Level::DEBUG));
    }
}
