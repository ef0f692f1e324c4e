//! Prints what a message costs on its way from a broker through the MQTT source and the ingest log to its reader, in
//! CPU time of this process.
//!
//! `cargo run --release -p millstream-connectors --example mqtt_bench -- PORT [MESSAGES [FOLDER]]`, with a broker on
//! that port of 127.0.0.1. The program starts itself a second time as the publisher, whose time does not count.

#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::{Schema, SchemaRef};
use millstream_connectors::ingest::{IngestLog, PARTITION, ReaderOptions};
use millstream_connectors::mqtt::MqttSourceConfig;
use millstream_connectors::source::{ExpressionCompiler, RowExpression, SourceEvent};
use millstream_connectors::{ConnectorError, Positions, SourceContext};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use tokio_util::sync::CancellationToken;

const PAYLOAD: &str =
    r#"{"machine_id":"m-0042","temperature":71.25,"pressure":1013.2,"status":"running","ts":"2026-01-01T00:00:00Z"}"#;

struct NoExpressions;

impl ExpressionCompiler for NoExpressions {
    fn compile(&self, _: &str, _: &SchemaRef) -> Result<Arc<dyn RowExpression>, String> {
        Err("there are none here".into())
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().ok_or("give the broker's port")?.parse()?;
    let messages: u64 = arguments.next().map_or(Ok(200_000), |count| count.parse())?;
    let folder = arguments.next();
    if folder.as_deref() == Some("--publish") {
        return publish(port, messages).await;
    }
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("mqtt-bench-{}", std::process::id()));
    let measured = measure(port, messages, &folder).await;
    std::fs::remove_dir_all(&folder)?;
    measured
}

async fn measure(port: u16, messages: u64, folder: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let config: MqttSourceConfig = serde_json::from_value(serde_json::json!({
        "url": format!("mqtt://127.0.0.1:{port}"), "topics": ["bench/#"], "clean_start": true,
    }))?;
    let context = SourceContext {
        pipeline: "bench".into(),
        name: format!("source-{}", std::process::id()),
        base_dir: ".".into(),
        metadata: Vec::new(),
        batch_rows_max: 8192,
        batch_bytes_max: 4 << 20,
        columns: Arc::new(Schema::empty()),
        routes: Arc::default(),
        expressions: Arc::new(NoExpressions),
    };
    let log = IngestLog::open(folder, &config.ingest)?;
    let (mut source, writer, stop) = (config.build(&context)?, log.writer(), CancellationToken::new());
    let stopped = stop.clone();
    let running = tokio::spawn(async move { source.run(writer, stopped).await });
    // Time to subscribe.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let (started, before) = (Instant::now(), cpu_seconds()?);
    let publisher = std::process::Command::new(std::env::current_exe()?)
        .args([port.to_string(), messages.to_string(), "--publish".into()])
        .spawn()?;
    let batches = read(&log, messages).await?;
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - before);
    stop.cancel();
    running.await??;
    tokio::task::spawn_blocking(move || publisher.wait_with_output()).await??;
    println!(
        "{messages} messages in {batches} batches: {:.0}/s, {:.2} CPU s per million, {:.0} per core-second",
        messages as f64 / wall,
        cpu / messages as f64 * 1e6,
        messages as f64 / cpu
    );
    Ok(())
}

/// Reads along and commits, as a pipeline does. Returns how many batches there were.
async fn read(log: &Arc<IngestLog>, messages: u64) -> Result<usize, ConnectorError> {
    let options = ReaderOptions { fields: Vec::new(), batch_rows_max: 8192, batch_bytes_max: 4 << 20 };
    let mut reader = log.reader(options);
    reader.open(&Positions::default()).await?;
    let (mut rows, mut batches) = (0, 0);
    while rows < messages {
        if let SourceEvent::Messages(batch) = reader.next().await? {
            rows += batch.payloads.iter().count() as u64;
            batches += 1;
            let mut upto = Positions::default();
            upto.set(PARTITION, batch.next_position);
            reader.commit(&upto).await?;
        }
    }
    Ok(batches)
}

async fn publish(port: u16, messages: u64) -> Result<(), Box<dyn Error>> {
    let mut options = MqttOptions::new(format!("publisher-{}", std::process::id()), "127.0.0.1", port);
    options.set_outgoing_inflight_upper_limit(1000);
    let (client, mut events) = AsyncClient::new(options, 1000);
    let sending = tokio::spawn(async move {
        for number in 0..messages {
            let topic = format!("bench/{}", number % 100);
            if client.publish(topic, QoS::AtLeastOnce, false, PAYLOAD).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
    let mut left = messages;
    while left > 0 {
        if let Event::Incoming(Incoming::PubAck(_)) = events.poll().await? {
            left -= 1;
        }
    }
    sending.abort();
    Ok(())
}

/// The CPU time that this process has used: user and system time in the kernel's ticks of 1/100 s.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).ok_or("short").and_then(|field| field.parse::<f64>().map_err(|_| "no number"));
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
