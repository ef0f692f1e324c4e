//! The rows of one key in their order, as positions from the key's first row on, and the frames over them.

use std::collections::VecDeque;

/// Where a frame begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// At the partition's first row; only as a start.
    Unbounded,
    /// At the row itself; in RANGE with all rows that are equal to it in ORDER BY.
    Current,
    /// So many rows, or units of the event time, after the row; before it where negative.
    Offset(i64),
}

/// A frame: which rows around a row a function sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// ROWS; otherwise RANGE.
    pub(crate) rows: bool,
    pub(crate) start: Bound,
    pub(crate) end: Bound,
}

/// What is known of each released row, by slot.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The event time, in the column's unit.
    pub(super) times: Vec<i64>,
    /// The how-manieth group of rows that are equal in ORDER BY it is in, from 1.
    pub(super) groups: Vec<u64>,
    /// The position of that group's first row.
    pub(super) starts: Vec<u64>,
    /// A number that grows in the order of release.
    pub(super) orders: Vec<u64>,
}

impl Facts {
    pub(super) fn grow(&mut self, slots: usize) {
        if self.times.len() < slots {
            self.times.resize(slots, 0);
            self.groups.resize(slots, 0);
            self.starts.resize(slots, 0);
            self.orders.resize(slots, 0);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.times.capacity() * 4 * size_of::<u64>()
    }
}

/// The rows of one key.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// The rows that are kept, in their order.
    pub(super) slots: VecDeque<u32>,
    /// The position of the first of them.
    pub(super) base: u64,
    /// The position of the first row that has not come out.
    pub(super) next: u64,
    /// Before this position all rows within RANGE … FOLLOWING have come.
    pub(super) cleared: u64,
    /// How many groups of rows that are equal in ORDER BY there have been.
    pub(super) groups: u64,
    /// The position of the newest group's first row.
    pub(super) group_start: u64,
    /// In which run the newest row came, and its number there.
    pub(super) newest: (u64, u32),
}

impl Sequence {
    /// The position of the next row to come.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// The slot of the row at `position`, which is kept.
    #[inline]
    pub(super) fn slot(&self, position: u64) -> u32 {
        self.slots[(position - self.base) as usize]
    }

    /// The position of the first kept row whose time is not before `time`.
    fn first_from(&self, facts: &Facts, time: i64) -> u64 {
        self.base + self.slots.partition_point(|slot| facts.times[*slot as usize] < time) as u64
    }

    /// The position of the first kept row behind a group of equal rows.
    fn first_behind(&self, facts: &Facts, group: u64) -> u64 {
        self.base + self.slots.partition_point(|slot| facts.groups[*slot as usize] <= group) as u64
    }
}

impl Frame {
    /// The positions that the frame of the row at `position` begins with and ends before.
    #[inline]
    pub(super) fn bounds(&self, sequence: &Sequence, facts: &Facts, position: u64) -> (u64, u64) {
        let end = sequence.end();
        if self.rows {
            let start = match self.start {
                Bound::Unbounded => 0,
                Bound::Current => position,
                Bound::Offset(offset) => position.saturating_add_signed(offset).min(end),
            };
            let last = match self.end {
                Bound::Offset(offset) => (position + 1).saturating_add_signed(offset).min(end),
                Bound::Current | Bound::Unbounded => position + 1,
            };
            return (start, last);
        }
        let slot = sequence.slot(position) as usize;
        let time = facts.times[slot];
        let start = match self.start {
            Bound::Unbounded => 0,
            Bound::Current => facts.starts[slot],
            Bound::Offset(offset) => sequence.first_from(facts, time.saturating_add(offset)),
        };
        let last = match self.end {
            Bound::Offset(offset) => sequence.first_from(facts, time.saturating_add(offset).saturating_add(1)),
            Bound::Current | Bound::Unbounded => {
                let group = facts.groups[slot];
                let alone = position + 1 == end || facts.groups[sequence.slot(position + 1) as usize] != group;
                if alone { position + 1 } else { sequence.first_behind(facts, group) }
            }
        };
        (start, last)
    }

    /// The first position that the frame of a row that has not come out can begin with; rows to come are not before
    /// `limit`. For a frame without start: none.
    pub(super) fn needed(&self, sequence: &Sequence, facts: &Facts, limit: i64) -> u64 {
        let next = sequence.next;
        let known = (next < sequence.end()).then(|| sequence.slot(next) as usize);
        match (self.start, self.rows) {
            (Bound::Unbounded, _) => u64::MAX,
            (Bound::Current, true) => next,
            (Bound::Current, false) => known.map_or(next, |slot| facts.starts[slot]),
            (Bound::Offset(offset), true) => next.saturating_add_signed(offset),
            (Bound::Offset(offset), false) => {
                let time = known.map_or(limit, |slot| facts.times[slot]);
                sequence.first_from(facts, time.saturating_add(offset))
            }
        }
    }

    /// The most rows that it can hold, where that is fixed.
    pub(super) fn width(&self) -> Option<u64> {
        let offset = |bound: Bound| match bound {
            Bound::Unbounded => None,
            Bound::Current => Some(0),
            Bound::Offset(offset) => Some(offset),
        };
        let (start, end) = (offset(self.start)?, offset(self.end)?);
        self.rows.then(|| (end.saturating_sub(start) + 1).max(0).unsigned_abs())
    }

    /// True where it begins with the partition.
    pub(crate) fn grows(&self) -> bool {
        self.start == Bound::Unbounded
    }
}
