//! Lowers joins of two streams: a region per input that computes its keys, then the operator.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, NullEquality, Result, ScalarValue};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder, Operator, cast,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use crate::engine::operator::OperatorPlan;
use crate::engine::operators::join::as_of::AsOfJoinPlan;
use crate::engine::operators::join::interval::IntervalJoinPlan;
use crate::engine::operators::join::residual::Residual;
use crate::engine::operators::join::side::Side;
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::sql::as_of::as_marker;
use crate::sql::interval_bounds::{Bound, bound};
use crate::sql::join_prepare::{Reads, is_version, reads};
use crate::sql::lower::Lowering;
use crate::sql::refuse::Refusal;
use crate::sql::wording::join_words;
use crate::sql::{EVENT_TIME, WINDOW_BOUND, marks};

impl Lowering<'_> {
    /// Adds the nodes of a join both of whose sides are streams, and returns the operator's.
    pub(crate) fn stream_join(&mut self, join: Join) -> Result<NodeId> {
        if let Some(node) = self.window_join(&join)? {
            return Ok(node);
        }
        if let Some(operation) = set_operation(&join) {
            return Err(Refusal::SetOperation(operation).into());
        }
        if !matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full) {
            let why = format!("a {} JOIN of two streams is not supported without a window", join_words(join.join_type));
            let hint = "use JOIN with bounds of time; for rows without a match, LEFT JOIN and in the next step \
                        WHERE … IS NULL";
            return Err(refusal_with(&join, &why, hint).into());
        }
        let mut conditions = Conditions::new(&join)?;
        if let Some(marker) = conditions.marker.take() {
            return self.as_of_join(&join, conditions, &marker);
        }
        self.interval_join(&join, conditions)
    }

    fn interval_join(&mut self, join: &Join, mut conditions: Conditions) -> Result<NodeId> {
        let refuse = |why: &str| refusal(join, why);
        let keeps = match join.join_type {
            JoinType::Inner => [false, false],
            JoinType::Left => [true, false],
            JoinType::Right => [false, true],
            JoinType::Full => [true, true],
            other => return Err(refuse(&format!("a {other} join of two streams is not supported")).into()),
        };
        let range = conditions.take_range(join)?;
        let inputs = self.join_inputs(join, &conditions.keys)?;
        let schema = joined_schema(join, &inputs, |side, column, field| {
            let time = if side == 0 { range.left } else { range.right };
            // A row that waits for its match comes out that much after its time.
            let lag = if side == 0 { range.least.saturating_neg() } else { range.greatest };
            if column == time { field.with_metadata(marks::event_time(lag.max(0))) } else { without_marks(field) }
        });
        let times = [range.left, range.right];
        let (sides, lags) = self.sides(&inputs, times, join)?;
        let residual = self.residual(join, conditions.rest)?;
        let mut text = format!("interval join 1 {} {} {}", join.join_type, range.least, range.greatest);
        self.fingerprint_parts(&mut text, &sides, &conditions.keys, residual.as_ref());
        let (least, greatest) = (range.least, range.greatest);
        let plan = IntervalJoinPlan { sides, keeps, least, greatest, residual, schema: schema.clone() };
        Ok(self.join_node(&inputs, lags, schema, Box::new(plan), &text))
    }

    fn as_of_join(&mut self, join: &Join, conditions: Conditions, marker: &[Expr]) -> Result<NodeId> {
        let version = is_version(marker);
        let inner = match join.join_type {
            JoinType::Inner => true,
            JoinType::Left => false,
            other => return Err(refusal(join, &format!("a {other} join as of a time is not supported")).into()),
        };
        let times = as_of_times(join, marker, version)?;
        if !version && !conditions.rest.is_empty() {
            let why = "ASOF JOIN takes equalities in ON and nothing else, because what else stands there could mean \
                       before or after the choice of the row";
            return Err(refusal_with(join, why, "filter in a step before, or with WHERE after the join").into());
        }
        let inputs = self.join_inputs(join, &conditions.keys)?;
        let schema = joined_schema(join, &inputs, |side, column, field| match side {
            // Rows come out in the order of their own time, so their windows are open.
            0 if column == times.left => field.with_metadata(marks::event_time(0)),
            0 => without_event_time(field),
            _ => without_marks(field),
        });
        let (sides, lags) = self.sides(&inputs, [times.left, times.right], join)?;
        let residual = self.residual(join, conditions.rest)?;
        let mut text = format!("as-of join 1 {} {}", join.join_type, times.strict);
        self.fingerprint_parts(&mut text, &sides, &conditions.keys, residual.as_ref());
        let plan = AsOfJoinPlan { sides, inner, strict: times.strict, residual, schema: schema.clone() };
        Ok(self.join_node(&inputs, lags, schema, Box::new(plan), &text))
    }

    fn join_node(
        &mut self,
        inputs: &[Input; 2],
        lags: Vec<i64>,
        schema: SchemaRef,
        plan: Box<dyn OperatorPlan>,
        fingerprint: &str,
    ) -> NodeId {
        let node = Node {
            name: self.name("join"),
            step: Some(self.step.to_owned()),
            inputs: inputs.iter().map(|input| input.node).collect(),
            keys: Some(inputs.iter().map(|input| input.keys.clone()).collect()),
            lags,
            schema,
            kind: NodeKind::Operator(plan),
            fingerprint: Some(blake3::hash(fingerprint.as_bytes()).to_hex()[..16].to_owned()),
        };
        self.graph.add(node)
    }

    /// The regions before the operator: each gives the columns of its side, then the keys that are no columns.
    fn join_inputs(&mut self, join: &Join, keys: &[(Expr, Expr)]) -> Result<[Input; 2]> {
        let left: Vec<&Expr> = keys.iter().map(|(left, _)| left).collect();
        let right: Vec<&Expr> = keys.iter().map(|(_, right)| right).collect();
        Ok([self.join_input(&join.left, &left, "left")?, self.join_input(&join.right, &right, "right")?])
    }

    fn join_input(&mut self, plan: &LogicalPlan, keys: &[&Expr], kind: &'static str) -> Result<Input> {
        let schema = plan.schema();
        let columns = schema.fields().len();
        let mut taken = HashSet::new();
        let mut expressions = Vec::new();
        for (qualifier, field) in schema.iter() {
            let column = Expr::Column(Column::new(qualifier.cloned(), field.name().clone()));
            expressions.push(column.alias(unique_name(&mut taken, qualifier.map(|q| q.table()), field.name())));
        }
        let mut places = Vec::new();
        for key in keys {
            if let Expr::Column(column) = key {
                places.push(schema.index_of_column(column)?);
                continue;
            }
            places.push(expressions.len());
            let name = unique_name(&mut taken, None, &format!("__key_{}", expressions.len() - columns));
            expressions.push((*key).clone().alias(name));
        }
        let before = LogicalPlanBuilder::from(plan.clone()).project(expressions)?.build()?;
        let node = self.region(before, Some(kind))?;
        Ok(Input { node, columns, keys: places })
    }

    /// What the operator knows of its inputs, and how far behind their watermarks the times may be.
    fn sides(&self, inputs: &[Input; 2], times: [usize; 2], join: &Join) -> Result<([Side; 2], Vec<i64>)> {
        let mut lags = Vec::new();
        let mut side = |number: usize| -> Result<Side> {
            let (input, time) = (&inputs[number], times[number]);
            let schema = self.graph.nodes[input.node].schema.clone();
            let Some(lag) = marks::lag(schema.field(time)) else {
                let why = format!("`{}` is not the event time of its stream", schema.field(time).name());
                return Err(refusal(join, &why).into());
            };
            lags.push(lag);
            Ok(Side { input: schema, columns: input.columns, keys: input.keys.clone(), time })
        };
        let sides = [side(0)?, side(1)?];
        Ok((sides, lags))
    }

    /// The conditions that are left, over the columns that they name.
    fn residual(&self, join: &Join, conditions: Vec<Expr>) -> Result<Option<Residual>> {
        let Some(condition) = conjunction(conditions) else { return Ok(None) };
        let mut columns: Vec<usize> = Vec::new();
        for column in condition.column_refs() {
            columns.push(join.schema.index_of_column(column)?);
        }
        columns.sort_unstable();
        columns.dedup();
        let fields = columns.iter().map(|column| {
            let (qualifier, field) = join.schema.qualified_field(*column);
            (qualifier.cloned(), Arc::new(field.as_ref().clone().with_nullable(true)))
        });
        let schema = DFSchema::new_with_metadata(fields.collect(), Default::default())?;
        let text = condition.to_string();
        let expression = self.state.create_physical_expr(condition, &schema)?;
        let schema = schema.as_arrow().fields().iter().enumerate();
        let schema = schema.map(|(index, field)| field.as_ref().clone().with_name(format!("c{index}")));
        let schema = Arc::new(Schema::new(schema.collect::<Vec<_>>()));
        Ok(Some(Residual { expression, columns, schema, text }))
    }

    fn fingerprint_parts(
        &self,
        text: &mut String,
        sides: &[Side; 2],
        keys: &[(Expr, Expr)],
        residual: Option<&Residual>,
    ) {
        let mut expressions = String::new();
        keys.iter().for_each(|(left, right)| expressions.push_str(&format!("\n{left} = {right}")));
        residual.iter().for_each(|residual| expressions.push_str(&format!("\nand {}", residual.text)));
        text.push_str(&expressions);
        for side in sides {
            text.push_str(&format!("\nside {} {:?}", side.time, side.keys));
            for field in side.input.fields() {
                text.push_str(&format!("\n{} {}", field.name(), field.data_type()));
            }
        }
        for (function, hash) in self.function_hashes {
            if expressions.contains(&format!("{function}(")) {
                text.push_str(&format!("\n{function}={hash}"));
            }
        }
    }
}

/// A region before the operator.
struct Input {
    node: NodeId,
    /// How many of its columns are those of the side.
    columns: usize,
    /// Its key columns.
    keys: Vec<usize>,
}

/// A join's condition, taken apart.
struct Conditions {
    /// Expressions of the left and of the right side that must be equal; of one type.
    keys: Vec<(Expr, Expr)>,
    bounds: Vec<(Bound, Expr)>,
    rest: Vec<Expr>,
    marker: Option<Vec<Expr>>,
}

/// The times that bound an interval join, as columns of their sides, and the bounds of left less right in nanoseconds.
struct Range {
    left: usize,
    right: usize,
    least: i64,
    greatest: i64,
}

impl Conditions {
    fn new(join: &Join) -> Result<Self> {
        let sides = [join.left.schema().as_ref(), join.right.schema().as_ref()];
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(join.schema.clone()).build());
        let mut all = Self { keys: vec![], bounds: vec![], rest: vec![], marker: None };
        let mut parts = join.filter.clone().map(split_conjunction_owned).unwrap_or_default();
        for (left, right) in &join.on {
            if join.null_equality == NullEquality::NullEqualsNull {
                return Err(refusal(join, "a join in which NULL equals NULL is not supported").into());
            }
            parts.push(left.clone().eq(right.clone()));
        }
        for part in parts {
            if let Some(marker) = as_marker(&part) {
                all.marker = Some(marker.to_vec());
                continue;
            }
            // BETWEEN becomes two comparisons.
            for part in split_conjunction_owned(simplifier.simplify(part)?) {
                all.add(part, join, sides)?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, part: Expr, join: &Join, sides: [&DFSchema; 2]) -> Result<()> {
        if let Some(bound) = bound(&part, &join.schema, sides[0].fields().len()) {
            self.bounds.push((bound, part));
            return Ok(());
        }
        if matches!(part, Expr::Literal(ScalarValue::Boolean(Some(true)), _)) {
            return Ok(());
        }
        match key(&part, sides, &join.schema)? {
            Some(key) => self.keys.push(key),
            None => self.rest.push(part),
        }
        Ok(())
    }

    /// Takes the bounds of the first two event times that are bounded on both sides; the others stay conditions.
    fn take_range(&mut self, join: &Join) -> Result<Range> {
        let left_columns = join.left.schema().fields().len();
        let pairs: Vec<(usize, usize)> = self.bounds.iter().map(|(bound, _)| (bound.left, bound.right)).collect();
        let timed = |(left, right): (usize, usize)| {
            marks::lag(join.schema.field(left)).is_some() && marks::lag(join.schema.field(right)).is_some()
        };
        let range = |pair: (usize, usize)| {
            let mine = self.bounds.iter().map(|(bound, _)| bound).filter(|b| (b.left, b.right) == pair);
            let (mut least, mut greatest) = (None, None);
            for bound in mine {
                least = least.max(bound.least);
                greatest = greatest.into_iter().chain(bound.greatest).min();
            }
            (least, greatest)
        };
        let chosen = pairs.iter().find(|pair| timed(**pair) && matches!(range(**pair), (Some(_), Some(_))));
        let Some(pair) = chosen.copied() else {
            return Err(refusal(join, &why_unbounded(join, &pairs, &timed, &range)).into());
        };
        let (Some(least), Some(greatest)) = range(pair) else { return Err(refusal(join, "").into()) };
        let (mine, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.bounds).into_iter().partition(|(b, _)| (b.left, b.right) == pair);
        if let Some(unit) = mine.iter().find_map(|(bound, _)| bound.finer_than) {
            let why = format!("the bound is finer than its time column, which has the unit {unit}");
            let hint = "declare the column as `timestamp`, or write a bound of whole units";
            return Err(refusal_with(join, &why, hint).into());
        }
        self.rest.extend(others.into_iter().map(|(_, part)| part));
        // Equal times are as good as any other key for spreading rows over shards.
        if self.keys.is_empty() && least == 0 && greatest == 0 {
            let column = |index: usize| Expr::Column(Column::from(join.schema.qualified_field(index)));
            let key = column(pair.0).eq(column(pair.1));
            self.keys.extend(self::key(&key, [join.left.schema(), join.right.schema()], &join.schema)?);
        }
        let narrow =
            |value: i128| i64::try_from(value).map_err(|_| refusal(join, "the bound is longer than 292 years"));
        let (least, greatest) = (narrow(least)?, narrow(greatest)?);
        Ok(Range { left: pair.0, right: pair.1 - left_columns, least, greatest })
    }
}

/// Why no two times bound the join.
fn why_unbounded(
    join: &Join,
    pairs: &[(usize, usize)],
    timed: &impl Fn((usize, usize)) -> bool,
    range: &impl Fn((usize, usize)) -> (Option<i128>, Option<i128>),
) -> String {
    if let Some(pair) = pairs.iter().find(|pair| timed(**pair)) {
        let name = |index: usize| qualified(&join.schema, index);
        let (left, right) = (name(pair.0), name(pair.1));
        let missing = match range(*pair) {
            (None, _) => format!("how far `{left}` may be before `{right}`"),
            _ => format!("how far `{left}` may be after `{right}`"),
        };
        return format!("this join of two streams would keep rows for ever: nothing says {missing}");
    }
    if let Some((left, right)) = pairs.first() {
        let untimed = [*left, *right].into_iter().find(|column| marks::lag(join.schema.field(*column)).is_none());
        let name = qualified(&join.schema, untimed.unwrap_or(*left));
        return format!("this join is bounded by `{name}`, which is not the event time of its stream");
    }
    "a join of two streams would keep every row of both for ever".to_owned()
}

/// `part` as an equality of an expression of the left side and one of the right, both of one type.
fn key(part: &Expr, sides: [&DFSchema; 2], schema: &DFSchemaRef) -> Result<Option<(Expr, Expr)>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = part else { return Ok(None) };
    if part.is_volatile() {
        return Ok(None);
    }
    let (left, right) = match (reads(left, sides), reads(right, sides)) {
        (Reads::One(0), Reads::One(1)) => (left.as_ref().clone(), right.as_ref().clone()),
        (Reads::One(1), Reads::One(0)) => (right.as_ref().clone(), left.as_ref().clone()),
        _ => return Ok(None),
    };
    let (left_type, right_type) = (left.get_type(schema)?, right.get_type(schema)?);
    let Some(common) = comparison_coercion(&left_type, &right_type) else { return Ok(None) };
    let typed = |expression: Expr, data_type: &DataType| match *data_type == common {
        true => expression,
        false => cast(expression, common.clone()),
    };
    Ok(Some((typed(left, &left_type), typed(right, &right_type))))
}

/// The times of a join as of a time, as columns of their sides.
struct AsOfTimes {
    left: usize,
    right: usize,
    /// The version is older than the row, not as old.
    strict: bool,
}

fn as_of_times(join: &Join, marker: &[Expr], version: bool) -> Result<AsOfTimes> {
    let (left, right) = (join.left.schema(), join.right.schema());
    let column = |expression: &Expr, schema: &DFSchema| match expression {
        Expr::Column(column) => schema.maybe_index_of_column(column),
        _ => None,
    };
    let timed = |schema: &DFSchema, index: usize| marks::lag(schema.field(index)).is_some();
    if version {
        let time = marker.get(1).and_then(|time| column(time, left)).filter(|index| timed(left, *index));
        let Some(time) = time else {
            let why = "what stands after AS OF is not the event time of the stream on the left";
            return Err(refusal(join, why).into());
        };
        let times: Vec<usize> = (0..right.fields().len()).filter(|index| timed(right, *index)).collect();
        let [of_version] = times[..] else {
            let why = match times.len() {
                0 => "the stream of versions has no event time",
                _ => "the stream of versions has several event times, so which one is meant cannot be told",
            };
            return Err(refusal(join, why).into());
        };
        return Ok(AsOfTimes { left: time, right: of_version, strict: false });
    }
    let (Some(Expr::Literal(kind, _)), Some(first), Some(second)) = (marker.first(), marker.get(1), marker.get(2))
    else {
        return Err(refusal(join, "MATCH_CONDITION compares the event times of both sides").into());
    };
    let kind = kind.try_as_str().flatten().unwrap_or_default();
    let in_order = column(first, left).zip(column(second, right));
    let turned = || column(second, left).zip(column(first, right));
    let (pair, looks_back) = match in_order {
        Some(pair) => (Some(pair), kind.starts_with('>')),
        None => (turned(), kind.starts_with('<')),
    };
    let Some((of_left, of_right)) = pair.filter(|(l, r)| timed(left, *l) && timed(right, *r)) else {
        return Err(refusal(join, "MATCH_CONDITION compares the event times of both sides").into());
    };
    if !looks_back {
        let why = "an ASOF JOIN that looks forward would wait for a row that may never come";
        return Err(refusal_with(join, why, "compare with >= or >, or join within bounds of time").into());
    }
    Ok(AsOfTimes { left: of_left, right: of_right, strict: !kind.ends_with('=') })
}

/// The columns of the output, each as `marked` makes it of the input's, by side and column.
fn joined_schema(join: &Join, inputs: &[Input; 2], marked: impl Fn(usize, usize, Field) -> Field) -> SchemaRef {
    let left = inputs[0].columns;
    let fields = join.schema.fields().iter().enumerate().map(|(index, field)| {
        let (side, column) = if index < left { (0, index) } else { (1, index - left) };
        marked(side, column, field.as_ref().clone())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn without_event_time(field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.remove(EVENT_TIME);
    field.with_metadata(metadata)
}

fn without_marks(field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.retain(|key, _| key != EVENT_TIME && key != WINDOW_BOUND);
    field.with_metadata(metadata)
}

/// `name`, or something like it that is not taken.
fn unique_name(taken: &mut HashSet<String>, qualifier: Option<&str>, name: &str) -> String {
    let longer = qualifier.map_or_else(|| format!("{name}_2"), |qualifier| format!("{qualifier}_{name}"));
    let candidates = [name.to_owned(), longer.clone()].into_iter();
    let mut candidates = candidates.chain((2..).map(|number| format!("{longer}_{number}")));
    let free = candidates.find(|candidate| !taken.contains(candidate)).unwrap_or(longer);
    taken.insert(free.clone());
    free
}

fn qualified(schema: &DFSchema, index: usize) -> String {
    Column::from(schema.qualified_field(index)).flat_name()
}

/// The event time of a side as a user would name it.
fn time_name(schema: &DFSchema) -> Option<String> {
    let time = (0..schema.fields().len()).find(|index| marks::lag(schema.field(*index)).is_some());
    time.map(|index| qualified(schema, index))
}

/// The set operation that `join` is made of.
fn set_operation(join: &Join) -> Option<&'static str> {
    let of_all =
        join.null_equality == NullEquality::NullEqualsNull && join.on.len() == join.left.schema().fields().len();
    match join.join_type {
        JoinType::LeftSemi if of_all => Some("INTERSECT"),
        JoinType::LeftAnti if of_all => Some("EXCEPT"),
        _ => None,
    }
}

fn refusal(join: &Join, why: &str) -> Refusal {
    if let (Some(left), Some(right)) = (bound_names(join.left.schema()), bound_names(join.right.schema())) {
        let equal = |bound: usize| format!("{} = {}", left[bound], right[bound]);
        return refusal_with(join, why, format!("compare the windows in ON: {} AND {}", equal(0), equal(1)));
    }
    let (Some(left), Some(right)) = (time_name(join.left.schema()), time_name(join.right.schema())) else {
        let hint = "give each stream's source `event_time: {column: …, watermark: …}`, and let the steps in between \
                    pass that column on; then bound the times in ON";
        return refusal_with(join, why, hint);
    };
    let hint = format!(
        "bound the times in ON: {left} BETWEEN {right} - INTERVAL '10 minutes' AND {right} + INTERVAL '10 minutes'; \
         or take the newest row so far: JOIN … FOR SYSTEM_TIME AS OF {left}; \
         or join with a table (`table:` on the source)"
    );
    refusal_with(join, why, hint)
}

/// The names of the window's start and end among the columns `schema`.
fn bound_names(schema: &DFSchema) -> Option<[String; 2]> {
    let name = |bound: &str| {
        let of = |column: &usize| schema.field(*column).metadata().get(WINDOW_BOUND).is_some_and(|is| is == bound);
        (0..schema.fields().len()).find(of).map(|column| qualified(schema, column))
    };
    Some([name("start")?, name("end")?])
}

pub(crate) fn refusal_with(join: &Join, why: &str, hint: impl Into<String>) -> Refusal {
    let (qualifier, _) = join.right.schema().qualified_field(0);
    let right = qualifier.map(|qualifier| qualifier.table().to_owned());
    Refusal::StreamJoin { why: why.to_owned(), hint: hint.into(), right }
}
