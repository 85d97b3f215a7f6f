//! Which executions of the history go: the oldest beyond `reportHistory`, by id, never the current one.

use std::num::NonZeroU32;

use super::ids::ExecutionId;

/// The executions to remove, oldest first. `current` is never among them, whatever its id sorts as (a wall clock that
/// was set back makes it the oldest).
#[must_use]
pub fn expired(
    mut present: Vec<ExecutionId>,
    current: &ExecutionId,
    keep: NonZeroU32,
) -> Vec<ExecutionId> {
    present.sort_unstable();
    present.dedup();
    let excess = present.len().saturating_sub(keep.get() as usize);
    present.retain(|id| id != current);
    present.truncate(excess);
    present
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ids(texts: &[&str]) -> Vec<ExecutionId> {
        texts
            .iter()
            .map(|text| ExecutionId::parse(text).unwrap())
            .collect()
    }

    fn check(present: &[&str], current: &str, keep: u32, want: &[&str]) {
        let got = expired(
            ids(present),
            &ids(&[current])[0],
            NonZeroU32::new(keep).unwrap(),
        );
        assert_eq!(got, ids(want));
    }

    #[test]
    fn the_oldest_beyond_the_history_go() {
        let all = ["202601030000", "202601010000", "202601020000"];
        check(&all, "202601030000", 2, &["202601010000"]);
        check(&all, "202601030000", 1, &["202601010000", "202601020000"]);
        check(&all, "202601030000", 3, &[]);
    }

    #[test]
    fn the_current_one_stays_even_when_a_clock_set_back_makes_it_the_oldest() {
        check(
            &["202601010000", "202601020000", "202601030000"],
            "202601010000",
            2,
            &["202601020000"],
        );
    }
}
