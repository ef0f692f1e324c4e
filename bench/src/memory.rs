//! Memory and CPU time of a daemon that has nothing to do: without a pipeline, and with one on each connector.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::Results;
use crate::bench::Bench;
use crate::daemon::Daemon;
use crate::failure::Result;
use crate::pipelines;
use crate::procfs;
use crate::report;
use crate::rounds::{in_turns, median};
use crate::throughput::megabytes;
use crate::variant::Variant;

/// The start is over after so long.
const SETTLE: Duration = Duration::from_secs(3);
/// CPU time is taken over so long.
const WATCH: Duration = Duration::from_secs(5);

/// What an idle daemon costs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Idle {
    pub(crate) resident_mb: f64,
    /// The most since its start.
    pub(crate) peak_mb: f64,
    /// Seconds of CPU per second.
    pub(crate) cores: f64,
    pub(crate) threads: usize,
}

impl Idle {
    /// Looks at a daemon to which nothing comes.
    pub(crate) fn of(daemon: &mut Daemon) -> Result<Self> {
        std::thread::sleep(SETTLE);
        let before = daemon.usage()?;
        std::thread::sleep(WATCH);
        daemon.check()?;
        let after = daemon.usage()?;
        Ok(Self {
            resident_mb: megabytes(after.resident_bytes),
            peak_mb: megabytes(procfs::peak_bytes(daemon.id())?),
            cores: (after.cpu_s - before.cpu_s) / (after.at - before.at).as_secs_f64(),
            threads: procfs::threads(daemon.id())?.len(),
        })
    }
}

/// Measures idle daemons.
pub(crate) fn measure(bench: &Bench, variants: &[Variant], results: &mut Results) -> Result<()> {
    let (brokers, broker) = (bench.brokers()?, bench.mosquitto()?);
    let (from, to) = (bench.new_topic("idle-in")?, bench.new_topic("idle-out")?);
    let kafka = pipelines::kafka_source(brokers, &[from]);
    let mqtt = pipelines::mqtt_source(&broker.host, broker.port, "nothing/+");
    let sink = pipelines::kafka_sink(brokers, &to);
    let cases: [(&str, &str, Vec<Value>); 3] = [
        ("no pipeline", "none", Vec::new()),
        (
            "one pipeline, Kafka → Kafka",
            "kafka",
            vec![pipelines::pipeline("idle-kafka", &kafka, pipelines::FILTER, &sink)],
        ),
        ("one pipeline, MQTT → Kafka", "mqtt", vec![pipelines::pipeline("idle-mqtt", &mqtt, pipelines::FILTER, &sink)]),
    ];
    let (mut rows, mut all) = (Vec::new(), serde_json::Map::new());
    for (title, name, pipelines) in cases {
        let runs = in_turns(bench, variants, &format!("Idle daemon, {title}"), |variant| {
            let mut daemon = Daemon::start(variant, bench.folder(), &pipelines)?;
            let idle = Idle::of(&mut daemon)?;
            daemon.stop(None)?;
            Ok(idle)
        })?;
        rows.extend(variants.iter().zip(&runs).map(|(variant, runs)| row(&format!("{title} {}", variant.name), runs)));
        all.insert(name.to_owned(), serde_json::to_value(runs)?);
    }
    let table = report::table(&["", "resident MB", "peak MB", "cores", "threads"], rows);
    results.add("memory", &format!("Idle daemon\n{table}\n"), &all)
}

fn row(title: &str, runs: &[Idle]) -> Vec<String> {
    let of = |figure: fn(&Idle) -> f64| median(runs.iter().map(figure));
    vec![
        title.trim_end().to_owned(),
        format!("{:.1}", of(|idle| idle.resident_mb)),
        format!("{:.1}", of(|idle| idle.peak_mb)),
        format!("{:.4}", of(|idle| idle.cores)),
        format!("{:.0}", of(|idle| idle.threads as f64)),
    ]
}
