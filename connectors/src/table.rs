//! What a stream can be joined with.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;

use crate::error::ConnectorError;

/// A table that is read whole, and again on each refresh.
#[async_trait]
pub trait Table: Send + Sync {
    /// Its columns.
    fn schema(&self) -> SchemaRef;

    /// Reads all of it. On an error the rows read before stay in use.
    async fn load(&self) -> Result<RecordBatch, ConnectorError>;

    /// How often to read it again, or never.
    fn refresh(&self) -> Option<std::time::Duration>;
}
