//! What a process prints, line by line.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The lines of a pipe, as they come.
#[derive(Debug)]
pub struct Lines(Receiver<String>);

impl Lines {
    pub fn of(pipe: impl std::io::Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self(lines)
    }

    /// The next line, or none at the end.
    pub fn next(&self) -> Option<String> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(error) => panic!("no further line: {error}"),
        }
    }

    /// The lines up to the first that holds `part`, with it.
    pub fn until(&self, part: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.next() {
            let found = line.contains(part);
            lines.push(line);
            if found {
                return lines;
            }
        }
        panic!("no line with {part:?} in {lines:#?}");
    }
}
