//! DataFusion's errors as problems at their place in the SQL, with hints.

use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::sql::sqlparser::ast::{Spanned, Statement};

use crate::spec::problem::{Part, Path, Problem, nearest};
use crate::sql::mend::{self, Unknown};
use crate::sql::refuse::Refusal;
use crate::sql::survey::{self, InWhere};
use crate::sql::wording::{self, Place, Said, between, capitalised_down, clean};

/// What SQL text is known to be about, for errors.
pub(crate) struct Context<'a> {
    /// The YAML path of the SQL.
    pub(crate) path: Path,
    /// The SQL.
    pub(crate) sql: &'a str,
    /// The parsed statement, where it could be parsed.
    pub(crate) statement: Option<&'a Statement>,
    /// The functions there are.
    pub(crate) functions: Vec<String>,
    /// Those of them that are aggregates.
    pub(crate) aggregates: Vec<String>,
}

/// With these the names begin under which other systems have windows as functions.
const WINDOW_WORDS: &[&str] = &["tumble", "tumbling", "hop", "hopping", "cumulate", "session"];
/// What other systems and people call functions.
const OTHER_NAMES: &[(&str, &str)] = &[("average", "avg"), ("mean", "avg"), ("cnt", "count"), ("total", "sum")];
/// Longer names are not compared with others: it costs the product of both lengths.
const NAME_CHARS_MAX: usize = 100;

impl Context<'_> {
    /// The unknown name that `error` is about, if it is about one.
    pub(crate) fn unknown(&self, error: &DataFusionError) -> Option<Unknown> {
        if let Some(SchemaError::FieldNotFound { field, .. }) = schema_error(error) {
            return Some(match field.spans().first() {
                Some(span) => Unknown::Column((span.start.line, span.start.column)),
                None => Unknown::Columns(Self::parts(field)),
            });
        }
        let text = clean(&error.strip_backtrace());
        between(&text, "Invalid function '", "'").map(|name| Unknown::Function(name.to_lowercase()))
    }

    /// `error` as a problem; `None` where it follows from one that was reported.
    pub(crate) fn problem(&self, error: &DataFusionError) -> Option<Problem> {
        let problem = |message: String| Problem::new(self.path.clone(), message);
        if let Some(refusal) = refusal(error) {
            if *refusal == Refusal::Unjudged {
                return None;
            }
            let refusal = refusal.as_written(self.statement);
            let mut found = problem(refusal.to_string());
            found.hint = refusal.hint();
            return Some(match self.statement.and_then(|statement| refusal.locate(statement)) {
                Some((line, column)) => found.at(Part::Text { line, column }),
                None => found,
            });
        }
        if let Some(error) = schema_error(error) {
            return Some(self.schema_problem(error));
        }
        let text = clean(&error.strip_backtrace());
        if let Some(name) = between(&text, "Invalid function '", "'") {
            return Some(self.unknown_function(name));
        }
        let diagnostic = error.diagnostic();
        let said = wording::say(&text).unwrap_or_else(|| match diagnostic {
            Some(diagnostic) => Said {
                message: capitalised_down(&diagnostic.message),
                hint: diagnostic.helps.first().map(|help| capitalised_down(&help.message)),
                place: Place::Unknown,
            },
            None => Said { message: capitalised_down(&text), hint: None, place: Place::Unknown },
        });
        let mut found = problem(said.message);
        found.hint = said.hint;
        let span = diagnostic.and_then(|diagnostic| diagnostic.span);
        let place = self.place(said.place).or(span.map(|span| (span.start.line, span.start.column)));
        Some(match place {
            Some((line, column)) => found.at(Part::Text { line, column }),
            None => found,
        })
    }

    /// Where the wording says that it is.
    fn place(&self, place: Place) -> Option<(u64, u64)> {
        let statement = self.statement?;
        match place {
            Place::Unknown => None,
            Place::Where => mend::clause(statement, |select| select.selection.as_ref().map(Spanned::span)),
            Place::Having => mend::clause(statement, |select| select.having.as_ref().map(Spanned::span)),
            Place::Item(index) => mend::clause(statement, |select| select.projection.get(index).map(Spanned::span)),
            Place::Word(word) => find_word(self.sql, &word),
        }
    }

    /// The parts of a column's name, as the query writes them.
    fn parts(field: &Column) -> Vec<String> {
        let relation = field.relation.as_ref().map(|relation| relation.table().to_owned());
        relation.into_iter().chain([field.name.clone()]).collect()
    }

    fn column_place(&self, field: &Column) -> Option<(u64, u64)> {
        let span = field.spans().first().map(|span| (span.start.line, span.start.column));
        let named = || {
            let mut statement = self.statement?.clone();
            mend::mend(&mut statement, &Unknown::Columns(Self::parts(field))).first().copied()
        };
        span.or_else(named).or_else(|| find_word(self.sql, &field.name))
    }

    fn schema_problem(&self, error: &SchemaError) -> Problem {
        let problem = |message: String| Problem::new(self.path.clone(), message);
        let aliases = self.statement.map(survey::aliases).unwrap_or_default();
        let (found, place) = match error {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let found = problem(format!("there is no column `{}`", field.flat_name()));
                (self.near_columns(found, field, valid_fields, &aliases), self.column_place(field))
            }
            SchemaError::AmbiguousReference { field } if aliases.len() < 2 => {
                let found = duplicate(problem(format!("the result has two columns named `{}`", field.name)));
                (found, self.column_place(field))
            }
            SchemaError::AmbiguousReference { field } => {
                let found = problem(format!("`{}` is ambiguous: several of those in FROM have it", field.name));
                let named = aliases.iter().map(|alias| format!("{alias}.{}", field.name)).collect::<Vec<_>>();
                (found.hint(format!("say which one: {}", named.join(" or "))), self.column_place(field))
            }
            SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
                (duplicate(problem(format!("the result has two columns named `{name}`"))), find_word(self.sql, name))
            }
        };
        match place {
            Some((line, column)) => found.at(Part::Text { line, column }),
            None => found,
        }
    }

    fn near_columns(&self, problem: Problem, field: &Column, valid: &[Column], aliases: &[String]) -> Problem {
        let relation = field.relation.as_ref().map(|relation| relation.table());
        if let Some(relation) = relation.filter(|relation| !aliases.iter().any(|alias| alias == relation)) {
            let mut problem = problem;
            problem.message = format!("`{}`: nothing in FROM has the name `{relation}`", field.flat_name());
            let named: Vec<String> = aliases.iter().map(|alias| format!("`{alias}`")).collect();
            return problem.hint(format!("there is: {} (an alias takes the place of the name)", named.join(", ")));
        }
        let of_relation =
            |column: &&Column| relation.is_none() || column.relation.as_ref().map(|known| known.table()) == relation;
        let names: Vec<&str> = valid.iter().filter(of_relation).map(|column| column.name.as_str()).collect();
        if let Some(other) = names.iter().find(|name| name.to_lowercase() == field.name.to_lowercase()) {
            return problem.hint(format!("SQL reads names without quotes in lower case: write \"{other}\""));
        }
        let in_where = self.statement.filter(|_| relation.is_none());
        if let Some(alias) = in_where.and_then(|statement| survey::alias_in_where(statement, &field.name)) {
            let name = &field.name;
            let instead = match alias {
                InWhere { is_over: true, condition, .. } => format!("use QUALIFY {condition}"),
                InWhere { grouped: true, .. } => "repeat the expression, or use HAVING for an aggregate".to_owned(),
                InWhere { .. } => "repeat the expression".to_owned(),
            };
            return problem.hint(format!("`{name}` is an alias of this SELECT, which WHERE cannot use: {instead}"));
        }
        let in_quotes = self.sql.contains(&format!("\"{}\"", field.name));
        match nearest(&field.name, names.iter().copied()) {
            Some(name) => problem.hint(format!("did you mean `{name}`?")),
            None if in_quotes => problem.hint(format!("double quotes hold names; text is written '{}'", field.name)),
            None if names.is_empty() => problem,
            None => problem.hint(format!("there are: {}", names.join(", "))),
        }
    }

    /// The function that is meant by `name`, where no more than a third of its letters differ; aggregates first.
    fn near_function(&self, name: &str) -> Option<&str> {
        let length = name.chars().count();
        if length > NAME_CHARS_MAX {
            return None;
        }
        let known = self.functions.iter().map(|known| (known.as_str(), known.as_str()));
        let others = OTHER_NAMES.iter().copied().filter(|(_, known)| self.functions.iter().any(|it| it == known));
        let near = known.chain(others).filter_map(|(written, known)| {
            let distance = strsim::damerau_levenshtein(name, written);
            let aggregate = self.aggregates.iter().any(|aggregate| aggregate == known);
            // One more letter is no reason to prefer what is no aggregate.
            (distance <= (length / 3).max(1) && distance < length)
                .then_some((2 * distance + 3 * usize::from(!aggregate), known))
        });
        near.min_by_key(|(rank, _)| *rank).map(|(_, known)| known)
    }

    fn unknown_function(&self, name: &str) -> Problem {
        let mut problem = Problem::new(self.path.clone(), format!("there is no function `{name}`"));
        let lowered = name.to_lowercase();
        let problem = if self.functions.contains(&lowered) {
            problem.message = format!("`{name}` needs OVER");
            problem.hint(format!("write {lowered}(…) OVER (PARTITION BY … ORDER BY …), by the event time"))
        } else if WINDOW_WORDS.contains(&lowered.split('_').next().unwrap_or_default()) || lowered == "time_bucket" {
            problem.hint(
                "windows stand in FROM: FROM TUMBLE(stream, ts, INTERVAL '10 seconds') … GROUP BY window_start, \
                 window_end; or GROUP BY date_bin(INTERVAL '10 seconds', ts)",
            )
        } else {
            match self.near_function(&lowered) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint("functions of your own come from `functions: [{wasm: …}]`"),
            }
        };
        match find_word(self.sql, name) {
            Some((line, column)) => problem.at(Part::Text { line, column }),
            None => problem,
        }
    }
}

fn duplicate(problem: Problem) -> Problem {
    problem.hint("give one of them another name with AS")
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

fn schema_error(error: &DataFusionError) -> Option<&SchemaError> {
    match error {
        DataFusionError::SchemaError(inner, _) => Some(inner.as_ref()),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => schema_error(inner),
        DataFusionError::Shared(inner) => schema_error(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(schema_error),
        _ => None,
    }
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
