//! What the engine promises, shown on whole pipelines with doubles in the place of connectors.

mod batch;
mod clock;
mod harness;
mod joins;
mod operators;
mod oracle;
mod oracle_joins;
mod oracle_match;
mod oracle_over;
mod oracle_perwindow;
mod oracle_updating;
mod oracle_windows;
mod per_window;
mod pieces;
mod processing_time;
mod queries;
mod regressions;
mod rows;
mod windowing;
