//! Measures a built Millstream daemon: `bench --help`, and docs/performance.md for the method.
//!
//! [`run`] goes through the parts that were asked for; each is a module with its measurement, its figures (for JSON) and
//! its table. Nothing of the engine is linked in: the daemon is a child process, as its users run it.

#![allow(clippy::disallowed_methods, reason = "the driver waits in threads of its own, beside no pipeline")]

mod args;
mod arrivals;
mod bench;
mod daemon;
mod failure;
mod http_server;
mod latency;
mod machine;
mod many;
mod memory;
mod messages;
mod mqtt;
mod pipelines;
mod procfs;
mod profile;
mod progress;
mod reload;
mod report;
mod rounds;
mod schedule;
mod start;
mod steady;
mod throughput;
mod topics;
mod variant;
mod verify;
mod works;

use std::process::ExitCode;

use clap::Parser;
use serde_json::{Map, Value, json};

use crate::args::{Args, Part};
use crate::bench::Bench;
use crate::failure::{Context, Failure, Result};
use crate::machine::Machine;
use crate::variant::Variant;

fn main() -> ExitCode {
    match Bench::new(Args::parse()).and_then(|bench| run(&bench)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(error)) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures a part, with every variant.
type Measure = fn(&Bench, &[Variant], &mut Results) -> Result<()>;

fn run(bench: &Bench) -> Result<()> {
    let variants = Variant::all(&bench.args)?;
    let machine = Machine::this();
    machine.warn(bench.progress());
    let mut results = Results::new(&variants, &machine)?;
    works::measure(bench, &variants, &mut results)?;
    let parts = [
        (Part::Latency, latency::measure as Measure),
        (Part::Start, start::measure),
        (Part::Memory, memory::measure),
        (Part::Reload, reload::measure),
        (Part::Pipelines, many::measure),
    ];
    for (_, measure) in parts.iter().filter(|(part, _)| bench.args.wants(*part)) {
        measure(bench, &variants, &mut results)?;
    }
    if let Some(path) = &bench.args.json {
        let text = serde_json::to_string_pretty(&results.json)? + "\n";
        std::fs::write(path, text).context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Everything measured so far.
pub(crate) struct Results {
    json: Map<String, Value>,
}

impl Results {
    fn new(variants: &[Variant], machine: &Machine) -> Result<Self> {
        let variants: Vec<_> = variants.iter().map(|one| json!({"name": one.name, "binary": one.binary})).collect();
        let json = [("machine".to_owned(), serde_json::to_value(machine)?), ("variants".to_owned(), variants.into())];
        Ok(Self { json: Map::from_iter(json) })
    }

    /// Prints a table, and keeps the figures: by variant, in the order of the runs.
    #[expect(clippy::print_stdout, reason = "its output is what it is for")]
    pub(crate) fn add(&mut self, name: &str, table: &str, figures: &impl serde::Serialize) -> Result<()> {
        println!("\n{table}");
        self.json.insert(name.to_owned(), serde_json::to_value(figures)?);
        Ok(())
    }
}
