//! Wrong SQL.

use super::located;
use crate::spec::problem::Severity;

/// Sources, tables and steps that the queries below read.
const AROUND: &str = "\
sources:
  readings:
    http: {}
    columns: {ts: timestamp, device: text, temp: double, hum: double, n: bigint, ok: boolean, tags: 'text[]', \"Größe\": double, seen: timestamp}
    event_time: {column: ts, watermark: 5s}
  others:
    http: {path: /others}
    columns: {at: timestamp, device: text, v: double}
    event_time: {column: at, watermark: 5s}
  timeless:
    http: {path: /timeless}
    columns: {ts: timestamp, v: double}
  devices:
    file: {path: devices.csv}
    format: csv
    columns: {device: text, room: text, max: double}
    table: {key: device}
sinks:
  out: {from: q, stdout: {}}
  rest: {from: [readings], stdout: {}}
steps:
  q:
    sql: |
";

/// Every mistake of a query as `line:column message / hint`, with line and column within the SQL.
fn said(sql: &str) -> String {
    let before = AROUND.lines().count();
    let indented: String = sql.lines().map(|line| format!("      {line}\n")).collect();
    let text = format!("{AROUND}{indented}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("devices.csv"), "device,room,max\n").unwrap();
    let file = folder.path().join("p.yaml");
    let found = super::on_worker(async move { located(&file, &text).await });
    let errors = found.iter().filter(|found| found.severity == Severity::Error);
    let lines = errors.map(|found| {
        let at = &found.location;
        assert_eq!(found.path, "steps.q.sql", "{found:?}");
        let hint = found.hint.as_ref().map(|hint| format!("\n     help: {hint}")).unwrap_or_default();
        format!("{}:{} {}{hint}", at.line as i64 - before as i64, at.column as i64 - 6, found.message)
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn try_out() {
    let Ok(file) = std::env::var("TRY") else { return };
    for sql in std::fs::read_to_string(file).unwrap().split("\n--\n") {
        println!("{}\n  => {}\n", sql, said(sql));
    }
}
