//! The oracle of the window functions: HOP, CUMULATE, SESSION and bins in GROUP BY, against models that go by the
//! definitions only. `MILLSTREAM_ORACLE_CASES=20000` looks longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::batch::{Batch, MS, ids, nanoseconds, picked, watermarks, with_bounds, without};
use super::harness::{self, Break, Script, World};
use super::oracle::{self, Execution, Expected};
use super::queries::{AGGREGATES, KEYS, PREDICATES, STATELESS};
use super::regressions::{in_two_runs, late, script, shown};
use super::rows::{Row, TimeType, batch, columns_yaml, rows, time_type};
use super::windowing::{self, Assigned, Function};

/// So many cases are tried by default.
const CASES: u32 = 300;

/// What is done with the windows.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// Rows go on with their windows.
    Rows {
        predicate: Option<usize>,
    },
    Aggregate {
        keys: Vec<usize>,
        calls: Vec<usize>,
        predicate: Option<usize>,
        join: bool,
        post: Post,
    },
}

/// What follows the aggregate.
#[derive(Debug, Clone)]
pub(super) enum Post {
    None,
    /// Another aggregate over the same windows.
    SameWindows,
    /// Bins of this size over a bound of the windows.
    Bins {
        start: bool,
        size: i64,
    },
    /// How many results there were in the time before each, by a bound of the windows.
    Over {
        start: bool,
        reach: i64,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) time: TimeType,
    pub(super) base: i64,
    pub(super) delay: i64,
    pub(super) rows: Vec<Row>,
    /// The step before, where there is one.
    pub(super) before: Option<usize>,
    pub(super) function: Function,
    /// The windows are made by a step of their own.
    pub(super) apart: bool,
    pub(super) shape: Shape,
    pub(super) executions: Vec<Execution>,
}

fn function() -> impl Strategy<Value = Function> {
    prop_oneof![3 => windowing::hop(), 2 => windowing::cumulate(), 4 => windowing::session(), 1 => windowing::bin()]
}

fn predicate() -> impl Strategy<Value = Option<usize>> {
    proptest::option::weighted(0.3, 0..PREDICATES.len())
}

/// An aggregate, and what follows it.
pub(super) fn aggregate(post: impl Strategy<Value = Post>) -> impl Strategy<Value = Shape> {
    let keys = proptest::collection::vec(0..KEYS.len(), 0..3);
    let calls = proptest::collection::vec(0..AGGREGATES.len(), 0..5);
    (keys, calls, predicate(), any::<bool>(), post).prop_map(|(keys, calls, predicate, join, post)| Shape::Aggregate {
        keys,
        calls,
        predicate,
        join,
        post,
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    let post = prop_oneof![
        3 => Just(Post::None),
        1 => Just(Post::SameWindows),
        1 => (any::<bool>(), 1..30_i64).prop_map(|(start, size)| Post::Bins { start, size }),
        1 => (any::<bool>(), 0..30_i64).prop_map(|(start, reach)| Post::Over { start, reach }),
    ];
    prop_oneof![1 => predicate().prop_map(|predicate| Shape::Rows { predicate }), 4 => aggregate(post)]
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let base = prop_oneof![Just(0), Just(-20), Just(-400_000), Just(1_700_000_000_i64)];
    let delay = prop_oneof![1 => Just(0), 3 => 0..12_i64];
    let executions = proptest::collection::vec(proptest::collection::vec(oracle::run(), 1..4), 2..3);
    let some_rows = (1..4_u8).prop_flat_map(|partitions| rows(60, partitions));
    // The last two steps bring rows together from several ways.
    let before = proptest::option::weighted(0.3, 0..STATELESS.len() - 1);
    let windows = (function(), proptest::bool::weighted(0.2));
    (time_type(), base, delay, some_rows, before, windows, shape(), executions).prop_map(
        |(time, base, delay, rows, before, (function, apart), shape, executions)| Scenario {
            time,
            base,
            delay,
            rows,
            before,
            function,
            apart,
            shape,
            executions: executions.into_iter().map(|runs| Execution { runs }).collect(),
        },
    )
}

impl Scenario {
    fn ms(&self, ticks: i64) -> i64 {
        ticks * self.time.tick_ms()
    }

    fn interval(&self, ticks: i64) -> String {
        windowing::interval(ticks, self.time)
    }

    fn relation(&self) -> &'static str {
        if self.before.is_some() { "a" } else { "s" }
    }

    /// The windowed relation in FROM.
    fn from(&self) -> String {
        self.function.from(self.relation(), self.time)
    }

    /// The group of a bin.
    fn bin(&self) -> Option<String> {
        let Function::Bin { size, origin } = &self.function else { return None };
        let origin = origin.map(|origin| {
            let time = chrono::DateTime::from_timestamp_millis(self.ms(origin)).unwrap();
            format!(", TIMESTAMP '{}'", time.format("%Y-%m-%dT%H:%M:%S%.3f"))
        });
        Some(format!("date_bin({}, ts{})", self.interval(*size), origin.unwrap_or_default()))
    }

    /// The SQL of the step `q`; `{FROM}` stands for the windowed relation. Of a bin the predicate stands apart.
    fn sql(&self) -> String {
        let filter = |predicate: &Option<usize>| {
            predicate.map_or(String::new(), |index| format!(" WHERE {}", PREDICATES[index]))
        };
        let (bounds, shown) = match self.bin() {
            Some(bin) => (vec![bin.clone()], vec![format!("{bin} AS bin")]),
            None => {
                let bounds = vec!["window_start".to_owned(), "window_end".to_owned()];
                (bounds.clone(), bounds)
            }
        };
        match &self.shape {
            Shape::Rows { predicate } if self.bin().is_none() => {
                format!("SELECT id, k, v, window_start, window_end FROM {{FROM}}{}", filter(predicate))
            }
            Shape::Rows { predicate } => {
                format!("SELECT {}, count(*) AS c FROM {{FROM}}{} GROUP BY 1", shown[0], filter(predicate))
            }
            Shape::Aggregate { keys, calls, predicate, join, .. } => {
                let calls: Vec<&str> = calls.iter().map(|call| AGGREGATES[*call]).collect();
                let calls = calls.into_iter().filter(|call| self.bin().is_none() || !call.contains("window_"));
                let mut columns = shown;
                columns.extend(keys.iter().enumerate().map(|(index, key)| format!("{} AS key{index}", KEYS[*key])));
                columns.extend(calls.enumerate().map(|(index, call)| format!("{call} AS a{index}")));
                let mut grouped = bounds;
                grouped.extend(keys.iter().map(|key| KEYS[*key].to_owned()));
                let join =
                    if *join && *predicate == Some(0) && self.bin().is_none() { " JOIN t ON g = tg" } else { "" };
                let (columns, grouped) = (columns.join(", "), grouped.join(", "));
                format!("SELECT {columns} FROM {{FROM}}{join}{} GROUP BY {grouped}", filter(predicate))
            }
        }
    }

    fn post(&self) -> Option<String> {
        let Shape::Aggregate { post, .. } = &self.shape else { return None };
        match (post, &self.function) {
            (Post::None, _) | (Post::SameWindows, Function::Bin { .. }) => None,
            (Post::SameWindows, _) => Some(
                "SELECT window_start, window_end, count(*) AS c FROM q GROUP BY window_start, window_end".to_owned(),
            ),
            (Post::Bins { start, size }, _) => {
                let (size, column) = (self.interval(*size), self.bound(*start));
                Some(format!("SELECT date_bin({size}, {column}) AS b, count(*) AS c FROM q GROUP BY 1"))
            }
            (Post::Over { start, reach }, _) => {
                let (reach, column) = (self.interval(*reach), self.bound(*start));
                Some(format!(
                    "SELECT {column}, count(*) OVER (ORDER BY {column} RANGE BETWEEN {reach} PRECEDING AND CURRENT ROW) AS c \
                     FROM q"
                ))
            }
        }
    }

    /// A bound of the windows that is an event time.
    fn bound(&self, start: bool) -> &'static str {
        match &self.function {
            Function::Bin { .. } => "bin",
            Function::Session { .. } => "window_end",
            _ if start => "window_start",
            _ => "window_end",
        }
    }

    fn before(&self) -> Option<String> {
        self.before.map(|before| STATELESS[before].replace("{R}", "s"))
    }

    /// `emit` is said by the step `q`.
    pub(super) fn yaml(&self, emit: &str) -> String {
        let mut yaml = format!(
            "name: oracle\nsources:\n  s:\n    file: {{path: none.jsonl}}\n    columns: {}\n    linger: 0s\n    \
             event_time: {{column: ts, watermark: {}ms}}\n  t:\n    file: {{path: t.jsonl}}\n    table: {{}}\n    \
             columns: {{tg: int, name: text, w: double}}\nsteps:\n",
            columns_yaml(self.time),
            self.ms(self.delay)
        );
        let step = |name: &str, sql: &str| format!("  {name}:\n    sql: {}\n", serde_json::to_string(sql).unwrap());
        yaml += &self.before().map(|sql| step("a", &sql)).unwrap_or_default();
        let (from, late) = (self.from(), "    late: {to: late}\n");
        if self.apart && self.bin().is_none() {
            yaml += &step("w", &format!("SELECT * FROM {from}"));
            yaml += late;
            yaml += &step("q", &self.sql().replace("{FROM}", "w"));
        } else {
            yaml += &step("q", &self.sql().replace("{FROM}", &from));
            yaml += late;
        }
        yaml += emit;
        let post = self.post();
        yaml += &post.as_ref().map(|sql| step("post", sql)).unwrap_or_default();
        let last = if post.is_some() { "post" } else { "q" };
        yaml + &format!("sinks:\n  out: {{from: {last}, stdout: {{}}}}\n  late: {{stdout: {{}}}}\n")
    }

    pub(super) async fn expected(&self) -> Result<Expected, String> {
        let partitions = self.rows.iter().map(|row| row.partition).collect();
        let script = Script { rows: batch(&self.rows, self.time, self.base, 0), partitions };
        let reference = Batch::new();
        reference.table("t", &oracle::table());
        let times = nanoseconds(script.rows.column_by_name("ts").unwrap());
        let all_ids = ids(&script.rows);
        let timeless: BTreeSet<i64> =
            all_ids.iter().zip(&times).filter(|(_, time)| time.is_none()).map(|(id, _)| *id).collect();
        let marks = watermarks(&times, &script.partitions, self.delay * self.time.tick_ms() * MS);
        let watermark: BTreeMap<i64, Option<i64>> = all_ids.into_iter().zip(marks).collect();
        let mut relation = without(&script.rows, &timeless);
        reference.table("s", &relation);
        if let Some(sql) = self.before() {
            relation = reference.query(&sql).await?;
        }
        let is_bin = self.bin().is_some();
        if let (true, Shape::Rows { predicate: Some(index) } | Shape::Aggregate { predicate: Some(index), .. }) =
            (is_bin, &self.shape)
        {
            // Behind GROUP BY's filter.
            reference.table("r", &relation);
            relation = reference.query(&format!("SELECT * FROM r WHERE {}", PREDICATES[*index])).await?;
        }
        let Assigned { pairs, late } = self.function.assign(&relation, &watermark, self.time);
        let windowed = match is_bin {
            true => picked(&relation, &pairs),
            false => with_bounds(&relation, &pairs),
        };
        reference.table("w", &windowed);
        let mut output = reference.query(&self.sql().replace("{FROM}", "w")).await?;
        if let Some(post) = self.post() {
            reference.table("q", &output);
            output = reference.query(&post).await?;
        }
        let scripts = BTreeMap::from([("s".to_owned(), Arc::new(script))]);
        Ok(Expected { scripts, output, late, without_time: timeless.len() })
    }
}

/// Runs `scenario` in all its ways and compares. The error says what is different.
pub(super) fn check(scenario: &Scenario) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.jsonl"), oracle::TABLE_JSON).unwrap();
    let (expected, mut plan) = harness::runtime().block_on(async {
        let expected = scenario.expected().await.map_err(|error| format!("the reference fails: {error}"))?;
        let plan = harness::plan(folder.path(), &scenario.yaml("")).await;
        Ok::<_, String>((expected, plan.map_err(|error| format!("no plan: {error}\n{}", scenario.yaml("")))?))
    })?;
    for (number, execution) in scenario.executions.iter().enumerate() {
        plan.data_dir = folder.path().join(format!("data-{number}"));
        let world = World { scripts: expected.scripts.clone(), ..World::default() };
        oracle::execute(&mut plan, &world, execution)?;
        let whole = |error| format!("execution {number}: {error}\n{}", scenario.yaml(""));
        oracle::verify(&world, &expected, execution).map_err(whole)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(oracle::config(CASES))]

    #[test]
    fn windows_hold_the_rows_that_the_definitions_say(scenario in scenario()) {
        check(&scenario).map_err(TestCaseError::fail)?;
    }
}

/// The results and the late rows of `sql` over rows at these seconds, with a break after `hold` of them.
fn ran(sql: &str, seconds: &[i64], hold: usize, ends: Break) -> (Vec<String>, Vec<i64>) {
    let rows: Vec<(u8, i64)> = seconds.iter().map(|second| (0, *second)).collect();
    let steps = format!("  q:\n    sql: {sql}\n    late: {{to: late}}\n");
    let world = in_two_runs(&steps, &[("s", script(0, &rows))], &[Some(hold)], ends);
    let seconds = |text: String| text.replace("1970-01-01T00:00:", "");
    (shown(&world).into_iter().map(seconds).collect(), late(&world))
}

#[test]
fn rows_near_a_closed_session_are_late_and_those_near_an_open_one_are_not() {
    let sql = "SELECT window_start, window_end, count(*) FROM SESSION(s, ts, INTERVAL '5 seconds', k) \
               GROUP BY window_start, window_end";
    for (hold, ends) in [(3, Break::Stop), (3, Break::Crash), (6, Break::Stop)] {
        // 6 is near 3, whose session has closed; 12 is near nothing; 16 goes on to 21; 13 was over when 20 began.
        let (rows, late) = ran(sql, &[0, 3, 20, 6, 12, 16, 13], hold, ends);
        assert_eq!(rows, ["00 08 2", "16 25 2"]);
        assert_eq!(late, [3, 4, 6]);
    }
}

#[test]
fn a_row_between_a_closed_and_an_open_session_is_late() {
    let sql = "SELECT window_start, window_end, count(*) FROM SESSION(s, ts, INTERVAL '5 seconds') \
               GROUP BY window_start, window_end";
    // 14 is on time by itself, and would join 10, which has closed, to 16.
    let (rows, late) = ran(sql, &[10, 16, 14, 17], 2, Break::Stop);
    assert_eq!(rows, ["10 15 1", "16 22 2"]);
    assert_eq!(late, [2]);
}

#[test]
fn a_row_goes_into_those_of_its_windows_that_are_open() {
    let hop = "HOP(s, ts, INTERVAL '5 seconds', INTERVAL '10 seconds')";
    let panes = format!("SELECT window_end, count(*) FROM {hop} GROUP BY window_end");
    let copies = format!("SELECT window_end, count(window_start) FROM {hop} GROUP BY window_end");
    for sql in [panes, copies] {
        for hold in 1..5 {
            let (rows, late) = ran(&sql, &[11, 22, 18, 13, 24], hold, Break::Stop);
            assert_eq!(rows, ["15 1", "20 1", "25 3", "30 2"], "{sql}");
            assert_eq!(late, [3]);
        }
    }
    let sql = "SELECT window_end, count(*) FROM CUMULATE(s, ts, INTERVAL '5 seconds', INTERVAL '15 seconds') \
               GROUP BY window_start, window_end";
    let (rows, late) = ran(sql, &[1, 6, 2, 12, 16, 3], 3, Break::Crash);
    assert_eq!(rows, ["05 1", "10 3", "15 4", "20 1", "25 1", "30 1"]);
    assert_eq!(late, [5]);
}

#[test]
fn a_late_row_behind_one_that_is_in_no_window_is_late() {
    let sql = "SELECT id, window_end FROM HOP(s, ts, INTERVAL '2 seconds', INTERVAL '1 second')";
    let (rows, late) = ran(sql, &[11, 12, 7, 8], 2, Break::Stop);
    assert_eq!(rows, ["1 13"]);
    assert_eq!(late, [3]);
}
