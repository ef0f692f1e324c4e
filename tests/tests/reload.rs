//! Files are edited while the daemon runs: the output changes, rows are not lost, what did not change is not touched.

use std::time::Duration;

use millstream_tests::load::{HttpLoad, KafkaLoad};
use millstream_tests::sandbox::Sandbox;
use millstream_tests::services::{free_port, kafka};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::accounts::{self, counting, counting_from, every_id, exact_windows, windows};

const KEYS: u64 = 12;

/// Rows to a topic, sums to a file.
fn edited(brokers: &str, input: &str, columns: &str, filter: &str, output: &str) -> String {
    format!(
        r#"
sources:
  events:
    kafka: {{brokers: "{brokers}", topics: {input}}}
    columns: {{id: bigint, k: text, v: bigint, ts: {{type: timestamp, unit: ms}}}}
    event_time: {{column: ts, watermark: 20s, idle_after: 5m}}
steps:
  seen: {{sql: "SELECT id, k{columns} FROM events{filter}"}}
  sums:
    sql: |
      SELECT k, window_start, count(*) AS n, sum(v) AS total
      FROM TUMBLE(events, ts, INTERVAL '40 seconds') GROUP BY k, window_start, window_end
sinks:
  rows: {{from: seen, kafka: {{brokers: "{brokers}", topic: {output}}}}}
  windows: {{from: sums, file: {{path: ../windows.jsonl}}}}
checkpoint: {{interval: 250ms}}
"#
    )
}

const ASIDE: &str = "sources: {s: {generate: {columns: {n: {sequence: {}}}, rate: 50/s}}}\n\
                     sinks: {o: {from: s, file: {path: ../aside.jsonl}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn edits_under_load_change_the_output_and_no_row_is_lost_nor_a_window_wrong() {
    let kafka = kafka().await;
    for (topic, partitions) in [("edit-in", 3), ("edit-out", 1), ("edit-moved", 1)] {
        kafka.create_topic(topic, partitions).await;
    }
    let mut sandbox = Sandbox::new();
    let edit = |columns: &str, filter: &str, output: &str| edited(&kafka.brokers, "edit-in", columns, filter, output);
    sandbox.pipeline("edit", &edit("", "", "edit-out"));
    sandbox.pipeline("aside", ASIDE);
    sandbox.start().await;
    let aside = sandbox.running("aside").await;
    let load = KafkaLoad::start(&kafka.brokers, "edit-in", 2000, KEYS);
    let edits = [
        edit(", v", "", "edit-out"),
        edit(", v * 2 AS v", " WHERE id % 2 = 0 OR id % 2 = 1", "edit-out"),
        edit(", 'moved' AS v", "", "edit-moved"),
        edit(", 'back' AS v", "", "edit-out"),
    ];
    for (count, yaml) in (1..).zip(edits) {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        sandbox.pipeline("edit", &yaml);
        sandbox.status_until("edit", "reloaded", |status| status["reloads"] == count).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let sent = load.stop().await;
    let mut shapes = Vec::new();
    let all = async || {
        let mut rows: Vec<Value> = Vec::new();
        for topic in ["edit-out", "edit-moved"] {
            rows.extend(kafka.consume_all(topic).await.iter().map(|message| message.json()));
        }
        let ids = accounts::ids(&rows);
        accounts::missing(&ids, sent).map(|()| (rows, ids))
    };
    let (rows, ids) = sandbox.until("all rows come out", all).await;
    // Every reload stopped with a last snapshot, so nothing came twice.
    let twice = ids.values().filter(|count| **count > 1).count();
    assert_eq!(twice, 0, "{twice} of {sent} rows came twice over clean reloads");
    for row in &rows {
        let shape = match &row["v"] {
            Value::Null => "none",
            Value::Number(v) if v.as_u64() == Some(row["id"].as_u64().unwrap() % 1000) => "plain",
            Value::Number(_) => "doubled",
            Value::String(text) if text == "moved" => "moved",
            _ => "back",
        };
        if shapes.last() != Some(&shape) && !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes.sort_unstable();
    assert_eq!(shapes, ["back", "doubled", "moved", "none", "plain"], "every edit showed in the output");
    exact_windows(&mut sandbox, "windows.jsonl", sent, KEYS, 40, true).await;
    let now = sandbox.status("aside").await;
    for untouched in ["since", "reloads", "restarts", "state"] {
        assert_eq!(now[untouched], aside[untouched], "`aside` was not edited: {untouched}");
    }
    assert!(now["rows_out"]["o"].as_u64() > aside["rows_out"]["o"].as_u64(), "and it goes on: {now:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_posts_while_pipelines_are_reloaded_never_sees_an_error() {
    let mut sandbox = Sandbox::new();
    let base = counting_from("http: {path: /in}", "40 seconds");
    sandbox.pipeline("web", &base);
    sandbox.start().await;
    sandbox.running("web").await;
    let load = HttpLoad::start(&sandbox.url("/in"), KEYS, false);
    for count in 1..=8 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        // Half of the edits change the SQL, the others the source itself.
        let yaml = match count % 2 {
            0 => base.clone(),
            _ if count % 4 == 1 => base.replace("SELECT id, k FROM", &format!("SELECT id, k, {count} AS edit FROM")),
            _ => base.replace("path: /in", &format!("path: /in, requests_max: {}", 300 + count)),
        };
        sandbox.pipeline("web", &yaml);
        sandbox.status_until("web", "reloaded", |status| status["reloads"] == count).await;
    }
    let (sent, failures) = load.stop().await;
    assert!(
        failures.is_empty(),
        "{} requests failed, such as {:?}",
        failures.len(),
        &failures[..failures.len().min(3)]
    );
    assert!(sent > 1000, "{sent}");
    let ids = every_id(&mut sandbox, "rows.jsonl", sent).await;
    assert!(ids.values().all(|count| *count == 1), "rows came twice over clean reloads");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_appear_are_started_removed_ones_stopped_and_broken_ones_leave_what_runs() {
    let mut sandbox = Sandbox::new();
    sandbox.pipeline("aside", ASIDE);
    sandbox.start().await;
    let before = sandbox.running("aside").await;
    let other = ASIDE.replace("aside", "other");
    sandbox.pipeline("other", &other);
    sandbox.running("other").await;

    sandbox.pipeline("other", &other.replace("from: s", "from: nowhere"));
    let broken = |status: &Value| status["problems"].as_array().is_some_and(|problems| !problems.is_empty());
    let status = sandbox.status_until("other", "it has a problem", broken).await;
    assert!(status["problems"].to_string().contains("nowhere") && status["state"] == "running", "{status:#}");
    let rows = status["rows_out"]["o"].as_u64();
    sandbox.status_until("other", "it goes on", |status| status["rows_out"]["o"].as_u64() > rows).await;
    let (code, report) = sandbox.post("/v1/reload", "").await;
    assert_eq!(code, 422, "{report}");
    assert!(report.contains("nowhere") && report.contains("other.yaml"), "{report}");
    let address = format!("127.0.0.1:{}", sandbox.port);
    let (exit, stdout, stderr) = sandbox.run(&["reload", "--address", &address]);
    assert_eq!(exit.code(), Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("nowhere"), "{stdout}");

    sandbox.pipeline("other", &other);
    sandbox.status_until("other", "mended", |status| !broken(status)).await;
    let (exit, stdout, _) = sandbox.run(&["reload", "--address", &address]);
    assert_eq!(exit.code(), Some(0), "{stdout}");
    let nobody = format!("127.0.0.1:{}", free_port());
    assert_eq!(sandbox.run(&["reload", "--address", &nobody]).0.code(), Some(1));

    std::fs::remove_file(sandbox.yaml("other")).unwrap();
    sandbox.status_until("other", "gone", Value::is_null).await;
    let now = sandbox.status("aside").await;
    assert_eq!((&now["since"], &now["reloads"]), (&before["since"], &before["reloads"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_file_does_not_take_over_the_pipeline_that_runs_by_its_name() {
    let mut sandbox = Sandbox::new();
    let named = |output: &str| format!("name: one\n{}", ASIDE.replace("aside", output));
    sandbox.pipeline("one", &named("one"));
    sandbox.start().await;
    let before = sandbox.running("one").await;
    let address = format!("127.0.0.1:{}", sandbox.port);
    // Its path is before that of the file that runs; and there is one that has the name by its own.
    sandbox.pipeline("a_copy", &format!("# A copy.\n{}", named("two")));
    let (exit, stdout, stderr) = sandbox.run(&["reload", "--address", &address]);
    assert_eq!(exit.code(), Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("two pipelines are named `one`") && stdout.contains("a_copy.yaml"), "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let problem = &report["problems"][0];
    assert!(problem["file"].as_str().unwrap().ends_with("a_copy.yaml") && problem["line"] == 2, "{report:#}");
    assert_eq!((&report["reloaded"], &report["started"]), (&Value::Array(vec![]), &Value::Array(vec![])), "{report:#}");
    let now = sandbox.status("one").await;
    for untouched in ["since", "reloads", "restarts", "state", "file", "problems"] {
        assert_eq!(now[untouched], before[untouched], "{untouched}: {now:#}");
    }
    assert!(!sandbox.path("two.jsonl").exists());

    // An edit of the file that runs is taken, and when it goes, the copy takes over.
    sandbox.pipeline("one", &named("one").replace("50/s", "60/s"));
    sandbox.status_until("one", "reloaded", |status| status["reloads"] == 1).await;
    std::fs::remove_file(sandbox.yaml("one")).unwrap();
    let status = sandbox.status_until("one", "taken over", |status| status["reloads"] == 2).await;
    assert!(status["file"].as_str().unwrap().ends_with("a_copy.yaml"), "{status:#}");
    sandbox.status_until("one", "it writes", |status| status["rows_out"]["o"].as_u64() > Some(0)).await;
    assert!(sandbox.path("two.jsonl").exists());
    assert_eq!(sandbox.status("one").await["problems"], Value::Array(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_is_asked_for_fails_while_the_newest_plan_is_rolled_back() {
    let mut sandbox = Sandbox::new();
    std::fs::write(sandbox.path("taken.jsonl"), "{}\n").unwrap();
    sandbox.pipeline("aside", ASIDE);
    sandbox.start().await;
    sandbox.running("aside").await;
    let address = format!("127.0.0.1:{}", sandbox.port);
    let failing = ASIDE.replace("{path: ../aside.jsonl}", "{path: ../taken.jsonl, if_exists: fail}");
    assert_ne!(failing, ASIDE);
    // A sink of another name: one of the same name would bring its state along.
    let failing = failing.replace("{o: ", "{p: ");
    sandbox.pipeline("aside", &failing);
    for _ in 0..2 {
        let (exit, stdout, stderr) = sandbox.run(&["reload", "--address", &address]);
        assert_eq!(exit.code(), Some(1), "{stdout}{stderr}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        let reason = report["failed"]["aside"].as_str().unwrap_or_default();
        assert!(reason.contains("exists already") && reason.contains("the one before it runs"), "{report:#}");
        assert_eq!(report["reloaded"], Value::Array(vec![]), "{report:#}");
    }
    let status = sandbox.status("aside").await;
    assert!(status["rolled_back"].is_string() && status["state"] == "running", "{status:#}");

    // One that cannot be started at all is not said to be.
    sandbox.pipeline("new", &failing);
    let (exit, stdout, _) = sandbox.run(&["reload", "--address", &address]);
    assert_eq!(exit.code(), Some(1), "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert!(report["failed"]["new"].is_string() && report["started"] == Value::Array(vec![]), "{report:#}");
    std::fs::remove_file(sandbox.yaml("new")).unwrap();

    sandbox.pipeline("aside", ASIDE);
    let (exit, stdout, _) = sandbox.run(&["reload", "--address", &address]);
    assert_eq!(exit.code(), Some(0), "{stdout}");
    let status = sandbox.status("aside").await;
    assert!(status["rolled_back"].is_null(), "{status:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_that_is_swapped_and_a_hangup_are_noticed() {
    let mut sandbox = Sandbox::new();
    // As Kubernetes mounts it: files are links into `..data`, which is a link that is swapped.
    let folder = sandbox.path("pipelines");
    let version = |n: u32| {
        let name = format!("..2026_{n}");
        std::fs::create_dir(folder.join(&name)).unwrap();
        std::fs::write(folder.join(&name).join("map.yaml"), ASIDE.replace("50/s", &format!("{}/s", 50 + n))).unwrap();
        std::os::unix::fs::symlink(&name, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    version(0);
    std::os::unix::fs::symlink("..data/map.yaml", folder.join("map.yaml")).unwrap();
    sandbox.start().await;
    let status = sandbox.running("map").await;
    assert_eq!(status["reloads"], 0);
    version(1);
    sandbox.status_until("map", "reloaded after the swap", |status| status["reloads"] == 1).await;
    let (_, all) = sandbox.get("/v1/pipelines").await;
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all["pipelines"].as_array().map(Vec::len), Some(1), "the links' targets are no pipelines: {all:#}");

    // With a settle time of minutes only the signal can have been what made it look.
    let mut slow = Sandbox::with_arguments(&["--poll-files", "1h"]);
    slow.settle("10m");
    slow.pipeline("aside", ASIDE);
    slow.start().await;
    slow.running("aside").await;
    slow.pipeline("aside", &ASIDE.replace("50/s", "60/s"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(slow.status("aside").await["reloads"], 0);
    let pid = Pid::from_raw(slow.daemon().id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    slow.status_until("aside", "reloaded", |status| status["reloads"] == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_open_windows_do_not_survive_is_refused_until_the_revision_is_raised() {
    let kafka = kafka().await;
    kafka.create_topic("revise", 1).await;
    let mut sandbox = Sandbox::new();
    let base = counting(&kafka.brokers, "revise", "1 hour");
    sandbox.pipeline("revise", &base);
    sandbox.start().await;
    let load = KafkaLoad::start(&kafka.brokers, "revise", 500, KEYS);
    sandbox.status_until("revise", "epochs", |status| status["epochs"].as_u64() >= Some(2)).await;
    let changed = base.replace("sum(v) AS total", "sum(v) AS total, max(v) AS highest");
    sandbox.pipeline("revise", &changed);
    let refused = |status: &Value| status["refused"].is_string();
    let status = sandbox.status_until("revise", "refused", refused).await;
    let reason = status["refused"].as_str().unwrap();
    assert!(reason.contains("`sums`") && reason.contains("revision"), "{reason}");
    assert_eq!((&status["state"], &status["reloads"]), (&"running".into(), &0.into()), "{status:#}");
    let rows = status["rows_out"]["rows"].as_u64();
    sandbox.status_until("revise", "it goes on", |status| status["rows_out"]["rows"].as_u64() > rows).await;
    sandbox.pipeline("revise", &changed.replace("  sums:\n", "  sums:\n    revision: 1\n"));
    let status = sandbox.status_until("revise", "reloaded", |status| status["reloads"] == 1).await;
    assert!(!refused(&status), "{status:#}");
    let sent = load.stop().await;
    let ids = every_id(&mut sandbox, "rows.jsonl", sent).await;
    assert!(ids.values().all(|count| *count == 1));
    assert!(windows(&sandbox.lines("windows.jsonl"), true).is_empty(), "an hour has not passed");
}
