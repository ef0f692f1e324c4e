//! `now()` and its kin, as functions that are asked for every batch.
//!
//! DataFusion replaces them by a constant when a query is planned. In a query that runs for months that is wrong, and
//! silently so; these take their place.

use std::sync::Arc;

use arrow::array::{Date32Array, Time64NanosecondArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The functions, to be registered over DataFusion's own.
pub(crate) fn functions() -> Vec<ScalarUDF> {
    [Clock::Now, Clock::Date, Clock::Time]
        .into_iter()
        .map(|clock| ScalarUDF::new_from_impl(WallClock::new(clock)))
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Clock {
    Now,
    Date,
    Time,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WallClock {
    clock: Clock,
    aliases: Vec<String>,
    signature: Signature,
}

impl WallClock {
    fn new(clock: Clock) -> Self {
        let aliases = match clock {
            Clock::Now => vec!["current_timestamp".to_owned()],
            Clock::Date => vec!["today".to_owned()],
            Clock::Time => vec![],
        };
        Self { clock, aliases, signature: Signature::nullary(Volatility::Volatile) }
    }
}

const NS_PER_DAY: i64 = 86_400_000_000_000;

impl ScalarUDFImpl for WallClock {
    fn name(&self) -> &str {
        match self.clock {
            Clock::Now => "now",
            Clock::Date => "current_date",
            Clock::Time => "current_time",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.clock {
            Clock::Now => DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from("+00:00"))),
            Clock::Date => DataType::Date32,
            Clock::Time => DataType::Time64(TimeUnit::Nanosecond),
        })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let now = chrono::Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX);
        let array: arrow::array::ArrayRef = match self.clock {
            Clock::Now => Arc::new(TimestampNanosecondArray::from_value(now, rows).with_timezone("+00:00")),
            Clock::Date => {
                let days = i32::try_from(now.div_euclid(NS_PER_DAY)).unwrap_or(i32::MAX);
                Arc::new(Date32Array::from_value(days, rows))
            }
            Clock::Time => Arc::new(Time64NanosecondArray::from_value(now.rem_euclid(NS_PER_DAY), rows)),
        };
        if rows == 1 {
            return ScalarValue::try_from_array(&array, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(array))
    }
}
