//! How many series the job pods' gauges will have: a Prometheus server is better warned of too many than surprised.

/// Beyond so many series a start says which key keeps them down: about what one mid-sized Prometheus takes from one
/// target.
pub const MANY_SERIES: u64 = 500_000;

/// What the series of the job pods' gauges come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesForecast {
    /// Nodes of the execution.
    pub nodes: u64,
    /// Series of one node in one execution.
    pub samples: u64,
    /// Executions exported, `latest` being one.
    pub executions: u64,
}

impl SeriesForecast {
    /// How many there will be; saturating.
    #[must_use]
    pub fn series(self) -> u64 {
        self.nodes
            .saturating_mul(self.samples)
            .saturating_mul(self.executions)
    }

    /// Whether they are worth a warning.
    #[must_use]
    pub fn is_excessive(self) -> bool {
        self.series() > MANY_SERIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(nodes: u64, samples: u64, executions: u64) -> SeriesForecast {
        SeriesForecast {
            nodes,
            samples,
            executions,
        }
    }

    #[test]
    fn more_than_half_a_million_series_are_excessive() {
        assert!(!forecast(5_000, 10, 10).is_excessive());
        assert_eq!(forecast(5_000, 10, 10).series(), MANY_SERIES);
        assert!(forecast(5_001, 10, 10).is_excessive());
        assert!(forecast(u64::MAX, 2, 2).is_excessive());
        assert!(!forecast(5_000, 10, 0).is_excessive());
    }
}
