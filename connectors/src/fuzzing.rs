//! What the fuzzer runs (`./dev fuzz`). Each function takes any bytes, and panics only for a fault of ours.

#![expect(clippy::unwrap_used, reason = "a panic is how the fuzzer is told")]

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, LazyLock};

use arrow::array::BinaryArray;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::error::ErrorKind;
use crate::format::json::{JsonConfig, JsonLayout};
use crate::format::reference::Reference;
use crate::format::{DecodeError, DecodeOptions, Decoded, Decoder, FormatConfig};
use crate::ingest::{self, IngestConfig, IngestLog, ReaderOptions};
use crate::position::Positions;
use crate::source::{Source, SourceEvent};

/// What separates messages in the input of [`json`]: it is allowed nowhere in JSON.
const SEPARATOR: u8 = 0x1e;

/// Decodes messages as JSON, as the reference does. The first three bytes choose layout, coercion, columns and how many
/// messages are in the first batch (the decoder remembers keys); the rest are the messages.
pub fn json(input: &[u8]) {
    let Some((&[config, columns, batch], text)) = input.split_first_chunk::<3>() else { return };
    let layout = [JsonLayout::Object, JsonLayout::Array, JsonLayout::Lines][usize::from(config >> 1) % 3];
    let config = JsonConfig { layout, coerce: config & 1 == 1, ..JsonConfig::default() };
    let columns = json_columns(columns);
    let timestamp_units = BTreeMap::from([("ts".to_owned(), TimeUnit::Millisecond)]);
    let options = DecodeOptions { columns: columns.clone(), declared: columns, timestamp_units };
    let mut reference = Reference::new(&config, &options).unwrap();
    let mut decoder = FormatConfig::Json(config).decoder(options).unwrap();
    let messages: Vec<_> = text.split(|byte| *byte == SEPARATOR).collect();
    let (first, second) = messages.split_at(messages.len().min(usize::from(batch)));
    for batch in [first, second] {
        let array = BinaryArray::from_iter_values(batch);
        let (found, expected) = (decoder.decode(&array), reference.decode(&array));
        assert_eq!(found.rows, expected.rows);
        assert_eq!(found.message_of_row, expected.message_of_row);
        assert_eq!(essences(&found), essences(&expected));
    }
}

/// Errors without what the two may say differently: why a text is no JSON.
fn essences(decoded: &Decoded) -> Vec<(u32, &str)> {
    let essence = |error: &'_ DecodeError| {
        let vague = ["not valid JSON", "expected an array of objects"];
        vague.iter().find_map(|text| error.reason.find(text)).unwrap_or(error.reason.len())
    };
    decoded.errors.iter().map(|error| (error.message, &error.reason[..essence(error)])).collect()
}

/// Columns that `choice` leaves of one of every type, all of them NOT NULL where its high bit is set.
fn json_columns(choice: u8) -> SchemaRef {
    let nullable = choice & 0x80 == 0;
    let inner = Fields::from(vec![Field::new("a", DataType::Utf8, nullable), Field::new("e", DataType::Int32, true)]);
    let all = [
        ("ts", DataType::Timestamp(TimeUnit::Millisecond, None)),
        ("a", DataType::Int64),
        ("b", DataType::Float64),
        ("c", DataType::Utf8),
        ("d", DataType::Struct(inner)),
        ("l", DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true)))),
        ("n", DataType::Decimal128(30, 6)),
    ];
    let wanted = all.into_iter().enumerate().filter(|(place, _)| choice >> place & 1 == 0);
    let fields: Vec<_> = wanted.map(|(_, (name, data_type))| Field::new(name, data_type, nullable)).collect();
    Arc::new(Schema::new(fields))
}

/// What an empty segment holds.
static HEADER: LazyLock<Vec<u8>> = LazyLock::new(ingest::fuzzing_header);

/// Opens an ingest log whose only segment is the input (or, by its first byte, a good start, and the input as the body of
/// a frame with the right checksum): it is read to its end, or refused as damaged, and says the same the second time.
pub fn ingest_log(input: &[u8]) {
    let Some((&kind, bytes)) = input.split_first() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = ingest::fuzzing_segment(folder.path());
    let content = match kind % 3 {
        0 => bytes.to_vec(),
        1 => [HEADER.clone(), bytes.to_vec()].concat(),
        _ => [HEADER.clone(), ingest::fuzzing_frame(bytes)].concat(),
    };
    fs::write(&file, content).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime.block_on(read_log(folder.path()));
    let second = runtime.block_on(read_log(folder.path()));
    assert_eq!(first, second, "a log that was recovered is found as it was left");
}

/// The next sequence number and the payloads of a log; `None` where it is damaged.
async fn read_log(folder: &std::path::Path) -> Option<(u64, Vec<Option<Vec<u8>>>)> {
    let log = match IngestLog::open(folder, &IngestConfig::default()) {
        Ok(log) => log,
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::Fatal, "{error}");
            return None;
        }
    };
    let end = log.stats().next_sequence;
    let mut reader = log.reader(ReaderOptions { fields: Vec::new(), batch_rows_max: 1000, batch_bytes_max: 1 << 20 });
    reader.open(&Positions::default()).await.unwrap();
    let (mut next, mut found) = (0, Vec::new());
    while next < end {
        match reader.next().await {
            Ok(SourceEvent::Messages(batch)) => {
                next = batch.next_position;
                found.extend(batch.payloads.iter().map(|payload| payload.map(<[u8]>::to_vec)));
            }
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Fatal, "{error}");
                return None;
            }
        }
    }
    assert_eq!(found.len() as u64, end);
    Some((end, found))
}
