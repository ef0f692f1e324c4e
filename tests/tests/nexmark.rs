//! The queries of Nexmark give what DataFusion gives over the same events in one batch.
//!
//! `tests/nexmark/QUERY.yaml` is run by the built `millstream run --bounded` over events out of order, as it is and with
//! its keyed operators in several shards. The batch answer is that of `QUERY.sql`, which is written in another way, or of
//! the step's own SQL where that is plain SQL. Queries whose results change (`emit: changes`) are compared by what they
//! say last of each key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::nexmark::event::Kind;
use ::nexmark::feed;
use ::nexmark::rows::Rows;
use ::nexmark::{Config, Generator};
use arrow::json::LineDelimitedWriter;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use datafusion::datasource::MemTable;
use datafusion::prelude::{CsvReadOptions, SessionConfig, SessionContext};
use millstream_tests::daemon;
use serde_json::{Map, Value};

use crate::golden::canonical;

/// How many events there are, of all kinds. At 100 in a second of event time they last 200 seconds, past a midnight.
const EVENTS: u64 = 20_000;

/// A query, and by what its changing results are told apart. No columns: its results are final.
struct Query {
    name: &'static str,
    key: &'static [&'static str],
}

const fn query(name: &'static str) -> Query {
    Query { name, key: &[] }
}

const fn changing(name: &'static str, key: &'static [&'static str]) -> Query {
    Query { name, key }
}

const QUERIES: &[Query] = &[
    query("q0"),
    query("q1"),
    query("q2"),
    query("q3"),
    changing("q4", &["category"]),
    query("q5"),
    query("q7"),
    query("q8"),
    query("q9"),
    query("q11"),
    query("q12"),
    query("q13"),
    query("q14"),
    changing("q15", &["day"]),
    changing("q16", &["channel", "day"]),
    changing("q17", &["auction", "day"]),
    changing("q18", &["auction", "bidder"]),
    changing("q19", &["auction", "n"]),
    query("q20"),
    query("q21"),
    query("q22"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("nexmark")
}

fn generator() -> Generator {
    // Groups of 2 seconds; the pipelines' watermarks allow 4.
    Generator::new(Config { events_per_second: 100, disorder: 200, ..Config::default() })
}

/// A session that knows the events and the side input as tables.
async fn batch(input: &Path) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let session = SessionContext::new_with_config(config);
    let mut rows = Rows::default();
    (0..EVENTS).for_each(|place| rows.push(generator().at(place)));
    for kind in Kind::ALL {
        let batch = rows.batch(kind).unwrap();
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
        session.register_table(kind.name(), Arc::new(table)).unwrap();
    }
    let side_input = input.join("side_input.csv");
    session.register_csv("side_input", side_input.to_str().unwrap(), CsvReadOptions::new()).await.unwrap();
    session
}

/// The SQL of the batch answer.
fn batch_sql(name: &str) -> String {
    if let Ok(sql) = std::fs::read_to_string(folder().join(format!("{name}.sql"))) {
        return sql;
    }
    let text = std::fs::read_to_string(folder().join(format!("{name}.yaml"))).unwrap();
    let (_, step) = text.split_once("    sql: |\n").unwrap();
    step.lines().take_while(|line| line.starts_with("      ")).collect::<Vec<_>>().join("\n")
}

async fn batch_rows(session: &SessionContext, sql: &str) -> Vec<Map<String, Value>> {
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    let mut text = Vec::new();
    let mut writer: LineDelimitedWriter<_> =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut text);
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    lines(&String::from_utf8(text).unwrap())
}

fn lines(text: &str) -> Vec<Map<String, Value>> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the pipeline `name` gives with so many shards, in the order in which it came.
fn stream_rows(name: &str, input: &Path, shards: u32) -> Result<Vec<Map<String, Value>>, String> {
    let output = tempfile::tempdir().unwrap();
    let file = output.path().join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(folder().join(format!("{name}.yaml"))).unwrap();
    // Small batches, so that there are many.
    let limits = format!("limits: {{parallelism: {shards}, batch_rows_max: 512}}\n");
    std::fs::write(&file, text + &limits).unwrap();
    let mut command = std::process::Command::new(daemon::binary());
    command.args(["run", "--bounded", "--listen", "127.0.0.1:0", "--data-dir"]).arg(output.path().join("data"));
    let ended = command.arg(&file).env("INPUT", input).env("OUTPUT", output.path()).output().unwrap();
    if !ended.status.success() {
        return Err(format!("{}\n{}", ended.status, String::from_utf8_lossy(&ended.stderr)));
    }
    let letters = std::fs::read_to_string(output.path().join("data").join(name).join("dead-letter.jsonl"));
    if let Some(letter) = letters.unwrap_or_default().lines().next() {
        return Err(format!("a row went to the dead letter: {letter}"));
    }
    Ok(lines(&std::fs::read_to_string(output.path().join("output.jsonl")).unwrap_or_default()))
}

/// Of rows that replace one another, the last of each key.
fn last_of(rows: Vec<Map<String, Value>>, key: &[&str]) -> Vec<Map<String, Value>> {
    if key.is_empty() {
        return rows;
    }
    let of = |row: &Map<String, Value>| key.iter().map(|column| row[*column].to_string()).collect::<Vec<_>>();
    let mut last = BTreeMap::new();
    for mut row in rows {
        row.remove("is_final");
        last.insert(of(&row), row);
    }
    last.into_values().collect()
}

fn sorted(rows: Vec<Map<String, Value>>) -> Vec<String> {
    let mut rows: Vec<String> = rows.into_iter().map(|row| canonical(&Value::Object(row))).collect();
    rows.sort();
    rows
}

/// The first rows that one side has and the other has not.
fn difference(wanted: &[String], found: &[String]) -> String {
    let only = |of: &[String], other: &[String]| {
        let other: std::collections::HashSet<&String> = other.iter().collect();
        let rows: Vec<&str> = of.iter().filter(|row| !other.contains(row)).map(String::as_str).take(5).collect();
        rows.join("\n    ")
    };
    let (missing, unexpected) = (only(wanted, found), only(found, wanted));
    format!(
        "{} rows instead of {}\n  missing:\n    {missing}\n  unexpected:\n    {unexpected}",
        found.len(),
        wanted.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_nexmark_query_gives_the_batch_answer() {
    let input = tempfile::tempdir().unwrap();
    feed::write(&generator(), EVENTS, input.path()).unwrap();
    feed::write_side_input(input.path()).unwrap();
    let session = batch(input.path()).await;
    let only = std::env::var("MILLSTREAM_NEXMARK_ONLY").ok();
    let mut wrong = Vec::new();
    for Query { name, key } in QUERIES {
        if only.as_ref().is_some_and(|only| only.split(',').all(|query| query != *name)) {
            continue;
        }
        let wanted = sorted(batch_rows(&session, &batch_sql(name)).await);
        assert!(!wanted.is_empty(), "{name} finds nothing: it would show nothing");
        for shards in [1, 3] {
            let found = stream_rows(name, input.path(), shards).map(|rows| sorted(last_of(rows, key)));
            match found {
                Ok(found) if found == wanted => {}
                Ok(found) => wrong.push(format!("{name} in {shards} shards: {}", difference(&wanted, &found))),
                Err(error) => wrong.push(format!("{name} in {shards} shards: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn every_nexmark_pipeline_is_among_the_queries() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(QUERIES.iter().any(|query| query.name == name), "{}", file.display());
    }
}
