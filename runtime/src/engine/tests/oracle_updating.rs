//! Results before they are final, and what is bounded by a time-to-live: whatever the rows, the batches, the partitions,
//! the disorder, the shards, the stops and the crashes, the final rows are the batch answer, and what was given out last
//! before them says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::{concat_batches, filter_record_batch, not, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use proptest::prelude::*;

use super::batch::{Batch, MS, compare, ids, nanoseconds, watermarks, without};
use super::harness::{self, Break, Script, World};
use super::oracle::{Execution, Expected, Run, Scenario, config, execute, run, verify_rest};
use super::oracle_windows::{self, Post, Shape, aggregate};
use super::queries::{Last, Query, window};
use super::rows::{Row, TimeType, batch, columns_yaml, rows, time_type};
use super::windowing::{self, Function};

/// So many cases are tried by default.
const CASES: u32 = 300;
/// Longer than all rows together.
const LONG: i64 = 1_000_000;

/// What is computed.
#[derive(Debug, Clone)]
enum Kind {
    /// Windows with early results.
    Window {
        last: Last,
    },
    /// The same of other windows than TUMBLE.
    Windows {
        function: Function,
        apart: bool,
        shape: Shape,
    },
    /// Groups without a window that are kept for ever.
    Group {
        sql: &'static str,
        keys: usize,
    },
    /// Groups without a window that are freed.
    GroupFor {
        ttl: i64,
    },
    Distinct {
        sql: &'static str,
    },
    DistinctFor {
        ttl: i64,
    },
    /// The first row per key by event time.
    First {
        sql: &'static str,
        ttl: i64,
    },
    /// The first rows per key by another order; the rank is behind the keys.
    Top {
        sql: &'static str,
        keys: usize,
    },
}

const GROUPS: &[(&str, usize)] = &[
    ("SELECT k, count(*) AS c, sum(n) AS s, max(v) AS m FROM s GROUP BY k", 1),
    ("SELECT k, g, avg(v) AS a, count(DISTINCT n) AS d, min(k) AS lo FROM s WHERE id % 3 <> 0 GROUP BY k, g", 2),
    ("SELECT id, count(*) AS c, stddev(v) AS dev FROM s GROUP BY id", 1),
    ("SELECT upper(k) AS u, last_value(id ORDER BY ts, id) AS l, sum(d) AS d FROM s GROUP BY upper(k) HAVING true", 1),
    ("SELECT b FROM s GROUP BY b", 1),
    ("SELECT x.k, name, c FROM (SELECT k, g, count(n) AS c FROM s GROUP BY k, g) x JOIN t ON x.g = tg", 2),
    (
        "SELECT k, count(*) FILTER (WHERE b) AS c FROM s GROUP BY k UNION ALL SELECT 'n' || coalesce(g, 9), sum(n) FROM s GROUP BY coalesce(g, 9)",
        1,
    ),
];

const DISTINCTS: &[&str] = &[
    "SELECT DISTINCT k, g FROM s",
    "SELECT DISTINCT b FROM s WHERE n > 1",
    "SELECT DISTINCT upper(k) AS u, tags FROM s",
    "SELECT DISTINCT ON (id) id, k FROM s",
];

const FIRSTS: &[&str] = &[
    "SELECT id, k FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts, id) AS rn FROM s) WHERE rn = 1",
    "SELECT DISTINCT ON (k) id, k FROM s ORDER BY k, ts, id",
    "SELECT id, k FROM s QUALIFY ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts, id) <= 1",
];

const TOPS: &[(&str, usize)] = &[
    (
        "SELECT k, id, g FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts DESC, id DESC) AS rn FROM s) x WHERE rn = 1",
        1,
    ),
    (
        "SELECT k, rn, id, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY v DESC NULLS LAST, id) AS rn FROM s) WHERE rn <= 2",
        2,
    ),
    ("SELECT DISTINCT ON (g) g, id, v FROM s ORDER BY g, n, id", 1),
    (
        "SELECT upper(k) AS u, r, tags, id FROM (SELECT k, tags, id, ROW_NUMBER() OVER (PARTITION BY upper(k) ORDER BY tags, id DESC) AS r FROM s) WHERE r < 4 AND id >= 0",
        2,
    ),
];

#[derive(Debug, Clone)]
struct Case {
    time: TimeType,
    base: i64,
    delay: i64,
    rows: Vec<Row>,
    kind: Kind,
    /// `changes`, or every so many milliseconds.
    every: Option<u64>,
    executions: Vec<Execution>,
}

fn function() -> impl Strategy<Value = Function> {
    use windowing::{bin, cumulate, hop, session};
    prop_oneof![3 => hop(), 2 => cumulate(), 3 => session(), 1 => bin()]
}

fn kind() -> impl Strategy<Value = Kind> {
    let ttl = || prop_oneof![3 => 0..8_i64, 1 => Just(64), 1 => Just(LONG)];
    prop_oneof![
        4 => window().prop_map(|last| Kind::Window { last }),
        6 => (function(), proptest::bool::weighted(0.3), aggregate(Just(Post::None)))
            .prop_map(|(function, apart, shape)| Kind::Windows { function, apart, shape }),
        4 => (0..GROUPS.len()).prop_map(|n| Kind::Group { sql: GROUPS[n].0, keys: GROUPS[n].1 }),
        3 => ttl().prop_map(|ttl| Kind::GroupFor { ttl }),
        2 => (0..DISTINCTS.len()).prop_map(|n| Kind::Distinct { sql: DISTINCTS[n] }),
        1 => ttl().prop_map(|ttl| Kind::DistinctFor { ttl }),
        4 => (0..FIRSTS.len(), ttl()).prop_map(|(n, ttl)| Kind::First { sql: FIRSTS[n], ttl }),
        4 => (0..TOPS.len()).prop_map(|n| Kind::Top { sql: TOPS[n].0, keys: TOPS[n].1 }),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let base = prop_oneof![Just(0), Just(-20), Just(1_700_000_000_i64)];
    let delay = prop_oneof![1 => Just(0), 3 => 0..12_i64];
    let every = prop_oneof![2 => Just(None), 1 => (1..4_u64).prop_map(Some)];
    let executions = proptest::collection::vec(proptest::collection::vec(run(), 1..4), 2..3);
    let some_rows = (1..4_u8).prop_flat_map(|partitions| rows(40, partitions));
    (time_type(), base, delay, some_rows, kind(), every, executions).prop_map(
        |(time, base, delay, rows, kind, every, executions)| Case {
            time,
            base,
            delay,
            rows,
            kind,
            every,
            executions: executions.into_iter().map(|runs| Execution { runs }).collect(),
        },
    )
}

const TABLE_JSON: &str = "{\"tg\":0,\"name\":\"zero\",\"w\":0.5}\n{\"tg\":1,\"name\":\"one\",\"w\":1.0}\n";

fn table() -> RecordBatch {
    let columns: [(&str, ArrayRef); 2] = [
        ("tg", Arc::new(arrow::array::Int32Array::from(vec![0, 1]))),
        ("name", Arc::new(StringArray::from(vec!["zero", "one"]))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

impl Case {
    fn tick_ns(&self) -> i64 {
        self.time.tick_ms() * MS
    }

    fn emit(&self) -> String {
        self.every.map_or("changes".into(), |every| format!("{{every: {every}ms}}"))
    }

    /// The oracle's scenario of the same rows, for windows.
    fn scenario(&self, last: &Last) -> Scenario {
        let query =
            Query { steps: vec![], relation: "s".into(), two_sources: false, one_way: true, last: last.clone() };
        let (time, base, delay, rows) = (self.time, self.base, self.delay, [self.rows.clone(), vec![]]);
        Scenario { time, base, delay, rows, query, executions: vec![] }
    }

    /// The same for other windows than TUMBLE.
    fn windows(&self, function: &Function, apart: bool, shape: &Shape) -> oracle_windows::Scenario {
        oracle_windows::Scenario {
            time: self.time,
            base: self.base,
            delay: self.delay,
            rows: self.rows.clone(),
            before: None,
            function: function.clone(),
            apart,
            shape: shape.clone(),
            executions: vec![],
        }
    }

    fn yaml(&self) -> String {
        let (sql, ttl, emits) = match &self.kind {
            Kind::Window { last } => {
                let last = match last.clone() {
                    Last::Window { size, offset, sql, .. } => Last::Window { size, offset, sql, post: None },
                    other => other,
                };
                let emit = format!("    late: {{to: late}}\n    emit: {}\n", self.emit());
                return self.scenario(&last).yaml().replace("    late: {to: late}\n", &emit);
            }
            Kind::Windows { function, apart, shape } => {
                return self.windows(function, *apart, shape).yaml(&format!("    emit: {}\n", self.emit()));
            }
            Kind::Group { sql, .. } | Kind::Top { sql, .. } => (*sql, LONG, true),
            Kind::GroupFor { ttl } => {
                ("SELECT k, count(*) AS c, sum(n) AS s, min(id) AS lo, max(id) AS hi FROM s GROUP BY k", *ttl, true)
            }
            Kind::Distinct { sql } => (*sql, LONG, false),
            Kind::DistinctFor { ttl } => ("SELECT DISTINCT k FROM s", *ttl, false),
            Kind::First { sql, ttl } => (*sql, *ttl, false),
        };
        let late = matches!(self.kind, Kind::First { .. });
        let emit = if emits { format!("    emit: {}\n", self.emit()) } else { String::new() };
        format!(
            "name: oracle\nsources:\n  s:\n    file: {{path: none.jsonl}}\n    columns: {}\n    linger: 0s\n    \
             event_time: {{column: ts, watermark: {}ms}}\n  t: {{file: {{path: t.jsonl}}, table: {{}}, \
             columns: {{tg: int, name: text, w: double}}}}\nsteps:\n  q:\n    sql: {}\n    state: {{ttl: {}ms}}\n{emit}{}\
             sinks:\n  out: {{from: q, stdout: {{}}}}\n{}",
            columns_yaml(self.time),
            self.delay * self.time.tick_ms(),
            serde_json::to_string(sql).unwrap(),
            ttl * self.time.tick_ms(),
            if late { "    late: {to: late}\n" } else { "" },
            if late { "  late: {stdout: {}}\n" } else { "" },
        )
    }

    async fn expected(&self) -> Result<Expected, String> {
        if let Kind::Window { last: Last::Window { size, offset, sql, .. } } = &self.kind {
            let last = Last::Window { size: *size, offset: *offset, sql: sql.clone(), post: None };
            return self.scenario(&last).expected().await;
        }
        if let Kind::Windows { function, apart, shape } = &self.kind {
            return self.windows(function, *apart, shape).expected().await;
        }
        let all = batch(&self.rows, self.time, self.base, 0);
        let partitions: Vec<u8> = self.rows.iter().map(|row| row.partition).collect();
        let times = nanoseconds(all.column_by_name("ts").unwrap());
        let before = watermarks(&times, &partitions, self.delay * self.tick_ns());
        let timeless: BTreeSet<i64> = ids(&all).into_iter().filter(|id| times[*id as usize].is_none()).collect();
        let rows = without(&all, &timeless);
        let scripts = [("s".to_owned(), Arc::new(Script { rows: all, partitions }))].into();
        let arrivals: Vec<Arrival> = ids(&rows)
            .into_iter()
            .map(|id| Arrival { id, time: times[id as usize].unwrap(), watermark: before[id as usize] })
            .collect();
        let keys: Vec<Option<String>> =
            rows.column_by_name("k").unwrap().as_string::<i32>().iter().map(|k| k.map(str::to_owned)).collect();
        let mut late = vec![];
        let output = match &self.kind {
            Kind::Window { .. } | Kind::Windows { .. } => return Err("no window".into()),
            Kind::Group { sql, .. } | Kind::Distinct { sql } | Kind::Top { sql, .. } => {
                let reference = Batch::new();
                reference.table("s", &rows);
                reference.table("t", &table());
                reference.query(sql).await?
            }
            Kind::GroupFor { ttl } => groups(&rows, &keys, &arrivals, *ttl * self.tick_ns()),
            Kind::DistinctFor { ttl } => groups(&rows, &keys, &arrivals, *ttl * self.tick_ns()).project(&[0]).unwrap(),
            Kind::First { ttl, .. } => {
                late = arrivals.iter().filter(|row| row.is_late()).map(|row| row.id).collect();
                let first = first(&keys, &arrivals, *ttl * self.tick_ns());
                let others = ids(&rows).into_iter().filter(|id| !first.contains(id)).collect();
                without(&rows, &others).project(&[0, 2]).unwrap()
            }
        };
        Ok(Expected { scripts, output, late, without_time: timeless.len() })
    }
}

/// A row as it comes.
struct Arrival {
    id: i64,
    time: i64,
    watermark: Option<i64>,
}

impl Arrival {
    fn is_late(&self) -> bool {
        self.watermark.is_some_and(|watermark| self.time < watermark)
    }
}

/// The groups by `k` that are freed after `ttl`: k, count, sum of n, least and greatest id.
fn groups(rows: &RecordBatch, keys: &[Option<String>], arrivals: &[Arrival], ttl: i64) -> RecordBatch {
    #[derive(Default)]
    struct Group {
        key: Option<String>,
        newest: i64,
        members: Vec<usize>,
    }
    let width = (ttl / 64).max(1);
    let mut all: Vec<Group> = Vec::new();
    let mut open: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for (index, arrival) in arrivals.iter().enumerate() {
        let known = open.get(&keys[index]).copied().filter(|group| {
            let newest = all[*group].newest;
            // A row that is not late is after all that was freed; for a late one it counts what was.
            let freed = (newest.div_euclid(width) + 1) * width + ttl < arrival.watermark.unwrap_or(i64::MIN);
            arrival.time <= newest + ttl && !(arrival.is_late() && freed)
        });
        let group = known.unwrap_or_else(|| {
            all.push(Group { key: keys[index].clone(), newest: i64::MIN, members: vec![] });
            open.insert(keys[index].clone(), all.len() - 1);
            all.len() - 1
        });
        all[group].newest = all[group].newest.max(arrival.time);
        all[group].members.push(index);
    }
    let n = rows.column_by_name("n").unwrap().as_primitive::<Int64Type>();
    let sum = |group: &Group| {
        let values = group.members.iter().filter(|row| n.is_valid(**row)).map(|row| n.value(*row));
        values.reduce(|a, b| a + b)
    };
    let id = |group: &Group, last: bool| {
        let ids = group.members.iter().map(|row| arrivals[*row].id);
        if last { ids.max() } else { ids.min() }
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(all.iter().map(|group| group.key.clone()).collect::<StringArray>()),
        Arc::new(Int64Array::from_iter_values(all.iter().map(|group| group.members.len() as i64))),
        Arc::new(all.iter().map(sum).collect::<Int64Array>()),
        Arc::new(all.iter().map(|group| id(group, false)).collect::<Int64Array>()),
        Arc::new(all.iter().map(|group| id(group, true)).collect::<Int64Array>()),
    ];
    let fields = ["c", "s", "lo", "hi"].map(|name| Field::new(name, DataType::Int64, true));
    let fields = [Field::new("k", DataType::Utf8, true)].into_iter().chain(fields);
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns).unwrap()
}

/// The ids of the rows that are the first of their keys by time, of those in time.
fn first(keys: &[Option<String>], arrivals: &[Arrival], ttl: i64) -> BTreeSet<i64> {
    let mut order: Vec<usize> = (0..arrivals.len()).filter(|row| !arrivals[*row].is_late()).collect();
    order.sort_by_key(|row| (arrivals[*row].time, arrivals[*row].id));
    let mut newest: BTreeMap<&Option<String>, i64> = BTreeMap::new();
    let mut first = BTreeSet::new();
    for row in order {
        let time = arrivals[row].time;
        if newest.get(&keys[row]).is_none_or(|newest| time > newest + ttl) {
            first.insert(arrivals[row].id);
        }
        newest.insert(&keys[row], time);
    }
    first
}

/// The rows that are final or not, without the column that says so.
fn part(batches: &[RecordBatch], is_final: bool) -> Vec<RecordBatch> {
    let part = |batch: &RecordBatch| {
        let last = batch.num_columns() - 1;
        assert_eq!(batch.schema().field(last).name(), "is_final");
        let finals: BooleanArray = batch.column(last).as_boolean().clone();
        let chosen = if is_final { finals } else { not(&finals).unwrap() };
        let rows = filter_record_batch(batch, &chosen).unwrap();
        rows.project(&(0..last).collect::<Vec<_>>()).unwrap()
    };
    batches.iter().map(part).collect()
}

/// The last of the rows with each key, which is the first `keys` columns.
fn last_by_key(batches: &[RecordBatch], keys: usize) -> Vec<RecordBatch> {
    let Some(first) = batches.first() else { return vec![] };
    let all = concat_batches(&first.schema(), batches).unwrap();
    let mut last: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for row in 0..all.num_rows() {
        // Shown so that no two values look the same.
        let cell = |column: &ArrayRef| format!("{:?}", column.slice(row, 1));
        last.insert(all.columns()[..keys].iter().map(cell).collect(), row as u64);
    }
    let rows: arrow::array::UInt64Array = last.into_values().collect();
    vec![take_record_batch(&all, &rows).unwrap()]
}

fn verify(case: &Case, world: &World, expected: &Expected, execution: &Execution) -> Result<(), String> {
    let output = world.taken("out").batches();
    let finals = match &case.kind {
        Kind::Distinct { .. } | Kind::DistinctFor { .. } | Kind::First { .. } => output.clone(),
        _ => part(&output, true),
    };
    compare(&finals, std::slice::from_ref(&expected.output))?;
    // Of windows, the columns before the aggregates, which are called a0 and so on.
    let of_windows =
        || expected.output.schema().fields().iter().take_while(|field| !field.name().starts_with('a')).count();
    let keys = match &case.kind {
        Kind::Group { keys, .. } | Kind::Top { keys, .. } => Some(*keys),
        Kind::Window { last: Last::Window { sql, .. } } if !sql.contains("HAVING") => Some(of_windows()),
        Kind::Windows { .. } => Some(of_windows()),
        _ => None,
    };
    if let (Some(keys), None) = (keys, case.every) {
        let said = last_by_key(&part(&output, false), keys);
        compare(&said, &finals).map_err(|error| format!("what was said last is not final: {error}"))?;
    }
    verify_rest(world, &expected.late, expected.without_time, execution)
}

fn check(case: &Case) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let table = if matches!(case.kind, Kind::Window { .. } | Kind::Windows { .. }) {
        super::oracle::TABLE_JSON
    } else {
        TABLE_JSON
    };
    std::fs::write(folder.path().join("t.jsonl"), table).unwrap();
    let yaml = case.yaml();
    let (expected, plan) = harness::runtime().block_on(async {
        let expected = case.expected().await.map_err(|error| format!("the reference fails: {error}"))?;
        let plan = harness::plan(folder.path(), &yaml).await;
        Ok::<_, String>((expected, plan.map_err(|error| format!("no plan: {error}\n{yaml}"))?))
    })?;
    let mut plan = plan;
    for (number, execution) in case.executions.iter().enumerate() {
        plan.data_dir = folder.path().join(format!("data-{number}"));
        let world = World { scripts: expected.scripts.clone(), ..World::default() };
        execute(&mut plan, &world, execution)?;
        verify(case, &world, &expected, execution).map_err(|error| format!("execution {number}: {error}\n{yaml}"))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn final_rows_are_the_batch_answer_and_what_was_said_before_them_agrees(case in case()) {
        check(&case).map_err(TestCaseError::fail)?;
    }
}

/// Rows of one partition: how many ticks after the row before, key, number.
fn made(rows: &[(i8, Option<u8>, Option<i8>)]) -> Vec<Row> {
    let row = |(step, k, n): &(i8, Option<u8>, Option<i8>)| Row {
        partition: 0,
        step: Some(*step),
        k: *k,
        g: None,
        v: None,
        n: *n,
        b: None,
        tags: None,
    };
    rows.iter().map(row).collect()
}

/// `kind` over `rows` without disorder, row by row and all at once.
fn found(kind: Kind, rows: &[(i8, Option<u8>, Option<i8>)]) {
    let run =
        |split| Run { parallelism: 1, splits: vec![split], checkpoint_ms: 1, pause_ms: 0, share: 0, ends: Break::Stop };
    let executions = [1, 1000].map(|split| Execution { runs: vec![run(split)] }).to_vec();
    let time = TimeType { unit: TimeUnit::Second, zone: false };
    let case = Case { time, base: 0, delay: 0, rows: made(rows), kind, every: None, executions };
    check(&case).unwrap();
}

#[test]
fn distinct_goes_by_the_event_time_that_it_leaves_out() {
    found(Kind::DistinctFor { ttl: 0 }, &[(0, Some(0), None), (3, None, None), (0, Some(0), None)]);
}

#[test]
fn a_late_row_begins_anew_where_the_watermark_has_freed_its_key() {
    found(Kind::GroupFor { ttl: 0 }, &[(0, None, None), (-6, Some(2), None), (0, Some(2), None)]);
}

/// A sum took groups that it had been told of before their first row for ones that had had a value.
#[test]
fn a_group_that_comes_again_has_seen_no_value() {
    found(Kind::GroupFor { ttl: 0 }, &[(0, Some(2), Some(0)), (1, Some(2), None), (0, None, None)]);
}
