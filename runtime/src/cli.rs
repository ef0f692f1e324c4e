//! The command line.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};
use millstream_connectors::routes::Routes;
use millstream_connectors::units::Duration;

use crate::daemon::{Daemon, Options, StateChange};
use crate::explain;
use crate::functions::Engine;
use crate::plan::{Environment, Plan};
use crate::redact::SharedSecrets;
use crate::spec::problem::Problem;
use crate::spec::{self, LoadOptions, Loaded, Located, render, schema};

/// A folder of YAML files, run as streaming pipelines.
///
/// Each file is a pipeline: sources (MQTT, Kafka, HTTP, files, synthetic) flow through event-time SQL and WebAssembly
/// functions to sinks. A file that changes is reloaded without losing a row.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written, to stderr. RUST_LOG says which (`info`, `millstream=debug`, …).
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run pipelines, and follow their files.
    ///
    /// The folder is the truth: a file that appears is started, one that changes is reloaded, one that is removed is
    /// stopped. A file with mistakes leaves what runs as it is; see the log, `GET /v1/pipelines` and `millstream check`.
    Run(Box<RunArguments>),
    /// Say everything that is wrong with pipelines, without opening a connection or writing a file.
    ///
    /// Exits with 0 where all of them can run, and with 1 where something is wrong (warnings are not).
    Check(CheckArguments),
    /// Tell what a pipeline will do: its operators, what they keep and when that is freed, its columns and shards.
    ///
    /// Nothing is opened. A stage is what runs in one task: rows go through its operators one after the other without
    /// a queue. Between two stages rows are spread over shards by their keys (`limits: {parallelism: N}`) or brought
    /// together. Operators are named `STEP/WHAT`; metrics have the same names. Those of kind `select` and `input` are
    /// plain SQL without state; of the others it is said what they keep and what frees it. Columns that are event time
    /// are marked: windows, joins and OVER go by them.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainArguments),
    /// Print the JSON Schema of the YAML files, for editors.
    Schema {
        /// Of which files.
        #[arg(value_enum, default_value_t = SchemaOf::Pipeline)]
        of: SchemaOf,
    },
    /// Tell a running daemon to look at its files now; fails where a file has mistakes, a change is refused, or what is new
    /// fails as soon as it is started.
    Reload {
        /// The daemon's address.
        #[arg(long, default_value = DEFAULT_LISTEN)]
        address: String,
    },
    /// See it work: an embedded MQTT broker, simulated devices, a pipeline, live results. No outside service.
    Demo(DemoArguments),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SchemaOf {
    /// A pipeline.
    Pipeline,
    /// A contract in schemas/.
    Contract,
}

const DEFAULT_LISTEN: &str = "127.0.0.1:7077";

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Folders (their *.yaml and *.yml) and files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The profile of the YAML files to lay over them.
    #[arg(long)]
    profile: Option<String>,
    /// Where state, ingest logs and dead letters are kept.
    #[arg(long, env = "MILLSTREAM_DATA_DIR", default_value = "millstream-data")]
    data_dir: PathBuf,
    /// The address of the HTTP listener: health, metrics, API, and the paths of `http` sources and `sse` sinks.
    #[arg(long, env = "MILLSTREAM_LISTEN", default_value = DEFAULT_LISTEN)]
    listen: String,
    /// Run to the end of the sources, which must have one, and exit: 0 where all went well. State is kept only where
    /// the run is cut short; the same command then goes on where it was.
    #[arg(long)]
    bounded: bool,
    /// What to do with a change of a step's SQL that its open windows do not survive.
    #[arg(long, value_enum, default_value_t = OnStateChange::Refuse)]
    state_change: OnStateChange,
    /// How long files must be quiet before a change is read.
    #[arg(long, default_value = "500ms")]
    settle: Duration,
    /// Also look at the files this often: for network file systems, which tell of no changes.
    #[arg(long)]
    poll_files: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnStateChange {
    /// Keep what runs, and say so; raising the step's `revision` allows the change.
    Refuse,
    /// Throw the step's state away.
    Discard,
}

#[derive(Debug, clap::Args)]
struct CheckArguments {
    /// Folders (their *.yaml and *.yml) and files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The profile of the YAML files to lay over them. Without it the files are checked as they are, and of their
    /// profiles only what can be told without laying them over.
    #[arg(long)]
    profile: Option<String>,
    /// Check the files as they are, and then with each of their profiles laid over.
    #[arg(long, conflicts_with = "profile")]
    all_profiles: bool,
    /// For people, for programs, or as annotations of a pull request.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Colours; `auto` where the output is a terminal.
    #[arg(long, value_enum, default_value_t = Colour::Auto)]
    color: Colour,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Human,
    Json,
    Github,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Colour {
    Auto,
    Always,
    Never,
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  millstream explain pipelines/cold-chain.yaml                    all of it
  millstream explain pipelines/cold-chain.yaml bays               what the step bays needs
  millstream explain pipelines/cold-chain.yaml --format mermaid   a flowchart, for a page in Markdown";

#[derive(Debug, clap::Args)]
struct ExplainArguments {
    /// The pipeline's file, or a folder: then all of its pipelines, as text.
    file: PathBuf,
    /// Only what this step needs, and the sinks that take its rows.
    step: Option<String>,
    /// The profile of the YAML file to lay over it.
    #[arg(long)]
    profile: Option<String>,
    /// For people, for programs, or as a Mermaid flowchart.
    #[arg(long, value_enum, default_value_t = ExplainFormat::Text)]
    format: ExplainFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ExplainFormat {
    Text,
    Json,
    Mermaid,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// The folder with the demo's pipelines.
    #[arg(long, default_value = "pipelines")]
    pub(crate) pipelines: PathBuf,
    /// Where state is kept; a temporary folder where this is missing.
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// The address of the HTTP listener.
    #[arg(long, default_value = DEFAULT_LISTEN)]
    pub(crate) listen: String,
    /// The port of the embedded MQTT broker; a free one where it is taken.
    #[arg(long, default_value_t = 1883)]
    pub(crate) mqtt_port: u16,
    /// Stop after so long (for scripts).
    #[arg(long)]
    pub(crate) stop_after: Option<Duration>,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let secrets = SharedSecrets::default();
    start_log(cli.log_format, &cli.command, &secrets);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the threads: {error}")),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Run(arguments) => Box::pin(run(*arguments, secrets)).await,
            Command::Check(arguments) => Box::pin(check(arguments)).await,
            Command::Explain(arguments) => Box::pin(explain(arguments)).await,
            Command::Schema { of } => print_schema(of),
            Command::Reload { address } => reload(&address).await,
            Command::Demo(arguments) => Box::pin(crate::demo::run(arguments, secrets)).await,
        }
    });
    // Threads that wait in a client library must not hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    code
}

fn start_log(format: LogFormat, command: &Command, secrets: &SharedSecrets) {
    // The demo tells itself what becomes of a change; its broker complains about every client that leaves.
    const DEMO: &str = "warn,rumqttd=off,millstream::daemon=off,millstream::daemon::supervisor=warn,\
                        millstream::daemon::api=warn,millstream::daemon::watch=warn,\
                        millstream::engine::dead_letter=error";
    let default = match command {
        Command::Demo(_) => DEMO,
        Command::Run(_) => "info,rumqttd=warn,librdkafka=warn",
        // What they have to say is their output.
        Command::Check(_) | Command::Explain(_) | Command::Schema { .. } | Command::Reload { .. } => "warn",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(secrets.clone()).with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Says why, and gives the exit code that goes with it.
pub(crate) fn fail(message: &str) -> ExitCode {
    eprintln!("millstream: {message}");
    ExitCode::FAILURE
}

/// Writes to stdout; a reader that has gone away is no error.
pub(crate) fn print(text: &str) {
    std::io::stdout().write_all(text.as_bytes()).ok();
    std::io::stdout().flush().ok();
}

async fn run(arguments: RunArguments, secrets: SharedSecrets) -> ExitCode {
    for path in &arguments.paths {
        if !path.exists() {
            return fail(&format!("{} does not exist", path.display()));
        }
    }
    // Without --bounded the files may still come.
    if arguments.bounded && spec::find(&arguments.paths).0.is_empty() {
        return fail("there is no *.yaml or *.yml file to run");
    }
    let options = Options {
        paths: arguments.paths,
        load: LoadOptions { profile: arguments.profile, ..LoadOptions::default() },
        data_dir: arguments.data_dir,
        listen: Some(arguments.listen),
        bounded: arguments.bounded,
        state_change: match arguments.state_change {
            OnStateChange::Refuse => StateChange::Refuse,
            OnStateChange::Discard => StateChange::Discard,
        },
        settle: arguments.settle.0,
        poll_files: arguments.poll_files.map(|period| period.0),
        secrets,
    };
    match Daemon::start(options).await {
        Ok(daemon) => Box::pin(daemon.run()).await,
        Err(error) => fail(&error.to_string()),
    }
}

async fn check(arguments: CheckArguments) -> ExitCode {
    let (files, unreadable) = spec::find(&arguments.paths);
    if let Some(problem) = unreadable.first() {
        return fail(&problem.message);
    }
    if files.is_empty() {
        return fail("there is no *.yaml or *.yml file to check");
    }
    let (count, problems) = match Box::pin(problems_of(&files, arguments.profile, arguments.all_profiles)).await {
        Ok(found) => (files.len(), found),
        Err(message) => return fail(&message),
    };
    let failed = problems.iter().any(|problem| problem.severity == spec::problem::Severity::Error);
    match arguments.format {
        Format::Json => print(&(render::json(&problems) + "\n")),
        Format::Github => print(&render::github(&problems)),
        Format::Human => {
            let colours = match arguments.color {
                Colour::Always => true,
                Colour::Never => false,
                Colour::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            };
            print(&render::human(&problems, colours));
            if !failed {
                print(&format!("{count} {} can run\n", if count == 1 { "pipeline" } else { "pipelines" }));
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// All mistakes of all files, in the files' order.
async fn problems_of(files: &[PathBuf], profile: Option<String>, all: bool) -> Result<Vec<Located>, String> {
    let options = LoadOptions { profile, ..LoadOptions::default() };
    let environment = planning_only()?;
    let loaded: Vec<_> = files.iter().map(|file| spec::load(file, &options)).collect();
    let clashes = spec::name_clashes(&loaded.iter().collect::<Vec<_>>(), &BTreeMap::new());
    let mut problems = Vec::new();
    for (index, loaded) in loaded.iter().enumerate() {
        let clashing = clashes.iter().filter(|(i, _)| *i == index).map(|(_, problem)| problem.clone()).collect();
        let mut found = judge(loaded, clashing, &environment).await;
        for name in all.then(|| profiles(loaded)).into_iter().flatten() {
            let with_profile = LoadOptions { profile: Some(name.clone()), ..options.clone() };
            let laid_over = spec::load(&loaded.file, &with_profile);
            for mut problem in judge(&laid_over, Vec::new(), &environment).await {
                if !found.iter().any(|known| known.location == problem.location && known.message == problem.message) {
                    problem.message = format!("with the profile `{name}`: {}", problem.message);
                    found.push(problem);
                }
            }
        }
        problems.extend(found);
    }
    Ok(problems)
}

/// For plans that are looked at and never run.
fn planning_only() -> Result<Environment, String> {
    Ok(Environment {
        functions: Engine::new(None).map_err(|error| error.to_string())?,
        routes: Arc::new(Routes::default()),
        // A plan names files in it, and writes none.
        data_dir: std::env::temp_dir().join("millstream-check"),
    })
}

/// Everything that is wrong with a file.
async fn judge(loaded: &Loaded, mut further: Vec<Problem>, environment: &Environment) -> Vec<Located> {
    if let Some(spec) = &loaded.spec {
        further.extend(Plan::build(&loaded.file, spec, environment).await.1);
    } else if let Some(draft) = &loaded.draft {
        further.extend(Plan::judge(&loaded.file, draft, environment).await);
    }
    loaded.located(&further)
}

/// The names of a file's profiles.
fn profiles(loaded: &Loaded) -> Vec<String> {
    let profiles = loaded.map.root().and_then(|root| root.get("profiles")?.as_map());
    profiles.into_iter().flat_map(|map| map.keys().cloned()).collect()
}

async fn explain(arguments: ExplainArguments) -> ExitCode {
    let environment = match planning_only() {
        Ok(environment) => environment,
        Err(message) => return fail(&message),
    };
    let path = &arguments.file;
    if !path.is_dir() {
        return Box::pin(explain_file(path, &arguments, &environment)).await;
    }
    if arguments.step.is_some() || !matches!(arguments.format, ExplainFormat::Text) {
        return fail(&format!(
            "{} is a folder: a STEP, and another format than text, go with one file",
            path.display()
        ));
    }
    let (files, unreadable) = spec::find(std::slice::from_ref(path));
    if let Some(problem) = unreadable.first() {
        return fail(&problem.message);
    }
    if files.is_empty() {
        return fail(&format!("there is no *.yaml or *.yml file in {}", path.display()));
    }
    let mut code = ExitCode::SUCCESS;
    for (index, file) in files.iter().enumerate() {
        if index > 0 {
            print("\n");
        }
        if Box::pin(explain_file(file, &arguments, &environment)).await != ExitCode::SUCCESS {
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// Tells what one file will be when it runs.
async fn explain_file(file: &Path, arguments: &ExplainArguments, environment: &Environment) -> ExitCode {
    if !file.is_file() {
        return fail(&format!("{} is not a file", file.display()));
    }
    let options = LoadOptions { profile: arguments.profile.clone(), ..LoadOptions::default() };
    let loaded = spec::load(file, &options);
    let plan = match &loaded.spec {
        Some(spec) => Box::pin(Plan::build(&loaded.file, spec, environment)).await.0,
        None => None,
    };
    let Some(plan) = plan else {
        let problems = Box::pin(judge(&loaded, Vec::new(), environment)).await;
        eprint!("{}", render::human(&problems, std::io::stderr().is_terminal()));
        return ExitCode::FAILURE;
    };
    let explanation = match explain::explain(&plan, arguments.step.as_deref()) {
        Ok(explanation) => explanation,
        Err(message) => return fail(&message),
    };
    match arguments.format {
        ExplainFormat::Text => print(&explain::text(&explanation)),
        ExplainFormat::Mermaid => print(&explain::mermaid(&explanation)),
        ExplainFormat::Json => match serde_json::to_string_pretty(&explanation) {
            Ok(text) => print(&(text + "\n")),
            Err(error) => return fail(&error.to_string()),
        },
    }
    ExitCode::SUCCESS
}

fn print_schema(of: SchemaOf) -> ExitCode {
    let schema = match of {
        SchemaOf::Pipeline => schema::pipeline_schema(),
        SchemaOf::Contract => schema::contract_schema(),
    };
    match serde_json::to_string_pretty(&schema) {
        Ok(text) => {
            print(&(text + "\n"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error.to_string()),
    }
}

async fn reload(address: &str) -> ExitCode {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    match crate::daemon::client::post(address, "/v1/reload").await {
        Ok((status, body)) => {
            print(&(body + "\n"));
            if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => fail(&format!("no millstream answers at {address}: {error}")),
    }
}
