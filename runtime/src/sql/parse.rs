//! From the text of a step to its one SELECT, or to what is wrong with its syntax.

use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::spec::problem::{Part, Problem, nearest};
use crate::sql::as_of::{self, Version};
use crate::sql::named_windows;
use crate::sql::pattern_syntax::{self, Exclusion};
use crate::sql::problems::Context;
use crate::sql::windows::flink;
use crate::sql::windows::planner::Function;
use crate::sql::wording::capitalised_down;

/// The longest SQL text of a step.
const SQL_BYTES_MAX: usize = 1 << 20;
/// The longest chain of operators (`a OR b OR …`, joins, UNION ALL): each is one level of the parsed query, and more
/// would not fit on the stack of a thread, neither now nor when rows are worked on.
const CHAIN_MAX: usize = 150;
/// The same for joins and UNION ALL, whose levels take more of the stack.
const QUERIES_MAX: usize = 30;
/// The most levels of parentheses, CASE and NOT.
const NESTING_MAX: usize = 20;

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
        let message = match error.message.split_once("close delimiter '") {
            Some((_, rest)) => format!("the {} that starts here is not closed", rest.chars().next().unwrap_or('"')),
            None => capitalised_down(&error.message),
        };
        at(problem(message).hint("close it; a quote within text is written twice: 'it''s'"), place)
    })?;
    if !tokens.iter().any(|token| !matches!(token.token, Token::Whitespace(_) | Token::SemiColon)) {
        return Err(Box::new(problem("there is no SQL here".into()).hint("write one SELECT … FROM …")));
    }
    if let Some((message, hint, place)) = too_large(&tokens) {
        return Err(at(problem(message).hint(hint), place));
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
    let tokens = flink::rewritten(tokens);
    let first = tokens.iter().find(|token| significant(token)).map_or((1, 1), place_of);
    let last =
        tokens.iter().rfind(|token| significant(token)).map(|token| (token.span.end.line, token.span.end.column));
    let words = tokens.iter().find(|token| significant(token)).map(|token| token.token.to_string().to_uppercase());
    if let Some(word) = words.filter(|word| !QUERY_STARTS.contains(&word.as_str())) {
        let near = nearest(&word, ["SELECT", "WITH"]);
        let hint = near.map_or_else(
            || "write SELECT … FROM a source or another step".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        let problem = problem("a step is one SELECT; sources, tables and sinks are declared in YAML".into());
        return Err(at(problem.hint(hint), first));
    }
    let tokens = pattern_syntax::rewrite(tokens).map_err(|Exclusion(place)| {
        let problem = problem("an exclusion in a pattern is not supported".into());
        at(problem.hint("give CLASSIFIER() as a measure, and leave rows out by WHERE"), place)
    })?;
    let (mut statements, versions) = parse_tokens(state, context, tokens, last)?;
    let mut statement = match statements.pop() {
        Some(statement @ Statement::Query(_)) if statements.is_empty() => statement,
        _ => return Err(at(problem("a step is one SELECT".into()), first)),
    };
    as_of::rewrite(&mut statement, versions)
        .map_err(|(message, hint, place)| at(problem(message).hint(hint), place))?;
    named_windows::resolve(&mut statement);
    Ok(statement)
}

/// The statements that the tokens are, and the versions of tables that they name. `last` is the place behind the last
/// token, for what is missing there.
fn parse_tokens(
    state: &SessionState,
    context: &Context<'_>,
    mut tokens: Vec<TokenWithSpan>,
    last: Option<(u64, u64)>,
) -> Result<(Vec<Statement>, Vec<Version>), Box<Problem>> {
    let problem = |message: String| Problem::new(context.path.clone(), message);
    let limit = state.config_options().sql_parser.recursion_limit.get();
    let parsed = as_of::lift(&mut tokens, limit).and_then(|versions| {
        let mut parser = Parser::new(&GenericDialect {}).with_recursion_limit(limit).with_tokens_with_locations(tokens);
        Ok((parser.parse_statements()?, versions))
    });
    parsed.map_err(|error| {
        let (message, place) = match error {
            ParserError::RecursionLimitExceeded => {
                let message = format!("this query is nested too deeply (more than {limit} levels)");
                return Box::new(problem(message).hint("split it into several steps"));
            }
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => parser_position(&text, last),
        };
        let mut found = problem(message);
        found.hint = syntax_hint(&found.message, place, context.sql);
        match place {
            Some((line, column)) => Box::new(found.at(Part::Text { line, column })),
            None => Box::new(found),
        }
    })
}

/// What would not fit on a thread's stack: message, hint and place.
fn too_large(tokens: &[TokenWithSpan]) -> Option<(String, &'static str, (u64, u64))> {
    if let Some(token) = Depth::too_long(tokens) {
        let message = format!(
            "this chain is too long: at most {CHAIN_MAX} operators, or {QUERIES_MAX} joins and UNIONs, are planned"
        );
        let hint = "use x IN (…) in place of x = … OR x = …, a table to join with, or several steps";
        return Some((message, hint, place_of(token)));
    }
    let token = too_deep(tokens)?;
    let message = format!("this query is nested too deeply: more than {NESTING_MAX} levels");
    Some((message, "split it into several steps", place_of(token)))
}

/// The token that goes deeper than [`NESTING_MAX`]. (The parser has a limit of its own, but tries another reading of the
/// text when it is reached, and then complains about something else.)
fn too_deep(tokens: &[TokenWithSpan]) -> Option<&TokenWithSpan> {
    let (mut depth, mut prefixes) = (0_usize, 0_usize);
    tokens.iter().find(|token| {
        match &token.token {
            Token::Whitespace(_) => return false,
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            Token::Word(word) if word.keyword == Keyword::CASE => depth += 1,
            Token::Word(word) if word.keyword == Keyword::END => depth = depth.saturating_sub(1),
            _ => {}
        }
        let prefix = matches!(token.token, Token::Plus | Token::Minus | Token::Tilde | Token::ExclamationMark)
            || matches!(&token.token, Token::Word(word) if word.keyword == Keyword::NOT);
        prefixes = if prefix { prefixes + 1 } else { 0 };
        depth > NESTING_MAX || prefixes > NESTING_MAX
    })
}

/// How a query may start.
const QUERY_STARTS: &[&str] = &["SELECT", "WITH", "(", "FROM", "VALUES", "TABLE"];

fn place_of(token: &TokenWithSpan) -> (u64, u64) {
    (token.span.start.line, token.span.start.column)
}

/// How long the chains of operators are at one place, for each level of parentheses.
#[derive(Default, Clone, Copy)]
struct Depth {
    /// Joins and set operations of this query.
    queries: usize,
    /// AND and OR of this expression.
    conditions: usize,
    /// Other operators since the last AND or OR.
    operators: usize,
    in_from: bool,
}

impl Depth {
    /// The token at which a chain becomes too long.
    fn too_long(tokens: &[TokenWithSpan]) -> Option<&TokenWithSpan> {
        let (mut outer, mut here) = (Vec::<Self>::new(), Self::default());
        tokens.iter().find(|token| {
            match &token.token {
                Token::LParen | Token::LBracket | Token::LBrace => {
                    here.operators += usize::from(token.token == Token::LBracket);
                    outer.push(here);
                    here = Self::default();
                }
                Token::RParen | Token::RBracket | Token::RBrace => here = outer.pop().unwrap_or_default(),
                other => here.take(other),
            }
            here.length() + outer.iter().map(Self::length).sum::<usize>() > CHAIN_MAX
        })
    }

    fn length(&self) -> usize {
        self.queries * (CHAIN_MAX / QUERIES_MAX) + self.conditions + self.operators
    }

    fn take(&mut self, token: &Token) {
        match token {
            Token::Word(word) => match word.keyword {
                Keyword::AND | Keyword::OR => (self.conditions, self.operators) = (self.conditions + 1, 0),
                Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::JOIN => {
                    *self = Self { queries: self.queries + 1, in_from: self.in_from, ..Self::default() };
                }
                Keyword::SELECT | Keyword::WHERE | Keyword::GROUP | Keyword::HAVING | Keyword::ORDER => {
                    *self = Self { queries: self.queries, ..Self::default() };
                }
                Keyword::FROM => *self = Self { queries: self.queries, in_from: true, ..Self::default() },
                Keyword::ON => (self.conditions, self.operators) = (0, 0),
                Keyword::IS | Keyword::BETWEEN | Keyword::LIKE | Keyword::ILIKE | Keyword::IN => self.operators += 1,
                Keyword::AT | Keyword::COLLATE | Keyword::NOT | Keyword::SIMILAR | Keyword::XOR => self.operators += 1,
                Keyword::DIV | Keyword::REGEXP | Keyword::RLIKE | Keyword::OVERLAPS => self.operators += 1,
                _ => {}
            },
            Token::Comma if self.in_from => self.queries += 1,
            Token::Comma => (self.conditions, self.operators) = (0, 0),
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Whitespace(_) | Token::Period => {}
            Token::SemiColon | Token::EOF | Token::DoubleQuotedString(_) => {}
            // Every sign that is left is an operator, or as rare as one.
            _ => self.operators += 1,
        }
    }
}

/// The parser says its place at the end: `… at Line: 3, Column: 5`; at the end of the text it says none.
fn parser_position(text: &str, end: Option<(u64, u64)>) -> (String, Option<(u64, u64)>) {
    let text = text.trim_start_matches("sql parser error: ");
    let placed = text.rsplit_once(" at Line: ").and_then(|(message, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        let column: String = column.chars().take_while(char::is_ascii_digit).collect();
        Some((expected(message), Some((line.trim().parse().ok()?, column.parse().ok()?))))
    });
    placed.unwrap_or_else(|| (expected(text), end))
}

/// `Expected: an expression, found: EOF`, said for people.
fn expected(text: &str) -> String {
    let split = text.strip_prefix("Expected: ").and_then(|rest| rest.rsplit_once(", found: "));
    match split {
        Some((wanted, "EOF")) => format!("the query ends here, but {} is expected", quoted(wanted)),
        Some((wanted, found)) => format!("{} is expected here, not `{found}`", quoted(wanted)),
        None => capitalised_down(text),
    }
}

/// What the parser wants: words of SQL and signs as code, descriptions as they are.
fn quoted(wanted: &str) -> String {
    match wanted {
        "end of statement" => "the end of the query".to_owned(),
        "identifier" => "a name".to_owned(),
        _ if wanted.chars().any(char::is_lowercase) => wanted.to_owned(),
        _ => format!("`{wanted}`"),
    }
}

/// What was most likely meant, by the words around `place`.
fn syntax_hint(message: &str, place: Option<(u64, u64)>, sql: &str) -> Option<String> {
    const CLAUSES: &[&str] =
        &["FROM", "WHERE", "GROUP", "HAVING", "JOIN", "LEFT", "INNER", "UNION", "AND", "OR", "AS", "ON", "BETWEEN"];
    let upper = sql.to_uppercase();
    if upper.contains("DESCRIPTOR") {
        let named = Function::ALL.into_iter().find(|function| upper.contains(function.name()));
        return Some(format!("write {}", named.unwrap_or(Function::Tumble).usage()));
    }
    let (line, column) = place?;
    let mut before: Vec<&str> = sql.split('\n').take(usize::try_from(line).ok()?).collect();
    let last = before.pop()?;
    let column = usize::try_from(column).ok()?.saturating_sub(1);
    let cut = last.char_indices().nth(column).map_or(last.len(), |(at, _)| at);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let here: String = last[cut..].chars().take_while(|c| is_word(*c)).collect();
    let text = before.join("\n") + "\n" + &last[..cut];
    let previous = text.trim_end().rsplit(|c| !is_word(c)).next().unwrap_or_default();
    let is_keyword =
        |word: &str| matches!(Token::make_keyword(word), Token::Word(w) if w.keyword != Keyword::NoKeyword);
    for word in [here.as_str(), previous].into_iter().filter(|word| !is_keyword(word)) {
        if let Some(near) = nearest(word, CLAUSES.iter().copied()).filter(|near| !near.eq_ignore_ascii_case(word)) {
            return (word.len() > 2).then(|| format!("did you mean `{near}` in place of `{word}`?"));
        }
    }
    if here.eq_ignore_ascii_case("group") || previous.eq_ignore_ascii_case("group") {
        return Some("write GROUP BY".to_owned());
    }
    if previous.eq_ignore_ascii_case("case") || upper.contains("CASE") && !upper.contains("END") {
        return Some("a CASE ends with END: CASE WHEN … THEN … ELSE … END".to_owned());
    }
    if is_keyword(&here) && message.contains("name") {
        return Some(format!("a name that is a word of SQL stands in double quotes: \"{here}\""));
    }
    None
}
