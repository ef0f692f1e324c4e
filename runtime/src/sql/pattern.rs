//! Lowers MATCH_RECOGNIZE: a region for its input, then the operator.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions::{Column as PhysicalColumn, Literal};
use datafusion::physical_plan::PhysicalExpr;

use crate::engine::operators::pattern::{Argument, Call, Expression, PatternPlan};
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::sql::lower::Lowering;
use crate::sql::marks;
use crate::sql::pattern_node::{PatternNode, Resolved, passed_on};
use crate::sql::refuse::Refusal;
use crate::sql::relation::internal;
use crate::sql::windows::unit_ns;

/// What is computed of each row.
struct Columns<'a> {
    lowering: &'a Lowering<'a>,
    input: &'a DFSchemaRef,
    expressions: Vec<Arc<dyn PhysicalExpr>>,
}

impl Lowering<'_> {
    /// Adds the nodes of `node` and returns the operator's.
    pub(crate) fn pattern(&mut self, node: &PatternNode) -> Result<NodeId> {
        let input = self.region(node.input.clone(), Some("input"))?;
        let physical = self.graph.nodes[input].schema.clone();
        let schema: SchemaRef = Arc::new(node_schema(node));
        let time = physical.field(node.spec.time_column);
        let DataType::Timestamp(unit, _) = time.data_type() else {
            return Err(internal("an event time that is no timestamp"));
        };
        let plan = self.pattern_plan(node, physical.clone(), schema.clone(), unit_ns(*unit))?;
        let node = Node {
            name: self.name("match"),
            step: Some(self.step.to_owned()),
            inputs: vec![input],
            keys: Some(vec![plan.partition.clone()]),
            lags: vec![marks::lag(time).unwrap_or(0)],
            schema,
            fingerprint: Some(self.pattern_fingerprint(node, &physical)),
            kind: NodeKind::Operator(Box::new(plan)),
        };
        Ok(self.graph.add(node))
    }

    fn pattern_plan(
        &self,
        node: &PatternNode,
        input: SchemaRef,
        schema: SchemaRef,
        unit_ns: i64,
    ) -> Result<PatternPlan> {
        let spec = &node.spec;
        let mut columns = Columns { lowering: self, input: node.input.schema(), expressions: vec![] };
        for expression in &node.columns {
            columns.add(expression)?;
        }
        let moved = node.calls.iter().map(|call| columns.move_arguments(call)).collect::<Result<Vec<_>>>()?;
        let columns = columns.expressions;
        let calls = moved.into_iter().map(|call| lower_call(call, &columns, &input)).collect::<Result<Vec<_>>>()?;
        let conditions = spec.conditions.iter();
        let conditions = conditions.map(|condition| condition.as_ref().map(|c| self.expression(c)).transpose());
        let measures = spec.measures.iter().map(|(_, measure)| self.expression(measure));
        Ok(PatternPlan {
            time_column: spec.time_column,
            unit_ns,
            partition: spec.partition.clone(),
            order: spec.order.clone(),
            within_ns: spec.within_ns,
            automaton: spec.automaton.clone(),
            shown: spec.shown.clone(),
            names: spec.names.clone(),
            conditions: conditions.collect::<Result<_>>()?,
            columns,
            calls,
            measures: measures.collect::<Result<_>>()?,
            skip: spec.skip,
            passed_on: passed_on(input.fields().len(), spec),
            all_rows: spec.all_rows,
            input,
            schema,
        })
    }

    fn expression(&self, resolved: &Resolved) -> Result<Expression> {
        Ok(Expression {
            inputs: resolved.inputs.clone(),
            schema: Arc::new(resolved.schema.as_arrow().clone()),
            expression: self.state.create_physical_expr(resolved.expression.clone(), &resolved.schema)?,
        })
    }

    /// What the operator's state depends on: the clause as a whole, the input's types, and the modules that it calls.
    fn pattern_fingerprint(&self, node: &PatternNode, input: &Schema) -> String {
        let mut text = format!("match 1\n{}", node.text());
        for field in input.fields() {
            text.push_str(&format!("\n{} {}", field.name(), field.data_type()));
        }
        let mut functions: Vec<_> = self.function_hashes.iter().collect();
        functions.sort();
        for (function, hash) in functions {
            // The text has names in several ways; one that only looks like a call costs nothing but the state.
            if text.contains(function.as_str()) {
                text.push_str(&format!("\n{function}={hash}"));
            }
        }
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

fn node_schema(node: &PatternNode) -> Schema {
    datafusion::logical_expr::UserDefinedLogicalNodeCore::schema(node).as_arrow().clone()
}

impl Columns<'_> {
    /// Adds `expression`, where it is new, and returns its number.
    fn add(&mut self, expression: &Expr) -> Result<usize> {
        let expression = expression.clone().unalias();
        let physical = self.lowering.state.create_physical_expr(expression, self.input)?;
        self.expressions.push(physical);
        Ok(self.expressions.len() - 1)
    }

    /// An aggregate over columns, and which ones these are.
    fn move_arguments(&mut self, call: &Expr) -> Result<(String, AggregateFunction)> {
        let name = call.schema_name().to_string();
        let Expr::AggregateFunction(mut function) = call.clone().unalias() else {
            return Err(internal(format!("{call} is no aggregate")));
        };
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(self.input.clone()).build());
        for argument in &mut function.params.args {
            let simple = simplifier.simplify(argument.clone())?;
            *argument = match simple {
                Expr::Literal(..) => simple,
                other => Expr::Column(Column::new_unqualified(format!("c{}", self.add(&other)?))),
            };
        }
        Ok((name, function))
    }
}

fn lower_call(
    (name, function): (String, AggregateFunction),
    columns: &[Arc<dyn PhysicalExpr>],
    input: &Schema,
) -> Result<Call> {
    let fields = columns.iter().enumerate();
    let fields = fields.map(|(index, column)| Ok(Field::new(format!("c{index}"), column.data_type(input)?, true)));
    let physical = Schema::new(fields.collect::<Result<Vec<_>>>()?);
    let logical = DFSchema::try_from(physical.clone())?;
    let expression = Expr::AggregateFunction(function);
    let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let lowered = LoweredAggregateBuilder::new(&expression, &logical, &physical, &properties, &context)
        .with_name(name.clone())
        .build()?;
    if !lowered.order_bys.is_empty() {
        return Err(Refusal::SortedAggregate(name).into());
    }
    let arguments = lowered.aggregate.expressions().into_iter().map(|argument| {
        if let Some(column) = argument.downcast_ref::<PhysicalColumn>() {
            return Ok(Argument::Column(column.index()));
        }
        let constant = argument.downcast_ref::<Literal>().map(|literal| literal.value().clone());
        constant.map(Argument::Constant).ok_or_else(|| internal(format!("{argument} is no column")))
    });
    let arguments = arguments.collect::<Result<Vec<_>>>()?;
    Ok(Call { aggregate: lowered.aggregate, arguments })
}
