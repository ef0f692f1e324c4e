//! Decoding and encoding JSON, beside arrow-json in the same run.
//!
//! `cargo bench -p millstream-connectors --bench json`; rates are in rows per second of CPU time of one core, so that a
//! busy machine changes them little.

#![expect(clippy::unwrap_used, reason = "a panic is how a measurement fails")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::json::writer::LineDelimited;
use arrow::json::{ReaderBuilder, WriterBuilder};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream_connectors::format::{DecodeOptions, Decoder, FormatConfig};
use rand::{Rng, SeedableRng};

/// Messages of one batch.
const ROWS: usize = 8192;

/// The CPU time of this thread, in nanoseconds.
struct CpuTime;

impl CpuTime {
    #[expect(unsafe_code, reason = "nothing else tells a thread's CPU time to the nanosecond")]
    fn now() -> f64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is ours, and of the type that is written.
        assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    }
}

impl Measurement for CpuTime {
    type Intermediate = f64;
    type Value = f64;

    fn start(&self) -> f64 {
        Self::now()
    }

    fn end(&self, start: f64) -> f64 {
        Self::now() - start
    }

    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        // It takes nanoseconds, whatever clock they are of.
        static NANOSECONDS: WallTime = WallTime;
        NANOSECONDS.formatter()
    }
}

/// Messages of a sensor: nine fields, about 146 bytes.
fn messages() -> Vec<String> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let message = |i: usize| {
        let (device, mut text) = (random.random_range(0..1000), String::new());
        let status = if i.is_multiple_of(50) { "warn" } else { "ok" };
        write!(
            text,
            r#"{{"ts":{},"device":"dev-{device:04}","site":"plant-{}","temp":{:.3},"humidity":{:.2},"pressure":{:.2},"seq":{i},"status":"{status}","fw":"1.{}.0"}}"#,
            1_700_000_000_000_usize + i,
            device % 7,
            random.random_range(15.0..35.0),
            random.random_range(40.0..60.0),
            random.random_range(1000.0..1030.0),
            device % 10,
        )
        .unwrap();
        text
    };
    (0..ROWS).map(message).collect()
}

fn columns(wanted: &[&str]) -> SchemaRef {
    let all = [
        ("ts", DataType::Timestamp(TimeUnit::Millisecond, None)),
        ("device", DataType::Utf8),
        ("site", DataType::Utf8),
        ("temp", DataType::Float64),
        ("humidity", DataType::Float64),
        ("pressure", DataType::Float64),
        ("seq", DataType::Int64),
        ("status", DataType::Utf8),
        ("fw", DataType::Utf8),
    ];
    let fields = all.into_iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name));
    Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).collect::<Vec<_>>()))
}

fn decoder(columns: &SchemaRef) -> Box<dyn Decoder> {
    let timestamp_units = BTreeMap::from([("ts".to_owned(), TimeUnit::Millisecond)]);
    let options = DecodeOptions { columns: columns.clone(), declared: columns.clone(), timestamp_units };
    FormatConfig::default().decoder(options).unwrap()
}

fn rows(columns: &SchemaRef) -> RecordBatch {
    let decoded = decoder(columns).decode(&BinaryArray::from_iter_values(messages()));
    assert!(decoded.errors.is_empty() && decoded.rows.num_rows() == ROWS);
    decoded.rows
}

fn decode(criterion: &mut Criterion<CpuTime>) {
    let messages = messages();
    let payloads = BinaryArray::from_iter_values(&messages);
    let lines = messages.join("\n");
    for (name, wanted) in [("3 of 9", &["ts", "device", "temp"][..]), ("9 of 9", &[])] {
        let mut group = criterion.benchmark_group(format!("decode {name}"));
        group.throughput(Throughput::Elements(ROWS as u64));
        let columns = columns(wanted);
        let mut decoder = decoder(&columns);
        group.bench_function("millstream", |bench| bench.iter(|| decoder.decode(black_box(&payloads))));
        let mut other = ReaderBuilder::new(columns).with_batch_size(ROWS).build_decoder().unwrap();
        group.bench_function("arrow-json", |bench| {
            bench.iter(|| {
                other.decode(black_box(lines.as_bytes())).unwrap();
                other.flush().unwrap()
            });
        });
    }
}

fn encode(criterion: &mut Criterion<CpuTime>) {
    let columns = columns(&["ts", "device", "temp"]);
    let rows = rows(&columns);
    let mut group = criterion.benchmark_group("encode 3");
    group.throughput(Throughput::Elements(ROWS as u64));
    let mut encoder = FormatConfig::default().encoder(columns).unwrap();
    group.bench_function("millstream", |bench| bench.iter(|| encoder.encode(black_box(&rows)).unwrap()));
    group.bench_function("arrow-json", |bench| {
        bench.iter(|| {
            let mut writer = WriterBuilder::new().build::<_, LineDelimited>(Vec::with_capacity(1 << 20));
            writer.write(black_box(&rows)).unwrap();
            writer.finish().unwrap();
            writer.into_inner()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = decode, encode
}
criterion_main!(benches);
