//! Groups whose results can be asked for before they are complete.
//!
//! DataFusion's accumulators give all their groups at once and are empty afterwards. So groups lie in pages of a few,
//! each with accumulators of its own: to ask for some groups of a page, its state is taken and merged twice, into the
//! accumulators that go on and, of the groups that are wanted, into others that give their results. What that costs
//! depends on how many pages have changed, not on how many groups there are.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::{concat, take};
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use crate::engine::keyed::KeyTable;
use crate::engine::operators::aggregate::{AggregateCall, Arguments, accumulator};

/// The most groups of a page.
const PAGE_GROUPS: usize = 128;

/// Stands for "the accumulators do not know this group".
const ABSENT: u32 = u32::MAX;

/// The rows of a batch that are meant: picked, or all of them.
pub(super) type Picked<'a> = Option<&'a UInt32Array>;

/// Some groups with their accumulators.
struct Page {
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    /// By place in the page: the group's number in the accumulators, or [`ABSENT`]. They are told of a group with its
    /// first row, because they take a group without any for one that has had a value.
    numbers: Vec<u32>,
    /// How many groups the accumulators know.
    known: usize,
    /// Which groups have changed since they were given out last, by their place in the page.
    changed: Vec<u32>,
}

/// The results of some groups: their numbers, and the values of each aggregate.
pub(super) struct Results {
    pub(super) groups: Vec<u32>,
    pub(super) values: Vec<ArrayRef>,
}

/// Groups, their keys and their accumulators.
pub(super) struct Groups {
    /// `None` without keys: then there is one group.
    pub(super) table: Option<KeyTable>,
    pages: Vec<Page>,
    /// By group.
    is_changed: Vec<bool>,
}

impl Groups {
    pub(super) fn new(keyed: bool) -> Self {
        Self { table: keyed.then(KeyTable::default), pages: Vec::new(), is_changed: Vec::new() }
    }

    /// How many groups have a number.
    pub(super) fn len(&self) -> usize {
        match &self.table {
            Some(table) => table.len(),
            None => usize::from(!self.pages.is_empty()),
        }
    }

    pub(super) fn is_changed(&self, group: u32) -> bool {
        self.is_changed.get(group as usize).copied().unwrap_or(false)
    }

    pub(super) fn has_changed(&self) -> bool {
        self.pages.iter().any(|page| !page.changed.is_empty())
    }

    pub(super) fn bytes(&self) -> usize {
        let of = |page: &Page| page.accumulators.iter().map(|accumulator| accumulator.size()).sum::<usize>();
        self.table.as_ref().map_or(0, KeyTable::bytes) + self.pages.iter().map(of).sum::<usize>()
    }

    /// Marks a group as changed since it was given out last.
    pub(super) fn mark(&mut self, group: usize) {
        if group >= self.is_changed.len() {
            self.is_changed.resize(group + 1, false);
        }
        if !std::mem::replace(&mut self.is_changed[group], true)
            && let Some(page) = self.pages.get_mut(group / PAGE_GROUPS)
        {
            page.changed.push((group % PAGE_GROUPS) as u32);
        }
    }

    /// Makes pages for all groups up to the number `groups`.
    fn grow(&mut self, calls: &[AggregateCall], groups: usize) -> Result<()> {
        while self.pages.len() * PAGE_GROUPS < groups {
            let accumulators = accumulators(calls)?;
            self.pages.push(Page { accumulators, numbers: Vec::new(), known: 0, changed: Vec::new() });
        }
        Ok(())
    }

    /// Adds rows: those of `rows`, whose groups are `numbers`.
    pub(super) fn update(
        &mut self,
        calls: &[AggregateCall],
        arguments: &Arguments,
        rows: Picked<'_>,
        numbers: &[usize],
    ) -> Result<()> {
        let count = self.table.as_ref().map_or(1, KeyTable::len);
        self.grow(calls, count)?;
        for (page, rows, slots) in by_page(rows, numbers) {
            let page = &mut self.pages[page];
            let slots = page.places(&slots);
            let of = |column: &ArrayRef| match &rows {
                Some(rows) => take(column, rows, None),
                None => Ok(column.clone()),
            };
            for (call, accumulator) in page.accumulators.iter_mut().enumerate() {
                let columns = arguments.columns[call].iter().map(of).collect::<Result<Vec<_>, _>>()?;
                let filter = arguments.filters[call].as_ref().map(of).transpose()?;
                accumulator.update_batch(&columns, &slots, filter.as_ref().map(|f| f.as_boolean()), page.known)?;
            }
        }
        numbers.iter().for_each(|number| self.mark(*number));
        Ok(())
    }

    /// Adds rows of state: by aggregate its columns, and the group of each row.
    pub(super) fn merge(&mut self, calls: &[AggregateCall], states: &[Vec<ArrayRef>], numbers: &[usize]) -> Result<()> {
        let count = self.table.as_ref().map_or(1, KeyTable::len);
        self.grow(calls, count)?;
        for (page, rows, slots) in by_page(None, numbers) {
            let page = &mut self.pages[page];
            let slots = page.places(&slots);
            let of = |column: &ArrayRef| match &rows {
                Some(rows) => take(column, rows, None),
                None => Ok(column.clone()),
            };
            for (accumulator, columns) in page.accumulators.iter_mut().zip(states) {
                let columns = columns.iter().map(of).collect::<Result<Vec<_>, _>>()?;
                accumulator.merge_batch(&columns, &slots, page.known)?;
            }
        }
        Ok(())
    }

    /// The results of the groups that have changed since they were given out last, in the order of their pages.
    pub(super) fn take_changed(&mut self, calls: &[AggregateCall]) -> Result<Results> {
        let mut pieces = Pieces::new(calls.len());
        for (number, page) in self.pages.iter_mut().enumerate() {
            let changed = std::mem::take(&mut page.changed);
            if changed.is_empty() {
                continue;
            }
            let groups = changed.iter().map(|slot| number as u32 * PAGE_GROUPS as u32 + slot);
            pieces.groups.extend(groups.inspect(|group| self.is_changed[*group as usize] = false));
            let wanted = page.known(changed.into_iter());
            pieces.add(page.look(calls, &wanted)?);
        }
        pieces.finish(calls)
    }

    /// The results of `groups`, whose numbers ascend. They are forgotten.
    pub(super) fn free(&mut self, calls: &[AggregateCall], groups: &[u32]) -> Result<Results> {
        let mut pieces = Pieces::new(calls.len());
        let page_of = |group: &u32| *group as usize / PAGE_GROUPS;
        for part in groups.chunk_by(|a, b| page_of(a) == page_of(b)) {
            let page = &mut self.pages[page_of(&part[0])];
            let slots: Vec<u32> = part.iter().map(|group| group % PAGE_GROUPS as u32).collect();
            page.changed.retain(|slot| !slots.contains(slot));
            part.iter().for_each(|group| {
                if let Some(changed) = self.is_changed.get_mut(*group as usize) {
                    *changed = false;
                }
            });
            pieces.groups.extend(part);
            pieces.add(page.forget(calls, &slots)?);
        }
        pieces.finish(calls)
    }

    /// The state of `groups`, whose numbers ascend: by aggregate its columns. Nothing changes.
    pub(super) fn states(&mut self, calls: &[AggregateCall], groups: &[u32]) -> Result<Vec<Vec<ArrayRef>>> {
        let mut pieces: Vec<Vec<Vec<ArrayRef>>> = Vec::new();
        let page_of = |group: &u32| *group as usize / PAGE_GROUPS;
        for part in groups.chunk_by(|a, b| page_of(a) == page_of(b)) {
            let page = &mut self.pages[page_of(&part[0])];
            let slots = page.known(part.iter().map(|group| group % PAGE_GROUPS as u32));
            let states = page.states(calls)?;
            let pick = |columns: Vec<ArrayRef>| columns.iter().map(|column| Ok(take(column, &slots, None)?)).collect();
            pieces.push(states.into_iter().map(pick).collect::<Result<Vec<Vec<ArrayRef>>>>()?);
        }
        let mut all = Vec::with_capacity(calls.len());
        for (index, call) in calls.iter().enumerate() {
            let mut columns = Vec::new();
            for (column, field) in call.aggregate.state_fields()?.iter().enumerate() {
                let parts: Vec<&dyn Array> = pieces.iter().map(|piece| piece[index][column].as_ref()).collect();
                columns.push(match &parts[..] {
                    [] => arrow::array::new_empty_array(field.data_type()),
                    parts => concat(parts)?,
                });
            }
            all.push(columns);
        }
        Ok(all)
    }
}

impl Page {
    /// The numbers in the accumulators of the groups at `slots`, which all have rows now.
    fn places(&mut self, slots: &[usize]) -> Vec<usize> {
        let mut number = |slot: usize| {
            if slot >= self.numbers.len() {
                self.numbers.resize(slot + 1, ABSENT);
            }
            if self.numbers[slot] == ABSENT {
                self.numbers[slot] = self.known as u32;
                self.known += 1;
            }
            self.numbers[slot] as usize
        };
        slots.iter().map(|slot| number(*slot)).collect()
    }

    /// The same of groups that have had rows.
    fn known(&self, slots: impl Iterator<Item = u32>) -> UInt32Array {
        UInt32Array::from_iter_values(slots.map(|slot| self.numbers[slot as usize]))
    }

    /// The state of all groups, which stay.
    fn states(&mut self, calls: &[AggregateCall]) -> Result<Vec<Vec<ArrayRef>>> {
        let mut kept = accumulators(calls)?;
        let slots: Vec<usize> = (0..self.known).collect();
        let mut states = Vec::with_capacity(calls.len());
        for (accumulator, kept) in self.accumulators.iter_mut().zip(&mut kept) {
            let state = accumulator.state(EmitTo::All)?;
            kept.merge_batch(&state, &slots, self.known)?;
            states.push(state);
        }
        self.accumulators = kept;
        Ok(states)
    }

    /// The results of the groups with these numbers, which stay.
    fn look(&mut self, calls: &[AggregateCall], numbers: &UInt32Array) -> Result<Vec<ArrayRef>> {
        let states = self.states(calls)?;
        states.iter().zip(calls).map(|(state, call)| evaluated(call, state, numbers)).collect()
    }

    /// The results of the groups at `slots`, which are as new afterwards.
    fn forget(&mut self, calls: &[AggregateCall], slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let freed = self.known(slots.iter().copied());
        slots.iter().for_each(|slot| self.numbers[*slot as usize] = ABSENT);
        let mut kept = Vec::new();
        for number in self.numbers.iter_mut().filter(|number| **number != ABSENT) {
            kept.push(std::mem::replace(number, kept.len() as u32));
        }
        let kept = UInt32Array::from(kept);
        let mut next = accumulators(calls)?;
        let mut results = Vec::with_capacity(calls.len());
        let places: Vec<usize> = (0..kept.len()).collect();
        for ((call, accumulator), next) in calls.iter().zip(&mut self.accumulators).zip(&mut next) {
            let state = accumulator.state(EmitTo::All)?;
            results.push(evaluated(call, &state, &freed)?);
            if !places.is_empty() {
                let state = state.iter().map(|column| take(column, &kept, None)).collect::<Result<Vec<_>, _>>()?;
                next.merge_batch(&state, &places, places.len())?;
            }
        }
        self.known = places.len();
        self.accumulators = next;
        Ok(results)
    }
}

/// The results of the groups with these numbers in a page's `state` of `call`.
fn evaluated(call: &AggregateCall, state: &[ArrayRef], numbers: &UInt32Array) -> Result<ArrayRef> {
    let state = state.iter().map(|column| take(column, numbers, None)).collect::<Result<Vec<_>, _>>()?;
    let mut shown = accumulator(&call.aggregate)?;
    shown.merge_batch(&state, &(0..numbers.len()).collect::<Vec<_>>(), numbers.len())?;
    shown.evaluate(EmitTo::All)
}

fn accumulators(calls: &[AggregateCall]) -> Result<Vec<Box<dyn GroupsAccumulator>>> {
    calls.iter().map(|call| accumulator(&call.aggregate)).collect()
}

/// Results of several pages.
struct Pieces {
    groups: Vec<u32>,
    /// By aggregate.
    values: Vec<Vec<ArrayRef>>,
}

impl Pieces {
    fn new(calls: usize) -> Self {
        Self { groups: Vec::new(), values: vec![Vec::new(); calls] }
    }

    fn add(&mut self, values: Vec<ArrayRef>) {
        self.values.iter_mut().zip(values).for_each(|(pieces, values)| pieces.push(values));
    }

    fn finish(self, calls: &[AggregateCall]) -> Result<Results> {
        let whole = |(pieces, call): (Vec<ArrayRef>, &AggregateCall)| match &pieces[..] {
            [] => Ok(arrow::array::new_empty_array(call.aggregate.field().data_type())),
            [one] => Ok(Arc::clone(one)),
            pieces => Ok(concat(&pieces.iter().map(AsRef::as_ref).collect::<Vec<_>>())?),
        };
        let values = self.values.into_iter().zip(calls).map(whole).collect::<Result<Vec<_>>>()?;
        Ok(Results { groups: self.groups, values })
    }
}

/// The rows of each page: which ones they are, and their places in the page.
fn by_page(rows: Picked<'_>, numbers: &[usize]) -> Vec<(usize, Option<UInt32Array>, Vec<usize>)> {
    let (Some(first), Some(last)) = (numbers.iter().min(), numbers.iter().max()) else { return vec![] };
    let (first, last) = (first / PAGE_GROUPS, last / PAGE_GROUPS);
    if first == last {
        let slots = numbers.iter().map(|number| number % PAGE_GROUPS).collect();
        return vec![(first, rows.cloned(), slots)];
    }
    // Rows keep their order within a page.
    let mut places: Vec<(Vec<u32>, Vec<usize>)> = vec![Default::default(); last - first + 1];
    for (index, number) in numbers.iter().enumerate() {
        let (picked, slots) = &mut places[number / PAGE_GROUPS - first];
        picked.push(rows.map_or(index as u32, |rows| rows.value(index)));
        slots.push(number % PAGE_GROUPS);
    }
    let touched = places.into_iter().enumerate().filter(|(_, (picked, _))| !picked.is_empty());
    touched.map(|(page, (picked, slots))| (first + page, Some(UInt32Array::from(picked)), slots)).collect()
}
