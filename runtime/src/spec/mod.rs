//! The YAML language: text → [`Document`] (what was written, with positions), and every mistake in it.
//!
//! Only this module parses YAML.

pub mod connector;
pub mod model;
pub mod problem;
