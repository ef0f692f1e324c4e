//! Which exports of a module are SQL functions, of which types, and why the others are not.

use std::collections::HashMap;

use arrow::datatypes::DataType;
use indexmap::IndexMap;
use wasmtime::{ExternType, FuncType, ValType};

use super::scalar::{Kind, Signature};
use crate::spec::model::ExportSpec;
use crate::spec::problem::{Part, Problem, nearest};

/// Parses a SQL type name; the error is a sentence.
pub(super) type Types<'a> = dyn Fn(&str) -> Result<DataType, String> + 'a;

/// Exports that belong to the module's own machinery; names that begin with `__` do too.
const MACHINERY: &[&str] = &[
    "_initialize",
    "_start",
    "cabi_realloc",
    "calloc",
    "free",
    "malloc",
    "ms_alloc",
    "ms_free",
    "ms_reset",
    "realloc",
];

/// The functions that a module offers, refined by what the YAML says; or everything that is wrong with that.
pub(super) fn signatures(
    module: &wasmtime::Module,
    specs: &IndexMap<String, ExportSpec>,
    types: &Types<'_>,
) -> Result<Vec<Signature>, Vec<Problem>> {
    let exports: IndexMap<&str, Result<(Vec<Kind>, Kind), String>> =
        module.exports().map(|export| (export.name(), offered(export.name(), &export.ty()))).collect();
    let mut problems: Vec<Problem> =
        specs.keys().filter(|name| !exports.contains_key(name.as_str())).map(|name| unknown(name, &exports)).collect();
    let mut found: Vec<Signature> = Vec::new();
    let mut exporter: HashMap<String, String> = HashMap::new();
    for (&export, offered) in &exports {
        let spec = specs.get(export);
        match (offered, spec) {
            (Ok((arguments, result)), _) => match refine(export, arguments, *result, spec, types) {
                Ok(Some(signature)) => {
                    if let Some(other) = exporter.insert(signature.name.clone(), export.to_owned()) {
                        problems.push(duplicate(&signature, &other, spec.is_some()));
                    }
                    found.push(signature);
                }
                Ok(None) => tracing::debug!(export, "not a function in SQL: its name needs `name`"),
                Err(more) => problems.extend(more),
            },
            (Err(why), Some(_)) => problems.push(
                Problem::new(["exports", export], format!("`{export}` cannot be a SQL function: {why}")).at(Part::Key),
            ),
            (Err(why), None) => tracing::debug!(export, "not a function in SQL: {why}"),
        }
    }
    if problems.is_empty() && found.is_empty() {
        problems.push(nothing(&exports));
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// An export's WebAssembly types, or why it cannot be a function in SQL.
fn offered(name: &str, ty: &ExternType) -> Result<(Vec<Kind>, Kind), String> {
    let function: &FuncType = match ty {
        ExternType::Func(function) => function,
        ExternType::Memory(_) => return Err("it is a memory".into()),
        ExternType::Global(_) => return Err("it is a global variable".into()),
        ExternType::Table(_) => return Err("it is a table".into()),
        ExternType::Tag(_) => return Err("it is an exception tag".into()),
    };
    if MACHINERY.contains(&name) || name.starts_with("__") {
        return Err("it belongs to the module's own machinery (start, memory)".into());
    }
    let kind = |ty: ValType| {
        Kind::of(&ty).ok_or_else(|| format!("it has the type {ty}, and only i32, i64, f32 and f64 have SQL types"))
    };
    let arguments = function.params().map(kind).collect::<Result<Vec<_>, _>>()?;
    let mut results = function.results();
    match (results.next(), results.next()) {
        (Some(result), None) => Ok((arguments, kind(result)?)),
        (None, _) => Err("it returns nothing, and a function must return one number".into()),
        (Some(_), Some(_)) => {
            Err(format!("it returns {} values, and a function must return one", function.results().len()))
        }
    }
}

/// The signature with the names and types that the YAML gives it. `None` where its own name cannot be written in SQL and
/// no other is given.
fn refine(
    export: &str,
    arguments: &[Kind],
    result: Kind,
    spec: Option<&ExportSpec>,
    types: &Types<'_>,
) -> Result<Option<Signature>, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = match spec.and_then(|spec| spec.name.as_deref()) {
        Some(name) if identifier(name) => name.to_owned(),
        Some(name) => {
            problems.push(
                Problem::new(["exports", export, "name"], format!("`{name}` cannot be the name of a function in SQL"))
                    .hint("use lower-case letters, digits and `_`, not beginning with a digit"),
            );
            String::new()
        }
        // SQL folds names that are not quoted to lower case: heatLoad(x) calls heatload.
        None => match export.to_ascii_lowercase() {
            name if identifier(&name) => name,
            _ if spec.is_none() => return Ok(None),
            _ => {
                problems.push(
                    Problem::new(["exports", export], format!("`{export}` cannot be written as a function in SQL"))
                        .at(Part::Key)
                        .hint("give it another name: `name: …`"),
                );
                String::new()
            }
        },
    };
    let mut refined: Vec<DataType> = arguments.iter().map(|kind| kind.natural()).collect();
    if let Some(written) = spec.and_then(|spec| spec.arguments.as_ref()) {
        if written.len() == arguments.len() {
            for (i, text) in written.iter().enumerate() {
                let path = ["exports".to_owned(), export.to_owned(), "arguments".to_owned(), i.to_string()];
                match sql_type(text, arguments[i], types) {
                    Ok(data_type) => refined[i] = data_type,
                    Err((message, hint)) => problems.push(Problem::new(path, message).hint(hint)),
                }
            }
        } else {
            let kinds: Vec<&str> = arguments.iter().map(|kind| kind.wasm()).collect();
            let message = format!(
                "{} argument types are written, but `{export}` takes {}: ({})",
                written.len(),
                arguments.len(),
                kinds.join(", ")
            );
            problems.push(Problem::new(["exports", export, "arguments"], message).hint("write one SQL type for each"));
        }
    }
    let mut returns = result.natural();
    if let Some(text) = spec.and_then(|spec| spec.returns.as_deref()) {
        match sql_type(text, result, types) {
            Ok(data_type) => returns = data_type,
            Err((message, hint)) => problems.push(Problem::new(["exports", export, "returns"], message).hint(hint)),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let (arguments, argument_types) = (arguments.to_vec(), refined);
    Ok(Some(Signature { export: export.to_owned(), name, arguments, argument_types, result, returns }))
}

/// The Arrow type for `text`, where a WebAssembly value of `kind` can be one; else message and hint.
fn sql_type(text: &str, kind: Kind, types: &Types<'_>) -> Result<DataType, (String, String)> {
    let hint = format!("{} can be: {}", kind.wasm(), kind.sql_types());
    match types(text) {
        Ok(data_type) if kind.can_be(&data_type) => Ok(data_type),
        Ok(_) => Err((format!("a WebAssembly {} cannot be `{text}`", kind.wasm()), hint)),
        Err(message) => Err((message, hint)),
    }
}

/// True for what SQL takes as a name without quotes.
fn identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn unknown(name: &str, exports: &IndexMap<&str, Result<(Vec<Kind>, Kind), String>>) -> Problem {
    let functions: Vec<&str> = exports.iter().filter(|(_, offered)| offered.is_ok()).map(|(name, _)| *name).collect();
    let hint = match nearest(name, functions.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if functions.is_empty() => "the module exports no functions that SQL could call".to_owned(),
        None => format!("it exports {}", listed(&functions)),
    };
    Problem::new(["exports", name], format!("the module has no export `{name}`")).at(Part::Key).hint(hint)
}

fn duplicate(signature: &Signature, other: &str, written: bool) -> Problem {
    let (export, name) = (&signature.export, &signature.name);
    let message = format!("the exports `{other}` and `{export}` would both be `{name}` in SQL");
    let problem = if written { Problem::new(["exports", export], message) } else { Problem::new(["wasm"], message) };
    problem.hint(format!("give one of them another name: `exports: {{{export}: {{name: …}}}}`"))
}

fn nothing(exports: &IndexMap<&str, Result<(Vec<Kind>, Kind), String>>) -> Problem {
    let reasons: Vec<String> = exports
        .iter()
        .filter_map(|(name, offered)| match offered {
            Err(why) if *name != "memory" => Some(format!("`{name}`: {why}")),
            Ok(_) => Some(format!("`{name}`: SQL cannot write that name, so it needs `name` under `exports`")),
            Err(_) => None,
        })
        .take(SHOWN_MAX)
        .collect();
    let problem = Problem::new(["wasm"], "the module exports no function that SQL could call");
    if reasons.is_empty() {
        problem.hint(
            "export it: `-Wl,--export=f` or `__attribute__((export_name(\"f\")))` in C, `#[no_mangle] pub extern \"C\" \
             fn` in Rust, `export fn` in Zig, `//go:wasmexport f` in Go",
        )
    } else {
        problem.hint(reasons.join("; "))
    }
}

/// So many names in a message.
const SHOWN_MAX: usize = 10;

fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN_MAX).map(|name| format!("`{name}`")).collect();
    match names.len().checked_sub(SHOWN_MAX) {
        Some(more) if more > 0 => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}
