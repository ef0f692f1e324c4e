//! DataFusion's errors as problems at their place in the SQL, with hints.

use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::spec::problem::{Part, Path, Problem, nearest};
use crate::sql::mend::Unknown;
use crate::sql::refuse::Refusal;

/// The longest SQL text of a step.
const SQL_BYTES_MAX: usize = 1 << 20;
/// The most operators in one statement: each may be one level of nesting, and a chain that is much longer would not fit
/// on a thread's stack.
const OPERATORS_MAX: usize = 2_000;

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
}

/// The one SELECT that the SQL is.
pub(crate) fn parse(state: &SessionState, context: &Context<'_>) -> Result<Statement, Box<Problem>> {
    let problem = |message: String| Problem::new(context.path.clone(), message);
    let at = |problem: Problem, (line, column): (u64, u64)| Box::new(problem.at(Part::Text { line, column }));
    if context.sql.len() > SQL_BYTES_MAX {
        let problem = problem(format!("SQL of more than {SQL_BYTES_MAX} bytes is refused"));
        return Err(Box::new(problem.hint("put long lists in a table, and join with it")));
    }
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, context.sql).tokenize_with_location();
    let mut tokens = tokens.map_err(|error| {
        let place = (error.location.line, error.location.column);
        at(problem(capitalised_down(&error.message)), place)
    })?;
    if !tokens.iter().any(|token| !matches!(token.token, Token::Whitespace(_) | Token::SemiColon)) {
        return Err(Box::new(problem("there is no SQL here".into()).hint("write one SELECT … FROM …")));
    }
    let nests = |token: &&TokenWithSpan| is_operator(&token.token);
    if let Some(token) = tokens.iter().filter(nests).nth(OPERATORS_MAX) {
        let problem = problem(format!("a query with more than {OPERATORS_MAX} operators is refused"));
        let hint = "use x IN (…) in place of x = … OR x = …, or split the query into steps";
        return Err(at(problem.hint(hint), place_of(token)));
    }
    // A semicolon at the end is what people are used to; a second statement is none.
    let significant = |token: &TokenWithSpan| !matches!(token.token, Token::Whitespace(_));
    let end = tokens.iter().rposition(|token| significant(token) && token.token != Token::SemiColon);
    if let Some(end) = end
        && let Some(semicolon) = tokens[..end].iter().find(|token| token.token == Token::SemiColon)
    {
        let problem = problem("a step is one SELECT; here another statement follows".into());
        return Err(at(problem.hint("make it a step of its own"), place_of(semicolon)));
    }
    tokens.retain(|token| token.token != Token::SemiColon);
    let first = tokens.iter().find(|token| significant(token)).map_or((1, 1), place_of);
    let last = tokens.iter().rfind(|token| significant(token)).map(|token| (token.span.end.line, token.span.end.column));
    let words = tokens.iter().find(|token| significant(token)).map(|token| token.token.to_string().to_uppercase());
    if words.is_some_and(|word| !QUERY_STARTS.contains(&word.as_str())) {
        let problem = problem("a step is one SELECT; sources, tables and sinks are declared in YAML".into());
        return Err(at(problem.hint("write SELECT … FROM a source or another step"), first));
    }
    let limit = state.config_options().sql_parser.recursion_limit.get();
    let parsed = Parser::new(&dialect).with_recursion_limit(limit).with_tokens_with_locations(tokens).parse_statements();
    let mut statements = parsed.map_err(|error| {
        let (message, place) = match error {
            ParserError::RecursionLimitExceeded => {
                let message = format!("this query is nested too deeply (more than {limit} levels)");
                return Box::new(problem(message).hint("split it into several steps"));
            }
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => parser_position(&text, last),
        };
        let mut found = problem(message);
        found.hint = syntax_hint(&found.message);
        match place {
            Some(place) => at(found, place),
            None => Box::new(found),
        }
    })?;
    match statements.pop() {
        Some(statement @ Statement::Query(_)) if statements.is_empty() => Ok(statement),
        _ => Err(at(problem("a step is one SELECT".into()), first)),
    }
}

/// How a query may start.
const QUERY_STARTS: &[&str] = &["SELECT", "WITH", "(", "FROM", "VALUES", "TABLE"];

fn place_of(token: &TokenWithSpan) -> (u64, u64) {
    (token.span.start.line, token.span.start.column)
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            matches!(word.keyword, Keyword::AND | Keyword::OR | Keyword::NOT | Keyword::UNION | Keyword::JOIN)
        }
        Token::Plus | Token::Minus | Token::Mul | Token::Div | Token::Mod | Token::StringConcat => true,
        Token::Eq | Token::Neq | Token::Lt | Token::Gt | Token::LtEq | Token::GtEq | Token::DoubleEq => true,
        Token::DoubleColon | Token::Arrow | Token::LongArrow | Token::Caret | Token::Pipe | Token::Ampersand => true,
        _ => false,
    }
}

impl Context<'_> {
    /// The unknown name that `error` is about, if it is about one.
    pub(crate) fn unknown(&self, error: &DataFusionError) -> Option<Unknown> {
        if let Some(SchemaError::FieldNotFound { field, .. }) = schema_error(error) {
            return Some(Unknown::Column(self.column_place(field)?));
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
        let mut found = problem(diagnostic.map_or(text, |diagnostic| capitalised_down(&diagnostic.message)));
        if let Some(diagnostic) = diagnostic {
            found.hint = diagnostic.helps.first().map(|help| help.message.clone());
            if let Some(span) = diagnostic.span {
                found = found.at(Part::Text { line: span.start.line, column: span.start.column });
            }
        }
        Some(found)
    }

    fn column_place(&self, field: &Column) -> Option<(u64, u64)> {
        let span = field.spans().first();
        span.map(|span| (span.start.line, span.start.column)).or_else(|| find_word(self.sql, &field.name))
    }

    fn schema_problem(&self, error: &SchemaError) -> Problem {
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
        match self.column_place(field) {
            Some((line, column)) => problem.at(Part::Text { line, column }),
            None => problem,
        }
    }

    fn unknown_function(&self, name: &str) -> Problem {
        let problem = Problem::new(self.path.clone(), format!("there is no function `{name}`"));
        let problem = match nearest(name, self.functions.iter().map(String::as_str)) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint("functions of your own come from `functions: [{wasm: …}]`"),
        };
        match find_word(self.sql, name) {
            Some((line, column)) => problem.at(Part::Text { line, column }),
            None => problem,
        }
    }
}

/// What a beginner most likely meant, by the parser's words.
fn syntax_hint(_message: &str) -> Option<String> {
    None
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

/// The parser says its place at the end: `… at Line: 3, Column: 5`; at the end of the text it says none.
fn parser_position(text: &str, end: Option<(u64, u64)>) -> (String, Option<(u64, u64)>) {
    let text = text.trim_start_matches("sql parser error: ");
    let placed = text.rsplit_once(" at Line: ").and_then(|(message, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        let column: String = column.chars().take_while(char::is_ascii_digit).collect();
        Some((capitalised_down(message), Some((line.trim().parse().ok()?, column.parse().ok()?))))
    });
    placed.unwrap_or_else(|| (capitalised_down(text), end))
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
