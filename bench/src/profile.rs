//! Where the daemon's time goes: samples of `perf` within the steady state, counted by stage of a row's way and by symbol.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::{Context, Failure, Result, failed};
use crate::report;

/// Samples per second of CPU time.
const FREQUENCY: &str = "299";
/// Bytes of each stack that are kept: deep enough to find the stage.
const CALL_GRAPH: &str = "dwarf,16384";
/// So many symbols are shown of each stage.
const SYMBOLS: usize = 6;
const INSTALL: &str = "perf is needed for --profile (on Debian: apt-get install linux-perf; and \
                       kernel.perf_event_paranoid at 1 or lower, or root)";

/// By what a frame tells the stage of a row's way. A sample belongs to the innermost frame that matches.
const STAGES: &[(&str, &[&str])] = &[
    ("encode", &["::format::json::encode", "::format::csv::encode", "Encoder", "arrow_cast::display"]),
    ("decode", &["connectors::format::", "Decoder", "arrow_json", "arrow_cast::parse"]),
    ("ingest log", &["::ingest::"]),
    ("MQTT", &["rumqttc", "connectors::mqtt"]),
    ("HTTP", &["hyper", "reqwest", "connectors::http"]),
    (
        "consume from Kafka",
        &[
            "connectors::kafka::source",
            "connectors::kafka::consumer",
            "connectors::kafka::batch",
            "kafka::native::consumer",
            "kafka::native::message",
            "rd_kafka_fetch",
            "rd_kafka_msgset_reader",
            "rd_kafka_msgset_parse",
            "rd_kafka_consume",
            "rd_kafka_broker_fetch",
            "rd_kafka_broker_consumer",
            "rd_kafka_handle_Fetch",
            "BaseConsumer",
        ],
    ),
    (
        "produce to Kafka",
        &[
            "connectors::kafka::sink",
            "connectors::kafka::send",
            "kafka::native::producer",
            "kafka::native::outgoing",
            "kafka::native::event",
            "connectors::kafka::delivery",
            "connectors::kafka::record",
            "rd_kafka_produce",
            "rd_kafka_msgset_writer",
            "rd_kafka_msgset_create",
            "rd_kafka_msg_partitioner",
            "rd_kafka_msg_new",
            "rd_kafka_broker_produce",
            "rd_kafka_handle_Produce",
            "rd_kafka_dr_",
            "rd_kafka_toppar_producer",
            "BaseProducer",
        ],
    ),
    (
        "windows and groups",
        &[
            "operators::aggregate",
            "operators::window",
            "operators::pane_aggregate",
            "operators::packed",
            "operators::session",
            "operators::per_window",
            "operators::updating",
            "GroupsAccumulator",
            "datafusion_physical_plan::aggregates",
            "datafusion_functions_aggregate",
        ],
    ),
    ("OVER", &["operators::over"]),
    ("joins", &["operators::join"]),
    ("MATCH_RECOGNIZE", &["operators::pattern"]),
    ("filter and projection", &["operators::", "datafusion", "arrow_select", "arrow_ord", "arrow_arith"]),
    ("event time", &["event_time"]),
    ("snapshots", &["engine::checkpoint", "engine::coordinator", "engine::snapshot"]),
];
/// Where no frame tells the stage.
const REST: &[(&str, &[&str])] = &[
    ("librdkafka, the rest", &["rd_kafka", "rdkafka"]),
    ("engine, the rest", &["millstream"]),
    ("runtime", &["tokio"]),
];
const OTHER: &str = "(not known)";

/// `perf record` of one process.
#[derive(Debug)]
pub(crate) struct Recording {
    data: PathBuf,
    perf: Option<Child>,
}

impl Recording {
    /// Will write to `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        match Command::new("perf").arg("--version").stdout(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(Self { data: folder.join("perf.data"), perf: None }),
            _ => failed(INSTALL),
        }
    }

    pub(crate) fn start(&mut self, pid: u32) -> Result<()> {
        let mut command = Command::new("perf");
        command.args(["record", "-q", "-F", FREQUENCY, "--call-graph", CALL_GRAPH, "-p", &pid.to_string(), "-o"]);
        command.arg(&self.data).stdin(Stdio::null()).stdout(Stdio::null());
        self.perf = Some(command.spawn().context(|| "cannot start perf".to_owned())?);
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut perf) = self.perf.take() else { return Ok(()) };
        // It writes the rest of its data on the way out.
        kill_process(Pid::from_child(&perf), Signal::INT)?;
        perf.wait()?;
        Ok(())
    }

    /// What was recorded.
    pub(crate) fn profile(&self) -> Result<Profile> {
        let mut command = Command::new("perf");
        command.args(["script", "--no-inline", "-F", "comm,ip,sym", "-i"]).arg(&self.data);
        let output = command.stderr(Stdio::null()).output().context(|| "cannot start perf script".to_owned())?;
        let profile = Profile::parse(&String::from_utf8_lossy(&output.stdout));
        if profile.samples == 0 { Err(Failure(format!("perf took no sample; {INSTALL}"))) } else { Ok(profile) }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // On the way out of a failed run nobody can be told.
        self.stop().ok();
    }
}

/// Samples by stage and symbol.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    samples: u64,
    stages: BTreeMap<&'static str, BTreeMap<String, u64>>,
}

impl Profile {
    /// Reads what `perf script -F comm,ip,sym` prints: blocks of a thread's name and its frames, innermost first.
    fn parse(script: &str) -> Self {
        let mut profile = Self::default();
        for block in script.split("\n\n") {
            let mut lines = block.trim_start_matches('\n').lines();
            if lines.next().is_none() {
                continue;
            }
            let frames: Vec<&str> = lines.filter_map(|line| Some(line.trim().split_once(' ')?.1)).collect();
            let Some(innermost) = frames.first() else { continue };
            profile.samples += 1;
            *profile.stages.entry(stage(&frames)).or_default().entry(short(innermost)).or_default() += 1;
        }
        profile
    }

    /// A table of the stages, the most expensive first, and the symbols in which their time is spent. `cpu_s_per_million`
    /// is what all of it costs.
    pub(crate) fn text(&self, cpu_s_per_million: f64) -> String {
        let share = |count: u64| count as f64 / self.samples.max(1) as f64;
        let mut stages: Vec<_> =
            self.stages.iter().map(|(name, symbols)| (symbols.values().sum::<u64>(), name, symbols)).collect();
        stages.sort_by(|one, other| other.cmp(one));
        let rows = stages.iter().map(|(count, name, _)| {
            let share = share(*count);
            vec![(**name).to_owned(), format!("{:.1}%", share * 1e2), format!("{:.3}", share * cpu_s_per_million)]
        });
        let table = report::table(&["stage", "share", "CPU s/M"], rows.collect());
        let mut text = format!("{table}\n\nby symbol, of {} samples:\n", self.samples);
        for (count, name, symbols) in stages {
            text.push_str(&format!("{:6.1}%  {name}\n", share(count) * 1e2));
            let mut symbols: Vec<_> = symbols.iter().collect();
            symbols.sort_by_key(|(symbol, count)| (std::cmp::Reverse(**count), (*symbol).clone()));
            for (symbol, count) in symbols.into_iter().take(SYMBOLS) {
                text.push_str(&format!("           {:5.1}%  {symbol}\n", share(*count) * 1e2));
            }
        }
        text
    }
}

fn stage(frames: &[&str]) -> &'static str {
    let innermost = |stages: &[(&'static str, &[&str])]| {
        frames.iter().find_map(|frame| {
            let matches = |parts: &[&str]| parts.iter().any(|part| frame.contains(part));
            stages.iter().find(|(_, parts)| matches(parts)).map(|(name, _)| *name)
        })
    };
    innermost(STAGES).or_else(|| innermost(REST)).unwrap_or(OTHER)
}

/// A symbol without the hash behind it, and not too long.
fn short(symbol: &str) -> String {
    let symbol = symbol.trim();
    let symbol = symbol.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16).map_or(symbol, |(name, _)| name);
    symbol.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
tokio-rt-worker 
\t    55d0 __memmove_avx
\t    55d1 millstream_connectors::format::json::Decoder::decode::h0123456789abcdef
\t    55d2 millstream::engine::source_task::run

rdk:broker1 
\t    77a0 rd_kafka_msgset_reader_v2
\t    77a1 rd_kafka_thread_main

tokio-rt-worker 
\t    55d0 [unknown]

";

    #[test]
    fn a_sample_belongs_to_the_innermost_stage() {
        let profile = Profile::parse(SCRIPT);
        assert_eq!(profile.samples, 3);
        assert_eq!(profile.stages["decode"], BTreeMap::from([("__memmove_avx".to_owned(), 1)]));
        assert_eq!(profile.stages["consume from Kafka"].len(), 1);
        assert_eq!(profile.stages[OTHER].len(), 1);
        let text = profile.text(1.2);
        assert!(text.contains(" 33.3%  decode"), "{text}");
        let line = text.lines().find(|line| line.starts_with("| decode ")).unwrap();
        assert!(line.contains(" 33.3% ") && line.contains(" 0.400 "), "{line}");
    }

    #[test]
    fn hashes_are_cut_off() {
        assert_eq!(short("a::b::h0123456789abcdef"), "a::b");
        assert_eq!(short("a::hello"), "a::hello");
    }
}
