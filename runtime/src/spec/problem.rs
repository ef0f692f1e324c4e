//! A mistake in what the user wrote, said by its YAML path; the loader turns the path into file, line and column.

use std::path::PathBuf;

/// Where in the YAML tree: `["steps", "warm", "sql"]`; list items by their index.
pub type Path = Vec<String>;

/// Which part of the node at the path is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Its key.
    Key,
    /// Its value.
    Value,
    /// A place within its text (SQL): line and column from 1, as the SQL parser counts them.
    Text {
        /// Line within the scalar's text, from 1.
        line: u64,
        /// Column within that line, in characters, from 1.
        column: u64,
    },
    /// A place in the file itself, where no path can say it: a syntax error, a key written twice, a place inside
    /// `${…}`.
    Bytes {
        /// The first byte.
        start: usize,
        /// The byte behind the last one.
        end: usize,
    },
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The pipeline cannot run.
    Error,
    /// It can, but the user should know.
    Warning,
}

/// A mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, where it is another one than the pipeline's own (a contract); `path` is then a path in that file.
    pub file: Option<PathBuf>,
    /// Where.
    pub path: Path,
    /// Which part of it.
    pub part: Part,
    /// How bad.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
}

impl Problem {
    /// An error about the value at `path`.
    pub fn new(path: impl IntoIterator<Item = impl Into<String>>, message: impl Into<String>) -> Self {
        Self {
            file: None,
            path: path.into_iter().map(Into::into).collect(),
            part: Part::Value,
            severity: Severity::Error,
            message: message.into(),
            hint: None,
        }
    }

    /// The same, as a warning.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// The same, in another file than the pipeline's own.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// The same, with what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, about another part of the node.
    #[must_use]
    pub fn at(mut self, part: Part) -> Self {
        self.part = part;
        self
    }
}

/// Names longer than this are not compared in [`nearest`]: the distance costs the product of both lengths.
const COMPARED_CHARS_MAX: usize = 100;

/// The candidate nearest to `written`, if one is near enough to be meant: for hints.
pub fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = written.chars().take(COMPARED_CHARS_MAX + 1).count();
    if length > COMPARED_CHARS_MAX {
        return None;
    }
    let written = written.to_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= 4 * COMPARED_CHARS_MAX)
        .map(|candidate| (strsim::damerau_levenshtein(&written, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            let other = candidate.chars().count();
            // Short names are not near just because there is little to differ in.
            *distance <= 1 + other.min(length) / 3 && *distance < other.max(length)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
