//! The live view on a real listener, with a real HTTP client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;

use super::hub::Hub;
use super::{SseConfig, SseSink};
use crate::http::testing::{TestEncoder, listen, numbered, rows, sink_context};
use crate::routes::Routes;
use crate::sink::Sink;

struct Live {
    sink: SseSink,
    url: String,
    client: reqwest::Client,
}

async fn live(options: serde_json::Value) -> Live {
    let routes = Arc::new(Routes::default());
    let address = listen(routes.clone()).await;
    let config: SseConfig = serde_json::from_value(options).unwrap();
    let mut sink = SseSink::new(&config, &sink_context(routes), Box::new(TestEncoder)).unwrap();
    sink.open(None).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    Live { sink, url: format!("http://{address}/live/p/k"), client }
}

/// One who looks, and reads as far as a text.
struct Viewer {
    response: reqwest::Response,
    text: String,
}

impl Live {
    async fn view(&self, last_seen: Option<&str>) -> Viewer {
        let mut request = self.client.get(&self.url);
        if let Some(id) = last_seen {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Viewer { response, text: String::new() }
    }
}

impl Viewer {
    async fn until(&mut self, text: &str) -> &str {
        let read = async {
            while !self.text.contains(text) {
                let chunk = self.response.chunk().await.unwrap();
                self.text.push_str(std::str::from_utf8(&chunk.expect("the stream ended")).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("the text did not come");
        &self.text
    }

    fn ids(&self) -> Vec<u64> {
        self.text.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().unwrap()).collect()
    }
}

#[tokio::test]
async fn rows_come_as_events_the_last_ones_first() {
    let mut live = live(json!({ "replay": 2 })).await;
    live.sink.write(&numbered(0..5)).await.unwrap();
    let mut viewer = live.view(None).await;
    viewer.until("id: 5\nevent: row\ndata: {\"id\":4,\"name\":\"x\"}\n\n").await;
    assert_eq!(viewer.ids(), [4, 5]);
    live.sink.write(&rows(&[(7, Some("a\nb"))])).await.unwrap();
    viewer.until("id: 6\nevent: row\ndata: {\"id\":7,\"name\":\"a\\nb\"}\n\n").await;
    assert_eq!(viewer.ids(), [4, 5, 6]);
}

#[tokio::test]
async fn who_comes_back_gets_what_it_missed_and_is_told_what_is_gone() {
    let mut live = live(json!({ "replay": 3 })).await;
    live.sink.write(&numbered(0..10)).await.unwrap();
    let mut viewer = live.view(Some("9")).await;
    viewer.until("id: 10\n").await;
    assert_eq!(viewer.ids(), [10]);
    let mut late = live.view(Some("2")).await;
    assert!(late.until("id: 10\n").await.contains(": skipped 5 rows"));
    assert!(late.text.contains("event: skipped\ndata: 5\n"), "{}", late.text);
    assert_eq!(late.ids(), [8, 9, 10]);
    // A number from another life of the sink, or no number at all.
    for odd in ["4000", "18446744073709551615", "-1", "x"] {
        let mut viewer = live.view(Some(odd)).await;
        viewer.until("id: 10\n").await;
        assert_eq!(viewer.ids(), [8, 9, 10], "{odd}");
    }
}

#[tokio::test]
async fn numbers_go_on_after_a_restart() {
    let mut live = live(json!({})).await;
    live.sink.write(&numbered(0..3)).await.unwrap();
    let state = live.sink.flush().await.unwrap().state.unwrap();
    live.sink.close().await.unwrap();
    live.sink =
        SseSink::new(&SseConfig::default(), &sink_context(live.sink.routes.clone()), Box::new(TestEncoder)).unwrap();
    live.sink.open(Some(&state)).await.unwrap();
    live.sink.write(&numbered(3..4)).await.unwrap();
    live.view(Some("3")).await.until("id: 4\nevent: row\ndata: {\"id\":3,").await;
}

#[tokio::test]
async fn a_reload_ends_the_streams_so_that_clients_come_back() {
    let mut live = live(json!({})).await;
    let mut viewer = live.view(None).await;
    viewer.until("retry: 1000\n\n").await;
    live.sink.close().await.unwrap();
    assert!(viewer.response.chunk().await.unwrap().is_none());
}

#[tokio::test]
async fn a_slow_client_skips_rows_and_never_holds_the_pipeline_back() {
    let hub = Arc::new(Hub::new(0, 10, Duration::from_secs(60)));
    let mut slow = Box::pin(hub.subscribe(None).unwrap());
    let row = Bytes::from(vec![b'x'; 70 << 10]);
    // More chunks than are kept, while nobody reads.
    hub.publish(0, (0..1000).map(|_| row.clone()));
    let (mut ids, mut told, mut last) = (0, false, false);
    while !last {
        let events = slow.next().await.unwrap().unwrap();
        let text = std::str::from_utf8(&events).unwrap();
        ids += text.lines().filter(|line| line.starts_with("id: ")).count();
        told |= text.contains(": skipped 744 rows");
        last = text.contains("id: 1000\n");
    }
    assert_eq!((ids, told), (256, true));
    assert_eq!(hub.end(), 744);
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn connections_without_rows_are_kept_alive() {
    let live = live(json!({ "keep_alive": "10ms" })).await;
    live.view(None).await.until(": keep-alive\n\n: keep-alive\n\n").await;
}

#[tokio::test]
async fn one_client_more_than_allowed_is_sent_away_until_a_place_is_free() {
    let live = live(json!({ "clients_max": 1, "keep_alive": "5ms" })).await;
    let mut first = live.view(None).await;
    first.until("retry").await;
    let second = live.client.get(&live.url).send().await.unwrap();
    assert_eq!((second.status().as_u16(), second.headers().contains_key("retry-after")), (503, true));
    drop(first);
    let freed = async {
        while live.client.get(&live.url).send().await.unwrap().status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), freed).await.unwrap();
}

#[tokio::test]
async fn a_browser_gets_a_page_that_needs_nothing_else() {
    let live = live(json!({ "cors": { "origins": ["*"] } })).await;
    let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let page = live.client.get(&live.url).header("accept", accept).send().await.unwrap();
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers()["access-control-allow-origin"], "*");
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let html = page.text().await.unwrap();
    assert!(html.contains("new EventSource(location.pathname"));
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("innerHTML"));
}

#[tokio::test]
async fn only_who_may_look_can_look_and_nobody_can_send() {
    let live = live(json!({ "auth": { "basic": { "username": "ann", "password": "pw" } } })).await;
    let stranger = live.client.get(&live.url).send().await.unwrap();
    assert_eq!(stranger.status(), 401);
    assert!(stranger.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic "));
    let ann = live.client.get(&live.url).basic_auth("ann", Some("pw")).send().await.unwrap();
    assert_eq!(ann.status(), 200);
    let post = live.client.post(&live.url).send().await.unwrap();
    assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD, OPTIONS"));
    assert_eq!(live.client.head(&live.url).basic_auth("ann", Some("pw")).send().await.unwrap().status(), 200);
}

#[test]
fn options_that_cannot_work_are_refused_by_name() {
    for (options, option) in [
        (json!({ "path": "live" }), "path"),
        (json!({ "replay": 10_001 }), "replay"),
        (json!({ "clients_max": 0 }), "clients_max"),
        (json!({ "keep_alive": "0s" }), "keep_alive"),
        (json!({ "cors": { "origins": ["nowhere"] } }), "cors.origins"),
    ] {
        let config: SseConfig = serde_json::from_value(options.clone()).unwrap();
        let sink = SseSink::new(&config, &sink_context(Arc::new(Routes::default())), Box::new(TestEncoder));
        assert_eq!(sink.err().unwrap().option.as_deref(), Some(option), "{options}");
    }
}
