//! A file under a temporary name, which gets its place or is removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A temporary file that is being written.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) file: File,
    pub(super) path: TemporaryPath,
}

/// Where a temporary file is, which is removed unless it gets its place.
#[derive(Debug)]
pub(super) struct TemporaryPath {
    path: PathBuf,
    is_placed: bool,
}

impl Temporary {
    /// A new file, or none where something has that name.
    pub(super) fn create(path: PathBuf) -> io::Result<Option<Self>> {
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => {
                let path = TemporaryPath {
                    path,
                    is_placed: false,
                };
                Ok(Some(Self { file, path }))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renames it to its target, in place of what was there.
    pub(super) fn place(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path.path, target)?;
        self.path.is_placed = true;
        Ok(())
    }
}

impl TemporaryPath {
    /// Opens it again, to be written on.
    pub(super) fn reopen(self) -> io::Result<Temporary> {
        let file = OpenOptions::new()
            .append(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path)?;
        Ok(Temporary { file, path: self })
    }
}

impl Drop for TemporaryPath {
    fn drop(&mut self) {
        if self.is_placed {
            return;
        }
        let path = std::mem::take(&mut self.path);
        // Whoever drops it has the cause; what cannot be removed is invisible and goes with its execution.
        let remove = move || {
            let _ = fs::remove_file(path);
        };
        match tokio::runtime::Handle::try_current() {
            // It may be one of the runtime's own threads, which must not wait for a disk.
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
