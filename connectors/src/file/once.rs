//! Reads files once, one after the other, in the order of their names, to their ends.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::lines::LineReader;
use super::source::{Files, Step, Steps};
use crate::error::ConnectorError;
use crate::position::Positions;
use crate::source::SourceEvent;

/// A reader of files that do not grow.
pub(super) struct Once {
    files: Files,
    waiting: VecDeque<(PathBuf, String, u64)>,
    current: Option<LineReader>,
    events: VecDeque<SourceEvent>,
}

impl Once {
    pub(super) fn open(files: Files, from: &Positions) -> Result<Self, ConnectorError> {
        let found = files.find()?;
        if found.is_empty() {
            return Err(ConnectorError::retry(format!(
                "no file matches {}; correct `path`, or put the file there",
                files.pattern()
            )));
        }
        let waiting = found.into_iter().map(|(path, name)| {
            let position = from.get(&name).unwrap_or(0);
            (path, name, position)
        });
        let mut once = Self { files, waiting: waiting.collect(), current: None, events: VecDeque::new() };
        once.partitions();
        Ok(once)
    }

    /// Says which files are still to be read: those that are at their end hold no watermark back.
    fn partitions(&mut self) {
        let current = self.current.iter().map(|reader| reader.partition().clone());
        let waiting = self.waiting.iter().map(|(_, name, _)| Arc::from(name.as_str()));
        self.events.push_back(SourceEvent::Partitions(current.chain(waiting).collect()));
    }
}

impl Steps for Once {
    fn step(&mut self) -> Result<Step, ConnectorError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Step::Event(event));
            }
            let Some(reader) = &mut self.current else {
                let Some((path, name, position)) = self.waiting.pop_front() else {
                    return Ok(Step::Event(SourceEvent::End));
                };
                let reader = self.files.open(&path, (&name, &name), position)?;
                self.events.push_back(SourceEvent::Header(reader.first_line()?));
                self.current = Some(reader);
                continue;
            };
            match reader.next(true)? {
                Some(batch) => return Ok(Step::Event(SourceEvent::Messages(batch))),
                None => {
                    tracing::debug!(file = reader.name(), bytes = reader.read_up_to(), "read to its end");
                    self.current = None;
                    if !self.waiting.is_empty() {
                        self.partitions();
                    }
                }
            }
        }
    }
}
