//! Events as Arrow batches: one schema per kind, times as `timestamp(3)`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::error::ArrowError;

use crate::event::{Auction, Bid, Event, Kind, Person};

/// Events, sorted by kind.
#[derive(Debug, Default)]
pub struct Rows {
    persons: Vec<Person>,
    auctions: Vec<Auction>,
    bids: Vec<Bid>,
}

impl Rows {
    /// Takes an event.
    pub fn push(&mut self, event: Event) {
        match event {
            Event::Person(person) => self.persons.push(person),
            Event::Auction(auction) => self.auctions.push(auction),
            Event::Bid(bid) => self.bids.push(bid),
        }
    }

    /// The events of one kind.
    ///
    /// # Errors
    /// None: the columns are as long as one another.
    pub fn batch(&self, kind: Kind) -> Result<RecordBatch, ArrowError> {
        match kind {
            Kind::Person => persons(&self.persons),
            Kind::Auction => auctions(&self.auctions),
            Kind::Bid => bids(&self.bids),
        }
    }
}

fn numbers<T>(of: &[T], value: impl Fn(&T) -> i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(of.iter().map(value)))
}

fn times<T>(of: &[T], value: impl Fn(&T) -> i64) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(of.iter().map(value)))
}

fn texts<T>(of: &[T], value: impl Fn(&T) -> &str) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(of.iter().map(value)))
}

fn persons(of: &[Person]) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter([
        ("id", numbers(of, |p| p.id)),
        ("name", texts(of, |p| &p.name)),
        ("email_address", texts(of, |p| &p.email_address)),
        ("credit_card", texts(of, |p| &p.credit_card)),
        ("city", texts(of, |p| p.city)),
        ("state", texts(of, |p| p.state)),
        ("date_time", times(of, |p| p.date_time)),
        ("extra", texts(of, |p| &p.extra)),
    ])
}

fn auctions(of: &[Auction]) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter([
        ("id", numbers(of, |a| a.id)),
        ("item_name", texts(of, |a| &a.item_name)),
        ("description", texts(of, |a| &a.description)),
        ("initial_bid", numbers(of, |a| a.initial_bid)),
        ("reserve", numbers(of, |a| a.reserve)),
        ("date_time", times(of, |a| a.date_time)),
        ("expires", times(of, |a| a.expires)),
        ("seller", numbers(of, |a| a.seller)),
        ("category", numbers(of, |a| a.category)),
        ("extra", texts(of, |a| &a.extra)),
    ])
}

fn bids(of: &[Bid]) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter([
        ("auction", numbers(of, |b| b.auction)),
        ("bidder", numbers(of, |b| b.bidder)),
        ("price", numbers(of, |b| b.price)),
        ("channel", texts(of, |b| &b.channel)),
        ("url", texts(of, |b| &b.url)),
        ("date_time", times(of, |b| b.date_time)),
        ("extra", texts(of, |b| &b.extra)),
    ])
}
