//! Whole pipelines in this process: real tasks, channels, watermarks and snapshots between sources that hand out what
//! is in memory and sinks that only count.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{BinaryArray, RecordBatch, new_null_array};
use arrow::datatypes::Field;
use async_trait::async_trait;
use millstream_connectors::batch::{MessageBatch, RowBatch};
use millstream_connectors::routes::Routes;
use millstream_connectors::sink::Flushed;
use millstream_connectors::{BuiltSource, ConnectorError, Positions, Rejected, Sink, Source, SourceEvent};
use tokio::sync::watch;

use crate::engine::connect::Connectors;
use crate::engine::coordinator::Outcome;
use crate::engine::ingestor::Ingestors;
use crate::engine::pipeline;
use crate::functions::Engine;
use crate::metrics::Metrics;
use crate::plan::{DeadLetterPlan, Environment, Plan, SinkPlan, SourcePlan};
use crate::spec::{LoadOptions, load};

/// What a source hands out at once.
#[derive(Debug, Clone)]
pub enum Feed {
    /// Rows of all declared columns.
    Rows(RecordBatch),
    /// Messages, which are decoded.
    Messages(BinaryArray),
}

/// The batches of one source, each with its turn: over all sources batches are handed out in the order of turns.
pub type Feeds = BTreeMap<String, Vec<(u64, Feed)>>;

/// What a run has given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Rows that came to sinks.
    pub rows: u64,
    /// Letters in the dead letter.
    pub letters: u64,
}

/// A pipeline that is planned, with what its sources will hand out in the columns that it reads.
pub struct Whole {
    plan: Plan,
    feeds: BTreeMap<String, Vec<(u64, Feed)>>,
    _folder: tempfile::TempDir,
}

impl Whole {
    /// Plans the pipeline in `file`, which asks the environment for the variables `env`, with so many shards.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub async fn plan(
        file: &Path,
        env: BTreeMap<String, String>,
        parallelism: u16,
        feeds: &Feeds,
    ) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let options = LoadOptions { env: Arc::new(move |name: &str| env.get(name).cloned()), ..LoadOptions::default() };
        let loaded = load(file, &options);
        let mut spec = loaded.spec.ok_or_else(|| format!("{:?}", loaded.problems))?;
        spec.limits.parallelism = parallelism;
        let environment = Environment {
            functions: Engine::new(None).map_err(|error| error.to_string())?,
            routes: Arc::new(Routes::default()),
            data_dir: folder.path().to_owned(),
        };
        let (plan, problems) = Box::pin(Plan::build(file, &spec, &environment)).await;
        let plan = plan.ok_or_else(|| format!("{problems:?}"))?;
        let mut read = BTreeMap::new();
        for source in &plan.sources {
            let feed = feeds.get(&source.name).ok_or_else(|| format!("nothing to feed the source {}", source.name))?;
            let feed = feed.iter().map(|(turn, feed)| match feed {
                Feed::Rows(rows) => Ok((*turn, Feed::Rows(narrowed(rows, source)?))),
                Feed::Messages(_) => Ok((*turn, feed.clone())),
            });
            read.insert(source.name.clone(), feed.collect::<Result<Vec<_>, String>>()?);
        }
        Ok(Self { plan, feeds: read, _folder: folder })
    }

    /// How many rows or messages its sources hand out.
    pub fn rows(&self) -> u64 {
        let rows = |feed: &Feed| match feed {
            Feed::Rows(rows) => rows.num_rows() as u64,
            Feed::Messages(messages) => arrow::array::Array::len(messages) as u64,
        };
        self.feeds.values().flatten().map(|(_, feed)| rows(feed)).sum()
    }

    /// Runs it to the end of its sources.
    ///
    /// # Errors
    /// Why the run failed.
    pub async fn run(&self) -> Result<Given, String> {
        let doubles = Doubles { whole: self, turns: Turns::of(&self.feeds), counts: Arc::default() };
        let metrics = Arc::new(Metrics::new().map_err(|error| error.to_string())?).pipeline(&self.plan.name);
        let running = pipeline::start_with(&self.plan, &doubles, &mut Ingestors::new(), &metrics).await;
        let outcome = running.map_err(|error| error.to_string())?.done.await.map_err(|error| error.to_string())?;
        match outcome.map_err(|error| error.to_string())? {
            Outcome::Finished => {}
            Outcome::Stopped => return Err("the run was stopped".into()),
        }
        std::fs::remove_dir_all(&self.plan.data_dir).map_err(|error| error.to_string())?;
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Ok(Given { rows: count(&doubles.counts.rows), letters: count(&doubles.counts.letters) })
    }
}

/// Rows as the source `plan` delivers them: the columns that it reads, and nulls in the place of messages.
pub(super) fn narrowed(rows: &RecordBatch, plan: &SourcePlan) -> Result<RecordBatch, String> {
    let column = |field: &Arc<Field>| match rows.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None => new_null_array(field.data_type(), rows.num_rows()),
    };
    let rows = RecordBatch::try_new(plan.schema.clone(), plan.schema.fields().iter().map(column).collect());
    rows.map_err(|error| format!("source {}: {error}", plan.name))
}

/// Whose turn it is to hand out a batch.
#[derive(Clone)]
struct Turns {
    /// Who has which turn, by the order in which they come.
    order: Arc<Vec<(u64, String)>>,
    /// How many have been taken.
    taken: Arc<watch::Sender<usize>>,
}

impl Turns {
    fn of(feeds: &BTreeMap<String, Vec<(u64, Feed)>>) -> Self {
        let turns = feeds.iter().flat_map(|(name, feed)| feed.iter().map(|(turn, _)| (*turn, name.clone())));
        let mut order: Vec<(u64, String)> = turns.collect();
        order.sort();
        Self { order: Arc::new(order), taken: Arc::new(watch::Sender::new(0)) }
    }

    /// Waits until it is the turn of `name`.
    async fn wait(&self, name: &str) {
        let mut taken = self.taken.subscribe();
        // The sender is there as long as `self` is.
        drop(taken.wait_for(|taken| self.order.get(*taken).is_none_or(|(_, next)| next == name)).await);
    }
}

struct MemorySource {
    name: String,
    feed: Arc<Mutex<std::vec::IntoIter<(u64, Feed)>>>,
    turns: Turns,
    position: u64,
    announced: bool,
}

#[async_trait]
impl Source for MemorySource {
    async fn open(&mut self, _: &Positions) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent, ConnectorError> {
        let partition: Arc<str> = "0".into();
        if !std::mem::replace(&mut self.announced, true) {
            return Ok(SourceEvent::Partitions(vec![partition]));
        }
        let left = self.feed.lock().unwrap_or_else(PoisonError::into_inner).len();
        if left == 0 {
            return Ok(SourceEvent::End);
        }
        self.turns.wait(&self.name).await;
        let Some((_, feed)) = self.feed.lock().unwrap_or_else(PoisonError::into_inner).next() else {
            return Ok(SourceEvent::End);
        };
        self.turns.taken.send_modify(|taken| *taken += 1);
        self.position += 1;
        let next_position = self.position;
        Ok(match feed {
            Feed::Rows(rows) => SourceEvent::Rows(RowBatch { partition, rows, next_position }),
            Feed::Messages(payloads) => {
                SourceEvent::Messages(MessageBatch { partition, payloads, metadata: vec![], next_position })
            }
        })
    }

    async fn commit(&mut self, _: &Positions) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

#[derive(Default)]
struct Counts {
    rows: AtomicU64,
    letters: AtomicU64,
}

struct CountingSink {
    counts: Arc<Counts>,
    letters: bool,
}

#[async_trait]
impl Sink for CountingSink {
    async fn open(&mut self, _: Option<&[u8]>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Rejected>, ConnectorError> {
        let count = if self.letters { &self.counts.letters } else { &self.counts.rows };
        count.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        Ok(vec![])
    }

    async fn flush(&mut self) -> Result<Flushed, ConnectorError> {
        Ok(Flushed::default())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

struct Doubles<'a> {
    whole: &'a Whole,
    turns: Turns,
    counts: Arc<Counts>,
}

impl Connectors for Doubles<'_> {
    fn source(&self, plan: &SourcePlan) -> Result<BuiltSource, ConnectorError> {
        let feed = self.whole.feeds.get(&plan.name).cloned().unwrap_or_default();
        Ok(BuiltSource::Replayable(Box::new(MemorySource {
            name: plan.name.clone(),
            feed: Arc::new(Mutex::new(feed.into_iter())),
            turns: self.turns.clone(),
            position: 0,
            announced: false,
        })))
    }

    fn sink(&self, _: &SinkPlan) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(CountingSink { counts: self.counts.clone(), letters: false }))
    }

    fn dead_letter(&self, _: &DeadLetterPlan) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(CountingSink { counts: self.counts.clone(), letters: true }))
    }
}
