//! Which columns a source decodes.

use std::path::Path;

use super::{Plan, environment, on_worker};
use crate::spec::{LoadOptions, load_text};

/// The columns that the source `s` decodes, and all that its rows have; `rest` has its further keys, the steps and the
/// sinks.
fn decoded(rest: &'static str) -> (Vec<String>, Vec<String>) {
    decoded_of("a: bigint, ts: timestamp, b: text, c: double, d: double", rest)
}

fn decoded_of(columns: &'static str, rest: &'static str) -> (Vec<String>, Vec<String>) {
    decoded_with("{column: ts, watermark: 5s}", columns, rest)
}

fn decoded_with(event_time: &'static str, columns: &'static str, rest: &'static str) -> (Vec<String>, Vec<String>) {
    on_worker(async move {
        let text = format!(
            "sources:\n  s:\n    kafka: {{brokers: \"b:9092\", topics: t}}\n    \
             columns: {{{columns}}}\n    \
             event_time: {event_time}\n{rest}"
        );
        let loaded = load_text(Path::new("p.yaml"), &text, &LoadOptions::default());
        let spec = loaded.spec.as_ref().unwrap_or_else(|| panic!("{:?}", loaded.problems));
        let (plan, problems) = Box::pin(Plan::build(Path::new("p.yaml"), spec, &environment())).await;
        let plan = plan.unwrap_or_else(|| panic!("{problems:?}"));
        let names = |schema: &arrow::datatypes::Schema| schema.fields().iter().map(|f| f.name().clone()).collect();
        (names(&plan.sources[0].decode.columns), names(&plan.sources[0].schema))
    })
}

const OUT: &str = "sinks:\n  out: {from: q, stdout: {}}\n";

fn step(sql: &str) -> &'static str {
    format!("steps:\n  q: {{sql: \"{sql}\"}}\n{OUT}").leak()
}

#[test]
fn only_what_the_sql_reads_is_decoded_and_the_event_time() {
    let (decoded, rows) = decoded(step("SELECT b FROM s WHERE c > 25"));
    assert_eq!(decoded, ["ts", "b", "c"]);
    assert_eq!(rows, ["ts", "b", "c", "__message"]);
}

#[test]
fn a_window_over_the_source_narrows_it_too() {
    let sql = "SELECT b, window_start, avg(d) AS m FROM TUMBLE(s, ts, INTERVAL '1 minute') GROUP BY b, window_start";
    assert_eq!(decoded(step(sql)).0, ["ts", "b", "d"]);
}

#[test]
fn what_several_steps_read_is_decoded_once() {
    let rest = "steps:\n  p: {sql: SELECT d FROM s}\n  q: {sql: SELECT a FROM s UNION ALL SELECT a + 1 FROM s}\n\
                sinks:\n  out: {from: q, stdout: {}}\n  other: {from: p, stdout: {}}\n";
    assert_eq!(decoded(rest).0, ["a", "ts", "d"]);
}

#[test]
fn a_count_still_reads_something() {
    let (decoded, rows) = decoded(step("SELECT 1 AS one FROM s"));
    assert_eq!(decoded, ["ts"]);
    assert_eq!(rows, ["ts", "__message"]);
}

#[test]
fn metadata_and_columns_that_must_not_be_null_stay() {
    let rest = "    metadata: {m: key}\n";
    let (decoded, rows) = decoded(format!("{rest}{}", step("SELECT b FROM s")).leak());
    assert_eq!(decoded, ["ts", "b"]);
    assert_eq!(rows, ["ts", "b", "m", "__message"]);
    let columns = "a: bigint, ts: timestamp, b: text, c: {type: double, nullable: false}";
    assert_eq!(decoded_of(columns, step("SELECT b FROM s")).0, ["ts", "b", "c"]);
}

#[test]
fn a_column_may_have_the_name_of_the_message() {
    let columns = "__message: text, ts: timestamp, b: text";
    let (decoded, rows) = decoded_of(columns, step("SELECT __message FROM s"));
    assert_eq!(decoded, ["__message", "ts"]);
    assert_eq!(rows, ["__message", "ts", "__message"]);
}

#[test]
fn everything_is_decoded_where_everything_is_wanted() {
    let all = ["a", "ts", "b", "c", "d"];
    assert_eq!(decoded(step("SELECT * FROM s")), (all.map(str::to_owned).to_vec(), all.map(str::to_owned).to_vec()));
    // A sink takes the source's rows as they are, or its late rows.
    let raw =
        "steps:\n  q: {sql: SELECT a FROM s}\nsinks:\n  out: {from: q, stdout: {}}\n  raw: {from: s, stdout: {}}\n";
    assert_eq!(decoded(raw).0, all);
    let late = "steps:\n  q:\n    sql: SELECT window_start, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '1 s') GROUP BY \
                window_start\n    late: {to: late}\nsinks:\n  out: {from: q, stdout: {}}\n  late: {stdout: {}}\n";
    assert_eq!(decoded(late).0, all);
    // A message that makes several rows is not copied for each of them.
    let array = "    format: {json: {layout: array}}\n";
    assert_eq!(decoded(format!("{array}{}", step("SELECT b FROM s")).leak()).0, all);
}

#[test]
fn the_column_of_the_clock_is_not_decoded() {
    let sql = "SELECT b, window_start, avg(d) AS m FROM TUMBLE(s, processing_time, INTERVAL '1 minute') GROUP BY b, window_start";
    let columns = "a: bigint, ts: timestamp, b: text, c: double, d: double";
    let rest = format!("    metadata: {{m: key}}\n{}", step(sql)).leak();
    let (decoded, rows) = decoded_with("processing", columns, rest);
    assert_eq!(decoded, ["b", "d"]);
    assert_eq!(rows, ["b", "d", "m", "processing_time", "__message"]);
    // Nor where everything is wanted, and where nothing is.
    let (decoded, rows) = decoded_with("{processing: seen}", "a: bigint, b: text", step("SELECT * FROM s"));
    assert_eq!((decoded.len(), rows), (2, ["a", "b", "seen"].map(str::to_owned).to_vec()));
    let (decoded, rows) = decoded_with("processing", "a: bigint, b: text", step("SELECT processing_time FROM s"));
    assert_eq!(decoded, ["a"]);
    assert_eq!(rows, ["a", "processing_time", "__message"]);
}
