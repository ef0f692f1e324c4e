//! The pause that a changed file makes: the longest gap between rows out around the change, minus the usual one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Results;
use crate::bench::Bench;
use crate::daemon::Daemon;
use crate::failure::{Context, Failure, Result, failed};
use crate::messages::Messages;
use crate::pipelines;
use crate::report;
use crate::rounds::{in_turns, median};
use crate::schedule::Schedule;
use crate::topics::{Reader, producer, send};
use crate::variant::Variant;

/// Messages per second.
const RATE: u32 = 2_000;
/// The file is changed so often.
const RELOADS: u32 = 5;
/// From one change to the next: longer than a change takes.
const PERIOD: Duration = Duration::from_secs(4);
/// Before the first change, the second half of it to see the usual gaps.
const WARM_UP: Duration = Duration::from_secs(12);
/// A last row takes no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a row says of itself: its message, and which text of the file made it.
#[derive(Debug, Deserialize)]
struct Row {
    seq: u64,
    version: u32,
}

/// A row that came: when, in seconds since the first message was due.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    at_s: f64,
    version: u32,
}

/// The figures of one run.
#[derive(Debug, Clone, Serialize)]
struct Reloads {
    /// The longest gap within a period without a change: the median of several.
    usual_gap_ms: f64,
    /// The longest gap within the period after each change, minus the usual one.
    pauses_ms: Vec<f64>,
    /// From the file's change to the first row that its new text made.
    until_new_rows_ms: Vec<f64>,
    /// Rows that came more than once.
    repeated: u64,
}

/// Measures reloads.
pub(crate) fn measure(bench: &Bench, variants: &[Variant], results: &mut Results) -> Result<()> {
    let title = format!("Reload of a pipeline under {} msg/s, {RELOADS} changes", report::thousands(f64::from(RATE)));
    let runs = in_turns(bench, variants, &title, |variant| run(bench, variant))?;
    let rows = variants.iter().zip(&runs).map(|(variant, runs)| {
        let pauses = || runs.iter().flat_map(|run| run.pauses_ms.iter().copied());
        let until = runs.iter().flat_map(|run| run.until_new_rows_ms.iter().copied());
        vec![
            variant.name.clone(),
            format!("{:.0}", median(runs.iter().map(|run| run.usual_gap_ms))),
            format!("{:.0}", median(pauses())),
            format!("{:.0}", pauses().fold(0.0, f64::max)),
            format!("{:.0}", median(until)),
            runs.iter().map(|run| run.repeated).sum::<u64>().to_string(),
        ]
    });
    let header = ["", "usual gap ms", "pause ms, median", "pause ms, most", "change to new rows ms", "repeated rows"];
    results.add("reload", &format!("{title}\n{}\n", report::table(&header, rows.collect())), &runs)
}

fn run(bench: &Bench, variant: &Variant) -> Result<Reloads> {
    let (brokers, from, to) = (bench.brokers()?, bench.new_topic("reload-in")?, bench.new_topic("reload-out")?);
    let pipeline = |version: u32| -> Result<Value> {
        let source = pipelines::kafka_source(brokers, std::slice::from_ref(&from));
        let sql = format!("SELECT seq, ts, device, temp, {version} AS version FROM readings WHERE temp > -1000");
        Ok(pipelines::pipeline(&to, &source, &sql, &pipelines::kafka_sink(brokers, &to)))
    };
    let mut daemon = Daemon::start(variant, bench.folder(), &[pipeline(0)?])?;
    let start = Instant::now();
    let count = u64::from(RATE) * (WARM_UP + PERIOD * RELOADS).as_secs();
    let reading = Reading::start(Reader::new(brokers, &to, true)?, start, count);
    let (producer, mut messages, mut json) = (producer(brokers, Duration::ZERO)?, Messages::new(), Vec::new());
    let mut changes_s = Vec::new();
    Schedule::new(start, RATE).run(count, |number| {
        let due = WARM_UP + PERIOD * changes_s.len() as u32;
        if start.elapsed() >= due && (changes_s.len() as u32) < RELOADS {
            changes_s.push(start.elapsed().as_secs_f64());
            daemon.rewrite(variant, &pipeline(changes_s.len() as u32)?)?;
        }
        json.clear();
        let message = messages.write_next(&mut json);
        if number % 10 == 0 {
            producer.poll(Duration::ZERO);
        }
        send(&producer, &from, &message.key(), &json)
    })?;
    let (arrivals, repeated) = reading.finish().context(|| format!("the log:\n{}", daemon.log_tail()))?;
    daemon.check()?;
    daemon.stop(bench.keep(&to))?;
    figures(&arrivals, &changes_s, repeated)
}

fn figures(arrivals: &[Arrival], changes_s: &[f64], repeated: u64) -> Result<Reloads> {
    let period = PERIOD.as_secs_f64();
    let first = WARM_UP.as_secs_f64() / 2.0;
    let before = changes_s.first().copied().unwrap_or_default();
    // Quiet periods as long as those around the changes, one beginning every half second.
    let starts = (0..).map(|step| first + f64::from(step) * 0.5).take_while(|start| start + period <= before);
    let usual_gap_ms = median(starts.map(|start| longest_gap_ms(arrivals, start, start + period)));
    let mut pauses_ms = Vec::new();
    let mut until_new_rows_ms = Vec::new();
    for (version, change_s) in (1..).zip(changes_s) {
        pauses_ms.push((longest_gap_ms(arrivals, *change_s, change_s + period) - usual_gap_ms).max(0.0));
        match arrivals.iter().find(|arrival| arrival.version == version) {
            Some(new) => until_new_rows_ms.push((new.at_s - change_s) * 1e3),
            None => return failed(format!("change {version} of the file made no row")),
        }
    }
    Ok(Reloads { usual_gap_ms, pauses_ms, until_new_rows_ms, repeated })
}

/// The longest time between two rows that follow each other, one of which at least came within the period.
fn longest_gap_ms(arrivals: &[Arrival], from_s: f64, to_s: f64) -> f64 {
    let pairs = arrivals.windows(2).map(|pair| (pair[0].at_s, pair[1].at_s));
    pairs
        .filter(|(one, next)| *next >= from_s && *one <= to_s)
        .map(|(one, next)| (next - one) * 1e3)
        .fold(0.0, f64::max)
}

#[derive(Debug, Default)]
struct Read {
    arrivals: Vec<Arrival>,
    seen: Vec<bool>,
    came: u64,
    repeated: u64,
}

/// Reads the rows in a thread of its own.
struct Reading {
    read: Arc<Mutex<Read>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
    count: u64,
}

impl Reading {
    fn start(reader: Reader, start: Instant, count: u64) -> Self {
        let read = Arc::new(Mutex::new(Read { seen: vec![false; count as usize], ..Read::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, stopped) = (read.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let mut taken = Ok(());
                reader.next(Duration::from_millis(100), |json| taken = take(&theirs, json, start))?;
                taken?;
            }
            Ok(())
        });
        Self { read, stop, thread, count }
    }

    /// Waits for the last row; all rows, and how many came more than once.
    fn finish(self) -> Result<(Vec<Arrival>, u64)> {
        let deadline = Instant::now() + PATIENCE;
        let came = || self.read.lock().unwrap_or_else(PoisonError::into_inner).came;
        while came() < self.count && Instant::now() < deadline && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap_or_else(|_| failed("the reader panicked"))?;
        let read = std::mem::take(&mut *self.read.lock().unwrap_or_else(PoisonError::into_inner));
        if read.came < self.count {
            return failed(format!("{} of {} rows came", read.came, self.count));
        }
        Ok((read.arrivals, read.repeated))
    }
}

fn take(read: &Mutex<Read>, json: &[u8], start: Instant) -> Result<()> {
    let at_s = start.elapsed().as_secs_f64();
    let row: Row = serde_json::from_slice(json)?;
    let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
    read.arrivals.push(Arrival { at_s, version: row.version });
    let Some(seen) = read.seen.get_mut(row.seq as usize) else {
        return Err(Failure(format!("there is no message {}", row.seq)));
    };
    if std::mem::replace(seen, true) {
        read.repeated += 1
    } else {
        read.came += 1
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(times: impl IntoIterator<Item = (f64, u32)>) -> Vec<Arrival> {
        times.into_iter().map(|(at_s, version)| Arrival { at_s, version }).collect()
    }

    #[test]
    fn a_gap_counts_where_it_touches_the_period() {
        let arrivals = arrivals([(0.0, 0), (1.0, 0), (1.1, 0), (1.5, 0), (3.0, 0)]);
        assert!((longest_gap_ms(&arrivals, 1.05, 1.3) - 400.0).abs() < 1e-6);
        assert!((longest_gap_ms(&arrivals, 1.2, 1.6) - 1_500.0).abs() < 1e-6);
        assert_eq!(longest_gap_ms(&arrivals, 4.0, 5.0), 0.0);
    }

    #[test]
    fn a_pause_is_the_gap_beyond_the_usual_one() {
        // A row every 10 ms, without those of 150 ms behind the change at 12 s.
        let rows = (0..1_700).map(|n| f64::from(n) * 0.01).filter(|at| !(12.0..12.145).contains(at));
        let found = figures(&arrivals(rows.map(|at| (at, u32::from(at > 12.1)))), &[12.0], 0).unwrap();
        assert!((found.usual_gap_ms - 10.0).abs() < 1e-6);
        assert!((found.pauses_ms[0] - 150.0).abs() < 1.0, "{found:?}");
        assert!((found.until_new_rows_ms[0] - 150.0).abs() < 1.0, "{found:?}");
        assert!(figures(&arrivals([(0.0, 0)]), &[12.0], 0).is_err());
    }
}
