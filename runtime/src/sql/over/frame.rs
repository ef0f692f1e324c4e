//! The frames of OVER windows, and how far they reach ahead.

use arrow::datatypes::IntervalMonthDayNano;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Window, WindowFrame, WindowFrameBound, WindowFrameUnits};

use crate::engine::operators::over::sequence::{Bound, Frame};
use crate::sql::over::{calls, function};
use crate::sql::refuse::{OverRefusal, Refusal};

const DAY_NS: i64 = 86_400_000_000_000;

/// How far rows wait for others that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Following {
    /// Not at all.
    None,
    /// Until the watermark is so many nanoseconds past them.
    Range(i64),
    /// For rows of their key, whenever they come.
    Rows,
}

/// The frame of `function`, with a unit of event time of so many nanoseconds.
pub(super) fn frame(function: &WindowFunction, unit_ns: i64) -> Result<Frame> {
    let WindowFrame { units, start_bound, end_bound, .. } = &function.params.window_frame;
    let rows = match units {
        WindowFrameUnits::Rows => true,
        WindowFrameUnits::Range => false,
        WindowFrameUnits::Groups => return Err(Refusal::Over(OverRefusal::Groups).into()),
    };
    if !datafusion::physical_planner::is_window_frame_bound_valid(&function.params.window_frame) {
        return Err(Refusal::Over(OverRefusal::EmptyFrame).into());
    }
    let bound = |bound: &WindowFrameBound| -> Result<Bound> {
        let unit_ns = if rows { 1 } else { unit_ns };
        Ok(match bound {
            WindowFrameBound::CurrentRow if rows => Bound::Offset(0),
            WindowFrameBound::CurrentRow => Bound::Current,
            WindowFrameBound::Preceding(value) if value.is_null() => Bound::Unbounded,
            WindowFrameBound::Preceding(value) => Bound::Offset(-distance(value, unit_ns)?),
            WindowFrameBound::Following(value) => Bound::Offset(distance(value, unit_ns)?),
        })
    };
    if matches!(end_bound, WindowFrameBound::Following(value) if value.is_null()) {
        return Err(Refusal::Over(OverRefusal::Unbounded).into());
    }
    Ok(Frame { rows, start: bound(start_bound)?, end: bound(end_bound)? })
}

/// A distance in rows, or in units of so many nanoseconds.
fn distance(value: &ScalarValue, unit_ns: i64) -> Result<i64> {
    let refused = |why| Refusal::Over(OverRefusal::Interval(why)).into();
    let nanoseconds = match value {
        ScalarValue::UInt64(Some(rows)) => return Ok(i64::try_from(*rows).unwrap_or(i64::MAX)),
        ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months: 0, days, nanoseconds })) => {
            i64::from(*days).checked_mul(DAY_NS).and_then(|days| days.checked_add(*nanoseconds))
        }
        ScalarValue::IntervalMonthDayNano(Some(_)) => return Err(refused("cannot be months or years")),
        _ => return Err(refused("must be an interval")),
    };
    match nanoseconds {
        None => Err(refused("is longer than 292 years")),
        Some(nanoseconds) if nanoseconds < 0 => Err(refused("cannot be negative")),
        Some(nanoseconds) if nanoseconds % unit_ns != 0 => Err(refused("is finer than the event time's unit")),
        Some(nanoseconds) => Ok(nanoseconds / unit_ns),
    }
}

/// How far the frames of `window` reach ahead.
pub(super) fn following(window: &Window) -> Result<Following> {
    let mut furthest = Following::None;
    for expression in &window.window_expr {
        furthest = furthest.max(of_function(function(Some(expression))?, window)?);
    }
    Ok(furthest)
}

/// How far `function` reaches ahead.
pub(super) fn of_function(function: &WindowFunction, window: &Window) -> Result<Following> {
    if let Some(offset) = calls::lead(function, window)? {
        return Ok(if offset > 0 { Following::Rows } else { Following::None });
    }
    if !calls::has_frame(function) {
        return Ok(Following::None);
    }
    let WindowFrame { units, end_bound, .. } = &function.params.window_frame;
    Ok(match (end_bound, units) {
        (WindowFrameBound::Following(value), WindowFrameUnits::Range) if !value.is_null() => {
            match distance(value, 1)? {
                0 => Following::None,
                nanoseconds => Following::Range(nanoseconds),
            }
        }
        (WindowFrameBound::Following(ScalarValue::UInt64(Some(0))), _) => Following::None,
        (WindowFrameBound::Following(_), _) => Following::Rows,
        _ => Following::None,
    })
}
