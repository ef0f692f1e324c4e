//! Each kind of mistake, as it is shown.

use insta::assert_snapshot;

use super::super::problem::{Part, Problem};
use super::super::render;
use super::{GOOD, errors, load_plain};

#[test]
fn a_good_file_has_no_problems() {
    let loaded = load_plain(GOOD);
    assert_eq!(errors(GOOD), "");
    let spec = loaded.spec.unwrap();
    assert_eq!(spec.name.as_deref(), Some("p"));
    assert_eq!(spec.sources["readings"].resolved_columns().unwrap()["ts"].sql_type(), "timestamp");
    assert_eq!(spec.steps["warm"].sql, "SELECT ts, v\nFROM readings\nWHERE v > 1\n");
}

const BAD: &str = r#"nmae: bad pipeline
labels: {team: 5}
delivery: exactly_once
checkpoint: {interval: 5, timeout: 10 parsecs}
limits:
  parallelism: 300
  batch_bytes_max: 12 apples
  queue_rows_max: many
sources:
  readings:
    http: {}
    kafka: {}
    columns: {ts: timestamp, ts2: {type: timestamp, unit: msec}, x: {unit: ms}}
    event_time: {column: tss, watermark: 5s}
  2nd:
    formt: json
  vehicles:
    mqtt: {}
    table: {key: id}
steps:
  warm:
    sql: SELECT * FROM readings
    late: {to: nowhere}
    on_error: dead-letter
  drop:
    sql: [SELECT 1]
sinks:
  alarms:
    from: wram
    stdout: {}
  other:
    sse: {}
  third:
    from: [warm, vehicles]
dead_letter:
  sse: {}
"#;

#[test]
fn every_mistake_of_a_bad_file_is_reported_at_once_at_its_place() {
    let loaded = load_plain(BAD);
    let located = loaded.located(&[]);
    let lines: Vec<String> = located
        .iter()
        .map(|p| format!("{}:{} {} | {}", p.location.line, p.location.column, p.path, p.message))
        .collect();
    assert!(loaded.spec.is_none());
    assert_snapshot!(lines.join("\n"), @r#"
    1:1 nmae | `nmae` is not a key here
    2:16 labels.team | a text is wanted here, not the number 5
    3:11 delivery | exactly_once needs sinks that can take part; alarms (stdout), other (sse), third (no connector) cannot yet
    4:24 checkpoint.interval | a duration is wanted here, not the number 5
    4:36 checkpoint.timeout | `10 parsecs` is not a duration
    6:16 limits.parallelism | 300 is too large
    7:20 limits.batch_bytes_max | `12 apples` is not a size
    8:19 limits.queue_rows_max | a whole number of at least 1 is wanted here, not the text `many`
    12:5 sources.readings.kafka | `brokers` is missing
    12:5 sources.readings.kafka | `topics` is missing
    12:5 sources.readings.kafka | `http` and `kafka` are both named, but only one connector can be
    13:59 sources.readings.columns.ts2.unit | `msec` is none of s, ms, us and ns
    13:66 sources.readings.columns.x | `type` is missing
    14:26 sources.readings.event_time.column | `tss` is no column of `readings`
    15:3 sources.2nd | no connector is named here
    15:3 sources.2nd | `2nd` cannot be a source's name
    16:5 sources.2nd.formt | `formt` is not a key here
    18:5 sources.vehicles.mqtt | `mqtt` cannot be read as a table, and `table:` stands here
    23:16 steps.warm.late.to | there is no sink `nowhere`
    24:15 steps.warm.on_error | `dead-letter` is none of dead_letter and fail
    25:3 steps.drop | `drop` means something else in `late: {to: …}`
    26:10 steps.drop.sql | a text is wanted here, not a list
    29:11 sinks.alarms.from | there is no step or stream `wram`
    31:3 sinks.other | no rows go to `other`
    33:3 sinks.third | no connector is named here
    34:18 sinks.third.from[1] | `vehicles` is a table; a sink takes rows of a step or a stream
    36:3 dead_letter.sse | `sse` keeps nothing: a letter would be lost when nobody looks
    "#);
    for problem in &located {
        let line = BAD.lines().nth(problem.location.line - 1).unwrap();
        assert!(problem.location.column <= line.chars().count() + 1, "{problem:?}");
        assert!(problem.location.end_column > problem.location.column, "{problem:?}");
    }
}

#[test]
fn a_bad_file_as_people_see_it() {
    let text = "sources:\n  a:\n    http: {}\n    linger: 5\nsinks:\n  out:\n    form: a\n    stdout: {}\n";
    assert_snapshot!(errors(text), @r#"
    error: a duration is wanted here, not the number 5
     --> p.yaml:4:13
      |
    4 |     linger: 5
      |             ^
      = at sources.a.linger
      = help: add a unit: `5s` or `5ms`

    error: no rows go to `out`
     --> p.yaml:6:3
      |
    6 |   out:
      |   ^^^
      = at sinks.out
      = help: add `from: STEP`, or name it in the `late: {to: …}` of a step

    error: `form` is not a key here
     --> p.yaml:7:5
      |
    7 |     form: a
      |     ^^^^
      = at sinks.out.form
      = help: did you mean `from`?

    3 errors
    "#);
}

#[test]
fn a_sql_error_points_into_the_block() {
    let loaded = load_plain(GOOD);
    let problem = Problem::new(["steps", "warm", "sql"], "there is no column `readings.w`")
        .hint("did you mean `v`?")
        .at(Part::Text { line: 3, column: 7 });
    assert_snapshot!(render::human(&loaded.located(&[problem]), false), @r#"
    error: there is no column `readings.w`
      --> p.yaml:11:13
       |
    11 |       WHERE v > 1
       |             ^
       = at steps.warm.sql
       = help: did you mean `v`?

    1 error
    "#);
}

#[test]
fn a_missing_path_is_shown_at_its_nearest_parent() {
    let loaded = load_plain(GOOD);
    let place = loaded.map.locate(&Problem::new(["steps", "warm", "late", "to"], "x"));
    assert_eq!((place.line, place.column, place.end_column), (7, 3, 7));
}

#[test]
fn missing_parts_are_named_at_the_key_above() {
    assert_snapshot!(errors("sources: {a: {http: {}, event_time: {column: x}}}\nsteps: {s: {}}\n"), @r#"
    error: `sinks` is missing
     --> p.yaml:1:1
      |
    1 | sources: {a: {http: {}, event_time: {column: x}}}
      | ^
      = help: add `sinks:` (Where the rows go, by name)

    error: `watermark` is missing
     --> p.yaml:1:25
      |
    1 | sources: {a: {http: {}, event_time: {column: x}}}
      |                         ^^^^^^^^^^
      = at sources.a.event_time
      = help: add `watermark:` (How far behind the newest row a row may be and still be in time)

    error: `sql` is missing
     --> p.yaml:2:9
      |
    2 | steps: {s: {}}
      |         ^
      = at steps.s
      = help: add `sql:` (One SELECT over sources, tables and other steps)

    3 errors
    "#);
}

#[test]
fn a_table_needs_a_connector_of_tables() {
    let text = "sources:\n  a: {http: {}}\n  t:\n    kafka: {}\n    table: {}\nsteps: {s: {sql: select * from a join t}}\nsinks: {o: {from: s, stdout: {}}}\n";
    assert_snapshot!(errors(text), @r#"
    error: `kafka` cannot be read as a table, and `table:` stands here
     --> p.yaml:4:5
      |
    4 |     kafka: {}
      |     ^^^^^
      = at sources.t.kafka
      = help: read the table from: file, postgres, http; or remove `table:` for a stream

    1 error
    "#);
}

#[test]
fn what_nobody_reads_is_a_warning() {
    let loaded = load_plain(&GOOD.replace("steps:\n", "steps:\n  lone: {sql: SELECT 1 FROM lone}\n"));
    assert!(loaded.spec.is_some() && !loaded.has_errors());
    assert_snapshot!(super::shown(&loaded), @r#"
    warning: no step and no sink reads the step `lone`
     --> p.yaml:7:3
      |
    7 |   lone: {sql: SELECT 1 FROM lone}
      |   ^^^^
      = at steps.lone
      = help: remove it, read it in a step's SQL, or name it in a sink's `from`

    1 warning
    "#);
}

#[test]
fn json_and_github_say_the_same() {
    let loaded = load_plain(&GOOD.replace("from: warm", "from: \"a%,:b\""));
    let located = loaded.located(&[]);
    assert_snapshot!(render::json(&located), @r#"{"errors":1,"warnings":0,"problems":[{"file":"p.yaml","line":14,"column":11,"end_column":18,"path":"sinks.out.from","severity":"error","message":"there is no step or stream `a%,:b`","hint":"there are: warm, readings"}]}"#);
    assert_snapshot!(render::github(&located), @"::error file=p.yaml,line=14,col=11,endColumn=17,title=millstream%3A sinks.out.from::there is no step or stream `a%25,:b`%0Ahelp: there are: warm, readings");
}

#[test]
fn wide_characters_tabs_and_controls_keep_the_caret_in_place() {
    let text = GOOD.replace("    from: warm", "    from: {\"温度\u{200b}e\u{301}\": \"a\",\t\tb: x}");
    assert_snapshot!(errors(&text), @r#"
    error: no rows go to `out`
      --> p.yaml:13:3
       |
    13 |   out:
       |   ^^^
       = at sinks.out
       = help: add `from: STEP`, or name it in the `late: {to: …}` of a step

    error: a text or a list is wanted here, not a map
      --> p.yaml:14:11
       |
    14 |     from: {"温度�e◌́": "a",    b: x}
       |           ^^^^^^^^^^^^^^^^^^^^^^^^^
       = at sinks.out.from
       = help: write for example `text` or "text"

    2 errors
    "#);
    let coloured = render::human(&load_plain("a: 1\n").located(&[]), true);
    assert!(coloured.contains("\x1b[1;31merror"), "{coloured}");
}

#[test]
fn long_lines_are_cut_around_the_place() {
    let text = format!(
        "sources: {{a: {{http: {{}}, description: \"{}\", lingr: 5s}}}}\nsinks: {{o: {{from: a, stdout: {{}}}}}}\n",
        "x".repeat(5000)
    );
    let shown = errors(&text);
    assert!(shown.lines().all(|line| line.chars().count() < 140), "{shown}");
    assert!(shown.contains("lingr: 5s") && shown.contains("did you mean `linger`?"), "{shown}");
}
