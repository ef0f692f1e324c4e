//! The HTTP table against a real server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::table::HttpTableConfig;
use super::testing::serve;
use crate::error::ConnectorError;
use crate::format::FormatConfig;
use crate::table::Table;

/// What was asked, and what is answered next.
#[derive(Clone, Default)]
struct Server {
    asked: Arc<Mutex<Vec<HeaderMap>>>,
    answer: Arc<Mutex<Answer>>,
}

#[derive(Clone, Default)]
struct Answer {
    status: StatusCode,
    headers: Vec<(header::HeaderName, String)>,
    body: String,
}

async fn handle(State(server): State<Server>, uri: Uri, headers: HeaderMap) -> Response {
    server.asked.lock().unwrap().push(headers.clone());
    if uri.path() == "/slow" {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let answer = server.answer.lock().unwrap().clone();
    let known = answer.headers.iter().find(|(name, _)| *name == header::ETAG);
    let shown = headers.get(header::IF_NONE_MATCH);
    if known.is_some_and(|(_, tag)| shown.is_some_and(|shown| shown == tag)) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let mut response = (answer.status, answer.body).into_response();
    response.headers_mut().remove(header::CONTENT_TYPE);
    for (name, value) in answer.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

impl Server {
    async fn start() -> (Self, String) {
        let server = Self::default();
        let address = serve(Router::new().fallback(handle).with_state(server.clone())).await;
        (server, format!("http://{address}"))
    }

    fn answers(&self, status: u16, headers: &[(header::HeaderName, &str)], body: &str) {
        *self.answer.lock().unwrap() = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.iter().map(|(name, value)| (name.clone(), (*value).to_owned())).collect(),
            body: body.to_owned(),
        };
    }

    fn last_asked(&self, name: &str) -> Option<String> {
        let asked = self.asked.lock().unwrap();
        asked.last()?.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    fn times_asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn build(options: Value, format: Option<&str>) -> Result<Box<dyn Table>, ConnectorError> {
    let format: Option<FormatConfig> = format.map(|format| serde_json::from_value(json!(format)).unwrap());
    let config: HttpTableConfig = serde_json::from_value(options).unwrap();
    let columns = [("vehicle", DataType::Utf8), ("limit", DataType::Float64)];
    let fields: Vec<Field> = columns.into_iter().map(|(name, kind)| Field::new(name, kind, true)).collect();
    config.build(".".as_ref(), Some(Arc::new(Schema::new(fields))), format.as_ref())
}

async fn load(table: &dyn Table) -> Result<String, String> {
    let rows = table.load().await.map_err(|error| error.to_string())?;
    let (vehicles, limits) = (rows.column(0).as_string::<i32>(), rows.column(1).as_primitive::<Float64Type>());
    let texts = vehicles.iter().zip(limits).map(|(vehicle, limit)| format!("{vehicle:?}={limit:?}"));
    Ok(texts.collect::<Vec<_>>().join(" ").replace("Some", ""))
}

const CSV: (header::HeaderName, &str) = (header::CONTENT_TYPE, "text/csv; charset=utf-8");

#[tokio::test]
async fn the_answer_says_its_format() {
    let (server, url) = Server::start().await;
    let table = build(json!({ "url": url }), None).unwrap();
    let rows = "(\"v1\")=(4.0) (\"v2\")=(5.5)";
    server.answers(200, &[CSV], "\u{feff}limit,vehicle\n4,v1\n5.5,v2\n");
    assert_eq!(load(&*table).await.unwrap(), rows);
    let lines = "{\"vehicle\":\"v1\",\"limit\":4,\"more\":[1]}\n{\"limit\":5.5,\"vehicle\":\"v2\"}\n";
    let array = format!("[{}]", lines.trim().replace('\n', ","));
    for (media_type, body) in [
        ("application/x-ndjson", lines),
        ("application/json", array.as_str()),
        ("application/vnd.fleet+json", array.as_str()),
    ] {
        server.answers(200, &[(header::CONTENT_TYPE, media_type)], body);
        assert_eq!(load(&*table).await.unwrap(), rows, "{media_type}");
    }
    server.answers(200, &[(header::CONTENT_TYPE, "text/html")], "<html>");
    let error = load(&*table).await.unwrap_err();
    assert!(error.contains("Content-Type `text/html`") && error.contains("set `format: csv`"), "{error}");
    let told = build(json!({ "url": url }), Some("json")).unwrap();
    server.answers(200, &[], &array);
    assert_eq!(load(&*told).await.unwrap(), rows);
    server.answers(200, &[CSV], "vehicle,limit\nv1,much\n");
    let error = load(&*table).await.unwrap_err();
    assert!(error.contains("cannot be read") && error.contains("much"), "{error}");
}

#[tokio::test]
async fn the_server_is_asked_whether_the_table_has_changed() {
    let (server, url) = Server::start().await;
    let table = build(json!({ "url": url, "refresh": "1m" }), None).unwrap();
    assert_eq!(table.refresh(), Some(Duration::from_secs(60)));
    server.answers(200, &[CSV, (header::ETAG, "\"one\"")], "vehicle,limit\nv1,1\n");
    assert_eq!(load(&*table).await.unwrap(), "(\"v1\")=(1.0)");
    assert_eq!(server.last_asked("if-none-match"), None);
    assert_eq!(load(&*table).await.unwrap(), "(\"v1\")=(1.0)");
    assert_eq!(server.last_asked("if-none-match").as_deref(), Some("\"one\""));
    // Without an ETag it is fetched anew each time.
    server.answers(200, &[CSV], "vehicle,limit\nv1,2\n");
    assert_eq!(load(&*table).await.unwrap(), "(\"v1\")=(2.0)");
    assert_eq!(load(&*table).await.unwrap(), "(\"v1\")=(2.0)");
    assert_eq!(server.last_asked("if-none-match"), None);
    assert_eq!(server.times_asked(), 4);
}

#[tokio::test]
async fn failures_say_what_the_server_said_and_no_secrets() {
    let (server, url) = Server::start().await;
    let options = json!({
        "url": format!("{url}/limits?token=s3cret"), "auth": {"bearer": "s3cret"}, "headers": {"X-Key": "s3cret"},
        "size_max": "64B", "timeout": "300ms",
    });
    let table = build(options, None).unwrap();
    server.answers(503, &[], "come back later");
    let error = load(&*table).await.unwrap_err();
    assert!(error.contains("503 Service Unavailable: come back later") && !error.contains("s3cret"), "{error}");
    assert_eq!(server.last_asked("authorization").as_deref(), Some("Bearer s3cret"));
    assert_eq!(server.last_asked("x-key").as_deref(), Some("s3cret"));
    assert!(server.last_asked("accept").unwrap().contains("text/csv"));
    server.answers(200, &[CSV], &format!("vehicle,limit\n{}", "v1,1\n".repeat(20)));
    let error = load(&*table).await.unwrap_err();
    assert!(error.contains("`size_max` (64B)"), "{error}");
    let slow = build(json!({"url": format!("{url}/slow"), "timeout": "100ms"}), None).unwrap();
    let error = load(&*slow).await.unwrap_err();
    assert!(error.contains("timed out"), "{error}");
    let nobody = build(json!({"url": "http://127.0.0.1:1/?token=s3cret"}), None).unwrap();
    let error = load(&*nobody).await.unwrap_err();
    assert!(error.contains("127.0.0.1:1") && error.contains("refused") && !error.contains("s3cret"), "{error}");
}

#[tokio::test]
async fn secrets_are_not_sent_to_another_server() {
    let (target, target_url) = Server::start().await;
    let (first, first_url) = Server::start().await;
    target.answers(200, &[CSV], "vehicle,limit\nv1,1\n");
    first.answers(302, &[(header::LOCATION, &target_url)], "");
    let open = build(json!({ "url": first_url }), None).unwrap();
    assert_eq!(load(&*open).await.unwrap(), "(\"v1\")=(1.0)");
    let secret = build(json!({ "url": first_url, "headers": {"X-Key": "s3cret"} }), None).unwrap();
    let error = load(&*secret).await.unwrap_err();
    assert!(error.contains("302 Found") && error.contains("redirects"), "{error}");
    assert_eq!(target.times_asked(), 1);
    let none = build(json!({ "url": first_url, "redirects": 0 }), None).unwrap();
    assert!(load(&*none).await.unwrap_err().contains("302 Found"));
}

#[test]
fn what_cannot_work_is_said_at_load() {
    let message = |options: Value, format| match build(options, format) {
        Ok(_) => panic!("it was built"),
        Err(error) => error.to_string(),
    };
    let url = "http://example.com/limits.csv";
    for (options, format, expected) in [
        (json!({"url": "limits.csv"}), None, "relative URL"),
        (json!({"url": "ftp://example.com/limits.csv"}), None, "http://"),
        (json!({"url": url, "refresh": "100ms"}), None, "at least 1s"),
        (json!({"url": url, "timeout": "0s"}), None, "0s is no time"),
        (json!({"url": url, "size_max": "2GiB"}), None, "1GiB"),
        (json!({"url": url, "redirects": 11}), None, "11 is more than 10"),
        (json!({"url": url, "headers": {"X Key": "a"}}), None, "no name of a header"),
        (json!({"url": url, "headers": {"Authorization": "a"}, "auth": {"bearer": "b"}}), None, "keep one"),
        (json!({"url": url, "tls": {"ca": "missing.pem"}}), None, "missing.pem"),
        (json!({"url": url}), Some("text"), "csv or json"),
    ] {
        let message = message(options, format);
        assert!(message.contains(expected), "{message}");
    }
    let config: HttpTableConfig = serde_json::from_value(json!({ "url": url })).unwrap();
    let error = config.build(".".as_ref(), None, None).err().unwrap().to_string();
    assert!(error.contains("`columns`"), "{error}");
}
