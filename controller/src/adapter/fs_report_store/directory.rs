//! An open directory of the report volume: what is in it is reached beneath it, by names of one component, and no link
//! is followed.
//!
//! Whoever else may write to the volume can put a link in a report's place or in the directory's own at any moment:
//! nothing here is led away by it, because nothing is looked up by a path again.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

const BENEATH: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// What new files may be, less the process's umask.
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);

/// A directory that stays the same whatever becomes of its path. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    descriptor: Arc<OwnedFd>,
    path: Arc<Path>,
}

impl Directory {
    /// Opens what is at `path`; none where that is nothing, a link, or no directory. All but its last component is
    /// trusted.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | BENEATH;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(descriptor) => Ok(Some(Self {
                descriptor: Arc::new(descriptor),
                path: path.into(),
            })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it is the same as another, by whichever path that was opened.
    pub(super) fn is(&self, other: &Self) -> bool {
        let identity = |directory: &Self| {
            let stat = rustix::fs::fstat(&directory.descriptor).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        identity(self).is_some_and(|this| identity(other) == Some(this))
    }

    /// Where it was opened.
    pub(super) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// A new file to write; none where something has that name.
    pub(super) fn create(&self, name: &str) -> io::Result<Option<File>> {
        match self.open_file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file to write on at its end, made where there is none.
    pub(super) fn append(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
    }

    /// A file that is there, to write on at its end.
    pub(super) fn reopen(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::WRONLY | OFlags::APPEND)
    }

    /// A regular file to read. No pipe is waited for.
    pub(super) fn read(&self, name: &str) -> io::Result<File> {
        let file = self.open_file(name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        match rustix::fs::openat(&self.descriptor, name, flags | BENEATH, FILE_MODE) {
            Ok(file) => Ok(file.into()),
            // What the system says of a link.
            Err(Errno::LOOP) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// What is known of a regular file; none where there is no such.
    pub(super) fn file_stat(&self, name: &str) -> io::Result<Option<Stat>> {
        let is_file = |stat: &Stat| FileType::from_raw_mode(stat.st_mode).is_file();
        Ok(self.stat(name)?.filter(is_file))
    }

    /// What is known of whatever has that name, of a link itself; none where nothing has.
    pub(super) fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file another name, in place of what had that.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(
            &self.descriptor,
            from,
            &self.descriptor,
            to,
        )?)
    }

    /// Removes a file, or a link itself.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.descriptor,
            name,
            AtFlags::empty(),
        )?)
    }

    /// A new link; none where something has that name.
    pub(super) fn link(&self, name: &str, target: &str) -> io::Result<Option<()>> {
        match rustix::fs::symlinkat(target, &self.descriptor, name) {
            Ok(()) => Ok(Some(())),
            Err(Errno::EXIST) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The names in it, of whatever kind, in no order; those that are not UTF-8 are nobody's here.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.descriptor)? {
            if let Ok(name) = entry?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Makes the names in it outlive a loss of power.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.descriptor)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_took_a_reports_place_is_neither_read_nor_written_through() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("execution");
        fs::create_dir(&path).unwrap();
        let directory = Directory::open(&path).unwrap().unwrap();
        let outside = parent.path().join("outside");
        fs::write(&outside, "theirs").unwrap();
        symlink(&outside, path.join("link")).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(path.join("pipe"))
            .status();
        assert!(made.unwrap().success());
        fs::create_dir(path.join("directory")).unwrap();
        for name in ["link", "pipe", "directory", "nothing"] {
            let error = directory.read(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name}");
            assert!(directory.file_stat(name).unwrap().is_none(), "{name}");
        }
        assert!(directory.append("link").is_err());
        assert!(directory.create("link").unwrap().is_none());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "theirs");
    }

    #[test]
    fn a_link_in_the_directorys_place_leads_nowhere() {
        let parent = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (parent.path().join("execution"), parent.path().join("else"));
        fs::create_dir(&path).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        let directory = Directory::open(&path).unwrap().unwrap();
        fs::rename(&path, parent.path().join("moved")).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(Directory::open(&path).unwrap().is_none());

        directory.create("new").unwrap().unwrap();
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        let mut text = String::new();
        let mut file = directory.read("new").unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "");
    }
}
