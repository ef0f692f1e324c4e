//! Writes files that are published whole: under a hidden name first, then, when a checkpoint covers all of a file, by an
//! atomic rename.
//!
//! A file passes through three states: *open* (rows are added), *finished* (a limit was reached, fsynced), *published*
//! (renamed). Only a file whose whole length is covered by a complete epoch is published, because rows that are not
//! covered come again after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use chrono::Utc;
use chrono::format::{Item, StrftimeItems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::append::{make_folder, not_open, sync_folder, to_bytes};
use super::io_error;
use super::sink::{Target, lines};
use crate::error::ConnectorError;
use crate::format::Encoded;
use crate::units::{ByteSize, Duration as DurationUnit};

/// What stands for the file's number.
const SEQUENCE: &str = "{sequence}";

/// When a file is complete: whichever comes first. At least one is needed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RollConfig {
    /// The most bytes in one file (a single longer row has a file of its own).
    pub size: Option<ByteSize>,
    /// The most rows in one file.
    #[schemars(range(min = 1))]
    pub rows: Option<u64>,
    /// The longest time from a file's first row until it is published (at the next checkpoint).
    pub every: Option<DurationUnit>,
}

/// Files that are published whole.
pub(super) struct Roll {
    limits: RollConfig,
    /// The path with its places for time and number.
    pattern: String,
    header: Option<Bytes>,
    /// Marks the hidden files of this sink.
    suffix: String,
    opened: bool,
    next_sequence: u64,
    parts: Vec<Part>,
    /// The open file; it is that of the last part.
    file: Option<File>,
}

/// A file that is not published yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part {
    /// Its name once it is published.
    path: PathBuf,
    length: u64,
    rows: u64,
    /// When it was begun, in milliseconds since 1970.
    begun_ms: u64,
    finished: bool,
    #[serde(skip)]
    flushed: u64,
    #[serde(skip)]
    committed: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    roll: RollState,
}

#[derive(Debug, Serialize, Deserialize)]
struct RollState {
    /// Files of another name or with other columns are not added to.
    pattern: String,
    header: Option<Vec<u8>>,
    next_sequence: u64,
    parts: Vec<Part>,
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Puts the place for the number before the extension, where the user named none.
fn with_sequence(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.contains(SEQUENCE) {
        return text.into_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{SEQUENCE}{extension}")).to_string_lossy().into_owned()
}

impl Roll {
    pub(super) fn new(
        limits: &RollConfig,
        path: &Path,
        header: Option<Bytes>,
        owner: &str,
    ) -> Result<Self, ConnectorError> {
        let wrong = |option: &str, message: String| Err(ConnectorError::configuration(option, message));
        match limits {
            RollConfig { size: None, rows: None, every: None } => {
                return wrong("roll", "say when a file is complete: `size`, `rows` or `every`".into());
            }
            RollConfig { size: Some(ByteSize(0)), .. } => return wrong("roll.size", "must be more than 0B".into()),
            RollConfig { rows: Some(0), .. } => return wrong("roll.rows", "must be more than 0".into()),
            RollConfig { every: Some(every), .. } if every.0 < Duration::from_millis(1) => {
                return wrong("roll.every", "must be at least 1ms".into());
            }
            _ => {}
        }
        let pattern = with_sequence(path);
        if StrftimeItems::new(&pattern).any(|item| matches!(item, Item::Error)) {
            return wrong(
                "path",
                format!("`{pattern}` has a `%` that stands for no part of a time; write `%%` for itself"),
            );
        }
        let owner: String =
            owner.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
        Ok(Self {
            limits: limits.clone(),
            pattern,
            header,
            suffix: format!(".{owner}.part"),
            opened: false,
            next_sequence: 1,
            parts: Vec::new(),
            file: None,
        })
    }

    /// The hidden name under which the file at `path` is written.
    fn hidden(&self, path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!(".{name}{}", self.suffix))
    }

    fn path(&self, sequence: u64) -> PathBuf {
        let path = Utc::now().format(&self.pattern).to_string();
        PathBuf::from(path.replace(SEQUENCE, &format!("{sequence:06}")))
    }

    /// Begins a file, under the first number that no file has.
    fn begin(&mut self) -> Result<(), ConnectorError> {
        let mut path = self.path(self.next_sequence);
        while path.exists() {
            self.next_sequence += 1;
            path = self.path(self.next_sequence);
        }
        self.next_sequence += 1;
        make_folder(&path)?;
        let hidden = self.hidden(&path);
        let mut file = File::create(&hidden).map_err(|error| io_error("write to", &hidden, &error))?;
        let mut length = 0;
        if let Some(header) = &self.header {
            let line = [header, b"\n".as_slice()].concat();
            file.write_all(&line).map_err(|error| io_error("write to", &hidden, &error))?;
            length = line.len() as u64;
        }
        sync_folder(&hidden)?;
        self.file = Some(file);
        let begun_ms = now_ms();
        self.parts.push(Part { path, length, rows: 0, begun_ms, finished: false, flushed: 0, committed: 0 });
        Ok(())
    }

    /// The open file takes no more rows.
    fn finish(&mut self) -> Result<(), ConnectorError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        if let Some(part) = self.parts.last_mut() {
            file.sync_all().map_err(|error| io_error("fsync", &part.path, &error))?;
            part.finished = true;
        }
        Ok(())
    }

    /// Publishes the finished files that complete epochs cover.
    fn publish(&mut self) -> Result<(), ConnectorError> {
        let ready = |part: &Part| part.finished && part.committed == part.length;
        while let Some(at) = self.parts.iter().position(ready) {
            let part = self.parts.remove(at);
            if part.path.exists() {
                let path = part.path.display().to_string();
                self.parts.insert(at, part);
                return Err(ConnectorError::retry(format!(
                    "{path} exists already; it is not overwritten: move it away"
                )));
            }
            fs::rename(self.hidden(&part.path), &part.path).map_err(|error| io_error("publish", &part.path, &error))?;
            sync_folder(&part.path)?;
            tracing::debug!(file = %part.path.display(), rows = part.rows, bytes = part.length, "published");
        }
        Ok(())
    }

    /// Goes on with a file that the snapshot names.
    fn restore(&mut self, mut part: Part) -> Result<(), ConnectorError> {
        let hidden = self.hidden(&part.path);
        // Everything that a snapshot names is covered by it.
        (part.flushed, part.committed) = (part.length, part.length);
        let Ok(mut file) = OpenOptions::new().read(true).write(true).open(&hidden) else {
            if !part.path.exists() {
                tracing::warn!(file = %part.path.display(), "a file that a checkpoint covers is gone: published and taken away, or deleted");
            }
            return Ok(()); // It was published after the snapshot was made.
        };
        let wrong = |error| io_error("write to", &hidden, &error);
        let length = file.metadata().map_err(wrong)?.len();
        if length < part.length {
            return Err(ConnectorError::fatal(format!(
                "{} has {length} bytes, but the last checkpoint covers {}: it was cut by someone else, and rows are missing",
                hidden.display(),
                part.length
            )));
        }
        file.set_len(part.length).map_err(wrong)?;
        file.seek(SeekFrom::End(0)).map_err(wrong)?;
        file.sync_all().map_err(wrong)?;
        if !part.finished {
            self.file = Some(file);
        }
        self.parts.push(part);
        Ok(())
    }

    /// Deletes hidden files of this sink that no snapshot names: their rows come again.
    fn delete_orphans(&self, known: &[PathBuf]) -> Result<(), ConnectorError> {
        let mut folders: Vec<PathBuf> =
            known.iter().chain([&self.path(1)]).filter_map(|path| Some(path.parent()?.into())).collect();
        folders.dedup();
        let known: Vec<_> = known.iter().map(|path| self.hidden(path)).collect();
        for folder in folders {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with('.') && name.ends_with(&self.suffix) && !known.contains(&path) {
                    tracing::info!(file = %path.display(), "deleted an unfinished file that no checkpoint covers; its rows come again");
                    fs::remove_file(&path).map_err(|error| io_error("delete", &path, &error))?;
                }
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        let every = self.limits.every?.0;
        let part = self.parts.last().filter(|part| !part.finished && part.rows > 0)?;
        let age = Duration::from_millis(now_ms().saturating_sub(part.begun_ms));
        Some(every.saturating_sub(age))
    }

    /// Writes messages to the open file until a limit is reached; returns where it stopped.
    fn write_some(&mut self, encoded: &Encoded, from: usize) -> Result<usize, ConnectorError> {
        if self.file.is_none() {
            self.begin()?;
        }
        let path = self.parts.last().map(|part| self.hidden(&part.path)).unwrap_or_default();
        let (Some(file), Some(part)) = (&mut self.file, self.parts.last_mut()) else { return Err(not_open(&path)) };
        let size_max = self.limits.size.map_or(u64::MAX, |size| size.0);
        let rows_max = self.limits.rows.unwrap_or(u64::MAX);
        let (mut length, mut rows) = (part.length, part.rows);
        let (bytes, at) = lines(encoded, from, |line| {
            let fits = rows == 0 || (length + line as u64 <= size_max && rows < rows_max);
            if fits {
                length += line as u64;
                rows += 1;
            }
            fits
        });
        file.write_all(&bytes).map_err(|error| io_error("write to", &path, &error))?;
        (part.length, part.rows) = (length, rows);
        Ok(at)
    }
}

impl Target for Roll {
    fn open(&mut self, restored: Option<&[u8]>) -> Result<(), ConnectorError> {
        let state = restored.and_then(|state| serde_json::from_slice::<State>(state).ok()).map(|state| state.roll);
        (self.next_sequence, self.parts, self.file) = (1, Vec::new(), None);
        let mut known = Vec::new();
        if let Some(state) = state {
            let same = state.pattern == self.pattern && state.header.as_deref() == self.header.as_deref();
            self.next_sequence = if state.pattern == self.pattern { state.next_sequence } else { 1 };
            for part in state.parts {
                known.push(part.path.clone());
                self.restore(part)?;
            }
            if !same {
                self.finish()?;
            }
        }
        self.delete_orphans(&known)?;
        self.opened = true;
        self.publish()
    }

    fn write(&mut self, encoded: &Encoded) -> Result<(), ConnectorError> {
        // False until all is written, so that a write that fails halfway is not followed by another.
        if !std::mem::replace(&mut self.opened, false) {
            return Err(not_open(Path::new(&self.pattern)));
        }
        let mut at = 0;
        while at < encoded.ends.len() {
            at = self.write_some(encoded, at)?;
            let full = at < encoded.ends.len() || self.deadline() == Some(Duration::ZERO);
            let full = full || self.parts.last().is_some_and(|part| Some(part.rows) == self.limits.rows);
            if full {
                self.finish()?;
            }
        }
        self.opened = true;
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<u8>, ConnectorError> {
        if !self.opened {
            return Err(not_open(Path::new(&self.pattern)));
        }
        if let (Some(file), Some(part)) = (&self.file, self.parts.last())
            && part.flushed < part.length
        {
            file.sync_data().map_err(|error| io_error("fsync", &part.path, &error))?;
        }
        for part in &mut self.parts {
            part.flushed = part.length;
        }
        let (pattern, header) = (self.pattern.clone(), self.header.as_ref().map(|header| header.to_vec()));
        to_bytes(&State {
            roll: RollState { pattern, header, next_sequence: self.next_sequence, parts: self.parts.clone() },
        })
    }

    fn committed(&mut self) -> Result<(), ConnectorError> {
        for part in &mut self.parts {
            part.committed = part.flushed;
        }
        self.publish()
    }

    fn next_tick(&self) -> Option<Instant> {
        Some(Instant::now() + self.deadline()?)
    }

    fn tick(&mut self) -> Result<(), ConnectorError> {
        if self.deadline() == Some(Duration::ZERO) {
            self.finish()?;
        }
        self.publish()
    }

    /// Publishes the open file too, if a complete epoch covers it: the pipeline may be at its end. If not, the file stays
    /// hidden, and the next start goes on with it.
    fn close(&mut self) -> Result<(), ConnectorError> {
        if self.parts.last().is_some_and(|part| part.committed == part.length) {
            self.finish()?;
        }
        self.publish()
    }
}
