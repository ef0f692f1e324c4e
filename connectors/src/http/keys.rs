//! Idempotency keys: how a server can tell that it has seen a request before.

use std::collections::HashMap;

use bytes::Bytes;
use reqwest::Url;
use sha2::{Digest, Sha256};

use crate::error::ConnectorError;

/// So many keys of one epoch are remembered; see [`Keys`].
const KEYS_MAX: usize = 100_000;

/// Makes the keys by which a server can tell that it has seen a request before.
///
/// A key is made from the pipeline, the sink, the epoch, the URL, the rows, and how often this epoch had the same rows
/// before. So it stays the same over retries, and after a restart that sends the same rows in the same batches; and two
/// requests that happen to say the same are not taken for one.
pub(crate) struct Keys {
    owner: String,
    epoch: u64,
    seen: HashMap<[u8; 16], u32>,
}

impl Keys {
    pub(crate) fn new(owner: String) -> Self {
        Self { owner, epoch: 0, seen: HashMap::new() }
    }

    pub(crate) fn restore(&mut self, state: Option<&[u8]>) -> Result<(), ConnectorError> {
        if let Some(state) = state {
            let epoch = state.try_into().map_err(|_| {
                ConnectorError::fatal(format!("the state of {} has {} bytes instead of 8", self.owner, state.len()))
            })?;
            self.epoch = u64::from_le_bytes(epoch);
        }
        Ok(())
    }

    pub(crate) fn epoch_ended(&mut self) -> Vec<u8> {
        self.epoch = self.epoch.wrapping_add(1);
        self.seen.clear();
        self.epoch.to_le_bytes().to_vec()
    }

    pub(crate) fn next(&mut self, url: &Url, rows: &[Bytes]) -> String {
        let content = digest([url.as_str().as_bytes()].into_iter().chain(rows.iter().map(Bytes::as_ref)));
        if self.seen.len() >= KEYS_MAX {
            // Counting starts over under a number of its own, which a repetition reaches at the same row.
            self.seen.clear();
            self.epoch = self.epoch.wrapping_add(1);
        }
        let before = self.seen.entry(content).or_default();
        let key =
            digest([self.owner.as_bytes(), &self.epoch.to_le_bytes(), &before.to_le_bytes(), &content].into_iter());
        *before = before.wrapping_add(1);
        key.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The first half of the SHA-256 of `parts`, each with its length, so that no two lists of parts look the same.
fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut half = [0; 16];
    half.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    half
}
