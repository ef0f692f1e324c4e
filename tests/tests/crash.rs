//! The daemon is killed at any moment, under load, and started again: every row that was acknowledged comes out, and the
//! windows that were open are exact.

use std::time::Duration;

use millstream_tests::load::{HttpLoad, KafkaLoad, MqttLoad};
use millstream_tests::sandbox::Sandbox;
use millstream_tests::services::{kafka, mqtt};

use crate::accounts::{counting, counting_from, every_id, exact_windows};

const KEYS: u64 = 12;

/// Kills and starts the daemon several times, after pauses without a pattern to them.
async fn kill_again_and_again(sandbox: &mut Sandbox) {
    // Early kills find the daemon in the middle of its start.
    for pause in [700, 90, 1310, 20, 530, 270] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        sandbox.kill9();
        sandbox.start().await;
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_rows_survive_kills_once_each_in_a_file_and_windows_are_exact() {
    let kafka = kafka().await;
    kafka.create_topic("crash", 3).await;
    let mut sandbox = Sandbox::new();
    // Without a name that stays the same, the group would wait for each killed member until its session has expired.
    let yaml = counting(&kafka.brokers, "crash", "1 minute");
    sandbox.pipeline("crash", &yaml.replace("topics: crash", "topics: crash, group_instance_id: crash"));
    sandbox.start().await;
    let load = KafkaLoad::start(&kafka.brokers, "crash", 2000, KEYS);
    kill_again_and_again(&mut sandbox).await;
    let sent = load.stop().await;
    let ids = every_id(&mut sandbox, "rows.jsonl", sent).await;
    // The file is cut back to its snapshot, so that it holds every row once.
    let twice = ids.values().filter(|count| **count > 1).count();
    assert_eq!(twice, 0, "{twice} of {sent} rows are in the file twice");
    exact_windows(&mut sandbox, "windows.jsonl", sent, KEYS, 60, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_http_acknowledged_survives_kills_and_a_torn_end_of_the_log() {
    let mut sandbox = Sandbox::new();
    sandbox.pipeline("crash", &counting_from("http: {path: /in}", "10 seconds"));
    sandbox.start().await;
    sandbox.running("crash").await;
    let load = HttpLoad::start(&sandbox.url("/in"), KEYS, true);
    kill_again_and_again(&mut sandbox).await;
    sandbox.kill9();
    // Power went in the middle of a write: the newest segment ends in half a frame.
    let folder = sandbox.path("data/crash/ingest");
    let newest = newest_file(&folder).unwrap_or_else(|| panic!("no segment in {}", folder.display()));
    let mut segment = std::fs::OpenOptions::new().append(true).open(&newest).unwrap();
    std::io::Write::write_all(&mut segment, &[0x40, 0, 0, 0, 1, 2, 3, 4, 5]).unwrap();
    drop(segment);
    sandbox.start().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (sent, _) = load.stop().await;
    // A request that was cut off is sent again by its client, so an id may come more often.
    let path = sandbox.path("rows.jsonl");
    let present = async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let rows: Vec<_> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        crate::accounts::missing(&crate::accounts::ids(&rows), sent)
    };
    sandbox.until("all that was acknowledged comes out", present).await;
    assert!(sent > 500, "{sent}");
}

fn newest_file(folder: &std::path::Path) -> Option<std::path::PathBuf> {
    let mut found: Vec<std::path::PathBuf> = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).ok()? {
            let path = entry.ok()?.path();
            let is_lock = path.file_name().is_some_and(|name| name.to_string_lossy().contains("lock"));
            match path.is_dir() {
                true => folders.push(path),
                false if !is_lock => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found.pop()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mqtt_acknowledged_survives_kills() {
    let mqtt = mqtt().await;
    let mut sandbox = Sandbox::new();
    let source = format!(r#"mqtt: {{url: "{}", topics: ["crash/#"]}}"#, mqtt.url());
    sandbox.pipeline("crash-mqtt", &counting_from(&source, "10 seconds"));
    sandbox.start().await;
    sandbox.daemon().wait_for_output("subscribed").await;
    let load = MqttLoad::start(&format!("{}:{}", mqtt.host, mqtt.port), "crash/rows", KEYS);
    kill_again_and_again(&mut sandbox).await;
    let (sent, _) = load.stop().await;
    let path = sandbox.path("rows.jsonl");
    let present = async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let rows: Vec<_> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        crate::accounts::missing(&crate::accounts::ids(&rows), sent)
    };
    sandbox.until("all that the broker acknowledged comes out", present).await;
    assert!(sent > 1000, "{sent}");
}
