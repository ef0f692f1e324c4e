//! Windows, a join of windows, and a pattern over it, in one pipeline over Kafka: killed in the middle and gone on with
//! another number of shards, it gives what a model gives over all rows at once.

use std::collections::{BTreeMap, BTreeSet};

use millstream_tests::sandbox::Sandbox;
use millstream_tests::services::{Kafka, Produce, kafka};
use serde_json::{Value, json};

const MACHINES: u64 = 7;
const MINUTES: u64 = 40;
/// Readings per machine and minute.
const READINGS: u64 = 12;
const BASE_S: u64 = 1_767_225_600;

fn pipeline(brokers: &str, shards: u16) -> String {
    format!(
        r#"
sources:
  readings:
    kafka: {{brokers: "{brokers}", topics: [whole-readings], group_instance_id: whole-a}}
    columns: {{machine: text, ts: {{type: timestamp, unit: ms}}, temp: double}}
    event_time: {{column: ts, watermark: 30s, idle_after: 10m}}
  loads:
    kafka: {{brokers: "{brokers}", topics: [whole-loads], group_instance_id: whole-b}}
    columns: {{machine: text, ts: {{type: timestamp, unit: ms}}, kw: bigint}}
    event_time: {{column: ts, watermark: 30s, idle_after: 10m}}
steps:
  temperatures:
    sql: |
      SELECT machine, window_start, window_end, avg(temp) AS temp, count(*) AS n
      FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY machine, window_start, window_end
  powers:
    sql: |
      SELECT machine, window_start, window_end, sum(kw) AS kw
      FROM TUMBLE(loads, ts, INTERVAL '1 minute') GROUP BY machine, window_start, window_end
  both:
    sql: |
      SELECT t.machine, t.window_end, t.temp, t.n, p.kw
      FROM temperatures t JOIN powers p
        ON t.machine = p.machine AND t.window_start = p.window_start AND t.window_end = p.window_end
  rises:
    sql: |
      SELECT * FROM both MATCH_RECOGNIZE (
        PARTITION BY machine ORDER BY window_end
        MEASURES FIRST(a.window_end) AS began, LAST(b.window_end) AS ended, count(b.temp) AS steps, max(b.kw) AS kw
        ONE ROW PER MATCH AFTER MATCH SKIP PAST LAST ROW
        PATTERN (a b{{2,}}) WITHIN INTERVAL '8 minutes'
        DEFINE b AS b.temp > PREV(b.temp)
      )
sinks:
  both: {{from: both, kafka: {{brokers: "{brokers}", topic: whole-both}}}}
  rises: {{from: rises, kafka: {{brokers: "{brokers}", topic: whole-rises}}}}
limits: {{parallelism: {shards}}}
checkpoint: {{interval: 250ms}}
"#
    )
}

/// How warm a machine is in a minute: it rises for some minutes, then falls.
fn temperature(machine: u64, minute: u64) -> u64 {
    let phase = (minute * (machine + 2) + machine * 5) % 11;
    20 + if phase < 6 { phase * 3 } else { (11 - phase) * 2 }
}

fn time_ms(minute: u64, place: u64) -> u64 {
    // Out of order within half a minute.
    (BASE_S + minute * 60) * 1000 + (place * 7919) % 60_000
}

fn message(value: Value, partition: u64) -> Produce {
    Produce { partition: Some((partition % 3) as i32), ..Produce::value(value.to_string()) }
}

/// All messages of the minutes, as both topics get them.
fn messages(minutes: std::ops::Range<u64>) -> (Vec<Produce>, Vec<Produce>) {
    let (mut readings, mut loads) = (Vec::new(), Vec::new());
    for minute in minutes {
        for half in 0..2 {
            for machine in 0..MACHINES {
                let name = format!("m-{machine}");
                for place in (0..READINGS).filter(|place| time_ms(minute, *place) % 60_000 / 30_000 == half) {
                    let temp = temperature(machine, minute) as f64 + (place % 3) as f64 - 1.0;
                    let row = json!({"machine": name, "ts": time_ms(minute, place), "temp": temp});
                    readings.push(message(row, machine + place));
                }
                // One minute of each machine has no load: the join leaves it out.
                if half == 0 && minute % 13 != machine {
                    let row = json!({"machine": name, "ts": time_ms(minute, 1), "kw": machine * 100 + minute});
                    loads.push(message(row, machine));
                }
            }
        }
    }
    (readings, loads)
}

/// What the pipeline must give: the joined minutes and the rises.
type Expected = (BTreeSet<String>, BTreeSet<String>);

fn shown(minute: u64) -> String {
    let time = chrono_text(BASE_S + minute * 60);
    time.trim_end_matches('Z').to_owned()
}

/// Seconds since 1970 as the sinks write them.
fn chrono_text(seconds: u64) -> String {
    use arrow::array::{Array, TimestampSecondArray};
    use arrow::util::display::{ArrayFormatter, FormatOptions};
    let array = TimestampSecondArray::from(vec![seconds as i64]);
    let formatter = ArrayFormatter::try_new(&array as &dyn Array, &FormatOptions::default()).unwrap();
    formatter.value(0).to_string()
}

fn expected() -> Expected {
    let (mut both, mut rises) = (BTreeSet::new(), BTreeSet::new());
    for machine in 0..MACHINES {
        let joined: Vec<(u64, f64)> = (0..MINUTES)
            .filter(|minute| minute % 13 != machine)
            .map(|minute| {
                let temps = (0..READINGS).map(|place| temperature(machine, minute) as f64 + (place % 3) as f64 - 1.0);
                (minute, temps.sum::<f64>() / READINGS as f64)
            })
            .collect();
        for (minute, temp) in &joined {
            let kw = machine * 100 + minute;
            both.insert(format!("m-{machine} {} {temp:.6} {READINGS} {kw}", shown(minute + 1)));
        }
        let mut start = 0;
        while start < joined.len() {
            let mut end = start;
            // Greedy, and the last is less than eight minutes after the first.
            while end + 1 < joined.len() && joined[end + 1].1 > joined[end].1 && joined[end + 1].0 - joined[start].0 < 8
            {
                end += 1;
            }
            if end - start < 2 {
                start += 1;
                continue;
            }
            let kw = machine * 100 + joined[end].0;
            let (began, ended) = (shown(joined[start].0 + 1), shown(joined[end].0 + 1));
            rises.insert(format!("m-{machine} {began} {ended} {} {kw}", end - start));
            start = end + 1;
        }
    }
    (both, rises)
}

async fn found(kafka: &Kafka) -> Expected {
    let time = |value: &Value| value.as_str().unwrap_or_default().trim_end_matches('Z').to_owned();
    let both = kafka.consume_all("whole-both").await;
    let both = both.iter().map(|message| message.json()).map(|row| {
        let machine = row["machine"].as_str().unwrap().to_owned();
        format!(
            "{machine} {} {:.6} {} {}",
            time(&row["window_end"]),
            row["temp"].as_f64().unwrap(),
            row["n"],
            row["kw"]
        )
    });
    let both = both.collect();
    let rises = kafka.consume_all("whole-rises").await;
    let rises = rises.iter().map(|message| message.json()).map(|row| {
        let machine = row["machine"].as_str().unwrap().to_owned();
        format!("{machine} {} {} {} {}", time(&row["began"]), time(&row["ended"]), row["steps"], row["kw"])
    });
    (both, rises.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_joined_and_matched_give_the_batch_answer_over_a_kill_and_another_number_of_shards() {
    let kafka = kafka().await;
    for topic in ["whole-readings", "whole-loads"] {
        kafka.create_topic_with(topic, 3, &[("retention.ms", "-1")]).await;
    }
    for topic in ["whole-both", "whole-rises"] {
        kafka.create_topic(topic, 3).await;
    }
    let mut sandbox = Sandbox::new();
    sandbox.pipeline("whole", &pipeline(&kafka.brokers, 1));
    sandbox.start().await;
    let (readings, loads) = messages(0..MINUTES / 2);
    kafka.produce_messages("whole-readings", readings).await;
    kafka.produce_messages("whole-loads", loads).await;
    let some = async || {
        let (both, _) = found(kafka).await;
        if both.len() > 40 { Ok(()) } else { Err(format!("{} joined minutes", both.len())) }
    };
    sandbox.until("some windows are joined", some).await;
    sandbox.kill9();
    sandbox.pipeline("whole", &pipeline(&kafka.brokers, 3));
    sandbox.start().await;
    let (mut readings, mut loads) = messages(MINUTES / 2..MINUTES);
    // Every partition goes past the end, so that all windows close and all matches are decided.
    for partition in 0..3 {
        let ts = (BASE_S + (MINUTES + 30) * 60) * 1000;
        readings.push(message(json!({"machine": "end", "ts": ts, "temp": 0.0}), partition));
        loads.push(message(json!({"machine": "end", "ts": ts, "kw": 0}), partition));
    }
    kafka.produce_messages("whole-readings", readings).await;
    kafka.produce_messages("whole-loads", loads).await;
    let expected = expected();
    assert!(expected.1.len() > 20, "the model finds rises: {}", expected.1.len());
    let all = async || {
        let (both, rises) = found(kafka).await;
        let missing = |wanted: &BTreeSet<String>, there: &BTreeSet<String>| {
            wanted.difference(there).take(3).cloned().collect::<Vec<_>>()
        };
        let missing = (missing(&expected.0, &both), missing(&expected.1, &rises));
        if missing.0.is_empty() && missing.1.is_empty() { Ok(()) } else { Err(format!("missing: {missing:?}")) }
    };
    sandbox.until("all rows are there", all).await;
    assert!(sandbox.terminate().success(), "{}", sandbox.output());
    // After a kill rows may come twice (at least once); none may be wrong.
    let (both, rises) = found(kafka).await;
    let wrong: BTreeMap<&str, Vec<&String>> = [
        ("both", both.difference(&expected.0).collect::<Vec<_>>()),
        ("rises", rises.difference(&expected.1).collect::<Vec<_>>()),
    ]
    .into();
    assert!(wrong.values().all(Vec::is_empty), "{wrong:#?}");
}
