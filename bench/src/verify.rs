//! Reads the rows back: their number alone does not say that they are right.

use serde::Deserialize;

use crate::failure::{Context, Result, failed};
use crate::messages::{Expectation, Rolling, Window};
use crate::pipelines::WATERMARK_MS;
use crate::topics::Reader;

/// A sum of doubles may differ by so much of itself.
const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Warm {
    temp: f64,
}

#[derive(Deserialize)]
struct Group {
    avg_temp: f64,
    max_temp: f64,
    readings: u64,
}

#[derive(Deserialize)]
struct Average {
    avg_temp: f64,
}

/// Whether the rows of work (a) are those expected: their number, and the sum of their temperatures.
pub(crate) fn warm(reader: &Reader, rows: u64, expectation: &Expectation) -> Result<()> {
    let mut sum_milli = 0;
    reader.read(rows, |row| {
        let row: Warm = parse(row)?;
        sum_milli += milli(row.temp);
        Ok(())
    })?;
    let expected = (expectation.warm, expectation.warm_sum_milli);
    if (rows, sum_milli) != expected {
        return failed(format!("rows and sum of temperatures are {:?} and not {expected:?}", (rows, sum_milli)));
    }
    Ok(())
}

/// Whether the rows of work (b) are those expected: their number, and the sums of averages, maxima and counts.
pub(crate) fn windows(reader: &Reader, rows: u64, expectation: &Expectation) -> Result<()> {
    let expected = expectation.windows(WATERMARK_MS);
    let (mut found, mut sum) = (Window { groups: rows, ..Window::default() }, 0.0);
    reader.read(rows, |row| {
        let row: Group = parse(row)?;
        found.rows += row.readings;
        found.highest_milli += milli(row.max_temp);
        sum += row.avg_temp * 1e3 * row.readings as f64;
        Ok(())
    })?;
    found.sum_milli = if near(sum, expected.sum_milli as f64) { expected.sum_milli } else { sum.round() as i64 };
    if found != expected {
        return failed(format!("the windows are {found:?} and not {expected:?}"));
    }
    Ok(())
}

/// Whether the rows of work (c) are those expected: their number, and the sum of their averages.
pub(crate) fn rolling(reader: &Reader, rows: u64, expectation: &Expectation) -> Result<()> {
    let expected = expectation.rolling(WATERMARK_MS);
    let mut found = Rolling { rows, sum_milli: 0.0 };
    reader.read(rows, |row| {
        let row: Average = parse(row)?;
        found.sum_milli += row.avg_temp * 1e3;
        Ok(())
    })?;
    if rows != expected.rows || !near(found.sum_milli, expected.sum_milli) {
        return failed(format!("the rolling averages are {found:?} and not {expected:?}"));
    }
    Ok(())
}

fn near(sum: f64, expected: f64) -> bool {
    (sum - expected).abs() <= TOLERANCE * expected.abs()
}

fn milli(degrees: f64) -> i64 {
    (degrees * 1e3).round() as i64
}

fn parse<'a, T: Deserialize<'a>>(row: &'a [u8]) -> Result<T> {
    serde_json::from_slice(row).context(|| format!("a row is {}", String::from_utf8_lossy(row)))
}
