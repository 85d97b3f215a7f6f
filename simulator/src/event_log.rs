//! What happened in a run, as readable lines in virtual time, folded into one digest.
//!
//! Every line counts for the digest; only the last few thousand are kept, for the report of a failure. Two runs of one
//! seed have the same digest, or something outside the simulation decided.

use std::collections::VecDeque;
use std::fmt::{self, Arguments, Write as _};
use std::io::Write;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// Enough to see what led to a failure, little enough to hold for any length of run.
const KEPT_LINES: usize = 4_000;

/// The log of one run.
pub struct EventLog {
    hasher: Sha256,
    tail: VecDeque<String>,
    lines: u64,
    /// Where each line goes as well.
    echo: Option<Box<dyn Write + Send>>,
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            hasher: Sha256::new(),
            tail: VecDeque::with_capacity(KEPT_LINES),
            lines: 0,
            echo: None,
        }
    }
}

impl EventLog {
    /// A log whose lines are written there as well, as they come.
    #[must_use]
    pub fn echoing(echo: Box<dyn Write + Send>) -> Self {
        Self {
            echo: Some(echo),
            ..Self::default()
        }
    }

    /// Appends one line that happened `at` after the start of the run.
    pub fn append(&mut self, at: Duration, what: Arguments<'_>) {
        // The evicted line's buffer serves the new one: no allocation once the tail is full.
        let mut line = if self.tail.len() == KEPT_LINES {
            self.tail.pop_front().unwrap_or_default()
        } else {
            String::new()
        };
        line.clear();
        // Writing to a String cannot fail.
        let _ = write!(line, "{:>11}.{:03} ", at.as_secs(), at.subsec_millis());
        let _ = line.write_fmt(what);
        self.hasher.update(line.as_bytes());
        self.hasher.update(b"\n");
        self.lines += 1;
        if let Some(echo) = &mut self.echo {
            // Whoever does not read on has read enough.
            let _ = writeln!(echo, "{line}");
        }
        self.tail.push_back(line);
    }

    /// How many lines there were.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The last lines, oldest first.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    /// The digest of all lines so far, as hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        self.hasher
            .clone()
            .finalize()
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_depends_on_every_line_and_its_time() {
        let of = |lines: &[(u64, &str)]| {
            let mut log = EventLog::default();
            for (at_ms, line) in lines {
                log.append(Duration::from_millis(*at_ms), format_args!("{line}"));
            }
            log.digest()
        };
        assert_eq!(of(&[(1, "a"), (2, "b")]), of(&[(1, "a"), (2, "b")]));
        assert_ne!(of(&[(1, "a"), (2, "b")]), of(&[(1, "a"), (3, "b")]));
        assert_ne!(of(&[(1, "a"), (2, "b")]), of(&[(2, "b"), (1, "a")]));
    }

    #[test]
    fn tail_is_bounded_and_the_digest_is_not() {
        let mut log = EventLog::default();
        for n in 0..KEPT_LINES + 10 {
            log.append(Duration::from_secs(1), format_args!("line {n}"));
        }
        assert_eq!(log.tail().count(), KEPT_LINES);
        assert_eq!(log.tail().next(), Some("          1.000 line 10"));
        assert_eq!(log.lines(), 4_010);
    }
}
