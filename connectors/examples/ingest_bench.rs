//! Prints how many appends a second the ingest log takes, by how many wait at once.
//!
//! `cargo run --release -p millstream-connectors --example ingest_bench -- [folder]`. Every append is one message of 200
//! bytes and is waited for, as an HTTP client or the broker's PUBACK would. Put the folder on the disk to be measured.

#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_connectors::Positions;
use millstream_connectors::ingest::{IngestConfig, IngestLog, IngestMessage, MetadataValue, PARTITION, ReaderOptions};
use millstream_connectors::source::SourceEvent;

const MEASURE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("ingest-bench-{}", std::process::id()));
    println!("{:>12} {:>12} {:>14} {:>12}", "waiting", "appends/s", "messages/s", "mean ms");
    for (appenders, batch) in [(1, 1), (10, 1), (100, 1), (1000, 1), (10, 100), (100, 100)] {
        let log = IngestLog::open(&folder, &IngestConfig::default())?;
        let reading = tokio::spawn(read(log.clone()));
        let (appends, waited) = measure(&log, appenders, batch).await?;
        let rate = appends as f64 / MEASURE.as_secs_f64();
        let mean = waited.as_secs_f64() * 1e3 / appends.max(1) as f64;
        println!("{:>8} x {batch:<3} {rate:>10.0} {:>14.0} {mean:>12.2}", appenders, rate * batch as f64);
        reading.abort();
        reading.await.ok();
        drop(log);
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

/// The appends done, and the time all of them waited.
async fn measure(
    log: &Arc<IngestLog>,
    appenders: usize,
    batch: usize,
) -> Result<(u64, Duration), Box<dyn std::error::Error>> {
    let message = IngestMessage {
        payload: Some(Bytes::from(vec![b'x'; 200])),
        metadata: vec![("topic", "fleet/4711/telemetry".into()), ("qos", MetadataValue::Int(1))],
    };
    let until = Instant::now() + MEASURE;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..appenders {
        let (writer, messages) = (log.writer(), vec![message.clone(); batch]);
        tasks.spawn(async move {
            let (mut appends, mut waited) = (0, Duration::ZERO);
            while Instant::now() < until {
                let started = Instant::now();
                writer.append_when_room(messages.clone()).await?.await?;
                waited += started.elapsed();
                appends += 1;
            }
            Ok::<_, millstream_connectors::ingest::IngestError>((appends, waited))
        });
    }
    let mut sum = (0, Duration::ZERO);
    while let Some(done) = tasks.join_next().await {
        let (appends, waited) = done??;
        sum = (sum.0 + appends, sum.1 + waited);
    }
    Ok(sum)
}

/// Reads along and commits, as a pipeline does.
async fn read(log: Arc<IngestLog>) -> Result<(), millstream_connectors::ConnectorError> {
    let options = ReaderOptions { fields: Vec::new(), batch_rows_max: 8192, batch_bytes_max: 4 << 20 };
    let mut reader = log.reader(options);
    drop(log);
    reader.open(&Positions::default()).await?;
    loop {
        if let SourceEvent::Messages(batch) = reader.next().await? {
            let mut upto = Positions::default();
            upto.set(PARTITION, batch.next_position);
            reader.commit(&upto).await?;
        }
    }
}
