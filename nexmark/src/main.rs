//! Makes the events of Nexmark, or measures its queries on Millstream's engine.

mod measure;
mod queries;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nexmark::generator::{Config, Generator};

/// The Nexmark benchmark: its events, and its queries on Millstream's engine.
#[derive(Debug, Parser)]
#[command(name = "nexmark", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write events to person.jsonl, auction.jsonl and bid.jsonl.
    Generate {
        /// The folder, which is there.
        folder: PathBuf,
        #[command(flatten)]
        events: Events,
    },
    /// Measure queries in this process: events made beforehand, handed to the engine from memory, results counted.
    Bench(measure::Arguments),
}

/// Which events.
#[derive(Debug, Clone, clap::Args)]
struct Events {
    /// How many, of all three kinds.
    #[arg(long, default_value_t = 2_000_000)]
    events: u64,
    /// How many of them a second of event time has.
    #[arg(long, default_value_t = Config::default().events_per_second)]
    rate: u64,
    /// Events are out of order within groups of so many; 1: none is.
    #[arg(long, default_value_t = 1)]
    disorder: u64,
    /// Another seed makes other events of the same kind.
    #[arg(long, default_value_t = Config::default().seed)]
    seed: u64,
}

impl Events {
    fn generator(&self) -> Generator {
        let Self { rate, disorder, seed, .. } = *self;
        Generator::new(Config { events_per_second: rate, disorder, seed, ..Config::default() })
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Generate { folder, events } => {
            let written = nexmark::feed::write(&events.generator(), events.events, &folder);
            written.map_err(|error| format!("{}: {error}", folder.display()))
        }
        Command::Bench(arguments) => measure::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("nexmark: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
