//! The ingest log: what makes a source that cannot replay (MQTT, HTTP) replayable.
//!
//! A [`crate::PushSource`] appends messages through an [`IngestWriter`] and acknowledges its client when the append is
//! durable. The pipeline reads them back through [`IngestLog::reader`], a [`crate::Source`] whose position is the
//! sequence number of the next message. Log and writer belong to the daemon and outlive a reload.
//!
//! What is promised:
//!
//! * A message whose [`Durable`] has resolved survives the death of the process and the loss of power (not of the disk).
//! * An append of several messages is there as a whole or not at all.
//! * Sequence numbers never go back, over restarts and deletions.
//! * A commit that the machine's death tore is cut off, with a warning; no part of it had been acknowledged. Anything
//!   else that is not as it was written stops the pipeline, with the file and the byte.
//! * After an error of `fdatasync` the log takes nothing more ([`IngestError::Failed`]). A full disk only pauses it.
//! * Only one daemon has the log open.
//!
//! What it does not do: it keeps no cursor (the pipeline's snapshot has it) and no copy on another machine.
//!
//! With `durable: false` the same surface keeps everything in memory and appends are done at once. Its partition has
//! another name ([`MEMORY_PARTITION`]), so that a position of one kind is never taken for one of the other.

mod batch;
mod codec;
mod columns;
mod message;
mod reader;
mod recovery;
mod segment;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use batch::IngestBatch;
pub use message::{Durable, FieldRef, IngestError, IngestMessage, MetadataValue};

use self::batch::Content;
use self::segment::{Disk, RealDisk};
use self::shared::{Segment, Shared};
use self::writer::Writer;
use crate::error::ConnectorError;
use crate::source::{MetadataField, Source};
use crate::units::{ByteSize, Duration};

/// The name of the one partition of a log on disk.
pub const PARTITION: &str = "log";
/// The name of the one partition of a log in memory. Its sequence numbers begin at the time it was opened, so they go
/// forward over restarts as well.
pub const MEMORY_PARTITION: &str = "memory";

/// The smallest `max_bytes`.
const MAX_BYTES_MIN: ByteSize = ByteSize(64 << 10);
/// The smallest and the largest `segment_bytes`.
const SEGMENT_BYTES: (ByteSize, ByteSize) = (ByteSize(4 << 10), ByteSize(1 << 30));
/// The longest `commit_interval`.
const COMMIT_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// The smallest and the largest `commit_bytes`.
const COMMIT_BYTES: (ByteSize, ByteSize) = (ByteSize(1), ByteSize(64 << 20));

/// The ingest log of a source that cannot replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// Write messages to disk before they are acknowledged. `false` prefers latency: what is in memory is lost when the
    /// daemon dies.
    pub durable: bool,
    /// Reading pauses (MQTT) or is refused (HTTP 503) while the log holds more than this. At least 64KiB.
    pub max_bytes: ByteSize,
    /// A segment file is closed at this size; whole segments are deleted once the pipeline is past them. 4KiB to 1GiB,
    /// and not more than `max_bytes`.
    pub segment_bytes: ByteSize,
    /// Appends of so long share one fdatasync. At most 1s.
    pub commit_interval: Duration,
    /// Appends of so many bytes do not wait any longer for the commit interval. At most 64MiB.
    pub commit_bytes: ByteSize,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            durable: true,
            max_bytes: ByteSize(1 << 30),
            segment_bytes: ByteSize::mib(64),
            commit_interval: Duration::from_millis(1),
            commit_bytes: ByteSize::mib(1),
        }
    }
}

impl IngestConfig {
    /// Refuses values out of range; `option` is the path of these options below the connector.
    pub fn check(&self, option: &str) -> Result<(), ConnectorError> {
        let refuse = |name: &str, rule: String| Err(ConnectorError::configuration(format!("{option}.{name}"), rule));
        if self.max_bytes < MAX_BYTES_MIN {
            return refuse("max_bytes", format!("{} is too small; write {MAX_BYTES_MIN} or more", self.max_bytes));
        }
        let (min, max) = SEGMENT_BYTES;
        if !(min..=max).contains(&self.segment_bytes) {
            return refuse("segment_bytes", format!("{} is not between {min} and {max}", self.segment_bytes));
        }
        if self.segment_bytes > self.max_bytes {
            let rule = format!("{} is more than max_bytes ({})", self.segment_bytes, self.max_bytes);
            return refuse("segment_bytes", rule);
        }
        if self.commit_interval > COMMIT_INTERVAL_MAX {
            let rule = format!("{} is too long; write {COMMIT_INTERVAL_MAX} or less", self.commit_interval);
            return refuse("commit_interval", rule);
        }
        let (min, max) = COMMIT_BYTES;
        if !(min..=max).contains(&self.commit_bytes) {
            return refuse("commit_bytes", format!("{} is not between {min} and {max}", self.commit_bytes));
        }
        Ok(())
    }
}

/// An open log. Dropping the last handle (readers and writers hold one each) commits what waits and closes it.
pub struct IngestLog {
    shared: Arc<Shared>,
    folder: PathBuf,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held while the log is open, so that no second daemon opens it.
    lock: Option<File>,
}

/// What a reader delivers.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// The metadata fields to deliver, in this order.
    pub fields: Vec<MetadataField>,
    /// At most so many messages in a batch.
    pub batch_rows_max: usize,
    /// At most so many payload bytes in a batch (one larger message is a batch of its own).
    pub batch_bytes_max: usize,
}

/// How full a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestStats {
    /// The bytes it holds on disk (in memory with `durable: false`).
    pub bytes: u64,
    /// Its segment files.
    pub segments: usize,
    /// The first message that can still be read.
    pub first_sequence: u64,
    /// The number that the next message gets. The messages waiting are those from the pipeline's position to here.
    pub next_sequence: u64,
    /// Whether it takes nothing at the moment.
    pub full: bool,
}

impl IngestLog {
    /// Recovers the log in `folder`, which is made where it is missing, and starts its writer thread. With
    /// `durable: false` nothing is read or written. Blocks on the disk.
    pub fn open(folder: &Path, config: &IngestConfig) -> Result<Arc<Self>, ConnectorError> {
        Self::open_on(folder, config, Arc::new(RealDisk))
    }

    fn open_on(folder: &Path, config: &IngestConfig, disk: Arc<dyn Disk>) -> Result<Arc<Self>, ConnectorError> {
        config.check("ingest")?;
        if !config.durable {
            return Ok(Self::in_memory(folder, config));
        }
        let failed = |error: std::io::Error| {
            ConnectorError::retry(format!("the ingest log {} cannot be opened: {error}", folder.display()))
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = lock(folder)?;
        let recovered = recovery::recover(folder, disk.as_ref())?;
        let segments =
            recovered.segments.into_iter().map(|(first, path, bytes)| Segment { first, path, bytes }).collect();
        let shared = Arc::new(Shared::new(folder.display().to_string(), config.clone(), segments, recovered.next));
        let writer = Writer { shared: shared.clone(), folder: folder.to_owned(), active: recovered.active, disk };
        let thread =
            std::thread::Builder::new().name("ingest-log".into()).spawn(move || writer.run()).map_err(failed)?;
        Ok(Arc::new(Self { shared, folder: folder.into(), thread: Mutex::new(Some(thread)), lock: Some(lock) }))
    }

    fn in_memory(folder: &Path, config: &IngestConfig) -> Arc<Self> {
        if segment::list(folder).is_ok_and(|segments| !segments.is_empty()) {
            tracing::warn!(
                folder = %folder.display(),
                "the ingest log was durable before and may hold messages that no pipeline has read; they stay there, and \
                 are read when ingest.durable is true again"
            );
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(now.as_micros()).unwrap_or_default();
        let shared = Arc::new(Shared::new(folder.display().to_string(), config.clone(), VecDeque::new(), first));
        Arc::new(Self { shared, folder: folder.into(), thread: Mutex::new(None), lock: None })
    }

    /// A handle for appending.
    pub fn writer(self: &Arc<Self>) -> IngestWriter {
        IngestWriter { log: self.clone() }
    }

    /// A reader. Readers may follow one another (a reload); each begins where its `open` says.
    pub fn reader(self: &Arc<Self>, options: ReaderOptions) -> Box<dyn Source> {
        Box::new(reader::IngestReader::new(self.clone(), options))
    }

    /// How full it is.
    pub fn stats(&self) -> IngestStats {
        self.shared.stats()
    }

    /// Its folder, for messages.
    fn name(&self) -> impl std::fmt::Display + '_ {
        self.folder.display()
    }
}

impl Drop for IngestLog {
    fn drop(&mut self) {
        self.shared.close();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // The thread only ends early by a panic, which was reported where it happened.
        if let Some(thread) = thread {
            thread.join().ok();
        }
        // Closing the file is not enough: a child process that is being started holds a copy of it for a moment.
        if let Some(lock) = &self.lock {
            lock.unlock().ok();
        }
    }
}

/// The file of a log's first segment, for [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzing_segment(folder: &Path) -> PathBuf {
    segment::path(folder, 0)
}

/// What an empty first segment holds.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzing_header() -> Vec<u8> {
    let folder = std::env::temp_dir().join(format!("millstream-fuzz-{}", std::process::id()));
    let made = fs::create_dir_all(&folder).and_then(|()| segment::create(&folder, 0, &RealDisk).map(drop));
    let header = made.and_then(|()| fs::read(segment::path(&folder, 0)));
    fs::remove_dir_all(&folder).ok();
    header.unwrap_or_default()
}

/// A frame around `body`, with the right checksum.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzing_frame(body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; segment::FRAME_HEADER_BYTES];
    frame.extend_from_slice(body);
    segment::seal_frame(&mut frame);
    frame
}

fn lock(folder: &Path) -> Result<File, ConnectorError> {
    let path = folder.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| ConnectorError::retry(format!("{} cannot be opened: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ConnectorError::retry(format!(
            "the ingest log {} is in use by another daemon; give each its own data directory",
            folder.display()
        ))),
        Err(TryLockError::Error(error)) => {
            Err(ConnectorError::retry(format!("{} cannot be locked: {error}", path.display())))
        }
    }
}

/// Appends to a log.
#[derive(Clone)]
pub struct IngestWriter {
    log: Arc<IngestLog>,
}

impl IngestWriter {
    /// Takes messages into the log, all or none of them. Waits for a place in the queue; what it returns resolves when
    /// they are on disk. Safe to cancel: nothing was taken then.
    ///
    /// [`IngestError::Full`] comes at once where the log has reached `max_bytes` or the disk is full.
    pub async fn append(&self, messages: Vec<IngestMessage>) -> Result<Durable, IngestError> {
        self.log.shared.append(Content::Messages(messages), false).await
    }

    /// As [`IngestWriter::append`], but waits where the log is full.
    pub async fn append_when_room(&self, messages: Vec<IngestMessage>) -> Result<Durable, IngestError> {
        self.log.shared.append(Content::Messages(messages), true).await
    }

    /// As [`IngestWriter::append_when_room`], for messages that are in the log's format already. Where it is cancelled
    /// the batch is gone.
    pub async fn append_batch_when_room(&self, batch: IngestBatch) -> Result<Durable, IngestError> {
        self.log.shared.append(Content::Batch(batch), true).await
    }

    /// Waits until a log that was full has room again (or has failed or closed, which the next append says).
    pub async fn room(&self) {
        self.log.shared.room().await;
    }
}
