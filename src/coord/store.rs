//! The store: all data that survive a restart, in one redb file in the state directory. Every commit is on the disk before it
//! returns, so that an acknowledged change is there after `kill -9` or a power cut at any instant.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableDefinition,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::rules::{Change, Snapshot};
use crate::error::UserError;

/// The file's name in the state directory.
const FILE_NAME: &str = "coord.redb";

/// The layout of the tables below; a file with another one is of a later version.
const SCHEMA: u64 = 1;

/// The most memory for pages of the file, bytes; the registry itself is in memory anyway.
const CACHE: usize = 4 * 1024 * 1024;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Node key to [`NodeRecord`](super::registry::NodeRecord) as JSON.
const NODES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("nodes");
/// Key id to [`KeyRecord`](super::enrol::KeyRecord) as JSON.
const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");

const META_SCHEMA: &str = "schema";

/// The open store. The file is locked against other processes for as long as this lives.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
}

/// The reason why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The contents of the file make no sense.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The contradiction that was found.
        reason: String,
    },
    /// Written by a later version.
    #[error(
        "{path} was written by a later version of gretun-coord (layout {found}, this one knows {SCHEMA})"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// The file or the disk refuses.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

impl UserError for StoreError {
    fn hint(&self) -> Option<String> {
        match self {
            StoreError::InUse { .. } => {
                Some("is a gretun-coord running on this state directory? stop it, or use another --state-dir".to_owned())
            }
            StoreError::Damaged { path, .. } => Some(format!(
                "put a backup in its place, or begin anew with `mv {path} {path}.damaged`: \
                 then every peer must enrol again with a new key",
                path = path.display()
            )),
            StoreError::TooNew { .. } => Some("upgrade gretun-coord, or use another --state-dir".to_owned()),
            StoreError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    Some("run as the user who owns the state directory, or choose another with --state-dir".to_owned())
                }
                io::ErrorKind::StorageFull => Some("make room on the disk".to_owned()),
                _ => None,
            },
        }
    }
}

impl Store {
    /// Opens the store in `state_dir`, which must exist, and makes one where there is none.
    pub fn open(state_dir: &Path) -> Result<Store, StoreError> {
        let path = state_dir.join(FILE_NAME);
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::Io {
                path: path.clone(),
                source,
            })?;
        let mut database = guarded(&path, || {
            let mut builder = Database::builder();
            let opened = builder.set_cache_size(CACHE).create_file(file);
            opened.map_err(|error| open_error(&path, error))
        })?;
        // Opening alone does not compare the checksums of the pages that hold the data.
        let sound = guarded(&path, || {
            database
                .check_integrity()
                .map_err(|error| open_error(&path, error))
        });
        match sound {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(path = %path.display(), "the store was damaged and could be repaired")
            }
            Err(error) => {
                // Closing writes, and panics on the damage that was just found.
                std::mem::forget(database);
                return Err(error);
            }
        }
        let store = Store { database, path };
        if is_new {
            store.give_to_owner_of(state_dir)?;
        }
        store.prepare()?;
        Ok(store)
    }

    /// Everything that is stored.
    pub fn load(&self) -> Result<Snapshot, StoreError> {
        let transaction = self
            .database
            .begin_read()
            .map_err(|error| self.error(error))?;
        let nodes = transaction
            .open_table(NODES)
            .map_err(|error| self.error(error))?;
        let keys = transaction
            .open_table(KEYS)
            .map_err(|error| self.error(error))?;
        Ok(Snapshot {
            nodes: self.read_all(nodes.iter())?,
            keys: self.read_all(keys.iter())?,
        })
    }

    /// Makes the changes, all or none; they are on the disk when this returns.
    pub fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let transaction = self
            .database
            .begin_write()
            .map_err(|error| self.error(error))?;
        {
            let mut nodes = transaction
                .open_table(NODES)
                .map_err(|error| self.error(error))?;
            let mut keys = transaction
                .open_table(KEYS)
                .map_err(|error| self.error(error))?;
            for change in changes {
                match change {
                    Change::PutNode(record) => {
                        let value = self.encode(record)?;
                        nodes
                            .insert(&record.node_key.as_bytes()[..], &value[..])
                            .map_err(|error| self.error(error))?;
                    }
                    Change::RemoveNode(node) => {
                        nodes
                            .remove(&node.as_bytes()[..])
                            .map_err(|error| self.error(error))?;
                    }
                    Change::PutKey(record) => {
                        let value = self.encode(record)?;
                        keys.insert(&record.id[..], &value[..])
                            .map_err(|error| self.error(error))?;
                    }
                    Change::RemoveKey(id) => {
                        keys.remove(&id[..]).map_err(|error| self.error(error))?;
                    }
                }
            }
        }
        transaction.commit().map_err(|error| self.error(error))
    }

    /// Makes the tables of a new file; checks the layout of an old one.
    fn prepare(&self) -> Result<(), StoreError> {
        let transaction = self
            .database
            .begin_write()
            .map_err(|error| self.error(error))?;
        {
            let mut meta = transaction
                .open_table(META)
                .map_err(|error| self.error(error))?;
            let found = meta
                .get(META_SCHEMA)
                .map_err(|error| self.error(error))?
                .map(|it| it.value());
            match found {
                Some(SCHEMA) => return Ok(()),
                Some(found) => {
                    let path = self.path.clone();
                    return Err(StoreError::TooNew { path, found });
                }
                None => meta
                    .insert(META_SCHEMA, SCHEMA)
                    .map_err(|error| self.error(error))?,
            };
            transaction
                .open_table(NODES)
                .map_err(|error| self.error(error))?;
            transaction
                .open_table(KEYS)
                .map_err(|error| self.error(error))?;
        }
        transaction.commit().map_err(|error| self.error(error))
    }

    /// Root may run `keys create` before the service, under its own user, ever started: the file must be the service's.
    fn give_to_owner_of(&self, state_dir: &Path) -> Result<(), StoreError> {
        let io_error = |source| StoreError::Io {
            path: self.path.clone(),
            source,
        };
        let wanted = std::fs::metadata(state_dir).map_err(io_error)?;
        let found = std::fs::metadata(&self.path).map_err(io_error)?;
        if (wanted.uid(), wanted.gid()) == (found.uid(), found.gid())
            || !rustix::process::geteuid().is_root()
        {
            return Ok(());
        }
        chown(&self.path, Some(wanted.uid()), Some(wanted.gid())).map_err(io_error)
    }

    fn read_all<'a, K, T>(
        &self,
        entries: Result<redb::Range<'a, K, &'static [u8]>, StorageError>,
    ) -> Result<Vec<T>, StoreError>
    where
        K: redb::Key + 'static,
        T: DeserializeOwned,
    {
        let entries = entries.map_err(|error| self.error(error))?;
        entries
            .map(|entry| {
                let (_, value) = entry.map_err(|error| self.error(error))?;
                serde_json::from_slice(value.value())
                    .map_err(|error| self.damaged(error.to_string()))
            })
            .collect()
    }

    fn encode(&self, record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(record).map_err(|error| self.damaged(error.to_string()))
    }

    fn error(&self, error: impl Into<redb::Error>) -> StoreError {
        store_error(&self.path, error.into())
    }

    fn damaged(&self, reason: String) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            reason,
        }
    }
}

/// redb asserts what its checksums do not cover, and so panics on some damaged files: that is an error like others, and
/// nothing that a backtrace explains better.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(work));
    set_hook(hook);
    result.unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
        Err(StoreError::Damaged {
            path: path.to_owned(),
            reason: reason.unwrap_or_else(|| "it cannot be read".to_owned()),
        })
    })
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse {
            path: path.to_owned(),
        },
        other => store_error(path, other.into()),
    }
}

fn store_error(path: &Path, error: redb::Error) -> StoreError {
    match error {
        // redb's error for a file that it did not write, or whose header is gone.
        redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
            StoreError::Damaged {
                path: path.to_owned(),
                reason: source.to_string(),
            }
        }
        redb::Error::Io(source) => StoreError::Io {
            path: path.to_owned(),
            source,
        },
        other => StoreError::Damaged {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
