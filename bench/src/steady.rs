//! The steady state: what happens between the moments when 10% and 90% of the expected rows are out, so that neither
//! the start nor the end counts.

use std::collections::BTreeMap;

use crate::procfs::{Threads, Usage, by_name};

/// Measuring begins when this share of the expected rows is out.
const FROM: f64 = 0.1;
/// Measuring ends when this share of the expected rows is out.
const TO: f64 = 0.9;

/// How far the work is at a moment.
#[derive(Debug, Clone)]
struct Mark {
    usage: Usage,
    rows_out: u64,
    threads: Threads,
}

/// Takes marks until the window is complete.
#[derive(Debug)]
pub(crate) struct Steady {
    expected_rows: u64,
    from: Option<Mark>,
    to: Option<Mark>,
}

/// Costs within the window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Costs {
    pub(crate) messages: f64,
    pub(crate) seconds: f64,
    pub(crate) cpu_s: f64,
    /// By thread name.
    pub(crate) threads_cpu_s: BTreeMap<String, f64>,
}

/// What a sample was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Below the window.
    Warming,
    /// This sample opened the window.
    Opened,
    /// Within the window.
    Within,
    /// This sample closed the window.
    Closed,
    /// Behind it.
    Over,
}

impl Steady {
    pub(crate) fn new(expected_rows: u64) -> Self {
        Self { expected_rows, from: None, to: None }
    }

    /// Takes a sample into account; asks for the threads only at the window's edges.
    pub(crate) fn sample(&mut self, usage: Usage, rows_out: u64, threads: impl FnOnce() -> Threads) -> Phase {
        let share = rows_out as f64 / self.expected_rows.max(1) as f64;
        if self.from.is_none() {
            if share < FROM {
                return Phase::Warming;
            }
            self.from = Some(Mark { usage, rows_out, threads: threads() });
            return Phase::Opened;
        }
        if self.to.is_some() {
            return Phase::Over;
        }
        if share < TO {
            return Phase::Within;
        }
        self.to = Some(Mark { usage, rows_out, threads: threads() });
        Phase::Closed
    }

    /// The costs of the window, where it is complete. Messages are as many of `messages` as rows are of the expected.
    pub(crate) fn costs(&self, messages: u64) -> Option<Costs> {
        let (from, to) = (self.from.as_ref()?, self.to.as_ref()?);
        let share = (to.rows_out - from.rows_out) as f64 / self.expected_rows as f64;
        let cpu_s = to.usage.cpu_s - from.usage.cpu_s;
        Some(Costs {
            messages: share * messages as f64,
            seconds: (to.usage.at - from.usage.at).as_secs_f64(),
            cpu_s,
            threads_cpu_s: by_name(&from.threads, &to.threads, cpu_s),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn only_what_lies_between_the_edges_counts() {
        let start = Instant::now();
        let usage = |ms, cpu_s| Usage { at: start + Duration::from_millis(ms), cpu_s, resident_bytes: 0 };
        let threads = |cpu_s| move || Threads::from([(1, ("worker".to_owned(), cpu_s))]);
        let mut steady = Steady::new(1_000);
        assert_eq!(steady.sample(usage(0, 9.0), 99, threads(9.0)), Phase::Warming);
        assert!(steady.costs(2_000).is_none());
        assert_eq!(steady.sample(usage(100, 10.0), 150, threads(10.0)), Phase::Opened);
        assert_eq!(steady.sample(usage(200, 10.5), 899, threads(10.5)), Phase::Within);
        assert_eq!(steady.sample(usage(600, 11.0), 950, threads(11.0)), Phase::Closed);
        assert_eq!(steady.sample(usage(900, 19.0), 1_000, threads(19.0)), Phase::Over);
        let costs = steady.costs(2_000).unwrap();
        assert!((costs.messages - 1_600.0).abs() < 1e-6);
        assert!((costs.seconds - 0.5).abs() < 1e-6);
        assert!((costs.cpu_s - 1.0).abs() < 1e-6);
        assert_eq!(costs.threads_cpu_s, BTreeMap::from([("worker".to_owned(), 1.0)]));
    }
}
