//! Rows of JSON as aligned lines for the terminal.
//!
//! Columns grow as wider values come and never shrink, so that what is printed later still stands below what was printed
//! before.

use std::fmt::Write as _;

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

/// A wider value is cut.
const CELL_WIDTH_MAX: usize = 32;
/// The header is printed again after so many rows.
const ROWS_PER_HEADER: usize = 24;
/// The most digits after the point.
const DECIMALS_MAX: usize = 2;

/// Styles of the terminal; all empty without colours.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) bold: &'static str,
    pub(super) dim: &'static str,
    pub(super) red: &'static str,
    pub(super) yellow: &'static str,
    pub(super) green: &'static str,
    pub(super) cyan: &'static str,
    pub(super) off: &'static str,
}

/// No colours.
pub(super) const PLAIN: Style = Style { bold: "", dim: "", red: "", yellow: "", green: "", cyan: "", off: "" };
/// Colours.
pub(super) const COLOURED: Style = Style {
    bold: "\x1b[1m",
    dim: "\x1b[2m",
    red: "\x1b[1;31m",
    yellow: "\x1b[33m",
    green: "\x1b[32m",
    cyan: "\x1b[36m",
    off: "\x1b[0m",
};

/// The columns of one sink, as they have been so far.
#[derive(Default)]
pub(super) struct Table {
    columns: Vec<Column>,
    rows_since_header: usize,
}

struct Column {
    name: String,
    width: usize,
    decimals: usize,
    number: bool,
}

impl Table {
    /// The lines of `rows`. `fresh` asks for the header, because something else was printed in between.
    pub(super) fn lines(&mut self, rows: &[String], fresh: bool, style: &Style) -> String {
        let rows: Vec<Vec<(String, Value)>> = rows.iter().map(|row| fields(row)).collect();
        let names = |row: &[(String, Value)]| row.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let mut header = fresh || self.rows_since_header >= ROWS_PER_HEADER;
        if let Some(first) = rows.first()
            && !self.columns.iter().map(|column| &column.name).eq(first.iter().map(|(name, _)| name))
        {
            let column = |name: String| Column { width: name.width(), name, decimals: 0, number: true };
            self.columns = names(first).into_iter().map(column).collect();
            header = true;
        }
        let before = self.width();
        for row in &rows {
            self.measure(row);
        }
        // Below a header that has become too narrow nobody finds the columns.
        header |= self.width() > before;
        let mut text = String::new();
        if header {
            self.rows_since_header = 0;
            let heads = self.columns.iter().map(|column| pad(&column.name, column.width, column.number));
            writeln!(text, "  {}{}{}", style.dim, heads.collect::<Vec<_>>().join("  ").trim_end(), style.off).ok();
        }
        for row in &rows {
            self.rows_since_header += 1;
            let cells = self.columns.iter().map(|column| column.cell(row, style));
            writeln!(text, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end()).ok();
        }
        text
    }

    fn width(&self) -> usize {
        self.columns.iter().map(|column| column.width).sum()
    }

    fn measure(&mut self, row: &[(String, Value)]) {
        for column in &mut self.columns {
            let Some((_, value)) = row.iter().find(|(name, _)| *name == column.name) else { continue };
            column.number &= value.is_number() || value.is_null();
            column.decimals = column.decimals.max(decimals(value));
            column.width = column.width.max(shown(value, column.decimals).width());
        }
    }
}

impl Column {
    fn cell(&self, row: &[(String, Value)], style: &Style) -> String {
        let value = row.iter().find(|(name, _)| *name == self.name).map_or(&Value::Null, |(_, value)| value);
        let text = shown(value, self.decimals);
        let padded = pad(&text, self.width, self.number);
        match colour(&text, style) {
            "" => padded,
            colour => format!("{colour}{padded}{}", style.off),
        }
    }
}

/// Words that say how bad something is.
fn colour(text: &str, style: &Style) -> &'static str {
    match text.to_lowercase().as_str() {
        "critical" | "alarm" | "error" => style.red,
        "warning" | "warn" | "warm" => style.yellow,
        "ok" | "good" | "normal" => style.green,
        _ => "",
    }
}

/// The row's columns in their order; what is no object is one column.
fn fields(row: &str) -> Vec<(String, Value)> {
    match serde_json::from_str(row) {
        Ok(Value::Object(map)) => map.into_iter().collect(),
        Ok(value) => vec![("value".to_owned(), value)],
        Err(_) => vec![("value".to_owned(), Value::String(row.to_owned()))],
    }
}

/// How many digits after the point a number needs, as far as they are shown.
fn decimals(value: &Value) -> usize {
    match value.as_f64().filter(|_| !value.is_i64() && !value.is_u64()) {
        Some(number) => {
            let text = format!("{number:.DECIMALS_MAX$}");
            let digits = text.split_once('.').map_or("", |(_, digits)| digits);
            digits.trim_end_matches('0').len().max(1)
        }
        None => 0,
    }
}

fn shown(value: &Value, decimals: usize) -> String {
    let text = match value {
        Value::Null => "–".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) if value.is_i64() || value.is_u64() => number.to_string(),
        Value::Number(_) => format!("{:.decimals$}", value.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => time_of_day(text).unwrap_or_else(|| text.clone()),
        other => other.to_string(),
    };
    let clean: String = text.chars().map(|c| if c.is_control() { '·' } else { c }).collect();
    if clean.width() <= CELL_WIDTH_MAX {
        return clean;
    }
    let mut cut = String::new();
    for c in clean.chars() {
        if cut.width() >= CELL_WIDTH_MAX - 2 {
            break;
        }
        cut.push(c);
    }
    cut + "…"
}

/// Of a time, what changes from row to row.
fn time_of_day(text: &str) -> Option<String> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok();
    let time = time.map(|time| time.naive_utc());
    // Times without a zone are UTC.
    let time = time.or_else(|| chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok())?;
    Some(time.format("%H:%M:%S").to_string())
}

fn pad(text: &str, width: usize, right: bool) -> String {
    let space = " ".repeat(width.saturating_sub(text.width()));
    if right { space + text } else { text.to_owned() + &space }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(table: &mut Table, rows: &[&str]) -> String {
        table.lines(&rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>(), false, &PLAIN)
    }

    #[test]
    fn numbers_stand_below_one_another_and_times_are_short() {
        let mut table = Table::default();
        let text = lines(
            &mut table,
            &[
                r#"{"at":"2026-01-01T10:00:05Z","vehicle":"truck-1","bay_c":9.5,"n":4,"door":true}"#,
                r#"{"at":"2026-01-01T10:00:05.000","vehicle":"truck-12","bay_c":12.25,"n":10,"door":null}"#,
            ],
        );
        assert_eq!(
            text,
            "  at        vehicle   bay_c   n  door\n\
             \x20 10:00:05  truck-1    9.50   4  yes\n\
             \x20 10:00:05  truck-12  12.25  10  –\n"
        );
        assert_eq!(
            lines(&mut table, &[r#"{"at":"2026-01-01T10:00:10Z","vehicle":"truck-1","bay_c":9,"n":4,"door":false}"#]),
            "  10:00:10  truck-1       9   4  no\n"
        );
    }

    #[test]
    fn other_columns_bring_a_new_header() {
        let mut table = Table::default();
        assert_eq!(lines(&mut table, &[r#"{"a":1}"#]), "  a\n  1\n");
        assert_eq!(lines(&mut table, &[r#"{"a":2}"#]), "  2\n");
        assert_eq!(lines(&mut table, &[r#"{"b":3}"#]), "  b\n  3\n");
        assert_eq!(lines(&mut table, &["plain \u{1b}[31mtext"]), "  value\n  plain ·[31mtext\n");
    }
}
