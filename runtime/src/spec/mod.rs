//! The YAML language: text → [`Loaded`] (what was written, with positions), and every mistake in it.
//!
//! Only this module parses YAML. It plans no SQL, opens no connection, and knows no terminal.

mod check;
pub mod connector;
mod contract;
mod deserialise;
pub mod draft;
pub(crate) mod event_time;
mod find;
mod interpolate;
pub mod limits;
mod load;
pub mod model;
pub mod node;
mod overlay;
mod parse;
pub mod problem;
pub mod render;
pub mod schema;
pub mod secrets;
mod source_map;
mod syntax;
mod text_map;
mod validate;
mod wording;

pub use draft::Draft;
pub use find::{find, name_clashes};
pub use limits::YamlLimits;
pub use load::{Environment, LoadOptions, Loaded, load, load_text};
pub use secrets::Secrets;
pub use source_map::{Located, Location, SourceMap};

#[cfg(test)]
mod tests;
