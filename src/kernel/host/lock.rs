//! Serialises changes of tunnels in a network namespace. The lock is a file that no other user can open, named by the
//! namespace's inode; the kernel takes the lock back from a process that dies.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use thiserror::Error;

use crate::error::UserError;

/// Where the lock files are. Root's commands make it. Where units run as other users, the service manager has made it for their
/// group (tmpfiles.d), with the set-group-ID bit, so that a file belongs to the group whoever makes it.
const DIRECTORY: &str = "/run/gretun-lock";

/// How long a command waits for another process; far more than a change of thousands of tunnels takes.
pub const COMMAND_PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(20);

/// The right to change static tunnels, until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the right, for so long at most.
    ///
    /// # Errors
    /// When another process keeps it, or the file cannot be had.
    pub fn take(patience: Duration) -> Result<Self, LockError> {
        Lock::take_in(Path::new(DIRECTORY), patience)
    }

    fn take_in(directory: &Path, patience: Duration) -> Result<Self, LockError> {
        let (path, deadline) = (path_in(directory), Instant::now() + patience);
        let path = path.map_err(LockError::System)?;
        loop {
            match try_take(directory, &path).map_err(LockError::System)? {
                Some(file) => return Ok(Lock { _file: file }),
                None if Instant::now() >= deadline => return Err(LockError::Busy { path }),
                None => std::thread::sleep(RETRY),
            }
        }
    }
}

/// The lock file of this thread's network namespace.
fn path_in(directory: &Path) -> io::Result<PathBuf> {
    let namespace = fs::metadata("/proc/thread-self/ns/net")?;
    Ok(directory.join(format!("netns-{}.lock", namespace.ino())))
}

/// Locks the file, unless another process has it.
fn try_take(directory: &Path, path: &Path) -> io::Result<Option<File>> {
    match DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = rustix::fs::open(directory, flags, Mode::empty())?;
    let owner = rustix::fs::fstat(&parent)?;
    if owner.st_mode & 0o002 != 0 {
        let reason = format!("{} can be written by others", directory.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    // Whoever can open a file can lock it, so nobody may who cannot write to the directory. Its group may: who belongs to it can
    // command the daemon, too.
    let is_shared = owner.st_mode & 0o020 != 0;
    let mode = Mode::from_raw_mode(if is_shared { 0o660 } else { 0o600 });
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = path.file_name().unwrap_or_default();
    let file = rustix::fs::openat(&parent, name, flags, mode)?;
    let status = rustix::fs::fstat(&file)?;
    if status.st_uid == rustix::process::geteuid().as_raw() && status.st_mode & 0o777 != mode.bits()
    {
        // The umask took the group's part away.
        rustix::fs::fchmod(&file, mode)?;
    }
    match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // Somebody may have removed the directory meanwhile.
    let is_removed = rustix::fs::fstat(&file)?.st_nlink == 0;
    Ok((!is_removed).then(|| file.into()))
}

/// No lock.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another gretun is changing tunnels")]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The system refuses the file.
    #[error("cannot take the lock in {DIRECTORY}: {0}")]
    System(io::Error),
}

impl UserError for LockError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            LockError::Busy { path } => format!("`fuser -v {}` shows which", path.display()),
            LockError::System(_) => {
                format!(
                    "{DIRECTORY} must be a directory that this user can write to and others cannot; a sandbox needs ReadWritePaths={DIRECTORY}"
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), mode).unwrap();
        directory
    }

    #[test]
    fn one_process_has_it_at_a_time() {
        let directory = directory();
        let first = Lock::take_in(directory.path(), SOON).unwrap();
        let error = Lock::take_in(directory.path(), SOON).unwrap_err();
        assert!(matches!(error, LockError::Busy { .. }), "{error}");
        assert!(error.hint().unwrap().contains("fuser"));
        drop(first);
        Lock::take_in(directory.path(), SOON).unwrap();
    }

    /// The abstract socket that the lock used to be could be bound by every local user.
    #[test]
    fn others_can_neither_open_nor_replace_the_file() {
        let directory = directory();
        drop(Lock::take_in(directory.path(), SOON).unwrap());
        let path = path_in(directory.path()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
        fs::remove_file(&path).unwrap();
        symlink("/dev/null", &path).unwrap();
        let error = Lock::take_in(directory.path(), SOON).unwrap_err();
        assert!(matches!(error, LockError::System(_)), "{error}");
        fs::remove_file(&path).unwrap();
        let mode = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.path(), mode).unwrap();
        let error = Lock::take_in(directory.path(), SOON).unwrap_err();
        assert!(error.to_string().contains("written by others"), "{error}");
    }

    /// Units run as users of their own with a umask of 077; their group is what they share.
    #[test]
    fn the_group_of_a_shared_directory_shares_the_file() {
        let directory = directory();
        let mode = fs::Permissions::from_mode(0o2770);
        fs::set_permissions(directory.path(), mode).unwrap();
        drop(Lock::take_in(directory.path(), SOON).unwrap());
        let path = path_in(directory.path()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        drop(Lock::take_in(directory.path(), SOON).unwrap());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660, "{mode:o}");
    }

    #[test]
    fn each_network_namespace_has_its_own() {
        let here = path_in(Path::new("/x")).unwrap();
        let inode = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(here, Path::new(&format!("/x/netns-{inode}.lock")));
    }
}
