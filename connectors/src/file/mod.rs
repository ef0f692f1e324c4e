//! The connector `file`: files as sources, sinks and tables.
//!
//! * [`source`]: reads lines, of files once (`once.rs`) or as they grow (`follow.rs`).
//! * [`sink`]: appends to one file (`append.rs`) or writes files that are published whole (`roll.rs`).
//! * [`table`]: reads a file whole, to be joined with.
//!
//! What the bytes mean is the format's business; a line is a message.

mod append;
mod follow;
mod identity;
mod infer;
mod lines;
mod once;
mod roll;
mod sink;
mod source;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use arrow::datatypes::DataType;

use crate::error::ConnectorError;
use crate::source::MetadataField;

pub use roll::RollConfig;
pub use sink::{FileSinkConfig, IfExists};
pub use source::{Compression, FileSourceConfig, Start};
pub use table::FileTableConfig;

/// The metadata fields that a row of this source can carry.
pub static METADATA: LazyLock<Vec<MetadataField>> = LazyLock::new(|| {
    vec![
        MetadataField {
            name: "path",
            data_type: DataType::Utf8,
            description: "The file that the line is from, relative to the folder of the YAML file.",
        },
        MetadataField {
            name: "line_offset",
            data_type: DataType::Int64,
            description: "The byte of the (uncompressed) file at which the line starts.",
        },
    ]
});

/// `path` below `base_dir`.
fn resolve(base_dir: &Path, path: &str) -> PathBuf {
    base_dir.join(path)
}

/// An I/O error, with what was being done and what to do about it.
fn io_error(doing: &str, path: &Path, error: &io::Error) -> ConnectorError {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": the disk (or quota) is full; free some space, nothing is lost meanwhile"
        }
        io::ErrorKind::PermissionDenied => ": the daemon's user may not do this; change the permissions or the path",
        io::ErrorKind::ReadOnlyFilesystem => ": the file system is read-only",
        io::ErrorKind::IsADirectory => ": it is a folder",
        _ => "",
    };
    ConnectorError::retry(format!("cannot {doing} {}: {error}{hint}", path.display()))
}

/// What a blocking thread answered; its panic becomes an error of the pipeline.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, ConnectorError> {
    result.map_err(|error| ConnectorError::fatal(format!("a file task ended early: {error}")))
}
