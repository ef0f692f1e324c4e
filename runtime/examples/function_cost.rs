//! Prints what a call of a WebAssembly function costs per row, beside the same sum by Arrow's own kernel.
//!
//! `cargo run --release -p millstream --example function_cost [FILE.wasm]` (without a file: the thermal module that
//! ships). Measures the functions of one or two doubles.

#![expect(clippy::print_stdout, reason = "its figures are its purpose")]

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array};
use arrow::datatypes::DataType;
use millstream::functions::{Engine, Module};
use millstream::spec::model::FunctionSpec;

const ROWS: usize = 8192;
const ROUNDS: usize = 200;

/// Nanoseconds per row of the fastest round.
fn measure(mut batch: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        batch()?;
        best = best.min(start.elapsed().as_nanos() as f64 / ROWS as f64);
    }
    Ok(best)
}

fn main() -> Result<(), Box<dyn Error>> {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/udf/thermal.wasm");
    let file = std::env::args().nth(1).unwrap_or_else(|| shipped.to_owned());
    let spec: FunctionSpec = serde_json::from_str(r#"{"wasm": "thermal.wasm"}"#)?;
    let engine = Engine::new(None)?;
    let start = Instant::now();
    let module = Module::load(&engine, file.as_ref(), &spec, &|text| Err(format!("`{text}` is not known here")))
        .map_err(|problems| format!("{problems:?}"))?;
    println!("load and compile: {:?}", start.elapsed());
    let column = |scale: f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values((0..ROWS).map(|row| row as f64 / ROWS as f64 * scale)))
    };
    let columns = [column(45.), column(100.)];
    for function in module.functions() {
        let wanted = function.arguments();
        if wanted.len() > columns.len() || wanted.iter().any(|wanted| *wanted != DataType::Float64) {
            println!("{:>24}: not measured, takes {wanted:?}", function.name());
            continue;
        }
        let arguments = &columns[..wanted.len()];
        let cost = measure(|| Ok(function.call(arguments, ROWS).map(drop)?))?;
        println!("{:>24}: {cost:6.2} ns/row", function.name());
    }
    let native = measure(|| {
        let product = arrow::compute::kernels::numeric::mul(&columns[0], &columns[1])?;
        std::hint::black_box(product);
        Ok(())
    })?;
    println!("{:>24}: {native:6.2} ns/row", "arrow's multiplication");
    Ok(())
}
