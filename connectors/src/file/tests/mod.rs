//! Files seen from outside: through configurations built from what a user writes.

mod follow;
mod once;
mod sink;
mod table;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use serde_json::Value;

use super::FileSourceConfig;
use crate::source::{ExpressionCompiler, RowExpression};
use crate::{ConnectorError, MessageBatch, Positions, Source, SourceContext, SourceEvent};

struct NoExpressions;

impl ExpressionCompiler for NoExpressions {
    fn compile(&self, _: &str, _: &SchemaRef) -> Result<Arc<dyn RowExpression>, String> {
        Err("none".into())
    }
}

fn context(folder: &Path) -> SourceContext {
    SourceContext {
        pipeline: "p".into(),
        name: "s".into(),
        base_dir: folder.into(),
        metadata: vec!["path".into(), "line_offset".into()],
        batch_rows_max: 3,
        batch_bytes_max: 1 << 20,
        columns: Arc::new(Schema::empty()),
        routes: Default::default(),
        expressions: Arc::new(NoExpressions),
    }
}

fn build(folder: &Path, config: Value) -> Result<Box<dyn Source>, ConnectorError> {
    serde_json::from_value::<FileSourceConfig>(config).unwrap().build(&context(folder))
}

async fn open(folder: &Path, config: Value, from: &Positions) -> Box<dyn Source> {
    let mut source = build(folder, config).unwrap();
    source.open(from).await.unwrap();
    source
}

fn lines(batch: &MessageBatch) -> Vec<String> {
    batch.payloads.iter().map(|line| String::from_utf8(line.unwrap().to_vec()).unwrap()).collect()
}

/// What a source gave: lines, and where it has come to.
#[derive(Debug, Default)]
struct Read {
    lines: Vec<String>,
    positions: Positions,
    headers: Vec<String>,
    partitions: Vec<Vec<String>>,
}

impl Read {
    fn take(&mut self, event: SourceEvent) -> bool {
        match event {
            SourceEvent::Messages(batch) => {
                self.lines.extend(lines(&batch));
                self.positions.set(&batch.partition, batch.next_position);
            }
            SourceEvent::Header(line) => self.headers.push(String::from_utf8(line.to_vec()).unwrap()),
            SourceEvent::Partitions(names) => {
                self.partitions.push(names.iter().map(ToString::to_string).collect());
            }
            SourceEvent::End => return false,
            SourceEvent::Rows(_) => unreachable!(),
        }
        true
    }

    /// Reads until there are `count` lines in all. The limit only ends a test that would hang.
    async fn until(&mut self, source: &mut Box<dyn Source>, count: usize) {
        while self.lines.len() < count {
            let event = tokio::time::timeout(Duration::from_secs(20), source.next()).await;
            self.take(event.unwrap_or_else(|_| panic!("only {:?}", self.lines)).unwrap());
        }
    }

    async fn to_end(source: &mut Box<dyn Source>) -> Result<Self, ConnectorError> {
        let mut read = Self::default();
        while read.take(source.next().await?) {}
        Ok(read)
    }
}

fn rows(values: &[(&str, i64)]) -> RecordBatch {
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    let id: ArrayRef = Arc::new(StringArray::from_iter_values(values.iter().map(|(id, _)| id)));
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(values.iter().map(|(_, n)| *n)));
    RecordBatch::try_from_iter([("id", id), ("n", n)]).unwrap()
}
