//! One operator per file, and what they share.

pub(crate) mod aggregate;
mod aggregate_state;
pub(crate) mod join;
pub(crate) mod over;
mod packed;
pub(crate) mod pane_aggregate;
pub(crate) mod pattern;
pub(crate) mod per_window;
pub(crate) mod session_assign;
mod session_rows;
pub(crate) mod stateless;
pub(crate) mod updating;
pub(crate) mod window_assign;
pub(crate) mod window_bounds;
pub(crate) mod window_parts;
