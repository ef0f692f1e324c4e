//! The search for the match that starts at one row: all ways through the pattern side by side, the preferred first.
//!
//! All ways have taken the same rows; they differ in the variables that these were taken for. Of two ways at the same
//! place of the pattern that no condition can tell apart, only the preferred one is kept. So their number is that of the
//! pattern's places, except where conditions look at the rows matched so far.

use std::collections::{HashMap, HashSet};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use datafusion::common::{Result, ScalarValue};

use crate::engine::operators::pattern::aggregates::{Aggregates, Lists};
use crate::engine::operators::pattern::automaton::{ACCEPT, Place};
use crate::engine::operators::pattern::evaluate::{evaluate, truths};
use crate::engine::operators::pattern::rows::{Cell, Chunks, Of, PartitionRows, RowRef};
use crate::engine::operators::pattern::{Expression, From, Input, PatternPlan, Variables};

/// The most ways that the search from one row may have at the same time. A row with more starts no match: it goes to the
/// dead letter, and the search goes on from the next row.
pub(crate) const WAYS_MAX: usize = 10_000;

/// No row.
const NONE: u32 = u32::MAX;

/// What is remembered of a way for the conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Track {
    /// The last row taken for one of these variables.
    Last(Variables),
    /// The first one.
    First(Variables),
    /// All of them, as a list in [`Search::lists`].
    All(Variables),
}

/// A row of the match, as seen from the row that is tried.
#[derive(Debug, Clone, Copy)]
enum Anchor {
    /// So many rows before the one that is tried.
    Back(u32),
    /// So many rows after the first one.
    FromStart(u32),
    /// The one that is remembered.
    Remembered(usize),
    /// The one that is remembered, or the one that is tried.
    RememberedOrTried(usize),
    /// So many after the first of a list; the row that is tried is its last where `tried`.
    ListFirst { track: usize, number: u32, tried: bool },
    /// So many before the last of a list.
    ListLast { track: usize, number: u32, tried: bool },
}

/// Rows that an aggregate is over.
#[derive(Debug, Clone, Copy)]
enum Over {
    All,
    List { track: usize, tried: bool },
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Value { column: usize, anchor: Anchor, offset: i64 },
    Aggregate { call: usize, over: Over },
}

/// How the condition of a variable is judged.
enum Condition {
    Always,
    /// Told of the row before ([`Chunks::holds`]).
    Local,
    /// Told of the row and the way.
    OfWay {
        expression: Expression,
        sources: Vec<Source>,
    },
}

/// The conditions, and what they need to know of a way.
pub(super) struct Conditions {
    by_variable: Vec<Condition>,
    tracks: Vec<Track>,
    /// The most rows behind the one that is tried that a condition looks at.
    pub(super) rows_after: usize,
}

impl Conditions {
    pub(super) fn new(plan: &PatternPlan) -> Self {
        let mut tracks = Vec::new();
        let by_variable = plan.conditions.iter().enumerate().map(|(variable, condition)| match condition {
            None => Condition::Always,
            Some(expression) if expression.is_local(variable as u8) => Condition::Local,
            Some(expression) => {
                let sources = expression.inputs.iter().map(|input| source(input, variable as u8, &mut tracks));
                Condition::OfWay { sources: sources.collect(), expression: expression.clone() }
            }
        });
        let by_variable = by_variable.collect();
        let rows_after = plan.conditions.iter().flatten().map(Expression::rows_after).max().unwrap_or(0);
        Self { by_variable, tracks, rows_after }
    }
}

/// The number of `track` among `tracks`, where it is added if it is new.
fn number(tracks: &mut Vec<Track>, track: Track) -> usize {
    tracks.iter().position(|known| *known == track).unwrap_or_else(|| {
        tracks.push(track);
        tracks.len() - 1
    })
}

/// Where the condition of `variable` finds `input`.
fn source(input: &Input, variable: u8, tracks: &mut Vec<Track>) -> Source {
    let tried = |of: Variables| of & 1 << variable != 0;
    match *input {
        Input::Value { column, of, from, offset, .. } => {
            let anchor = match (of, from) {
                (None, From::First(number)) => Anchor::FromStart(number),
                (None, From::Last(number)) => Anchor::Back(number),
                (Some(of), From::Last(0)) if tried(of) => Anchor::Back(0),
                (Some(of), From::Last(0)) => Anchor::Remembered(number(tracks, Track::Last(of))),
                (Some(of), From::First(0)) if tried(of) => Anchor::RememberedOrTried(number(tracks, Track::First(of))),
                (Some(of), From::First(0)) => Anchor::Remembered(number(tracks, Track::First(of))),
                (Some(of), From::First(nth)) => {
                    Anchor::ListFirst { track: number(tracks, Track::All(of)), number: nth, tried: tried(of) }
                }
                (Some(of), From::Last(nth)) => {
                    Anchor::ListLast { track: number(tracks, Track::All(of)), number: nth, tried: tried(of) }
                }
            };
            Source::Value { column, anchor, offset }
        }
        Input::Aggregate { call, of, .. } => {
            let over = match of {
                None => Over::All,
                Some(of) => Over::List { track: number(tracks, Track::All(of)), tried: tried(of) },
            };
            Source::Aggregate { call, over }
        }
        // Neither can stand in a condition: the name is a constant there, and the number is refused.
        Input::Classifier { .. } | Input::MatchNumber => {
            Source::Value { column: 0, anchor: Anchor::Back(NONE), offset: 0 }
        }
    }
}

/// What the search looks at.
pub(super) struct View<'a> {
    pub(super) plan: &'a PatternPlan,
    pub(super) conditions: &'a Conditions,
    pub(super) chunks: &'a Chunks,
    pub(super) rows: &'a PartitionRows,
}

impl View<'_> {
    pub(super) fn cell(&self, number: u64) -> Option<Cell> {
        self.rows.get(number).map(RowRef::cell)
    }

    /// True where it can be told of the row alone that no match starts with it.
    pub(super) fn starts_nothing(&self, row: RowRef) -> bool {
        let places = self.plan.automaton.start.iter().take_while(|place| **place != ACCEPT);
        places.map(|place| self.plan.automaton.variable[*place as usize]).all(|variable| {
            let condition = &self.conditions.by_variable[usize::from(variable)];
            matches!(condition, Condition::Local) && !self.chunks.holds(row.cell(), variable)
        })
    }

    /// The values of a computed column for these rows.
    pub(super) fn column(&self, column: usize, cells: &[Option<Cell>]) -> Result<ArrayRef> {
        let data_type = self.plan.columns[column].data_type(&self.plan.input)?;
        self.chunks.column(Of::Computed(column), cells, &data_type)
    }
}

/// One way through the pattern.
#[derive(Debug, Clone, Copy)]
struct Way {
    place: Place,
    /// The variables of its rows: an index in [`Search::paths`].
    path: u32,
}

/// A match: from the search's starting row on, the variable of each row.
pub(super) struct Found {
    pub(super) variables: Vec<u8>,
}

/// A condition that failed, and the row for which it did.
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) cell: Cell,
}

/// The search that starts at one row.
pub(super) struct Search {
    /// The number of the row that it starts at.
    start: u64,
    /// The number of the row that is tried next.
    pub(super) next: u64,
    ways: Vec<Way>,
    /// What is remembered of the ways, one after the other.
    remembered: Vec<u32>,
    /// The variable of a row, and the index of those before it. The first one is that of no row.
    paths: Vec<(u32, u8)>,
    /// A row, and the list of those before it. The first one is the empty list.
    lists: Vec<(u32, u32)>,
    aggregates: Aggregates,
    kept: Kept,
    /// The preferred match so far: its path and number of rows.
    best: Option<(u32, u64)>,
}

/// How far a step has come.
pub(super) enum Step {
    Done,
    /// There are more than [`WAYS_MAX`] ways.
    TooManyWays,
}

impl Search {
    /// Starts at the row `start`.
    pub(super) fn new(start: u64, conditions: &Conditions, places: &[Place]) -> Self {
        let mut search = Self {
            start,
            next: start,
            ways: vec![],
            remembered: vec![],
            paths: vec![(0, 0)],
            lists: vec![(0, NONE)],
            aggregates: Aggregates::default(),
            kept: Kept::default(),
            best: None,
        };
        let fresh = conditions.tracks.iter().map(|track| if matches!(track, Track::All(_)) { 0 } else { NONE });
        let fresh: Vec<u32> = fresh.collect();
        for place in places {
            if *place == ACCEPT {
                search.best = Some((0, 0));
                break;
            }
            search.ways.push(Way { place: *place, path: 0 });
            search.remembered.extend(&fresh);
        }
        search
    }

    /// True where nothing can change the result any more.
    pub(super) fn is_done(&self) -> bool {
        self.ways.is_empty()
    }

    /// No further row can be part of the match.
    pub(super) fn close(&mut self) {
        self.ways.clear();
    }

    /// The match, where there is one that is not empty.
    pub(super) fn found(&self) -> Option<Found> {
        let (mut path, rows) = self.best.filter(|(_, rows)| *rows > 0)?;
        let mut variables = Vec::with_capacity(usize::try_from(rows).ok()?);
        while path != 0 {
            let (before, variable) = self.paths[path as usize];
            variables.push(variable);
            path = before;
        }
        variables.reverse();
        Some(Found { variables })
    }

    /// Tries the next row on all ways.
    pub(super) fn step(&mut self, view: &View<'_>, failures: &mut Vec<Failure>) -> Result<Step> {
        let row = self.next;
        let Some(cell) = view.cell(row) else { return Ok(Step::Done) };
        let verdicts = self.judge_ways(view, row, cell, failures)?;
        let relative = u32::try_from(row - self.start).unwrap_or(NONE);
        let width = view.conditions.tracks.len();
        let mut kept = std::mem::take(&mut self.kept);
        kept.ways.clear();
        let (spare_ways, spare_memory) = std::mem::take(&mut kept.spare);
        let mut ways = std::mem::replace(&mut self.ways, spare_ways);
        let mut remembered = std::mem::replace(&mut self.remembered, spare_memory);
        // Of the lists that this row was added to.
        let mut longer: HashMap<u32, u32> = HashMap::new();
        'ways: for (index, way) in ways.iter().enumerate() {
            let variable = view.plan.automaton.variable[way.place as usize];
            let holds = match &view.conditions.by_variable[usize::from(variable)] {
                Condition::Always => true,
                Condition::Local => view.chunks.holds(cell, variable),
                Condition::OfWay { .. } => verdicts[index],
            };
            if !holds {
                continue;
            }
            let path = self.paths.len() as u32;
            self.paths.push((way.path, variable));
            kept.fresh.clear();
            for (track, before) in view.conditions.tracks.iter().zip(&remembered[index * width..]) {
                kept.fresh.push(self.remember(*track, *before, variable, relative, &mut longer));
            }
            for place in &view.plan.automaton.next[way.place as usize] {
                if *place == ACCEPT {
                    // What follows is less preferred than this.
                    self.best = Some((path, u64::from(relative) + 1));
                    break 'ways;
                }
                if kept.is_new(*place, row + 1) {
                    self.ways.push(Way { place: *place, path });
                    self.remembered.extend(&kept.fresh);
                }
            }
            if self.ways.len() > WAYS_MAX {
                return Ok(Step::TooManyWays);
            }
        }
        ways.clear();
        remembered.clear();
        kept.spare = (ways, remembered);
        self.kept = kept;
        self.next += 1;
        self.aggregates.keep(self.remembered.iter().copied(), self.remembered.len() * view.plan.calls.len());
        Ok(Step::Done)
    }

    /// What `track` remembers after the row `relative` was taken for `variable`.
    fn remember(
        &mut self,
        track: Track,
        before: u32,
        variable: u8,
        relative: u32,
        longer: &mut HashMap<u32, u32>,
    ) -> u32 {
        let (Track::Last(of) | Track::First(of) | Track::All(of)) = track;
        if of & 1 << variable == 0 {
            return before;
        }
        match track {
            Track::Last(_) => relative,
            Track::First(_) => {
                if before == NONE {
                    relative
                } else {
                    before
                }
            }
            Track::All(_) => *longer.entry(before).or_insert_with(|| {
                self.lists.push((before, relative));
                self.lists.len() as u32 - 1
            }),
        }
    }

    /// By way: whether its condition holds for the row, where that depends on the way.
    fn judge_ways(&mut self, view: &View<'_>, row: u64, cell: Cell, failures: &mut Vec<Failure>) -> Result<Vec<bool>> {
        let mut verdicts = Vec::new();
        for (variable, condition) in view.conditions.by_variable.iter().enumerate() {
            let Condition::OfWay { expression, sources } = condition else { continue };
            let is_asked = |way: &Way| usize::from(view.plan.automaton.variable[way.place as usize]) == variable;
            let asked: Vec<usize> = (0..self.ways.len()).filter(|index| is_asked(&self.ways[*index])).collect();
            if asked.is_empty() {
                continue;
            }
            verdicts.resize(self.ways.len(), false);
            let mut aggregates = std::mem::take(&mut self.aggregates);
            let truths = self.judge(view, row, expression, sources, &asked, &mut aggregates, &mut |reason| {
                failures.push(Failure { reason, cell });
            });
            self.aggregates = aggregates;
            let truths = truths?;
            asked.iter().zip(&truths).for_each(|(way, holds)| verdicts[*way] = holds == Some(true));
        }
        verdicts.resize(self.ways.len(), false);
        Ok(verdicts)
    }

    /// Whether the condition holds for the row on the ways `asked`.
    #[expect(clippy::too_many_arguments, reason = "a condition, where it is judged, and what helps")]
    fn judge(
        &self,
        view: &View<'_>,
        row: u64,
        expression: &Expression,
        sources: &[Source],
        asked: &[usize],
        aggregates: &mut Aggregates,
        failed: &mut dyn FnMut(String),
    ) -> Result<BooleanArray> {
        let width = view.conditions.tracks.len();
        let memory = |way: usize, track: usize| self.remembered[way * width + track];
        let columns = sources.iter().map(|source| match *source {
            Source::Value { column, anchor, offset } => {
                let cells = asked.iter().map(|way| {
                    let number = self.anchor(row, anchor, |track| memory(*way, track))?;
                    view.rows.near(number, offset, view.plan.within_ns).map(RowRef::cell)
                });
                view.column(column, &cells.collect::<Vec<_>>())
            }
            Source::Aggregate { call, over: Over::All } => {
                // It is the same on all ways.
                aggregates.over_all(view, call, self.start, row)?.to_array_of_size(asked.len())
            }
            Source::Aggregate { call, over: Over::List { track, tried } } => {
                let lists = Lists { nodes: &self.lists, start: self.start };
                let tried = tried.then_some(row);
                let values =
                    asked.iter().map(|way| aggregates.over_list(view, call, &lists, memory(*way, track), tried));
                ScalarValue::iter_to_array(values.collect::<Result<Vec<_>>>()?)
            }
        });
        let rows = RecordBatchOptions::new().with_row_count(Some(asked.len()));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let batch = RecordBatch::try_new_with_options(expression.schema.clone(), columns, &rows)?;
        let evaluated = evaluate(expression.expression.as_ref(), &batch)?;
        evaluated.failed.into_iter().for_each(|(_, reason)| failed(reason));
        Ok(truths(&evaluated.values))
    }

    /// The number of the row that `anchor` means.
    fn anchor(&self, row: u64, anchor: Anchor, memory: impl Fn(usize) -> u32) -> Option<u64> {
        let absolute = |relative: u32| (relative != NONE).then(|| self.start + u64::from(relative));
        let in_match = |number: u64| (self.start..=row).contains(&number).then_some(number);
        match anchor {
            Anchor::Back(count) => in_match(row.checked_sub(u64::from(count))?),
            Anchor::FromStart(count) => in_match(self.start + u64::from(count)),
            Anchor::Remembered(track) => absolute(memory(track)),
            Anchor::RememberedOrTried(track) => absolute(memory(track)).or(Some(row)),
            Anchor::ListFirst { track, number, tried } => {
                let list = self.list(row, memory(track), tried);
                list.get(number as usize).copied()
            }
            Anchor::ListLast { track, number, tried } => {
                let list = self.list(row, memory(track), tried);
                list.len().checked_sub(number as usize + 1).map(|index| list[index])
            }
        }
    }

    /// The numbers of the rows of a list, in their order, and the row that is tried where it is one of them.
    fn list(&self, row: u64, mut list: u32, tried: bool) -> Vec<u64> {
        let mut rows: Vec<u64> = if tried { vec![row] } else { vec![] };
        while list != 0 {
            let (before, relative) = self.lists[list as usize];
            rows.push(self.start + u64::from(relative));
            list = before;
        }
        rows.reverse();
        rows
    }
}

/// What tells the ways after a step apart: their places, and what is remembered of them.
#[derive(Default)]
struct Kept {
    /// By place: the step at which a way has come there last. Where nothing is remembered.
    places: Vec<u64>,
    /// Where something is.
    ways: HashSet<Vec<u32>>,
    /// The ways and memories of the step before, for their memory.
    spare: (Vec<Way>, Vec<u32>),
    /// What is remembered of the way at hand.
    fresh: Vec<u32>,
}

impl Kept {
    /// True where no way has come to `place` at `step` with what is remembered now.
    fn is_new(&mut self, place: Place, step: u64) -> bool {
        if self.fresh.is_empty() {
            let place = place as usize;
            if self.places.len() <= place {
                self.places.resize(place + 1, 0);
            }
            return std::mem::replace(&mut self.places[place], step) != step;
        }
        let way = std::iter::once(place).chain(self.fresh.iter().copied()).collect();
        self.ways.insert(way)
    }
}
