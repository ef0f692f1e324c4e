//! The oracle of MATCH_RECOGNIZE: a matcher written down from the semantics alone, by trying everything in the order of
//! preference over the sorted rows of each partition; what the operator gives out must be that, whatever the run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Field, Float64Type, Int64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::batch::{Batch, MS, Size, ids, nanoseconds, watermarks, with_windows, without};
use super::harness::{self, Script, World};
use super::oracle::{Execution, Expected, config, execute, run, verify};
use super::rows::{Row, TimeType, batch, columns_yaml, rows, time_type};
use crate::engine::assembly::operator;
use crate::engine::operator::{Operator, Output};

/// So many cases are tried by default.
const CASES: u32 = 300;
/// The naive search gives up after so many trials; such a case says nothing.
const TRIALS_MAX: usize = 200_000;
/// The variables of patterns.
const NAMES: [&str; 4] = ["A", "B", "C", "D"];

#[derive(Debug, Clone)]
enum Pattern {
    Variable(usize),
    Sequence(Vec<Pattern>),
    Either(Vec<Pattern>),
    Repeat(Box<Pattern>, usize, Option<usize>, bool),
}

impl Pattern {
    fn sql(&self) -> String {
        let join = |parts: &[Self], with: &str| parts.iter().map(Self::sql).collect::<Vec<_>>().join(with);
        match self {
            Self::Variable(variable) => NAMES[*variable].to_owned(),
            Self::Sequence(parts) => format!("({})", join(parts, " ")),
            Self::Either(parts) => format!("({})", join(parts, "|")),
            Self::Repeat(inner, min, max, greedy) => {
                let quantifier = match (min, max) {
                    (0, None) => "*".to_owned(),
                    (1, None) => "+".to_owned(),
                    (0, Some(1)) => "?".to_owned(),
                    (min, None) => format!("{{{min},}}"),
                    (0, Some(max)) => format!("{{,{max}}}"),
                    (min, Some(max)) if min == max => format!("{{{min}}}"),
                    (min, Some(max)) => format!("{{{min}, {max}}}"),
                };
                // Quantifiers do not follow each other.
                format!("({}){quantifier}{}", inner.sql(), if *greedy { "" } else { "?" })
            }
        }
    }

    fn may_be_empty(&self) -> bool {
        match self {
            Self::Variable(_) => false,
            Self::Sequence(parts) => parts.iter().all(Self::may_be_empty),
            Self::Either(parts) => parts.iter().any(Self::may_be_empty),
            Self::Repeat(inner, min, ..) => *min == 0 || inner.may_be_empty(),
        }
    }

    fn variables(&self, all: &mut BTreeSet<usize>) {
        match self {
            Self::Variable(variable) => drop(all.insert(*variable)),
            Self::Sequence(parts) | Self::Either(parts) => parts.iter().for_each(|part| part.variables(all)),
            Self::Repeat(inner, ..) => inner.variables(all),
        }
    }
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let leaf = (0..4_usize).prop_map(Pattern::Variable);
    leaf.prop_recursive(3, 10, 3, |inner| {
        let repeat = (inner.clone(), 0..3_usize, proptest::option::of(0..3_usize), any::<bool>());
        let repeat = repeat.prop_map(|(inner, min, more, greedy)| {
            // Without a limit, nothing that may be empty is repeated.
            let more = if inner.may_be_empty() { Some(more.unwrap_or(1)) } else { more };
            let max = more.map(|more| (min + more).max(1));
            Pattern::Repeat(Box::new(inner), min, max, greedy)
        });
        prop_oneof![
            3 => proptest::collection::vec(inner.clone(), 2..4).prop_map(Pattern::Sequence),
            1 => proptest::collection::vec(inner, 2..4).prop_map(Pattern::Either),
            2 => repeat,
        ]
    })
}

/// What a condition compares `n` of its row with, or `count` and so on with a number.
#[derive(Debug, Clone)]
enum Condition {
    Constant(i64),
    Prev(usize),
    Next(usize),
    /// The first or last row of a variable (all rows: `None`), so many further in.
    First(Option<usize>, usize),
    Last(Option<usize>, usize),
    /// The row before the last one of a variable.
    PrevOfLast(usize, usize),
    Sum(Option<usize>, i64),
    Count(Option<usize>, i64),
}

#[derive(Debug, Clone)]
struct Definition {
    condition: Condition,
    less: bool,
}

fn definition() -> impl Strategy<Value = Option<Definition>> {
    let of = || proptest::option::weighted(0.7, 0..4_usize);
    let condition = prop_oneof![
        4 => (-2..6_i64).prop_map(Condition::Constant),
        2 => (0..3_usize).prop_map(Condition::Prev),
        1 => (1..3_usize).prop_map(Condition::Next),
        2 => (of(), 0..3_usize).prop_map(|(of, number)| Condition::First(of, number)),
        2 => (of(), 0..3_usize).prop_map(|(of, number)| Condition::Last(of, number)),
        1 => (0..4_usize, 1..3_usize).prop_map(|(of, number)| Condition::PrevOfLast(of, number)),
        1 => (of(), -3..20_i64).prop_map(|(of, limit)| Condition::Sum(of, limit)),
        1 => (of(), 0..5_i64).prop_map(|(of, limit)| Condition::Count(of, limit)),
    ];
    proptest::option::weighted(
        0.85,
        (condition, any::<bool>()).prop_map(|(condition, less)| Definition { condition, less }),
    )
}

impl Definition {
    /// In the definition of `variable`; of other variables only where the pattern has them.
    fn sql(&self, variable: usize, used: &BTreeSet<usize>) -> String {
        let name = NAMES[variable];
        let of = |of: Option<usize>| match of.filter(|of| used.contains(of)) {
            Some(of) => format!("{}.", NAMES[of]),
            None => String::new(),
        };
        let other = match &self.condition {
            Condition::Constant(value) => return format!("{name}.n {} {value}", self.operator()),
            Condition::Prev(0) => format!("{name}.n * 2 - 3"),
            Condition::Prev(1) => format!("PREV({name}.n)"),
            Condition::Prev(number) => format!("prev(n, {number})"),
            Condition::Next(number) => format!("NEXT(n, {number})"),
            Condition::First(variable, number) => format!("FIRST({}n, {number})", of(*variable)),
            Condition::Last(variable, 0) if variable.is_some() => format!("{}n", of(*variable)),
            Condition::Last(variable, number) => format!("RUNNING LAST({}n, {number})", of(*variable)),
            Condition::PrevOfLast(variable, number) => format!("PREV(LAST({}n), {number})", of(Some(*variable))),
            Condition::Sum(variable, limit) => return format!("sum({}n) {} {limit}", of(*variable), self.operator()),
            Condition::Count(variable, limit) => {
                let rows = of(*variable) + "*";
                return format!("count({rows}) {} {limit}", self.operator());
            }
        };
        format!("n {} {other}", self.operator())
    }

    fn operator(&self) -> &'static str {
        if self.less { "<=" } else { ">" }
    }
}

#[derive(Debug, Clone, Copy)]
enum Skip {
    PastLast,
    Next,
    First(usize),
    Last(usize),
}

/// What is looked for.
#[derive(Debug, Clone)]
struct Query {
    pattern: Pattern,
    definitions: Vec<Option<Definition>>,
    skip: Skip,
    all_rows: bool,
    partitioned: bool,
    /// Rows of the same time by falling id.
    falling: bool,
    /// In ticks.
    within: i64,
    /// Windows of so many ticks over the result.
    post: Option<i64>,
}

fn query() -> impl Strategy<Value = Query> {
    let skip = prop_oneof![
        2 => Just(Skip::PastLast),
        2 => Just(Skip::Next),
        1 => (0..4_usize).prop_map(Skip::First),
        1 => (0..4_usize).prop_map(Skip::Last),
    ];
    let definitions = proptest::collection::vec(definition(), 4);
    let rest = (any::<bool>(), proptest::bool::weighted(0.8), proptest::bool::weighted(0.3), 1..25_i64);
    (pattern(), definitions, skip, rest, proptest::option::weighted(0.3, 1..9_i64)).prop_map(
        |(pattern, mut definitions, skip, (all_rows, partitioned, falling, within), post)| {
            let mut used = BTreeSet::new();
            pattern.variables(&mut used);
            for (variable, definition) in definitions.iter_mut().enumerate() {
                *definition = definition.take().filter(|_| used.contains(&variable));
            }
            // DEFINE is not empty.
            if let (true, Some(first)) = (definitions.iter().all(Option::is_none), used.first()) {
                definitions[*first] = Some(Definition { condition: Condition::Constant(-3), less: false });
            }
            Query { pattern, definitions, skip, all_rows, partitioned, falling, within, post }
        },
    )
}

impl Query {
    fn used(&self) -> BTreeSet<usize> {
        let mut used = BTreeSet::new();
        self.pattern.variables(&mut used);
        used
    }

    /// The variable of the skip, where it is one of the pattern.
    fn skip(&self) -> Skip {
        match self.skip {
            Skip::First(variable) | Skip::Last(variable) if !self.used().contains(&variable) => Skip::Next,
            other => other,
        }
    }

    fn sql(&self, tick_ms: i64) -> String {
        let used = self.used();
        let some = NAMES[*used.first().unwrap()];
        let skip = match self.skip() {
            Skip::PastLast => "PAST LAST ROW".to_owned(),
            Skip::Next => "TO NEXT ROW".to_owned(),
            Skip::First(variable) => format!("TO FIRST {}", NAMES[variable]),
            Skip::Last(variable) => format!("TO LAST {}", NAMES[variable]),
        };
        let definitions = self.definitions.iter().enumerate().filter_map(|(variable, definition)| {
            definition.as_ref().map(|definition| format!("{} AS {}", NAMES[variable], definition.sql(variable, &used)))
        });
        format!(
            "SELECT * FROM s MATCH_RECOGNIZE ({} ORDER BY ts{} MEASURES FIRST(ts) AS first_ts, LAST(id) AS last_id, \
             FINAL LAST(id) AS final_id, count(*) AS c, FINAL count({some}.*) AS final_c, sum({some}.n) + 1 AS total, \
             avg({some}.v) AS mean, LAST({some}.id, 1) AS before, FIRST({some}.n, 1) AS second, PREV(FIRST(id), 2) AS \
             earlier, NEXT({some}.n) AS later, CLASSIFIER() AS variable, MATCH_NUMBER() AS number {} AFTER MATCH SKIP \
             {skip} PATTERN ({}) WITHIN INTERVAL '{} milliseconds' DEFINE {}) AS m",
            if self.partitioned { "PARTITION BY k" } else { "" },
            if self.falling { ", id DESC" } else { "" },
            if self.all_rows { "ALL ROWS PER MATCH" } else { "ONE ROW PER MATCH" },
            self.pattern.sql(),
            self.within * tick_ms,
            definitions.collect::<Vec<_>>().join(", "),
        )
    }
}

/// A row of a partition.
#[derive(Debug, Clone)]
struct Fact {
    /// Its index in the batch.
    index: usize,
    time: i64,
    id: i64,
    n: Option<i64>,
    v: Option<f64>,
}

/// The naive search.
struct Naive<'a> {
    query: &'a Query,
    used: BTreeSet<usize>,
    rows: &'a [Fact],
    within: i64,
    trials: usize,
}

impl Naive<'_> {
    fn near(&self, row: usize, offset: i64) -> Option<&Fact> {
        let other = self.rows.get(usize::try_from(row as i64 + offset).ok()?)?;
        ((other.time - self.rows[row].time).abs() < self.within).then_some(other)
    }

    /// The rows of the variable among the first ones of a match, all for `None`.
    fn of(&self, start: usize, variables: &[usize], of: Option<usize>) -> Vec<usize> {
        let of = of.filter(|of| self.used.contains(of));
        let rows = variables.iter().enumerate().filter(|(_, variable)| of.is_none_or(|of| of == **variable));
        rows.map(|(row, _)| start + row).collect()
    }

    /// Whether the last of `variables` may be that.
    fn holds(&self, start: usize, variables: &[usize]) -> bool {
        let row = start + variables.len() - 1;
        let Some(definition) = &self.query.definitions[variables[variables.len() - 1]] else { return true };
        let compare = |a: i64, b: i64| if definition.less { a <= b } else { a > b };
        let n = self.rows[row].n;
        let other = match definition.condition {
            Condition::Constant(value) => Some(value),
            Condition::Prev(0) => n.map(|n| n * 2 - 3),
            Condition::Prev(number) => self.near(row, -(number as i64)).and_then(|row| row.n),
            Condition::Next(number) => self.near(row, number as i64).and_then(|row| row.n),
            Condition::First(of, number) => self.of(start, variables, of).get(number).and_then(|row| self.rows[*row].n),
            Condition::Last(of, number) => {
                self.of(start, variables, of).iter().rev().nth(number).and_then(|row| self.rows[*row].n)
            }
            Condition::PrevOfLast(of, number) => {
                let last = self.of(start, variables, Some(of)).last().copied();
                last.and_then(|row| self.near(row, -(number as i64))).and_then(|row| row.n)
            }
            Condition::Sum(of, limit) => {
                let values: Vec<i64> =
                    self.of(start, variables, of).iter().filter_map(|row| self.rows[*row].n).collect();
                return !values.is_empty() && compare(values.iter().sum(), limit);
            }
            Condition::Count(of, limit) => {
                return compare(self.of(start, variables, of).len() as i64, limit);
            }
        };
        n.zip(other).is_some_and(|(n, other)| compare(n, other))
    }

    /// Tries `pattern` behind `variables`, then what comes `then`; true where a match was found.
    fn matches(
        &mut self,
        start: usize,
        pattern: &Pattern,
        variables: &mut Vec<usize>,
        then: &mut dyn FnMut(&mut Self, &mut Vec<usize>) -> bool,
    ) -> bool {
        self.trials += 1;
        if self.trials > TRIALS_MAX {
            return true;
        }
        match pattern {
            Pattern::Variable(variable) => {
                let row = start + variables.len();
                if row >= self.rows.len() || self.rows[row].time - self.rows[start].time >= self.within {
                    return false;
                }
                variables.push(*variable);
                if self.holds(start, variables) && then(self, variables) {
                    return true;
                }
                variables.pop();
                false
            }
            Pattern::Sequence(parts) => self.sequence(start, parts, variables, then),
            Pattern::Either(parts) => parts.iter().any(|part| self.matches(start, part, variables, then)),
            Pattern::Repeat(inner, min, max, greedy) => {
                self.repeat(start, (inner, *min, *max, *greedy), 0, variables, then)
            }
        }
    }

    fn sequence(
        &mut self,
        start: usize,
        parts: &[Pattern],
        variables: &mut Vec<usize>,
        then: &mut dyn FnMut(&mut Self, &mut Vec<usize>) -> bool,
    ) -> bool {
        match parts {
            [] => then(self, variables),
            [first, rest @ ..] => self
                .matches(start, first, variables, &mut |naive, variables| naive.sequence(start, rest, variables, then)),
        }
    }

    fn repeat(
        &mut self,
        start: usize,
        (inner, min, max, greedy): (&Pattern, usize, Option<usize>, bool),
        count: usize,
        variables: &mut Vec<usize>,
        then: &mut dyn FnMut(&mut Self, &mut Vec<usize>) -> bool,
    ) -> bool {
        let may_end = count >= min;
        if may_end && !greedy && then(self, variables) {
            return true;
        }
        if max.is_none_or(|max| count < max)
            && self.matches(start, inner, variables, &mut |naive, variables| {
                naive.repeat(start, (inner, min, max, greedy), count + 1, variables, then)
            })
        {
            return true;
        }
        may_end && greedy && then(self, variables)
    }

    /// The matches in the rows: start and variables. And how many could not skip as they should.
    fn search(&mut self) -> (Vec<(usize, Vec<usize>)>, usize) {
        let (mut found, mut wrong, mut start) = (Vec::new(), 0, 0);
        while start < self.rows.len() {
            let mut variables = Vec::new();
            let pattern = &self.query.pattern;
            if !self.matches(start, pattern, &mut variables, &mut |_, _| true) || variables.is_empty() {
                start += 1;
                continue;
            }
            let next = match self.query.skip() {
                Skip::PastLast => Some(variables.len()),
                Skip::Next => Some(1),
                Skip::First(of) => variables.iter().position(|variable| *variable == of),
                Skip::Last(of) => variables.iter().rposition(|variable| *variable == of),
            };
            let next = next.filter(|next| *next > 0);
            wrong += usize::from(next.is_none());
            found.push((start, variables));
            start += next.unwrap_or(1);
        }
        (found, wrong)
    }
}

/// Columns of the result, as they are gathered.
#[derive(Default)]
struct Columns {
    index: Vec<u32>,
    first_ts: Vec<u32>,
    numbers: [Vec<Option<i64>>; 9],
    mean: Vec<Option<f64>>,
    variable: Vec<&'static str>,
}

impl Columns {
    /// Adds the rows of a match.
    fn add(&mut self, naive: &Naive<'_>, start: usize, variables: &[usize]) {
        let rows = naive.rows;
        let last = variables.len() - 1;
        let some = naive.used.first().copied();
        for row in if naive.query.all_rows { 0..variables.len() } else { last..variables.len() } {
            let seen = &variables[..=row];
            let of_some = naive.of(start, seen, some);
            let values: Vec<i64> = of_some.iter().filter_map(|row| rows[*row].n).collect();
            let means: Vec<f64> = of_some.iter().filter_map(|row| rows[*row].v).collect();
            let about = if naive.query.all_rows { start + row } else { start };
            self.index.push(rows[about].index as u32);
            self.first_ts.push(rows[start].index as u32);
            let all = [
                Some(rows[start + row].id),
                Some(rows[start + last].id),
                Some(seen.len() as i64),
                Some(naive.of(start, variables, some).len() as i64),
                (!values.is_empty()).then(|| values.iter().sum::<i64>() + 1),
                of_some.iter().rev().nth(1).map(|row| rows[*row].id),
                of_some.get(1).and_then(|row| rows[*row].n),
                naive.near(start, -2).map(|row| row.id),
                of_some.last().and_then(|row| naive.near(*row, 1)).and_then(|row| row.n),
            ];
            self.numbers.iter_mut().zip(all).for_each(|(column, value)| column.push(value));
            self.mean.push((!means.is_empty()).then(|| means.iter().sum::<f64>() / means.len() as f64));
            self.variable.push(NAMES[seen[row]]);
        }
    }

    fn batch(self, query: &Query, source: &RecordBatch, match_numbers: Vec<i64>) -> RecordBatch {
        let picked = UInt32Array::from(self.index);
        let passed_on = take_record_batch(source, &picked).unwrap();
        let passed_on = match (query.all_rows, query.partitioned) {
            (true, _) => passed_on,
            (false, true) => passed_on.project(&[2]).unwrap(),
            (false, false) => passed_on.project(&[]).unwrap(),
        };
        let times = source.column_by_name("ts").unwrap();
        let first_ts = arrow::compute::take(times, &UInt32Array::from(self.first_ts), None).unwrap();
        let [last_id, final_id, c, final_c, total, before, second, earlier, later] =
            self.numbers.map(|column| Arc::new(Int64Array::from(column)) as ArrayRef);
        let measures: Vec<(&str, ArrayRef)> = vec![
            ("first_ts", first_ts),
            ("last_id", last_id),
            ("final_id", final_id),
            ("c", c),
            ("final_c", final_c),
            ("total", total),
            ("mean", Arc::new(arrow::array::Float64Array::from(self.mean))),
            ("before", before),
            ("second", second),
            ("earlier", earlier),
            ("later", later),
            ("variable", Arc::new(StringArray::from(self.variable))),
            ("number", Arc::new(Int64Array::from(match_numbers))),
        ];
        let mut fields: Vec<_> = passed_on.schema().fields().iter().cloned().collect();
        let named = measures.iter().map(|(name, column)| Arc::new(Field::new(*name, column.data_type().clone(), true)));
        fields.extend(named);
        let mut columns = passed_on.columns().to_vec();
        columns.extend(measures.into_iter().map(|(_, column)| column));
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }
}

/// What is fed, and to what.
#[derive(Debug, Clone)]
struct Scenario {
    time: TimeType,
    delay: i64,
    rows: Vec<Row>,
    query: Query,
    executions: Vec<Execution>,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let delay = prop_oneof![1 => Just(0), 3 => 0..12_i64];
    let executions = proptest::collection::vec(proptest::collection::vec(run(), 1..4), 2..3);
    let some_rows = (1..4_u8).prop_flat_map(|partitions| rows(60, partitions));
    (time_type(), delay, some_rows, query(), executions).prop_map(|(time, delay, rows, query, executions)| Scenario {
        time,
        delay,
        rows,
        query,
        executions: executions.into_iter().map(|runs| Execution { runs }).collect(),
    })
}

impl Scenario {
    fn yaml(&self) -> String {
        let text = |sql: &str| serde_json::to_string(sql).unwrap();
        let mut yaml = format!(
            "name: oracle\nsources:\n  s:\n    file: {{path: none.jsonl}}\n    columns: {}\n    linger: 0s\n    \
             event_time: {{column: ts, watermark: {}ms}}\nsteps:\n  q:\n    sql: {}\n    late: {{to: late}}\n",
            columns_yaml(self.time),
            self.delay * self.time.tick_ms(),
            text(&self.query.sql(self.time.tick_ms())),
        );
        let mut last = "q";
        if let Some(size) = self.query.post {
            let from = format!("TUMBLE(q, first_ts, INTERVAL '{} milliseconds')", size * self.time.tick_ms());
            yaml += &format!("  post:\n    sql: {}\n", text(&POST.replace("{FROM}", &from)));
            last = "post";
        }
        yaml + &format!("sinks:\n  out: {{from: {last}, stdout: {{}}}}\n  late: {{stdout: {{}}}}\n")
    }

    /// What must come out; `None` where the naive search takes too long.
    async fn expected(&self) -> Option<Expected> {
        let tick = self.time.tick_ms() * MS;
        let source = batch(&self.rows, self.time, 1000, 0);
        let partitions: Vec<u8> = self.rows.iter().map(|row| row.partition).collect();
        let times = nanoseconds(source.column_by_name("ts").unwrap());
        let marks = watermarks(&times, &partitions, self.delay * tick);
        let is_late = |row: &usize| times[*row].zip(marks[*row]).is_some_and(|(time, watermark)| time < watermark);
        let late: Vec<i64> = (0..times.len()).filter(is_late).map(|row| row as i64).collect();
        let mut timeless: BTreeSet<i64> =
            (0..times.len()).filter(|row| times[*row].is_none()).map(|row| row as i64).collect();
        let mut letters = timeless.len();
        timeless.extend(&late);
        let on_time = without(&source, &timeless);
        let mut output = self.matches(&on_time, tick, &mut letters)?;
        if let Some(size) = self.query.post {
            let reference = Batch::new();
            // The windows are those of the column `ts`.
            let index = output.schema().index_of("first_ts").unwrap();
            let narrow = output.project(&[index, index + 1]).unwrap();
            let names = ["ts", "last_id"].iter().zip(narrow.columns()).map(|(name, column)| (*name, column.clone()));
            let narrow = RecordBatch::try_from_iter_with_nullable(names.map(|(n, c)| (n, c, true))).unwrap();
            let size = Size { size_ns: size * tick, offset_ns: 0 };
            reference.table("w", &with_windows(&narrow, size));
            output = reference.query(&POST.replace("{FROM}", "w")).await.unwrap();
        }
        let script = Arc::new(Script { rows: source, partitions });
        Some(Expected { scripts: BTreeMap::from([("s".to_owned(), script)]), output, late, without_time: letters })
    }

    fn matches(&self, rows: &RecordBatch, tick: i64, letters: &mut usize) -> Option<RecordBatch> {
        let times = nanoseconds(rows.column_by_name("ts").unwrap());
        let (all_ids, n) = (ids(rows), rows.column_by_name("n").unwrap().as_primitive::<Int64Type>());
        let v = rows.column_by_name("v").unwrap().as_primitive::<Float64Type>();
        let keys = rows.column_by_name("k").unwrap().as_string::<i32>();
        let mut partitions: BTreeMap<Option<&str>, Vec<Fact>> = BTreeMap::new();
        for index in 0..rows.num_rows() {
            let key = (self.query.partitioned && keys.is_valid(index)).then(|| keys.value(index));
            partitions.entry(key).or_default().push(Fact {
                index,
                time: times[index].unwrap(),
                id: all_ids[index],
                n: n.is_valid(index).then(|| n.value(index)),
                v: v.is_valid(index).then(|| v.value(index)),
            });
        }
        let (mut columns, mut numbers) = (Columns::default(), Vec::new());
        for facts in partitions.values_mut() {
            facts.sort_by_key(|fact| (fact.time, if self.query.falling { -fact.id } else { 0 }));
            let used = self.query.used();
            let mut naive =
                Naive { query: &self.query, used, rows: facts, within: self.query.within * tick, trials: 0 };
            let (found, wrong) = naive.search();
            if naive.trials > TRIALS_MAX {
                return None;
            }
            *letters += wrong;
            for (number, (start, variables)) in found.iter().enumerate() {
                columns.add(&naive, *start, variables);
                numbers.resize(columns.index.len(), number as i64 + 1);
            }
        }
        Some(columns.batch(&self.query, rows, numbers))
    }
}

const POST: &str = "SELECT window_start, count(*) AS c, max(last_id) AS m FROM {FROM} GROUP BY window_start";

/// True where the skip can be seen to lead to the first row, or a measure of the pattern makes no sense.
fn is_refused(error: &str) -> bool {
    error.contains("would find the same match again")
}

fn check(scenario: &Scenario) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let prepared = harness::runtime().block_on(async {
        let Some(expected) = scenario.expected().await else { return Ok(None) };
        match harness::plan(folder.path(), &scenario.yaml()).await {
            Ok(plan) => Ok(Some((expected, plan))),
            Err(error) if is_refused(&error) => Ok(None),
            Err(error) => Err(format!("no plan: {error}\n{}", scenario.yaml())),
        }
    })?;
    let Some((expected, mut plan)) = prepared else { return Ok(()) };
    for (number, execution) in scenario.executions.iter().enumerate() {
        plan.data_dir = folder.path().join(format!("data-{number}"));
        let world = World { scripts: expected.scripts.clone(), ..World::default() };
        execute(&mut plan, &world, execution)?;
        verify(&world, &expected, execution)
            .map_err(|error| format!("execution {number}: {error}\n{}", scenario.yaml()))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn the_matches_are_those_of_a_search_that_tries_everything(scenario in scenario()) {
        check(&scenario).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn most_scenarios_have_matches() {
    let mut runner = TestRunner::deterministic();
    let runtime = harness::runtime();
    let mut with_matches = 0;
    for _ in 0..100 {
        let scenario = scenario().new_tree(&mut runner).unwrap().current();
        let expected = runtime.block_on(scenario.expected());
        with_matches += usize::from(expected.is_some_and(|expected| expected.output.num_rows() > 0));
    }
    assert!(with_matches > 30, "{with_matches} of 100");
}

/// The matcher of `SELECT * FROM s MATCH_RECOGNIZE (clause)` over the columns ts, k and n.
async fn matcher(folder: &std::path::Path, clause: &str) -> Box<dyn Operator> {
    let sql = serde_json::to_string(&format!("SELECT * FROM s MATCH_RECOGNIZE ({clause})")).unwrap();
    let yaml = format!(
        "name: piece\nsources:\n  s:\n    file: {{path: none.jsonl}}\n    \
         columns: {{ts: timestamp(3), k: text, n: bigint}}\n    event_time: {{column: ts, watermark: 0s}}\n\
         steps:\n  q:\n    sql: {sql}\nsinks:\n  out: {{from: q, stdout: {{}}}}\n"
    );
    let plan = harness::plan(folder, &yaml).await.unwrap();
    let node = plan.graph.nodes.iter().find(|node| node.name == "q/match").unwrap();
    operator(&plan, node).await.unwrap()
}

/// Rows of `(milliseconds, k, n)`.
fn facts(rows: &[(i64, &str, i64)]) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("ts", Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.0))) as ArrayRef),
        ("k", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)))),
        ("n", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)))),
    ])
    .unwrap()
}

/// What a watermark, in milliseconds, brings out: rows and letters.
async fn after(operator: &mut Box<dyn Operator>, watermark: i64) -> (Vec<String>, Vec<String>) {
    let mut out = Output::default();
    operator.watermark(watermark.saturating_mul(MS), &mut out).await.unwrap();
    let mut lines = Vec::new();
    for batch in &out.batches {
        let options = FormatOptions::default().with_null("NULL");
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
        lines.extend(
            (0..batch.num_rows())
                .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" ")),
        );
    }
    (lines, out.letters.into_iter().map(|letter| letter.reason).collect())
}

async fn feed(operator: &mut Box<dyn Operator>, rows: &[(i64, &str, i64)]) -> usize {
    let mut out = Output::default();
    operator.batch(0, facts(rows), &mut out).await.unwrap();
    assert!(out.batches.is_empty());
    out.late.iter().map(RecordBatch::num_rows).sum()
}

#[tokio::test]
async fn a_match_comes_out_as_soon_as_nothing_preferred_can_come() {
    let folder = tempfile::tempdir().unwrap();
    let clause = |pattern: &str| {
        format!(
            "PARTITION BY k ORDER BY ts MEASURES FIRST(n) AS f, LAST(n) AS l PATTERN ({pattern}) \
             WITHIN INTERVAL '1 second' DEFINE B AS n > 1{}",
            if pattern.contains('C') { ", C AS n > 5" } else { "" }
        )
    };
    let rows = [(10, "x", 1), (20, "x", 2), (30, "x", 3)];
    let mut exact = matcher(folder.path(), &clause("A B B")).await;
    assert_eq!(feed(&mut exact, &rows).await, 0);
    assert_eq!(after(&mut exact, 30).await.0, Vec::<String>::new());
    assert_eq!(after(&mut exact, 31).await.0, ["x 1 3"]);
    assert_eq!(feed(&mut exact, &[(30, "x", 1), (31, "x", 1)]).await, 1);
    let mut greedy = matcher(folder.path(), &clause("A B+")).await;
    feed(&mut greedy, &rows).await;
    assert_eq!(after(&mut greedy, 1009).await.0, Vec::<String>::new());
    // Then no row can be within a second of the first one any more.
    assert_eq!(after(&mut greedy, 1010).await.0, ["x 1 3"]);
    let mut preferred = matcher(folder.path(), &clause("A (B B C | B)")).await;
    feed(&mut preferred, &rows).await;
    assert_eq!(after(&mut preferred, 31).await.0, Vec::<String>::new());
    feed(&mut preferred, &[(40, "x", 4)]).await;
    assert_eq!(after(&mut preferred, 41).await.0, ["x 1 2"]);
}

#[tokio::test]
async fn rows_and_partitions_are_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let clause = "PARTITION BY k ORDER BY ts MEASURES PREV(FIRST(n), 3) AS p, NEXT(n, 2) AS x PATTERN (A B+ C) \
                  WITHIN INTERVAL '100 milliseconds' DEFINE B AS n > PREV(n), C AS n < LAST(B.n)";
    let mut matcher = matcher(folder.path(), clause).await;
    let mut found = 0;
    for step in 0..300_i64 {
        let keys: Vec<String> = (0..20).map(|key| format!("k{}", step * 3 + key)).collect();
        let rows: Vec<_> =
            keys.iter().enumerate().map(|(i, k)| (step * 7, k.as_str(), (step * 5 + i as i64) % 8)).collect();
        feed(&mut matcher, &rows).await;
        found += after(&mut matcher, step * 7 + 1).await.0.len();
        // Twenty rows in 7 ms, of the last 100 ms and those that look back 100 ms.
        assert!(matcher.state_size().rows < 20 * 64, "{} rows", matcher.state_size().rows);
    }
    assert!(found > 50, "{found}");
    after(&mut matcher, 10_000).await;
    assert_eq!((matcher.state_size().rows, matcher.state_size().bytes), (0, 0));
    assert_eq!(matcher.snapshot().unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
}

#[tokio::test]
async fn a_row_with_too_many_partial_matches_starts_none_and_the_search_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let clause = "ORDER BY ts MEASURES count(*) AS c PATTERN ((A | B){3,} C) WITHIN INTERVAL '1 second' \
                  DEFINE A AS sum(A.n) > 0, B AS sum(B.n) > 0, C AS n = 0";
    let mut matcher = matcher(folder.path(), clause).await;
    let mut rows: Vec<(i64, &str, i64)> = (0..16).map(|row| (row, "x", 1)).collect();
    rows.push((16, "x", 0));
    feed(&mut matcher, &rows).await;
    let (lines, letters) = after(&mut matcher, 5000).await;
    assert_eq!(lines, ["12"]);
    assert_eq!(letters.len(), 5, "{letters:?}");
    assert!(letters[0].contains("more than 10000 partial matches"), "{letters:?}");
}

#[tokio::test]
async fn a_row_that_fails_in_a_condition_or_a_measure_goes_to_the_dead_letter() {
    let folder = tempfile::tempdir().unwrap();
    let clause = "ORDER BY ts MEASURES 12 / LAST(A.n) AS m, count(*) AS c PATTERN (A+ B) WITHIN INTERVAL '1 second' \
                  DEFINE A AS n < 10, B AS 100 / (n - 10) > 4";
    let mut matcher = matcher(folder.path(), clause).await;
    feed(&mut matcher, &[(1, "x", 4), (2, "x", 20), (3, "x", 10), (4, "x", 0), (5, "x", 30)]).await;
    let (lines, letters) = after(&mut matcher, 5000).await;
    assert_eq!(lines, ["3 2"]);
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters.iter().all(|letter| letter.contains("ivide by zero")), "{letters:?}");
}

#[tokio::test]
async fn numbers_of_partitions_without_rows_go_through_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let clause = "PARTITION BY k ORDER BY ts MEASURES MATCH_NUMBER() AS number, LAST(n) AS n PATTERN (A) \
                  WITHIN INTERVAL '1 second' DEFINE A AS n > 0";
    let mut first = matcher(folder.path(), clause).await;
    feed(&mut first, &[(1, "x", 1), (2, "x", 2), (3, "y", 3), (4, "x", 0)]).await;
    assert_eq!(after(&mut first, 5000).await.0, ["x 1 1", "x 2 2", "y 1 3"]);
    feed(&mut first, &[(6000, "y", 8)]).await;
    let state = first.snapshot().unwrap();
    let mut second = matcher(folder.path(), clause).await;
    state.iter().for_each(|state| second.restore(state, &|_| true).unwrap());
    after(&mut second, 5000).await;
    feed(&mut second, &[(5001, "x", 7)]).await;
    assert_eq!(after(&mut second, 7000).await.0, ["x 3 7", "y 2 8"]);
}
