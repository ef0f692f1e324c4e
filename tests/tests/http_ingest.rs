//! HTTP in, HTTP and server-sent events out, through the daemon's one listener.

use std::time::Duration;

use futures::StreamExt as _;
use millstream_tests::collector::Collector;
use millstream_tests::sandbox::Sandbox;

fn pipeline(target: &str) -> String {
    format!(
        r#"
sources:
  readings:
    http: {{path: /readings, body_max: 2KiB, auth: {{bearer: "open sesame"}}}}
    columns: {{sensor: {{type: text, nullable: false}}, value: double}}
steps:
  warm: {{sql: "SELECT sensor, value * 2 AS doubled FROM readings WHERE value > 10"}}
sinks:
  web: {{from: warm, http: {{url: "{target}"}}}}
  live: {{from: warm, sse: {{path: /live}}}}
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_posted_comes_out_over_http_and_as_events_and_bad_requests_are_told_why() {
    let collector = Collector::start().await;
    let mut sandbox = Sandbox::new();
    sandbox.pipeline("web", &pipeline(&collector.url));
    sandbox.start().await;
    sandbox.running("web").await;
    let client = reqwest::Client::new();
    let url = sandbox.url("/readings");
    let post = async |token: Option<&str>, body: String| {
        let mut request = client.post(&url).header("content-type", "application/json").body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let live = client.get(sandbox.url("/live")).send().await.unwrap();
    assert_eq!(live.status().as_u16(), 200);
    let mut live = live.bytes_stream();

    let token = Some("open sesame");
    assert_eq!(post(token, r#"{"sensor": "a", "value": 21}"#.into()).await.0, 200);
    assert_eq!(post(token, r#"[{"sensor": "b", "value": 5}, {"sensor": "c", "value": 11.5}]"#.into()).await.0, 200);
    assert_eq!(post(None, r#"{"sensor": "x", "value": 99}"#.into()).await.0, 401);
    assert_eq!(post(Some("guess"), r#"{"sensor": "x", "value": 99}"#.into()).await.0, 401);
    let (status, reason) = post(token, r#"{"sensor": "x", "#.into()).await;
    assert_eq!(status, 400, "{reason}");
    assert!(!reason.is_empty());
    let (status, reason) = post(token, format!(r#"{{"sensor": "{}"}}"#, "x".repeat(3000))).await;
    assert_eq!(status, 413, "{reason}");
    let answer = client.get(sandbox.url("/readings")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 405);
    assert_eq!(sandbox.get("/nothing").await.0, 404);

    let two = async || {
        let lines = collector.lines();
        if lines.len() >= 2 { Ok(lines) } else { Err(format!("{lines:?}")) }
    };
    let mut lines = sandbox.until("both rows come", two).await;
    lines.sort();
    assert_eq!(lines, [r#"{"sensor":"a","doubled":42.0}"#, r#"{"sensor":"c","doubled":23.0}"#]);
    let mut events = String::new();
    while !(events.contains(r#""sensor":"a""#) && events.contains(r#""sensor":"c""#)) {
        let next = tokio::time::timeout(Duration::from_secs(10), live.next()).await;
        let Ok(Some(Ok(next))) = next else { panic!("the events end after {events}") };
        events.push_str(&String::from_utf8_lossy(&next));
    }
    assert!(events.contains("data:"), "{events}");
    assert!(!events.contains(r#""sensor":"x""#) && !events.contains(r#""sensor":"b""#), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pipelines_with_one_path_the_second_says_who_has_it_and_takes_it_over_when_it_is_free() {
    let pipeline = |out: &str| {
        format!(
            "sources: {{s: {{http: {{path: /shared}}, columns: {{n: bigint}}}}}}\n\
             sinks: {{o: {{from: s, file: {{path: ../{out}.jsonl}}}}}}\n\
             restart: {{initial: 100ms, max: 300ms}}\n"
        )
    };
    let mut sandbox = Sandbox::new();
    sandbox.pipeline("first", &pipeline("first"));
    sandbox.start().await;
    sandbox.running("first").await;
    sandbox.pipeline("second", &pipeline("second"));
    let clash = sandbox
        .status_until("second", "it says that the path is taken", |status| {
            let text = status.to_string();
            text.contains("/shared") && text.contains("first")
        })
        .await;
    assert_ne!(clash["state"], "running", "{clash:#}");
    assert_eq!(sandbox.post("/shared", r#"{"n": 1}"#).await.0, 200);
    std::fs::remove_file(sandbox.yaml("first")).unwrap();
    sandbox.running("second").await;
    assert_eq!(sandbox.post("/shared", r#"{"n": 2}"#).await.0, 200);
    let file = sandbox.path("second.jsonl");
    let moved = async || match std::fs::read_to_string(&file).unwrap_or_default().as_str() {
        "{\"n\":2}\n" => Ok(()),
        other => Err(other.to_owned()),
    };
    sandbox.until("the row of the second", moved).await;
    assert_eq!(sandbox.lines("first.jsonl").len(), 1);
}
