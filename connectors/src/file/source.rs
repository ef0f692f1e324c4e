//! The source `file`: its options, and the seam between async and the file system.
//!
//! Files are read on a blocking thread, one step at a time. The step under way is kept in the source, so that a `next`
//! that is dropped loses nothing: the next one waits for the same step.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use glob::{MatchOptions, Pattern};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::follow::Follow;
use super::lines::{LineOptions, LineReader};
use super::once::Once;
use super::{joined, resolve};
use crate::error::ConnectorError;
use crate::position::Positions;
use crate::source::{Source, SourceContext, SourceEvent};
use crate::units::{ByteSize, Duration};

/// The shortest time between two looks at the file system.
const POLL_INTERVAL_MIN: std::time::Duration = std::time::Duration::from_millis(1);

/// The longest line that may be asked for.
const LINE_MAX: ByteSize = ByteSize::mib(1024);

/// Options of the source. Every line of the file is a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSourceConfig {
    /// The file, relative to the folder of this YAML file. `*`, `?`, `[a-z]` and `**` stand for several files, which are
    /// read in the order of their names; each is a partition. Hidden files are named only by a pattern with the dot.
    pub path: String,
    /// False (the default): the file is read once, to its end, and then the source ends. True: it is followed as it
    /// grows, over renames (log rotation) and cuts, and new files that match are picked up.
    #[serde(default)]
    pub follow: bool,
    /// Where following starts the very first time: `beginning` (the default) or `end` (only what comes from now on).
    #[serde(default)]
    pub start: Start,
    /// How often to look for growth and new files while following; 250ms by default.
    #[serde(default = "FileSourceConfig::default_poll_interval")]
    pub poll_interval: Duration,
    /// The longest line; a longer one stops the pipeline with an error that names its place. 1MiB by default, 1GiB at
    /// most.
    #[serde(default = "FileSourceConfig::default_line_max")]
    pub line_max: ByteSize,
    /// Whether blank lines are skipped (the default) or are messages.
    #[serde(default = "FileSourceConfig::default_skip_blank_lines")]
    pub skip_blank_lines: bool,
    /// How the file is compressed; by default its name says so (`.gz`, `.zst`). A compressed file cannot be followed: with
    /// `follow` those that match are left out, unless this is `none`.
    #[serde(default)]
    pub compression: Compression,
}

/// Where following starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the first line.
    #[default]
    Beginning,
    /// After the last line that is there.
    End,
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As the name says: `.gz`, `.zst`, otherwise not at all.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// What it is for this file.
    pub(super) fn of(self, path: &Path) -> Self {
        match (self, path.extension().and_then(|extension| extension.to_str())) {
            (Self::Auto, Some("gz")) => Self::Gzip,
            (Self::Auto, Some("zst")) => Self::Zstd,
            (Self::Auto, _) => Self::None,
            (chosen, _) => chosen,
        }
    }
}

impl FileSourceConfig {
    fn default_poll_interval() -> Duration {
        Duration::from_millis(250)
    }

    fn default_line_max() -> ByteSize {
        ByteSize::mib(1)
    }

    fn default_skip_blank_lines() -> bool {
        true
    }

    /// True where the file is read once, to its end.
    pub fn bounded(&self) -> bool {
        !self.follow
    }

    /// Checks the options and builds the source.
    pub fn build(&self, context: &SourceContext) -> Result<Box<dyn Source>, ConnectorError> {
        let wrong = |option: &str, message: &str| Err(ConnectorError::configuration(option, message));
        if self.path.is_empty() {
            return wrong("path", "a path is needed");
        }
        if self.start == Start::End && !self.follow {
            return wrong(
                "start",
                "`end` makes sense only with `follow: true`: a file that is read once would give nothing",
            );
        }
        if self.follow && !matches!(self.compression, Compression::Auto | Compression::None) {
            return wrong("compression", "a compressed file cannot be followed as it grows; leave out `follow`");
        }
        if self.poll_interval.0 < POLL_INTERVAL_MIN {
            return wrong("poll_interval", "must be at least 1ms");
        }
        if self.line_max.0 == 0 || self.line_max > LINE_MAX {
            return wrong("line_max", "must be from 1B to 1GiB");
        }
        let files = Files::new(self, context)?;
        Ok(Box::new(FileSource {
            files,
            follow: self.follow,
            start: self.start,
            poll_interval: self.poll_interval.0,
            wait_until: None,
            reading: Reading::Closed,
        }))
    }
}

/// Finds and opens the files of a source.
#[derive(Debug, Clone)]
pub(super) struct Files {
    base_dir: PathBuf,
    /// The whole pattern, from the root or the working directory.
    pattern: String,
    /// The file itself, where the path is no pattern.
    literal: Option<PathBuf>,
    compression: Compression,
    /// Leaves out compressed files: those of a rotation, which were read before they were compressed.
    skip_compressed: bool,
    options: LineOptions,
}

impl Files {
    pub(super) fn new(config: &FileSourceConfig, context: &SourceContext) -> Result<Self, ConnectorError> {
        let is_pattern = config.path.contains(['*', '?', '[']);
        let path = resolve(&context.base_dir, &config.path);
        // A pattern character in the folder's own name stands for itself.
        let folder = Pattern::escape(&context.base_dir.to_string_lossy());
        let pattern = Path::new(&folder).join(&config.path).to_string_lossy().into_owned();
        if is_pattern {
            Pattern::new(&pattern).map_err(|error| ConnectorError::configuration("path", error.to_string()))?;
        }
        Ok(Self {
            base_dir: context.base_dir.clone(),
            pattern,
            literal: (!is_pattern).then_some(path),
            compression: if config.follow { Compression::None } else { config.compression },
            skip_compressed: config.follow && config.compression == Compression::Auto,
            options: LineOptions {
                rows_max: context.batch_rows_max.max(1),
                bytes_max: context.batch_bytes_max.max(1),
                line_max: usize::try_from(config.line_max.0).unwrap_or(usize::MAX),
                skip_blank: config.skip_blank_lines,
                metadata: context.metadata.clone(),
            },
        })
    }

    /// The path or pattern, for messages.
    pub(super) fn pattern(&self) -> String {
        self.literal.as_ref().map_or_else(|| self.pattern.clone(), |path| path.display().to_string())
    }

    /// The files there are, in the order of their names, each with the name that partitions and metadata show.
    pub(super) fn find(&self) -> Result<Vec<(PathBuf, String)>, ConnectorError> {
        if let Some(path) = &self.literal {
            return Ok(if path.exists() { vec![(path.clone(), self.name_of(path))] } else { Vec::new() });
        }
        let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
        let found = glob::glob_with(&self.pattern, options)
            .map_err(|error| ConnectorError::configuration("path", error.to_string()))?;
        let mut files = Vec::new();
        for path in found {
            match path {
                Ok(path) if path.is_dir() => {}
                Ok(path) if self.skip_compressed && Compression::Auto.of(&path) != Compression::None => {}
                Ok(path) => files.push((path.clone(), self.name_of(&path))),
                // A folder that may not be read could hold the very file that is wanted.
                Err(error) => return Err(super::io_error("look into", error.path(), error.error())),
            }
        }
        files.sort();
        Ok(files)
    }

    fn name_of(&self, path: &Path) -> String {
        path.strip_prefix(&self.base_dir).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// The path of a name that [`Files::find`] gave.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        resolve(&self.base_dir, name)
    }

    pub(super) fn open(&self, path: &Path, names: (&str, &str), position: u64) -> Result<LineReader, ConnectorError> {
        LineReader::open(path, names, self.compression, position, self.options.clone())
    }
}

/// Reads on, one step at a time; may block.
pub(super) trait Steps: Send {
    fn step(&mut self) -> Result<Step, ConnectorError>;
}

/// What a step gave.
pub(super) enum Step {
    Event(SourceEvent),
    /// Nothing for now.
    Wait,
}

struct FileSource {
    files: Files,
    follow: bool,
    start: Start,
    poll_interval: std::time::Duration,
    /// When to look again. Kept here, because a `next` that is dropped must not make the polling quicker.
    wait_until: Option<tokio::time::Instant>,
    reading: Reading,
}

type Stepped = (Box<dyn Steps>, Result<Step, ConnectorError>);

enum Reading {
    Closed,
    Idle(Box<dyn Steps>),
    Busy(JoinHandle<Stepped>),
}

#[async_trait]
impl Source for FileSource {
    async fn open(&mut self, from: &Positions) -> Result<(), ConnectorError> {
        let (files, follow, start, from) = (self.files.clone(), self.follow, self.start, from.clone());
        let opened = tokio::task::spawn_blocking(move || -> Result<Box<dyn Steps>, ConnectorError> {
            Ok(match follow {
                true => Box::new(Follow::open(files, start, &from)?),
                false => Box::new(Once::open(files, &from)?),
            })
        });
        self.reading = Reading::Idle(joined(opened.await)??);
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent, ConnectorError> {
        loop {
            if let Some(wait_until) = self.wait_until {
                tokio::time::sleep_until(wait_until).await;
                self.wait_until = None;
            }
            let busy = match &mut self.reading {
                Reading::Busy(busy) => busy,
                reading => {
                    let Reading::Idle(mut steps) = std::mem::replace(reading, Reading::Closed) else {
                        return Err(ConnectorError::fatal("a file source was read before it was opened"));
                    };
                    *reading = Reading::Busy(tokio::task::spawn_blocking(move || {
                        let step = steps.step();
                        (steps, step)
                    }));
                    continue;
                }
            };
            // Dropped here, the step goes on and is found again in `self.reading`.
            let result = busy.await;
            self.reading = Reading::Closed;
            let (steps, step) = joined(result)?;
            self.reading = Reading::Idle(steps);
            match step? {
                Step::Event(event) => return Ok(event),
                Step::Wait => self.wait_until = Some(tokio::time::Instant::now() + self.poll_interval),
            }
        }
    }

    async fn commit(&mut self, _upto: &Positions) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.reading = Reading::Closed;
        Ok(())
    }
}
