//! End-to-end latency at a fixed rate: from the moment when a message should have been sent to the moment when its row
//! is there, over MQTT → SQL → HTTP and Kafka → SQL → Kafka.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use serde::Serialize;
use serde_json::Value;

use crate::Results;
use crate::arrivals::{Arrivals, Percentiles};
use crate::bench::Bench;
use crate::daemon::Daemon;
use crate::failure::{Context, Failure, Result, failed};
use crate::http_server::HttpServer;
use crate::messages::Messages;
use crate::mqtt::{self, Connection};
use crate::pipelines;
use crate::report;
use crate::rounds::{in_turns, median};
use crate::schedule::Schedule;
use crate::topics::{Reader, producer, send};
use crate::variant::Variant;

/// What comes in the first seconds is not measured.
const WARM_UP: u32 = 5;
/// A last row takes no longer.
const PATIENCE: Duration = Duration::from_secs(10);
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);
/// The daemon is given so long before the first message.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    MqttToHttp,
    KafkaToKafka,
}

/// The figures of one run.
#[derive(Debug, Clone, Serialize)]
struct Latency {
    #[serde(flatten)]
    latency: Percentiles,
    rate: u32,
    /// Seconds of CPU per second.
    cores: f64,
    repeated: u64,
}

/// Measures both routes.
pub(crate) fn measure(bench: &Bench, variants: &[Variant], results: &mut Results) -> Result<()> {
    let routes = [
        (Route::MqttToHttp, "MQTT → SQL → HTTP", "latency_mqtt_http"),
        (Route::KafkaToKafka, "Kafka → SQL → Kafka", "latency_kafka_kafka"),
    ];
    for (route, title, name) in routes {
        let title = format!("Latency {title}, {} msg/s for {} s", bench.args.rate, bench.args.latency_seconds);
        let runs = in_turns(bench, variants, &title, |variant| run(bench, variant, route))?;
        let rows = variants.iter().zip(&runs).map(|(variant, runs)| {
            let ms = |of: fn(&Latency) -> f64| format!("{:.2}", median(runs.iter().map(of)));
            vec![
                variant.name.clone(),
                ms(|run| run.latency.p50_ms),
                ms(|run| run.latency.p99_ms),
                ms(|run| run.latency.p999_ms),
                ms(|run| run.latency.max_ms),
                ms(|run| run.cores),
                report::thousands(median(runs.iter().map(|run| run.latency.count as f64))),
            ]
        });
        let header = ["", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "cores", "rows"];
        results.add(name, &format!("{title}\n{}\n", report::table(&header, rows.collect())), &runs)?;
    }
    Ok(())
}

fn run(bench: &Bench, variant: &Variant, route: Route) -> Result<Latency> {
    match route {
        Route::MqttToHttp => mqtt_to_http(bench, variant),
        Route::KafkaToKafka => kafka_to_kafka(bench, variant),
    }
}

fn mqtt_to_http(bench: &Bench, variant: &Variant) -> Result<Latency> {
    let (name, address, broker) = (bench.name("latency"), bench.mqtt_address()?, bench.mosquitto()?);
    let server = HttpServer::start(&bench.runtime)?;
    let source = pipelines::mqtt_source(&broker.host, broker.port, &format!("{name}/+"));
    let pipeline = pipelines::pipeline(&name, &source, pipelines::NUMBERED, &pipelines::http_sink(&server.url));
    let mut connection = Connection::open(&address, &name)?;
    let mut packets = BytesMut::new();
    let send = |number: u64, key: &str, json: &[u8]| {
        packets.clear();
        mqtt::packet(mqtt::topic(&name, key), number, json, &mut packets)?;
        connection.write(&packets)
    };
    paced(bench, variant, &pipeline, Some("subscribed"), send, |arrivals| server.take(arrivals))
}

fn kafka_to_kafka(bench: &Bench, variant: &Variant) -> Result<Latency> {
    let (brokers, from, to) = (bench.brokers()?, bench.new_topic("latency-in")?, bench.new_topic("latency-out")?);
    let source = pipelines::kafka_source(brokers, std::slice::from_ref(&from));
    let pipeline = pipelines::pipeline(&to, &source, pipelines::NUMBERED, &pipelines::kafka_sink(brokers, &to));
    let producer = producer(brokers, Duration::ZERO)?;
    let reader = Reader::new(brokers, &to, true)?;
    let (stop, mut reading) = (Arc::new(AtomicBool::new(false)), None);
    let send = |_, key: &str, json: &[u8]| {
        producer.poll(Duration::ZERO);
        send(&producer, &from, key, json)
    };
    let receive = |arrivals: Arc<Arrivals>| {
        let stop = stop.clone();
        reading = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let mut row = Ok(());
                reader.next(Duration::from_millis(100), |json| row = arrivals.row(json, Instant::now()))?;
                row?;
            }
            Ok::<_, Failure>(())
        }));
    };
    let latency = paced(bench, variant, &pipeline, None, send, receive);
    stop.store(true, Ordering::SeqCst);
    let read = reading.map_or(Ok(Ok(())), std::thread::JoinHandle::join);
    read.unwrap_or_else(|_| failed("the reader panicked")).context(|| "reading the rows".to_owned())?;
    latency
}

/// Runs the daemon on `pipeline`, sends messages as scheduled, and waits for their rows. `ready` is a text of the log to
/// wait for first; `receive` is told where rows are to be handed in.
fn paced(
    bench: &Bench,
    variant: &Variant,
    pipeline: &Value,
    ready: Option<&str>,
    mut send: impl FnMut(u64, &str, &[u8]) -> Result<()>,
    receive: impl FnOnce(Arc<Arrivals>),
) -> Result<Latency> {
    let rate = bench.args.rate;
    let (warm_up, measured) = (u64::from(rate * WARM_UP), u64::from(rate) * u64::from(bench.args.latency_seconds));
    let mut daemon = Daemon::start(variant, bench.folder(), std::slice::from_ref(pipeline))?;
    if let Some(text) = ready {
        daemon.wait_for_log(text, 1, SUBSCRIBE_TIMEOUT)?;
    }
    std::thread::sleep(SETTLE);
    let schedule = Schedule::new(Instant::now() + Duration::from_millis(10), rate);
    let arrivals = Arc::new(Arrivals::new(schedule, warm_up + measured, warm_up)?);
    receive(arrivals.clone());
    let (mut messages, mut json, mut before) = (Messages::new(), Vec::new(), None);
    schedule.run(warm_up + measured, |number| {
        if number == warm_up {
            before = Some(daemon.usage()?);
        }
        json.clear();
        let message = messages.write_next(&mut json);
        send(number, &message.key(), &json)
    })?;
    let (before, after) = (before.unwrap_or(daemon.usage()?), daemon.usage()?);
    if !arrivals.wait(PATIENCE) {
        return failed(format!("{} rows did not come; the log:\n{}", arrivals.missing(), daemon.log_tail()));
    }
    daemon.stop(bench.keep(pipeline["name"].as_str().unwrap_or_default()))?;
    let cores = (after.cpu_s - before.cpu_s) / (after.at - before.at).as_secs_f64();
    Ok(Latency { latency: arrivals.percentiles(), rate, cores, repeated: arrivals.repeated() })
}
