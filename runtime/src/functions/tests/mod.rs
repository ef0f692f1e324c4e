//! What functions promise, shown on small modules in WebAssembly text.

mod loading;
mod running;
mod sandbox;
mod thermal;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Float64Array};
use arrow::datatypes::{DataType, TimeUnit};
use indexmap::IndexMap;
use millstream_connectors::units::{ByteSize, Duration};

use super::{Engine, FunctionError, Module, ScalarFunction};
use crate::spec::model::{ExportSpec, FunctionSpec};
use crate::spec::problem::Problem;

static ENGINE: LazyLock<Arc<Engine>> = LazyLock::new(|| Engine::new(None).unwrap());

/// A module's YAML with the defaults.
fn spec() -> FunctionSpec {
    FunctionSpec {
        wasm: "test.wasm".into(),
        exports: IndexMap::new(),
        memory_max: ByteSize::mib(64),
        deadline: Duration::from_secs(30),
    }
}

/// The same with one export refined.
fn refined(export: &str, refinement: ExportSpec) -> FunctionSpec {
    FunctionSpec { exports: [(export.to_owned(), refinement)].into_iter().collect(), ..spec() }
}

/// The SQL types that these tests write.
fn types(text: &str) -> Result<DataType, String> {
    Ok(match text {
        "int" => DataType::Int32,
        "bigint" => DataType::Int64,
        "real" => DataType::Float32,
        "double" => DataType::Float64,
        "boolean" => DataType::Boolean,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Nanosecond, None),
        "text" => DataType::Utf8View,
        _ => return Err(format!("`{text}` is not a SQL type")),
    })
}

/// Loads bytes as a file.
fn load_bytes(bytes: &[u8], spec: &FunctionSpec) -> Result<Arc<Module>, Vec<Problem>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.wasm");
    std::fs::write(&file, bytes).unwrap();
    Module::load(&ENGINE, &file, spec, &types)
}

fn load(text: &str, spec: &FunctionSpec) -> Result<Arc<Module>, Vec<Problem>> {
    load_bytes(&wat::parse_str(text).unwrap(), spec)
}

/// The one function of a module.
fn function(text: &str, spec: &FunctionSpec) -> Arc<dyn ScalarFunction> {
    load(text, spec).unwrap().functions().remove(0)
}

/// The problems, each as `path: message (hint)`.
fn refused(text: &str, spec: &FunctionSpec) -> Vec<String> {
    shown(load(text, spec).expect_err("the module was taken"))
}

fn shown(problems: Vec<Problem>) -> Vec<String> {
    problems
        .into_iter()
        .map(|problem| {
            let hint = problem.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{}: {}{hint}", problem.path.join("."), problem.message)
        })
        .collect()
}

fn doubles(values: impl IntoIterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
