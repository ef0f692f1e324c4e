//! Rows out, by the number of their message: how late they are, and that none is missing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Result};
use crate::schedule::Schedule;

/// Latencies are kept to three digits, up to this many microseconds.
const LATENCY_MAX_US: u64 = 600_000_000;
const DIGITS: u8 = 3;

/// What a row says of itself.
#[derive(Deserialize)]
struct Row {
    seq: u64,
}

/// The rows that have come.
#[derive(Debug)]
pub(crate) struct Arrivals {
    schedule: Schedule,
    /// Messages before this one are not measured.
    measured_from: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seen: Vec<bool>,
    came: u64,
    repeated: u64,
    latencies_us: Histogram<u64>,
}

impl Arrivals {
    /// Expects the rows of messages `0..count`.
    pub(crate) fn new(schedule: Schedule, count: u64, measured_from: u64) -> Result<Self> {
        let latencies_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, DIGITS)?;
        let state = State { seen: vec![false; count as usize], came: 0, repeated: 0, latencies_us };
        Ok(Self { schedule, measured_from, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a row, as JSON, that came at `at`.
    pub(crate) fn row(&self, json: &[u8], at: Instant) -> Result<()> {
        let row: Row =
            serde_json::from_slice(json).context(|| format!("a row is {}", String::from_utf8_lossy(json)))?;
        self.arrived(row.seq, at);
        Ok(())
    }

    fn arrived(&self, number: u64, at: Instant) {
        let mut state = self.state();
        match state.seen.get_mut(number as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => {
                state.repeated += 1;
                return;
            }
        }
        state.came += 1;
        if number >= self.measured_from {
            let late_us = self.schedule.since_due(number, at).as_micros() as u64;
            state.latencies_us.saturating_record(late_us.max(1));
        }
    }

    /// Waits until all have come, or until none has come for `patience`; whether all have.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let (mut last, mut came) = (Instant::now(), 0);
        while last.elapsed() < patience {
            let state = self.state();
            if state.came == state.seen.len() as u64 {
                return true;
            }
            if state.came > came {
                (last, came) = (Instant::now(), state.came);
            }
            drop(state);
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Rows that have not come.
    pub(crate) fn missing(&self) -> u64 {
        let state = self.state();
        state.seen.len() as u64 - state.came
    }

    /// Rows that came once more.
    pub(crate) fn repeated(&self) -> u64 {
        self.state().repeated
    }

    /// The latencies so far.
    pub(crate) fn percentiles(&self) -> Percentiles {
        Percentiles::of(&self.state().latencies_us)
    }
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Percentiles {
    fn of(latencies_us: &Histogram<u64>) -> Self {
        let ms = |us: u64| us as f64 / 1e3;
        Self {
            count: latencies_us.len(),
            p50_ms: ms(latencies_us.value_at_quantile(0.5)),
            p99_ms: ms(latencies_us.value_at_quantile(0.99)),
            p999_ms: ms(latencies_us.value_at_quantile(0.999)),
            max_ms: ms(latencies_us.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_counted_from_when_messages_were_due() {
        let start = Instant::now();
        let arrivals = Arrivals::new(Schedule::new(start, 1_000), 1_100, 100).unwrap();
        for number in 0..1_100_u64 {
            // Message n of those measured takes n/10 milliseconds.
            let late = Duration::from_micros(number.saturating_sub(100) * 100);
            let at = start + Duration::from_millis(number) + late;
            arrivals.row(format!(r#"{{"seq":{number},"temp":1}}"#).as_bytes(), at).unwrap();
        }
        let found = arrivals.percentiles();
        assert_eq!((found.count, arrivals.missing(), arrivals.repeated()), (1_000, 0, 0));
        // Three digits are kept.
        for (value, expected) in
            [(found.p50_ms, 50.0), (found.p99_ms, 99.0), (found.p999_ms, 99.9), (found.max_ms, 99.9)]
        {
            assert!((value - expected).abs() < 0.3, "{found:?}");
        }
    }

    #[test]
    fn missing_and_repeated_rows_are_told() {
        let now = Instant::now();
        let arrivals = Arrivals::new(Schedule::new(now, 1), 3, 0).unwrap();
        for seq in [0, 2, 2, 7] {
            arrivals.row(format!(r#"{{"seq":{seq}}}"#).as_bytes(), now).unwrap();
        }
        assert_eq!((arrivals.missing(), arrivals.repeated()), (1, 2));
        assert!(!arrivals.wait(Duration::from_millis(1)));
        assert!(arrivals.row(b"{}", now).is_err());
    }
}
