//! Tests of the ingest log as a whole: what is written comes back, whatever happens in between.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, TimestampMicrosecondType, UInt16Type};
use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::timeout;

use super::segment::{FRAME_HEADER_BYTES, HEADER_BYTES};
use super::*;
use crate::error::ErrorKind;
use crate::position::Positions;
use crate::source::SourceEvent;
use crate::{ConnectorError, MessageBatch};

const LONG: std::time::Duration = std::time::Duration::from_secs(20);
const SHORT: std::time::Duration = std::time::Duration::from_millis(50);

fn message(payload: impl Into<Bytes>) -> IngestMessage {
    IngestMessage { payload: Some(payload.into()), metadata: vec![("topic", "a/b".into())] }
}

fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<IngestMessage> {
    numbers.into_iter().map(|n| message(n.to_string())).collect()
}

fn small() -> IngestConfig {
    IngestConfig {
        segment_bytes: ByteSize(4 << 10),
        max_bytes: ByteSize(64 << 10),
        commit_interval: Duration::from_millis(0),
        ..IngestConfig::default()
    }
}

fn options() -> ReaderOptions {
    ReaderOptions { fields: Vec::new(), batch_rows_max: 1000, batch_bytes_max: 1 << 20 }
}

fn at(partition: &str, next: u64) -> Positions {
    let mut positions = Positions::default();
    positions.set(partition, next);
    positions
}

async fn append(log: &Arc<IngestLog>, messages: Vec<IngestMessage>) {
    log.writer().append(messages).await.unwrap().await.unwrap();
}

async fn open_reader(log: &Arc<IngestLog>, from: &Positions) -> Box<dyn Source> {
    let mut reader = log.reader(options());
    reader.open(from).await.unwrap();
    assert!(matches!(reader.next().await.unwrap(), SourceEvent::Partitions(_)));
    reader
}

async fn next_batch(reader: &mut dyn Source) -> Result<MessageBatch, ConnectorError> {
    match timeout(LONG, reader.next()).await.expect("a batch comes in time")? {
        SourceEvent::Messages(batch) => Ok(batch),
        other => panic!("{other:?}"),
    }
}

fn payloads(batch: &MessageBatch) -> Vec<String> {
    batch.payloads.iter().map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap()).collect()
}

async fn read_until(reader: &mut dyn Source, end: u64) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let batch = next_batch(reader).await.unwrap();
        found.extend(payloads(&batch));
        if batch.next_position >= end {
            return found;
        }
    }
}

fn texts(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|n| n.to_string()).collect()
}

fn only_segment(folder: &Path) -> PathBuf {
    let segments = segment::list(folder).unwrap();
    assert_eq!(segments.len(), 1);
    segments[0].1.clone()
}

fn entries() -> Fields {
    vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)].into()
}

fn field(name: &'static str, data_type: DataType) -> MetadataField {
    MetadataField { name, data_type, description: "" }
}

#[tokio::test]
async fn every_kind_of_metadata_comes_back_in_the_columns_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    let pairs = vec![("k".to_owned(), "1".to_owned()), ("k".to_owned(), "2".to_owned())];
    let full = IngestMessage {
        payload: Some(Bytes::new()),
        metadata: vec![
            ("unused", "x".into()),
            ("topic", "a/é".into()),
            ("id", MetadataValue::Int(65_535)),
            ("offset", MetadataValue::Int(i64::MIN)),
            ("dup", MetadataValue::Bool(true)),
            ("at", MetadataValue::Timestamp(-1)),
            ("data", MetadataValue::Bytes(Bytes::from_static(b"\xff\0"))),
            ("map", pairs.clone().into()),
            ("list", pairs.into()),
        ],
    };
    let empty = IngestMessage { payload: None, metadata: vec![("topic", MetadataValue::Null)] };
    append(&log, vec![full, empty]).await;

    let map = Field::new("entries", DataType::Struct(entries()), false);
    let item = Field::new("item", DataType::Struct(entries()), true);
    let fields = vec![
        field("data", DataType::Binary),
        field("topic", DataType::Utf8),
        field("id", DataType::UInt16),
        field("offset", DataType::Int64),
        field("dup", DataType::Boolean),
        field("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()))),
        field("map", DataType::Map(Arc::new(map), false)),
        field("list", DataType::List(Arc::new(item))),
    ];
    let mut reader = log.reader(ReaderOptions { fields: fields.clone(), ..options() });
    reader.open(&Positions::default()).await.unwrap();
    reader.next().await.unwrap();
    let batch = next_batch(reader.as_mut()).await.unwrap();

    assert_eq!((batch.payloads.value(0), batch.payloads.is_null(1), batch.next_position), (&b""[..], true, 2));
    for (array, field) in batch.metadata.iter().zip(&fields) {
        assert_eq!(array.data_type(), &field.data_type);
        assert!(array.is_valid(0) && array.is_null(1), "{}", field.name);
    }
    assert_eq!(batch.metadata[0].as_binary::<i32>().value(0), b"\xff\0");
    assert_eq!(batch.metadata[1].as_string::<i32>().value(0), "a/é");
    assert_eq!(batch.metadata[2].as_primitive::<UInt16Type>().value(0), 65_535);
    assert_eq!(batch.metadata[3].as_primitive::<Int64Type>().value(0), i64::MIN);
    assert_eq!(batch.metadata[5].as_primitive::<TimestampMicrosecondType>().value(0), -1);
    let map = batch.metadata[6].as_map().value(0);
    assert_eq!(map.column(1).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("1"), Some("2")]);
    assert_eq!(batch.metadata[7].as_list::<i32>().value(0).len(), 2);
}

#[tokio::test]
async fn batches_keep_their_limits_and_a_large_message_goes_alone() {
    let folder = tempfile::tempdir().unwrap();
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    let sizes = [10usize, 10, 10, 500, 10];
    append(&log, sizes.iter().map(|size| message(vec![b'x'; *size])).collect()).await;
    let mut reader = log.reader(ReaderOptions { batch_rows_max: 2, batch_bytes_max: 100, ..options() });
    reader.open(&Positions::default()).await.unwrap();
    reader.next().await.unwrap();
    let mut rows = Vec::new();
    while rows.iter().sum::<usize>() < sizes.len() {
        rows.push(next_batch(reader.as_mut()).await.unwrap().payloads.len());
    }
    assert_eq!(rows, [2, 1, 1, 1]);
}

/// A log of these appends, its file's bytes, and after each append (bytes of the file, next sequence).
async fn written(appends: &[Vec<usize>]) -> (Vec<u8>, Vec<(usize, u64)>) {
    let folder = tempfile::tempdir().unwrap();
    let config = IngestConfig { segment_bytes: ByteSize(1 << 20), max_bytes: ByteSize(1 << 20), ..small() };
    let log = IngestLog::open(folder.path(), &config).unwrap();
    let mut ends = vec![(HEADER_BYTES as usize, 0)];
    for sizes in appends {
        append(&log, sizes.iter().map(|size| message(vec![7; *size])).collect()).await;
        ends.push((log.stats().bytes as usize, log.stats().next_sequence));
    }
    drop(log);
    (fs::read(only_segment(folder.path())).unwrap(), ends)
}

fn recover(bytes: &[u8]) -> Result<u64, ConnectorError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(segment::path(folder.path(), 0), bytes).unwrap();
    recovery::recover(folder.path(), &RealDisk).map(|recovered| recovered.next)
}

#[tokio::test]
async fn cut_at_any_byte_the_log_recovers_exactly_the_whole_appends_before_it() {
    let (bytes, ends) = written(&[vec![3], vec![0, 40, 7], vec![100], vec![1; 20]]).await;
    for cut in 0..=bytes.len() {
        let recovered = recover(&bytes[..cut]);
        match ends.iter().rev().find(|(end, _)| *end <= cut) {
            Some((_, next)) => assert_eq!(recovered.unwrap(), *next, "cut at {cut}"),
            None => assert_eq!(recovered.unwrap_err().kind, ErrorKind::Fatal, "cut at {cut}"),
        }
    }
}

#[tokio::test]
async fn any_byte_that_changed_before_the_last_commit_is_loud() {
    let (bytes, ends) = written(&[vec![3], vec![0, 40, 7], vec![100], vec![5]]).await;
    let last = ends[ends.len() - 2].0;
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x41;
        // Bytes 20 to 23 of the header are reserved and checked as well.
        match recover(&damaged) {
            Err(error) if position < last => {
                assert_eq!(error.kind, ErrorKind::Fatal, "byte {position}");
                assert!(error.message.contains("00000000000000000000.segment"), "{error}");
            }
            Ok(next) if position >= last => assert_eq!(next, ends[ends.len() - 2].1),
            other => panic!("byte {position}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_torn_commit_is_cut_and_what_comes_next_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    append(&log, numbered(0..3)).await;
    append(&log, numbered(3..6)).await;
    drop(log);
    let path = only_segment(folder.path());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();

    let log = IngestLog::open(folder.path(), &small()).unwrap();
    assert_eq!(log.stats().next_sequence, 3);
    append(&log, numbered(10..12)).await;
    let mut reader = open_reader(&log, &Positions::default()).await;
    assert_eq!(read_until(reader.as_mut(), 5).await, texts((0..3).chain(10..12)));
}

#[tokio::test]
async fn damage_in_an_older_segment_stops_the_reader_with_file_and_byte() {
    let folder = tempfile::tempdir().unwrap();
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    for n in 0..10 {
        append(&log, vec![message(vec![n; 1000])]).await;
    }
    assert!(log.stats().segments > 2);
    drop(log);
    let (_, first) = segment::list(folder.path()).unwrap().remove(0);
    let mut bytes = fs::read(&first).unwrap();
    bytes[1500] ^= 1;
    fs::write(&first, bytes).unwrap();

    let log = IngestLog::open(folder.path(), &small()).unwrap();
    let mut reader = open_reader(&log, &Positions::default()).await;
    let error = next_batch(reader.as_mut()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fatal);
    assert!(error.message.contains("00000000000000000000.segment is damaged at byte"), "{error}");
}

#[tokio::test]
async fn a_segment_of_a_newer_version_is_refused_by_that_name() {
    let (mut bytes, _) = written(&[vec![3]]).await;
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    let error = recover(&bytes).unwrap_err();
    assert!(error.message.contains("format 2") && error.message.contains("newer version"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        keep in 0usize..200,
        sealed in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (good, _) = runtime.block_on(written(&[vec![3, 9], vec![50]]));
        let mut bytes = good[..keep.min(good.len())].to_vec();
        if sealed {
            // A frame whose checksum is right and whose body is noise: only decoding can find that out.
            let mut frame = vec![0; FRAME_HEADER_BYTES];
            frame.extend_from_slice(&noise);
            segment::seal_frame(&mut frame);
            bytes.extend_from_slice(&frame);
        } else {
            bytes.extend_from_slice(&noise);
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(segment::path(folder.path(), 0), &bytes).unwrap();
        if let Ok(log) = IngestLog::open(folder.path(), &small()) {
            runtime.block_on(async {
                let end = log.stats().next_sequence;
                let mut reader = open_reader(&log, &Positions::default()).await;
                let mut next = 0;
                while next < end {
                    match next_batch(reader.as_mut()).await {
                        Ok(batch) => next = batch.next_position,
                        Err(error) => {
                            assert_eq!(error.kind, ErrorKind::Fatal);
                            break;
                        }
                    }
                }
            });
        }
        if let Ok(mut cursor) = codec::GroupCursor::new(noise.into()) {
            let mut skipper = columns::Skipper { fields: &[], names: Default::default() };
            while !cursor.is_done() && cursor.visit(&mut skipper).is_ok() {}
        }
    }

    #[test]
    fn random_appends_come_back_in_order_over_restarts(
        runs in prop::collection::vec(prop::collection::vec(prop::collection::vec(0usize..1500, 1..5), 0..8), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = IngestConfig { max_bytes: ByteSize::mib(1), ..small() };
        let mut expected = Vec::new();
        for run in runs {
            let log = IngestLog::open(folder.path(), &config).unwrap();
            runtime.block_on(async {
                let mut waiting = Vec::new();
                for sizes in run {
                    let messages: Vec<_> = sizes.iter().map(|size| "x".repeat(*size) + &expected.len().to_string()).collect();
                    expected.extend(messages.iter().cloned());
                    let messages = messages.into_iter().map(message).collect();
                    waiting.push(log.writer().append(messages).await.unwrap());
                }
                for durable in waiting {
                    durable.await.unwrap();
                }
                let mut reader = open_reader(&log, &Positions::default()).await;
                if !expected.is_empty() {
                    assert_eq!(read_until(reader.as_mut(), expected.len() as u64).await, expected);
                }
            });
        }
    }
}

fn batch(numbers: impl IntoIterator<Item = u64>) -> IngestBatch {
    let mut batch = IngestBatch::with_capacity(0);
    for n in numbers {
        let topic = ("topic", FieldRef::Text("a/b"));
        // Fields come and go, and not always in the same order.
        let fields = match n % 3 {
            0 => vec![topic, ("id", FieldRef::Int(n as i64))],
            1 => vec![("id", FieldRef::Int(n as i64)), ("retain", FieldRef::Bool(true)), topic],
            _ => vec![topic],
        };
        batch.push(Some(n.to_string().as_bytes()), &fields);
    }
    batch
}

#[tokio::test]
async fn batches_and_messages_in_one_queue_come_back_in_order_with_their_metadata() {
    for durable in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        // All wait for the same commit.
        let config = IngestConfig { commit_interval: Duration::from_millis(100), durable, ..small() };
        let log = IngestLog::open(folder.path(), &config).unwrap();
        let writer = log.writer();
        let mut waiting = Vec::new();
        for first in [0, 10, 20] {
            waiting.push(writer.append_batch_when_room(batch(first..first + 4)).await.unwrap());
            waiting.push(writer.append(numbered(first + 4..first + 6)).await.unwrap());
            waiting.push(writer.append(numbered(first + 6..first + 7)).await.unwrap());
            waiting.push(writer.append_batch_when_room(batch(first + 7..first + 10)).await.unwrap());
        }
        for waiting in waiting {
            waiting.await.unwrap();
        }
        let (log, again) = match durable {
            true => {
                drop((writer, log));
                (IngestLog::open(folder.path(), &config).unwrap(), true)
            }
            false => (log, false),
        };
        let fields = vec![field("id", DataType::Int64), field("topic", DataType::Utf8)];
        let mut reader = log.reader(ReaderOptions { fields, batch_rows_max: 30, batch_bytes_max: 1 << 20 });
        reader.open(&Positions::default()).await.unwrap();
        assert!(matches!(reader.next().await.unwrap(), SourceEvent::Partitions(_)));
        let found = next_batch(reader.as_mut()).await.unwrap();
        assert_eq!(payloads(&found), texts(0..30), "from the disk: {again}");
        let ids = found.metadata[0].as_primitive::<Int64Type>();
        for n in 0..30u64 {
            let has_id = !(4..7).contains(&(n % 10)) && n % 3 != 2;
            assert_eq!(ids.is_valid(n as usize).then(|| ids.value(n as usize)), has_id.then_some(n as i64));
        }
        assert!(found.metadata[1].as_string::<i32>().iter().all(|topic| topic == Some("a/b")));
    }
}

#[tokio::test]
async fn an_empty_batch_is_durable_at_once_and_takes_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    log.writer().append_batch_when_room(batch([])).await.unwrap().await.unwrap();
    assert_eq!(log.stats().next_sequence, 0);
}

/// A disk with little room, or whose `fdatasync` fails.
struct FaultyDisk {
    room: AtomicI64,
    sync_fails: AtomicBool,
    syncs: AtomicUsize,
}

impl FaultyDisk {
    fn new(room: i64) -> Arc<Self> {
        Arc::new(Self { room: AtomicI64::new(room), sync_fails: false.into(), syncs: 0.into() })
    }
}

impl Disk for FaultyDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let room = self.room.load(Ordering::SeqCst).max(0) as usize;
        if room < bytes.len() {
            // As a real disk: a part is written before it says so.
            RealDisk.write_at(file, &bytes[..room], offset)?;
            return Err(io::Error::from_raw_os_error(28));
        }
        self.room.fetch_sub(bytes.len() as i64, Ordering::SeqCst);
        RealDisk.write_at(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        match self.sync_fails.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the disk is gone")),
            false => RealDisk.sync(file),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_pauses_the_log_and_it_goes_on_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(500);
    let log = IngestLog::open_on(folder.path(), &small(), disk.clone()).unwrap();
    append(&log, numbered(0..2)).await;
    let good = fs::metadata(only_segment(folder.path())).unwrap().len();

    let mut stuck = log.writer().append(vec![message(vec![b'9'; 1000])]).await.unwrap();
    assert!(timeout(SHORT * 6, &mut stuck).await.is_err(), "nothing is durable on a full disk");
    assert_eq!(log.writer().append(numbered(5..6)).await.unwrap_err(), IngestError::Full);
    assert!(timeout(SHORT, log.writer().room()).await.is_err());
    assert!(log.stats().full);
    assert_eq!(fs::metadata(only_segment(folder.path())).unwrap().len(), good, "the part that was written is cut back");

    disk.room.store(1 << 20, Ordering::SeqCst);
    timeout(LONG, log.writer().room()).await.unwrap();
    stuck.await.unwrap();
    append(&log, numbered(7..8)).await;
    let mut reader = open_reader(&log, &Positions::default()).await;
    let found = read_until(reader.as_mut(), 4).await;
    assert_eq!((found[0].as_str(), found[2].len(), found[3].as_str()), ("0", 1000, "7"));
    assert!(!log.stats().full);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_a_full_disk_can_be_closed() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(100);
    let log = IngestLog::open_on(folder.path(), &small(), disk).unwrap();
    let stuck = log.writer().append(vec![message(vec![b'9'; 1000])]).await.unwrap();
    drop(log);
    assert_eq!(stuck.await, Err(IngestError::Closed));
    assert_eq!(IngestLog::open(folder.path(), &small()).unwrap().stats().next_sequence, 0);
}

#[tokio::test]
async fn after_a_failed_fsync_the_log_takes_nothing_more_and_never_syncs_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(1 << 20);
    let log = IngestLog::open_on(folder.path(), &small(), disk.clone()).unwrap();
    append(&log, numbered(0..2)).await;
    disk.sync_fails.store(true, Ordering::SeqCst);
    let failed = log.writer().append(numbered(2..4)).await.unwrap().await.unwrap_err();
    assert!(matches!(&failed, IngestError::Failed(reason) if reason.contains("fdatasync failed")), "{failed}");

    disk.sync_fails.store(false, Ordering::SeqCst);
    let syncs = disk.syncs.load(Ordering::SeqCst);
    // The writer thread says it to those who wait first, and to all others right after.
    while !matches!(log.writer().append(numbered(4..5)).await, Err(IngestError::Failed(_))) {
        tokio::task::yield_now().await;
    }
    timeout(LONG, log.writer().room()).await.unwrap();
    assert_eq!(disk.syncs.load(Ordering::SeqCst), syncs);

    let mut reader = open_reader(&log, &Positions::default()).await;
    assert_eq!(read_until(reader.as_mut(), 2).await, texts(0..2), "what was durable is still read");
    let error = next_batch(reader.as_mut()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fatal);
}

#[tokio::test]
async fn a_log_at_its_limit_is_full_until_the_pipeline_is_past_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = IngestConfig { segment_bytes: ByteSize(64 << 10), ..small() };
    let log = IngestLog::open(folder.path(), &config).unwrap();
    let mut reader = open_reader(&log, &Positions::default()).await;
    let mut written = 0;
    for round in 0..5 {
        loop {
            match log.writer().append(vec![message(vec![b'x'; 5000])]).await {
                Ok(durable) => durable.await.unwrap(),
                Err(error) => break assert_eq!(error, IngestError::Full),
            }
            written += 1;
        }
        assert!(log.stats().bytes <= config.max_bytes.0 && log.stats().full, "round {round}");
        assert!(timeout(SHORT, log.writer().room()).await.is_err());
        read_until(reader.as_mut(), written).await;
        reader.commit(&at(PARTITION, written)).await.unwrap();
        timeout(LONG, log.writer().room()).await.unwrap();
    }
    assert!(written > 30);
    let error = log.writer().append(vec![message(vec![0; 70_000])]).await.unwrap_err();
    assert!(matches!(error, IngestError::TooLarge { .. }));
}

/// A log of one segment that has no room for `LARGE` bytes, and has not been asked for it.
async fn nearly_full(folder: &Path, config: &IngestConfig) -> Arc<IngestLog> {
    let log = IngestLog::open(folder, config).unwrap();
    while log.stats().bytes + LARGE as u64 <= config.max_bytes.0 {
        append(&log, vec![message(vec![b'x'; LARGE / 2])]).await;
    }
    assert_eq!((log.stats().segments, log.stats().full), (1, false));
    log
}

const LARGE: usize = 5000;

#[tokio::test]
async fn a_log_that_was_full_at_the_restart_opens_up_when_the_snapshot_is_past_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = IngestConfig { segment_bytes: ByteSize(64 << 10), ..small() };
    let log = nearly_full(folder.path(), &config).await;
    let end = log.stats().next_sequence;
    drop(log);
    let log = IngestLog::open(folder.path(), &config).unwrap();
    let _reader = open_reader(&log, &at(PARTITION, end)).await;
    // All of it is done with, but it is the segment that is being written: only this append closes it.
    let full = log.writer().append(vec![message(vec![b'x'; LARGE])]).await;
    assert_eq!(full.unwrap_err(), IngestError::Full);
    timeout(LONG, log.writer().room()).await.unwrap();
    append(&log, vec![message(vec![b'x'; LARGE])]).await;
}

#[tokio::test]
async fn a_full_log_whose_segment_was_closed_before_the_restart_opens_up_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let config = IngestConfig { segment_bytes: ByteSize(64 << 10), ..small() };
    let log = nearly_full(folder.path(), &config).await;
    let end = log.stats().next_sequence;
    let append_large = async |log: &Arc<IngestLog>| log.writer().append(vec![message(vec![b'x'; LARGE])]).await;
    assert_eq!(append_large(&log).await.unwrap_err(), IngestError::Full);
    let closed = async {
        while log.stats().segments < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, closed).await.unwrap();
    drop(log);
    let log = IngestLog::open(folder.path(), &config).unwrap();
    assert_eq!(append_large(&log).await.unwrap_err(), IngestError::Full);
    let _reader = open_reader(&log, &at(PARTITION, end)).await;
    timeout(LONG, log.writer().room()).await.unwrap();
    append_large(&log).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn segments_below_the_committed_position_go_and_numbers_go_on_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    for n in 0..20u64 {
        append(&log, vec![message(format!("{n:01000}"))]).await;
    }
    assert!(log.stats().segments > 4);
    let mut reader = open_reader(&log, &Positions::default()).await;
    read_until(reader.as_mut(), 20).await;
    reader.commit(&at(PARTITION, 10)).await.unwrap();
    timeout(LONG, async {
        while log.stats().first_sequence == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert!(log.stats().first_sequence <= 10);
    reader.commit(&at(PARTITION, 20)).await.unwrap();
    reader.close().await.unwrap();
    drop((reader, log));

    let log = IngestLog::open(folder.path(), &small()).unwrap();
    assert_eq!(log.stats().next_sequence, 20);
    assert!(log.stats().segments <= 2);
    let mut early = log.reader(options());
    let error = early.open(&at(PARTITION, 3)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fatal);
    assert!(error.message.contains("goes on at message 3, but the log begins at"), "{error}");
    let error = early.open(&at(PARTITION, 21)).await.unwrap_err();
    assert!(error.message.contains("the log ends at 20"), "{error}");
    append(&log, numbered(20..21)).await;
    let mut reader = open_reader(&log, &at(PARTITION, 20)).await;
    assert_eq!(read_until(reader.as_mut(), 21).await, texts(20..21));
}

#[tokio::test]
async fn a_reload_hands_the_log_from_one_reader_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    let writer = log.writer();
    let mut reader = open_reader(&log, &Positions::default()).await;
    append(&log, numbered(0..5)).await;
    assert_eq!(read_until(reader.as_mut(), 5).await, texts(0..5));
    reader.commit(&at(PARTITION, 3)).await.unwrap();
    reader.close().await.unwrap();
    drop(reader);
    writer.append(numbered(5..8)).await.unwrap().await.unwrap();
    let mut reader = open_reader(&log, &at(PARTITION, 3)).await;
    assert_eq!(read_until(reader.as_mut(), 8).await, texts(3..8));
}

#[tokio::test]
async fn a_cancelled_next_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    for n in 0..30 {
        append(&log, numbered(n * 10..(n + 1) * 10)).await;
    }
    drop(log);
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    let mut reader = open_reader(&log, &Positions::default()).await;
    let mut found = Vec::new();
    while found.len() < 300 {
        // Polled once and dropped, over and over: a read from a file is then always cancelled on its way.
        match futures::poll!(reader.next()) {
            std::task::Poll::Ready(Ok(SourceEvent::Messages(batch))) => found.extend(payloads(&batch)),
            std::task::Poll::Ready(other) => panic!("{other:?}"),
            std::task::Poll::Pending => tokio::task::yield_now().await,
        }
    }
    assert_eq!(found, texts(0..300));
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_an_append() {
    let folder = tempfile::tempdir().unwrap();
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    let mut reader = open_reader(&log, &Positions::default()).await;
    assert!(timeout(SHORT, reader.next()).await.is_err());
    let (batch, ()) = tokio::join!(next_batch(reader.as_mut()), append(&log, numbered(0..1)));
    assert_eq!(payloads(&batch.unwrap()), ["0"]);
}

#[tokio::test]
async fn without_durability_nothing_is_written_and_memory_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let config = IngestConfig { durable: false, ..small() };
    let log = IngestLog::open(folder.path(), &config).unwrap();
    let mut reader = open_reader(&log, &Positions::default()).await;
    let mut appended = 0;
    while let Ok(durable) = log.writer().append(vec![message(vec![b'x'; 1000])]).await {
        durable.await.unwrap();
        appended += 1;
    }
    assert!((50..66).contains(&appended), "{appended}");
    let first = log.stats().first_sequence;
    read_until(reader.as_mut(), first + appended).await;
    reader.commit(&at(MEMORY_PARTITION, first + appended)).await.unwrap();
    timeout(LONG, log.writer().room()).await.unwrap();
    assert_eq!(log.stats().bytes, 0);
    append(&log, numbered(0..1)).await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    drop((reader, log));

    // What was in memory is gone after a restart; the positions still go forward, and the pipeline goes on.
    let log = IngestLog::open(folder.path(), &config).unwrap();
    assert!(log.stats().next_sequence > first + appended);
    let mut reader = open_reader(&log, &at(MEMORY_PARTITION, first)).await;
    append(&log, numbered(1..2)).await;
    assert_eq!(payloads(&next_batch(reader.as_mut()).await.unwrap()), ["1"]);
}

#[tokio::test]
async fn a_second_daemon_cannot_open_the_same_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = IngestLog::open(folder.path(), &small()).unwrap();
    let error = IngestLog::open(folder.path(), &small()).err().unwrap();
    assert!(error.message.contains("in use by another daemon"), "{error}");
    drop(log);
    IngestLog::open(folder.path(), &small()).unwrap();
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let refused = |config: IngestConfig| config.check("ingest").unwrap_err().option.unwrap();
    let default = IngestConfig::default;
    default().check("ingest").unwrap();
    assert_eq!(refused(IngestConfig { max_bytes: ByteSize(1), ..default() }), "ingest.max_bytes");
    assert_eq!(refused(IngestConfig { segment_bytes: ByteSize(1), ..default() }), "ingest.segment_bytes");
    assert_eq!(
        refused(IngestConfig { segment_bytes: ByteSize(1 << 30), max_bytes: ByteSize::mib(1), ..default() }),
        "ingest.segment_bytes"
    );
    assert_eq!(
        refused(IngestConfig { commit_interval: Duration::from_secs(2), ..default() }),
        "ingest.commit_interval"
    );
    assert_eq!(refused(IngestConfig { commit_bytes: ByteSize(0), ..default() }), "ingest.commit_bytes");
}
