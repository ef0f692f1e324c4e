//! Reads an ingest log back, as a [`Source`].
//!
//! A reader that keeps up takes its messages from memory; one that is behind reads files a megabyte at a time. What it
//! reads from a file is checked against the same checksums as at recovery.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::codec::{GroupCursor, Malformed, group_header};
use super::columns::{BatchBuilder, NameMap, Skipper};
use super::segment::{self, FRAME_HEADER_BYTES, HEADER_BYTES, damage, unreadable};
use super::shared::Location;
use super::{IngestLog, MEMORY_PARTITION, PARTITION, ReaderOptions};
use crate::MessageBatch;
use crate::error::ConnectorError;
use crate::position::Positions;
use crate::source::{Source, SourceEvent};

/// So many bytes are read from a file at once (more where a frame is longer).
const READ_BYTES: u64 = 1 << 20;
/// A batch holds no more than this, whatever was asked for: its Arrow offsets are 32 bits wide, and one message (at most
/// a frame) may come on top.
const BATCH_BYTES_MAX: usize = 1 << 29;

/// Reads a log; see [`IngestLog::reader`].
pub(super) struct IngestReader {
    log: Arc<IngestLog>,
    options: ReaderOptions,
    partition: Arc<str>,
    visible: watch::Receiver<u64>,
    /// The next message to deliver; `None` before `open`.
    next: Option<u64>,
    announced: bool,
    group: Option<(GroupCursor, NameMap)>,
    /// Bodies read from a file.
    ready: VecDeque<Bytes>,
    file: Option<FileCursor>,
    /// A read on its way; kept here so that a cancelled `next` loses nothing.
    read: Option<JoinHandle<Result<ReadFrames, ConnectorError>>>,
}

/// A place in a segment.
struct FileCursor {
    first: u64,
    path: PathBuf,
    file: File,
    offset: u64,
}

/// Whole frames' bodies, and where the next frame begins.
struct ReadFrames {
    cursor: FileCursor,
    bodies: Vec<Bytes>,
}

impl IngestReader {
    pub(super) fn new(log: Arc<IngestLog>, options: ReaderOptions) -> Self {
        let partition = if log.shared.config.durable { PARTITION } else { MEMORY_PARTITION };
        Self {
            visible: log.shared.visible.subscribe(),
            log,
            options,
            partition: partition.into(),
            next: None,
            announced: false,
            group: None,
            ready: VecDeque::new(),
            file: None,
            read: None,
        }
    }

    /// Where to start when the snapshot says `wanted`.
    fn start(&self, wanted: Option<u64>) -> Result<u64, ConnectorError> {
        let state = self.log.shared.lock();
        let (first, next) = (state.first(), state.next);
        let Some(wanted) = wanted else { return Ok(first) };
        if (first..=next).contains(&wanted) {
            return Ok(wanted);
        }
        if !self.log.shared.config.durable {
            tracing::warn!(
                log = %self.log.name(),
                "messages that were in memory when the daemon stopped are gone (ingest.durable is false)"
            );
            return Ok(first);
        }
        let what = if wanted < first {
            format!("the pipeline's snapshot goes on at message {wanted}, but the log begins at {first}")
        } else {
            format!("the pipeline's snapshot goes on at message {wanted}, but the log ends at {next}")
        };
        Err(ConnectorError::fatal(format!(
            "the ingest log {} and the pipeline's snapshot do not belong together: {what}. One of them was restored or \
             moved without the other: restore both from the same time, or discard the snapshot to start from message \
             {first}",
            self.log.name()
        )))
    }

    /// Takes what is there without waiting. `None` where nothing is.
    fn take_batch(&mut self) -> Result<Option<MessageBatch>, ConnectorError> {
        let Some(mut next) = self.next else {
            return Err(ConnectorError::fatal("the ingest log's reader was not opened"));
        };
        if !self.find_group(next)? {
            return Ok(None);
        }
        let bytes_max = self.options.batch_bytes_max.min(BATCH_BYTES_MAX);
        let fields = self.options.fields.clone();
        let mut batch = BatchBuilder::new(&fields).map_err(|name| {
            ConnectorError::fatal(format!("the metadata field {name} has a type the log cannot make"))
        })?;
        while batch.rows < self.options.batch_rows_max.max(1) {
            if !self.find_group(next)? {
                break;
            }
            let Some((cursor, names)) = &mut self.group else { break };
            if batch.rows > 0 && batch.bytes + cursor.peek_payload_bytes() > bytes_max {
                break;
            }
            std::mem::swap(&mut batch.names, names);
            let visited = cursor.visit(&mut batch);
            std::mem::swap(&mut batch.names, names);
            visited.map_err(|error| unintelligible(&self.log, next, &error))?;
            batch.end_row();
            next += 1;
        }
        if batch.rows == 0 {
            return Ok(None);
        }
        for name in &batch.mismatched {
            tracing::warn!(log = %self.log.name(), field = name, "a metadata field was written with another type; it is null");
        }
        let (payloads, metadata) = batch
            .finish()
            .map_err(|error| ConnectorError::fatal(format!("the ingest log {}: {error}", self.log.name())))?;
        self.next = Some(next);
        Ok(Some(MessageBatch { partition: self.partition.clone(), payloads, metadata, next_position: next }))
    }

    /// Makes `self.group` the one that holds message `next`, if that is in memory.
    fn find_group(&mut self, next: u64) -> Result<bool, ConnectorError> {
        if self.group.as_ref().is_some_and(|(cursor, _)| !cursor.is_done()) {
            return Ok(true);
        }
        self.group = None;
        let body = loop {
            match self.ready.pop_front() {
                Some(body) if ends_before(&body, next) => {}
                Some(body) => break body,
                None => match self.log.shared.locate(next) {
                    Location::Memory(body) => break body,
                    Location::NotYet | Location::File { .. } => return Ok(false),
                },
            }
        };
        let mut cursor = GroupCursor::new(body).map_err(|error| unintelligible(&self.log, next, &error))?;
        if cursor.next_sequence() > next {
            return Err(unintelligible(&self.log, next, &Malformed("it is missing; the next one is there")));
        }
        let mut skipper = Skipper { fields: &self.options.fields, names: NameMap::default() };
        while cursor.next_sequence() < next {
            cursor.visit(&mut skipper).map_err(|error| unintelligible(&self.log, next, &error))?;
        }
        let names = skipper.names;
        self.group = Some((cursor, names));
        Ok(true)
    }

    /// Waits until there may be something to take.
    async fn wait(&mut self) -> Result<(), ConnectorError> {
        if let Some(read) = &mut self.read {
            let frames = read.await;
            self.read = None;
            let frames =
                frames.map_err(|error| ConnectorError::fatal(format!("reading the ingest log: {error}")))??;
            self.ready.extend(frames.bodies);
            self.file = Some(frames.cursor);
            return Ok(());
        }
        let Some(next) = self.next else { return Ok(()) };
        // Seen before looking, so that what comes in between wakes this reader.
        self.visible.borrow_and_update();
        match self.log.shared.locate(next) {
            Location::Memory(_) => {}
            Location::File { first, path, bytes } => {
                let cursor = self.file.take().filter(|cursor| cursor.first == first);
                self.read = Some(tokio::task::spawn_blocking(move || read_frames(cursor, first, path, bytes)));
            }
            Location::NotYet => {
                if let Some(reason) = self.log.shared.lock().failed.clone() {
                    return Err(ConnectorError::fatal(format!("the ingest log has failed for good: {reason}")));
                }
                // The sender lives in the log, which this reader holds: waiting cannot fail.
                self.visible.changed().await.ok();
            }
        }
        Ok(())
    }
}

fn ends_before(body: &[u8], next: u64) -> bool {
    group_header(body).is_some_and(|(first, count)| first.saturating_add(u64::from(count)) <= next)
}

fn unintelligible(log: &IngestLog, sequence: u64, error: &Malformed) -> ConnectorError {
    ConnectorError::fatal(format!("message {sequence} of the ingest log {} cannot be read: {error}", log.name()))
}

/// Reads whole frames from where `cursor` stands, or from the start of the segment, of which `durable` bytes count.
fn read_frames(
    cursor: Option<FileCursor>,
    first: u64,
    path: PathBuf,
    durable: u64,
) -> Result<ReadFrames, ConnectorError> {
    let mut cursor = match cursor {
        Some(cursor) => cursor,
        None => {
            let file = File::open(&path).map_err(|error| unreadable(&path, &error))?;
            segment::check_header(&file, &path, first)?;
            FileCursor { first, path, file, offset: HEADER_BYTES }
        }
    };
    let left = durable.saturating_sub(cursor.offset);
    if left == 0 {
        return Err(damage(&cursor.path, cursor.offset, "it ends before the next segment begins"));
    }
    let mut chunk = read_exact(&cursor, left.min(READ_BYTES))?;
    if let Some((length, _)) = segment::parse_frame_header(&chunk) {
        let whole = (FRAME_HEADER_BYTES as u64 + u64::from(length)).min(left);
        if whole > chunk.len() as u64 {
            chunk = read_exact(&cursor, whole)?;
        }
    }
    let mut bodies = Vec::new();
    let mut at = 0;
    while let Some((length, crc)) = segment::parse_frame_header(chunk.get(at..).unwrap_or_default()) {
        let body = at + FRAME_HEADER_BYTES..at + FRAME_HEADER_BYTES + length as usize;
        let Some(bytes) = chunk.get(body.clone()) else { break };
        if segment::frame_crc(length, bytes) != crc {
            return Err(damage(&cursor.path, cursor.offset + at as u64, "the checksum of a frame is wrong"));
        }
        at = body.end;
        bodies.push(chunk.slice(body));
    }
    if bodies.is_empty() {
        return Err(damage(&cursor.path, cursor.offset, "a frame is longer than its file"));
    }
    cursor.offset += at as u64;
    Ok(ReadFrames { cursor, bodies })
}

fn read_exact(cursor: &FileCursor, length: u64) -> Result<Bytes, ConnectorError> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    cursor.file.read_exact_at(&mut bytes, cursor.offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => damage(&cursor.path, cursor.offset, "it is shorter than it was"),
        _ => unreadable(&cursor.path, &error),
    })?;
    Ok(bytes.into())
}

#[async_trait]
impl Source for IngestReader {
    async fn open(&mut self, from: &Positions) -> Result<(), ConnectorError> {
        let wanted = from.get(&self.partition);
        let start = self.start(wanted)?;
        self.next = Some(start);
        (self.group, self.file, self.read) = (None, None, None);
        self.ready.clear();
        if wanted == Some(start) {
            // The position comes from a durable snapshot, so all before it is done with. Without this a log that was
            // full when the daemon stopped would stay full: no message, no epoch, no commit.
            self.log.shared.commit(start);
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent, ConnectorError> {
        if !self.announced {
            self.announced = true;
            return Ok(SourceEvent::Partitions(vec![self.partition.clone()]));
        }
        loop {
            if let Some(batch) = self.take_batch()? {
                return Ok(SourceEvent::Messages(batch));
            }
            self.wait().await?;
        }
    }

    async fn commit(&mut self, upto: &Positions) -> Result<(), ConnectorError> {
        if let Some(upto) = upto.get(&self.partition) {
            self.log.shared.commit(upto);
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.file = None;
        Ok(())
    }
}
