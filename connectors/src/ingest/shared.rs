//! What appenders, the writer thread and readers of one ingest log share. No file is touched here.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot, watch};

use super::batch::{self, Content};
use super::message::{Durable, DurableState, IngestError};
use super::segment::{FRAME_BODY_BYTES_MAX, HEADER_BYTES};
use super::{IngestConfig, IngestStats};

/// At most so many appends wait for the writer thread.
const QUEUE_APPENDS_MAX: usize = 16_384;
/// At most so many bytes wait for the writer thread (one larger append may wait alone).
const QUEUE_BYTES_MAX: u64 = 16 << 20;
/// Committed messages are kept in memory up to so many bytes, so that a reader that keeps up never reads a file.
const TAIL_BYTES_MAX: u64 = 16 << 20;
/// What an append takes beside its messages.
const APPEND_OVERHEAD_BYTES: u64 = 64;

/// Messages that wait for the writer thread.
pub(super) struct Append {
    pub(super) content: Content,
    pub(super) bytes: u64,
    pub(super) at: Instant,
    pub(super) done: oneshot::Sender<Result<(), IngestError>>,
}

/// Messages that can be read, as `codec` writes them.
#[derive(Clone)]
pub(super) struct Group {
    pub(super) first: u64,
    pub(super) count: u32,
    pub(super) body: Bytes,
}

impl Group {
    fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// A segment file.
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) path: PathBuf,
    /// Its bytes that are durable.
    pub(super) bytes: u64,
}

/// Everything behind the lock.
pub(super) struct State {
    pub(super) queue: VecDeque<Append>,
    pub(super) queue_bytes: u64,
    pub(super) closed: bool,
    pub(super) failed: Option<Arc<str>>,
    /// The last groups, without a gap up to `next`.
    tail: VecDeque<Group>,
    tail_bytes: u64,
    /// Empty where nothing is written to disk. The last one is being written.
    pub(super) segments: VecDeque<Segment>,
    /// The sequence number behind the last readable message.
    pub(super) next: u64,
    /// All before this is done with.
    pub(super) committed: u64,
    pub(super) disk_full: bool,
    /// Room for this many bytes was asked for and not there.
    wanted: u64,
    /// The active segment should be closed, so that it can be deleted once the pipeline is past it.
    pub(super) roll: bool,
}

/// Where a message is.
pub(super) enum Location {
    /// It has not come yet.
    NotYet,
    Memory(Bytes),
    /// In the segment that begins with message `first`, whose durable bytes are known.
    File {
        first: u64,
        path: PathBuf,
        bytes: u64,
    },
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// Wakes the writer thread.
    pub(super) work: Condvar,
    /// Wakes appenders that wait for the queue.
    pub(super) queue_room: Notify,
    /// The sequence number behind the last readable message; also sent when the log fails.
    pub(super) visible: watch::Sender<u64>,
    full: watch::Sender<bool>,
    pub(super) config: IngestConfig,
    /// The log's folder, for messages.
    name: String,
}

impl Shared {
    pub(super) fn new(name: String, config: IngestConfig, segments: VecDeque<Segment>, next: u64) -> Self {
        let committed = segments.front().map_or(next, |segment| segment.first);
        Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                queue_bytes: 0,
                closed: false,
                failed: None,
                tail: VecDeque::new(),
                tail_bytes: 0,
                segments,
                next,
                committed,
                disk_full: false,
                wanted: 0,
                roll: false,
            }),
            work: Condvar::new(),
            queue_room: Notify::new(),
            visible: watch::Sender::new(next),
            full: watch::Sender::new(false),
            config,
            name,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half changed, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place in the queue, and for room in a full log where `wait_for_room` says so.
    pub(super) async fn append(&self, content: Content, wait_for_room: bool) -> Result<Durable, IngestError> {
        if content.is_empty() {
            return Ok(Durable(DurableState::Ready));
        }
        let bytes = APPEND_OVERHEAD_BYTES + content.bytes_max();
        let max = (self.config.max_bytes.0 - HEADER_BYTES).min(FRAME_BODY_BYTES_MAX);
        if bytes > max {
            return Err(IngestError::TooLarge { bytes, max });
        }
        let mut content = Some(content);
        loop {
            let room = self.queue_room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            match self.try_append(&mut content, bytes) {
                Ok(Some(durable)) => return Ok(durable),
                Ok(None) => room.await,
                Err(IngestError::Full) if wait_for_room => self.room().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// `None` where the queue is full for the moment.
    fn try_append(&self, content: &mut Option<Content>, bytes: u64) -> Result<Option<Durable>, IngestError> {
        let mut state = self.lock();
        if let Some(reason) = &state.failed {
            return Err(IngestError::Failed(reason.clone()));
        }
        if state.closed {
            return Err(IngestError::Closed);
        }
        if state.disk_full || state.log_bytes() + state.queue_bytes + bytes > self.config.max_bytes.0 {
            state.wanted = state.wanted.max(bytes);
            state.roll = true;
            if self.full.send_if_modified(|full| !std::mem::replace(full, true)) {
                tracing::warn!(
                    folder = self.name, max_bytes = %self.config.max_bytes,
                    "the ingest log is full: nothing more is taken until the pipeline is further on"
                );
            }
            self.work.notify_one();
            return Err(IngestError::Full);
        }
        if !self.config.durable {
            let Some(content) = content.take() else { return Ok(None) };
            self.keep_in_memory(&mut state, content);
            return Ok(Some(Durable(DurableState::Ready)));
        }
        let fits = state.queue.len() < QUEUE_APPENDS_MAX && state.queue_bytes + bytes <= QUEUE_BYTES_MAX;
        if !fits && !state.queue.is_empty() {
            return Ok(None);
        }
        let Some(content) = content.take() else { return Ok(None) };
        let (done, durable) = oneshot::channel();
        let at = content.since();
        state.queue.push_back(Append { content, bytes, at, done });
        state.queue_bytes += bytes;
        self.work.notify_one();
        Ok(Some(Durable(DurableState::Waiting(durable))))
    }

    fn keep_in_memory(&self, state: &mut State, content: Content) {
        let first = state.next;
        let (frame, count) = batch::encode(vec![content], 0, first);
        self.publish(state, Group { first, count, body: batch::body(frame) });
    }

    /// Makes a group readable.
    pub(super) fn publish(&self, state: &mut State, group: Group) {
        state.next = group.end();
        state.tail_bytes += group.body.len() as u64;
        state.tail.push_back(group);
        if self.config.durable {
            while state.tail_bytes > TAIL_BYTES_MAX && state.tail.len() > 1 {
                state.drop_oldest();
            }
        }
        self.visible.send_replace(state.next);
    }

    pub(super) fn locate(&self, sequence: u64) -> Location {
        let state = self.lock();
        if sequence >= state.next {
            return Location::NotYet;
        }
        let index = state.tail.partition_point(|group| group.end() <= sequence);
        if let Some(group) = state.tail.get(index).filter(|group| group.first <= sequence) {
            return Location::Memory(group.body.clone());
        }
        let index = state.segments.partition_point(|segment| segment.first <= sequence);
        match index.checked_sub(1).and_then(|index| state.segments.get(index)) {
            Some(segment) => Location::File { first: segment.first, path: segment.path.clone(), bytes: segment.bytes },
            None => Location::NotYet,
        }
    }

    /// All before `upto` is done with.
    pub(super) fn commit(&self, upto: u64) {
        let mut state = self.lock();
        state.committed = state.committed.max(upto.min(state.next));
        if !self.config.durable {
            while state.tail.front().is_some_and(|group| group.end() <= state.committed) {
                state.drop_oldest();
            }
        }
        self.refresh_full(&mut state);
        self.work.notify_one();
    }

    /// Says that there is room again, where there is.
    pub(super) fn refresh_full(&self, state: &mut State) {
        let used = state.log_bytes() + state.queue_bytes;
        if !state.disk_full && used + state.wanted <= self.config.max_bytes.0 {
            state.wanted = 0;
            state.roll = false;
            if self.full.send_if_modified(|full| std::mem::replace(full, false)) {
                tracing::info!(folder = self.name, "the ingest log has room again");
            }
        }
    }

    pub(super) fn set_disk_full(&self, disk_full: bool) {
        let mut state = self.lock();
        state.disk_full = disk_full;
        match disk_full {
            true => drop(self.full.send_replace(true)),
            false => self.refresh_full(&mut state),
        }
    }

    /// Stops the log for good. Whoever waits is told.
    pub(super) fn fail(&self, reason: &str) {
        let mut state = self.lock();
        let reason: Arc<str> = state.failed.get_or_insert_with(|| reason.into()).clone();
        for append in state.queue.drain(..) {
            // An appender that no longer waits does not need the answer.
            append.done.send(Err(IngestError::Failed(reason.clone()))).ok();
        }
        state.queue_bytes = 0;
        drop(state);
        self.queue_room.notify_waiters();
        self.full.send_replace(false);
        self.visible.send_modify(|_| {});
    }

    /// Waits until there is room, or the log takes nothing ever again.
    pub(super) async fn room(&self) {
        let mut full = self.full.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        full.wait_for(|full| !*full).await.ok();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
        self.queue_room.notify_waiters();
        self.full.send_replace(false);
    }

    pub(super) fn stats(&self) -> IngestStats {
        let state = self.lock();
        IngestStats {
            bytes: state.log_bytes(),
            segments: state.segments.len(),
            first_sequence: state.first(),
            next_sequence: state.next,
            full: *self.full.borrow(),
        }
    }
}

impl State {
    /// The bytes that count against `max_bytes`.
    pub(super) fn log_bytes(&self) -> u64 {
        match self.segments.is_empty() {
            true => self.tail_bytes,
            false => self.segments.iter().map(|segment| segment.bytes).sum(),
        }
    }

    /// The first message that can still be read.
    pub(super) fn first(&self) -> u64 {
        let in_memory = self.tail.front().map_or(self.next, |group| group.first);
        self.segments.front().map_or(in_memory, |segment| segment.first)
    }

    fn drop_oldest(&mut self) {
        if let Some(group) = self.tail.pop_front() {
            self.tail_bytes -= group.body.len() as u64;
        }
    }
}
