//! Files that are taken, and what is said about those that are not.

use super::*;

const PLAIN: &str = r#"(module (memory (export "memory") 1) (global (export "__heap_base") i32 (i32.const 0))
    (func (export "heat_load") (param f64 f64) (result f64) local.get 0)
    (func (export "FullLoad") (param f64) (result f64) local.get 0)
    (func (export "pair") (param f64) (result f64 f64) local.get 0 local.get 0)
    (func (export "reset")) (func (export "vector") (param v128) (result i32) (i32.const 0))
    (func (export "ms_alloc") (param i32) (result i32) local.get 0)
    (func (export "Class#method") (result i32) (i32.const 0)))"#;

#[test]
fn only_numeric_exports_with_one_result_are_functions() {
    let module = load(PLAIN, &spec()).unwrap();
    let names: Vec<String> = module.functions().iter().map(|function| function.name().to_owned()).collect();
    assert_eq!(names, ["heat_load", "fullload"]);
    assert_eq!(module.hash().len(), 64);
}

#[test]
fn an_export_that_cannot_be_a_function_says_why() {
    for (export, why) in [
        ("memory", "it is a memory"),
        ("__heap_base", "it is a global variable"),
        ("pair", "it returns 2 values, and a function must return one"),
        ("reset", "it returns nothing, and a function must return one number"),
        ("vector", "it has the type v128, and only i32, i64, f32 and f64 have SQL types"),
        ("ms_alloc", "it belongs to the module's own machinery (start, memory)"),
    ] {
        let problems = refused(PLAIN, &refined(export, ExportSpec::default()));
        assert_eq!(problems, [format!("exports.{export}: `{export}` cannot be a SQL function: {why}")]);
    }
}

#[test]
fn every_mistake_in_the_exports_is_reported_at_its_place() {
    let written = [
        ("heat_lod", ExportSpec::default()),
        ("Class#method", ExportSpec::default()),
        (
            "heat_load",
            ExportSpec {
                name: Some("Heat Load".into()),
                arguments: Some(vec!["text".into(), "doubel".into()]),
                returns: Some("timestamp".into()),
            },
        ),
        ("FullLoad", ExportSpec { arguments: Some(vec![]), ..ExportSpec::default() }),
    ];
    let exports = written.into_iter().map(|(name, export)| (name.to_owned(), export)).collect();
    insta::assert_snapshot!(refused(PLAIN, &FunctionSpec { exports, ..spec() }).join("\n"), @r"
    exports.heat_lod: the module has no export `heat_lod` (did you mean `heat_load`?)
    exports.heat_load.name: `Heat Load` cannot be the name of a function in SQL (use lower-case letters, digits and `_`, not beginning with a digit)
    exports.heat_load.arguments.0: a WebAssembly f64 cannot be `text` (f64 can be: double)
    exports.heat_load.arguments.1: `doubel` is not a SQL type (f64 can be: double)
    exports.heat_load.returns: a WebAssembly f64 cannot be `timestamp` (f64 can be: double)
    exports.FullLoad.arguments: 0 argument types are written, but `FullLoad` takes 1: (f64) (write one SQL type for each)
    exports.Class#method: `Class#method` cannot be written as a function in SQL (give it another name: `name: …`)
    ");
}

#[test]
fn two_exports_with_one_name_in_sql_are_refused() {
    let text = r#"(module (func (export "Load") (result i32) (i32.const 1)) (func (export "load") (result i32) (i32.const 1)))"#;
    insta::assert_snapshot!(refused(text, &spec()).join("\n"), @"wasm: the exports `Load` and `load` would both be `load` in SQL (give one of them another name: `exports: {load: {name: …}}`)");
    let renamed = refined("Load", ExportSpec { name: Some("big_load".into()), ..ExportSpec::default() });
    assert_eq!(load(text, &renamed).unwrap().functions().len(), 2);
}

#[test]
fn a_module_without_functions_says_what_it_has() {
    let text = r#"(module (memory (export "memory") 1) (func (export "go")))"#;
    insta::assert_snapshot!(refused(text, &spec()).join("\n"), @"wasm: the module exports no function that SQL could call (`go`: it returns nothing, and a function must return one number)");
    insta::assert_snapshot!(refused("(module)", &spec()).join("\n"), @r#"wasm: the module exports no function that SQL could call (export it: `-Wl,--export=f` or `__attribute__((export_name("f")))` in C, `#[no_mangle] pub extern "C" fn` in Rust, `export fn` in Zig, `//go:wasmexport f` in Go)"#);
}

#[test]
fn forbidden_imports_are_all_named() {
    let text = r#"(module (import "env" "log" (func (param f64) (result f64))) (import "host" "m" (memory 1))
        (import "env" "abort" (func (param i32 i32 i32 i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
        (import "wasi_snapshot_preview1" "no_such" (func))
        (func (export "f") (result i32) (i32.const 1)))"#;
    insta::assert_snapshot!(refused(text, &spec()).join("\n"), @"wasm: the module imports what functions are not given: env.log, host.m, wasi_snapshot_preview1.no_such (what `env` is asked for was not found when linking: link the library that has it (for C's mathematics wasi-libc's `libc.a`), or write it in the module)");
    let text = r#"(module (import "__wbindgen_placeholder__" "__wbindgen_throw" (func (param i32 i32)))
        (func (export "f") (result i32) (i32.const 1)))"#;
    assert!(refused(text, &spec())[0].contains("leave out wasm-bindgen"));
    let text = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param f64)))
        (func (export "f") (result i32) (i32.const 1)))"#;
    assert!(refused(text, &spec())[0].contains("incompatible import type"), "{:?}", refused(text, &spec()));
}

#[test]
fn what_is_no_core_module_is_refused_with_what_to_do() {
    let component = [b"\0asm".as_slice(), &[0x0d, 0, 1, 0]].concat();
    let core = wat::parse_str(PLAIN).unwrap();
    let cases: Vec<(&str, &[u8])> = vec![
        ("empty", b""),
        ("component", &component),
        ("text", b"\n (module)"),
        ("program", b"\x7fELF\x02\x01"),
        ("other", b"export function f() {}"),
        ("version", b"\0asm\x02\0\0\0"),
        ("header alone", b"\0asm"),
        ("cut", &core[..core.len() / 2]),
    ];
    let all: Vec<String> = cases
        .into_iter()
        .map(|(what, bytes)| format!("{what}: {}", shown(load_bytes(bytes, &spec()).unwrap_err()).join("; ")))
        .collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    empty: wasm: the file is empty (did the build fail?)
    component: wasm: this is a WebAssembly component, and components are not supported yet (build a core module: a plain `wasm32-unknown-unknown` or `wasm32-wasip1` target, without `wasm-tools component new`, componentize or `wasm32-wasip2`)
    text: wasm: the file is WebAssembly text (assemble it: `wat2wasm f.wat -o f.wasm`)
    program: wasm: the file is a program for this machine, not WebAssembly (build it with `--target=wasm32`)
    other: wasm: the file is not WebAssembly (it does not begin with `\0asm`) (name the .wasm file that the compiler made; udf-sdk/README.md shows how to make one)
    version: wasm: the file is WebAssembly of an unknown version, or cut off (build it again for WebAssembly version 1)
    header alone: wasm: the file is WebAssembly of an unknown version, or cut off (build it again for WebAssembly version 1)
    cut: wasm: the module is not valid or uses what is not supported: failed to parse WebAssembly module: unexpected end-of-file (at offset 0x46) (build it again; if it was built well, it uses a newer WebAssembly feature that can be switched off there)
    "#);
}

#[test]
fn threads_and_programs_and_hungry_modules_are_refused() {
    let text = r#"(module (memory (export "memory") 1 2 shared) (func (export "f") (result i32) (i32.const 1)))"#;
    assert!(refused(text, &spec())[0].contains("build without them"), "{:?}", refused(text, &spec()));
    let text = r#"(module (func (export "_start")) (func (export "f") (result i32) (i32.const 1)))"#;
    assert!(refused(text, &spec())[0].contains("is a program (it exports `_start`)"));
    let text = r#"(module (memory 2000) (func (export "f") (result i32) (i32.const 1)))"#;
    insta::assert_snapshot!(refused(text, &spec()).join("\n"), @"memory_max: the module starts with 125MiB of memory, more than the 64MiB allowed (`memory_max: 125MiB` or more, or build it with a smaller stack)");
    let without_time = FunctionSpec { deadline: Duration::default(), ..spec() };
    assert!(refused(PLAIN, &without_time)[0].starts_with("deadline: a deadline of 0s"));
}

#[test]
fn a_missing_file_names_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let load =
        |name: &str| shown(Module::load(&ENGINE, &folder.path().join(name), &spec(), &types).unwrap_err()).remove(0);
    assert!(load("thermal.wasm").ends_with("(the path is relative to the YAML file)"));
    std::fs::write(folder.path().join("thermal.wasm"), b"x").unwrap();
    assert!(load("termal.wasm").ends_with("(did you mean `thermal.wasm`?)"));
    assert!(load("other.wasm").ends_with("(the folder has thermal.wasm)"));
    assert!(load("").contains("is not a file"));
    assert!(load("gone/thermal.wasm").contains("there is no folder"));
    let large = std::fs::File::create(folder.path().join("large.wasm")).unwrap();
    large.set_len(crate::functions::MODULE_BYTES_MAX + 1).unwrap();
    assert!(load("large.wasm").contains("larger than the limit of 64MiB"));
}

#[test]
fn damaged_modules_are_refused_and_never_a_panic() {
    let module = wat::parse_str(PLAIN).unwrap();
    for at in 8..module.len() {
        let mut damaged = module.clone();
        damaged[at] ^= 0x41;
        // Some damage is harmless (a name); nothing may be worse than a problem.
        if let Err(problems) = load_bytes(&damaged, &spec()) {
            assert!(!problems.is_empty());
        }
    }
}

#[test]
fn compiled_code_is_shared_and_kept_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, file) = (folder.path().join("cache"), folder.path().join("f.wasm"));
    std::fs::write(&file, wat::parse_str(PLAIN).unwrap()).unwrap();
    let entries =
        || -> Vec<PathBuf> { std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let works = |engine: &Arc<Engine>| {
        let module = Module::load(engine, &file, &spec(), &types).unwrap();
        module.functions()[1].call(&[doubles([1.5])], 1).unwrap();
    };
    works(&Engine::new(Some(&cache)).unwrap());
    assert_eq!(entries().len(), 1);
    let written = std::fs::read(&entries()[0]).unwrap();
    works(&Engine::new(Some(&cache)).unwrap());
    // A damaged entry is compiled again and replaced.
    let mut damaged = written.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for wrong in [damaged, Vec::new(), b"short".to_vec(), [[0; 32].as_slice(), b"no code"].concat()] {
        std::fs::write(&entries()[0], wrong).unwrap();
        works(&Engine::new(Some(&cache)).unwrap());
        assert_eq!(std::fs::read(&entries()[0]).unwrap(), written);
    }
}

#[test]
fn compiled_code_that_others_can_write_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(folder.path(), 0o777);
    let error = Engine::new(Some(folder.path())).unwrap_err();
    assert!(error.message.contains("can be written by others"), "{error}");
    mode(folder.path(), 0o700);
    let engine = Engine::new(Some(folder.path())).unwrap();
    let bytes = wat::parse_str(PLAIN).unwrap();
    engine.compile(&bytes).unwrap();
    let entry = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    mode(&entry, 0o666);
    engine.compile(&bytes).unwrap();
    let replaced = std::fs::metadata(&entry).unwrap().permissions().mode();
    assert_eq!(replaced & 0o777, 0o600, "compiled again and replaced by a file of our own");
}
