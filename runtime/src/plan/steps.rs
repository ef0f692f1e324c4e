//! The steps of a plan: SQL to nodes of the graph, each step after those that it reads.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, Statement, TableFactor, Visit, Visitor,
};
use indexmap::IndexMap;

use super::sources::bare;
use super::{Builder, SourcePlan};
use crate::plan::graph::{Graph, NodeId, NodeKind};
use crate::spec::model::StepSpec;
use crate::spec::problem::{Part, Problem};
use crate::sql::lower::Lowering;
use crate::sql::problems::Context;
use crate::sql::relation::StreamRelation;

/// The longest SQL text of a step.
const SQL_BYTES_MAX: usize = 1 << 20;

/// A step whose SQL could be parsed.
struct Parsed<'a> {
    name: &'a str,
    spec: &'a StepSpec,
    statement: Statement,
    /// The steps that it reads.
    reads: BTreeSet<String>,
}

impl Builder<'_> {
    /// Plans all steps; the output node of each that could be planned, and of each stream source.
    pub(super) async fn steps(
        &self,
        graph: &mut Graph,
        sources: &[SourcePlan],
        function_hashes: &HashMap<String, String>,
        problems: &mut Vec<Problem>,
    ) -> IndexMap<String, NodeId> {
        let mut outputs: IndexMap<String, NodeId> =
            sources.iter().map(|source| (source.name.clone(), source.node)).collect();
        let mut waiting = Vec::new();
        let mut failed: BTreeSet<String> = BTreeSet::new();
        for (name, spec) in &self.spec.steps {
            match self.parse(name, spec) {
                Ok(parsed) => waiting.push(parsed),
                Err(problem) => {
                    problems.push(problem);
                    failed.insert(name.clone());
                }
            }
        }
        while !waiting.is_empty() {
            let ready =
                |step: &Parsed<'_>| step.reads.iter().all(|read| outputs.contains_key(read) || failed.contains(read));
            let Some(next) = waiting.iter().position(ready) else {
                report_cycle(&waiting, problems);
                break;
            };
            let step = waiting.remove(next);
            // What is wrong with a step that it reads has been said; this one cannot be judged.
            if step.reads.iter().any(|read| failed.contains(read)) {
                failed.insert(step.name.to_owned());
                continue;
            }
            match self.step(&step, graph, function_hashes).await {
                Ok(node) => {
                    outputs.insert(step.name.to_owned(), node);
                }
                Err(error) => {
                    problems.push(self.context(step.name, step.spec, Some(&step.statement)).problem(&error));
                    failed.insert(step.name.to_owned());
                }
            }
        }
        outputs
    }

    fn context<'a>(&self, name: &str, spec: &'a StepSpec, statement: Option<&'a Statement>) -> Context<'a> {
        let state = self.session.state();
        let mut functions: Vec<String> = state.scalar_functions().keys().cloned().collect();
        functions.extend(state.aggregate_functions().keys().cloned());
        let relations = self.spec.sources.keys().chain(self.spec.steps.keys()).filter(|other| *other != name);
        Context {
            path: ["steps", name, "sql"].map(str::to_owned).to_vec(),
            sql: &spec.sql,
            statement,
            relations: relations.cloned().collect(),
            functions,
        }
    }

    fn parse<'a>(&self, name: &'a str, spec: &'a StepSpec) -> Result<Parsed<'a>, Problem> {
        let path = || ["steps", name, "sql"];
        if spec.sql.len() > SQL_BYTES_MAX {
            return Err(Problem::new(path(), format!("SQL of more than {SQL_BYTES_MAX} bytes is refused")));
        }
        let state = self.session.state();
        let dialect = state.config_options().sql_parser.dialect;
        let parsed = state.sql_to_statement(&spec.sql, &dialect);
        let statement = match parsed.map_err(|error| self.context(name, spec, None).problem(&error))? {
            DfStatement::Statement(statement) => *statement,
            other => {
                let message = format!("a step is one SELECT, not `{other}`");
                return Err(Problem::new(path(), message).at(Part::Text { line: 1, column: 1 }));
            }
        };
        if !matches!(statement, Statement::Query(_)) {
            let message = "a step is one SELECT; sources, tables and sinks are declared in YAML";
            return Err(Problem::new(path(), message).at(Part::Text { line: 1, column: 1 }));
        }
        let mut names = Names { names: BTreeSet::new() };
        // A visit that breaks off has found what it looked for.
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) = statement.visit(&mut names);
        let mut reads = names.names;
        reads.retain(|read| self.spec.steps.contains_key(read));
        if reads.contains(name) {
            let message = format!("the step `{name}` reads itself");
            return Err(Problem::new(path(), message).hint("read a source or another step"));
        }
        Ok(Parsed { name, spec, statement, reads })
    }

    async fn step(
        &self,
        step: &Parsed<'_>,
        graph: &mut Graph,
        function_hashes: &HashMap<String, String>,
    ) -> Result<NodeId, DataFusionError> {
        let state = self.session.state();
        let statement = DfStatement::Statement(Box::new(step.statement.clone()));
        let plan = state.statement_to_plan(statement).await?;
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        if matches!(plan, LogicalPlan::Ddl(_) | LogicalPlan::Dml(_) | LogicalPlan::Statement(_)) {
            return Err(DataFusionError::Plan("a step is one SELECT".into()));
        }
        let first = graph.nodes.len();
        let mut lowering = Lowering { graph, state: &state, step: step.name, function_hashes, counts: HashMap::new() };
        let lowered = lowering.lower(plan);
        let node = match lowered {
            Ok(node) => node,
            Err(error) => {
                graph.nodes.truncate(first);
                return Err(error);
            }
        };
        // Physical planning has refusals of its own: they belong to the load, not to the start.
        for node in &graph.nodes[first..] {
            if let NodeKind::Region(region) = &node.kind {
                region.instantiate().await?;
            }
        }
        self.streams.add(step.name, node, graph.nodes[node].schema.clone());
        let relation = StreamRelation { node, schema: graph.nodes[node].schema.clone(), window: None };
        self.session.register_table(bare(step.name), Arc::new(relation))?;
        Ok(node)
    }
}

/// Gathers the names in FROM, also those that TUMBLE takes.
struct Names {
    names: BTreeSet<String>,
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let (name, arguments) = match factor {
            TableFactor::Table { name, args, .. } => (name, args.as_ref().map(|args| &args.args)),
            TableFactor::Function { name, args, .. } => (name, Some(args)),
            _ => return ControlFlow::Continue(()),
        };
        match arguments {
            None => {
                let ident = name.0.last().and_then(|part| part.as_ident());
                self.names.extend(ident.map(|ident| ident.value.clone()));
            }
            Some(arguments) => {
                if let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(SqlExpr::Identifier(ident)))) = arguments.first()
                {
                    self.names.insert(ident.value.clone());
                }
            }
        }
        ControlFlow::Continue(())
    }
}

fn report_cycle(waiting: &[Parsed<'_>], problems: &mut Vec<Problem>) {
    for step in waiting {
        let reads: Vec<&str> = step.reads.iter().map(String::as_str).collect();
        let message = format!("the steps read one another in a circle: `{}` reads {}", step.name, reads.join(", "));
        problems.push(Problem::new(["steps", step.name, "sql"], message));
    }
}
