//! Accumulators of the most common aggregates, whose values lie together by group.
//!
//! DataFusion keeps an array per accumulator: with a million groups each row waits for memory in every one of them. Here
//! count, sum, avg, min and max over 64-bit numbers and timestamps share one array, in which a group's values follow each
//! other: a row waits once. States and results are those of DataFusion's accumulators.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, UInt64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, UInt64Type};
use datafusion::common::{Result, internal_err, not_impl_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use crate::engine::operators::aggregate::AggregateCall;
use crate::engine::times;

/// The most accumulators that share an array: each has a bit of the group's first word.
const SHARING_MAX: usize = 64;

/// What is accumulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Count,
    SumInt,
    SumFloat,
    AvgFloat,
    MinInt,
    MaxInt,
    MinFloat,
    MaxFloat,
}

impl Kind {
    /// How `aggregate` can be accumulated here over arguments of the types `arguments`, if it can.
    fn of(aggregate: &AggregateFunctionExpr, arguments: &[DataType]) -> Option<Self> {
        if aggregate.is_distinct() || !aggregate.order_bys().is_empty() || aggregate.ignore_nulls() {
            return None;
        }
        let [argument] = arguments else { return None };
        let float = match argument {
            DataType::Int64 | DataType::Timestamp(..) => false,
            DataType::Float64 => true,
            // Only what is null matters.
            _ if aggregate.fun().name() == "count" => false,
            _ => return None,
        };
        let number = argument == &DataType::Int64;
        Some(match (aggregate.fun().name(), float) {
            ("count", _) => Self::Count,
            ("sum", false) if number => Self::SumInt,
            ("sum", true) => Self::SumFloat,
            ("avg", true) => Self::AvgFloat,
            ("min", false) => Self::MinInt,
            ("min", true) => Self::MinFloat,
            ("max", false) => Self::MaxInt,
            ("max", true) => Self::MaxFloat,
            _ => return None,
        })
    }

    /// How many words of a group it takes.
    fn words(self) -> usize {
        if self == Self::AvgFloat { 2 } else { 1 }
    }

    /// What `word` becomes by `value`; `seen` where it holds one already.
    #[inline]
    fn take(self, word: u64, value: u64, seen: bool) -> u64 {
        let (old, new) = (word as i64, value as i64);
        let (old_float, new_float) = (f64::from_bits(word), f64::from_bits(value));
        match self {
            Self::Count => word + 1,
            Self::SumInt => word.wrapping_add(value),
            Self::SumFloat | Self::AvgFloat => (old_float + new_float).to_bits(),
            _ if !seen => value,
            Self::MinInt => old.min(new) as u64,
            Self::MaxInt => old.max(new) as u64,
            // As DataFusion has it: what cannot be compared is replaced.
            Self::MinFloat if new_float >= old_float => word,
            Self::MaxFloat if new_float <= old_float => word,
            Self::MinFloat | Self::MaxFloat => value,
        }
    }
}

/// The accumulators of `calls` over rows of `schema` that can share an array; `None` for each that cannot.
pub(super) fn accumulators(calls: &[AggregateCall], schema: &Schema) -> Vec<Option<Box<dyn GroupsAccumulator>>> {
    let records = Arc::new(Mutex::new(Records { words: Vec::new(), stride: 1 }));
    let mut sharing = 0;
    let made = calls.iter().map(|AggregateCall { aggregate, arguments, .. }| -> Option<Box<dyn GroupsAccumulator>> {
        let types = arguments.iter().map(|argument| argument.data_type(schema)).collect::<Result<Vec<_>>>().ok()?;
        let kind = Kind::of(aggregate, &types).filter(|_| sharing < SHARING_MAX)?;
        let at = {
            let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
            records.stride += kind.words();
            records.stride - kind.words()
        };
        let flag = 1 << sharing;
        sharing += 1;
        let data_type = aggregate.field().data_type().clone();
        Some(Box::new(Packed { records: records.clone(), kind, at, flag, data_type, groups: 0 }))
    });
    made.collect()
}

/// The values of all groups: by group one word of flags, then the words of each accumulator.
struct Records {
    words: Vec<u64>,
    stride: usize,
}

/// One accumulator: its share of the records.
struct Packed {
    records: Arc<Mutex<Records>>,
    kind: Kind,
    /// The place of its words in a record.
    at: usize,
    /// The bit that says that a group has a value.
    flag: u64,
    data_type: DataType,
    /// So many groups hold values of its own; behind them lies what is to be overwritten.
    groups: usize,
}

/// The rows that count: all, where `None`.
fn counting(nulls: Option<NullBuffer>, filter: Option<&BooleanArray>) -> Option<BooleanBuffer> {
    let filter = filter.map(|filter| match filter.nulls() {
        Some(nulls) => filter.values() & nulls.inner(),
        None => filter.values().clone(),
    });
    match (nulls.map(NullBuffer::into_inner), filter) {
        (Some(valid), Some(filter)) => Some(&valid & &filter),
        (one, other) => one.or(other),
    }
}

impl Packed {
    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for `total` groups; new ones are empty.
    fn grow(&mut self, total: usize) {
        let (at, flag, from) = (self.at, self.flag, self.groups);
        let mut records = self.lock();
        let stride = records.stride;
        let held = records.words.len() / stride;
        if held < total {
            records.words.resize(total * stride, 0);
        }
        for group in from..total.min(held) {
            let record = &mut records.words[group * stride..][..stride];
            record[0] &= !flag;
            record[at..at + self.kind.words()].fill(0);
        }
        drop(records);
        self.groups = self.groups.max(total);
    }

    /// Hands the record and the value of every row that counts to `take`.
    fn each<T: Copy>(
        &mut self,
        groups: &[usize],
        values: &[T],
        counts: Option<&BooleanBuffer>,
        total: usize,
        take: impl Fn(&mut [u64], T),
    ) {
        self.grow(total);
        let mut records = self.lock();
        let stride = records.stride;
        let words = &mut records.words[..];
        let rows = groups.iter().zip(values);
        match counts {
            None => rows.for_each(|(group, value)| take(&mut words[group * stride..][..stride], *value)),
            Some(counts) => {
                let rows = rows.zip(counts).filter(|(_, counts)| *counts);
                rows.for_each(|((group, value), _)| take(&mut words[group * stride..][..stride], *value));
            }
        }
    }

    /// Takes values as words.
    fn values<T: Copy>(
        &mut self,
        groups: &[usize],
        values: &[T],
        counts: Option<&BooleanBuffer>,
        total: usize,
        word: impl Fn(T) -> u64,
    ) {
        let (at, flag) = (self.at, self.flag);
        macro_rules! each {
            ($kind:expr) => {
                self.each(groups, values, counts, total, |record, value| {
                    record[at] = $kind.take(record[at], word(value), record[0] & flag != 0);
                    record[0] |= flag;
                })
            };
        }
        // The kind is known inside each loop.
        match self.kind {
            Kind::Count => each!(Kind::Count),
            Kind::SumInt => each!(Kind::SumInt),
            Kind::SumFloat => each!(Kind::SumFloat),
            Kind::MinInt => each!(Kind::MinInt),
            Kind::MaxInt => each!(Kind::MaxInt),
            Kind::MinFloat => each!(Kind::MinFloat),
            Kind::MaxFloat => each!(Kind::MaxFloat),
            Kind::AvgFloat => self.each(groups, values, counts, total, |record, value| {
                record[at] += 1;
                record[at + 1] = Kind::AvgFloat.take(record[at + 1], word(value), true);
                record[0] |= flag;
            }),
        }
    }

    /// Takes numbers or times.
    fn numbers(
        &mut self,
        column: &ArrayRef,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let counts = counting(column.nulls().cloned(), filter);
        if let Some(floats) = column.as_primitive_opt::<Float64Type>() {
            self.values(groups, floats.values(), counts.as_ref(), total, f64::to_bits);
        } else {
            self.values(groups, times::values(column)?, counts.as_ref(), total, |value| value as u64);
        }
        Ok(())
    }

    /// The word number `word` of the first `count` groups.
    fn words<T>(&self, word: usize, count: usize, value: impl Fn(u64) -> T) -> Vec<T> {
        let records = self.lock();
        let of = records.words.chunks_exact(records.stride).take(count);
        of.map(|record| value(record[self.at + word])).collect()
    }

    /// Which of the first `count` groups have a value; `None`: all.
    fn seen(&self, count: usize) -> Option<NullBuffer> {
        let records = self.lock();
        let of = records.words.chunks_exact(records.stride).take(count);
        let seen: BooleanBuffer = of.map(|record| record[0] & self.flag != 0).collect();
        Some(NullBuffer::new(seen)).filter(|nulls| nulls.null_count() > 0)
    }

    /// Forgets the first `count` groups; the others come in their place.
    fn forget(&mut self, count: usize) {
        let left = self.groups.saturating_sub(count);
        let (at, flag, own) = (self.at, self.flag, self.kind.words());
        let mut records = self.lock();
        let stride = records.stride;
        for group in 0..left {
            let (from, to) = ((group + count) * stride, group * stride);
            let seen = records.words[from] & flag;
            records.words[to] = records.words[to] & !flag | seen;
            records.words.copy_within(from + at..from + at + own, to + at);
        }
        drop(records);
        self.groups = left;
    }

    fn count_of(&self, emit_to: EmitTo) -> usize {
        match emit_to {
            EmitTo::All => self.groups,
            EmitTo::First(count) => count.min(self.groups),
        }
    }
}

impl GroupsAccumulator for Packed {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let [column] = values else { return internal_err!("an aggregate of one argument has {}", values.len()) };
        if self.kind == Kind::Count {
            let counts = counting(column.logical_nulls(), filter);
            // What is counted does not matter.
            self.values(groups, groups, counts.as_ref(), total, |_| 1);
            return Ok(());
        }
        self.numbers(column, groups, filter, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        if self.kind != Kind::AvgFloat {
            return match self.state(emit_to)?.pop() {
                Some(state) => Ok(state),
                None => internal_err!("an accumulator without state"),
            };
        }
        let count = self.count_of(emit_to);
        let (counts, sums) = (self.words(0, count, |word| word), self.words(1, count, f64::from_bits));
        let means = sums.into_iter().zip(counts).map(|(sum, count)| sum / count as f64).collect::<Vec<f64>>();
        let result = Float64Array::new(means.into(), self.seen(count));
        self.forget(count);
        Ok(Arc::new(result))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let count = self.count_of(emit_to);
        let state: Vec<ArrayRef> = match self.kind {
            Kind::Count => vec![Arc::new(Int64Array::from(self.words(0, count, |word| word as i64)))],
            Kind::AvgFloat => {
                let counts = UInt64Array::new(self.words(0, count, |word| word).into(), self.seen(count));
                let sums = Float64Array::new(self.words(1, count, f64::from_bits).into(), self.seen(count));
                vec![Arc::new(counts), Arc::new(sums)]
            }
            Kind::SumFloat | Kind::MinFloat | Kind::MaxFloat => {
                vec![Arc::new(Float64Array::new(self.words(0, count, f64::from_bits).into(), self.seen(count)))]
            }
            Kind::SumInt | Kind::MinInt | Kind::MaxInt => {
                let values = Int64Array::new(self.words(0, count, |word| word as i64).into(), self.seen(count));
                vec![arrow::compute::cast(&values, &self.data_type)?]
            }
        };
        self.forget(count);
        Ok(state)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        let (at, flag) = (self.at, self.flag);
        match (self.kind, states) {
            (Kind::Count, [counts]) => {
                let counts = counts.as_primitive::<Int64Type>();
                self.each(groups, counts.values(), None, total, |record, count| {
                    record[at] = record[at].wrapping_add(count as u64);
                    record[0] |= flag;
                });
                Ok(())
            }
            (Kind::AvgFloat, [counts, sums]) => {
                let valid = counting(counts.nulls().cloned(), None);
                let counts = counts.as_primitive::<UInt64Type>().values();
                let sums = sums.as_primitive::<Float64Type>().values();
                let both: Vec<(u64, f64)> = counts.iter().copied().zip(sums.iter().copied()).collect();
                self.each(groups, &both, valid.as_ref(), total, |record, (count, sum)| {
                    record[at] += count;
                    record[at + 1] = (f64::from_bits(record[at + 1]) + sum).to_bits();
                    record[0] |= flag;
                });
                Ok(())
            }
            (_, [column]) => self.numbers(column, groups, None, total),
            _ => internal_err!("a state of {} columns", states.len()),
        }
    }

    fn convert_to_state(&self, _: &[ArrayRef], _: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        not_impl_err!("rows are always accumulated here")
    }

    fn size(&self) -> usize {
        // Its share of the records, and of the flags.
        let records = self.lock();
        records.words.capacity() / records.stride * self.kind.words() * size_of::<u64>() + size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, TimeUnit};
    use datafusion::functions_aggregate::{average, count, min_max, sum};
    use datafusion::logical_expr::AggregateUDF;
    use datafusion::physical_expr::aggregate::AggregateExprBuilder;
    use datafusion::physical_expr::expressions::Column;
    use datafusion::physical_plan::PhysicalExpr;
    use proptest::prelude::*;

    use super::*;

    fn time() -> DataType {
        DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into()))
    }

    fn schema() -> Arc<Schema> {
        let fields = [("i", DataType::Int64), ("f", DataType::Float64), ("t", time()), ("s", DataType::Utf8)];
        Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
    }

    fn calls() -> Vec<AggregateCall> {
        let call = |function: Arc<AggregateUDF>, column: usize| {
            let schema = schema();
            let argument: Arc<dyn PhysicalExpr> = Arc::new(Column::new(schema.field(column).name(), column));
            let built = AggregateExprBuilder::new(function, vec![argument.clone()]).schema(schema).alias("a").build();
            AggregateCall { aggregate: Arc::new(built.unwrap()), arguments: vec![argument], filter: None }
        };
        let mut calls = vec![call(average::avg_udaf(), 1), call(sum::sum_udaf(), 0), call(sum::sum_udaf(), 1)];
        for column in 0..3 {
            calls.extend([min_max::min_udaf(), min_max::max_udaf()].map(|function| call(function, column)));
        }
        calls.extend((0..4).map(|column| call(count::count_udaf(), column)));
        calls
    }

    const FLOATS: [f64; 6] = [0.0, -0.0, 1.5, -2.25, f64::NAN, 1e300];

    /// A row: its group, its value, whether it passes the filter.
    type Row = (usize, Option<i8>, Option<bool>);

    fn columns(rows: &[Row]) -> Vec<ArrayRef> {
        let ints: ArrayRef = Arc::new(rows.iter().map(|row| row.1.map(i64::from)).collect::<Int64Array>());
        let float = |value: i8| FLOATS[usize::from(value.unsigned_abs()) % FLOATS.len()];
        let floats = rows.iter().map(|row| row.1.map(float)).collect::<Float64Array>();
        let texts = rows.iter().map(|row| row.1.map(|value| value.to_string())).collect::<arrow::array::StringArray>();
        vec![ints.clone(), Arc::new(floats), arrow::compute::cast(&ints, &time()).unwrap(), Arc::new(texts)]
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let row =
            (0..9_usize, proptest::option::weighted(0.8, any::<i8>()), proptest::option::weighted(0.9, any::<bool>()));
        proptest::collection::vec(row, 0..30)
    }

    proptest! {
        #[test]
        fn values_and_states_are_those_of_datafusion(batches in proptest::collection::vec((rows(), 0..6_u8), 1..8)) {
            let calls = calls();
            let mut ours: Vec<_> = accumulators(&calls, &schema()).into_iter().map(Option::unwrap).collect();
            let mut theirs: Vec<_> =
                calls.iter().map(|call| call.aggregate.create_groups_accumulator().unwrap()).collect();
            // Groups are numbered by their first row, as a table of keys does it.
            let mut known: Vec<usize> = Vec::new();
            for (rows, then) in batches {
                let columns = columns(&rows);
                let mut number = |row: &Row| {
                    known.iter().position(|group| *group == row.0).unwrap_or_else(|| {
                        known.push(row.0);
                        known.len() - 1
                    })
                };
                let groups: Vec<usize> = rows.iter().map(&mut number).collect();
                let total = known.len();
                let filter: BooleanArray = rows.iter().map(|row| row.2).collect();
                let filter = (then % 2 == 0).then_some(&filter);
                for (index, call) in calls.iter().enumerate() {
                    let column = call.arguments[0].downcast_ref::<Column>().unwrap().index();
                    let values = &columns[column..=column];
                    ours[index].update_batch(values, &groups, filter, total).unwrap();
                    theirs[index].update_batch(values, &groups, filter, total).unwrap();
                }
                let first = total / 2;
                let all: Vec<usize> = (0..total).collect();
                for (ours, theirs) in ours.iter_mut().zip(&mut theirs) {
                    match then {
                        0 => {
                            let (a, b) = (ours.state(EmitTo::All).unwrap(), theirs.state(EmitTo::All).unwrap());
                            prop_assert_eq!(format!("{:?}", a), format!("{:?}", b));
                            ours.merge_batch(&a, &all, total).unwrap();
                            theirs.merge_batch(&b, &all, total).unwrap();
                            ours.merge_batch(&a, &all, total).unwrap();
                            theirs.merge_batch(&b, &all, total).unwrap();
                        }
                        1 => {
                            let emit = EmitTo::First(first);
                            let (a, b) = (ours.evaluate(emit).unwrap(), theirs.evaluate(emit).unwrap());
                            prop_assert_eq!(format!("{:?}", a), format!("{:?}", b));
                        }
                        2 => {
                            let (a, b) = (ours.evaluate(EmitTo::All).unwrap(), theirs.evaluate(EmitTo::All).unwrap());
                            prop_assert_eq!(format!("{:?}", a), format!("{:?}", b));
                        }
                        _ => {}
                    }
                }
                match then {
                    1 => drop(known.drain(..first)),
                    2 => known.clear(),
                    _ => {}
                }
            }
        }
    }
}
