//! Cuts an analysed plan at its stateful nodes and adds the pieces to the graph.
//!
//! **Invariant:** a region with several inputs is right when run with one of them filled at a time: only UNION ALL
//! brings streams together; every other meeting of two streams is refused here.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, JoinType, Result};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, LogicalPlanBuilder};

use crate::plan::graph::{Graph, Node, NodeId, NodeKind};
use crate::sql::pattern_node::PatternNode;
use crate::sql::per_key;
use crate::sql::pushdown::push_down;
use crate::sql::refuse::Refusal;
use crate::sql::region::Region;
use crate::sql::relation::{SlotRelation, StreamRelation, as_stream, internal, stream_of};
use crate::sql::subqueries;
use crate::sql::updating::{self, Lowered, Settings};
use crate::sql::windows::bins::AssignNode;
use crate::sql::{IS_FINAL, join_prepare, marks, over};

/// Lowers one step.
pub(crate) struct Lowering<'a> {
    pub(crate) graph: &'a mut Graph,
    pub(crate) state: &'a SessionState,
    /// The step's name.
    pub(crate) step: &'a str,
    /// The hashes of the modules whose functions the pipeline uses: part of every fingerprint.
    pub(crate) function_hashes: &'a HashMap<String, String>,
    /// How many nodes of each kind the step has so far, for their names.
    pub(crate) counts: HashMap<&'static str, usize>,
    /// What the step says about results and state.
    pub(crate) settings: Settings,
}

impl Lowering<'_> {
    /// Adds the nodes of `plan`, which is analysed, and returns the last one.
    pub(crate) fn lower(&mut self, plan: LogicalPlan) -> Result<Lowered> {
        if !reads_stream(&plan)? {
            return Err(Refusal::NoStream.into());
        }
        over::check_places(&plan)?;
        let plan = over::arrange(marks::settle(plan)?)?;
        let plan = subqueries::joined(marks::settle(plan)?, self.state)?;
        let plan = marks::settle(push_down(join_prepare::prepare(plan)?)?)?;
        let updating = self.replaces_rows(&plan);
        let output = self.region(plan, None)?;
        check_names(&self.graph.nodes[output].schema)?;
        let Settings { emit_used, ttl_used, .. } = self.settings;
        Ok(Lowered { node: output, updating: updating || emit_used, emit_used, ttl_used })
    }

    /// The name of the step's next node of a kind: `step/kind`, and from the second on `step/kind-2`.
    pub(crate) fn name(&mut self, kind: &'static str) -> String {
        let count = self.counts.entry(kind).or_insert(0);
        *count += 1;
        if *count == 1 { format!("{}/{kind}", self.step) } else { format!("{}/{kind}-{count}", self.step) }
    }

    /// Adds `plan` as a region, its stateful parts before it.
    pub(crate) fn region(&mut self, plan: LogicalPlan, kind: Option<&'static str>) -> Result<NodeId> {
        let mut inputs = Vec::new();
        let rewritten = plan.transform_down(|node| self.cut(node, &mut inputs))?.data;
        let rewritten = if kind.is_none() { updating::with_is_final(rewritten)? } else { rewritten };
        // The stateful nodes say anew what their columns are.
        let rewritten = marks::settle(rewritten)?;
        let region = Region::new(&rewritten, self.state.clone())?;
        let schema = region.schema().clone();
        let name = match kind {
            Some(kind) => self.name(kind),
            None => self.name("select"),
        };
        let step = Some(self.step.to_owned());
        let kind = NodeKind::Region(Box::new(region));
        Ok(self.graph.add(Node { name, step, inputs, keys: None, lags: vec![], schema, kind, fingerprint: None }))
    }

    /// Replaces a stream or a stateful node by a slot.
    fn cut(&mut self, plan: LogicalPlan, inputs: &mut Vec<NodeId>) -> Result<Transformed<LogicalPlan>> {
        if let Some((scan, provider)) = as_stream(&plan) {
            let stream = stream_of(&provider).ok_or_else(|| internal("a stream that is none"))?;
            let node = self.stream(stream)?;
            let slot = SlotRelation { index: input(inputs, node), schema: stream.schema.clone() };
            let slot = provider_as_source(Arc::new(slot));
            let scan = LogicalPlanBuilder::scan(scan.table_name.clone(), slot, None)?.build()?;
            return Ok(Transformed::new(scan, true, TreeNodeRecursion::Jump));
        }
        if !reads_stream(&plan)? {
            return Ok(Transformed::new(plan, false, TreeNodeRecursion::Jump));
        }
        refuse_stream_subqueries(&plan)?;
        let schema = plan.schema().clone();
        let stateful = is_stateful(&plan)?;
        if stateful && plan.inputs().into_iter().any(|input| self.replaces_rows(input)) {
            return Err(Refusal::Updates.into());
        }
        if let LogicalPlan::Filter(filter) = &plan {
            self.settings.first_rows = per_key::first_rows(filter).or(self.settings.first_rows);
        }
        self.settings.depth += usize::from(stateful);
        let node = match plan {
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate)?,
            LogicalPlan::Join(join) if joins_streams(&join)? => self.stream_join(join)?,
            LogicalPlan::Join(join) => {
                check_table_join(&join)?;
                return Ok(Transformed::no(LogicalPlan::Join(join)));
            }
            LogicalPlan::Window(window) => match self.first_rows(&window)? {
                Some(node) => node,
                None => self.over(window)?,
            },
            LogicalPlan::Distinct(distinct) if self.says_ttl() && !self.is_per_window(&distinct) => {
                self.distinct_rows(distinct)?
            }
            LogicalPlan::Distinct(distinct) => self.distinct(distinct)?,
            LogicalPlan::Sort(sort) => self.sort(sort)?,
            LogicalPlan::Limit(limit) => self.limit(limit)?,
            LogicalPlan::Extension(extension) => self.extension(extension)?,
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Unnest(_)
            | LogicalPlan::TableScan(_) => return Ok(Transformed::no(plan)),
            other => return Err(Refusal::Other(other.display().to_string()).into()),
        };
        self.settings.depth -= 1;
        let slot = self.slot(inputs, node, &schema)?;
        Ok(Transformed::new(slot, true, TreeNodeRecursion::Jump))
    }

    /// Adds the nodes of a node of our own.
    fn extension(&mut self, extension: Extension) -> Result<NodeId> {
        let any: &dyn std::any::Any = extension.node.as_any();
        if let Some(node) = any.downcast_ref::<AssignNode>() {
            return self.bins(node);
        }
        if let Some(node) = any.downcast_ref::<PatternNode>() {
            return self.pattern(node);
        }
        Err(Refusal::Other(extension.node.name().to_owned()).into())
    }

    /// The node whose output `stream` is; a windowed stream gets its operator.
    fn stream(&mut self, stream: &StreamRelation) -> Result<NodeId> {
        match &stream.window {
            Some(window) => self.window(stream.node, window, stream.schema.clone()),
            None => Ok(stream.node),
        }
    }

    /// True where the windows of what `node` gives out were assigned in this step.
    pub(crate) fn windows_are_own(&self, node: NodeId) -> bool {
        let node = &self.graph.nodes[node];
        if node.step.as_deref() != Some(self.step) {
            return false;
        }
        let assigns = node.operator().is_some_and(|plan| plan.assigns_windows());
        assigns || node.inputs.iter().any(|input| self.windows_are_own(*input))
    }

    /// A slot for the output of `node`, whose columns have the qualified names of `schema` and the marks of the node.
    pub(crate) fn slot(&self, inputs: &mut Vec<NodeId>, node: NodeId, schema: &DFSchema) -> Result<LogicalPlan> {
        let index = input(inputs, node);
        let table = format!("__state_{index}");
        let fields = self.graph.nodes[node].schema.fields().iter().enumerate();
        let fields = fields.map(|(i, field)| field.as_ref().clone().with_name(format!("c{i}")));
        let slot = SlotRelation { index, schema: Arc::new(Schema::new(fields.collect::<Vec<Field>>())) };
        let column = |i: usize| Expr::Column(Column::new(Some(table.as_str()), format!("c{i}")));
        let names = schema.iter().enumerate();
        let names =
            names.map(|(i, (qualifier, field))| column(i).alias_qualified(qualifier.cloned(), field.name().as_str()));
        // What the SQL does not know of.
        let beyond = self.graph.nodes[node].schema.fields().get(schema.fields().len());
        let further = beyond.filter(|field| field.metadata().contains_key(IS_FINAL));
        let further = further.map(|_| column(schema.fields().len()).alias(updating::FINAL));
        let names = names.chain(further);
        LogicalPlanBuilder::scan(table.as_str(), provider_as_source(Arc::new(slot)), None)?
            .project(names.collect::<Vec<_>>())?
            .build()
    }
}

/// The position of `node` among `inputs`, where it is added if it is new.
fn input(inputs: &mut Vec<NodeId>, node: NodeId) -> usize {
    inputs.iter().position(|input| *input == node).unwrap_or_else(|| {
        inputs.push(node);
        inputs.len() - 1
    })
}

/// True where `plan` itself needs time or keeps state.
fn is_stateful(plan: &LogicalPlan) -> Result<bool> {
    Ok(match plan {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::TableScan(_) => false,
        LogicalPlan::Join(join) => joins_streams(join)?,
        _ => true,
    })
}

/// True where `plan` reads a stream, also in a subquery.
pub(crate) fn reads_stream(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= as_stream(node).is_some();
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// True where both sides of `join` read streams.
pub(crate) fn joins_streams(join: &datafusion::logical_expr::Join) -> Result<bool> {
    Ok(reads_stream(&join.left)? && reads_stream(&join.right)?)
}

/// A stream in an expression's subquery (`IN (SELECT …)`) would have to be kept for ever.
pub(crate) fn refuse_stream_subqueries(plan: &LogicalPlan) -> Result<()> {
    plan.apply_expressions(|expression| {
        expression.apply(|part| {
            let subquery = match part {
                Expr::Exists(exists) => &exists.subquery,
                Expr::InSubquery(in_subquery) => &in_subquery.subquery,
                Expr::ScalarSubquery(subquery) => subquery,
                Expr::SetComparison(comparison) => &comparison.subquery,
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            if reads_stream(&subquery.subquery)? {
                return Err(Refusal::StreamSubquery.into());
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(())
}

/// A stream may meet a table in a join, in the kinds that keep no unmatched rows of the table.
fn check_table_join(join: &datafusion::logical_expr::Join) -> Result<()> {
    let (left, right) = (reads_stream(&join.left)?, reads_stream(&join.right)?);
    let allowed = match join.join_type {
        JoinType::Inner => true,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left,
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right,
        JoinType::Full => false,
    };
    if allowed { Ok(()) } else { Err(Refusal::OuterTable(join.join_type.to_string()).into()) }
}

/// Two columns of one name could not be told apart by what reads the step.
fn check_names(schema: &SchemaRef) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for field in schema.fields() {
        if !seen.insert(field.name()) {
            return Err(Refusal::DuplicateColumn(field.name().clone()).into());
        }
    }
    Ok(())
}

impl From<Refusal> for DataFusionError {
    fn from(refusal: Refusal) -> Self {
        Self::External(Box::new(refusal))
    }
}
