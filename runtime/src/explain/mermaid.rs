//! An explanation as a Mermaid flowchart, for pages that draw one.

use std::collections::HashMap;
use std::fmt::Write;

use super::model::{Explanation, Operator};

/// The longest line in a box.
const LINE_CHARS_MAX: usize = 60;

/// `explanation` as a flowchart: a frame per stage, a box per operator, barrels for tables and state.
pub(crate) fn mermaid(explanation: &Explanation) -> String {
    let mut out = String::from("flowchart LR\n");
    let mut ids = HashMap::new();
    for stage in &explanation.stages {
        let tasks = if stage.tasks == 1 { String::new() } else { format!(", {} tasks", stage.tasks) };
        writeln!(out, "  subgraph stage{0}[\"stage {0}{tasks}\"]", stage.stage).ok();
        for operator in &stage.operators {
            let id = format!("op{}", ids.len());
            writeln!(out, "    {id}{}", shape(operator)).ok();
            ids.insert(operator.name.as_str(), id);
        }
        out.push_str("  end\n");
    }
    let id = |name: &str| ids.get(name).cloned().unwrap_or_default();
    for stage in &explanation.stages {
        for operator in &stage.operators {
            for input in &operator.inputs {
                let edge = stage.edges.iter().find(|edge| edge.from == *input && edge.to == operator.name);
                let keys = edge.filter(|edge| !edge.keys.is_empty()).map(|edge| format!("by {}", edge.keys.join(", ")));
                let label = keys.map(|keys| format!("|\"{}\"|", escaped(&keys))).unwrap_or_default();
                writeln!(out, "  {} -->{label} {}", id(input), id(&operator.name)).ok();
            }
        }
    }
    for (number, table) in explanation.tables.iter().enumerate() {
        writeln!(out, "  table{number}[(\"{}<br/>table\")]", escaped(&table.name)).ok();
        let readers = explanation.stages.iter().flat_map(|stage| &stage.operators);
        for reader in readers.filter(|operator| operator.tables.contains(&table.name)) {
            writeln!(out, "  table{number} -.-> {}", id(&reader.name)).ok();
        }
    }
    for (number, sink) in explanation.sinks.iter().enumerate() {
        writeln!(out, "  sink{number}[/\"{}<br/>{}\"/]", escaped(&sink.name), escaped(&sink.connector)).ok();
        for from in &sink.from {
            let (step, late) = match from.strip_prefix("late rows of ") {
                Some(step) => (step, true),
                None => (from.as_str(), false),
            };
            let operators = explanation.stages.iter().flat_map(|stage| &stage.operators);
            let gives = |operator: &&Operator| {
                let of = operator.step.as_deref().unwrap_or(&operator.name) == step;
                of && if late { operator.late.is_some() } else { operator.output }
            };
            for operator in operators.filter(gives) {
                let arrow = if late { "-. late .->" } else { "-->" };
                writeln!(out, "  {} {arrow} sink{number}", id(&operator.name)).ok();
            }
        }
    }
    out
}

fn shape(operator: &Operator) -> String {
    let mut lines = vec![operator.name.clone()];
    lines.extend(operator.source.iter().map(|source| source.connector.clone()));
    lines.extend(operator.does.iter().cloned());
    lines.extend(operator.keeps.iter().map(|keeps| format!("keeps {keeps}")));
    let lines: Vec<String> = lines.iter().map(|line| escaped(&shortened(line))).collect();
    let text = lines.join("<br/>");
    match (operator.kind, &operator.keeps) {
        ("source", _) => format!("([\"{text}\"])"),
        (_, Some(_)) => format!("[(\"{text}\")]"),
        _ => format!("[\"{text}\"]"),
    }
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// `text` without what Mermaid reads as its own.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("#quot;"),
            '<' => out.push_str("#lt;"),
            '>' => out.push_str("#gt;"),
            '#' => out.push_str("#35;"),
            '\n' => out.push(' '),
            other => out.push(other),
        }
    }
    out
}
