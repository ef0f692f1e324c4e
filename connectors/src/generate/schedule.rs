//! When row n is due, as exact arithmetic on whole nanoseconds: no drift, and no state to restore.
//!
//! Time runs at the plain rate first; bursts press it together, gaps pull it apart. Both are at the end of their stretch.

use super::GenerateConfig;
use super::options::{Bursts, Gaps, Rate};

const NANOS: u128 = 1_000_000_000;
/// Rates and factors are kept to this part.
const PARTS: u128 = 1_000_000;

/// Row n is due `n * nanos / rows` nanoseconds after row 0, before bursts and gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    nanos: u128,
    rows: u128,
}

/// Times of rows, relative to row 0.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    /// `None` where rows are made as fast as they are taken.
    sending: Option<Pace>,
    /// Event times; `None` without a `timestamp` column (then `rate` may be unlimited without an interval).
    events: Option<Pace>,
    /// Length of a stretch, of the burst in it, and its factor in parts.
    bursts: Option<(u128, u128, u128)>,
    /// Length of a stretch and of the gap in it.
    gaps: Option<(u128, u128)>,
}

impl Schedule {
    pub(super) fn new(config: &GenerateConfig) -> Self {
        let sending = match config.rate {
            Rate::Unlimited => None,
            Rate::Rows { rows, seconds } => Some(Pace {
                nanos: u128::from(seconds) * NANOS * PARTS,
                // At least one part: the rate has been checked to be so high.
                rows: ((rows * PARTS as f64).round() as u128).max(1),
            }),
        };
        let interval = config.interval.map(|interval| Pace { nanos: interval.0.as_nanos(), rows: 1 });
        let bursts = config.bursts.as_ref().map(|Bursts { every, length, factor }| {
            (every.0.as_nanos(), length.0.as_nanos(), (factor * PARTS as f64).round() as u128)
        });
        let gaps = config.gaps.as_ref().map(|Gaps { every, length }| (every.0.as_nanos(), length.0.as_nanos()));
        Self { sending, events: interval.or(sending), bursts, gaps }
    }

    /// The nanoseconds after row 0 at which row `n` is sent; `None` for at once.
    pub(super) fn due(&self, n: u64) -> Option<u128> {
        self.sending.map(|pace| self.warp(pace, n))
    }

    /// The nanoseconds after row 0 at which row `n` happens.
    pub(super) fn event(&self, n: u64) -> u128 {
        self.events.map_or(0, |pace| self.warp(pace, n))
    }

    fn warp(&self, pace: Pace, n: u64) -> u128 {
        let mut time = u128::from(n) * pace.nanos / pace.rows;
        if let Some((every, length, factor)) = self.bursts {
            // In nanoseconds times PARTS: what passes at the plain rate in one stretch.
            let plain = (every - length) * PARTS;
            let stretch = plain + length * factor;
            let parts = time.saturating_mul(PARTS);
            let (whole, rest) = (parts / stretch, parts % stretch);
            let within = if rest <= plain { rest / PARTS } else { plain / PARTS + (rest - plain) / factor };
            time = whole.saturating_mul(every) + within;
        }
        if let Some((every, length)) = self.gaps {
            let active = every - length;
            time = (time / active).saturating_mul(every).saturating_add(time % active);
        }
        time
    }
}
