//! The oracle of OVER windows: whatever the functions, frames, partitions, disorder, shards, stops and crashes, what
//! comes out is what DataFusion says about the on-time rows as one batch, and the others are in the late route.
//! `MILLSTREAM_ORACLE_CASES=20000` looks longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use proptest::prelude::*;

use super::batch::{Batch, MS, Size, compare, ids, nanoseconds, watermarks, with_windows, without};
use super::harness::{self, Script, World};
use super::oracle::{Execution, config, execute, run, verify_rest};
use super::rows::{Row, TimeType, batch, columns_yaml, rows, time_type};

/// So many cases are tried by default.
const CASES: u32 = 300;

/// Functions whose answer depends on which row is which within the frame.
const PICKS: &[&str] = &[
    "first_value(v)",
    "last_value(k)",
    "nth_value(n, 2)",
    "nth_value(d, 3)",
    "first_value(v) IGNORE NULLS",
    "last_value(n) IGNORE NULLS",
    "nth_value(k, 2) IGNORE NULLS",
    "last_value(tags)",
    "first_value(b) IGNORE NULLS",
];

/// Functions without a frame.
const SHIFTS: &[&str] = &[
    "lag(v)",
    "lag(k, 2)",
    "lag(n, 3, -7)",
    "lag(tags)",
    "lag(d, 1, 0.5)",
    "lag(ts, 1)",
    "lag(v, 1) IGNORE NULLS",
    "lag(k, 2, 'none') IGNORE NULLS",
    "lag(n, 0)",
    "lag(upper(k), 1, '-')",
    "row_number()",
];

const LEADS: &[&str] = &["lead(v)", "lead(k, 2)", "lead(n, 3, -7)", "lag(v, -1)", "lead(ts)", "lead(d, 1, 9.25)"];

/// Functions that rank.
const RANKS: &[&str] = &["rank()", "dense_rank()", "row_number()"];

const AGGREGATES: &[&str] = &[
    "count(*)",
    "count(v)",
    "count(k)",
    "sum(n)",
    "sum(v)",
    "avg(v)",
    "avg(n)",
    "min(v)",
    "max(n)",
    "min(g)",
    "max(ts)",
    "min(k)",
    "sum(d)",
    "avg(d)",
    "sum(g + n)",
    "var_pop(n)",
    "count(*) FILTER (WHERE b)",
    "sum(n) FILTER (WHERE g > 1)",
    "avg(v) FILTER (WHERE n > 2)",
    "max(v) FILTER (WHERE b)",
    "min(d) FILTER (WHERE b)",
    "count(1)",
    "sum(2)",
];

/// Aggregates that DataFusion cannot take rows out of, or not exactly: only over frames without a start.
const GROWING: &[&str] =
    &["stddev(v)", "bit_xor(n)", "bool_or(b)", "corr(v, n)", "bool_and(b) FILTER (WHERE n > 0)", "approx_distinct(g)"];

const PARTITIONS: &[&str] = &["", "PARTITION BY k", "PARTITION BY k, g", "PARTITION BY n % 2", "PARTITION BY upper(k)"];

const PREDICATES: &[&str] = &["n > 1", "b", "k IN ('a', '')", "id % 3 <> 0"];

/// A function as it is run, and as DataFusion is asked: with the order of arrival where time leaves it open.
#[derive(Debug, Clone)]
struct Column {
    ours: String,
    theirs: String,
    /// It waits for rows, whenever they come.
    waits: bool,
}

#[derive(Debug, Clone)]
struct Scenario {
    time: TimeType,
    base: i64,
    delay: i64,
    rows: Vec<Row>,
    columns: Vec<Column>,
    /// Of rows that are read.
    predicate: Option<&'static str>,
    /// In a step before, not in the query itself.
    step_before: bool,
    qualify: bool,
    /// A tumbling window over the result, in ticks.
    after: Option<i64>,
    executions: Vec<Execution>,
}

/// A frame of rows, and whether it reaches ahead.
fn rows_frame() -> impl Strategy<Value = (String, bool)> {
    let start = prop_oneof![2 => Just(i64::MIN), 6 => -6..4_i64, 1 => Just(-20)];
    (start, 0..6_i64).prop_map(|(start, length)| {
        let bound = |offset: i64| match offset {
            i64::MIN => "UNBOUNDED PRECEDING".to_owned(),
            0 => "CURRENT ROW".to_owned(),
            offset if offset < 0 => format!("{} PRECEDING", -offset),
            offset => format!("{offset} FOLLOWING"),
        };
        let end = if start == i64::MIN { length - 4 } else { start + length };
        (format!("ROWS BETWEEN {} AND {}", bound(start), bound(end)), end > 0)
    })
}

/// A frame of time; ticks are `tick` milliseconds long.
fn range_frame(tick: i64) -> impl Strategy<Value = String> {
    let start = prop_oneof![2 => Just(i64::MIN), 6 => -9..5_i64];
    (start, 0..9_i64, any::<bool>(), 0..5_u8).prop_map(move |(start, length, exact, plain)| {
        let end = if start == i64::MIN { length - 5 } else { start + length };
        let bound = |offset: i64| match offset {
            i64::MIN => "UNBOUNDED PRECEDING".to_owned(),
            0 if exact => "CURRENT ROW".to_owned(),
            offset if offset <= 0 => format!("INTERVAL '{} milliseconds' PRECEDING", -offset * tick),
            offset => format!("INTERVAL '{} milliseconds' FOLLOWING", offset * tick),
        };
        if plain == 0 { String::new() } else { format!("RANGE BETWEEN {} AND {}", bound(start), bound(end)) }
    })
}

fn pick(from: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    (0..from.len()).prop_map(move |index| from[index])
}

/// A column; `by_id`: ordered by id as well.
fn column(tick: i64) -> impl Strategy<Value = Column> {
    let over = |function: &str, partition: &str, order: &str, frame: &str| {
        format!("{function} OVER ({partition} ORDER BY {order} {frame})")
    };
    let positional = move |function: &'static str, partition: &'static str, by_id: bool, frame: String, waits: bool| {
        // What waits is in one and the same window: two that wait cannot stand in one query.
        let (partition, by_id) = if waits { ("PARTITION BY k", true) } else { (partition, by_id) };
        let order = if by_id { "ts, id" } else { "ts" };
        Column {
            ours: over(function, partition, order, &frame),
            theirs: over(function, partition, "ts, id", &frame),
            waits,
        }
    };
    let partition = || pick(PARTITIONS);
    let by_rows =
        (prop_oneof![pick(PICKS), pick(AGGREGATES), pick(AGGREGATES)], partition(), any::<bool>(), rows_frame());
    prop_oneof![
        6 => by_rows.prop_map(move |(function, partition, by_id, (frame, waits))| {
            positional(function, partition, by_id, frame, waits)
        }),
        3 => (pick(SHIFTS), partition(), any::<bool>())
            .prop_map(move |(function, partition, by_id)| positional(function, partition, by_id, String::new(), false)),
        1 => pick(LEADS).prop_map(move |function| positional(function, "", true, String::new(), true)),
        1 => (pick(RANKS), partition(), pick(&["ts, g", "ts, n DESC NULLS LAST", "ts, v", "ts, k NULLS FIRST, id"]))
            .prop_map(move |(function, partition, order)| {
                let order = if function == "row_number()" { "ts, id" } else { order };
                let text = over(function, partition, order, "");
                Column { ours: text.clone(), theirs: text, waits: false }
            }),
        1 => (pick(&["rank()", "dense_rank()"]), partition()).prop_map(move |(function, partition)| {
            let text = over(function, partition, "ts", "");
            Column { ours: text.clone(), theirs: text, waits: false }
        }),
        1 => (pick(GROWING), partition(), any::<bool>(), pick(&["", "ROWS UNBOUNDED PRECEDING"])).prop_map(
            move |(function, partition, by_id, frame)| positional(function, partition, by_id || frame.is_empty(), frame.to_owned(), false)
        ),
        5 => (pick(AGGREGATES), partition(), range_frame(tick)).prop_map(move |(function, partition, frame)| {
            let text = over(function, partition, "ts", &frame);
            Column { ours: text.clone(), theirs: text, waits: false }
        }),
    ]
}

/// Rows of one time stand in the order of arrival. Where they have gone through the shards of another OVER window
/// before, that is any order, so there the order is made whole.
fn decided(columns: Vec<Column>) -> Vec<Column> {
    let several = columns.len() > 1;
    let whole = |column: Column| Column { ours: column.theirs.clone(), ..column };
    columns.into_iter().map(|column| if several { whole(column) } else { column }).collect()
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let base = prop_oneof![Just(0), Just(-20), Just(1_700_000_000_i64)];
    let delay = prop_oneof![1 => Just(0), 3 => 0..12_i64];
    let executions = proptest::collection::vec(proptest::collection::vec(run(), 1..4), 2..3);
    let some_rows = (1..4_u8).prop_flat_map(|partitions| rows(40, partitions));
    let shape = (
        proptest::option::weighted(0.3, pick(PREDICATES)),
        any::<bool>(),
        0..5_u8,
        proptest::option::weighted(0.3, 1..12_i64),
    );
    (time_type(), base, delay, some_rows, shape, executions).prop_flat_map(
        |(time, base, delay, rows, (predicate, step_before, qualify, after), executions)| {
            let columns = proptest::collection::vec(column(time.tick_ms()), 1..4);
            columns.prop_map(decided).prop_map(move |columns| Scenario {
                time,
                base,
                delay,
                rows: rows.clone(),
                after: after.filter(|_| columns.iter().all(|column| !column.waits)),
                columns,
                predicate,
                step_before,
                qualify: qualify == 0,
                executions: executions.iter().map(|runs| Execution { runs: runs.clone() }).collect(),
            })
        },
    )
}

struct Expected {
    script: Arc<Script>,
    output: RecordBatch,
    late: Vec<i64>,
    without_time: usize,
}

impl Scenario {
    fn delay_ns(&self) -> i64 {
        self.delay * self.time.tick_ms() * MS
    }

    fn sql(&self, relation: &str) -> String {
        let columns = self.columns.iter().enumerate().map(|(index, column)| format!("{} AS f{index}", column.ours));
        let columns: Vec<String> = columns.collect();
        let qualify = match self.qualify {
            true => format!(" QUALIFY {} IS NOT NULL AND id % 2 = 0", self.columns[0].ours),
            false => String::new(),
        };
        format!("SELECT id, ts, {} FROM {relation}{}{qualify}", columns.join(", "), self.filter())
    }

    fn filter(&self) -> String {
        match self.predicate {
            Some(predicate) if !self.step_before => format!(" WHERE {predicate}"),
            _ => String::new(),
        }
    }

    /// What DataFusion says about the table `w`. It is asked for one function after the other: it cannot run every
    /// query with windows of several orders, nor every QUALIFY beside them.
    async fn reference(&self, reference: &Batch) -> Result<RecordBatch, String> {
        let by_id = |column: &str| format!("SELECT {column} FROM w{} ORDER BY id", self.filter());
        let first = reference.query(&by_id("id, ts")).await?;
        let mut fields: Vec<_> = first.schema().fields().iter().cloned().collect();
        let mut columns = first.columns().to_vec();
        for (index, column) in self.columns.iter().enumerate() {
            let one = reference.query(&by_id(&format!("{} AS f{index}, id", column.theirs))).await?;
            assert_eq!(ids(&one), ids(&first));
            fields.push(one.schema().fields()[0].clone());
            columns.push(one.column(0).clone());
        }
        let whole = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| error.to_string())?;
        if !self.qualify {
            return Ok(whole);
        }
        reference.table("whole", &whole);
        reference.query("SELECT * FROM whole WHERE f0 IS NOT NULL AND id % 2 = 0").await
    }

    fn after_sql(&self, size: i64, from: &str) -> String {
        let _ = size;
        format!(
            "SELECT window_end, count(*) AS c, count(f0) AS f, min(id) AS i FROM {from} GROUP BY window_start, window_end"
        )
    }

    fn yaml(&self) -> String {
        let mut yaml = format!(
            "name: oracle\nsources:\n  s:\n    file: {{path: none.jsonl}}\n    columns: {}\n    linger: 0s\n    \
             event_time: {{column: ts, watermark: {}ms}}\nsteps:\n",
            columns_yaml(self.time),
            self.delay_ns() / MS
        );
        let text = |sql: &str| serde_json::to_string(sql).unwrap();
        let relation = match self.predicate {
            Some(predicate) if self.step_before => {
                yaml += &format!("  a:\n    sql: {}\n", text(&format!("SELECT * FROM s WHERE {predicate}")));
                "a"
            }
            _ => "s",
        };
        yaml += &format!("  q:\n    sql: {}\n    late: {{to: late}}\n", text(&self.sql(relation)));
        let mut last = "q";
        if let Some(size) = self.after {
            let window = format!("TUMBLE(q, ts, INTERVAL '{} milliseconds')", size * self.time.tick_ms());
            yaml += &format!("  after:\n    sql: {}\n", text(&self.after_sql(size, &window)));
            last = "after";
        }
        yaml + &format!("sinks:\n  out: {{from: {last}, stdout: {{}}}}\n  late: {{stdout: {{}}}}\n")
    }

    async fn expected(&self) -> Result<Expected, String> {
        let rows = batch(&self.rows, self.time, self.base, 0);
        let partitions: Vec<u8> = self.rows.iter().map(|row| row.partition).collect();
        let script = Arc::new(Script { rows: rows.clone(), partitions });
        let times = nanoseconds(rows.column_by_name("ts").unwrap());
        let before = watermarks(&times, &script.partitions, self.delay_ns());
        let all: BTreeMap<i64, (Option<i64>, Option<i64>)> =
            ids(&rows).into_iter().zip(times.into_iter().zip(before)).collect();
        let timeless = all.iter().filter(|(_, (time, _))| time.is_none()).map(|(id, _)| *id).collect::<BTreeSet<_>>();
        let reference = Batch::new();
        reference.table("s", &without(&rows, &timeless));
        let read = match self.predicate {
            Some(predicate) => reference.query(&format!("SELECT * FROM s WHERE {predicate}")).await?,
            None => without(&rows, &timeless),
        };
        let is_late = |id: &i64| all[id].1.is_some_and(|watermark| all[id].0.unwrap() < watermark);
        let late: Vec<i64> = ids(&read).into_iter().filter(|id| is_late(id)).collect();
        reference.table("w", &without(&read, &late.iter().copied().collect()));
        let mut output = self.reference(&reference).await?;
        if let Some(size) = self.after {
            let windows = Size { size_ns: size * self.time.tick_ms() * MS, offset_ns: 0 };
            reference.table("q", &with_windows(&output, windows));
            output = reference.query(&self.after_sql(size, "q")).await?;
        }
        Ok(Expected { script, output, late, without_time: timeless.len() })
    }
}

/// Runs `scenario` in all its ways and compares. The error says what is different.
fn check(scenario: &Scenario) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let (expected, plan) = harness::runtime().block_on(async {
        let expected = scenario.expected().await.map_err(|error| format!("the reference fails: {error}"))?;
        let plan = harness::plan(folder.path(), &scenario.yaml()).await;
        Ok::<_, String>((expected, plan.map_err(|error| format!("no plan: {error}\n{}", scenario.yaml()))?))
    })?;
    let mut plan = plan;
    for (number, execution) in scenario.executions.iter().enumerate() {
        plan.data_dir = folder.path().join(format!("data-{number}"));
        let world = World { scripts: [("s".to_owned(), expected.script.clone())].into(), ..World::default() };
        let whole = |error| format!("execution {number}: {error}\n{}", scenario.yaml());
        execute(&mut plan, &world, execution).map_err(whole)?;
        compare(&world.taken("out").batches(), std::slice::from_ref(&expected.output)).map_err(whole)?;
        verify_rest(&world, &expected.late, expected.without_time, execution).map_err(whole)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn what_comes_out_of_over_is_the_batch_answer_over_the_rows_that_were_on_time(scenario in scenario()) {
        check(&scenario).map_err(TestCaseError::fail)?;
    }
}

fn row(step: i8, v: i8) -> Row {
    Row { partition: 0, step: Some(step), k: Some(0), g: Some(1), v: Some(v), n: Some(v), b: Some(true), tags: None }
}

/// `columns` over rows of which the sixth is late, stopped or killed after each share of them.
fn deterministic(columns: &[(&str, bool)]) {
    let time = TimeType { unit: arrow::datatypes::TimeUnit::Millisecond, zone: false };
    let steps = [1, 2, 0, 5, 1, -9, 8, 3, -2, 1, 0, 0, 7, 1, 1];
    let rows: Vec<Row> = steps.iter().zip(1..).map(|(step, v)| row(*step, v)).collect();
    let columns = columns.iter().map(|(text, waits)| Column {
        ours: (*text).to_owned(),
        theirs: text.replace("ORDER BY ts ROWS", "ORDER BY ts, id ROWS"),
        waits: *waits,
    });
    let columns: Vec<Column> = columns.collect();
    for (share, ends) in [(10, harness::Break::Stop), (40, harness::Break::Crash), (80, harness::Break::Stop)] {
        let run = |parallelism, share| super::oracle::Run {
            parallelism,
            splits: vec![2, 3],
            checkpoint_ms: 1,
            pause_ms: 1,
            share,
            ends,
        };
        let scenario = Scenario {
            time,
            base: 0,
            delay: 3,
            rows: rows.clone(),
            columns: columns.clone(),
            predicate: None,
            step_before: false,
            qualify: false,
            after: None,
            executions: vec![Execution { runs: vec![run(1, share), run(3, 50), run(2, 100)] }],
        };
        check(&scenario).unwrap();
    }
}

#[test]
fn rows_that_wait_for_others_go_through_a_snapshot() {
    deterministic(&[
        ("lead(v, 2) OVER (PARTITION BY k ORDER BY ts, id)", true),
        ("sum(n) OVER (PARTITION BY k ORDER BY ts, id ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING)", true),
    ]);
    deterministic(&[(
        "count(*) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '500 milliseconds' PRECEDING \
         AND INTERVAL '1 second' FOLLOWING)",
        false,
    )]);
}

#[test]
fn what_is_counted_from_the_first_row_on_goes_through_a_snapshot() {
    deterministic(&[
        ("row_number() OVER (PARTITION BY k ORDER BY ts, id)", false),
        ("sum(v) OVER (PARTITION BY k ORDER BY ts ROWS UNBOUNDED PRECEDING)", false),
        ("stddev(v) OVER (PARTITION BY k ORDER BY ts ROWS UNBOUNDED PRECEDING)", false),
    ]);
    deterministic(&[
        ("first_value(v) OVER (PARTITION BY k ORDER BY ts ROWS UNBOUNDED PRECEDING)", false),
        ("lag(tags, 1) IGNORE NULLS OVER (PARTITION BY k ORDER BY ts, id)", false),
        ("nth_value(k, 3) OVER (PARTITION BY k ORDER BY ts ROWS UNBOUNDED PRECEDING)", false),
    ]);
}
