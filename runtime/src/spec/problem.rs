//! A mistake in what the user wrote, said by its YAML path; the loader turns the path into file, line and column.

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
            path: path.into_iter().map(Into::into).collect(),
            part: Part::Value,
            severity: Severity::Error,
            message: message.into(),
            hint: None,
        }
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

/// The candidate nearest to `written`, if one is near enough to be meant: for hints.
pub fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count().min(written.chars().count()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
