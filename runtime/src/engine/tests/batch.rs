//! The answer to compare with: DataFusion over all on-time rows as one batch, and which rows are late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

use crate::sql::session;
use crate::sql::windows::planner::Streams;
use crate::sql::windows::unit_ns;

/// A value; floats apart, because the order of merging changes their last digits.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    Float(f64),
    Text(String),
}

/// The rows of `batches`, in an order that does not depend on theirs.
pub(super) fn rows_of(batches: &[RecordBatch]) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for batch in batches {
        let options = FormatOptions::default().with_null("NULL");
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().zip(&columns).map(|(column, shown)| match column.data_type() {
                DataType::Float64 if column.is_valid(row) => {
                    Cell::Float(column.as_primitive::<Float64Type>().value(row))
                }
                _ => Cell::Text(shown.value(row).to_string()),
            });
            rows.push(cells.collect::<Vec<_>>());
        }
    }
    rows.sort_by_cached_key(|row| {
        let texts = row.iter().map(|cell| match cell {
            Cell::Float(_) => "a float".to_owned(),
            Cell::Text(text) => text.clone(),
        });
        let floats = row.iter().map(|cell| match cell {
            Cell::Float(float) => format!("{float:+.5}"),
            Cell::Text(_) => String::new(),
        });
        (texts.collect::<Vec<_>>(), floats.collect::<Vec<_>>())
    });
    rows
}

/// How far apart two floats of the same meaning may be.
const TOLERANCE: f64 = 1e-9;

fn same(a: &Cell, b: &Cell) -> bool {
    match (a, b) {
        (Cell::Float(a), Cell::Float(b)) => {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(100.0)
        }
        (Cell::Text(a), Cell::Text(b)) => a == b,
        _ => false,
    }
}

/// Says where two results differ as sets with repetition.
pub(super) fn compare(streaming: &[RecordBatch], batch: &[RecordBatch]) -> Result<(), String> {
    let (ours, theirs) = (rows_of(streaming), rows_of(batch));
    let equal = ours.len() == theirs.len()
        && ours.iter().zip(&theirs).all(|(a, b)| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)));
    if equal {
        return Ok(());
    }
    let show = |rows: &[Vec<Cell>]| {
        let lines = rows.iter().map(|row| {
            let cells = row.iter().map(|cell| match cell {
                Cell::Float(float) => float.to_string(),
                Cell::Text(text) => text.clone(),
            });
            cells.collect::<Vec<_>>().join(" | ")
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    Err(format!("streaming:\n{}\nbatch:\n{}", show(&ours), show(&theirs)))
}

/// The times of `column` in nanoseconds.
pub(super) fn nanoseconds(column: &ArrayRef) -> Vec<Option<i64>> {
    let DataType::Timestamp(unit, _) = column.data_type() else { panic!("{}", column.data_type()) };
    let values = cast(column, &DataType::Int64).unwrap();
    values.as_primitive::<Int64Type>().iter().map(|value| value.map(|value| value * unit_ns(*unit))).collect()
}

/// The watermark of a source before each of its rows, by the definition: the minimum over the partitions of the newest
/// time less the delay; it never goes back.
pub(super) fn watermarks(times: &[Option<i64>], partitions: &[u8], delay: i64) -> Vec<Option<i64>> {
    let mut newest: BTreeMap<u8, Option<i64>> = partitions.iter().map(|partition| (*partition, None)).collect();
    let mut watermark = None;
    let before = times.iter().zip(partitions).map(|(time, partition)| {
        let lowest = newest.values().map(|newest| newest.map(|newest| newest - delay)).min().flatten();
        watermark = watermark.max(lowest);
        let slot = newest.get_mut(partition).unwrap();
        *slot = (*slot).max(*time);
        watermark
    });
    before.collect()
}

/// A window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size {
    pub(super) size_ns: i64,
    pub(super) offset_ns: i64,
}

impl Size {
    /// The bounds of the window that `time` is in.
    pub(super) fn bounds(self, time: i64) -> (i64, i64) {
        let (time, size, offset) = (i128::from(time), i128::from(self.size_ns), i128::from(self.offset_ns));
        let mut start = (time - offset) / size * size + offset;
        while start > time {
            start -= size;
        }
        (i64::try_from(start).unwrap(), i64::try_from(start + size).unwrap())
    }
}

/// A row and a window that it is in.
pub(super) type Pair = (usize, (i64, i64));

/// The rows of `pairs`.
pub(super) fn picked(rows: &RecordBatch, pairs: &[Pair]) -> RecordBatch {
    let picked = UInt32Array::from_iter_values(pairs.iter().map(|(row, _)| *row as u32));
    take_record_batch(rows, &picked).unwrap()
}

/// The rows of `pairs` with their windows.
pub(super) fn with_bounds(rows: &RecordBatch, pairs: &[Pair]) -> RecordBatch {
    let time = rows.column_by_name("ts").unwrap().data_type().clone();
    let DataType::Timestamp(unit, zone) = &time else { panic!() };
    let column = |pick: &dyn Fn(&Pair) -> i64| -> ArrayRef {
        let values = Int64Array::from_iter_values(pairs.iter().map(|pair| pick(pair) / unit_ns(*unit)));
        cast(&values, &DataType::Timestamp(*unit, zone.clone())).unwrap()
    };
    let rows = picked(rows, pairs);
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    fields.extend(["window_start", "window_end"].map(|name| Arc::new(Field::new(name, time.clone(), false))));
    let mut columns = rows.columns().to_vec();
    columns.extend([column(&|pair| pair.1.0), column(&|pair| pair.1.1)]);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// `batch` with the bounds of its rows' windows.
pub(super) fn with_windows(batch: &RecordBatch, size: Size) -> RecordBatch {
    let times = nanoseconds(batch.column_by_name("ts").unwrap());
    let pairs: Vec<Pair> = times.into_iter().map(|time| size.bounds(time.unwrap())).enumerate().collect();
    with_bounds(batch, &pairs)
}

/// `batch` without the rows with these ids.
pub(super) fn without(batch: &RecordBatch, ids: &BTreeSet<i64>) -> RecordBatch {
    let keep: BooleanArray = self::ids(batch).iter().map(|id| Some(!ids.contains(id))).collect();
    filter_record_batch(batch, &keep).unwrap()
}

/// The column `id`.
pub(super) fn ids(batch: &RecordBatch) -> Vec<i64> {
    let column = batch.column_by_name("id").unwrap();
    column.as_primitive::<Int64Type>().iter().map(Option::unwrap).collect()
}

/// DataFusion with the functions of a pipeline, over tables in memory.
pub(super) struct Batch(SessionContext);

impl Batch {
    pub(super) fn new() -> Self {
        Self(session::create(Streams::default()).unwrap())
    }

    pub(super) fn table(&self, name: &str, batch: &RecordBatch) {
        let table = MemTable::try_new(batch.schema(), vec![vec![batch.clone()]]).unwrap();
        self.0.register_table(name, Arc::new(table)).unwrap();
    }

    pub(super) async fn query(&self, sql: &str) -> Result<RecordBatch, String> {
        let text = |error: datafusion::error::DataFusionError| error.strip_backtrace();
        let frame = self.0.sql(sql).await.map_err(text)?;
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await.map_err(text)?;
        let schema = batches.first().map_or(schema, |batch| batch.schema());
        concat_batches(&schema, &batches).map_err(|error| error.to_string())
    }
}

/// The same unit everywhere, for messages.
pub(super) const MS: i64 = 1_000_000;
