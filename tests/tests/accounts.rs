//! What went in is what came out: pipelines that write down every row and hourly sums, and the comparison of both with
//! what the load says that it sent.

use std::collections::BTreeMap;

use millstream_tests::load::event_time_ms;
use millstream_tests::sandbox::Sandbox;
use serde_json::Value;

/// The columns of [`millstream_tests::load`], read from `source` (a connector in YAML's flow style), every row to
/// `rows.jsonl`, sums by key and `window` to `windows.jsonl`.
pub(crate) fn counting_from(source: &str, window: &str) -> String {
    format!(
        r#"
sources:
  events:
    {source}
    columns: {{id: bigint, k: text, v: bigint, ts: {{type: timestamp, unit: ms}}}}
    event_time: {{column: ts, watermark: 20s, idle_after: 5m}}
steps:
  seen: {{sql: "SELECT id, k FROM events"}}
  sums:
    sql: |
      SELECT k, window_start, count(*) AS n, sum(v) AS total
      FROM TUMBLE(events, ts, INTERVAL '{window}') GROUP BY k, window_start, window_end
sinks:
  rows: {{from: seen, file: {{path: ../rows.jsonl}}}}
  windows: {{from: sums, file: {{path: ../windows.jsonl}}}}
restart: {{initial: 100ms, max: 1s}}
checkpoint: {{interval: 250ms}}
"#
    )
}

/// [`counting_from`] a Kafka topic.
pub(crate) fn counting(brokers: &str, topic: &str, window: &str) -> String {
    counting_from(&format!("kafka: {{brokers: \"{brokers}\", topics: {topic}}}"), window)
}

/// How often each id stands in `lines`.
pub(crate) fn ids(lines: &[Value]) -> BTreeMap<u64, u64> {
    let mut ids = BTreeMap::new();
    for line in lines {
        *ids.entry(line["id"].as_u64().unwrap_or_else(|| panic!("no id in {line}"))).or_default() += 1;
    }
    ids
}

/// The ids of `0..sent` that are missing, the first few.
pub(crate) fn missing(ids: &BTreeMap<u64, u64>, sent: u64) -> Result<(), String> {
    let missing: Vec<u64> = (0..sent).filter(|id| !ids.contains_key(id)).collect();
    match missing.len() {
        0 => Ok(()),
        count => Err(format!("{count} of {sent} are missing, such as {:?}", &missing[..count.min(20)])),
    }
}

/// Waits until every id of `0..sent` is in the file.
pub(crate) async fn every_id(sandbox: &mut Sandbox, file: &str, sent: u64) -> BTreeMap<u64, u64> {
    let path = sandbox.path(file);
    let all = async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines: Vec<Value> = whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let ids = ids(&lines);
        missing(&ids, sent).map(|()| ids)
    };
    let ids = sandbox.until(&format!("all of {sent} ids are in {file}"), all).await;
    assert!(ids.keys().all(|id| *id < sent), "ids that were never sent");
    ids
}

/// Waits until every id of `0..sent` is in the file; none may be there twice.
pub(crate) async fn every_id_once(sandbox: &mut Sandbox, file: &str, sent: u64) {
    let ids = every_id(sandbox, file, sent).await;
    let twice: Vec<_> = ids.iter().filter(|(_, count)| **count > 1).map(|(id, _)| *id).collect();
    assert!(twice.is_empty(), "{} ids came more than once, such as {:?}", twice.len(), &twice[..twice.len().min(20)]);
}

/// Count and sum by window (start in seconds since 1970) and key, over messages `0..sent`.
pub(crate) fn model(sent: u64, keys: u64, window_s: u64) -> BTreeMap<(u64, String), (u64, u64)> {
    let mut sums = BTreeMap::new();
    for id in 0..sent {
        let start = event_time_ms(id) / 1000 / window_s * window_s;
        let sum: &mut (u64, u64) = sums.entry((start, format!("key{}", id % keys))).or_default();
        sum.0 += 1;
        sum.1 += id % 1000;
    }
    sums
}

/// The windows in `lines`, as [`model`] has them; with `once` none may be there twice, otherwise all must be equal.
pub(crate) fn windows(lines: &[Value], once: bool) -> BTreeMap<(u64, String), (u64, u64)> {
    let mut windows = BTreeMap::new();
    for line in lines {
        let start = line["window_start"].as_str().unwrap().trim_end_matches('Z');
        let start = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(start).unwrap() / 1_000_000_000;
        let group = (start as u64, line["k"].as_str().unwrap().to_owned());
        let sum = (line["n"].as_u64().unwrap(), line["total"].as_u64().unwrap());
        let before = windows.insert(group.clone(), sum);
        assert!(before.is_none_or(|before| !once && before == sum), "{group:?} came as {before:?} and as {sum:?}");
    }
    windows
}

/// The windows of `file` are those of the model, as far as they have closed: those that end `behind_s` before the last
/// message. Waits for them.
pub(crate) async fn exact_windows(sandbox: &mut Sandbox, file: &str, sent: u64, keys: u64, window_s: u64, once: bool) {
    let last = event_time_ms(sent.saturating_sub(1)) / 1000;
    let mut expected = model(sent, keys, window_s);
    // The watermark of `counting_from` is 20 seconds; a partition may be some messages behind.
    expected.retain(|(start, _), _| start + window_s + 21 < last);
    assert!(!expected.is_empty(), "{sent} messages close no window of {window_s} s");
    let path = sandbox.path(file);
    let closed = async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines: Vec<Value> = whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let found = windows(&lines, once);
        match expected.keys().find(|group| !found.contains_key(*group)) {
            None => Ok(found),
            Some(group) => Err(format!("{} of {} windows, {group:?} is missing", found.len(), expected.len())),
        }
    };
    let found = sandbox.until("the windows close", closed).await;
    for (group, sum) in &expected {
        assert_eq!(found.get(group), Some(sum), "count and sum of {group:?}");
    }
}
