//! Millstream's connectors: sources, sinks, tables and formats.
//!
//! This crate knows bytes, metadata, positions and Arrow batches. It knows neither YAML parsing (a connector's
//! configuration is plain data that serde fills and schemars describes) nor DataFusion.
//!
//! * [`source`]: the traits of what brings data in, [`Source`] (replays from a position) and [`PushSource`] (cannot).
//! * [`sink`]: the trait of what takes rows out.
//! * [`table`]: what a stream can be joined with.
//! * [`format`]: bytes to rows and back.
//! * [`ingest`]: the log that makes a source that cannot replay replayable.
//! * [`config`]: the explicit list of all connectors; a new one adds its line there.

pub mod batch;
pub mod config;
pub mod error;
pub mod file;
pub mod format;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod generate;
pub mod http;
pub mod ingest;
pub mod kafka;
pub mod mqtt;
pub mod position;
pub mod postgres;
pub mod routes;
pub mod secret;
pub mod sink;
pub mod source;
pub mod sse;
pub mod stdout;
pub mod table;
pub mod template;
mod tls;
pub mod units;

pub use batch::MessageBatch;
pub use error::{ConnectorError, ErrorKind};
pub use position::Positions;
pub use sink::{Rejected, Sink, SinkContext};
pub use source::{BuiltSource, PushSource, Source, SourceContext, SourceEvent};
pub use table::Table;
