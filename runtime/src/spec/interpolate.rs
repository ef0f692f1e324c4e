//! `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `${file:path}` and `$${`, in string values, after parsing.
//!
//! What is filled in is never read as YAML: a `#` or a line break in a value breaks nothing.

use std::io::Read;
use std::path::{Path as FilePath, PathBuf};

use super::limits::{PROBLEMS_MAX, YamlLimits};
use super::node::{Filled, FilledPlace, Kind, Node, Text};
use super::problem::{Part, Path, Problem};
use super::secrets::{Secrets, name_is_secret, url_password};
use super::text_map;

/// Fills in the `${…}` of a tree.
pub(super) struct Filler<'a> {
    pub(super) env: &'a (dyn Fn(&str) -> Option<String> + Send + Sync),
    pub(super) limits: &'a YamlLimits,
    /// Relative paths in `${file:…}` start here.
    pub(super) base_dir: &'a FilePath,
    /// The text of the file that the tree is from.
    pub(super) text: &'a str,
    pub(super) problems: Vec<Problem>,
    pub(super) secrets: &'a mut Secrets,
    pub(super) files_read: &'a mut Vec<PathBuf>,
    /// Bytes filled in so far.
    pub(super) filled_bytes: usize,
}

/// One value to put in.
struct Value {
    text: String,
    secret: bool,
}

/// What is wrong with one `${…}`: message and hint.
type Wrong = (String, String);

impl Filler<'_> {
    /// Fills in all texts below `node`, except below the top-level keys `except`.
    pub(super) fn fill(&mut self, node: &mut Node, path: &mut Path, except: &[&str]) {
        if self.problems.len() >= PROBLEMS_MAX {
            return;
        }
        if matches!(&node.kind, Kind::Text(text) if text.text.contains("${")) {
            self.fill_text(node, path);
        }
        match &mut node.kind {
            Kind::Text(text) => {
                if let Some(password) = url_password(&text.text) {
                    self.secrets.add(password);
                }
            }
            Kind::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(index.to_string());
                    self.fill(item, path, &[]);
                    path.pop();
                }
            }
            Kind::Map(map) => {
                for (key, entry) in map.iter_mut().filter(|(key, _)| !except.contains(&key.as_str())) {
                    path.push(key.clone());
                    self.fill(&mut entry.value, path, &[]);
                    path.pop();
                }
            }
            Kind::Null | Kind::Bool(_) | Kind::Number(_) => {}
        }
    }

    fn fill_text(&mut self, node: &mut Node, path: &Path) {
        let Kind::Text(Text { text: written, .. }) = &node.kind else { return };
        let mut filled = Filled { written: written.clone(), places: Vec::new(), whole: false, secret: false };
        let mut text = String::with_capacity(written.len());
        let mut rest = written.as_str();
        while let Some(found) = find_place(rest) {
            let (before, from) = rest.split_at(found.at);
            text.push_str(before);
            let result = match found.body {
                Body::Escaped => Ok(Value { text: "${".into(), secret: false }),
                Body::Open => Err((
                    "this `${` is not closed".to_owned(),
                    "add the `}`, or write `$${` where the text itself is meant".to_owned(),
                )),
                Body::Of(body) => self.value(body),
            };
            let value = result.unwrap_or_else(|(message, hint)| {
                let chars = written.len() - rest.len() + found.at;
                self.report(node, path, chars, found.length, message, hint);
                Value { text: String::new(), secret: false }
            });
            self.filled_bytes += value.text.len();
            if text.len() + value.text.len() > self.limits.filled_bytes_max
                || self.filled_bytes > self.limits.expanded_bytes_max
            {
                let message = format!(
                    "with its `${{…}}` filled in, the text has more than {} bytes (filled_bytes_max), or all of them have more than {} (expanded_bytes_max)",
                    self.limits.filled_bytes_max, self.limits.expanded_bytes_max
                );
                return self.problems.push(Problem::new(path.clone(), message));
            }
            let written_start = written[..written.len() - rest.len() + found.at].chars().count();
            filled.places.push(FilledPlace {
                written_start,
                written_length: from[..found.length].chars().count(),
                length: value.text.chars().count(),
            });
            filled.whole |= found.length == written.len() && matches!(found.body, Body::Of(_));
            filled.secret |= value.secret;
            text.push_str(&value.text);
            rest = &from[found.length..];
        }
        text.push_str(rest);
        if let Kind::Text(there) = &mut node.kind {
            there.text = text;
            there.filled = Some(filled);
        }
    }

    /// Reports a mistake in the `${…}` that starts at byte `at` of the node's text.
    fn report(&mut self, node: &Node, path: &Path, at: usize, length: usize, message: String, hint: String) {
        let Kind::Text(text) = &node.kind else { return };
        let positions = text_map::written_positions(self.text, node, &text.text, text.style);
        let first = text.text[..at].chars().count();
        let last = first + text.text[at..at + length].chars().count();
        let start = positions.get(first).copied().unwrap_or(node.span.start);
        let end = positions.get(last).copied().unwrap_or(node.span.end).max(start);
        self.problems.push(Problem::new(path.clone(), message).hint(hint).at(Part::Bytes { start, end }));
    }

    /// The value of what stands between `${` and `}`.
    fn value(&mut self, body: &str) -> Result<Value, Wrong> {
        let name_end = body.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(body.len());
        let (name, rest) = body.split_at(name_end);
        let forms =
            "write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${file:/path}; `$${` is the text `${`".to_owned();
        if name == "file" && rest.starts_with(':') && !rest.starts_with(":-") && !rest.starts_with(":?") {
            return self.file(&rest[1..]);
        }
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err((format!("`${{{}}}` names no variable", shorten(body)), forms));
        }
        let found = (self.env)(name);
        let value = match rest.get(..2) {
            _ if rest.is_empty() => found.ok_or_else(|| {
                (
                    format!("the variable {name} is not set"),
                    format!("set {name} where millstream runs, or give a default: ${{{name}:-value}}"),
                )
            })?,
            Some(":-") => match found.filter(|value| !value.is_empty()) {
                Some(value) => value,
                None => return Ok(Value { text: rest[2..].to_owned(), secret: false }),
            },
            Some(":?") => found.filter(|value| !value.is_empty()).ok_or_else(|| {
                let message = if rest.len() > 2 { format!(": {}", &rest[2..]) } else { String::new() };
                (format!("the variable {name} is not set{message}"), format!("set {name} where millstream runs"))
            })?,
            _ => return Err((format!("`${{{}}}` cannot be read behind the name {name}", shorten(body)), forms)),
        };
        let secret = name_is_secret(name);
        if secret {
            self.secrets.add(&value);
        }
        Ok(Value { text: value, secret })
    }

    fn file(&mut self, path: &str) -> Result<Value, Wrong> {
        let full = self.base_dir.join(path);
        let wrong = |why: String| {
            let hint = "the daemon must be able to read it; relative paths start at the folder of this YAML file";
            (format!("the file {} {why}", full.display()), hint.to_owned())
        };
        if path.is_empty() {
            return Err(("`${file:}` names no file".into(), "write ${file:/run/secrets/name}".into()));
        }
        self.files_read.push(full.clone());
        if !full.metadata().map_err(|error| wrong(format!("cannot be read: {error}")))?.is_file() {
            // Reading a pipe or a device could block for ever.
            return Err(wrong("is not a regular file".into()));
        }
        let file = std::fs::File::open(&full).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let mut text = String::new();
        let limit = self.limits.included_bytes_max;
        let read = file.take(limit as u64 + 1).read_to_string(&mut text);
        read.map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if text.len() > limit {
            return Err(wrong(format!("has more than {limit} bytes (included_bytes_max)")));
        }
        let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
        self.secrets.add(text);
        Ok(Value { text: text.to_owned(), secret: true })
    }
}

fn shorten(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 40;
    let short: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

struct Place<'a> {
    at: usize,
    length: usize,
    body: Body<'a>,
}

enum Body<'a> {
    /// `$${`
    Escaped,
    /// `${` without its `}`
    Open,
    Of(&'a str),
}

/// The first `${…}` or `$${` of `text`. Braces inside must be balanced: `${X:-{a}}`.
fn find_place(text: &str) -> Option<Place<'_>> {
    let at = text.find("${")?;
    if let Some(before) = at.checked_sub(1).filter(|before| text.as_bytes().get(*before) == Some(&b'$')) {
        return Some(Place { at: before, length: 3, body: Body::Escaped });
    }
    let inside = &text[at + 2..];
    let mut open = 1;
    for (index, c) in inside.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(Place { at, length: index + 3, body: Body::Of(&inside[..index]) });
        }
    }
    Some(Place { at, length: 2, body: Body::Open })
}
