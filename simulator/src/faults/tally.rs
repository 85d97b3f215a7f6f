//! What became of the faults: a row for each kind, added up over seeds, the emptiest first.

use std::collections::BTreeMap;
use std::fmt;

use super::kind::Kind;

/// What became of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Runs in which it could happen.
    pub enabled: u64,
    /// How often a client got something else than it would have.
    pub fired: u64,
    /// How many of these the client took notice of, as [`Kind::notice`] says.
    pub noticed: u64,
    /// How many of these were followed by the client's view agreeing with the server's state.
    pub recovered: u64,
}

impl Count {
    fn cells(self) -> [u64; 4] {
        [self.enabled, self.fired, self.noticed, self.recovered]
    }

    /// The emptiest of its cells.
    #[must_use]
    pub fn least(self) -> u64 {
        self.cells().into_iter().min().unwrap_or_default()
    }

    /// Whether nothing is in one of its cells.
    #[must_use]
    pub fn has_gap(self) -> bool {
        self.least() == 0
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: Self) {
        self.enabled += other.enabled;
        self.fired += other.fired;
        self.noticed += other.noticed;
        self.recovered += other.recovered;
    }
}

/// What became of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<Kind, Count>);

impl Tally {
    pub(super) fn of(counts: BTreeMap<Kind, Count>) -> Self {
        Self(counts)
    }

    /// What became of one kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> Count {
        self.0.get(&kind).copied().unwrap_or_default()
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            self.0.entry(*kind).or_default().add(*count);
        }
    }

    /// Those of `kinds` that have a cell with nothing in it.
    #[must_use]
    pub fn empty(&self, kinds: impl IntoIterator<Item = Kind>) -> Vec<Kind> {
        let has_gap = |kind: &Kind| self.count(*kind).has_gap();
        kinds.into_iter().filter(has_gap).collect()
    }

    /// The sum over all kinds.
    #[must_use]
    pub fn total(&self) -> Count {
        self.0.values().fold(Count::default(), |sum, count| Count {
            enabled: sum.enabled + count.enabled,
            fired: sum.fired + count.fired,
            noticed: sum.noticed + count.noticed,
            recovered: sum.recovered + count.recovered,
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<(&Kind, &Count)> = self.0.iter().collect();
        rows.sort_by_key(|(kind, count)| (count.least(), **kind));
        writeln!(
            f,
            "{:<26} row {:>8} {:>8} {:>8} {:>9}",
            "fault", "enabled", "fired", "noticed", "recovered"
        )?;
        for (kind, count) in rows {
            let [enabled, fired, noticed, recovered] = count.cells();
            let row = kind.row();
            writeln!(
                f,
                "{kind:<26} {row:>3} {enabled:>8} {fired:>8} {noticed:>8} {recovered:>9}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_the_emptiest_row_comes_first() {
        let count = |fired| Count {
            enabled: 1,
            fired,
            noticed: fired,
            recovered: fired,
        };
        let mut sum = Tally::default();
        sum.add(&Tally::of([(Kind::Conflict, count(2))].into()));
        sum.add(&Tally::of(
            [(Kind::Conflict, count(3)), (Kind::VerbLost, count(0))].into(),
        ));
        assert_eq!(sum.count(Kind::Conflict).fired, 5);
        assert_eq!(
            sum.empty([Kind::Conflict, Kind::VerbLost]),
            [Kind::VerbLost]
        );
        let text = sum.to_string();
        assert!(text.find("verb-lost") < text.find("conflict"), "{text}");
    }
}
