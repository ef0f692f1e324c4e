//! A `.wasm` file to a module whose functions SQL can call, or to everything that is wrong with it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::DataType;
use millstream_connectors::units::ByteSize;

use super::engine::Engine;
use super::exports;
use super::imports;
use super::instance::{Limits, Pool};
use super::scalar::{Scalar, ScalarFunction};
use crate::spec::model::FunctionSpec;
use crate::spec::problem::{Problem, nearest};

/// A larger file is refused. (A Go module has 2 MB, the largest guests known 18 MB.)
pub const MODULE_BYTES_MAX: u64 = 64 << 20;

const WASM_MAGIC: &[u8] = b"\0asm";
const CORE_VERSION: &[u8] = &[1, 0, 0, 0];
/// Bytes 6 and 7 say the layer: 0 core, 1 component.
const COMPONENT_LAYER: &[u8] = &[1, 0];

/// A module that is compiled, checked and ready to be called.
#[derive(Debug)]
pub struct Module {
    pool: Arc<Pool>,
}

impl Module {
    /// Reads, checks and compiles `file`, and starts a first instance. `types` parses a SQL type name.
    ///
    /// The problems' paths are relative to the function's node in the YAML: `["wasm"]`, `["exports", "f", "returns"]`.
    /// Blocks for as long as compiling takes (10 ms to seconds): not for an async worker thread.
    pub fn load(
        engine: &Arc<Engine>,
        file: &Path,
        spec: &FunctionSpec,
        types: &dyn Fn(&str) -> Result<DataType, String>,
    ) -> Result<Arc<Self>, Vec<Problem>> {
        let bytes = read(file).map_err(|problem| vec![problem])?;
        check_kind(&bytes).map_err(|problem| vec![problem])?;
        let compiled = engine.compile(&bytes).map_err(|error| vec![invalid(&error)])?;
        let mut problems = Vec::new();
        problems.extend(imports::check(&compiled.code).err());
        problems.extend(command(&compiled.code));
        problems.extend(too_small(&compiled.code, spec));
        if spec.deadline.0.is_zero() {
            problems.push(Problem::new(["deadline"], "a deadline of 0s leaves no time for any call").hint("`1s`"));
        }
        let signatures = match exports::signatures(&compiled.code, &spec.exports, types) {
            Ok(signatures) if problems.is_empty() => signatures,
            Ok(_) => return Err(problems),
            Err(more) => {
                problems.extend(more);
                return Err(problems);
            }
        };
        let name = file.file_name().map_or_else(|| spec.wasm.clone(), |name| name.to_string_lossy().into_owned());
        let limits = Limits { memory_max: spec.memory_max, deadline: spec.deadline.0 };
        let pool = Pool::new(engine, compiled, &name, signatures, limits)
            .map_err(|message| vec![Problem::new(["wasm"], format!("the module {message}"))])?;
        Ok(Arc::new(Self { pool: Arc::new(pool) }))
    }

    /// The blake3 of the file's bytes, in hexadecimal.
    pub fn hash(&self) -> &str {
        self.pool.hash()
    }

    /// What SQL can call.
    pub fn functions(&self) -> Vec<Arc<dyn ScalarFunction>> {
        (0..self.pool.signatures().len())
            .filter_map(|index| Scalar::new(&self.pool, index))
            .map(|function| Arc::new(function) as Arc<dyn ScalarFunction>)
            .collect()
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    let shown = file.display();
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => {
            let problem = Problem::new(["wasm"], format!("there is no file {shown}"));
            match beside(file) {
                Some(hint) => problem.hint(hint),
                None => problem.hint("the path is relative to the YAML file"),
            }
        }
        _ => Problem::new(["wasm"], format!("cannot read {shown}: {error}")),
    };
    let opened = File::open(file).map_err(failed)?;
    let metadata = opened.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Problem::new(["wasm"], format!("{shown} is not a file")).hint("name the .wasm file itself"));
    }
    let mut bytes = Vec::new();
    opened.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MODULE_BYTES_MAX {
        let limit = ByteSize(MODULE_BYTES_MAX);
        return Err(Problem::new(["wasm"], format!("{shown} is larger than the limit of {limit}"))
            .hint("build it optimised and without debug information (`-O2 -Wl,--strip-all`, `-C strip=symbols`)"));
    }
    Ok(bytes)
}

/// What the missing file may have been meant to be: the folder's nearest name, or its .wasm files.
fn beside(file: &Path) -> Option<String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = folder.read_dir() else { return Some(format!("there is no folder {} either", folder.display())) };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".wasm").map(str::to_owned))
        .collect();
    names.sort_unstable();
    let written = file.file_stem()?.to_string_lossy();
    match nearest(&written, names.iter().map(String::as_str)) {
        Some(near) => Some(format!("did you mean `{near}.wasm`?")),
        None if names.is_empty() => None,
        None => {
            names.truncate(10);
            Some(format!("the folder has {}.wasm", names.join(".wasm, ")))
        }
    }
}

/// Tells a core module from everything else that people name by mistake.
fn check_kind(bytes: &[u8]) -> Result<(), Problem> {
    let refuse = |message: &str, hint: &str| Err(Problem::new(["wasm"], message).hint(hint));
    if bytes.is_empty() {
        return refuse("the file is empty", "did the build fail?");
    }
    if let Some(rest) = bytes.strip_prefix(WASM_MAGIC) {
        return match rest {
            rest if rest.starts_with(CORE_VERSION) => Ok(()),
            rest if rest.get(2..4) == Some(COMPONENT_LAYER) => refuse(
                "this is a WebAssembly component, and components are not supported yet",
                "build a core module: a plain `wasm32-unknown-unknown` or `wasm32-wasip1` target, without \
                 `wasm-tools component new`, componentize or `wasm32-wasip2`",
            ),
            _ => refuse(
                "the file is WebAssembly of an unknown version, or cut off",
                "build it again for WebAssembly version 1",
            ),
        };
    }
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'(') => refuse("the file is WebAssembly text", "assemble it: `wat2wasm f.wat -o f.wasm`"),
        _ if bytes.starts_with(b"\x7fELF")
            || bytes.starts_with(b"MZ")
            || bytes.starts_with(&[0xcf, 0xfa, 0xed, 0xfe]) =>
        {
            refuse("the file is a program for this machine, not WebAssembly", "build it with `--target=wasm32`")
        }
        _ => refuse(
            "the file is not WebAssembly (it does not begin with `\\0asm`)",
            "name the .wasm file that the compiler made; udf-sdk/README.md shows how to make one",
        ),
    }
}

fn invalid(error: &wasmtime::Error) -> Problem {
    let text = format!("{error:#}");
    let message = format!("the module is not valid or uses what is not supported: {}", text.replace('\n', " "));
    let hint = if text.contains("threads") || text.contains("shared") || text.contains("atomic") {
        "threads and shared memory are not supported: build without them"
    } else {
        "build it again; if it was built well, it uses a newer WebAssembly feature that can be switched off there"
    };
    Problem::new(["wasm"], message).hint(hint)
}

/// A program with a main function has nothing to call after it has run.
fn command(code: &wasmtime::Module) -> Option<Problem> {
    let has = |name: &str| code.get_export(name).is_some();
    (has("_start") && !has("_initialize")).then(|| {
        Problem::new(["wasm"], "the module is a program (it exports `_start`), not a library of functions").hint(
            "build a reactor: `-mexec-model=reactor` or `-nostdlib -Wl,--no-entry` in C, `--crate-type cdylib` in Rust, \
             `-buildmode=c-shared` in Go",
        )
    })
}

/// A module that wants more memory at its start than it may have.
fn too_small(code: &wasmtime::Module, spec: &FunctionSpec) -> Option<Problem> {
    const PAGE: u64 = 64 << 10;
    let wanted = ByteSize(code.resources_required().max_initial_memory_size?.saturating_mul(PAGE));
    (wanted > spec.memory_max).then(|| {
        let message = format!("the module starts with {wanted} of memory, more than the {} allowed", spec.memory_max);
        Problem::new(["memory_max"], message)
            .hint(format!("`memory_max: {wanted}` or more, or build it with a smaller stack"))
    })
}
