//! Columns in, column out.

use arrow::array::{
    Array, AsArray, BooleanArray, Date32Array, Float32Array, Float64Array, Int32Array, Int64Array,
    TimestampNanosecondArray,
};
use arrow::datatypes::{Date32Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampNanosecondType};

use super::*;

#[test]
fn functions_of_every_number_type_and_arity_compute() {
    for (wasm, one) in [("i32", "i32.const 1"), ("i64", "i64.const 1"), ("f32", "f32.const 1"), ("f64", "f64.const 1")]
    {
        for arity in 0..=5_usize {
            let parameters = format!("(param {})", vec![wasm; arity].join(" "));
            let sum: String = (0..arity).map(|i| format!("local.get {i} {wasm}.add ")).collect();
            let text = format!(r#"(module (func (export "f") {parameters} (result {wasm}) {one} {sum}))"#);
            let function = function(&text, &spec());
            assert_eq!(function.arguments().len(), arity);
            let column: ArrayRef = match wasm {
                "i32" => Arc::new(Int32Array::from(vec![10, -20])),
                "i64" => Arc::new(Int64Array::from(vec![10, -20])),
                "f32" => Arc::new(Float32Array::from(vec![10., -20.])),
                _ => doubles([10., -20.]),
            };
            let result = function.call(&vec![column; arity], 2).unwrap();
            assert_eq!(result.data_type(), function.returns());
            let result = arrow::compute::cast(&result, &DataType::Int64).unwrap();
            let arity = arity as i64;
            assert_eq!(result.as_primitive::<Int64Type>().values(), &[1 + 10 * arity, 1 - 20 * arity], "{text}");
        }
    }
}

#[test]
fn mixed_argument_and_result_types_compute() {
    let text = r#"(module (func (export "f") (param i32 f64 i64 f32) (result f64)
        local.get 0 f64.convert_i32_s local.get 1 f64.add local.get 2 f64.convert_i64_s f64.add
        local.get 3 f64.promote_f32 f64.add))"#;
    let arguments: [ArrayRef; 4] = [
        Arc::new(Int32Array::from(vec![1])),
        doubles([0.5]),
        Arc::new(Int64Array::from(vec![1 << 40])),
        Arc::new(Float32Array::from(vec![0.25])),
    ];
    let result = function(text, &spec()).call(&arguments, 1).unwrap();
    assert_eq!(result.as_primitive::<Float64Type>().value(0), 1.75 + (1_u64 << 40) as f64);
    for (result, body) in
        [("i32", "i32.const 7"), ("i64", "i64.const 7"), ("f32", "f32.const 7"), ("f64", "f64.const 7")]
    {
        let text = format!(r#"(module (func (export "f") (param i32 f64) (result {result}) {body}))"#);
        let result = function(&text, &spec()).call(&[Arc::new(Int32Array::from(vec![1])), doubles([1.])], 1).unwrap();
        assert_eq!(arrow::compute::cast(&result, &DataType::Int64).unwrap().as_primitive::<Int64Type>().value(0), 7);
    }
}

#[test]
fn null_in_is_null_out_without_a_call() {
    // A call with NULL's value (0) would trap.
    let text = r#"(module (func (export "f") (param i32 i32) (result i32) local.get 0 local.get 1 i32.div_s))"#;
    let arguments: [ArrayRef; 2] = [
        Arc::new(Int32Array::from(vec![Some(8), None, Some(9), None])),
        Arc::new(Int32Array::from(vec![Some(2), Some(1), None, None])),
    ];
    let result = function(text, &spec()).call(&arguments, 4).unwrap();
    let result: Vec<Option<i32>> = result.as_primitive::<Int32Type>().iter().collect();
    assert_eq!(result, [Some(4), None, None, None]);
}

#[test]
fn slices_of_columns_are_read_at_their_offset() {
    let text = r#"(module (func (export "f") (param f64) (result f64) local.get 0 f64.neg))"#;
    let whole = Float64Array::from(vec![Some(1.), None, Some(3.), None, Some(5.)]);
    let part: ArrayRef = Arc::new(whole.slice(2, 3));
    let result = function(text, &spec()).call(&[part], 3).unwrap();
    let result: Vec<Option<f64>> = result.as_primitive::<Float64Type>().iter().collect();
    assert_eq!(result, [Some(-3.), None, Some(-5.)]);
}

#[test]
fn no_rows_and_no_arguments_are_fine() {
    let text = r#"(module (func (export "f") (result i64) i64.const 42))"#;
    let function = function(text, &spec());
    assert_eq!(function.call(&[], 0).unwrap().len(), 0);
    assert_eq!(function.call(&[], 3).unwrap().as_primitive::<Int64Type>().values(), &[42, 42, 42]);
}

#[test]
fn types_and_names_are_refined_as_written() {
    let text = r#"(module (func (export "later") (param i64 i32 i32) (result i64)
        local.get 0 local.get 1 i64.extend_i32_s i64.add local.get 2 i64.extend_i32_s i64.add))"#;
    let written = ExportSpec {
        name: Some("postponed".into()),
        arguments: Some(vec!["timestamp".into(), "date".into(), "boolean".into()]),
        returns: Some("timestamp".into()),
    };
    let function = function(text, &refined("later", written));
    assert_eq!(function.name(), "postponed");
    assert_eq!(*function.returns(), types("timestamp").unwrap());
    let arguments: [ArrayRef; 3] = [
        Arc::new(TimestampNanosecondArray::from(vec![1_000, 2_000])),
        Arc::new(Date32Array::from(vec![20, 30])),
        Arc::new(BooleanArray::from(vec![true, false])),
    ];
    let result = function.call(&arguments, 2).unwrap();
    assert_eq!(result.as_primitive::<TimestampNanosecondType>().values(), &[1_021, 2_030]);
}

#[test]
fn a_result_can_be_a_boolean_or_a_date() {
    let text = r#"(module (func (export "f") (param i32) (result i32) local.get 0))"#;
    let returns = |sql: &str| refined("f", ExportSpec { returns: Some(sql.into()), ..ExportSpec::default() });
    let column: ArrayRef = Arc::new(Int32Array::from(vec![Some(0), Some(-5), None]));
    let flags = function(text, &returns("boolean")).call(&[Arc::clone(&column)], 3).unwrap();
    assert_eq!(flags.as_boolean().iter().collect::<Vec<_>>(), [Some(false), Some(true), None]);
    let dates = function(text, &returns("date")).call(&[column], 3).unwrap();
    assert_eq!(dates.as_primitive::<Date32Type>().iter().collect::<Vec<_>>(), [Some(0), Some(-5), None]);
}

#[test]
fn infinities_and_nan_pass_through() {
    let text = r#"(module (func (export "f") (param f32) (result f32) local.get 0))"#;
    let column: ArrayRef = Arc::new(Float32Array::from(vec![f32::INFINITY, f32::NAN, -0.0]));
    let result = function(text, &spec()).call(&[column], 3).unwrap();
    let result = result.as_primitive::<Float32Type>();
    assert!(result.value(0).is_infinite() && result.value(1).is_nan() && result.value(2).is_sign_negative());
}

#[test]
fn wrong_arguments_are_an_error_and_no_panic() {
    let text = r#"(module (func (export "f") (param f64) (result f64) local.get 0))"#;
    let function = function(text, &spec());
    for (arguments, rows) in [
        (vec![], 1),
        (vec![doubles([1.]), doubles([1.])], 1),
        (vec![doubles([1.])], 2),
        (vec![Arc::new(Int32Array::from(vec![1])) as ArrayRef], 1),
    ] {
        let error = function.call(&arguments, rows).unwrap_err();
        assert!(error.message.starts_with("called with"), "{error}");
    }
}

#[test]
fn eight_threads_call_one_function_at_once() {
    let text = r#"(module (memory 1) (func (export "f") (param f64) (result f64)
        (f64.store (i32.const 0) (local.get 0)) (f64.mul (f64.load (i32.const 0)) (f64.const 2))))"#;
    let function = function(text, &spec());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let function = &function;
            scope.spawn(move || {
                for round in 0..50 {
                    let from = f64::from(thread * 1000 + round);
                    let result = function.call(&[doubles((0..100).map(|i| from + f64::from(i)))], 100).unwrap();
                    for i in 0..100 {
                        let expected = 2. * (from + f64::from(i));
                        assert_eq!(result.as_primitive::<Float64Type>().value(i as usize), expected);
                    }
                }
            });
        }
    });
}

#[test]
fn a_reactor_is_initialized_before_its_first_call() {
    let text = r#"(module (global $ready (mut i32) (i32.const 0)) (memory (export "memory") 1)
        (func (export "_initialize") (global.set $ready (i32.const 1)))
        (func (export "f") (result i32) (global.get $ready)))"#;
    assert_eq!(function(text, &spec()).call(&[], 1).unwrap().as_primitive::<Int32Type>().value(0), 1);
}
