//! Turns window functions into what the operator computes.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{AggregateUDF, Expr, Window, WindowFunctionDefinition};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_plan::PhysicalExpr;

use crate::engine::operators::over::call::{Argument, Call, CallKind, GeneralCall, NumberCall, Op, PickCall};
use crate::engine::operators::over::sequence::{Bound, Frame};
use crate::engine::operators::over::store::StoreKind;
use crate::sql::over::{Inputs, Stores, frame, function};
use crate::sql::refuse::{OverRefusal, Refusal};
use crate::sql::relation::internal;

/// The furthest that LAG, LEAD and NTH_VALUE may look: each row until there may have to be kept, per key.
const REACH_MAX: u64 = 1_000_000;
/// Aggregates that keep every value.
const KEEPS_ALL: &[&str] = &["array_agg", "string_agg", "median", "percentile_cont", "mode", "nth_value"];

/// A function whose arguments are columns of the region before the operator.
pub(super) struct Draft {
    name: String,
    kind: DraftKind,
}

enum DraftKind {
    Ready(CallKind),
    Pick { column: usize, pick: PickCall },
    Aggregate(AggregateDraft),
}

struct AggregateDraft {
    function: Arc<AggregateUDF>,
    arguments: Vec<DraftArgument>,
    filter: Option<usize>,
    distinct: bool,
    ignore_nulls: bool,
    frame: Frame,
}

enum DraftArgument {
    Column(usize),
    Constant(ScalarValue),
}

/// True where the function looks at its frame.
pub(super) fn has_frame(function: &WindowFunction) -> bool {
    match &function.fun {
        WindowFunctionDefinition::AggregateUDF(_) => true,
        WindowFunctionDefinition::WindowUDF(window) => {
            matches!(window.name(), "first_value" | "last_value" | "nth_value")
        }
    }
}

/// How many rows ahead `function` looks, where it is LAG (then behind, negative) or LEAD.
pub(super) fn lead(function: &WindowFunction, window: &Window) -> Result<Option<i64>> {
    let WindowFunctionDefinition::WindowUDF(fun) = &function.fun else { return Ok(None) };
    let ahead = match fun.name() {
        "lag" => -1,
        "lead" => 1,
        _ => return Ok(None),
    };
    let offset = match function.params.args.get(1) {
        None => 1,
        Some(argument) => {
            let context = SimplifyContext::builder().with_schema(window.input.schema().clone()).build();
            match ExprSimplifier::new(context).simplify(argument.clone())? {
                Expr::Literal(value, _) if value.is_null() => 1,
                Expr::Literal(value, _) => integer(&value, fun.name())?,
                _ => return Err(Refusal::Over(OverRefusal::Constant(fun.name().to_uppercase())).into()),
            }
        }
    };
    if offset.unsigned_abs() > REACH_MAX {
        return Err(Refusal::Over(OverRefusal::Reach(fun.name().to_uppercase())).into());
    }
    Ok(Some(offset * ahead))
}

fn integer(value: &ScalarValue, name: &str) -> Result<i64> {
    match value.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(Some(value))) => Ok(value),
        _ => Err(Refusal::Over(OverRefusal::Constant(name.to_uppercase())).into()),
    }
}

/// What `expression` computes; its arguments become columns of `inputs`.
pub(super) fn draft(expression: &Expr, unit_ns: i64, inputs: &mut Inputs<'_>) -> Result<Draft> {
    let called = function(Some(expression))?;
    let name = expression.schema_name().to_string();
    let kind = match &called.fun {
        WindowFunctionDefinition::AggregateUDF(aggregate) => {
            DraftKind::Aggregate(draft_aggregate(aggregate, called, unit_ns, inputs)?)
        }
        WindowFunctionDefinition::WindowUDF(window) => match window.name() {
            "row_number" => DraftKind::Ready(CallKind::RowNumber),
            "rank" => DraftKind::Ready(CallKind::Rank),
            "dense_rank" => DraftKind::Ready(CallKind::DenseRank),
            "lag" | "lead" => draft_shift(called, inputs)?,
            "first_value" | "last_value" | "nth_value" => draft_value(window.name(), called, unit_ns, inputs)?,
            other => return Err(Refusal::Over(OverRefusal::Whole(other.to_uppercase())).into()),
        },
    };
    if !matches!(kind, DraftKind::Aggregate(_)) && called.params.filter.is_some() {
        return Err(Refusal::Over(OverRefusal::Filter(called.fun.name().to_uppercase())).into());
    }
    Ok(Draft { name, kind })
}

fn ignores_nulls(called: &WindowFunction) -> bool {
    called.params.null_treatment == Some(NullTreatment::IgnoreNulls)
}

fn first_argument(called: &WindowFunction) -> Result<Expr> {
    called.params.args.first().cloned().ok_or_else(|| internal("a window function without its argument"))
}

/// LAG and LEAD.
fn draft_shift(called: &WindowFunction, inputs: &mut Inputs<'_>) -> Result<DraftKind> {
    let offset = lead(called, inputs.window)?.unwrap_or(0);
    let default = match called.params.args.get(2) {
        None => None,
        Some(argument) => match inputs.constant(argument)? {
            Some(value) => Some(value).filter(|value| !value.is_null()),
            None => return Err(Refusal::Over(OverRefusal::Constant(called.fun.name().to_uppercase())).into()),
        },
    };
    let column = inputs.column(first_argument(called)?)?;
    let here = Bound::Offset(offset);
    let mut pick = PickCall {
        store: 0,
        frame: Frame { rows: true, start: here, end: here },
        from_end: false,
        nth: 1,
        ignore_nulls: false,
        default,
    };
    if ignores_nulls(called) && offset > 0 {
        return Err(Refusal::Over(OverRefusal::LeadNulls).into());
    }
    if ignores_nulls(called) && offset < 0 {
        // The nth value before this row, wherever it is.
        pick.frame = Frame { rows: true, start: Bound::Unbounded, end: Bound::Offset(-1) };
        (pick.from_end, pick.nth, pick.ignore_nulls) = (true, offset.unsigned_abs(), true);
    }
    Ok(DraftKind::Pick { column, pick })
}

/// FIRST_VALUE, LAST_VALUE and NTH_VALUE.
fn draft_value(name: &str, called: &WindowFunction, unit_ns: i64, inputs: &mut Inputs<'_>) -> Result<DraftKind> {
    let frame = frame::frame(called, unit_ns)?;
    let nth = match name {
        "first_value" => 1,
        "last_value" => -1,
        _ => {
            let constant = match called.params.args.get(1) {
                Some(argument) => inputs.constant(argument)?,
                None => None,
            };
            let refused = || Refusal::Over(OverRefusal::Constant(name.to_uppercase()));
            integer(&constant.ok_or_else(refused)?, name)?
        }
    };
    if nth == 0 {
        return Err(Refusal::Over(OverRefusal::Constant(name.to_uppercase())).into());
    }
    if nth.unsigned_abs() > REACH_MAX {
        return Err(Refusal::Over(OverRefusal::Reach(name.to_uppercase())).into());
    }
    let column = inputs.column(first_argument(called)?)?;
    let pick = PickCall {
        store: 0,
        frame,
        from_end: nth < 0,
        nth: nth.unsigned_abs(),
        ignore_nulls: ignores_nulls(called),
        default: None,
    };
    Ok(DraftKind::Pick { column, pick })
}

fn draft_aggregate(
    aggregate: &Arc<AggregateUDF>,
    called: &WindowFunction,
    unit_ns: i64,
    inputs: &mut Inputs<'_>,
) -> Result<AggregateDraft> {
    let frame = frame::frame(called, unit_ns)?;
    if frame.grows() && (called.params.distinct || KEEPS_ALL.contains(&aggregate.name())) {
        let distinct = if called.params.distinct { "(DISTINCT …)" } else { "" };
        let name = format!("{}{distinct}", aggregate.name().to_uppercase());
        return Err(Refusal::Over(OverRefusal::Keeps(name)).into());
    }
    let mut arguments = Vec::new();
    for argument in &called.params.args {
        arguments.push(match inputs.constant(argument)? {
            Some(value) => DraftArgument::Constant(value),
            None => DraftArgument::Column(inputs.column(argument.clone())?),
        });
    }
    let filter = match &called.params.filter {
        Some(filter) => Some(inputs.column(filter.as_ref().clone())?),
        None => None,
    };
    Ok(AggregateDraft {
        function: aggregate.clone(),
        arguments,
        filter,
        distinct: called.params.distinct,
        ignore_nulls: ignores_nulls(called),
        frame,
    })
}

impl Draft {
    /// The function, where its column is of `data_type`; what it needs of each row is added to `stores`.
    pub(super) fn build(self, data_type: &DataType, stores: &mut Stores) -> Result<Call> {
        let kind = match self.kind {
            DraftKind::Ready(kind) => kind,
            DraftKind::Pick { column, pick } => {
                let kind = StoreKind::of(stores.input.field(column).data_type());
                CallKind::Pick(PickCall { store: stores.of(kind, vec![column], None), ..pick })
            }
            DraftKind::Aggregate(draft) => match draft.number(data_type, stores) {
                Some(number) => CallKind::Number(number),
                None => CallKind::General(draft.general(self.name.clone(), stores)?),
            },
        };
        Ok(Call { name: self.name, data_type: data_type.clone(), kind })
    }
}

impl AggregateDraft {
    /// The aggregate as one of numbers, if it is one.
    fn number(&self, data_type: &DataType, stores: &mut Stores) -> Option<NumberCall> {
        if self.distinct {
            return None;
        }
        let op = match self.function.name() {
            "count" => Op::Count,
            "sum" => Op::Sum,
            "avg" => Op::Mean,
            "min" => Op::Least,
            "max" => Op::Greatest,
            _ => return None,
        };
        let frame = self.frame;
        match (op, &self.arguments[..]) {
            (Op::Count, [DraftArgument::Constant(value)]) if !value.is_null() => {
                let filter = self.filter.map(|filter| stores.of(StoreKind::Marks, vec![], Some(filter)));
                Some(NumberCall { op, store: filter, floats: false, frame })
            }
            (Op::Count, [DraftArgument::Column(column)]) => {
                let store = stores.of(StoreKind::Marks, vec![*column], self.filter);
                Some(NumberCall { op, store: Some(store), floats: false, frame })
            }
            (_, [DraftArgument::Column(column)]) => {
                let argument = stores.input.field(*column).data_type().clone();
                let floats = match (op, &argument, data_type) {
                    (Op::Sum | Op::Mean, DataType::Float64, DataType::Float64) => true,
                    (Op::Sum, DataType::Int64, DataType::Int64) => false,
                    (Op::Least | Op::Greatest, argument, _) => match StoreKind::of(argument) {
                        StoreKind::Floats => true,
                        StoreKind::Integers => false,
                        StoreKind::Marks | StoreKind::Rows => return None,
                    },
                    _ => return None,
                };
                let kind = if floats { StoreKind::Floats } else { StoreKind::Integers };
                Some(NumberCall { op, store: Some(stores.of(kind, vec![*column], self.filter)), floats, frame })
            }
            _ => None,
        }
    }

    /// The aggregate by DataFusion's accumulators.
    fn general(self, name: String, stores: &mut Stores) -> Result<GeneralCall> {
        let (mut columns, mut arguments, mut physical) = (Vec::new(), Vec::new(), Vec::new());
        for argument in self.arguments {
            let (argument, expression): (_, Arc<dyn PhysicalExpr>) = match argument {
                DraftArgument::Column(column) => {
                    columns.push(column);
                    let expression = Column::new(stores.input.field(column).name(), column);
                    (Argument::Column(columns.len() - 1), Arc::new(expression))
                }
                DraftArgument::Constant(value) => (Argument::Constant(value.clone()), Arc::new(Literal::new(value))),
            };
            arguments.push(argument);
            physical.push(expression);
        }
        let builder = AggregateExprBuilder::new(self.function, physical)
            .schema(stores.input.clone())
            .alias(name)
            .with_ignore_nulls(self.ignore_nulls)
            .with_distinct(self.distinct);
        let filter = self.filter.is_some();
        columns.extend(self.filter);
        let store = (!columns.is_empty()).then(|| stores.of(StoreKind::Rows, columns, None));
        Ok(GeneralCall { aggregate: Arc::new(builder.build()?), store, arguments, filter, frame: self.frame })
    }
}
