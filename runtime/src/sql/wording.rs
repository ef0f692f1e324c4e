//! What DataFusion says, said for people: without its own words, with SQL's names of types, with what to write instead.
//!
//! DataFusion has no error codes; its texts are matched here, and the tests of the planner show when one has changed.

use datafusion::common::JoinType;

use crate::spec::problem::nearest;
use crate::sql::types;
use crate::sql::windows::planner::Function;

/// A kind of join as SQL writes it.
pub(crate) fn join_words(kind: JoinType) -> String {
    let name = kind.to_string();
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_uppercase());
    }
    words
}

/// An error in our words.
pub(crate) struct Said {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) place: Place,
}

/// Where an error is, as far as its text tells.
pub(crate) enum Place {
    Unknown,
    Where,
    Having,
    /// In the list behind SELECT, from 0.
    Item(usize),
    /// Where this word stands.
    Word(String),
}

/// The text in our words, where it is a known one.
pub(crate) fn say(text: &str) -> Option<Said> {
    let said = |message: String, hint: &str| {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        Some(Said { message, hint, place: Place::Unknown })
    };
    let at = |place: Place, said: Option<Said>| said.map(|said| Said { place, ..said });
    if let Some(call) = between(text, "argument types '", "'.") {
        return Some(wrong_arguments(call, text));
    }
    if let Some(rest) = after(text, "for comparison operation ") {
        let operation = sql_types(first_line(rest));
        return said(format!("these cannot be compared: {operation}"), "convert one side: CAST(x AS type)");
    }
    if let Some(operation) = between(text, "Cannot coerce arithmetic expression ", " to valid types") {
        let message = format!("these cannot be calculated with: {}", sql_types(operation));
        return said(message, "convert one side: CAST(x AS type); text is joined with ||");
    }
    if let Some(expression) =
        between(text, "aggregate expression \"", "\"").or(between(text, "column \"", "\" must appear"))
    {
        let message = format!("`{expression}` is neither grouped by nor aggregated");
        let having = text.contains("HAVING clause");
        let hint = format!("add it to GROUP BY, or aggregate it: max({expression}), first_value({expression})");
        let place = if having { Place::Having } else { Place::Unknown };
        return at(place, said(message, &hint));
    }
    if let Some(expression) = between(text, "HAVING clause references: ", " must appear") {
        let message = format!("HAVING filters groups, and `{}` is of single rows", sql_types(expression));
        return at(Place::Having, said(message, "filter rows with WHERE"));
    }
    for (start, message) in [
        ("Window function calls cannot be nested", "OVER cannot stand within OVER"),
        ("Aggregate function calls cannot contain window", "an aggregate cannot take OVER"),
        ("Aggregate function calls cannot be nested", "an aggregate cannot take an aggregate"),
    ] {
        if text.starts_with(start) {
            return said(message.to_owned(), "compute the inner one in a step before");
        }
    }
    if text.contains("not allowed in the WHERE clause") {
        let message = "WHERE looks at single rows and cannot use aggregates".to_owned();
        return at(Place::Where, said(message, "filter groups with HAVING"));
    }
    if let Some(rest) = after(text, "non-boolean predicate '") {
        let (expression, data_type) = rest.rsplit_once("' returning ")?;
        let message = format!("a condition is wanted here, and `{expression}` is {}", sql_types(data_type));
        return at(Place::Where, said(message, "compare it with something"));
    }
    let ranges = between(text, "failed to coerce types ", " in BETWEEN").or(between(
        text,
        "Failed to coerce types ",
        " in BETWEEN",
    ));
    let likes = between(text, "common type to coerce ", " in LIKE");
    let lists = after(text, "compatible types to compare ").map(first_line);
    for (found, operator) in [(ranges, "BETWEEN"), (likes, "LIKE"), (lists, "IN")] {
        if let Some(found) = found {
            let message = format!("{operator} cannot compare these: {}", sql_types(found));
            return said(message, "convert one side: CAST(x AS type)");
        }
    }
    if text.contains("queries have different number of columns") {
        let message = "the queries of this UNION ALL have different numbers of columns".to_owned();
        return at(Place::Word("union".into()), said(message, "give both the same columns, in the same order"));
    }
    names(text).or_else(|| values(text))
}

/// Columns, types, functions and operators by their names.
fn names(text: &str) -> Option<Said> {
    let said = |message: String, hint: &str, place: Place| {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        Some(Said { message, hint, place })
    };
    if text.starts_with("Projections require unique expression names") {
        let position: usize = text.rsplit_once(" at position ")?.1.split(' ').next()?.parse().ok()?;
        let message = "two columns of the result have the same name".to_owned();
        return said(message, "give one of them another name with AS", Place::Item(position));
    }
    if let Some(name) = between(text, "unqualified field name ", " which would be ambiguous") {
        let message = format!("the result has two columns named `{name}`");
        return said(message, "give one of them another name with AS", Place::Word(name.to_owned()));
    }
    if let Some(name) = between(text, "table function '", "' not found") {
        let near = nearest(name, Function::ALL.into_iter().map(Function::name)).and_then(Function::named);
        let hint = format!("a window is {}", near.unwrap_or(Function::Tumble).usage());
        return said(format!("there is no table function `{name}`"), &hint, Place::Word(name.to_owned()));
    }
    if let Some(name) = after(text, "Unsupported SQL type ") {
        let hint = format!("common ones are {}", types::COMMON);
        return said(format!("`{name}` is not a SQL type"), &hint, Place::Word(name.to_owned()));
    }
    if let Some((from, to)) = after(text, "Unsupported CAST from ").and_then(|rest| rest.split_once(" to ")) {
        return said(format!("{} cannot be cast to {}", sql_types(from), sql_types(to)), "", Place::Unknown);
    }
    if let Some(name) = between(text, "Placeholder '", "'") {
        let message = format!("`{name}` is a placeholder, and a step has no parameters");
        let word = name.trim_start_matches(['$', ':']).to_owned();
        return said(message, "write the value; `${NAME}` takes it from the environment", Place::Word(word));
    }
    if let Some(name) = between(text, "variable [\"@", "\"") {
        let message = format!("`@{name}` is a variable, and SQL here has none");
        return said(message, "write the value; `${NAME}` takes it from the environment", Place::Word(name.to_owned()));
    }
    if let Some(operator) = after(text, "Unsupported binary operator: ") {
        let message = match operator {
            "PGOverlap" => "the operator && is not supported".to_owned(),
            _ => "this operator is not supported".to_owned(),
        };
        return said(message, "write conditions with AND and OR", Place::Unknown);
    }
    if let Some(data_type) = between(text, "Cannot access field at argument 1: type ", " is not Struct") {
        let message = format!("only a struct or a map has fields; this is {}", sql_types(data_type));
        return said(message, "list[1] takes the first item of a list", Place::Unknown);
    }
    if text.starts_with("unnest() can only be applied") {
        return said("unnest takes a list".to_owned(), "", Place::Word("unnest".into()));
    }
    None
}

/// Literals that cannot be read.
fn values(text: &str) -> Option<Said> {
    let said = |message: String, hint: &str| {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        Some(Said { message, hint, place: Place::Unknown })
    };
    if let Some(value) = between(text, "type interval: \"", "\"") {
        let message = format!("`{value}` is not an interval");
        return said(message, "write a number and a unit, such as INTERVAL '1 minute'");
    }
    if let Some((value, data_type)) =
        after(text, "Cannot cast string '").and_then(|rest| rest.split_once("' to value of "))
    {
        let message = format!("'{value}' cannot be read as {}", sql_types(data_type.trim_end_matches(" type")));
        return said(message, "");
    }
    if let Some(value) = between(text, "Error parsing timestamp from '", "'") {
        return said(format!("'{value}' is not a time"), "write it so: '2026-01-31T23:59:59Z'");
    }
    None
}

/// A call with arguments that no such function takes.
fn wrong_arguments(call: &str, text: &str) -> Said {
    let (name, arguments) = call.split_once('(').unwrap_or((call, ""));
    let arguments = arguments.trim_end_matches(')');
    let message = if arguments.is_empty() {
        format!("`{name}` cannot be called without arguments")
    } else {
        format!("`{name}` cannot be called with ({})", sql_types(arguments))
    };
    let candidates = text.split_once("Candidate functions:").map_or("", |(_, rest)| rest);
    let candidates: Vec<String> =
        candidates.lines().map(str::trim).filter(|line| !line.is_empty()).take(5).map(sql_types).collect();
    let hint = (!candidates.is_empty()).then(|| format!("it is called so: {}", candidates.join(" or ")));
    Said { message, hint, place: Place::Unknown }
}

/// `text` with SQL's names in the place of Arrow's.
pub(crate) fn sql_types(text: &str) -> String {
    const NAMES: &[(&str, &str)] = &[
        ("LargeUtf8", "text"),
        ("Utf8View", "text"),
        ("Utf8", "text"),
        ("String", "text"),
        ("Float64", "double"),
        ("Float32", "real"),
        ("UInt64", "bigint unsigned"),
        ("UInt32", "int unsigned"),
        ("UInt16", "smallint unsigned"),
        ("UInt8", "tinyint unsigned"),
        ("Int64", "bigint"),
        ("Int32", "int"),
        ("Int16", "smallint"),
        ("Int8", "tinyint"),
        ("Boolean", "boolean"),
        ("Date32", "date"),
        ("LargeBinary", "bytea"),
        ("Binary", "bytea"),
        ("Decimal128", "decimal"),
        ("Interval(MonthDayNano)", "interval"),
        ("Timestamp(ns, \"+00:00\")", "timestamptz"),
        ("Timestamp(ns)", "timestamp"),
        ("Timestamp(Nanosecond, None)", "timestamp"),
        ("Timestamp(µs)", "timestamp(6)"),
        ("Timestamp(ms)", "timestamp(3)"),
        ("Timestamp(s)", "timestamp(0)"),
        ("Numeric(1)", "number"),
        ("Numeric(2)", "number, number"),
        ("Decimal", "decimal"),
        ("Duration", "duration"),
        ("Null", "null"),
    ];
    let mut text = text.to_owned();
    for (arrow, sql) in NAMES {
        text = text.replace(arrow, sql);
    }
    for (arrow, sql) in [("List(", "[]"), ("bigint(", ""), ("text(", ""), ("double(", "")] {
        while let Some(start) = text.find(arrow) {
            let inner = start + arrow.len();
            let Some(length) = text[inner..].find(')') else { break };
            let name = text[inner..inner + length].to_owned();
            text.replace_range(start..=inner + length, &(name + sql));
        }
    }
    text
}

/// `text` without the words that say which part of DataFusion complains, and without its advice to report bugs.
pub(crate) fn clean(text: &str) -> String {
    let text = text.rsplit("\ncaused by\n").next().unwrap_or(text);
    let mut text = text.split("\n\nbacktrace").next().unwrap_or(text).trim();
    loop {
        let before = text;
        for prefix in [
            "Error during planning: ",
            "SQL error: ",
            "External error: ",
            "This feature is not implemented: ",
            "Execution error: ",
            "Internal error: ",
            "Arrow error: ",
            "Cast error: ",
            "Parser error: ",
            "Invalid argument error: ",
            "Compute error: ",
            "Schema error: ",
            "Optimizer rule ",
        ] {
            text = text.strip_prefix(prefix).unwrap_or(text).trim_start();
        }
        if text == before {
            break;
        }
    }
    let bug = text.find("This issue was likely caused by a bug in DataFusion");
    match bug {
        Some(at) => {
            let rest = text[at..].find("/issues. ").map_or("", |end| &text[at + end + "/issues. ".len()..]);
            format!("{}{rest}", &text[..at])
        }
        None => text.to_owned(),
    }
}

pub(crate) fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = after(text, start)?;
    Some(&rest[..rest.find(end)?])
}

fn after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    Some(&text[text.find(start)? + start.len()..])
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}

/// Messages continue a sentence; acronyms keep their capitals.
pub(crate) fn capitalised_down(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}
