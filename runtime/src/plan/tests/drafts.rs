//! Files with several kinds of mistakes: all are said in one go, and nothing that only follows from them.

use super::shown;

/// The places and messages, one a line.
fn said(text: &str) -> String {
    let text = shown(text);
    let lines: Vec<&str> = text.lines().collect();
    let found = lines.windows(2).filter(|pair| pair[1].trim_start().starts_with("-->"));
    let found = found.map(|pair| format!("{} {}", pair[1].trim().trim_start_matches("--> p.yaml:"), pair[0]));
    found.collect::<Vec<_>>().join("\n")
}

/// A pipeline with a source, the steps given, and a sink for the first of them, `q`.
fn pipeline(source: &str, steps: &str) -> String {
    format!("sources:\n  s: {source}\nsteps:\n{steps}\nsinks:\n  out: {{from: q, stdout: {{}}}}\n")
}

#[test]
fn wrong_options_and_wrong_sql_are_said_in_one_go() {
    let text = pipeline("{http: {pth: /x}, columns: {a: int}}", "  q: {sql: SELECT b FROM s}");
    insta::assert_snapshot!(said(&text), @r#"
    2:14 error: `pth` is not a key here
    4:19 error: there is no column `b`
    "#);
}

#[test]
fn a_step_over_columns_that_are_not_known_is_not_judged_but_what_no_stream_can_do_is_said() {
    for columns in
        ["columns: {a: nope}", "columns: {a: {unit: ms}}", "schema: missing", "metadata: {a: b}, columns: {c: int}"]
    {
        let text = pipeline(
            &format!("{{mqtt: {{url: 'mqtt://h', topics: [a]}}, {columns}}}"),
            "  q: {sql: SELECT b INTO x FROM s}",
        );
        let said = said(&text);
        assert!(!said.contains("`b`:") && !said.contains("column `b`") && said.contains("INTO"), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
    }
}

#[test]
fn a_wrong_event_time_makes_its_windows_unjudged() {
    let sql = "  q: {sql: \"SELECT window_start, count(*) AS n FROM TUMBLE(s, t, INTERVAL '1 minute') GROUP BY window_start, window_end\"}";
    for event_time in ["{column: t, watermark: fast}", "{column: a, watermark: 1s}", "{column: tt, watermark: 1s}"] {
        let said = said(&pipeline(
            &format!("{{http: {{}}, columns: {{a: int, t: timestamp}}, event_time: {event_time}}}"),
            sql,
        ));
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!said.contains("TUMBLE") && !said.contains("no event time"), "{said}");
    }
}

#[test]
fn the_column_of_the_clock_must_have_a_name_of_its_own() {
    let step = "  q: {sql: SELECT * FROM s}";
    let columns = "columns: {processing_time: timestamp, seen: text}";
    for (event_time, metadata) in
        [("processing", ""), ("{processing: seen}", ""), ("{processing: m}", ", metadata: {m: path}")]
    {
        let said = said(&pipeline(&format!("{{http: {{}}, {columns}{metadata}, event_time: {event_time}}}"), step));
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("there is already a column of that name"), "{said}");
    }
    let said =
        said(&pipeline("{generate: {columns: {processing_time: {sequence: {}}}}, event_time: processing}", step));
    assert!(said.contains("there is already a column of that name"), "{said}");
}

#[test]
fn a_misspelt_group_hides_its_names_and_nothing_more() {
    let text = "sorces:\n  s: {http: {}, columns: {a: int}}\nsteps:\n  q: {sql: SELECT b FROM s LIMIT 3}\nsinks:\n  out: {from: q, stdout: {}}\n";
    insta::assert_snapshot!(said(text), @r#"
    1:1 error: `sorces` is not a key here
    1:1 error: `sources` is missing
    4:34 error: LIMIT over a stream has no meaning: the stream has no first rows of a whole
    "#);
}

#[test]
fn functions_of_a_module_that_cannot_be_loaded_are_not_called_unknown() {
    let text = pipeline("{http: {}, columns: {a: int}}", "  q: {sql: \"SELECT mine(a) AS x, b FROM s\"}")
        + "functions: [{wasm: none.wasm}]\n";
    insta::assert_snapshot!(said(&text), @r#"
    4:34 error: there is no column `b`
    7:20 error: there is no file none.wasm
    "#);
}

#[test]
fn a_sink_of_a_failed_step_says_nothing_and_one_of_a_wrong_source_is_judged() {
    let text = pipeline("{http: {pth: /x}, columns: {a: int}}", "  q: {sql: SELECT b FROM s}")
        + "  more: {from: s, mqtt: {url: 'mqtt://h', topic: 'a/#'}}\n  less: {from: q, mqtt: {url: 'mqtt://h', topic: 'a/#'}}\n";
    insta::assert_snapshot!(said(&text), @r#"
    2:14 error: `pth` is not a key here
    4:19 error: there is no column `b`
    7:50 error: the topic `a/#` cannot be published to: it contains '#'
    "#);
}

#[test]
fn a_function_with_the_name_of_one_of_sqls_own_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let module = wat::parse_str("(module (func (export \"upper\") (param f64) (result f64) local.get 0))").unwrap();
    std::fs::write(folder.path().join("m.wasm"), module).unwrap();
    let text =
        pipeline("{http: {}, columns: {a: double}}", "  q: {sql: SELECT a FROM s}") + "functions: [{wasm: m.wasm}]\n";
    let file = folder.path().join("p.yaml");
    let found = super::on_worker(async move { super::located(&file, &text).await });
    let said: Vec<_> = found.iter().map(|found| format!("{} / {:?}", found.message, found.hint)).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"`upper` is a function of SQL already / Some("rename it: `exports: {upper: {name: my_upper}}`")"#);
}
