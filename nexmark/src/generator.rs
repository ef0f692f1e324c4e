//! Events by their numbers.

use crate::event::{Auction, Bid, Event, Person};
use crate::random::Random;

/// Of so many events …
const EVENTS_PER_ROUND: u64 = 50;
/// … the first so many are persons …
const PERSONS_PER_ROUND: u64 = 1;
/// … the next so many auctions, and the rest bids.
const AUCTIONS_PER_ROUND: u64 = 3;

/// Ids start here.
const FIRST_ID: u64 = 1000;
/// Categories start here, and there are so many.
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;

/// Bids go to one of the newest so many auctions, or to one of the next few, which are yet to come.
const AUCTIONS_IN_FLIGHT: u64 = 100;
const AUCTIONS_AHEAD: u64 = 10;
/// The same of sellers and bidders.
const PERSONS_ACTIVE: u64 = 1000;
const PERSONS_AHEAD: u64 = 10;

/// One in so many bids does not go to the hot auction; it changes every so many auctions.
const COLD_AUCTION_ONE_IN: u64 = 2;
const HOT_AUCTION_EVERY: u64 = 100;
/// One in so many sellers and bidders is not the hot one; it changes every so many persons.
const COLD_PERSON_ONE_IN: u64 = 4;
const HOT_PERSON_EVERY: u64 = 100;
/// One in so many bids does not come by a hot channel; there are so many cold ones.
const COLD_CHANNEL_ONE_IN: u64 = 2;
const CHANNELS: u64 = 10_000;

/// About how many bytes an event's columns have: `extra` fills them up.
const PERSON_BYTES: usize = 200;
const AUCTION_BYTES: usize = 500;
const BID_BYTES: usize = 100;

const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];

/// Which stream of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Streams of different seeds differ in everything but their shape.
    pub seed: u64,
    /// The time of the first event, in milliseconds since 1970.
    pub start_ms: i64,
    /// How many events a second of event time has.
    pub events_per_second: u64,
    /// Events come out of order within groups of so many. 1: all are in order.
    pub disorder: u64,
}

impl Default for Config {
    fn default() -> Self {
        // Two minutes before midnight: more than one day is seen.
        Self { seed: 1, start_ms: 1_767_311_880_000, events_per_second: 10_000, disorder: 1 }
    }
}

/// Makes events.
#[derive(Debug, Clone)]
pub struct Generator {
    config: Config,
    /// Places in a group of disorder are so far apart from one event to the next; it has no divisor with the group's size.
    stride: u64,
}

impl Generator {
    /// A generator of the stream that `config` describes.
    pub fn new(config: Config) -> Self {
        let group = config.disorder.max(1);
        // About the golden section of the group, which spreads neighbours well.
        let near = group * 1000 / 1618;
        let stride = (near.max(1)..=group).find(|stride| divisor(*stride, group) == 1).unwrap_or(1);
        Self { config, stride }
    }

    /// The number of the event that comes at the place `place` of the stream.
    pub fn number(&self, place: u64) -> u64 {
        let group = self.config.disorder.max(1);
        place / group * group + place % group * self.stride % group
    }

    /// The event that comes at the place `place` of the stream.
    pub fn at(&self, place: u64) -> Event {
        self.event(self.number(place))
    }

    /// The event `number`, by its time.
    pub fn event(&self, number: u64) -> Event {
        let mut random = Random::new(self.config.seed, number);
        match number % EVENTS_PER_ROUND {
            offset if offset < PERSONS_PER_ROUND => Event::Person(self.person(number, &mut random)),
            offset if offset < PERSONS_PER_ROUND + AUCTIONS_PER_ROUND => {
                Event::Auction(self.auction(number, &mut random))
            }
            _ => Event::Bid(self.bid(number, &mut random)),
        }
    }

    /// The time of the event `number`, in milliseconds since 1970.
    pub fn time_ms(&self, number: u64) -> i64 {
        let since = u128::from(number) * 1000 / u128::from(self.config.events_per_second.max(1));
        self.config.start_ms + since as i64
    }

    /// How far an event may be behind the newest one before it, in milliseconds.
    pub fn disorder_ms(&self) -> i64 {
        self.time_ms(self.config.disorder) - self.config.start_ms
    }

    fn person(&self, number: u64, random: &mut Random) -> Person {
        let (first, last) = (random.choose(&FIRST_NAMES), random.choose(&LAST_NAMES));
        let name = format!("{first} {last}");
        let email_address = format!("{}@{}.com", random.letters(7), random.letters(5));
        let card: Vec<String> = (0..4).map(|_| format!("{:04}", random.below(10_000))).collect();
        let (city, state) = (random.choose(&CITIES), random.choose(&STATES));
        let bytes = 16 + name.len() + email_address.len() + 19 + city.len() + state.len();
        Person {
            id: (FIRST_ID + persons_until(number) - 1) as i64,
            name,
            email_address,
            credit_card: card.join(" "),
            city,
            state,
            date_time: self.time_ms(number),
            extra: padding(random, PERSON_BYTES, bytes),
        }
    }

    fn auction(&self, number: u64, random: &mut Random) -> Auction {
        let persons = persons_until(number);
        let seller = match random.below(COLD_PERSON_ONE_IN) {
            0 => active_person(persons, random),
            _ => (persons - 1) / HOT_PERSON_EVERY * HOT_PERSON_EVERY,
        };
        let initial_bid = price(random);
        let length = 5 + random.below(15) as usize;
        let (item_name, description) = (random.words(length), random.words(length * 5));
        let bytes = 64 + item_name.len() + description.len();
        let date_time = self.time_ms(number);
        Auction {
            id: (FIRST_ID + auctions_until(number) - 1) as i64,
            item_name,
            description,
            initial_bid,
            reserve: initial_bid + price(random),
            date_time,
            expires: date_time + 1 + random.below(self.lifetime_ms_max()) as i64,
            seller: (FIRST_ID + seller) as i64,
            category: (FIRST_CATEGORY + random.below(CATEGORIES)) as i64,
            extra: padding(random, AUCTION_BYTES, bytes),
        }
    }

    fn bid(&self, number: u64, random: &mut Random) -> Bid {
        let (persons, auctions) = (persons_until(number), auctions_until(number));
        let auction = match random.below(COLD_AUCTION_ONE_IN) {
            0 => {
                let oldest = auctions.saturating_sub(AUCTIONS_IN_FLIGHT);
                oldest + random.below(auctions - oldest + AUCTIONS_AHEAD)
            }
            _ => (auctions - 1) / HOT_AUCTION_EVERY * HOT_AUCTION_EVERY,
        };
        let bidder = match random.below(COLD_PERSON_ONE_IN) {
            0 => active_person(persons, random),
            // Not the hot seller, but the one after.
            _ => (persons - 1) / HOT_PERSON_EVERY * HOT_PERSON_EVERY + 1,
        };
        let price = price(random);
        let (channel, url) = match random.below(COLD_CHANNEL_ONE_IN) {
            0 => {
                let number = random.below(CHANNELS);
                // A channel's address is always the same.
                (format!("channel-{number}"), address(&mut Random::new(!self.config.seed, number), Some(number)))
            }
            _ => {
                let hot = random.below(HOT_CHANNELS.len() as u64);
                (
                    HOT_CHANNELS[hot as usize].to_owned(),
                    address(&mut Random::new(!self.config.seed, CHANNELS + hot), None),
                )
            }
        };
        let bytes = 32 + channel.len() + url.len();
        Bid {
            auction: (FIRST_ID + auction) as i64,
            bidder: (FIRST_ID + bidder) as i64,
            price,
            channel,
            url,
            date_time: self.time_ms(number),
            extra: padding(random, BID_BYTES, bytes),
        }
    }

    /// Auctions are open for less: twice the time in which as many auctions come as are in flight.
    pub fn lifetime_ms_max(&self) -> u64 {
        let events = AUCTIONS_IN_FLIGHT * EVENTS_PER_ROUND / AUCTIONS_PER_ROUND;
        (2 * events * 1000 / self.config.events_per_second.max(1)).max(1)
    }
}

/// How many persons there are once the event `number` has happened.
fn persons_until(number: u64) -> u64 {
    number / EVENTS_PER_ROUND * PERSONS_PER_ROUND + (number % EVENTS_PER_ROUND + 1).min(PERSONS_PER_ROUND)
}

/// How many auctions there are once the event `number` has happened.
fn auctions_until(number: u64) -> u64 {
    let of_round = (number % EVENTS_PER_ROUND + 1).saturating_sub(PERSONS_PER_ROUND).min(AUCTIONS_PER_ROUND);
    number / EVENTS_PER_ROUND * AUCTIONS_PER_ROUND + of_round
}

/// One of the newest persons, or one of the next few.
fn active_person(persons: u64, random: &mut Random) -> u64 {
    let active = persons.min(PERSONS_ACTIVE);
    persons - active + random.below(active + PERSONS_AHEAD)
}

/// Prices are of all orders of magnitude from 1.00 to 999,000.00, in cents, each as often as the others.
fn price(random: &mut Random) -> i64 {
    let digits = 100 + random.below(900);
    (digits * 10_u64.pow(random.below(6) as u32)) as i64
}

/// The address of a page in three folders.
fn address(random: &mut Random, channel: Option<u64>) -> String {
    let folders: Vec<String> = (0..3).map(|_| random.letters(5)).collect();
    // One channel in ten does not say so in its address.
    let channel = channel.filter(|number| number % 10 != 0).map(|n| format!("&channel_id={n}")).unwrap_or_default();
    format!("https://www.nexmark.com/{}/item.htm?query=1{channel}", folders.join("/"))
}

/// Letters that bring an event of `bytes` bytes to about `wanted`: a fifth more or less.
fn padding(random: &mut Random, wanted: usize, bytes: usize) -> String {
    let fifth = wanted / 5;
    let wanted = wanted - fifth + random.below(2 * fifth as u64 + 1) as usize;
    random.letters(wanted.saturating_sub(bytes))
}

/// The greatest common divisor.
fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::event::Kind;

    fn generator(disorder: u64) -> Generator {
        Generator::new(Config { events_per_second: 100, disorder, ..Config::default() })
    }

    #[test]
    fn of_fifty_events_one_is_a_person_and_three_are_auctions() {
        let mut counts: BTreeMap<Kind, u64> = BTreeMap::new();
        (0..5000).for_each(|number| *counts.entry(generator(1).event(number).kind()).or_default() += 1);
        assert_eq!(counts, [(Kind::Person, 100), (Kind::Auction, 300), (Kind::Bid, 4600)].into());
    }

    #[test]
    fn an_event_depends_on_its_number_alone() {
        let (ordered, mixed) = (generator(1), generator(70));
        for place in 0..1000 {
            assert_eq!(mixed.at(place), ordered.event(mixed.number(place)));
        }
        assert_ne!(ordered.event(7), Generator::new(Config { seed: 2, ..Config::default() }).event(7));
    }

    #[test]
    fn disorder_moves_events_within_their_group_and_loses_none() {
        for disorder in [1, 2, 7, 50, 100, 1024] {
            let generator = generator(disorder);
            let numbers: Vec<u64> = (0..disorder * 3).map(|place| generator.number(place)).collect();
            assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
            assert!(numbers.iter().zip(0..).all(|(number, place)| number / disorder == place / disorder));
            assert_eq!(numbers.is_sorted(), disorder < 3, "{disorder}");
        }
    }

    #[test]
    fn ids_count_up_and_references_are_near_them() {
        let generator = generator(1);
        let (mut persons, mut auctions) = (999, 999);
        let (mut hot, mut bids) = (0, 0);
        for number in 0..100_000 {
            match generator.event(number) {
                Event::Person(person) => {
                    persons += 1;
                    assert_eq!(person.id, persons);
                }
                Event::Auction(auction) => {
                    auctions += 1;
                    assert_eq!(auction.id, auctions);
                    assert!((persons - 1000..=persons + 10).contains(&auction.seller));
                    assert!((10..15).contains(&auction.category));
                    assert!(auction.expires > auction.date_time && auction.reserve > auction.initial_bid);
                    assert!(auction.expires - auction.date_time <= generator.lifetime_ms_max() as i64);
                }
                Event::Bid(bid) => {
                    assert!((auctions - 200..=auctions + 10).contains(&bid.auction), "{bid:?}");
                    assert!((1000..=persons + 10).contains(&bid.bidder));
                    assert!((100..100_000_000).contains(&bid.price));
                    bids += 1;
                    hot += u32::from((bid.auction - 1000) % 100 == 0);
                }
            }
        }
        let share = f64::from(hot) / f64::from(bids);
        assert!((0.49..0.53).contains(&share), "{share}");
    }

    #[test]
    fn json_has_the_columns_of_the_benchmark() {
        let line = |number: u64| {
            let mut line = Vec::new();
            generator(1).event(number).json(&mut line).unwrap();
            serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&line).unwrap()
        };
        let columns = |number: u64| line(number).keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(columns(0), "id name email_address credit_card city state date_time extra");
        let auction = "id item_name description initial_bid reserve date_time expires seller category extra";
        assert_eq!(columns(1), auction);
        assert_eq!(columns(4), "auction bidder price channel url date_time extra");
    }
}
