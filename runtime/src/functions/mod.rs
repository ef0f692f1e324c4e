//! User functions in WebAssembly: a `.wasm` file in YAML becomes functions in SQL. Only this module names wasmtime.
//!
//! [`Engine`] is made once per daemon; [`Module::load`] reads, checks and compiles one file with what the YAML says about
//! it, and [`Module::functions`] are what SQL can call. What a guest may do is in `udf-sdk/README.md`; in short: numbers
//! in, one number out, no files, network, environment or clock, so much memory and so much time.
//!
//! * `engine`: the wasmtime engine, the clock of deadlines, compiled code by content hash (`cache`: the same on disk).
//! * `module`: a file to a compiled module, or to all that is wrong with it (`exports`: which exports are functions).
//! * `imports`: what a module may import; `wasi`: the closed stand-in for WASI.
//! * `instance`: running copies of a module, their limits and their pool.
//! * `scalar`: columns in, column out (`rows`: the loops over rows).
//!
//! **Invariant:** whatever a guest does ends in a [`FunctionError`], never in the end of the process, and the instance in
//! which it happened is never used again.
//!
//! Not here yet, and refused with a sentence: components, strings, aggregates and table functions. They are new siblings
//! of `scalar`; the engine, the pool and the imports stay as they are.

mod cache;
mod engine;
mod exports;
mod imports;
mod instance;
mod module;
mod rows;
mod scalar;
#[cfg(test)]
mod tests;
mod wasi;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

pub use engine::{EPOCH_TICK, Engine, WASM_STACK_BYTES_MAX};
pub use instance::{IDLE_INSTANCES_MAX, TABLE_ELEMENTS_MAX};
pub use module::{MODULE_BYTES_MAX, Module};

/// A scalar function over columns, as SQL sees it.
pub trait ScalarFunction: Send + Sync + std::fmt::Debug {
    /// Its name in SQL.
    fn name(&self) -> &str;
    /// The types of its arguments.
    fn arguments(&self) -> &[DataType];
    /// The type of its result.
    fn returns(&self) -> &DataType;
    /// Calls it for every row. NULL in gives NULL out without a call. A trap or a passed deadline is an error that names
    /// function and row; the instance in which it happened is thrown away.
    fn call(&self, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef, FunctionError>;
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{function}: {message}{}", row.map(|row| format!(" (row {row} of the batch)")).unwrap_or_default())]
pub struct FunctionError {
    /// The function's name.
    pub function: String,
    /// The row within the batch, from 0, where it is known.
    pub row: Option<usize>,
    /// What happened.
    pub message: String,
}
