//! From a problem's path to file, line and column.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::node::{FileId, Kind, Node, Span};
use super::problem::{Part, Problem, Severity};
use super::secrets::Secrets;
use super::text_map;

/// The files of a pipeline, and the trees in them.
#[derive(Debug, Clone, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
    pub(super) secrets: Secrets,
}

#[derive(Debug, Clone)]
struct SourceFile {
    path: PathBuf,
    text: Arc<str>,
    /// The tree, after the profile was laid over it and the contracts' columns were put in.
    root: Option<Node>,
}

/// A place in a file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file.
    pub file: PathBuf,
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
    /// The column behind the last character concerned, in the same line.
    pub end_column: usize,
}

/// A problem with its place: what is rendered, and what the API gives out. Secrets are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Located {
    /// Where.
    #[serde(flatten)]
    pub location: Location,
    /// The YAML path, dotted.
    pub path: String,
    /// How bad.
    #[serde(serialize_with = "severity")]
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
    /// The line of the file, for showing.
    #[serde(skip)]
    pub source_line: Option<String>,
}

fn severity<S: serde::Serializer>(severity: &Severity, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    })
}

impl SourceMap {
    /// Adds a file, and gives its number.
    pub(super) fn add(&mut self, path: &FilePath, text: Arc<str>) -> FileId {
        self.files.push(SourceFile { path: path.to_owned(), text, root: None });
        // The loader reads far fewer files than this: one for each source at most.
        FileId::try_from(self.files.len() - 1).unwrap_or(FileId::MAX)
    }

    pub(super) fn set_root(&mut self, file: FileId, root: Node) {
        if let Some(file) = self.files.get_mut(usize::from(file)) {
            file.root = Some(root);
        }
    }

    /// The pipeline's tree.
    pub fn root(&self) -> Option<&Node> {
        self.files.first()?.root.as_ref()
    }

    /// Where a problem is. A path that does not exist in the file leads to the nearest thing above it that does.
    pub fn locate(&self, problem: &Problem) -> Location {
        self.find(problem).0
    }

    /// The problem with its place and its line, without secrets.
    pub fn located(&self, problem: &Problem) -> Located {
        let (location, line) = self.find(problem);
        Located {
            location,
            path: dotted(&problem.path),
            severity: problem.severity,
            message: self.secrets.redact(&problem.message),
            hint: problem.hint.as_deref().map(|hint| self.secrets.redact(hint)),
            source_line: line.map(|line| self.secrets.mask(line)),
        }
    }

    /// All problems with their places, in the order of the files' lines.
    pub fn located_all<'a>(&self, problems: impl IntoIterator<Item = &'a Problem>) -> Vec<Located> {
        let mut located: Vec<Located> = problems.into_iter().map(|problem| self.located(problem)).collect();
        let own = self.files.first().map(|file| file.path.clone());
        located.sort_by_key(|found| {
            let place = &found.location;
            (own.as_ref() != Some(&place.file), place.file.clone(), place.line, place.column)
        });
        located
    }

    fn find(&self, problem: &Problem) -> (Location, Option<&str>) {
        let Some(start_file) = (match &problem.file {
            Some(path) => self.files.iter().position(|file| file.path == *path),
            None => (!self.files.is_empty()).then_some(0),
        }) else {
            let file = problem.file.clone().unwrap_or_default();
            return (Location { file, line: 1, column: 1, end_column: 1 }, None);
        };
        let span = match problem.part {
            Part::Bytes { start, end } => Span { file: start_file as FileId, start, end },
            _ => self.span(start_file, problem),
        };
        let file = self.files.get(usize::from(span.file)).unwrap_or(&self.files[start_file]);
        let (line, column, line_range) = position(&file.text, span.start);
        let end = span.end.clamp(span.start.min(line_range.end), line_range.end);
        let text = &file.text[line_range.clone()];
        let length = file.text.get(span.start..end).map_or(0, |text| text.trim_end().chars().count());
        let location = Location { file: file.path.clone(), line, column, end_column: column + length };
        (location, Some(text))
    }

    /// The place of the node that the problem is about.
    fn span(&self, file: usize, problem: &Problem) -> Span {
        let nothing = Span { file: file as FileId, ..Span::default() };
        let Some(root) = &self.files[file].root else { return nothing };
        let mut node = root;
        let mut key = Span { end: root.span.start, ..root.span };
        let mut complete = true;
        for name in &problem.path {
            let next = match &node.kind {
                Kind::Map(map) => map.get(name).map(|entry| (entry.key_span, &entry.value)),
                Kind::List(items) => {
                    name.parse().ok().and_then(|index: usize| items.get(index)).map(|item| (item.span, item))
                }
                _ => None,
            };
            let Some((key_span, value)) = next else {
                complete = false;
                break;
            };
            (key, node) = (key_span, value);
        }
        match &problem.part {
            Part::Text { line, column } if complete => self.text_span(node, *line, *column),
            // What is missing is missing at its parent's key; an empty value is nowhere else.
            Part::Key => key,
            _ if !complete || node.span.start == node.span.end => key,
            _ => node.span,
        }
    }

    fn text_span(&self, node: &Node, line: u64, column: u64) -> Span {
        let Some(file) = self.files.get(usize::from(node.span.file)) else { return node.span };
        let start = text_map::locate(&file.text, node, line, column);
        // The word that starts there.
        let rest = file.text.get(start..node.span.end.max(start)).unwrap_or_default();
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let end = start + if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) };
        Span { start, end, ..node.span }
    }
}

/// Line and column of a byte, and the bytes of its line.
fn position(text: &str, at: usize) -> (usize, usize, Range<usize>) {
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let before = &text[..at];
    let mut start = before.rfind('\n').map_or(0, |at| at + 1);
    if text[start..].starts_with('\u{feff}') {
        start += '\u{feff}'.len_utf8();
    }
    let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
    let end = if text[start.min(end)..end].ends_with('\r') { end - 1 } else { end };
    let line = before.matches('\n').count() + 1;
    let column = text.get(start..at).map_or(0, |text| text.chars().count()) + 1;
    (line, column, start.min(end)..end)
}

/// `sources.readings.mqtt.topics[0]`
fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            text.push_str(&format!("[{part}]"));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(part);
        }
    }
    text
}
