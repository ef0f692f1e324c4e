//! What a step says about its results and its state, where that does not go with its SQL.

use super::shown;

const AROUND: &str = "\
sources:
  readings:
    http: {}
    columns: {ts: timestamp, device: text, temp: double}
    event_time: {column: ts, watermark: 5s}
";

/// What is said about these steps, of which `q` goes to `out`.
fn said(steps: &str, sink: &str) -> String {
    let steps: String = steps.lines().map(|line| format!("  {line}\n")).collect();
    shown(&format!("{AROUND}steps:\n{steps}sinks:\n  out: {{from: q, {sink}}}\n"))
}

const STDOUT: &str = "stdout: {}";

#[test]
fn groups_without_a_window_need_a_time_to_live_and_early_results() {
    let sql = "q:\n  sql: SELECT device, count(*) AS n FROM readings GROUP BY device\n";
    insta::assert_snapshot!("no_ttl", said(&format!("{sql}  emit: changes\n"), STDOUT));
    insta::assert_snapshot!("no_emit", said(&format!("{sql}  state: {{ttl: 1h}}\n"), STDOUT));
    assert_eq!(said(&format!("{sql}  state: {{ttl: 1h}}\n  emit: {{every: 5s}}\n"), STDOUT), "");
}

#[test]
fn the_first_rows_per_key_need_early_results_unless_they_are_the_first_in_time() {
    let sql = |order: &str| {
        format!(
            "q:\n  sql: SELECT device, temp FROM readings QUALIFY ROW_NUMBER() OVER (PARTITION BY device ORDER BY {order}) \
             = 1\n  state: {{ttl: 1h}}\n"
        )
    };
    assert_eq!(said(&sql("ts"), STDOUT), "");
    insta::assert_snapshot!("top_no_emit", said(&sql("temp DESC"), STDOUT));
    insta::assert_snapshot!("first_emits", said(&format!("{}  emit: changes\n", sql("ts")), STDOUT));
}

#[test]
fn settings_without_effect_are_refused() {
    let steps = "q:\n  sql: SELECT * FROM readings\n  emit: changes\n  state: {ttl: 1h}\n";
    insta::assert_snapshot!("without_effect", said(steps, STDOUT));
    insta::assert_snapshot!("unknown_emit", said("q:\n  sql: SELECT * FROM readings\n  emit: often\n", STDOUT));
    for (name, wrong) in [("emit_time", "emit: 5s"), ("emit_every", "emit: every"), ("late_text", "late: drop")] {
        insta::assert_snapshot!(name, said(&format!("q:\n  sql: SELECT * FROM readings\n  {wrong}\n"), STDOUT));
    }
}

#[test]
fn rows_that_replace_one_another_are_not_counted_as_several() {
    let groups = "a:\n  sql: SELECT device, count(*) AS n FROM readings GROUP BY device\n  emit: changes\n  \
                  state: {ttl: 1h}\n";
    let count = "SELECT n, count(*) AS devices FROM a";
    let more = "  emit: changes\n  state: {ttl: 1h}\n";
    insta::assert_snapshot!("updates_counted", said(&format!("{groups}q:\n  sql: {count} GROUP BY n\n{more}"), STDOUT));
    assert_eq!(said(&format!("{groups}q:\n  sql: {count} WHERE is_final GROUP BY n\n{more}"), STDOUT), "");
    assert_eq!(said(&format!("{groups}q:\n  sql: SELECT n * 2 AS m, is_final FROM a\n"), STDOUT), "");
}

#[test]
fn a_kafka_sink_without_a_key_is_warned_about_where_rows_replace_one_another() {
    let steps = "q:\n  sql: SELECT device, count(*) AS n FROM readings GROUP BY device\n  emit: changes\n  \
                 state: {ttl: 1h}\n";
    let kafka = |more: &str| format!("kafka: {{brokers: 'localhost:9092', topic: out{more}}}");
    insta::assert_snapshot!("no_sink_key", said(steps, &kafka("")));
    assert_eq!(said(steps, &kafka(", key: device")), "");
}
