//! The HTTP source on a real listener: every answer, durability, limits, reload, and hostile requests.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::source::HttpSource;
use super::source_config::HttpSourceConfig;
use super::testing::{TestLog, listen, source_context, text};
use crate::error::{ConnectorError, ErrorKind};
use crate::ingest::{IngestConfig, IngestError, IngestLog, MetadataValue, ReaderOptions};
use crate::position::Positions;
use crate::routes::Routes;
use crate::source::SourceEvent;

fn config(json: serde_json::Value) -> HttpSourceConfig {
    serde_json::from_value(json).unwrap()
}

struct Running {
    routes: Arc<Routes>,
    url: String,
    address: SocketAddr,
    log: Arc<TestLog>,
    stop: CancellationToken,
    run: JoinHandle<Result<(), ConnectorError>>,
    client: reqwest::Client,
}

impl Running {
    async fn start(options: serde_json::Value) -> Self {
        let routes = Arc::new(Routes::default());
        let address = listen(routes.clone()).await;
        let log = TestLog::new();
        let (stop, run) = run(options, &routes, &log).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { routes, url: format!("http://{address}/in"), address, log, stop, run, client }
    }

    async fn post(&self, content_type: &str, body: impl Into<reqwest::Body>) -> (u16, serde_json::Value) {
        let request = self.client.post(&self.url).header("content-type", content_type).body(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), serde_json::from_str(&response.text().await.unwrap()).unwrap())
    }

    async fn raw(&self, request: &str) -> String {
        let mut connection = tokio::net::TcpStream::connect(self.address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

async fn run(
    mut options: serde_json::Value,
    routes: &Arc<Routes>,
    log: &Arc<TestLog>,
) -> (CancellationToken, JoinHandle<Result<(), ConnectorError>>) {
    options["path"] = "/in".into();
    let context = source_context(routes.clone(), &["headers"]);
    config(options.clone()).build(&context).unwrap();
    let source = HttpSource::new(config(options), "/in".into(), &context).unwrap();
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let (log, stop) = (log.clone(), stop.clone());
        async move { source.serve(log, stop).await }
    });
    while !routes.is_claimed("/in") {
        tokio::task::yield_now().await;
    }
    (stop, run)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[tokio::test]
async fn bodies_become_messages_by_their_content_type() {
    let source = Running::start(serde_json::json!({})).await;
    for (content_type, body, count) in [
        ("application/x-ndjson", "{\"a\":1}\n{\"a\":2}\n", 2),
        ("application/json", "[{\"a\":3}, {\"a\":4}]", 2),
        ("application/json", "{\"a\":5}", 1),
        ("text/csv", "a\n6\n", 1),
        ("application/json", "[]", 0),
    ] {
        assert_eq!(source.post(content_type, body).await, (200, serde_json::json!({ "accepted": count })), "{body}");
    }
    let expected = ["{\"a\":1}", "{\"a\":2}", "{\"a\":3}", "{\"a\":4}", "{\"a\":5}", "a\n6\n"];
    assert_eq!(source.log.payloads(), expected);
}

#[tokio::test]
async fn yes_is_said_only_once_the_messages_are_durable() {
    let source = Arc::new(Running::start(serde_json::json!({})).await);
    source.log.set_durable(false);
    let request = tokio::spawn({
        let source = source.clone();
        async move { source.post("application/json", "{}").await.0 }
    });
    source.log.appended.notified().await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!request.is_finished());
    source.log.set_durable(true);
    assert_eq!(request.await.unwrap(), 200);
}

#[tokio::test]
async fn by_choice_yes_is_said_before_the_messages_are_durable() {
    let source = Running::start(serde_json::json!({ "respond": "accepted" })).await;
    source.log.set_durable(false);
    assert_eq!(source.post("application/json", "{}").await, (202, serde_json::json!({ "accepted": 1 })));
}

#[tokio::test]
async fn packed_bodies_are_unpacked_and_bombs_are_not() {
    let source = Running::start(serde_json::json!({ "unpacked_max": "1MiB" })).await;
    let send = async |encoding: &str, body: Vec<u8>| {
        let request = source.client.post(&source.url).header("content-encoding", encoding).body(body);
        let response = request.header("content-type", "application/x-ndjson").send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(send("gzip", gzip(b"1\n2")).await.0, 200);
    assert_eq!(send("zstd", zstd::encode_all(&b"3"[..], 3).unwrap()).await.0, 200);
    assert_eq!(source.log.payloads(), ["1", "2", "3"]);
    let zeros = vec![b'0'; 64 << 20];
    for (encoding, bomb) in [("gzip", gzip(&zeros)), ("zstd", zstd::encode_all(&zeros[..], 3).unwrap())] {
        assert!(bomb.len() < 100_000);
        let (status, answer) = send(encoding, bomb).await;
        assert_eq!(status, 413);
        assert!(answer.contains("unpacked_max"), "{answer}");
    }
    let mut torn = gzip(b"{}");
    torn.truncate(torn.len() - 4);
    assert_eq!(send("gzip", torn).await.0, 400);
    assert_eq!(send("br", b"{}".to_vec()).await.0, 415);
    assert_eq!(source.log.payloads().len(), 3);
}

#[tokio::test]
async fn a_bad_body_is_refused_with_the_reason() {
    let source = Running::start(serde_json::json!({ "messages_max": 3 })).await;
    for (content_type, body, status, reason) in [
        ("application/json", "{\"a\":", 400, "line 1 column 5"),
        ("application/json", "[1,2", 400, "not one JSON array"),
        ("application/json", "[1,2,3,4]", 413, "messages_max"),
    ] {
        let (got, answer) = source.post(content_type, body).await;
        assert_eq!(got, status, "{body}");
        assert!(answer["error"].as_str().unwrap().contains(reason), "{answer}");
    }
    let empty = source.raw("POST /in HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    assert!(empty.starts_with("HTTP/1.1 400 ") && empty.contains("the body is empty"), "{empty}");
    assert!(source.log.messages().is_empty());
}

#[tokio::test]
async fn too_large_a_body_is_refused_whether_announced_or_not() {
    let source = Running::start(serde_json::json!({ "body_max": "1KiB" })).await;
    assert_eq!(source.post("text/plain", "x".repeat(1024)).await.0, 200);
    assert_eq!(source.post("text/plain", "x".repeat(1025)).await.0, 413);
    let chunks = futures::stream::iter((0..3).map(|_| Ok::<_, std::io::Error>("x".repeat(400))));
    assert_eq!(source.post("text/plain", reqwest::Body::wrap_stream(chunks)).await.0, 413);
    let none = source.raw("POST /in HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(none.starts_with("HTTP/1.1 411 "), "{none}");
}

#[tokio::test]
async fn a_body_in_pieces_arrives_whole() {
    let source = Running::start(serde_json::json!({})).await;
    let pieces = ["{\"a", "\":1}\n{", "\"b\":2", "}"].map(|piece| Ok::<_, std::io::Error>(piece.to_owned()));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    assert_eq!(source.post("application/x-ndjson", body).await.0, 200);
    assert_eq!(source.log.payloads(), ["{\"a\":1}", "{\"b\":2}"]);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let source = Running::start(serde_json::json!({ "body_timeout": "50ms" })).await;
    let answer = source.raw("POST /in HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(source.log.messages().is_empty());
}

#[tokio::test]
async fn other_methods_are_refused_with_those_that_are_taken() {
    let source = Running::start(serde_json::json!({ "methods": ["POST", "PUT"] })).await;
    let response = source.client.get(&source.url).send().await.unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "POST, PUT, OPTIONS");
    assert_eq!(source.client.put(&source.url).body("x").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn strangers_are_refused_before_their_body_is_read() {
    let source = Running::start(serde_json::json!({ "auth": { "bearer": "s3cret" } })).await;
    // The body never comes, and the answer does not wait for it.
    let head = "POST /in HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
    let answer = tokio::time::timeout(Duration::from_secs(5), source.raw(head)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.to_lowercase().contains("www-authenticate: bearer realm="), "{answer}");
    let send =
        async |token: &str| source.client.post(&source.url).bearer_auth(token).body("x").send().await.unwrap().status();
    assert_eq!(send("wrong").await, 401);
    assert_eq!(send("s3cret").await, 200);
}

#[tokio::test]
async fn a_wrong_signature_is_forbidden() {
    let auth = serde_json::json!({ "hmac": { "header": "X-Sig", "secret": "It's a Secret to Everybody", "prefix": "sha256=" } });
    let source = Running::start(serde_json::json!({ "auth": auth })).await;
    let send = async |body: &'static str| {
        let right = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        source.client.post(&source.url).header("x-sig", right).body(body).send().await.unwrap().status()
    };
    assert_eq!(send("Hello, World!").await, 200);
    assert_eq!(send("Hello, World?").await, 403);
    assert_eq!(source.client.post(&source.url).body("x").send().await.unwrap().status(), 401);
    let Some((_, MetadataValue::Pairs(headers))) = source.log.messages()[0].metadata.last().cloned() else { panic!() };
    assert!(!headers.iter().any(|(name, _)| name == "x-sig"), "{headers:?}");
}

#[tokio::test]
async fn a_full_log_is_answered_with_come_back_later() {
    let source = Running::start(serde_json::json!({})).await;
    source.log.fail(Some(IngestError::Full));
    let response = source.client.post(&source.url).body("x").send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "5"));
    source.log.fail(None);
    assert_eq!(source.post("text/plain", "x").await.0, 200);
}

#[tokio::test]
async fn a_broken_log_ends_the_run() {
    let source = Running::start(serde_json::json!({})).await;
    source.log.fail(Some(IngestError::Failed("no disk".into())));
    assert_eq!(source.post("text/plain", "x").await.0, 503);
    assert_eq!(source.run.await.unwrap().unwrap_err().kind, ErrorKind::Fatal);
}

#[tokio::test]
async fn more_than_the_log_takes_at_once_is_too_large() {
    let source = Running::start(serde_json::json!({})).await;
    source.log.fail(Some(IngestError::TooLarge { bytes: 9, max: 8 }));
    let (status, answer) = source.post("text/plain", "x").await;
    assert_eq!(status, 413);
    assert!(answer["error"].as_str().unwrap().contains("ingest.max_bytes"), "{answer}");
}

#[tokio::test]
async fn what_was_answered_with_yes_is_read_back_from_the_log_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let routes = Arc::new(Routes::default());
    let address = listen(routes.clone()).await;
    let log = IngestLog::open(folder.path(), &IngestConfig::default()).unwrap();
    let mut source = config(serde_json::json!({})).build(&source_context(routes.clone(), &["headers"])).unwrap();
    let (stop, writer) = (CancellationToken::new(), log.writer());
    let run = tokio::spawn({
        let stop = stop.clone();
        async move { source.run(writer, stop).await }
    });
    while !routes.is_claimed("/ingest/p/s") {
        tokio::task::yield_now().await;
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request =
        client.post(format!("http://{address}/ingest/p/s?a=1")).header("content-type", "application/x-ndjson");
    assert_eq!(request.body("{\"a\":1}\n{\"a\":2}\n").send().await.unwrap().status(), 200);
    stop.cancel();
    run.await.unwrap().unwrap();
    drop(log);

    let log = IngestLog::open(folder.path(), &IngestConfig::default()).unwrap();
    let fields = super::METADATA.clone();
    let mut reader = log.reader(ReaderOptions { fields, batch_rows_max: 10, batch_bytes_max: 1000 });
    reader.open(&Positions::default()).await.unwrap();
    let batch = loop {
        if let SourceEvent::Messages(batch) = reader.next().await.unwrap() {
            break batch;
        }
    };
    assert_eq!(batch.payloads.iter().flatten().collect::<Vec<_>>(), [b"{\"a\":1}", b"{\"a\":2}"]);
    for (array, field) in batch.metadata.iter().zip(super::METADATA.iter()) {
        assert_eq!((array.data_type(), array.null_count()), (&field.data_type, 0), "{}", field.name);
    }
}

#[tokio::test]
async fn one_request_more_than_allowed_is_sent_away() {
    let source = Arc::new(Running::start(serde_json::json!({ "requests_max": 1 })).await);
    source.log.set_durable(false);
    let first = tokio::spawn({
        let source = source.clone();
        async move { source.post("text/plain", "one").await.0 }
    });
    source.log.appended.notified().await;
    let second = source.client.post(&source.url).body("two").send().await.unwrap();
    assert_eq!((second.status().as_u16(), second.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    source.log.set_durable(true);
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(source.post("text/plain", "three").await.0, 200);
}

#[tokio::test]
async fn requests_under_way_are_answered_before_the_source_ends_and_new_ones_by_its_successor() {
    let source = Arc::new(Running::start(serde_json::json!({})).await);
    source.log.set_durable(false);
    let post = |body: &'static str| {
        let source = source.clone();
        tokio::spawn(async move { source.post("text/plain", body).await.0 })
    };
    let first = post("first");
    source.log.appended.notified().await;
    source.stop.cancel();
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!source.run.is_finished());
    let during = post("during");
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!during.is_finished());
    source.log.set_durable(true);
    assert_eq!(first.await.unwrap(), 200);
    let (_stop, _run) = run(serde_json::json!({}), &source.routes, &source.log).await;
    assert_eq!(during.await.unwrap(), 200);
    assert_eq!(source.log.payloads(), ["first", "during"]);
    let mut source = Arc::into_inner(source).unwrap();
    (&mut source.run).await.unwrap().unwrap();
}

#[tokio::test]
async fn browsers_are_told_which_pages_may_send() {
    let source = Running::start(serde_json::json!({ "cors": { "origins": ["https://app.example"] } })).await;
    let preflight = source.client.request(http::Method::OPTIONS, &source.url);
    let preflight = preflight.header("origin", "https://app.example").header("access-control-request-method", "POST");
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://app.example");
    assert_eq!(answer.headers()["access-control-allow-methods"], "POST");
    assert!(answer.headers()["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    // A page may read an error, too.
    let wrong = source.client.post(&source.url).header("origin", "https://app.example");
    let wrong = wrong.header("content-type", "application/json").body("{").send().await.unwrap();
    assert_eq!((wrong.status().as_u16(), wrong.headers().contains_key("access-control-allow-origin")), (400, true));
    let other =
        source.client.post(&source.url).header("origin", "https://evil.example").body("x").send().await.unwrap();
    assert!(!other.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn what_the_request_says_becomes_metadata_without_its_secrets() {
    let source = Running::start(serde_json::json!({})).await;
    let request = source.client.post(format!("{}?device=7&x=%20", source.url)).bearer_auth("s3cret");
    request.header("x-device", "7").header("cookie", "id=1").body("x").send().await.unwrap();
    let message = source.log.messages().remove(0);
    let field = |name: &str| message.metadata.iter().find(|(field, _)| *field == name).unwrap().1.clone();
    assert_eq!(field("path"), MetadataValue::Text("/in".into()));
    assert_eq!(field("query"), MetadataValue::Text("device=7&x=%20".into()));
    assert_eq!(field("method"), MetadataValue::Text("POST".into()));
    assert!(matches!(field("remote_addr"), MetadataValue::Text(address) if address.starts_with("127.0.0.1:")));
    assert!(
        matches!(field("received_at"), MetadataValue::Timestamp(at) if (1_600_000_000_000_000..9_000_000_000_000_000).contains(&at))
    );
    let MetadataValue::Pairs(headers) = field("headers") else { panic!() };
    assert!(headers.contains(&("x-device".into(), "7".into())), "{headers:?}");
    assert!(!headers.iter().any(|(name, _)| name == "authorization" || name == "cookie"), "{headers:?}");
    let known: Vec<_> = super::METADATA.iter().map(|field| field.name).collect();
    assert!(message.metadata.iter().all(|(name, _)| known.contains(name)));
}

#[test]
fn options_that_cannot_work_are_refused_by_name() {
    let context = source_context(Arc::new(Routes::default()), &[]);
    for (options, option) in [
        (serde_json::json!({ "path": "in" }), "path"),
        (serde_json::json!({ "ingest": { "max_bytes": "1B" } }), "ingest.max_bytes"),
        (serde_json::json!({ "methods": [] }), "methods"),
        (serde_json::json!({ "requests_max": 0 }), "requests_max"),
        (serde_json::json!({ "messages_max": 1_000_001 }), "messages_max"),
        (serde_json::json!({ "body_max": "0B" }), "body_max"),
        (serde_json::json!({ "buffer_max": "1MiB" }), "buffer_max"),
        (serde_json::json!({ "body_timeout": "0s" }), "body_timeout"),
        (serde_json::json!({ "cors": { "origins": [] } }), "cors.origins"),
        (serde_json::json!({ "auth": { "hmac": { "header": "a b", "secret": "x" } } }), "auth.hmac.header"),
    ] {
        let error = config(options.clone()).build(&context).err().unwrap();
        assert_eq!((error.kind, error.option.as_deref()), (ErrorKind::Configuration, Some(option)), "{options}");
    }
    assert!(serde_json::from_value::<HttpSourceConfig>(serde_json::json!({ "pth": "/in" })).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_request_breaks_the_source(
        body: Vec<u8>,
        method in prop::sample::select(vec!["POST", "PUT", "GET", "OPTIONS", "BREW"]),
        content_type in prop::sample::select(vec!["application/json", "application/x-ndjson", "text/csv", "", ";;", "\u{e9}"]),
        encoding in prop::sample::select(vec!["", "gzip", "zstd", "gzip,zstd", "br"]),
        length in prop::option::of("[0-9a-z-]{0,25}"),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let status = runtime.block_on(async {
            let (routes, log) = (Arc::new(Routes::default()), TestLog::new());
            let (_stop, _run) = run(serde_json::json!({ "body_max": "64B", "unpacked_max": "1KiB" }), &routes, &log).await;
            let mut request = Request::builder().method(method).uri("/in?%").header("content-type", content_type.as_bytes());
            request = request.header("content-encoding", encoding);
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            let handler = routes.find("/in").await.unwrap();
            let response = handler(request.body(Body::from(body)).unwrap()).await;
            let status = response.status();
            let answer = text(response).await;
            assert!(answer.is_empty() || serde_json::from_str::<serde_json::Value>(&answer).is_ok());
            status
        });
        prop_assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
