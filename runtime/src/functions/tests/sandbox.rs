//! What a guest does wrong ends in an error, and nowhere else.

use arrow::array::{AsArray, Int32Array};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};

use super::*;

fn fails(text: &str, spec: &FunctionSpec) -> FunctionError {
    let column: ArrayRef = Arc::new(Int32Array::from(vec![1, 1, 0, 1]));
    function(text, spec).call(&[column], 4).unwrap_err()
}

#[test]
fn a_trap_names_function_and_row_and_the_next_call_works() {
    let text = r#"(module (func $ratio (export "ratio") (param i32 i32) (result i32)
        local.get 0 local.get 1 i32.div_s))"#;
    let function = function(text, &spec());
    let columns = |by: Vec<i32>| -> [ArrayRef; 2] {
        [Arc::new(Int32Array::from(vec![12; by.len()])), Arc::new(Int32Array::from(by))]
    };
    let error = function.call(&columns(vec![1, 2, 0, 3]), 4).unwrap_err();
    assert_eq!(error.to_string(), "ratio: trap: integer divide by zero, in `ratio` (row 2 of the batch)");
    assert_eq!(error.row, Some(2));
    let result = function.call(&columns(vec![1, 2, 3]), 3).unwrap();
    assert_eq!(result.as_primitive::<Int32Type>().values(), &[12, 6, 4]);
}

#[test]
fn every_kind_of_trap_is_a_sentence() {
    for (body, says) in [
        ("unreachable", "trap: wasm `unreachable` instruction executed"),
        ("(drop (i32.load (i32.const 0x7fffffff)))", "trap: out of bounds memory access"),
        ("(drop (i32.trunc_f64_s (f64.const nan)))", "trap: invalid conversion to integer"),
        ("(call_indirect (type $t) (i32.const 0))", "trap: uninitialized element"),
    ] {
        let text = format!(
            r#"(module (type $t (func)) (memory 1) (table 1 funcref)
            (func (export "f") (param i32) (result i32) {body} (i32.const 1)))"#
        );
        let error = fails(&text, &spec());
        assert_eq!((error.row, error.message.as_str()), (Some(0), says));
    }
}

#[test]
fn an_instance_that_trapped_is_thrown_away() {
    // Counts its calls; traps when asked to. A kept instance would go on counting.
    let text = r#"(module (global $calls (mut i64) (i64.const 0)) (func (export "f") (param i32) (result i64)
        (global.set $calls (i64.add (global.get $calls) (i64.const 1)))
        (if (local.get 0) (then unreachable)) (global.get $calls)))"#;
    let function = function(text, &spec());
    let call = |flag: i32| function.call(&[Arc::new(Int32Array::from(vec![flag]))], 1);
    assert_eq!(call(0).unwrap().as_primitive::<Int64Type>().value(0), 1);
    assert_eq!(call(0).unwrap().as_primitive::<Int64Type>().value(0), 2);
    call(1).unwrap_err();
    assert_eq!(call(0).unwrap().as_primitive::<Int64Type>().value(0), 1);
}

#[test]
fn an_endless_loop_ends_at_the_deadline() {
    let text = r#"(module (func (export "spin") (param i32) (result i32)
        (if (i32.eqz (local.get 0)) (then (loop $l (br $l)))) (local.get 0)))"#;
    let limited = FunctionSpec { deadline: Duration::from_millis(50), ..spec() };
    let error = fails(text, &limited);
    assert_eq!(error.row, Some(2));
    assert_eq!(error.message, "ran longer than 50ms (`deadline`, the longest that a batch may take)");
}

#[test]
fn endless_recursion_ends_at_the_stack_limit() {
    let text = r#"(module (func $f (export "f") (param i32) (result i32)
        (i32.add (call $f (local.get 0)) (call $f (local.get 0)))))"#;
    let error = fails(text, &spec());
    assert_eq!(error.message, "trap: the stack limit of 512KiB was reached (endless recursion?), in `f`");
}

#[test]
fn a_memory_bomb_ends_at_the_memory_limit() {
    let text = r#"(module (memory 1) (func (export "f") (param i32) (result i32)
        (loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable))"#;
    let limited = FunctionSpec { memory_max: ByteSize::mib(8), ..spec() };
    let error = fails(text, &limited);
    assert!(error.message.starts_with("memory limit 8MiB reached (`memory_max`), then trap: "), "{error}");
}

#[test]
fn a_guest_that_lives_with_less_memory_gets_an_answer() {
    let text = r#"(module (memory 1) (func (export "f") (param i32) (result i32) (memory.grow (i32.const 10000))))"#;
    let limited = FunctionSpec { memory_max: ByteSize::mib(1), ..spec() };
    let result = function(text, &limited).call(&[Arc::new(Int32Array::from(vec![1]))], 1).unwrap();
    assert_eq!(result.as_primitive::<Int32Type>().value(0), -1);
}

#[test]
fn a_guest_that_leaks_gets_a_fresh_instance_and_fails_only_for_what_one_batch_takes() {
    let text = r#"(module (memory 1) (func (export "f") (param i32) (result i32)
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (i32.const 1)))"#;
    let limited = FunctionSpec { memory_max: ByteSize::mib(1), ..spec() };
    let function = function(text, &limited);
    let call = |rows: usize| function.call(&[Arc::new(Int32Array::from(vec![1; rows]))], rows);
    for _ in 0..5 {
        call(10).unwrap();
    }
    assert_eq!(call(20).unwrap_err().row, Some(15), "16 pages of 64 KiB, one of them from the beginning");
    call(10).unwrap();
}

#[test]
fn two_memories_share_one_limit() {
    let text = r#"(module (memory $a 16) (memory $b 16) (func (export "f") (param i32) (result i32)
        (drop (memory.grow $a (i32.const 8))) (memory.grow $b (i32.const 16))))"#;
    let limited = FunctionSpec { memory_max: ByteSize::mib(3), ..spec() };
    let result = function(text, &limited).call(&[Arc::new(Int32Array::from(vec![1]))], 1).unwrap();
    assert_eq!(result.as_primitive::<Int32Type>().value(0), -1);
}

#[test]
fn a_collected_heap_counts_as_memory() {
    let text = r#"(module (type $a (array (mut i64))) (type $n (struct (field (ref null $n)) (field (ref $a))))
        (global $list (mut (ref null $n)) (ref.null $n))
        (func (export "f") (param i32) (result i32) (loop $l
            (global.set $list (struct.new $n (global.get $list) (array.new $a (i64.const 1) (i32.const 10000))))
            (br $l)) unreachable))"#;
    let limited = FunctionSpec { memory_max: ByteSize::mib(4), ..spec() };
    let error = fails(text, &limited);
    assert!(error.message.starts_with("memory limit 4MiB reached (`memory_max`), then "), "{error}");
}

#[test]
fn tables_are_limited() {
    let text = r#"(module (table 1 funcref) (func (export "f") (param i32) (result i32)
        (table.grow (ref.null func) (i32.const 100000000))))"#;
    let result = function(text, &spec()).call(&[Arc::new(Int32Array::from(vec![1]))], 1).unwrap();
    assert_eq!(result.as_primitive::<Int32Type>().value(0), -1);
}

#[test]
fn abort_says_what_the_guest_said() {
    let text = r#"(module (import "env" "abort" (func $abort (param i32 i32 i32 i32))) (memory (export "memory") 1)
        (data (i32.const 16) "\06\00\00\00b\00a\00d\00")
        (func (export "f") (param i32) (result i32)
            (call $abort (i32.const 20) (i32.const 0) (i32.const 7) (i32.const 3)) (i32.const 0)))"#;
    let error = fails(text, &spec());
    assert!(error.message.starts_with("abort: bad (line 7, column 3 of the function's source)"), "{error}");
}

#[test]
fn wasi_is_closed_repeatable_and_tells_what_was_printed() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\05\00\00\00") (data (i32.const 16) "oh no")
        (func (export "opened") (result i32) (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 64)))
        (func (export "random") (result i64) (drop (call $random (i32.const 64) (i32.const 8)))
            (i64.load (i32.const 64)))
        (func (export "clock") (result i64) (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 64)))
            (i64.load (i32.const 64)))
        (func (export "wild") (result i32) (call $random (i32.const -8) (i32.const 100)))
        (func (export "file") (result i32) (call $write (i32.const 7) (i32.const 0) (i32.const 1) (i32.const 8)))
        (func (export "quit") (result i32)
            (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
            (call $exit (i32.const 3)) (i32.const 0)))"#;
    let (first, second) = (load(text, &spec()).unwrap(), load(text, &spec()).unwrap());
    let call = |module: &Module, name: &str| {
        let functions = module.functions();
        let function = functions.iter().find(|function| function.name() == name).unwrap();
        function
            .call(&[], 1)
            .map(|result| arrow::compute::cast(&result, &DataType::Int64).unwrap().as_primitive::<Int64Type>().value(0))
    };
    assert_eq!(call(&first, "opened").unwrap(), 8, "EBADF");
    assert_eq!(call(&first, "file").unwrap(), 8, "EBADF");
    assert_eq!(call(&first, "wild").unwrap(), 28, "EINVAL");
    assert_eq!(call(&first, "random").unwrap(), call(&second, "random").unwrap());
    assert_ne!(call(&first, "random").unwrap(), 0);
    assert_eq!(call(&first, "clock").unwrap(), 946_684_800_000_000_000);
    let error = call(&first, "quit").unwrap_err();
    assert!(error.message.contains("exit code 3") && error.message.contains("it printed: oh no"), "{error}");
}

#[test]
fn a_start_that_traps_or_never_ends_refuses_the_module() {
    let text = r#"(module (func $s unreachable) (start $s) (func (export "f") (result i32) (i32.const 1)))"#;
    assert!(refused(text, &spec())[0].starts_with("wasm: the module cannot start: trap: wasm `unreachable`"));
    let text =
        r#"(module (func (export "_initialize") (loop $l (br $l))) (func (export "f") (result i32) (i32.const 1)))"#;
    let limited = FunctionSpec { deadline: Duration::from_millis(20), ..spec() };
    assert!(refused(text, &limited)[0].starts_with("wasm: the module cannot start: ran longer than 20ms"));
}

#[test]
fn many_failures_in_a_row_leave_the_function_usable() {
    let text = r#"(module (memory 16) (func (export "f") (param f64) (result f64)
        (if (f64.lt (local.get 0) (f64.const 0)) (then unreachable)) (f64.sqrt (local.get 0))))"#;
    let function = function(text, &spec());
    for _ in 0..200 {
        assert_eq!(function.call(&[doubles([4., -1.])], 2).unwrap_err().row, Some(1));
    }
    assert_eq!(function.call(&[doubles([4.])], 1).unwrap().as_primitive::<Float64Type>().value(0), 2.);
}
