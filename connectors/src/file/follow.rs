//! Reads files as they grow, like `tail -F`: follows renames, notices cuts, picks up new files.
//!
//! A file is told by its identity, not by its name. When a log is rotated, the old file is read to its end (also after a
//! restart, where it is found again beside the new one), and the new one from its beginning. It works by polling, which
//! network file systems understand too.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::identity::FileId;
use super::io_error;
use super::lines::LineReader;
use super::source::{Files, Start, Step, Steps};
use crate::error::ConnectorError;
use crate::position::Positions;
use crate::source::SourceEvent;

/// A file that was renamed or deleted is still read for so long after its last growth: its writer may not have noticed.
const ROTATED_WAIT: Duration = Duration::from_secs(5);

/// A reader of files that grow.
pub(super) struct Follow {
    files: Files,
    tails: Vec<Tail>,
    /// The tail to look at next, so that a busy file does not starve the others.
    turn: usize,
    events: VecDeque<SourceEvent>,
    /// The header that was sent last.
    header: Option<Bytes>,
    rotated_wait: Duration,
}

struct Tail {
    path: PathBuf,
    id: FileId,
    reader: LineReader,
    /// Since when it is no longer found under its name and did not grow.
    gone_since: Option<Instant>,
}

impl Follow {
    pub(super) fn open(files: Files, start: Start, from: &Positions) -> Result<Self, ConnectorError> {
        let mut follow = Self {
            files,
            tails: Vec::new(),
            turn: 0,
            events: VecDeque::new(),
            header: None,
            rotated_wait: ROTATED_WAIT,
        };
        follow.find_again(from)?;
        // Only the very first start may skip what is there; a file that appeared while we were away is news.
        let start = if from.0.is_empty() { start } else { Start::Beginning };
        follow.look(start, from)?;
        if follow.tails.is_empty() {
            tracing::info!(path = %follow.files.pattern(), "no such file yet; waiting for it");
        }
        follow.partitions();
        Ok(follow)
    }

    /// Opens files that were being read and have another name now.
    fn find_again(&mut self, from: &Positions) -> Result<(), ConnectorError> {
        let current: HashSet<FileId> = self.files.find()?.iter().filter_map(|(path, _)| id_of(path)).collect();
        for (partition, &position) in &from.0 {
            let Some((name, id)) = FileId::parse(partition) else { continue };
            if current.contains(&id) {
                continue;
            }
            let old = self.files.path_of(name);
            let Some(path) = sibling(&old, id) else {
                tracing::info!(
                    file = %old.display(), position,
                    "a file that was read up to here is gone (rotated away and deleted or compressed?)"
                );
                continue;
            };
            let reader = self.files.open(&path, (name, partition), position)?;
            tracing::info!(file = %old.display(), now = %path.display(), position, "a rotated file is read to its end");
            self.tails.push(Tail { path, id, reader, gone_since: Some(Instant::now()) });
        }
        Ok(())
    }

    /// Looks for files that are not followed yet; true where there were some.
    fn look(&mut self, start: Start, from: &Positions) -> Result<bool, ConnectorError> {
        let mut found_any = false;
        for (path, name) in self.files.find()? {
            let Some(id) = id_of(&path) else { continue };
            if self.tails.iter().any(|tail| tail.id == id) {
                continue;
            }
            // A file that is known under another name keeps its partition.
            let known = from.0.iter().find(|(partition, _)| FileId::parse(partition).is_some_and(|(_, i)| i == id));
            let (partition, position) = match (known, start) {
                (Some((partition, &position)), _) => (partition.clone(), position),
                (None, Start::Beginning) => (id.partition(&name), 0),
                (None, Start::End) => (id.partition(&name), end_of_last_line(&path)?),
            };
            let reader = self.files.open(&path, (&name, &partition), position)?;
            tracing::info!(file = %path.display(), position, "following");
            self.tails.push(Tail { path, id, reader, gone_since: None });
            found_any = true;
        }
        Ok(found_any)
    }

    fn partitions(&mut self) {
        let names = self.tails.iter().map(|tail| tail.reader.partition().clone()).collect();
        self.events.push_back(SourceEvent::Partitions(names));
    }

    /// The next lines of any file, from the one whose turn it is on.
    fn read(&mut self) -> Result<bool, ConnectorError> {
        for i in 0..self.tails.len() {
            let at = (self.turn + i) % self.tails.len();
            let Some(tail) = self.tails.get_mut(at) else { continue };
            // Before reading on, lest what was written anew is taken for growth.
            tail.notice_cut()?;
            let Some(batch) = tail.reader.next(false)? else { continue };
            if tail.gone_since.is_some() {
                tail.gone_since = Some(Instant::now());
            }
            let header = tail.reader.first_line()?;
            if self.header.as_ref() != Some(&header) {
                self.events.push_back(SourceEvent::Header(header.clone()));
                self.header = Some(header);
            }
            self.events.push_back(SourceEvent::Messages(batch));
            self.turn = at + 1;
            return Ok(true);
        }
        Ok(false)
    }

    /// Every file is at its end: sees whether one was renamed or added. True where something changed.
    fn check(&mut self) -> Result<bool, ConnectorError> {
        let mut changed = false;
        let mut kept = Vec::with_capacity(self.tails.len());
        for mut tail in std::mem::take(&mut self.tails) {
            if tail.gone_since.is_none() && id_of(&tail.path) != Some(tail.id) {
                tracing::info!(file = %tail.path.display(), "the file was renamed or deleted; reading it to its end");
                tail.gone_since = Some(Instant::now());
            }
            if tail.gone_since.is_some_and(|since| since.elapsed() >= self.rotated_wait) {
                changed = true;
                self.finish(tail)?;
            } else {
                kept.push(tail);
            }
        }
        self.tails = kept;
        changed |= self.look(Start::Beginning, &Positions::default())?;
        if changed {
            self.partitions();
        }
        Ok(changed || !self.events.is_empty())
    }

    /// Lets go of a file that will not grow any more; its last line counts even without a line break.
    fn finish(&mut self, mut tail: Tail) -> Result<(), ConnectorError> {
        if tail.reader.unfinished() > 0
            && let Some(batch) = tail.reader.next(true)?
        {
            tracing::warn!(file = %tail.path.display(), "the last line of a rotated file has no line break; taken as it is");
            let header = tail.reader.first_line()?;
            self.header = Some(header.clone());
            self.events.push_back(SourceEvent::Header(header));
            self.events.push_back(SourceEvent::Messages(batch));
        }
        Ok(())
    }
}

impl Tail {
    /// Starts over where the file was cut (`copytruncate`, `> file`).
    fn notice_cut(&mut self) -> Result<(), ConnectorError> {
        let Some(file) = self.reader.file() else { return Ok(()) };
        let len = file.metadata().map_err(|error| io_error("read", &self.path, &error))?.len();
        let read = self.reader.read_up_to();
        if len < read || (len > read && !self.reader.still_the_same()) {
            tracing::warn!(
                file = %self.path.display(), read, len, lost = self.reader.unfinished(),
                "the file was cut or written anew; reading it from its beginning"
            );
            self.reader.rewind()?;
        }
        Ok(())
    }
}

impl Steps for Follow {
    fn step(&mut self) -> Result<Step, ConnectorError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Step::Event(event));
            }
            if !self.read()? && !self.check()? {
                return Ok(Step::Wait);
            }
        }
    }
}

fn id_of(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|metadata| FileId::of(&metadata))
}

/// The file of this identity beside `path`, where a rotation has put it.
fn sibling(path: &Path, id: FileId) -> Option<PathBuf> {
    let entries = fs::read_dir(path.parent()?).ok()?;
    entries.filter_map(Result::ok).map(|entry| entry.path()).find(|path| id_of(path) == Some(id))
}

/// The byte after the last line break of the file.
fn end_of_last_line(path: &Path) -> Result<u64, ConnectorError> {
    use std::os::unix::fs::FileExt;
    let wrong = |error| io_error("read", path, &error);
    let file = fs::File::open(path).map_err(wrong)?;
    let mut end = file.metadata().map_err(wrong)?.len();
    let mut chunk = vec![0; 4096];
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let part = chunk.get_mut(..usize::try_from(end - start).unwrap_or(0)).unwrap_or_default();
        file.read_exact_at(part, start).map_err(wrong)?;
        if let Some(at) = part.iter().rposition(|&b| b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The partitions followed, for tests.
#[cfg(test)]
impl Follow {
    pub(super) fn names(&self) -> Vec<String> {
        self.tails.iter().map(|tail| tail.reader.partition().to_string()).collect()
    }

    pub(super) fn forget_rotated_at_once(&mut self) {
        self.rotated_wait = Duration::ZERO;
    }
}
