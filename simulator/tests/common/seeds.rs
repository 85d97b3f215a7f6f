//! Which seeds a sweep runs.

use std::ops::Range;

/// Seeds of a sweep: those of a push, or as the environment says.
pub(crate) struct Seeds {
    range: Range<u64>,
    usual: u64,
}

impl Seeds {
    /// `FAULT_SEEDS` seeds from `FAULT_FIRST_SEED` on; `usual` ones from 1 on where nothing is said. Prints what it is.
    pub(crate) fn of_environment(usual: u64) -> Self {
        let first = number("FAULT_FIRST_SEED", 1);
        let count = number("FAULT_SEEDS", usual);
        println!("FAULT_FIRST_SEED={first} FAULT_SEEDS={count}");
        Self {
            range: first..first + count,
            usual,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.range.clone()
    }

    /// Whether they are so many that everything must have happened.
    pub(crate) fn are_enough(&self) -> bool {
        self.range.end - self.range.start >= self.usual
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test takes no arguments; what it is given is printed first"
)]
fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| {
        let number = text.parse();
        number.unwrap_or_else(|_| panic!("{name}: {text:?} is no number"))
    })
}
