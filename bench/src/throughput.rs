//! Works (a), (b), (c) and (a) over MQTT: how fast, at what cost, and whether every row came out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::bench::Bench;
use crate::daemon::Daemon;
use crate::failure::{Context, Result, failed};
use crate::messages::Expectation;
use crate::mqtt::Flow;
use crate::pipelines::{self, WATERMARK_MS};
use crate::procfs;
use crate::profile::Recording;
use crate::steady::{Costs, Phase, Steady};
use crate::topics::{Counter, Reader};
use crate::variant::Variant;
use crate::verify;

/// The output is counted this often, as by other engines' measurements that these are compared with.
const SAMPLE: Duration = Duration::from_millis(50);
/// Until the first row is out it is counted this often.
const SAMPLE_FIRST: Duration = Duration::from_millis(2);
/// Without a further row for so long the work has failed.
const STALLED: Duration = Duration::from_secs(60);
/// Rows that should not come would come within so long.
const EXCESS: Duration = Duration::from_millis(500);
/// An idle daemon is looked at for so long.
const IDLE: Duration = Duration::from_secs(3);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Filter,
    Windows,
    Rolling,
    FilterMqtt,
}

impl Work {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Filter => "(a) filter, Kafka → Kafka",
            Self::Windows => "(b) 10 s windows, Kafka → Kafka",
            Self::Rolling => "(c) rolling average, Kafka → Kafka",
            Self::FilterMqtt => "(a) filter, MQTT QoS 1 → Kafka",
        }
    }

    fn expected_rows(self, expectation: &Expectation) -> u64 {
        match self {
            Self::Filter | Self::FilterMqtt => expectation.warm,
            Self::Windows => expectation.windows(WATERMARK_MS).groups,
            Self::Rolling => expectation.rolling(WATERMARK_MS).rows,
        }
    }

    fn sql(self) -> &'static str {
        match self {
            Self::Filter | Self::FilterMqtt => pipelines::FILTER,
            Self::Windows => pipelines::WINDOWS,
            Self::Rolling => pipelines::ROLLING,
        }
    }
}

/// The figures of one run, or the medians of several.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Throughput {
    pub(crate) messages_per_s: f64,
    pub(crate) messages_per_core_s: f64,
    pub(crate) cpu_s_per_million: f64,
    pub(crate) threads_cpu_s_per_million: BTreeMap<String, f64>,
    pub(crate) resident_peak_mb: f64,
    pub(crate) resident_idle_mb: f64,
    /// From the daemon's start, with the broker up; none over MQTT, where publishing begins when it has subscribed.
    pub(crate) first_row_ms: Option<f64>,
    pub(crate) rows: u64,
    pub(crate) rows_expected: u64,
    pub(crate) window_s: f64,
}

/// Runs a work once on messages that are in `topic` already (Kafka), or on those that `flow` publishes.
pub(crate) fn run(
    bench: &Bench,
    variant: &Variant,
    work: Work,
    input: &Input<'_>,
    mut recording: Option<&mut Recording>,
) -> Result<Throughput> {
    let idle_mb = idle(bench, variant, work, input)?;
    let expectation = input.expectation;
    let expected = work.expected_rows(expectation);
    let topic = bench.new_topic("out")?;
    let pipeline = bench_pipeline(bench, work, &input.source, &topic)?;
    let counter = Counter::new(bench.brokers()?, &topic)?;
    // Its own connection is made before the daemon is started.
    counter.rows()?;
    let mut daemon = Daemon::start(variant, bench.folder(), std::slice::from_ref(&pipeline))?;
    let mut steady = Steady::new(expected);
    let publishing = match input.flow {
        Some(flow) => {
            daemon.wait_for_log("subscribed", 1, STALLED)?;
            Some(flow.start()?)
        }
        None => None,
    };
    let (mut first, mut rows, mut last_row) = (None, 0, Instant::now());
    while rows < expected {
        std::thread::sleep(if first.is_none() { SAMPLE_FIRST } else { SAMPLE });
        let now = counter.rows()?;
        if now > rows {
            (rows, last_row) = (now, Instant::now());
            first.get_or_insert_with(|| daemon.started.elapsed());
        }
        daemon.check()?;
        if let Some(publishing) = &publishing {
            publishing.allow(expectation.messages_behind(rows))?;
        }
        let phase = steady.sample(daemon.usage()?, rows, || procfs::threads(daemon.id()).unwrap_or_default());
        match (phase, recording.as_deref_mut()) {
            (Phase::Opened, Some(recording)) => recording.start(daemon.id())?,
            (Phase::Closed, Some(recording)) => recording.stop()?,
            _ => {}
        }
        bench.progress().show(|| format!("{}: {rows} of {expected} rows out", work.title()));
        if last_row.elapsed() > STALLED {
            return failed(format!("{rows} of {expected} rows came, and no more; the log:\n{}", daemon.log_tail()));
        }
    }
    if let Some(publishing) = publishing {
        publishing.allow(expectation.messages)?;
        publishing.finish()?;
    }
    std::thread::sleep(EXCESS);
    let rows = counter.rows()?;
    let peak = procfs::peak_bytes(daemon.id())?;
    daemon.stop(bench.keep(pipeline["name"].as_str().unwrap_or_default()))?;
    check(bench, work, &topic, rows, expectation)?;
    let costs = steady.costs(expectation.messages);
    let costs = costs.map_or_else(|| failed("all rows came at once: measure with more messages"), Ok)?;
    let first = first.filter(|_| input.flow.is_none());
    Ok(figures(&costs, (rows, expected), (peak, idle_mb), first))
}

/// Where messages come from.
pub(crate) struct Input<'a> {
    pub(crate) source: Value,
    /// The same without a message.
    pub(crate) empty: Value,
    pub(crate) expectation: &'a Expectation,
    /// What publishes, over MQTT.
    pub(crate) flow: Option<&'a Flow>,
}

fn bench_pipeline(bench: &Bench, work: Work, source: &Value, topic: &str) -> Result<Value> {
    Ok(pipelines::pipeline(topic, source, work.sql(), &pipelines::kafka_sink(bench.brokers()?, topic)))
}

/// Memory, in MB, of a daemon with the same pipeline to which nothing comes.
fn idle(bench: &Bench, variant: &Variant, work: Work, input: &Input<'_>) -> Result<f64> {
    let topic = bench.new_topic("idle")?;
    let pipeline = bench_pipeline(bench, work, &input.empty, &topic)?;
    let mut daemon = Daemon::start(variant, bench.folder(), &[pipeline])?;
    std::thread::sleep(IDLE);
    daemon.check()?;
    let resident = daemon.usage()?.resident_bytes;
    daemon.stop(None)?;
    Ok(megabytes(resident))
}

fn check(bench: &Bench, work: Work, topic: &str, rows: u64, expectation: &Expectation) -> Result<()> {
    let reader = Reader::new(bench.brokers()?, topic, false)?;
    let checked = match work {
        Work::Filter | Work::FilterMqtt => verify::warm(&reader, rows, expectation),
        Work::Windows => verify::windows(&reader, rows, expectation),
        Work::Rolling => verify::rolling(&reader, rows, expectation),
    };
    checked.context(|| format!("{}: the rows are wrong", work.title()))
}

fn figures(
    costs: &Costs,
    (rows, expected): (u64, u64),
    (peak, idle_mb): (u64, f64),
    first: Option<Duration>,
) -> Throughput {
    let per_million = |cpu_s: f64| cpu_s / costs.messages * 1e6;
    Throughput {
        messages_per_s: costs.messages / costs.seconds,
        messages_per_core_s: costs.messages / costs.cpu_s,
        cpu_s_per_million: per_million(costs.cpu_s),
        threads_cpu_s_per_million: costs
            .threads_cpu_s
            .iter()
            .map(|(name, s)| (name.clone(), per_million(*s)))
            .collect(),
        resident_peak_mb: megabytes(peak),
        resident_idle_mb: idle_mb,
        first_row_ms: first.map(|first| first.as_secs_f64() * 1e3),
        rows,
        rows_expected: expected,
        window_s: costs.seconds,
    }
}

pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
