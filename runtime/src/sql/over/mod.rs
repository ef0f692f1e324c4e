//! Lowers OVER windows: a region that computes keys, order and arguments, then the operator.

mod arrange;
mod calls;
mod frame;

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Window};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

pub(crate) use arrange::arrange;

use crate::engine::operators::over::OverPlan;
use crate::engine::operators::over::store::{StoreKind, StoreSpec};
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::sql::lower::Lowering;
use crate::sql::over::frame::Following;
use crate::sql::refuse::{OverRefusal, Refusal};
use crate::sql::relation::internal;
use crate::sql::windows::unit_ns;
use crate::sql::{EVENT_TIME, WINDOW_BOUND, marks};

impl Lowering<'_> {
    /// Adds the nodes of `window`, and returns the operator's.
    pub(crate) fn over(&mut self, window: Window) -> Result<NodeId> {
        if let Some(node) = self.over_per_window(&window)? {
            return Ok(node);
        }
        let first = function(window.window_expr.first())?;
        let (partition_by, order_by) = (first.params.partition_by.clone(), first.params.order_by.clone());
        for expression in &window.window_expr {
            let function = function(Some(expression))?;
            if function.params.partition_by != partition_by || function.params.order_by != order_by {
                return Err(internal("the functions of an OVER window have different orders"));
            }
        }
        let time = event_time(&window)?;
        let lag = marks::lag(window.input.schema().field(time)).unwrap_or(0);
        let mut inputs = Inputs::new(&window);
        let keys = partition_by.into_iter().map(|key| inputs.column(key)).collect::<Result<Vec<_>>>()?;
        let order = order_by.into_iter().skip(1).map(|sort| {
            let options = SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first };
            Ok((inputs.column(sort.expr)?, options))
        });
        let order = order.collect::<Result<Vec<_>>>()?;
        let unit = match window.input.schema().field(time).data_type() {
            DataType::Timestamp(unit, _) => unit_ns(*unit),
            _ => return Err(internal("the event time is no timestamp")),
        };
        let passed = window.input.schema().fields().len();
        let drafts = window.window_expr.iter().map(|expression| calls::draft(expression, unit, &mut inputs));
        let drafts = drafts.collect::<Result<Vec<_>>>()?;
        let fingerprint = self.over_fingerprint(&window);
        let before = LogicalPlanBuilder::from(window.input.as_ref().clone()).project(inputs.expressions)?.build()?;
        let input = self.region(before, Some("input"))?;
        let physical = self.graph.nodes[input].schema.clone();
        let schema = Arc::new(Schema::new(window.schema.fields().iter().cloned().collect::<Vec<_>>()));
        let mut stores = Stores { input: physical.clone(), specs: Vec::new() };
        let calls = drafts.into_iter().zip(schema.fields()[passed..].iter());
        let calls = calls.map(|(draft, field)| draft.build(field.data_type(), &mut stores));
        let calls = calls.collect::<Result<Vec<_>>>()?;
        let keys_of_node = keys.clone();
        let late = !self.rows_are_ordered(input);
        let plan = OverPlan {
            input: physical,
            passed,
            keys,
            time,
            order,
            stores: stores.specs,
            calls,
            schema: schema.clone(),
            late,
        };
        let node = Node {
            name: self.name("over"),
            step: Some(self.step.to_owned()),
            inputs: vec![input],
            keys: Some(vec![keys_of_node]),
            lags: vec![lag],
            schema,
            kind: NodeKind::Operator(Box::new(plan)),
            fingerprint: Some(fingerprint),
        };
        Ok(self.graph.add(node))
    }

    /// True where the rows of `node` come from an OVER window of this step.
    fn rows_are_ordered(&self, node: NodeId) -> bool {
        let node = &self.graph.nodes[node];
        if node.step.as_deref() != Some(self.step) {
            return false;
        }
        match &node.kind {
            NodeKind::Operator(plan) => plan.orders_rows(),
            NodeKind::Region(_) => !node.inputs.is_empty() && node.inputs.iter().all(|id| self.rows_are_ordered(*id)),
            NodeKind::Source(_) => false,
        }
    }

    /// What the operator's state depends on: the functions, the columns, and the modules that they call.
    fn over_fingerprint(&self, window: &Window) -> String {
        let mut text = String::from("over 1\n");
        for (qualifier, field) in window.input.schema().iter() {
            text.push_str(&format!("{qualifier:?} {} {}\n", field.name(), field.data_type()));
        }
        for expression in &window.window_expr {
            let shown = expression.to_string();
            text.push_str(&format!("{shown}\n"));
            for (function, hash) in self.function_hashes {
                if shown.contains(&format!("{function}(")) {
                    text.push_str(&format!("{function}={hash}\n"));
                }
            }
        }
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

/// The window function that `expression` is.
fn function(expression: Option<&Expr>) -> Result<&WindowFunction> {
    match expression {
        Some(Expr::WindowFunction(function)) => Ok(function),
        Some(Expr::Alias(alias)) => function(Some(&alias.expr)),
        _ => Err(internal("an OVER window without a function")),
    }
}

/// Refuses OVER wherever the planner has left it in place: only the list of SELECT and QUALIFY can have it.
pub(crate) fn check_places(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        let place = match node {
            LogicalPlan::Window(_) => return Ok(TreeNodeRecursion::Continue),
            LogicalPlan::Filter(filter) => match filter.input.as_ref() {
                LogicalPlan::Aggregate(_) => "HAVING",
                _ => "WHERE",
            },
            LogicalPlan::Join(_) => "ON",
            LogicalPlan::Aggregate(_) => "GROUP BY",
            LogicalPlan::Sort(_) => "ORDER BY",
            _ => "this place",
        };
        for expression in node.expressions() {
            if expression.exists(|part| Ok(matches!(part, Expr::WindowFunction(_))))? {
                return Err(Refusal::OverIn(place).into());
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// What the region before the operator computes: all columns of the window's input, then what else is needed.
struct Inputs<'a> {
    window: &'a Window,
    expressions: Vec<Expr>,
    simplifier: ExprSimplifier,
}

impl<'a> Inputs<'a> {
    fn new(window: &'a Window) -> Self {
        let schema = window.input.schema();
        let mut names: Vec<String> = Vec::new();
        let expressions = schema.iter().map(|(qualifier, field)| {
            let mut name = field.name().clone();
            while names.contains(&name) {
                name.push('_');
            }
            names.push(name.clone());
            Expr::Column(Column::new(qualifier.cloned(), field.name().clone())).alias(name)
        });
        let expressions = expressions.collect();
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(schema.clone()).build());
        Self { window, expressions, simplifier }
    }

    /// The number of the column that holds `expression`.
    fn column(&mut self, expression: Expr) -> Result<usize> {
        let expression = expression.unalias();
        if let Expr::Column(column) = &expression {
            return self.window.input.schema().index_of_column(column);
        }
        let known = self.expressions.iter().position(|known| matches!(known, Expr::Alias(a) if *a.expr == expression));
        if let Some(known) = known {
            return Ok(known);
        }
        let name = format!("__over_{}", self.expressions.len());
        self.expressions.push(expression.alias(name));
        Ok(self.expressions.len() - 1)
    }

    /// The value of `expression`, where it is a constant.
    fn constant(&self, expression: &Expr) -> Result<Option<ScalarValue>> {
        Ok(match self.simplifier.simplify(expression.clone())? {
            Expr::Literal(value, _) => Some(value),
            _ => None,
        })
    }
}

/// What is stored of each row; two functions with the same arguments share it.
struct Stores {
    input: SchemaRef,
    specs: Vec<StoreSpec>,
}

impl Stores {
    /// The number of the store of `columns`.
    fn of(&mut self, kind: StoreKind, columns: Vec<usize>, filter: Option<usize>) -> usize {
        let spec = StoreSpec { kind, columns, filter };
        self.specs.iter().position(|known| *known == spec).unwrap_or_else(|| {
            self.specs.push(spec);
            self.specs.len() - 1
        })
    }
}

/// The event-time column that `window` is ordered by.
fn event_time(window: &Window) -> Result<usize> {
    let schema = window.input.schema();
    let times = schema.iter().filter(|(_, field)| field.metadata().contains_key(EVENT_TIME));
    let times: Vec<String> = times.map(|(_, field)| field.name().clone()).collect();
    let order = &function(window.window_expr.first())?.params.order_by;
    let ranks = |expression: &Expr| {
        let name = function(Some(expression)).map(|function| function.fun.name().to_owned());
        name.is_ok_and(|name| matches!(name.as_str(), "row_number" | "rank" | "dense_rank"))
    };
    let numbers = !order.is_empty() && window.window_expr.iter().any(ranks);
    let refused = || DataFusionError::from(Refusal::Over(OverRefusal::Order(times.clone(), numbers)));
    match &order[..] {
        [Sort { expr, asc: true, .. }, ..] => match expr.clone().unalias() {
            Expr::Column(column) => {
                let index = schema.index_of_column(&column)?;
                let marked = marks::lag(schema.field(index)).is_some();
                if marked { Ok(index) } else { Err(refused()) }
            }
            _ => Err(refused()),
        },
        _ => Err(refused()),
    }
}

/// The columns of `window`, with the marks that are true of what comes out: rows come in the order of the event time
/// that they are ordered by, and of no other.
pub(crate) fn marked(window: &Window) -> Result<DFSchemaRef> {
    let input = window.input.schema();
    let following = frame::following(window).unwrap_or(Following::Rows);
    let ordered_by = event_time(window).ok();
    let times = input.fields().iter().filter(|field| marks::lag(field).is_some()).count();
    let bounded = window.window_expr.iter().any(|expression| by_window(expression, window));
    marks::mapped(&window.schema, |column, metadata| {
        let is_time = !bounded && Some(column) == ordered_by;
        let keeps_bounds = bounded || (following == Following::None && times == 1);
        metadata.retain(|key, _| match key.as_str() {
            EVENT_TIME => is_time && following != Following::Rows,
            WINDOW_BOUND => column < input.fields().len() && keeps_bounds,
            _ => true,
        });
        if let (true, Following::Range(lag)) = (is_time, following) {
            metadata.extend(marks::event_time(lag));
        } else if metadata.contains_key(EVENT_TIME) {
            metadata.extend(marks::event_time(0));
        }
    })
}

/// True where `expression` has a window's bound in its PARTITION BY.
fn by_window(expression: &Expr, window: &Window) -> bool {
    let schema = window.input.schema();
    let bound = |key: &Expr| match key {
        Expr::Column(column) => schema
            .index_of_column(column)
            .is_ok_and(|index| Field::metadata(schema.field(index)).contains_key(WINDOW_BOUND)),
        _ => false,
    };
    function(Some(expression)).is_ok_and(|function| function.params.partition_by.iter().any(bound))
}
