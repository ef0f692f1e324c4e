//! Options that work and options that do not, without a database. (`tests/tests/postgres.rs` has one.)

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde_json::{Value, json};

use super::PostgresTableConfig;
use crate::error::ErrorKind;
use crate::table::Table;

const URL: &str = "postgres://u:hunter22@db.example:6543/fleet";

fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("Id", DataType::Utf8, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
    ]))
}

fn build(options: Value) -> Result<Box<dyn Table>, String> {
    let config: PostgresTableConfig = serde_json::from_value(options).map_err(|error| error.to_string())?;
    assert!(!format!("{config:?}").contains("hunter22") && !json!(config).to_string().contains("hunter22"));
    config.build(Path::new("."), Some(columns()), None).map_err(|error| error.to_string())
}

fn refused(options: Value) -> String {
    let error = build(options).err().expect("it is refused");
    assert!(!error.contains("hunter22"), "{error}");
    error
}

#[test]
fn a_table_is_built_without_a_database() {
    for options in [
        json!({"url": URL, "table": "vehicles"}),
        json!({"url": format!("{URL}?sslmode=verify-full&target_session_attrs=read-write"), "table": "vehicles"}),
        json!({"host": "db", "user": "u", "password": "hunter22", "query": "SELECT 1", "tls": {}, "refresh": "10s"}),
        json!({"host": "/var/run/postgresql", "port": 5433, "user": "u", "database": "d", "query": "TABLE t;"}),
    ] {
        let table = build(options.clone()).unwrap_or_else(|error| panic!("{options}: {error}"));
        assert_eq!(table.schema(), columns());
    }
}

#[test]
fn what_cannot_work_is_refused_by_its_option() {
    let with = |more: Value| {
        let mut options = json!({"url": URL, "table": "t"});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        refused(options)
    };
    assert!(refused(json!({"table": "t"})).starts_with("host: missing"));
    assert!(refused(json!({"host": "h", "table": "t"})).starts_with("user: missing"));
    assert!(refused(json!({"url": URL})).starts_with("write `table: NAME`"));
    assert!(with(json!({"user": "u"})).starts_with("user: `url` says it already"));
    assert!(with(json!({"query": "SELECT 1"})).starts_with("query: `table` is there already"));
    assert!(with(json!({"table": "a b"})).starts_with("table: `a b` is no name"));
    assert!(with(json!({"url": "hunter22"})).starts_with("url: it is no `postgres://"));
    assert!(with(json!({"url": "postgres://h/d"})).starts_with("url: it names no user"));
    assert!(with(json!({"url": format!("{URL}?nonsense=hunter22")})).starts_with("url: it cannot be read"));
    assert!(with(json!({"url": format!("{URL}?sslmode=prefer")})).contains("may leave the connection open"));
    assert!(with(json!({"url": format!("{URL}?sslmode=no")})).starts_with("url: `sslmode` is one of"));
    let both = json!({"url": format!("{URL}?sslmode=require"), "tls": {}});
    assert!(with(both).starts_with("tls: the URL has a `sslmode` already"));
    assert!(with(json!({"tls": {"ca": "none.pem"}})).starts_with("tls.ca: ./none.pem cannot be read"));
    assert!(with(json!({"refresh": "10ms"})).starts_with("refresh: "));
    assert!(with(json!({"timeout": "0s"})).starts_with("timeout: "));
    assert!(with(json!({"rows_max": 0})).starts_with("rows_max: "));
    assert!(with(json!({"size_max": "2GiB"})).starts_with("size_max: "));
    assert!(with(json!({"tabel": "t"})).contains("unknown field `tabel`"));
}

#[test]
fn columns_are_declared_and_of_types_that_a_database_has() {
    let config: PostgresTableConfig = serde_json::from_value(json!({"url": URL, "table": "t"})).unwrap();
    let error = config.build(Path::new("."), None, None).err().unwrap();
    assert!(error.message.contains("the source needs `columns`"), "{error}");
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    let columns = Arc::new(Schema::new(vec![Field::new("tags", list, true)]));
    let error = config.build(Path::new("."), Some(columns), None).err().unwrap();
    assert_eq!(error.option.as_deref(), Some("columns.tags"));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named_and_tried_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let options = json!({"host": "127.0.0.1", "port": port, "user": "u", "password": "hunter22", "table": "t"});
    let error = build(options).unwrap().load().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(error.message.starts_with(&format!("PostgreSQL at 127.0.0.1:{port}/u: ")), "{error}");
    assert!(error.message.contains("refused") && !error.message.contains("hunter22"), "{error}");
}

#[tokio::test]
async fn a_database_that_says_nothing_is_given_up_in_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = json!({"host": "127.0.0.1", "port": port, "user": "u", "table": "t", "timeout": "200ms"});
    let error = build(options).unwrap().load().await.unwrap_err();
    assert!(error.message.contains("was not read within 200ms"), "{error}");
}
