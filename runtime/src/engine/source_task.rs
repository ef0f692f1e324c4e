//! The task of a source: connector → decoder → event time → the chained operators.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use millstream_connectors::batch::MessageBatch;
use millstream_connectors::format::Decoder;
use millstream_connectors::{Positions, Source, SourceEvent};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::engine::chain::Chain;
use crate::engine::clock::{ClockState, SourceClock, WallClock};
use crate::engine::coordinator::{Part, TaskEvent};
use crate::engine::dead_letter::Letter;
use crate::engine::element::{Element, Epoch, Watermark};
use crate::engine::error::{Interrupt, RunError};
use crate::engine::sink_task::sleep_until;
use crate::metrics::SourceMetrics;

/// After a small batch that took some time, rows are gathered for so many times as long (and no longer than `linger`):
/// a trickle of rows costs at most a fifth of a core.
const WAIT_PER_WORK: u32 = 4;

/// What the coordinator tells a source.
#[derive(Debug)]
pub(crate) enum SourceControl {
    /// Let this barrier through; after a last one take no more.
    Barrier { epoch: Epoch, last: bool },
    /// The epoch is complete: all up to here is durable.
    Commit(Positions),
}

/// What the snapshot keeps of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceState {
    /// The connector's key (`kafka`): positions of another connector mean nothing.
    pub(crate) connector: String,
    /// Where reading goes on.
    pub(crate) positions: Positions,
    /// How far event time has come.
    #[serde(default)]
    pub(crate) clock: ClockState,
}

/// What a source's task works with.
pub(crate) struct SourceTask {
    pub(crate) task: usize,
    /// The source's name.
    pub(crate) name: String,
    pub(crate) source: Box<dyn Source>,
    /// `None` for a source that delivers rows.
    pub(crate) decoder: Option<Box<dyn Decoder>>,
    /// The columns with the metadata columns, and last the message where `keeps_message` is set; not yet that of the clock.
    pub(crate) received: SchemaRef,
    /// Rows bring their messages with them.
    pub(crate) keeps_message: bool,
    /// The names of the metadata columns.
    pub(crate) metadata: Vec<String>,
    pub(crate) clock: Option<Box<dyn SourceClock>>,
    pub(crate) wall: WallClock,
    pub(crate) linger: Duration,
    /// Batches smaller than this are worth waiting for more.
    pub(crate) small_batch: usize,
    pub(crate) state: SourceState,
    pub(crate) chain: Chain,
    pub(crate) control: mpsc::Receiver<SourceControl>,
    pub(crate) events: mpsc::Sender<TaskEvent>,
    pub(crate) metrics: SourceMetrics,
}

impl SourceTask {
    /// Runs until the source is at its end, the last barrier has passed, or the run is torn down.
    pub(crate) async fn run(mut self) -> Result<(), Interrupt> {
        let positions = self.state.positions.clone();
        self.source.open(&positions).await.map_err(|error| self.failed(&error))?;
        // Operators do not keep the watermark; without this a row of a closed window would open it again.
        if let Some(reached) = self.watermark() {
            self.chain.feed(0, Element::Watermark(Watermark::At(reached))).await?;
        }
        // A batch that follows another closely waits a little for company; a lone one goes at once.
        let mut read_after: Option<Instant> = None;
        loop {
            let tick = self.clock.as_ref().and_then(|clock| clock.next_tick());
            let chain_tick = self.chain.next_tick();
            let reading = read_after.is_none();
            tokio::select! {
                biased;
                control = self.control.recv() => match control {
                    Some(SourceControl::Barrier { epoch, last }) => {
                        let started = Instant::now();
                        self.barrier(epoch).await?;
                        self.was_busy(started);
                        if last {
                            return self.wind_down().await;
                        }
                    }
                    Some(SourceControl::Commit(positions)) => self.commit(&positions).await?,
                    None => return Err(Interrupt::Closed),
                },
                () = sleep_until(tick) => {
                    // What it brings about is worth an epoch; that time has passed is not.
                    let element = self.clock.as_mut().and_then(|clock| clock.tick(Instant::now(), (self.wall)()));
                    self.emit(element).await?;
                }
                () = sleep_until(chain_tick), if chain_tick.is_some() => self.chain.tick(Instant::now()).await?,
                () = sleep_until(read_after) => read_after = None,
                event = self.source.next(), if reading => {
                    let event = event.map_err(|error| self.failed(&error))?;
                    let started = Instant::now();
                    match self.take(event).await? {
                        None => return self.finish().await,
                        Some(rows) if rows < self.small_batch => read_after = self.company_until(started),
                        Some(_) => {}
                    }
                    self.was_busy(started);
                }
            }
        }
    }

    /// Until when the batch after a small one, which was begun at `started`, waits for more rows: in proportion to the
    /// work that a batch makes, so that small batches never take more than a share of a core, and cheap ones hardly wait.
    fn company_until(&self, started: Instant) -> Option<Instant> {
        let now = Instant::now();
        let wait = (now.duration_since(started) * WAIT_PER_WORK).min(self.linger);
        (!wait.is_zero()).then(|| now + wait)
    }

    /// Since `started` nothing was read: what comes after the source held it up.
    fn was_busy(&mut self, started: Instant) {
        let now = Instant::now();
        if let Some(clock) = &mut self.clock {
            clock.not_reading(now.duration_since(started), now);
        }
    }

    fn component(&self) -> String {
        format!("source {}", self.name)
    }

    fn failed(&self, error: &millstream_connectors::ConnectorError) -> RunError {
        RunError::connector(self.component(), error)
    }

    /// Takes what the connector brought; the number of rows, or `None` at the end.
    async fn take(&mut self, event: SourceEvent) -> Result<Option<usize>, Interrupt> {
        let (partition, position, rows) = match event {
            SourceEvent::End => return Ok(None),
            SourceEvent::Header(line) => {
                self.decoder.iter_mut().for_each(|decoder| decoder.header(&line));
                return Ok(Some(usize::MAX));
            }
            SourceEvent::Partitions(partitions) => {
                let element = self.clock.as_mut().and_then(|clock| clock.set_partitions(&partitions, Instant::now()));
                if element.is_some() {
                    TaskEvent::progress(&self.metrics.progress);
                }
                self.emit(element).await?;
                // Reading goes on at once.
                return Ok(Some(usize::MAX));
            }
            SourceEvent::Rows(batch) => (batch.partition, batch.next_position, batch.rows),
            SourceEvent::Messages(messages) => {
                self.metrics.bytes.inc_by(messages.payloads.value_data().len() as u64);
                let rows = self.decode(&messages).await?;
                (messages.partition, messages.next_position, rows)
            }
        };
        let count = rows.num_rows();
        self.metrics.rows.inc_by(count as u64);
        let result = self.rows(&partition, rows).await;
        // Only now: the position must not be ahead of the rows.
        self.state.positions.set(&partition, position);
        TaskEvent::progress(&self.metrics.progress);
        result.map(|()| Some(count))
    }

    /// The rows of `messages`, with metadata; what cannot be read goes to the dead letter.
    async fn decode(&mut self, messages: &MessageBatch) -> Result<RecordBatch, Interrupt> {
        let component = self.component();
        let Some(decoder) = &mut self.decoder else {
            return Err(RunError::fatal(component, "the connector delivers bytes where rows were expected").into());
        };
        let decoded = decoder.decode(&messages.payloads);
        self.metrics.decode_errors.inc_by(decoded.errors.len() as u64);
        for error in decoded.errors {
            let index = error.message as usize;
            let payload = (index < messages.payloads.len() && !messages.payloads.is_null(index))
                .then(|| bytes::Bytes::copy_from_slice(messages.payloads.value(index)));
            let metadata = self.metadata_json(messages, index);
            let letter = Letter { component: component.clone(), reason: error.reason, payload, metadata, row: None };
            self.chain.dead_letters.send(letter).await?;
        }
        let mut columns = decoded.rows.columns().to_vec();
        let mut of_messages = messages.metadata.clone();
        if self.keeps_message {
            of_messages.push(Arc::new(messages.payloads.clone()));
        }
        match decoded.message_of_row {
            None => columns.extend(of_messages),
            Some(message_of_row) => {
                let indices = UInt32Array::from(message_of_row);
                for column in &of_messages {
                    columns.push(take(column, &indices, None).map_err(|error| RunError::fatal(&component, error))?);
                }
            }
        }
        RecordBatch::try_new(self.received.clone(), columns).map_err(|error| RunError::fatal(component, error).into())
    }

    /// Partition, position and the chosen metadata of one message, as JSON.
    fn metadata_json(&self, messages: &MessageBatch, index: usize) -> Option<String> {
        let mut json = serde_json::Map::new();
        json.insert("partition".into(), messages.partition.to_string().into());
        json.insert("position_before".into(), messages.next_position.into());
        for (name, column) in self.metadata.iter().zip(&messages.metadata) {
            let value = column.slice(index.min(column.len()), usize::from(index < column.len()));
            json.insert(name.clone(), shown(&value));
        }
        serde_json::to_string(&json).ok()
    }

    /// Sends rows on, with the watermarks that they bring about.
    async fn rows(&mut self, partition: &Arc<str>, rows: RecordBatch) -> Result<(), Interrupt> {
        let Some(clock) = &mut self.clock else {
            if rows.num_rows() > 0 {
                self.chain.feed(0, Element::Batch(rows)).await?;
            }
            return Ok(());
        };
        let timed = clock.batch(partition, rows, Instant::now(), (self.wall)());
        let timed = timed.map_err(|error| RunError::fatal(self.component(), error))?;
        for (row, reason) in timed.refused {
            self.metrics.time_errors.inc();
            self.chain.dead_letters.send(Letter::row(self.component(), &reason, &row)).await?;
        }
        for element in timed.elements {
            self.chain.feed(0, element).await?;
        }
        self.measure_watermark();
        Ok(())
    }

    /// How far event time has come.
    fn watermark(&self) -> Option<i64> {
        self.clock.as_ref().and_then(|clock| clock.watermark())
    }

    fn measure_watermark(&self) {
        if let Some(watermark) = self.watermark() {
            self.metrics.watermark_seconds.set(watermark as f64 / 1e9);
        }
    }

    async fn emit(&mut self, element: Option<Element>) -> Result<(), Interrupt> {
        if let Some(element) = element {
            self.chain.feed(0, element).await?;
            self.measure_watermark();
        }
        Ok(())
    }

    /// What the snapshot keeps of this source now.
    fn part(&mut self) -> Part {
        self.state.clock = self.clock.as_ref().map(|clock| clock.state()).unwrap_or_default();
        Part {
            states: std::mem::take(&mut self.chain.states),
            source: Some((self.name.clone(), self.state.clone())),
            ..Part::default()
        }
    }

    async fn barrier(&mut self, epoch: Epoch) -> Result<(), Interrupt> {
        for (partition, lag) in self.source.lag() {
            self.metrics.lag(&partition, lag);
        }
        self.chain.feed(0, Element::Barrier(epoch)).await?;
        let part = self.part();
        TaskEvent::Acked { task: self.task, epoch, part }.send(&self.events).await?;
        Ok(())
    }

    async fn commit(&mut self, positions: &Positions) -> Result<(), RunError> {
        self.source.commit(positions).await.map_err(|error| self.failed(&error))
    }

    /// A bounded source is at its end.
    async fn finish(&mut self) -> Result<(), Interrupt> {
        self.chain.feed(0, Element::End).await?;
        let part = self.part();
        TaskEvent::Finished { task: self.task, part }.send(&self.events).await?;
        self.wind_down().await
    }

    /// No more rows; commits may still come.
    async fn wind_down(&mut self) -> Result<(), Interrupt> {
        // The edges close with the chain, which tells the tasks downstream; that must wait for the coordinator.
        while let Some(control) = self.control.recv().await {
            match control {
                SourceControl::Commit(positions) => self.commit(&positions).await?,
                // It has no more to say: what it had is in its last part.
                SourceControl::Barrier { .. } => {}
            }
        }
        self.source.close().await.map_err(|error| self.failed(&error))?;
        Ok(())
    }
}

fn shown(value: &ArrayRef) -> serde_json::Value {
    if value.is_empty() || value.is_null(0) {
        return serde_json::Value::Null;
    }
    arrow::util::display::array_value_to_string(value, 0).map_or(serde_json::Value::Null, Into::into)
}
