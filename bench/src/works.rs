//! The works of throughput that were asked for, one after another, on the same messages.

use crate::Results;
use crate::args::{Part, Profiled};
use crate::bench::Bench;
use crate::failure::Result;
use crate::messages::Expectation;
use crate::mqtt::Flow;
use crate::pipelines;
use crate::profile::Recording;
use crate::report;
use crate::rounds::in_turns;
use crate::throughput::{self, Input, Work};
use crate::variant::Variant;

/// Measures those works that were asked for, and profiles one where that was asked for.
pub(crate) fn measure(bench: &Bench, variants: &[Variant], results: &mut Results) -> Result<()> {
    let profiled = bench.args.profile;
    let kafka = [
        (Part::A, Profiled::A, Work::Filter, "a"),
        (Part::B, Profiled::B, Work::Windows, "b"),
        (Part::C, Profiled::C, Work::Rolling, "c"),
    ];
    let wanted: Vec<_> =
        kafka.into_iter().filter(|(part, profile, ..)| bench.args.wants(*part) || profiled == Some(*profile)).collect();
    if !wanted.is_empty() {
        let filled = fill_kafka(bench)?;
        for (part, profile, work, name) in wanted {
            let input = filled.input(bench)?;
            if bench.args.wants(part) {
                let title = format!("{}, {} messages", work.title(), report::thousands(bench.args.messages as f64));
                let runs =
                    in_turns(bench, variants, &title, |variant| throughput::run(bench, variant, work, &input, None))?;
                results.add(name, &report::throughput(&title, variants, &runs), &runs)?;
            }
            if profiled == Some(profile) {
                record(bench, &variants[0], work, &input, results)?;
            }
        }
    }
    if bench.args.wants(Part::Mqtt) || profiled == Some(Profiled::Mqtt) {
        measure_mqtt(bench, variants, results)?;
    }
    Ok(())
}

/// Topics with and without messages.
struct Filled {
    topic: String,
    empty: String,
    expectation: Expectation,
}

fn fill_kafka(bench: &Bench) -> Result<Filled> {
    let (topic, empty) = (bench.new_topic("in")?, bench.new_topic("empty")?);
    let count = bench.args.messages;
    bench.progress().begin(&format!("writing {} messages to Kafka", report::thousands(count as f64)));
    let expectation = crate::topics::fill(bench.brokers()?, &topic, count, bench.progress())?;
    bench.progress().clear();
    Ok(Filled { topic, empty, expectation })
}

impl Filled {
    fn input(&self, bench: &Bench) -> Result<Input<'_>> {
        let brokers = bench.brokers()?;
        let source = |topic: &String| pipelines::kafka_source(brokers, std::slice::from_ref(topic));
        Ok(Input {
            source: source(&self.topic),
            empty: source(&self.empty),
            expectation: &self.expectation,
            flow: None,
        })
    }
}

fn measure_mqtt(bench: &Bench, variants: &[Variant], results: &mut Results) -> Result<()> {
    let (work, root, count) = (Work::FilterMqtt, bench.name("devices"), bench.args.mqtt_messages);
    let title = format!("{}, {} messages", work.title(), report::thousands(count as f64));
    let (flow, expectation) = Flow::make(&bench.mqtt_address()?, &root, count, bench.progress())?;
    let broker = bench.mosquitto()?;
    let source = |root: &str| pipelines::mqtt_source(&broker.host, broker.port, &format!("{root}/+"));
    let input = Input { source: source(&root), empty: source("nothing"), expectation: &expectation, flow: Some(&flow) };
    if bench.args.wants(Part::Mqtt) {
        let runs = in_turns(bench, variants, &title, |variant| throughput::run(bench, variant, work, &input, None))?;
        results.add("mqtt", &report::throughput(&title, variants, &runs), &runs)?;
    }
    if bench.args.profile == Some(Profiled::Mqtt) {
        record(bench, &variants[0], work, &input, results)?;
    }
    Ok(())
}

fn record(bench: &Bench, variant: &Variant, work: Work, input: &Input<'_>, results: &mut Results) -> Result<()> {
    bench.progress().begin(&format!("{} under perf", work.title()));
    let folder = bench.args.keep.as_deref().unwrap_or(bench.folder());
    std::fs::create_dir_all(folder)?;
    let mut recording = Recording::new(folder)?;
    let run = throughput::run(bench, variant, work, input, Some(&mut recording))?;
    bench.progress().begin("reading the profile");
    let text = recording.profile()?.text(run.cpu_s_per_million);
    results.add("profile", &format!("{}: where the time goes\n{text}", work.title()), &text)
}
