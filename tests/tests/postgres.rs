//! Tables of a real PostgreSQL: values of every type, refreshes, a database that is killed, TLS, and mistakes.

use millstream_tests::sandbox::Sandbox;
use millstream_tests::services::Postgres;
use serde_json::{Value, json};

use crate::golden;

/// A pipeline that joins what is posted to `/in` with a table; `options` are those of the table beside its address.
fn pipeline(postgres: &Postgres, options: &str, columns: &str, select: &str) -> String {
    let (port, user, password) = (postgres.port, Postgres::USER, Postgres::PASSWORD);
    format!(
        r#"
sources:
  readings:
    http: {{path: /in}}
    columns: {{vehicle: text, n: bigint}}
  vehicles:
    postgres: {{host: 127.0.0.1, port: {port}, user: {user}, password: {password}, {options}}}
    table: {{key: vehicle}}
    columns: {{vehicle: text, {columns}}}
steps:
  named: {{sql: "SELECT r.n, {select} FROM readings r LEFT JOIN vehicles v ON r.vehicle = v.vehicle"}}
sinks:
  out: {{from: named, file: {{path: ../out.jsonl}}}}
restart: {{initial: 100ms, max: 500ms}}
checkpoint: {{interval: 100ms}}
"#
    )
}

/// Posts a reading of `vehicle` and waits for its row.
async fn look_up(sandbox: &mut Sandbox, n: usize, vehicle: &str) -> Value {
    let (status, answer) = sandbox.post("/in", json!({"vehicle": vehicle, "n": n}).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let path = sandbox.path("out.jsonl");
    let row = async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        rows.into_iter().find(|row| row["n"] == n).ok_or_else(|| text.clone())
    };
    sandbox.until("the row comes out", row).await
}

/// The value of a metric of the table.
async fn metric(sandbox: &Sandbox, name: &str) -> Option<u64> {
    let (_, text) = sandbox.get("/metrics").await;
    let line = text.lines().find(|line| line.starts_with(name) && line.contains("table=\"vehicles\""))?;
    line.rsplit(' ').next()?.parse().ok()
}

const TYPES: &str = "CREATE TYPE depot AS ENUM ('north', 'south');
    CREATE DOMAIN plate AS varchar(10) CHECK (value <> '');
    CREATE TABLE \"Vehicles\" (
        vehicle plate PRIMARY KEY, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, num numeric(12, 3), big numeric,
        ok bool, fixed char(5), id uuid, day date, at timestamp, atz timestamptz, js json, jb jsonb, raw bytea, d depot);
    INSERT INTO \"Vehicles\" VALUES
        ('v1', -2, 70000, 9007199254740993, 0.1, 0.1, 12.5, 12345678901234567890.12, true, 'ab', \
         '01234567-89ab-cdef-0011-223344556677', '2024-02-29', '2024-02-29 12:00:00.123456', \
         '2024-02-29 12:00:00.5+02', '{\"a\": 1}', '{\"b\":[1,2]}', '\\x00ff', 'south'),
        ('v2', NULL, NULL, NULL, NULL, 'NaN', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        ('v3', 0, 0, 0, '-0', '-1e300', -0.001, 0.0000001, false, '', \
         '00000000-0000-0000-0000-000000000000', '1969-12-31', '1969-12-31 23:59:59.999999', 'epoch', 'null', '\"é\"', '', \
         'north');";

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_come_as_they_are() {
    let postgres = Postgres::start(false).await;
    postgres.execute(TYPES);
    let columns = "i2: smallint, i4: int, i8: bigint, f4: real, f8: double, num: 'decimal(12, 3)', big: double, \
                   ok: boolean, fixed: text, id: text, day: date, at: timestamp, atz: timestamptz, js: text, jb: text, \
                   raw: bytea, d: text";
    let names = columns.split(", ").filter_map(|column| column.split_once(": ")).map(|(name, _)| format!("v.{name}"));
    let select = names.collect::<Vec<_>>().join(", ");
    let mut sandbox = Sandbox::new();
    sandbox.pipeline("p", &pipeline(&postgres, r#"table: '"Vehicles"'"#, columns, &select));
    sandbox.start().await;
    sandbox.running("p").await;
    let expected = json!({
        "n": 1, "i2": -2, "i4": 70000, "i8": 9_007_199_254_740_993_i64, "f4": 0.1, "f8": 0.1, "num": 12.5,
        "big": 12_345_678_901_234_567_890.12, "ok": true, "fixed": "ab", "id": "01234567-89ab-cdef-0011-223344556677",
        "day": "2024-02-29", "at": "2024-02-29T12:00:00.123456Z", "atz": "2024-02-29T10:00:00.500Z", "js": "{\"a\": 1}",
        "jb": "{\"b\": [1, 2]}", "raw": "AP8=", "d": "south",
    });
    let found = look_up(&mut sandbox, 1, "v1").await;
    assert_eq!(found, expected, "{found:#}");
    let found = look_up(&mut sandbox, 2, "v2").await;
    assert!(found.as_object().unwrap().iter().all(|(name, value)| name == "n" || value.is_null()), "{found:#}");
    let found = look_up(&mut sandbox, 3, "v3").await;
    assert_eq!(
        (&found["num"], &found["day"], &found["at"], &found["atz"]),
        (&json!(-0.001), &json!("1969-12-31"), &json!("1969-12-31T23:59:59.999999Z"), &json!("1970-01-01T00:00:00Z")),
        "{found:#}"
    );
    assert_eq!((&found["fixed"], &found["raw"], &found["jb"]), (&json!(""), &json!(""), &json!("\"é\"")), "{found:#}");
    assert_eq!(metric(&sandbox, "millstream_table_rows").await, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_follows_its_refreshes_and_outlives_a_database_that_is_killed() {
    let mut postgres = Postgres::start(false).await;
    postgres.execute("CREATE TABLE vehicles (nr text, depot text); INSERT INTO vehicles VALUES ('v1', 'north')");
    let query = "query: 'SELECT nr AS vehicle, depot FROM vehicles', refresh: 1s, timeout: 3s";
    let mut sandbox = Sandbox::new();
    sandbox.pipeline("p", &pipeline(&postgres, query, "depot: {type: text, nullable: false}", "v.depot"));
    sandbox.start().await;
    sandbox.running("p").await;
    assert_eq!(look_up(&mut sandbox, 1, "v1").await["depot"], "north");
    assert_eq!(look_up(&mut sandbox, 2, "v9").await["depot"], Value::Null);

    postgres.execute("UPDATE vehicles SET depot = 'south'; INSERT INTO vehicles VALUES ('v9', 'east')");
    sandbox.daemon().wait_for_output("the table has changed").await;
    assert_eq!(look_up(&mut sandbox, 3, "v1").await["depot"], "south");
    assert_eq!(look_up(&mut sandbox, 4, "v9").await["depot"], "east");

    postgres.kill9();
    sandbox.daemon().wait_for_output("cannot refresh the table; its rows stay as they were").await;
    assert_eq!(look_up(&mut sandbox, 5, "v1").await["depot"], "south", "the rows of the last time are in use");
    let failed = metric(&sandbox, "millstream_table_refresh_errors_total").await;
    assert!(failed >= Some(1), "{failed:?}");

    postgres.restart().await;
    postgres.execute("UPDATE vehicles SET depot = 'west'");
    sandbox.daemon().wait_for_output("the table can be read again").await;
    assert_eq!(look_up(&mut sandbox, 6, "v1").await["depot"], "west");

    // A value that the declaration forbids leaves the rows as they were, too.
    postgres.execute("UPDATE vehicles SET depot = NULL");
    sandbox.daemon().wait_for_output("is null, which its declaration forbids").await;
    assert_eq!(look_up(&mut sandbox, 7, "v1").await["depot"], "west");
    let status = sandbox.status("p").await;
    assert_eq!(status["restarts"], 0, "{status:#}");
    assert!(!sandbox.output().contains(Postgres::PASSWORD) && !status.to_string().contains(Postgres::PASSWORD));
}

/// Windows over disordered and late rows, which the golden test joins with a file.
#[tokio::test(flavor = "multi_thread")]
async fn a_golden_join_gives_the_same_rows_with_its_table_in_postgresql() {
    let postgres = Postgres::start(false).await;
    postgres.execute(
        "CREATE TABLE places (k text, place text, factor float8);
         INSERT INTO places VALUES ('a', 'north', 1.5), ('c', 'south', 2), ('d', 'west', 9)",
    );
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden::pipelines().join("tests/table-join-windows")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let (port, user, password) = (postgres.port, Postgres::USER, Postgres::PASSWORD);
    let table = format!(
        "postgres: {{host: 127.0.0.1, port: {port}, user: {user}, password: {password}, table: places}}\n    \
         columns: {{k: text, place: text, factor: double}}"
    );
    let file = copy.path().join("pipeline.yaml");
    let yaml = std::fs::read_to_string(&file).unwrap();
    let changed = yaml.replace("file: {path: places.csv}", &table);
    assert_ne!(yaml, changed);
    std::fs::write(&file, changed).unwrap();
    std::fs::remove_file(copy.path().join("places.csv")).unwrap();
    golden::run(copy.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_checked_as_its_mode_says() {
    let postgres = Postgres::start(true).await;
    postgres.execute("CREATE TABLE vehicles AS SELECT 'v1' AS vehicle, 'north' AS depot");
    let ca = postgres.path("ca.pem").display().to_string();
    let mut sandbox = Sandbox::new();
    let with = |tls: &str| pipeline(&postgres, &format!("table: vehicles, {tls}"), "depot: text", "v.depot");
    sandbox.pipeline("p", &with(&format!("tls: {{ca: '{ca}'}}")));
    sandbox.start().await;
    sandbox.running("p").await;
    assert_eq!(look_up(&mut sandbox, 1, "v1").await["depot"], "north");
    assert!(postgres.log().contains("SSL enabled"), "{}", postgres.log());
    sandbox.terminate();

    // The system does not know the test's authority.
    sandbox.pipeline("p", &with("tls: {}"));
    sandbox.start().await;
    let failing = |status: &Value| status["last_error"].as_str().is_some_and(|error| error.contains("certificate"));
    sandbox.status_until("p", "failing for the certificate", failing).await;
    sandbox.terminate();
    sandbox.pipeline("p", &with("tls: {mode: require}"));
    sandbox.start().await;
    sandbox.running("p").await;
    assert_eq!(look_up(&mut sandbox, 2, "v1").await["depot"], "north");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_and_tried_again() {
    let postgres = Postgres::start(false).await;
    postgres.execute("CREATE TABLE vehicles AS SELECT 'v1' AS vehicle, 1.5::numeric AS n, '1 day'::interval AS i");
    let mut sandbox = Sandbox::new();
    sandbox.start().await;
    for (options, columns, said) in [
        ("table: lorries", "n: double", "relation \"lorries\" does not exist (SQLSTATE 42P01)"),
        ("table: vehicles", "n: bigint", "row 1: column `n`: 1.5 is no whole number"),
        ("table: vehicles", "n: text", "columns.n: it is of PostgreSQL's type numeric"),
        ("table: vehicles", "i: text", "`i::text AS i`"),
        ("query: 'SELECT vehicle FROM vehicles'", "n: double", "columns.n: the query on "),
        ("query: 'DELETE FROM vehicles RETURNING *'", "n: double", "read-only transaction"),
        ("query: 'SELECT pg_sleep(60)::text AS vehicle, 1 AS n', timeout: 500ms", "n: int", "timeout"),
        (
            "query: \"SELECT 'v' || g AS vehicle, g AS n FROM generate_series(1, 11) g\", rows_max: 10",
            "n: int",
            "more than 10 rows",
        ),
        ("table: vehicles, size_max: 3B", "n: double", "more than 3B of values"),
    ] {
        sandbox.pipeline("p", &pipeline(&postgres, options, columns, "v.vehicle"));
        // Of a change that cannot be started, what ran before says why it was refused.
        let failing = |status: &Value| {
            let texts = [&status["last_error"], &status["refused"]];
            texts.iter().any(|text| text.as_str().is_some_and(|text| text.contains(said)))
        };
        sandbox.status_until("p", said, failing).await;
    }
    sandbox.terminate();
    // What was missing comes, and the pipeline goes on by itself.
    sandbox.pipeline("p", &pipeline(&postgres, "table: later", "n: int", "v.n AS found"));
    sandbox.start().await;
    sandbox.status_until("p", "waiting", |status| status["last_error"].to_string().contains("later")).await;
    postgres.execute("CREATE TABLE later AS SELECT 'v1' AS vehicle, 7 AS n");
    sandbox.running("p").await;
    assert_eq!(look_up(&mut sandbox, 1, "v1").await["found"], 7);
}
