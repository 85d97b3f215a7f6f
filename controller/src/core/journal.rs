//! The journal of an execution: what a successor must know to go on, a line of JSON each, in files that are only
//! appended to.
//!
//! A leader writes to a file of its own, named by its epoch, so that two that believe they lead never write to one. The
//! first file begins with everything that the execution froze; then a line before each create, one with the pod's uid
//! after it, one at the end of an attempt that another follows, one at the node's end. Lines of all epochs are read in
//! the order of the epochs. A line that was cut off by a crash, or that a later version wrote, is skipped: what it
//! would have said is asked of the cluster.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::execution::Plan;
use super::job_pod::JobPodSpec;
use super::state::{NodeState, Reason};

/// The version of the lines' shape: raised when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

const FILE_PREFIX: &str = "_journal-";
const FILE_SUFFIX: &str = ".jsonl";

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "entry",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Entry {
    /// The execution began.
    Begun(Box<Frozen>),
    /// A pod is about to be created.
    Creating {
        /// The node's place in the list.
        index: usize,
        /// The first is 1.
        attempt: u32,
        /// The pod's name.
        pod: String,
    },
    /// A pod exists.
    Created {
        /// The node's place in the list.
        index: usize,
        /// Its uid.
        uid: String,
        /// When its create was answered, or the watch showed it.
        time: Timestamp,
    },
    /// An attempt failed, and another one follows.
    AttemptEnded {
        /// The node's place in the list.
        index: usize,
        /// The first is 1.
        attempt: u32,
        /// Why.
        reason: Reason,
        /// The same for people.
        message: String,
        /// When.
        time: Timestamp,
    },
    /// A node ended, or what it ended as changed.
    Ended(EndedNode),
}

/// What an execution began with, and ends with whatever is configured meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frozen {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Node list, pool size, rules.
    pub plan: Plan,
    /// What the controller adds to each pod.
    pub job_pod: JobPodSpec,
    /// The text of the pod template.
    pub template: String,
}

/// The end of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndedNode {
    /// The node's place in the list.
    pub index: usize,
    /// What it ended as.
    pub state: NodeState,
    /// Why, where the state alone does not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<Reason>,
    /// The same for people.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// Pods created for it.
    pub attempts: u32,
    /// When its pod was created.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start_time: Option<Timestamp>,
    /// When its pod ended; none where it had none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end_time: Option<Timestamp>,
    /// Samples in its newest result.
    #[serde(default)]
    pub samples: u32,
}

/// The file of an epoch.
#[must_use]
pub fn file_name(epoch: u64) -> String {
    format!("{FILE_PREFIX}{epoch}{FILE_SUFFIX}")
}

/// The epoch of a file, if it is a journal.
#[must_use]
pub fn epoch_of(file_name: &str) -> Option<u64> {
    let digits = file_name
        .strip_prefix(FILE_PREFIX)?
        .strip_suffix(FILE_SUFFIX)?;
    // Written one way only: `007` is nobody's file.
    let epoch = digits.parse().ok()?;
    (self::file_name(epoch) == file_name).then_some(epoch)
}

/// The lines of some entries. Each begins with a line break, too: one that was cut off before it spoils no other.
#[must_use]
pub fn lines_of(entries: &[Entry]) -> Vec<u8> {
    let mut lines = vec![b'\n'];
    for entry in entries {
        // An entry is plain data: it always serialises.
        if let Ok(line) = serde_json::to_vec(entry) {
            lines.extend_from_slice(&line);
            lines.push(b'\n');
        }
    }
    lines
}

/// The entries of a file, and how many lines could not be read.
#[must_use]
pub fn entries_of(file: &[u8]) -> (Vec<Entry>, usize) {
    let mut entries = Vec::new();
    let mut skipped = 0;
    let lines = file.split(|byte| *byte == b'\n');
    for line in lines.filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(entry) => entries.push(entry),
            Err(_) => skipped += 1,
        }
    }
    (entries, skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(index: usize) -> Entry {
        Entry::Created {
            index,
            uid: format!("uid-{index}"),
            time: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_file_is_named_by_its_epoch_and_no_other_name_is_a_journal() {
        for epoch in [0, 7, u64::MAX] {
            assert_eq!(epoch_of(&file_name(epoch)), Some(epoch));
        }
        for name in [
            "_journal-.jsonl",
            "_journal-07.jsonl",
            "_journal-+7.jsonl",
            "_journal-7.json",
            "journal-7.jsonl",
            "_execution.json",
        ] {
            assert_eq!(epoch_of(name), None, "{name}");
        }
    }

    #[test]
    fn entries_come_back_as_they_were_written() {
        let entries = vec![
            Entry::Creating {
                index: 3,
                attempt: 2,
                pod: "p".to_owned(),
            },
            created(3),
            Entry::Ended(EndedNode {
                index: 3,
                state: NodeState::Failed,
                reason: Some(Reason::NoResult),
                message: "no\nresult".to_owned(),
                attempts: 2,
                start_time: None,
                end_time: Some(Timestamp::UNIX_EPOCH),
                samples: 3,
            }),
            Entry::AttemptEnded {
                index: 4,
                attempt: 1,
                reason: Reason::PodFailed,
                message: "exit code 1".to_owned(),
                time: Timestamp::UNIX_EPOCH,
            },
        ];
        assert_eq!(entries_of(&lines_of(&entries)), (entries, 0));
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let mut file = lines_of(&[created(1)]);
        let cut = lines_of(&[created(2)]);
        file.extend_from_slice(&cut[..cut.len() / 2]);
        file.extend_from_slice(&lines_of(&[created(3)]));
        assert_eq!(entries_of(&file), (vec![created(1), created(3)], 1));
    }
}
