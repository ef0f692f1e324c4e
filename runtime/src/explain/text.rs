//! An explanation as text.

use std::fmt::Write;

use super::model::{Column, Edge, Explanation, Operator, Source, Stage};

/// `explanation` as lines for a terminal.
pub(crate) fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    let Explanation { pipeline, parallelism, stages, .. } = explanation;
    let tasks: usize = stages.iter().map(|stage| stage.tasks).sum();
    let of = explanation.step.as_ref().map(|step| format!(", what the step {step} needs")).unwrap_or_default();
    let counted = format!("{}, {}", count(stages.len(), "stage"), count(tasks, "task"));
    line(&mut out, 0, &format!("{pipeline}{of}: {counted}; parallelism {parallelism}"));
    for stage in stages {
        out.push('\n');
        show_stage(&mut out, stage);
    }
    if !explanation.tables.is_empty() {
        out.push_str("\nTables, each held in memory as a whole\n");
        for table in &explanation.tables {
            let key = table.key.as_ref().map(|key| format!(", one row per {key}")).unwrap_or_default();
            line(&mut out, 2, &format!("{} ({}){key}", table.name, table.connector));
            show_columns(&mut out, &table.columns);
        }
    }
    out.push_str("\nSinks\n");
    for sink in &explanation.sinks {
        line(&mut out, 2, &format!("{} ({}) takes {}", sink.name, sink.connector, sink.from.join(", ")));
    }
    line(&mut out, 2, &format!("the dead letter ({}) takes every row and message that fails", explanation.dead_letter));
    out
}

fn show_stage(out: &mut String, stage: &Stage) {
    let tasks = match stage.tasks {
        1 => "one task".to_owned(),
        tasks => format!("{tasks} tasks, each with its share of the keys"),
    };
    line(out, 0, &format!("Stage {}: {tasks}", stage.stage));
    for edge in &stage.edges {
        line(out, 2, &edge_text(edge, stage.tasks));
    }
    for operator in &stage.operators {
        show_operator(out, operator);
    }
}

fn edge_text(edge: &Edge, tasks: usize) -> String {
    let Edge { from_stage, from, to, keys } = edge;
    let how = match (keys.is_empty(), tasks) {
        (true, _) => "all to one task".to_owned(),
        (false, 1) => format!("all to one task (key: {})", keys.join(", ")),
        (false, tasks) => format!("spread over {tasks} shards by {}", keys.join(", ")),
    };
    format!("<- stage {from_stage}: rows of {from} for {to}, {how}")
}

fn show_operator(out: &mut String, operator: &Operator) {
    let what = match (&operator.source, &operator.step, operator.output) {
        (Some(source), _, _) => format!(" (source, {})", source.connector),
        (None, Some(step), true) => format!(" = the step {step}"),
        _ => String::new(),
    };
    line(out, 2, &format!("{}{what}", operator.name));
    if let Some(source) = &operator.source {
        show_source(out, source);
    }
    for does in &operator.does {
        line(out, 6, does);
    }
    let behind = operator.watermark_behind.as_ref().map(|lag| format!("taken for {lag} earlier, here and after it"));
    let late = operator.late.as_ref().map(|to| format!("to {to}"));
    for (name, value) in
        [("keeps", &operator.keeps), ("freed", &operator.freed), ("watermark", &behind), ("late rows", &late)]
    {
        if let Some(value) = value {
            field(out, name, value);
        }
    }
    if operator.output {
        show_columns(out, &operator.columns);
    }
}

fn show_source(out: &mut String, source: &Source) {
    let decoded = match source.skipped.is_empty() {
        true => "all columns".to_owned(),
        false => format!("{} of {} columns", source.decoded.len(), source.declared_columns),
    };
    field(out, "decodes", &decoded);
    if !source.skipped.is_empty() {
        field(out, "skips", &format!("{} (nothing uses them)", source.skipped.join(", ")));
    }
    if !source.metadata.is_empty() {
        field(out, "metadata", &source.metadata.join(", "));
    }
    if let Some(time) = &source.event_time {
        let idle = time.idle_after.as_ref().filter(|_| !source.bounded);
        let idle = idle.map_or(String::new(), |idle| format!(", idle after {idle}"));
        let told = match time.processing {
            false => format!("{}, watermark {} behind the newest{idle}", time.column, time.watermark),
            true => {
                format!("{}, the clock at which rows come; watermark at most {} behind it", time.column, time.watermark)
            }
        };
        field(out, "event time", &told);
    }
    if source.ingest_log {
        field(out, "ingest log", "messages are on disk before they are acknowledged");
    }
}

fn show_columns(out: &mut String, columns: &[Column]) {
    let width = |of: &dyn Fn(&Column) -> usize| columns.iter().map(of).max().unwrap_or(0);
    let names = width(&|column| column.name.chars().count());
    let types = width(&|column| column.sql_type.chars().count());
    for (index, column) in columns.iter().enumerate() {
        let title = if index == 0 { "columns" } else { "" };
        let mut told = format!("{:names$}  {:types$}", column.name, column.sql_type);
        match column.event_time_behind.as_deref() {
            Some("0s" | "0ms") => told.push_str("  event time"),
            Some(lag) => {
                write!(told, "  event time, up to {lag} behind the watermark").ok();
            }
            None => {}
        }
        if let Some(is) = &column.is {
            write!(told, "  = {is}").ok();
        }
        field(out, title, told.trim_end());
    }
}

fn field(out: &mut String, name: &str, value: &str) {
    line(out, 6, &format!("{name:<11} {value}"));
}

fn line(out: &mut String, indent: usize, text: &str) {
    for text in text.lines() {
        out.push_str(&" ".repeat(indent));
        out.push_str(text);
        out.push('\n');
    }
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
