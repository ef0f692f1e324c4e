//! Keeps one pipeline running: starts it, restarts it with back-off, replaces its plan, stops it within a limit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_connectors::ErrorKind;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Event, StateChange};
use crate::engine::coordinator::Outcome;
use crate::engine::error::RunError;
use crate::engine::ingestor::Ingestors;
use crate::engine::pipeline::{self, Running};
use crate::engine::snapshot::SnapshotStore;
use crate::metrics::{Metrics, PipelineMetrics};
use crate::plan::Plan;
use crate::redact::SharedSecrets;

/// What a pipeline is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Not yet.
    Starting,
    /// It runs.
    Running,
    /// It failed and waits for its next try.
    Restarting,
    /// Its inputs came to their end.
    Finished,
    /// It failed, and is not tried again (a bounded run).
    Failed,
    /// It was stopped.
    Stopped,
}

/// What is known of a pipeline's run.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// Since when, RFC 3339.
    pub(crate) since: String,
    pub(crate) restarts: u64,
    pub(crate) last_error: Option<String>,
    /// Why the plan that was loaded last is not the one that runs: it failed at once, and the one before it was started
    /// again.
    pub(crate) rolled_back: Option<String>,
}

enum Command {
    Run(Box<Plan>, oneshot::Sender<Result<(), String>>),
    Stop { forget: bool, reply: oneshot::Sender<bool> },
}

/// The daemon's side of a supervisor.
pub(crate) struct Supervisor {
    handle: Handle,
    status: Arc<Mutex<Status>>,
    pub(crate) metrics: Arc<PipelineMetrics>,
}

/// A way to command a supervisor.
#[derive(Clone)]
pub(crate) struct Handle(mpsc::Sender<Command>);

impl Handle {
    /// Runs `plan` in place of what runs. The error says why what ran before runs on.
    pub(crate) async fn run(&self, plan: Plan) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the pipeline's supervisor is gone".to_owned();
        self.0.send(Command::Run(Box::new(plan), reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Supervisor {
    /// A supervisor without a plan.
    pub(super) fn start(
        name: String,
        metrics: &Arc<Metrics>,
        state_change: StateChange,
        bounded: bool,
        events: mpsc::Sender<Event>,
        secrets: SharedSecrets,
    ) -> Self {
        let metrics = metrics.pipeline(&name);
        let status = Arc::new(Mutex::new(Status {
            state: State::Starting,
            since: chrono::Utc::now().to_rfc3339(),
            restarts: 0,
            last_error: None,
            rolled_back: None,
        }));
        let (sender, commands) = mpsc::channel(4);
        let actor = Actor {
            name,
            plan: None,
            previous: None,
            running: None,
            ingestors: Ingestors::new(),
            metrics: metrics.clone(),
            status: status.clone(),
            state_change,
            bounded,
            events,
            secrets,
            failures: 0,
            restart_at: None,
        };
        tokio::spawn(actor.run(commands));
        Self { handle: Handle(sender), status, metrics }
    }

    /// A way to command it.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What is known of the run.
    pub(crate) fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the pipeline; true where its last snapshot was published. `forget` removes its metrics.
    pub(crate) async fn stop(self, forget: bool) -> bool {
        let (reply, answer) = oneshot::channel();
        if self.handle.0.send(Command::Stop { forget, reply }).await.is_err() {
            return false;
        }
        answer.await.unwrap_or(false)
    }
}

struct Run {
    running: Running,
    since: Instant,
}

struct Actor {
    name: String,
    plan: Option<Box<Plan>>,
    /// The plan before, while the new one has still to show that it works.
    previous: Option<Box<Plan>>,
    running: Option<Run>,
    ingestors: Ingestors,
    metrics: Arc<PipelineMetrics>,
    status: Arc<Mutex<Status>>,
    state_change: StateChange,
    bounded: bool,
    events: mpsc::Sender<Event>,
    secrets: SharedSecrets,
    failures: u32,
    restart_at: Option<Instant>,
}

/// So long after a reload a plan is on probation: a failure that a restart will not mend brings back the plan before.
const PROBATION: Duration = Duration::from_secs(10);

/// How much longer than its own limit a stop may take before its tasks are dropped.
const STOP_GRACE: Duration = Duration::from_secs(1);

impl Actor {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Run(plan, reply)) => {
                        let result = self.replace(plan).await;
                        // The daemon waits for it, or is gone.
                        reply.send(result).ok();
                    }
                    Some(Command::Stop { forget, reply }) => {
                        let clean = self.stop().await;
                        for (_, ingestor) in self.ingestors.drain() {
                            ingestor.stop().await;
                        }
                        if forget {
                            self.metrics.remove();
                        }
                        self.set(State::Stopped, None);
                        reply.send(clean).ok();
                        return;
                    }
                    None => return,
                },
                result = ended(&mut self.running) => self.ended(result).await,
                () = crate::engine::sink_task::sleep_until(self.restart_at) => self.restart().await,
            }
        }
    }

    fn set(&self, state: State, error: Option<String>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.state != state {
            status.since = chrono::Utc::now().to_rfc3339();
        }
        status.state = state;
        if let Some(error) = error {
            status.last_error = Some(self.secrets.redact(&error));
        }
    }

    /// Replaces the plan. The new one is built already; what it would lose is looked at before anything is stopped.
    async fn replace(&mut self, plan: Box<Plan>) -> Result<(), String> {
        if self.state_change == StateChange::Refuse {
            self.check_state(&plan)?;
        }
        self.stop().await;
        let old = self.plan.replace(plan);
        self.restart_at = None;
        self.failures = 0;
        self.status.lock().unwrap_or_else(PoisonError::into_inner).rolled_back = None;
        match self.begin().await {
            Ok(()) => {
                self.previous = old;
                Ok(())
            }
            Err(error) => match old {
                Some(old) => {
                    self.plan = Some(old);
                    self.restart().await;
                    Err(format!("it cannot be started ({error}); the plan before it was started again"))
                }
                None => {
                    self.failed(&error);
                    Ok(())
                }
            },
        }
    }

    /// The state that `plan` would throw away, if any.
    fn check_state(&self, plan: &Plan) -> Result<(), String> {
        let kept: BTreeMap<String, String> = match &self.plan {
            Some(old) => old.fingerprints(),
            None => {
                let store =
                    SnapshotStore::open(&plan.data_dir.join("checkpoints")).map_err(|error| error.to_string())?;
                let newest = store.newest().map_err(|error| error.to_string())?;
                newest.map(|snapshot| snapshot.fingerprints).unwrap_or_default()
            }
        };
        let new = plan.fingerprints();
        let changed = kept.iter().filter(|(node, old)| new.get(*node) != Some(*old));
        let lost: Vec<String> = changed
            .filter(|(node, old)| {
                // A raised revision says that the loss is meant.
                let revision = |fingerprint: &str| {
                    fingerprint.rsplit_once('/').and_then(|(_, revision)| revision.parse::<u32>().ok()).unwrap_or(0)
                };
                let step = node.split('/').next().unwrap_or_default();
                let now = plan.spec.steps.get(step).map_or(0, |step| step.revision);
                now <= revision(old)
            })
            .map(|(node, _)| node.split('/').next().unwrap_or_default().to_owned())
            .collect();
        match lost.first() {
            None => Ok(()),
            Some(step) if plan.spec.steps.contains_key(step) => Err(format!(
                "the step `{step}` keeps state (open windows) that does not fit its new SQL, or the new event_time of what \
                 it reads. To throw that state away, raise its `revision:`; to keep it, undo the change"
            )),
            Some(step) => Err(format!(
                "the step `{step}` is gone, and with it its state (open windows). To throw that away, start millstream \
                 with --state-change discard"
            )),
        }
    }

    async fn begin(&mut self) -> Result<(), RunError> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let running = pipeline::start(plan, &mut self.ingestors, &self.metrics).await?;
        self.running = Some(Run { running, since: Instant::now() });
        self.set(State::Running, None);
        Ok(())
    }

    async fn restart(&mut self) {
        self.restart_at = None;
        if let Err(error) = self.begin().await {
            self.failed(&error);
        }
    }

    async fn ended(&mut self, result: Result<Outcome, RunError>) {
        let since = self.running.take().map(|run| run.since);
        let healthy = self.plan.as_ref().map_or(Duration::MAX, |plan| plan.spec.restart.healthy_after.0);
        if since.is_some_and(|since| since.elapsed() >= healthy) {
            self.failures = 0;
        }
        match result {
            Ok(Outcome::Finished) => {
                self.sum_up();
                if self.bounded
                    && let Some(plan) = &self.plan
                    && let Err(error) =
                        SnapshotStore::open(&plan.data_dir.join("checkpoints")).and_then(|store| store.clear())
                {
                    tracing::warn!(pipeline = self.name, %error, "cannot clear the state of the finished run");
                }
                self.set(State::Finished, None);
                self.events.send(Event::Ended).await.ok();
            }
            Ok(Outcome::Stopped) => self.set(State::Stopped, None),
            Err(error) if self.is_rolled_back(since, &error) => self.restart().await,
            Err(error) => {
                self.failed(&error);
                if self.bounded {
                    self.events.send(Event::Ended).await.ok();
                }
            }
        }
    }

    /// Says what became of the rows of a run that is over; loudly where not all of them came through.
    fn sum_up(&self) {
        let Some(plan) = &self.plan else { return };
        let (sources, sinks) = self.metrics.row_counts();
        let (rows_in, rows_out) = (sources.values().sum::<u64>(), sinks.values().sum::<u64>());
        let (all_late, dead_letters) = (self.metrics.late_rows(), self.metrics.dead_letters());
        let late: u64 = all_late.values().sum();
        let is_dropped = |operator: &str| {
            let step = operator.split('/').next().unwrap_or_default();
            plan.routes.get(step).is_some_and(|routes| routes.late.to == "drop")
        };
        let dropped: u64 = all_late.iter().filter(|(operator, _)| is_dropped(operator)).map(|(_, rows)| rows).sum();
        let place = (dead_letters > 0).then(|| plan.dead_letter.place());
        let dead_letters_in = place.as_deref();
        let pipeline = self.name.as_str();
        // The level of a line cannot be chosen while running.
        macro_rules! say {
            ($level:ident) => {
                tracing::$level!(
                    pipeline,
                    rows_in,
                    rows_out,
                    late,
                    dropped,
                    dead_letters,
                    dead_letters_in,
                    "finished: the inputs are at their end"
                )
            };
        }
        if dead_letters > 0 || dropped > 0 { say!(warn) } else { say!(info) }
    }

    /// A new plan that fails at once, and not for want of the outside world, gives way to the one before it.
    fn is_rolled_back(&mut self, since: Option<Instant>, error: &RunError) -> bool {
        let at_once = since.is_some_and(|since| since.elapsed() < PROBATION);
        let Some(previous) = self.previous.take().filter(|_| at_once && error.kind != ErrorKind::Retry) else {
            return false;
        };
        tracing::error!(pipeline = self.name, %error, "the new plan failed at once: the one before it is started again");
        self.plan = Some(previous);
        let reason = self.secrets.redact(&error.to_string());
        self.status.lock().unwrap_or_else(PoisonError::into_inner).rolled_back = Some(reason);
        true
    }

    /// Says why, and plans the next try.
    fn failed(&mut self, error: &RunError) {
        let Some(plan) = &self.plan else { return };
        if self.bounded {
            tracing::error!(pipeline = self.name, %error, "failed");
            self.restart_at = None;
            self.set(State::Failed, Some(error.to_string()));
            return;
        }
        let policy = &plan.spec.restart;
        let pause = policy.initial.0.saturating_mul(2_u32.saturating_pow(self.failures.min(20))).min(policy.max.0);
        self.failures += 1;
        tracing::error!(pipeline = self.name, %error, pause = ?pause, "failed; it will be started again");
        self.metrics.restarts.inc();
        self.status.lock().unwrap_or_else(PoisonError::into_inner).restarts += 1;
        self.set(State::Restarting, Some(error.to_string()));
        self.restart_at = Some(Instant::now() + pause);
    }

    /// Stops what runs; true where its last snapshot was published.
    async fn stop(&mut self) -> bool {
        self.restart_at = None;
        let Some(run) = self.running.take() else { return true };
        let limit = self.plan.as_ref().map_or(STOP_GRACE, |plan| plan.stop_timeout());
        run.running.stop();
        let done = AbortOnDropHandle::new(run.running.done);
        match tokio::time::timeout(limit + STOP_GRACE, done).await {
            Ok(Ok(Ok(_))) => true,
            Ok(Ok(Err(error))) => {
                tracing::warn!(pipeline = self.name, %error, "stopped with an error; it goes on from the last snapshot");
                false
            }
            Ok(Err(error)) => {
                tracing::error!(pipeline = self.name, %error, "the run panicked while it was stopped");
                false
            }
            Err(_) => {
                tracing::warn!(
                    pipeline = self.name,
                    limit = ?limit,
                    "did not stop in time; dropped, and it goes on from the last snapshot"
                );
                false
            }
        }
    }
}

/// How what runs has ended; never, where nothing runs.
async fn ended(run: &mut Option<Run>) -> Result<Outcome, RunError> {
    match run {
        Some(run) => match (&mut run.running.done).await {
            Ok(result) => result,
            Err(error) => Err(RunError::fatal("pipeline", format!("it panicked: {error}"))),
        },
        None => std::future::pending().await,
    }
}
