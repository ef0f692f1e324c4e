//! The daemon: makes what runs equal to what the files say.
//!
//! One event loop ([`Daemon::run`]): the files may have changed, a request came, a signal came, a pipeline ended. Each
//! pipeline has a [`supervisor`] of its own, so that one that is slow to stop holds up no other.

mod api;
pub(crate) mod client;
mod folder;
mod supervisor;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_connectors::routes::Routes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::metrics::Metrics;
use crate::plan::Environment;
use crate::redact::SharedSecrets;
use crate::spec::{LoadOptions, Located, render};
use folder::{Candidate, Folder, Known};
use supervisor::{State, Supervisor};

/// What the daemon is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folders and files with pipelines.
    pub paths: Vec<PathBuf>,
    /// How files are loaded.
    pub load: LoadOptions,
    /// Where state is kept.
    pub data_dir: PathBuf,
    /// The address of the HTTP listener; `None` for none.
    pub listen: Option<String>,
    /// Run to the end of bounded inputs and exit.
    pub bounded: bool,
    /// What to do with a change that state does not survive.
    pub state_change: StateChange,
    /// How long files must be quiet before they are read.
    pub settle: Duration,
    /// Look at the files this often too (network file systems tell of no changes).
    pub poll_files: Option<Duration>,
    /// Gathers the secrets of all files, for the log.
    pub secrets: SharedSecrets,
}

/// What to do with a change of a step that its state does not survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateChange {
    /// Keep the old pipeline running and say so; raising the step's `revision` allows it.
    Refuse,
    /// Throw the step's state away.
    Discard,
}

/// What can happen.
enum Event {
    /// Files may have changed.
    Files,
    /// Look at the files now, and tell what came of it.
    Reload(oneshot::Sender<ReloadReport>),
    /// A pipeline has come to the end of its inputs, or (in a bounded run) failed.
    Ended,
    /// End everything.
    Stop,
}

/// What a look at the files came to.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(crate) struct ReloadReport {
    /// Pipelines that were started for the first time.
    pub(crate) started: Vec<String>,
    /// Pipelines that run by a new plan.
    pub(crate) reloaded: Vec<String>,
    /// Pipelines that are gone.
    pub(crate) stopped: Vec<String>,
    /// Pipelines whose change was refused, with the reason.
    pub(crate) refused: BTreeMap<String, String>,
    /// Pipelines that do not run as their files say, because that failed, with the reason.
    pub(crate) failed: BTreeMap<String, String>,
    /// Files with mistakes.
    pub(crate) problems: Vec<Located>,
}

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {0}: {1}")]
    DataDir(PathBuf, std::io::Error),
    /// Another daemon uses it.
    #[error("the data directory {0} is in use by another millstream; give this one another with --data-dir")]
    InUse(PathBuf),
    /// The listener's address cannot be used.
    #[error("cannot listen on {0}: {1}; choose another address with --listen")]
    Listen(String, std::io::Error),
    /// Something else that is needed cannot be made.
    #[error("{0}")]
    Other(String),
}

/// What the API and the daemon both look at.
pub(crate) struct Shared {
    /// By name.
    pub(crate) pipelines: Mutex<BTreeMap<String, Pipeline>>,
    /// Mistakes of the last look at the files.
    pub(crate) problems: Mutex<Vec<Located>>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A pipeline that the daemon knows.
pub(crate) struct Pipeline {
    pub(crate) file: PathBuf,
    /// Says whether its files have changed.
    hash: String,
    pub(crate) supervisor: Supervisor,
    /// Mistakes in its file as it is now; what runs is older then.
    pub(crate) problems: Vec<Located>,
    /// Why the last change was refused.
    pub(crate) refused: Option<String>,
    pub(crate) reloads: u64,
    /// When its last change was done; `None` while one is under way.
    changed: Option<tokio::time::Instant>,
}

/// The daemon.
pub struct Daemon {
    options: Options,
    shared: Arc<Shared>,
    folder: Folder,
    /// Pipelines that are gone from the files and still stopping.
    stopping: HashMap<String, JoinHandle<()>>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    /// The address that the listener really has.
    address: Option<std::net::SocketAddr>,
    /// Who is told what each look at the files came to.
    observer: Option<mpsc::Sender<ReloadReport>>,
    _lock: std::fs::File,
    _server: Option<tokio_util::task::AbortOnDropHandle<()>>,
}

/// Ends a daemon from within the process.
pub(crate) struct Stopper(mpsc::Sender<Event>);

impl Stopper {
    /// Asks it to stop; a daemon that is gone has.
    pub(crate) async fn stop(&self) {
        self.0.send(Event::Stop).await.ok();
    }
}

/// The most events waiting for the loop.
const EVENTS_WAITING_MAX: usize = 64;

impl Daemon {
    /// Opens the data directory and the listener. No pipeline runs yet.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let lock = lock(&options.data_dir)?;
        let metrics = Arc::new(Metrics::new().map_err(|error| StartError::Other(error.to_string()))?);
        let routes = Arc::new(Routes::reserving(["/", "/health", "/metrics", "/v1/*"]));
        let engine = crate::functions::Engine::new(Some(&options.data_dir.join("wasm-cache")));
        let environment = Environment {
            functions: engine.map_err(|error| StartError::Other(error.to_string()))?,
            routes: routes.clone(),
            data_dir: options.data_dir.clone(),
        };
        let shared = Arc::new(Shared { pipelines: Mutex::default(), problems: Mutex::default(), routes, metrics });
        let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let (mut address, mut server) = (None, None);
        if let Some(listen) = &options.listen {
            let (bound, task) = api::serve(listen, shared.clone(), sender.clone()).await?;
            address = Some(bound);
            server = Some(task);
        }
        let folder = Folder::new(options.paths.clone(), options.load.clone(), environment, options.secrets.clone());
        Ok(Self {
            options,
            shared,
            folder,
            stopping: HashMap::new(),
            events,
            sender,
            address,
            observer: None,
            _lock: lock,
            _server: server,
        })
    }

    /// The address of the HTTP listener.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.address
    }

    /// What the API looks at too.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// What each look at the files comes to, from the first on.
    pub(crate) fn observe(&mut self) -> mpsc::Receiver<ReloadReport> {
        let (observer, reports) = mpsc::channel(EVENTS_WAITING_MAX);
        self.observer = Some(observer);
        reports
    }

    /// A way to end it from within the process, as a signal does.
    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Runs until a signal says stop, or, in a bounded run, until all pipelines have ended.
    pub async fn run(mut self) -> ExitCode {
        if let Err(error) = watch::signals(self.sender.clone()) {
            tracing::error!(%error, "cannot listen for signals");
            return ExitCode::FAILURE;
        }
        let first = self.look().await.finish().await;
        if self.options.bounded {
            eprint!("{}", render::human(&first.problems, false));
        }
        if self.options.bounded && !first.problems_are_harmless() {
            return ExitCode::FAILURE;
        }
        let mut watcher = (!self.options.bounded)
            .then(|| watch::Watcher::start(self.sender.clone(), self.options.settle, self.options.poll_files));
        if let Some(watcher) = &mut watcher {
            watcher.follow(&self.folder.watched());
        }
        if let Some(address) = self.address {
            tracing::info!(%address, pipelines = self.names().len(), "millstream is running");
        }
        if self.options.bounded && self.all_ended() {
            return self.stop().await;
        }
        while let Some(event) = self.events.recv().await {
            match event {
                Event::Files => {
                    let changes = self.look().await;
                    tokio::spawn(changes.finish());
                }
                Event::Reload(reply) => {
                    let changes = self.look().await;
                    let shared = self.shared.clone();
                    tokio::spawn(async move {
                        let mut report = changes.finish().await;
                        shared.prove(&mut report).await;
                        // Whoever asked may have gone away.
                        reply.send(report).ok();
                    });
                }
                Event::Ended if self.options.bounded && self.all_ended() => return self.stop().await,
                Event::Ended => continue,
                Event::Stop => return self.stop().await,
            }
            if let Some(watcher) = &mut watcher {
                watcher.follow(&self.folder.watched());
            }
        }
        ExitCode::FAILURE
    }

    fn names(&self) -> Vec<String> {
        self.pipelines().keys().cloned().collect()
    }

    fn pipelines(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Pipeline>> {
        self.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_ended(&self) -> bool {
        self.pipelines().values().all(|p| matches!(p.supervisor.status().state, State::Finished | State::Failed))
    }

    /// Makes what runs equal to what the files say now. What takes time (last barriers, starts) goes on in the
    /// [`Changes`] that are returned, so that the loop stays open for other events.
    async fn look(&mut self) -> Changes {
        let as_known = |p: &Pipeline| Known { file: p.file.clone(), hash: p.hash.clone() };
        let known = self.pipelines().iter().map(|(name, p)| (name.clone(), as_known(p))).collect();
        let candidates = self.folder.scan(&known, self.options.bounded).await;
        let mut changes = Changes::default();
        self.stop_missing(&candidates, &mut changes);
        for candidate in candidates {
            changes.report.problems.extend(candidate.problems.iter().cloned());
            self.apply(candidate, &mut changes);
        }
        let mut problems = self.shared.problems.lock().unwrap_or_else(PoisonError::into_inner);
        // A bounded run that cannot start says so itself.
        if !self.options.bounded && !changes.report.problems.is_empty() && *problems != changes.report.problems {
            tracing::warn!("mistakes in the files:\n{}", render::human(&changes.report.problems, false));
        }
        problems.clone_from(&changes.report.problems);
        drop(problems);
        changes.observer.clone_from(&self.observer);
        changes
    }

    fn stop_missing(&mut self, candidates: &[Candidate], changes: &mut Changes) {
        let missing: Vec<String> = self
            .pipelines()
            .iter()
            .filter(|(name, pipeline)| {
                let there = candidates.iter().any(|c| c.name == **name);
                // A file whose name cannot be read any more still stands for the pipeline that came from it.
                let broken = candidates.iter().any(|c| c.file == pipeline.file && c.change.is_broken());
                !there && !broken
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in missing {
            let Some(pipeline) = self.pipelines().remove(&name) else { continue };
            tracing::info!(pipeline = name, "the file is gone: stopping");
            changes.report.stopped.push(name.clone());
            let shared = self.shared.clone();
            let stopped = name.clone();
            let stopping = tokio::spawn(async move {
                pipeline.supervisor.stop(true).await;
                shared.routes.forget(&stopped);
                shared.metrics.reload(&stopped, "stopped");
                tracing::info!(pipeline = stopped, "stopped");
            });
            self.stopping.insert(name, stopping);
        }
        self.stopping.retain(|_, stopping| !stopping.is_finished());
    }

    fn apply(&mut self, candidate: Candidate, changes: &mut Changes) {
        let name = candidate.name.clone();
        let plan = match candidate.change {
            folder::Change::None => {
                if let Some(pipeline) = self.pipelines().get_mut(&name) {
                    // A mistake that was undone leaves no other trace; a refusal stands until the file changes.
                    pipeline.problems = candidate.problems;
                    // The file may have another name.
                    pipeline.file = candidate.file;
                    if let Some(reason) = &pipeline.refused {
                        changes.report.refused.insert(name, reason.clone());
                    } else if let Some(reason) = pipeline.supervisor.status().rolled_back {
                        changes.report.failed.insert(name, rolled_back(&reason));
                    }
                }
                return;
            }
            folder::Change::Broken | folder::Change::Clash => {
                self.shared.metrics.reload(&name, "invalid");
                // What runs by the name of a clash has nothing to do with this file.
                let its_own = !matches!(candidate.change, folder::Change::Clash);
                let of_it = |known: &str, p: &Pipeline| p.file == candidate.file || its_own && known == name;
                let mut pipelines = self.pipelines();
                if let Some((known, pipeline)) = pipelines.iter_mut().find(|(known, p)| of_it(known, p)) {
                    tracing::warn!(pipeline = known, "the file has mistakes: what runs stays as it was");
                    pipeline.problems = candidate.problems;
                }
                return;
            }
            folder::Change::New(plan) => plan,
        };
        let existing = self.pipelines().contains_key(&name);
        if !existing {
            let (policy, bounded) = (self.options.state_change, self.options.bounded);
            let supervisor = Supervisor::start(
                name.clone(),
                &self.shared.metrics,
                policy,
                bounded,
                self.sender.clone(),
                self.options.secrets.clone(),
            );
            self.pipelines().insert(name.clone(), Pipeline::new(candidate.file.clone(), supervisor));
        }
        let mut pipelines = self.pipelines();
        let Some(pipeline) = pipelines.get_mut(&name) else { return };
        pipeline.file = candidate.file;
        pipeline.problems = candidate.problems;
        // It counts as seen, also if it is refused: it is not tried again before the files change again.
        pipeline.hash = candidate.hash;
        pipeline.changed = None;
        let handle = pipeline.supervisor.handle();
        drop(pipelines);
        // A pipeline of the same name that is still stopping holds the folder of its state.
        let stopping = self.stopping.remove(&name);
        let shared = self.shared.clone();
        changes.outcomes.push(tokio::spawn(async move {
            if let Some(Err(error)) = wait(stopping).await {
                tracing::error!(pipeline = name, %error, "stopping it panicked");
            }
            let result = handle.run(*plan).await;
            shared.changed(name, existing, result)
        }));
    }

    /// Stops all pipelines, each within its limit, all at the same time.
    async fn stop(self) -> ExitCode {
        let pipelines = std::mem::take(&mut *self.pipelines());
        let stopping = futures::future::join_all(self.stopping.into_values());
        let failed = pipelines.values().any(|p| p.supervisor.status().state == State::Failed);
        let stops = pipelines.into_values().map(|pipeline| pipeline.supervisor.stop(false));
        let (clean, _) = tokio::join!(futures::future::join_all(stops), stopping);
        let clean = clean.into_iter().all(|clean| clean);
        tracing::info!("millstream has stopped");
        if clean && !failed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// What a look at the files has set going.
#[derive(Default)]
struct Changes {
    report: ReloadReport,
    outcomes: Vec<JoinHandle<Outcome>>,
    observer: Option<mpsc::Sender<ReloadReport>>,
}

/// What became of a pipeline's change.
enum Outcome {
    Started(String),
    Reloaded(String),
    Refused(String, String),
    Failed(String, String),
}

impl Changes {
    /// Waits until all is done.
    async fn finish(self) -> ReloadReport {
        let mut report = self.report;
        for outcome in self.outcomes {
            match outcome.await {
                Ok(Outcome::Started(name)) => report.started.push(name),
                Ok(Outcome::Reloaded(name)) => report.reloaded.push(name),
                Ok(Outcome::Refused(name, reason)) => {
                    report.refused.insert(name, reason);
                }
                Ok(Outcome::Failed(name, reason)) => {
                    report.failed.insert(name, reason);
                }
                Err(error) => tracing::error!(%error, "a change of a pipeline panicked"),
            }
        }
        if let Some(observer) = &self.observer
            && observer.try_send(report.clone()).is_err()
        {
            tracing::debug!("whoever observes the looks at the files is too slow, or gone");
        }
        report
    }
}

impl Pipeline {
    fn new(file: PathBuf, supervisor: Supervisor) -> Self {
        Self { file, hash: String::new(), supervisor, problems: Vec::new(), refused: None, reloads: 0, changed: None }
    }
}

/// How long a reload that was asked for waits for new runs to show that they work.
const PROOF_MAX: Duration = Duration::from_secs(2);

/// How often it looks.
const PROOF_PERIOD: Duration = Duration::from_millis(20);

/// Why a pipeline does not run as its file says, from its state, if that is so.
fn failure(status: &supervisor::Status) -> Option<String> {
    if let Some(reason) = &status.rolled_back {
        return Some(rolled_back(reason));
    }
    let failed = matches!(status.state, State::Restarting | State::Failed);
    failed.then(|| status.last_error.clone().unwrap_or_else(|| "it failed".into()))
}

fn rolled_back(reason: &str) -> String {
    format!("the new plan failed at once ({reason}); the one before it runs")
}

impl Shared {
    /// Waits until what `report` says was started has failed, or has ended an epoch (for which every sink had to take what
    /// came), for at most [`PROOF_MAX`]. What has failed is moved to `failed`.
    async fn prove(&self, report: &mut ReloadReport) {
        let mut open = self.unproven(report);
        let until = tokio::time::Instant::now() + PROOF_MAX;
        while !open.is_empty() && tokio::time::Instant::now() < until {
            open.retain(|(name, before)| {
                let Some((status, epochs)) = self.progress(name) else { return false };
                let failure = failure(&status);
                let proven = failure.is_none() && (status.state == State::Finished || epochs > *before);
                if let Some(reason) = &failure {
                    report.failed.insert(name.clone(), reason.clone());
                }
                failure.is_none() && !proven
            });
            if !open.is_empty() {
                tokio::time::sleep(PROOF_PERIOD).await;
            }
        }
        report.started.retain(|name| !report.failed.contains_key(name));
        report.reloaded.retain(|name| !report.failed.contains_key(name));
    }

    /// What [`Shared::prove`] waits for, with the epochs that do not count.
    fn unproven(&self, report: &ReloadReport) -> Vec<(String, u64)> {
        let pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = |name: &String, pipeline: &Pipeline| {
            // The change may have been noticed a moment before it was asked for.
            let young = pipeline.changed.is_none_or(|changed| changed.elapsed() < PROOF_MAX);
            let judged = report.refused.contains_key(name) || report.failed.contains_key(name);
            !judged && (young || report.started.contains(name) || report.reloaded.contains(name))
        };
        let unproven = pipelines.iter().filter(|(name, pipeline)| of_it(name, pipeline));
        let before = |name: &String, pipeline: &Pipeline| match report.started.contains(name) {
            true => 0,
            false => pipeline.supervisor.metrics.epochs.get(),
        };
        unproven.map(|(name, pipeline)| (name.clone(), before(name, pipeline))).collect()
    }

    /// A pipeline's state and how many epochs it has ended.
    fn progress(&self, name: &str) -> Option<(supervisor::Status, u64)> {
        let pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        pipelines.get(name).map(|pipeline| (pipeline.supervisor.status(), pipeline.supervisor.metrics.epochs.get()))
    }

    /// Notes and says what became of a pipeline's change.
    fn changed(&self, name: String, existing: bool, result: Result<(), String>) -> Outcome {
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = pipelines.get(&name).and_then(|pipeline| failure(&pipeline.supervisor.status()));
        let outcome = match (result, failure) {
            (Err(reason), _) => Outcome::Refused(name.clone(), reason),
            (Ok(()), Some(reason)) => Outcome::Failed(name.clone(), reason),
            (Ok(()), None) if existing => Outcome::Reloaded(name.clone()),
            (Ok(()), None) => Outcome::Started(name.clone()),
        };
        if let Some(pipeline) = pipelines.get_mut(&name) {
            pipeline.changed = Some(tokio::time::Instant::now());
            pipeline.reloads += u64::from(existing && !matches!(outcome, Outcome::Refused(..)));
            pipeline.refused = match &outcome {
                Outcome::Refused(_, reason) => Some(reason.clone()),
                _ => None,
            };
        }
        drop(pipelines);
        let counted = match &outcome {
            Outcome::Started(_) => {
                tracing::info!(pipeline = name, "started");
                "started"
            }
            Outcome::Reloaded(_) => {
                tracing::info!(pipeline = name, "reloaded");
                "reloaded"
            }
            Outcome::Refused(_, reason) => {
                tracing::error!(pipeline = name, reason, "the change is refused: what runs stays as it was");
                "refused"
            }
            // The supervisor has said so.
            Outcome::Failed(..) => "failed",
        };
        self.metrics.reload(&name, counted);
        outcome
    }
}

/// Waits for a task, if there is one.
async fn wait(task: Option<JoinHandle<()>>) -> Option<Result<(), tokio::task::JoinError>> {
    match task {
        Some(task) => Some(task.await),
        None => None,
    }
}

impl ReloadReport {
    fn problems_are_harmless(&self) -> bool {
        let error = |problem: &Located| problem.severity == crate::spec::problem::Severity::Error;
        !self.problems.iter().any(error) && self.refused.is_empty()
    }
}

/// Takes the data directory for this process alone.
fn lock(data_dir: &std::path::Path) -> Result<std::fs::File, StartError> {
    let failed = |error| StartError::DataDir(data_dir.to_owned(), error);
    std::fs::create_dir_all(data_dir).map_err(failed)?;
    let file = std::fs::File::create(data_dir.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(data_dir.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}
