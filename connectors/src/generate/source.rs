//! Sends rows on time. The position of a partition is the number of its rows made (a row sent twice counts once).
//!
//! Row g of all belongs to partition g mod P, as its row g div P: rows are the same for any number of partitions.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::Utc;
use tokio::time::Instant;

use super::GenerateConfig;
use super::column::Generator;
use super::options::Start;
use super::schedule::Schedule;
use super::values::{Dice, Maker};
use crate::batch::RowBatch;
use crate::error::ConnectorError;
use crate::source::RowExpression;
use crate::{Positions, Source, SourceContext, SourceEvent};

/// A source that was held up makes up for so much at most; what it missed beyond comes later (no row is left out).
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// The longest single sleep (timers have a range).
const SLEEP_MAX: Duration = Duration::from_secs(3600);
/// The first batch has at most so many rows: how large rows are is not known yet.
const FIRST_ROWS_MAX: usize = 1024;

/// A column of the rows that are made.
struct Column {
    name: String,
    /// As declared.
    data_type: DataType,
    content: Content,
}

enum Content {
    Values(Box<Maker>),
    /// With the columns it can read: all before it.
    Sql(Arc<dyn RowExpression>, SchemaRef),
}

/// How the clock and the schedule go together.
struct Clock {
    /// At `reference` the schedule stood at `offset` nanoseconds.
    reference: Instant,
    offset: u128,
    /// When row 0 happens, in nanoseconds since 1970.
    base: i128,
}

impl Clock {
    fn elapsed(&self) -> u128 {
        self.offset + self.reference.elapsed().as_nanos()
    }
}

pub(super) struct GenerateSource {
    name: String,
    pipeline: String,
    start: Start,
    count: u64,
    schedule: Schedule,
    /// Values first, then SQL.
    columns: Vec<Column>,
    schema: SchemaRef,
    /// For each column of `schema` its index in `columns`.
    order: Vec<usize>,
    duplicates: Option<(Dice, f64)>,
    partitions: Vec<Arc<str>>,
    /// Each partition's next row, counted within it.
    next: Vec<u64>,
    clock: Option<Clock>,
    announced: bool,
    rows_max: usize,
    bytes_max: usize,
    bytes_per_row: Option<usize>,
}

impl GenerateSource {
    pub(super) fn new(config: &GenerateConfig, context: &SourceContext) -> Result<Self, ConnectorError> {
        let schedule = Schedule::new(config);
        let schema = Arc::clone(&context.columns);
        check_names(config, &schema)?;
        let mut columns: Vec<Column> = Vec::with_capacity(config.columns.len());
        let plain = config.columns.iter().filter(|(_, generator)| !matches!(generator, Generator::Sql(_)));
        let computed = config.columns.iter().filter(|(_, generator)| matches!(generator, Generator::Sql(_)));
        for (name, generator) in plain.chain(computed) {
            let Ok(field) = schema.field_with_name(name) else { continue };
            let content = match generator {
                Generator::Sql(sql) => {
                    let fields = columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true));
                    let input: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
                    let compiled =
                        context.expressions.compile(sql, &input).map_err(|message| wrong(name, "sql", message))?;
                    fits(name, generator, &compiled.data_type(), field)?;
                    Content::Sql(compiled, input)
                }
                _ => {
                    if let Some(made) = generator.data_type() {
                        fits(name, generator, &made, field)?;
                    }
                    match Maker::new(config, name, &schedule)? {
                        Some(maker) => Content::Values(Box::new(maker)),
                        None => continue,
                    }
                }
            };
            columns.push(Column { name: name.clone(), data_type: field.data_type().clone(), content });
        }
        let order = schema
            .fields()
            .iter()
            .filter_map(|field| columns.iter().position(|column| column.name == *field.name()))
            .collect();
        let partitions: Vec<Arc<str>> = (0..config.partitions.get()).map(|i| i.to_string().into()).collect();
        Ok(Self {
            name: context.name.clone(),
            pipeline: context.pipeline.clone(),
            start: config.start,
            count: config.count.unwrap_or(u64::MAX),
            schedule,
            columns,
            schema,
            order,
            duplicates: config
                .duplicates
                .as_ref()
                // No column can have this name in YAML's place: it is not a key under `columns`.
                .map(|duplicates| (Dice::new(config.seed, "\0duplicates"), duplicates.probability)),
            next: vec![0; partitions.len()],
            partitions,
            clock: None,
            announced: false,
            rows_max: context.batch_rows_max.max(1),
            bytes_max: context.batch_bytes_max,
            bytes_per_row: None,
        })
    }

    /// The number among all rows of a partition's row.
    fn global(&self, partition: usize, row: u64) -> u64 {
        row.saturating_mul(self.partitions.len() as u64).saturating_add(partition as u64)
    }

    /// The next row of all and its partition; `None` at the end.
    fn first(&self) -> Option<(usize, u64)> {
        let rows = self.next.iter().enumerate().map(|(partition, row)| (partition, self.global(partition, *row)));
        rows.min_by_key(|(_, global)| *global).filter(|(_, global)| *global < self.count)
    }

    /// When row 0 happens, if row `global` is due now.
    fn base(&self, global: u64) -> i128 {
        match self.start {
            // Only years beyond 2262 have no nanoseconds; `make` refuses what follows from the largest.
            Start::At(time) => i128::from(time.timestamp()) * 1_000_000_000 + i128::from(time.timestamp_subsec_nanos()),
            Start::Now => {
                let now = Utc::now();
                let now = i128::from(now.timestamp()) * 1_000_000_000 + i128::from(now.timestamp_subsec_nanos());
                now - i128::try_from(self.schedule.event(global)).unwrap_or(i128::MAX / 2)
            }
        }
    }

    /// Waits until row `global` is due; nothing has changed if it is cancelled.
    async fn wait(&mut self, global: u64) {
        let Some(due) = self.schedule.due(global) else {
            // Without a pace the other tasks of this thread need a turn.
            tokio::task::yield_now().await;
            return;
        };
        loop {
            let Some(elapsed) = self.clock.as_ref().map(Clock::elapsed) else { return };
            if elapsed >= due {
                let late = elapsed - due;
                if late > CATCH_UP_MAX.as_nanos() {
                    self.give_up_catching_up(global, due, late);
                }
                return;
            }
            let pause = u64::try_from(due - elapsed).map_or(SLEEP_MAX, Duration::from_nanos).min(SLEEP_MAX);
            tokio::time::sleep(pause).await;
        }
    }

    fn give_up_catching_up(&mut self, global: u64, due: u128, late: u128) {
        let seconds = late as f64 / 1e9;
        tracing::debug!(
            pipeline = self.pipeline,
            source = self.name,
            late_s = seconds,
            "the pipeline did not keep up with the generator's rate; it goes on from here"
        );
        let offset = due + CATCH_UP_MAX.as_nanos();
        // With `start: now` the event times follow the clock again.
        let base = self.base(global) - if self.start == Start::Now { CATCH_UP_MAX.as_nanos() as i128 } else { 0 };
        self.clock = Some(Clock { reference: Instant::now(), offset, base });
    }

    /// How many rows of `partition` are due, at least one, at most a batch.
    fn due_rows(&self, partition: usize) -> u64 {
        let from = self.next.get(partition).copied().unwrap_or_default();
        let rows_max = match self.bytes_per_row {
            None => self.rows_max.min(FIRST_ROWS_MAX),
            Some(bytes) => self.rows_max.min(self.bytes_max / bytes.max(1)),
        };
        let elapsed = self.clock.as_ref().map_or(0, Clock::elapsed);
        let ready = |rows: u64| {
            let global = self.global(partition, from.saturating_add(rows));
            global < self.count && self.schedule.due(global).is_none_or(|due| due <= elapsed)
        };
        // Rows become due in their order: find the first that is not.
        let (mut low, mut high) = (1, (rows_max as u64).max(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if ready(middle) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The next rows of a partition that are due, as one batch.
    fn batch(&mut self, partition: usize) -> Result<RowBatch, ConnectorError> {
        let from = self.next.get(partition).copied().unwrap_or_default();
        let mut rows = Vec::new();
        let mut to = from;
        for row in from..from.saturating_add(self.due_rows(partition)) {
            let global = self.global(partition, row);
            let twice = self.duplicates.is_some_and(|(dice, probability)| dice.happens(global, probability));
            // Both copies go into one batch, because a position cannot stand between them.
            if twice && !rows.is_empty() && rows.len() + 2 > self.rows_max {
                break;
            }
            rows.extend(std::iter::repeat_n(global, if twice { 2 } else { 1 }));
            to = row + 1;
            if rows.len() >= self.rows_max {
                break;
            }
        }
        let made = self.make(&rows)?;
        self.bytes_per_row = Some(made.get_array_memory_size().div_ceil(rows.len().max(1)));
        if let Some(next) = self.next.get_mut(partition) {
            *next = to;
        }
        let partition = self.partitions.get(partition).cloned().unwrap_or_else(|| Arc::from(""));
        Ok(RowBatch { partition, rows: made, next_position: to })
    }

    fn make(&self, rows: &[u64]) -> Result<RecordBatch, ConnectorError> {
        let base = self.clock.as_ref().map_or(0, |clock| clock.base);
        let mut made: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for Column { name, data_type, content } in &self.columns {
            let array = match content {
                Content::Values(maker) => maker.make(rows, base).map_err(|message| wrong(name, "", message))?,
                Content::Sql(expression, input) => {
                    let known = made.iter().take(input.fields().len()).cloned().collect();
                    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
                    RecordBatch::try_new_with_options(Arc::clone(input), known, &options)
                        .map_err(|error| error.to_string())
                        .and_then(|rows| expression.evaluate(&rows))
                        .map_err(|message| wrong(name, "sql", message))?
                }
            };
            made.push(convert(&array, data_type, rows.len()).map_err(|message| wrong(name, "", message))?);
        }
        let columns = self.order.iter().filter_map(|i| made.get(*i).cloned()).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| {
            ConnectorError::configuration("columns", format!("the rows do not fit their columns: {error}"))
        })
    }
}

#[async_trait]
impl Source for GenerateSource {
    async fn open(&mut self, from: &Positions) -> Result<(), ConnectorError> {
        for (partition, next) in self.partitions.iter().zip(&mut self.next) {
            *next = from.get(partition).unwrap_or(0);
        }
        if let Some(other) = from.0.keys().find(|name| !self.partitions.iter().any(|known| **known == ***name)) {
            tracing::warn!(
                pipeline = self.pipeline,
                source = self.name,
                partition = other,
                "there is a position of a partition that is no more: `partitions` was changed, so rows come again or are left out"
            );
        }
        let first = self.first().map_or(0, |(_, global)| global);
        let offset = self.schedule.due(first).unwrap_or(0);
        self.clock = Some(Clock { reference: Instant::now(), offset, base: self.base(first) });
        self.announced = false;
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent, ConnectorError> {
        if !self.announced {
            self.announced = true;
            return Ok(SourceEvent::Partitions(self.partitions.clone()));
        }
        let Some((partition, global)) = self.first() else { return Ok(SourceEvent::End) };
        self.wait(global).await;
        self.batch(partition).map(SourceEvent::Rows)
    }

    async fn commit(&mut self, _upto: &Positions) -> Result<(), ConnectorError> {
        // Every row can be made again: there is nothing to keep or to delete.
        Ok(())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// An error about the column `name`, or about an option of it.
fn wrong(name: &str, option: &str, message: impl Into<String>) -> ConnectorError {
    let dot = if option.is_empty() { "" } else { "." };
    ConnectorError::configuration(format!("columns.{name}{dot}{option}"), message)
}

/// The declared columns and those that are made must be the same.
fn check_names(config: &GenerateConfig, schema: &SchemaRef) -> Result<(), ConnectorError> {
    let missing: Vec<String> = schema
        .fields()
        .iter()
        .filter(|field| !config.columns.contains_key(field.name()))
        .map(|field| format!("`{}`", field.name()))
        .collect();
    if !missing.is_empty() {
        let message = format!("declared, but nothing says how to make it: {}", missing.join(", "));
        return Err(ConnectorError::configuration("columns", message));
    }
    match config.columns.keys().find(|name| schema.field_with_name(name).is_err()) {
        Some(name) => Err(wrong(name, "", format!("`{name}` is not among the source's declared columns"))),
        None => Ok(()),
    }
}

/// Refuses what cannot be turned into the declared type without changing values.
fn fits(name: &str, generator: &Generator, made: &DataType, field: &Field) -> Result<(), ConnectorError> {
    let declared = field.data_type();
    let text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let decimal = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..)
        )
    };
    let timestamp = |data_type: &DataType| matches!(data_type, DataType::Timestamp(_, _));
    let number = |data_type: &DataType| data_type.is_numeric() || decimal(data_type);
    let fits = made == declared
        || *made == DataType::Null
        || (text(made) && text(declared))
        || (timestamp(made) && timestamp(declared))
        // Fractions would be cut off.
        || (number(made) && number(declared) && !(made.is_floating() && declared.is_integer()));
    if !fits {
        let hint =
            if made.is_floating() && declared.is_integer() { " (`integer: true` makes whole numbers)" } else { "" };
        let message = format!("`{}` makes {made}, but the column is declared as {declared}{hint}", generator.name());
        return Err(wrong(name, generator.name(), message));
    }
    if generator.nulls() > 0.0 && !field.is_nullable() {
        return Err(wrong(
            name,
            &format!("{}.nulls", generator.name()),
            "the column is declared without NULL (`nullable: false`)",
        ));
    }
    Ok(())
}

/// To the declared type; a number that does not fit is an error, never NULL.
fn convert(array: &ArrayRef, to: &DataType, rows: usize) -> Result<ArrayRef, String> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    if *array.data_type() == DataType::Null {
        return Ok(new_null_array(to, rows));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options).map_err(|error| format!("does not fit its declared type: {error}"))
}
