//! Tells files apart whatever they are called: a log keeps its identity when it is renamed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// A file's identity: its inode and, because inodes are used again, the time it was made (where the file system knows).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct FileId(u32);

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = born.map_or(0, |time| time.as_nanos());
        let mut bytes = metadata.ino().to_le_bytes().to_vec();
        bytes.extend_from_slice(&born.to_le_bytes());
        Self(crc32c::crc32c(&bytes))
    }

    /// The partition of the file that was found as `path`.
    pub(super) fn partition(self, path: &str) -> String {
        format!("{path}#{:08x}", self.0)
    }

    /// Splits a partition's name into path and identity.
    pub(super) fn parse(partition: &str) -> Option<(&str, Self)> {
        let (path, id) = partition.rsplit_once('#')?;
        Some((path, Self(u32::from_str_radix(id, 16).ok()?)))
    }
}
