//! The module that ships: it computes what its sources say, and is what its sources build.

use std::process::Command;

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;

use super::*;

/// The same functions in Rust, compiled for this machine.
#[expect(unsafe_code, reason = "exported by name, as a guest needs it; nothing else in this program has these names")]
#[expect(unreachable_pub, reason = "an example for readers of udf-sdk")]
#[path = "../../../../udf-sdk/examples/thermal/thermal.rs"]
mod native;

/// In CI a missing toolchain is a failure.
const REQUIRE_TOOLCHAIN: &str = "MILLSTREAM_REQUIRE_WASM_TOOLCHAIN";

type Native = extern "C" fn(f64, f64) -> f64;

fn shipped() -> Vec<u8> {
    std::fs::read(repository().join("pipelines/udf/thermal.wasm")).unwrap()
}

/// Every result of every function of a module, over weather and beyond.
fn results(module: &[u8]) -> Vec<(String, f64, f64, f64)> {
    let grid: Vec<(f64, f64)> = (-60..=70)
        .flat_map(|t| {
            [-1., 0., 0.5, 5., 12.9, 40., 85., 86., 99.9, 100., 100.1, f64::NAN].map(|h| (f64::from(t) * 1.01, h))
        })
        .collect();
    let module = load_bytes(module, &spec()).unwrap();
    let mut all = Vec::new();
    for function in module.functions() {
        let columns = [doubles(grid.iter().map(|row| row.0)), doubles(grid.iter().map(|row| row.1))];
        let result = function.call(&columns[..function.arguments().len()], grid.len()).unwrap();
        let result = result.as_primitive::<Float64Type>();
        all.extend(grid.iter().enumerate().map(|(i, row)| (function.name().to_owned(), row.0, row.1, result.value(i))));
    }
    all
}

fn same(a: f64, b: f64) -> bool {
    (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(1.)
}

#[test]
fn the_shipped_module_computes_what_the_rust_source_does() {
    let results = results(&shipped());
    assert_eq!(results.len(), 3 * 131 * 12);
    for (name, celsius, humidity, result) in results {
        let native: Native = match name.as_str() {
            "heat_load" => native::heat_load,
            "dew_point" => native::dew_point,
            _ => {
                assert_eq!(name, "c_to_f");
                assert!(same(result, native::c_to_f(celsius)), "{celsius}");
                continue;
            }
        };
        let expected = native(celsius, humidity);
        assert!(same(result, expected), "{name}({celsius}, {humidity}) = {result}, expected {expected}");
    }
}

#[test]
fn the_shipped_module_agrees_with_published_tables() {
    // Dew points: WMO Magnus tables. Heat index: the NWS chart, in Fahrenheit to the degree.
    assert!((native::dew_point(20., 50.) - 9.26).abs() < 0.05);
    assert!((native::dew_point(5., 100.) - 5.).abs() < 1e-9);
    for (fahrenheit, humidity, index) in
        [(80., 40., 80.), (90., 50., 95.), (96., 65., 121.), (100., 40., 109.), (86., 90., 105.)]
    {
        let result = native::c_to_f(native::heat_load((fahrenheit - 32.) / 1.8, humidity));
        assert!((result - index).abs() < 1.0, "{fahrenheit} F, {humidity} %: {result}, the chart says {index}");
    }
}

#[test]
fn the_shipped_module_is_what_its_source_builds() {
    let tools = ["clang", "wasm-ld"].map(|tool| Command::new(tool).arg("--version").output().is_ok());
    if tools.contains(&false) {
        assert!(
            std::env::var_os(REQUIRE_TOOLCHAIN).is_none_or(|value| value != "1"),
            "{REQUIRE_TOOLCHAIN}=1, but clang or wasm-ld is not installed"
        );
        eprintln!(
            "NOT CHECKED: clang or wasm-ld is not installed, so thermal.wasm was not rebuilt ({REQUIRE_TOOLCHAIN}=1 makes this a failure)"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let built = folder.path().join("thermal.wasm");
    let script = repository().join("udf-sdk/examples/thermal/build.sh");
    let output = Command::new("sh").arg(script).arg(&built).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (rebuilt, shipped) = (results(&std::fs::read(&built).unwrap()), results(&shipped()));
    assert_eq!(rebuilt.len(), shipped.len());
    for (new, old) in rebuilt.iter().zip(&shipped) {
        // Another clang may round the last bit otherwise.
        assert!(new.0 == old.0 && same(new.3, old.3), "{new:?} is not {old:?}: run udf-sdk/examples/thermal/build.sh");
    }
}
