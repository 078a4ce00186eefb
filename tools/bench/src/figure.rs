//! A figure: samples of one thing, from each side that can do it.

use serde::Serialize;
use std::fmt;

/// Samples of one thing.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figure {
    /// What is measured, with its unit in brackets.
    pub(crate) name: String,
    /// What it should be.
    pub(crate) aim: Option<String>,
    /// The sides; the first is this project.
    pub(crate) sides: Vec<Side>,
}

/// What one side needed, round by round.
#[derive(Debug, Serialize)]
pub(crate) struct Side {
    name: String,
    median: f64,
    samples: Vec<f64>,
}

impl Figure {
    pub(crate) fn new(name: &str, aim: Option<&str>) -> Self {
        Self { name: name.to_owned(), aim: aim.map(str::to_owned), sides: Vec::new() }
    }

    /// Adds a side, unless it has no samples.
    pub(crate) fn side(mut self, name: &str, samples: Vec<f64>) -> Self {
        if let Some(median) = median(&samples) {
            self.sides.push(Side { name: name.to_owned(), median, samples });
        }
        self
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(aim) = &self.aim {
            write!(f, "  (aim: {aim})")?;
        }
        let first = self.sides.first().map_or(0.0, |side| side.median);
        for (index, side) in self.sides.iter().enumerate() {
            let least = side.samples.iter().copied().fold(f64::INFINITY, f64::min);
            let most = side.samples.iter().copied().fold(0.0, f64::max);
            write!(f, "\n    {:<34} {:>10.2}", side.name, side.median)?;
            if side.samples.len() > 1 {
                write!(f, "  [{least:.2} .. {most:.2}]")?;
            }
            if index > 0 && side.median > 0.0 {
                write!(f, "  the stack is at {:.2} of it", first / side.median)?;
            }
        }
        Ok(())
    }
}

/// The middle sample.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Milliseconds since then.
pub(crate) fn milliseconds(since: std::time::Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_sample() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn the_first_side_is_compared_with_the_others() {
        let figure = Figure::new("start [ms]", Some("1.5x"))
            .side("stack", vec![30.0])
            .side("raw", vec![20.0])
            .side("absent", Vec::new());
        let text = figure.to_string();
        assert!(text.contains("at 1.50 of it"), "{text}");
        assert!(!text.contains("absent"), "{text}");
    }
}
