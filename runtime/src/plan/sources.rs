//! Streams and tables of a plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use indexmap::IndexMap;
use millstream_connectors::config::{SourceConfig, TableConfig};
use millstream_connectors::format::{DecodeOptions, Decoder, FormatConfig};
use millstream_connectors::ingest::IngestConfig;
use millstream_connectors::source::MetadataField;
use millstream_connectors::{BuiltSource, ConnectorError, SourceContext, Table};

use super::event_time::event_time;
use super::{Builder, connector_problem, unknown_name};
use crate::engine::clock::{EventTimePlan, TimeKind};
use crate::plan::graph::{Graph, Node, NodeKind};
use crate::spec::model::{ColumnSpec, ConnectorSpec, EpochUnit, SourceSpec};
use crate::spec::problem::{Part, Problem};
use crate::sql::EVENT_TIME;
use crate::sql::expression::SqlExpressions;
use crate::sql::relation::{StreamRelation, TableRelation, TableRows};
use crate::sql::types;

/// A stream source.
pub(crate) struct SourcePlan {
    /// Its name.
    pub(crate) name: String,
    /// The connector's key in YAML.
    pub(crate) connector: String,
    pub(crate) config: SourceConfig,
    pub(crate) context: SourceContext,
    pub(crate) format: FormatConfig,
    pub(crate) decode: DecodeOptions,
    /// The columns with the metadata columns, that of the clock where event time is `processing`, and last the message where
    /// `keeps_message` is set.
    pub(crate) schema: SchemaRef,
    /// Not all columns are decoded, and rows bring their messages with them (see `projection.rs`).
    pub(crate) keeps_message: bool,
    /// The names of the metadata columns, and the fields that fill them.
    pub(crate) metadata: Vec<(String, MetadataField)>,
    pub(crate) event_time: Option<EventTimePlan>,
    pub(crate) linger: Duration,
    pub(crate) bounded: bool,
    /// Set for a source that cannot replay.
    pub(crate) ingest: Option<IngestConfig>,
}

impl SourcePlan {
    /// The connector, not yet connected.
    pub(crate) fn build(&self) -> Result<BuiltSource, ConnectorError> {
        self.config.build(&self.context)
    }

    /// The columns of its rows before they have the time at which they came.
    pub(crate) fn received(&self) -> SchemaRef {
        match &self.event_time {
            Some(EventTimePlan { column, kind: TimeKind::Processing }) => {
                let fields = self.schema.fields().iter().enumerate().filter(|(index, _)| index != column);
                Arc::new(Schema::new(fields.map(|(_, field)| field.clone()).collect::<Vec<_>>()))
            }
            Some(EventTimePlan { kind: TimeKind::OfRows(_), .. }) | None => self.schema.clone(),
        }
    }

    /// The decoder, for a source that delivers bytes.
    pub(crate) fn decoder(&self) -> Result<Option<Box<dyn Decoder>>, ConnectorError> {
        match self.config {
            SourceConfig::Generate(_) => Ok(None),
            _ => self.format.decoder(self.decode.clone()).map(Some),
        }
    }
}

/// A table.
pub(crate) struct TablePlan {
    /// Its name.
    pub(crate) name: String,
    pub(crate) table: Arc<dyn Table>,
    pub(crate) key: Option<String>,
    pub(crate) rows: TableRows,
}

/// Declared columns, as Arrow has them.
struct Columns {
    schema: SchemaRef,
    units: BTreeMap<String, TimeUnit>,
}

/// The key that `config` has in YAML.
pub(crate) fn key_of<T: serde::Serialize>(config: &T) -> String {
    let value = serde_json::to_value(config).ok();
    let key = value.as_ref().and_then(|value| value.as_object()?.keys().next().cloned());
    key.unwrap_or_default()
}

impl Builder<'_> {
    /// Plans all sources; those that fail are left out and reported.
    pub(super) async fn sources(
        &mut self,
        graph: &mut Graph,
        problems: &mut Vec<Problem>,
    ) -> (Vec<SourcePlan>, Vec<TablePlan>) {
        let (mut sources, mut tables) = (Vec::new(), Vec::new());
        for (name, spec) in &self.spec.sources {
            match &spec.connector {
                ConnectorSpec::Source(config) => {
                    if let Some(source) = self.source(name, spec, config, sources.len(), graph, problems) {
                        sources.push(source);
                    }
                }
                ConnectorSpec::Table(config) => {
                    if let Some(table) = self.table(name, spec, config, problems) {
                        tables.push(table);
                    }
                }
                ConnectorSpec::Unusable => self.columns_alone(name, spec, graph, problems),
            }
            if !self.session.table_exist(bare(name)).unwrap_or(false) {
                self.unknown.relations.insert(name.clone());
            }
        }
        (sources, tables)
    }

    /// A source whose connector cannot be used is still known by its columns, so that the SQL's own mistakes are found
    /// in the same go.
    fn columns_alone(&self, name: &str, spec: &SourceSpec, graph: &mut Graph, problems: &mut Vec<Problem>) {
        let declared = spec.resolved_columns().filter(|_| !self.gaps.columns.contains(name));
        let Some(columns) = declared.and_then(|declared| columns(name, declared, problems)) else { return };
        if spec.table.is_some() {
            let rows: TableRows = Arc::new(ArcSwap::from_pointee(RecordBatch::new_empty(columns.schema)));
            return self.register_table(name, rows, problems);
        }
        let (schema, _) = event_time(name, spec, columns.schema, false, problems);
        self.register(name, graph, schema, NodeKind::Source(usize::MAX), problems);
    }

    fn source(
        &self,
        name: &str,
        spec: &SourceSpec,
        config: &SourceConfig,
        index: usize,
        graph: &mut Graph,
        problems: &mut Vec<Problem>,
    ) -> Option<SourcePlan> {
        let before = problems.len();
        let connector = key_of(config);
        let columns = self.stream_columns(name, spec, config, &connector, problems);
        // Without columns the connector's options can be looked at all the same.
        let unknown = columns.is_none() || self.gaps.columns.contains(name);
        let columns = columns.unwrap_or_else(|| Columns { schema: Arc::new(Schema::empty()), units: BTreeMap::new() });
        let columns_only = problems.len();
        let metadata = metadata(name, spec, config, &connector, problems);
        let metadata_wrong = problems.len() > columns_only;
        let schema = with_metadata(name, &columns.schema, &metadata, problems);
        let (schema, event_time) = match unknown {
            true => (schema, None),
            false => event_time(name, spec, schema, config.bounded(), problems),
        };
        let limits = &self.spec.limits;
        let context = SourceContext {
            pipeline: self.name.to_owned(),
            name: name.to_owned(),
            base_dir: self.base_dir.to_owned(),
            metadata: metadata.iter().map(|(_, field)| field.name.to_owned()).collect(),
            batch_rows_max: limits.batch_rows_max,
            batch_bytes_max: usize::try_from(limits.batch_bytes_max.0).unwrap_or(usize::MAX),
            columns: columns.schema.clone(),
            routes: self.environment.routes.clone(),
            expressions: Arc::new(SqlExpressions(self.session.clone())),
        };
        let source = SourcePlan {
            name: name.to_owned(),
            connector,
            config: config.clone(),
            context,
            format: spec.format.clone().unwrap_or_default(),
            decode: DecodeOptions {
                columns: columns.schema.clone(),
                declared: columns.schema,
                timestamp_units: columns.units,
            },
            schema: schema.clone(),
            keeps_message: false,
            metadata,
            event_time,
            linger: spec.linger.0,
            bounded: config.bounded(),
            ingest: config.ingest(),
        };
        let path = ["sources", name];
        let wrong = [source.build().err(), source.decoder().err()];
        for error in wrong.into_iter().flatten() {
            if !unknown || error.option.as_deref().is_some_and(|option| !option.is_empty() && option != "format") {
                self.complain(&path, &source.connector, &error, problems);
            }
        }
        if problems.len() > before || self.gaps.incomplete.contains(&path.map(str::to_owned)[..]) {
            // The stream is still known by its columns, so that the SQL's own mistakes are found in the same go.
            if !metadata_wrong && !unknown {
                self.register(name, graph, schema, NodeKind::Source(usize::MAX), problems);
            }
            return None;
        }
        self.register(name, graph, schema, NodeKind::Source(index), problems);
        Some(source)
    }

    /// Makes the stream known to SQL.
    fn register(&self, name: &str, graph: &mut Graph, schema: SchemaRef, kind: NodeKind, problems: &mut Vec<Problem>) {
        let node = graph.add(Node {
            name: name.to_owned(),
            step: None,
            inputs: vec![],
            keys: None,
            lags: vec![],
            schema: schema.clone(),
            kind,
            fingerprint: None,
        });
        let marked = schema.fields().iter().any(|field| field.metadata().contains_key(EVENT_TIME));
        let wanted = self.gaps.event_time.contains(name)
            || self.spec.sources.get(name).is_some_and(|source| source.event_time.is_some());
        if wanted && !marked {
            self.streams.add_without_time(name);
        }
        self.streams.add(name, node, schema.clone());
        let relation = StreamRelation { node, schema, window: None };
        if let Err(error) = self.session.register_table(bare(name), Arc::new(relation)) {
            problems.push(Problem::new(["sources", name], error.strip_backtrace()));
        }
    }

    fn register_table(&self, name: &str, rows: TableRows, problems: &mut Vec<Problem>) {
        if let Err(error) = self.session.register_table(bare(name), Arc::new(TableRelation { rows })) {
            problems.push(Problem::new(["sources", name], error.strip_backtrace()));
        }
    }

    /// Reports what a connector refuses; of one whose options have gaps, only what stands in the file.
    pub(super) fn complain(&self, path: &[&str], connector: &str, error: &ConnectorError, problems: &mut Vec<Problem>) {
        let problem = connector_problem(path, connector, error);
        let incomplete = self.gaps.incomplete.iter().any(|part| part.iter().eq(path.iter()));
        if !incomplete || error.option.as_deref().is_some_and(|option| !option.is_empty()) {
            problems.push(problem);
        }
    }

    /// The declared columns, or those that the connector knows by itself.
    fn stream_columns(
        &self,
        name: &str,
        spec: &SourceSpec,
        config: &SourceConfig,
        connector: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Columns> {
        if let Some(declared) = spec.resolved_columns() {
            return columns(name, declared, problems);
        }
        if self.gaps.columns.contains(name) {
            // Enough to look at the connector's options.
            return Some(Columns { schema: Arc::new(Schema::empty()), units: BTreeMap::new() });
        }
        if let SourceConfig::Generate(generate) = config {
            return match generate.schema() {
                Ok(schema) => Some(Columns { schema, units: BTreeMap::new() }),
                Err(error) => {
                    self.complain(&["sources", name], connector, &error, problems);
                    None
                }
            };
        }
        let problem = Problem::new(["sources", name], "the columns of this source are not declared").at(Part::Key);
        problems.push(problem.hint(format!(
            "write them here (columns: {{ts: timestamp, device: text, value: double}}), or name a contract (schema: …); \
             types: {}",
            types::COMMON
        )));
        None
    }

    fn table(
        &self,
        name: &str,
        spec: &SourceSpec,
        config: &TableConfig,
        problems: &mut Vec<Problem>,
    ) -> Option<TablePlan> {
        let declared = match spec.resolved_columns() {
            Some(declared) => Some(columns(name, declared, problems)?.schema),
            None => None,
        };
        let table = match config.build(self.base_dir, declared.clone(), spec.format.as_ref()) {
            Ok(table) => Arc::<dyn Table>::from(table),
            Err(error) => {
                if let Some(columns) = declared.filter(|_| !self.gaps.columns.contains(name)) {
                    let rows = Arc::new(ArcSwap::from_pointee(RecordBatch::new_empty(columns)));
                    self.register_table(name, rows, problems);
                }
                self.complain(&["sources", name], &key_of(config), &error, problems);
                return None;
            }
        };
        let schema = table.schema();
        let key = spec.table.as_ref().and_then(|table| table.key.clone());
        if let Some(key) = key.as_ref().filter(|key| schema.column_with_name(key).is_none()) {
            let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
            problems.push(unknown_name(&["sources", name, "table", "key"], "column", key, &names));
        }
        let rows: TableRows = Arc::new(ArcSwap::from_pointee(RecordBatch::new_empty(schema)));
        self.register_table(name, rows.clone(), problems);
        Some(TablePlan { name: name.to_owned(), table, key, rows })
    }
}

/// A name as it is, not split at dots nor folded to lower case.
pub(super) fn bare(name: &str) -> datafusion::common::TableReference {
    datafusion::common::TableReference::bare(name.to_owned())
}

fn columns(source: &str, declared: &IndexMap<String, ColumnSpec>, problems: &mut Vec<Problem>) -> Option<Columns> {
    let (mut fields, mut units) = (Vec::new(), BTreeMap::new());
    let mut failed = false;
    for (name, column) in declared {
        match types::parse(column.sql_type()) {
            Ok(data_type) => {
                if let Some(unit) = column.unit() {
                    let is_time = matches!(data_type, DataType::Timestamp(_, _));
                    if !is_time {
                        let message = format!("`unit` is for timestamp columns; `{name}` is {}", column.sql_type());
                        problems.push(Problem::new(["sources", source, "columns", name, "unit"], message));
                        failed = true;
                    }
                    units.insert(name.clone(), time_unit(unit));
                }
                fields.push(Field::new(name, data_type, column.nullable()));
            }
            Err(message) => {
                let path = ["sources", source, "columns", name];
                problems.push(match message.split_once("; ") {
                    Some((message, hint)) => Problem::new(path, message).hint(hint),
                    None => Problem::new(path, message),
                });
                failed = true;
            }
        }
    }
    if fields.is_empty() && !failed {
        problems.push(Problem::new(["sources", source, "columns"], "a source has at least one column"));
        failed = true;
    }
    (!failed).then(|| Columns { schema: Arc::new(Schema::new(fields)), units })
}

fn time_unit(unit: EpochUnit) -> TimeUnit {
    match unit {
        EpochUnit::S => TimeUnit::Second,
        EpochUnit::Ms => TimeUnit::Millisecond,
        EpochUnit::Us => TimeUnit::Microsecond,
        EpochUnit::Ns => TimeUnit::Nanosecond,
    }
}

/// The metadata columns that were chosen, each with the connector's field.
fn metadata(
    source: &str,
    spec: &SourceSpec,
    config: &SourceConfig,
    connector: &str,
    problems: &mut Vec<Problem>,
) -> Vec<(String, MetadataField)> {
    let known = config.metadata_fields();
    let mut chosen = Vec::new();
    for (column, field) in &spec.metadata {
        match known.iter().find(|candidate| candidate.name == field) {
            Some(found) => chosen.push((column.clone(), found.clone())),
            None if known.is_empty() => {
                let message = format!("the connector {connector} has no metadata");
                problems.push(Problem::new(["sources", source, "metadata"], message));
                return chosen;
            }
            None => {
                let names: Vec<String> = known.iter().map(|field| field.name.to_owned()).collect();
                let path = ["sources", source, "metadata", column];
                problems.push(unknown_name(&path, "metadata field", field, &names));
            }
        }
    }
    chosen
}

/// The columns with those of the metadata.
fn with_metadata(
    source: &str,
    columns: &SchemaRef,
    metadata: &[(String, MetadataField)],
    problems: &mut Vec<Problem>,
) -> SchemaRef {
    let mut fields: Vec<Field> = columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    for (column, field) in metadata {
        if fields.iter().any(|known| known.name() == column) {
            let message = format!("there is already a column `{column}`");
            problems.push(Problem::new(["sources", source, "metadata", column], message).at(Part::Key));
            continue;
        }
        fields.push(Field::new(column, field.data_type.clone(), true));
    }
    Arc::new(Schema::new(fields))
}
