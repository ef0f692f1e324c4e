//! The oracle for queries that are run once per window: joins of windows, OVER, DISTINCT, ORDER BY and aggregates that
//! need all rows of a group. What comes out is what DataFusion says about the rows that were on time, as one batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::batch::{Batch, MS, ids, nanoseconds, watermarks, with_bounds, without};
use super::harness::{self, Script, World};
use super::oracle::{Execution, Expected, config, execute, run, verify};
use super::rows::{Row, TimeType, batch, columns_yaml, rows, time_type};
use super::windowing::{self, Function};

/// So many cases are tried by default.
const CASES: u32 = 300;

/// What is fed, and to what.
#[derive(Debug, Clone)]
struct Scenario {
    time: TimeType,
    /// The time of the first row, and the allowed disorder, in ticks.
    base: i64,
    delay: i64,
    /// Of `s` and `s2`.
    rows: [Vec<Row>; 2],
    /// The windows over each.
    windows: [Function; 2],
    query: Query,
    executions: Vec<Execution>,
}

#[derive(Debug, Clone)]
struct Query {
    /// `{A}` and `{B}` stand for the windowed sources.
    sql: String,
    /// The windows are made by a step of their own.
    by_steps: bool,
    /// A step that reads this one, `q`.
    post: Option<String>,
}

impl Query {
    /// Groups by both bounds: sessions that end together need not begin together.
    fn with_both_bounds(self) -> Self {
        let both = |sql: &str| sql.replace("GROUP BY window_end", "GROUP BY window_start, window_end");
        Self { sql: both(&self.sql), post: self.post.map(|post| both(&post)), ..self }
    }
}

/// By which columns rows belong together, with a window's bound among them.
const PARTITIONS: &[&str] = &[
    "window_start, window_end",
    "window_end",
    "k, window_start, window_end",
    "window_start, g, window_end, upper(k)",
    "window_end, n % 2",
    "b, window_end",
];

/// The same where the start tells the end.
const PARTITIONS_BY_START: &[&str] = &["window_start", "g, window_start"];

const OVER: &[&str] = &[
    "row_number() OVER (PARTITION BY {P} ORDER BY v DESC, id)",
    "rank() OVER (PARTITION BY {P} ORDER BY n DESC)",
    "dense_rank() OVER (PARTITION BY {P} ORDER BY g NULLS FIRST, n)",
    "ntile(3) OVER (PARTITION BY {P} ORDER BY id)",
    "lag(v) OVER (PARTITION BY {P} ORDER BY ts, id)",
    "lead(n, 2, 77) OVER (PARTITION BY {P} ORDER BY ts DESC, id)",
    "sum(n) OVER (PARTITION BY {P} ORDER BY ts, id)",
    "count(*) OVER (PARTITION BY {P})",
    "max(v) OVER (PARTITION BY {P} ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)",
    "avg(n) OVER (PARTITION BY {P} ORDER BY ts RANGE BETWEEN INTERVAL '1 second' PRECEDING AND CURRENT ROW)",
    "first_value(id) OVER (PARTITION BY {P} ORDER BY k, v, id)",
    "nth_value(id, 2) OVER (PARTITION BY {P} ORDER BY id)",
    "sum(n) FILTER (WHERE b) OVER (PARTITION BY {P} ORDER BY id)",
    "percent_rank() OVER (PARTITION BY {P} ORDER BY n)",
];

/// Conditions of joins, beside equal windows.
const CONDITIONS: &[&str] = &[
    "",
    " AND a.k = b.k",
    " AND a.g = b.g AND a.n < b.n",
    " AND upper(a.k) = b.k",
    " AND a.g = b.n",
    " AND a.v > b.v AND b.b",
    " AND a.n > 2 AND b.n > 0 AND a.k = b.k AND a.g = b.g",
    " AND a.k IS NOT DISTINCT FROM b.k",
    " AND a.tags = b.tags",
    " AND (a.k = b.k OR a.g = b.g)",
];

const BOUNDS: &[&str] = &[
    "a.window_start = b.window_start AND a.window_end = b.window_end",
    "b.window_end = a.window_end AND b.window_start = a.window_start",
    "a.window_end = b.window_end",
];

/// The same where the start tells the end.
const BOUNDS_BY_START: &[&str] = &["a.window_start = b.window_start", "a.window_end = b.window_start"];

/// Queries over one windowed source.
const SINGLE: &[&str] = &[
    "SELECT DISTINCT window_start, window_end, k, g FROM {A}",
    "SELECT DISTINCT window_end, tags FROM {A}",
    "SELECT DISTINCT window_end, window_start, n % 2 AS parity FROM {A} WHERE b",
    "SELECT DISTINCT ON (window_start, window_end, k) window_start, window_end, k, id, ts FROM {A} \
     ORDER BY window_start, window_end, k, v DESC, id",
    "SELECT DISTINCT ON (window_end) id, window_end FROM {A} ORDER BY window_end, n, id",
    "SELECT window_start, window_end, id, v FROM {A} ORDER BY window_end, v DESC, id",
    "SELECT window_end AS e, k, sum(n) AS s FROM {A} GROUP BY window_start, window_end, k ORDER BY e, k",
    "SELECT window_start, window_end, array_agg(id ORDER BY v, id) AS l FROM {A} GROUP BY window_start, window_end",
    "SELECT window_end, k, array_agg(n ORDER BY id DESC) AS l, count(*) AS c, string_agg(k, '-' ORDER BY id) AS t \
     FROM {A} GROUP BY window_end, k",
    "SELECT window_start, window_end, k, g, count(*) AS c, sum(n) AS s FROM {A} \
     GROUP BY window_start, window_end, ROLLUP (k, g)",
    "SELECT window_start, window_end, k, g, count(*) AS c, grouping(k) AS of_k FROM {A} \
     GROUP BY GROUPING SETS ((window_start, window_end, k), (window_start, window_end, g), (window_start, window_end))",
    "SELECT window_end, b, k, max(v) AS m FROM {A} GROUP BY window_end, CUBE (b, k) HAVING count(*) > 1",
    // Over the results of windows.
    "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end ORDER BY s DESC, k) AS r FROM \
     (SELECT window_start, window_end, k, sum(n) AS s FROM {A} GROUP BY window_start, window_end, k) x) y WHERE r <= 2",
    "SELECT window_start, window_end, max(s) AS m, count(*) AS c FROM (SELECT window_start, window_end, k, sum(n) AS s \
     FROM {A} GROUP BY window_start, window_end, k) x GROUP BY window_start, window_end",
    "SELECT DISTINCT window_start, window_end, c FROM (SELECT window_start, window_end, k, g, count(*) AS c \
     FROM {A} GROUP BY window_start, window_end, k, g HAVING sum(n) > 1) x",
    "SELECT x.id, x.window_end, x.v, y.m FROM {A} x JOIN (SELECT window_start, window_end, avg(v) AS m FROM {A} \
     GROUP BY window_start, window_end) y ON x.window_start = y.window_start AND x.window_end = y.window_end AND x.v > y.m",
];

/// Queries over two.
const PAIRS: &[&str] = &[
    "SELECT id, window_start, window_end FROM {A} a WHERE EXISTS \
     (SELECT 1 FROM {B} b WHERE b.window_start = a.window_start AND b.window_end = a.window_end AND b.k = a.k AND b.n > 0)",
    "SELECT id, window_start, window_end FROM {A} a WHERE NOT EXISTS \
     (SELECT 1 FROM {B} b WHERE b.window_end = a.window_end AND b.g = a.g) AND n > 1",
    "SELECT id, window_start, window_end, v FROM {A} WHERE window_end IN (SELECT window_end FROM {B} WHERE b)",
    "SELECT id, window_start, window_end, v FROM {A} a WHERE k IN \
     (SELECT k FROM {B} b WHERE b.window_end = a.window_end) OR n > 5",
    "SELECT k, window_start, window_end FROM {A} UNION SELECT k, window_start, window_end FROM {B}",
    "SELECT window_start, window_end, k FROM {A} EXCEPT SELECT window_start, window_end, k FROM {B}",
    "SELECT window_start, window_end, g FROM {A} INTERSECT SELECT window_start, window_end, g FROM {B}",
    "SELECT a.window_start, b.window_end, a.k, a.c, b.m FROM (SELECT window_start, window_end, k, count(*) AS c FROM {A} \
     GROUP BY window_start, window_end, k) a FULL JOIN (SELECT window_start, window_end, k, max(v) AS m FROM {B} \
     GROUP BY window_start, window_end, k) b ON a.window_start = b.window_start AND a.window_end = b.window_end AND a.k = b.k",
];

/// `all`, and `by_start` too where windows have one length.
fn choices(all: &[&'static str], by_start: &[&'static str], one_length: bool) -> Vec<&'static str> {
    all.iter().chain(by_start.iter().filter(|_| one_length)).copied().collect()
}

fn over(one_length: bool) -> impl Strategy<Value = String> {
    let partitions = choices(PARTITIONS, PARTITIONS_BY_START, one_length);
    let function = (0..OVER.len(), proptest::sample::select(partitions));
    let filter = prop_oneof![Just(""), Just(" WHERE f0 <= 2"), Just(" WHERE f0 IS NOT NULL AND k IS NOT NULL")];
    let rows = prop_oneof![3 => Just(""), 1 => Just(" WHERE n > 1"), 1 => Just(" WHERE k IN ('a', 'B')")];
    (proptest::collection::vec(function, 1..4), filter, rows, any::<bool>()).prop_map(
        |(functions, filter, rows, qualify)| {
            let call = |(function, partition): &(usize, &str)| OVER[*function].replace("{P}", partition);
            let calls: Vec<String> = functions.iter().map(call).collect();
            let columns: Vec<String> =
                calls.iter().enumerate().map(|(number, call)| format!("{call} AS f{number}")).collect();
            if qualify {
                return format!("SELECT id, window_end, k FROM {{A}}{rows} QUALIFY {} > 1", calls[0]);
            }
            format!(
                "SELECT * FROM (SELECT id, window_start, window_end, k, {} FROM {{A}}{rows}) x{filter}",
                columns.join(", ")
            )
        },
    )
}

fn join(one_length: bool) -> impl Strategy<Value = String> {
    let bounds = proptest::sample::select(choices(BOUNDS, BOUNDS_BY_START, one_length));
    (0..8_u8, 0..CONDITIONS.len(), bounds, 0..4_u8).prop_map(|(kind, condition, bounds, side)| {
        let on = format!("{bounds}{}", CONDITIONS[condition]);
        let both = "a.id, b.id AS other, a.window_start, b.window_end, a.k, b.v";
        let side_filter = ["", " WHERE a.n > 1", " WHERE b.n > 1 AND a.v < 3", ""][usize::from(side)];
        match kind {
            0 => format!("SELECT {both} FROM {{A}} a, {{B}} b WHERE {on}"),
            1 => format!("SELECT {both} FROM {{A}} a JOIN {{B}} b ON {on}{side_filter}"),
            2 => format!("SELECT a.window_end, {both} FROM {{A}} a LEFT JOIN {{B}} b ON {on}{side_filter}")
                .replace(" b.window_end,", " b.window_end AS e,"),
            3 => format!("SELECT {both} FROM {{A}} a RIGHT JOIN {{B}} b ON {on}{side_filter}"),
            4 => format!("SELECT {both} FROM {{A}} a FULL JOIN {{B}} b ON {on}{side_filter}"),
            5 => format!("SELECT a.id, a.window_start, a.window_end FROM {{A}} a LEFT SEMI JOIN {{B}} b ON {on}"),
            6 => format!("SELECT a.id, a.window_start, a.window_end FROM {{A}} a LEFT ANTI JOIN {{B}} b ON {on}"),
            _ => "SELECT window_start, window_end, k, a.id, b.id AS other FROM {A} a JOIN {B} b \
                  USING (window_start, window_end, k)"
                .to_owned(),
        }
    })
}

/// What reads the query's result, where it still has windows.
const POST: &[&str] = &[
    "SELECT window_end, count(*) AS c FROM q GROUP BY window_end",
    "SELECT *, row_number() OVER (PARTITION BY window_end ORDER BY id) AS r FROM q",
    "SELECT DISTINCT window_end FROM q",
];

fn query(one_length: bool) -> impl Strategy<Value = Query> {
    let single = (0..SINGLE.len()).prop_map(|index| SINGLE[index].to_owned());
    let pair = (0..PAIRS.len()).prop_map(|index| PAIRS[index].to_owned());
    let sql = prop_oneof![4 => over(one_length), 5 => join(one_length), 4 => single, 2 => pair];
    (sql, any::<bool>(), proptest::option::weighted(0.4, 0..POST.len())).prop_map(|(sql, by_steps, post)| {
        // The bound must come out, not null, and the rows must have ids.
        let windowed =
            sql.contains("SELECT id, window_start") || sql.contains(" LEFT SEMI ") || sql.contains(" LEFT ANTI ");
        let inner = sql.contains(" a JOIN ");
        let post = post.filter(|_| windowed || inner).map(|post| POST[post].to_owned());
        Query { sql, by_steps, post: post.filter(|post| !(inner && post.contains("*,"))) }
    })
}

fn function() -> impl Strategy<Value = Function> {
    use windowing::{cumulate, session, tumble};
    // Few windows per row: the query is run once for each.
    let hop = (1..7_i64, 1..13_i64, -9..9_i64).prop_map(|(slide, size, offset)| Function::Hop { slide, size, offset });
    prop_oneof![3 => tumble(), 2 => hop, 2 => cumulate(), 3 => session()]
}

fn windows() -> impl Strategy<Value = [Function; 2]> {
    prop_oneof![4 => function().prop_map(|function| [function.clone(), function]), 1 => [function(), function()]]
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let base = prop_oneof![Just(0), Just(-20), Just(1_700_000_000_i64)];
    let delay = prop_oneof![1 => Just(0), 3 => 0..12_i64];
    let executions = proptest::collection::vec(proptest::collection::vec(run(), 1..4), 1..3);
    let some_rows = (1..4_u8).prop_flat_map(|partitions| rows(40, partitions));
    let windows_and_query = windows().prop_flat_map(|windows| {
        let one_length = windows.iter().all(Function::has_one_length);
        let sessions = windows.iter().any(|function| matches!(function, Function::Session { .. }));
        let query = query(one_length).prop_map(move |query| if sessions { query.with_both_bounds() } else { query });
        (Just(windows), query)
    });
    (time_type(), base, delay, some_rows, rows(25, 2), windows_and_query, executions).prop_map(
        |(time, base, delay, first, second, (windows, query), executions)| Scenario {
            time,
            base,
            delay,
            rows: [first, second],
            windows,
            query,
            executions: executions.into_iter().map(|runs| Execution { runs }).collect(),
        },
    )
}

impl Scenario {
    fn ms(&self, ticks: i64) -> i64 {
        ticks * self.time.tick_ms()
    }

    /// Each source with what stands for it in the query, its rows and its windows.
    fn inputs(&self) -> Vec<(&'static str, &'static str, &Vec<Row>, &Function)> {
        let [a, b] = &self.windows;
        let all = [("s", "{A}", &self.rows[0], a), ("s2", "{B}", &self.rows[1], b)];
        all.into_iter().filter(|(_, name, ..)| self.query.sql.contains(name)).collect()
    }

    fn yaml(&self) -> String {
        let mut yaml = String::from("name: oracle\nsources:\n");
        for (source, ..) in self.inputs() {
            yaml += &format!(
                "  {source}:\n    file: {{path: none.jsonl}}\n    columns: {}\n    linger: 0s\n    \
                 event_time: {{column: ts, watermark: {}ms}}\n",
                columns_yaml(self.time),
                self.ms(self.delay)
            );
        }
        yaml += "steps:\n";
        let mut sql = self.query.sql.clone();
        for (source, name, _, function) in self.inputs() {
            let windows = function.from(source, self.time);
            if self.query.by_steps {
                yaml += &format!("  w{source}:\n    sql: \"SELECT * FROM {windows}\"\n    late: {{to: late}}\n");
                sql = sql.replace(name, &format!("w{source}"));
            } else {
                sql = sql.replace(name, &windows);
            }
        }
        yaml += &format!("  q:\n    sql: {}\n", serde_json::to_string(&sql).unwrap());
        if !self.query.by_steps {
            yaml += "    late: {to: late}\n";
        }
        if let Some(post) = &self.query.post {
            yaml += &format!("  post: {{sql: {}}}\n", serde_json::to_string(post).unwrap());
        }
        let last = if self.query.post.is_some() { "post" } else { "q" };
        yaml + &format!("sinks:\n  out: {{from: {last}, stdout: {{}}}}\n  late: {{stdout: {{}}}}\n")
    }

    async fn expected(&self) -> Result<Expected, String> {
        let reference = Batch::new();
        let (mut scripts, mut late, mut without_time) = (BTreeMap::new(), Vec::new(), 0);
        let mut sql = self.query.sql.clone();
        for (number, (source, name, rows, function)) in self.inputs().into_iter().enumerate() {
            let partitions: Vec<u8> = rows.iter().map(|row| row.partition).collect();
            let all = batch(rows, self.time, self.base, 1000 * number as i64);
            let times = nanoseconds(all.column_by_name("ts").unwrap());
            let before = watermarks(&times, &partitions, self.ms(self.delay) * MS);
            let watermark: BTreeMap<i64, Option<i64>> = ids(&all).into_iter().zip(before).collect();
            let timeless: BTreeSet<i64> =
                ids(&all).into_iter().zip(times).filter(|(_, time)| time.is_none()).map(|(id, _)| id).collect();
            without_time += timeless.len();
            let timed = without(&all, &timeless);
            let assigned = function.assign(&timed, &watermark, self.time);
            // Late in each window function that has read it.
            let readers = if self.query.by_steps { 1 } else { self.query.sql.matches(name).count() };
            late.extend((0..readers).flat_map(|_| &assigned.late));
            reference.table(&format!("w{source}"), &with_bounds(&timed, &assigned.pairs));
            sql = sql.replace(name, &format!("w{source}"));
            scripts.insert(source.to_owned(), Arc::new(Script { rows: all, partitions }));
        }
        let mut output = reference.query(&sql).await?;
        if let Some(post) = &self.query.post {
            reference.table("q", &output);
            output = reference.query(post).await?;
        }
        Ok(Expected { scripts, output, late, without_time })
    }
}

/// Runs `scenario` in all its ways and compares. The error says what is different.
fn check(scenario: &Scenario) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let (expected, mut plan) = harness::runtime().block_on(async {
        let expected = scenario.expected().await.map_err(|error| format!("the reference fails: {error}"))?;
        let plan = harness::plan(folder.path(), &scenario.yaml()).await;
        Ok::<_, String>((expected, plan.map_err(|error| format!("no plan: {error}\n{}", scenario.yaml()))?))
    })?;
    for (number, execution) in scenario.executions.iter().enumerate() {
        plan.data_dir = folder.path().join(format!("data-{number}"));
        let world = World { scripts: expected.scripts.clone(), ..World::default() };
        let whole = |error| format!("execution {number}: {error}\n{}", scenario.yaml());
        execute(&mut plan, &world, execution).map_err(whole)?;
        verify(&world, &expected, execution).map_err(whole)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn what_comes_out_of_windows_is_the_batch_answer_over_the_rows_that_were_on_time(scenario in scenario()) {
        check(&scenario).map_err(TestCaseError::fail)?;
    }
}
