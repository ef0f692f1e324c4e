//! The sink `stdout`: shows rows to whoever started the daemon. The only place in this crate that prints.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;
use crate::format::Encoder;
use crate::sink::{Flushed, Rejected, Sink, SinkContext};

/// Options of the sink. Rows are lines of JSON, or of CSV with `format: csv`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StdoutConfig {
    /// `lines` (the default), or `table` for columns that are aligned, batch by batch.
    pub style: Style,
    /// Whether the sink's name stands before each line; no by default.
    pub prefix: bool,
}

/// How rows are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// A line per row, in the sink's format.
    #[default]
    Lines,
    /// An aligned table per batch.
    Table,
}

impl StdoutConfig {
    /// Checks the options and builds the sink.
    pub fn build(&self, context: &SinkContext) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(self.build_on(context, Box::new(io::stdout()))?))
    }

    fn build_on(&self, context: &SinkContext, out: Box<dyn Write + Send>) -> Result<Stdout, ConnectorError> {
        let look = match self.style {
            Style::Lines => Look::Lines(context.format.clone().unwrap_or_default().encoder(context.columns.clone())?),
            Style::Table if context.format.is_some() => {
                return Err(ConnectorError::configuration("style", "a table has no `format`; leave one of them out"));
            }
            Style::Table => Look::Table,
        };
        let prefix = if self.prefix { format!("{} | ", context.name).into_bytes() } else { Vec::new() };
        Ok(Stdout { look, prefix, out: Some(out) })
    }
}

enum Look {
    Lines(Box<dyn Encoder>),
    Table,
}

struct Stdout {
    look: Look,
    prefix: Vec<u8>,
    /// Away while a blocking thread prints: whoever reads our output may be slow.
    out: Option<Box<dyn Write + Send>>,
}

impl Stdout {
    fn lines(&mut self, rows: &RecordBatch) -> Result<Vec<u8>, ConnectorError> {
        let mut text = Vec::new();
        match &mut self.look {
            Look::Lines(encoder) => {
                for message in encoder.encode(rows)?.messages() {
                    push_line(&mut text, &self.prefix, &message);
                }
            }
            Look::Table => {
                let options = FormatOptions::default().with_null("NULL").with_display_error(true);
                let table = pretty_format_batches_with_options(std::slice::from_ref(rows), &options)
                    .map_err(|error| ConnectorError::fatal(format!("rows cannot be shown as a table: {error}")))?;
                for line in table.to_string().lines() {
                    push_line(&mut text, &self.prefix, line.as_bytes());
                }
            }
        }
        Ok(text)
    }

    /// Prints all of `text` at once, so that the lines of several sinks do not mix.
    async fn print(&mut self, text: Vec<u8>) -> Result<(), ConnectorError> {
        if text.is_empty() {
            return Ok(());
        }
        let broken = || ConnectorError::fatal("printing was broken off");
        let mut out = self.out.take().ok_or_else(broken)?;
        let printed = tokio::task::spawn_blocking(move || {
            let result = out.write_all(&text).and_then(|()| out.flush());
            (out, result)
        });
        let (out, result) = printed.await.map_err(|_| broken())?;
        self.out = Some(out);
        result.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => ConnectorError::fatal("nobody reads the standard output any more"),
            _ => ConnectorError::retry(format!("cannot print to the standard output: {error}")),
        })
    }
}

fn push_line(text: &mut Vec<u8>, prefix: &[u8], line: &[u8]) {
    text.extend_from_slice(prefix);
    text.extend_from_slice(line);
    text.push(b'\n');
}

#[async_trait]
impl Sink for Stdout {
    async fn open(&mut self, _restored: Option<&[u8]>) -> Result<(), ConnectorError> {
        let mut text = Vec::new();
        if let Look::Lines(encoder) = &self.look
            && let Some(header) = encoder.file_header()
        {
            push_line(&mut text, &self.prefix, &header);
        }
        self.print(text).await
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Rejected>, ConnectorError> {
        if rows.num_rows() > 0 {
            let text = self.lines(rows)?;
            self.print(text).await?;
        }
        Ok(Vec::new())
    }

    async fn flush(&mut self) -> Result<Flushed, ConnectorError> {
        // Written rows are printed rows.
        Ok(Flushed::default())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use arrow::array::{ArrayRef, Int64Array};
    use serde_json::json;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn printed(config: serde_json::Value, format: serde_json::Value) -> String {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let rows = RecordBatch::try_from_iter_with_nullable([("n", column, true)]).unwrap();
        let context = SinkContext {
            pipeline: "p".into(),
            name: "alarms".into(),
            base_dir: ".".into(),
            columns: rows.schema(),
            format: serde_json::from_value(format).unwrap(),
            routes: Default::default(),
        };
        let paper = Paper::default();
        let config: StdoutConfig = serde_json::from_value(config).unwrap();
        let mut sink = config.build_on(&context, Box::new(paper.clone())).unwrap();
        sink.open(None).await.unwrap();
        sink.write(&rows).await.unwrap();
        sink.close().await.unwrap();
        String::from_utf8(paper.0.lock().unwrap().clone()).unwrap()
    }

    #[tokio::test]
    async fn rows_are_lines_or_tables_with_the_sinks_name_if_asked_for() {
        assert_eq!(printed(json!({}), json!(null)).await, "{\"n\":1}\n{\"n\":null}\n");
        assert_eq!(printed(json!({"prefix": true}), json!("csv")).await, "alarms | n\nalarms | 1\nalarms | \"\"\n");
        let table = printed(json!({"style": "table"}), json!(null)).await;
        assert_eq!(table, "+------+\n| n    |\n+------+\n| 1    |\n| NULL |\n+------+\n");
    }
}
