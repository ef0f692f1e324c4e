//! What the demo says on the terminal. One task writes, so that nothing mixes.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use millstream_connectors::config::SinkConfig;
use tokio::sync::mpsc;
use tokio::time::Instant;
use unicode_width::UnicodeWidthStr;

use super::broker::Broker;
use super::live::{ROWS_WAITING_MAX, Row, Taps, sinks};
use super::table::{COLOURED, PLAIN, Style, Table};
use crate::cli::print;
use crate::daemon::{ReloadReport, Shared};
use crate::spec::problem::Severity;
use crate::spec::{LoadOptions, Located, render};

/// Rows that come within so long are shown together.
const GATHER: Duration = Duration::from_millis(80);
/// Of rows that come together so many are shown; the page shows them all.
const ROWS_SHOWN_MAX: usize = 15;
/// How often the dead letters are counted, and how often, at most, they are spoken of.
const LETTERS_EVERY: Duration = Duration::from_secs(5);
const LETTERS_SAID_EVERY: Duration = Duration::from_secs(60);
/// The pipeline that newcomers are sent to, where it is there.
const SHIPPED: &str = "cold-chain";

/// What the welcome tells about.
pub(super) struct Welcome {
    pub(super) address: String,
    pub(super) broker: Broker,
    pub(super) pipelines: PathBuf,
    pub(super) data_dir: PathBuf,
}

/// The screen.
pub(super) struct Screen {
    welcome: Welcome,
    load: LoadOptions,
    shared: Arc<Shared>,
    reports: mpsc::Receiver<ReloadReport>,
    taps: Taps,
    rows: mpsc::Receiver<Row>,
    tables: BTreeMap<Arc<str>, Table>,
    /// Whose rows were printed last; nobody's after other text.
    last_sink: Option<Arc<str>>,
    /// The mistakes that were shown last.
    problems: Vec<Located>,
    letters: BTreeMap<String, (u64, Instant)>,
    colours: bool,
    style: &'static Style,
}

/// The last words.
pub(super) fn goodbye() {
    print("\nThe demo has stopped.\n");
}

impl Screen {
    pub(super) fn new(
        welcome: Welcome,
        load: LoadOptions,
        shared: Arc<Shared>,
        reports: mpsc::Receiver<ReloadReport>,
    ) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let (sender, rows) = mpsc::channel(ROWS_WAITING_MAX);
        let taps = Taps::new(shared.routes.clone(), sender);
        Self {
            welcome,
            load,
            shared,
            reports,
            taps,
            rows,
            tables: BTreeMap::new(),
            last_sink: None,
            problems: Vec::new(),
            letters: BTreeMap::new(),
            colours,
            style: if colours { &COLOURED } else { &PLAIN },
        }
    }

    /// Shows what comes until it is aborted.
    pub(super) async fn run(mut self) {
        let Some(first) = self.reports.recv().await else { return };
        self.say(&self.welcome_text());
        self.look(first, true);
        let mut letters = tokio::time::interval_at(Instant::now() + LETTERS_EVERY, LETTERS_EVERY);
        loop {
            tokio::select! {
                report = self.reports.recv() => match report {
                    Some(report) => self.look(report, false),
                    None => return,
                },
                Some(row) = self.rows.recv() => {
                    tokio::time::sleep(GATHER).await;
                    self.show(row);
                }
                _ = letters.tick() => self.count_letters(),
            }
        }
    }

    /// Prints text that is no row, as a paragraph.
    fn say(&mut self, text: &str) {
        let before = if self.last_sink.take().is_some() { "\n" } else { "" };
        print(&format!("{before}{}\n\n", text.trim_end()));
    }

    fn welcome_text(&self) -> String {
        let Style { bold, dim, cyan, off, .. } = *self.style;
        let Welcome { address, broker, pipelines, .. } = &self.welcome;
        let folder = pipelines.display();
        let mut text =
            format!("\n{bold}Millstream demo{off}: all of it in this one process, nothing else is needed.\n\n");
        let mut line = |what: &str, says: String| text.push_str(&format!("  {dim}{what:<9}{off} {says}\n"));
        let moved = if broker.moved { " (the port that was asked for is taken)" } else { "" };
        line("MQTT", format!("an embedded broker at {cyan}{}{off}{moved}", broker.url()));
        let described = self.descriptions();
        let width = described.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
        for (name, description) in described {
            line("pipeline", format!("{bold}{name:<width$}{off}  {description}"));
        }
        for (_, path) in sinks(pipelines, &self.load).sinks.iter().take(3) {
            line("watch", format!("{cyan}http://{address}{path}{off}  in a browser, or with curl -N"));
        }
        line("look", format!("{cyan}http://{address}/v1/pipelines{off} and {cyan}/metrics{off}"));
        let shipped = pipelines.join(format!("{SHIPPED}.yaml"));
        let file = if shipped.is_file() { shipped.display().to_string() } else { format!("{folder}/*.yaml") };
        text.push_str(&format!(
            "\n{bold}Now edit {file}{off}: save it, and the change is live within a second (a changed window starts afresh).\n\
             Break it, and what runs goes on: the mistake is shown here. Ctrl-C stops the demo.\n"
        ));
        text
    }

    /// The pipelines that can be read, with what they say about themselves.
    fn descriptions(&self) -> Vec<(String, String)> {
        let (files, _) = crate::spec::find(std::slice::from_ref(&self.welcome.pipelines));
        let loaded = files.iter().map(|file| crate::spec::load(file, &self.load));
        let described = loaded.map(|loaded| {
            let description = loaded.spec.as_ref().and_then(|spec| spec.description.clone()).unwrap_or_default();
            (loaded.name(), description.lines().next().unwrap_or_default().to_owned())
        });
        described.collect()
    }

    /// Tells what a look at the files came to.
    fn look(&mut self, report: ReloadReport, first: bool) {
        let Style { bold, red, green, yellow, off, .. } = *self.style;
        let mut text = String::new();
        for name in report.started.iter().filter(|_| !first) {
            text.push_str(&format!("{green}✔{off} {bold}{name}{off} is new, and runs.\n"));
        }
        for name in &report.reloaded {
            text.push_str(&format!("{green}✔{off} {bold}{name}{off}: your change is live.\n"));
        }
        for name in &report.stopped {
            text.push_str(&format!("{yellow}■{off} {bold}{name}{off}: its file is gone, so it was stopped.\n"));
        }
        for (name, reason) in &report.refused {
            text.push_str(&format!("{red}✘{off} {bold}{name}{off}: {reason}. What ran before goes on.\n"));
        }
        if report.problems != self.problems {
            let wrong = |problems: &[Located]| problems.iter().any(|problem| problem.severity == Severity::Error);
            if wrong(&report.problems) {
                let others = if first { "The other pipelines run." } else { "What ran before goes on." };
                let shown = render::human(&report.problems, self.colours);
                text.push_str(&format!("{red}✘{off} This cannot run yet. {others}\n\n{shown}"));
            } else if !report.problems.is_empty() {
                text.push_str(&render::human(&report.problems, self.colours));
            }
            if wrong(&self.problems) && !wrong(&report.problems) && report.reloaded.is_empty() {
                text.push_str(&format!("{green}✔{off} The mistake is mended.\n"));
            }
            self.problems = report.problems;
        }
        if !text.is_empty() {
            self.say(&text);
        }
        self.taps.follow(sinks(&self.welcome.pipelines, &self.load));
    }

    /// Shows a row and those that came with it.
    fn show(&mut self, first: Row) {
        let mut waiting: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
        let mut next = Some(first);
        while let Some(row) = next {
            waiting.entry(row.sink).or_default().push(row.text);
            next = self.rows.try_recv().ok();
        }
        let Style { bold, dim, off, .. } = *self.style;
        for (sink, rows) in waiting {
            let fresh = self.last_sink.as_ref() != Some(&sink);
            let before = if fresh && self.last_sink.is_some() { "\n" } else { "" };
            let mut text = if fresh { format!("{before}{bold}{sink}{off}\n") } else { String::new() };
            let more = rows.len().saturating_sub(ROWS_SHOWN_MAX);
            let shown = rows.get(more..).unwrap_or_default();
            text.push_str(&self.tables.entry(sink.clone()).or_default().lines(shown, fresh, self.style));
            if more > 0 {
                text.push_str(&format!("  {dim}… and {more} more rows at the same time{off}\n"));
            }
            print(&text);
            self.last_sink = Some(sink);
        }
    }

    /// Tells of dead letters that have come since the last time.
    fn count_letters(&mut self) {
        let pipelines = self.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let counted: Vec<(String, u64)> =
            pipelines.iter().map(|(name, p)| (name.clone(), p.supervisor.metrics.dead_letters())).collect();
        drop(pipelines);
        let now = Instant::now();
        let mut text = String::new();
        for (name, count) in counted {
            let said = self.letters.get(&name);
            let news = said.map_or(count > 0, |(before, at)| count > *before && now - *at >= LETTERS_SAID_EVERY);
            if news {
                let Style { yellow, off, .. } = *self.style;
                let (rows, place) = (if count == 1 { "row" } else { "rows" }, self.dead_letter_of(&name));
                text.push_str(&format!(
                    "{yellow}✉{off} {name}: {count} {rows} so far could not be used. Nothing is thrown away: see {place}\n"
                ));
                self.letters.insert(name, (count, now));
            }
        }
        if !text.is_empty() {
            self.say(&text);
        }
    }

    /// Where a pipeline's dead letters are.
    fn dead_letter_of(&self, pipeline: &str) -> String {
        let file =
            self.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner).get(pipeline).map(|p| p.file.clone());
        let spec = file.as_ref().and_then(|file| crate::spec::load(file, &self.load).spec);
        match (file, spec.and_then(|spec| spec.dead_letter).map(|letters| letters.connector)) {
            (Some(file), Some(SinkConfig::File(config))) => {
                file.with_file_name("").join(config.path).display().to_string()
            }
            (_, Some(_)) => "its dead letter".to_owned(),
            (_, None) => self.welcome.data_dir.join(pipeline).join("dead-letter.jsonl").display().to_string(),
        }
    }
}
