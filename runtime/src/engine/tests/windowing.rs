//! Window functions for the oracles, by their definitions only: how SQL names them, which windows hold a row, and which
//! rows are late.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::row::{RowConverter, SortField};
use proptest::prelude::*;

use super::batch::{MS, Pair, ids, nanoseconds};
use super::rows::TimeType;

/// The window function. Lengths are in ticks.
#[derive(Debug, Clone)]
pub(super) enum Function {
    Tumble {
        size: i64,
        offset: i64,
    },
    Hop {
        slide: i64,
        size: i64,
        offset: i64,
    },
    Cumulate {
        step: i64,
        steps: i64,
        offset: i64,
    },
    Session {
        gap: i64,
        keys: Vec<&'static str>,
    },
    /// `date_bin` in GROUP BY.
    Bin {
        size: i64,
        origin: Option<i64>,
    },
}

const SESSION_KEYS: [&[&str]; 5] = [&[], &["k"], &["g"], &["k", "g"], &["b"]];

pub(super) fn tumble() -> impl Strategy<Value = Function> {
    (1..20_i64, -9..9_i64).prop_map(|(size, offset)| Function::Tumble { size, offset })
}

pub(super) fn hop() -> impl Strategy<Value = Function> {
    (1..9_i64, 1..20_i64, -9..9_i64).prop_map(|(slide, size, offset)| Function::Hop { slide, size, offset })
}

pub(super) fn cumulate() -> impl Strategy<Value = Function> {
    (1..6_i64, 1..6_i64, -9..9_i64).prop_map(|(step, steps, offset)| Function::Cumulate { step, steps, offset })
}

pub(super) fn session() -> impl Strategy<Value = Function> {
    (1..10_i64, 0..SESSION_KEYS.len())
        .prop_map(|(gap, keys)| Function::Session { gap, keys: SESSION_KEYS[keys].to_vec() })
}

pub(super) fn bin() -> impl Strategy<Value = Function> {
    (1..20_i64, proptest::option::of(-30..30_i64)).prop_map(|(size, origin)| Function::Bin { size, origin })
}

/// `ticks` as SQL.
pub(super) fn interval(ticks: i64, time: TimeType) -> String {
    format!("INTERVAL '{} milliseconds'", ticks * time.tick_ms())
}

/// Rows with their windows, and the ids of the late ones.
pub(super) struct Assigned {
    pub(super) pairs: Vec<Pair>,
    pub(super) late: Vec<i64>,
}

impl Function {
    /// The windowed `relation` in FROM.
    pub(super) fn from(&self, relation: &str, time: TimeType) -> String {
        let interval = |ticks: i64| interval(ticks, time);
        match self {
            Self::Tumble { size, offset } => {
                format!("TUMBLE({relation}, ts, {}, {})", interval(*size), interval(*offset))
            }
            Self::Hop { slide, size, offset } => {
                format!("HOP({relation}, ts, {}, {}, {})", interval(*slide), interval(*size), interval(*offset))
            }
            Self::Cumulate { step, steps, offset } => {
                let max = interval(step * steps);
                format!("CUMULATE({relation}, ts, {}, {max}, {})", interval(*step), interval(*offset))
            }
            Self::Session { gap, keys } => {
                let keys: Vec<String> = keys.iter().map(|key| format!(", {key}")).collect();
                format!("SESSION({relation}, ts, {}{})", interval(*gap), keys.concat())
            }
            Self::Bin { .. } => relation.to_owned(),
        }
    }

    /// True where the start of a window tells its end.
    pub(super) fn has_one_length(&self) -> bool {
        matches!(self, Self::Tumble { .. } | Self::Hop { .. } | Self::Bin { .. })
    }

    /// All windows that hold `time`, in nanoseconds.
    fn windows(&self, time: i64, tick_ns: i64) -> Vec<(i64, i64)> {
        let holding = |slide: i64, size: i64, offset: i64| -> Vec<(i64, i64)> {
            let (slide, size, offset) = (slide * tick_ns, size * tick_ns, offset * tick_ns);
            let near = (time - offset) / slide;
            let reach = size / slide + 2;
            let starts = (near - reach..near + reach).map(|number| number * slide + offset);
            starts.filter(|start| *start <= time && time < start + size).map(|start| (start, start + size)).collect()
        };
        match self {
            Self::Tumble { size, offset } => holding(*size, *size, *offset),
            Self::Hop { slide, size, offset } => holding(*slide, *size, *offset),
            Self::Cumulate { step, steps, offset } => {
                let max = step * steps;
                let (start, _) = holding(max, max, *offset)[0];
                let ends = (1..=*steps).map(|number| start + number * step * tick_ns);
                ends.filter(|end| time < *end).map(|end| (start, end)).collect()
            }
            Self::Bin { size, origin } => holding(*size, *size, origin.unwrap_or(0)),
            Self::Session { .. } => unreachable!(),
        }
    }

    /// Which rows of `rows` are in which windows, and which ones are late, by the watermark before each row.
    pub(super) fn assign(
        &self,
        rows: &RecordBatch,
        watermark: &BTreeMap<i64, Option<i64>>,
        time: TimeType,
    ) -> Assigned {
        let tick_ns = time.tick_ms() * MS;
        let times: Vec<i64> = nanoseconds(rows.column_by_name("ts").unwrap()).into_iter().map(Option::unwrap).collect();
        let all_ids = ids(rows);
        if let Self::Session { gap, keys } = self {
            // The order of the rows is that of their ids.
            let mut order: Vec<usize> = (0..times.len()).collect();
            order.sort_by_key(|row| all_ids[*row]);
            let marks: Vec<i64> = all_ids.iter().map(|id| watermark[id].unwrap_or(i64::MIN)).collect();
            let (pairs, late) = sessions(&order, &times, &marks, &keys_of(rows, keys), gap * tick_ns);
            return Assigned { pairs, late: late.into_iter().map(|row| all_ids[row]).collect() };
        }
        let (mut pairs, mut late) = (Vec::new(), Vec::new());
        for (row, time) in times.into_iter().enumerate() {
            let mark = watermark[&all_ids[row]];
            let all = self.windows(time, tick_ns);
            let open = all.iter().filter(|window| mark.is_none_or(|mark| window.1 > mark));
            let before = pairs.len();
            pairs.extend(open.map(|window| (row, *window)));
            if pairs.len() == before && !all.is_empty() {
                late.push(all_ids[row]);
            }
        }
        Assigned { pairs, late }
    }
}

/// By row: its key, as bytes.
fn keys_of(rows: &RecordBatch, keys: &[&str]) -> Vec<Vec<u8>> {
    if keys.is_empty() {
        return vec![vec![]; rows.num_rows()];
    }
    let columns: Vec<ArrayRef> = keys.iter().map(|key| rows.column_by_name(key).unwrap().clone()).collect();
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let rows = RowConverter::new(fields).unwrap().convert_columns(&columns).unwrap();
    rows.iter().map(|row| row.data().to_vec()).collect()
}

/// Sessions as first and last time: times that follow each other by less than the gap.
fn islands(mut times: Vec<i64>, gap: i64) -> Vec<(i64, i64)> {
    times.sort_unstable();
    let mut islands: Vec<(i64, i64)> = Vec::new();
    for time in times {
        match islands.last_mut().filter(|island| time - island.1 < gap) {
            Some(island) => island.1 = time,
            None => islands.push((time, time)),
        }
    }
    islands
}

/// The sessions of the on-time rows, and the late rows: all is found anew for each row.
fn sessions(order: &[usize], times: &[i64], marks: &[i64], keys: &[Vec<u8>], gap: i64) -> (Vec<Pair>, Vec<usize>) {
    // By key: the rows that are on time, and when they began.
    let mut on_time: BTreeMap<&[u8], Vec<(usize, i64)>> = BTreeMap::new();
    let mut late = Vec::new();
    for &row in order {
        let (time, mark) = (times[row], marks[row]);
        let mine = on_time.entry(&keys[row]).or_default();
        let all = islands(mine.iter().map(|(row, _)| times[*row]).collect(), gap);
        let near: Vec<(i64, i64)> = all.into_iter().filter(|(a, b)| time < b + gap && *a < time + gap).collect();
        let closed = near.iter().any(|(_, last)| last + gap <= mark);
        let begun = |(first, last): (i64, i64)| {
            let rows = mine.iter().filter(|(row, _)| (first..=last).contains(&times[*row]));
            rows.map(|(_, begun)| *begun).min().unwrap()
        };
        let joins = near.iter().any(|session| begun(*session) < time + gap);
        if closed || (time + gap <= mark && !joins) {
            late.push(row);
        } else {
            mine.push((row, mark.max(time)));
        }
    }
    let mut pairs = Vec::new();
    for mine in on_time.values() {
        for (first, last) in islands(mine.iter().map(|(row, _)| times[*row]).collect(), gap) {
            let inside = mine.iter().filter(|(row, _)| (first..=last).contains(&times[*row]));
            pairs.extend(inside.map(|(row, _)| (*row, (first, last + gap))));
        }
    }
    (pairs, late)
}
