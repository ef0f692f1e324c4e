//! What brings data in.
//!
//! Building a source only checks its options; nothing connects before [`Source::open`] or [`PushSource::run`].

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::batch::{MessageBatch, RowBatch};
use crate::error::ConnectorError;
use crate::ingest::IngestWriter;
use crate::position::Positions;
use crate::routes::Routes;

/// A source that can go back to a position: Kafka, files, synthetic data, and the ingest log.
#[async_trait]
pub trait Source: Send {
    /// Connects and seeks. A partition that `from` does not name starts where the options say.
    async fn open(&mut self, from: &Positions) -> Result<(), ConnectorError>;

    /// The next thing that happened. Must be safe to cancel: a dropped future loses no message.
    ///
    /// Returns as soon as one message is there; a batch holds what was waiting, up to
    /// [`SourceContext::batch_rows_max`] messages or [`SourceContext::batch_bytes_max`] bytes. Broken connections are
    /// the connector's to mend (with back-off, logged); an error ends this run of the pipeline.
    async fn next(&mut self) -> Result<SourceEvent, ConnectorError>;

    /// All up to `upto` is durable at the sinks: commit offsets, delete segments. Must not fail for want of a
    /// connection (the next commit covers this one).
    async fn commit(&mut self, upto: &Positions) -> Result<(), ConnectorError>;

    /// Lets go of connections. Called once, after the last commit.
    async fn close(&mut self) -> Result<(), ConnectorError>;

    /// For each partition how many messages the outside has that were not handed out yet, where the source knows it.
    /// Must be cheap; it may be some seconds old.
    fn lag(&self) -> Vec<(Arc<str>, u64)> {
        Vec::new()
    }
}

/// What [`Source::next`] returns.
#[derive(Debug)]
pub enum SourceEvent {
    /// Messages to decode.
    Messages(MessageBatch),
    /// Rows that need no decoding.
    Rows(RowBatch),
    /// The first line of the file from which the messages after this event come: to be handed to
    /// [`crate::format::Decoder::header`] before they are decoded. Comes again whenever the file changes. Only files
    /// have it.
    Header(bytes::Bytes),
    /// The partitions that this source now reads, all of them. A partition that is new holds the watermark back until
    /// it has rows or is idle; one that is gone no longer does.
    Partitions(Vec<Arc<str>>),
    /// A bounded source is at its end; `next` is not called again.
    End,
}

/// A source that cannot replay: MQTT, an HTTP server. It appends to the ingest log and acknowledges its client when the
/// append is durable, and only then.
#[async_trait]
pub trait PushSource: Send {
    /// Runs until `stop` is cancelled; reconnects by itself (with back-off, logged). An error ends the pipeline's run.
    /// When the log is full, reading pauses (MQTT) or the client is told to come back (HTTP 503 with `Retry-After`).
    async fn run(&mut self, log: IngestWriter, stop: CancellationToken) -> Result<(), ConnectorError>;
}

/// A source that is built and not yet connected.
pub enum BuiltSource {
    /// It replays by itself.
    Replayable(Box<dyn Source>),
    /// The runtime puts the ingest log behind it.
    Push(Box<dyn PushSource>),
}

/// A metadata field that a connector can add to every row.
#[derive(Debug, Clone)]
pub struct MetadataField {
    /// Its name in YAML.
    pub name: &'static str,
    /// The Arrow type of its column.
    pub data_type: DataType,
    /// What it is, in one sentence.
    pub description: &'static str,
}

/// What a source is built with, beside its own options.
#[derive(Clone)]
pub struct SourceContext {
    /// The pipeline's name.
    pub pipeline: String,
    /// The source's name.
    pub name: String,
    /// Relative paths are below this folder: that of the YAML file.
    pub base_dir: PathBuf,
    /// The names of the metadata fields wanted, checked against the connector's list.
    pub metadata: Vec<String>,
    /// At most so many messages per batch.
    pub batch_rows_max: usize,
    /// At most so many payload bytes per batch (one larger message is a batch of its own).
    pub batch_bytes_max: usize,
    /// The columns the source delivers, without metadata (the generator makes rows of this schema).
    pub columns: SchemaRef,
    /// Paths of the daemon's HTTP listener.
    pub routes: Arc<Routes>,
    /// Compiles SQL expressions over a row's other columns (the generator).
    pub expressions: Arc<dyn ExpressionCompiler>,
}

/// Compiles SQL expressions; the runtime provides it, because this crate does not know SQL.
pub trait ExpressionCompiler: Send + Sync {
    /// Compiles `sql` over rows of `input`. The error is a sentence for the user.
    fn compile(&self, sql: &str, input: &SchemaRef) -> Result<Arc<dyn RowExpression>, String>;
}

/// A compiled SQL expression.
pub trait RowExpression: Send + Sync {
    /// The type of its result.
    fn data_type(&self) -> DataType;
    /// Evaluates it for every row of `rows`.
    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, String>;
}
