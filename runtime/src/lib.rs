//! Millstream: a folder of YAML files, run as streaming pipelines.

pub mod functions;
pub mod spec;
