//! What the engine's operators cost: `cargo bench -p millstream`. Rates are in rows of input.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use millstream::bench_support::{Clock, Spread, Steps};

/// Rows per batch.
const BATCH: usize = 8192;
const START_MS: i64 = 1_700_000_000_000;

/// `count` batches of `rows` rows each: one row per millisecond from `start_ms` on, keys spread over `keys`.
fn batches(count: usize, rows: usize, keys: u64, start_ms: i64) -> Vec<RecordBatch> {
    let mut random = 7_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    let batches = (0..count).map(|batch| {
        let first = start_ms + (batch * rows) as i64;
        let devices: Vec<u64> = (0..rows).map(|_| next() % keys).collect();
        let columns: [(&str, ArrayRef); 4] = [
            ("ts", Arc::new(TimestampMillisecondArray::from_iter_values(first..first + rows as i64))),
            (
                "device",
                Arc::new(StringArray::from_iter_values(devices.iter().map(|device| format!("dev-{device:04}")))),
            ),
            ("temp", Arc::new(Float64Array::from_iter_values((0..rows).map(|_| (next() % 1000) as f64 / 20.0)))),
            ("seq", Arc::new(Int64Array::from_iter_values(devices.iter().map(|device| *device as i64)))),
        ];
        RecordBatch::try_from_iter(columns).expect("a batch")
    });
    batches.collect()
}

fn steps(sql: &str) -> Steps {
    Steps::new(&format!(
        "name: bench\nsources:\n  s:\n    file: {{path: none.jsonl}}\n    \
         columns: {{ts: timestamp(3), device: text, temp: double, seq: bigint}}\n    \
         event_time: {{column: ts, watermark: 1s}}\nsteps:\n  q:\n    sql: \"{sql}\"\n\
         sinks:\n  out: {{from: q, stdout: {{}}}}\n"
    ))
}

fn stateless(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stateless");
    let queries = [
        ("filter_project", "SELECT ts, device, temp FROM s WHERE temp > 25"),
        ("compute", "SELECT device, temp * 1.8 + 32 AS f FROM s WHERE temp > 25 AND seq % 2 = 0"),
    ];
    for (name, sql) in queries {
        let mut steps = steps(sql);
        for rows in [1, 10, BATCH] {
            let batch = batches(1, rows, 1000, START_MS).remove(0);
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_function(format!("{name}/{rows}"), |bencher| {
                bencher.iter(|| black_box(steps.batch(&batch)));
            });
        }
    }
}

const TUMBLE: &str = "SELECT {KEY} window_end, avg(temp) AS a, max(temp) AS m, count(*) AS n \
                      FROM TUMBLE(s, ts, INTERVAL '{SIZE} milliseconds') GROUP BY {KEY} window_start, window_end";

/// Windows of five slides.
const HOP: &str = "SELECT {KEY} window_end, count(*) AS n FROM HOP(s, ts, INTERVAL '{SIZE} milliseconds', \
                   INTERVAL '{SIZES} milliseconds') GROUP BY {KEY} window_start, window_end";

/// Takes batches, each with the watermark behind it.
fn feed(steps: &mut Steps, batches: Vec<RecordBatch>) {
    for batch in batches {
        let time = batch.column(0).as_any().downcast_ref::<TimestampMillisecondArray>();
        let newest = time.map_or(0, |time| time.value(BATCH - 1));
        steps.batch(&batch);
        steps.watermark((newest - 1000) * 1_000_000);
    }
}

/// Rows over ten windows that are closed one by one. One round of it gives so many windows of results.
fn tumbling(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, key: &str, keys: u64, rows: usize) {
    windows(group, name, &TUMBLE.replace("{KEY}", key), keys, rows);
}

/// The same for `sql` with windows (or slides) of `{SIZE}`.
fn windows(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, sql: &str, keys: u64, rows: usize) {
    let window_ms = (rows * BATCH / 10) as i64;
    let sql = sql.replace("{SIZE}", &window_ms.to_string()).replace("{SIZES}", &(5 * window_ms).to_string());
    let mut steps = steps(&sql);
    let mut start = START_MS / window_ms * window_ms;
    group.throughput(Throughput::Elements((rows * BATCH) as u64));
    group.bench_function(name, |bencher| {
        bencher.iter_batched(
            || {
                let batches = batches(rows, BATCH, keys, start);
                start += window_ms * 10;
                batches
            },
            |batches| feed(&mut steps, batches),
            BatchSize::LargeInput,
        );
    });
}

fn aggregate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tumble");
    group.sample_size(20);
    tumbling(&mut group, "text_1k", "device,", 1000, 16);
    tumbling(&mut group, "number_1k", "seq,", 1000, 16);
    tumbling(&mut group, "text_and_number_1k", "device, seq,", 1000, 16);
    tumbling(&mut group, "no_key", "", 1000, 16);
    group.finish();
    let mut group = criterion.benchmark_group("hop");
    group.sample_size(20);
    windows(&mut group, "number_1k_by_5", &HOP.replace("{KEY}", "seq,"), 1000, 16);
}

/// Rows for groups that are there already, whatever their number: what a row costs.
fn open_groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open_groups");
    group.sample_size(20);
    for keys in [1_000, 10_000, 100_000, 1_000_000] {
        let sql = TUMBLE.replace("{KEY}", "device,").replace("{SIZE}", "1000000000");
        let mut steps = steps(&sql);
        let rows = batches(keys as usize * 4 / BATCH + 1, BATCH, keys, START_MS);
        for batch in &rows {
            steps.batch(batch);
        }
        group.throughput(Throughput::Elements(64 * BATCH as u64));
        let mut turn = rows.iter().cycle();
        group.bench_function(format!("update/{keys}"), |bencher| {
            bencher.iter(|| turn.by_ref().take(64).map(|batch| steps.batch(batch)).sum::<usize>());
        });
        group.throughput(Throughput::Elements(keys));
        group.bench_function(format!("snapshot/{keys}"), |bencher| bencher.iter(|| steps.snapshot().len()));
    }
}

/// Every row with values of the rows of its key before it. The watermark is a second, 1,000 rows, behind.
fn over(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("over");
    group.sample_size(20);
    let queries = [
        ("rolling_10_rows", "avg(temp)", "ROWS BETWEEN 9 PRECEDING AND CURRENT ROW"),
        ("rolling_100_rows", "avg(temp)", "ROWS BETWEEN 99 PRECEDING AND CURRENT ROW"),
        ("rolling_range", "max(temp)", "RANGE BETWEEN INTERVAL '30 seconds' PRECEDING AND CURRENT ROW"),
        ("running_sum", "sum(temp)", ""),
        ("rolling_stddev", "stddev(temp)", "ROWS BETWEEN 9 PRECEDING AND CURRENT ROW"),
        ("lag", "lag(temp)", ""),
        ("lag_text", "lag(device)", ""),
        ("lead", "lead(temp)", ""),
        ("row_number", "row_number()", ""),
    ];
    for (name, function, frame) in queries {
        let sql = format!("SELECT ts, device, {function} OVER (PARTITION BY device ORDER BY ts {frame}) AS f FROM s");
        let mut steps = steps(&sql);
        let mut start = START_MS;
        group.throughput(Throughput::Elements(16 * BATCH as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    let batches = batches(16, BATCH, 1000, start);
                    start += (16 * BATCH) as i64;
                    batches
                },
                |batches| feed(&mut steps, batches),
                BatchSize::LargeInput,
            );
        });
    }
}

fn edges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("edges");
    group.throughput(Throughput::Elements(BATCH as u64));
    let batch = batches(1, BATCH, 1000, START_MS).remove(0);
    for shards in [1, 2, 4] {
        let mut spread = Spread::new(vec![1], shards);
        group.bench_function(format!("exchange/{shards}"), |bencher| {
            bencher.iter(|| black_box(spread.batch(batch.clone())));
        });
    }
    for (name, delay) in [("within_the_delay", 60), ("in_order", 0)] {
        let mut clock = Clock::new(0, Duration::from_secs(delay));
        group.bench_function(format!("event_time/{name}"), |bencher| {
            bencher.iter_batched(|| batch.clone(), |batch| black_box(clock.batch(batch)), BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, stateless, aggregate, open_groups, over, edges);
criterion_main!(benches);
