//! The HTTP sink against a real server: bodies, batches, retries, refusals, order, options.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use bytes::Bytes;
use http::Response;
use http::request::Parts;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::sink::HttpSink;
use super::sink_config::HttpSinkConfig;
use super::testing::{TestEncoder, numbered, rows, serve, sink_context};
use crate::error::{ConnectorError, ErrorKind};
use crate::routes::Routes;
use crate::sink::Sink;

type Answer = Response<axum::body::Body>;
type Script = Box<dyn Fn(&Parts, &Bytes) -> Answer + Send + Sync>;

/// A server that keeps what it is sent and answers by `script`.
struct Server {
    url: String,
    state: Arc<ServerState>,
}

struct ServerState {
    requests: Mutex<Vec<(Parts, Bytes)>>,
    script: Script,
    delay: Duration,
    /// Requests that are there now, and the most there were.
    here: Mutex<(usize, usize)>,
}

async fn handle(State(state): State<Arc<ServerState>>, request: Request) -> Answer {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 24).await.unwrap();
    {
        let mut here = state.here.lock().unwrap();
        here.0 += 1;
        here.1 = here.1.max(here.0);
    }
    tokio::time::sleep(state.delay).await;
    let answer = (state.script)(&head, &body);
    state.requests.lock().unwrap().push((head, body));
    state.here.lock().unwrap().0 -= 1;
    answer
}

impl Server {
    async fn start(delay: Duration, script: impl Fn(&Parts, &Bytes) -> Answer + Send + Sync + 'static) -> Self {
        let state = ServerState { requests: Mutex::default(), script: Box::new(script), delay, here: Mutex::default() };
        let state = Arc::new(state);
        let address = serve(Router::new().fallback(handle).with_state(state.clone())).await;
        Self { url: format!("http://{address}"), state }
    }

    /// A server that answers with these one after the other, and then with 200.
    async fn answering(answers: Vec<Answer>) -> Self {
        let answers = Mutex::new(VecDeque::from(answers));
        Self::start(Duration::ZERO, move |_, _| answers.lock().unwrap().pop_front().unwrap_or_else(|| answer(200, "")))
            .await
    }

    fn bodies(&self) -> Vec<String> {
        let requests = self.state.requests.lock().unwrap();
        requests.iter().map(|(_, body)| String::from_utf8(body.to_vec()).unwrap()).collect()
    }

    fn headers(&self, name: &str) -> Vec<String> {
        let requests = self.state.requests.lock().unwrap();
        requests.iter().map(|(head, _)| head.headers[name].to_str().unwrap().to_owned()).collect()
    }

    fn paths(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().iter().map(|(head, _)| head.uri.to_string()).collect()
    }
}

fn answer(status: u16, text: &str) -> Answer {
    Response::builder().status(status).body(text.to_owned().into()).unwrap()
}

fn sink(options: serde_json::Value) -> Result<HttpSink, ConnectorError> {
    let config: HttpSinkConfig = serde_json::from_value(options).unwrap();
    HttpSink::new(config, &sink_context(Arc::new(Routes::default())), Box::new(TestEncoder))
}

/// A sink with short pauses.
fn quick(server: &Server, options: serde_json::Value) -> HttpSink {
    let mut all = json!({ "url": server.url, "retry": { "initial": "1ms", "max": "5ms" } });
    all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    sink(all).unwrap()
}

#[tokio::test]
async fn rows_stand_in_the_body_as_the_layout_says() {
    for (layout, content_type, bodies) in [
        ("lines", "application/x-ndjson", vec!["{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":\"b\"}\n"]),
        ("array", "application/json", vec!["[{\"id\":1,\"name\":\"a\"},{\"id\":2,\"name\":\"b\"}]"]),
        ("object", "application/json", vec!["{\"id\":1,\"name\":\"a\"}", "{\"id\":2,\"name\":\"b\"}"]),
    ] {
        let server = Server::answering(vec![]).await;
        let mut sink = quick(&server, json!({ "layout": layout, "concurrency": 1 }));
        sink.open(None).await.unwrap();
        assert!(sink.write(&rows(&[(1, Some("a")), (2, Some("b"))])).await.unwrap().is_empty());
        assert!(sink.flush().await.unwrap().rejected.is_empty());
        assert_eq!(server.bodies(), bodies);
        assert!(server.headers("content-type").iter().all(|value| value == content_type));
        sink.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_batch_is_sent_when_it_is_full_by_rows_or_bytes() {
    let server = Server::answering(vec![]).await;
    let mut sink = quick(&server, json!({ "batch": { "rows": 4 }, "concurrency": 1 }));
    sink.write(&numbered(0..10)).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(server.bodies().iter().map(|body| body.lines().count()).collect::<Vec<_>>(), [4, 4, 2]);

    let server = Server::answering(vec![]).await;
    // A row has 19 bytes.
    let mut sink = quick(&server, json!({ "batch": { "bytes": "50B" }, "concurrency": 1 }));
    sink.write(&numbered(0..5)).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(server.bodies().iter().map(|body| body.lines().count()).collect::<Vec<_>>(), [2, 2, 1]);
}

#[tokio::test]
async fn rows_wait_for_the_period_and_not_for_the_flush() {
    let server = Server::answering(vec![]).await;
    let mut sink = quick(&server, json!({ "batch": { "period": "20ms" } }));
    assert!(sink.next_tick().is_none());
    sink.write(&numbered(0..1)).await.unwrap();
    sink.write(&numbered(1..2)).await.unwrap();
    assert!(server.bodies().is_empty());
    tokio::time::sleep_until(sink.next_tick().unwrap()).await;
    sink.tick().await.unwrap();
    assert!(sink.next_tick().is_none());
    sink.flush().await.unwrap();
    assert_eq!(server.bodies().len(), 1);
    sink.write(&numbered(2..3)).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(server.bodies().len(), 2);
}

#[tokio::test]
async fn a_request_is_sent_again_with_the_same_key_until_it_is_taken() {
    let server = Server::answering(vec![answer(503, "busy"), answer(503, "busy")]).await;
    let mut sink = quick(&server, json!({}));
    sink.write(&numbered(0..2)).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    assert_eq!(server.bodies().len(), 3);
    let keys = server.headers("idempotency-key");
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    // The same rows once more are another request, and get another key.
    sink.write(&numbered(0..2)).await.unwrap();
    sink.flush().await.unwrap();
    assert_ne!(server.headers("idempotency-key")[3], keys[0]);
}

#[tokio::test]
async fn after_a_restart_the_same_rows_have_the_same_keys() {
    let server = Server::answering(vec![]).await;
    let mut state = None;
    for _ in 0..3 {
        let mut sink = quick(&server, json!({ "layout": "object", "concurrency": 1 }));
        sink.open(state.as_deref()).await.unwrap();
        sink.write(&rows(&[(1, None), (1, None), (2, None)])).await.unwrap();
        let after = sink.flush().await.unwrap().state;
        // The second life starts where the first did, the third a barrier later.
        state = server.bodies().len().checked_sub(3).filter(|sent| *sent > 0).and(after);
    }
    let keys = server.headers("idempotency-key");
    assert_eq!(keys[..3], keys[3..6]);
    assert_ne!(keys[0], keys[1]);
    assert!(keys[6..].iter().all(|key| !keys[..6].contains(key)));
}

#[tokio::test]
async fn a_server_that_asks_for_time_gets_it() {
    let mut busy = answer(429, "");
    busy.headers_mut().insert("retry-after", "1".parse().unwrap());
    let server = Server::answering(vec![busy]).await;
    let mut sink = quick(&server, json!({}));
    let started = std::time::Instant::now();
    sink.write(&numbered(0..1)).await.unwrap();
    sink.flush().await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.bodies().len(), 2);
}

#[tokio::test]
async fn a_server_that_stays_away_ends_the_run_and_not_the_rows() {
    let server = Server::start(Duration::ZERO, |_, _| answer(500, "out of order")).await;
    let retry = json!({ "initial": "1ms", "max": "2ms", "max_attempts": 3 });
    let mut sink = quick(&server, json!({ "retry": retry }));
    sink.write(&numbered(0..1)).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(error.message.contains("500") && error.message.contains("out of order"), "{error}");
    assert_eq!(server.bodies().len(), 3);

    // Nobody listens there.
    let mut sink = sink_to_nowhere().await;
    sink.write(&numbered(0..1)).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(error.message.contains("refused"), "{error}");
}

async fn sink_to_nowhere() -> HttpSink {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token-in-path", listener.local_addr().unwrap());
    drop(listener);
    sink(json!({ "url": url, "retry": { "initial": "1ms", "max": "1ms", "max_attempts": 2 } })).unwrap()
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_failure() {
    let server = Server::start(Duration::from_secs(60), |_, _| answer(200, "")).await;
    let retry = json!({ "initial": "1ms", "max": "1ms", "max_attempts": 1 });
    let mut sink = quick(&server, json!({ "timeout": "50ms", "retry": retry }));
    sink.write(&numbered(0..1)).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert!(error.message.contains("timed out"), "{error}");
}

#[tokio::test]
async fn rows_that_are_refused_come_back_with_the_answer() {
    let server = Server::start(Duration::ZERO, |_, _| answer(404, &format!("no such\n{}", "x".repeat(500)))).await;
    let mut sink = quick(&server, json!({}));
    sink.write(&numbered(0..2)).await.unwrap();
    let rejected = sink.flush().await.unwrap().rejected;
    assert_eq!(
        rejected.iter().map(|row| &row.payload[..]).collect::<Vec<_>>(),
        [&b"{\"id\":0,\"name\":\"x\"}"[..], b"{\"id\":1,\"name\":\"x\"}"]
    );
    let reason = &rejected[0].reason;
    assert!(reason.contains("404 Not Found: no such xxx") && reason.len() < 300, "{reason}");
    assert_eq!(server.bodies().len(), 1);
}

#[tokio::test]
async fn one_bad_row_does_not_take_its_batch_with_it() {
    let bad = |body: &Bytes| body.windows(6).any(|window| window == b"\"id\":7");
    let server = Server::start(Duration::ZERO, move |_, body| answer(if bad(body) { 422 } else { 200 }, "bad")).await;
    let mut sink = quick(&server, json!({ "layout": "array" }));
    sink.write(&numbered(0..10)).await.unwrap();
    let rejected = sink.flush().await.unwrap().rejected;
    assert_eq!(rejected.len(), 1);
    assert_eq!(&rejected[0].payload[..], b"{\"id\":7,\"name\":\"x\"}");
    let taken: Vec<i64> = server
        .bodies()
        .iter()
        .filter(|body| !body.contains("\"id\":7"))
        .flat_map(|body| serde_json::from_str::<Vec<serde_json::Value>>(body).unwrap())
        .map(|row| row["id"].as_i64().unwrap())
        .collect();
    assert_eq!(taken, [0, 1, 2, 3, 4, 5, 6, 8, 9]);
}

#[tokio::test]
async fn a_batch_that_is_too_large_for_the_server_is_split() {
    let server = Server::start(Duration::ZERO, |_, body| answer(if body.len() > 60 { 413 } else { 200 }, "")).await;
    let mut sink = quick(&server, json!({}));
    sink.write(&numbered(0..10)).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    let taken: usize = server.bodies().iter().filter(|body| body.len() <= 60).map(|body| body.lines().count()).sum();
    assert_eq!(taken, 10);
}

#[tokio::test]
async fn as_many_requests_are_under_way_as_allowed_and_one_keeps_the_order() {
    for (concurrency, most) in [(1, 1), (3, 3)] {
        let server = Server::start(Duration::from_millis(20), |_, _| answer(200, "")).await;
        let mut sink = quick(&server, json!({ "layout": "object", "concurrency": concurrency }));
        sink.write(&numbered(0..9)).await.unwrap();
        sink.flush().await.unwrap();
        assert_eq!(server.state.here.lock().unwrap().1, most);
        assert_eq!(server.bodies().len(), 9);
        if concurrency == 1 {
            let expected: Vec<_> = (0..9).map(|id| format!("{{\"id\":{id},\"name\":\"x\"}}")).collect();
            assert_eq!(server.bodies(), expected);
        }
    }
}

#[tokio::test]
async fn columns_choose_the_path_and_headers_of_a_row_and_nothing_else() {
    let server = Server::answering(vec![]).await;
    let url = format!("{}/fleet/{{name}}/rows?id={{id}}", server.url);
    let mut sink = quick(&server, json!({ "url": url, "headers": { "X-Name": "n-{id}" }, "concurrency": 1 }));
    let names = [Some("a/b?c#d"), None, Some(".."), Some("é")];
    let all: Vec<_> = names.iter().enumerate().map(|(id, name)| (id as i64, *name)).collect();
    let rejected = sink.write(&rows(&all)).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(server.paths(), ["/fleet/a%2Fb%3Fc%23d/rows?id=0", "/fleet/%C3%A9/rows?id=3"]);
    assert_eq!(server.headers("x-name"), ["n-0", "n-3"]);
    assert_eq!(rejected.len(), 2);
    assert!(rejected[0].reason.contains("null") && rejected[1].reason.contains(".."), "{rejected:?}");

    let mut sink = quick(&server, json!({ "headers": { "X-Name": "{name}" } }));
    let rejected = sink.write(&rows(&[(1, Some("a\r\nx-evil: 1")), (2, Some("ok"))])).await.unwrap();
    assert!(rejected.len() == 1 && rejected[0].reason.contains("x-name"), "{rejected:?}");
}

#[tokio::test]
async fn bodies_can_be_packed_and_say_who_sends() {
    let server = Server::answering(vec![]).await;
    let mut sink = quick(&server, json!({ "compression": "gzip", "method": "PUT", "auth": { "bearer": "s3cret" } }));
    sink.write(&numbered(0..2)).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(server.headers("authorization"), ["Bearer s3cret"]);
    assert_eq!(server.headers("content-encoding"), ["gzip"]);
    let (head, body) = server.state.requests.lock().unwrap().remove(0);
    assert_eq!(head.method, http::Method::PUT);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&body[..]), &mut text).unwrap();
    assert_eq!(text.lines().count(), 2);
}

#[tokio::test]
async fn a_redirect_is_an_error_unless_it_is_allowed_and_keeps_the_body() {
    let moved = |status: u16| {
        move |head: &Parts, _: &Bytes| {
            let mut moved = answer(if head.uri.path() == "/new" { 200 } else { status }, "");
            moved.headers_mut().insert("location", "/new".parse().unwrap());
            moved
        }
    };
    for (status, redirects, followed) in [(308, 0, false), (308, 1, true), (302, 1, false)] {
        let server = Server::start(Duration::ZERO, moved(status)).await;
        let mut sink = quick(&server, json!({ "redirects": redirects }));
        sink.write(&numbered(0..1)).await.unwrap();
        let flushed = sink.flush().await;
        assert_eq!(flushed.is_ok(), followed, "{status}");
        assert_eq!(server.bodies().len(), 1 + usize::from(followed));
        assert!(server.bodies().iter().all(|body| body.contains("\"id\":0")));
    }
}

#[test]
fn options_that_cannot_work_are_refused_by_name_and_secrets_stay_secret() {
    for (options, option) in [
        (json!({ "url": "ftp://x" }), "url"),
        (json!({ "url": "http://{name}/x" }), "url"),
        (json!({ "url": "http://x/{nme}" }), "url"),
        (json!({ "url": "http://" }), "url"),
        (json!({ "url": "http://a:b@x/" }), "url"),
        (json!({ "url": "http://x", "headers": { "a b": "x" } }), "headers.a b"),
        (json!({ "url": "http://x", "headers": { "content-length": "1" } }), "headers.content-length"),
        (json!({ "url": "http://x", "headers": { "x-token": "s3cret{" } }), "headers.x-token"),
        (json!({ "url": "http://x", "headers": { "x-token": "s3cret\n" } }), "headers.x-token"),
        (
            json!({ "url": "http://x", "headers": { "authorization": "s3cret" }, "auth": { "bearer": "s3cret" } }),
            "auth",
        ),
        (json!({ "url": "https://x", "tls": { "ca": "/nowhere.pem" } }), "tls.ca"),
        (json!({ "url": "https://x", "tls": { "cert": "x.pem" } }), "tls.key"),
    ] {
        let error = sink(options.clone()).err().unwrap();
        assert_eq!((error.kind, error.option.as_deref()), (ErrorKind::Configuration, Some(option)), "{options}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
    let context = sink_context(Arc::new(Routes::default()));
    for (options, option) in [
        (json!({ "url": "http://x", "concurrency": 0 }), "concurrency"),
        (json!({ "url": "http://x", "batch": { "rows": 0 } }), "batch.rows"),
        (json!({ "url": "http://x", "batch": { "period": "0s" } }), "batch.period"),
        (json!({ "url": "http://x", "layout": "object", "batch": { "rows": 5 } }), "batch"),
        (json!({ "url": "http://x", "redirects": 11 }), "redirects"),
        (json!({ "url": "http://x", "timeout": "0s" }), "timeout"),
        (json!({ "url": "http://x", "retry": { "jitter": 2.0 } }), "retry.jitter"),
        (json!({ "url": "http://x", "retry": { "statuses": [200] } }), "retry.statuses"),
        (json!({ "url": "http://x", "auth": { "bearer": "" } }), "auth.bearer"),
    ] {
        let config: HttpSinkConfig = serde_json::from_value(options.clone()).unwrap();
        assert_eq!(config.build(&context).err().unwrap().option.as_deref(), Some(option), "{options}");
    }
}

/// Answers every connection with 200, over TLS with the test authority's certificate for localhost.
async fn tls_server() -> u16 {
    let identity =
        native_tls::Identity::from_pkcs8(include_bytes!("test_tls/server.pem"), include_bytes!("test_tls/server.key"));
    let acceptor = native_tls::TlsAcceptor::new(identity.unwrap()).unwrap();
    let acceptor = tokio_native_tls::TlsAcceptor::from(acceptor);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            // A client that does not trust the certificate hangs up.
            let Ok(mut connection) = acceptor.accept(connection).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"\n\r\n") && !request.ends_with(b"}\n") {
                if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.ok();
            connection.shutdown().await.ok();
        }
    });
    port
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_or_not_at_all() {
    let port = tls_server().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/test_tls");
    let file = |name: &str| format!("{folder}/{name}");
    for (tls, trusted) in [
        (json!({}), false),
        (json!({ "ca": file("ca.pem") }), true),
        (json!({ "ca": file("ca.pem"), "cert": file("client.pem"), "key": file("client.key") }), true),
        (json!({ "insecure_skip_verify": true }), true),
    ] {
        let retry = json!({ "max_attempts": 1 });
        let url = format!("https://localhost:{port}/");
        let mut sink = sink(json!({ "url": url, "tls": tls, "retry": retry })).unwrap();
        sink.write(&numbered(0..1)).await.unwrap();
        match sink.flush().await {
            Ok(_) => assert!(trusted, "{tls}"),
            Err(error) => assert!(!trusted && error.message.contains("certificate"), "{tls}: {error}"),
        }
    }
}
