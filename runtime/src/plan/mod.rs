//! The plan: what will run. Names resolved, SQL planned, modules compiled, connectors built but not connected.
//!
//! Building a plan spawns nothing and opens no connection; a plan that fails leaves nothing behind. All problems of all
//! parts are reported together.

pub(crate) mod graph;
mod sinks;
mod sources;
mod steps;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::prelude::SessionContext;
use millstream_connectors::routes::Routes;

use crate::functions::{Engine, Module, ScalarFunction};
use crate::spec::model::{LateSpec, OnError, PipelineSpec};
use crate::spec::problem::{Part, Problem, Severity, nearest};
use crate::sql::tumble::Streams;
use crate::sql::{session, types};
use graph::Graph;
pub(crate) use sinks::{DeadLetterPlan, Port, SinkPlan};
pub(crate) use sources::{SourcePlan, TablePlan};

/// What plans are built with: things of the daemon that outlive pipelines.
#[derive(Clone)]
pub struct Environment {
    /// The WebAssembly engine.
    pub functions: Arc<Engine>,
    /// The paths of the HTTP listener.
    pub routes: Arc<Routes>,
    /// Below it each pipeline has a folder.
    pub data_dir: PathBuf,
}

/// What will run.
pub struct Plan {
    /// The pipeline's name.
    pub name: String,
    /// Says whether two plans are the same: the spec with everything resolved, and the content of modules.
    pub fingerprint: String,
    /// The folder for its state.
    pub(crate) data_dir: PathBuf,
    pub(crate) spec: PipelineSpec,
    pub(crate) graph: Graph,
    pub(crate) sources: Vec<SourcePlan>,
    pub(crate) tables: Vec<TablePlan>,
    pub(crate) sinks: Vec<SinkPlan>,
    pub(crate) dead_letter: DeadLetterPlan,
    /// By step.
    pub(crate) routes: HashMap<String, StepRoutes>,
    /// Files beside the YAML whose change is a change of the pipeline.
    pub files: Vec<PathBuf>,
}

/// What a step does with rows that cannot go on.
#[derive(Debug, Clone)]
pub(crate) struct StepRoutes {
    pub(crate) late: LateSpec,
    pub(crate) on_error: OnError,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("name", &self.name).field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Plan {
    /// Plans `spec`, which was read from `file`. Warnings are among the problems too; the plan is there where no problem
    /// is an error.
    pub async fn build(file: &Path, spec: &PipelineSpec, environment: &Environment) -> (Option<Self>, Vec<Problem>) {
        let mut problems = Vec::new();
        let built = build(file, spec, environment, &mut problems).await;
        let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
        (built.filter(|_| !failed), problems)
    }

    /// True where every stream comes to an end by itself.
    pub fn bounded(&self) -> bool {
        self.sources.iter().all(|source| source.bounded)
    }

    /// The streams that have no end.
    pub(crate) fn unbounded_sources(&self) -> Vec<String> {
        self.sources.iter().filter(|source| !source.bounded).map(|source| source.name.clone()).collect()
    }

    /// How long a stop may take.
    pub(crate) fn stop_timeout(&self) -> Duration {
        self.spec.limits.stop_timeout.0
    }

    /// By stateful node, what its state depends on: with the step's revision, which the user raises to start afresh.
    pub(crate) fn fingerprints(&self) -> BTreeMap<String, String> {
        let stateful = self.graph.nodes.iter().filter_map(|node| {
            let revision =
                node.step.as_ref().and_then(|step| self.spec.steps.get(step)).map_or(0, |step| step.revision);
            Some((node.name.clone(), format!("{}/{revision}", node.fingerprint.as_ref()?)))
        });
        stateful.collect()
    }
}

/// The modules of a pipeline, compiled.
struct Functions {
    functions: Vec<Arc<dyn ScalarFunction>>,
    hashes: HashMap<String, String>,
    files: Vec<PathBuf>,
}

async fn build(
    file: &Path,
    spec: &PipelineSpec,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> Option<Plan> {
    let base_dir = file.parent().map(Path::to_owned).unwrap_or_default();
    let name = spec.name.clone().unwrap_or_else(|| {
        file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_else(|| "pipeline".into())
    });
    let functions = load_functions(spec, &base_dir, environment, problems).await;
    let streams = Streams::default();
    let session = match session::create(&functions.functions, streams.clone()) {
        Ok(session) => session,
        Err(error) => {
            problems.push(Problem::new(["functions"], error.strip_backtrace()));
            return None;
        }
    };
    let mut graph = Graph::default();
    let builder = Builder { name: &name, spec, base_dir: &base_dir, environment, session: &session, streams };
    let (sources, tables) = builder.sources(&mut graph, problems).await;
    let outputs = builder.steps(&mut graph, &sources, &functions.hashes, problems).await;
    let sinks = builder.sinks(&graph, &outputs, problems);
    let dead_letter = builder.dead_letter(problems)?;
    warn_unused(spec, &graph, &sinks, problems);
    let routes = spec
        .steps
        .iter()
        .map(|(name, step)| (name.clone(), StepRoutes { late: step.late.clone(), on_error: step.on_error }));
    let fingerprint = fingerprint(spec, &functions, &tables);
    let mut files = functions.files;
    files.extend(tables.iter().flat_map(|table| table.file.clone()));
    Some(Plan {
        data_dir: environment.data_dir.join(&name),
        fingerprint,
        spec: spec.clone(),
        graph,
        sources,
        tables,
        sinks,
        dead_letter,
        routes: routes.collect(),
        files,
        name,
    })
}

/// What the parts of a plan are built with.
struct Builder<'a> {
    name: &'a str,
    spec: &'a PipelineSpec,
    base_dir: &'a Path,
    environment: &'a Environment,
    session: &'a SessionContext,
    streams: Streams,
}

/// The spec with secrets in it would not be safe to store; its hash is.
fn fingerprint(spec: &PipelineSpec, functions: &Functions, tables: &[TablePlan]) -> String {
    let mut hasher = blake3::Hasher::new();
    // Debug output shows every field (secrets as stars, so a changed secret is told by the loader's own hash).
    hasher.update(format!("{spec:?}").as_bytes());
    let mut hashes: Vec<_> = functions.hashes.iter().collect();
    hashes.sort();
    hasher.update(format!("{hashes:?}").as_bytes());
    for table in tables {
        hasher.update(format!("{:?}", table.table.schema()).as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

async fn load_functions(
    spec: &PipelineSpec,
    base_dir: &Path,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> Functions {
    let mut loaded = Functions { functions: Vec::new(), hashes: HashMap::new(), files: Vec::new() };
    for (index, function) in spec.functions.iter().enumerate() {
        let file = base_dir.join(&function.wasm);
        loaded.files.push(file.clone());
        let (engine, spec) = (environment.functions.clone(), function.clone());
        let module = tokio::task::spawn_blocking(move || Module::load(&engine, &file, &spec, &types::parse)).await;
        let module = match module {
            Ok(Ok(module)) => module,
            Ok(Err(found)) => {
                problems.extend(found.into_iter().map(|mut problem| {
                    problem.path.splice(0..0, ["functions".to_owned(), index.to_string()]);
                    problem
                }));
                continue;
            }
            Err(error) => {
                problems.push(Problem::new(["functions", &index.to_string()], format!("cannot be loaded: {error}")));
                continue;
            }
        };
        for function in module.functions() {
            let name = function.name().to_owned();
            if loaded.hashes.insert(name.clone(), module.hash().to_owned()).is_some() {
                let message = format!("the function `{name}` is already there from another module");
                let hint = format!("rename one of them: exports: {{{name}: {{name: …}}}}");
                problems.push(Problem::new(["functions", &index.to_string(), "wasm"], message).hint(hint));
                continue;
            }
            loaded.functions.push(function);
        }
    }
    loaded
}

/// Sources and steps that nothing reads do work for nobody.
fn warn_unused(spec: &PipelineSpec, graph: &Graph, sinks: &[SinkPlan], problems: &mut Vec<Problem>) {
    let mut used: Vec<bool> = vec![false; graph.nodes.len()];
    for node in &graph.nodes {
        node.inputs.iter().for_each(|input| used[*input] = true);
    }
    for sink in sinks {
        sink.from.iter().for_each(|(node, _)| used[*node] = true);
    }
    let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
    if failed {
        return;
    }
    for (node, used) in graph.nodes.iter().zip(used) {
        if used {
            continue;
        }
        let (path, what) = match &node.step {
            None => (["sources", &node.name], "source"),
            Some(step) if spec.steps.contains_key(step) => (["steps", step], "step"),
            Some(_) => continue,
        };
        let known = problems.iter().any(|problem| problem.path == path);
        if !known {
            let mut problem = Problem::new(path, format!("nothing reads this {what}")).at(Part::Key);
            problem.severity = Severity::Warning;
            problems.push(problem);
        }
    }
}

/// A problem about a name that is not among `names`.
fn unknown_name(path: &[&str], what: &str, name: &str, names: &[String]) -> Problem {
    let problem = Problem::new(path.iter().copied(), format!("there is no {what} `{name}`"));
    match nearest(name, names.iter().map(String::as_str)) {
        Some(candidate) => problem.hint(format!("did you mean `{candidate}`?")),
        None if names.is_empty() => problem,
        None => problem.hint(format!("there are: {}", names.join(", "))),
    }
}

/// A connector's complaint, as a problem below `path`.
fn connector_problem(path: &[&str], connector: &str, error: &millstream_connectors::ConnectorError) -> Problem {
    let mut full: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
    match error.option.as_deref() {
        // `format` and `metadata` stand beside the connector, not in it.
        Some(option) if option == "format" || option.starts_with("format.") => {
            full.extend(option.split('.').map(str::to_owned));
        }
        Some(option) => {
            full.push(connector.to_owned());
            full.extend(option.split('.').filter(|part| !part.is_empty()).map(str::to_owned));
        }
        None => full.push(connector.to_owned()),
    }
    Problem::new(full, error.message.clone())
}
