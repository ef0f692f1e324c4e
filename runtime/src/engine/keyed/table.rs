//! Gives each distinct key a dense number, in the order of first appearance.
//!
//! Open addressing over slots of 8 bytes (32 bits of the hash, 32 of the number), keys of 16 bytes by number, longer
//! keys in one buffer. A batch is looked up in passes, first the slots of many rows, then their keys: the processor
//! waits for the memory of many rows at the same time instead of for one after the other.

use std::cmp::Ordering;
use std::ops::Range;

use crate::engine::keyed::encode::{EncodedKeys, Key};

/// How many rows go through a pass at a time: few enough that what lies between the passes stays in the fastest cache.
const PASS_ROWS: usize = 1024;
/// The slots of a table with keys, at first.
const SLOTS_MIN: usize = 16;
/// A cleared table keeps its memory if at least one of so many of its slots was in use.
const SLOTS_PER_KEY_KEPT: usize = 16;
/// Stands for "no key has this hash".
const ABSENT: usize = usize::MAX;

/// Which rows of a batch are meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Selection<'a> {
    /// Those that follow each other here.
    Range { start: usize, len: usize },
    /// These.
    Rows(&'a [u32]),
}

impl Selection<'_> {
    /// How many rows they are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Range { len, .. } => *len,
            Self::Rows(rows) => rows.len(),
        }
    }
}

/// The keys seen so far.
#[derive(Debug, Default)]
pub(crate) struct KeyTable {
    /// The hash in the upper half, the number plus one in the lower; zero is free. A power of two, or none at all.
    slots: Vec<u64>,
    keys: Vec<Key>,
    /// Long keys: their length in four bytes, then they themselves.
    heap: Vec<u8>,
    /// Rows of the pass at hand that are not settled yet; kept to reuse its memory.
    unsettled: Vec<usize>,
}

impl KeyTable {
    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>() + self.keys.capacity() * size_of::<Key>() + self.heap.capacity()
    }

    /// Forgets all keys. Memory is kept where as many may come again.
    pub(crate) fn clear(&mut self) {
        if self.keys.len() * SLOTS_PER_KEY_KEPT < self.slots.len() {
            *self = Self::default();
            return;
        }
        self.slots.fill(0);
        self.keys.clear();
        self.heap.clear();
    }

    /// Fills `numbers` with the number of the key of each row in `selection`; new keys get the next ones.
    pub(crate) fn intern(&mut self, keys: &EncodedKeys, selection: Selection<'_>, numbers: &mut Vec<usize>) {
        match selection {
            Selection::Range { start, len } => self.intern_rows(keys, len, |index| start + index, numbers),
            Selection::Rows(rows) => self.intern_rows(keys, rows.len(), |index| rows[index] as usize, numbers),
        }
    }

    fn intern_rows(
        &mut self,
        keys: &EncodedKeys,
        len: usize,
        row_of: impl Fn(usize) -> usize,
        numbers: &mut Vec<usize>,
    ) {
        numbers.clear();
        if self.slots.is_empty() && len > 0 {
            self.slots = vec![0; SLOTS_MIN];
        }
        let mut unsettled = std::mem::take(&mut self.unsettled);
        for start in (0..len).step_by(PASS_ROWS) {
            let pass = start..len.min(start + PASS_ROWS);
            numbers.extend(pass.clone().map(|index| self.candidate(keys.hashes[row_of(index)])));
            self.unsettled(keys, pass, &row_of, numbers, &mut unsettled);
            for &index in &unsettled {
                numbers[index] = self.find_or_insert(keys, row_of(index));
            }
        }
        self.unsettled = unsettled;
    }

    /// Fills `unsettled` with the rows of `pass` whose candidate is not their key.
    fn unsettled(
        &self,
        keys: &EncodedKeys,
        pass: Range<usize>,
        row_of: &impl Fn(usize) -> usize,
        numbers: &[usize],
        unsettled: &mut Vec<usize>,
    ) {
        unsettled.clear();
        for index in pass {
            let row = row_of(index);
            // An absent one has no key either.
            let settled = self.keys.get(numbers[index]).is_some_and(|known| self.same(*known, keys, row));
            if !settled {
                unsettled.push(index);
            }
        }
    }

    fn home(&self, hash: u32) -> usize {
        let bits = self.slots.len().trailing_zeros();
        (u64::from(hash) << bits >> 32) as usize
    }

    /// The first key with this hash.
    #[inline]
    fn candidate(&self, hash: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut index = self.home(hash);
        loop {
            let slot = self.slots[index & mask];
            if slot == 0 {
                return ABSENT;
            }
            if (slot >> 32) as u32 == hash {
                return slot as u32 as usize - 1;
            }
            index += 1;
        }
    }

    /// True where `known`, a key of this table, is the key of `row`.
    #[inline]
    fn same(&self, known: Key, keys: &EncodedKeys, row: usize) -> bool {
        let key = keys.keys[row];
        if !key.is_long() {
            return known == key;
        }
        known.is_long() && known.prefix() == key.prefix() && self.long_bytes(known) == keys.bytes(row)
    }

    fn find_or_insert(&mut self, keys: &EncodedKeys, row: usize) -> usize {
        let hash = keys.hashes[row];
        let mask = self.slots.len() - 1;
        let mut index = self.home(hash);
        loop {
            let slot = self.slots[index & mask];
            if slot == 0 {
                break;
            }
            let number = slot as u32 as usize - 1;
            if (slot >> 32) as u32 == hash && self.same(self.keys[number], keys, row) {
                return number;
            }
            index += 1;
        }
        let number = self.keys.len();
        self.slots[index & mask] = u64::from(hash) << 32 | (number as u64 + 1);
        let mut key = keys.keys[row];
        if key.is_long() {
            let bytes = keys.bytes(row);
            key = key.moved(self.heap.len());
            self.heap.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            self.heap.extend_from_slice(bytes);
        }
        self.keys.push(key);
        if self.keys.len() * 2 > self.slots.len() {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.slots = vec![0; old.len() * 2];
        let mask = self.slots.len() - 1;
        for slot in old.into_iter().filter(|slot| *slot != 0) {
            let mut index = self.home((slot >> 32) as u32);
            while self.slots[index & mask] != 0 {
                index += 1;
            }
            self.slots[index & mask] = slot;
        }
    }

    /// The numbers of all keys in the order of the keys.
    pub(crate) fn sorted(&self) -> Vec<u32> {
        let mut order: Vec<(Key, u32)> = self.keys.iter().copied().zip(0..).collect();
        if self.heap.is_empty() {
            order.sort_unstable();
        } else {
            order.sort_unstable_by(|(a, _), (b, _)| self.compare(*a, *b));
        }
        order.into_iter().map(|(_, number)| number).collect()
    }

    /// How the keys with the numbers `a` and `b` are ordered.
    pub(crate) fn order(&self, a: u32, b: u32) -> Ordering {
        self.compare(self.key(a), self.key(b))
    }

    fn compare(&self, a: Key, b: Key) -> Ordering {
        if !a.is_long() && !b.is_long() {
            return a.cmp(&b);
        }
        a.prefix().cmp(&b.prefix()).then_with(|| {
            let (a_inline, b_inline) = (a.0.to_be_bytes(), b.0.to_be_bytes());
            self.all_bytes(a, &a_inline).cmp(self.all_bytes(b, &b_inline))
        })
    }

    /// The bytes of `key`, which are those of `inline` where it is not long.
    fn all_bytes<'a>(&'a self, key: Key, inline: &'a [u8; 16]) -> &'a [u8] {
        if key.is_long() { self.long_bytes(key) } else { &inline[..key.inline_len()] }
    }

    pub(super) fn key(&self, number: u32) -> Key {
        self.keys[number as usize]
    }

    /// The bytes of a long key of this table.
    #[inline]
    pub(super) fn long_bytes(&self, key: Key) -> &[u8] {
        let start = key.place() + 4;
        let length = self.heap[key.place()..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
        &self.heap[start..start + length as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow::array::{
        Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Float32Array, Float64Array, Int16Array, Int64Array,
        LargeStringArray, StringArray, UInt8Array, UInt32Array, UInt64Array,
    };
    use arrow::compute::{SortColumn, lexsort_to_indices, take};
    use arrow::datatypes::Field;
    use arrow::row::{RowConverter, SortField};
    use datafusion::common::utils::normalize_float_zero;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::keyed::KeyEncoder;

    const FLOATS: [f64; 8] = [0.0, -0.0, f64::NAN, -1.5, 2.5, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE];

    /// Columns of many types from small numbers; equal numbers give equal values.
    fn column(kind: usize, values: &[Option<u8>]) -> ArrayRef {
        let text =
            |value: &Option<u8>| value.map(|v| "Ünï\0x".repeat(usize::from(v % 7)) + &"z".repeat(usize::from(v / 40)));
        let number = |value: &Option<u8>| value.map(|v| i64::from(v) - 100);
        let float = |value: &Option<u8>| value.map(|v| FLOATS[usize::from(v) % FLOATS.len()]);
        match kind {
            0 => Arc::new(values.iter().map(text).collect::<StringArray>()),
            1 => Arc::new(values.iter().map(text).collect::<LargeStringArray>()),
            2 => Arc::new(values.iter().map(|value| text(value).map(String::into_bytes)).collect::<BinaryArray>()),
            3 => Arc::new(values.iter().map(|value| number(value).map(|n| n << 40)).collect::<Int64Array>()),
            4 => Arc::new(values.iter().map(|value| number(value).map(|n| n as i16)).collect::<Int16Array>()),
            5 => Arc::new(values.iter().map(|value| number(value).map(|n| n as i32)).collect::<Date32Array>()),
            6 => Arc::new(values.iter().copied().collect::<UInt8Array>()),
            7 => Arc::new(values.iter().map(|value| number(value).map(|n| n as u64)).collect::<UInt64Array>()),
            8 => Arc::new(values.iter().map(float).collect::<Float64Array>()),
            9 => Arc::new(values.iter().map(|value| float(value).map(|f| f as f32)).collect::<Float32Array>()),
            _ => Arc::new(values.iter().map(|value| value.map(|v| v > 100)).collect::<BooleanArray>()),
        }
    }

    /// The columns' rows as bytes that are equal where they are.
    fn reference(columns: &[ArrayRef]) -> Vec<Vec<u8>> {
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let rows = RowConverter::new(fields).unwrap().convert_columns(columns).unwrap();
        rows.iter().map(|row| row.data().to_vec()).collect()
    }

    proptest! {
        #[test]
        fn equal_keys_have_equal_numbers_and_come_back_in_their_order(
            rows in proptest::collection::vec(proptest::collection::vec(proptest::option::weighted(0.9, any::<u8>()), 2), 0..300),
            kinds in proptest::collection::vec(0..11_usize, 1..3),
            piece in 1..300_usize,
            mixed in any::<bool>(),
        ) {
            let values = |column: usize| rows.iter().map(|row| row[column]).collect::<Vec<_>>();
            let columns: Vec<ArrayRef> =
                kinds.iter().enumerate().map(|(index, kind)| column(*kind, &values(index))).collect();
            let fields: Vec<Field> =
                columns.iter().map(|column| Field::new("k", column.data_type().clone(), true)).collect();
            let encoder = KeyEncoder::new(&fields).unwrap();
            let (mut table, mut keys, mut numbers) = (KeyTable::default(), EncodedKeys::default(), Vec::new());
            let normal: Vec<ArrayRef> = columns.iter().map(normalize_float_zero).collect();
            let expected = reference(&normal);
            let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
            let mut first_rows = Vec::new();
            for start in (0..rows.len()).step_by(piece) {
                let len = piece.min(rows.len() - start);
                let slices: Vec<ArrayRef> = columns.iter().map(|column| column.slice(start, len)).collect();
                encoder.encode(&slices, &mut keys).unwrap();
                // The same rows, once as a range and once picked, in their order or from the back.
                let mut picked: Vec<u32> = (0..len as u32).collect();
                if mixed {
                    picked.reverse();
                }
                table.intern(&keys, Selection::Rows(&picked), &mut numbers);
                for (row, number) in picked.iter().zip(&numbers) {
                    let row = start + *row as usize;
                    let next = known.len();
                    let wanted = *known.entry(expected[row].clone()).or_insert(next);
                    if wanted == next {
                        first_rows.push(row as u32);
                    }
                    prop_assert_eq!(*number, wanted);
                }
                table.intern(&keys, Selection::Range { start: 0, len }, &mut numbers);
                for (row, number) in numbers.iter().enumerate() {
                    prop_assert_eq!(*number, known[&expected[start + row]]);
                }
            }
            prop_assert_eq!(table.len(), known.len());
            let first_rows = UInt32Array::from(first_rows);
            let distinct: Vec<ArrayRef> = normal.iter().map(|column| take(column, &first_rows, None).unwrap()).collect();
            let all: Vec<u32> = (0..table.len() as u32).collect();
            let decoded = encoder.decode(&table, &all).unwrap();
            prop_assert_eq!(reference(&decoded), reference(&distinct));
            prop_assert!(decoded.iter().zip(&columns).all(|(a, b)| a.data_type() == b.data_type()));
            let sort: Vec<SortColumn> =
                distinct.iter().map(|column| SortColumn { values: column.clone(), options: None }).collect();
            let sorted = if all.is_empty() { vec![] } else { lexsort_to_indices(&sort, None).unwrap().values().to_vec() };
            prop_assert_eq!(table.sorted(), sorted);
            table.clear();
            prop_assert_eq!(table.len(), 0);
        }
    }

    #[test]
    fn a_table_of_many_keys_finds_each_of_them() {
        let encoder = KeyEncoder::new(&[Field::new("k", arrow::datatypes::DataType::Int64, true)]).unwrap();
        let (mut table, mut keys, mut numbers) = (KeyTable::default(), EncodedKeys::default(), Vec::new());
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values((0..100_000).map(|n| n * 1_000_003)));
        encoder.encode(&[column], &mut keys).unwrap();
        for _ in 0..2 {
            table.intern(&keys, Selection::Range { start: 0, len: 100_000 }, &mut numbers);
            assert!(numbers.iter().copied().eq(0..100_000));
        }
    }
}
