//! SQL: one SELECT of a step → operators of the engine's graph.
//!
//! DataFusion parses, resolves and types the query once per load. The analysed plan is then cut at its stateful nodes
//! ([`lower`]): what lies between them is a *region* that DataFusion runs per batch as a physical plan planned once
//! ([`crate::engine::operators::stateless`]); the stateful nodes become operators of our own, because DataFusion has
//! neither watermarks nor snapshots.
//!
//! **Invariant:** nothing here is called per batch except through [`region::RegionInstance`].

pub(crate) mod aggregate;
pub(crate) mod as_of;
pub(crate) mod clock;
pub(crate) mod compare;
pub(crate) mod direct;
pub(crate) mod expression;
pub(crate) mod interval_bounds;
pub(crate) mod join;
pub(crate) mod join_prepare;
pub(crate) mod lower;
pub(crate) mod marks;
pub(crate) mod mend;
pub(crate) mod named_windows;
pub(crate) mod over;
pub(crate) mod parse;
pub(crate) mod pattern;
pub(crate) mod pattern_names;
pub(crate) mod pattern_node;
pub(crate) mod pattern_plan;
pub(crate) mod pattern_syntax;
pub(crate) mod per_key;
pub(crate) mod per_window;
pub(crate) mod problems;
pub(crate) mod pushdown;
pub(crate) mod refuse;
pub(crate) mod region;
pub(crate) mod relation;
pub(crate) mod session;
pub(crate) mod shown;
pub(crate) mod subqueries;
pub(crate) mod survey;
pub(crate) mod types;
pub(crate) mod udf;
pub(crate) mod updating;
pub(crate) mod window_join;
pub(crate) mod windows;
pub(crate) mod wording;

/// Field metadata that marks a column as the stream's event time; its value is in [`marks::event_time`].
pub(crate) const EVENT_TIME: &str = "millstream.event_time";
/// Field metadata that marks the column which says whether a row of an updating step is the last of its kind.
pub(crate) const IS_FINAL: &str = "millstream.is_final";
/// Field metadata that marks a window's bound: its value is `start` or `end`.
pub(crate) const WINDOW_BOUND: &str = "millstream.window";
/// Field metadata of a window's start: no window of the column is longer, in nanoseconds.
pub(crate) const WINDOW_LENGTH: &str = "millstream.window_length";
/// Field metadata of a window's bound that determines the other one: which windows they are.
pub(crate) const WINDOW_PAIR: &str = "millstream.window_pair";
