//! SESSION: rows of a key that follow each other by less than the gap are in one session. Rows are kept until the
//! watermark comes to their session's end, which is the gap after its last row, and then given out with its bounds.
//!
//! **Which rows are late.** A session has closed when the watermark has come to its end. A row is late when
//! - it is less than the gap from a session of its key that has closed (it would have been in it), or
//! - its own end (its time plus the gap) has passed, and it is not less than the gap from a session that is open and was
//!   begun before that. A session is begun at the time of its row, or at the watermark where that was ahead of the row.
//!
//! So what was given out never changes, and the sessions are those of the on-time rows as one batch. Of a closed session
//! nothing but its first and last time is kept, as long as a row that is on time can be near it: a gap longer, or until
//! those open sessions are closed that were begun before that.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, new_null_array};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;

use crate::engine::dead_letter::Letter;
use crate::engine::error::RunError;
use crate::engine::exchange;
use crate::engine::keyed::{EncodedKeys, KeyEncoder, KeyTable, Selection};
use crate::engine::operator::{Description, Operator, OperatorPlan, Output, Site, StateSize};
use crate::engine::operators::session_rows::{RowRef, RowStore};
use crate::engine::operators::window_assign::NO_WINDOW;
use crate::engine::times;
use crate::sql::windows::unit_ns;

/// The most rows of a batch of results.
const OUTPUT_ROWS_MAX: usize = 8192;
/// The most rows of a batch of state.
const STATE_ROWS_MAX: usize = 1 << 16;
/// The columns of the state before those of the rows: when the session was begun, and of a closed session
/// the first and the last time.
const STATE_COLUMNS: usize = 3;
/// Keys without sessions are forgotten where there are so many of them, and more than keys with sessions.
const KEYS_FORGOTTEN_MIN: usize = 1024;

/// How rows are brought together.
#[derive(Debug, Clone)]
pub(crate) struct SessionAssignPlan {
    pub(crate) time_column: usize,
    pub(crate) gap_ns: i64,
    /// The columns whose values have sessions of their own.
    pub(crate) keys: Vec<usize>,
    /// The input's columns.
    pub(crate) input: SchemaRef,
    /// Those of them that go on.
    pub(crate) passes: Vec<usize>,
    /// Those that go on, then window_start and window_end.
    pub(crate) schema: SchemaRef,
}

#[async_trait]
impl OperatorPlan for SessionAssignPlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        let fields = self.keys.iter().map(|key| self.input.field(*key));
        let encoder = KeyEncoder::new(fields).map_err(|error| site.failed(error))?;
        let DataType::Timestamp(unit, _) = self.input.field(self.time_column).data_type() else {
            return Err(site.failed("the event time is no timestamp"));
        };
        Ok(Box::new(SessionAssign {
            encoder: (!self.keys.is_empty()).then_some(encoder),
            factor: unit_ns(*unit),
            plan: self.clone(),
            step: site.step,
            table: KeyTable::default(),
            keys: Vec::new(),
            used: 0,
            due: BinaryHeap::new(),
            rows: RowStore::default(),
            closed: 0,
            watermark: i64::MIN,
            encoded: EncodedKeys::default(),
            numbers: Vec::new(),
        }))
    }

    fn late(&self) -> Vec<SchemaRef> {
        vec![self.input.clone()]
    }

    fn assigns_windows(&self) -> bool {
        true
    }

    fn describe(&self) -> Description {
        let name = |column: &usize| self.input.field(*column).name().clone();
        let keys: Vec<String> = self.keys.iter().map(name).collect();
        let by = if keys.is_empty() { String::new() } else { format!(" by {}", keys.join(", ")) };
        let (gap, time) = (times::duration(self.gap_ns), name(&self.time_column));
        Description {
            does: format!("brings rows together in sessions over {time} with a gap of {gap}{by}"),
            keeps: Some("the rows of open sessions; of closed ones the first and last time".to_owned()),
            freed: Some(
                "rows when the watermark comes to their session's end; the times of a closed session a gap later"
                    .to_owned(),
            ),
        }
    }
}

/// Rows that follow each other by less than the gap. Times are in nanoseconds.
#[derive(Debug)]
struct Session {
    first: i64,
    last: i64,
    /// When it was begun: the least of its rows' times, or of the watermarks when they came where those were ahead.
    begun: i64,
    /// In the order of arrival, session by session.
    rows: Vec<RowRef>,
}

/// The sessions of one key.
#[derive(Debug, Default)]
struct KeySessions {
    /// Sorted by time.
    open: Vec<Session>,
    /// First and last times, sorted; all before the open ones.
    closed: Vec<(i64, i64)>,
    /// When it must be looked at next, where it is known to be due.
    due: Option<i64>,
}

impl KeySessions {
    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.closed.is_empty()
    }

    /// True where a row at `time` is late.
    fn is_late(&self, time: i64, gap: i64, watermark: i64) -> bool {
        let near = |first: i64, last: i64| time < last.saturating_add(gap) && first < time.saturating_add(gap);
        if self.closed.iter().rev().any(|(first, last)| near(*first, *last)) {
            return true;
        }
        let end = time.saturating_add(gap);
        end <= watermark && !self.open.iter().any(|session| near(session.first, session.last) && session.begun < end)
    }

    /// Adds a row; sessions that it is near become one.
    fn add(&mut self, row: RowRef, gap: i64, begun: i64) {
        let from = self.open.partition_point(|session| session.last.saturating_add(gap) <= row.time);
        let near = self.open[from..].iter().take_while(|session| session.first < row.time.saturating_add(gap)).count();
        if near == 0 {
            self.open.insert(from, Session { first: row.time, last: row.time, begun, rows: vec![row] });
            return;
        }
        let others: Vec<Session> = self.open.drain(from + 1..from + near).collect();
        let session = &mut self.open[from];
        session.first = session.first.min(row.time);
        session.last = session.last.max(row.time);
        for other in others {
            session.last = session.last.max(other.last);
            session.begun = session.begun.min(other.begun);
            session.rows.extend(other.rows);
        }
        session.rows.push(row);
        session.begun = session.begun.min(begun);
    }

    /// Forgets the closed sessions that no row on time can be near any more.
    fn forget(&mut self, gap: i64, watermark: i64) {
        let newest = self.closed.last().copied();
        let begun = self.open.iter().map(|session| session.begun).min();
        self.closed.retain(|session| {
            let reach = session.1.saturating_add(gap).saturating_add(gap);
            // Behind a newer closed session no row reaches this one.
            let reached = newest == Some(*session) && begun.is_some_and(|begun| begun < reach);
            reach > watermark || reached
        });
    }

    /// When something is to be done next after `watermark`: a session closes, or a closed one can be forgotten.
    fn next(&self, gap: i64, watermark: i64) -> Option<i64> {
        let close = self.open.first().map(|session| session.last.saturating_add(gap));
        let reaches = self.closed.iter().map(|session| session.1.saturating_add(gap).saturating_add(gap));
        close.into_iter().chain(reaches.filter(|reach| *reach > watermark)).min()
    }
}

/// The operator.
struct SessionAssign {
    plan: SessionAssignPlan,
    step: String,
    /// `None` without keys: then there is one.
    encoder: Option<KeyEncoder>,
    table: KeyTable,
    /// By key number.
    keys: Vec<KeySessions>,
    /// How many of them have sessions.
    used: usize,
    /// When keys are due; an entry that is not the key's newest means nothing.
    due: BinaryHeap<Reverse<(i64, u32)>>,
    rows: RowStore,
    /// How many closed sessions are remembered.
    closed: usize,
    watermark: i64,
    /// How many nanoseconds the unit of the time column has.
    factor: i64,
    encoded: EncodedKeys,
    numbers: Vec<usize>,
}

/// A session that closes.
struct Closing {
    end: i64,
    key: u32,
    session: Session,
}

impl SessionAssign {
    fn failed(&self, error: impl ToString) -> RunError {
        RunError::fatal(format!("step {}", self.step), error)
    }

    /// Fills `numbers` with the key of each row of the key columns `columns`.
    fn number(&mut self, columns: &[ArrayRef], rows: usize) -> Result<(), ArrowError> {
        match &self.encoder {
            Some(encoder) => {
                encoder.encode(columns, &mut self.encoded)?;
                self.table.intern(&self.encoded, Selection::Range { start: 0, len: rows }, &mut self.numbers);
                self.keys.resize_with(self.table.len(), KeySessions::default);
            }
            None => {
                self.numbers.clear();
                self.numbers.resize(rows, 0);
                self.keys.resize_with(1, KeySessions::default);
            }
        }
        Ok(())
    }

    /// The time of `value` in nanoseconds, where it and the end of its gap can be represented.
    fn time(&self, value: i64) -> Option<i64> {
        let time = value.checked_mul(self.factor)?;
        time.checked_add(self.plan.gap_ns).map(|_| time)
    }

    fn take(&mut self, batch: &RecordBatch, out: &mut Output) -> Result<(), ArrowError> {
        let columns: Vec<ArrayRef> = self.plan.keys.iter().map(|key| batch.column(*key).clone()).collect();
        self.number(&columns, batch.num_rows())?;
        let column = batch.column(self.plan.time_column).clone();
        let values = times::values(&column)?;
        let (mut kept, mut late) = (vec![false; values.len()], vec![false; values.len()]);
        let mut accepted = 0;
        // A row's place in the batch that is kept is known at once; the batch itself when all rows are.
        for (row, value) in values.iter().enumerate() {
            let Some(time) = self.time(*value).filter(|_| column.is_valid(row)) else {
                out.letters.push(Letter::row(format!("step {}", self.step), NO_WINDOW, &batch.slice(row, 1)));
                continue;
            };
            let key = self.numbers[row];
            late[row] = self.keys[key].is_late(time, self.plan.gap_ns, self.watermark);
            if !late[row] {
                kept[row] = true;
                let row = self.rows.expect(accepted, time);
                accepted += 1;
                // The same however the rows are cut into batches: a row behind the watermark always sees the newest one.
                self.insert(key, row, self.watermark.max(time));
            }
        }
        if late.contains(&true) {
            out.late.push(filter_record_batch(batch, &BooleanArray::from(late))?);
        }
        let batch = match accepted == batch.num_rows() {
            true => batch.clone(),
            false => filter_record_batch(batch, &BooleanArray::from(kept))?,
        };
        self.rows.add(batch);
        Ok(())
    }

    fn insert(&mut self, key: usize, row: RowRef, begun: i64) {
        let sessions = &mut self.keys[key];
        self.used += usize::from(sessions.is_empty());
        sessions.add(row, self.plan.gap_ns, begun);
        self.schedule(key);
    }

    fn schedule(&mut self, key: usize) {
        let next = self.keys[key].next(self.plan.gap_ns, self.watermark);
        // A later time is found when the earlier one has come.
        if let Some(next) = next.filter(|next| self.keys[key].due.is_none_or(|due| *next < due)) {
            self.keys[key].due = Some(next);
            self.due.push(Reverse((next, key as u32)));
        }
    }

    /// Takes out the sessions that have come to their end.
    fn closing(&mut self) -> Vec<Closing> {
        let (gap, watermark) = (self.plan.gap_ns, self.watermark);
        let mut closing = Vec::new();
        while let Some(Reverse((time, key))) = self.due.peek().copied().filter(|Reverse((time, _))| *time <= watermark)
        {
            self.due.pop();
            let sessions = &mut self.keys[key as usize];
            if sessions.due != Some(time) {
                continue;
            }
            sessions.due = None;
            let before = sessions.closed.len();
            let over = sessions.open.partition_point(|session| session.last.saturating_add(gap) <= watermark);
            for session in sessions.open.drain(..over) {
                sessions.closed.push((session.first, session.last));
                closing.push(Closing { end: session.last.saturating_add(gap), key, session });
            }
            sessions.forget(gap, watermark);
            self.closed = self.closed + sessions.closed.len() - before;
            self.used -= usize::from(sessions.is_empty());
            self.schedule(key as usize);
        }
        let order = |a: u32, b: u32| match self.encoder {
            Some(_) => self.table.order(a, b),
            None => std::cmp::Ordering::Equal,
        };
        closing
            .sort_by(|a, b| (a.end, a.session.first).cmp(&(b.end, b.session.first)).then_with(|| order(a.key, b.key)));
        closing
    }

    /// Gives out the rows of the sessions `closing`.
    fn close(&mut self, mut closing: Vec<Closing>, out: &mut Output) -> Result<(), ArrowError> {
        let (mut rows, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for Closing { end, session, .. } in &mut closing {
            // Rows of one time stay in the order of their arrival.
            session.rows.sort_by_key(|row| row.time);
            rows.append(&mut session.rows);
            starts.resize(rows.len(), session.first / self.factor);
            ends.resize(rows.len(), *end / self.factor);
        }
        let bound = self.plan.input.field(self.plan.time_column).data_type().clone();
        for start in (0..rows.len()).step_by(OUTPUT_ROWS_MAX) {
            let part = start..rows.len().min(start + OUTPUT_ROWS_MAX);
            let gathered = self.rows.gather(&rows[part.clone()], &self.plan.input)?;
            let mut columns: Vec<ArrayRef> =
                self.plan.passes.iter().map(|column| gathered.column(*column).clone()).collect();
            columns.push(times::column(starts[part.clone()].to_vec(), &bound)?);
            columns.push(times::column(ends[part].to_vec(), &bound)?);
            out.batches.push(RecordBatch::try_new(self.plan.schema.clone(), columns)?);
        }
        self.rows.release(&rows);
        let open = self.keys.iter_mut().flat_map(|key| &mut key.open).map(|session| &mut session.rows);
        self.rows.compact(&self.plan.input, open)
    }

    /// Forgets the keys without sessions, where there are many.
    fn forget_keys(&mut self) -> Result<(), ArrowError> {
        let Some(encoder) = &self.encoder else { return Ok(()) };
        if self.keys.len() < 2 * self.used + KEYS_FORGOTTEN_MIN {
            return Ok(());
        }
        let used = (0..self.keys.len()).filter(|key| !self.keys[*key].is_empty());
        let used: Vec<u32> = used.map(|key| key as u32).collect();
        let columns = encoder.decode(&self.table, &used)?;
        self.table.clear();
        let mut before = std::mem::take(&mut self.keys);
        self.number(&columns, used.len())?;
        self.due.clear();
        for (new, old) in used.into_iter().enumerate() {
            let mut sessions = std::mem::take(&mut before[old as usize]);
            sessions.due = None;
            self.keys[new] = sessions;
            self.schedule(new);
        }
        Ok(())
    }

    /// The columns of the state.
    fn state_schema(&self) -> SchemaRef {
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        let mut fields = vec![number("begun"), number("first"), number("last")];
        fields.extend(self.plan.input.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)));
        Arc::new(Schema::new(fields))
    }

    fn state(&self) -> Result<Vec<RecordBatch>, ArrowError> {
        let schema = self.state_schema();
        let mut batches = Vec::new();
        let open = self.keys.iter().flat_map(|key| &key.open);
        let open = open.flat_map(|session| session.rows.iter().map(|row| (*row, session.begun)));
        let (rows, begun): (Vec<RowRef>, Vec<i64>) = open.unzip();
        for start in (0..rows.len()).step_by(STATE_ROWS_MAX) {
            let part = start..rows.len().min(start + STATE_ROWS_MAX);
            let nothing = new_null_array(&DataType::Int64, part.len());
            let mut columns: Vec<ArrayRef> =
                vec![Arc::new(Int64Array::from(begun[part.clone()].to_vec())), nothing.clone(), nothing];
            columns.extend(self.rows.gather(&rows[part], &self.plan.input)?.columns().iter().cloned());
            batches.push(RecordBatch::try_new(schema.clone(), columns)?);
        }
        let closed = self.keys.iter().zip(0..).flat_map(|(key, number)| key.closed.iter().map(move |at| (number, *at)));
        let closed: Vec<(u32, (i64, i64))> = closed.collect();
        for part in closed.chunks(STATE_ROWS_MAX) {
            let numbers: Vec<u32> = part.iter().map(|(number, _)| *number).collect();
            let keys = self.encoder.as_ref().map_or(Ok(vec![]), |encoder| encoder.decode(&self.table, &numbers))?;
            let times = |pick: fn(&(i64, i64)) -> i64| -> ArrayRef {
                Arc::new(Int64Array::from_iter_values(part.iter().map(|(_, at)| pick(at))))
            };
            let mut columns: Vec<ArrayRef> =
                schema.fields().iter().map(|field| new_null_array(field.data_type(), part.len())).collect();
            (columns[1], columns[2]) = (times(|at| at.0), times(|at| at.1));
            for (key, column) in self.plan.keys.iter().zip(keys) {
                columns[STATE_COLUMNS + key] = column;
            }
            batches.push(RecordBatch::try_new(schema.clone(), columns)?);
        }
        Ok(batches)
    }

    fn take_back(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), ArrowError> {
        let expected = self.state_schema();
        if !state.schema().fields().iter().map(|f| f.data_type()).eq(expected.fields().iter().map(|f| f.data_type())) {
            return Err(ArrowError::SchemaError("the snapshot's columns are not those of this operator".to_owned()));
        }
        let keys: Vec<usize> = self.plan.keys.iter().map(|key| STATE_COLUMNS + key).collect();
        let mine: BooleanArray =
            exchange::key_groups(state, &keys)?.into_iter().map(|group| Some(keep(group))).collect();
        let state = filter_record_batch(state, &mine)?;
        let columns: Vec<ArrayRef> = keys.iter().map(|key| state.column(*key).clone()).collect();
        self.number(&columns, state.num_rows())?;
        let numbers = std::mem::take(&mut self.numbers);
        let number = |column: usize| state.column(column).as_primitive::<Int64Type>();
        let is_closed = number(1).iter().map(|first| Some(first.is_some())).collect::<BooleanArray>();
        for row in (0..state.num_rows()).filter(|row| is_closed.value(*row)) {
            let sessions = &mut self.keys[numbers[row]];
            self.used += usize::from(sessions.is_empty());
            let closed = (number(1).value(row), number(2).value(row));
            let place = sessions.closed.partition_point(|other| *other < closed);
            sessions.closed.insert(place, closed);
            self.closed += 1;
            self.schedule(numbers[row]);
        }
        let open: Vec<usize> = (0..state.num_rows()).filter(|row| !is_closed.value(*row)).collect();
        let rows = filter_record_batch(&state, &not(&is_closed)?)?;
        let rows = RecordBatch::try_new(self.plan.input.clone(), rows.columns()[STATE_COLUMNS..].to_vec())?;
        let values = times::values(rows.column(self.plan.time_column))?.clone();
        for (place, row) in open.into_iter().enumerate() {
            let time = values[place].saturating_mul(self.factor);
            let begun = number(0).value(row);
            let row_ref = self.rows.expect(place, time);
            self.insert(numbers[row], row_ref, begun);
        }
        self.rows.add(rows);
        Ok(())
    }
}

#[async_trait]
impl Operator for SessionAssign {
    async fn batch(&mut self, _: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        self.take(&batch, out).map_err(|error| self.failed(error))
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.watermark = watermark;
        let closing = self.closing();
        if !closing.is_empty() {
            self.close(closing, out).map_err(|error| self.failed(error))?;
        }
        self.forget_keys().map_err(|error| self.failed(error))
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        self.state().map_err(|error| self.failed(error))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        self.take_back(state, keep).map_err(|error| self.failed(error))
    }

    fn state_size(&self) -> StateSize {
        let (rows, bytes) = self.rows.size();
        let sessions = self.closed * size_of::<(i64, i64)>() + self.keys.len() * size_of::<KeySessions>();
        StateSize {
            rows: rows + self.closed,
            bytes: bytes + sessions + rows * size_of::<RowRef>() + self.table.bytes(),
        }
    }
}
