//! DataFusion's errors as problems at their place in the SQL, with hints.

use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::ast::Statement;

use crate::spec::problem::{Part, Path, Problem, nearest};
use crate::sql::refuse::Refusal;

/// What SQL text is known to be about, for errors.
pub(crate) struct Context<'a> {
    /// The YAML path of the SQL.
    pub(crate) path: Path,
    /// The SQL.
    pub(crate) sql: &'a str,
    /// The parsed statement, where it could be parsed.
    pub(crate) statement: Option<&'a Statement>,
    /// The names that FROM may have.
    pub(crate) relations: Vec<String>,
    /// The functions there are.
    pub(crate) functions: Vec<String>,
}

impl Context<'_> {
    /// `error` as a problem.
    pub(crate) fn problem(&self, error: &DataFusionError) -> Problem {
        let problem = |message: String| Problem::new(self.path.clone(), message);
        if let Some(refusal) = refusal(error) {
            let mut found = problem(refusal.to_string());
            found.hint = refusal.hint();
            return match self.statement.and_then(|statement| refusal.locate(statement)) {
                Some((line, column)) => found.at(Part::Text { line, column }),
                None => found,
            };
        }
        if let Some(field) = field_not_found(error) {
            return self.unknown_column(field);
        }
        let text = clean(&error.strip_backtrace());
        if let Some((message, line, column)) = parser_position(&text) {
            return problem(message).at(Part::Text { line, column });
        }
        if let Some(found) = self.unknown_name(&text) {
            return found;
        }
        let diagnostic = error.diagnostic();
        let mut found = problem(diagnostic.map_or(text, |diagnostic| capitalised_down(&diagnostic.message)));
        if let Some(diagnostic) = diagnostic {
            found.hint = diagnostic.helps.first().map(|help| help.message.clone());
            if let Some(span) = diagnostic.span {
                found = found.at(Part::Text { line: span.start.line, column: span.start.column });
            }
        }
        found
    }

    fn unknown_column(&self, error: &SchemaError) -> Problem {
        let SchemaError::FieldNotFound { field, valid_fields } = error else {
            return Problem::new(self.path.clone(), error.to_string());
        };
        let names: Vec<String> = valid_fields.iter().map(|column| column.name.clone()).collect();
        let mut problem = Problem::new(self.path.clone(), format!("there is no column `{}`", field.flat_name()));
        problem.hint = match nearest(&field.name, names.iter().map(String::as_str)) {
            Some(name) => Some(format!("did you mean `{name}`?")),
            None if names.is_empty() => None,
            None => Some(format!("there are: {}", names.join(", "))),
        };
        let span = field.spans().first();
        let place = span.map(|span| (span.start.line, span.start.column)).or_else(|| find_word(self.sql, &field.name));
        match place {
            Some((line, column)) => problem.at(Part::Text { line, column }),
            None => problem,
        }
    }

    /// Unknown tables and functions, which DataFusion reports as text only.
    fn unknown_name(&self, text: &str) -> Option<Problem> {
        let (what, name, candidates) = if let Some(name) = between(text, "table '", "'") {
            let name = name.rsplit('.').next().unwrap_or(name);
            text.contains("not found").then_some(("source, table or step", name, &self.relations))?
        } else {
            ("function", between(text, "Invalid function '", "'")?, &self.functions)
        };
        let mut problem = Problem::new(self.path.clone(), format!("there is no {what} `{name}`"));
        problem.hint = match nearest(name, candidates.iter().map(String::as_str)) {
            Some(candidate) => Some(format!("did you mean `{candidate}`?")),
            None if what == "function" => Some("functions of your own come from `functions: [{wasm: …}]`".into()),
            None => Some(format!("there are: {}", candidates.join(", "))),
        };
        Some(match find_word(self.sql, name) {
            Some((line, column)) => problem.at(Part::Text { line, column }),
            None => problem,
        })
    }
}

fn refusal(error: &DataFusionError) -> Option<&Refusal> {
    match error {
        DataFusionError::External(inner) => inner.downcast_ref(),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => refusal(inner),
        DataFusionError::Shared(inner) => refusal(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(refusal),
        _ => None,
    }
}

fn field_not_found(error: &DataFusionError) -> Option<&SchemaError> {
    match error {
        DataFusionError::SchemaError(inner, _) => {
            matches!(inner.as_ref(), SchemaError::FieldNotFound { .. }).then_some(inner.as_ref())
        }
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => field_not_found(inner),
        DataFusionError::Shared(inner) => field_not_found(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(field_not_found),
        _ => None,
    }
}

/// `text` without the prefixes that say which part of DataFusion complains.
fn clean(text: &str) -> String {
    let mut text = text.trim();
    for prefix in [
        "Error during planning: ",
        "SQL error: ",
        "External error: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "Optimizer rule ",
        "type_coercion\ncaused by\n",
    ] {
        text = text.strip_prefix(prefix).unwrap_or(text).trim_start();
    }
    if let Some(inner) = text.strip_prefix("ParserError(\"").and_then(|rest| rest.strip_suffix("\")")) {
        return inner.replace("\\\"", "\"");
    }
    text.strip_prefix("Error during planning: ").unwrap_or(text).to_owned()
}

/// The parser says its place at the end: `… at Line: 3, Column: 5`.
fn parser_position(text: &str) -> Option<(String, u64, u64)> {
    let (message, place) = text.rsplit_once(" at Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    let column: String = column.chars().take_while(char::is_ascii_digit).collect();
    let message = message.trim_start_matches("sql parser error: ");
    Some((capitalised_down(message), line.trim().parse().ok()?, column.parse().ok()?))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let from = text.find(start)? + start.len();
    let length = text[from..].find(end)?;
    Some(&text[from..from + length])
}

/// The first place of `word` as a whole word: line and column from 1.
fn find_word(sql: &str, word: &str) -> Option<(u64, u64)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    for (number, line) in sql.lines().enumerate() {
        let lowered = line.to_lowercase();
        for (at, _) in lowered.match_indices(&word.to_lowercase()) {
            let before = lowered[..at].chars().next_back().is_some_and(is_part);
            let after = lowered[at + word.len()..].chars().next().is_some_and(is_part);
            if !before && !after {
                let column = lowered[..at].chars().count() as u64 + 1;
                return Some((number as u64 + 1, column));
            }
        }
    }
    None
}

/// Messages continue a sentence; acronyms keep their capitals.
fn capitalised_down(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}
