//! What a stream can be joined with.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;

use crate::error::ConnectorError;
use crate::units::{ByteSize, Duration};

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

/// Refuses a `refresh` that is shorter than `least`, and a `size_max` that is none or larger than any table may be.
pub(crate) fn check_limits(
    refresh: Option<Duration>,
    least: Duration,
    size_max: ByteSize,
) -> Result<(), ConnectorError> {
    if refresh.is_some_and(|refresh| refresh < least) {
        return Err(ConnectorError::configuration("refresh", format!("must be at least {least}")));
    }
    if size_max.0 == 0 || size_max > ByteSize::mib(1024) {
        return Err(ConnectorError::configuration("size_max", "must be from 1B to 1GiB"));
    }
    Ok(())
}
