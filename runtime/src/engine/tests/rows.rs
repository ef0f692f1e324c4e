//! Rows for the oracle: made by proptest, with the times, nulls and partitions that make trouble.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListBuilder, RecordBatch,
    StringArray, StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use proptest::prelude::*;

/// A row. Its time is in ticks.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) partition: u8,
    /// How many ticks after the row before it (of any partition); `None`: without a time.
    pub(super) step: Option<i8>,
    pub(super) k: Option<u8>,
    pub(super) g: Option<u8>,
    pub(super) v: Option<i8>,
    pub(super) n: Option<i8>,
    pub(super) b: Option<bool>,
    pub(super) tags: Option<Vec<u8>>,
}

/// The type of the time column.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeType {
    pub(super) unit: TimeUnit,
    pub(super) zone: bool,
}

impl TimeType {
    /// As SQL.
    pub(super) fn sql(self) -> String {
        let precision = match self.unit {
            TimeUnit::Second => 0,
            TimeUnit::Millisecond => 3,
            TimeUnit::Microsecond => 6,
            TimeUnit::Nanosecond => 9,
        };
        format!("timestamp({precision}){}", if self.zone { " with time zone" } else { "" })
    }

    /// As Arrow.
    pub(super) fn arrow(self) -> DataType {
        DataType::Timestamp(self.unit, self.zone.then(|| Arc::from("+00:00")))
    }

    /// How long a tick is: the unit must be able to say it.
    pub(super) fn tick_ms(self) -> i64 {
        if self.unit == TimeUnit::Second { 1000 } else { 250 }
    }
}

pub(super) fn time_type() -> impl Strategy<Value = TimeType> {
    let unit = prop_oneof![
        Just(TimeUnit::Second),
        Just(TimeUnit::Millisecond),
        Just(TimeUnit::Microsecond),
        Just(TimeUnit::Nanosecond)
    ];
    (unit, any::<bool>()).prop_map(|(unit, zone)| TimeType { unit, zone })
}

pub(super) fn rows(max: usize, partitions: u8) -> impl Strategy<Value = Vec<Row>> {
    let step = prop_oneof![1 => Just(None), 30 => (0..4_i8).prop_map(Some), 12 => (-9..9_i8).prop_map(Some)];
    let row = (
        0..partitions,
        step,
        proptest::option::weighted(0.85, 0..3_u8),
        proptest::option::weighted(0.85, 0..4_u8),
        proptest::option::weighted(0.85, any::<i8>()),
        proptest::option::weighted(0.85, -4..9_i8),
        proptest::option::weighted(0.8, any::<bool>()),
        proptest::option::weighted(0.8, proptest::collection::vec(0..3_u8, 0..3)),
    );
    let row = row.prop_map(|(partition, step, k, g, v, n, b, tags)| Row { partition, step, k, g, v, n, b, tags });
    proptest::collection::vec(row, 0..max)
}

/// The rows' times in ticks, from `base` on.
pub(super) fn times(rows: &[Row], base: i64) -> Vec<Option<i64>> {
    let mut now = base;
    let times = rows.iter().map(|row| {
        let step = row.step?;
        now += i64::from(step);
        Some(now)
    });
    times.collect()
}

/// The columns, as YAML has them.
pub(super) fn columns_yaml(time: TimeType) -> String {
    format!(
        "{{id: bigint, ts: {}, k: text, g: int, v: double, n: bigint, d: \"decimal(10, 2)\", b: boolean, tags: \"text[]\"}}",
        time.sql()
    )
}

pub(super) fn schema(time: TimeType) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("ts", time.arrow(), true),
        Field::new("k", DataType::Utf8, true),
        Field::new("g", DataType::Int32, true),
        Field::new("v", DataType::Float64, true),
        Field::new("n", DataType::Int64, true),
        Field::new("d", DataType::Decimal128(10, 2), true),
        Field::new("b", DataType::Boolean, true),
        Field::new("tags", DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))), true),
    ]))
}

const WORDS: [&str; 3] = ["a", "B", ""];

/// `rows` as a batch; ids count from `first_id`.
pub(super) fn batch(rows: &[Row], time: TimeType, base: i64, first_id: i64) -> RecordBatch {
    let unit_ms = |ticks: i64| ticks * time.tick_ms();
    let times: ArrayRef = Arc::new(times(rows, base).into_iter().map(|t| t.map(unit_ms)).collect::<Int64Array>());
    let times = cast(&times, &DataType::Timestamp(TimeUnit::Millisecond, None)).unwrap();
    let times = cast(&times, &DataType::Timestamp(time.unit, None)).unwrap();
    let times = cast(&cast(&times, &DataType::Int64).unwrap(), &time.arrow()).unwrap();
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in rows {
        for tag in row.tags.iter().flatten() {
            tags.values().append_value(WORDS[usize::from(*tag)]);
        }
        tags.append(row.tags.is_some());
    }
    let decimals = rows.iter().map(|row| row.v.map(|v| i128::from(v) * 7));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(first_id..first_id + rows.len() as i64)),
        times,
        Arc::new(rows.iter().map(|row| row.k.map(|k| WORDS[usize::from(k)])).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.g.map(i32::from)).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.v.map(|v| f64::from(v) / 4.0)).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.n.map(i64::from)).collect::<Int64Array>()),
        Arc::new(decimals.collect::<Decimal128Array>().with_precision_and_scale(10, 2).unwrap()),
        Arc::new(rows.iter().map(|row| row.b).collect::<BooleanArray>()),
        Arc::new(tags.finish()),
    ];
    RecordBatch::try_new(schema(time), columns).unwrap()
}
