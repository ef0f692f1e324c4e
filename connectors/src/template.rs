//! Texts with columns in them: `fleet/{vehicle}/alarm`.

use std::fmt::Write as _;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Schema;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::ConnectorError;

/// A text with `{column}` places; `{{` and `}}` stand for braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A column, by its index and name.
    Column(usize, String),
}

impl Template {
    /// Reads `text`, whose columns must be among `columns`. `option` is named in errors.
    pub fn parse(text: &str, columns: &Schema, option: &str) -> Result<Self, ConnectorError> {
        let wrong = |message: String| ConnectorError::configuration(option, message);
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' | '}' if rest.peek() == Some(&c) => {
                    rest.next();
                    literal.push(c);
                }
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(c) => name.push(c),
                            None => return Err(wrong(format!("`{text}` has a `{{` without its `}}`"))),
                        }
                    }
                    let index = columns.index_of(&name).map_err(|_| {
                        let known: Vec<_> = columns.fields().iter().map(|field| field.name().as_str()).collect();
                        wrong(format!("`{{{name}}}` names no column; there are: {}", known.join(", ")))
                    })?;
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Column(index, name));
                }
                '}' => return Err(wrong(format!("`{text}` has a `}}` without its `{{`; write `}}}}` for a brace"))),
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    /// The text itself where it has no columns.
    pub fn constant(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text for each row of `rows`. A null column is an error of its row.
    pub fn render(&self, rows: &RecordBatch) -> Result<Vec<Result<String, String>>, ConnectorError> {
        self.render_with(rows, |value, text| text.push_str(value))
    }

    /// Like [`Template::render`]; `escape` appends the value of a column to the text (percent-encoded, for a URL).
    pub fn render_with(
        &self,
        rows: &RecordBatch,
        escape: impl Fn(&str, &mut String),
    ) -> Result<Vec<Result<String, String>>, ConnectorError> {
        let options = FormatOptions::default();
        let mut formatters = Vec::new();
        for part in &self.parts {
            if let Part::Column(index, name) = part {
                let formatter = ArrayFormatter::try_new(rows.column(*index).as_ref(), &options)
                    .map_err(|error| ConnectorError::configuration(name.clone(), error.to_string()))?;
                formatters.push(formatter);
            }
        }
        Ok((0..rows.num_rows()).map(|row| self.render_row(rows, row, &formatters, &escape)).collect())
    }

    fn render_row(
        &self,
        rows: &RecordBatch,
        row: usize,
        formatters: &[ArrayFormatter<'_>],
        escape: &impl Fn(&str, &mut String),
    ) -> Result<String, String> {
        let mut text = String::new();
        let mut value = String::new();
        let mut formatters = formatters.iter();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Column(index, name) => {
                    let formatter = formatters.next().ok_or("a template lost a column")?;
                    if rows.column(*index).is_null(row) {
                        return Err(format!("the column {name} is null, and the destination is made from it"));
                    }
                    value.clear();
                    write!(value, "{}", formatter.value(row)).map_err(|_| format!("{name} cannot be shown as text"))?;
                    escape(&value, &mut text);
                }
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn rows() -> RecordBatch {
        let schema = Schema::new(vec![Field::new("id", DataType::Utf8, true), Field::new("n", DataType::Int64, true)]);
        let id = StringArray::from(vec![Some("a"), None]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(id), Arc::new(Int64Array::from(vec![1, 2]))]).unwrap()
    }

    #[test]
    fn columns_are_filled_in_and_null_is_an_error_of_its_row() {
        let rows = rows();
        let template = Template::parse("x/{id}/{{{n}}}", rows.schema_ref(), "topic").unwrap();
        let texts = template.render(&rows).unwrap();
        assert_eq!(texts[0].as_deref(), Ok("x/a/{1}"));
        assert!(texts[1].as_ref().unwrap_err().contains("id is null"));
    }

    #[test]
    fn an_unknown_column_is_named_with_those_there_are() {
        let error = Template::parse("x/{idd}", rows().schema_ref(), "topic").unwrap_err();
        assert_eq!(error.to_string(), "topic: `{idd}` names no column; there are: id, n");
    }
}
