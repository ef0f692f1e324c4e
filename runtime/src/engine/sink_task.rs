//! The task of a sink: gate → connector.

use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use millstream_connectors::{ErrorKind, Rejected, Sink};
use tokio::sync::mpsc;

use crate::engine::coordinator::{Part, TaskEvent};
use crate::engine::dead_letter::{DeadLetters, Letter};
use crate::engine::error::{Interrupt, RunError};
use crate::engine::gate::{Event, Gate};
use crate::metrics::SinkMetrics;

/// What the coordinator tells a sink.
#[derive(Debug)]
pub(crate) enum SinkControl {
    /// The epoch of the last flush is complete.
    Committed,
}

/// What a sink's task works with.
pub(crate) struct SinkTask {
    pub(crate) task: usize,
    /// The sink's name.
    pub(crate) name: String,
    pub(crate) sink: Box<dyn Sink>,
    /// Its state from the snapshot.
    pub(crate) restored: Option<Vec<u8>>,
    pub(crate) gate: Gate,
    pub(crate) control: mpsc::Receiver<SinkControl>,
    pub(crate) events: mpsc::Sender<TaskEvent>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) metrics: SinkMetrics,
}

/// How often and how long opening a connector is tried before the run fails.
const OPEN_ATTEMPTS: u32 = 4;
const OPEN_PAUSE: Duration = Duration::from_millis(500);

/// Opening a sink, with a few attempts.
#[async_trait]
pub(crate) trait WithRetry {
    /// Opens, and tries again where that may help.
    async fn with_retry(&mut self, component: &str, restored: Option<&[u8]>) -> Result<(), RunError>;
}

#[async_trait]
impl WithRetry for Box<dyn Sink> {
    async fn with_retry(&mut self, component: &str, restored: Option<&[u8]>) -> Result<(), RunError> {
        let mut attempt = 1;
        loop {
            match self.open(restored).await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind == ErrorKind::Retry && attempt < OPEN_ATTEMPTS => {
                    tracing::warn!(component, attempt, %error, "cannot open yet");
                    tokio::time::sleep(OPEN_PAUSE * attempt).await;
                    attempt += 1;
                }
                Err(error) => return Err(RunError::connector(component, &error)),
            }
        }
    }
}

impl SinkTask {
    /// Runs until the inputs are at their end or closed.
    pub(crate) async fn run(mut self) -> Result<(), Interrupt> {
        let component = format!("sink {}", self.name);
        self.sink.with_retry(&component, self.restored.take().as_deref()).await?;
        // An epoch was flushed and is not yet complete.
        let mut prepared = false;
        loop {
            let tick = self.sink.next_tick();
            tokio::select! {
                biased;
                Some(SinkControl::Committed) = self.control.recv() => {
                    self.sink.committed().await.map_err(|error| RunError::connector(&component, &error))?;
                    prepared = false;
                }
                () = sleep_until(tick) => {
                    let rejected = self.sink.tick().await.map_err(|error| RunError::connector(&component, &error))?;
                    self.reject(rejected).await?;
                }
                event = self.gate.next() => match event {
                    Event::Batch(_, batch, _) => self.write(&batch).await?,
                    Event::Watermark(_) => {}
                    Event::Barrier(epoch) => {
                        let part = self.flush().await?;
                        TaskEvent::Acked { task: self.task, epoch, part }.send(&self.events).await?;
                        prepared = true;
                    }
                    Event::End => {
                        // A flush now would let that epoch's word make visible what comes after it.
                        if prepared {
                            let Some(SinkControl::Committed) = self.control.recv().await else {
                                return self.wind_down().await;
                            };
                            self.sink.committed().await.map_err(|error| RunError::connector(&component, &error))?;
                        }
                        let part = self.flush().await?;
                        TaskEvent::Finished { task: self.task, part }.send(&self.events).await?;
                        return self.wind_down().await;
                    }
                    Event::Closed => return self.wind_down().await,
                },
            }
        }
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), Interrupt> {
        let rejected = self.sink.write(batch).await.map_err(|error| {
            self.metrics.errors.inc();
            RunError::connector(format!("sink {}", self.name), &error)
        })?;
        self.metrics.rows.inc_by(batch.num_rows() as u64);
        self.reject(rejected).await
    }

    async fn flush(&mut self) -> Result<Part, Interrupt> {
        let flushed = self.sink.flush().await.map_err(|error| {
            self.metrics.errors.inc();
            RunError::connector(format!("sink {}", self.name), &error)
        })?;
        self.reject(flushed.rejected).await?;
        Ok(Part { sink: flushed.state.map(|state| (self.name.clone(), state)), ..Part::default() })
    }

    async fn reject(&mut self, rejected: Vec<Rejected>) -> Result<(), Interrupt> {
        self.metrics.rejected.inc_by(rejected.len() as u64);
        for Rejected { reason, payload } in rejected {
            let component = format!("sink {}", self.name);
            let letter = Letter { component, reason, payload: Some(payload), metadata: None, row: None };
            self.dead_letters.send(letter).await?;
        }
        Ok(())
    }

    /// What was flushed may still have to be made visible; the coordinator says so, or is gone.
    async fn wind_down(&mut self) -> Result<(), Interrupt> {
        while let Some(SinkControl::Committed) = self.control.recv().await {
            let component = format!("sink {}", self.name);
            self.sink.committed().await.map_err(|error| RunError::connector(component, &error))?;
        }
        let component = format!("sink {}", self.name);
        self.sink.close().await.map_err(|error| RunError::connector(component, &error))?;
        Ok(())
    }
}

/// Sleeps until `time`, or for ever.
pub(crate) async fn sleep_until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
