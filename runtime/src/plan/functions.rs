//! The WebAssembly modules of a plan, compiled, and their functions made known to SQL.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use datafusion::prelude::SessionContext;

use super::Environment;
use crate::functions::{Module, ScalarFunction};
use crate::spec::draft::Gaps;
use crate::spec::model::PipelineSpec;
use crate::spec::problem::Problem;
use crate::sql::udf::WasmFunction;
use crate::sql::{session, types};

/// The modules of a pipeline.
#[derive(Default)]
pub(super) struct Loaded {
    /// By function, the hash of its module.
    pub(super) hashes: HashMap<String, String>,
    /// The modules' files.
    pub(super) files: Vec<PathBuf>,
    /// Some functions could not be made known.
    pub(super) incomplete: bool,
}

/// Loads the modules and registers their functions.
pub(super) async fn load(
    spec: &PipelineSpec,
    gaps: &Gaps,
    base_dir: &Path,
    environment: &Environment,
    session: &SessionContext,
    problems: &mut Vec<Problem>,
) -> Loaded {
    let mut loaded = Loaded { incomplete: !gaps.functions.is_empty(), ..Loaded::default() };
    let built_in = session::function_names(session);
    for (index, function) in spec.functions.iter().enumerate() {
        if function.wasm.is_empty() && gaps.functions.contains(&index) {
            continue;
        }
        let file = base_dir.join(&function.wasm);
        loaded.files.push(file.clone());
        let (engine, spec) = (environment.functions.clone(), function.clone());
        let module = tokio::task::spawn_blocking(move || Module::load(&engine, &file, &spec, &types::parse)).await;
        let module = match module {
            Ok(Ok(module)) => module,
            Ok(Err(found)) => {
                loaded.incomplete = true;
                problems.extend(found.into_iter().map(|mut problem| {
                    problem.path.splice(0..0, ["functions".to_owned(), index.to_string()]);
                    problem
                }));
                continue;
            }
            Err(error) => {
                loaded.incomplete = true;
                problems.push(Problem::new(["functions", &index.to_string()], format!("cannot be loaded: {error}")));
                continue;
            }
        };
        // What was left out of the options may have said the functions' names and types.
        if gaps.functions.contains(&index) {
            continue;
        }
        for function in module.functions() {
            let refused = refused_name(function.as_ref(), &loaded.hashes, &built_in);
            if let Some((message, hint)) = refused {
                loaded.incomplete = true;
                problems.push(Problem::new(["functions", &index.to_string(), "wasm"], message).hint(hint));
                continue;
            }
            loaded.hashes.insert(function.name().to_owned(), module.hash().to_owned());
            session.register_udf(WasmFunction::create(function));
        }
    }
    loaded
}

/// What SQL reads as syntax when a parenthesis follows.
const SYNTAX: &[&str] = &[
    "all",
    "any",
    "array",
    "case",
    "cast",
    "ceil",
    "convert",
    "exists",
    "extract",
    "floor",
    "in",
    "interval",
    "map",
    "not",
    "overlay",
    "position",
    "row",
    "safe_cast",
    "some",
    "struct",
    "substr",
    "substring",
    "trim",
    "try_cast",
];

/// Why a function cannot have its name, and what to do about it.
fn refused_name(
    function: &dyn ScalarFunction,
    known: &HashMap<String, String>,
    built_in: &[String],
) -> Option<(String, String)> {
    let name = function.name();
    let lower = name.to_lowercase();
    let (message, which) = if known.contains_key(name) {
        (format!("the function `{name}` is already there from another module"), "one of them")
    } else if built_in.contains(&lower) || SYNTAX.contains(&lower.as_str()) {
        (format!("`{name}` is a function of SQL already"), "it")
    } else {
        return None;
    };
    Some((message, format!("rename {which}: `exports: {{{name}: {{name: my_{lower}}}}}`")))
}
