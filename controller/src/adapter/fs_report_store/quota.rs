//! What the reports of an execution may take on disk, all nodes together (`reportQuota`): what is stored, and what is
//! on its way.
//!
//! What is stored is counted once, by listing the directory when the first report is charged, and followed from then
//! on; others that lead in between may have stored more, so a new leader counts again. A report that replaces another
//! is charged with what it is longer by. At every moment the two together are within the quota, whatever order reports
//! end in. Files of our own, whose names begin with an underscore, are neither counted nor refused: without a journal
//! no execution goes on.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::directory::Directory;
use crate::core::ids::ExecutionId;

/// The quota of each execution; clones share what is used.
#[derive(Debug, Clone, Default)]
pub(super) struct Quota {
    bytes_max: Option<u64>,
    usages: Arc<Mutex<BTreeMap<ExecutionId, Usage>>>,
}

#[derive(Debug, Default)]
struct Usage {
    /// None where it is to be counted.
    stored: Option<u64>,
    /// For reports that are on their way, beyond what those take that they replace.
    reserved: u64,
}

/// A report does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reports of this execution would take more than {bytes_max} bytes, the limit")]
pub(super) struct OverQuota {
    pub(super) bytes_max: u64,
}

impl From<OverQuota> for io::Error {
    fn from(error: OverQuota) -> Self {
        Self::new(io::ErrorKind::QuotaExceeded, error)
    }
}

impl Quota {
    /// So many bytes an execution; none: as many as fit on the disk.
    pub(super) fn new(bytes_max: Option<u64>) -> Self {
        Self {
            bytes_max,
            usages: Arc::default(),
        }
    }

    /// The account of a report that is about to be written as `name`.
    ///
    /// # Errors
    /// Where the directory cannot be listed.
    pub(super) fn charge(
        &self,
        execution: &ExecutionId,
        directory: &Directory,
        name: &str,
    ) -> io::Result<Charge> {
        let Some(bytes_max) = self.bytes_max.filter(|_| !is_own(name)) else {
            return Ok(Charge::free());
        };
        self.count(execution, directory)?;
        Ok(Charge(Some(Account {
            quota: self.clone(),
            bytes_max,
            execution: execution.clone(),
            replaced: length(directory, name)?,
            written: 0,
            reserved: 0,
        })))
    }

    /// What the execution stores, where that is not known. Not locked while it is listed: of two counts the first one
    /// holds, which has followed since.
    fn count(&self, execution: &ExecutionId, directory: &Directory) -> io::Result<()> {
        let is_known = |usage: &Usage| usage.stored.is_some();
        if self.usages().get(execution).is_some_and(is_known) {
            return Ok(());
        }
        let mut stored = 0;
        for name in directory.names()? {
            if !is_own(&name) {
                stored += length(directory, &name)?;
            }
        }
        let mut usages = self.usages();
        let usage = usages.entry(execution.clone()).or_default();
        usage.stored.get_or_insert(stored);
        Ok(())
    }

    /// Everything is counted again when it is next asked for.
    pub(super) fn recount(&self) {
        for usage in self.usages().values_mut() {
            usage.stored = None;
        }
    }

    /// The execution has been removed.
    pub(super) fn forget(&self, execution: &ExecutionId) {
        self.usages().remove(execution);
    }

    fn usages(&self) -> MutexGuard<'_, BTreeMap<ExecutionId, Usage>> {
        self.usages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ours, or an upload's.
fn is_own(name: &str) -> bool {
    name.starts_with('_')
}

fn length(directory: &Directory, name: &str) -> io::Result<u64> {
    let stat = directory.file_stat(name)?;
    Ok(stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or_default()))
}

/// What one report on its way has reserved; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge(Option<Account>);

#[derive(Debug)]
struct Account {
    quota: Quota,
    bytes_max: u64,
    execution: ExecutionId,
    /// The length of the report that it replaces.
    replaced: u64,
    written: u64,
    reserved: u64,
}

impl Charge {
    /// Of what is not counted.
    pub(super) fn free() -> Self {
        Self(None)
    }

    /// Reserves what is about to be written.
    ///
    /// # Errors
    /// [`OverQuota`]
    pub(super) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let Some(account) = &mut self.0 else {
            return Ok(());
        };
        account.written += bytes as u64;
        let wanted = account.written.saturating_sub(account.replaced);
        let more = wanted.saturating_sub(account.reserved);
        let mut usages = account.quota.usages();
        let usage = usages.entry(account.execution.clone()).or_default();
        let used = usage.stored.unwrap_or_default() + usage.reserved;
        if more > 0 && used + more > account.bytes_max {
            return Err(OverQuota {
                bytes_max: account.bytes_max,
            }
            .into());
        }
        usage.reserved += more;
        drop(usages);
        account.reserved += more;
        Ok(())
    }

    /// The report is about to take its place in the directory: what it replaces may have changed since it began.
    ///
    /// # Errors
    /// [`OverQuota`], and what the file system says.
    pub(super) fn settle(&mut self, directory: &Directory, name: &str) -> io::Result<()> {
        let Some(account) = &mut self.0 else {
            return Ok(());
        };
        account.quota.count(&account.execution, directory)?;
        let replaced = length(directory, name)?;
        let mut usages = account.quota.usages();
        let usage = usages.entry(account.execution.clone()).or_default();
        let before = usage.stored.unwrap_or_default();
        let stored = before.saturating_sub(replaced) + account.written;
        let reserved = usage.reserved.saturating_sub(account.reserved);
        if account.written > replaced && stored + reserved > account.bytes_max {
            return Err(OverQuota {
                bytes_max: account.bytes_max,
            }
            .into());
        }
        (usage.stored, usage.reserved) = (Some(stored), reserved);
        drop(usages);
        account.reserved = 0;
        Ok(())
    }

    /// What was settled did not come about.
    pub(super) fn undo(&self) {
        if let Some(account) = &self.0 {
            account.quota.recount();
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let Some(account) = &self.0 else { return };
        // None where the execution has been removed.
        if let Some(usage) = account.quota.usages().get_mut(&account.execution) {
            usage.reserved = usage.reserved.saturating_sub(account.reserved);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIMIT: u64 = 100;

    /// A directory with a report of 40 bytes, and what is ours.
    fn execution() -> (tempfile::TempDir, Directory, ExecutionId) {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("a.json"), [b'x'; 40]).unwrap();
        fs::write(parent.path().join("_journal-1.jsonl"), [b'x'; 4000]).unwrap();
        let directory = Directory::open(parent.path()).unwrap().unwrap();
        let id = ExecutionId::parse("202601010342").unwrap();
        (parent, directory, id)
    }

    fn store(charge: &mut Charge, directory: &Directory, name: &str, bytes: usize) -> bool {
        let settled = charge.settle(directory, name);
        if settled.is_ok() {
            fs::write(directory.path().join(name), vec![b'x'; bytes]).unwrap();
        }
        settled.is_ok()
    }

    #[test]
    fn what_is_stored_and_what_is_on_its_way_are_within_the_quota_together() {
        let (_parent, directory, id) = execution();
        let quota = Quota::new(Some(LIMIT));
        let mut one = quota.charge(&id, &directory, "b-one").unwrap();
        let mut other = quota.charge(&id, &directory, "b-other").unwrap();
        one.grow(30).unwrap();
        one.grow(20).unwrap();
        assert!(other.grow(11).is_err());
        drop(other);
        let mut other = quota.charge(&id, &directory, "b-other").unwrap();
        other.grow(10).unwrap();
        assert!(store(&mut one, &directory, "b-one", 50));
        drop(one);
        assert!(other.grow(1).is_err());
        drop(other);
        let mut last = quota.charge(&id, &directory, "c").unwrap();
        last.grow(10).unwrap();
        assert!(last.grow(1).is_err());
        // Another process counts what it finds.
        drop(last);
        let mut again = Quota::new(Some(LIMIT))
            .charge(&id, &directory, "c")
            .unwrap();
        again.grow(10).unwrap();
        assert!(again.grow(1).is_err());
    }

    #[test]
    fn a_report_that_replaces_another_is_charged_with_what_it_is_longer_by() {
        let (_parent, directory, id) = execution();
        let quota = Quota::new(Some(LIMIT));
        for bytes in [40, 100, 100, 10] {
            let mut charge = quota.charge(&id, &directory, "a.json").unwrap();
            charge.grow(bytes).unwrap();
            assert!(store(&mut charge, &directory, "a.json", bytes), "{bytes}");
        }
        let mut rest = quota.charge(&id, &directory, "b").unwrap();
        rest.grow(90).unwrap();
        assert!(rest.grow(1).is_err());
    }

    #[test]
    fn a_report_whose_predecessor_has_shrunk_meanwhile_is_refused_where_it_no_longer_fits() {
        let (_parent, directory, id) = execution();
        let quota = Quota::new(Some(LIMIT));
        let mut long = quota.charge(&id, &directory, "a.json").unwrap();
        long.grow(60).unwrap();
        let mut short = quota.charge(&id, &directory, "a.json").unwrap();
        short.grow(1).unwrap();
        assert!(store(&mut short, &directory, "a.json", 1));
        let mut other = quota.charge(&id, &directory, "b").unwrap();
        other.grow(79).unwrap();
        assert!(store(&mut other, &directory, "b", 79));
        assert!(!store(&mut long, &directory, "a.json", 60));
    }

    #[test]
    fn what_is_ours_is_not_counted_and_nothing_is_where_there_is_no_quota() {
        let (_parent, directory, id) = execution();
        for (bytes_max, name) in [(Some(LIMIT), "_execution.json"), (None, "b")] {
            let quota = Quota::new(bytes_max);
            let mut charge = quota.charge(&id, &directory, name).unwrap();
            charge.grow(1 << 30).unwrap();
            charge.settle(&directory, name).unwrap();
            assert!(quota.usages().is_empty());
        }
    }

    #[test]
    fn what_others_stored_meanwhile_is_counted_when_it_is_asked_for_again() {
        let (_parent, directory, id) = execution();
        let quota = Quota::new(Some(LIMIT));
        let mut charge = quota.charge(&id, &directory, "b").unwrap();
        charge.grow(20).unwrap();
        fs::write(directory.path().join("c"), [b'x'; 30]).unwrap();
        quota.recount();
        let mut other = quota.charge(&id, &directory, "d").unwrap();
        assert!(other.grow(11).is_err());
        assert!(store(&mut charge, &directory, "b", 20));
        quota.forget(&id);
        drop(charge);
        drop(other);
        assert!(quota.usages().is_empty());
    }
}
