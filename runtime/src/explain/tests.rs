//! Explanations, as a user sees them.

use std::path::Path;
use std::sync::Arc;

use millstream_connectors::routes::Routes;

use super::{Explanation, explain, mermaid, text};
use crate::functions::Engine;
use crate::plan::{Environment, Plan};
use crate::spec::{LoadOptions, load_text};

const LORRIES: &str = "
name: lorries
limits: {parallelism: 4}
sources:
  readings:
    mqtt: {url: \"mqtt://localhost:1883\", topics: [\"fleet/+/telemetry\"]}
    columns: {ts: timestamp, vehicle: text, bay_c: double, humidity: double, speed: double}
    event_time: {column: ts, watermark: 5s}
  vehicles:
    file: {path: vehicles.csv}
    columns: {vehicle: text, cold_chain: boolean, max_c: double}
    table: {key: vehicle}
steps:
  warm:
    sql: |
      SELECT upper(r.vehicle) AS vehicle, window_start, round(avg(r.bay_c), 1) AS bay_c, count(*) AS readings
      FROM TUMBLE(readings, ts, INTERVAL '1 minute') r JOIN vehicles v ON r.vehicle = v.vehicle
      WHERE v.cold_chain AND r.humidity > 20 GROUP BY upper(r.vehicle), window_start, window_end
    late: {to: too_late}
  alarms:
    sql: SELECT vehicle, window_start, bay_c * 1.8 + 32 AS bay_f FROM warm WHERE bay_c > 8 OR vehicle LIKE 'X%'
  fresh:
    sql: SELECT ts, ts AS seen, vehicle FROM readings WHERE bay_c < (humidity + 1) * 2
sinks:
  alarms: {from: alarms, stdout: {}}
  warm: {from: warm, file: {path: warm.jsonl}}
  fresh: {from: fresh, file: {path: fresh.jsonl}}
  too_late: {file: {path: late.jsonl}}
";

/// The explanation of `yaml`.
fn explained(yaml: &'static str, step: Option<&'static str>) -> Result<Explanation, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let work = async move {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vehicles.csv"), "vehicle,cold_chain,max_c\n").unwrap();
        let environment = Environment {
            functions: Engine::new(None).unwrap(),
            routes: Arc::new(Routes::default()),
            data_dir: "never-written".into(),
        };
        let file = folder.path().join("p.yaml");
        let loaded = load_text(Path::new(&file), yaml, &LoadOptions::default());
        let spec = loaded.spec.unwrap_or_else(|| panic!("{:?}", loaded.problems));
        let (plan, problems) = Box::pin(Plan::build(&file, &spec, &environment)).await;
        explain(&plan.unwrap_or_else(|| panic!("{problems:?}")), step)
    };
    runtime.block_on(async { tokio::spawn(work).await.unwrap() })
}

#[test]
fn a_pipeline_is_told_as_text() {
    insta::assert_snapshot!(text(&explained(LORRIES, None).unwrap()));
}

#[test]
fn a_step_is_told_with_what_it_needs() {
    insta::assert_snapshot!(text(&explained(LORRIES, Some("fresh")).unwrap()));
}

#[test]
fn a_pipeline_is_told_as_a_flowchart() {
    insta::assert_snapshot!(mermaid(&explained(LORRIES, None).unwrap()));
}

#[test]
fn a_pipeline_is_told_as_json() {
    let explanation = explained(LORRIES, Some("alarms")).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&explanation).unwrap());
}

#[test]
fn a_step_that_is_not_there_is_named_with_the_nearest() {
    let message = explained(LORRIES, Some("alarm")).unwrap_err();
    assert_eq!(message, "there is no step `alarm`; did you mean `alarms`?");
}

#[test]
fn the_clock_as_time_is_told() {
    let yaml = "
limits: {parallelism: 2}
sources:
  s: {http: {}, columns: {a: int, b: text}, event_time: processing}
steps:
  q: {sql: \"SELECT window_end, count(*) AS n FROM TUMBLE(s, processing_time, INTERVAL '1 s') GROUP BY window_start, window_end\"}
sinks:
  out: {from: q, stdout: {}}
";
    let explanation = explained(yaml, None).unwrap();
    insta::assert_snapshot!(text(&explanation));
    let told = serde_json::to_value(&explanation).unwrap().to_string();
    assert!(
        told.contains(r#""event_time":{"column":"processing_time","processing":true,"watermark":"100ms"}"#),
        "{told}"
    );
}
