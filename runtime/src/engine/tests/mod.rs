//! What the engine promises, shown on whole pipelines with doubles in the place of connectors.

mod batch;
mod harness;
mod operators;
mod oracle;
mod oracle_match;
mod oracle_updating;
mod pieces;
mod queries;
mod regressions;
mod rows;
