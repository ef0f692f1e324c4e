//! Dates, times and timestamps from text and from epoch numbers.

use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::TimeUnit;
use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Timelike, Utc};

use super::{Scalar, Wrong, number};

/// Days from the first of January of year 1 to 1970.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;

/// Reads timestamps of one column, whose epoch unit it learns where nobody declared it.
pub(super) struct TimestampReader {
    /// The unit of the column.
    pub(super) target: TimeUnit,
    /// The unit of epoch numbers, once it is known.
    pub(super) unit: Option<TimeUnit>,
    /// The column, for the log.
    pub(super) path: String,
    pub(super) coerce: bool,
}

/// How many digits a unit has behind the seconds.
fn digits(unit: TimeUnit) -> u32 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "seconds",
        TimeUnit::Millisecond => "milliseconds",
        TimeUnit::Microsecond => "microseconds",
        TimeUnit::Nanosecond => "nanoseconds",
    }
}

/// The unit in which `value` is a plausible time: seconds reach to the year 5138, finer units begin in 1973.
fn detect(value: i128) -> TimeUnit {
    match value.unsigned_abs() {
        0..100_000_000_000 => TimeUnit::Second,
        100_000_000_000..100_000_000_000_000 => TimeUnit::Millisecond,
        100_000_000_000_000..100_000_000_000_000_000 => TimeUnit::Microsecond,
        _ => TimeUnit::Nanosecond,
    }
}

impl TimestampReader {
    pub(super) fn read(&mut self, value: Scalar<'_>) -> Result<i64, Wrong> {
        match value {
            Scalar::Number(text) => self.epoch(text),
            Scalar::Text(text) => match self.text(text) {
                Err(_) if self.coerce && is_number(text) => self.epoch(text.trim()),
                result => result,
            },
            _ => Err(Wrong::Type),
        }
    }

    /// An epoch number without a fraction, where its unit is known.
    #[inline]
    pub(super) fn whole(&self, value: i64) -> Option<i64> {
        let (from, to) = (digits(self.unit?), digits(self.target));
        if from == to {
            Some(value)
        } else if from < to {
            value.checked_mul(10_i64.pow(to - from))
        } else {
            Some(value.div_euclid(10_i64.pow(from - to)))
        }
    }

    fn text(&self, text: &str) -> Result<i64, Wrong> {
        let time = string_to_datetime(&Utc, text.trim()).map_err(|_| Wrong::Type)?;
        in_unit(&time, self.target).ok_or(Wrong::Range)
    }

    fn epoch(&mut self, text: &str) -> Result<i64, Wrong> {
        // Whole numbers as they are; `1700000000.25` is read exactly, to the nanosecond.
        let nine_more = match text.parse::<i64>() {
            Ok(value) => i128::from(value) * 1_000_000_000,
            Err(_) => nano_digits(text)?,
        };
        if nine_more == 0 {
            return Ok(0);
        }
        let unit = *self.unit.get_or_insert_with(|| {
            let unit = detect(nine_more / 1_000_000_000);
            tracing::warn!(
                column = %self.path, value = %text,
                "epoch numbers in this column are taken as {}; declare `unit` to settle it", unit_name(unit)
            );
            unit
        });
        // `nine_more` is the value in a unit 9 digits finer than `unit`.
        let divisor = 10_i128.pow(9 + digits(unit));
        let factor = 10_i128.pow(digits(self.target));
        let value = nine_more.checked_mul(factor).ok_or(Wrong::Range)?.div_euclid(divisor);
        i64::try_from(value).map_err(|_| Wrong::Range)
    }
}

/// `text` times 10⁹. More digits than nine behind the point are below what a timestamp can hold: only then a float is
/// good enough.
fn nano_digits(text: &str) -> Result<i128, Wrong> {
    match number::scaled(text, 9) {
        Ok(digits) => digits.parse().map_err(|_| Wrong::Range),
        Err(Wrong::Inexact) => {
            let value: f64 = number::float(text)?;
            Ok((value * 1e9).floor() as i128)
        }
        Err(wrong) => Err(wrong),
    }
}

fn is_number(text: &str) -> bool {
    number::scaled(text.trim(), 18).is_ok()
}

/// `time` since 1970 in `unit`.
fn in_unit(time: &DateTime<Utc>, unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Second => Some(time.timestamp()),
        TimeUnit::Millisecond => Some(time.timestamp_millis()),
        TimeUnit::Microsecond => Some(time.timestamp_micros()),
        TimeUnit::Nanosecond => time.timestamp_nanos_opt(),
    }
}

/// Days since 1970.
pub(super) fn date(value: Scalar<'_>) -> Result<i32, Wrong> {
    let Scalar::Text(text) = value else { return Err(Wrong::Type) };
    let date: NaiveDate = text.trim().parse().map_err(|_| Wrong::Type)?;
    Ok(date.num_days_from_ce() - EPOCH_DAYS_FROM_CE)
}

/// The time of day in `unit`.
pub(super) fn time_of_day(value: Scalar<'_>, unit: TimeUnit) -> Result<i64, Wrong> {
    let Scalar::Text(text) = value else { return Err(Wrong::Type) };
    let time: NaiveTime = text.trim().parse().map_err(|_| Wrong::Type)?;
    let nanos = i64::from(time.num_seconds_from_midnight()) * 1_000_000_000 + i64::from(time.nanosecond());
    Ok(nanos / 10_i64.pow(9 - digits(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(unit: Option<TimeUnit>) -> TimestampReader {
        TimestampReader { target: TimeUnit::Millisecond, unit, path: "ts".into(), coerce: false }
    }

    #[test]
    fn text_with_and_without_a_zone_is_read_as_utc() {
        let mut reader = reader(None);
        for text in [
            "2023-11-14T22:13:20Z",
            "2023-11-14T22:13:20",
            "2023-11-14 22:13:20",
            "2023-11-14T23:13:20+01:00",
            "2023-11-14 22:13:20.000Z",
        ] {
            assert_eq!(reader.read(Scalar::Text(text)).ok(), Some(1_700_000_000_000), "{text}");
        }
        assert!(matches!(reader.read(Scalar::Text("yesterday")), Err(Wrong::Type)));
    }

    #[test]
    fn the_unit_of_epoch_numbers_is_detected_once_and_kept() {
        for (first, unit) in [
            ("1700000000", TimeUnit::Second),
            ("1700000000000", TimeUnit::Millisecond),
            ("1700000000000000", TimeUnit::Microsecond),
            ("1700000000000000000", TimeUnit::Nanosecond),
        ] {
            let mut reader = reader(None);
            assert_eq!(reader.read(Scalar::Number("0")).ok(), Some(0));
            assert_eq!(reader.read(Scalar::Number(first)).ok(), Some(1_700_000_000_000), "{first}");
            assert_eq!(reader.unit, Some(unit));
            assert!(reader.read(Scalar::Number("5")).is_ok());
            assert_eq!(reader.unit, Some(unit), "a later small number changes nothing");
        }
    }

    #[test]
    fn a_declared_unit_is_not_guessed_away() {
        let mut reader = reader(Some(TimeUnit::Millisecond));
        assert_eq!(reader.read(Scalar::Number("1700000000")).ok(), Some(1_700_000_000));
        assert_eq!(reader.read(Scalar::Number("-1")).ok(), Some(-1));
    }

    #[test]
    fn fractions_of_a_second_are_kept() {
        let mut reader = reader(None);
        assert_eq!(reader.read(Scalar::Number("1700000000.25")).ok(), Some(1_700_000_000_250));
        assert!(reader.read(Scalar::Number("1e400")).is_err());
    }
}
