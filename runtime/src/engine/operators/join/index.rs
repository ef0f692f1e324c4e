//! Finds the rows of both sides of a join by key and time.
//!
//! Keys have dense numbers; by number and side lies a queue of rows in the order of their times. Keys that have no rows
//! any more are forgotten when they are too many.

use std::collections::VecDeque;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::engine::keyed::{EncodedKeys, KeyEncoder, KeyTable, Selection};

/// Stands for "a part of the key is null": such a row matches nothing.
pub(super) const NO_KEY: u32 = u32::MAX;
/// Keys without rows are forgotten when there are at least so many keys.
const KEYS_KEPT: usize = 1024;
/// And when at most one of so many has rows.
const KEYS_PER_KEY_IN_USE: usize = 2;

/// A row that waits for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// In nanoseconds.
    pub(super) time: i64,
    /// The row's number in the store of its side.
    pub(super) number: u64,
}

/// The rows of one key, by side.
#[derive(Debug, Default)]
struct OfKey([VecDeque<Entry>; 2]);

/// Rows by key and time.
#[derive(Debug)]
pub(super) struct Index {
    /// `None` without keys: then all rows have the key 0.
    encoder: Option<KeyEncoder>,
    table: KeyTable,
    lists: Vec<OfKey>,
    /// How many keys have rows.
    in_use: usize,
    /// How many rows there are.
    entries: usize,
    /// Of the batch at hand; kept to reuse their memory.
    encoded: EncodedKeys,
    found: Vec<usize>,
    numbers: Vec<u32>,
}

impl Index {
    /// An index by the columns `keys` of `schema`.
    pub(super) fn new(schema: &SchemaRef, keys: &[usize]) -> Result<Self, ArrowError> {
        let fields = keys.iter().map(|key| schema.field(*key));
        let encoder = if keys.is_empty() { None } else { Some(KeyEncoder::new(fields)?) };
        Ok(Self {
            encoder,
            table: KeyTable::default(),
            lists: Vec::new(),
            in_use: 0,
            entries: 0,
            encoded: EncodedKeys::default(),
            found: Vec::new(),
            numbers: Vec::new(),
        })
    }

    /// The key of every row of `batch`: its number, or [`NO_KEY`].
    pub(super) fn keys_of(&mut self, batch: &RecordBatch, keys: &[usize]) -> Result<Vec<u32>, ArrowError> {
        let rows = batch.num_rows();
        let Some(encoder) = &self.encoder else {
            if self.lists.is_empty() {
                self.lists.push(OfKey::default());
            }
            return Ok(vec![0; rows]);
        };
        let columns: Vec<ArrayRef> = keys.iter().map(|key| batch.column(*key).clone()).collect();
        let nulls = columns.iter().fold(None, |all: Option<NullBuffer>, column| {
            NullBuffer::union(all.as_ref(), column.logical_nulls().as_ref())
        });
        encoder.encode(&columns, &mut self.encoded)?;
        let mut numbers = vec![NO_KEY; rows];
        match nulls.filter(|nulls| nulls.null_count() > 0) {
            None => {
                self.table.intern(&self.encoded, Selection::Range { start: 0, len: rows }, &mut self.found);
                numbers.iter_mut().zip(&self.found).for_each(|(number, found)| *number = *found as u32);
            }
            Some(nulls) => {
                self.numbers.clear();
                self.numbers.extend(nulls.valid_indices().map(|row| row as u32));
                self.table.intern(&self.encoded, Selection::Rows(&self.numbers), &mut self.found);
                for (row, found) in self.numbers.iter().zip(&self.found) {
                    numbers[*row as usize] = *found as u32;
                }
            }
        }
        if self.lists.len() < self.table.len() {
            self.lists.resize_with(self.table.len(), OfKey::default);
        }
        Ok(numbers)
    }

    /// The rows of `side` with the key `key`, by time.
    pub(super) fn rows(&self, side: usize, key: u32) -> &VecDeque<Entry> {
        &self.lists[key as usize].0[side]
    }

    /// Adds a row of `side` before the first row of its key for which `after` is true.
    pub(super) fn insert(&mut self, side: usize, key: u32, entry: Entry, after: impl Fn(&Entry) -> bool) {
        let OfKey(sides) = &mut self.lists[key as usize];
        self.in_use += usize::from(sides.iter().all(VecDeque::is_empty));
        self.entries += 1;
        let list = &mut sides[side];
        if list.back().is_none_or(|last| !after(last)) {
            list.push_back(entry);
            return;
        }
        list.insert(list.partition_point(|other| !after(other)), entry);
    }

    /// Takes away the oldest row of `side` with the key `key`.
    pub(super) fn pop(&mut self, side: usize, key: u32) -> Option<Entry> {
        let OfKey(sides) = &mut self.lists[key as usize];
        let popped = sides[side].pop_front()?;
        if sides[side].is_empty() {
            sides[side].shrink_to(0);
        }
        self.entries -= 1;
        self.in_use -= usize::from(sides.iter().all(VecDeque::is_empty));
        Some(popped)
    }

    /// Forgets the keys that have no rows and are not among `others`, where that is worth while. By old number, the new
    /// ones; `None` where nothing changed.
    #[expect(clippy::type_complexity, reason = "a walk over keys, given what to do with each")]
    pub(super) fn tidy(&mut self, others: &dyn Fn(&mut dyn FnMut(u32))) -> Result<Option<Vec<u32>>, ArrowError> {
        let Some(encoder) = &self.encoder else { return Ok(None) };
        let worth = |used: usize| self.table.len() > used.saturating_mul(KEYS_PER_KEY_IN_USE);
        if self.table.len() < KEYS_KEPT || !worth(self.in_use) {
            return Ok(None);
        }
        let mut used: Vec<bool> = self.lists.iter().map(|OfKey(sides)| !sides.iter().all(VecDeque::is_empty)).collect();
        others(&mut |key| {
            if key != NO_KEY {
                used[key as usize] = true;
            }
        });
        let kept: Vec<u32> = (0..used.len() as u32).filter(|key| used[*key as usize]).collect();
        if !worth(kept.len()) {
            return Ok(None);
        }
        let columns = encoder.decode(&self.table, &kept)?;
        encoder.encode(&columns, &mut self.encoded)?;
        let mut table = KeyTable::default();
        // Keys get their numbers in the order in which they come.
        table.intern(&self.encoded, Selection::Range { start: 0, len: kept.len() }, &mut self.found);
        self.table = table;
        let mut new = vec![NO_KEY; used.len()];
        let mut lists = Vec::with_capacity(kept.len());
        for (number, key) in kept.iter().enumerate() {
            new[*key as usize] = number as u32;
            lists.push(std::mem::take(&mut self.lists[*key as usize]));
        }
        self.lists = lists;
        Ok(Some(new))
    }

    /// How many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.lists.capacity() * size_of::<OfKey>() + self.entries * size_of::<Entry>()
    }
}
