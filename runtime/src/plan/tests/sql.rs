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

/// Each query of a file (between lines `--`) with what is said about it.
fn all_said(queries: &str) -> String {
    let said = queries.trim_end().split("\n--\n").map(|sql| format!("{sql}\n=>\n{}\n", said(sql)));
    said.collect::<Vec<_>>().join("\n")
}

/// Words of DataFusion, sqlparser and Rust that no user should have to read.
const JARGON: &[&str] = &[
    "Error",
    "error",
    "DataFusion",
    "Arrow",
    "planning",
    "caused by",
    "LogicalPlan",
    "Utf8",
    "Int64",
    "Float64",
    "Some(",
    "Schema",
    "coerc",
    "Candidate",
    "EOF",
    "{",
    "::",
];

macro_rules! wrong {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let said = all_said(include_str!(concat!("queries/", stringify!($name), ".sql")));
            for line in said.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
                let jargon = JARGON.iter().find(|word| line.contains(**word));
                assert!(jargon.is_none(), "{jargon:?} in {line}");
            }
            insta::assert_snapshot!(said);
        }
    )*};
}

wrong!(syntax names types_and_groups statements streams windows further over patterns compared);

#[test]
fn nothing_is_said_about_queries_that_run() {
    for sql in include_str!("queries/right.sql").trim_end().split("\n--\n") {
        assert_eq!(said(sql), "", "{sql}");
    }
}

#[test]
fn queries_of_any_size_and_depth_are_refused_without_a_crash() {
    let deep = [
        ("SELECT ", "(", "1", ")"),
        ("SELECT device FROM readings WHERE ", "NOT ", "ok", ""),
        ("SELECT ", "CASE WHEN true THEN ", "1", " END"),
        ("SELECT ", "- ", "1", ""),
        ("SELECT ", "abs(", "1", ")"),
        ("", "SELECT * FROM (", "SELECT 1", ") x"),
        ("SELECT ", "[", "1", "]"),
        ("SELECT device FROM readings WHERE temp > ", "1 + ", "1", ""),
        ("SELECT device FROM readings WHERE ", "ok AND ", "ok", ""),
        ("SELECT device FROM readings WHERE ", "ok OR ", "ok", ""),
        ("SELECT device FROM readings WHERE device = ", "'a' || ", "'b'", ""),
        ("", "SELECT device FROM readings UNION ALL ", "SELECT device FROM readings", ""),
        ("SELECT device FROM readings WHERE ok = ", "ok IS NULL = ", "ok", ""),
        ("SELECT r.device FROM readings r ", "CROSS JOIN devices ", "", ""),
        ("SELECT device FROM readings WHERE ok ", "IS NULL ", "", ""),
        ("SELECT device FROM readings WHERE ok ", "IS NOT TRUE ", "", ""),
        ("SELECT temp", "::double", " FROM readings", ""),
        ("SELECT tags", "[1]", " FROM readings", ""),
        ("SELECT ts", " AT TIME ZONE 'UTC'", " FROM readings", ""),
        ("SELECT device", " COLLATE x", " FROM readings", ""),
        ("SELECT temp", " BETWEEN 1 AND 2", " FROM readings", ""),
        ("SELECT device", " LIKE 'x'", " FROM readings", ""),
        ("SELECT temp", " IN (1)", " FROM readings", ""),
    ];
    for (before, open, middle, close) in deep {
        for count in [60, 3_000] {
            let sql = format!("{before}{}{middle}{}", open.repeat(count), close.repeat(count));
            // Whatever is said is short, and nothing overflows the stack.
            let said = said(&sql);
            let start: String = said.chars().take(100).collect();
            assert!(said.len() < 2_000, "{open}: {start}");
        }
    }
}

#[test]
fn the_largest_sql_is_read_and_what_is_larger_is_refused() {
    let list = |count: usize| {
        let items: Vec<String> = (0..count).map(|item| format!("'{item:06}'")).collect();
        format!("SELECT device FROM readings WHERE device IN ({})", items.join(","))
    };
    assert_eq!(said(&list(20_000)), "");
}
