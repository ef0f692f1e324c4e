//! The ingest logs of a pipeline's sources that cannot replay, with the connectors that fill them.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_connectors::ingest::IngestLog;
use millstream_connectors::{BuiltSource, ConnectorError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::error::RunError;
use crate::plan::{Plan, SourcePlan};

/// The ingest log of a source that cannot replay, and the connector that fills it. Belongs to the daemon: it outlives
/// the runs of its pipeline and a reload that does not change its source.
pub(crate) struct Ingestor {
    /// What it was built from.
    pub(crate) fingerprint: String,
    pub(crate) log: Arc<IngestLog>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    /// Set when the connector fails.
    pub(crate) failure: watch::Receiver<Option<RunError>>,
}

/// The ingestors of a pipeline, by source.
pub(crate) type Ingestors = HashMap<String, Ingestor>;

impl Ingestor {
    /// Opens the log and starts the connector.
    async fn start(plan: &Plan, source: &SourcePlan) -> Result<Self, RunError> {
        let component = format!("source {}", source.name);
        let failed = |error: ConnectorError| RunError::connector(&component, &error);
        let Some(config) = &source.ingest else {
            return Err(RunError::fatal(&component, "the source has no ingest log"));
        };
        let folder = plan.data_dir.join("ingest").join(format!("{}.{}", source.name, source.connector));
        let config = config.clone();
        // Recovery reads the last segment.
        let opened = tokio::task::spawn_blocking(move || IngestLog::open(&folder, &config)).await;
        let log = opened.map_err(|error| RunError::fatal(&component, error))?.map_err(failed)?;
        let BuiltSource::Push(mut connector) = source.build().map_err(failed)? else {
            return Err(RunError::fatal(&component, "the connector replays by itself and needs no ingest log"));
        };
        let (stop, writer) = (CancellationToken::new(), log.writer());
        let stopped = stop.clone();
        let (failed, failure) = watch::channel(None);
        let task = tokio::spawn(async move {
            if let Err(error) = connector.run(writer, stopped).await {
                tracing::warn!(component, %error, "the source ended");
                failed.send_replace(Some(RunError::connector(component, &error)));
            }
        });
        Ok(Self { fingerprint: Self::fingerprint(source), log, stop, task, failure })
    }

    /// What an ingestor depends on: the connector's options, not the SQL behind it.
    fn fingerprint(source: &SourcePlan) -> String {
        format!("{:?}", source.config)
    }

    /// Lets the connector finish what it has begun, and closes the log.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a source panicked");
        }
        // The last handle syncs and closes the files.
        let log = self.log;
        tokio::task::spawn_blocking(move || drop(log)).await.ok();
    }
}

/// Keeps the ingestors whose source did not change, stops the others, starts what is missing.
pub(crate) async fn start_ingestors(plan: &Plan, ingestors: &mut Ingestors) -> Result<(), RunError> {
    let wanted = |name: &str| plan.sources.iter().find(|source| source.name == name && source.ingest.is_some());
    let gone: Vec<String> = ingestors
        .iter()
        .filter(|(name, ingestor)| {
            let unchanged = wanted(name).is_some_and(|source| Ingestor::fingerprint(source) == ingestor.fingerprint);
            !unchanged || ingestor.task.is_finished()
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in gone {
        if let Some(ingestor) = ingestors.remove(&name) {
            ingestor.stop().await;
        }
    }
    for source in plan.sources.iter().filter(|source| source.ingest.is_some()) {
        if !ingestors.contains_key(&source.name) {
            ingestors.insert(source.name.clone(), Ingestor::start(plan, source).await?);
        }
    }
    Ok(())
}
