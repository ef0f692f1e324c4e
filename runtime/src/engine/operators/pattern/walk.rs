//! Takes the search of one partition as far as its rows and the watermark allow.

use datafusion::common::Result as DataFusionResult;

use crate::engine::operators::pattern::output::Gathered;
use crate::engine::operators::pattern::rows::RowRef;
use crate::engine::operators::pattern::search::{Failure, Found, Search, Step, View, WAYS_MAX};
use crate::engine::operators::pattern::{Skip, Variables};

/// One partition, searched.
pub(super) struct Walk<'a> {
    pub(super) view: View<'a>,
    pub(super) watermark: i64,
    /// How many rows behind a match its measures look at.
    pub(super) rows_after: usize,
    pub(super) start: u64,
    pub(super) search: Option<Search>,
    pub(super) matches: i64,
    pub(super) gathered: &'a mut Gathered,
    pub(super) failures: &'a mut Vec<Failure>,
}

/// Whether a search can go on.
enum Progress {
    Done,
    /// Only with further rows, or with this watermark.
    Waits(i64),
}

impl Walk<'_> {
    /// Searches from one row after the other. Returns the watermark that it waits for.
    pub(super) fn run(&mut self) -> DataFusionResult<Option<i64>> {
        while let Some(first) = self.view.rows.get(self.start) {
            if self.search.is_none() && self.view.starts_nothing(first) {
                self.start += 1;
                continue;
            }
            if let Progress::Waits(watermark) = self.search(first)? {
                return Ok(Some(watermark));
            }
            let found = self.search.as_ref().and_then(Search::found);
            let next = match &found {
                None => self.start + 1,
                Some(found) => {
                    let last = self.start + found.variables.len() as u64 - 1;
                    if let Progress::Waits(watermark) = self.knows_after(last, self.rows_after) {
                        return Ok(Some(watermark));
                    }
                    self.matches += 1;
                    self.gathered.add(&self.view, self.start, found, self.matches)?;
                    self.skip(first, found)
                }
            };
            self.search = None;
            self.start = next;
        }
        Ok(None)
    }

    /// Searches from the row `first` until it is known which match starts there.
    fn search(&mut self, first: RowRef) -> DataFusionResult<Progress> {
        let (view, places) = (&self.view, &self.view.plan.automaton.start);
        let search = self.search.get_or_insert_with(|| Search::new(self.start, view.conditions, places));
        let end = first.time.saturating_add(view.plan.within_ns);
        while !search.is_done() {
            let Some(row) = view.rows.get(search.next) else {
                if self.watermark >= end {
                    search.close();
                    break;
                }
                return Ok(Progress::Waits(end));
            };
            if row.time >= end {
                search.close();
                break;
            }
            let next = search.next;
            if let Progress::Waits(watermark) = self.view.knows_after(self.watermark, next, view.conditions.rows_after)
            {
                return Ok(Progress::Waits(watermark));
            }
            if let Step::TooManyWays = search.step(view, self.failures)? {
                let reason = format!(
                    "more than {WAYS_MAX} partial matches start at this row: no match is looked for from it; let the \
                     conditions tell rows apart by themselves, or make WITHIN shorter"
                );
                self.failures.push(Failure { reason, cell: first.cell() });
                *search = Search::new(self.start, view.conditions, &[]);
            }
        }
        Ok(Progress::Done)
    }

    fn knows_after(&self, row: u64, rows_after: usize) -> Progress {
        self.view.knows_after(self.watermark, row, rows_after)
    }

    /// The row at which the next match may start.
    fn skip(&mut self, first: RowRef, found: &Found) -> u64 {
        let taken = |of: Variables| move |variable: &u8| of & 1 << *variable != 0;
        let row = match self.view.plan.skip {
            Skip::PastLastRow => Some(found.variables.len()),
            Skip::ToNextRow => Some(1),
            Skip::ToFirst(of) => found.variables.iter().position(taken(of)),
            Skip::ToLast(of) => found.variables.iter().rposition(taken(of)),
        };
        let wrong = match row {
            Some(0) => {
                "AFTER MATCH SKIP leads to the first row of the match that starts here, which would be found \
                        again for ever: the search goes on from the next row"
            }
            None => {
                "AFTER MATCH SKIP names a variable that has no row in the match that starts here: the search goes \
                     on from the next row"
            }
            Some(row) => return self.start + row as u64,
        };
        self.failures.push(Failure { reason: wrong.to_owned(), cell: first.cell() });
        self.start + 1
    }
}

impl View<'_> {
    /// Whether the `count` rows behind the row `number` are known, or known not to be near.
    fn knows_after(&self, watermark: i64, number: u64, count: usize) -> Progress {
        let end = match self.rows.get(number) {
            Some(row) if count > 0 => row.time.saturating_add(self.plan.within_ns),
            _ => return Progress::Done,
        };
        if watermark >= end || self.rows.get(number + count as u64).is_some() {
            return Progress::Done;
        }
        Progress::Waits(end)
    }
}
