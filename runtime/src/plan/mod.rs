//! The plan: what will run. Names resolved, SQL planned, modules compiled, connectors built but not connected.
//!
//! Building a plan spawns nothing and opens no connection; a plan that fails leaves nothing behind. All problems of all
//! parts are reported together.

mod event_time;
mod functions;
pub(crate) mod graph;
pub(crate) mod projection;
mod sinks;
mod sources;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::prelude::SessionContext;
use millstream_connectors::routes::Routes;

use crate::engine::clock::EventTimePlan;
use crate::functions::Engine;
use crate::spec::draft::{Draft, Gaps};
use crate::spec::model::{LateSpec, OnError, PipelineSpec};
use crate::spec::problem::{Part, Problem, Severity, nearest};
use crate::sql::session;
use crate::sql::windows::planner::Streams;
use graph::{Graph, NodeId};
pub(crate) use sinks::{DeadLetterPlan, Port, SinkPlan};
pub(crate) use sources::{SourcePlan, TablePlan, key_of};

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
        f.debug_struct("Plan").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Plan {
    /// Plans `spec`, which was read from `file`. Warnings are among the problems too; the plan is there where no problem
    /// is an error.
    pub async fn build(file: &Path, spec: &PipelineSpec, environment: &Environment) -> (Option<Self>, Vec<Problem>) {
        let mut problems = Vec::new();
        let gaps = Gaps::default();
        // Planning holds much on its way; the caller's task need not.
        let built = Box::pin(build(file, spec, &gaps, environment, &mut problems)).await;
        let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
        (built.filter(|_| !failed), problems)
    }

    /// Everything that is wrong with what `draft` knows of a file with mistakes, beyond those mistakes.
    pub async fn judge(file: &Path, draft: &Draft, environment: &Environment) -> Vec<Problem> {
        let mut problems = Vec::new();
        Box::pin(build(file, &draft.spec, &draft.gaps, environment, &mut problems)).await;
        problems.retain(|problem| problem.severity == Severity::Error);
        problems
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
        let stateful = self.graph.nodes.iter().enumerate().filter_map(|(id, node)| {
            let revision =
                node.step.as_ref().and_then(|step| self.spec.steps.get(step)).map_or(0, |step| step.revision);
            let fingerprint = node.fingerprint.as_ref()?;
            Some((node.name.clone(), format!("{fingerprint}{}/{revision}", self.clocks(id))))
        });
        stateful.collect()
    }

    /// Which of the streams that a node reads go by the clock, for its fingerprint: what is open by the time of rows has not
    /// the times of the clock. Empty where none does.
    fn clocks(&self, node: NodeId) -> String {
        let by_clock = |source: &usize| {
            let time = self.sources.get(*source).and_then(|source| source.event_time.as_ref());
            time.is_some_and(EventTimePlan::is_processing)
        };
        let sources = self.graph.sources_of(node);
        match sources.iter().any(by_clock) {
            false => String::new(),
            true => sources.iter().map(|source| if by_clock(source) { "+clock" } else { "+rows" }).collect(),
        }
    }
}

async fn build(
    file: &Path,
    spec: &PipelineSpec,
    gaps: &Gaps,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> Option<Plan> {
    let base_dir = file.parent().map(Path::to_owned).unwrap_or_default();
    let name = spec.name.clone().unwrap_or_else(|| {
        file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_else(|| "pipeline".into())
    });
    let streams = Streams::default();
    let session = match session::create(streams.clone()) {
        Ok(session) => session,
        Err(error) => {
            problems.push(Problem::new(["functions"], error.strip_backtrace()));
            return None;
        }
    };
    let functions = functions::load(spec, gaps, &base_dir, environment, &session, problems).await;
    let mut graph = Graph::default();
    let unknown = Unknown {
        names: gaps.names,
        relations: gaps.steps.union(&gaps.columns).cloned().collect(),
        functions: functions.incomplete,
    };
    let mut builder =
        Builder { name: &name, spec, gaps, base_dir: &base_dir, environment, session: &session, streams, unknown };
    let (mut sources, tables) = builder.sources(&mut graph, problems).await;
    graph.bounded = sources.iter().map(|source| source.bounded).collect();
    let outputs = builder.steps(&mut graph, &functions.hashes, problems).await;
    let sinks = builder.sinks(&graph, &outputs, problems);
    let dead_letter = builder.dead_letter(problems)?;
    warn_unused(spec, &graph, &sinks, problems);
    if let Err(error) = projection::narrow(&mut graph, &mut sources, &sinks) {
        problems.push(Problem::new(["sources"], error.strip_backtrace()));
        return None;
    }
    let routes = spec
        .steps
        .iter()
        .map(|(name, step)| (name.clone(), StepRoutes { late: step.late.clone(), on_error: step.on_error }));
    Some(Plan {
        data_dir: environment.data_dir.join(&name),
        spec: spec.clone(),
        graph,
        sources,
        tables,
        sinks,
        dead_letter,
        routes: routes.collect(),
        files: functions.files,
        name,
    })
}

/// What the parts of a plan are built with.
struct Builder<'a> {
    name: &'a str,
    spec: &'a PipelineSpec,
    gaps: &'a Gaps,
    base_dir: &'a Path,
    environment: &'a Environment,
    session: &'a SessionContext,
    streams: Streams,
    unknown: Unknown,
}

/// What cannot be known because of mistakes that have been reported: nothing is said about what depends on it.
#[derive(Debug, Default)]
struct Unknown {
    /// A name that is not known may all the same be one of a source or step.
    names: bool,
    /// Sources and steps of unknown columns.
    relations: BTreeSet<String>,
    /// A function that is not known may be one of a module that could not be loaded.
    functions: bool,
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
    let option = error.option.as_deref().unwrap_or_default();
    // `columns[2].name` and `columns.2.name` are the same place.
    let parts: Vec<&str> = option.split(['.', '[', ']']).filter(|part| !part.is_empty()).collect();
    // `format` and `metadata` stand beside the connector, not in it.
    if !matches!(parts.first(), Some(&("format" | "metadata"))) {
        full.push(connector.to_owned());
    }
    full.extend(parts.into_iter().map(str::to_owned));
    Problem::new(full, error.message.clone())
}
