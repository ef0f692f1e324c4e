//! LAG, LEAD, FIRST_VALUE, LAST_VALUE and NTH_VALUE: the value of one row of the frame.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType, Field, SchemaRef, UInt64Type};
use datafusion::common::Result;

use crate::engine::operators::over::call::PickCall;
use crate::engine::operators::over::function::{Function, Row, View};
use crate::engine::operators::over::sequence::Sequence;
use crate::engine::operators::over::store::{Slots, Store};

/// Of a key: the rows that a frame without start can still give.
#[derive(Debug, Default, Clone)]
struct Held {
    /// In their order; as many as are counted, from the start or from the end.
    slots: VecDeque<u32>,
    entered: u64,
}

/// Values of all keys that frames without start can still give.
struct Kept {
    store: Store,
    slots: Slots,
    held: Vec<Held>,
}

/// The value of one row of the frame.
pub(super) struct Picked {
    call: PickCall,
    /// Where the frame has no start.
    kept: Option<Kept>,
}

impl Picked {
    pub(super) fn new(call: PickCall, store: &Store, input: &SchemaRef) -> Result<Self> {
        let kept = match call.frame.grows() {
            true => Some(Kept { store: store.empty(input)?, slots: Slots::default(), held: Vec::new() }),
            false => None,
        };
        Ok(Self { call, kept })
    }
}

/// The row that `call` picks of the positions from `start` to before `end`.
fn find(call: &PickCall, sequence: &Sequence, store: &Store, start: u64, end: u64) -> Option<u32> {
    let nth = call.nth - 1;
    if !call.ignore_nulls {
        let position = if call.from_end { end.checked_sub(call.nth)? } else { start.checked_add(nth)? };
        return (start <= position && position < end).then(|| sequence.slot(position));
    }
    let mut valid = (start..end).map(|position| sequence.slot(position)).filter(|slot| store.is_valid(*slot));
    let nth = usize::try_from(nth).ok()?;
    if call.from_end { valid.nth_back(nth) } else { valid.nth(nth) }
}

impl Kept {
    /// Takes in the rows of `key` before `end`, and says which one is picked.
    fn find(&mut self, call: &PickCall, key: u32, end: u64, sequence: &Sequence, store: &Store) -> Option<u32> {
        let held = &mut self.held[key as usize];
        let most = usize::try_from(call.nth).unwrap_or(usize::MAX);
        for position in held.entered..end {
            let slot = sequence.slot(position);
            if (call.ignore_nulls && !store.is_valid(slot)) || (!call.from_end && held.slots.len() == most) {
                continue;
            }
            if held.slots.len() == most {
                held.slots.pop_front().into_iter().for_each(|slot| self.slots.free(slot));
            }
            let own = self.slots.take();
            self.store.copy(own, store, slot);
            held.slots.push_back(own);
        }
        held.entered = held.entered.max(end);
        if held.slots.len() < most {
            return None;
        }
        if call.from_end { held.slots.front().copied() } else { held.slots.back().copied() }
    }
}

impl Function for Picked {
    fn evaluate(&mut self, rows: &[Row], view: View<'_>) -> Result<ArrayRef> {
        let store = &view.stores[self.call.store];
        let mut reading = store.reading(rows.len());
        let mut absent = Vec::with_capacity(rows.len());
        if let Some(kept) = &mut self.kept {
            kept.held.resize(view.sequences.len(), Held::default());
        }
        for row in rows {
            let sequence = &view.sequences[row.key as usize];
            let (start, end) = self.call.frame.bounds(sequence, view.facts, row.position);
            let found = match &mut self.kept {
                None => {
                    let found = find(&self.call, sequence, store, start, end);
                    store.pick(&mut reading, found);
                    found
                }
                Some(kept) => {
                    let found = kept.find(&self.call, row.key, end, sequence, store);
                    kept.store.pick(&mut reading, found);
                    found
                }
            };
            absent.push(found.is_none());
        }
        let columns = store.finish(reading)?;
        let column = columns.into_iter().next().ok_or_else(|| crate::sql::relation::internal("no value is stored"))?;
        let Some(default) = self.call.default.as_ref().filter(|_| absent.contains(&true)) else { return Ok(column) };
        let default = cast(&default.to_array()?, column.data_type())?;
        Ok(zip(&BooleanArray::from(absent), &arrow::array::Scalar::new(default), &column)?)
    }

    fn entered(&self, key: u32) -> Option<u64> {
        let kept = self.kept.as_ref()?;
        Some(kept.held.get(key as usize).map_or(0, |held| held.entered))
    }

    fn state_fields(&self) -> Result<Vec<Field>> {
        let Some(kept) = &self.kept else { return Ok(vec![]) };
        let item = Field::new_list_field(kept.store.state_types().swap_remove(0), true);
        Ok(vec![
            Field::new("entered", DataType::UInt64, false),
            Field::new("held", DataType::List(Arc::new(item)), false),
        ])
    }

    fn state(&mut self, keys: usize) -> Result<Vec<ArrayRef>> {
        let Some(kept) = &mut self.kept else { return Ok(vec![]) };
        kept.held.resize(keys, Held::default());
        let mut reading = kept.store.reading(kept.slots.used());
        kept.held.iter().flat_map(|held| &held.slots).for_each(|slot| kept.store.pick(&mut reading, Some(*slot)));
        let values = kept.store.finish_state(reading)?.swap_remove(0);
        let offsets = OffsetBuffer::from_lengths(kept.held.iter().map(|held| held.slots.len()));
        let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        Ok(vec![
            Arc::new(UInt64Array::from_iter_values(kept.held.iter().map(|held| held.entered))),
            Arc::new(ListArray::try_new(item, offsets, values, None)?),
        ])
    }

    fn restore(&mut self, columns: &[ArrayRef], keys: &[usize]) -> Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let keys_max = keys.iter().max().map_or(0, |key| key + 1);
        kept.held.resize(keys_max.max(kept.held.len()), Held::default());
        let (entered, lists) = (columns[0].as_primitive::<UInt64Type>(), columns[1].as_list::<i32>());
        for (row, key) in keys.iter().enumerate() {
            let values = lists.value(row);
            let slots: Vec<u32> = (0..values.len()).map(|_| kept.slots.take()).collect();
            kept.store.put_state(&[values], &slots, kept.slots.count())?;
            kept.held[*key] = Held { slots: slots.into(), entered: entered.value(row) };
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.store.bytes() + kept.held.capacity() * size_of::<Held>())
    }
}
