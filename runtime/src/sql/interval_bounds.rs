//! Finds the bounds that a join's condition sets to the difference of two times, however it is written.

use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};

use crate::sql::windows::unit_ns;

const DAY_NS: i128 = 86_400_000_000_000;

/// What a comparison says of the left time less the right one, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The columns of the two times among those of the join.
    pub(crate) left: usize,
    pub(crate) right: usize,
    /// The least difference that it allows.
    pub(crate) least: Option<i128>,
    /// The greatest one.
    pub(crate) greatest: Option<i128>,
    /// An interval in it is finer than the unit of the column that it is added to.
    pub(crate) finer_than: Option<TimeUnit>,
}

/// The bound that `condition` sets, if it is one. The first `left_columns` columns of `schema` are the left side's.
pub(crate) fn bound(condition: &Expr, schema: &DFSchema, left_columns: usize) -> Option<Bound> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return None };
    let (first, second) = (linear(left, schema)?, linear(right, schema)?);
    // Where lengths of time are compared, a day is no number of hours to the planner.
    if first.times() == 0 && (first.days || second.days) {
        return None;
    }
    let difference = first.less(&second);
    let (mut left_time, mut right_time) = (None, None);
    for (column, count) in &difference.columns {
        let time = if *column < left_columns { &mut left_time } else { &mut right_time };
        match count {
            0 => {}
            1 | -1 if time.is_none() => *time = Some((*column, *count)),
            _ => return None,
        }
    }
    let ((left, sign), (right, other)) = (left_time?, right_time?);
    if sign + other != 0 {
        return None;
    }
    // sign · (left − right) + constant op 0
    let constant = -difference.constant * i128::from(sign);
    let op = if sign == 1 { *op } else { op.swap()? };
    let (least, greatest) = match op {
        Operator::GtEq => (Some(constant), None),
        Operator::Gt => (Some(constant + 1), None),
        Operator::LtEq => (None, Some(constant)),
        Operator::Lt => (None, Some(constant - 1)),
        Operator::Eq => (Some(constant), Some(constant)),
        _ => return None,
    };
    Some(Bound { left, right, least, greatest, finer_than: difference.finer_than })
}

/// A sum of time columns, each so many times, and a constant in nanoseconds.
#[derive(Debug, Default)]
struct Linear {
    columns: Vec<(usize, i32)>,
    constant: i128,
    /// An interval in it has days.
    days: bool,
    finer_than: Option<TimeUnit>,
}

impl Linear {
    fn constant(constant: i128, days: bool) -> Self {
        Self { constant, days, ..Self::default() }
    }

    /// 1 for a time, 0 for a length of time.
    fn times(&self) -> i32 {
        self.columns.iter().map(|(_, count)| count).sum()
    }

    fn plus(mut self, other: &Self, sign: i32) -> Self {
        for (column, count) in &other.columns {
            match self.columns.iter_mut().find(|(known, _)| known == column) {
                Some((_, known)) => *known += sign * count,
                None => self.columns.push((*column, sign * count)),
            }
        }
        self.constant += i128::from(sign) * other.constant;
        self.days |= other.days;
        self.finer_than = self.finer_than.or(other.finer_than);
        self
    }

    fn less(self, other: &Self) -> Self {
        self.plus(other, -1)
    }
}

/// A zone in which a day always has 24 hours.
fn is_utc(zone: Option<&str>) -> bool {
    zone.is_none_or(|zone| matches!(zone, "+00:00" | "UTC" | "Z" | "utc"))
}

fn linear(expression: &Expr, schema: &DFSchema) -> Option<Linear> {
    match expression {
        Expr::Column(column) => {
            let index = schema.maybe_index_of_column(column)?;
            match schema.field(index).data_type() {
                DataType::Timestamp(_, zone) if is_utc(zone.as_deref()) => {
                    Some(Linear { columns: vec![(index, 1)], ..Linear::default() })
                }
                _ => None,
            }
        }
        Expr::Alias(alias) => linear(&alias.expr, schema),
        Expr::Cast(cast) => {
            let keeps = keeps_value(&cast.expr.get_type(schema).ok()?, cast.field.data_type());
            keeps.then(|| linear(&cast.expr, schema)).flatten()
        }
        Expr::Literal(value, _) => literal(value),
        Expr::Negative(inner) => {
            let inner = linear(inner, schema)?;
            Some(Linear::default().less(&inner))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let sign = match op {
                Operator::Plus => 1,
                Operator::Minus => -1,
                _ => return None,
            };
            let mut sum = linear(left, schema)?.plus(&linear(right, schema)?, sign);
            if let DataType::Timestamp(unit, _) = expression.get_type(schema).ok()?
                && sum.constant % i128::from(unit_ns(unit)) != 0
            {
                sum.finer_than = Some(unit);
            }
            Some(sum)
        }
        _ => None,
    }
}

/// True where a cast changes the type and not what it says.
fn keeps_value(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Timestamp(from, from_zone), DataType::Timestamp(to, to_zone)) => {
            unit_ns(*to) <= unit_ns(*from) && is_utc(from_zone.as_deref()) && is_utc(to_zone.as_deref())
        }
        (DataType::Duration(from), DataType::Duration(to)) => unit_ns(*to) <= unit_ns(*from),
        (DataType::Duration(_), DataType::Interval(_)) => true,
        (from, to) => from == to,
    }
}

fn literal(value: &ScalarValue) -> Option<Linear> {
    Some(match value {
        ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months: 0, days, nanoseconds })) => {
            Linear::constant(i128::from(*days) * DAY_NS + i128::from(*nanoseconds), *days != 0)
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            let time = i128::from(interval.milliseconds) * 1_000_000;
            Linear::constant(i128::from(interval.days) * DAY_NS + time, interval.days != 0)
        }
        ScalarValue::DurationSecond(Some(value)) => Linear::constant(i128::from(*value) * 1_000_000_000, false),
        ScalarValue::DurationMillisecond(Some(value)) => Linear::constant(i128::from(*value) * 1_000_000, false),
        ScalarValue::DurationMicrosecond(Some(value)) => Linear::constant(i128::from(*value) * 1_000, false),
        ScalarValue::DurationNanosecond(Some(value)) => Linear::constant(i128::from(*value), false),
        _ => return None,
    })
}
