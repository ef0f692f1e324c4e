//! Millstream: a folder of YAML files, run as streaming pipelines.

#[doc(hidden)]
pub mod bench_support;
pub mod cli;
pub mod daemon;
mod demo;
pub(crate) mod engine;
pub(crate) mod explain;
pub mod functions;
pub mod metrics;
pub mod plan;
pub mod redact;
pub mod spec;
pub(crate) mod sql;
