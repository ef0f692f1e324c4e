//! What a name in FROM stands for: a stream, a windowed stream, or a table; and the leaf that feeds a physical plan.
//!
//! Streams are placeholders: they have a schema and an identity, and lowering replaces them. Scanning one is a bug.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics, internal_err, stats::Precision};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan, TableType};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion::physical_plan::{PhysicalExpr, statistics::StatisticsArgs};

use crate::plan::graph::NodeId;
use crate::sql::windows::Window;

/// A stream in FROM: the output of a node of the graph, perhaps with a window function around it.
#[derive(Debug)]
pub(crate) struct StreamRelation {
    /// Whose output it is.
    pub(crate) node: NodeId,
    /// The columns, with those that the window adds.
    pub(crate) schema: SchemaRef,
    /// The window function.
    pub(crate) window: Option<Window>,
}

/// A table in FROM: its rows at this moment.
#[derive(Debug)]
pub(crate) struct TableRelation {
    pub(crate) rows: TableRows,
}

/// The rows of a table, replaced as a whole by each refresh.
pub(crate) type TableRows = Arc<ArcSwap<RecordBatch>>;

/// An input of a region: the batch that is being worked on.
#[derive(Debug)]
pub(crate) struct SlotRelation {
    pub(crate) index: usize,
    pub(crate) schema: SchemaRef,
}

#[async_trait]
impl TableProvider for StreamRelation {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        internal_err!("a stream was left in a plan that is to be run per batch")
    }
}

#[async_trait]
impl TableProvider for TableRelation {
    fn schema(&self) -> SchemaRef {
        self.rows.load().schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        LeafExec::create(Leaf::Table(self.rows.clone()), self.schema(), projection)
    }
}

#[async_trait]
impl TableProvider for SlotRelation {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // Each physical plan has slots of its own: shards run at the same time.
        LeafExec::create(Leaf::Slot(self.index, Arc::default()), self.schema.clone(), projection)
    }
}

/// The stream that `plan` scans, if it is a scan of one.
pub(crate) fn as_stream(plan: &LogicalPlan) -> Option<(&TableScan, Arc<dyn TableProvider>)> {
    let LogicalPlan::TableScan(scan) = plan else { return None };
    let provider = datafusion::datasource::source_as_provider(&scan.source).ok()?;
    let any: &dyn Any = provider.as_ref();
    any.is::<StreamRelation>().then_some((scan, provider))
}

/// `provider` as the [`StreamRelation`] that it is known to be.
pub(crate) fn stream_of(provider: &Arc<dyn TableProvider>) -> Option<&StreamRelation> {
    let any: &dyn Any = provider.as_ref();
    any.downcast_ref()
}

/// The scan of the input number `index`, if `plan` is one.
pub(crate) fn as_slot(plan: &LogicalPlan, index: usize) -> Option<&TableScan> {
    let LogicalPlan::TableScan(scan) = plan else { return None };
    let provider = datafusion::datasource::source_as_provider(&scan.source).ok()?;
    let any: &dyn Any = provider.as_ref();
    any.downcast_ref::<SlotRelation>().is_some_and(|slot| slot.index == index).then_some(scan)
}

/// The number of the input that `scan` reads; `None` where it reads something else.
pub(crate) fn as_any_slot(scan: &TableScan) -> Option<usize> {
    let provider = datafusion::datasource::source_as_provider(&scan.source).ok()?;
    let any: &dyn Any = provider.as_ref();
    any.downcast_ref::<SlotRelation>().map(|slot| slot.index)
}

/// What an input of a plan holds during a run.
pub(crate) type Slot = Arc<Mutex<Vec<RecordBatch>>>;

/// Where a leaf's rows come from.
#[derive(Debug, Clone)]
pub(crate) enum Leaf {
    /// The batches in the slot, which are set before each run. The number is the region's input.
    Slot(usize, Slot),
    /// The table's rows.
    Table(TableRows),
}

/// The leaf of a region's physical plan.
#[derive(Debug)]
pub(crate) struct LeafExec {
    pub(crate) leaf: Leaf,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

/// What a stream's leaf claims as its number of rows, so that the optimizer builds hash tables over the tables and
/// probes with the stream.
const STREAM_ROWS_CLAIMED: usize = 1 << 40;

impl LeafExec {
    /// Which columns of its rows it gives; `None` for all.
    pub(crate) fn projection(&self) -> Option<&Vec<usize>> {
        self.projection.as_ref()
    }

    fn create(leaf: Leaf, schema: SchemaRef, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let projected = match projection {
            Some(columns) => Arc::new(schema.project(columns)?),
            None => schema,
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(projected.clone()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(Self {
            leaf,
            schema: projected,
            projection: projection.cloned(),
            properties: Arc::new(properties),
        }))
    }
}

impl DisplayAs for LeafExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.leaf {
            Leaf::Slot(index, _) => write!(f, "LeafExec: input {index}"),
            Leaf::Table(_) => write!(f, "LeafExec: table"),
        }
    }
}

impl ExecutionPlan for LeafExec {
    fn name(&self) -> &'static str {
        "LeafExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut batches = match &self.leaf {
            Leaf::Slot(_, slot) => slot.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Leaf::Table(rows) => vec![RecordBatch::clone(&rows.load())],
        };
        batches.retain(|batch| batch.num_rows() > 0);
        let stream = MemoryStream::try_new(batches, self.schema.clone(), self.projection.clone())?;
        Ok(Box::pin(stream))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = match &self.leaf {
            Leaf::Slot(..) => Precision::Inexact(STREAM_ROWS_CLAIMED),
            Leaf::Table(rows) => Precision::Inexact(rows.load().num_rows()),
        };
        Ok(Arc::new(statistics))
    }
}

/// An error that a broken invariant of this module's callers deserves.
pub(crate) fn internal(message: impl Into<String>) -> DataFusionError {
    DataFusionError::Internal(message.into())
}
