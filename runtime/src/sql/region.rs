//! A region: the stateless SQL between two stateful operators, run by DataFusion batch by batch.
//!
//! The physical plan is made once per shard. Before each run the batch is put into the plan's slot and the plan's
//! state is reset. What a reset must not throw away is the hash table that a join has built over a table: it is kept
//! until the table is refreshed. Plans that only filter and compute columns are not executed at all: their expressions
//! are evaluated by [`direct`].

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result};
use datafusion::datasource::provider_as_source;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::HashJoinExec;
use futures::TryStreamExt;

use crate::sql::direct::{self, Branch};
use crate::sql::relation::{Leaf, LeafExec, Slot, SlotRelation, TableRows, as_slot, internal};

/// After so many runs everything is reset, because a kept join gathers metrics with every run.
const RUNS_PER_FULL_RESET: u32 = 1024;

/// Stateless SQL, optimised and ready to be made into physical plans.
pub(crate) struct Region {
    plan: LogicalPlan,
    state: SessionState,
    schema: SchemaRef,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region\n{}", self.plan.display_indent())
    }
}

impl Region {
    /// Optimises `plan`, whose leaves are slots and tables.
    pub(crate) fn new(plan: &LogicalPlan, state: SessionState) -> Result<Self> {
        // What the columns are is decided already ([`crate::sql::marks`]); the optimizer's schemas know less.
        let marked = plan.schema().clone();
        let plan = state.optimizer().optimize(plan.clone(), &state, |_, _| {})?;
        let fields = plan.schema().fields().iter().zip(marked.fields());
        let fields = fields.map(|(field, marked)| field.as_ref().clone().with_metadata(marked.metadata().clone()));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Self { plan, state, schema })
    }

    /// The same, whose columns have the marks of `schema`.
    pub(crate) fn marked(self, schema: SchemaRef) -> Self {
        Self { schema, ..self }
    }

    /// What it does.
    pub(crate) fn plan(&self) -> &LogicalPlan {
        &self.plan
    }

    /// The columns of the result.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns that the SQL reads of the region's input `input`; `None` where it may be all.
    pub(crate) fn reads(&self, input: usize) -> Option<BTreeSet<usize>> {
        let mut columns = Some(BTreeSet::new());
        let walked = self.plan.apply_with_subqueries(|node| {
            if let Some(scan) = as_slot(node, input) {
                match (&scan.projection, &mut columns) {
                    (Some(projection), Some(columns)) => columns.extend(projection),
                    _ => columns = None,
                }
            }
            Ok(TreeNodeRecursion::Continue)
        });
        walked.ok().and(columns)
    }

    /// The input `input` now has the columns of `schema`, which are those that were `keep` before.
    pub(crate) fn narrow(&mut self, input: usize, schema: &SchemaRef, keep: &[usize]) -> Result<()> {
        let narrowed = self.plan.clone().transform_down_with_subqueries(|node| {
            let Some(scan) = as_slot(&node, input) else {
                return Ok(Transformed::no(node));
            };
            let mut scan = scan.clone();
            let place = |column: &usize| keep.iter().position(|kept| kept == column);
            scan.projection = match &scan.projection {
                Some(projection) => projection.iter().map(place).collect(),
                None => None,
            };
            if scan.projection.is_none() {
                return Err(internal("a column that the SQL reads is gone"));
            }
            scan.source = provider_as_source(Arc::new(SlotRelation { index: input, schema: schema.clone() }));
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        })?;
        self.plan = narrowed.data;
        Ok(())
    }

    /// A physical plan with slots of its own, for one shard.
    pub(crate) async fn instantiate(&self) -> Result<RegionInstance> {
        let plan = self.state.query_planner().create_physical_plan(&self.plan, &self.state).await?;
        let (mut slots, mut tables) = (Vec::new(), Vec::new());
        plan.apply(|node| {
            if let Some(leaf) = node.downcast_ref::<LeafExec>() {
                match &leaf.leaf {
                    Leaf::Slot(index, slot) => slots.push((*index, slot.clone())),
                    Leaf::Table(rows) => tables.push((rows.clone(), rows.load_full())),
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let context = self.state.task_ctx();
        let direct = direct::branches(&plan);
        Ok(RegionInstance { plan, direct, slots, tables, context, schema: self.schema.clone(), runs: 0 })
    }
}

/// A physical plan, for one shard. Never run by two tasks at once: running needs `&mut`.
pub(crate) struct RegionInstance {
    plan: Arc<dyn ExecutionPlan>,
    /// What the plan does, where that can be done without executing it.
    direct: Option<Vec<Branch>>,
    slots: Vec<(usize, Slot)>,
    /// The tables that the plan reads, and their rows at the last run.
    tables: Vec<(TableRows, Arc<RecordBatch>)>,
    context: Arc<TaskContext>,
    schema: SchemaRef,
    runs: u32,
}

impl RegionInstance {
    /// The result of the SQL where `batch` is all that the region's input number `input` holds.
    pub(crate) async fn run(&mut self, input: usize, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        if let Some(branches) = &self.direct {
            return direct::run(branches, &self.schema, input, batch);
        }
        self.reset()?;
        self.fill(|index| if index == input { vec![batch.clone()] } else { vec![] });
        let result = self.execute().await;
        self.fill(|_| vec![]);
        result
    }

    /// The result of the SQL where each of the region's inputs holds these batches.
    pub(crate) async fn run_all(&mut self, inputs: &[Vec<RecordBatch>]) -> Result<Vec<RecordBatch>> {
        self.reset()?;
        self.fill(|index| inputs.get(index).cloned().unwrap_or_default());
        let result = self.execute().await;
        self.fill(|_| vec![]);
        result
    }

    #[cfg(test)]
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// The same, run by its plan.
    #[cfg(test)]
    pub(crate) fn planned(self) -> Self {
        Self { direct: None, ..self }
    }

    /// Puts into each slot what `content` says of its input.
    fn fill(&self, content: impl Fn(usize) -> Vec<RecordBatch>) {
        for (index, slot) in &self.slots {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = content(*index);
        }
    }

    async fn execute(&self) -> Result<Vec<RecordBatch>> {
        let mut results = Vec::new();
        for partition in 0..self.plan.properties().partitioning.partition_count() {
            let mut stream = self.plan.execute(partition, self.context.clone())?;
            while let Some(batch) = stream.try_next().await? {
                if batch.num_rows() > 0 {
                    // The plan's own schema may lack the metadata that marks event time and windows.
                    results.push(RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec())?);
                }
            }
        }
        Ok(results)
    }

    fn reset(&mut self) -> Result<()> {
        let mut refreshed = false;
        for (rows, seen) in &mut self.tables {
            let now = rows.load_full();
            if !Arc::ptr_eq(&now, seen) {
                *seen = now;
                refreshed = true;
            }
        }
        self.runs += 1;
        let keep_joins = !refreshed && self.runs < RUNS_PER_FULL_RESET;
        if !keep_joins {
            self.runs = 0;
        }
        self.plan = reset(self.plan.clone(), keep_joins)?;
        Ok(())
    }
}

/// `plan` as new, but for the hash tables over tables where `keep_joins` is set.
fn reset(plan: Arc<dyn ExecutionPlan>, keep_joins: bool) -> Result<Arc<dyn ExecutionPlan>> {
    if keep_joins
        && let Some(join) = plan.downcast_ref::<HashJoinExec>()
        && builds_over_tables(join)
    {
        let right = reset(join.right().clone(), keep_joins)?;
        return join.builder().with_new_children(vec![join.left().clone(), right])?.build_exec();
    }
    let children = plan.children().into_iter().cloned().collect::<Vec<_>>();
    if children.is_empty() {
        return plan.reset_state();
    }
    let children = children.into_iter().map(|child| reset(child, keep_joins)).collect::<Result<Vec<_>>>()?;
    plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))?.reset_state()
}

/// True where the join's build side holds tables only and its content does not change while probing.
fn builds_over_tables(join: &HashJoinExec) -> bool {
    let probes_only = matches!(
        join.join_type(),
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark
    );
    let mut streams = false;
    let walked = join.left().apply(|node| {
        if node.downcast_ref::<LeafExec>().is_some_and(|leaf| matches!(leaf.leaf, Leaf::Slot(..))) {
            streams = true;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    probes_only && walked.is_ok() && !streams
}
