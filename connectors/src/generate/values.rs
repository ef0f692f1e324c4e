//! What is in row n: every value is a hash of (seed, column, n), so any row can be made at any time.
//!
//! The hash is splitmix64's finaliser, applied twice. A generator from the rand crates would have to be sought to each
//! (column, key, row); for synthetic data this is good enough and several times faster.

use std::f64::consts::TAU;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringViewArray, TimestampNanosecondArray, new_empty_array,
};
use arrow::buffer::NullBuffer;

use super::GenerateConfig;
use super::column::{Generator, Key, KeyOrder, Normal, Scalar, Uniform, Walk, key_column};
use super::options::Disorder;
use super::schedule::Schedule;
use crate::error::ConnectorError;

/// The independent draws within one value.
const VALUE: u64 = 0;
const SECOND: u64 = 1;
const NULL: u64 = 2;
const DISORDERED: u64 = 3;
const DISORDER: u64 = 4;
/// Draws from here on are repetitions.
const AGAIN: u64 = 16;
/// A normal number outside its bounds is drawn again at most so often, then it is the bound.
const DRAWS_MAX: u64 = 64;
/// A walk is the sum of four slower and quicker ones: their shares of its range.
const WALK_SHARES: [f64; 4] = [0.5, 0.25, 0.125, 0.125];

/// Random numbers of one column, by row and draw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice(u64);

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Dice {
    /// By the column's name, so that the order of columns does not matter.
    pub(super) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a
        let name = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Self(mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ name))
    }

    /// The same for one of many keys.
    fn of(self, key: u64) -> Self {
        Self(mix(self.0 ^ mix(key.wrapping_add(1))))
    }

    fn bits(self, n: u64, draw: u64) -> u64 {
        let row = mix(self.0.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        mix(row ^ draw.wrapping_add(1).wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// From 0 to below 1.
    fn unit(self, n: u64, draw: u64) -> f64 {
        (self.bits(n, draw) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to `count` - 1.
    fn below(self, n: u64, draw: u64, count: u64) -> u64 {
        // The upper half of a product with a number below 2^64 is below `count`.
        ((u128::from(self.bits(n, draw)) * u128::from(count)) >> 64) as u64
    }

    pub(super) fn happens(self, n: u64, probability: f64) -> bool {
        self.unit(n, VALUE) < probability
    }
}

/// Event times of rows.
#[derive(Debug, Clone)]
pub(super) struct EventTimes {
    schedule: Schedule,
    disorder: Option<Disorder>,
}

/// Makes the values of one column, except of one that is SQL.
#[derive(Debug)]
pub(super) struct Maker {
    dice: Dice,
    generator: Generator,
    /// A walk's key column.
    keys: Option<(Dice, Key)>,
    events: EventTimes,
}

impl Maker {
    pub(super) fn new(
        config: &GenerateConfig,
        name: &str,
        schedule: &Schedule,
    ) -> Result<Option<Self>, ConnectorError> {
        let Some(generator) = config.columns.get(name) else { return Ok(None) };
        let keys = match generator {
            Generator::Walk(walk) => key_column(name, walk, &config.columns)?,
            _ => None,
        };
        Ok(Some(Self {
            dice: Dice::new(config.seed, name),
            generator: generator.clone(),
            keys: keys.map(|(name, key)| (Dice::new(config.seed, name), key.clone())),
            events: EventTimes { schedule: schedule.clone(), disorder: config.disorder.clone() },
        }))
    }

    /// The values of `rows` (row numbers), where row 0 happens `base` nanoseconds after 1970. The error is a sentence.
    pub(super) fn make(&self, rows: &[u64], base: i128) -> Result<ArrayRef, String> {
        let dice = self.dice;
        let share = self.generator.nulls();
        let nulls = (share > 0.0).then(|| NullBuffer::from_iter(rows.iter().map(|n| dice.unit(*n, NULL) >= share)));
        let doubles = |value: &dyn Fn(u64) -> f64| -> ArrayRef {
            Arc::new(Float64Array::new(rows.iter().map(|n| value(*n)).collect(), nulls.clone()))
        };
        let integers = |value: &dyn Fn(u64) -> i64| -> ArrayRef {
            Arc::new(Int64Array::new(rows.iter().map(|n| value(*n)).collect(), nulls.clone()))
        };
        let valid = |i: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(i));
        let texts = |value: &dyn Fn(u64) -> String| -> ArrayRef {
            Arc::new(StringViewArray::from_iter(rows.iter().enumerate().map(|(i, n)| valid(i).then(|| value(*n)))))
        };
        Ok(match &self.generator {
            Generator::Sequence(options) => {
                let last = |n: u64| i128::from(options.start) + i128::from(options.step) * i128::from(n);
                if rows.iter().any(|n| i64::try_from(last(*n)).is_err()) {
                    return Err("the sequence has passed the largest bigint".into());
                }
                integers(&|n| last(n) as i64)
            }
            Generator::Uniform(options) if options.integer => integers(&|n| whole(dice, options, n)),
            Generator::Uniform(Uniform { min, max, .. }) => {
                // Of halves, because max - min may be more than the largest double.
                doubles(&|n| {
                    let share = dice.unit(n, VALUE);
                    (min * (1.0 - share) + max * share).clamp(*min, *max)
                })
            }
            Generator::Normal(options) if options.integer => integers(&|n| normal(dice, options, n) as i64),
            Generator::Normal(options) => doubles(&|n| normal(dice, options, n)),
            Generator::Walk(options) => {
                let at = |n: u64| self.walk(options, n);
                if options.integer {
                    integers(&|n| at(n).round().clamp(options.min.ceil(), options.max.floor()) as i64)
                } else {
                    doubles(&at)
                }
            }
            Generator::Choice(options) => {
                let ends = cumulative(options.weights.as_deref(), options.values.len());
                let picked: Vec<Option<&Scalar>> = rows
                    .iter()
                    .enumerate()
                    .map(|(i, n)| valid(i).then(|| options.values.get(pick(&ends, dice.unit(*n, VALUE))))?)
                    .collect();
                scalars(&picked)
            }
            Generator::Constant(value) => scalars(&vec![Some(value); rows.len()]),
            Generator::Timestamp(_) => {
                let times: Option<Vec<i64>> = rows.iter().map(|n| self.events.at(dice, *n, base)).collect();
                let times = times.ok_or("event times have passed the year 2262, the last that nanoseconds can say")?;
                Arc::new(TimestampNanosecondArray::new(times.into(), nulls))
            }
            Generator::Key(options) => {
                let digits = options.count.to_string().len();
                texts(&|n| format!("{}{:0digits$}", options.prefix, key(dice, options, n).saturating_add(1)))
            }
            Generator::Bool(options) => {
                let flags = rows.iter().map(|n| dice.happens(*n, options.probability)).collect();
                Arc::new(BooleanArray::new(flags, nulls))
            }
            Generator::Uuid(_) => texts(&|n| uuid(dice, n)),
            Generator::Sql(_) => return Err("SQL is evaluated after the other columns".into()),
        })
    }

    /// The walk at row `n`: a sum of lines between random points, each so slow that together they keep to `step`.
    fn walk(&self, options: &Walk, n: u64) -> f64 {
        let (dice, step_number) = match &self.keys {
            Some((key_dice, keys)) => (self.dice.of(key(*key_dice, keys, n)), n / keys.count),
            None => (self.dice, n),
        };
        let range = options.max - options.min;
        if range <= 0.0 {
            return options.min;
        }
        let start = (options.start - options.min) / range;
        let quarter = options.step / WALK_SHARES.len() as f64;
        let mut position = 0.0;
        for (draw, share) in (AGAIN..).zip(WALK_SHARES) {
            // The number of rows from one point to the next.
            let spacing = ((share * range / quarter).ceil() as u64).max(1);
            let (point, within) = (step_number / spacing, step_number % spacing);
            let height = |point: u64| if point == 0 { start } else { dice.unit(point, draw) };
            let (from, to) = (height(point), height(point.saturating_add(1)));
            position += share * (from + (to - from) * (within as f64 / spacing as f64));
        }
        (options.min + range * position).clamp(options.min, options.max)
    }
}

impl EventTimes {
    /// Nanoseconds since 1970 of row `n`, where they fit.
    fn at(&self, dice: Dice, n: u64, base: i128) -> Option<i64> {
        let mut time = base.checked_add(i128::try_from(self.schedule.event(n)).ok()?)?;
        if let Some(Disorder { max, probability }) = &self.disorder
            && dice.unit(n, DISORDERED) < *probability
        {
            let most = u64::try_from(max.0.as_nanos()).unwrap_or(u64::MAX);
            time -= i128::from(dice.below(n, DISORDER, most.saturating_add(1)));
        }
        i64::try_from(time).ok()
    }
}

/// The index of row `n`'s key.
fn key(dice: Dice, options: &Key, n: u64) -> u64 {
    match options.order {
        KeyOrder::InTurn => n % options.count,
        KeyOrder::Random => dice.below(n, VALUE, options.count.get()),
    }
}

fn whole(dice: Dice, options: &Uniform, n: u64) -> i64 {
    // `check` has bounded both by 2^53.
    let (min, max) = (options.min.ceil() as i64, options.max.floor() as i64);
    min + dice.below(n, VALUE, (max - min) as u64 + 1) as i64
}

fn normal(dice: Dice, options: &Normal, n: u64) -> f64 {
    let (min, max) = (options.min.unwrap_or(f64::NEG_INFINITY), options.max.unwrap_or(f64::INFINITY));
    let mut drawn = options.mean;
    for draw in 0..DRAWS_MAX {
        // Box and Muller; 1 - u is never 0.
        let (u, v) = (dice.unit(n, AGAIN + 2 * draw), dice.unit(n, AGAIN + 2 * draw + 1));
        drawn = options.mean + options.stddev * (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos();
        if options.integer {
            drawn = drawn.round();
        }
        if (min..=max).contains(&drawn) {
            return drawn;
        }
    }
    if options.integer { drawn.clamp(min.ceil(), max.floor()) } else { drawn.clamp(min, max) }
}

/// Where each value's share ends, from 0 to 1.
fn cumulative(weights: Option<&[f64]>, values: usize) -> Vec<f64> {
    let weights = weights.map_or_else(|| vec![1.0; values], <[f64]>::to_vec);
    let sum: f64 = weights.iter().sum();
    weights
        .iter()
        .scan(0.0, |end, weight| {
            *end += weight / sum;
            Some(*end)
        })
        .collect()
}

fn pick(ends: &[f64], at: f64) -> usize {
    // The sum of shares may miss 1 by a rounding: then it is the last value with a share.
    let last = ends.last().copied().unwrap_or_default();
    let found = ends.partition_point(|end| *end <= at);
    if found < ends.len() { found } else { ends.partition_point(|end| *end < last) }
}

/// Values of one type as an array; whole and other numbers together are doubles.
fn scalars(values: &[Option<&Scalar>]) -> ArrayRef {
    let some = values.iter().flatten();
    let doubles = some.clone().any(|value| matches!(value, Scalar::Number(_)));
    match some.clone().next() {
        None => new_empty_array(&arrow::datatypes::DataType::Null),
        Some(Scalar::Bool(_)) => Arc::new(BooleanArray::from_iter(values.iter().map(|value| match value {
            Some(Scalar::Bool(flag)) => Some(*flag),
            _ => None,
        }))),
        Some(Scalar::Text(_)) => Arc::new(StringViewArray::from_iter(values.iter().map(|value| match value {
            Some(Scalar::Text(text)) => Some(text.as_str()),
            _ => None,
        }))),
        Some(_) if doubles => Arc::new(Float64Array::from_iter(values.iter().map(|value| match value {
            Some(Scalar::Number(number)) => Some(*number),
            Some(Scalar::Integer(number)) => Some(*number as f64),
            _ => None,
        }))),
        Some(_) => Arc::new(Int64Array::from_iter(values.iter().map(|value| match value {
            Some(Scalar::Integer(number)) => Some(*number),
            _ => None,
        }))),
    }
}

fn uuid(dice: Dice, n: u64) -> String {
    // The version (4) and the variant (binary 10) stand at fixed places.
    let high = dice.bits(n, VALUE) & 0xffff_ffff_ffff_0fff | 0x4000;
    let low = dice.bits(n, SECOND) & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
    let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff)
}
