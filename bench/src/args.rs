//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Measures a built Millstream daemon on real Apache Kafka and Mosquitto.
///
/// Starts the services on free ports of 127.0.0.1, writes messages (146 bytes of JSON, 9 fields, 1,000 devices, always the
/// same), runs the daemon on pipelines of its own, checks that every row came out, and prints a table. What the figures
/// mean and how they are taken is in docs/performance.md.
#[derive(Debug, Parser)]
#[command(name = "bench", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to measure; everything where this and --profile are missing.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,…")]
    pub(crate) only: Vec<Part>,
    /// The daemon to measure; `millstream` beside this program where this is missing. Several are run in turns (A B A B)
    /// and compared with the first.
    #[arg(long, value_name = "PATH")]
    pub(crate) daemon: Vec<PathBuf>,
    /// So many messages for works (a), (b) and (c).
    #[arg(long, default_value_t = 3_000_000)]
    pub(crate) messages: u64,
    /// So many messages for work (a) over MQTT.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) mqtt_messages: u64,
    /// How often each work is run; the table shows the medians. 3 where several daemons or variants are compared, else 1.
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// Messages per second for the latency.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) rate: u32,
    /// How long latency is measured, behind 5 s that do not count.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub(crate) latency_seconds: u32,
    /// So many pipelines in one daemon, against the same work in one pipeline.
    #[arg(long, default_value_t = 100)]
    pub(crate) pipelines: usize,
    /// Puts a value into every pipeline: `/sources/readings/linger=1ms`, `/limits/parallelism=2`,
    /// `/sinks/out/kafka/librdkafka/linger.ms=20`. Names with a dot are written as they are; `~1` stands for `/`.
    #[arg(long, value_name = "/PATH=VALUE")]
    pub(crate) set: Vec<String>,
    /// An environment variable for the daemon.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Further settings to compare with the plain ones, run in turns with them: several of `/PATH=VALUE` (as --set) and
    /// `NAME=VALUE` (as --env), with spaces between them.
    #[arg(long, value_name = "SETTING …")]
    pub(crate) variant: Vec<String>,
    /// Run this work under `perf record` and print where the daemon's time goes.
    #[arg(long, value_enum, value_name = "WORK")]
    pub(crate) profile: Option<Profiled>,
    /// Also write all figures here, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Keep pipelines, logs and profiles in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) keep: Option<PathBuf>,
    /// Use a running Kafka, not one of the driver's own.
    #[arg(long, env = "MILLSTREAM_TEST_KAFKA", value_name = "HOST:PORT")]
    pub(crate) kafka: Option<String>,
    /// Use a running MQTT broker, not a Mosquitto of the driver's own.
    #[arg(long, env = "MILLSTREAM_TEST_MQTT", value_name = "HOST:PORT")]
    pub(crate) mqtt: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  bench --only a,b,c                        throughput of the three works over Kafka
  bench --only a --messages 300000          a short look
  bench --only a --daemon old --daemon new  two daemons in turns, with ratios
  bench --only b --variant '/limits/batch_rows_max=65536'
                                            one daemon, with and without a setting
  bench --profile a                         where the time of work (a) goes";

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Part {
    /// Kafka → `SELECT ts, device, temp WHERE temp > 25` → Kafka
    A,
    /// Kafka → 10 s tumbling avg, max, count by device → Kafka
    B,
    /// Kafka → the average over the last 10 rows of the device, at every row → Kafka
    C,
    /// Work (a) from Mosquitto, QoS 1, with the ingest log
    Mqtt,
    /// MQTT → SQL → HTTP and Kafka → SQL → Kafka at a fixed rate
    Latency,
    /// From the daemon's start to its first row
    Start,
    /// Memory of a daemon that has nothing to do
    Memory,
    /// The pause that a changed file makes
    Reload,
    /// Many pipelines in one daemon, against one that does all
    Pipelines,
}

/// What can be profiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profiled {
    /// Work (a).
    A,
    /// Work (b).
    B,
    /// Work (c).
    C,
    /// Work (a) over MQTT.
    Mqtt,
}

impl Args {
    /// Whether a part is asked for. A profile alone is a profile alone.
    pub(crate) fn wants(&self, part: Part) -> bool {
        let all = self.only.is_empty() && self.profile.is_none();
        all || self.only.contains(&part)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn parts_are_a_list_with_commas() {
        let args = Args::parse_from(["bench", "--only", "a,latency"]);
        assert!(args.wants(Part::A) && args.wants(Part::Latency) && !args.wants(Part::B));
        assert!(Args::parse_from(["bench"]).wants(Part::Reload));
        assert!(!Args::parse_from(["bench", "--profile", "a"]).wants(Part::Reload));
    }
}
