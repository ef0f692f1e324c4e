//! The one thread that writes an ingest log's files: it commits what waits, makes new segments and deletes old ones.
//!
//! A commit is one write and one `fdatasync`. After a failed `fdatasync` the log stops for good: the kernel may have
//! thrown the unwritten pages away and marked them clean, so a second call would succeed and prove nothing. A full
//! disk only pauses it: what was written of the frame is cut back, and the write is tried again until there is room.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::batch::{self, Content};
use super::message::IngestError;
use super::segment::{self, Disk, FRAME_HEADER_BYTES, HEADER_BYTES};
use super::shared::{Append, Group, Segment, Shared, State};

/// How often a write is tried again while the disk is full.
const DISK_FULL_RETRY: Duration = Duration::from_millis(200);

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) folder: PathBuf,
    pub(super) active: File,
    pub(super) disk: Arc<dyn Disk>,
}

/// Why the thread ends.
enum Stop {
    Closed,
    Failed(String),
}

enum Work {
    Commit(Vec<Append>),
    /// A segment may be deleted or closed.
    TidyUp,
}

impl Writer {
    /// Runs until the log is closed or fails.
    pub(super) fn run(mut self) {
        let stop = loop {
            let done = match self.wait_for_work() {
                None => break Stop::Closed,
                Some(Work::Commit(appends)) => self.commit(appends),
                Some(Work::TidyUp) => Ok(()),
            };
            if let Err(stop) = done.and_then(|()| self.tidy_up()) {
                break stop;
            }
        };
        if let Stop::Failed(reason) = stop {
            tracing::error!(folder = %self.folder.display(), reason, "the ingest log has failed and takes nothing more");
            self.shared.fail(&reason);
        }
    }

    fn wait_for_work(&self) -> Option<Work> {
        let mut state = self.shared.lock();
        loop {
            let interval = self.shared.config.commit_interval.0;
            let wait = match state.queue.front() {
                Some(first) => {
                    let waited = first.at.elapsed();
                    if state.closed || waited >= interval || state.queue_bytes >= self.shared.config.commit_bytes.0 {
                        return Some(Work::Commit(self.take(&mut state)));
                    }
                    Some(interval - waited)
                }
                None if state.closed && !deletable(&state) => return None,
                None => None,
            };
            if deletable(&state) || rollable(&state) {
                return Some(Work::TidyUp);
            }
            state = match wait {
                Some(wait) => self.shared.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Takes what one commit writes off the queue.
    fn take(&self, state: &mut State) -> Vec<Append> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(append) = state.queue.front() {
            if bytes > 0
                && (!append.content.can_be_joined() || bytes + append.bytes > self.shared.config.commit_bytes.0)
            {
                break;
            }
            bytes += append.bytes;
            let alone = !append.content.can_be_joined();
            taken.extend(state.queue.pop_front());
            if alone {
                break;
            }
        }
        // They count against `max_bytes` as queued until they are written.
        taken
    }

    fn commit(&mut self, appends: Vec<Append>) -> Result<(), Stop> {
        let queued: u64 = appends.iter().map(|append| append.bytes).sum();
        let (contents, waiting): (Vec<_>, Vec<_>) =
            appends.into_iter().map(|append| (append.content, append.done)).unzip();
        let written = self.write(contents, queued);
        let answer = match &written {
            Ok(group) => {
                let mut state = self.shared.lock();
                state.queue_bytes -= queued;
                if let Some(active) = state.segments.back_mut() {
                    active.bytes += (FRAME_HEADER_BYTES + group.body.len()) as u64;
                }
                self.shared.publish(&mut state, group.clone());
                Ok(())
            }
            Err(Stop::Closed) => Err(IngestError::Closed),
            Err(Stop::Failed(reason)) => Err(IngestError::Failed(reason.as_str().into())),
        };
        self.shared.queue_room.notify_waiters();
        for done in waiting {
            // An appender that no longer waits does not need the answer.
            done.send(answer.clone()).ok();
        }
        written.map(drop)
    }

    fn write(&mut self, contents: Vec<Content>, bytes_max: u64) -> Result<Group, Stop> {
        let (first, mut offset) = {
            let state = self.shared.lock();
            (state.next, state.segments.back().map_or(HEADER_BYTES, |segment| segment.bytes))
        };
        let (mut frame, count) = batch::encode(contents, bytes_max as usize, first);
        segment::seal_frame(&mut frame);

        let used = offset - HEADER_BYTES;
        if used > 0 && offset + frame.len() as u64 > self.shared.config.segment_bytes.0 {
            self.roll(first)?;
            offset = HEADER_BYTES;
        }
        self.retry_while_full(|writer| {
            writer.disk.write_at(&writer.active, &frame, offset).inspect_err(|_| {
                // Where even this fails, the next try writes over the same bytes, and recovery cuts them.
                writer.active.set_len(offset).ok();
            })
        })?;
        self.disk.sync(&self.active).map_err(|error| {
            Stop::Failed(format!(
                "{}: fdatasync failed: {error}. What was not yet acknowledged is not taken to be on disk; check the disk, \
                 then start the daemon again",
                self.folder.display()
            ))
        })?;
        Ok(Group { first, count, body: batch::body(frame) })
    }

    /// Begins a segment whose first message is `first`.
    fn roll(&mut self, first: u64) -> Result<(), Stop> {
        self.retry_while_full(|writer| {
            writer.active = segment::create(&writer.folder, first, writer.disk.as_ref())?;
            Ok(())
        })?;
        let path = segment::path(&self.folder, first);
        self.shared.lock().segments.push_back(Segment { first, path, bytes: HEADER_BYTES });
        Ok(())
    }

    /// Tries `write` until the disk has room for it.
    fn retry_while_full(&mut self, mut write: impl FnMut(&mut Self) -> io::Result<()>) -> Result<(), Stop> {
        let mut full = false;
        loop {
            match write(self) {
                Ok(()) => break,
                Err(error) if is_disk_full(&error) => {
                    if !full {
                        tracing::error!(
                            folder = %self.folder.display(), %error,
                            "no room for the ingest log: reading pauses until there is"
                        );
                        full = true;
                        self.shared.set_disk_full(true);
                    }
                    self.pause()?;
                }
                Err(error) => {
                    return Err(Stop::Failed(format!("{}: writing failed: {error}", self.folder.display())));
                }
            }
        }
        if full {
            tracing::info!(folder = %self.folder.display(), "there is room for the ingest log again");
            self.shared.set_disk_full(false);
        }
        Ok(())
    }

    /// Waits for room on the disk, deleting segments that have been committed meanwhile.
    fn pause(&mut self) -> Result<(), Stop> {
        self.delete_committed();
        let until = Instant::now() + DISK_FULL_RETRY;
        let mut state = self.shared.lock();
        loop {
            if state.closed {
                return Err(Stop::Closed);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || deletable(&state) {
                return Ok(());
            }
            state = self.shared.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Deletes segments that are done with; closes the active one where its bytes are needed.
    fn tidy_up(&mut self) -> Result<(), Stop> {
        let roll_at = {
            let mut state = self.shared.lock();
            let roll_at = rollable(&state).then_some(state.next);
            state.roll = false;
            roll_at
        };
        if let Some(next) = roll_at {
            self.roll(next)?;
        }
        self.delete_committed();
        Ok(())
    }

    fn delete_committed(&self) {
        let mut gone = Vec::new();
        {
            let mut state = self.shared.lock();
            while deletable(&state) {
                gone.extend(state.segments.pop_front());
            }
            self.shared.refresh_full(&mut state);
        }
        for segment in gone {
            // What cannot be deleted is found again, and deleted again, when the log is opened the next time.
            if let Err(error) = fs::remove_file(&segment.path) {
                tracing::warn!(file = %segment.path.display(), %error, "a segment that is done with cannot be deleted");
            }
        }
    }
}

/// Whether the first segment is done with. The active one stays: its name remembers the sequence number.
fn deletable(state: &State) -> bool {
    state.segments.get(1).is_some_and(|second| second.first <= state.committed)
}

/// Whether the active segment should be closed and has anything in it.
fn rollable(state: &State) -> bool {
    state.roll && state.segments.back().is_some_and(|active| active.bytes > HEADER_BYTES)
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
