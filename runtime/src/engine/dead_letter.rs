//! The dead letter: where everything goes that cannot go on, with its reason. Nothing vanishes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use base64::Engine as _;
use bytes::Bytes;
use millstream_connectors::Sink;
use millstream_connectors::format::FormatConfig;
use tokio::sync::{mpsc, oneshot};

use crate::engine::error::{Closed, RunError};
use crate::engine::sink_task::WithRetry;
use crate::metrics::PipelineMetrics;

/// What the column [`message_column`] is known by, in its metadata: a column of the user's may have any name.
const MESSAGE_MARK: &str = "millstream.message";
/// The most letters waiting; a full box stops its senders.
pub(crate) const LETTERS_WAITING_MAX: usize = 1024;
/// The name of its sink in snapshots; no sink of a pipeline may have it.
pub(crate) const NAME: &str = "dead_letter";
/// The most letters written at once.
const LETTERS_PER_WRITE: usize = 512;

/// A row or message that cannot go on.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// Where it failed: `source readings`, `step warm`, `sink alarms`.
    pub(crate) component: String,
    /// Why.
    pub(crate) reason: String,
    /// The original bytes, where there are any.
    pub(crate) payload: Option<Bytes>,
    /// The message's metadata as JSON.
    pub(crate) metadata: Option<String>,
    /// The row as JSON, where there is one.
    pub(crate) row: Option<String>,
}

impl Letter {
    /// A letter about the one row of `row`.
    pub(crate) fn row(component: String, reason: &str, row: &RecordBatch) -> Self {
        let mut letter = Self { component, reason: reason.to_owned(), payload: None, metadata: None, row: None };
        let message = row.schema_ref().fields().iter().position(|field| is_message(field));
        let messages = message.and_then(|column| row.column(column).as_binary_opt::<i32>());
        let messages = messages.filter(|messages| !messages.is_empty() && messages.is_valid(0));
        letter.payload = messages.map(|messages| Bytes::copy_from_slice(messages.value(0)));
        let columns = (0..row.num_columns()).filter(|column| Some(*column) != message).collect::<Vec<_>>();
        letter.row = Some(row.project(&columns).as_ref().map_or_else(ToString::to_string, as_json));
        letter
    }
}

/// The last column of rows of which not all columns were decoded: the message that they came in, so that a letter about
/// such a row has everything.
pub(crate) fn message_column() -> Field {
    let mark = [(MESSAGE_MARK.to_owned(), String::new())];
    Field::new("__message", DataType::Binary, true).with_metadata(mark.into())
}

/// True for that column.
pub(crate) fn is_message(field: &Field) -> bool {
    field.metadata().contains_key(MESSAGE_MARK)
}

/// The first row of `rows` as JSON text.
pub(crate) fn as_json(rows: &RecordBatch) -> String {
    let encoded = FormatConfig::default().encoder(rows.schema()).and_then(|mut encoder| encoder.encode(rows));
    match encoded {
        Ok(encoded) => {
            encoded.messages().next().map(|json| String::from_utf8_lossy(&json).into_owned()).unwrap_or_default()
        }
        Err(error) => format!("{{\"error\": \"the row cannot be shown: {error}\"}}"),
    }
}

/// What the dead letter's task is asked.
pub(crate) enum Request {
    /// Write this.
    Letter(Letter),
    /// Make everything before this durable; the answer is what the sink needs to go on from here.
    Flush(oneshot::Sender<Option<Vec<u8>>>),
    /// The epoch of the last flush is complete.
    Committed,
}

/// The way into the dead letter. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    sender: mpsc::Sender<Request>,
    metrics: Arc<PipelineMetrics>,
}

impl DeadLetters {
    /// The way in and the way out.
    pub(crate) fn create(metrics: Arc<PipelineMetrics>) -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(LETTERS_WAITING_MAX);
        (Self { sender, metrics }, receiver)
    }

    /// Waits for room and sends.
    pub(crate) async fn send(&self, letter: Letter) -> Result<(), Closed> {
        self.metrics.dead_letter(&letter.component);
        self.sender.send(Request::Letter(letter)).await.map_err(|_| Closed)
    }

    /// Resolves when all letters sent so far are durable, with what the sink needs to go on from here.
    pub(crate) async fn flush(&self) -> Result<Option<Vec<u8>>, Closed> {
        let (done, wait) = oneshot::channel();
        self.sender.send(Request::Flush(done)).await.map_err(|_| Closed)?;
        wait.await.map_err(|_| Closed)
    }

    /// Tells that the epoch is complete.
    pub(crate) async fn committed(&self) -> Result<(), Closed> {
        self.sender.send(Request::Committed).await.map_err(|_| Closed)
    }
}

/// The columns of a letter.
pub(crate) fn schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        Field::new("time", DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into())), false),
        text("pipeline", false),
        text("component", false),
        text("reason", false),
        text("payload", true),
        text("payload_base64", true),
        text("metadata", true),
        text("row", true),
    ]))
}

fn to_batch(pipeline: &str, letters: &[Letter]) -> Result<RecordBatch, RunError> {
    let now = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
    let text = |of: &dyn Fn(&Letter) -> Option<String>| -> ArrayRef {
        Arc::new(letters.iter().map(of).collect::<StringArray>())
    };
    let utf8 =
        |letter: &Letter| letter.payload.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok().map(str::to_owned));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampNanosecondArray::from_value(now, letters.len()).with_timezone("+00:00")),
        text(&|_| Some(pipeline.to_owned())),
        text(&|letter| Some(letter.component.clone())),
        text(&|letter| Some(letter.reason.clone())),
        text(&utf8),
        text(&|letter| match utf8(letter) {
            Some(_) => None,
            None => letter.payload.as_ref().map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes)),
        }),
        text(&|letter| letter.metadata.clone()),
        text(&|letter| letter.row.clone()),
    ];
    RecordBatch::try_new(schema(), columns).map_err(|error| RunError::fatal("dead letter", error))
}

/// At most one line of the log so often: a stream of bad rows must not become a stream of log lines.
const SAY_PERIOD: std::time::Duration = std::time::Duration::from_secs(10);

/// Says in the log that there are letters.
#[derive(Default)]
struct Voice {
    said: Option<tokio::time::Instant>,
    unsaid: u64,
}

impl Voice {
    fn say(&mut self, pipeline: &str, place: &str, letter: &Letter) {
        if self.said.is_some_and(|said| said.elapsed() < SAY_PERIOD) {
            self.unsaid += 1;
            return;
        }
        self.said = Some(tokio::time::Instant::now());
        let more = std::mem::take(&mut self.unsaid);
        let (component, reason) = (&letter.component, &letter.reason);
        tracing::warn!(
            pipeline,
            component,
            reason,
            more_since_the_last_line = more,
            dead_letters_in = place,
            "dead letter"
        );
    }
}

/// The dead letter's task: writes letters until all senders are gone. `place` is where, for the log.
pub(crate) async fn run(
    pipeline: String,
    place: String,
    mut sink: Box<dyn Sink>,
    restored: Option<Vec<u8>>,
    mut requests: mpsc::Receiver<Request>,
) -> Result<(), RunError> {
    let component = "dead letter";
    sink.with_retry(component, restored.as_deref()).await?;
    let failed = |error: &millstream_connectors::ConnectorError| RunError::connector(component, error);
    let mut waiting = Vec::new();
    let mut voice = Voice::default();
    while requests.recv_many(&mut waiting, LETTERS_PER_WRITE).await > 0 {
        let mut letters = Vec::new();
        for request in waiting.drain(..) {
            let done = match request {
                Request::Letter(letter) => {
                    voice.say(&pipeline, &place, &letter);
                    letters.push(letter);
                    continue;
                }
                Request::Committed => {
                    sink.committed().await.map_err(|error| failed(&error))?;
                    continue;
                }
                Request::Flush(done) => done,
            };
            write(&pipeline, sink.as_mut(), &mut letters).await?;
            let flushed = sink.flush().await.map_err(|error| failed(&error))?;
            report(&pipeline, &flushed.rejected);
            // The coordinator may have gone, which ends this task too.
            if done.send(flushed.state).is_err() {
                return Ok(());
            }
        }
        write(&pipeline, sink.as_mut(), &mut letters).await?;
    }
    sink.flush().await.map_err(|error| failed(&error))?;
    sink.close().await.map_err(|error| failed(&error))
}

async fn write(pipeline: &str, sink: &mut dyn Sink, letters: &mut Vec<Letter>) -> Result<(), RunError> {
    if letters.is_empty() {
        return Ok(());
    }
    let batch = to_batch(pipeline, letters)?;
    letters.clear();
    let rejected = sink.write(&batch).await.map_err(|error| RunError::connector("dead letter", &error))?;
    report(pipeline, &rejected);
    Ok(())
}

/// What even the dead letter's own destination refuses can only be said aloud.
fn report(pipeline: &str, rejected: &[millstream_connectors::Rejected]) {
    for letter in rejected {
        let payload = String::from_utf8_lossy(&letter.payload);
        tracing::error!(pipeline, reason = letter.reason, %payload, "the dead letter's destination refused a letter");
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Int64Array};

    use super::*;

    #[test]
    fn a_letter_about_a_narrowed_row_has_the_whole_message() {
        let message = br#"{"a":1,"b":"not decoded"}"#;
        let fields = vec![Field::new("a", DataType::Int64, true), message_column()];
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![1])), Arc::new(BinaryArray::from_vec(vec![message]))];
        let row = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let letter = Letter::row("step q".into(), "late", &row);
        assert_eq!(letter.row.as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(letter.payload.as_deref(), Some(&message[..]));
    }

    #[test]
    fn a_column_of_the_same_name_is_a_column() {
        let theirs: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"mine"]));
        let row = RecordBatch::try_from_iter([("__message", theirs.clone())]).unwrap();
        let letter = Letter::row("step q".into(), "late", &row);
        assert_eq!((letter.row.as_deref(), letter.payload), (Some(r#"{"__message":"bWluZQ=="}"#), None));

        let fields = vec![Field::new("__message", DataType::Binary, true), message_column()];
        let ours: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"whole"]));
        let row = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![theirs, ours]).unwrap();
        let letter = Letter::row("step q".into(), "late", &row);
        assert_eq!(letter.row.as_deref(), Some(r#"{"__message":"bWluZQ=="}"#));
        assert_eq!(letter.payload.as_deref(), Some(&b"whole"[..]));
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_as_base64() {
        let letter = |payload: &'static [u8]| Letter {
            component: "source s".into(),
            reason: "r".into(),
            payload: Some(Bytes::from_static(payload)),
            metadata: None,
            row: None,
        };
        let batch = to_batch("p", &[letter(b"text"), letter(&[0xff, 0x00])]).unwrap();
        let column = |index: usize| batch.column(index).as_any().downcast_ref::<StringArray>().unwrap();
        assert_eq!((column(4).value(0), column(5).is_null(0)), ("text", true));
        assert_eq!((column(4).is_null(1), column(5).value(1)), (true, "/wA="));
    }
}
