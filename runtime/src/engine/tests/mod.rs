//! What the engine promises, shown on whole pipelines with doubles in the place of connectors.

mod batch;
mod harness;
mod operators;
mod oracle;
mod oracle_match;
mod oracle_updating;
mod oracle_windows;
mod pieces;
mod queries;
mod regressions;
mod rows;
