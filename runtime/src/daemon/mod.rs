//! The daemon: makes what runs equal to what the files say.
//!
//! One event loop ([`Daemon::run`]): the files may have changed, a request came, a signal came, a pipeline ended. Each
//! pipeline has a [`supervisor`] of its own, so that one that is slow to stop holds up no other.

mod api;
pub(crate) mod client;
mod folder;
mod supervisor;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_connectors::routes::Routes;
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;
use crate::plan::Environment;
use crate::spec::{LoadOptions, Located, render};
use folder::{Candidate, Folder};
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
}

/// The daemon.
pub struct Daemon {
    options: Options,
    shared: Arc<Shared>,
    folder: Folder,
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
        let folder = Folder::new(options.paths.clone(), options.load.clone(), environment);
        Ok(Self { options, shared, folder, events, sender, address, observer: None, _lock: lock, _server: server })
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
        let first = self.look().await;
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
                    self.look().await;
                }
                Event::Reload(reply) => {
                    let report = self.look().await;
                    // Whoever asked may have gone away.
                    reply.send(report).ok();
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

    /// Makes what runs equal to what the files say now.
    async fn look(&mut self) -> ReloadReport {
        let known = self.pipelines().iter().map(|(name, p)| (name.clone(), p.hash.clone())).collect();
        let candidates = self.folder.scan(&known, self.options.bounded).await;
        let mut report = ReloadReport::default();
        self.stop_missing(&candidates, &mut report).await;
        for candidate in candidates {
            report.problems.extend(candidate.problems.iter().cloned());
            self.apply(candidate, &mut report).await;
        }
        let mut problems = self.shared.problems.lock().unwrap_or_else(PoisonError::into_inner);
        // A bounded run that cannot start says so itself.
        if !self.options.bounded && !report.problems.is_empty() && *problems != report.problems {
            tracing::warn!("mistakes in the files:\n{}", render::human(&report.problems, false));
        }
        problems.clone_from(&report.problems);
        drop(problems);
        if let Some(observer) = &self.observer
            && observer.try_send(report.clone()).is_err()
        {
            tracing::debug!("whoever observes the looks at the files is too slow, or gone");
        }
        report
    }

    async fn stop_missing(&mut self, candidates: &[Candidate], report: &mut ReloadReport) {
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
            pipeline.supervisor.stop(true).await;
            self.shared.routes.forget(&name);
            self.shared.metrics.reload(&name, "stopped");
            report.stopped.push(name);
        }
    }

    async fn apply(&mut self, candidate: Candidate, report: &mut ReloadReport) {
        let name = candidate.name.clone();
        let plan = match candidate.change {
            folder::Change::None => {
                // A mistake that was undone leaves no other trace.
                if let Some(pipeline) = self.pipelines().get_mut(&name) {
                    pipeline.problems = candidate.problems;
                }
                return;
            }
            folder::Change::Broken => {
                self.shared.metrics.reload(&name, "invalid");
                let mut pipelines = self.pipelines();
                let by_file = pipelines.iter_mut().find(|(known, p)| **known == name || p.file == candidate.file);
                if let Some((known, pipeline)) = by_file {
                    tracing::warn!(pipeline = known, "the file has mistakes: what runs stays as it was");
                    pipeline.problems = candidate.problems;
                }
                return;
            }
            folder::Change::New(plan) => plan,
        };
        let existing = self.pipelines().contains_key(&name);
        if !existing {
            let supervisor = Supervisor::start(
                name.clone(),
                &self.shared.metrics,
                self.options.state_change,
                self.options.bounded,
                self.sender.clone(),
            );
            let pipeline = Pipeline {
                file: candidate.file.clone(),
                hash: String::new(),
                supervisor,
                problems: Vec::new(),
                refused: None,
                reloads: 0,
            };
            self.pipelines().insert(name.clone(), pipeline);
        }
        let Some(handle) = self.pipelines().get(&name).map(|pipeline| pipeline.supervisor.handle()) else { return };
        let result = handle.run(*plan).await;
        let mut pipelines = self.pipelines();
        let Some(pipeline) = pipelines.get_mut(&name) else { return };
        pipeline.file = candidate.file;
        pipeline.problems = candidate.problems;
        // Also a refused change counts as seen: it is not tried again before the files change again.
        pipeline.hash = candidate.hash;
        let (outcome, refused) = match result {
            Ok(()) if existing => ("reloaded", None),
            Ok(()) => ("started", None),
            Err(reason) => ("refused", Some(reason)),
        };
        pipeline.reloads += u64::from(outcome == "reloaded");
        pipeline.refused.clone_from(&refused);
        drop(pipelines);
        self.shared.metrics.reload(&name, outcome);
        match refused {
            Some(reason) => {
                tracing::error!(pipeline = name, reason, "the change is refused: what runs stays as it was");
                report.refused.insert(name, reason);
            }
            None if existing => {
                tracing::info!(pipeline = name, "reloaded");
                report.reloaded.push(name);
            }
            None => {
                tracing::info!(pipeline = name, "started");
                report.started.push(name);
            }
        }
    }

    /// Stops all pipelines, each within its limit, all at the same time.
    async fn stop(self) -> ExitCode {
        let pipelines = std::mem::take(&mut *self.pipelines());
        let failed = pipelines.values().any(|p| p.supervisor.status().state == State::Failed);
        let stops = pipelines.into_values().map(|pipeline| pipeline.supervisor.stop(false));
        let clean = futures::future::join_all(stops).await.into_iter().all(|clean| clean);
        tracing::info!("millstream has stopped");
        if clean && !failed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
