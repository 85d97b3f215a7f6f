//! A file under a temporary name, which gets its place or is removed.
//!
//! Its name tells whose it is: a process removes at its start what an earlier one of its holder left, a leader what
//! others left long ago. Nothing else is ever taken for a leftover.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::directory::Directory;
use super::quota::Charge;
use crate::core::hex::lower_hex;

/// How the names of temporary files begin; node names, and so reports, never do.
const PREFIX: &str = "_upload-";

/// The same of those that only a leader may give their names.
const LEADERS_PREFIX: &str = "_leaders-";

/// Bytes of the hash of a holder's identity, which may be longer than a file name.
const HOLDER_HASH_BYTES: usize = 6;

/// Whose temporary files are meant: a hash of the holder identity, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder(String);

impl Holder {
    pub(super) fn new(identity: &str) -> Self {
        Self(lower_hex(&Sha256::digest(identity)[..HOLDER_HASH_BYTES]))
    }

    /// The name of this holder's temporary file of that number.
    pub(super) fn temporary_name(&self, number: u64) -> String {
        format!("{PREFIX}{}-{number}", self.0)
    }

    /// As [`Self::temporary_name`], of what only a leader may store.
    pub(super) fn leaders_name(&self, number: u64) -> String {
        format!("{LEADERS_PREFIX}{}-{number}", self.0)
    }

    /// Whose temporary file has that name, if it is one.
    pub(super) fn of(name: &str) -> Option<Self> {
        let after = |prefix| name.strip_prefix(prefix);
        let (holder, number) =
            (after(PREFIX).or_else(|| after(LEADERS_PREFIX))?).split_once('-')?;
        let is_hash = holder.len() == 2 * HOLDER_HASH_BYTES
            && holder.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        (is_hash && is_number).then(|| Self(holder.to_owned()))
    }
}

/// Whether a name is not that of a report, because the names of temporary files begin so.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(PREFIX) || is_leaders(name)
}

/// Whether it is one that only a leader may give its name.
pub(super) fn is_leaders(name: &str) -> bool {
    name.starts_with(LEADERS_PREFIX)
}

/// A temporary file that is being written.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) file: File,
    pub(super) place: TemporaryPlace,
}

/// Where a temporary file is, which is removed unless it gets its name.
#[derive(Debug)]
pub(super) struct TemporaryPlace {
    directory: Location,
    name: String,
    is_named: bool,
    pub(super) charge: Charge,
}

#[derive(Debug, Clone)]
enum Location {
    Open(Directory),
    /// Without a descriptor.
    Path(Arc<Path>),
}

impl Location {
    fn open(self) -> io::Result<Directory> {
        match self {
            Self::Open(directory) => Ok(directory),
            Self::Path(path) => {
                Directory::open(&path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        }
    }
}

impl Temporary {
    /// A new file; where something has that name, the charge is given back.
    pub(super) fn create(
        directory: &Directory,
        name: String,
        charge: Charge,
    ) -> io::Result<Result<Self, Charge>> {
        let Some(file) = directory.create(&name)? else {
            return Ok(Err(charge));
        };
        let place = TemporaryPlace {
            directory: Location::Open(directory.clone()),
            name,
            is_named: false,
            charge,
        };
        Ok(Ok(Self { file, place }))
    }

    /// Gives it its name, in place of what had that; answers in which directory.
    pub(super) fn rename(mut self, name: &str) -> io::Result<Directory> {
        let directory = self.place.directory.clone().open()?;
        self.place.charge.settle(&directory, name)?;
        let renamed = directory.rename(&self.place.name, name);
        renamed.inspect_err(|_| self.place.charge.undo())?;
        self.place.is_named = true;
        Ok(directory)
    }

    /// Closes it, for later.
    pub(super) fn suspend(mut self) -> TemporaryPlace {
        if let Location::Open(directory) = &self.place.directory {
            self.place.directory = Location::Path(Arc::clone(directory.path()));
        }
        self.place
    }
}

impl TemporaryPlace {
    /// Opens it again, to be written on.
    pub(super) fn reopen(mut self) -> io::Result<Temporary> {
        let directory = self.directory.clone().open()?;
        let file = directory.reopen(&self.name)?;
        self.directory = Location::Open(directory);
        Ok(Temporary { file, place: self })
    }
}

impl Drop for TemporaryPlace {
    fn drop(&mut self) {
        if self.is_named {
            return;
        }
        let (directory, name) = (self.directory.clone(), std::mem::take(&mut self.name));
        // Whoever drops it has the cause; what cannot be removed is invisible and goes with its execution.
        let remove = move || {
            let _ = directory
                .open()
                .and_then(|directory| directory.remove(&name));
        };
        match tokio::runtime::Handle::try_current() {
            // It may be one of the runtime's own threads, which must not wait for a disk.
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_tells_its_holder_and_no_other_name_does() {
        let holder = Holder::new("audit-0");
        for name in [holder.temporary_name(7), holder.leaders_name(7)] {
            assert_eq!(Holder::of(&name).as_ref(), Some(&holder));
            assert_ne!(Holder::of(&name), Some(Holder::new("audit-1")));
        }
        for other in [
            "_upload-7",
            "_upload-",
            "_upload-0123456789ab-",
            "_upload-0123456789ab-x",
            "_upload-0123456789abc-1",
            "_upload-0123456789ag-1",
            "upload-0123456789ab-1",
            "node-a.json",
        ] {
            assert_eq!(Holder::of(other), None, "{other}");
        }
    }
}
