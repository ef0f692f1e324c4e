//! User functions in WebAssembly. Only this module names wasmtime.
//!
//! CONTRACT (signatures to keep; the implementation is still to come):
//!
//! ```text
//! pub struct Engine;                     // one per daemon: wasmtime engine, epoch ticker, compilation cache
//! impl Engine { pub fn new(cache_dir: Option<&Path>) -> Result<Arc<Engine>, FunctionError>; }
//!
//! pub struct Module;                     // compiled, checked, instantiable
//! impl Module {
//!     /// Reads and compiles `file`. `types`: parses a SQL type name to an Arrow type (given by the sql module).
//!     pub fn load(engine: &Arc<Engine>, file: &Path, spec: &FunctionSpec, types: &dyn Fn(&str) -> Result<DataType, String>)
//!         -> Result<Arc<Module>, Vec<Problem>>;      // paths relative to the function's node: ["wasm"], ["exports", "f"]
//!     pub fn hash(&self) -> &str;                      // of the file's bytes
//!     pub fn functions(&self) -> Vec<Arc<dyn ScalarFunction>>;
//! }
//! ```

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

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
#[derive(Debug, Clone, thiserror::Error)]
#[error("{function}: {message}{}", row.map(|row| format!(" (row {row} of the batch)")).unwrap_or_default())]
pub struct FunctionError {
    /// The function's name.
    pub function: String,
    /// The row within the batch, where it is known.
    pub row: Option<usize>,
    /// What happened.
    pub message: String,
}
