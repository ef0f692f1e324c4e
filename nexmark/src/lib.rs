//! The events of Nexmark: a benchmark of queries over the streams of an online auction.
//!
//! The benchmark is that of Tucker, Tufte, Papadimos and Maier ("NEXMark: a benchmark for queries over data streams"),
//! with the proportions and columns that Apache Beam and Apache Flink have since given it: of 50 events 1 is a new
//! [`Person`], 3 are new [`Auction`]s and 46 are [`Bid`]s. Half of the bids go to one hot auction, three quarters of the
//! auctions and bids come from hot sellers and bidders.
//!
//! This generator is written from those descriptions. Every event is a function of its number and of the [`Config`], so
//! any part of a stream can be made by itself, and twice the same. Its numbers are not those of other generators: rates
//! may be compared with theirs, answers may not.

pub mod event;
pub mod feed;
pub mod generator;
mod random;
pub mod rows;

pub use event::{Auction, Bid, Event, Person};
pub use generator::{Config, Generator};
