//! Many pipelines in one daemon against one pipeline that does the same work, and against one that does a part of it in a
//! daemon of its own: what a pipeline costs.

use std::time::{Duration, Instant};

use rdkafka::producer::Producer as _;
use serde::Serialize;
use serde_json::Value;

use crate::Results;
use crate::bench::Bench;
use crate::daemon::Daemon;
use crate::failure::{Result, failed};
use crate::memory::Idle;
use crate::messages::{Expectation, Messages};
use crate::pipelines;
use crate::procfs;
use crate::report;
use crate::rounds::in_turns;
use crate::schedule::Schedule;
use crate::throughput::megabytes;
use crate::topics::{Counter, producer, send};
use crate::variant::Variant;

/// Messages per second of all pipelines together.
const RATE: u32 = 20_000;
/// How long they come.
const LOAD: Duration = Duration::from_secs(20);
/// All rows are out so long after the last message.
const PATIENCE: Duration = Duration::from_secs(30);

/// The figures of one run.
#[derive(Debug, Clone, Serialize)]
struct Many {
    idle: Idle,
    rate: u32,
    /// Under load.
    cores: f64,
    cpu_s_per_million: f64,
    peak_mb: f64,
    rows: u64,
}

/// Measures the three.
pub(crate) fn measure(bench: &Bench, variants: &[Variant], results: &mut Results) -> Result<()> {
    let count = bench.args.pipelines.max(1);
    let topics = (0..count).map(|_| bench.new_topic("many-in")).collect::<Result<Vec<_>>>()?;
    let share = RATE / count as u32;
    let cases = [
        (format!("{count} pipelines"), "many", topics.iter().map(std::slice::from_ref).collect::<Vec<_>>(), RATE),
        ("one pipeline, all the work".to_owned(), "one", vec![topics.as_slice()], RATE),
        (format!("one pipeline, 1/{count} of it"), "part", vec![&topics[..1]], share.max(1)),
    ];
    let (mut rows, mut all) = (Vec::new(), serde_json::Map::new());
    for (title, name, of_pipelines, rate) in cases {
        let what = format!("{title}, {} msg/s", report::thousands(f64::from(rate)));
        let runs = in_turns(bench, variants, &what, |variant| run(bench, variant, &of_pipelines, rate))?;
        for (variant, run) in variants.iter().zip(&runs).filter_map(|(variant, runs)| Some((variant, runs.last()?))) {
            rows.push(row(&format!("{title} {}", variant.name), run));
        }
        all.insert(name.to_owned(), serde_json::to_value(runs)?);
    }
    let header = ["", "msg/s", "idle MB", "idle cores", "threads", "peak MB", "cores", "CPU s/M"];
    let title = format!("{count} pipelines in one daemon, against the same work in one and a part of it alone");
    results.add("pipelines", &format!("{title}\n{}\n", report::table(&header, rows)), &all)
}

fn row(title: &str, run: &Many) -> Vec<String> {
    vec![
        title.trim_end().to_owned(),
        report::thousands(f64::from(run.rate)),
        format!("{:.1}", run.idle.resident_mb),
        format!("{:.4}", run.idle.cores),
        run.idle.threads.to_string(),
        format!("{:.1}", run.peak_mb),
        format!("{:.3}", run.cores),
        format!("{:.2}", run.cpu_s_per_million),
    ]
}

/// Runs one pipeline for each list of topics, and sends messages to all topics in turns.
fn run(bench: &Bench, variant: &Variant, of_pipelines: &[&[String]], rate: u32) -> Result<Many> {
    let (brokers, to) = (bench.brokers()?, bench.new_topic("many-out")?);
    let sink = pipelines::kafka_sink(brokers, &to);
    let pipelines: Vec<Value> = of_pipelines
        .iter()
        .enumerate()
        .map(|(index, topics)| {
            let source = pipelines::kafka_source(brokers, topics);
            // What an earlier run read is not read again.
            let mut pipeline = pipelines::pipeline(&format!("{to}-{index}"), &source, pipelines::FILTER, &sink);
            pipeline["sources"]["readings"]["kafka"]["start_offset"] = Value::from("latest");
            pipeline
        })
        .collect();
    let topics: Vec<&String> = of_pipelines.iter().flat_map(|topics| topics.iter()).collect();
    let mut daemon = Daemon::start(variant, bench.folder(), &pipelines)?;
    let idle = Idle::of(&mut daemon)?;
    let before = daemon.usage()?;
    let messages = u64::from(rate) * LOAD.as_secs();
    let expected = produce(brokers, &topics, messages, rate)?;
    let counter = Counter::new(brokers, &to)?;
    let deadline = Instant::now() + PATIENCE;
    while counter.rows()? < expected {
        daemon.check()?;
        if Instant::now() > deadline {
            let rows = counter.rows()?;
            return failed(format!("{rows} of {expected} rows came; the log:\n{}", daemon.log_tail()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let after = daemon.usage()?;
    let peak_mb = megabytes(procfs::peak_bytes(daemon.id())?);
    daemon.stop(None)?;
    let rows = counter.rows()?;
    if rows != expected {
        return failed(format!("{rows} rows came, and not {expected}"));
    }
    let cpu_s = after.cpu_s - before.cpu_s;
    let cores = cpu_s / (after.at - before.at).as_secs_f64();
    Ok(Many { idle, rate, cores, cpu_s_per_million: cpu_s / messages as f64 * 1e6, peak_mb, rows })
}

/// Sends messages at the rate; how many rows must come of them.
fn produce(brokers: &str, topics: &[&String], count: u64, rate: u32) -> Result<u64> {
    // A millisecond's messages at a time: the driver's wake-ups are not what is measured.
    let (producer, mut messages, mut json) =
        (producer(brokers, Duration::from_millis(1))?, Messages::new(), Vec::new());
    let mut expectation = Expectation::default();
    Schedule::new(Instant::now(), rate).run(count, |number| {
        json.clear();
        let message = messages.write_next(&mut json);
        expectation.add(&message);
        if number % 100 == 0 {
            producer.poll(Duration::ZERO);
        }
        send(&producer, topics[number as usize % topics.len()], &message.key(), &json)
    })?;
    producer.flush(PATIENCE)?;
    Ok(expectation.warm)
}
