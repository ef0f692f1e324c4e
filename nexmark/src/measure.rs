//! `nexmark bench`: events a second per core, query by query.
//!
//! Events are made first and kept in memory, as Arrow batches or as JSON objects. A run is a whole pipeline in this
//! process, on a runtime of its own: source tasks, event time, channels, operators, snapshots every second to a
//! temporary folder; its sinks count rows. What is measured is the CPU time of the process between the run's start and
//! its end, which is that of the engine alone. The rate per core is the number of events of all three kinds divided by
//! that time, as in the benchmark's own reports: a query that reads only bids is credited with all events.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use arrow::array::BinaryArray;
use comfy_table::{CellAlignment, Table, presets};
use millstream::bench_support::{Feed, Feeds, Given, Whole};
use nexmark::feed::{Chunk, chunks};
use serde::Serialize;

use crate::Events;
use crate::queries;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Queries (`q0`, `q5`, …); q0, q1, q2, q5, q7, q8, q9, q11 and q18 where none is named.
    queries: Vec<String>,
    #[command(flatten)]
    events: Events,
    /// How often each is run; the best run counts, and the worst is shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Into how many shards keyed operators are split. The figure is by CPU time, also with several.
    #[arg(long, default_value_t = 1)]
    parallelism: u16,
    /// Leave out the runs that decode JSON.
    #[arg(long)]
    rows_only: bool,
    /// The folder of the queries' files.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One query, fed in one way.
#[derive(Debug, Serialize)]
struct Measured {
    query: String,
    /// `rows` or `json`.
    feed: &'static str,
    /// Events of all kinds.
    events: u64,
    /// Rows that the query's sources took in and that came out at its end.
    rows_in: u64,
    rows_out: u64,
    /// CPU time of the best and of the worst run.
    cpu_s: f64,
    cpu_s_worst: f64,
    /// From the start to the end of the best run.
    wall_s: f64,
    events_per_core_second: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    let folder = arguments.folder.clone().unwrap_or_else(queries::folder);
    let named = arguments.queries.iter().map(String::as_str);
    let names: Vec<&str> = if arguments.queries.is_empty() { queries::MEASURED.to_vec() } else { named.collect() };
    for name in &names {
        queries::file(&folder, name)?;
    }
    eprintln!("making {} events", arguments.events.events);
    let chunks = chunks(&arguments.events.generator(), arguments.events.events, !arguments.rows_only);
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    nexmark::feed::write_side_input(scratch.path()).map_err(|error| error.to_string())?;
    let env: BTreeMap<String, String> =
        ["INPUT", "OUTPUT"].map(|name| (name.to_owned(), scratch.path().display().to_string())).into();
    let ways: &[&'static str] = if arguments.rows_only { &["rows"] } else { &["rows", "json"] };
    let mut all = Vec::new();
    for &way in ways {
        let feeds = feeds(&chunks, way);
        for name in &names {
            eprintln!("{name}, {way}");
            let file = queries::file(&folder, name)?;
            let measured = measure(&file, way, &env, &feeds, arguments).map_err(|error| format!("{name}: {error}"))?;
            all.push(Measured { query: (*name).to_owned(), ..measured });
        }
    }
    show(&all, arguments.json)
}

/// What the sources hand out: the chunks of each kind in turn.
fn feeds(chunks: &[Chunk], way: &str) -> Feeds {
    let mut feeds = Feeds::new();
    for chunk in chunks {
        let feed = match way {
            "json" => Feed::Messages(BinaryArray::from_iter_values(&chunk.lines)),
            _ => Feed::Rows(chunk.rows.clone()),
        };
        feeds.entry(chunk.kind.name().to_owned()).or_default().push((chunk.place, feed));
    }
    feeds
}

fn measure(
    file: &std::path::Path,
    feed: &'static str,
    env: &BTreeMap<String, String>,
    feeds: &Feeds,
    arguments: &Arguments,
) -> Result<Measured, String> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    let whole = runtime.block_on(Box::pin(Whole::plan(file, env.clone(), arguments.parallelism, feeds)))?;
    let once = || runtime.block_on(whole.run());
    let mut runs = (0..arguments.runs.max(1)).map(|_| timed(once)).collect::<Result<Vec<_>, _>>()?;
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ((cpu_s, wall_s, given), (cpu_s_worst, ..)) = (runs[0], runs[runs.len() - 1]);
    let events = arguments.events.events;
    Ok(Measured {
        query: String::new(),
        feed,
        events,
        rows_in: whole.rows(),
        rows_out: given.rows,
        cpu_s,
        cpu_s_worst,
        wall_s,
        events_per_core_second: events as f64 / cpu_s,
    })
}

/// The CPU and wall time of one go of `work`, which is done until the clock of CPU time, which counts in hundredths of a
/// second, is fine enough.
fn timed(work: impl Fn() -> Result<Given, String>) -> Result<(f64, f64, Given), String> {
    let (cpu, start) = (cpu_s()?, Instant::now());
    let mut times = 0.0;
    loop {
        let given = work()?;
        times += 1.0;
        if given.letters > 0 {
            return Err(format!("{} rows went to the dead letter", given.letters));
        }
        let spent = cpu_s()? - cpu;
        if spent >= CPU_S_MIN {
            return Ok((spent / times, start.elapsed().as_secs_f64() / times, given));
        }
    }
}

/// A run is repeated until so much CPU time is spent, in seconds.
const CPU_S_MIN: f64 = 0.5;

/// The CPU time of this process so far, in seconds: of all threads, ended ones too, in user and system mode.
fn cpu_s() -> Result<f64, String> {
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|error| format!("/proc/self/stat: {error}"))?;
    // proc(5) counts from 1; what follows the name, which may hold anything, begins at field 3: utime is 14, stime 15.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().collect::<Vec<_>>());
    let ticks =
        fields.and_then(|fields| Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?));
    let ticks = ticks.ok_or_else(|| format!("/proc/self/stat has an unknown form: {stat}"))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn show(all: &[Measured], json: bool) -> Result<(), String> {
    use std::io::Write;
    let text = if json {
        serde_json::to_string_pretty(all).map_err(|error| error.to_string())?
    } else {
        table(all).to_string()
    };
    writeln!(std::io::stdout(), "{text}").map_err(|error| error.to_string())
}

fn table(all: &[Measured]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["query", "fed with", "events/s per core", "CPU s (worst)", "wall s", "rows in", "rows out"]);
    for measured in all {
        table.add_row([
            measured.query.clone(),
            measured.feed.to_owned(),
            grouped(measured.events_per_core_second as u64),
            format!("{:.2} ({:.2})", measured.cpu_s, measured.cpu_s_worst),
            format!("{:.2}", measured.wall_s),
            grouped(measured.rows_in),
            grouped(measured.rows_out),
        ]);
    }
    table.column_iter_mut().skip(2).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
