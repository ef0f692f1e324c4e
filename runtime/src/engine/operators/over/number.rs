//! Sums, counts, means and extremes of numbers, without a value of DataFusion per row.
//!
//! A short frame of rows is added up anew for each row, which is exact. A long one is kept as two stacks: sums from each
//! row to the middle, and one sum from there on; nothing is ever subtracted, so that errors do not add up and a NaN
//! leaves with its row. A frame without start has one sum per key.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, PrimitiveArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Float64Type, Int64Type, UInt64Type};
use datafusion::common::Result;

use crate::engine::operators::over::call::{NumberCall, Op};
use crate::engine::operators::over::function::{Function, Row, View};
use crate::engine::operators::over::sequence::{Bound, Frame, Sequence};
use crate::engine::operators::over::store::{Store, nulls};

/// A frame of at most so many rows is added up anew for each row.
const SHORT_ROWS: u64 = if cfg!(test) { 3 } else { 32 };

/// A number that can be aggregated.
pub(super) trait Num: ArrowPrimitiveType<Native: Send> {
    const ZERO: Self::Native;
    fn add(a: Self::Native, b: Self::Native) -> Self::Native;
    fn less(a: Self::Native, b: Self::Native) -> bool;
    fn mean(sum: Self::Native, count: u64) -> f64;
    fn values(store: &Store) -> (&[Self::Native], &[bool]);
}

impl Num for Float64Type {
    const ZERO: f64 = 0.0;

    fn add(a: f64, b: f64) -> f64 {
        a + b
    }

    fn less(a: f64, b: f64) -> bool {
        a.total_cmp(&b).is_lt()
    }

    fn mean(sum: f64, count: u64) -> f64 {
        sum / count as f64
    }

    fn values(store: &Store) -> (&[f64], &[bool]) {
        store.floats()
    }
}

impl Num for Int64Type {
    const ZERO: i64 = 0;

    fn add(a: i64, b: i64) -> i64 {
        a.wrapping_add(b)
    }

    fn less(a: i64, b: i64) -> bool {
        a < b
    }

    fn mean(sum: i64, count: u64) -> f64 {
        sum as f64 / count as f64
    }

    fn values(store: &Store) -> (&[i64], &[bool]) {
        store.integers()
    }
}

/// The aggregate of some rows: of those that count, how many they are and their sum or extreme.
#[derive(Debug, Clone, Copy)]
struct Partial<T> {
    value: T,
    count: u64,
}

#[inline]
fn join<T: Num>(op: Op, a: Partial<T::Native>, b: Partial<T::Native>) -> Partial<T::Native> {
    if b.count == 0 {
        return a;
    }
    if a.count == 0 {
        return b;
    }
    let value = match op {
        Op::Count => a.value,
        Op::Sum | Op::Mean => T::add(a.value, b.value),
        Op::Least => {
            if T::less(b.value, a.value) {
                b.value
            } else {
                a.value
            }
        }
        Op::Greatest => {
            if T::less(a.value, b.value) {
                b.value
            } else {
                a.value
            }
        }
    };
    Partial { value, count: a.count + b.count }
}

/// The aggregate of a frame that slides over the rows of a key.
struct Sliding<T: Num> {
    /// The aggregates from each row to the middle; the last one is from the frame's start.
    front: Vec<Partial<T::Native>>,
    /// The aggregate from the middle to the end.
    back: Partial<T::Native>,
    start: u64,
    end: u64,
}

/// The aggregate of all rows of a key up to the frame's end.
struct Running<T: Num> {
    all: Partial<T::Native>,
    entered: u64,
}

/// How frames are followed.
enum Frames<T: Num> {
    Short,
    Sliding(Vec<Sliding<T>>),
    Running(Vec<Running<T>>),
}

/// An aggregate of numbers.
pub(super) struct Number<T: Num> {
    call: NumberCall,
    data_type: DataType,
    frames: Frames<T>,
}

/// The rows of one key with their numbers.
struct Numbers<'a, T: Num> {
    sequence: &'a Sequence,
    /// By slot. Empty: all rows count, and their value does not matter.
    values: &'a [T::Native],
    valid: Option<&'a [bool]>,
}

impl<T: Num> Numbers<'_, T> {
    #[inline]
    fn at(&self, position: u64) -> Partial<T::Native> {
        let slot = self.sequence.slot(position) as usize;
        let value = self.values.get(slot).copied().unwrap_or(T::ZERO);
        Partial { value, count: self.valid.is_none_or(|valid| valid[slot]).into() }
    }
}

impl<T: Num> Sliding<T> {
    const EMPTY: Partial<T::Native> = Partial { value: T::ZERO, count: 0 };

    fn new() -> Self {
        Self { front: Vec::new(), back: Self::EMPTY, start: 0, end: 0 }
    }

    /// The aggregate of the rows from `start` to before `end`, neither of which is before what it was.
    fn slide(&mut self, op: Op, start: u64, end: u64, numbers: &Numbers<'_, T>) -> Partial<T::Native> {
        if self.end < start {
            *self = Self { start, end: start, front: std::mem::take(&mut self.front), back: Self::EMPTY };
            self.front.clear();
        }
        for position in self.end..end {
            self.back = join::<T>(op, self.back, numbers.at(position));
        }
        self.end = self.end.max(end);
        let leaving = (start - self.start) as usize;
        if leaving <= self.front.len() {
            self.front.truncate(self.front.len() - leaving);
        } else {
            self.front.clear();
            let mut all = Self::EMPTY;
            for position in (start..self.end).rev() {
                all = join::<T>(op, numbers.at(position), all);
                self.front.push(all);
            }
            self.back = Self::EMPTY;
        }
        self.start = start;
        join::<T>(op, self.front.last().copied().unwrap_or(Self::EMPTY), self.back)
    }
}

impl Number<Int64Type> {
    /// The function of `call`.
    pub(super) fn create(call: NumberCall, data_type: DataType) -> Box<dyn Function> {
        if call.floats {
            Box::new(Number::<Float64Type>::new(call, data_type))
        } else {
            Box::new(Self::new(call, data_type))
        }
    }
}

impl<T: Num> Number<T> {
    fn new(call: NumberCall, data_type: DataType) -> Self {
        let frames = match call.frame.width() {
            _ if call.frame.grows() => Frames::Running(Vec::new()),
            Some(width) if width <= SHORT_ROWS => Frames::Short,
            _ => Frames::Sliding(Vec::new()),
        };
        Self { call, data_type, frames }
    }

    /// True where every row counts and the frame's length is known without its rows.
    fn only_length(&self) -> bool {
        let frame = self.call.frame;
        self.call.store.is_none() && (frame.rows || !frame.grows() || frame.end == Bound::Current)
    }

    fn numbers<'a>(&self, view: View<'a>) -> (&'a [T::Native], Option<&'a [bool]>) {
        match self.call.store {
            None => (&[], None),
            Some(store) => {
                let (values, valid) = T::values(&view.stores[store]);
                (values, Some(valid))
            }
        }
    }

    /// The aggregate of each row's frame.
    fn partials(&mut self, rows: &[Row], view: View<'_>, mut give: impl FnMut(Partial<T::Native>)) {
        let (values, valid) = self.numbers(view);
        let frame: Frame = self.call.frame;
        let op = self.call.op;
        let only_length = self.only_length();
        let of = |row: &Row| Numbers::<T> { sequence: &view.sequences[row.key as usize], values, valid };
        let bounds = |row: &Row| frame.bounds(&view.sequences[row.key as usize], view.facts, row.position);
        match &mut self.frames {
            _ if only_length => rows.iter().for_each(|row| {
                let (start, end) = bounds(row);
                give(Partial { value: T::ZERO, count: end - start });
            }),
            Frames::Short => rows.iter().for_each(|row| {
                let (numbers, (start, end)) = (of(row), bounds(row));
                give((start..end).fold(Sliding::<T>::EMPTY, |all, next| join::<T>(op, all, numbers.at(next))));
            }),
            Frames::Sliding(all) => {
                all.resize_with(view.sequences.len(), Sliding::new);
                rows.iter().for_each(|row| {
                    let (start, end) = bounds(row);
                    give(all[row.key as usize].slide(op, start, end, &of(row)));
                });
            }
            Frames::Running(all) => {
                all.resize_with(view.sequences.len(), || Running { all: Sliding::<T>::EMPTY, entered: 0 });
                rows.iter().for_each(|row| {
                    let (numbers, (_, end)) = (of(row), bounds(row));
                    let running = &mut all[row.key as usize];
                    for position in running.entered..end {
                        running.all = join::<T>(op, running.all, numbers.at(position));
                    }
                    running.entered = running.entered.max(end);
                    give(running.all);
                });
            }
        }
    }
}

impl<T: Num> Function for Number<T> {
    fn evaluate(&mut self, rows: &[Row], view: View<'_>) -> Result<ArrayRef> {
        let array: ArrayRef = match self.call.op {
            Op::Count => {
                let mut counts = Vec::with_capacity(rows.len());
                self.partials(rows, view, |partial| counts.push(partial.count as i64));
                Arc::new(Int64Array::from(counts))
            }
            Op::Mean => {
                let (mut means, mut valid) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
                self.partials(rows, view, |partial| {
                    means.push(T::mean(partial.value, partial.count));
                    valid.push(partial.count > 0);
                });
                Arc::new(Float64Array::new(means.into(), nulls(valid)))
            }
            Op::Sum | Op::Least | Op::Greatest => {
                let (mut values, mut valid) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
                self.partials(rows, view, |partial| {
                    values.push(partial.value);
                    valid.push(partial.count > 0);
                });
                Arc::new(PrimitiveArray::<T>::new(values.into(), nulls(valid)))
            }
        };
        Ok(if *array.data_type() == self.data_type { array } else { cast(&array, &self.data_type)? })
    }

    fn entered(&self, key: u32) -> Option<u64> {
        match &self.frames {
            Frames::Running(_) if self.only_length() => None,
            Frames::Running(all) => Some(all.get(key as usize).map_or(0, |running| running.entered)),
            Frames::Short | Frames::Sliding(_) => None,
        }
    }

    fn state_fields(&self) -> Result<Vec<Field>> {
        let field = |name: &str, data_type| Field::new(name, data_type, false);
        Ok(match &self.frames {
            Frames::Running(_) => {
                vec![field("entered", DataType::UInt64), field("count", DataType::UInt64), field("value", T::DATA_TYPE)]
            }
            Frames::Short | Frames::Sliding(_) => vec![],
        })
    }

    fn state(&mut self, keys: usize) -> Result<Vec<ArrayRef>> {
        let Frames::Running(all) = &mut self.frames else { return Ok(vec![]) };
        all.resize_with(keys, || Running { all: Sliding::<T>::EMPTY, entered: 0 });
        let values = PrimitiveArray::<T>::from_iter_values(all.iter().map(|running| running.all.value));
        Ok(vec![
            Arc::new(UInt64Array::from_iter_values(all.iter().map(|running| running.entered))),
            Arc::new(UInt64Array::from_iter_values(all.iter().map(|running| running.all.count))),
            Arc::new(values),
        ])
    }

    fn restore(&mut self, columns: &[ArrayRef], keys: &[usize]) -> Result<()> {
        let Frames::Running(all) = &mut self.frames else { return Ok(()) };
        let keys_max = keys.iter().max().map_or(0, |key| key + 1);
        all.resize_with(keys_max.max(all.len()), || Running { all: Sliding::<T>::EMPTY, entered: 0 });
        let (entered, counts) = (columns[0].as_primitive::<UInt64Type>(), columns[1].as_primitive::<UInt64Type>());
        let values = columns[2].as_primitive::<T>();
        for (row, key) in keys.iter().enumerate() {
            let partial = Partial { value: values.value(row), count: counts.value(row) };
            all[*key] = Running { all: partial, entered: entered.value(row) };
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        match &self.frames {
            Frames::Short => 0,
            Frames::Running(all) => all.capacity() * size_of::<Running<T>>(),
            Frames::Sliding(all) => all.capacity() * size_of::<Sliding<T>>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(rows: usize) -> Sequence {
        Sequence { slots: (0..rows as u32).collect(), ..Sequence::default() }
    }

    #[test]
    fn nothing_of_a_row_that_has_left_stays_in_a_sliding_sum() {
        let values = [1e20, 1.0, f64::NAN, 2.0, f64::INFINITY, 3.0, 4.0, 0.25, -1.0, 1e-9, 5.0, 6.0];
        let valid = vec![true; values.len()];
        let sequence = sequence(values.len());
        let numbers = Numbers::<Float64Type> { sequence: &sequence, values: &values, valid: Some(&valid) };
        let mut sliding = Sliding::<Float64Type>::new();
        for end in 1..=values.len() {
            let start = end.saturating_sub(3);
            let sum = sliding.slide(Op::Sum, start as u64, end as u64, &numbers).value;
            let expected: f64 = values[start..end].iter().sum();
            assert!(sum == expected || (sum.is_nan() && expected.is_nan()), "{sum} {expected}");
        }
    }

    #[test]
    fn a_frame_may_stand_still_be_empty_or_jump_ahead() {
        let values: Vec<i64> = (0..200).map(|n| n * 7919 % 101 - 50).collect();
        let valid: Vec<bool> = (0..200).map(|n| n % 7 != 3).collect();
        let sequence = sequence(values.len());
        let numbers = Numbers::<Int64Type> { sequence: &sequence, values: &values, valid: Some(&valid) };
        for op in [Op::Sum, Op::Least, Op::Greatest] {
            let mut sliding = Sliding::<Int64Type>::new();
            let (mut start, mut end) = (0_usize, 0_usize);
            for step in 0..120_usize {
                start = (start + [0, 0, 1, 3, 0, 9][step * 5 % 6]).min(200);
                end = (end + [0, 1, 2, 0, 5][step * 3 % 5]).max(start).min(200);
                let partial = sliding.slide(op, start as u64, end as u64, &numbers);
                let frame: Vec<i64> = (start..end).filter(|row| valid[*row]).map(|row| values[row]).collect();
                let expected = match op {
                    Op::Least => frame.iter().min().copied(),
                    Op::Greatest => frame.iter().max().copied(),
                    _ => (!frame.is_empty()).then(|| frame.iter().sum()),
                };
                assert_eq!((partial.count > 0).then_some(partial.value), expected, "{op:?} {start}..{end}");
            }
        }
    }
}
