//! Every number that Millstream says about itself, as Prometheus metrics first.
//!
//! The table of all metrics is [`Metrics::new`]. Series of a pipeline are removed when the pipeline is.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, GenericCounter, GenericGauge};
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

type Counter = GenericCounter<prometheus::core::AtomicU64>;
type Gauge = GenericGauge<prometheus::core::AtomicF64>;

/// What a metric is, for the documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// Its labels.
    pub labels: Vec<String>,
}

/// The daemon's metrics.
pub struct Metrics {
    registry: Registry,
    described: Vec<Description>,
    source_rows: IntCounterVec,
    source_bytes: IntCounterVec,
    decode_errors: IntCounterVec,
    time_errors: IntCounterVec,
    watermark: GaugeVec,
    watermark_lag: GaugeVec,
    source_lag: IntGaugeVec,
    operator_rows_in: IntCounterVec,
    operator_rows_out: IntCounterVec,
    operator_errors: IntCounterVec,
    late: IntCounterVec,
    state_rows: IntGaugeVec,
    state_bytes: IntGaugeVec,
    sink_rows: IntCounterVec,
    sink_errors: IntCounterVec,
    rejected: IntCounterVec,
    dead_letters: IntCounterVec,
    queue_fill: GaugeVec,
    epochs: IntCounterVec,
    epoch_seconds: HistogramVec,
    restarts: IntCounterVec,
    reloads: IntCounterVec,
    running: IntGaugeVec,
    ingest_bytes: IntGaugeVec,
    table_refreshes: IntCounterVec,
    table_errors: IntCounterVec,
    table_rows: IntGaugeVec,
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let described = RefCell::default();
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            register(&registry, &described, IntCounterVec::new(Opts::new(format!("millstream_{name}"), help), labels)?)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<GaugeVec, prometheus::Error> {
            register(&registry, &described, GaugeVec::new(Opts::new(format!("millstream_{name}"), help), labels)?)
        };
        let int_gauge = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            register(&registry, &described, IntGaugeVec::new(Opts::new(format!("millstream_{name}"), help), labels)?)
        };
        let (source, operator, sink) = (["pipeline", "source"], ["pipeline", "operator"], ["pipeline", "sink"]);
        let table = ["pipeline", "table"];
        let epoch_options =
            HistogramOpts::new("millstream_epoch_seconds", "Time from a barrier to its durable snapshot")
                .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0]);
        Ok(Self {
            source_rows: counter("source_rows_total", "Rows that a source delivered", &source)?,
            source_bytes: counter("source_bytes_total", "Payload bytes that a source delivered", &source)?,
            decode_errors: counter("source_decode_errors_total", "Messages that could not be decoded", &source)?,
            time_errors: counter("source_time_errors_total", "Rows without a usable event time", &source)?,
            watermark: gauge("source_watermark_seconds", "Watermark, in seconds since 1970", &source)?,
            watermark_lag: gauge("source_watermark_lag_seconds", "How far the watermark is behind the clock", &source)?,
            source_lag: int_gauge(
                "source_lag_messages",
                "Messages that the source has still to read",
                &["pipeline", "source", "partition"],
            )?,
            operator_rows_in: counter("operator_rows_in_total", "Rows that came into an operator", &operator)?,
            operator_rows_out: counter("operator_rows_out_total", "Rows that an operator gave out", &operator)?,
            operator_errors: counter("operator_row_errors_total", "Rows for which an operator failed", &operator)?,
            late: counter(
                "late_rows_total",
                "Rows that came after the watermark had passed them or their windows",
                &operator,
            )?,
            state_rows: int_gauge("state_rows", "Rows or groups of state, at the last epoch", &operator)?,
            state_bytes: int_gauge("state_bytes", "About how many bytes of state, at the last epoch", &operator)?,
            sink_rows: counter("sink_rows_total", "Rows handed to a sink", &sink)?,
            sink_errors: counter("sink_errors_total", "Errors of a sink that ended a run", &sink)?,
            rejected: counter("sink_rejected_rows_total", "Rows that a sink's destination refused", &sink)?,
            dead_letters: counter("dead_letters_total", "Dead letters", &["pipeline", "component"])?,
            queue_fill: gauge("queue_fill_ratio", "How full an edge between tasks is, 0 to 1", &["pipeline", "edge"])?,
            epochs: counter("epochs_total", "Complete epochs", &["pipeline"])?,
            epoch_seconds: register(&registry, &described, HistogramVec::new(epoch_options, &["pipeline"])?)?,
            restarts: counter("restarts_total", "Restarts after a failure", &["pipeline"])?,
            reloads: counter("reloads_total", "Changes of files, by result", &["pipeline", "result"])?,
            running: int_gauge("pipeline_running", "1 while the pipeline runs", &["pipeline"])?,
            ingest_bytes: int_gauge("ingest_log_bytes", "Bytes in the ingest log", &source)?,
            table_refreshes: counter("table_refreshes_total", "Times that a table was read again", &table)?,
            table_errors: counter(
                "table_refresh_errors_total",
                "Times that a table could not be read again, and its rows stayed as they were",
                &table,
            )?,
            table_rows: int_gauge("table_rows", "Rows of a table", &table)?,
            registry,
            described: described.into_inner(),
        })
    }

    /// What metrics there are.
    pub fn described(&self) -> &[Description] {
        &self.described
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.measure_watermark_lag();
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot render the metrics");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The lag grows while nothing happens, so it is taken when it is asked for.
    fn measure_watermark_lag(&self) {
        let now = chrono::Utc::now().timestamp_micros() as f64 / 1e6;
        for metric in self.watermark.collect().iter().flat_map(|family| family.get_metric()) {
            let watermark = metric.get_gauge().get_value();
            let label = |name: &str| metric.get_label().iter().find(|label| label.name() == name).map(|l| l.value());
            // Zero is what the gauge has before the first row.
            if let (Some(pipeline), Some(source), true) = (label("pipeline"), label("source"), watermark != 0.0) {
                self.watermark_lag.with_label_values(&[pipeline, source]).set(now - watermark);
            }
        }
    }

    /// The handles of one pipeline.
    pub(crate) fn pipeline(self: &Arc<Self>, name: &str) -> Arc<PipelineMetrics> {
        Arc::new(PipelineMetrics {
            pipeline: name.to_owned(),
            epochs: self.epochs.with_label_values(&[name]),
            epoch_seconds: self.epoch_seconds.with_label_values(&[name]),
            restarts: self.restarts.with_label_values(&[name]),
            running: self.running.with_label_values(&[name]),
            progress: Arc::default(),
            series: Mutex::default(),
            all: self.clone(),
        })
    }

    /// Counts a change of a file.
    pub(crate) fn reload(&self, pipeline: &str, result: &str) {
        self.reloads.with_label_values(&[pipeline, result]).inc();
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    described: &RefCell<Vec<Description>>,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    described.borrow_mut().extend(collector.desc().into_iter().map(|desc| Description {
        name: desc.fq_name.clone(),
        help: desc.help.clone(),
        labels: desc.variable_labels.clone(),
    }));
    Ok(collector)
}

/// A family of series and the labels of one of them.
type Series = (&'static str, Vec<String>);

/// The handles of one pipeline. Its series live until [`PipelineMetrics::remove`].
pub(crate) struct PipelineMetrics {
    pipeline: String,
    pub(crate) epochs: Counter,
    pub(crate) epoch_seconds: Histogram,
    pub(crate) restarts: Counter,
    pub(crate) running: IntGauge,
    /// Set by whatever makes the next epoch worth writing.
    pub(crate) progress: Arc<AtomicBool>,
    series: Mutex<Vec<Series>>,
    all: Arc<Metrics>,
}

/// The handles of a source.
#[derive(Clone)]
pub(crate) struct SourceMetrics {
    pub(crate) rows: Counter,
    pub(crate) bytes: Counter,
    pub(crate) decode_errors: Counter,
    pub(crate) time_errors: Counter,
    pub(crate) watermark_seconds: Gauge,
    pub(crate) progress: Arc<AtomicBool>,
    source: String,
    pipeline: Arc<PipelineMetrics>,
}

/// The handles of an operator.
#[derive(Clone)]
pub(crate) struct OperatorMetrics {
    pub(crate) rows_in: Counter,
    pub(crate) rows_out: Counter,
    pub(crate) errors: Counter,
    pub(crate) late: Counter,
    pub(crate) state_rows: IntGauge,
    pub(crate) state_bytes: IntGauge,
    pub(crate) progress: Arc<AtomicBool>,
}

/// The handles of a table.
#[derive(Clone)]
pub(crate) struct TableMetrics {
    pub(crate) refreshes: Counter,
    pub(crate) errors: Counter,
    pub(crate) rows: IntGauge,
}

/// The handles of a sink.
#[derive(Clone)]
pub(crate) struct SinkMetrics {
    pub(crate) rows: Counter,
    pub(crate) errors: Counter,
    pub(crate) rejected: Counter,
}

impl PipelineMetrics {
    fn note(&self, family: &'static str, labels: &[&str]) {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if !series.iter().any(|(name, known)| *name == family && *known == labels) {
            series.push((family, labels));
        }
    }

    /// The handles of a source.
    pub(crate) fn source(self: &Arc<Self>, source: &str) -> SourceMetrics {
        let labels = [self.pipeline.as_str(), source];
        self.note("source", &labels);
        SourceMetrics {
            rows: self.all.source_rows.with_label_values(&labels),
            bytes: self.all.source_bytes.with_label_values(&labels),
            decode_errors: self.all.decode_errors.with_label_values(&labels),
            time_errors: self.all.time_errors.with_label_values(&labels),
            watermark_seconds: self.all.watermark.with_label_values(&labels),
            progress: self.progress.clone(),
            source: source.to_owned(),
            pipeline: self.clone(),
        }
    }

    /// The handles of an operator.
    pub(crate) fn operator(&self, operator: &str) -> OperatorMetrics {
        let labels = [self.pipeline.as_str(), operator];
        self.note("operator", &labels);
        OperatorMetrics {
            rows_in: self.all.operator_rows_in.with_label_values(&labels),
            rows_out: self.all.operator_rows_out.with_label_values(&labels),
            errors: self.all.operator_errors.with_label_values(&labels),
            late: self.all.late.with_label_values(&labels),
            state_rows: self.all.state_rows.with_label_values(&labels),
            state_bytes: self.all.state_bytes.with_label_values(&labels),
            progress: self.progress.clone(),
        }
    }

    /// The handles of a table.
    pub(crate) fn table(&self, table: &str) -> TableMetrics {
        let labels = [self.pipeline.as_str(), table];
        self.note("table", &labels);
        TableMetrics {
            refreshes: self.all.table_refreshes.with_label_values(&labels),
            errors: self.all.table_errors.with_label_values(&labels),
            rows: self.all.table_rows.with_label_values(&labels),
        }
    }

    /// The handles of a sink.
    pub(crate) fn sink(&self, sink: &str) -> SinkMetrics {
        let labels = [self.pipeline.as_str(), sink];
        self.note("sink", &labels);
        SinkMetrics {
            rows: self.all.sink_rows.with_label_values(&labels),
            errors: self.all.sink_errors.with_label_values(&labels),
            rejected: self.all.rejected.with_label_values(&labels),
        }
    }

    /// Counts a dead letter.
    pub(crate) fn dead_letter(&self, component: &str) {
        let labels = [self.pipeline.as_str(), component];
        self.note("dead_letter", &labels);
        self.all.dead_letters.with_label_values(&labels).inc();
    }

    /// How full an edge is.
    pub(crate) fn queue_fill(&self, edge: &str, fill: f64) {
        let labels = [self.pipeline.as_str(), edge];
        self.note("queue", &labels);
        self.all.queue_fill.with_label_values(&labels).set(fill);
    }

    /// How much an ingest log holds.
    pub(crate) fn ingest(&self, source: &str, bytes: u64) {
        let labels = [self.pipeline.as_str(), source];
        self.note("ingest", &labels);
        self.all.ingest_bytes.with_label_values(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Rows delivered by all sources and written by all sinks so far, by name.
    pub(crate) fn row_counts(&self) -> (HashMap<String, u64>, HashMap<String, u64>) {
        (self.counts("source", &self.all.source_rows), self.counts("sink", &self.all.sink_rows))
    }

    /// Late rows so far, by operator.
    pub(crate) fn late_rows(&self) -> HashMap<String, u64> {
        self.counts("operator", &self.all.late)
    }

    /// Dead letters so far.
    pub(crate) fn dead_letters(&self) -> u64 {
        self.counts("dead_letter", &self.all.dead_letters).values().sum()
    }

    /// The values of a counter of `family`, by its label beside the pipeline's.
    fn counts(&self, family: &str, of: &IntCounterVec) -> HashMap<String, u64> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let named = series.iter().filter(|(name, _)| *name == family);
        let counts = named.map(|(_, labels)| {
            let values: Vec<&str> = labels.iter().map(String::as_str).collect();
            (labels[1].clone(), of.with_label_values(&values).get())
        });
        counts.collect()
    }

    /// Removes the pipeline's series: the pipeline is gone.
    pub(crate) fn remove(&self) {
        let series = std::mem::take(&mut *self.series.lock().unwrap_or_else(PoisonError::into_inner));
        for (family, labels) in series {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let all = &self.all;
            let counters: Vec<&IntCounterVec> = match family {
                "source" => vec![&all.source_rows, &all.source_bytes, &all.decode_errors, &all.time_errors],
                "operator" => vec![&all.operator_rows_in, &all.operator_rows_out, &all.operator_errors, &all.late],
                "sink" => vec![&all.sink_rows, &all.sink_errors, &all.rejected],
                "dead_letter" => vec![&all.dead_letters],
                "table" => vec![&all.table_refreshes, &all.table_errors],
                _ => vec![],
            };
            // A series that was never touched is not there to be removed, which is as good.
            counters.iter().for_each(|counter| drop(counter.remove_label_values(&labels)));
            match family {
                "source" => {
                    drop(all.watermark.remove_label_values(&labels));
                    drop(all.watermark_lag.remove_label_values(&labels));
                }
                "operator" => {
                    drop(all.state_rows.remove_label_values(&labels));
                    drop(all.state_bytes.remove_label_values(&labels));
                }
                "table" => drop(all.table_rows.remove_label_values(&labels)),
                "queue" => drop(all.queue_fill.remove_label_values(&labels)),
                "ingest" => drop(all.ingest_bytes.remove_label_values(&labels)),
                "lag" => drop(all.source_lag.remove_label_values(&labels)),
                _ => {}
            }
        }
        let name = [self.pipeline.as_str()];
        drop(self.all.epochs.remove_label_values(&name));
        drop(self.all.epoch_seconds.remove_label_values(&name));
        drop(self.all.restarts.remove_label_values(&name));
        drop(self.all.running.remove_label_values(&name));
    }
}

impl SourceMetrics {
    /// How many messages of a partition are still to be read.
    pub(crate) fn lag(&self, partition: &str, messages: u64) {
        let labels = [self.pipeline.pipeline.as_str(), self.source.as_str(), partition];
        self.pipeline.note("lag", &labels);
        let messages = i64::try_from(messages).unwrap_or(i64::MAX);
        self.pipeline.all.source_lag.with_label_values(&labels).set(messages);
    }
}
