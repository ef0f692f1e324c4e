//! Operators whose rows may replace one another, and what they share: when results are given out, how long a key is
//! kept without a window, and accumulators that can be asked before they are done.

pub(crate) mod aggregate;
pub(crate) mod dedup;
pub(crate) mod emission;
mod groups;
mod keys;
mod retention;
mod state;
pub(crate) mod top_n;

/// The most rows of a batch of results.
const OUTPUT_ROWS_MAX: usize = 8192;
/// The most rows of a batch of state.
const STATE_ROWS_MAX: usize = 1 << 16;
