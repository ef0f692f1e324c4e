//! The pipelines that the daemon runs.

use serde_json::{Value, json};

/// How far the watermark is behind the newest row, in milliseconds.
pub(crate) const WATERMARK_MS: u64 = 1_000;

/// Work (a).
pub(crate) const FILTER: &str = "SELECT ts, device, temp FROM readings WHERE temp > 25";
/// Work (b).
pub(crate) const WINDOWS: &str = "SELECT device, window_start, avg(temp) AS avg_temp, max(temp) AS max_temp, count(*) AS readings \
     FROM TUMBLE(readings, ts, INTERVAL '10 seconds') GROUP BY device, window_start, window_end";
/// Work (c).
pub(crate) const ROLLING: &str = "SELECT ts, device, avg(temp) OVER (PARTITION BY device ORDER BY ts \
     ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS avg_temp FROM readings";
/// Lets every row through, with the number by which it is known.
pub(crate) const NUMBERED: &str = "SELECT seq, ts, device, temp FROM readings WHERE temp > -1000";

/// A pipeline `name` of one source, one step and one sink, with all nine columns declared.
pub(crate) fn pipeline(name: &str, source: &Value, sql: &str, sink: &Value) -> Value {
    let mut readings = json!({
        "columns": {
            "ts": {"type": "timestamp", "unit": "ms"},
            "device": "text",
            "site": "text",
            "temp": "double",
            "humidity": "double",
            "pressure": "double",
            "seq": "bigint",
            "status": "text",
            "fw": "text",
        },
        "event_time": {"column": "ts", "watermark": format!("{WATERMARK_MS}ms")},
    });
    let mut out = json!({"from": "work"});
    put(&mut readings, source);
    put(&mut out, sink);
    json!({"name": name, "sources": {"readings": readings}, "steps": {"work": {"sql": sql}}, "sinks": {"out": out}})
}

fn put(into: &mut Value, connector: &Value) {
    for (name, options) in connector.as_object().into_iter().flatten() {
        into[name.as_str()] = options.clone();
    }
}

/// Reads topics from their beginning.
pub(crate) fn kafka_source(brokers: &str, topics: &[String]) -> Value {
    json!({"kafka": {"brokers": brokers, "topics": topics, "start_offset": "earliest"}})
}

/// Writes to a topic.
pub(crate) fn kafka_sink(brokers: &str, topic: &str) -> Value {
    json!({"kafka": {"brokers": brokers, "topic": topic}})
}

/// Subscribes with QoS 1.
pub(crate) fn mqtt_source(host: &str, port: u16, filter: &str) -> Value {
    json!({"mqtt": {"url": format!("mqtt://{host}:{port}"), "topics": [filter], "qos": 1}})
}

/// Posts to a server, rows in lines.
pub(crate) fn http_sink(url: &str) -> Value {
    json!({"http": {"url": url}})
}
