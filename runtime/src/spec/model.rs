//! What the user wrote: plain data, filled by serde, described by schemars. Nothing here is resolved.
//!
//! The doc comments below are the descriptions that editors show, by way of `schemas/pipeline.schema.json`.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use millstream_connectors::config::SinkConfig;
use millstream_connectors::format::FormatConfig;
use millstream_connectors::units::{ByteSize, Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::connector::ConnectorSpec;
pub use super::event_time::{ClockWord, ColumnTimeSpec, EventTimeSpec, ProcessingTimeSpec};

/// A pipeline: one YAML file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineSpec {
    /// The pipeline's name; the file's name without its extension where this is missing.
    #[serde(default)]
    pub name: Option<String>,
    /// What the pipeline is for.
    #[serde(default)]
    pub description: Option<String>,
    /// Free labels, shown in the API.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Streams and tables that the steps read, by name.
    pub sources: IndexMap<String, SourceSpec>,
    /// WebAssembly modules whose exports become SQL functions.
    #[serde(default)]
    pub functions: Vec<FunctionSpec>,
    /// SQL steps, by name. A step reads sources, tables and other steps by their names.
    #[serde(default)]
    pub steps: IndexMap<String, StepSpec>,
    /// Where the rows go, by name.
    pub sinks: IndexMap<String, SinkSpec>,
    /// What is promised about rows when things break.
    #[serde(default)]
    pub delivery: Delivery,
    /// Where rows go that cannot be decoded, fail a function, come too late or are refused by a sink. The file
    /// `dead-letter.jsonl` in the pipeline's folder of the data directory where this is missing; it grows without end.
    #[serde(default)]
    pub dead_letter: Option<DeadLetterSpec>,
    /// How often the pipeline's state is made durable.
    #[serde(default)]
    pub checkpoint: CheckpointSpec,
    /// Bounds of the pipeline's queues and batches, and how parallel it runs.
    #[serde(default)]
    pub limits: LimitsSpec,
    /// How a pipeline that failed is started again.
    #[serde(default)]
    pub restart: RestartSpec,
    /// Other settings to run the same steps with, chosen by `--profile NAME`: each is laid over this file.
    #[serde(default)]
    pub profiles: IndexMap<String, serde_json::Value>,
}

/// A stream or a table.
// `remote = "Self"`: what is derived is only the part behind the hand-written impls in `connector.rs`, which bring the
// connector's key (`mqtt:`) into `connector`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(rename = "SourceSpec")]
pub struct SourceSpec {
    /// What it reads from: exactly one connector, by its key. Which ones there are depends on `table`.
    #[schemars(skip)]
    pub connector: ConnectorSpec,
    /// How its bytes are read: `json` (the default), `csv`, `text` or `bytes`, or one of them with options.
    #[serde(default)]
    pub format: Option<FormatConfig>,
    /// The contract that says the columns: a name in `schemas/`, or a path relative to this file.
    #[serde(default)]
    pub schema: Option<String>,
    /// The columns, written here.
    #[serde(default)]
    pub columns: Option<IndexMap<String, ColumnSpec>>,
    /// Columns filled from the message's metadata: column name to field name.
    #[serde(default)]
    pub metadata: IndexMap<String, String>,
    /// The time that windows go by: a column of the rows, with how much disorder to expect, or `processing`, the clock at
    /// which they come.
    #[serde(default)]
    pub event_time: Option<EventTimeSpec>,
    /// Makes this a table to join with, not a stream.
    #[serde(default)]
    pub table: Option<TableSpec>,
    /// While rows keep coming, a small batch is sent on after so long at the latest. A lone row is sent on at once, and where
    /// batches are cheap they wait for less: four times as long as the last one took.
    #[serde(default = "SourceSpec::default_linger")]
    pub linger: Duration,
    /// What it is.
    #[serde(default)]
    pub description: Option<String>,
}

impl SourceSpec {
    pub(super) fn default_linger() -> Duration {
        Duration::from_millis(5)
    }

    /// The columns that are declared, here or in the contract (the loader has brought those into `columns`).
    pub fn resolved_columns(&self) -> Option<&IndexMap<String, ColumnSpec>> {
        self.columns.as_ref()
    }
}

impl ColumnSpec {
    /// The SQL type as written.
    pub fn sql_type(&self) -> &str {
        match self {
            Self::Type(sql_type) => sql_type,
            Self::Detailed(detailed) => &detailed.sql_type,
        }
    }

    /// The unit of integer timestamps, where it is said.
    pub fn unit(&self) -> Option<EpochUnit> {
        match self {
            Self::Type(_) => None,
            Self::Detailed(detailed) => detailed.unit,
        }
    }

    /// False where null is an error of the message.
    pub fn nullable(&self) -> bool {
        match self {
            Self::Type(_) => true,
            Self::Detailed(detailed) => detailed.nullable,
        }
    }
}

/// A column: its SQL type (`double`, `"text[]"`, `timestamp`), or the type with more said about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ColumnSpec {
    /// The SQL type alone.
    Type(String),
    /// The SQL type and more.
    Detailed(DetailedColumnSpec),
}

/// A column with more said about it than its type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetailedColumnSpec {
    /// The SQL type.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// The unit of integers in a timestamp column: seconds, milliseconds, … since 1970 in UTC.
    #[serde(default)]
    pub unit: Option<EpochUnit>,
    /// False where null is an error of the message.
    #[serde(default = "yes")]
    pub nullable: bool,
    /// What it means.
    #[serde(default)]
    pub description: Option<String>,
}

fn yes() -> bool {
    true
}

/// The unit of an integer timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EpochUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

/// A contract of `schemas/`: the columns of a stream that several pipelines share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContractSpec {
    /// What the stream is.
    #[serde(default)]
    pub description: Option<String>,
    /// The columns.
    pub columns: IndexMap<String, ColumnSpec>,
}

/// Options of a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// The column that tells rows apart; of rows with the same key the last one counts.
    #[serde(default)]
    pub key: Option<String>,
}

/// A WebAssembly module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    /// The module's file, relative to this file.
    pub wasm: String,
    /// Refinements of what the module exports: by export name. Without it every numeric export is a function.
    #[serde(default)]
    pub exports: IndexMap<String, ExportSpec>,
    /// The most memory that one instance may have.
    #[serde(default = "FunctionSpec::default_memory")]
    pub memory_max: ByteSize,
    /// The longest that one batch may take.
    #[serde(default = "FunctionSpec::default_deadline")]
    pub deadline: Duration,
}

impl FunctionSpec {
    /// A place without a module.
    pub(super) fn nothing() -> Self {
        let (memory_max, deadline) = (Self::default_memory(), Self::default_deadline());
        Self { wasm: String::new(), exports: IndexMap::new(), memory_max, deadline }
    }

    fn default_memory() -> ByteSize {
        ByteSize::mib(64)
    }

    fn default_deadline() -> Duration {
        Duration::from_secs(1)
    }
}

/// A refinement of one export.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExportSpec {
    /// Its name in SQL.
    pub name: Option<String>,
    /// The SQL types of its arguments, where they are more than numbers (`timestamp` for i64, `boolean` for i32).
    pub arguments: Option<Vec<String>>,
    /// The SQL type of its result.
    pub returns: Option<String>,
}

/// A SQL step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    /// One SELECT over sources, tables and other steps.
    pub sql: String,
    /// Where rows go that come after their windows have closed.
    #[serde(default)]
    pub late: LateSpec,
    /// What to do with a row for which the SQL or a function fails.
    #[serde(default)]
    pub on_error: OnError,
    /// When results come: `final` (the default) once they cannot change any more, `changes` with every batch of rows that
    /// changes them, or `{every: 5s}`. With the last two, rows of a result replace one another, and a last column
    /// `is_final` says which one stays.
    #[serde(default)]
    pub emit: EmitSpec,
    /// How long state is kept that no window frees.
    #[serde(default)]
    pub state: StateSpec,
    /// Raise it to say that the step's state from before may be thrown away.
    #[serde(default)]
    pub revision: u32,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
}

/// When results come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmitSpec {
    /// Once they cannot change any more.
    #[default]
    Final,
    /// With every batch of rows that changes them.
    Changes,
    /// What has changed, so long after the first change that was not given out (by the clock on the wall).
    Every(Duration),
}

/// How long state is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StateSpec {
    /// A key that had no row for so long is forgotten: by event time where the step's stream has one, else by the clock
    /// on the wall. Required where nothing else bounds the state, and only allowed there.
    pub ttl: Option<Duration>,
}

/// The late route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LateSpec {
    /// `dead_letter`, `drop` (counted all the same), or the name of a sink.
    pub to: String,
}

impl Default for LateSpec {
    fn default() -> Self {
        Self { to: "dead_letter".into() }
    }
}

/// What to do with a row that fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// It goes to the dead letter, the rest goes on.
    #[default]
    DeadLetter,
    /// The pipeline fails (and is started again, by its restart policy).
    Fail,
}

/// A place for rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SinkSpec {
    /// The step or source whose rows it takes; several where a list is given. A sink without it only takes late rows.
    #[serde(default)]
    pub from: Option<OneOrMany>,
    /// Where it writes to: exactly one connector, by its key.
    #[serde(flatten)]
    #[schemars(skip)]
    pub connector: SinkConfig,
    /// How rows are written; the connector's default where this is missing (mostly `json`).
    #[serde(default)]
    pub format: Option<FormatConfig>,
    /// What it is.
    #[serde(default)]
    pub description: Option<String>,
}

/// One name or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The names.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// The dead letter: a sink whose rows say what failed, why, where, with the original bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterSpec {
    /// Where it writes to: exactly one connector, by its key.
    #[serde(flatten)]
    #[schemars(skip)]
    pub connector: SinkConfig,
    /// How letters are written; `json` where this is missing.
    #[serde(default)]
    pub format: Option<FormatConfig>,
}

/// What is promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// No row is lost; after a crash some may come again.
    #[default]
    AtLeastOnce,
    /// Every row counts once, also over crashes. Needs sinks that can take part.
    ExactlyOnce,
}

/// When epochs end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSpec {
    /// The time between two barriers. Nothing is written while no row comes.
    pub interval: Duration,
    /// A checkpoint that takes longer fails the pipeline, which is then restarted.
    pub timeout: Duration,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), timeout: Duration::from_secs(60) }
    }
}

/// Bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// Into how many shards keyed operators are split (at most 256); 0: into as many as the machine has cores.
    #[schemars(range(min = 0, max = 256))]
    pub parallelism: u16,
    /// The most rows in one batch.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub batch_rows_max: usize,
    /// The most bytes in one batch of undecoded messages.
    pub batch_bytes_max: ByteSize,
    /// The most rows waiting between two tasks.
    #[schemars(range(min = 1))]
    pub queue_rows_max: usize,
    /// The most bytes waiting between two tasks.
    pub queue_bytes_max: ByteSize,
    /// The longest that a stop waits for rows on their way.
    pub stop_timeout: Duration,
}

impl LimitsSpec {
    /// Into how many shards keyed operators are split.
    pub fn shards(&self) -> usize {
        match self.parallelism {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().min(SHARDS_MAX)),
            shards => usize::from(shards),
        }
    }
}

/// The most shards there can be.
const SHARDS_MAX: usize = 256;

impl Default for LimitsSpec {
    fn default() -> Self {
        Self {
            parallelism: 0,
            batch_rows_max: 8192,
            batch_bytes_max: ByteSize::mib(4),
            queue_rows_max: 65_536,
            queue_bytes_max: ByteSize::mib(32),
            stop_timeout: Duration::from_secs(30),
        }
    }
}

/// The restart policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestartSpec {
    /// The pause after the first failure; it doubles with every further one.
    pub initial: Duration,
    /// The longest pause.
    pub max: Duration,
    /// A run that lasted so long counts as healthy: the pause starts from `initial` again.
    pub healthy_after: Duration,
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(60),
            healthy_after: Duration::from_secs(60),
        }
    }
}
