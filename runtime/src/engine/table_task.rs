//! Reads a table again on its period. A refresh that fails leaves the rows as they are, and says so.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::row::{RowConverter, SortField};
use millstream_connectors::Table;

use crate::metrics::TableMetrics;
use crate::sql::relation::TableRows;

/// Refreshes for ever.
pub(crate) async fn run(
    pipeline: String,
    name: String,
    table: Arc<dyn Table>,
    key: Option<String>,
    rows: TableRows,
    metrics: TableMetrics,
) {
    let Some(period) = table.refresh() else { return };
    let mut failing = false;
    loop {
        tokio::time::sleep(period).await;
        let loaded = table.load().await.map_err(|error| error.to_string());
        match loaded.and_then(|batch| distinct_by_key(&batch, key.as_deref()).map_err(|error| error.to_string())) {
            Ok(batch) => {
                metrics.refreshes.inc();
                metrics.rows.set(i64::try_from(batch.num_rows()).unwrap_or(i64::MAX));
                if std::mem::take(&mut failing) {
                    tracing::info!(pipeline, table = name, "the table can be read again");
                }
                if *rows.load_full() != batch {
                    tracing::info!(pipeline, table = name, rows = batch.num_rows(), "the table has changed");
                    rows.store(Arc::new(batch));
                }
            }
            Err(error) => {
                metrics.errors.inc();
                if std::mem::replace(&mut failing, true) {
                    tracing::debug!(pipeline, table = name, error, "still cannot refresh the table");
                } else {
                    tracing::warn!(
                        pipeline,
                        table = name,
                        error,
                        "cannot refresh the table; its rows stay as they were"
                    );
                }
            }
        }
    }
}

/// `batch` with the last row of each key only.
pub(crate) fn distinct_by_key(batch: &RecordBatch, key: Option<&str>) -> Result<RecordBatch, arrow::error::ArrowError> {
    let Some(key) = key else { return Ok(batch.clone()) };
    let column = batch.column_by_name(key).ok_or_else(|| {
        arrow::error::ArrowError::SchemaError(format!("the table has no column `{key}` to be its key"))
    })?;
    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())])?;
    let keys = converter.convert_columns(std::slice::from_ref(column))?;
    let mut last = std::collections::HashMap::new();
    for row in 0..batch.num_rows() {
        last.insert(keys.row(row), row as u32);
    }
    if last.len() == batch.num_rows() {
        return Ok(batch.clone());
    }
    let mut rows: Vec<u32> = last.into_values().collect();
    rows.sort_unstable();
    let rows = UInt32Array::from(rows);
    let columns = batch.columns().iter().map(|column| arrow::compute::take(column, &rows, None));
    RecordBatch::try_new(batch.schema(), columns.collect::<Result<Vec<_>, _>>()?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn of_rows_with_one_key_the_last_counts() {
        let batch = RecordBatch::try_from_iter([
            ("k", Arc::new(StringArray::from(vec!["a", "b", "a"])) as _),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3])) as _),
        ])
        .unwrap();
        let distinct = distinct_by_key(&batch, Some("k")).unwrap();
        assert_eq!(distinct.column(1).as_ref(), &Int64Array::from(vec![2, 3]) as &dyn Array);
        assert!(distinct_by_key(&batch, Some("x")).is_err());
    }
}
