//! What takes rows out.
//!
//! Building a sink only checks its options; nothing connects before [`Sink::open`].

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;

use crate::error::ConnectorError;
use crate::format::FormatConfig;
use crate::routes::Routes;

/// A place for rows to go to.
#[async_trait]
pub trait Sink: Send {
    /// Connects. `restored` is what [`Sink::flush`] returned at the barrier from which the pipeline goes on.
    async fn open(&mut self, restored: Option<&[u8]>) -> Result<(), ConnectorError>;

    /// Takes rows; may hold them back (batching) until [`Sink::flush`] at the latest. Retries by itself within its
    /// limits; an error restarts the pipeline from its last snapshot, so rows may come again (at least once).
    /// Rows that the destination will never take are returned and go to the dead letter.
    async fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Rejected>, ConnectorError>;

    /// Returns when all rows written so far are durable at the destination (acknowledged, fsynced), with those that
    /// turned out to be rejected, and with what the sink needs to go on from this barrier after a restart.
    async fn flush(&mut self) -> Result<Flushed, ConnectorError>;

    /// How long rows may wait before [`Sink::tick`] wants to be called, if any wait (batching by period).
    fn next_tick(&self) -> Option<tokio::time::Instant> {
        None
    }

    /// The time of [`Sink::next_tick`] has come: send what waits.
    async fn tick(&mut self) -> Result<Vec<Rejected>, ConnectorError> {
        Ok(Vec::new())
    }

    /// The epoch of the last [`Sink::flush`] is complete: what was prepared may become visible.
    async fn committed(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// Lets go of connections; called once, after a last flush where there was one.
    async fn close(&mut self) -> Result<(), ConnectorError>;
}

/// What [`Sink::flush`] returns.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Rows that the destination refused.
    pub rejected: Vec<Rejected>,
    /// The sink's own state at this barrier, kept in the snapshot.
    pub state: Option<Vec<u8>>,
}

/// A row that the destination refused for good.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// Why, in a sentence.
    pub reason: String,
    /// The row as it was encoded.
    pub payload: Bytes,
}

/// What a sink is built with, beside its own options.
#[derive(Clone)]
pub struct SinkContext {
    /// The pipeline's name.
    pub pipeline: String,
    /// The sink's name.
    pub name: String,
    /// Relative paths are below this folder: that of the YAML file.
    pub base_dir: PathBuf,
    /// The columns of the rows that will come.
    pub columns: SchemaRef,
    /// The format asked for in YAML, or `None` for the connector's default.
    pub format: Option<FormatConfig>,
    /// Paths of the daemon's HTTP listener.
    pub routes: Arc<Routes>,
}
