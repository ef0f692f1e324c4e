//! The messages that all measurements use: one row per millisecond of event time, in order, 9 fields, about 146 bytes of
//! JSON, 1,000 devices whose temperatures walk at random; and what the works must make of them.
//!
//! Always the same for the same number: the seed is fixed, and the generator is the same on every machine.

use std::collections::VecDeque;
use std::io::Write;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The time of the first message, in milliseconds since 1970: the start of a window of 10 s.
pub(crate) const FIRST_MS: i64 = 1_700_000_000_000;
/// So many devices.
pub(crate) const DEVICES: usize = 1_000;
/// The length of a window of work (b).
pub(crate) const WINDOW_MS: u64 = 10_000;
/// Work (a) takes rows above this temperature, in thousandths of a degree.
const WARM_MILLI: i64 = 25_000;
/// Work (c) takes the average over so many rows of a device.
const ROLLING_ROWS: usize = 10;
const SEED: u64 = 7;

/// Writes messages, one after another.
#[derive(Debug)]
pub(crate) struct Messages {
    random: ChaCha8Rng,
    /// By device.
    temperatures: Vec<f64>,
    next: u64,
}

/// What a message says, as far as results depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its number, from 0: its event time is so many milliseconds after the first.
    pub(crate) number: u64,
    pub(crate) device: usize,
    /// As written: rounded to thousandths.
    pub(crate) temperature_milli: i64,
}

impl Message {
    /// Whether work (a) lets it through.
    pub(crate) fn is_warm(&self) -> bool {
        self.temperature_milli > WARM_MILLI
    }

    /// The device's name, which is the message's key.
    pub(crate) fn key(&self) -> String {
        format!("dev-{:04}", self.device)
    }
}

impl Messages {
    pub(crate) fn new() -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let temperatures = (0..DEVICES).map(|_| random.random_range(20.0..30.0)).collect();
        Self { random, temperatures, next: 0 }
    }

    /// Appends the next message's JSON to `json`.
    pub(crate) fn write_next(&mut self, json: &mut Vec<u8>) -> Message {
        let number = self.next;
        self.next += 1;
        let device = self.random.random_range(0..DEVICES);
        let temperature = &mut self.temperatures[device];
        *temperature += self.random.random_range(-0.5..0.5);
        let temperature_milli = (*temperature * 1e3).round() as i64;
        let (humidity, pressure) = (self.random.random_range(40.0..60.0), self.random.random_range(1000.0..1030.0));
        write!(
            json,
            r#"{{"ts":{ts},"device":"dev-{device:04}","site":"plant-{site}","temp":{temp:.3},"humidity":{humidity:.2},"#,
            ts = FIRST_MS + number as i64,
            site = device % 7,
            temp = temperature_milli as f64 / 1e3,
        )
        .and_then(|()| {
            write!(
                json,
                r#""pressure":{pressure:.2},"seq":{number},"status":"{status}","fw":"1.{fw}.0"}}"#,
                status = if number.is_multiple_of(50) { "warn" } else { "ok" },
                fw = device % 10,
            )
        })
        .expect("a vector takes whatever is written to it");
        Message { number, device, temperature_milli }
    }
}

/// What comes out of the works, counted while the messages are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expectation {
    pub(crate) messages: u64,
    /// After every [`Expectation::STEP`] messages: how many of those so far are warm.
    warm_so_far: Vec<u64>,
    pub(crate) warm: u64,
    pub(crate) warm_sum_milli: i64,
    closed: Vec<Window>,
    open: Vec<Group>,
    /// By device: the newest temperatures, in thousandths.
    recent: Vec<VecDeque<i64>>,
    /// The sum of the rolling averages after each message, in thousandths.
    averages_so_far: Vec<f64>,
}

/// Rows of work (c).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rolling {
    pub(crate) rows: u64,
    /// The sum of the averages, in thousandths.
    pub(crate) sum_milli: f64,
}

/// All groups of one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) groups: u64,
    pub(crate) rows: u64,
    /// The sum of all temperatures, in thousandths: of the averages, each times its count.
    pub(crate) sum_milli: i64,
    /// The sum of the groups' highest temperatures, in thousandths.
    pub(crate) highest_milli: i64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Group {
    rows: u64,
    sum_milli: i64,
    highest_milli: i64,
}

impl Expectation {
    const STEP: u64 = 1_000;

    /// Takes the next message into account.
    pub(crate) fn add(&mut self, message: &Message) {
        if message.number > 0 && message.number.is_multiple_of(WINDOW_MS) {
            self.close();
        }
        self.open.resize(DEVICES, Group::default());
        let group = &mut self.open[message.device];
        let milli = message.temperature_milli;
        group.highest_milli = if group.rows == 0 { milli } else { group.highest_milli.max(milli) };
        group.rows += 1;
        group.sum_milli += milli;
        self.recent.resize_with(DEVICES, VecDeque::new);
        let recent = &mut self.recent[message.device];
        recent.push_back(milli);
        if recent.len() > ROLLING_ROWS {
            recent.pop_front();
        }
        let average = recent.iter().sum::<i64>() as f64 / recent.len() as f64;
        self.averages_so_far.push(self.averages_so_far.last().unwrap_or(&0.0) + average);
        self.messages += 1;
        if message.is_warm() {
            self.warm += 1;
            self.warm_sum_milli += milli;
        }
        if self.messages.is_multiple_of(Self::STEP) {
            self.warm_so_far.push(self.warm);
        }
    }

    fn close(&mut self) {
        let mut window = Window::default();
        for group in std::mem::take(&mut self.open).into_iter().filter(|group| group.rows > 0) {
            window.groups += 1;
            window.rows += group.rows;
            window.sum_milli += group.sum_milli;
            window.highest_milli += group.highest_milli;
        }
        self.closed.push(window);
    }

    /// The windows that a watermark so far behind the last message closes, taken together.
    pub(crate) fn windows(&self, watermark_ms: u64) -> Window {
        let watermark = (self.messages.saturating_sub(1)).saturating_sub(watermark_ms);
        let count = (watermark / WINDOW_MS) as usize;
        self.closed.iter().take(count).fold(Window::default(), |all, one| Window {
            groups: all.groups + one.groups,
            rows: all.rows + one.rows,
            sum_milli: all.sum_milli + one.sum_milli,
            highest_milli: all.highest_milli + one.highest_milli,
        })
    }

    /// The rolling averages at the rows before a watermark so far behind the last message.
    pub(crate) fn rolling(&self, watermark_ms: u64) -> Rolling {
        let rows = self.messages.saturating_sub(1).saturating_sub(watermark_ms);
        let last = usize::try_from(rows).ok().and_then(|rows| rows.checked_sub(1));
        Rolling { rows, sum_milli: last.map_or(0.0, |last| self.averages_so_far[last]) }
    }

    /// Where so many warm rows came out, at least so many messages have been worked on.
    pub(crate) fn messages_behind(&self, warm_out: u64) -> u64 {
        self.warm_so_far.partition_point(|warm| *warm <= warm_out) as u64 * Self::STEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_shape_and_size_of_the_method() {
        let (mut messages, mut json) = (Messages::new(), Vec::new());
        let (mut bytes, mut warm) = (0, 0);
        for number in 0..100_000 {
            json.clear();
            let message = messages.write_next(&mut json);
            bytes += json.len();
            warm += u32::from(message.is_warm());
            if number % 10_000 == 17 {
                let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
                assert_eq!(value["ts"], FIRST_MS + number);
                assert_eq!(value["seq"], number);
                assert_eq!(value["device"], message.key());
                assert_eq!((value["temp"].as_f64().unwrap() * 1e3).round() as i64, message.temperature_milli);
                let fields: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
                assert_eq!(fields.join(" "), "ts device site temp humidity pressure seq status fw");
            }
        }
        assert!((142..=150).contains(&(bytes / 100_000)), "{} bytes", bytes / 100_000);
        assert!((45_000..55_000).contains(&warm), "{warm} warm rows");
    }

    #[test]
    fn the_same_number_is_always_the_same_message() {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        Messages::new().write_next(&mut one);
        Messages::new().write_next(&mut other);
        assert_eq!(one, other);
    }

    fn message(number: u64, device: usize, temperature_milli: i64) -> Message {
        Message { number, device, temperature_milli }
    }

    #[test]
    fn windows_are_expected_once_the_watermark_passes_their_end() {
        let mut expectation = Expectation::default();
        for number in 0..20_001 {
            expectation.add(&message(number, (number % 2) as usize, if number % 2 == 0 { -1_000 } else { 26_000 }));
        }
        let one = Window { groups: 2, rows: 10_000, sum_milli: 5_000 * 25_000, highest_milli: 25_000 };
        assert_eq!(expectation.windows(1), one);
        assert_eq!(expectation.windows(0).groups, 4);
        assert_eq!(expectation.windows(20_000), Window::default());
        assert_eq!((expectation.warm, expectation.warm_sum_milli), (10_000, 10_000 * 26_000));
    }

    #[test]
    fn averages_roll_over_the_last_rows_of_a_device_and_wait_for_the_watermark() {
        let mut expectation = Expectation::default();
        // Of two devices, each with a temperature of 1, 2, 3, … degrees.
        for number in 0..25 {
            expectation.add(&message(number, (number % 2) as usize, 1_000 * (number as i64 / 2 + 1)));
        }
        // The newest row is 24; those before 24 - 1 are out: twelve of one device, eleven of the other.
        let rolling = expectation.rolling(1);
        assert_eq!(rolling.rows, 23);
        let sum = |rows: usize| (1..=rows).map(|row| (row.saturating_sub(10) + 1 + row) as f64 / 2.0).sum::<f64>();
        assert_eq!(rolling.sum_milli, 1_000.0 * (sum(12) + sum(11)));
        assert_eq!(expectation.rolling(100), Rolling::default());
    }

    #[test]
    fn rows_out_say_how_many_messages_were_worked_on() {
        let mut expectation = Expectation::default();
        for number in 0..4_000 {
            expectation.add(&message(number, 0, if number < 2_000 { 26_000 } else { 24_000 }));
        }
        assert_eq!(expectation.messages_behind(0), 0);
        assert_eq!(expectation.messages_behind(999), 0);
        assert_eq!(expectation.messages_behind(1_500), 1_000);
        assert_eq!(expectation.messages_behind(2_000), 4_000);
    }
}
