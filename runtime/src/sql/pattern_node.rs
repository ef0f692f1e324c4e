//! MATCH_RECOGNIZE as a node of a logical plan.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, DFSchemaRef, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::engine::operators::pattern::{Automaton, From, Input, Skip};
use crate::sql::EVENT_TIME;
use crate::sql::marks;
use crate::sql::relation::internal;

/// What does not depend on the columns' names.
#[derive(Debug)]
pub(crate) struct PatternSpec {
    /// Columns of the input, by number.
    pub(crate) time_column: usize,
    pub(crate) partition: Vec<usize>,
    pub(crate) order: Vec<(usize, SortOptions)>,
    pub(crate) within_ns: i64,
    pub(crate) automaton: Automaton,
    /// The pattern as it was written.
    pub(crate) shown: String,
    /// The names of the variables.
    pub(crate) names: Vec<String>,
    /// By variable.
    pub(crate) conditions: Vec<Option<Resolved>>,
    /// With their names.
    pub(crate) measures: Vec<(String, Resolved)>,
    pub(crate) skip: Skip,
    pub(crate) all_rows: bool,
}

/// An expression over what is known of a match.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// What its columns are.
    pub(crate) inputs: Vec<Input>,
    /// Its columns, by number.
    pub(crate) schema: DFSchema,
    /// Over these columns.
    pub(crate) expression: Expr,
    pub(crate) data_type: DataType,
}

/// The node.
#[derive(Debug, Clone)]
pub(crate) struct PatternNode {
    pub(crate) input: LogicalPlan,
    pub(crate) spec: Arc<PatternSpec>,
    /// What is computed of each row of the input.
    pub(crate) columns: Vec<Expr>,
    /// Aggregates over rows of the input.
    pub(crate) calls: Vec<Expr>,
    schema: DFSchemaRef,
}

impl PatternNode {
    pub(crate) fn new(
        input: LogicalPlan,
        spec: Arc<PatternSpec>,
        columns: Vec<Expr>,
        calls: Vec<Expr>,
    ) -> Result<Self> {
        let schema = Arc::new(schema(input.schema(), &spec, &columns)?);
        Ok(Self { input, spec, columns, calls, schema })
    }

    /// All that the result depends on, as text without places in the SQL.
    pub(crate) fn text(&self) -> String {
        let spec = &self.spec;
        let expressions = |expressions: &[Expr]| expressions.iter().map(Expr::to_string).collect::<Vec<_>>().join("; ");
        let mut text = format!(
            "{} within {} by {:?} {:?} {:?} skip {:?} all {} of {} and {}",
            spec.shown,
            spec.within_ns,
            spec.time_column,
            spec.partition,
            spec.order,
            spec.skip,
            spec.all_rows,
            expressions(&self.columns),
            expressions(&self.calls),
        );
        let conditions = spec.names.iter().zip(&spec.conditions);
        let conditions = conditions.map(|(name, condition)| (name.as_str(), condition.as_ref()));
        let measures = spec.measures.iter().map(|(name, measure)| (name.as_str(), Some(measure)));
        for (name, resolved) in conditions.chain(measures) {
            let said = resolved.map(|r| format!("{} {:?} {}", r.expression, r.inputs, r.data_type));
            text.push_str(&format!("\n{name} {}", said.unwrap_or_default()));
        }
        text
    }
}

/// The columns that come out: those that are passed on, then the measures.
fn schema(input: &DFSchema, spec: &PatternSpec, columns: &[Expr]) -> Result<DFSchema> {
    let time = input.field(spec.time_column);
    // A match is known when the watermark has come to the end of its interval; what is behind it, one interval later.
    let looks_ahead = |resolved: &Resolved| {
        resolved.inputs.iter().any(|input| matches!(input, Input::Value { offset, .. } if *offset > 0))
    };
    let measures = spec.measures.iter().map(|(_, measure)| measure);
    let ahead = spec.conditions.iter().flatten().chain(measures).any(looks_ahead);
    let lag = spec.within_ns.saturating_mul(if ahead { 2 } else { 1 });
    let time_mark = || match marks::lag(time) {
        Some(_) => marks::event_time(lag),
        None => HashMap::new(),
    };
    let passed_on = passed_on(input.fields().len(), spec);
    let mut fields: Vec<FieldRef> = Vec::with_capacity(passed_on.len() + spec.measures.len());
    for column in passed_on {
        let mut metadata = input.field(column).metadata().clone();
        metadata.remove(EVENT_TIME);
        metadata.remove(crate::sql::WINDOW_BOUND);
        if spec.all_rows && column == spec.time_column {
            metadata.extend(time_mark());
        }
        fields.push(Arc::new(input.field(column).as_ref().clone().with_metadata(metadata)));
    }
    for (name, measure) in &spec.measures {
        let field = Field::new(name, measure.data_type.clone(), true);
        let is_time = is_time_of_match(measure, input, spec.time_column, columns);
        fields.push(Arc::new(if is_time { field.with_metadata(time_mark()) } else { field }));
    }
    DFSchema::from_unqualified_fields(fields.into(), HashMap::new())
}

/// The columns of the input that come out as they are.
pub(crate) fn passed_on(columns: usize, spec: &PatternSpec) -> Vec<usize> {
    if spec.all_rows { (0..columns).collect() } else { spec.partition.clone() }
}

/// True where the measure is the event time of a row of the match.
fn is_time_of_match(measure: &Resolved, input: &DFSchema, time_column: usize, columns: &[Expr]) -> bool {
    let Expr::Column(named) = &measure.expression else { return false };
    let Ok(number) = measure.schema.index_of_column(named) else { return false };
    let Some(Input::Value { column, offset: 0, from: From::First(_) | From::Last(_), .. }) = measure.inputs.get(number)
    else {
        return false;
    };
    match columns.get(*column) {
        Some(Expr::Column(column)) => input.index_of_column(column).is_ok_and(|index| index == time_column),
        _ => false,
    }
}

impl PartialEq for PatternNode {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text() && self.input == other.input
    }
}

impl Eq for PatternNode {}

impl PartialOrd for PatternNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.text().partial_cmp(&other.text())
    }
}

impl Hash for PatternNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text().hash(state);
        self.input.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for PatternNode {
    fn name(&self) -> &str {
        "MATCH_RECOGNIZE"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.columns.iter().chain(&self.calls).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MATCH_RECOGNIZE: {}", self.spec.shown)
    }

    fn with_exprs_and_inputs(&self, mut expressions: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let (Some(input), true) = (inputs.pop(), expressions.len() == self.columns.len() + self.calls.len()) else {
            return Err(internal("MATCH_RECOGNIZE has one input, and its expressions"));
        };
        let calls = expressions.split_off(self.columns.len());
        Self::new(input, self.spec.clone(), expressions, calls)
    }
}
