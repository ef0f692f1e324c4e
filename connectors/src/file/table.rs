//! The table `file`: a file that is read whole, and again on each refresh.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{infer, io_error, joined, resolve};
use crate::error::ConnectorError;
use crate::format::FormatConfig;
use crate::format::csv::CsvConfig;
use crate::format::document::{self, Document};
use crate::table::{Table, check_limits};
use crate::units::{ByteSize, Duration};

/// A table is not read more often.
const REFRESH_MIN: std::time::Duration = std::time::Duration::from_millis(100);

/// Options of the table: a CSV file with a header, or JSON (an object per line, or an array of objects). Without
/// `columns` their names and types are found in the file when the pipeline is loaded, and stay so until the next load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileTableConfig {
    /// The file, relative to the folder of this YAML file. Its ending says the format where `format` does not: `.csv`,
    /// `.tsv`, `.json`, `.jsonl` or `.ndjson`.
    pub path: String,
    /// How often the file is read again; never where this is missing. A file that cannot be read leaves the rows of the
    /// last time in use.
    #[serde(default)]
    pub refresh: Option<Duration>,
    /// The largest file that is read; 256MiB by default, 1GiB at most.
    #[serde(default = "FileTableConfig::default_size_max")]
    pub size_max: ByteSize,
}

impl FileTableConfig {
    fn default_size_max() -> ByteSize {
        ByteSize::mib(256)
    }

    /// Checks the options and builds the table.
    pub fn build(
        &self,
        base_dir: &Path,
        columns: Option<SchemaRef>,
        format: Option<&FormatConfig>,
    ) -> Result<Box<dyn Table>, ConnectorError> {
        check_limits(self.refresh, Duration(REFRESH_MIN), self.size_max)?;
        let path = resolve(base_dir, &self.path);
        let content =
            read(&path, self.size_max).map_err(|error| ConnectorError::configuration("path", error.message))?;
        let content = document::without_bom(&content);
        let format = whole_file(&path, content, format)?;
        let declared = columns.is_some();
        let columns = match columns {
            Some(columns) => columns,
            None => infer::columns(&path, content, &format)?,
        };
        let document = Document::new(columns.clone());
        // What cannot work (a type that the format does not have) is said now.
        document.check(&format)?;
        let table =
            FileTable { document: Arc::new(document), path, format, size_max: self.size_max, refresh: self.refresh };
        if !declared {
            let found: Vec<_> =
                columns.fields().iter().map(|column| format!("{}: {}", column.name(), column.data_type())).collect();
            tracing::info!(file = %table.path.display(), columns = %found.join(", "), "columns found in the file");
        }
        Ok(Box::new(table))
    }
}

/// The format for the whole file as one message.
fn whole_file(path: &Path, content: &[u8], format: Option<&FormatConfig>) -> Result<FormatConfig, ConnectorError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let format = match (format, extension.to_ascii_lowercase().as_str()) {
        (Some(format), _) => format.clone(),
        (None, "csv") => FormatConfig::Csv(CsvConfig::default()),
        (None, "tsv") => FormatConfig::Csv(CsvConfig::delimited_by("\t")),
        (None, "json" | "jsonl" | "ndjson") => FormatConfig::default(),
        (None, _) => {
            return Err(ConnectorError::configuration(
                "path",
                format!("{} does not say its format; set `format: csv` or `format: json`", path.display()),
            ));
        }
    };
    document::whole(&format, content)
}

fn read(path: &Path, size_max: ByteSize) -> Result<Vec<u8>, ConnectorError> {
    let wrong = |error| io_error("read", path, &error);
    let length = fs::metadata(path).map_err(wrong)?.len();
    if length > size_max.0 {
        return Err(ConnectorError::retry(format!(
            "{} has {length} bytes, more than `size_max` ({size_max}) allows",
            path.display()
        )));
    }
    fs::read(path).map_err(wrong)
}

struct FileTable {
    path: PathBuf,
    format: FormatConfig,
    document: Arc<Document>,
    size_max: ByteSize,
    refresh: Option<Duration>,
}

#[async_trait]
impl Table for FileTable {
    fn schema(&self) -> SchemaRef {
        self.document.columns().clone()
    }

    async fn load(&self) -> Result<RecordBatch, ConnectorError> {
        let (path, format, document, size_max) =
            (self.path.clone(), self.format.clone(), self.document.clone(), self.size_max);
        let rows = move || document.rows(&path.display().to_string(), &read(&path, size_max)?, &format);
        joined(tokio::task::spawn_blocking(rows).await)?
    }

    fn refresh(&self) -> Option<std::time::Duration> {
        self.refresh.map(|refresh| refresh.0)
    }
}
