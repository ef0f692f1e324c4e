//! How long it takes from the daemon's start, with the broker up, to the first row at the sink's topic.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Results;
use crate::bench::Bench;
use crate::daemon::Daemon;
use crate::failure::{Result, failed};
use crate::pipelines;
use crate::report;
use crate::rounds::{in_turns, median};
use crate::topics::{Reader, fill};
use crate::variant::Variant;

/// Messages that are there when the daemon starts.
const MESSAGES: u64 = 1_000;
/// Starts in one run.
const STARTS: usize = 5;
const FIRST_ROW_TIMEOUT: Duration = Duration::from_secs(30);

/// The times of one run's starts, in milliseconds.
#[derive(Debug, Clone, Serialize)]
struct Starts {
    first_row_ms: Vec<f64>,
}

/// Measures starts.
pub(crate) fn measure(bench: &Bench, variants: &[Variant], results: &mut Results) -> Result<()> {
    let title = format!("Start to first row, Kafka → Kafka, {STARTS} starts");
    let from = bench.new_topic("start-in")?;
    fill(bench.brokers()?, &from, MESSAGES, bench.progress())?;
    let runs = in_turns(bench, variants, &title, |variant| {
        let first_row_ms = (0..STARTS).map(|_| start(bench, variant, &from)).collect::<Result<_>>()?;
        Ok(Starts { first_row_ms })
    })?;
    let rows = variants.iter().zip(&runs).map(|(variant, runs)| {
        let times = || runs.iter().flat_map(|run| run.first_row_ms.iter().copied());
        let least = times().fold(f64::INFINITY, f64::min);
        let most = times().fold(0.0, f64::max);
        vec![variant.name.clone(), format!("{least:.0}"), format!("{:.0}", median(times())), format!("{most:.0}")]
    });
    let table = report::table(&["", "least ms", "median ms", "most ms"], rows.collect());
    results.add("start", &format!("{title}\n{table}\n"), &runs)
}

fn start(bench: &Bench, variant: &Variant, from: &str) -> Result<f64> {
    let (brokers, to) = (bench.brokers()?, bench.new_topic("start-out")?);
    let reader = Reader::new(brokers, &to, true)?;
    // The reader's own connection is made before the daemon is started.
    reader.next(Duration::from_millis(300), |_| {})?;
    let source = pipelines::kafka_source(brokers, &[from.to_owned()]);
    let pipeline = pipelines::pipeline(&to, &source, pipelines::FILTER, &pipelines::kafka_sink(brokers, &to));
    let mut daemon = Daemon::start(variant, bench.folder(), &[pipeline])?;
    while !reader.next(Duration::from_millis(50), |_| {})? {
        daemon.check()?;
        if daemon.started.elapsed() > FIRST_ROW_TIMEOUT {
            return failed(format!("no row came; the log:\n{}", daemon.log_tail()));
        }
    }
    let first = Instant::now() - daemon.started;
    daemon.stop(bench.keep(&to))?;
    Ok(first.as_secs_f64() * 1e3)
}
