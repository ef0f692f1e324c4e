//! What happens in an online auction.

use std::io::{Result, Write};

/// Someone who sells or bids.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the benchmark's own names")]
pub struct Person {
    pub id: i64,
    pub name: String,
    pub email_address: String,
    pub credit_card: String,
    pub city: &'static str,
    pub state: &'static str,
    /// Milliseconds since 1970.
    pub date_time: i64,
    pub extra: String,
}

/// Something for sale.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the benchmark's own names")]
pub struct Auction {
    pub id: i64,
    pub item_name: String,
    pub description: String,
    pub initial_bid: i64,
    pub reserve: i64,
    /// Milliseconds since 1970.
    pub date_time: i64,
    /// When it closes, in milliseconds since 1970.
    pub expires: i64,
    /// A person's id.
    pub seller: i64,
    pub category: i64,
    pub extra: String,
}

/// An offer of a person for an auction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the benchmark's own names")]
pub struct Bid {
    /// An auction's id.
    pub auction: i64,
    /// A person's id.
    pub bidder: i64,
    /// In cents.
    pub price: i64,
    pub channel: String,
    pub url: String,
    /// Milliseconds since 1970.
    pub date_time: i64,
    pub extra: String,
}

/// One of the three.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "their types say what they are")]
pub enum Event {
    Person(Person),
    Auction(Auction),
    Bid(Bid),
}

/// Of which kind an event is: each kind is a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "their names say what they are")]
pub enum Kind {
    Person,
    Auction,
    Bid,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Person, Self::Auction, Self::Bid];

    /// The stream's name: `person`, `auction`, `bid`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Auction => "auction",
            Self::Bid => "bid",
        }
    }
}

impl Event {
    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Person(_) => Kind::Person,
            Self::Auction(_) => Kind::Auction,
            Self::Bid(_) => Kind::Bid,
        }
    }

    /// Writes it as a JSON object, without an end of line. (No text of an event has anything that JSON would escape.)
    ///
    /// # Errors
    /// Those of `out`.
    pub fn json(&self, out: &mut impl Write) -> Result<()> {
        match self {
            Self::Person(p) => write!(
                out,
                r#"{{"id":{},"name":"{}","email_address":"{}","credit_card":"{}","city":"{}","state":"{}","date_time":{},"extra":"{}"}}"#,
                p.id, p.name, p.email_address, p.credit_card, p.city, p.state, p.date_time, p.extra
            ),
            Self::Auction(a) => write!(
                out,
                r#"{{"id":{},"item_name":"{}","description":"{}","initial_bid":{},"reserve":{},"date_time":{},"expires":{},"seller":{},"category":{},"extra":"{}"}}"#,
                a.id,
                a.item_name,
                a.description,
                a.initial_bid,
                a.reserve,
                a.date_time,
                a.expires,
                a.seller,
                a.category,
                a.extra
            ),
            Self::Bid(b) => write!(
                out,
                r#"{{"auction":{},"bidder":{},"price":{},"channel":"{}","url":"{}","date_time":{},"extra":"{}"}}"#,
                b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, b.extra
            ),
        }
    }
}
