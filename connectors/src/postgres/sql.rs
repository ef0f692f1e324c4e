//! What the database is asked.

use arrow::datatypes::SchemaRef;

use crate::error::ConnectorError;

/// The parts of a table's name: catalog, schema, table.
const PARTS_MAX: usize = 3;

/// The SELECT: `query` as it is, or the columns of `table`.
pub(super) fn text(table: Option<&str>, query: Option<&str>, columns: &SchemaRef) -> Result<String, ConnectorError> {
    match (table, query) {
        (Some(_), Some(_)) => {
            Err(ConnectorError::configuration("query", "`table` is there already; write one of them"))
        }
        (None, None) => Err(ConnectorError::configuration("", "write `table: NAME`, or `query: SELECT …`")),
        (None, Some(query)) => {
            let query = query.trim().trim_end_matches(';');
            if query.is_empty() {
                return Err(ConnectorError::configuration("query", "is empty"));
            }
            Ok(query.to_owned())
        }
        (Some(table), None) => {
            let names: Vec<String> = columns.fields().iter().map(|column| quoted(column.name())).collect();
            let table = name(table).ok_or_else(|| {
                let rule =
                    format!("`{table}` is no name of a table; write `table`, `schema.table` or `\"Schema\".\"Table\"`");
                ConnectorError::configuration("table", rule)
            })?;
            Ok(format!("SELECT {} FROM {table}", names.join(", ")))
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name as SQL reads it, with every part in quotes, so that none can be a keyword.
fn name(written: &str) -> Option<String> {
    let mut parts = Vec::new();
    let mut rest = written.trim();
    loop {
        let part;
        (part, rest) = match rest.strip_prefix('"') {
            Some(inside) => in_quotes(inside)?,
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                let (part, after) = rest.split_at(end);
                let plain = part.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
                let starts = part.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
                (plain && starts).then(|| (part.to_lowercase(), after))?
            }
        };
        parts.push(quoted(&part));
        if rest.is_empty() {
            return (parts.len() <= PARTS_MAX).then(|| parts.join("."));
        }
        rest = rest.strip_prefix('.')?;
    }
}

/// What is in quotes, whose first one has been read, and what follows the last.
fn in_quotes(text: &str) -> Option<(String, &str)> {
    let (mut part, mut rest) = (String::new(), text);
    loop {
        let (before, after) = rest.split_once('"')?;
        part.push_str(before);
        match after.strip_prefix('"') {
            // Two quotes are one.
            Some(more) => {
                part.push('"');
                rest = more;
            }
            None => return (!part.is_empty()).then_some((part, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_sql_reads_them() {
        for (written, read) in [
            ("vehicles", r#""vehicles""#),
            ("Fleet.Vehicles", r#""fleet"."vehicles""#),
            (r#"fleet."Vehicles""#, r#""fleet"."Vehicles""#),
            (r#""a.b"."say ""hi""""#, r#""a.b"."say ""hi""""#),
            ("user", r#""user""#),
            ("a.b.c", r#""a"."b"."c""#),
        ] {
            assert_eq!(name(written).as_deref(), Some(read), "{written}");
        }
        for written in
            ["", "a b", "a;b", "a.", ".a", "a..b", "\"a", "\"\"", "1a", "a-b", "\"a\"b", "a.b.c.d", "(select 1)"]
        {
            assert_eq!(name(written), None, "{written}");
        }
    }
}
