//! Prints what open groups cost in memory, and how long a snapshot and the end of their window take.
//!
//! `cargo run --release -p millstream --example state_size [GROUPS]` (without a number: one million).

#![expect(clippy::print_stdout, reason = "its figures are its purpose")]

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use millstream::bench_support::Steps;

const BATCH: usize = 8192;
const START_MS: i64 = 1_700_000_000_000;
const YAML: &str = r#"
name: state
sources:
  s:
    file: {path: none.jsonl}
    columns: {ts: timestamp(3), device: text, temp: double}
    event_time: {column: ts, watermark: 1s}
steps:
  q:
    sql: >
      SELECT device, window_end, avg(temp) AS a FROM TUMBLE(s, ts, INTERVAL '1000000 seconds')
      GROUP BY device, window_start, window_end
sinks:
  out: {from: q, stdout: {}}
"#;

/// A line of `/proc/self/status` in MB: `VmRSS`, `VmHWM`.
fn resident(line: &str) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let found = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let kilobytes = found.and_then(|text| text.split_whitespace().next()).ok_or("no such line")?;
    Ok(kilobytes.parse::<f64>()? / 1024.0)
}

fn batch(first: usize, rows: usize) -> Result<RecordBatch, Box<dyn Error>> {
    // Every group once, in an order that is not that of the keys.
    let devices = (first..first + rows).map(|row| format!("dev-{:08}", row.wrapping_mul(2_654_435_761) % 100_000_000));
    let columns: [(&str, ArrayRef); 3] = [
        ("ts", Arc::new(TimestampMillisecondArray::from_value(START_MS, rows))),
        ("device", Arc::new(StringArray::from_iter_values(devices))),
        ("temp", Arc::new(Float64Array::from_value(20.0, rows))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let groups: usize = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let mut steps = Steps::new(YAML);
    let before = resident("VmRSS")?;
    println!("without groups: {before:.1} MB resident");
    let mut rows = 0;
    while rows < groups {
        let next = BATCH.min(groups - rows);
        steps.batch(&batch(rows, next)?);
        rows += next;
    }
    let open = resident("VmRSS")?;
    println!("{groups} open groups: {open:.1} MB, {:.0} bytes per group", (open - before) * 1048576.0 / groups as f64);
    for _ in 0..3 {
        let start = Instant::now();
        let state = steps.snapshot();
        let taken = start.elapsed();
        let rows: usize = state.iter().map(RecordBatch::num_rows).sum();
        println!("snapshot of {rows} rows: {taken:?}, {:.1} MB with it", resident("VmRSS")?);
    }
    let start = Instant::now();
    let rows = steps.watermark(i64::MAX);
    println!(
        "{rows} rows given out: {:?}, {:.1} MB, at most {:.1} MB",
        start.elapsed(),
        resident("VmRSS")?,
        resident("VmHWM")?
    );
    Ok(())
}
