//! What all measurements share: services, started when first needed, a folder, names of topics, progress.

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};

use millstream_tests::services::{Kafka, KafkaOptions, Mosquitto};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::args::Args;
use crate::failure::{Failure, Result};
use crate::progress::Progress;

/// Services and places.
pub(crate) struct Bench {
    pub(crate) args: Args,
    pub(crate) runtime: Runtime,
    progress: Progress,
    // Before the folder: they end first.
    kafka: OnceCell<Kafka>,
    mosquitto: OnceCell<Mosquitto>,
    folder: TempDir,
    topics: Cell<u32>,
}

impl Bench {
    pub(crate) fn new(args: Args) -> Result<Self> {
        // Room for the harness's clients and the HTTP sink's server.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self {
            args,
            runtime,
            progress: Progress::new(),
            kafka: OnceCell::new(),
            mosquitto: OnceCell::new(),
            folder: tempfile::Builder::new().prefix("millstream-bench-").tempdir()?,
            topics: Cell::new(0),
        })
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// For everything that a run writes; removed at the end.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder to keep what belongs to `name`, where that was asked for.
    pub(crate) fn keep(&self, name: &str) -> Option<PathBuf> {
        self.args.keep.as_ref().map(|folder| folder.join(name))
    }

    fn kafka(&self) -> Result<&Kafka> {
        if let Some(kafka) = self.kafka.get() {
            return Ok(kafka);
        }
        let kafka = match &self.args.kafka {
            Some(brokers) => Kafka::named(brokers),
            None => {
                self.progress.begin("starting Apache Kafka (fetched on first use)");
                let options = KafkaOptions { load: true, ..KafkaOptions::default() };
                self.runtime.block_on(Kafka::try_start(options)).map_err(|e| Failure(format!("no Kafka: {e}")))?
            }
        };
        Ok(self.kafka.get_or_init(|| kafka))
    }

    /// Kafka's address.
    pub(crate) fn brokers(&self) -> Result<&str> {
        Ok(&self.kafka()?.brokers)
    }

    /// The MQTT broker.
    pub(crate) fn mosquitto(&self) -> Result<&Mosquitto> {
        if let Some(broker) = self.mosquitto.get() {
            return Ok(broker);
        }
        let broker = match &self.args.mqtt {
            Some(address) => Mosquitto::named(address).map_err(Failure)?,
            None => {
                self.progress.begin("starting Mosquitto");
                // Nothing is written to its disk: the daemon's ingest log is what is measured.
                let started = self.runtime.block_on(Mosquitto::try_start(false));
                started.map_err(|e| Failure(format!("no MQTT broker: {e}")))?
            }
        };
        Ok(self.mosquitto.get_or_init(|| broker))
    }

    /// The MQTT broker as `host:port`.
    pub(crate) fn mqtt_address(&self) -> Result<String> {
        let broker = self.mosquitto()?;
        Ok(format!("{}:{}", broker.host, broker.port))
    }

    /// A name that no other run has.
    pub(crate) fn name(&self, purpose: &str) -> String {
        self.topics.set(self.topics.get() + 1);
        format!("bench-{}-{purpose}-{}", std::process::id(), self.topics.get())
    }

    /// A new Kafka topic of one partition.
    pub(crate) fn new_topic(&self, purpose: &str) -> Result<String> {
        let topic = self.name(purpose);
        self.runtime.block_on(self.kafka()?.create_topic(&topic, 1));
        Ok(topic)
    }
}
