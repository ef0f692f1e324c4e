//! `event_time`: a column of the rows, or the clock.

use insta::assert_snapshot;

use super::super::model::EventTimeSpec;
use super::{GOOD, load_plain, load_with};

/// The messages, with their places, for a source whose event time is `event_time`.
fn said(event_time: &str) -> String {
    let text = GOOD.replace("{column: ts, watermark: 5s}", event_time);
    assert!(text.contains(event_time));
    let loaded = load_plain(&text);
    let lines = loaded.located(&[]).into_iter().map(|problem| {
        let hint = problem.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{} {} | {}{hint}", problem.location.column, problem.path, problem.message)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn spec(event_time: &str) -> EventTimeSpec {
    let loaded = load_plain(&GOOD.replace("{column: ts, watermark: 5s}", event_time));
    loaded.spec.unwrap_or_else(|| panic!("{:?}", loaded.problems)).sources["readings"].event_time.clone().unwrap()
}

#[test]
fn the_clock_has_a_column_whose_name_may_be_said() {
    assert_eq!(spec("processing").processing(), Some("processing_time"));
    assert_eq!(spec("{processing: seen}").processing(), Some("seen"));
    assert_eq!(spec("{column: ts, watermark: 5s}").processing(), None);
}

#[test]
fn what_is_of_the_time_of_rows_is_refused_beside_the_clock_at_its_line() {
    assert_snapshot!(said("{processing: seen, watermark: 5s, idle_after: 1m, max_ahead: 1h}"), @r"
    36 sources.readings.event_time.watermark | `watermark` cannot stand here: with `processing` the watermark is the clock, and no row is out of order (remove it)
    51 sources.readings.event_time.idle_after | `idle_after` cannot stand here: with `processing` time goes on while no row comes (remove it)
    67 sources.readings.event_time.max_ahead | `max_ahead` cannot stand here: with `processing` no row is ahead of the clock (remove it)
    ");
    assert_snapshot!(said("{processing: seen, column: ts}"), @"36 sources.readings.event_time.column | `column` cannot stand here: with `processing` the clock is the time, and no column of the rows (remove it)");
    assert_snapshot!(said("{processing: seen, column: ts, watermark: 5s}"), @"18 sources.readings.event_time.processing | `processing` cannot stand here: the time is either a `column` of the rows or the clock (remove it)");
    assert_snapshot!(said("{processing: seen, unit: ms}"), @"36 sources.readings.event_time.unit | `unit` is not a key here (there are: processing)");
    assert_snapshot!(said("{processing: \"\"}"), @"30 sources.readings.event_time.processing | this text is empty (write at least 1 characters)");
}

#[test]
fn a_word_that_is_not_the_clock_is_refused() {
    assert_snapshot!(said("procesing"), @"17 sources.readings.event_time | `procesing` is not `processing` (did you mean `processing`?)");
    assert_snapshot!(said("ts"), @"17 sources.readings.event_time | `processing` or a map is wanted here, not the text `ts` (write for example `processing`)");
    assert_snapshot!(said("{processing: 5}"), @r#"30 sources.readings.event_time.processing | a text is wanted here, not the number 5 (put it in quotes: "5")"#);
    assert_snapshot!(said("{watermark: 5s}"), @"5 sources.readings.event_time | `column` is missing (add `column:` (A timestamp column))");
    assert_snapshot!(said("{colum: ts, watermark: 5s}"), @r"
    5 sources.readings.event_time | `column` is missing (add `column:` (A timestamp column))
    18 sources.readings.event_time.colum | `colum` is not a key here (did you mean `column`?)
    ");
}

#[test]
fn a_profile_may_lay_one_over_the_other() {
    let with = |base: &str, profile: &str| {
        let text = GOOD.replace("{column: ts, watermark: 5s}", base);
        let profile = format!("profiles: {{p: {{sources: {{readings: {{event_time: {profile}}}}}}}}}\n");
        let loaded = load_with(&(text + &profile), &[], Some("p"));
        let spec = loaded.spec.unwrap_or_else(|| panic!("{:?}", loaded.problems));
        spec.sources["readings"].event_time.clone().unwrap()
    };
    assert_eq!(with("{column: ts, watermark: 5s}", "processing").processing(), Some("processing_time"));
    assert_eq!(with("processing", "{column: ts, watermark: 5s}"), spec("{column: ts, watermark: 5s}"));
    assert_eq!(with("{column: ts, watermark: 5s}", "{watermark: 9s}"), spec("{column: ts, watermark: 9s}"));
    let named = with("{column: ts, watermark: 5s}", "{processing: seen, column: null, watermark: null}");
    assert_eq!(named.processing(), Some("seen"));
}
