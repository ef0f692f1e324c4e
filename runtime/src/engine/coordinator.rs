//! Epochs: sends barriers, gathers what tasks hand over, publishes the snapshot, and only then lets sources commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::dead_letter::{self, DeadLetters};
use crate::engine::element::Epoch;
use crate::engine::error::{Closed, RunError};
use crate::engine::sink_task::SinkControl;
use crate::engine::snapshot::{Snapshot, SnapshotStore};
use crate::engine::source_task::{SourceControl, SourceState};
use crate::metrics::PipelineMetrics;

/// What a task hands over at a barrier or at its end.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Operators' states, by node.
    pub(crate) states: Vec<(String, RecordBatch)>,
    /// The stage's name and the watermark of its gate.
    pub(crate) watermark: Option<(String, i64)>,
    /// The source's name and state.
    pub(crate) source: Option<(String, SourceState)>,
    /// The sink's name and state.
    pub(crate) sink: Option<(String, Vec<u8>)>,
}

/// What tasks tell the coordinator.
#[derive(Debug)]
pub(crate) enum TaskEvent {
    /// The barrier has passed the task.
    Acked { task: usize, epoch: Epoch, part: Part },
    /// The task has come to the end of its inputs.
    Finished { task: usize, part: Part },
}

impl TaskEvent {
    /// Sends it.
    pub(crate) async fn send(self, events: &mpsc::Sender<TaskEvent>) -> Result<(), Closed> {
        events.send(self).await.map_err(|_| Closed)
    }

    /// Something has happened since the last epoch, so the next one is worth its writes.
    pub(crate) fn progress(flag: &AtomicBool) {
        // All shards of a pipeline share the flag: who only reads it does not take it from the others.
        if !flag.load(Ordering::Relaxed) {
            flag.store(true, Ordering::Relaxed);
        }
    }
}

/// How a run is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All bounded inputs were read to their end.
    Finished,
    /// It was asked to stop, and its last snapshot is published.
    Stopped,
}

/// What the coordinator works with.
pub(crate) struct Coordinator {
    pub(crate) pipeline: String,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) store: Arc<SnapshotStore>,
    /// The snapshot that the run began with; parts of ended tasks are kept in it.
    pub(crate) last: Snapshot,
    /// The tasks that take part, by number; sources first.
    pub(crate) tasks: BTreeSet<usize>,
    pub(crate) sources: BTreeMap<String, mpsc::Sender<SourceControl>>,
    pub(crate) sinks: Vec<mpsc::Sender<SinkControl>>,
    pub(crate) events: mpsc::Receiver<TaskEvent>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) stop: CancellationToken,
    pub(crate) metrics: Arc<PipelineMetrics>,
    /// Fingerprints by node, for the manifest.
    pub(crate) fingerprints: BTreeMap<String, String>,
}

impl Coordinator {
    /// Runs epochs until the inputs end or a stop is asked for.
    pub(crate) async fn run(mut self) -> Result<Outcome, RunError> {
        let mut ended: Vec<Part> = Vec::new();
        let mut next = Instant::now() + self.interval;
        if self.last.epoch == 0 && !self.stop.is_cancelled() {
            // The very first snapshot at once: it says where sources begin and how much sinks had, before any row.
            self.epoch(&mut ended, false).await?;
            if self.tasks.is_empty() {
                return self.finish(ended).await;
            }
        }
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.epoch(&mut ended, true).await?;
                    return if self.tasks.is_empty() { self.finish(ended).await } else { Ok(Outcome::Stopped) };
                }
                event = self.events.recv() => match event {
                    None => return Err(RunError::retry("checkpoint", "the tasks are gone")),
                    Some(TaskEvent::Acked { .. }) => {}
                    Some(TaskEvent::Finished { task, part }) => {
                        self.tasks.remove(&task);
                        ended.push(part);
                        if self.tasks.is_empty() {
                            return self.finish(ended).await;
                        }
                    }
                },
                () = tokio::time::sleep_until(next) => {
                    if self.metrics.progress.swap(false, Ordering::Relaxed) {
                        self.epoch(&mut ended, false).await?;
                        if self.tasks.is_empty() {
                            return self.finish(ended).await;
                        }
                    }
                    next = Instant::now() + self.interval;
                }
            }
        }
    }

    /// All tasks have ended; what they handed over last is published, if it has not been.
    async fn finish(&mut self, ended: Vec<Part>) -> Result<Outcome, RunError> {
        if !ended.is_empty() {
            self.publish(self.last.epoch + 1, ended).await?;
        }
        Ok(Outcome::Finished)
    }

    /// One epoch, from the barrier to the commit.
    async fn epoch(&mut self, ended: &mut Vec<Part>, last: bool) -> Result<(), RunError> {
        let started = Instant::now();
        let epoch = self.last.epoch + 1;
        for control in self.sources.values() {
            // A source that has ended is gone, or ignores it.
            control.send(SourceControl::Barrier { epoch, last }).await.ok();
        }
        let gathered = tokio::time::timeout(self.timeout, self.gather(epoch, ended)).await;
        let (parts, after) = gathered.map_err(|_| {
            RunError::retry("checkpoint", format!("epoch {epoch} was not complete after {:?}", self.timeout))
        })??;
        let all = std::mem::replace(ended, after).into_iter().chain(parts).collect();
        self.publish(epoch, all).await?;
        self.metrics.epoch_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Waits until every task has handed over its part of `epoch`, or has ended before. The second result is what those
    /// handed over at their end that ended after the barrier: it belongs to the next epoch.
    async fn gather(&mut self, epoch: Epoch, ended: &mut Vec<Part>) -> Result<(Vec<Part>, Vec<Part>), RunError> {
        let mut missing = self.tasks.clone();
        let (mut parts, mut after) = (Vec::new(), Vec::new());
        while !missing.is_empty() {
            match self.events.recv().await {
                Some(TaskEvent::Acked { task, epoch: acked, part }) if acked == epoch => {
                    missing.remove(&task);
                    parts.push(part);
                }
                Some(TaskEvent::Acked { .. }) => {}
                Some(TaskEvent::Finished { task, part }) => {
                    self.tasks.remove(&task);
                    if missing.remove(&task) { ended.push(part) } else { after.push(part) }
                }
                None => return Err(RunError::retry("checkpoint", "a task ended in the middle of an epoch")),
            }
        }
        Ok((parts, after))
    }

    /// Makes the epoch durable, then lets sources commit and sinks publish.
    async fn publish(&mut self, epoch: Epoch, parts: Vec<Part>) -> Result<(), RunError> {
        // All letters of the epoch were sent before its parts were.
        let gone = |Closed| RunError::retry("dead letter", "its task ended in the middle of an epoch");
        let letters = self.dead_letters.flush().await.map_err(gone)?;
        let mut snapshot = Snapshot {
            epoch,
            sources: self.last.sources.clone(),
            sinks: self.last.sinks.clone(),
            fingerprints: self.fingerprints.clone(),
            states: Vec::new(),
            watermarks: self.last.watermarks.clone(),
        };
        for part in parts {
            snapshot.sources.extend(part.source);
            snapshot.sinks.extend(part.sink);
            snapshot.states.extend(part.states);
            snapshot.watermarks.extend(part.watermark);
        }
        snapshot.sinks.extend(letters.map(|state| (dead_letter::NAME.to_owned(), state)));
        let (store, written) = (self.store.clone(), snapshot);
        let written = tokio::task::spawn_blocking(move || store.write(&written).map(|()| written)).await;
        let mut snapshot = written
            .map_err(|error| RunError::fatal("checkpoint", error))?
            .map_err(|error| RunError::retry("checkpoint", error))?;
        for (name, control) in &self.sources {
            if let Some(state) = snapshot.sources.get(name) {
                // A source that has ended is gone and has nothing to commit any more but what it did.
                control.send(SourceControl::Commit(state.positions.clone())).await.ok();
            }
        }
        for control in &self.sinks {
            control.send(SinkControl::Committed).await.ok();
        }
        self.dead_letters.committed().await.map_err(gone)?;
        snapshot.states.clear();
        self.last = snapshot;
        self.metrics.epochs.inc();
        tracing::debug!(pipeline = self.pipeline, epoch, "epoch complete");
        Ok(())
    }
}
