//! Values of rows that frames can still need, by slot: a slot is given to a row and taken back when no frame can hold
//! the row any more, so that memory is reused.
//!
//! Numbers lie as numbers; everything else as bytes of Arrow's row format, in buffers that are kept for the next row.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Float64Array, Int64Array, RecordBatch, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

/// What is stored of each row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreSpec {
    pub(crate) kind: StoreKind,
    /// The input's columns.
    pub(crate) columns: Vec<usize>,
    /// The column that says which rows count; not with [`StoreKind::Rows`].
    pub(crate) filter: Option<usize>,
}

/// How it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// Only whether the column has a value and the row counts.
    Marks,
    /// One column of doubles.
    Floats,
    /// One column of anything that is an integer at heart.
    Integers,
    /// Any columns.
    Rows,
}

impl StoreKind {
    /// How a column of `data_type` is best stored.
    pub(crate) fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Float64 => Self::Floats,
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::Timestamp(_, _) => Self::Integers,
            _ => Self::Rows,
        }
    }
}

enum Values {
    Marks,
    Floats(Vec<f64>),
    Integers(Vec<i64>),
    Rows { converter: RowConverter, null: Vec<u8>, bytes: Vec<Vec<u8>>, total: usize },
}

/// Values by slot.
pub(super) struct Store {
    spec: StoreSpec,
    types: Vec<DataType>,
    values: Values,
    /// Whether the first column has a value and the row counts.
    valid: Vec<bool>,
}

/// Values picked out of a store, in the order of picking.
pub(super) enum Reading {
    Marks(Vec<bool>),
    Floats(Vec<f64>, Vec<bool>),
    Integers(Vec<i64>, Vec<bool>),
    Rows(BinaryBuilder),
}

impl Store {
    /// An empty store of columns of `input`.
    pub(super) fn new(spec: StoreSpec, input: &Schema) -> Result<Self, ArrowError> {
        let types: Vec<DataType> = spec.columns.iter().map(|column| input.field(*column).data_type().clone()).collect();
        let values = match spec.kind {
            StoreKind::Marks => Values::Marks,
            StoreKind::Floats => Values::Floats(Vec::new()),
            StoreKind::Integers => Values::Integers(Vec::new()),
            StoreKind::Rows => {
                let converter = RowConverter::new(types.iter().cloned().map(SortField::new).collect())?;
                let nulls: Vec<ArrayRef> = types.iter().map(|data_type| new_null_array(data_type, 1)).collect();
                let null = converter.convert_columns(&nulls)?.row(0).data().to_vec();
                Values::Rows { converter, null, bytes: Vec::new(), total: 0 }
            }
        };
        Ok(Self { spec, types, values, valid: Vec::new() })
    }

    /// An empty store of the same columns.
    pub(super) fn empty(&self, input: &Schema) -> Result<Self, ArrowError> {
        Self::new(self.spec.clone(), input)
    }

    /// There are slots up to `slots`.
    fn grow(&mut self, slots: usize) {
        if self.valid.len() >= slots {
            return;
        }
        self.valid.resize(slots, false);
        match &mut self.values {
            Values::Marks => {}
            Values::Floats(values) => values.resize(slots, 0.0),
            Values::Integers(values) => values.resize(slots, 0),
            Values::Rows { bytes, .. } => bytes.resize(slots, Vec::new()),
        }
    }

    /// Puts the rows of `batch` into `slots`, of which there are `count` in all.
    pub(super) fn fill(&mut self, batch: &RecordBatch, slots: &[u32], count: usize) -> Result<(), ArrowError> {
        let columns: Vec<ArrayRef> = self.spec.columns.iter().map(|column| batch.column(*column).clone()).collect();
        let filter = self.spec.filter.map(|filter| batch.column(filter).as_boolean().clone());
        let valid = NullBuffer::union(
            columns.first().and_then(|column| column.logical_nulls()).as_ref(),
            filter.map(|filter| NullBuffer::new(&(filter.values().clone()) & &validity(&filter))).as_ref(),
        );
        self.put(&columns, valid.as_ref(), slots, count)
    }

    /// Puts what [`Store::finish_state`] gave into `slots`.
    pub(super) fn put_state(&mut self, columns: &[ArrayRef], slots: &[u32], count: usize) -> Result<(), ArrowError> {
        let valid = match self.spec.kind {
            StoreKind::Marks => Some(NullBuffer::new(columns[0].as_boolean().values().clone())),
            _ => columns[0].logical_nulls(),
        };
        self.put(columns, valid.as_ref(), slots, count)
    }

    fn put(
        &mut self,
        columns: &[ArrayRef],
        valid: Option<&NullBuffer>,
        slots: &[u32],
        count: usize,
    ) -> Result<(), ArrowError> {
        self.grow(count);
        match valid {
            None => slots.iter().for_each(|slot| self.valid[*slot as usize] = true),
            Some(valid) => {
                slots.iter().zip(valid.iter()).for_each(|(slot, valid)| self.valid[*slot as usize] = valid);
            }
        }
        match &mut self.values {
            Values::Marks => {}
            Values::Floats(values) => {
                let column = columns[0].as_primitive::<Float64Type>().values();
                slots.iter().zip(column.iter()).for_each(|(slot, value)| values[*slot as usize] = *value);
            }
            Values::Integers(values) => {
                let column = cast(&columns[0], &DataType::Int64)?;
                let column = column.as_primitive::<Int64Type>().values();
                slots.iter().zip(column.iter()).for_each(|(slot, value)| values[*slot as usize] = *value);
            }
            Values::Rows { converter, bytes, total, .. } => {
                let rows = converter.convert_columns(columns)?;
                for (slot, row) in slots.iter().zip(rows.iter()) {
                    let kept = &mut bytes[*slot as usize];
                    *total -= kept.capacity();
                    kept.clear();
                    kept.extend_from_slice(row.data());
                    *total += kept.capacity();
                }
            }
        }
        Ok(())
    }

    /// Puts what `other`, a store of the same columns, has in the slot `from` into the slot `to`.
    pub(super) fn copy(&mut self, to: u32, other: &Self, from: u32) {
        let (to, from) = (to as usize, from as usize);
        self.grow(to + 1);
        self.valid[to] = other.valid[from];
        match (&mut self.values, &other.values) {
            (Values::Floats(values), Values::Floats(others)) => values[to] = others[from],
            (Values::Integers(values), Values::Integers(others)) => values[to] = others[from],
            (Values::Rows { bytes, total, .. }, Values::Rows { bytes: others, .. }) => {
                *total -= bytes[to].capacity();
                bytes[to].clear();
                bytes[to].extend_from_slice(&others[from]);
                *total += bytes[to].capacity();
            }
            _ => {}
        }
    }

    /// True where the first column has a value in `slot` and the row counts.
    #[inline]
    pub(super) fn is_valid(&self, slot: u32) -> bool {
        self.valid[slot as usize]
    }

    /// The doubles by slot, and whether they count.
    pub(super) fn floats(&self) -> (&[f64], &[bool]) {
        match &self.values {
            Values::Floats(values) => (values, &self.valid),
            _ => (&[], &self.valid),
        }
    }

    /// The integers by slot, and whether they count.
    pub(super) fn integers(&self) -> (&[i64], &[bool]) {
        match &self.values {
            Values::Integers(values) => (values, &self.valid),
            _ => (&[], &self.valid),
        }
    }

    /// Nothing picked yet, but `rows` are to be.
    pub(super) fn reading(&self, rows: usize) -> Reading {
        match &self.values {
            Values::Marks => Reading::Marks(Vec::with_capacity(rows)),
            Values::Floats(_) => Reading::Floats(Vec::with_capacity(rows), Vec::with_capacity(rows)),
            Values::Integers(_) => Reading::Integers(Vec::with_capacity(rows), Vec::with_capacity(rows)),
            Values::Rows { null, .. } => Reading::Rows(BinaryBuilder::with_capacity(rows, rows * (null.len() + 16))),
        }
    }

    /// Picks the values of `slot`; `None`: nulls.
    #[inline]
    pub(super) fn pick(&self, reading: &mut Reading, slot: Option<u32>) {
        let at = slot.map(|slot| slot as usize);
        match (reading, &self.values) {
            (Reading::Marks(valid), _) => valid.push(at.is_some_and(|at| self.valid[at])),
            (Reading::Floats(picked, valid), Values::Floats(values)) => {
                picked.push(at.map_or(0.0, |at| values[at]));
                valid.push(at.is_some_and(|at| self.valid[at]));
            }
            (Reading::Integers(picked, valid), Values::Integers(values)) => {
                picked.push(at.map_or(0, |at| values[at]));
                valid.push(at.is_some_and(|at| self.valid[at]));
            }
            (Reading::Rows(picked), Values::Rows { null, bytes, .. }) => {
                picked.append_value(at.map_or(null, |at| &bytes[at]));
            }
            _ => {}
        }
    }

    /// What was picked, as columns of the types that they had in the input.
    pub(super) fn finish(&self, reading: Reading) -> Result<Vec<ArrayRef>, ArrowError> {
        let columns = self.finish_state(reading)?;
        let typed = columns.into_iter().zip(&self.types).map(|(column, wanted)| match column.data_type() == wanted {
            true => Ok(column),
            false => cast(&column, wanted),
        });
        typed.collect()
    }

    /// What was picked, as columns of [`Store::state_types`].
    pub(super) fn finish_state(&self, reading: Reading) -> Result<Vec<ArrayRef>, ArrowError> {
        Ok(match (reading, &self.values) {
            (Reading::Marks(valid), _) => vec![Arc::new(BooleanArray::from(valid)) as _],
            (Reading::Floats(values, valid), _) => {
                vec![Arc::new(Float64Array::new(values.into(), nulls(valid))) as _]
            }
            (Reading::Integers(values, valid), _) => {
                vec![Arc::new(Int64Array::new(values.into(), nulls(valid))) as _]
            }
            (Reading::Rows(mut picked), Values::Rows { converter, .. }) => {
                converter.convert_rows(&converter.from_binary(picked.finish()))?
            }
            (Reading::Rows(_), _) => vec![],
        })
    }

    /// The types of the columns that a snapshot has of it.
    pub(super) fn state_types(&self) -> Vec<DataType> {
        match self.spec.kind {
            StoreKind::Marks => vec![DataType::Boolean],
            StoreKind::Floats => vec![DataType::Float64],
            StoreKind::Integers => vec![DataType::Int64],
            StoreKind::Rows => self.types.clone(),
        }
    }

    /// How many bytes of memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.valid.capacity()
            + match &self.values {
                Values::Marks => 0,
                Values::Floats(values) => values.capacity() * size_of::<f64>(),
                Values::Integers(values) => values.capacity() * size_of::<i64>(),
                Values::Rows { bytes, total, .. } => bytes.capacity() * size_of::<Vec<u8>>() + total,
            }
    }
}

/// Which rows have a value, as bits.
fn validity(array: &BooleanArray) -> arrow::buffer::BooleanBuffer {
    match array.nulls() {
        Some(nulls) => nulls.inner().clone(),
        None => arrow::buffer::BooleanBuffer::new_set(array.len()),
    }
}

/// `None` where all are valid.
pub(super) fn nulls(valid: Vec<bool>) -> Option<NullBuffer> {
    if valid.iter().all(|valid| *valid) { None } else { Some(NullBuffer::from(valid)) }
}

/// Gives out slots.
#[derive(Debug, Default)]
pub(super) struct Slots {
    free: Vec<u32>,
    count: u32,
}

impl Slots {
    /// A slot that nothing is in.
    #[inline]
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.count += 1;
            self.count - 1
        })
    }

    /// Nothing is in `slot` any more.
    #[inline]
    pub(super) fn free(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// How many there are, free or not.
    pub(super) fn count(&self) -> usize {
        self.count as usize
    }

    /// How many are in use.
    pub(super) fn used(&self) -> usize {
        self.count as usize - self.free.len()
    }
}
