//! Snapshots on disk: the state of all operators, the positions of all sources, at one barrier.
//!
//! Layout of a pipeline's `checkpoints` folder: `<epoch>.state` (Arrow IPC streams, one after the other) and
//! `<epoch>.json`, the manifest, which says where each stream is, its CRC32C, and everything that is small. The
//! manifest is written under a temporary name, fsynced and renamed: it is there whole or not at all. The newest two
//! snapshots are kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::engine::element::Epoch;
use crate::engine::source_task::SourceState;

/// The format that this code writes. It reads this one only, so far.
const FORMAT: u32 = 1;
/// How many snapshots are kept.
const KEPT: usize = 2;
/// The largest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// A pipeline's state at a barrier.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) epoch: Epoch,
    pub(crate) sources: BTreeMap<String, SourceState>,
    pub(crate) sinks: BTreeMap<String, Vec<u8>>,
    /// By node: what its state depends on.
    pub(crate) fingerprints: BTreeMap<String, String>,
    /// By stage (the name of its first node): how far event time had come on all its inputs.
    pub(crate) watermarks: BTreeMap<String, i64>,
    /// By node, several where it has several shards or much state.
    pub(crate) states: Vec<(String, RecordBatch)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    epoch: Epoch,
    sources: BTreeMap<String, SourceState>,
    /// Base64.
    sinks: BTreeMap<String, String>,
    fingerprints: BTreeMap<String, String>,
    #[serde(default)]
    watermarks: BTreeMap<String, i64>,
    streams: Vec<Stream>,
}

/// Where a node's state is in the state file.
#[derive(Debug, Serialize, Deserialize)]
struct Stream {
    node: String,
    offset: u64,
    length: u64,
    crc32c: u32,
}

/// The snapshots of one pipeline.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    folder: PathBuf,
    /// Held while a snapshot is written; true when no more may be.
    closed: Mutex<bool>,
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

impl SnapshotStore {
    /// The store in `folder`, which is made if it is not there.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), closed: Mutex::new(false) })
    }

    fn path(&self, epoch: Epoch, extension: &str) -> PathBuf {
        self.folder.join(format!("{epoch:020}.{extension}"))
    }

    /// Waits for a write that is under way and allows no more: the run is over, and the next one may already read.
    pub(crate) fn close(&self) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Makes `snapshot` durable and visible, and deletes those that are too old.
    pub(crate) fn write(&self, snapshot: &Snapshot) -> io::Result<()> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Err(io::Error::other("the run is over; its snapshot comes too late"));
        }
        let mut streams = Vec::new();
        let mut state = File::create(self.path(snapshot.epoch, "state"))?;
        let mut offset = 0;
        for (node, batch) in &snapshot.states {
            let bytes = encode(batch)?;
            state.write_all(&bytes)?;
            let length = bytes.len() as u64;
            streams.push(Stream { node: node.clone(), offset, length, crc32c: crc32c::crc32c(&bytes) });
            offset += length;
        }
        state.sync_all()?;
        let base64 = base64::engine::general_purpose::STANDARD;
        let manifest = Manifest {
            format: FORMAT,
            epoch: snapshot.epoch,
            sources: snapshot.sources.clone(),
            sinks: snapshot.sinks.iter().map(|(name, state)| (name.clone(), base64.encode(state))).collect(),
            fingerprints: snapshot.fingerprints.clone(),
            watermarks: snapshot.watermarks.clone(),
            streams,
        };
        let temporary = self.path(snapshot.epoch, "tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(&manifest)?)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(snapshot.epoch, "json"))?;
        File::open(&self.folder)?.sync_all()?;
        self.delete_old()
    }

    /// The epochs that have a manifest, newest first.
    fn epochs(&self) -> io::Result<Vec<Epoch>> {
        let mut epochs: Vec<Epoch> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(epoch) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
            {
                epochs.push(epoch);
            }
        }
        epochs.sort_unstable_by(|a, b| b.cmp(a));
        Ok(epochs)
    }

    fn delete_old(&self) -> io::Result<()> {
        let keep: Vec<Epoch> = self.epochs()?.into_iter().take(KEPT).collect();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let epoch = path.file_stem().and_then(|stem| stem.to_str()?.parse::<Epoch>().ok());
            if epoch.is_some_and(|epoch| !keep.contains(&epoch)) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// The newest snapshot that is whole; `None` where there is none at all. A damaged one is passed over loudly; where
    /// all are damaged that is an error, because starting from nothing would lose what they held.
    pub(crate) fn newest(&self) -> io::Result<Option<Snapshot>> {
        let epochs = self.epochs()?;
        let mut first_error = None;
        for epoch in &epochs {
            match self.read(*epoch) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(error) => {
                    let file = self.path(*epoch, "json");
                    tracing::error!(file = %file.display(), %error, "a snapshot is damaged; trying the one before");
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            None => Ok(None),
            Some(error) => Err(invalid(format!(
                "no snapshot in {} can be read ({error}); move the folder away to start from nothing",
                self.folder.display()
            ))),
        }
    }

    fn read(&self, epoch: Epoch) -> io::Result<Snapshot> {
        let file = File::open(self.path(epoch, "json"))?;
        let mut text = Vec::new();
        file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text)?;
        let manifest: Manifest = serde_json::from_slice(&text)?;
        if manifest.format != FORMAT {
            let message = format!("the snapshot has format {}, this program reads {FORMAT}", manifest.format);
            return Err(invalid(message));
        }
        let mut state = File::open(self.path(epoch, "state"))?;
        let size = state.metadata()?.len();
        let mut states = Vec::new();
        for stream in manifest.streams {
            if stream.offset.checked_add(stream.length).is_none_or(|end| end > size) {
                return Err(invalid(format!("the state of {} is cut off", stream.node)));
            }
            state.seek(SeekFrom::Start(stream.offset))?;
            let mut bytes = vec![0; stream.length as usize];
            state.read_exact(&mut bytes)?;
            if crc32c::crc32c(&bytes) != stream.crc32c {
                return Err(invalid(format!("the state of {} has a wrong checksum", stream.node)));
            }
            states.push((stream.node, decode(&bytes)?));
        }
        let base64 = base64::engine::general_purpose::STANDARD;
        let sinks = manifest.sinks.into_iter().map(|(name, state)| {
            base64.decode(state).map(|state| (name, state)).map_err(|error| invalid(error.to_string()))
        });
        Ok(Snapshot {
            epoch: manifest.epoch,
            sources: manifest.sources,
            sinks: sinks.collect::<io::Result<_>>()?,
            fingerprints: manifest.fingerprints,
            watermarks: manifest.watermarks,
            states,
        })
    }

    /// Deletes all snapshots: a bounded run came to its end, and the next begins anew.
    pub(crate) fn clear(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)?;
        fs::create_dir_all(&self.folder)
    }
}

fn encode(batch: &RecordBatch) -> io::Result<Vec<u8>> {
    let failed = |error: arrow::error::ArrowError| io::Error::other(error);
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

fn decode(bytes: &[u8]) -> io::Result<RecordBatch> {
    let failed = |error: arrow::error::ArrowError| invalid(error.to_string());
    let mut reader = StreamReader::try_new(bytes, None).map_err(failed)?;
    match reader.next() {
        Some(batch) => batch.map_err(failed),
        None => Err(invalid("an empty state")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    fn snapshot(epoch: Epoch) -> Snapshot {
        let batch =
            RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![epoch as i64; 100])) as _)]).unwrap();
        Snapshot {
            epoch,
            sinks: [("out".to_owned(), vec![0, 255])].into(),
            states: vec![("step/aggregate".into(), batch)],
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_newest_snapshot_comes_back_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        assert!(store.newest().unwrap().is_none());
        for epoch in 1..=4 {
            store.write(&snapshot(epoch)).unwrap();
        }
        let newest = store.newest().unwrap().unwrap();
        assert_eq!((newest.epoch, newest.sinks, newest.states), (4, snapshot(4).sinks, snapshot(4).states));
        assert_eq!(store.epochs().unwrap(), [4, 3]);
    }

    #[test]
    fn a_run_that_is_over_writes_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        store.write(&snapshot(1)).unwrap();
        store.close();
        assert!(store.write(&snapshot(2)).is_err());
        assert_eq!(store.epochs().unwrap(), [1]);
    }

    #[test]
    fn a_damaged_snapshot_is_passed_over_but_never_all_of_them_silently() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        store.write(&snapshot(1)).unwrap();
        store.write(&snapshot(2)).unwrap();
        let damage = |epoch| {
            let path = store.path(epoch, "state");
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        };
        damage(2);
        assert_eq!(store.newest().unwrap().unwrap().epoch, 1);
        damage(1);
        assert!(store.newest().unwrap_err().to_string().contains("move the folder away"));
    }
}
