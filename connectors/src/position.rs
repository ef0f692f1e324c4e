//! Where a source is: one number per partition.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// For every partition the position at which reading goes on: the number *after* the last message taken.
///
/// What the number counts is the source's business: a Kafka offset, a byte offset in a file, a sequence number in the
/// ingest log or of a generator. Partition names are stable over restarts (`orders/3`, a file's path).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Positions(pub BTreeMap<String, u64>);

impl Positions {
    /// The position of `partition`, if it is known.
    pub fn get(&self, partition: &str) -> Option<u64> {
        self.0.get(partition).copied()
    }

    /// Sets the position of `partition`.
    pub fn set(&mut self, partition: &str, next: u64) {
        match self.0.get_mut(partition) {
            Some(position) => *position = next,
            None => {
                self.0.insert(partition.to_owned(), next);
            }
        }
    }
}
