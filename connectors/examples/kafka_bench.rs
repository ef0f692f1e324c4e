//! Prints what reading from Kafka and writing to it cost in CPU time: Millstream's source and sink beside rdkafka as it is.
//!
//! `cargo run --release -p millstream-connectors --example kafka_bench -- HOST:PORT [MILLIONS [ROUNDS [ONLY]]]`
//!
//! The broker must be running (`./dev services` starts one and prints its address). Topics are created and filled with
//! messages of about 146 bytes, and stay. Each way handles all messages in each round, in turns, and the median of the
//! rounds counts. What is counted is the CPU time of all threads of this process, user and system, from the first message
//! to the last (reading) or to the last acknowledgement (writing). "rdkafka" is one message at a time by
//! `BaseConsumer::poll` into an Arrow array, and by `ThreadedProducer::send`; both sides have the same options of
//! librdkafka. ONLY names one way (`read-source`, `read-rdkafka`, `write-sink`, `write-rdkafka`), to profile it, or
//! `latency`: how long a row takes from the sink's `write` through the broker to the source's `next`, at 1,000 rows/s. The
//! environment variables KAFKA_BENCH_SOURCE and KAFKA_BENCH_SINK have further options as JSON (`{"linger": "20ms"}`),
//! KAFKA_BENCH_METADATA the metadata fields to read (`key,offset`).

#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayBuilder, BinaryArray, BinaryBuilder, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_connectors::format::FormatConfig;
use millstream_connectors::kafka::{KafkaSinkConfig, KafkaSourceConfig, METADATA};
use millstream_connectors::{Positions, Sink, SinkContext, Source, SourceContext, SourceEvent};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

const READ_TOPIC: &str = "kafka-bench-read";
const WRITE_TOPIC: &str = "kafka-bench-write";
const LATENCY_TOPIC: &str = "kafka-bench-latency";
/// So many rows, one each millisecond; those of the first second do not count.
const LATENCY_ROWS: usize = 10_000;
const LATENCY_WARM_UP: usize = 1_000;
const BATCH_ROWS: usize = 8192;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// What one way cost.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    wall: f64,
    /// Messages per batch, where there are batches.
    batch: f64,
}

/// One way to do one of the works.
struct Way {
    name: &'static str,
    run: fn(&str, usize) -> Fallible<Cost>,
}

const WAYS: &[Way] = &[
    Way { name: "read-rdkafka", run: read_rdkafka },
    Way { name: "read-source", run: read_source },
    Way { name: "write-rdkafka", run: write_rdkafka },
    Way { name: "write-sink", run: write_sink },
];

fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(brokers) = arguments.next() else {
        println!("no broker was named: kafka_bench HOST:PORT [MILLIONS [ROUNDS [ONLY]]]; see `./dev services`");
        return Ok(());
    };
    let millions: f64 = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let only = arguments.next();
    let messages = (millions * 1e6) as usize;
    if only.as_deref() == Some("latency") {
        create(&brokers)?;
        return latency(&brokers);
    }
    fill(&brokers, messages)?;
    let ways: Vec<_> = WAYS.iter().filter(|way| only.as_deref().is_none_or(|only| only == way.name)).collect();
    let mut costs = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (way, costs) in ways.iter().zip(&mut costs) {
            costs.push((way.run)(&brokers, messages)?);
        }
    }
    println!("{:>14} {:>16} {:>16} {:>14} {:>12}", "way", "CPU s/million", "least", "million/s", "rows/batch");
    for (way, mut costs) in ways.iter().zip(costs) {
        costs.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
        let (median, least) = (costs[costs.len() / 2], costs[0]);
        let (cpu, least) = (median.cpu / millions, least.cpu / millions);
        let (rate, batch) = (millions / median.wall, median.batch);
        println!("{:>14} {cpu:>16.3} {least:>16.3} {rate:>14.2} {batch:>12.0}", way.name);
    }
    Ok(())
}

/// The CPU time of this process, in seconds.
fn cpu() -> Fallible<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> =
        stat.rsplit_once(')').ok_or("an unknown form of /proc/self/stat")?.1.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    // Linux shows them to programs as hundredths of a second, whatever its own clock is.
    Ok(ticks / 100.0)
}

/// Message number `n`, of about 146 bytes.
fn message(n: usize) -> String {
    // A walk without a generator of random numbers: neighbours differ, and the lengths vary as real ones do.
    let mixed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let device = mixed % 1000;
    format!(
        r#"{{"ts":{},"device":"dev-{device:04}","site":"plant-{}","temp":{}.{:03},"humidity":{}.{:02},"pressure":{}.{:02},"seq":{n},"status":"{}","fw":"1.{}.0"}}"#,
        1_700_000_000_000_usize + n,
        device % 7,
        15 + mixed % 20,
        mixed % 1000,
        40 + mixed % 20,
        mixed % 100,
        1000 + mixed % 30,
        mixed % 97,
        if n.is_multiple_of(50) { "warn" } else { "ok" },
        device % 10,
    )
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

#[tokio::main(flavor = "current_thread")]
async fn create(brokers: &str) -> Fallible<()> {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create()?;
    let new: Vec<_> = [READ_TOPIC, WRITE_TOPIC, LATENCY_TOPIC]
        .iter()
        .map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1)))
        .collect();
    // Those that exist are refused, and left as they are.
    admin.create_topics(&new, &AdminOptions::new()).await?;
    Ok(())
}

/// Sees to it that there are at least so many messages to read.
fn fill(brokers: &str, messages: usize) -> Fallible<()> {
    create(brokers)?;
    let consumer: BaseConsumer = client(brokers).create()?;
    let (first, end) = consumer.fetch_watermarks(READ_TOPIC, 0, Duration::from_secs(30))?;
    let there = usize::try_from(end - first)?;
    let producer = rdkafka_producer(brokers)?;
    for n in there..messages {
        send(&producer, READ_TOPIC, message(n).as_bytes())?;
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(())
}

fn rdkafka_producer(brokers: &str) -> Fallible<ThreadedProducer<DefaultProducerContext>> {
    let mut config = client(brokers);
    config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "5").set("batch.size", "1000000");
    config.set("queue.buffering.max.messages", "100000").set("partitioner", "murmur2_random");
    Ok(config.create()?)
}

/// Hands one message over; waits while there is no room.
fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str, payload: &[u8]) -> Fallible<()> {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};
    loop {
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).payload(payload);
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                #[expect(clippy::disallowed_methods, reason = "no runtime is here")]
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// A number that no group had before.
fn unique() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos())
}

fn read_rdkafka(brokers: &str, messages: usize) -> Fallible<Cost> {
    let mut config = client(brokers);
    config.set("group.id", format!("kafka-bench-{}", unique())).set("auto.offset.reset", "earliest");
    config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    config.set("fetch.queue.backoff.ms", "5").set("queued.min.messages", "20000");
    config.set("queued.max.messages.kbytes", "65536").set("fetch.wait.max.ms", "50");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[READ_TOPIC])?;
    let mut rows = BinaryBuilder::new();
    let (mut taken, mut start) = (0, None);
    while taken < messages {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        if start.is_none() {
            start = Some((cpu()?, Instant::now()));
        }
        rows.append_option(message.payload());
        if rows.len() == BATCH_ROWS {
            std::hint::black_box(rows.finish());
        }
        taken += 1;
    }
    let (before, began) = start.ok_or("nothing was read")?;
    Ok(Cost { cpu: cpu()? - before, wall: began.elapsed().as_secs_f64(), batch: BATCH_ROWS as f64 })
}

/// Adds the options that an environment variable has as JSON.
fn add_options(options: &mut serde_json::Value, variable: &str) -> Fallible<()> {
    let Ok(text) = std::env::var(variable) else { return Ok(()) };
    let more: serde_json::Map<_, _> = serde_json::from_str(&text)?;
    options.as_object_mut().ok_or("options are an object")?.extend(more);
    Ok(())
}

fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("payload", DataType::Binary, true)]))
}

/// Compiles nothing: a source of Kafka asks for no expression.
struct NoExpressions;

impl millstream_connectors::source::ExpressionCompiler for NoExpressions {
    fn compile(&self, _: &str, _: &SchemaRef) -> Result<Arc<dyn millstream_connectors::source::RowExpression>, String> {
        Err("there are none here".to_owned())
    }
}

fn source(brokers: &str, topic: &str, start: &str) -> Fallible<Box<dyn Source>> {
    let mut options = serde_json::json!({
        "brokers": brokers, "topics": topic, "start_offset": start, "group_id": format!("kafka-bench-{}", unique()),
    });
    add_options(&mut options, "KAFKA_BENCH_SOURCE")?;
    let config: KafkaSourceConfig = serde_json::from_value(options)?;
    let metadata = std::env::var("KAFKA_BENCH_METADATA").unwrap_or_default();
    let known = METADATA.iter().map(|field| field.name).filter(|name| metadata.split(',').any(|one| one == *name));
    let source = config.build(&SourceContext {
        pipeline: "bench".into(),
        name: "read".into(),
        base_dir: ".".into(),
        metadata: known.map(str::to_owned).collect(),
        batch_rows_max: BATCH_ROWS,
        batch_bytes_max: 4 << 20,
        columns: columns(),
        routes: Arc::default(),
        expressions: Arc::new(NoExpressions),
    })?;
    Ok(source)
}

#[tokio::main(flavor = "current_thread")]
async fn read_source(brokers: &str, messages: usize) -> Fallible<Cost> {
    let mut source = source(brokers, READ_TOPIC, "earliest")?;
    source.open(&Positions::default()).await?;
    let (mut taken, mut batches, mut start) = (0, 0, None);
    while taken < messages {
        if let SourceEvent::Messages(batch) = source.next().await? {
            if start.is_none() {
                start = Some((cpu()?, Instant::now()));
            }
            taken += batch.payloads.len();
            batches += 1;
            std::hint::black_box(batch);
        }
    }
    let (before, began) = start.ok_or("nothing was read")?;
    let cost =
        Cost { cpu: cpu()? - before, wall: began.elapsed().as_secs_f64(), batch: taken as f64 / f64::from(batches) };
    source.close().await?;
    Ok(cost)
}

/// The rows to write, made beforehand.
fn rows(messages: usize) -> Fallible<Vec<RecordBatch>> {
    let texts: Vec<_> = (0..messages).map(message).collect();
    let batch = |texts: &[String]| {
        let payloads = BinaryArray::from_iter_values(texts.iter().map(String::as_bytes));
        Ok(RecordBatch::try_new(columns(), vec![Arc::new(payloads)])?)
    };
    texts.chunks(BATCH_ROWS).map(batch).collect()
}

fn write_rdkafka(brokers: &str, messages: usize) -> Fallible<Cost> {
    let rows = rows(messages)?;
    let producer = rdkafka_producer(brokers)?;
    let (before, began) = (cpu()?, Instant::now());
    for batch in &rows {
        let payloads = batch.column(0).as_any().downcast_ref::<BinaryArray>().ok_or("no byte strings")?;
        for payload in payloads.iter().flatten() {
            send(&producer, WRITE_TOPIC, payload)?;
        }
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(Cost { cpu: cpu()? - before, wall: began.elapsed().as_secs_f64(), batch: 1.0 })
}

fn sink(brokers: &str, topic: &str) -> Fallible<Box<dyn Sink>> {
    let mut options = serde_json::json!({"brokers": brokers, "topic": topic});
    add_options(&mut options, "KAFKA_BENCH_SINK")?;
    let config: KafkaSinkConfig = serde_json::from_value(options)?;
    let format: FormatConfig = serde_json::from_value(serde_json::json!("bytes"))?;
    let sink = config.build(&SinkContext {
        pipeline: "bench".into(),
        name: "write".into(),
        base_dir: ".".into(),
        columns: columns(),
        format: Some(format),
        routes: Arc::default(),
    })?;
    Ok(sink)
}

/// Prints how long rows take.
#[tokio::main(flavor = "current_thread")]
async fn latency(brokers: &str) -> Fallible<()> {
    let (mut source, mut sink) = (source(brokers, LATENCY_TOPIC, "earliest")?, sink(brokers, LATENCY_TOPIC)?);
    source.open(&Positions::default()).await?;
    sink.open(None).await?;
    let (run, began, before) = (unique().to_string(), Instant::now(), cpu()?);
    let writing = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        for n in 0..LATENCY_ROWS {
            // Where a tick comes late the row is late too: its time is when it should have been written.
            let due = ticks.tick().await.into_std().duration_since(began).as_nanos();
            let payload = BinaryArray::from_iter_values([format!("{run} {n} {due}")]);
            sink.write(&RecordBatch::try_new(columns(), vec![Arc::new(payload)])?).await?;
        }
        sink.flush().await?;
        Ok::<_, Box<dyn Error>>(())
    };
    let mut taken = Vec::with_capacity(LATENCY_ROWS);
    let reading = async {
        while taken.len() < LATENCY_ROWS {
            let SourceEvent::Messages(batch) = source.next().await? else { continue };
            let now = began.elapsed().as_nanos() as f64;
            for text in batch.payloads.iter().flatten().map(std::str::from_utf8) {
                let parts: Vec<_> = text?.split(' ').collect();
                if parts[0] == run {
                    taken.push((now - parts[2].parse::<f64>()?) / 1e6);
                }
            }
        }
        Ok::<_, Box<dyn Error>>(())
    };
    tokio::try_join!(writing, reading)?;
    let used = (cpu()? - before) / began.elapsed().as_secs_f64() * 100.0;
    taken.drain(..LATENCY_WARM_UP);
    taken.sort_by(f64::total_cmp);
    let at = |part: f64| taken[((taken.len() - 1) as f64 * part) as usize];
    println!("latency in ms: p50 {:.2}, p99 {:.2}, p99.9 {:.2}, most {:.2}", at(0.5), at(0.99), at(0.999), at(1.0));
    println!("CPU: {used:.1}% of a core");
    source.close().await?;
    sink.close().await?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn write_sink(brokers: &str, messages: usize) -> Fallible<Cost> {
    let rows = rows(messages)?;
    let mut sink = sink(brokers, WRITE_TOPIC)?;
    sink.open(None).await?;
    let (before, began) = (cpu()?, Instant::now());
    for batch in &rows {
        sink.write(batch).await?;
    }
    sink.flush().await?;
    let cost = Cost { cpu: cpu()? - before, wall: began.elapsed().as_secs_f64(), batch: BATCH_ROWS as f64 };
    sink.close().await?;
    Ok(cost)
}
