//! The sink `file`: its options, and the seam between async and the file system.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::append::Append;
use super::roll::{Roll, RollConfig};
use super::{joined, resolve};
use crate::error::ConnectorError;
use crate::format::{Encoded, Encoder, FormatConfig};
use crate::sink::{Flushed, Rejected, Sink, SinkContext};

/// Options of the sink. Every row is a line: of JSON, or of CSV with `format: csv`.
///
/// Without `roll` the file is appended to under its own name, and grows at once; after a crash it is cut back to what the
/// last checkpoint covers, so that every row is in it once. With `roll` rows go to files that are published whole, by an
/// atomic rename, when a checkpoint covers them: who reads the folder never sees half a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSinkConfig {
    /// The file, relative to the folder of this YAML file. Folders that are missing are made. With `roll`, `{sequence}`
    /// stands for the file's number (without it, `-000001` and so on is put before the extension), and `%Y-%m-%d` and the
    /// like for the time (in UTC) at which the file was begun.
    pub path: String,
    /// When one file is complete and the next one begins; never where this is missing.
    #[serde(default)]
    pub roll: Option<RollConfig>,
    /// What to do on the very first start where the file exists (not with `roll`, which never touches a file that
    /// exists): `append` (the default), `replace` or `fail`.
    #[serde(default)]
    pub if_exists: IfExists,
}

/// What to do with a file that exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfExists {
    /// Rows are added behind what is there.
    #[default]
    Append,
    /// What is there is thrown away.
    Replace,
    /// The pipeline does not start.
    Fail,
}

impl FileSinkConfig {
    /// Checks the options and builds the sink.
    pub fn build(&self, context: &SinkContext) -> Result<Box<dyn Sink>, ConnectorError> {
        if self.path.is_empty() || self.path.ends_with('/') {
            return Err(ConnectorError::configuration("path", "the path of a file is needed"));
        }
        let format = context.format.clone().unwrap_or_default();
        if matches!(format, FormatConfig::Bytes(_)) {
            return Err(ConnectorError::configuration(
                "format",
                "a file of lines cannot hold byte strings; use json, csv or text",
            ));
        }
        let encoder = format.encoder(context.columns.clone())?;
        let header = encoder.file_header();
        let path = resolve(&context.base_dir, &self.path);
        let target: Box<dyn Target> = match &self.roll {
            None => Box::new(Append::new(path.clone(), header, self.if_exists)),
            Some(_) if self.if_exists != IfExists::Append => {
                return Err(ConnectorError::configuration(
                    "if_exists",
                    "has no use with `roll`, whose files have names of their own",
                ));
            }
            Some(roll) => Box::new(Roll::new(roll, &path, header, &format!("{}.{}", context.pipeline, context.name))?),
        };
        // A record of CSV may hold line breaks, within quotes; in JSON there are none.
        let one_line = matches!(format, FormatConfig::Text(_));
        Ok(Box::new(FileSink { encoder, one_line, target: Some(target), path }))
    }
}

/// Where lines go. All of this may block.
pub(super) trait Target: Send {
    fn open(&mut self, restored: Option<&[u8]>) -> Result<(), ConnectorError>;
    /// Writes each message as a line.
    fn write(&mut self, encoded: &Encoded) -> Result<(), ConnectorError>;
    /// Makes everything durable; returns the state to go on from.
    fn flush(&mut self) -> Result<Vec<u8>, ConnectorError>;
    /// The epoch of the last flush is complete.
    fn committed(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
    fn next_tick(&self) -> Option<tokio::time::Instant> {
        None
    }
    fn tick(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
    fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

struct FileSink {
    encoder: Box<dyn Encoder>,
    one_line: bool,
    /// Away while a blocking thread works with it.
    target: Option<Box<dyn Target>>,
    path: PathBuf,
}

impl FileSink {
    async fn on_target<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn Target) -> Result<T, ConnectorError> + Send + 'static,
    ) -> Result<T, ConnectorError> {
        let mut target = self.target.take().ok_or_else(|| {
            ConnectorError::retry(format!(
                "{}: a write was broken off; the sink must be opened anew",
                self.path.display()
            ))
        })?;
        let worked = tokio::task::spawn_blocking(move || {
            let result = work(&mut *target);
            (target, result)
        });
        let (target, result) = joined(worked.await)?;
        self.target = Some(target);
        result
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn open(&mut self, restored: Option<&[u8]>) -> Result<(), ConnectorError> {
        let restored = restored.map(<[u8]>::to_vec);
        self.on_target(move |target| target.open(restored.as_deref())).await
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Rejected>, ConnectorError> {
        let encoded = self.encoder.encode(rows)?;
        let (encoded, rejected) = if self.one_line { without_line_breaks(encoded) } else { (encoded, Vec::new()) };
        self.on_target(move |target| target.write(&encoded)).await?;
        Ok(rejected)
    }

    async fn flush(&mut self) -> Result<Flushed, ConnectorError> {
        let state = self.on_target(|target| target.flush()).await?;
        Ok(Flushed { rejected: Vec::new(), state: Some(state) })
    }

    fn next_tick(&self) -> Option<tokio::time::Instant> {
        self.target.as_ref()?.next_tick()
    }

    async fn tick(&mut self) -> Result<Vec<Rejected>, ConnectorError> {
        self.on_target(|target| target.tick()).await?;
        Ok(Vec::new())
    }

    async fn committed(&mut self) -> Result<(), ConnectorError> {
        self.on_target(|target| target.committed()).await
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.on_target(|target| target.close()).await
    }
}

/// Text that holds line breaks would come back as several messages: it is refused.
fn without_line_breaks(encoded: Encoded) -> (Encoded, Vec<Rejected>) {
    if memchr::memchr(b'\n', &encoded.buffer).is_none() {
        return (encoded, Vec::new());
    }
    let (mut buffer, mut ends, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
    for message in encoded.messages() {
        if memchr::memchr(b'\n', &message).is_some() {
            let reason = "the text holds a line break, and every row of this file is one line; use json or csv";
            rejected.push(Rejected { reason: reason.into(), payload: message });
        } else {
            buffer.extend_from_slice(&message);
            ends.push(buffer.len());
        }
    }
    (Encoded { buffer: buffer.into(), ends }, rejected)
}

/// The messages from `from` on as lines, as long as `more` says so; returns where it stopped.
pub(super) fn lines(encoded: &Encoded, from: usize, mut more: impl FnMut(usize) -> bool) -> (Vec<u8>, usize) {
    let mut start = from.checked_sub(1).and_then(|i| encoded.ends.get(i)).copied().unwrap_or(0);
    let mut out = Vec::with_capacity(encoded.buffer.len() - start.min(encoded.buffer.len()) + encoded.ends.len());
    let mut at = from;
    while let Some(&end) = encoded.ends.get(at) {
        if !more(end - start + 1) {
            break;
        }
        out.extend_from_slice(encoded.buffer.get(start..end).unwrap_or_default());
        out.push(b'\n');
        start = end;
        at += 1;
    }
    (out, at)
}
