//! The figures as tables for people.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{Cell, CellAlignment, Table};

use crate::rounds::{middle, ratio};
use crate::throughput::Throughput;
use crate::variant::Variant;

/// A table in Markdown whose columns but the first are numbers, to the right.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.into_iter().map(Cell::new));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The tables of throughput: figures, and CPU time by thread.
pub(crate) fn throughput(title: &str, variants: &[Variant], runs: &[Vec<Throughput>]) -> String {
    let figures: Vec<(&str, Throughput)> =
        variants.iter().zip(runs).filter_map(|(variant, runs)| Some((variant.name.as_str(), middle(runs)?))).collect();
    let costs: Vec<Vec<f64>> = runs.iter().map(|runs| runs.iter().map(|run| run.cpu_s_per_million).collect()).collect();
    let several = figures.len() > 1;
    let mut header = vec!["", "msg/s", "msg/core-s", "CPU s/M", "peak MB", "idle MB", "first row ms", "rows"];
    if several {
        header.push("CPU ratio (least–most)");
    }
    let rows = figures.iter().zip(&costs).map(|((name, figures), cost)| {
        let mut row = vec![
            (*name).to_owned(),
            thousands(figures.messages_per_s),
            thousands(figures.messages_per_core_s),
            format!("{:.3}", figures.cpu_s_per_million),
            format!("{:.0}", figures.resident_peak_mb),
            format!("{:.0}", figures.resident_idle_mb),
            figures.first_row_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.0}")),
            format!("{} of {}", thousands(figures.rows as f64), thousands(figures.rows_expected as f64)),
        ];
        if several {
            let (ratio, least, most) = ratio(cost, &costs[0]);
            row.push(format!("{ratio:.3} ({least:.2}–{most:.2})"));
        }
        row
    });
    let mut text = format!("{title}\n{}\n", table(&header, rows.collect()));
    for (name, figures) in &figures {
        let mut threads: Vec<_> = figures.threads_cpu_s_per_million.iter().collect();
        threads.sort_by(|one, other| other.1.total_cmp(one.1));
        let threads: Vec<_> = threads.iter().map(|(thread, cpu_s)| format!("{thread} {cpu_s:.3}")).collect();
        let name = if name.is_empty() { String::new() } else { format!(" [{name}]") };
        text.push_str(&format!("CPU s/M by thread{name}: {}\n", threads.join(", ")));
    }
    text
}

/// `1234567.8` as `1,234,568`.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(0.4), "0");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(1_000.0), "1,000");
        assert_eq!(thousands(1_234_567.8), "1,234,568");
    }
}
