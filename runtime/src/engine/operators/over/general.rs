//! Any aggregate, by DataFusion's accumulators: over a frame with a start, evaluated anew for each row; over one without
//! start, one accumulator per key.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt64Array, new_empty_array};
use arrow::compute::{cast, filter};
use arrow::datatypes::{DataType, Field, UInt64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Accumulator;

use crate::engine::operators::over::call::{Argument, GeneralCall};
use crate::engine::operators::over::function::{Function, Row, View, by_key};

/// Of a key: the accumulator of all rows up to the frame's end.
#[derive(Default)]
struct Running {
    accumulator: Option<Box<dyn Accumulator>>,
    entered: u64,
}

/// An aggregate.
pub(super) struct General {
    call: GeneralCall,
    data_type: DataType,
    /// By key, where the frame has no start.
    running: Vec<Running>,
}

/// The arguments of rows that follow each other, and which of them count.
struct Arguments {
    columns: Vec<ArrayRef>,
    filter: Option<BooleanArray>,
    /// The position of the first row.
    first: u64,
}

impl Arguments {
    /// Gives `accumulator` the rows from `start` to before `end`.
    fn update(&self, accumulator: &mut dyn Accumulator, start: u64, end: u64) -> Result<()> {
        let (offset, length) = ((start - self.first) as usize, (end - start) as usize);
        let slices = self.columns.iter().map(|column| {
            let column = column.slice(offset, length);
            match &self.filter {
                Some(mask) => Ok(filter(&column, &mask.slice(offset, length))?),
                None => Ok(column),
            }
        });
        accumulator.update_batch(&slices.collect::<Result<Vec<_>>>()?)
    }
}

impl General {
    pub(super) fn new(call: GeneralCall, data_type: DataType) -> Self {
        Self { call, data_type, running: Vec::new() }
    }

    /// The arguments of the rows of `key` from `start` to before `end`.
    fn arguments(&self, view: View<'_>, key: u32, start: u64, end: u64) -> Result<Arguments> {
        let sequence = &view.sequences[key as usize];
        let mut stored = match self.call.store {
            Some(store) => {
                let store = &view.stores[store];
                let mut reading = store.reading((end - start) as usize);
                (start..end).for_each(|position| store.pick(&mut reading, Some(sequence.slot(position))));
                store.finish(reading)?
            }
            None => vec![],
        };
        let filter = match self.call.filter {
            true => stored.pop().map(|filter| {
                let filter = filter.as_boolean();
                BooleanArray::from_iter(filter.iter().map(|counts| Some(counts == Some(true))))
            }),
            false => None,
        };
        let columns = self.call.arguments.iter().map(|argument| match argument {
            Argument::Column(column) => Ok(stored[*column].clone()),
            Argument::Constant(value) => value.to_array_of_size((end - start) as usize),
        });
        Ok(Arguments { columns: columns.collect::<Result<_>>()?, filter, first: start })
    }

    /// The value of each row of a key: those of `rows` with the numbers `of_key`.
    fn of_key(
        &mut self,
        rows: &[Row],
        of_key: &[u32],
        view: View<'_>,
        mut give: impl FnMut(u32, ScalarValue),
    ) -> Result<()> {
        let key = rows[of_key[0] as usize].key;
        let sequence = &view.sequences[key as usize];
        let grows = self.call.frame.grows();
        let bounds = |row: &u32| self.call.frame.bounds(sequence, view.facts, rows[*row as usize].position);
        let mut frames: Vec<(u64, u64)> = of_key.iter().map(bounds).collect();
        if grows {
            let mut entered = self.running[key as usize].entered;
            for frame in &mut frames {
                // What has come in between this frame's end and the one before.
                *frame = (entered, frame.1.max(entered));
                entered = frame.1;
            }
        }
        let start = frames.iter().map(|frame| frame.0).min().unwrap_or(0);
        let end = frames.iter().map(|frame| frame.1).max().unwrap_or(0);
        let arguments = self.arguments(view, key, start.min(end), end)?;
        for (row, (start, end)) in of_key.iter().zip(frames) {
            let aggregate = &self.call.aggregate;
            let value = if grows {
                let running = &mut self.running[key as usize];
                let mut accumulator = match running.accumulator.take() {
                    Some(accumulator) => accumulator,
                    None => aggregate.create_accumulator()?,
                };
                if end > start {
                    arguments.update(accumulator.as_mut(), start, end)?;
                }
                running.entered = end;
                let value = match end {
                    0 => aggregate.default_value(&self.data_type)?,
                    _ => accumulator.evaluate()?,
                };
                running.accumulator = Some(accumulator);
                value
            } else if start == end {
                aggregate.default_value(&self.data_type)?
            } else {
                let mut accumulator = aggregate.create_accumulator()?;
                arguments.update(accumulator.as_mut(), start, end)?;
                accumulator.evaluate()?
            };
            give(*row, value);
        }
        Ok(())
    }
}

impl Function for General {
    fn evaluate(&mut self, rows: &[Row], view: View<'_>) -> Result<ArrayRef> {
        if rows.is_empty() {
            return Ok(new_empty_array(&self.data_type));
        }
        if self.call.frame.grows() {
            self.running.resize_with(view.sequences.len(), Running::default);
        }
        let order = by_key(rows);
        let mut values = vec![ScalarValue::Null; rows.len()];
        for of_key in order.chunk_by(|a, b| rows[*a as usize].key == rows[*b as usize].key) {
            self.of_key(rows, of_key, view, |row, value| values[row as usize] = value)?;
        }
        let array = ScalarValue::iter_to_array(values)?;
        Ok(if *array.data_type() == self.data_type { array } else { cast(&array, &self.data_type)? })
    }

    fn entered(&self, key: u32) -> Option<u64> {
        self.call.frame.grows().then(|| self.running.get(key as usize).map_or(0, |running| running.entered))
    }

    fn state_fields(&self) -> Result<Vec<Field>> {
        if !self.call.frame.grows() {
            return Ok(vec![]);
        }
        let mut fields = vec![Field::new("entered", DataType::UInt64, false)];
        for (index, field) in self.call.aggregate.state_fields()?.iter().enumerate() {
            fields.push(Field::new(format!("state_{index}"), field.data_type().clone(), true));
        }
        Ok(fields)
    }

    fn state(&mut self, keys: usize) -> Result<Vec<ArrayRef>> {
        if !self.call.frame.grows() {
            return Ok(vec![]);
        }
        self.running.resize_with(keys, Running::default);
        let fields = self.state_fields()?;
        let mut states: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(keys); fields.len() - 1];
        for running in &mut self.running {
            let mut accumulator = match running.accumulator.take() {
                Some(accumulator) => accumulator,
                None => self.call.aggregate.create_accumulator()?,
            };
            // Taking the state may empty the accumulator: it goes on from what was taken.
            let state = accumulator.state()?;
            let mut filled = self.call.aggregate.create_accumulator()?;
            filled.merge_batch(&state.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>>>()?)?;
            running.accumulator = Some(filled);
            states.iter_mut().zip(state).for_each(|(column, value)| column.push(value));
        }
        let mut columns: Vec<ArrayRef> = vec![std::sync::Arc::new(UInt64Array::from_iter_values(
            self.running.iter().map(|running| running.entered),
        ))];
        for (values, field) in states.into_iter().zip(&fields[1..]) {
            let column = match values.is_empty() {
                true => new_empty_array(field.data_type()),
                false => ScalarValue::iter_to_array(values)?,
            };
            columns.push(match column.data_type() == field.data_type() {
                true => column,
                false => cast(&column, field.data_type())?,
            });
        }
        Ok(columns)
    }

    fn restore(&mut self, columns: &[ArrayRef], keys: &[usize]) -> Result<()> {
        if !self.call.frame.grows() {
            return Ok(());
        }
        let keys_max = keys.iter().max().map_or(0, |key| key + 1);
        self.running.resize_with(keys_max.max(self.running.len()), Running::default);
        let entered = columns[0].as_primitive::<UInt64Type>();
        for (row, key) in keys.iter().enumerate() {
            let mut accumulator = self.call.aggregate.create_accumulator()?;
            let state: Vec<ArrayRef> = columns[1..].iter().map(|column| column.slice(row, 1)).collect();
            accumulator.merge_batch(&state)?;
            self.running[*key] = Running { accumulator: Some(accumulator), entered: entered.value(row) };
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        // Without walking through all of them: the first one speaks for the others.
        let one = self.running.iter().find_map(|running| running.accumulator.as_ref()).map_or(0, |first| first.size());
        self.running.len() * (size_of::<Running>() + one)
    }
}
