//! Appends to one file under its own name. What a checkpoint does not cover is cut off after a crash.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::identity::FileId;
use super::io_error;
use super::sink::{IfExists, Target, lines};
use crate::error::ConnectorError;
use crate::format::Encoded;

/// A file that is appended to.
pub(super) struct Append {
    path: PathBuf,
    header: Option<Bytes>,
    if_exists: IfExists,
    open: Option<Open>,
}

struct Open {
    file: File,
    length: u64,
    id: FileId,
    /// Something was written since the last flush.
    dirty: bool,
}

/// What a snapshot knows about the file.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    append: AppendState,
}

#[derive(Debug, Serialize, Deserialize)]
struct AppendState {
    path: PathBuf,
    id: FileId,
    length: u64,
}

impl Append {
    pub(super) fn new(path: PathBuf, header: Option<Bytes>, if_exists: IfExists) -> Self {
        Self { path, header, if_exists, open: None }
    }

    fn writing(&self) -> impl Fn(std::io::Error) -> ConnectorError + use<'_> {
        |error| io_error("write to", &self.path, &error)
    }

    /// Cuts the file back to what the snapshot covers; false where the file is another one.
    fn cut_back(&self, file: &File, state: &AppendState) -> Result<bool, ConnectorError> {
        let metadata = file.metadata().map_err(self.writing())?;
        let (path, length) = (self.path.display(), metadata.len());
        if FileId::of(&metadata) != state.id {
            tracing::warn!(file = %path, "the file was replaced or moved away since the last checkpoint; appending to what is there");
            return Ok(false);
        }
        if length < state.length {
            tracing::warn!(
                file = %path, length, expected = state.length,
                "the file is shorter than what was written to it: someone cut it; appending to what is there"
            );
            return Ok(false);
        }
        if length > state.length {
            tracing::info!(file = %path, bytes = length - state.length, "cut off what the last checkpoint does not cover; it comes again");
            file.set_len(state.length).and_then(|()| file.sync_all()).map_err(self.writing())?;
        }
        Ok(true)
    }

    /// Deals with a file that no snapshot knows.
    fn first_start(&self, file: &File) -> Result<(), ConnectorError> {
        let length = file.metadata().map_err(self.writing())?.len();
        match self.if_exists {
            IfExists::Fail if length > 0 => Err(ConnectorError::configuration(
                "path",
                format!(
                    "{} exists already; move it away, or set `if_exists: append` or `replace`",
                    self.path.display()
                ),
            )),
            IfExists::Replace => file.set_len(0).map_err(self.writing()),
            IfExists::Fail | IfExists::Append => Ok(()),
        }
    }

    /// Refuses a file whose header names other columns: no reader could make sense of what follows.
    fn check_header(&self, file: &File) -> Result<(), ConnectorError> {
        let Some(header) = &self.header else { return Ok(()) };
        let mut found = vec![0; header.len() + 1];
        let length = file.metadata().map_err(self.writing())?.len();
        let read = file.read_at(&mut found, 0).map_err(self.writing())?;
        if length == 0 || found.get(..read) == Some(&[header, b"\n".as_slice()].concat()[..]) {
            return Ok(());
        }
        Err(ConnectorError::configuration(
            "path",
            format!(
                "{} does not start with the header `{}`: it has other columns; use another path, or move the file away",
                self.path.display(),
                String::from_utf8_lossy(header)
            ),
        ))
    }

    /// Ends a last line that has no line break: a row must not be glued to it.
    fn end_line(&self, file: &mut File) -> Result<u64, ConnectorError> {
        let length = file.metadata().map_err(self.writing())?.len();
        let mut last = [b'\n'];
        if length > 0 {
            file.read_exact_at(&mut last, length - 1).map_err(self.writing())?;
        }
        file.seek(SeekFrom::End(0)).map_err(self.writing())?;
        if last == [b'\n'] {
            return Ok(length);
        }
        tracing::warn!(file = %self.path.display(), "the file's last line has no line break; one is put there");
        file.write_all(b"\n").map_err(self.writing())?;
        Ok(length + 1)
    }
}

/// Makes the folder of `path`.
pub(super) fn make_folder(path: &Path) -> Result<(), ConnectorError> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(|error| io_error("make the folder", folder, &error)),
        None => Ok(()),
    }
}

/// Makes durable that `path` has its name.
pub(super) fn sync_folder(path: &Path) -> Result<(), ConnectorError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| io_error("fsync the folder", folder, &error))
}

impl Target for Append {
    fn open(&mut self, restored: Option<&[u8]>) -> Result<(), ConnectorError> {
        // A state of another path or kind belongs to options that are no more.
        let state = restored.and_then(|state| serde_json::from_slice::<State>(state).ok()).map(|state| state.append);
        let state = state.filter(|state| state.path == self.path);
        make_folder(&self.path)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&self.path);
        let mut file = file.map_err(self.writing())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ConnectorError::retry(format!(
                    "{} is being written by another sink or process; give each its own file",
                    self.path.display()
                )));
            }
            Err(TryLockError::Error(error)) => {
                tracing::warn!(file = %self.path.display(), %error, "the file system cannot lock files; see to it that nobody else writes to this one");
            }
        }
        match &state {
            Some(state) => {
                self.cut_back(&file, state)?;
            }
            None => self.first_start(&file)?,
        }
        let mut length = self.end_line(&mut file)?;
        self.check_header(&file)?;
        if let (0, Some(header)) = (length, &self.header) {
            let line = [header, b"\n".as_slice()].concat();
            file.write_all(&line).map_err(self.writing())?;
            length = line.len() as u64;
        }
        sync_folder(&self.path)?;
        let id = FileId::of(&file.metadata().map_err(self.writing())?);
        self.open = Some(Open { file, length, id, dirty: true });
        Ok(())
    }

    fn write(&mut self, encoded: &Encoded) -> Result<(), ConnectorError> {
        let (bytes, _) = lines(encoded, 0, |_| true);
        // Taken out, so that a write that fails halfway is not followed by another.
        let mut open = self.open.take().ok_or_else(|| not_open(&self.path))?;
        open.file.write_all(&bytes).map_err(self.writing())?;
        open.length += bytes.len() as u64;
        open.dirty = true;
        self.open = Some(open);
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<u8>, ConnectorError> {
        let mut open = self.open.take().ok_or_else(|| not_open(&self.path))?;
        if std::mem::take(&mut open.dirty) {
            open.file.sync_data().map_err(|error| io_error("fsync", &self.path, &error))?;
        }
        let append = AppendState { path: self.path.clone(), id: open.id, length: open.length };
        self.open = Some(open);
        to_bytes(&State { append })
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        self.open = None;
        Ok(())
    }
}

pub(super) fn not_open(path: &Path) -> ConnectorError {
    ConnectorError::retry(format!("{} is not open (an earlier write failed)", path.display()))
}

pub(super) fn to_bytes(state: &impl Serialize) -> Result<Vec<u8>, ConnectorError> {
    serde_json::to_vec(state).map_err(|error| ConnectorError::fatal(format!("a file's state cannot be kept: {error}")))
}
