//! The ingest log: what makes a source that cannot replay (MQTT, HTTP) replayable.
//!
//! A [`crate::PushSource`] appends messages through an [`IngestWriter`] and acknowledges its client when the append is
//! durable. The pipeline reads them back through an [`IngestReader`], which is a [`crate::Source`] whose position is
//! the sequence number of the next message. Log and writer belong to the daemon and outlive a reload.
//!
//! CONTRACT (signatures to keep; the implementation is still to come):
//!
//! ```text
//! impl IngestLog {
//!     /// Recovers the log in `folder` (a torn tail is cut with a warning; damage in the middle is ErrorKind::Fatal) and
//!     /// starts the writer thread. With `durable: false` nothing is written: a bounded queue in memory.
//!     pub fn open(folder: &Path, config: &IngestConfig) -> Result<Arc<IngestLog>, ConnectorError>;
//!     pub fn writer(self: &Arc<Self>) -> IngestWriter;             // Clone + Send + Sync
//!     /// `metadata`: how many metadata columns and of which types the reader must deliver; see IngestMessage.
//!     pub fn reader(self: &Arc<Self>, options: ReaderOptions) -> Box<dyn Source>;
//!     pub fn stats(&self) -> IngestStats;                           // bytes, segments, first/next sequence, full
//! }
//! pub struct IngestMessage { pub payload: Option<Bytes>, pub metadata: Vec<(&'static str name, MetadataValue)> }
//!     // ALL metadata fields of the connector are written, so that a reload that chooses others finds them in the log.
//! impl IngestWriter {
//!     /// Waits for room in the queue, then enqueues. `Err(IngestError::Full)` at once where the log has reached max_bytes
//!     /// or the disk is full (HTTP answers 503), `IngestError::Failed` after an fsync error (for good).
//!     pub async fn append(&self, messages: Vec<IngestMessage>) -> Result<Durable, IngestError>;
//!     /// Waits until the log has room again (MQTT stops reading meanwhile).
//!     pub async fn room(&self);
//! }
//! // Durable: Future<Output = Result<(), IngestError>>, resolves when the messages are on disk.
//! ```

use bytes::Bytes;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Duration};

/// The ingest log of a source that cannot replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// Write messages to disk before they are acknowledged. `false` prefers latency: what is in memory is lost when the
    /// daemon dies.
    pub durable: bool,
    /// Reading pauses (MQTT) or is refused (HTTP 503) while the log holds more than this.
    pub max_bytes: ByteSize,
    /// A segment file is closed at this size; whole segments are deleted once the pipeline is past them.
    pub segment_bytes: ByteSize,
    /// Appends of so long share one fdatasync.
    pub commit_interval: Duration,
    /// Appends of so many bytes do not wait any longer for the commit interval.
    pub commit_bytes: ByteSize,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            durable: true,
            max_bytes: ByteSize(1 << 30),
            segment_bytes: ByteSize::mib(64),
            commit_interval: Duration::from_millis(1),
            commit_bytes: ByteSize::mib(1),
        }
    }
}

// STAND-IN: only the surface of the contract, so that the HTTP source compiles; the real log replaces this file.

/// One message with its metadata.
#[derive(Debug, Clone)]
pub struct IngestMessage {
    /// The bytes; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// The metadata fields by name.
    pub metadata: Vec<(&'static str, MetadataValue)>,
}

/// A value of a metadata field.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// Nothing.
    Null,
    /// A text.
    Text(String),
    /// A number.
    Int(i64),
    /// True or false.
    Bool(bool),
    /// Nanoseconds since 1970.
    Timestamp(i64),
    /// Bytes.
    Bytes(Bytes),
    /// Names and values.
    Pairs(Vec<(String, String)>),
}

/// Why the log did not take messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IngestError {
    /// It is full.
    Full,
    /// It broke.
    Failed,
}

/// Resolves when the messages are on disk.
pub type Durable = BoxFuture<'static, Result<(), IngestError>>;

/// Appends to the log.
#[derive(Clone)]
pub struct IngestWriter {}

impl IngestWriter {
    /// Takes messages.
    pub async fn append(&self, _messages: Vec<IngestMessage>) -> Result<Durable, IngestError> {
        Err(IngestError::Failed)
    }
}
