//! The engine: what runs a [`crate::plan::Plan`].
//!
//! A plan's graph is cut into *stages* joined by *exchanges*. The operators of a stage are chained in one task per
//! shard. What flows is one closed enum, [`element::Element`]. [`pipeline::start`] is the only place that makes a
//! pipeline's channels and spawns its tasks.
//!
//! **Invariant:** no channel is unbounded; a full one stops its sender, and in the end the source.

pub(crate) mod assembly;
pub(crate) mod chain;
pub(crate) mod channel;
pub(crate) mod clock;
pub(crate) mod connect;
pub(crate) mod coordinator;
pub(crate) mod dead_letter;
pub(crate) mod element;
pub(crate) mod error;
pub(crate) mod event_time;
pub(crate) mod exchange;
pub(crate) mod gate;
pub(crate) mod ingestor;
pub(crate) mod keyed;
pub(crate) mod operator;
pub(crate) mod operators;
pub(crate) mod pipeline;
pub(crate) mod processing_time;
pub(crate) mod sink_task;
pub(crate) mod snapshot;
pub(crate) mod source_task;
pub(crate) mod stage_task;
pub(crate) mod table_task;
#[cfg(test)]
mod tests;
pub(crate) mod times;
