//! The steps of a plan: SQL to nodes of the graph, each step after those that it reads.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, SelectItem, Spanned, Statement};
use indexmap::IndexMap;

use super::Builder;
use super::sources::bare;
use crate::plan::graph::{Graph, NodeId, NodeKind};
use crate::spec::model::{EmitSpec, StepSpec};
use crate::spec::problem::{Part, Problem, nearest};
use crate::sql::compare;
use crate::sql::lower::Lowering;
use crate::sql::mend::{self, Unknown};
use crate::sql::parse::parse;
use crate::sql::problems::Context;
use crate::sql::relation::StreamRelation;
use crate::sql::survey::{self, Read};
use crate::sql::updating::{Lowered, Settings};

/// The most names of one query that are found unknown one after another; each costs a planning.
const MENDED_MAX: usize = 50;

/// The most expressions that are tried for the place of an error that has none; each costs a planning.
const TRIED_MAX: usize = 50;

/// A step whose SQL could be parsed.
struct Parsed<'a> {
    name: &'a str,
    spec: &'a StepSpec,
    statement: Statement,
    /// The names in FROM.
    reads: Vec<Read>,
}

impl Parsed<'_> {
    fn problem(&self, message: impl Into<String>, (line, column): (u64, u64)) -> Problem {
        Problem::new(["steps", self.name, "sql"], message).at(Part::Text { line, column })
    }
}

impl Builder<'_> {
    /// Plans all steps; the output node of each that could be planned, and of each stream source.
    pub(super) async fn steps(
        &self,
        graph: &mut Graph,
        function_hashes: &HashMap<String, String>,
        problems: &mut Vec<Problem>,
    ) -> IndexMap<String, NodeId> {
        // Also the sources whose connectors are wrong: their columns are known.
        let sources = graph.nodes.iter().enumerate().filter(|(_, node)| matches!(node.kind, NodeKind::Source(_)));
        let mut outputs: IndexMap<String, NodeId> = sources.map(|(id, node)| (node.name.clone(), id)).collect();
        // What is wrong with these has been said; what reads them cannot be judged.
        let mut failed = self.unknown.relations.clone();
        let mut waiting = Vec::new();
        for (name, spec) in &self.spec.steps {
            match self.parse(name, spec) {
                Ok(parsed) if self.names_are_right(&parsed, problems) => waiting.push(parsed),
                Ok(parsed) => {
                    self.refuse(&parsed, problems);
                    failed.insert(name.clone());
                }
                Err(problem) => {
                    problems.push(*problem);
                    failed.insert(name.clone());
                }
            }
        }
        while !waiting.is_empty() {
            let waits_for = |read: &Read| waiting.iter().any(|step: &Parsed<'_>| step.name == read.name);
            let Some(next) = waiting.iter().position(|step| !step.reads.iter().any(waits_for)) else {
                report_cycles(&waiting, problems);
                break;
            };
            let step = waiting.remove(next);
            let refused = self.refuse(&step, problems);
            let judged = !step.reads.iter().any(|read| failed.contains(&read.name));
            let planned = match (judged, refused) {
                (false, _) => None,
                (true, true) => {
                    if let Err(error) = self.logical(&step.statement).await {
                        self.explain(&step, error, true, graph, function_hashes, problems).await;
                    }
                    None
                }
                (true, false) => match self.step(&step, graph, function_hashes).await {
                    Ok(lowered) => {
                        problems.extend(without_effect(&step, &lowered));
                        Some(lowered.node)
                    }
                    Err(error) => {
                        self.explain(&step, error, false, graph, function_hashes, problems).await;
                        None
                    }
                },
            };
            match planned {
                Some(node) => drop(outputs.insert(step.name.to_owned(), node)),
                None => drop(failed.insert(step.name.to_owned())),
            }
        }
        outputs
    }

    fn context<'a>(&self, name: &str, spec: &'a StepSpec, statement: Option<&'a Statement>) -> Context<'a> {
        Context {
            path: ["steps", name, "sql"].map(str::to_owned).to_vec(),
            sql: &spec.sql,
            statement,
            functions: crate::sql::session::function_names(self.session),
            aggregates: self.session.state().aggregate_functions().keys().cloned().collect(),
        }
    }

    /// Where the SQL of the step `name` says what its column `column` is.
    pub(super) fn column_place(&self, name: &str, column: &str) -> Option<(u64, u64)> {
        let parsed = self.parse(name, self.spec.steps.get(name)?).ok()?;
        mend::clause(&parsed.statement, |select| {
            let item = select.projection.iter().find(|item| match item {
                SelectItem::ExprWithAlias { alias, .. } => survey::normalised(alias) == column,
                _ => false,
            });
            item.map(Spanned::span)
        })
        .or_else(|| {
            mend::clause(&parsed.statement, |select| {
                let item = select.projection.iter().find(|item| match item {
                    SelectItem::UnnamedExpr(Expr::BinaryOp { op, .. }) => *op == BinaryOperator::Arrow,
                    other => matches!(other, SelectItem::UnnamedExpr(Expr::Function(_))),
                });
                item.map(Spanned::span)
            })
        })
    }

    fn parse<'a>(&self, name: &'a str, spec: &'a StepSpec) -> Result<Parsed<'a>, Box<Problem>> {
        let statement = parse(&self.session.state(), &self.context(name, spec, None))?;
        let reads = survey::reads(&statement);
        Ok(Parsed { name, spec, statement, reads })
    }

    /// Reports the names in FROM that are none of a source or another step.
    fn names_are_right(&self, step: &Parsed<'_>, problems: &mut Vec<Problem>) -> bool {
        let before = problems.len();
        let mut hidden = false;
        for Read { name, place } in &step.reads {
            let declared = self.spec.sources.contains_key(name) || self.spec.steps.contains_key(name);
            if name == step.name {
                let problem = step.problem(format!("the step `{name}` reads itself"), *place);
                problems.push(problem.hint("read a source or another step"));
            } else if !declared && !self.unknown.relations.contains(name) {
                hidden |= self.unknown.names;
                if !self.unknown.names {
                    problems.push(self.unknown_relation(step, name, *place));
                }
            }
        }
        problems.len() == before && !hidden
    }

    fn unknown_relation(&self, step: &Parsed<'_>, name: &str, place: (u64, u64)) -> Problem {
        if self.spec.sinks.contains_key(name) || self.gaps.sinks.contains(name) {
            let problem = step.problem(format!("`{name}` is a sink; a step reads sources and other steps"), place);
            return problem.hint("read what the sink takes by its `from:`");
        }
        let problem = step.problem(format!("there is no source or step `{name}`"), place);
        let known = self.spec.sources.keys().chain(self.spec.steps.keys()).filter(|other| *other != step.name);
        let known: Vec<&str> = known.map(String::as_str).collect();
        if let Some(other) = known.iter().find(|known| known.to_lowercase() == name.to_lowercase()) {
            return problem.hint(format!("SQL reads names without quotes in lower case: write \"{other}\""));
        }
        let last = name.rsplit('.').next().unwrap_or(name);
        match nearest(last, known.iter().copied()) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint(format!("there are: {}", known.join(", "))),
        }
    }

    /// Reports everything in the query that no stream can do.
    fn refuse(&self, step: &Parsed<'_>, problems: &mut Vec<Problem>) -> bool {
        let is_stream = |name: &str| match self.spec.sources.get(name) {
            Some(source) => source.table.is_none(),
            None => self.spec.steps.contains_key(name) || self.unknown.names || self.gaps.steps.contains(name),
        };
        let found = survey::refusals(&step.statement, &is_stream);
        let refused = !found.is_empty();
        problems.extend(found.into_iter().map(|(refusal, place)| {
            let mut problem = step.problem(refusal.to_string(), place.unwrap_or((1, 1)));
            problem.hint = refusal.hint();
            problem
        }));
        refused
    }

    /// Reports `error`, and every further name of the query that is not known; `names_only` where the query has been
    /// refused already.
    async fn explain(
        &self,
        step: &Parsed<'_>,
        mut error: DataFusionError,
        mut names_only: bool,
        graph: &mut Graph,
        function_hashes: &HashMap<String, String>,
        problems: &mut Vec<Problem>,
    ) {
        let mut statement = step.statement.clone();
        for _ in 0..MENDED_MAX {
            let context = self.context(step.name, step.spec, Some(&step.statement));
            let Some(unknown) = context.unknown(&error) else {
                let Some(problem) = context.problem(&error).filter(|_| !names_only) else { return };
                let problem = match problem.part {
                    Part::Value => self.placed(problem, step, &error, graph, function_hashes).await,
                    _ => problem,
                };
                return problems.push(problem);
            };
            let places = mend::mend(&mut statement, &unknown);
            match (&unknown, context.problem(&error)) {
                (Unknown::Function(_), _) if self.unknown.functions => {}
                // Only its place is wrong: where OVER may not stand, it is not understood.
                (Unknown::Function(name), _) if names_only && context.functions.contains(name) => {}
                (_, Some(problem)) if !places.is_empty() => {
                    let everywhere = places
                        .iter()
                        .map(|(line, column)| problem.clone().at(Part::Text { line: *line, column: *column }));
                    problems.extend(everywhere);
                }
                (_, problem) => problems.extend(problem),
            }
            if places.is_empty() {
                return;
            }
            names_only = true;
            match self.logical(&statement).await {
                Ok(_) => return,
                Err(next) => error = next,
            }
        }
    }

    /// The same problem at the innermost expression without which it does not come up.
    async fn placed(
        &self,
        problem: Problem,
        step: &Parsed<'_>,
        error: &DataFusionError,
        graph: &mut Graph,
        function_hashes: &HashMap<String, String>,
    ) -> Problem {
        let text = error.strip_backtrace();
        let mut found = None;
        for index in 0..TRIED_MAX {
            let Some((statement, place)) = mend::without(&step.statement, index) else { break };
            let first = graph.nodes.len();
            let tried = self.lower(step, &statement, graph, function_hashes).await;
            graph.nodes.truncate(first);
            if place.0 > 0 && tried.err().is_none_or(|error| error.strip_backtrace() != text) {
                found = Some(place);
            }
        }
        let (line, column) = found.unwrap_or((1, 1));
        problem.at(Part::Text { line, column })
    }

    async fn logical(&self, statement: &Statement) -> Result<LogicalPlan, DataFusionError> {
        let state = self.session.state();
        let plan = state.statement_to_plan(DfStatement::Statement(Box::new(statement.clone()))).await?;
        compare::check(&plan)?;
        state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})
    }

    /// Adds the nodes of a query to the graph; after an error some of them may be there.
    async fn lower(
        &self,
        step: &Parsed<'_>,
        statement: &Statement,
        graph: &mut Graph,
        function_hashes: &HashMap<String, String>,
    ) -> Result<Lowered, DataFusionError> {
        let plan = self.logical(statement).await?;
        let state = self.session.state();
        let first = graph.nodes.len();
        let settings = Settings::new(step.spec);
        let counts = HashMap::new();
        let mut lowering = Lowering { graph, state: &state, step: step.name, function_hashes, counts, settings };
        let lowered = lowering.lower(plan)?;
        // Physical planning has refusals of its own: they belong to the load, not to the start.
        for node in &graph.nodes[first..] {
            match &node.kind {
                NodeKind::Region(region) => drop(region.instantiate().await?),
                NodeKind::Operator(plan) => plan.check().await?,
                NodeKind::Source(_) => {}
            }
        }
        Ok(lowered)
    }

    async fn step(
        &self,
        step: &Parsed<'_>,
        graph: &mut Graph,
        function_hashes: &HashMap<String, String>,
    ) -> Result<Lowered, DataFusionError> {
        let first = graph.nodes.len();
        let lowered = match self.lower(step, &step.statement, graph, function_hashes).await {
            Ok(lowered) => lowered,
            Err(error) => {
                graph.nodes.truncate(first);
                return Err(error);
            }
        };
        let node = lowered.node;
        if lowered.updating {
            graph.updating.insert(node);
        }
        self.streams.add(step.name, node, graph.nodes[node].schema.clone());
        let relation = StreamRelation { node, schema: graph.nodes[node].schema.clone(), window: None };
        self.session.register_table(bare(step.name), Arc::new(relation))?;
        Ok(lowered)
    }
}

/// What the step says about its results or its state and nothing in its SQL goes by.
fn without_effect(step: &Parsed<'_>, lowered: &Lowered) -> Vec<Problem> {
    let mut problems = Vec::new();
    if step.spec.emit != EmitSpec::Final && !lowered.emit_used {
        let message = "every row of this step is final when it comes, so `emit` has no effect";
        let hint = "leave it out; it is for GROUP BY, and for the newest or the first rows per key";
        problems.push(Problem::new(["steps", step.name, "emit"], message).hint(hint));
    }
    if step.spec.state.ttl.is_some() && !lowered.ttl_used {
        let message = "the state of this step is freed by itself, so `ttl` has no effect";
        let hint = "leave it out; it is for state that no window frees";
        problems.push(Problem::new(["steps", step.name, "state", "ttl"], message).hint(hint));
    }
    problems
}

/// Reports the steps that read one another in a circle; those that only wait for such steps are not at fault.
fn report_cycles(waiting: &[Parsed<'_>], problems: &mut Vec<Problem>) {
    for step in waiting {
        let mut seen = BTreeSet::from([step.name]);
        let mut next: Vec<&str> = vec![step.name];
        let mut circle = false;
        while let Some(reader) = next.pop().and_then(|name| waiting.iter().find(|other| other.name == name)) {
            for read in &reader.reads {
                circle |= read.name == step.name;
                if waiting.iter().any(|other| other.name == read.name) && seen.insert(&read.name) {
                    next.push(&read.name);
                }
            }
        }
        let first = step.reads.iter().find(|read| waiting.iter().any(|other| other.name == read.name));
        if let Some(read) = first.filter(|_| circle) {
            let message = format!("the steps read one another in a circle: `{}` reads `{}`", step.name, read.name);
            problems.push(step.problem(message, read.place).hint("a step may only read steps that do not read it"));
        }
    }
}
