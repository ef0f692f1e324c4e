//! The oracle of joins of streams: what comes out is DataFusion's batch join of the rows that were on time. A row is late
//! where it is below the watermark of its own source, whatever the other source does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use proptest::prelude::*;

use super::batch::{Batch, MS, Size, compare, ids, nanoseconds, watermarks, with_windows, without};
use super::harness::{self, Script, World};
use super::oracle::{Execution, config, execute, run, verify_rest};
use super::rows::{Row, TimeType, batch, columns_yaml, rows, time_type, times};

/// So many cases are tried by default.
const CASES: u32 = 300;

/// What is joined.
#[derive(Debug, Clone)]
struct Query {
    /// The streaming SQL of the step `q`, and what DataFusion is asked in its place.
    sql: String,
    reference: String,
    /// Rows may be late: both inputs have the same columns, and each source comes in by one way. By source: the rows
    /// that come to the join.
    late: Option<[String; 2]>,
    /// Count the rows of `q` in windows of so many ticks over this time of the output.
    windows: Option<(&'static str, i64)>,
}

#[derive(Debug, Clone)]
struct Scenario {
    time: TimeType,
    base: i64,
    delay: i64,
    rows: [Vec<Row>; 2],
    query: Query,
    executions: Vec<Execution>,
}

const KINDS: [&str; 4] = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];

const KEYS: &[&str] = &[
    "a.k = b.k",
    "b.g = a.g",
    "a.k = b.k AND a.g = b.g",
    "upper(a.k) = b.k",
    "a.g = b.n",
    "a.g % 2 = b.g % 2",
    "a.d = b.d",
    "true",
    "(a.k IS NOT DISTINCT FROM b.k)",
    "a.b = b.b",
];

/// X before and Y after.
const BOUNDS: &[&str] = &[
    "a.ts BETWEEN b.ts - X AND b.ts + Y",
    "a.ts >= b.ts - X AND a.ts <= b.ts + Y",
    "a.ts + X >= b.ts AND b.ts + Y >= a.ts",
    "a.ts > b.ts - X AND a.ts < b.ts + Y",
    "b.ts BETWEEN a.ts - Y AND a.ts + X",
    "b.ts <= a.ts + X AND NOT (a.ts > Y + b.ts)",
    "a.ts = b.ts",
    "a.ts BETWEEN b.ts - X AND b.ts + Y AND a.ts >= b.ts - INTERVAL '1 day'",
    "a.ts - b.ts <= Y AND b.ts - a.ts <= X",
];

const RESTS: &[&str] =
    &["", "", "", " AND a.v < b.v", " AND a.n + b.n > 2", " AND a.n > 1", " AND b.g <> 2", " AND (a.b OR b.b)"];
const WHERES: &[&str] = &["", "", "", " WHERE a.n > 0", " WHERE b.n > 0 OR b.n IS NULL", " WHERE a.id + b.id > 1005"];

const COLUMNS: &str =
    "a.id, b.id AS id2, a.ts AS ats, b.ts AS bts, a.k AS ak, b.k AS bk, a.v + b.v AS vv, b.tags AS btags";

fn pick(of: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    (0..of.len()).prop_map(move |index| of[index])
}

/// The conditions among `all` that are of one source alone, where they drop its rows before the join.
fn filter(all: &[&str], source: &str, moves: bool) -> String {
    let other = if source == "a" { "b." } else { "a." };
    let own = |text: &&str| moves && text.contains(&format!("{source}.")) && !text.contains(other);
    let parts = all.iter().map(|text| text.trim_start_matches(" AND ").trim_start_matches(" WHERE ")).filter(own);
    parts.map(|text| format!("({text}) AND ")).collect::<String>() + "true"
}

fn interval_join() -> impl Strategy<Value = (String, [String; 2])> {
    let bounds = (pick(BOUNDS), -3..12_i64, -3..12_i64);
    (0..KINDS.len(), pick(KEYS), bounds, pick(RESTS), pick(WHERES), 0..4_u8).prop_map(
        |(kind, keys, (bounds, before, after), rest, filter, form)| {
            let bounds = bounds.replace('X', &format!("{{{before}}}")).replace('Y', &format!("{{{after}}}"));
            let condition = filter.strip_prefix(" WHERE ").unwrap_or("true");
            let from = match (kind, form) {
                (0, 0) => format!("s a, s2 b WHERE ({condition}) AND {keys}{rest} AND {bounds}"),
                (0, 1) => format!("s a CROSS JOIN s2 b WHERE {bounds} AND {keys}{rest} AND ({condition})"),
                _ => format!("s a {} s2 b ON {bounds} AND {keys}{rest} WHERE {condition}", KINDS[kind]),
            };
            let of_side = |source: &str, on: [bool; 4], above: [bool; 4]| {
                format!(
                    "{} AND {}",
                    self::filter(&[rest], source, on[kind]),
                    self::filter(&[filter], source, above[kind])
                )
            };
            let left = of_side("a", [true, false, true, false], [true, true, false, false]);
            let right = of_side("b", [true, true, false, false], [true, false, true, false]);
            (format!("SELECT {COLUMNS} FROM {from}"), [left, right])
        },
    )
}

fn interval() -> impl Strategy<Value = Query> {
    let windows = proptest::option::weighted(0.4, (any::<bool>(), 1..15_i64));
    (interval_join(), windows).prop_map(|((sql, filters), windows)| Query {
        reference: sql.clone(),
        sql,
        late: Some(filters),
        windows: windows.map(|(left, size)| (if left { "ats" } else { "bts" }, size)),
    })
}

const AS_OF_KEYS: &[&str] = &["a.k = b.k", "a.g = b.g", "a.k = b.k AND a.g = b.g", "upper(a.k) = upper(b.k)", "true"];

fn as_of() -> impl Strategy<Value = Query> {
    let windows = proptest::option::weighted(0.4, 1..15_i64);
    let filter = pick(&["", "", " WHERE a.n > 0", " WHERE b.n > 0"]);
    (pick(AS_OF_KEYS), 0..4_u8, pick(&["", "", " AND a.v < b.v", " AND b.n > 1"]), filter, windows).prop_map(
        |(keys, form, rest, filter, windows)| {
            let (kind, sign) = (["JOIN", "LEFT JOIN", "LEFT JOIN", "LEFT JOIN"][form as usize], ["<=", "<=", "<=", "<"][form as usize]);
            let rest = if form < 2 { rest } else { "" };
            let from = match form {
                0 | 1 => format!("s a {kind} s2 FOR SYSTEM_TIME AS OF a.ts AS b ON {keys}{rest}"),
                2 => format!("s a ASOF JOIN s2 b MATCH_CONDITION (a.ts >= b.ts) ON {keys}"),
                _ => format!("s a ASOF JOIN s2 AS b MATCH_CONDITION (b.ts < a.ts) ON {keys}"),
            };
            let newest = format!(
                "SELECT * FROM (SELECT a.id AS aid, b.*, row_number() OVER (PARTITION BY a.id ORDER BY b.ts DESC, b.id DESC) \
                 AS place FROM s a JOIN s2 b ON {keys} AND b.ts {sign} a.ts) WHERE place = 1"
            );
            Query {
                sql: format!("SELECT {COLUMNS} FROM {from}{filter}"),
                reference: format!("SELECT {COLUMNS} FROM s a {kind} ({newest}) b ON b.aid = a.id{rest}{filter}"),
                late: Some([self::filter(&[filter], "a", true), "true".to_owned()]),
                windows: windows.map(|size| ("ats", size)),
            }
        },
    )
}

/// Three streams, of which two are the same.
const OF_THREE: &[(&str, &str)] = &[
    (
        "s a JOIN s2 b ON a.k = b.k AND a.ts BETWEEN b.ts - {5} AND b.ts + {3} JOIN s c ON c.g = b.g AND c.ts BETWEEN b.ts AND b.ts + {6}",
        "bts",
    ),
    (
        "s a LEFT JOIN s2 b ON a.k = b.k AND a.ts BETWEEN b.ts - {2} AND b.ts + {3} LEFT JOIN s c ON c.g = a.g AND c.ts BETWEEN a.ts - {4} AND a.ts + {1}",
        "ats",
    ),
    (
        "s a LEFT JOIN s2 b ON a.k = b.k AND a.ts BETWEEN b.ts - {2} AND b.ts + {3} FULL JOIN s c ON c.k = a.k AND c.ts BETWEEN b.ts - {4} AND b.ts + {1}",
        "bts",
    ),
    (
        "s a RIGHT JOIN (SELECT x.id, x.ts, y.ts AS yts, x.k, x.v, x.tags FROM s2 x JOIN s y ON x.g = y.g AND x.ts BETWEEN y.ts AND y.ts + {4}) b ON a.k = b.k AND a.ts BETWEEN b.yts AND b.yts + {3} CROSS JOIN (SELECT 1) c",
        "ats",
    ),
    (
        "s a, s2 b, s c WHERE a.k = b.k AND b.k = c.k AND a.ts BETWEEN b.ts - {3} AND b.ts + {3} AND b.ts BETWEEN c.ts - {2} AND c.ts + {3} AND a.n > 0 AND b.n + c.n > 2",
        "bts",
    ),
    ("s a JOIN s b ON a.k = b.k AND a.ts BETWEEN b.ts - {5} AND b.ts + {3}", "bts"),
];

fn of_three() -> impl Strategy<Value = Query> {
    let windows = proptest::option::weighted(0.4, 1..15_i64);
    ((0..OF_THREE.len()), windows).prop_map(|(index, windows)| {
        let (from, time) = OF_THREE[index];
        let sql = format!("SELECT {COLUMNS} FROM {from}");
        Query { reference: sql.clone(), sql, late: None, windows: windows.map(|size| (time, size)) }
    })
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let base = prop_oneof![Just(0), Just(-20), Just(-400_000), Just(1_700_000_000_i64)];
    let delay = prop_oneof![1 => Just(0), 3 => 0..12_i64];
    let executions = proptest::collection::vec(proptest::collection::vec(run(), 1..4), 2..3);
    let some_rows = |max| (1..4_u8).prop_flat_map(move |partitions| rows(max, partitions));
    let query = prop_oneof![5 => interval(), 4 => as_of(), 2 => of_three()];
    (time_type(), base, delay, some_rows(35), some_rows(30), query, executions).prop_map(
        |(time, base, delay, first, second, query, executions)| Scenario {
            time,
            base,
            delay,
            rows: [first, second],
            query,
            executions: executions.into_iter().map(|runs| Execution { runs }).collect(),
        },
    )
}

const SOURCES: [&str; 2] = ["s", "s2"];

impl Scenario {
    /// The allowed disorder: so much that no row is late, where it cannot be said which ones are.
    fn delay_ns(&self) -> i64 {
        let tick = self.time.tick_ms() * MS;
        if self.query.late.is_some() {
            return self.delay * tick;
        }
        let behind = self.rows.iter().flat_map(|rows| {
            let mut newest: BTreeMap<u8, i64> = BTreeMap::new();
            let behind = times(rows, self.base).into_iter().zip(rows).map(move |(time, row)| {
                let Some(time) = time else { return 0 };
                let newest = newest.entry(row.partition).or_insert(time);
                *newest = time.max(*newest);
                *newest - time
            });
            behind.collect::<Vec<_>>()
        });
        behind.max().unwrap_or(0) * tick
    }

    /// `sql` with intervals in place of numbers of ticks in braces.
    fn with_intervals(&self, sql: &str) -> String {
        let mut parts = sql.split('{');
        let mut text = parts.next().unwrap().to_owned();
        for part in parts {
            let (ticks, rest) = part.split_once('}').unwrap();
            let ms = ticks.parse::<i64>().unwrap() * self.time.tick_ms();
            text += &format!("INTERVAL '{ms} milliseconds'{rest}");
        }
        text
    }

    fn yaml(&self) -> String {
        let mut yaml = String::from("name: oracle\nsources:\n");
        for source in SOURCES {
            yaml += &format!(
                "  {source}:\n    file: {{path: none.jsonl}}\n    columns: {}\n    linger: 0s\n    \
                 event_time: {{column: ts, watermark: {}ms}}\n",
                columns_yaml(self.time),
                self.delay_ns() / MS
            );
        }
        let late = if self.query.late.is_some() { "    late: {to: late}\n" } else { "" };
        let sql = serde_json::to_string(&self.with_intervals(&self.query.sql)).unwrap();
        yaml += &format!("steps:\n  q:\n    sql: {sql}\n{late}");
        let last = match self.query.windows {
            None => "q",
            Some((time, size)) => {
                let size = self.with_intervals(&format!("{{{size}}}"));
                yaml += &format!(
                    "  p:\n    sql: \"{}\"\n  w:\n    sql: \"{}\"\n    late: {{to: late2}}\n",
                    timed(time),
                    counted(&format!("TUMBLE(p, ts, {size})"))
                );
                "w"
            }
        };
        yaml += &format!("sinks:\n  out: {{from: {last}, stdout: {{}}}}\n");
        if self.query.late.is_some() {
            yaml += "  late: {stdout: {}}\n";
        }
        if last == "w" { yaml + "  late2: {stdout: {}}\n" } else { yaml }
    }

    fn scripts(&self) -> BTreeMap<String, Arc<Script>> {
        let scripts = SOURCES.iter().zip(&self.rows).zip([0, 1000]).map(|((source, rows), first_id)| {
            let partitions = rows.iter().map(|row| row.partition).collect();
            let rows = batch(rows, self.time, self.base, first_id);
            ((*source).to_owned(), Arc::new(Script { rows, partitions }))
        });
        scripts.collect()
    }

    /// The rows that are late, and what must come out.
    async fn expected(&self, scripts: &BTreeMap<String, Arc<Script>>) -> Result<(Vec<i64>, RecordBatch), String> {
        let reference = Batch::new();
        let mut all_late = Vec::new();
        for (index, (source, script)) in scripts.iter().enumerate() {
            let mut gone = timeless(&script.rows);
            let every = format!("every_{source}");
            reference.table(&every, &without(&script.rows, &gone));
            if let Some(filters) = &self.query.late {
                let late = below_watermark(script, self.delay_ns());
                let name = ["a", "b"][index];
                let come = reference.query(&format!("SELECT id FROM {every} {name} WHERE {}", filters[index])).await?;
                all_late.extend(ids(&come).into_iter().filter(|id| late.contains(id)));
                gone.extend(late);
            }
            reference.table(source, &without(&script.rows, &gone));
        }
        let late = all_late;
        let output = reference.query(&self.with_intervals(&self.query.reference)).await?;
        let Some((time, size)) = self.query.windows else { return Ok((late, output)) };
        reference.table("q", &output);
        let timed = reference.query(&timed(time)).await?;
        let size = Size { size_ns: size * self.time.tick_ms() * MS, offset_ns: 0 };
        reference.table("windowed", &with_windows(&timed, size));
        Ok((late, reference.query(&counted("windowed")).await?))
    }
}

fn timed(time: &str) -> String {
    format!("SELECT {time} AS ts, id, id2 FROM q WHERE {time} IS NOT NULL")
}

fn counted(from: &str) -> String {
    format!(
        "SELECT window_start, count(*) AS n, sum(id) AS ids, sum(id2) AS ids2 FROM {from} GROUP BY window_start, window_end"
    )
}

fn timeless(rows: &RecordBatch) -> BTreeSet<i64> {
    let times = nanoseconds(rows.column_by_name("ts").unwrap());
    ids(rows).into_iter().zip(times).filter(|(_, time)| time.is_none()).map(|(id, _)| id).collect()
}

/// The rows that are below the watermark of their own source when they come.
fn below_watermark(script: &Script, delay: i64) -> BTreeSet<i64> {
    let times = nanoseconds(script.rows.column_by_name("ts").unwrap());
    let before = watermarks(&times, &script.partitions, delay);
    let late = ids(&script.rows).into_iter().zip(times).zip(before);
    late.filter(|((_, time), before)| time.zip(*before).is_some_and(|(t, w)| t < w)).map(|((id, _), _)| id).collect()
}

fn check(scenario: &Scenario) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let yaml = scenario.yaml();
    let plan = harness::runtime().block_on(harness::plan(folder.path(), &yaml));
    let mut plan = plan.map_err(|error| format!("no plan: {error}\n{yaml}"))?;
    let scripts = scenario.scripts();
    for (number, execution) in scenario.executions.iter().enumerate() {
        plan.data_dir = folder.path().join(format!("data-{number}"));
        let world = World { scripts: scripts.clone(), ..World::default() };
        execute(&mut plan, &world, execution)?;
        let whole = |error| format!("execution {number}: {error}\n{yaml}");
        verify(scenario, &world, execution).map_err(whole)?;
    }
    Ok(())
}

fn verify(scenario: &Scenario, world: &World, execution: &Execution) -> Result<(), String> {
    let expected = harness::runtime().block_on(scenario.expected(&world.scripts));
    let (expected_late, expected) = expected.map_err(|error| format!("the reference fails: {error}"))?;
    if world.taken("late2").row_count() > 0 {
        return Err("a row came out of the join later than its mark says".to_owned());
    }
    compare(&world.taken("out").batches(), std::slice::from_ref(&expected))?;
    let without_time = world.scripts.values().map(|script| timeless(&script.rows).len()).sum();
    verify_rest(world, &expected_late, without_time, execution)
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn what_comes_out_of_joins_is_the_batch_join_of_the_rows_that_were_on_time(scenario in scenario()) {
        check(&scenario).map_err(TestCaseError::fail)?;
    }
}
