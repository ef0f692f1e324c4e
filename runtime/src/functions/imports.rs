//! What a module may import: `env.abort` and WASI preview 1 as a closed stand-in. Everything else is refused by name.

use wasmtime::{Caller, Extern, ExternType, Linker};

use super::instance::Host;
use super::wasi;
use crate::spec::problem::Problem;

/// The longest `abort` message that is shown, in characters.
const ABORT_MESSAGE_CHARS_MAX: usize = 200;

/// Why a guest ended its own call.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuestExit {
    /// `abort(message, file, line, column)` of AssemblyScript.
    #[error("abort: {message} (line {line}, column {column} of the function's source)")]
    Abort {
        /// Its text.
        message: String,
        /// In the guest's source.
        line: i32,
        /// In the guest's source.
        column: i32,
    },
    /// `proc_exit` of WASI.
    #[error("the function ended its program with exit code {0}")]
    Exit(i32),
}

/// Everything a module may import.
pub(super) fn linker(engine: &wasmtime::Engine) -> Result<Linker<Host>, wasmtime::Error> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("env", "abort", abort)?;
    wasi::define(&mut linker)?;
    Ok(linker)
}

/// Every import that is not allowed, all in one problem.
pub(super) fn check(module: &wasmtime::Module) -> Result<(), Problem> {
    let refused: Vec<(String, String)> = module
        .imports()
        .filter(|import| !allowed(import.module(), import.name(), &import.ty()))
        .map(|import| (import.module().to_owned(), format!("{}.{}", import.module(), import.name())))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = refused.iter().map(|(_, name)| name.as_str()).collect();
    let message = format!("the module imports what functions are not given: {}", names.join(", "));
    let hint = refused.iter().find_map(|(module, name)| hint(module, name)).unwrap_or(
        "a function may only import `env.abort` and WASI preview 1; declare what is missing inside the module, or leave \
         out the code that needs it",
    );
    Err(Problem::new(["wasm"], message).hint(hint))
}

fn allowed(module: &str, name: &str, ty: &ExternType) -> bool {
    matches!(ty, ExternType::Func(_))
        && ((module, name) == ("env", "abort") || module == wasi::MODULE && wasi::has(name))
}

/// What to do about the imports that common tools leave behind.
fn hint(module: &str, name: &str) -> Option<&'static str> {
    Some(match (module, name) {
        (_, "env.__linear_memory" | "env.__indirect_function_table" | "env.__stack_pointer") => {
            "this is an object file: link it (`wasm-ld --no-entry --export-all f.o -o f.wasm`, or clang without `-c`)"
        }
        (_, "env.memory") => "link without `--import-memory`: a function brings its own memory",
        ("env", _) => {
            "what `env` is asked for was not found when linking: link the library that has it (for C's mathematics \
             wasi-libc's `libc.a`), or write it in the module"
        }
        ("wbg" | "__wbindgen_placeholder__" | "__wbindgen_externref_xform__", _) => {
            "leave out wasm-bindgen: write `#[no_mangle] pub extern \"C\" fn` and build for wasm32-unknown-unknown"
        }
        ("go" | "gojs", _) => "build Go with GOOS=wasip1 and -buildmode=c-shared, not for JavaScript",
        ("wasi_unstable", _) => "build with a WASI SDK of 2020 or later: this is WASI preview 0",
        _ => return None,
    })
}

/// AssemblyScript's `abort`: its texts are pointers to UTF-16 with the length in bytes four bytes before.
fn abort(
    mut caller: Caller<'_, Host>,
    message: i32,
    _file: i32,
    line: i32,
    column: i32,
) -> Result<(), wasmtime::Error> {
    let message = match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => utf16(memory.data(&caller), message).unwrap_or_default(),
        _ => String::new(),
    };
    Err(wasmtime::Error::new(GuestExit::Abort { message, line, column }))
}

fn utf16(memory: &[u8], pointer: i32) -> Option<String> {
    let start = pointer as u32 as usize;
    let length = u32::from_le_bytes(*memory.get(start.checked_sub(4)?..)?.first_chunk()?) as usize;
    let bytes = memory.get(start..)?;
    let units = bytes.get(..length.min(2 * ABORT_MESSAGE_CHARS_MAX))?.chunks_exact(2);
    let text: String = char::decode_utf16(units.map(|unit| u16::from_le_bytes([unit[0], unit[1]])))
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    (!text.is_empty()).then_some(text)
}
